"""Events and sessions: what a session is, and that every event is accounted for."""

import dataclasses
import functools
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SessionsConfig
from pipeline.errors import ImgembedError
from pipeline.sessions.events import EVENT_SCHEMA, LOG_COLUMNS, EventReader
from pipeline.sessions.read import split_events
from pipeline.sessions.sessionize import sessionize
from pipeline.tables.blocks import EMPTY_REJECTED, Block

GAP = 30
ACTIONS = {"save": 3.3, "hide": 0.1, "click": 1.0}
LOG_TYPES = {"timestamp": pa.int64(), "position": pa.int64()}
# Alike, but not the same: case, combining accents, blanks, other planes, something like a null.
NAMES = ("a", "A", "ä", "a\u0308", " a", "a ", "𝄞", "\U0001f5bc", "null", "0")


def block_of(table):
    return Block(table, np.arange(1, table.num_rows + 1), EMPTY_REJECTED)


def read(columns, *, key=b"secret", seed=0, path="log", **options):
    """The events of a log's columns; times are whole seconds if nothing else is said."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    options.setdefault("time_format", "s")
    return EventReader(path, key, seed, **options).read(block_of(table))


def log_of(rows):
    """A log's table of rows as dicts, an event a row."""
    names = [name for name in LOG_COLUMNS if any(name in row for row in rows)]
    return pa.table(
        {
            name: pa.array([row.get(name) for row in rows], LOG_TYPES.get(name, pa.string()))
            for name in names
        }
    )


def session_rows(session, images, **more):
    """Rows of one named session, a second apart."""
    return [
        {"session_id": session, "image_id": image, "timestamp": second, **more}
        for second, image in enumerate(images)
    ]


def cut_up(rows, *, seed=0, key=b"secret", starts="unknown", **config):
    """(sessions, visits, counts, {hash: image id}) of a log's rows."""
    found = read(log_of(rows), seed=seed, key=key, actions=ACTIONS)
    names = dict(zip(*(found.images[name].to_pylist() for name in ("hash", "text")), strict=True))
    config = SessionsConfig(gap_minutes=GAP, **config)
    return (*sessionize(found.events, config, seed=seed, starts=starts), names)


def described(sessions, visits, names):
    """Of each session: (hash of the user, {image: weight} as sorted pairs)."""
    found = [[] for _ in sessions.draw]
    weights = np.ones(len(visits.image)) if visits.weight is None else visits.weight
    for session, image, weight in zip(visits.session, visits.image, weights, strict=True):
        found[session].append((names[int(sessions.images[image])], float(weight)))
    return [
        (int(user), tuple(sorted(images)))
        for user, images in zip(sessions.user, found, strict=True)
    ]


def images_of(rows, **config):
    """The images of each session, sorted."""
    sessions, visits, _, names = cut_up(rows, **config)
    found = described(sessions, visits, names)
    return sorted([image for image, _ in images] for _, images in found)


# Rows of a log to events.


def test_each_kind_of_bad_row_is_rejected_with_its_reason():
    found = read(
        {
            "image_id": ["a", "", None, "b", "c", "x" * 1025, "d\x00", "d\n", "e", "é" * 1024],
            "session_id": ["s", "s", "s", None, None, "s", "s", "s", "s", "s"],
            "user_id": [None, "u", "u", "", "u", "u", "u", "u", "u", "u"],
            "timestamp": ["1", "2", "2", "3", None, "5", "6", "6", "soon", "7"],
        }
    )
    assert found.images["text"].to_pylist() == ["a", "é" * 1024]
    assert found.events.num_rows == found.rows_kept == 2
    assert [(row["row"], row["reason"]) for row in found.rejected.to_pylist()] == [
        (2, "no image_id"),
        (3, "no image_id"),
        (4, "neither session_id nor user_id"),
        (5, "no timestamp, and no session_id"),
        (6, "image_id is longer than 1024 characters"),
        (7, "image_id holds a NUL or a newline"),
        (8, "image_id holds a NUL or a newline"),
        (9, "bad timestamp"),
    ]


def test_rows_that_the_file_reader_rejected_stay_rejected():
    before = read({"image_id": [""], "session_id": ["s"]}).rejected
    table = pa.table({"image_id": ["a"], "session_id": ["s"]})
    reader = EventReader("log", b"secret", 0)
    assert reader.read(Block(table, np.array([9]), before)).rejected == before


