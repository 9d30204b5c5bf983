"""The errors that end a command in one line: a user's mistake or broken data, and a signal."""

import difflib
from collections.abc import Sequence
from signal import Signals

__all__ = ["Interrupted", "UserError", "close", "counted"]


class UserError(Exception):
    """Data, a recipe or a run is at fault; the message is one line: what, where (file, value, count), what to do.

    Whatever would break the line, such as a name that a file holds, is a space in it. The command line prints the
    message without a traceback and exits with 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in message))


class Interrupted(KeyboardInterrupt):
    """A signal, Ctrl-C or another one, ended a run; the message says what is saved and how to go on.

    `signal` is its number and `status` what a process that it ended exits with: 130 for Ctrl-C.
    """

    def __init__(self, signal: int, message: str | None = None) -> None:
        super().__init__(f"stopped by {Signals(signal).name}" if message is None else message)
        self.signal, self.status = signal, 128 + signal


def close(word: str, known: Sequence[str]) -> str:
    """Return `, did you mean '...'?` for the nearest known word, or nothing."""
    found = difflib.get_close_matches(word, known, n=1) if len(word) <= 100 else []
    return f", did you mean '{found[0]}'?" if found else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s unless it is one: "1 kind", "2 kinds"."""
    return f"{number} {noun}{'s' * (number != 1)}"
