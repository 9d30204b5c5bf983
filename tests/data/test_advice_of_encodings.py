"""What messages of the other encodings advise works: boxes, tags, segments and values, of one image each."""

import json

import numpy as np
import pytest
from advice import follow
from PIL import Image
from test_data_encodings import (
    IDS_24,
    LINES,
    OPEN_BOXES,
    OPEN_CSV,
    PANOPTIC,
    TAGS,
    VOC,
    panoptic_json,
    panoptic_png,
    voc_xml,
)

from manyseg.data import load

COCO = 'annotations = "ann.json"\nencoding = "coco_boxes"\n[classes]\ncat = 1\ndog = 2'
RED_GREEN = 'mask = "m/{id}.png"\nencoding = "ade_full"\n[classes]\nroad = { value = 1831, thing = true }\n'
COLOR = 'mask = "m/{id}.png"\nencoding = "color"\n[classes]\na = "#000000"\nb = "#ffffff"\n'
INDEX = 'mask = "m/{id}.png"\nencoding = "index"\n[classes]\na = 0\nb = 1\n'


def read(place, card, name, content, mask):
    """Write a dataset of one image `a` of 10 x 8 pixels, and read it."""
    (place / "card.toml").write_text(f'name = "t"\nimage = "{{id}}.jpg"\nsplits = {{ train = "." }}\n{card}')
    Image.new("RGB", (10, 8)).save(place / "a.jpg")
    if content is None:
        (place / name).unlink(missing_ok=True)
    else:
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (place / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if mask is not None:
        (place / "m").mkdir(exist_ok=True)
        Image.fromarray(mask).save(place / "m/a.png")
    return load(place / "card.toml", place).read(0)


def coco(box, name="cat", category=1):
    image = {"id": 1, "file_name": "a.jpg", "height": 8, "width": 10}
    found = {"id": 1, "image_id": 1, "category_id": category, "bbox": box, "area": 4}
    categories = [{"id": 1, "name": name}, {"id": 2, "name": "cat" if name == "dog" else "dog"}]
    return {"images": [image], "annotations": [found], "categories": categories}


def padded(ids):
    return panoptic_png(np.pad(np.array(ids), ((0, 6), (0, 7)), constant_values=3))


KNOWN = panoptic_json((70000, 1, 0), (3, 193, 0), (900, 1, 0), (8, 5, 0))
UNKNOWN = panoptic_json((70000, 1, 0), (3, 193, 0), (8, 5, 0))
RGB = (8, 10, 3)
CAT = voc_xml(("cat", (1, 1, 2, 2)))
SEGMENTS = padded(IDS_24)

CASES = [
    (VOC, "a.xml", None, "there is no such file; add it, or remove its id from the split", CAT),
    (VOC, "a.xml", "<annotation></annotation>", "write <size> with width and height", CAT),
    (VOC, "a.xml", "<annotation><size>", "not the XML that encoding .*; correct it or fetch it again", CAT),
    (VOC, "a.xml", voc_xml(("bird", (1, 1, 2, 2))), "'bird' is not in the card; give the value to a class", CAT),
    (VOC, "a.xml", voc_xml(("cat", (1, 1, 2, 2)), size=(11, 8)), "give both one size, or remove the pair", CAT),
    (OPEN_BOXES, "ann.csv", "ImageID,LabelName\na,/m/0k4j\n", "its columns are ImageID, LabelName; check", OPEN_CSV),
    (OPEN_BOXES, "ann.csv", OPEN_CSV.replace("0.25", "?"), "YMin = .*: a number is needed; correct it", OPEN_CSV),
    (OPEN_BOXES, "ann.csv", OPEN_CSV.split("a,")[0], "it has no entry for this image.*; ", OPEN_CSV),
    (OPEN_BOXES, "ann.csv", None, "there is no such annotation file; check the card and the root", OPEN_CSV),
    (OPEN_BOXES, "ann.csv", b"ImageID,\xff\n", "unreadable CSV .*; fetch the file again", OPEN_CSV),
    (LINES, "ann.csv", "a.jpg;1;2;4;7", "is not image;left;top.*; ", "a.jpg;1;2;4;7;2"),
    (LINES, "ann.csv", b"a.jpg;\xff", "unreadable text .*; fetch the file again", "a.jpg;1;2;4;7;2"),
    (TAGS, "ann.json", '{"a": [', "truncated JSON .*; correct it there, or fetch", {"a": ["cat"]}),
    (TAGS, "ann.json", ["cat"], "write {id: .tag, ...", {"a": ["cat"]}),
    (TAGS, "ann.json", {"a": ["dog"]}, "tag 'dog' is not in the card; give the value", {"a": ["n02084071"]}),
    (TAGS, "ann.json", {"b": ["cat"]}, "; (add|give|check|remove|correct)", {"a": ["cat"]}),
    (COCO, "ann.json", coco([0.1, 0.1, 0.5, 0.5]), "multiply them by width and height", coco([1, 0.8, 5, 4])),
    (COCO, "ann.json", coco([1, 1, 5, 4], "dog"), "correct the numbers, or write names", coco([1, 1, 5, 4])),
    (COCO, "ann.json", coco([1, 1, -5, 4]), "; correct", coco([1, 1, 5, 4])),
    (COCO, "ann.json", coco([1, 1, 5, 4], category=7), "category 7 .*; give the value", coco([1, 1, 5, 4])),
]  # fmt: skip


@pytest.mark.parametrize(("card", "name", "wrong", "said", "right"), CASES)
def test_an_image_is_read_as_advised(tmp_path, card, name, wrong, said, right):
    follow(lambda: read(tmp_path, card, name, wrong, None), said, lambda: read(tmp_path, card, name, right, None))


def index(value, shape=(8, 10), kind=np.uint8):
    return np.full(shape, value, kind)


MASKS = [
    (PANOPTIC, UNKNOWN, SEGMENTS, "segment id not in the JSON: .*; ", KNOWN, SEGMENTS),
    (PANOPTIC, panoptic_json(file="b.png"), SEGMENTS, "it has no entry for this image .*; ", KNOWN, SEGMENTS),
    (PANOPTIC, {"annotations": 3}, SEGMENTS, "not the JSON that encoding .*; check the card", KNOWN, SEGMENTS),
    (RED_GREEN, None, index(0, RGB), "not in the card: .*; give the value to a class", None, index((70, 39, 1), RGB)),
    (COLOR, None, index(9, RGB), "not in the card: value #090909 .*; give the value to a class", None, index(255, RGB)),
    (INDEX, None, index(1, (4, 4)), "give both one size, or remove the pair", None, index(1)),
]  # fmt: skip


@pytest.mark.parametrize(("card", "wrong", "mask", "said", "right", "other"), MASKS)
def test_a_mask_is_read_as_advised(tmp_path, card, wrong, mask, said, right, other):
    follow(
        lambda: read(tmp_path, card, "ann.json", wrong, mask),
        said,
        lambda: read(tmp_path, card, "ann.json", right, other),
    )


def test_objects_are_of_the_masks_size_as_advised(tmp_path):
    card = INDEX.replace("encoding", 'instances = "i/{id}.png"\nencoding')
    card = card.replace("b = 1", "b = { value = 1, thing = true }")
    (tmp_path / "i").mkdir()

    def given(shape):
        Image.fromarray(index(1, shape)).save(tmp_path / "i/a.png")
        return read(tmp_path, card, "none", None, index(1))

    said = "instances of 4x8 for a mask of 10x8 .*; give both the size of the image"
    follow(lambda: given((8, 4)), said, lambda: given((8, 10)))
