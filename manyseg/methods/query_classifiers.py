"""Classifiers of queries: by the similarity to texts, with a head for each dataset, or with one unified softmax.

The first is LMSeg; the others are its paper's baselines in the same architecture ("MaskFormer + Multi-head" and
"+ Manual-taxonomy"). All have one more class, the last, for "no object"; it is called background, as in the paper.

Axes: L blocks, B images, Q queries, K classes of a label space and background, U unified nodes, C channels,
A outputs of a softmax.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from manyseg.errors import UserError
from manyseg.labels import LabelSpace, Taxonomy
from manyseg.methods.continuation import Label, LabelRows, node_labels
from manyseg.models.prompt import Prompted

__all__ = [
    "BACKGROUND",
    "MultiHeadClassifier",
    "QueryClassifier",
    "SpaceClassifier",
    "TextClassifier",
    "UnifiedClassifier",
    "cosine_logits",
]

BACKGROUND = "background"
"""The class of queries that stand for no object; its name is one more text of every dataset."""

MIN_TEMPERATURE = 0.01
"""Bounds the logits of cosines by 100, as CLIP does."""


class SpaceClassifier(NamedTuple):
    """The classifier of one label space."""

    texts: Float[Tensor, "K C"] | None
    """Embeddings of the names of its classes and of background, which guide the decoder; None without texts."""
    classify: Callable[[Float[Tensor, "*lead Q C"]], Float[Tensor, "*lead Q K"]]
    """Maps queries to log-probabilities of the classes, background last."""


class QueryClassifier(nn.Module, ABC):
    """Classifies queries in any of several label spaces."""

    taxonomy: Taxonomy

    @abstractmethod
    def forward(self, spaces: Sequence[LabelSpace]) -> list[SpaceClassifier]:
        """Return a classifier for each of these spaces; raises UserError for a space that is not known."""

    @abstractmethod
    def label_rows(self) -> list[LabelRows]:
        """Return the rows of tensors that stand for labels; see `Method.label_rows`."""


def cosine_logits(
    queries: Float[Tensor, "*lead Q C"], texts: Float[Tensor, "A C"], temperature: Float[Tensor, ""]
) -> Float[Tensor, "*lead Q A"]:
    """Return the cosines of queries and texts, divided by a temperature (LMSeg, equation 1); both are normalised."""
    return F.normalize(queries.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T / temperature


class TextClassifier(QueryClassifier):
    """LMSeg's text-query alignment: queries are compared with the embedded names of the classes of any label space.

    The embedding of a unified node is the mean of those of its classes' names. `template` has `{}` in the place of the
    name; `tau` is the temperature at the start.
    """

    def __init__(
        self, spaces: Sequence[LabelSpace], channels: int, *, model: str | None, template: str, tokens: int, tau: float
    ) -> None:
        super().__init__()
        for space in spaces:
            _check_names(space)
        self.taxonomy, self.template = Taxonomy.by_name(spaces), template
        names = dict.fromkeys(self._text(n) for s in spaces for n in (*s.names, BACKGROUND))
        self.position = {text: i for i, text in enumerate(names)}
        self.text = Prompted(list(names), channels, model=model, tokens=tokens)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(tau)))

    def forward(self, spaces: Sequence[LabelSpace]) -> list[SpaceClassifier]:
        """Return a classifier for each of these spaces: training spaces, the unified one, or any list of words."""
        known = self.text()
        return [self.classifier_of(self._embeddings(space, known)) for space in spaces]

    def label_rows(self) -> list[LabelRows]:
        """Return the texts, which have no rows of their own: their vectors follow from the encoder."""
        return [LabelRows("texts", "vector", [Label(text) for text in self.text.texts], [])]

    def classifier_of(self, texts: Float[Tensor, "K C"]) -> SpaceClassifier:
        """Return the classifier of these embedded names, background last."""
        temperature = self.log_temperature.exp().clamp(min=MIN_TEMPERATURE)
        return SpaceClassifier(texts, lambda queries: cosine_logits(queries, texts, temperature).log_softmax(-1))

    def _embeddings(self, space: LabelSpace, known: Float[Tensor, "N C"]) -> Float[Tensor, "K C"]:
        """Embed the names of a space and of background; `known` are the embeddings of the training spaces' names."""
        if space == self.taxonomy.unified:
            return self._node_embeddings(known)
        _check_names(space)
        texts = [self._text(n) for n in (*space.names, BACKGROUND)]
        if all(text in self.position for text in texts):
            return known[torch.tensor([self.position[text] for text in texts], device=known.device)]
        return self.text.encode(texts)

    def _node_embeddings(self, known: Float[Tensor, "N C"]) -> Float[Tensor, "K C"]:
        rows = []
        for node in range(len(self.taxonomy.unified)):
            members = {self._text(name) for _, name in self.taxonomy.members(node)}
            rows.append(F.normalize(known[[self.position[m] for m in sorted(members)]], dim=1).mean(0))
        return torch.stack([*rows, known[self.position[self._text(BACKGROUND)]]])

    def _text(self, name: str) -> str:
        return self.template.format(name)


