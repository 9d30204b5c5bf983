"""Soft maps of nodes to classes rounded to Boolean ones, on values computed by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyseg.labels import JointClasses, LabelSpace
from manyseg.methods.rounding import Rounding


def classes(*sizes):
    return JointClasses(tuple(LabelSpace.of(f"d{k}", [f"c{i}" for i in range(n)]) for k, n in enumerate(sizes)))


SKEWED = torch.tensor([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])


def test_a_class_that_no_node_prefers_gets_the_one_that_can_be_spared_best():
    rounding = Rounding(classes(2), np.eye(2, 3, dtype=bool), prune="mass")
    rounding.update(SKEWED)
    assert rounding.maps.tolist() == [[True, True, False], [False, False, True]]


def test_the_demand_of_classes_follows_the_plan_slowly_and_is_kept_with_it():
    rounding = Rounding(classes(2), np.eye(2, 3, dtype=bool), prune="mass")
    assert rounding.demand.tolist() == [0.5, 0.5]
    rounding.update(SKEWED)
    first = rounding.demand.clone()
    # Nearly balanced at reg_m = 5, so a class gets what it asks for.
    assert first.sum().item() == pytest.approx(1)
    assert first.tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    rounding.update(SKEWED)
    state = rounding.state_dict()
    again = Rounding(classes(2), np.zeros((2, 3), bool))
    again.load_state_dict(state)
    for part in (rounding, again):
        part.update(SKEWED.flip(1))
    assert all(torch.equal(again.state_dict()[k], v) for k, v in rounding.state_dict().items())


def test_pruning_by_share_makes_maps_sparser_and_by_mass_does_not():
    torch.manual_seed(0)
    soft = (2 * torch.randn(6, 20)).softmax(0)
    links = {}
    for prune in ("mass", "share"):
        rounding = Rounding(classes(6), np.zeros((6, 20), bool), prune)
        rounding.update(soft)
        links[prune] = int(rounding.maps.sum())
    assert links["mass"] == 20
    assert links["share"] < 20


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 6), st.sampled_from(["mass", "share"]))
def test_every_map_is_exclusive_and_covering(seed, size, more, prune):
    generator = torch.Generator().manual_seed(seed)
    nodes = size + more
    soft = torch.cat([(4 * torch.randn(d, nodes, generator=generator)).softmax(0) for d in (size, 1)])
    rounding = Rounding(classes(size, 1), np.zeros((size + 1, nodes), bool), prune)
    for _ in range(2):
        rounding.update(soft)
        for part in rounding.maps.split([size, 1]):
            assert (part.sum(0) <= 1).all()
            assert part.any(1).all()
