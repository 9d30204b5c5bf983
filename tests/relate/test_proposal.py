"""Kinds of pairs, nodes and reasons of a proposal, from log-odds made by hand."""

import numpy as np
import pytest

from manyseg.labels import JointClasses, LabelSpace
from manyseg.relate import confusion_rates
from manyseg.relate.calibrate import sigmoid
from manyseg.relate.decisions import DECIDED
from manyseg.relate.lexicon_evidence import LexiconEvidence
from manyseg.relate.log_odds import Evidence
from manyseg.relate.proposal import (
    CONTAINS,
    EQUAL,
    OVERLAPS,
    PART_OF,
    UNRELATED,
    _common_parts,
    _pairs,
    _taxonomy,
    kinds_of,
)

SPACES = [LabelSpace.of("a", ["car", "van"]), LabelSpace.of("b", ["auto"]), LabelSpace.of("c", ["vehicle", "truck"])]
CLASSES = JointClasses(tuple(SPACES))
CAR, VAN, AUTO, VEHICLE, TRUCK = range(5)
APART = np.arange(5)
NOTHING = np.zeros((5, 5), bool)


def log_odds(fill=-5.0, **pairs):
    """Log-odds of the pairs first_second."""
    out = np.full((5, 5), fill)
    names = {"car": CAR, "van": VAN, "auto": AUTO, "vehicle": VEHICLE, "truck": TRUCK}
    for pair, value in pairs.items():
        out[tuple(names[n] for n in pair.split("_"))] = value
    return out


def kinds(group=APART, **pairs):
    return kinds_of(CLASSES, group, log_odds(**pairs))


def test_kinds_follow_from_both_directions():
    found = kinds(car_auto=1, auto_car=-1, van_vehicle=2, vehicle_van=2)
    assert (found[CAR, AUTO], found[AUTO, CAR]) == (PART_OF, CONTAINS)
    assert found[VAN, VEHICLE] == found[VEHICLE, VAN] == OVERLAPS
    assert found[CAR, VEHICLE] == found[VEHICLE, CAR] == UNRELATED


def test_even_odds_and_classes_of_one_dataset_are_unrelated():
    assert (kinds(car_auto=0.0, car_van=5, van_car=5) == UNRELATED).all()


def test_classes_of_one_cluster_are_equal_whatever_their_odds():
    found = kinds(np.array([0, 1, 0, 2, 3]), car_auto=-9)
    assert found[CAR, AUTO] == found[AUTO, CAR] == EQUAL
    assert (found != UNRELATED).sum() == 2


def test_of_two_that_hold_each_other_the_one_whose_dataset_tells_them_apart_is_the_part():
    # Auto and vehicle hold each other; c has a truck that is equal to auto, so that c tells vehicles and autos apart.
    found = kinds(np.array([0, 1, 2, 3, 2]), auto_vehicle=1, vehicle_auto=1)
    assert (found[VEHICLE, AUTO], found[AUTO, VEHICLE]) == (PART_OF, CONTAINS)
    # Where both datasets do, they overlap.
    group = np.array([0, 1, 2, 0, 2])  # Car = vehicle, auto = truck; a and b: b has no class in the cluster of a's van.
    found = kinds(group, auto_vehicle=1, vehicle_auto=1)
    assert (found[VEHICLE, AUTO], found[AUTO, VEHICLE]) == (PART_OF, CONTAINS)


def evidence(**known):
    tables = {k: NOTHING.copy() for k in ("equal", "within", "partly", "different", "elsewhere")}
    for x, y in known.pop("partly", ()):
        tables["partly"][x, y] = True
    words = LexiconEvidence(**tables, readings=())
    return Evidence(NOTHING, NOTHING, None, None, None, words)


def test_classes_with_a_part_in_common_are_a_node_more_unless_they_are_kept_apart():
    table = np.full((5, 5), UNRELATED)
    table[CAR, VEHICLE] = table[VEHICLE, CAR] = table[VAN, TRUCK] = table[TRUCK, VAN] = OVERLAPS
    known = evidence(partly=[(VEHICLE, CAR), (AUTO, CAR)])
    assert _common_parts(table, known, []) == [(CAR, VEHICLE)]
    assert _common_parts(table, known, [(VEHICLE, CAR)]) == []
    assert _common_parts(table, Evidence(NOTHING, NOTHING, None, None, None), []) == []


