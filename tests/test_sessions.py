"""Events and sessions: what a session is, and that every event is accounted for."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import SessionsConfig
from pipeline.sessions.events import EVENT_SCHEMA, EventReader
from pipeline.sessions.sessionize import sessionize
from pipeline.tables import EMPTY_REJECTED, Block

MINUTE = 60_000_000


def read(columns, **options):
    table = pa.table(columns)
    block = Block(table, np.arange(1, table.num_rows + 1), EMPTY_REJECTED)
    reader = EventReader("log", b"secret", 0, **options)
    return reader.read(block)


def events(rows):
    """A table of events from (key, cut, minutes, image) with the query 'q'."""
    return pa.table(
        {
            "image_id": [row[3] for row in rows],
            "key": pa.array([row[0] for row in rows], pa.uint64()),
            "cut": [row[1] for row in rows],
            "user": pa.nulls(len(rows), pa.uint64()),
            "time": [round(row[2] * MINUTE) for row in rows],
            "order": [0] * len(rows),
            "query": ["q"] * len(rows),
        }
    ).cast(EVENT_SCHEMA)


def sessions_of(visits):
    """The images of each session, in order."""
    found = {}
    for row in visits.to_pylist():
        if row["first"]:
            found.setdefault(row["session"], []).append(row["image_id"])
    return sorted(found.values())


@pytest.mark.parametrize(
    ("times", "micros"),
    [
        (["1577836800", "1577836801"], 1_577_836_800_000_000),
        ([1577836800123, 1577836801123], 1_577_836_800_123_000),
        ([1577836800123456, 0], 1_577_836_800_123_456),
        (["2020-01-01T00:00:00Z", "2020-01-01T01:00:00+01:00"], 1_577_836_800_000_000),
        (["2020-01-01 00:00:00", "2020-01-02"], 1_577_836_800_000_000),
    ],
)
def test_times_are_read_as_seconds_milliseconds_microseconds_or_iso(times, micros):
    found, rejected = read({"image_id": ["a", "b"], "session_id": ["s", "s"], "timestamp": times})
    assert rejected.num_rows == 0
    assert found["time"][0].as_py() == micros


def test_each_kind_of_bad_row_is_rejected_with_its_reason():
    found, rejected = read(
        {
            "image_id": ["a", "", "b", "c", "x" * 1025, "d\x00", "e"],
            "session_id": ["s", "s", None, None, "s", "s", "s"],
            "user_id": [None, "u", None, "u", "u", "u", "u"],
            "timestamp": ["1", "2", "3", None, "5", "6", "soon"],
        }
    )
    assert found["image_id"].to_pylist() == ["a"]
    assert [(row["row"], row["reason"]) for row in rejected.to_pylist()] == [
        (2, "no image_id"),
        (3, "neither session_id nor user_id"),
        (4, "no timestamp, and no session_id"),
        (5, "image_id is longer than 1024 characters"),
        (6, "image_id holds a NUL or a newline"),
        (7, "bad timestamp"),
    ]


def test_no_user_id_and_no_session_id_leaves_the_reader():
    found, _ = read({"image_id": ["a"], "session_id": ["session-1"], "user_id": ["user-1"]})
    assert "session-1" not in str(found.to_pylist())
    assert "user-1" not in str(found.to_pylist())
    other = EventReader("log", b"another secret", 0)
    block = Block(
        pa.table({"image_id": ["a"], "session_id": ["session-1"], "user_id": ["user-1"]}),
        np.array([1]),
        EMPTY_REJECTED,
    )
    assert other.read(block)[0]["user"] != found["user"]


def test_whole_session_rows_are_unfolded_in_their_order():
    found, rejected = read(
        {"session_id": ["s", "t", "u"], "items": [["b", "a", "b"], [], ["c", ""]]}
    )
    assert found["image_id"].to_pylist() == ["b", "a", "b"]
    assert found["order"].to_pylist() == [0, 1, 2]
    assert [row["reason"] for row in rejected.to_pylist()] == ["items holds an empty id"]


def test_items_of_text_are_parted_by_the_separator():
    found, _ = read({"session_id": ["s"], "items": ["a b|c|d"]}, items_separator="|")
    assert found["image_id"].to_pylist() == ["a b", "c", "d"]


def test_whole_session_rows_without_ids_are_sessions_of_their_own():
    found, _ = read({"items": [["a", "b"], ["a", "c"]]})
    visits, counts = sessionize(found, SessionsConfig(), seed=0)
    assert sessions_of(visits) == [["a", "b"], ["a", "c"]]
    assert counts.sessions == 2


def test_sessions_of_one_user_are_cut_by_pauses_longer_than_the_gap():
    rows = [(1, True, 0, "a"), (1, True, 30, "b"), (1, True, 60.1, "c"), (2, True, 60.1, "d")]
    visits, _ = sessionize(events(rows), SessionsConfig(gap_minutes=30), seed=0)
    assert sessions_of(visits) == [["a", "b"], ["c"], ["d"]]


def test_a_named_session_is_never_cut():
    visits, _ = sessionize(
        events([(1, False, 0, "a"), (1, False, 999, "b")]), SessionsConfig(), seed=0
    )
    assert sessions_of(visits) == [["a", "b"]]


def test_bots_are_left_out_and_long_sessions_keep_their_first_images():
    rows = [(1, False, t, f"bot{t}") for t in range(6)]
    rows += [(2, False, t, image) for t, image in enumerate("abcab")]
    config = SessionsConfig(max_events=5, max_images=2)
    visits, counts = sessionize(events(rows), config, seed=0)
    assert sessions_of(visits) == [["a", "b"]]
    assert (counts.bots, counts.of_bots) == (1, 6)
    assert (counts.beyond_max_images, counts.repeated, counts.visits) == (1, 2, 2)


def test_events_of_equal_time_have_an_order_that_does_not_follow_arrival():
    rows = [(1, False, 5, image) for image in "abcdefgh"]
    one, _ = sessionize(events(rows), SessionsConfig(max_images=3), seed=7)
    other, _ = sessionize(events(rows[::-1]), SessionsConfig(max_images=3), seed=7)
    assert sessions_of(one) == sessions_of(other)


def reference(rows, gap, max_events, max_images):
    """Sessions by plain Python; times are all different."""
    found, last = {}, {}
    for key, cut, time, image in sorted(rows, key=lambda row: (row[0], row[2])):
        number, before = last.get(key, (0, time))
        if cut and time - before > gap:
            number += 1
        last[key] = (number, time)
        found.setdefault((key, number), []).append(image)
    kept = [images for images in found.values() if len(images) <= max_events]
    return sorted(list(dict.fromkeys(images))[:max_images] for images in kept)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 200), st.sampled_from("abcde")), max_size=60
    ),
    st.integers(1, 12),
    st.integers(1, 4),
)
def test_sessions_are_those_of_a_plain_reference(drawn, max_events, max_images):
    # Keys 0 and 1 are users, whose sessions pauses cut; a fraction makes all times different.
    rows = [
        (key, key < 2, minute + index / 1000, image)
        for index, (key, minute, image) in enumerate(drawn)
    ]
    config = SessionsConfig(gap_minutes=30, max_events=max_events, max_images=max_images)
    visits, counts = sessionize(events(rows), config, seed=0)
    assert sessions_of(visits) == reference(rows, 30, max_events, max_images)
    assert counts.events == len(rows)
    assert counts.events == (
        counts.visits + counts.repeated + counts.of_bots + counts.beyond_max_images
    )
