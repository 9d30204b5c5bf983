"""Every recipe of a paper goes through all of its stages, on its datasets' official layouts in small.

The network is tiny, and every stage has one step: what is shown is that files, cards, options, stages, evaluation and
submissions fit together, not what is learned.
"""

import json
import os
from pathlib import Path

import pytest
from official_layouts import CASES, write_tree
from two_processes import two_processes
from words import write_encoder

from manyseg.data import read_card
from manyseg.prediction.predict import list_images
from manyseg.runs.recipe import read_recipe
from manyseg.runs.run import Run, train_recipe
from manyseg.runs.trained import predict_run

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes/papers").glob("*.toml"))
SIDE = 32

ABLATIONS = ("autouniseg-concat", "autouniseg-fixed", "autouniseg-text")
"""Recipes of the datasets of `autouniseg`, of which three are enough here."""

WHOLE = ("autouniseg-single", "uniseg-union")
"""Recipes that are evaluated on all of their unseen datasets; the others on two."""

IMAGES = {
    "ade20k": "images/validation",
    "ade20k_panoptic": "images/validation",
    "cityscapes": "leftImg8bit/val",
    "wilddash2_evaluation": "images",
}
"""Where images are that are submitted."""

SCRIPT = """
import json, sys
import torch
from manyseg.runs.run import train_recipe

torch.set_num_threads(1)
for path, out, overrides in json.load(open(sys.argv[1])):
    train_recipe(path, out=out, overrides=overrides, check=False)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of datasets, each in the folder of its card's name, and `text`, an encoder."""
    root = tmp_path_factory.mktemp("data")
    for name in CASES:
        write_tree(root / name, name, block=(20, 10))
    words = {w for name in CASES for c in read_card(name).space.names for w in c.lower().replace("-", " ").split()}
    write_encoder(root / "text", sorted(words | {"background", "a", "photo", "of"}))
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out what makes files durable: it is most of the time of a run of one step."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def small(path, data, per_step=1):
    """Return overrides that make a paper's recipe tiny."""
    recipe = read_recipe(path)
    out = [
        "model={ backbone = 'tiny', pretrained = false, channels = 8 }",
        "data.workers=0",
        f"data.crop=[{SIDE},{SIDE}]",
    ]
    if path.stem.startswith(("autouniseg", "uniseg", "mseg")):
        out.append("model.neck=concat")
    if path.stem.startswith("lmseg"):
        out.append("model.neck=maskformer")
    sets = recipe.data.sets
    if path.stem in ABLATIONS or (per_step > 1 and len(sets) > 4):
        sets = sets[:3]
        tables = [f"{{ card = '{e.card}', root = '{data / e.card}', drop = {list(e.drop)} }}" for e in sets]
        out.append(f"data.sets=[{', '.join(tables)}]")
    for i, entry in enumerate(sets):
        out.append(f"data.sets.{i}.root={data / entry.card}")
        out += [f"data.sets.{i}.crop=[{SIDE},{SIDE}]"] * ("crop" in entry.own)
        out += [f"data.sets.{i}.short_side=40"] * ("short_side" in entry.own)
        # The tree has three images of 900.
        out += [f"data.sets.{i}.eval_split=all"] * (entry.card == "gtsdb")
        out += [f"data.sets.{i}.per_step={per_step}"] * (entry.per_step is not None)
    unseen = [e for e in recipe.data.unseen if path.stem in WHOLE or e.card in ("wilddash2_evaluation", "kitti")]
    tables = [f"{{ card = '{e.card}', root = '{data / e.card}', eval_split = '{e.eval_split}' }}" for e in unseen]
    out.append(f"data.unseen=[{', '.join(tables)}]")
    out += ["data.short_side=40"] * (recipe.data.short_side is not None)
    out += [f"data.batch={2 * len(recipe.data.sets)}"] * (recipe.data.batch is not None)
    out += [f"test.sets.{name}.short_side=40" for name in recipe.test.sets]
    out += ["test.short_side=40"] * (recipe.test.short_side is not None)
    stages = len(recipe.stages)
    out += [f"train.steps={stages}", "train.precision=fp32", "train.eval_every=0"]
    methods = {stage.kind.__name__ for stage in recipe.stages}
    if "AutoUniSeg" in methods:
        out += ["method.graph.hidden=8", "method.graph.turn=1", f"method.encoder={data / 'text'}"]
    if path.stem == "autouniseg-text":
        out += [f"method.encoder={data / 'text'}"]
    if "LMSeg" in methods:
        out += [f"method.text={data / 'text'}", "method.queries=12", "method.blocks=1", "method.attention_heads=2"]
    return out


@pytest.mark.filterwarnings("ignore:.* classes of .* share .* nodes:UserWarning")  # As MSeg's table has it.
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_papers_recipe_trains_evaluates_and_makes_submissions(path, data, tmp_path):
    overrides = small(path, data)
    # What the quick check of all files finds is tested with it; the trees are sound.
    run = Run.open(train_recipe(path, out=tmp_path / "run", overrides=overrides, check=path.stem in WHOLE))
    assert (run.folder / "report.html").is_file()
    recipe = run.recipe
    assert [s.train.steps for s in recipe.stages] == [1] * len(read_recipe(path).stages)
    scored = Run.open(run.folder).folder / "scores.json"
    assert all(f'"{card}"' in scored.read_text() for card in (e.card for e in recipe.data.unseen))
    # What a server takes: of the first dataset that was trained on, and of WildDash 2, whose labels are found by names.
    targets = [recipe.data.sets[0].card]
    targets += ["wilddash2_evaluation"] * any(e.card == "wilddash2_evaluation" for e in recipe.data.unseen)
    for card in targets:
        folder = {
            "ade20k": "images/validation",
            "ade20k_panoptic": "images/validation",
            "cityscapes": "leftImg8bit/val",
        }
        images = data / card / folder.get(card, "images")
        done = predict_run(run.folder, [images], labels=card, out=tmp_path / card, kinds=["submission"])
        assert {f.stem for f in done.files} == {file.stem for file, _ in list_images([images])}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes as torchrun does")
def test_two_processes_go_through_every_recipe(data, tmp_path):
    jobs = [(str(path), str(tmp_path / path.stem), small(path, data, per_step=2)) for path in RECIPES]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    with two_processes(SCRIPT, tmp_path, tmp_path / "jobs.json") as two:
        said, _ = two.communicate(timeout=600)
    assert two.returncode == 0, said
    assert all((Path(out) / "report.html").is_file() for _, out, _ in jobs)
