"""Encodings: what annotation files spell, by hand-computed values and pycocotools."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as rle

from manyseg.data import load
from manyseg.data.encodings import Regions
from manyseg.data.files import DataError
from manyseg.errors import UserError
from manyseg.labels import IGNORE

# pycocotools' own arrays; raised within it under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def dataset(tmp_path):
    """Writes a dataset of one image `a`, of 2 x 3 pixels unless `size` says otherwise, and opens it."""

    def write(card, *, json_name="ann.json", data=None, size=(2, 3), annotation="native", **rasters):
        (tmp_path / "card.toml").write_text(f'name = "t"\nimage = "{{id}}.jpg"\nsplits = {{ train = "." }}\n{card}')
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "a.jpg")
        for name, values in rasters.items():
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / name / "a.png")
        if data is not None:
            (tmp_path / json_name).write_text(data if isinstance(data, str) else json.dumps(data))
        return load(tmp_path / "card.toml", tmp_path, annotation=annotation)

    return write


def segments(annotation):
    """The segments of an annotation as {class: [pixels of each segment]}."""
    out = {}
    for i, c in enumerate(annotation.classes.tolist()):
        out.setdefault(c, []).append(int((annotation.ids == i).sum()))
    return {c: sorted(sizes) for c, sizes in out.items()}


# Colours.

COLOR = """
mask = "m/{id}.png"
encoding = "color"
ignore = ["#000000"]
[classes]
road = "#804080"
sky = ["#4682b4", "#0000ff"]
"""


def test_colours_are_classes(dataset):
    colors = [[(128, 64, 128), (70, 130, 180), (0, 0, 255)], [(0, 0, 0), (128, 64, 128), (0, 0, 0)]]
    annotation = dataset(COLOR, m=np.array(colors, np.uint8)).read(0).annotation
    assert annotation.labels.tolist() == [[0, 1, 1], [IGNORE, 0, IGNORE]]


def test_a_colour_outside_the_card_is_named_as_cards_write_it(dataset):
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[0, 0] = (128, 64, 127)
    with pytest.raises(DataError, match="not in the card: value #80407f on 1 pixels"):
        dataset(COLOR, m=colors).read(0)


def test_an_index_where_colours_were_promised_is_an_error(dataset):
    with pytest.raises(DataError, match="L mask where colours were promised"):
        dataset(COLOR, m=np.zeros((2, 3), np.uint8)).read(0)


# Instances beside an index.

INDEX = 'mask = "m/{id}.png"\ninstances = "i/{id}.png"\nencoding = "index"\nignore = [255]\n[classes]\n'
MASK = np.array([[0, 0, 1, 1], [2, 2, 1, 255]], np.uint8)
IDS = np.array([[5, 5, 5, 7], [0, 65535, 0, 9]], np.uint16)


def test_a_segment_is_a_pair_of_class_and_instance(dataset):
    folder = dataset(INDEX + "a = 0\nb = 1\nc = 2", m=MASK, i=IDS, size=(2, 4))
    annotation = folder.read(0).annotation
    assert segments(annotation) == {0: [2], 1: [1, 1, 1], 2: [1, 1]}
    assert annotation.labels.tolist() == [[0, 0, 1, 1], [2, 2, 1, IGNORE]]


def test_stuff_is_one_segment_whatever_its_instances(dataset):
    folder = dataset(INDEX + "a = 0\nb = { value = 1, thing = false }\nc = 2", m=MASK, i=IDS, size=(2, 4))
    assert segments(folder.read(0).annotation)[1] == [3]


def test_a_thing_of_no_instance_is_ignored_in_segments_and_keeps_its_class_as_dense(dataset):
    card = INDEX + "a = 0\nb = { value = 1, thing = true }\nc = { value = 2, thing = true }"
    annotation = dataset(card, m=MASK, i=IDS, size=(2, 4)).read(0).annotation
    assert segments(annotation) == {0: [2], 1: [1, 1]}
    assert annotation.labels.tolist() == [[0, 0, 1, 1], [IGNORE, IGNORE, IGNORE, IGNORE]]
    dense = dataset(card, m=MASK, i=IDS, size=(2, 4), annotation="dense").read(0).annotation
    assert dense.labels.tolist() == [[0, 0, 1, 1], [2, 2, 1, IGNORE]]


def test_instances_of_another_size_are_an_error(dataset):
    folder = dataset(INDEX + "a = 0\nb = 1\nc = 2", m=MASK, i=IDS[:, :3], size=(2, 4))
    with pytest.raises(DataError, match=r"i/a.png: instances of 3x2 for a mask of 4x2"):
        folder.read(0)


# Instance ids as Cityscapes writes them.

INSTANCE_IDS = """
mask = "m/{id}.png"
encoding = "instance_ids"
ignore = [0, 30]
[classes]
road = 7
car = { value = 26, thing = true }
bus = { value = 28, thing = true }
"""


def test_instance_ids_hold_class_and_number(dataset):
    ids = np.array([[7, 7, 26000, 26001], [26, 30004, 28000, 0]], np.uint16)
    annotation = dataset(INSTANCE_IDS, m=ids, size=(2, 4)).read(0).annotation
    assert segments(annotation) == {0: [2], 1: [1, 1], 2: [1]}
    assert annotation.labels.tolist() == [[0, 0, 1, 1], [IGNORE, IGNORE, 2, IGNORE]]
    dense = dataset(INSTANCE_IDS, m=ids, size=(2, 4), annotation="dense").read(0).annotation
    assert dense.labels.tolist() == [[0, 0, 1, 1], [1, IGNORE, 2, IGNORE]]


def test_an_instance_of_a_class_outside_the_card_is_an_error(dataset):
    with pytest.raises(DataError, match="not in the card: value 33002 on 6 pixels"):
        dataset(INSTANCE_IDS, m=np.full((2, 3), 33002, np.uint16)).read(0)


def test_a_file_without_instances_may_have_8_bits(dataset):
    annotation = dataset(INSTANCE_IDS, m=np.full((2, 3), 7, np.uint8)).read(0).annotation
    assert segments(annotation) == {0: [6]}


# COCO panoptic.

PANOPTIC = """
mask = "m/{id}.png"
annotations = "ann.json"
encoding = "coco_panoptic"
ignore = [5]
[classes]
person = { value = 1, thing = true }
grass = 193
"""


def panoptic_png(ids):
    ids = np.array(ids)
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def panoptic_json(*infos, file="a.png"):
    keys = ("id", "category_id", "iscrowd")
    return {"annotations": [{"file_name": file, "segments_info": [dict(zip(keys, i, strict=True)) for i in infos]}]}


IDS_24 = [[70000, 70000, 3], [0, 900, 8]]


def test_panoptic_segments_are_found_by_their_24_bit_ids(dataset):
    data = panoptic_json((70000, 1, 0), (3, 193, 0), (900, 1, 0), (8, 5, 0))
    annotation = dataset(PANOPTIC, data=data, m=panoptic_png(IDS_24)).read(0).annotation
    assert segments(annotation) == {0: [1, 2], 1: [1]}
    assert annotation.labels.tolist() == [[0, 0, 1], [IGNORE, 0, IGNORE]]


def test_a_crowd_has_a_class_but_is_no_segment(dataset):
    data = panoptic_json((70000, 1, 1), (3, 193, 0), (900, 1, 0), (8, 193, 0))
    annotation = dataset(PANOPTIC, data=data, m=panoptic_png(IDS_24)).read(0).annotation
    assert segments(annotation) == {0: [1], 1: [2]}
    dense = dataset(PANOPTIC, data=data, m=panoptic_png(IDS_24), annotation="dense").read(0).annotation
    assert dense.labels.tolist() == [[0, 0, 1], [IGNORE, 0, 1]]


def test_a_segment_that_the_json_does_not_know_is_an_error(dataset):
    data = panoptic_json((70000, 1, 0), (3, 193, 0), (8, 5, 0))
    with pytest.raises(DataError, match=r"a.png: segment id not in the JSON: value 900 on 1 pixels"):
        dataset(PANOPTIC, data=data, m=panoptic_png(IDS_24)).read(0)


def test_a_category_outside_the_card_is_an_error(dataset):
    data = panoptic_json((70000, 17, 0), (3, 193, 0), (900, 1, 0), (8, 5, 0))
    with pytest.raises(DataError, match=r"a.png: category 17 is not in the card"):
        dataset(PANOPTIC, data=data, m=panoptic_png(IDS_24)).read(0)


def test_a_mask_that_the_json_does_not_know_is_an_error(dataset):
    with pytest.raises(DataError, match=r"ann.json: 'm/a.png': it has no entry for this image .* like 'b.png'"):
        dataset(PANOPTIC, data=panoptic_json(file="b.png"), m=panoptic_png(IDS_24)).read(0)


# COCO instances.

OBJECTS = 'annotations = "ann.json"\nencoding = "coco_instances"\nignore = [9]\n[classes]\ncat = 1\ndog = 2'
SQUARE = [[1, 1, 7, 1, 7, 7, 1, 7]]


def coco_json(*objects, size=(8, 10), file="a.jpg"):
    keys = ("category_id", "segmentation", "iscrowd")
    objects = [dict(zip(keys, o, strict=True), image_id=4) for o in objects]
    image = {"id": 4, "file_name": file, "height": size[0], "width": size[1]}
    return {"images": [image, {**image, "id": 5, "file_name": "b.jpg"}], "annotations": objects}


def test_polygons_are_painted_as_pycocotools_does_with_the_smaller_on_top(dataset):
    small = [[3, 3, 5, 3, 5, 5, 3, 5]]
    folder = dataset(OBJECTS, data=coco_json((2, small, 0), (1, SQUARE, 0)), size=(8, 10))
    labels = folder.read(0).annotation.labels.numpy()
    inner, outer = (rle.decode(rle.merge(rle.frPyObjects(p, 8, 10))).astype(bool) for p in (small, SQUARE))
    assert np.array_equal(labels, np.where(inner, 1, np.where(outer, 0, IGNORE)))
    assert inner.sum() == 4
    assert outer.sum() == 36
    assert segments(folder.read(0).annotation) == {0: [32], 1: [4]}


def test_both_kinds_of_run_lengths_are_read(dataset):
    bitmap = np.zeros((8, 10), np.uint8)
    bitmap[2:5, 3] = 1
    packed = rle.encode(np.asfortranarray(bitmap))
    packed["counts"] = packed["counts"].decode()
    plain = {"size": [8, 10], "counts": [3 * 8 + 2, 3, 80 - 29]}
    for outline in (packed, plain):
        labels = dataset(OBJECTS, data=coco_json((2, outline, 0)), size=(8, 10)).read(0).annotation.labels
        assert np.array_equal(labels.numpy(), np.where(bitmap, 1, IGNORE))


def test_a_crowd_lies_below_all_objects(dataset):
    crowd = {"size": [8, 10], "counts": [0, 8, 72]}
    data = coco_json((1, [[0, 0, 10, 0, 10, 8, 0, 8]], 0), (2, crowd, 1))
    assert segments(dataset(OBJECTS, data=data, size=(8, 10)).read(0).annotation) == {0: [80]}
    data = coco_json((1, SQUARE, 0), (2, crowd, 1))
    assert segments(dataset(OBJECTS, data=data, size=(8, 10)).read(0).annotation) == {0: [36]}
    dense = dataset(OBJECTS, data=data, size=(8, 10), annotation="dense").read(0).annotation
    assert dense.labels[:, 0].tolist() == [1] * 8


def test_an_image_without_objects_has_no_label_and_is_not_background(dataset):
    annotation = dataset(OBJECTS, data=coco_json(), size=(8, 10)).read(0).annotation
    assert annotation.labels.eq(IGNORE).all()
    assert annotation.classes.shape == (0,)


def test_ignored_categories_leave_pixels_without_a_label(dataset):
    data = coco_json((9, SQUARE, 0))
    assert dataset(OBJECTS, data=data, size=(8, 10)).read(0).annotation.labels.eq(IGNORE).all()


def test_image_names_may_have_folders_on_either_side(dataset):
    assert len(dataset(OBJECTS, data=coco_json(file="a.jpg"), size=(8, 10)).read(0).annotation.classes) == 0
    with pytest.raises(DataError, match=r"'a.jpg': it has no entry for this image .it names its images like 'x/a.jpg'"):
        dataset(OBJECTS, data=coco_json(file="x/a.jpg"), size=(8, 10)).read(0)


def test_a_broken_outline_is_an_error(dataset):
    with pytest.raises(
        DataError,
        match=r"annotations.0. of 'a.jpg', segmentation = .*: object missing .* 'counts'",
    ):
        dataset(OBJECTS, data=coco_json((1, {"size": [8, 10]}, 0)), size=(8, 10)).read(0)
    with pytest.raises(
        DataError,
        match=r"segmentation.size = .5, 5.: run lengths of 5x5 in an image of 10x8",
    ):
        dataset(OBJECTS, data=coco_json((1, {"size": [5, 5], "counts": [25]}, 0)), size=(8, 10)).read(0)


def test_an_image_of_another_size_than_the_json_says_is_an_error(dataset):
    with pytest.raises(DataError, match=r"ann.json: 'a': entry is 10x8 but the image is 3x2"):
        dataset(OBJECTS, data=coco_json()).read(0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"images": [', "unreadable or truncated JSON"),
        ('{"images": []}', "not the JSON that encoding 'coco_instances' reads .no 'annotations'"),
        ("[]", "not the JSON that encoding 'coco_instances' reads"),
    ],
)
def test_a_json_of_another_kind_is_an_error(dataset, data, message):
    with pytest.raises(UserError, match=f"ann.json: {message}"):
        dataset(OBJECTS, data=data).read(0)


def test_a_missing_json_is_an_error(dataset):
    with pytest.raises(UserError, match=r"ann.json: there is no such annotation file"):
        dataset(OBJECTS).read(0)


# COCO boxes.


def test_boxes_have_corners_and_leave_crowds_out(dataset):
    data = coco_json()
    for category, box, crowd in (
        (2, [1, 2, 3, 4], 0),
        (1, [0, 0, 10, 8], 1),
        (9, [0, 0, 1, 1], 0),
        (1, [2.5, 0, 1, 8], 0),
    ):
        data["annotations"].append({"image_id": 4, "category_id": category, "bbox": box, "iscrowd": crowd})
    annotation = dataset(OBJECTS.replace("instances", "boxes"), data=data, size=(8, 10)).read(0).annotation
    assert annotation.boxes.tolist() == [[1, 2, 4, 6], [2.5, 0, 3.5, 8]]
    assert annotation.classes.tolist() == [1, 0]
    assert annotation.extent.tolist() == [8, 10]


def test_an_image_without_boxes_works(dataset):
    annotation = dataset(OBJECTS.replace("instances", "boxes"), data=coco_json(), size=(8, 10)).read(0).annotation
    assert annotation.boxes.shape == (0, 4)
    assert annotation.boxes.dtype == torch.float32


# PASCAL VOC boxes.

VOC = 'annotations = "{id}.xml"\nencoding = "voc_boxes"\n[classes]\ncat = {}\ndog = ["dog", "puppy"]'


def voc_xml(*objects, size=(10, 8)):
    """Write what VOC does: a name, and the corners xmin, ymin, xmax, ymax."""
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    keys = ("xmin", "ymin", "xmax", "ymax")
    found = [
        f"<object><name>{name}</name><bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in zip(keys, box, strict=True))}"
        "</bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
        "</part></object>"
        for name, box in objects
    ]
    return f"<annotation>{sides}{''.join(found)}</annotation>"


def test_voc_boxes_count_pixels_from_one_and_include_both_ends(dataset):
    xml = voc_xml(("puppy", (1, 1, 10, 8)), ("cat", (3, 2, 3, 2)))
    folder = dataset(VOC, json_name="a.xml", data=xml, size=(8, 10))
    annotation = folder.read(0).annotation
    assert annotation.boxes.tolist() == [[0, 0, 10, 8], [2, 1, 3, 2]]
    assert annotation.classes.tolist() == [1, 0]
    assert annotation.extent.tolist() == [8, 10]
    assert folder.space.classes[0].thing
    folder.prepare()


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (voc_xml(("bird", (1, 1, 2, 2))), "category 'bird' is not in the card"),
        ("<annotation><size>", "not the XML that encoding 'voc_boxes' reads"),
        ("<annotation></annotation>", "it does not give the image's size"),
        (voc_xml(("cat", ("x", 1, 2, 2))), "object 1 .'cat'., bndbox.xmin = .x.: a number is needed"),
        (voc_xml().replace("<width>10</width>", ""), "size, width: is missing"),
        (voc_xml(size=(11, 8)), "11x8 but the image is 10x8"),
    ],
)
def test_voc_boxes_that_cannot_be_read_are_errors_naming_the_file(dataset, xml, message):
    with pytest.raises(DataError, match=f"a.xml: .*{message}"):
        dataset(VOC, json_name="a.xml", data=xml, size=(8, 10)).read(0)


def test_an_image_without_voc_file_is_an_error(dataset):
    with pytest.raises(DataError, match=r"a.xml: there is no such file"):
        dataset(VOC, size=(8, 10)).read(0)


def test_a_card_of_voc_boxes_needs_a_file_an_image(dataset):
    with pytest.raises(UserError, match="is to have the names that `image` has"):
        dataset(VOC.replace("{id}.xml", "all.xml"))


# Open Images.

OPEN_BOXES = """
annotations = "ann.csv"
encoding = "openimages_boxes"
ignore = ["*"]
[classes]
car = "/m/0k4j"
person = ["/m/01g317", "/m/04yx4"]
"""
OPEN_CSV = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsInside
a,xclick,/m/0k4j,1,0.1,0.5,0.25,1,0,0,0,0
b,xclick,/m/0k4j,1,0,1,0,1,0,0,0,0
a,xclick,/m/04yx4,1,0,1,0,1,0,0,1,0
a,xclick,/m/09j2d,1,0,1,0,1,0,0,0,0
a,xclick,/m/04yx4,1,0.5,1,0,0.125,0,0,0,0
"""


