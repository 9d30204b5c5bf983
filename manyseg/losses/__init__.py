"""Losses: of pixels, of masks, and the matching of queries to segments."""

from manyseg.losses.mean_loss import Averaging, MeanLoss, divide
from manyseg.losses.pixel import (
    BinaryTargets,
    binary_cross_entropy,
    cross_entropy,
    null_bce_targets,
    set_nll,
    soft_cross_entropy,
)
from manyseg.losses.relation_index import RelationIndex, class_logsumexp, class_max, padded_lists
from manyseg.losses.upsampling import PixelLoss, upsampled_sum

__all__ = [
    "Averaging",
    "BinaryTargets",
    "MeanLoss",
    "PixelLoss",
    "RelationIndex",
    "binary_cross_entropy",
    "class_logsumexp",
    "class_max",
    "cross_entropy",
    "divide",
    "null_bce_targets",
    "padded_lists",
    "set_nll",
    "soft_cross_entropy",
    "upsampled_sum",
]
