"""Events to sessions: cut by pauses, bots left out, each image once, the first images kept.

In: all events of a shard's users and sessions. Out: one table of VISIT_SCHEMA, and counts that
account for every event. All work is done by numpy on whole columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columnar import hash_values
from pipeline.config import SessionsConfig

# A row for each (session, image, query); `first` marks one row for each (session, image).
VISIT_SCHEMA = pa.schema(
    [
        ("session", pa.int64()),  # numbered within the shard
        ("draw", pa.uint64()),  # uniform, decides what is held out
        ("start", pa.int64()),  # microseconds, of the session's first event; null without times
        ("user", pa.uint64()),
        ("image_id", pa.string()),
        ("position", pa.int32()),  # place of the image in the session, from 0
        ("query", pa.string()),
        ("first", pa.bool_()),
    ]
)
_NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True)
class SessionCounts:
    """What became of the events: events = visits + repeated + of_bots + beyond_max_images."""

    sessions: int
    sessions_of_one_image: int
    bots: int
    events: int
    visits: int
    repeated: int
    of_bots: int
    beyond_max_images: int


def sessionize(
    events: pa.Table, config: SessionsConfig, *, seed: int
) -> tuple[pa.Table, SessionCounts]:
    """The visits of a shard's sessions, and what became of its events.

    Events of equal time are put in order by their place in the row, then by a hash of the image,
    never by arrival.
    """
    events, session = _order(events, config.gap_minutes, seed)
    sizes = np.bincount(session, minlength=1 if len(session) else 0)
    human = (sizes <= config.max_events)[session]
    kept, session_kept = events.filter(pa.array(human)), session[human]
    visits, beyond = _visits(kept, session_kept, config.max_images)
    distinct = pc.sum(visits["first"]).as_py() or 0
    images = np.unique(visits.filter(visits["first"])["session"].to_numpy(), return_counts=True)[1]
    return visits, SessionCounts(
        sessions=len(images),
        sessions_of_one_image=int((images == 1).sum()),
        bots=int((sizes > config.max_events).sum()),
        events=len(session),
        visits=distinct,
        repeated=int(human.sum()) - distinct - beyond,
        of_bots=int((~human).sum()),
        beyond_max_images=beyond,
    )


def _order(events: pa.Table, gap_minutes: float, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Events session by session, and the running number of each one's session."""
    key = events["key"].to_numpy()
    time = events["time"].fill_null(_NO_TIME).to_numpy()
    tie = hash_values(events["image_id"], salt=f"tie-{seed}")
    order = np.lexsort((tie, events["order"].to_numpy(), time, key))
    key, time = key[order], time[order]
    cut = events["cut"].to_numpy(zero_copy_only=False)[order]
    new = np.ones(len(key), bool)
    pause = np.diff(time) > gap_minutes * 60e6
    new[1:] = (key[1:] != key[:-1]) | (cut[1:] & pause)
    return events.take(pa.array(order)), np.cumsum(new) - 1


def _visits(events: pa.Table, session: np.ndarray, max_images: int) -> tuple[pa.Table, int]:
    """(visits, how many events were of images beyond the first `max_images`)."""
    if events.num_rows == 0:
        return VISIT_SCHEMA.empty_table(), 0
    first_of_image, position = _positions(session, _codes(events["image_id"]))
    within = position < max_images
    # One row for each query under which the image was opened; its first one where it is repeated.
    query = _codes(events["query"])
    pair = np.unique(first_of_image * (query.max() + 1) + query, return_index=True)[1]
    rows = np.sort(pair[within[pair]])
    beyond = int((~within).sum())
    starts = _session_starts(session)
    start = events["time"].take(pa.array(starts[session[rows]]))
    columns = [
        pa.chunked_array([session[rows]]),
        pa.chunked_array([_draws(events, starts)[session[rows]]]),
        start,
        events["user"].take(pa.array(rows)),
        events["image_id"].take(pa.array(rows)),
        pa.chunked_array([position[rows].astype(np.int32)]),
        events["query"].take(pa.array(rows)),
        pa.chunked_array([_first_rows(first_of_image[rows])]),
    ]
    return pa.table(columns, schema=VISIT_SCHEMA), beyond


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """[rows] int64: equal values have equal codes from 0 on; null is a value."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _positions(session: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each event: the first event of its (session, image), and that image's place, from 0."""
    _, first, inverse = np.unique(
        session * (image.max() + 1) + image, return_index=True, return_inverse=True
    )
    first_of_image = first[inverse]
    is_first = np.zeros(len(session), np.int64)
    is_first[first] = 1
    before = np.cumsum(is_first) - is_first
    starts = _session_starts(session)
    return first_of_image, before[first_of_image] - before[starts[session]]


def _session_starts(session: np.ndarray) -> np.ndarray:
    """Index of the first event of each session number; 0 for numbers that have none."""
    starts = np.zeros(int(session[-1]) + 1, np.int64)
    present, first = np.unique(session, return_index=True)
    starts[present] = first
    return starts


def _first_rows(group: np.ndarray) -> np.ndarray:
    """True where a value stands for the first time."""
    mask = np.zeros(len(group), bool)
    mask[np.unique(group, return_index=True)[1]] = True
    return mask


def _draws(events: pa.Table, starts: np.ndarray) -> np.ndarray:
    """A uniform number for each session: of its key, and of its start where pauses cut it."""
    rows = events.select(["key", "time", "cut"]).take(pa.array(starts))
    start = rows["time"].fill_null(0).to_numpy().astype(np.uint64)
    return mix(rows["key"].to_numpy() + np.where(rows["cut"].to_numpy(), start, np.uint64(0)))


def mix(values: np.ndarray) -> np.ndarray:
    """Spreads uint64 numbers evenly: the finalizer of SplitMix64 (Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
