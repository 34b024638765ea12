"""Counted pairs to the edges of the graph: weighed, and only the strongest of each image kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pipeline.config import GraphConfig
from pipeline.graph import measures
from pipeline.graph.strength import UNIT
from pipeline.hashing import mix
from pipeline.sorting import changes, order_by, run_lengths, run_starts

# A pair whose lower image is known: the graph's pairs after `min_sessions` and `min_users`.
PAIR_SCHEMA = pa.schema(
    [
        ("low", pa.uint64()),
        ("high", pa.uint64()),
        ("sessions", pa.int64()),
        ("users", pa.int64()),
        ("strength", pa.int64()),  # units of strength.UNIT
        ("low_sessions", pa.int64()),
    ]
)
# An edge between hashes of images. Counts are null for a ready edge list.
EDGE_SCHEMA = pa.schema(
    [
        ("src", pa.uint64()),
        ("dst", pa.uint64()),
        ("weight", pa.float64()),
        ("sessions", pa.int64()),
        ("users", pa.int64()),
        ("strength", pa.float64()),
        ("src_sessions", pa.int64()),
        ("dst_sessions", pa.int64()),
    ]
)
NOT_SIGNIFICANT, NOT_POSITIVE = "pairs_not_significant", "pairs_not_positive"


def weigh(
    pairs: pa.Table, high_sessions: np.ndarray, config: GraphConfig, *, population: int
) -> tuple[pa.Table, dict[str, int]]:
    """(the pairs of positive weight, both ways, as EDGE_SCHEMA; how many each step removed).

    pairs: PAIR_SCHEMA. high_sessions: [pairs] int64, the sessions of the higher image.
    """
    columns = {name: pairs[name].to_numpy() for name in PAIR_SCHEMA.names}
    columns["high_sessions"] = high_sessions
    columns["strength"] = columns["strength"] / UNIT
    counted = (columns["sessions"], columns["low_sessions"], high_sessions, population)
    before = len(high_sessions)
    significant = np.ones(before, bool)
    if config.min_significance is not None:
        significant = measures.significant(measures.llr(*counted), config.min_significance)
        columns = {name: values[significant] for name, values in columns.items()}
    weight = measures.weigh(
        config.measure,
        sessions=columns["sessions"],
        src_sessions=columns["low_sessions"],
        dst_sessions=columns["high_sessions"],
        strength=columns["strength"],
        population=population,
    )
    positive = weight > 0
    columns = {name: values[positive] for name, values in columns.items()}
    removed = {
        NOT_SIGNIFICANT: before - int(significant.sum()),
        NOT_POSITIVE: int((~positive).sum()),
    }
    return _both_ways(columns, weight[positive]), removed


def _both_ways(columns: Mapping[str, np.ndarray], weight: np.ndarray) -> pa.Table:
    low, high = columns["low"], columns["high"]
    of_low, of_high = columns["low_sessions"], columns["high_sessions"]
    arrays = [
        np.concatenate([low, high]),
        np.concatenate([high, low]),
        np.tile(weight, 2),
        np.tile(columns["sessions"], 2),
        np.tile(columns["users"], 2),
        np.tile(columns["strength"], 2),
        np.concatenate([of_low, of_high]),
        np.concatenate([of_high, of_low]),
    ]
    return pa.table(arrays, schema=EDGE_SCHEMA)


def rank_edges(edges: pa.Table, *, by: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(an order by image and falling weight, the rank from 1 on of each edge in that order).

    by: "src" ranks the edges from each image, "dst" those to it. Edges of equal weight are put in
    order by a seeded hash of (src, dst); by their ids they would make hubs of the first ids.
    """
    src, dst = edges["src"].to_numpy(), edges["dst"].to_numpy()
    tie = mix(mix(src ^ mix(np.asarray([seed], np.uint64))) ^ dst)
    image = src if by == "src" else dst
    order = order_by(image, falling(edges["weight"].to_numpy()), tie)
    starts = run_starts(image[order])
    first = np.repeat(starts, run_lengths(starts, len(order)))
    return order, np.arange(len(order)) - first + 1


def falling(weight: np.ndarray) -> np.ndarray:
    """[edges] int64 that ascend as the weights fall; 0 and -0 are one."""
    bits = (weight + 0.0).view(np.int64)
    # The bits of floating point numbers sort as the numbers do, of negative ones the other way.
    return np.where(bits < 0, bits & np.iinfo(np.int64).max, -bits)


def keep_strongest(edges: pa.Table, limit: int, *, by: str, seed: int) -> pa.Table:
    """The `limit` strongest edges from ("src") or to ("dst") each image, with their `rank`."""
    order, rank = rank_edges(edges, by=by, seed=seed)
    kept = rank <= limit
    strongest = edges.take(pa.array(order[kept]))
    return strongest.append_column("rank", pa.array(rank[kept].astype(np.int32)))


def symmetrize(edges: pa.Table, symmetry: str) -> pa.Table:
    """Edges of which both directions are kept ("mutual"), or both where either is ("union").

    edges: EDGE_SCHEMA, both directions of a pair in the same table, weighing the same.
    """
    src, dst = edges["src"].to_numpy(), edges["dst"].to_numpy()
    low, high = np.minimum(src, dst), np.maximum(src, dst)
    order = order_by(low, high)
    starts = np.flatnonzero(changes(low[order]) | changes(high[order]))
    lengths = run_lengths(starts, len(order))
    twice = np.repeat(lengths == 2, lengths)
    if symmetry == "mutual":
        return edges.take(pa.array(np.sort(order[twice])))
    alone = edges.take(pa.array(order[~twice]))
    return pa.concat_tables([edges, reverse(alone)])


def reverse(edges: pa.Table) -> pa.Table:
    """The same edges the other way."""
    swapped = {"src": "dst", "dst": "src", "src_sessions": "dst_sessions"}
    swapped["dst_sessions"] = "src_sessions"
    return edges.rename_columns([swapped.get(name, name) for name in edges.column_names]).select(
        edges.column_names
    )
