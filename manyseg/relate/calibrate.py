"""From similarities to probabilities of being related, without any relation that is known to be true.

Two facts come free with the label spaces. Two classes of one dataset differ, so the similarities within datasets are a
sample of what unrelated pairs look like (`log_odds_against_negatives`). And a text and a confusion matrix err nearly
independently, so that each can be calibrated by the other (`log_odds_by_test`): the rate at which a test is positive,
corrected for its two error rates, is the share of related pairs (Rogan and Gladen, Am. J. Epidemiology 107, 1978).

Axes: N candidate pairs, M pairs known to be unrelated, T classes of all datasets together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = [
    "PART",
    "adapt_to_datasets",
    "correlation",
    "exclusive_log_odds",
    "log_odds_against_negatives",
    "log_odds_by_test",
    "logit",
    "mean",
    "mean_of_lower",
    "sigmoid",
    "two_detectors",
]

PART = 1 << 20
"""Pairs of which float64 copies are made at a time; there can be millions."""

MIN_PROBABILITY = 1e-4
"""The smallest probability that has log-odds here; the largest is 1 - 10 times this."""


def logit(p: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities, clipped to [MIN_PROBABILITY, 1 - 10 MIN_PROBABILITY]."""
    p = np.clip(p, MIN_PROBABILITY, 1 - 10 * MIN_PROBABILITY)
    out: np.ndarray = np.empty_like(p)
    np.subtract(1, p, out=out)
    np.divide(p, out, out=out)
    np.log(out, out=out)
    return out


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Probabilities of log-odds."""
    out: np.ndarray = np.empty_like(x)
    np.clip(x, -40, 40, out=out)
    np.negative(out, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.divide(1, out, out=out)
    return out


def log_odds_against_negatives(
    candidates: Float[np.ndarray, " N"], negatives: Float[np.ndarray, " M"]
) -> tuple[float, float]:
    """Fit (a, b): a candidate pair of similarity s is related with log-odds a + b s.

    Candidates are the similarities (-1 to 1) of pairs across datasets, negatives those of pairs within one. The model
    is a mixture with known negatives: density of candidates = (density of negatives) (1 + exp(a + b s)), as related
    pairs are rare; it is fitted as the logistic regression that tells candidates from negatives. A weak normal prior
    decides where there are few pairs: log-odds 0 (standard deviation 2) half-way between the upper quartile of the
    negatives and 1, and 4 more (standard deviation 20) from there to 1.
    """
    from scipy.optimize import minimize

    k = len(candidates) / max(len(negatives), 1)
    centre = (1 + (float(np.quantile(negatives, 0.75)) if len(negatives) else 0.5)) / 2
    scale = max(1 - centre, 1e-3)
    prior, width = np.array([0.0, 4.0]), np.array([2.0, 20.0])
    # There can be millions of pairs; a histogram over -1 to 1 says all that matters of them.
    edges = np.linspace(-1, 1, 4001)
    x = ((edges[:-1] + edges[1:]) / 2 - centre) / scale
    n1, n0 = (np.histogram(np.clip(s, -1, 1), len(edges) - 1, (-1, 1))[0] for s in (candidates, negatives))

    def loss(t: np.ndarray) -> tuple[float, np.ndarray]:
        e = np.exp(np.clip(t[0] + t[1] * x, -40, 40))
        fit = n1 @ (np.log1p(k * (1 + e)) - np.log1p(e)) + n0 @ np.log1p(k * (1 + e))
        slope = ((n1 + n0) * k / (1 + k * (1 + e)) - n1 / (1 + e)) * e
        pull = (t - prior) / width
        return float(fit + 0.5 * (pull @ pull)), np.array([slope.sum(), slope @ x]) + pull / width

    a, b = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=[(None, None), (0.5, 40)]).x
    return float(a - b * centre / scale), float(b / scale)


def log_odds_by_test(
    score: Float[np.ndarray, " N"], test: Float[np.ndarray, " N"], negative: float, positive: float
) -> Float[np.ndarray, " N"]:
    """Return the log-odds of being related as a rising function of `score`, calibrated by an independent `test`.

    `negative` and `positive` are the mean test values of unrelated and of related pairs. The mean test value of the
    pairs of nearly one score is a mixture of the two, and its share of `positive` is the probability. Means are taken
    over bins of 10 pairs at the highest score, each next bin 15 % larger, and then made monotone. Pairs of equal score
    are in one bin.
    """
    from scipy.optimize import isotonic_regression

    cuts, step = [len(score)], 10.0
    while cuts[-1] > 0:
        cuts.append(max(0, cuts[-1] - int(step)))
        step *= 1.15
    lowest = np.unique(np.sort(score)[cuts[:0:-1]])
    parts = [slice(start, start + PART) for start in range(0, len(score), PART)]
    n, total, tested = np.zeros((3, len(lowest)))
    bins = _Places(lowest)
    for part in parts:
        place = bins(score[part]) - 1
        n += np.bincount(place, None, len(lowest))
        total += np.bincount(place, score[part], len(lowest))
        tested += np.bincount(place, test[part], len(lowest))
    x = total / n
    y = logit((isotonic_regression(tested / n, weights=n).x - negative) / max(positive - negative, 1e-6))
    # Linear between the bins' means, and constant outside.
    slope, x_before, y_before = np.r_[0, np.diff(y) / np.diff(x), 0], np.r_[x[:1], x], np.r_[y[:1], y]
    means = _Places(x)
    out = np.empty_like(score)
    for part in parts:
        place = means(score[part])
        out[part] = slope[place] * (score[part] - x_before[place]) + y_before[place]
    return out


class _Places:
    """Says of any values how many of a few sorted `edges` are not above them, as `numpy.searchsorted` does.

    A table of equal cells answers for the values in whose cell there is no edge.
    """

    CELLS = 1 << 14

    def __init__(self, edges: np.ndarray) -> None:
        self.edges = edges.astype(np.float64)
        self.scale = self.CELLS / (self.edges[-1] - self.edges[0]) if self.edges[0] < self.edges[-1] else 1.0
        here = np.bincount(self._cells(self.edges), None, self.CELLS + 2)
        self.below, self.cut = np.cumsum(here) - here, here > 0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        cells = self._cells(values)
        out: np.ndarray = self.below[cells]
        near = np.flatnonzero(self.cut[cells])
        out[near] = np.searchsorted(self.edges, values[near], side="right")
        return out

    def _cells(self, values: np.ndarray) -> np.ndarray:
        """Return a rising function of the values; it is 0 below the first edge."""
        cells: np.ndarray = (values - self.edges[0]) * self.scale + 1
        np.clip(cells, 0, self.CELLS + 1, out=cells)
        return cells.astype(np.intp)


def two_detectors(
    text: Float[np.ndarray, " N"],
    confusion: Float[np.ndarray, " N"],
    named: Bool[np.ndarray, " N"],
    apart: Bool[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Return the log-odds by both, of those by the text and of the rates of confusion; `text` is overwritten.

    `named` are pairs of equal name, `apart` pairs that are not in one cluster.
    """
    p = sigmoid(text)
    sight = log_odds_by_test(confusion, p, mean_of_lower(p, confusion), mean(p[named]))
    base = float(logit(np.array(mean(p))))
    del p
    # What is near in meaning looks alike too, also where it is not the same. Two detectors whose errors correlate by
    # rho are worth 2 / (1 + rho) of one: the weights of the best linear detector.
    rho = max(correlation(text, sight, apart), 0.0)
    text += sight
    text -= 2 * base
    text /= 1 + rho
    text += base
    return text