def test_open_images_boxes_are_parts_of_the_images_sides_and_leave_groups_out(dataset):
    annotation = dataset(OPEN_BOXES, json_name="ann.csv", data=OPEN_CSV, size=(8, 10)).read(0).annotation
    torch.testing.assert_close(annotation.boxes, torch.tensor([[1.0, 2, 5, 8], [5, 0, 10, 1]]))
    assert annotation.classes.tolist() == [0, 1]
    assert annotation.extent.tolist() == [8, 10]


def test_labels_of_open_images_that_the_card_does_not_name_are_errors_unless_all_others_are_ignored(dataset):
    card = OPEN_BOXES.replace('"*"', '"/m/0zzz"')
    with pytest.raises(DataError, match="category '/m/09j2d' is not in the card"):
        dataset(card, json_name="ann.csv", data=OPEN_CSV, size=(8, 10)).read(0)
    with pytest.raises(UserError, match='"\\*" stands for all other values'):
        dataset(OPEN_BOXES.replace('"/m/0k4j"', '"*"'))


def test_open_images_tags_are_the_labels_that_people_did_not_refute(dataset):
    card = OPEN_BOXES.replace("boxes", "tags")
    rows = ("ImageID,Source,LabelName,Confidence", "a,person,/m/0k4j,0", "a,person,/m/01g317,1", "a,machine,/m/x,0.7")
    folder = dataset(card, json_name="ann.csv", data="\n".join(rows), size=(8, 10))
    assert folder.read(0).annotation.classes.tolist() == [1]
    assert folder.card.kind == "tags"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ImageID,LabelName\na,/m/0k4j\n", "not the CSV that encoding 'openimages_boxes' reads \\(no 'XMin'\\)"),
        (OPEN_CSV.replace("0.25", "?"), "line 2, YMin = .*: a number is needed"),
        (OPEN_CSV.split("a,")[0], "'a': it has no entry for this image .it has no entry at all"),
    ],
)
def test_open_images_files_that_cannot_be_read_are_errors(dataset, text, message):
    with pytest.raises(UserError, match=f"ann.csv: {message}"):
        dataset(OPEN_BOXES, json_name="ann.csv", data=text, size=(8, 10)).read(0)


