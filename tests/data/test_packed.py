"""Packed datasets: read by byte ranges, and the same in everything as the folders that they were made from."""

import json
import shutil
import tarfile

import layouts
import numpy as np
import pytest
import torch
from tiny import tiny_recipe
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from manyseg.cli import app
from manyseg.config import read_toml
from manyseg.data import load, read_card
from manyseg.data.check import check, survey
from manyseg.data.guess import guess
from manyseg.data.mixture import Mixture
from manyseg.data.packed import INDEX, load_pack
from manyseg.data.packing import pack
from manyseg.data.quick_check import inspections, quick_check
from manyseg.errors import UserError
from manyseg.runs.run import read_recipe, train_recipe

LAYOUTS = ("labelme", "supervisely", "yolo", "cvat_images", "label_studio", "polygon_json", "ade_full", "coco")
MORE = ("coco_panoptic", "voc_boxes", "roboflow_masks", "color_table", "cityscapes", "yolo_boxes")


@pytest.fixture(params=LAYOUTS + MORE)
def layout(tmp_path, request):
    """A folder of one of the layouts that tools write, its card and its pack."""
    root, card = tmp_path / "d", tmp_path / "c.toml"
    getattr(layouts, request.param)(root)
    guess(root)[0].write(card)
    pack(card, root, tmp_path / "p", shard_bytes=20_000)
    return card, root, tmp_path / "p"


def test_every_encoding_reads_from_a_pack_what_it_reads_from_a_folder(layout):
    card, root, packed = layout
    assert len(list(packed.glob("*.tar"))) > 1
    read = read_card(card)
    for split in read.splits:
        plain, other = load(read, root, split), load(read, packed, split)
        assert plain.ids == other.ids
        for i in range(len(plain)):
            a, b = plain.read(i), other.read(i)
            assert a.id == b.id
            assert torch.equal(a.image, b.image)
            assert all(torch.equal(x, y) for x, y in zip(a.annotation, b.annotation, strict=True))


def test_the_checks_find_in_a_pack_what_they_find_in_a_folder(layout):
    card, root, packed = layout
    (findings, counts), (others, same) = survey(card, root), survey(card, packed)
    assert {(f.severity, f.what, f.value) for f in findings} == {(f.severity, f.what, f.value) for f in others}
    assert {k: h.pixels.tolist() for k, h in counts.items()} == {k: h.pixels.tolist() for k, h in same.items()}
    plain, other = load(card, root), load(card, packed)
    assert [i.pixels for i in inspections(plain)] == [i.pixels for i in inspections(other)]


@pytest.fixture
def packed(world, tmp_path):
    """The world's datasets, packed, in a folder with a recipe and cards."""
    for name, card in world.cards.items():
        shutil.copy(card, tmp_path / card.name)
        assert pack(card, world.folder / name, tmp_path / name, shard_bytes=10_000) == []
    return tmp_path


def test_shards_are_tar_files_of_bounded_size_that_any_tool_opens(world, packed):
    index = json.loads((packed / "fine" / INDEX).read_bytes())
    found = {}
    for shard in index["shards"]:
        file = packed / "fine" / shard["file"]
        assert file.stat().st_size == shard["bytes"] <= 10_000 + tarfile.RECORDSIZE
        with tarfile.open(file) as tar:
            found |= {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    assert sorted(found) == index["names"]
    assert all((world.folder / "fine" / name).read_bytes() == data for name, data in found.items())
    assert (packed / "fine" / index["card"]).read_text() == world.cards["fine"].read_text()


def test_packing_again_gives_the_same_bytes_and_a_pack_is_packed_like_a_folder(world, packed):
    for root, out in ((world.folder / "fine", "again"), (packed / "fine", "of a pack")):
        pack(world.cards["fine"], root, packed / out, shard_bytes=10_000)
        files = {p.name: p.read_bytes() for p in (packed / "fine").iterdir()}
        assert {p.name: p.read_bytes() for p in (packed / out).iterdir()} == files


def losses(folder, recipe):
    """The losses and scores of a run."""
    run = train_recipe(recipe, out=folder)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], json.loads((run / "scores.json").read_bytes())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_packs_has_the_losses_and_scores_of_one_on_folders(world, packed, workers):
    text = tiny_recipe("fine", "coarse", workers=workers, steps=4, log_every=1)
    (world.folder / "plain.toml").write_text(text)
    (packed / "recipe.toml").write_text(text)
    plain = losses(packed / "runs/plain", world.folder / "plain.toml")
    assert len(plain[0]) == 4
    assert losses(packed / "runs/packed", packed / "recipe.toml") == plain


