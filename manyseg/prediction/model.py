"""A trained model for use from Python: from images to label maps in any of its label spaces.

Axes: D classes of the label space, h w feature resolution, H W the image's own size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from manyseg.data.bands import ValueRange
from manyseg.data.card import Card, builtin_cards, read_card
from manyseg.errors import UserError
from manyseg.export.files import Precision, agreement, check_request, write_onnx, write_torch
from manyseg.export.graph import ExportGraph, Output
from manyseg.inference.encoded_images import EncodedImages, OutputSpace
from manyseg.inference.options import PHOTOS, Size, TestOptions
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.methods.base import Method
from manyseg.models.text import TextEncoder
from manyseg.prediction.photo import PLAIN, Picture, Reading, picture_pixels, read_photo
from manyseg.prediction.prediction import Prediction
from manyseg.relate.unseen import relate_by_names, relate_by_table, relate_by_text, unmapped

__all__ = ["Labels", "Model", "Relate", "find_space"]

Labels: TypeAlias = str | Path | LabelSpace | Sequence[str]
"""A label space, its name, "unified", "hierarchy", a card, or words."""

Relate: TypeAlias = Literal["names", "text"] | Path
"""How classes that were not trained on find their nodes: by names, by text, or by a table of a taxonomy."""

log = logging.getLogger(__name__)

HIERARCHY = "hierarchy"
"""The name of the label space of all levels: each pixel gets the deepest class that is probable enough."""


class Model:
    """A trained method, ready to predict.

    `spaces` are the label spaces of the training datasets, `taxonomy` relates them to the unified one, and `method` is
    the network, an `nn.Module`.
    """

    def __init__(self, method: Method, spaces: Sequence[LabelSpace], options: TestOptions = PHOTOS) -> None:
        self.method, self.spaces, self.options = method.eval(), tuple(spaces), options

    @property
    def taxonomy(self) -> Taxonomy:
        """The unified label space and how the datasets' classes relate to it."""
        return self.method.taxonomy

    @overload
    def predict(
        self,
        image: Picture,
        labels: Labels = ...,
        *,
        relate: Relate = ...,
        scores: bool = ...,
        segments: bool = ...,
        bands: tuple[int, ...] | None = ...,
        value_range: ValueRange | None = ...,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        image: list[Picture],
        labels: Labels = ...,
        *,
        relate: Relate = ...,
        scores: bool = ...,
        segments: bool = ...,
        bands: tuple[int, ...] | None = ...,
        value_range: ValueRange | None = ...,
    ) -> list[Prediction]: ...
    def predict(
        self,
        image: Picture | list[Picture],
        labels: Labels = "unified",
        *,
        relate: Relate = "names",
        scores: bool = False,
        segments: bool = False,
        bands: tuple[int, ...] | None = None,
        value_range: ValueRange | None = None,
    ) -> Prediction | list[Prediction]:
        """Segment an image, or each of a list of images, and return a label map at its own size.

        `image` is a file's path, a Pillow image, a uint8 array [H, W, 3] (RGB) or [H, W] (grey), or a uint8 tensor
        [3, H, W]. The EXIF orientation of files and Pillow images is respected. `labels` is the name of a training
        dataset, "unified", "hierarchy" where the method has one, a card (a built-in one's name, or a path that ends in
        .toml), a label space or a list of words. Classes that were not trained on are read by a method that reads
        words, and else found among the unified nodes as `relate` says: by "names", by "text", or by the table of a
        taxonomy that has both label spaces.
        `scores` and `segments` request more than the label map; segments need a method that tells objects apart
        (`lmseg`). `bands` says which bands of a file are red, green and blue (or the one that is grey), counted from 1,
        and `value_range` which values are black and white; by default they are those of a card that `labels` names.
        Raises UserError for an image that cannot be read, and for what the model cannot predict.
        """
        output, reading = self.output(labels, relate), self._reading(labels, bands, value_range)
        if isinstance(image, list):
            return [self._predict(one, output, scores, segments, reading) for one in image]
        return self._predict(image, output, scores, segments, reading)

    def _reading(self, labels: Labels, bands: tuple[int, ...] | None, value_range: ValueRange | None) -> Reading:
        """Return how files are read: as is asked for, else as the card says that `labels` names."""
        if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
            raise UserError(f"bands are {bands}; give three numbers from 1 on, as (4, 3, 2), or one")
        if value_range is not None and not value_range[0] < value_range[1]:
            raise UserError(f"value_range is {value_range}; give the values of black and white, as (0, 4095)")
        card = None if isinstance(labels, LabelSpace) else self._card(labels)
        of_card = PLAIN if card is None else Reading(card.bands, card.range)
        return Reading(bands or of_card.bands, value_range or of_card.value_range)

    def export(
        self,
        path: str | Path,
        *,
        labels: Sequence[Labels] = (),
        output: Output = "label_map",
        precision: Precision = "fp32",
        words: bool = False,
        images: Sequence[Picture] = (),
    ) -> dict[str, float]:
        """Write the model as one file that other programs run: `.onnx`, or `.pt2` for torch.export; see docs/export.md.

        `labels` are label spaces as `predict` takes them, by default all training datasets and the unified one.
        With `words` the classes are an input of the file, and `labels` one list of words whose vectors are written
        beside it, by default the unified classes. `output` and `precision` are those of `manyseg.export`. On `images`
        an ONNX file is compared with the network: the share of pixels of the same class is returned for every output;
        "int8" takes its ranges from them. Raises UserError for what cannot be exported.
        """
        path = Path(path)
        check_request(path, precision, images)
        shown = [self._shown(image, self.options)[0].permute(1, 2, 0).numpy() for image in images]
        every = [self.taxonomy.unified] if words else [*self.spaces, self.taxonomy.unified]
        spaces = [self.space(one) for one in labels or every]
        graph = ExportGraph(self.method, spaces, output, words, self.options.logit_adjustment)
        if path.suffix == ".pt2":
            write_torch(graph, path, self.options)
            return {}
        write_onnx(graph, path, self.options, precision=precision, images=shown)
        return agreement(graph, path, shown) if shown else {}

    def space(self, labels: Labels) -> LabelSpace:
        """Return the label space that `labels` stands for, in the colours of the taxonomy; see `predict`."""
        if isinstance(labels, LabelSpace):
            space = labels
        elif (card := self._card(labels)) is not None:
            space = card.space
        else:
            assert not isinstance(labels, Path)
            space = find_space(self.method, self.spaces, labels)
        return self.taxonomy.painted(space)

    def _card(self, labels: str | Path | Sequence[str]) -> Card | None:
        """Read the card that labels are: the path of one, or a built-in one's name that no training dataset has."""
        if isinstance(labels, Path):
            return read_card(labels)
        if not isinstance(labels, str):
            return None
        known = {s.name for s in self.spaces}
        named = labels.endswith(".toml") or (labels not in known and labels in builtin_cards())
        return read_card(labels) if named else None

    def output(self, labels: Labels, relate: Relate = "names") -> OutputSpace:
        """Return the label space that `labels` stands for, with the relation to the unified nodes if it needs one.

        Raises UserError where no class of it has a node, and where `relate` is another way than names and nothing is to
        be related. Other classes without a node are logged, and never predicted.
        """
        space = self.space(labels)
        hierarchy = self.method.hierarchy
        own = (*self.spaces, self.taxonomy.unified, *(() if hierarchy is None else (hierarchy.space,)))
        if space in own or self.method.reads_words:
            if relate != "names":
                raise UserError(f"'{space.name}' is read without a relation by this model; leave relate ({relate}) out")
            return OutputSpace(space)
        if isinstance(relate, Path):
            relation = relate_by_table(space, self.taxonomy, relate)
        elif relate == "text":
            relation = relate_by_text(space, self.taxonomy, TextEncoder().encode)
        else:
            relation = relate_by_names(space, self.taxonomy)
        lost = unmapped(space, relation)
        if len(lost) == len(space):
            known = ", ".join([s.name for s in self.spaces] + ["unified"])
            raise UserError(
                f"'{space.name}' is no label space of this model ({known}), and no unified node has the name of one of "
                "its classes; give one of these, or relate it by text or a table (--relate)"
            )
        if lost:
            log.warning(
                "%d of %d classes of '%s' have no unified node and are never predicted: %s",
                len(lost), len(space), space.name, ", ".join(lost[:20]),
            )  # fmt: skip
        return OutputSpace(space, relation)

    def predict_batch(
        self,
        shown: UInt8[Tensor, "B 3 _ _"],
        size: Size,
        output: OutputSpace,
        scores: bool = False,
        segments: bool = False,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> list[Prediction]:
        """Segment images of one size as they are shown to the model; `size` is their native (height, width).

        `change` takes the scores [B, D, h, w] and returns those that the label maps are made of.
        """
        encoded = EncodedImages(self.method, shown, self.options.of(output.space.name), size)
        known = encoded.scores([output]) if scores or change is not None else None
        if known is not None and change is not None:
            known = [change(known[0])]
        maps = encoded.label_maps([output], known)[0].cpu().numpy()
        found = encoded.segments(output.space) if segments else [None] * len(shown)
        kept = known if scores else None
        each = [None] * len(shown) if kept is None else kept[0].cpu().numpy()
        sure = [None] * len(shown) if kept is None else _sure(encoded, kept[0])
        return [
            Prediction(labels, output.space, image, one, parts, confidence)
            for labels, image, one, parts, confidence in zip(maps, shown, each, found, sure, strict=True)
        ]

    def predict_spaces(
        self, shown: UInt8[Tensor, "B 3 _ _"], size: Size, outputs: Sequence[OutputSpace]
    ) -> list[list[Prediction]]:
        """Segment images of one size in several label spaces, encoded once; return a list for every image.

        `size` is their native (height, width). Every prediction has its `confidence`.
        """
        encoded = EncodedImages(self.method, shown, self.options, size)
        levels = None if self.method.hierarchy is None else self.method.hierarchy.space
        plain = [output for output in outputs if output.space != levels]
        known = encoded.scores(plain)
        scored = zip(encoded.label_maps(plain, known), known, strict=True)
        out: list[list[Prediction]] = [[] for _ in shown]
        for output in outputs:
            sure: Sequence[Float[np.ndarray, "h w"] | None] = [None] * len(shown)
            if output.space == levels:
                (maps,) = encoded.label_maps([output])
            else:
                maps, scores = next(scored)
                sure = _sure(encoded, scores)
            for each, labels, image, confidence in zip(out, maps.cpu().numpy(), shown, sure, strict=True):
                each.append(Prediction(labels, output.space, image, confidence=confidence))
        return out

    def _predict(
        self, image: Picture, output: OutputSpace, scores: bool, segments: bool, reading: Reading
    ) -> Prediction:
        shown, size = self._shown(image, self.options.of(output.space.name), reading)
        return self.predict_batch(shown[None], size, output, scores, segments)[0]

    def _shown(
        self, image: Picture, options: TestOptions, reading: Reading = PLAIN
    ) -> tuple[UInt8[Tensor, "3 _ _"], Size]:
        """Return an image as the model is shown it, perhaps made smaller, and its own (height, width)."""
        if isinstance(image, str | Path):
            return read_photo(Path(image), options.input_size, reading)
        if reading != PLAIN:
            raise UserError("bands and a range of values are for files; give the image's path, or choose them yourself")
        shown = picture_pixels(image)
        return shown, (shown.shape[-2], shown.shape[-1])


def _sure(encoded: EncodedImages, scores: Float[Tensor, "B D h w"]) -> list[Float[np.ndarray, "h w"]]:
    return list(encoded.confidences(scores).cpu().numpy())


def find_space(method: Method, spaces: Sequence[LabelSpace], labels: str | Sequence[str]) -> LabelSpace:
    """Return the label space that is called `labels`, else the words that it lists: joined by commas, or one by one."""
    if not isinstance(labels, str):
        return LabelSpace.of(", ".join(labels), dict.fromkeys(labels))
    unified = method.taxonomy.unified
    for space in (*spaces, unified):
        if labels in (space.name, "unified" if space is unified else space.name):
            return space
    if labels == HIERARCHY and method.hierarchy is not None:
        return method.hierarchy.space
    words = [w.strip() for w in labels.split(",") if w.strip()]
    if not words:
        names = ", ".join(s.name for s in (*spaces, unified))
        raise UserError(f"labels '{labels}' name nothing; give a label space ({names}) or words, as 'road, sky'")
    return LabelSpace.of(labels, dict.fromkeys(words))
