"""Whatever stands in annotation files, cards and tables: success or an error in one line, in bounded memory.

`MANYSEG_EXAMPLES=2000 python -m pytest tests/data/test_any_input.py` tries more; docs/results.md has what that found.
"""

import copy
import json
import os
import re
import resource
import tomllib

import layouts
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyseg.config import to_toml
from manyseg.data.check import check
from manyseg.data.guess import guess
from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.relate import Constraints
from manyseg.relate.part_of import PartOf, part_of_tsv, read_part_of

EXAMPLES = int(os.environ.get("MANYSEG_EXAMPLES", "2"))
MEMORY = 300_000
"""Kilobytes by which the most that this process has ever used may grow: the images have 40 x 60 pixels."""

RECORDS = {
    "labelme": "*.json",
    "supervisely": "**/*.json",
    "yolo": "labels/**/*.txt",
    "yolo_boxes": "labels/**/*.txt",
    "cvat_images": "*.xml",
    "label_studio": "*.json",
    "polygon_json": "**/*.json",
    "coco": "**/*.json",
    "coco_panoptic": "**/*.json",
    "voc_boxes": "**/*.xml",
    "ade_full": "**/*.json",
    "roboflow_masks": "**/_classes.csv",
    "cvat_masks": "*.txt",
}
"""Layouts, and which files of them are changed."""

SPECIAL = [
    None, True, 0, -1, 1, 7, 2**31, 2**53, 2**63, 10**30, 1e308, -1e9, 1e-300, float("nan"), float("inf"), 0.5, 64.0,
    "64", "", " ", "NaN", "null", "../../x", "/etc/x", "a/b", "car", "road", "道路", "\ufeff", "\x00", "x" * 5000, [],
    {}, [[]], [[0, 0]], [1, 2, 3], [[0, 0, 9, 9]], [0] * 300, {"size": [60000, 60000], "counts": [1]},
]  # fmt: skip
VALUES = st.sampled_from(SPECIAL) | st.integers() | st.floats() | st.text(max_size=8)
settings.register_profile("any", max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Makes each layout once, with the card that is guessed for it."""
    made = {}

    def make(layout):
        if layout not in made:
            root = tmp_path_factory.mktemp(layout) / "set"
            getattr(layouts, layout)(root)
            card = root.parent / "card.toml"
            guess(root)[0].write(card)
            made[layout] = root, card
        return made[layout]

    return make


def places(tree, here=()):
    """List the ways to every value of a JSON tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [here, *(place for key, value in inner for place in places(value, (*here, key)))]


def changed_tree(draw, tree):
    """Replace, remove or repeat a value of a JSON tree."""
    tree = copy.deepcopy(tree)
    ways = [p for p in places(tree) if p]
    if not ways:
        return draw(VALUES)
    *way, key = draw(st.sampled_from(ways))
    node = tree
    for step in way:
        node = node[step]
    action = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
    if action == "replace":
        node[key] = draw(VALUES)
    elif action == "remove":
        del node[key]
    elif isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    else:
        node[str(draw(VALUES))[:50]] = copy.deepcopy(node[key])
    return tree


def changed_text(draw, text):
    """Replace a word, remove or repeat a line, cut the text off, or write it in another way."""
    lines = text.split("\n")
    action = draw(st.sampled_from(["word", "word", "word", "remove", "repeat", "cut", "utf-16", "latin-1", "bytes"]))
    if action == "word":
        words = list(re.finditer(r"[\w.#-]+", text)) or [re.match("", text)]
        word = draw(st.sampled_from(words))
        text = text[: word.start()] + str(draw(VALUES)) + text[word.end() :]
    elif action in ("remove", "repeat"):
        n = draw(st.integers(0, len(lines) - 1))
        text = "\n".join(lines[:n] + lines[n : n + 1] * (2 * (action == "repeat")) + lines[n + 1 :])
    elif action == "cut":
        text = text[: draw(st.integers(0, len(text)))]
    elif action == "bytes":
        return text.encode() + draw(st.binary(max_size=20))
    return text.encode(action if action in ("utf-16", "latin-1") else "utf-8", "replace")


def changed(draw, content, is_json):
    """Change a file once or a few times."""
    text = content.decode()
    if is_json and draw(st.booleans()):
        tree = json.loads(text)
        for _ in range(draw(st.integers(1, 3))):
            tree = changed_tree(draw, tree)
        return json.dumps(tree).encode("utf-8", "replace")
    return changed_text(draw, text)


def holds(work):
    """Say that `work` succeeds, or fails in one line, and needs no more than MEMORY."""
    before, said = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, ""
    try:
        work()
    except UserError as e:
        said = str(e)
    assert "\n" not in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


@pytest.mark.parametrize("layout", RECORDS)
@settings(settings.get_profile("any"))
@given(data=st.data())
def test_annotation_files(trees, layout, data):
    root, card = trees(layout)
    file = data.draw(st.sampled_from(sorted(root.glob(RECORDS[layout]))))
    before = file.read_bytes()
    try:
        file.write_bytes(changed(data.draw, before, file.suffix == ".json"))
        holds(lambda: check(card, root))
        holds(lambda: guess(root))
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("layout", ["grey", "color", "coco", "yolo", "labelme", "coco_panoptic", "cvat_images"])
@settings(settings.get_profile("any"))
@given(data=st.data())
def test_cards(trees, layout, data):
    root, card = trees(layout)
    before = card.read_bytes()
    try:
        if data.draw(st.booleans()):
            tree = changed_tree(data.draw, tomllib.loads(before.decode()))
            card.write_text(to_toml(tree) if isinstance(tree, dict) else str(tree), encoding="utf-8", errors="replace")
        else:
            card.write_bytes(changed_text(data.draw, before.decode()))
        holds(lambda: check(card, root))
    finally:
        card.write_bytes(before)


@settings(settings.get_profile("any"), max_examples=5 * EXAMPLES)
@given(data=st.data())
def test_tables(tmp_path_factory, data):
    spaces = [LabelSpace.of("a", ["road", "parked car"]), LabelSpace.of("b", ["road", "道路", "car"])]
    taxonomy = Taxonomy.by_name(spaces)
    part = part_of_tsv([PartOf("a", "road", taxonomy.unified.names[-1], 0.5, 0.25)])
    texts = {
        "t.tsv": (taxonomy.to_tsv(), lambda path: Taxonomy.read(path, spaces)),
        "c.toml": ('must_link = ["a:road = b:car"]\n', lambda path: Constraints.read(path, spaces)),
        "p.tsv": (part, lambda path: read_part_of(path, taxonomy)),
    }
    name = data.draw(st.sampled_from(sorted(texts)))
    text, read = texts[name]
    path = tmp_path_factory.mktemp("tables") / name
    path.write_bytes(changed_text(data.draw, text))
    holds(lambda: read(path))
