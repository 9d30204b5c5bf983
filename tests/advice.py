"""How tests follow advice: what fails says what to do, that is done word by word, and then it works.

Tests that do so have "advi" in their names or those of their files, by which tools/advice.py finds them.
"""

import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from manyseg.cli import app
from manyseg.errors import UserError


def follow(fails, said, works):
    """Check that a call ends in one line that says the advice `said`, and return what the call after it gives."""
    with pytest.raises(UserError) as caught:
        fails()
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(said, message), message
    return works()


class Case(NamedTuple):
    """A command, what it is told, and the command, or what is done to a folder before the same one, that then works.

    `first` is what is done to the folder before all of that.
    """

    typed: str
    said: str
    then: str | Callable[[Path], None] | tuple[Callable[[Path], None], str]
    first: Callable[[Path], None] = lambda place: None


def cases(table, first):
    """Return the cases of a table as parameters, each with what is done first, by the names in the table."""
    assert first.keys() <= table.keys()
    return [pytest.param(case._replace(first=first.get(n, case.first)), id=n) for n, case in table.items()]


def say(line, place, monkeypatch):
    """Run a command line in a folder; return its exit code and what a person reads, in one line."""
    monkeypatch.chdir(place)
    try:
        result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
    except UserError as e:
        return 1, str(e)
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def check(case, place, monkeypatch):
    """Provoke the message of a case in a folder, and follow its advice."""
    case.first(place)
    code, said = say(case.typed, place, monkeypatch)
    assert code in (1, 2), said
    assert "\n" not in said
    assert re.search(case.said, said), said
    mend, line = case.then if isinstance(case.then, tuple) else (None, case.then)
    if callable(line):
        mend, line = line, case.typed
    if mend is not None:
        mend(place)
    # What is typed beside what was there stands in the message.
    for word in set(line.split()) - set(case.typed.split()):
        if word.startswith("-"):
            assert word in said, (word, said)
    code, answer = say(line, place, monkeypatch)
    assert code == 0, answer


def edit(name, old, new, encoding="utf-8"):
    def change(place):
        text = (place / name).read_bytes().decode(errors="surrogateescape")
        assert old in text
        (place / name).write_bytes(text.replace(old, new, 1).encode(encoding, errors="surrogateescape"))

    return change


def write(name, text):
    return lambda place: (place / name).write_text(text)


def remove(name):
    return lambda place: (place / name).unlink()


def tiff(name, values):
    """Return what writes a picture of any number of bands."""

    def prepare(place):
        import rasterio

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            count, height, width = values.shape
            options = {"count": count, "height": height, "width": width, "dtype": str(values.dtype)}
            with rasterio.open(place / name, "w", driver="GTiff", **options) as file:
                file.write(values)

    return prepare


scene = tiff("scene.tif", np.arange(4 * 40 * 48).reshape(4, 40, 48).astype(np.uint8))
