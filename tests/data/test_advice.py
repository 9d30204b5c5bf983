"""What a message advises works: each cause with its own way out, followed here."""

import re

import numpy as np
import pytest
from PIL import Image

from manyseg.data import load
from manyseg.data.files import DataError

HEAD = 'name = "t"\nimage = "{id}.jpg"\nsplits = { train = "." }\n'
INDEX = HEAD + 'mask = "m/{id}.png"\nencoding = "index"\n[classes]\na = 0\nb = 1\n'
COLOR = HEAD + 'mask = "m/{id}.png"\nencoding = "color"\n[classes]\na = "#000000"\nb = "#ffffff"\n'
PLANE = np.tile(np.array([[0, 1]], np.uint8), (8, 4))


@pytest.fixture
def read(tmp_path):
    """Reads the only image of a card, whose mask is the picture given."""

    def read(card, mask, **options):
        (tmp_path / "m").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
        mask.save(tmp_path / "m/a.png", **options)
        (tmp_path / "card.toml").write_text(card)
        return load(tmp_path / "card.toml", tmp_path).read(0).annotation.labels.numpy()

    return read


def fails(read, card, mask, message, **options):
    with pytest.raises(DataError, match=message) as caught:
        read(card, mask, **options)
    return str(caught.value)


def test_a_mask_that_is_a_jpeg_is_refused_and_exported_as_png_it_is_read(read):
    for card in (INDEX, COLOR):
        said = fails(read, card, Image.fromarray(PLANE), "the mask is a JPEG, whose compression", format="JPEG")
        assert "export the masks again as PNG" in said
    np.testing.assert_array_equal(read(INDEX, Image.fromarray(PLANE)), PLANE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_mask_is_read_as_color_as_advised(read, mode):
    picture = Image.fromarray(PLANE * 255).convert(mode)
    assert 'use encoding = "color"' in fails(read, INDEX, picture, f"{mode} mask where an index was promised")
    np.testing.assert_array_equal(read(COLOR, picture), PLANE)


def test_another_kind_of_mask_is_to_be_saved_as_an_index(read):
    picture = Image.fromarray(PLANE).convert("LA")
    said = fails(read, INDEX, picture, "LA mask where an index was promised")
    assert "color" not in said
    assert "save it as a PNG of 8 bits" in said
    np.testing.assert_array_equal(read(INDEX, picture.convert("L")), PLANE)


def test_a_grey_mask_is_read_as_index_as_advised(read):
    said = fails(read, COLOR, Image.fromarray(PLANE), "L mask where colours were promised")
    assert 'use encoding = "index"' in said
    np.testing.assert_array_equal(read(INDEX, Image.fromarray(PLANE)), PLANE)


def test_16_bits_are_read_where_the_card_ignores_65535_as_advised(read):
    picture = Image.fromarray(PLANE.astype(np.uint16))
    assert "list 65535 under `ignore`" in fails(read, INDEX, picture, "16-bit mask where 8-bit")
    np.testing.assert_array_equal(read(INDEX.replace("[classes]", "ignore = [65535]\n[classes]"), picture), PLANE)


def test_a_value_that_the_card_lacks_is_read_when_it_is_given_to_a_class_or_ignored(read):
    picture = Image.fromarray(PLANE * 7)
    said = fails(read, INDEX, picture, "not in the card: value 7 on 32 pixels")
    assert re.search("give the value to a class of the card, or list it under `ignore`", said)
    np.testing.assert_array_equal(read(INDEX.replace("b = 1", "b = [1, 7]"), picture), PLANE)
    assert (read(INDEX.replace("[classes]", "ignore = [7]\n[classes]"), picture)[:, 1] == -1).all()


def test_an_image_too_large_for_memory_says_so_and_one_of_another_kind_says_what_it_is(read, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    said = fails(read, INDEX, Image.fromarray(PLANE), "asks for more than 0 million pixels")
    assert "cut it and its annotation into tiles" in said
    monkeypatch.undo()
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(DataError, match="no known image format"):
        load(tmp_path / "card.toml", tmp_path).read(0)
