"""Images too large for memory are evaluated by windows, as they are predicted."""

import logging
import warnings

import numpy as np
import pytest
import rasterio
import torch
from advice import follow

from manyseg import testing
from manyseg.data import bands, load
from manyseg.data.bands import BandWindows
from manyseg.errors import UserError
from manyseg.evaluation.dataset_pass import check_views, visit_batches
from manyseg.evaluation.evaluate import collect, evaluate
from manyseg.inference import large_image
from manyseg.inference.encoded_images import OutputSpace
from manyseg.inference.options import TestOptions
from manyseg.methods import find_method
from manyseg.models import PixelEncoder

SIZES = [(192, 160), (64, 96), (160, 224)]
WINDOW = TestOptions(window=(64, 96))


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=8)
    return find_method("multihead")(encoder, testing.toy_spaces()).eval()


@pytest.fixture
def scenes(tmp_path, method):
    """Three images of four bands in the classes of the method's first dataset, two of them large."""
    space = method.spaces[0]
    for i, (height, width) in enumerate(SIZES):
        rng = np.random.default_rng(i)
        write(tmp_path / f"images/{i}.tif", rng.integers(0, 256, (4, height, width)).astype(np.uint8))
        small = rng.choice([*range(len(space)), 255], (1, height // 8, width // 8)).astype(np.uint8)
        write(tmp_path / f"masks/{i}.tif", small.repeat(8, 1).repeat(8, 2))
    classes = "[classes]\n" + "".join(
        f'"{name}" = {{ value = {i}, thing = true }}\n' for i, name in enumerate(space.names)
    )
    (tmp_path / "c.toml").write_text(
        f'name = "{space.name}"\nimage = "images/{{id}}.tif"\nmask = "masks/{{id}}.tif"\nbands = [3, 2, 1]\n'
        f'encoding = "index"\ninstances = "masks/{{id}}.tif"\nignore = [255]\nsplits = {{ val = "." }}\n{classes}'
    )
    return load(tmp_path / "c.toml", tmp_path, "val", "dense")


def write(path, values):
    path.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        shape = {"count": values.shape[0], "height": values.shape[1], "width": values.shape[2]}
        with rasterio.open(path, "w", driver="GTiff", dtype="uint8", **shape) as file:
            file.write(values)


def test_scores_and_statistics_of_large_images_are_those_of_the_whole(scenes, method, monkeypatch):
    whole = [evaluate(method, [scenes], options=WINDOW), collect(method, [scenes], WINDOW)]
    monkeypatch.setattr(bands, "LARGE", 150 * 150)
    monkeypatch.setattr(large_image, "SLAB", 1 << 12)
    sizes, read = [], BandWindows.read
    monkeypatch.setattr(BandWindows, "read", lambda self, *place: (sizes.append(place[2:]), read(self, *place))[1])
    rows = []
    visit_batches(
        method, scenes, [OutputSpace(method.spaces[0])], WINDOW, lambda batch: rows.append(batch.labels.shape)
    )
    assert max(height for _, height, _ in rows) == 64
    parts = [evaluate(method, [scenes], options=WINDOW), collect(method, [scenes], WINDOW)]
    assert set(sizes) == {(64, 96)}
    (name,) = whole[0].datasets
    np.testing.assert_array_equal(parts[0].datasets[name].confusion.counts, whole[0].datasets[name].confusion.counts)
    assert parts[1].counts.keys() == whole[1].counts.keys()
    for key, counts in whole[1].counts.items():
        np.testing.assert_array_equal(parts[1].counts[key], counts)
    assert len(np.unique(whole[0].datasets[name].confusion.counts)) > 5


def test_options_without_windows_are_refused_before_anything_is_read_and_work_as_advised(scenes, method, monkeypatch):
    check_views([scenes], TestOptions())
    monkeypatch.setattr(bands, "LARGE", 150 * 150)
    with pytest.raises(UserError, match=r"160x192 pixels is only seen by windows .*--set test.window=\[1024,1024\]"):
        check_views([scenes], TestOptions())
    check_views([scenes], TestOptions(window=(1024, 1024)))
    assert len(evaluate(method, [scenes], options=TestOptions(window=(1024, 1024))).datasets) == 1


def test_what_needs_the_whole_image_says_so(scenes, method, monkeypatch, caplog):
    monkeypatch.setattr(bands, "LARGE", 150 * 150)
    scores = collect(method, [scenes], WINDOW)
    assert not scores.sums
    with pytest.raises(UserError, match=r"measures of its nodes of images this large cannot be had.*statistics_split"):
        collect(method, [scenes], WINDOW, activation=lambda features: features.pixel)
    segments = load(scenes.card, scenes.root, "val")
    monkeypatch.setattr(type(method), "finds_segments", True)
    with caplog.at_level(logging.WARNING):
        found = evaluate(method, [segments], options=WINDOW)
    assert "segments are not scored" in caplog.text
    assert next(iter(found.datasets.values())).panoptic is None


def test_measures_of_large_images_are_had_of_tiles_as_advised(scenes, method, monkeypatch):
    monkeypatch.setattr(bands, "LARGE", 150 * 150)
    nodes = lambda features: method.unified(features.embedding)  # noqa: E731
    measure = lambda folder: collect(method, [folder], WINDOW, activation=nodes)  # noqa: E731
    said = "cut those of a split into tiles, and name it in statistics_split of the set"

    def tiles():
        for file in scenes.root.rglob("*.tif"):
            with rasterio.open(file) as whole:
                tile = whole.read()[:, :80, :96]
            write(file, tile)
        return measure(load(scenes.card, scenes.root, "val", "dense"))

    follow(lambda: measure(scenes), said, tiles)


def test_a_damaged_large_image_is_left_out_where_bad_files_are(scenes, method, monkeypatch):
    monkeypatch.setattr(bands, "LARGE", 150 * 150)
    content = scenes.image_path(0).read_bytes()
    scenes.image_path(0).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"0\.tif: unreadable or truncated image"):
        evaluate(method, [scenes], options=WINDOW)
    found = evaluate(method, [scenes], options=WINDOW, skip_bad=True)
    assert next(iter(found.datasets.values())).skipped == ("0",)
