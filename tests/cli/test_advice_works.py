"""What a message advises works: each command fails with its advice, which is followed word by word, and then works.

Advice about annotation files and cards is in tests/data/test_advice.py, and that about interrupted runs in tests/runs.
"""

import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
from PIL import Image
from tiny import tiny_recipe
from typer.testing import CliRunner

from manyseg.cli import app
from manyseg.data import bands
from manyseg.errors import UserError

SETS = ("fine", "coarse")
GO = "--set train.steps=1"
LABELS = "labels recipe.toml --by names --taxonomy own.tsv"
TIED = "labels recipe.toml --by names --constraints c.toml"
CONFUSED = "labels recipe.toml --by confusion --confusion counts.npz"


class Case(NamedTuple):
    """A command, what it is told, and the command, or what is done to a folder before the same one, that then works."""

    typed: str
    said: str
    then: str | Callable[[Path], None] | tuple[Callable[[Path], None], str]


def say(line, place, monkeypatch):
    """Run a command line in a folder; return its exit code and what a person reads, in one line."""
    monkeypatch.chdir(place)
    try:
        result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
    except UserError as e:
        return 1, str(e)
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def edit(name, old, new, encoding="utf-8"):
    def change(place):
        text = (place / name).read_bytes().decode(errors="surrogateescape")
        assert old in text
        (place / name).write_bytes(text.replace(old, new, 1).encode(encoding, errors="surrogateescape"))

    return change


def write(name, text):
    return lambda place: (place / name).write_text(text)


def remove(name):
    return lambda place: (place / name).unlink()


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """Finished runs of the world by their method's name."""
    made = {}
    place = tmp_path_factory.mktemp("made")
    for name in (*world.cards, *(p.name for p in world.cards.values())):
        (place / name).symlink_to(world.folder / name)

    def get(method):
        if method not in made:
            extra = f'taxonomy = "{world.truth}"\n' if method in ("htss", "manual") else ""
            recipe = place / f"{method}.toml"
            text = tiny_recipe(*SETS, method=method, unseen=["unseen"])
            recipe.write_text(text.replace("[method]\n", f"[method]\n{extra}"))
            result = CliRunner().invoke(app, ["train", str(recipe), "--out", str(place / "runs" / method)])
            assert result.exit_code == 0, result.output
            made[method] = place / "runs" / method
        return made[method]

    return get


@pytest.fixture
def place(world, runs, tmp_path, request):
    """A folder with the world, a recipe, photos, and copies of the finished runs that a test names."""
    for name in (*world.cards, *(p.name for p in world.cards.values()), world.truth.name):
        (tmp_path / name).symlink_to(world.folder / name)
    (tmp_path / "recipe.toml").write_text(tiny_recipe(*SETS, unseen=["unseen"]))
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{i}.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(tmp_path / "deep.png")
    scene(tmp_path)
    case = request.node.callspec.params["case"]
    for method in set(re.findall(r"runs/(multihead|union|htss)", f"{case.typed} {case.then}")):
        shutil.copytree(runs(method), tmp_path / "runs" / method)
    return tmp_path


def check(case, place, monkeypatch):
    code, said = say(case.typed, place, monkeypatch)
    assert code in (1, 2), said
    assert "\n" not in said
    assert re.search(case.said, said), said
    mend, line = case.then if isinstance(case.then, tuple) else (None, case.then)
    if callable(line):
        mend, line = line, case.typed
    if mend is not None:
        mend(place)
    # What is typed beside what was there stands in the message.
    for word in set(line.split()) - set(case.typed.split()):
        if word.startswith("-"):
            assert word in said, (word, said)
    code, answer = say(line, place, monkeypatch)
    assert code == 0, answer


