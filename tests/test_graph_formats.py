"""One log in every format, with its times in every unit, gives the same graph byte for byte.

Of each format alone, the events are compared, which is all that a graph is made of; of folders of
many formats, the bytes of the graph.
"""

import datetime
import json

import numpy as np
import pyarrow as pa
import pytest
from small_logs import build, clicks, files, write_log
from test_tables import write

from pipeline.config import SessionsConfig
from pipeline.sessions import read

SETTINGS = {"holdout": 0.2, "min_sessions": 1, "measure": "cosine", "shards": 2}
FIRST, SECOND = "é: 図", 'a "quoted", id'


def event_rows():
    """Rows of named sessions, of users whose pauses cut, and of both; nulls; ids of any kind."""
    rows = clicks(60)
    for number, row in enumerate(rows):
        row["image_id"] = {"image-1": FIRST, "image-2": SECOND}.get(
            row["image_id"], row["image_id"]
        )
        row["position"] = number % 5
        if number % 7 == 0:
            row["query"] = None
        session = int(row["session_id"][8:])
        row["timestamp"] += 1_000 * session  # so that two hours pass before a user comes back
        if session % 3 == 1:
            row["session_id"] = None
            row["user_id"] = f"user-{session % 6}"
        elif session % 3 == 2:
            row["user_id"] = None
    return rows


def moment(seconds, zone=datetime.timezone.utc):
    return datetime.datetime.fromtimestamp(seconds, zone)


EAST = datetime.timezone(datetime.timedelta(hours=2))
TIMES = {
    "seconds": lambda seconds: seconds,
    "milliseconds": lambda seconds: seconds * 1_000,
    "microseconds": lambda seconds: seconds * 1_000_000,
    "fractions": lambda seconds: f"{seconds}.0",
    "zone": lambda seconds: moment(seconds).isoformat().replace("+00:00", "Z"),
    "other zone": lambda seconds: moment(seconds, EAST).isoformat(),
    "no zone": lambda seconds: moment(seconds).replace(tzinfo=None).isoformat(" "),
}
DETECTED = {
    "fractions": "seconds",
    "zone": "ISO 8601",
    "other zone": "ISO 8601",
    "no zone": "ISO 8601",
}


def timed(rows, times):
    return [row | {"timestamp": TIMES[times](row["timestamp"])} for row in rows]


def events(path, **sessions):
    """(events in an order of their own, names, what was detected) of the logs at a path."""
    logs = read.find_logs(SessionsConfig(path=str(path), **sessions))
    separator = sessions.get("items_separator")
    reading = read.Reading(b"k" * 32, 0, separator, {}, 1, np.zeros(0, np.uint64))
    found = {read.EVENTS: [], read.IMAGES: [], read.QUERIES: []}
    for part in read.log_parts(logs.files):
        for block in read.blocks_of(part):
            for kind, (_, rows) in read.read_block(block, reading).outputs:
                found[kind] += map(canonical, rows.to_pylist())
    names = {kind: set(rows) for kind, rows in found.items() if kind != read.EVENTS}
    return sorted(found[read.EVENTS]), names, list(logs.detected())


def canonical(row):
    """A column that a block has no value for may be there or not."""
    given = {name: value for name, value in row.items() if value is not None and value is not False}
    return json.dumps(given, sort_keys=True)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "log.jsonl"
    write_log(path, event_rows())
    return path


@pytest.fixture(scope="module")
def expected(log):
    found = files(build(log.parent / "run", log, **SETTINGS))
    assert len(found) == 4
    return found


@pytest.mark.parametrize(
    ("extension", "times"),
    [
        ("jsonl.gz", "milliseconds"),
        ("jsonl.zst", "microseconds"),
        ("csv", "zone"),
        ("csv.gz", "no zone"),
        ("tsv", "fractions"),
        ("tsv.zst", "other zone"),
        ("avro", "milliseconds"),
        ("tfrecord", "seconds"),
    ],
)
def test_a_log_of_any_format_gives_the_same_events(tmp_path, log, extension, times):
    write(tmp_path / f"log.{extension}", timed(event_rows(), times))
    *found, (detected,) = events(tmp_path / f"log.{extension}")
    assert len(found[0]) == len(event_rows())
    assert found == list(events(log)[:2])
    assert f"timestamp ({DETECTED.get(times, times)})" in detected


def parquet_table(text, times):
    """The rows with text and times of these Arrow types."""
    rows = pa.Table.from_pylist(event_rows())
    for index, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            rows = rows.set_column(index, field.name, rows[field.name].cast(text))
    seconds = rows["timestamp"].cast(pa.timestamp("s", times.tz))
    column = rows.column_names.index("timestamp")
    return rows.set_column(column, "timestamp", seconds.cast(times))


PARQUETS = [
    (pa.string(), pa.timestamp("us"), {"row_group_size": 17}),
    (pa.dictionary(pa.int32(), pa.string()), pa.timestamp("ms", "UTC"), {}),
    (pa.large_string(), pa.timestamp("ns", "Asia/Tokyo"), {"row_group_size": 50}),
]


