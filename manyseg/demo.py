"""The whole thing on a generated world whose true unified space is known: train, evaluate, compare, report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manyseg import atomic
from manyseg.data.world import World, write_world
from manyseg.errors import UserError
from manyseg.labels import Taxonomy
from manyseg.methods import METHODS
from manyseg.models.text import has_offline_encoder
from manyseg.relate import agreement
from manyseg.report.compare import compare
from manyseg.runs.propose import propose_and_report
from manyseg.runs.run import Run, train_recipe
from manyseg.runs.trained import predict_run

__all__ = ["recipe_of_world", "run_demo"]

MARK = "written by manyseg demo"

RECIPE = """\
# A recipe of the generated world; those of a demo differ in [method] only, or are of one dataset alone.
seed = {seed}

[data]
crop = [96, 128]
scale = [0.8, 1.4]
workers = 1
sets = [
{sets}]
unseen = [{unseen}]

[model]
backbone = "tiny"
pretrained = false
channels = 48

[method]
{method}

[train]
steps = {steps}
lr = 5e-3
backbone_lr_factor = 1.0
eval_every = {eval_every}
"""

SET = '    {{ card = "world/{name}.toml", root = "world/{name}", per_step = 2, statistics_split = "train" }},\n'

DATASETS = ("fine", "coarse", "partial")
"""The datasets that are trained on; each has a model of its own too, as the baseline."""

UNSEEN = ' { card = "world/unseen.toml", root = "world/unseen" } '

PROPOSED = "labels"
"""The label space that is proposed once the heads are trained: the table that htss learns, and its page."""

OPTIONS = {
    "manual": 'taxonomy = "world/{truth}"',
    "htss": f'taxonomy = "{PROPOSED}.tsv"',
    # Words are encoded once and the decoder is small: with the defaults a step takes six times as long on a CPU.
    "lmseg": "prompt_tokens = 0\nqueries = 30\nblocks = 3",
    # Label vectors are learned, so that it needs no text encoder; the width is for two dozen labels, the log-sum-exp
    # recovers more of the planted relations than the paper's sum.
    "autouniseg": 'combine = "lse"\ngraph = {{ features = "learned", hidden = 256 }}',
}
"""What methods need beside their defaults."""

NEXT = (
    ("manyseg init data/one data/two", "cards and recipe.toml from your folders"),
    ("manyseg labels recipe.toml --html labels.html", "what their labels mean together: look, and correct it"),
    ("manyseg train recipe.toml --out runs/first", "one model of all of them"),
)
"""What to type after the demo."""

STEPS = 300

console = Console(soft_wrap=True, highlight=False)


def run_demo(out: str | Path, *, steps: int = STEPS, images: int = 60) -> Path:
    """Write the world to `out`, train every method on it for `steps` steps, and return the comparing report.

    A folder that an earlier demo wrote is replaced; any other is refused.
    """
    out = Path(out)
    start = time.monotonic()
    _claim(out)
    world = write_world(out / "world", train=images, val=images // 3)
    console.print(f"{out / 'world'}: a generated street world; three datasets whose labels disagree, and one unseen")
    alone = []
    for name in DATASETS:
        recipe = out / f"{name}.toml"
        atomic.write(recipe, recipe_of_world('name = "multihead"', [name], steps))
        console.rule(f"[bold]{name} alone", align="left")
        alone.append(train_recipe(recipe, out=out / "runs" / f"{name}-alone"))
    runs: dict[str, Path] = {}
    encoder = has_offline_encoder()
    for name in METHODS:
        # The last two stages of autouniseg are this one.
        if name == "unified_nodes":
            continue
        if name == "lmseg" and not encoder:
            console.print(
                f'{name}: left out, it reads words and no text encoder is there; pip install "manyseg[offline]"'
            )
            continue
        recipe = out / f"{name}.toml"
        option = OPTIONS.get(name, "").format(truth=world.truth.name)
        if name == "joint" and not encoder:
            option = 'taxonomy = "names"'
        atomic.write(recipe, recipe_of_world(f'name = "{name}"\n{option}'.strip(), DATASETS, steps))
        console.rule(f"[bold]{name}", align="left")
        runs[name] = train_recipe(recipe, out=out / "runs" / name)
        if name == "multihead":
            console.rule("[bold]labels", align="left")
            table, page = (out / f"{PROPOSED}.{kind}" for kind in ("tsv", "html"))
            propose_and_report([runs[name]], by="both" if encoder else "confusion", out=table, html=page)
    shown = _best(runs)
    predict_run(shown, [world.folder / "unseen" / "images"], labels="unified", out=out / "predictions")
    comparison = compare([*alone, *runs.values()])
    report = out / "report.html"
    atomic.write(report, comparison.to_html())
    console.rule("[bold]all methods", align="left")
    console.print(comparison.to_table())
    console.print(_recovery(runs, out / f"{PROPOSED}.tsv", world))
    console.print(f"{time.monotonic() - start:.0f} s in all. Open these:")
    for path, what in (
        (report, "the methods side by side"),
        (shown / "report.html", f"one run ({shown.name}) in full: curves, classes, confusions, pictures"),
        (
            out / f"{PROPOSED}.html",
            "the label space proposed from names, texts and confusions, with the reasons",
        ),
        (out / "predictions", "masks and overlays of the unseen camera in the unified labels"),
        (f"manyseg serve {shown}", "a page for photos, in the labels of every dataset"),
        (out / f"{PROPOSED}.tsv", "the same as a table; correct it and train on it with the methods manual or htss"),
    ):
        console.print(f"  {path}: {what}")
    console.print(f"[bold]{comparison.result}")
    console.print("With your own data:")
    for command, what in NEXT:
        console.print(f"  {command}  # {what}")
    return report


def recipe_of_world(method: str, datasets: Sequence[str], steps: int, seed: int = 0) -> str:
    """Return a recipe for `datasets` of the world that lies in `world/` beside it; `method` are lines of [method].

    Of several datasets the world's unseen one is evaluated too.
    """
    sets = "".join(SET.format(name=name) for name in datasets)
    unseen = UNSEEN if len(datasets) > 1 else ""
    return RECIPE.format(seed=seed, method=method, sets=sets, unseen=unseen, steps=steps, eval_every=max(steps // 2, 1))


def _claim(out: Path) -> None:
    mark = out / ".manyseg-demo"
    if mark.exists():
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: not empty and not an earlier demo's; choose another --out")
    atomic.write(mark, MARK + "\n")


def _best(runs: dict[str, Path]) -> Path:
    """Return the run with the best mean mIoU of those whose label space unites classes."""

    def rank(folder: Path) -> tuple[bool, float]:
        run = Run.open(folder)
        joint = len(run.taxonomy.unified) < sum(map(len, run.spaces))
        return joint, float(json.loads((folder / "scores.json").read_text())["mean_miou_seen"])

    return max(runs.values(), key=rank)


def _recovery(runs: dict[str, Path], proposed: Path, world: World) -> Table:
    """Say how much of the planted taxonomy each label space has: pairs of classes that share a node."""
    table = Table(title="The planted label space, recovered", title_justify="left")
    for column in ("label space of", "nodes", "precision", "recall", "F1"):
        table.add_column(column, justify="left" if column == "label space of" else "right")
    spaces = Run.open(runs["multihead"]).spaces
    true = Taxonomy.read(world.truth, spaces)
    taxonomies = {"manyseg labels": Taxonomy.read(proposed, spaces)}
    taxonomies |= {name: Run.open(folder).taxonomy for name, folder in runs.items()}
    for name, taxonomy in taxonomies.items():
        found = agreement(taxonomy, true)
        given = {"manual": " (the planted one)", "htss": " (that of manyseg labels)"}.get(name, "")
        scores = (f"{found.precision:.2f}", f"{found.recall:.2f}", f"{found.f1:.2f}")
        table.add_row(name + given, f"{len(taxonomy.unified)} of {len(true.unified)}", *scores)
    return table
