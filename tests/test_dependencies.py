"""The dependencies that pyproject declares are those that the package imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _names(requirements):
    return {_canonical(re.match(r"[\w.-]+", r).group()) for r in requirements}


def _canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported():
    """Map every third-party module that the package imports to the files that do so."""
    out = {}
    for path in (ROOT / "manyseg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            for name in {n.split(".")[0] for n in names} - {"manyseg", *sys.stdlib_module_names}:
                out.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return out


IMPORTED = _imported()
DISTRIBUTIONS = packages_distributions()


def _distributions(module):
    return {_canonical(d) for d in DISTRIBUTIONS.get(module, [module])}


@pytest.mark.parametrize("module", sorted(IMPORTED))
def test_every_import_of_the_package_is_declared(module):
    extras = PROJECT["optional-dependencies"]
    declared = _names(PROJECT["dependencies"]) | _names(r for name, e in extras.items() if name != "dev" for r in e)
    assert _distributions(module) & declared, f"pyproject lacks what provides {module}, for {IMPORTED[module]}"


@pytest.mark.parametrize("name", sorted(_names(PROJECT["dependencies"])))
def test_every_dependency_is_imported_by_the_package(name):
    assert any(name in _distributions(module) for module in IMPORTED), f"no file of the package imports {name}"
