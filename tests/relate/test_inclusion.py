"""Which classes lie within which, from confusions: by hand, and on a planted world of counts."""

import numpy as np
import pytest

from manyseg.labels import JointClasses, LabelSpace
from manyseg.relate.calibrate import logit
from manyseg.relate.inclusion import BASE, KNOWN, OUTSIDE, inclusion_log_odds, related_nodes

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


# The whole formula, one number at a time.

THREE = JointClasses(tuple(LabelSpace.of(d, [f"{d}{i}" for i in range(n)]) for d, n in (("a", 2), ("b", 3), ("c", 1))))


def reference(classes, n, unlabelled, prior):
    """Compute what the docstring says for every pair of classes of different datasets."""
    T, of, rows = len(classes), classes.dataset, [*classes.rows.values()]

    def beyond(part, whole, chance):
        return np.clip((part / max(whole, 1) - chance) / max(1 - chance, 1e-9), 1e-4, 1), (1 - chance) * (whole > 0)

    def labelled_part(k, y):
        images = n[rows[k], y].sum()
        return (images + 1) / (images + unlabelled[k, y] + 1)

    m = np.array([[n[y, x] * labelled_part(of[x], y) for x in range(T)] for y in range(T)])
    recall = [n[x, x] / max(n[x, rows[of[x]]].sum(), 1) for x in range(T)]
    precision = [n[x, x] / max(n[rows[of[x]], x].sum(), 1) for x in range(T)]
    odds = np.full((T, T), -40.0)
    for x, y in np.argwhere(classes.differ):
        a, b = rows[of[x]], rows[of[y]]
        called, c = beyond(n[x, y], n[x, b].sum(), n[a, y].sum() / max(n[a, b].sum(), 1))
        found = [m[b, z].sum() + unlabelled[of[y], z] for z in range(a.start, a.stop)]
        label, d = beyond(m[y, x], found[x - a.start], m[y, a].sum() / max(sum(found), 1))
        called = min(called / max(recall[y], KNOWN), 1)
        label = min(label / max(precision[x], KNOWN), 1)
        trust = min(recall[x] / KNOWN, recall[y] / KNOWN, 1) if c + d > 0 else 0
        odds[x, y] = (1 - trust) * BASE + prior[x, y]
        if trust:
            odds[x, y] += trust * logit(np.exp((c * np.log(called) + d * np.log(label)) / (c + d)))
    out = odds.copy()
    for x, y in np.argwhere(classes.differ):
        others = [odds[x, z] for z in range(rows[of[y]].start, rows[of[y]].stop) if z != y]
        out[x, y] -= np.log1p(np.exp(max(others, default=-40)))
    return out


@pytest.mark.parametrize("seed", range(4))
def test_every_log_odds_is_as_documented(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 40, (6, 6)) + np.diag(rng.integers(0, 90, 6))
    unlabelled = rng.integers(0, 60, (3, 6))
    n[1, 2:5] = 0  # Nothing of a class was asked of a head;
    n[:2, 4] = 0  # nothing is called by a name.
    prior = rng.normal(0, 1, (6, 6))
    found = inclusion_log_odds(THREE, n, unlabelled, prior)
    np.testing.assert_allclose(found, reference(THREE, n, unlabelled, prior), rtol=1e-9, atol=1e-9)


def test_of_two_datasets_of_one_class_nothing_is_known():
    one = JointClasses((LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["y"])))
    found = inclusion_log_odds(one, np.full((2, 2), 9), np.zeros((2, 2), int), np.full((2, 2), 0.25))
    np.testing.assert_allclose(found, [[-40, BASE + 0.25], [BASE + 0.25, -40]])


# Limits of the nodes.

NO = np.zeros((5, 5), int)


def odds(**pairs):
    """Log-odds of the named classes x_y of each pair being within, -40 elsewhere."""
    at = {"road": 0, "line": 1, "cat": 2, "ground": 3, "animal": 4}
    out = np.full((5, 5), -40.0)
    for pair, value in pairs.items():
        out[tuple(at[name] for name in pair.split("_"))] = value
    return out


def parts_of(found, y):
    return np.flatnonzero(found.relation[y]).tolist()


def test_even_odds_relate_nothing():
    assert parts_of(related_nodes(CLASSES, odds(road_ground=0.0, line_ground=0.1), NO), 3) == [1, 3]


def test_below_a_twentieth_a_class_is_outside_for_certain():
    assert OUTSIDE == -3
    nodes = related_nodes(CLASSES, odds(cat_animal=-3.0, road_ground=-2.9), NO)
    assert nodes.outside[1].tolist() == [False, True, True, False, False]
    assert nodes.outside[0].tolist() == [False, False, False, False, True]
    assert related_nodes(CLASSES, odds(animal_cat=-2.9), NO).outside[1].tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("back", [2.5, 3, 4])
