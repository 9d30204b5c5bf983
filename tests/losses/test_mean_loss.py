"""What a step's loss is a mean over: one dataset, all pixels, or images."""

import pytest
import torch

from manyseg.losses import MeanLoss, divide


def loss(total, count, key=""):
    return MeanLoss.of(torch.tensor(total), torch.tensor(count), key)


# Dataset a: 3 images, 10 pixels, mean 2. Dataset b: 1 image, 30 pixels, mean 1.
STEP = [{"pixel": loss(20.0, 10)}, {"pixel": loss(30.0, 30)}]


@pytest.mark.parametrize(
    ("mean", "parts"),
    [
        ("dataset", [2, 1]),
        ("batch", [20 / 40, 30 / 40]),
        ("image", [3 / 4 * 2, 1 / 4 * 1]),
    ],
)
def test_datasets_weigh_alike_or_as_their_pixels_or_as_their_images_do(mean, parts):
    found = divide(STEP, [3, 1], mean)
    assert [f["pixel"].item() for f in found] == pytest.approx(parts)


@pytest.mark.parametrize(
    ("mean", "parts"),
    [
        ("dataset", [4, 1]),
        ("batch", [40 / 50, 30 / 50]),
        ("image", [6 / 7 * 2, 1 / 7 * 1]),
    ],
)
def test_a_weight_counts_a_dataset_so_many_times(mean, parts):
    found = divide(STEP, [3, 1], mean, weights=[2.0, 1.0])
    assert [f["pixel"].item() for f in found] == pytest.approx(parts)


def test_a_dataset_with_more_images_than_usual_counts_for_the_steps_that_have_fewer():
    found = divide(STEP, [3, 1], "dataset", expected=[1.5, None])
    assert [f["pixel"].item() for f in found] == pytest.approx([4, 1])


def test_means_of_one_key_become_one_mean_and_others_stay_apart():
    a = loss(4.0, 2, "root") + loss(6.0, 3, "vehicle") * 0.1
    b = loss(9.0, 1, "vehicle") * 0.1
    found = divide([{"pixel": a}, {"pixel": b}], [1, 1], "batch")
    assert [f["pixel"].item() for f in found] == pytest.approx([4 / 2 + 0.1 * 6 / 4, 0.1 * 9 / 4])


@pytest.mark.parametrize("mean", ["dataset", "batch", "image"])
def test_nothing_to_learn_from_is_0_with_a_graph(mean):
    z = torch.zeros((), requires_grad=True)
    (found,) = divide([{"pixel": MeanLoss.of(z * 3, 0.0)}], [2], mean, weights=[0.0])
    found["pixel"].backward()
    assert (found["pixel"].item(), z.grad.item()) == (0, 0)


def test_a_mean_may_be_taken_over_another_number():
    assert (loss(6.0, 2) * 0.5).over(torch.tensor(3)).mean().item() == pytest.approx(1)
