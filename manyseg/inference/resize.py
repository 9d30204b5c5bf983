"""Images at the size that a network sees.

Axes: B images, H W the size asked for.
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
    small = F.interpolate(batch.float(), size, mode="bilinear", align_corners=False, antialias=True)
    small = small.round().clamp(0, 255).to(image.dtype)
    return small if image.ndim == 4 else small[0]
