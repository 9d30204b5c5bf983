"""AutoUniSeg on values computed by hand, and the graph stage in the exam that every method passes."""

import numpy as np
import pytest
import torch

from manyseg import testing
from manyseg.methods.autouniseg import AutoUniSeg
from manyseg.models import Pixels
from manyseg.statistics import Statistics

SMALL = {"features": "learned", "hidden": 16, "init": "names"}


def pixels(channels=8):
    return Pixels.build(backbone="tiny", pretrained=False, channels=channels)


def statistics(counts):
    return Statistics("key", {k: np.array(v) for k, v in counts.items()}, {}, {}, {})


def build(**options):
    torch.manual_seed(0)
    return AutoUniSeg(pixels(), testing.toy_spaces(), **(SMALL | options))


# The exam. What the graph learns from a random network is nothing; see below for what it learns from a trained one.


@pytest.mark.parametrize("combine", ["sum", "lse"])
@pytest.mark.parametrize("check", testing.EXAM[1:], ids=lambda check: check.__name__)
def test_exam_of_the_graph_stage(check, combine):
    check(lambda pixels, spaces: AutoUniSeg(pixels, spaces, combine=combine, null_row=True, turn=2, **SMALL))


def test_free_nodes_learn_the_toy_world_by_log_sum_exp_of_cosines_too():
    options = {"learn": "nodes", "init": "names", "combine": "lse", "normalise": True, "scale": 10.0}
    testing.learns_the_toy_world(lambda p, s: AutoUniSeg(p, s, **options), steps=160)


def test_the_exam_of_free_nodes_is_passed_from_any_start():
    for init in ("names", "disjoint"):
        for check in testing.EXAM[1:6]:
            check(lambda p, s, init=init: AutoUniSeg(p, s, learn="nodes", init=init))
