"""Images that are read and written by windows."""

import numpy as np
import pytest
import rasterio
from brightness import PARK, STREET, Brightness
from PIL import Image
from rasterio import Affine
from test_photo import bands

from manyseg.data import bands as bands_module
from manyseg.data.bands import BandWindows
from manyseg.errors import UserError
from manyseg.inference.options import TestOptions
from manyseg.prediction import large_images
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.model import Model
from manyseg.prediction.photo import Reading
from manyseg.prediction.predict import predict_paths

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

PLACE = Affine(0.5, 0, 400000, 0, -0.5, 5800000)
WINDOWS = TestOptions(window=(64, 64))


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(bands_module, "LARGE", 200 * 300)
    monkeypatch.setattr(large_images, "TILE", 32)
    return Model(Brightness(), [STREET, PARK], WINDOWS)


@pytest.fixture
def scene(tmp_path):
    """A georeferenced image of 210 x 300 pixels of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 210, 300), np.uint8)
    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", height=210, width=300, count=3, dtype="uint8",
        tiled=True, blockxsize=32, blockysize=32, crs="EPSG:32633", transform=PLACE,
    ) as file:  # fmt: skip
        file.write(pixels)
    return pixels, tmp_path / "scene.tif"


def test_the_label_map_is_that_of_the_whole_and_no_array_is_as_large_as_it(tmp_path, model, scene, monkeypatch):
    pixels, path = scene
    sizes, read = [], BandWindows.read

    def counted(self, top, left, height, width):
        sizes.append((height, width))
        return read(self, top, left, height, width)

    monkeypatch.setattr(BandWindows, "read", counted)
    done = predict_paths(model, [path], "street", tmp_path / "out")
    assert done.files == [tmp_path / "out/masks/scene.tif"]
    # The stand-in for a network looks at single pixels: windows and whole are the same.
    bright = pixels.astype(float).mean(0) / 255 > 0.5
    with rasterio.open(done.files[0]) as file:
        assert (file.read(1) == bright).all()
        assert file.crs == rasterio.CRS.from_epsg(32633)
        assert file.transform == PLACE
        assert file.nodata == 255
        assert file.colormap(1)[1] == (200, 100, 0, 255)
        assert file.block_shapes == [(32, 32)]
        assert file.compression.name == "deflate"
    assert done.pixels.tolist() == [(~bright).sum(), bright.sum()]
    # Windows of 64 every 32 to 64 pixels, each read once.
    assert max(h for h, _ in sizes) == max(w for _, w in sizes) == 64
    assert set(model.method.sizes) == {(64, 64)}
    assert sum(h * w for h, w in sizes) < 4 * 210 * 300
    with Image.open(tmp_path / "out/overlays/scene.jpg") as picture:
        assert picture.size[0] > 300


def test_16_bits_are_read_in_a_range_and_classes_have_the_values_of_a_card(tmp_path, model):
    pixels = np.zeros((4, 210, 300), np.uint16)
    pixels[2, :, 150:] = 3000
    path = bands(tmp_path / "a.tif", pixels)
    with pytest.raises(UserError, match=r"1 of 1 images could not be read.*--bands 1,2,3 --range 0,4095"):
        predict_paths(model, [path], "street", tmp_path / "out", kinds=["masks"])
    values = {"masks": PixelValues((7, 300), 9)}
    (mask,) = predict_paths(
        model, [path], "street", tmp_path / "out", kinds=["masks"], values=values, reading=Reading((3,), (0, 3000))
    ).files
    with rasterio.open(mask) as file:
        assert file.read(1)[0].tolist() == [7] * 150 + [300] * 150
        assert file.dtypes == ("uint16",)


def test_an_overlay_alone_and_small_images_beside_large_ones(tmp_path, model, scene):
    Image.new("RGB", (64, 64)).save(tmp_path / "small.png")
    done = predict_paths(model, [scene[1], tmp_path / "small.png"], "street", tmp_path / "out", kinds=["overlays"])
    assert [p.name for p in done.files] == ["scene.jpg", "small.jpg"]
    assert done.images.tolist() == [2, 1]
    again = predict_paths(
        model, [scene[1], tmp_path / "small.png"], "street", tmp_path / "out", kinds=["overlays"], resume=True
    )
    assert again.kept == 2


def test_what_does_not_fit_a_large_image_is_said(tmp_path, model, scene):
    with pytest.raises(UserError, match="'coco' is not written of images this large; choose from: masks, overlays"):
        predict_paths(model, [scene[1]], "street", tmp_path / "out", kinds=["masks", "coco"])
    model.options = TestOptions(max_side=2048)
    with pytest.raises(UserError, match=r"an image of 300x210 pixels .*--set test.window=\[1024,1024\]"):
        predict_paths(model, [scene[1]], "street", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.tif"))


def test_a_damaged_file_is_named_and_leaves_nothing(tmp_path, model, scene):
    content = scene[1].read_bytes()
    scene[1].write_bytes(content[: len(content) // 2] + bytes(9) + content[: len(content) // 4])
    with pytest.raises(UserError, match=r"1 of 1 images could not be read.*scene.tif"):
        predict_paths(model, [scene[1]], "street", tmp_path / "out")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != "labels.json"]
