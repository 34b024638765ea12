"""Events to sessions: cut by pauses, bots left out, each image once, the first images kept.

In: all events of a shard's users and sessions. Out: `Sessions`, columns of numbers, and counts that
account for every event. Sessions that are named need not be in order for that; only where a pause
cuts, where images are too many, and where a session is held out, events are put in order of time.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import SessionsConfig
from pipeline.errors import ImgembedError
from pipeline.hashing import hash_values, mix
from pipeline.sorting import bits, changes, order_by, run_lengths, run_starts, sort_together

Starts = Literal["unknown", "wanted", "needed"]


@dataclass(frozen=True)
class SessionCounts:
    """What became of the events.

    events = visits + repeated + of_bots + beyond_max_images + beyond_max_sessions.
    """

    sessions: int
    sessions_of_one_image: int
    bots: int
    sessions_beyond_user_limit: int
    events: int
    visits: int
    repeated: int
    of_bots: int
    beyond_max_images: int
    beyond_max_sessions: int


@dataclass(frozen=True)
class Sessions:
    """The sessions of a shard, and their events that count.

    Of each session: user: [sessions] uint64, 0 = unknown; draw: [sessions] uint64, uniform, decides
    what is held out; start: [sessions] int64 microseconds or None.
    Of each event: session: [events] int64, index into the above; image: [events] int64, index into
    `images`; time, order: [events] int64 or None; query: [events] uint64 with `asked`: [events]
    bool, or None; weight: [events] float64 or None.
    images: [images] uint64, ascending hashes of image ids.
    """

    user: np.ndarray
    draw: np.ndarray
    start: np.ndarray | None
    session: np.ndarray
    image: np.ndarray
    images: np.ndarray
    time: np.ndarray | None
    order: np.ndarray | None
    query: np.ndarray | None
    asked: np.ndarray | None
    weight: np.ndarray | None

    def of_events(self, rows: np.ndarray) -> Sessions:
        """With some of the events only; rows: [events] bool."""
        if rows.all():
            return self
        columns = {name: getattr(self, name) for name in _EVENT_COLUMNS}
        chosen: dict[str, Any] = {
            name: None if values is None else values[rows] for name, values in columns.items()
        }
        return dataclasses.replace(self, **chosen)

    def of_sessions(self, kept: np.ndarray) -> Sessions:
        """With some of the sessions only, numbered anew; kept: [sessions] bool."""
        if kept.all():
            return self
        events = self.of_events(kept[self.session])
        return dataclasses.replace(
            events,
            user=self.user[kept],
            draw=self.draw[kept],
            start=None if self.start is None else self.start[kept],
            session=(np.cumsum(kept) - 1)[events.session],
        )


_EVENT_COLUMNS = ("session", "image", "time", "order", "query", "asked", "weight")


@dataclass(frozen=True)
class Visits:
    """Each image of each session once, in ascending order of session and image.

    session, image: [visits] int64 as in `Sessions`. weight: [visits] float64, of the strongest
    action, or None where every action weighs 1.
    """

    session: np.ndarray
    image: np.ndarray
    weight: np.ndarray | None

    def of_sessions(self, kept: np.ndarray) -> Visits:
        """Those of some sessions, numbered anew; kept: [sessions] bool."""
        if kept.all():
            return self
        rows = kept[self.session]
        number = (np.cumsum(kept) - 1)[self.session[rows]]
        weight = None if self.weight is None else self.weight[rows]
        return Visits(number, self.image[rows], weight)


def sessionize(
    events: pa.Table, config: SessionsConfig, *, seed: int, starts: Starts = "unknown"
) -> tuple[Sessions, Visits, SessionCounts]:
    """The sessions of a shard, their visits, and what became of its events.

    events: of EVENT_SCHEMA; columns may be missing. Events of equal time are put in order by their
    place in the row, then by a seeded hash of the image, never by arrival. starts: whether that of
    every session is needed, or wanted as far as the logs have times.
    """
    everything = _number_sessions(events, config.gap_minutes, starts)
    sizes = np.bincount(everything.session, minlength=len(everything.draw))
    human = sizes <= config.max_events
    limited = _within_user_limit(everything, human, config.max_sessions_per_user)
    of_humans = everything.of_sessions(human & limited)
    visits = visits_of(of_humans)
    sessions = _first_images(of_humans, visits, config.max_images, seed)
    beyond = len(of_humans.session) - len(sessions.session)
    if beyond:
        visits = visits_of(sessions)
    images = np.bincount(visits.session, minlength=len(sessions.draw))
    return (
        sessions,
        visits,
        SessionCounts(
            sessions=len(sessions.draw),
            sessions_of_one_image=int((images == 1).sum()),
            bots=int((~human).sum()),
            sessions_beyond_user_limit=int((human & ~limited).sum()),
            events=len(everything.session),
            visits=len(visits.session),
            repeated=len(sessions.session) - len(visits.session),
            of_bots=int(sizes[~human].sum()),
            beyond_max_images=beyond,
            beyond_max_sessions=int(sizes[human & ~limited].sum()),
        ),
    )


def visits_of(sessions: Sessions) -> Visits:
    """Each image of each session once."""
    width = bits(sessions.image)
    key = (sessions.session << width) | sessions.image
    weight = None
    if sessions.weight is None:
        key = np.sort(key)
        key = key[changes(key)]
    else:
        levels, level = np.unique(sessions.weight, return_inverse=True)
        key, level = sort_together(key, level.astype(np.int64))
        starts = run_starts(key)
        weight = levels[np.maximum.reduceat(level, starts)] if len(key) else None
        key = key[starts]
    return Visits(key >> width, key & ((1 << width) - 1), weight)


def order_events(sessions: Sessions, seed: int) -> np.ndarray:
    """Events session by session in their order: by time, place in the row, and a seeded hash."""
    nothing = np.zeros(len(sessions.session), np.int64)
    time = nothing if sessions.time is None else sessions.time
    order = nothing if sessions.order is None else sessions.order
    salt = hash_values(pa.array([str(seed)]), salt="tie")[0]
    tie = mix(sessions.images ^ salt)[sessions.image]
    return order_by(sessions.session, time, order, tie)


def positions(session: np.ndarray, image: np.ndarray) -> np.ndarray:
    """For events in their order: the place of the image among those of its session, from 0 on."""
    width = bits(image)
    key, row = sort_together((session << width) | image, np.arange(len(session)))
    starts = run_starts(key)
    first = np.zeros(len(session), np.int64)
    first_rows = np.minimum.reduceat(row, starts) if len(row) else row
    first[first_rows] = 1
    before = np.cumsum(first) - first
    of_session = run_starts(session)
    before -= np.repeat(before[of_session], run_lengths(of_session, len(session)))
    place = np.empty(len(session), np.int64)
    place[row] = np.repeat(before[first_rows], run_lengths(starts, len(key)))
    return place


def _number_sessions(events: pa.Table, gap_minutes: float, starts: Starts) -> Sessions:
    """All events of a shard, with the session of each."""
    time = _times(events)
    session, keys = _sessions_of(events, time, gap_minutes)
    draw = mix(keys)
    start = None
    timed = time is not None and not events["time"].null_count
    if starts == "needed" and not timed:
        raise ImgembedError(
            "holdout.by: time and graph.half_life_days need a timestamp in every row"
        )
    if starts != "unknown" and timed and time is not None:
        start = np.full(len(draw), np.iinfo(np.int64).max)
        np.minimum.at(start, session, time)
    image, images = _codes(events["image"].to_numpy(), ascending=True)
    query = events["query"].combine_chunks() if "query" in events.column_names else None
    user = np.zeros(len(draw), np.uint64)
    users = _numbers(events, "user")
    if users is not None:
        user[session] = users
    return Sessions(
        user=user,
        draw=draw,
        start=start,
        session=session,
        image=image,
        images=images,
        time=time,
        order=_numbers(events, "order"),
        query=None if query is None else _flat(query.fill_null(0)),
        asked=None if query is None else _flat(query.is_valid()),
        weight=_numbers(events, "weight", missing=1.0),
    )


def _sessions_of(
    events: pa.Table, time: np.ndarray | None, gap_minutes: float
) -> tuple[np.ndarray, np.ndarray]:
    """([events] int64: the session of each, [sessions] uint64: a key of each).

    Sessions are named by their key, cut out of a user's events by pauses, or a row of the log each.
    """
    key = events["key"].to_numpy()
    cut, row = _numbers(events, "cut"), _numbers(events, "row")
    cut_rows = np.zeros(0, np.int64) if cut is None else np.flatnonzero(cut)
    own_rows = np.zeros(0, np.int64) if row is None else np.flatnonzero(row)
    if not len(cut_rows) and not len(own_rows):
        return _codes(key)
    parts = []
    if time is not None and len(cut_rows):
        parts.append((cut_rows, *_cut_by_pauses(key[cut_rows], time[cut_rows], gap_minutes)))
    if row is not None and len(own_rows):
        parts.append((own_rows, *_part_by_row(key[own_rows], row[own_rows])))
    named = np.ones(len(key), bool)
    named[np.concatenate([cut_rows, own_rows])] = False
    parts.append((np.flatnonzero(named), *_codes(key[named])))
    session, before = np.empty(len(key), np.int64), 0
    for rows, number, keys in parts:
        session[rows] = number + before
        before += len(keys)
    return session, np.concatenate([keys for _, _, keys in parts])


def _flat(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if isinstance(column, pa.ChunkedArray):
        return column.to_numpy()
    return column.to_numpy(zero_copy_only=False)


def _numbers(events: pa.Table, name: str, missing: float = 0) -> np.ndarray | None:
    """A column; None where the shard's logs lack it."""
    if name not in events.column_names:
        return None
    column = events[name]
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(missing).cast(column.type))
    return column.to_numpy()


