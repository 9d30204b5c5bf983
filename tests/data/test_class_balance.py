"""Images drawn by class: shares by hand, and epochs that hold them."""

from collections import Counter

import pytest
import torch

from manyseg.data.class_balance import ClassBalance

# Three images; class 0 has 90 pixels, class 1 has 10, of which image 2 has 8.
COUNTS = [{0: 60}, {0: 30, 1: 2}, {1: 8}]


def images(balance):
    """Return the share of every image."""
    return torch.zeros(3, dtype=torch.float64).index_add_(0, balance.images, balance.shares).tolist()


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1, [0.6, 0.32, 0.08]),  # By pixels.
        (2, [0.75 * 2 / 3, 0.75 / 3 + 0.25 / 5, 0.25 * 0.8]),  # Classes as 3 to 1.
        (1e9, [1 / 3, 1 / 6 + 0.1, 0.4]),  # Classes alike.
    ],
)
def test_classes_are_drawn_by_a_power_of_their_pixels(temperature, expected):
    assert images(ClassBalance.of(COUNTS, temperature)) == pytest.approx(expected)


def test_an_epoch_has_every_image_as_often_as_its_share_rounded_up_or_down():
    balance = ClassBalance.of([{0: 5}] * 6 + [{0: 5, 1: 5}] * 2, 1e9)
    # Class 1 has half of 8 draws; each of its images 2, and those of class 0 half of one.
    for seed in range(20):
        walk = balance.walk(8, torch.Generator().manual_seed(seed))
        pairs = Counter(zip(walk.images.tolist(), walk.classes.tolist(), strict=True))
        assert (pairs[6, 1], pairs[7, 1]) == (2, 2)
        assert all(n == 1 for (_, c), n in pairs.items() if c == 0)
        assert sum(pairs.values()) == 8


def test_over_many_epochs_images_have_their_shares():
    balance = ClassBalance.of(COUNTS, 2)
    drawn = torch.cat([balance.walk(3, torch.Generator().manual_seed(s)).images for s in range(2000)])
    assert (drawn.bincount() / len(drawn)).tolist() == pytest.approx(images(balance), abs=0.02)


def test_images_without_a_label_are_not_drawn_but_where_there_are_no_others():
    assert set(ClassBalance.of([{}, {0: 1}, {}], 2).walk(9, torch.Generator()).images.tolist()) == {1}
    walk = ClassBalance.of([{}, {}], 2).walk(2, torch.Generator())
    assert (sorted(walk.images.tolist()), walk.classes.tolist()) == ([0, 1], [-1, -1])
