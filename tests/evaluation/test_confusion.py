"""Confusion matrices and the numbers that follow from them, against scikit-learn and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import multiclass_jaccard_index

from manyseg.evaluation.confusion import Confusion, add_pairs, count_pairs
from manyseg.labels import IGNORE, LabelSpace


def maps(classes):
    values = st.integers(IGNORE, classes - 1)
    return st.integers(1, 60).flatmap(lambda n: st.tuples(*[st.lists(values, min_size=n, max_size=n)] * 2))


@settings(deadline=None, max_examples=50)
@given(maps(5))
def test_counts_and_iou_are_those_of_scikit_learn_and_torchmetrics(pair):
    truth, predicted = (torch.tensor(m) for m in pair)
    space = LabelSpace.of("s", "abcde")
    confusion = Confusion.of(space, truth, predicted)
    # "No class" is one more class to the oracle, which only predictions have.
    known = truth != IGNORE
    extended = torch.where(predicted == IGNORE, 5, predicted)
    if not known.any():
        assert confusion.counts.sum() == 0
        assert math.isnan(confusion.miou)
        assert math.isnan(confusion.accuracy)
        return
    expected = confusion_matrix(truth[known], extended[known], labels=range(6))[:5]
    np.testing.assert_array_equal(confusion.counts, expected)
    oracle = multiclass_jaccard_index(extended[known], truth[known], 6, average=None).numpy()[:5]
    present = ~np.isnan(confusion.iou)
    np.testing.assert_allclose(confusion.iou[present], oracle[present], atol=1e-6)
    occurs = set(truth[known].tolist()) | set(extended[known].tolist())
    assert [n for i, n in enumerate(space.names) if i not in occurs] == confusion.absent
    assert confusion.accuracy == pytest.approx((truth == predicted)[known].float().mean().item())


def test_an_absent_class_is_left_out_and_an_unpredictable_one_is_zero_and_stays():
    space = LabelSpace.of("s", ["road", "car", "sky", "tree"])
    # road: 2 of 3 found, nothing else called so; car: never predicted; sky: a pixel of road and one of car called so.
    confusion = Confusion.of(space, torch.tensor([0, 0, 0, 1, 1, -1]), torch.tensor([0, 0, 2, 2, -1, 3]))
    np.testing.assert_allclose(confusion.iou, [2 / 3, 0, 0, np.nan])
    assert confusion.miou == pytest.approx(2 / 9)
    assert confusion.accuracy == pytest.approx(2 / 5)
    assert confusion.pixels.tolist() == [3, 2, 0, 0]
    assert confusion.absent == ["tree"]
    assert confusion.matrix.tolist() == [[2, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@settings(deadline=None, max_examples=50)
@given(maps(4), maps(4))
def test_confusions_of_two_parts_add_up_to_that_of_the_whole(first, second):
    space = LabelSpace.of("s", "abcd")
    parts = [Confusion.of(space, *(torch.tensor(m) for m in pair)) for pair in (first, second)]
    whole = Confusion.of(space, *(torch.tensor(a + b) for a, b in zip(first, second, strict=True)))
    np.testing.assert_array_equal((parts[0] + parts[1]).counts, whole.counts)


def test_confusions_of_two_spaces_do_not_add_up():
    a, b = (Confusion.of(LabelSpace.of(n, "xy"), torch.tensor([0]), torch.tensor([0])) for n in "ab")
    with pytest.raises(ValueError, match="'a' and 'b'"):
        _ = a + b


def test_counts_between_two_spaces_have_a_row_a_true_class_and_a_last_column_for_no_class():
    counts = count_pairs(torch.tensor([0, 1, 1, -1]), torch.tensor([2, -1, 0, 1]), 2, 3)
    assert counts.tolist() == [[0, 0, 1, 0], [1, 0, 0, 1]]


def test_more_classes_than_a_byte_can_count():
    space = LabelSpace.of("s", [str(i) for i in range(300)])
    truth = torch.arange(300)
    assert Confusion.of(space, truth, truth).miou == 1


@pytest.mark.parametrize("pixels", [3, 100])
def test_adding_pairs_is_counting_them_whether_the_table_or_the_image_is_larger(pixels):
    generator = torch.Generator().manual_seed(pixels)
    truth, predicted = (torch.randint(-1, n, (2, pixels), generator=generator) for n in (5, 7))
    counts = torch.ones(5, 8, dtype=torch.int64)
    add_pairs(counts, truth, predicted)
    assert torch.equal(counts, 1 + count_pairs(truth, predicted, 5, 7))
