"""What the lexicon makes of the names of classes: which concepts a class stands for.

A class stands for one or more *units*, a concept each, that its name lists: `Truck_Bus` is a truck or a bus. A unit may
have qualifiers: words that the lexicon does not know, which make it narrower ("swivel chair" is some chair).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from manyseg.labels import JointClasses, LabelClass
from manyseg.relate.descriptions import COLLECTIVE, PREPOSITIONS, Phrase, read_description, words_of
from manyseg.relate.lexicon import Lexicon, key, lexicon, tokens

__all__ = ["Reading", "Unit", "read_classes"]

FILLERS = words_of(
    "other misc miscellaneous merged stuff general rest various generic region class type object area thing category "
    "group any some all of the a an in on and or remaining unspecified real synthetic individual"
)
"""Words at either end of a name that say nothing of what is seen."""

UNIONS = re.compile(r"[/,;|&+]|\band\b|\bor\b|\bund\b|\boder\b|\bet\b|\bou\b", re.IGNORECASE)


@dataclass(frozen=True)
class Unit:
    """One concept, by its number in the lexicon, narrowed by words that the lexicon does not know."""

    concept: int
    qualifiers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """What a class stands for; `whole` is false where a part of the name is not understood."""

    units: frozenset[Unit] = frozenset()
    whole: bool = True
    listed: frozenset[Unit] = frozenset()
    """What the description includes: the class holds it too."""
    excluded: frozenset[Unit] = frozenset()
    """What the description excludes: nothing of it lies within the class."""


Options = tuple[int, ...]
"""Concepts that a phrase may mean."""

Parts = list[tuple[Options, frozenset[str]]]


def read_classes(classes: JointClasses, lex: Lexicon | None = None) -> tuple[Reading, ...]:
    """Read every class by the lexicon (by default that of the package); a class that it does not know has no units.

    Of the meanings of a word that is taken which is nearest to the other classes of its dataset.
    """
    lex = lex or lexicon()
    out: list[Reading] = []
    drafts = [[_class_parts(c, lex) for c in space.classes] for space in classes.spaces]
    everywhere = _Company(lex, [p for draft in drafts for p in draft])
    for space, draft in zip(classes.spaces, drafts, strict=True):
        here = _Company(lex, draft)

        def fit(concept: int, here: _Company = here) -> float:
            return here.fit(concept) + everywhere.fit(concept) / 4

        read = [_reading(*d, c.description, fit, lex) for d, c in zip(draft, space.classes, strict=True)]
        taken = {u.concept for r in read for u in r.units if not u.qualifiers}
        out += [_widened(r, taken, lex) for r in read]
    return tuple(out)


def _units(parts: Parts, fit: Callable[[int], float]) -> frozenset[Unit]:
    return frozenset(Unit(max(options, key=fit), qualifiers) for options, qualifiers in parts)


def _named(units: frozenset[Unit], lex: Lexicon) -> frozenset[Unit]:
    """Leave umbrella words out beside others: "parking / drivable fallback" is parking, and what has no other class."""
    return frozenset(u for u in units if u.concept not in lex.umbrellas) or units


def _reading(parts: Parts, whole: bool, description: str, fit: Callable[[int], float], lex: Lexicon) -> Reading:
    """Read a class by the parts of its name, or else by what its description says first, and by its description.

    What the description includes and excludes is narrower than the class: wider words say of what kind it is.
    """
    said = read_description(description)
    units = _named(_units(parts, fit), lex)
    listed, excluded = (
        _units([p for phrase in phrases for p in _read_noun(phrase, lex)], fit)
        for phrases in (said.includes, said.excludes)
    )
    wider = {h for u in units for h in lex.holders[u.concept]}
    return Reading(
        units,
        whole,
        frozenset(u for u in listed if u.concept not in wider or u.qualifiers),
        frozenset(u for u in excluded if u.concept not in wider or u.qualifiers),
    )


def _read_noun(phrase: Phrase, lex: Lexicon) -> Parts:
    narrowed = frozenset(w for words in phrase.narrowed for w in tokens(words))
    return [(options, qualifiers | narrowed) for options, qualifiers in _read_name(phrase.noun, lex)[0]]


def _widened(reading: Reading, taken: set[int], lex: Lexicon) -> Reading:
    """Replace what is nearly the same as its holder by that, unless the dataset has a class for the holder."""
    units = set()
    for u in reading.units:
        while lex.concepts[u.concept].near and not u.qualifiers:
            holder = next(iter(lex.concepts[u.concept].holders))
            if holder in taken:
                break
            u = Unit(holder)
        units.add(u)
    return replace(reading, units=frozenset(units))


class _Company:
    """The concepts of a dataset's classes of one meaning, to choose between the meanings of others."""

    def __init__(self, lex: Lexicon, draft: Sequence[tuple[Parts, bool]]) -> None:
        self.lex = lex
        sure = {options[0] for parts, _ in draft for options, _ in parts if len(options) == 1}
        self.count = Counter(h for c in sure for h in lex.holders[c])
        self.fields = Counter(lex.concepts[c].field for c in sure)
        self.total = max(len(sure), 1)

    def fit(self, concept: int) -> float:
        """Say how near a concept is to those of the dataset: holders in common, the narrow ones most."""
        near: float = sum(
            self.count[h] * 0.5**distance * math.log(len(self.lex.concepts) / self.lex.sizes[h])
            for h, distance in self.lex.holders[concept].items()
            if h != concept
        )
        return (near + self.fields[self.lex.concepts[concept].field] / 4) / self.total