def test_ids_that_differ_in_anything_are_different_images_and_sessions():
    found = read({"image_id": NAMES, "session_id": NAMES, "user_id": NAMES})
    for column in ("image", "key", "user"):
        assert len(set(found.events[column].to_pylist())) == len(NAMES)
    assert sorted(found.images["text"].to_pylist()) == sorted(NAMES)


def test_a_session_is_that_of_its_user_and_an_empty_id_is_none():
    found = read(
        {
            "image_id": ["a"] * 5,
            "session_id": ["s", "s", "s", "s", "t"],
            "user_id": ["u", "v", None, "", "u"],
        }
    )
    of_u, of_v, of_none, of_empty, other = found.events["key"].to_pylist()
    assert of_none == of_empty
    assert len({of_u, of_v, of_none, other}) == 4
    assert found.events["user"].is_null().to_pylist() == [False, False, True, True, False]
    assert "cut" not in found.events.column_names


def test_ids_that_swap_the_roles_of_user_and_session_are_different_sessions():
    found = read(
        {
            "image_id": ["a"] * 4,
            "session_id": ["x", "y", None, "x"],
            "user_id": ["y", "x", "x", None],
            "timestamp": [1, 1, 1, 1],
        }
    )
    assert len(set(found.events["key"].to_pylist())) == 4
    assert found.events["cut"].to_pylist() == [False, False, True, False]


LOG = pa.table(
    {
        "image_id": ["a", "b", None, "a", "", "c"],
        "session_id": ["s", None, "s", "t", "s", "s"],
        "user_id": ["u", "u", "u", None, "v", "v"],
        "timestamp": ["1", "2", "3", None, "5", "x"],
        "query": ["q  1", None, "", "q 1", " q", "z"],
        "action": ["save", None, "click", "none such", "save", "hide"],
        "position": ["1", "-2", "three", None, "5", "6"],
    }
)


def test_what_is_read_does_not_depend_on_how_the_columns_are_stored():
    expected = read(LOG, actions=ACTIONS)
    texts = ("image_id", "session_id", "user_id", "query", "action")
    encoded = LOG
    for name in texts:
        encoded = encoded.set_column(
            encoded.column_names.index(name), name, LOG[name].dictionary_encode()
        )
    longer = pa.concat_tables([LOG.slice(2), LOG, LOG]).combine_chunks()
    shapes = [
        encoded,
        pa.concat_tables([LOG.slice(row, 1) for row in range(LOG.num_rows)]),
        pa.concat_tables([LOG.slice(0, 0), LOG.slice(0, 4), LOG.slice(4)]),
        longer.slice(LOG.num_rows - 2, LOG.num_rows),
        pa.concat_tables([encoded.slice(0, 2), encoded.slice(2)]),
    ]
    for shape in shapes:
        found = read(shape, actions=ACTIONS)
        assert found.events == expected.events
        assert found.rejected == expected.rejected
        for names in ("images", "queries"):
            rows = [
                sorted(map(tuple, map(dict.values, getattr(one, names).to_pylist())))
                for one in (found, expected)
            ]
            assert rows[0] == rows[1]


def test_the_events_of_a_row_hold_its_numbers_and_hashes():
    found = read(LOG, actions=ACTIONS).events
    whole_rows_only = ["row"]
    names = [name for name in EVENT_SCHEMA.names if name not in whole_rows_only]
    assert found.schema == pa.schema([EVENT_SCHEMA.field(name) for name in names])
    assert found["time"].to_pylist() == [1_000_000, 2_000_000, None]
    assert found["order"].to_pylist() == [1, -2, None]
    assert found["weight"].to_pylist() == [3.3, 1.0, 1.0]
    assert found["cut"].to_pylist() == [False, True, False]
    query, image = found["query"].to_pylist(), found["image"].to_pylist()
    assert (query[0], query[1]) == (query[2], None)  # white space is folded
    assert image[0] == image[2] != image[1]


def test_columns_that_are_null_throughout_are_as_if_they_were_not_there():
    nulls = pa.nulls(2)
    columns = {"image_id": ["a", "b"], "session_id": ["s", "s"]}
    found = read({**columns, "user_id": nulls, "query": nulls, "action": nulls, "timestamp": nulls})
    expected = read(columns).events
    assert found.events.select(expected.column_names) == expected
    assert "user" not in found.events.column_names
    assert found.queries.num_rows == found.rejected.num_rows == 0


