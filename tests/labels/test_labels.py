import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyseg.errors import UserError
from manyseg.labels import IGNORE, LabelClass, LabelSpace, Taxonomy, normalise
from manyseg.labels.names import UniqueNames

STREET = LabelSpace.of("street", ["road", "Cars", "rider"])
PARK = LabelSpace.of("park", ["Road", "crosswalk", "car", "tree"])


def test_by_name_unites_equal_normalised_names_and_nothing_else():
    t = Taxonomy.by_name([STREET, PARK])
    assert [t.members(u) for u in range(len(t.unified))] == [
        [("street", "road"), ("park", "Road")],
        [("street", "Cars"), ("park", "car")],
        [("street", "rider")],
        [("park", "crosswalk")],
        [("park", "tree")],
    ]


def test_by_exact_name_keeps_spellings_apart():
    assert len(Taxonomy.by_name([STREET, PARK], exact=True).unified) == 7


def test_by_name_follows_the_synonyms_of_a_card():
    words = LabelSpace("words", (LabelClass("automobile", synonyms=("car",)), LabelClass("way", synonyms=("road",))))
    t = Taxonomy.by_name([STREET, words])
    assert t.members(0) == [("street", "road"), ("words", "way")]
    assert t.members(1) == [("street", "Cars"), ("words", "automobile")]


def test_a_synonym_goes_before_a_name_that_is_only_folded_to_the_same():
    signs = LabelSpace("signs", (LabelClass("Sign (Back)"), LabelClass("Sign (Front)", synonyms=("sign",))))
    for spaces in ([LabelSpace.of("a", ["sign"]), signs], [signs, LabelSpace.of("a", ["sign"])]):
        t = Taxonomy.by_name(spaces)
        assert sorted(len(t.members(u)) for u in range(len(t.unified))) == [1, 2]
        assert {("a", "sign"), ("signs", "Sign (Front)")} in [set(t.members(u)) for u in range(2)]


def test_by_name_never_unites_two_classes_of_one_dataset():
    twice = LabelSpace.of("twice", ["car", "cars", "Car"])
    t = Taxonomy.by_name([twice, PARK])
    assert len(t.unified) == 3 + 3
    assert t.exclusive("twice")
    assert ("park", "car") in t.members(0)


def test_disjoint_gives_every_class_its_own_node():
    t = Taxonomy.disjoint([STREET, PARK])
    assert t.relations["street"].tolist() == np.eye(3, 7, dtype=bool).tolist()
    assert t.relations["park"].tolist() == np.eye(4, 7, 3, dtype=bool).tolist()


@pytest.mark.parametrize(
    ("name", "folded"),
    [("Traffic-Signs (front)", "traffic sign"), ("bus", "bus"), ("Glass", "glass"), ("cars", "car"),
     ("CAR", "car"), ("bodies", "body"), ("cactus", "cactus"), ("Chassis", "chassis"), ("boxes", "box"),
     ("dishes", "dish"), ("grass", "grass"), ("SHELVES", "shelve"), ("(x)", "(x)"), ("道路", "道路"), ("gas", "gas")],
)  # fmt: skip
def test_normalise_folds_case_separators_brackets_and_plural(name, folded):
    assert normalise(name) == folded


names = st.lists(
    st.text(st.characters(blacklist_characters="\t\n\r|{}", blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1)
    .map(str.strip)
    .filter(bool),
    min_size=1,
    max_size=6,
    unique=True,
)


@settings(deadline=None)
@given(names, names, st.data())
def test_a_taxonomy_survives_its_table(tmp_path_factory, a, b, data):
    spaces = [LabelSpace.of("a", a), LabelSpace.of("b", b)]
    groups = [[("a", n)] for n in a] + [[("b", n)] for n in b]
    for group in groups:
        extra = data.draw(st.sampled_from([("a", n) for n in a] + [("b", n) for n in b]))
        if extra not in group:
            group.append(extra)
    taxonomy = Taxonomy.from_groups(spaces, groups)
    path = tmp_path_factory.mktemp("t") / "taxonomy.tsv"
    taxonomy.write(path)
    again = Taxonomy.read(path, spaces)
    assert again.unified.names == taxonomy.unified.names
    for space in spaces:
        np.testing.assert_array_equal(again.relations[space.name], taxonomy.relations[space.name])


def _table(tmp_path, text):
    path = tmp_path / "t.tsv"
    path.write_text(text, encoding="utf-8")
    return path


def test_mseg_master_tables_are_read(tmp_path):
    path = _table(
        tmp_path,
        "universal\tstreet-19\tpark-public65\tother\n"
        "unlabeled\t\t\tthing\n"
        "road\troad\t{Road, crosswalk}\tx\n"
        "car\tCars\tcar\t\n"
        "rider\trider\t\t\n"
        "tree\t\ttree\t\n"
        "sofa\t\t\tsofa\n",
    )
    t = Taxonomy.read(path, [STREET, PARK])
    assert t.unified.names == ("road", "car", "rider", "tree")
    assert t.members(0) == [("street", "road"), ("park", "Road"), ("park", "crosswalk")]
    assert not t.relations["park"][:, 2].any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "first row must start with 'unified'"),
        ("unified\tstreet\nroad\troad\n", "no column for dataset 'park'; the columns are: street"),
        ("unified\tstreet\tpark\nroad\troda\tRoad\n", "row 2, column 'street': 'roda' is not a class of 'street'"),
        ("unified\tstreet\tpark\na\troad\t\na\tCars\t\n", "row 3: node 'a' is named in row 2 too"),
        ("unified\tstreet\tpark\n\troad\t\n", "row 2: the node has no name"),
        ("unified\tstreet\tpark\na\troad|Cars|rider\tRoad\n", "3 of 4 classes of 'park' have no unified node"),
        ("unified\tstreet\tpark\nx\t\t\n", "no row names a class"),
    ],
)
def test_a_broken_table_says_where_and_what(tmp_path, text, says):
    with pytest.raises(UserError) as e:
        Taxonomy.read(_table(tmp_path, text), [STREET, PARK])
    assert says in str(e.value)
    assert "\n" not in str(e.value)


