"""LMSeg: mask queries that are classified against the words of whichever dataset an image is of.

Source: Zhou, Liu, Yu, Li, Wang, Wang, "LMSeg: Language-guided Multi-dataset Segmentation" (ICLR 2023). Where its text
leaves a choice, the authors' code decided (class loss as a weighted mean, deep supervision of every block), but for
ignored pixels: they are left out of costs and losses here, there they are negative.

Axes: L blocks, B images, Q queries, D classes of one dataset, U unified nodes, C channels, E channels of a pixel's
embedding, N matched pairs, h w feature resolution, H W native size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, cast, final

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from manyseg.data.annotation import Segments
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.inference.segments import SegmentMap, find_segments
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.losses.mask import labels_at, mask_losses, point_losses, sample
from manyseg.losses.matching import Matches, Targets, match, nearest, pair_costs, targets_of_labels, targets_of_segments
from manyseg.methods.base import Method, dense_labels
from manyseg.methods.readers import Heads, Reading, Reads, Texts, Unified
from manyseg.methods.sources import TaxonomySource, resolve_taxonomy
from manyseg.models import Features, PixelEncoder
from manyseg.models.decoder import Decoded, Guidance, QueryDecoder

__all__ = ["LMSeg", "class_loss", "semantic_scores"]

FLOOR = 1e-3
"""Added to the summed probabilities before their logarithm is taken."""


class LMSeg(Method):
    """Queries find masks, and words name them; one network for semantic and panoptic segmentation.

    Datasets of masks teach one mask a class, datasets of segments one a thing and one a stuff class.

    `classifier` is "text" (LMSeg), or a baseline in the same architecture: "heads", or "taxonomy" with the nodes of the
    table `taxonomy`, by default one a name. `text` is the encoder, a Hugging Face name or folder, by default the
    offline package's; `prompt_tokens` vectors before the words are learned, 0 encodes the words once (much cheaper on a
    CPU). `guidance` is the order of the decoder's looks at the image and at the words; in training each word of the
    step's other datasets is among them by the probability `other_words` (ours), lest a list of words be no more than
    the name of a dataset. `points` computes costs and mask losses on as many sampled points instead of all pixels; 0
    takes all. `decoder_lr` is the learning rate of the decoder and the words as a multiple of train.lr: attention wants
    smaller steps than a pixel decoder.

    At inference `things_above` is the least probability of a segment's class, `visible` the least share of a segment's
    own mask that others leave it (panoptic).
    """

    finds_segments: ClassVar[bool] = True
    _least: Tensor

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        classifier: Literal["text", "heads", "taxonomy"] = "text",
        taxonomy: TaxonomySource | None = None,
        text: str | None = None,
        template: str = "{}",
        prompt_tokens: int = 8,
        temperature: float = 0.07,
        guidance: Guidance = "image_first",
        other_words: float = 0.0,
        queries: int = 100,
        blocks: int = 6,
        attention_heads: int = 8,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        background_weight: float = 0.1,
        points: int = 0,
        decoder_lr: float = 0.3,
        things_above: float = 0.8,
        visible: float = 0.8,
    ) -> None:
        super().__init__(pixel_encoder, spaces)
        channels = pixel_encoder.channels
        for name, value in (("queries", queries), ("blocks", blocks), ("attention_heads", attention_heads)):
            if value < 1:
                raise UserError(f"method.{name} is {value}; give 1 or more")
        if channels % attention_heads:
            raise UserError(
                f"model.channels is {channels}, which method.attention_heads ({attention_heads}) does not divide"
            )
        if not 0 <= other_words <= 1:
            raise UserError(f"method.other_words is {other_words}; it is a probability, 0 to 1")
        if classifier == "text":
            if "{}" not in template:
                raise UserError(f"method.template is '{template}'; it must have {{}} where the name goes")
            if not temperature > 0 or prompt_tokens < 0:
                raise UserError("method.temperature must be above 0, and method.prompt_tokens not below 0")
            self.classes: Reads = Texts(
                self.spaces, channels, model=text, template=template, tokens=prompt_tokens, tau=temperature
            )
        elif classifier == "heads":
            self.classes = Heads(self.spaces, channels)
        else:
            table = Taxonomy.by_name(self.spaces) if taxonomy is None else resolve_taxonomy(taxonomy, self.spaces)
            self.classes = Unified(table, channels)
        self.decoder = QueryDecoder(
            pixel_encoder.backbone.channels[-1],
            channels,
            channels,
            queries=queries,
            blocks=blocks,
            heads=attention_heads,
            guidance=guidance if classifier == "text" else "none",
        )
        self.focal_weight, self.dice_weight, self.background_weight = focal_weight, dice_weight, background_weight
        self.reads_words, self.other_words = classifier == "text", other_words
        self.decoder_lr = decoder_lr
        self.points, self.things_above, self.visible = points, things_above, visible
        self._readings: dict[tuple[LabelSpace, torch.device], Reading] = {}
        self._warned = False
        # One segment, and a weight above 0: what sums over all processes are divided by at least.
        self.register_buffer("_least", torch.tensor([1.0, 1e-6]), persistent=False)

    @property
    def taxonomy(self) -> Taxonomy:
        """Classes of one name in one node (text), every class (heads), or the given table; for reports and relations.

        No relation is learned: labels of different datasets are compared by their words alone.
        """
        return self.classes.taxonomy

    # Training.

    def lr_factor(self, name: str) -> float:
        """Return `decoder_lr` for the decoder and the words, else 1."""
        return self.decoder_lr if name.startswith(("decoder.", "classes.")) else 1.0

    def batch_loss(self, features: Features, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of one batch alone, as `step_losses`."""
        return self.step_losses([features], [batch])[0]

    def step_losses(self, features: Sequence[Features], batches: Sequence[Batch]) -> list[dict[str, Tensor]]:
        """Return `class`, `focal` and `dice` of every batch, weighted, summed over blocks (equations 2 and 3).

        All of a step's batches are matched together: the device is waited for once.
        """
        readings = self._read([batch.space for batch in batches])
        asked = []
        for k, (one, batch, reading) in enumerate(zip(features, batches, readings, strict=True)):
            decoded = self.decoder(one.levels[-1], self._guide(reading, [*readings[:k], *readings[k + 1 :]]))
            asked.append(_Asked(decoded, reading.classify(decoded.queries), one.embedding, _targets(batch)))
        matches = match([self._costs(a) for a in asked])
        self._warn(matches, batches)
        sizes = self._sizes(asked, matches)
        return [self._losses(a, m, s) for a, m, s in zip(asked, matches, sizes, strict=True)]

    def _guide(self, own: Reading, others: Sequence[Reading]) -> Float[Tensor, "T C"] | None:
        """Return a dataset's words and some of the others', which guide its queries but are no answer to them."""
        if own.words is None or not self.other_words or not others:
            return own.words
        pool = torch.cat([reading.words[:-1] for reading in others if reading.words is not None])
        # Drawn on the host: a selection by a mask on the device would be waited for.
        shown = (torch.rand(len(pool)) < self.other_words).nonzero().flatten()
        return torch.cat([own.words, pool[shown.to(pool.device, non_blocking=True)]])

    @torch.no_grad()
    def _costs(self, asked: _Asked) -> Float[Tensor, "L B Q T"]:
        """Compare every block's queries with the targets, at mask resolution or at points that all masks share."""
        embedding, ids = asked.embedding.float(), asked.targets.ids
        if self.points:
            place = torch.rand(len(ids), self.points, 2, device=ids.device)
            image = torch.arange(len(ids), device=ids.device)
            ids, embedding = labels_at(ids, image, place), _sample_all(embedding, place)
        else:
            ids, embedding = nearest(ids, (embedding.shape[2], embedding.shape[3])).flatten(1), embedding.flatten(2)
        weights = (self.focal_weight, self.dice_weight)
        costs = [
            pair_costs(logp.exp(), masks.float() @ embedding, ids, asked.targets.classes, *weights)
            for logp, masks in zip(asked.classes, asked.decoded.masks, strict=True)
        ]
        return torch.stack(costs)

    def _losses(self, asked: _Asked, found: Matches, size: Tensor) -> dict[str, Tensor]:
        masks, start = [], 0
        pairs = asked.decoded.masks[found.block, found.image, found.query]
        # Only matched queries have a mask in training; the others' would be as large and have no loss.
        for embedding, count in zip(asked.embedding, found.counts, strict=True):
            masks.append(torch.einsum("nc,chw->nhw", pairs[start : start + count], embedding))
            start += count
        logits, ids = torch.cat(masks), asked.targets.ids
        if self.points:
            focal, dice = point_losses(logits, found.segment, ids, found.counts, self.points)
        else:
            focal, dice = mask_losses(logits, found.segment, ids, found.counts)
        wanted = _wanted(asked.classes, found, asked.targets)
        return {
            "class": class_loss(asked.classes, wanted, self.background_weight, size[1]),
            "focal": self.focal_weight * focal / size[0],
            "dice": self.dice_weight * dice / size[0],
        }

    def _sizes(self, asked: Sequence[_Asked], matches: Sequence[Matches]) -> list[Tensor]:
        """Return what the losses of each batch are divided by: its segments, and the weights of its queries.

        Over several processes both are means, in one message a step: a loss is then the same however images are dealt
        out, since all processes have a batch of the same datasets.
        """
        sizes = []
        for a, found in zip(asked, matches, strict=True):
            blocks, images, queries = a.classes.shape[:3]
            matched = sum(found.counts) / blocks
            sizes.append((found.segments, matched + self.background_weight * (images * queries - matched)))
        out, world = torch.tensor(sizes, dtype=torch.float32).to(self.device, non_blocking=True), 1
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(out)
            world = dist.get_world_size()
        return list(out.clamp(min=self._least) / world)

    def _warn(self, matches: Sequence[Matches], batches: Sequence[Batch]) -> None:
        for found, batch in zip(matches, batches, strict=True):
            if found.left_out and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{found.left_out} of {found.segments} segments of a batch of '{batch.space.name}' have no query; "
                    f"raise method.queries above {self.decoder.start.shape[0]}",
                    stacklevel=2,
                )

    # Inference.

    @final
    def predict(
        self, features: Features, space: LabelSpace, relation: Bool[Tensor, "D U"] | None = None
    ) -> Float[Tensor, "B D h w"]:
        """Return the logarithm of every class's summed probability; see `Method.predict`.

        `space` may be any list of words. Its scores are read directly; those of `relation` are sums over the
        probabilities of unified nodes.
        """
        classes, masks = self._decode(features, space if relation is None else self.taxonomy.unified)
        scores = semantic_scores(classes, torch.einsum("bqc,bchw->bqhw", masks, features.embedding))
        if relation is not None:
            related = relation.to(scores.device)
            scores = torch.einsum("bu...,du->bd...", scores, related.to(scores.dtype))
        # The floor keeps what has no mask anywhere from deciding borders: between two cells scores are interpolated,
        # and a logarithm knows no bound. It changes no argmax, and a belief by at most a thousandth a class.
        scores = (scores + FLOOR).log()
        return scores if relation is None else scores.masked_fill(~related.any(1)[:, None, None], -torch.inf)

    @torch.no_grad()
    def segments(self, features: Features, space: LabelSpace, size: tuple[int, int]) -> list[SegmentMap]:
        """Return the segments of every image at the native `size`; see `Method.segments`."""
        classes, masks = self._decode(features, space)
        things = torch.tensor([c.thing for c in space.classes], device=classes.device)
        out = []
        for logp, query, embedding in zip(classes, masks, features.embedding, strict=True):
            logits = torch.einsum("qc,chw->qhw", query, embedding).float()
            out.append(find_segments(logp.exp(), logits, things, size, self.things_above, self.visible))
        return out

    def _decode(self, features: Features, space: LabelSpace) -> tuple[Float[Tensor, "B Q D+1"], Float[Tensor, "B Q E"]]:
        """Return the last block's log-probabilities of classes, and its mask embeddings."""
        reading = self._reading(space)
        decoded = self.decoder(features.levels[-1], reading.words)
        return reading.classify(decoded.queries[-1]), decoded.masks[-1]

    def _reading(self, space: LabelSpace) -> Reading:
        """Read a space; once for all images where no weight is being learned."""
        if self.training or torch.is_grad_enabled():
            return self._read([space])[0]
        key = (space, self.device)
        if key not in self._readings:
            self._readings[key] = self._read([space])[0]
        return self._readings[key]

    def _read(self, spaces: Sequence[LabelSpace]) -> list[Reading]:
        return cast(list[Reading], self.classes(spaces))

    def train(self, mode: bool = True) -> LMSeg:
        """Set the mode, and forget what was read of label spaces."""
        if mode:
            self._readings.clear()
        super().train(mode)
        return self

    def load_state_dict(self, *args: object, **keywords: object) -> object:
        """Load a state, and forget what was read with the one before."""
        self._readings.clear()
        return super().load_state_dict(*args, **keywords)  # type: ignore[arg-type]


