"""Rows of a log to events: ids hashed, times in microseconds, whole-session rows unfolded.

In: blocks of a log's rows. Out: tables of EVENT_SCHEMA, and the rows that are no event, each with
its reason. From here on there is no user id and no session id, only hashes.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columnar import hash_values
from pipeline.tables import EMPTY_REJECTED, Block, rejected_rows

IMAGE_ID, ITEMS, SESSION_ID, USER_ID = "image_id", "items", "session_id", "user_id"
TIMESTAMP, QUERY = "timestamp", "query"
LOG_COLUMNS = (IMAGE_ID, ITEMS, SESSION_ID, USER_ID, TIMESTAMP, QUERY)

EVENT_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("key", pa.uint64()),  # of the session where it is named, else of the user
        ("cut", pa.bool_()),  # the key is a user's: pauses cut it into sessions
        ("user", pa.uint64()),  # null where the row names none
        ("time", pa.int64()),  # microseconds since 1970, null where there is none
        ("order", pa.int64()),  # place within a whole-session row
        ("query", pa.string()),
    ]
)
MAX_ID_LENGTH = 1024  # characters
_SEPARATOR = "\0"  # between user and session id; neither may hold it
# Up to which size a whole number is seconds, milliseconds, microseconds; beyond, nanoseconds.
_UNITS = ((1e11, 1_000_000.0), (1e14, 1_000.0), (1e17, 1.0))


@dataclass
class EventReader:
    """Turns one file's blocks into events; holds what is settled once a file.

    path: named in rejected rows. user_key: secret, drawn for the run, never stored. seed: makes
    the sessions' own hashes, which decide ties and what is held out.
    """

    path: str
    user_key: bytes
    seed: int
    items_separator: str | None = None
    time_unit: float | None = field(default=None, init=False)  # microseconds a unit
    rows_with_events: int = field(default=0, init=False)  # of the block read last

    def read(self, block: Block) -> tuple[pa.Table, pa.Table]:
        """(events of EVENT_SCHEMA, rejected rows of schema.REJECTED_SCHEMA)."""
        rows = block.table
        self.rows_with_events = 0
        if rows.num_rows == 0:
            return EVENT_SCHEMA.empty_table(), block.rejected
        faults = _Faults(rows.num_rows)
        names = {name: _text(rows, name) for name in (SESSION_ID, USER_ID, QUERY)}
        times = self._times(rows, faults)
        if ITEMS in rows.column_names:
            images, row_of, order = self._unfold(rows, faults)
        else:
            images = _text(rows, IMAGE_ID)
            row_of, order = np.arange(rows.num_rows), np.zeros(rows.num_rows, np.int64)
            _check_rows(images, names, times, faults)
        columns = self._columns(names, times, block)
        self.rows_with_events = len(np.unique(row_of[faults.good[row_of]]))
        events = _assemble(images, columns, row_of, order)
        events = events.filter(pa.array(faults.good[row_of]))
        return events, pa.concat_tables([block.rejected, faults.rejected(self.path, block)])

    def _columns(
        self, names: dict[str, pa.Array], times: pa.Array, block: Block
    ) -> dict[str, pa.Array]:
        """One value a row of the log: everything of EVENT_SCHEMA but image and order."""
        session, user = names[SESSION_ID], names[USER_ID]
        has_session, has_user = _filled(session), _filled(user)
        identity = pc.binary_join_element_wise(
            pc.fill_null(user, ""), pc.fill_null(session, ""), _SEPARATOR
        )
        if ITEMS in block.table.column_names:  # a whole-session row without ids is its own session
            own = pa.array([f"{_SEPARATOR}{self.path}{_SEPARATOR}{n}" for n in block.row_numbers])
            identity = pc.if_else(pa.array(has_session | has_user), identity, own)
            cut = has_user & ~has_session & times.is_valid().to_numpy(zero_copy_only=False)
        else:
            cut = ~has_session
        user_hash = hash_values(user, salt=self.user_key)
        return {
            "key": pa.array(hash_values(identity, salt=f"session-{self.seed}")),
            "cut": pa.array(cut),
            "user": pa.array(user_hash, mask=~has_user),
            "time": times,
            "query": _clean_query(names[QUERY]),
        }

    def _unfold(self, rows: pa.Table, faults: _Faults) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """Items of whole-session rows: image ids, the row of each, and its place in the row."""
        lists = self._item_lists(rows)
        row_of = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        images = pc.list_flatten(lists).cast(pa.string())
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        order = np.arange(len(row_of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

        def note(bad: np.ndarray, reason: str) -> None:
            mask = np.zeros(rows.num_rows, bool)
            mask[row_of[bad]] = True
            faults.note(mask, reason)

        note(~_filled(images), f"{ITEMS} holds an empty id")
        _check_ids(images, note)
        return images, row_of, order

    def _item_lists(self, rows: pa.Table) -> pa.Array:
        column = rows[ITEMS].combine_chunks()
        if pa.types.is_list(column.type):
            return column
        if self.items_separator is None:
            return pc.if_else(
                pc.is_null(column),
                pa.scalar(None, pa.list_(pa.string())),
                pa.ListArray.from_arrays(
                    pa.array(np.arange(len(column) + 1), pa.int32()), column.cast(pa.string())
                ),
            )
        return pc.split_pattern(column.cast(pa.string()), self.items_separator)

    def _times(self, rows: pa.Table, faults: _Faults) -> pa.Array:
        """[rows] int64 microseconds, null where the log has none."""
        if TIMESTAMP not in rows.column_names:
            return pa.nulls(rows.num_rows, pa.int64())
        column = rows[TIMESTAMP].combine_chunks()
        if pa.types.is_timestamp(column.type):
            return column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
        values, bad = self._parse_times(column)
        faults.note(bad, f"bad {TIMESTAMP}")
        return values

    def _parse_times(self, column: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """(microseconds, which rows hold what is no time)."""
        numbers = _to_float(column)
        given = column.is_valid().to_numpy(zero_copy_only=False)
        if self.time_unit is None and np.isfinite(numbers).any():
            first = abs(numbers[np.isfinite(numbers)][0])
            self.time_unit = next((unit for limit, unit in _UNITS if first < limit), 1e-3)
        micros = np.round(numbers * (self.time_unit or 1.0))
        fits = np.abs(micros) < 2.0**62
        texts = np.flatnonzero(given & ~fits)
        values = np.where(fits, micros, 0).astype(np.int64)
        for index in texts:
            parsed = _parse_iso(column[int(index)].as_py())
            if parsed is not None:
                values[index], fits[index] = parsed, True
        return pa.array(values, mask=~fits), given & ~fits


def _to_float(column: pa.Array) -> np.ndarray:
    """[rows] float64; NaN where a value is null or no number."""
    if not pa.types.is_string(column.type):
        return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    numeric = pc.match_substring_regex(column, r"^[+-]?\d+(\.\d+)?$")
    return (
        pc.if_else(pc.fill_null(numeric, False), column, None)
        .cast(pa.float64())
        .to_numpy(zero_copy_only=False)
    )


def _parse_iso(value: object) -> int | None:
    """Microseconds of an ISO 8601 time; UTC where it names no zone."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (moment - epoch) // datetime.timedelta(microseconds=1)


