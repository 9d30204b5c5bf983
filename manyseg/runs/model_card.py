"""The model card of a run: what it is, in which labels it predicts, how good it is, and how to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyseg import __version__
from manyseg.config import toml_value
from manyseg.errors import UserError
from manyseg.report.record import read_scores

if TYPE_CHECKING:
    from manyseg.runs.run import Run

__all__ = ["model_card"]

CARD = """\
---
license: {licence}
library_name: manyseg
pipeline_tag: image-segmentation
tags:
- manyseg
- image-segmentation
- semantic-segmentation
---

# {title}

One segmentation model of {count}, trained by [manyseg](https://github.com/manyseg/manyseg) with the method `{method}`.
It predicts in the labels of {each}, and in the unified label space of {nodes} classes, of which {shared} are shared.

```python
import manyseg

model = manyseg.load("hf://{name}")
found = model.predict("photo.jpg", labels="unified")
found.overlay().save("overlay.png")
```

    manyseg predict hf://{name} photos/ --labels {first}

## Labels

{labels}

How the classes relate is in `taxonomy.tsv`.

## Scores

In per cent, on the datasets' evaluation splits, single scale unless `recipe.toml` says otherwise.

{scores}

## Training

{training}

The whole recipe is `recipe.toml`; the paths of the data are left out of it.

## Licence and limits

The weights are given under `{licence}`. The datasets have licences of their own, which may forbid uses that this one
allows: check those of {each}. The model knows what its training images show and no more: try it on your own images
before you rely on it.
"""


def model_card(run: Run, name: str, licence: str) -> str:
    """Write the model card of a run as `user/name`; raises UserError if the licence is no identifier."""
    if not licence or any(c.isspace() or c in ":#'\"" for c in licence):
        raise UserError(f"'{licence}' is no identifier of a licence; give one such as apache-2.0, cc-by-4.0 or other")
    spaces, taxonomy, recipe = run.spaces, run.taxonomy, run.recipe
    rows = [f"- **{s.name}** ({len(s)}): {', '.join(s.names)}" for s in (*spaces, taxonomy.unified)]
    model = recipe.model
    facts = {
        "method": recipe.method["name"],
        "backbone": model.get("backbone", "the default"),
        "steps": recipe.train.steps,
        "crop": recipe.data.crop,
        "manyseg": __version__,
    }
    return CARD.format(
        licence=licence,
        title=name.partition("/")[2],
        count=f"{len(spaces)} datasets" if len(spaces) > 1 else "one dataset",
        method=recipe.method["name"],
        each=", ".join(s.name for s in spaces),
        nodes=len(taxonomy.unified),
        shared=taxonomy.shared,
        name=name,
        first=spaces[0].name,
        labels="\n".join(rows),
        scores=_scores(run),
        training="\n".join(
            f"- {key}: {value if isinstance(value, str) else _plain(value)}" for key, value in facts.items()
        ),
    )


def _plain(value: Any) -> str:
    return toml_value(list(value) if isinstance(value, tuple) else value)


def _scores(run: Run) -> str:
    """Return the run's scores as a table, without the names of images."""
    path = run.folder / "scores.json"
    if not path.exists():
        return "Not measured."
    notes: list[str] = []
    found = read_scores(path, notes).get("datasets", {})
    if notes:
        raise UserError(f"{path.parent}: {notes[0]}")
    lines = ["| dataset | protocol | mIoU | pixel accuracy | PQ |", "|---|---|---:|---:|---:|"]
    for dataset, d in found.items():
        values = (d.get("miou"), d.get("pixel_accuracy"), d.get("pq"))
        shown = ("-" if v is None else f"{100 * v:.1f}" for v in values)
        lines.append(f"| {dataset} | {d['protocol']} | {' | '.join(shown)} |")
    return "\n".join(lines)
