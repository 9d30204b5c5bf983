"""HTSS on hand-computed values: a "network" that passes its image on makes every logit an input."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from manyseg import losses, testing
from manyseg.data.annotation import Boxes, Dense, Tags, stack
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.inference.hierarchical import deepest
from manyseg.labels import IGNORE, LabelSpace, Taxonomy
from manyseg.methods.continuation import Label
from manyseg.methods.htss import HTSS
from manyseg.models import Features
from manyseg.models.text import TextEncoder
from manyseg.relate import propose
from manyseg.runs.run import Run, train_recipe
from manyseg.runs.trained import predict_run


class Identity(nn.Module):
    """The embedding is the image itself."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, image):
        return Features((image,), image.float())


def build(nodes, datasets, **options):
    """Build HTSS with the logits of its classifiers as the channels of the image."""
    spaces = [LabelSpace.of(d, classes) for d, classes in datasets.items()]
    groups = [[(d, c) for d, classes in datasets.items() for c in classes if u in classes[c]] for u in nodes]
    taxonomy = Taxonomy.from_groups(spaces, groups, nodes)
    channels = HTSS(Identity(1), spaces, taxonomy=taxonomy, **options).head.out_channels
    method = HTSS(Identity(channels), spaces, taxonomy=taxonomy, **options)
    with torch.no_grad():
        method.head.weight.copy_(torch.eye(channels)[:, :, None, None])
        method.head.bias.zero_()
    return method


# Channels: the root's a, V; then V's car, bus.
NODES = ("a", "car", "bus")
DATASETS = {
    "fine": {"a": ["a"], "car": ["car"], "bus": ["bus"]},
    "coarse": {"a": ["a"], "V": ["car", "bus"]},
    "weak": {"car": ["car"], "bus": ["bus"]},
    "cars": {"a": ["a"], "car": ["car"]},
}


def image(*pixel_encoder):
    """Make one image of one row from the logits of its pixels."""
    return torch.tensor(pixel_encoder, dtype=torch.float32).T[None, :, None, :].clone()


def loss(method, dataset, pixel_encoder, annotation):
    """Return the loss of one image, and its gradient: a list of the channels' for every pixel."""
    space = next(s for s in method.spaces if s.name == dataset)
    z = pixel_encoder.requires_grad_()
    value = method([Batch(space, ("x",), z, annotation)])[f"{dataset}/pixel"]
    value.backward()
    return value.item(), z.grad[0, :, 0].T.tolist()


def dense(*labels):
    return Dense(torch.tensor([[labels]]))


def boxes(width, *rows):
    """Make boxes (first column, past the last column, class) of one image of one row."""
    corners = torch.tensor([[x0, 0, x1, 1] for x0, x1, _ in rows], dtype=torch.float32).view(1, -1, 4)
    return Boxes(corners, torch.tensor([[c for *_, c in rows]]).long(), torch.tensor([[1, width]]))


def log_softmax(values, i):
    return values[i] - math.log(sum(map(math.exp, values)))


def test_a_leafs_probability_is_the_product_down_the_tree():
    method = build(NODES, DATASETS, decode="leaf")
    scores = testing.predict(method, image([0, 1, 2, 0]), method.taxonomy.unified).exp().flatten()
    assert scores.tolist() == pytest.approx([0.26894, 0.64391, 0.08714], abs=1e-5)
    coarse = testing.predict(method, image([0, 1, 2, 0]), method.spaces[1]).exp().flatten()
    assert coarse.tolist() == pytest.approx([0.26894, 0.73106], abs=1e-5)


def test_the_loss_of_a_label_is_that_of_the_classifiers_down_to_it():
    method = build(NODES, DATASETS)
    assert loss(method, "coarse", image([0, 1, 2, 0]), dense(1))[0] == pytest.approx(0.31326, abs=1e-5)
    assert loss(method, "fine", image([0, 1, 2, 0]), dense(1))[0] == pytest.approx(0.32595, abs=1e-5)
    method = build(NODES, DATASETS, deeper_weight=1.0)
    assert loss(method, "fine", image([0, 1, 2, 0]), dense(1))[0] == pytest.approx(0.44019, abs=1e-5)


def test_a_label_that_stops_at_a_concept_leaves_its_classifier_without_gradient():
    _, [gradient] = loss(build(NODES, DATASETS), "coarse", image([0, 1, 2, 0]), dense(1))
    assert gradient[:2] == pytest.approx([0.26894, -0.26894], abs=1e-5)
    assert gradient[2:] == [0, 0]