def _times(events: pa.Table) -> np.ndarray | None:
    """[events] int64; events without a time come before all that have one."""
    if "time" not in events.column_names:
        return None
    if events["time"].null_count == 0:
        return events["time"].to_numpy()
    least = pc.min(events["time"]).as_py()
    return None if least is None else pc.fill_null(events["time"], least - 1).to_numpy()


def _codes(values: np.ndarray, *, ascending: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """([rows] int64 indices, [distinct] values): values = distinct[indices]."""
    encoded = pa.array(values).dictionary_encode()
    codes, distinct = encoded.indices.to_numpy(), encoded.dictionary.to_numpy()
    if ascending:
        order = np.argsort(distinct)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank[codes], distinct[order]
    return codes.astype(np.int64), distinct


def _cut_by_pauses(
    key: np.ndarray, time: np.ndarray, gap_minutes: float
) -> tuple[np.ndarray, np.ndarray]:
    """([events] the session of each, [sessions] a key of each): a longer pause ends a session."""
    order = order_by(key, time)
    key, time = key[order], time[order]
    new = changes(key)
    new[1:] |= np.diff(time) > gap_minutes * 60e6
    session = np.empty(len(order), np.int64)
    session[order] = np.cumsum(new) - 1
    return session, key[new] + time[new].astype(np.uint64)


def _part_by_row(key: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([events] the session of each, [sessions] a key of each): each row of the log is one.

    Rows that hold the same are numbered, and it does not matter in which order.
    """
    order = order_by(key, row)
    key, row = key[order], row[order]
    starts = np.flatnonzero(changes(key) | changes(row))
    session = np.empty(len(order), np.int64)
    session[order] = np.repeat(np.arange(len(starts)), run_lengths(starts, len(order)))
    keys = key[starts]
    of_key = run_starts(keys)
    copy = np.arange(len(keys)) - np.repeat(of_key, run_lengths(of_key, len(keys)))
    return session, mix(keys) + copy.astype(np.uint64)


def _within_user_limit(sessions: Sessions, candidates: np.ndarray, limit: int | None) -> np.ndarray:
    """[sessions] bool: which ones count of each user, at most `limit` of the candidates.

    Which ones is decided by their draws, so that it depends neither on arrival nor on the hour.
    """
    within = np.ones(len(sessions.draw), bool)
    if limit is None:
        return within
    rows = np.flatnonzero(candidates & (sessions.user != 0))
    rows = rows[order_by(sessions.user[rows], sessions.draw[rows])]
    starts = run_starts(sessions.user[rows])
    rank = np.arange(len(rows)) - np.repeat(starts, run_lengths(starts, len(rows)))
    within[rows[rank >= limit]] = False
    return within


def _first_images(sessions: Sessions, visits: Visits, max_images: int, seed: int) -> Sessions:
    """Without the events of images beyond a session's first `max_images`."""
    distinct = np.bincount(visits.session, minlength=len(sessions.draw))
    of_long = (distinct > max_images)[sessions.session]
    rows = np.flatnonzero(of_long)
    if not len(rows):
        return sessions
    long = sessions.of_events(of_long)
    order = order_events(long, seed)
    within = np.ones(len(sessions.session), bool)
    beyond = positions(long.session[order], long.image[order]) >= max_images
    within[rows[order[beyond]]] = False
    return sessions.of_events(within)