def test_a_whole_of_two_parts_is_equal_to_none_and_within_none(back):
    # The ground is mostly road; but road and line are within it.
    nodes = related_nodes(CLASSES, odds(road_ground=3, line_ground=2, ground_road=back), NO)
    assert parts_of(nodes, 3) == [0, 1, 3]
    assert parts_of(nodes, 0) == [0]


def test_a_whole_of_one_part_is_equal_to_it():
    nodes = related_nodes(CLASSES, odds(road_ground=3, ground_road=4), NO)
    assert parts_of(nodes, 3) == parts_of(nodes, 0) == [0]
    assert nodes.core[:, 0].tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(("road", "line"), [((3, 3), (2, 2)), ((3, -1), (-1, 3))], ids=["of each class", "of both"])
def test_a_cluster_that_is_a_whole_of_two_parts_is_within_none(road, line):
    """Ground and earth are one; by the mean they hold road and line, and are within road with larger log-odds."""
    names = {"a": ["road", "line"], "b": ["ground"], "c": ["earth"]}
    classes = JointClasses(tuple(LabelSpace.of(d, n) for d, n in names.items()))
    out = np.full((4, 4), -40.0)
    out[2, 3] = out[3, 2] = 5
    out[0, 2:], out[1, 2:], out[2:, 0] = road, line, 4
    found = related_nodes(classes, out, np.zeros((4, 4), int))
    assert found.relation.tolist() == [
        [True, False, False, False],
        [False, True, False, False],
        [True, True, True, False],
        [True, True, True, False],
    ]


@pytest.mark.parametrize(("share", "own"), [(75, True), (76, False)])
def test_a_class_is_covered_by_more_than_three_quarters(share, own):
    n = NO.copy()
    n[3, :3] = [share - 20, 20, 100 - share]
    nodes = related_nodes(CLASSES, odds(road_ground=3, line_ground=3), n)
    assert parts_of(nodes, 3) == ([0, 1, 3] if own else [0, 1])


def test_one_part_covers_nothing():
    n = NO.copy()
    n[3, 0] = 100
    assert parts_of(related_nodes(CLASSES, odds(road_ground=3), n), 3) == [0, 3]


FOUR = JointClasses(
    tuple(LabelSpace.of(d, names) for d, names in (("a", ["car"]), ("b", ["auto"]), ("c", ["vehicle", "bus"])))
)
CAR, AUTO, VEHICLE, BUS = range(4)


def cluster_odds(car, auto, back=-40.0):
    """Car and auto are one; their log-odds of being within vehicle, and its of being within auto."""
    out = np.full((4, 4), -40.0)
    out[CAR, AUTO] = out[AUTO, CAR] = 5
    out[CAR, VEHICLE], out[AUTO, VEHICLE], out[VEHICLE, AUTO] = car, auto, back
    return out


@pytest.mark.parametrize(
    ("car", "auto", "within"),
    [(20, -7.9, True), (20, -8.1, False), (-20, 8.1, False), (-7.9, 20, True), (2, -2, False), (2, -1.9, True)],
)
def test_clusters_lie_within_another_by_the_mean_of_log_odds_up_to_8(car, auto, within):
    found = related_nodes(FOUR, cluster_odds(car, auto), np.zeros((4, 4), int))
    assert found.relation[VEHICLE].tolist() == [within, False, True, False]


def test_of_two_directions_the_likelier_one_counts_and_of_equal_ones_the_first():
    three = JointClasses((LabelSpace.of("a", ["u"]), LabelSpace.of("b", ["v"]), LabelSpace.of("c", ["w"])))
    out = np.full((3, 3), -40.0)
    # u = v as a cluster; w within u and v within w, by the same mean.
    out[0, 1] = out[1, 0] = 9
    out[0, 2], out[1, 2], out[2, 0], out[2, 1] = 5, -1, -1, 5
    found = related_nodes(three, out, np.zeros((3, 3), int))
    assert found.relation.tolist() == [[True, False, False], [True, False, False], [True, False, True]]
    out[2, 1] = 5.5
    found = related_nodes(three, out, np.zeros((3, 3), int))
    assert found.relation.tolist() == [[True, False, True], [True, False, True], [False, False, True]]


def test_the_likelier_whole_of_a_dataset_is_taken_and_direct_ones_before_wholes_of_wholes():
    names = {"a": ["kerb"], "b": ["lane", "strip"], "c": ["street", "path"]}
    classes = JointClasses(tuple(LabelSpace.of(d, n) for d, n in names.items()))
    out = np.full((5, 5), -40.0)
    out[0, 1], out[0, 2], out[0, 4], out[2, 3] = 1, 2, 3, 4
    found = related_nodes(classes, out, np.zeros((5, 5), int))
    # A kerb is a strip rather than a lane, and a path: that strips are streets comes later, for c has its class then.
    assert found.relation[:, 0].tolist() == [True, False, True, False, True]
    assert found.relation[:, 2].tolist() == [False, False, True, True, False]
