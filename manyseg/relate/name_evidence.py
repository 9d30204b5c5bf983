"""What names and descriptions alone say about two classes: that they are equal, or that one is part of the other.

Axes: T classes of all datasets together.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from manyseg.labels import JointClasses, normalise
from manyseg.relate.descriptions import read_description

if TYPE_CHECKING:
    from jaxtyping import Bool

__all__ = ["alternatives", "name_evidence", "name_parts", "words"]


def words(text: str) -> str:
    """Split a name into lower-case words: "LaneMarking_2" becomes "lane marking 2"."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return " ".join(re.sub(r"[\W_]+", " ", text).casefold().split())


def alternatives(name: str, synonyms: Sequence[str] = ()) -> list[str]:
    """Split a name into the names any of which fits: "bridge / tunnel" is a bridge or a tunnel."""
    return _split(r"[/,;|&]| or ", name, synonyms)


def name_parts(name: str, synonyms: Sequence[str] = ()) -> list[str]:
    """Split the alternatives further at dashes and brackets: "wall-brick" has the parts "wall" and "brick"."""
    return _split(r"[/,;|&()]|-| or ", name, synonyms)


def _split(pattern: str, name: str, synonyms: Sequence[str]) -> list[str]:
    found = [words(part) for n in (name, *synonyms) for part in re.split(pattern, n)]
    return list(dict.fromkeys(w for w in found if w)) or [name.casefold()]


def _listed(description: str) -> list[str]:
    """Return what a description includes: "person, animal or rider" has three items."""
    phrases = [p.noun for p in read_description(description).includes if not p.narrowed]
    return list(dict.fromkeys(w for p in phrases for part in re.split(r"\b(?:or|and)\b", p) if (w := words(part))))


def name_evidence(classes: JointClasses) -> tuple[Bool[np.ndarray, "T T"], Bool[np.ndarray, "T T"]]:
    """Return which classes are equal by name, and which are part of another: `part[x, y]` means x is part of y.

    Two classes are equal if one of their names or synonyms is the same. x is part of y if y's name lists x's name as an
    alternative ("bridge / tunnel" and "tunnel"), if x's name is y's with a qualifier behind a dash or in brackets
    ("wall-brick" and "wall"), or if y's description lists x's name while y's dataset has no class of that name.
    """
    every = [c for s in classes.spaces for c in s.classes]
    keys = [{_key(n) for n in (c.name, *c.synonyms)} for c in every]
    index: dict[str, set[int]] = {}
    for i, mine in enumerate(keys):
        for key in mine:
            index.setdefault(key, set()).add(i)
    T = len(classes)
    equal, part = np.zeros((T, T), bool), np.zeros((T, T), bool)
    for i, c in enumerate(every):
        for j in set().union(*(index[k] for k in keys[i])):
            equal[i, j] = True
        options = {_key(a) for a in alternatives(c.name)}
        if len(options) > 1:
            for j in set().union(*(index.get(option, ()) for option in options)):
                part[j, i] = True
        else:
            for j in index.get(_key(name_parts(c.name)[0]), ()):
                part[i, j] = True
    own = [classes.rows[s.name] for s in classes.spaces for _ in s.classes]
    for i, c in enumerate(every):
        for item in _listed(c.description):
            for j in index.get(_key(item), ()):
                if not equal[j, own[i]].any():
                    part[j, i] = True
    return equal & classes.differ, part & classes.differ & ~equal


@lru_cache(maxsize=65536)
def _key(name: str) -> str:
    """Reduce a name to what equal names have in common: "Traffic-Lights" and "trafficlight" are one."""
    return normalise(words(name)).replace(" ", "") or name.casefold()
