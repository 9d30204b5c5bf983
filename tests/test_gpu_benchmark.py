"""The benchmark for a GPU does all of its work on the CPU too, with tiny numbers, so that it works the first time."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

from manyseg.methods import METHODS
from manyseg.models import PixelEncoder

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu.py"

RECIPE = """
[data]
crop = [32, 32]
sets = [
    {{ card = "{folder}/fine.toml", root = "fine", per_step = 1 }},
    {{ card = "{folder}/coarse.toml", root = "coarse", per_step = 1 }},
]
[model]
backbone = "tiny"
pretrained = false
channels = 8
[train]
log_every = 1
"""


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def run(gpu, out, parts, *more):
    status = gpu.main(["--tiny", "--out", str(out / "gpu.md"), "--parts", parts, *more])
    found = json.loads((out / "gpu.json").read_text())
    assert status == 0, found
    return found, (out / "gpu.md").read_text()


def test_every_method_takes_a_step_and_is_set_against_the_bare_one(gpu, tmp_path):
    found, table = run(gpu, tmp_path, "steps", "--settings", "bf16")
    rows = {what: values for what, _, values in found["steps"]}
    assert list(rows) == ["bare", *METHODS]
    assert all(math.isfinite(v["images/s"]) and v["of bare"] > 0 for v in rows.values())
    assert rows["bare"]["of bare"] == 1
    assert "| htss | bf16 |" in table


def test_a_step_is_measured_in_every_setting(gpu, tmp_path, monkeypatch):
    # torch cannot trace what checks the shapes of arrays while tests run.
    compiled = []
    monkeypatch.setattr(PixelEncoder, "compile", lambda self, **options: compiled.append(options))
    found, _ = run(gpu, tmp_path, "steps", "--methods", "multihead")
    assert [row[:2] for row in found["steps"]] == [[what, s] for s in gpu.SETTINGS for what in ("bare", "multihead")]
    assert compiled == [{"backend": "eager"}] * 2


def test_evaluation_prediction_matching_and_rounding_are_timed(gpu, tmp_path):
    found, _ = run(gpu, tmp_path, "waits,inference,matching,rounding")
    assert found["waits"] == []  # On a CPU nothing can be waited for.
    assert [len(found[part]) for part in ("inference", "matching", "rounding")] == [8, 1, 1]


def test_an_exported_network_is_timed_where_there_is_a_runtime(gpu, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found, _ = run(gpu, tmp_path, "onnx")
    assert found["onnx"][0][2]["images/s"] > 0


def test_runs_are_trained_side_by_side_and_scored(gpu, tmp_path, world):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=world.folder.as_posix()))
    more = ["--recipe", str(recipe), "--data-root", str(world.folder), "--steps", "2", "--seeds", "1"]
    found, _ = run(gpu, tmp_path, "training", *more)
    assert [(what, setting, values["steps"]) for what, setting, values in found["training"]] == [
        ("multihead", "seed 0", 2),
        ("joint", "seed 0", 2),
    ]
    assert all(0 <= values["mIoU"] <= 1 for _, _, values in found["training"])


def test_a_part_that_fails_is_named_and_the_next_one_is_measured(gpu, tmp_path, monkeypatch):
    def broken(bench):
        raise RuntimeError("no such kernel")
        yield

    monkeypatch.setitem(gpu.PARTS, "rounding", broken)
    assert gpu.main(["--tiny", "--out", str(tmp_path / "gpu.md"), "--parts", "rounding,matching"]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["rounding"] == ["failed: RuntimeError: no such kernel"]
    assert len(found["matching"]) == 1


def test_without_time_all_parts_are_left_out(gpu, tmp_path):
    gpu.main(["--tiny", "--out", str(tmp_path / "gpu.md"), "--parts", "matching,rounding", "--minutes", "0"])
    assert "left out: no time is left" in (tmp_path / "gpu.md").read_text()
