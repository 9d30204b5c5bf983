"""Two processes are one: the same losses on the same global batch, the same weights and the same label maps."""

import json
from pathlib import Path

import pytest
from two_processes import two_processes
from words import write_encoder

from manyseg.data.card import read_card
from manyseg.data.world import DATASETS
from manyseg.labels import Taxonomy
from manyseg.runs.run import train_recipe
from manyseg.training import checkpoint

ROOT = Path(__file__).parents[2]

RECIPE = """
[data]
crop = [32, 32]
workers = 0
sets = [
    {{ card = "fine.toml", root = "fine", per_step = 2 }},
    {{ card = "partial.toml", root = "partial", per_step = 2 }},
]
unseen = [ {{ card = "unseen.toml", root = "unseen" }} ]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
{method}
[train]
steps = 6
lr = 0.01
log_every = 1
eval_every = 3
checkpoint_every = 3
accumulate = 2
"""

# What torchrun starts: it trains every recipe, and says what each process holds after every evaluation.
SCRIPT = """
import hashlib, json, os, sys
import torch
from pathlib import Path
from manyseg.runs import stages
from manyseg.errors import UserError
from manyseg.runs.run import train_recipe
from manyseg.training import checkpoint

torch.set_num_threads(1)
out, rank = Path(sys.argv[1]), os.environ["RANK"]
evaluate, seen = stages.Training._evaluate, []


def telling(self, method):
    found = evaluate(self, method)
    weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in method.parameters())).hexdigest()
    seen.append([found, weights, method.taxonomy.to_tsv()])
    return found


def stopped(self, method):
    raise KeyboardInterrupt


stages.Training._evaluate = telling
for recipe in sys.argv[2:]:
    seen.clear()
    place = out / Path(recipe).stem
    train_recipe(recipe, out=place / "two")
    (place / f"rank{rank}.json").write_text(json.dumps(seen))
    stages.Training._evaluate = stopped
    try:
        train_recipe(recipe, out=place / "cut")
    except KeyboardInterrupt:
        stages.Training._evaluate = evaluate
        train_recipe(recipe, out=place / "cut", resume=True)
    stages.Training._evaluate = telling
# A fault is the same error in every process, and none waits for the others for ever.
try:
    train_recipe(recipe, out=out / "odd", overrides=["data.sets.0.per_step=3"])
except UserError as e:
    (out / f"fault{rank}.txt").write_text(str(e))
torch.distributed.destroy_process_group()
"""

# With what they draw at random in a training step, where they do: dropout, words, points.
METHOD = {
    "multihead": "",
    "union": "",
    "manual": 'taxonomy = "{table}"',
    "uniseg": "",
    "htss": 'taxonomy = "{table}"',
    "joint": 'taxonomy = "{table}"',
    "unified_nodes": 'init = "{table}"',
    "lmseg": 'text = "{text}"\nprompt_tokens = 2\nqueries = 30\nblocks = 1\nattention_heads = 4\nother_words = 0.5\n'
    "points = 32",
    "autouniseg": 'init = "names"\ngraph = {{ features = "learned", hidden = 16, dropout = 0.5 }}',
}


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """A folder for every method, with one run by one process and one by two."""
    out = tmp_path_factory.mktemp("two")
    words = [w for classes in DATASETS.values() for name in classes for w in name.split()]
    table, text = out / "table.tsv", write_encoder(out / "text", [*words, "background"])
    Taxonomy.by_name([read_card(world.folder / f"{name}.toml").space for name in ("fine", "partial")]).write(table)
    recipes = []
    for name in METHOD:
        recipes.append(world.folder / f"{name}.toml")
        option = METHOD[name].format(text=text, table=table)
        recipes[-1].write_text(RECIPE.format(method=f'name = "{name}"\n{option}'))
    with two_processes(SCRIPT, out, out, *recipes) as two:
        for recipe in recipes:
            train_recipe(recipe, out=out / recipe.stem / "one")
        said, _ = two.communicate(timeout=300)
    assert two.returncode == 0, said
    return out


@pytest.fixture(params=METHOD)
def both(request, runs):
    """The folders of a method's runs by one process and by two."""
    return runs / request.param / "one", runs / request.param / "two"


def lines(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_have_the_losses_of_one(both):
    """Of a dataset with few labels too: the mean is over the labelled pixels of the global batch.

    Sums are rounded otherwise; AdamW divides a gradient by its own size, and so makes such a difference larger. Another
    dropout or other words would be a difference of more than 1e-2.
    """
    one, two = map(lines, both)
    assert len(one) == len(two) >= 8
    for a, b in zip(one, two, strict=True):
        assert a["step"] == b["step"]
        if "losses" in a:
            assert b["losses"] == pytest.approx(a["losses"], rel=1e-4)
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        else:
            assert b["mean_miou"] == pytest.approx(a["mean_miou"], abs=2e-3)


def test_two_processes_hold_the_same_weights_scores_and_label_maps(both):
    texts = [(both[1].parent / f"rank{r}.json").read_text() for r in (0, 1)]
    assert texts[0] == texts[1]
    told = json.loads(texts[0])
    assert len(told) >= 2
    assert told[0][1] != told[-1][1]
    assert (both[1] / "taxonomy.tsv").read_text() == (both[0] / "taxonomy.tsv").read_text()


def test_two_processes_that_were_stopped_between_their_steps_go_on_as_if_they_had_not_been(both):
    whole, cut = both[1], both[1].parent / "cut"
    keys = ("step", "losses", "mean_miou")
    assert [[x.get(k) for k in keys] for x in lines(cut)] == [[x.get(k) for k in keys] for x in lines(whole)]
    for name in ("checkpoint/model.safetensors", "best/model.safetensors", "scores.json", "taxonomy.tsv"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_two_processes_count_the_confusions_of_both(runs):
    one, two = (checkpoint.read(runs / "joint" / n / "checkpoint").tensors("model")["counts"] for n in ("one", "two"))
    assert one.sum() > 0
    assert one.sum() == two.sum()
    assert (one - two).abs().sum() < 0.01 * one.sum()


def test_two_processes_count_every_image_once(both):
    scores = [json.loads((folder / "scores.json").read_text())["datasets"] for folder in both]
    pixels = [{d: {c: v["pixels"] for c, v in s["classes"].items()} for d, s in found.items()} for found in scores]
    assert pixels[0] == pixels[1]


def test_counts_that_processes_cannot_share_are_refused_by_all(runs):
    faults = [(runs / f"fault{r}.txt").read_text() for r in (0, 1)]
    assert (
        faults[0]
        == faults[1]
        == "a step has 5 images, which 2 processes cannot share evenly; make the sum of per_step a "
        "multiple of 2"
    )
