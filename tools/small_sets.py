"""Make the small sets of docs/results.md from datasets that were fetched from their own sites.

    python tools/small_sets.py NAME ROOT OUT      as in: cityscapes /data/cityscapes /data/roads/cityscapes

| NAME | ROOT is | OUT is, below the data root |
|---|---|---|
| cityscapes | the root of the built-in card `cityscapes` | roads/cityscapes |
| camvid | the root of `camvid32`, with SegNet's list of 367 images as `train.txt` | roads/camvid |
| idd_lite | the folder of IDD-Lite that holds `leftImg8bit` and `gtFine` | roads/idd_lite |
| coco128 | the folder that holds `train2017` and `annotations/instances_train2017.json` | objects/coco128 |
| furniture | the folder of a COCO export of Roboflow that holds `train` and `valid` | objects/furniture |
| cityscapes8 | the root of `cityscapes_panoptic` | panoptic/cityscapes8 |

OUT gets images, masks, numbers of objects and lists as the recipes' own cards read them. Photos are resized by area and
saved as JPEGs of quality 95, masks by the nearest pixel; the sets of the results may differ in that. Licences forbid
passing the images of Cityscapes and IDD on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from manyseg import atomic
from manyseg.data.card import Card, read_card
from manyseg.data.encodings import Regions
from manyseg.data.files import write_image
from manyseg.data.folder import Folder
from manyseg.errors import UserError
from manyseg.labels import IGNORE
from manyseg.progress import progress

RECIPES = Path(__file__).parents[1] / "recipes"

UNLABELLED = 255

Choice = tuple[str, Callable[[Sequence[str]], Sequence[str]]]
"""A split of the source, and which of its ids are taken."""


class Small(NamedTuple):
    """A small set: the card that reads it, the one that reads the official files, (width, height), and its splits."""

    card: str
    source: Callable[[Card], Card]
    size: tuple[int, int] | None
    splits: Mapping[str, Choice]


def of_cities(*names: str) -> Callable[[Sequence[str]], list[str]]:
    """Choose the ids that lie in the folders of some cities."""
    return lambda ids: [i for i in ids if i.split("/")[0] in names]


def of_drives(*names: str) -> Callable[[Sequence[str]], list[str]]:
    """Choose the ids that begin with the names of some drives."""
    return lambda ids: [i for i in ids if i.startswith(names)]


def _as_named(small: Card, **keys: object) -> Card:
    """Return a card of official files that have the classes of the small set's card, with other keys."""
    return Card.model_validate(small.model_dump() | keys)


def _coco(small: Card, **keys: object) -> Card:
    """Return a card of COCO's JSON, which calls categories by the names that the small set has."""
    classes = {name: {"thing": True} for name in small.classes}
    return _as_named(small, encoding="coco_instances", classes=classes, mask=None, instances=None, ignore=(), **keys)


IDD_FOLDERS = {
    "image": "leftImg8bit/{split}/{scene}/{frame}_image.jpg",
    "mask": "gtFine/{split}/{scene}/{frame}_label.png",
}

SETS = {
    "cityscapes": Small(
        "roads/cards/cityscapes.toml",
        lambda _: read_card("cityscapes"),
        (256, 128),
        {"train": ("train", of_cities("jena", "tubingen", "zurich")), "val": ("train", of_cities("erfurt"))},
    ),
    "camvid": Small(
        "roads/cards/camvid.toml",
        lambda _: read_card("camvid32"),
        (384, 288),
        {"train": ("train", of_drives("0001TP", "0016E5")), "val": ("train", of_drives("0006R0"))},
    ),
    "idd_lite": Small(
        "roads/cards/idd_lite.toml",
        lambda small: _as_named(small, splits={"train": "train", "val": "val"}, **IDD_FOLDERS),
        None,
        {"train": ("train", lambda ids: ids[1::2]), "val": ("val", list)},
    ),
    "coco128": Small(
        "objects/cards/coco128.toml",
        lambda small: _coco(
            small,
            image="{split}/{id}.jpg",
            annotations="annotations/instances_{split}.json",
            splits={"train": "train2017"},
        ),
        None,
        {
            "val": ("train", lambda ids: ids[:128:5]),
            "train": ("train", lambda ids: [i for k, i in enumerate(ids[:128]) if k % 5]),
        },
    ),
    "furniture": Small(
        "objects/cards/furniture.toml",
        lambda small: _coco(
            small,
            image="{split}/{id}.jpg",
            annotations="{split}/_annotations.coco.json",
            splits={"train": "train", "val": "valid"},
        ),
        None,
        {"train": ("train", lambda ids: ids[:700]), "val": ("val", lambda ids: ids[:200])},
    ),
    "cityscapes8": Small(
        "panoptic/cards/cityscapes8.toml",
        lambda _: read_card("cityscapes_panoptic"),
        (1024, 512),
        {"val": ("train", lambda ids: of_cities("aachen")(ids)[:8])},
    ),
}


