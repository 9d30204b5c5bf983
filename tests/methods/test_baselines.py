"""The baselines on hand-computed values: a "network" that passes its image on makes every number checkable."""

import math

import pydantic
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manyseg import losses, testing
from manyseg.config import keywords
from manyseg.data.annotation import Boxes, Dense, Segments, Tags
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import IGNORE, LabelSpace, Taxonomy
from manyseg.methods import METHODS, find_method
from manyseg.methods.baselines import Manual, MultiHead, Union, _size
from manyseg.models import Features

A = LabelSpace.of("a", ["person", "car"])
B = LabelSpace.of("b", ["person", "rider", "bus"])


class Identity(nn.Module):
    """Three channels of embedding: the image itself."""

    channels = 3

    def forward(self, image):
        return Features((image,), image.float())


def dense(space, labels, pixel_encoder=None):
    labels = torch.tensor(labels)
    image = torch.randn(len(labels), 3, *labels.shape[1:]) if pixel_encoder is None else pixel_encoder
    return Batch(space, tuple("x" * len(labels)), image, Dense(labels))


def image(values):
    return torch.tensor(values).view(1, 3, 1, 1)


def exact(method):
    """Set the head to pass the three channels on as the first logits, and nothing more."""
    with torch.no_grad():
        method.head.weight.copy_(torch.eye(len(method.head.weight), 3)[:, :, None, None])
        method.head.bias.zero_()
    return method


def fixture(relation, **options):
    """NLL+ over three nodes u0, u1, u2; dataset d relates to them as given, dataset e to each."""
    d = LabelSpace.of("d", [f"d{i}" for i in range(len(relation))])
    e = LabelSpace.of("e", ["u0", "u1", "u2"])
    groups = [[("e", f"u{u}")] + [("d", f"d{i}") for i, row in enumerate(relation) if row[u]] for u in range(3)]
    taxonomy = Taxonomy.from_groups((d, e), groups, ["u0", "u1", "u2"])
    return exact(Manual(Identity(), (d, e), taxonomy=taxonomy, **options)), d


COARSE, PART = [[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]]


def loss_and_gradient(method, space, values, label):
    z = image(values).requires_grad_()
    (loss,) = method([dense(space, [[[label]]], z)]).values()
    loss.backward()
    return loss.item(), z.grad.flatten().tolist()


# Multi-head.


def test_the_loss_of_one_dataset_leaves_all_other_heads_without_gradient():
    method = MultiHead(Identity(), (A, B))
    method([dense(A, [[[0, 1], [1, 0]]])])["a/pixel"].backward()
    assert (method.head.weight.grad[2:] == 0).all()
    assert (method.head.bias.grad[2:] == 0).all()
    assert (method.head.weight.grad[:2] != 0).all()