def test_a_log_without_rows_has_no_events_and_no_sessions():
    found = read({name: pa.array([], pa.string()) for name in LOG_COLUMNS if name != "items"})
    assert (found.events.num_rows, found.rejected.num_rows, found.rows_kept) == (0, 0, 0)
    sessions, visits, counts = sessionize(found.events, SessionsConfig(), seed=0)
    assert len(sessions.draw) == len(visits.image) == 0
    assert set(dataclasses.asdict(counts).values()) == {0}


@pytest.mark.parametrize(
    "text", ["a b", " a  b ", "a\tb", "a\r\nb", "a\fb\n", "a\vb", "a\x85b", "a\u00a0\u3000b"]
)
def test_white_space_in_queries_is_folded(text):
    columns = {"image_id": ["x"], "session_id": ["s"]}
    assert read({**columns, "query": [text]}).queries["text"].to_pylist() == ["a b"]


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u2003\u00a0"])
def test_a_query_of_white_space_is_none(text):
    found = read({"image_id": ["x"], "session_id": ["s"], "query": [text]})
    assert found.queries.num_rows == 0
    assert found.events["query"].to_pylist() == [None]


def test_no_user_id_and_no_session_id_leaves_the_reader():
    ids = ["visitor-4711", "gast-ä", "session-0815", "sitzung-ü"]
    found = read(
        {
            "image_id": ["a", "b", "", "d"],
            "user_id": [ids[0], ids[1], ids[0], ids[1]],
            "session_id": [ids[2], ids[3], ids[2], ids[3]],
            "timestamp": ["1", "2", "3", "never"],
        }
    )
    assert (found.events.num_rows, found.rejected.num_rows) == (2, 2)
    for table in (found.events, found.images, found.queries, found.rejected):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        written = sink.getvalue().to_pybytes()
        assert not [name for name in ids if name.encode() in written]
        assert not [name for name in ids if name in str(table.to_pylist())]


def test_draws_do_not_depend_on_the_secret_key_but_hashes_of_users_do():
    rows = [
        *session_rows("s", "ab", user_id="u"),
        {"user_id": "u", "image_id": "c", "timestamp": 9},
        {"session_id": "t", "image_id": "c"},
    ]
    one, other = (cut_up(rows, key=key)[0] for key in (b"one", b"other"))
    assert one.draw.tolist() == other.draw.tolist()
    known = one.user != 0
    assert known.sum() == 2
    assert not np.isin(one.user[known], other.user).any()
    assert not np.isin(cut_up(rows, seed=1)[0].draw, one.draw).any()


def test_hashes_of_users_and_of_sessions_have_nothing_in_common():
    rows = [{"user_id": name, "session_id": name, "image_id": name} for name in NAMES]
    events = read(log_of(rows)).events
    columns = [set(events[name].to_pylist()) for name in ("image", "key", "user")]
    assert len(set.union(*columns)) == 3 * len(NAMES)


def test_positions_of_text_may_have_a_sign():
    found = read({"image_id": list("abc"), "session_id": ["s"] * 3, "position": ["+5", "-3", "x"]})
    assert found.events["order"].to_pylist() == [5, -3, None]


# Whole-session rows.


def test_whole_session_rows_are_unfolded_in_their_order():
    found = read(
        {
            "session_id": ["s", "t", "u", "v", "s"],
            "items": [["b", "a", "b"], [], ["c", ""], None, ["c", None]],
        }
    )
    names = dict(zip(*(found.images[name].to_pylist() for name in ("hash", "text")), strict=True))
    assert [names[image] for image in found.events["image"].to_pylist()] == ["b", "a", "b"]
    assert found.events["order"].to_pylist() == [0, 1, 2]
    assert [(row["row"], row["reason"]) for row in found.rejected.to_pylist()] == [
        (3, "items holds an empty id"),
        (5, "items holds an empty id"),
    ]
    assert found.rows_kept == 1


@pytest.mark.parametrize("separator", ["|", ", ", "."])
def test_items_of_text_are_parted_by_the_separator(separator):
    items = [separator.join(["a b", "c", "a b"]), None, "d", f"e{separator}"]
    found = read({"session_id": ["s", "t", "u", "v"], "items": items}, items_separator=separator)
    assert found.images["text"].to_pylist() == ["a b", "c", "d"]
    assert found.events["order"].to_pylist() == [0, 1, 2, 0]
    assert [row["row"] for row in found.rejected.to_pylist()] == [4]


