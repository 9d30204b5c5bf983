"""How a method goes on from the weights of another one whose labels may be others: row by row, as the labels say.

Most tensors of a network do not depend on labels and are taken over by name. Those that do have a row for each label: a
class, a unified node, a concept. A row goes on where its label does; a label that joins several starts at the mean of
their rows, one that is split off at the row of what it was, and one of which nothing is known as its method starts it.

Axes: N labels to begin with, O labels that there were, K classes that both know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from manyseg.labels import ClassKey, Taxonomy

if TYPE_CHECKING:
    from manyseg.methods.base import Method

__all__ = ["Continuation", "Label", "LabelRows", "continue_from", "layer_rows", "node_labels", "origins"]

SHOWN = 4
"""Names of labels that a line lists."""


class Label(NamedTuple):
    """What a row stands for."""

    name: str
    classes: frozenset[ClassKey] = frozenset()
    """The classes that mean exactly this; none for what is no label of a dataset, as "no object"."""
    possible: frozenset[ClassKey] = frozenset()
    """The classes that may be this."""


class LabelRows(NamedTuple):
    """The rows of one tensor that stand for labels.

    `group` says what the labels are ("heads" are classes, "nodes" are unified nodes), `role` which of the tensors of
    the group this is. `rows` are views of the parameters, or what would be there for another method to go on from;
    scores are `scale` times what follows from them.
    """

    group: str
    role: str
    labels: Sequence[Label]
    rows: Sequence[Tensor]
    scale: float = 1.0


class Continuation(NamedTuple):
    """What was taken over: labels that go on (those of several that were joined are in `joined` too), and the rest."""

    kept: Sequence[str] = ()
    joined: Sequence[str] = ()
    new: Sequence[str] = ()
    gone: Sequence[str] = ()
    tensors: int = 0
    of: int = 0
    """How many tensors the network has, of which `tensors` were taken over."""

    def __str__(self) -> str:
        """Say it in one line."""
        parts = [f"{len(self.kept)} labels go on"]
        parts += [f"{len(self.joined)} of them joined from several ({_few(self.joined)})"] if self.joined else []
        parts += [f"{len(self.new)} new ({_few(self.new)})"] if self.new else []
        parts += [f"{len(self.gone)} gone ({_few(self.gone)})"] if self.gone else []
        whole = f"all {self.of}" if self.tensors == self.of else f"{self.tensors} of {self.of}"
        return f"{', '.join(parts)}; {whole} tensors of the network"


def node_labels(taxonomy: Taxonomy) -> list[Label]:
    """Return the nodes of a taxonomy as labels.

    A class means exactly a node where it has no other. A node of no such class stands for all of its classes.
    """
    relation = taxonomy.joint_relation
    alone = relation.sum(1) == 1
    out = []
    for u, name in enumerate(taxonomy.unified.names):
        possible, exact = (
            frozenset(taxonomy.classes.keys[i] for i in np.flatnonzero(rows))
            for rows in (relation[:, u], relation[:, u] & alone)
        )
        out.append(Label(name, exact or possible, possible))
    return out


def layer_rows(group: str, labels: Sequence[Label], layer: nn.Conv2d) -> list[LabelRows]:
    """Return the rows of a linear layer, one a label; without a bias those of its weights alone."""
    weight = LabelRows(group, "weight", labels, [*layer.weight])
    return [weight] if layer.bias is None else [weight, LabelRows(group, "bias", labels, [*layer.bias])]


def origins(old: Sequence[Label], new: Sequence[Label]) -> list[list[int]]:
    """Return, for each new label, the old ones that it starts from; none where nothing is known of it.

    An old label goes on in the new one of its name, if they share a class or neither has one that both lists know; else
    in the one that holds more than half of its classes. A new label in which none goes on starts from those that its
    classes were, or could be.
    """
    known = sorted(_classes(old) & _classes(new))
    mine, theirs = (_membership([x.classes for x in labels], known) for labels in (new, old))
    common = mine.astype(int) @ theirs.T.astype(int)  # [N, O]
    alike = np.array([[x.name == y.name for y in old] for x in new], bool).reshape(common.shape)
    alike &= (common > 0) | ~np.logical_or.outer(mine.any(1), theirs.any(1))
    within = (2 * common > theirs.sum(1)) & ~alike.any(0)
    found = alike | within
    for labels in ([x.classes for x in new], [x.possible for x in new]):
        overlap = _membership(labels, known).astype(int) @ _membership([x.possible for x in old], known).T.astype(int)
        nearest = (overlap > 0) & (overlap == overlap.max(1, keepdims=True, initial=0))
        found |= nearest & ~found.any(1, keepdims=True)
    return [np.flatnonzero(row).tolist() for row in found]


@torch.no_grad()
def continue_from(method: Method, old: Method) -> Continuation:
    """Give `method` the weights of `old` where they mean the same; see the module."""
    mine, theirs = method.label_rows(), old.label_rows()
    fresh = [[row.clone() for row in rows.rows] for rows in mine]
    equal = _signature(mine) == _signature(theirs) and method.spaces == old.spaces
    own, given = method.state_dict(), old.state_dict()
    depends = ("class_pixels", *method.label_tensors)
    free = [k for k in own if not k.startswith(depends)]
    usable = own if equal else dict.fromkeys(free)
    fits = {k: given[k] for k in usable if k in given and given[k].shape == own[k].shape}
    method.load_state_dict(fits, strict=False)
    reports = []
    for rows, start in zip(mine, fresh, strict=True):
        source = _source(rows, theirs)
        parents = origins(source.labels, rows.labels)
        reports.append(_report(rows.labels, source.labels, parents))
        for row, first, found in zip(rows.rows, start, parents, strict=False):
            before = [source.rows[i].reshape(row.shape) for i in found if source.rows[i].numel() == row.numel()]
            row.copy_(torch.stack(before).mean(0) * (source.scale / rows.scale) if before else first)
    network = [k for k in own if k.startswith("pixel_encoder.")]
    report = reports[0] if reports else Continuation()
    return report._replace(tensors=sum(k in fits for k in network), of=len(network))


def _source(rows: LabelRows, old: Sequence[LabelRows]) -> LabelRows:
    """Return the rows to start from: of the same group, else nodes, else what there is; nothing has no labels."""
    found = {x.group: x for x in reversed(old) if x.role == rows.role}
    nothing = LabelRows(rows.group, rows.role, [], [])
    return next((found[group] for group in (rows.group, "nodes", *reversed(found)) if group in found), nothing)


def _report(labels: Sequence[Label], old: Sequence[Label], parents: Sequence[Sequence[int]]) -> Continuation:
    used = {i for found in parents for i in found}
    kept, joined, new = (
        [x.name for x, found in zip(labels, parents, strict=True) if least <= len(found) <= most]
        for least, most in ((1, len(old)), (2, len(old)), (0, 0))
    )
    return Continuation(kept, joined, new, [x.name for i, x in enumerate(old) if i not in used])


def _signature(rows: Sequence[LabelRows]) -> list[tuple[str, str, tuple[Label, ...]]]:
    return [(x.group, x.role, tuple(x.labels)) for x in rows]


def _classes(labels: Sequence[Label]) -> set[ClassKey]:
    return {key for x in labels for key in x.possible}


def _membership(labels: Sequence[frozenset[ClassKey]], known: Sequence[ClassKey]) -> Bool[np.ndarray, "L K"]:
    position = {key: i for i, key in enumerate(known)}
    out = np.zeros((len(labels), len(known)), bool)
    for row, classes in zip(out, labels, strict=True):
        row[[position[key] for key in classes if key in position]] = True
    return out


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
