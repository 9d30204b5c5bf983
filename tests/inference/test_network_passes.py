"""How often the network encodes an image, and how often its files are read: once a view, whatever is asked.

Before features were shared (methods took images, and every question encoded them anew) the numbers an image were, as
measured with this file's methods and data: panoptic evaluation 2 encodings and 2 reads; `predict --segments` 2
encodings; a sample picture 2, with `flip` 4; statistics of two datasets' heads and the unified one 1 by a patched
`forward`, with `flip` 7.
"""

from collections import Counter

import pytest
import torch

from manyseg.data import load
from manyseg.data.folder import Folder
from manyseg.evaluation.evaluate import collect, evaluate
from manyseg.inference.options import TestOptions
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.prediction.model import Model
from manyseg.prediction.predict import predict_paths
from manyseg.report.samples import predict_samples

FLIP, WINDOWS = TestOptions(flip=True), TestOptions(window=(32, 32))


@pytest.fixture
def folders(world):
    return [load(world.cards[name], world.folder / name, "val") for name in ("fine", "coarse")]


@pytest.fixture
def count(monkeypatch):
    """Count encodings and reads for each image; the folder has three of them."""
    counts = Counter()
    read = Folder.read

    def counted(folder, *args):
        counts["read"] += 1
        return read(folder, *args)

    monkeypatch.setattr(Folder, "read", counted)

    def run(method, act, images=3):
        counts.clear()
        hook = method.pixel_encoder.backbone.register_forward_hook(
            lambda _, inputs, __: counts.update(encoded=len(inputs[0]))
        )
        out = act()
        hook.remove()
        return {key: value / images for key, value in counts.items()}, out

    return run


def build(name, folders, **options):
    torch.manual_seed(0)
    pixel_encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=16)
    return find_method(name)(pixel_encoder, [f.space for f in folders], **options)


@pytest.fixture
def lmseg(folders):
    return build("lmseg", folders, classifier="heads", queries=5, blocks=1, attention_heads=2)


def test_panoptic_evaluation_reads_and_encodes_every_image_once(count, lmseg, folders):
    counts, scores = count(lmseg, lambda: evaluate(lmseg, folders[:1]))
    assert counts == {"encoded": 1, "read": 1}
    assert scores.datasets["fine"].panoptic is not None
    # Segments come from the whole image, which is one of the two views of a flip.
    assert count(lmseg, lambda: evaluate(lmseg, folders[:1], options=FLIP))[0] == {"encoded": 2, "read": 1}


def test_prediction_with_segments_encodes_every_image_once(count, lmseg, folders, world, tmp_path):
    photos = sorted((world.folder / "fine" / "images").iterdir())[:2]

    def predict():
        return predict_paths(Model(lmseg, lmseg.spaces), photos, "fine", tmp_path, kinds=["coco_panoptic"])

    assert count(lmseg, predict, images=2)[0] == {"encoded": 1}


@pytest.mark.parametrize(("options", "views"), [(None, 1), (FLIP, 2), (TestOptions(scales=(0.5, 1)), 2)], ids=str)
def test_statistics_of_several_heads_and_an_activation_encode_every_view_once(count, folders, options, views):
    method = build("uniseg", folders)
    counts, found = count(method, lambda: collect(method, folders[:1], options, activation=method.activation))
    assert len(found.counts) == 3
    assert found.sums["fine"].any()
    assert counts == {"encoded": views, "read": 1}


def test_windows_are_encoded_once_each_for_all_heads(count, folders):
    method = build("uniseg", folders)
    # 48x64 becomes 64x64, of four windows of 32; a grid of 32 leaves them no overlap.
    assert count(method, lambda: collect(method, folders[:1], WINDOWS))[0] == {"encoded": 4, "read": 1}


@pytest.mark.parametrize(("options", "views"), [(TestOptions(), 1), (FLIP, 2)], ids=str)
def test_a_sample_picture_encodes_every_view_once_for_both_its_label_maps(count, folders, options, views):
    method = build("union", folders)
    counts, shown = count(method, lambda: predict_samples(method, folders[0], options))
    assert len(shown) == 3
    assert counts == {"encoded": views, "read": 1}
