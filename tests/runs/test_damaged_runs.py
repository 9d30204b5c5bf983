"""A run folder that is damaged, edited or of another's making: what is wrong is named, what can be recovered is."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_recipe

from manyseg import atomic
from manyseg.errors import UserError
from manyseg.relate.statistics import Statistics
from manyseg.report.compare import compare
from manyseg.report.page import write_report
from manyseg.runs.run import Run, train_recipe
from manyseg.training import checkpoint, loop


@pytest.fixture(scope="module")
def recipe(world):
    path = world.folder / "damaged.toml"
    path.write_text(tiny_recipe("fine", "coarse", method="union", steps=3, log_every=1, checkpoint_every=1))
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A finished run."""
    return train_recipe(recipe, out=tmp_path_factory.mktemp("whole") / "run", check=False)


@pytest.fixture(scope="module")
def stopped(recipe, tmp_path_factory):
    """A run that was stopped after two steps."""
    out, update = tmp_path_factory.mktemp("stopped") / "run", loop._Stage._update

    def stop(self, draws):
        if self.step == 2:
            raise KeyboardInterrupt
        update(self, draws)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Stage, "_update", stop)
        with pytest.raises(KeyboardInterrupt):
            train_recipe(recipe, out=out, check=False)
    return out


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def reverse(path):
    path.write_text(json.dumps(json.loads(path.read_text())[::-1]))


def use(run):
    found = Run.open(run)
    return found.load_model(), found.taxonomy


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("recipe.toml", flip),
        ("recipe.toml", lambda p: p.write_bytes(b"")),
        ("spaces.json", flip),
        ("spaces.json", reverse),
        ("spaces.json", Path.unlink),
        ("taxonomy.tsv", flip),
        ("taxonomy.tsv", Path.unlink),
    ],
)
def test_every_file_that_a_model_needs_is_as_the_run_wrote_it_or_named(run, name, damage):
    use(run)
    damage(run / name)
    with pytest.raises(UserError) as e:
        use(run)
    state = "is not as the run wrote it" if (run / name).exists() else "is missing"
    assert str(e.value).startswith(f"{run / name}: {state}: damaged or edited; restore it, or remove ")


def test_the_advice_to_take_a_folder_as_it_is_works(run):
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(text + "# mine\n")
    with pytest.raises(UserError, match=f"or remove {run}/manifest.json to take all files as they are"):
        use(run)
    (run / "manifest.json").unlink()
    use(run)
    (run / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json: damaged .*; remove it to take the run's files as they are"):
        use(run)


JUNK = [None, [], {}, 0, "x", {"sha256": {}}, {"sha256": {}, "state": {}}, {"sha256": {}, "state": {}, "own_sha256": 1}]


@pytest.mark.parametrize("content", [*map(json.dumps, JUNK), "", "{", "[" * 100_000, b"\xff\xfe\x00\xd8"])
def test_a_state_of_another_form_is_named(run, content):
    path = run / "best/state.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"^.*best/state\.json: damaged \(\w+\); train the run again$"):
        use(run)


@pytest.mark.parametrize(
    "change", [("state", "step", 9), ("state", "stage", "x"), ("sha256", "model.safetensors", "0")]
)
def test_a_state_that_was_changed_is_named(run, change):
    table, key, value = change
    path = run / "best/state.json"
    record = json.loads(path.read_text())
    record[table][key] = value
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"best/state\.json: damaged"):
        use(run)


