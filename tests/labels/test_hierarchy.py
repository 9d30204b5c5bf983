"""The hierarchy of a taxonomy: which classes are kinds of which, and what becomes of those that overlap in part."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manyseg import testing
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.labels.hierarchy import Hierarchy


def taxonomy(nodes, **datasets):
    """Build a taxonomy of the named nodes; every dataset maps class names to the nodes that they may be."""
    spaces = [LabelSpace.of(d, classes) for d, classes in datasets.items()]
    groups = [[(d, c) for d, classes in datasets.items() for c in classes if u in classes[c]] for u in nodes]
    return Taxonomy.from_groups(spaces, groups, nodes)


def parents(tree):
    names = (*tree.space.names, "root")
    return {name: names[p] for name, p in zip(tree.space.names, tree.parents, strict=True)}


def test_a_class_is_a_child_of_the_smallest_that_strictly_holds_its_nodes():
    nodes = ["sky", "car", "bus", "person"]
    fine = {n: [n] for n in nodes}
    coarse = {"sky": ["sky"], "moving": ["car", "bus", "person"]}
    middle = {"vehicle": ["car", "bus"], "human": ["person"]}
    tree = Hierarchy.of(taxonomy(nodes, fine=fine, coarse=coarse, middle=middle))
    assert tree.space.names == (*nodes, "vehicle", "moving")
    assert parents(tree) == {
        "sky": "root",
        "moving": "root",
        "vehicle": "moving",
        "person": "moving",
        "car": "vehicle",
        "bus": "vehicle",
    }
    assert tree.split == ()
    assert [(*tree.space.names, "root")[v] for v in tree.inner] == ["root", "moving", "vehicle"]
    assert [tree.space.names[n] for n in tree.path(nodes.index("bus"))] == ["moving", "vehicle", "bus"]


def test_a_flat_taxonomy_has_no_concept_between_its_nodes_and_the_root():
    tree = Hierarchy.of(Taxonomy.by_name(testing.toy_spaces()))
    assert tree.inner == (tree.root,)
    assert tree.space.names == tree.taxonomy.unified.names


def test_a_class_of_all_nodes_is_the_root_itself():
    tree = Hierarchy.of(taxonomy(["a", "b"], fine={"a": ["a"], "b": ["b"]}, blind={"thing": ["a", "b"]}))
    assert tree.inner == (tree.root,)
    assert tree.split == ()


def test_of_classes_that_overlap_in_part_the_one_in_most_conflicts_is_split():
    # Cyclists with their bicycles are partly living things, partly vehicles: one class goes, the two others stay.
    nodes = ["person", "cyclist", "bicycle", "car"]
    coarse = {"living": ["person", "cyclist"], "vehicle": ["bicycle", "car"]}
    street = {"walker": ["person"], "Bicyclist": ["cyclist", "bicycle"], "car": ["car"]}
    tree = Hierarchy.of(taxonomy(nodes, coarse=coarse, street=street))
    assert tree.split == ((("street", "Bicyclist"), "overlaps coarse:living in part"),)
    assert parents(tree) == {
        "person": "living",
        "cyclist": "living",
        "bicycle": "vehicle",
        "car": "vehicle",
        "living": "root",
        "vehicle": "root",
    }


def test_which_class_is_split_follows_from_conflicts_then_size_then_order():
    nodes = list("abcde")
    fine = {n: [n] for n in nodes}

    def split(**sets):
        datasets = {d: {d: list(members)} for d, members in sets.items()}
        return [d for (d, _), _ in Hierarchy.of(taxonomy(nodes, fine=fine, **datasets)).split]

    assert split(p="abc", q="cd") == split(q="cd", p="abc") == ["q"]  # One conflict each: the smaller.
    assert split(p="ab", q="bc") == ["q"]  # And of one size: the later.
    assert split(q="bc", p="ab") == ["p"]
    assert split(p="abc", q="cd", r="bd") == ["r", "q"]  # Two conflicts each.
    assert split(p="ab", q="bcd", r="de") == ["q"]  # Two conflicts, though it is the largest.


def test_a_concept_whose_parts_no_dataset_tells_apart_is_split():
    # Each of the fine sets knows one part of V: nothing could teach the choice between them.
    datasets = {
        "coarse": {"a": ["a"], "V": ["car", "bus"]},
        "one": {"a": ["a"], "car": ["car"]},
        "two": {"bus": ["bus"]},
    }
    tree = Hierarchy.of(taxonomy(["a", "car", "bus"], **datasets))
    assert tree.split == ((("coarse", "V"), "no dataset tells its parts apart"),)
    assert set(tree.parents) == {tree.root}


def test_choices_tell_what_is_sure_from_what_is_only_so_if_the_pixel_is_of_the_concept():
    nodes = ["person", "cyclist", "bicycle", "car"]
    coarse = {"living": ["person", "cyclist"], "vehicle": ["bicycle", "car"]}
    street = {"walker": ["person"], "Bicyclist": ["cyclist", "bicycle"], "car": ["car"]}
    tree = Hierarchy.of(taxonomy(nodes, coarse=coarse, street=street))
    space = tree.taxonomy.space("street")
    living = tree.child_targets(space, tree.space.positions["living"])
    assert living.allowed.tolist() == [[True, False], [False, True], [False, False]]
    assert living.sure.tolist() == [True, False, False]
    assert living.maybe.tolist() == [False, True, False]
    # At the root Bicyclist may be either concept, which is no choice at all.
    root = tree.child_targets(space, tree.root)
    assert root.allowed.tolist() == [[True, False], [True, True], [False, True]]
    assert root.sure.tolist() == [True, False, True]
    assert not root.maybe.any()
    assert not tree.child_targets(tree.taxonomy.space("coarse"), tree.space.positions["living"]).teaches


def test_names_of_concepts_stay_unique_and_the_tree_is_drawn_with_the_classes_that_mean_each():
    fine = {"road": ["road"], "paint": ["paint"], "sky": ["sky"]}
    tree = Hierarchy.of(taxonomy(["road", "paint", "sky"], fine=fine, coarse={"road": ["road", "paint"]}))
    assert tree.to_text().splitlines() == [
        "road (coarse) (coarse:road)",
        "  road (fine:road)",
        "  paint (fine:paint)",
        "within no other: sky",
    ]


def test_split_classes_are_listed_under_the_tree():
    nodes = ["a", "b", "c"]
    tree = Hierarchy.of(taxonomy(nodes, fine={n: [n] for n in nodes}, one={"x": ["a", "b"]}, two={"y": ["b", "c"]}))
    assert tree.to_text().splitlines()[-1] == "split: two:y is any of b, c (overlaps one:x in part)"


def test_the_work_for_a_concept_is_that_of_its_own_nodes_not_of_all():
    nodes = [f"n{u}" for u in range(40)]
    wholes = {f"w{k}": nodes[3 * k : 3 * k + 3] for k in range(10)}
    tree = Hierarchy.of(taxonomy(nodes, fine={n: [n] for n in nodes}, coarse=wholes | {n: [n] for n in nodes[30:]}))
    sizes = {v: len(leaves) for v, (leaves, _) in tree._leaves_of_children.items()}
    assert sizes == {tree.root: 40} | dict.fromkeys(tree.inner[1:], 3)
    leaves, child = tree._leaves_of_children[tree.space.positions["w1"]]
    assert (leaves.tolist(), child.tolist()) == ([3, 4, 5], [0, 1, 2])


relation = st.integers(1, 5).flatmap(
    lambda u: st.lists(st.lists(st.lists(st.booleans(), min_size=u, max_size=u), min_size=1, max_size=4), max_size=3)
)


@given(relation)
def test_any_taxonomy_gives_a_tree_whose_every_branching_is_taught(tables):
    width = max((len(row) for table in tables for row in table), default=2)
    datasets = {"all": {f"n{u}": [u] for u in range(width)}}
    for i, table in enumerate(tables):
        rows = {f"c{j}": [u for u in range(width) if row[u]] for j, row in enumerate(table)}
        datasets[f"d{i}"] = {c: nodes for c, nodes in rows.items() if nodes} or {"c": [0]}
    groups = [[(d, c) for d, cs in datasets.items() for c in cs if u in cs[c]] for u in range(width)]
    tree = Hierarchy.of(Taxonomy.from_groups([LabelSpace.of(d, cs) for d, cs in datasets.items()], groups))
    for v in tree.inner:
        below = tree.leaves[list(tree.children(v))]
        assert (below.sum(0) <= 1).all()
        assert (below.any(0) == (True if v == tree.root else tree.leaves[v])).all()
    assert all(tree.teaches(s, v) == tree.child_targets(s, v).teaches for s in tree.taxonomy.spaces for v in tree.inner)
    for v in tree.inner[1:]:
        assert len(tree.children(v)) > 1
        assert any(tree.child_targets(s, v).teaches for s in tree.taxonomy.spaces)
    means = {tuple(r) for s in tree.taxonomy.spaces for r in tree.taxonomy.relations[s.name].tolist()}
    concepts = {tuple(r) for r in tree.leaves.tolist()}
    gone = {tuple(tree.taxonomy.relations[d][tree.taxonomy.space(d).positions[c]].tolist()) for (d, c), _ in tree.split}
    assert means <= concepts | gone | {(True,) * width}
    assert not concepts & gone
    assert np.array_equal(tree.leaves[:width], np.eye(width, dtype=bool))


def test_a_large_label_space_has_its_tree():
    fine = LabelSpace.of("fine", [f"class {i}" for i in range(1500)])
    coarse = LabelSpace.of("coarse", [f"kind {i}" for i in range(150)])
    groups = [[("fine", f"class {i}"), ("coarse", f"kind {i // 10}")] for i in range(1500)]
    tree = Hierarchy.of(Taxonomy.from_groups([fine, coarse], groups, fine.names))
    assert tree.split == ()
    assert len(tree.space) == 1650
    assert all(tree.space.names[tree.parents[i]] == f"kind {i // 10}" for i in range(1500))
    assert set(tree.parents[1500:]) == {tree.root}
