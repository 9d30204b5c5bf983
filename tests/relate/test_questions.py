from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyseg.errors import UserError
from manyseg.labels import ClassKey, JointClasses, LabelSpace
from manyseg.relate import Constraints, Questions, propose
from manyseg.relate.decisions import DECIDED, Decisions
from manyseg.relate.proposal import Problem, Proposal
from manyseg.relate.questions import Reply
from manyseg.runs.ask import ask

A = LabelSpace.of("a", ["road", "car", "animal", "tree"])
B = LabelSpace.of("b", ["asphalt", "auto", "horse", "bush"])
C = LabelSpace.of("c", ["way", "machine", "dog", "plant"])
MEANINGS = {
    "road": (9, 1), "asphalt": (8, 2), "way": (7, 4), "car": (-1, 9), "auto": (-2, 8), "machine": (2, 7),
    "animal": (-9, 1), "horse": (-8, -2), "dog": (-7, 0), "tree": (-1, -9), "bush": (0, -8), "plant": (2, -7),
}  # fmt: skip


def encode(texts: list[str]) -> np.ndarray:
    return np.array([next(v for k, v in MEANINGS.items() if k in t) for t in texts], np.float32)


@pytest.fixture
def problem() -> Problem:
    return Problem.of([A, B, C], "text", encode)


def shown(proposal: Proposal) -> tuple[str, object]:
    return proposal.taxonomy.to_tsv(), proposal.pairs


def kind(questions: Questions, x: ClassKey, y: ClassKey) -> str:
    turned = {"part of": "contains", "contains": "part of"}
    for p in questions.proposal.pairs:
        if (p.a, p.b) == (x, y):
            return p.kind
        if (p.a, p.b) == (y, x):
            return turned.get(p.kind, p.kind)
    return "unrelated"


def decisions(*spaces: LabelSpace, **pairs: list[tuple[ClassKey, ClassKey]]) -> set[tuple[str, str, str]]:
    classes = JointClasses(spaces)
    found = Decisions.of(Constraints(**{k: tuple(v) for k, v in pairs.items()}), classes)
    return {
        (classes.keys[x][1], sign, classes.keys[y][1])
        for sign, kept in (("<", found.within), ("|", found.apart))
        for x, y in kept
    }


# What follows from decisions.


def test_what_is_one_with_a_class_is_apart_from_the_others_of_its_dataset() -> None:
    found = decisions(A, B, C, must_link=[(("a", "road"), ("b", "asphalt")), (("b", "asphalt"), ("c", "way"))])
    assert ("road", "<", "way") in found
    assert ("way", "<", "road") in found
    assert {y for x, sign, y in found if (x, sign) == ("road", "|")} == {
        "auto", "horse", "bush", "machine", "dog", "plant",
    }  # fmt: skip
    assert not any(x == "car" and sign == "<" for x, sign, _ in found)


def test_a_part_of_a_part_is_a_part_and_no_part_of_what_excludes_it() -> None:
    found = decisions(A, B, C, part_of=[(("b", "horse"), ("a", "animal")), (("c", "dog"), ("b", "horse"))])
    assert {(x, y) for x, sign, y in found if sign == "<"} == {
        ("horse", "animal"), ("dog", "horse"), ("dog", "animal"),
    }  # fmt: skip
    assert ("dog", "|", "tree") in found
    assert ("dog", "|", "auto") in found
    # A whole may hold several classes of one dataset.
    assert ("animal", "|", "auto") not in found


def test_what_is_apart_from_a_class_is_apart_from_its_parts_and_from_what_is_one_with_it() -> None:
    found = decisions(
        A,
        B,
        C,
        must_link=[(("a", "road"), ("c", "way"))],
        part_of=[(("c", "dog"), ("b", "horse"))],
        cannot_link=[(("a", "road"), ("b", "horse"))],
    )
    assert {("way", "|", "horse"), ("horse", "|", "way"), ("road", "|", "dog")} <= found


