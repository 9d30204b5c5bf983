"""Text and confusion as one evidence, on log-odds computed by hand."""

import numpy as np
import pytest

from manyseg.labels import JointClasses, LabelSpace
from manyseg.relate import confusion_rates, propose
from manyseg.relate.calibrate import log_odds_against_negatives
from manyseg.relate.log_odds import IMPOSSIBLE, Evidence, _correlation, cluster_numbers, may_contain, with_confusion
from manyseg.relate.proposal import EQUAL, PART_OF, UNRELATED, _pairs, _taxonomy

NAMES = ["road", "sky", "car", "tree", "bus"]
SURE, NO = np.log(0.999 / 0.001), np.log(0.0001 / 0.9999)
"""Log-odds of the largest and the smallest probability that has some."""


def evidence(spaces, counts, similarity=None):
    """What is known of classes of which equal names are equal; with `similarity` 1 of those and 0 of others."""
    classes = JointClasses(tuple(spaces))
    names = np.array([name for _, name in classes.keys])
    same = (names[:, None] == names) & classes.differ
    text = same.astype(np.float32) if similarity is None else None
    prior = None if text is None else np.where(same, 5.0, -5.0)
    return classes, Evidence(same, np.zeros_like(same), text, prior, confusion_rates(classes, counts))


def two(names, *clusters):
    """Two datasets; a head calls 80 of 100 pixels of a class by its name, and 100 / (2 (n - 1)) as any other."""
    n = len(names)
    H = np.full((n, n), 20 / (n - 1)) + np.diag(np.full(n, 80 - 20 / (n - 1)))
    spaces = [LabelSpace.of("a", names), LabelSpace.of("b", names)]
    classes, known = evidence(spaces, {("a", "b"): H, ("b", "a"): H})
    alone = [(i,) for i in range(2 * n) if not any(i in c for c in clusters)]
    return classes, known, cluster_numbers([*clusters, *alone])


def test_two_detectors_that_always_agree_are_worth_one():
    """Each is sure of the ten pairs of equal name and sure of the others; over all pairs they correlate by 1."""
    classes, known, group = two(NAMES)
    found = with_confusion(classes, known, group)
    np.testing.assert_allclose(found[known.same_name], SURE)
    np.testing.assert_allclose(found[classes.differ & ~known.same_name], NO)
    assert (found[~classes.differ] == IMPOSSIBLE).all()


def test_two_detectors_of_independent_errors_add_up_their_log_odds_above_the_base_rate():
    """Equal names are clusters, and not looked at for the correlation; of all others the text says the same."""
    spaces = [LabelSpace.of("a", [*NAMES, "lake"]), LabelSpace.of("b", [*NAMES, "wall"])]
    H = np.full((6, 6), 2) + np.diag([78] * 5 + [0])
    classes, known = evidence(spaces, {("a", "b"): H, ("b", "a"): H})
    group = cluster_numbers([*((i, i + 6) for i in range(5)), (5,), (11,)])
    found = with_confusion(classes, known, group)
    # A lake may be any of six classes of b, a wall any of a: 12 pairs beside the ten of equal name.
    base = np.log((p := (10 * 0.999 + 12 * 0.0001) / 22) / (1 - p))
    np.testing.assert_allclose(found[known.same_name], 2 * SURE - base)
    np.testing.assert_allclose(found[5, 6:], 2 * NO - base)
    np.testing.assert_allclose(found[11, :6], 2 * NO - base)
    # That a road is a sky of b is out of the question: b has a road.
    assert found[0, 7] == IMPOSSIBLE


def test_where_one_detector_says_the_same_of_all_doubtful_pairs_there_is_no_correlation():
    spaces = [LabelSpace.of("a", [*NAMES, "lake"]), LabelSpace.of("b", [*NAMES, "wall"])]
    H = np.full((6, 6), 2) + np.diag([78] * 5 + [0])
    H[5] = [0, 1, 2, 3, 4, 5]
    classes, known = evidence(spaces, {("a", "b"): H, ("b", "a"): H})
    found = with_confusion(classes, known, cluster_numbers([*((i, i + 6) for i in range(5)), (5,), (11,)]))
    assert np.isfinite(found).all()
    assert (found[known.same_name] > SURE).all()


@pytest.mark.parametrize("names", [NAMES[:4], [*NAMES, "wall"]], ids=["few names", "nothing but equal names"])
def test_where_the_two_cannot_be_calibrated_by_each_other_log_odds_are_added(names):
    pairs = [(i, i + len(names)) for i in range(len(names))]
    classes, known, group = two(names, *pairs)
    found = with_confusion(classes, known, group)
    np.testing.assert_allclose(found[known.same_name], 5 + np.log(0.8 / 0.2), rtol=1e-5)


