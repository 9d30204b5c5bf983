"""Text and confusion as one evidence, on log-odds computed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace
from manyseg.relate import confusion_rates, propose
from manyseg.relate.calibrate import log_odds_against_negatives
from manyseg.relate.lexicon_evidence import LexiconEvidence
from manyseg.relate.log_odds import (
    CERTAIN,
    IMPOSSIBLE,
    KNOWN,
    LITTLE,
    Evidence,
    _with_words,
    cluster_numbers,
    equal_log_odds,
    gather,
    has_class,
    may_contain,
    with_confusion,
)
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


# What names and the lexicon say of parts.

THREE = [LabelSpace.of("a", ["u", "v"]), LabelSpace.of("b", ["w", "x"]), LabelSpace.of("c", ["y"])]
U, V, W, X, Y = range(5)


def with_words(odds, group=(0, 1, 2, 3, 4), *, name_part=(), rates=None, prior=True, **pairs):
    """Add to `odds`, those of all pairs or a matrix, what the lexicon says: lists of pairs (x, y) of each kind."""
    classes = JointClasses(tuple(THREE))

    def table(chosen):
        out = np.zeros((5, 5), bool)
        out[tuple(np.array(chosen, int).reshape(-1, 2).T)] = True
        return out

    kinds = ("equal", "within", "partly", "different", "elsewhere")
    words = LexiconEvidence(*(table(pairs.pop(k, ())) for k in kinds), ()) if pairs or rates is None else None
    assert not pairs
    every = np.full((5, 5), odds, np.float32)
    known = Evidence(table([]), table(name_part), None, every if prior else None, rates, words)
    found = _with_words(classes, known, every, np.array(group))
    assert (found[~classes.differ] == IMPOSSIBLE).all()
    return found


def test_what_the_lexicon_says_of_a_text_is_believed():
    found = with_words(1.0, within=[(U, W)], different=[(U, X), (X, U)], elsewhere=[(V, Y)], partly=[(V, W)])
    assert found[U, W] == KNOWN == 4
    assert found[W, U] == found[U, X] == found[X, U] == found[V, Y] == -KNOWN  # What holds is not within.
    assert found[Y, V] == found[V, W] == found[W, V] == 1
    # What is surer stays.
    assert with_words(6.0, within=[(U, W)])[U, W] == 6
    assert with_words(-6.0, different=[(U, X)])[U, X] == -6


def test_a_part_in_common_is_little_in_both_directions():
    found = with_words(-2.0, partly=[(V, W)])
    assert found[V, W] == found[W, V] == LITTLE == 0.5
    assert found[U, W] == -2


def test_confusion_is_weighed_against_what_the_lexicon_says():
    rates = confusion_rates(JointClasses(tuple(THREE)), {})
    classes = JointClasses(tuple(THREE))
    table = np.zeros((5, 5), bool)
    within, different = table.copy(), table.copy()
    within[U, W] = different[U, X] = True
    words = LexiconEvidence(table, within, table, different, table, ())
    odds = np.full((5, 5), 1.0, np.float32)
    before = odds.copy()
    found = _with_words(classes, Evidence(table, table, None, odds, rates, words), odds, np.arange(5))
    assert found[U, W] == 5
    assert found[W, U] == found[U, X] == -3
    assert found[V, Y] == 1
    assert (odds == before).all()


def test_what_a_class_is_within_holds_the_classes_that_are_equal_to_it():
    # u = y, and u is within w: so is y, unless something is known against it.
    group = (0, 1, 2, 3, 0)
    assert with_words(-1.0, group, within=[(U, W)])[Y, W] == KNOWN
    assert with_words(-1.0, group, within=[(U, W)], different=[(Y, W)])[Y, W] == -KNOWN
    assert with_words(-1.0, group, within=[(U, W)], elsewhere=[(Y, W)])[Y, W] == -KNOWN
    assert with_words(-1.0, group, within=[(U, W), (W, Y)])[Y, W] == -KNOWN
    assert with_words(-1.0, group, within=[(U, W)], equal=[(Y, W)])[Y, W] == -1
    # u = x: then it is within no other class of b.
    assert with_words(-1.0, (0, 1, 2, 0, 3), within=[(U, W)])[U, W] == -1


def test_parts_by_name_are_certain_for_the_whole_cluster_where_they_can_be():
    group = (0, 1, 2, 3, 0)
    found = with_words(-1.0, group, name_part=[(U, W)])
    assert found[U, W] == found[Y, W] == CERTAIN == 5
    assert found[W, U] == -1
    assert with_words(7.0, group, name_part=[(U, W)])[U, W] == 7
    assert with_words(-1.0, (0, 1, 2, 0, 3), name_part=[(U, W)])[U, W] == -1
    # Confusion alone does not look at names.
    assert with_words(-1.0, group, name_part=[(U, W)], prior=False)[U, W] == -1


def test_classes_are_equal_as_each_is_part_of_the_other_or_as_their_texts_say():
    table = np.zeros((2, 2), bool)
    odds = np.array([[0.0, 3.0], [2.0, 0.0]])
    assert equal_log_odds(Evidence(table, table, None, None, None), odds)[0].tolist() == [0, 2]
    prior = np.array([[-1.0, 2.5], [2.5, -1.0]])
    assert equal_log_odds(Evidence(table, table, None, prior, None), odds)[1].tolist() == [2.5, 0]


# What is gathered.

SETS = [
    LabelSpace.of("a", ["car", "road", "zebra"]),
    LabelSpace.of("b", ["vehicle", "automobile", "street", "sky", "zebra"]),
]


def encode(texts):
    """Every text is of one direction, so that their similarity says nothing."""
    return np.ones((len(texts), 4))


def test_names_and_the_lexicon_bound_what_texts_say():
    classes = JointClasses(tuple(SETS))
    found = gather(SETS, classes, "text", encode, None, ("{}",))
    at = {key: i for i, key in enumerate(classes.keys)}
    car, road, zebra = (at["a", n] for n in ("car", "road", "zebra"))
    vehicle, automobile, street, sky, other = (at["b", n] for n in ("vehicle", "automobile", "street", "sky", "zebra"))
    assert found.rates is None
    assert found.prior[zebra, other] == found.prior[other, zebra] == CERTAIN
    assert found.prior[car, automobile] >= KNOWN
    assert found.prior[road, street] >= KNOWN
    assert found.prior[car, vehicle] == found.prior[vehicle, car] == -KNOWN
    assert found.prior[car, sky] == found.prior[sky, car] == -KNOWN
    # Of a zebra the lexicon may know nothing; then the text alone decides.
    np.testing.assert_allclose(found.prior, found.prior.T, atol=1e-5)


def test_names_alone_are_certain_or_impossible():
    classes = JointClasses(tuple(SETS))
    found = gather(SETS, classes, "names", None, None, ("{}",))
    expected = np.full((8, 8), IMPOSSIBLE)
    expected[2, 7] = expected[7, 2] = CERTAIN
    assert (found.prior == expected).all()
    assert found.similarity is found.rates is found.lexicon is None


def test_confusions_are_read_in_the_order_of_the_datasets_as_given():
    spaces = [LabelSpace.of("b", ["x", "y"]), LabelSpace.of("a", ["z"])]
    classes = JointClasses(tuple(spaces[::-1]))
    found = gather(spaces, classes, "confusion", None, {("b", "a"): np.array([[4], [0]])}, ("{}",))
    assert found.prior is None
    assert classes.keys == (("a", "z"), ("b", "x"), ("b", "y"))
    assert found.rates.known.tolist() == [[False] * 3, [True, False, False], [False] * 3]
    assert found.rates.given_true[1, 0] == 1


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("words", "cannot be related by 'words'; choose names"),
        ("text", "needs a text encoder"),
        ("both", "needs a text encoder"),
        ("confusion", "needs confusion matrices"),
    ],
)
def test_evidence_that_is_not_there_is_asked_for(by, said):
    with pytest.raises(UserError, match=said):
        gather(SETS, JointClasses(tuple(SETS)), by, None, None, ("{}",))


def test_both_need_confusions_too():
    with pytest.raises(UserError, match="needs confusion matrices"):
        gather(SETS, JointClasses(tuple(SETS)), "both", encode, {}, ("{}",))


def test_clusters_are_numbered_and_know_their_datasets():
    assert cluster_numbers([(1, 3), (0,), (2,)]).tolist() == [1, 0, 2, 0]
    classes = JointClasses(tuple(THREE))
    assert has_class(classes, np.array([0, 1, 0, 2, 1])).tolist() == [
        [True, True, False],
        [True, False, True],
        [False, True, False],
    ]


def test_of_pairs_whose_texts_are_as_near_the_one_that_is_confused_more_is_likelier_and_the_other_way_round():
    a, b = [*NAMES, "l1", "l2", "l3", "l4"], [*NAMES, "w1", "w2", "w3", "w4"]
    H = np.full((9, 9), 4) + np.diag([76] * 5 + [0] * 4)
    H[5:, 5:], H[5:, :5], H[:5, 5:] = 18, 6, 1
    classes, known = evidence([LabelSpace.of("a", a), LabelSpace.of("b", b)], {("a", "b"): H, ("b", "a"): H.T})
    for i in range(5, 9):
        known.similarity[i, i + 9] = known.similarity[i + 9, i] = 0.6
    group = cluster_numbers([*((i, i + 9) for i in range(5)), *((i,) for i in (*range(5, 9), *range(14, 18)))])
    found = with_confusion(classes, known, group)
    # l1 and w2 have nothing in common by their texts, nor have l1 and road; the first two are confused.
    assert found[5, 15] > found[5, 9] + 0.1
    # l1 and w1 are confused as often as l1 and w2, but nearer by their texts.
    assert found[5, 14] > found[5, 15] + 0.1


@pytest.mark.parametrize(("names", "gain"), [(NAMES, KNOWN), (NAMES[:4], 0)], ids=["calibrated", "few names"])
def test_what_the_lexicon_says_is_equal_counts_once_beside_text_and_confusion(names, gain):
    """Too few equal names: then the log-odds of the text, in which the lexicon is, and of confusion are added up."""
    a, b = [*names, "lake"], [*names, "wall"]
    n = len(a)
    H = np.full((n, n), 2) + np.diag([78] * (n - 1) + [0])
    classes, known = evidence([LabelSpace.of("a", a), LabelSpace.of("b", b)], {("a", "b"): H, ("b", "a"): H})
    group = cluster_numbers([*((i, i + n) for i in range(n - 1)), (n - 1,), (2 * n - 1,)])
    before = with_confusion(classes, known, group)
    equal = np.zeros((2 * n, 2 * n), bool)
    equal[n - 1, 2 * n - 1] = equal[2 * n - 1, n - 1] = True
    none = np.zeros_like(equal)
    words = LexiconEvidence(equal, none, none, none, none, ())
    after = with_confusion(classes, replace(known, lexicon=words), group)
    np.testing.assert_allclose(after - before, gain * equal, atol=1e-6)
