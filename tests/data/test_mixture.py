import logging
import os
import re
import signal
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from manyseg.data.folder import Folder
from manyseg.data.mixture import Mixture, _apportion
from manyseg.data.options import DataOptions
from manyseg.errors import UserError

FORKS = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def forks(test):
    """Mark a test that starts workers: few cores, and Python 3.12, warn about those."""
    for mark in FORKS:
        test = mark(test)
    return test


def write(folder, name, images):
    """Write a dataset of small images with two classes, and its card."""
    root = folder / name
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    for i in range(images):
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(root / f"images/{i:02d}.png")
        Image.fromarray(rng.integers(0, 2, (12, 16), np.uint8)).save(root / f"masks/{i:02d}.png")
    (root / "train.txt").write_text("\n".join(f"{i:02d}" for i in range(images)))
    (folder / f"{name}.toml").write_text(
        f'name = "{name}"\nimage = "images/{{id}}.png"\nmask = "masks/{{id}}.png"\nencoding = "index"\n'
        'splits = { train = "train.txt", val = "train.txt" }\n[classes]\nlow = 0\nhigh = 1\n'
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for name, images in (("large", 12), ("small", 3), ("single", 1)):
        write(folder, name, images)
    return folder


def options(sets, **data):
    """Options for sets given as {name: per_step, None, or a table}."""
    tables = [
        {"card": f"{n}.toml", "root": n, **(v if isinstance(v, dict) else {"per_step": v})} for n, v in sets.items()
    ]
    return DataOptions.model_validate({"sets": tables, "crop": [8, 8], "workers": 0} | data)


def mixture(base, sets, seed=0, rank=0, world=1, **data):
    return Mixture.open(options(sets, **data), base, seed=seed, rank=rank, world=world)


def ids(step):
    return {b.space.name: list(b.ids) for b in step}


def equal(a, b):
    """Say whether two steps are equal to the last bit."""
    return len(a) == len(b) and all(
        x.space == y.space
        and x.ids == y.ids
        and x.weight == y.weight
        and torch.equal(x.image, y.image)
        and torch.equal(x.annotation.labels, y.annotation.labels)
        for x, y in zip(a, b, strict=True)
    )


def test_a_dataset_may_give_some_of_its_images_alone(base):
    part = mixture(base, {"large": {"per_step": 2, "images": 4}, "small": 1})
    assert [len(f) for f in part.folders] == [4, 3]
    assert len({i for step in range(10) for i in ids(part[step])["large"]}) == 4


# Steps.


def test_a_step_holds_exactly_the_images_asked_for(base):
    steps = mixture(base, {"large": 3, "small": {"per_step": 2, "weight": 0.5}})
    for step in range(5):
        large, small = steps[step]
        assert (large.space.name, large.weight, small.space.name, small.weight) == ("large", 1.0, "small", 0.5)
        assert large.image.shape == (3, 3, 8, 8)
        assert small.annotation.labels.shape == (2, 8, 8)


def test_every_image_is_seen_once_an_epoch_and_each_epoch_has_its_own_order(base):
    steps = mixture(base, {"large": 3})
    epochs = [[i for s in range(4 * e, 4 * e + 4) for i in steps[s][0].ids] for e in range(3)]
    assert all(sorted(e) == [f"{i:02d}" for i in range(12)] for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3


def test_a_dataset_of_one_image_fills_a_batch_with_different_crops(base):
    (batch,) = mixture(base, {"single": 4})[0]
    assert batch.ids == ("00",) * 4
    assert len({image.numpy().tobytes() for image in batch.image}) == 4


def test_a_dataset_smaller_than_its_share_begins_its_next_epoch_in_the_step(base):
    (batch,) = mixture(base, {"small": 7})[0]
    assert sorted(batch.ids[:3]) == sorted(batch.ids[3:6]) == ["00", "01", "02"]


def test_a_step_depends_on_the_seed_alone(base):
    first, again, other = (mixture(base, {"large": 3}, seed=s) for s in (1, 1, 2))
    torch.manual_seed(5)
    assert all(equal(first[s], again[s]) for s in (3, 0, 7))
    assert not any(equal(first[s], other[s]) for s in range(3))


def test_the_seed_decides_the_crops_too(base):
    crops = {mixture(base, {"single": 1}, seed=s)[0][0].image.numpy().tobytes() for s in range(5)}
    assert len(crops) == 5


def test_a_dataset_walks_the_same_way_in_any_company(base):
    alone, together = mixture(base, {"large": 3}), mixture(base, {"small": 2, "large": 3})
    assert all(equal(alone[s], together[s][1:]) for s in range(6))


@pytest.mark.parametrize("data", [{}, {"mix": "proportional", "batch": 6}])
def test_ranks_share_the_global_step(base, data):
    counts = {"large": None, "small": None} if data else {"large": 4, "small": 2}
    ranks = [mixture(base, counts, rank=r, world=2, **data) for r in range(2)]
    seen = Counter()
    for step in range(8):
        a, b = (m[step] for m in ranks)
        assert [len(x.ids) for x in a] == [len(x.ids) for x in b]
        seen.update((x.space.name, i) for x in (*a, *b) for i in x.ids)
        if not data:
            whole = mixture(base, counts)[step]
            for x, y, z in zip(a, b, whole, strict=True):
                assert torch.equal(torch.stack([x.image, y.image], 1).flatten(0, 1), z.image)
    # Together the ranks walk through whole epochs: no image is read more often than another.
    large = [n for (name, _), n in seen.items() if name == "large"]
    assert len(large) == 12
    assert max(large) - min(large) <= 1


def test_counts_that_ranks_cannot_share_are_an_error(base):
    with pytest.raises(UserError, match="a step has 5 images, which 2 processes cannot share evenly; make the sum of"):
        mixture(base, {"large": 2, "small": 3}, world=2)
    with pytest.raises(UserError, match="a step has 5 images, which 2 processes cannot share evenly; make batch a"):
        mixture(base, {"large": None}, world=2, mix="sqrt", batch=5)


def test_more_processes_than_images_of_a_set_take_turns_with_the_sets(base):
    # LMSeg's 16 images of four sets on eight processes, in small: 4 images of two sets on four.
    counts = {"large": 3, "small": 1}
    ranks = [mixture(base, counts, rank=r, world=4) for r in range(4)]
    steps = [[m[step] for m in ranks] for step in range(4)]
    assert [[b.space.name for b in parts[0]] for parts in steps] == [["large"], ["large"], ["small"], ["large"]]
    for parts in steps:
        # All processes have batches of the same datasets, as many images of each, and no image twice.
        assert all([(b.space, len(b.ids)) for b in part] == [(b.space, 1) for b in parts[0]] for part in parts)
    large = [i for parts in steps for part in parts for b in part if b.space.name == "large" for i in b.ids]
    assert sorted(large) == sorted(set(large)), "twelve images, each once"
    assert len(large) == 12
    assert [row.per_step for row in ranks[0].describe(4)] == [3, 1]


def test_two_sets_of_one_name_are_an_error(base, tmp_path):
    text = (base / "small.toml").read_text().replace('"small"', '"large"')
    (base / "twin.toml").write_text(text)
    with pytest.raises(UserError, match="two sets are called 'large'"):
        mixture(base, {"large": 1, "twin": {"per_step": 1, "root": "small"}})


# Mixes.


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(0, 60))
def test_images_are_shared_out_by_websters_method(weights, total):
    counts = [0] * len(weights)
    for _ in range(total):
        due = [Fraction(2 * n + 1, w) for n, w in zip(counts, weights, strict=True)]
        counts[due.index(min(due))] += 1
    assert _apportion(total, weights) == counts


@settings(max_examples=50)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20), st.integers(0, 10**7))
def test_shares_are_exact_in_the_long_run(weights, total):
    now, later = _apportion(total, weights), _apportion(total + 16, weights)
    assert sum(now) == total
    assert all(0 <= b - a <= 16 for a, b in zip(now, later, strict=True))
    for n, w in zip(now, weights, strict=True):
        share = Fraction(w, sum(weights))
        assert abs(n - share * total) <= Fraction(1, 2) + share * len(weights) / 2


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"mix": "proportional"}, {"large": 120, "small": 30, "single": 10}),
        ({"mix": "temperature", "temperature": 1e9}, {"large": 54, "small": 53, "single": 53}),
        ({"mix": "sqrt"}, {"large": 89, "small": 45, "single": 26}),
    ],
)
def test_a_mix_gives_each_dataset_its_share(base, data, expected):
    steps = mixture(base, {"large": None, "small": None, "single": None}, batch=4, **data)
    seen = Counter()
    for step in range(40):
        batches = steps[step]
        assert sum(len(b.ids) for b in batches) == 4
        assert all(b.ids for b in batches)
        seen.update({b.space.name: len(b.ids) for b in batches})
    assert seen == expected
    assert dict(zip(seen, steps.images_before(40), strict=True)) == expected


