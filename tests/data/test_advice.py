"""What a message advises works: each cause with its own way out, followed here."""

import json
import re
import unicodedata

import layouts
import numpy as np
import pytest
from PIL import Image

from manyseg.data import load
from manyseg.data.card import read_card
from manyseg.data.check import check
from manyseg.data.files import DataError
from manyseg.data.guess import guess
from manyseg.errors import UserError

HEAD = 'name = "t"\nimage = "{id}.jpg"\nsplits = { train = "." }\n'
INDEX = HEAD + 'mask = "m/{id}.png"\nencoding = "index"\n[classes]\na = 0\nb = 1\n'
COLOR = HEAD + 'mask = "m/{id}.png"\nencoding = "color"\n[classes]\na = "#000000"\nb = "#ffffff"\n'
PLANE = np.tile(np.array([[0, 1]], np.uint8), (8, 4))


@pytest.fixture
def read(tmp_path):
    """Reads the only image of a card, whose mask is the picture given."""

    def read(card, mask, **options):
        (tmp_path / "m").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
        mask.save(tmp_path / "m/a.png", **options)
        (tmp_path / "card.toml").write_text(card)
        return load(tmp_path / "card.toml", tmp_path).read(0).annotation.labels.numpy()

    return read


def fails(read, card, mask, message, **options):
    with pytest.raises(DataError, match=message) as caught:
        read(card, mask, **options)
    return str(caught.value)


def test_a_mask_that_is_a_jpeg_is_refused_and_exported_as_png_it_is_read(read):
    for card in (INDEX, COLOR):
        said = fails(read, card, Image.fromarray(PLANE), "the mask is a JPEG, whose compression", format="JPEG")
        assert "export the masks again as PNG" in said
    np.testing.assert_array_equal(read(INDEX, Image.fromarray(PLANE)), PLANE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_mask_is_read_as_color_as_advised(read, mode):
    picture = Image.fromarray(PLANE * 255).convert(mode)
    assert 'use encoding = "color"' in fails(read, INDEX, picture, f"{mode} mask where an index was promised")
    np.testing.assert_array_equal(read(COLOR, picture), PLANE)


def test_another_kind_of_mask_is_to_be_saved_as_an_index(read):
    picture = Image.fromarray(PLANE).convert("LA")
    said = fails(read, INDEX, picture, "LA mask where an index was promised")
    assert "color" not in said
    assert "save it as a PNG of 8 bits" in said
    np.testing.assert_array_equal(read(INDEX, picture.convert("L")), PLANE)


def test_a_grey_mask_is_read_as_index_as_advised(read):
    said = fails(read, COLOR, Image.fromarray(PLANE), "L mask where colours were promised")
    assert 'use encoding = "index"' in said
    np.testing.assert_array_equal(read(INDEX, Image.fromarray(PLANE)), PLANE)


def test_16_bits_are_read_where_the_card_ignores_65535_as_advised(read):
    picture = Image.fromarray(PLANE.astype(np.uint16))
    assert "list 65535 under `ignore`" in fails(read, INDEX, picture, "16-bit mask where 8-bit")
    np.testing.assert_array_equal(read(INDEX.replace("[classes]", "ignore = [65535]\n[classes]"), picture), PLANE)


def test_a_value_that_the_card_lacks_is_read_when_it_is_given_to_a_class_or_ignored(read):
    picture = Image.fromarray(PLANE * 7)
    said = fails(read, INDEX, picture, "not in the card: value 7 on 32 pixels")
    assert re.search("give the value to a class of the card, or list it under `ignore`", said)
    np.testing.assert_array_equal(read(INDEX.replace("b = 1", "b = [1, 7]"), picture), PLANE)
    assert (read(INDEX.replace("[classes]", "ignore = [7]\n[classes]"), picture)[:, 1] == -1).all()


def test_an_image_too_large_for_memory_says_so_and_one_of_another_kind_says_what_it_is(read, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    said = fails(read, INDEX, Image.fromarray(PLANE), "asks for more than 0 million pixels")
    assert "into tiles" in said
    monkeypatch.undo()
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(DataError, match="no known image format"):
        load(tmp_path / "card.toml", tmp_path).read(0)


def test_exchanged_colours_are_read_when_exchanged_as_advised(read):
    card = COLOR.replace("#ffffff", "#0000ff")
    colors = np.zeros((8, 8, 3), np.uint8)
    colors[:, 1::2] = 255, 0, 0
    said = fails(read, card, Image.fromarray(colors), "value #ff0000 on 32 pixels; red and blue are exchanged")
    assert "save the masks as RGB, or write the card's so" in said
    np.testing.assert_array_equal(read(card, Image.fromarray(colors[..., ::-1].copy())), PLANE)
    np.testing.assert_array_equal(read(card.replace("#0000ff", "#ff0000"), Image.fromarray(colors)), PLANE)


def test_smoothed_masks_are_told_from_values_that_were_forgotten(read):
    halves = Image.fromarray(np.repeat(np.array([[0, 200]], np.uint8), 4, 1).repeat(8, 0))
    card = INDEX.replace("b = 1", "b = 200")
    large = halves.resize((64, 64), Image.Resampling.NEAREST).resize((48, 48), Image.Resampling.BICUBIC)
    smooth = large.resize((8, 8), Image.Resampling.BICUBIC)
    assert len(set(np.asarray(smooth).ravel().tolist())) > 2
    many = np.asarray(halves).copy()
    many[0, :4] = 1, 2, 3, 4
    assert "export it again without smoothing (nearest pixel)" in fails(
        read, card, Image.fromarray(many), "not in the card"
    )
    many[:, :] = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert "smoothing" not in fails(read, card, Image.fromarray(many), "not in the card")
    assert read(card, large.resize((8, 8), Image.Resampling.NEAREST)).max() == 1


def test_a_mask_of_several_pages_is_read_when_one_is_saved_alone(read):
    pages = [Image.fromarray(PLANE * 0), Image.fromarray(PLANE)]
    options = {"format": "TIFF", "save_all": True, "append_images": pages[1:]}
    assert "save the page with the classes" in fails(read, INDEX, pages[0], "has 2 pages", **options)
    np.testing.assert_array_equal(read(INDEX, pages[1]), PLANE)


@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        (b"", "the file is empty", "fetch or export it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS", "git lfs pull"),
        (b"\n<!DOCTYPE html>", "a web page", "fetch the image again"),
        (b"\0\0\0\x18ftypheic", "of the kind heic", "convert it to JPEG or PNG"),
        (b"plain", "no known image format", "fetch or export the file again"),
    ],
)
def test_what_is_there_instead_of_an_image_is_said(read, tmp_path, content, what, fix):
    np.testing.assert_array_equal(read(INDEX, Image.fromarray(PLANE)), PLANE)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        load(tmp_path / "card.toml", tmp_path).read(0)
    assert fix in str(caught.value)


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg m/a.png", "./a.jpg"])
def test_a_list_of_files_is_read_when_it_has_ids_as_advised(read, tmp_path, line):
    card = INDEX.replace('"."', '"train.txt"')
    (tmp_path / "train.txt").write_text(f"{line}\n")
    with pytest.raises(
        UserError, match=r"is no id: \{id\} in image = \"\{id\}.jpg\" stands for 'a' alone; write one id"
    ):
        read(card, Image.fromarray(PLANE))
    (tmp_path / "train.txt").write_text("a\n")
    np.testing.assert_array_equal(read(card, Image.fromarray(PLANE)), PLANE)
    (tmp_path / "train.txt").write_text("b\n")
    with pytest.raises(DataError, match="there is no such file"):
        read(card, Image.fromarray(PLANE))


