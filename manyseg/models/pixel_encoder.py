"""Feature levels to one dense embedding map: the pixel decoder.

Every neck gives `embedding` [B, channels, h, w] at stride 4, neither normalised nor activated, so that a method may
take dot products, cosines or softmax as it pleases. Where the finest level is coarser, as the maps of a plain
transformer are, the neck works at its stride, and its result is resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.errors import UserError
from manyseg.models.backbone import Backbone, FeatureMaps
from manyseg.models.deformable import DeformablePyramid
from manyseg.models.mask_checkpoints import INIT, read_published
from manyseg.models.plain_vit import PlainViT, at_stride_4
from manyseg.models.trainable import Trainable, parse
from manyseg.models.weights import fit

__all__ = ["Features", "PixelEncoder"]

Neck: TypeAlias = Literal["fpn", "concat", "linear", "deformable"]


class Features(NamedTuple):
    """What a network sees in a batch: the levels, fine to coarse, and one embedding a pixel at stride 4.

    The levels are the backbone's, or those of a neck that makes its own.
    """

    levels: tuple[Float[Tensor, "B _ _ _"], ...]
    embedding: Float[Tensor, "B C h w"]

    def split(self, sizes: Sequence[int]) -> list[Features]:
        """Cut along the batch into parts of the given numbers of images."""
        levels = zip(*(torch.split(level, list(sizes)) for level in self.levels), strict=True)
        return [
            Features(part, embedding)
            for part, embedding in zip(levels, torch.split(self.embedding, list(sizes)), strict=True)
        ]


class PixelEncoder(nn.Module):
    """Image in, `Features` out: normalisation, backbone, and the neck that joins levels into one embedding map."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, channels: int = 256, neck: Neck = "fpn") -> None:
        super().__init__()
        if channels < 1:
            raise UserError(f"model.channels is {channels}; give the width of the embedding, 1 or more")
        self.channels = channels
        self.backbone = backbone
        self.for_decoder: dict[str, Tensor] = {}
        """Tensors of a published network that a decoder takes over (`init`)."""
        self.neck: nn.Module | None = NECKS[neck](backbone, channels)
        self.level_channels = list(backbone.channels)
        """Channels of the levels that decoders look at, fine to coarse."""
        if isinstance(self.neck, DeformablePyramid):
            self.level_channels = [channels] * self.neck.count
        # In the image's own unit, 0..255. Not part of the state: they follow from the backbone's name.
        self.register_buffer("mean", 255 * torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def build(
        cls,
        *,
        backbone: str = "tf_efficientnet_lite0",
        pretrained: bool | str = True,
        features: FeatureMaps = "pyramid",
        trainable: Trainable = "all",
        frozen_batch_norm: bool = False,
        drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        checkpointing: bool = False,
        patch_size: Annotated[int, Field(ge=1)] | None = None,
        image_size: Annotated[int, Field(ge=1)] | None = None,
        level_norm: bool = False,
        init: str | None = None,
        channels: int = 256,
        neck: Neck = "fpn",
    ) -> PixelEncoder:
        """Build from the `[model]` table of a recipe; `backbone` and `pretrained` are those of `Backbone`.

        `features` is what the trunk gives: "pyramid", levels of strides 4 to 32 (a plain transformer's by the simple
        feature pyramid of ViTDet); "layers", the last four layers of a plain transformer; "last", its last layer.
        `trainable` is what is trained of the trunk: "all"; "last:4", its last four layers; "lora:8", additions of rank
        8 to its attention; "none". What is not trained keeps the statistics of its norms too. `frozen_batch_norm` does
        so with batch norms alone. `drop_path` is the rate of stochastic depth in the last block, rising from 0 in the
        first. `checkpointing` computes activations again in the backward pass instead of keeping them. `patch_size` is
        another side of a plain transformer's patches than its own, `image_size` the side of the square image that its
        position embeddings are kept for; published weights are resampled to both. `level_norm` puts a layer norm onto
        every level, as Swin's authors do.

        `init` is a published EoMT or Mask2Former to start from, in place of `pretrained`: "hf:" and its name on the
        Hugging Face hub, or a folder or file of its weights. A method without such a decoder takes the trunk.

        `channels` is the width of the embedding and of the neck. `neck` is "fpn" (cheap, for any backbone), "concat"
        (HRNet's own, for backbones that keep a fine level of high quality), "linear" (batch norm and one linear layer
        over all levels: with a frozen trunk, DINOv2's linear head) or "deformable" (Mask2Former's pixel decoder, whose
        levels decoders of masks look at).
        """
        try:
            parse(trainable)
        except ValueError as e:
            raise UserError(f"model.trainable is '{trainable}'; {e}") from None
        trunk = Backbone(
            backbone,
            False if init else pretrained,
            features=features,
            trainable=trainable,
            frozen_batch_norm=frozen_batch_norm,
            drop_path=drop_path,
            checkpointing=checkpointing,
            patch_size=patch_size,
            image_size=image_size,
            level_norm=level_norm,
        )
        encoder = cls(trunk, channels, neck)
        if init:
            encoder._start_from(init)
        return encoder

    def forward(self, image: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Features:
        """Encode images with values 0..255 of any size."""
        try:
            levels = self.backbone((image.to(self.mean.dtype) - self.mean) / self.std)
            size = image.shape[-2], image.shape[-1]
            if self.neck is None:
                return Features(tuple(levels), levels[0].new_zeros(len(image), 0, -(-size[0] // 4), -(-size[1] // 4)))
            embedding = self.neck(levels)
            if isinstance(self.neck, DeformablePyramid):
                embedding, levels = embedding
            return Features(tuple(levels), at_stride_4(embedding, self.backbone.strides[0], size))
        except ValueError as e:
            if "more than 1 value per channel" not in str(e):
                raise
            batch, _, height, width = image.shape
            raise UserError(
                f"data.crop: batch norm cannot be trained on {batch} crop of {height}x{width}, which is one pixel at "
                "the coarsest level; use crops of at least 64x64, or at least 2 images a step of every dataset"
            ) from None

    @staticmethod
    def without_weights(table: Mapping[str, Any]) -> dict[str, Any]:
        """Return a [model] table that loads nothing, for networks whose weights come from elsewhere."""
        return {**table, "pretrained": False, "init": None}

    def _start_from(self, init: str) -> None:
        """Take over the trunk of a published network, and keep what is for a decoder."""
        given = read_published(init)
        trunk = {k.removeprefix("trunk."): v for k, v in given.items() if k.startswith("trunk.")}
        self.backbone.take_over(trunk, f"{INIT}: {init}")
        for part, module in (("levels.", self.backbone.level_norms), ("neck.", self.neck)):
            own = {k.removeprefix(part): v for k, v in given.items() if k.startswith(part)}
            found = fit(module.state_dict() if module is not None else {}, own)
            if own and (module is None or found.missing or found.unfit or found.unexpected):
                raise UserError(
                    f"{INIT}: {init} does not fit the neck: {found}; set model.neck = 'deformable', model.level_norm = "
                    "true, and model.channels and model.features as the published network has them"
                )
            if own and module is not None:
                module.load_state_dict(found.matched)
        self.for_decoder = {k.removeprefix("decoder."): v for k, v in given.items() if k.startswith("decoder.")}

    def give_tokens(self) -> PlainViT:
        """Drop neck and levels for a decoder inside the trunk (EoMT), and return the trunk.

        `channels` are the trunk's from then on, and the embedding of `Features` has none. Raises UserError where the
        trunk is no plain transformer.
        """
        trunk = self.backbone.net
        if not isinstance(trunk, PlainViT):
            raise UserError(
                f"method.decoder is 'eomt', whose queries are inside a plain transformer, which '{self.backbone.name}' "
                "is not; set model.backbone to one, such as vit_small_patch16_dinov3"
            )
        self.neck = self.backbone.pyramid = None
        self.channels = trunk.channels
        return trunk


class _Pyramid(nn.Module):
    """A feature pyramid whose levels are summed at stride 4, with pyramid pooling on the coarsest level.

    Lateral 1x1 and top-down sums as in FPN (Lin et al. 2017); pooling in 1, 2, 3 and 6 bins as in PSPNet and UPerNet,
    because what a patch of asphalt or sky is depends on where in the scene it lies, and at stride 32 it is almost
    free; a 3x3 convolution for every coarse level, then a sum at stride 4 (Panoptic FPN, Kirillov et al. 2019) and one
    3x3 convolution. UPerNet's own 3x3 over the concatenated levels costs four times as much.
    """

    # Doubt: with crops of 128x192 one run with the pooling and one without scored alike (0.280 and 0.282 mIoU, 300
    # steps); it is kept for larger scenes, where published decoders gain from it, and for its price of about nothing.
    bins = (1, 2, 3, 6)

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        width = -(-channels // len(self.bins))
        coarsest = backbone.channels[-1]
        self.laterals = nn.ModuleList(_block(backbone, c, channels, 1) for c in backbone.channels[:-1])
        # No norm here: a pooled map of one bin and one image has no batch statistics.
        self.contexts = nn.ModuleList(nn.Conv2d(coarsest, width, 1) for _ in self.bins)
        self.context = _block(backbone, coarsest + width * len(self.bins), channels, 1)
        self.smooths = nn.ModuleList(_block(backbone, channels, channels, 3) for _ in self.laterals)
        self.fuse = _block(backbone, channels, channels, 3)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        top = levels[-1]
        pooled = [F.relu(conv(_adaptive_pool(top, b))) for conv, b in zip(self.contexts, self.bins, strict=True)]
        path = self.context(torch.cat([top, *(_resize(p, top) for p in pooled)], 1))
        coarse = []
        # Top-down; every path but the finest is smoothed before it is summed up, the finest by `fuse` itself.
        for level, lateral, smooth in zip(
            reversed(levels[:-1]), reversed(self.laterals), reversed(self.smooths), strict=True
        ):
            coarse.append(smooth(path))
            path = lateral(level) + _resize(path, level)
        for level in coarse:
            path = path + _resize(level, path)
        return cast(Tensor, self.out(self.fuse(path)))


class _Concat(nn.Module):
    """HRNetV2's head (Sun et al. 2019): all levels at stride 4, concatenated, 1x1, norm, ReLU, 1x1.

    A 1x1 convolution and a bilinear resize commute, so each level is convolved at its own resolution and the results
    are summed: the same numbers without the concatenated map. The hidden width is the concatenated one, as published,
    but at most 720 (HRNet-W48's), or backbones with wide levels would not fit into memory.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        hidden = min(sum(backbone.channels), 720)
        self.joins = nn.ModuleList(nn.Conv2d(c, hidden, 1, bias=False) for c in backbone.channels)
        self.out = nn.Sequential(backbone.norm(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1))

    def forward(self, levels: list[Tensor]) -> Tensor:
        joined = self.joins[0](levels[0])
        for join, level in zip(self.joins[1:], levels[1:], strict=True):
            joined = joined + _resize(join(level), joined)
        return cast(Tensor, self.out(joined))


class _Linear(nn.Module):
    """Batch norm and one linear layer over all levels, concatenated (Oquab et al. 2024, the linear head).

    As in `_Concat`, each level is convolved at its own resolution, and the results are summed at the finest.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(backbone.norm(c) for c in backbone.channels)
        self.joins = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=i == 0) for i, c in enumerate(backbone.channels))

    def forward(self, levels: list[Tensor]) -> Tensor:
        parts = [join(norm(x)) for join, norm, x in zip(self.joins, self.norms, levels, strict=True)]
        return sum((_resize(part, parts[0]) for part in parts[1:]), start=parts[0])


NECKS: dict[str, Callable[[Backbone, int], nn.Module]] = {
    "fpn": _Pyramid,
    "concat": _Concat,
    "linear": _Linear,
    "deformable": lambda backbone, channels: DeformablePyramid(backbone.channels, channels),
}


def _block(backbone: Backbone, inputs: int, outputs: int, size: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, backbone.norm(outputs), nn.ReLU(inplace=True))


def _adaptive_pool(level: Float[Tensor, "B C h w"], bins: int) -> Float[Tensor, "B C bins bins"]:
    """Average over `bins` x `bins` parts, as torch's adaptive pooling divides a map; parts may share a row or column.

    In a network that is being exported as products of matrices, which take maps of any size there.
    """
    if torch.compiler.is_compiling():
        return _parts(level, -2, bins) @ level @ _parts(level, -1, bins).T
    return F.adaptive_avg_pool2d(level, bins)


def _parts(level: Tensor, axis: int, bins: int) -> Float[Tensor, "bins _"]:
    """Return the weight of every position of an axis in the mean of every part."""
    length = level.shape[axis]
    part, position = torch.arange(bins, device=level.device)[:, None], torch.arange(length, device=level.device)
    start, stop = part * length // bins, ((part + 1) * length + bins - 1) // bins
    inside = ((position >= start) & (position < stop)).to(level.dtype)
    return inside / inside.sum(1, keepdim=True)


def _resize(source: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(source, size=like.shape[-2:], mode="bilinear", align_corners=False)
