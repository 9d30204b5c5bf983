"""UniSeg: a union of names whose nodes are judged one by one, so that no dataset punishes what it does not label.

Kim et al., "Learning Semantic Segmentation from Multiple Datasets with Label Shifts", ECCV 2022 (arXiv 2202.14030).

Axes: B images, D classes of one dataset, U unified nodes, A nodes that a dataset's labels judge, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg import losses
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.losses import Averaging, BinaryTargets, MeanLoss, RelationIndex
from manyseg.methods.base import NameClassifier, dense_labels
from manyseg.methods.continuation import LabelRows, node_labels
from manyseg.methods.pixel import PixelMethod
from manyseg.methods.plan import Schedule, StagePlan
from manyseg.methods.sources import StageStatistics, StatisticsSource, resolve_statistics
from manyseg.models import Features, PixelEncoder
from manyseg.relate import PartOf, mine_calibrated, mine_published, part_of_tsv, read_part_of
from manyseg.relate.statistics import Statistics

__all__ = ["UniSeg"]

FIRST = 0.75
"""Share of the steps before relations are mined: the authors train 150 epochs, then 50."""

SECOND_LR = 0.1
"""Learning rate of the relational stage, as a multiple of the first one's."""


class _StageOptions(Protocol):
    """The options that decide which stages there are."""

    relations: Literal["mined", "none"] | Path
    statistics: StatisticsSource | None


