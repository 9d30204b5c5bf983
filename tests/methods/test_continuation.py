"""A method goes on from the weights of another one, row by row; by hand on small tables."""

import pytest
import torch

from manyseg import testing
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.methods.autouniseg import AutoUniSeg
from manyseg.methods.autouniseg_options import GraphOptions
from manyseg.methods.baselines import Manual, MultiHead, Union
from manyseg.methods.continuation import Label, node_labels, origins
from manyseg.methods.htss import HTSS
from manyseg.methods.joint import Joint
from manyseg.methods.lmseg import LMSeg
from manyseg.methods.unified_nodes import UnifiedNodes
from manyseg.methods.uniseg import UniSeg
from manyseg.models import PixelEncoder

A = LabelSpace.of("a", ["road", "vehicle"])
B = LabelSpace.of("b", ["Road", "car", "truck"])
TABLE = Taxonomy.from_groups(
    (A, B),
    [[("a", "road"), ("b", "Road")], [("a", "vehicle"), ("b", "car")], [("a", "vehicle"), ("b", "truck")]],
    ["road", "car", "truck"],
)
MANY = [
    pytest.param(MultiHead, {}, id="multihead"),
    pytest.param(Union, {}, id="union"),
    pytest.param(Manual, {"taxonomy": TABLE}, id="manual"),
    pytest.param(HTSS, {"taxonomy": TABLE}, id="htss"),
    pytest.param(HTSS, {"taxonomy": TABLE, "void": "class", "adapt": True}, id="htss-adapt"),
    pytest.param(UniSeg, {}, id="uniseg"),
    pytest.param(UnifiedNodes, {"init": TABLE, "scale": 2.0}, id="unified_nodes"),
    pytest.param(AutoUniSeg, {"init": TABLE, "graph": GraphOptions(features="learned", hidden=8)}, id="autouniseg"),
    pytest.param(Joint, {"taxonomy": TABLE}, id="joint"),
    pytest.param(Joint, {"taxonomy": TABLE, "refine": False}, id="joint-table"),
    pytest.param(LMSeg, {"prompt_tokens": 0, "queries": 4, "blocks": 1}, id="lmseg"),
    pytest.param(LMSeg, {"prompt_tokens": 2, "queries": 4, "blocks": 1}, id="lmseg-prompt"),
    pytest.param(LMSeg, {"classifier": "heads", "queries": 4, "blocks": 1}, id="lmseg-heads"),
    pytest.param(LMSeg, {"classifier": "taxonomy", "taxonomy": TABLE, "queries": 4, "blocks": 1}, id="lmseg-table"),
]


def build(kind, spaces, seed, **options):
    torch.manual_seed(seed)
    return kind(PixelEncoder.build(backbone="tiny", pretrained=False, channels=8), spaces, **options).eval()


def scores(method, space):
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        return testing.predict(method, image, space)


def names(labels, table):
    """Return what `origins` says, by names."""
    old = labels
    return {x.name: [old[i].name for i in found] for x, found in zip(table, origins(old, table), strict=True)}


@pytest.mark.parametrize(("kind", "options"), MANY)
def test_with_equal_labels_all_weights_go_on(kind, options):
    old, new = (build(kind, (A, B), seed, **options) for seed in (0, 1))
    assert not torch.equal(scores(old, A), scores(new, A))
    report = new.continue_from(old)
    assert (report.new, report.gone, report.joined) == ([], [], [])
    assert report.tensors == report.of
    for name, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], value), name
    for space in (A, B, old.taxonomy.unified):
        assert torch.equal(scores(old, space), scores(new, space))


@pytest.mark.parametrize(("kind", "options"), MANY)
def test_a_dataset_is_added_before_the_others(kind, options):
    C = LabelSpace.of("c", ["sky", "Road"])
    table = Taxonomy.from_groups(
        (C, A, B),
        [[("c", "Road"), ("a", "road"), ("b", "Road")], [("a", "vehicle"), ("b", "car")],
         [("a", "vehicle"), ("b", "truck")], [("c", "sky")]],
        ["road", "car", "truck", "sky"],
    )  # fmt: skip
    changed = {k: table if v is TABLE else v for k, v in options.items()}
    old, new = build(kind, (A, B), 0, **options), build(kind, (C, A, B), 1, **changed)
    report = new.continue_from(old)
    assert report.gone == []
    assert report.new
    assert scores(new, C).isfinite().all()
    if kind is AutoUniSeg or "classifier" in options:
        # A new graph; and queries, each of which divides its probability among one more node.
        return
    before, after = (scores(m, B).log_softmax(1) for m in (old, new))
    assert after == pytest.approx(before, abs=1e-4)


def test_a_class_is_added_and_the_scores_of_the_others_stay():
    more = LabelSpace.of("b", ["Road", "bus", "car", "truck"])
    old, new = build(MultiHead, (A, B), 0), build(MultiHead, (A, more), 1)
    own = new.head.weight[3].clone()  # a has 2 classes, and bus is the second of b.
    report = new.continue_from(old)
    assert report.new == ["bus"]
    assert torch.allclose(scores(new, more)[:, [0, 2, 3]], scores(old, B), atol=1e-5)
    assert torch.allclose(scores(new, A), scores(old, A), atol=1e-5)
    assert torch.equal(new.head.weight[3], own)


