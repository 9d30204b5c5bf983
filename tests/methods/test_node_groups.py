"""The groups of nodes that compete in a dataset, by hand."""

import numpy as np

from manyseg.methods import node_groups
from manyseg.methods.node_groups import NodeGroups


def test_nodes_of_the_same_classes_are_a_group_and_the_others_are_the_last():
    relation = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0]], bool)
    groups = NodeGroups.of(relation, np.array([1, 1, 1, 1, 1, 0], bool))
    assert groups.nodes.astype(int).tolist() == [
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
    ]
    assert groups.of_class.astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]


def test_without_other_nodes_there_is_no_group_of_them():
    groups = NodeGroups.of(np.array([[1, 0, 0]], bool), np.zeros(3, bool))
    assert groups.nodes.tolist() == [[True, False, False]]


def test_the_nodes_of_other_datasets_are_not_gone_through_one_by_one(monkeypatch):
    calls, real = [], np.flatnonzero
    monkeypatch.setattr(node_groups.np, "flatnonzero", lambda a: calls.append(a) or real(a))
    relation = np.zeros((3, 1000), bool)
    relation[range(3), range(3)] = True
    groups = NodeGroups.of(relation, np.ones(1000, bool))
    assert groups.nodes.sum(1).tolist() == [1, 1, 1, 997]
    assert len(calls) == 2 + 3