def test_items_of_text_without_a_separator_are_one_image_a_row():
    found = read({"session_id": ["s", "t", "u", "v"], "items": ["a|b", None, "", "c"]})
    assert found.images["text"].to_pylist() == ["a|b", "c"]
    assert [row["row"] for row in found.rejected.to_pylist()] == [3]


def test_whole_session_rows_without_ids_are_sessions_of_their_own():
    one, other = (read({"items": [["a", "b"], ["a", "c"]]}, path=path) for path in ("one", "other"))
    events = pa.concat_tables([one.events, other.events])
    sessions, visits, counts = sessionize(events, SessionsConfig(), seed=0)
    assert counts.sessions == 4
    assert np.bincount(visits.session).tolist() == [2] * 4
    assert len(set(sessions.draw.tolist())) == 4
    # Their draws follow from what they hold, wherever they stand.
    again = pa.concat_tables([read({"items": [["a", "c"], ["a", "b"]] * 2}, path="third").events])
    assert sorted(sessionize(again, SessionsConfig(), seed=0)[0].draw) == sorted(sessions.draw)


def test_whole_session_rows_of_one_session_are_one_session():
    found = read({"session_id": ["s", "t", "s"], "items": [["a"], ["b"], ["c"]]})
    first, second, third = found.events["key"].to_pylist()
    assert first == third != second


def test_whole_session_rows_of_one_user_without_time_are_sessions_of_their_own():
    found = read({"user_id": ["u", "u"], "items": [["a", "b"], ["c"]]})
    _, visits, counts = sessionize(found.events, SessionsConfig(), seed=0)
    assert counts.sessions == 2
    assert sorted(np.bincount(visits.session)) == [1, 2]


def test_whole_session_rows_of_one_user_far_apart_are_two_sessions():
    found = read({"user_id": ["u", "u"], "timestamp": [0, 99_999], "items": [["a", "b"], ["c"]]})
    _, visits, counts = sessionize(found.events, SessionsConfig(), seed=0)
    assert counts.sessions == 2
    assert sorted(np.bincount(visits.session)) == [1, 2]


def test_a_sliced_list_column_is_unfolded_like_any_other():
    lists = pa.array([["x"], None, ["a", "b"], [], ["c"]])
    table = pa.table({"session_id": list("vwstu"), "items": lists})
    sliced = read(table.slice(2))
    expected = read({"session_id": list("stu"), "items": [["a", "b"], [], ["c"]]})
    assert sliced.events == expected.events


# Sessions.


def test_sessions_of_one_user_are_cut_by_pauses_longer_than_the_gap():
    minutes = [(0, "a"), (30, "b"), (60, "c"), (90 + 1 / 60, "d")]
    rows = [
        {"user_id": "u", "image_id": image, "timestamp": round(minute * 60)}
        for minute, image in minutes
    ]
    assert images_of(rows) == [["a", "b", "c"], ["d"]]
    assert images_of(rows[::-1]) == [["a", "b", "c"], ["d"]]


def test_pauses_of_one_user_do_not_cut_the_sessions_of_another():
    rows = [
        {"user_id": user, "image_id": user + str(minute), "timestamp": minute * 60}
        for user, minutes in (("u", (0, 20, 40, 60)), ("v", (10, 50)))
        for minute in minutes
    ]
    assert images_of(rows) == [["u0", "u20", "u40", "u60"], ["v10"], ["v50"]]


def test_a_named_session_is_never_cut_nor_joined_with_what_has_no_name():
    rows = [
        {"user_id": "u", "session_id": "s", "image_id": "a", "timestamp": 0},
        {"user_id": "u", "session_id": "s", "image_id": "b", "timestamp": 999_999},
        {"user_id": "u", "image_id": "c", "timestamp": 1},
        {"user_id": "u", "session_id": "s", "image_id": "d"},
    ]
    assert images_of(rows) == [["a", "b", "d"], ["c"]]


def test_bots_are_left_out_and_long_sessions_keep_their_first_images():
    rows = session_rows("bot", "123456") + session_rows("person", "abcab")
    sessions, visits, counts, names = cut_up(rows, max_events=5, max_images=2)
    assert described(sessions, visits, names) == [(0, (("a", 1.0), ("b", 1.0)))]
    assert (counts.bots, counts.of_bots, counts.events) == (1, 6, 11)
    assert (counts.beyond_max_images, counts.repeated, counts.visits) == (1, 2, 2)


