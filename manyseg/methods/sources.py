"""Where an option of a method takes a taxonomy or statistics from: a file, an earlier stage, a proposal, or memory.

A recipe spells a source as a text: the path of a file, `"stage:<name>"`, or `"proposal"`. The text is turned into one
of the types below when the recipe is checked, and from there on code asks for the type. Before a method is built, a
stage's results and a proposal are replaced by the files in the run's folder that hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import GetPydanticSchema, PlainSerializer, PlainValidator

from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.relate.statistics import Statistics

__all__ = [
    "PROPOSAL",
    "ProposedTaxonomy",
    "StageStatistics",
    "StageTaxonomy",
    "StatisticsSource",
    "TaxonomySource",
    "propose_by_text",
    "resolve_statistics",
    "resolve_taxonomy",
]

STAGE = "stage:"


@dataclass(frozen=True)
class StageTaxonomy:
    """The taxonomy that an earlier stage of the same run ended with; a recipe spells it `"stage:<name>"`."""

    stage: str

    def __str__(self) -> str:
        return STAGE + self.stage


@dataclass(frozen=True)
class StageStatistics:
    """The statistics of the model that an earlier stage of the same run ended with; spelt `"stage:<name>"`.

    They are collected (`evaluation.evaluate.collect`) at the end of a stage that a later one names so.
    """

    stage: str

    def __str__(self) -> str:
        return STAGE + self.stage


@dataclass(frozen=True)
class ProposedTaxonomy:
    """What `manyseg labels` proposes by text for the datasets of the run; a recipe spells it `"proposal"`.

    A run proposes it once, before it trains, and keeps the table in its folder.
    """

    def __str__(self) -> str:
        return "proposal"


PROPOSAL = ProposedTaxonomy()


def _taxonomy_source(value: object) -> Path | StageTaxonomy | ProposedTaxonomy | Taxonomy:
    if isinstance(value, Path | StageTaxonomy | ProposedTaxonomy | Taxonomy):
        return value
    if not isinstance(value, str):
        raise ValueError('give the path of a table, "proposal" or "stage:<name>"')
    if value.startswith(STAGE):
        return StageTaxonomy(value.removeprefix(STAGE))
    return PROPOSAL if value == str(PROPOSAL) else Path(value)


def _statistics_source(value: object) -> Path | StageStatistics | Statistics:
    if isinstance(value, Path | StageStatistics | Statistics):
        return value
    if not isinstance(value, str):
        raise ValueError('give the path of a file of statistics or "stage:<name>"')
    return StageStatistics(value.removeprefix(STAGE)) if value.startswith(STAGE) else Path(value)


def _read_by(function: Callable[[object], object]) -> GetPydanticSchema:
    """Return a mark of a type by which pydantic calls a function, and does not look into the type's own fields."""
    plain = Annotated[Any, PlainValidator(function), PlainSerializer(str)]
    return GetPydanticSchema(lambda _, handler: handler.generate_schema(plain))


TaxonomySource: TypeAlias = Annotated[Path | StageTaxonomy | ProposedTaxonomy | Taxonomy, _read_by(_taxonomy_source)]
"""The type of an option that is a taxonomy; `resolve_taxonomy` reads it."""

StatisticsSource: TypeAlias = Annotated[Path | StageStatistics | Statistics, _read_by(_statistics_source)]
"""The type of an option that is the statistics of a trained model; `resolve_statistics` reads it."""


def resolve_taxonomy(source: TaxonomySource | str, spaces: Sequence[LabelSpace]) -> Taxonomy:
    """Return the taxonomy of exactly these label spaces, from wherever the source says.

    Raises UserError for a table that is missing, cannot be read or does not fit, for a taxonomy in memory that relates
    other label spaces, and for a stage's taxonomy, which only a run has.
    """
    source = _taxonomy_source(source)
    if isinstance(source, Path):
        return Taxonomy.read(source, spaces)
    if isinstance(source, ProposedTaxonomy):
        return propose_by_text(spaces)
    if isinstance(source, StageTaxonomy):
        raise UserError(f"'{source}' is a stage of a run, and there is no run; give a table or a Taxonomy")
    if source.spaces != tuple(spaces):
        ours, theirs = (", ".join(s.name for s in x) for x in (spaces, source.spaces))
        why = f"the recipe those of {ours}"
        if ours == theirs:
            own, other = next((a, b) for a, b in zip(spaces, source.spaces, strict=True) if a != b)
            why = f"but '{own.name}' differs: {own.difference(other)}"
        raise UserError(f"the taxonomy relates the label spaces of {theirs}, {why}; give one of the recipe's, in order")
    return source


def resolve_statistics(source: StatisticsSource | str) -> Statistics:
    """Return the statistics, from wherever the source says.

    Raises UserError for a file that is missing or is something else, and for a stage's statistics, which only a run
    has.
    """
    source = _statistics_source(source)
    if isinstance(source, StageStatistics):
        raise UserError(f"'{source}' is a stage of a run, and there is no run; give a file or Statistics")
    return Statistics.load(source) if isinstance(source, Path) else source


def propose_by_text(spaces: Sequence[LabelSpace], encoder: str | None = None) -> Taxonomy:
    """Return what `manyseg labels` proposes by text, with parts in their wholes."""
    from manyseg.models.text import TextEncoder
    from manyseg.relate import propose

    return propose(spaces, by="text", encode=TextEncoder(encoder).encode).taxonomy
