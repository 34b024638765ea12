"""Finds the session logs, settles what is in them, and reads them into events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipeline import progress
from pipeline.columnar import Keyed, split_by_shard
from pipeline.config import SessionsConfig
from pipeline.errors import ImgembedError
from pipeline.parallel import InThreads, Outcome
from pipeline.parcels import Shipped
from pipeline.sessions import events, times
from pipeline.tables.blocks import Block
from pipeline.tables.files import Part, TableFile, find_files
from pipeline.tables.names import column_names, map_columns
from pipeline.tables.parts import estimate_rows, read_blocks, split_parts

NAMESPACE = "sessions"
ROWS, ROWS_REJECTED, ROWS_EMPTY = "rows", "rows_rejected", "rows_without_images"
EVENTS_READ = "events_read"
EVENTS, IMAGES, QUERIES, REJECTED = "events", "images", "queries", "rejected"
# Rows of a block: of a columnar file as many as pay, of text what fits into memory as objects.
_COLUMNAR_ROWS, _TEXT_ROWS = 1_000_000, 131_072
_HEAD_ROWS = 1_000
_FILES_AT_ONCE = 16
# Bytes of an event in a file of each kind; only for cutting work into parts.
_EVENT_BYTES = {"parquet": 15, "avro": 40, "compressed": 15, "text": 80}


@dataclass(frozen=True)
class Log:
    """One file of a session log, and what is in it.

    columns: {ours: theirs}. time: what its timestamps are.
    """

    file: TableFile
    columns: Mapping[str, str]
    time: times.TimeFormat

    @property
    def whole_sessions(self) -> bool:
        return events.ITEMS in self.columns


@dataclass(frozen=True)
class Logs:
    """The files of the logs, and the paths of files beside them that are no logs."""

    files: tuple[Log, ...]
    skipped: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(log.file.size for log in self.files)

    @property
    def has_users(self) -> bool:
        return any(events.USER_ID in log.columns for log in self.files)

    @property
    def has_queries(self) -> bool:
        return any(events.QUERY in log.columns for log in self.files)

    def detected(self) -> dict[str, int]:
        """How many files there are of each description, the commonest first."""
        return dict(Counter(describe(log) for log in self.files).most_common())


def find_logs(config: SessionsConfig) -> Logs:
    """The files of the logs, with the columns of each; ImgembedError where they cannot do."""
    if not config.path:
        raise ImgembedError("sessions.path: no session logs named; give --sessions PATH")
    found = find_files(config.path, format=config.format, key="sessions.path")
    filled = [file for file in found.tables if file.size]
    if not filled:
        raise ImgembedError(f"sessions.path: every file at {config.path!r} is empty")
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # a bucket answers slowly, but often at once
        logs = tuple(pool.map(lambda file: _look_into(file, config), filled))
    return Logs(logs, found.skipped)


def _look_into(file: TableFile, config: SessionsConfig) -> Log:
    columns = _columns(file, config)
    return Log(file, columns, _time_format(file, columns))


def _time_format(file: TableFile, columns: Mapping[str, str]) -> times.TimeFormat:
    if events.TIMESTAMP not in columns:
        return "none"
    only = {events.TIMESTAMP: columns[events.TIMESTAMP]}
    for part in split_parts(file):
        for block in read_blocks(part, only, block_rows=_HEAD_ROWS):
            if events.TIMESTAMP in block.table.column_names:
                found = times.detect(block.table[events.TIMESTAMP].combine_chunks())
                if found != "none":
                    return found
    return "none"


def _columns(file: TableFile, config: SessionsConfig) -> dict[str, str]:
    columns = map_columns(file, events.LOG_COLUMNS, config.columns, key="sessions.columns")
    if events.IMAGE_ID in columns and events.ITEMS not in config.columns:
        columns.pop(events.ITEMS, None)
    if events.ITEMS in columns:
        columns.pop(events.IMAGE_ID, None)
    _check_columns(file, columns)
    return columns


def _check_columns(file: TableFile, columns: Mapping[str, str]) -> None:
    has = f"it has {', '.join(column_names(file)) or '(none)'}; map them with sessions.columns"
    if events.ITEMS in columns:
        return
    if events.IMAGE_ID not in columns:
        raise ImgembedError(f"{file.path}: no column image_id, and no items; {has}")
    if events.SESSION_ID in columns:
        return
    if events.USER_ID not in columns:
        raise ImgembedError(f"{file.path}: neither a column session_id nor user_id; {has}")
    if events.TIMESTAMP not in columns:
        raise ImgembedError(
            f"{file.path}: without session_id, sessions are cut by time, and there is no column "
            f"timestamp; {has}"
        )


def describe(log: Log) -> str:
    """What was detected in a file: `parquet, a row an event: image_id, timestamp (seconds)`."""
    parts = []
    for ours, theirs in log.columns.items():
        shown = ours if ours == theirs else f"{ours} = {theirs}"
        if ours == events.TIMESTAMP:
            shown += f" ({times.DESCRIPTIONS[log.time]})"
        parts.append(shown)
    packed = "" if log.file.compression == "none" else f" ({log.file.compression})"
    rows = "a row a session" if log.whole_sessions else "a row an event"
    return f"{log.file.format}{packed}, {rows}: {', '.join(parts)}"


def estimate_events(log: Log) -> int:
    """About how many events a file holds; for cutting work into parts, never for a result."""
    file = log.file
    rows = estimate_rows(file)
    if rows is not None and not log.whole_sessions:
        return rows
    packed = "text" if file.compression == "none" else "compressed"
    return file.size // _EVENT_BYTES.get(file.format, _EVENT_BYTES[packed])


@dataclass(frozen=True)
class Reading:
    """What reading depends on beside the logs.

    user_key: secret, drawn for the run, never stored. shards: of users and sessions. hash_bounds:
    where those of images and queries begin. hide: columns that no rejected row shows.
    """

    user_key: bytes
    seed: int
    items_separator: str | None
    actions: Mapping[str, float]
    shards: int
    hash_bounds: np.ndarray
    hide: tuple[str, ...] = events.HIDDEN


LogPart = tuple[Log, Part]


def log_parts(logs: Iterable[Log]) -> list[LogPart]:
    """The parts that can be read on their own."""
    return [(log, part) for log in logs for part in split_parts(log.file)]


def blocks_of(
    element: LogPart, hide: tuple[str, ...] = events.HIDDEN
) -> Iterator[tuple[Log, Block]]:
    """The blocks of a part, as they are read."""
    log, part = element
    rows = _COLUMNAR_ROWS if log.file.format == "parquet" else _TEXT_ROWS
    encoded = (events.IMAGE_ID, events.QUERY)
    for block in read_blocks(part, log.columns, block_rows=rows, dictionary=encoded, hide=hide):
        yield log, block


def read_block(element: tuple[Log, Block], reading: Reading) -> Outcome:
    """A block's events and names, cut for their shards, and its rejected rows."""
    log, block = element
    reader = events.EventReader(
        log.file.path,
        reading.user_key,
        reading.seed,
        reading.items_separator,
        log.time,
        reading.actions,
        reading.hide,
    )
    found = reader.read(block)
    rows = block.table.num_rows + block.rejected.num_rows
    progress.add("rows", rows)
    outputs: list[tuple[str, Any]] = []
    outputs += [(EVENTS, keyed) for keyed in split_events(found.events, shards=reading.shards)]
    for tag, table in ((IMAGES, found.images), (QUERIES, found.queries)):
        outputs += [(tag, keyed) for keyed in _split_names(table, reading.hash_bounds)]
    if found.rejected.num_rows:
        outputs.append((REJECTED, found.rejected))
    return Outcome(
        outputs,
        {
            ROWS: rows,
            ROWS_REJECTED: found.rejected.num_rows,
            ROWS_EMPTY: rows - found.rejected.num_rows - found.rows_kept,
            EVENTS_READ: found.events.num_rows,
        },
    )


