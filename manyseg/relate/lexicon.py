"""A lexicon of what can be seen: concepts with their names, and which concept holds which.

The files `words/*.txt` were written from general knowledge, a file for each field, before anything was scored with
them. A line is a concept: its names, separated by commas, the first of which is its own; what is indented below it is
held by it, because it is one of its kinds or one of its parts. Signs:

    truck, lorry | fire truck=fire engine, dump truck     after | kinds, each with its names joined by =
    * canoe, kayak                                        several concepts at this place
    ~pedestrian                                           nearly the same as what holds it
    mouse (device)                                        a name of two meanings; the brackets are not read
    wagon < car, ^train                                   held by these as well; with ^ it and its kinds alone,
                                                          not by what holds the other
    flat > road, sidewalk                                 an umbrella word, and what it holds

Names stand in their basic form, without accents; `key` says what of them counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

__all__ = ["Concept", "Lexicon", "key", "lexicon"]

FIELDS = (
    "general", "streets", "nature", "indoor", "people", "animals", "marine", "food", "aerial", "medical",
    "agriculture", "industry",
)  # fmt: skip
"""The files, in the order in which meanings of a word are tried where nothing else decides."""

KIND, BESIDE, UMBRELLA = 1.0, 1.5, 2.0
"""How far a concept is from what holds it as its kind, by ^ only, and as an umbrella word."""

IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "leaves": "leaf", "shelves": "shelf", "knives": "knife", "loaves": "loaf",
    "wolves": "wolf", "calves": "calf", "halves": "half", "scarves": "scarf", "bookshelves": "bookshelf",
    "shoes": "shoe", "canoes": "canoe", "toes": "toe", "hoes": "hoe", "clothes": "clothes", "glasses": "glasses",
    "lenses": "lens", "vertebrae": "vertebra", "nuclei": "nucleus", "algae": "algae", "buses": "bus", "cacti": "cactus",
}  # fmt: skip

ABBREVIATIONS = {
    "veg": "vegetation", "bldg": "building", "bldgs": "building", "bldng": "building", "mkgs": "marking",
    "mkg": "marking", "driv": "drivable", "ped": "pedestrian", "veh": "vehicle", "bg": "background",
    "imp": "impervious", "surf": "surface", "moto": "motorcycle", "constr": "construction", "obj": "object",
    "colour": "color", "grey": "gray", "tyre": "tire", "instr": "instrument", "ag": "agriculture", "hw": "highway",
    "sgn": "sign", "rd": "road", "xwalk": "crosswalk", "bkg": "background", "bkgd": "background",
    "ppl": "person", "equip": "equipment", "l": "left", "r": "right",
}  # fmt: skip


def key(phrase: str) -> str:
    """Reduce a phrase to what counts: words in the singular, without case, accents, separators and abbreviations."""
    return "".join(tokens(phrase))


def tokens(phrase: str) -> list[str]:
    """Split a phrase into words as `key` counts them."""
    text = unicodedata.normalize("NFKD", phrase.replace("ß", "ss"))
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = unicodedata.normalize("NFC", re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text))
    return [_basic(w) for w in re.sub(r"[\W_]+", " ", text).casefold().split()]


def _basic(word: str) -> str:
    word = ABBREVIATIONS.get(word, word)
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 3 or not word.isascii() or word.endswith(("ss", "us", "is", "as")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("shes", "ches", "xes", "sses", "oes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


@dataclass
class Concept:
    """Something that can be seen. `holders` are the concepts that hold it, with their distances.

    Those in `beside` hold it and its kinds alone, not what it holds otherwise. `near` is true where it is nearly the
    same as the first of its holders.
    """

    name: str
    field: str
    near: bool
    holders: dict[int, float]
    beside: dict[int, float]


@dataclass(frozen=True)
class Lexicon:
    """Concepts by number, and which of them a name may mean."""

    concepts: tuple[Concept, ...]
    meanings: Mapping[str, tuple[int, ...]]
    """By `key`; the meaning that comes first is tried first."""

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Lexicon:
        """Read the files' texts, given by field; raises ValueError for a holder that is no concept."""
        concepts: list[Concept] = []
        meanings: dict[str, list[int]] = {}
        links: list[tuple[int, str, float, bool]] = []
        for where, text in texts.items():
            open_: list[tuple[int, int]] = []
            for indent, lines in _lines(text):
                while open_ and open_[-1][0] >= indent:
                    open_.pop()
                holder = open_[-1][1] if open_ else None
                for names, near, extra, kinds in lines:
                    number = _add(concepts, meanings, names, where, near, holder)
                    for kind in kinds:
                        _add(concepts, meanings, kind, where, False, number)
                    links += [(number, *link) for link in extra]
                    open_.append((indent, number))
        named = {c.name: i for i, c in reversed([*enumerate(concepts)])}
        for number, other, distance, reverse in links:
            if other not in named and key(other) not in meanings:
                raise ValueError(f"lexicon: '{concepts[number].name}' refers to '{other}', which is no concept")
            found = named[other] if other in named else meanings[key(other)][0]
            x, y = (found, number) if reverse else (number, found)
            (concepts[x].beside if distance == BESIDE else concepts[x].holders).setdefault(y, distance)
        return cls(tuple(concepts), {k: tuple(v) for k, v in meanings.items()})

    @cached_property
    def holders(self) -> tuple[Mapping[int, float], ...]:
        """All that holds each concept, itself included, with the distance along the shortest way."""
        return tuple(self._holders(i) for i in range(len(self.concepts)))

    @cached_property
    def umbrellas(self) -> frozenset[int]:
        """Umbrella words that have no kinds of their own."""
        links = [(h, distance) for c in self.concepts for h, distance in c.holders.items()]
        kinds = {h for h, distance in links if distance == KIND}
        return frozenset(h for h, distance in links if distance == UMBRELLA and h not in kinds)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many concepts each holds, itself included."""
        count = Counter(h for found in self.holders for h in found)
        return tuple(count[i] for i in range(len(self.concepts)))

    def _holders(self, start: int) -> Mapping[int, float]:
        found = {start: 0.0}
        todo = [start]
        while todo:
            i = todo.pop()
            for j, distance in self.concepts[i].holders.items():
                if found[i] + distance < found.get(j, float("inf")):
                    found[j] = found[i] + distance
                    todo.append(j)
        out = dict(found)
        for i, so_far in found.items():
            for j, distance in self.concepts[i].beside.items():
                out.setdefault(j, so_far + distance)
        return out


def _lines(
    text: str,
) -> Iterator[tuple[int, list[tuple[list[str], bool, list[tuple[str, float, bool]], list[list[str]]]]]]:
    """Yield each line's indentation, and its concepts: names, nearness, links (name, distance, reversed), kinds."""
    for line in text.splitlines():
        body = line.strip()
        if not body or body.startswith("#"):
            continue
        indent = len(line) - len(line.lstrip())
        body, *held = body.split(" > ")
        body, *holding = body.split(" < ")
        links = [(w.strip().lstrip("^"), BESIDE if "^" in w else KIND, False) for p in holding for w in p.split(",")]
        links += [(w.strip(), UMBRELLA, True) for p in held for w in p.split(",")]
        if body.startswith("*"):
            yield indent, [(_names(group, "="), False, links, []) for group in body[1:].split(",")]
            continue
        own, *kinds = body.split(" | ")
        near = own.startswith("~")
        parts = [_names(group, "=") for k in kinds for group in k.split(",")]
        yield indent, [(_names(own.lstrip("~"), ","), near, links, parts)]


def _names(group: str, separator: str) -> list[str]:
    return [n.strip() for n in group.split(separator)]


def _add(
    concepts: list[Concept],
    meanings: dict[str, list[int]],
    names: list[str],
    where: str,
    near: bool,
    holder: int | None,
) -> int:
    number = len(concepts)
    concepts.append(Concept(names[0], where, near, {} if holder is None else {holder: KIND}, {}))
    for name in names:
        known = meanings.setdefault(key(name.split(" (")[0]), [])
        if number not in known:
            known.append(number)
    return number


@cache
def lexicon() -> Lexicon:
    """Return the lexicon of the package."""
    folder = files("manyseg.relate") / "words"
    return Lexicon.parse({name: (folder / f"{name}.txt").read_text(encoding="utf-8") for name in FIELDS})
