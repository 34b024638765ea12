"""The index stage: embeddings in, files that a search opens at once out.

Below `index.exact_below` images a search looks at every vector; above, at those of the cells that
lie nearest to the query, and the stage measures what that misses before it is committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from pipeline.config import IndexConfig
from pipeline.embeddings import index_cells, index_files
from pipeline.embeddings.index_cells import MEASURED_RESULTS, Cells, Progress
from pipeline.embeddings.index_recall import (
    Queries,
    choose_probes,
    draw,
    exact_queries,
    recall,
)
from pipeline.errors import ImgembedError
from pipeline.hashing import hash_values
from pipeline.vectors import read_vectors

EXACT, APPROXIMATE = "exact", "approximate"
# Manifest key: which embeddings the index is of.
EMBEDDINGS_KEY = "embeddings"
_QUERY = "query"


def build_index(
    embeddings: Version,
    config: IndexConfig,
    *,
    seed: int,
    out: NewVersion,
    threads: int,
    on_progress: Progress,
) -> dict[str, Any]:
    """Writes the index of a version of the embeddings; returns what the manifest says.

    The files depend neither on `threads` nor on the order in which the embeddings lie.
    ImgembedError where an approximate index finds less than `min_recall`.
    """
    ids, matrix = read_vectors(embeddings, schema.IMAGE_EMBEDDINGS, schema.IMAGE_ID.name)
    index_files.write_rows(out, ids, matrix)
    on_progress("vectors written", len(ids), len(ids))
    content: dict[str, Any] = {
        "kind": kind_of(config, len(ids)),
        "images": len(ids),
        "dim": embeddings.manifest["dim"],
        "model_version": embeddings.manifest["model_version"],
        EMBEDDINGS_KEY: mark_of(embeddings),
    }
    if content["kind"] == EXACT:
        return content
    kinds = _draw_queries(embeddings, ids, matrix, seed, on_progress)
    return content | _build_cells(
        ids,
        matrix,
        config,
        seed=seed,
        kinds=kinds,
        out=out,
        threads=threads,
        on_progress=on_progress,
    )


def kind_of(config: IndexConfig, images: int) -> str:
    """Which index so many images get."""
    if config.kind != "auto":
        return config.kind if images else EXACT
    return EXACT if images < config.exact_below else APPROXIMATE


def cells_of(config: IndexConfig, images: int) -> int:
    """Into how many cells an approximate index sorts so many images."""
    wanted = index_cells.cell_count(images) if config.cells == "auto" else config.cells
    return min(wanted, images)


def mark_of(embeddings: Version) -> dict[str, Any]:
    """What tells one version of the embeddings from another."""
    return {"version": embeddings.name, "fingerprint": embeddings.manifest.get("fingerprint")}


def is_of(index: Version, embeddings: Version) -> bool:
    """Whether the index was made of this version of the embeddings."""
    return bool(index.manifest.get(EMBEDDINGS_KEY) == mark_of(embeddings))


_Kinds = Mapping[str, tuple[Queries, Queries]]


def _draw_queries(
    embeddings: Version, ids: pa.Array, matrix: np.ndarray, seed: int, on_progress: Progress
) -> _Kinds:
    """Images and, where there are any, published queries: to measure on, and to choose by."""
    rows = draw(ids, f"index-images-{seed}")
    measure, choose = (exact_queries(matrix, matrix[own], own, on_progress) for own in rows)
    kinds = {"images": (measure, choose)}
    if embeddings.shards(schema.QUERY_EMBEDDINGS):
        texts, vectors = read_vectors(embeddings, schema.QUERY_EMBEDDINGS, _QUERY)
        if len(texts):
            measure, choose = (
                exact_queries(matrix, vectors[part], np.full(len(part), -1), on_progress)
                for part in draw(texts, f"index-queries-{seed}")
            )
            kinds["queries"] = (measure, choose)
    return kinds


def _build_cells(
    ids: pa.Array,
    matrix: np.ndarray,
    config: IndexConfig,
    *,
    seed: int,
    kinds: _Kinds,
    out: NewVersion,
    threads: int,
    on_progress: Progress,
) -> dict[str, Any]:
    count = cells_of(config, len(ids))
    made = index_cells.build_cells(
        matrix,
        _sample(ids, count, seed),
        cells=count,
        seed=seed,
        threads=threads,
        on_progress=on_progress,
    )
    cells = Cells(made, count, config.candidates)
    if config.probes != "auto":
        cells = replace(cells, probes=min(config.probes, count))
    else:
        probes = choose_probes(
            lambda number: replace(cells, probes=number),
            matrix,
            [choose for _, choose in kinds.values()],
            wanted=(1.0 + config.min_recall) / 2,  # the others that count may find less
            on_progress=on_progress,
        )
        cells = replace(cells, probes=probes)
    found = {name: recall(cells, matrix, measure) for name, (measure, _) in kinds.items()}
    _check_recall(found, cells, config)
    index_files.write_cells(out, index_cells.serialized(made))
    return {
        "cells": count,
        "probes": cells.probes,
        "candidates": cells.candidates,
        f"recall@{MEASURED_RESULTS}": {
            name: {"queries": len(measure), "recall": round(found[name], 6)}
            for name, (measure, _) in kinds.items()
        },
    }


def _sample(ids: pa.Array, cells: int, seed: int) -> np.ndarray:
    """Rows that the centres are learned from, by a hash of the ids."""
    order = np.argsort(hash_values(ids, salt=f"index-cells-{seed}"), kind="stable")
    return np.sort(order[: index_cells.SAMPLE_A_CELL * cells])


def _check_recall(found: Mapping[str, float], cells: Cells, config: IndexConfig) -> None:
    """ImgembedError where a kind of queries finds less than is wanted."""
    name, least = min(found.items(), key=lambda item: item[1])
    if least >= config.min_recall:
        return
    if cells.probes < cells.count:
        way = f"index.probes ({cells.probes} of {cells.count} cells)"
    else:
        way = f"index.candidates ({cells.candidates})"
    raise ImgembedError(
        f"index: for {name} of this catalog it finds {least:.1%} of the {MEASURED_RESULTS} best "
        f"images, index.min_recall asks for {config.min_recall:.1%}; raise {way}, or set "
        f"index.kind to {EXACT}"
    )
