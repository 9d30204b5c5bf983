"""The published programme that merges classes, and the joining of pairs before an exact partition."""

import numpy as np

from manyseg.relate.programme import _with_last, merge


def merged(S, sizes=(1, 1), **options):
    return merge(np.array(S, float), sizes, **{"tau": 0.5, "pair_cost": 1.0, "lam": 3.0, **options})


def test_a_pair_is_admissible_where_both_shares_are_above_the_recall_less_tau():
    assert merged([[1, 0.51], [0.51, 1]]) == [(0, 1)]
    assert merged([[1, 0.5], [0.51, 1]]) == [(0,), (1,)]
    assert merged([[1, 0.51], [0.5, 1]]) == [(0,), (1,)]


def test_a_share_of_nothing_is_none_however_small_the_recall():
    assert merged([[0.2, 0], [0, 0.2]]) == [(0,), (1,)]


def test_classes_of_one_dataset_are_never_merged():
    assert merged([[1, 0.9], [0.9, 1]], sizes=(2,), max_size=2) == [(0,), (1,)]


def test_a_joined_row_comes_last_in_both_directions():
    square = np.array([[1, 2, 3], [2, 4, 5], [3, 5, 6]])
    found = _with_last(square, [0, 2], np.array([7, 8, 9]))
    assert found.tolist() == [[1, 3, 7], [3, 6, 9], [7, 9, 0]]
