"""The loss family on hand-computed values, and its banded evaluation against the plain one."""

import math

import hypothesis
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import strategies as st
from torch.nn import functional as F

from manyseg import losses
from manyseg.labels import IGNORE
from manyseg.losses import upsampling

CPU = torch.device("cpu")


def averaged(loss):
    """Return a loss as a number: of one batch alone, so divided by the batch's own pixels."""
    return lambda *args, **options: loss(*args, **options).mean()


cross_entropy = averaged(losses.cross_entropy)
soft_cross_entropy = averaged(losses.soft_cross_entropy)
set_nll = averaged(losses.set_nll)
Z = (1.0, 2.0, 0.0)
COARSE = torch.tensor([[1, 1, 0], [0, 0, 1]], dtype=torch.bool)
PART = torch.tensor([[1, 0, 0], [0, 0, 1]], dtype=torch.bool)


def pixel(values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1).requires_grad_()


def label(value):
    return torch.full((1, 1, 1), value)


def links(relation):
    return losses.RelationIndex.of(relation, CPU)


def plain(scores, labels, align_corners=False, **options):
    up = F.interpolate(scores, size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(up, labels, ignore_index=IGNORE, **options)


# The fixture: z = (1, 2, 0), label 0.


def union_ce(z):
    return cross_entropy(z, label(0))


def own_class_ce(relation):
    return lambda z: cross_entropy(losses.class_logsumexp(z, links(relation)), label(0))


def logit_sum_ce(relation):
    return lambda z: cross_entropy(torch.einsum("du,buhw->bdhw", relation.to(z.dtype), z), label(0))


def nll_plus(relation):
    return lambda z: cross_entropy(losses.class_logsumexp(z.log_softmax(1), links(relation)), label(0), normalised=True)


def nll_plus_with_a_rest(relation):
    rest = torch.cat([relation, ~relation.any(0, keepdim=True)])
    return lambda z: cross_entropy(losses.class_logsumexp(z, links(rest[rest.any(1)])), label(0))


@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [
        (union_ce, 1.40761, (-0.75527, 0.66524, 0.09003)),
        (nll_plus(PART), 1.40761, (-0.75527, 0.66524, 0.09003)),
        (nll_plus_with_a_rest(PART), 1.40761, (-0.75527, 0.66524, 0.09003)),
        (own_class_ce(PART), 0.31326, (-0.26894, 0.0, 0.26894)),
        (nll_plus(COARSE), 0.09434, (-0.02421, -0.06582, 0.09003)),
        (nll_plus_with_a_rest(COARSE), 0.09434, (-0.02421, -0.06582, 0.09003)),
        (logit_sum_ce(COARSE), 0.04859, (-0.04743, -0.04743, 0.04743)),
    ],
)
def test_every_form_has_the_value_and_gradient_computed_by_hand(loss, value, gradient):
    z = pixel(Z)
    out = loss(z)
    out.backward()
    assert out.item() == pytest.approx(value, abs=5e-6)
    assert z.grad.flatten().tolist() == pytest.approx(gradient, abs=5e-6)


def test_own_class_ce_gives_a_node_of_no_class_a_gradient_of_exactly_zero():
    z = pixel(Z)
    own_class_ce(PART)(z).backward()
    assert z.grad[0, 1, 0, 0] == 0


def test_a_second_softmax_over_the_classes_would_cancel_the_normaliser_of_nll_plus():
    logp = losses.class_logsumexp(pixel(Z).log_softmax(1), links(PART))
    assert cross_entropy(logp, label(0), normalised=True).item() == pytest.approx(1.40761, abs=5e-6)
    assert cross_entropy(logp, label(0)).item() == pytest.approx(0.31326, abs=5e-6)


def test_with_a_permutation_as_relation_all_four_forms_are_equal():
    relation = torch.eye(3, dtype=torch.bool)[[2, 0, 1]]
    values = [f(relation)(pixel(Z)).item() for f in (own_class_ce, logit_sum_ce, nll_plus, nll_plus_with_a_rest)]
    assert values == pytest.approx([math.log(math.e + math.e**2 + 1)] * 4)


