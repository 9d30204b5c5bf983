"""Label maps and sums at native size, without scores at native size."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from manyseg.inference.label_maps import argmax_map, class_sums
from manyseg.labels import IGNORE


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(*[st.integers(1, 7)] * 2),
    st.tuples(*[st.integers(1, 40)] * 2),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(0, 1000),
    st.booleans(),
)
def test_the_label_map_is_the_argmax_of_upsampled_scores(low, size, batch, classes, seed, align_corners):
    scores = torch.randn(batch, classes, *low, generator=torch.Generator().manual_seed(seed))
    upsampled = F.interpolate(scores, size, mode="bilinear", align_corners=align_corners)
    found = argmax_map(scores, size, align_corners)
    best = upsampled.gather(1, found[:, None])[:, 0]
    torch.testing.assert_close(best, upsampled.max(1).values, atol=1e-5, rtol=0)


def test_the_label_map_does_not_depend_on_the_size_of_its_slices(monkeypatch):
    scores = torch.randn(2, 5, 9, 7)
    whole = argmax_map(scores, (40, 31))
    monkeypatch.setattr("manyseg.inference.label_maps.GATHERED", {"cpu": 35, "cuda": 35})
    assert torch.equal(argmax_map(scores, (40, 31)), whole)


def test_an_excluded_class_is_never_predicted_and_poisons_no_neighbour():
    scores = torch.randn(1, 4, 3, 3)
    scores[:, 2] = -math.inf
    kept = argmax_map(scores[:, [0, 1, 3]], (12, 12))
    assert torch.equal(argmax_map(scores, (12, 12)), torch.tensor([0, 1, 3])[kept])


def test_a_pixel_without_any_class_is_ignore_and_leaves_its_neighbours_alone():
    scores = torch.zeros(1, 2, 1, 2)
    scores[0, 1, 0, 0] = 1
    scores[..., 1] = -math.inf
    assert argmax_map(scores, (1, 8)).tolist() == [[[1, 1, 1, 1, -1, -1, -1, -1]]]
    assert argmax_map(torch.full((1, 3, 2, 2), -math.inf), (4, 4)).unique().tolist() == [IGNORE]


def test_sums_of_a_class_are_those_of_upsampled_scores():
    scores, labels = torch.randn(2, 3, 4, 5), torch.randint(-1, 4, (2, 13, 11))
    upsampled = F.interpolate(scores, (13, 11), mode="bilinear", align_corners=False).movedim(1, -1)
    expected = torch.stack([upsampled[labels == c].sum(0) for c in range(4)]).double()
    torch.testing.assert_close(class_sums(scores, labels, 4), expected, atol=1e-4, rtol=0)
