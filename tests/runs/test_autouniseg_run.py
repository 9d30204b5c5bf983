"""AutoUniSeg as a run: its stages by one command, stopped in any of them, and by two processes."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from two_processes import two_processes

from manyseg.labels import Taxonomy
from manyseg.runs.run import Run, train_recipe
from manyseg.training import checkpoint

ROOT = Path(__file__).parents[2]

# Stages of 8, 4, 4 and 4 steps.
RECIPE = """
[data]
crop = [32, 32]
workers = 0
sets = [
    { card = "fine.toml", root = "fine", per_step = 2, statistics_split = "train" },
    { card = "partial.toml", root = "partial", per_step = 2, statistics_split = "train" },
]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
name = "autouniseg"
[method.graph]
features = "learned"
hidden = 16
turn = 2
edge_lr = 50.0
dataset_embedding = true
[train]
steps = 20
lr = 0.01
log_every = 1
checkpoint_every = 1
"""

SCRIPT = """
import json, os, sys
import torch
from pathlib import Path
from manyseg.runs import stages
from manyseg.methods.rounding import Rounding
from manyseg.runs.run import train_recipe

torch.set_num_threads(1)
recipe, out, rank = sys.argv[1], Path(sys.argv[2]), os.environ["RANK"]
evaluate, update, seen = stages.Training._evaluate, Rounding.update, []


def telling(self, method):
    found = evaluate(self, method)
    seen.append([found, method.taxonomy.to_tsv()])
    return found


def differing(self, shares):
    # Processes whose numbers differ by rounding, or more.
    update(self, shares + 0.3 * int(rank) * torch.rand_like(shares))
    seen.append([self.maps.tolist(), self.demand.tolist()])


stages.Training._evaluate, Rounding.update = telling, differing
train_recipe(recipe, out=out / "run")
(out / f"rank{rank}.json").write_text(json.dumps(seen))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def recipe(world):
    path = world.folder / "autouniseg.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    return train_recipe(recipe, out=tmp_path_factory.mktemp("whole") / "run")


def losses(folder):
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["stage"], line["losses"]) for line in found if "losses" in line]


def test_one_command_goes_through_all_stages(whole):
    found = losses(whole)
    names = ["heads"] * 8 + ["graph"] * 4 + ["nodes"] * 4 + ["pruned"] * 4
    assert [(step, stage) for step, stage, _ in found] == list(enumerate(names))
    # Steps 8 and 9 are the graph's, 10 and 11 the network's.
    assert ["orthogonality" in each for *_, each in found] == [8 <= i < 10 for i in range(20)]
    assert sorted(p.name for p in (whole / "stages").iterdir()) == ["graph", "heads", "nodes"]
    spaces = Run.open(whole).spaces
    tables = [Taxonomy.read(whole / f"stages/{name}/taxonomy.tsv", spaces) for name in ("heads", "graph", "nodes")]
    tables.append(Taxonomy.read(whole / "taxonomy.tsv", spaces))
    sizes = [len(t.unified) for t in tables]
    assert sizes[0] == 16
    assert sizes[0] >= sizes[1] == sizes[2] >= sizes[3]
    graph, nodes = (load_file(whole / f"stages/{name}/model.safetensors") for name in ("graph", "nodes"))
    assert len(nodes["nodes"]) == len(graph["nodes"]) == int(graph["rounding.maps"].any(0).sum()) == sizes[1]
    assert Run.open(whole).load_model().taxonomy.to_tsv() == (whole / "taxonomy.tsv").read_text()


def test_a_run_stopped_in_every_stage_and_turn_is_as_one_that_was_not(recipe, whole, tmp_path, monkeypatch):
    write, out = checkpoint.write, tmp_path / "cut"
    for stop in (3, 9, 10, 11, 14, 18):

        def stopping(folder, files, state, stop=stop):
            if folder.name == "checkpoint" and state["step"] == stop + 1:
                raise KeyboardInterrupt
            write(folder, files, state)

        monkeypatch.setattr(checkpoint, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_recipe(recipe, out=out, resume=True)
    monkeypatch.setattr(checkpoint, "write", write)
    train_recipe(recipe, out=out, resume=True)
    assert losses(out) == losses(whole)
    for name in ("taxonomy.tsv", "scores.json", "best/model.safetensors", "stages/graph/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_learned_table_can_be_edited_and_trained_on(recipe, whole, tmp_path):
    rows = (whole / "stages/graph/taxonomy.tsv").read_text().splitlines()
    edited = tmp_path / "edited.tsv"
    edited.write_text("\n".join([rows[0], "my own " + rows[1], *rows[2:]]) + "\n")
    run = train_recipe(recipe, out=tmp_path / "run", overrides=[f"method.init={edited}", "train.steps=4"])
    assert (run / "files/method-init.tsv").read_text() == edited.read_text()
    assert "my own " in (run / "stages/graph/taxonomy.tsv").read_text()
    assert len(Run.open(run).load_model().taxonomy.unified) <= len(rows) - 1


def test_two_processes_hold_one_map_and_have_the_losses_of_one(recipe, whole, tmp_path):
    with two_processes(SCRIPT, tmp_path, recipe, tmp_path) as two:
        said, _ = two.communicate(timeout=300)
    assert two.returncode == 0, said
    texts = [(tmp_path / f"rank{r}.json").read_text() for r in (0, 1)]
    assert texts[0] == texts[1]
    assert len(json.loads(texts[0])) >= 5
    for (step, _, two), (_, _, one) in zip(losses(tmp_path / "run"), losses(whole), strict=True):
        # Rounding differs, and the graph's turns make it three times larger with every step.
        assert two == pytest.approx(one, rel=1e-4 if step < 14 else 1e-2), step
