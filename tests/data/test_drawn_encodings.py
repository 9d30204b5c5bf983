"""Encodings of labelling tools: objects that are drawn, read from trees in each tool's own layout."""

import base64
import json

import layouts
import numpy as np
import pytest
from layouts import H, W

from manyseg.data import load
from manyseg.data.files import DataError
from manyseg.errors import UserError
from manyseg.labels import IGNORE

CARDS = {
    "labelme": ('image = "{id}.jpg"\nannotations = "{id}.json"\nencoding = "labelme"', layouts.labelme),
    "supervisely": (
        'image = "{split}/img/{id}"\nannotations = "{split}/ann/{id}.json"\nencoding = "supervisely"',
        layouts.supervisely,
    ),
    "yolo_segments": (
        'image = "images/{split}/{id}.jpg"\nannotations = "labels/{split}/{id}.txt"\nencoding = "yolo_segments"',
        layouts.yolo,
    ),
    "cvat_images": (
        'image = "images/{id}.jpg"\nannotations = "annotations.xml"\nencoding = "cvat_images"',
        layouts.cvat_images,
    ),
    "label_studio": (
        'image = "images/{id}.jpg"\nannotations = "project-3-at-2025-01-01.json"\nencoding = "label_studio"',
        layouts.label_studio,
    ),
    "polygon_json": (
        'image = "leftImg8bit/{split}/{id}_leftImg8bit.png"\nannotations = "gtFine/{split}/{id}_gtFine_polygons.json"\n'
        'encoding = "polygon_json"',
        layouts.polygon_json,
    ),
    "ade_full": (
        'image = "images/ADE/{split}/{id}.jpg"\nmask = "images/ADE/{split}/{id}_seg.png"\nencoding = "ade_full"\n'
        "ignore = [0]",
        layouts.ade_full,
    ),
    "coco_instances": (
        'image = "images/default/{id}.jpg"\nannotations = "annotations/instances_default.json"\n'
        'encoding = "coco_instances"',
        layouts.cvat_coco,
    ),
}
CLASSES = {
    "ade_full": "road = 1831\ncar = { value = 401, thing = true }",
    "yolo_segments": "road = 0\ncar = 1",
    "coco_instances": "road = 1\ncar = 2",
}
TOOLS = [name for name in CARDS if name not in CLASSES]


def write_card(root, name, *, keys="", classes=None):
    card, _ = CARDS[name]
    split = "training" if name == "ade_full" else "train" if "{split}" in card else "."
    body = classes or CLASSES.get(name, "road = {}\ncar = {}")
    (root / "card.toml").write_text(
        f'name = "t"\nsplits = {{ train = "{split}" }}\n{card}\n{keys}\n[classes]\n{body}\n'
    )
    return root / "card.toml"


def opened(tmp_path, name, **changes):
    CARDS[name][1](tmp_path / "data")
    return load(write_card(tmp_path, name, **changes), tmp_path / "data")


def picture(folder, index):
    """Which of the pictures the image shows."""
    return next(i for i, n in enumerate(layouts.NAMES) if n in folder.ids[index])


@pytest.mark.parametrize("name", CARDS)
def test_the_objects_of_a_tool_are_painted_where_they_were_drawn(tmp_path, name):
    folder = opened(tmp_path, name)
    for index in range(len(folder)):
        annotation = folder.read(index).annotation
        assert np.array_equal(annotation.labels.numpy(), layouts.truth(picture(folder, index)))
        assert sorted(annotation.classes.tolist()) == [0, 1]


@pytest.mark.parametrize("name", [n for n in CARDS if n != "ade_full"])
def test_pixels_under_no_object_are_of_the_background_class_where_the_card_names_one(tmp_path, name):
    body = CLASSES.get(name, "road = {}\ncar = {}") + "\nrest = {}"
    folder = opened(tmp_path, name, keys='background = "rest"', classes=body)
    labels = folder.read(0).annotation.labels.numpy()
    assert np.array_equal(labels, layouts.truth(picture(folder, 0), background=2))
    assert [c.thing for c in folder.space.classes] == [True, True, False]


