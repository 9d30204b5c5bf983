import json

import numpy as np
import pytest
import torch
from PIL import Image

from manyseg.data import load
from manyseg.errors import UserError
from manyseg.inference.segments import SegmentMap
from manyseg.labels import IGNORE, LabelClass, LabelSpace
from manyseg.prediction.panoptic_files import CocoPanoptic, InstanceIds

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
    writer = CocoPanoptic(tmp_path, SPACE, [26, 7])
    writer.add("a", FOUND)
    writer.finish()
    lines = 'mask = "panoptic/{id}.png"\nannotations = "panoptic.json"\nencoding = "coco_panoptic"'
    same(read_back(tmp_path, lines))


def test_coco_panoptic_files_hold_to_what_the_panoptic_api_checks(tmp_path):
    """As its evaluation reads a prediction: all ids of a PNG are in the JSON and back, categories are known."""
    writer = CocoPanoptic(tmp_path, SPACE)
    writer.add("sub/a", FOUND)
    writer.finish()
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
    CocoPanoptic(tmp_path, SPACE).add("a", many)
    rgb = np.array(Image.open(tmp_path / "panoptic" / "a.png"), np.int64)
    assert ((rgb * [1, 256, 65536]).sum(-1) == np.arange(1, 301).reshape(15, 20)).all()


def test_instance_ids_are_read_back_as_they_were(tmp_path):
    InstanceIds(tmp_path, SPACE, [26, 7]).add("a", FOUND)
    same(read_back(tmp_path, 'mask = "instances/{id}.png"\nencoding = "instance_ids"'))
    assert np.array(Image.open(tmp_path / "instances" / "a.png")).tolist() == [
        [26000, 26000, 7, 0],
        [26001, 26001, 7, 7],
    ]


@pytest.mark.parametrize("name", ["a", "berlin/a"])
def test_results_hold_to_what_the_instance_benchmark_checks(tmp_path, name):
    """A line a thing: a mask file beside the list, of the image's size, 0 or not; a class value; a score."""
    InstanceIds(tmp_path, SPACE, [26, 7]).add(name, FOUND)
    text = tmp_path / "results" / f"{name}.txt"
    lines = [line.split(" ") for line in text.read_text().splitlines()]
    assert [(value, float(score)) for _, value, score in lines] == [("26", 0.9), ("26", 0.75)]
    masks = [np.array(Image.open(text.parent / file)) for file, _, _ in lines]
    assert (masks[0] > 0).tolist() == (IDS == 0).tolist()
    assert (masks[1] > 0).tolist() == (IDS == 2).tolist()


def test_an_image_without_things_has_an_empty_list(tmp_path):
    InstanceIds(tmp_path, SPACE).add("a", SegmentMap(torch.full((2, 2), IGNORE), torch.zeros(0).long(), torch.zeros(0)))
    assert (tmp_path / "results" / "a.txt").read_text() == ""


def test_values_that_16_bits_cannot_hold_are_refused(tmp_path):
    with pytest.raises(UserError, match="'s' has classes of values 7 to 90"):
        InstanceIds(tmp_path, SPACE, [90, 7])
    with pytest.raises(UserError, match="'s' has classes of values 0 to 1"):
        InstanceIds(tmp_path, SPACE, [0, 1])
