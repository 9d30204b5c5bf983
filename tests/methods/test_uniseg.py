"""UniSeg on hand-computed values: numbers 1 to 8 are the method reference's hand tests."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from manyseg import testing
from manyseg.data.annotation import Dense
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.inference.label_maps import class_sums
from manyseg.labels import IGNORE, LabelSpace, Taxonomy
from manyseg.methods.uniseg import UniSeg
from manyseg.models import Features
from manyseg.relate import PartOf, part_of_tsv, read_part_of
from manyseg.relate.statistics import Statistics
from manyseg.runs.propose import propose_and_report
from manyseg.runs.recipe import read_recipe
from manyseg.runs.run import Run, train_recipe

D = LabelSpace.of("d", ["u0", "u2"])
E = LabelSpace.of("e", ["u0", "u1", "u2"])
"""The union is (u0, u2, u1); dataset d labels the first two."""

M = LabelSpace.of("m", ["motorcyclist", "rider", "road"])
N = LabelSpace.of("n", ["motorcyclist", "road"])


@pytest.mark.parametrize("check", testing.EXAM, ids=lambda check: check.__name__)
@pytest.mark.parametrize("support", ["null", "all"])
def test_exam(check, support):
    check(lambda pixel_encoder, spaces: UniSeg(pixel_encoder, spaces, support=support))


class Identity(nn.Module):
    """Four channels of embedding: the image itself."""

    channels = 4

    def forward(self, image):
        return Features((image,), image.float())


def method(*spaces, **options):
    """Nodes are the first axes, so the cosine of a unit pixel with node u is its entry u."""
    out = UniSeg(Identity(), spaces or (D, E), **options)
    with torch.no_grad():
        out.head.weight.copy_(torch.eye(len(out.taxonomy.unified), 4)[:, :, None, None])
    return out


def pixel_encoder(*values):
    """Return an image of one row whose logits are the values, at scale 20: the last channel makes unit vectors."""
    rows = torch.tensor(values) / 20
    rest = (1 - rows.square().sum(1, keepdim=True)).sqrt()
    return torch.cat([rows, rest], 1).T.reshape(1, 4, 1, len(values))


def batch(space, image, labels):
    return Batch(space, ("x",), image, Dense(torch.tensor([[labels]])))


def loss(m, space, values, labels):
    (value,) = m([batch(space, pixel_encoder(*values), labels)]).values()
    return value.item()


Z = (1.0, 0.0, 2.0)
"""The reference's fixture, its nodes in the order of the union."""


# 1. Null BCE.


def test_a_dataset_pays_for_its_own_nodes_only():
    zero = (0.0, 0.0, 0.0)
    assert loss(method(), D, [zero], [0]) == pytest.approx(2 * math.log(2))
    assert loss(method(support="all"), D, [zero], [0]) == pytest.approx(3 * math.log(2))
    assert loss(method(), D, [Z], [0]) == pytest.approx(1.00641, abs=5e-6)
    assert loss(method(support="all"), D, [Z], [0]) == pytest.approx(3.13334, abs=5e-6)


def test_a_dataset_of_one_class_still_learns():
    only = LabelSpace.of("only", ["u1"])
    assert loss(method(E, only), only, [(0.0, 0.0, 0.0)], [0]) == pytest.approx(math.log(2))


# 2. Gradients.


def test_a_null_node_gets_exactly_no_gradient_and_the_others_sigmoid_less_target():
    m = method()
    m([batch(D, pixel_encoder(Z, Z), [0, 1])])["d/pixel"].backward()
    grad = m.head.weight.grad[:, :, 0, 0]
    assert (grad[2] == 0).all()
    # Along a direction orthogonal to a unit weight the logit is 20 times the pixel's entry: here, the last channel.
    last = math.sqrt(1 - (1 + 0 + 4) / 400)
    s = [1 / (1 + math.exp(-v)) for v in Z]
    assert grad[0, 3].item() == pytest.approx(20 * last * ((s[0] - 1) + s[0]) / 2, rel=1e-5)
    assert grad[1, 3].item() == pytest.approx(20 * last * (s[1] + (s[1] - 1)) / 2, abs=1e-5)