LINES = OPEN_BOXES.replace("openimages_boxes", "box_lines").replace('["*"]', "[7]")
LINES = LINES.replace('"/m/0k4j"', "2").replace('["/m/01g317", "/m/04yx4"]', "[0, 1]")


def test_lines_of_boxes_hold_the_first_and_last_pixels_and_an_image_without_a_line_has_no_object(dataset):
    rows = ["a.jpg;1;2;4;7;2", "b.jpg;0;0;1;1;0", "a.jpg,5,0,9,0,1", "", "a.jpg;0;0;1;1;7"]
    folder = dataset(LINES, json_name="ann.csv", data="\n".join(rows), size=(8, 10))
    annotation = folder.read(0).annotation
    torch.testing.assert_close(annotation.boxes, torch.tensor([[1.0, 2, 5, 8], [5, 0, 10, 1]]))
    assert annotation.classes.tolist() == [0, 1]
    nothing = dataset(LINES, json_name="ann.csv", data="b.jpg;0;0;1;1;0\n", size=(8, 10)).read(0).annotation
    assert len(nothing.boxes) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg;1;2;4;7", "line 1, the line: .*a.jpg;1;2;4;7.* is not image;left;top"),
        ("\na.jpg;1;2;four;7;2", "line 2, the line"),
        ("a.jpg;4;2;1;7;2", "line 1, left, top, right, bottom = .*negative side"),
        ("a.jpg;1;2;4;7;3", "class 3 is not in the card"),
    ],
)
def test_a_line_of_a_box_that_cannot_be_is_named(dataset, text, message):
    with pytest.raises(DataError, match=message):
        dataset(LINES, json_name="ann.csv", data=text, size=(8, 10)).read(0)