@pytest.mark.parametrize("world", [1, 4])
def test_a_batch_knows_how_many_images_its_dataset_has_in_a_step_on_average(base, world):
    m = mixture(base, {"large": None, "small": None, "single": None}, mix="proportional", batch=8, world=world)
    assert m.expected == pytest.approx([8 * 12 / 16, 8 * 3 / 16, 8 / 16])
    assert [n / 320 for n in m.images_before(320)] == pytest.approx(m.expected)
    assert {b.space.name: b.expected for b in m[0]}["large"] == pytest.approx(6)
    assert mixture(base, {"large": 4, "small": 8}, world=world).expected == [4, 8]


def test_a_dataset_without_a_share_in_a_step_is_left_out(base):
    steps = mixture(base, {"large": None, "single": None}, mix="proportional", batch=2)
    assert {len(steps[s]) for s in range(13)} == {1, 2}


def test_the_mix_is_described(base):
    steps = mixture(base, {"large": 3, "small": {"per_step": 1, "crop": [4, 6], "flip": 0.0}}, max_share=1.0)
    large, small = steps.describe(100)
    assert large[:6] == ("large", 12, 3.0, 0.75, 25.0, (8, 8))
    assert small[:6] == ("small", 3, 1.0, 0.25, 100 / 3, (4, 6))
    assert "flip 0.5" in large.augmentation
    assert "flip" not in small.augmentation