def test_a_related_node_gets_exactly_the_gradient_of_a_positive(tmp_path):
    table = tmp_path / "relations.tsv"
    table.write_text("dataset\tclass\tpart of\nd\tu0\tu1\n")
    m = method(relations=table)
    # Of two pixels only that of u0 is related to u1.
    m([batch(D, pixel_encoder(Z, Z), [0, 1])])["d/pixel"].backward()
    last = math.sqrt(1 - 5 / 400)
    assert m.head.weight.grad[2, 3, 0, 0].item() == pytest.approx(
        20 * last * (1 / (1 + math.exp(-2)) - 1) / 2, rel=1e-5
    )


def test_only_the_judged_columns_are_computed():
    m = method()
    with torch.no_grad():
        m.head.weight[2] = math.nan
    assert math.isfinite(loss(m, D, [Z], [0]))
    assert testing.predict(m, pixel_encoder(Z), D).isfinite().all()


# 3. The divisor.


def test_ignored_pixels_and_more_of_the_same_change_nothing():
    other = (-1.0, 2.0, 3.0)
    one = loss(method(), D, [Z, other], [0, 1])
    assert loss(method(), D, [Z, other, Z, other], [0, 1, IGNORE, IGNORE]) == pytest.approx(one)
    assert loss(method(), D, [Z, other, Z, other], [0, 1, 0, 1]) == pytest.approx(one)


# 4, 5. Relations.


def statistics(taxonomy, means, pixel_encoder=10):
    counts = {s.name: np.full(len(s), pixel_encoder) for s in taxonomy.spaces}
    return Statistics("key", {}, counts, {n: m * pixel_encoder for n, m in means.items()}, {}, {})


def test_the_targets_are_positive_negative_or_null():
    taxonomy = Taxonomy.by_name((N, M))
    assert taxonomy.unified.names == ("motorcyclist", "road", "rider")
    means = {
        "n": np.array([[0.25, -1, 0.30], [-1, 0.5, -1]]),
        "m": np.array([[0.25, -1, 0.2], [0.2, -1, 0.3], [-1, 1, -1]]),
    }
    m = method(N, M, statistics=statistics(taxonomy, means))
    assert m.part_of == (PartOf("n", "motorcyclist", "rider", pytest.approx(0.3), pytest.approx(0.25)),)
    assert m.target_table(N).tolist() == [[1, 0, 1], [0, 1, -1]]
    assert m.target_table(M).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]  # The parent does not gain the child.
    # A taxonomy holds no relation: at test a motorcyclist is read from its own node.
    assert m.taxonomy.relations["n"].tolist() == [[True, False, False], [False, True, False]]
    means["m"][0] = (0.25, -1, 0.30)
    own = method(N, M, statistics=statistics(taxonomy, means))
    assert own.target_table(M)[0].tolist() == [1, 0, 1]
    assert method(N, M, statistics=statistics(taxonomy, means), allow_own=False).target_table(M)[0].tolist() == [
        1,
        0,
        0,
    ]
    # Without nulls the rest are negatives.
    plain = method(N, M, statistics=statistics(taxonomy, means), support="all")
    assert plain.target_table(N).tolist() == [[1, 0, 1], [0, 1, 0]]


def test_a_class_without_pixels_has_no_relation():
    taxonomy = Taxonomy.by_name((N, M))
    means = {s.name: np.full((len(s), 3), 0.9) for s in (N, M)}
    assert method(N, M, statistics=statistics(taxonomy, means, pixel_encoder=0)).part_of == ()


# Dataset f tells cars from trucks, k only knows vehicles.

F = LabelSpace.of("f", ["car", "truck"])
K = LabelSpace.of("k", ["vehicle", "road"])


def test_the_method_mines_by_the_rule_that_tau_names():
    taxonomy = Taxonomy.by_name((F, K))
    means = {s.name: np.where(taxonomy.relations[s.name], 0.4, -0.4) for s in (F, K)}
    means["f"][0, 2] = 0.3  # Enough like a vehicle, yet more like a car.
    known = statistics(taxonomy, means)
    assert [r.node for r in method(F, K, statistics=known, tau="calibrated").part_of] == ["vehicle"]
    assert method(F, K, statistics=known).part_of == ()


