"""What it costs to store embeddings in fewer bits: recall@10 against the vectors themselves.

In: vectors as the model gives them. Out: a file of a bounded sample of them in float32, drawn by
hash, and how many of the ten nearest images are still found. The sample stays beside the version,
so that the next export can measure those of its vectors that it takes over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import precision, schema, storage
from pipeline.artifacts import Version
from pipeline.contents import HASH
from pipeline.embeddings.embed import EMBEDDING
from pipeline.embeddings.takeover import hash_numbers
from pipeline.hashing import hash_values
from pipeline.reading import read_tables

K = 10
MOST_QUERIES = 1_000
MOST_ROWS = 20_000  # of the sample: what is searched in
_TIE = 1e-6  # of cosines in float32
_QUERIES_AT_ONCE = 250
DRAW = "draw"
_SALT = "sample"
_MOST_DRAW = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class SampleOf:
    """Which sample. prefix: of the files that it is drawn from. key: their column."""

    folder: str
    prefix: str
    key: str

    @property
    def path(self) -> str:
        """Its file."""
        name = schema.shard_name(schema.SAMPLE_PREFIX + self.prefix, 0, 1, "parquet")
        return storage.join(self.folder, name)


def draws(table: pa.Table, key: str) -> np.ndarray:
    """[rows] uint64: of images by their content, so that equal ones are one; of queries by text.

    Images that were embedded with their neighbours have no hash of a content: by their id.
    """
    if key == schema.IMAGE_ID.name and not table[HASH.name].null_count:
        return hash_numbers(table[HASH.name])
    return hash_values(table[key], salt=_SALT)


@dataclass
class DrawSample(beam.PTransform):
    """Writes the vectors of the lowest draws, if there are any.

    Input: {where they come from: pa.Table}; those whose `embedding` is not in float32 count for
    nothing. Output: None.
    """

    sample: SampleOf

    def expand(self, vectors: Mapping[str, beam.PCollection[pa.Table]]) -> beam.PCollection[None]:
        lowest_rows = _Lowest(self.sample.key, MOST_ROWS)
        parts = [
            tables | f"Lowest_{source}" >> beam.CombineGlobally(lowest_rows).without_defaults()
            for source, tables in vectors.items()
        ]
        return (
            parts
            | "Together" >> beam.Flatten()
            | "LowestOfAll" >> beam.CombineGlobally(lowest_rows).without_defaults()
            | "WriteSample" >> beam.Map(write_sample, self.sample.path)
        )


class _Lowest(beam.CombineFn):
    """The rows of the lowest draws, [draw, embedding], in ascending order.

    Of embedded tables, or of what was found of some of them.
    """

    def __init__(self, key: str, rows: int) -> None:
        self._key, self._rows = key, rows

    def create_accumulator(self) -> list[pa.Table]:
        return []

    def add_input(self, held: list[pa.Table], table: pa.Table | None) -> list[pa.Table]:
        if table is None:
            return held
        if DRAW in table.column_names:
            return self._kept([*held, table])
        if table.schema.field(EMBEDDING).type.value_type != pa.float32():
            return held
        drawn = pa.array(draws(table, self._key))
        held.append(pa.table({DRAW: drawn, EMBEDDING: table[EMBEDDING]}))
        return self._kept(held) if _rows_of(held) > 2 * self._rows else held

    def merge_accumulators(self, parts: Iterable[list[pa.Table]]) -> list[pa.Table]:
        return self._kept([table for part in parts for table in part])

    def extract_output(self, held: list[pa.Table]) -> pa.Table | None:
        kept = self._kept(held)
        return kept[0] if kept else None

    def _kept(self, held: list[pa.Table]) -> list[pa.Table]:
        return [lowest(pa.concat_tables(held), self._rows)] if held else []


def _rows_of(tables: Iterable[pa.Table]) -> int:
    return sum(table.num_rows for table in tables)


def lowest(table: pa.Table, rows: int) -> pa.Table:
    """The rows of the lowest draws, each draw once, in ascending order."""
    drawn = table[DRAW].to_numpy()
    _, first = np.unique(drawn, return_index=True)
    first = first[:rows]
    vectors = precision.from_column(table[EMBEDDING])[first]
    return pa.table({DRAW: pa.array(drawn[first]), EMBEDDING: precision.to_column(vectors)})


def write_sample(table: pa.Table | None, path: str) -> None:
    """A sample's file."""
    if table is not None:
        with storage.open_write(path) as file:
            pq.write_table(table, file, compression="zstd")


