"""Unit vectors in fewer bits: how they are stored, and how they become unit vectors again.

float16 rounds each number. int8 has the direction alone: of each vector the largest number is 127
or -127, and the rest in proportion, rounded. A vector is stored by itself, whatever stands beside
it, and whoever reads it divides it by its norm. (One scale for all would waste most of the steps
on numbers that hardly any vector has.) Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.schema import Precision

_LARGEST = 127.0
# What the files say of themselves, for readers that are not this one.
METADATA_KEY = b"imgembed.embedding"
METADATA: dict[Precision, bytes] = {
    "float32": b"unit vector",
    "float16": b"unit vector, rounded; divide by its norm",
    "int8": b"unit vector times 127 / its largest number by size, rounded; divide by its norm",
}


def stored(vectors: np.ndarray, dtype: Precision) -> np.ndarray:
    """[n, dim] float32 of unit norm -> [n, dim] of `dtype`."""
    if dtype == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
        return np.rint(vectors * (_LARGEST / largest)).astype(np.int8)
    return np.ascontiguousarray(vectors, dtype)


def restored(numbers: np.ndarray) -> np.ndarray:
    """[n, dim] as `stored` gave it -> [n, dim] float32 of unit norm; float32 as it is."""
    if numbers.dtype == np.float32:
        return numbers
    vectors = numbers.astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def to_column(numbers: np.ndarray) -> pa.FixedSizeListArray:
    """[n, dim] -> a column of lists of `dim` numbers."""
    flat = pa.array(np.ascontiguousarray(numbers).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, numbers.shape[1])


def from_column(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of lists of one length -> [n, dim]; a view of it, where it is one chunk."""
    if isinstance(column, pa.ChunkedArray):
        chunks = [from_column(chunk) for chunk in column.chunks]
        if len(chunks) == 1:
            return chunks[0]
        empty = pa.array([], column.type.value_type).to_numpy(zero_copy_only=False)
        nothing = empty.reshape(0, column.type.list_size)
        return np.concatenate([nothing, *chunks])
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)
