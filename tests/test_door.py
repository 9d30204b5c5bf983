"""`import manyseg`: what a user finds behind the package's own name."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import manyseg
from manyseg import testing
from manyseg.config import to_toml
from manyseg.export.files import OLDEST, check_request
from manyseg.labels import IGNORE
from manyseg.methods import find_method

ROOT = Path(__file__).parent.parent

MINE = """
import torch
from torch import nn

from manyseg import PixelMethod, Taxonomy, losses


class Mine(PixelMethod):
    \"\"\"One linear layer over the union of names.\"\"\"

    def __init__(self, pixel_encoder, spaces, *, scale: float = 1.0) -> None:
        super().__init__(pixel_encoder, spaces)
        self._taxonomy = Taxonomy.by_name(self.spaces)
        self.head = nn.Conv2d(pixel_encoder.channels, len(self._taxonomy.unified), 1)
        self.scale = scale

    @property
    def taxonomy(self):
        return self._taxonomy

    def unified(self, embedding):
        return self.scale * self.head(embedding)

    def relate(self, unified, index):
        return losses.class_logsumexp(unified, index)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package of somebody else, with a method."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "somebody_else.py").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory, package):
    """A run of the other package's method on the generated world, trained by the door."""
    folder = tmp_path_factory.mktemp("door")
    sets = [
        {"card": str(world.cards[name]), "root": str(world.folder / name), "per_step": 1} for name in ("fine", "coarse")
    ]
    recipe = {
        "data": {"crop": [32, 32], "workers": 0, "sets": sets},
        "model": {"backbone": "tiny", "pretrained": False, "channels": 8},
        "method": {"name": "somebody_else:Mine", "scale": 2.0},
        "train": {"steps": 2},
    }
    (folder / "recipe.toml").write_text(to_toml(recipe))
    return manyseg.train(recipe, out=folder / "run")


@pytest.fixture(scope="module")
def model(trained):
    return manyseg.load(trained)


@pytest.fixture(scope="module")
def photo(world):
    return next((world.folder / "fine" / "images").rglob("*.*"))


def test_the_examples_of_the_python_page_work(trained, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(photo, "photo.jpg")
    shutil.copy(Path(trained).parent / "recipe.toml", "recipe.toml")
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert names["again"].to_tsv() == names["model"].taxonomy.to_tsv()
    assert names["confidence"].max() <= 1
    assert {p.name for p in tmp_path.iterdir()} >= {"mask.png", "overlay.png", "taxonomy.tsv", "labels.tsv", "runs"}


def test_the_method_of_the_page_on_adding_works_as_it_is_printed():
    page = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"^```python\n(.*?^class Mine.*?)^```", page, re.MULTILINE | re.DOTALL).group(1), names)
    for check in testing.EXAM[1:6]:
        check(names["Mine"])


def test_one_text_or_path_is_as_good_as_a_list_of_one(trained):
    recipe = trained.parent / "recipe.toml"
    for source in (trained, str(trained), recipe, str(recipe)):
        assert len(manyseg.propose_labels(source, by="names").taxonomy.spaces) == 2
    assert manyseg.propose_labels("camvid11", by="names").taxonomy.spaces[0].name == "camvid11"
    assert manyseg.load(trained, overrides="test.flip=true").predict is not None
    with pytest.raises(manyseg.UserError, match=r"only keys of \[test\]"):
        manyseg.load(trained, overrides="train.lr=1")
    with pytest.raises(manyseg.UserError, match=r"train\.slower"):
        manyseg.train(recipe, overrides="train.slower=1")
    with pytest.raises(manyseg.UserError, match=r"lane\.toml"):
        manyseg.evaluate(trained, data="lane.toml=lane:val")