@pytest.mark.parametrize("name", ["cannot_link", "part_of"])
def test_a_contradiction_is_an_error_that_names_the_classes(name: str) -> None:
    road, asphalt, way = ("a", "road"), ("b", "asphalt"), ("c", "way")
    with pytest.raises(UserError, match=r"(road|way) and .* are linked and parted"):
        decisions(A, B, C, must_link=[(road, asphalt), (asphalt, way)], **{name: [(road, way)]})


def test_what_was_said_outweighs_every_evidence_and_counts_for_what_is_probably_the_same() -> None:
    classes = JointClasses((A, B, C))
    found = Decisions.of(Constraints(cannot_link=((("a", "road"), ("b", "horse")),)), classes)
    road, way, horse, dog = (classes.positions[k] for k in (("a", "road"), ("c", "way"), ("b", "horse"), ("c", "dog")))
    odds = np.zeros((12, 12))
    odds[road, way] = odds[way, road] = 3.0
    out = found.pin(odds, [(road, way)])
    assert out[road, horse] == out[horse, road] == -DECIDED
    assert out[way, horse] < -2 < 0 == pytest.approx(out[dog, horse])


# The file.


def test_decisions_of_every_kind_survive_their_file(tmp_path: Path) -> None:
    strange = LabelSpace.of("s", ["x = y", 'a "b"', "p < q", "back\\slash"])
    keys = [("s", n) for n in strange.names]
    given = Constraints(
        must_link=((keys[0], ("a", "car")),),
        cannot_link=((keys[1], ("b", "auto")), (("a", "tree"), keys[3])),
        part_of=((keys[2], ("a", "road")),),
        unsure=((("a", "road"), ("b", "horse")),),
    )
    (tmp_path / "c.toml").write_text(given.to_toml(), encoding="utf-8")
    assert Constraints.read(tmp_path / "c.toml", [A, B, strange]) == given


def test_a_part_is_kept_by_a_later_proposal_and_its_node_is_the_wholes_too() -> None:
    part = Constraints(part_of=((("b", "bush"), ("a", "road")),))
    found = propose([A, B], by="text", encode=encode, constraints=part)
    taxonomy = found.taxonomy
    a, b = (taxonomy.relations[n][s.positions[c]] for n, s, c in (("a", A, "road"), ("b", B, "bush")))
    assert (a & b).any()
    assert (a & ~b).any()
    (pair,) = (p for p in found.pairs if {p.a[1], p.b[1]} == {"bush", "road"})
    assert pair.kind == "contains"


def test_unsure_changes_nothing_but_is_not_asked_again(problem: Problem) -> None:
    unsure = Constraints(unsure=((("a", "road"), ("c", "way")),))
    assert shown(problem.solve(unsure)) == shown(problem.solve(Constraints()))
    questions = Questions(problem, unsure)
    classes = problem.classes
    assert questions.wrong()[classes.positions["a", "road"], classes.positions["c", "way"]] == 0


# Questions.


def test_answers_change_the_proposal_at_once_and_undo_takes_them_back(problem: Problem) -> None:
    questions = Questions(problem)
    before = shown(questions.proposal)
    questions.answer(("a", "road"), {("b", "asphalt"): "none", ("c", "plant"): "same", ("b", "bush"): "part"})
    assert kind(questions, ("a", "road"), ("b", "asphalt")) == "unrelated"
    assert kind(questions, ("a", "road"), ("c", "plant")) == "equal"
    assert kind(questions, ("b", "bush"), ("a", "road")) == "part of"
    assert questions.undo()
    assert shown(questions.proposal) == before
    assert not questions.undo()


def test_a_reply_that_contradicts_is_refused_and_changes_nothing(problem: Problem) -> None:
    questions = Questions(problem)
    questions.answer(("a", "road"), {("b", "asphalt"): "same", ("c", "way"): "same"})
    before = (questions.constraints, shown(questions.proposal))
    with pytest.raises(UserError, match="linked and parted"):
        questions.answer(("b", "asphalt"), {("c", "way"): "none"})
    assert (questions.constraints, shown(questions.proposal)) == before


