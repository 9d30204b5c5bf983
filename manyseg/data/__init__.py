"""Datasets: cards, files, annotations, transforms and mixtures."""

from pathlib import Path

from manyseg.data.card import Card, builtin_cards, read_card
from manyseg.data.folder import Folder

__all__ = ["Card", "Folder", "builtin_cards", "load", "read_card"]


def load(card: Card | str | Path, root: str | Path, split: str = "train", annotation: str = "native") -> Folder:
    """Open one split of a dataset: `card` is a built-in name, a path, or a card; `root` is its folder on disk.

    `annotation` is "native", or "dense", "segments", "boxes" or "tags" to weaken what the files hold.
    """
    return Folder(card if isinstance(card, Card) else read_card(card), root, split, annotation)
