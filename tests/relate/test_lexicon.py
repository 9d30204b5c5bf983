"""The lexicon, how names are read by it, and what it says of two classes."""

import numpy as np
import pytest

from manyseg.labels import JointClasses, LabelClass, LabelSpace
from manyseg.relate import propose
from manyseg.relate.lexicon import Lexicon, key, lexicon
from manyseg.relate.lexicon_evidence import _nearest, lexicon_evidence
from manyseg.relate.reading import _as_list, read_classes

SMALL = """
vehicle
  car, automobile | taxi, police car=patrol car
  ~motor car thing
  wheel < ^car
drivable > road
* road=street, path
mouse (device)
animal
  mouse (animal)
"""


def small():
    return Lexicon.parse({"general": SMALL})


def holders(lex, name):
    numbers = lex.meanings[key(name)]
    return {lex.concepts[h].name for h in lex.holders[numbers[0]]}


def read(*names, lex=None, dataset="a"):
    """What the lexicon makes of the classes of one dataset: concepts, with qualifiers in brackets."""
    lex = lex or lexicon()
    out = []
    for r in read_classes(JointClasses((LabelSpace.of(dataset, names),)), lex):
        units = [lex.concepts[u.concept].name + "".join(f" [{q}]" for q in sorted(u.qualifiers)) for u in r.units]
        out.append(" + ".join(sorted(units)))
    return out if len(out) > 1 else out[0]


def test_a_file_says_names_kinds_umbrellas_and_what_lies_beside():
    lex = small()
    assert holders(lex, "patrol cars") == {"police car", "car", "vehicle"}
    assert holders(lex, "street") == {"road", "drivable"}
    assert holders(lex, "path") == {"path"}
    assert holders(lex, "wheel") == {"wheel", "car", "vehicle"}  # its own holder is the vehicle
    assert [lex.concepts[i].name for i in lex.meanings["mouse"]] == ["mouse (device)", "mouse (animal)"]


def test_what_lies_beside_is_not_held_further():
    lex = Lexicon.parse({"general": "person\n  rider\nvehicle\n  bike < ^rider\n    fast bike\n"})
    assert holders(lex, "fast bike") == {"fast bike", "bike", "vehicle", "rider"}


def test_a_holder_that_is_no_concept_is_an_error():
    with pytest.raises(ValueError, match="'bike' refers to 'rider'"):
        Lexicon.parse({"general": "bike < rider"})


def test_the_lexicon_of_the_package_has_no_circle():
    lex = lexicon()
    assert len(lex.concepts) > 2000
    for number, concept in enumerate(lex.concepts):
        assert all(number not in lex.holders[h] for h in concept.holders), concept.name


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Cars", "car"),
        ("Gebäude", "building"),
        ("traffic-lights", "traffic light"),
        ("TrafficLight", "traffic light"),
        ("bldg", "building"),
        ("wall-other-merged", "wall"),
        ("nature--vegetation", "vegetation"),
        ("other vehicle", "other vehicle"),
        ("quibbish chair", "chair [quibbish]"),
        ("chair-quibbish", "chair [quibbish]"),
        ("quibchair", ""),
        ("Truck_Bus", "bus + truck"),
        ("MotorcycleScooter", "moped + motorcycle"),
        ("CartLuggagePram", "cart + stroller + suitcase"),
        ("traffic light pole", "traffic light pole"),
        ("upper and lower arm", "lower arm + upper arm"),
        ("bridge / tunnel", "bridge + tunnel"),
        ("parking / drivable fallback", "parking"),
        ("pile of sand", "sand"),
        ("wall of sand", "wall [sand]"),
        ("sky (quibbish)", "sky"),
        ("non-road", ""),
        ("quib", ""),
    ],
)
def test_names_are_read(name, meant):
    assert read(name) == meant


def test_a_word_of_two_meanings_is_read_as_its_dataset_suggests():
    assert read("zebra", "horse", "cow")[0] == "zebra"
    assert read("zebra", "lane marking", "stop line")[0] == "crosswalk"


def test_what_is_nearly_its_holder_is_that_unless_the_dataset_has_both():
    assert read("pedestrian", "sky")[0] == "person"
    assert read("pedestrian", "person") == ["pedestrian", "person"]


def evidence(*spaces):
    classes = JointClasses(
        tuple(LabelSpace(d, tuple(c if isinstance(c, LabelClass) else LabelClass(c) for c in cs)) for d, *cs in spaces)
    )
    return classes.positions, lexicon_evidence(classes)


