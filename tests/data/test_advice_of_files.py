"""What messages of datasets' files, lists, cards and packs advise works: what is wrong is mended, and read."""

import os
import shutil
import zipfile

import layouts
import numpy as np
import pytest
from advice import follow, remove, tiff
from layouts import TWO_IMAGES
from PIL import Image

from manyseg.data import card as card_module
from manyseg.data import files, load, read_card
from manyseg.data.check import check, print_check
from manyseg.data.guess import guess, print_guess
from manyseg.data.mixture import Mixture
from manyseg.data.options import DataOptions
from manyseg.data.sheet import contact_sheet


@pytest.fixture
def place(tmp_path):
    return layouts.two_images(tmp_path)


def read(place):
    opened = load(place / "c.toml", place)
    return [opened.read(i) for i in range(len(opened))]


def write(name, content):
    return lambda place: (place / name).write_bytes(content)


def both(*steps):
    return lambda place: [step(place) for step in steps]


def folder(name):
    return both(remove(name), lambda place: (place / name).mkdir())


def pipe(name):
    return both(remove(name), lambda place: os.mkfifo(place / name))


def itself(name):
    return both(remove(name), lambda place: (place / name).symlink_to(place / name))


def card(old, new):
    def change(place):
        assert old in TWO_IMAGES
        (place / "c.toml").write_text(TWO_IMAGES.replace(old, new))

    return change


A, M = "images/0.png", "masks/0.png"

MENDED = [
    (remove(A), "there is no such file; add it, or remove its id from the split"),
    (folder(A), "a folder, where an image was promised; correct the card's pattern"),
    (pipe(A), "a pipe or a device, where a file was promised; put the file there"),
    (itself(A), "a link that leads back to itself; remove it, or link it to the file|there is no such file; add it"),
    (write(A, b""), "the file is empty; fetch or export it again, or remove its id from the split"),
    (write(A, b"version https://git-lfs.github.com/spec/v1\n"), "fetch the images: git lfs pull"),
    (write(A, b"<!DOCTYPE html>"), "a web page, not an image; fetch the image again"),
    (write(A, b"PK\x03\x04"), "an archive, not an image; unpack it, and put the image here"),
    (write(A, b"%PDF-1.7"), "a PDF, not an image; convert its page to PNG"),
    (write(A, b"<svg xmlns="), "a drawing .SVG., not an image; export it as PNG"),
    (write(A, b'{"error": 1}'), "fetch the image; the text may say why it did not come"),
    (write(A, b"\0\0\0\x18ftypheic"), "of the kind heic; convert it to JPEG or PNG"),
    (write(A, b"\x89PNG\r\n\x1a\n1234"), "unreadable or truncated image .*; fetch or export the file again, or"),
    (write(M, b"\x89PNG\r\n\x1a\n1234"), "unreadable or truncated image .*; fetch or export the file again, or"),
    (lambda p: Image.new("RGB", (9, 9)).save(p / M), 'RGB mask where an index was promised; use encoding = "color"|'),
    (lambda p: Image.new("L", (9, 9)).save(p / M), "give both one size, or remove the pair"),
    (lambda p: shutil.copy(p / A, p / "images/0.jpg"), "keep one of them, or name one suffix alone in the card"),
    (remove("train.txt"), "there is no such split list; write it .one id a line., or correct the card"),
    (write("train.txt", b"\xff\xfe\xf1"), "the split list cannot be read .*; save it as UTF-8 text, one id a line"),
    (write("train.txt", b"0\n0\n"), "'0' is listed twice, in lines 1 and 2; remove one"),
    (write("train.txt", b""), "train.txt lists no id; check root and card"),
    (write("train.txt", b"../0\n"), "leads out of the dataset's root; give a root that all its files are below"),
    (write("train.txt", b"0\0\n"), "has a character that is in no name of a file; save it as plain text"),
    (write("train.txt", b"x" * 300), "is too long for a file: .*; shorten it"),
    (write("train.txt", b"0.png\n"), "is no id: .* stands for '0' alone; write one id a line"),
    (card("images/{id}", "../images/{id}"), "c.toml: image = .*leads out of the dataset's root; give a root"),
    (remove("c.toml"), "there is no such card.*; give the path of a .toml file, or one of: ade20k"),
    (card('"index"', '"indx"'), "is no encoding, did you mean 'index'"),
    (card("a = 0", "a = true"), "classes.a"),
    (card("a = 0", "a = -1"), "'a': value -1 is not a whole number from 0 to"),
    (card("a = 0", "a = 1"), "value 1 belongs to both 'a' and 'b'; leave it in one of them"),
    (card("a = 0", "a = []"), "class 'a' has no value; give it one, or remove it"),
    (card("a = 0", "a.x = 0"), "'x' is no key of a class; a name that holds a dot is written in quotes"),
    (card("[classes]", "merge = { ab = [] }\n[classes]"), "merge.ab is empty; list the classes that it joins"),
    (card("[classes]", 'merge = { ab = ["aa"] }\n[classes]'), "there is no class 'aa', did you mean 'a'"),
    (card("[classes]", 'merge = { c = ["a"], d = ["a"] }\n[classes]'), "leave it in one of them"),
    (card("[classes]", 'merge = { a = ["b"] }\n[classes]'), "add it to the list, or choose another name"),
    (card("[classes]", 'drop = ["a", "b"]\n[classes]'), "all classes are dropped; leave at least one"),
    (card("mask =", 'annotations = "x.json"\nmask ='), "does not read the key `annotations`; remove it"),
    (card('{ train = "train.txt", val = "train[50%:]" }', '{ a = "x", b = "y" }'), "write it where the folder"),
    (card("[classes]", "range = [0, 100]\n[classes]"), "remove it, or give `bands` as well"),
    (card('"index"', '"color"'), "value 0 is not a colour; write .#rrggbb."),
    (card("{id}.{png,jpg}", "x.png"), "needs '{id}'"),
    (card("masks/{id}.png", "masks/x.png"), "is to have the names that `image` has: {id}"),
    (card('{ train = "train.txt", val = "train[50%:]" }', "{}"), "name at least one, such as { train"),
    (card('"train[50%:]"', '"all[50%:]"'), "is a part of 'all', which is no whole split here"),
    (card("[classes]", 'range = [5, 1]\n[classes]'), "black comes first, and is less than white"),
    (card("[classes]", 'background = "x"\n[classes]'), "the key `background`, as it draws no objects; remove it"),
    (card('mask = "masks/{id}.png"\n', ""), "needs the key `mask`; add it"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), MENDED)