# The loader.


def rare(base, name="rare", images=10):
    """Write a dataset in which class high is in image 3 alone, as a corner of 4 of its 192 pixels."""
    if not (base / f"{name}.toml").exists():
        write(base, name, images)
        for i in range(images):
            mask = np.zeros((12, 16), np.uint8)
            mask[:2, :2] = i == 3
            Image.fromarray(mask).save(base / name / f"masks/{i:02d}.png")


def test_images_of_a_rare_class_are_drawn_more_often_and_cropped_to_it(base):
    rare(base)
    steps = mixture(base, {"rare": 5}, class_temperature=1e9, flip=0, scale=[1, 1])
    epochs = [[b for s in (2 * e, 2 * e + 1) for b in steps[s]] for e in range(3)]
    for epoch in epochs:
        # Half of the ten draws are for the class, and image 3 may be one of those for the other class, too.
        drawn = Counter(i for batch in epoch for i in batch.ids)
        assert sum(drawn.values()) == 10
        assert 5 <= drawn["03"] <= 6
        assert max(n for i, n in drawn.items() if i != "03") == 1
        for batch in epoch:
            for i, labels in zip(batch.ids, batch.annotation.labels, strict=True):
                assert i == "03" or not (labels == 1).any()
    crops = [image for e in epochs for b in e for i, image in zip(b.ids, b.image, strict=True) if i == "03"]
    assert len({c.numpy().tobytes() for c in crops}) == len(crops)
    # The crop of 8 x 8 pixels shows the corner in 3 of 45 places.
    shown = [(x == 1).any().item() for e in epochs for b in e for x in b.annotation.labels]
    assert sum(shown) > len(crops) / 3


def test_a_walk_by_class_depends_neither_on_ranks_nor_on_where_it_begins(base):
    rare(base)
    data = {"class_temperature": 2.0}
    whole = mixture(base, {"rare": 4, "large": {"per_step": 2, "class_temperature": 1}}, **data)
    parts = [mixture(base, {"rare": 4, "large": 2}, rank=r, world=2, **data) for r in range(2)]
    for step in (7, 0, 3):
        ranks = [ids(part[step])["rare"] for part in parts]
        assert [i for pair in zip(*ranks, strict=True) for i in pair] == ids(whole[step])["rare"]
    plain = mixture(base, {"large": 2})
    assert equal(plain[5], [b for b in whole[5] if b.space.name == "large"])
    again = mixture(base, {"rare": 4}, **data)
    assert equal(again[3], [b for b in whole[3] if b.space.name == "rare"])


