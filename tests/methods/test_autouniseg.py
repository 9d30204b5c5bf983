"""AutoUniSeg on values computed by hand, and both of its kinds of learning in the exam that every method passes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyseg import testing
from manyseg.config import keywords
from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace, Taxonomy
from manyseg.losses import cross_entropy
from manyseg.methods.autouniseg import AutoUniSeg
from manyseg.methods.baselines import MultiHead
from manyseg.methods.rounding import Rounding
from manyseg.methods.sources import StageStatistics, StageTaxonomy
from manyseg.methods.start import label_features, label_texts, named, pruned, starting_taxonomy
from manyseg.models import PixelEncoder
from manyseg.models.graph import orthogonality
from manyseg.relate.statistics import UNIFIED, Statistics
from manyseg.training.optimizer import build_optimizer, parameter_groups
from manyseg.training.options import TrainOptions

SMALL = {"features": "learned", "hidden": 16, "init": "names"}


def pixel_encoder(channels=8):
    return PixelEncoder.build(backbone="tiny", pretrained=False, channels=channels)


def statistics(counts, unlabelled=None):
    counts = {k: np.array(v) for k, v in counts.items()}
    none = {k: np.zeros(v.shape[1], int) for k, v in counts.items()}
    return Statistics("key", counts, {}, {}, none | {k: np.array(v) for k, v in (unlabelled or {}).items()}, {})


def build(**options):
    torch.manual_seed(0)
    return AutoUniSeg(pixel_encoder(), testing.toy_spaces(), **(SMALL | options))


def table(tmp_path, *rows, spaces=("a", "b")):
    path = tmp_path / "table.tsv"
    path.write_text("\n".join("\t".join(r) for r in [("unified", *spaces), *rows]) + "\n")
    return path


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


# The exam. What a graph learns on a network that has learned nothing is nothing, so that is left out here.


@pytest.mark.parametrize("combine", ["sum", "lse"])
@pytest.mark.parametrize("check", testing.EXAM[1:], ids=lambda check: check.__name__)
def test_exam_of_the_graph_stage(check, combine):
    check(
        lambda pixel_encoder, spaces: AutoUniSeg(pixel_encoder, spaces, combine=combine, null_row=True, turn=2, **SMALL)
    )


def test_free_nodes_learn_the_toy_world_by_log_sum_exp_of_cosines_too():
    options = {"learn": "nodes", "init": "names", "combine": "lse", "normalise": True, "scale": 10.0}
    testing.learns_the_toy_world(lambda p, s: AutoUniSeg(p, s, **options), steps=160)


# Scores.


@pytest.mark.parametrize(("combine", "score"), [("sum", 3.0), ("lse", 2.3132617)])
def test_a_class_of_two_nodes_is_their_sum_or_their_log_sum_exp(tmp_path, combine, score):
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    path = table(tmp_path, ("1", "x", "u"), ("2", "x", "v"))
    method = AutoUniSeg(pixel_encoder(2), spaces, learn="nodes", init=path, combine=combine)
    method.nodes.data = torch.eye(2)
    p = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    assert method.unified(p).flatten().tolist() == [1, 2]
    assert method.dataset_scores(p, spaces[0]).flatten().tolist() == pytest.approx([score])
    assert method.dataset_scores(p, spaces[1]).flatten().tolist() == pytest.approx([1, 2])
    # An unseen class of both nodes: the best node where sums were trained, else as in training.
    links = method.relation_index(spaces[0])
    assert method.relate(method.unified(p), links).item() == pytest.approx(2.0 if combine == "sum" else score)


def test_folding_the_map_into_the_nodes_changes_no_score():
    method = build(turn=8)
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


def test_directions_only_and_scale():
    method = build(learn="nodes", normalise=True, scale=5.0)
    p = torch.randn(1, 8, 2, 2)
    assert torch.allclose(method.unified(3 * p), method.unified(p), atol=1e-5)
    expected = 5 * torch.einsum("uc,bchw->buhw", method.nodes, p / p.norm(dim=1, keepdim=True))
    assert torch.allclose(method.unified(p), expected, atol=1e-5)


def test_the_soft_log_sum_exp_weighs_probabilities_by_shares():
    method = build(combine="lse")
    nodes, shares = torch.eye(2, 8), torch.tensor([[0.75, 0.5], [0.25, 0.5]])
    p = torch.zeros(1, 8, 1, 1)
    p[0, :2, 0, 0] = torch.tensor([1.0, 2.0])
    found = method._soft(nodes, shares, p).flatten().tolist()
    e = math.exp(1), math.exp(2)
    assert found == pytest.approx([math.log(0.75 * e[0] + 0.5 * e[1]), math.log(0.25 * e[0] + 0.5 * e[1])])


def test_orthogonality_of_two_equal_unit_rows_and_of_two_orthogonal_ones():
    equal, apart = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    assert orthogonality(equal).item() == pytest.approx(0.34657, abs=1e-5)
    assert orthogonality(apart).item() == pytest.approx(4.8e-6, abs=1e-7)
    # Growing norms lower it, but not of directions.
    assert orthogonality(0.1 * apart).item() > 0.3
    assert orthogonality(0.1 * apart, normalise=True).item() == pytest.approx(4.8e-6, abs=1e-7)


# Turns.


def test_annealing_goes_from_the_soft_map_to_the_boolean_one():
    method = build(turn=8, settle=0.0)
    batch = testing.toy_batches()[0]
    method.train()
    losses = {}
    for number in (0, 3, 6):
        method.on_step(number)
        assert method._rho == number / 6
        with torch.no_grad():
            features = method.pixel_encoder(batch.image.float())
            scores = method.train_scores(features.embedding, batch.space)
            parts = scores.split(len(batch.space), 1)
            losses[number] = method.pixel_loss(scores, batch).item()
            apart = [cross_entropy(p, batch.annotation.labels).item() for p in parts]
        assert len(parts) == (2 if number == 3 else 1)
        assert losses[number] == pytest.approx(sum(apart) / len(apart), rel=1e-5)


def test_who_learns_when_and_that_the_others_stand_still_to_the_last_bit():
    """Turns of 8 steps: the adjacency learns in steps 2 to 5 of a graph turn, then only the embeddings."""
    method = build(turn=8)
    adam = optimizer(method)
    edges = {"graph.adjacency"}
    network = {n for n, _ in method.named_parameters() if n.startswith("pixel_encoder.")}
    graph = {n for n, _ in method.named_parameters()} - network - edges
    for number in range(24):
        at, turn = number % 8, number // 8
        before = {n: v.clone() for n, v in method.state_dict().items()}
        grads = step(method, number, adam)
        after = method.state_dict()
        learning = network if turn == 1 else graph | (edges if 2 <= at < 6 else set())
        for name in network | graph | edges:
            assert grads[name] == (name in learning), (number, name)
            assert torch.equal(before[name], after[name]) == (name not in learning), (number, name)
        if turn == 1:
            assert torch.equal(before["rounding.maps"], after["rounding.maps"])
            assert torch.equal(before["nodes"], after["nodes"])
        assert method.pixel_encoder.training == (turn == 1)


def test_parts_that_the_trainer_keeps_fixed_stay_fixed():
    method = build(turn=1)
    method.pixel_encoder.backbone.requires_grad_(False)
    for number in range(2):
        method.on_step(number)
    assert not any(p.requires_grad for p in method.pixel_encoder.backbone.parameters())
    assert all(p.requires_grad for p in method.pixel_encoder.neck.parameters())


def test_the_map_is_rounded_while_the_adjacency_learns_and_once_after(monkeypatch):
    method, rounded = build(turn=16, remap=2), []
    monkeypatch.setattr(method.rounding, "update", lambda _: rounded.append(number))
    method.train()
    for number in range(34):
        method.on_step(number)
    assert rounded == [4, 6, 8, 10, 12]


def test_rates_of_the_adjacency_and_of_wide_graphs():
    method = build(hidden=256, edge_lr=7.0)
    found = {n: method.lr_factor(n) for n, _ in method.named_parameters()}
    assert found["graph.adjacency"] == 7.0
    assert found["graph.layers.0.weight"] == found["graph.unified"] == 0.25
    assert {v for n, v in found.items() if n.startswith("pixel_encoder.")} == {1.0}
    assert build(hidden=32).lr_factor("graph.unified") == 1.0
    assert build(graph_lr=0.5).lr_factor("graph.unified") == 0.5


# From stage to stage.


def take_over(method, weights):
    own = method.state_dict()
    fits = {k: v for k, v in method.inherit(weights).items() if k in own and own[k].shape == v.shape}
    method.load_state_dict(fits, strict=False)


def test_free_nodes_predict_at_first_exactly_as_the_graph_did_at_last(tmp_path):
    method = build(turn=4)
    adam = optimizer(method)
    for number in range(3):
        step(method, number, adam)
    maps = method.rounding.maps
    # As it began, but `asphalt` moves to the node of the roads, and leaves its own one inactive.
    maps[:] = build().rounding.maps
    maps[8, 5], maps[8, 0] = False, True
    state = method.state_dict()
    method.load_state_dict(state)
    method.taxonomy.write(tmp_path / "graph.tsv")
    assert len(method.taxonomy.unified) == 5
    free = build(learn="nodes", init=tmp_path / "graph.tsv")
    take_over(free, {k: v for k, v in state.items() if not k.startswith("graph.")})
    image = testing.toy_batches()[0].image.float()
    with torch.no_grad():
        for space in (*testing.toy_spaces(), None):
            scores = [testing.predict(m.eval(), image, space or m.taxonomy.unified) for m in (method, free)]
            assert torch.equal(*scores)
    assert free.taxonomy.to_tsv() == method.taxonomy.to_tsv()


@pytest.mark.parametrize("learn", ["graph", "nodes"])
def test_nodes_start_at_the_mean_head_of_their_classes(learn, monkeypatch):
    monkeypatch.setattr("manyseg.models.graph.RIDGE", 1e-9)
    torch.manual_seed(1)
    heads = MultiHead(pixel_encoder(), testing.toy_spaces())
    method = build(learn=learn, scale=2.0, hidden=64)
    before = method._fixed().detach().clone() if learn == "nodes" else method._embeddings().clone()
    take_over(method, heads.state_dict())
    found = method._fixed().detach()
    # By names, `road` is class 0 of `fine` and class 2 of `coarse`, rows 0 and 6; `car` is row 2 alone.
    rows = heads.head.weight.detach().flatten(1)
    expected = torch.stack([(rows[0] + rows[6]) / 2, rows[2]]) / 2
    assert torch.allclose(found[[0, 2]], expected, atol=1e-6 if learn == "nodes" else 1e-3)
    assert not torch.allclose(found, before, atol=0.02)
    cold = build(learn=learn, warm=False)
    assert "graph.outward.weight" not in cold.inherit({"head.weight": heads.head.weight})


def test_stages_are_two_fifths_one_and_two_and_the_last_has_one_schedule():
    def divide(steps, **options):
        given = keywords(AutoUniSeg.__init__, "Options").model_validate(options)
        return AutoUniSeg.default_stages(given, TrainOptions(steps=steps))

    plans = divide(500, ohem=0.7)
    assert [(p.name, p.steps) for p in plans] == [("heads", 200), ("graph", 100), ("nodes", 100), ("pruned", 100)]
    assert plans[0].method == {"name": "multihead", "ohem": 0.7}
    assert plans[1].method == {"learn": "graph", "turn": 20, "statistics": StageStatistics("heads")}
    sources = {"init": StageTaxonomy("nodes"), "statistics": StageStatistics("nodes")}
    assert plans[3].method == {"learn": "nodes"} | sources
    assert [dict(p.train) for p in plans] == [
        {"warmup": 20}, {"warmup": 10}, {"warmup": 20, "after": 100}, {"warmup": 20, "before": 100},
    ]  # fmt: skip
    fixed = divide(500, learn="nodes", init="disjoint")
    assert [(p.name, p.steps, p.method) for p in fixed][1] == ("nodes", 300, {"learn": "nodes"})
    for steps in (4, 5, 7, 11):
        found = [p.steps for p in divide(steps)]
        assert sum(found) == steps
        assert min(found) >= 1
    with pytest.raises(UserError, match=r"train.steps is 3; autouniseg needs 4"):
        divide(3)


# Where the label space starts.


@pytest.mark.parametrize(("counts", "pair_cost", "nodes"), [
    ([[96, 4], [100, 0]], 0.05, 3), ([[90, 10], [100, 0]], 0.05, 4), ([[90, 10], [100, 0]], 0.4, 3),
    ([[0, 0], [100, 0]], 0.4, 4),
])  # fmt: skip
def test_classes_merge_by_confusions_of_the_heads(counts, pair_cost, nodes):
    """The published programme on its worked example; a class without a pixel never merges."""
    spaces = [LabelSpace.of("a", ["x", "y"]), LabelSpace.of("b", ["u", "v"])]
    own = [[100, 0], [0, 100]]
    known = statistics({("a", "a"): own, ("b", "b"): own, ("a", "b"): counts, ("b", "a"): counts})
    found = starting_taxonomy(spaces, "confusion", known, None, tau=0.4, pair_cost=pair_cost, reward=0.5)
    assert len(found.unified) == nodes


def test_a_start_from_confusions_needs_them():
    with pytest.raises(UserError, match=r"method.init is 'confusion', which reads the confusions"):
        AutoUniSeg(pixel_encoder(), testing.toy_spaces())


def test_a_table_of_a_person_is_trained_on_and_its_names_stay(tmp_path):
    path = tmp_path / "mine.tsv"
    testing.toy_taxonomy().write(path)
    path.write_text(path.read_text().replace("truck\t", "big car\t", 1))
    method = build(init=path, turn=2)
    assert method.taxonomy.unified.names == ("road", "sky", "car", "big car")
    step(method, 0, optimizer(method))
    assert set(method.taxonomy.unified.names) <= {"road", "sky", "car", "big car"}
    assert build(init=path, learn="nodes").taxonomy.to_tsv() == path.read_text()


def test_a_table_whose_node_has_two_classes_of_a_dataset_is_refused(tmp_path):
    spaces = [LabelSpace.of("a", ["x", "y"]), LabelSpace.of("b", ["u"])]
    path = table(tmp_path, ("1", "x|y", "u"))
    with pytest.raises(UserError, match=r"1 nodes have several classes of 'a' \('1' first\)"):
        AutoUniSeg(pixel_encoder(), spaces, learn="nodes", init=path)


def test_nodes_are_called_as_their_most_specific_member():
    spaces = [
        LabelSpace.of("a", ["road", "car"]),
        LabelSpace.of("b", ["Road", "markings"]),
        LabelSpace.of("c", ["way"]),
    ]
    relation = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]], bool)
    found = named(spaces, relation)
    assert found.unified.names == ("road", "markings", "car")
    assert found.members(1) == [("a", "road"), ("b", "markings"), ("c", "way")]
    twice = named(spaces[:1], np.array([[1, 1], [1, 0]], bool))
    assert twice.unified.names == ("road", "road #2") or len(set(twice.unified.names)) == 2


def test_usage_unlinks_what_takes_a_hundredth_of_a_class_at_most():
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    taxonomy = Taxonomy.from_groups(spaces, [[("a", "x"), ("b", "u")], [("a", "x"), ("b", "v")], [("a", "x")]])
    known = statistics({("a", UNIFIED): [[900, 95, 5]], ("b", UNIFIED): [[50, 50, 0], [0, 0, 0]]})
    found, kept = pruned(taxonomy, known, 0.01, 0.5)
    assert kept == [0, 1]
    assert found.relations["a"].tolist() == [[True, True]]
    # A class without pixels keeps all its nodes; u keeps its only one.
    assert found.relations["b"].tolist() == [[True, False], [False, True]]
    with pytest.raises(UserError, match=r"usage of nodes by 'a' is to be \[1, 3\], the statistics hold \[1, 2\]"):
        pruned(taxonomy, statistics({("a", UNIFIED): [[1, 2]]}), 0.01, 0.5)


def test_a_node_that_mostly_takes_what_a_dataset_does_not_label_is_unlinked_there():
    spaces = [LabelSpace.of("a", ["leaf", "car"]), LabelSpace.of("b", ["tree", "sky"])]
    groups = [[("a", "leaf"), ("b", "tree")], [("a", "leaf"), ("b", "sky")], [("a", "car")]]
    taxonomy = Taxonomy.from_groups(spaces, groups)
    counts = {("a", UNIFIED): [[970, 30, 0], [0, 0, 40]], ("b", UNIFIED): [[500, 0, 0], [0, 500, 0]]}
    # The second node takes 3 % of the leaves, but 6000 pixels without a label; cars keep the only node that they have.
    known = statistics(counts, {("a", UNIFIED): [200, 6000, 60]})
    found, kept = pruned(taxonomy, known, 0.01, 0.5)
    assert kept == [0, 1, 2]
    assert found.relations["a"].tolist() == [[True, False, False], [False, False, True]]
    assert found.relations["b"].tolist() == taxonomy.relations["b"].tolist()
    whole, _ = pruned(taxonomy, known, 0.01, 1.0)
    assert whole.relations["a"].tolist() == taxonomy.relations["a"].tolist()


# Texts.


def test_texts_are_the_papers_template_and_the_cards_description():
    space = LabelSpace("city_7", (LabelClass("Column_Pole", description="column or post"), LabelClass("sky")))
    first = "An image of Column Pole from the dataset city 7."
    assert label_texts([space], True) == [f"{first} column or post", "An image of sky from the dataset city 7."]
    assert label_texts([space], False)[0] == first


def test_features_are_read_from_files_in_recipe_order_and_centred(tmp_path):
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    raw = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]], np.float32)
    np.save(tmp_path / "all.npy", raw)
    np.savez(tmp_path / "each.npz", b=raw[1:], a=raw[:1])
    for name in ("all.npy", "each.npz"):
        assert label_features(spaces, tmp_path / name, None, True, False).tolist() == raw.tolist()
        centred = label_features(spaces, tmp_path / name, None, True, True)
        assert centred.mean(0).tolist() == [0, 0]
        assert centred.std() == pytest.approx(1)
    method = AutoUniSeg(pixel_encoder(), spaces, init="disjoint", features=tmp_path / "all.npy", hidden=8)
    assert method.graph.labels.shape == (3, 2)


@pytest.mark.parametrize(("rows", "message"), [
    (np.zeros((2, 2)), "give 3 finite rows"), (np.full((3, 2), np.nan), "not finite"), (None, "no features of labels"),
])  # fmt: skip
def test_features_that_do_not_fit_are_an_error(tmp_path, rows, message):
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    path = tmp_path / "f.npy"
    path.write_text("text") if rows is None else np.save(path, rows)
    with pytest.raises(UserError, match=message):
        label_features(spaces, path, None, True, True)


# Rounding.

SKEWED = torch.tensor([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])


@pytest.mark.parametrize("method", ["uot", "exact"])
def test_a_class_that_no_node_prefers_gets_the_one_that_can_be_spared_best(method):
    rounding = Rounding([2], np.eye(2, 3, dtype=bool), method=method, prune="mass")
    rounding.update(SKEWED)
    assert rounding.maps.tolist() == [[True, True, False], [False, False, True]]


def test_the_demand_of_classes_follows_the_plan_slowly_and_is_kept_with_it():
    rounding = Rounding([2], np.eye(2, 3, dtype=bool), prune="mass")
    assert rounding.demand.tolist() == [0.5, 0.5]
    rounding.update(SKEWED)
    first = rounding.demand.clone()
    # Nearly balanced at reg_m = 5, so a class gets what it asks for.
    assert first.sum().item() == pytest.approx(1)
    assert first.tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    rounding.update(SKEWED)
    state = rounding.state_dict()
    again = Rounding([2], np.zeros((2, 3), bool))
    again.load_state_dict(state)
    for part in (rounding, again):
        part.update(SKEWED.flip(1))
    assert all(torch.equal(again.state_dict()[k], v) for k, v in rounding.state_dict().items())


def test_pruning_by_share_and_a_small_mass_parameter_make_maps_sparser():
    torch.manual_seed(0)
    soft = (2 * torch.randn(6, 20)).softmax(0)
    links = {}
    for name, options in {
        "mass": {"prune": "mass"}, "share": {"prune": "share"}, "loose": {"prune": "mass", "reg_m": 1e-3},
    }.items():  # fmt: skip
        rounding = Rounding([6], np.zeros((6, 20), bool), **options)
        rounding.update(soft)
        links[name] = int(rounding.maps.sum())
    assert links["mass"] == 20
    assert links["share"] < 20
    assert links["loose"] < 20


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 6), st.sampled_from(["uot", "exact"]),
       st.sampled_from(["mass", "share"]))  # fmt: skip
def test_every_map_is_exclusive_and_covering(seed, classes, more, method, prune):
    generator = torch.Generator().manual_seed(seed)
    nodes = classes + more
    soft = torch.cat([(4 * torch.randn(d, nodes, generator=generator)).softmax(0) for d in (classes, 1)])
    rounding = Rounding([classes, 1], np.zeros((classes + 1, nodes), bool), method=method, prune=prune)
    for _ in range(2):
        rounding.update(soft)
        for part in rounding.maps.split([classes, 1]):
            assert (part.sum(0) <= 1).all()
            assert part.any(1).all()
