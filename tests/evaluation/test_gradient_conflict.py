"""The meter of conflicts: gradients whose directions are known by hand."""

import numpy as np
import pytest
import torch
import typer
from torch import nn

from manyseg import testing
from manyseg.cli import app
from manyseg.data.annotation import Dense, Tags
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.evaluation.gradient_conflict import LOSSES, Conflict, conflicts_markdown, measure_conflicts
from manyseg.labels import LabelSpace
from manyseg.methods.baselines import MultiHead, Union
from manyseg.methods.uniseg import UniSeg
from manyseg.models import Features
from manyseg.runs.run import train_recipe
from manyseg.runs.trained import conflicts_run

A = LabelSpace.of("a", ["rider", "road"])
B = LabelSpace.of("b", ["motorcyclist", "road"])


class Identity(nn.Module):
    """Three channels of embedding: the image itself."""

    channels = 3

    def forward(self, image):
        return Features((image,), image.float())


def batch(space, *pixels_and_labels):
    pixels, labels = zip(*pixels_and_labels, strict=True)
    image = torch.tensor(pixels).T.reshape(1, 3, 1, len(labels))
    return Batch(space, ("x",), image, Dense(torch.tensor([[labels]])))


def zero(method):
    with torch.no_grad():
        for p in method.head.parameters():
            p.zero_()
    return method


SAME, OTHER = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
"""The same looks, that a calls rider and b motorcyclist; and road, in other looks."""


def conflicts(method, *steps):
    return {c.loss: c for c in measure_conflicts(method, steps)}


def test_a_rider_that_the_other_dataset_calls_otherwise_is_a_conflict_in_a_softmax_but_not_in_null_bce():
    step = batch(A, (SAME, 0), (OTHER, 1)), batch(B, (SAME, 0), (OTHER, 1))
    found = conflicts(zero(Union(Identity(), (A, B))), step)
    # Along SAME, a pulls `rider` up by 2/3 and b pushes it down by 1/3, along OTHER both push by 1/3; `motorcyclist`
    # is the other way round, and on the road both agree.
    union = dict(zip(found["union CE"].nodes, found["union CE"].opposed[0].tolist(), strict=True))
    assert union == {"rider": True, "road": False, "motorcyclist": True}
    assert found["union CE"].share == pytest.approx(2 / 3)
    # Null BCE: b says nothing of riders; on the road both agree.
    assert found["null BCE"].share == 0
    assert not found["null BCE"].whole.any()


def test_the_inner_products_are_those_computed_by_hand():
    """At zero weights a softmax over 3 has gradient (1/3 - [label]) x; the sum over all nodes decides of the whole."""
    step = batch(A, (SAME, 0)), batch(B, (SAME, 0))
    found = conflicts(zero(Union(Identity(), (A, B))), step)
    # rider: (-2/3)(1/3), motorcyclist: the same, road: (1/3)(1/3): in all -1/3.
    assert found["union CE"].opposed.tolist() == [[True, False, True]]
    assert found["union CE"].whole.tolist() == [True]
    # BCE: (-1/2)(1/2) twice, (1/2)(1/2) for road.
    assert found["plain BCE"].whole.tolist() == [True]
    assert found["null BCE"].opposed.tolist() == [[False, False, False]]


def test_shares_are_over_classes_and_batches():
    opposed = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]], bool)
    c = Conflict("x", "a", "b", ("k", "l", "m", "n"), opposed, np.array([True, False, False]))
    assert c.share == pytest.approx(5 / 12)
    assert c.classes == pytest.approx(1 / 4)
    assert c.batches == pytest.approx(1 / 3)
    assert c.worst(2) == [("k", 1.0), ("l", pytest.approx(1 / 3))]
    row = conflicts_markdown([c]).splitlines()[-1]
    assert row == "| a, b | x | 41.7 | 25.0 | 33.3 | k 100%, l 33%, m 33% |"


@pytest.mark.parametrize("kind", [UniSeg, Union])
def test_every_pair_is_measured_under_every_loss_and_the_model_is_left_as_it_was(kind):
    method = testing.build(kind).train()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    found = measure_conflicts(method, (testing.toy_batches(i) for i in range(3)))
    pairs = {("fine", "coarse"), ("fine", "partial"), ("coarse", "partial")}
    assert {(c.loss, c.a, c.b) for c in found} == {(loss, *pair) for loss in LOSSES for pair in pairs}
    assert all(len(c.opposed) == 3 for c in found)
    assert method.training
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert all(p.grad is None for p in method.parameters())


def test_nodes_that_a_dataset_does_not_label_never_oppose_under_null_bce():
    method = testing.build(UniSeg)
    for c in measure_conflicts(method, [testing.toy_batches(0)]):
        if c.loss == "null BCE":
            a, b = (method.taxonomy.relations[d].any(0) for d in (c.a, c.b))
            shared = {n for n, there in zip(method.taxonomy.unified.names, a & b, strict=True) if there}
            assert {n for n, often in c.worst(99) if often} <= shared


def test_without_a_shared_classifier_or_a_pair_there_is_nothing_to_measure():
    with pytest.raises(UserError, match="MultiHead has no classifier"):
        measure_conflicts(testing.build(MultiHead), [testing.toy_batches(0)])
    with pytest.raises(UserError, match="no step had batches of two datasets"):
        measure_conflicts(testing.build(Union), [testing.toy_batches(0)[:1]])
    tagged = testing.toy_batches(0)[0]._replace(annotation=Tags(torch.ones(2, 4, dtype=torch.bool)))
    with pytest.raises(UserError, match="'fine' is trained on without a label for each pixel"):
        measure_conflicts(testing.build(Union), [(tagged, testing.toy_batches(0)[1])])


RECIPE = """
[data]
crop = [32, 32]
workers = 0
sets = [
    { card = "fine.toml", root = "fine", per_step = 2 },
    { card = "coarse.toml", root = "coarse", per_step = 2 },
]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
name = "uniseg"
relations = "none"
[train]
steps = 2
"""


def test_the_command_line_measures_a_run_on_its_own_steps(world, tmp_path, capsys):
    recipe = world.folder / "conflict.toml"
    recipe.write_text(RECIPE)
    run = train_recipe(recipe, out=tmp_path / "run")
    capsys.readouterr()
    app(["eval", str(run), "--conflicts"], standalone_mode=False)
    rows = capsys.readouterr().out.strip().splitlines()
    assert [row.split(" | ")[:2] for row in rows[2:]] == [["| fine, coarse", loss] for loss in LOSSES]
    with pytest.raises(typer.BadParameter, match="goes without other options"):
        app(["eval", str(run), "--conflicts", "--cross"], standalone_mode=False)
    assert len(conflicts_run(run, steps=3)[0].whole) == 3
