"""A run that tells objects apart: trained, evaluated, asked in words and in files, as from the command line."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from words import write_encoder

from manyseg.cli import app
from manyseg.data import load
from manyseg.data.world import CONCEPTS, DATASETS
from manyseg.errors import UserError
from manyseg.evaluation.evaluate import evaluate
from manyseg.inference.options import SegmentOptions
from manyseg.runs.run import Run, train_recipe

RECIPE = """
[data]
crop = [32, 32]
workers = 0
sets = [
    {{ card = "fine.toml", root = "fine", per_step = 2 }},
    {{ card = "partial.toml", root = "partial", per_step = 2 }},
]
[model]
backbone = "tiny"
pretrained = false
channels = 16
[method]
name = "lmseg"
text = "{text}"
prompt_tokens = 2
queries = 30
blocks = 1
attention_heads = 2
[train]
steps = 4
eval_every = 2
[test]
mask_threshold = 0.05
overlap_threshold = 0.3
"""


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("lmseg")
    words = [w for d in DATASETS.values() for n in d for w in n.split()] + [*CONCEPTS, "background", "puddle"]
    recipe = world.folder / "lmseg.toml"
    recipe.write_text(RECIPE.format(text=write_encoder(out / "bert", words)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYSEG_CACHE", str(out / "cache"))
        yield train_recipe(recipe, out=out / "run")


def test_the_scores_of_segments_have_a_panoptic_quality(run):
    scores = json.loads((run / "scores.json").read_text())
    fine = scores["datasets"]["fine"]
    assert 0 <= fine["pq"] <= 1
    assert fine["panoptic"]["all"]["pq"] == fine["pq"]
    assert set(fine["panoptic"]) == {"all", "things", "stuff"}
    assert fine["panoptic"]["all"]["classes"] == sum(fine["panoptic"][k]["classes"] for k in ("things", "stuff"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all("pq" in line["eval"]["fine"] for line in lines if "eval" in line)


def test_the_quality_is_that_of_the_segments_found(run, world):
    method = Run.open(run).load_model()
    folder = load(world.cards["fine"], world.folder / "fine", "val")
    panoptic = evaluate(method, [folder]).datasets["fine"].panoptic
    truths = sum(len(folder.read(i).annotation.classes) for i in range(len(folder)))
    # Every true segment is a hit or a miss.
    assert panoptic.counts[:, [0, 3]].sum() == truths
    assert (panoptic.counts[:, 1] <= panoptic.counts[:, 0]).all()


def test_masks_alone_have_no_panoptic_quality(run, world):
    method = Run.open(run).load_model()
    folder = load(world.cards["fine"], world.folder / "fine", "val", annotation="dense")
    scores = evaluate(method, [folder])
    assert scores.datasets["fine"].pq is None
    assert "panoptic" not in scores.to_json()["datasets"]["fine"]


def test_an_unseen_dataset_is_read_in_its_own_words(run, world):
    method = Run.open(run).load_model()
    folder = load(world.cards["unseen"], world.folder / "unseen", "val")
    scores = evaluate(method, [folder], relate="text").datasets["unseen"]
    assert scores.protocol == "text"
    assert scores.unmapped == ()
    assert scores.pq is not None
    assert not math.isnan(scores.miou)


def test_words_and_files_of_segments_from_the_command_line(run, world, tmp_path):
    photo = next((world.folder / "unseen" / "images").iterdir())
    out = tmp_path / "words"
    done = CliRunner().invoke(app, ["predict", str(run), str(photo), "--labels", "road, puddle", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert [c["name"] for c in json.loads((out / "labels.json").read_text())["classes"]] == ["road", "puddle"]
    files = (("coco_panoptic", "fine", "panoptic.json"), ("instance_ids", "unified", f"instances/{photo.stem}.png"))
    for kind, labels, file in files:
        arguments = ["--labels", labels, "--segments", kind, "--out", str(tmp_path / kind)]
        done = CliRunner().invoke(app, ["predict", str(run), str(photo), *arguments])
        assert done.exit_code == 0, done.output
        assert (tmp_path / kind / file).exists()
    categories = json.loads((tmp_path / "coco_panoptic" / "panoptic.json").read_text())["categories"]
    # The card's values.
    assert [c["id"] for c in categories] == list(range(9))
    assert np.array(Image.open(tmp_path / "coco_panoptic" / "panoptic" / f"{photo.stem}.png")).shape == (48, 64, 3)


def test_a_method_that_finds_classes_alone_refuses_segments(world):
    from manyseg.methods import find_method
    from manyseg.models import PixelEncoder

    space = load(world.cards["fine"], world.folder / "fine", "val").space
    method = find_method("union")(PixelEncoder.build(backbone="tiny", pretrained=False, channels=8), [space])
    with pytest.raises(UserError, match="Union finds classes, not objects"):
        method.segments(method.pixel_encoder(torch.zeros(1, 3, 32, 32)), space, (32, 32), SegmentOptions())