@pytest.mark.filterwarnings("ignore:2 classes of 'b' share")
def test_a_joined_node_is_the_mean_of_what_it_was_and_a_split_one_what_it_was():
    apart = Taxonomy.from_groups(
        (A, B), [[("a", "road")], [("b", "Road")], [("a", "vehicle"), ("b", "car"), ("b", "truck")]],
        ["road", "Road", "vehicle"],
    )  # fmt: skip
    old, new = build(Manual, (A, B), 0, taxonomy=apart), build(Manual, (A, B), 1, taxonomy=TABLE)
    report = new.continue_from(old)
    w = old.head.weight
    assert torch.allclose(new.head.weight, torch.stack([(w[0] + w[1]) / 2, w[2], w[2]]))
    assert torch.allclose(new.head.bias[0], old.head.bias[:2].mean())
    assert (report.joined, report.new, report.gone) == (["road"], [], [])
    assert (
        str(report) == f"3 labels go on, 1 of them joined from several (road); all {report.of} tensors of the network"
    )


def test_nodes_made_by_hand_start_at_the_heads_of_their_classes():
    old, new = build(MultiHead, (A, B), 0), build(Manual, (A, B), 1, taxonomy=TABLE)
    new.continue_from(old)
    w = old.head.weight  # road, vehicle, Road, car, truck
    # `vehicle` is no node of its own: only what says exactly `car` is what car starts from.
    assert torch.allclose(new.head.weight, torch.stack([(w[0] + w[2]) / 2, w[3], w[4]]))
    # And back: the head of `vehicle` is the mean of the nodes that it may be.
    back = build(MultiHead, (A, B), 2)
    back.continue_from(new)
    n = new.head.weight
    assert torch.allclose(back.head.weight, torch.stack([n[0], (n[1] + n[2]) / 2, n[0], n[1], n[2]]))


def test_scales_of_scores_are_told_apart():
    old, new = build(MultiHead, (A, B), 0), build(UnifiedNodes, (A, B), 1, init=TABLE, scale=4.0)
    new.continue_from(old)
    assert torch.allclose(new.nodes[2], old.head.weight[4].flatten() / 4)


def test_concepts_of_a_tree_go_on_where_they_move():
    # Both have vehicle with car and truck below it; before, road stood first.
    old = build(HTSS, (A, B), 0, taxonomy=TABLE)
    turned = Taxonomy.from_groups(
        (A, B), [[("a", "vehicle"), ("b", "truck")], [("a", "vehicle"), ("b", "car")], [("a", "road"), ("b", "Road")]],
        ["truck", "car", "road"],
    )  # fmt: skip
    new = build(HTSS, (A, B), 1, taxonomy=turned)
    new.continue_from(old)
    assert torch.allclose(scores(new, turned.unified), scores(old, TABLE.unified)[:, [2, 1, 0]])
    assert torch.allclose(scores(new, B), scores(old, B))


def test_a_class_that_joins_a_node_does_not_change_it():
    C = LabelSpace.of("c", ["auto", "sky"])
    table = Taxonomy.from_groups(
        (A, B, C), [[("a", "road"), ("b", "Road")], [("a", "vehicle"), ("b", "car"), ("c", "auto")],
                    [("a", "vehicle"), ("b", "truck")], [("c", "sky")]], ["road", "car", "truck", "sky"],
    )  # fmt: skip
    old, new = build(Joint, (A, B), 0, taxonomy=TABLE), build(Joint, (A, B, C), 1, taxonomy=table)
    new.continue_from(old)
    weights, before = new._node_weights()[0], old._node_weights()[0]
    assert len(weights) == len(before) + 1
    assert sum(any(torch.allclose(w, v) for v in before) for w in weights) == len(before)


def test_counts_of_joint_go_on_by_class_and_dataset():
    old = build(Joint, (A, B), 0, taxonomy="disjoint")
    old.counts.copy_(torch.arange(35).view(7, 5))
    C = LabelSpace.of("c", ["sky"])
    less = LabelSpace.of("a", ["vehicle"])
    new = build(Joint, (C, less, B), 1, taxonomy="disjoint")
    new.continue_from(old)
    # Classes sky, vehicle, Road, car, truck, then the unlabelled of c, a and b.
    row = [None, 1, 2, 3, 4, None, 5, 6]
    expected = [[0 if r is None or c == 0 else 5 * r + c for c in range(5)] for r in row]
    assert new.counts.tolist() == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # Names go on, whatever moved between them.
        ({"road": "ab", "terrain": "c"}, {"road": "a", "terrain": "bc"}, {"road": ["road"], "terrain": ["terrain"]}),
        # A name alone, of other classes, says nothing.
        ({"car": "a", "bus": "b"}, {"car": "b", "auto": "a"}, {"car": ["bus"], "auto": ["car"]}),
        # Of what has no name any more the larger part goes on; a part that is new starts there too.
        ({"vehicle": "abc"}, {"car": "ab", "truck": "c"}, {"car": ["vehicle"], "truck": ["vehicle"]}),
        ({"road": "a", "Road": "b"}, {"road": "ab"}, {"road": ["road", "Road"]}),
        # Nothing is known of d.
        ({"road": "a"}, {"road": "a", "sky": "d"}, {"road": ["road"], "sky": []}),
    ],
)  # fmt: skip
def test_where_labels_go_on(old, new, expected):
    def labels(table):
        return [Label(n, *[frozenset(("x", c) for c in classes)] * 2) for n, classes in table.items()]

    assert names(labels(old), labels(new)) == expected


def test_a_class_of_several_nodes_means_none_of_them_exactly():
    car = node_labels(TABLE)[1]
    assert car == Label("car", {("b", "car")}, {("a", "vehicle"), ("b", "car")})
