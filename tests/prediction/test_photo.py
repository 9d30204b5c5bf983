"""Pictures of other kinds than photos: pages, 16 bits, bands."""

import numpy as np
import pytest
import rasterio
from brightness import PARK, STREET, Brightness, read
from PIL import Image
from tiny import save_pages

from manyseg.data.files import DataError
from manyseg.errors import UserError
from manyseg.inference.options import TestOptions
from manyseg.prediction.model import Model
from manyseg.prediction.photo import Reading, read_photo
from manyseg.prediction.predict import predict_paths

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def same(size):
    return size


def bands(path, pixels, driver="GTiff"):
    """Write pixels [bands, H, W]."""
    with rasterio.open(path, "w", driver=driver, height=pixels.shape[1], width=pixels.shape[2],
                       count=len(pixels), dtype=pixels.dtype) as file:  # fmt: skip
        file.write(pixels)
    return path


def test_a_file_of_several_pages_is_an_error_that_names_the_way_out(tmp_path):
    pages = [Image.new("RGB", (8, 6), (80 * i, 0, 0)) for i in range(3)]
    for name in ("scan.tif", "moving.webp"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        with pytest.raises(DataError, match=r"3 pages in one file.*; save each as an image of its own \(magick"):
            read_photo(tmp_path / name, same)


def test_a_smaller_copy_of_a_page_is_no_page(tmp_path):
    save_pages(tmp_path / "a.tif", [Image.new("RGB", (8, 6)), Image.new("RGB", (4, 3))], (0, 1))
    with Image.open(tmp_path / "a.tif") as file:
        assert file.n_frames == 2
    image, size = read_photo(tmp_path / "a.tif", same)
    assert image.shape == (3, 6, 8)
    assert size == (6, 8)


def test_values_of_12_bits_in_a_file_of_16_need_a_range(tmp_path):
    pixels = np.array([[0, 2047], [4095, 100]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"16 bits, but no value above 4095.*--range 0,4095 .--range 0,65535 leaves"):
        read_photo(tmp_path / "a.png", same)
    image, _ = read_photo(tmp_path / "a.png", same, Reading(value_range=(0, 4095)))
    assert image[0].tolist() == [[0, 127], [255, 6]]
    image, _ = read_photo(tmp_path / "a.png", same, Reading(value_range=(0, 65535)))
    assert image[0].tolist() == [[0, 8], [16, 0]]
    for full in (np.array([[0, 40000]], np.uint16), np.zeros((1, 2), np.uint16)):
        Image.fromarray(full).save(tmp_path / "b.png")
        assert read_photo(tmp_path / "b.png", same)[0][0].tolist() == [[0, round(full.max() / 257)]]


def test_colours_of_16_bits_are_read_by_their_bands(tmp_path):
    path = bands(tmp_path / "a.png", np.full((3, 2, 2), 4000, np.uint16), "PNG")
    with pytest.raises(DataError, match=r"16 bits, but no value above 4095: .*--bands 1,2,3 --range 0,4095"):
        read_photo(path, same)
    with pytest.raises(DataError, match="give --bands 1,2,3 too"):
        read_photo(path, same, Reading(value_range=(0, 4095)))
    image, _ = read_photo(path, same, Reading((1, 2, 3), (0, 4000)))
    assert image.unique().tolist() == [255]
    for count in (3, 5):
        path = bands(tmp_path / "a.tif", np.ones((count, 2, 2), np.uint16))
        with pytest.raises(DataError, match=f"{count} bands of uint16; say which are red, green and blue, and which"):
            read_photo(path, same)


def test_bands_are_those_that_are_named(tmp_path):
    path = bands(tmp_path / "a.tif", np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((5, 2, 2), np.uint8))
    assert read_photo(path, same, Reading((4, 3, 2)))[0][:, 0, 0].tolist() == [3, 2, 1]
    assert read_photo(path, same, Reading((5,)))[0][:, 0, 0].tolist() == [4, 4, 4]
    with pytest.raises(DataError, match="`bands` names band 6, but the image has 5"):
        read_photo(path, same, Reading((6, 1, 1)))


def test_predict_reads_images_as_it_is_told(tmp_path):
    path = bands(tmp_path / "a.tif", np.stack([np.zeros((4, 4)), np.full((4, 4), 900)]).astype(np.uint16))
    model = Model(Brightness(), [STREET, PARK], TestOptions())
    for reading, value in ((Reading((2,), (0, 1000)), 1), (Reading((1,), (0, 1000)), 0)):
        (mask,) = predict_paths(model, [path], "street", tmp_path / "out", kinds=["masks"], reading=reading).files
        assert (read(mask)[1] == value).all()
    with pytest.raises(UserError, match=r"1 of 1 images could not be read.*; nothing was predicted"):
        predict_paths(model, [path], "street", tmp_path / "out", kinds=["masks"])


CARD = """
name = "street"
image = "{id}.tif"
mask = "{id}.png"
encoding = "index"
splits = { train = "train.txt" }
bands = [2]
range = [0, 1000]
[classes]
dark = { value = 0, color = "#0a141e" }
bright = { value = 1, color = "#c86400" }
"""


def test_from_python_a_file_is_read_as_it_is_told_or_as_the_card_says(tmp_path):
    path = bands(tmp_path / "a.tif", np.stack([np.zeros((4, 4)), np.full((4, 4), 900)]).astype(np.uint16))
    (tmp_path / "street.toml").write_text(CARD)
    model = Model(Brightness(), [STREET, PARK], TestOptions())
    for given, value in (
        ({"labels": "street", "bands": (2,), "value_range": (0, 1000)}, 1),
        ({"labels": "street", "bands": (1,), "value_range": (0, 1000)}, 0),
        ({"labels": tmp_path / "street.toml"}, 1),
        ({"labels": str(tmp_path / "street.toml"), "bands": (1,)}, 0),
        ({"labels": str(tmp_path / "street.toml"), "value_range": (0, 9000)}, 0),
    ):
        first, second = model.predict([path, path], **given)
        assert (first.labels == value).all()
        assert (second.labels == value).all()
    for given, message in (
        ({"bands": (4, 3)}, r"bands are \(4, 3\); give three numbers from 1 on"),
        ({"bands": (0,)}, "give three numbers from 1 on"),
        ({"value_range": (5, 5)}, r"value_range is \(5, 5\); give the values of black and white"),
    ):
        with pytest.raises(UserError, match=message):
            model.predict(path, "street", **given)
    with pytest.raises(UserError, match="bands and a range of values are for files"):
        model.predict(np.zeros((4, 4), np.uint8), "street", bands=(1,))
