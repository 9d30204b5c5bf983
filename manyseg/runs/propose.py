"""From cards, a recipe or a run to a proposed label space on disk: what `manyseg labels` does."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from jaxtyping import UInt8
from rich.console import Console

from manyseg.data import Folder, builtin_cards, read_card
from manyseg.data.annotation import Dense, Segments
from manyseg.errors import UserError
from manyseg.evaluation.evaluate import collect
from manyseg.explorer import conflicts, write_explorer
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.labels.hierarchy import Hierarchy
from manyseg.models.text import TextEncoder
from manyseg.relate import Agreement, PartOf, Pins, Proposal, Relation, add_mined, agreement, propose, read_relations
from manyseg.relate.statistics import UNIFIED
from manyseg.runs.recipe import Recipe, read_recipe
from manyseg.runs.run import Run

__all__ = ["By", "Source", "open_source", "unify"]

By = Literal["names", "text", "confusion", "both"]

LOOKED_AT = 60
"""Images of a dataset, spread over it, in which example crops of its classes are looked for."""

CROPS = 3
"""Example crops of a class."""

MARGIN = 0.15
"""What a crop shows around its class, as a part of its longer side."""

SHOWN = 10
"""Conflicts and differences printed; the page has all."""

console = Console(soft_wrap=True, highlight=False, markup=False)


@dataclass(frozen=True)
class Source:
    """Label spaces, the labelled images to show examples of (held-out splits), and a trained run if there is one."""

    spaces: tuple[LabelSpace, ...]
    folders: tuple[Folder, ...] = ()
    run: Run | None = None


def open_source(names: Sequence[str]) -> Source:
    """Read what was named: one run's folder, one recipe, or any number of cards."""
    if len(names) == 1 and Path(names[0]).is_dir():
        run = Run.open(names[0])
        return Source(run.spaces, _folders(run.recipe, missing_ok=True), run)
    if len(names) == 1 and names[0] not in builtin_cards() and _is_recipe(Path(names[0])):
        recipe = read_recipe(names[0])
        folders = _folders(recipe, missing_ok=False)
        return Source(tuple(f.space for f in folders), folders)
    return Source(tuple(read_card(n).space for n in names))


def unify(
    names: Sequence[str],
    *,
    by: By | None = None,
    confusion: Path | None = None,
    text: str | None = None,
    pins: Path | None = None,
    taxonomy: Path | None = None,
    out: Path | None = None,
    html: Path | None = None,
) -> Proposal:
    """Propose the unified label space of recipes, runs or cards; print it, and write the table and the explorer.

    `by` defaults to all evidence there is: text, with confusions where a file of them or a run is given. `taxonomy` is
    a table (edited by hand, say) that is checked and shown in place of the proposal, with what the evidence holds
    against it.
    """
    source = open_source(names)
    counts = _read_confusion(confusion) if confusion else None
    by = by or ("both" if counts or source.run else "text")
    if by in ("confusion", "both") and counts is None and source.run is not None:
        counts = _collect(source)
    proposal = propose(
        source.spaces,
        by=by,
        encode=TextEncoder(text).encode if by in ("text", "both") else None,
        confusion=counts if by in ("confusion", "both") else None,
        pins=Pins.read(pins) if pins else None,
    )
    shown, before = proposal.taxonomy, None
    if taxonomy is not None:
        shown, before = Taxonomy.read(taxonomy, source.spaces), proposal.taxonomy
        _print_difference(taxonomy, agreement(shown, proposal.taxonomy))
    _print(shown, proposal.relations)
    relations = proposal.relations
    if source.run is not None and (source.run.folder / "relations.tsv").exists():
        mined = read_relations(source.run.folder / "relations.tsv", source.run.taxonomy)
        relations = add_mined(relations, mined, source.run.taxonomy)
        _print_mined(mined)
    if out is not None:
        shown.write(out)
        console.print(f"{out}: the table; correct it in any spreadsheet, check it by --taxonomy, train on it (manual)")
    if html is not None:
        write_explorer(html, shown, relations, _crops(source.folders), before)
        console.print(f"{html}: the same to look at, with the reason for every merge")
    return Proposal(shown, relations)


def _is_recipe(path: Path) -> bool:
    try:
        return "data" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False  # Whoever reads it as a card says what is wrong with it.


def _folders(recipe: Recipe, *, missing_ok: bool) -> tuple[Folder, ...]:
    out = []
    for entry in recipe.data.sets:
        try:
            out.append(entry.open_eval(recipe.base))
        except UserError:
            if not missing_ok:
                raise
    return tuple(out)


