"""The check before training: every kind of fault at once, and what has not changed is not read again."""

import os

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_recipe

from manyseg.data import inspection, load
from manyseg.data.quick_check import cache_folder, quick_check
from manyseg.errors import UserError
from manyseg.runs.run import train_recipe

CARD = """
name = "street"
image = "images/{id}.png"
mask = "masks/{id}.png"
encoding = "index"
splits = { train = "train.txt", val = "val.txt" }
ignore = [255]
[classes]
road = 0
car = 1
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A dataset without a fault, 3 + 2 images, and a recipe."""
    monkeypatch.setenv("MANYSEG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "card.toml").write_text(CARD)
    (tmp_path / "recipe.toml").write_text(tiny_recipe("card", root="."))
    rng = np.random.default_rng(0)
    for name in ("t0", "t1", "t2", "v0", "v1"):
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)).save(tmp_path / f"images/{name}.png")
        mask(tmp_path, name)
    (tmp_path / "train.txt").write_text("t0\nt1\nt2")
    (tmp_path / "val.txt").write_text("v0\nv1")
    return tmp_path


def mask(root, name, value=1):
    plane = np.zeros((32, 40), np.uint8)
    plane[:, 20:] = value
    Image.fromarray(plane).save(root / f"masks/{name}.png")


def folders(root):
    return [load(root / "card.toml", root, split) for split in ("train", "val")]


@pytest.fixture
def read(monkeypatch):
    """The ids of images that were inspected."""
    seen, plain = [], inspection.inspect
    monkeypatch.setattr(
        inspection, "inspect", lambda folder, i, **o: (seen.append(folder.ids[i]), plain(folder, i, **o))[1]
    )
    return seen


def test_a_sound_dataset_is_read_once(root, read):
    train, val = folders(root)
    assert quick_check([train], [val]) == []
    assert sorted(read) == ["t0", "t1", "t2", "v0", "v1"]
    assert quick_check([train], [val]) == []
    assert len(read) == 5


def test_what_has_changed_is_read_again_and_what_was_found_is_said_again(root, read):
    train, val = folders(root)
    quick_check([train], [val])
    read.clear()
    mask(root, "t1", 9)
    os.utime(root / "masks/t1.png", (1, 1))
    assert [f.value for f in quick_check([train], [val])] == ["value 9"]
    assert read == ["t1"]
    assert [f.value for f in quick_check([train], [val])] == ["value 9"]
    assert read == ["t1"]


def test_another_card_means_another_check(root, read):
    quick_check(folders(root)[:1])
    read.clear()
    (root / "card.toml").write_text(CARD.replace("car = 1", "car = 2"))
    assert [f.value for f in quick_check(folders(root)[:1]) if f.severity == "error"] == ["value 1"]
    assert len(read) == 3


@pytest.mark.parametrize("content", [b"", b"{}", b'{"card": 1}', b"\xff\xfe"])
def test_a_damaged_cache_is_none(root, read, content):
    quick_check(folders(root)[:1])
    for file in cache_folder().iterdir():
        file.write_bytes(content)
    read.clear()
    assert quick_check(folders(root)[:1]) == []
    assert len(read) == 3


def test_a_cache_that_cannot_be_written_is_done_without(root, monkeypatch):
    (root / "file").write_text("")
    monkeypatch.setenv("MANYSEG_CACHE", str(root / "file"))
    assert quick_check(folders(root)) == []


def test_training_begins_with_all_that_is_wrong_in_any_split(root, capsys):
    mask(root, "t2", 9)
    (root / "images/t0.png").write_bytes((root / "images/t0.png").read_bytes()[:1000])
    (root / "masks/v1.png").unlink()
    with pytest.raises(UserError, match=r"recipe.toml: 3 kinds of error in the data, listed above"):
        train_recipe(root / "recipe.toml", out=root / "run")
    out = capsys.readouterr().out
    for fault in (
        "masks/t2.png: not in the card: value 9",
        "images/t0.png: unreadable or truncated",
        "masks/v1.png: ther",
    ):
        assert fault in out
    assert not (root / "run").exists()


def test_bad_files_can_be_skipped_and_the_check_left_out(root, capsys):
    mask(root, "t2", 9)
    recipe = root / "recipe.toml"
    train_recipe(recipe, out=root / "skipping", overrides=["data.on_bad_file=skip"])
    assert "masks/t2.png: not in the card: value 9" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"masks/t2.png: not in the card"):
        train_recipe(recipe, out=root / "unchecked", overrides=["train.steps=3"], check=False)


def test_one_class_with_the_rest_ignored_is_said_before_training(root):
    (root / "card.toml").write_text(CARD.replace("[255]", "[255, 0]").replace("road = 0\n", ""))
    found = quick_check(folders(root)[:1])
    assert [f.severity for f in found] == ["warning"]
    assert "one class is all that is labelled" in found[0].what
    assert found[0].value == "car"


def test_an_image_of_16_bits_that_is_dark_and_one_that_is_turned_are_named(root):
    dark = np.full((32, 40), 4095, np.uint16)
    Image.fromarray(dark).save(root / "images/t1.png")
    (found,) = quick_check(folders(root)[:1])
    assert found.severity == "warning"
    assert "dark: white is 65535, and its brightest value is (4095)" in found.what
    Image.fromarray(dark * 16).save(root / "images/t1.png")
    assert quick_check(folders(root)[:1]) == []
    exif = Image.Exif()
    exif[0x0112] = 6
    for size, expected in (((40, 32), "is not applied"), ((32, 40), "is turned as its EXIF orientation says")):
        Image.new("RGB", size).save(root / "images/t1.png", "JPEG", exif=exif)
        (found,) = quick_check(folders(root)[:1])
        assert found.severity == "note"
        assert expected in found.what


def test_an_orientation_that_the_size_does_not_tell_is_an_error_until_the_card_says_it(root):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (40, 32)).save(root / "images/t1.png", "JPEG", exif=exif)
    (found,) = quick_check(folders(root)[:1])
    assert (found.severity, found.place) == ("error", "orientation 3")
    assert found.fix.endswith('write exif = "applied" or exif = "ignored" in the card')
    for said, expected in (("applied", "is turned"), ("ignored", "is not applied")):
        (root / "card.toml").write_text(f'exif = "{said}"\n{CARD}')
        (found,) = quick_check(folders(root)[:1])
        assert found.severity == "note"
        assert expected in found.what