def test_datasets_of_equal_names_alone_are_one_by_both_evidences():
    spaces = [LabelSpace.of("a", [*NAMES, "wall"]), LabelSpace.of("b", [*NAMES, "wall"])]
    H = np.full((6, 6), 4) + 76 * np.eye(6, dtype=int)

    def encode(texts):
        return np.array([[w in text for w in (*NAMES, "wall")] for text in texts], float) + 1e-3

    found = propose(spaces, by="both", encode=encode, confusion={("a", "b"): H, ("b", "a"): H})
    assert found.taxonomy.unified.names == (*NAMES, "wall")
    assert {r.kind for r in found.pairs} == {"equal"}


def test_a_class_that_a_dataset_has_is_within_no_other_class_of_it():
    classes = JointClasses((LabelSpace.of("a", ["road", "car"]), LabelSpace.of("b", ["road", "lane"])))
    free = may_contain(classes, cluster_numbers([(0, 2), (1,), (3,)]))
    # Rows and columns: a's road, car; b's road, lane. b's lane may be within a's road, but no road within a lane.
    assert free.tolist() == [
        [False, False, True, False],
        [False, False, True, True],
        [True, False, False, False],
        [True, True, False, False],
    ]


def test_the_rate_of_two_clusters_is_the_mean_over_their_classes_in_both_directions():
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["x"]), LabelSpace.of("c", ["y", "z"])]
    counts = {
        ("a", "c"): np.array([[90, 10]]),  # Of x 0.9 are called y,
        ("b", "c"): np.array([[50, 50]]),  # 0.5 here;
        ("c", "a"): np.array([[30], [10]]),  # of what is called x 0.75 are y,
        ("c", "b"): np.array([[10], [10]]),  # 0.5 here.
    }
    classes, known = evidence(spaces, counts, similarity=False)
    rate = np.sqrt(0.7 * 0.625)
    found = with_confusion(classes, known, cluster_numbers([(0, 1), (2,), (3,)]))
    np.testing.assert_allclose(found[:2, 2], np.log(rate / (1 - rate)), rtol=1e-5)
    alone = with_confusion(classes, known, np.arange(4))
    np.testing.assert_allclose(alone[1, 2], 0, atol=1e-6)
    assert alone[0, 1] == IMPOSSIBLE  # Neither head saw the other's dataset.


def test_two_pairs_are_too_few_for_a_correlation():
    assert _correlation(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0
    assert _correlation(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0])) == pytest.approx(1)
    assert _correlation(np.array([0.0, 1.0, 2.0]), np.ones(3)) == 0


def test_similarities_below_zero_tell_pairs_apart_too():
    """All negatives are at -0.9, where two thirds of the candidates are too: those at 0 are related."""
    a, b = log_odds_against_negatives(np.repeat([-0.9, 0.0], [100, 50]), np.full(100, -0.9))
    assert a > 1
    assert a - 0.9 * b < 0


def test_one_class_of_a_cluster_within_a_class_is_enough_for_its_node_to_be_of_it():
    """a:car = b:auto, and the name of b:auto says that it is a c:vehicle; the mean log-odds agree."""
    spaces = [LabelSpace.of(d, [n]) for d, n in (("a", "car"), ("b", "auto"), ("c", "vehicle"))]
    classes = JointClasses(tuple(spaces))
    kinds, odds = np.full((3, 3), UNRELATED), np.full((3, 3), -2.0)
    kinds[0, 1] = kinds[1, 0] = EQUAL
    kinds[1, 2], odds[0, 2], odds[1, 2] = PART_OF, -1.0, 2.0
    clusters = [(0, 1), (2,)]
    assert _taxonomy(spaces, classes, clusters, kinds, odds, []).relations["c"].tolist() == [[True, True]]
    odds[0, 2] = -3
    assert _taxonomy(spaces, classes, clusters, kinds, odds, []).relations["c"].tolist() == [[False, True]]


def test_scores_of_pairs_have_four_digits():
    names = ["road", "sky"]
    classes, known = evidence([LabelSpace.of("a", names), LabelSpace.of("b", names)], {})
    odds = np.full((4, 4), 1.23456)
    pairs = _pairs(classes, np.full((4, 4), EQUAL), odds, known)
    assert {p.score for p in pairs} == {0.7746}
