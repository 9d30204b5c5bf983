"""Tables of options: how they are merged and gone through."""

from pydantic import BaseModel

from manyseg.config import keywords, merge_tables, replace_values


class Inner(BaseModel):
    size: int = 1
    name: str = "a"


def options(*, inner: Inner = Inner(), count: int, other: int = 2) -> None:  # noqa: B008
    """Stands for a constructor."""


def test_tables_within_tables_are_merged_key_by_key():
    table = {"a": 1, "inner": {"size": 1, "name": "x"}, "list": [1, 2]}
    merged = merge_tables(table, {"inner": {"size": 9}, "list": [3], "new": {"b": 1}})
    assert merged == {"a": 1, "inner": {"size": 9, "name": "x"}, "list": [3], "new": {"b": 1}}
    assert table["inner"]["size"] == 1


def test_values_are_replaced_wherever_they_are_and_what_was_given_is_still_known():
    schema = keywords(options, "Options")
    given = schema.model_validate({"count": 3, "inner": {"size": 4}})
    found = replace_values(given, lambda keys, value: 10 * value if isinstance(value, int) else ".".join(keys))
    assert (found.count, found.other, found.inner.size, found.inner.name) == (30, 20, 40, "inner.name")
    assert found.model_fields_set == {"count", "inner"}
    assert found.inner.model_fields_set == {"size"}
    assert given.inner.size == 4


def test_a_partial_schema_asks_for_no_option():
    assert keywords(options, "Options", partial=True).model_validate({}).count is None
