"""Every name that a label space accepts comes back from every file that it is written to."""

import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyseg import atomic
from manyseg.config import to_toml
from manyseg.data import Card
from manyseg.errors import UserError
from manyseg.labels import LabelClass, LabelSpace, Taxonomy
from manyseg.labels.files import read_spaces, spaces_to_json
from manyseg.relate import Constraints
from manyseg.relate.part_of import PartOf, part_of_tsv, read_part_of

NAMES = st.text(
    st.sampled_from("abz09 \"'|;,:=#{}[]\\/\t\n\r\x00\x0b\x85\u2028\xa0\ufeff-_.路é\U0001f6a6"), max_size=12
)


def accepted(make, name):
    try:
        make(name)
    except UserError:
        return False
    return True


CLASS = NAMES.filter(lambda name: accepted(LabelClass, name))
SPACE = NAMES.filter(lambda name: name != "unified" and accepted(lambda n: LabelSpace.of(n, "x"), name))


@settings(max_examples=60, deadline=None)
@given(st.lists(SPACE, min_size=2, max_size=2, unique=True), st.lists(CLASS, min_size=2, max_size=4, unique=True))
def test_names_come_back_from_tables_lists_cards_and_constraints(datasets, names):
    spaces = [LabelSpace.of(dataset, names) for dataset in datasets]
    taxonomy = Taxonomy.by_name(spaces, exact=True)
    with TemporaryDirectory() as place:
        folder = Path(place)
        taxonomy.write(folder / "t.tsv")
        read = Taxonomy.read(folder / "t.tsv", spaces)
        assert read.unified.names == taxonomy.unified.names
        for dataset in datasets:
            np.testing.assert_array_equal(read.relations[dataset], taxonomy.relations[dataset])

        (folder / "spaces.json").write_text(spaces_to_json(spaces))
        assert read_spaces(folder / "spaces.json") == tuple(spaces)

        relation = PartOf(datasets[0], names[0], taxonomy.unified.names[-1], 0.5, 0.25)
        (folder / "part_of.tsv").write_text(part_of_tsv([relation]))
        assert read_part_of(folder / "part_of.tsv", taxonomy) == (relation,)

        counts = {dataset: np.full((2, 2), i) for i, dataset in enumerate(datasets)}
        with np.load(atomic.write_arrays(folder / "confusion.npz", counts)) as arrays:
            assert {name: arrays[name][0, 0] for name in arrays.files} == dict(zip(datasets, (0, 1), strict=True))

        pair = f"{datasets[0]}:{names[0]} = {datasets[1]}:{names[0]}"
        (folder / "constraints.toml").write_text(to_toml({"must_link": [pair]}))
        try:
            found = Constraints.read(folder / "constraints.toml", spaces).must_link
        except UserError as e:
            found = str(e)
        # Names with ":" and "=" can be read in two ways, which is said.
        assert found == (((datasets[0], names[0]), (datasets[1], names[0])),) or "can mean" in found

    card = {
        "name": datasets[0],
        "image": "{id}.jpg",
        "mask": "{id}.png",
        "encoding": "index",
        "splits": {"train": "train.txt"},
        "classes": {name: {"value": [i]} for i, name in enumerate(names)},
    }
    assert Card.model_validate(tomllib.loads(to_toml(card))).space == spaces[0]


def test_arrays_may_be_called_as_the_arguments_of_numpy(tmp_path):
    counts = {name: np.array(i) for i, name in enumerate(("file", "allow_pickle", "args", "x.npy"))}
    with np.load(atomic.write_arrays(tmp_path / "confusion.npz", counts)) as arrays:
        assert {name: int(arrays[name]) for name in arrays.files} == {n: int(a) for n, a in counts.items()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a class has an empty name"),
        (" road", "class name ' road' begins or ends with a space; rename the class"),
        ("a\tb", r"class name 'a\\tb' contains '\\t'; rename"),
        ("a\u2028b", "contains"),
        ("a|b", r"contains '\|'"),
        ("x" * 1001, r"is too long \(1001 characters\); 1000 are enough"),
    ],
)
def test_a_class_name_that_a_file_would_lose_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        LabelClass(name)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "x" * 400, "道" * 70, "a\x00", "a\tb", "a\nb"])
def test_a_dataset_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(UserError, match=r"dataset name .*; rename the dataset"):
        LabelSpace.of(name, ["road"])


def test_colours_are_bytes():
    with pytest.raises(UserError, match=r"the colour of class 'road' is \[0, 300, 0\]"):
        LabelClass("road", (0, 300, 0))


def test_a_dataset_cannot_be_called_as_all_of_them_are():
    with pytest.raises(UserError, match="a dataset is called 'unified'"):
        Taxonomy.disjoint([LabelSpace.of("unified", ["road"])])