def split_events(table: pa.Table, *, shards: int) -> Iterator[Keyed]:
    """Events cut so that a user's, and where there is no user a session's, stay together."""
    if shards == 1:
        return split_by_shard(table, np.zeros(0, np.uint16), 1)
    owner = table["key"].to_numpy()
    if "user" in table.column_names:
        user = table["user"].combine_chunks()
        known = user.is_valid().to_numpy(zero_copy_only=False)
        owner = np.where(known, user.fill_null(0).to_numpy(zero_copy_only=False), owner)
    return split_by_shard(table, (owner % np.uint64(shards)).astype(np.uint16), shards)


def _split_names(table: pa.Table, bounds: np.ndarray) -> Iterator[Keyed]:
    shard = np.searchsorted(bounds, table["hash"].to_numpy(), side="right").astype(np.uint16)
    return split_by_shard(table, shard, len(bounds) + 1)


@dataclass
class ReadEvents(beam.PTransform):
    """Reads logs.

    Input: the pipeline's root. Output: {EVENTS: (shard, events.EVENT_SCHEMA), IMAGES, QUERIES:
    (shard of hashes, events.NAME_SCHEMA), REJECTED: schema.REJECTED_SCHEMA}. Counters: ROWS,
    ROWS_REJECTED, ROWS_EMPTY, EVENTS_READ.
    """

    logs: Sequence[Log]
    reading: Reading
    threads: int

    def expand(self, root: beam.Pipeline) -> dict[str, beam.PCollection]:
        outputs = {EVENTS: Shipped, IMAGES: Shipped, QUERIES: Shipped, REJECTED: pa.Table}
        read = InThreads(self._read, outputs, self.threads, NAMESPACE, unfold=self._blocks)
        return (
            root
            | "Parts" >> beam.Create(log_parts(self.logs))
            | "SpreadParts" >> beam.Reshuffle()
            | "ReadBlocks" >> read
        )

    def _blocks(self, element: LogPart) -> Iterator[tuple[Log, Block]]:
        return blocks_of(element, self.reading.hide)

    def _read(self, element: tuple[Log, Block]) -> Outcome:
        return read_block(element, self.reading)
