"""Joint: heads and shared nodes on one embedding, a label space that changes in training; by hand on tiny images."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from manyseg import testing
from manyseg.data.annotation import Boxes, Dense
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import IGNORE, LabelSpace, Taxonomy
from manyseg.methods import joint
from manyseg.methods.joint import Joint
from manyseg.models import Features, PixelEncoder
from manyseg.relate import agreement

FINE = LabelSpace.of("fine", ["road", "line", "cat"])
COARSE = LabelSpace.of("coarse", ["ground", "animal"])
TRUE = Taxonomy.from_groups(
    (FINE, COARSE),
    [[("fine", "road"), ("coarse", "ground")], [("fine", "line"), ("coarse", "ground")],
     [("fine", "cat"), ("coarse", "animal")]],
    ["road", "line", "cat"],
)  # fmt: skip


def build(**options):
    torch.manual_seed(0)
    encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=2)
    return Joint(encoder, (FINE, COARSE), **({"taxonomy": "disjoint"} | options))


def features(*pixels):
    """Return features of an image of one row, with these embeddings."""
    return Features((), torch.tensor(pixels).float().T[None, :, None])


def set_weights(layer, weight):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).float()[:, :, None, None])
        layer.bias.zero_()


def softmax(*z):
    e = np.exp(z)
    return e / e.sum()


HEADS = [[1, 0], [0, 1], [0, 0], [2, 0], [0, 1]]
NODES = [[0, 3], [1, 0], [0, -1]]


def fixed(**options):
    method = build(taxonomy=TRUE, refine=False, **options)
    set_weights(method.heads, HEADS)
    set_weights(method.rows, NODES)
    return method


def test_a_prediction_is_the_weighted_geometric_mean_of_head_and_nodes():
    method = fixed(own=0.25)
    found = method.predict(features([1.0, 2.0]), COARSE).softmax(1)[0, :, 0, 0].detach().numpy()
    own = softmax(2, 2)
    nodes = softmax(6, 1, -2)
    shared = np.array([nodes[0] + nodes[1], nodes[2]])
    expected = own**0.25 * shared**0.75
    assert found == pytest.approx(expected / expected.sum(), abs=1e-6)
    unified = method.predict(features([1.0, 2.0]), method.taxonomy.unified).exp()[0, :, 0, 0].detach()
    assert unified.numpy() == pytest.approx(nodes, abs=1e-6)


def test_a_coarse_label_is_any_of_its_nodes():
    method = fixed(own=0.25)
    batch = Batch(COARSE, ("a",), torch.zeros(1, 3, 1, 1, dtype=torch.uint8), Dense(torch.tensor([[[0]]])))
    loss = method.batch_loss(features([1.0, 2.0]), batch)["pixel"].mean().item()
    nodes = softmax(6, 1, -2)
    assert loss == pytest.approx(-0.25 * math.log(0.5) - 0.75 * math.log(nodes[0] + nodes[1]), abs=1e-6)


def test_boxes_are_sets_of_possible_classes():
    method = fixed(own=0.25)
    annotation = Boxes(torch.tensor([[[0, 0, 1, 1]]]).float(), torch.tensor([[1]]), torch.tensor([[1, 1]]))
    batch = Batch(COARSE, ("a",), torch.zeros(1, 3, 1, 1, dtype=torch.uint8), annotation)
    loss = method.batch_loss(features([1.0, 2.0]), batch)["pixel"].mean().item()
    assert loss == pytest.approx(-0.25 * math.log(0.5) - 0.75 * math.log(softmax(6, 1, -2)[2]), abs=1e-6)


def united(method):
    """Give the method the true label space, as `on_step` does from counts of a network that knows everything."""
    n = torch.zeros_like(method.counts)
    n[:3, :3], n[3:5, 3:] = torch.diag(torch.tensor([9, 9, 9])) * 100, torch.diag(torch.tensor([9, 9])) * 100
    n[:3, 3:] = torch.tensor([[900, 0], [900, 0], [0, 900]])
    n[3:5, :3] = torch.tensor([[450, 450, 0], [0, 0, 900]])
    method.counts.copy_(n)
    method.on_step(joint.FIRST)
    return n


def test_the_label_space_is_read_from_the_counts_and_they_fade():
    method = build()
    assert method.taxonomy.shared == 0
    n = united(method)
    assert agreement(method.taxonomy, TRUE).f1 == 1
    assert len(method.taxonomy.unified) == 3
    assert torch.equal(method.counts, n // 2)


def test_a_node_is_the_mean_of_its_rows_and_parts_again_with_what_they_were():
    method = build()
    set_weights(method.rows, [[1, 0], [0, 1], [2, 2], [5, 5], [4, 0]])
    before = method.predict(features([1.0, 2.0]), COARSE)
    united(method)
    nodes = method.predict(features([1.0, 2.0]), method.taxonomy.unified).exp()[0, :, 0, 0].detach()
    assert nodes.numpy() == pytest.approx(softmax(1, 2, (6 + 4) / 2), abs=1e-6)
    method.counts.zero_()
    method.on_step(75)
    assert method.taxonomy.shared == 0
    assert torch.equal(method.predict(features([1.0, 2.0]), COARSE), before)


def test_nodes_of_no_class_compete_only_where_they_are_outside_for_certain():
    method = build()
    batch = Batch(FINE, ("a",), torch.zeros(1, 3, 1, 1, dtype=torch.uint8), Dense(torch.tensor([[[0]]])))
    assert method.train_scores(features([1.0, 2.0]).embedding, FINE).shape[1] == 3 + 3
    method.outside[0, 4] = True  # animal
    method._stale = True
    set_weights(method.heads, HEADS)
    set_weights(method.rows, HEADS)
    loss = method.batch_loss(features([1.0, 2.0]), batch)["pixel"].mean().item()
    expected = -math.log(softmax(1, 2, 0)[0]) - math.log(softmax(1, 2, 0, 2)[0])
    assert loss == pytest.approx(expected / 2, abs=1e-6)


def test_what_all_heads_call_the_pixels_is_counted_on_a_grid():
    method = build().train()
    set_weights(method.heads, HEADS)
    # Of four pixels the first and the third are on the grid: [1, 2] is a line to fine, [3, 0] a road.
    embedding = features([1.0, 2.0], [9.0, 9.0], [3.0, 0.0], [9.0, 9.0])
    labels = torch.tensor([[[0, 1, IGNORE, 1]]])
    batch = Batch(COARSE, ("a",), torch.zeros(1, 3, 1, 4, dtype=torch.uint8), Dense(labels))
    method.step_losses([embedding], [batch])
    expected = torch.zeros(7, 5, dtype=torch.int64)
    expected[3, 1] = expected[3, 3] = 1  # The label ground: called line by fine, ground (of two equal ones) by coarse.
    expected[6, 0] = expected[6, 3] = 1  # No label in coarse: called road and ground.
    assert torch.equal(method.counts, expected)
    method.eval().step_losses([embedding], [batch])
    assert torch.equal(method.counts, expected)


def test_the_label_space_is_read_at_steps_that_grow():
    assert [s for s in range(900) if joint._due(s)] == [50, 75, 112, 168, 253, 379, 569, 854]


def test_a_label_space_that_stays_is_the_same_object():
    method = build()
    before = method.taxonomy
    method.on_step(joint.FIRST)
    assert method.taxonomy is before
    method.load_state_dict(method.state_dict())
    assert method.taxonomy is before


def test_a_table_is_evidence_or_the_label_space_for_good():
    assert agreement(build(taxonomy=TRUE).taxonomy, TRUE).f1 == 1
    method = build(taxonomy=TRUE, refine=False)
    method.counts += 1
    method.on_step(joint.FIRST)
    assert method.taxonomy.to_tsv() == TRUE.to_tsv()


def test_the_label_space_of_the_toy_world_is_found():
    method = testing.build(lambda e, s: Joint(e, s, taxonomy="disjoint"))
    testing.train(method, 170)
    assert agreement(method.taxonomy, testing.toy_taxonomy()).f1 > 0.9


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_a_share_is_between_none_and_all(own):
    with pytest.raises(UserError, match="own"):
        build(own=own)


def test_rows_of_every_class_are_parameters():
    assert {n: tuple(p.shape) for n, p in build().named_parameters() if n.startswith(("heads", "rows"))} == {
        "heads.weight": (5, 2, 1, 1),
        "heads.bias": (5,),
        "rows.weight": (5, 2, 1, 1),
        "rows.bias": (5,),
    }
    assert isinstance(build().heads, nn.Conv2d)


def test_a_table_says_what_lies_within_what_and_nothing_of_the_parts_of_a_whole():
    yes, no, never = joint.RELATED, joint.UNRELATED, joint.DIFFERENT
    # Rows and columns: road, line, cat; ground, animal. A road is a ground; of a ground the table does not say. By
    # the lexicon a road and a line are no animals, and a cat is no ground.
    assert joint._prior(TRUE).tolist() == [
        [yes, no, no, yes, never],
        [no, yes, no, yes, never],
        [no, no, yes, never, yes],
        [0, 0, never, yes, no],
        [never, never, yes, no, yes],
    ]
    assert never < no < 0 < yes
    assert not joint._prior(Taxonomy.disjoint((FINE, COARSE))).any()


def test_steps_at_which_the_label_space_is_read_begin_at_fifty_and_grow_by_half():
    assert [step for step in range(300) if joint._due(step)] == [50, 75, 112, 168, 253]
