"""Calibration of similarities, each function against the same in plain arithmetic, and its limits."""

import numpy as np
import pytest
from scipy.optimize import minimize

from manyseg.relate import calibrate
from manyseg.relate.calibrate import (
    MIN_PROBABILITY,
    _Places,
    adapt_to_datasets,
    correlation,
    exclusive_log_odds,
    log_odds_against_negatives,
    log_odds_by_test,
    logit,
    mean_of_lower,
    sigmoid,
)


def log_odds(p):
    return np.log(p / (1 - p))


def test_log_odds_are_of_probabilities_between_one_in_ten_thousand_and_999_in_a_thousand():
    assert MIN_PROBABILITY == 1e-4
    assert logit(np.array([0.0, 1e-4, 0.5, 0.999, 1.0])) == pytest.approx(
        [log_odds(1e-4), log_odds(1e-4), 0, log_odds(0.999), log_odds(0.999)]
    )


def test_probabilities_of_log_odds_are_symmetric_and_never_overflow():
    assert sigmoid(np.array([0.0, 1.0, -1.0])) == pytest.approx([0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.e)])
    with np.errstate(all="raise"):
        assert sigmoid(np.array([-1e4, 1e4])) == pytest.approx([0, 1], abs=1e-17)


# Similarities of pairs against those within a dataset.


