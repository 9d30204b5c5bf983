"""The contact sheet: images with what their dataset says of them, to be looked at before training."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from manyseg.data.annotation import Annotation, Boxes, Dense, Segments
from manyseg.data.batch import Sample
from manyseg.data.files import DataError
from manyseg.data.folder import Folder
from manyseg.data.font import legend_font
from manyseg.errors import UserError
from manyseg.labels import IGNORE, LabelSpace

__all__ = ["contact_sheet"]

WIDTH = 360
LINE = 14


def contact_sheet(folder: Folder, count: int = 12, columns: int = 4) -> Image.Image:
    """Draw `count` images, spread over the split, each beside its overlay, and a legend of the classes that occur.

    Pixels without a label keep the image's colours, darkened. Images that cannot be read are left out; raises
    UserError if none can.
    """
    tiles, seen = [], set[int]()
    for index in np.unique(np.linspace(0, len(folder) - 1, count).round().astype(int)):
        try:
            sample = folder.example(int(index), lambda size: (max(1, WIDTH * size[0] // size[1]), WIDTH))
        except DataError:
            continue
        tiles.append(_tile(sample, folder.space))
        labels = _labels(sample.annotation)
        seen |= set(np.unique(labels[labels != IGNORE]).tolist())
    if not tiles:
        raise UserError(f"no image of split '{folder.split}' of '{folder.card.name}' could be read; run `manyseg data`")
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(t.height for t in row) for row in rows]
    legend = _legend(folder.space, sorted(seen), columns * WIDTH)
    out = Image.new("RGB", (columns * WIDTH, sum(heights) + legend.height), "white")
    for y, row in zip(np.cumsum([0, *heights]), rows, strict=False):
        for x, tile in enumerate(row):
            out.paste(tile, (x * WIDTH, int(y)))
    out.paste(legend, (0, sum(heights)))
    return out


def _labels(annotation: Annotation) -> np.ndarray:
    return (annotation.labels if isinstance(annotation, Dense | Segments) else annotation.classes).numpy()


def _tile(sample: Sample, space: LabelSpace) -> Image.Image:
    """Draw one image with its annotation and its id."""
    image = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    size = (WIDTH - 4, max(1, (WIDTH - 4) * image.height // image.width))
    image = image.resize(size, Image.Resampling.BILINEAR)
    if isinstance(sample.annotation, Dense | Segments):
        image = _overlay(image, sample.annotation, space)
    tile = Image.new("RGB", (WIDTH, size[1] + LINE + 4), "white")
    tile.paste(image, (0, LINE))
    draw = ImageDraw.Draw(tile)
    name = sample.id[-54:]
    draw.text((0, 1), name, "black", legend_font(10, [name]))
    if isinstance(sample.annotation, Boxes):
        scale = size[0] / int(sample.annotation.extent[1])
        for box, c in zip(sample.annotation.boxes.tolist(), sample.annotation.classes.tolist(), strict=True):
            x0, y0, x1, y1 = (v * scale for v in box)
            draw.rectangle((x0, y0 + LINE, x1, y1 + LINE), outline=tuple(space.colors[c]), width=2)
    elif not isinstance(sample.annotation, Dense | Segments):
        names = ", ".join(space.names[c] for c in sample.annotation.classes.tolist())
        draw.text((4, LINE + 4), names, "white", legend_font(12, [names]), stroke_width=2, stroke_fill="black")
    return tile


def _overlay(image: Image.Image, annotation: Dense | Segments, space: LabelSpace) -> Image.Image:
    colors = np.concatenate([space.colors, np.zeros((1, 3), np.uint8)])  # The last one is what IGNORE (-1) reads.
    paint = Image.fromarray(colors[annotation.labels.numpy()]).resize(image.size, Image.Resampling.NEAREST)
    out = np.asarray(Image.blend(image, paint, 0.55)).copy()
    if isinstance(annotation, Segments):
        ids = Image.fromarray(annotation.ids.numpy().astype(np.int32)).resize(image.size, Image.Resampling.NEAREST)
        plane = np.asarray(ids)
        out[:, 1:][plane[:, 1:] != plane[:, :-1]] = 255
        out[1:][plane[1:] != plane[:-1]] = 255
    return Image.fromarray(out)


def _legend(space: LabelSpace, classes: list[int], width: int) -> Image.Image:
    font = legend_font(12, (space.names[c] for c in classes))
    places, x, y = [], 4, 4
    for c in classes:
        needed = 22 + int(font.getlength(space.names[c])) + 10
        if x + needed > width and x > 4:
            x, y = 4, y + LINE + 4
        places.append((x, y))
        x += needed
    legend = Image.new("RGB", (width, y + LINE + 8), "white")
    draw = ImageDraw.Draw(legend)
    for c, (x, y) in zip(classes, places, strict=True):
        draw.rectangle((x, y, x + 16, y + LINE), fill=tuple(space.colors[c]), outline="black")
        draw.text((x + 21, y), space.names[c], "black", font)
    return legend
