"""The layouts of public datasets' official archives, each as a tiny tree written out by hand.

A tree lists, by path, the raw values of a mask's first row; images stand beside them. `expected` are the classes that
must come out, by name, with None for no label.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image

from manyseg.data import read_card


class Case(NamedTuple):
    """`masks`, `images` and `instances` by split, of whole splits; `objects` are the values of the latter's rows.

    Where there are no masks, `expected` are the classes of boxes or tags.
    """

    images: dict[str, list[str]]
    masks: dict[str, list[str]]
    values: list
    expected: list
    ids: dict[str, list[str]]
    dtype: type = np.uint8
    instances: Mapping[str, list[str]] = MappingProxyType({})
    objects: tuple | list = ()
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
WILD = {
    "images": {"all": ["images/aa0000_100000.jpg", "images/zm0001_100000.jpg"]},
    "masks": {"all": ["panoptic/aa0000_100000.png", "panoptic/zm0001_100000.png"]},
    "ids": {"all": ["aa0000_100000", "zm0001_100000"], "train": ["aa0000_100000"], "val": ["zm0001_100000"]},
}
STREETS = {
    "images": {"train": ["train/0001eeaf4aed83f9.jpg"], "val": ["validation/00075905539074f2.jpg"]},
    "ids": {"train": ["0001eeaf4aed83f9"], "val": ["00075905539074f2"]},
    "masks": {},
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
        **WILD,
        values=[1, 2, 3, 4, 5],
        expected=["ego vehicle", "road", "car", "curb cut", None],
        files={"panoptic.json": coco_panoptic("aa0000_100000.png", "zm0001_100000.png")(1, 7, 26, 80, 4)},
    ),
    "wilddash2_evaluation": Case(
        **WILD,
        values=[1, 2, 3, 4, 5],
        expected=["ego vehicle", "road", "sidewalk", None, "on rails"],
        files={"panoptic.json": coco_panoptic("aa0000_100000.png", "zm0001_100000.png")(67, 41, 80, 50, 31)},
    ),
    "ade20k_panoptic": Case(
        images={"train": ["images/training/ADE_train_00000001.jpg"], "val": ["images/validation/ADE_val_00000001.jpg"]},
        masks={
            "train": ["ade20k_panoptic_train/ADE_train_00000001.png"],
            "val": ["ade20k_panoptic_val/ADE_val_00000001.png"],
        },
        values=[1, 2, 3, 4, 0],
        expected=["wall", "person", "flag", "tree", None],
        ids={"train": ["ADE_train_00000001"], "val": ["ADE_val_00000001"]},
        files={
            "ade20k_panoptic_train.json": coco_panoptic("ADE_train_00000001.png")(0, 12, 149, 4),
            "ade20k_panoptic_val.json": coco_panoptic("ADE_val_00000001.png")(0, 12, 149, 4),
        },
    ),
    "coco_stuff10k": Case(
        images={
            "train": ["images_detectron2/train/COCO_train2014_000000000077.jpg"],
            "val": ["images_detectron2/test/COCO_train2014_000000001155.jpg"],
        },
        masks={
            "train": ["annotations_detectron2/train/COCO_train2014_000000000077.png"],
            "val": ["annotations_detectron2/test/COCO_train2014_000000001155.png"],
        },
        values=[0, 11, 79, 80, 170, 255],
        expected=["person", "stop sign", "toothbrush", "banner", "wood", None],
        ids={"train": ["COCO_train2014_000000000077"], "val": ["COCO_train2014_000000001155"]},
    ),
    "mapillary_v1_2_panoptic": Case(
        images={"train": ["training/images/aB-1.jpg"], "val": ["validation/images/cD.jpg"]},
        masks={"train": ["training/labels/aB-1.png"], "val": ["validation/labels/cD.png"]},
        instances={"train": ["training/instances/aB-1.png"], "val": ["validation/instances/cD.png"]},
        values=[0, 13, 55, 55, 65],
        objects=[0, 13 * 256, 55 * 256, 55 * 256 + 1, 65 * 256],
        expected=["Bird", "Road", "Car", "Car", None],
        ids={"train": ["aB-1"], "val": ["cD"]},
    ),
    "mapillary_v2_0_panoptic": Case(
        images={"train": ["training/images/aB-1.jpg"], "val": ["validation/images/cD.jpg"]},
        masks={"train": ["training/v2.0/labels/aB-1.png"], "val": ["validation/v2.0/labels/cD.png"]},
        instances={"train": ["training/v2.0/instances/aB-1.png"], "val": ["validation/v2.0/instances/cD.png"]},
        values=[0, 21, 108, 108, 123],
        objects=[0, 21 * 256, 108 * 256, 108 * 256 + 1, 123 * 256],
        expected=["Bird", "Road", "Car", "Car", None],
        ids={"train": ["aB-1"], "val": ["cD"]},
    ),
    "gtsdb": Case(
        images={"all": ["00000.ppm", "00600.ppm", "00899.ppm"]},
        masks={},
        values=[0] * 8,
        expected=["road works", "speed limit 20"],
        ids={"all": ["00000", "00600", "00899"], "train": ["00000", "00600", "00899"]},
        files={"gt.txt": "00000.ppm;0;0;3;1;25\n00000.ppm;2;0;7;1;0\n", "42/00000.ppm": "a sign that is cut out"},
    ),
    "open_images_streets": Case(
        **STREETS,
        values=[0] * 8,
        expected=["car", "person"],
        files={
            f"{split}-annotations-bbox.csv": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,"
            "IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
            f"{image},xclick,/m/0pg52,1,0.1,0.5,0,1,0,0,0,0,0\n{image},xclick,/m/03bt1vf,1,0.6,1,0,1,0,0,0,0,0\n"
            f"{image},xclick,/m/0hg7b,1,0.6,1,0,1,0,0,0,0,0\n"
            for split, image in (("train", "0001eeaf4aed83f9"), ("validation", "00075905539074f2"))
        },
    ),
    "open_images_street_tags": Case(
        **STREETS,
        values=[0] * 8,
        expected=["person", "bus"],
        files={
            f"{split}-annotations-human-imagelabels-boxable.csv": "ImageID,Source,LabelName,Confidence\n"
            f"{image},verification,/m/01bjv,1\n{image},verification,/m/04yx4,1\n{image},verification,/m/0k4j,0\n"
            for split, image in (("train", "0001eeaf4aed83f9"), ("validation", "00075905539074f2"))
        },
    ),
    "kitti": Case(
        images={"all": ["training/image_2/000000_10.png", "training/image_2/000199_10.png"]},
        masks={"all": ["training/semantic/000000_10.png", "training/semantic/000199_10.png"]},
        values=[7, 21, 26, 0, 30],
        expected=["road", "vegetation", "car", None, None],
        ids={"all": ["000000_10", "000199_10"], "train": ["000000_10"], "val": ["000199_10"]},
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
PALETTE = ("mapillary_v1_2", "mapillary_v2_0", "mapillary_v1_2_panoptic", "mapillary_v2_0_panoptic", "voc2012")


def write_tree(root, name, block=(1, 1)):
    """Write every file of a card's case; pictures differ, and each value fills a block of (rows, columns)."""
    case = CASES[name]
    width = len(case.values) * block[1]
    paths = [p for split in case.images for p in case.images[split]]
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, 2 * block[0]), (40 * i, 0, 0)).save(root / path)
    row = np.array(case.values)
    if case.values and read_card(name).encoding == "coco_panoptic":
        row = np.stack([row, row * 0, row * 0], -1)
    mask = Image.fromarray(np.stack([row, row]).repeat(block[0], 0).repeat(block[1], 1).astype(case.dtype))
    if name in PALETTE:
        mask = mask.convert("L")
        mask.putpalette([7, 8, 9] * 256)
    for path in (p for split in case.masks for p in case.masks[split]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        mask.save(root / path)
    for path in (p for split in case.instances for p in case.instances[split]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        objects = np.array([case.objects] * 2).repeat(block[0], 0).repeat(block[1], 1)
        Image.fromarray(objects.astype(np.uint16)).save(root / path)
    for path, content in case.files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content if isinstance(content, str) else json.dumps(content))
