"""A bounded sample of the session logs, read as events.

In: the logs, how to read them, about how many rows. Out: a `Sample`: the events of some runs of
rows, spread over the files, and about how many rows the files hold in all. That is counted where a
file says so or was read to its end, and else told by its bytes: see `measure_head`.
"""

from __future__ import annotations

import zlib
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import fastavro
import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.columnar import concatenate
from pipeline.errors import ImgembedError
from pipeline.ids import NAME_SCHEMA
from pipeline.sessions import read
from pipeline.sessions.events import HIDDEN
from pipeline.sorting import run_starts
from pipeline.tables.blocks import Block
from pipeline.tables.files import Part, TableFile
from pipeline.tables.framing import read_records
from pipeline.tables.parts import read_blocks, split_parts

# The sample is read in so many runs of rows, spread over the files. A log is in order of time, so
# that a run holds whole sessions but for those at its ends.
RUNS = 8
_HEAD_BYTES = 1 << 20  # of a file, from which its bytes a row are measured


@dataclass
class _Run:
    """Consecutive rows of a part that are in the sample. names: NAME_SCHEMA of images."""

    log: read.Log
    part: Part
    blocks: Iterator[Block]
    rows: int = 0
    rejected: int = 0
    ended: bool = False
    events: list[pa.Table] = field(default_factory=list)
    names: list[pa.Table] = field(default_factory=list)

    def read(self, rows: int, reading: read.Reading) -> int:
        """Reads about so many rows more; returns how many there were."""
        before = self.rows
        while self.rows - before < rows:
            block = next(self.blocks, None)
            if block is None:
                self.ended = True
                break
            outcome = read.read_block((self.log, block), reading)
            self.rows += outcome.counts[read.ROWS]
            self.rejected += outcome.counts[read.ROWS_REJECTED]
            self.events += [keyed[1] for tag, keyed in outcome.outputs if tag == read.EVENTS]
            self.names += [keyed[1] for tag, keyed in outcome.outputs if tag == read.IMAGES]
        return self.rows - before


@dataclass(frozen=True)
class Sample:
    """Rows of the logs as events.

    events: columns that some logs lack are null there. names: NAME_SCHEMA of images, some of them
    more than once. rows: of the sample; total_rows: of the whole input, estimated unless `whole`.
    cut: share of the sessions that the sample holds in part.
    """

    events: pa.Table
    names: pa.Table
    rows: int
    rejected: int
    total_rows: int
    whole: bool
    cut: float

    @property
    def scale(self) -> float:
        return self.total_rows / self.rows