def test_a_table_that_is_not_there_or_not_text_is_named(tmp_path):
    with pytest.raises(UserError, match="no such taxonomy file"):
        Taxonomy.read(tmp_path / "none.tsv", [STREET])
    (tmp_path / "bytes.tsv").write_bytes(b"unified\tstreet\n\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        Taxonomy.read(tmp_path / "bytes.tsv", [STREET])


def test_a_node_of_no_class_is_an_error():
    relation = np.array([[True, False]])
    with pytest.raises(UserError, match="1 unified nodes belong to no class \\(b\\)"):
        Taxonomy(LabelSpace.of("unified", "ab"), (LabelSpace.of("s", ["x"]),), {"s": relation})


@pytest.mark.parametrize("bad", [np.ones((2, 1), bool), np.ones((1, 1), int)])
def test_a_relation_of_wrong_shape_or_type_is_an_error(bad, unchecked):
    with pytest.raises(UserError, match="expected bool"):
        Taxonomy(LabelSpace.of("unified", "a"), (LabelSpace.of("s", ["x"]),), {"s": bad})


def test_a_node_is_a_thing_where_any_member_is():
    masks = LabelSpace("masks", (LabelClass("car"), LabelClass("sky")))
    segments = LabelSpace("segments", (LabelClass("car", thing=True), LabelClass("sky")))
    for spaces in ([masks, segments], [segments, masks]):
        car, sky = Taxonomy.by_name(spaces).unified.classes
        assert (car.thing, sky.thing) == (True, False)


def test_two_datasets_of_one_name_are_an_error():
    with pytest.raises(UserError, match="two datasets are called 'street'"):
        Taxonomy.disjoint([STREET, STREET])


def test_names_that_cannot_be_told_apart_or_written_are_errors():
    for names in (["a", "a"], [" "], ["a\tb"], ["a|b"], []):
        with pytest.raises(UserError):
            LabelSpace.of("s", names)


def test_a_name_of_sixty_characters_is_shown_whole_and_a_longer_one_cut_to_sixty():
    for longer, shown in (("", "a|" + "b" * 58), ("b", "a|" + "b" * 55 + "...")):
        with pytest.raises(UserError, match=f"class name '{re.escape(shown)}' contains"):
            LabelSpace.of("s", ["a|" + "b" * 58 + longer])


def test_names_of_datasets_have_at_most_a_hundred_characters():
    assert LabelSpace.of("d" * 100, ["x"]).name == "d" * 100
    with pytest.raises(UserError, match=r"is too long \(101 characters\); 100 are enough"):
        LabelSpace.of("d" * 101, ["x"])


def test_pixels_without_a_label_are_minus_one_inside():
    """Of all integers the only one that is no class in any unsigned file, and that methods outside may rely on."""
    assert IGNORE == -1


def test_a_node_that_two_classes_of_a_dataset_share_makes_it_not_exclusive():
    t = Taxonomy.from_groups([PARK], [[("park", "Road"), ("park", "crosswalk")], [("park", "car")], [("park", "tree")]])
    assert not t.exclusive("park")
    assert Taxonomy.disjoint([PARK]).exclusive("park")


def test_more_than_255_classes_work():
    space = LabelSpace.of("many", [f"c{i}" for i in range(1000)])
    assert Taxonomy.disjoint([space]).relations["many"].shape == (1000, 1000)


def test_nodes_of_equal_names_stay_distinct():
    t = Taxonomy.disjoint([LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["x"]), LabelSpace.of("c", ["x"])])
    assert len(set(t.unified.names)) == 3


def test_a_node_is_shared_where_several_datasets_have_a_class_of_it():
    spaces = [LabelSpace.of("a", ["x", "y"]), LabelSpace.of("b", ["u", "v"])]
    groups = [[("a", "x"), ("b", "u")], [("a", "x"), ("a", "y")], [("b", "u"), ("b", "v")]]
    assert Taxonomy.from_groups(spaces, groups).shared == 1
    assert Taxonomy.disjoint(spaces).shared == 0


def test_a_dataset_whose_classes_are_all_one_node_is_named():
    a, b = LabelSpace.of("a", ["road", "car"]), LabelSpace.of("b", ["ground", "plant"])
    all_one = [[("a", "road"), ("b", "ground"), ("b", "plant")], [("a", "car")]]
    assert Taxonomy.from_groups([a, b], all_one).undivided == ["b"]
    assert Taxonomy.disjoint([a, b]).undivided == []
    assert Taxonomy.disjoint([LabelSpace.of("one", ["road"])]).undivided == []


def test_names_that_are_taken_are_numbered_through():
    unique = UniqueNames(["road"])
    assert [unique.choose(["road"]) for _ in range(3)] == ["road #2", "road #3", "road #4"]
    assert unique.choose(["road", "road (a)"]) == "road (a)"
    assert [unique.choose([n]) for n in ("road #5", "road")] == ["road #5", "road #6"]


def test_colours_are_also_written_as_in_style_sheets():
    space = LabelSpace("s", (LabelClass("a", (0, 10, 255)), LabelClass("b", (1, 2, 3))))
    assert space.hex_colors == ("#000aff", "#010203")
