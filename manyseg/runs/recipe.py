"""A recipe: which data, model and method, trained how; strict, and resolved into the stages that a run goes through."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from manyseg.config import check, close, keywords, override, read_toml
from manyseg.data.card import builtin_cards
from manyseg.data.mixture import DataOptions
from manyseg.errors import UserError
from manyseg.inference.options import TestOptions
from manyseg.labels import LabelSpace
from manyseg.methods import METHODS, Method
from manyseg.models import PixelEncoder
from manyseg.training.loop import TrainOptions

__all__ = ["Recipe", "Stage", "StageOptions", "build_method", "read_recipe", "statistics_file"]

STAGE = "stage:"
"""`taxonomy = "stage:<name>"` stands for the taxonomy that the named earlier stage of the same run ended with.

`statistics = "stage:<name>"` stands for the statistics that are then collected at that stage's end.
"""

STATISTICS = "statistics"

PROPOSAL = "proposal"
"""`taxonomy = "proposal"` is what `manyseg labels` proposes by text for the run's datasets, kept in the run."""


class StageOptions(BaseModel):
    """A [[stage]] table: it starts from the weights that the stage before it ended with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w-]+$", description="Name of the stage, and of its folder in the run.")
    steps: int = Field(ge=1, description="Its share of train.steps, in proportion to the other stages' steps.")
    method: dict[str, Any] = Field(
        default={}, description="Options over those of [method]; with another name, that method and its options."
    )
    train: dict[str, Any] = Field(default={}, description="Keys over those of [train].")


class Recipe(BaseModel):
    """All that a run is made from; relative paths start from the recipe's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, ge=0, description="Seeds weights, order of images and augmentation.")
    data: DataOptions
    model: dict[str, Any] = Field(default={}, description="Keywords of PixelEncoder.build.")
    method: dict[str, Any] = Field(description="name, and the keywords of that method's constructor.")
    train: TrainOptions
    test: TestOptions = TestOptions()
    stage: tuple[StageOptions, ...] = ()
    _file: Path = PrivateAttr(default=Path("recipe.toml"))

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self._file.parent

    @property
    def stages(self) -> list[Stage]:
        """What the run goes through, in order: the [[stage]] tables, or the method's own division of train.steps."""
        if self.stage:
            shares = _share([s.steps for s in self.stage], self.train.steps, self._file)
            parts = [(s.name, n, s.method, s.train) for s, n in zip(self.stage, shares, strict=True)]
        else:
            kind = _kind(self.method, self._file, ("method",))
            plans = kind.default_stages(_with_defaults(kind.__init__, self.method), self.train.model_dump())
            parts = [(p.name, p.steps, dict(p.options), dict(p.train)) for p in plans]
        return [self._stage(*part) for part in parts]

    def portable(self, folder: Path) -> tuple[dict[str, Any], dict[str, Path | None]]:
        """Return this recipe as a TOML tree for a file in `folder`, with all defaults, and the files to put there.

        Files that options of methods name (taxonomies) are copied to `files/`, so that a run needs nothing from outside
        to predict; None stands for a table that is still to be proposed. All other paths are made relative to `folder`.
        """
        tree = self.model_dump(mode="json", exclude_none=True, exclude={"stage"})
        tree["model"] = _with_defaults(PixelEncoder.build, self.model)
        kind = _kind(self.method, self._file, ("method",))
        tree["method"] = {"name": self.method["name"]} | _with_defaults(kind.__init__, self.method)
        if self.stage or len(self.stages) > 1:
            tree["stage"] = [
                {"name": s.name, "steps": s.train.steps, "method": self._spelt(s), "train": dict(s.overrides)}
                for s in self.stages
            ]
        for entry in (*tree["data"]["sets"], *tree["data"]["unseen"]):
            for key in ("root",) if entry["card"] in builtin_cards() else ("card", "root"):
                entry[key] = self._relative(entry[key], folder)
        if isinstance(tree["model"].get("pretrained"), str):
            tree["model"]["pretrained"] = self._relative(tree["model"]["pretrained"], folder)
        files: dict[str, Path | None] = {}
        for where, options in [("method", tree["method"]), *((s["name"], s["method"]) for s in tree.get("stage", []))]:
            for key, words in _paths(_kind({**self.method, **options}, self._file, ("method",))).items():
                value = options.get(key)
                if value is None or str(value).startswith(STAGE):
                    continue
                if value == PROPOSAL:
                    options[key] = _kept(where, key, ".tsv")
                    files[options[key]] = None
                elif value not in words:
                    source = self.base / value
                    if not source.is_file():
                        raise UserError(f"{self._file}: {where}.{key}: there is no file {source}")
                    options[key] = _kept(where, key, source.suffix)
                    files[options[key]] = source
        return tree, files

    def _relative(self, path: str, folder: Path) -> str:
        return Path(os.path.relpath(self.base / path, folder)).as_posix()

    def _spelt(self, stage: Stage) -> dict[str, Any]:
        """Return what a stage says of its method, with all defaults where that is another one than [method]'s."""
        if stage.same:
            return dict(stage.own)
        return {"name": stage.own["name"]} | _with_defaults(stage.kind.__init__, stage.own)

    def _stage(self, name: str, steps: int, own: dict[str, Any], overrides: dict[str, Any]) -> Stage:
        where = ("stage", name) if self.stage else ()
        # Another method's options are its own: those of [method] mean nothing to it.
        same = own.get("name", self.method.get("name")) == self.method.get("name")
        table = {**self.method, **own} if same else own
        kind = _kind(table, self._file, (*where, "method"))
        given = {k: v for k, v in table.items() if k != "name"}
        checked = check(keywords(kind.__init__, kind.__name__), given, self._file, (*where, "method"), kind.renamed)
        options = {k: getattr(checked, k) for k in given}
        for key, words in _paths(kind).items():
            value = options.get(key)
            if isinstance(value, str | Path) and value not in words and not str(value).startswith(STAGE):
                options[key] = self.base / value
        if "steps" in overrides:
            raise UserError(f"{self._file}: stage.{name}.train.steps: write the stage's steps beside its name")
        settings = self.train.model_dump() | overrides | {"steps": steps}
        schedule = check(TrainOptions, settings, self._file, (*where, "train"))
        return Stage(name, kind, options, schedule, own, overrides, same)