def test_a_recipe_names_an_address_as_its_root_and_as_the_folder_of_all_datasets(world, packed):
    text = tiny_recipe("fine", steps=1)
    (packed / "recipe.toml").write_text(text)
    plain = Mixture.open(read_recipe(packed / "recipe.toml").data, packed, seed=0)[0]
    address = f"file://{packed}"
    for recipe, root in ((text.replace('"fine"', f'"{address}/fine"'), None), (text, address)):
        (packed / "other.toml").write_text(recipe.replace("fine.toml", f"{address}/fine/fine.toml"))
        read = read_recipe(packed / "other.toml", data_root=root)
        assert read.data.sets[0].root == f"{address}/fine"
        assert torch.equal(Mixture.open(read.data, packed, seed=0)[0][0].image, plain[0].image)
        assert read.portable(packed / "runs/x")[0]["data"]["sets"][0]["root"] == f"{address}/fine"


@pytest.fixture
def stored(packed):
    """The pack of the fine dataset in a store in memory, and its address."""
    import fsspec

    store = fsspec.filesystem("memory")
    for file in (packed / "fine").iterdir():
        store.pipe_file(f"/bucket/{packed.name}/{file.name}", file.read_bytes())
    yield store, f"memory://bucket/{packed.name}"
    store.rm(f"/bucket/{packed.name}", recursive=True)


def test_a_store_is_read_by_ranges_in_threads_and_in_forked_workers(world, packed, stored):
    from concurrent.futures import ThreadPoolExecutor

    address = stored[1]
    plain, other = load(world.cards["fine"], packed / "fine"), load(f"{address}/fine.toml", address)
    expected = [plain.read(i).image for i in range(len(plain))]
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda i: other.read(i).image, range(len(other))))
    assert all(torch.equal(a, b) for a, b in zip(images, expected, strict=True))
    read = DataLoader(range(len(other)), 1, num_workers=2, collate_fn=lambda i: other.read(i[0]).image)
    assert all(torch.equal(a, b) for a, b in zip(read, expected, strict=True))
    assert quick_check([other]) == []


