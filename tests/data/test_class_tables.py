"""What files of class names say of colours."""

import json

import pytest

from manyseg.data.class_tables import class_tables, stated_color


@pytest.mark.parametrize(
    ("value", "color"),
    [
        ("#0A80ff", "#0a80ff"),
        ([10, 128, 255], "#0a80ff"),
        ([10, 128, 255, 0], "#0a80ff"),
        ([10, 128], None),
        ([10, 128, 255, 0, 0], None),
        ([10, 128, 256], None),
        ([-1, 128, 255], None),
        ([True, 128, 255], None),
        ([10.0, 128, 255], None),
        ("red", None),
        (None, None),
    ],
)
def test_a_colour_is_text_or_three_or_four_bytes(value, color):
    assert stated_color(value) == color


def test_numbers_of_a_json_that_are_no_colour_make_no_class(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"road": [128, 64, 128], "size": [640, 480, 3], "sky": [70, 130, 180]}))
    (table,) = class_tables(tmp_path, [path.name])
    assert {row.name: row.color for row in table.rows} == {"road": "#804080", "sky": "#4682b4"}
