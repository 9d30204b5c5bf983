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
        {"scales": (0.0,)},
        {"windows": (32, 32)},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError):
        TestOptions(**options)


def test_resizing_to_the_same_size_is_the_same_tensor():
    image = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert resize(image, (4, 5)) is image
