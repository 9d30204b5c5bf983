"""Mask queries to segments that do not overlap."""

import pytest
import torch

from manyseg.inference.segments import find_segments
from manyseg.labels import IGNORE

THINGS = torch.tensor([True, True, False, False])


def ask(classes, masks, mask_threshold=0.7, overlap_threshold=0.8, size=(1, 4)):
    return find_segments(
        torch.tensor(classes), torch.tensor(masks)[:, None], THINGS, size, mask_threshold, overlap_threshold
    )


def test_background_and_unsure_queries_are_dropped():
    masks = [[9.0, 9, 9, 9]] * 3
    classes = [[0.0, 0, 0, 0, 1.0], [0.6, 0.4, 0, 0, 0], [0.0, 0, 0.9, 0.0, 0.1]]
    found = ask(classes, masks)
    assert found.classes.tolist() == [2]
    assert found.scores.tolist() == pytest.approx([0.9])
    assert found.ids.tolist() == [[0, 0, 0, 0]]


def test_a_pixel_is_of_the_query_with_the_largest_product_of_class_and_mask():
    # sigmoid(1) = .73, sigmoid(2) = .88: at the second pixel 1 * .73 < .9 * .88, at the third 1 * .88 > .9 * .73.
    masks = [[9.0, 1, 2, -9], [-9.0, 2, 1, 9]]
    found = ask([[1.0, 0, 0, 0, 0], [0.0, 0.9, 0, 0, 0.1]], masks, overlap_threshold=0.5)
    assert found.ids.tolist() == [[0, 1, 0, 1]]
    assert found.classes.tolist() == [0, 1]


def test_a_segment_mostly_hidden_by_others_is_dropped_and_its_pixels_are_nobodys():
    masks = [[9.0, 9, 9, -9], [2.0, 2, 2, 2]]
    classes = [[1.0, 0, 0, 0, 0], [0.0, 1.0, 0, 0, 0]]
    found = ask(classes, masks)
    assert found.classes.tolist() == [0]
    assert found.ids.tolist() == [[0, 0, 0, IGNORE]]
    assert ask(classes, masks, overlap_threshold=0.25).ids.tolist() == [[0, 0, 0, 1]]


def test_a_pixel_inside_no_mask_is_nobodys():
    assert ask([[1.0, 0, 0, 0, 0]], [[9.0, 9, -0.1, -9]]).ids.tolist() == [[0, 0, IGNORE, IGNORE]]


def test_parts_of_one_stuff_class_are_one_segment_and_things_stay_apart():
    masks = [[9.0, -9, -9, -9], [-9.0, 9, -9, -9], [-9.0, -9, 9, -9], [-9.0, -9, -9, 9]]
    classes = [[0.0, 0, 0.8, 0, 0.2], [0.0, 0, 0.9, 0, 0.1], [1.0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0]]
    found = ask(classes, masks)
    assert found.ids.tolist() == [[0, 0, 1, 2]]
    assert found.classes.tolist() == [2, 0, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 1, 1])


def test_no_query_left_gives_an_empty_map():
    found = ask([[0.0, 0, 0, 0, 1.0]], [[9.0] * 4], size=(3, 5))
    assert found.ids.shape == (3, 5)
    assert (found.ids == IGNORE).all()
    assert len(found.classes) == len(found.scores) == 0


def test_masks_are_upsampled_with_half_pixel_centres():
    # At the third pixel .25 * -2 + .75 * .8 = .1; with aligned corners -.13.
    assert ask([[1.0, 0, 0, 0, 0]], [[-2.0, 0.8]]).ids.tolist() == [[IGNORE, IGNORE, 0, 0]]
