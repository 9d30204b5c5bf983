"""Classes joined and dropped, in a card or a recipe: the label space and every encoding follow."""

import re
import tomllib

import layouts
import numpy as np
import pytest

from manyseg.config import check as checked
from manyseg.data import load, read_card
from manyseg.data.annotation import Boxes, Tags
from manyseg.data.classes import join_classes
from manyseg.data.guess import guess
from manyseg.data.options import DataOptions
from manyseg.errors import UserError
from manyseg.labels import IGNORE

LAYOUTS = (
    "grey_named", "color_table", "coco_panoptic", "coco", "labelme", "supervisely", "polygon_json", "cvat_images",
    "label_studio", "yolo", "yolo_boxes", "voc_boxes",
)  # fmt: skip


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """A card and its folder for each layout, with the classes road and car."""
    place = tmp_path_factory.mktemp("cards")
    for name in LAYOUTS:
        getattr(layouts, name)(place / name)
        guess(place / name)[0].write(place / f"{name}.toml")
    return {name: (place / f"{name}.toml", place / name) for name in LAYOUTS}


def written(card, tmp_path, keys):
    """The card with more keys, beside the lists that it names."""
    text = card.read_text().replace("[classes]", f"{keys}\n[classes]")
    path = card.with_name(f"{tmp_path.name}-{card.name}")
    path.write_text(text)
    return path


def opened(card, root, keys):
    """Open a split by a recipe's set that has the keys, as TOML."""
    entry = f'{{ card = "{card}", root = "{root}", per_step = 1, {keys} }}'
    table = tomllib.loads(f"sets = [{entry}]")
    return checked(DataOptions, table, card).sets[0].open_train(card.parent)


