"""A small generated street world with planted label conflicts, whose true unified label space is known.

Three cameras look at the same kind of street and label it differently; a fourth is kept unseen:

- `fine` labels every concept but the traffic cones, which it leaves unlabelled.
- `coarse` joins concepts, under a name that `fine` uses for less: its `road` includes the lane markings.
- `partial` renames classes, leaves most pixels unlabelled, and alone knows the traffic cones.
- `unseen` has names of its own and is never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from manyseg import atomic
from manyseg.data.files import write_image
from manyseg.labels import LabelClass, LabelSpace, Taxonomy

__all__ = ["CONCEPTS", "DATASETS", "World", "scene", "truth", "write_world"]

CONCEPTS = (
    "sky", "building", "tree", "road", "lane marking", "sidewalk", "car", "truck", "person", "traffic cone",
)  # fmt: skip
"""The true unified nodes, in order."""

THINGS = ("car", "truck", "person", "traffic cone")

Labels = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Classes of each dataset and the concepts that each is made of; the last dataset is unseen."""

DATASETS: Labels = {
    "fine": {name: (name,) for name in CONCEPTS if name != "traffic cone"},
    "coarse": {
        "sky": ("sky",),
        "scenery": ("building", "tree"),
        "road": ("road", "lane marking"),
        "sidewalk": ("sidewalk",),
        "vehicle": ("car", "truck"),
        "person": ("person",),
    },
    "partial": {
        "automobile": ("car",),
        "lorry": ("truck",),
        "pedestrian": ("person",),
        "foliage": ("tree",),
        "asphalt": ("road",),
        "road paint": ("lane marking",),
        "traffic cone": ("traffic cone",),
    },
    "unseen": {
        "sky": ("sky",),
        "buildings": ("building",),
        "trees": ("tree",),
        "road": ("road", "lane marking"),
        "sidewalk": ("sidewalk",),
        "cars": ("car",),
        "trucks": ("truck",),
        "persons": ("person",),
    },
}


@dataclass(frozen=True)
class Camera:
    """How a dataset's images look: colour cast, brightness, noise (0..1), height of the horizon, size of objects."""

    cast: tuple[float, float, float]
    gain: float
    noise: float
    horizon: float
    zoom: float


CAMERAS = (
    Camera((1.0, 1.0, 1.0), 1.0, 0.02, 0.45, 1.0),
    Camera((1.08, 1.0, 0.88), 0.85, 0.05, 0.38, 1.3),
    Camera((0.9, 0.98, 1.1), 1.1, 0.03, 0.5, 0.8),
    Camera((1.0, 0.95, 0.95), 0.95, 0.06, 0.42, 1.1),
    Camera((0.97, 1.04, 1.0), 1.05, 0.04, 0.47, 1.15),
)
"""The cameras of the datasets, in order."""


@dataclass(frozen=True)
class World:
    """Where `write_world` put things: the folder, one card a dataset, and the table of the true taxonomy."""

    folder: Path
    cards: dict[str, Path]
    truth: Path


def space(dataset: str, labels: Labels = DATASETS) -> LabelSpace:
    """Return the label space of one of the world's datasets."""
    return LabelSpace(
        dataset,
        tuple(LabelClass(name, thing=all(p in THINGS for p in parts)) for name, parts in labels[dataset].items()),
    )


def truth(labels: Labels = DATASETS) -> Taxonomy:
    """Return the planted taxonomy: one node a concept that any of the datasets but the last one labels."""
    datasets = list(labels)[:-1]
    members = {
        concept: [(d, label) for d in datasets for label, parts in labels[d].items() if concept in parts]
        for concept in CONCEPTS
    }
    used = {concept: group for concept, group in members.items() if group}
    return Taxonomy.from_groups([space(d, labels) for d in datasets], list(used.values()), list(used))


def scene(
    camera: Camera, size: tuple[int, int], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "H W"], Int[np.ndarray, "H W"]]:
    """Paint one street; return image, concept of every pixel (position in CONCEPTS), and instance (0 where none)."""
    h, w = size
    canvas = _Canvas(h, w, rng)
    horizon = int(h * (camera.horizon + rng.uniform(-0.05, 0.05)))
    canvas.region("sky", (0, 0, w, horizon), lambda y, x: (150 + 60 * y / h, 190 + 30 * y / h, 235 + 0 * x))
    _street(canvas, horizon)
    _backdrop(canvas, horizon)
    for depth in np.sort(rng.uniform(0.15, 0.9, rng.integers(3, 7))):
        _object(canvas, horizon, float(depth), camera.zoom)
    image = canvas.image * np.array(camera.cast) * camera.gain * rng.uniform(0.85, 1.1)
    image += rng.normal(0, 255 * camera.noise, (h, w, 1)) + rng.normal(0, 128 * camera.noise, (h, w, 3))
    return image.clip(0, 255).astype(np.uint8), canvas.concept, canvas.instance