# 6. Relational BCE.


def test_the_fixture_has_the_values_of_the_reference(tmp_path):
    table = tmp_path / "relations.tsv"
    table.write_text("dataset\tclass\tpart of\nd\tu0\tu1\n")
    assert loss(method(relations=table), D, [Z], [0]) == pytest.approx(1.13334, abs=5e-6)
    table.write_text("dataset\tclass\tpart of\n")
    assert loss(method(relations=table), D, [Z], [0]) == pytest.approx(1.00641, abs=5e-6)


# 7. Cosines.


def test_scores_do_not_depend_on_lengths_and_stay_within_the_scale():
    torch.manual_seed(0)
    m, image = UniSeg(Identity(), (D, E)), torch.randn(2, 4, 5, 6)
    before = testing.predict(m, image, m.taxonomy.unified)
    assert before.abs().max() <= 20
    with torch.no_grad():
        m.head.weight.mul_(torch.tensor([0.1, 3.0, 50.0])[:, None, None, None])
    assert torch.allclose(testing.predict(m, 7 * image, m.taxonomy.unified), before, atol=1e-4)
    assert torch.allclose(m.activation(m.pixel_encoder(image)) * 20, before, atol=1e-4)
    assert testing.predict(method(scale=5.0), pixel_encoder(Z), E).flatten().tolist() == pytest.approx([0.25, 0.5, 0.0])


# Inference.


def test_a_dataset_is_read_from_its_own_nodes_and_an_unseen_one_from_namesakes():
    m = method()
    assert testing.predict(m, pixel_encoder(Z), D).flatten().tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    assert testing.predict(m, pixel_encoder(Z), E).flatten().tolist() == pytest.approx([1.0, 2.0, 0.0], abs=1e-5)
    unseen = LabelSpace.of("t", ["a", "b", "c"])
    relation = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1]], dtype=torch.bool)
    # Of several nodes the best one speaks; nothing is normalised over the nodes left out.
    assert testing.predict(m, pixel_encoder(Z), unseen, relation).flatten().tolist() == pytest.approx(
        [1, -math.inf, 2], abs=1e-5
    )


# 8. Statistics, stages and tables.


def test_statistics_of_two_halves_give_the_relations_of_the_whole():
    taxonomy = Taxonomy.by_name((N, M))
    rng = np.random.default_rng(0)
    halves = [
        Statistics(
            "key",
            {},
            {s.name: rng.integers(1, 9, len(s)) for s in (N, M)},
            {s.name: rng.normal(size=(len(s), 3)) for s in (N, M)},
            {},
            {},
        )
        for _ in range(2)
    ]
    whole = Statistics(
        "key",
        {},
        {n: halves[0].pixels[n] + halves[1].pixels[n] for n in ("n", "m")},
        {n: halves[0].sums[n] + halves[1].sums[n] for n in ("n", "m")},
        {},
        {},
    )
    assert taxonomy.spaces == (N, M)
    found = method(N, M, statistics=halves[0] + halves[1]).part_of
    assert found == method(N, M, statistics=whole).part_of
    assert len(found) > 0


RECIPE = """
seed = 1
[data]
crop = [32, 32]
workers = 0
sets = [
    { card = "fine.toml", root = "fine", per_step = 2, statistics_split = "train" },
    { card = "coarse.toml", root = "coarse", per_step = 2, statistics_split = "train" },
]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
name = "uniseg"
tau = -1.0
[train]
steps = 4
lr = 4e-3
"""


@pytest.fixture
def recipe(world):
    path = world.folder / "uniseg.toml"
    path.write_text(RECIPE)
    return path