def test_a_label_that_may_be_anything_costs_nothing_and_teaches_nothing():
    z = pixel(Z)
    loss = nll_plus(torch.ones(1, 3, dtype=torch.bool))(z)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert z.grad.abs().max() < 1e-12


@pytest.mark.parametrize("form", [nll_plus, nll_plus_with_a_rest])
def test_a_truth_200_below_the_winner_costs_200_and_not_infinity(form):
    z = torch.tensor([0.0, 200.0, 0.0, -300.0]).view(1, 4, 1, 1).requires_grad_()
    loss = form(torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]], dtype=torch.bool))(z)
    loss.backward()
    assert loss.item() == pytest.approx(200 - math.log(2))
    assert z.grad.flatten().tolist() == pytest.approx([-0.5, 1, -0.5, 0])


def test_adding_a_constant_to_all_scores_changes_no_form():
    for form in (own_class_ce, nll_plus, nll_plus_with_a_rest):
        assert form(COARSE)(pixel(Z)).item() == pytest.approx(form(COARSE)(pixel([v + 7 for v in Z])).item())


# Scores of classes.


def test_probabilities_of_a_classes_nodes_add_up():
    p = losses.class_logsumexp(pixel(Z).log_softmax(1), links(COARSE)).exp()
    assert p.flatten().tolist() == pytest.approx([0.90997, 0.09003], abs=5e-6)


def test_a_class_without_nodes_scores_minus_infinity_and_disturbs_no_gradient():
    z = pixel(Z)
    out = losses.class_logsumexp(z, links(torch.tensor([[0, 0, 0], [1, 1, 0]], dtype=torch.bool)))
    assert out[0, 0] == -math.inf
    out[0, 1].sum().backward()
    assert z.grad.flatten().tolist() == pytest.approx([0.26894, 0.73106, 0], abs=5e-6)


def test_a_class_of_impossible_nodes_is_impossible_and_not_undefined():
    z = torch.tensor([-math.inf, -math.inf, 1.0, 2.0]).view(1, 4, 1, 1).requires_grad_()
    out = losses.class_logsumexp(z, links(torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)))
    assert out.flatten().tolist() == [-math.inf, pytest.approx(2.31326, abs=5e-6)]
    out[0, 1].sum().backward()
    assert z.grad.isfinite().all()


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 7))
def test_class_logsumexp_equals_the_masked_logsumexp_for_any_relation(seed, classes, nodes):
    generator = torch.Generator().manual_seed(seed)
    relation = torch.rand(classes, nodes, generator=generator) < 0.5
    z = (30 * torch.randn(2, nodes, 3, 2, generator=generator)).double().requires_grad_()
    expected = z[:, None].masked_fill(~relation[None, :, :, None, None], -math.inf).logsumexp(2)
    out = losses.class_logsumexp(z, links(relation))
    torch.testing.assert_close(out, expected)
    weight = torch.randn(out.shape, generator=generator).double() * relation.any(1)[:, None, None]
    ours, theirs = (
        torch.autograd.grad(o[:, relation.any(1)].mul(weight[:, relation.any(1)]).sum(), z)[0] for o in (out, expected)
    )
    torch.testing.assert_close(ours, theirs)


# Bands.


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 23),
    st.integers(1, 23),
    st.integers(1, 30),
    st.integers(1, 30),
    st.booleans(),
)
def test_bands_equal_interpolate_and_cross_entropy_in_value_and_gradient(
    seed, h, w, height, width, rows, columns, aligned
):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, h, w, generator=generator).requires_grad_()
    labels = torch.randint(-1, 3, (2, height, width), generator=generator)
    labels[0, 0, 0] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.upsampling.BAND_BYTES, "cpu", rows * 2 * 3 * width * 4)
        patch.setattr(losses.upsampling, "BLOCK", columns)
        ours = cross_entropy(scores, labels, align_corners=aligned)
        (grad,) = torch.autograd.grad(ours, scores)
        with torch.no_grad():
            assert cross_entropy(scores, labels, align_corners=aligned).item() == pytest.approx(ours.item(), rel=1e-5)
    theirs = plain(scores, labels, align_corners=aligned)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, torch.autograd.grad(theirs, scores)[0], rtol=1e-5, atol=1e-6)


