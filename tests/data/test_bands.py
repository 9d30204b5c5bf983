"""Images of many bands and of more than 8 bits."""

import builtins
import warnings

import layouts
import numpy as np
import pytest
import rasterio
import torch
from layouts import NAMES, H, W, text
from PIL import Image

from manyseg.data import load, read_card
from manyseg.data.check import check
from manyseg.data.files import DataError
from manyseg.data.guess import guess
from manyseg.data.options import AugmentOptions
from manyseg.data.transforms import Augment
from manyseg.errors import UserError


def pixels(i, bands=6, kind=np.uint16, top=4096):
    return np.random.default_rng(i).integers(0, top, (bands, H, W)).astype(kind)


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        shape = {"count": values.shape[0], "height": values.shape[1], "width": values.shape[2]}
        with rasterio.open(path, "w", driver="GTiff", dtype=str(values.dtype), compress="lzw", **shape) as file:
            file.write(values)


@pytest.fixture
def place(tmp_path):
    """Six images of six bands, with masks."""
    for i, name in enumerate(NAMES):
        write(tmp_path / f"images/{name}.tif", pixels(i))
        layouts.mask(tmp_path / f"masks/{name}.png", layouts.index(i, (0, 1), 255))
    return tmp_path


def card(place, keys, files='image = "images/{id}.tif"\nmask = "masks/{id}.png"\nencoding = "index"\nignore = [255]'):
    text(place / "c.toml", f'name = "c"\n{files}\nsplits = {{ train = "." }}\n{keys}\n[classes]\nroad = 0\ncar = 1\n')
    return place / "c.toml"


def test_three_bands_are_red_green_and_blue_in_the_range_that_the_card_states(place):
    path = card(place, "bands = [4, 3, 1]\nrange = [0, 4095]")
    assert [f for f in check(path, place) if f.severity != "warning"] == []
    folder = load(path, place)
    i = NAMES.index(folder.ids[0])
    expected = (pixels(i)[[3, 2, 0]] * (255 / 4095)).round()
    assert np.abs(folder.read(0).image.numpy() - expected).max() <= 1
    assert folder.size(0) == (H, W)


def test_one_band_is_grey_and_without_a_range_the_type_of_the_numbers_is_it(place):
    image = load(card(place, "bands = [2]"), place).read(0).image
    assert (image[0] == image[1]).all()
    assert int(image.max()) == round(4095 / 257)


def test_training_reads_crops_of_images_with_many_bands(place):
    folder = load(card(place, "bands = [3, 2, 1]\nrange = [0, 4095]"), place)
    sample = Augment(AugmentOptions(crop=(32, 32)))(folder, 0, torch.Generator().manual_seed(0))
    assert sample.image.shape == (3, 32, 32)
    assert float(sample.image.float().mean()) > 60


def test_encodings_that_need_the_size_of_an_image_read_it_whatever_its_bands(place):
    for name in NAMES:
        text(place / f"labels/{name}.txt", "0 0 0 1 0 1 0.5 0 0.5\n")
    files = 'image = "images/{id}.tif"\nannotations = "labels/{id}.txt"\nencoding = "yolo_segments"'
    folder = load(card(place, "bands = [3, 2, 1]", files), place)
    assert (folder.read(0).annotation.labels[: H // 2] == 0).all()


def test_floating_point_bands_need_a_range_and_nan_is_black(place):
    values = pixels(0, kind=np.float32, top=100) / 100
    values[:, 0, 0] = np.nan
    write(place / f"images/{NAMES[0]}.tif", values)
    index = sorted(NAMES).index(NAMES[0])
    with pytest.raises(DataError, match=r"floating-point pixels; give `range = \[black, white\]`"):
        load(card(place, "bands = [3, 2, 1]"), place).read(index)
    image = load(card(place, "bands = [3, 2, 1]\nrange = [0, 1]"), place).read(index).image
    assert image[:, 0, 0].tolist() == [0, 0, 0]
    assert int(image.max()) > 240


def test_faults_of_bands_are_named(place, monkeypatch):
    with pytest.raises(DataError, match="`bands` names band 9, but the image has 6; correct `bands`"):
        load(card(place, "bands = [9, 2, 1]"), place).read(0)
    with pytest.raises(UserError, match=r"range = \[9\.0, 1\.0\]: black comes first"):
        read_card(card(place, "range = [9, 1]"))
    with pytest.raises(UserError, match="bands"):
        read_card(card(place, "bands = [0, 1, 2]"))
    folder = load(card(place, "bands = [3, 2, 1]"), place)
    folder.image_path(0).write_bytes(b"II*\0")
    with pytest.raises(DataError, match="unreadable or truncated image"):
        folder.read(0)
    folder.image_path(0).unlink()
    with pytest.raises(DataError, match="there is no such file"):
        folder.read(0)
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.startswith("rasterio"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"this image needs rasterio; pip install 'manyseg\[bands\]'"):
        folder.read(1)


def test_the_guess_of_a_folder_says_which_bands_and_which_range(place, tmp_path):
    candidate = guess(place)[0]
    card = read_card(candidate.write(tmp_path / "g.toml")[-1])
    assert (card.bands, card.encoding) == ((1, 2, 3), "index")
    assert card.range is not None
    assert (card.range[0], 4080 < card.range[1] < 4096) == (0, True)
    assert any("does not say which are red" in line for line in candidate.unsure)
    assert [f for f in check(card, place) if f.severity == "error"] == []


def test_grey_images_of_16_bits_follow_the_range_that_the_check_advises(place):
    for i, name in enumerate(NAMES):
        values = pixels(i)[0]
        values[0, 0] = 4095
        Image.fromarray(values).save(place / f"images/{name}.png")
    files = 'image = "images/{id}.png"\nmask = "masks/{id}.png"\nencoding = "index"\nignore = [255]'
    dark = [f for f in check(card(place, "", files), place) if "dark" in f.what]
    assert "write `range = [0, 4095]` in the card" in dark[0].fix
    path = card(place, "range = [0, 4095]", files)
    assert [f for f in check(path, place) if "dark" in f.what] == []
    assert int(load(path, place).read(0).image.max()) == 255


def test_a_range_where_8_bits_were_read_is_an_error_with_a_way_out(place):
    for i, name in enumerate(NAMES):
        layouts.photo(place / f"images/{name}.png", i)
    files = 'image = "images/{id}.png"\nmask = "masks/{id}.png"\nencoding = "index"\nignore = [255]'
    with pytest.raises(DataError, match="remove it, or give `bands` as well"):
        load(card(place, "range = [0, 4095]", files), place).read(0)
    load(card(place, "range = [0, 255]\nbands = [1, 2, 3]", files), place).read(0)
