"""Label spaces as a JSON file, so that a run needs no card to predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace

__all__ = ["read_spaces", "spaces_to_json"]


def spaces_to_json(spaces: Sequence[LabelSpace]) -> str:
    """Render a list of label spaces, each with its name and all that is known of its classes."""
    return json.dumps([asdict(s) for s in spaces], ensure_ascii=False, indent=1) + "\n"


def read_spaces(path: Path) -> tuple[LabelSpace, ...]:
    """Read the text of `spaces_to_json`; raises UserError naming the file if it is missing or damaged."""
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
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError) as e:
        raise UserError(f"{path}: missing or damaged ({e.__class__.__name__}); train the run again") from None
