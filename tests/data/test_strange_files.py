"""Files that are not what their place promises: each is named with its cause, in bounded time and memory."""

import gzip
import io
import json
import os
import zipfile

import layouts
import numpy as np
import pytest
from PIL import Image

from manyseg.data import load
from manyseg.data.check import check, print_check
from manyseg.data.encodings.schema import load_json
from manyseg.data.files import DataError, opened
from manyseg.data.guess import guess
from manyseg.data.pattern import read_list
from manyseg.errors import UserError


@pytest.fixture
def place(tmp_path):
    return layouts.two_images(tmp_path)


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.txt", "a")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        (zipped(), "an archive, not an image", "unpack it"),
        (gzip.compress(b"a"), "an archive, not an image", "unpack it"),
        (b"%PDF-1.7", "a PDF, not an image", "convert its page to PNG"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', r"a drawing \(SVG\)", "export it as PNG"),
        (b'{"error": "no access"}', "text such as JSON or XML", "the text may say why"),
    ],
)
@pytest.mark.parametrize("folder", ["images", "masks"])
def test_what_is_there_instead_of_a_picture_is_said(place, folder, content, what, fix):
    (place / folder / "0.png").write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        load(place / "c.toml", place).read(0)
    assert fix in str(caught.value)


def test_a_pipe_is_no_file_and_is_not_waited_for(place):
    for name in ("images/0.png", "masks/1.png"):
        (place / name).unlink()
        os.mkfifo(place / name)
    faults = [f for f in check(place / "c.toml", place) if f.severity == "error"]
    assert [(f.what, f.files) for f in faults] == [("a pipe or a device, where a file was promised", 2)]
    with pytest.raises(UserError, match="no known layout"):
        guess(place)
    (place / "train.txt").unlink()
    os.mkfifo(place / "train.txt")
    with pytest.raises(UserError, match="a pipe or a device"):
        read_list(place / "train.txt")
    with pytest.raises(UserError, match="a pipe or a device"):
        load_json(place / "train.txt")


def test_a_link_to_itself_is_called_so(place):
    (place / "images/0.png").unlink()
    (place / "images/0.png").symlink_to("0.png")
    with pytest.raises(DataError, match="a link that leads back to itself; remove it, or link it to the file"):
        load(place / "c.toml", place).read(0)


def test_what_to_do_depends_on_who_asks(place):
    (place / "images/0.png").write_bytes(b"")
    with pytest.raises(DataError, match="or remove its id from the split"), opened(place / "images/0.png"):
        pass
    with pytest.raises(DataError, match=r"again, or leave it out$"), opened(place / "images/0.png", "leave it out"):
        pass


def test_a_list_with_a_character_of_no_name_says_so(place):
    (place / "train.txt").write_bytes(b"0\n\x001\n")
    with pytest.raises(UserError, match="has a character that is in no name of a file; save it as plain text"):
        load(place / "c.toml", place)


def test_a_part_of_a_split_without_images_is_found_by_the_check(place):
    path = place / "c.toml"
    path.write_text(layouts.TWO_IMAGES.replace("[50%:]", "[150%:]"))
    assert any("'train' has 2 images, and none is in train[150%:]" in f.what for f in check(path, place))
    with pytest.raises(UserError, match="1 kind of error in 2 images"):
        print_check(path, place)


def test_a_pattern_without_the_names_of_the_image_says_which_it_needs(place):
    path = place / "c.toml"
    path.write_text(layouts.TWO_IMAGES.replace("masks/{id}.png", "masks/0.png"))
    with pytest.raises(UserError, match=r'mask = "masks/0.png" is to have the names that `image` has: {id}'):
        load(path, place)


def test_a_key_that_is_twice_in_a_json_is_an_error_where_something_would_be_lost(tmp_path):
    path = tmp_path / "a.json"
    many = [{"id": i, "image_id": i} for i in range(20)]
    path.write_text(json.dumps({"annotations": many, "images": []})[:-1] + ', "annotations": []}')
    with pytest.raises(DataError, match="the key 'annotations' is there 2 times, of which parsers read the last; join"):
        load_json(path)
    for indent in (None, 1, 8):
        path.write_text(json.dumps({"annotations": many, "images": [], "info": {}}, indent=indent))
        assert len(load_json(path)["annotations"]) == 20
    path.write_text(" " * 5000 + json.dumps({"a": 1}) + "\n" * 5000)
    assert load_json(path) == {"a": 1}


def test_a_packed_annotation_file_is_to_be_unpacked(tmp_path):
    (tmp_path / "a.json").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(DataError, match="an archive, not an annotation file; unpack it"):
        load_json(tmp_path / "a.json")


def test_names_of_classes_that_multiply_are_not_spelled_out(tmp_path):
    for i in range(4):
        layouts.photo(tmp_path / f"images/{i}.jpg", i)
        layouts.text(tmp_path / f"labels/{i}.txt", "0 0.5 0.5 0.1 0.1\n")
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    layouts.text(tmp_path / "data.yaml", "\n".join([*lines, "names: *i"]))
    (found,) = guess(tmp_path)[:1]
    assert [c.name for c in found.draft.classes] == ["class 0"]
    assert any("`names` holds lists or tables" in line for line in found.draft.unsure)


def test_a_guess_says_why_masks_cannot_be_read_and_that_archives_are_to_be_unpacked(place, tmp_path):
    for i in range(2):
        values = np.asarray(Image.open(place / f"masks/{i}.png"))
        Image.fromarray(values).convert("LA").save(place / f"masks/{i}.png")
    with pytest.raises(UserError, match=r"it looks like photos with masks, but: .*LA mask where an index was promised"):
        guess(place)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/a.zip").write_bytes(zipped())
    with pytest.raises(UserError, match=r"unpack the archives first, such as a\.zip"):
        guess(tmp_path / "packed")


def test_xml_with_entities_is_refused_with_its_cause(tmp_path):
    layouts.photo(tmp_path / "0.jpg")
    entities = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    image = '<image id="0" name="0.jpg" width="60" height="40"><polygon label="&a;" points="1,1;9,1;9,9"/></image>'
    layouts.text(tmp_path / "annotations.xml", f"{entities}<annotations>{image}</annotations>")
    with pytest.raises(UserError, match=r"it looks like CVAT's XML .*entity"):
        guess(tmp_path)
