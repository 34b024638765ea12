"""Why two images are near or far: all that a run knows of the pair, each with its number.

In: a run directory, of which any stage but one of graph and embeddings may be missing. Out: a dict
that JSON holds; None stands for what is not known. Loads neither Beam nor TensorFlow, and reads of
the graph only the rows that name one of the two images.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline import schema
from pipeline.artifacts import RunDir, Version, check_undamaged
from pipeline.embeddings.scoring import exact_scores
from pipeline.errors import ImgembedError
from pipeline.examples import reading
from pipeline.graph import measures
from pipeline.hashing import hash_values
from pipeline.ids import IMAGE_SALT, check_encodable
from pipeline.shards import read_shards, single
from pipeline.vectors import read_vectors

SHOWN = 10  # shared neighbours, and common queries
RAW_SIDE = 16  # pixels; pictures are shrunk to a square of this side
_MEASURES = ("llr", "npmi", "lift", "jaccard")


@dataclass(frozen=True)
class Knowledge:
    """The versions in force that tell of a pair of images; None = the run has none."""

    graph: Version | None
    examples: Version | None
    embeddings: Version | None
    agreement: Version | None

    @classmethod
    def open(cls, run: RunDir) -> Knowledge:
        """ImgembedError where there is neither graph nor embedding, or a file is cut or gone."""
        graph, embeddings = run.current(schema.GRAPH), run.current(schema.EMBEDDINGS)
        if graph is None and embeddings is None:
            run.require(schema.GRAPH)
        found = (graph, run.current(schema.EXAMPLES), embeddings, _agreement_of(run, graph))
        for version in found:
            if version is not None:
                check_undamaged(version)
        return cls(*found)


def _agreement_of(run: RunDir, graph: Version | None) -> Version | None:
    """What holds the agreement of the edges of this graph: a denoised graph, else the model."""
    if graph is None:
        return None
    stage = run.current(schema.AGREEMENT)
    if stage is not None and _upstream(stage, schema.GRAPH) == graph.name:
        return stage
    model, examples = run.current(schema.MODEL), run.current(schema.EXAMPLES)
    if model is None or examples is None or not model.shards(schema.AGREEMENTS):
        return None
    of_graph = _upstream(model, schema.EXAMPLES) == examples.name
    return model if of_graph and _upstream(examples, schema.GRAPH) == graph.name else None


def _upstream(version: Version, stage: str) -> str | None:
    found: str | None = version.manifest.get("upstream", {}).get(stage)
    return found


def explain(run: RunDir, first: str, second: str) -> dict[str, Any]:
    """All that a run knows of two images; ImgembedError where it does not know one of them."""
    if first == second:
        raise ImgembedError(f"{first!r}: is one image; name two")
    for image_id in (first, second):
        check_encodable(image_id)
    known = Knowledge.open(run)
    ids, vectors = _vectors(known.embeddings)
    nodes = _nodes(known.graph, (first, second))
    row_a, row_b = _row_of(ids, first), _row_of(ids, second)
    for image_id, row in ((first, row_a), (second, row_b)):
        if row is None and image_id not in nodes:
            raise ImgembedError(_unknown(image_id, ids, known.graph))
    near = None if row_a is None or row_b is None else _nearness(vectors, row_a, row_b)
    return {
        "a": _image(first, nodes, known, row_a),
        "b": _image(second, nodes, known, row_b),
        "embedding": near,
        "raw": _raw(known.examples, first, second),
        "edges": _edges(known, first, second),
        "together": _together(known.graph, first, second, nodes),
        "shared_neighbors": _shared_neighbors(known.graph, first, second),
        "common_queries": _common_queries(known.graph, first, second),
    }


# Who they are ------------------------------------------------------------------------------------


def _vectors(embeddings: Version | None) -> tuple[pa.Array, np.ndarray]:
    if embeddings is None:
        return pa.array([], pa.string()), np.zeros((0, 0), np.float32)
    return read_vectors(embeddings, schema.IMAGE_EMBEDDINGS, schema.IMAGE_ID.name)


def _row_of(ids: pa.Array, image_id: str) -> int | None:
    row = pc.index(ids, image_id).as_py()
    return None if row < 0 else int(row)


def _nodes(graph: Version | None, images: Iterable[str]) -> dict[str, dict[str, Any]]:
    """{image: its row of the nodes} of those in the graph."""
    if graph is None:
        return {}
    wanted = pc.field("image_id").isin(list(images))
    found = read_shards(graph, schema.NODES, schema.NODE_SCHEMA, rows=wanted)
    return {row["image_id"]: row for row in found.to_pylist()}


def _unknown(image_id: str, ids: pa.Array, graph: Version | None) -> str:
    """The line about an id that is nowhere, with ids that are close."""
    known = set(ids.to_pylist())
    if graph is not None:
        nodes = read_shards(graph, schema.NODES, pa.schema([schema.NODE_SCHEMA.field("image_id")]))
        known.update(nodes["image_id"].to_pylist())
    close = difflib.get_close_matches(image_id, sorted(known), n=3)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"image id {image_id!r}: neither among the embeddings nor in the graph{hint}"


def _image(
    image_id: str, nodes: dict[str, dict[str, Any]], known: Knowledge, row: int | None
) -> dict[str, Any]:
    node = nodes.get(image_id, {})
    example = _example(known.examples, image_id)
    return {
        "image_id": image_id,
        "embedded": row is not None,
        "sessions": node.get("sessions", 0) if known.graph else None,
        "degree": node.get("degree", 0) if known.graph else None,
        "split": None if example is None else example.place.split,
        "labels": None if example is None else _labels(example, known.examples),
    }


def _example(examples: Version | None, image_id: str) -> reading.Example | None:
    if examples is None:
        return None
    try:
        return reading.find_example(examples, image_id, schema.SPLITS)
    except ImgembedError:  # in the logs or in another catalog, but no part of the examples
        return None


def _labels(example: reading.Example, examples: Version | None) -> list[str]:
    classes = examples.manifest["classes"] if examples else []
    return [classes[label] for label in (*example.seed.labels, *example.heldout_labels)]


# How they look -----------------------------------------------------------------------------------


def _nearness(vectors: np.ndarray, first: int, second: int) -> dict[str, Any]:
    """Their cosine, and the rank of each in the list of the other: 1 = the nearest of all others.

    Ties go to the lower row, as in a search.
    """
    return {
        "cosine": round(_cosine(vectors[first], vectors[second]), 6),
        "rank_of_b_for_a": _rank(vectors, first, second),
        "rank_of_a_for_b": _rank(vectors, second, first),
        "others": len(vectors) - 1,
    }


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    product = exact_scores(one[None, :], np.zeros(1, np.int64), other)
    return float(np.clip(product[0], -1.0, 1.0))


def _rank(vectors: np.ndarray, query: int, target: int) -> int:
    scores = exact_scores(vectors, np.arange(len(vectors)), vectors[query])
    scores[query] = -np.inf
    before = np.count_nonzero(scores[:target] == scores[target])
    return 1 + int(np.count_nonzero(scores > scores[target])) + int(before)


def _raw(examples: Version | None, first: str, second: str) -> dict[str, Any] | None:
    """How alike they are without any training; None where the examples have not both."""
    found = [_example(examples, image_id) for image_id in (first, second)]
    if examples is None or found[0] is None or found[1] is None:
        return None
    spec = reading.spec_of(examples)
    contents = [example.seed.content for example in found if example is not None]
    if spec.feature_dim is not None:
        return {"of": "features", "cosine": _cosine_of(*map(np.asarray, contents))}
    pixels = [_pixels(content, examples) for content in contents]
    return {"of": "pixels", "cosine": _cosine_of(*pixels)}


def _pixels(content: Any, examples: Version) -> np.ndarray:
    """A picture's RAW_SIDE x RAW_SIDE colours, less their mean."""
    side = examples.manifest["image_size"]
    if examples.manifest["image_encoding"] == "raw":
        picture = Image.frombytes("RGB", (side, side), content)
    else:
        picture = Image.open(io.BytesIO(content)).convert("RGB")
    small = picture.resize((RAW_SIDE, RAW_SIDE), Image.Resampling.BOX)
    colours = np.asarray(small, np.float64).reshape(-1, 3)
    return (colours - colours.mean(axis=0)).ravel()


