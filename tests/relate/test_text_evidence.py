"""Similarities of texts by hand: vectors stand for words."""

import numpy as np
import pytest

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelClass, LabelSpace
from manyseg.relate.text_evidence import best_cosines, text_similarity

WORDS = {"tree": (1, 0), "bush": (0, 1), "plant": (3, 4), "tree: tall": (0, 2), "a tree": (0, 5), "sky": (-2, 0)}


def encode(texts):
    return np.array([WORDS[t] for t in texts], float)


def similarity(a, b, templates=("{}",)):
    spaces = tuple(LabelSpace(d, (c if isinstance(c, LabelClass) else LabelClass(c),)) for d, c in (("a", a), ("b", b)))
    found = text_similarity(JointClasses(spaces), encode, templates)
    assert found.shape == (2, 2)
    assert found[0, 1] == found[1, 0]
    assert np.diag(found) == pytest.approx(np.ones(2))
    return found[0, 1]


def test_names_are_compared_by_the_angle_of_their_vectors():
    assert similarity("tree", "plant") == pytest.approx(0.6)
    assert similarity("tree", "bush") == pytest.approx(0, abs=1e-7)
    assert similarity("tree", "sky") == -1


def test_of_alternatives_the_nearest_counts():
    assert similarity("tree / bush", "plant") == pytest.approx(0.8)


def test_a_name_without_its_qualifiers_counts_half():
    WORDS["tree merged"] = (0, 1)
    WORDS["merged"] = (0, 1)
    # As a whole 0, without the qualifier 1.
    assert similarity("tree-merged", "tree") == pytest.approx(0.5)


def test_the_vector_is_the_mean_direction_over_sentences():
    # (1, 0) and (0, 1), whatever their lengths: 45 degrees from both.
    WORDS["a bush"] = (0, 7)
    assert similarity("tree", "bush", ("{}", "a {}")) == pytest.approx(np.sqrt(0.5))


def test_a_description_is_half_of_the_vector():
    described = LabelClass("tree", description="tall")
    assert similarity(described, "tree") == pytest.approx(np.sqrt(0.5))
    assert similarity(described, "bush") == pytest.approx(np.sqrt(0.5))


def test_sentences_may_name_the_dataset():
    WORDS.update({"tree of a": (1, 0), "tree of b": (3, 4)})
    assert similarity("tree", "tree", ("{} of {dataset}",)) == pytest.approx(0.6)


@pytest.mark.parametrize("wrong", [np.zeros(2), np.zeros((3, 2)), np.full((2, 2), np.nan)])
def test_vectors_of_another_number_or_not_finite_are_refused(wrong):
    classes = JointClasses((LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["y"])))
    with pytest.raises(UserError, match="for 2 texts, or values that are not finite"):
        text_similarity(classes, lambda texts: wrong, ("{}",))


def test_best_cosines_are_the_largest_of_all_pairs():
    rows = [np.array([[1.0, 0], [0, 1]]), np.array([[-1.0, 0]])]
    columns = [np.array([[0.6, 0.8]]), np.array([[0.0, -1.0], [-1.0, 0]]), np.array([[1.0, 0]])]
    assert best_cosines(rows, columns) == pytest.approx(np.array([[0.8, 0, 1], [-0.6, 1, -1]]))


def test_equal_texts_are_exactly_one_and_pairs_of_the_same_texts_exactly_as_similar():
    """Calibration orders pairs by their similarity: rounding must not tell pairs apart that are as similar."""
    names = [f"n{i}" for i in range(30)]
    others = [f"n{i} / n{i + 1}" for i in range(29)]
    spaces = [LabelSpace.of(d, n) for d, n in (("a", names), ("b", names[::-1]), ("c", [*names[7:], *others]))]
    drawn = dict(zip(names, np.random.default_rng(0).normal(size=(30, 77)), strict=True))
    found = text_similarity(JointClasses(tuple(spaces)), lambda texts: np.stack([drawn[t] for t in texts]), ("{}",))
    a, b, c = found[:30, :30], found[:30, 30:60], found[:30, 60:83]
    assert (np.diag(found) == 1).all()
    assert (a == a.T).all()
    assert (b == a[:, ::-1]).all()
    assert (c == a[:, 7:]).all()
    # Each of the classes of two names is as near to one name as that name is to itself.
    listed = found[:30, 83:]
    assert (listed[range(29), range(29)] == 1).all()
    assert (listed[range(1, 30), range(29)] == 1).all()
