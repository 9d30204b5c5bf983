"""Test options that make sense, and sizes."""

import pytest
import torch
from pydantic import ValidationError

from manyseg.inference.options import TestOptions
from manyseg.inference.resize import resize


@pytest.mark.parametrize(
    "options",
    [
        {"window": (48, 64)},
        {"overlap": 1.0},
        {"scales": ()},
        {"max_side": 0},
        {"short_side": 0},
        {"scales": (0.0,)},
        {"windows": (32, 32)},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError):
        TestOptions(**options)


def test_the_shorter_side_is_brought_to_its_size_and_the_longer_one_bounded():
    assert TestOptions().input_size((300, 400)) == (300, 400)
    assert TestOptions(short_side=600).input_size((300, 400)) == (600, 800)
    assert TestOptions(short_side=150).input_size((400, 300)) == (200, 150)
    assert TestOptions(short_side=600, max_side=400).input_size((300, 400)) == (300, 400)
    assert TestOptions(max_side=400).input_size((30, 40)) == (30, 40)
    assert TestOptions(short_side=600).input_size((300, 400), 0.5) == (300, 400)
    assert TestOptions(short_side=50, window=(32, 32)).input_size((100, 200)) == (64, 128)


def test_a_dataset_has_its_own_options_and_the_common_ones():
    given = {"short_side": 1080, "flip": True, "sets": {"ade20k": {"short_side": 512, "flip": False}, "idd": {}}}
    options = TestOptions.model_validate(given)
    assert options.of("ade20k") == TestOptions(short_side=512)
    assert options.of("idd") == options.of("kitti") == TestOptions(short_side=1080, flip=True)
    assert TestOptions.model_validate(options.model_dump(mode="json", exclude_none=True)) == options
    with pytest.raises(ValidationError, match="sets"):
        TestOptions.model_validate({"sets": {"a": {"sets": {}}}})


def test_resizing_to_the_same_size_is_the_same_tensor():
    image = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert resize(image, (4, 5)) is image
