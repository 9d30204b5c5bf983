"""Confusion, label maps at native size, statistics, the three protocols, the cross table, and the written scores."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_jaccard_index

from manyseg.data import load
from manyseg.data.files import DataError
from manyseg.data.folder import Folder
from manyseg.errors import UserError
from manyseg.evaluation.confusion import Confusion, count_pairs
from manyseg.evaluation.cross_table import cross_table, map_counts
from manyseg.evaluation.evaluate import collect, evaluate, score_mapped, score_related, score_seen, statistics_key
from manyseg.evaluation.scores import DatasetScores, Scores
from manyseg.inference.label_maps import TestOptions, argmax_map, class_sums, predict_map, resize, score_map
from manyseg.labels import IGNORE, LabelClass, LabelSpace, Taxonomy
from manyseg.methods import METHODS, Method
from manyseg.models import PixelEncoder
from manyseg.relate.statistics import Statistics
from manyseg.relate.unseen import relate_by_names, relate_by_text, unmapped

# A method whose answers are written in the images: the red channel of a pixel, over 10, is its unified node.


class Eye(nn.Module):
    """Sees the node that every pixel names; counts how often it looks."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.looks = 0

    def forward(self, image):
        self.looks += 1
        return (image[:, 0].float() / 10).round().long()


class Echo(Method):
    """Says what `Eye` sees, at the resolution of the image."""

    def __init__(self, taxonomy):
        super().__init__(Eye(), taxonomy.spaces)
        self._taxonomy = taxonomy
        self.norm = nn.BatchNorm2d(1)
        self.modes = set()

    @property
    def taxonomy(self):
        return self._taxonomy

    def batch_loss(self, features, batch):
        raise NotImplementedError

    def predict(self, image, space, relation=None):
        self.modes.add((self.training, torch.is_grad_enabled()))
        nodes = F.one_hot(self.pixel_encoder(image), len(self.taxonomy.unified)).movedim(-1, 1).float()
        if space == self.taxonomy.unified:
            return nodes
        if relation is None:
            relation = torch.from_numpy(self.taxonomy.relations[space.name])
        scores = torch.einsum("du,buhw->bdhw", relation.float(), nodes)
        return scores.masked_fill(~relation.any(1)[:, None, None], -math.inf)


STREET = LabelSpace.of("street", ["road", "car", "sky"])
PARK = LabelSpace.of("park", ["path", "tree"])
# Nodes: 0 road, 1 car, 2 sky, 3 path, 4 tree.
TAXONOMY = Taxonomy.disjoint([STREET, PARK])


def write(folder, name, classes, pairs, split="val"):
    """Write a dataset of (nodes that the method will see, true labels) and open it."""
    root = folder / name
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for i, (nodes, labels) in enumerate(pairs):
        nodes, labels = np.array(nodes), np.array(labels)
        image = np.stack([nodes * 10] * 3, -1).astype(np.uint8)
        Image.fromarray(image).save(root / f"images/{split}-{i}.png")
        Image.fromarray(np.where(labels == IGNORE, 255, labels).astype(np.uint8)).save(root / f"masks/{split}-{i}.png")
    (root / f"{split}.txt").write_text("\n".join(f"{split}-{i}" for i in range(len(pairs))))
    card = folder / f"{name}.toml"
    card.write_text(
        f'name = "{name}"\nimage = "images/{{id}}.png"\nmask = "masks/{{id}}.png"\nencoding = "index"\nignore = [255]\n'
        'splits = { train = "train.txt", val = "val.txt" }\n[classes]\n'
        + "".join(f'"{c}" = {i}\n' for i, c in enumerate(classes))
    )
    return load(card, root, split)


# Confusion.


def maps(classes):
    values = st.integers(IGNORE, classes - 1)
    return st.integers(1, 60).flatmap(lambda n: st.tuples(*[st.lists(values, min_size=n, max_size=n)] * 2))


@settings(deadline=None, max_examples=50)
@given(maps(5))
def test_counts_and_iou_are_those_of_scikit_learn_and_torchmetrics(pair):
    truth, predicted = (torch.tensor(m) for m in pair)
    space = LabelSpace.of("s", "abcde")
    confusion = Confusion.of(space, truth, predicted)
    # "No class" is one more class to the oracle, which only predictions have.
    known = truth != IGNORE
    extended = torch.where(predicted == IGNORE, 5, predicted)
    if not known.any():
        assert confusion.counts.sum() == 0
        assert math.isnan(confusion.miou)
        assert math.isnan(confusion.accuracy)
        return
    expected = confusion_matrix(truth[known], extended[known], labels=range(6))[:5]
    np.testing.assert_array_equal(confusion.counts, expected)
    oracle = multiclass_jaccard_index(extended[known], truth[known], 6, average=None).numpy()[:5]
    present = ~np.isnan(confusion.iou)
    np.testing.assert_allclose(confusion.iou[present], oracle[present], atol=1e-6)
    occurs = set(truth[known].tolist()) | set(extended[known].tolist())
    assert [n for i, n in enumerate(space.names) if i not in occurs] == confusion.absent
    assert confusion.accuracy == pytest.approx((truth == predicted)[known].float().mean().item())


