import copy
import errno
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyseg import testing
from manyseg.config import flatten, override, to_toml
from manyseg.data.annotation import Boxes
from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace
from manyseg.labels.files import read_spaces, spaces_to_json
from manyseg.methods import METHODS
from manyseg.methods.baselines import Manual, MultiHead
from manyseg.methods.plan import StagePlan
from manyseg.methods.sources import StageTaxonomy
from manyseg.models import PixelEncoder
from manyseg.report import samples
from manyseg.runs import results, stages
from manyseg.runs.recipe import read_recipe
from manyseg.runs.run import Run, train_recipe
from manyseg.runs.trained import evaluate_run, predict_run
from manyseg.training import checkpoint

RECIPE = """
seed = 3
[data]
crop = [32, 32]
workers = 0
sets = [
    { card = "fine.toml", root = "fine", per_step = 2, scale = [0.5, 1.5] },
    { card = "coarse.toml", root = "coarse", per_step = 2 },
]
unseen = [ { card = "unseen.toml", root = "unseen" } ]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
name = "multihead"
[train]
steps = 4
log_every = 1
"""

TAXONOMY = "unified\tfine\tcoarse\n" + "".join(
    f"{fine or coarse}\t{fine}\t{coarse}\n"
    for fine, coarse in [
        ("sky", "sky"), ("building", "scenery"), ("tree", "scenery"), ("road", "road"), ("lane marking", "road"),
        ("sidewalk", "sidewalk"), ("car", "vehicle"), ("truck", "vehicle"), ("person", "person"),
    ]
)  # fmt: skip


