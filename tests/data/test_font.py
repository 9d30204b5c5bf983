"""The font of legends."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from manyseg.data import font as module
from manyseg.data.font import legend_font


def _ink(font, text):
    image = Image.new("L", (400, 60))
    ImageDraw.Draw(image).text((4, 4), text, 255, font)
    return np.asarray(image) > 0


@pytest.fixture
def no_system_font(monkeypatch):
    monkeypatch.setattr(module, "SYSTEM_FONTS", ("no-such-font.ttf",))
    module._system_fonts.cache_clear()
    yield
    module._system_fonts.cache_clear()


def test_ascii_names_are_drawn_in_the_same_font_everywhere():
    font = legend_font(20, ["road", "lane marking  < 1 %"])
    assert font.getname() == ImageFont.load_default(20).getname()


@pytest.mark.parametrize("size", [12, 40])
def test_the_font_has_the_size_that_is_given(size):
    rows = np.flatnonzero(_ink(legend_font(size, ["HI"]), "HI").any(1))
    assert rows[-1] - rows[0] + 1 == pytest.approx(0.72 * size, abs=2)


def test_every_name_is_drawn_somehow_where_no_font_has_its_characters(no_system_font):
    font = legend_font(20, ["道路", "Straße"])
    assert font.getlength("道路") > 0
    assert _ink(font, "道路").any()


def test_names_in_other_scripts_take_the_system_font_that_has_them(monkeypatch):
    own = ImageFont.load_default

    class Complete(ImageFont.FreeTypeFont):
        """A font that draws every character, each in its own way."""

        def __init__(self):
            self.font = own(20).font
            self.layout_engine = ImageFont.Layout.BASIC

        def getmask(self, text, *args, **kwargs):
            return [ord(c) % 251 for c in text]

    complete = Complete()
    monkeypatch.setattr(module, "_system_fonts", lambda size: (own(size), complete))
    assert legend_font(20, ["道路"]) is complete
    assert legend_font(20, ["road"]) is not complete
