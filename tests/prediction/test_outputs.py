"""Kinds of files beside masks and overlays, values of a card, unseen label spaces, and resuming."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from brightness import PARK, STREET, Brightness, photo, read
from PIL import Image

from manyseg import atomic
from manyseg.data.card import read_card
from manyseg.errors import UserError
from manyseg.inference.encoded_images import images_at_once
from manyseg.inference.options import TestOptions
from manyseg.labels import IGNORE, LabelSpace, Taxonomy
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.model import Model
from manyseg.prediction.predict import predict_paths

SPACES = [STREET, PARK]


class Related(Brightness):
    """The same, which also scores a space through its relation: a class is as probable as its best node."""

    def predict(self, bright, space, relation=None):
        if relation is None:
            return super().predict(bright, space)
        nodes = super().predict(bright, self.taxonomy.unified)
        scores = [nodes[:, row].amax(1) if row.any() else torch.full_like(nodes[:, 0], -torch.inf) for row in relation]
        return torch.stack(scores, 1)


@pytest.fixture
def model():
    return Model(Related(), SPACES)


@pytest.mark.parametrize("flip", [False, True])
def test_the_confidence_is_a_probability_with_one_view_and_with_several(tmp_path, flip):
    """Scores of -0.5 and 0.5 everywhere, in the mirrored image too: a probability of 0.73."""
    model = Model(Related(), SPACES, TestOptions(flip=flip))
    (file,) = predict_paths(model, [photo(tmp_path / "a.png")], "street", tmp_path / "out", kinds=["confidence"]).files
    assert (read(file)[1] == round(255 / (1 + np.exp(-1)))).all()


def test_several_label_spaces_are_predicted_from_one_encoding():
    model = Model(Related(), SPACES)
    shown = torch.zeros(2, 3, 8, 12, dtype=torch.uint8)
    shown[1, :, :, 6:] = 255
    outputs = [model.output("unified"), model.output("street"), model.output(LabelSpace.of("far", ["grass", "dark"]))]
    found = model.predict_spaces(shown, (8, 12), outputs)
    assert model.method.sizes == [(8, 12)]
    assert [[p.space.name for p in each] for each in found] == [["unified", "street", "far"]] * 2
    assert found[0][1].labels.tolist() == [[0] * 12] * 8
    assert found[1][1].labels.tolist() == [[0] * 6 + [1] * 6] * 8
    # "dark" is -0.5 in the bright half, where "grass" is -9.
    assert found[1][2].labels.tolist() == [[1] * 12] * 8
    np.testing.assert_allclose(found[1][1].confidence, 1 / (1 + np.exp(-1)), rtol=1e-5)


def test_every_kind_of_file_says_what_was_found(tmp_path, model):
    """The left half is dark and the right half bright: scores -0.5 and 0.5, so a probability of 0.73."""
    image = photo(tmp_path / "in" / "a.png")
    kinds = ["confidence", "scores", "geojson", "coco"]
    done = predict_paths(model, [image], "street", tmp_path / "out", kinds=kinds)
    assert done.files == [tmp_path / "out/confidence/a.png"]
    _, confidence = read(done.files[0])
    assert confidence.shape == (8, 12)
    assert confidence[0, 0] == confidence[0, -1] == round(255 / (1 + np.exp(-1)))
    scores = np.load(tmp_path / "out/scores/a.npy")
    assert scores.dtype == np.float16
    np.testing.assert_allclose(scores[:, 0, 0], [0.5, -0.5])
    features = json.loads((tmp_path / "out/geojson/a.geojson").read_text())["features"]
    shapes = {f["properties"]["class"]: f for f in features}
    assert {name: f["properties"]["area"] for name, f in shapes.items()} == {"dark": 48, "bright": 48}
    assert sorted(shapes["bright"]["geometry"]["coordinates"][0])[0] == [6.0, 0.0]
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert [a["category_id"] for a in coco["annotations"]] == [1, 2]
    assert not (tmp_path / "out/masks").exists()


def test_the_area_of_a_polygon_is_without_its_holes(tmp_path, model):
    pixels = np.zeros((9, 9, 3), np.uint8)
    pixels[3:6, 3:6] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predict_paths(model, [tmp_path / "a.png"], "street", tmp_path / "out", kinds=["geojson"])
    features = json.loads((tmp_path / "out/geojson/a.geojson").read_text())["features"]
    assert sorted(f["properties"]["area"] for f in features) == [9, 72]


def test_masks_can_have_the_values_of_a_card(tmp_path, model):
    (tmp_path / "street.toml").write_text(
        'name = "street"\nimage = "{id}.png"\nmask = "{id}.png"\nencoding = "index"\nsplits = { val = "v.txt" }\n'
        "ignore = [9]\n[classes]\ndark = [7, 300]\nbright = 2\n"
    )
    values = PixelValues.of(read_card(tmp_path / "street.toml"))
    assert values == PixelValues((7, 2), 9)
    predict_paths(model, [photo(tmp_path / "in/a.png")], "street", tmp_path / "out", values={"masks": values})
    mode, mask = read(tmp_path / "out/masks/a.png")
    assert mode == "P"
    assert mask[0].tolist() == [7] * 6 + [2] * 6
    rows = json.loads((tmp_path / "out/labels.json").read_text())
    assert [row["value"] for row in rows["classes"]] == [7, 2]
    assert rows["ignored"] == 9


def test_pixels_without_a_class_never_have_the_value_of_one():
    card = read_card("cityscapes")
    values = PixelValues.of(card)
    assert values.ignored not in values.classes
    assert PixelValues.positions(LabelSpace.of("s", map(str, range(255)))).ignored == 255
    assert PixelValues.positions(LabelSpace.of("s", map(str, range(256)))).ignored == 65535


def test_classes_that_were_not_trained_on_find_nodes_of_their_name(tmp_path, model, caplog):
    other = LabelSpace.of("other", ["bright", "dark", "puddle"])
    found = model.predict(np.full((4, 4, 3), 255, np.uint8), other)
    assert found.shares == {"bright": 1.0}
    assert "1 of 3 classes of 'other' have no unified node and are never predicted: puddle" in caplog.text


def test_a_card_is_a_label_space_to_predict_in(tmp_path, model):
    (tmp_path / "lane.toml").write_text(
        'name = "lane"\nimage = "{id}.png"\nmask = "{id}.png"\nencoding = "index"\nsplits = { val = "v.txt" }\n'
        "[classes]\nbright = 1\n"
    )
    done = predict_paths(model, [photo(tmp_path / "in/a.png")], str(tmp_path / "lane.toml"), tmp_path / "out")
    assert done.space.names == ("bright",)
    assert read(done.files[0])[1].tolist() == [[0] * 12] * 8


def test_a_table_relates_by_the_rows_that_classes_have_in_common(tmp_path, model):
    other = LabelSpace.of("other", ["night", "day"])
    table = Taxonomy.from_groups(
        [*SPACES, other],
        [[("street", "dark"), ("other", "night")], [("street", "bright"), ("other", "day")]]
        + [[("park", name), ("other", "day")] for name in PARK.names],
        ["black", "white", *PARK.names],
    )
    table.write(tmp_path / "table.tsv")
    output = model.output(other, tmp_path / "table.tsv")
    assert output.relation.astype(int).tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 1, 1]]
    found = model.predict(np.zeros((4, 4, 3), np.uint8), other, relate=tmp_path / "table.tsv")
    assert found.shares == {"night": 1.0}


@pytest.mark.parametrize("relate", ["text", Path("none.tsv")])
def test_a_way_to_relate_is_refused_where_nothing_is_to_be_related(model, relate):
    with pytest.raises(UserError, match=rf"'street' is read without a relation .*; leave relate \({relate}\) out"):
        model.output("street", relate)


def test_resume_leaves_out_what_is_there_and_newer(tmp_path, model):
    photos = [photo(tmp_path / "in" / f"{name}.png") for name in "abc"]
    first = predict_paths(model, photos[:2], "street", tmp_path / "out")
    times = [os.stat(p).st_mtime_ns for p in first.files]
    (tmp_path / "out/overlays/a.jpg").unlink()
    model.method.sizes.clear()
    second = predict_paths(model, photos, "street", tmp_path / "out", resume=True)
    assert model.method.sizes == [(8, 12)]
    assert second.kept == 1
    assert (tmp_path / "out/overlays/a.jpg").exists()
    assert os.stat(first.files[1]).st_mtime_ns == times[1]
    future = 2**31
    os.utime(photos[1], (future, future))
    assert predict_paths(model, photos, "street", tmp_path / "out", resume=True).kept == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": "unified"}, "of another model, other labels or other kinds of files"),
        ({"source": "another"}, "of another model, other labels or other kinds of files"),
        ({"kinds": ["masks"]}, "of another model, other labels or other kinds of files"),
        ({"kinds": ["masks", "coco"]}, "coco.json is written once, of all images"),
    ],
)
def test_resume_never_mixes_what_does_not_belong_together(tmp_path, model, change, message):
    image = photo(tmp_path / "a.png")
    predict_paths(model, [image], "street", tmp_path / "out")
    before = (tmp_path / "out/labels.json").read_bytes()
    with pytest.raises(UserError, match=message):
        predict_paths(model, [image], **({"labels": "street", "out": tmp_path / "out", "resume": True} | change))
    assert (tmp_path / "out/labels.json").read_bytes() == before


def test_what_cannot_be_written_is_said_before_any_image_is_read(tmp_path, model):
    image = photo(tmp_path / "a.png")
    for kinds, message in (
        (["pictures"], "'pictures' is no kind of file that can be written; there are: masks, overlays"),
        ([], "nothing is to be written"),
        (["coco_panoptic"], "finds classes, not objects; leave --segments out"),
    ):
        with pytest.raises(UserError, match=message):
            predict_paths(model, [image], "street", tmp_path / "out", kinds=kinds)
    assert not (tmp_path / "out").exists()


def test_images_of_one_size_pass_the_network_together(tmp_path, model, monkeypatch):
    sizes = [(8, 12)] * 3 + [(8, 14)] + [(8, 12)] * 2
    photos = [photo(tmp_path / "in" / f"{i}.png", size) for i, size in enumerate(sizes)]
    batches = []
    encode = model.method.pixel_encoder
    model.method.pixel_encoder = lambda image: (batches.append(len(image)), encode(image))[1]
    done = predict_paths(model, photos, "street", tmp_path / "out", kinds=["masks"])
    assert batches == [5, 1]
    monkeypatch.setattr("manyseg.prediction.pipeline.COMPANY", 2)
    predict_paths(model, photos, "street", tmp_path / "out", kinds=["masks"])
    assert batches[2:] == [3, 1, 2]
    monkeypatch.setattr("manyseg.prediction.pipeline.images_at_once", lambda *_: 2)
    predict_paths(model, photos, "street", tmp_path / "out", kinds=["coco"])
    assert batches[5:] == [2, 2, 1, 1]
    images = json.loads((tmp_path / "out/coco.json").read_text())["images"]
    assert [image["width"] for image in images] == [12, 12, 12, 14, 12, 12]
    assert done.images.tolist() == [6, 6]
    assert done.pixels.tolist() == [48 * 5 + 56] * 2
    assert images_at_once(torch.device("cpu"), (4000, 6000)) == 1


def test_a_full_disk_ends_the_work_with_one_error(tmp_path, model, monkeypatch):
    photos = [photo(tmp_path / "in" / f"{i}.png") for i in range(40)]
    write = atomic.write

    def full(path, content):
        if path.name == "3.png":
            raise UserError(f"{path}: cannot be written (No space left on device); make room on the disk")
        return write(path, content)

    monkeypatch.setattr("manyseg.atomic.write", full)
    with pytest.raises(UserError, match=r"3\.png: cannot be written"):
        predict_paths(model, photos, "street", tmp_path / "out")
    assert (tmp_path / "out/masks/0.png").exists()


def test_the_summary_has_a_line_for_every_class_that_occurs(tmp_path, model):
    done = predict_paths(model, [photo(tmp_path / "in/a.png", (8, 16))], "unified", tmp_path / "out")
    head, where, *lines = done.to_text().splitlines()
    assert head.startswith("1 image in ")
    assert "the network busy" in head
    assert where == f"{tmp_path / 'out'}: masks, overlays; labels.json has the classes and their values"
    assert lines == [f"  {name:<6}   50.0% of the pixels, in 1 image" for name in ("dark", "bright")]
    assert (read(done.files[0])[1] != IGNORE).all()


def test_what_was_written_before_is_no_image_to_segment(tmp_path, model):
    photo(tmp_path / "a.png")
    kinds = ["masks", "overlays", "confidence", "scores", "geojson"]
    for _ in range(2):
        done = predict_paths(model, [tmp_path], "street", tmp_path / "out", kinds=kinds)
        assert done.files == [tmp_path / "out/masks/a.png"]
