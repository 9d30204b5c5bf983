"""Before they evaluate, processes have the same statistics of batch norms: those of the first one."""

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_recipe
from two_processes import two_processes

from manyseg.training import checkpoint

ROOT = Path(__file__).parents[2]

# What torchrun starts: a network with a batch norm, and what each process holds before, in and after an evaluation.
SCRIPT = """
import json, os, sys
import torch
from pathlib import Path
from torch import nn
from manyseg.models import tiny
from manyseg.runs import stages
from manyseg.runs.run import train_recipe
from manyseg.training import loop

torch.set_num_threads(1)
tiny.group_norm = nn.BatchNorm2d
out, rank = Path(sys.argv[1]), os.environ["RANK"]
seen, share, evaluate = [], loop._Stage._share_buffers, stages.Training._evaluate


def statistics(method):
    return [b.flatten().tolist() for n, b in method.named_buffers() if n.endswith(("running_mean", "batches_tracked"))]


def sharing(self):
    seen.append(statistics(self.method))
    share(self)


def evaluating(self, method):
    seen.append(statistics(method))
    found = evaluate(self, method)
    seen.append(found)
    return found


loop._Stage._share_buffers, stages.Training._evaluate = sharing, evaluating
train_recipe(sys.argv[2], out=out / "run")
(out / f"rank{rank}.json").write_text(json.dumps(seen))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """The run of two processes, and what each has seen at its two evaluations."""
    out = tmp_path_factory.mktemp("norms")
    recipe = world.folder / "norms.toml"
    recipe.write_text(tiny_recipe("fine", per_step=4, steps=4, eval_every=2, log_every=1))
    with two_processes(SCRIPT, out, out, recipe) as two:
        said, _ = two.communicate(timeout=200)
    assert two.returncode == 0, said
    (out / "said.txt").write_text(said)
    return out / "run", [json.loads((out / f"rank{r}.json").read_text()) for r in (0, 1)]


def test_processes_evaluate_with_the_first_ones_statistics_and_have_one_score(run):
    (first, second) = run[1]
    assert len(first) == len(second) == 6
    for at in (0, 3):
        (before, during, scores), (other, others, same) = first[at : at + 3], second[at : at + 3]
        assert before
        assert before != other  # On CPUs a process's norms see its own images.
        assert during == before == others
        assert scores == same


def test_the_weights_that_are_kept_have_the_statistics_that_were_evaluated(run):
    kept = checkpoint.read(run[0] / "best").tensors("model")
    means = [t.tolist() for n, t in kept.items() if n.endswith("running_mean")]
    evaluated = [[s for s in run[1][0][at] if len(s) > 1] for at in (1, 4)]
    assert any(torch.allclose(torch.tensor(means[0]), torch.tensor(e[0])) for e in evaluated)


def test_nothing_is_said_of_parameters_that_are_unused_in_no_step(run):
    assert "find_unused_parameters" not in (run[0].parent / "said.txt").read_text()
