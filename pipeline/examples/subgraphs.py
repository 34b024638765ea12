"""The small graph of each example: its neighbours, and all edges among seed and neighbours.

Node 0 of an example is the seed, node i + 1 its neighbour i. An edge is there if the graph has it
and both of its ends are nodes of the example. Works on all examples of a block at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.examples.neighbors import OUT_PLACE, OUT_WEIGHT
from pipeline.examples.places import PLACE, column
from pipeline.sorting import rows_of


@dataclass(frozen=True)
class OutEdges:
    """The out-edges of some nodes, from the strongest on: those of node i are offsets[i] to [i+1].

    place: [nodes] uint64. offsets: [nodes + 1] int64. targets: [edges] uint64, places. weights:
    [edges] float32.
    """

    place: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, nodes: pa.Table) -> OutEdges:
        """Of a table of neighbors.with_out_edges."""
        targets, weights = column(nodes, OUT_PLACE), column(nodes, OUT_WEIGHT)
        start = int(targets.offsets[0].as_py()) if len(targets) else 0
        return cls(
            column(nodes, PLACE).to_numpy(),
            targets.offsets.to_numpy() - start,
            targets.flatten().to_numpy(),
            weights.flatten().to_numpy(),
        )

    def part(self, rows: slice) -> OutEdges:
        """Those of some consecutive nodes."""
        offsets = self.offsets[rows.start : rows.stop + 1]
        return OutEdges(self.place[rows], offsets, self.targets, self.weights)

    def of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of `rows`, which edge) of all out-edges of those nodes. rows: [n] int64."""
        degrees = self.offsets[rows + 1] - self.offsets[rows]
        owner = np.repeat(np.arange(len(rows)), degrees)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
        return owner, self.offsets[rows][owner] + within


@dataclass(frozen=True)
class Edges:
    """Edges among the nodes of examples, sorted by (example, sender, receiver).

    counts: [examples] int64. senders, receivers: [edges] int64. weights: [edges] float32.
    """

    counts: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    weights: np.ndarray


def strongest(seeds: OutEdges, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """(places [seeds, limit] uint64, weights [seeds, limit] float32) of each seed's neighbours.

    From the strongest on; weight 0 where there are no more.
    """
    degrees = np.diff(seeds.offsets)
    slots = seeds.offsets[:-1, None] + np.arange(limit)
    present = np.arange(limit) < degrees[:, None]
    slots = np.where(present, slots, 0)
    if not len(seeds.targets):
        return np.zeros(slots.shape, np.uint64), np.zeros(slots.shape, np.float32)
    places = np.where(present, seeds.targets[slots], np.uint64(0))
    return places, np.where(present, seeds.weights[slots], np.float32(0))


def edges_among(
    seeds: OutEdges, neighbors: OutEdges, seed_rows: np.ndarray, neighbor_rows: np.ndarray
) -> Edges:
    """The edges among the nodes of each example.

    seed_rows: [examples] int64, rows of `seeds`. neighbor_rows: [examples, K] int64, rows of
    `neighbors`; -1 = there is no such neighbour.
    """
    examples, slots = neighbor_rows.shape
    present = neighbor_rows >= 0
    if len(neighbors.place):
        near = np.where(present, neighbors.place[np.maximum(neighbor_rows, 0)], np.uint64(0))
    else:
        near = np.zeros((examples, slots), np.uint64)
    node_places = np.concatenate([seeds.place[seed_rows][:, None], near], axis=1)
    is_node = np.concatenate([np.ones((examples, 1), bool), present], axis=1)

    owner, edge = seeds.of_rows(seed_rows)
    parts = [(owner, np.zeros(len(owner), np.int64), seeds.targets[edge], seeds.weights[edge])]
    example_of, slot_of = np.nonzero(present)
    owner, edge = neighbors.of_rows(neighbor_rows[present])
    parts.append(
        (example_of[owner], slot_of[owner] + 1, neighbors.targets[edge], neighbors.weights[edge])
    )
    example, sender, target, weight = (np.concatenate(part) for part in zip(*parts, strict=True))

    receiver = _slot_of(node_places, is_node, example, target)
    found = receiver >= 0
    example, sender, receiver, weight = (
        values[found] for values in (example, sender, receiver, weight)
    )
    order = np.lexsort([receiver, sender, example])
    return Edges(
        np.bincount(example, minlength=examples), sender[order], receiver[order], weight[order]
    )


def _slot_of(
    node_places: np.ndarray, is_node: np.ndarray, example: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """[edges] int64: which node of its example each edge leads to; -1 = none of them.

    node_places: [examples, K + 1] uint64, where `is_node`. By sorted keys, not by comparing each
    edge with all nodes: of examples with 100 neighbours that would be gigabytes.
    """
    example_of, slot_of = np.nonzero(is_node)
    known, number = np.unique(node_places[is_node], return_inverse=True)
    keys = example_of * len(known) + number
    order = np.argsort(keys)
    target_number = rows_of(target, known)
    wanted = np.where(target_number >= 0, example * len(known) + target_number, -1)
    rows = rows_of(wanted, keys[order])
    return np.where(rows >= 0, slot_of[order][rows], -1)
