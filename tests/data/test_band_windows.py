"""Images of many bands are read by windows: training, checks and examples never hold one of them whole."""

import warnings

import layouts
import numpy as np
import pytest
import rasterio
import torch
from layouts import NAMES
from PIL import Image

from manyseg.data import bands, folder, load, window
from manyseg.data.bands import BandWindows
from manyseg.data.check import check
from manyseg.data.encodings.run_lengths import pixels
from manyseg.data.files import DataError
from manyseg.data.guess import guess
from manyseg.data.options import AugmentOptions
from manyseg.data.packed import Pack
from manyseg.data.packing import pack
from manyseg.data.quick_check import quick_check
from manyseg.data.sheet import contact_sheet
from manyseg.data.transforms import Augment
from manyseg.data.window import Window

SIZE = (90, 130)
NONE = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
WINDOWS = [
    Window(0, 0, 90, 130),
    Window(0, 0, 1, 1),
    Window(31, 57, 40, 33),
    Window(89, 129, 1, 1),
    Window(5, 0, 9, 130),
]
HEAD = 'name = "c"\nimage = "images/{id}.tif"\nbands = [3, 2, 1]\nrange = [0, 4095]\nsplits = { train = "." }\n'
INDEX = HEAD + 'mask = "masks/{id}.png"\nencoding = "index"\nignore = [255]\n[classes]\nroad = 0\ncar = 1\n'


def tiff(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        shape = {"count": values.shape[0], "height": values.shape[1], "width": values.shape[2]}
        with rasterio.open(path, "w", driver="GTiff", dtype=str(values.dtype), **shape, **options) as file:
            file.write(values)


@pytest.fixture
def place(tmp_path):
    """Two images of four bands, and a labelling of blocks for each."""
    for i, name in enumerate(NAMES[:2]):
        tiff(tmp_path / f"images/{name}.tif", noise(i), compress="lzw", blockysize=1)
        layouts.mask(tmp_path / f"masks/{name}.png", plane(i))
    return tmp_path


def noise(i):
    return np.random.default_rng(i).integers(0, 4096, (4, *SIZE)).astype(np.uint16)


def plane(i, values=(0, 1, 255)):
    small = np.random.default_rng(i).choice(np.array(values, np.uint8), (9, 13))
    return small.repeat(10, 0).repeat(10, 1)


def opened(place, card=INDEX):
    layouts.text(place / "c.toml", card)
    return load(place / "c.toml", place)


def parts_equal(data):
    """Compare windows of every image with the same part of the whole."""
    for index in range(len(data)):
        sample = data.read(index)
        with data.windows(data.files(index)) as parts:
            assert parts.size == tuple(sample.annotation.labels.shape)
            for window in WINDOWS:
                top, left, height, width = window
                here = (..., slice(top, top + height), slice(left, left + width))
                assert torch.equal(parts.pixels(window), sample.image[here])
                found = parts.annotation(window)
                assert torch.equal(found.labels.long(), sample.annotation.labels[here].long())
                if data.annotation == "segments":
                    pairs = torch.stack([found.ids.long(), sample.annotation.ids[here].long()]).flatten(1).unique(dim=1)
                    assert len(pairs[0].unique()) == len(pairs[1].unique()) == pairs.shape[1]


def test_windows_of_index_masks_are_parts_of_the_whole(place):
    assert set(np.unique(plane(0))) == {0, 1, 255}
    parts_equal(opened(place))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_window_of_a_narrow_png_has_its_values(place, bits):
    for i, name in enumerate(NAMES[:2]):
        values = plane(i, (0, 1))
        picture = Image.fromarray(values)
        if bits == 1:
            picture = Image.fromarray(values.astype(bool))
        else:
            picture = picture.convert("P")
            picture.putpalette([0, 0, 0, 9, 9, 9])
        picture.save(place / f"masks/{name}.png", bits=bits)
    data = opened(place)
    parts_equal(data)
    assert (data.read(0).annotation.labels.numpy() == plane(NAMES.index(data.ids[0]), (0, 1))).all()


def test_windows_of_masks_in_16_bits_and_of_instances(place):
    for i, name in enumerate(NAMES[:2]):
        tiff(place / f"masks/{name}.tif", plane(i, (0, 1)).astype(np.uint16)[None] * 299 + 1)
        tiff(place / f"objects/{name}.tif", plane(i + 7, (1, 2, 3)).astype(np.uint16)[None])
    card = INDEX.replace("{id}.png", "{id}.tif").replace("ignore", 'instances = "objects/{id}.tif"\nignore')
    data = opened(place, card.replace("road = 0\ncar = 1", "road = 1\ncar = { value = 300, thing = true }"))
    parts_equal(data)
    tiff(place / f"objects/{NAMES[0]}.tif", np.ones((1, 90, 129), np.uint16))
    with pytest.raises(DataError, match="instances of 129x90 for a mask of 130x90"):
        data.read(data.ids.index(NAMES[0]))


@pytest.mark.parametrize("palette", [False, True])
def test_windows_of_colour_masks(place, palette):
    colors = np.array([[10, 20, 30], [200, 0, 9]], np.uint8)
    for i, name in enumerate(NAMES[:2]):
        values = plane(i, (0, 1))
        picture = Image.fromarray(colors[values])
        if palette:
            picture = Image.fromarray(values).convert("P")
            picture.putpalette(colors.ravel().tolist())
        picture.save(place / f"masks/{name}.png")
    card = INDEX.replace('"index"', '"color"').replace("road = 0\ncar = 1", 'road = "#0a141e"\ncar = "#c80009"')
    parts_equal(opened(place, card.replace("ignore = [255]\n", "")))


@pytest.mark.parametrize("overlap", ["smallest", "last", "first", "none"])
def test_windows_of_drawn_objects(place, overlap):
    lines = "0 0.1 0.1 0.9 0.2 0.5 0.9\n1 0.3 0.0 0.6 0.1 0.6 0.7 0.2 0.8\n0 0.5 0.5 1 0.5 1 1 0.5 1\n"
    for name in NAMES[:2]:
        layouts.text(place / f"labels/{name}.txt", lines)
    card = INDEX.replace('mask = "masks/{id}.png"\nencoding = "index"\nignore = [255]', f'overlap = "{overlap}"')
    data = opened(
        place, card.replace("[classes]", 'annotations = "labels/{id}.txt"\nencoding = "yolo_segments"\n[classes]')
    )
    assert len(data.read(0).annotation.classes) == 3
    parts_equal(data)


@pytest.mark.parametrize("seed", range(5))
def test_a_window_of_run_lengths_is_a_part_of_their_pixels(seed):
    from pycocotools import mask as rle

    rng = np.random.default_rng(seed)
    whole = np.asfortranarray(rng.random((17, 23)) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0]))
    outline = rle.encode(whole.view(np.uint8))
    for _ in range(20):
        (top, bottom), (left, right) = (np.sort(rng.choice(n + 1, 2, replace=False)).tolist() for n in whole.shape)
        found = pixels(outline, Window(top, left, bottom - top, right - left))
        np.testing.assert_array_equal(found, whole[top:bottom, left:right])


