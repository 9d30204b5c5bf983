"""Vectors of classes: their sentences, files of them, and what all have in common taken off."""

import numpy as np
import pytest

from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace
from manyseg.methods.label_features import label_features, label_texts

SPACES = (
    LabelSpace("two_words", (LabelClass("traffic_light"), LabelClass("car", description="with wheels"))),
    LabelSpace.of("b", ["sky"]),
)
ROWS = np.array([[1.0, 2], [3, 4], [5, 12]])


def read(path, centre=False):
    return label_features(SPACES, path, None, False, centre)


def test_a_class_has_the_papers_sentence_and_its_description_where_asked_for():
    plain = [
        "An image of traffic light from the dataset two words.",
        "An image of car from the dataset two words.",
        "An image of sky from the dataset b.",
    ]
    assert label_texts(SPACES, descriptions=False) == plain
    assert label_texts(SPACES, descriptions=True) == [plain[0], f"{plain[1]} with wheels", plain[2]]


def test_a_file_has_one_row_a_class_in_order_or_an_array_a_dataset(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    np.savez(tmp_path / "a.npz", b=ROWS[2:], two_words=ROWS[:2])
    for name in ("a.npy", "a.npz"):
        found = read(tmp_path / name)
        assert found.dtype == np.float32
        assert found.tolist() == ROWS.tolist()


def test_what_all_have_in_common_is_taken_off_and_the_rest_has_a_variance_of_one(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    found = read(tmp_path / "a.npy", centre=True)
    rest = ROWS - [3, 6]
    assert found == pytest.approx(rest / rest.std(), abs=1e-6)
    # A single class has nothing in common with others; equal rows leave nothing.
    np.save(tmp_path / "one.npy", ROWS[:1])
    alone = label_features((LabelSpace.of("a", ["x"]),), tmp_path / "one.npy", None, False, True)
    assert alone.tolist() == [[1, 2]]
    np.save(tmp_path / "same.npy", np.ones((3, 2)))
    assert not read(tmp_path / "same.npy", centre=True).any()


LARGE = ROWS > 4


@pytest.mark.parametrize("wrong", [ROWS[:2], ROWS[0], np.where(LARGE, np.nan, ROWS), np.where(LARGE, np.inf, ROWS)])
def test_rows_of_another_number_or_not_finite_are_refused(tmp_path, wrong):
    np.save(tmp_path / "a.npy", wrong)
    with pytest.raises(UserError, match="give 3 finite rows"):
        read(tmp_path / "a.npy")


def test_arrays_that_fit_no_dataset_and_files_that_are_none_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", two_words=ROWS, b=ROWS[2:])
    with pytest.raises(UserError, match=r"'two_words' is \[3, 2\]; give one row a class"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", two_words=ROWS[0], b=ROWS[2:])
    with pytest.raises(UserError, match=r"'two_words' is \[2\]"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", b=ROWS[2:])
    with pytest.raises(UserError, match="no features of labels"):
        read(tmp_path / "a.npz")
    (tmp_path / "a.npy").write_text("nothing")
    with pytest.raises(UserError, match="no features of labels"):
        read(tmp_path / "a.npy")
