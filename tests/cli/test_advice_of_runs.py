"""What is said of runs, their folders and evaluations works."""

import errno
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from advice import Case, cases, check, edit, follow, remove, write

from manyseg import demo
from manyseg.errors import UserError
from manyseg.methods.baselines import MultiHead
from manyseg.models.text import TextEncoder
from manyseg.report.compare import compare
from manyseg.runs.model_card import model_card
from manyseg.runs.run import Run
from manyseg.training import checkpoint

RUNS = {
    "damaged manifest": Case(
        "predict runs/multihead photos",
        "remove it to take the run's files as they are",
        remove("runs/multihead/manifest.json"),
    ),
    "edited file": Case(
        "predict runs/multihead photos",
        "restore it, or remove .*manifest.json to take all files as they are",
        remove("runs/multihead/manifest.json"),
    ),
    "changed recipe": Case(
        "train recipe.toml --out runs/multihead --resume --set train.lr=0.5",
        "restore them, or choose another --out",
        "train recipe.toml --out runs/b --set train.lr=0.5",
    ),
    "compared twice": Case("compare runs/multihead runs/multihead", "give each run once", "compare runs/multihead"),
    "compared with none": Case("compare runs/multihead photos", "give the folder of a run", "compare runs/multihead"),
    "data without root": Case(
        "eval runs/multihead --data unseen.toml",
        "not of the form CARD=ROOT or CARD=ROOT:SPLIT",
        "eval runs/multihead --data unseen.toml=unseen",
    ),
    "split misspelt": Case(
        "eval runs/multihead --data unseen.toml=unseen:vall",
        "did you mean 'val'",
        "eval runs/multihead --data unseen.toml=unseen:val",
    ),
    "map of scored images": Case(
        "eval runs/multihead --data unseen.toml=unseen:train --relate labels",
        "score another split than 'train'",
        "eval runs/multihead --data unseen.toml=unseen:val --relate labels",
    ),
    "scored twice": Case(
        "eval runs/multihead --data unseen.toml=unseen --data unseen.toml=unseen:train",
        "evaluate one split and protocol at a time",
        "eval runs/multihead --data unseen.toml=unseen:train",
    ),
    "other classes": Case(
        "eval runs/multihead --data other.toml=fine",
        "rename the card to evaluate it as unseen",
        edit("other.toml", '"fine"', '"finer"'),
    ),
    "conflicts of one head each": Case(
        "eval runs/multihead --conflicts",
        "measure conflicts on a run of uniseg or union",
        "eval runs/union --conflicts",
    ),
    "cards that are there": Case(
        "init fine coarse", "choose another name with -o, or replace it with --force", "init fine coarse --force"
    ),
    "no such run": Case("compare nowhere", "there is no such run folder; correct its name", "compare runs/multihead"),
    "video resumed": Case(
        "predict runs/multihead photos --sequence 5 --resume",
        "a video is written as a whole; leave --resume out",
        "predict runs/multihead photos --sequence 5",
    ),
    "range for a video of no seconds": Case(
        "predict runs/multihead photos --sequence 0",
        "--sequence one of frames a second",
        "predict runs/multihead photos --sequence 5",
    ),
    "files of two kinds": Case(
        "predict runs/multihead photos --sequence 5 --write coco",
        "is not written of videos; choose from: masks, overlays",
        "predict runs/multihead photos --sequence 5 --write masks",
    ),
    "a folder in the place of a file": Case(
        "compare runs/multihead --html photos",
        "a folder has this name; choose another one",
        "compare runs/multihead --html c.html",
    ),
    "a file in the place of a folder": Case(
        "compare runs/multihead --html recipe.toml/c.html",
        "a part of the path is a file; choose another place",
        "compare runs/multihead --html c.html",
    ),
    "a name that is too long": Case(
        f"compare runs/multihead --html {'x' * 300}",
        "choose a shorter name",
        "compare runs/multihead --html c.html",
    ),
    "a place of the system": Case(
        "compare runs/multihead --html /proc/c.html",
        "choose a place where you may write",
        "compare runs/multihead --html c.html",
    ),
    "no scores to be shared": Case(
        "eval runs/multihead --data unseen.toml=nowhere",
        "there is no such folder",
        "eval runs/multihead --data unseen.toml=unseen",
    ),
    "a folder twice": Case("init fine fine -o new.toml", "give every folder once", "init fine -o new.toml"),
}


def other(place):
    text = (place / "fine.toml").read_text()
    (place / "other.toml").write_text(text.replace('"sky"', '"heaven"'))


PREPARED = {
    "damaged manifest": write("runs/multihead/manifest.json", "{"),
    "edited file": lambda place: (place / "runs/multihead/spaces.json").write_text(
        (place / "runs/multihead/spaces.json").read_text() + " "
    ),
    "other classes": other,
}


@pytest.mark.parametrize("case", cases(RUNS, PREPARED))
def test_runs(case, place, monkeypatch):
    check(case, place, monkeypatch)


