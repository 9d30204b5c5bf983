"""What is said of runs, their folders and evaluations works."""

import pytest
from advice import Case, cases, check, edit, remove, write

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
