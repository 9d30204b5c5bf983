"""The contract that every method fulfils.

Axes: B images, D classes of one dataset, K of them and "no object", U unified nodes, C channels, H W pixels, h w at
feature resolution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from manyseg import losses
from manyseg.data.annotation import Annotation, Dense, Segments
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.inference.options import SegmentOptions
from manyseg.inference.segments import SegmentMap
from manyseg.labels import JointClasses, LabelSpace, Taxonomy
from manyseg.labels.hierarchy import Hierarchy
from manyseg.losses import Averaging, MeanLoss
from manyseg.methods.class_shares import class_log_shares, count_pixels, node_shares, related_log_shares
from manyseg.methods.continuation import Continuation, LabelRows, continue_from
from manyseg.methods.plan import Schedule, StagePlan
from manyseg.models import Features, PixelEncoder

__all__ = ["Method", "NameClassifier", "Schedule", "StagePlan", "dense_labels", "step_seed"]


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
    """The kinds of annotation that this method can learn from; others are an error before training starts."""

    reads_words: bool = False
    """True where `predict` takes a label space of any words."""

    finds_segments: ClassVar[bool] = False
    """True where `segments` tells objects apart."""

    label_tensors: ClassVar[tuple[str, ...]] = ()
    """How the names of tensors begin that depend on labels otherwise than row by row (`label_rows`)."""

    mean: Averaging = "dataset"
    """What a step's loss is a mean over, see `losses.divide`; the recipe's train.mean goes before it."""

    align_corners: bool = False
    """Whether scores are upsampled with corner cells on corner pixels, in losses and label maps alike."""

    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Options of earlier versions with their present names; `{"old": "new"}`: the error `method.old: is now new`."""

    class_pixels: Tensor
    """Int64[T]: pixels of every class of all datasets that training has seen, on every fourth row and column."""

    def __init__(self, pixel_encoder: PixelEncoder, spaces: Sequence[LabelSpace]) -> None:
        super().__init__()
        self.pixel_encoder = pixel_encoder
        self.spaces = tuple(spaces)
        self.register_buffer("class_pixels", torch.zeros(sum(map(len, self.spaces)), dtype=torch.int64))

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on, and that images and labels are to be on."""
        return next(self.parameters()).device

    @property
    @abstractmethod
    def taxonomy(self) -> Taxonomy:
        """The unified label space as it stands now: given, or computed from learned parameters.

        It is the same object as long as it does not change, since tensors computed from it are cached for it.
        """

    @abstractmethod
    def batch_loss(self, features: Features, batch: Batch) -> dict[str, MeanLoss]:
        """Return the losses of one dataset's batch by name; each is finite, and differentiable even without a label."""

    @abstractmethod
    def predict(
        self, features: Features, space: LabelSpace, relation: Bool[Tensor, "D U"] | None = None
    ) -> Float[Tensor, "B D h w"]:
        """Return scores in the classes of `space` at feature resolution; their softmax over D gives probabilities.

        `features` are what `pixel_encoder` gives for a batch of images. `space` is one of the training spaces or
        `taxonomy.unified`; a method that `reads_words` takes any. The scores of another space are computed through
        `relation`; classes whose row in it is empty score -inf. Raises UserError otherwise.
        """

    def segments(
        self, features: Features, space: LabelSpace, size: tuple[int, int], options: SegmentOptions
    ) -> list[SegmentMap]:
        """Return the things and stuff of every image at `size` (height, width); only methods with `finds_segments` do.

        `space` is one that `predict` takes without a relation; its classes tell things from stuff. `options` are those
        of the recipe's [test] table: which masks are kept, and which pixels are theirs.
        """
        raise UserError(f"{type(self).__name__} finds classes, not objects; panoptic results need the method lmseg")

    def log_shares(self, space: LabelSpace, relation: Bool[Tensor, "D U"] | None = None) -> Float[Tensor, " D"]:
        """Return the log of each class's share of the pixels that training has seen, by which scores are adjusted.

        `space` and `relation` are as for `predict`. It is 0 for a class that was never seen, and for all classes of a
        space of other words.
        """
        classes = JointClasses(self.spaces)
        if relation is None and space in self.spaces:
            return class_log_shares(self.class_pixels[classes.rows[space.name]])
        if relation is None and space != self.taxonomy.unified:
            return self.class_pixels.new_zeros(len(space), dtype=torch.float32)
        relation = torch.eye(len(space), dtype=torch.bool) if relation is None else relation
        return related_log_shares(node_shares(self.taxonomy, self.class_pixels), relation)

    def word_vectors(self, space: LabelSpace) -> Float[Tensor, "K C"]:
        """Return what classes and "no object" (last) of a list of words are to the network, for `predict_words`.

        Without gradients. For methods with `reads_words`, so that a network can be used where its text encoder is not.
        """
        raise UserError(f"{type(self).__name__} reads no words; give it a label space that it knows")

    def predict_words(self, features: Features, vectors: Float[Tensor, "K C"]) -> Float[Tensor, "B D h w"]:
        """Return scores as `predict` does, in the classes whose `word_vectors` are given."""
        raise UserError(f"{type(self).__name__} reads no words; give it a label space that it knows")

    def step_losses(self, features: Sequence[Features], batches: Sequence[Batch]) -> list[dict[str, MeanLoss]]:
        """Return the losses of every batch of a step; by default `batch_loss` of each.

        Override it where the batches of a step can share work.
        """
        return [self.batch_loss(one, batch) for one, batch in zip(features, batches, strict=True)]

    @property
    def hierarchy(self) -> Hierarchy | None:
        """The hierarchy at any level of which the method can predict; by default None.

        `predict` gives the log-probabilities of its classes through their leaves.
        """
        return None

    def shared_loss(self) -> dict[str, Float[Tensor, ""]]:
        """Return the losses that depend on no batch, by name; by default none."""
        return {}

    def on_step(self, step: int) -> None:
        """Prepare for step number `step` (from 0), before its batches are used; by default nothing is done.

        Random numbers that are drawn here, such as by a `step_seed`, are the same in all processes; in `batch_loss`
        each process draws its own. Only what belongs to an image may be random there: a run is to be the same run
        whatever the number of its processes.
        """

    @property
    def activation(self) -> Callable[[Features], Float[Tensor, "B U h w"]] | None:
        """A function from features to a value of every unified node, which statistics sum up by true class.

        By default None: nothing is summed up. It is used where an option of a later stage is the statistics of a stage
        with this method (`StageStatistics`).
        """
        return None

    @property
    def name_classifier(self) -> NameClassifier | None:
        """The classifier at which `evaluation.gradient_conflict` compares gradients; by default None."""
        return None

    @property
    def extra_files(self) -> Mapping[str, str]:
        """Further files that a run writes beside its taxonomy: the content of each by its name; by default none."""
        return {}

    def inherit(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the weights to start from, given those of the stage before; by default the same.

        Tensors whose name and shape are those of a tensor of this method are loaded. Override it where this method's
        tensors have other names or shapes than those of the stage before.
        """
        return weights

    def label_rows(self) -> Sequence[LabelRows]:
        """Return the rows of tensors that stand for labels, by which another run may go on; by default none."""
        return ()

    def continue_from(self, old: Method) -> Continuation:
        """Take over the weights of a trained method, of this kind or another, whose labels may be others.

        Tensors that depend on no label are taken over by name and shape, `label_rows` label by label, and
        `label_tensors` where all labels are the same. Override it where more is known of what labels mean.
        """
        return continue_from(self, old)

    def handover(self) -> dict[str, Tensor]:
        """Return the tensors that the next stage of the run starts from, by name; by default the whole state."""
        return self.state_dict()

    def lr_factor(self, name: str) -> float:
        """Return the factor on the learning rate for the parameter called `name`; by default 1."""
        return 1.0

    @classmethod
    def default_stages(cls, options: Any, train: Schedule) -> list[StagePlan]:
        """Divide `train.steps` into stages; by default there is one.

        `options` are the checked options of the recipe's [method] table: an attribute for every keyword of the
        constructor, with its default where the recipe does not give it. An option of a later stage may be what an
        earlier stage ended with: `StageTaxonomy(name)` or `StageStatistics(name)`, see `manyseg.methods.sources`.
        """
        return [StagePlan(name="train", steps=train.steps)]

    @final  # type: ignore[misc]  # torch declares `forward` as an attribute that may be assigned
    def forward(self, batches: Sequence[Batch]) -> dict[str, Float[Tensor, ""]]:
        """Return every loss of a step by name: `<dataset>/<loss>`, and shared losses under their own name.

        Batches of equal image size pass the backbone together. The total is the sum of the values, a mean over what
        `mean` says. Losses of several batches of one dataset add up.
        """
        if self.training:
            count_pixels(JointClasses(self.spaces), batches, self.class_pixels)
        named = self.step_losses(self._encode(batches), batches)
        images = [len(b.image) for b in batches]
        out: dict[str, Tensor] = {}
        values = losses.divide(named, images, self.mean, [b.weight for b in batches], [b.expected for b in batches])
        for batch, parts in zip(batches, values, strict=True):
            for loss, value in parts.items():
                name = f"{batch.space.name}/{loss}"
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


def step_seed() -> int:
    """Draw the seed of a generator from which `batch_loss` draws what all processes share; for `on_step`."""
    return int(torch.randint(2**62, ()))


def dense_labels(batch: Batch) -> Tensor:
    """Return Int[B, H, W], the class of every pixel, of a batch of masks or segments."""
    assert isinstance(batch.annotation, Dense | Segments)
    return batch.annotation.labels
