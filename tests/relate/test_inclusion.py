"""Which classes lie within which, from confusions: by hand, and on a planted world of counts."""

import numpy as np
import pytest

from manyseg.labels import JointClasses, LabelSpace
from manyseg.relate.inclusion import inclusion_log_odds, related_nodes

FINE = LabelSpace.of("fine", ["road", "line", "cat"])
COARSE = LabelSpace.of("coarse", ["ground", "animal"])
CLASSES = JointClasses((FINE, COARSE))
NOTHING = np.zeros((2, 5), int)


def counts(**blocks):
    """Counts [T, T] of two datasets whose own heads are right; `fine` is what the head of coarse says, and back."""
    out = np.zeros((5, 5), int)
    out[:3, :3], out[3:, 3:] = np.diag([100, 50, 50]), np.diag([150, 50])
    out[:3, 3:], out[3:, :3] = blocks["fine"], blocks["coarse"]
    return out


PLANTED = counts(fine=[[100, 0], [50, 0], [0, 50]], coarse=[[100, 50, 0], [0, 0, 50]])


def odds_of(n, unlabelled=NOTHING, prior=0.0):
    return inclusion_log_odds(CLASSES, n, unlabelled, np.full((5, 5), prior))


def test_shares_are_corrected_for_chance():
    n = counts(fine=[[90, 10], [25, 25], [20, 30]], coarse=[[80, 50, 20], [10, 0, 40]])
    # road within ground: 90 of its 100 pixels, where 135 of all 200 are called ground; and of the 90 pixels that are
    # called road on coarse images 80 are ground, where 150 of all 200 are.
    called, labelled = (0.9 - 0.675) / (1 - 0.675), (80 / 90 - 0.75) / (1 - 0.75)
    # A geometric mean, weighted by how far each share could be from chance.
    p = np.exp((0.325 * np.log(called) + 0.25 * np.log(labelled)) / 0.575)
    # road within animal has no share beyond chance, so that ground excludes hardly anything.
    assert odds_of(n)[0, 3] == pytest.approx(np.log(p / (1 - p)), abs=1e-3)


def test_shares_are_of_what_the_heads_know_of_their_own_classes():
    n = counts(fine=[[80, 20], [40, 10], [10, 40]], coarse=[[100, 50, 0], [0, 0, 50]])
    n[3, 3:], n[4, 3:] = [120, 30], [10, 40]
    # cat within animal: 40 of 50 are called animal, 70 of all 200; the head itself finds 40 of 50 animals.
    called = (0.8 - 0.35) / (1 - 0.35) / 0.8
    p = np.exp(0.65 * np.log(called) / (0.65 + 0.75))
    assert odds_of(n)[2, 4] == pytest.approx(np.log(p / (1 - p)), abs=1e-3)


def test_heads_that_call_everything_alike_are_no_evidence():
    n = counts(fine=[[100, 0], [50, 0], [50, 0]], coarse=[[150, 0, 0], [50, 0, 0]])
    assert (odds_of(n) <= 0).all()
    assert odds_of(n)[0, 3] < -5


def test_pixels_without_a_label_count_against():
    n = counts(fine=[[0, 100], [0, 50], [0, 50]], coarse=[[0, 0, 0], [0, 0, 50]])
    # The coarse head calls roads animals, having nothing else to say; but on coarse images roads have no label.
    odds = odds_of(n, np.array([[0] * 5, [500, 250, 0, 300, 0]]))
    assert odds[0, 4] < -5
    assert odds[2, 4] > 5


def test_a_class_that_its_own_head_does_not_know_has_the_prior_alone():
    n = PLANTED.copy()
    n[2, :3], n[0, :3] = [50, 0, 0], [100, 0, 0]
    odds = odds_of(n, prior=0.5)
    # The other class of coarse is as likely, and so is none of them.
    assert odds[2, 4] == pytest.approx(-1.5 - np.log1p(np.exp(-1.5)), abs=1e-6)


def test_within_a_dataset_nothing_is_possible():
    assert (odds_of(PLANTED)[:3, :3] == -40).all()
    assert (odds_of(PLANTED)[3:, 3:] == -40).all()


def test_parts_and_equal_classes_are_found():
    nodes = related_nodes(CLASSES, odds_of(PLANTED), PLANTED)
    # Nodes: road, line, cat (and animal); ground is road and line, and no node of its own.
    expected = np.zeros((5, 5), bool)
    expected[[0, 1, 2, 3, 3, 4], [0, 1, 2, 0, 1, 2]] = True
    assert (nodes.relation == expected).all()
    core = np.zeros((5, 5), bool)
    core[[0, 1, 2, 4], [0, 1, 2, 2]] = True
    assert (nodes.core == core).all()
    assert not nodes.outside.any()


def test_a_whole_that_its_parts_do_not_cover_keeps_a_node():
    n = counts(fine=[[100, 0], [50, 0], [0, 50]], coarse=[[30, 15, 105], [0, 0, 50]])
    odds = np.full((5, 5), -40.0)
    odds[0, 3] = odds[1, 3] = 3
    assert related_nodes(CLASSES, odds, n).relation[3].tolist() == [True, True, False, True, False]


def test_what_is_uncertain_is_neither_united_nor_outside():
    odds = np.full((5, 5), -40.0)
    odds[2, 4] = odds[4, 2] = -0.5
    nodes = related_nodes(CLASSES, odds, PLANTED)
    assert (nodes.relation == np.eye(5, dtype=bool)).all()
    # Roads and lines are outside of coarse for certain; cats may be animals, and animals cats.
    assert nodes.outside.tolist() == [[False, False, False, True, False], [True, True, False, False, False]]


def test_clusters_are_compared_only_by_classes_of_datasets_that_the_first_lacks():
    spaces = [LabelSpace.of("a", ["road", "car"]), LabelSpace.of("b", ["street"]), LabelSpace.of("c", ["auto"])]
    # Classes: road, car of a; street of b is road, auto of c is car; road is rather not within auto, nor is street.
    odds = np.full((4, 4), -40.0)
    odds[0, 2] = odds[2, 0] = odds[1, 3] = odds[3, 1] = 5.0
    odds[0, 3] = odds[2, 3] = -0.5
    expected = np.zeros((4, 4), bool)
    expected[[0, 2, 1, 3], [0, 0, 1, 1]] = True
    nodes = related_nodes(JointClasses(tuple(spaces)), odds, np.zeros((4, 4), int))
    assert (nodes.relation == expected).all()


def test_a_class_lies_within_one_class_of_a_dataset():
    odds = np.full((5, 5), -40.0)
    odds[0, 3], odds[0, 4] = 3.0, 2.0
    nodes = related_nodes(CLASSES, odds, np.zeros((5, 5), int))
    assert nodes.relation[3:, 0].tolist() == [True, False]
