"""What is known about labels before any training: their names, their texts, and the confusions of a multi-head model.

All classes of all datasets are numbered in one flat list (T classes); every piece of evidence is a [T, T] matrix.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace, normalise

__all__ = ["TEMPLATES", "Encode", "Flat", "alternatives", "cell_sums", "name_evidence", "shares", "text_similarity"]

Encode = Callable[[list[str]], np.ndarray]
"""Turns texts into vectors: Float[N, F]; lengths do not matter."""

TEMPLATES = ("{}", "a photo of a {}.", "An image of {}", "{}, a kind of object in an image")
"""Sentences whose vectors are averaged. `{dataset}` may occur too: it makes one text a dataset and label."""


@dataclass(frozen=True)
class Flat:
    """The classes of several label spaces as one list."""

    spaces: tuple[LabelSpace, ...]

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def dataset(self) -> Int[np.ndarray, " T"]:
        """The position of each class's dataset."""
        return np.repeat(np.arange(len(self.spaces)), [len(s) for s in self.spaces])

    @cached_property
    def labels(self) -> list[tuple[str, str]]:
        """(dataset, class) of each class."""
        return [(s.name, n) for s in self.spaces for n in s.names]

    @cached_property
    def ranges(self) -> list[slice]:
        """The stretch of the list that each dataset takes."""
        ends = np.cumsum([0, *(len(s) for s in self.spaces)])
        return [slice(int(a), int(b)) for a, b in pairwise(ends)]

    @cached_property
    def cross(self) -> Bool[np.ndarray, "T T"]:
        """True where two classes belong to different datasets."""
        different: Bool[np.ndarray, "T T"] = self.dataset[:, None] != self.dataset[None]
        return different