def _cosine_of(one: np.ndarray, other: np.ndarray) -> float | None:
    """The cosine of any two vectors; None where one of them is 0."""
    norm = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return None if norm == 0.0 else round(float(one.astype(np.float64) @ other) / norm, 6)


# What the logs say -------------------------------------------------------------------------------


def _edges(known: Knowledge, first: str, second: str) -> list[dict[str, Any]] | None:
    """The edges between them, from A to B before from B to A; None without a graph."""
    if known.graph is None:
        return None
    found = _between(known.graph, schema.EDGES, schema.EDGE_SCHEMA, first, second)
    agreement = {}
    if known.agreement is not None:
        judged = _between(
            known.agreement, schema.AGREEMENTS, schema.AGREEMENT_SCHEMA, first, second
        )
        agreement = {row["src"]: row["agreement"] for row in judged}
    names = ("src", "dst", "rank", "weight", "sessions", "users", "strength")
    return [
        {
            **{name: row[name] for name in names},
            "agreement": _rounded(agreement.get(row["src"])),
        }
        for row in sorted(found, key=lambda row: row["src"] != first)
    ]


def _between(
    version: Version, prefix: str, wanted: pa.Schema, first: str, second: str
) -> list[dict[str, Any]]:
    ends = [first, second]  # no edge joins an image to itself
    rows = pc.field("src").isin(ends) & pc.field("dst").isin(ends)
    found: list[dict[str, Any]] = read_shards(version, prefix, wanted, rows=rows).to_pylist()
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _together(
    graph: Version | None, first: str, second: str, nodes: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Sessions with both, beside what chance would give; None without counts of sessions.

    sessions: None where there is no edge, and the run kept no counts that would tell.
    """
    population = None if graph is None else graph.manifest.get("population")
    if graph is None or not population or first not in nodes or second not in nodes:
        return None
    of_a, of_b = (nodes[image]["sessions"] for image in (first, second))
    edges = _between(graph, schema.EDGES, schema.EDGE_SCHEMA, first, second)
    both = edges[0]["sessions"] if edges else _kept_count(graph, first, second)
    found = {
        "sessions": both,
        "sessions_a": of_a,
        "sessions_b": of_b,
        "population": population,
        "expected": _rounded(of_a * of_b / population),
    }
    c, n_i, n_j = (np.array([float(value)]) for value in (both or 0, of_a, of_b))
    for name in _MEASURES:
        value = measures.MEASURES[name](c, n_i, n_j, float(population))[0] if both else None
        found[name] = _rounded(value)
    return found


def _kept_count(graph: Version, first: str, second: str) -> int | None:
    """The sessions of a pair that is no edge, where the run kept all counts (keep_counts)."""
    counts = Version(graph.stage, graph.name, graph.file(schema.COUNTS_FOLDER), {})
    if not counts.shards(schema.COUNTED_PAIRS):
        return None
    low, high = sorted(hash_values(pa.array([first, second]), salt=IMAGE_SALT).tolist())
    rows = (pc.field("low") == pa.scalar(low, pa.uint64())) & (
        pc.field("high") == pa.scalar(high, pa.uint64())
    )
    found = read_shards(counts, schema.COUNTED_PAIRS, schema.PAIR_COUNT_SCHEMA, rows=rows)
    return int(found["sessions"][0].as_py()) if len(found) else 0


def _shared_neighbors(graph: Version | None, first: str, second: str) -> dict[str, Any] | None:
    """The images to which edges lead from both, the strongest first; None without a graph."""
    if graph is None:
        return None
    rows = pc.field("src").isin([first, second])
    edges = read_shards(graph, schema.EDGES, schema.EDGE_SCHEMA, rows=rows)
    weights: dict[str, dict[str, float]] = {first: {}, second: {}}
    for src, dst, weight in zip(
        *(single(edges[name]).to_pylist() for name in ("src", "dst", "weight")), strict=True
    ):
        weights[src][dst] = weight
    of_a, of_b = weights[first], weights[second]
    shared = sorted(of_a.keys() & of_b.keys(), key=lambda dst: (-min(of_a[dst], of_b[dst]), dst))
    return {
        "count": len(shared),
        "neighbors_a": len(of_a),
        "neighbors_b": len(of_b),
        "shown": [
            {"image_id": dst, "weight_a": of_a[dst], "weight_b": of_b[dst]}
            for dst in shared[:SHOWN]
        ],
    }


def _common_queries(graph: Version | None, first: str, second: str) -> dict[str, Any] | None:
    """The published queries for which both were opened, the most frequent first."""
    if graph is None:
        return None
    rows = pc.field("image_id").isin([first, second])
    clicks = read_shards(graph, schema.QUERIES, schema.QUERY_SCHEMA, rows=rows)
    sessions: dict[str, dict[str, int]] = {first: {}, second: {}}
    for row in clicks.to_pylist():
        sessions[row["image_id"]][row["query"]] = row["sessions"]
    of_a, of_b = sessions[first], sessions[second]
    common = sorted(
        of_a.keys() & of_b.keys(), key=lambda text: (-min(of_a[text], of_b[text]), text)
    )
    return {
        "count": len(common),
        "queries_a": len(of_a),
        "queries_b": len(of_b),
        "shown": [
            {"query": text, "sessions_a": of_a[text], "sessions_b": of_b[text]}
            for text in common[:SHOWN]
        ],
    }