def test_ignored_pixels_change_no_loss_and_no_mean():
    for mean in ("classifier", "pixel"):
        method = build(NODES, DATASETS, divisor=mean)
        one = loss(method, "fine", image([0, 1, 2, 0]), dense(1))[0]
        two = loss(method, "fine", image([0, 1, 2, 0], [5, 1, 0, 3]), dense(1, IGNORE))[0]
        assert two == pytest.approx(one, rel=1e-6)


def test_a_classifiers_mean_is_over_its_own_pixels_or_over_all_labelled_ones():
    pixel_encoder = ([0, 1, 2, 0], [1, 0, 0, 0])
    root = -(log_softmax([0, 1], 1) + log_softmax([1, 0], 0)) / 2
    deeper = -log_softmax([2, 0], 0)
    own = build(NODES, DATASETS, deeper_weight=0.5)
    assert loss(own, "fine", image(*pixel_encoder), dense(1, 0))[0] == pytest.approx(root + 0.5 * deeper, rel=1e-5)
    every = build(NODES, DATASETS, deeper_weight=0.5, divisor="pixel")
    assert loss(every, "fine", image(*pixel_encoder), dense(1, 0))[0] == pytest.approx(root + 0.25 * deeper, rel=1e-5)


def test_with_unit_weights_and_one_mean_the_loss_is_nll_of_sets_of_leaves():
    nodes = ["a", "car", "bus", "tram"]
    datasets = {
        "fine": {n: [n] for n in nodes},
        "middle": {"a": ["a"], "road": ["car", "bus"], "rail": ["tram"]},
        "coarse": {"a": ["a"], "V": ["car", "bus", "tram"]},
    }
    method = build(nodes, datasets, deeper_weight=1.0, divisor="pixel")
    torch.manual_seed(0)
    z = torch.randn(2, method.head.out_channels, 4, 5)
    for space in method.spaces:
        labels = torch.randint(-1, len(space), (2, 4, 5))
        found = method([Batch(space, ("x", "y"), z, Dense(labels))])[f"{space.name}/pixel"]
        scores = losses.class_logsumexp(method.unified(z), method.relation_index(space))
        expected = losses.cross_entropy(scores, labels, normalised=True).mean()
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_dataset_that_labels_a_single_child_contributes_nothing_to_its_classifier():
    _, [gradient] = loss(build(NODES, DATASETS), "cars", image([0, 1, 2, 0]), dense(1))
    assert gradient[0] > 0
    assert gradient[2:] == [0, 0]


def test_descending_takes_the_best_child_from_the_root_on():
    logits = [math.log(0.4), math.log(0.6), 0.0, 0.0]
    descends, leafs = build(NODES, DATASETS), build(NODES, DATASETS, decode="leaf")
    unified = descends.taxonomy.unified
    assert testing.predict(descends, image(logits), unified).argmax().item() in (1, 2)
    assert testing.predict(leafs, image(logits), unified).argmax().item() == 0
    assert testing.predict(descends, image([0, 1, 2, 0]), unified).argmax().item() == 1
    # Datasets are read by probability in either case.
    for space in descends.spaces:
        assert torch.equal(
            testing.predict(descends, image(logits), space), testing.predict(leafs, image(logits), space)
        )


def test_every_concept_has_a_probability_through_its_leaves():
    method = build(NODES, DATASETS)
    space, leaves = method.hierarchy.space, torch.from_numpy(method.hierarchy.leaves)
    p = testing.predict(method, image([0, 1, 2, 0]), space, leaves).exp().flatten().tolist()
    assert space.names == ("a", "car", "bus", "V")
    assert p == pytest.approx([0.26894, 0.64391, 0.08714, 0.73106], abs=1e-5)


def test_the_deepest_concept_that_is_sure_is_said_and_else_the_best_of_the_first_level():
    method = build(NODES, DATASETS)
    car, torn, unsure = [0.0, 1.0, 2.0, 0.0], [0.0, 1.0, 0.1, 0.0], [0.1, 0.0, 9.0, 0.0]
    # .64 car; V, whose children have .38 and .35; a by little.
    space, leaves = method.hierarchy.space, torch.from_numpy(method.hierarchy.leaves)
    found = deepest(testing.predict(method, image(car, torn, unsure), space, leaves), method.hierarchy, (1, 3))
    assert [space.names[n] for n in found.flatten()] == ["car", "V", "a"]
    three = build(("a", "b", "car", "bus"), {"fine": {n: [n] for n in ("a", "b", "car", "bus")}})
    space, leaves = three.hierarchy.space, torch.from_numpy(three.hierarchy.leaves)
    found = deepest(testing.predict(three, image([0.0, 0.2, 0.1, 0.0]), space, leaves), three.hierarchy, (2, 2))
    assert (found == 1).all()