def test_one_giant_session_is_a_bot_and_else_keeps_its_first_images():
    rows = session_rows("giant", [f"image-{second % 4000}" for second in range(20_000)])
    random.Random(0).shuffle(rows)
    rows += session_rows("small", "ab")
    assert images_of(rows) == [["a", "b"]]
    first = sorted(f"image-{second}" for second in range(50))
    assert sorted(images_of(rows, max_events=20_000)) == [["a", "b"], first]


def test_the_first_images_are_those_of_the_log_s_positions_where_times_are_equal():
    rows = [
        {"session_id": "s", "image_id": image, "timestamp": 5, "position": position}
        for image, position in (("a", 3), ("b", -1), ("c", 2), ("d", 10), ("e", 0))
    ]
    assert images_of(rows, max_images=2) == [["b", "e"]]
    rows[3]["timestamp"] = 4
    assert images_of(rows, max_images=2) == [["b", "d"]]


def test_events_of_equal_time_have_an_order_that_follows_the_seed_and_not_arrival_or_ids():
    rows = [{"session_id": "s", "image_id": image, "timestamp": 5} for image in "abcdefgh"]
    found = [images_of(rows, max_images=3, seed=seed) for seed in range(40)]
    for seed in range(40):
        assert images_of(rows[::-1], max_images=3, seed=seed) == found[seed]
    times_kept = Counter(image for ((*images,),) in found for image in images)
    # 40 draws of 3 of 8: 15 each, with a standard deviation of 3.1.
    assert set(times_kept) == set("abcdefgh")
    assert max(times_kept.values()) <= 28


def test_the_strongest_action_on_an_image_counts():
    rows = session_rows("s", "ab", action="hide") + session_rows("s", "a", action="save")
    rows += session_rows("s", "ac", action="click") + session_rows("s", "b", action="unheard of")
    rows += session_rows("t", "d", action="hide")
    sessions, visits, _, names = cut_up(rows)
    assert described(sessions, visits, names) == [
        (0, (("a", 3.3), ("b", 1.0), ("c", 1.0))),
        (0, (("d", 0.1),)),
    ]


def test_a_session_starts_with_its_first_event_whichever_images_are_kept():
    rows = [
        *(
            {"session_id": "s", "image_id": image, "timestamp": 7 - i}
            for i, image in enumerate("ab")
        ),
        {"user_id": "u", "image_id": "c", "timestamp": -9},
    ]
    for starts in ("wanted", "needed"):
        sessions, *_ = cut_up(rows, starts=starts, max_images=1)
        assert sorted(sessions.start.tolist()) == [-9_000_000, 6_000_000]
    assert cut_up(rows)[0].start is None


def test_without_a_time_in_every_row_starts_are_left_out_or_asked_for():
    for rows in (
        [{"session_id": "s", "image_id": "a"}],
        [*session_rows("s", "a"), {"session_id": "t", "image_id": "a"}],
    ):
        assert cut_up(rows, starts="wanted")[0].start is None
        with pytest.raises(ImgembedError, match="need a timestamp in every row"):
            cut_up(rows, starts="needed")


def test_so_many_sessions_of_a_user_count_and_all_of_those_without_a_user():
    rows = [
        row
        for number in range(20)
        for user in ("u", "v", None)
        for row in session_rows(f"s{number}", [f"{user}{number}", "x"], user_id=user)
    ]
    sessions, visits, counts, names = cut_up(rows, max_sessions_per_user=3)
    assert sorted(Counter(sessions.user.tolist()).values()) == [3, 3, 20]
    assert Counter(sessions.user.tolist())[0] == 20
    assert (counts.sessions_beyond_user_limit, counts.beyond_max_sessions) == (34, 68)
    assert counts.sessions == 26
    again = cut_up(rows[::-1], max_sessions_per_user=3)
    assert Counter(described(again[0], again[1], again[3])) == Counter(
        described(sessions, visits, names)
    )
    drawn = {
        image for ((_, images),) in zip(described(sessions, visits, names)) for image in images
    }
    kept = {name[1:] for (name, _) in drawn if name.startswith(("u", "v"))}
    assert kept != {"0", "1", "2"}
    assert kept != {"17", "18", "19"}