def nodes(odds, table, clusters=((CAR,), (VAN,), (AUTO,), (VEHICLE,), (TRUCK,)), apart=()):
    found = _taxonomy(SPACES, CLASSES, list(clusters), table, odds, list(apart))
    return {name: set(found.members(u)) for u, name in enumerate(found.unified.names)}


def test_of_several_wholes_in_a_dataset_the_likeliest_takes_a_node():
    table = np.full((5, 5), UNRELATED)
    table[AUTO, VEHICLE] = table[AUTO, TRUCK] = table[AUTO, CAR] = PART_OF
    found = nodes(log_odds(auto_vehicle=2, auto_truck=1, auto_car=0.0), table)
    assert found["auto"] == {("b", "auto"), ("c", "vehicle")}
    found = nodes(log_odds(auto_vehicle=1, auto_truck=2, auto_car=0.5), table)
    assert found["auto"] == {("a", "car"), ("b", "auto"), ("c", "truck")}
    found = nodes(log_odds(auto_vehicle=1, auto_truck=2), table, apart=[(TRUCK, AUTO)])
    assert found["auto"] == {("b", "auto")}


def test_what_is_no_part_takes_no_node_and_what_was_decided_does():
    table = np.full((5, 5), UNRELATED)
    assert nodes(log_odds(auto_vehicle=3), table)["auto"] == {("b", "auto")}
    table[AUTO, VEHICLE] = PART_OF
    # Car = auto: the mean over both is asked, unless a person decided.
    clusters = ((CAR, AUTO), (VAN,), (VEHICLE,), (TRUCK,))
    name = next(n for n in nodes(log_odds(), table, clusters) if n not in ("van", "vehicle", "truck"))
    assert ("c", "vehicle") not in nodes(log_odds(auto_vehicle=3, car_vehicle=-3), table, clusters)[name]
    assert ("c", "vehicle") in nodes(log_odds(auto_vehicle=3, car_vehicle=-2.9), table, clusters)[name]
    assert ("c", "vehicle") in nodes(log_odds(auto_vehicle=DECIDED, car_vehicle=-2 * DECIDED), table, clusters)[name]


def test_pairs_are_listed_above_a_tenth_the_likeliest_first():
    table = np.full((5, 5), UNRELATED)
    table[CAR, AUTO], table[AUTO, CAR] = PART_OF, CONTAINS
    table[VAN, VEHICLE] = table[VEHICLE, VAN] = OVERLAPS
    odds = log_odds(car_auto=2, van_vehicle=-1, vehicle_van=-0.5, truck_auto=-2.1, car_vehicle=-2.3, car_van=9)
    found = _pairs(CLASSES, table, odds, Evidence(NOTHING, NOTHING, None, None, None))
    assert [(p.a, p.kind, p.b, p.score) for p in found] == [
        (("a", "car"), "part of", ("b", "auto"), pytest.approx(sigmoid(np.array(2.0)), abs=1e-4)),
        (("a", "van"), "overlaps", ("c", "vehicle"), 0.5),
        (("b", "auto"), "unrelated", ("c", "truck"), pytest.approx(1 - sigmoid(np.array(-2.1)), abs=1e-4)),
    ]


def test_reasons_name_what_is_known_of_a_pair():
    same, part = NOTHING.copy(), NOTHING.copy()
    same[CAR, AUTO] = same[AUTO, CAR] = part[VAN, VEHICLE] = part[TRUCK, AUTO] = True
    counts = {("a", "b"): np.array([[3], [0]]), ("b", "a"): np.array([[1, 2]])}
    similarity = np.full((5, 5), 0.12345)
    known = Evidence(same, part, similarity, None, confusion_rates(CLASSES, counts))
    table = np.full((5, 5), OVERLAPS)
    reasons = {(p.a[1], p.b[1]): p.evidence for p in _pairs(CLASSES, table, log_odds(), known)}
    assert reasons["car", "auto"] == {"names": "equal", "text": 0.123, "confusion": 1.0, "confusion back": 0.333}
    assert reasons["van", "vehicle"] == {"names": "part of", "text": 0.123}
    assert reasons["auto", "truck"] == {"names": "contains", "text": 0.123}
    # No pixel of a's vans was seen.
    assert reasons["van", "auto"] == {"text": 0.123, "confusion back": 0.667}
