"""What is said of recipes works; every command is typed, told what to do, and does it."""

import re
import shutil
import sys

import pytest
from advice import Case, cases, check, edit, write

GO = "--set train.steps=1"

RECIPES = {
    "name too long": Case(f"train {'x' * 300}.toml", "correct its name or its permissions", "train recipe.toml"),
    "nested too deep": Case(
        "train deep.toml",
        "nested too deep; 100 levels are enough for all",
        lambda place: shutil.copy(place / "recipe.toml", place / "deep.toml"),
    ),
    "old key": Case(
        "train recipe.toml --set method.name=htss --set method.taxonomy={truth} --set method.mean=pixel",
        "method.mean: is now divisor",
        "train recipe.toml --set method.name=htss --set method.taxonomy={truth} --set method.divisor=pixel",
    ),
    "true for a number": Case(
        "train recipe.toml --set train.steps=true",
        "a whole number is needed .it is true.",
        "train recipe.toml --set train.steps=1",
    ),
    "method that is not there": Case(
        "train recipe.toml --set method.name=manyseg.methods.baselines:Nothing",
        "has no 'Nothing'; correct the name",
        "train recipe.toml --set method.name=manyseg.methods.baselines:MultiHead",
    ),
    "method that is none": Case(
        "train recipe.toml --set method.name=manyseg.errors:UserError",
        "is not a class derived from manyseg.Method; see docs/adding.md",
        "train recipe.toml --set method.name=manyseg.methods.baselines:MultiHead",
    ),
    "method that cannot be imported": Case(
        "train recipe.toml --set method.name=broken_method:MultiHead",
        "cannot be imported .*; mend it",
        write("broken_method.py", "from manyseg.methods.baselines import MultiHead\n"),
    ),
    "stage of a later one": Case(
        "train stages.toml", "the stages before it: a; name one", edit("stages.toml", "stage:z", "stage:a")
    ),
    "no weights to check": Case(
        "train recipe.toml --check --set model.pretrained=x.pt",
        "there is no file .*x.pt; correct its name",
        "train recipe.toml --check --set model.pretrained=false",
    ),
    "no table to check": Case(
        "train recipe.toml --check --set method.name=uniseg --set method.relations=x.tsv",
        "there is no file .*x.tsv; correct its name",
        "train recipe.toml --check --set method.name=uniseg --set method.relations=r.tsv",
    ),
    "bad data to check": Case(
        "train recipe.toml --check",
        "1 kind of error in the data, listed above; correct the files",
        lambda place: shutil.copy(
            (place / "fine.toml").resolve().parent / "fine/images/val-0001.png", place / "fine/images"
        ),
    ),
    "run there to check": Case(
        "train recipe.toml --check --out runs/multihead", "choose another --out", "train recipe.toml --check --out r"
    ),
    "dataset that is evaluated twice": Case(
        "train recipe.toml --set data.unseen.0.card=fine.toml --set data.unseen.0.root=fine",
        "give one of the cards another name",
        "train recipe.toml --set data.unseen.0.card=named.toml --set data.unseen.0.root=fine",
    ),
    "annotation that a method does not learn from": Case(
        "train recipe.toml --set method.name=uniseg --set train.steps=2 --set data.sets.0.annotation=tags",
        "leave it out or choose another method",
        "train recipe.toml --set method.name=multihead --set train.steps=2 --set data.sets.0.annotation=tags",
    ),
    "temperature without its mix": Case(
        "train recipe.toml --set data.temperature=2",
        'temperature goes with mix = "temperature"',
        "train recipe.toml --set data.temperature=2 --set data.mix=temperature --set data.batch=2 "
        "--set data.sets.0.per_step= --set data.sets.1.per_step=",
    ),
    "set without key": Case(
        f"train recipe.toml --set lr {GO}", "such as train.lr=1e-3", f"train recipe.toml --set train.lr=1e-3 {GO}"
    ),
    "set of no place": Case(
        f"train recipe.toml --set data.sets.7.root=x {GO}",
        "the recipe has no place 'data.sets.7.root'",
        f"train recipe.toml --set data.sets.1.root=coarse {GO}",
    ),
    "no recipe": Case("train none.toml", "there is no such file; correct its name", "train recipe.toml"),
    "folder": Case("train fine", "is a folder; give a TOML file", "train recipe.toml"),
    "Latin-1": Case(
        "train latin.toml",
        "save it as UTF-8 text",
        lambda place: (place / "latin.toml").write_text((place / "recipe.toml").read_text()),
    ),
    "name of other signs": Case(
        "train recipe.toml",
        "names of other signs than A-Z a-z 0-9 _ - are written in quotes",
        edit("recipe.toml", "straße", '"straße"'),
    ),
    "key twice": Case(
        "train recipe.toml",
        "the name is there twice: remove one of the two lines",
        edit("recipe.toml", "steps = 1\nsteps = 1\n", "steps = 1\n"),
    ),
    "method misspelt": Case(
        "train recipe.toml --set method.name=multihed",
        "did you mean 'multihead'",
        "train recipe.toml --set method.name=multihead",
    ),
    "key misspelt": Case(
        "train recipe.toml --set train.stepz=2", "did you mean 'steps'", "train recipe.toml --set train.steps=2"
    ),
    "backbone misspelt": Case(
        "train recipe.toml --set model.backbone=resnet81",
        "did you mean .*resnet18",
        "train recipe.toml --set model.backbone=resnet18",
    ),
    "published weights of none": Case(
        "train recipe.toml --set model.pretrained=true",
        "set pretrained = false or a file",
        "train recipe.toml --set model.pretrained=false",
    ),
    "no weights file": Case(
        "train recipe.toml --set model.pretrained=x.pt",
        "give the path of one, or true or false|there is no file",
        "train recipe.toml --set model.pretrained=false",
    ),
    "too few steps": Case(
        "train recipe.toml --set method.name=uniseg",
        "give 2 or more",
        "train recipe.toml --set method.name=uniseg --set train.steps=2",
    ),
    "no file of a method": Case(
        "train recipe.toml --set method.name=manual --set method.taxonomy=x.tsv",
        "there is no",
        "train recipe.toml --set method.name=manual --set method.taxonomy={truth}",
    ),
    "stage's own steps": Case(
        "train stages.toml",
        "write the stage's steps beside its name",
        edit("stages.toml", "train = { steps = 1 }", ""),
    ),
    "stages of one name": Case(
        "train stages.toml", "give one of them another name", edit("stages.toml", 'name = "a"', 'name = "z"')
    ),
    "too few steps for stages": Case(
        "train stages.toml --set train.steps=1",
        "too few for 2 stages; give at least one each",
        "train stages.toml --set train.steps=2",
    ),
    "fp16": Case(
        "train recipe.toml --set train.precision=fp16",
        "use bf16 or fp32",
        "train recipe.toml --set train.precision=bf16",
    ),
    "shard": Case(
        "train recipe.toml --set train.shard=true",
        "or set train.shard = false",
        "train recipe.toml --set train.shard=false",
    ),
    "test set misspelt": Case(
        "train recipe.toml --set test.sets.fin.flip=true",
        "did you mean 'fine'",
        "train recipe.toml --set test.sets.fine.flip=true",
    ),
    "no root": Case(
        "train recipe.toml --set data.root=nowhere",
        "say where all datasets are: --data-root DIR",
        "train recipe.toml --data-root .",
    ),
    "bad data": Case(
        "train recipe.toml --out r",
        "correct them, or train with --no-check",
        lambda place: shutil.copy(
            (place / "fine.toml").resolve().parent / "fine/images/val-0001.png", place / "fine/images"
        ),
    ),
    "run there": Case(
        "train recipe.toml --out runs/multihead", "choose another --out", "train recipe.toml --out runs/b"
    ),
    "from itself": Case(
        "train recipe.toml --out runs/multihead --from runs/multihead",
        "choose another --out",
        "train recipe.toml --out runs/b --from runs/multihead",
    ),
    "other network": Case(
        "train recipe.toml --from runs/multihead --set model.channels=9",
        "leave \\[model\\] out",
        "train bare.toml --from runs/multihead",
    ),
    "per_step missing": Case(
        "train recipe.toml --set data.sets.1.per_step=",
        "has no per_step; give its images a step",
        "train recipe.toml --set data.sets.1.per_step=1",
    ),
    "batch with per_step": Case(
        "train recipe.toml",
        "remove it, or choose another mix",
        edit("recipe.toml", "batch = 2\n", ""),
    ),
    "mix without batch": Case(
        "train recipe.toml --set data.mix=sqrt",
        "needs batch, the images of a step in all",
        "train recipe.toml --set data.mix=sqrt --set data.batch=2 --set data.sets.0.per_step= "
        "--set data.sets.1.per_step=",
    ),
    "names twice": Case(
        "train recipe.toml --set data.sets.1.card=fine.toml --set data.sets.1.root=fine",
        "give one of the cards another name",
        "train recipe.toml --set data.sets.1.card=coarse.toml --set data.sets.1.root=coarse",
    ),
    "own method": Case(
        "train recipe.toml --set method.name=nopackage:Method",
        "install its package, or correct the name",
        "train recipe.toml --set method.name=manyseg.methods.baselines:MultiHead",
    ),
    "window off the grid": Case(
        "train recipe.toml --set test.window=[40,64]",
        "both sides must be multiples of 32",
        "train recipe.toml --set test.window=[32,64]",
    ),
    "crop of one pixel": Case(
        "train recipe.toml --set data.crop=0", "data.crop", "train recipe.toml --set data.crop=32"
    ),
    "ohem": Case("train recipe.toml --set method.ohem=7", "0.7 is usual", "train recipe.toml --set method.ohem=0.7"),
    "trainable": Case(
        "train recipe.toml --set model.trainable=half",
        'give "all", "none", "last:4"',
        "train recipe.toml --set model.trainable=all",
    ),
}