def test_no_band_is_larger_than_its_budget(monkeypatch):
    monkeypatch.setitem(losses.upsampling.BAND_BYTES, "cpu", 4096)
    seen = []

    def loss(up, labels):
        seen.append(up.numel() * up.element_size())
        assert up.shape[2:] == labels.shape[1:]
        return up.sum(1)

    losses.upsampled_sum(torch.randn(2, 4, 8, 8, requires_grad=True), torch.zeros(2, 32, 32), loss)
    assert max(seen) <= 4096
    assert sum(seen) == 2 * 4 * 32 * 32 * 4


def test_backward_only_scales_the_gradient_of_the_forward_pass():
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (1, 9, 9))
    calls = []

    def loss(up, part):
        calls.append(1)
        return F.cross_entropy(up, part, reduction="none")

    total = 3 * losses.upsampled_sum(scores, labels, loss)
    before = len(calls)
    total.backward()
    assert len(calls) == before
    torch.testing.assert_close(scores.grad, torch.autograd.grad(3 * plain(scores, labels, reduction="sum"), scores)[0])


def test_the_gradient_passes_a_numerical_check():
    scores = torch.randn(1, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[0, 1, 2, -1]] * 5])
    assert torch.autograd.gradcheck(lambda s: cross_entropy(s, labels), scores)


def test_under_autocast_and_in_half_precision_the_loss_is_computed_in_float32():
    scores = (8 * torch.randn(2, 5, 6, 6)).bfloat16().requires_grad_()
    labels = torch.randint(-1, 5, (2, 24, 24))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(scores, labels)
        z = losses.class_logsumexp(scores, links(torch.ones(1, 5, dtype=torch.bool)))
    loss.backward()
    exact = plain(scores.detach().float(), labels)
    assert loss.dtype == z.dtype == torch.float32
    assert scores.grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


def test_a_pixel_loss_that_multiplies_matrices_does_so_in_float32_under_autocast():
    seen = []

    def loss(up, labels):
        mixed = torch.einsum("ij,bjrw->birw", torch.ones(3, 3), up)
        seen.append(mixed.dtype)
        return mixed.sum(1) * (labels >= 0)

    for scores in (torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2, requires_grad=True)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.upsampled_sum(scores, torch.zeros(1, 4, 4, dtype=torch.long), loss)
    assert seen == [torch.float32] * 2


@pytest.mark.parametrize(
    "options", [{}, {"normalised": True}, {"ohem": 0.7}, {"allowed": torch.tensor([[0, 1], [2, -1]])}]
)
def test_without_a_supervised_pixel_the_loss_is_zero_with_a_graph(options):
    scores = torch.randn(2, 3, 2, 2, requires_grad=True)
    loss = cross_entropy(scores, torch.full((2, 8, 8), IGNORE), **options)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.abs().max() == 0


def test_ignored_pixels_change_neither_the_value_nor_the_mean():
    scores, labels = torch.randn(1, 3, 2, 2), torch.randint(0, 3, (1, 4, 4))
    wide = F.pad(labels, (0, 0, 0, 0, 0, 1), value=IGNORE)
    assert cross_entropy(scores.repeat(2, 1, 1, 1), wide).item() == pytest.approx(cross_entropy(scores, labels).item())


def test_labels_of_any_integer_type_are_taken():
    scores, labels = torch.randn(1, 3, 2, 2), torch.randint(0, 3, (1, 4, 4))
    assert cross_entropy(scores, labels.to(torch.int16)) == cross_entropy(scores, labels)


