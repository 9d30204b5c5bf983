"""The protocols of evaluation, with a method whose predictions are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from echo import STREET, TAXONOMY, Echo, write
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch.nn import functional as F
from words import encode

from manyseg import testing
from manyseg.data import load
from manyseg.data.files import DataError
from manyseg.data.folder import Folder
from manyseg.errors import UserError
from manyseg.evaluation.evaluate import collect, evaluate, score_mapped, score_related, score_seen
from manyseg.inference.encoded_images import EncodedImages, OutputSpace
from manyseg.inference.options import TestOptions
from manyseg.labels import IGNORE, LabelSpace, Taxonomy
from manyseg.methods import find_method
from manyseg.models import PixelEncoder


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
    monkeypatch.setattr("manyseg.inference.encoded_images.BATCH_PIXELS", {"cpu": 1, "cuda": 1})
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


@pytest.mark.parametrize("fault", ["masks/val-1.png cut", "masks/val-1.png gone", "images/val-1.png cut"])
def test_a_bad_file_is_left_out_on_request_counted_and_named(tmp_path, caplog, fault):
    pairs = [([[0, 1]], [[0, 1]]), ([[0, 0]], [[1, 1]]), ([[2, 2]], [[2, 0]])]
    folder = write(tmp_path, "street", STREET.names, pairs)
    name, _, how = fault.partition(" ")
    path = tmp_path / "street" / name
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="val-1"):
        evaluate(Echo(TAXONOMY), [folder])
    scores = evaluate(Echo(TAXONOMY), [folder], skip_bad=True)
    street = scores.datasets["street"]
    assert street.skipped == ("val-1",)
    assert street.confusion.counts.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert scores.to_json()["datasets"]["street"]["skipped"] == ["val-1"]
    assert "- street: 1 images are not scored, as their files cannot be read: val-1" in scores.to_markdown()
    assert f"skipped: {path}" in caplog.text


def test_it_is_shown_how_far_an_evaluation_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("manyseg.progress.QUIET", 0.0)
    monkeypatch.setattr("manyseg.progress.EVERY", 0.0)
    pairs = [([[0, 1]], [[0, 1]])] * 3
    folder = write(tmp_path, "street", STREET.names, pairs)
    (tmp_path / "street/masks/val-0.png").unlink()
    evaluate(Echo(TAXONOMY), [folder], skip_bad=True)
    collect(Echo(TAXONOMY), [folder], skip_bad=True)
    shown = [line for line in capsys.readouterr().err.splitlines() if " left" in line]
    assert [line.partition(",")[0] for line in shown] == [
        "evaluating 'street': 1 of 3", "evaluating 'street': 2 of 3",
        "statistics of 'street': 1 of 3", "statistics of 'street': 2 of 3",
    ]  # fmt: skip


def test_a_dataset_of_which_nothing_can_be_read_is_an_error_all_the_same(tmp_path):
    folder = write(tmp_path, "street", STREET.names, [([[0]], [[0]]), ([[1]], [[1]])])
    for path in (tmp_path / "street/masks").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="dataset 'street': all 2 images are bad, so none is skipped"):
        evaluate(Echo(TAXONOMY), [folder], skip_bad=True)


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
    scores = SimpleNamespace(protocol=relate)
    monkeypatch.setattr("manyseg.evaluation.evaluate.score_related", lambda *a: related.append(a[2]) or scores)
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


# A real method.


@pytest.mark.parametrize("name", ["multihead", "union"])
def test_a_real_method_is_evaluated_on_the_generated_world(world, name):
    spaces = [load(world.cards[n], world.folder / n, "val").space for n in ("fine", "coarse", "partial")]
    torch.manual_seed(0)
    method = find_method(name)(PixelEncoder.build(backbone="tiny", pretrained=False, channels=16), spaces)
    folders = [load(world.cards[n], world.folder / n, "val") for n in world.cards]
    for options in (None, TestOptions(window=(32, 32), flip=True, scales=(0.5, 1.0))):
        scores = evaluate(method, folders, options=options)
        assert [d.protocol for d in scores.datasets.values()] == ["seen", "seen", "seen", "names"]
        for folder, d in zip(folders, scores.datasets.values(), strict=True):
            labels = [folder.read_annotation(i).labels for i in range(len(folder))]
            assert d.confusion.counts.sum() == sum(int((x != IGNORE).sum()) for x in labels)
    with torch.no_grad():
        image = folders[0].read(0).image[None]
        expected = F.interpolate(testing.predict(method.eval(), image, spaces[0]), (48, 64), mode="bilinear").argmax(1)
    (found,) = EncodedImages(method, image).label_maps([OutputSpace(spaces[0])])
    assert (found == expected).float().mean() > 0.999


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a fault of ours")])
def test_whatever_fails_while_an_image_is_read_names_it(tmp_path, monkeypatch, error):
    folder = write(tmp_path, "street", STREET.names, [([[0, 1]], [[0, 1]])])

    def fail(*_):
        raise error

    monkeypatch.setattr(Folder, "read", fail)
    with pytest.raises((DataError, RuntimeError)) as caught:
        evaluate(Echo(TAXONOMY), [folder])
    told = str(caught.value) if isinstance(error, MemoryError) else caught.value.__notes__[0]
    assert str(folder.image_path(0)) in told
