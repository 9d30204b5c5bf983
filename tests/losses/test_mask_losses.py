import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from manyseg.labels import IGNORE
from manyseg.losses import mask as module
from manyseg.losses.mask import focal_dice, focal_terms, mask_losses, point_losses


def test_the_focal_loss_at_logit_0_is_that_of_the_reference():
    inside, outside = focal_terms(torch.zeros(1))
    assert inside.item() == pytest.approx(0.04332, abs=5e-6)
    assert outside.item() == pytest.approx(0.12997, abs=5e-6)


def test_the_dice_loss_of_a_perfect_mask_is_0_and_of_a_half_sure_one_as_computed_by_hand():
    inside = torch.tensor([[True, True, False, False]])
    sure = torch.where(inside, 100.0, -100.0)
    valid = torch.ones(1, 4, dtype=torch.bool)
    assert focal_dice(sure, inside, valid)[1].item() == pytest.approx(0)
    # 1 - (2 * 1 + 1) / (2 + 2 + 1).
    assert focal_dice(torch.zeros(1, 4), inside, valid)[1].item() == pytest.approx(0.4)


def test_the_focal_loss_of_masks_is_the_mean_over_pixels_of_the_terms():
    logits = torch.tensor([[0.3, -1.0, 2.0]])
    inside, outside = focal_terms(logits)
    focal, _ = focal_dice(logits, torch.tensor([[True, False, True]]), torch.ones(1, 3, dtype=torch.bool))
    assert focal.item() == pytest.approx(((inside[0, 0] + outside[0, 1] + inside[0, 2]) / 3).item())


def test_an_ignored_pixel_changes_neither_value_nor_gradient():
    logits = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    valid = torch.tensor([[True, True, False]])
    for inside in ([[True, False, True]], [[True, False, False]]):
        focal, dice = focal_dice(logits, torch.tensor(inside), valid)
        short = focal_dice(logits[:, :2], torch.tensor(inside)[:, :2], valid[:, :2])
        assert (focal.item(), dice.item()) == pytest.approx(tuple(x.item() for x in short))
        (grad,) = torch.autograd.grad((focal + dice).sum(), logits)
        assert grad[0, 2] == 0


def test_without_a_valid_pixel_both_losses_are_0_with_a_graph():
    logits = torch.ones(1, 2, 2, requires_grad=True)
    ids = torch.full((1, 4, 4), IGNORE)
    focal, dice = mask_losses(logits, torch.tensor([0]), ids, [1])
    assert (focal.item(), dice.item()) == (0, 0)
    assert not torch.autograd.grad(focal + dice, logits)[0].any()


def test_no_mask_at_all_gives_0_with_a_graph():
    logits = torch.ones(3, 2, 2, requires_grad=True)[:0]
    for losses in (
        mask_losses(logits, torch.zeros(0, dtype=torch.long), torch.zeros(2, 4, 4).long(), [0, 0]),
        point_losses(logits, torch.zeros(0, dtype=torch.long), torch.zeros(2, 4, 4).long(), [0, 0], 8),
    ):
        assert sum(losses).item() == 0
        torch.autograd.backward(sum(losses))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200))
def test_in_chunks_values_and_gradients_are_those_of_plain_autograd(seed, chunk):
    g = torch.Generator().manual_seed(seed)
    counts = [2, 0, 3]
    ids = torch.randint(-1, 4, (3, 9, 7), generator=g)
    segments = torch.randint(0, 4, (5,), generator=g)
    logits = torch.randn(5, 4, 3, generator=g, requires_grad=True)
    planes = ids[torch.tensor([0, 0, 2, 2, 2])].flatten(1)
    native = F.interpolate(logits[None], size=(9, 7), mode="bilinear", align_corners=False)[0].flatten(1)
    plain = [x.sum() for x in focal_dice(native, planes == segments[:, None], planes != IGNORE)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.CHUNK, "cpu", chunk)
        ours = mask_losses(logits, segments, ids, counts)
        gradient = torch.autograd.grad(20 * ours[0] + ours[1], logits)[0]
    torch.testing.assert_close(torch.stack(ours), torch.stack(plain))
    torch.testing.assert_close(gradient, torch.autograd.grad(20 * plain[0] + plain[1], logits)[0])


def test_without_a_gradient_to_take_none_is_taken():
    ids = torch.zeros(1, 4, 4).long()
    with torch.no_grad():
        focal, dice = mask_losses(torch.ones(1, 2, 2), torch.tensor([0]), ids, [1])
    assert not focal.requires_grad
    assert dice < 0.5


def test_sampled_points_estimate_the_losses_of_a_mask_that_is_the_same_everywhere():
    torch.manual_seed(0)
    ids = torch.zeros(2, 8, 8).long()
    logits = torch.tensor([1.0, -2.0])[:, None, None].expand(2, 4, 4)
    whole = mask_losses(logits, torch.tensor([0, 0]), ids, [1, 1])
    points = point_losses(logits, torch.tensor([0, 0]), ids, [1, 1], 64)
    # The dice loss alone knows the area, by the 1 that it adds: 64 pixels here, and 64 points.
    torch.testing.assert_close(torch.stack(whole), torch.stack(points))


def test_sampled_points_lie_where_the_mask_is_unsure():
    torch.manual_seed(0)
    ids = torch.zeros(1, 16, 16).long()
    ids[..., 8:] = 1
    # Sure and right on the left, unsure on the right: a uniform sample would see half of the points.
    logits = torch.full((1, 16, 16), 12.0)
    logits[..., 8:] = 0.0
    focal = point_losses(logits, torch.tensor([0]), ids, [1], 400)[0].item()
    uniform = mask_losses(logits, torch.tensor([0]), ids, [1])[0].item()
    assert focal > 1.5 * uniform


def test_points_on_ignored_pixels_do_not_count():
    torch.manual_seed(0)
    ids = torch.full((1, 8, 8), IGNORE)
    logits = torch.randn(1, 4, 4)
    assert [x.item() for x in point_losses(logits, torch.tensor([0]), ids, [1], 20)] == [0, 0]