class _Asked(NamedTuple):
    """One batch: what the decoder found, and what it should have."""

    decoded: Decoded
    classes: Float[Tensor, "L B Q D+1"]
    """Log-probabilities."""
    embedding: Float[Tensor, "B E h w"]
    targets: Targets


def semantic_scores(classes: Float[Tensor, "B Q D+1"], masks: Float[Tensor, "B Q h w"]) -> Float[Tensor, "B D h w"]:
    """Sum class probability times mask probability over queries; background is left out. Logarithms and logits in."""
    return torch.einsum("bqd,bqhw->bdhw", classes[..., :-1].exp(), masks.float().sigmoid())


def class_loss(
    classes: Float[Tensor, "L B Q D+1"],
    wanted: Int[Tensor, "L B Q"],
    background_weight: float,
    weights: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """Return cross entropy over queries, divided by the sum of their weights, summed over blocks.

    Queries that should be background have `background_weight`. A weighted mean is MaskFormer's and the authors' code's;
    equation 2 reads as the plain one.
    """
    nll = -classes.gather(-1, wanted[..., None])[..., 0]
    weight = torch.where(wanted == classes.shape[-1] - 1, background_weight, 1.0)
    return (weight * nll).sum() / weights


def _targets(batch: Batch) -> Targets:
    if isinstance(batch.annotation, Segments):
        return targets_of_segments(*batch.annotation, batch.annotation.labels)
    return targets_of_labels(dense_labels(batch), len(batch.space))


def _wanted(classes: Float[Tensor, "L B Q D+1"], found: Matches, targets: Targets) -> Int[Tensor, "L B Q"]:
    background = classes.shape[-1] - 1
    wanted = torch.full(classes.shape[:-1], background, device=classes.device)
    return wanted.index_put((found.block, found.image, found.query), targets.classes[found.image, found.segment])


def _sample_all(embedding: Float[Tensor, "B E h w"], place: Float[Tensor, "B P 2"]) -> Float[Tensor, "B E P"]:
    b, e = embedding.shape[:2]
    return sample(embedding.flatten(0, 1), place.repeat_interleave(e, 0)).view(b, e, -1)
