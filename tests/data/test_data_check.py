"""The check of a dataset: planted faults, each found with its file, value and count."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny import save_pages

from manyseg.data import load
from manyseg.data.check import check, print_cards, print_check, survey
from manyseg.data.sheet import contact_sheet
from manyseg.errors import UserError

CARD = """
name = "street"
image = "images/{id}.jpg"
mask = "masks/{id}.png"
encoding = "index"
splits = { train = "train.txt", val = "val.txt" }
ignore = [255]
[classes]
road = 0
"parked car" = [3, 4]
"""
TRAIN = [f"t{i}" for i in range(6)]
VAL = ["v0", "v1"]


@pytest.fixture
def root(tmp_path):
    """A dataset without a fault: 6 + 2 images of 16 x 24, of road and half a car."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "card.toml").write_text(CARD)
    rng = np.random.default_rng(0)
    for name in TRAIN + VAL:
        Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(tmp_path / f"images/{name}.jpg")
        write_mask(tmp_path, name)
    (tmp_path / "train.txt").write_text("\n".join(TRAIN))
    (tmp_path / "val.txt").write_text("\n".join(VAL))
    return tmp_path


def write_mask(root, name, **changes):
    mask = np.zeros((16, 24), np.uint8)
    mask[:, 12:] = 3
    for value, count in changes.get("values", {}).items():
        mask.ravel()[:count] = value
    Image.fromarray(changes.get("mask", mask)).save(root / f"masks/{name}.png")


def found(root):
    return check(root / "card.toml", root)


def only(root):
    findings = found(root)
    assert len(findings) == 1, findings
    return findings[0]


def test_a_good_dataset_has_no_findings_and_a_right_histogram(root):
    findings, histograms = survey(root / "card.toml", root)
    assert findings == []
    assert histograms["train"].pixels.tolist() == [6 * 192, 6 * 192]
    assert histograms["train"].images.tolist() == [6, 6]
    assert histograms["val"].images.tolist() == [2, 2]


def test_a_root_that_does_not_exist_is_an_error(root):
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        check(root / "card.toml", root / "nowhere")


def test_an_image_without_a_mask(root):
    (root / "masks/t2.png").unlink()
    f = only(root)
    assert (f.severity, f.what, f.where) == ("error", "there is no such file", str(root / "masks/t2.png"))


def test_a_listed_image_that_is_missing(root):
    (root / "images/v1.jpg").unlink()
    assert only(root).where == str(root / "images/v1.jpg")


