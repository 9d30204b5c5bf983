"""A run goes on from another one's weights: unchanged, with its table corrected, with a dataset or a class more."""

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_recipe

from manyseg.config import read_toml
from manyseg.errors import UserError
from manyseg.runs.recipe import read_recipe
from manyseg.runs.run import Run, train_recipe
from manyseg.runs.start import Start
from manyseg.training import checkpoint


@pytest.fixture(scope="module")
def before(world, tmp_path_factory):
    """A run of two datasets, each class a node of its own."""
    recipe = world.folder / "before.toml"
    recipe.write_text(tiny_recipe("fine", "coarse", steps=2, lr=1e-2, log_every=1))
    return train_recipe(recipe, out=tmp_path_factory.mktemp("runs") / "before", check=False)


def train(world, before, tmp_path, *names, overrides=(), **options):
    path = world.folder / f"{tmp_path.name}.toml"
    path.write_text(tiny_recipe(*names, **{"steps": 1, "log_every": 1} | options))
    return train_recipe(path, out=tmp_path / "after", start=before, overrides=overrides, check=False)


def losses(run: Path):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["losses"] for line in lines if "losses" in line]


def first_loss(run: Path, start: Path):
    """Compute the loss of the first step of `run` on the last weights of `start`."""
    from manyseg.data.mixture import Mixture

    opened = Run.open(run)
    method = Run.open(start).load_model("last").train()
    mixture = Mixture.open(opened.recipe.data, opened.recipe.base, seed=opened.recipe.seed)
    return {name: value.item() for name, value in method(mixture[0]).items()}


def test_the_first_loss_is_that_of_the_last_weights(world, before, tmp_path, capsys):
    after = train(world, before, tmp_path, "fine", "coarse")
    assert losses(after)[0] == pytest.approx(first_loss(after, before), rel=1e-5)
    said = capsys.readouterr().out
    labels = sum(map(len, Run.open(before).spaces))
    assert f"going on from the last weights of {before}: {labels} labels go on; all " in said
    # The path is the run's own.
    assert f"{before.parent.name}/before) and after, IoU in per cent:" in said
    assert "| fine | " in said.partition("and after, IoU in per cent:")[2]
    assert 'id="change"' in (after / "report.html").read_text()
    assert (after / "files/before.json").read_bytes() == (before / "scores.json").read_bytes()
    assert Path(after, read_toml(after / "recipe.toml")["start"]).resolve() == before.resolve()
    # It needs nothing of the run before to predict.
    assert Run.open(after).load_model().taxonomy.spaces == Run.open(before).spaces


def test_its_table_is_corrected_and_given_back(world, before, tmp_path, capsys):
    rows = (before / "taxonomy.tsv").read_text().splitlines()
    header, nodes = rows[0].split("\t"), [row.split("\t") for row in rows[1:]]
    one = next(row for row in nodes if row[1])
    other = next(row for row in nodes if row[2])
    nodes.remove(other)
    one[2] = other[2]
    table = tmp_path / "corrected.tsv"
    table.write_text("\n".join("\t".join(row) for row in [header, *nodes]) + "\n")
    after = train(world, before, tmp_path, "fine", "coarse", method="manual", overrides=[f"method.taxonomy={table}"])
    assert f"labels go on, 1 of them joined from several ({one[0]}); all " in capsys.readouterr().out
    assert (after / "taxonomy.tsv").read_text() == table.read_text()


def test_a_dataset_more_is_told_and_what_was_known_goes_on(world, before, tmp_path, capsys):
    after = train(world, before, tmp_path, "partial", "fine", "coarse")
    said = capsys.readouterr().out
    new = len(Run.open(after).spaces[0])
    assert f", {new} new (" in said
    expected = first_loss(before, before)
    own = {name: value for name, value in losses(after)[0].items() if not name.startswith("partial")}
    # Statistics of the batch norms are of more images now.
    assert own.keys() == expected.keys()
    assert own == pytest.approx(expected, rel=0.2)
    table = said.partition("and after, IoU in per cent:")[2]
    assert "| fine | " in table
    assert "| partial | " not in table


