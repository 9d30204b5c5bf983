"""Segment images with a model that manyseg exported to ONNX. Needs only numpy, Pillow and onnxruntime.

    python onnx_predictor.py model.onnx photo.jpg folder/ --labels street --out predictions

For every image it writes `masks/<name>.png`, an index image whose values are positions in the list of classes, with
their colours as palette (16 bits for more than 256 classes), and `overlays/<name>.jpg`. As a module:

    predictor = Predictor("model.onnx")
    label_map = predictor.predict(Image.open("photo.jpg"), "street")       # Int32[H, W]
    predictor.spaces["street"].names[label_map[0, 0]]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Space:
    """A list of classes: `names`, and `colors` as UInt8[D, 3]."""

    output: str
    names: tuple[str, ...]
    colors: np.ndarray


class Predictor:
    """An exported model. `spaces` are the label spaces that it answers in, by name.

    `words` is a file of word vectors (names, vectors), for a model whose classes are an input. `providers` are those of
    onnxruntime, such as ["CUDAExecutionProvider"]; the default is the CPU.
    """

    def __init__(self, path: str | Path, words: str | Path | None = None, providers: list[str] | None = None) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=providers or ["CPUExecutionProvider"])
        found = self.session.get_modelmeta().custom_metadata_map.get("manyseg")
        if found is None:
            raise ValueError(f"{path}: this ONNX file was not exported by manyseg (no description in its metadata)")
        self.about: dict[str, Any] = json.loads(found)
        self.words: np.ndarray | None = None
        self.spaces = {s["name"]: _space(output, s["classes"]) for output, s in self.about["spaces"].items()}
        if any(i.name == "words" for i in self.session.get_inputs()):
            if words is None:
                raise ValueError(f"{path}: the classes of this model are an input; give a file of word vectors")
            table = np.load(words, allow_pickle=False)
            names, self.words = [str(n) for n in table["names"]], table["vectors"]
            output = next(iter(self.about["spaces"]))
            known = {c["name"]: c for c in self.about["spaces"][output]["classes"]}
            rows = [known.get(n, {"name": n, "color": _color(i)}) for i, n in enumerate(names)]
            self.spaces = {"words": _space(output, rows)}

    def predict(self, image: Image.Image | np.ndarray, labels: str | None = None) -> np.ndarray:
        """Return Int32[H, W], the position of every pixel's class in `spaces[labels]`, at the image's own size.

        `image` is a Pillow image, turned as its EXIF orientation says, or UInt8[H, W, 3] in RGB. It is seen at the
        nearest size that the model takes (`fit`), and the label map is brought to its own size again. `labels` may be
        left out where the model has one label space.
        """
        pixels = _pixels(image)
        space = self.space(labels)
        seen = self.about["input"]
        given = {"image": fit(pixels, seen["multiple"], seen["max_side"], seen.get("short_side"))[None]}
        if self.words is not None:
            given["words"] = self.words
        found: np.ndarray = self.session.run([space.output], given)[0][0]
        label_map = found if self.about["output"] == "label_map" else found.argmax(0).astype(np.int32)
        if label_map.shape != pixels.shape[:2]:
            size = (pixels.shape[1], pixels.shape[0])
            label_map = np.asarray(Image.fromarray(label_map).resize(size, Image.Resampling.NEAREST))
        return label_map

    def space(self, labels: str | None) -> Space:
        """Return the label space called `labels`."""
        if labels is None and len(self.spaces) == 1:
            return next(iter(self.spaces.values()))
        if labels not in self.spaces:
            raise ValueError(f"the model has no label space '{labels}'; choose one of: {', '.join(self.spaces)}")
        return self.spaces[labels]


def fit(pixels: np.ndarray, multiple: int, max_side: int | None, short_side: int | None = None) -> np.ndarray:
    """Return an image UInt8[H, W, 3] with sides that are multiples, at least two; antialiased where it is smaller.

    Proportions are kept but for this rounding. The shorter side is about `short_side`, and no side above `max_side`.
    """
    height, width = pixels.shape[:2]
    scale = 1.0 if short_side is None else short_side / min(height, width)
    scale = scale if max_side is None else min(scale, max_side / max(height, width))
    most = np.inf if max_side is None else max(2, max_side // multiple)
    rows, columns = (int(min(most, max(2, round(scale * side / multiple)))) for side in (height, width))
    size = (columns * multiple, rows * multiple)
    if size == (width, height):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return image


def _space(output: str, rows: list[dict[str, Any]]) -> Space:
    colors = np.array([list(bytes.fromhex(r["color"][1:])) for r in rows], np.uint8)
    return Space(output, tuple(r["name"] for r in rows), colors)


def _color(position: int) -> str:
    """Return a colour for a class that the model's description does not know."""
    return "#" + bytes((37 * position + 90) * k % 206 + 50 for k in (1, 3, 7)).hex()


def _write(image: Image.Image, path: Path, kind: str) -> None:
    """Write aside, then rename: nobody sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    image.save(aside, kind)
    os.replace(aside, path)


def main() -> int:
    """Segment the images and folders of the command line; return 1 if an image could not be read."""
    parser = argparse.ArgumentParser(description="Segment images with a model that manyseg exported to ONNX.")
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE|FOLDER")
    parser.add_argument("--labels", help="the label space; may be left out where there is one")
    parser.add_argument("--words", type=Path, help="word vectors (.npz), for a model whose classes are an input")
    parser.add_argument("--out", type=Path, default=Path("predictions"))
    arguments = parser.parse_args()
    try:
        predictor = Predictor(arguments.model, arguments.words)
        space = predictor.space(arguments.labels)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = 0
    for name, path in _images(arguments.images):
        try:
            with Image.open(path) as image:
                pixels = _pixels(image)
        except (OSError, Image.DecompressionBombError) as error:
            print(f"error: {path}: cannot be read ({error})", file=sys.stderr)
            failed += 1
            continue
        found = predictor.predict(pixels, arguments.labels)
        mask = Image.fromarray(found.astype(np.uint8 if len(space.names) <= 256 else np.uint16))
        if len(space.names) <= 256:
            mask.putpalette(space.colors.tobytes())
        _write(mask, arguments.out / "masks" / f"{name}.png", "PNG")
        blended = (0.45 * pixels + 0.55 * space.colors[found]).round().astype(np.uint8)
        _write(Image.fromarray(blended), arguments.out / "overlays" / f"{name}.jpg", "JPEG")
        shares = np.bincount(found.ravel(), minlength=len(space.names)) / found.size
        best = ", ".join(f"{space.names[i]} {shares[i]:.0%}" for i in np.argsort(-shares)[:5] if shares[i] > 0)
        print(f"{path}: {best}")
    return int(failed > 0)


def _images(paths: list[Path]) -> list[tuple[str, Path]]:
    """List (name, file); files of a folder are called by their path in it, without the suffix where that is unique."""
    out: dict[str, Path] = {}
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        for p in inside:
            full = p.relative_to(path if path.is_dir() else path.parent)
            name = full.with_suffix("").as_posix()
            out[full.as_posix() if name in out else name] = p
    return list(out.items())


if __name__ == "__main__":
    sys.exit(main())
