import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from manyseg.data import load
from manyseg.errors import UserError
from manyseg.inference.segments import SegmentMap
from manyseg.labels import IGNORE, LabelClass, LabelSpace
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.prediction import Prediction
from manyseg.prediction.segment_files import Coco, CocoPanoptic, InstanceIds

SPACE = LabelSpace("s", (LabelClass("car", thing=True), LabelClass("road")))
IDS = torch.tensor([[0, 0, 1, IGNORE], [2, 2, 1, 1]])
FOUND = SegmentMap(IDS, torch.tensor([0, 1, 0]), torch.tensor([0.9, 0.8, 0.75]))

CARD = """
name = "s"
image = "images/{{id}}.png"
{lines}
splits = {{ val = "val.txt" }}
ignore = [0]
[classes]
car = {{ value = 26, thing = true }}
road = 7
"""


def write(kind, out, name, values, segments=FOUND):
    """Write one image's files of a kind."""
    labels = np.append(segments.classes.numpy(), IGNORE)[segments.ids.numpy()]
    found = Prediction(labels, SPACE, torch.zeros(3, *labels.shape, dtype=torch.uint8), segments=segments)
    output = kind(out, SPACE, PixelValues(values, 255))
    output.finish([output.write(name, found)])


def read_back(root, lines, name="a"):
    """Open what was written as a dataset of labels."""
    (root / "s.toml").write_text(CARD.format(lines=lines))
    (root / "images").mkdir()
    Image.new("RGB", (4, 2)).save(root / "images" / f"{name}.png")
    (root / "val.txt").write_text(f"{name}\n")
    return load(root / "s.toml", root, "val").read(0).annotation


def same(segments):
    pairs = {(i, j) for i, j in zip(IDS.flatten().tolist(), segments.ids.flatten().tolist(), strict=True)}
    assert len(pairs) == 4
    assert {(FOUND.classes[i].item(), segments.classes[j].item()) for i, j in pairs if i >= 0} == {(0, 0), (1, 1)}
    assert (IGNORE, IGNORE) in pairs


def test_coco_panoptic_files_are_read_back_as_they_were(tmp_path):
    write(CocoPanoptic, tmp_path, "a", (26, 7))
    lines = 'mask = "panoptic/{id}.png"\nannotations = "panoptic.json"\nencoding = "coco_panoptic"'
    same(read_back(tmp_path, lines))


def test_coco_panoptic_files_hold_to_what_the_panoptic_api_checks(tmp_path):
    """As its evaluation reads a prediction: all ids of a PNG are in the JSON and back, categories are known."""
    write(CocoPanoptic, tmp_path, "sub/a", (1, 2))
    tree = json.loads((tmp_path / "panoptic.json").read_text())
    (annotation,) = tree["annotations"]
    rgb = np.array(Image.open(tmp_path / "panoptic" / annotation["file_name"]), np.uint32)
    labels, areas = np.unique(rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2], return_counts=True)
    segments = {s["id"]: s for s in annotation["segments_info"]}
    assert set(labels.tolist()) - {0} == set(segments)
    assert {s["category_id"] for s in segments.values()} <= {c["id"] for c in tree["categories"]}
    for label, area in zip(labels.tolist(), areas.tolist(), strict=True):
        assert label == 0 or segments[label]["area"] == area
    assert segments[2]["bbox"] == [2, 0, 2, 2]
    assert [c["isthing"] for c in tree["categories"]] == [1, 0]
    assert {i["id"] for i in tree["images"]} == {annotation["image_id"]}


def test_more_segments_than_a_byte_holds_keep_their_ids(tmp_path):
    many = SegmentMap(torch.arange(300).view(15, 20), torch.zeros(300).long(), torch.ones(300))
    write(CocoPanoptic, tmp_path, "a", (1, 2), many)
    rgb = np.array(Image.open(tmp_path / "panoptic" / "a.png"), np.int64)
    assert ((rgb * [1, 256, 65536]).sum(-1) == np.arange(1, 301).reshape(15, 20)).all()


def test_instance_ids_are_read_back_as_they_were(tmp_path):
    write(InstanceIds, tmp_path, "a", (26, 7))
    same(read_back(tmp_path, 'mask = "instances/{id}.png"\nencoding = "instance_ids"'))
    assert np.array(Image.open(tmp_path / "instances" / "a.png")).tolist() == [
        [26000, 26000, 7, 0],
        [26001, 26001, 7, 7],
    ]


@pytest.mark.parametrize("name", ["a", "berlin/a"])
def test_results_hold_to_what_the_instance_benchmark_checks(tmp_path, name):
    """A line a thing: a mask file beside the list, of the image's size, 0 or not; a class value; a score."""
    write(InstanceIds, tmp_path, name, (26, 7))
    text = tmp_path / "results" / f"{name}.txt"
    lines = [line.split(" ") for line in text.read_text().splitlines()]
    assert [(value, float(score)) for _, value, score in lines] == [("26", 0.9), ("26", 0.75)]
    masks = [np.array(Image.open(text.parent / file)) for file, _, _ in lines]
    assert (masks[0] > 0).tolist() == (IDS == 0).tolist()
    assert (masks[1] > 0).tolist() == (IDS == 2).tolist()


def test_an_image_without_things_has_an_empty_list(tmp_path):
    nothing = SegmentMap(torch.full((2, 2), IGNORE), torch.zeros(0).long(), torch.zeros(0))
    write(InstanceIds, tmp_path, "a", (1, 2), nothing)
    assert (tmp_path / "results" / "a.txt").read_text() == ""


def test_values_that_16_bits_cannot_hold_are_refused(tmp_path):
    with pytest.raises(UserError, match="'s' has classes of values 7 to 90"):
        InstanceIds(tmp_path, SPACE, PixelValues((90, 7), 255))
    with pytest.raises(UserError, match="'s' has classes of values 0 to 1"):
        InstanceIds(tmp_path, SPACE, PixelValues((0, 1), 255))


@pytest.mark.parametrize("segments", [True, False])
def test_coco_annotations_hold_the_areas_of_classes_or_segments(tmp_path, segments):
    """Two cars of 2 and 2 pixels and a road of 3 are three segments, and two classes."""
    labels = np.append(FOUND.classes.numpy(), IGNORE)[IDS.numpy()]
    image = torch.zeros(3, 2, 4, dtype=torch.uint8)
    output = Coco(tmp_path, SPACE, PixelValues((26, 7), 255))
    output.finish([output.write("a", Prediction(labels, SPACE, image, segments=FOUND if segments else None))])
    coco = COCO(tmp_path / "coco.json")
    found = [(a["category_id"], coco.annToMask(a)) for a in coco.dataset["annotations"]]
    expected = [(26, IDS == 0), (7, IDS == 1), (26, IDS == 2)] if segments else [(26, labels == 0), (7, labels == 1)]
    for (value, mask), (category, inside) in zip(found, expected, strict=True):
        assert value == category
        np.testing.assert_array_equal(mask, inside)
    assert [a["area"] for a in coco.dataset["annotations"]] == [int(inside.sum()) for _, inside in expected]
    assert [a.get("score") for a in coco.dataset["annotations"]] == (
        pytest.approx([0.9, 0.8, 0.75]) if segments else [None, None]
    )
    assert coco.dataset["images"] == [{"id": 1, "file_name": "a", "height": 2, "width": 4}]
    assert coco.dataset["annotations"][1]["bbox"] == [2, 0, 2, 2]
