"""What a model predicts on every dataset's pixels: collected, merged, kept on disk, and the same on every rank."""

import warnings

import numpy as np
import pytest
import torch
from echo import PARK, STREET, TAXONOMY, Echo, write

from manyseg.data import load
from manyseg.errors import UserError
from manyseg.evaluation.evaluate import collect, score_seen, statistics_key
from manyseg.inference.options import TestOptions
from manyseg.labels import Taxonomy
from manyseg.relate.statistics import Statistics


def counted(tmp_path, method, splits=("val",)):
    folders = [load(tmp_path / f"{n}.toml", tmp_path / n, s) for n in ("street", "park") for s in splits]
    return collect(method, folders, activation=lambda features: method.predict(features, TAXONOMY.unified) * 2)


@pytest.fixture
def two(tmp_path):
    """Two datasets with two splits."""
    rng = np.random.default_rng(1)
    for name, space in (("street", STREET), ("park", PARK)):
        for split in ("train", "val"):
            draw = [(rng.integers(0, 5, (3, 4)), rng.integers(-1, len(space), (3, 4))) for _ in range(4)]
            write(tmp_path, name, space.names, draw, split)
    return tmp_path


def test_statistics_count_every_head_on_every_dataset(tmp_path):
    write(tmp_path, "street", STREET.names, [([[0, 1, 2, 3, 4]], [[0, 0, 1, 1, -1]])])
    write(tmp_path, "park", PARK.names, [([[3, 4, 4]], [[0, 1, 0]])])
    method = Echo(TAXONOMY)
    found = counted(tmp_path, method)
    assert set(found.counts) == {(a, b) for a in ("street", "park") for b in ("street", "park", "unified")}
    assert found.counts["street", "unified"].tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
    # A head that knows none of what it sees names its first class.
    assert found.counts["street", "street"].tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert found.counts["park", "park"].tolist() == [[1, 1], [0, 1]]
    # The last pixel of the street has no label; what the heads say there is counted apart.
    assert found.unlabelled.keys() == found.counts.keys()
    assert found.unlabelled["street", "unified"].tolist() == [0, 0, 0, 0, 1]
    assert found.unlabelled["park", "unified"].tolist() == [0, 0, 0, 0, 0]
    assert found.pixels["street"].tolist() == [2, 2, 0]
    assert found.sums["park"].tolist() == [[0, 0, 0, 2, 2], [0, 0, 0, 0, 2]]
    np.testing.assert_allclose(found.mean("park"), [[0, 0, 0, 1, 1], [0, 0, 0, 0, 2]])
    assert np.isnan(found.mean("street")[2]).all()
    # Three heads and the activation share one look at each batch.
    assert method.pixel_encoder.looks == 2


def test_statistics_of_two_halves_merge_to_those_of_the_whole(two):
    method = Echo(TAXONOMY)
    for name in ("street", "park"):
        ids = [(two / name / f"{s}.txt").read_text() for s in ("train", "val")]
        (two / name / "all.txt").write_text("\n".join(ids))
        card = two / f"{name}.toml"
        card.write_text(card.read_text().replace("splits = { ", 'splits = { all = "all.txt", '))
    whole = counted(two, method, ["all"])
    merged = counted(two, method, ["train"]) + counted(two, method, ["val"])
    for part in ("counts", "unlabelled", "pixels", "sums"):
        for key, array in getattr(whole, part).items():
            np.testing.assert_array_equal(getattr(merged, part)[key], array)
    assert sorted(merged.images["park"]) == sorted(whole.images["park"])
    with pytest.raises(UserError, match="4 images of 'street' are in both"):
        _ = counted(two, method, ["val"]) + whole


def test_statistics_survive_the_disk(two):
    found = counted(two, Echo(TAXONOMY))
    found.write(two / "s.npz")
    again = Statistics.load(two / "s.npz")
    assert again.key == found.key
    for part in ("counts", "unlabelled", "pixels", "sums", "images"):
        assert getattr(again, part).keys() == getattr(found, part).keys()
        for key, array in getattr(found, part).items():
            assert getattr(again, part)[key].dtype == array.dtype
            np.testing.assert_array_equal(getattr(again, part)[key], array)
    assert not list(two.glob(".*"))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", "npz"], ids=str)
def test_a_file_of_other_content_is_an_error(tmp_path, content):
    path = tmp_path / "s.npz"
    if content == "npz":
        np.savez(path, a=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"s\.npz"):
        Statistics.load(path)


def test_the_key_knows_weights_taxonomy_heads_and_options():
    method = Echo(TAXONOMY)
    key = statistics_key(method, TAXONOMY.spaces)
    assert key == statistics_key(Echo(TAXONOMY), TAXONOMY.spaces)
    other = Echo(Taxonomy.disjoint([STREET]))
    keys = {key, statistics_key(method, [STREET]), statistics_key(other, TAXONOMY.spaces)}
    keys.add(statistics_key(method, TAXONOMY.spaces, TestOptions(max_side=64)))
    method.pixel_encoder.weight.data += 1
    keys.add(statistics_key(method, TAXONOMY.spaces))
    assert len(keys) == 5


def test_statistics_of_two_models_do_not_merge(two):
    first, second = Echo(TAXONOMY), Echo(TAXONOMY)
    second.pixel_encoder.weight.data += 1
    with pytest.raises(UserError, match="different models"):
        _ = counted(two, first, ["train"]) + counted(two, second, ["val"])


# Ranks.


def _rank(rank, folder, port, results):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    method = Echo(TAXONOMY)
    street = load(folder / "street.toml", folder / "street", "val")
    statistics = counted(folder, method)
    arrays = {f"{a}__{b}": c for (a, b), c in statistics.counts.items()}
    arrays |= {f"sums/{a}": c for a, c in statistics.sums.items()}
    np.savez(results / f"{rank}.npz", seen=score_seen(method, street).confusion.counts, **arrays)
    # One rank alone meets the bad file.
    dist.barrier()
    (folder / "street/masks/val-1.png").unlink(missing_ok=True)
    dist.barrier()
    try:
        score_seen(method, street)
    except UserError as e:
        (results / f"{rank}.txt").write_text(f"{e}\n{score_seen(method, street, skip_bad=True).skipped}")
    dist.destroy_process_group()


def test_two_ranks_hold_what_one_would(two, tmp_path_factory):
    import socket

    results = tmp_path_factory.mktemp("ranks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    alone = counted(two, Echo(TAXONOMY))
    seen = score_seen(Echo(TAXONOMY), load(two / "street.toml", two / "street", "val")).confusion.counts
    with warnings.catch_warnings():
        # Python 3.12 warns of forks in a process with threads; a fresh interpreter would take many seconds to import.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.multiprocessing.start_processes(_rank, (two, port, results), nprocs=2, start_method="fork")
    faults = [(results / f"{rank}.txt").read_text() for rank in range(2)]
    assert faults[0] == faults[1]
    assert faults[0].endswith("\n('val-1',)")
    for rank in range(2):
        with np.load(results / f"{rank}.npz") as arrays:
            np.testing.assert_array_equal(arrays["seen"], seen)
            for (a, b), counts in alone.counts.items():
                np.testing.assert_array_equal(arrays[f"{a}__{b}"], counts)
            for a, sums in alone.sums.items():
                np.testing.assert_array_equal(arrays[f"sums/{a}"], sums)