USAGE = {
    "card without guess": Case(
        "data -o x.toml", "-o, --choice and --force go with --guess FOLDER", "data --guess fine"
    ),
    "card without root": Case(
        "data fine.toml", "give the dataset's folder too: manyseg data CARD ROOT", "data fine.toml fine"
    ),
    "card and guess": Case("data fine.toml --guess fine", "manyseg data --guess FOLDER", "data --guess fine"),
    "pins": Case(
        "labels recipe.toml --by names --pins p.toml",
        "--pins is now called --constraints, and its keys must_link and cannot_link",
        (
            write("p.toml", 'must_link = ["fine:car = coarse:vehicle"]\n'),
            "labels recipe.toml --by names --constraints p.toml",
        ),
    ),
    "questions": Case(
        "labels recipe.toml --by names --questions 1",
        "name it with --constraints, it need not exist yet",
        "labels recipe.toml --by names --questions 1 --constraints new.toml",
    ),
    "bands": Case(
        "predict runs/multihead scene.tif --bands 1,2",
        "give three numbers from 1 on, as 4,3,2, or one",
        "predict runs/multihead scene.tif --bands 4,3,2",
    ),
    "range": Case(
        "predict runs/multihead deep.png --range 9",
        "give the values of black and white, as 0,4095",
        "predict runs/multihead deep.png --range 0,4095",
    ),
    "conflicts": Case(
        "eval runs/union --conflicts --json x.json", "it goes without other options", "eval runs/union --conflicts"
    ),
    "cross": Case("eval runs/multihead --cross --json x.json", "it goes without --json", "eval runs/multihead --cross"),
    "no folder to init": Case(
        "init",
        "name the folder of each dataset, as in: manyseg init data/a data/b",
        (remove("recipe.toml"), "init fine coarse"),
    ),
}