def test_a_log_without_times_has_sessions_though_a_row_names_none():
    rows = [{"session_id": "s", "image_id": "a"}, {"session_id": "", "image_id": "b"}]
    assert images_of(rows) == [["a"]]


def test_a_log_whose_parts_name_their_sessions_or_do_not_has_the_sessions_of_both():
    columns = {"image_id": ["a"], "user_id": ["u"], "timestamp": [1]}
    parts = [read(columns).events, read({**columns, "session_id": ["s"]}).events]
    for events in (parts, parts[::-1]):
        table = pa.concat_tables(events, promote_options="default")
        assert sessionize(table, SessionsConfig(), seed=0)[2].sessions == 2


# All of it against a plain reference.


@dataclasses.dataclass
class Expected:
    """A session as the reference has it."""

    user: str | None
    events: list

    def first_images(self, limit, ties):
        """The images seen first: by time, events without one before all, then by position."""

        def place(row):
            time = -math.inf if row["timestamp"] is None else row["timestamp"]
            return time, row["position"] or 0, ties.index(row["image_id"])

        ordered = [row["image_id"] for row in sorted(self.events, key=place)]
        return list(dict.fromkeys(ordered))[:limit]

    @property
    def weights(self):
        """{image: weight of the strongest action}."""
        weights = defaultdict(float)
        for row in self.events:
            weight = ACTIONS.get(row["action"], 1.0)
            weights[row["image_id"]] = max(weights[row["image_id"]], weight)
        return dict(weights)


def reference_sessions(rows):
    """All sessions of a log, before anything is left out."""
    named, of_users = defaultdict(list), defaultdict(list)
    for row in rows:
        if not row["image_id"]:
            continue
        user, session = row["user_id"] or None, row["session_id"] or None
        if session:
            named[user, session].append(row)
        elif user and row["timestamp"] is not None:
            of_users[user].append(row)
    found = [Expected(user, events) for (user, _), events in named.items()]
    for user, events in of_users.items():
        events.sort(key=lambda row: row["timestamp"])
        for before, row in zip([None, *events], events):  # noqa: B905 - one longer
            if before is None or row["timestamp"] - before["timestamp"] > GAP * 60:
                found.append(Expected(user, []))
            found[-1].events.append(row)
    return found


IMAGES = ("a", "A", "ä", "a\u0308", "\U0001f5bc", "b", "", None)
a_row = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from(IMAGES),
        "session_id": st.sampled_from((None, None, "", "s", "S", "ß")),
        "user_id": st.sampled_from((None, "", "u", "U", "ü")),
        # Minutes around the gap, many of them equal, out of order.
        "timestamp": st.sampled_from((None, 0, 0, 60, 1800, 1801, 3600, 3601, 5402, -1801, 10**9)),
        "position": st.sampled_from((None, 0, 1, -1)),
        "action": st.sampled_from((None, "save", "hide", "other")),
    }
)


@functools.cache
def tie_order(seed):
    """The images in the order in which the seed puts those of equal time, as one session shows."""
    images = [image for image in IMAGES if image]
    rows = [{"session_id": "s", "image_id": image} for image in images]
    order = []
    for number in range(1, len(images) + 1):
        ((*kept,),) = images_of(rows, seed=seed, max_images=number)
        order += [image for image in kept if image not in order]
        assert len(order) == number
    return order


