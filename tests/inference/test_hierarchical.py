"""The deepest class of a hierarchy at native size, against the same on upsampled probabilities."""

import pytest
import torch
from torch.nn import functional as F

from manyseg.inference.hierarchical import deepest
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.labels.hierarchy import Hierarchy

FINE = ("road", "car", "bus", "van", "person", "rider", "sky")
COARSE = {"vehicle": (1, 2, 3), "large": (2, 3), "human": (4, 5)}


def hierarchy():
    """Seven leaves, two inner classes of the first level, and one below "vehicle"."""
    unified, relations = LabelSpace.of("unified", FINE), {}
    spaces = [LabelSpace.of("fine", FINE)]
    relations["fine"] = torch.eye(len(FINE), dtype=torch.bool).numpy()
    for name, inner in (("coarse", ("vehicle", "human")), ("middle", ("large",))):
        groups = {key: COARSE[key] for key in inner}
        left = [n for n in range(len(FINE)) if not any(n in group for group in groups.values())]
        classes = [*groups, *(FINE[n] for n in left)]
        spaces.append(LabelSpace.of(name, classes))
        relation = torch.zeros(len(classes), len(FINE), dtype=torch.bool)
        for row, nodes in enumerate([*groups.values(), *((n,) for n in left)]):
            relation[row, list(nodes)] = True
        relations[name] = relation.numpy()
    return Hierarchy.of(Taxonomy(unified, tuple(spaces), relations))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_that_of_upsampled_probabilities(seed):
    tree = hierarchy()
    assert {"vehicle", "large", "human"} < set(tree.space.names)
    generator = torch.Generator().manual_seed(seed)
    probability = (3 * torch.randn(2, len(FINE), 5, 6, generator=generator)).softmax(1)
    classes = torch.einsum("nu,buhw->bnhw", torch.from_numpy(tree.leaves).float(), probability)
    found = deepest(classes.log(), tree, (37, 23))
    large = F.interpolate(classes, (37, 23), mode="bilinear", align_corners=False)
    depth = torch.tensor([len(tree.path(n)) for n in range(tree.root)])
    sure = large > 0.5
    # At most one class of a level is sure, so that no two of the deepest are as deep.
    expected = torch.where(sure, depth[:, None, None], 0).argmax(1)
    tops = list(tree.children(tree.root))
    expected = torch.where(sure.any(1), expected, torch.tensor(tops)[large[:, tops].argmax(1)])
    clear = ((large - 0.5).abs() > 1e-5).all(1)
    assert torch.equal(found[clear], expected[clear])
    assert len(set(tree.space.names) - {tree.space.names[n] for n in found.unique()}) <= 1
