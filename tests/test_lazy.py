"""Names that are loaded when they are first used."""

import sys
from types import ModuleType

import pytest

import manyseg.relate
from manyseg.lazy import first_use


def test_a_name_is_loaded_once_under_its_own_name_or_another(monkeypatch):
    package = ModuleType("package")
    monkeypatch.setitem(sys.modules, "package", package)
    package.__getattr__ = first_use("package", {"sqrt": "math", "root": "math:isqrt"})
    assert package.sqrt(9.0) == 3.0
    assert package.root(10) == 3
    del package.__getattr__
    assert package.root(17) == 4  # It is the package's own now.


def test_an_unknown_name_is_an_error_that_names_the_package():
    with pytest.raises(AttributeError, match=r"module 'manyseg\.relate' has no attribute 'proposed'"):
        manyseg.relate.proposed  # noqa: B018


@pytest.mark.parametrize("name", manyseg.relate.__all__)
def test_every_public_name_is_there(name):
    assert getattr(manyseg.relate, name) is not None