class _Canvas:
    """An image being painted, with the concept and instance of every pixel."""

    def __init__(self, h: int, w: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.image = np.zeros((h, w, 3))
        self.concept = np.zeros((h, w), np.int64)
        self.instance = np.zeros((h, w), np.int64)
        self.y, self.x = np.mgrid[:h, :w]

    def paint(self, concept: str, where: np.ndarray, color: np.ndarray | tuple[float, ...], grain: float) -> None:
        noise = self.rng.normal(0, grain, (*where.shape, 1))
        self.image = np.where(where[..., None], np.asarray(color, float) + noise, self.image)
        self.concept[where] = CONCEPTS.index(concept)
        self.instance[where] = 0

    def region(
        self, concept: str, box: tuple[int, int, int, int], shade: Callable[..., tuple[np.ndarray, ...]]
    ) -> None:
        x0, y0, x1, y1 = box
        where = (self.x >= x0) & (self.x < x1) & (self.y >= y0) & (self.y < y1)
        self.paint(concept, where, np.stack(np.broadcast_arrays(*shade(self.y, self.x)), -1), 3)


def _street(canvas: _Canvas, horizon: int) -> None:
    """Sidewalk to the left and right, a road that narrows to the horizon, dashed lane markings."""
    h, w = canvas.concept.shape
    rng, y, x = canvas.rng, canvas.y, canvas.x
    depth = (y - horizon).clip(0) / (h - horizon)
    center = w * rng.uniform(0.4, 0.6)
    half = w * (0.06 + rng.uniform(0.3, 0.42) * depth)
    below = y >= horizon
    slab = ((x // max(w // 20, 1) + y // max(h // 16, 1)) % 2) * 14
    canvas.paint("sidewalk", below, np.stack([175 + slab, 160 + slab, 150 + slab], -1), 5)
    canvas.paint("road", below & (abs(x - center) < half), (92, 90, 96), 9)
    dash = np.sin(6 / (depth + 0.12) + rng.uniform(0, 6)) > -0.2
    middle = abs(x - center) < half * 0.06 + 0.4
    edge = abs(abs(x - center) - half * 0.86) < half * 0.04 + 0.3
    canvas.paint("lane marking", below & ((middle & dash) | edge), (232, 230, 222), 5)


def _backdrop(canvas: _Canvas, horizon: int) -> None:
    """Stand buildings with windows, and trees, on the horizon."""
    h, w = canvas.concept.shape
    rng, y, x = canvas.rng, canvas.y, canvas.x
    at = 0
    while at < w:
        width = int(w * rng.uniform(0.12, 0.3))
        if rng.random() < 0.7:
            top = int(horizon * rng.uniform(0.1, 0.75))
            wall = rng.uniform((120, 80, 60), (200, 150, 130))
            windows = ((x - at) % 8 > 4) & ((y - top) % 9 > 4)
            box = (x >= at) & (x < at + width) & (y >= top) & (y < horizon + 2)
            canvas.paint("building", box, np.where(windows[..., None], (60, 70, 85), wall), 4)
        at += width
    for _ in range(rng.integers(2, 5)):
        cx, r = rng.uniform(0, w), h * rng.uniform(0.08, 0.17)
        cy = horizon - r * rng.uniform(0.3, 1.0)
        crown = ((x - cx) / 1.2) ** 2 + (y - cy) ** 2 < (r * (1 + 0.15 * np.sin(x * 0.9) * np.cos(y * 1.1))) ** 2
        trunk = (abs(x - cx) < r * 0.12 + 0.5) & (y >= cy) & (y < horizon + 4)
        canvas.paint("tree", crown | trunk, (55, 105, 45), 22)


def _object(canvas: _Canvas, horizon: int, depth: float, zoom: float) -> None:
    """Put one car, truck, person or traffic cone on the ground; nearer ones (depth to 1) are larger and lower."""
    h, w = canvas.concept.shape
    rng, y, x = canvas.rng, canvas.y, canvas.x
    kind = rng.choice(THINGS, p=(0.35, 0.2, 0.25, 0.2))
    foot, cx = horizon + depth * (h - horizon) * 0.9, w * rng.uniform(0.08, 0.92)
    s = h * (0.1 + 0.3 * depth) * zoom
    u, v = (x - cx) / s, (foot - y) / s
    body = rng.uniform((30, 30, 30), (230, 60, 220))
    wheels = ((abs(u) - 0.32) ** 2 + (v - 0.06) ** 2 < 0.008) & (v > -0.03)
    if kind == "car":
        cabin = (abs(u) < 0.32) & (v > 0.28) & (v < 0.46)
        where, glass = (
            ((abs(u) < 0.52) & (v > 0.04) & (v <= 0.3)) | cabin | wheels,
            cabin & (abs(u) > 0.04) & (v < 0.42),
        )
    elif kind == "truck":
        where = ((abs(u) < 0.5) & (v > 0.06) & (v < 0.85)) | wheels
        glass, body = (u > 0.3) & (v > 0.35) & (v < 0.6) & where, rng.uniform((190, 190, 190), (245, 240, 235))
        body = np.where(((v * 12).astype(int) % 3 == 0)[..., None], body * 0.6, body)
    elif kind == "person":
        head = u**2 + (v - 0.66) ** 2 < 0.006
        where, glass = ((abs(u) < 0.09) & (v > 0) & (v < 0.58)) | head, head
        body = np.where((v < 0.3)[..., None], (40, 45, 90), rng.uniform((150, 40, 40), (230, 90, 90)))
    else:
        where = (abs(u) < 0.16 * (1 - v / 0.4)) & (v > 0) & (v < 0.38)
        glass, body = where & (abs(v - 0.18) < 0.05), np.array((245.0, 110.0, 20.0))
    if where.sum() < 6:
        return
    number = int(canvas.instance.max()) + 1
    color = np.broadcast_to(np.asarray(body, float), (h, w, 3))
    bright = {"person": (225, 180, 150), "traffic cone": (245, 245, 245)}.get(str(kind), (70, 90, 110))
    color = np.where(glass[..., None], bright, color)
    canvas.paint(str(kind), where, np.where(wheels[..., None] & (kind in ("car", "truck")), (20, 20, 20), color), 5)
    canvas.instance[where] = number


def write_world(
    folder: str | Path,
    *,
    train: int = 60,
    val: int = 20,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    labels: Labels = DATASETS,
) -> World:
    """Write the datasets with their cards, and the true taxonomy of those that are trained on, all but the last.

    `train` and `val` count images a dataset; `size` is (H, W); `labels` has five datasets at most. The same arguments
    give the same files.
    """
    folder = Path(folder)
    cards = {}
    for number, (name, classes) in enumerate(labels.items()):
        root = folder / name
        table = np.full(len(CONCEPTS), 255, np.uint8)
        for d, parts in enumerate(classes.values()):
            table[[CONCEPTS.index(p) for p in parts]] = d
        for split, count in (("train", train), ("val", val)):
            ids = [f"{split}-{i:04d}" for i in range(count)]
            atomic.write(root / f"{split}.txt", "\n".join(ids) + "\n")
            for i, key in enumerate(ids):
                rng = np.random.default_rng([seed, number, split == "val", i])
                image, concept, instance = scene(CAMERAS[number], size, rng)
                write_image(root / "images" / f"{key}.png", Image.fromarray(image))
                write_image(root / "masks" / f"{key}.png", Image.fromarray(table[concept]))
                write_image(root / "instances" / f"{key}.png", Image.fromarray(instance.astype(np.uint16)))
        cards[name] = atomic.write(folder / f"{name}.toml", _card(name, labels))
    truth(labels).write(folder / "truth.tsv")
    return World(folder, cards, folder / "truth.tsv")


def _card(name: str, labels: Labels) -> str:
    lines = [
        f'name = "{name}"',
        'image = "images/{id}.png"',
        'mask = "masks/{id}.png"',
        'instances = "instances/{id}.png"',
        'encoding = "index"',
        'splits = { train = "train.txt", val = "val.txt" }',
        "ignore = [255]",
        "[classes]",
    ]
    for i, c in enumerate(space(name, labels).classes):
        lines.append(f'"{c.name}" = {{ value = {i}, thing = {str(c.thing).lower()} }}')
    return "\n".join(lines) + "\n"
