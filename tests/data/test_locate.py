"""From patterns to files: choices of suffixes, letters of any case, and links without an end."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from manyseg.data import load, pattern
from manyseg.data.check import check
from manyseg.data.files import DataError
from manyseg.data.quick_check import quick_check
from manyseg.errors import UserError

CARD = """
name = "t"
image = "images/{split}/{id}.SUFFIX"
mask = "masks/{split}/{id}.png"
encoding = "index"
splits = { train = "train" }
[classes]
a = 0
b = 1
"""


@pytest.fixture
def root(tmp_path):
    """Six images, of four kinds of suffix."""
    rng = np.random.default_rng(0)
    for i, suffix in enumerate(("jpg", "jpg", "jpg", "JPG", "jpeg", "png")):
        for folder in ("images/train", "masks/train"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"images/train/{i}.{suffix}")
        Image.fromarray(np.tile(np.array([[0, 1]], np.uint8), (8, 4))).save(tmp_path / f"masks/train/{i}.png")
    return tmp_path


def card(root, suffix, text=CARD):
    (root / "card.toml").write_text(text.replace("SUFFIX", suffix))
    return root / "card.toml"


def test_a_pattern_can_name_several_suffixes_and_their_case_does_not_matter(root):
    folder = load(card(root, "{jpg,jpeg,png}"), root)
    assert folder.ids == ("0", "1", "2", "3", "4", "5")
    assert folder.image_path(3) == root / "images/train/3.JPG"
    assert [folder.read(i).image.shape for i in range(6)] == [(3, 8, 8)] * 6
    assert check(root / "card.toml", root) == []


def test_images_of_another_suffix_are_a_finding(root):
    found = {f.what: f for f in check(card(root, "jpg"), root)}
    other = found["an image is not read, as its suffix is not that of the card's pattern"]
    assert (other.severity, other.files, other.where) == ("warning", 2, str(root / "images/train/4.jpeg"))
    assert other.fix == "name all suffixes in the card's pattern, as .{jpg,jpeg}"
    assert found["mask without an image"].files == 2
    assert any("is not read" in f.what for f in quick_check([load(root / "card.toml", root)]))


def test_a_listed_image_is_found_by_any_case_and_one_with_two_files_is_an_error(root):
    text = CARD.replace('"train" }', '"train.txt" }').replace("images/{split}", "images/train")
    (root / "train.txt").write_text("3\n4")
    folder = load(card(root, "{jpg,jpeg}", text.replace("masks/{split}", "masks/train")), root)
    assert [folder.image_path(i).name for i in range(2)] == ["3.JPG", "4.jpeg"]
    (root / "images/train/4.jpg").write_bytes((root / "images/train/0.jpg").read_bytes())
    with pytest.raises(DataError, match=r"4\.jpg: an image has two files \(also images/train/4\.jpeg\); keep one"):
        folder.read(1)
    assert any("an image has two files" in f.what for f in quick_check([folder]))


def test_entries_of_an_annotation_file_that_no_image_uses_are_a_finding(root):
    text = CARD.replace('mask = "masks/{split}/{id}.png"', 'annotations = "{split}.json"')
    names = ("0.jpg", "1.jpg", "2.jpg", "3.JPG", "4.jpeg", "5.png")
    images = [{"id": i, "file_name": name, "height": 8, "width": 8} for i, name in enumerate(names)]
    box = {"category_id": 0, "bbox": [0, 0, 4, 4]}
    annotations = [box | {"id": i, "image_id": i, "category_id": i % 2} for i in range(6)]
    (root / "train.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    path = card(root, "jpg", text.replace('"index"', '"coco_boxes"'))
    (found,) = [f for f in check(path, root) if "entries" in f.what]
    assert found.what == "the file has entries of images that are in no split (2)"
    assert found.value == "4.jpeg"
    assert check(card(root, "{jpg,jpeg,png}", text.replace('"index"', '"coco_boxes"')), root) == []


def test_links_are_followed_and_those_without_an_end_are_named(root):
    (root / "store").mkdir()
    os.rename(root / "images/train", root / "store/train")
    os.symlink(root / "store/train", root / "images/train")
    assert len(load(card(root, "jpg"), root)) == 4
    os.symlink(root / "store/train", root / "store/train/again")
    with pytest.raises(UserError, match=r"again: a link to a folder that it lies in, so that its files have no end"):
        load(card(root, "jpg"), root)


def test_choices_are_spelled_out():
    assert pattern.choices("{id}.{jpg,png}") == ["{id}.jpg", "{id}.png"]
    assert pattern.choices("{a,b}/{id}.{c,d}") == ["a/{id}.c", "a/{id}.d", "b/{id}.c", "b/{id}.d"]
