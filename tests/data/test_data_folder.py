"""Folders: ids, files, sizes, and every kind of bad file."""

import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from manyseg.data import load
from manyseg.data.annotation import Boxes, Dense, Segments, Tags
from manyseg.data.files import DataError
from manyseg.data.quick_check import quick_check
from manyseg.errors import UserError
from manyseg.labels import IGNORE

CARD = """
name = "street"
image = "images/{id}.jpg"
mask = "masks/{id}.png"
encoding = "index"
splits = { train = "train.txt", val = "val.txt" }
ignore = [255]
[classes]
road = 0
"parked car" = [3, 4]
"""
MASK = np.array([[0, 3, 4], [255, 255, 0]], np.uint8)


class Tree:
    """A dataset being written."""

    def __init__(self, root, card=CARD):
        self.root, self.card = root, root / "card.toml"
        self.card.write_text(card)

    def image(self, path, size=(2, 3), **options):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(self.root / path, **options)
        return pixels

    def mask(self, path, values):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(self.root / path)

    def load(self, split="train", annotation="native"):
        return load(self.card, self.root, split, annotation)


@pytest.fixture
def tree(tmp_path):
    tree = Tree(tmp_path)
    tree.image("images/a.jpg")
    tree.mask("masks/a.png", MASK)
    (tmp_path / "train.txt").write_text("a\n\n  \n")
    return tree


def test_the_smallest_dataset_is_read(tree):
    folder = tree.load()
    sample = folder.read(0)
    assert len(folder) == 1
    assert sample.id == "a"
    assert sample.image.shape == (3, 2, 3)
    assert sample.image.dtype == torch.uint8
    assert isinstance(sample.annotation, Dense)
    assert sample.annotation.labels.tolist() == [[0, 1, 1], [IGNORE, IGNORE, 0]]
    assert folder.size(0) == (2, 3)


def test_a_part_of_the_images_is_always_the_same_and_fewer_lie_among_more(tmp_path):
    tree = Tree(tmp_path)
    names = [f"i{n:02d}" for n in range(20)]
    for name in names:
        tree.image(f"images/{name}.jpg")
    (tmp_path / "train.txt").write_text("\n".join(names))
    whole = tree.load()
    few, more = whole.drawn(5), whole.drawn(12)
    assert (len(few), len(more), len(whole)) == (5, 12, 20)
    assert set(few.ids) < set(more.ids) < set(whole.ids)
    assert few.ids == tree.load().drawn(5).ids != whole.ids[:5]
    with pytest.raises(UserError, match=r"split 'train' of dataset 'street' has 20 images, not 21"):
        whole.drawn(21)


@pytest.mark.parametrize(
    "splits",
    [
        {"all": "all.txt", "train": "all[:60%]", "val": "all[60%:]", "first": "all[:2]", "second": "all[2:4]"},
        {"all": ".", "train": "all[:60%]", "val": "all[60%:]", "first": "all[:2]", "second": "all[2:4]"},
    ],
    ids=["list", "folder"],
)
def test_a_split_can_be_a_part_of_another_one(tmp_path, splits):
    text = ", ".join(f'{k} = "{v}"' for k, v in splits.items())
    tree = Tree(tmp_path, CARD.replace('train = "train.txt", val = "val.txt"', text))
    names = [f"i{n}" for n in range(7)]
    for name in names:
        tree.image(f"images/{name}.jpg")
        tree.mask(f"masks/{name}.png", MASK)
    (tmp_path / "all.txt").write_text("\n".join(reversed(names)))
    found = {split: list(tree.load(split).ids) for split in splits}
    assert sorted(found["all"]) == names
    assert found["train"] == names[:4]
    assert found["val"] == names[4:]
    assert found["first"] + found["second"] == names[:4]
    assert tree.load("val").read(0).annotation.labels.tolist() == [[0, 1, 1], [IGNORE, IGNORE, 0]]
    assert not list(quick_check([tree.load("train")], [tree.load("val")]))


def test_a_part_of_nothing_and_an_empty_part_are_errors(tmp_path):
    tree = Tree(tmp_path, CARD.replace('"val.txt"', '"trian[:50%]"'))
    with pytest.raises(UserError, match=r"part of 'trian', which is no whole split here"):
        tree.load()
    tree = Tree(tmp_path, CARD.replace('"val.txt"', '"train[5:]"'))
    tree.image("images/a.jpg")
    (tmp_path / "train.txt").write_text("a")
    with pytest.raises(UserError, match=r"split 'val' .* is empty: 'train' has 1 images, and none is in train\[5:\]"):
        tree.load("val")


