from itertools import combinations

import numpy as np
import pytest

from manyseg.data import builtin_cards, read_card
from manyseg.labels import LabelClass, LabelSpace, Taxonomy
from manyseg.labels.colors import (
    FAR,
    NEAR,
    STANDARD,
    assign_colors,
    color_distances,
    hex_color,
    is_hex_color,
    parse_color,
    standard_color,
)
from manyseg.labels.names import normalise

STREETS = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
           "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")  # fmt: skip
OWN = {frozenset(p) for p in (("wall", "sky"), ("fence", "pole"), ("bus", "train"))}
"""The pairs of the standard palette itself that are nearer than FAR."""


def near(space: LabelSpace) -> set[frozenset[str]]:
    distances = color_distances(space.colors, space.colors)
    return {frozenset((space.names[i], space.names[j])) for i, j in np.argwhere(np.triu(distances < FAR, 1))}


def color(taxonomy: Taxonomy, space: LabelSpace, name: str) -> tuple[int, ...]:
    return tuple(taxonomy.painted(space).colors[space.positions[name]].tolist())


def test_distances_are_those_of_cielab() -> None:
    colors = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]], np.uint8)
    distances = color_distances(colors, colors)
    assert distances[0, 1] == pytest.approx(100, abs=0.1)
    # Red is L* 53.2, a* 80.1, b* 67.2; blue 32.3, 79.2, -107.9.
    assert distances[2, 3] == pytest.approx(np.hypot(53.2 - 32.3, 67.2 + 107.9), abs=0.5)
    assert (np.diag(distances) == 0).all()
    # Below a luminance of 0.0089 lightness is 903.3 times it. Greys of 5 and 10 have 5 / 255 / 12.92 and twice it.
    dark = np.array([[0, 0, 0], [5, 5, 5], [10, 10, 10]], np.uint8)
    assert color_distances(dark, dark)[0] == pytest.approx([0, 1.371, 2.742], abs=0.01)


def test_every_primary_colour_has_its_place_in_cielab() -> None:
    """Published coordinates (sRGB, D65) of red, green, blue and a middle grey, as distances from black and white."""
    places = np.array([[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [53.59, 0, 0]])
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]], np.uint8)
    grey = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    expected = np.linalg.norm(places[:, None] - np.array([[0, 0, 0], [100, 0, 0]]), axis=-1)
    assert color_distances(colors, grey) == pytest.approx(expected, abs=0.06)
    assert color_distances(colors, colors) == pytest.approx(np.linalg.norm(places[:, None] - places, axis=-1), abs=0.06)


def test_distances_of_colours_that_are_close_are_exact() -> None:
    """Squares that cancel would leave a distance of 1e-3 or more between equal colours."""
    colors = np.array([[255, 255, 254], [255, 255, 255], [254, 255, 255]], np.uint8)
    distances = color_distances(colors, colors)
    assert (distances == distances.T).all()
    assert 0.1 < distances[0, 1] < 1


@pytest.mark.parametrize("text", ["#0a80ff", "#0A80FF"])
def test_colours_are_read_and_written_as_text(text: str) -> None:
    assert is_hex_color(text)
    assert parse_color(text) == (10, 128, 255)
    assert hex_color(parse_color(text)) == "#0a80ff"


