"""A network of 5 thousand parameters for tests and the demo."""

from __future__ import annotations

import math

from torch import Tensor, nn

__all__ = ["TinyNet", "group_norm"]


def group_norm(channels: int) -> nn.Module:
    """Build the norm of the tiny network: batches of one or two images have worthless batch statistics."""
    return nn.GroupNorm(math.gcd(4, channels), channels)


class TinyNet(nn.Module):
    """Levels at strides 4, 8 and 16, of `channels`."""

    channels = (16, 24, 32)
    strides = (4, 8, 16)

    def __init__(self) -> None:
        super().__init__()
        # No norm on the first layer: absolute colour must survive, and group norm would take the image's mean away.
        self.first = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList(_stage(i, o) for i, o in zip([12, *self.channels], self.channels, strict=False))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the three levels."""
        levels = [self.first(image)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels[1:]


def _stage(inputs: int, outputs: int) -> nn.Module:
    # Depthwise then pointwise: a plain convolution would have three times the parameters of the whole net.
    depthwise = nn.Conv2d(inputs, inputs, 5, stride=2, padding=2, groups=inputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(depthwise, pointwise, group_norm(outputs), nn.ReLU(inplace=True))
