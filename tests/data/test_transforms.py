import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

from manyseg.data.annotation import Boxes, Dense, Segments, Tags
from manyseg.data.batch import Sample
from manyseg.data.crop import MEAN_COLOR, Crop, Span, _commonest, flip, rotate
from manyseg.data.folder import Folder
from manyseg.data.options import AugmentOptions, Jitter
from manyseg.data.transforms import Augment, _blur, _jitter
from manyseg.labels import IGNORE

STILL = Jitter(brightness=0, contrast=0, saturation=0, hue=0)
PLAIN = {"scale": (1.0, 1.0), "jitter": STILL, "flip": 0.0, "max_share": 1.0}


class Still(Folder):
    """A folder of one image in memory; like a JPEG, it can be read at a reduced scale."""

    ids = ("still",)
    by_windows = False

    def __init__(self, image, annotation, reduce=False):
        self.image, self.annotated, self.reduce, self.asked = image, annotation, reduce, []

    def read(self, index, target, part):
        native = self.image.shape[-2:]
        self.asked.append(target((native[0], native[1])))
        k = 2 if self.reduce and all(2 * t <= n for t, n in zip(self.asked[-1], native, strict=True)) else 1
        image = F.avg_pool2d(self.image.float(), k, ceil_mode=True).to(torch.uint8)
        (top, bottom), (left, right) = part(self.annotated, tuple(native), tuple(image.shape[-2:])).ranges
        return Sample("still", image[:, top:bottom, left:right], self.annotated)