class _Faults:
    """Which rows of a block are bad, and why: the first reason that is noted counts."""

    def __init__(self, rows: int) -> None:
        self.reasons: dict[int, str] = {}
        self.rows = rows

    def note(self, bad: np.ndarray, reason: str) -> None:
        for index in np.flatnonzero(bad):
            self.reasons.setdefault(int(index), reason)

    @property
    def good(self) -> np.ndarray:
        mask = np.ones(self.rows, bool)
        mask[list(self.reasons)] = False
        return mask

    def rejected(self, path: str, block: Block) -> pa.Table:
        if not self.reasons:
            return EMPTY_REJECTED
        indices = sorted(self.reasons)
        contents = [
            orjson.dumps(row, default=str).decode()
            for row in block.table.take(pa.array(indices)).to_pylist()
        ]
        numbers = block.row_numbers[indices].tolist()
        return rejected_rows(path, numbers, [self.reasons[i] for i in indices], contents)


def _text(rows: pa.Table, name: str) -> pa.Array:
    """A column as strings; all null where the log lacks it."""
    if name not in rows.column_names:
        return pa.nulls(rows.num_rows, pa.string())
    column = rows[name].combine_chunks()
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _filled(texts: pa.Array) -> np.ndarray:
    """[rows] bool: neither null nor empty."""
    return pc.fill_null(pc.not_equal(texts, ""), False).to_numpy(zero_copy_only=False)


def _check_rows(
    images: pa.Array, names: dict[str, pa.Array], times: pa.Array, faults: _Faults
) -> None:
    """Notes what is wrong with rows of one event each."""
    faults.note(~_filled(images), f"no {IMAGE_ID}")
    _check_ids(images, faults.note)
    no_session = ~_filled(names[SESSION_ID])
    neither = no_session & ~_filled(names[USER_ID])
    faults.note(neither, f"neither {SESSION_ID} nor {USER_ID}")
    untimed = pc.is_null(times).to_numpy(zero_copy_only=False)
    faults.note(no_session & untimed, f"no {TIMESTAMP}, and no {SESSION_ID}")


def _check_ids(images: pa.Array, note: Callable[[np.ndarray, str], None]) -> None:
    too_long = pc.greater(pc.utf8_length(images), MAX_ID_LENGTH)
    torn = pc.match_substring_regex(images, "[\x00\n]")
    for mask, reason in (
        (too_long, f"{IMAGE_ID} is longer than {MAX_ID_LENGTH} characters"),
        (torn, f"{IMAGE_ID} holds a NUL or a newline"),
    ):
        note(pc.fill_null(mask, False).to_numpy(zero_copy_only=False), reason)


def _clean_query(texts: pa.Array) -> pa.Array:
    """White space folded; null where nothing is left."""
    folded = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, r"\s+", " "))
    return pc.if_else(pc.equal(folded, ""), pa.scalar(None, pa.string()), folded)


def _assemble(
    images: pa.Array, columns: dict[str, pa.Array], row_of: np.ndarray, order: np.ndarray
) -> pa.Table:
    """A table of EVENT_SCHEMA, an event an image. row_of: the row of the log of each."""
    rows = pa.table(columns).take(pa.array(row_of))
    table = rows.append_column("image_id", images).append_column("order", pa.array(order))
    return table.select(EVENT_SCHEMA.names).cast(EVENT_SCHEMA)
