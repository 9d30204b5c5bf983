"""Images resized to the input size of a network.

Axes: B images, H W the size after resizing.
"""

from __future__ import annotations

from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from manyseg.inference.options import Size

__all__ = ["resize"]


def resize(image: UInt8[Tensor, "*B 3 _ _"], size: Size) -> UInt8[Tensor, "*B 3 H W"]:
    """Resize 8-bit images, antialiased; return the image itself where it has that size already."""
    if tuple(image.shape[-2:]) == size:
        return image
    batch = image if image.ndim == 4 else image[None]
    resized = F.interpolate(batch.float(), size, mode="bilinear", align_corners=False, antialias=True)
    resized = resized.round().clamp(0, 255).to(image.dtype)
    return resized if image.ndim == 4 else resized[0]
