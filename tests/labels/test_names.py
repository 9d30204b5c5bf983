"""Names of nodes that differ from each other."""

from manyseg.labels.names import UniqueNames, node_names


def test_names_that_are_taken_are_numbered_through():
    unique = UniqueNames(["road"])
    assert [unique.choose(["road"]) for _ in range(3)] == ["road #2", "road #3", "road #4"]
    assert unique.choose(["road", "road (a)"]) == "road (a)"
    assert [unique.choose([n]) for n in ("road #5", "road")] == ["road #5", "road #6"]


def test_a_node_whose_name_is_taken_adds_its_next_name_then_its_dataset_then_a_number():
    street, park, lane = ("street", "Road"), ("park", "road"), ("lane", "road")
    groups = [[street, park], [("a", "road"), ("b", "road"), ("c", "way")], [lane], [lane], [("lane", "roads")], []]
    assert node_names(groups) == ("Road", "road", "road (lane)", "road #2", "roads", "node 5")


def test_votes_decide_the_name_of_a_node_and_can_be_divided():
    group = [("a", "car"), ("b", "vehicle"), ("c", "vehicles")]
    assert node_names([group]) == ("vehicle",)
    assert node_names([group], [[1.0, 0.4, 0.4]]) == ("car",)
    # Of as many votes the shorter name, then the first.
    assert node_names([group[:2]]) == ("car",)
    assert node_names([[("a", "van"), ("b", "car")]]) == ("van",)