class Stage(NamedTuple):
    """One stage, resolved: its method with all options, paths made absolute or relative to here, and its training.

    `own` and `overrides` are what the recipe, or the method's default, says of the stage alone; `same` says whether
    its method is [method]'s.
    """

    name: str
    kind: type[Method]
    options: dict[str, Any]
    train: TrainOptions
    own: dict[str, Any]
    overrides: dict[str, Any]
    same: bool

    def reads_statistics_of(self, name: str) -> bool:
        """Say whether this stage is built from the statistics of the stage called `name`."""
        return str(self.options.get(STATISTICS)) == STAGE + name


def read_recipe(path: str | Path, overrides: Sequence[str] = (), data_root: str | Path | None = None) -> Recipe:
    """Read a recipe, replace values by `a.b=v` overrides, and check all of it against what would read it.

    Relative roots of datasets start from `data_root`, else from the recipe's `data.root`, else from the environment
    variable MANYSEG_DATA, else from the recipe's folder.
    Raises UserError with one line: the file, the key at fault, and the valid ones.
    """
    path = Path(path)
    tree = read_toml(path)
    for assignment in overrides:
        override(tree, assignment)
    _place_data(tree, data_root)
    if isinstance(tree.get("stage"), list) and isinstance(tree.setdefault("train", {}), dict):
        tree["train"].setdefault("steps", sum(int(s.get("steps", 0)) for s in tree["stage"]))
    recipe = check(Recipe, tree, path)
    recipe._file = path
    check(keywords(PixelEncoder.build, "Model"), recipe.model, path, ("model",))
    names = [s.name for s in recipe.stages]
    for i, stage in enumerate(recipe.stages):
        if stage.name in names[:i]:
            raise UserError(f"{path}: two stages are called '{stage.name}'; give one of them another name")
        for key, value in stage.options.items():
            if str(value).startswith(STAGE) and str(value).removeprefix(STAGE) not in names[:i]:
                earlier = ", ".join(names[:i]) or "none"
                raise UserError(
                    f"{path}: stage.{stage.name}.method.{key} is '{value}'; the stages before it: {earlier}"
                )
    return recipe


