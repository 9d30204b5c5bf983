"""Relations between labels: hand-computed costs, brute force as oracle, invariances, bad input."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelClass, LabelSpace, Taxonomy
from manyseg.relate import (
    Constraints,
    agreement,
    confusion_rates,
    merge,
    partition,
    propose,
    read_confusion,
    recall_matrix,
    text_similarity,
)
from manyseg.relate.calibrate import (
    adapt_to_datasets,
    exclusive_log_odds,
    log_odds_against_negatives,
    log_odds_by_test,
    sigmoid,
)
from manyseg.relate.name_evidence import name_evidence
from manyseg.relate.programme import _cliques

A = LabelSpace.of("a", ["Road", "Cars", "building", "rider"])
B = LabelSpace.of("b", ["road", "car", "house", "crosswalk"])
REAL = Path(__file__).parents[3] / "shared" / "data" / "labels7" / "confusions.npz"


def meaning(**vectors):
    """An encoder that finds the first of its words in a text; other texts are orthogonal to all."""

    def encode(texts):
        out = np.zeros((len(texts), 40))
        for row, text in zip(out, texts, strict=True):
            known = next((v for k, v in vectors.items() if k in text.split()), None)
            row[: len(known or [])] = known or []
            if known is None:
                row[20 + sum(text.encode()) % 20] = 1
        return out

    return encode


def kinds(proposal):
    flip = {"part of": "contains", "contains": "part of"}
    out = {(r.a, r.b): r.kind for r in proposal.pairs}
    return out | {(b, a): flip.get(k, k) for (a, b), k in out.items()}


# The published programme.


def two_by_two(first):
    own = np.diag([100, 100])
    counts = {("a", "b"): np.array(first), ("b", "a"): np.array(first), ("a", "a"): own, ("b", "b"): own}
    classes = JointClasses((LabelSpace.of("a", ["x", "y"]), LabelSpace.of("b", ["x", "y"])))
    return recall_matrix(confusion_rates(classes, counts), classes)


def test_two_good_heads_merge_one_pair():
    assert merge(two_by_two([[96, 4], [100, 0]]), [2, 2], 0.4, 0.05) == [(0, 2), (1,), (3,)]


@pytest.mark.parametrize(("cost", "nodes"), [(0.05, 4), (0.09, 4), (0.11, 3), (0.4, 3)])
def test_a_pair_of_cost_a_tenth_merges_where_the_pair_cost_allows_it(cost, nodes):
    assert len(merge(two_by_two([[90, 10], [100, 0]]), [2, 2], 0.4, cost)) == nodes


def test_without_a_reward_nothing_of_positive_cost_merges():
    assert len(merge(two_by_two([[96, 4], [100, 0]]), [2, 2], 0.4, 0.4, lam=0.0)) == 4


def test_a_zero_row_of_confusion_never_merges():
    assert merge(two_by_two([[0, 0], [0, 0]]), [2, 2]) == [(0,), (1,), (2,), (3,)]


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data/labels7 is absent")
@pytest.mark.parametrize(("cost", "nodes"), [(0.05, 302), (0.4, 258)])
def test_the_real_confusions_give_the_known_number_of_nodes_in_any_order(cost, nodes):
    with np.load(REAL) as arrays:
        names = list(dict.fromkeys(k.split("__")[0] for k in arrays.files))
        confusion = {(a, b): arrays[f"{a}__{b}"] for a in names for b in names}
    rng = np.random.default_rng(0)
    for order in (names, names[::-1]):
        sizes = [len(confusion[n, n]) for n in order]
        shuffle = {n: rng.permutation(s) for n, s in zip(order, sizes, strict=True)}
        H = {(a, b): confusion[a, b][np.ix_(shuffle[a], shuffle[b])] for a in order for b in order}
        classes = JointClasses(tuple(LabelSpace.of(n, map(str, range(s))) for n, s in zip(order, sizes, strict=True)))
        assert len(merge(recall_matrix(confusion_rates(classes, H), classes), sizes, 0.4, cost)) == nodes


@st.composite
def shares_of_three(draw):
    sizes = [2, 2, 1]
    S = np.array(draw(st.lists(st.sampled_from([0.0, 0.3, 0.6, 0.8, 1.0]), min_size=25, max_size=25))).reshape(5, 5)
    np.fill_diagonal(S, np.maximum(np.diag(S), 0.6))
    return sizes, S


@settings(max_examples=60, deadline=None)
@given(shares_of_three())
def test_merge_finds_the_least_cost_of_all_partitions(problem):
    sizes, S = problem
    dataset = np.repeat(np.arange(3), sizes)

    def cost(c):
        return sum(S[x, x] - np.mean([S[x, y] for y in c]) for x in c)

    def allowed(c):
        pairs = list(itertools.combinations(c, 2))
        near = all(
            S[x, y] > max(S[x, x] - 0.4, 0) and S[y, x] > max(S[y, y] - 0.4, 0) and cost((x, y)) <= 0.2
            for x, y in pairs
        )
        grown = len(c) <= 2 or (cost(c) <= 0.4 and any(allowed(c[:k] + c[k + 1 :]) for k in range(len(c))))
        return len({*dataset[list(c)]}) == len(c) and near and grown

    def total(clusters):
        return sum(len(c) * cost(c) - 0.5 * (len(c) - 1) for c in clusters if len(c) > 1)

    best = min(total(p) for p in _partitions(tuple(range(5))) if all(len(c) == 1 or allowed(c) for c in p))
    found = merge(S, sizes, 0.4, 0.2)
    assert total(found) <= best + 1e-9
    assert sorted(i for c in found for i in c) == list(range(5))


def _partitions(items):
    if not items:
        yield []
        return
    for k in range(len(items)):
        for rest in itertools.combinations(items[1:], k):
            left = tuple(i for i in items[1:] if i not in rest)
            for p in _partitions(left):
                yield [(items[0], *rest), *p]


# Our partition.


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=36, max_size=36))
def test_partition_is_the_best_of_all_partitions_into_agreeing_pairs(values):
    W = np.triu(np.array(values, float).reshape(6, 6), 1)
    W += W.T
    dataset = np.array([0, 0, 1, 1, 2, 2])

    def total(p):
        pairs = [ij for c in p for ij in itertools.combinations(c, 2)]
        fits = all(W[i, j] > 0 and dataset[i] != dataset[j] for i, j in pairs)
        return sum(W[i, j] for i, j in pairs) if fits else -np.inf

    best = max(total(p) for p in _partitions(tuple(range(6))))
    assert total(partition(W, dataset)) == best


def test_partition_joins_the_surest_first_where_there_are_too_many_clusters(monkeypatch):
    monkeypatch.setattr("manyseg.relate.programme.MAX_CANDIDATES", 1)
    W = np.zeros((4, 4))
    for i, j, w in ((0, 1, 3), (1, 2, 2), (2, 3, 3)):
        W[i, j] = W[j, i] = w
    assert partition(W, np.arange(4)) == [(0, 1), (2, 3)]


def test_candidates_are_all_cliques_but_only_the_whole_where_all_fit_together(monkeypatch):
    W = np.zeros((7, 7))
    for i, j, w in ((0, 2, 1), (2, 4, 2), (1, 3, 3), (1, 5, 4), (3, 5, 5)):
        W[i, j] = W[j, i] = w
    clusters, sums = _cliques(W > 0, W)
    assert dict(zip(clusters, sums.tolist(), strict=True)) == {(1, 3, 5): 12, (0, 2): 1, (2, 4): 2}
    monkeypatch.setattr("manyseg.relate.programme.MAX_CANDIDATES", 2)
    assert _cliques(W > 0, W) is None
    W[4, 6] = W[6, 4] = W[2, 6] = W[6, 2] = 6
    W[0, 2] = W[2, 0] = 0
    assert _cliques(W > 0, W)[0] == [(1, 3, 5), (2, 4, 6)]


def test_constraints_override_weights():
    W = np.array([[0.0, -9, 5], [-9, 0, -9], [5, -9, 0]])
    assert partition(W, np.arange(3), must_link=[(0, 1)]) == [(0, 1), (2,)]
    assert partition(W, np.arange(3), cannot_link=[(0, 2)]) == [(0,), (1,), (2,)]
    with pytest.raises(UserError, match="0 and 2 are linked by must_link and parted by cannot_link"):
        partition(W, np.arange(3), must_link=[(0, 1), (1, 2)], cannot_link=[(0, 2)])
    with pytest.raises(UserError, match="two classes of one dataset"):
        partition(W, np.array([0, 1, 0]), must_link=[(0, 1), (1, 2)])


# Calibration.


def test_known_negatives_find_the_odds_that_generated_the_pairs():
    rng = np.random.default_rng(0)
    negative, positive = rng.normal(0.3, 0.1, 40_000), rng.normal(0.8, 0.1, 400)
    a, b = log_odds_against_negatives(np.r_[negative[:20_000], positive], negative[20_000:])
    # equal variances: log-odds are linear with slope 0.5 / 0.01 and even at 0.55 + 0.02 log(50)
    assert b == pytest.approx(50, rel=0.25)  # few negatives overlap with the positives
    assert -a / b == pytest.approx(0.55 + 0.02 * np.log(50), abs=0.02)


def test_without_a_pair_the_odds_are_those_of_the_prior():
    """Even half-way between 0.5 and 1, and 4 at 1."""
    a, b = log_odds_against_negatives(np.array([]), np.array([]))
    assert a + 0.75 * b == pytest.approx(0, abs=1e-4)
    assert a + b == pytest.approx(4, abs=1e-4)


def test_the_odds_of_a_few_pairs_are_the_most_likely_ones_under_the_prior():
    candidates, negatives = np.array([0.90025, 0.80025, 0.20025]), np.array([0.10025, 0.20025, 0.30025, 0.30025])
    centre = (1 + 0.30025) / 2  # Half-way from the upper quartile of the negatives to 1.

    def cost(at_centre, rise):
        e, f = (np.exp(at_centre + rise * (s - centre) / (1 - centre)) for s in (candidates, negatives))
        k = 3 / 4
        fit = (np.log1p(k * (1 + e)) - np.log1p(e)).sum() + np.log1p(k * (1 + f)).sum()
        return fit + 0.5 * ((at_centre / 2) ** 2 + ((rise - 4) / 20) ** 2)

    a, b = log_odds_against_negatives(candidates, negatives)
    best = (a + b * centre, b * (1 - centre))
    assert best[0] != pytest.approx(0, abs=0.05)
    for x, y in ((0.1, 0), (-0.1, 0), (0, 0.5), (0, -0.5)):
        assert cost(best[0] + x, best[1] + y) > cost(*best)


def test_odds_from_few_pairs_and_no_negatives_stay_finite():
    a, b = log_odds_against_negatives(np.array([1.0, 0.2]), np.array([]))
    assert b > 0
    assert a + b > 0 > a + 0.2 * b


def test_a_test_with_known_error_rates_recovers_the_share_of_related_pairs():
    rng = np.random.default_rng(0)
    score = rng.uniform(size=50_000)
    related = rng.uniform(size=50_000) < score
    test = np.where(related, rng.uniform(size=50_000) < 0.7, rng.uniform(size=50_000) < 0.1).astype(float)
    p = sigmoid(log_odds_by_test(score, test, 0.1, 0.7))
    assert np.abs(p - score).max() < 0.1
    assert (np.diff(p[np.argsort(score)]) >= -1e-12).all()


def test_a_doubtful_pair_gains_where_its_datasets_have_much_in_common():
    odds = np.full((12, 12), -4.0)  # three datasets of 4; the first two share 3 classes surely
    for i, j in ((0, 4), (1, 5), (2, 6)):
        odds[i, j] = odds[j, i] = 6
    for i, j in ((3, 7), (3, 11)):
        odds[i, j] = odds[j, i] = -1
    suited = adapt_to_datasets(odds, [slice(0, 4), slice(4, 8), slice(8, 12)])
    assert suited[3, 7] > suited[3, 11]
    assert suited[0, 4] > 3
    np.testing.assert_allclose(suited, suited.T)


def test_classes_of_one_dataset_compete():
    odds = np.log(np.array([[0, 0, 3.0, 1.0]] * 4) + 1e-30)
    p = sigmoid(exclusive_log_odds(odds, [slice(0, 2), slice(2, 4)]))
    assert p[0, 2:] == pytest.approx([3 / 5, 1 / 5])


# Evidence.


def test_names_say_equal_and_part_of():
    one = LabelSpace.of("one", ["wall-brick", "Traffic_Lights", "bridge / tunnel"])
    names = [
        LabelClass("wall"),
        LabelClass("trafficlight"),
        LabelClass("tunnel"),
        LabelClass("auto", synonyms=("car",)),
    ]
    other = LabelSpace("other", tuple(names))
    third = LabelSpace.of("third", ["Cars", "道路"])
    classes = JointClasses((one, other, third))
    equal, part = name_evidence(classes)
    pairs = {(classes.keys[i][1], classes.keys[j][1]) for i, j in np.argwhere(equal)}
    assert pairs == {
        ("Traffic_Lights", "trafficlight"),
        ("trafficlight", "Traffic_Lights"),
        ("auto", "Cars"),
        ("Cars", "auto"),
    }
    assert {(classes.keys[i][1], classes.keys[j][1]) for i, j in np.argwhere(part)} == {
        ("wall-brick", "wall"),
        ("tunnel", "bridge / tunnel"),
    }


def test_a_description_lists_the_parts_that_its_dataset_does_not_label_itself():
    coarse = LabelClass("moving", description="a car, truck or other vehicle; the load on top")
    classes = JointClasses(
        (LabelSpace("a", (coarse, LabelClass("truck"))), LabelSpace.of("b", ["Car", "truck", "bicycle", "bus"]))
    )
    equal, part = name_evidence(classes)
    assert [classes.keys[i][1] for i in np.flatnonzero(part[:, 0])] == ["Car"]
    assert not part[0].any()
    assert equal[1, 3]


def test_equal_names_have_cosine_one_and_a_description_moves_a_class():
    encode = meaning(road=[1, 0], bank=[0, 1], river=[0, 0, 1])
    plain = JointClasses((LabelSpace.of("a", ["Road", "bank"]), LabelSpace.of("b", ["road"])))
    S = text_similarity(plain, encode)
    assert S[0, 2] == pytest.approx(1)
    assert S[1, 2] == pytest.approx(0, abs=1e-6)
    described = JointClasses(
        (LabelSpace("a", (LabelClass("bank", description="side of a river"),)), LabelSpace.of("b", ["bank"]))
    )
    changed = text_similarity(described, meaning(river=[0, 0, 1], bank=[0, 1]))
    assert changed[0, 1] < 1 - 1e-3


def test_a_template_may_name_the_dataset_of_a_class():
    classes = JointClasses((LabelSpace.of("street", ["thing"]), LabelSpace.of("home", ["thing"])))
    encode = meaning(street=[1, 0], home=[0, 1])
    assert text_similarity(classes, encode)[0, 1] == pytest.approx(1)
    # Of both classes one text is equal, the other orthogonal.
    named = text_similarity(classes, encode, ("{}", "{} in a {dataset}"))
    assert named[0, 1] == pytest.approx(0.5, abs=1e-6)


def test_confusion_rates_read_both_directions_and_know_what_was_never_seen():
    classes = JointClasses((LabelSpace.of("a", ["x", "y"]), LabelSpace.of("b", ["z"])))
    s = confusion_rates(classes, {("a", "b"): np.array([[6], [0]]), ("b", "a"): np.array([[1, 3]])})
    assert s.given_true[0, 2] == 1
    assert not s.known[1, 2]
    assert s.given_true[2].tolist() == [0.25, 0.75, 0]
    assert s.given_predicted[2, 0] == 1  # all that b's head calls z on a's images is truly x
    assert s.given_predicted[0, 2] == 1  # all that a's head calls x on b's images is truly z


def test_confusions_of_a_wrong_shape_or_name_are_errors():
    classes = JointClasses((A, B))
    with pytest.raises(UserError, match=r"'a' by the head of 'b' is \[4, 3\]"):
        confusion_rates(classes, {("a", "b"): np.zeros((4, 3))})
    for bad in (-1, np.nan, np.inf):
        with pytest.raises(UserError, match="non-finite"):
            confusion_rates(classes, {("a", "b"): np.full((4, 4), bad)})
    with pytest.raises(UserError, match="'a' by the head of 'c', but the datasets are: a, b"):
        propose([A, B], by="confusion", confusion={("a", "c"): np.zeros((4, 4))})


# The proposal.


def test_names_give_a_taxonomy_with_reasons():
    p = propose([A, B], by="names")
    assert kinds(p)[("a", "Cars"), ("b", "car")] == "equal"
    assert len(p.taxonomy.unified) == 6
    assert {"road", "car", "building", "rider", "house", "crosswalk"} == set(p.taxonomy.unified.names)
    assert all(r.evidence["names"] == "equal" for r in p.pairs)


def test_text_finds_a_synonym_and_never_merges_two_of_one_dataset():
    encode = meaning(zorb=[1, 0.05], quib=[1, 0], rider=[0, 0, 1])  # words that no lexicon knows
    spaces = [LabelSpace.of("a", ["zorb", "rider", *"cdefgh"]), LabelSpace.of("b", ["quib", *"ijklmn"])]
    p = propose(spaces, by="text", encode=encode)
    assert kinds(p)[("a", "zorb"), ("b", "quib")] == "equal"
    near = LabelSpace.of("a", ["zorb", "quib", *"cdefgh"])
    twins = propose([near, spaces[1]], by="text", encode=encode)
    assert twins.taxonomy.exclusive("a")
    assert kinds(twins)[("a", "quib"), ("b", "quib")] == "equal"


def crosswalk_world():
    """Three datasets; only c keeps crosswalks and roads apart."""
    spaces = [
        LabelSpace.of("a", ["road", "car"]),
        LabelSpace.of("b", ["street", "auto"]),
        LabelSpace.of("c", ["road", "crosswalk", "car"]),
    ]
    own = {n: np.eye(k) * 100 for n, k in ((("a", "a"), 2), (("b", "b"), 2), (("c", "c"), 3))}
    H = own | {
        ("a", "b"): np.array([[99, 1], [1, 99]]),
        ("b", "a"): np.array([[99, 1], [1, 99]]),
        ("a", "c"): np.array([[90, 9, 1], [1, 0, 99]]),
        ("b", "c"): np.array([[90, 9, 1], [1, 0, 99]]),
        ("c", "a"): np.array([[99, 1], [97, 3], [1, 99]]),
        ("c", "b"): np.array([[99, 1], [97, 3], [1, 99]]),
    }
    return spaces, H


def test_confusion_finds_parts_and_gives_their_nodes_to_the_coarse_class():
    spaces, H = crosswalk_world()
    p = propose(spaces, by="confusion", confusion=H)
    found = kinds(p)
    assert found[("c", "crosswalk"), ("a", "road")] == "part of"
    assert found[("b", "street"), ("c", "crosswalk")] == "contains"
    assert found[("a", "car"), ("b", "auto")] == "equal"
    t = p.taxonomy
    node = t.unified.positions["crosswalk"]
    assert set(t.members(node)) == {("a", "road"), ("b", "street"), ("c", "crosswalk")}
    assert t.relations["a"].sum(1).tolist() == [2, 1]
    assert t.relations["c"].sum(1).tolist() == [1, 1, 1]
    assert all(t.exclusive(s.name) for s in spaces)


def test_text_and_confusion_together_find_the_same_in_a_small_world():
    spaces, H = crosswalk_world()
    encode = meaning(road=[1], street=[0.95, 0.3], car=[0, 0, 1], auto=[0, 0, 1, 0.1], crosswalk=[0.6, 0, 0, 0, 1])
    found = kinds(propose(spaces, by="both", encode=encode, confusion=H))
    assert found[("a", "road"), ("b", "street")] == "equal"
    assert found[("c", "crosswalk"), ("a", "road")] == "part of"


@pytest.mark.parametrize("by", ["names", "text", "confusion", "both"])
def test_the_order_of_datasets_and_classes_does_not_matter(by):
    spaces, H = crosswalk_world()
    encode = meaning(road=[1], street=[0.95, 0.3], car=[0, 0, 1], auto=[0, 0, 1, 0.1], crosswalk=[0.6, 0, 0, 0, 1])
    other = [LabelSpace(s.name, s.classes[::-1]) for s in spaces[::-1]]
    first = propose(spaces, by=by, encode=encode, confusion=H)
    turned = propose(other, by=by, encode=encode, confusion={k: v[::-1, ::-1] for k, v in H.items()})
    assert first.pairs == turned.pairs
    members = [{frozenset(t.members(u)) for u in range(len(t.unified))} for t in (first.taxonomy, turned.taxonomy)]
    assert members[0] == members[1]
    assert agreement(first.taxonomy, turned.taxonomy).f1 == 1


@pytest.mark.parametrize("by", ["names", "text", "confusion", "both"])
def test_one_dataset_of_one_class_is_its_own_taxonomy(by):
    one = LabelSpace.of("a", ["道路"])
    p = propose([one], by=by, encode=meaning(), confusion={("a", "a"): np.array([[3]])})
    assert p.taxonomy.unified.names == ("道路",)
    assert p.pairs == ()


def test_zero_rows_everywhere_relate_nothing():
    p = propose([A, B], by="confusion", confusion={("a", "b"): np.zeros((4, 4)), ("b", "a"): np.zeros((4, 4))})
    assert len(p.taxonomy.unified) == 8
    assert p.pairs == ()


def test_missing_evidence_and_twice_one_name_are_errors():
    with pytest.raises(UserError, match="needs a text encoder"):
        propose([A, B], by="text")
    with pytest.raises(UserError, match="needs confusion matrices"):
        propose([A, B], by="confusion")
    with pytest.raises(UserError, match="choose names"):
        propose([A, B], by="smell")
    with pytest.raises(UserError, match="two datasets are called 'a'"):
        propose([A, A], by="names")
    with pytest.raises(UserError, match="text encoder gave"):
        propose([A, B], by="text", encode=lambda texts: np.full((len(texts), 2), np.nan))


# Constraints and agreement.


def constraints(tmp_path, text, spaces=(A, B)):
    file = tmp_path / "constraints.toml"
    file.write_text(text, encoding="utf-8")
    return Constraints.read(file, spaces)


def test_constraints_survive_a_run(tmp_path):
    decided = constraints(tmp_path, 'must_link = ["a:building = b:house"]\ncannot_link = ["a:Cars = b:car"]\n')
    p = propose([A, B], by="names", constraints=decided)
    t = p.taxonomy
    assert kinds(p)[("a", "building"), ("b", "house")] == "equal"
    assert kinds(p).get((("a", "Cars"), ("b", "car")), "unrelated") == "unrelated"
    assert agreement(t, Taxonomy.by_name([A, B])).surplus == ((("a", "building"), ("b", "house")),)


def test_what_a_name_says_to_be_part_of_another_holds_for_its_equals():
    coarse = LabelSpace("c", (LabelClass("beings", description="person or animal"), LabelClass("rest")))
    spaces = (LabelSpace.of("a", ["person", "sky"]), LabelSpace.of("b", ["pedestrian"]), coarse)
    linked = Constraints(must_link=((("a", "person"), ("b", "pedestrian")),))
    found = propose(spaces, by="names", constraints=linked).taxonomy
    node = int(np.flatnonzero(found.relations["b"][0])[0])
    assert set(found.members(node)) == {("a", "person"), ("b", "pedestrian"), ("c", "beings")}


def test_cannot_link_also_keeps_a_part_out_of_a_coarse_class():
    spaces, H = crosswalk_world()
    parted = Constraints(cannot_link=((("c", "crosswalk"), ("a", "road")),))
    t = propose(spaces, by="confusion", confusion=H, constraints=parted).taxonomy
    # And out of what is probably the same: the street is the road.
    assert set(t.members(t.unified.positions["crosswalk"])) == {("c", "crosswalk")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("must_link = 3", "'must_link' is not a list"),
        ('must_link = ["a road = b:road"]', "write it as"),
        ('must_link = ["a:Road"]', "write it as"),
        ("must_link = [3]", "write it as"),
        ("should = []", "unknown key 'should'"),
        ("must_link = [", "not TOML"),
        ("must = []", "the key 'must' is now called 'must_link'"),
        ("must_not = []", "the key 'must_not' is now called 'cannot_link'"),
        ('cannot_link = ["a:Road = b:tree"]', "there is no 'b:tree' among the datasets' classes"),
        ('cannot_link = ["b:tree = a:Road"]', "there is no 'b:tree' among the datasets' classes"),
    ],
)
def test_a_broken_file_of_constraints_is_an_error_naming_it(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        constraints(tmp_path, text)
    assert "constraints.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_constraints_find_names_that_hold_the_signs_of_the_file(tmp_path):
    spaces = (LabelSpace.of("a:b", ["c = d", "x"]), LabelSpace.of("e", ["f:g", " = ".join("hi"), "#1"]))
    found = constraints(tmp_path, 'must_link = ["a:b:c = d = e:f:g", "a:b:x=e:#1", "e:h = i = a:b:x"]', spaces)
    assert found.must_link == (
        (("a:b", "c = d"), ("e", "f:g")),
        (("a:b", "x"), ("e", "#1")),
        (("e", "h = i"), ("a:b", "x")),
    )


def test_a_constraint_that_can_be_read_in_two_ways_is_an_error_with_both(tmp_path):
    spaces = (LabelSpace.of("a", ["b:c"]), LabelSpace.of("a:b", ["c"]), LabelSpace.of("d", ["e"]))
    with pytest.raises(UserError, match=r"\('a', 'b:c'\) with \('d', 'e'\) or \('a:b', 'c'\) with \('d', 'e'\)"):
        constraints(tmp_path, 'must_link = ["a:b:c = d:e"]', spaces)


def test_a_file_of_constraints_with_a_byte_order_mark_is_read(tmp_path):
    assert constraints(tmp_path, '\ufeffmust_link = ["a:Road = b:road"]').must_link == ((("a", "Road"), ("b", "road")),)


def test_constraints_of_unknown_classes_and_of_one_dataset_are_errors(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Constraints.read(tmp_path / "none.toml", [A, B])
    with pytest.raises(UserError, match="no class 'tree'"):
        propose([A, B], by="names", constraints=Constraints(must_link=((("a", "tree"), ("b", "road")),)))
    with pytest.raises(UserError, match="both of 'a'"):
        propose([A, B], by="names", constraints=Constraints(must_link=((("a", "Road"), ("a", "rider")),)))
    joined = Constraints(must_link=((("a", "Road"), ("b", "road")), (("b", "road"), ("a", "rider"))))
    with pytest.raises(UserError, match=r"two classes of one dataset \(a:Road, a:rider, b:road\)"):
        propose([A, B], by="names", constraints=joined)


# The file of confusions.


def test_a_file_of_confusions_names_pairs_of_datasets(tmp_path):
    file = tmp_path / "c.npz"
    spaces = [LabelSpace.of("idd__lite", "xy"), LabelSpace.of("b", "z")]
    np.savez(file, idd__lite__b=np.ones((2, 1)), b__idd__lite=np.ones((1, 2)), b__b=np.ones((1, 1)))
    assert {k: v.shape for k, v in read_confusion(file, spaces).items()} == {
        ("idd__lite", "b"): (2, 1),
        ("b", "idd__lite"): (1, 2),
        ("b", "b"): (1, 1),
    }


def test_a_confusion_of_two_readings_is_an_error_that_names_both(tmp_path):
    file = tmp_path / "c.npz"
    np.savez(file, a__b__c=np.ones((1, 1)))
    with pytest.raises(UserError, match="'a' by the head of 'b__c' or 'a__b' by the head of 'c'; rename"):
        read_confusion(file, [LabelSpace.of(n, "x") for n in ("a", "b__c", "a__b", "c")])


def test_a_confusion_of_no_pair_of_the_datasets_is_an_error(tmp_path):
    file = tmp_path / "c.npz"
    np.savez(file, a__c=np.ones((4, 4)))
    with pytest.raises(
        UserError, match=r"c\.npz: confusion 'a__c' is not 'a__b' of two of the datasets; they are: a, b"
    ):
        read_confusion(file, [A, B])


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", "array", "object"], ids=str)
def test_a_file_that_holds_no_confusions_is_an_error(tmp_path, content):
    file = tmp_path / "c.npz"
    if content == "array":
        with file.open("wb") as f:
            np.save(f, np.ones(3))
    elif content == "object":
        np.savez(file, a__b=np.array([{}], object))
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"c\.npz: not an npz file"):
        read_confusion(file, [A, B])
    with pytest.raises(UserError, match="no such file of confusions"):
        read_confusion(tmp_path / "none.npz", [A, B])


def test_agreement_counts_pairs():
    reference = Taxonomy.from_groups(
        [A, B],
        [[("a", "Road"), ("b", "road")], [("a", "Road"), ("b", "crosswalk")], [("a", "Cars")], [("b", "car")],
         [("a", "building"), ("b", "house")], [("a", "rider")]],
    )  # fmt: skip
    found = agreement(Taxonomy.by_name([A, B]), reference)
    assert (found.precision, found.recall, found.f1) == (
        pytest.approx(1 / 2),
        pytest.approx(1 / 3),
        pytest.approx(2 / 5),
    )
    assert found.surplus == ((("a", "Cars"), ("b", "car")),)
    assert len(found.missing) == 2
    with pytest.raises(UserError, match="different datasets"):
        agreement(reference, Taxonomy.by_name([A]))