def test_a_missing_csv_is_an_error(dataset):
    with pytest.raises(UserError, match=r"ann.csv: there is no such annotation file"):
        dataset(OPEN_BOXES, size=(8, 10)).read(0)


# Tags.

TAGS = 'annotations = "ann.json"\nencoding = "tags"\nignore = ["blurred"]\n[classes]\ncat = {}\ndog = "n02084071"'


def test_tags_are_listed_by_image(dataset):
    folder = dataset(TAGS, data={"a": ["n02084071", "blurred", "cat", "cat"], "b": []})
    assert folder.read(0).annotation.classes.tolist() == [0, 1]


def test_an_unknown_tag_and_an_image_without_an_entry_are_errors(dataset):
    with pytest.raises(DataError, match="tag 'dog' is not in the card"):
        dataset(TAGS, data={"a": ["dog"]}).read(0)
    with pytest.raises(DataError, match=r"'a': it has no entry for this image"):
        dataset(TAGS, data={"b": []}).read(0)
    with pytest.raises(UserError, match="'a': \"cat\" is no list of tags"):
        dataset(TAGS, data={"a": "cat"}).read(0)


# Regions.


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 4))
def test_segments_agree_with_the_dense_labels_wherever_they_are_known(data, regions, classes):
    plane = data.draw(arrays(np.int64, (3, 4), elements=st.integers(0, regions - 1)))
    cls = data.draw(arrays(np.int64, regions, elements=st.integers(-1, classes - 1)))
    known = data.draw(arrays(np.bool_, regions))
    things = data.draw(arrays(np.bool_, classes))
    r = Regions(plane, cls, known)
    dense, (ids, of) = r.labels(), r.segments(things)
    expected = np.where(known[plane], dense, IGNORE)
    assert np.array_equal(np.append(of, IGNORE)[ids], expected)
    assert sorted(set(ids[ids >= 0].tolist())) == list(range(len(of)))
    for c in range(classes):
        present = {p for p in set(plane.ravel().tolist()) if cls[p] == c and known[p]}
        assert int((of == c).sum()) == (len(present) if things[c] else bool(present))


