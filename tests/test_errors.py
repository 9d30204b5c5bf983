"""The messages of errors."""

from manyseg.errors import UserError


def test_a_message_is_one_line_whatever_names_it_tells():
    assert str(UserError("a.tsv: 'road\n\x1b[31mcar\u2028\t' is no class")) == "a.tsv: 'road  [31mcar  ' is no class"
