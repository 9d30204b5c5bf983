"""Losses: the family of pixel losses, of masks, and the matching of queries to segments."""

from manyseg.losses.pixel import (
    PixelLoss,
    RelationIndex,
    Targets,
    binary_cross_entropy,
    class_logsumexp,
    class_max,
    cross_entropy,
    null_table,
    set_nll,
    soft_cross_entropy,
    supervised,
    upsampled,
)

__all__ = [
    "PixelLoss",
    "RelationIndex",
    "Targets",
    "binary_cross_entropy",
    "class_logsumexp",
    "class_max",
    "cross_entropy",
    "null_table",
    "set_nll",
    "soft_cross_entropy",
    "supervised",
    "upsampled",
]
