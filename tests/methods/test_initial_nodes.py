"""Where a learned label space starts, on values computed by hand: merging, names, pruning, texts as vectors."""

import numpy as np
import pytest

from manyseg.data.options import DataOptions
from manyseg.errors import UserError
from manyseg.inference.options import TestOptions
from manyseg.labels import LabelClass, LabelSpace, Taxonomy
from manyseg.methods.autouniseg_options import GraphOptions
from manyseg.methods.initial_nodes import MergeOptions, PruningOptions, initial_nodes, named, pruned
from manyseg.methods.label_features import label_features, label_texts
from manyseg.relate.statistics import UNIFIED, Statistics
from manyseg.training.options import TrainOptions

PRUNING = PruningOptions()


def statistics(counts, unlabelled=None):
    counts = {k: np.array(v) for k, v in counts.items()}
    none = {k: np.zeros(v.shape[1], int) for k, v in counts.items()}
    return Statistics("key", counts, {}, {}, none | {k: np.array(v) for k, v in (unlabelled or {}).items()}, {})


@pytest.mark.parametrize(("counts", "pair_cost", "nodes"), [
    ([[96, 4], [100, 0]], 0.05, 3), ([[90, 10], [100, 0]], 0.05, 4), ([[90, 10], [100, 0]], 0.4, 3),
    ([[0, 0], [100, 0]], 0.4, 4),
])  # fmt: skip
def test_classes_merge_by_confusions_of_the_heads(counts, pair_cost, nodes):
    """The published programme on its worked example; a class without a pixel never merges."""
    spaces = [LabelSpace.of("a", ["x", "y"]), LabelSpace.of("b", ["u", "v"])]
    own = [[100, 0], [0, 100]]
    known = statistics({("a", "a"): own, ("b", "b"): own, ("a", "b"): counts, ("b", "a"): counts})
    found = initial_nodes(spaces, "confusion", known, None, MergeOptions(pair_cost=pair_cost), PRUNING).taxonomy
    assert len(found.unified) == nodes


def test_nodes_are_called_as_their_most_specific_member():
    spaces = [
        LabelSpace.of("a", ["road", "car"]),
        LabelSpace.of("b", ["Road", "markings"]),
        LabelSpace.of("c", ["way"]),
    ]
    relation = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]], bool)
    found = named(spaces, relation)
    assert found.unified.names == ("road", "markings", "car")
    assert found.members(1) == [("a", "road"), ("b", "markings"), ("c", "way")]
    twice = named(spaces[:1], np.array([[1, 1], [1, 0]], bool))
    assert twice.unified.names == ("road", "road #2") or len(set(twice.unified.names)) == 2


def test_usage_unlinks_what_takes_a_hundredth_of_a_class_at_most():
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    taxonomy = Taxonomy.from_groups(spaces, [[("a", "x"), ("b", "u")], [("a", "x"), ("b", "v")], [("a", "x")]])
    known = statistics({("a", UNIFIED): [[900, 95, 5]], ("b", UNIFIED): [[50, 50, 0], [0, 0, 0]]})
    found, kept = pruned(taxonomy, known, PRUNING)
    assert kept == [0, 1]
    assert found.relations["a"].tolist() == [[True, True]]
    # A class without pixels keeps all its nodes; u keeps its only one.
    assert found.relations["b"].tolist() == [[True, False], [False, True]]
    with pytest.raises(UserError, match=r"usage of nodes by 'a' is to be \[1, 3\], the statistics hold \[1, 2\]"):
        pruned(taxonomy, statistics({("a", UNIFIED): [[1, 2]]}), PRUNING)


def test_a_node_that_mostly_takes_what_a_dataset_does_not_label_is_unlinked_there():
    spaces = [LabelSpace.of("a", ["leaf", "car"]), LabelSpace.of("b", ["tree", "sky"])]
    groups = [[("a", "leaf"), ("b", "tree")], [("a", "leaf"), ("b", "sky")], [("a", "car")]]
    taxonomy = Taxonomy.from_groups(spaces, groups)
    counts = {("a", UNIFIED): [[970, 30, 0], [0, 0, 40]], ("b", UNIFIED): [[500, 0, 0], [0, 500, 0]]}
    # The second node takes 3 % of the leaves, but 6000 pixels without a label; cars keep the only node that they have.
    known = statistics(counts, {("a", UNIFIED): [200, 6000, 60]})
    found, kept = pruned(taxonomy, known, PRUNING)
    assert kept == [0, 1, 2]
    assert found.relations["a"].tolist() == [[True, False, False], [False, False, True]]
    assert found.relations["b"].tolist() == taxonomy.relations["b"].tolist()
    whole, _ = pruned(taxonomy, known, PruningOptions(absent=1.0))
    assert whole.relations["a"].tolist() == taxonomy.relations["a"].tolist()


# Texts.


def test_texts_are_the_papers_template_and_the_cards_description():
    space = LabelSpace("city_7", (LabelClass("Column_Pole", description="column or post"), LabelClass("sky")))
    first = "An image of Column Pole from the dataset city 7."
    assert label_texts([space], True) == [f"{first} column or post", "An image of sky from the dataset city 7."]
    assert label_texts([space], False)[0] == first


def test_features_are_read_from_files_in_recipe_order_and_centred(tmp_path):
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    raw = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]], np.float32)
    np.save(tmp_path / "all.npy", raw)
    np.savez(tmp_path / "each.npz", b=raw[1:], a=raw[:1])
    for name in ("all.npy", "each.npz"):
        assert label_features(spaces, tmp_path / name, None, True, False).tolist() == raw.tolist()
        centred = label_features(spaces, tmp_path / name, None, True, True)
        assert centred.mean(0).tolist() == [0, 0]
        assert centred.std() == pytest.approx(1)
    np.save(tmp_path / "two.npy", raw[:2])
    assert label_features([LabelSpace.of("a", ["x", "y"])], tmp_path / "two.npy", None, True, True).mean(
        0
    ).tolist() == [0, 0]
    # Of a single class there is no mean to take off.
    np.savez(tmp_path / "one.npz", a=raw[:1])
    assert label_features(spaces[:1], tmp_path / "one.npz", None, True, True).tolist() == raw[:1].tolist()


@pytest.mark.parametrize("table", [MergeOptions, PruningOptions, GraphOptions, TrainOptions, DataOptions, TestOptions])
def test_no_table_of_options_changes_after_it_was_checked(table):
    assert table.model_config["frozen"] is True
    assert table.model_config["extra"] == "forbid"


def test_the_merge_programme_has_the_papers_reward_and_our_pair_cost():
    assert (MergeOptions().tau, MergeOptions().pair_cost, MergeOptions().reward) == (0.4, 0.4, 0.5)


@pytest.mark.parametrize(("rows", "message"), [
    (np.zeros((2, 2)), "give 3 finite rows"), (np.full((3, 2), np.nan), "not finite"), (None, "no features of labels"),
])  # fmt: skip
def test_features_that_do_not_fit_are_an_error(tmp_path, rows, message):
    spaces = [LabelSpace.of("a", ["x"]), LabelSpace.of("b", ["u", "v"])]
    path = tmp_path / "f.npy"
    path.write_text("text") if rows is None else np.save(path, rows)
    with pytest.raises(UserError, match=message):
        label_features(spaces, path, None, True, True)
