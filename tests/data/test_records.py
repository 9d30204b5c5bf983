"""Records at the border: every fault of an annotation file names the file, the object, the field and the value."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle

from manyseg.data import load
from manyseg.data.check import check
from manyseg.data.encodings.outlines import RunLengths, packed, unpacked
from manyseg.data.encodings.schema import Fault
from manyseg.data.files import DataError
from manyseg.errors import UserError
from manyseg.labels import IGNORE

HEAD = 'name = "t"\nimage = "images/{id}.jpg"\nsplits = { train = "train.txt" }\n'
OUTLINES = HEAD + 'annotations = "ann.json"\nencoding = "coco_instances"\n[classes]\ncat = 1\ndog = 2\n'
BOXES = OUTLINES.replace("coco_instances", "coco_boxes")
PANOPTIC = HEAD + (
    'mask = "pan/{id}.png"\nannotations = "ann.json"\nencoding = "coco_panoptic"\n[classes]\n'
    "cat = { value = 1, thing = true }\ndog = 2\n"
)
SQUARE = [[0, 0, 20, 0, 20, 20, 0, 20]]
IMAGE = {"id": 1, "file_name": "a.jpg", "height": 64, "width": 64}
GOOD = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": SQUARE, "bbox": [0, 0, 10, 10]}


@pytest.fixture
def dataset(tmp_path):
    """Writes a dataset of images of 64 x 64 and an annotation file, and opens it."""

    def write(card, data, ids=("a",), name="ann.json"):
        (tmp_path / "card.toml").write_text(card)
        (tmp_path / "train.txt").write_text("\n".join(ids))
        for image_id in ids:
            path = tmp_path / f"images/{image_id}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
        (tmp_path / name).write_text(data if isinstance(data, str) else json.dumps(data))
        return load(tmp_path / "card.toml", tmp_path)

    return write


def coco(*objects, images=(IMAGE,), **more):
    return {"images": list(images), "annotations": list(objects), **more}


def bad(**fields):
    """An object that is good but for `fields`; None leaves a field out."""
    item = GOOD | {"id": 2} | fields
    return {k: v for k, v in item.items() if v != "absent"}


# Objects.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segmentation": []}, "segmentation = []: no polygon"),
        ({"segmentation": [[]]}, "segmentation[0]: 0 points enclose nothing; 3 are needed"),
        ({"segmentation": "absent"}, "segmentation: is missing"),
        ({"segmentation": None}, "segmentation = null: an object in braces or a list is needed"),
        ({"segmentation": [[3, 4, 5, 6]]}, "segmentation[0]: 2 points enclose nothing; 3 are needed"),
        ({"segmentation": [[[0, 0], [9, 0], [9, 9]]]}, "segmentation[0][0] = [0, 0]: a number is needed"),
        ({"segmentation": [0, 0, 20, 0, 20, 20]}, "segmentation[0] = 0: a list is needed"),
        ({"segmentation": [[0, 0, 20, 0, 20, 20, 5]]}, "segmentation[0]: 7 numbers are no points x, y"),
        ({"segmentation": [[0, 0, float("nan"), 0, 20, 20]]}, 'segmentation[0][2] = "NaN": a number'),
        ({"segmentation": [[0, 0, float("inf"), 0, 20, 20]]}, 'segmentation[0][2] = "Infinity": a number'),
        ({"segmentation": [[0, 0, 1e9, 0, 20, 20]]}, "segmentation[0][2] = 1000000000.0: a number <= 10000000.0"),
        ({"segmentation": [[0, 0, 1e6, 0, 20, 20]]}, "segmentation[0][2] = 1e+06: a point lies far outside"),
        ({"segmentation": {"size": [60000, 60000], "counts": [3600000000]}}, "run lengths of 60000x60000 in an image"),
        ({"segmentation": {"size": [64, 64], "counts": [64, -1]}}, "counts[1] = -1: a whole number >= 0 is needed"),
        ({"segmentation": {"size": [64, 64], "counts": [10**13]}}, "a whole number <= 1099511627776 is needed"),
        ({"category_id": None}, "category_id = null: a whole number is needed"),
        ({"category_id": [1]}, "category_id = [1]: a whole number is needed"),
        ({"category_id": "absent"}, "category_id: is missing"),
        ({"iscrowd": "maybe"}, 'iscrowd = "maybe": true or false or null is needed'),
    ],
)
def test_an_outline_that_is_no_outline_names_its_object_field_and_value(dataset, monkeypatch, fields, message):
    def native(*_):
        pytest.fail("native code was given numbers that are at fault: it may need any time and memory")

    for name in ("frPyObjects", "merge", "decode", "area"):
        monkeypatch.setattr(rle, name, native)
    folder = dataset(OUTLINES, coco(GOOD, bad(**fields)))
    with pytest.raises(DataError) as error:
        folder.read(0)
    assert f"ann.json: annotation 2 of 'a.jpg', {message}" in str(error.value) or (
        "annotation 2 of 'a.jpg', segmentation" in str(error.value) and message in str(error.value)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bbox": "absent"}, "bbox: is missing"),
        ({"bbox": []}, "bbox = []: a list of length 4 is needed"),
        ({"bbox": None}, "bbox = null: a list is needed"),
        ({"bbox": [1, 2, 3]}, "bbox = [1, 2, 3]: a list of length 4 is needed"),
        ({"bbox": [1, 2, -3, 4]}, "bbox = [1.0, 2.0, -3.0, 4.0]: the box has a negative side"),
        ({"bbox": [100, 100, 5, 5]}, "bbox = [100.0, 100.0, 5.0, 5.0]: the box lies outside of the image (of 64x64)"),
        ({"bbox": [1, 2, float("nan"), 4]}, 'bbox[2] = "NaN": a number'),
    ],
)
def test_a_box_that_is_no_box_names_its_object_field_and_value(dataset, fields, message):
    with pytest.raises(DataError) as error:
        dataset(BOXES, coco(GOOD, bad(**fields))).read(0)
    assert f"ann.json: annotation 2 of 'a.jpg', {message}" in str(error.value)


def test_numbers_are_read_in_any_unambiguous_spelling(dataset):
    image = {"id": "1", "file_name": "a.jpg", "height": 64.0, "width": "64"}
    item = {"image_id": 1.0, "category_id": "2", "segmentation": SQUARE, "iscrowd": 0}
    labels = dataset(OUTLINES, coco(item, images=[image])).read(0).annotation.labels
    assert (labels == 1).sum() == 400


def test_boxes_over_the_edge_are_cut_off_and_boxes_without_area_left_out_and_both_are_said(dataset, tmp_path):
    boxes = [-5, -5, 14, 14], [3, 3, 0, 5], [60, 0, 4.5, 4]
    folder = dataset(BOXES, coco(*(bad(bbox=b, id=i) for i, b in enumerate(boxes))))
    assert folder.read(0).annotation.boxes.tolist() == [[0, 0, 9, 9], [60, 0, 64, 4]]
    said = {f.what.split(",")[0]: f for f in check(tmp_path / "card.toml", tmp_path) if "class" not in f.what}
    assert set(said) == {"the box reaches out of the image (of 64x64)", "the box has no area"}
    assert all(f.severity == "warning" and "of 'a.jpg', bbox = " in f.place for f in said.values())


def test_boxes_in_parts_of_the_sides_are_refused_as_a_whole(dataset):
    with pytest.raises(UserError, match=r"all boxes lie between 0 and 1, .*multiply them by width and height"):
        dataset(BOXES, coco(bad(bbox=[0.1, 0.2, 0.5, 0.5]))).read(0)


@pytest.mark.parametrize("height", [0, -4, 10**12, None, "tall", 64.5])
def test_an_image_size_that_is_none_names_the_image(dataset, height):
    folder = dataset(OUTLINES, coco(GOOD, images=[IMAGE | {"height": height}]))
    with pytest.raises(DataError, match=r"ann.json: images\[0\], height = "):
        folder.read(0)


def test_an_image_size_that_the_image_does_not_have_is_an_error_before_anything_is_painted(dataset):
    folder = dataset(OUTLINES, coco(GOOD, images=[IMAGE | {"height": 1_000_000, "width": 1_000_000}]))
    with pytest.raises(DataError, match="'a': entry is 1000000x1000000 but the image is 64x64"):
        folder.read_annotation(0)


def test_packed_run_lengths_that_do_not_fill_the_image_are_an_error(dataset):
    counts = rle.encode(np.asfortranarray(np.ones((32, 32), np.uint8)))["counts"].decode()
    for text in (counts, "", "~~~~", "o" * 40, counts + "o"):
        folder = dataset(OUTLINES, coco(bad(segmentation={"size": [64, 64], "counts": text})))
        with pytest.raises(DataError, match=r"annotation 2 of 'a', segmentation\.counts: "):
            folder.read(0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 9))
def test_run_lengths_are_unpacked_as_pycocotools_does(height, width, share, seed):
    bitmap = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    outline = rle.encode(np.asfortranarray(bitmap))
    found = packed(RunLengths((height, width), outline["counts"].decode()), (height, width))
    assert not isinstance(found, Fault)
    assert np.array_equal(rle.decode(found), bitmap)
    numbers = unpacked(outline["counts"].decode())
    assert np.array_equal(np.repeat(np.arange(len(numbers)) % 2, numbers).reshape(width, height).T, bitmap)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_any_text_in_the_place_of_run_lengths_is_read_or_named(text):
    found = packed(RunLengths((8, 8), text), (8, 8))
    assert isinstance(found, Fault) or rle.decode(found).shape == (8, 8)


def test_all_faults_of_a_file_are_found_at_once_and_the_others_images_stay_readable(dataset, tmp_path):
    images = [IMAGE, IMAGE | {"id": 2, "file_name": "b.jpg"}, IMAGE | {"id": 3, "file_name": "c.jpg"}]
    objects = [
        GOOD,
        GOOD | {"id": 7, "image_id": 2, "segmentation": [[1, 2]], "category_id": None},
        GOOD | {"id": 8, "image_id": 2, "category_id": "x"},
        GOOD | {"id": 9, "image_id": 3, "segmentation": None},
    ]
    folder = dataset(OUTLINES, coco(*objects, images=images), ids=("a", "b", "c"))
    found = [f for f in check(tmp_path / "card.toml", tmp_path) if f.severity == "error"]
    assert {(f.place.split(",")[0], f.places) for f in found} == {
        ("annotation 7 of 'b.jpg'", 2),
        ("annotation 9 of 'c.jpg'", 1),
    }
    assert {f.what for f in found} == {"a whole number is needed", "an object in braces or a list is needed"}
    assert (folder.read(0).annotation.labels == 0).sum() == 400


def test_the_faults_of_an_image_are_bounded(dataset):
    folder = dataset(OUTLINES, coco(*(bad(id=i, segmentation=None) for i in range(5000))))
    with pytest.raises(DataError, match=r"\(and 19 more faults of this image\)"):
        folder.read(0)


# Keys.


def test_one_file_name_twice_is_an_error_that_names_it(dataset):
    images = [IMAGE, IMAGE | {"id": 2, "file_name": "x/a.jpg"}, IMAGE | {"id": 3, "file_name": "y/images/a.jpg"}]
    assert dataset(OUTLINES, coco(GOOD, images=images)).read(0).annotation.labels.max() == 0
    with pytest.raises(DataError, match=r"'images/a.jpg': 'a.jpg' and './a.jpg': an image has more than one entry"):
        dataset(OUTLINES, coco(GOOD, images=[*images, IMAGE | {"id": 4, "file_name": "./a.jpg"}])).read(0)


def test_one_name_in_two_folders_is_an_error_that_names_both(dataset):
    images = [IMAGE, IMAGE | {"id": 2, "file_name": "c.jpg"}]
    folder = dataset(OUTLINES, coco(GOOD, images=images), ids=("x/a", "y/a", "c"))
    for index in (0, 1):
        with pytest.raises(DataError, match=r"'a.jpg' for 'images/./a.jpg' and for 'images/./a.jpg': one entry"):
            folder.read(index)
    assert folder.read(2).annotation.labels.eq(IGNORE).all()


def test_an_object_twice_is_read_once_and_an_id_that_repeats_is_said(dataset, tmp_path):
    other = GOOD | {"category_id": 2, "segmentation": [[30, 30, 40, 30, 40, 40, 30, 40]]}
    for card, count in ((OUTLINES, 2), (BOXES, 2)):
        folder = dataset(card, coco(GOOD, GOOD, other))
        assert len(folder.read(0).annotation.classes) == count
        twice, same_id = list(folder.findings())
        assert str(twice).endswith(
            "ann.json: annotation 1 of 'a.jpg': an object is listed twice, and is read once; remove one"
        )
        assert "annotation 1 of 'a.jpg': two objects have one id; nothing to do if both are meant" in str(same_id)
        assert {twice.severity, same_id.severity} == {"warning"}
    assert list(dataset(OUTLINES, coco(GOOD, GOOD | {"id": 2})).findings()) == []


def test_an_image_id_twice_is_an_error_for_both_images(dataset):
    folder = dataset(OUTLINES, coco(GOOD, images=[IMAGE, IMAGE | {"file_name": "b.jpg"}]), ids=("a", "b"))
    for index in (0, 1):
        with pytest.raises(DataError, match=r"image 1, 'b.jpg', id: two images have one id .'a.jpg' too"):
            folder.read(index)


def test_a_tag_list_twice_is_an_error(dataset):
    card = HEAD + 'annotations = "ann.json"\nencoding = "tags"\n[classes]\ncat = {}\ndog = {}\n'
    with pytest.raises(DataError, match="'a': 'a' and 'a': an image has more than one entry"):
        dataset(card, '{"a": ["cat"], "a": ["dog"]}').read(0)


@pytest.mark.parametrize("name", ["images\\a.jpg", "./images/a.jpg", "/home/me/set/images/a.jpg", "set/images/a.jpg"])
def test_image_names_as_other_systems_write_them_are_found(dataset, name):
    labels = dataset(OUTLINES, coco(GOOD, images=[IMAGE | {"file_name": name}])).read(0).annotation.labels
    assert (labels == 0).sum() == 400


def test_objects_of_images_that_the_file_does_not_list_are_said(dataset, tmp_path):
    dataset(OUTLINES, coco(GOOD, bad(image_id=99)))
    found = [f for f in check(tmp_path / "card.toml", tmp_path) if "does not list" in f.what]
    assert [(f.severity, f.place) for f in found] == [("warning", "annotation 2, image_id = 99")]


# What a file says of its classes.


def test_a_file_that_numbers_classes_otherwise_than_the_card_is_an_error_with_both_lists(dataset):
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    with pytest.raises(UserError) as error:
        dataset(OUTLINES, coco(GOOD, categories=categories)).read(0)
    assert "category 1 is 'dog' here, and 'cat' in the card" in str(error.value)
    assert "the file has 1 dog, 2 cat; the card has 1 cat, 2 dog" in str(error.value)


def test_names_in_the_card_are_looked_up_in_each_file_as_that_error_advises(dataset):
    card = OUTLINES.replace("cat = 1", '"cat" = "cat"').replace("dog = 2", "dog = {}")
    for first, second, expected in (("cat", "dog", 0), ("dog", "cat", 1)):
        categories = [{"id": 1, "name": first}, {"id": 2, "name": second}]
        labels = dataset(card, coco(GOOD, categories=categories)).read(0).annotation.labels
        assert labels.max() == expected


def test_other_names_for_the_same_numbers_are_the_cards_own(dataset):
    categories = [{"id": 1, "name": "Katze"}, {"id": 2, "name": "Dogs"}]
    assert dataset(OUTLINES, coco(GOOD, categories=categories)).read(0).annotation.labels.max() == 0


@pytest.mark.parametrize(
    ("category", "message"),
    [({"id": None, "name": "x"}, "category #0, id = null: a whole number is needed"), ({"id": 1}, "name: is missing")],
)
def test_a_broken_category_is_named(dataset, category, message):
    with pytest.raises(UserError, match=message):
        dataset(OUTLINES, coco(GOOD, categories=[category])).read(0)


def test_a_number_with_two_names_is_an_error(dataset):
    categories = [{"id": 1, "name": "cat"}, {"id": 1, "name": "mouse"}]
    with pytest.raises(UserError, match="category 1 is called 'cat' and 'mouse'"):
        dataset(OUTLINES, coco(GOOD, categories=categories)).read(0)


def test_categories_of_one_name_are_said_to_be_one_class_and_told_apart_as_advised(dataset, tmp_path):
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "Cats"}, {"id": 3, "name": "dog"}]
    data = coco(GOOD, bad(category_id=2, segmentation=[[30, 30, 50, 30, 50, 50, 30, 50]]), categories=categories)
    words = OUTLINES.replace("cat = 1", "cat = {}").replace("dog = 2", "dog = {}")
    assert dataset(words, data).read(0).annotation.labels.unique().tolist() == [IGNORE, 0]
    said = [f for f in check(tmp_path / "card.toml", tmp_path) if "one name" in f.what]
    assert [(f.severity, f.value) for f in said] == [("warning", "cat (1 cat, 2 Cats)")]
    assert "write their numbers in the card" in said[0].fix
    numbers = OUTLINES.replace("cat = 1", '"cat 1" = 1\n"cat 2" = 2').replace("dog = 2", "dog = 3")
    assert dataset(numbers, data).read(0).annotation.labels.unique().tolist() == [IGNORE, 0, 1]
    assert not [f for f in check(tmp_path / "card.toml", tmp_path) if "one name" in f.what]


def test_a_name_is_the_cards_own_spelling_and_is_written_into_the_card_as_advised(dataset):
    card = OUTLINES.replace("cat = 1", '"pet" = "cat"').replace("dog = 2", '"herd" = "cats"')
    for name, position in (("cat", 0), ("cats", 1)):
        labels = dataset(card, coco(GOOD, categories=[{"id": 1, "name": name}])).read(0).annotation.labels
        assert labels.max() == position
    other = coco(GOOD, categories=[{"id": 1, "name": "Cats"}])
    with pytest.raises(
        UserError, match="category 1 is 'Cats', which can be 'cat' and 'cats' of the card; write 'Cats'"
    ):
        dataset(card, other).read(0)
    assert dataset(card.replace('"cats"', '"Cats"'), other).read(0).annotation.labels.max() == 1


def test_outlines_over_the_edge_are_cut_off_and_those_without_a_pixel_left_out_and_both_are_said(dataset, tmp_path):
    over, line = [[-9, 0, 20, 0, 20, 20, -9, 20]], [[2, 2, 12, 12, 22, 22]]
    data = coco(GOOD | {"segmentation": over}, bad(segmentation=line), bad(id=3, segmentation=[[5, 5, 5, 9, 5, 7]]))
    labels = dataset(OUTLINES, data).read(0).annotation.labels
    assert int((labels == 0).sum()) == 400
    said = {f.what: (f.severity, f.place, f.places) for f in check(tmp_path / "card.toml", tmp_path)}
    assert said["the outline reaches out of the image (of 64x64), and is cut off"] == (
        "warning",
        "annotation 1 of 'a.jpg', segmentation",
        1,
    )
    assert said["an outline has no pixel, and is left out"] == ("warning", "annotation 2 of 'a'", 2)
    with pytest.raises(
        DataError, match=r"annotation 2 of 'a\.jpg', segmentation: the outline lies outside of the image"
    ):
        dataset(OUTLINES, coco(GOOD, bad(segmentation=[[70, 0, 90, 0, 90, 20]]))).read(0)


# Panoptic files.


def panoptic(root, segments, **more):
    (root / "pan").mkdir(exist_ok=True)
    ids = np.zeros((64, 64, 3), np.uint8)
    ids[:, 32:] = (70000 % 256, 70000 // 256 % 256, 70000 // 65536)
    Image.fromarray(ids).save(root / "pan/a.png")
    return {"annotations": [{"file_name": "a.png", "image_id": 1, "segments_info": segments}], **more}


CAT = {"id": 70000, "category_id": 1, "iscrowd": 0}


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{"id": 70000}], "'a.png', segments_info[0], category_id: is missing"),
        ([{"category_id": 1}], "'a.png', segments_info[0], id: is missing"),
        ([CAT, {"id": 1 << 24, "category_id": 1}], "segments_info[1], id = 16777216: a whole number <= 16777215"),
        ([CAT | {"category_id": [1]}], "category_id = [1]: a whole number is needed"),
        ([CAT | {"id": None}], "id = null: a whole number is needed"),
        ([CAT, CAT | {"category_id": 2}], "segments_info[1], id: a segment is listed twice (id 70000, also in segm"),
        (None, "annotation #0, segments_info = null: a list is needed"),
    ],
)
def test_a_segment_that_is_none_names_its_field_and_value(dataset, tmp_path, segments, message):
    folder = dataset(PANOPTIC, panoptic(tmp_path, segments))
    with pytest.raises(DataError) as error:
        folder.read(0)
    assert message in str(error.value)


def test_what_the_file_calls_countable_is_compared_with_the_card(dataset, tmp_path):
    categories = [{"id": 1, "name": "cat", "isthing": 0}, {"id": 2, "name": "dog", "isthing": 1}]
    data = panoptic(tmp_path, [CAT], categories=categories)
    dataset(PANOPTIC, data)
    assert countable(tmp_path) == {
        "class 'cat'": "a class is stuff in the file and a thing in the card",
        "class 'dog'": "a countable class of the file is stuff in the card",
    }
    # The advice: say what is meant.
    dataset(PANOPTIC.replace("true", "false").replace("dog = 2", "dog = { value = 2, thing = true }"), data)
    assert countable(tmp_path) == {}


def countable(root):
    return {f.value: f.what for f in check(root / "card.toml", root) if "stuff" in f.what}


# Files.


def test_a_byte_order_mark_and_utf_16_are_read(dataset, tmp_path):
    text = json.dumps(coco(GOOD))
    for encoding in ("utf-8-sig", "utf-16"):
        folder = dataset(OUTLINES, coco())
        (tmp_path / "ann.json").write_text(text, encoding=encoding)
        assert folder.read(0).annotation.labels.max() == 0


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"images": [], "annotations": [1', '{"images": {}, "annotations": []}', ""]
)
def test_a_file_that_is_no_coco_file_is_an_error_in_one_line(dataset, text):
    with pytest.raises(UserError, match=r"ann.json: (unreadable or truncated JSON|not the JSON that)") as error:
        dataset(OUTLINES, text).read(0)
    assert "\n" not in str(error.value)
