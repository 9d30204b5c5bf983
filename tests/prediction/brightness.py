"""A stand-in for a method, and images for it: dark on the left, bright on the right."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace, Taxonomy

__all__ = ["PARK", "STREET", "Brightness", "photo", "read"]

STREET = LabelSpace("street", (LabelClass("dark", (10, 20, 30)), LabelClass("bright", (200, 100, 0))))
PARK = LabelSpace.of("park", ["grass", "path", "lake"])


class Brightness:
    """A stand-in for a method: scores `bright` where an image is bright. Remembers the sizes that it saw."""

    taxonomy = Taxonomy.disjoint([STREET, PARK])
    device, hierarchy = torch.device("cpu"), None
    reads_words = finds_segments = align_corners = False

    def __init__(self):
        self.sizes = []
        self.training = True
        self.weight = nn.Parameter(torch.ones(1))

    def eval(self):
        self.training = False
        return self

    def pixel_encoder(self, image):
        assert not self.training
        self.sizes.append(tuple(image.shape[-2:]))
        return image.float().mean(1, keepdim=True) / 255 - 0.5

    def predict(self, bright, space, relation=None):
        if space not in (STREET, self.taxonomy.unified):
            raise UserError(f"'{space.name}' is no label space of this model (street, park, unified); relate it first")
        others = [torch.full_like(bright, -9)] * (len(space) - 2)
        return self.weight * torch.cat([-bright, bright, *others], 1)


def photo(path, size=(8, 12), exif=None, suffix_format=None):
    """Write an image whose left half is dark and whose right half is bright, as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, size[1] // 2 :] = 255
    Image.fromarray(pixels).save(path, suffix_format, **({} if exif is None else {"exif": exif}))
    return path


def read(path):
    with Image.open(path) as image:
        return image.mode, np.array(image)
