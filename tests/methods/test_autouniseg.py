"""AutoUniSeg's graph stage on values computed by hand; the exam is in test_exam.py."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from manyseg import testing
from manyseg.config import keywords
from manyseg.errors import UserError
from manyseg.labels import LabelSpace
from manyseg.losses import cross_entropy
from manyseg.methods.autouniseg import AutoUniSeg
from manyseg.methods.autouniseg_options import RENAMED, GraphOptions
from manyseg.methods.baselines import MultiHead
from manyseg.methods.initial_nodes import PruningOptions
from manyseg.methods.sources import StageStatistics, StageTaxonomy
from manyseg.methods.unified_nodes import UnifiedNodes
from manyseg.models import PixelEncoder
from manyseg.models.graph import orthogonality
from manyseg.runs.recipe import read_recipe
from manyseg.training.optimizer import build_optimizer, parameter_groups
from manyseg.training.options import TrainOptions

ROADS = Path(__file__).parents[2] / "recipes" / "roads"


def pixel_encoder(channels=8):
    return PixelEncoder.build(backbone="tiny", pretrained=False, channels=channels)


def build(graph=None, **options):
    torch.manual_seed(0)
    graph = GraphOptions(**({"features": "learned", "hidden": 16} | (graph or {})))
    return AutoUniSeg(pixel_encoder(), testing.toy_spaces(), **({"init": "names"} | options), graph=graph)


def optimizer(method, lr=0.01):
    options = TrainOptions(steps=8, lr=lr, backbone_lr_factor=1.0, weight_decay=0.1)
    return build_optimizer(parameter_groups(method, options), options)


def step(method, number, optimizer):
    """Take a step as the trainer does."""
    method.train()
    method.on_step(number)
    torch.stack(list(method(testing.toy_batches(number)).values())).sum().backward()
    grads = {n: p.grad is not None for n, p in method.named_parameters()}
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return grads


# Scores.


def test_folding_the_map_into_the_nodes_changes_no_score():
    method = build({"turn": 8})
    method.train()
    method.on_step(3)
    p, space = torch.randn(2, 8, 3, 4), method.spaces[1]
    with torch.no_grad():
        graph = method._graph_pass()
        soft, hard = method.train_scores(p, space).split(len(space), 1)
        unified = torch.einsum("uc,bchw->buhw", graph.nodes, p)
    rows = slice(4, 7)
    for found, matrix in ((soft, graph.shares[rows]), (hard, method.rounding.maps[rows].float())):
        assert torch.allclose(found, torch.einsum("du,buhw->bdhw", matrix, unified), atol=1e-5)


def test_the_soft_log_sum_exp_weighs_probabilities_by_shares():
    method = build(combine="lse")
    nodes, shares = torch.eye(2, 8), torch.tensor([[0.75, 0.5], [0.25, 0.5]])
    p = torch.zeros(3, 8, 1, 1)
    p[:, :2, 0, 0] = z = torch.tensor([[1.0, 2.0], [-50.0, 3.0], [200.0, 190.0]])
    found = method._soft(nodes, shares, p)[:, :, 0, 0]
    torch.testing.assert_close(found, (z[:, None] + shares.log()).logsumexp(-1))


def test_orthogonality_of_two_equal_unit_rows_and_of_two_orthogonal_ones():
    equal, apart = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    assert orthogonality(equal).item() == pytest.approx(0.34657, abs=1e-5)
    assert orthogonality(apart).item() == pytest.approx(4.8e-6, abs=1e-7)
    # By default ten times that of directions is added to the losses.
    method = build({"dropout": 0.0})
    method.on_step(0)
    expected = 10 * orthogonality(method.graph().nodes, normalise=True)
    torch.testing.assert_close(method.shared_loss()["orthogonality"], expected)
    # Growing norms lower it, but not of directions.
    assert orthogonality(0.1 * apart).item() > 0.3
    assert orthogonality(0.1 * apart, normalise=True).item() == pytest.approx(4.8e-6, abs=1e-7)


# Turns.


def test_annealing_goes_from_the_soft_map_to_the_boolean_one():
    method = build({"turn": 8, "edge_start": 0.0})
    batch = testing.toy_batches()[0]
    method.train()
    for number, weights in ((0, [1]), (2, [2 / 3, 1 / 3]), (6, [1])):
        method.on_step(number)
        with torch.no_grad():
            features = method.pixel_encoder(batch.image.float())
            scores = method.train_scores(features.embedding, batch.space)
            parts = scores.split(len(batch.space), 1)
            loss = method.pixel_loss(scores, batch).mean().item()
            apart = [cross_entropy(p, batch.annotation.labels).mean().item() for p in parts]
        assert loss == pytest.approx(sum(w * x for w, x in zip(weights, apart, strict=True)), rel=1e-5)
    # Soft and Boolean map differ, so that exchanged weights would show.
    method.on_step(2)
    soft, hard = method.train_scores(features.embedding, batch.space).split(len(batch.space), 1)
    assert not torch.allclose(soft, hard, rtol=0.01)


def test_the_adjacency_learns_from_scores_of_the_soft_map_and_not_from_messages_alone():
    method = build({"turn": 8, "dropout": 0.0, "edge_start": 0.0})
    method.train()
    method.on_step(0)
    p, weight, space = torch.randn(1, 8, 2, 2), torch.randn(1, 4, 2, 2), method.spaces[0]
    graph = method.graph()
    expected = torch.einsum("du,uc,bchw->bdhw", graph.shares[:4], graph.nodes, p)
    found, wanted = (
        torch.autograd.grad((scores * weight).sum(), method.graph.adjacency)[0]
        for scores in (method.train_scores(p, space), expected)
    )
    torch.testing.assert_close(found, wanted)
    assert wanted.abs().max() > 1e-6


def test_who_learns_when_and_that_the_others_stand_still_to_the_last_bit():
    """Turns of 8 steps: the adjacency learns in steps 2 to 5 of a graph turn, then only the embeddings."""
    method = build({"turn": 8})
    adam = optimizer(method)
    edges = {"graph.adjacency"}
    network = {n for n, _ in method.named_parameters() if n.startswith("pixel_encoder.")}
    graph = {n for n, _ in method.named_parameters()} - network - edges
    for number in range(24):
        at, turn = number % 8, number // 8
        before, handed = {n: v.clone() for n, v in method.state_dict().items()}, method.handover()["nodes"].clone()
        grads = step(method, number, adam)
        after = method.state_dict()
        learning = network if turn == 1 else graph | (edges if 2 <= at < 6 else set())
        for name in network | graph | edges:
            assert grads[name] == (name in learning), (number, name)
            assert torch.equal(before[name], after[name]) == (name not in learning), (number, name)
        if turn == 1:
            assert torch.equal(before["rounding.maps"], after["rounding.maps"])
            assert torch.equal(handed, method.handover()["nodes"])
        assert method.pixel_encoder.training == (turn == 1)


def test_parts_that_the_trainer_keeps_fixed_stay_fixed():
    method = build({"turn": 1})
    method.pixel_encoder.backbone.requires_grad_(False)
    for number in range(2):
        method.on_step(number)
    assert not any(p.requires_grad for p in method.pixel_encoder.backbone.parameters())
    assert all(p.requires_grad for p in method.pixel_encoder.neck.parameters())


def test_the_map_is_rounded_while_the_adjacency_learns_and_once_after(monkeypatch):
    method, rounded = build({"turn": 40}), []
    monkeypatch.setattr(method.rounding, "update", lambda _: rounded.append(number))
    method.train()
    for number in range(84):
        method.on_step(number)
    # Every tenth of a turn while the adjacency learns, a quarter to three quarters of it.
    assert rounded == [12, 16, 20, 24, 28, 30]


def test_a_long_turn_is_rounded_every_hundred_steps(monkeypatch):
    method, rounded = build({"turn": 20_000, "edge_start": 0.0}), []
    monkeypatch.setattr(method.rounding, "update", lambda _: rounded.append(number))
    for number in range(301):
        method.on_step(number)
    assert rounded == [0, 100, 200, 300]


def test_rates_of_the_adjacency_and_of_wide_graphs():
    method = build({"hidden": 256, "edge_lr": 7.0})
    found = {n: method.lr_factor(n) for n, _ in method.named_parameters()}
    assert found["graph.adjacency"] == 7.0
    assert found["graph.layers.0.weight"] == found["graph.unified"] == 0.25
    assert {v for n, v in found.items() if n.startswith("pixel_encoder.")} == {1.0}
    assert build({"hidden": 32}).lr_factor("graph.unified") == 1.0
    assert build({"lr": 0.5}).lr_factor("graph.unified") == 0.5


# From stage to stage.


def take_over(method, weights):
    own = method.state_dict()
    fits = {k: v for k, v in method.inherit(weights).items() if k in own and own[k].shape == v.shape}
    method.load_state_dict(fits, strict=False)


def test_free_nodes_predict_at_first_exactly_as_the_graph_did_at_last(tmp_path):
    method = build({"turn": 4})
    adam = optimizer(method)
    for number in range(3):
        step(method, number, adam)
    maps = method.rounding.maps
    # As it began, but `asphalt` moves to the node of the roads, and leaves its own one inactive.
    maps[:] = build().rounding.maps
    maps[8, 5], maps[8, 0] = False, True
    method.load_state_dict(method.state_dict())
    method.taxonomy.write(tmp_path / "graph.tsv")
    assert len(method.taxonomy.unified) == len(method.handover()["nodes"]) == 5
    free = UnifiedNodes(pixel_encoder(), testing.toy_spaces(), init=tmp_path / "graph.tsv")
    take_over(free, method.handover())
    image = testing.toy_batches()[0].image.float()
    with torch.no_grad():
        for space in (*testing.toy_spaces(), None):
            scores = [testing.predict(m.eval(), image, space or m.taxonomy.unified) for m in (method, free)]
            assert torch.equal(*scores)
    assert free.taxonomy.to_tsv() == method.taxonomy.to_tsv()


def test_the_graph_starts_at_the_mean_head_of_the_nodes_classes():
    torch.manual_seed(1)
    heads = MultiHead(pixel_encoder(), testing.toy_spaces())
    method = build({"hidden": 64, "ridge": 1e-9}, scale=2.0)
    before = method.fixed_nodes().clone()
    take_over(method, heads.state_dict())
    found = method.fixed_nodes()
    # By names, `road` is class 0 of `fine` and class 2 of `coarse`, rows 0 and 6; `car` is row 2 alone.
    rows = heads.head.weight.detach().flatten(1)
    expected = torch.stack([(rows[0] + rows[6]) / 2, rows[2]]) / 2
    assert torch.allclose(found[[0, 2]], expected, atol=1e-3)
    assert not torch.allclose(found, before, atol=0.02)
    assert "graph.outward.weight" not in build(warm=False).inherit({"head.weight": heads.head.weight})


def divide(steps, method=AutoUniSeg, **options):
    given = keywords(method, "Options").model_validate(options)
    return method.default_stages(given, TrainOptions(steps=steps))


def test_stages_are_two_fifths_one_and_two_and_the_last_has_one_schedule():
    pruning = PruningOptions(usage=0.02)
    plans = divide(500, ohem=0.7, combine="lse", pruning=pruning, graph={"hidden": 8})
    assert [(p.name, p.steps) for p in plans] == [("heads", 200), ("graph", 100), ("nodes", 100), ("pruned", 100)]
    assert plans[0].method == {"name": "multihead", "ohem": 0.7}
    (heads, *_) = divide(500, normalise=True, scale=5.0)
    assert heads.method == {"name": "multihead", "bias": False, "normalise": True, "scale": 5.0}
    assert plans[1].method == {"graph": {"turn": 20}, "statistics": StageStatistics("heads")}
    free = {
        "name": "unified_nodes",
        "combine": "lse",
        "normalise": False,
        "scale": 1.0,
        "align_corners": False,
        "pruning": pruning,
        "ohem": 0.7,
    }
    assert plans[2].method == free | {"init": StageTaxonomy("graph")}
    assert plans[3].method == free | {"init": StageTaxonomy("nodes"), "statistics": StageStatistics("nodes")}
    assert [dict(p.train) for p in plans] == [
        {"warmup": 20}, {"warmup": 10}, {"warmup": 20, "after": 100}, {"warmup": 20, "before": 100},
    ]  # fmt: skip
    assert divide(500, init="names", graph={"turn": 7})[1].method == {}
    for steps in (4, 5, 7, 11):
        found = [p.steps for p in divide(steps)]
        assert sum(found) == steps
        assert min(found) >= 1
    with pytest.raises(UserError, match=r"train.steps is 3; autouniseg needs 4"):
        divide(3)


def test_a_start_from_confusions_needs_them():
    with pytest.raises(UserError, match=r"method.init is 'confusion', which reads the confusions"):
        AutoUniSeg(pixel_encoder(), testing.toy_spaces())


def test_a_table_of_a_person_is_trained_on_and_its_names_stay(tmp_path):
    path = tmp_path / "mine.tsv"
    testing.toy_taxonomy().write(path)
    path.write_text(path.read_text().replace("truck\t", "big car\t", 1))
    method = build({"turn": 2}, init=path)
    assert method.taxonomy.unified.names == ("road", "sky", "car", "big car")
    step(method, 0, optimizer(method))
    assert set(method.taxonomy.unified.names) <= {"road", "sky", "car", "big car"}


def test_label_vectors_of_a_file_are_the_graphs(tmp_path):
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    np.save(tmp_path / "all.npy", np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]], np.float32))
    for centre, first in ((False, [1.0, 2.0]), (True, [-math.sqrt(3), 0.0])):
        graph = GraphOptions(features=tmp_path / "all.npy", hidden=8, centre=centre)
        method = AutoUniSeg(pixel_encoder(), spaces, init="disjoint", graph=graph)
        assert method.graph.labels[0].tolist() == pytest.approx(first)


# Options.


def recipe(folder, method):
    path = folder / "recipe.toml"
    path.write_text(
        '[data]\nsets = [ { card = "a.toml", root = "a", per_step = 1 } ]\n[train]\nsteps = 100\n'
        f'[method]\nname = "autouniseg"\n{method}\n'
    )
    return path


def test_options_are_tables_that_are_checked_strictly_and_can_be_set_one_by_one(tmp_path):
    path = recipe(tmp_path, "graph = { hidden = 32 }")
    with pytest.raises(
        UserError, match=r"method.graph.droput: unknown key, did you mean 'dropout'\?; valid keys: centre"
    ):
        read_recipe(path, ["method.graph.droput=0.2"])
    with pytest.raises(UserError, match=r"method.merge.taau: unknown key, did you mean 'tau'\?; valid keys: pair_cost"):
        read_recipe(path, ["method.merge.taau=0.2"])
    with pytest.raises(UserError, match=r"method.pruning.usage: Input should be less than or equal to 1 \(it is 2\)"):
        read_recipe(path, ["method.pruning.usage=2"])
    stages = read_recipe(path, ["method.graph.dropout=0.2", "method.pruning.absent=1.0"]).stages
    graph = stages[1].settings.graph
    assert (graph.hidden, graph.dropout, graph.turn) == (32, 0.2, 4)
    assert stages[3].settings.pruning == PruningOptions(absent=1.0)


@pytest.mark.parametrize("old", RENAMED)
def test_an_option_of_an_earlier_version_is_an_error_that_says_what_it_is_now(tmp_path, old):
    with pytest.raises(UserError) as error:
        read_recipe(recipe(tmp_path, ""), [f"method.{old}=1"])
    assert str(error.value).endswith(f"method.{old}: is now {RENAMED[old]}")
    table, dot, key = RENAMED[old].partition(".")
    if dot and " " not in table:
        # What the advice names is there.
        schema = keywords(AutoUniSeg, "Options").model_fields[table].annotation
        assert key in schema.model_fields


def test_the_authors_way_is_a_recipe(monkeypatch):
    """docs/autouniseg.md has a column of what their code does; the recipe says all of it, and it is what is built."""
    recipe = read_recipe(ROADS / "autouniseg-authors.toml")
    assert [(s.name, s.kind.__name__, s.train.steps) for s in recipe.stages] == [
        ("heads", "MultiHead", 167), ("graph", "AutoUniSeg", 167),
        ("nodes", "UnifiedNodes", 83), ("pruned", "UnifiedNodes", 83),
    ]  # fmt: skip
    options = dict(recipe.stages[1].settings)
    assert options["merge"].pair_cost == 0.05
    assert recipe.stages[3].settings.pruning.absent == 1.0
    # As their recipe, but for what needs statistics, a text encoder, and much memory.
    small = options["graph"].model_copy(update={"features": "learned", "hidden": 16})
    method = AutoUniSeg(
        pixel_encoder(), testing.toy_spaces(), **(options | {"init": "names", "statistics": None, "graph": small})
    )
    # Equation 2 with logits 0 and 1 at a temperature of 0.07; one rate; mass decides; nothing starts at the heads.
    assert set(method.graph.adjacency.unique().tolist()) == {0.0, 1.0}
    assert {method.lr_factor(n) for n, _ in method.named_parameters()} == {1.0}
    assert (method.graph.dropout, method.rounding.prune, method.turn) == (0.5, "mass", 33)
    assert method.head_means({"head.weight": torch.ones(9, 8, 1, 1)}) is None
    # Embeddings are directions, but not in the orthogonality loss, which is weighed by 10.
    pixels = torch.randn(1, 8, 2, 2)
    assert torch.allclose(method.unified(3 * pixels), method.unified(pixels), atol=1e-5)
    method.on_step(0)
    assert method.graph.adjacency.requires_grad
    expected = 10 * orthogonality(method.eval().graph().nodes)
    assert method.shared_loss()["orthogonality"].item() == pytest.approx(expected.item(), rel=1e-5)