# A split class: Bicyclist is a person with a bicycle, one a living thing, one a vehicle.
# Channels: the root's living, vehicle; then vehicle's bicycle, car; then living's person, cyclist.
CROSSING = {
    "coarse": {"living": ["person", "cyclist"], "vehicle": ["bicycle", "car"]},
    "street": {"walker": ["person"], "Bicyclist": ["cyclist", "bicycle"], "car": ["car"]},
}


def test_a_split_class_teaches_the_classifiers_that_the_model_itself_decides_for():
    method = build(("person", "cyclist", "bicycle", "car"), CROSSING)
    assert [method.hierarchy.space.names[n] for n in method._order] == [
        *("living", "vehicle"),
        *("bicycle", "car"),
        *("person", "cyclist"),
    ]
    value, [gradient] = loss(method, "street", image([1, 0, 0, 0, 0, 0]), dense(1))
    assert value == pytest.approx(0.1 * math.log(2), rel=1e-5)
    assert gradient == pytest.approx([0, 0, 0, 0, 0.05, -0.05])
    value, [gradient] = loss(method, "street", image([0, 1, 0, 0, 0, 0]), dense(1))
    assert gradient == pytest.approx([0, 0, -0.05, 0.05, 0, 0])


# Weak labels.


def test_boxes_teach_only_inside_and_only_where_the_parent_agrees_and_never_the_root():
    method = build(NODES, DATASETS, deeper_weight=1.0)
    pixel_encoder = ([0, 1, 2, 0], [1, 0, 2, 0], [0, 1, 2, 0])
    # Both first pixels are under a box of a bus; the second is no vehicle to the root, the third is under no box.
    value, gradient = loss(method, "weak", image(*pixel_encoder), boxes(3, (0, 2, 1)))
    assert value == pytest.approx(-log_softmax([2, 0], 1), rel=1e-5)
    assert gradient[0] == pytest.approx([0, 0, 0.88080, -0.88080], abs=1e-5)
    assert gradient[1] == [0, 0, 0, 0]
    assert gradient[2] == [0, 0, 0, 0]


def test_overlapping_boxes_share_a_pixel_by_their_number():
    rows = boxes(1, (0, 1, 0), (0, 1, 0), (0, 1, 1))
    value, [gradient] = loss(build(NODES, DATASETS, deeper_weight=1.0), "weak", image([0, 1, 2, 0]), rows)
    assert value == pytest.approx(-(2 * log_softmax([2, 0], 0) + log_softmax([2, 0], 1)) / 3, rel=1e-5)
    assert gradient[2:] == pytest.approx([0.88080 - 2 / 3, 0.11920 - 1 / 3], abs=1e-5)
    # As a set of what is possible, both children together say nothing.
    value, [gradient] = loss(build(NODES, DATASETS, weak_loss="set_nll"), "weak", image([0, 1, 2, 0]), rows)
    assert value == pytest.approx(0, abs=1e-6)
    assert gradient == pytest.approx([0, 0, 0, 0], abs=1e-6)


def test_tags_are_soft_labels_of_every_pixel_that_passes_the_gate():
    tags = Tags(torch.tensor([[0, 1]]))
    pixel_encoder = ([0, 1, 2, 0], [1, 0, 2, 0])
    value, gradient = loss(build(NODES, DATASETS, deeper_weight=1.0), "weak", image(*pixel_encoder), tags)
    assert value == pytest.approx(-(log_softmax([2, 0], 0) + log_softmax([2, 0], 1)) / 2, rel=1e-5)
    assert gradient[1] == [0, 0, 0, 0]
    value, gradient = loss(build(NODES, DATASETS), "weak", image(*pixel_encoder), Tags(torch.tensor([[IGNORE]])))
    assert (value, gradient) == (0, [[0] * 4] * 2)


