"""Images resized on values computed by hand."""

import torch

from manyseg.inference.resize import resize


def test_pixels_are_areas_so_that_the_border_is_half_a_pixel_from_their_centres():
    image = torch.tensor([0, 80], dtype=torch.uint8).expand(3, 1, 2)
    assert resize(image, (1, 4))[0].tolist() == [[0, 20, 60, 80]]
    assert resize(image[None], (1, 4))[0, 0].tolist() == [[0, 20, 60, 80]]
    assert resize(image, (1, 2)) is image
