"""From cards, a recipe or a run to a proposed label space: what `manyseg labels` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from manyseg import atomic
from manyseg.config import listed, read_toml
from manyseg.data import Folder, builtin_cards, read_card
from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.progress import progress
from manyseg.relate import (
    By,
    Constraints,
    Counts,
    PartOf,
    Problem,
    Proposal,
    Questions,
    add_mined,
    agreement,
    ask_judge,
    compatible,
    read_confusion,
    read_part_of,
)
from manyseg.relate.statistics import UNIFIED
from manyseg.runs.ask import ask
from manyseg.runs.folder import RunFolder
from manyseg.runs.proposal_text import describe_difference, describe_mined, describe_taxonomy

if TYPE_CHECKING:
    from manyseg.runs.recipe import Recipe
    from manyseg.runs.run import Run

__all__ = ["Source", "open_source", "propose_and_report", "propose_labels"]


@dataclass(frozen=True)
class Source:
    """Label spaces, the labelled images to show examples of (held-out splits), and a trained run if there is one."""

    spaces: tuple[LabelSpace, ...]
    folders: tuple[Folder, ...] = ()
    run: Run | None = None


def open_source(names: Sequence[str | Path]) -> Source:
    """Read what was named: one run's folder, one recipe, or any number of cards."""
    given = [str(n) for n in names]
    if len(given) == 1 and Path(given[0]).is_dir():
        from manyseg.runs.run import Run

        run = Run.open(given[0])
        return Source(run.spaces, _folders(run.recipe, missing_ok=True), run)
    if len(given) == 1 and given[0] not in builtin_cards() and _is_recipe(Path(given[0])):
        from manyseg.runs.recipe import parse_recipe

        folders = _folders(parse_recipe(given[0]), missing_ok=False)
        return Source(tuple(f.space for f in folders), folders)
    return Source(tuple(read_card(n).space for n in given))


def propose_labels(
    sources: str | Path | Sequence[str | Path],
    *,
    by: By | None = None,
    confusion: str | Path | None = None,
    text: str | None = None,
    constraints: str | Path | None = None,
    judged: str | Path | None = None,
) -> Proposal:
    """Propose the unified label space of cards, of a recipe's datasets, or of a run's; a single one may stand alone.

    `by` says what evidence is looked at; by default all there is: texts, and confusions where `confusion` names an npz
    file of them (arrays `a__b`) or `sources` is a run, whose heads are then asked. `text` names the text encoder (a
    Hugging Face model, by default the offline one); `constraints` is a TOML file of pairs that a person decided, and
    `judged` one of pairs that a language model decided, which holds where it does not contradict the person.
    """
    source = open_source(listed(sources))
    decided = compatible(_read(constraints, source), _read(judged, source), source.spaces)
    return _problem(source, by, confusion, text).solve(decided)


def propose_and_report(
    sources: Sequence[str | Path],
    *,
    by: By | None = None,
    confusion: Path | None = None,
    text: str | None = None,
    constraints: Path | None = None,
    questions: int = 0,
    judge: tuple[str, str | None] | None = None,
    judged: Path | None = None,
    taxonomy: Path | None = None,
    out: Path | None = None,
    html: Path | None = None,
) -> Proposal:
    """Propose as `propose_labels` does, write the table `out` and the explorer page `html`, and then print a summary.

    With `judge`, a language model (its address or folder, and its name there) is asked about all pairs in doubt before,
    and what it says added to the file `judged`; with `questions`, so many are then asked on the terminal, and the
    answers added to the file `constraints`.
    `taxonomy` is a table (made or edited by hand) that is reported in place of the proposal, with what the evidence
    says against it. Returned is what was reported.
    """
    if questions and constraints is None:
        raise UserError("--questions keeps the answers in a file; name it with --constraints, it need not exist yet")
    if judge and judged is None:
        raise UserError("--judge keeps its answers in a file; name it with --judged, it need not exist yet")
    for target in (out, html, constraints if questions else None, judged if judge else None):
        if target is not None:
            atomic.check_target(target)
    source = open_source(sources)
    table = Taxonomy.read(taxonomy, source.spaces) if taxonomy else None
    person = _read(constraints, source, new=questions > 0)
    decided = compatible(person, _read(judged, source, new=judge is not None), source.spaces)
    problem = _problem(source, by, confusion, text)
    if judge and judged:
        decided = _judged(Questions(problem, decided), person, judge, judged)
    if questions and constraints:
        asked = Questions(problem, decided)
        ask(asked, constraints, questions, judged=decided.without(person))
        decided = asked.constraints
    proposal = problem.solve(decided)
    shown = replace(proposal, taxonomy=table or proposal.taxonomy)
    mined = _mined(source.run)
    if source.run is not None and mined:
        shown = replace(shown, pairs=add_mined(shown.pairs, mined, source.run.taxonomy))
    if out is not None:
        shown.taxonomy.write(out)
    if html is not None:
        from manyseg.explorer.crops import example_crops
        from manyseg.explorer.page import write_explorer

        before = proposal.taxonomy if table else None
        write_explorer(html, shown.taxonomy, shown.pairs, example_crops(source.folders), before, decided)
    # Only now: whoever reads the summary may stop reading (`| head`), and the files are to be there all the same.
    console = Console(soft_wrap=True, highlight=False, markup=False)
    differences = describe_difference(taxonomy, agreement(table, proposal.taxonomy)) if taxonomy and table else ()
    for line in chain(differences, describe_taxonomy(shown.taxonomy, proposal.pairs), describe_mined(mined)):
        console.print(line)
    if out is not None:
        console.print(f"{out}: the table; correct it in any spreadsheet, check it by --taxonomy, train on it (manual)")
    if html is not None:
        console.print(f"{html}: the same to look at, with the reason for every merge")
    return shown