def test_what_is_mended_as_advised_is_read(place, damage, said):
    kept = {name: (place / name).read_bytes() for name in (A, M, "train.txt", "c.toml")}

    def mended():
        (place / "images/0.jpg").unlink(missing_ok=True)
        for name, content in kept.items():
            path = place / name
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            path.write_bytes(content)
        return read(place)

    damage(place)
    assert len(follow(lambda: read(place), said, mended)) == 2


def test_an_id_is_removed_from_the_split_as_advised(place):
    (place / A).unlink()
    shorter = lambda: [(place / "train.txt").write_text("1\n"), read(place)][1]  # noqa: E731
    assert len(follow(lambda: read(place), "or remove its id from the split", shorter)) == 1


def test_an_image_is_made_smaller_as_advised(place, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    small = lambda: [Image.new(kind, (20, 20)).save(place / n) for n, kind in ((A, "RGB"), (M, "L"))]  # noqa: E731
    (place / "train.txt").write_text("0\n")
    follow(lambda: read(place), "make it smaller, or cut it .* into tiles", lambda: [small(), read(place)])


def test_memory_is_enough_for_a_smaller_image_as_advised(place):
    def read_(enough):
        with load(place / "c.toml", place).named(0):
            if not enough:
                raise MemoryError

    said = "memory ran out while the image or its annotation was read; make it smaller, or cut it into tiles"
    follow(lambda: read_(False), said, lambda: read_(True))


def test_the_orientation_of_a_photo_is_stated_as_advised(place):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (layouts.W, layouts.H)).save(place / "images/0.jpg", exif=exif)
    (place / A).unlink()
    for way in ("applied", "ignored"):
        (place / "c.toml").write_text(TWO_IMAGES)
        follow(
            lambda: read(place),
            'write exif = "applied" or exif = "ignored" in the card',
            lambda way=way: [card("[classes]", f'exif = "{way}"\n[classes]')(place), read(place)],
        )