def test_labels_are_counted_once_and_at_temperature_1_not_at_all(base, monkeypatch):
    rare(base, "counted")
    counted = []
    read = Folder.found
    monkeypatch.setattr(Folder, "found", lambda self, i: counted.append(i) or read(self, i))
    mixture(base, {"counted": 1}).count()
    assert counted == []
    mixture(base, {"counted": 1}, class_temperature=4).count()
    assert sorted(files.id for files in counted) == [f"{i:02}" for i in range(10)]
    mixture(base, {"counted": 1}, class_temperature=9).count()
    assert len(counted) == 10


@forks
def test_any_number_of_workers_gives_the_same_tensors(base):
    steps = mixture(base, {"large": 3, "small": 2}, blur=0.5)
    alone, two = (list(steps.loader(0, 7, workers=w)) for w in (0, 2))
    assert len(alone) == len(two) == 7
    assert all(equal(a, b) for a, b in zip(alone, two, strict=True))


def test_a_resumed_loader_goes_on_as_if_nothing_had_happened(base):
    data = {"mix": "sqrt", "batch": 4}
    whole = list(mixture(base, {"large": None, "small": None}, **data).loader(0, 10))
    tail = list(mixture(base, {"large": None, "small": None}, **data).loader(5, 10))
    assert all(equal(a, b) for a, b in zip(whole[5:], tail, strict=True))


def test_a_loader_of_no_step_is_empty(base):
    assert list(mixture(base, {"large": 1}).loader(4, 4)) == []


# Bad files.


@pytest.fixture
def broken(tmp_path):
    write(tmp_path, "street", 6)
    (tmp_path / "street/images/02.png").write_bytes(b"not an image")
    (tmp_path / "street/masks/04.png").unlink()
    return tmp_path


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_an_error_that_names_it_in_one_line(broken, workers):
    with pytest.raises(UserError, match=r"street/(images/02|masks/04)\.png") as e:
        list(mixture(broken, {"street": 2}).loader(0, 3, workers=workers))
    assert "\n" not in str(e.value)


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_can_be_skipped_counted_and_reported(broken, workers, caplog):
    steps = mixture(broken, {"street": 2}, on_bad_file="skip")
    assert steps.skipped() == []
    with caplog.at_level(logging.WARNING):
        read = list(steps.loader(0, 6, workers=workers))
    seen = Counter(i for (batch,) in read for i in batch.ids)
    assert sum(seen.values()) == 12
    assert set(seen) == {"00", "01", "03", "05"}
    assert steps.skipped() == [("street", "02"), ("street", "04")]
    if not workers:
        assert sorted("masks/04" in r.getMessage() for r in caplog.records) == [False, True]
    again = mixture(broken, {"street": 2}, on_bad_file="skip")
    assert equal(again[4], read[4])


def test_a_stand_in_for_a_bad_file_is_cropped_in_its_own_way_as_it_may_meet_itself(tmp_path):
    write(tmp_path, "pair", 2)
    (tmp_path / "pair/images/00.png").write_bytes(b"not an image")
    (batch,) = mixture(tmp_path, {"pair": 2}, on_bad_file="skip")[0]
    assert batch.ids == ("01", "01")
    assert not torch.equal(*batch.image)


def test_a_dataset_of_bad_files_only_is_an_error_even_when_they_are_skipped(broken):
    for file in (broken / "street/images").iterdir():
        file.write_bytes(b"")
    steps = mixture(broken, {"street": 2}, on_bad_file="skip")
    with pytest.raises(UserError, match=r"'street': 6 files in a row are bad.*images/0\d\.png"):
        steps[0]


@forks
def test_an_error_comes_in_the_step_that_it_belongs_to(broken):
    steps = mixture(broken, {"street": 1})
    found = {}
    for workers in (0, 2):
        done = []
        with pytest.raises(UserError) as e:
            done.extend(steps.loader(0, 6, workers=workers))
        found[workers] = [b.ids for (b,) in done], str(e.value)
    assert found[0] == found[2]
    assert len(found[0][0]) > 0


# Options.


