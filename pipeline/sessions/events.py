"""Rows of a log to events: ids hashed, times in microseconds, whole-session rows unfolded.

In: blocks of a log's rows. Out: events as columns of numbers, the names that their hashes stand
for, and the rows that are no event, each with its reason. From here on there is no user id and no
session id, only hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.hashing import hash_numbers, hash_values, mix
from pipeline.ids import (
    IMAGE_SALT,
    QUERY_SALT,
    Faults,
    check_ids,
    encode,
    filled,
    hash_codes,
    names_of,
    of_codes,
    text,
)
from pipeline.sessions.times import TimeFormat, to_microseconds
from pipeline.tables.blocks import Block

IMAGE_ID, ITEMS, SESSION_ID, USER_ID = "image_id", "items", "session_id", "user_id"
TIMESTAMP, QUERY, ACTION, POSITION = "timestamp", "query", "action", "position"
LOG_COLUMNS = (IMAGE_ID, ITEMS, SESSION_ID, USER_ID, TIMESTAMP, QUERY, ACTION, POSITION)
# What a rejected row must not show: no output holds a user id or a session id.
HIDDEN = (USER_ID, SESSION_ID)

# Columns that a log lacks are left out; `key` and `image` are always there.
EVENT_SCHEMA = pa.schema(
    [
        ("image", pa.uint64()),  # hash of the image id under IMAGE_SALT
        # Hash of the session where it is named, else of the user, or of what a whole row holds.
        ("key", pa.uint64()),
        ("cut", pa.bool_()),  # the key is a user's: pauses cut it into sessions
        ("row", pa.uint64()),  # of a whole session without an id: rows of equal keys are apart
        ("user", pa.uint64()),  # hash under the run's secret; null where the row names none
        ("time", pa.int64()),  # microseconds since 1970, null where there is none
        ("order", pa.int64()),  # place within a whole-session row, or the log's position
        ("query", pa.uint64()),  # hash of the cleaned query under QUERY_SALT
        ("weight", pa.float64()),  # of the action; 1 where left out
    ]
)
_NO_USER, _NO_SESSION = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)


@dataclass(frozen=True)
class Events:
    """What became of a block of rows.

    events: of EVENT_SCHEMA, less what the log lacks. images, queries: NAME_SCHEMA, each name once.
    rejected: schema.REJECTED_SCHEMA. rows_kept: rows that gave at least one event.
    """

    events: pa.Table
    images: pa.Table
    queries: pa.Table
    rejected: pa.Table
    rows_kept: int


@dataclass(frozen=True)
class EventReader:
    """Turns one file's blocks into events.

    path: named in rejected rows. user_key: secret, drawn for the run, never stored. seed: makes
    the sessions' own hashes, which decide ties and what is held out. actions: weights by name.
    hide: columns that no rejected row shows.
    """

    path: str
    user_key: bytes
    seed: int
    items_separator: str | None = None
    time_format: TimeFormat = "none"
    actions: Mapping[str, float] = field(default_factory=dict)
    hide: tuple[str, ...] = HIDDEN

    def read(self, block: Block) -> Events:
        """The events of a block's rows."""
        rows = block.table
        faults = Faults(rows.num_rows)
        names = {name: text(rows, name) for name in (SESSION_ID, USER_ID)}
        times, bad_times = _times(rows, self.time_format)
        faults.note(bad_times, f"bad {TIMESTAMP}")
        if ITEMS in rows.column_names:
            images, row_of, order = self._unfold(rows, faults)
        else:
            images, row_of, order = encode(text(rows, IMAGE_ID)), None, _positions(rows)
            faults.note(~filled(images), f"no {IMAGE_ID}")
            check_ids(images, faults.note)
            _check_sessions(names, times, faults)
        columns, queries = self._columns(rows, names, times)
        if row_of is not None:
            self._part_sessions(columns, names, images, row_of, block.row_numbers)
        events = _assemble(images, columns, row_of, order)
        if faults.reasons:
            good = faults.good if row_of is None else faults.good[row_of]
            events, images = events.filter(pa.array(good)), images.filter(pa.array(good))
        return Events(
            events,
            names_of(images, IMAGE_SALT),
            queries,
            pa.concat_tables([block.rejected, faults.rejected(self.path, block, self.hide)]),
            _rows_kept(faults.good, row_of),
        )

    def _columns(
        self,
        rows: pa.Table,
        names: Mapping[str, pa.Array | None],
        times: pa.Array | None,
    ) -> tuple[dict[str, pa.Array], pa.Table]:
        """(one value a row of the log for EVENT_SCHEMA but image and order, names of queries)."""
        user, session = names[USER_ID], names[SESSION_ID]
        has_user, has_session = filled(user, rows.num_rows), filled(session, rows.num_rows)
        salt = f"session-{self.seed}"
        users = np.full(rows.num_rows, _NO_USER) if user is None else hash_values(user, salt=salt)
        sessions = hash_values(session, salt=salt) if session is not None else _NO_SESSION
        key = mix(
            mix(np.where(has_user, users, _NO_USER)) ^ np.where(has_session, sessions, _NO_SESSION)
        )
        columns = {"key": pa.array(key)}
        if ITEMS not in rows.column_names and not has_session.all():
            columns["cut"] = pa.array(~has_session)
        if has_user.any():
            secret = hash_numbers(users, salt=self.user_key)
            columns["user"] = pa.array(secret, mask=None if has_user.all() else ~has_user)
        if times is not None:
            columns["time"] = times
        query = _clean_queries(encode(text(rows, QUERY)))
        if query is not None:
            columns["query"] = hash_codes(query, QUERY_SALT)
        if self.actions and ACTION in rows.column_names:
            columns["weight"] = _weights(text(rows, ACTION), self.actions)
        return columns, names_of(query, QUERY_SALT)

    def _part_sessions(
        self,
        columns: dict[str, pa.Array],
        names: Mapping[str, pa.Array | None],
        images: pa.Array,
        row_of: np.ndarray,
        row_numbers: np.ndarray,
    ) -> None:
        """Makes each whole-session row without a session id a session of its own.

        Its key follows from what it holds, so that it is the same wherever the row stands; rows
        that hold the same are told apart by their place.
        """
        unnamed = ~filled(names[SESSION_ID], len(row_numbers))
        if not unnamed.any():
            return
        hashes = hash_codes(images, IMAGE_SALT).fill_null(0).to_numpy(zero_copy_only=False)
        content = np.zeros(len(row_numbers), np.uint64)
        place = np.arange(len(row_of)) - np.searchsorted(row_of, row_of)
        np.add.at(content, row_of, mix(hashes + mix(place.astype(np.uint64))))
        key = columns["key"].to_numpy() ^ mix(content)
        for name in ("time", "query"):
            if name in columns:
                key = mix(key) ^ columns[name].fill_null(0).to_numpy(zero_copy_only=False).view(
                    np.uint64
                )
        columns["key"] = pa.array(np.where(unnamed, mix(key), columns["key"].to_numpy()))
        file = hash_values(pa.array([self.path]), salt="file")
        row = mix(file + row_numbers.astype(np.uint64))
        columns["row"] = pa.array(row, mask=None if unnamed.all() else ~unnamed)

    def _unfold(self, rows: pa.Table, faults: Faults) -> tuple[pa.Array, np.ndarray, pa.Array]:
        """Items of whole-session rows: image ids, the row of each, and its place in the row."""
        lists = self._item_lists(rows)
        row_of = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        images = encode(pc.list_flatten(lists).cast(pa.string()))
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        order = np.arange(len(row_of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

        def note(bad: np.ndarray, reason: str) -> None:
            mask = np.zeros(rows.num_rows, bool)
            mask[row_of[bad]] = True
            faults.note(mask, reason)

        note(~filled(images), f"{ITEMS} holds an empty id")
        check_ids(images, note)
        return images, row_of, pa.array(order, pa.int64())

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


def _times(rows: pa.Table, format: TimeFormat) -> tuple[pa.Array | None, np.ndarray]:
    """([rows] int64 microseconds, which rows hold what is no time); None without such a column."""
    if TIMESTAMP not in rows.column_names:
        return None, np.zeros(rows.num_rows, bool)
    return to_microseconds(rows[TIMESTAMP].combine_chunks(), format)


def _check_sessions(
    names: Mapping[str, pa.Array | None], times: pa.Array | None, faults: Faults
) -> None:
    """Notes the rows of one event each that belong to no session."""
    no_session = ~filled(names[SESSION_ID], faults.rows)
    neither = no_session & ~filled(names[USER_ID], faults.rows)
    faults.note(neither, f"neither {SESSION_ID} nor {USER_ID}")
    untimed = True if times is None else times.is_null().to_numpy(zero_copy_only=False)
    faults.note(no_session & untimed, f"no {TIMESTAMP}, and no {SESSION_ID}")


def _clean_queries(queries: pa.Array | None) -> pa.Array | None:
    """White space of any kind folded; null where nothing is left. Looks at each query once."""
    if queries is None:
        return None
    words = pc.utf8_split_whitespace(queries.dictionary)
    folded = pc.utf8_trim_whitespace(pc.binary_join(words, " "))
    empty = pc.equal(folded, "").to_numpy(zero_copy_only=False)
    indices = queries.indices
    if len(empty) and empty.any():
        lost = of_codes(empty, queries, nothing=False)
        indices = pc.if_else(pa.array(lost), pa.scalar(None, indices.type), indices)
    return pa.DictionaryArray.from_arrays(indices, folded)


def _positions(rows: pa.Table) -> pa.Array | None:
    """The log's own positions, where they are whole numbers: the order of events of equal time."""
    if POSITION not in rows.column_names:
        return None
    column = rows[POSITION].combine_chunks()
    if pa.types.is_string(column.type):
        column = pc.replace_substring_regex(column, r"^\+", "")
        whole = pc.fill_null(pc.match_substring_regex(column, r"^-?\d{1,18}$"), False)
        column = pc.if_else(whole, column, pa.scalar(None, pa.string()))
    elif not pa.types.is_integer(column.type):
        return None
    return column.cast(pa.int64(), safe=False)


def _weights(actions: pa.Array | None, weights: Mapping[str, float]) -> pa.Array:
    """[rows] float64: the weight of each row's action; 1 where it has none or another."""
    encoded = encode(actions)
    assert encoded is not None
    values = [weights.get(action, 1.0) for action in encoded.dictionary.to_pylist()]
    return pa.array(of_codes(np.asarray(values, np.float64), encoded, nothing=1.0))


def _rows_kept(good: np.ndarray, row_of: np.ndarray | None) -> int:
    if row_of is None:
        return int(good.sum())
    held = np.zeros(len(good), bool)
    held[row_of] = True
    return int((held & good).sum())


def _assemble(
    images: pa.Array,
    columns: Mapping[str, pa.Array],
    row_of: np.ndarray | None,
    order: pa.Array | None,
) -> pa.Table:
    """Events of EVENT_SCHEMA, an event an image. row_of: the row of the log of each, if not one."""
    rows = pa.table(dict(columns))
    if row_of is not None:
        rows = rows.take(pa.array(row_of))
    table = rows.append_column("image", hash_codes(images, IMAGE_SALT))
    if order is not None:
        table = table.append_column("order", order)
    names = [name for name in EVENT_SCHEMA.names if name in table.column_names]
    return table.select(names).cast(pa.schema([EVENT_SCHEMA.field(name) for name in names]))
