"""Which planted relations UniSeg mines on the generated world: precision and recall of both rules, and conflicts.

    python benchmarks/relations_world.py --seeds 3          some two minutes a seed on two cores

Trains `uniseg` on three datasets whose labels disagree (`manyseg.data.world`). A class is part of a node if all its
concepts are among those of every class that the node stands for. Then: the share of classes and batches on which the
datasets' gradients oppose, under each loss at the same weights.
"""

import argparse
import tempfile
from pathlib import Path

from manyseg.data.world import DATASETS, write_world
from manyseg.evaluation.gradient_conflict import conflicts_markdown
from manyseg.relate import mine_calibrated, mine_published
from manyseg.relate.statistics import Statistics
from manyseg.runs.run import Run, train_recipe
from manyseg.runs.trained import conflicts_run

RECIPE = """
seed = {seed}
[data]
crop = [96, 128]
scale = [0.8, 1.4]
workers = 1
sets = [
    {{ card = "fine.toml", root = "fine", per_step = 2, statistics_split = "train" }},
    {{ card = "coarse.toml", root = "coarse", per_step = 2, statistics_split = "train" }},
    {{ card = "partial.toml", root = "partial", per_step = 2, statistics_split = "train" }},
]
[model]
backbone = "tiny"
pretrained = false
channels = 48
[method]
name = "uniseg"
[train]
steps = {steps}
lr = 5e-3
backbone_lr_factor = 1.0
"""


def planted(taxonomy):
    nodes = taxonomy.unified.names
    inside = [set.intersection(*(set(DATASETS[d][n]) for d, n in taxonomy.members(u))) for u in range(len(nodes))]
    return {
        (space.name, label, nodes[u])
        for space in taxonomy.spaces
        for label, row in zip(space.names, taxonomy.relations[space.name], strict=True)
        for u in range(len(nodes))
        if set(DATASETS[space.name][label]) <= inside[u] and not row[u]
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as place:
        world = write_world(Path(place) / "world", train=60, val=20)
        for seed in range(options.seeds):
            recipe = world.folder / "uniseg.toml"
            recipe.write_text(RECIPE.format(seed=seed, steps=options.steps))
            run = train_recipe(recipe, out=Path(place) / f"run{seed}")
            taxonomy = Run.open(run).taxonomy
            statistics = Statistics.load(run / "stages" / "null" / "statistics.npz")
            means = {s.name: statistics.mean(s.name) for s in taxonomy.spaces}
            true = planted(taxonomy)
            for rule, found in (
                ("published", mine_published(taxonomy, means)),
                ("calibrated", mine_calibrated(taxonomy, means)),
            ):
                mined = {r[:3] for r in found}
                good, wrong = len(mined & true), sorted(mined - true)
                lines.append(
                    f"seed {seed}  {rule:10}  precision {good / max(len(mined), 1):.2f} ({good} of {len(mined)})  "
                    f"recall {good / len(true):.2f} (of {len(true)})  invented: "
                    + ("; ".join(f"{d}:{c} in {n}" for d, c, n in wrong) or "none")
                )
            lines.append(conflicts_markdown(conflicts_run(run, steps=30)))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
