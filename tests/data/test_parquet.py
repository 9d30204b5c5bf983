"""Photos and masks in Parquet files: read as files are, by any encoding of masks."""

import builtins

import layouts
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from manyseg.data import load, parquet, read_card
from manyseg.data.check import check
from manyseg.data.files import DataError
from manyseg.data.guess import guess
from manyseg.errors import UserError


@pytest.fixture
def place(tmp_path):
    layouts.parquet(tmp_path / "d")
    return tmp_path


def test_a_folder_of_parquet_files_gives_a_card_that_reads_its_photos_and_masks(place):
    written = guess(place / "d")[0].write(place / "c.toml")
    card = read_card(written[-1])
    assert card.mask == "data/{split}-{shard}.parquet/annotation/{row}"
    assert (card.splits, card.space.names) == ({"train": "train", "val": "validation"}, ("road", "car"))
    assert [f for f in check(card, place / "d") if f.severity == "error"] == []
    train, val = (load(card, place / "d", split) for split in ("train", "val"))
    assert train.ids == tuple(f"{s:05}-of-00002/{r:08}" for s in (0, 1) for r in (0, 1))
    for k, (folder, i) in enumerate([(train, 0), (train, 1), (train, 2), (train, 3), (val, 0), (val, 1)]):
        sample = folder.read(i)
        assert np.array_equal(sample.annotation.labels.numpy(), layouts.truth(k))
        assert sample.image.shape == (3, layouts.H, layouts.W)


class Images(Dataset):
    """The images of a folder, as a data loader wants them."""

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return len(self.folder)

    def __getitem__(self, i):
        return self.folder.read(i).image


def test_forked_workers_read_what_the_first_process_has_open_already(place):
    folder = load(guess(place / "d")[0].write(place / "c.toml")[-1], place / "d")
    expected = [folder.read(i).image for i in range(len(folder))]
    loader = DataLoader(Images(folder), batch_size=1, num_workers=2, multiprocessing_context="fork")
    assert all((a[0] == b).all() for a, b in zip(loader, expected, strict=True))


def test_files_without_a_split_in_their_names_are_divided_by_row(place):
    (place / "d/data/validation-00000-of-00001.parquet").unlink()
    (place / "d/data/train-00000-of-00002.parquet").rename(place / "d/data/0000.parquet")
    (place / "d/data/train-00001-of-00002.parquet").rename(place / "d/data/0001.parquet")
    card = read_card(guess(place / "d")[0].write(place / "c.toml")[-1])
    assert card.image == "data/{shard}.parquet/image/{row}"
    assert sum(len(load(card, place / "d", s)) for s in ("train", "val")) == 4


def test_one_photo_in_two_splits_is_found_in_parquet_files_too(place):
    data = place / "d/data"
    (data / "validation-00000-of-00001.parquet").write_bytes((data / "train-00000-of-00002.parquet").read_bytes())
    card = read_card(guess(place / "d")[0].write(place / "c.toml")[-1])
    assert any(f.what.startswith("the same image in splits") for f in check(card, place / "d"))


def test_a_row_without_a_picture_and_a_broken_file_are_named(place):
    import pyarrow
    from pyarrow import parquet as files

    path = place / "d/data/train-00000-of-00002.parquet"
    table = files.read_table(path).to_pydict()
    table["annotation"][1] = {"bytes": None, "path": "elsewhere.png"}
    files.write_table(pyarrow.table(table), path)
    card = read_card(guess(place / "d")[0].write(place / "c.toml")[-1])
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet/annotation/00000001: there is no such file"):
        load(card, place / "d").read(1)
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"train-00000-of-00002\.parquet: not a Parquet file"):
        load(card, place / "d")


def test_without_pyarrow_it_is_said_what_to_install(place, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    parquet._opened.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"Parquet files need pyarrow; pip install 'manyseg\[parquet\]'"):
        guess(place / "d")


def test_a_parquet_file_whose_footer_is_damaged_is_named(place):
    """The footer is Thrift, of which pyarrow's errors are of the system."""
    guess(place / "d")[0].write(place / "c.toml")
    file = next((place / "d").rglob("train-*.parquet"))
    content = bytearray(file.read_bytes())
    for i in range(len(content) - 200, len(content) - 8):
        content[i] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file.name}: not a Parquet file \(.*\); fetch it again$"):
        load(place / "c.toml", place / "d")
