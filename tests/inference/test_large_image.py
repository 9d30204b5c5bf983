"""Label maps of images that are read by windows."""

import pytest
import torch

from manyseg import testing
from manyseg.errors import UserError
from manyseg.inference import large_image
from manyseg.inference.encoded_images import EncodedImages, OutputSpace
from manyseg.inference.large_image import label_rows
from manyseg.inference.options import TestOptions
from manyseg.inference.windows import starts, weights
from manyseg.methods import find_method
from manyseg.models import PixelEncoder


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    encoder = PixelEncoder.build(backbone="tiny", pretrained=False, channels=8)
    return find_method("multihead")(encoder, testing.toy_spaces()).eval()


def reading(image, reads):
    def read(top, left, height, width):
        reads.append((top, left, height, width))
        assert 0 <= top < top + height <= image.shape[1]
        assert 0 <= left < left + width <= image.shape[2]
        return image[:, top : top + height, left : left + width]

    return read


@pytest.mark.parametrize(("overlap", "slab"), [(0.0, 1 << 22), (1 / 3, 1), (0.6, 160 * 20)])
def test_windows_give_what_the_whole_gives_and_each_is_read_once(method, monkeypatch, overlap, slab):
    """A whole image of the same windows is held at once: the sums are the same, in the same order."""
    monkeypatch.setattr(large_image, "SLAB", slab)
    image = torch.randint(0, 256, (3, 192, 160), generator=torch.manual_seed(1), dtype=torch.uint8)
    output, options = OutputSpace(method.spaces[0]), TestOptions(window=(64, 96), overlap=overlap)
    reads = []
    rows = [maps[0] for maps in label_rows(method, reading(image, reads), (192, 160), [output], options)]
    whole = EncodedImages(method, image[None], options).label_maps([output])[0][0]
    assert torch.equal(torch.cat(rows), whole)
    assert len(whole.unique()) > 1
    assert len(reads) == len(set(reads)) == len(starts(192, 64, overlap)) * len(starts(160, 96, overlap))
    assert {(h, w) for *_, h, w in reads} == {(64, 96)}
    # Nothing is as high as the image: what is held does not grow with it.
    assert max(map(len, rows)) <= 96


def test_rows_come_before_the_image_is_read_to_its_end(method):
    image, reads = torch.zeros(3, 640, 64, dtype=torch.uint8), []
    options = TestOptions(window=(64, 64), overlap=0)
    found = label_rows(method, reading(image, reads), (640, 64), [OutputSpace(method.spaces[0])], options)
    next(found)
    assert len(reads) == 1


def test_an_image_of_any_size_is_completed_by_its_border(method):
    image = torch.randint(0, 256, (3, 75, 50), generator=torch.manual_seed(1), dtype=torch.uint8)
    output, options = OutputSpace(method.spaces[0]), TestOptions(window=(64, 96))
    reads = []
    rows = torch.cat([maps[0] for maps in label_rows(method, reading(image, reads), (75, 50), [output], options)])
    padded = torch.nn.functional.pad(image[None].float(), (0, 14, 0, 21), mode="replicate").byte()
    whole = EncodedImages(method, padded, options).label_maps([output])[0][0]
    assert torch.equal(rows, whole[:75, :50])
    assert reads == [(0, 0, 64, 50), (32, 0, 43, 50)]


def test_windows_fade_into_each_other():
    """Of two windows that overlap by half, the weights of one fall as those of the other rise."""
    rows = weights(torch.zeros(2, 4, 1))[:, 0] / 0.5
    assert rows.tolist() == [0.5, 1.5, 1.5, 0.5]
    left, right = rows[2:], rows[:2]
    assert (left / (left + right)).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    "options",
    [{}, {"window": (64, 64), "flip": True}, {"window": (64, 64), "max_side": 99}, {"window": (64, 64), "scales": [2]}],
)
def test_what_needs_the_whole_image_is_refused(method, options):
    found = label_rows(method, lambda *place: None, (99, 100), [OutputSpace(method.spaces[0])], TestOptions(**options))
    with pytest.raises(UserError, match=r"an image of 100x99 pixels .*--set test.window=\[1024,1024\]"):
        next(found)