def test_a_class_lies_in_the_narrowest_class_that_holds_it():
    at, e = evidence(("a", "crosswalk"), ("b", "road", "lane marking"))
    x, road, marking = at["a", "crosswalk"], at["b", "road"], at["b", "lane marking"]
    assert e.within[x, marking]
    assert not e.within[x, road]
    assert e.elsewhere[x, road]
    assert e.reason(x, marking) == "road marking holds crosswalk"


def test_equals_unrelated_and_partly_related_classes():
    at, e = evidence(("a", "automobile", "lorry", "quib"), ("b", "car", "Truck_Bus"), ("c", "bus / train"))
    car, lorry, quib = (at["a", n] for n in ("automobile", "lorry", "quib"))
    assert e.equal[car, at["b", "car"]]
    assert e.within[lorry, at["b", "Truck_Bus"]]
    assert e.different[lorry, at["b", "car"]]
    assert not e.different[quib].any()
    assert e.partly[at["b", "Truck_Bus"], at["c", "bus / train"]]


def test_a_description_lists_what_a_class_holds():
    far = LabelClass("quib", description="house, tree or other thing")
    at, e = evidence(("a", "oak", "villa", "car"), ("b", far))
    assert e.within[[at["a", "oak"], at["a", "villa"]], at["b", "quib"]].all()
    assert not e.within[at["a", "car"], at["b", "quib"]]


def test_an_umbrella_word_holds_what_others_keep_apart_and_is_no_twin_of_any():
    spaces = [
        LabelSpace.of("a", ["road", "car", "truck", "Pedestrian", "Tree"]),
        LabelSpace.of("b", ["drivable", "vehicles", "living things", "vegetation"]),
    ]
    found = propose(spaces, by="text", encode=lambda texts: np.array([[1.0, len(t) % 7, len(t)] for t in texts]))
    related = {(r.a[1], r.b[1]): (r.kind, r.evidence["lexicon"]) for r in found.pairs if r.kind != "unrelated"}
    assert related == {
        ("road", "drivable"): ("part of", "drivable holds road"),
        ("car", "vehicles"): ("part of", "vehicle holds car"),
        ("truck", "vehicles"): ("part of", "vehicle holds truck"),
        ("Pedestrian", "living things"): ("part of", "living things holds person"),
        ("Tree", "vegetation"): ("part of", "vegetation holds tree"),
    }
    nodes = {frozenset(found.taxonomy.members(u)) for u in range(len(found.taxonomy.unified))}
    assert frozenset({("a", "truck"), ("b", "vehicles")}) in nodes


def test_two_lists_with_a_part_in_common_share_a_node():
    spaces = [LabelSpace.of("a", ["truck / bus", "sky"]), LabelSpace.of("b", ["bus / train", "sky"])]
    found = propose(spaces, by="text", encode=lambda texts: np.array([[1.0, len(t) % 7, len(t)] for t in texts]))
    assert {(r.a[1], r.b[1]): r.kind for r in found.pairs if r.kind != "unrelated"} == {
        ("sky", "sky"): "equal",
        ("truck / bus", "bus / train"): "overlaps",
    }
    nodes = [set(found.taxonomy.members(u)) for u in range(len(found.taxonomy.unified))]
    assert {("a", "truck / bus"), ("b", "bus / train")} in nodes


def test_of_two_holders_of_a_dataset_that_do_not_hold_each_other_the_nearer_is_kept():
    classes = JointClasses((LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["far", "near"])))
    inf = np.inf
    distance = np.array([[0, 2, 1], [inf, 0, inf], [inf, inf, 0]])
    nothing = np.zeros((3, 3), bool)
    assert _nearest(classes, distance, np.arange(3), nothing).nonzero()[1].tolist() == [2]
    distance[0, 1] = 1
    assert _nearest(classes, distance, np.arange(3), nothing).nonzero()[1].tolist() == [1, 2]


def test_two_words_are_a_list_only_if_they_are_of_a_kind_and_three_always():
    lex = Lexicon.parse({"general": "vehicle\n  car\n  bus\nplace\n  road\n"})
    assert len(_as_list(["car", "bus"], lex)) == 2
    assert _as_list(["car", "road"], lex) == []
    assert len(_as_list(["car", "road", "bus"], lex)) == 3
