"""How similar in meaning two classes are: cosines of the vectors that a text encoder gives their names.

Axes: T classes of all datasets together, N texts, F features of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from manyseg.errors import UserError
from manyseg.labels import JointClasses
from manyseg.relate.descriptions import read_description
from manyseg.relate.name_evidence import alternatives, name_parts

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["TEMPLATES", "Encode", "best_cosines", "text_similarity"]

Encode = Callable[[list[str]], np.ndarray]
"""Turns N texts into vectors Float[N, F]; their lengths do not matter."""

TEMPLATES = ("{}", "a photo of a {}.", "An image of {}", "{}, a kind of object in an image")
"""Sentences whose vectors are averaged. `{dataset}` may occur too: it stands for the name of the class's dataset."""

ROWS = 256
"""Rows of which cosines are computed at a time; there can be thousands."""


def text_similarity(
    classes: JointClasses, encode: Encode, templates: Sequence[str] = TEMPLATES
) -> Float[np.ndarray, "T T"]:
    """Return the similarity of every two classes' names, -1 to 1 and 1 for equal names.

    Two names are as similar as their most similar alternatives. The result is the mean of that and of the most similar
    pair in which one of the names may lose its qualifiers, so that "tree-merged" still resembles "tree". The vector of
    a class with a description is the mean of that of its name and that of "name: description", of which only the first
    clause is read: what follows lists what the class includes and excludes, and is evidence of its own.
    """
    keys: dict[tuple[str, str, str], int] = {}
    texts: dict[tuple[tuple[int, ...], ...], int] = {}
    number: list[int] = []
    for space in classes.spaces:
        dataset = space.name if any("{dataset}" in t for t in templates) else ""
        for c in space.classes:
            said = read_description(c.description).first
            names = tuple(
                tuple(keys.setdefault((n, dataset, said), len(keys)) for n in split(c.name, c.synonyms))
                for split in (alternatives, name_parts)
            )
            number.append(texts.setdefault(names, len(texts)))
    vectors = _vectors(list(keys), encode, templates)
    wholes, pieces = ([vectors[list(rows)] for rows in each] for each in zip(*texts, strict=True))
    loose = best_cosines(pieces, wholes)
    mean = np.maximum(loose, loose.T)
    del loose
    mean += best_cosines(wholes, wholes)
    mean /= 2
    mean = np.clip((mean + mean.T) / 2, -1, 1)
    out: Float[np.ndarray, "T T"] = np.take(mean[number], number, axis=1)
    return out


def _vectors(keys: Sequence[tuple[str, str, str]], encode: Encode, templates: Sequence[str]) -> np.ndarray:
    """Float64[N, F]: one unit vector for each (name, dataset, description)."""
    sentences = [[t.format(name, dataset=dataset) for t in templates] for name, dataset, _ in keys]
    described = [f"{name}: {description}" for name, _, description in keys if description]
    pool = sorted({t for ts in sentences for t in ts} | set(described))
    raw = np.asarray(encode(pool), np.float64)
    if raw.ndim != 2 or len(raw) != len(pool) or not np.isfinite(raw).all():
        raise UserError(
            f"the text encoder gave {list(raw.shape)} for {len(pool)} texts, or values that are not finite; choose "
            "another one"
        )
    unit = _normalised(raw)
    position = {t: i for i, t in enumerate(pool)}
    out = _normalised(np.stack([unit[[position[t] for t in ts]].mean(0) for ts in sentences]))
    for i, (name, _, description) in enumerate(keys):
        if description:
            out[i] = (out[i] + unit[position[f"{name}: {description}"]]) / 2
    return _normalised(out)


def _normalised(vectors: np.ndarray) -> np.ndarray:
    out: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return out


def best_cosines(rows: Sequence[np.ndarray], columns: Sequence[np.ndarray]) -> Float[np.ndarray, "R C"]:
    """Return the largest cosine between any of the unit vectors of a row and any of those of a column.

    It is added up in float64 and returned in float32: how a processor rounds must not order pairs that are as similar.
    """
    right = np.concatenate(columns).astype(np.float64).T
    out = np.empty((len(rows), len(columns)), np.float32)
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        cosines = np.concatenate(some).astype(np.float64) @ right
        out[start : start + ROWS] = _best(_best(cosines, some, 0), columns, 1)
    return out


def _best(values: np.ndarray, parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Return the largest of the values of each part, which follow each other along the axis."""
    sizes = np.array([*map(len, parts)])
    starts = np.cumsum(sizes) - sizes
    best: np.ndarray = np.take(values, starts, axis)
    for k in range(1, sizes.max()):
        more = np.flatnonzero(sizes > k)
        place = (slice(None),) * axis + (more,)
        best[place] = np.maximum(best[place], np.take(values, starts[more] + k, axis))
    return best
