"""LMSeg: mask queries that are classified by the texts of the classes of the image's dataset.

Source: Zhou, Liu, Yu, Li, Wang, Wang, "LMSeg: Language-guided Multi-dataset Segmentation" (ICLR 2023). Where its text
is not definite, this follows the authors' code (class loss as a weighted mean, deep supervision of every block). An
exception are ignored pixels: they are left out of costs and losses here, and are negative there.

Axes: B images, Q queries, D classes of one dataset, K of them and background, U unified nodes, C channels,
E channels of a pixel's embedding, T texts, h w feature resolution, H W native size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, cast, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from manyseg.data.annotation import Segments
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.inference.options import SegmentOptions
from manyseg.inference.segments import SegmentMap, find_segments
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.losses import Averaging, MeanLoss
from manyseg.losses.matching import Matches, SegmentTargets, targets_of_labels, targets_of_segments
from manyseg.losses.set_prediction import QueryOutput, SetPredictionLoss
from manyseg.methods.base import Method, dense_labels, step_seed
from manyseg.methods.continuation import LabelRows
from manyseg.methods.plan import Schedule, StagePlan
from manyseg.methods.query_classifiers import (
    MultiHeadClassifier,
    QueryClassifier,
    SpaceClassifier,
    TextClassifier,
    UnifiedClassifier,
)
from manyseg.methods.sources import TaxonomySource, resolve_taxonomy
from manyseg.models import Features, PixelEncoder
from manyseg.models.decoder import Guidance, QueryDecoder
from manyseg.models.eomt import EncoderQueries
from manyseg.models.mask2former import MaskedDecoder
from manyseg.models.weights import fit

__all__ = ["LMSeg", "semantic_scores"]

CACHED = 64
"""Label spaces whose classifiers are kept: words that are asked for make ever new ones."""

BLOCKS = {"maskformer": 6, "mask2former": 9, "eomt": 4}
"""Blocks of each decoder where `blocks` is not given, as its authors have them."""

FLOOR = 1e-3
"""Added to the summed probability of a class before its logarithm is taken."""

STRIDE = 4
"""Of the pixels' embeddings: a cell is so many pixels of the image that the network sees."""

MASKS = 8
"""Masks that are upsampled at once."""


