"""The files of an index: vectors and ids in one order, mapped into memory when they are opened.

In: ids in ascending order of their UTF-8 bytes and their unit vectors. Out: the same, without a
Python object for each id, so that a search begins at once. In a bucket, where nothing can be
mapped, the files are read whole.
"""

from __future__ import annotations

import difflib
import io
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import schema, storage
from pipeline.artifacts import NewVersion, Version
from pipeline.errors import ImgembedError

_ID_SCHEMA = pa.schema([(schema.IMAGE_ID.name, pa.large_string())])
_CLOSE_IDS = 3
_COMPARED_IDS = 4_000  # with an id that is not there: those that lie nearest to it
_ANEW = f"make the stage anew with: {schema.STAGE_COMMANDS[schema.INDEX]} --force"


@dataclass(frozen=True)
class Ids:
    """Ids in ascending order of their UTF-8 bytes; a number stands for each, from 0 on."""

    column: pa.Array

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: int) -> str:
        return str(self.column[int(row)].as_py())

    def _place(self, image_id: str) -> int:
        wanted = _bytes(image_id)
        return bisect_left(range(len(self)), wanted, key=lambda row: _bytes(self[row]))

    def find(self, image_id: str) -> int | None:
        """The row of an id; None where it is not there."""
        row = self._place(image_id)
        return row if row < len(self) and self[row] == image_id else None

    def rows(self, image_ids: Iterable[str]) -> list[int]:
        """The rows of those ids that are there, each once, ascending."""
        found = {self.find(image_id) for image_id in image_ids}
        return sorted(row for row in found if row is not None)

    def close_to(self, image_id: str) -> list[str]:
        """Similar ids, the most similar first; among many only those that begin alike count."""
        start = max(0, min(self._place(image_id), len(self)) - _COMPARED_IDS // 2)
        nearest = self.column.slice(start, _COMPARED_IDS).to_pylist()
        return difflib.get_close_matches(image_id, nearest, n=_CLOSE_IDS)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # of a command line that is not UTF-8


def write_rows(out: NewVersion, ids: pa.Array, matrix: np.ndarray) -> None:
    """Writes ids and vectors [n, dim] float32, the rows of the one in the order of the other."""
    with storage.open_write(out.file(schema.INDEX_VECTORS_FILE)) as file:
        np.save(file, np.ascontiguousarray(matrix, np.float32), allow_pickle=False)
    table = pa.table([ids.cast(pa.large_string())], schema=_ID_SCHEMA)
    with (
        storage.open_write(out.file(schema.INDEX_IDS_FILE)) as file,
        pa.ipc.new_file(file, _ID_SCHEMA) as writer,
    ):
        writer.write_table(table)


def open_rows(index: Version) -> tuple[Ids, np.ndarray]:
    """(ids, vectors [n, dim] float32); ImgembedError where the manifest says something else."""
    images, dim = index.manifest["images"], index.manifest["dim"]
    ids_path, vectors_path = (
        index.file(name) for name in (schema.INDEX_IDS_FILE, schema.INDEX_VECTORS_FILE)
    )
    try:
        ids = _open_ids(ids_path)
        matrix = _open_vectors(vectors_path)
    except (OSError, EOFError, ValueError, pa.ArrowInvalid) as error:
        raise ImgembedError(f"{index.path}: cannot be read ({error}); {_ANEW}") from None
    if len(ids) != images or matrix.shape != (images, dim):
        raise ImgembedError(
            f"{index.path}: holds {len(ids):,} ids and vectors of shape {matrix.shape}, the "
            f"manifest says {images:,} images of {dim} dimensions; {_ANEW}"
        )
    return Ids(ids), matrix


def _open_ids(path: str) -> pa.Array:
    source = pa.memory_map(path) if storage.is_local(path) else pa.BufferReader(_read(path))
    (column,) = pa.ipc.open_file(source).read_all().itercolumns()
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _open_vectors(path: str) -> np.ndarray:
    if storage.is_local(path):
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    return np.asarray(np.load(io.BytesIO(_read(path)), allow_pickle=False))


def write_cells(out: NewVersion, content: np.ndarray) -> None:
    """Writes the approximate index as its library serialized it. content: [bytes] uint8."""
    with storage.open_write(out.file(schema.INDEX_CELLS_FILE)) as file:
        file.write(content.data)


def open_cells(index: Version) -> Any:
    """The approximate index of a version, as its library has it."""
    import faiss

    path = index.file(schema.INDEX_CELLS_FILE)
    try:
        if storage.is_local(path):
            cells = faiss.read_index(path, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
            # Else each query starts threads that read ahead what is in memory anyway.
            faiss.downcast_InvertedLists(cells.invlists).prefetch_nthread = 0
            return cells
        return faiss.deserialize_index(np.frombuffer(_read(path), np.uint8))
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ImgembedError(f"{path}: cannot be read ({reason}); {_ANEW}") from None


def _read(path: str) -> bytes:
    with storage.open_read(path) as file:
        return file.read()
