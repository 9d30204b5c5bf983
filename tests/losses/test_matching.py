import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyseg.labels import IGNORE
from manyseg.losses.mask import focal_dice
from manyseg.losses.matching import (
    match,
    pair_costs,
    resize_nearest,
    targets_of_labels,
    targets_of_segments,
)
from manyseg.losses.set_prediction import QueryOutput, SetPredictionLoss, class_loss


def test_classes_that_are_present_are_the_targets_of_a_mask():
    labels = torch.tensor([[[0, 2], [IGNORE, 2]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    found = targets_of_labels(labels, 4)
    assert found.classes.tolist() == [[0, IGNORE, 2, IGNORE], [IGNORE] * 4]
    assert found.ids is labels


def test_segments_that_a_crop_has_cut_away_are_no_targets():
    ids = torch.tensor([[[0, 2], [2, IGNORE]]])
    classes = torch.tensor([[5, 5, 1, IGNORE]])
    labels = torch.tensor([[[5, 1], [1, IGNORE]]])
    assert targets_of_segments(ids, classes, labels).classes.tolist() == [[5, IGNORE, 1, IGNORE]]


def costs(logits, ids, classes, probability=None, focal=20.0, dice=1.0):
    b, q = logits.shape[:2]
    p = torch.full((b, q, 4), 0.25) if probability is None else probability
    return pair_costs(p, logits, ids, classes, focal, dice)


def test_masks_in_swapped_order_have_no_dice_cost_and_the_swapped_matching():
    ids = torch.tensor([[0, 0, 1, 1]])
    logits = torch.tensor([[[-50.0, -50, 50, 50], [50.0, 50, -50, -50]]])
    cost = costs(logits, ids, torch.tensor([[0, 1]]), focal=0.0)
    assert cost[0, 0, 1].item() == cost[0, 1, 0].item() == pytest.approx(-0.25)
    (found,) = match([cost[None]])
    assert (found.query.tolist(), found.segment.tolist()) == ([0, 1], [1, 0])


def test_the_class_cost_is_the_probability_and_not_its_logarithm():
    probability = torch.tensor([[[0.7, 0.2, 0.05, 0.05]]])
    logits, ids = torch.zeros(1, 1, 2), torch.tensor([[0, 1]])
    cost = costs(logits, ids, torch.tensor([[1, 0]]), probability, focal=0.0, dice=0.0)
    assert cost.tolist() == [[pytest.approx([-0.2, -0.7])]]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_costs_of_pairs_are_the_losses_of_each_pair(seed):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 3, 10, generator=g)
    ids = torch.randint(-1, 3, (2, 10), generator=g)
    classes = torch.tensor([[1, 0, 2], [2, 2, IGNORE]])
    found = costs(logits, ids, classes)
    for b, q, t in itertools.product(range(2), range(3), range(3)):
        focal, dice = focal_dice(logits[b, q][None], (ids[b] == t)[None], (ids[b] != IGNORE)[None])
        expected = np.inf if classes[b, t] == IGNORE else 20 * focal.item() + dice.item() - 0.25
        assert found[b, q, t].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_ignored_pixel_changes_no_cost():
    ids, classes = torch.tensor([[0, 1, IGNORE]]), torch.tensor([[0, 1]])
    one = costs(torch.tensor([[[1.0, -1.0, 5.0]]]), ids, classes)
    other = costs(torch.tensor([[[1.0, -1.0, -5.0]]]), ids, classes)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, costs(torch.tensor([[[1.0, -1.0]]]), ids[:, :2], classes))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_the_matching_is_the_cheapest_of_all(seed):
    rng = np.random.default_rng(seed)
    cost = rng.normal(size=(2, 2, 4, 3))
    cost[:, 1, :, 2] = np.inf
    (found,) = match([torch.from_numpy(cost)])
    assert found.counts == (2 * 3, 2 * 2)
    assert found.segments == 5
    assert found.left_out == 0
    for block, b in itertools.product(range(2), range(2)):
        mine = (found.block == block) & (found.image == b)
        total = cost[block, b][found.query[mine], found.segment[mine]].sum()
        width = 3 - b
        best = min(cost[block, b][list(p), range(width)].sum() for p in itertools.permutations(range(4), width))
        assert total == pytest.approx(best)


def test_batches_of_several_sizes_are_matched_together_and_ordered_by_image():
    a, b = torch.rand(1, 2, 3, 2), torch.rand(1, 1, 3, 4)
    b[..., 1:] = torch.inf
    first, second = match([a, b])
    assert first.image.tolist() == [0, 0, 1, 1]
    assert second.counts == (1,)
    assert second.segment.tolist() == [0]
    assert match([]) == []


def test_more_segments_than_queries_leave_some_out_and_are_counted():
    (found,) = match([torch.rand(2, 1, 2, 5)])
    assert found.counts == (4,)
    assert (found.segments, found.left_out) == (5, 3)


def test_costs_that_are_not_finite_match_something_and_leave_the_error_to_the_loss():
    cost = costs(torch.full((1, 2, 3), torch.nan), torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1]]))
    assert match([cost[None]])[0].counts == (2,)