@pytest.mark.parametrize("place", ["card", "recipe"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_joined_classes_are_one_in_the_label_space_and_in_what_every_encoding_reads(cards, tmp_path, name, place):
    card, root = cards[name]
    keys = 'merge = { traffic = ["road", "car"] }'
    plain = load(card, root)
    folder = opened(card, root, keys) if place == "recipe" else load(written(card, tmp_path, keys), root)
    assert folder.space.names == ("traffic",)
    for i in range(len(folder)):
        before, after = plain.read(i).annotation, folder.read(i).annotation
        if isinstance(after, Boxes):
            assert after.classes.tolist() == [0] * len(before.classes)
        else:
            assert ((after.labels == 0) == (before.labels >= 0)).all()


@pytest.mark.parametrize("place", ["card", "recipe"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_dropped_classes_have_no_label_and_no_place_in_the_label_space(cards, tmp_path, name, place):
    card, root = cards[name]
    plain = load(card, root)
    folder = opened(card, root, 'drop = ["road"]') if place == "recipe" else None
    folder = folder or load(written(card, tmp_path, 'drop = ["road"]'), root)
    assert folder.space.names == ("car",)
    car = plain.space.positions["car"]
    for i in range(len(folder)):
        before, after = plain.read(i).annotation, folder.read(i).annotation
        if isinstance(after, Boxes):
            assert after.classes.tolist() == [0]
        else:
            assert ((after.labels == 0) == (before.labels == car)).all()
            assert ((after.labels == IGNORE) == (before.labels != car)).all()


def test_a_recipe_joins_what_is_left_by_the_card(cards, tmp_path):
    card, root = cards["labelme"]
    path = written(card, tmp_path, 'merge = { vehicle = ["car"] }')
    folder = opened(path, root, 'merge = { all = ["vehicle", "road"] }')
    assert folder.space.names == ("all",)
    assert set(folder.card.values("all")) == {"car", "road"}
    with pytest.raises(UserError, match=r"card '.*': merge\.all: there is no class 'car'; the classes are: vehicle"):
        opened(path, root, 'merge = { all = ["car"] }')


def test_tags_of_joined_classes_are_one_tag(tmp_path):
    layouts.photos(tmp_path, "images/{}.jpg")
    layouts.text(tmp_path / "tags.json", {n: ["road", "car"] for n in layouts.NAMES})
    layouts.text(
        tmp_path / "c.toml",
        'name = "c"\nimage = "images/{id}.jpg"\nannotations = "tags.json"\nencoding = "tags"\n'
        'splits = { train = "." }\nmerge = { traffic = ["road", "car"] }\n[classes]\nroad = {}\ncar = {}\nsky = {}\n',
    )
    found = load(tmp_path / "c.toml", tmp_path).read(0).annotation
    assert isinstance(found, Tags)
    assert found.classes.tolist() == [0]


def test_a_joined_class_is_a_thing_if_a_member_is_and_says_what_its_namesake_says(tmp_path):
    text = (
        'name = "c"\nimage = "{id}.jpg"\nmask = "{id}.png"\nencoding = "index"\nsplits = { train = "." }\n'
        'merge = { car = ["van", "car"], ground = ["road", "curb"] }\ndrop = ["sky"]\n[classes]\nroad = 0\nsky = 1\n'
        'van = { value = 2, color = "#010203" }\ncurb = 4\n'
        'car = { value = 3, thing = true, color = "#040506", description = "on wheels", synonyms = ["auto"] }\n'
    )
    layouts.text(tmp_path / "c.toml", text)
    card = read_card(tmp_path / "c.toml")
    ground, car = card.space.classes
    assert (ground.name, ground.thing, car.name, car.thing) == ("ground", False, "car", True)
    assert (car.color, car.description, car.synonyms) == ((4, 5, 6), "on wheels", ("auto",))
    assert card.positions == {0: 0, 4: 0, 2: 1, 3: 1}
    assert card.raw_values.positions[1] == IGNORE
    assert card.raw_values.identified.tolist() == [False, False]


def test_the_background_of_drawn_objects_may_be_joined_or_dropped(cards, tmp_path):
    card, root = cards["labelme"]
    base = card.read_text() + "rest = {}\n"
    for keys, expected in (('merge = { ground = ["rest", "road"] }', 0), ('drop = ["rest"]', IGNORE)):
        path = card.with_name(f"{tmp_path.name}-rest.toml")
        path.write_text(base.replace("[classes]", f'background = "rest"\n{keys}\n[classes]'))
        folder = load(path, root, "train", "dense")
        position = folder.space.positions.get("ground", IGNORE) if expected == 0 else IGNORE
        assert np.unique(folder.read(0).annotation.labels.numpy()[:10]).tolist() == [position]


@pytest.mark.parametrize(
    ("merge", "drop", "message"),
    [
        ({"vehicle": ["carr"]}, [], "merge.vehicle: there is no class 'carr', did you mean 'car'?"),
        ({}, ["skyy"], "drop: there is no class 'skyy', did you mean 'sky'?"),
        ({}, ["xyz"], "drop: there is no class 'xyz'; the classes are: car, truck, sky"),
        ({"a": ["car"], "b": ["car"]}, [], "class 'car' is in merge.a and in merge.b; leave it in one of them"),
        ({"a": ["car"]}, ["car"], "class 'car' is in merge.a and in drop; leave it in one of them"),
        (
            {"sky": ["car", "truck"]},
            [],
            "merge.sky: 'sky' is itself a class; add it to the list, or choose another name",
        ),
        ({"a": []}, [], "merge.a is empty; list the classes that it joins"),
        ({}, ["car", "truck", "sky"], "all classes are dropped; leave at least one"),
    ],
)
def test_what_cannot_be_joined_or_dropped_is_named(merge, drop, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        join_classes(("car", "truck", "sky"), merge, drop)


def test_a_card_at_fault_is_named_with_the_class(cards, tmp_path):
    card, _ = cards["labelme"]
    with pytest.raises(UserError, match=r"labelme\.toml: drop: there is no class 'caar', did you mean 'car'\?"):
        read_card(written(card, tmp_path, 'drop = ["caar"]'))
