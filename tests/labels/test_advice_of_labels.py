"""What messages of label spaces and taxonomies advise works."""

from dataclasses import replace

import numpy as np
import pytest
from advice import follow

from manyseg.labels import LabelClass, LabelSpace, Taxonomy
from manyseg.labels.files import read_spaces, spaces_to_json

A = LabelSpace.of("a", ["road", "car"])
B = LabelSpace.of("b", ["way", "auto"])
PLAIN = Taxonomy.disjoint((A, B))


def of(*names, dataset="a"):
    return lambda: LabelSpace.of(dataset, names)


def related(unified=PLAIN.unified, spaces=(A, B), **relations):
    return lambda: Taxonomy(unified, spaces, {**PLAIN.relations, **relations})


NONE = np.zeros((2, 4), bool)
ROAD = np.eye(2, 4, dtype=bool)

NAMES = [
    (of("road", " "), "a class has an empty name; give every class a name", of("road", "car")),
    (of("road|car"), r"class name 'road\|car' contains '\|'; rename the class", of("road or car")),
    (of("road\n"), r"class name 'road\\n' contains '\\n'; rename the class", of("road")),
    (of(" road"), "begins or ends with a space; rename the class", of("road")),
    (of("x" * 1001), r"is too long \(1001 characters\); 1000 are enough", of("x" * 1000)),
    (of("road", dataset="a/b"), "dataset name 'a/b' contains '/'; rename the dataset", of("road", dataset="a b")),
    (of(), "has no class; it needs at least one", of("road")),
    (of("road", "road"), "names class 'road' twice; rename or remove one of them", of("road")),
    (
        lambda: LabelClass("road", color=(0, 0, 256)),
        r"is \[0, 0, 256\]; give red, green, blue in 0..255",
        lambda: LabelClass("road", color=(0, 0, 255)),
    ),
    (lambda: Taxonomy(A, (), {}), "needs at least one dataset's label space", lambda: Taxonomy.disjoint((A,))),
    (
        lambda: Taxonomy.disjoint((A, A)),
        "two datasets are called 'a'; give one of the cards another name",
        lambda: Taxonomy.disjoint((A, replace(A, name="c"))),
    ),
    (
        lambda: Taxonomy.disjoint((A, replace(B, name="unified"))),
        "a dataset is called 'unified', as all of them together are; rename its card",
        lambda: Taxonomy.disjoint((A, replace(B, name="parks"))),
    ),
    (related(c=ROAD), r"relates \['a', 'b', 'c'\] but its datasets are \['a', 'b'\]", related()),
    (related(a=ROAD[:, :3]), r"relation of 'a' is bool\[2, 3\], expected bool\[2, 4\]", related(a=ROAD)),
    (related(a=NONE), r"2 of 2 classes of 'a' .* \(road, car\); add each to a row of the taxonomy", related(a=ROAD)),
    (related(b=ROAD), r"2 unified nodes belong to no class \(way, auto\); remove their rows", related(a=ROAD)),
    (lambda: PLAIN.space("c"), "there are: a, b, unified", lambda: PLAIN.space("a")),
    (
        lambda: Taxonomy.from_groups((A,), [[("a", "road")], [("a", "bus")]]),
        "there is no class 'bus' in a dataset 'a'; check the taxonomy",
        lambda: Taxonomy.from_groups((A,), [[("a", "road")], [("a", "car")]]),
    ),
]


@pytest.mark.parametrize(("wrong", "said", "right"), NAMES)
def test_label_spaces_are_made_as_advised(unchecked, wrong, said, right):
    follow(wrong, said, right)


TABLES = [
    (lambda f: f.mkdir(), "cannot be read as a table .*; save it as UTF-8 TSV"),
    (lambda f: f.write_text("unified\ta\tb\nx\t\t\n"), "no row names a class of a, b; fill their columns"),
    (
        lambda f: f.write_text("unified\ta\tb\nx\troad\tway\ny\troad\tauto\n"),
        r"1 of 2 classes of 'a' .* \(car\); add each to a row",
    ),
]


@pytest.mark.parametrize(("wrong", "said"), TABLES)
def test_tables_are_read_as_advised(tmp_path, wrong, said):
    file = tmp_path / "t.tsv"
    wrong(file)

    def right():
        file.rmdir() if file.is_dir() else None
        file.write_text("unified\ta\tb\nx\troad\tway\ny\tcar\tauto\n")
        return Taxonomy.read(file, (A, B))

    assert len(follow(lambda: Taxonomy.read(file, (A, B)), said, right).unified) == 2


def test_spaces_of_a_run_are_written_again_as_advised(tmp_path):
    file = tmp_path / "spaces.json"
    file.write_text("[{]")

    def trained():
        file.write_text(spaces_to_json((A, B)))
        return read_spaces(file)

    assert follow(lambda: read_spaces(file), "missing or damaged .*; train the run again", trained) == (A, B)
