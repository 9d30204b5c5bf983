"""Details of taxonomies: joint lists of classes, colours of nodes, and the cells of tables."""

import numpy as np
import pytest

from manyseg.errors import UserError
from manyseg.labels import JointClasses, LabelClass, LabelSpace, Taxonomy
from manyseg.labels.colors import standard_color
from manyseg.labels.palette import node_colors

A = LabelSpace.of("a", ["road", "car", "sky"])
B = LabelSpace.of("b", ["street", "auto"])


def read(tmp_path, text, *spaces):
    (tmp_path / "t.tsv").write_text(text)
    return Taxonomy.read(tmp_path / "t.tsv", spaces)


def test_the_joint_list_has_the_classes_of_all_datasets_in_order():
    classes = JointClasses((A, B))
    assert len(classes) == 5
    assert classes.sizes == (3, 2)
    assert classes.rows == {"a": slice(0, 3), "b": slice(3, 5)}
    assert classes.keys == (("a", "road"), ("a", "car"), ("a", "sky"), ("b", "street"), ("b", "auto"))
    assert classes.positions["b", "street"] == 3
    assert classes.dataset.tolist() == [0, 0, 0, 1, 1]
    assert classes.differ.tolist() == [[False] * 3 + [True] * 2] * 3 + [[True] * 3 + [False] * 2] * 2
    assert len(JointClasses(())) == 0


@pytest.mark.parametrize("key", [("c", "road"), ("a", "auto"), ("c", "tree")])
def test_a_class_that_no_dataset_has_is_named(key):
    with pytest.raises(UserError, match=f"no class '{key[1]}' in a dataset '{key[0]}'"):
        Taxonomy.from_groups([A, B], [[key]])


def test_a_dataset_of_which_most_classes_lack_no_node_is_divided():
    relations = {"a": np.array([[1, 0], [0, 1], [0, 1]], bool)}
    assert Taxonomy(LabelSpace.of("unified", ["x", "y"]), (A,), relations).undivided == []
    # One class is both nodes, and the others one of them: told apart all the same.
    relations = {"a": np.array([[1, 1], [0, 1], [0, 1]], bool)}
    assert Taxonomy(LabelSpace.of("unified", ["x", "y"]), (A,), relations).undivided == []
    one = {"a": np.array([[1], [1], [1]], bool)}
    assert Taxonomy(LabelSpace.of("unified", ["x"]), (A,), one).undivided == ["a"]


def test_names_are_compared_folded_unless_asked_for_as_they_are():
    spaces = [LabelSpace.of("a", ["Cars"]), LabelSpace.of("b", ["car"])]
    assert len(Taxonomy.by_name(spaces).unified) == 1
    assert len(Taxonomy.by_name(spaces, exact=True).unified) == 2


def test_of_classes_of_one_node_the_first_has_its_colour_unless_one_states_its_own():
    own = LabelSpace("a", (LabelClass("tarmac", (1, 2, 3)), LabelClass("kerb")))
    taxonomy = Taxonomy.from_groups([own], [[("a", "tarmac"), ("a", "kerb")]], ["road"])
    colors = taxonomy.painted(own).colors.tolist()
    assert colors[0] == [1, 2, 3]
    assert colors[1] not in ([1, 2, 3], [128, 64, 128])
    plain = LabelSpace.of("a", ["tarmac", "kerb"])
    taxonomy = Taxonomy.from_groups([plain], [[("a", "tarmac"), ("a", "kerb")]], ["road"])
    assert taxonomy.painted(plain).colors.tolist()[0] == taxonomy.painted(taxonomy.unified).colors.tolist()[0]


# Tables.


ROAD, PAIR = LabelSpace.of("a", ["road", "sky"]), LabelSpace.of("a", ["road", "car"])
STREET = LabelSpace.of("b", ["street"])


def test_nodes_may_have_one_colour_where_no_dataset_tells_them_apart():
    """A dataset does that which has classes of both nodes, and none of them is of both."""
    sky = standard_color("sky")
    azure = LabelClass("azure", color=sky)
    beside = LabelSpace("a", (azure, LabelClass("sky")))
    spaces = [LabelSpace("a", (azure, LabelClass("blue"))), LabelSpace.of("b", ["sky", "tree"])]
    around = [[("a", "azure"), ("a", "blue")], [("a", "blue"), ("b", "sky")], [("b", "tree")]]
    assert node_colors(Taxonomy.disjoint([beside]))["sky"] != sky
    assert node_colors(Taxonomy.disjoint(spaces))["sky"] == sky
    # `blue` is of both nodes, so it does not tell them apart.
    assert node_colors(Taxonomy.from_groups(spaces, around, ["azure", "sky", "tree"]))["sky"] == sky


def test_a_row_unlabeled_is_no_node_in_a_master_table_alone(tmp_path):
    text = "{}\ta\tb\nunlabeled\troad\t\nroad\troad\tstreet\nsky\tsky\t\n"
    assert read(tmp_path, text.format("universal"), ROAD, STREET).unified.names == ("road", "sky")
    assert read(tmp_path, text.format("unified"), ROAD, STREET).unified.names == ("unlabeled", "road", "sky")


def test_the_first_column_is_no_datasets(tmp_path):
    space = LabelSpace.of("universal", ["x", "y"])
    found = read(tmp_path, "universal\tuniversal\np\tx\nq\ty\n", space)
    assert found.relations["universal"].tolist() == [[True, False], [False, True]]
    with pytest.raises(UserError, match="no column for dataset 'universal'; the columns are: a"):
        read(tmp_path, "universal\ta\np\tx\n", space)


def test_columns_of_a_version_are_found_where_there_is_one(tmp_path):
    found = read(tmp_path, "universal\ta-19\tb-2\nroad\troad\tstreet\nsky\tsky\t\n", ROAD, STREET)
    assert list(found.members(0)) == [("a", "road"), ("b", "street")]
    with pytest.raises(UserError, match="no column for dataset 'a'"):
        read(tmp_path, "universal\ta-19\ta-20\tb\nroad\troad\troad\tstreet\n", ROAD, STREET)


def test_rows_may_be_shorter_than_the_first(tmp_path):
    found = read(tmp_path, "unified\ta\tb\nroad\troad\tstreet\nsky\tsky\nlone\n", ROAD, STREET)
    assert found.unified.names == ("road", "sky")
    assert found.relations["b"].tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("first", "cell"),
    [("unified", "road | car"), ("unified", "road|car|"), ("universal", "{road, car}"), ("universal", "{road,,car}")],
)
def test_a_cell_may_name_several_classes(tmp_path, first, cell):
    found = read(tmp_path, f"{first}\ta\nx\t{cell}\n", PAIR)
    assert list(found.members(0)) == [("a", "road"), ("a", "car")]


def test_braces_mean_something_in_a_master_table_alone(tmp_path):
    space = LabelSpace.of("a", ["{road, car}"])
    assert read(tmp_path, "unified\ta\nx\t{road, car}\n", space).unified.names == ("x",)
    with pytest.raises(UserError, match=r"'\{road' is not a class"):
        read(tmp_path, "universal\ta\nx\t{road\n", PAIR)