def test_a_dataset_replaces_the_augmentation_that_it_names(base):
    data = options({"large": 1, "small": {"per_step": 1, "crop": [4, 6], "jitter": {"hue": 0.1}}}, scale=[1, 1])
    large, small = (data.augment(s) for s in data.sets)
    assert (large.crop, large.scale) == ((8, 8), (1, 1))
    assert (small.crop, small.scale, small.jitter.hue) == ((4, 6), (1, 1), 0.1)
    shapes = [b.image.shape[2:] for b in Mixture.open(data, base, seed=0)[0]]
    assert shapes == [(8, 8), (4, 6)]


def test_options_written_and_read_back_mean_the_same():
    data = options({"large": 1, "small": {"per_step": 1, "flip": 0.0}}, scale=[1, 1])
    table = data.model_dump(mode="json", exclude_none=True)
    assert "scale" not in table["sets"][1]
    again = DataOptions.model_validate(table)
    assert again == data
    assert [again.augment(s) for s in again.sets] == [data.augment(s) for s in data.sets]


def test_an_annotation_can_be_weakened_for_training(base):
    (batch,) = mixture(base, {"large": {"per_step": 2, "annotation": "tags"}})[0]
    assert batch.annotation.classes.tolist() == [[0, 1], [0, 1]]


def test_the_smallest_table_is_enough(base):
    sets = [{"card": "large.toml", "root": "large", "per_step": 2}]
    data = DataOptions.model_validate(
        {"crop": [96, 128], "sets": sets, "unseen": [{"card": "small.toml", "root": "small"}]}
    )
    assert len(data.unseen[0].open_eval(base)) == 3
    assert len(data.sets[0].open_eval(base)) == len(data.sets[0].open_train(base)) == 12


def test_a_card_may_be_a_built_in_name(base):
    data = options({"no such card": 1})
    with pytest.raises(UserError, match="there is no such card"):
        Mixture.open(data, base, seed=0)


def test_a_crop_of_one_number_is_a_square():
    found = options({"large": {"per_step": 1, "crop": 6}, "small": 1}, crop=12)
    assert (found.crop, found.sets[0].crop) == ((12, 12), (6, 6))
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        options({"large": 1}, crop=0)
    with pytest.raises(ValidationError, match="crop"):
        options({"large": 1}, crop=True)


@pytest.mark.parametrize(
    ("sets", "data", "message"),
    [
        ({}, {}, "at least 1"),
        ({"large": None, "small": 1}, {}, "has no per_step"),
        ({"large": 2}, {"batch": 4}, "batch is the sum"),
        ({"large": None}, {"mix": "sqrt"}, "needs batch"),
        ({"large": 2}, {"mix": "sqrt", "batch": 4}, "has per_step; remove it"),
        ({"large": None}, {"mix": "temperature", "batch": 4}, "temperature goes with"),
        ({"large": 2}, {"temperature": 2.0}, "temperature goes with"),
        ({"large": 0}, {}, "greater than 0"),
        ({"large": {"per_step": 1, "crops": 3}}, {}, "crops"),
        ({"large": 1}, {"unseen": [{"card": "a", "root": "b", "per_step": 1}]}, "per_step"),
    ],
)
def test_options_that_contradict_each_other_are_an_error(sets, data, message):
    with pytest.raises(ValidationError, match=message):
        options(sets, **data)


@forks
def test_a_worker_that_dies_names_the_file_that_it_had_in_hand_and_none_reads_it_as_advised(world, monkeypatch):
    def die(self, index):
        os.kill(os.getpid(), signal.SIGKILL)

    options = DataOptions(
        sets=[{"card": str(world.cards["fine"]), "root": str(world.folder / "fine"), "per_step": 1}], workers=1
    )
    mixture = Mixture.open(options, Path(), seed=0)
    monkeypatch.setattr(type(mixture.folders[0]), "annotated", die)
    index = int(mixture._walk(0, 0).images[0])
    name = re.escape(mixture.folders[0].image_path(index).name)
    with pytest.raises(UserError, match=rf"a process that reads images died .*had in hand: .*{name}; check them"):
        next(mixture.loader(0, 2))
    monkeypatch.undo()  # What only a worker has no memory for.
    assert next(Mixture.open(options.model_copy(update={"workers": 0}), Path(), seed=0).loader(0, 2))
