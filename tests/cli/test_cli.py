"""The command line as a person would type it."""

import errno
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import manyseg
import manyseg.evaluation.evaluate as module
from manyseg.cli import app, main
from manyseg.errors import UserError

RECIPE = """
[data]
crop = [32, 48]
workers = 0
sets = [
    {{ card = "fine.toml", root = "fine", per_step = 1 }},
    {{ card = "coarse.toml", root = "coarse", per_step = 1 }},
]
unseen = [ {{ card = "unseen.toml", root = "unseen" }} ]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[method]
name = "{method}"
[train]
steps = {steps}
"""


def _say(*words):
    """Run the command line in this process; return what it printed. A user's mistake is raised."""
    result = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _recipe(world, name, method="multihead", steps=2):
    path = world.folder / f"{name}.toml"
    path.write_text(RECIPE.format(method=method, steps=steps))
    return path


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    _say("train", _recipe(world, "a"), "--out", folder)
    return folder


def test_a_mistake_is_one_line_on_stderr_and_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "manyseg.cli"]
    wrong = subprocess.run(
        [*command, "train", str(tmp_path / "none.toml")], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert "none.toml" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    usage = subprocess.run([*command, "train", "--no-such-option"], capture_output=True, text=True, check=False)
    assert usage.returncode == 2


def test_what_the_system_refuses_of_a_file_is_one_line(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a.toml"))

    monkeypatch.setattr(sys, "argv", ["manyseg", "data", "a.toml", "a"])
    monkeypatch.setattr("manyseg.data.check.print_check", refuse)
    with pytest.raises(SystemExit, match="1"):
        main()
    told = f"error: {tmp_path}/a.toml: Permission denied; check the path, and that it may be read and written\n"
    assert capsys.readouterr().err == told


def test_training_leaves_a_folder_that_anyone_can_read(run):
    assert {p.name for p in run.iterdir()} >= {
        "recipe.toml", "spaces.json", "taxonomy.tsv", "metrics.jsonl", "scores.json", "confusion.npz", "report.html",
        "checkpoint", "best", "samples",
    }  # fmt: skip
    assert (run / "taxonomy.tsv").read_text().splitlines()[0] == "unified\tfine\tcoarse"


def test_training_ends_with_the_scores_of_all_datasets_and_where_everything_is(world, tmp_path, monkeypatch):
    """And evaluates no weights twice."""
    evaluated, visit = [], module.visit_batches

    def note(method, folder, *rest):
        evaluated.append(folder.space.name)
        return visit(method, folder, *rest)

    monkeypatch.setattr(module, "visit_batches", note)
    shown = _say("train", _recipe(world, "ends"), "--out", tmp_path / "run", "--no-check").splitlines()
    assert evaluated == ["fine", "coarse", "unseen"]
    assert [line.split(" | ")[:2] for line in shown if line.startswith("| ")] == [
        ["| dataset", "protocol"], ["| fine", "seen"], ["| coarse", "seen"], ["| unseen", "names"],
    ]  # fmt: skip
    places = [Path(line.partition(": ")[0]) for line in shown[-4:]]
    assert [p.name for p in places] == ["report.html", "scores.json", "taxonomy.tsv", "best"]
    assert all(p.exists() for p in places)
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert manyseg.evaluate(tmp_path / "run").to_json() == scores


def test_values_are_overridden_on_the_command_line(world, tmp_path):
    out = tmp_path / "b"
    _say("train", _recipe(world, "b"), "--out", out, "--set", "train.steps=1", "--set", "method.name=union")
    text = (out / "recipe.toml").read_text()
    assert "steps = 1" in text
    assert 'name = "union"' in text


def test_evaluating_writes_the_documented_json(run, world, tmp_path):
    out = tmp_path / "scores.json"
    shown = _say("eval", run, "--json", out)
    scores = json.loads(out.read_text())
    assert set(scores) == {"unified_nodes", "mean_miou_seen", "datasets", "axes"}
    assert set(scores["axes"]) == {"performance", "generalisation", "knowledgeability"}
    assert set(scores["axes"]["generalisation"]) == {"names"}
    assert scores["unified_nodes"] == 15
    assert {n: d["protocol"] for n, d in scores["datasets"].items()} == {
        "fine": "seen", "coarse": "seen", "unseen": "names",
    }  # fmt: skip
    sky = scores["datasets"]["unseen"]["classes"]["sky"]
    assert set(sky) == {"iou", "pixels"}
    assert set(scores["datasets"]["fine"]) == {"protocol", "miou", "pixel_accuracy", "pq", "skipped", "classes"}
    assert "sky" in shown


def test_another_dataset_is_evaluated_by_card_and_root_with_a_fitted_map(run, world, tmp_path):
    out = tmp_path / "scores.json"
    data = f"{world.cards['unseen']}={world.folder / 'unseen'}:val"
    _say("eval", run, "--data", data, "--relate", "labels", "--json", out)
    scores = json.loads(out.read_text())
    assert scores["datasets"]["unseen"]["protocol"] == "labels"
    assert scores["mean_miou_seen"] is None


def test_every_head_is_scored_on_every_dataset_through_fitted_maps(run):
    shown = _say("eval", run, "--cross")
    assert "| head | fine | coarse | unseen | mean |" in shown
    assert [line.split(" | ")[0] for line in shown.splitlines()[2:5]] == ["| fine", "| coarse", "| unified"]


def test_what_is_asked_at_test_time_can_be_set_and_nothing_else(run):
    assert "fine" in _say("eval", run, "--set", "test.flip=true")
    with pytest.raises(UserError, match="only keys of \\[test\\]"):
        _say("eval", run, "--set", "train.steps=3")


@pytest.mark.parametrize(("labels", "classes"), [("unified", 15), ("coarse", 6)])
def test_images_are_predicted_in_any_label_space(run, world, tmp_path, labels, classes):
    images = world.folder / "unseen" / "images"
    _say("predict", run, images, "--labels", labels, "--out", tmp_path)
    masks = sorted((tmp_path / "masks").rglob("*.png"))
    assert len(masks) == len(list(images.iterdir()))
    mask = np.asarray(Image.open(masks[0]))
    assert mask.shape == (48, 64)
    assert mask.max() < classes
    assert len(list((tmp_path / "overlays").rglob("*"))) == len(masks)


def test_an_unknown_label_space_lists_those_there_are(run, world, tmp_path):
    with pytest.raises(UserError, match="fine, coarse, unified"):
        _say("predict", run, world.folder / "unseen" / "images", "--labels", "moon, puddle", "--out", tmp_path)


def test_runs_are_compared_in_one_table_and_on_a_page(run, tmp_path):
    assert "mean (shared): over fine and coarse." in _say("compare", run, "--html", tmp_path / "page.html")
    assert "mean (shared)" in (tmp_path / "page.html").read_text()


def test_a_sound_dataset_passes_its_check_and_a_broken_one_does_not(world, tmp_path):
    assert "ade20k" in _say("data")
    shown = _say("data", world.cards["fine"], world.folder / "fine", "--histogram", "--sheet", tmp_path / "sheet.png")
    assert "lane marking" in shown
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 100
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(UserError):
        _say("data", world.cards["fine"], broken)


def test_labels_of_cards_are_proposed_by_names_and_written(world, tmp_path):
    cards = [world.cards[n] for n in ("fine", "coarse", "partial")]
    shown = _say("labels", *cards, "--by", "names", "-o", tmp_path / "t.tsv", "--html", tmp_path / "t.html")
    assert "22 classes of 3 datasets in 18 unified nodes" in shown
    assert len((tmp_path / "t.tsv").read_text().splitlines()) == 19
    assert "</html>" in (tmp_path / "t.html").read_text()


def test_a_table_corrected_by_hand_is_checked_against_the_proposal(world, tmp_path):
    cards = [world.cards[n] for n in ("fine", "coarse", "partial")]
    shown = _say("labels", *cards, "--by", "names", "--taxonomy", world.truth)
    assert "only in the table: coarse:scenery with fine:building" in shown
    assert "  vehicle (coarse:vehicle)\n    car (fine:car, partial:automobile)\n    truck" in shown
    broken = tmp_path / "broken.tsv"
    broken.write_text(world.truth.read_text().replace("lorry", "lory"))
    with pytest.raises(UserError, match="'lory' is not a class of 'partial'"):
        _say("labels", *cards, "--by", "names", "--taxonomy", broken)


def test_labels_of_a_run_are_related_by_what_its_heads_confuse(run, tmp_path):
    shown = _say("labels", run, "--by", "confusion", "--html", tmp_path / "t.html")
    assert "15 classes of 2 datasets" in shown
    assert "data:image/" in (tmp_path / "t.html").read_text()


def test_labels_of_a_recipe_are_those_of_its_training_sets(world):
    assert "15 classes of 2 datasets" in _say("labels", _recipe(world, "c"), "--by", "names")


def test_confusions_of_a_wrong_shape_or_kind_are_refused(world, tmp_path):
    cards = [world.cards[n] for n in ("fine", "coarse")]
    np.savez(tmp_path / "c.npz", fine__coarse=np.ones((2, 2)))
    with pytest.raises(UserError, match="fine__coarse"):
        _say("labels", *cards, "--by", "confusion", "--confusion", tmp_path / "c.npz")
    (tmp_path / "d.npz").write_text("not an archive")
    with pytest.raises(UserError, match=r"d\.npz"):
        _say("labels", *cards, "--by", "confusion", "--confusion", tmp_path / "d.npz")


def test_the_version_is_printed_and_is_the_packages_own():
    assert _say("--version") == f"manyseg {manyseg.__version__}\n"
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "manyseg.__version__"}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_that_cannot_show_a_name_gets_it_spelled(tmp_path, encoding):
    (tmp_path / "card.toml").write_text(
        'name = "d"\nimage = "{id}.jpg"\nmask = "{id}.png"\nencoding = "index"\nsplits = { train = "train.txt" }\n'
        '[classes]\n"道路" = 0\n',
        encoding="utf-8",
    )
    ended = subprocess.run(
        [sys.executable, "-m", "manyseg.cli", "labels", "card.toml", "--by", "names", "-o", "t.tsv"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert rb"\u9053\u8def" in ended.stdout
    assert "道路" in (tmp_path / "t.tsv").read_text(encoding="utf-8")
