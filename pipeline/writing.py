"""Sharded output files of a new version: Parquet tables and the rows that were rejected.

The number of files follows from the size of the input, never from how many shards the work was
cut into, and rows are sorted: the same input gives the same bytes however it was computed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.columnar import Keyed, concatenate, concatenate_ascending, sort_rows
from pipeline.errors import ImgembedError

_BYTES_A_FILE = 128 << 20  # of input
_BYTES_A_SHARD = 128 << 20  # of input; what one worker holds at a time is several times that
_ROW_GROUP = 131_072
_ENCODED_ROW_GROUP = 1_048_576  # each row group holds the list of all its strings


def file_count(input_bytes: int) -> int:
    """How many files an output of that much input is written to."""
    return max(1, input_bytes // _BYTES_A_FILE)


def shard_count(setting: int | str, input_bytes: int) -> int:
    """The parts the work is cut into: `runner.shards`, or by size where that is "auto"."""
    return max(1, input_bytes // _BYTES_A_SHARD) if isinstance(setting, str) else setting


def write_parquet(path: str, table: pa.Table) -> None:
    """One file, zstd, the same bytes for the same rows; encoded strings are strings in it."""
    encoded = any(pa.types.is_dictionary(field.type) for field in table.schema)
    rows = _ENCODED_ROW_GROUP if encoded else _ROW_GROUP
    with storage.open_write(path) as file:
        pq.write_table(
            table, file, compression="zstd", row_group_size=rows, store_schema=not encoded
        )


@dataclass
class WriteParquet(beam.PTransform):
    """Writes tables as `<folder>/<prefix>-NNNNN-of-NNNNN.parquet`.

    Input: (file number, pa.Table of `table_schema`). Output: pa.Table, the rows of each file as
    written, sorted by `sort_by`. A file without rows is written too: a missing one would look like
    a loss.
    """

    folder: str
    prefix: str
    files: int
    table_schema: pa.Schema
    sort_by: Sequence[str]
    in_order: bool = False  # each part ascends already, and the parts of a file do not overlap

    def expand(self, keyed: beam.PCollection[Keyed]) -> beam.PCollection[pa.Table]:
        empty = [(index, self.table_schema.empty_table()) for index in range(self.files)]
        nothing = keyed.pipeline | "NoRows" >> beam.Create(empty).with_output_types(Keyed)
        return (
            (keyed, nothing)
            | "WithEmptyFiles" >> beam.Flatten()
            | "GatherFiles" >> beam.GroupByKey()
            | "WriteFiles" >> beam.MapTuple(self._write).with_output_types(pa.Table)
        )

    def _write(self, index: int, parts: Iterable[pa.Table]) -> pa.Table:
        if self.in_order:
            table = concatenate_ascending(parts, self.sort_by[0], self.table_schema)
        else:
            table = sort_rows(concatenate(parts), self.sort_by)
        name = schema.shard_name(self.prefix, index, self.files, "parquet")
        write_parquet(storage.join(self.folder, name), table)
        return table


def check_written(folder: str, rows: Mapping[str, int]) -> None:
    """ImgembedError where the files of a prefix do not hold the rows that were counted.

    rows: {prefix: how many}. Asks the footers of the files alone.
    """
    for prefix, counted in rows.items():
        names = [name for name in storage.entries(folder) if name.startswith(f"{prefix}-")]
        found = 0
        for name in names:
            with storage.open_arrow(storage.join(folder, name)) as file:
                found += pq.read_metadata(file).num_rows
        if found != counted:
            raise ImgembedError(
                f"{prefix}: {counted:,} rows were counted and {found:,} written; run it again"
            )


@dataclass
class WriteRejected(beam.PTransform):
    """Writes rejected rows as one JSONL file, in the order of files and rows.

    Input: pa.Table of schema.REJECTED_SCHEMA. Nothing is written where there is none.
    """

    folder: str

    def expand(self, rejected: beam.PCollection[pa.Table]) -> beam.PCollection[None]:
        return (
            rejected
            | "OneKey" >> beam.Map(_under_one_key).with_output_types(Keyed)
            | "GatherRejected" >> beam.GroupByKey()
            | "WriteRejected" >> beam.MapTuple(self._write)
        )

    def _write(self, _: int, parts: Iterable[pa.Table]) -> None:
        table = sort_rows(concatenate(parts), ("file", "row", "reason"))
        with storage.open_write(rejected_file(self.folder)) as file:
            for row in table.to_pylist():
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _under_one_key(table: pa.Table) -> Keyed:
    return 0, table


def rejected_file(version_folder: str) -> str:
    """Where a version's rejected rows are."""
    name = schema.shard_name("rejected", 0, 1, "jsonl")
    return storage.join(version_folder, schema.REJECTED_FOLDER, name)


def read_rejected(version_folder: str) -> Iterator[dict[str, str | int]]:
    """The rejected rows of a version, in order."""
    path = rejected_file(version_folder)
    if storage.exists(path):
        with storage.open_read(path) as file:
            for line in file:
                yield json.loads(line)


def check_rejected(version_folder: str, *, rows: int, allowed: float, key: str) -> dict[str, int]:
    """Rejected rows by reason, the commonest first; ImgembedError when they are too many.

    rows: how many were read. allowed: the largest share, the setting `key`.
    """
    reasons: Counter[str] = Counter()
    examples: dict[str, dict[str, str | int]] = {}
    for row in read_rejected(version_folder):
        reason = str(row["reason"])
        reasons[reason] += 1
        examples.setdefault(reason, row)
    rejected = sum(reasons.values())
    ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    if rejected > allowed * rows:
        reason, count = next(iter(ordered.items()))
        first = examples[reason]
        raise ImgembedError(
            f"{rejected:,} of {rows:,} rows cannot be read, more than {key} = {allowed:g} allows; "
            f"most often ({count:,}): {reason}, first at {first['file']} row {first['row']}"
        )
    return ordered
