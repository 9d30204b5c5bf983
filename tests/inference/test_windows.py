"""Where windows lie, and the sizes at which images are seen: values by hand."""

import pytest
import torch

from manyseg.inference.options import PHOTOS, TestOptions, ViewOptions
from manyseg.inference.windows import cells, starts, weights, windows


@pytest.mark.parametrize(
    ("length", "window", "overlap", "places"),
    [
        (96, 96, 0.5, [0]),
        (64, 96, 0.5, [0]),
        (97, 96, 0.5, [0, 0]),
        (128, 96, 0.5, [0, 32]),
        (320, 128, 0.5, [0, 64, 128, 192]),
        (160, 64, 0.9, [0, 32, 64, 96]),
        (256, 128, 0.0, [0, 128]),
        (288, 128, 0.0, [0, 64, 160]),
        # Steps of 63 pixels are 32 on the grid, those of 64 are 64.
        (192, 128, 0.5, [0, 64]),
        (192, 128, 0.51, [0, 32, 64]),
    ],
)
def test_windows_begin_on_the_grid_and_end_at_the_border(length, window, overlap, places):
    assert starts(length, window, overlap) == places


def test_windows_go_row_by_row_and_are_no_larger_than_the_image():
    found = [
        (rows.start, rows.stop, columns.start, columns.stop) for _, rows, columns in windows((160, 90), (128, 96), 0.5)
    ]
    assert found == [(0, 128, 0, 90), (32, 160, 0, 90)]
    found = [(rows.start, columns.start) for _, rows, columns in windows((160, 160), (128, 128), 0.5)]
    assert found == [(0, 0), (0, 32), (32, 0), (32, 32)]


def test_cells_of_a_window_lie_among_those_of_the_image():
    place = (..., slice(32, 96), slice(64, 192))
    (_, rows, columns), whole = cells(place, torch.zeros(3, 16, 16), (200, 205))
    assert (rows, columns) == (slice(8, 24), slice(8, 24))
    assert whole == (50, 25)


@pytest.mark.parametrize(
    ("window", "h", "w"),
    [
        ((64, 64), 16, 15),  # No whole number of pixels a cell.
        ((64, 64), 15, 16),
        ((80, 64), 16, 16),  # 5 pixels a cell, which do not divide 32; then 64.
        ((64, 80), 16, 16),
        ((64, 64), 1, 16),
        ((64, 64), 16, 1),
    ],
)
def test_cells_that_no_grid_has_are_refused(window, h, w):
    with pytest.raises(ValueError, match="on no grid"):
        cells((..., slice(0, window[0]), slice(0, window[1])), torch.zeros(1, h, w), (96, 96))


def test_weights_fall_linearly_to_the_border():
    found = weights(torch.zeros(2, 4, 3))
    assert found.tolist() == [[0.25, 0.75, 0.25], [0.75, 2.25, 0.75], [0.75, 2.25, 0.75], [0.25, 0.75, 0.25]]


@pytest.mark.parametrize(
    ("options", "native", "scale", "size"),
    [
        ({}, (100, 201), 1.0, (100, 201)),
        ({}, (100, 201), 0.5, (50, 100)),  # 100.5 is rounded to even.
        ({}, (1, 1), 0.1, (1, 1)),
        ({"short_side": 50}, (100, 200), 1.0, (50, 100)),
        ({"short_side": 400}, (200, 100), 1.0, (800, 400)),
        ({"max_side": 100}, (100, 200), 1.0, (50, 100)),
        ({"max_side": 300}, (100, 200), 1.0, (100, 200)),
        ({"max_side": 100}, (100, 200), 2.0, (100, 200)),
        ({"short_side": 80, "max_side": 100}, (100, 200), 1.0, (50, 100)),
        ({"short_side": 40, "max_side": 100}, (100, 200), 1.0, (40, 80)),
        ({"window": (64, 64)}, (64, 65), 1.0, (64, 96)),
        ({"window": (64, 64)}, (10, 32), 1.0, (32, 32)),
    ],
)
def test_images_are_seen_at_the_size_that_options_say(options, native, scale, size):
    assert ViewOptions(**options).input_size(native, scale) == size


def test_views_are_the_largest_scale_first_and_mirrored_last():
    assert ViewOptions().views == ((1.0, False),)
    assert ViewOptions(scales=(0.5, 2.0), flip=True).views == ((2.0, False), (2.0, True), (0.5, False), (0.5, True))
    assert PHOTOS.max_side == 2048


def test_windows_are_multiples_of_32():
    with pytest.raises(ValueError, match="multiples of 32"):
        ViewOptions(window=(64, 48))
    with pytest.raises(ValueError, match="multiples of 32"):
        ViewOptions(window=(80, 64))
    assert TestOptions(window=(32, 96)).window == (32, 96)