def test_a_background_that_is_no_class_and_keys_that_an_encoding_does_not_read_are_errors(tmp_path):
    with pytest.raises(UserError, match='background = "rest" is no class of the card'):
        opened(tmp_path, "labelme", keys='background = "rest"')
    with pytest.raises(UserError, match="'ade_full' does not read the key `overlap`"):
        opened(tmp_path, "ade_full", keys='overlap = "last"')


def polygon_file(tmp_path, *objects):
    """Open one image whose objects are (label, (x0, y0, x1, y1))."""
    layouts.polygon_json(tmp_path / "data")
    file = next((tmp_path / "data").rglob("*_polygons.json"))
    found = [{"label": label, "polygon": layouts.corners(box)} for label, box in objects]
    file.write_text(json.dumps({"imgHeight": H, "imgWidth": W, "objects": found}))
    return next(n for n in layouts.NAMES if n in file.name)


@pytest.mark.parametrize(("overlap", "top"), [("smallest", 1), ("last", 0)])
def test_of_overlapping_objects_the_smallest_or_the_last_is_on_top_as_the_card_says(tmp_path, overlap, top):
    name = polygon_file(tmp_path, ("car", (4, 4, 8, 8)), ("road", (0, 0, 20, 20)))
    folder = load(write_card(tmp_path, "polygon_json", keys=f'overlap = "{overlap}"'), tmp_path / "data")
    labels = folder.read_annotation(next(i for i in range(len(folder)) if name in folder.ids[i])).labels
    assert labels[5, 5] == top
    assert labels[15, 15] == 0


@pytest.mark.parametrize("name", [n for n in CARDS if n != "ade_full"])
@pytest.mark.parametrize(("overlap", "under_both"), [("smallest", 1), ("last", 1), ("first", 0), ("none", IGNORE)])
def test_the_rule_of_overlaps_holds_for_every_encoding_of_drawn_objects(tmp_path, name, overlap, under_both):
    folder = opened(tmp_path, name, keys=f'overlap = "{overlap}"')
    truth = layouts.truth(picture(folder, 0))  # The car lies on the road: it is the smaller and the later one.
    labels = folder.read(0).annotation.labels.numpy()
    assert np.array_equal(labels, np.where(truth == 1, under_both, truth))


def test_with_no_object_on_top_those_of_one_class_still_have_their_pixels(tmp_path):
    boxes = [("road", (0, 0, 20, 20)), ("road", (10, 0, 30, 20)), ("car", (25, 0, 40, 20))]
    name = polygon_file(tmp_path, *boxes)
    folder = load(write_card(tmp_path, "polygon_json", keys='overlap = "none"'), tmp_path / "data")
    labels = folder.read_annotation(next(i for i in range(len(folder)) if name in folder.ids[i])).labels[5]
    assert labels[:45:5].tolist() == [0, 0, 0, 0, 0, IGNORE, 1, 1, IGNORE]


# Shapes of each tool.


def one_labelme(tmp_path, *shapes):
    layouts.labelme(tmp_path / "data")
    path = tmp_path / "data" / f"{layouts.NAMES[0]}.json"
    data = json.loads(path.read_text())
    data["shapes"] = list(shapes)
    path.write_text(json.dumps(data))
    folder = load(write_card(tmp_path, "labelme"), tmp_path / "data")
    return folder.read_annotation(folder.ids.index(layouts.NAMES[0]))


def test_labelme_rectangles_circles_and_bitmaps_have_an_area_and_lines_have_none(tmp_path):
    disc = {"label": "car", "points": [[30, 20], [35, 20]], "shape_type": "circle"}
    square = {"label": "road", "points": [[12, 8], [2, 3]], "shape_type": "rectangle"}
    bitmap = base64.b64encode(layouts.png(np.ones((4, 6)))).decode()
    painted = {"label": "car", "points": [[50, 30], [55, 33]], "shape_type": "mask", "mask": bitmap}
    line = {"label": "road", "points": [[0, 0], [9, 9]], "shape_type": "line"}
    labels = one_labelme(tmp_path, disc, square, painted, line).labels
    assert (labels == 0).sum() == 10 * 5
    assert (labels[30:34, 50:56] == 1).all()
    assert abs(int((labels == 1).sum()) - 24 - np.pi * 25) < 6