@pytest.mark.parametrize("plane", [np.uint8, np.uint16])
@pytest.mark.parametrize(("last", "bits"), [(127, np.int8), (128, np.int16), (40_000, np.int32)])
def test_labels_have_the_fewest_bits_that_hold_all_classes(plane, last, bits):
    regions = np.array([[2, 0, 1], [1, 3, 1]], plane)
    found = Regions(regions, np.array([0, last, IGNORE, 5]), np.ones(4, bool)).labels()
    assert found.dtype == bits
    assert found.tolist() == [[IGNORE, 0, last], [last, 5, last]]


def test_a_table_of_more_than_256_regions_reads_a_mask_of_8_bits():
    classes = np.arange(1000) % 7
    assert Regions(np.array([[255, 3]], np.uint8), classes, np.ones(1000, bool)).labels().tolist() == [[3, 3]]


@pytest.mark.parametrize(("value", "classes"), [(65536 + 300, "b = 300"), (300 - 65536, "b = 300"), (-1, "b = 65535")])
def test_a_value_of_32_bits_is_not_taken_for_another(dataset, tmp_path, value, classes):
    plane = np.zeros((4, 4), np.int32)
    plane[:, 2:] = value
    folder = dataset(f'mask = "{{id}}.tif"\nencoding = "index"\n[classes]\na = 0\n{classes}\n', size=(4, 4))
    Image.fromarray(plane).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=f"not in the card: value {value} on 8 pixels"):
        folder.read(0)


def test_ids_of_objects_of_32_bits_are_told_apart(dataset, tmp_path):
    ids = np.array([[1, 65537], [0, 1]], np.int32)
    card = (
        'mask = "m/{id}.png"\ninstances = "{id}i.tif"\nencoding = "index"\n[classes]\na = { value = 1, thing = true }\n'
    )
    folder = dataset(card, size=(2, 2), m=np.ones((2, 2), np.uint8))
    Image.fromarray(ids).save(tmp_path / "ai.tif")
    assert segments(folder.read(0).annotation) == {0: [1, 2]}


def test_where_instances_are_class_times_256_and_a_number_0_is_an_object_of_class_0(dataset):
    card = 'mask = "m/{id}.png"\ninstances = "i/{id}.png"\nencoding = "index"\nignore = [65]\n[classes]\n'
    classes = "bird = { value = 0, thing = true }\ncar = { value = 55, thing = true }\n"
    labels = np.array([[0, 0, 65], [0, 55, 65]], np.uint8)
    numbers = labels.astype(np.uint16) * 256
    numbers[1, 0] = 1
    folder = dataset(card + classes, m=labels, i=numbers)
    assert segments(folder.read(0).annotation) == {0: [1, 2], 1: [1]}