RECIPES = {
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


PREPARED = {
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


def staged(place, *stages):
    text = (place / "recipe.toml").read_text()
    (place / "stages.toml").write_text(re.sub(r"(?m)^steps = 1$", "", text) + "".join(stages))


def spoil(place):
    """Put a copy of a dataset in the place of one, with an image that is cut off."""
    (place / "fine").unlink()
    shutil.copytree((place / "fine.toml").resolve().parent / "fine", place / "fine")
    image = place / "fine/images/val-0001.png"
    image.write_bytes(image.read_bytes()[:900])


def scene(place):
    """Write a picture of four bands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            place / "scene.tif", "w", driver="GTiff", count=4, height=40, width=48, dtype="uint8"
        ) as file:
            file.write(np.arange(4 * 40 * 48).reshape(4, 40, 48).astype(np.uint8))


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in USAGE.items()])
def test_usage(case, place, monkeypatch):
    check(case, place, monkeypatch)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in RECIPES.items()])
def test_recipes(case, place, monkeypatch, request, world):
    PREPARED.get(request.node.callspec.id, lambda place: None)(place)
    if isinstance(case.then, str):
        case = case._replace(then=case.then.replace("{truth}", world.truth.name))
    check(case, place, monkeypatch)


TABLES = {
    "no table": Case(
        "labels recipe.toml --by names --taxonomy none.tsv",
        "there is no such taxonomy file; correct its name",
        "labels recipe.toml --by names --taxonomy truth.tsv",
    ),
    "Latin-1": Case(LABELS, "save the table as UTF-8 TSV", edit("own.tsv", "\udce9", "")),
    "first row": Case(LABELS, "the first row must start with 'unified'", edit("own.tsv", "node", "unified")),
    "no column": Case(
        LABELS, "no column for dataset 'coarse'; the columns are: fine, rough", edit("own.tsv", "rough", "coarse")
    ),
    "node without name": Case(
        LABELS, "row 2: the node has no name; fill the first column", edit("own.tsv", "\n\t", "\nsky\t")
    ),
    "node twice": Case(
        LABELS,
        r"node '\w+' is named in row 2 too; join the rows or rename one",
        edit("own.tsv", "sky\tbuilding", "building\tbuilding"),
    ),
    "class misspelt": Case(
        LABELS, "'skyy' is not a class of 'fine', did you mean 'sky'", edit("own.tsv", "skyy", "sky")
    ),
    "class in no row": Case(
        LABELS,
        r"1 of 9 classes of 'fine' have no unified node \(tree\); add each to a row",
        edit("own.tsv", "\t\tscenery\tfoliage", "\ttree\tscenery\tfoliage"),
    ),
    "constraint of no pair": Case(
        TIED,
        'write it as "dataset:class = dataset:class"',
        write("c.toml", 'must_link = ["fine:car = coarse:vehicle"]'),
    ),
    "constraint of an unknown class": Case(
        TIED, "there is no 'coarse:auto'", write("c.toml", 'must_link = ["fine:car = coarse:vehicle"]')
    ),
    "constraint of one dataset": Case(
        TIED,
        "must_link joins two classes of one dataset .*; remove one of its pairs",
        write("c.toml", "must_link = []"),
    ),
    "constraint that is no list": Case(
        TIED, 'write must_link = \\["a:car = b:auto"\\]', write("c.toml", 'must_link = ["fine:car = coarse:vehicle"]')
    ),
    "constraint of an old name": Case(
        TIED, "'must' is now called 'must_link'; rename it", edit("c.toml", "must ", "must_link ")
    ),
    "linked and parted": Case(TIED, "remove one", write("c.toml", 'must_link = ["fine:car = coarse:vehicle"]')),
    "confusion of a dataset that is not there": Case(
        CONFUSED,
        "is not 'a__b' of two of the datasets; they are: coarse, fine",
        lambda place: counts(place, "fine__coarse", 9, 6),
    ),
    "confusion of another shape": Case(
        CONFUSED,
        "give one row for each class of 'fine' and one column for each of 'coarse'",
        lambda place: counts(place, "fine__coarse", 9, 6),
    ),
    "names that mean nothing to text": Case(
        "labels recipe.toml --by text --text nowhere/encoder",
        "`--by names` needs none",
        "labels recipe.toml --by names",
    ),
}


def table(change):
    """Write the true table of the world, changed."""

    def prepare(place):
        text = "".join(line.rstrip("\n") + "\n" for line in (place / "truth.tsv").read_text().splitlines())
        (place / "own.tsv").write_bytes(change(text).encode(errors="surrogateescape"))

    return prepare


def counts(place, name, rows, columns):
    np.savez(place / "counts.npz", **{name: np.ones((rows, columns), np.int64)})


def swap(old, new):
    def change(text):
        assert old in text, (old, text)
        return text.replace(old, new, 1)

    return change


PREPARED |= {
    "table/Latin-1": table(lambda text: text + "\udce9"),
    "table/first row": table(swap("unified", "node")),
    "table/no column": table(swap("coarse", "rough")),
    "table/node without name": table(swap("\nsky\t", "\n\t")),
    "table/node twice": table(swap("building\tbuilding", "sky\tbuilding")),
    "table/class misspelt": table(swap("sky\tsky\tsky", "sky\tskyy\tsky")),
    "table/class in no row": table(swap("\ttree\tscenery\tfoliage", "\t\tscenery\tfoliage")),
    "table/constraint of no pair": write("c.toml", 'must_link = ["car and vehicle"]'),
    "table/constraint of an unknown class": write("c.toml", 'must_link = ["fine:car = coarse:auto"]'),
    "table/constraint of one dataset": write("c.toml", 'must_link = ["fine:car = fine:truck"]'),
    "table/constraint that is no list": write("c.toml", 'must_link = "fine:car = coarse:vehicle"'),
    "table/constraint of an old name": write("c.toml", 'must = ["fine:car = coarse:vehicle"]'),
    "table/linked and parted": write(
        "c.toml", 'must_link = ["fine:car = coarse:vehicle"]\ncannot_link = ["fine:car = coarse:vehicle"]'
    ),
    "table/confusion of a dataset that is not there": lambda place: counts(place, "fine__park", 9, 3),
    "table/confusion of another shape": lambda place: counts(place, "fine__coarse", 3, 6),
}

PREDICTIONS = {
    "no run": Case("predict nowhere photos", "give the folder of a run", "predict runs/multihead photos"),
    "no image": Case(
        "predict runs/multihead none.png",
        "there is no such image or folder; check the path",
        "predict runs/multihead photos/0.png",
    ),
    "no image in a folder": Case(
        "predict runs/multihead empty", r"no image in this folder \(.bmp, .jpeg", "predict runs/multihead photos"
    ),
    "an input would be overwritten": Case(
        "predict runs/multihead masks/0.png --out .",
        "write to another folder with --out",
        "predict runs/multihead masks/0.png --out p",
    ),
    "16 bits": Case(
        "predict runs/multihead deep.png", "--range 0,4095", "predict runs/multihead deep.png --range 0,4095"
    ),
    "pages": Case(
        "predict runs/multihead pages.tif", "save each as an image of its own", "predict runs/multihead photos"
    ),
    "many bands": Case(
        "predict runs/multihead six.tif",
        "--bands 3,2,1 --range 0,4095",
        "predict runs/multihead six.tif --bands 3,2,1 --range 0,4095",
    ),
    "no band of that number": Case(
        "predict runs/multihead scene.tif --bands 7",
        "names band 7, but the image has 4",
        "predict runs/multihead scene.tif --bands 4",
    ),
    "floating point": Case(
        "predict runs/multihead float.tif --bands 1",
        "--range BLACK,WHITE",
        "predict runs/multihead float.tif --bands 1 --range 0,1",
    ),
    "no such labels": Case(
        "predict runs/multihead photos --labels finne",
        "did you mean 'fine'|give one of these",
        "predict runs/multihead photos --labels fine",
    ),
    "values of no card": Case(
        "predict runs/multihead photos --values card", "leave --values card out", "predict runs/multihead photos"
    ),
    "submission of no card": Case(
        "predict runs/multihead photos --write submission",
        "give --labels a dataset or card",
        "predict runs/multihead photos --write submission --labels fine",
    ),
    "smooth photos": Case(
        "predict runs/multihead photos/0.png --smooth 1", "leave them out", "predict runs/multihead photos/0.png"
    ),
    "sequence of one photo": Case(
        "predict runs/multihead photos/0.png --sequence 5", "leave them out", "predict runs/multihead photos/0.png"
    ),
    "segments of classes": Case(
        "predict runs/multihead photos --segments coco_panoptic",
        "leave --segments out",
        "predict runs/multihead photos",
    ),
    "resumed with other labels": Case(
        "predict runs/multihead photos --out p --resume --labels fine",
        "leave --resume out to write all again, or choose another --out",
        "predict runs/multihead photos --out p --labels fine",
    ),
    "resumed with a file at the end": Case(
        "predict runs/multihead photos --write coco --resume --labels fine",
        "leave --resume out, or that kind of file",
        "predict runs/multihead photos --write coco --labels fine",
    ),
    "scores of a hierarchy": Case(
        "predict runs/htss photos --labels hierarchy --write scores",
        "write masks",
        "predict runs/htss photos --labels hierarchy --write masks",
    ),
    "set of a trained run": Case(
        "predict runs/multihead photos --set train.lr=1",
        r"only keys of \[test\] can be set, as test.flip=true",
        "predict runs/multihead photos --set test.flip=true",
    ),
    "large image": Case(
        "predict runs/multihead large.tif",
        r"--set test.window=\[1024,1024\]",
        "predict runs/multihead large.tif --set test.window=[1024,1024]",
    ),
    "a kind that is not written of large images": Case(
        "predict runs/multihead large.tif --write geojson --set test.window=[1024,1024]",
        "choose from: masks, overlays",
        "predict runs/multihead large.tif --write masks --set test.window=[1024,1024]",
    ),
}


def tiff(name, values):
    def prepare(place):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            count, height, width = values.shape
            options = {"count": count, "height": height, "width": width, "dtype": str(values.dtype)}
            with rasterio.open(place / name, "w", driver="GTiff", **options) as file:
                file.write(values)

    return prepare


def moved(place):
    (place / "masks").mkdir()
    shutil.copy(place / "photos/0.png", place / "masks/0.png")


def pages(place):
    first, second = (Image.open(place / f"photos/{i}.png") for i in range(2))
    first.save(place / "pages.tif", save_all=True, append_images=[second])


def earlier(place):
    assert (
        CliRunner().invoke(app, [*f"predict {place}/runs/multihead {place}/photos --out {place}/p".split()]).exit_code
        == 0
    )


PREPARED |= {
    "predict/an input would be overwritten": moved,
    "predict/pages": pages,
    "predict/many bands": tiff("six.tif", np.full((6, 40, 48), 3000, np.uint16)),
    "predict/floating point": tiff("float.tif", np.full((2, 40, 48), 0.5, np.float32)),
    "predict/resumed with other labels": earlier,
}

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


PREPARED |= {
    "run/damaged manifest": write("runs/multihead/manifest.json", "{"),
    "run/edited file": lambda place: (place / "runs/multihead/spaces.json").write_text(
        (place / "runs/multihead/spaces.json").read_text() + " "
    ),
    "run/other classes": other,
}


@pytest.mark.parametrize("case", [pytest.param(case, id=f"table/{name}") for name, case in TABLES.items()])
def test_tables(case, place, monkeypatch, request):
    PREPARED.get(request.node.callspec.id, lambda place: None)(place)
    check(case, place, monkeypatch)


@pytest.mark.parametrize("case", [pytest.param(case, id=f"predict/{name}") for name, case in PREDICTIONS.items()])
def test_predictions(case, place, monkeypatch, request):
    if "large.tif" in case.typed:
        monkeypatch.setattr(bands, "LARGE", 100 * 100)
        tiff("large.tif", np.zeros((3, 100, 100), np.uint8))(place)
    PREPARED.get(request.node.callspec.id, lambda place: None)(place)
    check(case, place, monkeypatch)


@pytest.mark.parametrize("case", [pytest.param(case, id=f"run/{name}") for name, case in RUNS.items()])
def test_runs(case, place, monkeypatch, request):
    PREPARED.get(request.node.callspec.id, lambda place: None)(place)
    check(case, place, monkeypatch)