@pytest.mark.parametrize(("mean", "shares"), [("dataset", (1, 1)), ("batch", (2 / 3, 1 / 3))])
def test_strong_and_weak_pixels_share_one_mean_of_a_classifier_where_asked_to(mean, shares):
    """Two pixels of masks and one of a box train `V`, which the root decides for at all of them."""
    method = build(NODES, DATASETS)
    method.mean = mean
    fine, weak = (next(s for s in method.spaces if s.name == name) for name in ("fine", "weak"))
    z = [0.0, 1, 2, 0]
    strong = Batch(fine, ("x",), image(z, z), dense(1, 1))
    boxed = Batch(weak, ("y",), image(z, z), boxes(2, (0, 1, 1)))
    found = method([strong, boxed])
    root, car, bus = log_softmax([0, 1], 1), log_softmax([2, 0], 0), log_softmax([2, 0], 1)
    assert found["fine/pixel"].item() == pytest.approx(-root - 0.1 * shares[0] * car, rel=1e-5)
    assert found["weak/pixel"].item() == pytest.approx(-0.1 * shares[1] * bus, rel=1e-5)


def test_an_image_without_a_box_has_no_loss_but_a_graph():
    assert loss(build(NODES, DATASETS), "weak", image([0, 1, 2, 0]), boxes(1)) == (0, [[0, 0, 0, 0]])


def test_without_a_gate_every_covered_pixel_counts_and_the_root_learns_too():
    method = build(NODES, DATASETS | {"weak": {"a": ["a"], "car": ["car"], "bus": ["bus"]}}, gate="none")
    value, gradient = loss(method, "weak", image([1, 0, 2, 0], [0, 1, 2, 0]), boxes(2, (0, 1, 2)))
    assert value == pytest.approx(-log_softmax([1, 0], 1) - 0.1 * log_softmax([2, 0], 1), rel=1e-5)
    assert gradient[0] == pytest.approx([0.73106, -0.73106, 0.088080, -0.088080], abs=1e-5)
    assert gradient[1] == [0, 0, 0, 0]


# Channels: the root's human, vehicle; vehicle's car, bus, void; human's person, rider, void.
TWO = {
    "fine": {n: [n] for n in ("car", "bus", "person", "rider")},
    "coarse": {"human": ["person", "rider"], "vehicle": ["car", "bus"]},
}


def test_void_takes_the_mass_of_boxes_of_other_concepts():
    method = build(("car", "bus", "person", "rider"), TWO, void="class", deeper_weight=1.0)
    names = [method.hierarchy.space.names[n] for n in method.hierarchy.children(method.hierarchy.root)]
    rows = boxes(1, (0, 1, 0), (0, 1, 0), (0, 1, 2))
    for concept, own, mass in (("vehicle", 0, 2 / 3), ("human", 0, 1 / 3)):
        root = [float(n == concept) for n in names]
        value, [gradient] = loss(method, "fine", image([*root, 0, 0, 0, 0, 0, 0]), rows)
        assert value == pytest.approx(math.log(3), rel=1e-5)
        classifier = next(c for c in method.classifiers if c.concept == method.hierarchy.space.positions[concept])
        expected = np.full(3, 1 / 3)
        expected[[own, 2]] -= (mass, 1 - mass)
        assert gradient[classifier.channels] == pytest.approx(expected, abs=1e-5)
        assert sum(map(abs, gradient)) == pytest.approx(np.abs(expected).sum(), abs=1e-5)


def test_the_chain_asks_all_ancestors_where_the_parent_alone_is_asked_by_default():
    nodes = ["a", "car", "bus", "tram"]
    datasets = {
        "fine": {n: [n] for n in nodes},
        "middle": {"a": ["a"], "road": ["car", "bus"], "rail": ["tram"]},
        "coarse": {"a": ["a"], "V": ["car", "bus", "tram"]},
    }
    # V decides for road, but the root does not decide for V.
    logits = {"a": 1, "V": 0, "road": 1, "tram": 0, "car": 0, "bus": 0}
    for gate, trained in (("parent", True), ("chain", False)):
        method = build(nodes, datasets, gate=gate)
        embedding = [logits[method.hierarchy.space.names[n]] for n in method._order]
        value, _ = loss(method, "fine", image(embedding), boxes(1, (0, 1, 1)))
        assert (value > 0) == trained


