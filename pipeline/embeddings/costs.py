"""What an export and an index take: bytes of memory and of disk.

In: how many images there are, how long a vector is, the settings. Out: bytes, by the costs of a row
of each kind, which were measured and stand in `Export` and `Index`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import limits
from pipeline.artifacts import Version
from pipeline.config import ExportConfig, IndexConfig
from pipeline.embeddings import index_cells, model
from pipeline.embeddings.index import APPROXIMATE, EXACT, cells_of, kind_of
from pipeline.embeddings.index_recall import BLOCK_QUERIES, BLOCK_ROWS, QUERIES
from pipeline.schema import Precision

NUMBER = {"float32": 4, "float16": 2, "int8": 1}
EXPORT_REMEDY = "take a lower export.batch_size, whose last bits differ"
_ID_BYTES = 16.0  # of an image's id, about


@dataclass(frozen=True)
class Export:
    """Bytes that an export takes, as measured.

    Python 3.11, Beam 2.77, TensorFlow 2.21: 2,000 pictures of 64 x 64 pixels by the default towers,
    256 at once in 1 and 2 threads (1,148 and 1,201 MB), 32 at once in 1 (1,056 MB); a million rows
    of 32 features (1,121 MB without pages of files).
    """

    process: int = 985_000_000  # TensorFlow's and Beam's code, the model
    thread: int = 55_000_000  # a block of pictures, and the process that decodes them
    image_in_call: float = 8.5  # for each byte of the float pixels that the model is called with
    row_in_file: int = 60  # keys and hashes of the rows of a file, beside the id twice
    row_between: int = 70  # hash, place and file of a row between steps, beside vector and id


@dataclass(frozen=True)
class Index:
    """Bytes that building an index takes, as measured.

    Python 3.11, pyarrow 25, faiss 1.15: exact, 1,000 vectors of 64 numbers (148 MB), 100,000 of 128
    (255 MB) and 1,000,000 of 64 (559 MB); approximate, the first two (183 and 443 MB).
    """

    process: int = 150_000_000
    reading: int = 35_000_000  # what Arrow keeps of the files, at most
    faiss: int = 30_000_000
    row: int = 76  # where it goes in the order of all, and whether it has got there
    ids: int = 3  # how often an id is there
    queries: int = 44 * BLOCK_QUERIES  # for each row of a block that queries are compared with


EXPORT, INDEX = Export(), Index()


def vector_bytes(dim: int, dtype: Precision = "float32") -> int:
    """Of a vector as it is stored."""
    return NUMBER[dtype] * dim


def export_held(
    *, images: int, id_bytes: float, side: int | None, files: int, export: ExportConfig
) -> limits.Held:
    """What an export holds at its peak. side: of the pictures, in pixels; None: ready features."""
    pixels = 0 if side is None else 3 * 4 * side**2
    calls = EXPORT.image_in_call * pixels * model.call_size(export.batch_size)
    rows = images / files * (EXPORT.row_in_file + 2 * id_bytes)
    return limits.Held(EXPORT.process + calls + rows, EXPORT.thread, 0.0)


def index_memory(images: int, dim: int, id_bytes: float, config: IndexConfig) -> int:
    """Of building the index of so many images.

    The vectors are there once; an approximate index has their codes, of which it holds two copies
    when it is written, and the sample that its cells are found with.
    """
    matrix = images * (vector_bytes(dim) + INDEX.row + INDEX.ids * id_bytes)
    matrix += min(INDEX.reading, matrix)
    if kind_of(config, images) != APPROXIMATE:
        return round(INDEX.process + matrix)
    cells = cells_of(config, images)
    sample = 2 * min(images, index_cells.SAMPLE_A_CELL * cells) * vector_bytes(dim)
    codes = 2 * images * (dim + 8)
    answered = INDEX.queries * min(images, BLOCK_ROWS) + 4 * QUERIES * vector_bytes(dim)
    return round(INDEX.process + INDEX.faiss + matrix + max(sample, codes, answered))


def index_bytes(images: int, dim: int, id_bytes: float, config: IndexConfig) -> int:
    """Of its files: vectors, ids, and of an approximate one codes and centres."""
    rows = images * (vector_bytes(dim) + 8 + id_bytes)
    if kind_of(config, images) != APPROXIMATE:
        return round(rows)
    return round(rows + images * (dim + 8) + cells_of(config, images) * (vector_bytes(dim) + 16))


def check_index(embeddings: Version, config: IndexConfig, *, limit: int | None) -> None:
    """ConfigError where building the index does not fit into `limit` bytes of memory."""
    if limit is None:
        return
    images, dim = embeddings.manifest["counts"]["images"], embeddings.manifest["dim"]
    need = index_memory(images, dim, _ID_BYTES, config)
    exact = config.model_copy(update={"kind": EXACT})
    fits = index_memory(images, dim, _ID_BYTES, exact) <= limit
    remedy = (
        f"set index.kind to {EXACT}, which fits"
        if fits
        else "search without an index (embeddings are read whole), or take a lower model.dim"
    )
    limits.check(need, limit=limit, remedy=remedy)
