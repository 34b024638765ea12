"""What tells contents apart: hashes of pictures' files, of features and of records.

In: contents as they come, before anything is made of them. Out: 128 bits each, and which of them
an earlier export has embedded already. Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema, storage

HASH = schema.CONTENT_HASH
HASH_BYTES = HASH.type.byte_width


def content_hash(data: bytes | memoryview) -> bytes:
    """BLAKE2b of the bytes; two contents with one hash do not happen."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def feature_hashes(features: pa.ChunkedArray) -> list[bytes]:
    """A hash of each row's numbers. features: [rows] of lists of float32, all of one length."""
    if not len(features):
        return []
    flat = features.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype("<f4")
    width = 4 * (len(flat) // len(features))
    data = memoryview(flat).cast("B")
    return [content_hash(data[start : start + width]) for start in range(0, len(data), width)]


def hash_array(hashes: Iterable[bytes]) -> pa.Array:
    """Hashes as a column."""
    return pa.array(hashes, HASH.type)


@dataclass(frozen=True)
class KnownContents:
    """The contents that are embedded already.

    files: Parquet files with a column of their hashes; read when it is first asked for, once in a
    process. None: nothing is known yet.
    """

    files: tuple[str, ...] = ()

    def has(self, hashes: Sequence[bytes]) -> np.ndarray:
        """[hashes] bool: whether each is known."""
        if not self.files or not hashes:
            return np.zeros(len(hashes), bool)
        known = _sorted_hashes(self.files)
        asked = np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2)
        if not len(known):
            return np.zeros(len(asked), bool)
        # The first half finds the place. Of two that share it the second is not found, and is
        # embedded once more.
        place = np.minimum(np.searchsorted(known[:, 0], asked[:, 0]), len(known) - 1)
        return (known[place] == asked).all(axis=1)


@lru_cache(maxsize=1)
def _sorted_hashes(files: tuple[str, ...]) -> np.ndarray:
    """[known, 2] uint64, by the first half."""
    parts = [np.zeros((0, 2), "<u8")]
    for path in files:
        with storage.open_arrow(path) as source:
            column = pq.read_table(source, columns=[HASH.name])[HASH.name]
        for chunk in column.drop_null().chunks:
            data = np.frombuffer(chunk.buffers()[1] or b"", "<u8")[2 * chunk.offset :]
            parts.append(data[: 2 * len(chunk)].reshape(-1, 2))
    known = np.concatenate(parts)
    return known[np.argsort(known[:, 0], kind="stable")]
