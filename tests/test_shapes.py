"""That the shapes and types of arrays in annotations hold is checked while tests run."""

import jaxtyping
import numpy as np
import pytest
import torch

from manyseg.inference.options import SegmentOptions
from manyseg.inference.segments import find_segments
from manyseg.losses import cross_entropy
from manyseg.relate.assignment import map_by_iou, prune_by_score


def test_an_array_of_another_type_or_number_of_axes_is_an_error():
    assert map_by_iou(np.array([[8, 2], [0, 5]])).dtype == bool
    for wrong in (np.array([[8.0, 2.0], [0.0, 5.0]]), np.array([8, 2])):
        with pytest.raises(jaxtyping.TypeCheckError, match="counts"):
            map_by_iou(wrong)


def test_axes_of_one_name_have_one_length_in_all_arguments():
    prune_by_score(np.array([0, 1]), np.ones((2, 2)), 0.5)
    with pytest.raises(jaxtyping.TypeCheckError, match="score"):
        prune_by_score(np.array([0, 1]), np.ones((3, 2)), 0.5)


def test_tensors_are_checked_as_arrays_are():
    scores, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 8, dtype=torch.long)
    cross_entropy(scores, labels)
    with pytest.raises(jaxtyping.TypeCheckError, match="labels"):
        cross_entropy(scores, labels[:1])
    with pytest.raises(jaxtyping.TypeCheckError, match="masks"):
        find_segments(torch.rand(5, 3), torch.rand(4, 2, 2), torch.ones(2, dtype=torch.bool), (4, 4), SegmentOptions())


def test_what_is_returned_is_checked_too(monkeypatch):
    monkeypatch.setattr("manyseg.relate.assignment._keep", lambda *_: np.zeros(2, bool))
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        prune_by_score(np.array([0, 1]), np.ones((2, 2)), 0.5)


def test_a_test_can_leave_it_out(unchecked):
    assert map_by_iou(np.array([[8.0, 2.0], [0.0, 5.0]])).tolist() == [[True, False], [False, True]]
