"""What the description of a class says: what it is, what it includes, and what it is not.

A description is sentences, or parts of sentences, of phrases between commas. "lanes, lane markings and ground that cars
drive on. Not parking places" includes lanes, lane markings and some ground, and excludes parking places.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["COLLECTIVE", "PREPOSITIONS", "Description", "Phrase", "read_description", "words_of"]


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text, to write sets of words."""
    return frozenset(text.split())


PREPOSITIONS = words_of(
    "about above across after against along among around at before behind below beneath beside besides between by down "
    "during for from in inside into near next off on onto out outside over past per through throughout to toward "
    "towards under underneath upon via with within without"
)

COLLECTIVE = words_of(
    "bit bits bunch bunches chunk chunks cluster clusters form forms group groups heap heaps kind kinds pair pairs "
    "part parts patch patches piece pieces pile piles row rows set sets slice slices sort sorts stack stacks type "
    "types variety number lot lots"
)
"""In "a pile of X" it is X that is seen."""

NARROWING = PREPOSITIONS | words_of(
    "of that which who whose whom what where when while if as than because so used a an the their its his her being "
    "is are was were has have having can may must made full seen attached"
)
"""Words that begin what narrows the noun before them: "ground that cars drive on", "walls of a room"."""

ARTICLES = frozenset({"a", "an", "the", "any", "all", "some", "other", "also", "every", "each", "and", "or", "both"})
"""Words before a noun that say nothing of it."""

ABBREVIATED = {
    r"\be\.\s?g\.": ", including",
    r"\bi\.\s?e\.": ",",
    r"\betc\b\.?": ",",
    r"\bincl\.": ", including",
    r"\bexcl\.": ", excluding",
    r"\bw/o\b": "without",
    r"\band/or\b": "or",
    r"\bas well as\b": "and",
}

EXCLUDING = re.compile(
    r"\b(?:(?:but|and|do(?:es)?|is|are)\s+)?not\b(?:\s+(?:includ(?:e|es|ing)|contain(?:s|ing)?|counting))?"
    r"|\b(?:doesn't|don't)\s+(?:include|contain)\b"
    r"|\bexclud(?:es?|ing|ed)\b|\bexcept(?:ing)?(?:\s+for)?\b|\bother than\b|\brather than\b|\bunlike\b|\bapart from\b"
    r"|\bas opposed to\b|\binstead of\b|(?:^|(?<=[.;:,]))\s*no\b|\b(?:nicht|ohne|außer|sans|sauf|excepto|sin|zonder)\b",
    re.IGNORECASE,
)
INCLUDING = re.compile(
    r"\b(?:but\s+)?(?:includ(?:es?|ing|ed)|compris(?:es?|ing)|consist(?:s|ing) of|such as|for example|for instance"
    r"|namely|plus)\b",
    re.IGNORECASE,
)
SIGNS = re.compile(rf"(?P<no>{EXCLUDING.pattern})|(?P<yes>{INCLUDING.pattern})|(?P<end>[.;!?]|\n)", re.IGNORECASE)


@dataclass(frozen=True)
class Phrase:
    """A noun phrase, and the words that narrow it from behind: "walls of a room" is `noun` walls, narrowed."""

    noun: str
    narrowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """What a description says. `first` is its first clause, which says what the class is."""

    first: str = ""
    includes: tuple[Phrase, ...] = ()
    excludes: tuple[Phrase, ...] = ()


@lru_cache(maxsize=65536)
def read_description(text: str) -> Description:
    """Take a description apart.

    What follows "not", "except", "excludes" and the like, up to the end of the sentence or an "includes", is excluded.
    Phrases that are no noun ("seen from behind", "in a wheelchair") narrow what stands before, and are left out.
    """
    for pattern, meant in ABBREVIATED.items():
        text = re.sub(pattern, meant, text, flags=re.IGNORECASE)
    said: dict[bool, list[Phrase]] = {True: [], False: []}
    positive, start, positives = True, 0, []
    for sign in [*SIGNS.finditer(text), None]:
        piece = text[start : sign.start() if sign else len(text)]
        said[positive] += _phrases(piece)
        if positive:
            positives.append(piece)
        if sign:
            positive, start = not sign["no"], sign.end()
    first = next((p for p in re.split(r"[:;.]", ".".join(positives)) if p.strip(" ,")), "")
    return Description(first.strip(" ,"), tuple(said[True]), tuple(said[False]))


def _phrases(text: str) -> list[Phrase]:
    found = (_phrase(part.split()) for part in re.split(r"[,:;()/\[\]]|\s[-\u2013\u2014]\s", text))
    return [p for p in found if p is not None]


def _phrase(words: list[str]) -> Phrase | None:
    while words and words[0].casefold() in ARTICLES:
        words = words[1:]
    at = next((i for i, w in enumerate(words) if w.casefold() in NARROWING), len(words))
    if 0 < at < len(words) - 1 and words[at].casefold() == "of" and words[at - 1].casefold() in COLLECTIVE:
        return _phrase(words[at + 1 :])
    if at == 0:
        return None
    return Phrase(" ".join(words[:at]), tuple(words[at:]))
