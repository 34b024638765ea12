"""The graph, edge by edge: how likely the two images of each are of one class.

In: a model that learned it, embeddings of the catalog by that model, and a graph, which need not be
the one that it was trained on. Out: `schema.AGREEMENT_SCHEMA`, every edge whose ends are in the
catalog, whatever its split, and what is to be said of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from pipeline.errors import ImgembedError
from pipeline.vectors import read_vectors
from trainer.agreement_files import write_agreement
from trainer.edge_judge import EdgeJudge
from trainer.evaluation.inputs import check_model
from trainer.graph_edges import GraphEdges, edges_of_graph

BINS = 10  # of the table of shares
STRONG = 0.25  # the share of all edges, by weight, that are called strong


def denoise(
    *, graph: Version, model: Version, embeddings: Version, out: NewVersion
) -> tuple[dict[str, Any], pa.Table]:
    """Writes the agreement of all edges; gives the manifest's part about it, and the edges.

    ImgembedError where the model has learned no agreement, or not of such edges, and where the
    embeddings have neighbours in them.
    """
    check_model(embeddings, model)
    _check_alone(embeddings)
    judge = EdgeJudge.read(model)
    ids, vectors = read_vectors(embeddings, schema.IMAGE_EMBEDDINGS, schema.IMAGE_ID.name)
    edges = edges_of_graph(graph, ids)
    if not len(edges):
        raise ImgembedError(
            f"{graph.path}: no edge has both of its ends among the {len(ids):,} embedded images"
        )
    _check_features(judge, edges, graph, model)
    agreement = judge.of_edges(vectors, edges)
    assert agreement is not None  # else the model would not say that it has learned it
    table = write_agreement(out, ids, edges, agreement)
    return {
        "model": model.name,
        "images": len(ids),
        "edges": {"judged": len(edges), "in_graph": graph.manifest["counts"]["edges"]["kept"]},
        "mean_agreement": float(agreement.mean(dtype=np.float64)),
        "shares": shares(agreement, edges.weights),
    }, table


def _check_alone(embeddings: Version) -> None:
    """Neighbours in an embedding would make any two that are neighbours alike."""
    if embeddings.manifest.get("neighbors"):
        raise ImgembedError(
            f"{embeddings.path}: its images are embedded with their neighbours, and agreement is "
            "learned of images alone; make embeddings of these with: "
            "imgembed export --set export.neighbors=none"
        )


def _check_features(judge: EdgeJudge, edges: GraphEdges, graph: Version, model: Version) -> None:
    missing = [name for name in judge.names if name not in edges.names]
    if missing and judge.judge.unusable is None:
        raise ImgembedError(
            f"{graph.path}: its edges have no {missing[0]!r}, which the agreement model of "
            f"{model.path} looks at; train anew with: {schema.STAGE_COMMANDS[schema.MODEL]}"
        )


def shares(agreement: np.ndarray, weights: np.ndarray) -> list[dict[str, float]]:
    """Edges by probability, BINS equal steps of it, each from `from` on to below `to`, 1 included.

    `strong`: the share of the strongest STRONG of all edges that is in the step.
    """
    place = np.minimum((agreement.astype(np.float64) * BINS).astype(int), BINS - 1)
    strong = strongest(weights)
    rows = []
    for step in range(BINS):
        inside = place == step
        rows.append(
            {
                "from": step / BINS,
                "to": (step + 1) / BINS,
                "edges": int(inside.sum()),
                "share": float(inside.mean()),
                "strong": float(inside[strong].mean()) if len(strong) else 0.0,
            }
        )
    return rows


def strongest(weights: np.ndarray) -> np.ndarray:
    """The rows of the strongest STRONG of all edges, at least one; ties as they stand."""
    return np.argsort(-weights, kind="stable")[: max(1, round(STRONG * len(weights)))]


def most_doubted(table: pa.Table, number: int) -> list[str]:
    """Images, `number` at most, with the most doubted of the strong edges, from that one on.

    table: `schema.AGREEMENT_SCHEMA`.
    """
    strong = strongest(table["weight"].to_numpy())
    agreement = table["agreement"].to_numpy()[strong]
    sources = table["src"].take(pa.array(strong[np.argsort(agreement, kind="stable")]))
    return sources.unique().to_pylist()[:number]