def test_a_number_that_nothing_can_hold_is_an_error_of_its_file(tmp_path):
    folder = opened(tmp_path, "labelme")
    path = tmp_path / "data" / f"{folder.ids[0]}.json"
    path.write_text(path.read_text().replace("20", "1e999"))
    with pytest.raises(DataError, match=r"\.json: the JSON holds what no field can hold \(Number out of range"):
        folder.read(0)


def test_labelme_shapes_of_one_group_are_one_object(tmp_path):
    parts = [
        {"label": "car", "points": [[x, 4], [x + 4, 8]], "shape_type": "rectangle", "group_id": group}
        for x, group in ((0, 1), (10, 1), (20, 2), (30, None), (40, None))
    ]
    assert one_labelme(tmp_path, *parts).classes.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"points": [[1, 2]], "label": None}, r"shapes\[0\].label: Input should be a valid string .it is None"),
        ({"points": [[1, "2"]], "label": "car"}, r"shapes\[0\].points\[0\]\[1\]: .*valid number .it is '2'"),
        ({"points": [[1, 2], [3, float("nan")]], "label": "car"}, r"shapes\[0\].points\[1\]\[1\]: .*valid number"),
        ({"points": [[1, 2], [3, 1e9]], "label": "car"}, r"points\[1\]\[1\]: .*less than or equal to 1000000"),
        ({"points": [[1, 2], [3, 4]], "label": "car"}, r"shapes\[0\]: a polygon of 2 points has no area"),
        ({"points": [[1, 2], [3, 4], [900, 1]], "label": "car"}, r"the point \(900, 1\) lies far outside .* 60x40"),
        ({"points": [[1, 2]], "label": "car", "shape_type": "circle"}, "a circle of 1 points, not 2"),
        ({"points": [[1, 2]], "label": "car", "shape_type": "blob"}, "shape_type: Input should be 'polygon'"),
        (
            {"points": [[1, 2], [3, 4]], "label": "car", "shape_type": "mask", "mask": "AAAA"},
            r"shapes\[0\].mask: no PNG of a bitmap",
        ),
        ({"points": [[1, 2], [3, 4], [5, 9]], "label": "bus"}, "label 'bus' is not in the card"),
    ],
)
def test_a_faulty_labelme_shape_is_named_with_its_field_and_value(tmp_path, shape, message):
    with pytest.raises(DataError, match=f"{layouts.NAMES[0]}.json: .*{message}") as e:
        one_labelme(tmp_path, shape)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("points", "pixels", "message"),
    [
        (
            [[-9, 0], [20, 0], [20, 20], [-9, 20]],
            400,
            "the outline reaches out of the image (of 60x40), and is cut off",
        ),
        ([[2, 2], [12, 12], [22, 22]], 0, "an outline has no pixel, and is left out"),
        ([[5, 5], [5, 9], [5, 7]], 0, "the outline has no area, and is left out"),
        ([[-1, 0], [20, 0], [20, 20], [-1, 20]], 400, None),
    ],
)
def test_what_is_cut_off_or_left_out_of_a_drawn_object_is_said(tmp_path, points, pixels, message):
    annotation = one_labelme(tmp_path, {"label": "car", "points": points, "shape_type": "polygon"})
    assert int((annotation.labels == 1).sum()) == pixels
    folder = load(tmp_path / "card.toml", tmp_path / "data")
    said = folder.found(folder.files(folder.ids.index(layouts.NAMES[0]))).findings
    assert [f.what for f in said] == ([] if message is None else [message])
    assert all(f.severity == "warning" and "label 'car'" in f.place for f in said)


def test_an_object_outside_of_the_image_is_an_error(tmp_path):
    shape = {"label": "car", "points": [[70, 0], [90, 0], [90, 20]], "shape_type": "polygon"}
    with pytest.raises(DataError, match=r"shapes\[0\]: the outline lies outside of the image \(of 60x40\)"):
        one_labelme(tmp_path, shape)