def make(name: str, root: Path, out: Path) -> None:
    """Write the small set `name` to the folder `out`; raises UserError where `root` is not as its site has it."""
    small = SETS[name]
    card = read_card(RECIPES / small.card)
    source = small.source(card)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is there already; remove it, or choose another folder")
    for split, (official, chosen) in small.splits.items():
        folder = Folder(source, root, official)
        wanted = set(chosen(folder.ids))
        numbers = [i for i, image_id in enumerate(folder.ids) if image_id in wanted]
        if not numbers:
            raise UserError(f"{root}: no image of split '{official}' belongs to '{name}'; is it the right folder?")
        ids = []
        with progress(f"{name}, {split}", len(numbers)) as done:
            for i in numbers:
                ids += _written(folder, i, card, small.size, out)
                done()
        atomic.write(out / card.splits[split], "".join(f"{i}\n" for i in ids))
        print(f"{out}: {len(ids)} images in '{split}'")


def _written(folder: Folder, index: int, card: Card, size: tuple[int, int] | None, out: Path) -> list[str]:
    """Write an image with its mask, and its objects where the card has them; returns its new id, if it has a label."""
    files = folder.files(index)
    found = folder.found(files)
    assert isinstance(found, Regions)
    if not (found.labels() != IGNORE).any():
        return []
    image_id = _new_id(folder, index)
    with folder.opened(files, found.plane.shape[:2]) as opened:
        photo = Image.fromarray(opened.rgb())
    if size is not None:
        photo = photo.resize(size, Image.Resampling.BOX)
        rows, columns = (
            np.arange(n) * old // n + old // (2 * n) for n, old in zip(size[::-1], found.plane.shape, strict=True)
        )
        found = found._replace(plane=found.plane[np.ix_(rows, columns)], counted=None)
    write_image(out / f"images/{image_id}.jpg", photo, quality=95)
    values = np.array([*(card.values(name)[0] for name in folder.space.names), _unlabelled(card)])
    labels = values[found.labels()]
    objects = _objects(found, folder)
    if card.encoding == "instance_ids":
        planes = {card.mask: np.where(objects > 0, labels * 1000 + objects - 1, labels)}
    else:
        planes = {card.mask: labels, card.instances: objects}
    for text, plane in planes.items():
        if text is not None:
            wide = card.instances == text or card.encoding == "instance_ids"
            write_image(out / text.format(id=image_id), Image.fromarray(plane.astype(np.uint16 if wide else np.uint8)))
    return [image_id]


def _new_id(folder: Folder, index: int) -> str:
    """Return the id in the small set: without the folder of the city, and with no dot before the suffix."""
    old = folder.ids[index]
    whole = old.rpartition("/")[2] if folder.card.name.startswith("cityscapes") else old
    return whole.replace("/", "_").replace(".", "_")


def _unlabelled(card: Card) -> int:
    return UNLABELLED if UNLABELLED in card.ignore else int(card.ignore[0])


def _objects(found: Regions, folder: Folder) -> np.ndarray:
    """Return the number of each pixel's object, from 1 on; 0 where there is no object of a thing."""
    things = np.array([c.thing for c in folder.space.classes])
    is_object = found.known & (found.classes != IGNORE) & things[found.classes] & (found.pixels > 0)
    numbers = np.where(is_object, np.cumsum(is_object), 0)
    return numbers[found.plane]


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    if len(arguments) != 3 or arguments[0] not in SETS:
        print(f"{__doc__}\ngive one of {', '.join(SETS)}, the folder of the dataset, and a new folder", file=sys.stderr)
        return 2
    try:
        make(arguments[0], Path(arguments[1]), Path(arguments[2]))
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