@pytest.mark.parametrize(("text", "times", "options"), PARQUETS)
def test_parquet_of_any_types_and_row_groups_gives_the_same_events(
    tmp_path, log, text, times, options
):
    write(tmp_path / "log.parquet", parquet_table(text, times), **options)
    *found, (detected,) = events(tmp_path / "log.parquet")
    assert found == list(events(log)[:2])
    assert "timestamp (a column of timestamps)" in detected


THEIRS = {
    "image_id": "photo",
    "session_id": "visit",
    "user_id": "who",
    "timestamp": "when",
    "query": "asked for",
    "position": "place",
}


def test_columns_of_other_names_give_the_same_bytes(tmp_path, expected):
    rows = [{theirs: row[ours] for ours, theirs in THEIRS.items()} for row in event_rows()]
    # Columns that bear our names and mean something else are left alone.
    rows = [row | {"image_id": "trap", "timestamp": "never", "items": ["trap"]} for row in rows]
    write_log(tmp_path / "log.jsonl", rows)
    version = build(
        tmp_path / "run", tmp_path / "log.jsonl", sessions={"columns": THEIRS}, **SETTINGS
    )
    assert files(version) == expected


TEXTS = [
    ("jsonl", "seconds"),
    ("jsonl.gz", "milliseconds"),
    ("jsonl.zst", "microseconds"),
    ("csv", "zone"),
    ("csv.gz", "no zone"),
    ("tsv", "fractions"),
    ("tsv.zst", "other zone"),
    ("avro", "milliseconds"),
]


def test_a_folder_of_formats_of_text_is_one_log(tmp_path, expected):
    rows = event_rows()
    (tmp_path / "logs" / "deep").mkdir(parents=True)
    for number, (extension, times) in enumerate(TEXTS):
        path = tmp_path / "logs" / ("deep" if number % 2 else ".") / f"{number}.{extension}"
        write(path, timed(rows[number :: len(TEXTS)], times))
    version = build(tmp_path / "run", tmp_path / "logs", **SETTINGS)
    assert files(version) == expected
    inputs = version.manifest["inputs"]
    assert inputs["files"] == len(inputs["detected"]) == len(TEXTS)


def test_a_folder_of_formats_of_columns_is_one_log(tmp_path, expected):
    (tmp_path / "logs").mkdir()
    for number, (text, times, options) in enumerate(PARQUETS):
        part = parquet_table(text, times)
        part = part.take(list(range(number, part.num_rows, 4)))
        write(tmp_path / "logs" / f"{number}.parquet", part, **options)
    write(tmp_path / "logs" / "3.tfrecord", timed(event_rows()[3::4], "microseconds"))
    assert files(build(tmp_path / "run", tmp_path / "logs", **SETTINGS)) == expected


# Whole-session rows -------------------------------------------------------------------------------


def session_rows():
    """A row a session, of one image and more, an image twice in some."""
    whole = {}
    for row in clicks(60):
        kept = {name: row[name] for name in ("session_id", "user_id", "timestamp", "query")}
        session = whole.setdefault(row["session_id"], {**kept, "items": []})
        session["items"].append(row["image_id"].replace("image-1", "é | 図"))
    return list(whole.values())


def unfolded(rows):
    """The same as a row an event, at one time, in the order of the positions."""
    for row in rows:
        common = {name: value for name, value in row.items() if name != "items"}
        for place, image in enumerate(row["items"]):
            yield common | {"image_id": image, "position": place}


@pytest.fixture(scope="module")
def unfolded_log(tmp_path_factory):
    rows = list(unfolded(session_rows()))
    rows.reverse()  # positions tell the order
    path = tmp_path_factory.mktemp("sessions") / "log.jsonl"
    write_log(path, rows)
    return path


WHOLE = ["jsonl", "csv", "tsv.zst", "parquet", "avro", "tfrecord"]


def write_sessions(path, rows):
    """Lists as lists; as one text where a format has none."""
    if ".csv" in path.name or ".tsv" in path.name:
        rows = [row | {"items": "||".join(row["items"])} for row in rows]
    write(path, rows)


@pytest.mark.parametrize("extension", WHOLE)
def test_whole_session_rows_give_the_same_events(tmp_path, unfolded_log, extension):
    write_sessions(tmp_path / f"log.{extension}", session_rows())
    *found, (detected,) = events(tmp_path / f"log.{extension}", items_separator="||")
    assert found == list(events(unfolded_log)[:2])
    assert "a row a session" in detected


def test_rows_of_sessions_of_every_format_and_rows_of_events_go_together(tmp_path, unfolded_log):
    rows = session_rows()
    (tmp_path / "logs").mkdir()
    for number, extension in enumerate(WHOLE, 1):
        write_sessions(tmp_path / "logs" / f"{number}.{extension}", rows[number::7])
    write(tmp_path / "logs" / "0.csv", list(unfolded(rows[::7])))
    separator = {"items_separator": "||"}
    together = build(tmp_path / "1", tmp_path / "logs", sessions=separator, **SETTINGS)
    assert files(together) == files(build(tmp_path / "2", unfolded_log, **SETTINGS))
