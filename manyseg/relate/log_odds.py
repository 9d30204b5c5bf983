"""From all evidence to clusters of equal classes, and to the log-odds that one class is, or is part of, another.

Directed log-odds [x, y] are those of x being y or a part of y. Axes: T classes of all datasets together, G clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace
from manyseg.relate.calibrate import (
    adapt_to_datasets,
    exclusive_log_odds,
    log_odds_against_negatives,
    log_odds_by_test,
    logit,
    mean,
    mean_of_lower,
    two_detectors,
)
from manyseg.relate.confusion_evidence import ConfusionRates, Counts, confusion_rates, sums_by_group
from manyseg.relate.lexicon_evidence import LexiconEvidence, lexicon_evidence
from manyseg.relate.name_evidence import name_evidence
from manyseg.relate.programme import partition
from manyseg.relate.text_evidence import Encode, text_similarity

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = [
    "IMPOSSIBLE",
    "By",
    "Evidence",
    "cluster",
    "cluster_numbers",
    "equal_log_odds",
    "gather",
    "has_other",
    "may_contain",
    "with_confusion",
]

By = Literal["names", "text", "confusion", "both"]
"""What evidence is looked at; "both" are text and confusion."""

CERTAIN = 5.0
"""Log-odds of what names say outright."""

KNOWN = 4.0
"""Log-odds of what the lexicon says, and against what it denies; less than of names: a word may mean something else."""

LITTLE = 0.5
"""Log-odds of two classes that have a part in common by the lexicon, and are otherwise not known to be related."""

IMPOSSIBLE = -40.0
"""Log-odds of what cannot be."""

MAX_ROUNDS = 3
"""Rounds of clustering, each with the evidence pooled over the clusters of the one before; more change hardly any."""

MIN_EQUAL_NAMES = 10
"""Pairs of equal name that are needed to calibrate text and confusion by each other."""


@dataclass(frozen=True)
class Evidence:
    """What is known of every pair of classes; None is what was not asked."""

    same_name: Bool[np.ndarray, "T T"]
    name_part: Bool[np.ndarray, "T T"]
    """[x, y]: by their names, x is part of y."""
    similarity: Float[np.ndarray, "T T"] | None
    """Of the texts, -1 to 1."""
    prior: Float[np.ndarray, "T T"] | None
    """Symmetric log-odds of being equal, by names, texts and the lexicon."""
    rates: ConfusionRates | None
    lexicon: LexiconEvidence | None = None


def gather(
    spaces: Sequence[LabelSpace],
    classes: JointClasses,
    by: By,
    encode: Encode | None,
    confusion: Counts | None,
    templates: Sequence[str],
) -> Evidence:
    """Collect the evidence about `classes`, which are those of `spaces` in another order (that of `confusion`)."""
    if by not in ("names", "text", "confusion", "both"):
        raise UserError(f"labels cannot be related by '{by}'; choose names, text, confusion or both")
    same, part = name_evidence(classes)
    similarity = prior = rates = words = None
    if by in ("text", "both"):
        if encode is None:
            raise UserError(f"relating labels by {by} needs a text encoder; give one, or relate them by names")
        similarity = text_similarity(classes, encode, templates)
        a, b = log_odds_against_negatives(*_pairs_once(similarity, [*classes.rows.values()]))
        prior = b * similarity
        prior += a
        prior = adapt_to_datasets(prior, [*classes.rows.values()])
        words = lexicon_evidence(classes)
        unequal = words.different | words.within | words.within.T | words.partly | words.partly.T | words.elsewhere
        np.maximum(prior, KNOWN, out=prior, where=words.equal)
        np.minimum(prior, -KNOWN, out=prior, where=unequal)
        np.maximum(prior, CERTAIN, out=prior, where=same)
    if by in ("confusion", "both"):
        if not confusion:
            raise UserError(f"relating labels by {by} needs confusion matrices; give some, or relate labels by text")
        rates = confusion_rates(classes, confusion, spaces)
    if by == "names":
        prior = np.where(same, np.float32(CERTAIN), np.float32(IMPOSSIBLE))
    return Evidence(same, part, similarity, prior, rates, words)


def _pairs_once(
    similarity: Float[np.ndarray, "T T"], rows: Sequence[slice]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " M"]]:
    """Return the similarities of every two classes of different datasets, and of every two of one dataset."""
    across = [similarity[own, own.stop :].ravel() for own in rows]
    within = [similarity[own, own][np.triu_indices(own.stop - own.start, 1)] for own in rows]
    return np.concatenate(across), np.concatenate(within)


def cluster(
    classes: JointClasses,
    evidence: Evidence,
    must_link: Sequence[tuple[int, int]],
    cannot_link: Sequence[tuple[int, int]],
) -> tuple[Float[np.ndarray, "T T"], list[tuple[int, ...]]]:
    """Return the directed log-odds of every pair, and the clusters of equal classes."""
    T, rows = len(classes), [*classes.rows.values()]
    names = [":".join(key) for key in classes.keys]
    prior = np.full((T, T), IMPOSSIBLE, np.float32) if evidence.prior is None else evidence.prior
    clusters = partition(prior, classes.dataset, must_link, cannot_link, names)
    if evidence.rates is None:
        odds = prior if evidence.similarity is None else exclusive_log_odds(prior, rows)
        return _with_words(classes, evidence, odds, cluster_numbers(clusters)), clusters
    for _ in range(MAX_ROUNDS):
        group = cluster_numbers(clusters)
        odds = exclusive_log_odds(with_confusion(classes, evidence, group), rows)
        odds = _with_words(classes, evidence, odds, group)
        equal = equal_log_odds(evidence, odds)
        before, clusters = clusters, partition(equal, classes.dataset, must_link, cannot_link, names)
        if clusters == before:
            break
    return odds, clusters


def equal_log_odds(evidence: Evidence, odds: Float[np.ndarray, "T T"]) -> Float[np.ndarray, "T T"]:
    """Return the symmetric log-odds of two classes being equal: each is part of the other, or their texts say so."""
    out: np.ndarray = np.minimum(odds, odds.T)
    return out if evidence.prior is None else np.maximum(out, evidence.prior, out=out)


def cluster_numbers(clusters: Sequence[tuple[int, ...]]) -> Int[np.ndarray, " T"]:
    """Return the number of each class's cluster."""
    group = np.empty(sum(map(len, clusters)), int)
    for g, members in enumerate(clusters):
        group[list(members)] = g
    return group