@pytest.fixture
def recipe(world):
    """A recipe beside the world's cards; the test may write it anew."""
    path = world.folder / "recipe.toml"
    path.write_text(RECIPE)
    (world.folder / "two.tsv").write_text(TAXONOMY)
    return path


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A finished run of the recipe."""
    path = world.folder / "trained.toml"
    path.write_text(RECIPE)
    return train_recipe(path, out=tmp_path_factory.mktemp("runs") / "run")


def read(recipe, *overrides, text=""):
    recipe.write_text(RECIPE + text)
    return read_recipe(recipe, overrides)


def lines(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


# Recipes.


def test_the_smallest_recipe_of_the_documentation_is_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        'seed = 0\n[data]\ncrop = [96, 128]\nsets = [ { card = "street.toml", root = "street", per_step = 2 } ]\n'
        '[model]\nbackbone = "tf_efficientnet_lite0"\npretrained = true\n[method]\nname = "multihead"\n'
        "[train]\nsteps = 2000\n"
    )
    stage = read_recipe(path).stages[0]
    assert (stage.name, stage.kind, stage.train.steps, stage.options) == ("train", MultiHead, 2000, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.stepz=3", "train.stepz: unknown key, did you mean 'steps'?; valid keys: accumulate, "),
        ("data.crops=[1, 2]", "data.crops: unknown key, did you mean 'crop'?"),
        ("data.sets.1.carrd=x", r"data.sets[1].carrd: unknown key, did you mean 'card'?"),
        ("model.backbon=tiny", "model.backbon: unknown key, did you mean 'backbone'?; valid keys: backbone, channels"),
        ("method.ohm=0.7", "method.ohm: unknown key, did you mean 'ohem'?; valid keys: align_corners, bias, "),
        (
            "method.name=multihed",
            "method.name: 'multihed' is no method, did you mean 'multihead'?; the methods are: mul",
        ),
        ("train.lr=-1", "train.lr: Input should be greater than 0 (it is -1)"),
        (
            "train.lr=fast",
            "train.lr: a number is needed (it is 'fast')",
        ),
        (
            "model.neck=goose",
            "model.neck: Input should be 'fpn', 'concat', 'linear', 'maskformer' or 'deformable' (it is 'goose')",
        ),
        ("colour=1", "colour: unknown key; valid keys: data, method, model, seed, stage, start, test, train"),
        ("test.windo=[32, 32]", "test.windo: unknown key, did you mean 'window'?"),
        ("method.name=manual", "method.taxonomy: is missing; give it a value"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_says_what_is_valid(recipe, change, message):
    with pytest.raises(UserError) as e:
        read(recipe, change)
    assert str(e.value).startswith(f"{recipe}: {message}")
    assert "\n" not in str(e.value)


def test_an_option_of_an_earlier_version_is_an_error_that_names_the_new_one(recipe, monkeypatch):
    monkeypatch.setattr(MultiHead, "renamed", {"hard": "ohem"})
    with pytest.raises(UserError) as e:
        read(recipe, "method.hard=0.7")
    assert str(e.value) == f"{recipe}: method.hard: is now ohem"


def test_a_missing_table_is_named(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('[method]\nname = "multihead"\n[train]\nsteps = 1\n')
    with pytest.raises(UserError, match="data: is missing"):
        read_recipe(path)
    path.write_text(RECIPE.replace('name = "multihead"', ""))
    with pytest.raises(UserError, match=r"method.name: is missing; the methods are: multihead"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("none.toml", None, "there is no such file"), ("bad.toml", "seed = ", "not TOML")],
)
def test_a_recipe_that_cannot_be_read_is_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}: {message}"):
        read_recipe(tmp_path / name)


def test_overrides_are_toml_values_or_plain_strings():
    tree = {"train": {"lr": 1.0}, "sets": [{"per_step": 1}]}
    for text in ("train.lr=1e-3", "model.backbone=tiny", "sets.0.per_step=4", "data.crop=[8, 9]", "a = true"):
        override(tree, text)
    assert tree == {
        "train": {"lr": 1e-3}, "sets": [{"per_step": 4}], "model": {"backbone": "tiny"}, "data": {"crop": [8, 9]},
        "a": True,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["train.lr", "=3", "train..lr=3"])
def test_an_override_of_another_form_is_refused(text):
    with pytest.raises(UserError, match="not of the form"):
        override({}, text)


@pytest.mark.parametrize("text", ["sets.7.root=x", "sets.first.root=x", "seed.x=1"])
def test_an_override_of_no_place_is_refused(text):
    with pytest.raises(UserError, match="has no place"):
        override({"sets": [{}], "seed": 1}, text)


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
leaf = st.one_of(st.integers(-(2**60), 2**60), st.booleans(), st.floats(allow_nan=False), plain)
flat = st.dictionaries(plain, st.one_of(leaf, st.lists(leaf, max_size=3)), max_size=3)


@given(st.dictionaries(plain, st.one_of(leaf, flat, st.lists(flat, min_size=1, max_size=2)), max_size=4))
def test_tables_survive_writing_as_toml(tree):
    assert tomllib.loads(to_toml(tree)) == tree


def test_flattening_lists_every_leaf():
    assert flatten({"a": {"b": 1}, "c": [{"d": [2, 3]}]}) == {"a.b": 1, "c.0.d": [2, 3]}


def test_label_spaces_survive_writing(tmp_path):
    classes = (LabelClass("Straße", (1, 2, 3), True, "wide", ("road",)), LabelClass("b"))
    spaces = (LabelSpace("x", classes), LabelSpace.of("y", ["c"]))
    (tmp_path / "spaces.json").write_text(spaces_to_json(spaces), encoding="utf-8")
    assert read_spaces(tmp_path / "spaces.json") == spaces
    (tmp_path / "spaces.json").write_text('[{"name": "x"}]')
    with pytest.raises(UserError, match="missing or damaged"):
        read_spaces(tmp_path / "spaces.json")


# A run.


def test_a_run_is_a_folder_that_anyone_can_read(trained):
    assert [line["step"] for line in lines(trained) if "loss" in line] == [0, 1, 2, 3]
    scores = json.loads((trained / "scores.json").read_text())
    assert {n: d["protocol"] for n, d in scores["datasets"].items()} == {
        "fine": "seen", "coarse": "seen", "unseen": "names",
    }  # fmt: skip
    with np.load(trained / "confusion.npz") as counts:
        assert counts["fine"].shape == (9, 9)
        # The last evaluation of training and the final one are of the same weights.
        final = next(line for line in reversed(lines(trained)) if "eval" in line)["eval"]["fine"]
        assert np.trace(counts["fine"]) / counts["fine"].sum() == pytest.approx(final["pixel_accuracy"])
    assert (trained / "report.html").stat().st_size > 10_000
    assert json.loads((trained / "environment.json").read_text())["torch"]
    assert len(list((trained / "samples").glob("unseen-*-unified.png"))) == 3
    assert {p.name for p in trained.iterdir()} == {
        "best", "checkpoint", "confusion.npz", "environment.json", "manifest.json", "metrics.jsonl", "recipe.toml",
        "report.html", "samples", "scores.json", "spaces.json", "taxonomy.tsv",
    }  # fmt: skip


def test_the_samples_of_many_datasets_are_bounded(recipe, tmp_path, monkeypatch):
    assert [samples.samples_each(n) for n in (1, 20, 21, 60, 61, 1000)] == [3, 3, 2, 1, 1, 1]
    monkeypatch.setattr(samples, "ALL_SAMPLES", 6)
    run = train_recipe(recipe, out=tmp_path / "run", overrides=["train.steps=1"])
    assert len(list((run / "samples").glob("*-image.jpg"))) == 6  # of three datasets


def test_the_resolved_recipe_reads_as_the_same_recipe(trained, world):
    text = (trained / "recipe.toml").read_text()
    assert str(world.folder) not in text
    found, given_ = read_recipe(trained / "recipe.toml"), read_recipe(world.folder / "trained.toml")
    assert found.train == given_.train
    assert found.data.augment(found.data.sets[0]) == given_.data.augment(given_.data.sets[0])
    assert found.data.augment(found.data.sets[1]).scale == (0.5, 2.0)
    assert (found.base / found.data.sets[0].root).samefile(world.folder / "fine")


def test_a_model_is_read_back_and_predicts_the_same(trained):
    run = Run.open(trained)
    assert [s.name for s in run.spaces] == ["fine", "coarse"]
    assert run.taxonomy.unified.names == run.load_model().taxonomy.unified.names
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    best, last = run.load_model(), run.load_model("last")
    assert not best.training
    with torch.no_grad():
        assert torch.equal(testing.predict(best, image, run.spaces[0]), testing.predict(last, image, run.spaces[0]))
    with pytest.raises(UserError, match="'first' is no checkpoint"):
        run.load_model("first")


def test_a_model_for_images_has_no_batch_norms_and_predicts_the_same(trained, monkeypatch):
    run = Run.open(trained)
    torch.manual_seed(0)
    encoder = PixelEncoder.build(backbone="resnet10t", pretrained=False, channels=8)
    method = MultiHead(encoder, run.spaces).eval()
    monkeypatch.setattr(Run, "load_model", lambda self: copy.deepcopy(method))
    model, image = run.load_for_images(), torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.method.modules())
    with torch.no_grad():
        expected = testing.predict(method, image, run.spaces[0])
        torch.testing.assert_close(testing.predict(model.method, image, run.spaces[0]), expected, rtol=1e-4, atol=1e-4)


def test_a_run_predicts_without_its_data_and_cards(world, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(world.folder, home)
    (home / "two.tsv").write_text(TAXONOMY)
    (home / "r.toml").write_text(RECIPE.replace('"multihead"', '"manual"\ntaxonomy = "two.tsv"'))
    train_recipe(home / "r.toml", out=tmp_path / "run", overrides=["train.steps=1"])
    (home / "two.tsv").write_text(TAXONOMY.replace("sky\tsky\tsky\n", "blue\tsky\tsky\n"))
    with pytest.raises(UserError, match=r"changed are: files/method-taxonomy\.tsv"):
        train_recipe(home / "r.toml", out=tmp_path / "run", overrides=["train.steps=1"], resume=True)
    shutil.copy(home / "fine/images/val-0000.png", tmp_path / "image.png")
    shutil.rmtree(home)
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert isinstance(Run.open(moved).load_model(), Manual)
    written = predict_run(moved, [tmp_path / "image.png"], labels="coarse", out=tmp_path / "out").files
    assert written == [tmp_path / "out/masks/image.png"]
    assert written[0].exists()


def test_a_run_is_evaluated_on_its_own_data_and_on_others(trained, world):
    assert evaluate_run(trained).to_json() == json.loads((trained / "scores.json").read_text())
    other = f"{world.cards['partial']}={world.folder / 'partial'}"
    fitted = evaluate_run(trained, [other], relate="labels").datasets["partial"]
    named = evaluate_run(trained, [f"{other}:train"]).datasets["partial"]
    assert (fitted.protocol, named.protocol) == ("labels", "names")
    assert named.confusion.pixels.sum() > fitted.confusion.pixels.sum() > 0  # 6 images against 3
    with pytest.raises(UserError, match="6 of 6 images of 'partial' to be scored would also fit its map"):
        evaluate_run(trained, [f"{other}:train"], relate="labels")


def test_data_of_another_form_is_refused(trained):
    with pytest.raises(UserError, match="not of the form CARD=ROOT"):
        evaluate_run(trained, ["here"])


def test_a_run_that_is_there_is_not_overwritten(trained, world):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    with pytest.raises(UserError, match="a run is there; go on with it by --resume, or choose another --out"):
        train_recipe(world.folder / "trained.toml", out=trained)
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_resuming_a_finished_run_does_nothing(trained, world, capsys):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    assert train_recipe(world.folder / "trained.toml", out=trained, resume=True) == trained
    assert "this run is finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_resuming_with_another_recipe_names_what_changed(trained, world):
    changes = ["train.lr=0.5", "data.sets.0.per_step=4", "train.log_every=7"]
    with pytest.raises(UserError, match=r"changed are: data\.sets\.0\.per_step, train\.lr; restore them"):
        train_recipe(world.folder / "trained.toml", out=trained, resume=True, overrides=changes)


def test_what_did_not_change_is_not_written_again(recipe, tmp_path, monkeypatch):
    """A run that goes on leaves its inputs as they are."""

    def stop(self, method):
        raise KeyboardInterrupt

    names = ("recipe.toml", "spaces.json", "environment.json")
    with monkeypatch.context() as patch:
        patch.setattr(stages.Training, "_evaluate", stop)
        found = []
        for resume in (False, True):
            with pytest.raises(KeyboardInterrupt):
                train_recipe(recipe, out=tmp_path / "run", resume=resume, check=False)
            found.append([(tmp_path / "run" / name).stat().st_ino for name in names])
    assert found[0] == found[1]


def test_a_disk_that_is_full_at_the_end_is_an_error_and_the_run_goes_on_from_there(recipe, tmp_path, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_report", full)
        with pytest.raises(UserError, match=r"run: cannot be written \(.*No space left on device\); make room there"):
            train_recipe(recipe, out=tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    train_recipe(recipe, out=tmp_path / "run", resume=True)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize("fault", ["fine/images/val-0001.png", "unseen/masks/val-0001.png"])
def test_a_bad_file_of_an_evaluation_costs_no_training_and_can_be_left_out(world, tmp_path, caplog, fault):
    """Whatever was trained is saved; what the message says to do works."""
    home = Path(shutil.copytree(world.folder, tmp_path / "home"))
    (home / "r.toml").write_text(RECIPE)
    path = home / fault
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(UserError) as e:
        train_recipe(home / "r.toml", out=tmp_path / "run", check=False)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)
    assert "all that was trained is saved: mend this, or leave such files out by --set data.on_bad_file=skip," in str(
        e.value
    )
    assert "with --resume" in str(e.value)
    assert checkpoint.read(tmp_path / "run/checkpoint").state["step"] == 4
    steps = [line for line in lines(tmp_path / "run") if "loss" in line]
    train_recipe(home / "r.toml", out=tmp_path / "run", resume=True, overrides=["data.on_bad_file=skip"])
    assert [line for line in lines(tmp_path / "run") if "loss" in line] == steps
    scores = json.loads((tmp_path / "run/scores.json").read_text())["datasets"]
    name = fault.split("/")[0]
    assert {n: d["skipped"] for n, d in scores.items() if d["skipped"]} == {name: ["val-0001"]}
    told = f"{name}: 1 images are not scored, as their files cannot be read: val-0001"
    assert told in (tmp_path / "run/report.html").read_text()
    assert "skipped: " in caplog.text


def test_the_default_folder_bears_the_recipes_name(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe.write_text(RECIPE.replace("steps = 4", "steps = 1"))
    assert train_recipe(recipe) == Path("runs/recipe")
    assert (tmp_path / "runs/recipe/report.html").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recipe.toml", "no run is there"),
        ("spaces.json", "spaces.json: is missing"),
        ("best/state.json", "best: there is no checkpoint"),
        ("best/model.safetensors", "best/model.safetensors: missing"),
    ],
)
def test_a_missing_part_of_a_run_is_named(trained, tmp_path, name, message):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / name).unlink()
    with pytest.raises(UserError, match=message):
        Run.open(run).load_model()


def test_weights_of_another_model_are_named(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "recipe.toml").write_text((run / "recipe.toml").read_text().replace("channels = 8", "channels = 12"))
    (run / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"best: the weights do not fit this recipe's model .*size mismatch"):
        Run.open(run).load_model()


def test_a_dataset_that_would_be_evaluated_twice_is_refused_before_training(recipe, tmp_path):
    recipe.write_text(RECIPE.replace('"unseen.toml", root = "unseen"', '"fine.toml", root = "fine"'))
    with pytest.raises(UserError, match="dataset 'fine' is to be evaluated twice; give one of the cards another name"):
        train_recipe(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_kind_of_annotation_that_the_method_cannot_take_is_refused_first(recipe, tmp_path, monkeypatch):
    overrides = ['data.sets.0.annotation="boxes"', "method.name=uniseg"]
    with pytest.raises(UserError, match=r"'fine' is annotated with boxes, but UniSeg .* learns from dense or segments"):
        train_recipe(recipe, out=tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(MultiHead, "accepts", (Boxes,))
    with pytest.raises(UserError, match=r"'fine' is annotated with segments, but MultiHead .* learns from boxes"):
        train_recipe(recipe, out=tmp_path / "run")


# Stages.

STAGES = """
[[stage]]
name = "heads"
steps = 1
[[stage]]
name = "joint"
steps = 3
method = { name = "manual", taxonomy = "two.tsv", competitors = "own" }
train = { lr = 0.5, log_every = 2 }
[[stage]]
name = "again"
steps = 2
method = { name = "manual", taxonomy = "stage:joint" }
"""


def test_stages_share_the_steps_and_have_their_own_options(recipe, world):
    found = read(recipe, "train.steps=12", text=STAGES).stages
    assert [(s.name, s.kind.__name__, s.train.steps, s.train.lr) for s in found] == [
        ("heads", "MultiHead", 2, 1e-3), ("joint", "Manual", 6, 0.5), ("again", "Manual", 4, 1e-3),
    ]  # fmt: skip
    assert found[1].options == {"taxonomy": world.folder / "two.tsv", "competitors": "own"}
    assert found[2].options == {"taxonomy": StageTaxonomy("joint")}
    assert [s.train.steps for s in read(recipe, "train.steps=3", text=STAGES).stages] == [1, 1, 1]
    recipe.write_text((RECIPE + STAGES).replace("steps = 4\n", ""))
    assert [s.train.steps for s in read_recipe(recipe).stages] == [1, 3, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage.1.name=heads", "two stages are called 'heads'"),
        ("train.steps=2", "train.steps is 2, too few for 3 stages"),
        ("stage.1.method.taxonomi=x", "stage.joint.method.taxonomi: unknown key, did you mean 'taxonomy'?"),
        ("stage.1.train.steps=9", "stage.joint.train.steps: write the stage's steps beside its name"),
        ("stage.1.train.lrr=9", "stage.joint.train.lrr: unknown key, did you mean 'lr'?"),
        ("stage.2.method.taxonomy=stage:later", "'stage:later'; the stages before it: heads, joint"),
        ("stage.0.method.name=none", "stage.heads.method.name: 'none' is no method"),
        ("stage.0.name=a/b", "stage[0].name: String should match pattern"),
    ],
)
def test_a_wrong_stage_is_one_line(recipe, change, message):
    with pytest.raises(UserError) as e:
        read(recipe, change, text=STAGES)
    assert message in str(e.value)


def test_stages_follow_each_other_through_files(recipe, tmp_path, capsys):
    recipe.write_text(RECIPE.replace("steps = 4", "steps = 6") + STAGES)
    run = train_recipe(recipe, out=tmp_path / "run")
    assert [(line["step"], line["stage"]) for line in lines(run) if "loss" in line] == [
        (0, "heads"), (2, "joint"), (3, "joint"), (4, "again"), (5, "again"),
    ]  # fmt: skip
    assert sorted(p.name for p in (run / "stages").iterdir()) == ["heads", "joint"]
    assert (run / "stages/joint/taxonomy.tsv").read_text() == TAXONOMY == (run / "taxonomy.tsv").read_text()
    out = capsys.readouterr().out
    # 15 channels of the heads do not fit 9 nodes; the rest does.
    assert "stage 'joint' starts from 'heads'" in out
    assert "(new: head.weight, head.bias)" in out
    assert checkpoint.read(run / "stages/heads").state == {"stage": "heads"}
    loaded = Run.open(run).load_model()
    assert isinstance(loaded, Manual)
    assert loaded.taxonomy.to_tsv() == TAXONOMY
    assert "stage:joint" in (run / "recipe.toml").read_text()


def test_a_run_stopped_in_any_stage_goes_on_as_if_it_had_not_been(recipe, tmp_path, monkeypatch):
    recipe.write_text(RECIPE.replace("steps = 4", "steps = 6\ncheckpoint_every = 2") + STAGES)
    whole = train_recipe(recipe, out=tmp_path / "whole")
    original = stages.Training._evaluate
    for stop_at in (1, 3):
        calls = []

        def stopping(self, method, calls=calls, stop_at=stop_at):
            calls.append(1)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return original(self, method)

        monkeypatch.setattr(stages.Training, "_evaluate", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_recipe(recipe, out=tmp_path / f"cut{stop_at}")
        monkeypatch.setattr(stages.Training, "_evaluate", original)
        cut = train_recipe(recipe, out=tmp_path / f"cut{stop_at}", resume=True)
        keys = ("step", "stage", "losses", "eval")
        assert [[x.get(k) for k in keys] for x in lines(cut)] == [[x.get(k) for k in keys] for x in lines(whole)]
        assert (cut / "best/model.safetensors").read_bytes() == (whole / "best/model.safetensors").read_bytes()
        assert (cut / "scores.json").read_text() == (whole / "scores.json").read_text()


DEFAULTS = {"bias": True, "normalise": False, "scale": 1.0, "align_corners": False}
"""Options of `multihead` as a run writes them down."""


class Staged(MultiHead):
    """Has two stages of its own."""

    @classmethod
    def default_stages(cls, options, train):
        early = train.steps // 4
        late = {"method": {"ohem": 0.5}, "train": {"lr": train.lr / 10}}
        return [StagePlan(name="early", steps=early), StagePlan(name="late", steps=train.steps - early, **late)]


def test_a_methods_own_stages_are_written_into_the_run(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "staged", f"{__name__}:Staged")
    recipe.write_text(RECIPE.replace('"multihead"', '"staged"'))
    run = train_recipe(recipe, out=tmp_path / "run")
    assert [line["stage"] for line in lines(run) if "loss" in line] == ["early", "late", "late", "late"]
    found = Run.open(run)
    assert [(s.name, s.train.steps, s.options, s.train.lr) for s in found.recipe.stages] == [
        ("early", 1, DEFAULTS, 1e-3), ("late", 3, DEFAULTS | {"ohem": 0.5}, 1e-4),
    ]  # fmt: skip
    assert found.load_model().ohem == 0.5
