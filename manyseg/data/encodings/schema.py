"""Records at the border: each is checked once against its schema, and all that is wrong with it is said in words.

The schemas are msgspec structs. Numbers are read in any unambiguous spelling: 64, 64.0 and "64".
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from manyseg.data.files import ARCHIVES, DataError, stream
from manyseg.textfile import decode

__all__ = [
    "BROKEN_JSON",
    "Coordinate",
    "Fault",
    "Identifier",
    "Name",
    "Side",
    "checked",
    "load_json",
    "read_bytes",
    "shown",
]

T = TypeVar("T", bound=msgspec.Struct)

Identifier = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)] | Annotated[str, msgspec.Meta(max_length=1000)]
"""What names an image or object within a file."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=4000)]
"""A file's or class's name."""

Side = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
"""Height or width of an image in pixels."""

Coordinate = Annotated[float, msgspec.Meta(ge=-1e7, le=1e7)]
"""A position in pixels; the bounds keep out infinities, NaN and what native code cannot hold."""

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object in braces",
    "null": "null",
}
"""msgspec's names of JSON's types in words."""


BROKEN_JSON = "correct it there, or fetch or export the file again"
"""What to do about a file that is no JSON."""


class Fault(NamedTuple):
    """What is wrong with a record: its field and value, why, and what to do."""

    field: str
    what: str
    fix: str = "correct it in the file, or remove the object"

    def error(self, file: Path, record: str) -> DataError:
        """Make an error of it; `record` says which record of the file it is."""
        return DataError(file, self.what, self.fix, place=f"{record}, {self.field}" if self.field else record)


def checked(raw: msgspec.Raw | bytes, schema: type[T]) -> T | list[Fault]:
    """Read one JSON record as `schema`, or say all that is wrong with it."""
    try:
        return msgspec.json.decode(raw, type=schema, strict=False)
    except msgspec.DecodeError as e:
        return faults(msgspec.json.decode(raw), schema) or [Fault("", str(e))]


def faults(record: Any, schema: type[msgspec.Struct]) -> list[Fault]:
    """Say what is wrong with a record: at most one fault a field."""
    if not isinstance(record, dict):
        return [Fault("", f"it is {shown(record)}, where an object in braces is needed")]
    out = []
    for field, alone in _fields(schema):
        if field.encode_name not in record:
            if field.required:
                out.append(Fault(field.encode_name, "is missing"))
            continue
        value = record[field.encode_name]
        try:
            msgspec.convert({field.encode_name: value}, alone, strict=False)
        except msgspec.ValidationError as e:
            out.append(_fault(field.encode_name, value, str(e)))
    return out


@lru_cache
def _fields(schema: type[msgspec.Struct]) -> list[tuple[msgspec.structs.FieldInfo, type[msgspec.Struct]]]:
    """List the fields of a schema, each with a schema of it alone: msgspec reports the first fault that it meets."""
    return [(f, msgspec.defstruct("Alone", [(f.encode_name, f.type)])) for f in msgspec.structs.fields(schema)]


def _fault(field: str, value: Any, message: str) -> Fault:
    """Put msgspec's message into words: "Expected `int` >= 1, got `null` - at `$[0]`"."""
    text, _, path = message.partition(" - at `$")
    path = path.rstrip("`").removeprefix(f".{field}")
    for key in re.findall(r"\[(\d+)\]|\.(\w+)", path):
        value = value[int(key[0])] if key[0] else value.get(key[1])
    needed = re.match(r"Expected `([^`]*)`(.*?)(, got .*)?$", text)
    if needed is None:  # "Number out of range", "Object missing required field `size`"
        return Fault(f"{field}{path} = {shown(value)}", text[:1].lower() + text[1:].replace("`", "'"))
    kinds = " or ".join(KINDS.get(k, k) for k in needed[1].split(" | "))
    return Fault(f"{field}{path} = {shown(value)}", f"{kinds}{needed[2]} is needed")


def shown(value: Any) -> str:
    """Show a value as JSON has it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def read_bytes(path: Path) -> bytes:
    """Read an annotation file as UTF-8, without its byte order mark; UTF-16 with one is translated."""
    try:
        with stream(path) as file:
            data = file.read()
        if data.startswith(ARCHIVES):
            raise DataError(path, "an archive, not an annotation file", "unpack it")
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return decode(data).encode()
    except FileNotFoundError:
        raise DataError(path, "there is no such annotation file", "check the card and the root") from None
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(path, f"the annotation file cannot be read ({e})", "fetch it again") from None
    return data.removeprefix(codecs.BOM_UTF8)


SPARE = 64
"""Bytes of white space and punctuation beside a field of a JSON object, at most, where none is lost."""


def check_keys(path: Path, data: bytes) -> None:
    """Raise DataError where a JSON object has a key twice, with much under the first: parsers forget it silently."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return
    held = sum(len(raw) + len(key) for key, raw in fields.items())
    if len(data) - held <= SPARE * (len(fields) + 1):
        return

    def unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {} if len({key for key, _ in pairs}) == len(pairs) else {"": Counter(key for key, _ in pairs)}

    found = json.loads(data, object_pairs_hook=unlike).get("")
    if found:
        (key, count) = found.most_common(1)[0]
        what = f"the key '{key}' is there {count} times, of which parsers read the last"
        raise DataError(path, what, "join what they hold under one key, or remove the others")


def load_json(path: Path, schema: Any = Any) -> Any:
    """Read a JSON file as `schema`.

    Raises DataError if it is not there or no JSON, and msgspec.ValidationError if it is of another kind.
    """
    data = read_bytes(path)
    check_keys(path, data)
    try:
        try:
            return msgspec.json.decode(data, type=schema, strict=False)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # Python's own spelling of NaN and infinities is no JSON; as text it is found where it stands.
            data = json.dumps(json.loads(data, parse_constant=str)).encode()
            return msgspec.json.decode(data, type=schema, strict=False)
    except msgspec.ValidationError as e:
        if schema is not Any:
            raise
        raise DataError(path, f"the JSON holds what no field can hold ({e})", "correct or remove it") from None
    except (ValueError, RecursionError) as e:
        raise DataError(path, f"unreadable or truncated JSON ({e})", BROKEN_JSON) from None
