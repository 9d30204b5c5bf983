"""What messages of evidence, constraints and statistics advise works."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from advice import follow

from manyseg.evaluation.cross_table import cross_table
from manyseg.labels import JointClasses, LabelSpace, Taxonomy
from manyseg.relate import Constraints, agreement, confusion_rates, merge, partition, propose, read_part_of
from manyseg.relate.assignment import covering_assignment, min_cost_assignment
from manyseg.relate.confusion_evidence import read_confusion
from manyseg.relate.decisions import Decisions
from manyseg.relate.statistics import UNIFIED, Statistics
from manyseg.relate.text_evidence import text_similarity

A = LabelSpace.of("a", ["road", "car"])
B = LabelSpace.of("b", ["way", "auto"])
CLASSES = JointClasses((A, B))
UNION = Taxonomy.disjoint((A, B))
ROAD, CAR, WAY, AUTO = CLASSES.keys
EYE = np.eye(2, dtype=np.int64)


def encode(texts):
    return np.array([[1.0, float("car" in t or "auto" in t)] for t in texts])


FILES = [
    (Constraints.read, 'mustlink = ["a:road = b:way"]', "the keys are must_link", 'must_link = ["a:road = b:way"]'),
    (
        Constraints.read,
        'must_link = ["a:road = b:wey"]',
        "there is no 'b:wey' among the datasets' classes, did you mean 'b:way'",
        'must_link = ["a:road = b:way"]',
    ),
    (Constraints.read, 'must_link = ["road = way"]', "write it as .dataset:class", 'must_link = ["a:road = b:way"]'),
    (Constraints.read, "must_link = 3", 'write must_link = ."a:car = b:auto".', 'must_link = ["a:road = b:way"]'),
    (Constraints.read, 'must = ["a:road = b:way"]', "is now called 'must_link'; rename it", "must_link = []"),
    (read_part_of, None, "there is no such table of relations; correct its name", "dataset\tclass\tpart of\n"),
    (read_part_of, b"\xff\xfa\xf1", "not UTF-8 text .*; save the table as UTF-8 TSV", "dataset\tclass\tpart of\n"),
    (read_part_of, "", "must start with dataset, class, part of, separated by tabs", "dataset\tclass\tpart of\n"),
    (
        read_part_of,
        "dataset\tclass\tpart of\na\troat\tway\n",
        "row 2: 'roat' is no class of 'a', did you mean 'road'",
        "dataset\tclass\tpart of\na\troad\tway\n",
    ),
    (
        read_part_of,
        "dataset\tclass\tpart of\tscore\na\troad\tway\tx\n",
        "score and threshold are numbers, or empty",
        "dataset\tclass\tpart of\tscore\na\troad\tway\t\n",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("read", "wrong", "said", "right"), FILES)
def test_files_are_read_as_advised(tmp_path, read, wrong, said, right):
    file, of = tmp_path / "given", UNION if read is read_part_of else (A, B)
    if wrong is not None:
        file.write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
    follow(lambda: read(file, of), said, lambda: [file.write_text(right), read(file, of)])


def test_a_table_of_relations_that_is_a_folder_is_saved_as_advised(tmp_path):
    file = tmp_path / "t.tsv"
    file.mkdir()

    def saved():
        file.rmdir()
        file.write_text("dataset\tclass\tpart of\n")
        return read_part_of(file, UNION)

    follow(lambda: read_part_of(file, UNION), "cannot be read as a table .*; save it as UTF-8 TSV", saved)


CONFUSIONS = [
    (None, "there is no such file of confusions; correct its name"),
    (b"x", "not an npz file of arrays named a__b .*; write it with numpy.savez"),
    ({"a__c": EYE}, "confusion 'a__c' is not 'a__b' of two of the datasets; they are: a, b"),
    ({"a__b": EYE[:1]}, "give one row for each class of 'a' and one column for each of 'b'"),
    ({"a__b": -EYE}, "has negative or non-finite counts, or none that are numbers; count again"),
]


@pytest.mark.parametrize(("wrong", "said"), CONFUSIONS)
def test_confusions_are_read_as_advised(tmp_path, wrong, said):
    file = tmp_path / "c.npz"
    if isinstance(wrong, dict):
        np.savez(file, **wrong)
    elif wrong is not None:
        file.write_bytes(wrong)
    right = lambda: [np.savez(file, a__b=EYE), read_confusion(file, (A, B))]  # noqa: E731
    follow(lambda: read_confusion(file, (A, B)), said, right)


def test_a_name_of_two_pairs_is_told_apart_as_advised(tmp_path):
    np.savez(tmp_path / "c.npz", a__b__a=np.ones((2, 1), np.int64))
    spaces = (A, LabelSpace.of("a__b", ["x"]), LabelSpace.of("b__a", ["x"]))
    read = lambda spaces: read_confusion(tmp_path / "c.npz", spaces)  # noqa: E731
    renamed = (A, replace(spaces[1], name="c"), spaces[2])
    follow(lambda: read(spaces), "can mean .*; rename one of the datasets in its card", lambda: read(renamed))


def statistics(key="k", images=(1, 2), **sums):
    return Statistics(
        key,
        {("a", UNIFIED): EYE},
        {"a": np.ones(2, np.int64)},
        {"a": np.zeros((2, 2))},
        {("a", UNIFIED): np.zeros(2, np.int64)},
        {"a": np.array(images, np.uint64)},
    )


LINKED = Constraints(must_link=((ROAD, WAY), (WAY, CAR)))

CALLS = [
    (
        lambda: confusion_rates(CLASSES, {("a", "c"): EYE}),
        "the datasets are: a, b; give those of these alone",
        lambda: confusion_rates(CLASSES, {("a", "b"): EYE}),
    ),
    (
        lambda: Constraints(must_link=((ROAD, ("b", "x")),)).check((A, B)),
        "there is no class 'x' in a dataset 'b'; correct the entry",
        lambda: Constraints(must_link=((ROAD, WAY),)).check((A, B)),
    ),
    (
        lambda: Constraints(part_of=((ROAD, CAR),)).check((A, B)),
        "are both of 'a', so they differ; remove the entry",
        lambda: Constraints().check((A, B)),
    ),
    (
        lambda: Decisions.of(LINKED, CLASSES),
        "must_link joins two classes of one dataset .*; remove one of its pairs",
        lambda: Decisions.of(replace(LINKED, must_link=LINKED.must_link[:1]), CLASSES),
    ),
    (
        lambda: Decisions.of(replace(LINKED, must_link=((ROAD, WAY),), cannot_link=((ROAD, WAY),)), CLASSES),
        "linked and parted by what was decided; remove one of the entries",
        lambda: Decisions.of(Constraints(cannot_link=((ROAD, WAY),)), CLASSES),
    ),
    (
        lambda: partition(np.zeros((4, 4)), np.array([0, 0, 1, 1]), must_link=[(0, 2), (1, 2)]),
        "must_link joins two classes of one dataset .*; remove one of its pairs",
        lambda: partition(np.zeros((4, 4)), np.array([0, 0, 1, 1]), must_link=[(0, 2)]),
    ),
    (
        lambda: partition(np.zeros((4, 4)), np.array([0, 0, 1, 1]), must_link=[(0, 2)], cannot_link=[(0, 2)]),
        "linked by must_link and parted by cannot_link; remove one",
        lambda: partition(np.zeros((4, 4)), np.array([0, 0, 1, 1]), must_link=[(0, 2)]),
    ),
    (
        lambda: merge(np.eye(3), (2, 2), 0.1, 0.1, 0.1),
        "give one row and one column for each",
        lambda: merge(np.eye(4), (2, 2), 0.1, 0.1, 0.1),
    ),
    (
        lambda: min_cost_assignment(np.ones((1, 2))),
        "use at least as many nodes as classes",
        lambda: min_cost_assignment(np.ones((2, 2))),
    ),
    (
        lambda: covering_assignment(np.ones((1, 2))),
        "use at least as many nodes as classes",
        lambda: covering_assignment(np.ones((2, 2))),
    ),
    (
        lambda: agreement(UNION, Taxonomy.disjoint((A,))),
        "compare two of the same label spaces",
        lambda: agreement(UNION, Taxonomy.by_name((A, B))),
    ),
    (lambda: propose((A, B), by="x"), "choose names, text, confusion or both", lambda: propose((A, B), by="names")),
    (
        lambda: propose((A, B), by="text"),
        "relating labels by text needs a text encoder; give one",
        lambda: propose((A, B), by="text", encode=encode),
    ),
    (
        lambda: propose((A, B), by="text"),
        "or relate them by names",
        lambda: propose((A, B), by="names"),
    ),
    (
        lambda: propose((A, B), by="confusion"),
        "needs confusion matrices; give some",
        lambda: propose((A, B), by="confusion", confusion={("a", "b"): EYE, ("b", "a"): EYE}),
    ),
    (
        lambda: text_similarity(CLASSES, lambda texts: encode(texts) * np.nan, ("{}",)),
        "or values that are not finite; choose another one",
        lambda: text_similarity(CLASSES, encode, ("{}",)),
    ),
    (
        lambda: statistics("k") + statistics("l", (3,)),
        "are of different models or settings; collect again",
        lambda: statistics("k") + statistics("k", (3,)),
    ),
    (
        lambda: statistics() + statistics(),
        "2 images of 'a' are in both statistics; merge parts that do not overlap",
        lambda: statistics() + statistics(images=(3, 4)),
    ),
    (
        lambda: cross_table({"a": A}, statistics("k"), statistics("l")),
        "are of different models; collect both from one run",
        lambda: cross_table({"a": A}, statistics("k"), statistics("k", (3,))),
    ),
    (
        lambda: cross_table({"a": A}, statistics(), statistics()),
        "would both fit the map and be scored; take another split for the map",
        lambda: cross_table({"a": A}, statistics(), statistics(images=(3,))),
    ),
]


@pytest.mark.parametrize(("wrong", "said", "right"), CALLS)
def test_relations_are_found_as_advised(wrong, said, right):
    follow(wrong, said, right)


def test_an_entry_of_two_readings_is_renamed_as_advised(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('must_link = ["a:b = c = b:way"]')
    both = (LabelSpace.of("a", ["b", "b = c"]), LabelSpace.of("b", ["way"]), LabelSpace.of("c = b", ["way"]))
    one = (LabelSpace.of("a", ["b", "d"]), LabelSpace.of("b", ["way"]), LabelSpace.of("c = b", ["way"]))
    read = lambda spaces: Constraints.read(file, spaces)  # noqa: E731
    follow(lambda: read(both), "can mean .*; rename a class or a dataset in its card", lambda: read(one))


def test_statistics_are_collected_again_as_advised(tmp_path):
    file, here = tmp_path / "s.npz", statistics()
    load = lambda: Statistics.load(file)  # noqa: E731
    follow(load, "there is no such file of statistics; collect them first", lambda: [here.write(file), load()])
    file.write_bytes(b"PK")
    follow(load, "remove it and collect them anew", lambda: [file.unlink(), here.write(file), load()])


def test_a_programme_without_a_solution_is_given_a_smaller_one_as_advised(monkeypatch):
    """Solvers end without one where their time is over, which a test cannot wait for."""
    S = np.full((4, 4), 0.9) + 0.1 * np.eye(4)
    with monkeypatch.context() as patch:
        patch.setattr("scipy.optimize.milp", lambda *_, **__: SimpleNamespace(x=None, message="time limit"))
        said = "the merge programme found no solution .time limit.; lower tau or set max_size"
        follow(lambda: merge(S, (2, 2), 0.4, 0.4, 0.5), said, lambda: merge(S, (2, 2), 0.01, 0.4, 0.5))
        patch.undo()
        assert merge(S, (2, 2), 0.4, 0.4, 0.5, max_size=2)