class UniSeg(PixelMethod):
    """Classes of equal name are one node with a sigmoid of its own, `scale` times the cosine of pixel and node.

    `support = "null"` judges a dataset's own nodes alone, and no gradient reaches the others; "all" judges every node,
    which is plain BCE. `relations` are further positives: "mined" from the `statistics` of a model that was trained
    before (without statistics there are none yet), "none", or a table that a run wrote and a person may have edited.

    Mined is a node whose mean cosine on a class's pixels is larger than that of the class's own node and than `tau`;
    `tau = "calibrated"` judges each node by its own answers instead (`relate.mine_calibrated`). With `allow_own` nodes
    of other classes of the same dataset are mined too, by the published rule. At test a class is read from its own node
    alone. `exact = False` compares names as `labels.normalise` folds them, and the synonyms that cards list. A step's
    loss is one mean over its labelled pixels, whatever their dataset (`mean`), as the authors' is.
    """

    mean: Averaging = "batch"

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        spaces: Sequence[LabelSpace],
        *,
        support: Literal["null", "all"] = "null",
        relations: Literal["mined", "none"] | Path = "mined",
        statistics: StatisticsSource | None = None,
        tau: float | Literal["calibrated"] = -0.08,
        allow_own: bool = True,
        scale: float = 20.0,
        exact: bool = False,
        ohem: float | None = None,
    ) -> None:
        super().__init__(pixel_encoder, spaces, ohem)
        if support not in ("null", "all"):
            raise UserError(f"method.support is '{support}'; choose 'null' or 'all'")
        if not scale > 0:
            raise UserError(f"method.scale is {scale}; it multiplies cosines, 20 is usual")
        if not (tau == "calibrated" or (isinstance(tau, int | float) and -1 <= tau <= 1)):
            raise UserError(f"method.tau is {tau}; give a cosine, -1 to 1, or 'calibrated'")
        self._taxonomy = Taxonomy.by_name(spaces, exact=exact)
        self.head = nn.Conv2d(pixel_encoder.channels, len(self._taxonomy.unified), 1, bias=False)
        self.scale, self.support = scale, support
        self.part_of: tuple[PartOf, ...] = ()
        """The further positives that training counts."""
        if relations == "mined" and statistics is not None:
            self.part_of = _mined(self._taxonomy, resolve_statistics(statistics), tau, allow_own)
        elif isinstance(relations, Path):
            self.part_of = read_part_of(relations, self._taxonomy)
        self._targets: dict[tuple[str, torch.device], BinaryTargets] = {}

    @property
    def taxonomy(self) -> Taxonomy:
        """The union of names; relations are no part of it."""
        return self._taxonomy

    def label_rows(self) -> Sequence[LabelRows]:
        """Return the nodes' directions."""
        return [LabelRows("nodes", "weight", node_labels(self._taxonomy), [*self.head.weight])]

    @property
    def extra_files(self) -> Mapping[str, str]:
        """The relations, if there are any, as `relations.tsv`."""
        return {"relations.tsv": part_of_tsv(self.part_of)} if self.part_of else {}

    @property
    def activation(self) -> Callable[[Features], Float[Tensor, "B U h w"]]:
        """The cosines of pixels and nodes, which relations are mined from."""
        return lambda features: self.unified(features.embedding) / self.scale

    @classmethod
    def default_stages(cls, options: _StageOptions, train: Schedule) -> list[StagePlan]:
        """Learn without relations, mine them, and go on with them; one stage where there is nothing to mine."""
        if options.relations != "mined" or options.statistics is not None:
            return [StagePlan(name="train", steps=train.steps)]
        if train.steps < 2:
            raise UserError("train.steps is 1, but relations are mined between two stages; give 2 or more")
        first = max(1, int(train.steps * FIRST))
        null = StagePlan(name="null", steps=first, method={"relations": "none"})
        relational = StagePlan(
            name="relational",
            steps=train.steps - first,
            method={"statistics": StageStatistics(null.name)},
            train={"lr": train.lr * SECOND_LR},
        )
        return [null, relational]

    def unified(self, embedding: Float[Tensor, "B C h w"]) -> Float[Tensor, "B U h w"]:
        """Return the logits of all nodes, within plus and minus `scale`."""
        return self._logits(embedding, self.head.weight)

    @property
    def name_classifier(self) -> NameClassifier:
        """The logits of all nodes, and the weights that their directions are taken of."""
        return NameClassifier(self.unified, self.head.weight)

    def relate(self, unified: Float[Tensor, "B U h w"], index: RelationIndex) -> Float[Tensor, "B D h w"]:
        """Return the largest logit of each class's nodes: nodes do not compete, so nothing adds up."""
        return losses.class_max(unified, index)

    def dataset_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B D h w"]:
        """Return the logits of the dataset's own nodes, the only ones computed."""
        return self._logits(embedding, self.head.weight[self.relation_index(space).nodes])

    def train_scores(self, embedding: Float[Tensor, "B C h w"], space: LabelSpace) -> Float[Tensor, "B A h w"]:
        """Return the logits of the nodes that the dataset's labels judge, the only ones computed."""
        return self._logits(embedding, self.head.weight[self._judged(space).nodes])

    def pixel_loss(self, scores: Float[Tensor, "B A h w"], batch: Batch) -> MeanLoss:
        """Return the mean over labelled pixels of the sum of the judged nodes' BCE."""
        return losses.binary_cross_entropy(scores, dense_labels(batch), self._judged(batch.space), ohem=self.ohem)

    def target_table(self, space: LabelSpace) -> Int[Tensor, "D U"]:
        """Return what each label asks of each node: 1 (positive), 0 (negative) or -1 (null: no loss)."""
        relation = torch.tensor(self._taxonomy.relations[space.name])
        table = losses.null_bce_targets(relation) if self.support == "null" else relation.long()
        for r in self.part_of:
            if r.dataset == space.name:
                table[space.positions[r.label], self._taxonomy.unified.positions[r.node]] = 1
        return table

    def _judged(self, space: LabelSpace) -> BinaryTargets:
        key = (space.name, self.device)
        if key not in self._targets:
            self._targets[key] = BinaryTargets.of(self.target_table(space), self.device)
        return self._targets[key]

    def _logits(self, embedding: Tensor, weight: Tensor) -> Tensor:
        return self.scale * F.conv2d(F.normalize(embedding, dim=1), F.normalize(weight, dim=1))


def _mined(
    taxonomy: Taxonomy, statistics: Statistics, tau: float | Literal["calibrated"], allow_own: bool
) -> tuple[PartOf, ...]:
    for space in taxonomy.spaces:
        expected, sums = (len(space), len(taxonomy.unified)), statistics.sums.get(space.name)
        if sums is None or sums.shape != expected:
            found = "missing" if sums is None else "x".join(map(str, sums.shape))
            raise UserError(
                f"method.statistics: the sums of '{space.name}' are {found}, expected {expected[0]}x{expected[1]}; "
                "collect them with a UniSeg model of the same datasets"
            )
    means = {s.name: statistics.mean(s.name) for s in taxonomy.spaces}
    if tau == "calibrated":
        return mine_calibrated(taxonomy, means)
    return mine_published(taxonomy, means, tau=tau, allow_own=allow_own)