def test_weak_labels_that_can_reach_no_classifier_are_warned_of_once():
    method = build(NODES, DATASETS)
    with pytest.warns(UserWarning, match="tags of 'coarse' reach no classifier"):
        assert loss(method, "coarse", image([0, 1, 2, 0]), Tags(torch.tensor([[0]])))[0] == 0
    loss(method, "coarse", image([0, 1, 2, 0]), Tags(torch.tensor([[0]])))


def test_boxes_at_the_image_scale_are_painted_at_the_scores_resolution():
    method = build(NODES, DATASETS, deeper_weight=1.0)
    z = image([0, 1, 2, 0], [0, 1, 0, 0])
    rows = Boxes(torch.tensor([[[0.0, 0, 4, 8]]]), torch.tensor([[1]]), torch.tensor([[8, 8]]))
    value, gradient = loss(method, "weak", z, rows)
    assert value == pytest.approx(-log_softmax([2, 0], 1), rel=1e-5)
    assert gradient[1] == [0, 0, 0, 0]


# Options and the exam.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "some"}, "method.gate is 'some'; choose 'parent', 'chain' or 'none'"),
        ({"deeper_weight": 0}, "method.deeper_weight is 0"),
        ({"taxonomy": testing.toy_taxonomy()}, "the taxonomy relates the label spaces of fine"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(UserError, match=message):
        HTSS(Identity(4), [LabelSpace.of("x", ["a", "b"])], **options)


def test_a_table_is_read(tmp_path):
    testing.toy_taxonomy().write(tmp_path / "t.tsv")
    method = HTSS(Identity(4), testing.toy_spaces(), taxonomy=tmp_path / "t.tsv")
    assert method.hierarchy.space.names[-1] == "vehicle"


VARIANTS = {
    "tree": {},
    "whole": {"adapt": True, "void": "class", "divisor": "pixel", "gate": "none", "decode": "leaf"},
}


@pytest.mark.parametrize("check", testing.EXAM[1:], ids=lambda check: check.__name__)
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_exam_with_a_tree(check, options):
    """A flat tree, and learning, are asked of every method in test_exam.py."""
    check(lambda pixel_encoder, spaces: HTSS(pixel_encoder, spaces, taxonomy=testing.toy_taxonomy(), **options))


RUN = """
[data]
crop = [32, 32]
scale = [0.8, 1.2]
workers = 0
sets = [
    {{ card = "coarse.toml", root = "coarse", per_step = 1 }},
    {{ card = "fine.toml", root = "fine", per_step = 1, annotation = "{kind}" }},
]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
name = "{method}"
[train]
steps = 2
"""


@pytest.mark.parametrize(("method", "kind"), [("htss", "boxes"), ("union", "tags")])
def test_a_recipe_trains_on_boxes_or_tags_beside_masks_and_scores_them_by_masks(world, tmp_path, method, kind):
    recipe = world.folder / f"{method}.toml"
    recipe.write_text(RUN.format(method=method, kind=kind))
    option = [f"method.taxonomy={world.truth.name}"] if method == "htss" else []
    folder = train_recipe(recipe, out=tmp_path / "run", overrides=option)
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["datasets"]["fine"]["pixel_accuracy"] is not None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert "fine/pixel" in lines[0]["losses"]
    if method == "htss":
        predict_run(folder, [world.folder / "unseen" / "images"], labels="hierarchy", out=tmp_path / "out")
        known = json.loads((tmp_path / "out" / "labels.json").read_text())["classes"]
        assert {"vehicle", "road (coarse)", "car"} <= {c["name"] for c in known}


def test_without_a_table_a_run_learns_what_labels_proposes_and_keeps_it_with_its_files(world, tmp_path, monkeypatch):
    recipe = world.folder / "proposal.toml"
    recipe.write_text(RUN.format(method="htss", kind="native"))
    folder = train_recipe(recipe, out=tmp_path / "run")
    kept = folder / "files" / "method-taxonomy.tsv"
    spaces = Run.open(folder).spaces
    propose(spaces, by="text", encode=TextEncoder().encode).taxonomy.write(tmp_path / "proposal.tsv")
    assert kept.read_bytes() == (tmp_path / "proposal.tsv").read_bytes()
    assert 'taxonomy = "files/method-taxonomy.tsv"' in (folder / "recipe.toml").read_text()
    # From then on the table is read: neither predicting nor going on with the run needs the text encoder.
    monkeypatch.setattr(TextEncoder, "encode", lambda *_: pytest.fail("the label space was proposed anew"))
    Run.open(folder).load_model().taxonomy.write(tmp_path / "loaded.tsv")
    assert kept.read_bytes() == (tmp_path / "loaded.tsv").read_bytes()
    assert train_recipe(recipe, out=folder, resume=True) == folder


# The planted world.


def loosely_boxed(batch, space):
    """Weaken masks of cars and trucks to boxes that are 3 pixels too large on every side."""
    out = []
    for labels in batch.annotation.labels.numpy():
        found = [
            ([x.start - 3, y.start - 3, x.stop + 3, y.stop + 3], c)
            for c, name in enumerate(space.names)
            for y, x in ndimage.find_objects(ndimage.label(labels == batch.space.positions[name])[0])
        ]
        corners = torch.tensor([box for box, _ in found], dtype=torch.float32).view(-1, 4)
        out.append(Boxes(corners, torch.tensor([c for _, c in found]).long(), torch.tensor(labels.shape)))
    return batch._replace(space=space, annotation=stack(out))


def planted(weak, steps=200):
    """Train on masks of vehicles and boxes that alone know cars from trucks; return the IoU of every unified node."""
    fine, coarse, _ = testing.toy_spaces()
    boxed = LabelSpace.of("boxed", ["car", "truck"])
    groups = [[("coarse", n)] for n in ("road", "sky")] + [[("coarse", "vehicle"), ("boxed", n)] for n in boxed.names]
    taxonomy = Taxonomy.from_groups((coarse, boxed), groups, fine.names)
    torch.manual_seed(0)
    pixel_encoder = testing.PixelEncoder.build(backbone="tiny", pretrained=False, channels=32)
    method = HTSS(pixel_encoder, (coarse, boxed), taxonomy=taxonomy, deeper_weight=0.3)
    optimizer = torch.optim.AdamW(method.parameters(), 7e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 - 2 * step / steps))
    method.train()
    for step in range(steps):
        own, dense, _ = testing.toy_batches(step)
        batches = [dense, loosely_boxed(own, boxed)] if weak else [dense]
        optimizer.zero_grad()
        torch.stack(list(method(batches).values())).sum().backward()
        optimizer.step()
        schedule.step()
    truth = testing.toy_batches(10**6, images=4)[0]
    with torch.no_grad():
        scores = testing.predict(method.eval(), truth.image.float(), taxonomy.unified)
    found = nn.functional.interpolate(scores, size=truth.annotation.labels.shape[1:], mode="bilinear").argmax(1)
    labels = truth.annotation.labels
    iou = [((found == u) & (labels == u)).sum() / ((found == u) | (labels == u)).sum() for u in range(4)]
    return dict(zip(fine.names, torch.stack(iou).tolist(), strict=True))


