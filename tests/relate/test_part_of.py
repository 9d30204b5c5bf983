"""Relations mined from a model, by both rules on means made by hand, and their table."""

from dataclasses import replace

import numpy as np
import pytest

from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.relate import ClassPair
from manyseg.relate.part_of import PartOf, add_mined, mine_calibrated, mine_published, part_of_tsv, read_part_of

UNION = Taxonomy.by_name((LabelSpace.of("d", ["u0", "u2"]), LabelSpace.of("e", ["u0", "u1", "u2"])))
M = LabelSpace.of("m", ["motorcyclist", "rider", "road"])
N = LabelSpace.of("n", ["motorcyclist", "road"])


# The published rule.


def mined(row, taxonomy, *, tau=-0.08, allow_own=True):
    """Mine from means of `motorcyclist` (in the first dataset), all other rows saying nothing new."""
    means = {}
    for space in taxonomy.spaces:
        means[space.name] = np.full((len(space), len(taxonomy.unified)), -0.5)
        means[space.name][taxonomy.relations[space.name]] = 0.5
    first = taxonomy.spaces[0].name
    for node, value in row.items():
        means[first][0, taxonomy.unified.positions[node]] = value
    found = mine_published(taxonomy, means, tau=tau, allow_own=allow_own)
    assert {(r.dataset, r.label) for r in found} <= {(first, "motorcyclist")}
    return [r.node for r in found]


@pytest.mark.parametrize(
    ("rider", "motorcyclist", "expected"),
    [(0.30, 0.25, ["rider"]), (0.20, 0.25, []), (-0.09, -0.20, []), (-0.07, -0.20, ["rider"])],
)
def test_a_node_is_positive_above_the_classs_own_and_above_tau(rider, motorcyclist, expected):
    # `n` does not label riders, `m` does.
    for taxonomy in (Taxonomy.by_name((N, M)), Taxonomy.by_name((M, N))):
        assert mined({"rider": rider, "motorcyclist": motorcyclist}, taxonomy) == expected


def test_own_classes_can_be_left_out():
    row = {"rider": 0.3, "motorcyclist": 0.25}
    assert mined(row, Taxonomy.by_name((M, N)), allow_own=False) == []
    assert mined(row, Taxonomy.by_name((N, M)), allow_own=False) == ["rider"]


# The self-calibrating rule. Dataset f tells cars from trucks, k only knows vehicles; p has other words.

F = LabelSpace.of("f", ["car", "truck"])
K = LabelSpace.of("k", ["vehicle", "road"])
P = LabelSpace.of("p", ["auto", "lane"])


def answers(**rows):
    """Mean answers of the nodes car, truck, vehicle, road, auto, lane by class; of an own class 0.4, else -0.4."""
    taxonomy = Taxonomy.by_name((F, K, P))
    means = {s.name: np.where(taxonomy.relations[s.name], 0.4, -0.4) for s in (F, K, P)}
    for label, values in rows.items():
        space = next(s for s in (F, K, P) if label in s.names)
        for node, value in values.items():
            means[space.name][space.positions[label], taxonomy.unified.positions[node]] = value
    return taxonomy, means


def calibrated(**rows):
    return {(r.label, r.node) for r in mine_calibrated(*answers(**rows))}


def test_a_node_must_answer_nearly_as_to_its_own_class():
    # Three quarters of the way from -0.4 to 0.4 are 0.2.
    assert calibrated(car={"vehicle": 0.21}) == {("car", "vehicle")}
    assert calibrated(car={"vehicle": 0.19}) == set()
    # What the node was taught to refuse moves the threshold: from 0.2 to 0.4, three quarters of the way are 0.35.
    assert calibrated(car={"vehicle": 0.34}, road={"vehicle": 0.2}) == set()
    (found,) = mine_calibrated(*answers(car={"vehicle": 0.36}, road={"vehicle": 0.2}))
    assert found == PartOf("f", "car", "vehicle", pytest.approx(0.36), pytest.approx(0.35))


def test_a_parent_half_of_whose_pixels_are_the_child_is_no_part_of_it():
    assert calibrated(car={"vehicle": 0.4}, truck={"vehicle": 0.4}, vehicle={"car": 0.0, "truck": 0.0}) == {
        ("car", "vehicle"),
        ("truck", "vehicle"),
    }


def test_a_node_that_denies_its_own_class_is_not_trusted():
    assert calibrated(vehicle={"vehicle": -0.01}, car={"vehicle": 0.4}) == set()


def test_of_two_classes_that_exclude_each_other_only_the_surer_is_a_whole():
    assert calibrated(car={"vehicle": 0.3, "road": 0.35}) == {("car", "road")}