def _with_words(
    classes: JointClasses, evidence: Evidence, odds: Float[np.ndarray, "T T"], group: Int[np.ndarray, " T"]
) -> Float[np.ndarray, "T T"]:
    """Add what names and the lexicon say of parts, for all classes of both clusters; confusion alone looks at neither.

    Confusion may outweigh what the lexicon says; a text that says otherwise is not believed.
    """
    free = may_contain(classes, group)
    out = np.where(classes.differ, odds, odds.dtype.type(IMPOSSIBLE))
    if (words := evidence.lexicon) is not None:
        denied = words.different | words.within.T | words.elsewhere
        held = words.within | (_pooled(words.within, group) & ~denied & ~words.equal)
        held &= free
        if evidence.rates is None:
            np.minimum(out, -KNOWN, out=out, where=denied)
            np.maximum(out, KNOWN, out=out, where=held)
        else:
            np.add(out, KNOWN, out=out, where=held)
            np.subtract(out, KNOWN, out=out, where=denied)
        np.maximum(out, LITTLE, out=out, where=words.partly | words.partly.T)
    if evidence.prior is not None:
        part = _pooled(evidence.name_part, group)
        np.maximum(out, CERTAIN, out=out, where=part & free & classes.differ)
    return out


def _pooled(part: Bool[np.ndarray, "T T"], group: Int[np.ndarray, " T"]) -> Bool[np.ndarray, "T T"]:
    """Say whether any class of x's cluster is part of any of y's."""
    x, y = np.nonzero(part)
    pooled = np.zeros((int(group.max()) + 1, int(group.max()) + 1), bool)
    pooled[group[x], group[y]] = True
    return _of_classes(pooled, group)


