"""What a decision says of classes that are probably one with the decided ones: probabilities by hand."""

import numpy as np
import pytest

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace
from manyseg.relate.calibrate import logit, sigmoid
from manyseg.relate.constraints import Constraints
from manyseg.relate.decisions import DECIDED, Decisions, _closure

SPACES = tuple(LabelSpace.of(d, names) for d, names in (("a", ["x", "y"]), ("b", ["x"]), ("c", ["z", "w"])))
CLASSES = JointClasses(SPACES)
AX, AY, BX, CZ, CW = range(5)


def decided(**links):
    return Decisions(**({"must_link": (), "apart": (), "within": ()} | links))


def probabilities():
    p = np.full((5, 5), 0.2)
    p[AX, BX], p[BX, AX] = 0.9, 0.8
    p[BX, CZ], p[CZ, BX] = 0.3, 0.4
    return p


def test_what_was_decided_is_certain():
    odds = logit(probabilities())
    out = decided(apart=((AX, CZ), (CZ, AX)), within=((AX, CW),)).pin(odds)
    assert out[AX, CZ] == out[CZ, AX] == out[CW, AX] == -DECIDED == -60
    assert out[AX, CW] == DECIDED
    untouched = np.ones((5, 5), bool)
    untouched[[AX, CZ, CW, AX], [CZ, AX, AX, CW]] = False
    assert out[untouched] == pytest.approx(odds[untouched])
    assert (odds == logit(probabilities())).all()


def test_what_is_within_both_ways_is_decided_both_ways():
    out = decided(within=((AX, BX), (BX, AX))).pin(np.zeros((5, 5)))
    assert out[AX, BX] == out[BX, AX] == DECIDED


def test_a_class_is_apart_from_another_as_far_as_it_is_one_with_what_is():
    out = decided(apart=((AX, CZ), (CZ, AX))).pin(logit(probabilities()), [(AX, BX), (CZ,), (AY,), (CW,)])
    # They are one with the smaller of both probabilities.
    assert sigmoid(out[BX, CZ]) == pytest.approx(0.3 * (1 - 0.8))
    assert sigmoid(out[CZ, BX]) == pytest.approx(0.4 * (1 - 0.8))
    assert sigmoid(out[BX, CW]) == pytest.approx(0.2)


def test_a_class_is_within_another_as_far_as_it_is_one_with_what_is():
    clusters = [(AX, BX), (CZ,), (AY,), (CW,)]
    out = decided(within=((AX, CZ),)).pin(logit(probabilities()), clusters)
    assert sigmoid(out[BX, CZ]) == pytest.approx(0.8)
    assert sigmoid(out[CZ, BX]) == pytest.approx(0.4)
    out = decided(within=((CZ, AX),)).pin(logit(probabilities()), clusters)
    assert sigmoid(out[CZ, BX]) == pytest.approx(0.8)
    assert sigmoid(out[BX, CZ]) == pytest.approx(0.3)


def test_classes_of_a_cluster_are_one_with_a_half_at_least():
    p = probabilities()
    p[BX, AX] = 0.1
    out = decided(within=((AX, CZ),)).pin(logit(p), [(AX, BX)])
    assert sigmoid(out[BX, CZ]) == pytest.approx(0.5)


def test_everything_that_is_reached_is_listed_without_the_start():
    assert _closure([(1, 2), (2, 3), (3, 1), (4, 1)]) == {1: {2, 3}, 2: {1, 3}, 3: {1, 2}, 4: {1, 2, 3}}


def test_parts_of_what_is_apart_are_apart_and_pairs_within_a_dataset_are_not_listed():
    constraints = Constraints(
        cannot_link=((("a", "x"), ("c", "z")),), part_of=((("b", "x"), ("a", "x")),), must_link=()
    )
    found = Decisions.of(constraints, CLASSES)
    assert found.within == ((BX, AX),)
    assert set(found.apart) == {(AX, CZ), (CZ, AX), (BX, CZ), (CZ, BX), (BX, AY), (AY, BX)}
    assert set(found.unequal) == {*found.apart, (BX, AX)}


def test_one_within_the_other_both_ways_is_equal():
    constraints = Constraints(cannot_link=(), part_of=(), must_link=((("a", "x"), ("b", "x")),))
    found = Decisions.of(constraints, CLASSES)
    assert found.must_link == ((AX, BX),)
    assert found.within == ((AX, BX), (BX, AX))
    assert set(found.unequal) == set(found.apart)
    with pytest.raises(UserError, match="joins two classes of one dataset"):
        Decisions.of(
            Constraints(cannot_link=(), part_of=(), must_link=((("a", "x"), ("b", "x")), (("b", "x"), ("a", "y")))),
            CLASSES,
        )
