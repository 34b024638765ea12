"""Sessions kept out of the graph: which ones, and the rows that evaluation reads."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.config import HoldoutConfig
from pipeline.sessions.sessionize import Sessions, order_events, positions
from pipeline.sorting import order_by, run_starts

# A row for each (session, image, query) of a held-out session.
HELD_OUT_SCHEMA = pa.schema(
    [
        ("draw", pa.uint64()),  # of the session
        ("position", pa.int32()),
        ("image", pa.uint64()),
        ("query", pa.uint64()),
    ]
)
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Clock:
    """How many sessions begin in which second, and the newest event: what all shards share.

    seconds: [n] int64, ascending; sessions: [n] int64; newest: microseconds.
    """

    seconds: np.ndarray
    sessions: np.ndarray
    newest: int | None


def clock_of(sessions: Sessions) -> Clock:
    """The clock of one shard's sessions, whose starts and times are known."""
    assert sessions.start is not None
    seconds, counts = np.unique(sessions.start // _MICROSECONDS, return_counts=True)
    times = sessions.time
    return Clock(seconds, counts, int(times.max()) if times is not None and len(times) else None)


def add_clocks(clocks: Iterable[Clock]) -> Clock:
    """The clock of all shards."""
    parts = list(clocks)
    nothing = np.zeros(0, np.int64)
    seconds = np.concatenate([nothing, *(part.seconds for part in parts)])
    counts = np.concatenate([nothing, *(part.sessions for part in parts)])
    distinct, index = np.unique(seconds, return_inverse=True)
    totals = np.bincount(index, weights=counts, minlength=len(distinct)).astype(np.int64)
    return Clock(distinct, totals, latest(*(part.newest for part in parts)))


def latest(*moments: int | None) -> int | None:
    """The latest of the moments that are known."""
    return max((moment for moment in moments if moment is not None), default=None)


def cutoff(clock: Clock, fraction: float) -> float:
    """The start, in microseconds, from which on a session is held out: the latest `fraction`.

    A whole second, so that the sessions of one second are together; no more than the fraction.
    """
    later = np.cumsum(clock.sessions[::-1])[::-1]
    # The small number is for what is a whole one but for rounding.
    allowed = math.floor(fraction * (int(later[0]) if len(later) else 0) + 1e-9)
    fits = np.flatnonzero(later <= allowed)
    return float(clock.seconds[fits[0]] * _MICROSECONDS) if len(fits) else float("inf")


def held_out(sessions: Sessions, config: HoldoutConfig, bound: float) -> np.ndarray:
    """[sessions] bool. bound: by time the cutoff; by hash the draws decide."""
    if config.by == "hash":
        return sessions.draw / 2.0**64 >= 1.0 - config.fraction
    assert sessions.start is not None
    return sessions.start >= bound


def held_out_rows(sessions: Sessions, seed: int) -> pa.Table:
    """HELD_OUT_SCHEMA of sessions that are all held out."""
    order = order_events(sessions, seed)
    session, image = sessions.session[order], sessions.image[order]
    place = positions(session, image)
    if sessions.query is None or sessions.asked is None:
        query, asked = np.zeros(len(order), np.uint64), np.zeros(len(order), bool)
    else:
        query, asked = sessions.query[order], sessions.asked[order]
    rows = _distinct_rows(session, place, query, asked)
    columns = [
        pa.array(sessions.draw[session[rows]]),
        pa.array(place[rows].astype(np.int32)),
        pa.array(sessions.images[image[rows]]),
        pa.array(query[rows], mask=~asked[rows]),
    ]
    return pa.table(columns, schema=HELD_OUT_SCHEMA)


def _distinct_rows(
    session: np.ndarray, place: np.ndarray, query: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    order = order_by(session, place, asked.astype(np.int64), query)
    new = np.zeros(len(order), bool)
    for column in (session, place, asked, query):
        new[run_starts(column[order])] = True
    return order[new]


def holdout_rows(file: int, rows: pa.Table, *, files: int, first: int = 0) -> pa.Table:
    """Held-out rows of one output file as schema.HOLDOUT_SCHEMA, in order.

    rows: draw, position, image_id, query. Sessions are numbered in the order of their draws, over
    all files without collision, from `first` on; nothing of a session's id is left.
    """
    _, number = np.unique(rows["draw"].to_numpy(), return_inverse=True)
    columns = [
        pa.chunked_array([first + number.astype(np.int64) * files + file]),
        rows["position"],
        rows["image_id"],
        rows["query"],
    ]
    table = pa.table(columns, schema=schema.HOLDOUT_SCHEMA)
    return table.sort_by([(name, "ascending") for name in ("session", "position", "query")])
