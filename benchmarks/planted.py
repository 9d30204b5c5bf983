"""How much of a planted label space a method finds, and its mIoU: on the demo's world and on one of other words.

    python benchmarks/planted.py --world second --steps 900 --seed 0 joint 'manual taxonomy="truth"'

Arguments are methods, each with its options as in a recipe; "truth" is the planted table. The second and the third
world have four datasets of other names and granularity, and their images are others. F1 is of pairs of classes that
share a node.
"""

import argparse
import json
import tempfile
from pathlib import Path

from manyseg.data.world import DATASETS, truth, write_world
from manyseg.demo import recipe_of_world
from manyseg.relate import agreement
from manyseg.runs.run import Run, train_recipe

SECOND = {
    "harbour": {
        "firmament": ("sky",), "house": ("building",), "plant": ("tree",),
        "ground": ("road", "lane marking", "sidewalk"),
        "motor vehicle": ("car", "truck"), "human": ("person",),
    },
    "survey": {
        "carriageway": ("road",), "marking": ("lane marking",), "pavement": ("sidewalk",),
        "obstacle": ("car", "truck", "person", "traffic cone"), "upright": ("building", "tree"),
    },
    "fleet": {"saloon": ("car",), "HGV": ("truck",), "roadway": ("road", "lane marking"), "pylon": ("traffic cone",)},
    "atlas": {
        "background": ("sky", "building"), "canopy": ("tree",), "tarmac": ("road",), "stripe": ("lane marking",),
        "footway": ("sidewalk",), "passenger car": ("car",), "freight": ("truck",), "walker": ("person",),
    },
    "unseen": {
        "sky": ("sky",), "buildings": ("building",), "trees": ("tree",), "road": ("road", "lane marking"),
        "sidewalk": ("sidewalk",), "cars": ("car",), "trucks": ("truck",), "persons": ("person",),
    },
}  # fmt: skip

# Written after the rules of `relate.inclusion` and never used to choose them.
THIRD = {
    "quay": {
        "heavens": ("sky",), "edifice": ("building",), "greenery": ("tree",), "asphalt": ("road",),
        "painted line": ("lane marking",), "footpath": ("sidewalk",), "vehicle": ("car", "truck"),
        "figure": ("person",), "bollard": ("traffic cone",),
    },
    "metro": {
        "surroundings": ("sky", "building", "tree"), "street": ("road", "lane marking", "sidewalk"),
        "automobile": ("car",), "lorry": ("truck",), "pedestrian": ("person",),
    },
    "orchard": {
        "clouds": ("sky",), "wood": ("tree",), "lane": ("road", "lane marking"), "kerbside": ("sidewalk",),
        "moving object": ("car", "truck", "person"), "fixed object": ("building", "traffic cone"),
    },
    "relay": {
        "facade": ("building",), "shrub": ("tree",), "roadbed": ("road",), "arrow": ("lane marking",),
        "coupe": ("car",), "van": ("truck",), "adult": ("person",),
    },
    "unseen": SECOND["unseen"],
}  # fmt: skip

WORLDS = {"demo": (DATASETS, 0), "second": (SECOND, 1), "third": (THIRD, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--world", choices=WORLDS, default="demo")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    labels, images = WORLDS[options.world]
    lines = []
    with tempfile.TemporaryDirectory() as place:
        world = write_world(Path(place) / "world", labels=labels, seed=images)
        for number, method in enumerate(options.methods):
            name, *rest = method.replace('"truth"', f'"{world.truth}"').split(maxsplit=1)
            recipe = Path(place) / f"{number}.toml"
            table = "\n".join([f'name = "{name}"', *rest])
            recipe.write_text(recipe_of_world(table, [*labels][:-1], options.steps, options.seed))
            folder = train_recipe(recipe, out=Path(place) / f"run{number}")
            found, scores = (
                agreement(Run.open(folder).taxonomy, truth(labels)),
                json.loads((folder / "scores.json").read_text()),
            )
            each = "  ".join(f"{n} {100 * d['miou']:.1f}" for n, d in scores["datasets"].items())
            lines.append(
                f"{method}: F1 {found.f1:.3f} (precision {found.precision:.2f}, recall {found.recall:.2f}), "
                f"mean of the seen {100 * scores['mean_miou_seen']:.1f}: {each}"
            )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
