"""A recipe: which data, model and method, trained how; strict, and resolved into the stages that a run goes through."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from manyseg.config import check, keywords, merge_tables, override, read_toml, replace_values
from manyseg.data.card import builtin_cards
from manyseg.data.options import DataOptions
from manyseg.data.stores import url_of
from manyseg.errors import UserError, close
from manyseg.inference.options import TestOptions
from manyseg.labels import LabelSpace
from manyseg.methods import METHODS, find_method
from manyseg.methods.plan import StagePlan
from manyseg.methods.sources import ProposedTaxonomy, StageStatistics, StageTaxonomy
from manyseg.runs.hub import hub_address
from manyseg.training.options import TrainOptions

if TYPE_CHECKING:
    from manyseg.methods.base import Method

__all__ = ["Recipe", "RecipeSource", "Stage", "build_method", "parse_recipe", "read_recipe", "statistics_file"]


class Recipe(BaseModel):
    """All that a run is made from; relative paths start from the recipe's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, ge=0, lt=1 << 63, description="Seeds weights, order of images and augmentation.")
    start: str | None = Field(
        default=None,
        description="The folder of a run, or hf://user/name, whose weights training starts from; `--from` gives it.",
    )
    data: DataOptions
    model: dict[str, Any] = Field(default={}, description="Keywords of PixelEncoder.build.")
    method: dict[str, Any] = Field(
        default={"name": "joint"},
        description="name, and the keywords of that method's constructor; one dataset alone trains `multihead`.",
    )
    train: TrainOptions = TrainOptions()
    test: TestOptions = TestOptions()
    stage: tuple[StagePlan, ...] = ()
    _file: Path = PrivateAttr(default=Path("recipe.toml"))

    @property
    def file(self) -> Path:
        """The recipe's file."""
        return self._file

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self._file.parent

    @property
    def weights(self) -> dict[str, Path]:
        """The files of published weights that [model] names, by their keys."""
        given = {key: self.model.get(key) for key in WEIGHTS}
        return {
            key: self.base / value
            for key, value in given.items()
            if isinstance(value, str) and not value.startswith("hf:")
        }

    @property
    def stages(self) -> list[Stage]:
        """What the run goes through, in order: the [[stage]] tables, or the method's own division of train.steps."""
        if self.stage:
            shares = _share([s.steps for s in self.stage], self.train.steps, self._file)
            plans = [plan.model_copy(update={"steps": n}) for plan, n in zip(self.stage, shares, strict=True)]
        else:
            kind, settings = self._settings(self.method, ("method",))
            plans = kind.default_stages(settings, self.train)
        return [self._stage(plan) for plan in plans]

    def portable(self, folder: Path) -> tuple[dict[str, Any], dict[str, Path | None]]:
        """Return this recipe as a TOML tree for a file in `folder`, with all defaults, and the files to put there.

        Files that options of methods name (every option whose value is a `Path`) are copied to `files/`, so that a run
        needs nothing from outside to predict; None stands for a table that is still to be proposed. All other paths are
        made relative to `folder`.
        """
        from manyseg.models import PixelEncoder

        tree = self.model_dump(mode="json", exclude_none=True, exclude={"stage"})
        tree["model"] = _with_defaults(PixelEncoder.build, self.model)
        files: dict[str, Path | None] = {}
        _, settings = self._settings(self.method, ("method",), partial=bool(self.stage))
        tree["method"] = {"name": self.method["name"]} | self._spelt("method", settings, files)
        if self.stage or len(self.stages) > 1:
            tree["stage"] = [
                {"name": s.name, "steps": s.train.steps, "method": self._spelt_stage(s, files), "train": s.plan.train}
                for s in self.stages
            ]
        for entry in (*tree["data"]["sets"], *tree["data"]["unseen"]):
            for key in ("root",) if entry["card"] in builtin_cards() else ("card", "root"):
                entry[key] = self._relative(entry[key], folder)
        for key in self.weights:
            tree["model"][key] = self._relative(tree["model"][key], folder)
        if self.start is not None and hub_address(self.start) is None:
            tree["start"] = self._relative(self.start, folder)
        return tree, files

    def going_on(self, before: Recipe, kind: type[Method] | None, run: str) -> Recipe:
        """Return this recipe for going on from a `run` of the recipe `before`, whose last stage's method was a `kind`.

        Without a [model] table the network is that of the run. Stages are left out before the first one of this kind
        that is built from nothing that earlier stages give. Raises UserError where [model] describes another network.
        """
        from manyseg.models import PixelEncoder

        theirs, model = before.model, dict(self.model)
        if "model" not in self.model_fields_set:
            model = {k: v for k, v in theirs.items() if k not in WEIGHTS}
        ours = _with_defaults(PixelEncoder.build, model)
        theirs = _with_defaults(PixelEncoder.build, theirs)
        for key in sorted({*ours, *theirs} - {*WEIGHTS, *REGIME}):
            if ours.get(key) != theirs.get(key):
                raise UserError(
                    f"{self._file}: model.{key} is {ours.get(key)!r}, that of {run} {theirs.get(key)!r}; go on with "
                    "the same network: leave [model] out, or copy the run's"
                )
        stages = self.stages
        earlier = (StageTaxonomy, StageStatistics)
        fitting = (
            i
            for i, stage in enumerate(stages)
            if stage.kind is kind and not any(isinstance(value, earlier) for value in stage.values().values())
        )
        first = next(fitting, 0)
        plans = tuple(s.plan.model_copy(update={"train": _alone(s.plan.train)}) for s in stages[first:])
        return self.model_copy(update={"model": model} | ({"stage": plans} if first else {}))

    def _relative(self, path: str, folder: Path) -> str:
        if url_of(path) is not None:
            return path
        return Path(os.path.relpath(self.base / path, folder)).as_posix()

    def _spelt_stage(self, stage: Stage, files: dict[str, Path | None]) -> dict[str, Any]:
        """Return what a stage says of its method, with all defaults where that is another one than [method]'s."""
        name = {"name": stage.plan.method["name"]} if "name" in stage.plan.method else {}
        spelt = self._spelt(stage.name, stage.settings, files, stage.plan.method if stage.same else None)
        return name | spelt

    def _spelt(
        self, where: str, settings: BaseModel, files: dict[str, Path | None], only: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Return options (those that `only` names, or all) as plain values, and add the files that they need."""
        wanted = set(type(settings).model_fields if only is None else only)

        def place(keys: tuple[str, ...], value: Any) -> Any:
            if keys[0] not in wanted or not isinstance(value, Path | ProposedTaxonomy):
                return value
            if isinstance(value, Path) and not value.is_file():
                raise UserError(f"{self._file}: {'.'.join((where, *keys))}: there is no file {value}; correct its name")
            source = value if isinstance(value, Path) else None
            kept = _kept(where, keys, ".tsv" if source is None else source.suffix)
            files[kept] = source
            return Path(kept)

        return replace_values(settings, place).model_dump(mode="json", exclude_none=True, include=wanted)

    def _settings(
        self, table: Mapping[str, Any], where: tuple[str, ...], *, partial: bool = False
    ) -> tuple[type[Method], BaseModel]:
        """Return the method that a table names, and its options, checked, with paths from the recipe's folder on.

        With `partial` options without a default may be missing, as in a [method] table that stages complete.
        """
        kind = find_method(_method_name(table, self._file, where))
        given = {k: v for k, v in table.items() if k != "name"}
        schema = keywords(kind, kind.__name__, partial=partial)
        checked = check(schema, given, self._file, where, kind.renamed)
        return kind, replace_values(checked, lambda _, value: self.base / value if isinstance(value, Path) else value)

    def _stage(self, plan: StagePlan) -> Stage:
        where = ("stage", plan.name) if self.stage else ()
        # Another method's options are its own: those of [method] mean nothing to it.
        same = plan.method.get("name", self.method.get("name")) == self.method.get("name")
        table = merge_tables(self.method, plan.method) if same else plan.method
        kind, settings = self._settings(table, (*where, "method"))
        if "steps" in plan.train:
            raise UserError(f"{self._file}: stage.{plan.name}.train.steps: write the stage's steps beside its name")
        schedule = self.train.model_dump() | plan.train | {"steps": plan.steps}
        return Stage(plan, kind, settings, check(TrainOptions, schedule, self._file, (*where, "train")), same)


class Stage(NamedTuple):
    """One stage, resolved: its method with all options, paths made absolute or relative to here, and its training.

    `plan` is what the recipe, or the method's own division, says of the stage alone; `same` says whether its method is
    [method]'s.
    """

    plan: StagePlan
    kind: type[Method]
    settings: BaseModel
    train: TrainOptions
    same: bool

    @property
    def name(self) -> str:
        """The name of the stage, and of its folder in the run."""
        return self.plan.name

    @property
    def options(self) -> dict[str, Any]:
        """The options of the method that are given, in the recipe or by the method's own division."""
        return {k: v for k, v in self.settings if k in self.settings.model_fields_set}

    def values(self) -> dict[str, object]:
        """Return the values of all options, those in tables of options too, by their dotted keys."""
        found: dict[str, object] = {}
        replace_values(self.settings, lambda keys, value: found.setdefault(".".join(keys), value))
        return found

    def reads_statistics_of(self, name: str) -> bool:
        """Say whether this stage is built from the statistics of the stage called `name`."""
        return any(value == StageStatistics(name) for value in self.values().values())


RecipeSource: TypeAlias = str | Path | Mapping[str, Any]
"""A recipe's file, or its tables from Python: then messages call it `recipe`, and paths start where Python was."""


def read_recipe(source: RecipeSource, overrides: Sequence[str] = (), data_root: str | Path | None = None) -> Recipe:
    """Read a recipe, replace values by `a.b=v` overrides, and check all of it against what would read it.

    Relative roots of datasets start from `data_root`, else from the recipe's `data.root`, else from the environment
    variable MANYSEG_DATA, else from the recipe's folder.
    Raises UserError with one line: the file, the key at fault, and the valid ones.
    """
    recipe = parse_recipe(source, overrides, data_root)
    from manyseg.models import PixelEncoder

    path = recipe.file
    check(keywords(PixelEncoder.build, "Model"), recipe.model, path, ("model",))
    names = [s.name for s in recipe.stages]
    for i, stage in enumerate(recipe.stages):
        if stage.name in names[:i]:
            raise UserError(f"{path}: two stages are called '{stage.name}'; give one of them another name")
        for key, value in stage.values().items():
            if isinstance(value, StageTaxonomy | StageStatistics) and value.stage not in names[:i]:
                earlier = ", ".join(names[:i]) or "none"
                raise UserError(
                    f"{path}: stage.{stage.name}.method.{key} is '{value}'; the stages before it: {earlier}; name one"
                )
    return recipe


def parse_recipe(source: RecipeSource, overrides: Sequence[str] = (), data_root: str | Path | None = None) -> Recipe:
    """Read a recipe as `read_recipe` does, but leave the options of model and methods unchecked.

    These are checked against the classes that take them, which load the deep-learning framework: all other mistakes are
    found before that takes its time.
    """
    path = Path(source) if isinstance(source, str | Path) else Path("recipe")
    tree = read_toml(path) if isinstance(source, str | Path) else copy.deepcopy(dict(source))
    for assignment in overrides:
        override(tree, assignment)
    _place_data(tree, data_root)
    if isinstance(tree.get("stage"), list) and isinstance(tree.setdefault("train", {}), dict):
        tree["train"].setdefault("steps", sum(int(s.get("steps", 0)) for s in tree["stage"]))
    recipe = check(Recipe, tree, path)
    recipe._file = path
    _method_name(recipe.method, path, ("method",))
    for stage in recipe.stage:
        if "name" in stage.method:
            _method_name(stage.method, path, ("stage", stage.name, "method"))
    return recipe


def _place_data(tree: dict[str, Any], data_root: str | Path | None) -> None:
    data = tree.get("data")
    if not isinstance(data, dict):
        return
    if data_root is None and "root" not in data:
        data_root = os.environ.get("MANYSEG_DATA") or None
    if data_root is not None:
        # Given where the command is run, while the recipe's own paths start from its file.
        data["root"] = url_of(data_root) or os.path.abspath(data_root)


def build_method(
    recipe: Recipe, stage: Stage, spaces: Sequence[LabelSpace], folder: Path | None, *, pretrained: bool
) -> Method:
    """Build a stage's method with fresh weights; published ones of the backbone only where `pretrained`.

    `folder` is the run's, whose files hold what earlier stages and the proposal gave. Without one a proposal is made
    anew, and the stage must need nothing of an earlier one.
    """
    from manyseg.models import PixelEncoder

    network = recipe.model | {key: str(path) for key, path in recipe.weights.items()}
    if not pretrained:
        network = PixelEncoder.without_weights(network)

    def place(keys: tuple[str, ...], value: Any) -> Any:
        if folder is None:
            return value
        if isinstance(value, StageTaxonomy):
            return folder / "stages" / value.stage / "taxonomy.tsv"
        if isinstance(value, StageStatistics):
            return statistics_file(folder / "stages" / value.stage)
        if isinstance(value, ProposedTaxonomy):
            own = not stage.same or keys[0] in stage.plan.method
            return folder / _kept(stage.name if own else "method", keys, ".tsv")
        return value

    options = dict(replace_values(stage.settings, place))
    return stage.kind(PixelEncoder.build(**network), spaces, **options)


WEIGHTS = ("pretrained", "init")
"""Keys of [model] that may have the path of weights."""

REGIME = ("checkpointing", "drop_path", "frozen_batch_norm")
"""Keys of [model] that say how it is trained, and change none of its tensors."""


def _kept(where: str, keys: Sequence[str], suffix: str) -> str:
    """Return the name, within a run's folder, of the file that an option of [method] or of a stage names."""
    return f"files/{'-'.join((where, *keys))}{suffix}"


def statistics_file(place: Path) -> Path:
    """Return where the folder of a finished stage keeps its statistics."""
    return place / "statistics.npz"


def _method_name(table: Mapping[str, Any], file: Path, where: Sequence[str]) -> str:
    """Return the name of the method that a table names, or say which there are."""
    place, name = ".".join((*where, "name")), table.get("name")
    if isinstance(name, str) and (name in METHODS or ":" in name):
        return name
    fault = f"'{name}' is no method{close(str(name), list(METHODS))}" if "name" in table else "is missing"
    raise UserError(
        f"{file}: {place}: {fault}; the methods are: {', '.join(METHODS)}, or package.module:Class of your own"
    )


def _with_defaults(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    fields = keywords(function, "Defaults").model_fields
    defaults = {k: f.default for k, f in fields.items() if not f.is_required() and f.default is not None}
    return defaults | {k: v for k, v in given.items() if k in fields}


def _alone(train: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's keys over [train] without those that divide one schedule among stages."""
    return {k: v for k, v in train.items() if k not in ("before", "after", "warmup")}


def _share(weights: Sequence[int], total: int, file: Path) -> list[int]:
    """Scale the stages' steps so that they sum to `total`; every stage has at least one."""
    if total < len(weights):
        raise UserError(f"{file}: train.steps is {total}, too few for {len(weights)} stages; give at least one each")
    ends = [round(total * part / sum(weights)) for part in accumulate(weights)]
    ends = [min(max(end, i + 1), total - (len(weights) - 1 - i)) for i, end in enumerate(ends)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
