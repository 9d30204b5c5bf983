"""The contract that every method fulfils, and the part that methods on pixels share.

Axes: B images, D classes of one dataset, U unified nodes, C channels, H W pixels, h w at feature resolution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, final

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from manyseg import losses
from manyseg.data.annotation import Annotation, Dense, Segments
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.inference.segments import SegmentMap
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.labels.hierarchy import Hierarchy
from manyseg.losses import RelationIndex
from manyseg.models import Features, PixelEncoder

__all__ = ["Method", "NameClassifier", "PixelMethod", "Schedule", "StagePlan", "step_seed"]


class StagePlan(BaseModel):
    """A stage of a run, as a recipe's [[stage]] table or a method's `default_stages` describes it.

    It starts from the weights that the stage before it ended with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w-]+$", description="Name of the stage, and of its folder in the run.")
    steps: int = Field(ge=1, description="Its share of train.steps, in proportion to the other stages' steps.")
    method: dict[str, Any] = Field(
        default={}, description="Options over those of [method]; with another name, that method and its options."
    )
    train: dict[str, Any] = Field(default={}, description="Keys over those of [train].")


class Schedule(Protocol):
    """What a method may read of the recipe's [train] table to divide it into stages; see `training.options`."""

    @property
    def steps(self) -> int:
        """Updates of the weights, over all stages."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""

    @property
    def warmup(self) -> int:
        """Steps in which the learning rate rises."""


class NameClassifier(NamedTuple):
    """A linear classifier of unified nodes that datasets share by name: every class has one node, of its own name."""

    logits: Callable[[Float[Tensor, "B C h w"]], Float[Tensor, "B U h w"]]
    weight: Float[Tensor, "U C *_"]
    """A row for every node; what `logits` computes has a gradient in it."""


class Method(nn.Module, ABC):
    """A way to learn one model from several label spaces.

    `pixel_encoder` turns images into features, from which training and prediction both start: encode images once, then
    predict in as many label spaces as are wanted. `manyseg.inference.encoded_images.EncodedImages` does so for images
    of any size, with windows, flips and scales. `spaces` are the training datasets' label spaces, in recipe order. The
    typed keywords of a subclass's constructor are its options: recipes fill them and are checked against them.
    """

    accepts: ClassVar[tuple[type[Annotation], ...]] = (Dense, Segments)
    """Kinds of annotation whose loss this method can take; the trainer refuses others by name before it starts."""

    reads_words: bool = False
    """True where `predict` takes any list of words for a space."""

    finds_segments: ClassVar[bool] = False
    """True where `segments` tells objects apart."""

    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """What options of earlier versions are now: `{"old": "new"}` makes the error `method.old: is now new`."""

    def __init__(self, pixel_encoder: PixelEncoder, spaces: Sequence[LabelSpace]) -> None:
        super().__init__()
        self.pixel_encoder = pixel_encoder
        self.spaces = tuple(spaces)

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on, and that images and labels are to be on."""
        return next(self.parameters()).device

    @property
    @abstractmethod
    def taxonomy(self) -> Taxonomy:
        """The unified label space as it stands now: given, or computed from learned parameters.

        The same object as long as it does not change; tensors that follow from it are cached with it.
        """

    @abstractmethod
    def batch_loss(self, features: Features, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the named losses of one dataset's batch, each finite and with a graph even if all is ignored."""

    @abstractmethod
    def predict(
        self, features: Features, space: LabelSpace, relation: Bool[Tensor, "D U"] | None = None
    ) -> Float[Tensor, "B D h w"]:
        """Return scores in the classes of `space` at feature resolution; softmax over D is the method's belief.

        `features` are what `pixel_encoder` gives for a batch of images. `space` is one of the training spaces or
        `taxonomy.unified`; a language method takes any list of words. An unseen space is read through `relation`, whose
        empty rows score -inf. Raises UserError otherwise.
        """

    def segments(self, features: Features, space: LabelSpace, size: tuple[int, int]) -> list[SegmentMap]:
        """Return things and stuff of every image, at `size` (height, width). A hook for methods with `finds_segments`.

        `space` is what `predict` takes without a relation; its classes say what is a thing.
        """
        raise UserError(f"{type(self).__name__} finds classes, not objects; panoptic results need the method lmseg")

    def step_losses(self, features: Sequence[Features], batches: Sequence[Batch]) -> list[dict[str, Tensor]]:
        """Return the losses of every batch of a step. A hook for what is better done at once; one by one as it is."""
        return [self.batch_loss(one, batch) for one, batch in zip(features, batches, strict=True)]

    @property
    def hierarchy(self) -> Hierarchy | None:
        """The tree of concepts whose log-probabilities `predict` gives through their leaves. A hook; none."""
        return None

    def shared_loss(self) -> dict[str, Float[Tensor, ""]]:
        """Return penalties that depend on no batch. A hook; the default has none."""
        return {}

    def on_step(self, step: int) -> None:
        """Prepare step number `step` (from 0) before its batches arrive. A hook; the default does nothing.

        What is drawn in here, such as a `step_seed`, is the same in all processes; in `batch_loss` each process draws
        its own numbers. Only what belongs to an image may be drawn there: a run is to be the same run whatever the
        number of its processes.
        """

    @property
    def activation(self) -> Callable[[Features], Float[Tensor, "B U h w"]] | None:
        """What statistics sum up by true class: a function of features that gives every unified node a value.

        A hook; the default is None, which sums nothing up.

        It is read where an option of a later stage is the statistics of a stage with this method (`StageStatistics`).
        """
        return None

    @property
    def name_classifier(self) -> NameClassifier | None:
        """What gradients of datasets are compared at (`evaluation.gradient_conflict`). A hook; none."""
        return None

    @property
    def tables(self) -> Mapping[str, str]:
        """What a run writes beside its taxonomy, for people to read and edit: file names to texts. A hook; none."""
        return {}

    def inherit(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Prepare what the stage before handed over, of which equal names and shapes are taken. A hook; as it is.

        Its parameters and buffers may then be called and shaped otherwise than this method's.
        """
        return weights

    def handover(self) -> dict[str, Tensor]:
        """Return the tensors that a later stage of the run starts from, by name. A hook; the state."""
        return self.state_dict()

    def lr_factor(self, name: str) -> float:
        """Return the learning rate of the parameter called `name` as a multiple of the others'. A hook; 1."""
        return 1.0

    @classmethod
    def default_stages(cls, options: Any, train: Schedule) -> list[StagePlan]:
        """Divide `train.steps` into stages. The default is one stage.

        `options` are the checked options of the recipe's [method] table: an attribute for every keyword of the
        constructor, with its default where the recipe does not give it. An option of a later stage may be what an
        earlier stage ended with: `StageTaxonomy(name)` or `StageStatistics(name)`, see `manyseg.methods.sources`.
        """
        return [StagePlan(name="train", steps=train.steps)]

    @final  # type: ignore[misc]  # torch declares `forward` as an attribute that may be assigned
    def forward(self, batches: Sequence[Batch]) -> dict[str, Float[Tensor, ""]]:
        """Encode all batches, split, and return every loss by name: `<dataset>/<loss>`, shared ones by their own name.

        Batches of equal image size pass the backbone together. Losses of several batches of one dataset add up, and
        the total is the sum of the values.
        """
        out: dict[str, Tensor] = {}
        for batch, named in zip(batches, self.step_losses(self._encode(batches), batches), strict=True):
            for loss, value in named.items():
                name = f"{batch.space.name}/{loss}"
                value = value * batch.weight
                out[name] = out[name] + value if name in out else value
        return out | self.shared_loss()

    def _encode(self, batches: Sequence[Batch]) -> list[Features]:
        sizes: dict[tuple[int, ...], list[int]] = {}
        for i, batch in enumerate(batches):
            sizes.setdefault(tuple(batch.image.shape[1:]), []).append(i)
        features: dict[int, Features] = {}
        for group in sizes.values():
            joint = self.pixel_encoder(torch.cat([batches[i].image for i in group]))
            parts = joint.split([len(batches[i].image) for i in group])
            features.update(zip(group, parts, strict=True))
        return [features[i] for i in range(len(batches))]


class PixelMethod(Method):
    """A method that scores every pixel against unified nodes and reads dataset scores through a relation.

    A subclass provides `taxonomy`, `unified` and `relate`. It may replace the hooks `dataset_scores` (fold where one
    can), `train_scores` (let more than the dataset's classes compete) and `pixel_loss`.
    """

    normalised: ClassVar[bool] = False
    """True where `train_scores` are log-probabilities already: then no second softmax over D may follow."""

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
        """Score a training dataset's classes. A hook: the default relates all unified scores; fold where one can."""
        return self.relate(self.unified(embedding), self.relation_index(space))

    def train_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B A h w"]:
        """Score what competes in training, A channels. A hook: the default is the dataset's classes."""
        return self.dataset_scores(embedding, space)

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> Float[Tensor, ""]:
        """Return the loss of `train_scores` against the batch's labels. A hook; the default is cross entropy."""
        return losses.cross_entropy(scores, dense_labels(batch), normalised=self.normalised, ohem=self.ohem)

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
    def batch_loss(self, features: Features, batch: Batch) -> dict[str, Float[Tensor, ""]]:
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


def step_seed() -> int:
    """Draw the seed of a generator from which `batch_loss` draws what all processes share; for `on_step`."""
    return int(torch.randint(2**62, ()))


def dense_labels(batch: Batch) -> Tensor:
    """Return Int[B, H, W], the class of every pixel, of a batch of masks or segments."""
    assert isinstance(batch.annotation, Dense | Segments)
    return batch.annotation.labels


def _relation(taxonomy: Taxonomy, space: LabelSpace) -> Bool[Tensor, "D U"]:
    if space == taxonomy.unified:
        return torch.eye(len(space), dtype=torch.bool)
    if space not in taxonomy.spaces:
        known = ", ".join(s.name for s in taxonomy.spaces)
        raise UserError(f"'{space.name}' is no label space of this model ({known}, unified); relate it first")
    return torch.tensor(taxonomy.relations[space.name])