# Labels that allow several channels.


def test_a_label_of_several_channels_costs_minus_the_log_of_their_sum():
    allowed = torch.tensor([[0, 1], [2, IGNORE]])
    z = pixel(Z)
    loss = cross_entropy(z, label(0), allowed=allowed)
    loss.backward()
    assert loss.item() == pytest.approx(0.09434, abs=5e-6)
    assert z.grad.flatten().tolist() == pytest.approx((-0.02421, -0.06582, 0.09003), abs=5e-6)
    assert cross_entropy(z, label(1), allowed=allowed).item() == pytest.approx(2.40761, abs=5e-6)


def test_labels_may_share_a_channel_and_a_label_may_allow_none():
    z = pixel(Z)
    allowed = torch.tensor([[1], [1], [IGNORE]])
    values = [cross_entropy(z, label(y), allowed=allowed).item() for y in range(3)]
    assert values == pytest.approx([0.40761, 0.40761, 0.0], abs=5e-6)


def test_an_unsupervised_label_does_not_count_in_the_mean():
    z = torch.tensor(Z).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    for allowed in (torch.tensor([[0], [IGNORE]]), torch.tensor([[0, IGNORE], [IGNORE, IGNORE]])):
        assert cross_entropy(z, torch.tensor([[[0, 1]]]), allowed=allowed).item() == pytest.approx(1.40761, abs=5e-6)


# Soft labels.


def test_soft_cross_entropy_weighs_the_logs_and_set_nll_logs_the_sum():
    q = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    z = pixel(Z)
    assert soft_cross_entropy(z, q).item() == pytest.approx(0.25 * 1.40761 + 0.75 * 0.40761, abs=5e-6)
    loss = set_nll(z, q)
    loss.backward()
    assert loss.item() == pytest.approx(0.09434, abs=5e-6)
    assert z.grad.flatten().tolist() == pytest.approx((-0.02421, -0.06582, 0.09003), abs=5e-6)
    logp = z.detach().log_softmax(1)
    assert set_nll(logp, q, normalised=True).item() == pytest.approx(0.09434, abs=5e-6)
    assert soft_cross_entropy(logp, q, normalised=True).item() == pytest.approx(0.65761, abs=5e-6)


@pytest.mark.parametrize("loss", [soft_cross_entropy, set_nll])
def test_pixels_without_weights_are_unsupervised(loss):
    scores = torch.randn(1, 3, 1, 2, requires_grad=True)
    q = torch.zeros(1, 3, 1, 2)
    empty = loss(scores, q)
    empty.backward()
    assert empty.item() == 0
    assert scores.grad.abs().max() == 0
    q[0, 2, 0, 1] = 1
    expected = F.cross_entropy(scores[..., 1:], torch.tensor([[[2]]]))
    assert loss(scores, q).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("loss", [soft_cross_entropy, set_nll])
def test_one_hot_weights_give_cross_entropy_after_upsampling(loss):
    scores, labels = torch.randn(2, 3, 3, 4), torch.randint(0, 3, (2, 7, 9))
    q = F.one_hot(labels, 3).movedim(-1, 1).float()
    assert loss(scores, q).item() == pytest.approx(plain(scores, labels).item(), rel=1e-5)


# Online hard example mining.


