"""timm's networks by name: what they are called, how each family gives dense features, and the order of its layers."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from manyseg.errors import UserError
from manyseg.models.plain_vit import PlainViT

__all__ = ["build", "converted", "is_plain", "layer_numbers", "normalisation", "published", "resolve"]

ARGUMENTS: dict[str, dict[str, Any]] = {
    "hrnet": {"feature_location": ""},  # the four branches themselves (HRNetV2), not the classification head's
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "vision_transformer": {"dynamic_img_size": True},
    "vision_transformer_hybrid": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
}
"""What a family of timm (its module) needs in order to give dense features of images of any size."""

PLAIN = ("beit", "deit", "eva", "naflexvit", "vision_transformer", "vision_transformer_hybrid")
"""Families of plain transformers: equal blocks over patches of one size."""


def resolve(name: str) -> str:
    """Return the name of the timm model that `name` is, or is the beginning of; raises UserError where it is neither.

    A published set of weights of it may follow after a dot, as in `resnet50_clip.openai`.
    """
    import timm  # slow to import, and not needed for the tiny net

    if timm.is_model(name):
        return name
    models = timm.list_models()
    longer = [m for m in models if m.startswith(name)]
    if len(longer) == 1:
        return str(longer[0])
    close = longer[:8] if name else []
    close = close or difflib.get_close_matches(name, models, n=5, cutoff=0.4)
    raise UserError(
        f"model.backbone: timm has no model '{name}'; "
        + (f"did you mean {', '.join(close)}?" if close else "see timm.list_models() for the names")
    )


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation, a function of the name alone, so that reloading a run needs no published weights."""
    if name.startswith("tf_efficientnet_lite"):
        # As these were trained (127 and 128 of 255); timm's table rounds both to 0.5.
        return (127 / 255,) * 3, (128 / 255,) * 3
    import timm

    cfg = timm.get_pretrained_cfg(name)
    return (tuple(cfg.mean), tuple(cfg.std)) if cfg else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def is_plain(name: str) -> bool:
    """Say whether a timm model is a plain transformer."""
    return _family(name).__name__.rsplit(".", 1)[-1] in PLAIN


def build(
    name: str, sizes: Mapping[str, int], *, layers: int = 1, drop_path: float = 0.0, pretrained: bool = False
) -> nn.Module:
    """Build a network: a `PlainViT` that gives the maps of its last `layers`, or timm's own features of all levels.

    `sizes` may have a plain transformer's `patch_size`, and the `img_size` that its position embeddings are for.
    """
    arguments = {**ARGUMENTS.get(_family(name).__name__.rsplit(".", 1)[-1], {}), **sizes, "pretrained": pretrained}
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    plain = is_plain(name)
    try:
        net = _create(name, **({"num_classes": 0} if plain else {"features_only": True}), **arguments)
    except TypeError as e:
        if "drop_path_rate" not in str(e):
            raise
        net = None
    # Some releases of timm take the rate and do nothing with it.
    if net is None or (drop_path and not any(getattr(m, "drop_prob", 0) for m in net.modules())):
        raise UserError(f"model.drop_path: timm's '{name}' has no paths to drop; set it to 0")
    return PlainViT(net, layers) if plain else net


def _create(name: str, **arguments: Any) -> nn.Module:
    import timm

    try:
        net = cast(nn.Module, timm.create_model(name, **arguments))
    except (AttributeError, NotImplementedError) as e:
        raise UserError(f"model.backbone: timm's '{name}' gives no feature levels; choose another backbone") from e
    if is_plain(name) and not hasattr(net, "prune_intermediate_layers"):
        raise UserError(
            f"model.backbone: '{name}' of timm {timm.__version__} gives no feature levels; take a newer timm, or "
            "choose another backbone"
        )
    return net


def published(name: str) -> str:
    """Say where timm has the published weights of a model from."""
    import timm

    cfg = timm.get_pretrained_cfg(name)
    tag = f".{cfg.tag}" if cfg and cfg.tag and "." not in name else ""
    return f"timm's published weights '{name}{tag}'"


def converted(name: str, state: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Return tensors under timm's names and for timm's sizes, by the conversion that timm has for the family.

    It knows the layouts of the authors (DINOv2, DINOv3, OpenAI's CLIP, open_clip, EVA, BEiT), and resamples patch and
    position embeddings.
    """
    convert = getattr(_family(name), "checkpoint_filter_fn", None)
    if convert is None:
        return dict(state)
    if len(inspect.signature(convert).parameters) < 2:
        return dict(convert(dict(state)))
    return dict(convert(dict(state), _outline(name, sizes)))


def layer_numbers(net: nn.Module, name: str) -> dict[str, int]:
    """Return the number of the layer of every parameter of a network, from 0 at the image.

    Layers are what timm groups for layer-wise learning rates: for a transformer the embedding, then every block.
    """
    from timm.models._manipulate import group_parameters

    if isinstance(net, PlainViT):
        found = group_parameters(net.vit, net.vit.group_matcher(coarse=False), reverse=True)
        return _complete(net, {f"vit.{k}": v for k, v in found.items()})
    whole = _outline(name)
    if not hasattr(whole, "group_matcher"):
        raise UserError(
            f"model.backbone: timm's '{name}' has no order of layers; leave train.layer_decay at 1, and set "
            "model.trainable to all or none"
        )
    found = group_parameters(whole, cast(Any, whole).group_matcher(coarse=False), reverse=True)
    return _complete(net, {k.replace(".", "_"): v for k, v in found.items()})


def _complete(net: nn.Module, numbers: Mapping[str, int]) -> dict[str, int]:
    """Give every parameter of `net` its number, under its own name; those of no group come last."""
    last = max(numbers.values())
    names = [name for name, _ in net.named_parameters()]
    kept = {k: numbers.get(k, numbers.get(k.removeprefix("model.").replace(".", "_"), last)) for k in names}
    # Without the groups of what is not in the features, such as a classifier.
    order = {number: i for i, number in enumerate(sorted(set(kept.values())))}
    return {k: order[number] for k, number in kept.items()}


def _outline(name: str, sizes: Mapping[str, int] = MappingProxyType({})) -> nn.Module:
    """Build the whole model, without memory for its tensors where timm can."""
    try:
        with torch.device("meta"):
            return _create(name, num_classes=0, **sizes)
    except (RuntimeError, NotImplementedError):  # Some compute with values while they are built.
        return _create(name, num_classes=0, **sizes)


def _family(name: str) -> Any:
    import timm

    return importlib.import_module(timm.models.model_entrypoint(name).__module__)
