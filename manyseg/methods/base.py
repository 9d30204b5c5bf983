"""The contract that every method fulfils, and the part that methods on pixels share.

Axes: B images, D classes of one dataset, U unified nodes, C channels, H W pixels, h w at feature resolution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from manyseg import losses
from manyseg.data.annotation import Annotation, Dense, Segments
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.models import Features, Pixels

__all__ = ["Method", "PixelMethod"]


class Method(nn.Module, ABC):
    """A way to learn one model from several label spaces.

    `pixels` turns images into features; `spaces` are the training datasets' label spaces, in recipe order. The typed
    keywords of a subclass's constructor are its options: recipes fill them and are checked against them.
    """

    accepts: ClassVar[tuple[type[Annotation], ...]] = (Dense, Segments)
    """Kinds of annotation whose loss this method can take; the trainer refuses others by name before it starts."""

    def __init__(self, pixels: Pixels, spaces: Sequence[LabelSpace]) -> None:
        super().__init__()
        self.pixels = pixels
        self.spaces = tuple(spaces)

    @property
    @abstractmethod
    def taxonomy(self) -> Taxonomy:
        """The unified label space as it stands now: given, or computed from learned parameters."""

    @abstractmethod
    def batch_loss(self, features: Features, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the named losses of one dataset's batch; each is finite and has a gradient graph, even if all is
        ignored.
        """

    @abstractmethod
    def predict(
        self,
        image: Float[Tensor, "B 3 H W"],
        space: LabelSpace,
        relation: Bool[Tensor, "D U"] | None = None,
    ) -> Float[Tensor, "B D h w"]:
        """Return scores in the classes of `space` at feature resolution; softmax over D is the method's belief.

        `space` is one of the training spaces or `taxonomy.unified`; a language method takes any list of words. An
        unseen space is read through `relation`, whose empty rows score -inf. Raises UserError otherwise.
        """

    def shared_loss(self) -> dict[str, Float[Tensor, ""]]:
        """Return penalties that depend on no batch. A hook; the default has none."""
        return {}

    def on_step(self, step: int) -> None:
        """Prepare step number `step` (from 0) before its batches arrive. A hook; the default does nothing."""

    @final
    def forward(self, batches: Sequence[Batch]) -> dict[str, Float[Tensor, ""]]:
        """Encode all batches, split, and return every loss by name: `<dataset>/<loss>`, shared ones by their own name.

        Batches of equal image size pass the backbone together. The total is the sum of the values.
        """
        out: dict[str, Tensor] = {}
        for batch, features in zip(batches, self._encode(batches), strict=True):
            for name, value in self.batch_loss(features, batch).items():
                out[f"{batch.space.name}/{name}"] = value * batch.weight
        return out | self.shared_loss()

    def _encode(self, batches: Sequence[Batch]) -> list[Features]:
        sizes: dict[tuple[int, ...], list[int]] = {}
        for i, batch in enumerate(batches):
            sizes.setdefault(tuple(batch.image.shape[1:]), []).append(i)
        features: dict[int, Features] = {}
        for group in sizes.values():
            joint = self.pixels(torch.cat([batches[i].image for i in group]))
            parts = joint.split([len(batches[i].image) for i in group])
            features.update(zip(group, parts, strict=True))
        return [features[i] for i in range(len(batches))]


class PixelMethod(Method):
    """A method that scores every pixel against unified nodes and reads dataset scores through a relation.

    A subclass provides `unified` and `taxonomy`, and may replace the hooks `relate`, `dataset_scores`, `pixel_loss`.
    """

    normalised: ClassVar[bool] = False
    """True where dataset scores are log-probabilities already: then no second softmax over D may follow."""

    def __init__(self, pixels: Pixels, spaces: Sequence[LabelSpace]) -> None:
        super().__init__(pixels, spaces)
        self._relations: dict[str, Tensor] = {}

    @abstractmethod
    def unified(self, pixel: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Score every pixel embedding against every unified node."""

    @abstractmethod
    def relate(
        self, unified: Float[Tensor, "B U h w"], relation: Bool[Tensor, "D U"]
    ) -> Float[Tensor, "B D h w"]:
        """Turn unified scores into the scores of classes whose nodes `relation` names."""

    def relation(self, space: LabelSpace) -> Bool[Tensor, "D U"]:
        """Return the relation of a training dataset's space, or the identity for the unified one, as a tensor."""
        taxonomy = self.taxonomy
        if space == taxonomy.unified:
            return torch.eye(len(space), dtype=torch.bool, device=self.device)
        if space not in taxonomy.spaces:
            known = ", ".join(s.name for s in taxonomy.spaces)
            raise UserError(f"'{space.name}' is no label space of this model ({known}, unified); relate it first")
        return torch.from_numpy(taxonomy.relations[space.name]).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def dataset_scores(self, pixel: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B D h w"]:
        """Score a training dataset's classes. A hook: the default relates all unified scores; fold where one can."""
        return self.relate(self.unified(pixel), self.relation(space))

    def pixel_loss(self, scores: Float[Tensor, "B D h w"], batch: Batch) -> Float[Tensor, ""]:
        """Return the loss of scores against the batch's labels. A hook; the default is cross entropy."""
        assert isinstance(batch.annotation, Dense | Segments)
        return losses.cross_entropy(scores, batch.annotation.labels, normalised=self.normalised)

    @final
    def batch_loss(self, features: Features, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the pixel loss of the dataset's own scores."""
        return {"pixel": self.pixel_loss(self.dataset_scores(features.pixel, batch.space), batch)}

    @final
    def predict(
        self,
        image: Float[Tensor, "B 3 H W"],
        space: LabelSpace,
        relation: Bool[Tensor, "D U"] | None = None,
    ) -> Float[Tensor, "B D h w"]:
        """Return scores in `space`; see `Method.predict`."""
        pixel = self.pixels(image).pixel
        if relation is not None:
            scores = self.relate(self.unified(pixel), relation.to(self.device))
            return scores.masked_fill(~relation.to(self.device).any(1)[:, None, None], float("-inf"))
        if space in self.taxonomy.spaces:
            return self.dataset_scores(pixel, space)
        return self.relate(self.unified(pixel), self.relation(space))
