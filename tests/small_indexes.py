"""Embeddings and indexes of a few thousand vectors, as an export would leave them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.config import ImagesConfig, IndexConfig
from pipeline.embeddings.index import build_index

MODEL = "v0001-01234567"


def unit(*angles: float) -> np.ndarray:
    """Unit vectors at angles in degrees, [n, 2]."""
    radians = np.radians(np.array(angles))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def normalized(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(count: int, dim: int = 16, *, seed: int = 0, spread: float = 0.5) -> np.ndarray:
    """Unit vectors around one centre for every 50 of them, [count, dim]."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(max(1, count // 50), dim))
    near = centres[draw.integers(0, len(centres), count)]
    return normalized(near + spread * draw.normal(size=(count, dim)))


def names(count: int) -> list[str]:
    return [f"img-{number:05}" for number in range(count)]


def write_vectors(
    folder: Path, prefix: str, key: str, rows: dict[str, np.ndarray], dim: int, shards: int = 2
) -> None:
    """Shards of an embeddings stage, the keys dealt out in turn."""
    wanted = schema.embedding_schema(key, dim)
    for shard in range(shards):
        part = sorted(rows, key=str.encode)[shard::shards]
        flat = np.array([rows[name] for name in part], np.float32).ravel()
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim)
        table = pa.table([pa.array(part, pa.string()), vectors, [MODEL] * len(part)], wanted.names)
        name = schema.shard_name(prefix, shard, shards, "parquet")
        pq.write_table(table.cast(wanted), folder / name)


def save_embeddings(
    folder: Path,
    rows: dict[str, np.ndarray],
    dim: int = 2,
    *,
    queries: dict[str, np.ndarray] | None = None,
    shards: int = 2,
    **manifest: Any,
) -> Version:
    """A version of the embeddings in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_vectors(folder, schema.IMAGE_EMBEDDINGS, "image_id", rows, dim, shards)
    if queries:
        write_vectors(folder, schema.QUERY_EMBEDDINGS, "query", queries, dim, shards)
    content = {"dim": dim, "model_version": MODEL, "fingerprint": "0123", **manifest}
    return Version(schema.EMBEDDINGS, "v0001", str(folder), content)


def make_index(
    run: Path, embeddings: Version, *, seed: int = 0, threads: int = 1, **settings: Any
) -> Version:
    """The index stage of a run directory."""
    with RunDir(str(run)).begin(schema.INDEX) as new:
        content = build_index(
            embeddings,
            IndexConfig(**settings),
            seed=seed,
            out=new,
            threads=threads,
            on_progress=lambda what, done, total: None,
        )
        return new.commit({"fingerprint": "4567", **content})


def save_run(
    folder: Path, rows: dict[str, np.ndarray], dim: int = 2, *, catalog: str | None = None
) -> Version:
    """A run directory whose embeddings stage is committed."""
    with RunDir(str(folder)).begin(schema.EMBEDDINGS) as new:
        write_vectors(Path(new.path), schema.IMAGE_EMBEDDINGS, "image_id", rows, dim)
        images = ImagesConfig(path=catalog)
        return new.commit(
            {
                "fingerprint": "0123",
                "dim": dim,
                "model_version": MODEL,
                "config": {"images": images.model_dump()},
            }
        )