def test_an_absent_class_is_left_out_and_an_unpredictable_one_is_zero_and_stays():
    space = LabelSpace.of("s", ["road", "car", "sky", "tree"])
    # road: 2 of 3 found, nothing else called so; car: never predicted; sky: a pixel of road and one of car called so.
    confusion = Confusion.of(space, torch.tensor([0, 0, 0, 1, 1, -1]), torch.tensor([0, 0, 2, 2, -1, 3]))
    np.testing.assert_allclose(confusion.iou, [2 / 3, 0, 0, np.nan])
    assert confusion.miou == pytest.approx(2 / 9)
    assert confusion.accuracy == pytest.approx(2 / 5)
    assert confusion.pixels.tolist() == [3, 2, 0, 0]
    assert confusion.absent == ["tree"]
    assert confusion.matrix.tolist() == [[2, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@settings(deadline=None, max_examples=50)
@given(maps(4), maps(4))
def test_confusions_of_two_parts_add_up_to_that_of_the_whole(first, second):
    space = LabelSpace.of("s", "abcd")
    parts = [Confusion.of(space, *(torch.tensor(m) for m in pair)) for pair in (first, second)]
    whole = Confusion.of(space, *(torch.tensor(a + b) for a, b in zip(first, second, strict=True)))
    np.testing.assert_array_equal((parts[0] + parts[1]).counts, whole.counts)


def test_confusions_of_two_spaces_do_not_add_up():
    a, b = (Confusion.of(LabelSpace.of(n, "xy"), torch.tensor([0]), torch.tensor([0])) for n in "ab")
    with pytest.raises(ValueError, match="'a' and 'b'"):
        _ = a + b


def test_counts_between_two_spaces_have_a_row_a_true_class_and_a_last_column_for_no_class():
    counts = count_pairs(torch.tensor([0, 1, 1, -1]), torch.tensor([2, -1, 0, 1]), 2, 3)
    assert counts.tolist() == [[0, 0, 1, 0], [1, 0, 0, 1]]


def test_more_classes_than_a_byte_can_count():
    space = LabelSpace.of("s", [str(i) for i in range(300)])
    truth = torch.arange(300)
    assert Confusion.of(space, truth, truth).miou == 1


# Label maps at native size.


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(*[st.integers(1, 7)] * 2),
    st.tuples(*[st.integers(1, 40)] * 2),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(0, 1000),
)
def test_the_label_map_is_the_argmax_of_upsampled_scores(low, size, batch, classes, seed):
    scores = torch.randn(batch, classes, *low, generator=torch.Generator().manual_seed(seed))
    upsampled = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    found = argmax_map(scores, size)
    best = upsampled.gather(1, found[:, None])[:, 0]
    torch.testing.assert_close(best, upsampled.max(1).values, atol=1e-5, rtol=0)


def test_the_label_map_does_not_depend_on_the_size_of_its_slices(monkeypatch):
    scores = torch.randn(2, 5, 9, 7)
    whole = argmax_map(scores, (40, 31))
    monkeypatch.setattr("manyseg.inference.label_maps.BAND_PIXELS", 130)
    monkeypatch.setattr("manyseg.inference.label_maps.GATHERED", {"cpu": 35, "cuda": 35})
    assert torch.equal(argmax_map(scores, (40, 31)), whole)


def test_an_excluded_class_is_never_predicted_and_poisons_no_neighbour():
    scores = torch.randn(1, 4, 3, 3)
    scores[:, 2] = -math.inf
    kept = argmax_map(scores[:, [0, 1, 3]], (12, 12))
    assert torch.equal(argmax_map(scores, (12, 12)), torch.tensor([0, 1, 3])[kept])


def test_a_pixel_without_any_class_is_ignore_and_leaves_its_neighbours_alone():
    scores = torch.zeros(1, 2, 1, 2)
    scores[0, 1, 0, 0] = 1
    scores[..., 1] = -math.inf
    assert argmax_map(scores, (1, 8)).tolist() == [[[1, 1, 1, 1, -1, -1, -1, -1]]]
    assert argmax_map(torch.full((1, 3, 2, 2), -math.inf), (4, 4)).unique().tolist() == [IGNORE]


def test_sums_of_a_class_are_those_of_upsampled_scores():
    scores, labels = torch.randn(2, 3, 4, 5), torch.randint(-1, 4, (2, 13, 11))
    upsampled = F.interpolate(scores, (13, 11), mode="bilinear", align_corners=False).movedim(1, -1)
    expected = torch.stack([upsampled[labels == c].sum(0) for c in range(4)]).double()
    torch.testing.assert_close(class_sums(scores, labels, 4), expected, atol=1e-4, rtol=0)


class Strided:
    """A network that scores the mean of each 4x4 block; remembers the sizes that it was shown."""

    def __init__(self):
        self.sizes = []

    def __call__(self, image):
        self.sizes.append(tuple(image.shape[-2:]))
        level = F.avg_pool2d(image[:, :1].float(), 4, ceil_mode=True) / 50
        return torch.cat([level, 3 - level], 1)


@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.5])
def test_windows_cover_the_image_and_agree_with_the_whole_where_the_network_is_local(overlap):
    image = torch.randint(0, 256, (2, 3, 96, 160), dtype=torch.uint8)
    score = Strided()
    found = score_map(score, image, TestOptions(window=(64, 32), overlap=overlap))
    torch.testing.assert_close(found, Strided()(image).softmax(1))
    assert set(score.sizes) == {(64, 32)}
    assert len(score.sizes) >= 2 * 5


