"""Photos and masks in the columns of Parquet files, as Hugging Face's `datasets` writes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from manyseg.data import pattern
from manyseg.data.class_tables import class_tables
from manyseg.data.guess.draft import Draft
from manyseg.data.guess.masks import is_masks_of_photos, mask_draft
from manyseg.data.guess.tree import Pairing, Place, Tree, with_split
from manyseg.data.parquet import picture_columns, rows

__all__ = ["cell_drafts"]

PHOTOS = ("image", "img", "images", "pixel_values", "photo")
"""Names of columns that hold photos."""


def cell_drafts(tree: Tree) -> Iterator[Draft]:
    """Yield a draft for every column of masks beside a column of photos."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for file in tree.ending_in(".parquet"):
        folder = str(PurePosixPath(with_split(file)[0]).parent)
        groups[folder, tuple(picture_columns(tree.path(file)))].append(file)
    tables = class_tables(tree.root, tree.files)
    for (_, columns), files in groups.items():
        photo = next((c for c in PHOTOS if c in columns), columns[0] if columns else "")
        for mask in columns:
            pair = _pairing(tree, files, photo, mask)
            if mask != photo and is_masks_of_photos(tree, pair):
                draft = mask_draft(tree, pair, tables)
                if draft is not None:
                    yield draft


def _pairing(tree: Tree, files: Sequence[str], photo: str, mask: str) -> Pairing:
    """Pair the cells of each row; the id of a row has its file's part of the name where there are several."""
    text = _pattern(files)
    names = pattern.fields(text)
    images: dict[Place, str] = {}
    masks: dict[Place, str] = {}
    for file in files:
        split = with_split(file)[1]
        begin, _, end = pattern.fill(text, {"split": split}).partition("{shard}")
        for row in rows(tree.path(file), photo):
            parts = [file[len(begin) : len(file) - len(end)], row] if names else [row]
            images[split, "/".join(parts)] = f"{file}/{photo}/{row}"
            masks[split, "/".join(parts)] = f"{file}/{mask}/{row}"
    return Pairing(f"{text}/{photo}/{{row}}", f"{text}/{mask}/{{row}}", images, masks)


def _pattern(files: Sequence[str]) -> str:
    """Return the pattern of files in one folder: `{split}` and, where there are several of a split, `{shard}`."""
    texts = {with_split(file)[0] for file in files}
    if len(texts) == 1:
        return texts.pop()
    path = PurePosixPath(min(texts))
    before, split, after = path.name.partition("{split}")
    # What follows the split is a mark such as "-", or already the part that differs.
    name = f"{before}{split}{after[0]}{{shard}}.parquet" if split and not after[0].isalnum() else "{shard}.parquet"
    return str(path.with_name(name))
