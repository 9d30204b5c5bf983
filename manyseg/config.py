"""TOML tables and their schemas: overriding a value, checking strictly with messages a person can act on, writing."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from manyseg.errors import UserError, close
from manyseg.textfile import read_text

__all__ = [
    "check",
    "flatten",
    "keywords",
    "listed",
    "merge_tables",
    "override",
    "parse_toml",
    "read_toml",
    "replace_values",
    "to_toml",
    "toml_key",
    "toml_value",
]

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T", str, str | Path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises UserError if there is none or it is not TOML."""
    try:
        text = read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: there is no such file; correct its name") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give a TOML file") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: neither UTF-8 nor UTF-16 (byte {e.start}); save it as UTF-8 text") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be read ({e}); correct its name or its permissions") from None
    return parse_toml(text, str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML; raises UserError that begins with `where` if it is none."""
    try:
        return tomllib.loads(text)
    except ValueError as e:  # Also a number of thousands of digits.
        fix = "correct it there (names of other signs than A-Z a-z 0-9 _ - are written in quotes)"
        if "overwrite a value" in str(e):
            fix = "the name is there twice: remove one of the two lines"
        raise UserError(f"{where}: not TOML: {e}; {fix}") from None
    except RecursionError:
        raise UserError(f"{where}: tables or lists are nested too deep; 100 levels are enough for all") from None


def listed(given: T | Sequence[T]) -> list[T]:
    """Return what was given as a list; one text or path, which would be a sequence of letters, is one item."""
    return [given] if isinstance(given, str | Path) else list(given)


def override(tree: dict[str, Any], assignment: str) -> None:
    """Set a value from `a.b=v`: v is a TOML value, or else a string; a number in the path is a position in a list.

    `a.b=` takes the value out, so that its default holds; an empty string is `a.b=""`.
    """
    path, equals, text = assignment.partition("=")
    keys = [k.strip() for k in path.split(".")]
    if not equals or not all(keys):
        raise UserError(f"--set {assignment}: not of the form table.key=value, such as train.lr=1e-3")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    node: Any = tree
    try:
        for key in keys[:-1]:
            node = node[_position(key)] if isinstance(node, list) else node.setdefault(key, {})
        last = _position(keys[-1]) if isinstance(node, list) else keys[-1]
        if text.strip():
            node[last] = value
        else:
            del node[last]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise UserError(f"--set {assignment}: the recipe has no place '{path.strip()}'") from None


def _position(key: str) -> int:
    """Read a place in a list, from 0 on; raises ValueError for anything else."""
    if not key.isdecimal():
        raise ValueError(key)
    return int(key)


def keywords(function: Callable[..., Any], name: str, *, partial: bool = False) -> type[BaseModel]:
    """Make a schema of the keyword-only parameters of a function, or of a class's constructor, with types and defaults.

    A constructor that passes keywords on (`**options`) has those of the class above it too. With `partial` those
    without a default may be left out too, and are None then.
    """
    fields: dict[str, Any] = {}
    own = [vars(c).get("__init__") for c in function.__mro__] if isinstance(function, type) else [function]
    for one in filter(None, own):
        hints = get_type_hints(one, include_extras=True)
        parameters = inspect.signature(one).parameters.values()
        for p in parameters:
            if p.kind is p.KEYWORD_ONLY and p.name not in fields:
                fields[p.name] = hints[p.name], (None if partial else ...) if p.default is p.empty else p.default
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields)


NEEDED = {
    "tuple_type": "a list is needed, in square brackets",
    "list_type": "a list is needed, in square brackets",
    "dict_type": "a table is needed, name = value in each line or { name = value }",
    "model_type": "a table is needed, name = value in each line or { name = value }",
    "model_attributes_type": "a table is needed, name = value in each line or { name = value }",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "string_type": "text is needed, in quotes",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
}
"""What is needed, in words, by the names that pydantic gives to faults."""

BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
"""What pydantic says of numbers that are too large or too small, and of true, which is 1 to it."""

FIRST = {"extra_forbidden": 0, "missing": 2}
"""Which of several faults is told: the lowest."""


def check(
    schema: type[M],
    data: Any,
    file: Path | str,
    where: Sequence[str] = (),
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> M:
    """Validate a table; raises UserError with one line about a fault: file, key, what is valid.

    A key that is not known comes first: it may be another one that is missing, misspelt.
    `renamed` says of keys of earlier versions, which are errors, what they are now.
    """
    for key in data if isinstance(data, Mapping) else ():
        if key in renamed and key not in schema.model_fields:
            raise UserError(f"{file}: {'.'.join((*where, key))}: is now {renamed[key]}")
    try:
        checked = schema.model_validate(data)
    except UserError as e:
        raise UserError(f"{file}: {e}") from None
    except ValidationError as e:
        faults = e.errors(include_url=False, include_context=False)
        fault = min(faults, key=lambda f: FIRST.get(f["type"], 1))
        more = f" (and {e.error_count() - 1} more)" if e.error_count() > 1 else ""
        location = _location(fault["loc"], data)
        place = _spelt((*where, *location))
        if fault["type"] == "extra_forbidden":
            valid = sorted(_schema_at(schema, location[:-1]).model_fields)
            text = f"unknown key{close(str(location[-1]), valid)}; valid keys: {', '.join(valid)}"
        elif fault["type"] == "missing":
            text = "is missing; give it a value"
        else:
            truth = isinstance(fault["input"], bool)
            given = "" if isinstance(fault["input"], dict | list) else f" (it is {_shown(fault['input'])})"
            kind = "float_type" if truth and fault["type"] in BOUNDS else fault["type"]
            text = NEEDED.get(kind, fault["msg"].removeprefix("Value error, ")) + given
        raise UserError(f"{file}: {place}: {text}{more}" if place else f"{file}: {text}{more}") from None
    for keys, wrong, value in _truths(data, checked):
        needed = NEEDED["float_type" if isinstance(value, float) else "int_type"]
        raise UserError(f"{file}: {_spelt((*where, *keys))}: {needed} (it is {_shown(wrong)})")
    return checked


def _truths(
    given: Any, checked: Any, keys: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], bool, Any]]:
    """Yield every true and false that pydantic has taken for a number: the way to it, and both."""
    if isinstance(given, bool):
        if not isinstance(checked, bool):
            yield keys, given, checked
    elif isinstance(given, Mapping):
        inner = dict(checked) if isinstance(checked, BaseModel | Mapping) else {}
        for key in (k for k in given if k in inner):
            yield from _truths(given[key], inner[key], (*keys, key))
    elif isinstance(given, list | tuple) and isinstance(checked, list | tuple) and len(given) == len(checked):
        for i, (one, value) in enumerate(zip(given, checked, strict=True)):
            yield from _truths(one, value, (*keys, i))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _spelt(keys: Sequence[int | str]) -> str:
    """Write the way to a value in a table as text."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).lstrip(".")


def merge_tables(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `table` with the keys of `over` in place of its own; tables within tables are merged likewise."""
    out = dict(table)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge_tables(out[key], value) if nested else value
    return out


def replace_values(model: M, replace: Callable[[tuple[str, ...], Any], Any], where: tuple[str, ...] = ()) -> M:
    """Return a checked table with `replace(keys, value)` for every value, `keys` being the way to it.

    Tables within the table are gone through, lists are values. Nothing is checked again.
    """
    values = {}
    for key in type(model).model_fields:
        value, keys = getattr(model, key), (*where, key)
        values[key] = replace_values(value, replace, keys) if isinstance(value, BaseModel) else replace(keys, value)
    return type(model).model_construct(model.model_fields_set, **values)


def _location(loc: Sequence[int | str], data: Any) -> list[int | str]:
    """Cut pydantic's location to the keys of the data; the rest names members of unions."""
    out: list[int | str] = []
    for i, key in enumerate(loc):
        if isinstance(data, Mapping) and (key in data or i == len(loc) - 1):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            break
        out.append(key)
    return out


def _schema_at(schema: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    named = False
    for key in location:
        if isinstance(key, str) and not named:
            annotation = schema.model_fields[key].annotation
            schema, named = next(_models(annotation)), get_origin(annotation) is dict
        else:
            named = False  # A key of a table of names.
    return schema


def _models(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested tables and lists by dotted path."""
    if isinstance(tree, Mapping):
        items: Any = tree.items()
    elif isinstance(tree, list) and any(isinstance(v, Mapping) for v in tree):
        items = enumerate(tree)
    else:
        return {prefix: tree}
    return {path: leaf for k, v in items for path, leaf in flatten(v, f"{prefix}.{k}" if prefix else str(k)).items()}


def to_toml(tree: Mapping[str, Any]) -> str:
    """Render tables of plain values: top-level values, then a [table] or [[table]] for every nested one."""
    lines = [f"{toml_key(k)} = {toml_value(v)}" for k, v in tree.items() if not _is_table(v)]
    for key, value in tree.items():
        for table in value if isinstance(value, list) else [value]:
            if _is_table(value):
                lines += ["", f"[[{toml_key(key)}]]" if isinstance(value, list) else f"[{toml_key(key)}]"]
                lines += [f"{toml_key(k)} = {toml_value(v)}" for k, v in table.items()]
    return "\n".join(lines).lstrip() + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def toml_key(key: str) -> str:
    """Write a key, in quotes where TOML needs them."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def toml_value(value: Any) -> str:
    """Write a plain value: text, number, list or table, in one line but for lists of tables."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], Mapping):
            return "[\n" + "".join(f"    {toml_value(v)},\n" for v in value) + "]"
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)
