"""Figures of the graph that its manifest does not hold, from its nodes and edges.

Out: degrees, components, weights. Edges are read some rows at a time; what stays of each are two
numbers of images and its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cli.report.tables import stream
from pipeline import schema
from pipeline.artifacts import Version

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Links:
    """The edges of a graph as numbers of its images.

    ids: [images] string. sessions: [images] int64, n_i. src, dst: [edges] int32. weight: [edges]
    float64.
    """

    ids: pa.Array
    sessions: np.ndarray
    src: np.ndarray
    dst: np.ndarray
    weight: np.ndarray


def read_links(graph: Version) -> Links:
    """All nodes and edges. An image that edges only lead to counts as a node of no session."""
    parts = list(stream(graph, schema.NODES, ["image_id", "sessions"]))
    nodes = pa.concat_tables([schema.NODE_SCHEMA.empty_table().select([0, 1]), *parts])
    ids = _single(nodes["image_id"])
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    weights: list[np.ndarray] = []
    for edges in stream(graph, schema.EDGES, ["src", "dst", "weight"]):
        for name in ("src", "dst"):
            ids = _with_missing(ids, edges[name])
        ends.append((_numbers(edges["src"], ids), _numbers(edges["dst"], ids)))
        weights.append(edges["weight"].to_numpy())
    sessions = np.zeros(len(ids), np.int64)
    sessions[: nodes.num_rows] = pc.fill_null(nodes["sessions"], 0).to_numpy()
    src, dst = (
        np.concatenate([np.zeros(0, np.int32), *(pair[end] for pair in ends)]) for end in (0, 1)
    )
    return Links(ids, sessions, src, dst, np.concatenate([np.zeros(0), *weights]))


def _single(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _with_missing(ids: pa.Array, column: pa.ChunkedArray) -> pa.Array:
    missing = column.filter(pc.invert(pc.is_in(column, value_set=ids)))
    return pa.concat_arrays([ids, _single(missing).unique()]) if len(missing) else ids


def _numbers(column: pa.ChunkedArray, ids: pa.Array) -> np.ndarray:
    return pc.index_in(column, value_set=ids).to_numpy().astype(np.int32)


@dataclass(frozen=True)
class Steps:
    """Images by a number of theirs, in steps of powers of two: "0", "1", "2–3", "4–7", …"""

    names: list[str]
    counts: list[int]


def by_powers(numbers: np.ndarray, largest: int | None = None) -> Steps:
    """numbers: [images] int. The steps end with the one of `largest`, or of the largest number."""
    top = int(numbers.max(initial=0)) if largest is None else largest
    step = np.zeros(len(numbers), np.int64)
    positive = numbers > 0
    step[positive] = np.floor(np.log2(numbers[positive])).astype(np.int64) + 1
    steps = 2 if top <= 1 else int(np.floor(np.log2(top))) + 2
    counts = np.bincount(step, minlength=steps).tolist()
    names = ["0", "1", *(f"{2**i:,}–{2 ** (i + 1) - 1:,}" for i in range(1, steps - 1))]
    return Steps(names[: len(counts)], counts)


@dataclass(frozen=True)
class Components:
    """Images that edges connect, whichever way they lead.

    number: components of two images or more. alone: images without any edge. sizes: how many
    components have how many images, those of one image left out. largest: images of the largest.
    """

    number: int
    alone: int
    largest: int
    images: int
    sizes: Steps

    @property
    def share(self) -> float:
        return self.largest / self.images if self.images else 0.0


def components(links: Links) -> Components:
    """Weakly connected components."""
    images = len(links.ids)
    if images == 0:
        return Components(0, 0, 0, 0, Steps([], []))
    joined = coo_array((np.ones(len(links.src), bool), (links.src, links.dst)), (images, images))
    _, label = connected_components(joined.tocsr(), directed=False)
    sizes = np.bincount(label)
    larger = sizes[sizes > 1]
    steps = by_powers(larger)
    return Components(
        number=len(larger),
        alone=int((sizes == 1).sum()),
        largest=int(larger.max(initial=0)),
        images=images,
        sizes=Steps(steps.names[2:], steps.counts[2:]),
    )


def quantiles(values: np.ndarray, at: Sequence[float] = QUANTILES) -> list[tuple[float, float]]:
    """[(share, the value that this share of all is at most)]; empty without values.

    Values that are there, none in between: numpy's method "inverted_cdf".
    """
    if len(values) == 0:
        return []
    found = np.quantile(values, at, method="inverted_cdf")
    return list(zip(at, found.tolist(), strict=True))


@dataclass(frozen=True)
class GraphFigures:
    """out_degree, in_degree: over all images, in the same steps."""

    images: int
    edges: int
    linked: int
    out_degree: Steps
    in_degree: Steps
    median_in_degree: float
    components: Components
    weights: list[tuple[float, float]]


def figures(links: Links) -> GraphFigures:
    """What the report says of a graph."""
    images = len(links.ids)
    out_degree = np.bincount(links.src, minlength=images)
    in_degree = np.bincount(links.dst, minlength=images)
    top = int(max(out_degree.max(initial=0), in_degree.max(initial=0)))
    return GraphFigures(
        images=images,
        edges=len(links.src),
        linked=int(((out_degree > 0) | (in_degree > 0)).sum()),
        out_degree=by_powers(out_degree, top),
        in_degree=by_powers(in_degree, top),
        median_in_degree=float(np.median(in_degree)) if images else 0.0,
        components=components(links),
        weights=quantiles(links.weight),
    )
