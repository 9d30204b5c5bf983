"""Small datasets as labelling tools and public datasets lay them out: all of them show the same picture.

Six images of 40 x 60: `road` in the lower half, and a `car` of 8 x 12 on it, which is the later and the smaller object;
the upper half has no label. Image i has the car i columns further to the right.
"""

import base64
import csv
import io
import json
import zlib
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from manyseg.labels import IGNORE

H, W = 40, 60
NAMES = [f"photo_{i}" for i in (31, 14, 15, 92, 65, 35)]
ROAD, CAR = (128, 64, 128), (0, 0, 142)


def car(i):
    """The car's (x0, y0, x1, y1)."""
    return 10 + i, 24, 22 + i, 32


def road(_):
    """The road's (x0, y0, x1, y1)."""
    return 0, 20, W, H


OBJECTS = (("road", road), ("car", car))


def inside(box):
    x0, y0, x1, y1 = box
    out = np.zeros((H, W), bool)
    out[y0:y1, x0:x1] = True
    return out


def truth(i, background=IGNORE):
    """The positions that image i has if `road` is class 0 and `car` class 1."""
    out = np.full((H, W), background, np.int64)
    for position, (_, box) in enumerate(OBJECTS):
        out[inside(box(i))] = position
    return out


def corners(box):
    x0, y0, x1, y1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (H, W, 3), np.uint8)
    Image.fromarray(noise).save(path)


def photos(root, pattern):
    """Write one photo for each name; `{}` in the pattern is the name."""
    for i, name in enumerate(NAMES):
        photo(root / pattern.format(name), i)


def mask(path, values, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette([c for color in palette for c in color])
    image.save(path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def png(bitmap, mode="L"):
    out = io.BytesIO()
    Image.fromarray((bitmap * 255).astype(np.uint8)).convert(mode).save(out, "PNG")
    return out.getvalue()


def colors(i):
    out = np.zeros((H, W, 3), np.uint8)
    for (_, box), color in zip(OBJECTS, (ROAD, CAR), strict=True):
        out[inside(box(i))] = color
    return out


def index(i, values=(1, 2), background=0):
    out = np.full((H, W), background, np.uint8)
    for (_, box), value in zip(OBJECTS, values, strict=True):
        out[inside(box(i))] = value
    return out


# Labelling tools.


def labelme(root):
    photos(root, "{}.jpg")
    for i, name in enumerate(NAMES):
        shapes = [
            {"label": label, "points": corners(box(i)), "group_id": None, "shape_type": "polygon", "flags": {}}
            for label, box in OBJECTS
        ]
        file = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None}
        text(root / f"{name}.json", {**file, "imageHeight": H, "imageWidth": W})


def supervisely(root):
    text(root / "meta.json", {
        "classes": [
            {"title": "road", "shape": "polygon", "color": "#804080", "id": 1},
            {"title": "car", "shape": "bitmap", "color": "#00008E", "id": 2},
        ],
        "tags": [], "projectType": "images",
    })  # fmt: skip
    for k, name in enumerate(NAMES):
        folder = "train" if k < 4 else "val"
        suffix = ".jpg" if k % 2 else ".png"
        photo(root / folder / "img" / (name + suffix), k)
        x0, y0, x1, y1 = car(k)
        data = base64.b64encode(zlib.compress(png(np.ones((y1 - y0, x1 - x0))))).decode()
        polygon = {"exterior": corners(road(k)), "interior": []}
        objects = [
            {"classTitle": "road", "geometryType": "polygon", "points": polygon},
            {"classTitle": "car", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [x0, y0]}},
        ]
        file = {"description": "", "tags": [], "size": {"height": H, "width": W}, "objects": objects}
        text(root / folder / "ann" / f"{name}{suffix}.json", file)


