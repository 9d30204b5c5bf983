"""Questions to a person on the terminal; every answer is in the file of constraints before the next question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from manyseg import atomic
from manyseg.errors import UserError
from manyseg.labels import ClassKey
from manyseg.relate import Constraints, Question, Questions, Reply

__all__ = ["ask"]

LETTERS: dict[str, Reply] = {"y": "same", "n": "none", "p": "part", "w": "whole", "?": "unknown"}

HELP = (
    "A letter for each class, in order, or one for all: y the same, n neither same nor part, p a part of it, "
    "w holds it, ? don't know. Or: u undo, q save and quit"
)


def ask(
    questions: Questions,
    file: Path,
    count: int,
    read: Callable[[str], str] = input,
    judged: Constraints | None = None,
) -> int:
    """Ask up to `count` questions, keep the answers in `file`, and return how many were given.

    `judged` is what was decided by others, which is not written. `read` shows a prompt and returns a line, or raises
    EOFError at the end of the input, which is as good as "q".
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(HELP)
    given = 0
    while given < count:
        question = questions.next()
        if question is None:
            console.print("nothing is left to ask: every pair is decided, or sure by the evidence")
            break
        _show(console, question, given, count, questions)
        try:
            line = read("> ").strip().lower().replace(" ", "")
        except EOFError:
            break
        if line == "q":
            break
        if line == "u":
            given -= questions.undo()
        elif len(line) not in (1, len(question.candidates)) or set(line) - LETTERS.keys():
            console.print(f"'{line}' is no answer. {HELP}")
            continue
        else:
            letters = line * len(question.candidates) if len(line) == 1 else line
            replies = {c.key: LETTERS[k] for c, k in zip(question.candidates, letters, strict=True)}
            try:
                questions.answer(question.about, replies)
            except UserError as e:
                console.print(f"{e}; answer again, or undo")
                continue
            given += 1
        atomic.write(file, questions.constraints.without(judged or Constraints()).to_toml())
    console.print(f"{file}: what you decided, {given} answers; a later proposal keeps it with --constraints {file}")
    return given


def _show(console: Console, question: Question, given: int, count: int, questions: Questions) -> None:
    about = {(s.name, c.name): c.description for s in questions.problem.spaces for c in s.classes}

    def named(key: ClassKey) -> str:
        return f"{':'.join(key)}{f' ({about[key]})' if about[key] else ''}"

    console.print(f"\n{given + 1} of {count}: {named(question.about)}")
    if question.same:
        console.print(f"   so far one with {', '.join(':'.join(k) for k in question.same)}")
    for number, c in enumerate(question.candidates, 1):
        console.print(f"   {number}  {named(c.key)}   now: {c.kind} {c.score:.2f}")