def test_every_public_name_is_there_and_nothing_else_is_promised():
    for name in manyseg.__all__:
        assert getattr(manyseg, name) is not None
    assert dir(manyseg) == sorted(manyseg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = manyseg.lode


def test_the_version_is_that_of_the_package_and_the_command_line_prints_it():
    out = subprocess.run([sys.executable, "-m", "manyseg.cli", "--version"], capture_output=True, text=True, check=True)
    assert out.stdout == f"manyseg {manyseg.__version__}\n"


def test_a_file_a_picture_an_array_and_a_tensor_give_the_same_label_map(model, photo):
    picture = Image.open(photo)
    array = np.asarray(picture.convert("RGB"))
    found = model.predict(photo)
    assert found.labels.shape == array.shape[:2]
    assert found.space == model.taxonomy.unified
    for image in (str(photo), picture, array, testing.torch.from_numpy(array.transpose(2, 0, 1).copy())):
        assert (model.predict(image).labels == found.labels).all()
    both = model.predict([photo, array])
    assert [(one.labels == found.labels).all() for one in both] == [True, True]


def test_a_prediction_knows_its_names_colours_shares_and_scores(model, photo, tmp_path):
    space = model.spaces[0]
    found = model.predict(photo, space.name, scores=True)
    assert found.names == space.names
    assert (found.colors == space.colors).all()
    assert found.scores is not None
    assert found.scores.shape[0] == len(space)
    assert model.predict(photo).scores is None
    assert sum(found.shares.values()) == pytest.approx((found.labels != IGNORE).mean())
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    with Image.open(found.save(tmp_path / "mask.png")) as mask:
        assert (np.asarray(mask) == found.labels).all()
    with pytest.raises(manyseg.UserError, match=r"end the name in \.png"):
        found.save(tmp_path / "mask.jpg")
    overlay = found.overlay()
    assert overlay.size[0] > overlay.size[1]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), r"array float64 \[4, 4, 3\]; give uint8"),
        (np.zeros((3, 4, 4), np.uint8), r"array uint8 \[3, 4, 4\]; give uint8 \[H, W, 3\]"),
        (testing.torch.zeros(3, 4, 4), r"tensor torch.float32 \[3, 4, 4\]; give uint8 \[3, H, W\]"),
        (7, "is a int; give a path"),
        ("nowhere.jpg", "nowhere.jpg"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(model, image, message):
    with pytest.raises(manyseg.UserError, match=message) as error:
        model.predict(image)
    assert "\n" not in str(error.value)


def test_words_of_a_list_are_taken_one_by_one_whatever_they_hold(model):
    assert model.space(["car, parked", "road"]).names == ("car, parked", "road")
    assert model.space("car, road").names == ("car", "road")


def test_scores_and_label_map_of_an_image_come_from_one_pass_of_every_view(model, photo):
    passes = []
    hook = model.method.pixel_encoder.register_forward_hook(lambda *_: passes.append(1))
    mirrored = manyseg.Model(model.method, model.spaces, model.options.model_copy(update={"flip": True}))
    try:
        found = mirrored.predict(photo, scores=True)
        assert len(passes) == 2
        assert (mirrored.predict(photo).labels == found.labels).all()
        assert len(passes) == 4
    finally:
        hook.remove()


def test_words_are_refused_by_a_model_that_reads_none_unless_nodes_have_their_names(model, photo, caplog):
    with pytest.raises(manyseg.UserError, match="no unified node has the name of one of its classes"):
        model.predict(photo, ["puddle", "zebra"])
    assert set(np.unique(model.predict(photo, ["road", "puddle"]).labels)) <= {IGNORE, 0}
    assert "never predicted: puddle" in caplog.text


def test_a_photo_that_is_turned_by_exif_is_seen_upright_from_a_file_and_from_memory(model, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (40, 64, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    found = model.predict(tmp_path / "turned.png")
    assert found.labels.shape == (64, 40)
    assert (model.predict(Image.open(tmp_path / "turned.png")).labels == found.labels).all()


def test_the_method_of_another_package_is_trained_evaluated_and_loaded_with_its_options(trained, model):
    assert type(model.method).__module__ == "somebody_else"
    assert model.method.scale == 2.0
    assert manyseg.evaluate(trained).datasets.keys() == {space.name for space in model.spaces}


@pytest.mark.parametrize("check", testing.EXAM, ids=lambda check: check.__name__)
def test_the_exam_of_a_method_of_another_package(package, check):
    check(find_method("somebody_else:Mine"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package:Mine", "no module 'no_such_package'; install"),
        ("somebody_else:Yours", "has no 'Yours'"),
        ("somebody_else:losses", "not a class derived from manyseg.Method"),
    ],
)
def test_a_method_that_cannot_be_had_is_an_error_in_one_line(package, name, message):
    with pytest.raises(manyseg.UserError, match=message):
        find_method(name)


def test_an_option_that_the_other_method_does_not_have_is_an_error(package, trained):
    recipe = Path(trained).parent / "recipe.toml"
    with pytest.raises(manyseg.UserError, match=r"method\.scael: unknown key, did you mean 'scale'"):
        manyseg.train(recipe, out=recipe.parent / "other", overrides=["method.scael=1.0"])


@pytest.mark.skipif(testing.torch.__version__ < OLDEST, reason=f"exports need torch {OLDEST}")
def test_a_run_is_exported_by_the_command_line_and_compared_with_its_network(
    trained, model, photo, tmp_path, capsys, unchecked
):
    from manyseg.cli import app
    from manyseg.export.predictor import Predictor

    space = model.spaces[0]
    app(["export", str(trained), "-o", str(tmp_path / "m.onnx"), "--labels", space.name, "--images", str(photo)],
        standalone_mode=False)  # fmt: skip
    wrote, compared = capsys.readouterr().out.strip().splitlines()
    assert wrote.startswith(f"wrote {tmp_path / 'm.onnx'} (")
    assert compared == f"label_map/{space.name}: 100.00% of the pixels of 1 images have the network's class"
    found = Predictor(tmp_path / "m.onnx").predict(Image.open(photo))
    assert found.shape == model.predict(photo).labels.shape


@pytest.mark.skipif(testing.torch.__version__ < OLDEST, reason=f"exports need torch {OLDEST}")
def test_an_export_that_cannot_be_is_refused_before_anything_is_written(model, photo, tmp_path):
    with pytest.raises(manyseg.UserError, match=r"m\.tflite: give a name that ends in \.onnx"):
        model.export(tmp_path / "m.tflite")
    with pytest.raises(manyseg.UserError, match="are for ONNX files"):
        model.export(tmp_path / "m.pt2", precision="fp16")
    with pytest.raises(manyseg.UserError, match="reads no words"):
        model.export(tmp_path / "m.onnx", words=True)
    assert list(tmp_path.iterdir()) == []


def test_a_torch_that_cannot_write_exports_is_named_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("manyseg.export.files.OLDEST", "99")
    with pytest.raises(manyseg.UserError, match=r"m\.onnx: exports need torch 99 or newer, and this is .*; upgrade"):
        check_request(tmp_path / "m.onnx", "fp32", [])