def test_a_bitmap_over_the_edge_is_cut_off_and_said(tmp_path):
    layouts.supervisely(tmp_path / "data")
    path = next((tmp_path / "data/train/ann").glob("*.json"))
    data = json.loads(path.read_text())
    data["objects"] = [o for o in data["objects"] if "bitmap" in o]
    data["objects"][0]["bitmap"]["origin"] = [W - 2, 0]
    path.write_text(json.dumps(data))
    folder = load(write_card(tmp_path, "supervisely"), tmp_path / "data")
    files = folder.files(folder.ids.index(path.stem))
    assert [f.what for f in folder.found(files).findings] == [
        "the bitmap reaches out of the image (of 60x40), and is cut off"
    ]


def test_holes_of_a_supervisely_polygon_are_no_part_of_it(tmp_path):
    layouts.supervisely(tmp_path / "data")
    path = next((tmp_path / "data/train/ann").glob("*.json"))
    points = {"exterior": layouts.corners((0, 0, 20, 20)), "interior": [layouts.corners((5, 5, 10, 10))]}
    file = {
        "size": {"height": H, "width": W},
        "objects": [{"classTitle": "car", "geometryType": "polygon", "points": points}],
    }
    path.write_text(json.dumps(file))
    folder = load(write_card(tmp_path, "supervisely"), tmp_path / "data")
    labels = folder.read_annotation(folder.ids.index(path.stem)).labels
    assert (labels == 1).sum() == 400 - 25
    assert labels[7, 7] == IGNORE


def test_a_bitmap_that_unpacks_to_anything_else_is_an_error(tmp_path):
    layouts.supervisely(tmp_path / "data")
    path = next((tmp_path / "data/train/ann").glob("*.json"))
    data = json.loads(path.read_text())
    data["objects"][1]["bitmap"]["data"] = base64.b64encode(b"none").decode()
    path.write_text(json.dumps(data))
    folder = load(write_card(tmp_path, "supervisely"), tmp_path / "data")
    with pytest.raises(DataError, match=r"objects\[1\].bitmap.data: no packed PNG"):
        folder.read_annotation(folder.ids.index(path.stem))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x 0 0 1 1", "line 1: 'x' is no class number"),
        ("1 0.5 0.5 12 0.2", "line 1: 12 is not a part of the image's side, from 0 to 1; divide pixels"),
        ("1 0.5 nan 0.1 0.2", "line 1: nan is not a part"),
        ("1 0.5 0.5 0.1", "line 1: 3 coordinates; a box has 4, a polygon pairs"),
        ("1 0.5 0.5 0.1 0.2 0.3", "line 1: 5 coordinates"),
        ("1 a 0.5 0.1 0.2", "line 1: 'a' is no number"),
        ("7 0.5 0.5 0.1 0.2", "label 7 is not in the card"),
    ],
)
def test_a_faulty_line_of_yolo_is_named_with_its_value(tmp_path, line, message):
    layouts.yolo(tmp_path / "data")
    path = tmp_path / "data/labels/train" / f"{layouts.NAMES[0]}.txt"
    path.write_text(line)
    folder = load(write_card(tmp_path, "yolo_segments"), tmp_path / "data")
    with pytest.raises(DataError, match=f"{layouts.NAMES[0]}.txt: {message}"):
        folder.read_annotation(folder.ids.index(layouts.NAMES[0]))


def test_an_image_without_a_yolo_file_has_no_object(tmp_path):
    layouts.yolo(tmp_path / "data")
    (tmp_path / "data/labels/train" / f"{layouts.NAMES[0]}.txt").unlink()
    folder = load(write_card(tmp_path, "yolo_segments"), tmp_path / "data")
    assert folder.read_annotation(folder.ids.index(layouts.NAMES[0])).labels.eq(IGNORE).all()


