"""The written scores: JSON and Markdown."""

import json

import numpy as np
import pytest

from manyseg.evaluation.confusion import Confusion
from manyseg.evaluation.scores import DatasetScores, Scores
from manyseg.labels import LabelSpace


def scores_of(**protocols):
    space = LabelSpace.of("s", ["road", "car", "sky"])
    confusion = Confusion(space, np.array([[3, 1, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]]))
    return Scores(7, {n: DatasetScores(p, confusion, ("car",)) for n, p in protocols.items()})


def test_the_json_is_exactly_the_documented_format(tmp_path):
    scores_of(street="names").write(tmp_path / "s.json")
    found = json.loads((tmp_path / "s.json").read_text())
    # road 3 / 4; car: 0 of 2, and one pixel of road called so; sky absent.
    assert found == {
        "unified_nodes": 7,
        "mean_miou_seen": None,
        "datasets": {
            "street": {
                "protocol": "names",
                "miou": 0.375,
                "pixel_accuracy": 0.5,
                "pq": None,
                "skipped": [],
                "classes": {
                    "road": {"iou": 0.75, "pixels": 4},
                    "car": {"iou": 0.0, "pixels": 2},
                    "sky": {"iou": None, "pixels": 0},
                },
                "closed_miou": 1.0,
            }
        },
    }


def test_means_never_mix_protocols():
    scores = scores_of(a="seen", b="names", c="labels")
    assert scores.mean_miou_seen == 0.375
    markdown = scores.to_markdown()
    for protocol in ("seen", "names", "labels"):
        assert f"- mean mIoU, {protocol}: 37.5 (arithmetic, over 1 dataset)" in markdown
    assert "text" not in markdown


def test_a_closed_set_leaves_out_the_classes_without_a_node_and_their_pixels():
    space = LabelSpace.of("s", ["road", "car", "sky"])
    confusion = Confusion(space, np.array([[6, 0, 2, 0], [4, 0, 4, 0], [0, 0, 8, 0]]))
    scores = DatasetScores("names", confusion, ("car",))
    assert scores.miou == pytest.approx((6 / 12 + 0 + 8 / 14) / 3)
    assert scores.closed_miou == pytest.approx((6 / 8 + 8 / 10) / 2)
    assert DatasetScores("seen", confusion).closed_miou is None
    assert DatasetScores("names", confusion, space.names).closed_miou is None
    assert "- x: mIoU 77.5 as a closed set, the 1 unmapped classes" in Scores(1, {"x": scores}).to_markdown()


def test_the_markdown_counts_absent_and_unmapped_classes():
    markdown = scores_of(street="names").to_markdown()
    assert "| street | names | 37.5 | 50.0 | - | 3 | 1 | 1 |" in markdown
    assert "| car | 0.0 | 2 | unmapped |" in markdown
    assert "| sky | - | 0 | absent |" in markdown