def _read_confusion(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file of confusions") from None
    except (OSError, ValueError, EOFError, BadZipFile) as e:
        raise UserError(f"{path}: not an npz file of arrays named a__b ({' '.join(str(e).split())})") from None


def _collect(source: Source) -> dict[str, np.ndarray]:
    """Count, with the run's best weights, what each dataset's head says on the held-out images of every other."""
    assert source.run is not None
    if len(source.folders) < len(source.spaces):
        there = {f.space.name for f in source.folders}
        gone = ", ".join(s.name for s in source.spaces if s.name not in there)
        raise UserError(f"{source.run.folder}: the images of {gone} are not where the recipe says; use --by text")
    statistics = collect(source.run.load_model(), source.folders, source.run.recipe.test, heads=source.spaces)
    return {f"{a}__{b}": c for (a, b), c in statistics.counts.items() if b != UNIFIED}


def _print(taxonomy: Taxonomy, relations: Sequence[Relation]) -> None:
    classes = sum(map(len, taxonomy.spaces))
    kinds = Counter(r.kind for r in relations)
    found = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common() if kind != "unrelated")
    console.print(
        f"{classes} classes of {len(taxonomy.spaces)} datasets in {len(taxonomy.unified)} unified nodes"
        + (f"; relations: {found}" if found else "")
    )
    for u, name in enumerate(taxonomy.unified.names):
        members = taxonomy.members(u)
        if len(members) > 1:
            console.print(f"  {name}: " + ", ".join(f"{d}:{n}" for d, n in members))
    alone = [n for u, n in enumerate(taxonomy.unified.names) if len(taxonomy.members(u)) == 1]
    if alone:
        console.print(f"  of one class each: {', '.join(alone)}")
    tree = Hierarchy.of(taxonomy)
    if len(tree.inner) > 1 or tree.split:
        console.print("the hierarchy of these classes, as the method htss learns it:")
        console.print(indent(tree.to_text(), "  "))
    doubts = conflicts(taxonomy, relations)
    for c in doubts[:SHOWN]:
        pair = f"{c.a[0]}:{c.a[1]} and {c.b[0]}:{c.b[1]}"
        console.print(f"  look at ({c.kind}): {pair}; evidence: {c.evidence or 'none'}")
    if len(doubts) > SHOWN:
        console.print(f"  look at: {len(doubts) - SHOWN} more, all in the page that --html writes")


def _print_difference(path: Path, found: Agreement) -> None:
    """Say in words what a table has that the evidence does not, and the other way round."""
    console.print(f"{path}: {len(found.surplus)} pairs of classes share a node that the proposal keeps apart, ", end="")
    console.print(f"{len(found.missing)} do not that it unites")
    for title, pairs in (("only in the table", found.surplus), ("only in the proposal", found.missing)):
        for a, b in pairs[:SHOWN]:
            console.print(f"  {title}: {a[0]}:{a[1]} with {b[0]}:{b[1]}")
        if len(pairs) > SHOWN:
            console.print(f"  {title}: {len(pairs) - SHOWN} more")


def _print_mined(mined: Sequence[PartOf]) -> None:
    """List what the run found out in training; to correct it, edit its relations.tsv and name that as relations."""
    for m in mined:
        score = "by hand" if np.isnan(m.score) else f"{m.score:.3f}, bar {m.bar:.3f}"
        console.print(f"  mined in training: {m.dataset}:{m.label} is part of {m.node} ({score})")


def _crops(folders: Sequence[Folder]) -> Mapping[tuple[str, str], list[UInt8[np.ndarray, "h w 3"]]]:
    """Cut out, for every class, its largest appearances among some images of the dataset."""
    found: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {}
    for folder in folders:
        for index in sorted({round(i) for i in np.linspace(0, len(folder) - 1, min(LOOKED_AT, len(folder)))}):
            sample = folder.read(index)
            if not isinstance(sample.annotation, Dense | Segments):
                break
            labels = sample.annotation.labels.numpy()
            for d in np.unique(labels[labels >= 0]):
                best = found.setdefault((folder.space.name, folder.space.names[d]), [])
                size = int((labels == d).sum())
                if len(best) == CROPS and size <= best[-1][0]:
                    continue
                best.append((size, _cut(sample.image.numpy().transpose(1, 2, 0), labels == d)))
                best.sort(key=lambda item: -item[0])
                del best[CROPS:]
    return {key: [crop for _, crop in best] for key, best in found.items()}


def _cut(image: UInt8[np.ndarray, "H W 3"], mask: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    pad = round(MARGIN * max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    top, left = max(rows[0] - pad, 0), max(columns[0] - pad, 0)
    return image[top : rows[-1] + pad + 1, left : columns[-1] + pad + 1].copy()
