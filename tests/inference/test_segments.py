"""Mask queries to segments that do not overlap."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyseg.inference.options import SegmentOptions
from manyseg.inference.segments import find_segments
from manyseg.labels import IGNORE

THINGS = torch.tensor([True, True, False, False])


def ask(classes, masks, overlap_threshold=0.8, size=(1, 4), segment_rule="inside"):
    options = SegmentOptions(mask_threshold=0.7, overlap_threshold=overlap_threshold, segment_rule=segment_rule)
    return find_segments(torch.tensor(classes), torch.tensor(masks)[:, None], THINGS, size, options)


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


def test_a_pixel_inside_no_mask_is_nobodys_or_as_published_the_nearest_masks():
    classes, masks = [[1.0, 0, 0, 0, 0]], [[9.0, 9, -0.1, -9]]
    assert ask(classes, masks).ids.tolist() == [[0, 0, IGNORE, IGNORE]]
    assert ask(classes, masks, segment_rule="maskformer").ids.tolist() == [[0, 0, 0, 0]]


def test_the_published_rule_compares_all_pixels_that_a_mask_wins_with_those_inside_of_it():
    # The second mask has two pixels; it wins one of them, and two more where neither mask is.
    masks = [[9.0, 9, -3, -3], [-9.0, 8, -2, 9]]
    classes = [[1.0, 0, 0, 0, 0], [0.0, 1.0, 0, 0, 0]]
    assert ask(classes, masks).ids.tolist() == [[0, 0, IGNORE, IGNORE]]
    assert ask(classes, masks, segment_rule="maskformer").ids.tolist() == [[0, 0, 1, 1]]


def test_a_mask_without_a_pixel_inside_is_no_segment():
    assert len(ask([[1.0, 0, 0, 0, 0]], [[-1.0] * 4], segment_rule="maskformer").classes) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_the_published_rule_gives_what_hugging_face_gives(seed, overlap_threshold):
    # Theirs counts a mask's own pixels by the product of class and mask probability; no pixel here lies where that
    # differs: probabilities of kept classes are above 0.85, those of masks at least 0.6 or at most 0.4. And where
    # theirs joins stuff it hands out numbers twice, so it is asked not to, and stuff is joined here.
    from transformers import MaskFormerImageProcessor

    generator = torch.Generator().manual_seed(seed)
    queries, size = 12, (9, 11)
    logits = torch.randn(1, queries, len(THINGS) + 1, generator=generator)
    logits.scatter_add_(2, logits.argmax(2, keepdim=True), torch.full((1, queries, 1), 4.0))
    masks = torch.randn(1, queries, *size, generator=generator)
    masks = masks + masks.sign() * 0.41
    outputs = SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks)
    processor = MaskFormerImageProcessor()
    theirs = processor.post_process_panoptic_segmentation(outputs, 0.85, 0.5, overlap_threshold - 1e-6, set())[0]
    classes = [segment["label_id"] for segment in theirs["segments_info"]]
    ids = (theirs["segmentation"].long() - 1).clamp(min=IGNORE)
    options = SegmentOptions(mask_threshold=0.85, overlap_threshold=overlap_threshold)
    apart = find_segments(logits[0].softmax(1), masks[0], torch.ones(4, dtype=torch.bool), size, options)
    assert apart.classes.tolist() == classes
    assert torch.equal(apart.ids, ids)

    joined = find_segments(logits[0].softmax(1), masks[0], THINGS, size, options)
    keys = [c if not THINGS[c] else (c, k) for k, c in enumerate(classes)]
    order = list(dict.fromkeys(keys))
    assert joined.ids.tolist() == [[IGNORE if i < 0 else order.index(keys[i]) for i in row] for row in ids.tolist()]


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
