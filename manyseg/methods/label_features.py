"""The labels of all datasets as vectors, of their texts or from a file.

Axes: T classes of all datasets together, D classes of one, F features of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace
from manyseg.models.text import TextEncoder

__all__ = ["label_features", "label_texts"]


def label_texts(spaces: Sequence[LabelSpace], descriptions: bool) -> list[str]:
    """Return a sentence a class: the paper's template, then what the card says of the class, where it does."""
    out = []
    for space in spaces:
        for c in space.classes:
            text = f"An image of {c.name.replace('_', ' ')} from the dataset {space.name.replace('_', ' ')}."
            out.append(f"{text} {c.description}" if descriptions and c.description else text)
    return out


def label_features(
    spaces: Sequence[LabelSpace],
    features: Literal["text"] | Path,
    encoder: str | None,
    descriptions: bool,
    centre: bool,
) -> Float[np.ndarray, "T F"]:
    """Return one vector a class, of a text encoder or of a file.

    The file is an .npy of [T, F] in recipe order, or an .npz with an array [D, F] for every dataset by name. `centre`
    takes off the mean text and scales the entries to a variance of 1, as a linear layer expects of its inputs: what all
    texts have in common is most of a text vector, and says nothing of any class.
    """
    if isinstance(features, Path):
        out = _read(features, spaces)
    else:
        out = TextEncoder(encoder).encode(label_texts(spaces, descriptions)).astype(np.float32)
    if centre and len(out) > 1:
        out = out - out.mean(0)
        out = out / max(float(out.std()), 1e-12)
    return out


def _read(file: Path, spaces: Sequence[LabelSpace]) -> Float[np.ndarray, "T F"]:
    try:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            out = found
        else:
            with found:
                parts = {s.name: found[s.name] for s in spaces}
            wrong = [s.name for s in spaces if parts[s.name].ndim != 2 or len(parts[s.name]) != len(s)]
            if wrong:
                raise UserError(f"{file}: '{wrong[0]}' is {list(parts[wrong[0]].shape)}; give one row a class")
            out = np.concatenate([parts[s.name] for s in spaces])
    except (OSError, ValueError, KeyError, EOFError) as e:
        reason = " ".join(str(e).split())
        raise UserError(f"{file}: no features of labels ({reason}); give an .npy or an .npz by dataset") from None
    T = len(JointClasses(tuple(spaces)))
    if out.ndim != 2 or len(out) != T or not np.isfinite(out).all():
        raise UserError(f"{file}: features {list(out.shape)}, or not finite; give {T} finite rows, one for each class")
    return out.astype(np.float32)