@pytest.mark.parametrize("name", ["images/t1.jpg", "masks/t1.png"])
def test_truncated_files(root, name):
    blob = (root / name).read_bytes()
    (root / name).write_bytes(blob[: len(blob) // 2])
    f = only(root)
    assert f.severity == "error"
    assert f.where == str(root / name)
    assert f.what.startswith("unreadable or truncated image")


def test_sizes_that_differ(root):
    write_mask(root, "t3", mask=np.zeros((16, 23), np.uint8))
    f = only(root)
    assert f.where == str(root / "masks/t3.png")
    assert f.what == "mask is 23x16 but the image is 24x16"


def test_colours_and_16_bits_where_an_index_was_promised(root):
    write_mask(root, "t0", mask=np.zeros((16, 24, 3), np.uint8))
    write_mask(root, "t1", mask=np.zeros((16, 24), np.uint16))
    assert {(f.where, f.what) for f in found(root)} == {
        (str(root / "masks/t0.png"), "RGB mask where an index was promised"),
        (str(root / "masks/t1.png"), "16-bit mask where 8-bit indices were promised"),
    }


def test_values_outside_the_card_are_counted_over_files(root):
    write_mask(root, "t1", values={77: 5})
    write_mask(root, "t4", values={77: 11, 9: 4})
    write_mask(root, "v0", values={77: 1})
    findings = {f.value: f for f in found(root)}
    assert findings["value 77"].files == 3
    assert findings["value 77"].count == 5 + 7 + 1
    assert findings["value 77"].where == str(root / "masks/t1.png")
    assert (findings["value 9"].files, findings["value 9"].count) == (1, 4)
    line = str(findings["value 77"])
    assert line.startswith(f"error: {root}/masks/t1.png (and 2 more files): not in the card: value 77 on 13 pixels; ")
    assert "`ignore`" in line


def test_classes_that_never_occur(root):
    (root / "card.toml").write_text(CARD + "train = 8\nbus = 9\nvan = 10\n")
    write_mask(root, "v0", values={10: 6})
    findings = {f.what: f for f in found(root)}
    assert findings["class never occurs"].value == "train, bus"
    assert findings["class never occurs"].severity == "warning"
    assert findings["class occurs, but not in split 'train'"].value == "van"


def test_empty_and_missing_splits(root):
    (root / "train.txt").write_text("")
    (root / "val.txt").unlink()
    findings = found(root)
    assert [f.severity for f in findings] == ["error", "error"]
    assert {f.where for f in findings} == {"split 'train'", "split 'val'"}
    assert any("is empty" in f.what for f in findings)
    assert any("there is no such split list" in f.what for f in findings)


def test_an_id_in_two_splits(root):
    (root / "val.txt").write_text("v0\nv1\nt5\nt2")
    f = only(root)
    assert f.severity == "error"
    assert f.what == "the same image in splits 'train' and 'val'"
    assert f.where == str(root / "images/t2.jpg") or f.where == str(root / "images/t5.jpg")
    assert f.files == 2


def test_the_same_content_in_two_splits_under_another_name(root):
    (root / "images/v1.jpg").write_bytes((root / "images/t4.jpg").read_bytes())
    f = only(root)
    assert f.severity == "error"
    assert f.what == f"the same image in splits 'train' and 'val' under another name ({root}/images/t4.jpg)"
    assert f.where == str(root / "images/v1.jpg")


def test_the_same_content_twice_in_one_split_is_a_warning(root):
    (root / "images/t1.jpg").write_bytes((root / "images/t4.jpg").read_bytes())
    assert only(root).severity == "warning"


def test_a_mask_without_any_label_and_a_mask_without_an_image(root):
    text = CARD.replace('train = "train.txt", val = "val.txt"', 'all = "."')
    (root / "card.toml").write_text(text)
    write_mask(root, "t1", mask=np.full((16, 24), 255, np.uint8))
    write_mask(root, "stray")
    assert {(f.severity, f.what, f.where) for f in found(root)} == {
        ("warning", "no pixel has a label", str(root / "masks/t1.png")),
        ("warning", "mask without an image", str(root / "masks/stray.png")),
    }


def test_one_fault_does_not_hide_another(root):
    blob = (root / "images/t0.jpg").read_bytes()
    (root / "images/t0.jpg").write_bytes(blob[:100])
    write_mask(root, "t0", values={77: 5})
    (root / "masks/v1.png").unlink()
    (root / "images/t5.jpg").write_bytes(b"no image")
    findings = found(root)
    assert {f.where for f in findings} == {
        str(root / "images/t0.jpg"),
        str(root / "masks/t0.png"),
        str(root / "masks/v1.png"),
    }
    assert next(f for f in findings if f.where.endswith("t0.jpg")).files == 2


def test_a_broken_json_is_one_finding_and_not_one_an_image(root):
    text = CARD.replace('mask = "masks/{id}.png"', 'annotations = "a.json"').replace('"index"', '"coco_boxes"')
    (root / "card.toml").write_text(text)
    (root / "a.json").write_text("{")
    findings = found(root)
    assert len(findings) == 1
    assert "unreadable or truncated JSON" in findings[0].what


def test_printing_ends_in_an_error_if_there_is_one(root, capsys):
    print_check(root / "card.toml", root, histogram=True, sheet=root / "sheet.png")
    out = capsys.readouterr().out
    assert "parked car" in out
    assert "50.00%" in out
    assert "8 images in 2 splits, 0 warnings, no errors" in out
    with Image.open(root / "sheet.png") as sheet:
        assert sheet.width > 400
    (root / "masks/t2.png").unlink()
    with pytest.raises(UserError, match="1 kind of error in 8 images"):
        print_check(root / "card.toml", root)
    assert "masks/t2.png: there is no such file" in capsys.readouterr().out.replace("\n", "")


def test_the_cards_are_listed(capsys):
    print_cards()
    out = capsys.readouterr().out
    assert "ade20k" in out
    assert "150" in out


def test_the_contact_sheet_shows_the_classes_in_their_colours(root):
    (root / "card.toml").write_text(CARD.replace("road = 0", 'road = { value = 0, color = "#ff0000" }'))
    for name in TRAIN:
        Image.new("RGB", (24, 16)).save(root / f"images/{name}.jpg")
    sheet = np.asarray(contact_sheet(load(root / "card.toml", root), count=2, columns=2))
    red, blue = sheet[100, 90].astype(int), sheet[100, 300].astype(int)
    assert red[0] > 120
    assert red[1:].max() < 10
    assert blue[0] != red[0]


@pytest.mark.parametrize("encoding", ["coco_boxes", "tags"])
def test_boxes_and_tags_are_counted_and_drawn(root, encoding):
    text = CARD.replace('mask = "masks/{id}.png"', 'annotations = "a.json"').replace('"index"', f'"{encoding}"')
    if encoding == "tags":
        text = text.split("ignore")[0] + "[classes]\nroad = {}\nvan = {}\n"
        data = {name: ["road"] for name in TRAIN} | {"v0": ["van"], "v1": []}
    else:
        images = [{"id": n, "file_name": f"{n}.jpg", "height": 16, "width": 24} for n in TRAIN + VAL]
        boxes = [{"image_id": n, "category_id": 0, "bbox": [2, 2, 8, 8]} for n in TRAIN]
        data = {"images": images, "annotations": [*boxes, {**boxes[0], "image_id": "v0", "category_id": 3}]}
    (root / "card.toml").write_text(text)
    (root / "a.json").write_text(json.dumps(data))
    findings, histograms = survey(root / "card.toml", root)
    assert [f.what for f in findings] == ["class occurs, but not in split 'train'"]
    assert histograms["train"].pixels.tolist() == [6, 0]
    assert histograms["val"].images.tolist() == [0, 1]
    assert contact_sheet(load(root / "card.toml", root)).height > 200


def test_a_table_beside_the_masks_that_exchanges_two_classes_is_said(root):
    for text in ("id,name\n0,parked car\n3,road\n", "Pixel Value, Class\n0, Parked-Car\n 3, road\n"):
        (root / "_classes.csv").write_text(text)
        finding = only(root)
        assert finding.severity == "warning"
        assert "a table of classes and the card call values by each other's names (2)" in finding.what
        assert finding.value.lower().replace("-", " ").startswith("0 is 'parked car' there, 'road' in the card, 3 is")
        assert finding.where.endswith("_classes.csv")
    # As advised: the values corrected in the card; and other names for the same values are no fault.
    (root / "_classes.csv").write_text("id,name\n0,street\n3,vehicle\n4,truck\n")
    assert found(root) == []
    (root / "_classes.csv").write_text("road\nparked car\n")
    assert found(root) == []


def test_a_table_of_colours_is_compared_in_the_folder_of_the_masks_too(root):
    (root / "card.toml").write_text(
        CARD.replace('"index"', '"color"')
        .replace("[255]", "[]")
        .replace("= 0", '= "#000000"')
        .replace("[3, 4]", '"#ff0000"')
    )
    for name in TRAIN + VAL:
        mask = np.zeros((16, 24, 3), np.uint8)
        mask[:, 12:, 0] = 255
        write_mask(root, name, mask=mask)
    assert found(root) == []
    (root / "masks/labelmap.txt").write_text("# label:color_rgb:parts:actions\nroad:255,0,0::\nparked car:0,0,0::\n")
    assert "#000000 is 'parked car' there, 'road' in the card" in only(root).value


def test_boxes_of_voc_that_reach_out_of_the_image_are_said(root):
    card = CARD.replace('mask = "masks/{id}.png"', 'annotations = "{id}.xml"').replace('"index"', '"voc_boxes"')
    (root / "card.toml").write_text(card.replace("ignore = [255]", "").replace("= 0", "= {}").replace("[3, 4]", "{}"))
    for name in TRAIN + VAL:
        corners = "<xmin>1</xmin><ymin>1</ymin><xmax>12</xmax><ymax>40</ymax>"
        objects = "".join(
            f"<object><name>{n}</name><bndbox>{corners}</bndbox></object>" for n in ("road", "parked car")
        )
        size = "<size><width>24</width><height>16</height></size>"
        (root / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    finding = only(root)
    assert (finding.severity, finding.files, finding.places) == ("warning", 8, 16)
    assert finding.place == "object 1 ('road'), bndbox = [1.0, 1.0, 12.0, 40.0]"
    assert "the box reaches out of the image" in finding.what


def test_a_split_that_is_misspelt_is_suggested(root):
    with pytest.raises(UserError, match="has no split 'trian', did you mean 'train'"):
        load(root / "card.toml", root, "trian")


def test_a_class_with_a_dot_that_is_not_in_quotes_is_told_to_be(root):
    (root / "card.toml").write_text(CARD + "traffic.light = 5\n")
    message = "classes.traffic: 'light' is no key of a class; a name that holds a dot is written in quotes, as"
    with pytest.raises(UserError, match=message):
        load(root / "card.toml", root)
    (root / "card.toml").write_text(CARD + '"traffic.light" = 5\n')  # As advised.
    assert "traffic.light" in load(root / "card.toml", root).space.names
    (root / "card.toml").write_text(CARD + "tree.valeu = 5\n")
    with pytest.raises(UserError, match="'valeu' is no key of a class, did you mean 'value'"):
        load(root / "card.toml", root)


@pytest.mark.parametrize("bands", [False, True])
def test_a_photo_of_several_pages_is_said_and_copies_of_it_are_none(tmp_path, bands):
    if bands:
        pytest.importorskip("rasterio")
    pictures = [Image.new("RGB", (8, 8), (c, c, c)) for c in (10, 200)]
    (tmp_path / "m").mkdir()
    Image.fromarray(np.tile(np.array([[0, 1]], np.uint8), (8, 4))).save(tmp_path / "m/a.png")
    card = 'name = "t"\nimage = "{id}.tif"\nmask = "m/{id}.png"\nencoding = "index"\nsplits = { train = "." }\n'
    card += "bands = [1, 2, 3]\n" * bands + "[classes]\na = 0\nb = 1\n"
    (tmp_path / "card.toml").write_text(card)
    for kind, expected in ((0, ["the image has 2 pages, of which the first is read"]), (1, []), (4, [])):
        save_pages(tmp_path / "a.tif", pictures, (0, kind))
        assert [f.what for f in check(tmp_path / "card.toml", tmp_path)] == expected