def test_weights_that_are_no_tensors_or_no_numbers_are_named(run):
    tensors = checkpoint.read(run / "best").tensors("model")
    name = next(k for k, v in tensors.items() if v.is_floating_point())
    tensors[name][...] = math.nan
    checkpoint.write(run / "best", {"model": tensors}, {"stage": "train"})
    with pytest.raises(UserError, match=rf"best: 1 of \d+ weights are not finite, the first is {name}"):
        use(run)
    for content in (b"", b"\xff" * 8, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"):
        (run / "best/model.safetensors").write_bytes(content)
        record = {"sha256": {"model.safetensors": checkpoint._sum(run / "best/model.safetensors")},
                  "state": {"stage": "train"}}  # fmt: skip
        text = json.dumps({**record, "own_sha256": checkpoint._own_sum(record)})
        (run / "best/state.json").write_text(text)
        with pytest.raises(
            UserError, match=r"best(/model.safetensors: not a file of tensors|: the weights do not fit)"
        ):
            use(run)


@pytest.mark.parametrize("name", ["recipe.toml", "spaces.json", "environment.json",
                                  "checkpoint/state.json", "checkpoint/optimizer.safetensors"])  # fmt: skip
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda p: p.write_bytes(b"")], ids=["flip", "gone", "empty"])
def test_a_stopped_run_recovers_what_is_damaged_and_goes_on(recipe, whole, stopped, tmp_path, name, damage):
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    damage(run / name)
    train_recipe(recipe, out=run, resume=True, check=False)
    use(run)
    for part in ("best/model.safetensors", "scores.json", "recipe.toml", "spaces.json", "taxonomy.tsv"):
        assert (run / part).read_bytes() == (whole / part).read_bytes(), part
    losses = [
        [line.get("losses") for line in map(json.loads, (r / "metrics.jsonl").read_text().splitlines())]
        for r in (run, whole)
    ]
    assert losses[0] == losses[1]


def test_a_damaged_recipe_is_not_recovered_from_another_one(recipe, stopped, tmp_path):
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    flip(run / "recipe.toml")
    with pytest.raises(UserError, match=r"recipe\.toml: is not as the run wrote it"):
        train_recipe(recipe, out=run, resume=True, check=False, overrides=["train.lr=0.5"])


VALUES = [None, [], "x", -1, 1e400, {"a": []}, [[1]], "9" * 400]


@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.json", "environment.json"])
def test_a_report_tells_what_it_leaves_out(run, name):
    """Any value of another kind, anywhere."""
    path = run / name
    text = path.read_text()
    entries = [json.loads(t) for t in (text.splitlines() if name == "metrics.jsonl" else [text])]

    def places(value, at=()):
        yield at
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in list(items)[:3]:
            yield from places(inner, (*at, key))

    for n, at in enumerate(list(places(entries))):
        tree = json.loads(json.dumps(entries))
        junk = VALUES[n % len(VALUES)]
        if at:
            node = tree
            for key in at[:-1]:
                node = node[key]
            node[at[-1]] = junk
        else:
            tree = [junk]
        path.write_text("\n".join(map(json.dumps, tree)))
        compare([run]).to_markdown()
        if n % 20 == 0:
            write_report(run)
    for content in (b"", b"[" * 100_000, b"\xff\xfe\x00", b"null\n1\n{}\n"):
        path.write_bytes(content)
        compare([run]).to_markdown()
        write_report(run)


@pytest.mark.parametrize("name", ["confusion.npz", "statistics.npz"])
def test_an_archive_whose_content_is_damaged_is_named(run, tmp_path, name):
    path = run / name
    arrays = {"meta": np.array('{"key": "k", "pairs": [], "pixels": [], "sums": []}'), "a": np.arange(4000) % 7}
    np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    for at in range(40, len(content), 97):
        damaged = content.copy()
        damaged[at : at + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(damaged)
        if name == "confusion.npz":
            compare([run]).to_markdown()
        else:
            try:
                Statistics.load(path)
            except UserError as e:
                assert str(path) in str(e)  # noqa: PT017  # some bytes are of no importance


def test_tensors_of_a_checkpoint_are_found_or_named(tmp_path):
    checkpoint.write(tmp_path / "c", {"model": {"w": torch.ones(2)}}, {})
    with pytest.raises(UserError, match=r"c/optimizer\.safetensors: not a file of tensors"):
        checkpoint.read(tmp_path / "c").tensors("optimizer")


def test_what_a_killed_process_had_begun_to_write_is_gone_when_the_run_goes_on(recipe, stopped, tmp_path):
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    left = [run / f"{atomic.PREFIX}1", run / f"samples/{atomic.PREFIX}2", run / "best.writing/model.safetensors"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    train_recipe(recipe, out=run, resume=True, check=False)
    assert not [p for p in run.rglob("*") if "writing" in p.name]