def _check_names(space: LabelSpace) -> None:
    if BACKGROUND in space.names:
        raise UserError(
            f"'{space.name}' has a class '{BACKGROUND}', which here is the word for no object; rename it in the card"
        )


class MultiHeadClassifier(QueryClassifier):
    """A linear classifier for every dataset: the multi-head baseline.

    The unified space is all heads' classes side by side; every head has an equal share of the probability.
    """

    def __init__(self, spaces: Sequence[LabelSpace], channels: int) -> None:
        super().__init__()
        self.spaces, self.taxonomy = tuple(spaces), Taxonomy.disjoint(spaces)
        self.layers = nn.ModuleList(nn.Linear(channels, len(s) + 1) for s in spaces)

    def forward(self, spaces: Sequence[LabelSpace]) -> list[SpaceClassifier]:
        """Return a classifier for each of these spaces: training spaces or the unified one."""
        return [SpaceClassifier(None, self._classifier(space)) for space in spaces]

    def label_rows(self) -> list[LabelRows]:
        """Return the rows of all heads, each with that of background last."""
        classes, labels = iter(node_labels(self.taxonomy)), []
        for space in self.spaces:
            labels += [*(next(classes) for _ in space.names), Label(f"{BACKGROUND} of {space.name}")]
        layers = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return [
            LabelRows("heads", "weight", labels, [row for layer in layers for row in layer.weight]),
            LabelRows("heads", "bias", labels, [row for layer in layers for row in layer.bias]),
        ]

    def _classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        if space == self.taxonomy.unified:
            return self._all_heads
        layer = self.layers[self.taxonomy.position(space)]
        return lambda queries: layer(queries).float().log_softmax(-1)

    def _all_heads(self, queries: Tensor) -> Tensor:
        heads = [layer(queries).float().log_softmax(-1) for layer in self.layers]
        background = torch.stack([head[..., -1] for head in heads]).logsumexp(0)
        joint = torch.cat([*(head[..., :-1] for head in heads), background[..., None]], -1)
        return joint - math.log(len(heads))


class UnifiedClassifier(QueryClassifier):
    """One softmax over the nodes of a taxonomy and background: the manual-taxonomy baseline.

    The probability of a class is the sum of those of its nodes; nodes of other datasets' classes compete with them.
    """

    relations: Tensor

    def __init__(self, taxonomy: Taxonomy, channels: int) -> None:
        super().__init__()
        self.taxonomy = taxonomy
        self.layer = nn.Linear(channels, len(taxonomy.unified) + 1)
        self.register_buffer("relations", torch.tensor(taxonomy.joint_relation), persistent=False)

    def forward(self, spaces: Sequence[LabelSpace]) -> list[SpaceClassifier]:
        """Return a classifier for each of these spaces: training spaces or the unified one."""
        return [SpaceClassifier(None, self._classifier(space)) for space in spaces]

    def label_rows(self) -> list[LabelRows]:
        """Return the rows of the softmax: one a node, and that of background."""
        labels = [*node_labels(self.taxonomy), Label(BACKGROUND)]
        return [
            LabelRows("nodes", "weight", labels, [*self.layer.weight]),
            LabelRows("nodes", "bias", labels, [*self.layer.bias]),
        ]

    def _classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        if space == self.taxonomy.unified:
            return lambda queries: self.layer(queries).float().log_softmax(-1)
        self.taxonomy.position(space)
        relation = self.relations[self.taxonomy.classes.rows[space.name]]

        def classify(queries: Tensor) -> Tensor:
            nodes = self.layer(queries).float().log_softmax(-1)
            own = nodes[..., None, :-1].masked_fill(~relation, -torch.inf).logsumexp(-1)
            return torch.cat([own, nodes[..., -1:]], -1)

        return classify
