"""Small catalogs, graphs and models, and exports of them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tiny_model import SIDE

from pipeline import runner, schema
from pipeline.artifacts import NewVersion, Version
from pipeline.config import ExportConfig, ImagesConfig, RunnerConfig
from pipeline.embeddings.job import export_embeddings
from pipeline.examples import pictures

PICTURES = 23
QUERIES = sorted(
    {"red", "été", *(" ".join(f"w{n % m}" for m in range(1, n)) for n in range(2, 99))}
)


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def prepared(number: int) -> bytes:
    """What the export shows the model of a picture."""
    found = pictures.prepare(picture(number), image_size=SIDE, max_pixels=1_000, encoding="png")
    return found.content


def save_pictures(folder: Path, numbers: Sequence[int] = range(PICTURES)) -> ImagesConfig:
    """A folder of pictures, one of them broken."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:02}.png").write_bytes(picture(number))
    (folder / "broken.png").write_bytes(picture(99)[:200])
    return ImagesConfig(path=str(folder))


def save_features(path: Path, dim: int, ids: Sequence[str]) -> ImagesConfig:
    values = np.random.default_rng(1).normal(size=(len(ids), dim)).tolist()
    rows = [{"image_id": i, "features": v} for i, v in zip(ids, values, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ImagesConfig(path=str(path), max_rejected_fraction=0.5)


def save_queries(folder: Path, queries: Sequence[str] = QUERIES, name: str = "v0001") -> Version:
    """A graph of which the export reads the queries, in two files that share some."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, part in enumerate([["red", *queries[:90]], [*queries[70:], "red"]]):
        rows = [{"query": q, "image_id": "01", "sessions": 2, "users": None} for q in part]
        table = pa.Table.from_pylist(rows, schema.QUERY_SCHEMA)
        pq.write_table(table, folder / schema.shard_name("queries", shard, 2, "parquet"))
    return Version(schema.GRAPH, name, str(folder), {})


def make_pipeline() -> beam.Pipeline:
    return runner.make_pipeline(RunnerConfig())


def export(folder: Path, name: str = "v0001", **changes: Any) -> Version:
    settings = {
        "export": ExportConfig(),
        "graph": None,
        "shards": 2,
        "make_pipeline": make_pipeline,
        **changes,
    }
    out = NewVersion(schema.EMBEDDINGS, name, str(folder))
    return out.commit(export_embeddings(out=out, **settings))


def files_of(version: Version) -> dict[str, bytes]:
    """All that an export wrote, but for its manifest."""
    root = Path(version.path)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != schema.MANIFEST_FILE
    }
