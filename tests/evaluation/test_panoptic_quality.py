import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyseg.evaluation.panoptic_quality import Panoptic, count_segments
from manyseg.inference.segments import SegmentMap
from manyseg.labels import IGNORE, LabelClass, LabelSpace

SPACE = LabelSpace(
    "s", (LabelClass("car", thing=True), LabelClass("person", thing=True), LabelClass("road"), LabelClass("sky"))
)


def segment_map(ids, classes):
    return SegmentMap(torch.tensor(ids), torch.tensor(classes, dtype=torch.int64), torch.ones(len(classes)))


def count(true_ids, true_classes, ids, classes):
    found = segment_map(ids, classes)
    return count_segments(torch.tensor(true_ids), torch.tensor(true_classes, dtype=torch.int64), found, len(SPACE))


# Quality, by hand.


def test_a_perfect_result_has_quality_1():
    ids = [[0, 0, 1, 2]]
    result = Panoptic(SPACE, count(ids, [0, 0, 2], ids, [0, 0, 2]))
    assert result.quality() == (1, 1, 1, 2)
    assert result.quality(things=True) == (1, 1, 1, 1)
    assert result.quality(things=False) == (1, 1, 1, 1)


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean():
    result = Panoptic(SPACE, count([[0, 0]], [0], [[0, 0]], [0]))
    assert np.isnan(result.by_class[1:]).all()
    assert np.isnan(result.quality(things=False).pq)
    assert result.quality(things=False).classes == 0


def test_one_match_one_false_alarm_and_one_miss_as_computed_by_hand():
    # Cars: truth of 4 pixels found with 3 of them (IoU 3/4); another car is missed; a third is found on the road.
    true = [[0, 0, 0, 0, 1, 1, 2, 2, 2, 2]]
    found = [[0, 0, 0, 2, 2, 2, 1, 2, 2, 2]]
    result = Panoptic(SPACE, count(true, [0, 0, 2], found, [0, 0, 2]))
    assert result.counts[0].tolist() == [1, 0.75, 1, 1]
    assert result.by_class[0] == pytest.approx([0.75 / 2, 0.75, 0.5])
    # The road: 3 of 4 pixels, and 3 more: 3/7 is no match.
    assert result.counts[2].tolist() == [0, 0, 1, 1]
    assert result.quality().pq == pytest.approx(0.375 / 2)


def test_an_iou_of_one_half_is_no_match():
    assert count([[0, 0, 1]], [0, 2], [[0, 1, 1]], [0, 2])[0].tolist() == [0, 0, 1, 1]


def test_a_match_needs_the_same_class():
    counts = count([[0, 0]], [0], [[0, 0]], [1])
    assert counts[0].tolist() == [0, 0, 0, 1]
    assert counts[1].tolist() == [0, 0, 1, 0]


def test_unlabelled_pixels_are_in_no_union_and_forgive_what_lies_mostly_there():
    # Found: a car of 2 labelled and 1 unlabelled pixels; a person of 2 unlabelled and 1 labelled; one half and half.
    true = [[0, 0, IGNORE, IGNORE, IGNORE, 1, 1, IGNORE]]
    found = [[0, 0, 0, 1, 1, 1, 2, 2]]
    counts = count(true, [0, 2], found, [0, 1, 3])
    assert counts[0].tolist() == [1, 1, 0, 0]
    assert counts[1].tolist() == [0, 0, 0, 0]
    # Half is not most of it.
    assert counts[3].tolist() == [0, 0, 1, 0]
    assert counts[2].tolist() == [0, 0, 0, 1]


def test_padded_segments_are_nobodys():
    counts = count([[0, 0]], [0, IGNORE, IGNORE], [[0, 0]], [0])
    assert counts.sum() == 2


def as_pairs(ids, classes):
    table = torch.cat([torch.tensor(classes), torch.tensor([9])])
    c = table[ids]
    number = torch.where((c < 2), ids, 0)
    return torch.stack([c, number], -1)


def _stuff_once(ids, classes):
    """Join segments of one stuff class, as both sides must."""
    first = {}
    table = []
    for i, c in enumerate(classes):
        table.append(first.setdefault(c, i) if c >= 2 else i)
    return torch.tensor([*table, -1])[ids]


def _random(seed, void):
    """A true map and a found one that is like it; where `void` pixels of the latter may be nobody's."""
    g = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 4, (5,), generator=g).tolist()
    true = torch.randint(-1, 5, (4, 6), generator=g).repeat_interleave(3, 1)
    noise = torch.rand(true.shape, generator=g) < 0.25
    ids = torch.where(noise, torch.randint(-1, 5, true.shape, generator=g), true)
    ids = ids if void else ids.clamp(min=0)
    return _stuff_once(true, classes), _stuff_once(ids, classes), classes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_random_results_are_counted_as_torchmetrics_does(seed):
    """Every pixel is predicted: torchmetrics takes pixels without a prediction out of unions, the API does not."""
    from torchmetrics.functional.detection._panoptic_quality_common import _panoptic_quality_update_sample

    true, ids, classes = _random(seed, void=False)
    pairs = [as_pairs(x, classes).flatten(0, 1) for x in (ids, true)]
    iou, tp, fp, fn = _panoptic_quality_update_sample(*pairs, {i: i for i in range(4)}, void_color=(9, 0))
    expected = torch.stack([tp.double(), iou.double(), fp.double(), fn.double()], 1).numpy()
    np.testing.assert_allclose(count(true.tolist(), classes, ids.tolist(), classes), expected, atol=1e-6)


def api(true, true_classes, ids, classes):
    """The panoptic API's definition, segment by segment (Kirillov et al. 2019, section 4.1)."""
    out = np.zeros((4, 4))
    masks = {t: true == t for t in true.unique().tolist() if t >= 0}
    found = {p: ids == p for p in ids.unique().tolist() if p >= 0}
    void, matched = true < 0, set()
    for t, mask in masks.items():
        c, hit = true_classes[t], False
        for p, other in found.items():
            both = (mask & other).sum().item()
            iou = both / (mask.sum().item() + other.sum().item() - both - (void & other).sum().item())
            if classes[p] == c and iou > 0.5:
                out[c] += (1, iou, 0, 0)
                hit = True
                matched.add(p)
        out[c, 3] += not hit
    for p, other in found.items():
        out[classes[p], 2] += p not in matched and (void & other).sum() / other.sum() <= 0.5
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_random_results_are_counted_as_the_panoptic_api_defines(seed):
    true, ids, classes = _random(seed, void=True)
    found = count(true.tolist(), classes, ids.tolist(), classes)
    np.testing.assert_allclose(found, api(true, classes, ids, classes))


def test_the_mean_is_that_of_torchmetrics():
    from torchmetrics.detection import PanopticQuality

    metric = PanopticQuality(things={0, 1}, stuffs={2, 3}, return_sq_and_rq=True, allow_unknown_preds_category=True)
    true, ids = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 3]]), torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2]])
    classes = [0, 0, 2, 3]
    metric.update(as_pairs(ids, classes)[None], as_pairs(true, classes)[None])
    pq, sq, rq = metric.compute().tolist()
    ours = Panoptic(SPACE, count(true.tolist(), classes, ids.tolist(), classes)).quality()
    assert ours[:3] == pytest.approx((pq, sq, rq))