def with_confusion(classes: JointClasses, evidence: Evidence, group: Int[np.ndarray, " T"]) -> Float[np.ndarray, "T T"]:
    """Combine text and confusion as two detectors of related pairs, each calibrated by the other.

    What the lexicon says is equal gains `KNOWN`. Where the two cannot be calibrated, with too few equal names or where
    these are all that is left, `prior`, which has the lexicon in it, and the log-odds of the pooled confusion rate are
    added up. Without texts the latter are taken as they are: then x is related to y where more than half of its pixels
    are predicted as y.
    """
    assert evidence.rates is not None
    rate, seen, free = _pooled_rates(classes, evidence.rates, group)
    seen &= classes.differ
    if evidence.similarity is None:
        return np.where(seen, logit(rate), rate.dtype.type(IMPOSSIBLE))
    assert evidence.prior is not None
    similarity, confusion, named = evidence.similarity[seen], rate[seen], evidence.same_name[seen]
    del rate
    few = named.sum() < MIN_EQUAL_NAMES
    unrelated, related = (0.0, 0.0) if few else (mean_of_lower(confusion, similarity), mean(confusion[named]))
    if unrelated < related:
        text = log_odds_by_test(similarity, confusion, unrelated, related)
        del similarity
        both = two_detectors(text, confusion, named, (group[:, None] != group)[seen])
        if evidence.lexicon is not None:
            both[evidence.lexicon.equal[seen]] += KNOWN
    else:
        both = evidence.prior[seen] + logit(confusion)
    out = np.where(free, evidence.prior, evidence.prior.dtype.type(IMPOSSIBLE))
    out[seen] = both
    return out


def _pooled_rates(
    classes: JointClasses, rates: ConfusionRates, group: Int[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, "T T"], Bool[np.ndarray, "T T"], Bool[np.ndarray, "T T"]]:
    """Return the confusion rate of every two classes' clusters, whether it is known, and whether y may contain x.

    The rate is the geometric mean of the two of `ConfusionRates`, each the mean over all pairs of the two clusters'
    classes for which y may contain x.
    """
    free = may_contain(classes, group)
    use = free & rates.known
    count = sums_by_group(use, group)
    means = [sums_by_group(m, group, use) / np.maximum(count, 1) for m in (rates.given_true, rates.given_predicted)]
    has = has_class(classes, group).astype(np.float32)
    # A dataset has a class in y's cluster and none in x's; within a cluster, there are two datasets.
    possible = (1 - has) @ has.T > 0
    np.fill_diagonal(possible, has.sum(1) > 1)
    rate = _of_classes(np.sqrt(means[0] * means[1]), group)
    return rate, _of_classes(count > 0, group), _of_classes(possible, group)


def _of_classes(by_cluster: np.ndarray, group: Int[np.ndarray, " T"]) -> np.ndarray:
    """Return a value for every two classes, [T, T], from that of their clusters."""
    out: np.ndarray = np.take(by_cluster[group], group, axis=1)
    return out


def may_contain(classes: JointClasses, group: Int[np.ndarray, " T"]) -> Bool[np.ndarray, "T T"]:
    """Say whether y may contain x ([x, y]): unless y's dataset has another class in x's cluster.

    That class is equal to x, so x's pixels have that label in y's dataset, whatever else might contain them.
    """
    free: Bool[np.ndarray, "T T"] = ~has_other(classes, group) | (group[:, None] == group)
    free &= classes.differ
    return free


def has_other(classes: JointClasses, group: Int[np.ndarray, " T"]) -> Bool[np.ndarray, "T T"]:
    """Say whether y's dataset has a class in x's cluster ([x, y])."""
    out: Bool[np.ndarray, "T T"] = np.repeat(has_class(classes, group)[group], classes.sizes, axis=1)
    return out


def has_class(classes: JointClasses, group: Int[np.ndarray, " T"]) -> Bool[np.ndarray, "G K"]:
    """Say which of the K datasets have a class in each cluster."""
    has = np.zeros((int(group.max()) + 1, len(classes.spaces)), bool)
    has[group, classes.dataset] = True
    return has