def coordinates(h, w):
    """An image whose red is the row and green the column, and labels that number the pixels."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([y, x, 0 * y]).to(torch.uint8), Dense(y * w + x)


def augment(folder, seed=0, **options):
    return Augment(AugmentOptions(**options))(folder, 0, torch.Generator().manual_seed(seed))


def identity(h, w):
    return Crop(Span(0, h, 0, h), Span(0, w, 0, w), (h, w), (h, w), (h, w))


ANNOTATIONS = {
    "dense": lambda h, w: Dense(torch.randint(-1, 3, (h, w), generator=torch.Generator().manual_seed(h * w))),
    "segments": lambda h, w: Segments(torch.arange(h * w).view(h, w) % 4 - 1, torch.tensor([2, 0, 2])),
    "boxes": lambda h, w: Boxes(torch.tensor([[0.0, 0.0, w, h]]), torch.tensor([1]), torch.tensor([h, w])),
    "tags": lambda h, w: Tags(torch.tensor([0, 2])),
}


@given(
    kind=st.sampled_from(sorted(ANNOTATIONS)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scale=st.sampled_from([(0.05, 0.3), (0.5, 2.0), (3.0, 9.0)]),
    short_side=st.sampled_from([None, 1, 7, 90]),
    seed=st.integers(0, 99),
)
def test_the_result_has_exactly_the_size_of_the_crop(kind, size, crop, scale, short_side, seed):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    folder = Still(image, ANNOTATIONS[kind](*size), reduce=True)
    _, image, out = augment(folder, seed, crop=crop, scale=scale, short_side=short_side, blur=0.5)
    assert image.shape == (3, *crop)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    if kind in ("dense", "segments"):
        assert out[0].shape == crop
        assert -1 <= out.labels.min() <= out.labels.max() <= 2
    if kind == "segments":
        assert out.ids[out.ids >= 0].unique().tolist() == list(range(len(out.classes)))
    if kind == "boxes":
        assert out.extent.tolist() == list(crop)
        assert (out.boxes[:, :2] >= 0).all()
        assert (out.boxes[:, 2:] <= torch.tensor(crop[::-1])).all()


def test_a_crop_at_native_size_copies_pixels_and_their_labels():
    seen, (image, dense) = set(), coordinates(9, 12)
    for seed in range(20):
        _, crop, out = augment(Still(image, Dense(dense.labels.to(torch.int8))), seed, crop=(4, 5), **PLAIN)
        rows, cols = crop[0].long(), crop[1].long()
        assert torch.equal(out.labels, rows * 12 + cols)
        assert out.labels.dtype == torch.int64  # However few bits the image's labels have.
        top, left = int(rows[0, 0]), int(cols[0, 0])
        assert torch.equal(rows, (top + torch.arange(4))[:, None].expand(4, 5))
        assert torch.equal(cols, (left + torch.arange(5)).expand(4, 5))
        seen.add((top, left))
    assert len(seen) > 10


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("scale", [0.3, 0.5, 1.7])
def test_image_and_labels_stay_aligned_at_any_zoom(scale, reduce):
    labels = torch.zeros(61, 83, dtype=torch.int64)
    labels[20:, :] += 1
    labels[:, 31:] += 1
    image = (labels * 100).to(torch.uint8).expand(3, -1, -1)
    checked = 0
    for seed in range(20):
        folder = Still(image, Dense(labels), reduce)
        _, out, dense = augment(folder, seed, crop=(16, 20), **(PLAIN | {"scale": (scale, scale), "flip": 0.5}))
        # Away from the edges between labels, where colours blend, both must say the same.
        near = F.max_pool2d(dense.labels[None].float(), 5, 1, 2)[0]
        near_low = -F.max_pool2d(-dense.labels[None].float(), 5, 1, 2)[0]
        flat = near == near_low
        assert torch.equal(out[0][flat].long(), 100 * dense.labels[flat])
        checked += int((~flat).any())
    assert checked > 3


def test_labels_are_taken_at_the_centres_of_pixels():
    assert Span(0, 4, 0, 2).sources(1.0, 4).tolist() == [1, 3]
    assert Span(1, 3, 0, 4).sources(1.0, 4).tolist() == [1, 1, 2, 2]
    # The image was decoded at half scale: its pixels 1 and 2 are the native 2 to 5.
    assert Span(1, 3, 0, 2).sources(2.0, 8).tolist() == [3, 5]


@given(st.integers(1, 50), st.integers(1, 300), st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_a_span_lies_in_the_image_and_in_the_crop(decoded, scaled, crop, u):
    span = Span.place(decoded, scaled, crop, u)
    assert 0 <= span.lo < span.hi <= decoded
    assert 0 <= span.start < span.stop <= crop
    assert span.stop - span.start == min(scaled, crop)


@given(*[st.integers(1, 6)] * 4)
def test_a_resized_image_is_that_of_floating_point(h, w, rows, cols):
    image = picture(6, 6)
    crop = Crop(Span(0, h, 0, rows), Span(0, w, 0, cols), (6, 6), (6, 6), (rows, cols))
    exact = F.interpolate(image[None, :, :h, :w].float(), (rows, cols), mode="bilinear", antialias=True)[0]
    assert (crop.resized(image[:, :h, :w]).float() - exact).abs().max() < 1.01


def test_every_place_is_reached():
    assert {Span.place(5, 5, 3, i / 30).lo for i in range(30)} == {0, 1, 2}
    assert {Span.place(3, 3, 5, i / 30).start for i in range(30)} == {0, 1, 2}


def test_a_crop_larger_than_the_image_is_padded_with_the_mean_colour_and_ignored_labels():
    starts = set()
    for seed in range(30):
        image, annotation = coordinates(2, 3)
        _, out, dense = augment(Still(image, annotation), seed, crop=(4, 4), **PLAIN)
        known = dense.labels != IGNORE
        assert known.sum() == 6
        assert torch.equal(dense.labels[known], torch.arange(6))
        assert torch.equal(out[:, known], image.flatten(1))
        assert (out[:, ~known] == torch.tensor(MEAN_COLOR, dtype=torch.uint8)[:, None]).all()
        starts.add(int(known.flatten().int().argmax()))
    assert starts == {0, 1, 4, 5, 8, 9}


def test_the_scale_is_planned_before_the_image_is_read():
    image, annotation = coordinates(40, 60)
    folder = Still(image, annotation)
    augment(folder, crop=(8, 8), scale=(0.5, 0.5))
    augment(folder, crop=(8, 8), scale=(1.5, 1.5), short_side=20)
    assert folder.asked == [(20, 30), (30, 45)]


def test_the_zoom_spreads_over_its_range():
    folder = Still(*coordinates(100, 100))
    for seed in range(200):
        augment(folder, seed, crop=(4, 4), scale=(0.5, 2.0))
    heights = sorted(h for h, _ in folder.asked)
    assert 50 <= heights[0] < 60
    assert 115 < heights[100] < 135
    assert 190 < heights[-1] <= 200


def test_a_flip_mirrors_image_labels_and_boxes():
    image, dense = coordinates(8, 10)
    _, out, labels = augment(Still(image, dense), crop=(8, 10), **(PLAIN | {"flip": 1.0}))
    assert torch.equal(out, image.flip(-1))
    assert torch.equal(labels.labels, dense.labels.flip(-1))
    boxes = Boxes(torch.tensor([[1.0, 2.0, 4.0, 6.0]]), torch.tensor([0]), torch.tensor([8, 10]))
    assert flip(boxes, 10).boxes.tolist() == [[6, 2, 9, 6]]
    _, _, moved = augment(Still(image, boxes), crop=(8, 10), **(PLAIN | {"flip": 1.0}))
    assert moved.boxes.tolist() == [[6, 2, 9, 6]]


def test_a_flip_happens_as_often_as_asked():
    image, dense = coordinates(2, 2)
    options = PLAIN | {"flip": 0.25}
    flips = [int(augment(Still(image, dense), s, crop=(2, 2), **options).image[1, 0, 0]) for s in range(400)]
    assert 70 < sum(flips) < 130


def test_boxes_are_moved_and_clipped_and_empty_ones_dropped():
    boxes = Boxes(
        torch.tensor([[0.0, 0.0, 8.0, 8.0], [4.0, 4.0, 6.0, 5.0], [0.0, 0.0, 2.0, 8.0], [2.0, 6.0, 3.0, 7.0]]),
        torch.tensor([3, 1, 2, 0]),
        torch.tensor([8, 8]),
    )
    # Rows 2 to 6 and columns 2 to 6, enlarged twice, with a border of 1 pixel.
    crop = Crop(Span(2, 6, 1, 9), Span(2, 6, 1, 9), (8, 8), (8, 8), (10, 10))
    out = crop.annotation(boxes)
    assert out.boxes.tolist() == [[1, 1, 9, 9], [5, 5, 9, 7]]
    assert out.classes.tolist() == [3, 1]
    assert out.extent.tolist() == [10, 10]


def test_boxes_are_native_where_the_image_was_decoded_smaller():
    boxes = Boxes(torch.tensor([[4.0, 8.0, 12.0, 16.0]]), torch.tensor([0]), torch.tensor([16, 16]))
    crop = Crop(Span(0, 8, 0, 8), Span(0, 8, 0, 8), (16, 16), (8, 8), (8, 8))
    assert crop.annotation(boxes).boxes.tolist() == [[2, 4, 6, 8]]


def test_an_image_without_boxes_stays_without():
    boxes = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.tensor([8, 8]))
    out = augment(Still(torch.zeros(3, 8, 8, dtype=torch.uint8), boxes), crop=(4, 4), flip=1.0).annotation
    assert out.boxes.shape == (0, 4)


def test_segments_that_vanish_are_forgotten():
    segments = Segments(torch.tensor([[0, 1, 2], [0, -1, 2]]), torch.tensor([5, 6, 5]))
    out = Crop(Span(0, 2, 0, 2), Span(1, 3, 0, 2), (2, 3), (2, 3), (2, 2)).annotation(segments)
    assert out.ids.tolist() == [[0, 1], [IGNORE, 1]]
    assert out.classes.tolist() == [6, 5]
    assert identity(2, 3).annotation(segments).ids.tolist() == segments.ids.tolist()


def test_tags_stay():
    tags = Tags(torch.tensor([4, 1]))
    assert augment(Still(torch.zeros(3, 9, 9, dtype=torch.uint8), tags), crop=(4, 4)).annotation is tags


def choose(annotation, max_share, columns, width):
    """Choose among 1x2 crops of a row of labels that start at `columns`."""
    w = annotation[0].shape[1]
    places = [(0.0, (c + 0.5) / (w - width + 1)) for c in columns]
    return Crop.choose(
        lambda crop: crop.sparse(annotation), (1, w), (1, w), (1, w), (1, width), max_share, places
    ).cols.lo


def test_a_crop_that_one_class_dominates_is_drawn_again():
    dense = Dense(torch.tensor([[0, 0, 0, 0, 1, 2]]))
    assert choose(dense, 0.5, [0, 2, 3, 4], 4) == 2
    assert choose(dense, 0.75, [0, 1, 2], 4) == 1
    assert choose(dense, 1.0, [0, 1, 2], 4) == 0


def test_a_share_counts_classes_not_segments():
    segments = Segments(torch.tensor([[0, 1, 2, 3, 4, 5]]), torch.tensor([0, 0, 0, 0, 1, 2]))
    assert choose(segments, 0.5, [0, 1, 2], 4) == 2


def test_without_a_varied_crop_the_most_varied_one_is_taken():
    dense = Dense(torch.tensor([[0, 0, 0, 0, 1, 0]]))
    assert choose(dense, 0.1, [0, 1, 0], 4) == 1


def test_a_crop_without_labels_is_drawn_again_and_unlabelled_pixels_do_not_count():
    dense = Dense(torch.tensor([[-1, -1, -1, -1, 0, 1]]))
    assert choose(dense, 0.5, [0, 2], 4) == 2
    assert choose(dense, 0.5, [0, 1], 4) == 1


def test_an_image_without_any_label_works():
    dense = Dense(torch.full((20, 30), IGNORE))
    out = augment(Still(torch.zeros(3, 20, 30, dtype=torch.uint8), dense), crop=(8, 8))
    assert (out.annotation.labels == IGNORE).all()
    segments = Segments(torch.full((20, 30), IGNORE), torch.zeros(0, dtype=torch.int64))
    out = augment(Still(torch.zeros(3, 20, 30, dtype=torch.uint8), segments), crop=(8, 8))
    assert (out.annotation.labels == IGNORE).all()


def test_a_share_of_a_large_crop_is_estimated_closely():
    labels = torch.zeros(300, 500, dtype=torch.int64)
    labels[:, 130:] = 1
    assert _commonest(identity(300, 500).sparse(Dense(labels))) == pytest.approx(0.74, abs=0.02)


def test_a_crop_has_the_class_that_its_image_was_drawn_for():
    labels = torch.zeros(40, 40, dtype=torch.int64)
    labels[:4, :4] = 1  # In the first place alone, where it is too small to be varied; of the others 3 is the most so.
    labels[20:, 20:30] = 3
    places = [(0.99, 0.99), (0.0, 0.99), (0.0, 0.0)]

    def choose(max_share, wanted):
        size = (40, 40)
        crop = Crop.choose(
            lambda crop: crop.sparse(Dense(labels)), size, size, size, (10, 20), max_share, places, wanted
        )
        return [(30, 20), (0, 20), (0, 0)].index((crop.rows.lo, crop.cols.lo))

    assert choose(0.6, None) == 0
    assert choose(0.6, 1) == choose(1.0, 1) == choose(0.95, 1) == 2
    assert choose(0.6, 3) == choose(1.0, 3) == 0
    # A class that is in none of them changes nothing.
    assert choose(0.6, 2) == 0


def picture(h=24, w=32):
    return torch.randint(40, 200, (3, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def only(**strength):
    return Jitter(**({"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0} | strength))


def test_brightness_and_saturation_are_those_of_torchvision():
    image = picture()
    # A draw of 0.75 is half of the strength, upwards.
    ours = _jitter(image, only(brightness=0.3), [0.75, 0.5, 0.5, 0.5])
    assert (ours.int() - V.adjust_brightness(image, 1.15).int()).abs().max() <= 1
    ours = _jitter(image, only(saturation=0.6), [0.5, 0.5, 0.75, 0.5])
    assert (ours.int() - V.adjust_saturation(image, 1.3).int()).abs().max() <= 1


def test_contrast_turns_about_mid_grey():
    image = torch.tensor([27, 127, 227], dtype=torch.uint8)[:, None, None]
    assert _jitter(image, only(contrast=0.5), [0.5, 0.0, 0.5, 0.5]).flatten().tolist() == [77, 127, 177]


def test_a_turned_hue_keeps_grey_and_luma():
    grey = torch.arange(256, dtype=torch.uint8).expand(3, 1, -1)
    turned = only(hue=0.5, saturation=1.0)
    assert (_jitter(grey, turned, [0.5, 0.5, 0.9, 0.8]).int() - grey.int()).abs().max() <= 1
    image = picture()
    luma = torch.tensor([0.299, 0.587, 0.114])
    out = _jitter(image, only(hue=0.1), [0.5, 0.5, 0.5, 1.0])
    change = torch.einsum("c,chw->hw", luma, out.float() - image.float())
    inside = ((out > 0) & (out < 255)).all(0)
    assert change[inside].abs().max() < 1
    assert (out.int() - image.int()).abs().max() > 10


def test_a_jitter_in_the_middle_of_its_range_changes_nothing():
    image = picture()
    assert torch.equal(_jitter(image, Jitter(brightness=1, contrast=1, saturation=1, hue=0.5), [0.5] * 4), image)


def test_padding_is_not_jittered():
    strong = Jitter(brightness=1, contrast=1, saturation=1, hue=0.5)
    folder = Still(picture(2, 2), Tags(torch.tensor([0])))
    out = augment(folder, 3, crop=(6, 6), scale=(1, 1), jitter=strong).image
    assert (out == torch.tensor(MEAN_COLOR)[:, None, None]).all(0).sum() == 32


def test_a_blur_keeps_the_mean_and_takes_contrast():
    image = picture()
    out = _blur(image, 2.0)
    assert abs(out.float().mean() - image.float().mean()) < 2
    assert out.float().std() < 0.4 * image.float().std()
    assert torch.equal(_blur(image[:, :1, :1], 2.0), image[:, :1, :1])


def test_the_generator_alone_decides():
    image, dense = coordinates(30, 40)
    options = {"crop": (12, 12), "blur": 0.5}
    state = torch.get_rng_state()
    first = augment(Still(image, dense), 1, **options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again, other = augment(Still(image, dense), 1, **options), augment(Still(image, dense), 2, **options)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.annotation.labels, again.annotation.labels)
    assert not torch.equal(first.image, other.image)


def test_an_option_leaves_the_draws_of_the_others_alone():
    image, dense = coordinates(30, 40)
    plain = augment(Still(image, dense), 5, crop=(12, 12), jitter=STILL, max_share=1.0)
    changed = augment(Still(image, dense), 5, crop=(12, 12), max_share=1.0, blur=1.0)
    assert torch.equal(plain.annotation.labels, changed.annotation.labels)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crops", [4, 4]),
        ("crop", [0, 4]),
        ("scale", [2.0, 0.5]),
        ("scale", [0.0, 1.0]),
        ("flip", 1.5),
        ("max_share", 0),
        ("jitter", {"hue": 0.7}),
        ("jitter", {"gamma": 0.1}),
        ("blur_sigma", [1.0, float("inf")]),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error(key, value):
    with pytest.raises(ValidationError, match=key):
        AugmentOptions(**{key: value})


def test_a_summary_names_what_is_done():
    options = AugmentOptions(scale=(0.5, 1), short_side=720, jitter=only(hue=0.1), blur=0.25, max_share=1)
    assert options.summary() == "scale 0.5-1 of 720 px, flip 0.5, jitter hue 0.1, blur 0.25"


def test_a_quarter_turn_to_the_left_moves_colours_labels_and_boxes_alike():
    image, dense = coordinates(6, 6)
    turned, labels = rotate(image, dense, 90.0)
    assert torch.equal(turned, torch.rot90(image, 1, (1, 2)))
    assert torch.equal(labels.labels, torch.rot90(dense.labels))
    box = Boxes(torch.tensor([[0.0, 1.0, 2.0, 5.0]]), torch.tensor([3]), torch.tensor([6, 6]))
    _, boxes = rotate(image, box, 90.0)
    torch.testing.assert_close(boxes.boxes, torch.tensor([[1.0, 4.0, 5.0, 6.0]]))
    assert boxes.classes.tolist() == [3]
    assert rotate(image, ANNOTATIONS["tags"](6, 6), 90.0)[1].classes.tolist() == [0, 2]


def test_what_a_turn_brings_in_at_the_corners_has_no_label():
    image, segments = (
        torch.full((3, 20, 20), 200, dtype=torch.uint8),
        Segments(torch.zeros(20, 20).long(), torch.tensor([1])),
    )
    turned, found = rotate(image, segments, 45.0)
    assert turned[:, 0, 0].tolist() == list(MEAN_COLOR)
    assert (found.ids[0, 0], found.ids[10, 10]) == (IGNORE, 0)
    assert (found.ids == IGNORE).sum() == pytest.approx(2 * (20 - 20 / 2**0.5) ** 2, rel=0.2)


def test_a_recipe_turns_crops_by_angles_within_its_range():
    image, dense = coordinates(40, 40)
    still = augment(Still(image, dense), crop=(40, 40), **PLAIN)
    found = [augment(Still(image, dense), seed, crop=(40, 40), rotate=10, **PLAIN) for seed in range(4)]
    assert torch.equal(still.annotation.labels, dense.labels)
    assert len({f.annotation.labels.float().sum().item() for f in found}) > 2
    # Ten degrees move the middle of a side, 20 pixels from the centre, by 3.5 pixels along it, and by 0.3 across.
    for f in found:
        outside = f.annotation.labels[20, :4] == IGNORE
        assert not outside[1:].any()