def yolo(root, boxes=False):
    for k, name in enumerate(NAMES):
        folder = "train" if k < 4 else "val"
        photo(root / "images" / folder / f"{name}.jpg", k)
        lines = []
        for number, (_, box) in enumerate(OBJECTS):
            x0, y0, x1, y1 = box(k)
            parts = [v / s for point in corners(box(k)) for v, s in zip(point, (W, H), strict=True)]
            if boxes:
                parts = [(x0 + x1) / 2 / W, (y0 + y1) / 2 / H, (x1 - x0) / W, (y1 - y0) / H]
            lines.append(" ".join([str(number), *(f"{p:.6f}" for p in parts)]))
        text(root / "labels" / folder / f"{name}.txt", "\n".join(lines) + "\n")
    text(root / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: ['road', 'car']\n")


def yolo_boxes(root):
    yolo(root, boxes=True)


def runs(bitmap):
    """Run lengths row by row, that begin with zeros."""
    flat = np.concatenate([[0], bitmap.ravel().astype(int)])
    starts = np.flatnonzero(np.diff(flat)) + 0
    return np.diff([0, *starts, bitmap.size]).tolist()


def cvat_images(root):
    photos(root, "images/{}.jpg")
    images = []
    for i, name in enumerate(NAMES):
        x0, y0, x1, y1 = car(i)
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(road(i)))
        images.append(
            f'<image id="{i}" name={quoteattr(name + ".jpg")} width="{W}" height="{H}">'
            f'<mask label="car" source="manual" occluded="0" rle="0, {(x1 - x0) * (y1 - y0)}" left="{x0}" top="{y0}" '
            f'width="{x1 - x0}" height="{y1 - y0}" z_order="1"></mask>'
            f'<polygon label="road" source="manual" occluded="0" points="{points}" z_order="0"></polygon></image>'
        )
    labels = "".join(
        f"<label><name>{n}</name><color>#{r:02x}{g:02x}{b:02x}</color><type>any</type><attributes></attributes></label>"
        for n, (r, g, b) in (("road", ROAD), ("car", CAR))
    )
    meta = f"<meta><task><id>7</id><name>streets</name><size>6</size><labels>{labels}</labels></task></meta>"
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
    text(root / "annotations.xml", f"{head}{meta}{''.join(images)}</annotations>")


def labelmap(root):
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    lines += [f"{n}:{r},{g},{b}::" for n, (r, g, b) in (("road", ROAD), ("car", CAR))]
    text(root / "labelmap.txt", "\n".join(lines) + "\n")


def cvat_masks(root):
    """CVAT's "Segmentation mask 1.1", which is also what other tools call the VOC layout."""
    labelmap(root)
    photos(root, "JPEGImages/{}.jpg")
    for i, name in enumerate(NAMES):
        mask(root / "SegmentationClass" / f"{name}.png", colors(i))
        mask(root / "SegmentationObject" / f"{name}.png", colors(i)[:, :, ::-1].copy())
    text(root / "ImageSets/Segmentation/default.txt", "\n".join(NAMES) + "\n")


def pack_bits(values):
    """Pack numbers given as (value, bits)."""
    bits = "".join(f"{v:0{n}b}" for v, n in values)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def brush(bitmap):
    """Label Studio's run lengths of a brush: RGBA, four values a pixel."""
    values = np.repeat(bitmap.ravel().astype(np.uint8) * 255, 4)
    ends = [*(np.flatnonzero(np.diff(values.astype(int))) + 1), len(values)]
    lengths, start = [], 0
    for end in ends:
        lengths.append((int(values[start]), int(end) - start))
        start = int(end)
    out = [(len(values), 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4)]
    for value, length in lengths:
        # One long run of one value; a run of single values is in the first pixels, so that both kinds are read.
        while length:
            part = min(length, 1 << 16)
            if length >= 4 and length % 8 == 4:
                out += [(0, 1), (0, 2), (3, 3), *((value, 8) for _ in range(4))]
                part = 4
            else:
                out += [(1, 1), (3, 2), (part - 1, 16), (value, 8)]
            length -= part
    return pack_bits(out)


