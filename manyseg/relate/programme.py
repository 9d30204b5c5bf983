"""Clusters of classes, with at most one class of each dataset, chosen by an exact integer programme.

`merge` is the published rule (UniDet, CVPR 2022; with pixel recall in AutoUniSeg, arXiv 2407.10534).
`partition` is ours: it maximises the sum of the pairwise log-odds of being equal within clusters.
Both split the problem into connected components, each solved by HiGHS (`scipy.optimize.milp`).

Axes: T classes of all datasets together, N candidate clusters.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from manyseg.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["merge", "partition"]

MAX_CANDIDATES = 2_000
"""Candidate clusters of one component up to which `partition` is exact; with more it first joins the surest pairs."""


def merge(
    S: Float[np.ndarray, "T T"],
    sizes: Sequence[int],
    tau: float = 0.4,
    pair_cost: float = 0.4,
    lam: float = 0.5,
    max_size: int | None = None,
) -> list[tuple[int, ...]]:
    """Merge classes by the published programme; return every cluster in order, also those of a single class.

    S[x, y] is the share of class x that the head of y's dataset calls y; S[x, x] is the recall of x by its own head.
    The cost of a cluster is the sum over its classes of their own recall less the mean of their S over the cluster
    (the class itself included). A pair is admissible where S exceeds the own recall less `tau` in both directions, and
    a candidate where its cost is at most `pair_cost`. Larger candidates consist of candidate pairs, have a cost of at
    most `tau`, and at most `max_size` classes. Minimised is the sum of |C| cost(C) - lam (|C| - 1) over the chosen
    clusters C. AutoUniSeg writes pair_cost 0.05; its released label spaces fit 0.4 better, which keeps every admissible
    pair. `sizes` are the numbers of classes of the datasets, in order.
    """
    T = sum(sizes)
    if S.shape != (T, T):
        raise UserError(f"S is {list(S.shape)} but the datasets have {T} classes; give one row and one column for each")
    dataset = np.repeat(np.arange(len(sizes)), sizes)
    own = np.diag(S)
    floor = np.maximum(own - tau, 0)
    above = floor[:, None] < S
    admissible = above & above.T & (dataset[:, None] != dataset[None])
    pair = (own[:, None] - S + own[None] - S.T) / 2
    kept = admissible & (pair <= pair_cost)
    limit = len(sizes) if max_size is None else max_size
    clusters: list[tuple[int, ...]] = []
    costs: list[float] = []
    grown: list[tuple[int, ...]] = [(i,) for i in range(T)]
    for size in range(2, limit + 1):
        following = []
        for c in grown:
            for j in np.flatnonzero(kept[list(c)].all(0)):
                if j > c[-1]:
                    new = (*c, int(j))
                    block = S[np.ix_(new, new)]
                    cost = float((own[list(new)] - block.mean(1)).sum())
                    if size == 2 or cost <= tau:
                        following.append(new)
                        clusters.append(new)
                        costs.append(cost * size - lam * (size - 1))
        grown = following
    chosen = _choose(clusters, np.array(costs))
    return _with_singletons(T, chosen)


def partition(
    weight: Float[np.ndarray, "T T"],
    dataset: Int[np.ndarray, " T"],
    must_link: Collection[tuple[int, int]] = (),
    cannot_link: Collection[tuple[int, int]] = (),
    names: Sequence[str] | None = None,
) -> list[tuple[int, ...]]:
    """Cluster classes so that the sum of `weight` within clusters is largest, with one class of a dataset at most.

    `weight[x, y]` is symmetric: the log-odds that x and y are equal. Only pairs of positive weight may share a cluster.
    Pairs that must link share one whatever their weight, and then count as one class of summed weights; pairs that
    cannot link never share one. Raises UserError where these contradict each other or would put two classes of one
    dataset into one cluster; the message calls classes by `names`, or else by their positions.
    """
    never = {pair for x, y in cannot_link for pair in ((x, y), (y, x))}
    units = _linked(len(dataset), must_link)
    _check_linked(units, dataset, cannot_link, names or range(len(dataset)))
    owner = np.empty(len(dataset), int)
    for u, unit in enumerate(units):
        owner[list(unit)] = u
    edges: dict[int, set[int]] = {u: set() for u in range(len(units))}
    x, y = np.nonzero(weight > 0)
    joins = (x < y) & (dataset[x] != dataset[y]) & (owner[x] != owner[y])
    for i, j, u, v in zip(*(a[joins].tolist() for a in (x, y, owner[x], owner[y])), strict=True):
        if (i, j) not in never:
            edges[u].add(v)
            edges[v].add(u)
    out: list[tuple[int, ...]] = []
    for component in _components(edges):
        out += _solve([units[u] for u in component], weight, dataset, never)
    return sorted(tuple(sorted(c)) for c in out)


def _linked(T: int, must_link: Collection[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the classes in groups that must link, directly or by others; most are groups of one."""
    edges: dict[int, set[int]] = {i: set() for i in range(T)}
    for x, y in must_link:
        edges[x].add(y)
        edges[y].add(x)
    return [tuple(group) for group in _components(edges)]


