"""Unseen label spaces related to unified nodes by names and by text."""

import numpy as np

from manyseg.labels import LabelClass, LabelSpace, Taxonomy
from manyseg.relate.unseen import relate_by_names, relate_by_text, unmapped


def test_names_relate_nodes_by_their_own_name_then_by_their_members():
    fine = LabelSpace("fine", (LabelClass("car"), LabelClass("person", synonyms=("pedestrian",)), LabelClass("kerb")))
    coarse = LabelSpace.of("coarse", ["vehicle", "person"])
    taxonomy = Taxonomy.from_groups(
        [fine, coarse],
        [[("fine", "car"), ("coarse", "vehicle")], [("fine", "person"), ("coarse", "person")], [("fine", "kerb")]],
        ["vehicle", "human", "kerb"],
    )
    target = LabelSpace.of("target", ["Cars", "Vehicles", "Pedestrians", "lake"])
    relation = relate_by_names(target, taxonomy)
    # Node 0 is called vehicle, so its member `car` is not asked; node 1 is found by its member's synonym.
    np.testing.assert_array_equal(relation, [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert unmapped(target, relation) == ("Cars", "lake")


WORDS = {
    "road": (1, 0, 0),
    "street": (0.98, 0.2, 0),
    "car": (0, 1, 0),
    "truck": (0, 0.8, 0.6),
    "vehicle": (0, 0.95, 0.3),
}
WORDS |= {"sky": (0, 0, -1), "lake": (-1, 0, 0), "lorry": (0, 0.75, 0.65), "path": (0.58, -0.8, 0)}


def encode(texts):
    vectors = np.array([WORDS[t] for t in texts], np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_text_relates_each_node_to_the_nearest_class_above_a_threshold_set_by_the_unified_names():
    taxonomy = Taxonomy.disjoint([LabelSpace.of("a", ["road", "car", "truck", "sky"])])
    # Nearest false matches: road .0 (car), car .8, truck .8, sky 0: the threshold is their median, .4.
    relation = relate_by_text(LabelSpace.of("t", ["street", "vehicle", "lake"]), taxonomy, encode)
    np.testing.assert_array_equal(relation, [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])


def test_the_threshold_is_the_median_of_the_nearest_false_matches_and_not_their_largest():
    # Nearest false matches 0, .8, .8, 0: a path, at .59 of road, is near enough by their median alone.
    taxonomy = Taxonomy.disjoint([LabelSpace.of("a", ["road", "car", "truck", "sky"])])
    relation = relate_by_text(LabelSpace.of("t", ["path", "lake"]), taxonomy, encode)
    np.testing.assert_array_equal(relation, [[1, 0, 0, 0], [0, 0, 0, 0]])


def test_a_coarse_class_of_several_nodes_does_not_raise_the_bar_of_a_text_match():
    spaces = [LabelSpace.of("a", ["road", "car", "truck", "sky"]), LabelSpace.of("b", ["vehicle"])]
    members = [[("a", "road")], [("a", "car"), ("b", "vehicle")], [("a", "truck"), ("b", "vehicle")], [("a", "sky")]]
    taxonomy = Taxonomy.from_groups(spaces, members, ["road", "car", "truck", "sky"])
    relation = relate_by_text(LabelSpace.of("t", ["street", "vehicle", "lake"]), taxonomy, encode)
    np.testing.assert_array_equal(relation, [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])


def test_a_class_does_not_take_a_node_that_is_nearer_to_another():
    taxonomy = Taxonomy.disjoint([LabelSpace.of("a", ["car", "truck", "road"])])
    # `truck` is nearer to lorry than to vehicle; nothing is left for a second name of it.
    relation = relate_by_text(LabelSpace.of("t", ["vehicle", "street", "lorry", "lake"]), taxonomy, encode)
    np.testing.assert_array_equal(relation, [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]])