@functools.cache
def user_hash(user, seed):
    if user is None:
        return 0
    columns = {"image_id": ["a"], "session_id": ["s"], "user_id": [user]}
    return read(columns, seed=seed).events["user"][0].as_py()


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(a_row, min_size=1, max_size=40),
    max_events=st.integers(1, 12),
    max_images=st.integers(1, 4),
    seed=st.integers(0, 3),
    shuffle=st.randoms(use_true_random=False),
)
def test_sessions_are_those_of_a_plain_reference(rows, max_events, max_images, seed, shuffle):
    config = {"max_events": max_events, "max_images": max_images, "seed": seed}
    sessions, visits, counts, names = cut_up(rows, **config)

    everything = reference_sessions(rows)
    people = [session for session in everything if len(session.events) <= max_events]
    kept = [session.first_images(max_images, tie_order(seed)) for session in people]
    expected = Counter(
        (
            user_hash(session.user, seed),
            tuple(sorted((image, session.weights[image]) for image in images)),
        )
        for session, images in zip(people, kept, strict=True)
    )
    assert Counter(described(sessions, visits, names)) == expected
    of_people = sum(len(session.events) for session in people)
    within = sum(
        row["image_id"] in images
        for session, images in zip(people, kept, strict=True)
        for row in session.events
    )
    events = sum(len(session.events) for session in everything)
    assert dataclasses.asdict(counts) == {
        "sessions": len(people),
        "sessions_of_one_image": sum(len(images) == 1 for images in kept),
        "bots": len(everything) - len(people),
        "sessions_beyond_user_limit": 0,
        "events": events,
        "visits": sum(len(images) for images in kept),
        "repeated": within - sum(len(images) for images in kept),
        "of_bots": events - of_people,
        "beyond_max_images": of_people - within,
        "beyond_max_sessions": 0,
    }

    shuffled = shuffle.sample(rows, len(rows))
    again, visits_again, counts_again, _ = cut_up(shuffled, **config)
    assert Counter(described(again, visits_again, names)) == expected
    assert counts_again == counts
    assert sorted(again.draw.tolist()) == sorted(sessions.draw.tolist())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(a_row, min_size=1, max_size=40),
    limit=st.integers(1, 3),
    max_events=st.integers(1, 6),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_sessions_of_a_user_that_count_are_some_of_the_sessions_of_people(
    rows, limit, max_events, shuffle
):
    config = {"max_events": max_events}
    every, every_visits, _, names = cut_up(rows, **config)
    all_sessions = Counter(described(every, every_visits, names))
    config["max_sessions_per_user"] = limit
    sessions, visits, counts, _ = cut_up(rows, **config)
    found = Counter(described(sessions, visits, names))
    assert found <= all_sessions
    of_user, all_of_user = (Counter(one.user.tolist()) for one in (sessions, every))
    assert of_user == {user: n if not user else min(n, limit) for user, n in all_of_user.items()}
    assert counts.sessions_beyond_user_limit == all_sessions.total() - found.total()
    assert counts.events == (
        counts.visits
        + counts.repeated
        + counts.of_bots
        + counts.beyond_max_images
        + counts.beyond_max_sessions
    )
    again, visits_again, counts_again, _ = cut_up(shuffle.sample(rows, len(rows)), **config)
    assert Counter(described(again, visits_again, names)) == found
    assert counts_again == counts


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(a_row, min_size=1, max_size=40), shards=st.integers(1, 7))
def test_sessions_do_not_depend_on_the_shards_nor_on_how_a_log_is_split(rows, shards):
    sessions, visits, counts, names = cut_up(rows, max_images=2, max_sessions_per_user=2)
    config = SessionsConfig(gap_minutes=GAP, max_images=2, max_sessions_per_user=2)
    parts = defaultdict(list)
    for half in (rows[::2], rows[1::2]):
        if half:
            events = read(log_of(half), actions=ACTIONS).events
            for shard, table in split_events(events, shards=shards):
                parts[shard].append(table)
    found, totals = Counter(), Counter()
    for tables in parts.values():
        table = pa.concat_tables(tables, promote_options="default")
        part, part_visits, part_counts = sessionize(table, config, seed=0)
        found.update(described(part, part_visits, names))
        totals.update(dataclasses.asdict(part_counts))
    assert found == Counter(described(sessions, visits, names))
    assert totals == Counter(dataclasses.asdict(counts))


# Sessions and visits, some of them.


def test_some_of_the_sessions_are_numbered_anew_with_their_own_events_and_visits():
    rows = [
        row
        for number, images in enumerate(("ab", "c", "bd", "aa"))
        for row in session_rows(f"s{number}", images, user_id=f"u{number}", query=f"q{number}")
    ]
    sessions, visits, _, names = cut_up(rows, starts="needed")
    kept = np.array([True, False, True, False])
    some, some_visits = sessions.of_sessions(kept), visits.of_sessions(kept)
    expected = [one for one, keep in zip(described(sessions, visits, names), kept) if keep]  # noqa: B905
    assert described(some, some_visits, names) == expected
    assert some.session.tolist() == [0, 0, 1, 1]
    for name in ("user", "draw", "start"):
        assert getattr(some, name).tolist() == getattr(sessions, name)[kept].tolist()
    for name in ("image", "time", "query", "asked"):
        assert (
            getattr(some, name).tolist() == getattr(sessions, name)[kept[sessions.session]].tolist()
        )
    nothing = sessions.of_sessions(np.zeros(4, bool))
    assert len(nothing.draw) == len(nothing.session) == 0
