"""Exported vectors as arrays: what a search, an evaluation and a judgement of edges read.

Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import precision, storage
from pipeline.artifacts import Version

EMBEDDING = "embedding"
_ROWS = 1 << 12  # of a file, at a time


def read_vectors(embeddings: Version, prefix: str, key: str) -> tuple[pa.Array, np.ndarray]:
    """Keys, sorted by their UTF-8 bytes, and their vectors [n, dim] float32 of unit norm.

    prefix: of the files, schema.IMAGE_EMBEDDINGS or schema.QUERY_EMBEDDINGS. key: their column.
    Whatever the vectors are stored in, they are restored. Held are the vectors once, the keys twice
    and some rows of a file.
    """
    files = embeddings.shards(prefix)
    names = pa.concat_arrays([pa.array([], pa.string()), *(_keys(path, key) for path in files)])
    order = pc.sort_indices(names)
    place = np.empty(len(names), np.int64)
    place[order.to_numpy()] = np.arange(len(names))
    matrix, start = np.empty((len(names), embeddings.manifest["dim"]), np.float32), 0
    for path in files:
        for vectors in _vectors(path):
            stop = start + len(vectors)
            matrix[place[start:stop]] = vectors
            start = stop
    return names.take(order), matrix


def _keys(path: str, key: str) -> pa.Array:
    with storage.open_arrow(path) as file:
        column = pq.read_table(file, columns=[key])[key].cast(pa.string())
    return pa.concat_arrays([pa.array([], pa.string()), *column.chunks])


def _vectors(path: str) -> Iterator[np.ndarray]:
    """[rows, dim] float32 of unit norm, some rows of a file at a time."""
    with storage.open_arrow(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=[EMBEDDING]):
            yield precision.restored(precision.from_column(batch[EMBEDDING]))
