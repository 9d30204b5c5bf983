import pytest
import torch

from manyseg.data.annotation import Boxes, Dense, Segments, Tags, convert, stack
from manyseg.labels import IGNORE


def _boxes(boxes, classes, extent=(4, 4)):
    return Boxes(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.tensor(classes).long(), torch.tensor(extent)
    )


def test_boxes_become_normalised_counts_of_covering_boxes():
    # Two boxes of class 0 and one of class 1 over the upper left pixel; class 0 alone beside it.
    one = _boxes([[0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 1, 4]], [0, 0, 1])
    q = stack([one]).soft(3, (4, 4))[0]
    torch.testing.assert_close(q[:, 0, 0], torch.tensor([2 / 3, 1 / 3, 0]))
    assert q[:, 0, 1].tolist() == [1, 0, 0]
    assert q[:, 3, 0].tolist() == [0, 1, 0]
    assert q[:, 3, 3].tolist() == [0, 0, 0]


def test_a_box_ends_before_its_last_coordinate_and_is_cut_at_the_image():
    q = stack([_boxes([[1, 1, 3, 3], [-5, -5, 0, 9], [3, 3, 99, 99]], [0, 1, 2])]).soft(3, (4, 4))[0]
    assert q[0].sum() == 4
    assert q[1].sum() == 0
    assert q[2].sum() == 1


def test_a_box_covers_the_pixels_whose_centres_lie_in_it():
    q = stack([_boxes([[0.4, 0, 2.5, 4], [0.6, 0, 2.6, 4]], [0, 1])]).soft(2, (4, 4))[0]
    assert q[:, 0].tolist() == [[1, 0.5, 0, 0], [0, 0.5, 1, 0]]


def test_a_box_without_a_class_covers_nothing():
    q = stack([_boxes([[0, 0, 4, 4], [0, 0, 2, 4]], [IGNORE, 1])]).soft(2, (4, 4))[0]
    assert q[:, 0].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]


def test_nested_boxes_of_one_class_change_nothing():
    q = stack([_boxes([[0, 0, 4, 4], [1, 1, 2, 2]], [1, 1])]).soft(2, (4, 4))[0]
    assert torch.equal(q[1], torch.ones(4, 4))


def test_boxes_are_painted_at_the_resolution_asked_for():
    q = stack([_boxes([[0, 0, 4, 8]], [0], (8, 8))]).soft(1, (2, 2))[0]
    assert q[0].tolist() == [[1, 0], [1, 0]]


def test_tags_are_uniform_over_the_image_whatever_its_size():
    batch = stack([Tags(torch.tensor([0, 2])), Tags(torch.tensor([], dtype=torch.int64))])
    for size in ((1, 1), (3, 5)):
        q = batch.soft(3, size)
        assert (q[0].movedim(0, -1) == torch.tensor([0.5, 0, 0.5])).all()
        assert (q[1] == 0).all()
        assert q.shape == (2, 3, *size)


def test_dense_labels_average_over_the_labelled_pixels():
    dense = stack([Dense(torch.tensor([[0, 1, IGNORE, IGNORE], [1, IGNORE, IGNORE, IGNORE]]))])
    q = dense.soft(2, (1, 2))[0]
    torch.testing.assert_close(q[:, 0, 0], torch.tensor([1 / 3, 2 / 3]))
    assert q[:, 0, 1].tolist() == [0, 0]


def test_segments_read_as_labels_alone_and_in_a_batch():
    a = Segments(torch.tensor([[0, 1], [IGNORE, 1]]), torch.tensor([7, 3]))
    b = Segments(torch.tensor([[0, 0], [0, IGNORE]]), torch.tensor([5]))
    assert a.labels.tolist() == [[7, 3], [IGNORE, 3]]
    batch = stack([a, b])
    assert batch.labels.tolist() == [[[7, 3], [IGNORE, 3]], [[5, 5], [5, IGNORE]]]
    assert batch.classes.tolist() == [[7, 3], [5, IGNORE]]


def test_a_padded_segment_slot_is_never_read():
    batch = stack([Segments(torch.full((2, 2), IGNORE), torch.tensor([], dtype=torch.int64))])
    assert (batch.labels == IGNORE).all()


def test_segments_weaken_to_masks_boxes_and_tags():
    a = Segments(torch.tensor([[0, 1, 1], [IGNORE, 1, 1]]), torch.tensor([7, 3]))
    assert convert(a, "dense").labels.tolist() == [[7, 3, 3], [IGNORE, 3, 3]]
    boxes = convert(a, "boxes")
    assert boxes.boxes.tolist() == [[0, 0, 1, 1], [1, 0, 3, 2]]
    assert boxes.classes.tolist() == [7, 3]
    assert convert(a, "tags").classes.tolist() == [3, 7]
    assert convert(convert(a, "dense"), "tags").classes.tolist() == [3, 7]


def test_what_is_not_in_an_annotation_cannot_be_made_from_it():
    with pytest.raises(ValueError, match="dense annotation cannot be turned into boxes"):
        convert(Dense(torch.zeros(2, 2)), "boxes")


def test_boxes_of_images_with_none_batch_with_others():
    batch = stack([_boxes([], []), _boxes([[0, 0, 2, 2]], [1])])
    assert batch.classes.tolist() == [[IGNORE], [1]]
    assert batch.soft(2, (4, 4))[0].sum() == 0
