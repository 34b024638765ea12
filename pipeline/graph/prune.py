"""Counted pairs to the edges of the graph: weighed, and only the strongest of each image kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.config import GraphConfig
from pipeline.graph.measures import MEASURES
from pipeline.sessions.sessionize import mix

# A pair with the images' hashes, ids and counts: all that a weight needs.
FULL_PAIRS = pa.schema(
    [
        ("src", pa.uint64()),
        ("dst", pa.uint64()),
        ("src_id", pa.string()),
        ("dst_id", pa.string()),
        ("sessions", pa.int64()),
        ("users", pa.int64()),
        ("src_sessions", pa.int64()),
        ("dst_sessions", pa.int64()),
    ]
)


def join_source(pairs: pa.Table, images: pa.Table, *, known: tuple[str, ...] = ()) -> pa.Table:
    """Pairs with `src_id` and `src_sessions` looked up in IMAGE_COUNTS of the same shard.

    known: columns that the pairs have beside those of PAIR_COUNTS, to be kept.
    """
    hashes = images["image"].to_numpy()
    order = np.argsort(hashes)
    rows = pa.array(order[np.searchsorted(hashes[order], pairs["src"].to_numpy())])
    return (
        pairs.append_column("src_id", images["image_id"].take(rows))
        .append_column("src_sessions", images["sessions"].take(rows))
        .select(["src", "dst", "sessions", "users", "src_id", "src_sessions", *known])
    )


def turn_around(pairs: pa.Table) -> pa.Table:
    """The same pairs seen from the other end: what was known of src is known of dst.

    Counts are symmetric, so every pair stands in the shards of both its images; turned around,
    each end learns of the other with one shuffle.
    """
    return pairs.rename_columns(["dst", "src", "sessions", "users", "dst_id", "dst_sessions"])


def weigh(pairs: pa.Table, config: GraphConfig, population: int) -> np.ndarray:
    """[pairs] float64: the measure that the config names."""
    measure = MEASURES[config.measure]
    return measure(
        pairs["sessions"].to_numpy(),
        pairs["src_sessions"].to_numpy(),
        pairs["dst_sessions"].to_numpy(),
        population,
    )


def keep_strongest(
    pairs: pa.Table, config: GraphConfig, *, population: int, seed: int
) -> tuple[pa.Table, dict[str, int]]:
    """The edges of one shard's images (schema.EDGE_SCHEMA), and how many each step removed.

    Weights of zero and below are removed, then all but the `top_k` heaviest out-edges of an
    image; equal weights are put in order by a seeded hash of the pair.
    """
    weight = weigh(pairs, config, population)
    positive = weight > 0
    pairs, weight = pairs.filter(pa.array(positive)), weight[positive]
    order, rank = _rank(pairs, weight, seed)
    strongest = rank <= config.top_k
    rows = pa.array(order[strongest])
    edges = _edges(pairs.take(rows), weight[order[strongest]], rank[strongest])
    return edges, {
        "not_positive": int((~positive).sum()),
        "beyond_top_k": int((~strongest).sum()),
    }


def _rank(pairs: pa.Table, weight: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(an order by src and falling weight, the rank from 1 on of each pair in that order)."""
    src, dst = pairs["src"].to_numpy(), pairs["dst"].to_numpy()
    tie = mix(mix(src + np.uint64(seed)) ^ dst)
    order = np.lexsort((tie, -weight, src))
    ordered = src[order]
    new = np.ones(len(order), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(new)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return order, rank + 1


def _edges(pairs: pa.Table, weight: np.ndarray, rank: np.ndarray) -> pa.Table:
    columns = [
        pairs["src_id"],
        pairs["dst_id"],
        pa.chunked_array([rank.astype(np.int32)]),
        pa.chunked_array([weight]),
        pairs["sessions"],
        pairs["users"],
        pc.cast(pairs["sessions"], pa.float64()),
        pairs["src_sessions"],
        pairs["dst_sessions"],
    ]
    return pa.table(columns, schema=schema.EDGE_SCHEMA)


def count_degrees(images: pa.Table, edges: pa.Table) -> pa.Table:
    """schema.NODE_SCHEMA of a shard's images: sessions, and out-edges after pruning."""
    degrees = edges.group_by("src").aggregate([([], "count_all")])
    index = pc.index_in(images["image_id"], degrees["src"])
    degree = pc.fill_null(degrees["count_all"].take(index), 0)
    return pa.table([images["image_id"], images["sessions"], degree], schema=schema.NODE_SCHEMA)