@pytest.mark.parametrize("options", [{}, {"max_share": 0.6}, {"rotate": 20, "blur": 1.0}, {"scale": (0.5, 0.5)}])
def test_training_reads_the_crop_alone_and_gets_what_it_got_from_the_whole(place, options, monkeypatch):
    data, sizes, read = opened(place), [], BandWindows._read

    def counted(self, **how):
        found = read(self, **how)
        sizes.append(found.shape[1:])
        return found

    monkeypatch.setattr(BandWindows, "_read", counted)
    augment = Augment(AugmentOptions(crop=(24, 32), **options))
    parts = [augment(data, i % 2, torch.Generator().manual_seed(i)) for i in range(12)]
    assert len(sizes) == 12
    assert max(sizes) <= (49, 65)
    monkeypatch.setattr(folder.Folder, "by_windows", False)
    for i, part in enumerate(parts):
        whole = augment(data, i % 2, torch.Generator().manual_seed(i))
        assert torch.equal(part.image, whole.image)
        assert torch.equal(part.annotation.labels, whole.annotation.labels)


def test_a_crop_that_shows_much_of_an_image_is_read_at_twice_its_size(place, monkeypatch):
    for i, name in enumerate(NAMES[:2]):
        tiff(place / f"images/{name}.tif", noise(i) // 8 + np.arange(0, 3510, 27).astype(np.uint16))
    data, shapes, read = opened(place), [], BandWindows._read
    monkeypatch.setattr(
        BandWindows, "_read", lambda self, **how: (shapes.append(how.get("out_shape")), read(self, **how))[1]
    )
    augment = Augment(AugmentOptions(crop=(20, 26), scale=(0.2, 0.2), flip=0, jitter=NONE))
    part = augment(data, 0, torch.Generator().manual_seed(0))
    assert shapes == [(3, 36, 52)]
    monkeypatch.setattr(folder.Folder, "by_windows", False)
    whole = augment(data, 0, torch.Generator().manual_seed(0))
    assert (part.image.int() - whole.image.int()).abs().float().mean() < 4
    assert torch.equal(part.annotation.labels, whole.annotation.labels)


def test_a_check_reads_strips_and_counts_as_if_it_read_the_whole(place, monkeypatch):
    path, expected = opened(place), sum(np.bincount(plane(i).ravel(), minlength=256) for i in range(2))
    sizes, read = [], BandWindows._read
    monkeypatch.setattr(
        BandWindows, "_read", lambda self, **how: (sizes.append(read(self, **how).shape), read(self, **how))[1]
    )
    monkeypatch.setattr(window, "STRIP", 130 * 7)
    assert check(path.card, place) == []
    assert {h for _, h, _ in sizes} == {7, 90 % 7, 1}
    monkeypatch.setenv("MANYSEG_CACHE", str(place / "cache"))
    sizes.clear()
    assert quick_check([path]) == []
    assert sorted(sizes) == [(3, 1, 1), (3, 1, 1), (3, 45, 65), (3, 45, 65)]  # Images are read side by side.
    from manyseg.data.quick_check import inspections

    counts = inspections(path)
    assert [sum(i.pixels[c] for i in counts) for c in (0, 1)] == expected[:2].tolist()
    bad = plane(0)
    bad[[0, 50, 89]] = 77
    layouts.mask(place / f"masks/{NAMES[0]}.png", bad)
    (fault,) = [f for f in check(path.card, place) if f.severity == "error"]
    assert (fault.value, fault.count, fault.files, fault.places) == ("value 77", 390, 1, 1)


def test_checks_find_dark_truncated_and_unlike_images(place):
    dark = INDEX.replace("range = [0, 4095]\n", "")
    for found in (check(opened(place, dark).card, place), quick_check([opened(place, dark)])):
        (finding,) = found
        assert "16 bits that are dark: white is 65535" in finding.what
        top = int(finding.fix.split("[0, ")[1].split("]")[0])
        assert 4000 < top < 4096
        assert quick_check([opened(place, dark.replace("bands", f"range = [0, {top}]\nbands"))]) == []
    data = opened(place)
    layouts.mask(place / f"masks/{NAMES[0]}.png", plane(0)[:, :120])
    assert [f.what for f in quick_check([data])] == ["mask is 120x90 but the image is 130x90"]
    content = data.image_path(0).read_bytes()
    data.image_path(0).write_bytes(content[: len(content) // 2])
    assert any("unreadable or truncated image" in f.what for f in quick_check([data]))


def test_an_example_of_a_large_image_is_its_middle(place, monkeypatch):
    data = opened(place)
    whole = data.read(0)
    assert torch.equal(data.example(0).image, whole.image)
    monkeypatch.setattr(bands, "LARGE", 90 * 130)
    monkeypatch.setattr(folder, "MIDDLE", 64)
    example = data.example(0)
    assert torch.equal(example.image, whole.image[:, 13:77, 33:97])
    assert torch.equal(example.annotation.labels, whole.annotation.labels[13:77, 33:97])
    assert contact_sheet(data).width > 300


def test_a_guess_counts_images_that_no_picture_reader_opens(place, tmp_path, monkeypatch):
    monkeypatch.setattr(window, "STRIP", 130 * 7)
    monkeypatch.setattr(bands, "SEEN", 32)
    found = guess(place)[0]
    expected = sum(np.bincount(plane(i).ravel(), minlength=256) for i in range(2))
    assert found.counts.pixels.tolist()[:2] == expected[:2].tolist()


@pytest.fixture
def scene(tmp_path):
    """A tiled scene of 2 MB with its mask, and its pack."""
    values = np.random.default_rng(0).integers(0, 4096, (4, 512, 512)).astype(np.uint16)
    tiff(tmp_path / f"d/images/{NAMES[0]}.tif", values, tiled=True, blockxsize=64, blockysize=64)
    layouts.mask(tmp_path / f"d/masks/{NAMES[0]}.png", plane(0).repeat(6, 0).repeat(4, 1)[:512, :512])
    layouts.text(tmp_path / "c.toml", INDEX)
    pack(tmp_path / "c.toml", tmp_path / "d", tmp_path / "p")
    return tmp_path


@pytest.mark.parametrize("root", ["{0}/p", "file://{0}/p"], ids=["disk", "store"])
def test_a_window_of_a_packed_scene_reads_its_part_of_the_file(scene, monkeypatch, root):
    plain, packed = load(scene / "c.toml", scene / "d"), load(scene / "c.toml", root.format(scene))
    parts_equal(packed)
    window, read, real = Window(100, 200, 40, 40), [], Pack.read_part

    def counting(self, name, *part):
        data = real(self, name, *part)
        read.append((name, len(data)))
        return data

    monkeypatch.setattr(Pack, "read_part", counting)
    with plain.windows(plain.files(0)) as one, packed.windows(packed.files(0)) as other:
        assert torch.equal(one.pixels(window), other.pixels(window))
        image = sum(size for name, size in read if name.endswith(".tif"))
        assert torch.equal(one.annotation(window).labels, other.annotation(window).labels)
    assert 0 < image < (scene / f"d/images/{NAMES[0]}.tif").stat().st_size / 4


def test_a_damaged_byte_of_a_packed_scene_is_found_by_the_checks(scene):
    tar = scene / "p/00000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    for found in (check(scene / "c.toml", scene / "p"), quick_check([load(scene / "c.toml", scene / "p")])):
        assert "00000.tar is not as it was packed: another checksum" in " ".join(map(str, found))