def test_one_recipe_goes_through_both_stages_and_leaves_relations_to_edit_and_train_on(recipe, world, tmp_path, capsys):
    first, second = read_recipe(recipe).stages
    assert (first.name, first.train.steps, first.train.lr) == ("null", 3, 4e-3)
    assert (second.name, second.train.steps) == ("relational", 1)
    assert second.train.lr == pytest.approx(4e-4)

    folder = train_recipe(recipe, out=tmp_path / "run")
    run = Run.open(folder)
    trained = run.load_model()
    assert trained.part_of  # With so low a tau an untrained model relates much.
    assert not (folder / "stages/null/relations.tsv").exists()
    text = (folder / "relations.tsv").read_text()
    assert text == part_of_tsv(trained.part_of)
    found = read_part_of(folder / "relations.tsv", run.taxonomy)
    assert [r[:3] for r in found] == [r[:3] for r in trained.part_of]

    shown = propose_and_report([folder], by="names", html=tmp_path / "labels.html").pairs
    assert capsys.readouterr().out.count("mined in training: ") == len(found)
    pairs = {(r.a, r.b) for r in shown if "mined" in r.evidence} | {
        (r.b, r.a) for r in shown if "mined back" in r.evidence
    }
    crossing = {
        ((r.dataset, r.label), m) for r in found for m in run.taxonomy.members(run.taxonomy.unified.positions[r.node])
    }
    assert pairs == {(a, b) for a, b in crossing if a[0] != b[0]}
    assert '"mined"' in (tmp_path / "labels.html").read_text()

    edited = world.folder / "edited.tsv"
    edited.write_text("".join(text.splitlines(keepends=True)[:2]))
    again = train_recipe(recipe, out=tmp_path / "again", overrides=["method.relations=edited.tsv", "train.steps=1"])
    assert Run.open(again).load_model().part_of == found[:1]
    assert (again / "relations.tsv").read_text() == edited.read_text()


def test_without_relations_there_is_one_stage_of_all_steps(recipe):
    assert [s.train.steps for s in read_recipe(recipe, ["method.relations=none"]).stages] == [4]
    with pytest.raises(UserError, match="2 or more"):
        read_recipe(recipe, ["train.steps=1"])


def test_statistics_of_other_datasets_are_refused():
    taxonomy = Taxonomy.by_name((N, M))
    other = statistics(taxonomy, {s.name: np.zeros((len(s), 3)) for s in (N, M)})
    with pytest.raises(UserError, match=r"sums of 'd' are missing, expected 2x3"):
        method(statistics=other)
    with pytest.raises(UserError, match=r"sums of 'n' are 2x3, expected 2x4"):
        method(N, M, LabelSpace.of("x", ["bus"]), statistics=other)


@pytest.mark.parametrize(
    "options", [{"support": "some"}, {"scale": 0.0}, {"tau": 2.0}, {"tau": "some"}, {"ohem": 7.0}, {"ohem": 1.0}]
)
def test_options_outside_their_range_are_refused_by_name(options):
    with pytest.raises(UserError, match=f"method.{next(iter(options))} is"):
        method(**options)


# The planted relations of the toy world.


def mined_from_the_toy_world(**options):
    toy = testing.build(UniSeg)
    testing.train(toy, 200)
    toy.eval()
    spaces = toy.taxonomy.spaces
    pixel_encoder = {s.name: np.zeros(len(s), np.int64) for s in spaces}
    sums = {s.name: np.zeros((len(s), len(toy.taxonomy.unified))) for s in spaces}
    with torch.no_grad():
        for batch in testing.toy_batches(10**6, images=4):
            labels, name = batch.annotation.labels, batch.space.name
            sums[name] += class_sums(toy.activation(toy.pixel_encoder(batch.image)), labels, len(batch.space)).numpy()
            pixel_encoder[name] += np.bincount(labels[labels >= 0], minlength=len(batch.space))
    known = Statistics("key", {}, pixel_encoder, sums, {}, {})
    return {r[:3] for r in UniSeg(toy.pixel_encoder, spaces, statistics=known, **options).part_of}


PLANTED = {
    ("fine", "car", "vehicle"), ("fine", "truck", "vehicle"), ("partial", "Trucks", "vehicle"),
    ("fine", "road", "asphalt"), ("coarse", "road", "asphalt"), ("partial", "asphalt", "road"),
}  # fmt: skip
"""What is a part of what by the concepts behind the labels; equal classes of other names are parts of each other."""


def test_the_planted_relations_of_the_toy_world_are_found_and_none_is_invented():
    assert mined_from_the_toy_world(tau="calibrated") == PLANTED