@pytest.mark.parametrize("parted", [(("c", "way"), ("a", "road")), (("a", "road"), ("c", "way"))])
def test_what_is_apart_is_neither_a_part_nor_the_whole_of_what_is_equal_to_it(
    problem: Problem, parted: tuple[tuple[str, str], tuple[str, str]]
) -> None:
    questions = Questions(problem)
    questions.answer(("a", "road"), {("b", "asphalt"): "same"})
    questions.answer(parted[0], {parted[1]: "none"})
    before = (questions.constraints, shown(questions.proposal))
    for about, key in ((("c", "way"), ("b", "asphalt")), (("b", "asphalt"), ("c", "way"))):
        with pytest.raises(UserError, match="linked and parted"):
            questions.answer(about, {key: "part"})
    assert (questions.constraints, shown(questions.proposal)) == before


def test_the_last_reply_about_a_pair_counts(problem: Problem) -> None:
    questions = Questions(problem)
    questions.answer(("a", "road"), {("b", "asphalt"): "none"})
    questions.answer(("b", "asphalt"), {("a", "road"): "same"})
    assert questions.constraints == Constraints(must_link=((("b", "asphalt"), ("a", "road")),))


@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11), st.sampled_from(["same", "none", "part"])), max_size=6)
)
def test_every_answer_is_kept_and_undo_of_all_gives_the_first_proposal(
    said: list[tuple[int, int, Reply]],
) -> None:
    problem = Problem.of([A, B, C], "text", encode)
    questions = Questions(problem)
    first, keys = shown(questions.proposal), problem.classes.keys
    for x, y, reply in said:
        if keys[x][0] != keys[y][0]:
            try:
                questions.answer(keys[x], {keys[y]: reply})
            except UserError:
                continue
    for name in ("must_link", "part_of"):
        for x, y in getattr(questions.constraints, name):
            assert kind(questions, x, y) == ("equal" if name == "must_link" else "part of")
    for x, y in questions.constraints.cannot_link:
        assert kind(questions, x, y) == "unrelated"
    while questions.undo():
        pass
    assert shown(questions.proposal) == first


def test_questions_end_and_each_asks_what_is_still_open(problem: Problem) -> None:
    questions, asked, changes = Questions(problem, width=3), set(), []
    while (question := questions.next()) is not None:
        pairs = {frozenset((question.about, c.key)) for c in question.candidates}
        assert 0 < len(pairs) <= 3
        assert not pairs & asked
        asked |= pairs
        changes.append(question.change)
        questions.answer(question.about, dict.fromkeys((c.key for c in question.candidates), "unknown"))
    assert asked
    assert all(x >= y for x, y in pairwise(changes))


# On the terminal.


def talk(problem: Problem, file: Path, *lines: str, count: int = 5) -> tuple[int, Constraints]:
    left = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    given = ask(Questions(problem, width=1), file, count, read)
    return given, Constraints.read(file, problem.spaces) if file.exists() else Constraints()


def test_letters_answer_and_the_file_has_every_answer_so_far(problem: Problem, tmp_path: Path) -> None:
    first = Questions(problem, width=1).next()
    assert first is not None
    given, kept = talk(problem, tmp_path / "c.toml", "n", "q", "n")
    assert given == 1
    assert kept == Constraints(cannot_link=tuple((first.about, c.key) for c in first.candidates))


def test_undo_wrong_lines_and_the_end_of_the_input(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, kept = talk(problem, tmp_path / "c.toml", "yyyyy", "x", "?", "u")
    assert (given, kept) == (0, Constraints())
    assert capsys.readouterr().out.count("is no answer") == 2


def test_no_more_questions_than_asked_for(problem: Problem, tmp_path: Path) -> None:
    assert talk(problem, tmp_path / "c.toml", "?", "?", "?", count=2)[0] == 2
