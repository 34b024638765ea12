"""Pairs of nodes of which it is known whether they agree: what an agreement model learns from.

In: labels and edges, or pairs with their targets. Out: pairs to learn from, and pairs to
measure by, whose nodes are no part of the former.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.agreement import pairs as of_labels

PAIRS_AT_MOST = 200_000  # of labelled nodes, to learn from
HELD_OUT_AT_MOST = 10_000
HELD_OUT = 0.2  # of the labelled nodes of each class
_HELD_OUT_EDGES = 0.1  # of the labelled edges, where only these are learned from


@dataclass(frozen=True)
class Graph:
    """Edges, and numbers about each.

    edges: [edges, 2] int32, rows of nodes. features: [edges, f] float32, standardized.
    """

    edges: np.ndarray
    features: np.ndarray

    @classmethod
    def of(cls, edges: np.ndarray, features: np.ndarray | None = None) -> Graph:
        """features: [edges, f], as they come; None: nothing is known of an edge."""
        if features is None:
            features = np.zeros((len(edges), 0), np.float32)
        return cls(edges.astype(np.int32, copy=False), standardized(features))


def standardized(features: np.ndarray) -> np.ndarray:
    """[edges, f] float32 of mean 0 and deviation 1, of the logarithms: what is counted has a tail.

    A number x becomes sign(x) ln(1 + |x|) before; what is not known, nan, becomes the mean.
    """
    logs = np.sign(features) * np.log1p(np.abs(features))
    known = np.isfinite(logs)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, logs, 0.0).sum(axis=0) / count
    away = np.where(known, logs - mean, 0.0)
    deviation = np.sqrt((away * away).sum(axis=0) / count)
    return (away / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)


@dataclass(frozen=True)
class PairSet:
    """Pairs and whether they agree.

    pairs: [p, 2] int32, rows of nodes. targets: [p] bool. features: [p, f] float32, of a pair that
    is no edge 0. edges: how many of the pairs, the last ones, are edges.
    """

    pairs: np.ndarray
    targets: np.ndarray
    features: np.ndarray
    edges: int = 0

    @property
    def agreeing(self) -> int:
        """How many of them agree, each pair of nodes counted once."""
        return len(np.unique(np.sort(self.pairs[self.targets], axis=1), axis=0))

    def kinds(self) -> tuple[int, int]:
        """(agreeing, disagreeing), a pair as often as it is there."""
        agreeing = int(self.targets.sum())
        return agreeing, len(self.targets) - agreeing

    def none(self) -> PairSet:
        """No pairs, with as many features."""
        return PairSet(self.pairs[:0], self.targets[:0], self.features[:0])

    @classmethod
    def of(cls, pairs: np.ndarray, labels: np.ndarray, width: int) -> PairSet:
        """Pairs that are no edges; width: of the features."""
        targets = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        return cls(pairs, targets, np.zeros((len(pairs), width), np.float32))

    def __add__(self, other: PairSet) -> PairSet:
        """These, then the other's, which are edges."""
        return PairSet(
            np.concatenate([self.pairs, other.pairs]),
            np.concatenate([self.targets, other.targets]),
            np.concatenate([self.features, other.features]),
            self.edges + other.edges,
        )


def labelled_edges(graph: Graph, labels: np.ndarray) -> PairSet:
    """Edges between labelled nodes."""
    rows = of_labels.edges_by_kind(graph.edges, labels, agreeing=False).ll
    pairs = graph.edges[rows]
    targets = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    return PairSet(pairs, targets, graph.features[rows], len(rows))


@dataclass(frozen=True)
class Lesson:
    """What a fit learns from, and what it is measured by."""

    learned: PairSet
    held_out: PairSet


def of_all_pairs(
    graph: Graph, labels: np.ndarray, *, seed: int, validation: np.ndarray | None = None
) -> Lesson:
    """All pairs of labelled nodes, and the edges among them.

    labels [nodes] int64, -1 = none. validation [nodes]: labels of nodes that have none in `labels`
    and are kept to measure by; None: some of the labelled nodes are held out for that.
    """
    if validation is None:
        held = of_labels.hold_out_nodes(labels, share=HELD_OUT, seed=seed)
        validation = np.where(held, labels, of_labels.UNKNOWN)
        labels = np.where(held, of_labels.UNKNOWN, labels)
    return Lesson(
        _with_edges(graph, labels, PAIRS_AT_MOST, seed),
        _all_pairs(graph, validation, HELD_OUT_AT_MOST, seed + 1),
    )


