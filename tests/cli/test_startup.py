"""What answers without a network loads no deep-learning framework, nor anything else that takes long to load."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]

HEAVY = (
    "accelerate",
    "jaxtyping",
    "jinja2",
    "manyseg.relate.proposal",
    "safetensors",
    "scipy",
    "timm",
    "torch",
    "torchvision",
    "transformers",
)
"""Each takes a tenth of a second of CPU, or many."""

CODE = f"""
import sys
from manyseg.cli import main
try:
    main()
finally:
    print(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)
"""

RECIPE = """
[data]
crop = [64, 64]
sets = [ {{ card = "{card}", root = ".", per_step = 1 }} ]
[model]
backbone = "tiny"
[method]
name = "multihead"
[train]
steps = 1
"""

CARD = """
name = "{name}"
image = "images/{{id}}.jpg"
mask = "masks/{{id}}.png"
encoding = "index"
splits = {{ train = "train.txt", val = "train.txt" }}
[classes]
road = 0
{other} = 1
"""


def run(folder, *arguments):
    """Run a command; return its exit code, what it printed, and its errors, the last of which lists what is loaded."""
    command = [sys.executable, "-c", CODE, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    return out.returncode, out.stdout, out.stderr.splitlines()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.toml").write_text(CARD.format(name="a", other="car"))
    (tmp_path / "b.toml").write_text(CARD.format(name="b", other="cars"))
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(card="a.toml"))
    (tmp_path / "train.txt").write_text("1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "train"),
        (["train", "--help"], "recipe"),
        (["data"], "segments"),
        (["labels", "a.toml", "b.toml", "--by", "names"], "a:car, b:cars"),
        (["labels", "recipe.toml", "--by", "names"], "car"),
    ],
    ids=["help", "help-of-a-verb", "cards", "labels-of-cards", "labels-of-a-recipe"],
)
def test_what_needs_no_network_loads_no_framework(folder, arguments, said):
    code, out, errors = run(folder, *arguments)
    proposal = "manyseg.relate.proposal" if "names" in arguments else ""
    assert (code, errors) == (0, [proposal])
    assert said in out


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("dat.workers=1", "dat: unknown key, did you mean 'data'"),
        ("data.corp=[1,1]", "data.corp: unknown key, did you mean 'crop'"),
        ("train.stepps=1", "train.stepps: unknown key, did you mean 'steps'"),
        ("test.flipp=true", "test.flipp: unknown key, did you mean 'flip'"),
        ("method.name=multihed", "method.name: 'multihed' is no method, did you mean 'multihead'"),
    ],
)
def test_a_typo_in_a_recipe_is_found_before_a_framework_is_loaded(folder, assignment, message):
    code, _, errors = run(folder, "train", "recipe.toml", "--set", assignment)
    assert code == 1
    assert message in errors[0]
    assert errors[1:] == [""]


def test_a_dataset_is_checked_without_a_framework(folder):
    code, out, errors = run(folder, "data", "a.toml", ".")
    assert code == 1
    assert "masks/1.png" in out
    assert errors[1:] == [""]


def test_a_folder_is_guessed_without_them(folder):
    for place, value in (("images", "RGB"), ("masks", "L")):
        (folder / "d" / place).mkdir(parents=True)
        for i in range(3):
            noise = np.random.default_rng(i).integers(0, 2, (16, 16, 3), np.uint8)
            picture = Image.fromarray(noise * 99 if value == "RGB" else np.zeros((16, 16), np.uint8) + (i > 0))
            picture.save(folder / "d" / place / f"{i}.png")
    code, out, errors = run(folder, "data", "--guess", "d")
    assert (code, errors[-1]) == (0, "")
    assert "grey masks" in out