@pytest.mark.parametrize("text", ["0a80ff", "#0a80f", "#0a80ff0", "#0a80fg", " #0a80ff", "#0a80ff\n", "", 3, None])
def test_what_is_no_colour_is_said(text: object) -> None:
    assert not is_hex_color(text)
    with pytest.raises(ValueError, match="is not a colour; write"):
        parse_color(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("color", [(0, 0, 256), (-1, 0, 0)])
def test_a_number_that_is_no_byte_is_not_written(color: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="range"):
        hex_color(color)


def test_every_standard_colour_is_that_of_a_shipped_card_with_the_name() -> None:
    cards = [read_card(n).space for n in ("cityscapes", "mapillary_v1_2")]
    stated = {(normalise(c.name), c.color) for space in cards for c in space.classes}
    for color, names in STANDARD.items():
        assert any((name, color) in stated for name in names.split(", ")), names


def test_a_name_takes_its_colour_unless_another_class_is_nearer_than_the_limit() -> None:
    sky = standard_color("sky")
    assert sky == (70, 130, 180)
    # The nearest greys of both sides of the limit, along blue.
    near, far = (70, 130, 196), (70, 130, 200)
    close, apart = color_distances(np.array([sky], np.uint8), np.array([near, far], np.uint8))[0]
    assert close < NEAR <= apart
    assert assign_colors(["x", "sky"], [far, None])[1].tolist() == list(sky)
    assert assign_colors(["x", "sky"], [near, None])[1].tolist() != list(sky)


def test_known_colours_go_before_the_standard_ones_and_as_written_before_normalised() -> None:
    known = {"Sky": (1, 2, 3), "sky": (200, 0, 0), "thing": (0, 200, 0)}
    assert assign_colors(["Sky"], [None], known).tolist() == [[1, 2, 3]]
    assert assign_colors(["Things", "skies"], [None, None], known).tolist() == [[0, 200, 0], [200, 0, 0]]


def test_only_classes_that_are_to_be_apart_keep_away_from_each_other() -> None:
    names, stated = ["x", "sky", "heaven"], [(70, 130, 180), None, None]
    apart = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], bool)
    colors = assign_colors(names, stated, {"heaven": (70, 130, 180)}, lambda i: apart[i])
    assert colors[1].tolist() == [70, 130, 180]  # Beside x, which has it: they need not be told apart.
    assert color_distances(colors[2:], colors[:2]).min() >= FAR


def test_names_of_the_standard_palettes_have_their_colours_however_they_are_spelled() -> None:
    space = LabelSpace.of("s", ["Sky", "Traffic-Lights", "lorry", "trees"])
    assert space.colors.tolist() == [[70, 130, 180], [250, 170, 30], [0, 0, 70], [107, 142, 35]]


def test_the_standard_palette_is_that_of_the_shipped_card_and_far_apart_but_for_three_pairs() -> None:
    card = read_card("cityscapes").space
    assert [standard_color(c.name) for c in card.classes] == [c.color for c in card.classes]
    assert near(LabelSpace.of("street", [names.split(", ")[0] for names in STANDARD.values()])) == OWN


@pytest.mark.parametrize(
    "names",
    [
        STREETS,
        [f"thing {i}" for i in range(60)],
        [*STREETS, *(f"thing {i}" for i in range(40))],
        ["Road", "road", "roads", "street", "tree", "vegetation"],
        ["drivable", "non-drivable", "living things", "vehicles", "roadside objects", "far objects", "sky"],
        ["bed", "chair", "plant pot", "sofa", "swivelchair", "table"],
    ],
)
def test_the_colours_of_a_dataset_are_far_apart(names: list[str]) -> None:
    assert near(LabelSpace.of("s", names)) <= OWN


def test_many_classes_have_colours_as_far_apart_as_can_be_had() -> None:
    colors = LabelSpace.of("s", [f"thing {i}" for i in range(150)]).colors
    distances = color_distances(colors, colors)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 10
    assert len(np.unique(LabelSpace.of("s", [f"thing {i}" for i in range(600)]).colors, axis=0)) > 300


def test_a_colour_that_a_card_states_stays_and_others_keep_away_from_it() -> None:
    space = LabelSpace("s", (LabelClass("sky", (255, 0, 0)), LabelClass("rider"), LabelClass("car", (1, 2, 3))))
    assert space.colors[[0, 2]].tolist() == [[255, 0, 0], [1, 2, 3]]
    assert not near(space)