def test_an_image_smaller_than_the_window_is_one_window_and_odd_sizes_are_stretched_onto_the_grid():
    score = Strided()
    image = torch.randint(0, 256, (1, 3, 45, 70), dtype=torch.uint8)
    assert predict_map(score, image, TestOptions(window=(128, 64))).shape == (1, 45, 70)
    assert set(score.sizes) == {(64, 64)}


def test_flipping_averages_the_mirrored_answer():
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)

    def left_is_first(view):
        ramp = torch.linspace(2, -2, view.shape[-1]).expand(1, 1, *view.shape[-2:])
        return torch.cat([ramp, 0 * ramp], 1)

    found = score_map(left_is_first, image, TestOptions(flip=True))
    ramp = left_is_first(image).softmax(1)
    torch.testing.assert_close(found, (ramp + ramp.flip(-1)) / 2)
    torch.testing.assert_close(found, found.flip(-1))


def test_scales_are_averaged_on_the_finest_grid():
    image = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    score = Strided()
    found = score_map(score, image, TestOptions(scales=(0.5, 1.0, 2.0)))
    assert sorted(score.sizes) == [(16, 32), (32, 64), (64, 128)]
    assert found.shape == (1, 2, 16, 32)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 16, 32))
    fine = Strided()(resize(image, (64, 128))).softmax(1)
    coarse = [Strided()(resize(image, size)).softmax(1) for size in ((32, 64), (16, 32))]
    coarse = [F.interpolate(c, (16, 32), mode="bilinear", align_corners=False) for c in coarse]
    torch.testing.assert_close(found, (fine + sum(coarse)) / 3)