def fitted(candidates, negatives):
    """Minimise the loss as its documentation states it, pair by pair; without bins and bounds."""
    k = len(candidates) / max(len(negatives), 1)
    centre = (1 + np.quantile(negatives, 0.75)) / 2

    def loss(t):
        # t: the log-odds at the centre, and how much more they are at 1.
        of, against = (np.exp(t[0] + t[1] * (s - centre) / (1 - centre)) for s in (candidates, negatives))
        told = np.log(1 + k * (1 + of)) - np.log(1 + of)
        return told.sum() + np.log(1 + k * (1 + against)).sum() + (t[0] / 2) ** 2 / 2 + ((t[1] - 4) / 20) ** 2 / 2

    a, b = minimize(loss, [0.0, 4.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x
    return a - b * centre / (1 - centre), b / (1 - centre)


@pytest.mark.parametrize(("pairs", "others", "mean"), [(40, 40, 0.2), (60, 15, -0.4), (9, 50, 0.2)])
def test_similarities_are_fitted_as_documented(pairs, others, mean):
    rng = np.random.default_rng(pairs)
    negatives = rng.normal(mean, 0.15, others)
    candidates = np.concatenate([rng.normal(mean, 0.15, pairs), rng.uniform(0.6, 1, pairs // 4)])
    assert log_odds_against_negatives(candidates, negatives) == pytest.approx(fitted(candidates, negatives), rel=2e-3)


def test_without_pairs_the_prior_decides():
    """Log-odds 0 half-way between the upper quartile of the negatives and 1, and 4 at 1."""
    none = np.zeros(0)
    a, b = log_odds_against_negatives(none, np.array([0.1, 0.2, 0.3, 0.4, 0.6]))
    assert (a + b * 0.7, a + b) == pytest.approx((0, 4))
    a, b = log_odds_against_negatives(none, none)
    assert (a + b * 0.75, a + b) == pytest.approx((0, 4))


def test_one_pair_moves_the_log_odds_at_its_place_by_the_gradient_times_the_variance():
    """Standard deviations are 2 and 20; without negatives their quartile is taken to be 0.5 and their number 1."""
    a, b = log_odds_against_negatives(np.array([0.75]), np.zeros(0))
    odds = np.exp(a + b * 0.75)
    assert np.log(odds) / 2**2 == pytest.approx(odds / (1 + odds) - odds / (2 + odds), abs=1e-3)
    assert b * 0.25 == pytest.approx(4, abs=0.1)


def test_similarities_beyond_one_count_as_one():
    negatives, candidates = np.array([0.1, 0.2, 0.3, -1.0]), np.array([0.2, 0.5, 1.0, -1.0])
    beyond = np.array([0.2, 0.5, 1.5, -2.0])
    assert log_odds_against_negatives(beyond, negatives) == log_odds_against_negatives(candidates, negatives)


def test_where_negatives_reach_one_the_scale_is_a_thousandth():
    _, b = log_odds_against_negatives(np.zeros(0), np.ones(4))
    assert b == pytest.approx(4 / 1e-3)


def test_log_odds_rise_with_similarity_in_bounds():
    # Related pairs at 0, and negatives at -1 and 1: a falling curve would fit. The quartile is -1, the centre 0.
    fewer = np.full(760, -1.0)
    flat = log_odds_against_negatives(np.concatenate([fewer, np.zeros(1000)]), np.concatenate([fewer, np.ones(240)]))
    assert flat[1] == pytest.approx(0.5)
    # The same unrelated pairs at 0.9 in both; all others at 0.93. The quartile is 0.7, the centre 0.85.
    unrelated = np.full(2000, 0.9)
    steep = log_odds_against_negatives(
        np.concatenate([unrelated, np.full(9000, 0.93)]), np.concatenate([np.full(9000, 0.7), unrelated])
    )
    assert steep[1] * 0.15 == pytest.approx(40)


# A score by a test.


def test_bins_are_10_pairs_at_the_top_and_15_per_cent_larger_each():
    score = np.arange(40.0)
    bins = {(0, 6): 0.1, (6, 19): 0.3, (19, 30): 0.5, (30, 40): 0.9}
    test = np.concatenate([np.full(stop - start, value) for (start, stop), value in bins.items()])
    places = [(start + stop - 1) / 2 for start, stop in bins]
    order = np.random.default_rng(0).permutation(40)
    expected = np.interp(score, places, [log_odds(p) for p in (1e-4, 0.25, 0.5, 0.999)])
    assert log_odds_by_test(score[order], test[order], 0.1, 0.9) == pytest.approx(expected[order])


def test_the_last_bin_may_hold_one_pair():
    score = np.arange(22.0)
    test = np.concatenate([[0.2], np.full(11, 0.4), np.full(10, 0.6)])
    expected = np.interp(score, [0, 6, 16.5], [log_odds(p) for p in (0.2, 0.4, 0.6)])
    assert log_odds_by_test(score, test, 0.0, 1.0) == pytest.approx(expected)


def test_pairs_of_equal_score_are_in_one_bin_and_falling_means_are_pooled_by_their_numbers():
    score = np.repeat([0.1, 0.9], [5, 15])
    test = np.repeat([0.7, 0.3], [5, 15])
    assert log_odds_by_test(score, test, 0.0, 1.0) == pytest.approx(np.full(20, log_odds(0.4)))
    assert log_odds_by_test(score, test[::-1], 0.0, 1.0) == pytest.approx(
        np.repeat([log_odds(0.3), log_odds((10 * 0.3 + 5 * 0.7) / 15)], [5, 15])
    )


def test_a_test_that_tells_nothing_is_not_divided_by_zero():
    score, test = np.zeros(3), np.full(3, 0.5e-6)
    assert log_odds_by_test(score, test, 0.0, 0.0) == pytest.approx(np.zeros(3))


def test_parts_give_what_the_whole_gives(monkeypatch):
    rng = np.random.default_rng(1)
    score, test = rng.random((2, 100))
    whole = log_odds_by_test(score, test, 0.2, 0.8)
    monkeypatch.setattr(calibrate, "PART", 7)
    assert log_odds_by_test(score, test, 0.2, 0.8) == pytest.approx(whole)


@pytest.mark.parametrize("edges", [[0.3], [-2.0, -1.9999, 0.5, 0.5 + 1e-9, 7.0], np.linspace(0, 1, 40) ** 8], ids=len)
def test_places_among_edges_are_those_of_a_search(edges):
    edges = np.array(edges)
    values = np.concatenate([edges, np.nextafter(edges, -9), np.linspace(-3, 9, 500), [-1e30, 1e30]])
    assert (_Places(edges)(values) == np.searchsorted(edges, values, side="right")).all()
    few = edges.astype(np.float32)
    assert (_Places(few)(few) == np.searchsorted(few, few, side="right")).all()


# Statistics of pairs.


def test_two_pairs_are_too_few_for_a_correlation():
    x = np.array([0.0, 1.0, 2.0])
    assert correlation(x, x, x < 2) == 0
    assert correlation(x, x, x < 3) == pytest.approx(1)
    assert correlation(x, np.ones(3), x < 3) == 0


def test_a_correlation_in_parts_is_that_of_the_whole(monkeypatch):
    x, y = np.random.default_rng(0).normal(3, 2, (2, 50))
    y += 0.5 * x
    use = np.arange(50) % 3 > 0
    expected = np.corrcoef(x[use], y[use])[0, 1]
    assert correlation(x, y, use) == pytest.approx(expected)
    monkeypatch.setattr(calibrate, "PART", 7)
    assert correlation(x, y, use) == pytest.approx(expected)
    assert correlation(x, -y, use) == pytest.approx(-expected)


def test_what_hardly_varies_has_no_correlation():
    x = np.array([0.0, 1.0, 2.0])
    assert correlation(x, 1e-10 * x, x < 3) == 0
    assert correlation(1e-10 * x, x, x < 3) == 0
    assert correlation(x, 1e-8 * x, x < 3) == pytest.approx(1)


def test_the_lower_half_includes_the_median():
    assert mean_of_lower(np.array([1.0, 2.0, 6.0]), np.array([0.1, 0.2, 0.3])) == 1.5
    assert mean_of_lower(np.array([1.0, 2.0, 6.0]), np.array([0.3, 0.2, 0.1])) == 4


# What datasets have in common.

SIZES = (2, 3, 1)
ROWS = [slice(0, 2), slice(2, 5), slice(5, 6)]
OF = np.repeat(range(3), SIZES)


def adapted(z, rounds):
    """Adapt log-odds as documented, one number at a time."""
    across = OF[:, None] != OF
    mean = (1 / (1 + np.exp(-z)))[across].mean()
    base = log_odds(mean)
    odds = np.exp(np.clip(z - base, -30, 30))
    m = np.full((3, 3), 0.5)
    for _ in range(rounds):
        new = np.zeros((3, 3))
        for a in range(3):
            for b in range(3):
                counted = 0.5
                for x in np.flatnonzero(a == OF):
                    related = odds[x, b == OF].mean() * m[a, b]
                    counted += related / (1 - m[a, b] + related)
                new[a, b] = counted / (SIZES[a] + 1)
        m = new
    out = z.copy()
    for x, y in np.argwhere(across):
        a, b = OF[x], OF[y]
        prior = [np.log(m[i, j] / SIZES[j] / (1 - m[i, j])) for i, j in ((a, b), (b, a))]
        out[x, y] = (np.log(odds[x, y]) + np.log(odds[y, x])) / 2 + sum(prior) / 2
    return out


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_log_odds_are_adapted_to_datasets_as_documented(spread):
    z = np.random.default_rng(2).normal(-1, spread, (6, 6))
    z[0, 3], z[4, 1] = 45, -45
    assert adapt_to_datasets(z, ROWS) == pytest.approx(adapted(z, 30), rel=1e-9)
    assert adapt_to_datasets(z, ROWS, rounds=1) == pytest.approx(adapted(z, 1), rel=1e-9)


def test_the_log_odds_of_one_dataset_stay_and_so_does_their_precision():
    z = np.random.default_rng(3).normal(0, 1, (6, 6)).astype(np.float32)
    assert adapt_to_datasets(z[:2, :2], ROWS[:1]) is not None
    assert (adapt_to_datasets(z[:2, :2], ROWS[:1]) == z[:2, :2]).all()
    assert adapt_to_datasets(z, ROWS).dtype == np.float32


# Classes of one dataset.


def test_a_class_is_weighed_against_the_others_of_its_dataset_and_against_none():
    z = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0], [-2.0, 1.0, 0.0]])
    rows = [slice(0, 2), slice(2, 3)]
    expected = np.array(
        [[np.log(np.exp(a) / (1 + np.exp(b))), np.log(np.exp(b) / (1 + np.exp(a))), c] for a, b, c in z]
    )
    assert exclusive_log_odds(z, rows) == pytest.approx(expected)


def test_what_is_certain_excludes_all_others_and_stays_as_certain_as_it_was():
    out = exclusive_log_odds(np.array([[100.0, 0.0], [-100.0, -100.0]]), [slice(0, 2)])
    assert out == pytest.approx(np.array([[40.0, -40.0], [-40.0, -40.0]]), abs=1e-9)
