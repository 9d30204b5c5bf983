"""Maps of least cost against brute force, and on the worked examples."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from manyseg.errors import UserError
from manyseg.relate.assignment import map_by_iou, min_cost_assignment


def cheapest_by_brute_force(cost):
    """The least total cost over all maps that cover min(U, D) classes."""
    nodes, classes = cost.shape
    maps = (m for m in product(range(classes), repeat=nodes) if len(set(m)) == min(nodes, classes))
    return min(sum(cost[n, c] for n, c in enumerate(m)) for m in maps)


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 5), st.integers(1, 4), st.data())
def test_the_map_is_as_cheap_as_the_best_of_all_maps(nodes, classes, data):
    cost = data.draw(arrays(np.float64, (nodes, classes), elements=st.floats(-3, 3, width=16)))
    found = min_cost_assignment(cost, partial=True)
    assert len(set(found.tolist())) >= min(nodes, classes)
    assert cost[np.arange(nodes), found].sum() == pytest.approx(cheapest_by_brute_force(cost), abs=1e-9)


def test_a_node_goes_to_a_class_that_would_otherwise_be_empty():
    """AutoUniSeg: the plain argmax leaves class 1 empty, and node 2 can be spared best."""
    share = np.array([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])
    assert min_cost_assignment(1 - share.T).tolist() == [0, 0, 1]


def test_fewer_nodes_than_classes_is_an_error_with_both_numbers():
    with pytest.raises(UserError, match="2 nodes cannot cover 3 classes"):
        min_cost_assignment(np.zeros((2, 3)))


def test_as_many_nodes_as_classes_are_one_each():
    assert min_cost_assignment(np.array([[1.0, 0.0], [0.0, 1.0]])).tolist() == [1, 0]


def test_a_single_pixel_decides_where_there_is_no_other():
    assert map_by_iou(np.array([[0, 1], [1, 0]])).tolist() == [[False, True], [True, False]]


def test_a_cost_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="1 of 4 costs"):
        min_cost_assignment(np.array([[0.0, np.inf], [0.0, 0.0]]))


def test_the_fitted_map_takes_the_best_iou_of_each_node():
    """IoU is .8, .1333 / 0, .7143 (methods/autouniseg, test 10)."""
    assert map_by_iou(np.array([[8, 2], [0, 5]])).tolist() == [[True, False], [False, True]]


def test_iou_and_not_the_share_of_the_node_decides():
    # Node 1 falls mostly on class 0 (6 of 10 pixels), but its IoU is 6/104 there and 4/11 with class 1.
    counts = np.array([[94, 6, 0], [0, 4, 1]])
    assert map_by_iou(counts).tolist() == [[True, False, False], [False, True, True]]


def test_the_iou_is_of_the_union_and_not_of_the_sum_of_both():
    # IoU: 7/12 + 0/5 against 2/9 + 3/10. Of the sums 10 + 9, 5, 9 + 2, 10 + 3 the second would be larger.
    assert map_by_iou(np.array([[7, 2], [3, 0]])).tolist() == [[True, False], [False, True]]


def test_several_nodes_may_make_one_class_and_nodes_never_predicted_cover_what_is_left():
    counts = np.array([[50, 40, 0], [0, 0, 0]])
    assert map_by_iou(counts).tolist() == [[True, True, False], [False, False, True]]


def test_with_fewer_nodes_than_classes_the_classes_seen_best_are_read():
    counts = np.array([[9, 1], [3, 1], [0, 8]])
    assert map_by_iou(counts).tolist() == [[True, False], [False, False], [False, True]]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_every_node_has_one_class_and_every_class_a_node_where_there_are_enough(classes, nodes, data):
    counts = data.draw(arrays(np.int64, (classes, nodes), elements=st.integers(0, 100)))
    relation = map_by_iou(counts)
    assert (relation.sum(0) == 1).all()
    assert relation.any(1).sum() >= min(classes, nodes)


def test_the_union_has_all_pixels_of_the_node_whatever_their_class():
    # The last node is 5 / (20 + 8 - 5) of the first class and 3 / (10 + 8 - 3) of the second.
    found = map_by_iou(np.array([[15, 0, 5], [0, 7, 3]]))
    assert found.tolist() == [[True, False, True], [False, True, False]]
