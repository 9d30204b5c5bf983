"""Write docs/reference.md: every key of a card and of a recipe, with type, default and meaning, from the types.

    python docs/generate_reference.py

A test compares the page with what this script gives, so that it cannot fall behind the code.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from manyseg.config import keywords
from manyseg.data.card import Card
from manyseg.data.classes import CardClass
from manyseg.data.options import AugmentOptions, DataOptions, DatasetOptions, Jitter, SetOptions
from manyseg.inference.options import TestOptions, ViewOptions
from manyseg.labels import Taxonomy
from manyseg.methods import METHODS, find_method
from manyseg.methods.plan import StagePlan
from manyseg.methods.sources import ProposedTaxonomy, StageStatistics, StageTaxonomy
from manyseg.models import PixelEncoder
from manyseg.relate.statistics import Statistics
from manyseg.runs.recipe import Recipe
from manyseg.training.options import TrainOptions

PAGE = Path(__file__).parent / "reference.md"

HEAD = """# Every key of cards and recipes

Generated from the types by `python docs/generate_reference.py`; do not edit it by hand. What the keys are for, with
examples: [datasets.md](datasets.md) for cards, the README for recipes. Every value of a recipe can be set on the
command line: `--set train.lr=1e-3`, `--set data.sets.0.per_step=2`; `--set method.ohem=` takes a value out, so that
its default holds. An unknown key is an error that names the nearest known one.
"""


def reference() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    parts += _section("Card", "A card's top-level keys.", Card)
    parts += _section(
        "Card: `[classes]`", "A class is a raw value, a list of them, or a table of these keys.", CardClass
    )
    parts += _section("Recipe", "The top-level keys.", Recipe)
    parts += _section("`[data]`", "", DataOptions, without=AugmentOptions)
    parts += _section("`[data]`: augmentation", "For all datasets, or for one where `sets` has them.", AugmentOptions)
    parts += _section("`jitter`", "", Jitter)
    parts += _section("`[[data.sets]]`", "Datasets that are trained on.", SetOptions, without=AugmentOptions)
    parts += _section("`[[data.unseen]]`", "Datasets that are evaluated only.", DatasetOptions)
    parts += _section("`[model]`", "", keywords(PixelEncoder.build, "Model"), text=_rest(PixelEncoder.build))
    parts += ["## `[method]`\n", "`name` is one of the following; beside it stand that method's own keys.\n"]
    for name in METHODS:
        kind = find_method(name)
        options = keywords(kind, name)
        parts += _section(f"`{name}`", "", options, text=_rest(kind), level=3)
        for key, table in _tables(options).items():
            parts += _section(f"`{name}`: `[method.{key}]`", "", table, level=4)
    parts += _section("`[train]`", "", TrainOptions)
    parts += _section("`[[stage]]`", "", StagePlan)
    parts += _section("`[test]`", "", TestOptions)
    parts += _section("`[test.sets.<dataset>]`", "The keys of `[test]` that are other for one dataset.", ViewOptions)
    return "\n".join(parts).rstrip() + "\n"


def _tables(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the keys of a model that are tables of keys of their own."""
    kinds = {key: field.annotation for key, field in model.model_fields.items()}
    return {key: kind for key, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def _section(
    title: str,
    intro: str,
    model: type[BaseModel],
    *,
    without: type[BaseModel] | None = None,
    text: str = "",
    level: int = 2,
) -> list[str]:
    fields = {k: f for k, f in model.model_fields.items() if without is None or k not in without.model_fields}
    out = [f"{'#' * level} {title}\n"]
    if text or intro or model.__doc__:
        out.append((text or intro or inspect.cleandoc(model.__doc__ or "")) + "\n")
    if not fields:
        return [*out, "No keys.\n"]
    described = any(f.description for f in fields.values())
    out += ["| key | type | default |" + " meaning |" * described, "|---|---|---|" + "---|" * described]
    for key, field in fields.items():
        cells = [f"`{key}`", _code(_type(field.annotation, field)), _default(field)]
        cells += [(field.description or "").replace("|", "\\|").replace("\n", " ")] * described
        out.append("| " + " | ".join(cells) + " |")
    return [*out, ""]


def _rest(thing: Callable[..., Any]) -> str:
    return inspect.cleandoc(thing.__doc__ or "")


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel):
        return ""
    return _code(_value(value))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | ProposedTaxonomy):
        return f'"{value}"'
    if isinstance(value, Enum):
        return _value(value.value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return "{}" if isinstance(value, dict) and not value else str(value)


def _type(annotation: Any, field: FieldInfo | None = None) -> str:
    """Spell a type as TOML has it, with the bounds of a number."""
    limits = [part for item in (field.metadata if field else ()) for part in _bounds(item)]
    return " ".join([" | ".join(dict.fromkeys(_types(annotation))), *(["(" + ", ".join(limits) + ")"] * bool(limits))])


def _bounds(item: Any) -> Iterator[str]:
    for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        if (value := getattr(item, name, None)) is not None:
            yield f"{sign} {value}"


def _types(annotation: Any) -> Iterator[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _types(arguments[0])
    elif origin in (Union, types.UnionType):
        for part in arguments:
            # A recipe is text: it has nothing that is in memory.
            if part not in (type(None), Taxonomy, Statistics):
                yield from _types(part)
    elif origin is Literal:
        yield from (_value(a) for a in arguments)
    elif origin in (tuple, list):
        inner = [" | ".join(_types(a)) for a in arguments if a is not Ellipsis]
        yield f"[{', '.join(inner)}{', ...' * (Ellipsis in arguments or origin is list)}]"
    elif origin is dict or annotation is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        yield "table"
    else:
        yield NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true | false",
    Path: "path",
    ProposedTaxonomy: '"proposal"',
    StageTaxonomy: '"stage:<name>"',
    StageStatistics: '"stage:<name>"',
}

if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
