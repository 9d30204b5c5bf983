"""What methods on pixels share: scores of unified nodes, and a dataset's scores by a relation.

Axes: B images, D classes of one dataset, U unified nodes, A channels of the loss, C channels, H W pixels, h w at
feature resolution.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manyseg import losses
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.losses import MeanLoss, RelationIndex
from manyseg.methods.base import Method, dense_labels
from manyseg.models import Features, PixelEncoder

__all__ = ["PixelMethod"]


class PixelMethod(Method):
    """A method that scores every pixel against unified nodes and reads dataset scores through a relation.

    A subclass provides `taxonomy`, `unified` and `relate`. It may override `dataset_scores` (where a dataset's scores
    can be computed without those of all nodes), `train_scores` (where more channels than the dataset's classes take
    part in the loss) and `pixel_loss`.
    """

    normalised: ClassVar[bool] = False
    """True where `train_scores` are log-probabilities already, so that the loss takes no softmax of them."""

    def __init__(self, pixel_encoder: PixelEncoder, spaces: Sequence[LabelSpace], ohem: float | None = None) -> None:
        super().__init__(pixel_encoder, spaces)
        if ohem is not None and not 0 < ohem < 1:
            raise UserError(f"method.ohem is {ohem}; it is a probability between 0 and 1, 0.7 is usual")
        self.ohem = ohem
        self._indexed: Taxonomy | None = None
        self._indices: dict[tuple[LabelSpace, torch.device], RelationIndex] = {}

    @abstractmethod
    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Score every pixel embedding against every unified node."""

    @abstractmethod
    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Turn unified scores into the scores of the classes that `index` gives nodes."""

    def dataset_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B D h w"]:
        """Return the scores of a training dataset's classes; by default `relate` of the unified scores."""
        return self.relate(self.unified(embedding), self.relation_index(space))

    def train_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B A h w"]:
        """Return the A channels that the loss is taken of; by default the scores of the dataset's classes."""
        return self.dataset_scores(embedding, space)

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> MeanLoss:
        """Return the loss of `train_scores` against the batch's labels; by default cross entropy."""
        return losses.cross_entropy(
            scores,
            dense_labels(batch),
            normalised=self.normalised,
            ohem=self.ohem,
            align_corners=self.align_corners,
        )

    @final
    def relation_index(self, space: LabelSpace) -> RelationIndex:
        """Return the relation of a training dataset's space, or the identity for the unified one, on the device.

        Built once for a taxonomy, so that a training step copies nothing to the device.
        """
        taxonomy, key = self.taxonomy, (space, self.device)
        if taxonomy is not self._indexed:
            self._indexed, self._indices = taxonomy, {}
        if key not in self._indices:
            self._indices[key] = RelationIndex.of(_relation(taxonomy, space), self.device)
        return self._indices[key]

    @final
    def batch_loss(self, features: Features, batch: Batch) -> dict[str, MeanLoss]:
        """Return the loss named `pixel`, of the dataset's own labels."""
        return {"pixel": self.pixel_loss(self.train_scores(features.embedding, batch.space), batch)}

    @final
    def predict(
        self, features: Features, space: LabelSpace, relation: Bool[Tensor, "D U"] | None = None
    ) -> Float[Tensor, "B D h w"]:
        """Return scores in `space`; see `Method.predict`."""
        embedding = features.embedding
        if relation is None:
            index = self.relation_index(space)
            if space in self.spaces:
                return self.dataset_scores(embedding, space)
            return self.relate(self.unified(embedding), index)
        expected = (len(space), len(self.taxonomy.unified))
        if tuple(relation.shape) != expected:
            raise ValueError(f"the relation of '{space.name}' is {tuple(relation.shape)}, expected {expected}")
        index = RelationIndex.of(relation, self.device)
        scores = self.relate(self.unified(embedding), index)
        return scores.masked_fill(~index.matrix.any(1)[:, None, None], float("-inf"))


def _relation(taxonomy: Taxonomy, space: LabelSpace) -> Bool[Tensor, "D U"]:
    if space == taxonomy.unified:
        return torch.eye(len(space), dtype=torch.bool)
    taxonomy.position(space)
    return torch.tensor(taxonomy.relations[space.name])
