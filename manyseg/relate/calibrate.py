"""From similarities to probabilities without anybody's truth.

Two facts come free with the label spaces. Two classes of one dataset differ, so the similarities within datasets are a
sample of what unrelated classes look like (`decoy_log_odds`). And a text and a confusion matrix err independently, more
or less, so that one can be calibrated by the other (`cross_log_odds`): the rate at which a test fires, corrected for
its two known error rates, is the share of related pairs (Rogan and Gladen, Am. J. Epidemiology 107, 1978).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression, minimize

__all__ = ["compete", "cross_log_odds", "decoy_log_odds", "logit", "sigmoid", "suit_datasets"]

LEAST = 1e-4
"""The smallest probability that calibration speaks of; the largest is 1 - 10 LEAST."""


def logit(p: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities, clipped to [LEAST, 1 - 10 LEAST]."""
    p = np.clip(p, LEAST, 1 - 10 * LEAST)
    out: np.ndarray = np.log(p / (1 - p))
    return out


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Probabilities of log-odds."""
    out: np.ndarray = 1 / (1 + np.exp(-np.clip(x, -40, 40)))
    return out


def decoy_log_odds(candidates: Float[np.ndarray, " N"], decoys: Float[np.ndarray, " M"]) -> tuple[float, float]:
    """Fit (a, b): the log-odds that a candidate of similarity s is related is a + b s.

    Candidates are pairs across datasets, decoys pairs within one. The model is the mixture of known negatives: density
    of candidates = (density of decoys) (1 + exp(a + b s)), as related pairs are rare; its likelihood is that of telling
    candidates from decoys. Where there are few pairs a weak normal prior holds: even odds half-way between the upper
    quartile of the decoys and 1, give or take 2 nats, and from there to 1 another 4 nats, give or take 20.
    """
    k = len(candidates) / max(len(decoys), 1)
    centre = (1 + (float(np.quantile(decoys, 0.75)) if len(decoys) else 0.5)) / 2
    scale = max(1 - centre, 1e-3)
    prior, width = np.array([0.0, 4.0]), np.array([2.0, 20.0])
    # Millions of pairs, but only their distribution over -1 .. 1 matters.
    edges = np.linspace(-1, 1, 4001)
    x = ((edges[:-1] + edges[1:]) / 2 - centre) / scale
    n1, n0 = (np.histogram(np.clip(s, -1, 1), edges)[0] for s in (candidates, decoys))

    def loss(t: np.ndarray) -> tuple[float, np.ndarray]:
        e = np.exp(np.clip(t[0] + t[1] * x, -40, 40))
        fit = n1 @ (np.log1p(k * (1 + e)) - np.log1p(e)) + n0 @ np.log1p(k * (1 + e))
        slope = ((n1 + n0) * k / (1 + k * (1 + e)) - n1 / (1 + e)) * e
        pull = (t - prior) / width
        return float(fit + 0.5 * (pull @ pull)), np.array([slope.sum(), slope @ x]) + pull / width

    a, b = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=[(-20, 20), (0.5, 40)]).x
    return float(a - b * centre / scale), float(b / scale)


def cross_log_odds(
    score: Float[np.ndarray, " N"], test: Float[np.ndarray, " N"], negative: float, positive: float
) -> Float[np.ndarray, " N"]:
    """Log-odds of being related as a rising function of `score`, by a `test` that knows nothing of the score.

    `negative` and `positive` are the mean test values of unrelated and of related pairs. The mean test near a score is
    a mixture of the two; its share of `positive` is the probability. Means are taken over bins that grow by 15 % from
    the highest score down, then made monotone.
    """
    order = np.argsort(score, kind="stable")
    cuts, step = [len(order)], 10.0
    while cuts[-1] > 0:
        cuts.append(max(0, cuts[-1] - int(step)))
        step *= 1.15
    starts = np.array(cuts[:0:-1])
    n = np.diff(np.append(starts, len(order)))
    x = np.add.reduceat(score[order], starts) / n
    y = isotonic_regression(np.add.reduceat(test[order], starts) / n, weights=n.astype(float)).x
    out: np.ndarray = np.interp(score, x, logit((y - negative) / max(positive - negative, 1e-6)))
    return out


def suit_datasets(log_odds: Float[np.ndarray, "T T"], ranges: list[slice], rounds: int = 30) -> np.ndarray:
    """Adapt log-odds to how much every two datasets have in common, where one prior served all pairs before.

    Each class x of a has a counterpart in b with a probability m(a, b), and is then any of b's classes alike; EM finds
    m from the evidence itself, started at a half, with half a class counted for and half against. [x, y] and [y, x],
    read from a and from b, are averaged.
    """
    cross = np.ones(log_odds.shape, bool)
    for r in ranges:
        cross[r, r] = False
    if not cross.any():
        return log_odds
    base = logit(np.array(sigmoid(log_odds[cross]).mean()))
    ratio = np.exp(np.clip(log_odds - base, -30, 30))
    out = log_odds.copy()
    for rows in ranges:
        for columns in ranges:
            if rows == columns:
                continue
            block = ratio[rows, columns]
            m, n = 0.5, block.shape[1]
            for _ in range(rounds):
                total = block.sum(1) * m / n
                m = float(((total / (1 - m + total)).sum() + 0.5) / (len(block) + 1))
            out[rows, columns] = np.log(block) + np.log(m / n / (1 - m))
    mean: np.ndarray = (out + out.T) / 2
    return mean


def compete(log_odds: Float[np.ndarray, "T T"], ranges: list[slice]) -> Float[np.ndarray, "T T"]:
    """Let the classes of one dataset compete for x: x goes to at most one of them, or to none (log-odds 0)."""
    out = np.empty_like(log_odds)
    for columns in ranges:
        block = np.clip(log_odds[:, columns], -40, 40)
        # log-odds of y against none and all y' but y.
        e = np.exp(block)
        out[:, columns] = block - np.log(np.maximum(1 + e.sum(1, keepdims=True) - e, 1e-30))
    return out