def without_held_out(graph: Graph, labels: np.ndarray, *, seed: int) -> PairSet:
    """All pairs of labelled nodes and the edges among them, none kept to measure by."""
    return _with_edges(graph, labels, PAIRS_AT_MOST, seed)


def _all_pairs(graph: Graph, labels: np.ndarray, limit: int, seed: int) -> PairSet:
    pairs = of_labels.labelled_pairs(labels, limit=limit, seed=seed)
    return PairSet.of(pairs, labels, graph.features.shape[1])


def _with_edges(graph: Graph, labels: np.ndarray, limit: int, seed: int) -> PairSet:
    return _all_pairs(graph, labels, limit, seed) + labelled_edges(graph, labels)


def of_edges(graph: Graph, labels: np.ndarray, *, seed: int) -> Lesson:
    """As published: labelled edges alone, a tenth of them held out.

    Where fewer of them disagree than agree, other pairs of labelled nodes that do not agree are
    added until there are as many.
    """
    draw = np.random.default_rng(seed)
    found = labelled_edges(graph, labels)
    order = draw.permutation(len(found.pairs))
    number = min(int(_HELD_OUT_EDGES * len(order)), HELD_OUT_AT_MOST)
    held_out, rest = _of_rows(found, order[:number]), _of_rows(found, order[number:])
    return Lesson(_topped_up(rest, labels, seed), held_out)


def of_random_pairs(graph: Graph, labels: np.ndarray, *, seed: int) -> Lesson:
    """GAM* as published: random pairs of labelled nodes, a tenth of the nodes held out."""
    draw = np.random.default_rng(seed)
    nodes = draw.permutation(np.flatnonzero(labels >= 0))
    held = np.zeros(len(labels), bool)
    held[nodes[: len(nodes) // 10]] = True
    width = graph.features.shape[1]
    sets: list[PairSet] = []
    for part, number in ((~held, PAIRS_AT_MOST), (held, HELD_OUT_AT_MOST)):
        own = np.where(part, labels, of_labels.UNKNOWN)
        count = int((own >= 0).sum())
        pairs = np.zeros((0, 2), np.int32)
        if count:
            number = min(number, max(count**2, 1))
            pairs, _ = of_labels.accepted_pairs(own, number, seed=seed + len(sets))
        sets.append(PairSet.of(pairs, labels, width))
    return Lesson(*sets)


def of_targets(
    pairs: np.ndarray,
    targets: np.ndarray,
    features: np.ndarray,
    *,
    seed: int,
    held_out: np.ndarray | None = None,
) -> Lesson:
    """Pairs that are known to agree or not without a label, such as those of `targets`.

    held_out [p] bool: pairs to measure by; None: those of a fifth of the nodes, and the pairs that
    have one end there and one elsewhere are left out.
    """
    every = PairSet(pairs.astype(np.int32, copy=False), targets.astype(bool), features)
    if held_out is not None:
        return Lesson(
            _of_rows(every, np.flatnonzero(~held_out)), _of_rows(every, np.flatnonzero(held_out))
        )
    nodes = np.unique(pairs)
    held = np.zeros(int(nodes[-1]) + 1 if len(nodes) else 0, bool)
    held[np.random.default_rng(seed).permutation(nodes)[: int(HELD_OUT * len(nodes))]] = True
    ends = held[pairs].sum(axis=1)
    return Lesson(
        _of_rows(every, np.flatnonzero(ends == 0)), _of_rows(every, np.flatnonzero(ends == 2))
    )


def _of_rows(every: PairSet, rows: np.ndarray) -> PairSet:
    edges = len(rows) if every.edges else 0
    return PairSet(every.pairs[rows], every.targets[rows], every.features[rows], edges)


def _topped_up(found: PairSet, labels: np.ndarray, seed: int) -> PairSet:
    agreeing, disagreeing = found.kinds()
    missing = max(0, agreeing - disagreeing)
    pairs = of_labels.disagreeing_pairs(labels, missing, seed=seed)
    return PairSet.of(pairs, labels, found.features.shape[1]) + found