def stage(name, more):
    return f'[[stage]]\nname = "{name}"\n{more}\n'


def staged(place, *stages):
    text = (place / "recipe.toml").read_text()
    (place / "stages.toml").write_text(re.sub(r"(?m)^steps = 1$", "", text) + "".join(stages))


def spoil(place):
    """Put a copy of a dataset in the place of one, with an image that is cut off."""
    (place / "fine").unlink()
    shutil.copytree((place / "fine.toml").resolve().parent / "fine", place / "fine")
    image = place / "fine/images/val-0001.png"
    image.write_bytes(image.read_bytes()[:900])


PREPARED = {
    "nested too deep": write("deep.toml", "a = " + "[" * 5000 + "]" * 5000),
    "method that cannot be imported": write("broken_method.py", "from os import nothing_of_this_name\n"),
    "stage of a later one": lambda place: staged(
        place, stage("a", "steps = 1"), stage("b", 'steps = 1\nmethod = { name = "manual", taxonomy = "stage:z" }')
    ),
    "no table to check": write("r.tsv", "dataset\tclass\tpart of\n"),
    "bad data to check": lambda place: spoil(place),
    "dataset that is evaluated twice": lambda place: (place / "named.toml").write_text(
        (place / "fine.toml").read_text().replace('name = "fine"', 'name = "other"')
    ),
    "Latin-1": lambda place: (place / "latin.toml").write_bytes(
        (place / "recipe.toml").read_bytes() + "# é".encode("latin-1")
    ),
    "name of other signs": edit(
        "recipe.toml", "per_step = 1 }", 'per_step = 1, merge = { straße = ["car", "truck"] } }'
    ),
    "batch with per_step": edit("recipe.toml", "workers", "batch = 2\nworkers"),
    "key twice": edit("recipe.toml", "steps = 1\n", "steps = 1\nsteps = 1\n"),
    "stage's own steps": lambda place: staged(
        place, stage("a", "steps = 1\ntrain = { steps = 1 }"), stage("b", "steps = 1")
    ),
    "stages of one name": lambda place: staged(place, stage("a", "steps = 1"), stage("a", "steps = 1")),
    "too few steps for stages": lambda place: staged(place, stage("a", "steps = 1"), stage("b", "steps = 1")),
    "other network": lambda place: write(
        "bare.toml", re.sub(r"(?s)\[model\].*?(?=\[method)", "", (place / "recipe.toml").read_text())
    )(place),
    "bad data": lambda place: spoil(place),
}


@pytest.mark.parametrize("case", cases(RECIPES, PREPARED))
def test_recipes(case, place, monkeypatch, world):
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "broken_method", raising=False)
    if isinstance(case.then, str):
        case = case._replace(
            typed=case.typed.replace("{truth}", world.truth.name), then=case.then.replace("{truth}", world.truth.name)
        )
    check(case, place, monkeypatch)
