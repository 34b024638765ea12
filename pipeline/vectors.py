"""Exported vectors as arrays: what a search, an evaluation and a judgement of edges read.

Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import precision, storage
from pipeline.artifacts import Version

EMBEDDING = "embedding"


def read_vectors(embeddings: Version, prefix: str, key: str) -> tuple[pa.Array, np.ndarray]:
    """Keys, sorted by their UTF-8 bytes, and their vectors [n, dim] float32 of unit norm.

    prefix: of the files, schema.IMAGE_EMBEDDINGS or schema.QUERY_EMBEDDINGS. key: their column.
    Whatever the vectors are stored in, they are restored.
    """
    keys, vectors = [pa.array([], pa.string())], [_nothing(embeddings.manifest["dim"])]
    for path in embeddings.shards(prefix):
        with storage.open_arrow(path) as file:
            table = pq.read_table(file, columns=[key, EMBEDDING])
        keys += table[key].cast(pa.string()).chunks
        vectors.append(precision.restored(precision.from_column(table[EMBEDDING])))
    names = pa.concat_arrays(keys)
    matrix = vectors[1] if len(vectors) == 2 else np.concatenate(vectors)
    order = pc.sort_indices(names).to_numpy()
    if (order[1:] > order[:-1]).all():  # one file, which is sorted
        return names, matrix
    return names.take(pa.array(order)), matrix[order]


def _nothing(dim: int) -> np.ndarray:
    return np.zeros((0, dim), np.float32)