def _place_data(tree: dict[str, Any], data_root: str | Path | None) -> None:
    data = tree.get("data")
    if not isinstance(data, dict):
        return
    if data_root is None and "root" not in data:
        data_root = os.environ.get("MANYSEG_DATA") or None
    if data_root is not None:
        # Given where the command is run, while the recipe's own paths start from its file.
        data["root"] = os.path.abspath(data_root)


def build_method(
    recipe: Recipe, stage: Stage, spaces: Sequence[LabelSpace], folder: Path, *, pretrained: bool
) -> Method:
    """Build a stage's method with fresh weights; published ones of the backbone only where `pretrained`."""
    network = dict(recipe.model)
    if not pretrained:
        network["pretrained"] = False
    elif isinstance(network.get("pretrained"), str):
        network["pretrained"] = str(recipe.base / network["pretrained"])
    options = dict(stage.options)
    for key, value in options.items():
        if str(value).startswith(STAGE):
            place = folder / "stages" / str(value).removeprefix(STAGE)
            options[key] = statistics_file(place) if key == STATISTICS else place / "taxonomy.tsv"
    for key in [k for k, v in _with_defaults(stage.kind.__init__, options).items() if v == PROPOSAL]:
        if key in _paths(stage.kind):
            where = "method" if stage.same and key not in stage.own else stage.name
            options[key] = folder / _kept(where, key, ".tsv")
    return stage.kind(PixelEncoder.build(**network), spaces, **options)


def _kept(where: str, key: str, suffix: str) -> str:
    """Return the name, within a run's folder, of the file that an option of [method] or of a stage names."""
    return f"files/{where}-{key}{suffix}"


def statistics_file(place: Path) -> Path:
    """Return where the folder of a finished stage keeps its statistics."""
    return place / "statistics.npz"


def _kind(table: dict[str, Any], file: Path, where: Sequence[str]) -> type[Method]:
    place, name = ".".join((*where, "name")), table.get("name")
    if name not in METHODS:
        fault = f"'{name}' is no method{close(str(name), list(METHODS))}" if "name" in table else "is missing"
        raise UserError(f"{file}: {place}: {fault}; the methods are: {', '.join(METHODS)}")
    return METHODS[name]


def _paths(kind: type[Method]) -> dict[str, tuple[Any, ...]]:
    """Return the options of a method that may be paths, as their types say, and the words that are none."""
    hints = get_type_hints(kind.__init__).items()
    found = {k: (hint, *get_args(hint)) for k, hint in hints if Path in (hint, *get_args(hint))}
    return {k: tuple(w for p in parts if get_origin(p) is Literal for w in get_args(p)) for k, parts in found.items()}


def _with_defaults(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    fields = keywords(function, "Defaults").model_fields
    defaults = {k: f.default for k, f in fields.items() if not f.is_required() and f.default is not None}
    return defaults | {k: v for k, v in given.items() if k in fields}


def _share(weights: Sequence[int], total: int, file: Path) -> list[int]:
    """Scale the stages' steps so that they sum to `total`; every stage has at least one."""
    if total < len(weights):
        raise UserError(f"{file}: train.steps is {total}, too few for {len(weights)} stages; give at least one each")
    ends = [round(total * part / sum(weights)) for part in accumulate(weights)]
    ends = [min(max(end, i + 1), total - (len(weights) - 1 - i)) for i, end in enumerate(ends)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
