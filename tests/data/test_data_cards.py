"""The built-in cards, each on a tiny tree in the layout of the official archive, written out by hand.

A tree lists, by path, the raw values of a mask's first row; images stand beside them. `expected` are the classes that
must come out, by name, with None for no label.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from manyseg.data import builtin_cards, load, read_card
from manyseg.labels import IGNORE, Taxonomy


class Case(NamedTuple):
    """`masks` and `images` by split; `lists` and `jsons` are further files."""

    images: dict[str, list[str]]
    masks: dict[str, list[str]]
    values: list
    expected: list
    ids: dict[str, list[str]]
    dtype: type = np.uint8
    files: Mapping[str, object] = MappingProxyType({})


def coco_panoptic(*names):
    """A panoptic JSON in which the segments 1, 2, ... of every image have the given categories."""

    def make(*categories):
        infos = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in enumerate(categories, 1)]
        return {"annotations": [{"file_name": n, "image_id": 1, "segments_info": infos} for n in names]}

    return make


CITY = {
    "images": {
        "train": ["leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"],
        "val": [
            "leftImg8bit/val/munster/munster_000001_000019_leftImg8bit.png",
            "leftImg8bit/val/lindau/lindau_000002_000019_leftImg8bit.png",
        ],
    },
    "ids": {
        "train": ["aachen/aachen_000000_000019"],
        "val": ["lindau/lindau_000002_000019", "munster/munster_000001_000019"],
    },
}
CASES = {
    "cityscapes": Case(
        **CITY,
        masks={
            "train": ["gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"],
            "val": [
                "gtFine/val/munster/munster_000001_000019_gtFine_labelIds.png",
                "gtFine/val/lindau/lindau_000002_000019_gtFine_labelIds.png",
            ],
        },
        values=[7, 8, 23, 26, 33, 0, 9, 29],
        expected=["road", "sidewalk", "sky", "car", "bicycle", None, None, None],
    ),
    "cityscapes_panoptic": Case(
        **CITY,
        masks={
            "train": ["gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"],
            "val": [
                "gtFine/val/munster/munster_000001_000019_gtFine_instanceIds.png",
                "gtFine/val/lindau/lindau_000002_000019_gtFine_instanceIds.png",
            ],
        },
        values=[7, 26000, 26001, 33012, 24, 3, 29000],
        expected=["road", "car", "car", "bicycle", None, None, None],
        dtype=np.uint16,
    ),
    "mapillary_v1_2": Case(
        images={
            "train": ["training/images/aB-1.jpg"],
            "val": ["validation/images/cD.jpg", "validation/images/e.jpg"],
        },
        masks={
            "train": ["training/labels/aB-1.png"],
            "val": ["validation/labels/cD.png", "validation/labels/e.png"],
        },
        values=[0, 13, 24, 55, 64, 65],
        expected=["Bird", "Road", "Lane Marking - General", "Car", "Ego Vehicle", None],
        ids={"train": ["aB-1"], "val": ["cD", "e"]},
    ),
    "mapillary_v2_0": Case(
        images={
            "train": ["training/images/aB-1.jpg"],
            "val": ["validation/images/cD.jpg", "validation/images/e.jpg"],
        },
        masks={
            "train": ["training/v2.0/labels/aB-1.png"],
            "val": ["validation/v2.0/labels/cD.png", "validation/v2.0/labels/e.png"],
        },
        values=[0, 21, 35, 108, 122, 123, 2, 31],
        expected=["Bird", "Road", "Lane Marking - Dashed Line", "Car", "Static", None, None, None],
        ids={"train": ["aB-1"], "val": ["cD", "e"]},
    ),
    "bdd100k": Case(
        images={
            "train": ["images/10k/train/0004a4c0-d4dff0ad.jpg"],
            "val": ["images/10k/val/7d128593-0ccfea4c.jpg", "images/10k/val/7d15b18b-1e0d6e3f.jpg"],
        },
        masks={
            "train": ["labels/sem_seg/masks/train/0004a4c0-d4dff0ad.png"],
            "val": ["labels/sem_seg/masks/val/7d128593-0ccfea4c.png", "labels/sem_seg/masks/val/7d15b18b-1e0d6e3f.png"],
        },
        values=[0, 10, 13, 18, 255],
        expected=["road", "sky", "car", "bicycle", None],
        ids={"train": ["0004a4c0-d4dff0ad"], "val": ["7d128593-0ccfea4c", "7d15b18b-1e0d6e3f"]},
    ),
    "idd": Case(
        images={
            "train": ["leftImg8bit/train/0/024541_leftImg8bit.png"],
            "val": ["leftImg8bit/val/119/903127_leftImg8bit.png", "leftImg8bit/val/132/475092_leftImg8bit.png"],
        },
        masks={
            "train": ["gtFine/train/0/024541_gtFine_labellevel3Ids.png"],
            "val": [
                "gtFine/val/119/903127_gtFine_labellevel3Ids.png",
                "gtFine/val/132/475092_gtFine_labellevel3Ids.png",
            ],
        },
        values=[0, 4, 8, 25, 255],
        expected=["road", "person / animal", "autorickshaw", "sky / fallback background", None],
        ids={"train": ["0/024541"], "val": ["119/903127", "132/475092"]},
    ),
    "sunrgbd37": Case(
        images={
            "train": ["SUNRGBD-train_images/img-000001.jpg"],
            "val": ["SUNRGBD-test_images/img-000001.jpg", "SUNRGBD-test_images/img-005050.jpg"],
        },
        masks={
            "train": ["labels/train/img-000001.png"],
            "val": ["labels/test/img-000001.png", "labels/test/img-005050.png"],
        },
        values=[1, 2, 25, 37, 0],
        expected=["wall", "floor", "television", "bag", None],
        ids={"train": ["img-000001"], "val": ["img-000001", "img-005050"]},
    ),
    "ade20k": Case(
        images={
            "train": ["images/training/ADE_train_00000001.jpg"],
            "val": ["images/validation/ADE_val_00000001.jpg", "images/validation/ADE_val_00000002.jpg"],
        },
        masks={
            "train": ["annotations/training/ADE_train_00000001.png"],
            "val": ["annotations/validation/ADE_val_00000001.png", "annotations/validation/ADE_val_00000002.png"],
        },
        values=[1, 13, 59, 131, 150, 0],
        expected=["wall", "person", "screen door", "screen", "flag", None],
        ids={"train": ["ADE_train_00000001"], "val": ["ADE_val_00000001", "ADE_val_00000002"]},
    ),
    "coco_stuff": Case(
        images={
            "train": ["images/train2017/000000000009.jpg"],
            "val": ["images/val2017/000000000139.jpg", "images/val2017/000000000285.jpg"],
        },
        masks={
            "train": ["annotations/train2017/000000000009.png"],
            "val": ["annotations/val2017/000000000139.png", "annotations/val2017/000000000285.png"],
        },
        values=[0, 12, 89, 91, 181, 255],
        expected=["person", "stop sign", "toothbrush", "banner", "wood", None],
        ids={"train": ["000000000009"], "val": ["000000000139", "000000000285"]},
    ),
    "coco_panoptic": Case(
        images={
            "train": ["train2017/000000000009.jpg"],
            "val": ["val2017/000000000139.jpg", "val2017/000000000285.jpg"],
        },
        masks={
            "train": ["annotations/panoptic_train2017/000000000009.png"],
            "val": ["annotations/panoptic_val2017/000000000139.png", "annotations/panoptic_val2017/000000000285.png"],
        },
        values=[1, 2, 3, 4, 0],
        expected=["person", "person", "banner", "rug-merged", None],
        ids={"train": ["000000000009"], "val": ["000000000139", "000000000285"]},
        files={
            "annotations/panoptic_train2017.json": coco_panoptic("000000000009.png")(1, 1, 92, 200),
            "annotations/panoptic_val2017.json": coco_panoptic("000000000139.png", "000000000285.png")(1, 1, 92, 200),
        },
    ),
    "wilddash2": Case(
        images={"train": ["images/aa0000_100000.jpg", "images/zm0001_100000.jpg"]},
        masks={"train": ["panoptic/aa0000_100000.png", "panoptic/zm0001_100000.png"]},
        values=[1, 2, 3, 4, 5],
        expected=["ego vehicle", "road", "car", "curb cut", None],
        ids={"train": ["aa0000_100000", "zm0001_100000"]},
        files={"panoptic.json": coco_panoptic("aa0000_100000.png", "zm0001_100000.png")(1, 7, 26, 80, 4)},
    ),
    "kitti": Case(
        images={"train": ["training/image_2/000000_10.png", "training/image_2/000199_10.png"]},
        masks={"train": ["training/semantic/000000_10.png", "training/semantic/000199_10.png"]},
        values=[7, 21, 26, 0, 30],
        expected=["road", "vegetation", "car", None, None],
        ids={"train": ["000000_10", "000199_10"]},
    ),
    "camvid32": Case(
        images={
            "train": ["701_StillsRaw_full/0001TP_006690.png"],
            "val": ["701_StillsRaw_full/0016E5_07959.png"],
            "test": ["701_StillsRaw_full/Seq05VD_f00000.png"],
        },
        masks={
            "train": ["LabeledApproved_full/0001TP_006690_L.png"],
            "val": ["LabeledApproved_full/0016E5_07959_L.png"],
            "test": ["LabeledApproved_full/Seq05VD_f00000_L.png"],
        },
        values=[(128, 64, 128), (128, 0, 192), (64, 192, 0), (128, 128, 128), (0, 0, 0)],
        expected=["Road", "LaneMkgsDriv", "Wall", "Sky", None],
        ids={"train": ["0001TP_006690"], "val": ["0016E5_07959"], "test": ["Seq05VD_f00000"]},
        files={"train.txt": "0001TP_006690\n", "val.txt": "0016E5_07959\n", "test.txt": "Seq05VD_f00000\n"},
    ),
    "camvid11": Case(
        images={
            "train": ["701_StillsRaw_full/0001TP_006690.png"],
            "val": ["701_StillsRaw_full/0016E5_07959.png"],
            "test": ["701_StillsRaw_full/Seq05VD_f00000.png"],
        },
        masks={
            "train": ["LabeledApproved_full/0001TP_006690_L.png"],
            "val": ["LabeledApproved_full/0016E5_07959_L.png"],
            "test": ["LabeledApproved_full/Seq05VD_f00000_L.png"],
        },
        values=[(128, 64, 128), (128, 0, 192), (64, 192, 0), (128, 128, 128), (0, 0, 0)],
        expected=["Road", None, None, "Sky", None],
        ids={"train": ["0001TP_006690"], "val": ["0016E5_07959"], "test": ["Seq05VD_f00000"]},
        files={"train.txt": "0001TP_006690\n", "val.txt": "0016E5_07959\n", "test.txt": "Seq05VD_f00000\n"},
    ),
    "scannet20": Case(
        images={
            "train": [
                "scannet_frames_25k/scene0000_00/color/000000.jpg",
                "scannet_frames_25k/scene0000_00/color/000100.jpg",
            ],
            "val": ["scannet_frames_25k/scene0568_00/color/000000.jpg"],
        },
        masks={
            "train": [
                "scannet_frames_25k/scene0000_00/label/000000.png",
                "scannet_frames_25k/scene0000_00/label/000100.png",
            ],
            "val": ["scannet_frames_25k/scene0568_00/label/000000.png"],
        },
        values=[1, 14, 16, 39, 0, 13, 40],
        expected=["wall", "desk", "curtain", "otherfurniture", None, None, None],
        ids={"train": ["scene0000_00/000000", "scene0000_00/000100"], "val": ["scene0568_00/000000"]},
        files={"scannetv2_train.txt": "scene0000_00\n", "scannetv2_val.txt": "scene0568_00\n"},
    ),
    "voc2012": Case(
        images={"train": ["JPEGImages/2007_000032.jpg"], "val": ["JPEGImages/2007_000033.jpg"]},
        masks={"train": ["SegmentationClass/2007_000032.png"], "val": ["SegmentationClass/2007_000033.png"]},
        values=[0, 1, 15, 20, 255],
        expected=["background", "aeroplane", "person", "tvmonitor", None],
        ids={"train": ["2007_000032"], "val": ["2007_000033"]},
        files={
            "ImageSets/Segmentation/train.txt": "2007_000032\n",
            "ImageSets/Segmentation/val.txt": "2007_000033\n",
        },
    ),
    "pascal_context59": Case(
        images={"train": ["JPEGImages/2008_000002.jpg"], "val": ["JPEGImages/2008_000003.jpg"]},
        masks={
            "train": ["SegmentationClassContext/2008_000002.png"],
            "val": ["SegmentationClassContext/2008_000003.png"],
        },
        values=[1, 2, 36, 59, 0],
        expected=["aeroplane", "bag", "mouse", "wood", None],
        ids={"train": ["2008_000002"], "val": ["2008_000003"]},
        files={
            "ImageSets/SegmentationContext/train.txt": "2008_000002\n",
            "ImageSets/SegmentationContext/val.txt": "2008_000003\n",
        },
    ),
}
COUNTS = {
    "cityscapes": 19, "cityscapes_panoptic": 19, "mapillary_v1_2": 65, "mapillary_v2_0": 116, "bdd100k": 19, "idd": 26,
    "sunrgbd37": 37, "ade20k": 150, "coco_stuff": 171, "coco_panoptic": 133, "wilddash2": 76, "kitti": 19,
    "camvid32": 31, "camvid11": 11, "scannet20": 20, "voc2012": 21, "pascal_context59": 59,
}  # fmt: skip
PALETTE = ("mapillary_v1_2", "mapillary_v2_0", "voc2012")


def write_tree(root, name, case):
    """Write every file of the case; pictures differ from each other."""
    width = len(case.values)
    paths = [p for split in case.images for p in case.images[split]]
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, 2), (40 * i, 0, 0)).save(root / path)
    row = np.array(case.values)
    if case.values and read_card(name).encoding == "coco_panoptic":
        row = np.stack([row, row * 0, row * 0], -1)
    mask = Image.fromarray(np.stack([row, row]).astype(case.dtype))
    if name in PALETTE:
        mask = mask.convert("L")
        mask.putpalette([7, 8, 9] * 256)
    for path in (p for split in case.masks for p in case.masks[split]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        mask.save(root / path)
    for path, content in case.files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize("name", CASES)
def test_a_card_reads_the_official_layout(name, tmp_path):
    case = CASES[name]
    write_tree(tmp_path, name, case)
    card = read_card(name)
    assert set(card.splits) == set(case.ids)
    positions = [IGNORE if n is None else card.space.positions[n] for n in case.expected]
    for split, ids in case.ids.items():
        folder = load(name, tmp_path, split)
        assert list(folder.ids) == ids
        assert sorted(str(folder.image_path(i).relative_to(tmp_path)) for i in range(len(ids))) == sorted(
            case.images[split]
        )
        for i in range(len(ids)):
            assert folder.read(i).annotation.labels.tolist() == [positions, positions]


def test_instances_of_the_same_class_are_segments_of_their_own(tmp_path):
    for name in ("cityscapes_panoptic", "coco_panoptic"):
        write_tree(tmp_path / name, name, CASES[name])
        folder = load(name, tmp_path / name)
        thing = folder.space.positions["car" if name == "cityscapes_panoptic" else "person"]
        assert folder.read(0).annotation.classes.tolist().count(thing) == 2


def test_every_card_is_tested_and_named_after_its_file():
    assert set(CASES) == set(builtin_cards()) == set(COUNTS)
    for name in builtin_cards():
        card = read_card(name)
        assert card.name == name
        assert len(card.space) == COUNTS[name]


@pytest.mark.parametrize(
    ("cards", "nodes"),
    [
        (("cityscapes", "idd", "bdd100k"), 28),
        (("cityscapes", "idd", "bdd100k", "mapillary_v1_2"), 70),
        (("cityscapes", "idd", "mapillary_v1_2"), 70),
        (("idd", "bdd100k", "mapillary_v1_2"), 70),
        (("bdd100k", "mapillary_v1_2", "cityscapes"), 67),
    ],
)
def test_the_union_of_names_has_as_many_nodes_as_the_authors_of_uniseg_have(cards, nodes):
    taxonomy = Taxonomy.by_name([read_card(card).space for card in cards])
    assert len(taxonomy.unified) == nodes
    united = [dict(taxonomy.members(u)) for u in range(nodes)]
    if "idd" in cards and "mapillary_v1_2" in cards:
        pairs = {(m["idd"], m["mapillary_v1_2"]) for m in united if {"idd", "mapillary_v1_2"} <= m.keys()}
        assert {("person / animal", "Person"), ("parking / drivable fallback", "Parking")} <= pairs
        assert {("bridge / tunnel", "Bridge"), ("traffic sign", "Traffic Sign (Front)")} <= pairs