def test_letters_in_two_characters_are_those_in_one(tmp_path):
    names = [unicodedata.normalize(form, "Stra\u00dfe_\u00e9") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    layouts.photo(tmp_path / f"{names[1]}.jpg")
    layouts.mask(tmp_path / f"m/{names[0]}.png", layouts.index(0, (0, 1), 0))
    (tmp_path / "train.txt").write_text(names[0])
    for split in (".", "train.txt"):
        (tmp_path / "card.toml").write_text(INDEX.replace('"."', f'"{split}"'))
        assert check(tmp_path / "card.toml", tmp_path) == []


def test_copies_in_hidden_folders_are_passed_over(read, tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / ".ipynb_checkpoints/a-checkpoint.jpg")
    np.testing.assert_array_equal(read(INDEX, Image.fromarray(PLANE)), PLANE)
    assert load(tmp_path / "card.toml", tmp_path).ids == ("a",)


@pytest.mark.parametrize(
    ("old", "new", "message", "right"),
    [
        ("[classes]", "ignore = 255\n[classes]", "ignore: a list is needed, in square brackets (it is 255)", "[255]"),
        ("a = 0", "a = 0.5", "classes.a: a whole number is needed", "0"),
        (
            "[classes]\na = 0\nb = 1",
            'classes = ["a", "b"]',
            "classes: a table is needed, name = value",
            "{ a = 0, b = 1 }",
        ),
        ("b = 1", "b = 1\na = 2", "the name is there twice: remove one of the two lines", None),
        ('"{id}.jpg"', "'.\\{id}.jpg'", "write / between folders, not a backslash", '"./{id}.jpg"'),
    ],
)
def test_cards_are_read_when_corrected_as_advised(read, tmp_path, old, new, message, right):
    with pytest.raises(UserError, match=re.escape(message)):
        read(INDEX.replace(old, new), Image.fromarray(PLANE))
    if right is not None and "=" in new and not new.startswith("b"):
        key, _, _ = new.partition(" = ")
        rest = "\n[classes]" if "\n" in new else ""
        text = INDEX.replace(old, f"{key} = {right}{rest}")
        (tmp_path / "card.toml").write_text(text)
        assert read_card(tmp_path / "card.toml").space.names == ("a", "b")


def test_an_archive_is_to_be_unpacked(read, tmp_path):
    (tmp_path / "d.zip").write_bytes(b"PK")
    (tmp_path / "card.toml").write_text(INDEX)
    for attempt in (
        guess,
        lambda root: load(tmp_path / "card.toml", root),
        lambda root: check(tmp_path / "card.toml", root),
    ):
        with pytest.raises(UserError, match=r"d\.zip: is a file, not a folder; unpack it if it is an archive"):
            attempt(tmp_path / "d.zip")


def edited(layout, root, change, ending=".json"):
    getattr(layouts, layout)(root)
    for file in [f for f in root.rglob(f"*{ending}") if f.name != "meta.json"]:
        text = file.read_text()
        file.write_text(change(text))


def of_json(change):
    def text(old):
        data = json.loads(old)
        change(data)
        return json.dumps(data)

    return text


def _cancel(tasks):
    for task in tasks:
        task["annotations"][0]["was_cancelled"] = True


@pytest.mark.parametrize(
    ("layout", "ending", "change", "message"),
    [
        (
            "labelme",
            ".json",
            of_json(lambda d: d["shapes"][0].update(points=[[1, 2]])),
            r"shapes\[0\]: a polygon of 1 points",
        ),
        ("labelme", ".json", of_json(lambda d: d["shapes"][0].update(label=3)), r"shapes\[0\].label: .* \(it is 3\)"),
        ("supervisely", ".json", lambda t: t.replace('"data": "', '"data": "AAAA'), "no packed PNG"),
        ("yolo", ".txt", lambda t: t.replace(" 0.5", " 7.5"), "7.5.* is not a part of the image's side"),
        ("yolo", ".txt", lambda t: t.replace(" ", ","), "is no class number"),
        ("yolo", ".txt", lambda t: t.replace("\n", " 0.9\n"), "9 coordinates"),
        ("yolo", ".txt", lambda _: "", "no file has an object"),
        ("label_studio", ".json", of_json(_cancel), "no task has a finished annotation with a label"),
        ("cvat_images", ".xml", lambda t: t[: len(t) // 2], "unreadable or truncated XML"),
    ],
)
def test_a_guess_says_why_files_of_a_known_tool_cannot_be_read(tmp_path, layout, ending, change, message):
    edited(layout, tmp_path / "d", change, ending)
    with pytest.raises(UserError, match=f"it looks like .*, but: .*{message}"):
        guess(tmp_path / "d")


@pytest.mark.parametrize(
    ("layout", "ending", "change"),
    [
        ("labelme", ".json", of_json(lambda d: [s.update(shape_type=None) for s in d["shapes"]])),
        ("labelme", ".json", of_json(lambda d: d.update(imageHeight=None, imageWidth=None))),
        ("yolo", ".txt", lambda t: re.sub(r"(?m)^(\d) ", r"\1.0 ", t)),
    ],
)
def test_spellings_of_old_versions_and_other_programs_are_read(tmp_path, layout, ending, change):
    edited(layout, tmp_path / "d", change, ending)
    found = guess(tmp_path / "d")[0]
    found.write(tmp_path / "c.toml")
    assert check(tmp_path / "c.toml", tmp_path / "d") == []
    card = read_card(tmp_path / "c.toml")
    labels = load(card, tmp_path / "d", "train", "dense").read(0).annotation.labels
    assert set(labels.unique().tolist()) == {-1, 0, 1}


def test_names_of_a_table_are_kept_where_it_lacks_some_and_a_broken_one_is_named(tmp_path):
    layouts.yolo(tmp_path / "d")
    (tmp_path / "d/data.yaml").write_text("names: [road]\n")
    found = guess(tmp_path / "d")[0]
    assert [c.name for c in found.draft.classes] == ["road", "class 1"]
    assert "data.yaml has no name for the numbers 1, which files have" in found.unsure
    (tmp_path / "d/data.yaml").write_text("names:\n\t- road\n")
    assert any(line.startswith("data.yaml cannot be read: while scanning") for line in guess(tmp_path / "d")[0].unsure)


def test_colours_along_edges_are_pointed_out_in_a_guess(tmp_path):
    layouts.photos(tmp_path, "images/{}.jpg")
    for i, name in enumerate(layouts.NAMES):
        smooth = Image.fromarray(layouts.colors(i)).resize((120, 80), Image.Resampling.BICUBIC)
        layouts.mask(tmp_path / f"masks/{name}.png", np.asarray(smooth.resize((60, 40), Image.Resampling.BICUBIC)))
    assert any("the masks were smoothed; export them again" in line for line in guess(tmp_path)[0].unsure)