def words(text: str) -> str:
    """Split a name into lower-case words: "LaneMarking_2" becomes "lane marking 2"."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return " ".join(re.sub(r"[\W_]+", " ", text).casefold().split())


def alternatives(name: str, synonyms: Sequence[str] = ()) -> list[str]:
    """Names any of which fits: "bridge / tunnel" may be a bridge or a tunnel."""
    found = [words(p) for n in (name, *synonyms) for p in re.split(r"[/,;|&]| or ", n)]
    return list(dict.fromkeys(w for w in found if w)) or [name.casefold()]


def segments(name: str, synonyms: Sequence[str] = ()) -> list[str]:
    """Split the alternatives further at dashes and brackets: "wall-brick" has "wall" and "brick"."""
    found = [words(p) for n in (name, *synonyms) for p in re.split(r"[/,;|&()]|-| or ", n)]
    return list(dict.fromkeys(w for w in found if w)) or [name.casefold()]


def listed(description: str) -> list[str]:
    """Split what a description lists: "person, animal or rider" has three items."""
    found = [words(p) for p in re.split(r"[,:;.()/]|\b(?:or|and|such as)\b", description)]
    return list(dict.fromkeys(re.sub(r"^(?:an?|the) ", "", w) for w in found if w))


def name_evidence(flat: Flat) -> tuple[Bool[np.ndarray, "T T"], Bool[np.ndarray, "T T"]]:
    """Say from names alone which classes are equal, and which contain which ([x, y]: x is part of y).

    Equal: the same set of alternatives, or a common synonym. Part: y lists x's whole name among its alternatives,
    or x is y with a qualifier behind a dash or in brackets ("wall-brick" and "wall"), or y's description lists x's name
    and y's dataset has no class of that name.
    """
    also = [{_key(n) for n in (c.name, *c.synonyms)} for c in _classes(flat)]
    options = [{_key(a) for a in alternatives(c.name)} for c in _classes(flat)]
    heads = [_key(segments(c.name)[0]) for c in _classes(flat)]
    T = len(flat)
    equal, part = np.zeros((T, T), bool), np.zeros((T, T), bool)
    index: dict[str, set[int]] = {}
    for i in range(T):
        for key in also[i]:
            index.setdefault(key, set()).add(i)
    for i in range(T):
        for j in set().union(*(index[k] for k in also[i])):
            equal[i, j] = True
        for option in options[i]:
            for j in index.get(option, ()):
                part[j, i] = len(options[i]) > 1
        for j in index.get(heads[i], ()):
            if len(options[i]) == 1:
                part[i, j] = True
    equal |= equal.T
    for i, c in enumerate(_classes(flat)):
        mine = flat.ranges[flat.dataset[i]]
        for item in listed(c.description):
            for j in index.get(_key(item), ()):
                if not equal[j, mine].any():
                    part[j, i] = True
    return equal & flat.cross, part & flat.cross & ~equal


def _key(name: str) -> str:
    """Reduce a name to what equal names have in common: "Traffic-Lights" and "trafficlight" are one."""
    return normalise(words(name)).replace(" ", "") or name.casefold()


def text_similarity(flat: Flat, encode: Encode, templates: Sequence[str] = TEMPLATES) -> Float[np.ndarray, "T T"]:
    """Cosine of the class texts, 1 for equal names.

    Two names are as similar as their most similar alternatives; the score is the mean of that and of the most
    similar pair in which one of the names may lose its qualifiers, so that "tree-merged" still resembles "tree".
    A class with a description has its vector averaged with that of "name: description".
    """
    keys: dict[tuple[str, str, str], int] = {}
    rows: list[list[list[int]]] = [[], []]
    for (dataset, _), c in zip(flat.labels, _classes(flat), strict=True):
        where = dataset if any("{dataset}" in t for t in templates) else ""
        for view, split in zip(rows, (alternatives, segments), strict=True):
            parts = split(c.name, c.synonyms)
            view.append([keys.setdefault((p, where, c.description), len(keys)) for p in parts])
    vectors = _vectors(list(keys), encode, templates)
    whole = _best(vectors, rows[0], rows[0])
    loose = _best(vectors, rows[1], rows[0])
    mean = (whole + np.maximum(loose, loose.T)) / 2
    out: Float[np.ndarray, "T T"] = np.clip((mean + mean.T) / 2, -1, 1)
    return out


def _classes(flat: Flat) -> list[LabelClass]:
    return [c for s in flat.spaces for c in s.classes]


def _vectors(keys: Sequence[tuple[str, str, str]], encode: Encode, templates: Sequence[str]) -> np.ndarray:
    texts = [[t.format(part, dataset=where) for t in templates] for part, where, _ in keys]
    described = [f"{part}: {description}" for part, _, description in keys if description]
    pool = sorted({t for ts in texts for t in ts} | set(described))
    raw = np.asarray(encode(pool), np.float64)
    if raw.ndim != 2 or len(raw) != len(pool) or not np.isfinite(raw).all():
        raise UserError(f"the text encoder gave {list(raw.shape)} for {len(pool)} texts, or values that are not finite")
    unit = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
    position = {t: i for i, t in enumerate(pool)}
    out = np.stack([unit[[position[t] for t in ts]].mean(0) for ts in texts])
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
    for i, (part, _, description) in enumerate(keys):
        if description:
            out[i] = (out[i] + unit[position[f"{part}: {description}"]]) / 2
    unit_rows: np.ndarray = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
    return unit_rows.astype(np.float32)


def _best(vectors: np.ndarray, left: list[list[int]], right: list[list[int]]) -> np.ndarray:
    """Float32[T, T]: the largest cosine between any text of x in `left` and any of y in `right`."""
    starts_l = np.cumsum([0, *map(len, left)])[:-1]
    starts_r = np.cumsum([0, *map(len, right)])[:-1]
    a = vectors[[k for row in left for k in row]]
    b = vectors[[k for row in right for k in row]]
    best: np.ndarray = np.maximum.reduceat(np.maximum.reduceat(a @ b.T, starts_l, 0), starts_r, 1)
    return best


@dataclass(frozen=True)
class Shares:
    """Confusion as shares, in both readings that say "x goes to y".

    `called[x, y]`: of the pixels of x, the share that y's head calls y. `found[x, y]`: of the pixels that x's head
    calls x on the images of y's dataset, the share that are truly y. Zero where there is no evidence (`known` false).
    """

    called: Float[np.ndarray, "T T"]
    found: Float[np.ndarray, "T T"]
    known: Bool[np.ndarray, "T T"]

    def take(self, order: Sequence[int]) -> Shares:
        """Renumber the classes."""
        pair = np.ix_(order, order)
        return Shares(self.called[pair], self.found[pair], self.known[pair])


def shares(flat: Flat, confusion: Mapping[str, np.ndarray]) -> Shares:
    """Read counts `a__b`, [i, j] = pixels of class i of a that the head of b called j.

    A missing matrix and a zero row are no evidence. Raises UserError on a wrong shape, a negative or non-finite count.
    """
    T = len(flat)
    called, found = np.zeros((T, T), np.float32), np.zeros((T, T), np.float32)
    known = np.zeros((T, T), bool)
    for a, rows in zip(flat.spaces, flat.ranges, strict=True):
        for b, columns in zip(flat.spaces, flat.ranges, strict=True):
            key = f"{a.name}__{b.name}"
            if key not in confusion:
                continue
            counts = np.asarray(confusion[key], np.float64)
            if counts.shape != (len(a), len(b)):
                raise UserError(
                    f"confusion '{key}' is {list(counts.shape)}, but '{a.name}' has {len(a)} classes and "
                    f"'{b.name}' {len(b)}; it needs one row a class of '{a.name}' and one column a class of '{b.name}'"
                )
            if not np.isfinite(counts).all() or (counts < 0).any():
                raise UserError(f"confusion '{key}' has negative or non-finite counts; collect it again")
            seen = counts.sum(1, keepdims=True)
            called[rows, columns] = counts / np.maximum(seen, 1)
            known[rows, columns] = seen > 0
            found[columns, rows] = (counts / np.maximum(counts.sum(0, keepdims=True), 1)).T
    return Shares(called, found, known)


def check_names(flat: Flat, confusion: Mapping[str, np.ndarray]) -> None:
    """Refuse confusions that name a dataset which is not among the label spaces."""
    known = {s.name for s in flat.spaces}
    for key in confusion:
        first, _, second = key.partition("__")
        if not {first, second} <= known:
            raise UserError(
                f"confusion '{key}' is not 'a__b' of two of the datasets; they are: {', '.join(sorted(known))}"
            )


def cell_sums(values: np.ndarray, group: Int[np.ndarray, " T"]) -> np.ndarray:
    """Float[G, G]: sum `values` over all pairs of groups; `group` numbers them 0 .. G - 1."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    by_row = np.add.reduceat(values[order], starts, axis=0)
    sums: np.ndarray = np.add.reduceat(by_row[:, order], starts, axis=1)
    return sums
