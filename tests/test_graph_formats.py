"""One log in every format, with its times in every unit, gives the same graph byte for byte."""

import datetime

import pyarrow as pa
import pytest
from small_logs import build, clicks, files, write_log
from test_tables import write

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


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    write_log(folder / "log.jsonl", event_rows())
    found = files(build(folder / "run", folder / "log.jsonl", **SETTINGS))
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
def test_a_log_of_any_format_gives_the_same_bytes(tmp_path, expected, extension, times):
    write(tmp_path / f"log.{extension}", timed(event_rows(), times))
    version = build(tmp_path / "run", tmp_path / f"log.{extension}", **SETTINGS)
    assert files(version) == expected
    (detected,) = version.manifest["inputs"]["detected"]
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


@pytest.mark.parametrize(
    ("text", "times", "options"),
    [
        (pa.string(), pa.timestamp("us"), {"row_group_size": 17}),
        (pa.dictionary(pa.int32(), pa.string()), pa.timestamp("ms", "UTC"), {}),
        (pa.large_string(), pa.timestamp("ns", "Asia/Tokyo"), {"row_group_size": 50}),
    ],
)
def test_parquet_of_any_types_and_row_groups_gives_the_same_bytes(
    tmp_path, expected, text, times, options
):
    write(tmp_path / "log.parquet", parquet_table(text, times), **options)
    version = build(tmp_path / "run", tmp_path / "log.parquet", **SETTINGS)
    assert files(version) == expected
    (detected,) = version.manifest["inputs"]["detected"]
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


def test_a_folder_of_many_formats_is_one_log(tmp_path, expected):
    rows = event_rows()
    parts = [
        ("jsonl", "seconds"),
        ("csv.gz", "zone"),
        ("tsv.zst", "milliseconds"),
        ("avro", "microseconds"),
        ("jsonl.zst", "no zone"),
    ]
    (tmp_path / "logs" / "deep").mkdir(parents=True)
    for number, (extension, times) in enumerate(parts):
        path = tmp_path / "logs" / ("deep" if number % 2 else ".") / f"{number}.{extension}"
        write(path, timed(rows[number :: len(parts)], times))
    version = build(tmp_path / "run", tmp_path / "logs", **SETTINGS)
    assert files(version) == expected
    assert version.manifest["inputs"]["files"] == len(version.manifest["inputs"]["detected"]) == 5


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
def expected_of_sessions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    rows = list(unfolded(session_rows()))
    rows.reverse()  # positions tell the order
    write_log(folder / "log.jsonl", rows)
    return files(build(folder / "run", folder / "log.jsonl", **SETTINGS))


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet", "avro", "tfrecord"])
def test_whole_session_rows_give_the_bytes_of_their_events(
    tmp_path, expected_of_sessions, extension
):
    rows, sessions = session_rows(), {}
    if extension == "csv":
        sessions["items_separator"] = "||"
        rows = [row | {"items": "||".join(row["items"])} for row in rows]
    write(tmp_path / f"log.{extension}", rows)
    version = build(tmp_path / "run", tmp_path / f"log.{extension}", sessions=sessions, **SETTINGS)
    assert files(version) == expected_of_sessions
    (detected,) = version.manifest["inputs"]["detected"]
    assert "a row a session" in detected


def test_rows_of_sessions_and_of_events_go_together(tmp_path, expected_of_sessions):
    rows = session_rows()
    write(tmp_path / "logs.parquet", rows[::2])
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs.parquet").rename(tmp_path / "logs" / "a.parquet")
    write(tmp_path / "logs" / "b.csv", list(unfolded(rows[1::2])))
    assert files(build(tmp_path / "run", tmp_path / "logs", **SETTINGS)) == expected_of_sessions
