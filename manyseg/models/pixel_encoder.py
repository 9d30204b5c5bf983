"""Feature levels to one dense embedding map: the pixel decoder.

Every neck gives `embedding` [B, channels, h, w] at stride 4, neither normalised nor activated, so that a method may
take dot products, cosines or softmax as it pleases. Where the finest level is coarser, as the maps of a plain
transformer are, the neck works at its stride, and its result is resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from manyseg.errors import UserError
from manyseg.models.backbone import Backbone, FeatureMaps
from manyseg.models.deformable import DeformablePyramid
from manyseg.models.mask_checkpoints import INIT, read_published
from manyseg.models.necks import NECKS, Neck
from manyseg.models.plain_vit import PlainViT, at_stride_4
from manyseg.models.trainable import Trainable, parse
from manyseg.models.weights import fit

__all__ = ["Features", "PixelEncoder"]


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
        patch_size: Annotated[int, Field(ge=1, le=1024)] | None = None,
        image_size: Annotated[int, Field(ge=1, le=16384)] | None = None,
        level_norm: bool = False,
        init: str | None = None,
        channels: Annotated[int, Field(le=16384)] = 256,
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
        over all levels: with a frozen trunk, DINOv2's linear head), "maskformer" (MaskFormer's pixel decoder, a pyramid
        with group norms) or "deformable" (Mask2Former's pixel decoder, whose
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
                return Features(
                    tuple(levels), levels[0].new_zeros(image.shape[0], 0, -(-size[0] // 4), -(-size[1] // 4))
                )
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
        self.backbone.strides = [trunk.patch]
        self.channels = trunk.channels
        return trunk
