"""Single edges to look at: the strongest ones, and strong ones that are doubted.

Edges are read some rows at a time, and only the few that will be shown are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cli.report.gallery import Gallery
from cli.report.runs import Run
from cli.report.tables import stream
from pipeline import schema
from pipeline.artifacts import Version

AGREEMENT, COSINE = "agreement", "cosine"
STRONG = 0.75  # the share of all edges that weigh less than what is called strong
_COLUMNS = ("src", "dst", "weight", "sessions", "src_sessions", "dst_sessions")


@dataclass(frozen=True)
class Edge:
    """A pair of images. sessions: that hold both, None where nobody counted them.

    agreement: the probability that both are of one class. cosine: of their embeddings. None where
    there is none.
    """

    src: str
    dst: str
    weight: float
    sessions: int | None
    src_sessions: int | None
    dst_sessions: int | None
    agreement: float | None = None
    cosine: float | None = None


def strongest(graph: Version, number: int) -> list[Edge]:
    """The pairs of images of the largest weights, each once; equal ones in order of their ids."""
    kept = schema.EDGE_SCHEMA.empty_table().select(_COLUMNS)
    for edges in stream(graph, schema.EDGES, _COLUMNS):
        kept = _first(pa.concat_tables([kept, edges]), "weight", "descending", number)
    return _edges(kept)


def _first(edges: pa.Table, by: str, order: str, number: int) -> pa.Table:
    """The first `number` pairs; of the two directions of a pair the first."""
    bound = np.sort(edges[by].to_numpy())
    if len(bound) > 2 * number:  # so that few are sorted by their ids
        limit = bound[-2 * number] if order == "descending" else bound[2 * number - 1]
        keep = pc.greater_equal if order == "descending" else pc.less_equal
        edges = edges.filter(keep(edges[by], limit))
    edges = edges.sort_by([(by, order), ("src", "ascending"), ("dst", "ascending")])
    seen: set[tuple[str, ...]] = set()
    rows: list[int] = []
    ends = zip(edges["src"].to_pylist(), edges["dst"].to_pylist(), strict=True)
    for row, pair in enumerate(tuple(sorted(pair)) for pair in ends):
        if pair not in seen:
            seen.add(pair)
            rows.append(row)
        if len(rows) == number:
            break
    return edges.take(pa.array(rows, pa.int64()))


def _edges(table: pa.Table) -> list[Edge]:
    return [Edge(**row) for row in table.to_pylist()]


@dataclass(frozen=True)
class Doubts:
    """Strong edges that are doubted, the most doubted first. by: AGREEMENT or COSINE."""

    by: str
    edges: list[Edge]
    among: int  # strong edges that were looked at


def doubted(run: Run, gallery: Gallery | None, *, bound: float, number: int) -> Doubts | None:
    """By agreement where it is known, else by the embedding; None where there is neither.

    bound: the weight from which on an edge is strong.
    """
    source = judged(run)
    if source is not None:
        return _by_agreement(source, run.graph, bound=bound, number=number)
    if gallery is not None and len(gallery):
        return _by_cosine(run.graph, gallery, bound=bound, number=number)
    return None


def judged(run: Run) -> Version | None:
    """The version that tells the agreement of the graph's edges, if there is one."""
    for stage in (schema.AGREEMENT, schema.MODEL):
        version = run.get(stage)
        if version is not None and version.shards(schema.AGREEMENTS) and not run.is_stale(stage):
            return version
    return None


def _by_agreement(source: Version, graph: Version, *, bound: float, number: int) -> Doubts:
    columns = ("src", "dst", "weight", "agreement")
    kept, among = schema.AGREEMENT_SCHEMA.empty_table().select(columns), 0
    for edges in stream(source, schema.AGREEMENTS, columns):
        strong = edges.filter(pc.greater_equal(edges["weight"], bound))
        among += strong.num_rows
        kept = _first(pa.concat_tables([kept, strong]), "agreement", "ascending", number)
    counts = _look_up(graph, kept)
    return Doubts(
        AGREEMENT,
        [
            Edge(**counts[row["src"], row["dst"]] | {"agreement": row["agreement"]})
            for row in kept.to_pylist()
            if (row["src"], row["dst"]) in counts
        ],
        among,
    )


def _look_up(graph: Version, pairs: pa.Table) -> dict[tuple[str, str], dict]:
    """The rows of the graph that these edges have."""
    wanted = set(zip(pairs["src"].to_pylist(), pairs["dst"].to_pylist(), strict=True))
    return {
        (row["src"], row["dst"]): row
        for edges in stream(graph, schema.EDGES, _COLUMNS)
        for row in edges.filter(pc.is_in(edges["src"], value_set=pairs["src"])).to_pylist()
        if (row["src"], row["dst"]) in wanted
    }


def _by_cosine(graph: Version, gallery: Gallery, *, bound: float, number: int) -> Doubts:
    kept: pa.Table | None = None
    among = 0
    for edges, cosine in _cosines(graph, gallery, bound):
        among += edges.num_rows
        more = edges.append_column(COSINE, pa.array(cosine.astype(np.float64)))
        both = more if kept is None else pa.concat_tables([kept, more])
        kept = _first(both, COSINE, "ascending", number)
    return Doubts(COSINE, [] if kept is None else _edges(kept), among)


def _cosines(
    graph: Version, gallery: Gallery, bound: float
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    for edges in stream(graph, schema.EDGES, _COLUMNS):
        strong = edges.filter(pc.greater_equal(edges["weight"], bound))
        src, dst = gallery.rows_of(strong["src"]), gallery.rows_of(strong["dst"])
        known = np.flatnonzero((src >= 0) & (dst >= 0))
        yield (
            strong.take(pa.array(known)),
            np.einsum("ij,ij->i", gallery.vectors[src[known]], gallery.vectors[dst[known]]),
        )