def test_links_and_files_in_the_place_of_folders_are_as_advised(place):
    (place / "images/loop").symlink_to(place / "images")
    (place / "c.toml").write_text(TWO_IMAGES.replace('{ train = "train.txt", val = "train[50%:]" }', '{ train = "." }'))
    said = "a link to a folder that it lies in, so that its files have no end; remove it"
    follow(lambda: read(place), said, lambda: [(place / "images/loop").unlink(), read(place)])
    with zipfile.ZipFile(place / "d.zip", "w") as file:
        file.write(place / A, A)
    said = "is a file, not a folder; unpack it if it is an archive, and give the root of dataset 'c'"
    follow(lambda: load(place / "c.toml", place / "d.zip"), said, lambda: load(place / "c.toml", place))
    said = "there is no such folder; give the root of dataset 'c'"
    follow(lambda: load(place / "c.toml", place / "no"), said, lambda: load(place / "c.toml", place))


def test_splits_and_annotations_are_named_as_advised(place):
    opened = lambda *more, **given: load(place / "c.toml", place, *more, **given)  # noqa: E731
    said = "has no split 'vall', did you mean 'val'.*; it has: train, val"
    follow(lambda: opened("vall"), said, lambda: opened("val"))
    said = "annotation 'segments' cannot be had from dense; use: native, dense, tags"
    for right in ("native", "dense", "tags"):
        follow(lambda: opened(annotation="segments"), said, lambda right=right: opened(annotation=right))
    follow(lambda: opened().drawn(3), "has 2 images, not 3; draw fewer", lambda: opened().drawn(2))


def test_pictures_are_written_as_advised(place):
    picture = Image.new("RGB", (4, 4))
    follow(
        lambda: files.write_image(place / "a.xyz", picture),
        "'.xyz' is no picture format; use .png or .jpg",
        lambda: [files.write_image(place / f"a.{kind}", picture) for kind in ("png", "jpg")],
    )


def test_errors_are_corrected_before_training_as_advised(place):
    whole = (place / A).read_bytes()
    (place / A).write_bytes(b"")
    follow(
        lambda: print_check(place / "c.toml", place),
        "2 kinds of error in .* images; correct them before training|1 kind of error in .* correct them",
        lambda: [(place / A).write_bytes(whole), print_check(place / "c.toml", place)],
    )


def test_a_sheet_of_a_split_without_an_image_is_checked_as_advised(place):
    whole = {name: (place / name).read_bytes() for name in (A, "images/1.png")}
    for name in whole:
        (place / name).write_bytes(b"")
    sheet = lambda: contact_sheet(load(place / "c.toml", place))  # noqa: E731
    said = "no image of split 'train' of 'c' could be read; run `manyseg data`"
    assert check(place / "c.toml", place)
    follow(sheet, said, lambda: [*((place / n).write_bytes(c) for n, c in whole.items()), sheet()])


def test_steps_are_shared_as_advised(place):
    cards = place / "d.toml"
    cards.write_text(TWO_IMAGES.replace('"c"', '"d"'))

    def mix(*sets, world=1, **more):
        sets = [{"card": name, "root": ".", **given} for name, given in sets]
        return Mixture.open(DataOptions(crop=(32, 32), workers=0, sets=sets, **more), place, seed=0, world=world)

    one, two = ("c.toml", {"per_step": 1}), ("d.toml", {"per_step": 2})
    follow(lambda: mix(one, one), "give one of the cards another name", lambda: mix(one, two))
    said = "a step has 3 images, which 2 processes cannot share evenly; make the sum of per_step a multiple of 2"
    follow(lambda: mix(one, two, world=2), said, lambda: mix(one, ("d.toml", {"per_step": 3}), world=2))
    said = "make batch a multiple of 2"
    bare = ("c.toml", {}), ("d.toml", {})
    follow(
        lambda: mix(*bare, world=2, mix="proportional", batch=3),
        said,
        lambda: mix(*bare, world=2, mix="proportional", batch=4),
    )
    kept = {name: (place / name).read_bytes() for name in (A, "images/1.png")}
    for name in kept:
        (place / name).write_bytes(b"")
    step = lambda: mix(one, on_bad_file="skip")[0]  # noqa: E731
    said = "2 files in a row are bad, so none is skipped; the last: .*; fetch or export it again"
    follow(step, said, lambda: [*((place / n).write_bytes(c) for n, c in kept.items()), step()])


