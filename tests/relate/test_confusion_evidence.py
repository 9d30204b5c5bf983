"""Rates of confusions, and their sums over groups of classes: values by hand."""

import numpy as np
import pytest

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelSpace
from manyseg.relate.confusion_evidence import confusion_rates, read_confusion, recall_matrix, sums_by_group

SPACES = (LabelSpace.of("a", ["x", "y", "z"]), LabelSpace.of("b", ["u", "v"]))
CLASSES = JointClasses(SPACES)
AB = np.array([[6, 2], [0, 0], [0, 1]])
BA = np.array([[1, 0, 3], [2, 0, 0]])


def test_rates_are_parts_of_the_true_class_and_of_the_called_one():
    rates = confusion_rates(CLASSES, {("a", "b"): AB, ("b", "a"): BA})
    assert rates.given_true[:3, 3:] == pytest.approx(np.array([[0.75, 0.25], [0, 0], [0, 1]]))
    assert rates.given_true[3:, :3] == pytest.approx(np.array([[0.25, 0, 0.75], [1, 0, 0]]))
    # Of what b's head calls u all are truly x; of what it calls v two thirds.
    assert rates.given_predicted[3:, :3] == pytest.approx(np.array([[1, 0, 0], [2 / 3, 0, 1 / 3]]))
    assert rates.given_predicted[:3, 3:] == pytest.approx(np.array([[1 / 3, 2 / 3], [0, 0], [1, 0]]))
    # Class y has no pixel.
    known = np.zeros((5, 5), bool)
    known[[[0], [2]], [3, 4]] = known[3:, :3] = True
    assert (rates.known == known).all()
    assert not rates.given_true[:3, :3].any()


def test_a_single_pixel_is_a_whole():
    rates = confusion_rates(CLASSES, {("a", "b"): np.array([[1, 0], [0, 0], [0, 0]])})
    assert rates.given_true[0, 3] == rates.given_predicted[3, 0] == 1


def test_rates_in_another_order():
    rates = confusion_rates(CLASSES, {("a", "b"): AB})
    turned = JointClasses((LabelSpace.of("b", ["v", "u"]), LabelSpace.of("a", ["z", "y", "x"])))
    turned = confusion_rates(turned, {("a", "b"): AB}, SPACES)
    for name in ("given_true", "given_predicted", "known"):
        assert (getattr(turned, name) == getattr(rates, name)[::-1, ::-1]).all()


def test_of_the_own_dataset_the_published_rule_reads_the_recall_alone():
    rates = confusion_rates(CLASSES, {("a", "a"): np.diag([3, 2, 0]) + 1, ("a", "b"): AB})
    found = recall_matrix(rates, CLASSES)
    assert found[0, :3].tolist() == pytest.approx([4 / 6, 0, 0])
    assert found[2, 2] == pytest.approx(1 / 3)
    assert found[0, 3] == 0.75
    assert found.dtype == np.float64


@pytest.mark.parametrize("at_a_time", [1, 2, 64])
def test_sums_over_all_pairs_of_groups(monkeypatch, at_a_time):
    monkeypatch.setattr("manyseg.relate.confusion_evidence.GROUPS", at_a_time)
    values = np.arange(25.0).reshape(5, 5)
    group = np.array([1, 0, 1, 2, 0])
    expected = [[values[np.ix_(group == g, group == h)].sum() for h in range(3)] for g in range(3)]
    assert sums_by_group(values, group) == pytest.approx(np.array(expected))
    use = values % 3 > 0
    assert sums_by_group(values, group, use) == pytest.approx(sums_by_group(np.where(use, values, 0), group))
    assert sums_by_group(use, group) == pytest.approx(sums_by_group(np.where(use, 1.0, 0.0), group))


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({("a", "c"): AB}, "'a' by the head of 'c', but the datasets are: a, b"),
        ({("c", "b"): AB}, "'c' by the head of 'b'"),
        ({("a", "b"): AB.T}, r"is \[2, 3\], but 'a' has 3 classes and 'b' 2"),
        ({("a", "b"): AB - 1}, "negative or non-finite"),
        ({("a", "b"): np.where(AB > 0, np.inf, 0.0)}, "negative or non-finite"),
        ({("a", "b"): AB.astype(str)}, "negative or non-finite"),
    ],
)
def test_counts_that_fit_no_datasets_or_are_no_numbers_are_refused(counts, said):
    with pytest.raises(UserError, match=said):
        confusion_rates(CLASSES, counts)


def test_arrays_of_a_file_are_named_by_their_datasets(tmp_path):
    np.savez(tmp_path / "c.npz", a__b=AB, b__a=BA.astype(bool))
    found = read_confusion(tmp_path / "c.npz", SPACES)
    assert set(found) == {("a", "b"), ("b", "a")}
    assert found["a", "b"].tolist() == AB.tolist()
    with pytest.raises(UserError, match="there is no such file"):
        read_confusion(tmp_path / "d.npz", SPACES)
    (tmp_path / "e.npz").write_text("nothing")
    with pytest.raises(UserError, match="not an npz file"):
        read_confusion(tmp_path / "e.npz", SPACES)
    np.savez(tmp_path / "f.npz", a__c=AB)
    with pytest.raises(UserError, match="is not 'a__b' of two of the datasets; they are: a, b"):
        read_confusion(tmp_path / "f.npz", SPACES)


def test_a_name_that_can_be_read_in_two_ways_is_refused(tmp_path):
    spaces = [LabelSpace.of(n, ["x"]) for n in ("a", "a__b", "b__c", "c")]
    np.savez(tmp_path / "c.npz", a__b__c=np.ones((1, 1)))
    with pytest.raises(UserError, match="can mean 'a' by the head of 'b__c' or 'a__b' by the head of 'c'"):
        read_confusion(tmp_path / "c.npz", spaces)
