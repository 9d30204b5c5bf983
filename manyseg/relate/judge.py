"""A language model as the judge of pairs of classes that the evidence leaves in doubt.

It is asked as a person is (`questions`), several questions at a time, and gets names and descriptions of classes and
nothing else. What it says counts as decided, below what a person decided.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast, get_args

from manyseg.errors import UserError
from manyseg.labels import ClassKey, JointClasses, LabelSpace
from manyseg.relate.constraints import KEYS, Constraints
from manyseg.relate.decisions import Decisions
from manyseg.relate.questions import Question, Questions, Reply

__all__ = ["Answer", "Judged", "ask_judge", "compatible"]

Answer = Callable[[str, str], str]
"""Takes what the model is to do and what it is asked, and gives what it says."""

DOUBT = 0.1
"""Pairs are asked about that the proposal is wrong about with at least this probability."""

AT_ONCE = 10
"""Questions of one request."""

TRIES = 2
"""How often a request is made whose answer cannot be read."""

TASK = """\
You compare classes of datasets for image segmentation. A class stands for the pixels that annotators give it in \
images. Every question has one class and a list of candidates, classes of other datasets. Say of each candidate:
"same": both label the same things;
"part": all that the candidate labels, the class would label too, and the class labels more;
"whole": all that the class labels, the candidate would label too, and the candidate labels more;
"none": neither of these;
"unknown": it cannot be told from what is given.
Answer with one JSON object and nothing else: for the number of every question, a list with one of these words for \
each candidate, in their order, as in {"1": ["same", "none"], "2": ["part"]}."""


class Judged(NamedTuple):
    """What a judge did: the number of requests, of pairs that it decided, and of those that it could not tell."""

    requests: int
    decided: int
    unknown: int


def ask_judge(questions: Questions, answer: Answer, keep: Callable[[Constraints], None]) -> Judged:
    """Ask about all pairs in doubt, until none is left; `keep` is called with all constraints after every request.

    An answer that is none of the words, all those to a question that has another number of candidates, and one that
    contradicts what was decided before count as "unknown", so that nobody asks again. Raises UserError where the model
    gives no readable answer at all.
    """
    asked, decided, unknown = 0, 0, 0
    while batch := questions.batch(AT_ONCE, DOUBT):
        replies = _replies(batch, questions.problem.spaces, answer)
        asked += 1
        for question, said in zip(batch, replies, strict=True):
            kept = _give(questions, question.about, said)
            unknown += kept.count("unknown")
            decided += len(kept) - kept.count("unknown")
        keep(questions.constraints)
    return Judged(asked, decided, unknown)


def compatible(decided: Constraints, judged: Constraints, spaces: Sequence[LabelSpace]) -> Constraints:
    """Return what was decided, and of what was judged all that does not contradict it, in order."""
    classes = JointClasses(tuple(spaces))
    together = decided.joined(judged)
    try:
        Decisions.of(together, classes)
        return together
    except UserError:
        Decisions.of(decided, classes)  # What a person decided has to hold by itself.
    for name in KEYS:
        for pair in getattr(judged, name):
            more = decided.joined(Constraints(**{name: (pair,)}))
            try:
                Decisions.of(more, classes)
            except UserError:
                continue
            decided = more
    return decided


def _give(questions: Questions, about: ClassKey, said: dict[ClassKey, Reply]) -> list[Reply]:
    """Answer a question; return what was kept of the answer."""
    try:
        questions.answer(about, said)
        return [*said.values()]
    except UserError:
        if len(said) > 1:
            return [kept for key, reply in said.items() for kept in _give(questions, about, {key: reply})]
        return _give(questions, about, dict.fromkeys(said, "unknown"))


def _replies(batch: Sequence[Question], spaces: Sequence[LabelSpace], answer: Answer) -> list[dict[ClassKey, Reply]]:
    about = {(s.name, c.name): {"name": c.name, "description": c.description} for s in spaces for c in s.classes}
    shown = {k: {n: v for n, v in entry.items() if v} for k, entry in about.items()}
    asked = json.dumps(
        [
            {"question": number, "class": shown[q.about], "candidates": [shown[c.key] for c in q.candidates]}
            for number, q in enumerate(batch, 1)
        ],
        ensure_ascii=False,
        indent=1,
    )
    text = ""
    for _ in range(TRIES):
        text = answer(TASK, asked)
        found = _read(text)
        if any(str(number) in found for number, _ in enumerate(batch, 1)):
            return [_words(q, found.get(str(number))) for number, q in enumerate(batch, 1)]
    begin = " ".join(text.split())[:80]
    raise UserError(
        f"the judge's answer to {len(batch)} questions is no JSON object with the number of one: '{begin}'; take a "
        "model that follows such instructions (what it answered before is kept)"
    )


def _read(text: str) -> dict[str, object]:
    """Return the JSON object within a text; an empty one where there is none."""
    try:
        found = json.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _words(question: Question, said: object) -> dict[ClassKey, Reply]:
    # With a word too few or too many nobody knows which candidate each is about.
    words = said if isinstance(said, list) and len(said) == len(question.candidates) else []
    words = words or ["unknown"] * len(question.candidates)
    return {
        c.key: cast(Reply, w) if w in get_args(Reply) else "unknown"
        for c, w in zip(question.candidates, words, strict=True)
    }