def reference_ohem(scores, labels, probability):
    loss = plain(scores, labels, reduction="none")[labels != IGNORE]
    hard = loss[loss > -math.log(probability)]
    least = max(1, len(loss) // 16)
    return (hard if len(hard) >= least else loss.topk(least).values).mean()


@pytest.mark.parametrize("scale", [0.1, 1, 5, 50])
@pytest.mark.parametrize("sure", [0, 8, 40])
def test_ohem_keeps_the_hard_pixels_or_else_the_hardest_sixteenth(scale, sure):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (2, 16, 16), generator=generator)
    scores = scale * torch.randn(2, 3, 16, 16, generator=generator) + sure * F.one_hot(labels, 3).movedim(-1, 1)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = IGNORE
    scores.requires_grad_()
    ours, theirs = cross_entropy(scores, labels, ohem=0.7), reference_ohem(scores, labels, 0.7)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, scores)[0], torch.autograd.grad(theirs, scores)[0])


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sure", [0, 60])
@pytest.mark.parametrize("cells", [(4, 7), (13, 22), (16, 16)])
def test_ohem_at_any_size_is_that_of_scores_upsampled_whole(monkeypatch, cells, sure, align_corners):
    monkeypatch.setitem(upsampling.BAND_BYTES, "cpu", 1 << 11)
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(-1, 3, (2, 13, 22), generator=generator)
    near = F.interpolate(labels[:, None].clamp(min=0).double(), cells)[:, 0].long()
    scores = torch.randn(2, 3, *cells, generator=generator, dtype=torch.float64) + sure * F.one_hot(near).movedim(-1, 1)
    scores.requires_grad_()
    every = plain(scores, labels, align_corners, reduction="none")[labels != IGNORE]
    least = len(every) // 16
    hard = every[every > -math.log(0.7)]
    theirs = (hard if len(hard) >= least else every.topk(least).values).mean()
    ours = cross_entropy(scores, labels, ohem=0.7, align_corners=align_corners)
    torch.testing.assert_close(ours, theirs, check_dtype=False)
    torch.testing.assert_close(torch.autograd.grad(ours, scores)[0], torch.autograd.grad(theirs, scores)[0])
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy(scores, labels, ohem=0.7, align_corners=align_corners), ours)


@pytest.mark.parametrize(("sure", "pixels"), [(0, 256), (100, 256 + 16)])
def test_ohem_computes_no_pixel_twice_but_the_sixteenth_that_is_kept_among_easy_ones(sure, pixels):
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    scores = torch.zeros(1, 2, 4, 4)
    scores[:, 0] = sure
    seen = []

    def loss(up, part):
        seen.append(part.numel())
        return F.cross_entropy(up, part, reduction="none")

    total, count = upsampling.hardest_sum(scores.requires_grad_(), labels, loss, -math.log(0.7), 16)
    assert sum(seen) == pixels
    assert count == (16 if sure else 256)
    total.backward()


def test_ohem_drops_exactly_the_pixels_of_more_than_the_given_probability():
    # p(0) = sigmoid(z): .5 and .6 are hard, .8 is not.
    z = torch.tensor([[0.0, math.log(1.5), math.log(4)], [0.0, 0.0, 0.0]]).view(1, 2, 1, 3)
    loss = cross_entropy(z, torch.zeros(1, 1, 3, dtype=torch.long), ohem=0.7)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2)


# Several processes.


def _rank_gradient(rank, path, scores, labels, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    z = scores[rank : rank + 1].clone().requires_grad_()
    cross_entropy(z, labels[rank : rank + 1]).backward()
    np.save(f"{out}{rank}.npy", z.grad.numpy())
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_one_however_unevenly_labels_are_spread(tmp_path):
    scores, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 8, 8))
    labels[1, 1:] = IGNORE
    whole = scores.clone().requires_grad_()
    cross_entropy(whole, labels).backward()
    mp.spawn(_rank_gradient, (tmp_path / "store", scores, labels, str(tmp_path / "grad")), nprocs=2)
    # DDP averages over the processes.
    both = np.concatenate([np.load(tmp_path / f"grad{r}.npy") / 2 for r in range(2)])
    np.testing.assert_allclose(both, whole.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{}, {"ohem": 0.7}, {"normalised": True}])
def test_on_a_gpu_the_loss_is_the_same_and_never_waits_for_it(options):
    scores, labels = torch.randn(2, 5, 16, 16).log_softmax(1), torch.randint(-1, 5, (2, 64, 64))
    expected = cross_entropy(scores, labels, **options)
    z, y = scores.cuda().requires_grad_(), labels.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = cross_entropy(z, y, **options)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