def test_yolo_boxes_outside_are_errors_and_those_over_the_edge_are_said(tmp_path):
    layouts.yolo(tmp_path / "data")
    path = next(p for p in (tmp_path / "data").rglob("*.txt") if p.parent.name != "data")
    path.write_text("1 0.0 0.5 0.4 0.5\n0 0.5 0.5 0.0 0.5\n")
    card = write_card(tmp_path, "yolo_segments")
    card.write_text(card.read_text().replace("yolo_segments", "yolo_boxes"))
    folder = load(card, tmp_path / "data")
    files = folder.files(folder.ids.index(path.stem))
    assert len(folder.found(files).classes) == 1
    assert [(f.place, f.what) for f in folder.found(files).findings] == [
        ("line 1", "the box reaches out of the image (of 60x40), and is cut off"),
        ("line 2", "the box has no area, and is left out"),
    ]
    path.write_text("1 1.3 0.5 0.2 0.5\n")
    with pytest.raises(DataError, match="line 1: the box lies outside of the image"):
        folder.found(files)


def test_yolo_boxes_are_in_pixels(tmp_path):
    layouts.yolo_boxes(tmp_path / "data")
    path = write_card(tmp_path, "yolo_segments")
    path.write_text(path.read_text().replace("yolo_segments", "yolo_boxes"))
    folder = load(path, tmp_path / "data")
    index = folder.ids.index(layouts.NAMES[2])
    annotation = folder.read(index).annotation
    assert annotation.boxes.round().tolist() == [list(layouts.road(2)), list(layouts.car(2))]
    assert annotation.classes.tolist() == [0, 1]
    # A box file is read as rectangles where segments are asked for.
    path.write_text(path.read_text().replace("yolo_boxes", "yolo_segments"))
    labels = load(path, tmp_path / "data").read_annotation(index).labels.numpy()
    assert np.array_equal(labels, layouts.truth(2))


def cvat_with(tmp_path, *elements):
    layouts.cvat_images(tmp_path / "data")
    path = tmp_path / "data/annotations.xml"
    image = f'<image id="0" name="{layouts.NAMES[0]}.jpg" width="{W}" height="{H}">{"".join(elements)}</image>'
    path.write_text(f"<annotations>{image}</annotations>")
    folder = load(write_card(tmp_path, "cvat_images", keys='overlap = "last"'), tmp_path / "data")
    return folder.read_annotation(folder.ids.index(layouts.NAMES[0])).labels


def test_cvat_boxes_ellipses_and_masks_lie_in_their_z_order(tmp_path):
    labels = cvat_with(
        tmp_path,
        '<box label="car" xtl="10" ytl="10" xbr="20" ybr="20" z_order="2"/>',
        '<ellipse label="road" cx="15" cy="15" rx="10" ry="10" z_order="1"/>',
        '<points label="road" points="1,1" z_order="5"/>',
        '<box label="car" xtl="40" ytl="10" xbr="50" ybr="14" rotation="90" z_order="0"/>',
        '<mask label="car" rle="1, 2, 3, 2, 1" left="50" top="30" width="3" height="3" z_order="0"/>',
    )
    assert (labels[10:20, 10:20] == 1).all()
    assert labels[15, 7] == 0
    # A box of 10 x 4 that stands upright about its centre (45, 12).
    assert (labels[7:17, 43:47] == 1).all()
    assert labels[12, 41] == IGNORE
    assert labels[30:33, 50:53].tolist() == [[-1, 1, 1], [-1, -1, -1], [1, 1, -1]]


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ('<polygon label="car" points="1,2;3"/>', r"polygon 0.points\[1\]"),
        ('<polygon label="car" points="1,2;3,inf;4,4"/>', "finite"),
        ('<box label="car" xtl="1" ytl="1" xbr="x" ybr="2"/>', r"box 0.xbr: .*\(it is 'x'\)"),
        ('<mask label="car" rle="1,7" left="0" top="0" width="3" height="3"/>', "runs of 8 pixels in a box of 3x3"),
        (
            '<mask label="car" rle="1,8" left="900" top="0" width="3" height="3"/>',
            r"lies outside of the image \(of 60x40\)",
        ),
        ('<box xtl="1" ytl="1" xbr="3" ybr="2"/>', "box 0: it has no label"),
    ],
)
def test_a_faulty_object_of_cvat_is_named(tmp_path, element, message):
    with pytest.raises(DataError, match=f"annotations.xml: image '.*{layouts.NAMES[0]}.jpg': .*{message}"):
        cvat_with(tmp_path, element)


