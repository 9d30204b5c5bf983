"""What messages of annotation files advise works: a file is damaged, its message read, the file mended, and read."""

import codecs
import gzip
import json
import os
import re
import shutil

import pytest
from advice import follow
from test_drawn_encodings import CARDS, write_card

from manyseg.data import load

FILES = {"label_studio": "*.json", "cvat_images": "*.xml", "yolo_segments": "labels/train/*.txt"}


def first_file(root, name):
    return sorted(p for p in root.rglob(FILES.get(name, "*.json")) if p.name != "meta.json")[0]


def as_json(change):
    def damage(file):
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return damage


def swap(pattern, new):
    def damage(file):
        text, count = re.subn(pattern, new, file.read_text(), count=1)
        assert count
        file.write_text(text)

    return damage


def write(content):
    return lambda file: file.write_bytes(content)


def gone(file):
    file.unlink()


def folder(file):
    file.unlink()
    file.mkdir()


def pipe(file):
    file.unlink()
    os.mkfifo(file)


def shape(**fields):
    return as_json(lambda d: d["shapes"][0].update(fields))


def object_of(number, **fields):
    return as_json(lambda d: d["objects"][number].update(fields))


def value_of(task, number, **fields):
    def change(tasks):
        found = tasks[task]["annotations"][0]["result"][number]["value"]
        found.update(fields)
        for key in [k for k, v in fields.items() if v is None]:
            del found[key]

    return as_json(change)


def annotation(**fields):
    return as_json(lambda d: d["annotations"][0].update(fields))


def moved(data):
    data["objects"][1]["bitmap"]["origin"] = [500, 0]


def image(**fields):
    return as_json(lambda d: d["images"].append(d["images"][0] | fields))


def category(**fields):
    return as_json(lambda d: d["categories"].append(d["categories"][1] | fields))


def twice(file):
    data = json.loads(file.read_text())
    file.write_text(f'{{"annotations": {json.dumps(data["annotations"])}, {json.dumps(data)[1:]}')


