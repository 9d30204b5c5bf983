"""What messages of packs, Parquet files and missing packages advise works."""

import os
import re
import shutil
import sys

import fsspec
import layouts
import pytest
from advice import follow, tiff
from layouts import TWO_IMAGES
from test_advice_of_files import FOUR, A, M

from manyseg.data import load
from manyseg.data.bands import band_size
from manyseg.data.guess import guess
from manyseg.data.packed import INDEX, _loaded
from manyseg.data.packing import pack
from manyseg.data.parquet import _opened
from manyseg.data.stores import _system
from manyseg.errors import UserError


@pytest.fixture
def place(tmp_path):
    return layouts.two_images(tmp_path)


def test_packs_are_made_and_copied_as_advised(place):
    out = place / "p"
    follow(
        lambda: pack(place / "c.toml", place, f"file://{place}/c.toml/p"),
        "cannot be written .*; choose an address where you may write",
        lambda: pack(place / "c.toml", place, out),
    )
    said = "a packed dataset is there; remove it, or choose another place"
    make = lambda to: pack(place / "c.toml", place, to)  # noqa: E731
    follow(lambda: make(out), said, lambda: make(place / "q"))
    follow(lambda: make(out), said, lambda: [shutil.rmtree(out), make(out)])
    whole = {p.name: p.read_bytes() for p in out.iterdir()}
    tar = next(name for name in whole if name.endswith(".tar"))

    def damaged(name, content):
        def use():
            (out / name).unlink() if content is None else (out / name).write_bytes(content)
            _loaded.cache_clear()
            opened = load(place / "c.toml", out)
            return [opened.read(i) for i in range(len(opened))]

        return use

    flipped = bytearray(whole[tar])
    flipped[whole[tar].index(b"IDAT") + 8] ^= 1
    for name, content, said in (
        (INDEX, b"{", "not the index of a pack"),
        (INDEX, re.sub(rb'"version":\d+', b'"version":0', whole[INDEX]), "make it anew with `manyseg pack`"),
        (tar, whole[tar][:-1], "copy the pack again, or make it anew"),
        (tar, None, "this shard is missing; copy the pack again"),
        (tar, bytes(flipped), "copy that shard again, or pack the dataset anew"),
    ):
        follow(damaged(name, content), said, damaged(name, whole[name]))


def test_what_cannot_be_packed_is_copied_or_renamed_as_advised(place):
    os.rename(place / A, os.fsencode(place / "images") + b"/\xff.png")
    os.rename(place / M, os.fsencode(place / "masks") + b"/\xff.png")
    (place / "c.toml").write_text(TWO_IMAGES.replace('{ train = "train.txt", val = "train[50%:]" }', '{ train = "." }'))
    make = lambda: pack(place / "c.toml", place, place / "p")  # noqa: E731

    def renamed():
        for folder_ in ("images", "masks"):
            os.rename(os.fsencode(place / folder_) + b"/\xff.png", place / folder_ / "0.png")
        return make()

    follow(make, "the name of this file is no Unicode, and cannot be packed; rename it", renamed)


def test_packs_are_had_where_they_are_as_advised(place, monkeypatch):
    out = place / "p"
    pack(place / "c.toml", place, out)
    whole = (out / INDEX).read_bytes()
    use = lambda root=out: load(place / "c.toml", root).read(0)  # noqa: E731

    def damaged(content):
        def change():
            (out / INDEX).write_bytes(content)
            _loaded.cache_clear()
            return use()

        return change

    other = re.sub(rb'"offset":\[\d+', b'"offset":[-9', whole)
    follow(damaged(other), "the index is damaged; copy the pack again, or make it anew", damaged(whole))
    store = fsspec.filesystem("memory")
    follow(
        lambda: use("memory://advised/p"),
        "there is no packed dataset; correct the root, or make it: manyseg pack",
        lambda: [store.pipe_file(f"/advised/p/{f.name}", f.read_bytes()) for f in out.iterdir()] and use(),
    )
    with monkeypatch.context() as patch:

        def reset(url):
            raise OSError(f"{url}: connection reset")

        patch.setattr("manyseg.data.packed.read_url", reset)
        _loaded.cache_clear()
        said = "cannot be read .*connection reset.*; copy the pack again, or make it anew"
        follow(lambda: use("memory://advised/p"), said, lambda: [patch.undo(), use("memory://advised/p")])
    said = "this kind of address cannot be read .*; install what it needs"
    follow(lambda: use("nostore://x/p"), said, lambda: use("memory://advised/p"))


def test_packages_are_installed_as_advised(place, tmp_path, monkeypatch):
    layouts.parquet(tmp_path / "d")
    found = guess(tmp_path / "d")[0]
    found.write(tmp_path / "d.toml")
    tiff("b.tif", FOUR)(tmp_path)
    calls = {
        "pyarrow": ("parquet", lambda: load(tmp_path / "d.toml", tmp_path / "d").read(0)),
        "fsspec.core": ("stores", lambda: load(place / "c.toml", "memory://none/p")),
        "rasterio": ("bands", lambda: band_size(tmp_path / "b.tif")),
    }
    for name, (extra, call) in calls.items():
        for cache in (_opened, _system):
            cache.cache_clear()
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(UserError, match=rf"pip install 'manyseg\[{extra}\]'"):
                call()
        if name == "fsspec.core":
            with pytest.raises(UserError, match="there is no packed dataset"):
                call()
        else:
            call()


def test_a_parquet_file_is_fetched_again_as_advised(tmp_path):
    layouts.parquet(tmp_path / "d")
    guess(tmp_path / "d")[0].write(tmp_path / "d.toml")
    file = next((tmp_path / "d/data").glob("train*"))
    whole = file.read_bytes()
    read_ = lambda: load(tmp_path / "d.toml", tmp_path / "d").read(0)  # noqa: E731
    file.write_bytes(b"PAR1")
    follow(read_, "not a Parquet file .*; fetch it again", lambda: [file.write_bytes(whole), read_()])
    said = "Parquet files are few and large already, and are not packed; copy them as they are"
    follow(
        lambda: pack(tmp_path / "d.toml", tmp_path / "d", tmp_path / "p"),
        said,
        lambda: [shutil.copytree(tmp_path / "d", tmp_path / "e"), load(tmp_path / "d.toml", tmp_path / "e").read(0)],
    )


def test_a_pack_of_files_that_change_is_made_again_as_advised(place, monkeypatch):
    make = lambda: pack(place / "c.toml", place, place / "p")  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr("manyseg.data.packing.file_size", lambda path: 7)
        follow(
            make, "it changed while it was packed; pack again when nothing writes there", lambda: [patch.undo(), make()]
        )
    (place / "train.txt").unlink()
    said = "there is no such split list; write it .one id a line., or correct the card"
    other = lambda: pack(place / "c.toml", place, place / "q")  # noqa: E731
    follow(other, said, lambda: [(place / "train.txt").write_text("0\n1\n"), other()])


def test_a_scene_that_a_pack_lacks_is_added_as_advised(place):
    text = TWO_IMAGES.replace("{png,jpg}", "tif").replace("[classes]", "bands = [1]\n[classes]")
    (place / "c.toml").write_text(text)
    tiff("images/0.tif", FOUR)(place)

    def packed(name):
        pack(place / "c.toml", place, place / name)
        opened = load(place / "c.toml", place / name)
        return [opened.read(i) for i in range(len(opened))]

    said = "1.tif: there is no such file; add it, or remove its id from the split"
    follow(lambda: packed("p"), said, lambda: [tiff("images/1.tif", FOUR)(place), packed("q")])
