"""Cards: the format, and what is wrong with one in a line."""

import pytest

from manyseg.data import Folder, builtin_cards, read_card
from manyseg.data.encodings import ENCODINGS, find_encoding
from manyseg.errors import UserError
from manyseg.labels import LabelClass

SMALLEST = """
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


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "street.toml"
        path.write_text(text)
        return read_card(path)

    return read


def test_the_smallest_card_gives_a_label_space_in_its_own_order(read):
    card = read(SMALLEST)
    assert card.space.name == "street"
    assert card.space.names == ("road", "parked car")
    assert card.positions == {0: 0, 3: 1, 4: 1}
    assert card.kind == "dense"


def test_a_class_says_all_that_is_known_of_it(read):
    card = read(
        SMALLEST + 'van = { value = 7, thing = true, color = "#0A141e", description = "big", synonyms = ["minibus"] }'
    )
    assert card.space.classes[2] == LabelClass("van", (10, 20, 30), True, "big", ("minibus",))
    assert not card.space.classes[0].thing


def test_the_values_of_a_colour_card_are_the_colours_of_its_classes(read):
    text = SMALLEST.replace('"index"', '"color"').replace("ignore = [255]", 'ignore = ["#000000"]')
    card = read(text.replace("road = 0", 'road = "#804080"').replace("[3, 4]", '["#000001", "#000002"]'))
    assert card.space.classes[0].color == (128, 64, 128)
    assert card.space.classes[1].color == (0, 0, 1)


def test_classes_are_things_by_default_where_there_are_instances(read):
    instances = SMALLEST.replace('encoding = "index"', 'instances = "instances/{id}.png"\nencoding = "index"')
    card = read(instances + "sky = { value = 9, thing = false }")
    assert [c.thing for c in card.space.classes] == [True, True, False]
    assert card.kind == "segments"


def test_a_tag_without_a_value_is_its_name(read):
    card = read(
        'name="t"\nimage="{id}.jpg"\nannotations="tags.json"\nencoding="tags"\nsplits={all="."}\n[classes]\ncat={}\ndog="n2"'
    )
    assert card.positions == {"cat": 0, "n2": 1}
    assert card.kind == "tags"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "ignore = [255]",
            "ignores = [255]",
            r"ignores: unknown key, did you mean 'ignore'\?; valid keys: a",
        ),
        (
            "road = 0",
            "road = { value = 0, colour = 1 }",
            r"road.colour: unknown key, did you mean 'color'\?; valid keys: c",
        ),
        ("road = 0", "road = 3", "value 3 belongs to both 'road' and 'parked car'"),
        ("road = 0", "road = 255", "value 255 belongs to both 'road' and 'ignore'"),
        ("road = 0", "road = []", "class 'road' has no value"),
        ("road = 0", "road = -1", "'road': value -1 is not a whole number from 0 to 65535"),
        ("road = 0", 'road = "#000000"', "'road': value '#000000' is not a whole number"),
        ("road = 0", "road = 0.5", r"classes.road: a whole number is needed \(it is 0.5\)"),
        (
            "road = 0",
            'road = { value = 0, color = "red" }',
            'road.color: "red" is not a colour; write "#rrggbb"',
        ),
        ("road = 0", '"ro|ad" = 0', r"class name 'ro\|ad' contains '\|'"),
        ('mask = "masks/{id}.png"', "", "encoding 'index' needs the key `mask`"),
        ("ignore = [255]", 'annotations = "a.json"', "encoding 'index' does not read the key `annotations`"),
        ('"index"', '"rle"', "encoding: is no encoding"),
        ("images/{id}.jpg", "images/one.jpg", "needs '{id}'"),
        ("masks/{id}.png", "masks/{name}.png", r"mask = .* is to have the names that `image` has: \{id\}"),
        ('train = "train.txt", val = "val.txt"', "", "`splits` is empty"),
        ('train = "train.txt", val = "val.txt"', 'train = "a", val = "b"', "`image` has no '{split}'"),
        ('"index"', '"instance_ids"', "no class has `thing = true`"),
        ("road = 0", "road = 0\nroad = 1", "not TOML"),
    ],
)
def test_a_fault_in_a_card_is_named_in_one_line(read, old, new, message):
    with pytest.raises(UserError, match=message) as error:
        read(SMALLEST.replace(old, new))
    assert "street.toml: " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_card_that_does_not_exist_lists_those_that_come_with_the_package():
    with pytest.raises(UserError, match=r"nowhere: there is no such card.*cityscapes_panoptic"):
        read_card("nowhere")


def test_a_card_is_found_by_its_name():
    assert "ade20k" in builtin_cards()
    assert len(read_card("ade20k").space) == 150


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_card_is_read_as_an_editor_saves_it(tmp_path, encoding):
    text = SMALLEST.replace("road", '"道路"').replace("\n", "\r\n")
    (tmp_path / "card.toml").write_bytes(text.encode(encoding))
    assert "道路" in read_card(tmp_path / "card.toml").space.names


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("masks/{id}", "../masks/{id}", r"mask = '../masks/{id}.png' leads out of the dataset's root"),
        ("masks/{id}", "/masks/{id}", "leads out of the dataset's root"),
        ('"train.txt"', '"../train.txt"', "splits.train = '../train.txt' leads out of"),
        (
            '"train.txt"',
            f'"{"a" * 300}.txt"',
            r"splits.train = 'a{40}...' is too long for a file",
        ),
        ("masks/{id}", f"{'ü' * 130}/{{id}}", "mask = .* is too long for a file"),
        ("masks/{id}", f"{'a/' * 3000}{{id}}", "mask = .* is too long for a file"),
        ("mask =", "msk =", r"msk: unknown key, did you mean 'mask'\?"),
        ("splits", "split", r"split: unknown key, did you mean 'splits'\?"),
        ("index", "indx", r"encoding: is no encoding, did you mean 'index'\?"),
        ("road = 0", "road = { value = 0, color = [0, 0, 256] }", r"classes.road.color\[2\]: .*255"),
        ("road = 0", "road = { value = 0, color = [0, 0, -1] }", r"classes.road.color\[2\]: .*0"),
        ('"street"', f'"{"x" * 400}"', "is too long"),
        ('"street"', '"a\\u0000"', "contains"),
    ],
)
def test_what_a_card_may_not_say_is_named(tmp_path, old, new, message):
    (tmp_path / "card.toml").write_text(SMALLEST.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_card(tmp_path / "card.toml")


def test_an_id_that_leads_out_of_the_root_is_refused(tmp_path):
    (tmp_path / "card.toml").write_text(SMALLEST)
    (tmp_path / "train.txt").write_text("a\n../../secret\n")
    with pytest.raises(UserError, match=r"train.txt: an id = '../../secret' leads out of the dataset's root"):
        Folder(read_card(tmp_path / "card.toml"), tmp_path)
    (tmp_path / "train.txt").write_text("b" * 300)
    with pytest.raises(UserError, match=r"train.txt: an id = 'b{40}...' is too long for a file"):
        Folder(read_card(tmp_path / "card.toml"), tmp_path)


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_is_found_by_the_name_that_it_has(name):
    assert find_encoding(name).name == name