def test_a_folder_survives_pickling_small(tree):
    folder = tree.load()
    before = folder.read(0)
    blob = pickle.dumps(folder)
    assert len(blob) < 4000
    after = pickle.loads(blob).read(0)
    assert torch.equal(before.image, after.image)
    assert torch.equal(before.annotation.labels, after.annotation.labels)


# Ids.


def test_a_folder_split_takes_what_the_pattern_matches_also_in_deeper_folders(tmp_path):
    tree = Tree(
        tmp_path,
        CARD.replace("images/{id}.jpg", "img/{split}/{id}_left.jpg")
        .replace("masks/{id}", "gt/{split}/{id}_gt")
        .replace('train = "train.txt", val = "val.txt"', 'train = "training", val = "validation"'),
    )
    for name in ("training/city/b_left.jpg", "training/a_left.jpg", "training/a_right.jpg", "validation/c_left.jpg"):
        tree.image(f"img/{name}")
    tree.image("img/training/._a_left.jpg")
    tree.mask("gt/training/city/b_gt.png", MASK)
    assert tree.load().ids == ("a", "city/b")
    assert tree.load("val").ids == ("c",)
    assert tree.load().read(1).annotation.labels.shape == (2, 3)


def test_a_list_of_scenes_stands_for_all_their_frames(tmp_path):
    text = CARD.replace("images/{id}", "{scene}/color/{frame}").replace("masks/{id}", "{scene}/label/{frame}")
    tree = Tree(tmp_path, text)
    for scene in ("s1", "s2", "s3"):
        for frame in ("000", "100"):
            tree.image(f"{scene}/color/{frame}.jpg")
            tree.mask(f"{scene}/label/{frame}.png", MASK)
    (tmp_path / "train.txt").write_text("s1\ns3/100\n")
    folder = tree.load()
    assert folder.ids == ("s1/000", "s1/100", "s3/100")
    assert folder.image_path(2) == tmp_path / "s3/color/100.jpg"
    assert folder.read(1).annotation.labels.shape == (2, 3)


def test_a_missing_list_is_an_error(tree):
    with pytest.raises(UserError, match=r"val.txt: there is no such split list"):
        tree.load("val")


def test_an_id_listed_twice_is_an_error(tree):
    (tree.root / "train.txt").write_text("a\nb\n\na\n")
    with pytest.raises(UserError, match=r"train.txt: 'a' is listed twice, in lines 1 and 4"):
        tree.load()


def test_an_empty_list_is_an_error(tree):
    (tree.root / "train.txt").write_text("\n")
    with pytest.raises(UserError, match=r"split 'train' of dataset 'street' is empty: .*train.txt lists no id"):
        tree.load()


def test_an_unknown_split_lists_those_that_exist(tree):
    with pytest.raises(UserError, match="no split 'test'; it has: train, val"):
        tree.load("test")


def test_a_root_that_does_not_exist_is_an_error(tree):
    with pytest.raises(UserError, match="there is no such folder"):
        load(tree.card, tree.root / "nowhere")


# Sizes.


def test_a_jpeg_is_decoded_no_larger_than_needed_and_never_smaller_than_asked(tree):
    tree.image("images/a.jpg", (120, 200))
    tree.mask("masks/a.png", np.zeros((120, 200), np.uint8))
    folder = tree.load()
    asked = []

    def target(size):
        asked.append(size)
        return 40, 66

    sample = folder.read(0, target)
    assert asked == [(120, 200)]
    assert sample.image.shape == (3, 60, 100)
    assert sample.annotation.labels.shape == (120, 200)
    assert folder.read(0, lambda size: (61, 1)).image.shape == (3, 120, 200)