def test_a_damaged_byte_is_found_by_its_checksum_in_every_check(world, packed):
    index = json.loads((packed / "fine" / INDEX).read_bytes())
    at = index["names"].index("masks/train-0002.png")
    shard = packed / "fine" / index["shards"][index["shard"][at]]["file"]
    data = bytearray(shard.read_bytes())
    data[index["offset"][at] + index["size"][at] // 2] ^= 1
    shard.write_bytes(data)
    folder = load(world.cards["fine"], packed / "fine")
    message = rf"masks/train-0002\.png: {shard} is not as it was packed: another checksum; copy that shard again"
    with pytest.raises(UserError, match=message):
        folder.read(folder.ids.index("train-0002"))
    for findings in (check(world.cards["fine"], packed / "fine"), quick_check([folder])):
        assert [f.what for f in findings if f.severity == "error"] == [
            f"{shard} is not as it was packed: another checksum"
        ]


def test_shards_that_are_cut_or_missing_and_a_broken_index_are_said_at_the_door(world, packed, stored):
    shard, index = packed / "fine/00001.tar", packed / "fine" / INDEX
    whole, card = shard.read_bytes(), world.cards["fine"]
    shard.write_bytes(whole[:-1])
    index.touch()
    with pytest.raises(
        UserError, match=rf"00001\.tar: this shard has {len(whole) - 1} bytes, and not {len(whole)}; copy"
    ):
        load(card, packed / "fine")
    shard.unlink()
    with pytest.raises(UserError, match=r"00001\.tar: this shard is missing; copy the pack again"):
        load(card, packed / "fine")
    store, address = stored
    store.rm(f"/bucket/{packed.name}/00001.tar")
    with pytest.raises(UserError, match=rf"^{address}/00001\.tar: this shard is missing"):
        load(card, address)
    with pytest.raises(UserError, match=r"^memory://bucket/other/manyseg-pack.json: there is no packed dataset"):
        load(card, "memory://bucket/other")
    with pytest.raises(UserError, match=r"^nostore://bucket/.*: this kind of address cannot be read"):
        load(card, "nostore://bucket/x")
    shard.write_bytes(whole)
    text = index.read_text()
    for broken, said in (
        (text[:-5], "not the index of a pack"),
        (text.replace('"version":1', '"version":2'), "made by another version of manyseg"),
        (text.replace('"offset":[', '"offset":[7,'), "the index is damaged"),
        (text.replace('"offset":[', '"offset":[-'), "the index is damaged"),
        ("[]", "not the index of a pack"),
    ):
        index.write_text(broken)
        with pytest.raises(UserError, match=rf"{INDEX}: {said}"):
            load(card, packed / "fine")


def test_a_missing_file_is_said_as_of_a_folder(world, tmp_path):
    shutil.copytree(world.folder / "fine", tmp_path / "fine")
    (tmp_path / "fine/masks/train-0001.png").unlink()
    pack(world.cards["fine"], tmp_path / "fine", tmp_path / "p")
    with pytest.raises(UserError, match=r"masks/train-0001\.png: there is no such file"):
        load(world.cards["fine"], tmp_path / "p").read(1)


def test_suffixes_in_capital_letters_and_letters_of_other_scripts_keep_their_names(tmp_path):
    root = tmp_path / "d"
    for stem in ("straße", "道路" * 40):
        layouts.photo(root / f"images/{stem}.JPG")
        layouts.mask(root / f"masks/{stem}.png", np.zeros((layouts.H, layouts.W), np.uint8))
    card = tmp_path / "c.toml"
    card.write_text(
        'name = "d"\nimage = "images/{id}.jpg"\nmask = "masks/{id}.png"\nencoding = "index"\n'
        'splits = { train = "." }\n[classes]\nroad = 0\n'
    )
    pack(card, root, tmp_path / "p")
    plain, packed = load(card, root), load(card, tmp_path / "p")
    assert packed.ids == plain.ids == ("straße", "道路" * 40)
    assert all(torch.equal(plain.read(i).image, packed.read(i).image) for i in range(2))


def test_an_index_that_is_replaced_is_read_anew(world, packed):
    first = load_pack(str(packed / "fine" / INDEX))
    assert load_pack(str(packed / "fine" / INDEX)) is first
    shutil.rmtree(packed / "fine")
    pack(world.cards["fine"], world.folder / "fine", packed / "fine")
    assert len(load_pack(str(packed / "fine" / INDEX)).shards) == 1 < len(first.shards)


def say(*words):
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_verb_packs_a_dataset_or_all_of_a_recipe(world, tmp_path):
    recipe = world.folder / "two.toml"
    recipe.write_text(tiny_recipe("fine", unseen=["coarse"]))
    out = say("pack", recipe, "-o", tmp_path / "all")
    assert f"{tmp_path / 'all/fine'}: " in out
    assert f'root = "{tmp_path / "all/coarse"}"' in out
    data = read_toml(recipe)["data"]
    assert {p.name for p in (tmp_path / "all").iterdir()} == {data["sets"][0]["root"], data["unseen"][0]["root"]}
    out = say("pack", world.cards["fine"], world.folder / "fine", "-o", tmp_path / "one", "--shard-mb", 1)
    assert "1 shard," in out
    assert "no errors" in say("data", world.cards["fine"], tmp_path / "one")


def test_a_pack_that_is_written_to_a_store_is_the_one_that_is_written_to_a_disk(world, packed):
    import fsspec

    store, place = fsspec.filesystem("memory"), f"packs/{packed.name}"
    recipe = world.folder / "stores.toml"
    recipe.write_text(tiny_recipe("fine", unseen=["coarse"]))
    out = say("pack", recipe, "-o", f"memory://{place}")
    names = [read_toml(recipe)["data"][key][0]["root"] for key in ("sets", "unseen")]
    assert f'root = "memory://{place}/{names[1]}"' in out
    for name in names:
        pack(world.folder / f"{name}.toml", world.folder / name, packed / "disk" / name)
        for file in (packed / "disk" / name).iterdir():
            assert store.cat_file(f"/{place}/{name}/{file.name}") == file.read_bytes()
        assert len(store.ls(f"/{place}/{name}")) == 3
    with pytest.raises(UserError, match=f"^memory://{place}/fine: a packed dataset is there; remove it"):
        pack(world.cards["fine"], world.folder / "fine", f"memory://{place}/fine")
    assert say("pack", world.cards["fine"], world.folder / "fine", "-o", f"file://{packed}/address")
    assert len(load(world.cards["fine"], packed / "address")) == len(load(world.cards["fine"], packed / "fine"))


def test_an_address_that_nothing_can_be_written_to_is_said(world, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"/file/p/00000.tar: cannot be written \(.*; choose an address"):
        pack(world.cards["fine"], world.folder / "fine", f"file://{tmp_path}/file/p")
    with pytest.raises(UserError, match="this kind of address cannot be read"):
        pack(world.cards["fine"], world.folder / "fine", "nowhere://bucket/p")


def test_what_cannot_be_packed_is_refused(world, tmp_path):
    card, root = world.cards["fine"], world.folder / "fine"
    pack(card, root, tmp_path / "p")
    with pytest.raises(UserError, match="a packed dataset is there; remove it, or choose another place"):
        pack(card, root, tmp_path / "p")
    with pytest.raises(UserError, match="there is no such folder"):
        pack(card, tmp_path / "none", tmp_path / "q")
    layouts.parquet(tmp_path / "d")
    guess(tmp_path / "d")[0].write(tmp_path / "c.toml")
    with pytest.raises(UserError, match="Parquet files are few and large already"):
        pack(tmp_path / "c.toml", tmp_path / "d", tmp_path / "q")
    (tmp_path / "half").mkdir()
    shutil.copy(card, tmp_path / "half.toml")
    shutil.copytree(root / "images", tmp_path / "half/images")
    shutil.copytree(root / "masks", tmp_path / "half/masks")
    for list_file in root.glob("train*.txt"):
        shutil.copy(list_file, tmp_path / "half" / list_file.name)
    assert [line.split(":")[0] for line in pack(tmp_path / "half.toml", tmp_path / "half", tmp_path / "q")] == [
        "split 'val' is left out"
    ]
