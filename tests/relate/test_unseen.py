"""Unseen label spaces related to unified nodes by names and by text."""

import numpy as np
from words import encode

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


A = LabelSpace.of("a", ["road", "car", "truck", "sky"])


def test_text_relates_synonyms_and_what_an_umbrella_word_holds():
    relation = relate_by_text(LabelSpace.of("t", ["street", "vehicle", "lake"]), Taxonomy.disjoint([A]), encode)
    np.testing.assert_array_equal(relation, [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])


def test_a_node_means_what_its_members_have_in_common():
    spaces = [A, LabelSpace.of("b", ["vehicle"])]
    members = [[("a", "road")], [("a", "car"), ("b", "vehicle")], [("a", "truck"), ("b", "vehicle")], [("a", "sky")]]
    taxonomy = Taxonomy.from_groups(spaces, members, ["road", "car", "truck", "sky"])
    relation = relate_by_text(LabelSpace.of("t", ["lorry", "automobile", "lake"]), taxonomy, encode)
    np.testing.assert_array_equal(relation, [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])


def test_a_node_that_is_wider_than_every_class_is_the_one_that_is_nearest_to_it_in_text():
    taxonomy = Taxonomy.disjoint([LabelSpace.of("b", ["vehicle", "truck or bus", "road"])])
    target = LabelSpace.of("t", ["car", "lorry", "bus", "road vehicle", "crosswalk", "road"])
    relation = relate_by_text(target, taxonomy, encode)
    # All of `vehicle` is `road vehicle`'s; of two halves `bus` has a word in common; of `road` the class of its name.
    assert [np.flatnonzero(column).tolist() for column in relation.T] == [[3], [2], [5]]
    relation = relate_by_text(LabelSpace.of("t", ["lorry", "bus"]), taxonomy, encode)
    assert relation[:, 1].tolist() == [False, True]


def test_a_node_whose_members_have_nothing_in_common_means_any_of_them():
    spaces = [LabelSpace.of("a", ["car", "road"]), LabelSpace.of("b", ["automobile", "tree"])]
    members = [[("a", "car"), ("b", "automobile"), ("b", "tree")], [("a", "road")]]
    taxonomy = Taxonomy.from_groups(spaces, members, ["car", "road"])
    relation = relate_by_text(LabelSpace.of("t", ["car", "road"]), taxonomy, encode)
    assert relation[1].tolist() == [False, True]


def test_a_target_may_have_the_name_of_a_training_dataset():
    relation = relate_by_text(LabelSpace.of("a", ["street", "sky"]), Taxonomy.disjoint([A]), encode)
    np.testing.assert_array_equal(relation, [[1, 0, 0, 0], [0, 0, 0, 1]])
