"""Files for the server of a benchmark, and that they are verified."""

import json

import numpy as np
import pytest
from brightness import PARK, STREET, Brightness, photo, read
from PIL import Image

from manyseg.errors import UserError
from manyseg.prediction.drawing import PixelValues
from manyseg.prediction.model import Model
from manyseg.prediction.predict import predict_paths

VALUES = {"submission": PixelValues((7, 2), 9)}


@pytest.fixture
def model():
    return Model(Brightness(), [STREET, PARK])


def submit(model, tmp_path, **options):
    return predict_paths(
        model, [tmp_path / "in"], "street", tmp_path / "out", kinds=["submission"], values=VALUES, **options
    )


def test_a_submission_is_grey_has_the_cards_values_and_no_folders(tmp_path, model):
    photo(tmp_path / "in/berlin/berlin_0.png")
    photo(tmp_path / "in/bonn/bonn_0.png")
    done = submit(model, tmp_path)
    assert [f.relative_to(tmp_path / "out").as_posix() for f in done.files] == [
        "submission/berlin_0.png",
        "submission/bonn_0.png",
    ]
    mode, mask = read(done.files[0])
    assert mode == "L"
    assert mask[0].tolist() == [7] * 6 + [2] * 6
    assert [row["value"] for row in json.loads((tmp_path / "out/labels.json").read_text())["classes"]] == [7, 2]


def test_images_of_one_name_cannot_be_submitted_together(tmp_path, model):
    photo(tmp_path / "in/a/0.png")
    photo(tmp_path / "in/b/0.png")
    with pytest.raises(UserError, match="'a/0' and 'b/0' would be one file of a submission"):
        submit(model, tmp_path)
    assert not (tmp_path / "out").exists()


def filled(path, shape, value):
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: Image.fromarray(np.full((8, 12), 5, np.uint8)).save(path),
            "a.png: value 5 is not one of 'street'",
        ),
        (lambda path: Image.fromarray(np.full((8, 13), 7, np.uint8)).save(path), "8x13 pixels, its image 8x12"),
        (lambda path: Image.fromarray(np.full((8, 12, 3), 7, np.uint8)).save(path), "not a grey PNG of 8 bits"),
        (lambda path: path.write_bytes(b"no image"), "a.png: "),
        (lambda path: path.with_name("b.png").write_bytes(b""), "b.png: of no image that was given"),
    ],
    ids=["value", "size", "colour", "broken", "another"],
)
def test_files_of_an_earlier_call_are_verified_too(tmp_path, model, damage, message):
    photo(tmp_path / "in/a.png")
    path = submit(model, tmp_path).files[0]
    assert submit(model, tmp_path, resume=True).kept == 1
    damage(path)
    with pytest.raises(UserError, match=f"the submission is not complete: .*{message}"):
        submit(model, tmp_path, resume=True)


def test_values_above_eight_bits_and_spaces_without_a_card_cannot_be_submitted(tmp_path, model):
    photo(tmp_path / "in/a.png")
    values = {"submission": PixelValues((7, 300), 9)}
    with pytest.raises(UserError, match=r"'street' has classes of values up to 300; a submission has 8 bits"):
        predict_paths(model, [tmp_path / "in"], "street", tmp_path / "out", kinds=["submission"], values=values)


def test_the_name_of_a_built_in_card_is_a_label_space_unless_a_training_dataset_has_it(model):
    assert len(model.space("kitti")) == 19
    assert model.space("street") is not None
    assert model.space("kitty, dog").names == ("kitty", "dog")