def test_averages_exclude_what_the_network_excludes():
    def half(view):
        scores = torch.zeros(1, 2, *view.shape[-2:])
        scores[:, 0] = -math.inf
        scores[..., : view.shape[-1] // 2] = -math.inf
        return scores

    image = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    found = predict_map(half, image, TestOptions(window=(32, 64)))
    assert found[..., :32].unique().tolist() == [IGNORE]
    assert found[..., 32:].unique().tolist() == [1]


def test_a_large_image_is_shown_smaller_and_answered_at_native_size():
    score = Strided()
    image = torch.zeros(1, 3, 300, 400, dtype=torch.uint8)
    assert predict_map(score, image, TestOptions(max_side=100)).shape == (1, 300, 400)
    assert score.sizes == [(75, 100)]


@pytest.mark.parametrize(
    "options",
    [
        {"window": (48, 64)},
        {"overlap": 1.0},
        {"scales": ()},
        {"max_side": 0},
        {"scales": (0.0,)},
        {"windows": (32, 32)},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError):
        TestOptions(**options)


def test_resizing_to_the_same_size_is_the_same_tensor():
    image = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert resize(image, (4, 5)) is image


# Relations.


def test_names_relate_nodes_by_their_own_name_then_by_their_members():
    fine = LabelSpace("fine", (LabelClass("car"), LabelClass("person", synonyms=("pedestrian",)), LabelClass("kerb")))
    coarse = LabelSpace.of("coarse", ["vehicle", "person"])
    taxonomy = Taxonomy.from_groups(
        [fine, coarse],
        [[("fine", "car"), ("coarse", "vehicle")], [("fine", "person"), ("coarse", "person")], [("fine", "kerb")]],
        ["vehicle", "human", "kerb"],
    )
    target = LabelSpace.of("target", ["Cars", "Vehicles", "Pedestrians", "lake"])
    relation = relate_by_names(target, taxonomy)
    # Node 0 is called vehicle, so its member `car` is not asked; node 1 is found by its member's synonym.
    np.testing.assert_array_equal(relation, [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert unmapped(target, relation) == ("Cars", "lake")


WORDS = {
    "road": (1, 0, 0),
    "street": (0.98, 0.2, 0),
    "car": (0, 1, 0),
    "truck": (0, 0.8, 0.6),
    "vehicle": (0, 0.95, 0.3),
}
WORDS |= {"sky": (0, 0, -1), "lake": (-1, 0, 0), "lorry": (0, 0.75, 0.65)}


def encode(texts):
    vectors = np.array([WORDS[t] for t in texts], np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_text_relates_each_node_to_the_nearest_class_above_a_threshold_set_by_the_unified_names():
    taxonomy = Taxonomy.disjoint([LabelSpace.of("a", ["road", "car", "truck", "sky"])])
    # Nearest false matches: road .0 (car), car .8, truck .8, sky 0: the threshold is their median, .4.
    relation = relate_by_text(LabelSpace.of("t", ["street", "vehicle", "lake"]), taxonomy, encode)
    np.testing.assert_array_equal(relation, [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])


def test_a_coarse_class_of_several_nodes_does_not_raise_the_bar_of_a_text_match():
    spaces = [LabelSpace.of("a", ["road", "car", "truck", "sky"]), LabelSpace.of("b", ["vehicle"])]
    members = [[("a", "road")], [("a", "car"), ("b", "vehicle")], [("a", "truck"), ("b", "vehicle")], [("a", "sky")]]
    taxonomy = Taxonomy.from_groups(spaces, members, ["road", "car", "truck", "sky"])
    relation = relate_by_text(LabelSpace.of("t", ["street", "vehicle", "lake"]), taxonomy, encode)
    np.testing.assert_array_equal(relation, [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])


def test_a_class_does_not_take_a_node_that_is_nearer_to_another():
    taxonomy = Taxonomy.disjoint([LabelSpace.of("a", ["car", "truck", "road"])])
    # `truck` is nearer to lorry than to vehicle; nothing is left for a second name of it.
    relation = relate_by_text(LabelSpace.of("t", ["vehicle", "street", "lorry", "lake"]), taxonomy, encode)
    np.testing.assert_array_equal(relation, [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]])


def test_a_map_of_counts_sends_each_node_to_its_class():
    relation = np.array([[1, 1, 0, 0], [0, 0, 1, 0]], bool)
    counts = map_counts(np.array([[5, 1, 2, 3], [0, 4, 6, 0]]), relation)
    assert counts.tolist() == [[6, 2, 3], [4, 6, 0]]
    with pytest.raises(ValueError, match="several classes"):
        map_counts(np.ones((2, 4), int), np.ones((2, 4), bool))


# Protocols.


def test_a_seen_dataset_is_scored_in_its_own_labels(tmp_path):
    pairs = [([[0, 1], [2, 2]], [[0, 1], [2, 1]]), ([[0, 0, 1]], [[0, -1, 0]])]
    scores = evaluate(Echo(TAXONOMY), [write(tmp_path, "street", STREET.names, pairs)])
    street = scores.datasets["street"]
    assert street.protocol == "seen"
    assert street.confusion.counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
    assert street.miou == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert scores.mean_miou_seen == street.miou
    assert scores.unified_nodes == 5


def test_batches_of_equal_images_score_as_each_image_alone(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 3, s), rng.integers(-1, 3, s)) for s in [(4, 6), (5, 3), (4, 6), (4, 6), (5, 3)]]
    folder, method = write(tmp_path, "street", STREET.names, pairs), Echo(TAXONOMY)
    together = score_seen(method, folder).confusion.counts
    assert method.pixel_encoder.looks == 2
    monkeypatch.setattr("manyseg.evaluation.dataset_pass.BATCH_PIXELS", {"cpu": 1, "cuda": 1})
    apart = score_seen(method, folder).confusion.counts
    assert method.pixel_encoder.looks == 2 + 5
    np.testing.assert_array_equal(together, apart)
    expected = sum(confusion_matrix(t[t >= 0], n[t >= 0], labels=range(3)) for n, t in pairs)
    np.testing.assert_array_equal(together[:, :-1], expected)


def test_the_method_answers_in_eval_mode_without_gradients_and_is_left_as_it_was(tmp_path):
    folder, method = write(tmp_path, "street", STREET.names, [([[0]], [[0]])]), Echo(TAXONOMY)
    method.norm.eval()
    forward = method.pixel_encoder.forward
    score_seen(method, folder)
    assert method.modes == {(False, False)}
    assert method.training
    assert not method.norm.training
    assert torch.is_grad_enabled()
    assert method.pixel_encoder.forward == forward


def test_an_error_on_the_way_leaves_the_method_as_it_was(tmp_path):
    folder, method = write(tmp_path, "street", STREET.names, [([[0]], [[0]])]), Echo(TAXONOMY)
    (tmp_path / "street/masks/val-0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"val-0\.png"):
        score_seen(method, folder)
    assert method.training
    assert torch.is_grad_enabled()


def test_an_unseen_dataset_is_related_by_names_and_a_class_without_a_node_scores_zero(tmp_path):
    # Classes: trees (node 4), sky (node 2), lake (none).
    pairs = [([[4, 4, 2, 0]], [[0, 0, 1, 2]])]
    folder = write(tmp_path, "hills", ["trees", "sky", "lake"], pairs)
    hills = evaluate(Echo(TAXONOMY), [folder]).datasets["hills"]
    assert hills.protocol == "names"
    assert hills.unmapped == ("lake",)
    # Node 0 is no class of this dataset: the argmax is among trees and sky, first of equals.
    assert hills.confusion.counts.tolist() == [[2, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert hills.miou == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_a_dataset_without_any_related_class_is_predicted_nothing(tmp_path):
    folder = write(tmp_path, "sea", ["wave", "ship"], [([[0, 1]], [[0, 0]])])
    sea = evaluate(Echo(TAXONOMY), [folder]).datasets["sea"]
    assert sea.confusion.counts.tolist() == [[0, 0, 2], [0, 0, 0]]
    assert sea.miou == 0
    assert sea.unmapped == ("wave", "ship")


@pytest.mark.parametrize("relate", ["names", "text"])
def test_relations_by_names_or_text_read_no_mask(tmp_path, monkeypatch, relate):
    folder = write(tmp_path, "hills", ["road", "car"], [([[0]], [[0]])])
    monkeypatch.setattr(Folder, "read", lambda *_: pytest.fail("read a sample of the target"))
    monkeypatch.setattr(Folder, "read_annotation", lambda *_: pytest.fail("read a mask of the target"))
    related = []
    monkeypatch.setattr("manyseg.evaluation.evaluate.score_related", lambda *args: related.append(args[2]))
    taxonomy = Taxonomy.disjoint([LabelSpace.of("a", ["road", "car", "sky"])])
    evaluate(Echo(taxonomy), [folder], relate=relate, encode=encode)
    np.testing.assert_array_equal(related[0], [[1, 0, 0], [0, 1, 0]])


def test_a_map_fitted_on_labels_gives_every_class_a_node_and_scores_other_images(tmp_path):
    # On the training image the nodes 0, 1, 2 are A and 3, 4 are B; the score image has one A called 3.
    write(tmp_path, "x", ["A", "B"], [([[0, 1, 2, 3, 4, 3]], [[0, 0, 0, 1, 1, 1]])], "train")
    folder = write(tmp_path, "x", ["A", "B"], [([[0, 1, 3, 4]], [[0, 0, 0, 1]])], "val")
    fit = load(tmp_path / "x.toml", tmp_path / "x", "train")
    scores = evaluate(Echo(TAXONOMY), [folder], relate="labels", fit={"x": fit})
    x = scores.datasets["x"]
    assert x.protocol == "labels"
    assert x.confusion.counts.tolist() == [[2, 1, 0], [0, 1, 0]]
    assert x.unmapped == ()
    assert scores.mean_miou_seen is None


def test_an_image_that_fits_a_map_may_not_score_it(tmp_path):
    folder = write(tmp_path, "x", ["A", "B"], [([[0, 1]], [[0, 1]])] * 3)
    (tmp_path / "x/train.txt").write_text("val-0\nval-2\n")
    fit = load(tmp_path / "x.toml", tmp_path / "x", "train")
    with pytest.raises(UserError, match=r"2 of 3 images of 'x' .* 'train'"):
        score_mapped(Echo(TAXONOMY), folder, fit)


def test_the_same_id_in_two_splits_is_not_the_same_image(tmp_path):
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (tmp_path / part / split).mkdir(parents=True)
            Image.fromarray(np.zeros((2, 2, 3) if part == "images" else (2, 2), np.uint8)).save(
                tmp_path / part / split / "0.png"
            )
    (tmp_path / "x.toml").write_text(
        'name = "x"\nimage = "images/{split}/{id}.png"\nmask = "masks/{split}/{id}.png"\nencoding = "index"\n'
        'splits = { train = "train", val = "val" }\n[classes]\nA = 0\n'
    )
    fit, folder = (load(tmp_path / "x.toml", tmp_path, s) for s in ("train", "val"))
    assert score_mapped(Echo(TAXONOMY), folder, fit).miou == 1


@pytest.mark.parametrize(
    ("relate", "message"),
    [("labels", "no labelled images"), ("text", "needs a text encoder"), ("seen", "no training dataset")],
)
def test_what_a_protocol_needs_and_does_not_get_is_an_error(tmp_path, relate, message):
    folder = write(tmp_path, "hills", ["road"], [([[0]], [[0]])])
    with pytest.raises(UserError, match=message):
        evaluate(Echo(TAXONOMY), [folder], relate=relate)


def test_a_dataset_is_evaluated_once(tmp_path):
    folder = write(tmp_path, "street", STREET.names, [([[0]], [[0]])])
    with pytest.raises(UserError, match="'street' is to be evaluated twice"):
        evaluate(Echo(TAXONOMY), [folder, folder])


def test_a_card_whose_classes_are_not_the_models_is_an_error(tmp_path):
    folder = write(tmp_path, "street", ["road", "sky"], [([[0]], [[0]])])
    with pytest.raises(UserError, match="'street' has 2 classes that are not the 3"):
        evaluate(Echo(TAXONOMY), [folder])


def test_a_dataset_without_labels_of_pixels_is_an_error(tmp_path):
    write(tmp_path, "street", STREET.names, [([[0]], [[0]])])
    folder = load(tmp_path / "street.toml", tmp_path / "street", "val", annotation="tags")
    with pytest.raises(UserError, match="annotated with tags"):
        score_seen(Echo(TAXONOMY), folder)


def test_a_relation_may_be_given_as_it_is(tmp_path):
    folder = write(tmp_path, "x", ["A", "B"], [([[0, 3, 4]], [[0, 1, 1]])])
    relation = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]], bool)
    assert score_related(Echo(TAXONOMY), folder, relation, "names").miou == 1


# Statistics.


def counted(tmp_path, method, splits=("val",)):
    folders = [load(tmp_path / f"{n}.toml", tmp_path / n, s) for n in ("street", "park") for s in splits]
    return collect(method, folders, activation=lambda image: method.predict(image, TAXONOMY.unified) * 2)


@pytest.fixture
def two(tmp_path):
    """Two datasets with two splits."""
    rng = np.random.default_rng(1)
    for name, space in (("street", STREET), ("park", PARK)):
        for split in ("train", "val"):
            draw = [(rng.integers(0, 5, (3, 4)), rng.integers(-1, len(space), (3, 4))) for _ in range(4)]
            write(tmp_path, name, space.names, draw, split)
    return tmp_path


def test_statistics_count_every_head_on_every_dataset(tmp_path):
    write(tmp_path, "street", STREET.names, [([[0, 1, 2, 3, 4]], [[0, 0, 1, 1, -1]])])
    write(tmp_path, "park", PARK.names, [([[3, 4, 4]], [[0, 1, 0]])])
    method = Echo(TAXONOMY)
    found = counted(tmp_path, method)
    assert set(found.counts) == {(a, b) for a in ("street", "park") for b in ("street", "park", "unified")}
    assert found.counts["street", "unified"].tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
    # A head that knows none of what it sees names its first class.
    assert found.counts["street", "street"].tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert found.counts["park", "park"].tolist() == [[1, 1], [0, 1]]
    # The last pixel of the street has no label; what the heads say there is counted apart.
    assert found.unlabelled.keys() == found.counts.keys()
    assert found.unlabelled["street", "unified"].tolist() == [0, 0, 0, 0, 1]
    assert found.unlabelled["park", "unified"].tolist() == [0, 0, 0, 0, 0]
    assert found.pixels["street"].tolist() == [2, 2, 0]
    assert found.sums["park"].tolist() == [[0, 0, 0, 2, 2], [0, 0, 0, 0, 2]]
    np.testing.assert_allclose(found.mean("park"), [[0, 0, 0, 1, 1], [0, 0, 0, 0, 2]])
    assert np.isnan(found.mean("street")[2]).all()
    # Three heads and the activation share one look at each batch.
    assert method.pixel_encoder.looks == 2


def test_statistics_of_two_halves_merge_to_those_of_the_whole(two):
    method = Echo(TAXONOMY)
    for name in ("street", "park"):
        ids = [(two / name / f"{s}.txt").read_text() for s in ("train", "val")]
        (two / name / "all.txt").write_text("\n".join(ids))
        card = two / f"{name}.toml"
        card.write_text(card.read_text().replace("splits = { ", 'splits = { all = "all.txt", '))
    whole = counted(two, method, ["all"])
    merged = counted(two, method, ["train"]) + counted(two, method, ["val"])
    for part in ("counts", "unlabelled", "pixels", "sums"):
        for key, array in getattr(whole, part).items():
            np.testing.assert_array_equal(getattr(merged, part)[key], array)
    assert sorted(merged.images["park"]) == sorted(whole.images["park"])
    with pytest.raises(UserError, match="4 images of 'street' are in both"):
        _ = counted(two, method, ["val"]) + whole


def test_statistics_survive_the_disk(two):
    found = counted(two, Echo(TAXONOMY))
    found.save(two / "s.npz")
    again = Statistics.load(two / "s.npz")
    assert again.key == found.key
    for part in ("counts", "unlabelled", "pixels", "sums", "images"):
        assert getattr(again, part).keys() == getattr(found, part).keys()
        for key, array in getattr(found, part).items():
            assert getattr(again, part)[key].dtype == array.dtype
            np.testing.assert_array_equal(getattr(again, part)[key], array)
    found.export(two / "c.npz")
    with np.load(two / "c.npz") as arrays:
        assert set(arrays.files) == {"street__street", "street__park", "park__street", "park__park"}
        np.testing.assert_array_equal(arrays["street__park"], found.counts["street", "park"])
    assert not list(two.glob(".*"))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", "npz"], ids=str)
def test_a_file_of_other_content_is_an_error(tmp_path, content):
    path = tmp_path / "s.npz"
    if content == "npz":
        np.savez(path, a=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"s\.npz"):
        Statistics.load(path)


def test_the_key_knows_weights_taxonomy_heads_and_options():
    method = Echo(TAXONOMY)
    key = statistics_key(method, TAXONOMY.spaces)
    assert key == statistics_key(Echo(TAXONOMY), TAXONOMY.spaces)
    other = Echo(Taxonomy.disjoint([STREET]))
    keys = {key, statistics_key(method, [STREET]), statistics_key(other, TAXONOMY.spaces)}
    keys.add(statistics_key(method, TAXONOMY.spaces, TestOptions(max_side=64)))
    method.pixel_encoder.weight.data += 1
    keys.add(statistics_key(method, TAXONOMY.spaces))
    assert len(keys) == 5


def test_statistics_of_two_models_do_not_merge(two):
    first, second = Echo(TAXONOMY), Echo(TAXONOMY)
    second.pixel_encoder.weight.data += 1
    with pytest.raises(UserError, match="different models"):
        _ = counted(two, first, ["train"]) + counted(two, second, ["val"])


def test_the_cross_table_fits_each_head_on_one_split_and_scores_another(tmp_path):
    # The head of `park` says path (node 3) on street's road and tree (node 4) elsewhere, so it can tell two classes.
    write(tmp_path, "street", STREET.names, [([[3, 3, 4, 4, 4]], [[0, 0, 1, 1, 1]])], "train")
    write(tmp_path, "street", STREET.names, [([[3, 4, 4]], [[0, 1, 0]])], "val")
    method = Echo(TAXONOMY)
    fit, score = (collect(method, [load(tmp_path / "street.toml", tmp_path / "street", s)]) for s in ("train", "val"))
    table = cross_table({"street": STREET}, fit, score)
    assert set(table.confusions) == {("street", "street"), ("street", "park"), ("street", "unified")}
    park = table.confusions["street", "park"]
    assert park.counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert park.miou == pytest.approx(0.5)
    assert "| park | 50.0 | 50.0 |" in table.to_markdown()
    with pytest.raises(UserError, match="1 images of 'street' would both"):
        cross_table({"street": STREET}, fit, fit)


# A real method, and the written scores.


@pytest.mark.parametrize("name", ["multihead", "union"])
def test_a_real_method_is_evaluated_on_the_generated_world(world, name):
    spaces = [load(world.cards[n], world.folder / n, "val").space for n in ("fine", "coarse", "partial")]
    torch.manual_seed(0)
    method = METHODS[name](PixelEncoder.build(backbone="tiny", pretrained=False, channels=16), spaces)
    folders = [load(world.cards[n], world.folder / n, "val") for n in world.cards]
    for options in (None, TestOptions(window=(32, 32), flip=True, scales=(0.5, 1.0))):
        scores = evaluate(method, folders, options=options)
        assert [d.protocol for d in scores.datasets.values()] == ["seen", "seen", "seen", "names"]
        for folder, d in zip(folders, scores.datasets.values(), strict=True):
            labels = [folder.read_annotation(i).labels for i in range(len(folder))]
            assert d.confusion.counts.sum() == sum(int((x != IGNORE).sum()) for x in labels)
    with torch.no_grad():
        image = folders[0].read(0).image[None]
        expected = F.interpolate(method.eval().predict(image, spaces[0]), (48, 64), mode="bilinear").argmax(1)
    assert (predict_map(lambda x: method.predict(x, spaces[0]).detach(), image) == expected).float().mean() > 0.999


def scores_of(**protocols):
    space = LabelSpace.of("s", ["road", "car", "sky"])
    confusion = Confusion(space, np.array([[3, 1, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]]))
    return Scores(7, {n: DatasetScores(p, confusion, ("car",)) for n, p in protocols.items()})


def test_the_json_is_exactly_the_documented_format(tmp_path):
    scores_of(street="names").write(tmp_path / "s.json")
    found = json.loads((tmp_path / "s.json").read_text())
    # road 3 / 4; car: 0 of 2, and one pixel of road called so; sky absent.
    assert found == {
        "unified_nodes": 7,
        "mean_miou_seen": None,
        "datasets": {
            "street": {
                "protocol": "names",
                "miou": 0.375,
                "pixel_accuracy": 0.5,
                "pq": None,
                "classes": {
                    "road": {"iou": 0.75, "pixels": 4},
                    "car": {"iou": 0.0, "pixels": 2},
                    "sky": {"iou": None, "pixels": 0},
                },
            }
        },
    }


def test_means_never_mix_protocols():
    scores = scores_of(a="seen", b="names", c="labels")
    assert scores.mean_miou_seen == 0.375
    markdown = scores.to_markdown()
    for protocol in ("seen", "names", "labels"):
        assert f"- mean mIoU, {protocol}: 37.5 (arithmetic, over 1 dataset)" in markdown
    assert "text" not in markdown


def test_the_markdown_counts_absent_and_unmapped_classes():
    markdown = scores_of(street="names").to_markdown()
    assert "| street | names | 37.5 | 50.0 | - | 3 | 1 | 1 |" in markdown
    assert "| car | 0.0 | 2 | unmapped |" in markdown
    assert "| sky | - | 0 | absent |" in markdown


# Ranks.


def _rank(rank, folder, port, results):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    method = Echo(TAXONOMY)
    street = load(folder / "street.toml", folder / "street", "val")
    statistics = counted(folder, method)
    arrays = {f"{a}__{b}": c for (a, b), c in statistics.counts.items()}
    arrays |= {f"sums/{a}": c for a, c in statistics.sums.items()}
    np.savez(results / f"{rank}.npz", seen=score_seen(method, street).confusion.counts, **arrays)
    dist.destroy_process_group()


def test_two_ranks_hold_what_one_would(two, tmp_path_factory):
    import socket

    results = tmp_path_factory.mktemp("ranks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with warnings.catch_warnings():
        # Python 3.12 warns of forks in a process with threads; a fresh interpreter would take many seconds to import.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.multiprocessing.start_processes(_rank, (two, port, results), nprocs=2, start_method="fork")
    alone = counted(two, Echo(TAXONOMY))
    seen = score_seen(Echo(TAXONOMY), load(two / "street.toml", two / "street", "val")).confusion.counts
    for rank in range(2):
        with np.load(results / f"{rank}.npz") as arrays:
            np.testing.assert_array_equal(arrays["seen"], seen)
            for (a, b), counts in alone.counts.items():
                np.testing.assert_array_equal(arrays[f"{a}__{b}"], counts)
            for a, sums in alone.sums.items():
                np.testing.assert_array_equal(arrays[f"sums/{a}"], sums)
