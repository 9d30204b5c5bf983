"""Images and folders to masks and overlays."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from brightness import PARK, STREET, Brightness, photo, read
from PIL import Image

from manyseg.data.files import DataError
from manyseg.errors import UserError
from manyseg.inference.encoded_images import EncodedImages, OutputSpace
from manyseg.inference.options import TestOptions
from manyseg.labels import IGNORE, LabelClass, LabelSpace
from manyseg.methods import find_method
from manyseg.models import PixelEncoder
from manyseg.prediction.drawing import mask_image, overlay
from manyseg.prediction.model import Model, find_space
from manyseg.prediction.photo import read_photo
from manyseg.prediction.predict import predict_paths


@pytest.fixture
def method():
    return Brightness()


def oriented(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_a_mask_an_overlay_and_the_labels_are_written(tmp_path, method):
    image = photo(tmp_path / "in/a.png")
    (mask,) = predict_paths(Model(method, [STREET, PARK]), [image], "street", tmp_path / "out").files
    assert mask == tmp_path / "out/masks/a.png"
    mode, values = read(mask)
    assert mode == "P"
    np.testing.assert_array_equal(values, np.repeat([[0] * 6 + [1] * 6], 8, 0))
    with Image.open(mask) as opened:
        assert opened.getpalette()[:6] == [10, 20, 30, 200, 100, 0]
        assert np.array(opened.convert("RGB"))[0, -1].tolist() == [200, 100, 0]
    with Image.open(tmp_path / "out/overlays/a.jpg") as picture:
        assert picture.size[0] > 640
    labels = json.loads((tmp_path / "out/labels.json").read_text())
    assert len(labels.pop("made_by")) == 64
    assert labels == {
        "space": "street",
        "classes": [
            {"value": 0, "name": "dark", "color": "#0a141e"},
            {"value": 1, "name": "bright", "color": "#c86400"},
        ],
        "ignored": 255,
        "kinds": ["masks", "overlays"],
    }


def test_unified_labels_are_the_default(tmp_path, method):
    predict_paths(Model(method, [STREET, PARK]), [photo(tmp_path / "a.png")], out=tmp_path / "out")
    assert len(json.loads((tmp_path / "out/labels.json").read_text())["classes"]) == 5


def test_unified_labels_of_datasets_that_share_none_are_said_to_mean_little(tmp_path, caplog):
    photos = [photo(tmp_path / "a.png")]
    for name, labels in (("multihead", "unified"), ("multihead", "street"), ("union", "unified")):
        caplog.clear()
        spaces = [STREET, PARK if name == "multihead" else LabelSpace.of("park", STREET.names)]
        method = find_method(name)(PixelEncoder.build(backbone="tiny", pretrained=False, channels=16), spaces)
        predict_paths(Model(method, spaces), photos, labels, tmp_path / name / labels)
        said = [m for m in caplog.messages if "side by side" in m]
        assert len(said) == ((name, labels) == ("multihead", "unified"))
        if said:
            assert "the 5 nodes" in said[0]
            assert "--labels street" in said[0]
            assert "method.name=manual, method.taxonomy=labels.tsv" in said[0]


def test_a_space_is_asked_by_name_and_anything_else_is_words():
    method = Brightness()
    assert find_space(method, [STREET, PARK], "park") is PARK
    assert find_space(method, [STREET, PARK], "unified") is method.taxonomy.unified
    assert find_space(method, [STREET], "road,  puddle, road").names == ("road", "puddle")
    with pytest.raises(UserError):
        find_space(method, [STREET], " , ")


def test_words_are_refused_by_a_method_that_knows_no_language(tmp_path, method):
    with pytest.raises(UserError, match=r"'road, puddle' is no label space of this model \(street, park, unified\)"):
        predict_paths(Model(method, [STREET, PARK]), [photo(tmp_path / "a.png")], "road, puddle", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["multihead", "union"])
def test_a_real_method_predicts_in_every_space_and_refuses_words(tmp_path, name):
    method = find_method(name)(PixelEncoder.build(backbone="tiny", pretrained=False, channels=16), [STREET, PARK])
    image = photo(tmp_path / "a.jpg", (50, 70))
    for labels, count in (("street", 2), ("park", 3), ("unified", 5)):
        (mask,) = predict_paths(Model(method, [STREET, PARK]), [image], labels, tmp_path / labels).files
        mode, values = read(mask)
        assert mode == "P"
        assert values.shape == (50, 70)
        assert values.max() < count
    with pytest.raises(UserError, match="is no label space of this model"):
        predict_paths(Model(method, [STREET, PARK]), [image], "road", tmp_path / "words")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(8, 12), (800, 1200)])
def test_the_orientation_of_a_photo_is_respected(tmp_path, method, orientation, size):
    path = photo(tmp_path / "a.jpg", size, oriented(orientation))
    image, native = read_photo(path, TestOptions(max_side=60).input_size)
    assert native == (size if orientation < 5 else size[::-1])
    assert max(image.shape[1:]) == min(60, max(size))
    # Where the right, bright half of the stored pixels is to be seen, by the EXIF standard.
    side = {1: "right", 2: "left", 3: "left", 4: "right", 5: "bottom", 6: "bottom", 7: "top", 8: "top"}[orientation]
    parts = {"right": image[..., -2:], "left": image[..., :2], "bottom": image[:, -2:], "top": image[:, :2]}
    assert {s: bool(p.float().mean() > 200) for s, p in parts.items()} == {s: s == side for s in parts}
    method.eval()
    found = EncodedImages(method, image[None], size=native).label_maps([OutputSpace(STREET)])[0][0]
    assert found.shape == native
    assert found.float().mean() == pytest.approx(0.5, abs=0.1)


def test_a_large_photo_is_seen_small_and_answered_at_its_own_size(tmp_path, method):
    path = photo(tmp_path / "a.jpg", (1500, 3000))
    (mask,) = predict_paths(
        Model(method, [STREET], TestOptions(max_side=200)), [path], "street", tmp_path / "out"
    ).files
    assert method.sizes == [(100, 200)]
    _, values = read(mask)
    assert values.shape == (1500, 3000)
    assert (values[:, :1490] == 0).all()
    assert (values[:, 1510:] == 1).all()
    with Image.open(tmp_path / "out/overlays/a.jpg") as picture:
        assert picture.size[0] < 1200


def test_a_folder_keeps_its_tree_and_other_files_are_left_alone(tmp_path, method):
    for name in ("b.png", "sub/a.JPG", "sub/b.webp"):
        photo(tmp_path / "in" / name)
    photo(tmp_path / "in/.hidden/c.png")
    (tmp_path / "in/notes.txt").write_text("no image")
    predict_paths(Model(method, [STREET]), [tmp_path / "in"], "street", tmp_path / "out")
    assert written(tmp_path / "out/masks") == ["b.png", "sub/a.png", "sub/b.png"]
    assert written(tmp_path / "out/overlays") == ["b.jpg", "sub/a.jpg", "sub/b.jpg"]


def written(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_names_of_outputs_are_unique(tmp_path, method):
    for name in ("x/a.png", "x/a.jpg", "x/A-jpg.bmp", "y/a.png", "y/a.jpg", "z/a.jpg"):
        photo(tmp_path / name)
    inputs = [tmp_path / "x", tmp_path / "y", tmp_path / "z/a.jpg", tmp_path / "x/a.png", tmp_path / "y/a.png"]
    masks = predict_paths(Model(method, [STREET]), inputs, "street", tmp_path / "out").files
    # x: `A-jpg`, `a` (jpg), then `a-png`; a file given twice is done once.
    found = written(tmp_path / "out/masks")
    assert found == ["a.png", "x/A-jpg.png", "x/a-png.png", "x/a.png", "y/a-png.png", "y/a.png"]
    assert len(masks) == len(set(masks)) == 6
    assert len({m.as_posix().casefold() for m in masks}) == 6


def test_names_that_differ_in_case_only_get_another_name(tmp_path):
    from manyseg.prediction.predict import unique_names

    files = [Path(n) for n in ("a.png", "A.png", "A.PNG", "a-png.jpg")]
    names = unique_names([(f, f) for f in files])
    assert names[:3] == ["a", "A-png", "A-png-2"]
    assert len({n.casefold() for n in names}) == 4


def test_earlier_output_is_no_input(tmp_path, method):
    photo(tmp_path / "a.png")
    for _ in range(2):
        masks = predict_paths(Model(method, [STREET]), [tmp_path], "street", tmp_path / "out").files
        assert [m.name for m in masks] == ["a.png"]


@pytest.mark.parametrize("link", [False, True])
def test_an_input_is_never_overwritten(tmp_path, method, link):
    target = tmp_path / "out/masks/a.png"
    image = photo(tmp_path / "a.png" if link else target)
    if link:
        target.parent.mkdir(parents=True)
        target.hardlink_to(image)
    before = image.read_bytes()
    with pytest.raises(UserError, match=r"masks/a\.png is an input and would be overwritten"):
        predict_paths(Model(method, [STREET]), [image], "street", tmp_path / "out")
    assert image.read_bytes() == before


def test_an_unreadable_image_is_reported_and_the_others_are_done(tmp_path, method, caplog):
    photo(tmp_path / "in/a.png")
    photo(tmp_path / "in/c.png")
    (tmp_path / "in/b.png").write_bytes(b"no image")
    broken = photo(tmp_path / "in/d.jpg", (80, 120))
    broken.write_bytes(broken.read_bytes()[:-400])
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="2 of 4 images could not be read") as error:
        predict_paths(Model(method, [STREET]), [tmp_path / "in"], "street", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert "b.png" in str(error.value)
    assert str(error.value).endswith(f"; the others are in {tmp_path / 'out'}")
    assert ["b.png" in caplog.messages[0], "d.jpg" in caplog.messages[1]] == [True, True]
    assert written(tmp_path / "out") == [
        "labels.json",
        "masks/a.png",
        "masks/c.png",
        "overlays/a.jpg",
        "overlays/c.jpg",
    ]


def test_what_is_not_there_is_an_error_before_anything_is_done(tmp_path, method):
    photo(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for paths, message in (
        ([tmp_path / "a.png", tmp_path / "b.png"], "there is no such image"),
        ([tmp_path / "a.png", tmp_path / "empty"], "no image in this folder"),
        ([], "no image was given"),
    ):
        with pytest.raises(UserError, match=message):
            predict_paths(Model(method, [STREET]), paths, "street", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written_is_an_error(tmp_path, method):
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        predict_paths(Model(method, [STREET]), [photo(tmp_path / "a.png")], "street", tmp_path / "out")


def test_an_image_named_by_its_path_may_be_called_anything(tmp_path, method):
    path = photo(tmp_path / "a.photo", suffix_format="PNG")
    (mask,) = predict_paths(Model(method, [STREET]), [path], "street", tmp_path / "out").files
    assert mask.name == "a.png"


def test_a_missing_photo_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_photo(tmp_path / "a.jpg", lambda size: size)


# Masks and overlays.


@pytest.mark.parametrize(("classes", "mode", "nothing"), [(255, "P", 255), (256, "I;16", 65535)])
def test_masks_have_8_bits_up_to_255_classes_and_16_above(tmp_path, classes, mode, nothing):
    space = LabelSpace.of("s", [str(i) for i in range(classes)])
    labels = torch.tensor([[0, classes - 1], [IGNORE, 1]])
    if nothing is None:
        with pytest.raises(ValueError, match="256 classes do not fit 8 bits"):
            mask_image(labels, space)
        labels[1, 0] = 7
    mask_image(labels, space).save(tmp_path / "m.png")
    found, values = read(tmp_path / "m.png")
    assert found == mode
    assert values.tolist() == [[0, classes - 1], [7 if nothing is None else nothing, 1]]


def test_an_overlay_shows_the_colours_and_leaves_ignored_pixels_alone():
    image = torch.full((3, 400, 800), 100, dtype=torch.uint8)
    labels = torch.tensor([[1, IGNORE]])
    picture = np.array(overlay(image, labels, STREET)).astype(int)
    assert picture.shape[0] == 400
    assert picture.shape[1] > 800
    # 0.55 of (200, 100, 0) and 0.45 of grey 100.
    np.testing.assert_allclose(picture[200, 200], [155, 100, 45], atol=2)
    np.testing.assert_array_equal(picture[200, 600], [100, 100, 100])


def test_the_legend_names_only_the_classes_that_occur():
    image = torch.zeros(3, 640, 640, dtype=torch.uint8)
    space = LabelSpace("s", tuple(LabelClass(f"class {i}", (i, 255 - i, 40 + i)) for i in range(100)))

    def swatches(*classes):
        legend = np.array(overlay(image, torch.tensor([classes]), space))[:, 640:].reshape(-1, 3)
        return {r for r, g, b in np.unique(legend, axis=0).tolist() if r + g == 255 and b == r + 40}

    assert swatches(3) == {3}
    assert swatches(5, 3, 3, 90) == {3, 5, 90}
    assert swatches(*range(100)) == set(range(100))


def test_an_overlay_of_nothing_has_an_empty_legend():
    picture = overlay(torch.zeros(3, 10, 20, dtype=torch.uint8), torch.full((10, 20), IGNORE), STREET)
    assert picture.size[1] >= 320


@pytest.mark.parametrize("classes", [1, 2, 4, 16, 17, 200])
def test_pixels_of_no_class_are_255_in_a_file_of_any_number_of_classes(tmp_path, classes):
    labels = torch.tensor([[0, classes - 1, IGNORE]])
    mask_image(labels, LabelSpace.of("s", [f"c{i}" for i in range(classes)])).save(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as image:
        assert np.asarray(image).tolist() == [[0, classes - 1, 255]]


def test_images_that_pass_the_network_beside_each_other_get_the_same_labels(tmp_path):
    torch.manual_seed(0)
    method = find_method("multihead")(PixelEncoder.build(backbone="tiny", pretrained=False, channels=8), [STREET, PARK])
    for i in range(12):
        photo(tmp_path / "in" / f"{i}.png", (16 + i % 3, 24))
    model, before, written = Model(method, [STREET, PARK]), torch.get_num_threads(), {}
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            done = predict_paths(model, [tmp_path / "in"], "street", tmp_path / str(threads), kinds=["masks", "coco"])
        finally:
            torch.set_num_threads(before)
        files = sorted((tmp_path / str(threads)).rglob("*.*"))
        written[threads] = [f.read_bytes() for f in files], done.pixels.tolist(), done.images.tolist()
    assert written[1] == written[3]
    assert sum(written[1][1]) == 4 * 24 * (16 + 17 + 18)