def test_guesses_are_made_and_chosen_as_advised(place, tmp_path):
    guessed = lambda: print_guess(place, None, 7)  # noqa: E731
    follow(guessed, "there are 1 candidates; give a number from 1 to 1", lambda: print_guess(place, None, 1))
    found = guess(place)[0]
    found.write(place / "g.toml")
    said = "is there already; choose another name, or replace it with --force"
    follow(lambda: found.write(place / "g.toml"), said, lambda: found.write(place / "g.toml", force=True))
    follow(lambda: found.write(place / "g.toml"), said, lambda: found.write(place / "h.toml"))
    archives = tmp_path / "a"
    archives.mkdir()
    (archives / "d.zip").write_bytes(b"PK")
    said = "unpack the archives first, such as d.zip"
    follow(lambda: guess(archives), said, lambda: [layouts.grey(archives), guess(archives)])
    odd = tmp_path / "odd"
    layouts.photo(odd / "x/1.jpg")
    said = r"no known layout; .*; write a card .docs/datasets.md., or name images and annotations alike"
    follow(lambda: guess(odd), said, lambda: [layouts.grey(odd), shutil.rmtree(odd / "x"), guess(odd)])
    brushes = tmp_path / "brushes"
    for i in range(2):
        layouts.photo(brushes / f"{i}.jpg", i)
        layouts.mask(brushes / f"task-{i}-annotation-1-by-1-tag-car-0.png", np.zeros((40, 60), np.uint8))
    said = "brush strokes of Label Studio; .*; export the project as JSON, which has the strokes too, and put it here"
    project = lambda: [shutil.rmtree(brushes), layouts.label_studio(brushes), guess(brushes)]  # noqa: E731
    follow(lambda: guess(brushes), said, project)


FOUR, FLOATS = np.full((4, 40, 60), 9, np.uint8), np.full((2, 40, 60), 0.5, np.float32)


def banded(place, keys):
    text = TWO_IMAGES.replace("{png,jpg}", "tif").replace("[classes]", f"{keys}\n[classes]")
    (place / "c.toml").write_text(text)
    return read(place)


@pytest.mark.parametrize(
    ("values", "wrong", "said", "right"),
    [
        (FOUR, "bands = [7, 2, 1]", "correct `bands`, or remove the image", "bands = [4, 2, 1]"),
        (FLOATS, "bands = [1]", "give `range = .black, white.` in the card", "bands = [1]\nrange = [0, 1]"),
        (b"II*\0 ", "bands = [1]", "unreadable or truncated image .*; fetch it again", "bands = [1]"),
        (None, "bands = [1]", "there is no such file; add it, or remove its id", "bands = [1]"),
    ],
)
def test_bands_are_read_as_advised(place, values, wrong, said, right):
    for i in range(2):
        tiff(f"images/{i}.tif", values if isinstance(values, np.ndarray) else np.zeros((1, 40, 60), np.uint8))(place)
    whole = (place / "images/0.tif").read_bytes()
    if isinstance(values, bytes):
        (place / "images/0.tif").write_bytes(values)
    elif values is None:
        (place / "images/0.tif").unlink()
    mended = lambda: [(place / "images/0.tif").write_bytes(whole), banded(place, right)]  # noqa: E731
    follow(lambda: banded(place, wrong), said, mended)


def test_a_card_is_put_into_its_place_as_advised(place):
    read_ = lambda: card_module.card_text(place / "x.toml")  # noqa: E731
    placed = lambda: [shutil.copy(place / "c.toml", place / "x.toml"), read_()]  # noqa: E731
    follow(read_, "the card cannot be read .*; correct its place", placed)
    assert read_card(place / "x.toml").name == "c"


def test_classes_are_joined_as_advised(place):
    join = lambda **merge: read_card(place / "c.toml").relabelled(merge, ())  # noqa: E731
    said = "card 'c': merge.both: there is no class 'aa', did you mean 'a'"
    follow(lambda: join(both=["aa", "b"]), said, lambda: join(both=["a", "b"]))
