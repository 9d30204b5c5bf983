"""How well relations between labels are found, against experts: the 448 classes of seven datasets, and a second policy.

    python benchmarks/labels7.py            needs MANYSEG_DATA and the extra `offline`

The experts' relations are read for scoring only. Two classes are related when experts gave them a common universal
class. Two groups did so, and agree on two thirds of the pairs that either names. So the measure is: precision
against the *union* of both groups' pairs, recall against their *consensus*, over the classes that both labelled; the
plain precision, recall and F1 against MSeg's group alone stand beside it. For the second set, two classes are related
when they share a row of WildDash 2's label policy (names only, glued together).
A related pair is a prediction of any kind but "unrelated". Part-of: pairs of which experts make one class narrower:
the two have a universal class that joins several classes of the narrower one's dataset but only one of the other's, or
the universal classes of the narrower one are some of the other's. Scored by the predicted kind and direction, in the
same two ways: precision against the relations of either group and recall against those of both; and against MSeg's.
The rows "described" are given the descriptions of the built-in cards.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from manyseg.data.card import read_card
from manyseg.labels import JointClasses, LabelSpace, Taxonomy, normalise
from manyseg.models.text import TextEncoder
from manyseg.relate import confusion_rates, merge, propose, read_confusion, recall_matrix

DATA = Path(os.environ.get("MANYSEG_DATA", "."))
CARDS = {
    "cityscapes": "cityscapes",
    "mapillary": "mapillary_v1_2",
    "sunrgbd": "sunrgbd37",
    "bdd": "bdd100k",
    "idd": "idd",
    "ade20k": "ade20k",
    "coco": "coco_panoptic",
}


def pairs_of(pairs):
    return {frozenset((r.a, r.b)) for r in pairs if r.kind != "unrelated"}


def pairs_of_groups(groups, labels):
    found = (combinations([labels[i] for i in g], 2) for g in groups)
    return {frozenset(p) for group in found for p in group if p[0][0] != p[1][0]}


def scores(found, truth, datasets=None):
    if datasets is not None:
        found, truth = ({p for p in s if all(d in datasets for d, _ in p)} for s in (found, truth))
    hits = len(found & truth)
    precision, recall = hits / max(len(found), 1), hits / max(len(truth), 1)
    return precision, recall, 2 * hits / max(len(found) + len(truth), 1), len(found)


def agreed_scores(found, union, consensus, labelled):
    """Precision against the union, recall against the consensus, their F1, and the number of pairs."""
    found = {p for p in found if p <= labelled}
    precision = len(found & union) / max(len(found), 1)
    recall = len(found & consensus) / max(len(consensus), 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9), len(found)


def line(name, values, nodes, seconds, agreed=None):
    p, r, f, n = values
    both = " ".join(f"{v:6.3f}" for v in agreed[:3]) if agreed else f"{'':20}"
    print(f"{name:24} {both} | {p:6.3f} {r:6.3f} {f:6.3f} {n:6d} {nodes:6d} {seconds:7.1f}", flush=True)


HEAD = "  prec.   rec.     F1 |  plain   rec.     F1  pairs  nodes seconds"


def related_pairs(universal):
    return {
        frozenset(p) for p in combinations(universal, 2) if p[0][0] != p[1][0] and universal[p[0]] & universal[p[1]]
    }


def described(space):
    """Add the descriptions of the dataset's card, where it has a class of that name."""
    known = {
        normalise(n): c.description for c in read_card(CARDS[space.name]).space.classes for n in (c.name, *c.synonyms)
    }
    return LabelSpace(
        space.name, tuple(replace(c, description=known.get(normalise(c.name), "")) for c in space.classes)
    )


def labels7():
    truth = json.loads((DATA / "labels7" / "mseg_relations.json").read_text())
    spaces = [LabelSpace.of(d, [e["class"] for e in rows]) for d, rows in truth.items()]
    universal = {(d, e["class"]): frozenset(e["universal"]) for d, rows in truth.items() for e in rows}
    confusion = read_confusion(DATA / "labels7" / "confusions.npz", spaces)
    second = json.loads((DATA / "labels7" / "second_opinion.json").read_text())
    other = {(d, e["class"]): frozenset(e["universal"]) for d, rows in second.items() for e in rows}
    labelled = {(d, e["class"]) for d, rows in second.items() for e in rows if e.get("labelled", True)}
    first, theirs = ({p for p in related_pairs(u) if p <= labelled} for u in (universal, other))
    return spaces, confusion, related_pairs(universal), (universal, other), (first | theirs, first & theirs, labelled)


def wilddash():
    policy = json.loads((DATA / "class_lists" / "class_lists.json").read_text())["wilddash2 unified label policy"]
    columns = {"wd2_name": "wd2", "mvd1p2_name": "mvd", "idd_name": "idd", "cs_name": "cs"}
    void = {s["name"] for rows in policy["per_ds"].values() for s in rows if s["supercategory"] == "void"} | {
        "static",
        "dynamic",
        "ground",
    }
    names, related = defaultdict(dict), set()
    for row in policy["mapping"]:
        cells = [(d, row[c]) for c, d in columns.items() if row[c] not in void]
        for d, n in cells:
            names[d][n] = None
        related |= {frozenset(p) for p in combinations(cells, 2)}
    return [LabelSpace.of(d, n) for d, n in names.items()], related


