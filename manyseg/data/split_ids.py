"""Which images a split of a dataset has, by its card: those that its list names, or all that its pattern finds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from manyseg.data import locate, pattern
from manyseg.data.card import Card, is_list
from manyseg.data.files import exists
from manyseg.errors import UserError, close

__all__ = ["filled", "find_ids", "split_text"]


def find_ids(card: Card, root: Path, split: str) -> tuple[str, ...]:
    """Return the ids of a split's images, in the order of its list, or sorted.

    Raises UserError for a split that the card does not have, one that is empty, and a list of files instead of ids.
    """
    splits = card.splits
    if split not in splits:
        meant = close(split, list(splits))
        raise UserError(f"card '{card.name}' has no split '{split}'{meant}; it has: {', '.join(splits)}")
    locate.check_folder(root, f"give the root of dataset '{card.name}'")
    whole, image = card.whole(split), card.image
    value, names = splits[whole], pattern.fields(image)
    if is_list(value):
        file = card.list_path(root, whole)
        ids, what = [], f"{file}: an id"
        for line in pattern.read_list(file):
            pattern.check_below(what, line)
            if len(names) == 1:
                ids.append(line)
                continue
            # A list may name folders: fewer parts than the pattern has names, and all images there are meant.
            known = {"split": whole, **pattern.values(names, line)}
            ids += [line] if len(known) > len(names) else locate.find(root, image, known, names)
        _check_listed(card, root, file, split_text(card, split), ids)
        reason = f"{file} lists no id"
    else:
        ids = locate.find(root, image, {"split": value}, names)
        reason = f"no file matches {root / pattern.fill(image, {'split': value})}"
    if ids and (part := pattern.part(splits[split])) is not None:
        reason = f"'{whole}' has {len(ids)} images, and none is in {splits[split]}"
        ids = part.of(sorted(ids))
    if not ids:
        raise UserError(f"split '{split}' of dataset '{card.name}' is empty: {reason}; check root and card")
    return tuple(ids)


def split_text(card: Card, split: str) -> str:
    """Return what `{split}` stands for in the card's patterns."""
    whole = card.whole(split)
    value = card.splits[whole]
    return whole if is_list(value) else value


def filled(card: Card, split: str, text: str, image_id: str) -> str:
    """Return one of the card's patterns with an image's names in place; `split` is what `split_text` returns."""
    names = pattern.fields(card.image)
    return pattern.fill(text, {"split": split, **pattern.values(names, image_id)})


def _check_listed(card: Card, root: Path, file: Path, split: str, ids: Sequence[str]) -> None:
    """Raise UserError where a list names files, not ids: seen at its first line."""
    image = card.image
    if not ids or pattern.fields(image) != ("id",) or ".parquet/" in image:
        return

    def there(image_id: str) -> bool:
        return exists(f"{root}/{locate.resolve(str(root), filled(card, split, image, image_id))}")

    word = ids[0].split()[0].removeprefix("./")
    named = re.fullmatch(pattern.regex(pattern.fill(image, {"split": split})), word)
    meant = named["id"] if named else str(PurePosixPath(word).with_suffix(""))
    if not there(ids[0]) and there(meant):
        raise UserError(
            f"{file}: '{ids[0]}' is no id: {{id}} in image = \"{image}\" stands for '{meant}' alone; write one id "
            "a line, or let `manyseg data --guess` write the lists"
        )
