"""The page of every key is what the types say."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_reference_of_keys_is_generated_from_the_types_as_they_are():
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == module.reference(), "run: python docs/generate_reference.py"
