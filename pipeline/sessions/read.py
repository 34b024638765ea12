"""Finds the session logs and reads them into events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics.metric import Metrics

from pipeline import progress
from pipeline.config import SessionsConfig
from pipeline.errors import ImgembedError
from pipeline.sessions import events
from pipeline.tables import TableFile, column_names, find_tables, map_columns, read_blocks

NAMESPACE = "sessions"
ROWS, ROWS_REJECTED, ROWS_EMPTY = "rows", "rows_rejected", "rows_without_images"
EVENTS_READ = "events_read"
EVENTS_TAG, REJECTED_TAG = "events", "rejected"


@dataclass(frozen=True)
class Log:
    """One file of a session log and what its columns are called: {ours: theirs}."""

    file: TableFile
    columns: Mapping[str, str]


def find_logs(config: SessionsConfig) -> list[Log]:
    """The files of the logs, with the columns of each; ImgembedError where they cannot do."""
    if not config.path:
        raise ImgembedError("sessions.path: no session logs named; give --sessions PATH")
    files = find_tables(config.path, format=config.format, key="sessions.path")
    logs = [Log(file, _columns(file, config)) for file in files if file.size]
    if not logs:
        raise ImgembedError(f"sessions.path: every file at {config.path!r} is empty")
    return logs


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


def read_log(
    log: Log, *, user_key: bytes, seed: int, items_separator: str | None
) -> Iterator[pa.Table | beam.pvalue.TaggedOutput]:
    """Events of a file, a table a block; rejected rows under REJECTED_TAG."""
    reader = events.EventReader(log.file.path, user_key, seed, items_separator)
    for block in read_blocks(log.file, log.columns):
        found, rejected = reader.read(block)
        rows = block.table.num_rows + block.rejected.num_rows
        good = rows - rejected.num_rows
        _count(ROWS, rows)
        _count(ROWS_REJECTED, rejected.num_rows)
        _count(ROWS_EMPTY, good - reader.rows_with_events)
        _count(EVENTS_READ, found.num_rows)
        progress.add("rows", rows)
        if found.num_rows:
            yield found
        if rejected.num_rows:
            yield beam.pvalue.TaggedOutput(REJECTED_TAG, rejected)


def _count(name: str, amount: int) -> None:
    Metrics.counter(NAMESPACE, name).inc(amount)


@dataclass
class ReadEvents(beam.PTransform):
    """Reads logs.

    Input: the pipeline's root. Output: {EVENTS_TAG: tables of EVENT_SCHEMA, REJECTED_TAG: tables of
    schema.REJECTED_SCHEMA}. Counters: ROWS, ROWS_REJECTED, ROWS_EMPTY, EVENTS_READ.
    """

    logs: Sequence[Log]
    user_key: bytes
    seed: int
    items_separator: str | None

    def expand(self, root: beam.Pipeline) -> beam.pvalue.DoOutputsTuple:
        return (
            root
            | "Logs" >> beam.Create(self.logs)
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadLog"
            >> beam.FlatMap(
                read_log,
                user_key=self.user_key,
                seed=self.seed,
                items_separator=self.items_separator,
            )
            .with_output_types(pa.Table)
            .with_outputs(REJECTED_TAG, main=EVENTS_TAG)
        )
