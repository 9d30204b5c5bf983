"""How the classes of a query are read: against words, in a head of each dataset, or in one unified softmax.

The first is LMSeg; the others are its paper's baselines in the same architecture ("MaskFormer + Multi-head" and
"+ Manual-taxonomy"). Every reading ends in the class "no object", called background as in the paper.

Axes: L blocks, B images, Q queries, D classes of a label space, U unified nodes, C channels, A outputs of a softmax.
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
from manyseg.models.prompt import Prompted

__all__ = ["BACKGROUND", "Heads", "Reading", "Reads", "Texts", "Unified", "cosine_logits"]

BACKGROUND = "background"
"""What a query is that stands for nothing; one more text of every dataset."""

COOLEST = 0.01
"""The least temperature: logits of cosines then stay within 100, as CLIP's."""


class Reading(NamedTuple):
    """A label space as the decoder and its queries see it: `words` guide, `classify` gives log-probabilities."""

    words: Float[Tensor, "D+1 C"] | None
    classify: Callable[[Float[Tensor, "*lead Q C"]], Float[Tensor, "*lead Q D+1"]]


class Reads(nn.Module, ABC):
    """Turns queries into log-probabilities of the classes of label spaces, background last."""

    taxonomy: Taxonomy

    @abstractmethod
    def forward(self, spaces: Sequence[LabelSpace]) -> list[Reading]:
        """Return how queries are read in each of these spaces; raises UserError for one that it cannot read."""


def cosine_logits(
    queries: Float[Tensor, "*lead Q C"], words: Float[Tensor, "A C"], temperature: Float[Tensor, ""]
) -> Float[Tensor, "*lead Q A"]:
    """Return the cosines of queries and words over a temperature (LMSeg, equation 1; both are normalised here)."""
    return F.normalize(queries.float(), dim=-1) @ F.normalize(words.float(), dim=-1).T / temperature


class Texts(Reads):
    """LMSeg's text-query alignment: queries are compared with the texts of whichever words are asked for.

    A unified node's vector is the mean of its classes' texts. `template` has `{}` where the name goes.
    """

    def __init__(
        self, spaces: Sequence[LabelSpace], channels: int, *, model: str | None, template: str, tokens: int, tau: float
    ) -> None:
        super().__init__()
        for space in spaces:
            _check_words(space)
        self.taxonomy, self.template = Taxonomy.by_name(spaces), template
        names = dict.fromkeys(self._text(n) for s in spaces for n in (*s.names, BACKGROUND))
        self.position = {text: i for i, text in enumerate(names)}
        self.text = Prompted(list(names), channels, model=model, tokens=tokens)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(tau)))

    def forward(self, spaces: Sequence[LabelSpace]) -> list[Reading]:
        """Return how queries are read in training spaces, the unified one, or any list of words."""
        fixed = self.text()
        temperature = self.log_temperature.exp().clamp(min=COOLEST)
        return [self._reading(self._words(space, fixed), temperature) for space in spaces]

    def _reading(self, words: Tensor, temperature: Tensor) -> Reading:
        return Reading(words, lambda queries: cosine_logits(queries, words, temperature).log_softmax(-1))

    def _words(self, space: LabelSpace, fixed: Float[Tensor, "N C"]) -> Float[Tensor, "D+1 C"]:
        if space == self.taxonomy.unified:
            return self._unified(fixed)
        _check_words(space)
        texts = [self._text(n) for n in (*space.names, BACKGROUND)]
        if all(text in self.position for text in texts):
            return fixed[torch.tensor([self.position[text] for text in texts], device=fixed.device)]
        return self.text.encode(texts)

    def _unified(self, fixed: Float[Tensor, "N C"]) -> Float[Tensor, "U+1 C"]:
        rows = []
        for node in range(len(self.taxonomy.unified)):
            members = {self._text(name) for _, name in self.taxonomy.members(node)}
            rows.append(F.normalize(fixed[[self.position[m] for m in sorted(members)]], dim=1).mean(0))
        return torch.stack([*rows, fixed[self.position[self._text(BACKGROUND)]]])

    def _text(self, name: str) -> str:
        return self.template.format(name)


def _check_words(space: LabelSpace) -> None:
    if BACKGROUND in space.names:
        raise UserError(
            f"'{space.name}' has a class '{BACKGROUND}', which here is the word for no object; rename it in the card"
        )


class Heads(Reads):
    """A linear classifier for every dataset: the multi-head baseline.

    In the unified space, all heads' classes side by side, every head has an equal share of the probability.
    """

    def __init__(self, spaces: Sequence[LabelSpace], channels: int) -> None:
        super().__init__()
        self.spaces, self.taxonomy = tuple(spaces), Taxonomy.disjoint(spaces)
        self.layers = nn.ModuleList(nn.Linear(channels, len(s) + 1) for s in spaces)

    def forward(self, spaces: Sequence[LabelSpace]) -> list[Reading]:
        """Return how queries are read in training spaces or the unified one."""
        return [Reading(None, self._classifier(space)) for space in spaces]

    def _classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        if space == self.taxonomy.unified:
            return self._all
        layer = self.layers[_position(space, self.spaces)]
        return lambda queries: layer(queries).float().log_softmax(-1)

    def _all(self, queries: Tensor) -> Tensor:
        heads = [layer(queries).float().log_softmax(-1) for layer in self.layers]
        nothing = torch.stack([head[..., -1] for head in heads]).logsumexp(0)
        joint = torch.cat([*(head[..., :-1] for head in heads), nothing[..., None]], -1)
        return joint - math.log(len(heads))


class Unified(Reads):
    """One softmax over the nodes of a taxonomy and background: the manual-taxonomy baseline.

    A class has the summed probability of its nodes; nodes of other datasets' classes compete with them.
    """

    relations: Tensor

    def __init__(self, taxonomy: Taxonomy, channels: int) -> None:
        super().__init__()
        self.taxonomy = taxonomy
        self.layer = nn.Linear(channels, len(taxonomy.unified) + 1)
        self.register_buffer("relations", torch.tensor(taxonomy.joint_relation), persistent=False)

    def forward(self, spaces: Sequence[LabelSpace]) -> list[Reading]:
        """Return how queries are read in training spaces or the unified one."""
        return [Reading(None, self._classifier(space)) for space in spaces]

    def _classifier(self, space: LabelSpace) -> Callable[[Tensor], Tensor]:
        if space == self.taxonomy.unified:
            return lambda queries: self.layer(queries).float().log_softmax(-1)
        _position(space, self.taxonomy.spaces)
        relation = self.relations[self.taxonomy.classes.rows[space.name]]

        def classify(queries: Tensor) -> Tensor:
            nodes = self.layer(queries).float().log_softmax(-1)
            own = nodes[..., None, :-1].masked_fill(~relation, -torch.inf).logsumexp(-1)
            return torch.cat([own, nodes[..., -1:]], -1)

        return classify


def _position(space: LabelSpace, spaces: Sequence[LabelSpace]) -> int:
    if space not in spaces:
        known = ", ".join(s.name for s in spaces)
        raise UserError(f"'{space.name}' is no label space of this model ({known}, unified); relate it first")
    return list(spaces).index(space)
