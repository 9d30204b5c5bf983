"""How often classes were seen in training, counted by hand."""

import math

import numpy as np
import pytest
import torch

from manyseg.data.annotation import Dense, Tags
from manyseg.data.batch import Batch
from manyseg.labels import IGNORE, JointClasses, LabelSpace, Taxonomy
from manyseg.methods.baselines import Manual
from manyseg.methods.class_shares import class_log_shares, count_pixels, node_shares, related_log_shares
from manyseg.methods.continuation import continue_from
from manyseg.models import PixelEncoder

A = LabelSpace.of("a", ["road", "vehicle"])
B = LabelSpace.of("b", ["Road", "car", "truck"])
C = LabelSpace.of("c", ["sky"])
GROUPS = [
    [("a", "road"), ("b", "Road")],
    [("a", "vehicle"), ("b", "car")],
    [("a", "vehicle"), ("b", "truck")],
    [("c", "sky")],
]
NODES = ["road", "car", "truck", "sky"]
TABLE = Taxonomy.from_groups((A, B, C), GROUPS, NODES)
COUNTS = torch.tensor([60, 40, 10, 80, 10, 0])


def batch(space, labels):
    labels = torch.as_tensor(labels).reshape(1, *np.shape(labels))
    image = torch.zeros(1, 3, *labels.shape[1:], dtype=torch.uint8)
    return Batch(image=image, annotation=Dense(labels), space=space, ids=("one",))


def method():
    return Manual(PixelEncoder.build(backbone="tiny", pretrained=False, channels=8), (A, B, C), taxonomy=TABLE)


def test_every_fourth_row_and_column_is_counted_but_not_pixels_without_a_label():
    labels = torch.ones(8, 8, dtype=torch.int64)
    labels[0, 0], labels[0, 4], labels[1, 1] = 2, IGNORE, 0
    counts = torch.tensor([5, 0, 0, 0, 0, 0])
    count_pixels(JointClasses((A, B, C)), [batch(B, labels)], counts)
    # Of the four pixels at (0, 0), (0, 4), (4, 0) and (4, 4) one is a truck, one has no label, two are cars.
    assert counts.tolist() == [5, 0, 0, 2, 1, 0]


def test_shares_are_those_of_the_own_dataset_and_a_class_that_was_never_seen_is_left_alone():
    expected = torch.tensor([0.1, 0.8, 0.1]).log()
    torch.testing.assert_close(class_log_shares(COUNTS[2:5]), expected)
    torch.testing.assert_close(class_log_shares(COUNTS[5:]), torch.zeros(1))
    assert class_log_shares(torch.tensor([3, 0, 1]))[1] == 0


def test_a_node_has_its_part_of_each_class_and_the_mean_over_datasets_that_label_it():
    # road: (0.6 + 0.1) / 2; car: (0.4 / 2 + 0.8) / 2; truck: (0.4 / 2 + 0.1) / 2; sky: dataset c was never seen.
    shares = node_shares(TABLE, COUNTS)
    torch.testing.assert_close(shares, torch.tensor([0.35, 0.5, 0.15, 0.0]))
    relation = torch.tensor([[False, True, True, False], [False, False, False, True]])
    torch.testing.assert_close(related_log_shares(shares, relation), torch.tensor([math.log(0.65), 0.0]))


def test_a_method_counts_in_training_alone_and_answers_for_every_kind_of_space():
    model = method()
    road = batch(A, torch.zeros(32, 32, dtype=torch.int64))
    model.eval()([road])
    assert not model.class_pixels.any()
    model.train()([road, batch(B, torch.ones(32, 32, dtype=torch.int64))])
    assert model.class_pixels.tolist() == [64, 0, 0, 64, 0, 0]
    model.class_pixels.copy_(COUNTS)
    torch.testing.assert_close(model.log_shares(A), torch.tensor([0.6, 0.4]).log())
    torch.testing.assert_close(model.log_shares(TABLE.unified)[:3], torch.tensor([0.35, 0.5, 0.15]).log())
    other = LabelSpace.of("other", ["vehicles"])
    relation = torch.tensor([[False, True, True, False]])
    torch.testing.assert_close(model.log_shares(other, relation), torch.tensor([0.65]).log())
    assert model.log_shares(LabelSpace.of("words", ["x", "y"])).tolist() == [0, 0]


def test_tags_are_not_counted():
    space = JointClasses((A, B, C))
    tags = Batch(
        image=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        annotation=Tags(torch.tensor([[0]])),
        space=A,
        ids=("one",),
    )
    counts = torch.zeros(6, dtype=torch.int64)
    count_pixels(space, [tags], counts)
    assert not counts.any()


@pytest.mark.parametrize("spaces", [(A, B, C), (C, B, A)])
def test_counts_go_on_with_the_same_labels_only(spaces):
    old, table = method(), Taxonomy.from_groups(spaces, GROUPS, NODES)
    old.class_pixels.copy_(COUNTS)
    new = Manual(PixelEncoder.build(backbone="tiny", pretrained=False, channels=8), spaces, taxonomy=table)
    continue_from(new, old)
    assert new.class_pixels.tolist() == (COUNTS.tolist() if spaces == (A, B, C) else [0] * 6)