def test_checkpoints_are_named_and_had_again_as_advised(finished, tmp_path):
    folder = Path(shutil.copytree(finished("multihead"), tmp_path / "run"))
    load = lambda which="best": Run.open(folder).load_model(which)  # noqa: E731
    follow(lambda: load("first"), "'first' is no checkpoint of a run; choose one of: best, last", lambda: load("last"))
    saved = checkpoint.read(folder / "best")
    tensors = saved.tensors("model")
    checkpoint.write(folder / "best", {"model": tensors}, {**saved.state, "stage": "other"})
    said = "best: of stage 'other', which the run's recipe does not have; restore the recipe, or train the run again"
    follow(load, said, lambda: [checkpoint.write(folder / "best", {"model": tensors}, saved.state), load()])
    (folder / "scores.json").write_text("{")
    with pytest.raises(UserError, match=r"scores\.json"):
        model_card(Run.open(folder), "user/name", "mit")


def test_a_run_whose_numbers_were_not_finite_goes_on_as_advised(place, monkeypatch):
    """The loss of the last step is none with the learning rate that was asked for."""
    loss, steps = MultiHead.batch_loss, []

    def spoilt(self, features, batch):
        steps.append(batch)
        factor = math.nan if len(steps) == 6 else 1
        return {name: value * factor for name, value in loss(self, features, batch).items()}

    monkeypatch.setattr(MultiHead, "batch_loss", spoilt)
    begun = "train recipe.toml --set train.steps=3 --set train.checkpoint_every=1 --set train.lr=0.01"
    check(
        Case(
            f"{begun} --out r",
            "lower train.lr, .* in another --out, and with --from this run if it has a checkpoint",
            f"{begun.replace('0.01', '0.001')} --from r --out s",
        ),
        place,
        monkeypatch,
    )


def test_memory_is_enough_as_advised(place, monkeypatch):
    loss = MultiHead.batch_loss

    def limited(self, features, batch):
        if batch.image.shape[-1] > 16:
            raise torch.OutOfMemoryError
        return loss(self, features, batch)

    monkeypatch.setattr(MultiHead, "batch_loss", limited)
    said = "lower per_step of the sets .* or data.crop, .* in another --out"
    line = "train recipe.toml --out r --set data.crop=32"
    check(Case(line, said, "train recipe.toml --out s --set data.crop=16"), place, monkeypatch)


def test_labels_of_a_run_without_its_images_are_related_as_advised(place, finished, monkeypatch):
    shutil.copytree(finished("multihead"), place / "runs/multihead")
    monkeypatch.setattr(TextEncoder, "__init__", lambda *_: None)
    monkeypatch.setattr(TextEncoder, "encode", lambda _, texts: np.eye(len(texts)))
    said = "the images of fine are not where the recipe says; use --by text"
    line = "labels runs/multihead --by confusion"
    check(Case(line, said, "labels runs/multihead --by text", remove("fine")), place, monkeypatch)


def test_none_to_compare_is_named_as_advised(finished):
    said = "there is no run to compare; give one or more run folders"
    follow(lambda: compare([]), said, lambda: compare([finished("multihead")]))


def test_an_evaluation_that_failed_goes_on_as_advised(place, monkeypatch):
    """An image is damaged while the run trains: after it was checked, and before it is evaluated."""
    image = (place / "fine").resolve() / "images/val-0001.png"
    (place / "fine").unlink()
    shutil.copytree(image.parents[1], place / "fine")
    image = place / "fine/images/val-0001.png"
    whole, loss = image.read_bytes(), MultiHead.batch_loss

    def damaging(self, features, batch):
        image.write_bytes(b"")
        return loss(self, features, batch)

    with monkeypatch.context() as patch:
        patch.setattr(MultiHead, "batch_loss", damaging)
        said = (
            "mend this, or leave such files out by --set data.on_bad_file=skip, and go on at (this|the last) evaluation"
        )

        def mend(place):
            patch.undo()
            image.write_bytes(whole)

        check(Case("train recipe.toml --out r", said, (mend, "train recipe.toml --out r --resume")), place, monkeypatch)


def test_a_disk_that_was_full_gets_room_as_advised(place, monkeypatch):
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("manyseg.runs.stages.write_results", full)
        said = "r: cannot be written .*; make room there, then go on with --resume"

        def mend(place):
            patch.undo()

        check(Case("train recipe.toml --out r", said, (mend, "train recipe.toml --out r --resume")), place, monkeypatch)


def test_the_demo_is_told_another_place_as_advised(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.txt").write_text("a")
    said = "not empty and not an earlier demo's; choose another --out"
    follow(lambda: demo._claim(tmp_path / "mine"), said, lambda: demo._claim(tmp_path / "other"))


def test_datasets_of_one_name_are_packed_as_advised(place, monkeypatch):
    (place / "two.toml").write_text((place / "coarse.toml").read_text().replace('"coarse"', '"fine"'))
    recipe = (place / "recipe.toml").read_text().replace("coarse.toml", "two.toml")
    (place / "recipe.toml").write_text(recipe)
    check(
        Case(
            "pack recipe.toml -o p",
            "two datasets are called 'fine'; give one of the cards another name",
            edit("two.toml", '"fine"', '"other"'),
        ),
        place,
        monkeypatch,
    )