def test_boxes_alone_make_two_classes_recognisable_and_the_rest_no_worse():
    without, with_boxes = planted(weak=False), planted(weak=True)
    assert min(with_boxes["car"], with_boxes["truck"]) > 0.75
    assert min(without["car"], without["truck"]) < 0.35
    for name in ("road", "sky"):
        assert with_boxes[name] > without[name] - 0.02


@pytest.mark.parametrize("best", [0, 1, 2])
def test_where_no_concept_is_sure_the_best_of_the_first_level_is_said_wherever_it_stands(best):
    method = build(("a", "b", "c"), {"fine": {n: [n] for n in ("a", "b", "c")}})
    space, leaves = method.hierarchy.space, torch.from_numpy(method.hierarchy.leaves)
    scores = testing.predict(method, image([0.2 * (k == best) for k in range(3)]), space, leaves)
    assert deepest(scores, method.hierarchy, (1, 1)).item() == best


# Values of the parts.


def test_descending_scores_are_how_much_worse_each_concept_is_than_its_best_sibling():
    method = build(NODES, DATASETS)
    scores = testing.predict(method, image([0, 1, 2, 0]), method.taxonomy.unified).flatten()
    assert scores.tolist() == pytest.approx([-1, 0, -2], abs=1e-5)


def test_the_share_of_the_output_for_other_things_is_no_leafs():
    method = build(NODES, DATASETS, decode="leaf", void="class")
    # The root's a, V; then V's car, bus and anything else.
    scores = testing.predict(method, image([0, 1, 2, 0, 1]), method.taxonomy.unified).flatten()
    V = log_softmax([0, 1], 1)
    expected = [log_softmax([0, 1], 0), V + log_softmax([2, 0, 1], 0), V + log_softmax([2, 0, 1], 1)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)