def narrower(universal):
    """Pairs (x, y), x part of y: a common class joins several of x's dataset but one of y's, or y has more than x."""
    count = Counter((d, u) for (d, _), us in universal.items() for u in us)
    out = set()
    for (a, x), us in universal.items():
        for (b, y), vs in universal.items():
            common = us & vs
            if a == b or not common or normalise(x) == normalise(y):
                continue
            joined = any(count[a, u] > 1 for u in common) and all(count[b, u] == 1 for u in common)
            if joined or us < vs:
                out.add(((a, x), (b, y)))
    return out


def part_scores(pairs, first, theirs):
    """Precision against either group and recall against both; precision and recall against the first group."""
    found = {(r.a, r.b) if r.kind == "part of" else (r.b, r.a) for r in pairs if r.kind in ("part of", "contains")}
    sizes = (found, first & theirs, found, first)
    hits = (found & (first | theirs), found & first & theirs, found & first, found & first)
    return [len(h) / max(len(s), 1) for h, s in zip(hits, sizes, strict=True)]


def main():
    if not (DATA / "labels7").exists():
        print("skipped: there is no folder labels7 in the one that the environment variable MANYSEG_DATA names")
        return 0
    encode = TextEncoder().encode
    spaces, confusion, related, groups_of_experts, experts = labels7()
    encode([n for s in spaces for n in s.names])
    print(f"{'seven training sets':24} {HEAD}")
    for by_exact in (True, False):
        start = time.perf_counter()
        t = Taxonomy.by_name(spaces, exact=by_exact)
        groups = {frozenset(p) for u in range(len(t.unified)) for p in combinations(t.members(u), 2)}
        line(
            "by_name " + ("exact" if by_exact else "normalised"),
            scores(groups, related),
            len(t.unified),
            time.perf_counter() - start,
            agreed_scores(groups, *experts),
        )
    classes = JointClasses(tuple(spaces))
    S = recall_matrix(confusion_rates(classes, confusion), classes)
    for cost in (0.05, 0.4):
        start = time.perf_counter()
        groups = merge(S, classes.sizes, 0.4, cost)
        found = pairs_of_groups(groups, classes.keys)
        seconds = time.perf_counter() - start
        line(f"programme, cost {cost}", scores(found, related), len(groups), seconds, agreed_scores(found, *experts))
    parts = [narrower(universal) for universal in groups_of_experts]
    told = [described(s) for s in spaces]
    tries = [(by, spaces) for by in ("names", "text", "confusion", "both")] + [(by, told) for by in ("text", "both")]
    for by, given in tries:
        start = time.perf_counter()
        p = propose(given, by=by, encode=encode, confusion=confusion)
        found = pairs_of(p.pairs)
        seconds = time.perf_counter() - start
        title = f"ours, {by}{', described' * (given is told)}"
        line(title, scores(found, related), len(p.taxonomy.unified), seconds, agreed_scores(found, *experts))
        precision, recall, first, all_of_first = part_scores(p.pairs, *parts)
        print(f"{'   part of, directed':24} {precision:6.3f} {recall:6.3f}        | {first:6.3f} {all_of_first:6.3f}")
    a, b = parts
    print(
        f"part of: {len(a)} and {len(b)} pairs, {len(a & b)} of both groups, {len(a | b)} of either; the second group"
    )
    print(f"against the first: precision {len(a & b) / len(b):.3f}, recall {len(a & b) / len(a):.3f}")
    print("\nF1 when only some of the datasets are given (proposed anew): mean, plain mean, and the least plain")
    for size in (2, 3):
        for by in ("names", "text", "both"):
            plain, agreed = [], []
            for chosen in combinations(spaces, size):
                names = {s.name for s in chosen}
                inside = {k: v for k, v in confusion.items() if {*k} <= names}
                found = pairs_of(propose(chosen, by=by, encode=encode, confusion=inside).pairs)
                plain.append((scores(found, related, names)[2], "+".join(s.name for s in chosen)))
                union, consensus = ({p for p in pairs if {d for d, _ in p} <= names} for pairs in experts[:2])
                agreed.append(agreed_scores(found, union, consensus, experts[2])[2])
            means = f"{np.mean(agreed):6.3f} {np.mean([f for f, _ in plain]):6.3f}"
            print(f"  {size} datasets, {by:5} {means} {min(plain)[0]:6.3f} ({min(plain)[1]})", flush=True)
    spaces, related = wilddash()
    print(f"\n{'WildDash 2 policy':24} {HEAD}")
    for by in ("names", "text"):
        start = time.perf_counter()
        p = propose(spaces, by=by, encode=encode)
        line("ours, " + by, scores(pairs_of(p.pairs), related), len(p.taxonomy.unified), time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
