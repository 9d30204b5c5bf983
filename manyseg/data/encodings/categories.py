"""What a COCO file says about its own categories, compared with the card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from manyseg.data.encodings.base import RawValues, Said
from manyseg.data.encodings.schema import Name
from manyseg.data.finding import Finding
from manyseg.errors import UserError
from manyseg.labels import normalise

__all__ = ["Category", "CategoryId", "compared", "resolved"]

CategoryId = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


class Category(msgspec.Struct):
    """A category of a COCO file."""

    id: CategoryId
    name: Name
    isthing: bool | None = None


def resolved(file: Path, categories: Sequence[Category], values: RawValues) -> RawValues:
    """Return the card's values by the numbers of the file: a name in the card stands for the file's number of it.

    Raises UserError where a number has two names, where its name can be two words of the card, or the card calls it by
    the name of another class of its own.
    """
    names: dict[int, str] = {}
    for category in categories:
        if names.setdefault(category.id, category.name) != category.name:
            both = f"'{names[category.id]}' and '{category.name}'"
            raise UserError(f"{file}: category {category.id} is called {both}; keep one of them")
    meant = _meaning(values)
    positions, said = dict(values.positions), dict(values.said)
    for number, name in names.items():
        words = [] if number in positions else meant(name)
        if len({positions[word] for word in words}) > 1:
            both = " and ".join(f"'{word}'" for word in words)
            raise UserError(
                f"{file}: category {number} is '{name}', which can be {both} of the card; write {name!r} in the card"
            )
        if words:
            positions[number] = positions[words[0]]
        if words and words[0] in said:
            said[number] = said[words[0]]
    _compare_names(file, names, values)
    return values._replace(positions=positions, said=said)


def _meaning(values: RawValues) -> Callable[[str], list[str]]:
    """Return what gives the words of the card that a file's name can be: itself, else those that are compared equal."""
    words: dict[str, list[str]] = {}
    for word in (v for v in values.positions if isinstance(v, str)):
        words.setdefault(normalise(word), []).append(word)

    def meant(name: str) -> list[str]:
        return [name] if name in values.positions else words.get(normalise(name), [])

    return meant


def _compare_names(file: Path, names: dict[int, str], values: RawValues) -> None:
    """Raise UserError where the card means one class by a number, and the file another class of the card."""
    known = {normalise(s.name) for s in values.said.values()}
    wrong = [
        (number, name, values.said[number].name)
        for number, name in names.items()
        if number in values.said and normalise(name) in known - {normalise(values.said[number].name)}
    ]
    if wrong:
        number, name, card = wrong[0]
        theirs = _listed({n: names[n] for n in sorted(names)})
        ours = _listed({v: s.name for v, s in values.said.items()})
        raise UserError(
            f"{file}: category {number} is '{name}' here, and '{card}' in the card (the file has {theirs}; the card "
            f"has {ours}), so {len(wrong)} classes would be swapped; correct the numbers, or write names in the card "
            f'("{card}" = "{card}"), which are then looked up in each file'
        )


def _listed(names: dict[int, str] | dict[int | str, str]) -> str:
    text = ", ".join(f"{number} {name}" for number, name in list(names.items())[:20])
    return text + (f", ... {len(names)} in all" if len(names) > 20 else "")


def compared(file: Path, categories: Sequence[Category], given: RawValues, values: RawValues) -> Iterator[Finding]:
    """Say where categories of one name become one class, and where the file and the card differ in what is countable.

    `given` are the card's values, `values` those by the numbers of the file.
    """
    meant = _meaning(given)
    numbers: dict[str, dict[int, str]] = {}
    for category in categories:
        if category.id not in given.positions and (words := meant(category.name)):
            numbers.setdefault(words[0], {})[category.id] = category.name
    for word, joined in numbers.items():
        if len(joined) > 1:
            what = f"{len(joined)} categories have one name, and are one class"
            fix = "nothing to do if it is meant; else write their numbers in the card, each as a class of its own"
            yield Finding("warning", what, str(file), fix, f"{word} ({_listed(joined)})")
    for category in categories:
        said: Said | None = values.said.get(category.id)
        if said is None or category.isthing is None or category.isthing == bool(said.thing):
            continue
        name = f"class '{said.name}'"
        if category.isthing and said.thing is None:
            what = "a countable class of the file is stuff in the card"
            fix = "write `thing = true` to tell its objects apart, or `thing = false` if it is meant"
            yield Finding("warning", what, str(file), fix, name)
        elif not category.isthing:
            what = "a class is stuff in the file and a thing in the card"
            fix = "write `thing = false`, or each region of the file is taken for an object"
            yield Finding("warning", what, str(file), fix, name)