def test_an_image_without_any_segment_has_no_match():
    cost = costs(torch.zeros(1, 2, 2), torch.full((1, 2), IGNORE), torch.full((1, 3), IGNORE))
    (found,) = match([cost[None]])
    assert found.counts == (0,)
    assert len(found.query) == found.segments == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9))
def test_maps_are_reduced_as_torch_takes_the_nearest_pixel(height, width, h, w):
    ids = torch.arange(height * width).view(1, height, width)
    expected = torch.nn.functional.interpolate(ids[None].double(), size=(h, w), mode="nearest")[0].long()
    assert torch.equal(resize_nearest(ids, (h, w)), expected)


def test_matching_gives_the_values_of_the_reference_losses_on_the_same_tensors():
    """Hugging Face's MaskFormer: its matcher, focal, dice and class losses, where no pixel is ignored."""
    from transformers.models.maskformer import modeling_maskformer as reference

    from manyseg.losses.mask import mask_losses

    torch.manual_seed(0)
    logits, scores = torch.randn(2, 6, 4, 5), torch.randn(2, 6, 5)
    ids = torch.randint(0, 3, (2, 16, 20))
    classes = torch.tensor([[3, 0, 3], [1, 2, 0]])
    matcher = reference.MaskFormerHungarianMatcher(cost_class=1.0, cost_dice=1.0, cost_mask=20.0)
    theirs = reference.MaskFormerLoss(4, matcher, {}, 0.1)(
        logits, scores, [(ids[b] == torch.arange(3)[:, None, None]).float() for b in range(2)], list(classes)
    )
    cost = costs(logits.flatten(2), resize_nearest(ids, (4, 5)).flatten(1), classes, scores.softmax(-1))
    (found,) = match([cost[None]])
    masks = logits[found.image, found.query]
    focal, dice = mask_losses(masks, found.segment, ids, found.counts)
    wanted = torch.full((1, 2, 6), 4)
    wanted[found.block, found.image, found.query] = classes[found.image, found.segment]
    loss = class_loss(scores.log_softmax(-1)[None], wanted, 0.1).mean()
    assert (focal / 6).item() == pytest.approx(theirs["loss_mask"].item(), rel=1e-5)
    assert (dice / 6).item() == pytest.approx(theirs["loss_dice"].item(), rel=1e-5)
    assert loss.item() == pytest.approx(theirs["loss_cross_entropy"].item(), rel=1e-5)


def test_class_losses_are_divided_by_the_weights_of_the_queries_of_one_block():
    """Two blocks, one image, three queries, of which each block has one matched: 1 + 0.1 * 2."""
    targets = torch.full((2, 1, 3), 1)
    targets[:, :, 0] = 0
    assert class_loss(torch.zeros(2, 1, 3, 2), targets, 0.1).terms[0].count.item() == pytest.approx(1.2)


@pytest.mark.parametrize("points", [0, 32])
def test_every_block_may_have_pixels_of_its_own(points):
    """Three blocks in one output have the losses of three outputs of one block, whatever the images hold."""
    torch.manual_seed(0)
    ids = torch.randint(0, 3, (2, 16, 16))
    ids[1] = IGNORE
    ids[1, :8] = 0
    targets = targets_of_labels(ids, 3)
    classes, masks = torch.randn(3, 2, 5, 4).log_softmax(-1), torch.randn(3, 2, 5, 6)
    embedding = torch.randn(3, 2, 6, 8, 8)
    loss = SetPredictionLoss(focal_weight=20.0, dice_weight=1.0, background_weight=0.1, points=points)
    parts = [slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)]
    outputs = [QueryOutput(classes[p], masks[p], embedding[p], targets) for p in parts]
    seeds = [torch.Generator().manual_seed(0) for _ in parts]
    (joint,), *single = [loss([one], seed)[0] for one, seed in zip(outputs, seeds, strict=True)]
    for name, value in joint.items():
        torch.testing.assert_close(value.mean(), sum(one[0][name].mean() for one in single))


def test_costs_that_are_not_finite_have_the_largest_cost_that_can_be_matched():
    nan, inf = float("nan"), float("inf")
    probability = torch.tensor([[[nan, -inf, inf, 0.5]]])
    found = costs(torch.zeros(1, 1, 2), torch.tensor([[0, 1]]), torch.tensor([[0, 1, 2, IGNORE]]), probability)
    assert found.tolist() == [[[1e9, 1e9, -1e9, inf]]]


def test_one_pixel_alone_has_its_own_focal_cost():
    logits, classes = torch.tensor([[[0.7, 3.0]]]), torch.tensor([[0]])
    one = costs(logits, torch.tensor([[0, IGNORE]]), classes, focal=1.0, dice=0.0)
    two = costs(torch.full((1, 1, 2), 0.7), torch.tensor([[0, 0]]), classes, focal=1.0, dice=0.0)
    assert one.item() == pytest.approx(two.item(), rel=1e-6)
    assert one.item() > -0.25


def test_a_single_query_is_matched():
    (found,) = match([torch.tensor([[[[2.0, 1.0, torch.inf]]]])])
    assert (found.query.tolist(), found.segment.tolist()) == ([0], [1])
