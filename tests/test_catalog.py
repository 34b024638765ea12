"""Catalogs of every format are read alike; what cannot be read is rejected with file and row."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_tables import write

from pipeline import storage
from pipeline.config import ImagesConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.examples.catalog import rows as reasons
from pipeline.examples.catalog.find import input_files, inspect
from pipeline.examples.catalog.read import read_task
from pipeline.examples.catalog.rows import CATALOG_SCHEMA
from pipeline.schema import REJECTED_SCHEMA

ROWS = [
    {"image_id": "a", "uri": "p/a.png", "label": "cat", "text": "one", "split": "train"},
    {"image_id": "b,\t'ü", "uri": "/abs/b.png", "label": None, "text": None, "split": None},
    {"image_id": "7", "uri": "gs://bucket/c.png", "label": "3", "text": "two", "split": "Dev"},
]
FORMATS = ("jsonl", "csv", "tsv", "parquet", "avro", "tfrecord")
COMPRESSED = ("jsonl.gz", "csv.zst", "tsv.gz", "avro.gz", "tfrecord.zst")
OBJECTS = ("jsonl", "parquet", "avro", "tfrecord")  # formats with lists


def write_lines(path: Path, rows: list) -> Path:
    """JSONL of rows, and of lines as they are."""
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def blocks_of(path: Path | str, **options: object) -> list:
    found = inspect(ImagesConfig(path=str(path), **options))
    blocks = [block for task in found.tasks for block in read_task(task)]
    for block in blocks:
        assert block.table.schema == CATALOG_SCHEMA
        assert block.rejected.schema == REJECTED_SCHEMA
    return blocks


def read(path: Path | str, **options: object) -> tuple[list[dict], list[dict]]:
    """(rows, rejected rows) of a catalog."""
    blocks = blocks_of(path, **options)
    rows = [row for block in blocks for row in block.table.to_pylist()]
    return rows, [row for block in blocks for row in block.rejected.to_pylist()]


def values(rows: list[dict], name: str) -> list:
    return [row[name] for row in rows]


def avro_bytes(path: Path, rows: list[dict], **types: object) -> Path:
    import fastavro

    fields = [{"name": name, "type": ["null", type_]} for name, type_ in types.items()]
    schema = fastavro.parse_schema({"type": "record", "name": "row", "fields": fields})
    with path.open("wb") as file:
        fastavro.writer(file, schema, rows)
    return path


@pytest.mark.parametrize("extension", [*FORMATS, *COMPRESSED])
@pytest.mark.parametrize("named", [True, False], ids=["by extension", "by content"])
def test_every_format_gives_the_same_rows(tmp_path, extension, named):
    path = write(tmp_path / f"c.{extension}", ROWS)
    if not named:
        path = path.rename(tmp_path / "catalog")
    rows, rejected = read(path)
    assert rejected == []
    assert values(rows, "image_id") == ["a", "b,\t'ü", "7"]
    assert values(rows, "uri") == [str(tmp_path / "p/a.png"), "/abs/b.png", "gs://bucket/c.png"]
    assert values(rows, "label") == [["cat"], None, ["3"]]
    assert values(rows, "text") == [["one"], None, ["two"]]
    assert values(rows, "split") == ["train", None, "validation"]
    assert values(rows, "row") == [1, 2, 3]
    assert set(values(rows, "file")) == {str(path)}
    assert values(rows, "group") == values(rows, "image") == values(rows, "features") == [None] * 3


@pytest.mark.parametrize("extension", OBJECTS)
def test_labels_and_texts_may_be_several(tmp_path, extension):
    content = [
        {"image_id": "a", "uri": "u", "label": ["x", " y ", "x", ""], "text": ["one", " two "]},
        {"image_id": "b", "uri": "u", "label": ["z"], "text": ["three"]},
        {"image_id": "c", "uri": "u", "label": [" "], "text": [""]},
    ]
    rows, rejected = read(write(tmp_path / f"c.{extension}", content))
    assert rejected == []
    assert values(rows, "label") == [["x", "y"], ["z"], None]
    assert values(rows, "text") == [["one", "two"], ["three"], None]


@pytest.mark.parametrize("extension", OBJECTS)
def test_numbers_are_labels_and_ids_as_their_digits(tmp_path, extension):
    content = [{"image_id": 12, "uri": "u", "label": [7, 3, 7], "group": 5}]
    rows, _ = read(write(tmp_path / f"c.{extension}", content * 2))
    assert rows[0]["image_id"] == "12"
    assert (rows[0]["label"], rows[0]["group"]) == (["7", "3"], "5")


def test_whole_floats_and_nan_are_what_data_frames_make_of_numbers_with_gaps(tmp_path):
    table = pa.table(
        {"image_id": [1.0, 2.0], "uri": ["u", "v"], "label": [float("nan"), 4.0], "x": [1, 2]}
    )
    pq.write_table(table, tmp_path / "c.parquet")
    rows, rejected = read(tmp_path / "c.parquet")
    assert rejected == []
    assert values(rows, "image_id") == ["1", "2"]
    assert values(rows, "label") == [None, ["4"]]


def test_values_of_several_kinds(tmp_path):
    path = write_lines(
        tmp_path / "c.jsonl",
        [
            {"image_id": "a", "uri": "u", "label": 3, "text": ["x", "", None, " y "]},
            "\n",
            {"image_id": "b", "uri": "u", "label": " ", "text": [], "split": ""},
            {"image_id": 5, "uri": "u", "label": [4.0, "x", None], "text": "two\nlines"},
            {"image_id": 2**64, "uri": "u", "label": [], "split": " TESTING ", "group": " g "},
        ],
    )
    rows, rejected = read(path)
    assert [row["reason"] for row in rejected] == [reasons.BAD_ID]  # JSON has it as a float
    assert values(rows, "label") == [["3"], None, ["4", "x"]]
    assert values(rows, "text") == [["x", "y"], None, ["two\nlines"]]
    assert values(rows, "row") == [1, 3, 4]


@pytest.mark.parametrize(
    ("given", "split"),
    [
        *(
            ("train", "train"),
            ("Training", "train"),
            ("val", "validation"),
            ("VALID", "validation"),
        ),
        *(
            ("dev", "validation"),
            ("validation", "validation"),
            ("test", "test"),
            (" testing", "test"),
        ),
    ],
)
def test_splits_have_many_names(tmp_path, given, split):
    rows, _ = read(write_lines(tmp_path / "c.jsonl", [{"image_id": 1, "uri": "u", "split": given}]))
    assert rows[0]["split"] == split


def test_columns_are_mapped(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [{"photo": 12, "where": "x.png", "seller": "s"}])
    columns = {"image_id": "photo", "uri": "where", "group": "seller"}
    rows, _ = read(path, columns=columns)
    assert (rows[0]["image_id"], rows[0]["group"]) == ("12", "s")
    assert rows[0]["uri"] == str(tmp_path / "x.png")


@pytest.mark.parametrize("extension", ["jsonl", "tfrecord"])
def test_keys_that_first_appear_late_are_read(tmp_path, extension):
    content = [{"image_id": str(i), "uri": "u"} for i in range(1500)]
    content.append({"image_id": "z", "uri": "u", "label": "x"})
    rows, _ = read(write(tmp_path / f"c.{extension}", content))
    assert rows[-1]["label"] == ["x"]


BAD_ROWS = [
    ('{"image_id": "x", "uri": \n', "not a JSON object"),
    ('["a"]\n', "not a JSON object"),
    ({"uri": "u"}, reasons.NO_ID),
    ({"image_id": "", "uri": "u"}, reasons.NO_ID),
    ({"image_id": "a\nb", "uri": "u"}, reasons.BAD_ID),
    ({"image_id": "a\0b", "uri": "u"}, reasons.BAD_ID),
    ({"image_id": True, "uri": "u"}, reasons.BAD_ID),
    ({"image_id": 1.5, "uri": "u"}, reasons.BAD_ID),
    ({"image_id": ["x"], "uri": "u"}, reasons.BAD_ID),
    ({"image_id": "x"}, reasons.NO_CONTENT["image"]),
    ({"image_id": "x", "uri": ""}, reasons.NO_CONTENT["image"]),
    ({"image_id": "x", "uri": 3}, reasons.BAD_URI),
    ({"image_id": "x", "uri": "a\0b"}, reasons.BAD_URI),
    ({"image_id": "x", "uri": "u", "label": 1.5}, reasons.BAD_LABEL),
    ({"image_id": "x", "uri": "u", "label": True}, reasons.BAD_LABEL),
    ({"image_id": "x", "uri": "u", "label": ["a", "b\nc"]}, reasons.BAD_LABEL),
    ({"image_id": "x", "uri": "u", "label": ["a", ["b"]]}, reasons.BAD_LABEL),
    ({"image_id": "x", "uri": "u", "label": {"a": 1}}, reasons.BAD_LABEL),
    ({"image_id": "x", "uri": "u", "text": {"a": 1}}, reasons.BAD_TEXT),
    ({"image_id": "x", "uri": "u", "text": [1]}, reasons.BAD_TEXT),
    ({"image_id": "x", "uri": "u", "split": "eval"}, reasons.BAD_SPLIT),
    ({"image_id": "x", "uri": "u", "split": 1.5}, reasons.BAD_SPLIT),
    ({"image_id": "x", "uri": "u", "group": [1]}, reasons.BAD_GROUP),
]


def test_bad_rows_are_rejected_with_file_row_reason_and_content(tmp_path):
    good = {"image_id": "good", "uri": "u"}
    path = write_lines(tmp_path / "c.jsonl", [good, *(row for row, _ in BAD_ROWS), good])
    rows, rejected = read(path)
    assert values(rows, "row") == [1, len(BAD_ROWS) + 2]
    assert values(rejected, "reason") == [reason for _, reason in BAD_ROWS]
    assert values(rejected, "row") == list(range(2, len(BAD_ROWS) + 2))
    assert set(values(rejected, "file")) == {str(path)}
    assert rejected[3]["content"] == '{"image_id":"","uri":"u"}'


@pytest.mark.parametrize("row", [row for row, _ in BAD_ROWS if isinstance(row, dict)])
def test_a_row_is_bad_whatever_stands_beside_it(tmp_path, row):
    good = [{"image_id": name, "uri": "u"} for name in ("good", 5)]
    path = write_lines(tmp_path / "c.jsonl", [*good[:1], *[{**row, "x": 1}] * 2])
    rows, rejected = read(path)
    assert (len(rows), len(rejected)) == (1, 2)
    rows, rejected = read(write_lines(tmp_path / "c.jsonl", [*good, row]))
    assert (len(rows), len(rejected)) == (2, 1)


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path):
    ids, uris = pa.array([b"a", b"\xff", b"c"]), pa.array(["u"] * 3)
    pq.write_table(pa.table({"image_id": ids, "uri": uris}), tmp_path / "c.parquet")
    rows, rejected = read(tmp_path / "c.parquet")
    assert values(rows, "image_id") == ["a", "c"]
    assert values(rejected, "reason") == [reasons.BAD_ID]


# Bytes --------------------------------------------------------------------------------------------

# The last one is text, and stays bytes all the same.
PICTURES = [b"\x89PNG\0\xff", b"\xff\xd8\xff\n", b"plain text"]


def with_bytes(folder: Path, extension: str) -> Path:
    rows = [
        {"image_id": str(i), "image": data, "label": f"l{i}"} for i, data in enumerate(PICTURES)
    ]
    rows.append({"image_id": "none", "image": None, "label": "x"})
    path = folder / f"c.{extension}"
    if extension == "avro":
        return avro_bytes(path, rows, image_id="string", image="bytes", label="string")
    return write(path, rows)


@pytest.mark.parametrize("extension", ["parquet", "avro", "tfrecord"])
def test_bytes_stay_bytes(tmp_path, extension):
    rows, rejected = read(with_bytes(tmp_path, extension))
    assert values(rows, "image") == PICTURES
    assert values(rows, "label") == [["l0"], ["l1"], ["l2"]]
    assert values(rejected, "reason") == [reasons.NO_CONTENT["image"]]
    assert values(rejected, "row") == [4]


@pytest.mark.parametrize(
    "type_",
    [pa.large_binary(), pa.binary_view(), pa.binary(3), pa.dictionary(pa.int32(), pa.binary())],
)
def test_parquet_may_hold_bytes_in_several_types(tmp_path, type_):
    images = pa.array([b"\xff\0a", None, b"\xff\0a"], pa.binary()).cast(type_)
    table = pa.table({"image_id": ["a", "b", "c"], "image": images})
    pq.write_table(table, tmp_path / "c.parquet")
    rows, _ = read(tmp_path / "c.parquet")
    assert values(rows, "image") == [b"\xff\0a"] * 2


def test_an_image_that_is_text_is_rejected(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"image_id": ["a"], "image": ["a.png"]}), path)
    with pytest.raises(ImgembedError, match=reasons.BAD_IMAGE):
        read(path)


@pytest.mark.parametrize("extension", ["parquet", "avro", "tfrecord"])
def test_content_of_a_rejected_row_is_short_and_without_picture_bytes(tmp_path, extension):
    content = [
        {"image_id": "ok", "image": b"PIXELS", "text": "t"},
        {"image_id": None, "image": b"PIXELS", "text": "long " * 2000},
    ]
    path = tmp_path / f"c.{extension}"
    if extension == "avro":
        avro_bytes(path, content, image_id="string", image="bytes", text="string")
    else:
        write(path, content)
    _, rejected = read(path)
    assert rejected[0]["reason"] == reasons.NO_ID
    assert len(rejected[0]["content"]) == 2000
    assert "PIXELS" not in rejected[0]["content"]


# Features -----------------------------------------------------------------------------------------


def with_features(folder: Path, extension: str) -> Path:
    path = folder / f"f.{extension}"
    lists = [[1.0, 2.5, -3.0], [1.0, 2.0, 3.0], [1.0, 2.0], None]
    rows = [{"image_id": i, "features": x} for i, x in zip("abcd", lists, strict=True)]
    if extension == "csv":
        path.write_text('image_id,features\na,1 2.5 -3\nb,"[1,2; 3]"\nc,1 2\nd,\n')
        return path
    if extension == "avro":
        numbers = {"type": "array", "items": "float"}
        return avro_bytes(path, rows, image_id="string", features=numbers)
    return write(path, rows)


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet", "avro", "tfrecord"])
def test_features_are_lists_of_numbers(tmp_path, extension):
    path = with_features(tmp_path, extension)
    found = inspect(ImagesConfig(path=str(path)))
    assert (found.content, found.feature_dim) == ("features", 3)
    rows, rejected = read(path)
    assert values(rows, "features") == [[1, 2.5, -3], [1, 2, 3]]
    assert values(rejected, "row") == [3, 4]
    assert values(rejected, "reason") == [reasons.BAD_DIM, reasons.NO_CONTENT["features"]]


@pytest.mark.parametrize(
    "type_",
    [
        *(pa.list_(pa.float64()), pa.list_(pa.int16()), pa.large_list(pa.float32())),
        *(pa.list_(pa.float32(), 2), pa.list_(pa.int64(), 2), pa.list_(pa.float16())),
    ],
    ids=str,
)
def test_parquet_may_hold_features_in_several_types(tmp_path, type_):
    fixed = pa.types.is_fixed_size_list(type_)  # Arrow does not read back those with nulls
    features = pa.array([[1, 2], [9, 9] if fixed else None, [3, 4]], pa.list_(pa.int64()))
    table = pa.table({"image_id": ["a", "", "c"], "features": features.cast(type_)})
    pq.write_table(table, tmp_path / "f.parquet")
    rows, rejected = read(tmp_path / "f.parquet")
    assert values(rows, "features") == [[1, 2], [3, 4]]
    assert values(rejected, "reason") == [reasons.NO_ID]


@pytest.mark.parametrize("extension", ["jsonl", "csv", "tfrecord", "parquet"])
def test_one_number_is_a_list_of_one(tmp_path, extension):
    content = [{"image_id": name, "features": 0.5} for name in "ab"]
    rows, _ = read(write(tmp_path / f"f.{extension}", content))
    assert values(rows, "features") == [[0.5], [0.5]]


NOT_FEATURES = [[1e39, 1, 1], [float("nan"), 1, 1], [1, None, 1], [[1], [2], [3]], [], ["x", 1, 2]]


@pytest.mark.parametrize("value", [*NOT_FEATURES, {"a": 1}, "x y z"])
def test_features_that_are_not_finite_numbers_are_rejected(tmp_path, value):
    content = [{"image_id": "a", "features": [1, 2, 3]}, {"image_id": "b", "features": value}]
    line = json.dumps(content[1]).replace("NaN", "1e999") + "\n"
    rows, rejected = read(write_lines(tmp_path / "f.jsonl", [content[0], line]))
    assert values(rows, "image_id") == ["a"]
    assert len(rejected) == 1
    if isinstance(value, list) and not isinstance((value or [0])[0], (list, str)):
        table = pa.table(
            {
                "image_id": ["a", "b"],
                "features": pa.array([[1, 2, 3], value], pa.list_(pa.float64())),
            }
        )
        pq.write_table(table, tmp_path / "f.parquet")
        rows, rejected = read(tmp_path / "f.parquet")
        assert values(rows, "image_id") == ["a"]
        assert values(rejected, "reason") == [reasons.BAD_FEATURES]


@pytest.mark.parametrize("extension", ["parquet", "tfrecord", "jsonl"])
def test_features_may_be_text_in_any_format(tmp_path, extension):
    content = [{"image_id": "a", "features": "1 2"}, {"image_id": "b", "features": "[3;4]"}]
    rows, _ = read(write(tmp_path / f"f.{extension}", content))
    assert values(rows, "features") == [[1, 2], [3, 4]]


def test_what_the_models_do_not_look_at_is_left_behind(tmp_path):
    good = {"image_id": "a", "uri": "u", "features": [1, 2]}
    rows, rejected = read(write_lines(tmp_path / "c.jsonl", [good, {**good, "uri": 5}]))
    assert rejected == []
    assert values(rows, "uri") == [None, None]
    good["features"] = None
    rows, rejected = read(write_lines(tmp_path / "c.jsonl", [good, {**good, "features": "x"}]))
    assert rejected == []
    assert values(rows, "features") == [None, None]


# Blocks and tasks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", FORMATS)
def test_blocks_have_few_rows(tmp_path, extension):
    path = write(
        tmp_path / f"c.{extension}", [{"image_id": str(i), "uri": "u"} for i in range(1200)]
    )
    sizes = [block.table.num_rows for block in blocks_of(path)]
    assert sizes == [512, 512, 176]


@pytest.mark.parametrize("extension", ["parquet", "avro", "tfrecord"])
def test_blocks_of_large_pictures_have_fewer_rows(tmp_path, extension):
    content = [{"image_id": str(i), "image": bytes([i]) * (3 << 20)} for i in range(30)]
    path = tmp_path / f"c.{extension}"
    if extension == "avro":
        avro_bytes(path, content, image_id="string", image="bytes")
    else:
        write(path, content)
    blocks = blocks_of(path)
    assert max(block.table.nbytes for block in blocks) < 36 << 20
    assert [i for b in blocks for i in b.table["image_id"].to_pylist()] == [*map(str, range(30))]


def test_a_parquet_file_is_read_in_parts_of_its_row_groups(tmp_path):
    ids = pa.array(np.arange(40_000).astype(str))
    table = pa.table({"image_id": ids, "uri": ids})
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=8_000)
    found = inspect(ImagesConfig(path=str(tmp_path / "c.parquet")))
    assert len(found.tasks) == 3
    tasks = pickle.loads(pickle.dumps(found.tasks))
    assert tasks == found.tasks
    numbers = [n for t in tasks for block in read_task(t) for n in block.table["row"].to_pylist()]
    assert numbers == list(range(1, 40_001))


# Files --------------------------------------------------------------------------------------------


def test_input_files_are_the_tables_and_the_pictures_they_name(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"-")
    content = [{"image_id": "a", "uri": "p/a.png"}, {"image_id": "b", "uri": "gs://b/x.png"}]
    path = write_lines(tmp_path / "c.jsonl", [*content, content[0], {"image_id": "c", "uri": 7}])
    files = input_files(ImagesConfig(path=str(path)))
    assert [info.path for info in files] == [str(path), str(tmp_path / "p/a.png"), "gs://b/x.png"]
    assert files[1] == storage.describe(str(tmp_path / "p/a.png"))


def test_of_a_folder_only_its_tables_are_read(tmp_path):
    write(tmp_path / "c.jsonl", ROWS)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"-")
    rows, _ = read(tmp_path)
    assert len(rows) == 3
    rows, _ = read(tmp_path, format="jsonl")
    assert len(rows) == 3
    rows, _ = read(tmp_path, format="folder")
    assert values(rows, "image_id") == ["a"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image_id": "foto"}, ("images.columns.image_id", "'foto'", "photo, uri")),
        ({"imageid": "photo"}, ("images.columns.imageid", "unknown", "image_id")),
        ({}, ("image_id", "photo, uri")),
    ],
)
def test_wrong_columns_are_config_errors_that_name_the_right_ones(tmp_path, columns, words):
    path = write_lines(tmp_path / "c.jsonl", [{"photo": "a", "uri": "u"}])
    with pytest.raises(ConfigError) as error:
        inspect(ImagesConfig(path=str(path), columns=columns))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"folders": ["label"]}, {"ids": "path"}, {"root": "nowhere"}], ids=str
)
def test_settings_that_a_table_passes_over_are_config_errors(tmp_path, options):
    path = write(tmp_path / "c.jsonl", ROWS)
    with pytest.raises(ConfigError, match=f"images.{next(iter(options))}: "):
        inspect(ImagesConfig(path=str(path), **options))


def test_catalogs_that_cannot_be_used_are_one_line_errors(tmp_path):
    empty_folder = tmp_path / "empty"
    empty_folder.mkdir()
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("hello")
    header = tmp_path / "header.csv"
    header.write_text("image_id,uri\n")
    no_bytes = tmp_path / "none.jsonl"
    no_bytes.write_text("")
    no_source = write_lines(tmp_path / "ids.jsonl", [{"image_id": "a", "label": "x"}])
    base64 = write_lines(tmp_path / "b64.jsonl", [{"image_id": "a", "image": "aGVsbG8="}])
    all_bad = write_lines(tmp_path / "bad.jsonl", [{"image_id": None, "uri": "u"}])
    for path, word in [
        (tmp_path / "missing", "no file"),
        (empty_folder, "no file"),
        (texts, "a.txt"),
        (header, "no row"),
        (no_bytes, "no row"),
        (no_source, "image, uri, features"),
        (base64, "uri"),
        (all_bad, f"can be read; the first: {reasons.NO_ID}"),
        (None, "not set"),
    ]:
        with pytest.raises(ImgembedError) as error:
            inspect(ImagesConfig(path=path and str(path)))
        assert word in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("extension", ["jsonl.gz", "csv.gz"])
def test_gzip_file_that_is_cut_short_is_an_error(tmp_path, extension):
    path = write(tmp_path / f"c.{extension}", ROWS)
    path.write_bytes(path.read_bytes()[:-6])  # all rows are there, the trailer is not
    with pytest.raises(ImgembedError, match="cut short"):
        read(path)


def test_parquet_that_is_none_is_an_error_with_its_name(tmp_path):
    path = tmp_path / "c.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ImgembedError, match=r"c\.parquet"):
        read(path)


@pytest.mark.parametrize("where", ["file", "folder", "root"])
def test_a_catalog_at_a_path_that_is_not_utf_8_is_one_line(tmp_path, where):
    odd = tmp_path / "caf\udce9"  # as Python reads the name from the disk
    odd.mkdir()
    path = {"file": tmp_path / "c\udce9.jsonl", "folder": odd / "c.jsonl"}.get(
        where, tmp_path / "c.jsonl"
    )
    path.write_text('{"image_id": "x", "uri": "a.png"}\n')
    root = str(odd) if where == "root" else None
    with pytest.raises(ImgembedError, match=r"^catalog '.*\\udce9.*': the path is not UTF-8"):
        inspect(ImagesConfig(path=str(path), root=root))
