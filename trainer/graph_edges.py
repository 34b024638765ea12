"""The graph's edges among the nodes of the examples, with all that the logs tell of each.

In: the nodes, and the version of the graph that their examples were made of, where it is still
there. Out: rows of nodes, weights, and numbers for the agreement model to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.shards import read_shards
from trainer.evaluation.inputs import rows_in
from trainer.nodes import Nodes

# Of an edge, in this order: those that are not known of any edge are left out.
FEATURES = ("weight", "strength", "sessions", "users", "rarer", "commoner", "npmi")


@dataclass(frozen=True)
class GraphEdges:
    """Directed edges among nodes.

    ends: [edges, 2] int64, rows of source and target. ranks: [edges] int32, 1 = the strongest of
    its source. weights: [edges] float64. Both are as in the graph. features: [edges, f] float32,
    logarithms of what the logs count; f may be 0. names: what each of the f is, of FEATURES.
    """

    ends: np.ndarray
    ranks: np.ndarray
    weights: np.ndarray
    features: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.weights)


def edges_of_graph(graph: Version, image_ids: pa.Array) -> GraphEdges:
    """Those of a version of the graph whose two ends are among the images."""
    table = read_shards(graph, schema.EDGES, schema.EDGE_SCHEMA)
    ends = np.stack([rows_in(table[end], image_ids) for end in ("src", "dst")], axis=1)
    known = (ends >= 0).all(axis=1)
    table = table.filter(pa.array(known))
    features = _features(table, float(graph.manifest.get("population") or 0.0))
    columns = list(features.values())
    return GraphEdges(
        ends=ends[known],
        ranks=table["rank"].to_numpy(),
        weights=table["weight"].to_numpy(),
        features=np.stack(columns, axis=1) if columns else np.zeros((int(known.sum()), 0), "f4"),
        names=tuple(features),
    )


def edges_of_examples(nodes: Nodes) -> GraphEdges:
    """Those that the examples carry, of which nothing but a weight is known."""
    return GraphEdges(
        ends=nodes.neighbors,
        ranks=nodes.slots + 1,
        weights=nodes.weights.astype(np.float64),
        features=np.log1p(nodes.weights)[:, None].astype(np.float32),
        names=FEATURES[:1],
    )


def _features(table: pa.Table, population: float) -> dict[str, np.ndarray]:
    """{name: [edges] float32}, the same for both directions of an edge."""

    def logs(name: str) -> np.ndarray | None:
        column = table[name]
        if column.null_count == len(column):
            return None
        return np.log1p(pc.fill_null(column, 0).to_numpy().astype(np.float64))

    found = {name: logs(name) for name in ("weight", "strength", "sessions", "users")}
    of_ends = [logs(name) for name in ("src_sessions", "dst_sessions")]
    source, target = of_ends
    if source is not None and target is not None:
        found["rarer"], found["commoner"] = np.minimum(source, target), np.maximum(source, target)
        if population > 0:
            found["npmi"] = _npmi(table, population)
    return {name: values.astype(np.float32) for name, values in found.items() if values is not None}


def _npmi(table: pa.Table, population: float) -> np.ndarray:
    """ln(c N / (n_i n_j)) / ln(N / c), in [-1, 1] (G. Bouma, 2009); 1 where c is N."""
    both, source, target = (
        np.maximum(table[name].to_numpy().astype(np.float64), 1.0)
        for name in ("sessions", "src_sessions", "dst_sessions")
    )
    total = np.maximum(population, np.maximum(source, target))
    bound = np.log(total / both)
    pmi = np.log(both) + np.log(total) - np.log(source) - np.log(target)
    ratio = np.divide(pmi, bound, out=np.ones_like(pmi), where=bound > 0)
    return np.clip(ratio, -1.0, 1.0)


@dataclass(frozen=True)
class Clicks:
    """Which images were opened for which query.

    query: [clicks] int64, a running number. node: [clicks] int64, its row. sessions, users:
    [clicks] int64; users 0 = not known.
    """

    query: np.ndarray
    node: np.ndarray
    sessions: np.ndarray
    users: np.ndarray

    def __len__(self) -> int:
        return len(self.query)


def clicks_of(graph: Version, image_ids: pa.Array) -> Clicks:
    """The clicks on images that are among these."""
    table = read_shards(graph, schema.QUERIES, schema.QUERY_SCHEMA)
    node = rows_in(table["image_id"], image_ids)
    known = node >= 0
    query = pc.dictionary_encode(table["query"].combine_chunks()).indices.to_numpy()
    counts: Sequence[np.ndarray] = [
        pc.fill_null(table[name], 0).to_numpy().astype(np.int64) for name in ("sessions", "users")
    ]
    return Clicks(query.astype(np.int64)[known], node[known], *(one[known] for one in counts))
