"""Unbalanced transport against POT, and the rounding of plans to maps on values computed by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import logsumexp

from manyseg.errors import UserError
from manyseg.relate.assignment import covering_assignment, prune_by_score, prune_by_usage, transport

SHARES = np.array([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])
"""Three nodes, two classes: the plain argmax leaves class 1 empty."""


def soft(rng, nodes, classes):
    """The cost of a soft map in which most nodes have a class, some none."""
    logits = rng.normal(size=(classes, nodes)) * 0.02
    linked = rng.random(nodes) < 0.7
    logits[rng.integers(0, classes, nodes), np.arange(nodes)] += np.where(linked, 0.07 * np.log(9 * classes), 0)
    e = np.exp((logits - logits.max(0)) / 0.07)
    return (1 - e / e.sum(0) + 1e-8).T / 2


def residual(plan, cost, share, reg, reg_m):
    """How far the potentials are from the two equations of the docstring."""
    phi = reg_m / (reg_m + reg)
    f = phi * (np.log(1 / len(cost)) - logsumexp(plan.class_potentials - cost / reg, 1))
    g = phi * (np.log(share) - logsumexp(plan.node_potentials[:, None] - cost / reg, 0))
    return max(np.abs(f - plan.node_potentials).max(), np.abs(g - plan.class_potentials).max())


@pytest.mark.parametrize(
    ("nodes", "classes", "reg", "reg_m"), [(12, 5, 0.05, 1.0), (30, 8, 0.02, 5.0), (7, 7, 0.1, 0.1)]
)
def test_the_plan_is_that_of_pot(nodes, classes, reg, reg_m):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # POT asks for backends and warns of its own arguments
        ot = pytest.importorskip("ot")
        rng = np.random.default_rng(nodes)
        cost, share = soft(rng, nodes, classes), rng.dirichlet(np.full(classes, 5.0))
        expected = ot.unbalanced.sinkhorn_unbalanced(
            np.full(nodes, 1 / nodes), share, cost, reg, reg_m, reg_type="entropy", numItermax=100_000, stopThr=1e-13
        )
    assert transport(cost, share, reg=reg, reg_m=reg_m).mass == pytest.approx(expected, rel=1e-6, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9), st.integers(1, 6), st.sampled_from([0.005, 0.01, 0.3]), st.sampled_from([0.05, 5.0]), st.data()
)
def test_the_potentials_solve_both_equations(nodes, classes, reg, reg_m, data):
    cost = data.draw(arrays(np.float64, (nodes, classes), elements=st.floats(0, 0.5, width=16)))
    share = np.full(classes, 1 / classes)
    plan = transport(cost, share, reg=reg, reg_m=reg_m)
    assert np.isfinite(plan.mass).all()
    assert residual(plan, cost, share, reg, reg_m) < 1e-6


def test_costs_at_which_plain_scaling_underflows_are_solved():
    """exp(-50 / 0.01) is 0 in any floating-point number."""
    cost = 50 * soft(np.random.default_rng(0), 20, 6)
    share = np.full(6, 1 / 6)
    plan = transport(cost, share)
    assert residual(plan, cost, share, 0.01, 5.0) < 1e-6
    assert (plan.mass.sum(1) > 0).all()


def test_mass_is_kept_where_marginals_weigh_much_and_lost_where_they_weigh_little():
    cost = soft(np.random.default_rng(1), 20, 6)
    strict, loose = (transport(cost, np.full(6, 1 / 6), reg_m=m).mass for m in (500.0, 0.01))
    assert strict.sum(1) == pytest.approx(np.full(20, 1 / 20), rel=2e-3)
    assert strict.sum(0) == pytest.approx(np.full(6, 1 / 6), rel=2e-3)
    assert loose.sum() < 0.6 < 0.99 < strict.sum()


def test_a_start_from_an_earlier_plan_gives_the_same_plan_in_fewer_steps():
    rng = np.random.default_rng(2)
    cost, share = soft(rng, 60, 20), np.full(20, 1 / 20)
    before = transport(cost, share)
    near = cost + 0.001 * rng.random(cost.shape)
    cold, warm = (
        transport(near, share),
        transport(near, share, initial=(before.node_potentials, before.class_potentials)),
    )
    assert warm.mass == pytest.approx(cold.mass, rel=1e-5, abs=1e-12)
    assert warm.steps < cold.steps


# Rounding.


def test_transport_gives_an_empty_class_the_node_that_can_be_spared_best():
    cost = (1 - SHARES + 1e-8).T / 2
    mass = transport(cost, np.full(2, 0.5)).mass
    assert SHARES.argmax(0).tolist() == [0, 0, 0]
    assert covering_assignment(mass / mass.sum()).tolist() == [0, 0, 1]


def test_the_repair_takes_the_best_node_and_not_the_worst():
    assert covering_assignment(np.array([[0.3, 0.01], [0.3, 0.02], [0.3, 0.03]])).tolist() == [0, 0, 1]


def test_the_repair_leaves_no_other_class_empty():
    """Node 0 would give class 2 most, but it is the only one of class 0."""
    mass = np.array([[0.5, 0.0, 0.4], [0.1, 0.5, 0.2], [0.0, 0.5, 0.1]])
    assert covering_assignment(mass).tolist() == [0, 2, 1]


def test_fewer_nodes_than_classes_is_an_error_with_both_numbers():
    with pytest.raises(UserError, match="2 nodes cannot cover 3 classes"):
        covering_assignment(np.ones((2, 3)))


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 5), st.integers(0, 4), st.floats(0, 1), st.data())
def test_every_map_is_exclusive_and_covering(classes, more, least, data):
    shape = (classes + more, classes)
    mass = data.draw(arrays(np.float64, shape, elements=st.floats(0, 1, width=16)))
    owner = covering_assignment(mass)
    assert set(owner.tolist()) == set(range(classes))
    relation = prune_by_score(owner, mass, least)
    assert (relation.sum(0) <= 1).all()
    assert (relation.sum(1) >= 1).all()
    counts = data.draw(arrays(np.int64, (classes, classes + more), elements=st.integers(0, 50)))
    unlabelled = data.draw(arrays(np.int64, classes + more, elements=st.integers(0, 50)))
    left = prune_by_usage(relation, counts, unlabelled)
    assert (left <= relation).all()
    assert left.any(1).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(0, 4), st.data())
def test_a_node_leaves_its_best_class_for_an_empty_one_alone(classes, more, data):
    mass = data.draw(arrays(np.float64, (classes + more, classes), elements=st.floats(0, 1, width=16)))
    owner, best = covering_assignment(mass), mass.argmax(1)
    empty = set(range(classes)) - set(best.tolist())
    moved = owner[owner != best].tolist()
    assert sorted(moved) == sorted(empty)


def test_thinning_drops_weak_nodes_of_classes_with_several_and_keeps_the_best():
    score = np.array([[0.6, 0.0], [0.4, 0.0], [0.3, 0.0], [0.0, 0.2]])
    assert prune_by_score(np.array([0, 0, 0, 1]), score, 0.35).tolist() == [
        [True, True, False, False],
        [False, False, False, True],
    ]
    assert prune_by_score(np.array([0, 0, 0, 1]), score, 0.9).sum(1).tolist() == [1, 1]
    # A node with exactly the least score stays.
    assert prune_by_score(np.array([0, 0, 0, 1]), score, 0.4).sum(1).tolist() == [2, 1]


def test_a_node_with_a_hundredth_of_its_class_or_less_is_not_used():
    relation = np.array([[True, True, True, False]])
    assert prune_by_usage(relation, np.array([[900, 95, 5, 10_000]]), np.zeros(4, int)).tolist() == [
        [True, True, False, False]
    ]
    assert prune_by_usage(relation, np.array([[990, 10, 0, 0]]), np.zeros(4, int)).tolist() == [
        [True, False, False, False]
    ]


def test_a_node_half_of_whose_pixels_have_no_label_is_still_used():
    relation = np.array([[True, True]])
    for unlabelled, used in ((40, True), (41, False)):
        found = prune_by_usage(relation, np.array([[60, 40]]), np.array([0, unlabelled]))
        assert found.tolist() == [[True, used]]


def test_a_class_without_pixels_keeps_all_its_nodes():
    relation = np.array([[True, True, False], [False, False, True]])
    assert prune_by_usage(relation, np.array([[0, 0, 0], [0, 0, 9]]), np.zeros(3, int)).tolist() == relation.tolist()


def test_of_many_equally_rare_nodes_one_stays():
    assert prune_by_usage(np.ones((1, 200), bool), np.ones((1, 200), int), np.zeros(200, int)).sum() == 1
