"""Names of nodes that differ from each other."""

from manyseg.labels.names import UniqueNames


def test_names_that_are_taken_are_numbered_through():
    unique = UniqueNames(["road"])
    assert [unique.choose(["road"]) for _ in range(3)] == ["road #2", "road #3", "road #4"]
    assert unique.choose(["road", "road (a)"]) == "road (a)"
    assert [unique.choose([n]) for n in ("road #5", "road")] == ["road #5", "road #6"]