def test_it_is_resumed_without_taking_the_weights_over_again(world, before, tmp_path, capsys):
    path = world.folder / "resumed.toml"
    path.write_text(tiny_recipe("fine", "coarse", steps=2, log_every=1, eval_every=1))
    out = tmp_path / "after"
    train_recipe(path, out=out, start=before, check=False)
    (out / "report.html").unlink()
    capsys.readouterr()
    train_recipe(path, out=out, start=before, check=False, resume=True)
    assert "going on from" not in capsys.readouterr().out
    (out / "report.html").unlink()
    with pytest.raises(UserError, match="changed are: start"):
        train_recipe(path, out=out, check=False, resume=True)


def test_stages_that_only_lead_to_the_model_are_left_out(world, before, tmp_path):
    recipe = tmp_path / "nodes.toml"
    text = tiny_recipe("fine", "coarse", method="unified_nodes", root=None, steps=10)
    recipe.write_text(text)
    plain = read_recipe(recipe, [f"method.init={before / 'taxonomy.tsv'}"])
    kind = plain.stages[1].kind
    assert [s.name for s in plain.stages] == ["heads", "nodes"]
    going_on = plain.going_on(plain, kind, "run")
    assert [(s.name, s.train.steps, s.train.before) for s in going_on.stages] == [("nodes", 10, 0)]
    # A label space that is read from the heads' confusions needs them.
    confusion = read_recipe(recipe)
    assert [s.name for s in confusion.going_on(confusion, kind, "run").stages] == ["heads", "nodes"]


def test_the_network_is_the_runs_where_none_is_named_and_another_one_is_an_error(world, before):
    text = tiny_recipe("fine", "coarse")
    path = world.folder / "network.toml"
    path.write_text(f"start = {str(before)!r}\n" + text.replace("channels = 8", "channels = 16"))
    recipe = read_recipe(path)
    with pytest.raises(UserError, match=r"model.channels is 16, that of .*before 8; go on with the same network"):
        Start.of(recipe, Path("elsewhere")).fitted(recipe)
    path.write_text(f"start = {str(before)!r}\n" + text.partition("[model]")[0] + "[train]\nsteps = 1\n")
    recipe = read_recipe(path)
    fitted = Start.of(recipe, Path("elsewhere")).fitted(recipe)
    assert (fitted.model["backbone"], fitted.model["channels"]) == ("tiny", 8)


def test_a_run_is_not_its_own_start_and_what_is_no_run_is_said(world, before):
    path = world.folder / "none.toml"
    path.write_text(tiny_recipe("fine", "coarse"))
    with pytest.raises(UserError, match="cannot start from itself"):
        train_recipe(path, out=before, start=before)
    with pytest.raises(UserError, match="no run is there"):
        train_recipe(path, out=before.parent / "x", start=before.parent / "nothing")


def test_the_best_weights_are_taken_where_there_are_no_others(before, tmp_path, world):
    import shutil

    copy = tmp_path / "packed"
    shutil.copytree(before, copy)
    shutil.rmtree(copy / "checkpoint")
    path = world.folder / "packed.toml"
    path.write_text(f"start = {str(copy)!r}\n" + tiny_recipe("fine", "coarse"))
    recipe = read_recipe(path)
    start = Start.of(recipe, tmp_path / "out")
    assert start.which == "best"
    saved = checkpoint.read(copy / "best").tensors("model")
    method = Run.open(before).load_model()
    for parameter in method.parameters():
        torch.nn.init.zeros_(parameter)
    assert start.give(method).startswith(f"going on from the best weights of {copy}: ")
    assert all(torch.equal(value.cpu(), saved[name]) for name, value in method.state_dict().items())
