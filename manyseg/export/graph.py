"""The network that is exported: an 8-bit image in, answers in one or several label spaces out.

Axes: B images, D classes of a label space, T words, C channels of a class vector, h w feature resolution, H W the
image's size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.errors import UserError
from manyseg.inference.options import TestOptions
from manyseg.labels import LabelSpace
from manyseg.methods.base import Method

__all__ = ["ExportGraph", "Output"]

Output = Literal["label_map", "probabilities", "scores"]
"""`label_map`: Int32[B, H, W], positions of classes. `probabilities`: Float32[B, D, H, W], the softmax over D of the
upsampled scores. `scores`: Float32[B, D, h, w], as the network gives them, without softmax."""

FORMAT = 1
"""Version of the description that lies in an exported file."""

EXAMPLE = (2, 3, 4)
"""Images, and multiples of the coarsest stride in height and width, that the network is traced with."""


class ExportGraph(nn.Module):
    """A method as one function of an image: normalisation, network, label spaces, upsampling, softmax or argmax.

    `spaces` are answered in this order, each as one output called `<output>/<space>`. With `words` the classes are an
    input instead, the vectors that `Method.word_vectors` gives, and the one output is called `<output>/words`; `spaces`
    then has the words that the description names first.

    Height and width are multiples of the network's coarsest stride, at least two (`multiple` in the description): a
    caller resizes other images to the nearest ones, and large images to no more than `max_side`. `logit_adjustment` is
    that of the recipe's [test] table; words have none.
    """

    def __init__(
        self,
        method: Method,
        spaces: Sequence[LabelSpace],
        output: Output = "label_map",
        words: bool = False,
        logit_adjustment: float = 0.0,
    ) -> None:
        super().__init__()
        if words and not method.reads_words:
            raise UserError(f"{type(method).__name__} reads no words; export the label spaces that it knows")
        if words and len(spaces) != 1:
            raise UserError(
                f"with words as input the file has one output, but {len(spaces)} label spaces were given; give one"
            )
        self.method, self.spaces, self.output, self.words = method.eval(), tuple(spaces), output, words
        self.logit_adjustment = logit_adjustment
        for space in self.spaces:
            if method.hierarchy is not None and space == method.hierarchy.space:
                raise UserError("the hierarchy cannot be exported; export 'unified', whose classes are its leaves")

    @property
    def names(self) -> list[str]:
        """The names of the outputs, in order."""
        return [f"{self.output}/{'words' if self.words else space.name}" for space in self.spaces]

    @property
    def multiple(self) -> int:
        """What heights and widths are multiples of."""
        return self.method.pixel_encoder.backbone.multiple

    def forward(self, image: UInt8[Tensor, "B H W 3"], words: Float[Tensor, "T C"] | None = None) -> tuple[Tensor, ...]:
        """Return one tensor a label space; see `Output`."""
        features = self.method.pixel_encoder(image.permute(0, 3, 1, 2))
        if words is not None:
            scores = [self.method.predict_words(features, words)]
        else:
            scores = [self.method.predict(features, space) for space in self.spaces]
            if self.logit_adjustment:
                shares = [self.method.log_shares(space) for space in self.spaces]
                scores = [
                    s - self.logit_adjustment * log_share[:, None, None]
                    for s, log_share in zip(scores, shares, strict=True)
                ]
        return tuple(self._answer(s, (image.shape[1], image.shape[2])) for s in scores)

    def _answer(self, scores: Float[Tensor, "B D h w"], size: tuple[int, int]) -> Tensor:
        if self.output == "scores":
            return scores
        native = F.interpolate(scores, size=size, mode="bilinear", align_corners=self.method.align_corners)
        return native.argmax(1).int() if self.output == "label_map" else native.softmax(1)

    def example(self) -> tuple[Tensor, ...]:
        """Return inputs of the right shapes."""
        images, rows, columns = EXAMPLE
        size = (rows * self.multiple, columns * self.multiple)
        image = torch.zeros(images, *size, 3, dtype=torch.uint8, device=self.method.device)
        return (image, self.method.word_vectors(self.spaces[0])) if self.words else (image,)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The network traced by torch.export, once for all files that are written of it.

        Any number of images, multiples of height and width, and words can be given to it.
        """
        example = self.example()
        size = [self.multiple * torch.export.Dim(side, min=2) for side in ("rows", "columns")]
        shapes: tuple[dict[int, Any], ...] = ({0: torch.export.Dim("images"), 1: size[0], 2: size[1]}, {})
        if self.words:
            shapes[1][0] = torch.export.Dim("words", min=3)
        with torch.no_grad(), _constant_padding():
            # What methods keep between calls is computed here from real tensors: tracing would keep tensors without
            # values.
            self(*example)
            return torch.export.export(self, example, dynamic_shapes=shapes[: len(example)], strict=False)

    @cached_property
    def onnx_program(self) -> Any:
        """The traced network as a program of ONNX, likewise once; its weights are not copied."""
        program = torch.onnx.export(
            self.program, dynamo=True, input_names=["image", "words"][: 1 + self.words], output_names=self.names,
            verbose=False,
        )  # fmt: skip
        assert program is not None
        return program

    def describe(self, options: TestOptions) -> str:
        """Return the description that lies in the file, as JSON: inputs, outputs, classes with colours, taxonomy."""
        content: dict[str, Any] = {
            "manyseg": version("manyseg"),
            "format": FORMAT,
            "method": type(self.method).__name__,
            "input": {
                "layout": "BHWC, uint8, RGB",
                "multiple": self.multiple,
                "short_side": options.short_side,
                "max_side": options.max_side,
            },
            "output": self.output,
            "spaces": {name: _classes(space) for name, space in zip(self.names, self.spaces, strict=True)},
            "taxonomy": self.method.taxonomy.to_tsv(),
        }
        return json.dumps(content, ensure_ascii=False)


@contextmanager
def _constant_padding() -> Iterator[None]:
    """Let timm's layers of "same" padding pad by numbers that do not depend on the image's size.

    They are the same where sides are multiples of the stride. Padding by a symbolic size, nested layer in layer, takes
    the tracing of such a network many minutes.
    """
    layers: list[Any] = [import_module(f"timm.layers.{name}") for name in ("conv2d_same", "pool2d_same")]
    before = [layer.pad_same for layer in layers]
    for layer in layers:
        layer.pad_same = _pad_same
    try:
        yield
    finally:
        for layer, function in zip(layers, before, strict=True):
            layer.pad_same = function


def _pad_same(
    x: Float[Tensor, "B C h w"],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    value: float = 0,
) -> Float[Tensor, "B C _ _"]:
    h, w = (max((k - 1) * d + 1 - s, 0) for k, s, d in zip(kernel, stride, dilation, strict=True))
    return F.pad(x, [w // 2, w - w // 2, h // 2, h - h // 2], value=value)


def _classes(space: LabelSpace) -> dict[str, Any]:
    rows = [
        {"name": c.name, "color": color, "thing": c.thing}
        for c, color in zip(space.classes, space.hex_colors, strict=True)
    ]
    return {"name": space.name, "classes": rows}