DAMAGED = [
    ("labelme", shape(points=[[1, 2]]), r"shapes\[0\]: a polygon of 1 points has no area; correct or remove it"),
    ("labelme", shape(points=[[1, 2]] * 3, shape_type="rectangle"), "3 points, not 2; correct or remove it"),
    ("labelme", shape(points=[[1, 2]] * 2, shape_type="mask", mask="AAAA"), "draw the object again or remove it"),
    ("labelme", shape(label=3), r"shapes\[0\].label: .*it is 3.*; correct or remove this entry"),
    ("labelme", shape(label="bus"), "'bus' is not in the card; give the value to a class of the card, or list it"),
    ("labelme", shape(points=[[1, 2], [3, 4], [900, 1]]), "lies far outside .*; correct or remove it"),
    ("labelme", shape(points=[[70, 0], [90, 0], [90, 9]]), "the outline lies outside of the image .*; "),
    ("labelme", swap("20", "1e999"), "the JSON holds what no field can hold .*; correct or remove it"),
    ("labelme", write(b"{"), "unreadable or truncated JSON .*; correct it there, or fetch or export the file again"),
    ("labelme", write(gzip.compress(b"a")), "an archive, not an annotation file; unpack it"),
    ("labelme", write(codecs.BOM_UTF16_LE + b"\x00\xd8"), "the annotation file cannot be read .*; fetch it again"),
    ("labelme", gone, "there is no such annotation file; check the card and the root"),
    ("labelme", folder, "the annotation file cannot be read .*; fetch it again"),
    ("labelme", pipe, "a pipe or a device, where a file was promised; put the file there"),
    ("labelme", as_json(lambda d: d.update(imageWidth=61)), "give both one size, or remove the pair"),
    ("supervisely", object_of(1, bitmap=None), "bitmap: is missing; draw the object again or remove it"),
    ("supervisely", object_of(0, geometryType="rectangle"), "a rectangle of 4 points, not 2; correct or remove it"),
    ("supervisely", swap('"data": "', '"data": "AAAA'), "no packed PNG .*; draw it again or remove it"),
    ("supervisely", as_json(moved), "the bitmap lies outside of the image .*; "),
    ("yolo_segments", write(b"x 0 0 1 1"), "'x' is no class number; "),
    ("yolo_segments", write(b"1 0.5 0.5 12 0.2 0.3 0.3"), "divide pixels by the image's width and height"),
    ("yolo_segments", write(b"1 0.5 0.5 0.1"), "3 coordinates; a box has 4, a polygon pairs.*; "),
    ("yolo_segments", write(b"1 a 0.5 0.1 0.2"), "'a' is no number; "),
    ("yolo_segments", write(b"\xff\xfe\x00"), "cannot be read .*; save it as text"),
    ("yolo_segments", write(b"7 0.1 0.1 0.1 0.9 0.9 0.9"), "label 7 is not in the card; give the value to a class"),
    ("cvat_images", write(b"<annotations>"), "unreadable or truncated XML .*; fetch the file again"),
    ("cvat_images", gone, "there is no such annotation file; check the card and the root"),
    ("cvat_images", swap(' label="car"', ""), "mask 1: it has no label; give it one or remove it"),
    ("cvat_images", swap('rle="0, ', 'rle="7, '), "runs of .* pixels in a box .*; draw the object again or remove it"),
    ("cvat_images", write(b"<other/>"), "it is <other>, not <annotations>.*; check the card"),
    ("label_studio", value_of(0, 0, polygonlabels=["road", "car"]), "the labels .*, not one; give it one label"),
    ("label_studio", value_of(0, 1, rle=[1, 2]), "not the runs of a brush .*; export again, or remove it"),
    ("label_studio", value_of(0, 0, points=None), "neither rle, points, radii nor sides; draw the object again"),
    ("label_studio", write(b"{}"), "it is no list of tasks.*; check the card"),
    ("coco_instances", annotation(segmentation=[[1, 2]]), "3 are needed; correct or remove the object"),
    ("coco_instances", annotation(category_id=9), "category 9 .*; "),
    ("coco_instances", image(id=99), "more than one entry.*; "),
    ("coco_instances", image(file_name="x.jpg"), "two images have one id.*; "),
    ("coco_instances", as_json(lambda d: d["images"].pop(0)), "; (add|remove|give|check|correct)"),
    ("coco_instances", as_json(lambda d: d["categories"][1].update(id="x")), "category #1.*; "),
    ("coco_instances", category(name="way"), "category 1 is called 'road' and 'way'; keep one of them"),
    ("coco_instances", twice, "parsers read the last; join what they hold"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGED)
def test_an_annotation_file_is_read_when_mended_as_advised(tmp_path, name, damage, said):
    CARDS[name][1](tmp_path / "data")
    card = write_card(tmp_path, name)
    file = first_file(tmp_path / "data", name)
    whole = file.read_bytes()

    def read():
        opened = load(card, tmp_path / "data")
        return [opened.read(i).annotation.labels for i in range(len(opened))]

    def mended():
        file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
        file.write_bytes(whole)
        return read()

    damage(file)
    follow(read, said, mended)


def test_boxes_of_yolo_lie_in_the_image_as_advised(tmp_path):
    CARDS["yolo_segments"][1](tmp_path / "data")
    card = write_card(tmp_path, "yolo_segments")
    card.write_text(card.read_text().replace("yolo_segments", "yolo_boxes"))

    def read(line):
        for file in (tmp_path / "data/labels").rglob("*.txt"):
            file.write_text(line)
        return load(card, tmp_path / "data").read(0)

    said = "line 1: the box lies outside of the image .*; correct"
    follow(lambda: read("1 1.3 0.5 0.2 0.5\n"), said, lambda: read("1 0.5 0.5 0.2 0.5\n"))


def test_folders_tell_images_of_one_name_apart_as_advised(tmp_path):
    CARDS["coco_instances"][1](tmp_path / "data")
    images = tmp_path / "data/images/default"
    first = sorted(images.iterdir())[0]
    for folder_ in ("x", "y"):
        (images / folder_).mkdir()
        shutil.copy(first, images / folder_)
    first.unlink()
    file = tmp_path / "data/annotations/instances_default.json"
    card = write_card(tmp_path, "coco_instances")
    read = lambda: [load(card, tmp_path / "data").read(i) for i in range(7)]  # noqa: E731

    def told():
        data = json.loads(file.read_text())
        entry = next(i for i in data["images"] if i["file_name"] == first.name)
        data["images"].append(entry | {"id": 99, "file_name": f"y/{first.name}"})
        entry["file_name"] = f"x/{first.name}"
        file.write_text(json.dumps(data))
        return read()

    follow(read, "one entry is meant for two images; write their folders into the file's names of images", told)
