"""Tables of options: how they are merged and gone through."""

from typing import Any

import pytest
from pydantic import BaseModel

from manyseg.config import keywords, merge_tables, override, read_toml, replace_values
from manyseg.errors import UserError
from manyseg.runs.recipe import read_recipe


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


class Base:
    def __init__(self, network: str, *, scale: float = 1.0, size: int = 2) -> None:
        """Stands for a method that others share."""


class Passing(Base):
    def __init__(self, network: str, *, size: int = 3, own: bool = False, **options: Any) -> None:
        super().__init__(network, size=size, **options)


class Alone(Base):
    def __init__(self, network: str, *, own: bool = False) -> None:
        super().__init__(network)


def test_keywords_that_a_constructor_passes_on_are_options_too():
    fields = keywords(Passing, "Options").model_fields
    assert {k: f.default for k, f in fields.items()} == {"size": 3, "own": False, "scale": 1.0}
    assert [*keywords(Alone, "Options").model_fields] == ["own"]


def test_a_partial_schema_asks_for_no_option():
    assert keywords(options, "Options", partial=True).model_validate({}).count is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.accumulate=100000", "train.accumulate: .*1024"),
        ("data.workers=500", "data.workers: .*256"),
        ("data.scale=[1e9, 1e9]", r"data.scale\[0\]: .*100"),
        ("data.scale=[nan, 1.0]", r"data.scale\[0\]: .*"),
        ("data.crop=[1000000, 32]", r"data.crop\[0\]: .*16384"),
        ("test.scales=[1e9]", r"test.scales\[0\]: .*16"),
        ("model.channels=100000000", "model.channels: .*16384"),
        ("train.lr=inf", "train.lr: .*finite"),
        ("seed=99999999999999999999999", "seed: "),
        ("data.sets.-1.per_step=3", "--set data.sets.-1.per_step=3: the recipe has no place"),
        ("data.sets.7.per_step=3", "the recipe has no place"),
        ("train.lr=", "--set train.lr=: the recipe has no place 'train.lr'"),
        ("dta.crop=[32, 32]", r"dta: unknown key, did you mean 'data'\\?"),
        ("train.stps=3", r"train.stps: unknown key, did you mean 'steps'\\?"),
    ],
)
def test_what_no_machine_can_do_is_refused_with_its_limit(tmp_path, change, message):
    (tmp_path / "recipe.toml").write_text(
        "[data]\nsets = [{ card = 'c.toml', root = '.', per_step = 1 }]\n[method]\nname = 'multihead'\n[train]\n"
        + ("" if "stps" in change else "steps = 1\n")
    )
    with pytest.raises(UserError, match=message):
        read_recipe(tmp_path / "recipe.toml", [change])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("train.steps=true", "train.steps: a whole number"),
        ("train.lr=true", "train.lr: a number"),
        ("train.drops=[true]", r"train.drops\[0\]: a number"),
        ("data.crop=[32, true]", r"data.crop\[1\]: a whole number"),
        ("data.sets.0.per_step=false", r"data.sets\[0\].per_step: "),
        ("data.jitter.hue=true", "data.jitter.hue: a number"),
        ("method.scale=true", "method.scale: a number"),
        ("model.channels=true", "model.channels: a whole number"),
    ],
)
def test_true_and_false_are_no_numbers(tmp_path, change, place):
    sets = "[data]\nsets = [{ card = 'c.toml', root = '.', per_step = 1 }]\n"
    (tmp_path / "recipe.toml").write_text(sets + "[method]\nname = 'multihead'\n[train]\nsteps = 1")
    with pytest.raises(UserError, match=rf"recipe.toml: ({place}).* is needed \(it is (true|false)\)"):
        read_recipe(tmp_path / "recipe.toml", [change])


def test_nothing_after_the_equals_sign_takes_a_value_out_of_a_recipe():
    tree = {"method": {"ohem": 0.7, "name": "union"}, "data": {"sets": ["a", "b", "c"]}}
    for change in ("method.ohem=", "data.sets.1= ", 'method.name=""'):
        override(tree, change)
    assert tree == {"method": {"name": ""}, "data": {"sets": ["a", "c"]}}


@pytest.mark.parametrize("text", ["a = " + "[" * 5000 + "]" * 5000, "a = " + "9" * 5000])
def test_what_toml_cannot_hold_is_one_line(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UserError, match=r"x.toml: "):
        read_toml(tmp_path / "x.toml")