def _class_parts(c: LabelClass, lex: Lexicon) -> tuple[Parts, bool]:
    """Read a class by its name, or by the first of its synonyms that the lexicon knows."""
    best: tuple[Parts, bool] = ([], False)
    for name in (c.name, *c.synonyms):
        parts, whole = _read_name(name, lex)
        if parts and (whole or not best[0]):
            best = parts, whole
        if best[1]:
            break
    return best


def _read_name(name: str, lex: Lexicon) -> tuple[Parts, bool]:
    """Split a name into what it lists, and read each."""
    whole = lex.meanings.get(key(name))
    if whole:
        return [(whole, frozenset())], True
    if "--" in name:
        *before, last = [part for part in name.split("--") if part.strip()] or [name]
        return _read_name(last if not before or set(tokens(last)) - FILLERS else before[-1], lex)
    outer = re.sub(r"\([^)]*\)|\[[^]]*\]", " ", name).strip()
    inner = " ".join(re.findall(r"[(\[]([^)\]]*)[)\]]", name))
    if inner and outer:
        parts, known = _read_name(outer, lex)
        if len(parts) == 1 and known:
            meant = lex.meanings.get(key(f"{inner} {outer}")) or lex.meanings.get(key(f"{outer} {inner}"))
            return [(meant, frozenset())] if meant else parts, True
        return (parts, known) if parts else _read_name(inner, lex)
    pieces = [p for p in UNIONS.split(name) if tokens(p)]
    if len(pieces) > 1:
        return _read_list(pieces, lex)
    words = tokens(name)
    if "_" in name or re.search(r"[a-z][A-Z]", name):
        listed = _as_list(words, lex)
        if listed:
            return listed, True
    part = _read_phrase(words, lex, dashed=name.split("-")[0] if "-" in name.strip("-") else None)
    return ([part], True) if part else ([], False)


def _read_list(pieces: Sequence[str], lex: Lexicon) -> tuple[Parts, bool]:
    last = tokens(pieces[-1])
    parts: Parts = []
    whole = True
    for piece in pieces:
        words = [w for w in tokens(piece) if w not in FILLERS]
        if not words:
            continue  # "and other"
        # "low / high vegetation", "upper and lower arm": the last word may belong to all.
        shared = lex.meanings.get("".join([*words, last[-1]])) if words[-1] != last[-1] else None
        read = [(shared, frozenset())] if shared else _read_name(piece, lex)[0]
        whole &= bool(read)
        parts += read
    return parts, whole and bool(parts)


def _as_list(words: Sequence[str], lex: Lexicon) -> Parts:
    """Read words without a separator as a list of concepts, of one kind if there are two (motorcycle scooter)."""
    parts: Parts = []
    start = 0
    while start < len(words):
        for end in range(len(words), start, -1):
            found = lex.meanings.get("".join(words[start:end]))
            if found:
                parts.append((found, frozenset()))
                start = end
                break
        else:
            return []
    if len(parts) < 2:
        return []
    kinds = [
        {h for o in options for h in (*lex.concepts[o].holders, *lex.concepts[o].beside)} | set(options)
        for options, _ in parts
    ]
    alike = all(any(a & b for j, b in enumerate(kinds) if j != i) for i, a in enumerate(kinds))
    return parts if alike or len(parts) > 2 else []


def _read_phrase(
    words: Sequence[str], lex: Lexicon, dashed: str | None = None
) -> tuple[Options, frozenset[str]] | None:
    """Find the concept of a phrase: all of it, or its head, which the other words qualify."""
    for some in _shortened(words):
        found = lex.meanings.get("".join(some))
        if found:
            return found, frozenset()
    *_, words = _shortened(words)
    if "of" in words:
        at = words.index("of")
        if set(words[:at]) & COLLECTIVE:
            return _read_phrase(words[at + 1 :], lex)
        return _qualified(_read_phrase(words[:at], lex), words[at + 1 :])
    for at, w in enumerate(words):
        if at > 0 and w in PREPOSITIONS:
            return _qualified(_read_phrase(words[:at], lex), words[at + 1 :])
    if words and words[0] in ("non", "not", "no", "un"):
        return None
    if dashed is not None:
        head = lex.meanings.get(key(dashed))
        if head:
            return head, frozenset(words[len(tokens(dashed)) :])
    for start in range(1, len(words)):
        found = lex.meanings.get("".join(words[start:]))
        if found:
            return found, frozenset(words[:start])
    if len(words) == 1:
        return _compound(words[0], lex)
    return None


def _qualified(
    part: tuple[Options, frozenset[str]] | None, words: Sequence[str]
) -> tuple[Options, frozenset[str]] | None:
    return None if part is None else (part[0], part[1] | frozenset(words))


def _shortened(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words, then without the fillers at their ends, and without numbers."""
    yield list(words)
    some = [w for w in words if not w.isdigit()]
    while len(some) > 1 and some[0] in FILLERS:
        some = some[1:]
    while len(some) > 1 and some[-1] in FILLERS:
        some = some[:-1]
    if some and some != list(words):
        yield some


def _compound(word: str, lex: Lexicon) -> tuple[Options, frozenset[str]] | None:
    """Read one word as two that the lexicon knows ("swivelchair"), the second of which is what is meant."""
    for at in range(3, len(word) - 3):
        found = lex.meanings.get(word[at:])
        if found and word[:at] in lex.meanings:
            return found, frozenset([word[:at]])
    return None
