"""Exported vectors as arrays: what a search, an evaluation and a judgement of edges read.

Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.artifacts import Version


def read_vectors(embeddings: Version, prefix: str, key: str) -> tuple[pa.Array, np.ndarray]:
    """Keys, sorted by their UTF-8 bytes, and their vectors [n, dim] float32 of unit norm.

    prefix: of the files, schema.IMAGE_EMBEDDINGS or schema.QUERY_EMBEDDINGS. key: their column.
    """
    wanted = schema.embedding_schema(key, embeddings.manifest["dim"])
    tables = [wanted.empty_table()]
    for path in embeddings.shards(prefix):
        with storage.open_arrow(path) as file:
            tables.append(pq.read_table(file, columns=wanted.names).cast(wanted))
    table = pa.concat_tables(tables).sort_by(key).combine_chunks()
    flat = _single(table["embedding"]).flatten().to_numpy()
    return _single(table[key]), flat.reshape(table.num_rows, embeddings.manifest["dim"])


def _single(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
