"""The label graph on values computed by hand (AutoUniSeg, section 3.2)."""

import math

import pytest
import torch

from manyseg.models.graph import LabelGraph, means


def graph(sizes=(2,), relation=((1,), (0,)), labels=4, channels=3, hidden=8, **options):
    torch.manual_seed(0)
    return LabelGraph(sizes, torch.tensor(relation, dtype=torch.bool), labels, channels, hidden=hidden, **options)


def test_logits_of_zero_and_one_give_a_share_of_nearly_one_and_equal_ones_a_half():
    shares = graph(relation=((1, 0), (0, 0)), saturated=True).shares()
    assert shares[:, 0].tolist() == pytest.approx([0.9999994, 6.24874e-7], abs=1e-7)
    assert shares[:, 1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("classes", [2, 19, 150])
def test_a_linked_class_starts_with_a_share_of_nine_tenths(classes):
    relation = torch.eye(classes, 3, dtype=torch.bool)
    shares = LabelGraph([classes], relation, 4, 2, hidden=4).shares()
    linked = min(classes, 3)
    assert shares[range(linked), range(linked)].tolist() == pytest.approx([0.9] * linked, abs=1e-5)
    assert shares.sum(0)[:linked].tolist() == pytest.approx([1.0] * linked, abs=1e-5)


def test_the_softmax_is_over_the_classes_of_one_dataset():
    shares = graph((2, 3), [[1, 0], [0, 1], [1, 0], [0, 0], [0, 0]]).shares()
    assert shares[:2].sum(0).tolist() == pytest.approx([1, 1])
    assert shares[2:].sum(0).tolist() == pytest.approx([1, 1])
    assert shares[2:, 1].tolist() == pytest.approx([1 / 3] * 3)


def test_a_dataset_of_one_class_owns_every_node_and_teaches_the_adjacency_nothing():
    net = graph((1,), [[1, 0]])
    assert net.shares().tolist() == [[1, 1]]
    net().nodes.sum().backward()
    assert not net.adjacency.grad.any()


def test_messages_are_means_weighted_by_shares():
    """One node linked (.75, .25) to two classes: it hears their mean, and each of them hears exactly the node."""
    classes, node = torch.tensor([[4.0, 0.0], [0.0, 8.0]]), torch.tensor([[5.0, -3.0]])
    shares = torch.tensor([[0.75], [0.25]])
    assert means(shares.T, classes).tolist() == [[3.0, 2.0]]
    assert means(shares, node).tolist() == [[5.0, -3.0], [5.0, -3.0]]


def test_two_bipartite_products_are_the_product_with_the_whole_adjacency():
    torch.manual_seed(1)
    shares, classes, nodes = torch.rand(5, 3), torch.randn(5, 4), torch.randn(3, 4)
    whole = torch.zeros(8, 8)
    whole[:5, 5:], whole[5:, :5] = shares, shares.T
    expected = whole / whole.sum(1, keepdim=True) @ torch.cat([classes, nodes])
    assert torch.allclose(torch.cat([means(shares, nodes), means(shares.T, classes)]), expected, atol=1e-6)


def test_the_network_is_three_layers_of_tanh_over_own_and_neighbours():
    net = graph((2,), [[1, 0], [0, 1]]).eval()
    out = net()
    whole = torch.zeros(4, 4)
    whole[:2, 2:], whole[2:, :2] = out.shares, out.shares.T
    A = whole / whole.sum(1, keepdim=True)
    H = net.inward(torch.cat([net.labels, net.unified])).relu()
    for layer in net.layers:
        H = torch.tanh(torch.cat([H, A @ H], 1) @ layer.weight.T + layer.bias)
    assert torch.allclose(out.nodes, net.outward(H)[2:], atol=1e-6)


def test_layers_start_uniform_within_one_over_the_root_of_their_width():
    weight = graph(hidden=64).layers[0].weight
    assert weight.abs().max() <= 1 / 8
    assert weight.abs().max() > 0.12
    assert weight.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.05)


def test_given_features_are_constant_and_absent_ones_are_learned():
    given = graph(labels=torch.randn(2, 4))
    assert "labels" in dict(given.named_buffers())
    learned = graph(labels=4)
    learned().nodes.sum().backward()
    assert learned.labels.grad.any()


def test_the_embedding_of_a_dataset_is_added_to_its_classes_alone():
    net = graph((2, 1), [[1], [0], [1]], dataset_embedding=True, labels=torch.zeros(3, 4)).eval()
    with torch.no_grad():
        net.dataset[1] = 0.0
        before = net().nodes
        net.labels[:2] += net.dataset[0]
        net.dataset[0] = 0.0
    assert torch.allclose(net().nodes, before, atol=1e-6)


def test_every_parameter_learns_and_dropout_is_for_training_alone():
    net = graph((2, 2), [[1, 0], [0, 1]] * 2, dataset_embedding=True)
    out = net()
    (out.nodes.square().sum() + out.shares.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    assert not torch.equal(net().nodes, net().nodes)
    net.eval()
    assert torch.equal(net().nodes, net().nodes)


def test_dropout_is_torchs_but_drawn_from_a_generator():
    net = graph(dropout=0.25)
    x = torch.ones(200, 100)
    found = [net._drop(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert found[0].unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert found[0].mean().item() == pytest.approx(1, abs=0.02)
    assert net.eval()._drop(x, None) is x


def test_a_linked_column_still_learns_unless_it_starts_saturated():
    """The gradient of a share p is p (1 - p) / 0.07: 1.29 at .9, and 9e-6 where the logits are 0 and 1."""
    for saturated, expected in ((False, 0.09 / 0.07), (True, 6.24874e-7 / 0.07)):
        net = graph(saturated=saturated)
        net.shares()[0, 0].backward()
        assert net.adjacency.grad[0, 0].item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("ridge", "error"), [(1e-9, 1e-3), (0.01, 0.9)])
def test_the_last_layer_can_be_fitted_to_embeddings_that_are_wanted(ridge, error):
    net = graph((3,), torch.eye(3).int().tolist(), labels=4 * torch.randn(3, 6), channels=2, hidden=64)
    targets = torch.randn(3, 2)
    before = net.inward.weight.clone()
    net.train()
    weight, bias = net.fitted(targets, ridge)
    assert net.training
    net.outward.load_state_dict({"weight": weight, "bias": bias})
    # Without dropout, as it was fitted; what comes before the last layer is as it was.
    off = (net.eval()().nodes - targets).norm() / (targets - targets.mean(0)).norm()
    assert off < error
    assert torch.equal(before, net.inward.weight)