def label_studio(root):
    photos(root, "images/{}.jpg")
    tasks = []
    for i, name in enumerate(NAMES):
        common = {
            "original_width": W,
            "original_height": H,
            "image_rotation": 0,
            "from_name": "tag",
            "to_name": "image",
        }
        points = [[100 * x / W, 100 * y / H] for x, y in corners(road(i))]
        results = [
            {**common, "id": "a", "type": "polygonlabels", "value": {"points": points, "polygonlabels": ["road"]}},
            {**common, "id": "b", "type": "brushlabels",
             "value": {"format": "rle", "rle": brush(inside(car(i))), "brushlabels": ["car"]}},
        ]  # fmt: skip
        old = {"id": 1, "was_cancelled": True, "result": []}
        tasks.append({
            "id": 100 + i, "data": {"image": f"/data/upload/3/1a2b3c4d-{name}.jpg"},
            "annotations": [{"id": 2, "was_cancelled": False, "result": results}, old],
        })  # fmt: skip
    text(root / "project-3-at-2025-01-01.json", tasks)


def polygon_json(root):
    for k, name in enumerate(NAMES):
        split, city = ("train", "ulm") if k < 4 else ("val", "bonn")
        photo(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", k)
        objects = [{"label": label, "polygon": corners(box(k))} for label, box in OBJECTS]
        file = {"imgHeight": H, "imgWidth": W, "objects": objects}
        text(root / f"gtFine/{split}/{city}/{name}_gtFine_polygons.json", file)


def ade_full(root):
    for k, name in enumerate(NAMES):
        split = "training" if k < 4 else "validation"
        place = root / "images/ADE" / split / "urban/street"
        photo(place / f"ADE_{name}.jpg", k)
        seg = np.zeros((H, W, 3), np.uint8)
        for n, ((_, box), value) in enumerate(zip(OBJECTS, (1831, 401), strict=True)):
            seg[inside(box(k))] = (value // 256 * 10, value % 256, 40 * (n + 1))
        mask(place / f"ADE_{name}_seg.png", seg)
        objects = [
            {"id": n, "name": label, "name_ndx": value, "parts": {"part_level": 0}}
            for n, (label, value) in enumerate((("road, route", 1831), ("car, auto", 401)))
        ]
        text(place / f"ADE_{name}.json", {"annotation": {"filename": f"ADE_{name}.jpg", "object": objects}})


# Several at once, and masks.


def coco_json(names, suffix=".jpg", first=1):
    images = [{"id": i, "file_name": n + suffix, "height": H, "width": W} for i, n in enumerate(names, first)]
    annotations = []
    for i, n in enumerate(names, first):
        for category, (_, box) in enumerate(OBJECTS, 1):
            x0, y0, x1, y1 = box(NAMES.index(n))
            annotations.append({
                "id": len(annotations) + 1, "image_id": i, "category_id": category, "iscrowd": 0,
                "segmentation": [[v for p in corners((x0, y0, x1, y1)) for v in p]],
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
            })  # fmt: skip
    categories = [
        {"id": 0, "name": "things", "supercategory": "none"},
        {"id": 1, "name": "road"},
        {"id": 2, "name": "car"},
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(root):
    for split, names in (("train", NAMES[:4]), ("val", NAMES[4:])):
        for name in names:
            photo(root / f"{split}2017/{name}.jpg", NAMES.index(name))
        text(root / f"annotations/instances_{split}2017.json", coco_json(names))


def roboflow_coco(root):
    for split, names in (("train", NAMES[:3]), ("valid", NAMES[3:5]), ("test", NAMES[5:])):
        for name in names:
            photo(root / f"{split}/{name}.jpg", NAMES.index(name))
        text(root / f"{split}/_annotations.coco.json", coco_json(names, first=0))


def cvat_coco(root):
    photos(root, "images/default/{}.jpg")
    text(root / "annotations/instances_default.json", coco_json(NAMES))


def coco_panoptic(root):
    for split, names in (("train", NAMES[:4]), ("val", NAMES[4:])):
        annotations, images = [], []
        for name in names:
            i = NAMES.index(name)
            photo(root / f"{split}2017/{name}.jpg", i)
            ids = np.zeros((H, W), int)
            for n, (_, box) in enumerate(OBJECTS, 1):
                ids[inside(box(i))] = 1000 * n + 7
            color = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            mask(root / f"annotations/panoptic_{split}2017/{name}.png", color)
            infos = [{"id": 1000 * n + 7, "category_id": c, "iscrowd": 0} for n, c in ((1, 149), (2, 3))]
            annotations.append({"image_id": i, "file_name": f"{name}.png", "segments_info": infos})
            images.append({"id": i, "file_name": f"{name}.jpg", "height": H, "width": W})
        categories = [
            {"id": 149, "name": "road", "isthing": 0, "color": ROAD},
            {"id": 3, "name": "car", "isthing": 1, "color": CAR},
        ]
        data = {"images": images, "annotations": annotations, "categories": categories}
        text(root / f"annotations/panoptic_{split}2017.json", data)


def roboflow_masks(root):
    for split, names in (("train", NAMES[:3]), ("valid", NAMES[3:5]), ("test", NAMES[5:])):
        for n, name in enumerate(names):
            i = NAMES.index(name)
            photo(root / f"{split}/{name}_jpg.rf.{n:032x}.jpg", i)
            mask(root / f"{split}/{name}_jpg.rf.{n:032x}_mask.png", index(i))
        rows = io.StringIO()
        csv.writer(rows).writerows([("Pixel Value", " Class"), (0, " background"), (1, " road"), (2, " car")])
        text(root / f"{split}/_classes.csv", rows.getvalue())


def grey(root):
    photos(root, "images/{}.jpg")
    for i, name in enumerate(NAMES):
        mask(root / f"masks/{name}.png", index(i, (0, 1), 255))


def grey_named(root):
    grey(root)
    text(root / "classes.txt", "road\ncar\n")


def palette(root):
    photos(root, "images/{}.jpg")
    for i, name in enumerate(NAMES):
        mask(root / f"labels/{name}_label.png", index(i, (0, 1), 2), [ROAD, CAR, (9, 9, 9)] + [(0, 0, 0)] * 253)


def color(root):
    photos(root, "{}.jpg")
    for i, name in enumerate(NAMES):
        mask(root / f"{name}.png", colors(i))


def color_table(root):
    for split, names in (("train", NAMES[:4]), ("val", NAMES[4:])):
        for name in names:
            photo(root / f"{split}/{name}.png", NAMES.index(name))
            mask(root / f"{split}_labels/{name}_L.png", colors(NAMES.index(name)))
    rows = ["name,r,g,b", "Void,0,0,0", "road,128,64,128", "car,0,0,142"]
    text(root / "class_dict.csv", "\n".join(rows) + "\n")


def config_json(root):
    for split, names in (("training", NAMES[:4]), ("validation", NAMES[4:])):
        for name in names:
            i = NAMES.index(name)
            photo(root / f"{split}/images/{name}.jpg", i)
            mask(root / f"{split}/labels/{name}.png", index(i, (0, 1), 2), [ROAD, CAR] + [(0, 0, 0)] * 254)
    labels = [
        {"name": "construction--flat--road", "readable": "road", "color": ROAD, "instances": False, "evaluate": True},
        {"name": "object--vehicle--car", "readable": "car", "color": CAR, "instances": True, "evaluate": True},
        {"name": "void--unlabeled", "readable": "Unlabeled", "color": (0, 0, 0), "instances": False, "evaluate": False},
    ]
    text(root / "config.json", {"labels": labels, "version": 1.1})


def parquet(root):
    """A set of Hugging Face's `datasets` in Parquet files: two of train, one of validation."""
    import pyarrow
    from pyarrow import parquet as files

    feature = {"_type": "Image"}
    told = {"huggingface": json.dumps({"info": {"features": {"image": feature, "annotation": feature}}})}
    shards = (("train", 0, 2), ("train", 2, 4), ("validation", 4, 6))
    for number, (split, start, stop) in enumerate(shards):
        columns = {"image": [], "name": [], "annotation": []}
        for i in range(start, stop):
            photo(root / "spare.jpg", i)
            mask(root / "spare.png", index(i, (0, 1), 255))
            columns["image"].append({"bytes": (root / "spare.jpg").read_bytes(), "path": f"{NAMES[i]}.jpg"})
            columns["name"].append(NAMES[i])
            columns["annotation"].append({"bytes": (root / "spare.png").read_bytes(), "path": None})
        table = pyarrow.table(columns).replace_schema_metadata(told)
        (root / "data").mkdir(exist_ok=True)
        total = 2 if split == "train" else 1
        files.write_table(table, root / f"data/{split}-{number % 2:05}-of-{total:05}.parquet", row_group_size=1)
    (root / "spare.jpg").unlink()
    (root / "spare.png").unlink()
    text(root / "id2label.json", {"0": "road", "1": "car"})


def voc_boxes(root):
    photos(root, "JPEGImages/{}.jpg")
    for i, name in enumerate(NAMES):
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax>"
            f"<ymax>{y1}</ymax></bndbox></object>"
            for label, (x0, y0, x1, y1) in ((label, box(i)) for label, box in OBJECTS)
        )
        size = f"<size><width>{W}</width><height>{H}</height><depth>3</depth></size>"
        text(root / f"Annotations/{name}.xml", f"<annotation>{size}{objects}</annotation>")
    text(root / "ImageSets/Main/train.txt", "\n".join(NAMES[:4]) + "\n")
    text(root / "ImageSets/Main/val.txt", "\n".join(NAMES[4:]) + "\n")


def voc_masks(root):
    """PASCAL VOC's own tree: palette masks, white borders of objects, lists, and no table of classes."""
    photos(root, "JPEGImages/{}.jpg")
    names = [(0, 0, 0), ROAD, CAR] + [(0, 0, 0)] * 252 + [(224, 224, 192)]
    for i, name in enumerate(NAMES):
        mask(root / f"SegmentationClass/{name}.png", index(i, (1, 2), 255), names)
        mask(root / f"SegmentationObject/{name}.png", index(i, (1, 2), 255), names)
        text(root / f"Annotations/{name}.xml", "<annotation/>")
    for split, listed in (("train", NAMES[:4]), ("val", NAMES[4:]), ("trainval", NAMES)):
        text(root / f"ImageSets/Segmentation/{split}.txt", "\n".join(listed) + "\n")


def cityscapes(root):
    """The tree of Cityscapes with all its files of labels, of which class values, and values of objects, are two."""
    for i, name in enumerate(NAMES):
        split, city = ("train", "aachen") if i < 4 else ("val", "ulm")
        stem = f"{split}/{city}/{city}_{name[-2:]:0>6}_000019"
        photo(root / f"leftImg8bit/{stem}_leftImg8bit.png", i)
        masks = {"labelIds": index(i, (7, 26)), "labelTrainIds": index(i, (0, 13), 255), "color": colors(i)}
        numbered = index(i, (7, 26)).astype(np.uint16)
        numbered[numbered == 26] = 26000
        masks["instanceIds"] = numbered
        for kind, values in masks.items():
            mask(root / f"gtFine/{stem}_gtFine_{kind}.png", values)
        shapes = [{"label": name, "polygon": corners(box(i))} for name, box in OBJECTS]
        text(root / f"gtFine/{stem}_gtFine_polygons.json", {"imgHeight": H, "imgWidth": W, "objects": shapes})


def label_studio_coco(root):
    """Label Studio's COCO export of polygons: one JSON, and the photos below `images` with a prefix of the upload."""
    names = {name: f"{i:08x}-{name}" for i, name in enumerate(NAMES)}
    for i, name in enumerate(NAMES):
        photo(root / f"images/{names[name]}.jpg", i)
    data = coco_json(NAMES, first=0)
    for image in data["images"]:
        image["file_name"] = f"images/{names[image['file_name'].removesuffix('.jpg')]}.jpg"
    text(root / "result.json", data)


TWO_IMAGES = """
name = "c"
image = "images/{id}.{png,jpg}"
mask = "masks/{id}.png"
encoding = "index"
splits = { train = "train.txt", val = "train[50%:]" }
[classes]
a = 0
b = 1
"""
"""The card of `two_images`."""


def two_images(folder):
    """Write two of these images with masks, the list of them, and their card, c.toml; return the folder."""
    for i in range(2):
        photo(folder / f"images/{i}.png", i)
        mask(folder / f"masks/{i}.png", index(i, (0, 1), 0))
    (folder / "train.txt").write_text("0\n1\n")
    (folder / "c.toml").write_text(TWO_IMAGES)
    return folder
