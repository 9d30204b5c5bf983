"""Label spaces as a JSON file, so that a run needs no card to predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from manyseg import atomic
from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace

__all__ = ["read_spaces", "write_spaces"]


def write_spaces(path: Path, spaces: Sequence[LabelSpace]) -> None:
    """Write a list of label spaces, each with its name and all that is known of its classes."""
    text = json.dumps([asdict(s) for s in spaces], ensure_ascii=False, indent=1)
    atomic.write(path, text + "\n")


def read_spaces(path: Path) -> tuple[LabelSpace, ...]:
    """Read what `write_spaces` wrote; raises UserError naming the file if it is missing or damaged."""
    try:
        return tuple(
            LabelSpace(
                s["name"],
                tuple(
                    LabelClass(**c | {"color": c["color"] and tuple(c["color"]), "synonyms": tuple(c["synonyms"])})
                    for c in s["classes"]
                ),
            )
            for s in json.loads(path.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path}: missing or damaged ({e.__class__.__name__}); train the run again") from None
