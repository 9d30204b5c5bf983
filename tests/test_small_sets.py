"""The small sets of the results, made from tiny trees in the official layouts, and read by the recipes' cards."""

import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyseg.data import load
from manyseg.data.check import check
from manyseg.errors import UserError
from manyseg.labels import IGNORE

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def small_sets():
    spec = importlib.util.spec_from_file_location("small_sets", ROOT / "tools" / "small_sets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def halves(left, right, size=(8, 16), dtype=np.uint8):
    """A mask [height, width] whose left half has one value, and whose right half has another."""
    out = np.zeros((*size, 3) if isinstance(left, tuple) else size, dtype)
    out[:, : size[1] // 2], out[:, size[1] // 2 :] = left, right
    return out


def pair(root, image, mask, values):
    for path, pixels in (
        (image, np.full((*values.shape[:2], 3), zlib.crc32(image.encode()) % 256, np.uint8)),
        (mask, values),
    ):
        if path is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / path)


def city(root, name, kind="labelIds", dtype=np.uint8, left=7, right=26):
    stem = f"train/{name}/{name}_000000_000019"
    values = halves(left, right, (64, 128), dtype)
    pair(root, f"leftImg8bit/{stem}_leftImg8bit.png", f"gtFine/{stem}_gtFine_{kind}.png", values)


def cityscapes(root):
    for name in ("jena", "zurich", "erfurt", "aachen"):
        city(root, name)


def camvid(root):
    for name in ("0001TP_006690", "0016E5_00390", "0006R0_f00930", "Seq05VD_f00000"):
        values = halves((128, 64, 128), (0, 0, 0), (16, 24))
        pair(root, f"701_StillsRaw_full/{name}.png", f"LabeledApproved_full/{name}_L.png", values)
    (root / "train.txt").write_text("0001TP_006690\n0016E5_00390\n0006R0_f00930\n")


def idd_lite(root):
    for split, frames in (("train", ("024541", "024703")), ("val", ("000001",))):
        for frame in frames:
            stem = f"{split}/0/{frame}"
            pair(root, f"leftImg8bit/{stem}_image.jpg", f"gtFine/{stem}_label.png", halves(0, 255))


def coco_json(root, file, images):
    """Boxes of a chair in the left half; the second image has no object."""
    box = [[0, 0, 8, 0, 8, 8, 0, 8]]
    data = {
        "images": [{"id": k, "file_name": name, "width": 16, "height": 8} for k, name in enumerate(images)],
        "annotations": [
            {
                "id": k,
                "image_id": k,
                "category_id": 5,
                "segmentation": box,
                "bbox": [0, 0, 8, 8],
                "area": 64,
                "iscrowd": 0,
            }
            for k in range(len(images))
            if k != 1
        ],
        "categories": [{"id": 5, "name": "chair"}],
    }
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(data))


def coco128(root):
    names = [f"{k:012}.jpg" for k in (9, 25, 30, 34, 36, 42, 49)]
    for name in names:
        pair(root, f"train2017/{name}", None, halves(0, 0))
    coco_json(root, "annotations/instances_train2017.json", names)


def furniture(root):
    for split, name in (("train", "a_jpg.rf.00"), ("valid", "b_jpg.rf.00")):
        pair(root, f"{split}/{name}.jpg", None, halves(0, 0))
        coco_json(root, f"{split}/_annotations.coco.json", [f"{name}.jpg"])


def cityscapes8(root):
    city(root, "aachen", "instanceIds", np.uint16, 7, 26003)


@pytest.mark.parametrize(
    ("write", "splits", "left", "right", "size"),
    [
        (
            cityscapes,
            {"train": ["jena_000000_000019", "zurich_000000_000019"], "val": ["erfurt_000000_000019"]},
            "road",
            "car",
            (128, 256),
        ),
        (camvid, {"train": ["0001TP_006690", "0016E5_00390"], "val": ["0006R0_f00930"]}, "Road", None, (288, 384)),
        (idd_lite, {"train": ["0_024703"], "val": ["0_000001"]}, "drivable", None, (8, 16)),
        (
            coco128,
            {"train": [f"{k:012}" for k in (30, 34, 36, 49)], "val": [f"{k:012}" for k in (9, 42)]},
            "chair",
            None,
            (8, 16),
        ),
        (furniture, {"train": ["a_jpg_rf_00"], "val": ["b_jpg_rf_00"]}, "chair", None, (8, 16)),
        (cityscapes8, {"val": ["aachen_000000_000019"]}, "road", "car", (512, 1024)),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_small_set_has_the_labels_of_the_official_files(small_sets, tmp_path, write, splits, left, right, size):
    write(tmp_path / "official")
    small_sets.make(write.__name__, tmp_path / "official", tmp_path / "small")
    card = ROOT / "recipes" / small_sets.SETS[write.__name__].card
    assert [f for f in check(card, tmp_path / "small") if f.severity == "error"] == []
    for split, ids in splits.items():
        folder = load(card, tmp_path / "small", split)
        assert list(folder.ids) == ids
        for i in range(len(folder)):
            sample = folder.read(i)
            labels = sample.annotation.labels
            assert labels.shape == sample.image.shape[1:] == size
            names = [IGNORE if name is None else folder.space.positions[name] for name in (left, right)]
            middle = size[1] // 2
            assert labels[:, :middle].unique().tolist() == [names[0]]
            assert labels[:, middle:].unique().tolist() == [names[1]]
            if folder.card.kind == "segments":
                objects = sample.annotation
                assert len(objects.classes) == 1 + (right is not None)


def test_another_folder_and_one_that_is_there_are_refused(small_sets, tmp_path, capsys):
    city(tmp_path / "official", "bremen")
    with pytest.raises(UserError, match="no image of split 'train' belongs to 'cityscapes'; is it the right folder"):
        small_sets.make("cityscapes", tmp_path / "official", tmp_path / "small")
    with pytest.raises(UserError, match="is there already"):
        small_sets.make("cityscapes", tmp_path / "official", tmp_path / "official")
    assert small_sets.main(["cityscapes", str(tmp_path / "no"), str(tmp_path / "s")]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    assert small_sets.main(["streets"]) == 2