def _check_linked(
    units: Sequence[tuple[int, ...]],
    dataset: Int[np.ndarray, " T"],
    cannot_link: Collection[tuple[int, int]],
    names: Sequence[object],
) -> None:
    owner = {i: unit for unit in units for i in unit}
    for unit in units:
        if len({dataset[i] for i in unit}) < len(unit):
            linked = ", ".join(str(names[i]) for i in unit)
            raise UserError(f"must_link joins two classes of one dataset ({linked}); remove one of its pairs")
    for x, y in cannot_link:
        if y in owner[x]:
            raise UserError(f"{names[x]} and {names[y]} are linked by must_link and parted by cannot_link; remove one")


def _components(edges: dict[int, set[int]]) -> list[list[int]]:
    seen: set[int] = set()
    out = []
    for start in edges:
        if start in seen:
            continue
        stack, found = [start], []
        seen.add(start)
        while stack:
            u = stack.pop()
            found.append(u)
            for v in sorted(edges[u] - seen):
                seen.add(v)
                stack.append(v)
        out.append(sorted(found))
    return out


def _solve(
    units: Sequence[tuple[int, ...]], weight: np.ndarray, dataset: np.ndarray, never: Collection[tuple[int, int]]
) -> list[tuple[int, ...]]:
    """Partition one connected component exactly, or nearly where it has too many candidate clusters.

    `never` are pairs that cannot share a cluster, in both directions.
    """
    if len(units) == 1:
        return [*units]
    rows = [i for unit in units for i in unit]
    starts = np.cumsum([0, *map(len, units)])[:-1]
    block = np.where(dataset[rows][:, None] == dataset[rows], 0, weight[np.ix_(rows, rows)])
    if never:
        block[[[(x, y) in never for y in rows] for x in rows]] = -np.inf
    gain = np.add.reduceat(np.add.reduceat(block, starts, axis=0), starts, axis=1)
    linked = np.logical_or.reduceat(np.logical_or.reduceat(block > 0, starts, axis=0), starts, axis=1)
    gain[~linked] = 0.0
    has = np.logical_or.reduceat(dataset[rows][:, None] == np.unique(dataset[rows]), starts, axis=0).astype(int)
    fits = (gain > 0) & (has @ has.T == 0)
    parts: list[tuple[int, ...]] = [(k,) for k in range(len(units))]
    while (found := _cliques(fits, gain)) is None:
        i, j = divmod(int(np.where(fits, gain, -np.inf).argmax()), len(parts))
        rest = [k for k in range(len(parts)) if k not in (i, j)]
        parts = [*(parts[k] for k in rest), parts[i] + parts[j]]
        joined_gain, joined_fits = gain[i] + gain[j], fits[i] & fits[j]
        gain = _with_last(gain, rest, joined_gain)
        fits = _with_last(fits, rest, joined_fits)
    clusters, gains = found
    chosen = _with_singletons(len(parts), _choose(clusters, -gains))
    return [tuple(i for p in c for k in parts[p] for i in units[k]) for c in chosen]


