"""From a folder to a card: what the files are, which classes they hold, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from manyseg.data import locate, pattern
from manyseg.data.card import builtin_cards, read_card
from manyseg.data.folder import Folder
from manyseg.data.guess.cells import cell_drafts
from manyseg.data.guess.draft import Candidate, Draft, Refused, tried
from manyseg.data.guess.drawn import drawn_drafts
from manyseg.data.guess.masks import mask_drafts
from manyseg.data.guess.photos import photo_keys
from manyseg.data.guess.records import record_drafts
from manyseg.data.guess.red_green import red_green_drafts
from manyseg.data.guess.tree import Tree, ending, spread
from manyseg.data.hub_sets import local_root, set_address
from manyseg.errors import UserError

__all__ = ["Candidate", "guess", "print_guess"]

READERS: Sequence[Callable[[Tree], Iterator[Draft | Refused]]] = (
    mask_drafts,
    drawn_drafts,
    red_green_drafts,
    record_drafts,
    cell_drafts,
)
"""Each finds one family of layouts."""

BRUSH = re.compile(r"task-\d+-annotation-\d+-by-.*-\d+\.png")
"""Names of the pictures that one labelling tool makes of brush strokes, one for each label of each task."""


READ_AS_BUILTIN = 4
"""Images of each split that a built-in card must read, to be named."""


def guess(folder: str | Path) -> list[Candidate]:
    """Find what the files of a folder are; the likeliest reading first.

    Raises UserError if there is no such folder, or nothing in it is known.
    """
    root, said = local_root(folder), set_address(folder) or Path(folder)
    locate.check_folder(root, "give the folder that holds images and annotations")
    tree = Tree(root)
    seen = [one for reader in READERS for one in reader(tree)]
    drafts = sorted((d for d in seen if isinstance(d, Draft)), key=lambda d: d.rank)
    known = tuple(_builtin_hints(root, said))
    drafts = [replace(d, unsure=(*d.unsure, *known)) for d in (_with_photos(tree, draft) for draft in drafts)]
    results = [tried(draft, root, said) for draft in drafts]
    found = [r for r in results if isinstance(r, Candidate)]
    if found:
        return found
    reasons = [f"{d.title}, but: {r}" for d, r in zip(drafts, results, strict=True) if isinstance(r, UserError)]
    reasons += [f"{r.title}, but: {r.reason}" for r in seen if isinstance(r, Refused)]
    if reasons:
        raise UserError(f"{root}: it looks like {reasons[0]}")
    brushes = [f for f in tree.images if BRUSH.fullmatch(PurePosixPath(f).name)]
    if brushes:
        raise UserError(
            f"{root}: {len(brushes)} files such as {brushes[0]} are brush strokes of Label Studio; their names do not "
            "say which photo they are of; export the project as JSON, which has the strokes too, and put it here"
        )
    if archives := tree.ending_in(".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"):
        raise UserError(f"{root}: no known layout; unpack the archives first, such as {archives[0]}")
    raise UserError(
        f"{root}: no known layout; looked for photos with masks, or a JSON, XML or text file, of the same names; found "
        f"{tree.summary()}; write a card (docs/datasets.md), or name images and annotations alike"
    )


def _with_photos(tree: Tree, draft: Draft) -> Draft:
    """Add the keys that a draft's photos need, and say which photos its pattern leaves out."""
    patterns = [re.compile(pattern.regex(p)) for p in draft.arrangement.patterns.values()]
    image = draft.arrangement.patterns["image"]
    photos = [tree.path(f) for f in tree.images if re.fullmatch(pattern.regex(image), f)]
    keys, unsure = photo_keys(spread(photos, 4))
    alike = re.compile(pattern.regex(image.removesuffix(ending(image))) + r"\.\w+")
    left_out = [f for f in tree.images if alike.fullmatch(f) and not any(p.fullmatch(f) for p in patterns)]
    if left_out:
        fix = "give all photos one ending"
        unsure = (*unsure, f"{len(left_out)} pictures with another ending are left out, such as {left_out[0]}; {fix}")
    return replace(draft, keys={**keys, **draft.keys}, unsure=(*draft.unsure, *unsure))


def _builtin_hints(root: Path, said: str | Path) -> Iterator[str]:
    """Name the built-in cards that read images of the folder; others may have laid out their files alike."""
    for name in builtin_cards():
        card = read_card(name)
        try:
            for split in card.splits:
                folder = Folder(card, root, split)
                folder.prepare()
                for index in spread(range(len(folder)), READ_AS_BUILTIN):
                    folder.found(folder.files(index))
        except UserError:
            continue
        yield f"the built-in card '{name}' reads these files; if this is that dataset: manyseg data {name} {said}"


def print_guess(folder: str | Path, out: Path | None, choice: int | None, *, force: bool = False) -> None:
    """Print what a folder may be; write the card of candidate `choice` (from 1) to `out`, or print it."""
    found = guess(folder)
    folder = set_address(folder) or folder
    number = 1 if choice is None else choice
    if not 1 <= number <= len(found):
        raise UserError(f"--choice {number}: there are {len(found)} candidates; give a number from 1 to {len(found)}")
    if len(found) > 1:
        for n, candidate in enumerate(found, 1):
            print(f"{'*' if n == number else ' '} {n}. {candidate.summary()}")
    chosen = found[number - 1]
    if out is None:
        name = (Path(folder).resolve().name or "dataset").replace(" ", "-")
        print(chosen.text(Path(f"{name}.toml")))
        print(f"to write it with its lists: manyseg data --guess {folder} -o {name}.toml")
        return
    written = chosen.write(out, force=force)
    print(f"{written[-1]}: {chosen.summary()}")
    for note in chosen.unsure:
        print(f"? {note}")
    print(f"next: read the card, then: manyseg data {out} {folder}")
