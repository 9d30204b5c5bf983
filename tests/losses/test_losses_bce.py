"""Null and relational BCE: the reference's hand tests 1, 2, 3 and 6, and the plain way as an oracle."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from manyseg import losses
from manyseg.labels import IGNORE
from manyseg.losses import BinaryTargets, RelationIndex

CPU = torch.device("cpu")
PART = torch.tensor([[1, 0, 0], [0, 0, 1]], dtype=torch.bool)
NULL = [[1, -1, 0], [0, -1, 1]]
Z = (1.0, 2.0, 0.0)


def bce(z, table, labels, **options):
    """The loss of scores [B, U, h, w], of which only the judged nodes are handed over."""
    targets = BinaryTargets.of(torch.tensor(table), CPU)
    return losses.binary_cross_entropy(z[:, targets.nodes], torch.as_tensor(labels), targets, **options).mean()


def plain(z, table, labels):
    """The same with a one-hot target of every node at native size."""
    labels = torch.as_tensor(labels)
    up = F.interpolate(z, size=labels.shape[1:], mode="bilinear", align_corners=False)
    target = torch.tensor(table)[labels.clamp(min=0)].movedim(-1, 1).to(z.dtype)
    each = F.binary_cross_entropy_with_logits(up, target.clamp(min=0), reduction="none")
    valid = labels != IGNORE
    return (each * (target >= 0) * valid[:, None]).sum() / valid.sum().clamp(min=1)


def pixel(z):
    return torch.tensor(z).view(1, -1, 1, 1)


def test_null_targets_are_the_class_its_rivals_and_nothing_of_other_datasets():
    assert losses.null_bce_targets(PART).tolist() == NULL


def test_at_zero_scores_every_judged_node_costs_ln_2():
    zero = pixel((0.0, 0.0, 0.0))
    assert bce(zero, NULL, [[[0]]]).item() == pytest.approx(2 * math.log(2))
    assert bce(zero, [[1, 0, 0], [0, 0, 1]], [[[0]]]).item() == pytest.approx(3 * math.log(2))


def test_the_fixture_has_the_values_of_the_reference():
    assert bce(pixel(Z), NULL, [[[0]]]).item() == pytest.approx(1.00641, abs=5e-6)
    assert bce(pixel(Z), [[1, 0, 0], [0, 0, 1]], [[[0]]]).item() == pytest.approx(3.13334, abs=5e-6)
    assert bce(pixel(Z), [[1, 1, 0], [0, -1, 1]], [[[0]]]).item() == pytest.approx(1.13334, abs=5e-6)
    # The other label's extra positive is nothing to this one.
    assert bce(pixel(Z), [[1, -1, 0], [0, 1, 1]], [[[0]]]).item() == pytest.approx(1.00641, abs=5e-6)


def test_the_gradient_is_sigmoid_less_target_over_pixels_and_exactly_0_at_a_null():
    z = torch.tensor([Z, Z]).T.reshape(1, 3, 1, 2).requires_grad_()
    # Pixel 0 has an extra positive, node 1, which is null to pixel 1.
    bce(z, [[1, 1, 0], [0, -1, 1]], [[[0, 1]]]).backward()
    s = [1 / (1 + math.exp(-v)) for v in Z]
    assert z.grad[0, :, 0, 0].tolist() == pytest.approx([(s[0] - 1) / 2, (s[1] - 1) / 2, s[2] / 2])
    assert z.grad[0, :, 0, 1].tolist() == pytest.approx([s[0] / 2, 0, (s[2] - 1) / 2])
    assert z.grad[0, 1, 0, 1].item() == 0


def test_a_positive_among_the_own_classes_turns_its_bce_around():
    assert bce(pixel(Z), [[1, -1, 1], [0, -1, 1]], [[[0]]]).item() == pytest.approx(
        math.log1p(math.exp(-1)) + math.log(2)
    )


def test_more_ignored_pixels_and_more_of_the_same_change_nothing():
    z = torch.randn(1, 3, 1, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 1, IGNORE, 1]]])
    one = bce(z, NULL, labels).item()
    more = torch.cat([z, z.flip(1)], 3)
    ignored = torch.cat([labels, torch.full_like(labels, IGNORE)], 2)
    assert bce(more, NULL, ignored).item() == pytest.approx(one)
    assert bce(torch.cat([z, z], 3), NULL, torch.cat([labels, labels], 2)).item() == pytest.approx(one)


def test_nothing_labelled_costs_0_with_a_graph():
    z = torch.ones(1, 3, 2, 2, requires_grad=True)
    loss = bce(z, [[1, 1, 0], [0, -1, 1]], torch.full((1, 4, 4), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert (z.grad == 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_lists_and_bands_equal_the_plain_way(seed, nodes, classes, small):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(-1, 2, (classes, nodes), generator=generator)
    table[:, 0] = 1
    z = torch.randn(2, nodes, 3, 4, generator=generator, requires_grad=True)
    labels = torch.randint(-1, classes, (2, 3, 4) if small else (2, 13, 9), generator=generator)
    ours, theirs = (f(z, table.tolist(), labels) for f in (bce, plain))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-6)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-6)


def test_bands_do_not_change_the_loss(monkeypatch):
    z = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(400).view(1, 20, 20) % 3 - 1
    whole = bce(z, NULL, labels).item()
    monkeypatch.setitem(losses.upsampling.BAND_BYTES, "cpu", 1)
    assert bce(z, NULL, labels).item() == pytest.approx(whole)


def test_only_judged_nodes_have_a_channel_those_of_all_labels_first():
    targets = BinaryTargets.of(torch.tensor([[-1, 1, -1, 1, 0], [-1, -1, -1, 0, 1]]), CPU)
    assert targets.nodes.tolist() == [3, 4, 1]
    assert targets.always == 2
    assert targets.extra.tolist() == [[2], [IGNORE]]
    assert targets.positive.tolist() == [[0, 2], [1, IGNORE]]


def test_a_label_without_positive_is_refused():
    with pytest.raises(ValueError, match="no positive node"):
        BinaryTargets.of(torch.tensor([[0, -1], [1, 0]]), CPU)


def test_hard_pixels_are_those_whose_nodes_are_not_all_right():
    z = torch.tensor([[6.0, 0.0], [0.0, 0.0], [-6.0, 0.0]]).view(1, 3, 1, 2)
    assert bce(z, NULL, [[[0, 0]]], ohem=0.7).item() == pytest.approx(2 * math.log(2))


def test_the_largest_node_speaks_for_its_class():
    links = RelationIndex.of(torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.bool), CPU)
    assert losses.class_max(pixel(Z), links).flatten().tolist() == [2.0, 0.0, -math.inf]
    assert losses.class_max(pixel(Z), RelationIndex.of(PART, CPU)).flatten().tolist() == [1.0, 0.0]
