"""Pairs of nodes for a step of the classifier, and for one of the agreement model.

In: labels [nodes], -1 = unknown, and edges. Out: arrays of rows of nodes, a row a step. All
of it is numpy on whole arrays; rows are int32, so that ten million edges take 80 MB.

Three kinds of pairs: LL, of two labelled nodes; LU, of a labelled and an unlabelled one; UU, of two
unlabelled ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

UNKNOWN = -1
_EPOCHS_AT_ONCE = 1 << 20  # numbers that are shuffled at once, at least


@dataclass(frozen=True)
class KindWeights:
    """What pairs of each kind count in the loss."""

    ll: float = 0.0
    lu: float = 1.0
    uu: float = 0.5

    def times(self, factor: float) -> KindWeights:
        """All three multiplied."""
        return KindWeights(self.ll * factor, self.lu * factor, self.uu * factor)


@dataclass(frozen=True)
class PairBlock:
    """The pairs of some steps. Those that are worth 0 may be left out, but `count` knows of them.

    labels, targets [steps, a] int32: a known label, and the node that is pulled towards it.
    trust [steps, a] float32: weight of the kind times agreement. left, right [steps, b] int32,
    mutual [steps, b] float32: pairs of unlabelled nodes, and the same of them. count: pairs of all
    kinds in a step, over which the loss is a mean.
    """

    labels: np.ndarray
    targets: np.ndarray
    trust: np.ndarray
    left: np.ndarray
    right: np.ndarray
    mutual: np.ndarray
    count: int

    @classmethod
    def empty(cls, steps: int) -> PairBlock:
        """No pairs."""
        rows, numbers = np.zeros((steps, 0), np.int32), np.zeros((steps, 0), np.float32)
        return cls(rows, rows, numbers, rows, rows, numbers, 0)


class PairSource(Protocol):
    """Where a classifier takes its pairs from."""

    def draw(self, steps: int) -> PairBlock:
        """Those of the next steps."""
        ...


class Cycle:
    """Rows 0 … size - 1 in shuffled passes without end; the rest of a pass that fills no batch is
    left out.
    """

    def __init__(self, size: int, batch: int, draw: np.random.Generator) -> None:
        self._size, self._batch, self._draw = size, min(batch, size), draw
        self._left = np.zeros((0, self._batch), np.int32)

    @property
    def batch(self) -> int:
        """Rows a step: all of them where there are fewer than were asked for."""
        return self._batch

    def take(self, steps: int) -> np.ndarray:
        """[steps, batch] int32."""
        if not self._batch:
            return np.zeros((steps, 0), np.int32)
        parts, found = [self._left], len(self._left)
        while found < steps:
            parts.append(self._passes(steps - found))
            found += len(parts[-1])
        taken = np.concatenate(parts)
        self._left = taken[steps:]
        return taken[:steps]

    def _passes(self, steps: int) -> np.ndarray:
        """Whole passes, at most as many as `steps` needs, of a limited size together."""
        a_pass = self._size // self._batch
        passes = min(-(-steps // a_pass), -(-_EPOCHS_AT_ONCE // self._size))
        rows = np.tile(np.arange(self._size, dtype=np.int32), (passes, 1))
        rows = self._draw.permuted(rows, axis=1, out=rows)
        return rows[:, : a_pass * self._batch].reshape(-1, self._batch)


# Pairs along edges --------------------------------------------------------------------------------


@dataclass(frozen=True)
class EdgesByKind:
    """Rows of edges, int32. ll: only those whose labels are equal, unless all were asked for.

    lu: known at the first end; ul: known at the second. The latter are read in reverse: until pull
    request 82 of neural-structured-learning its code read them as they stand, and so learned from
    the true label of an unlabelled node.
    """

    ll: np.ndarray
    lu: np.ndarray
    ul: np.ndarray
    uu: np.ndarray


def edges_by_kind(edges: np.ndarray, labels: np.ndarray, *, agreeing: bool = True) -> EdgesByKind:
    """edges [edges, 2] int; labels [nodes]. agreeing: whether LL are only those of equal labels."""
    known = labels >= 0
    first, second = known[edges[:, 0]], known[edges[:, 1]]
    both = first & second
    if agreeing:
        at = np.flatnonzero(both)
        same = labels[edges[at, 0]] == labels[edges[at, 1]]
        ll = at[same].astype(np.int32)
    else:
        ll = _rows(both)
    return EdgesByKind(ll, _rows(first & ~second), _rows(~first & second), _rows(~(first | second)))


def _rows(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(mask).astype(np.int32)


class GraphPairs:
    """Pairs along edges: each kind in shuffled passes over its edges.

    edges: each undirected edge once, or in both directions: it comes as often, and as an LU pair
    its labelled end is always the one that pulls.
    """

    def __init__(
        self,
        edges: np.ndarray,
        labels: np.ndarray,
        agreement: np.ndarray,
        *,
        weights: KindWeights,
        pairs: int,
        seed: int,
    ) -> None:
        """edges [edges, 2] int32; agreement [edges] float32; pairs: of each kind, a step."""
        self._edges, self._labels, self._agreement = edges, labels.astype(np.int32), agreement
        self._weights = weights
        kinds = edges_by_kind(edges, labels)
        # Reversed edges follow those that stand the right way round.
        self._anchored, self._reversed_from = np.concatenate([kinds.lu, kinds.ul]), len(kinds.lu)
        self._ll, self._uu = kinds.ll, kinds.uu
        seeds = np.random.SeedSequence(seed).spawn(3)
        sizes = len(self._ll), len(self._anchored), len(self._uu)
        self._cycles = [
            Cycle(size, pairs, np.random.default_rng(own))
            for size, own in zip(sizes, seeds, strict=True)
        ]

    def draw(self, steps: int) -> PairBlock:
        """The pairs of the next steps."""
        of_ll, of_lu, of_uu = self._cycles
        anchors, targets, trust = self._lu(of_lu.take(steps))
        if self._weights.ll:
            ends = self._edges[self._ll[of_ll.take(steps)]]
            anchors = np.concatenate([anchors, ends[..., 0]], axis=1)
            targets = np.concatenate([targets, ends[..., 1]], axis=1)
            ones = np.full(ends.shape[:2], self._weights.ll, np.float32)
            trust = np.concatenate([trust, ones], axis=1)
        rows = self._uu[of_uu.take(steps)]
        ends = self._edges[rows]
        return PairBlock(
            labels=self._labels[anchors],
            targets=targets,
            trust=trust,
            left=ends[..., 0],
            right=ends[..., 1],
            mutual=np.float32(self._weights.uu) * self._agreement[rows],
            count=of_ll.batch + of_lu.batch + of_uu.batch,
        )

    def _lu(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(labelled ends, others, trust) of drawn places among the edges with one labelled end."""
        rows = self._anchored[drawn]
        ends, is_reversed = self._edges[rows], drawn >= self._reversed_from
        anchors = np.where(is_reversed, ends[..., 1], ends[..., 0])
        targets = np.where(is_reversed, ends[..., 0], ends[..., 1])
        return anchors, targets, np.float32(self._weights.lu) * self._agreement[rows]