@pytest.mark.parametrize(("text", "message"), [("<annotations>", "truncated XML"), ("<a/>", "it is <a>, not")])
def test_an_xml_of_another_kind_is_an_error(tmp_path, text, message):
    folder = opened(tmp_path, "cvat_images")
    (tmp_path / "data/annotations.xml").write_text(text)
    with pytest.raises(UserError, match=message):
        folder.read_annotation(0)


def studio_with(tmp_path, value, **changes):
    layouts.label_studio(tmp_path / "data")
    path = tmp_path / "data/project-3-at-2025-01-01.json"
    result = {"original_width": W, "original_height": H, "type": "x", "value": value} | changes
    task = {"data": {"image": f"s3://b/{layouts.NAMES[0]}.jpg"}, "annotations": [{"result": [result]}]}
    path.write_text(json.dumps([task]))
    folder = load(write_card(tmp_path, "label_studio"), tmp_path / "data")
    return folder.read_annotation(folder.ids.index(layouts.NAMES[0])).labels


def test_rectangles_and_ellipses_of_label_studio_are_in_per_cent(tmp_path):
    labels = studio_with(tmp_path, {"x": 50, "y": 25, "width": 10, "height": 50, "rectanglelabels": ["car"]})
    assert np.array_equal(labels.numpy() == 1, layouts.inside((30, 10, 36, 30)))
    labels = studio_with(tmp_path, {"x": 50, "y": 50, "radiusX": 10, "radiusY": 15, "ellipselabels": ["car"]})
    assert abs(int((labels == 1).sum()) - np.pi * 36) < 6


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rle": [0, 0, 0], "brushlabels": ["car"]}, "object 0.rle: not the runs of a brush .it ends too early"),
        (
            {"rle": layouts.brush(np.zeros((3, 3))), "brushlabels": ["car"]},
            "it has 36 values of 8 bits, not 4 for",
        ),
        ({"rle": [300], "brushlabels": ["car"]}, r"object 0.rle\[0\]: .*\(it is 300\)"),
        ({"points": [[1, 2], [3, None], [3, 3]], "polygonlabels": ["car"]}, r"object 0.points\[1\]\[1\]"),
        ({"polygonlabels": ["car"]}, "neither rle, points, radii nor sides"),
        ({"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["car", "road"]}, "not one; give it one label"),
    ],
)
def test_a_faulty_object_of_label_studio_is_named(tmp_path, value, message):
    with pytest.raises(DataError, match=f"project-3-at-2025-01-01.json: .*{layouts.NAMES[0]}.jpg': .*{message}"):
        studio_with(tmp_path, value)


def test_the_short_export_of_label_studio_is_read_too(tmp_path):
    layouts.label_studio(tmp_path / "data")
    path = tmp_path / "data/project-3-at-2025-01-01.json"
    tasks = []
    for task in json.loads(path.read_text()):
        results = task["annotations"][0]["result"]
        entries = [{**r["value"], "original_width": W, "original_height": H} for r in results]
        tasks.append({"image": task["data"]["image"], "id": task["id"], "tag": entries})
    path.write_text(json.dumps(tasks))
    folder = load(write_card(tmp_path, "label_studio"), tmp_path / "data")
    assert np.array_equal(folder.read_annotation(0).labels.numpy(), layouts.truth(picture(folder, 0)))


def test_full_ade_masks_tell_objects_apart_by_blue_and_name_unknown_values(tmp_path):
    folder = opened(tmp_path, "ade_full")
    path = folder.files(0).mask
    seg = np.zeros((H, W, 3), np.uint8)
    seg[:5] = (10, 145, 3)
    seg[5:9] = (15, 145, 9)  # red 15 is the same class as red 10
    layouts.mask(path, seg)
    annotation = folder.read_annotation(0)
    assert annotation.classes.tolist() == [1, 1]
    layouts.mask(path, np.full((H, W, 3), 7, np.uint8))
    with pytest.raises(DataError, match="not in the card: value 7 on 2400 pixels"):
        folder.read_annotation(0)
