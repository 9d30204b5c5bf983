"""What is said of tables, constraints and confusions works."""

import numpy as np
import pytest
from advice import Case, cases, check, edit, write

LABELS = "labels recipe.toml --by names --taxonomy own.tsv"
TIED = "labels recipe.toml --by names --constraints c.toml"
CONFUSED = "labels recipe.toml --by confusion --confusion counts.npz"

TABLES = {
    "no table": Case(
        "labels recipe.toml --by names --taxonomy none.tsv",
        "there is no such taxonomy file; correct its name",
        "labels recipe.toml --by names --taxonomy truth.tsv",
    ),
    "Latin-1": Case(LABELS, "save the table as UTF-8 TSV", edit("own.tsv", "\udce9", "")),
    "first row": Case(LABELS, "the first row must start with 'unified'", edit("own.tsv", "node", "unified")),
    "no column": Case(
        LABELS, "no column for dataset 'coarse'; the columns are: fine, rough", edit("own.tsv", "rough", "coarse")
    ),
    "node without name": Case(
        LABELS, "row 2: the node has no name; fill the first column", edit("own.tsv", "\n\t", "\nsky\t")
    ),
    "node twice": Case(
        LABELS,
        r"node '\w+' is named in row 2 too; join the rows or rename one",
        edit("own.tsv", "sky\tbuilding", "building\tbuilding"),
    ),
    "class misspelt": Case(
        LABELS, "'skyy' is not a class of 'fine', did you mean 'sky'", edit("own.tsv", "skyy", "sky")
    ),
    "class in no row": Case(
        LABELS,
        r"1 of 9 classes of 'fine' have no unified node \(tree\); add each to a row",
        edit("own.tsv", "\t\tscenery\tfoliage", "\ttree\tscenery\tfoliage"),
    ),
    "constraint of no pair": Case(
        TIED,
        'write it as "dataset:class = dataset:class"',
        write("c.toml", 'must_link = ["fine:car = coarse:vehicle"]'),
    ),
    "constraint of an unknown class": Case(
        TIED, "there is no 'coarse:auto'", write("c.toml", 'must_link = ["fine:car = coarse:vehicle"]')
    ),
    "constraint of one dataset": Case(
        TIED,
        "must_link joins two classes of one dataset .*; remove one of its pairs",
        write("c.toml", "must_link = []"),
    ),
    "constraint that is no list": Case(
        TIED, 'write must_link = \\["a:car = b:auto"\\]', write("c.toml", 'must_link = ["fine:car = coarse:vehicle"]')
    ),
    "constraint of an old name": Case(
        TIED, "'must' is now called 'must_link'; rename it", edit("c.toml", "must ", "must_link ")
    ),
    "linked and parted": Case(TIED, "remove one", write("c.toml", 'must_link = ["fine:car = coarse:vehicle"]')),
    "confusion of a dataset that is not there": Case(
        CONFUSED,
        "is not 'a__b' of two of the datasets; they are: coarse, fine",
        lambda place: counts(place, "fine__coarse", 9, 6),
    ),
    "confusion of another shape": Case(
        CONFUSED,
        "give one row for each class of 'fine' and one column for each of 'coarse'",
        lambda place: counts(place, "fine__coarse", 9, 6),
    ),
    "names that mean nothing to text": Case(
        "labels recipe.toml --by text --text nowhere/encoder",
        "`--by names` needs none",
        "labels recipe.toml --by names",
    ),
}


def table(change):
    """Write the true table of the world, changed."""

    def prepare(place):
        text = "".join(line.rstrip("\n") + "\n" for line in (place / "truth.tsv").read_text().splitlines())
        (place / "own.tsv").write_bytes(change(text).encode(errors="surrogateescape"))

    return prepare


def counts(place, name, rows, columns):
    np.savez(place / "counts.npz", **{name: np.ones((rows, columns), np.int64)})


def swap(old, new):
    def change(text):
        assert old in text, (old, text)
        return text.replace(old, new, 1)

    return change


PREPARED = {
    "Latin-1": table(lambda text: text + "\udce9"),
    "first row": table(swap("unified", "node")),
    "no column": table(swap("coarse", "rough")),
    "node without name": table(swap("\nsky\t", "\n\t")),
    "node twice": table(swap("building\tbuilding", "sky\tbuilding")),
    "class misspelt": table(swap("sky\tsky\tsky", "sky\tskyy\tsky")),
    "class in no row": table(swap("\ttree\tscenery\tfoliage", "\t\tscenery\tfoliage")),
    "constraint of no pair": write("c.toml", 'must_link = ["car and vehicle"]'),
    "constraint of an unknown class": write("c.toml", 'must_link = ["fine:car = coarse:auto"]'),
    "constraint of one dataset": write("c.toml", 'must_link = ["fine:car = fine:truck"]'),
    "constraint that is no list": write("c.toml", 'must_link = "fine:car = coarse:vehicle"'),
    "constraint of an old name": write("c.toml", 'must = ["fine:car = coarse:vehicle"]'),
    "linked and parted": write(
        "c.toml", 'must_link = ["fine:car = coarse:vehicle"]\ncannot_link = ["fine:car = coarse:vehicle"]'
    ),
    "confusion of a dataset that is not there": lambda place: counts(place, "fine__park", 9, 3),
    "confusion of another shape": lambda place: counts(place, "fine__coarse", 3, 6),
}


@pytest.mark.parametrize("case", cases(TABLES, PREPARED))
def test_tables(case, place, monkeypatch):
    check(case, place, monkeypatch)