class LMSeg(Method):
    """Queries predict masks, and texts classify them; one network for semantic and panoptic segmentation.

    The targets of a dataset of masks are one mask for each class, those of a dataset of segments one mask for each
    thing and each stuff class.

    `classifier` is "text" (LMSeg), or a baseline in the same architecture: "heads", or "taxonomy" with the nodes of the
    table `taxonomy`, by default one for each name. `text` is the encoder, a Hugging Face name or folder, by default the
    offline package's. `prompt_tokens` learned vectors precede each text; with 0 the texts are encoded only once, which
    is much cheaper on a CPU. `guidance` is the order of the decoder's attention to the image and to the texts. In
    training each text of the step's other datasets is added to the guiding ones with the probability `other_words`
    (ours): otherwise the list of texts only says which dataset it is. `points` is the number of sampled points, the
    same for all images, on which costs and mask losses are computed; 0 takes all pixels. `decoder_lr` is the learning
    rate of the decoder and the texts as a multiple of train.lr: attention needs smaller steps than a pixel decoder.
    Datasets weigh in a step's loss as their images do (`mean`; equation 3). The temperature is learned from
    `temperature` on, or stays there without `learn_temperature`.

    `semantic` says what a class's score is: "log", the logarithm of its summed probability, at the embeddings'
    resolution; "sum", the sum itself, of masks upsampled to the size of the image that the network sees (MaskFormer,
    and the authors): 16 times the memory, an argmax by the paper's rule, and scores whose softmax is no probability.

    `decoder` is "maskformer", `blocks` (6) blocks of attention to the coarsest level; "mask2former", `blocks` (9) of
    masked attention to the three coarsest levels in turn, as published with model.neck = "deformable"; or "eomt": the
    queries are inside the last `blocks` (4) blocks of a plain transformer, and the keys `features`, `neck` and
    `channels` of [model] mean nothing. EoMT's attention is masked while it learns, which ends after `annealing_steps`
    steps: by default those of the training; 0 in a [[stage]] keeps the masks.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "things_above": "test.mask_threshold",
        "visible": "test.overlap_threshold",
        "mask_threshold": "test.mask_threshold",
        "overlap_threshold": "test.overlap_threshold",
    }

    finds_segments: ClassVar[bool] = True

    mean: Averaging = "image"

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        classifier: Literal["text", "heads", "taxonomy"] = "text",
        taxonomy: TaxonomySource | None = None,
        text: str | None = None,
        template: str = "{}",
        prompt_tokens: Annotated[int, Field(le=1024)] = 8,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        guidance: Guidance = "image_first",
        other_words: float = 0.0,
        decoder: Literal["maskformer", "mask2former", "eomt"] = "maskformer",
        queries: Annotated[int, Field(le=16384)] = 100,
        blocks: Annotated[int, Field(le=1024)] | None = None,
        annealing_steps: int = 0,
        attention_heads: int = 8,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        background_weight: float = 0.1,
        points: Annotated[int, Field(ge=0, le=1 << 24)] = 0,
        decoder_lr: float = 0.3,
        semantic: Literal["log", "sum"] = "log",
    ) -> None:
        super().__init__(pixel_encoder, spaces)
        blocks = BLOCKS[decoder] if blocks is None else blocks
        trunk = pixel_encoder.give_tokens() if decoder == "eomt" else None
        channels = pixel_encoder.channels
        for name, value in (("queries", queries), ("blocks", blocks), ("attention_heads", attention_heads)):
            if value < 1:
                raise UserError(f"method.{name} is {value}; give 1 or more")
        if channels % attention_heads:
            raise UserError(
                f"model.channels is {channels}, which method.attention_heads ({attention_heads}) does not divide; make "
                "it a multiple of them, or set other ones"
            )
        if semantic not in ("log", "sum"):
            raise UserError(f"method.semantic is '{semantic}'; choose 'log' or 'sum'")
        if not 0 <= other_words <= 1:
            raise UserError(f"method.other_words is {other_words}; it is a probability, 0 to 1")
        if classifier == "text":
            if "{}" not in template:
                raise UserError(f"method.template is '{template}'; it must have {{}} where the name goes")
            if not temperature > 0 or prompt_tokens < 0:
                raise UserError(
                    f"method.temperature is {temperature} and method.prompt_tokens {prompt_tokens}; the first is to be "
                    "above 0, the second 0 or more"
                )
            self.classes: QueryClassifier = TextClassifier(
                self.spaces, channels, model=text, template=template, tokens=prompt_tokens, tau=temperature
            )
            self.classes.log_temperature.requires_grad_(learn_temperature)
        elif classifier == "heads":
            self.classes = MultiHeadClassifier(self.spaces, channels)
        else:
            table = Taxonomy.by_name(self.spaces) if taxonomy is None else resolve_taxonomy(taxonomy, self.spaces)
            self.classes = UnifiedClassifier(table, channels)
        make: Callable[..., QueryDecoder | MaskedDecoder | EncoderQueries]
        if trunk is not None:
            make = partial(EncoderQueries, trunk)
        elif decoder == "mask2former":
            stride = max(pixel_encoder.backbone.strides)
            make = partial(MaskedDecoder, pixel_encoder.level_channels, stride, channels, channels)
        else:
            make = partial(QueryDecoder, pixel_encoder.level_channels[-1], channels, channels)
        guidance = guidance if classifier == "text" else "none"
        self.decoder = make(queries=queries, blocks=blocks, heads=attention_heads, guidance=guidance)
        self._take_over(pixel_encoder)
        self.annealing_steps = annealing_steps
        self.loss = SetPredictionLoss(
            focal_weight=focal_weight, dice_weight=dice_weight, background_weight=background_weight, points=points
        )
        self.reads_words, self.other_words = classifier == "text", other_words
        self.decoder_lr, self.semantic = decoder_lr, semantic
        self._cached: dict[tuple[LabelSpace, torch.device], SpaceClassifier] = {}
        self._warned, self._seed = False, 0

    def _take_over(self, pixel_encoder: PixelEncoder) -> None:
        """Start from the decoder of a published network, and from its classes where a head has as many."""
        given = pixel_encoder.for_decoder
        if not given:
            return
        found = fit(self.decoder.state_dict(), {k: v for k, v in given.items() if not k.startswith("classes.")})
        if found.unfit or not found.matched:
            raise UserError(
                f"model.init: the decoder does not fit: {found}; set method.decoder, method.queries and method.blocks "
                "as the published network has them"
            )
        self.decoder.load_state_dict(found.matched, strict=False)
        heads = self.classes.layers if isinstance(self.classes, MultiHeadClassifier) else ()
        classes = {k.removeprefix("classes."): v for k, v in given.items() if k.startswith("classes.")}
        fitting = [head for head in heads if fit(head.state_dict(), classes).matched.keys() == classes.keys()]
        for head in fitting:
            head.load_state_dict(classes)
        pixel_encoder.backbone.loaded += f"; decoder: {found}; its classes start {len(fitting)} heads"

    @property
    def taxonomy(self) -> Taxonomy:
        """Classes of equal name in one node (text), every class a node (heads), or the given table (taxonomy).

        No taxonomy is learned: classes of different datasets are related by their names alone.
        """
        return self.classes.taxonomy

    label_tensors: ClassVar[tuple[str, ...]] = ("classes.text.vectors",)

    def label_rows(self) -> Sequence[LabelRows]:
        """Return what the classifier has for each label."""
        return self.classes.label_rows()

    # Training.

    def lr_factor(self, name: str) -> float:
        """Return `decoder_lr` for the decoder and the classifier, else 1."""
        return self.decoder_lr if name.startswith(("decoder.", "classes.")) else 1.0

    @classmethod
    def default_stages(cls, options: Any, train: Schedule) -> list[StagePlan]:
        """Plan one stage, over which the masks of EoMT's attention are annealed."""
        annealed = options.decoder == "eomt" and not options.annealing_steps
        method = {"annealing_steps": train.steps} if annealed else {}
        return [StagePlan(name="train", steps=train.steps, method=method)]

    def batch_loss(self, features: Features, batch: Batch) -> dict[str, MeanLoss]:
        """Return the losses of one batch alone, as `step_losses` does for several."""
        return self.step_losses([features], [batch])[0]

    def step_losses(self, features: Sequence[Features], batches: Sequence[Batch]) -> list[dict[str, MeanLoss]]:
        """Return `class`, `focal` and `dice` of every batch, weighted, summed over blocks (equations 2 and 3).

        All batches of a step are matched together, so that the host waits for the device only once.
        """
        classifiers = self._classifiers([batch.space for batch in batches])
        # Words and points are the same in all processes.
        generator = torch.Generator().manual_seed(self._seed)
        outputs = []
        for k, (one, batch, classifier) in enumerate(zip(features, batches, classifiers, strict=True)):
            texts = self._guiding_texts(classifier, [*classifiers[:k], *classifiers[k + 1 :]], generator)
            decoded = self.decoder(one, texts)
            classes = classifier.classify(decoded.queries)
            outputs.append(QueryOutput(classes, decoded.masks, decoded.embedding, _targets(batch)))
        found, matches = self.loss(outputs, generator)
        self._warn_of_few_queries(matches, batches)
        return cast(list[dict[str, MeanLoss]], found)

    def on_step(self, step: int) -> None:
        """Draw the seed of the words and points of this step, and anneal the masks of EoMT's attention."""
        self._seed = step_seed()
        if isinstance(self.decoder, EncoderQueries) and self.annealing_steps:
            self.decoder.anneal(step / self.annealing_steps)

    def _guiding_texts(
        self, own: SpaceClassifier, others: Sequence[SpaceClassifier], generator: torch.Generator
    ) -> Float[Tensor, "T C"] | None:
        """Return a dataset's texts and some of the others'; these guide the decoder, but are no classes of a query."""
        if own.texts is None or not self.other_words or not others:
            return own.texts
        pool = torch.cat([other.texts[:-1] for other in others if other.texts is not None])
        # Drawn on the host: it would have to wait for the device to select by a mask there.
        drawn = (torch.rand(len(pool), generator=generator) < self.other_words).nonzero().flatten()
        return torch.cat([own.texts, pool[drawn.to(pool.device, non_blocking=True)]])

    def _warn_of_few_queries(self, matches: Sequence[Matches], batches: Sequence[Batch]) -> None:
        for found, batch in zip(matches, batches, strict=True):
            if found.left_out and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{found.left_out} of {found.segments} segments of a batch of '{batch.space.name}' have no query; "
                    f"raise method.queries above {self.decoder.initial_queries.shape[0]}",
                    stacklevel=2,
                )

    # Inference.

    @final
    def predict(
        self, features: Features, space: LabelSpace, relation: Bool[Tensor, "D U"] | None = None
    ) -> Float[Tensor, "B D h w"]:
        """Return what `semantic` says of every class's summed probability; see `Method.predict`.

        With texts, `space` may be any list of words, which is predicted directly. With a relation, the probability of a
        class is the sum of those of its unified nodes.
        """
        classifier = self._classifier(space if relation is None else self.taxonomy.unified)
        scores = self._semantic_scores(features, classifier)
        if relation is not None:
            related = relation.to(scores.device)
            scores = torch.einsum("bu...,du->bd...", scores, related.to(scores.dtype))
        scores = self._belief(scores)
        return scores if relation is None else scores.masked_fill(~related.any(1)[:, None, None], -torch.inf)

    @torch.no_grad()
    def word_vectors(self, space: LabelSpace) -> Float[Tensor, "K C"]:
        """Return the embedded texts of a space's classes and of background; see `Method.word_vectors`."""
        texts = self._classifier(space).texts
        return super().word_vectors(space) if texts is None else texts

    def predict_words(self, features: Features, vectors: Float[Tensor, "K C"]) -> Float[Tensor, "B D h w"]:
        """Return what `predict` gives for the space that these are the `word_vectors` of."""
        if not isinstance(self.classes, TextClassifier):
            return super().predict_words(features, vectors)
        return self._belief(self._semantic_scores(features, self.classes.classifier_of(vectors)))

    def _belief(self, sums: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        # Scores are interpolated between cells, and the logarithm of 0 would dominate there. The floor bounds it; it
        # changes no argmax, and the probability of a class by at most a thousandth.
        return (sums + FLOOR).log() if self.semantic == "log" else sums

    @torch.no_grad()
    def segments(
        self, features: Features, space: LabelSpace, size: tuple[int, int], options: SegmentOptions
    ) -> list[SegmentMap]:
        """Return the segments of every image at the native `size`; see `Method.segments`."""
        classes, masks, embeddings = self._decode(features, self._classifier(space))
        things = torch.tensor([c.thing for c in space.classes], device=classes.device)
        out = []
        for logp, query, embedding in zip(classes, masks, embeddings, strict=True):
            logits = torch.einsum("qc,chw->qhw", query, embedding).float()
            out.append(find_segments(logp.exp(), logits, things, size, options))
        return out

    def _semantic_scores(self, features: Features, classifier: SpaceClassifier) -> Float[Tensor, "B D h w"]:
        classes, masks, embedding = self._decode(features, classifier)
        if self.semantic == "log":
            return semantic_scores(classes, torch.einsum("bqc,bchw->bqhw", masks, embedding))
        sums = None
        # A few masks at a time: all of them at the size of the image would be Q x H x W.
        for logp, query in zip(torch.split(classes, MASKS, 1), torch.split(masks, MASKS, 1), strict=True):
            logits = torch.einsum("bqc,bchw->bqhw", query, embedding).float()
            native = F.interpolate(logits, scale_factor=STRIDE, mode="bilinear", align_corners=False)
            part = semantic_scores(logp, native)
            sums = part if sums is None else sums.add_(part)
        assert sums is not None
        return sums

    def _decode(
        self, features: Features, classifier: SpaceClassifier
    ) -> tuple[Float[Tensor, "B Q K"], Float[Tensor, "B Q E"], Float[Tensor, "B E h w"]]:
        """Return the last block's log-probabilities of classes, and the embeddings of its masks and the pixels."""
        decoded = self.decoder(features, classifier.texts)
        return classifier.classify(decoded.queries[-1]), decoded.masks[-1], decoded.embedding[-1]

    def _classifier(self, space: LabelSpace) -> SpaceClassifier:
        """Return the classifier of a space, cached in eval mode without gradients: weights do not change then."""
        if self.training or torch.is_grad_enabled():
            return self._classifiers([space])[0]
        key = (space, self.device)
        if key not in self._cached:
            if len(self._cached) == CACHED:
                del self._cached[next(iter(self._cached))]  # The oldest.
            self._cached[key] = self._classifiers([space])[0]
        return self._cached[key]

    def _classifiers(self, spaces: Sequence[LabelSpace]) -> list[SpaceClassifier]:
        return cast(list[SpaceClassifier], self.classes(spaces))

    def train(self, mode: bool = True) -> LMSeg:
        """Set the mode; training mode empties the cache of classifiers."""
        if mode:
            self._cached.clear()
        super().train(mode)
        return self

    def load_state_dict(self, *args: object, **keywords: object) -> object:
        """Load a state, and empty the cache of classifiers."""
        self._cached.clear()
        return super().load_state_dict(*args, **keywords)  # type: ignore[arg-type]


def semantic_scores(classes: Float[Tensor, "B Q K"], masks: Float[Tensor, "B Q h w"]) -> Float[Tensor, "B K-1 h w"]:
    """Sum class probability times mask probability over all queries; background is left out.

    `classes` are log-probabilities, `masks` are logits.
    """
    return torch.einsum("bqd,bqhw->bdhw", classes[..., :-1].exp(), masks.float().sigmoid())


def _targets(batch: Batch) -> SegmentTargets:
    if isinstance(batch.annotation, Segments):
        return targets_of_segments(*batch.annotation, batch.annotation.labels)
    return targets_of_labels(dense_labels(batch), len(batch.space))