def test_a_colour_hangs_on_the_name_not_on_the_position_or_the_order() -> None:
    names = [f"thing {i}" for i in range(20)]
    one, two = LabelSpace.of("one", names), LabelSpace.of("two", names[::-1])
    assert (one.colors == two.colors[::-1]).all()
    # Alone, most names have the colour that they have in company.
    alone = [LabelSpace.of("s", [n]).colors[0].tolist() == c for n, c in zip(names, one.colors.tolist(), strict=True)]
    assert sum(alone) >= 15


def test_one_concept_has_one_colour_in_every_dataset_and_in_the_unified_labels() -> None:
    a, b = LabelSpace.of("a", ["road", "zebra", "Lamps"]), LabelSpace.of("b", ["lamp", "Zebras", "carriage", "Road"])
    for taxonomy in (Taxonomy.disjoint([a, b]), Taxonomy.by_name([a, b])):
        spaces = [taxonomy.painted(s) for s in (a, b, taxonomy.unified)]
        for x, y in combinations(spaces, 2):
            for one, other in (("road", "Road"), ("zebra", "Zebras"), ("Lamps", "lamp")):
                found = {tuple(s.colors[s.positions[n]].tolist()) for s in (x, y) for n in (one, other) if n in s.names}
                assert len(found) == 1
        assert not any(map(near, spaces[:2]))


def test_a_class_has_the_colour_of_its_node_and_one_of_several_nodes_a_colour_of_its_own() -> None:
    a, b = LabelSpace.of("a", ["car", "truck", "horse"]), LabelSpace.of("b", ["machines", "pony"])
    groups = [[("a", "car"), ("b", "machines")], [("a", "truck"), ("b", "machines")], [("a", "horse"), ("b", "pony")]]
    taxonomy = Taxonomy.from_groups([a, b], groups, ["car", "truck", "animal"])
    assert color(taxonomy, a, "horse") == color(taxonomy, b, "pony") == (0, 192, 0)
    machines = np.array([color(taxonomy, b, "machines")], np.uint8)
    assert color_distances(machines, taxonomy.painted(taxonomy.unified).colors)[0, 2] >= FAR


def test_classes_of_a_dataset_that_share_a_node_have_different_colours() -> None:
    a = LabelSpace.of("a", ["kerb side", "tarmac", "Road"])
    taxonomy = Taxonomy.from_groups([a], [[("a", n) for n in a.names]], ["road"])
    assert color(taxonomy, a, "Road") == (128, 64, 128)
    assert not near(taxonomy.painted(a))


def test_a_node_takes_the_colour_that_a_card_states() -> None:
    a = LabelSpace("a", (LabelClass("horse", (1, 2, 3)),))
    b = LabelSpace("b", (LabelClass("pony"), LabelClass("dog", (9, 9, 9))))
    taxonomy = Taxonomy.from_groups([a, b], [[("a", "horse"), ("b", "pony")], [("b", "dog")]])
    assert taxonomy.painted(taxonomy.unified).colors.tolist() == [[1, 2, 3], [9, 9, 9]]
    assert taxonomy.painted(b).colors.tolist() == [[1, 2, 3], [9, 9, 9]]
    assert color(taxonomy, LabelSpace.of("unseen", ["cat", "Dogs"]), "Dogs") == (9, 9, 9)


def test_nodes_that_a_dataset_tells_apart_differ_whatever_their_names() -> None:
    a, b = LabelSpace.of("a", ["road"]), LabelSpace.of("b", ["tar", "Roads"])
    groups = [[("a", "road"), ("b", "tar")], [("a", "road"), ("b", "Roads")]]
    taxonomy = Taxonomy.from_groups([a, b], groups, ["road", "roads"])
    assert not near(taxonomy.painted(taxonomy.unified))
    assert not near(taxonomy.painted(b))


def test_shipped_cards_agree_where_they_state_a_standard_colour_or_none() -> None:
    taxonomy = Taxonomy.by_name([read_card(n).space for n in ("cityscapes", "bdd100k", "ade20k", "coco_panoptic")])
    assert {color(taxonomy, s, "sky") for s in taxonomy.spaces if "sky" in s.names} == {(70, 130, 180)}
    assert len(builtin_cards()) > 4