def test_a_heads_loss_is_cross_entropy_on_its_slice():
    method = MultiHead(Identity(), (A, B))
    batch = dense(B, [[[0, 1], [2, IGNORE]]])
    expected = F.cross_entropy(method.head(batch.image)[:, 2:], batch.annotation.labels, ignore_index=IGNORE)
    assert method([batch])["b/pixel"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_only_the_asked_head_is_computed():
    method = MultiHead(Identity(), (A, B))
    with torch.no_grad():
        method.head.weight[:2] = math.nan
    assert testing.predict(method, torch.randn(1, 3, 2, 2), B).isfinite().all()
    assert method([dense(B, [[[0, 1]]])])["b/pixel"].isfinite()


def test_with_one_dataset_it_is_the_ordinary_single_model_bit_for_bit():
    torch.manual_seed(0)
    method = MultiHead(Identity(), (B,))
    torch.manual_seed(0)
    single = nn.Conv2d(3, 3, 1)
    batch = dense(B, [[[0, 1], [2, 1]]])
    ours, theirs = method([batch])["b/pixel"], losses.cross_entropy(single(batch.image), batch.annotation.labels).mean()
    ours.backward()
    theirs.backward()
    assert torch.equal(ours, theirs)
    assert torch.equal(method.head.weight.grad, single.weight.grad)


def test_a_head_with_one_class_has_no_loss():
    only = LabelSpace.of("only", ["x"])
    assert MultiHead(Identity(), (only, A))([dense(only, [[[0, IGNORE]]])])["only/pixel"].item() == 0


def test_the_unified_space_of_heads_is_all_their_probabilities_over_their_number():
    method = exact(MultiHead(Identity(), (A, B)))
    # Head a sees (ln 3, 0): (.75, .25); head b sees (ln 2, 0, 0): (.5, .25, .25).
    p = testing.predict(method, image([math.log(3), 0.0, math.log(2)]), method.taxonomy.unified).softmax(1).flatten()
    assert p.tolist() == pytest.approx([0.375, 0.125, 0.25, 0.125, 0.125])


def test_an_unseen_class_is_the_mean_over_the_heads_that_know_it():
    method = exact(MultiHead(Identity(), (A, B)))
    unseen = LabelSpace.of("unseen", ["person", "rider", "cow"])
    relation = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    p = testing.predict(method, image([math.log(3), 0.0, math.log(2)]), unseen, relation).exp().flatten()
    # person: (.75 + .5) / 2 by both heads; rider: .25 by head b alone; nobody knows cows.
    assert p.tolist() == pytest.approx([0.625, 0.25, 0])


# Union by name.


def test_the_union_has_a_node_for_every_name_and_all_of_them_compete():
    method = exact(Union(Identity(), (A, LabelSpace.of("b", ["Persons", "rider"]))))
    assert method.taxonomy.unified.names == ("person", "car", "rider")
    # The label is person; rider, a class of b alone, is pushed down too.
    loss, gradient = loss_and_gradient(method, A, [1.0, 0.0, 2.0], 0)
    assert loss == pytest.approx(1.40761, abs=5e-6)
    assert gradient == pytest.approx([-0.75527, 0.09003, 0.66524], abs=5e-6)


def test_exact_names_stay_apart_unless_they_are_equal():
    spaces = (A, LabelSpace.of("b", ["Persons", "car"]))
    assert len(Union(Identity(), spaces, exact=True).taxonomy.unified) == 3
    assert len(Union(Identity(), spaces).taxonomy.unified) == 2


def test_the_union_is_not_multi_head_even_when_no_name_is_shared():
    spaces = (A, LabelSpace.of("c", ["road"]))
    union, heads = exact(Union(Identity(), spaces)), exact(MultiHead(Identity(), spaces))
    values = [0.0, 0.0, 0.0]
    assert loss_and_gradient(union, A, values, 0)[0] == pytest.approx(math.log(3))
    assert loss_and_gradient(heads, A, values, 0)[0] == pytest.approx(math.log(2))


def test_two_datasets_of_the_same_names_train_as_if_they_were_pooled():
    twin = LabelSpace.of("twin", A.names)
    method = Union(Identity(), (A, twin))
    one, two = dense(A, [[[0, 1], [1, 1]]]), dense(twin, [[[1, 0], [0, 0]]])
    pooled = losses.cross_entropy(
        method.head(torch.cat([one.image, two.image])), torch.cat([one.annotation.labels, two.annotation.labels])
    ).mean()
    assert sum(method([one, two]).values()).item() / 2 == pytest.approx(pooled.item(), rel=1e-6)


# Taxonomies by hand, and NLL+.


def test_nll_plus_has_the_value_and_gradient_computed_by_hand():
    loss, gradient = loss_and_gradient(*fixture(COARSE), [1.0, 2.0, 0.0], 0)
    assert loss == pytest.approx(0.09434, abs=5e-6)
    assert gradient == pytest.approx([-0.02421, -0.06582, 0.09003], abs=5e-6)


def test_nodes_of_no_class_of_the_dataset_compete_unless_only_its_own_may():
    assert loss_and_gradient(*fixture(PART), [1.0, 2.0, 0.0], 0)[0] == pytest.approx(1.40761, abs=5e-6)
    loss, gradient = loss_and_gradient(*fixture(PART, competitors="own"), [1.0, 2.0, 0.0], 0)
    assert loss == pytest.approx(0.31326, abs=5e-6)
    assert gradient == pytest.approx([-0.26894, 0.0, 0.26894], abs=5e-6)


def test_with_one_node_a_class_nll_plus_is_the_cross_entropy_of_the_union():
    values = [0.3, -1.0, 2.0]
    union, manual = (
        exact(m) for m in (Union(Identity(), (A, B)), Manual(Identity(), (A, B), taxonomy=Taxonomy.by_name((A, B))))
    )
    (ours, our_gradient), (theirs, their_gradient) = (loss_and_gradient(m, B, values, 1) for m in (manual, union))
    assert ours == pytest.approx(theirs)
    assert our_gradient == pytest.approx(their_gradient)


def test_a_label_that_may_be_any_node_costs_nothing():
    loss, gradient = loss_and_gradient(*fixture([[1, 1, 1]]), [1.0, 2.0, 0.0], 0)
    assert loss == pytest.approx(0, abs=1e-6)
    assert gradient == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_loss_is_finite_where_the_truth_is_200_below_the_winner():
    assert loss_and_gradient(*fixture(PART), [0.0, 200.0, 0.0], 0)[0] == pytest.approx(200)


def test_adding_a_constant_to_all_logits_changes_nothing():
    first = loss_and_gradient(*fixture(COARSE), [1.0, 2.0, 0.0], 0)[0]
    assert loss_and_gradient(*fixture(COARSE), [8.0, 9.0, 7.0], 0)[0] == pytest.approx(first, rel=1e-5)


def test_at_test_the_probabilities_of_nodes_add_up_to_those_of_classes():
    method, d = fixture(COARSE)
    assert testing.predict(method, image([1.0, 2.0, 0.0]), d).exp().flatten().tolist() == pytest.approx(
        [0.90997, 0.09003], abs=5e-6
    )


def test_probability_of_nodes_outside_a_dataset_is_dropped_and_a_class_without_node_stays_at_zero():
    method, _ = fixture(COARSE)
    unseen, relation = LabelSpace.of("t", ["x", "y"]), torch.tensor([[0, 0, 0], [0, 1, 0]], dtype=torch.bool)
    p = testing.predict(method, image([1.0, 2.0, 0.0]), unseen, relation).exp().flatten()
    assert p.tolist() == pytest.approx([0, 0.66524], abs=5e-6)


def test_training_normalises_after_upsampling():
    """Between two sure pixels a softmax of interpolated scores stays sure; interpolated log-probabilities do not."""
    method, d = fixture(PART)
    embedding = torch.tensor([[10.0, -10.0], [0.0, 0.0], [-10.0, 10.0]]).view(1, 3, 1, 2)
    features = Features((embedding,), embedding)
    batch = Batch(d, ("x",), embedding, Dense(torch.tensor([[[IGNORE, 0, 1, IGNORE]]])))
    # A quarter of the way the scores are (5, 0, -5); the log-probability of class 0 would be -5.
    assert method.batch_loss(features, batch)["pixel"].mean().item() == pytest.approx(
        math.log1p(math.exp(-5) + math.exp(-10)), rel=1e-4
    )


def test_classes_that_share_a_node_count_it_once_in_training():
    """MSeg merges classes of one dataset: rows {u0}, {u0}, {u1}, and u2 of no class."""
    with pytest.warns(UserWarning, match="2 classes of 'd' share 1 nodes"):
        method, d = fixture([[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    for label, expected in enumerate((1.40761, 1.40761, 0.40761)):
        assert loss_and_gradient(method, d, [1.0, 2.0, 0.0], label)[0] == pytest.approx(expected, abs=5e-6)


def test_classes_that_overlap_in_part_of_their_nodes_count_each_node_once_in_training():
    with pytest.warns(UserWarning, match="share 1 nodes"):
        method, d = fixture([[1, 1, 0], [0, 1, 1]])
    # The probabilities are .24473, .66524, .09003.
    assert loss_and_gradient(method, d, [1.0, 2.0, 0.0], 0)[0] == pytest.approx(0.09434, abs=5e-6)
    assert loss_and_gradient(method, d, [1.0, 2.0, 0.0], 1)[0] == pytest.approx(0.28068, abs=5e-6)


def test_plain_cross_entropy_refuses_a_class_of_several_nodes_by_name():
    with pytest.raises(UserError, match="'d0' of 'd'"):
        fixture(COARSE, split="refuse")
    fixture(PART, split="refuse")


def test_pixels_of_classes_with_several_nodes_can_be_left_out():
    method, d = fixture(COARSE, split="ignore")
    z = image([1.0, 2.0, 0.0]).expand(1, 3, 1, 2)
    assert method([dense(d, [[[0, 1]]], z)])["d/pixel"].item() == pytest.approx(2.40761, abs=5e-6)
    assert method([dense(d, [[[0, 0]]], z)])["d/pixel"].item() == 0


def test_a_taxonomy_can_be_a_file(tmp_path):
    method, _ = fixture(COARSE)
    method.taxonomy.write(tmp_path / "t.tsv")
    read = Manual(Identity(), method.spaces, taxonomy=str(tmp_path / "t.tsv"))
    assert (read.taxonomy.relations["d"] == method.taxonomy.relations["d"]).all()


def test_a_wrong_name_in_the_table_is_an_error_with_file_row_and_column(tmp_path):
    (tmp_path / "t.tsv").write_text("unified\ta\tb\nperson\tperson\tperson\nbike\tbicycle\t\n")
    with pytest.raises(UserError, match=r"t\.tsv, row 3, column 'a': 'bicycle' is not a class"):
        Manual(Identity(), (A, B), taxonomy=tmp_path / "t.tsv")


def test_a_taxonomy_of_other_datasets_is_refused():
    with pytest.raises(UserError, match="relates the label spaces of b, a"):
        Manual(Identity(), (A, B), taxonomy=Taxonomy.by_name((B, A)))


@pytest.mark.parametrize("options", [{"ohem": 1.5}, {"competitors": "some"}, {"split": "maybe"}])
def test_options_outside_their_range_are_refused_by_name(options):
    with pytest.raises(UserError, match=f"method.{next(iter(options))} is"):
        Manual(Identity(), (A,), taxonomy=Taxonomy.disjoint((A,)), **options)


# What all share.


def test_hard_pixels_alone_are_learned_from_on_demand():
    space = LabelSpace.of("e", ["u0", "u1", "u2"])
    method = exact(Union(Identity(), (space,), ohem=0.7))
    z = torch.tensor([[0.0, 5.0], [0.0, 0.0], [0.0, 0.0]]).view(1, 3, 1, 2)
    assert method([dense(space, [[[0, 0]]], z)])["e/pixel"].item() == pytest.approx(math.log(3))


def test_two_batches_of_one_dataset_add_up():
    method = MultiHead(Identity(), (A, B))
    one, two = dense(A, [[[0, 1]]]), dense(A, [[[1, 1]]])._replace(weight=0.5)
    assert method([one, two])["a/pixel"].item() == pytest.approx(
        (method([one])["a/pixel"] + method([two])["a/pixel"]).item()
    )


@pytest.mark.parametrize("method", [MultiHead, Union, Manual])
def test_a_baseline_learns_from_every_kind_of_annotation(method):
    assert method.accepts == (Dense, Segments, Boxes, Tags)


def test_segments_are_learned_from_as_the_masks_that_they_are():
    method = MultiHead(Identity(), (A, B))
    masks = dense(B, [[[2, 0, IGNORE]]])
    segments = Segments(torch.tensor([[[1, 0, IGNORE]]]), torch.tensor([[0, 2]]))
    assert method([masks._replace(annotation=segments)]) == method([masks])


def test_relations_are_put_on_the_device_once():
    method = Union(Identity(), (A, B))
    assert method.relation_index(A) is method.relation_index(A)
    assert method._group_targets(A) is method._group_targets(A)


def test_a_relation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"relation of 'a' is \(2, 9\), expected \(2, 4\)"):
        testing.predict(Union(Identity(), (A, B)), torch.zeros(1, 3, 1, 1), A, torch.ones(2, 9, dtype=torch.bool))


@pytest.mark.parametrize("name", METHODS)
def test_the_options_of_a_method_are_typed_keywords_that_a_recipe_can_check(name):
    options = keywords(find_method(name), "Options")
    assert options.model_fields
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        options.model_validate({"no_such_option": 1})


# Boxes and tags.


def weak(method, space, annotation, *pixel_encoder):
    """The loss of one image of one row, and its gradient: the channels' for every pixel."""
    z = torch.tensor(pixel_encoder).T[None, :, None].clone().requires_grad_()
    (loss,) = method([Batch(space, ("x",), z, annotation)]).values()
    loss.backward()
    return loss.item(), z.grad[0, :, 0].T.tolist()


def over(*classes):
    """Boxes of these classes over the first of two pixels."""
    corners = torch.tensor([[0.0, 0, 1, 1]]).expand(1, len(classes), 4)
    return Boxes(corners, torch.tensor([classes]), torch.tensor([[1, 2]]))


def test_a_box_says_what_a_pixel_may_be_and_nothing_of_what_it_does_not_cover():
    method, d = fixture(COARSE)
    value, gradient = weak(method, d, over(0), (1.0, 2.0, 0.0), (5.0, 0.0, 0.0))
    assert value == pytest.approx(0.09434, abs=1e-5)
    assert gradient[0] == pytest.approx([-0.02421, -0.06582, 0.09003], abs=1e-5)
    assert gradient[1] == [0, 0, 0]
    # Both classes together are all nodes: the boxes say nothing.
    assert weak(method, d, over(0, 1), (1.0, 2.0, 0.0), (0.0, 0.0, 0.0))[0] == pytest.approx(0, abs=1e-6)
    # With a node of no class, being one of the two is something to learn.
    method, d = fixture(PART)
    assert weak(method, d, over(0), (1.0, 2.0, 0.0), (0.0, 0.0, 0.0))[0] == pytest.approx(1.40761, abs=1e-5)
    expected = -math.log((math.e + 1) / (math.e + math.e**2 + 1))
    assert weak(method, d, over(0, 1), (1.0, 2.0, 0.0), (0.0, 0.0, 0.0))[0] == pytest.approx(expected, abs=1e-5)


def test_tags_say_what_every_pixel_of_a_head_may_be():
    method = exact(MultiHead(Identity(), (B,)))
    value, gradient = weak(method, B, Tags(torch.tensor([[0, 2]])), (1.0, 2.0, 0.0), (0.0, 0.0, 0.0))
    total = math.e + math.e**2 + 1
    expected = -(math.log((math.e + 1) / total) + math.log(2 / 3)) / 2
    assert value == pytest.approx(expected, abs=1e-5)
    assert gradient[1] == pytest.approx([(1 / 3 - 1 / 2) / 2, 1 / 6, (1 / 3 - 1 / 2) / 2], abs=1e-5)


def test_dropped_split_classes_are_dropped_from_boxes_too():
    method, d = fixture(COARSE, split="ignore")
    assert weak(method, d, over(0), (1.0, 2.0, 0.0), (0.0, 0.0, 0.0)) == (0, [[0] * 3] * 2)


def test_soft_labels_have_the_height_and_width_of_the_scores():
    assert _size(torch.zeros(2, 3, 4, 5)) == (4, 5)
