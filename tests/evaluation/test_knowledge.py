"""Knowledgeability by hand: which concepts there are, how many reach an IoU, and the area of that curve."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyseg import testing
from manyseg.evaluation.confusion import Confusion
from manyseg.evaluation.knowledge import Knowledge
from manyseg.evaluation.scores import DatasetScores, Scores


def test_classes_that_mean_the_same_nodes_are_one_concept_with_the_mean_of_their_ious():
    # The toy world: road, sky, car and truck are nodes, vehicle is car or truck; three datasets name them.
    ious = {"fine": [0.8, 0.4, 0.1, math.nan], "coarse": [0.5, math.nan, 0.6], "partial": [0.3, 0.2]}
    found = Knowledge.of(testing.toy_taxonomy(), ious)
    assert found.concepts == 5
    assert found.iou == pytest.approx({"road": 1.6 / 3, "sky": 0.4, "car": 0.1, "truck": 0.3, "coarse:vehicle": 0.5})
    assert [found.count(t) for t in (0, 0.1, 0.3, 0.31, 0.5, 0.6)] == [5, 5, 4, 3, 2, 0]
    assert found.area == pytest.approx(1.6 / 3 + 1.3)


def test_a_concept_that_occurs_nowhere_is_counted_among_all_but_not_among_the_measured():
    found = Knowledge.of(testing.toy_taxonomy(), {"partial": [0.25, math.nan]})
    assert found.iou == {"truck": 0.25}
    written = found.to_json()
    assert (written["concepts"], written["measured"], written["area"]) == (5, 1, 0.25)
    assert written["curve"][:6] == [[0.05, 1], [0.1, 1], [0.15, 1], [0.2, 1], [0.25, 1], [0.3, 0]]


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_the_area_is_the_integral_of_the_count_over_all_thresholds(values):
    found = Knowledge.of(testing.toy_taxonomy(), {"fine": values})
    steps = sorted({0.0, *values})
    integral = sum((b - a) * found.count(b) for a, b in pairwise(steps))
    assert found.area == pytest.approx(integral)


def test_scores_write_the_three_axes():
    space = testing.toy_spaces()[2]
    confusion = Confusion(space, np.array([[3, 1, 0], [0, 4, 0]]))
    datasets = {"partial": DatasetScores("seen", confusion), "other": DatasetScores("text", confusion)}
    knowledge = Knowledge.of(testing.toy_taxonomy(), {"partial": confusion.iou.tolist()})
    scores = Scores(4, datasets, knowledge)
    axes = json.loads(json.dumps(scores.to_json()))["axes"]
    assert axes["performance"] == axes["generalisation"]["text"] == pytest.approx((0.75 + 0.8) / 2)
    assert list(axes["generalisation"]) == ["text"]
    assert axes["knowledgeability"]["area"] == pytest.approx(1.55)
    line = "- knowledgeability: 1.6 of 5 concepts (area of the curve); 2 reach an IoU of 25, 2 of 50, 2 of 75"
    assert line in scores.to_markdown().splitlines()