def _with_last(square: np.ndarray, rest: Sequence[int], last: np.ndarray) -> np.ndarray:
    """Keep the rows and columns `rest`, and add `last` as the last of both."""
    out = np.zeros((len(rest) + 1, len(rest) + 1), square.dtype)
    out[:-1, :-1] = square[np.ix_(rest, rest)]
    out[-1, :-1] = out[:-1, -1] = last[rest]
    return out


def _cliques(fits: np.ndarray, gain: np.ndarray) -> tuple[list[tuple[int, ...]], Float[np.ndarray, " N"]] | None:
    """List the sets of two or more classes that all fit together with the sums of their `gain` over pairs.

    None for more than `MAX_CANDIDATES` sets. Where all of a component fit together the whole is best, as every gain is
    positive, and listed alone.
    """
    found: list[tuple[int, ...]] = []
    sums: list[float] = []
    after = np.triu(fits, 1)
    later = after.copy()
    for part in _components({i: set(np.flatnonzero(row).tolist()) for i, row in enumerate(fits)}):
        block = np.ix_(part, part)
        if after[block].sum() == len(part) * (len(part) - 1) / 2:
            later[part] = False
            if len(part) > 1:
                found.append(tuple(part))
                sums.append(float(np.triu(gain[block], 1).sum(dtype=np.float64)))
    # All cliques of one size at a time, and for each the later classes that fit to all of it.
    members, value = np.arange(len(fits))[:, None], np.zeros(len(fits))
    while (count := later.sum()) > 0:
        if len(found) + count > MAX_CANDIDATES:
            return None
        grown, last = np.nonzero(later)
        value = value[grown] + gain[members[grown], last[:, None]].sum(1, dtype=np.float64)
        members = np.hstack([members[grown], last[:, None]])
        later = later[grown] & after[last]
        found += map(tuple, members.tolist())
        sums += value.tolist()
    return found, np.array(sums)


def _choose(clusters: Sequence[tuple[int, ...]], costs: Float[np.ndarray, " N"]) -> list[tuple[int, ...]]:
    """Pick disjoint clusters of least total cost, exactly; clusters that share no class are decided apart."""
    worth = np.flatnonzero(costs < 0).tolist()
    edges: dict[int, set[int]] = {i: set() for k in worth for i in clusters[k]}
    for k in worth:
        first, *others = clusters[k]
        edges[first].update(others)
        for i in others:
            edges[i].add(first)
    part_of = {i: number for number, part in enumerate(_components(edges)) for i in part}
    parts: dict[int, list[int]] = {}
    for k in worth:
        parts.setdefault(part_of[clusters[k][0]], []).append(k)
    chosen: list[tuple[int, ...]] = []
    for part in parts.values():
        candidates = [clusters[k] for k in part]
        chosen += candidates if len(part) == 1 else _solve_programme(candidates, costs[part])
    return chosen


def _solve_programme(clusters: Sequence[tuple[int, ...]], costs: Float[np.ndarray, " N"]) -> list[tuple[int, ...]]:
    """Pick disjoint clusters of least total cost by a 0/1 programme."""
    # Loaded here: proposals by names hardly ever need it, and it takes longer than they do.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    rows, columns = np.array([(i, k) for k, c in enumerate(clusters) for i in c]).T
    _, rows = np.unique(rows, return_inverse=True)
    answer = milp(
        costs,
        constraints=LinearConstraint(csr_array((np.ones(len(rows)), (rows, columns))), -np.inf, 1),
        integrality=np.ones(len(clusters)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    if answer.x is None:
        raise UserError(f"the merge programme found no solution ({answer.message}); lower tau or set max_size")
    return [c for c, x in zip(clusters, answer.x, strict=True) if x > 0.5]


def _with_singletons(T: int, chosen: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    taken = {i for c in chosen for i in c}
    return sorted([*chosen, *((i,) for i in range(T) if i not in taken)])