# Pairs without a graph ----------------------------------------------------------------------------

# [p, 2] int32, rows of nodes -> [p] float32
Agreement = Callable[[np.ndarray], np.ndarray]


class RandomPairs:
    """Pairs without a graph, GAM*: each end uniformly from its pool, with replacement.

    Pairs of different known labels are part of the mean, and count for nothing in it.
    """

    def __init__(
        self,
        labels: np.ndarray,
        pool: np.ndarray,
        agreement: Agreement,
        *,
        weights: KindWeights,
        pairs: int,
        seed: int,
    ) -> None:
        """pool [nodes] bool: the unlabelled nodes that take part; labelled ones all do."""
        known = labels >= 0
        self._labels = labels.astype(np.int32)
        self._labelled, self._unlabelled = _rows(known), _rows(pool & ~known)
        self._agreement, self._weights, self._pairs = agreement, weights, pairs
        self._draw = np.random.default_rng(seed)

    def draw(self, steps: int) -> PairBlock:
        """The pairs of the next steps."""
        ll, lu, uu = (self._both(steps, *pools) for pools in self._pools())
        labels = self._labels
        trust = np.float32(self._weights.lu) * self._judge(lu)
        if self._weights.ll:
            same = labels[ll[..., 0]] == labels[ll[..., 1]]
            lu = np.concatenate([lu, ll], axis=1)
            trust = np.concatenate([trust, np.float32(self._weights.ll) * same], axis=1)
        return PairBlock(
            labels=labels[lu[..., 0]],
            targets=lu[..., 1],
            trust=trust,
            left=uu[..., 0],
            right=uu[..., 1],
            mutual=np.float32(self._weights.uu) * self._judge(uu),
            count=self._pairs * sum(bool(len(a) and len(b)) for a, b in self._pools()),
        )

    def _pools(self) -> list[tuple[np.ndarray, np.ndarray]]:
        known, unknown = self._labelled, self._unlabelled
        return [(known, known), (known, unknown), (unknown, unknown)]

    def _both(self, steps: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """[steps, pairs, 2] int32; no pairs where a pool is empty."""
        if not len(first) or not len(second):
            return np.zeros((steps, 0, 2), np.int32)
        shape = steps, self._pairs
        drawn = [pool[self._draw.integers(0, len(pool), shape)] for pool in (first, second)]
        return np.stack(drawn, axis=-1)

    def _judge(self, pairs: np.ndarray) -> np.ndarray:
        return self._agreement(pairs.reshape(-1, 2)).reshape(pairs.shape[:2]).astype(np.float32)


# Pairs of labelled nodes, to learn agreement from -------------------------------------------------


def labelled_pairs(labels: np.ndarray, *, limit: int, seed: int) -> np.ndarray:
    """All pairs of labelled nodes, [p, 2] int32, each once, or a sample of at most `limit`.

    Half of the sample agrees. Each class has as many of the agreeing pairs, and each two classes as
    many of the others, as far as they have members: with replacement, and small classes come often.
    """
    nodes = _rows(labels >= 0)
    if len(nodes) * (len(nodes) - 1) // 2 <= limit:
        return np.stack([nodes[end] for end in np.triu_indices(len(nodes), 1)], axis=1)
    draw = np.random.default_rng(seed)
    classes = _Classes(labels, nodes)
    agreeing = classes.agreeing(limit // 2, draw)
    return np.concatenate([agreeing, classes.disagreeing(limit - limit // 2, draw)])


def disagreeing_pairs(labels: np.ndarray, number: int, *, seed: int) -> np.ndarray:
    """[number, 2] int32: two classes, each as likely as any other, then a member of each."""
    draw = np.random.default_rng(seed)
    return _Classes(labels, _rows(labels >= 0)).disagreeing(number, draw)


class _Classes:
    """Members of each class, laid one class after the other."""

    def __init__(self, labels: np.ndarray, nodes: np.ndarray) -> None:
        _, of_class, self._sizes = np.unique(labels[nodes], return_inverse=True, return_counts=True)
        self._members = nodes[np.argsort(of_class, kind="stable")]
        self._starts = np.cumsum(self._sizes) - self._sizes

    def agreeing(self, number: int, draw: np.random.Generator) -> np.ndarray:
        """[number, 2]: a class of two members or more, then two of its members."""
        classes = np.flatnonzero(self._sizes > 1)
        if not len(classes):
            return np.zeros((0, 2), np.int32)
        chosen = classes[draw.integers(0, len(classes), number)]
        sizes = self._sizes[chosen]
        first = draw.integers(0, sizes)
        second = (first + draw.integers(1, sizes)) % sizes  # any but the first
        return self._pair(chosen, first, chosen, second)

    def disagreeing(self, number: int, draw: np.random.Generator) -> np.ndarray:
        """[number, 2]: two classes, then a member of each."""
        count = len(self._sizes)
        if count < 2:
            return np.zeros((0, 2), np.int32)
        one = draw.integers(0, count, number)
        other = (one + draw.integers(1, count, number)) % count
        places = (draw.integers(0, self._sizes[each]) for each in (one, other))
        return self._pair(one, next(places), other, next(places))

    def _pair(
        self, one: np.ndarray, first: np.ndarray, other: np.ndarray, second: np.ndarray
    ) -> np.ndarray:
        ends = self._starts[one] + first, self._starts[other] + second
        return np.stack([self._members[end] for end in ends], axis=1)


def hold_out_nodes(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """[nodes] bool: labelled nodes that the agreement model is measured by, not learned from.

    Of each class that share, but at least two, so that there are pairs that agree; none of a class
    that would be left with fewer than two.
    """
    draw = np.random.default_rng(seed)
    nodes = draw.permutation(_rows(labels >= 0))
    _, of_class, sizes = np.unique(labels[nodes], return_inverse=True, return_counts=True)
    wanted = np.maximum(2, np.round(share * sizes)).astype(np.int64)
    wanted[sizes < wanted + 2] = 0
    order = np.argsort(of_class, kind="stable")
    place = np.arange(len(nodes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = place < wanted[of_class[order]]
    held = np.zeros(len(labels), bool)
    held[nodes[order[chosen]]] = True
    return held


class BalancedBatches:
    """Batches of which half agrees: shuffled passes over either kind; [steps, batch] rows of pairs.

    The agreeing pairs come first in a row. Where a kind has fewer pairs than half a batch, the
    other has no more either.
    """

    def __init__(self, targets: np.ndarray, *, batch: int, seed: int) -> None:
        """targets [pairs] bool: whether a pair agrees."""
        self._rows = np.flatnonzero(targets), np.flatnonzero(~targets)
        half = min(batch // 2, *(len(rows) for rows in self._rows))
        seeds = np.random.SeedSequence(seed).spawn(2)
        self._cycles = [
            Cycle(len(rows), half, np.random.default_rng(own))
            for rows, own in zip(self._rows, seeds, strict=True)
        ]
        self.half = half

    def take(self, steps: int) -> np.ndarray:
        """[steps, 2 * half] int64."""
        drawn = zip(self._rows, self._cycles, strict=True)
        return np.concatenate([rows[cycle.take(steps)] for rows, cycle in drawn], axis=1)


def accepted_pairs(labels: np.ndarray, number: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs as GAM* draws them to learn from: ([p, 2] int32, [p] bool, whether they agree).

    Of `number` pairs, either end uniform over the labelled nodes, those that agree are taken, and
    of the others a share r, the sum of the squared shares of the classes: agreeing to disagreeing
    is as 1 : 1 - r.
    """
    draw = np.random.default_rng(seed)
    nodes = _rows(labels >= 0)
    _, sizes = np.unique(labels[nodes], return_counts=True)
    ratio = float(((sizes / sizes.sum()) ** 2).sum())
    pairs = nodes[draw.integers(0, len(nodes), (number, 2))]
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    taken = same | (draw.random(number) < ratio)
    return pairs[taken], same[taken]
