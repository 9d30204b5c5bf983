"""What descriptions of classes include and exclude, and what follows for the relations of classes."""

import numpy as np
import pytest

from manyseg.labels import JointClasses, LabelClass, LabelSpace
from manyseg.relate import propose
from manyseg.relate.descriptions import read_description
from manyseg.relate.lexicon_evidence import lexicon_evidence
from manyseg.relate.name_evidence import name_evidence
from manyseg.relate.text_evidence import text_similarity


@pytest.mark.parametrize(
    ("text", "includes", "excludes"),
    [
        ("", [], []),
        ("houses, garages. Not walls", ["houses", "garages"], ["walls"]),
        ("includes cars and vans, excluding trucks and buses; also trailers", ["cars and vans", "trailers"],
         ["trucks and buses"]),
        ("all kinds of boats, e.g. kayaks, but not ships", ["boats", "kayaks"], ["ships"]),
        ("pills (tablets, capsules), except for syrup", ["pills", "tablets", "capsules"], ["syrup"]),
        ("piles of bricks or stones", ["bricks or stones"], []),
        ("in a wheelchair, with a frame", [], []),
        ("No cars. Nothing of Nottingham", ["Nothing + of Nottingham"], ["cars"]),
        ("any plant other than grass", ["plant"], ["grass"]),
        ("ground that cars drive on: lanes", ["ground + that cars drive on", "lanes"], []),
        ("railing of bars or wire", ["railing + of bars or wire"], []),
        ("people who ride a horse or camel", ["people + who ride a horse or camel"], []),
        ("pushing a cart", ["pushing + a cart"], []),
    ],
)  # fmt: skip
def test_a_description_is_taken_apart(text, includes, excludes):
    found = read_description(text)
    assert [[spelled(p) for p in phrases] for phrases in (found.includes, found.excludes)] == [includes, excludes]


def spelled(phrase):
    return " + ".join(filter(None, [phrase.noun, " ".join(phrase.narrowed)]))


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("ground that cars drive on: lanes, kerbs. Not parking places", "ground that cars drive on"),
        ("Not a wall; a fence", "a fence"),
        ("cars, vans, not trucks", "cars, vans"),
        ("", ""),
    ],
)
def test_the_first_clause_says_what_a_class_is(text, first):
    assert read_description(text).first == first


def classes_of(*spaces):
    return JointClasses(tuple(LabelSpace(d, tuple(LabelClass(*c) for c in cs)) for d, *cs in spaces))


def described(name, description=""):
    return name, None, False, description


def evidence(*spaces):
    classes = classes_of(*spaces)
    return classes.positions, lexicon_evidence(classes)


def test_what_narrows_a_noun_is_not_included():
    at, e = evidence(
        ("a", described("curtain", "cloth that hangs before a window"), described("rider", "people who ride a horse")),
        ("b", described("window"), described("horse"), described("clothes"), described("person")),
    )
    rider = at["a", "rider"]
    assert e.within[rider, at["b", "person"]]
    for x, y in (("window", "curtain"), ("horse", "rider"), ("person", "rider")):
        assert not e.within[at["b", x], at["a", y]]


def test_wider_words_of_a_description_say_what_kind_a_class_is_and_hold_nothing_for_it():
    at, e = evidence(("a", described("plant", "plant, flora")), ("b", described("tree"), described("vegetation")))
    assert not e.within[at["b", "vegetation"], at["a", "plant"]]
    assert e.within[at["a", "plant"], at["b", "vegetation"]]


def test_what_a_description_excludes_lies_outside():
    spaces = (
        ("a", described("vehicle", "anything that drives. Not trucks, the cab of a crane")),
        ("b", described("car"), described("fire truck"), described("crane")),
    )
    at, e = evidence(*spaces)
    vehicle = at["a", "vehicle"]
    assert e.within[at["b", "car"], vehicle]
    assert not e.within[at["b", "fire truck"], vehicle]
    assert e.different[at["b", "fire truck"], vehicle]
    # The cab of a crane is not all of a crane.
    assert not e.different[at["b", "crane"], vehicle]


def test_names_are_only_listed_where_nothing_narrows_them():
    classes = classes_of(
        ("a", described("rider", "people who ride a bicycle or horse"), described("far", "hut, tower and mast")),
        ("b", described("bicycle"), described("horse"), described("tower"), described("mast"), described("hut")),
    )
    at = classes.positions
    _, part = name_evidence(classes)
    assert not part[:, at["a", "rider"]].any()
    assert part[[at["b", n] for n in ("hut", "tower", "mast")], at["a", "far"]].all()


def test_of_a_description_the_text_encoder_reads_the_first_clause():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return np.array([[len(t), t.count("a") + 1.0] for t in texts])

    text_similarity(classes_of(("a", described("quib", "a thing: of that and this. Not a car"))), encode, ("{}",))
    assert sorted(seen) == ["quib", "quib: a thing"]


def test_a_description_with_exclusions_keeps_apart_what_a_text_takes_for_one():
    spaces = [
        LabelSpace("a", (LabelClass("greenery", description="trees and bushes. Not grass"), LabelClass("sky"))),
        LabelSpace.of("b", ["lawn", "tree", "sky"]),
    ]
    found = propose(spaces, by="text", encode=lambda texts: np.ones((len(texts), 2)))
    assert {(r.a[1], r.b[1]): r.kind for r in found.pairs if r.kind != "unrelated"} == {
        ("sky", "sky"): "equal",
        ("greenery", "tree"): "contains",
    }
