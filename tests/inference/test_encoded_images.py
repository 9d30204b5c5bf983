"""Windows, flips and scales; how often the network sees an image, and what that says in every space."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F

from manyseg.inference.encoded_images import EncodedImages, OutputSpace
from manyseg.inference.options import TestOptions, ViewOptions
from manyseg.inference.resize import resize
from manyseg.labels import IGNORE, LabelSpace


class Scorer:
    """A method whose features are the scores that a function of the image gives, in every space."""

    device, hierarchy, align_corners = torch.device("cpu"), None, False

    def __init__(self, score):
        self.pixel_encoder = score

    def predict(self, features, space, relation=None):
        return features

    def log_shares(self, space, relation=None):
        return torch.tensor([0.9, 0.1]).log()


ANY = [OutputSpace(LabelSpace.of("any", ["a", "b"]))]


def score_map(score, image, options):
    return EncodedImages(Scorer(score), image, options).scores(ANY)[0]


def predict_map(score, image, options):
    return EncodedImages(Scorer(score), image, options).label_maps(ANY)[0]


class Strided:
    """A network that scores the mean of each 4x4 block; remembers the sizes that it was shown."""

    def __init__(self):
        self.sizes = []

    def __call__(self, image):
        self.sizes.append(tuple(image.shape[-2:]))
        level = F.avg_pool2d(image[:, :1].float(), 4, ceil_mode=True) / 50
        return torch.cat([level, 3 - level], 1)


@pytest.mark.parametrize("view", [{}, {"flip": True}, {"window": (32, 32)}], ids=["whole", "flip", "windows"])
def test_a_part_of_the_log_shares_is_taken_off_every_log_probability(view):
    # The first class is 1.5 times as probable, and 9 times as frequent: at half of the log, the second one wins.
    def score(image):
        return torch.tensor([0.6, 0.4]).log()[:, None, None].expand(len(image), 2, 8, 8)

    image, options = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TestOptions(logit_adjustment=0.5, **view)
    assert (predict_map(score, image, TestOptions(**view)) == 0).all()
    assert (predict_map(score, image, options) == 1).all()
    images = EncodedImages(Scorer(score), image, options)
    weights = torch.tensor([0.6 / 0.9**0.5, 0.4 / 0.1**0.5])
    confidence = images.confidences(images.scores(ANY)[0])
    torch.testing.assert_close(confidence, torch.full_like(confidence, weights[1] / weights.sum()))


@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.5])
def test_windows_cover_the_image_and_agree_with_the_whole_where_the_network_is_local(overlap):
    image = torch.randint(0, 256, (2, 3, 96, 160), dtype=torch.uint8)
    score = Strided()
    found = score_map(score, image, TestOptions(window=(64, 32), overlap=overlap))
    torch.testing.assert_close(found, Strided()(image).softmax(1))
    assert set(score.sizes) == {(64, 32)}
    assert len(score.sizes) >= 2 * 5


@pytest.mark.parametrize(
    ("overlap", "count"),
    # 192 columns by windows of 96, whose steps are 96, 64 and 32.
    [(0.0, 2), (1 / 3, 3), (0.5, 4)],
)
def test_windows_are_no_more_than_their_overlap_asks_for(overlap, count):
    score = Strided()
    score_map(score, torch.zeros(1, 3, 96, 192, dtype=torch.uint8), TestOptions(window=(96, 96), overlap=overlap))
    assert len(score.sizes) == count


def test_an_image_smaller_than_the_window_is_one_window_and_odd_sizes_are_stretched_onto_the_grid():
    score = Strided()
    image = torch.randint(0, 256, (1, 3, 45, 70), dtype=torch.uint8)
    assert predict_map(score, image, TestOptions(window=(128, 64))).shape == (1, 45, 70)
    assert set(score.sizes) == {(64, 64)}


def test_flipping_averages_the_mirrored_answer():
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)

    def left_is_first(view):
        ramp = torch.linspace(2, -2, view.shape[-1]).expand(1, 1, *view.shape[-2:])
        return torch.cat([ramp, 0 * ramp], 1)

    found = score_map(left_is_first, image, TestOptions(flip=True))
    ramp = left_is_first(image).softmax(1)
    torch.testing.assert_close(found, (ramp + ramp.flip(-1)) / 2)
    torch.testing.assert_close(found, found.flip(-1))


def test_a_flipped_view_is_encoded_anew_and_its_answer_flipped_back():
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)

    def answer(view):
        place = torch.linspace(2, -2, view.shape[-1]).expand(1, 1, *view.shape[-2:])
        return torch.cat([place, view[:, :1] / 255], 1)

    found = score_map(answer, image, TestOptions(flip=True))
    both = [answer(image).softmax(1), answer(image.flip(-1)).softmax(1).flip(-1)]
    torch.testing.assert_close(found, sum(both) / 2)


def test_label_maps_of_known_scores_need_no_further_look():
    score = Strided()
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    encoded = EncodedImages(Scorer(score), image, TestOptions(flip=True))
    scores = encoded.scores(ANY)
    found = encoded.label_maps(ANY, scores)
    assert len(score.sizes) == 2
    assert torch.equal(found[0], encoded.label_maps(ANY)[0])
    assert len(score.sizes) == 3  # The features of the whole image are kept, the mirrored ones are not.


def test_scales_are_averaged_on_the_finest_grid():
    image = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    score = Strided()
    found = score_map(score, image, TestOptions(scales=(0.5, 1.0, 2.0)))
    assert sorted(score.sizes) == [(16, 32), (32, 64), (64, 128)]
    assert found.shape == (1, 2, 16, 32)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 16, 32))
    fine = Strided()(resize(image, (64, 128))).softmax(1)
    coarse = [Strided()(resize(image, size)).softmax(1) for size in ((32, 64), (16, 32))]
    coarse = [F.interpolate(c, (16, 32), mode="bilinear", align_corners=False) for c in coarse]
    torch.testing.assert_close(found, (fine + sum(coarse)) / 3)


def test_averages_exclude_what_the_network_excludes():
    def half(view):
        scores = torch.zeros(1, 2, *view.shape[-2:])
        scores[:, 0] = -math.inf
        scores[..., : view.shape[-1] // 2] = -math.inf
        return scores

    image = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    found = predict_map(half, image, TestOptions(window=(32, 64)))
    assert found[..., :32].unique().tolist() == [IGNORE]
    assert found[..., 32:].unique().tolist() == [1]


def test_a_large_image_is_shown_smaller_and_answered_at_native_size():
    score = Strided()
    image = torch.zeros(1, 3, 300, 400, dtype=torch.uint8)
    assert predict_map(score, image, TestOptions(max_side=100)).shape == (1, 300, 400)
    assert score.sizes == [(75, 100)]


def test_segments_are_found_by_the_thresholds_of_the_dataset():
    class Finder(Scorer):
        def segments(self, features, space, size, options):
            return [(size, options.mask_threshold, options.overlap_threshold)]

    options = TestOptions(overlap_threshold=0.6, sets={"ade": ViewOptions(mask_threshold=0.7)})
    image = torch.zeros(1, 3, 8, 12, dtype=torch.uint8)
    for name, threshold in (("ade", 0.7), ("other", 0.8)):
        found = EncodedImages(Finder(lambda x: x), image, options.of(name)).segments(ANY[0].space)
        assert found == [((8, 12), threshold, 0.6)]


def test_threads_encode_their_images_at_the_same_time():
    both = threading.Barrier(2, timeout=20)

    def score(image):
        both.wait()  # Which nobody passes alone.
        return torch.zeros(1, 2, 4, 4)

    def encode(_):
        return EncodedImages(Scorer(score), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).features.shape

    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(encode, range(2))] == [(1, 2, 4, 4)] * 2