def take_sample(logs: read.Logs, reading: read.Reading, max_rows: int) -> Sample:
    """About `max_rows` rows in runs that are spread over the logs, or all of them."""
    quota = max(1, max_rows // RUNS)
    runs = [
        _Run(log, part, read_blocks(part, log.columns, block_rows=quota, hide=HIDDEN))
        for log in logs.files
        for part in split_parts(log.file, rows_a_part=1)
    ]
    rows, waiting = 0, deque(_spread(runs))
    while waiting and rows < max_rows:
        run = waiting.popleft()
        rows += run.read(quota, reading)
        if not run.ended:
            waiting.append(run)
    for run in runs:
        cast(Generator, run.blocks).close()
    events = [table for run in runs for table in run.events if table.num_rows]
    if not events:
        raise ImgembedError(
            f"sessions.path: no event in {rows:,} rows, the first of {logs.files[0].file.path!r}"
        )
    return Sample(
        events=pa.concat_tables(events, promote_options="default").combine_chunks(),
        names=concatenate((table for run in runs for table in run.names), NAME_SCHEMA),
        rows=rows,
        rejected=sum(run.rejected for run in runs),
        total_rows=rows if not waiting else max(rows, round(_total_rows(runs))),
        whole=not waiting,
        cut=_cut_share(runs) if waiting else 0.0,
    )


def _spread(runs: Sequence[_Run]) -> list[_Run]:
    """In the order of van der Corput: the first of them are spread evenly, however many."""
    order = sorted(range(len(runs)), key=lambda number: f"{number:032b}"[::-1])
    return [runs[number] for number in order]


def _cut_share(runs: Iterable[_Run]) -> float:
    """About the share of sessions that begin before their run of rows or end after it.

    A session that spans so much of a run is cut by its ends with that chance. Sessions that pauses
    cut are left out: nothing names them yet.
    """
    found = []
    for run in runs:
        if run.ended or not run.events or any("cut" in part.column_names for part in run.events):
            continue
        key = concatenate(part.select(["key"]) for part in run.events)["key"].to_numpy()
        order = np.argsort(key, kind="stable")
        starts = run_starts(key[order])
        ends = np.append(starts[1:], len(key)) - 1
        span = (order[ends] - order[starts])[ends > starts]
        found.append(float(span.mean()) / len(key) if len(span) else 0.0)
    return float(np.mean(found)) if found else 0.0


def _total_rows(runs: Sequence[_Run]) -> float:
    """Rows of all files: counted where the file says so, else by its bytes."""
    measured: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    total = 0.0
    unread: list[TableFile] = []
    for run in runs:
        file = run.part.file
        kind = (file.format, file.compression)
        if run.part.rows is not None:
            total += run.part.rows
        elif run.ended:
            total += run.rows
            measured[kind].append((run.rows, file.size))
        else:
            unread.append(file)
            if run.rows:
                measured[kind].append(measure_head(file))
    return total + sum(rows_by_bytes(file, measured) for file in unread)


def rows_by_bytes(
    file: TableFile, measured: Mapping[tuple[str, str], Sequence[tuple[float, float]]]
) -> float:
    """Rows of a file by its bytes, as files of its kind have them, else as all have."""
    alike = measured.get((file.format, file.compression)) or [
        found for kind in measured.values() for found in kind
    ]
    rows, size = map(sum, zip(*alike, strict=True)) if alike else (1, 80)
    return file.size * rows / max(size, 1)


def measure_head(file: TableFile) -> tuple[float, float]:
    """(rows, bytes of the file that hold them) of the beginning of a file that is no Parquet."""
    with storage.open_read(file.path) as source:
        packed = source.read(_HEAD_BYTES)
    content = _unpacked(packed, file.compression)
    if file.format == "avro":
        rows, used = _avro_rows(content)
    elif file.format == "tfrecord":
        rows, used = _records(content, file.path)
    else:
        rows, used = content.count(b"\n"), content.rfind(b"\n") + 1
    if not rows:
        return 1.0, float(len(packed))
    return float(rows), used * len(packed) / max(len(content), 1)


def _unpacked(packed: bytes, compression: str) -> bytes:
    """What the first bytes of a compressed file hold, as far as they go."""
    if compression == "none":
        return packed
    parts: list[bytes] = []
    if compression == "gzip":
        while packed:
            member = zlib.decompressobj(31)
            parts.append(member.decompress(packed))
            packed = member.unused_data
        return b"".join(parts)
    stream = pa.CompressedInputStream(pa.BufferReader(packed), "zstd")
    try:
        while part := stream.read(1 << 12):  # of the last one nothing comes
            parts.append(part)
    except OSError:  # it is cut short, as we cut it
        pass
    return b"".join(parts)


def _records(content: bytes, path: str) -> tuple[int, int]:
    rows = used = 0
    try:
        for record in read_records(cast(Any, pa.BufferReader(content)), path):
            rows, used = rows + 1, used + len(record) + 16
    except ImgembedError:  # the last one is cut short
        pass
    return rows, used


def _avro_rows(content: bytes) -> tuple[int, int]:
    rows = used = 0
    try:
        for block in fastavro.block_reader(cast(Any, pa.BufferReader(content))):
            rows, used = rows + block.num_records, block.offset + block.size
    except Exception:  # of a file that is cut short fastavro raises whatever it meets
        return rows, used
    return rows, used
