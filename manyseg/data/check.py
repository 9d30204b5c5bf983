"""Check a dataset on disk against its card before training: every fault, its file, and what to do about it."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manyseg.data import locate
from manyseg.data.card import Card, builtin_cards, read_card
from manyseg.data.completeness import strays, unread, unused
from manyseg.data.files import DataError, exists, stream, write_image
from manyseg.data.finding import Finding, merged, of_error
from manyseg.data.folder import Folder
from manyseg.data.histogram import Histogram, absences, single
from manyseg.data.hub_sets import local_root
from manyseg.data.inspection import inspect_all
from manyseg.data.parquet import cell_of
from manyseg.data.table_check import compared_tables
from manyseg.errors import UserError, counted
from manyseg.progress import progress

__all__ = ["Finding", "Histogram", "check", "print_cards", "print_check", "survey"]


def check(card: Card | str | Path, root: str | Path) -> list[Finding]:
    """Find what is wrong with the dataset at `root`: errors first, and the same fault of many files only once."""
    return survey(card, root)[0]


def survey(card: Card | str | Path, root: str | Path) -> tuple[list[Finding], dict[str, Histogram]]:
    """Read every file of every split; return the findings, and the histogram of every split that could be opened.

    Raises UserError if `root` is no folder, or the card is at fault.
    """
    card = card if isinstance(card, Card) else read_card(card)
    locate.check_folder(local_root(root), f"give the root of dataset '{card.name}'")
    findings: list[Finding] = []
    folders: list[Folder] = []
    histograms = {}
    for split in card.splits:
        part = card.whole(split) != split
        try:
            folder = Folder(card, root, split)
            if part:
                continue  # Its images are those of the whole.
            folder.prepare()
        except UserError as e:
            findings += of_error(e, f"split '{split}'")
            continue
        folders.append(folder)
        findings += [*folder.findings(), *compared_tables(folder)]
        with progress(f"checking '{card.name}', split '{split}'", len(folder)) as done:
            results = inspect_all(folder, range(len(folder)), decode=True, done=done)
        findings += [finding for r in results for finding in r.findings]
        histograms[split] = Histogram.of(card.space, results)
        findings += strays(folder)
    findings += unread(folders)
    findings += unused(folders)
    findings += _shared_files(folders)
    findings += absences(card.space, histograms)
    if "train" in histograms and card.kind in ("dense", "segments"):
        findings += single(card.space, histograms["train"], "train")
    return merged(findings), histograms


def _shared_files(folders: Sequence[Folder]) -> Iterator[Finding]:
    """Find images that occur twice: in two splits an error, as evaluation would see what was trained on."""
    places = [(f.split, Path(f.own_paths(i)[0])) for f in folders for i in range(len(f))]
    places = [(split, path) for split, path in places if exists(path) or cell_of(path)]
    by_size = defaultdict(list)
    for place in places:
        with suppress(OSError, DataError), stream(place[1]) as file:
            by_size[file.seek(0, os.SEEK_END)].append(place)
    by_content = defaultdict(list)
    for group in by_size.values():
        if len(group) > 1:  # Files of different sizes are different: only the others are worth a hash.
            for split, path in group:
                by_content[_content(path)].append((split, path))
    for (first, original), *copies in by_content.values():
        for split, path in copies:
            name = "" if path == original else f" under another name ({original})"
            if split == first:
                yield Finding("warning", f"the same image twice in split '{split}'{name}", str(path), "remove one")
            else:
                fix = "remove it from one split, or scores are of images trained on"
                yield Finding("error", f"the same image in splits '{first}' and '{split}'{name}", str(path), fix)


def _content(path: Path) -> bytes:
    with stream(path) as file:
        return hashlib.blake2b(file.read()).digest()


def print_cards() -> None:
    """Print the cards that come with the package."""
    table = Table("card", "classes", "things", "annotation", "splits", box=None, header_style="bold")
    for name in builtin_cards():
        card = read_card(name)
        things = sum(c.thing for c in card.space.classes)
        table.add_row(name, str(len(card.space)), str(things), card.kind, " ".join(card.splits))
    Console().print(table)


def print_check(card: str | Path, root: str | Path, *, histogram: bool = False, sheet: Path | None = None) -> None:
    """Check a dataset and print what is wrong; `histogram` adds class counts, `sheet` writes a contact sheet there.

    Raises UserError at the end if a finding is an error.
    """
    parsed = read_card(card)
    findings, histograms = survey(parsed, root)
    for finding in findings:
        print(finding)
    if histogram:
        for split, counts in histograms.items():
            Console().print(counts.table(parsed.space, split))
    if sheet is not None:
        from manyseg.data.sheet import contact_sheet

        folders = [Folder(parsed, root, split) for split in list(histograms)[:1]]
        for folder in folders:
            write_image(sheet, contact_sheet(folder))
            print(f"contact sheet of split '{folder.split}': {sheet}")
    errors = sum(f.severity == "error" for f in findings)
    warnings = sum(f.severity == "warning" for f in findings)
    images = sum(len(Folder(parsed, root, split)) for split in histograms)
    if errors:
        raise UserError(f"{root}: {counted(errors, 'kind')} of error in {images} images; correct them before training")
    print(f"{root}: {images} images in {len(histograms)} splits, {warnings} warnings, no errors")