def test_a_mask_of_another_size_is_an_error(tree):
    tree.mask("masks/a.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(DataError, match=r"a.png: mask is 3x3 but the image is 3x2; .*a.jpg"):
        tree.load().read(0)


@pytest.mark.parametrize("orientation", [1, 5, 6, 8])
def test_the_exif_orientation_counts_only_where_the_mask_was_drawn_on_the_turned_image(tree, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    tree.image("images/a.jpg", (16, 24), exif=exif, quality=100)
    tree.mask("masks/a.png", np.zeros((16, 24), np.uint8))
    plain = tree.load().read(0)
    assert plain.image.shape == (3, 16, 24)
    assert tree.load().size(0) == (16, 24)
    tree.mask("masks/a.png", np.zeros((24, 16), np.uint8))
    if orientation == 1:
        with pytest.raises(DataError, match="mask is 16x24 but the image is 24x16"):
            tree.load().read(0)
        return
    sample = tree.load().read(0)
    assert tree.load().size(0) == (24, 16)
    turned = plain.image.transpose(1, 2)
    turned = {5: turned, 6: turned.flip(2), 8: turned.flip(1)}[orientation]
    assert torch.equal(sample.image, turned)
    assert tree.load().read(0, lambda size: (12, 8)).image.shape == (3, 12, 8)


@pytest.mark.parametrize(("orientation", "turn"), [(2, lambda a: a.flip(2)), (3, lambda a: a.flip(1, 2))])
def test_a_half_turn_and_a_mirrored_image_follow_the_card(tree, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    tree.image("images/a.jpg", (16, 24), exif=exif, quality=100)
    tree.mask("masks/a.png", np.zeros((16, 24), np.uint8))
    with pytest.raises(DataError, match=rf"a.jpg: orientation {orientation}: .*write exif = \"applied\" or"):
        tree.load().read(0)
    images = {}
    for said in ("ignored", "applied"):
        tree.card.write_text(f'exif = "{said}"\n{CARD}')
        assert tree.load().size(0) == (16, 24)
        assert tree.load().read(0, lambda size: (8, 12)).image.shape == (3, 8, 12)
        images[said] = tree.load().read(0).image
    assert torch.equal(turn(images["ignored"]), images["applied"])


def test_yolo_has_no_size_so_that_the_card_says_whether_images_were_turned(tree):
    exif = Image.Exif()
    exif[0x0112] = 6
    tree.image("images/a.jpg", (16, 24), exif=exif)
    (tree.root / "a.txt").write_text("0 0.25 0.5 0.5 1\n")
    card = CARD.replace(
        'mask = "masks/{id}.png"\nencoding = "index"', 'annotations = "{id}.txt"\nencoding = "yolo_boxes"'
    )
    for said, size, box in (("ignored", (16, 24), [0, 0, 12, 16]), ("applied", (24, 16), [0, 0, 8, 24])):
        tree.card.write_text(f'exif = "{said}"\n{card}')
        sample = tree.load().read(0)
        assert sample.image.shape[1:] == size
        assert sample.annotation.boxes.tolist() == [box]
    tree.card.write_text(card)
    with pytest.raises(DataError, match="nothing tells whether its annotation"):
        tree.load().read(0)


# Pictures of any mode become RGB.


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P", "RGBA", "LA"])
def test_any_picture_becomes_rgb(tree, mode):
    path = tree.root / "images/a.jpg"
    image = Image.fromarray(np.full((2, 3, 3), 255, np.uint8)).convert(mode)
    image.save(path, format="TIFF" if mode == "CMYK" else "PNG")
    assert (tree.load().read(0).image == 255).all()


def test_a_grey_picture_of_16_bits_keeps_its_range(tree):
    values = np.array([[0, 257, 514], [32896, 65535, 65280]], np.uint16)
    Image.fromarray(values).save(tree.root / "images/a.jpg", format="PNG")
    image = tree.load().read(0).image
    assert image[0].tolist() == [[0, 1, 2], [128, 255, 254]]
    assert torch.equal(image[0], image[2])


# Bad files.


@pytest.mark.parametrize("name", ["images/a.jpg", "masks/a.png"])
def test_a_missing_file_is_an_error(tree, name):
    (tree.root / name).unlink()
    with pytest.raises(DataError, match=f"{name}: there is no such file"):
        tree.load().read(0)


@pytest.mark.parametrize("name", ["images/a.jpg", "masks/a.png"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_an_error(tree, name, share):
    tree.image("images/a.jpg", (64, 64))
    tree.mask("masks/a.png", np.random.default_rng(0).choice([0, 3, 255], (64, 64)).astype(np.uint8))
    blob = (tree.root / name).read_bytes()
    (tree.root / name).write_bytes(blob[: int(len(blob) * share)])
    for target in (None, lambda size: (1, 1)):
        what = "unreadable or truncated image" if share else "the file is empty"
        with pytest.raises(DataError, match=f"{name}: {what}"):
            tree.load().read(0, target)


def test_noise_in_the_place_of_an_image_is_an_error(tree):
    (tree.root / "images/a.jpg").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError, match=r"unreadable or truncated image .no known image format"):
        tree.load().read(0)


def test_colours_in_the_place_of_an_index_are_an_error(tree):
    tree.mask("masks/a.png", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(DataError, match=r"a.png: RGB mask where an index was promised"):
        tree.load().read(0)


def test_16_bits_in_the_place_of_8_are_an_error(tree):
    tree.mask("masks/a.png", MASK.astype(np.uint16))
    with pytest.raises(DataError, match=r"a.png: 16-bit mask where 8-bit indices were promised"):
        tree.load().read(0)


def test_a_value_outside_the_card_is_an_error_with_its_pixel_count(tree):
    mask = MASK.copy()
    mask[0] = (77, 9, 77)
    tree.mask("masks/a.png", mask)
    with pytest.raises(DataError, match=r"a.png: not in the card: value 77 on 2 pixels and 1 more values") as error:
        tree.load().read(0)
    assert error.value.values == ((77, 2), (9, 1))
    assert pickle.loads(pickle.dumps(error.value)).values == error.value.values


# Masks of any depth.


def test_a_palette_mask_is_read_by_its_indices(tree):
    image = Image.new("P", (3, 2))
    image.putpalette([255, 0, 0] * 256)
    image.putdata(MASK.ravel().tolist())
    image.save(tree.root / "masks/a.png")
    assert tree.load().read(0).annotation.labels.tolist() == [[0, 1, 1], [IGNORE, IGNORE, 0]]


@pytest.mark.parametrize(("bits", "values"), [(1, [0, 1]), (2, [0, 1, 2, 3]), (4, [0, 3, 9, 15])])
def test_a_grey_mask_of_few_bits_keeps_its_values(tmp_path, bits, values):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = "".join(f"{v:0{bits}b}" for v in values).ljust(16, "0")
    row = b"\0" + int(packed, 2).to_bytes(2, "big")[: (bits * len(values) + 7) // 8]
    head = struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    classes = "".join(f"c{v} = {v}\n" for v in range(1 << bits))
    tree = Tree(tmp_path, CARD.split("[classes]")[0] + "[classes]\n" + classes)
    tree.image("images/a.jpg", (1, len(values)))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.png").write_bytes(png)
    (tmp_path / "train.txt").write_text("a")
    assert tree.load().read(0).annotation.labels.tolist() == [values]


def test_more_than_255_classes_work(tmp_path):
    classes = "".join(f"c{i} = {i}\n" for i in range(1000))
    tree = Tree(tmp_path, CARD.split("[classes]")[0].replace("255", "65535") + "[classes]\n" + classes)
    tree.image("images/a.jpg", (2, 2))
    tree.mask("masks/a.png", np.array([[0, 255], [999, 65535]], np.uint16))
    (tmp_path / "train.txt").write_text("a")
    assert tree.load().read(0).annotation.labels.tolist() == [[0, 255], [999, IGNORE]]


# Weaker annotations.


def test_an_annotation_can_be_weakened_but_not_strengthened(tree):
    assert isinstance(tree.load(annotation="tags").read(0).annotation, Tags)
    assert tree.load(annotation="tags").read(0).annotation.classes.tolist() == [0, 1]
    with pytest.raises(UserError, match="annotation 'boxes' cannot be had from dense; use: native, dense, tags"):
        tree.load(annotation="boxes")


def test_segments_become_boxes_masks_and_tags(tree):
    tree.card.write_text(CARD.replace('encoding = "index"', 'instances = "inst/{id}.png"\nencoding = "index"'))
    tree.mask("inst/a.png", np.array([[0, 1, 2], [0, 0, 0]], np.uint16))
    assert isinstance(tree.load().read(0).annotation, Segments)
    boxes = tree.load(annotation="boxes").read(0).annotation
    assert isinstance(boxes, Boxes)
    assert sorted(zip(boxes.classes.tolist(), boxes.boxes.tolist(), strict=True)) == [
        (0, [0, 0, 3, 2]),
        (1, [1, 0, 2, 1]),
        (1, [2, 0, 3, 1]),
    ]
    assert tree.load(annotation="tags").read(0).annotation.classes.tolist() == [0, 1]
    (tree.root / "inst/a.png").unlink()
    assert tree.load(annotation="dense").read(0).annotation.labels.shape == (2, 3)


def test_a_list_that_is_not_below_the_root_is_looked_for_beside_the_card(tmp_path):
    root, cards = tmp_path / "data", tmp_path / "cards"
    for folder in (root, cards):
        folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(root / f"{name}.png")
    text = 'name = "t"\nimage = "{id}.png"\nmask = "m/{id}.png"\nencoding = "index"\nsplits = { train = "t.txt" }\n'
    (cards / "card.toml").write_text(text + "[classes]\nroad = 0\n")
    (cards / "t.txt").write_text("b\n")
    assert load(cards / "card.toml", root).ids == ("b",)
    (root / "t.txt").write_text("a\n")
    assert load(cards / "card.toml", root).ids == ("a",)
