"""Scores of single pixels, and rows of bands, are exactly those of the whole map upsampled."""

import pytest
import torch
from torch.nn import functional as F

from manyseg.labels import IGNORE
from manyseg.losses.upsampling import _grid, _SinglePixels, _source

SIZES = [((3, 4), (7, 9)), ((1, 2), (4, 5)), ((5, 5), (5, 5)), ((4, 6), (3, 2)), ((2, 1), (9, 1))]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("cells", "image"), SIZES)
def test_single_pixels_have_the_scores_of_the_whole_map(cells, image, aligned):
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 3, *cells), torch.zeros(2, *image, dtype=torch.long)
    single = _SinglePixels(scores, labels, aligned)
    pixels = torch.arange(labels.numel())
    corners = single._corners(pixels)
    found = torch.stack([single.cells[cell] * weight[:, None] for cell, weight in corners]).sum(0)
    whole = F.interpolate(scores, image, mode="bilinear", align_corners=aligned)
    assert torch.allclose(found, whole.movedim(1, -1).flatten(0, 2), atol=1e-5)
    assert all(((cell >= 0) & (cell < len(single.cells))).all() for cell, _ in corners)
    assert torch.allclose(sum(weight for _, weight in corners), torch.ones(len(pixels)))


@pytest.mark.parametrize("aligned", [False, True])
def test_the_sum_over_single_pixels_and_its_gradient_are_those_of_the_pixels_that_count(aligned):
    torch.manual_seed(1)
    scores, labels = torch.randn(2, 3, 3, 4, requires_grad=True), torch.randint(0, 3, (2, 7, 9))
    pixels = torch.tensor([0, 5, 62, 63, 70, 125, 5])
    counts = torch.tensor([True, True, False, True, True, True, True])

    def loss(up, part):
        return F.cross_entropy(up, part.clamp(min=0).long(), reduction="none") * (part != IGNORE)

    grad = torch.ones(2, 3, 3, 4)
    total = _SinglePixels(scores.detach(), labels, aligned).add_sum(pixels, counts, loss, grad)
    whole = loss(F.interpolate(scores, (7, 9), mode="bilinear", align_corners=aligned), labels).flatten()
    expected = whole[pixels[counts]].sum()
    expected.backward()
    assert total == pytest.approx(expected.item(), rel=1e-5)
    assert not total.requires_grad
    assert torch.allclose(grad - 1, scores.grad, atol=1e-5)
    alone = _SinglePixels(scores.detach(), labels, aligned).add_sum(pixels, counts, loss, None)
    assert alone == pytest.approx(expected.item(), rel=1e-5)


def test_pixels_lie_among_cells_by_their_centres_or_by_corners():
    # (a i + b) / c: of 2 cells and 4 pixels, -1/4, 1/4, 3/4 and 5/4; or 0, 1/3, 2/3 and 1.
    assert _grid(2, 4, align_corners=False) == (4, -2, 8)
    assert _grid(2, 4, align_corners=True) == (1, 0, 3)
    assert _grid(3, 1, align_corners=True) == (2, 0, 1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("cells", "pixels"), [(3, 8), (1, 4), (6, 4), (5, 5)])
def test_a_band_reads_the_rows_between_which_its_pixels_lie(cells, pixels, aligned):
    a, b, c = _grid(cells, pixels, aligned)
    for top in range(pixels):
        for bottom in range(top + 1, pixels + 1):
            rows = _source(cells, pixels, slice(top, bottom), aligned)
            places = [max(a * i + b, 0) / c for i in range(top, bottom)]
            assert rows.start <= min(places)
            assert rows.stop - 1 >= min(max(places), cells - 1)
            assert 0 <= rows.start < rows.stop <= cells
            assert rows.stop - rows.start <= max(places) - min(places) + 3
