"""A method whose predictions are written in the images, and datasets of such images, for tests of evaluation.

The red channel of a pixel, over 10, is its unified node.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from manyseg.data import load
from manyseg.labels import IGNORE, LabelSpace, Taxonomy
from manyseg.methods.base import Method

STREET = LabelSpace.of("street", ["road", "car", "sky"])
PARK = LabelSpace.of("park", ["path", "tree"])
TAXONOMY = Taxonomy.disjoint([STREET, PARK])
"""Nodes: 0 road, 1 car, 2 sky, 3 path, 4 tree."""


class Eye(nn.Module):
    """Its features are the node that every pixel names; counts how often it looks."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.looks = 0

    def forward(self, image):
        self.looks += 1
        return (image[:, 0].float() / 10).round().long()


class Echo(Method):
    """Says what `Eye` sees, at the resolution of the image."""

    def __init__(self, taxonomy):
        super().__init__(Eye(), taxonomy.spaces)
        self._taxonomy = taxonomy
        self.norm = nn.BatchNorm2d(1)
        self.modes = set()

    @property
    def taxonomy(self):
        return self._taxonomy

    def batch_loss(self, features, batch):
        raise NotImplementedError

    def predict(self, features, space, relation=None):
        self.modes.add((self.training, torch.is_grad_enabled()))
        nodes = F.one_hot(features, len(self.taxonomy.unified)).movedim(-1, 1).float()
        if space == self.taxonomy.unified:
            return nodes
        if relation is None:
            relation = torch.from_numpy(self.taxonomy.relations[space.name])
        scores = torch.einsum("du,buhw->bdhw", relation.float(), nodes)
        return scores.masked_fill(~relation.any(1)[:, None, None], -math.inf)


def write(folder, name, classes, pairs, split="val"):
    """Write a dataset of (nodes that the method will see, true labels) and open it."""
    root = folder / name
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for i, (nodes, labels) in enumerate(pairs):
        nodes, labels = np.array(nodes), np.array(labels)
        image = np.stack([nodes * 10] * 3, -1).astype(np.uint8)
        Image.fromarray(image).save(root / f"images/{split}-{i}.png")
        Image.fromarray(np.where(labels == IGNORE, 255, labels).astype(np.uint8)).save(root / f"masks/{split}-{i}.png")
    (root / f"{split}.txt").write_text("\n".join(f"{split}-{i}" for i in range(len(pairs))))
    card = folder / f"{name}.toml"
    card.write_text(
        f'name = "{name}"\nimage = "images/{{id}}.png"\nmask = "masks/{{id}}.png"\nencoding = "index"\nignore = [255]\n'
        'splits = { train = "train.txt", val = "val.txt" }\n[classes]\n'
        + "".join(f'"{c}" = {i}\n' for i, c in enumerate(classes))
    )
    return load(card, root, split)