def weak_loss(method, pixel, q):
    """Return the loss of V's classifier on one cell of these logits, for soft labels of car and bus."""
    space = next(s for s in method.spaces if s.name == "weak")
    (targets,) = [t for t in method._classifier_targets(space) if t.classifier.parent is not None]
    loss = method._weak_loss(image(pixel), torch.tensor(q)[None, :, None, None], targets)
    return loss.mean().item()


def test_soft_labels_are_shares_and_what_no_box_covers_is_something_else():
    z = [0, 1, 2, 0]
    car, bus = log_softmax([2, 0], 0), log_softmax([2, 0], 1)
    assert weak_loss(build(NODES, DATASETS), z, [0.3, 0.1]) == pytest.approx(-0.75 * car - 0.25 * bus, rel=1e-5)
    method = build(NODES, DATASETS, void="class")
    logs = [log_softmax([2, 0, 1], i) for i in range(3)]
    expected = -0.3 * logs[0] - 0.1 * logs[1] - 0.6 * logs[2]
    assert weak_loss(method, [*z, 1], [0.3, 0.1]) == pytest.approx(expected, rel=1e-5)


def test_a_hundredth_of_a_label_counts_for_nothing():
    method = build(NODES, DATASETS)
    assert weak_loss(method, [0, 1, 2, 0], [0.011, 0.0]) == pytest.approx(-log_softmax([2, 0], 0), rel=1e-5)
    space = next(s for s in method.spaces if s.name == "weak")
    (targets,) = [t for t in method._classifier_targets(space) if t.classifier.parent is not None]
    found = method._weak_loss(image([0, 1, 2, 0]), torch.tensor([0.009, 0.0])[None, :, None, None], targets)
    assert found.mean() == 0


def test_the_loss_of_boxes_is_averaged_over_all_covered_cells_where_all_pixels_divide():
    # Of four cells boxes cover three; of these the root calls two V.
    pixels = ([0, 1, 2, 0], [0, 1, 2, 0], [1, 0, 2, 0], [0, 1, 2, 0])
    for divisor, share in (("classifier", 1), ("pixel", 2 / 3)):
        method = build(NODES, DATASETS, deeper_weight=1.0, divisor=divisor)
        found, _ = loss(method, "weak", image(*pixels), boxes(4, (0, 2, 0), (2, 3, 0)))
        assert found == pytest.approx(-share * log_softmax([2, 0], 0), rel=1e-5)


def test_rows_of_classifiers_are_called_by_what_they_mean():
    method = build(NODES, DATASETS, void="class", adapt=True)
    concepts, _, *adapters = method.label_rows()
    assert {rows.group for rows in (concepts, _)} == {"concepts"}
    names = ["a", "V", "car", "bus", "none of V"]
    assert [label.name for label in concepts.labels] == names
    at = dict(zip(names, concepts.labels, strict=True))
    assert at["V"] == Label("V", frozenset({("coarse", "V")}), frozenset({("coarse", "V")}))
    assert at["none of V"] == Label("none of V")
    assert ("fine", "car") in at["car"].classes
    assert len(adapters) == len([*method.adapters[0].named_parameters()])
    for rows, (name, first), (_, second) in zip(
        adapters, method.adapters[0].named_parameters(), method.adapters[1].named_parameters(), strict=True
    ):
        assert [label.name for label in rows.labels] == ["everything", "V"]
        assert (rows.group, rows.role) == ("adapters", name)
        assert rows.rows[0] is first
        assert rows.rows[1] is second


def test_an_adapter_adds_a_bottleneck_of_a_quarter_of_the_channels():
    torch.manual_seed(0)
    adapter = HTSS(Identity(9), toy(), taxonomy="names", adapt=True).adapters[0]
    assert [m.out_channels for m in adapter.body if isinstance(m, nn.Conv2d)] == [2, 2, 9]
    x = torch.randn(1, 9, 3, 3)
    assert torch.allclose(adapter(x) - x, adapter.body(x), atol=1e-6)
    (one,) = {m.out_channels for m in HTSS(Identity(3), toy(), taxonomy="names", adapt=True).adapters[0].body[:3:2]}
    assert one == 1


def toy():
    return [LabelSpace.of("a", ["x", "y"])]


def test_what_follows_from_the_taxonomy_is_not_saved():
    assert "paths" not in build(NODES, DATASETS).state_dict()
    assert build(NODES, DATASETS).adapters is None