def test_parts_of_parts_may_not_exclude_each_other():
    """A lane that is part of vehicle, which is part of auto, would be an auto: the weakest link goes."""
    links = {"lane": {"vehicle": 0.30}, "vehicle": {"auto": 0.35}}
    assert calibrated(**links) == {("vehicle", "auto")}
    links["lane"]["vehicle"] = 0.4
    assert calibrated(**links) == {("lane", "vehicle")}


@pytest.mark.parametrize(("vehicle", "car"), [(0.4, 0.35), (0.35, 0.4)])
def test_what_a_class_is_part_of_by_way_of_another_counts_against_later_relations(vehicle, car):
    """A lane within vehicle, which is within car, is no truck, whichever of the two links is the surer."""
    links = {"lane": {"vehicle": vehicle, "truck": 0.3}, "vehicle": {"car": car}}
    assert calibrated(**links) == {("lane", "vehicle"), ("vehicle", "car")}
    del links["vehicle"]
    assert calibrated(**links) == {("lane", "vehicle"), ("lane", "truck")}


def test_a_class_has_no_relation_into_a_dataset_that_has_its_name():
    twin = LabelSpace.of("twin", ["car", "bus"])
    taxonomy = Taxonomy.by_name((F, twin))
    means = {s.name: np.where(taxonomy.relations[s.name], 0.4, -0.4) for s in (F, twin)}
    means["f"][0, taxonomy.unified.positions["bus"]] = 0.4
    assert mine_calibrated(taxonomy, means) == ()
    means["f"][1, taxonomy.unified.positions["bus"]] = 0.4
    assert [r[:3] for r in mine_calibrated(taxonomy, means)] == [("f", "truck", "bus")]


def test_a_node_of_a_class_without_pixels_is_not_trusted_nor_is_such_a_class_related():
    taxonomy, means = answers(car={"vehicle": 0.4}, auto={"vehicle": 0.4})
    means["p"][0] = np.nan
    assert [r.label for r in mine_calibrated(taxonomy, means)] == ["car"]
    means["k"][0] = np.nan
    assert mine_calibrated(taxonomy, means) == ()


# Beside other evidence, and the table.


def test_what_was_mined_is_shown_beside_other_evidence():
    taxonomy = Taxonomy.by_name((N, M))
    other = ClassPair(("m", "rider"), ("n", "motorcyclist"), "contains", 0.9, {"text": 0.5})
    found = [
        PartOf("n", "motorcyclist", "rider", 0.3, 0.2),
        PartOf("m", "rider", "motorcyclist"),
        PartOf("m", "rider", "road"),
    ]
    both, new = add_mined([other], found, taxonomy)
    assert (both.a, both.kind, both.score) == (("m", "rider"), "contains", 0.9)
    assert both.evidence == {"text": 0.5, "mined back": 0.3, "mined": "by hand"}
    assert (new.a, new.b, new.kind, new.score) == (("m", "rider"), ("n", "road"), "part of", 1.0)
    (turned,) = add_mined([replace(other, kind="unrelated")], found[:1], taxonomy)
    assert (turned.a, turned.kind, turned.score) == (("n", "motorcyclist"), "part of", 0.65)


def test_the_table_holds_each_relation_its_score_and_threshold_or_nothing_where_a_person_said_so(tmp_path):
    relations = (PartOf("d", "u0", "u1", 0.5, -0.25), PartOf("e", "u1", "u2"))
    text = "dataset\tclass\tpart of\tscore\tthreshold\nd\tu0\tu1\t0.5000\t-0.2500\ne\tu1\tu2\t\t\n"
    assert part_of_tsv(relations) == text
    (tmp_path / "relations.tsv").write_text(text)
    first, second = read_part_of(tmp_path / "relations.tsv", UNION)
    assert first == relations[0]
    assert second[:3] == relations[1][:3]
    assert np.isnan(second[3:]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset\tclass\n", "first row must start with dataset, class, part of"),
        ("dataset\tclass\tpart of\nd\tcow\tu1\n", "row 2: 'cow' is no class of 'd'; there are: u0, u2"),
        ("dataset\tclass\tpart of\n\nd\tu0\tcow\n", "row 3: 'cow' is no class of 'unified'"),
        ("dataset\tclass\tpart of\tscore\nd\tu0\tu1\thigh\n", "row 2: score and threshold are numbers"),
    ],
)
def test_a_wrong_table_of_relations_is_an_error_with_file_and_row(tmp_path, text, message):
    path = tmp_path / "relations.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"relations\.tsv.*{message}"):
        read_part_of(path, UNION)
    with pytest.raises(UserError, match="no such table"):
        read_part_of(tmp_path / "none.tsv", UNION)


def test_rows_of_other_datasets_are_skipped(tmp_path):
    path = tmp_path / "relations.tsv"
    path.write_text("dataset\tclass\tpart of\nother\tcow\tanimal\nd\tu0\tu1\n")
    assert [r.node for r in read_part_of(path, UNION)] == ["u1"]