def complete_sample(sample: SampleOf, before: Version | None, files: Iterable[str]) -> None:
    """Adds to a sample of what was embedded what was taken over, as far as its vectors are known.

    files: of the export that is measured. Of what was taken over from a version that has a sample
    those rows are known that are in it: none beyond its last draw, where it was cut off there.
    """
    earlier = None if before is None else _read(_sample_path(before, sample.prefix))
    if earlier is None:
        return
    limit = int(earlier[DRAW][-1].as_py()) if earlier.num_rows >= MOST_ROWS else int(_MOST_DRAW)
    wanted = earlier[DRAW].to_numpy()
    there = np.zeros(len(wanted), bool)
    column = HASH.name if sample.key == schema.IMAGE_ID.name else sample.key
    for path in files:
        for table in read_tables(path, [column]):
            there |= np.isin(wanted, draws(table, sample.key))
    kept = earlier.filter(pa.array(there))
    fresh = _read(sample.path)
    both = kept if fresh is None else pa.concat_tables([kept, fresh.cast(kept.schema)])
    both = both.filter(pa.array(both[DRAW].to_numpy() <= np.uint64(limit)))
    if both.num_rows:
        write_sample(lowest(both, MOST_ROWS), sample.path)


def _sample_path(version: Version, prefix: str) -> str:
    return SampleOf(version.path, prefix, "").path


def _read(path: str) -> pa.Table | None:
    if not storage.exists(path):
        return None
    with storage.open_arrow(path) as file:
        table = pq.read_table(file)
    return table if table.num_rows else None


def measure(
    images: SampleOf, queries: SampleOf, dtype: schema.Precision
) -> dict[str, dict[str, Any] | None]:
    """Of images and of queries, what is found of the ten nearest images; None where too few are."""
    corpus, asked = (_vectors(sample) for sample in (images, queries))
    return {
        images.prefix: _figures(corpus[:MOST_QUERIES], corpus, dtype, own=True),
        queries.prefix: _figures(asked[:MOST_QUERIES], corpus, dtype, own=False),
    }


def _vectors(sample: SampleOf) -> np.ndarray:
    table = _read(sample.path)
    if table is None:
        return np.zeros((0, 1), np.float32)
    return precision.from_column(table[EMBEDDING])


def _figures(
    queries: np.ndarray, corpus: np.ndarray, dtype: schema.Precision, *, own: bool
) -> dict[str, Any] | None:
    if not len(queries) or len(corpus) <= K:
        return None
    kept_queries, kept = (
        precision.restored(precision.stored(vectors, dtype)) for vectors in (queries, corpus)
    )
    recall = recall_at(queries, corpus, kept_queries, kept, own=own)
    return {"recall_at_10": round(recall, 5), "queries": len(queries), "searched": len(corpus)}


def recall_at(
    queries: np.ndarray,
    corpus: np.ndarray,
    kept_queries: np.ndarray,
    kept: np.ndarray,
    *,
    own: bool,
    k: int = K,
) -> float:
    """The share of the k images found by the kept vectors that are among the k nearest.

    An image as near as the k-th is among them. own: query i is image i, which is no answer.
    queries, kept_queries: [q, dim]; corpus, kept: [n, dim], n > k; float32 of unit norm.
    """
    right = 0
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        exact, found = queries[rows] @ corpus.T, kept_queries[rows] @ kept.T
        if own:
            itself = np.arange(len(exact))
            exact[itself, start + itself] = found[itself, start + itself] = -np.inf
        last = np.partition(exact, -k, axis=1)[:, -k]
        nearest = np.argpartition(found, -k, axis=1)[:, -k:]
        scores = np.take_along_axis(exact, nearest, axis=1)
        right += int((scores >= last[:, None] - _TIE).sum())
    return right / (len(queries) * k)