def _read(file: str | Path | None, source: Source, *, new: bool = False) -> Constraints:
    """Read a file of constraints; one that is to be written (`new`) need not be there."""
    if file is None or (new and not Path(file).exists()):
        return Constraints()
    return Constraints.read(file, source.spaces)


def _judged(questions: Questions, person: Constraints, model: tuple[str, str | None], file: Path) -> Constraints:
    """Ask a language model, and keep in `file` what it said after every request."""
    from manyseg.models.chat import chat_model

    answer = chat_model(*model)
    with progress("asking the judge", None) as done:

        def keep(constraints: Constraints) -> None:
            atomic.write(file, constraints.without(person).to_toml())
            done()

        said = ask_judge(questions, answer, keep)
    print(
        f"{file}: {said.decided} pairs decided by {model[1] or model[0]} in {said.requests} requests, {said.unknown} "
        "it cannot tell; correct the file where it is wrong"
    )
    return questions.constraints


def _problem(source: Source, by: By | None, confusion: str | Path | None, text: str | None) -> Problem:
    counts: Counts | None = read_confusion(Path(confusion), source.spaces) if confusion else None
    by = by or ("both" if counts or source.run else "text")
    if by in ("confusion", "both") and counts is None and source.run is not None:
        counts = _run_confusion(source.run, source)
    encode = None
    if by in ("text", "both"):
        from manyseg.models.text import TextEncoder

        encode = TextEncoder(text).encode
    return Problem.of(source.spaces, by, encode, counts if by in ("confusion", "both") else None)


def _is_recipe(path: Path) -> bool:
    try:
        return "data" in read_toml(path)
    except UserError:
        return False  # Then it is read as a card, which says what is wrong with it.


def _folders(recipe: Recipe, *, missing_ok: bool) -> tuple[Folder, ...]:
    out = []
    for entry in recipe.data.sets:
        try:
            out.append(entry.open_eval(recipe.base))
        except UserError:
            if not missing_ok:
                raise
    return tuple(out)


def _run_confusion(run: Run, source: Source) -> Counts:
    """Count, with the run's best weights, what each dataset's head says on the held-out images of every other."""
    from manyseg.evaluation.evaluate import collect

    if len(source.folders) < len(source.spaces):
        there = {f.space.name for f in source.folders}
        gone = ", ".join(s.name for s in source.spaces if s.name not in there)
        raise UserError(f"{run.folder}: the images of {gone} are not where the recipe says; use --by text")
    test, skip_bad = run.recipe.test, run.recipe.data.skip_bad
    counts = collect(run.load_model(), source.folders, test, heads=source.spaces, skip_bad=skip_bad).counts
    return {(a, b): matrix for (a, b), matrix in counts.items() if b != UNIFIED}


def _mined(run: Run | None) -> tuple[PartOf, ...]:
    file = None if run is None else run.folder / "relations.tsv"
    if run is not None:
        RunFolder(run.folder).check("relations.tsv")
    return read_part_of(file, run.taxonomy) if run is not None and file is not None and file.exists() else ()
