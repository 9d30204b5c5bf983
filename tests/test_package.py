"""What holds for the package as a whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Names by which code could recognise a dataset. Cards, recipes, docs and tests are where they belong.
DATASETS = re.compile(
    r"cityscapes|camvid|ade20k|mapillary|idd_lite|\bidd\b|coco128|coco[-_ ]?stuff|sun ?rgb-?d|bdd(100k)?\b|"
    r"wilddash|\bkitti\b|scannet|pascal|\bvoc\b|furniture",
    re.IGNORECASE,
)


def _python_files():
    return sorted((ROOT / "manyseg").rglob("*.py"))


@pytest.mark.parametrize("path", _python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_dataset_is_named_in_code(path):
    code = path.read_text(encoding="utf-8")
    found = [f"{n}: {line.strip()}" for n, line in enumerate(code.splitlines(), 1) if DATASETS.search(line)]
    assert not found, f"{path.name} names a dataset: {found}"


def test_importing_the_package_is_quick_because_it_loads_no_framework():
    code = (
        "import sys, manyseg, manyseg.cli, manyseg.labels; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.split() == ["False", "False"]


def test_no_file_of_the_project_is_large():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False).stdout.split(
        "\n"
    )
    large = [p for p in tracked if p and (ROOT / p).is_file() and (ROOT / p).stat().st_size > 1 << 20]
    assert not large


def _entries(folder):
    """What a person would call the parts of a folder: its packages, and its modules but for the package's own door."""
    inside = [p for p in folder.iterdir() if not p.name.startswith(("_", "."))]
    return {f"{p.name}/" for p in inside if p.is_dir()} | {p.name for p in inside if p.suffix == ".py"}


def test_the_tree_in_the_readme_names_every_folder_and_nothing_else():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("## The tree") : text.index("## Methods")]
    inside = set(re.findall(r"^      ([\w.]+/?) +\S", tree, re.MULTILINE))
    assert inside == _entries(ROOT / "manyseg")
    beside = set(re.findall(r"^    ([\w.]+/)", tree, re.MULTILINE))
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    folders = {f"{p.split('/')[0]}/" for p in tracked if "/" in p and not p.startswith(".")}
    assert beside == folders


def test_the_tests_mirror_the_package():
    packages = {name for name in _entries(ROOT / "manyseg") if name.endswith("/")} - {"templates/"}
    folders = {name for name in _entries(ROOT / "tests") if name.endswith("/")}
    assert folders <= packages
    assert packages - folders <= {"inference/"}