def mean_of_lower(values: np.ndarray, by: np.ndarray) -> float:
    """Return the mean over what is not above the median of `by`."""
    ordered = np.sort(by)
    middle = (ordered[(len(by) - 1) // 2] + ordered[len(by) // 2]) / 2
    del ordered
    return mean(values[by <= middle])


def mean(values: np.ndarray) -> float:
    """Return the mean, added up in float64."""
    return float(values.mean(dtype=np.float64))


def correlation(x: np.ndarray, y: np.ndarray, use: Bool[np.ndarray, " N"]) -> float:
    """Return Pearson's coefficient over the pairs to `use`, from sums over parts; 0 where either does not vary."""
    count = np.count_nonzero(use)
    if count < 3:
        return 0.0
    sums = np.zeros((2, 2))
    means = np.array([[v.mean(where=use, dtype=np.float64)] for v in (x, y)])
    for part in (slice(start, start + PART) for start in range(0, len(x), PART)):
        both = np.stack([v[part][use[part]] for v in (x, y)]).astype(np.float64) - means
        sums += both @ both.T
    if (np.diag(sums) <= count * 1e-18).any():
        return 0.0
    return float(sums[0, 1] / np.sqrt(sums[0, 0] * sums[1, 1]))


def adapt_to_datasets(
    log_odds: Float[np.ndarray, "T T"], rows: Sequence[slice], rounds: int = 30
) -> Float[np.ndarray, "T T"]:
    """Adapt log-odds, so far of one prior for all pairs, to how much every two datasets have in common.

    `rows` are the positions of each dataset's classes, in order. A class of dataset a has a counterpart in b with
    probability m(a, b), and is then equally likely any of b's classes. Expectation maximisation finds m from the
    log-odds, from 1/2 on, with one more class counted as half related. The results for (a, b) and (b, a) are averaged.
    """
    starts, sizes = [r.start for r in rows], np.array([r.stop - r.start for r in rows])
    pairs = log_odds.size - (sizes**2).sum()
    if not pairs:
        return log_odds
    # There can be millions of pairs: a dataset's rows at a time, and one copy of them all.
    total = sum(sigmoid(log_odds[own]).sum(dtype=np.float64) - sigmoid(log_odds[own, own]).sum() for own in rows)
    base = float(logit(np.array(total / pairs)))
    out = log_odds.copy()
    to_each = np.empty((len(out), len(rows)))  # [x, b]: of class x to all classes of b.
    for own in rows:
        out[own] = np.clip(out[own] - base, -30, 30)
        to_each[own] = np.add.reduceat(np.exp(out[own], dtype=np.float64), starts, axis=1) / sizes
    m = np.full((len(rows), len(rows)), 0.5)
    for _ in range(rounds):
        share = np.repeat(m, sizes, axis=0)
        related = to_each * share
        m = (np.add.reduceat(related / (1 - share + related), starts, axis=0) + 0.5) / (sizes[:, None] + 1)
    prior = np.log(m / sizes / (1 - m))
    prior = (prior + prior.T) / 2
    for a, own in enumerate(rows):
        out[own, own] = log_odds[own, own]
        for b, other in enumerate(rows[:a]):
            mean = (out[own, other] + out[other, own].T) / 2 + out.dtype.type(prior[a, b])
            out[own, other], out[other, own] = mean, mean.T
    return out


def exclusive_log_odds(log_odds: Float[np.ndarray, "T T"], rows: Sequence[slice]) -> Float[np.ndarray, "T T"]:
    """Let the classes of one dataset exclude each other: class x belongs to at most one of them.

    `rows` are the positions of each dataset's classes. [x, y] of the result are the log-odds of y against all other
    classes of y's dataset and against none of them, which has log-odds 0.
    """
    out = np.empty_like(log_odds)
    for columns in rows:
        block = np.clip(log_odds[:, columns], -40, 40, dtype=np.float64)
        odds = np.exp(block)
        out[:, columns] = block - np.log1p(np.maximum(odds.sum(1, keepdims=True) - odds, 0))
    return out
