"""Text and tables as people's tools write them."""

import pytest

from manyseg.textfile import decode, read_table, table_text

TEXT = "name\tstreet\n道路\tRoad, paved\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_encoding_and_line_end_gives_the_same_text(encoding, end):
    assert decode(TEXT.replace("\n", end).encode(encoding)) == TEXT


def test_what_is_no_text_is_an_error():
    with pytest.raises(UnicodeDecodeError):
        decode(b"\xff\xff\x00")


@pytest.mark.parametrize(
    "text",
    [
        'unified\tstreet\n"side, walk"\t"5"" pipe"\n\nx\ty z\n',
        'unified;street\n"side, walk";"5"" pipe"\n;\nx; y z \n',
        'unified,street\n"side, walk","5"" pipe"\n,\n x ,y z\n',
    ],
)
def test_a_table_is_read_as_a_spreadsheet_saves_it(text):
    assert list(read_table(text)) == [(1, ["unified", "street"]), (2, ["side, walk", '5" pipe']), (4, ["x", "y z"])]


def test_what_is_written_is_read_again_whatever_its_size():
    rows = [["a", "b"], ['"', "|".join(f"class {i}" for i in range(20000))], ['""x', ";,"]]
    assert [row for _, row in read_table(table_text(rows))] == rows
