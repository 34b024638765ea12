"""What an earlier export has embedded already: whether it still holds, and its vectors.

A vector is taken over where its content is the same and it would be made in the same way: by the
same model, of pictures decoded alike, in calls of one size, by the same programs. So nothing in the
files tells whether a vector was taken over. In: the version in force. Out: vectors as it stored
them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.metrics.metric import Metrics

from pipeline import precision, schema, storage
from pipeline.artifacts import Version
from pipeline.columnar import Joined, JoinShards, Keyed, concatenate, split_by_shard
from pipeline.contents import HASH, HASH_BYTES, KnownContents
from pipeline.embeddings import augmented, embed
from pipeline.embeddings import model as models
from pipeline.embeddings.embed import EMBEDDING, MODEL_VERSION
from pipeline.embeddings.files import NAMESPACE
from pipeline.errors import ImgembedError
from pipeline.examples import decode_worker
from pipeline.examples import pictures as of_pictures
from pipeline.examples.decoding import PictureSettings
from pipeline.reading import ReadTables

TAKEN_OVER = "taken_over"  # images, a counter
MADE_BY = "made_by"  # in the manifest
NEW, BEFORE = "new", "before"
_PROGRAMS = ("imgembed", "tensorflow", "pillow")
# Where a content becomes a stored vector. A clone has other sources under one version number.
_SOURCES = (augmented, decode_worker, embed, models, of_pictures, precision)
# What a difference in MADE_BY is called.
_WORDS = {
    "model": "the model",
    "content": "what it is shown",
    "batch_size": "export.batch_size",
    "sources": "the program",
}


def made_by(
    model: Version, *, content: str, batch_size: int, pictures: PictureSettings | None
) -> dict[str, Any]:
    """All that a vector depends on, but for its content."""
    return {
        "model": models.model_version(model),
        "content": content,
        "batch_size": models.call_size(batch_size),
        "image_size": pictures.image_size if pictures else None,
        "image_encoding": pictures.encoding if pictures else None,
        "max_pixels": pictures.max_pixels if pictures else None,
        **{name: package_version(name) for name in _PROGRAMS},
        "sources": _sources(),
    }


@functools.cache
def _sources() -> str:
    """A mark of the sources; where there are none, the version number must do."""
    digest = hashlib.sha256()
    for module in _SOURCES:
        with contextlib.suppress(OSError):
            digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Takeover:
    """What an export takes over.

    version: the earlier export; None where there is none, or nothing of it holds, and then `why`.
    """

    version: Version | None
    why: str | None

    @classmethod
    def of(
        cls, version: Version | None, made: Mapping[str, Any], dtype: schema.Precision
    ) -> Takeover:
        """What of a version can be taken over by an export that is made so."""
        if version is None:
            return cls(None, None)
        before = version.manifest.get(MADE_BY)
        if before is None:
            return cls(None, "an earlier imgembed made the version before")
        changed = [name for name in made if before.get(name) != made[name]]
        if changed:
            return cls(None, f"{_WORDS.get(changed[0], changed[0])} changed")
        stored = version.manifest["dtype"]
        if stored not in (dtype, "float32"):
            return cls(None, f"the version before is in {stored}")
        for prefix in (schema.IMAGE_EMBEDDINGS, schema.QUERY_EMBEDDINGS):
            files = version.shards(prefix)
            if len(files) != version.manifest["files"][prefix]:
                return cls(None, "files of the version before are gone")
            for path in files:
                _check_readable(path)
        return cls(version, None)

    @property
    def image_files(self) -> list[str]:
        """Files of images and their vectors; none where nothing is taken over."""
        return self.version.shards(schema.IMAGE_EMBEDDINGS) if self.version else []

    @property
    def query_files(self) -> list[str]:
        """The same of queries."""
        return self.version.shards(schema.QUERY_EMBEDDINGS) if self.version else []

    @property
    def known(self) -> KnownContents:
        """The contents that need not be embedded."""
        return KnownContents(tuple(self.image_files))


def _check_readable(path: str) -> None:
    """ImgembedError, with the way out, where a file is damaged: said before the work begins."""
    try:
        with storage.open_arrow(path) as source:
            pq.read_metadata(source)
    except (OSError, pa.ArrowException) as error:
        raise ImgembedError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); embed all anew with: "
            f"{schema.STAGE_COMMANDS[schema.EMBEDDINGS]} --force"
        ) from error


@dataclass
class TakeOver(beam.PTransform):
    """Puts the vectors of the version before beside rows of the same content.

    Input: pa.Table with `content_hash`. Output: the same with `embedding`, as it was stored, and
    `model_version`. Counters: taken_over.
    """

    files: Sequence[str]
    shards: int
    model_version: str

    def expand(self, unchanged: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        before = unchanged.pipeline | "ReadBefore" >> ReadTables(self.files, [HASH.name, EMBEDDING])
        keyed = {
            name: tables
            | f"Split_{name}"
            >> beam.FlatMap(split_by_hash, shards=self.shards).with_output_types(Keyed)
            for name, tables in ((NEW, unchanged), (BEFORE, before))
        }
        return (
            keyed
            | "Join" >> JoinShards()
            | "FindVectors"
            >> beam.FlatMap(find_vectors, self.model_version).with_output_types(pa.Table)
        )


def split_by_hash(table: pa.Table, *, shards: int) -> Iterator[Keyed]:
    """The table cut by its `content_hash`."""
    halves = hash_numbers(table[HASH.name])
    return split_by_shard(table, (halves % np.uint64(shards)).astype(np.int64), shards)


def hash_numbers(hashes: pa.ChunkedArray) -> np.ndarray:
    """[rows] uint64: the first half of each hash; there are no nulls."""
    parts = [np.zeros(0, "<u8")]
    for chunk in hashes.chunks:
        data = np.frombuffer(chunk.buffers()[1] or b"", "<u8")
        width = HASH_BYTES // 8
        parts.append(data[width * chunk.offset :][: width * len(chunk) : width])
    return np.concatenate(parts)


def find_vectors(element: Joined, model_version: str) -> Iterator[pa.Table]:
    """The rows of a shard, each with its vector."""
    _, joined = element
    rows, before = (list(joined[name]) for name in (NEW, BEFORE))
    if not rows:
        return
    table = concatenate(rows)
    known = pa.concat_tables(before) if before else None
    found = None if known is None else pc.index_in(table[HASH.name], known[HASH.name])
    if known is None or found is None or found.null_count:
        raise ImgembedError(
            "vectors of the version before are gone while they were wanted; run it again, or "
            f"embed all anew with: {schema.STAGE_COMMANDS[schema.EMBEDDINGS]} --force"
        )
    vectors = precision.from_column(known[EMBEDDING])[found.to_numpy()]
    Metrics.counter(NAMESPACE, TAKEN_OVER).inc(table.num_rows)
    yield table.append_column(EMBEDDING, precision.to_column(vectors)).append_column(
        MODEL_VERSION, pa.repeat(model_version, table.num_rows)
    )
