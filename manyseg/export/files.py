"""Files of exported models: ONNX in three precisions, torch.export packages, and the check against the network.

Axes: H W an image's size.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8

from manyseg import atomic
from manyseg.errors import UserError
from manyseg.export import predictor
from manyseg.export.graph import ExportGraph
from manyseg.inference.options import TestOptions

__all__ = ["OLDEST", "Precision", "agreement", "check_request", "write_onnx", "write_torch"]

Precision = Literal["fp32", "fp16", "int8"]

NEEDED = ("onnx", "onnxruntime", "onnxscript")

OLDEST = "2.8"
"""Releases of torch before it cannot write an upsampling to a size that is an input, or a hierarchy's answer."""

CALIBRATION_SIDE = 512
"""Images for the ranges of 8-bit values are made no larger than this; ranges do not depend on the size."""


def check_request(path: Path, precision: Precision, images: Sequence[object]) -> None:
    """Raise, before a model is loaded, the UserError of a file that cannot be written.

    Its name ends in .onnx or .pt2; packages are missing; it has another precision than its kind can have, or images
    that it does not need, or not those that "int8" takes its ranges from; or its folder cannot be written to.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise UserError(f"{path}: give a name that ends in .onnx, or in .pt2 for a package of torch.export")
    if path.suffix == ".pt2" and (precision != "fp32" or images):
        raise UserError(f"{path}: a precision and images are for ONNX files; end the name in .onnx, or leave them out")
    if path.suffix == ".onnx" and (missing := [name for name in NEEDED if find_spec(name) is None]):
        raise UserError(f'{path}: ONNX files need {", ".join(missing)}; install them by pip install "manyseg[export]"')
    if torch.__version__ < OLDEST:
        raise UserError(f"{path}: exports need torch {OLDEST} or newer, and this is {torch.__version__}; upgrade torch")
    if precision == "int8" and not images:
        raise UserError(f"{path}: int8 takes its ranges from images; name some with --images")
    atomic.check_target(path)


def write_torch(graph: ExportGraph, path: Path, options: TestOptions) -> None:
    """Write a package that `torch.export.load(path).module()` runs, with the description as `manyseg.json` in it."""
    buffer = io.BytesIO()
    for name, value in graph.program.constants.items():
        # Relations of several label spaces are parts of one tensor, which torch cannot save as such without a doubt.
        if isinstance(value, torch.Tensor):
            graph.program.constants[name] = value.clone()
    torch.export.save(graph.program, buffer, extra_files={"manyseg.json": graph.describe(options)})
    atomic.write(path, buffer.getvalue())


def write_onnx(
    graph: ExportGraph,
    path: Path,
    options: TestOptions,
    *,
    precision: Precision = "fp32",
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]] = (),
) -> None:
    """Write an ONNX file, and beside it `onnx_predictor.py`, a program that runs it without this package.

    "fp16" halves the file and is for GPUs. "int8" quantises convolutions, with ranges taken from `images`: some ten
    that are like those to come. Where words are an input, `<name>.words.npz` has the vectors of the first words.
    `check_request` says first what cannot be written.
    """
    program = graph.onnx_program
    program.model.metadata_props["manyseg"] = graph.describe(options)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "model.onnx"
        program.save(plain)
        changed = _converted(plain, precision, graph, images)
        atomic.write(path, lambda file: _copy(changed, file))
    if graph.words:
        vectors = graph.example()[1].cpu().numpy()
        arrays = {"names": np.array(graph.spaces[0].names), "vectors": vectors}
        atomic.write_arrays(path.with_suffix(".words.npz"), arrays)
    atomic.write(path.with_name("onnx_predictor.py"), Path(predictor.__file__).read_text(encoding="utf-8"))


def _copy(source: Path, file: Any) -> None:
    with source.open("rb") as opened:
        shutil.copyfileobj(opened, file)


def _converted(plain: Path, precision: Precision, graph: ExportGraph, images: Sequence[np.ndarray]) -> Path:
    """Return a file of the asked precision, beside the plain one."""
    target = plain.with_name(f"{precision}.onnx")
    if precision == "fp16":
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(plain), keep_io_types=True), target)
        return target
    if precision == "int8":
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Images(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
            def __init__(self) -> None:
                self.left = _inputs(graph, images)

            def get_next(self) -> Mapping[str, np.ndarray] | None:
                return next(self.left, None)

        # Without this it writes advice to do it on the console.
        prepared = plain.with_name("prepared.onnx")
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(prepared, target, Images(), op_types_to_quantize=["Conv"], per_channel=True)
        return target
    return plain


def _inputs(graph: ExportGraph, images: Sequence[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    words = {"words": graph.example()[1].cpu().numpy()} if graph.words else {}
    for image in images:
        yield {"image": predictor.fit(image, graph.multiple, CALIBRATION_SIDE)[None], **words}


@torch.no_grad()
def agreement(graph: ExportGraph, path: Path, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> dict[str, float]:
    """Compare an ONNX file, run by onnxruntime on the CPU, with the network it was made from.

    Both see the images at the sizes that `predictor.fit` gives. For every output: the share of pixels that have the
    same class; probabilities and scores are compared by their largest class.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    words = graph.example()[1:]
    equal, pixels = dict.fromkeys(graph.names, 0), dict.fromkeys(graph.names, 0)
    for image in images:
        seen = predictor.fit(image, graph.multiple, None)[None]
        given = dict(zip(("image", "words"), (seen, *(w.cpu().numpy() for w in words)), strict=False))
        expected = graph(torch.from_numpy(seen).to(graph.method.device), *words)
        for name, a, b in zip(graph.names, session.run(graph.names, given), expected, strict=True):
            truth = b.cpu().numpy()
            same = a == truth if graph.output == "label_map" else a.argmax(1) == truth.argmax(1)
            equal[name] += int(same.sum())
            pixels[name] += same.size
    return {name: equal[name] / pixels[name] for name in graph.names}
