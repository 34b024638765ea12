"""Catalogs of every format are read alike; what cannot be read is rejected with file and row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ImagesConfig, SplitConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.examples import catalog, prepare

ROWS = [
    {"image_id": "a", "uri": "p/a.png", "label": "cat", "text": "one", "split": "train"},
    {"image_id": "b,\t'ü", "uri": "/abs/b.png", "label": None, "text": None, "split": None},
    {"image_id": "7", "uri": "gs://bucket/c.png", "label": "3", "text": "two", "split": "test"},
]


def write_jsonl(path: Path, rows: list) -> Path:
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def write_rows(folder: Path, format: str) -> Path:
    path = folder / f"c.{format}"
    if format.startswith("jsonl"):
        data = "".join(json.dumps(row) + "\n" for row in ROWS)
    elif format == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    else:
        mark = "\t" if format.startswith("tsv") else ","
        lines = [list(ROWS[0])] + [["" if v is None else v for v in row.values()] for row in ROWS]
        data = "".join(mark.join(f'"{value}"' for value in line) + "\n" for line in lines)
    raw = data.encode()
    path.write_bytes(gzip.compress(raw) if format.endswith(".gz") else raw)
    return path


def read(path: Path, **options: object) -> tuple[list[dict], list[dict]]:
    """(rows, rejected rows) of a catalog."""
    found = catalog.inspect(ImagesConfig(path=str(path), **options))
    blocks = [block for task in found.tasks for block in catalog.read_task(task)]
    rows = [row for block in blocks for row in block.table.to_pylist()]
    return rows, [row for block in blocks for row in block.rejected.to_pylist()]


@pytest.mark.parametrize("format", ["jsonl", "jsonl.gz", "csv", "csv.gz", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, format):
    path = write_rows(tmp_path, format)
    rows, rejected = read(path)
    assert rejected == []
    assert [row["image_id"] for row in rows] == ["a", "b,\t'ü", "7"]
    expected = [str(tmp_path / "p/a.png"), "/abs/b.png", "gs://bucket/c.png"]
    assert [row["uri"] for row in rows] == expected
    assert [row["label"] for row in rows] == ["cat", None, "3"]
    assert [row["text"] for row in rows] == [["one"], None, ["two"]]
    assert [row["split"] for row in rows] == ["train", None, "test"]
    assert [row["row"] for row in rows] == [1, 2, 3]
    assert {row["file"] for row in rows} == {str(path)}


def test_folder_of_pictures_takes_ids_from_names(tmp_path):
    for name in ("b.PNG", "sub/a.x.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"-")
    found = catalog.inspect(ImagesConfig(path=str(tmp_path)))
    rows, _ = read(tmp_path)
    assert [(row["image_id"], row["uri"]) for row in rows] == [
        ("b", str(tmp_path / "b.PNG")),
        ("a.x", str(tmp_path / "sub/a.x.jpg")),
    ]
    assert (found.content, found.skipped_files) == ("image", 1)


def test_folder_with_a_table_is_a_table(tmp_path):
    write_rows(tmp_path, "jsonl")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"-")
    rows, _ = read(tmp_path)
    assert len(rows) == 3
    rows, _ = read(tmp_path, format="folder")
    assert [row["image_id"] for row in rows] == ["a"]


def test_columns_are_mapped(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [{"photo": 12, "where": "x.png"}])
    rows, _ = read(path, columns={"image_id": "photo", "uri": "where"})
    assert (rows[0]["image_id"], rows[0]["uri"]) == ("12", str(tmp_path / "x.png"))


def test_values_of_several_kinds(tmp_path):
    path = write_jsonl(
        tmp_path / "c.jsonl",
        [
            {"image_id": "a", "uri": "u", "label": 3, "text": ["x", "", " y "]},
            "\n",
            {"image_id": "b", "uri": "u", "label": " ", "text": []},
            {"image_id": "c", "uri": "u", "label": 4.0, "text": ""},
        ],
    )
    rows, rejected = read(path)
    assert rejected == []
    assert [row["label"] for row in rows] == ["3", None, "4"]
    assert [row["text"] for row in rows] == [["x", "y"], None, None]
    assert [row["row"] for row in rows] == [1, 3, 4]


def test_keys_that_first_appear_late_are_read(tmp_path):
    rows = [{"image_id": str(i), "uri": "u"} for i in range(1500)]
    path = write_jsonl(tmp_path / "c.jsonl", [*rows, {"image_id": "z", "uri": "u", "label": "x"}])
    found, _ = read(path)
    assert found[-1]["label"] == "x"


def test_blocks_are_small(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [{"image_id": i, "uri": "u"} for i in range(1200)])
    found = catalog.inspect(ImagesConfig(path=str(path)))
    sizes = [block.table.num_rows for task in found.tasks for block in catalog.read_task(task)]
    assert sizes == [512, 512, 176]


BAD_ROWS = [
    ('{"image_id": "x", "uri": \n', catalog.NOT_AN_OBJECT),
    ('["a"]\n', catalog.NOT_AN_OBJECT),
    ({"uri": "u"}, catalog.NO_ID),
    ({"image_id": "", "uri": "u"}, catalog.NO_ID),
    ({"image_id": "a\nb", "uri": "u"}, catalog.BAD_ID),
    ({"image_id": True, "uri": "u"}, catalog.BAD_ID),
    ({"image_id": "x"}, catalog.NO_CONTENT["image"]),
    ({"image_id": "x", "uri": 3}, catalog.BAD_URI),
    ({"image_id": "x", "uri": "u", "label": 1.5}, catalog.BAD_LABEL),
    ({"image_id": "x", "uri": "u", "label": ["a"]}, catalog.BAD_LABEL),
    ({"image_id": "x", "uri": "u", "text": {"a": 1}}, catalog.BAD_TEXT),
    ({"image_id": "x", "uri": "u", "text": [1]}, catalog.BAD_TEXT),
    ({"image_id": "x", "uri": "u", "split": "eval"}, catalog.BAD_SPLIT),
]


def test_bad_rows_are_rejected_with_file_row_reason_and_content(tmp_path):
    good = {"image_id": "good", "uri": "u"}
    path = write_jsonl(tmp_path / "c.jsonl", [good, *(row for row, _ in BAD_ROWS), good])
    rows, rejected = read(path)
    assert [row["row"] for row in rows] == [1, len(BAD_ROWS) + 2]
    assert [row["reason"] for row in rejected] == [reason for _, reason in BAD_ROWS]
    assert [row["row"] for row in rejected] == list(range(2, len(BAD_ROWS) + 2))
    assert {row["file"] for row in rejected} == {str(path)}
    assert rejected[3]["content"] == '{"image_id": "", "uri": "u"}'


def test_content_of_a_rejected_row_is_short_and_without_picture_bytes(tmp_path):
    path = tmp_path / "c.parquet"
    rows = [
        {"image_id": "ok", "image": b"PIXELS", "text": None},
        {"image_id": None, "image": b"PIXELS", "text": "long " * 2000},
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    _, rejected = read(path)
    assert rejected[0]["reason"] == catalog.NO_ID
    assert len(rejected[0]["content"]) == 2000
    assert "PIXELS" not in rejected[0]["content"]


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_features_are_lists_of_numbers(tmp_path, format):
    path = tmp_path / f"f.{format}"
    if format == "csv":
        path.write_text('image_id,features\na,1 2.5 -3\nb,"1,2,3"\nc,1;2;3\nd,1 2\ne,x y z\nf,\n')
    else:
        lists = [[1, 2.5, -3], [1, 2, 3], [1, 2, 3], [1, 2], None, []]
        rows = [{"image_id": i, "features": x} for i, x in zip("abcdef", lists, strict=True)]
        if format == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            rows[4]["features"] = ["x"]  # type: ignore[assignment]
            write_jsonl(path, rows)
    found = catalog.inspect(ImagesConfig(path=str(path)))
    assert (found.content, found.feature_dim) == ("features", 3)
    rows, rejected = read(path)
    assert [row["features"] for row in rows] == [[1, 2.5, -3], [1, 2, 3], [1, 2, 3]]
    assert [row["row"] for row in rejected] == [4, 5, 6]
    assert rejected[0]["reason"] == catalog.BAD_DIM


@pytest.mark.parametrize("value", [[1e39, 1, 1], [float("nan"), 1, 1], [[1], [2], [3]]])
def test_features_that_are_not_finite_numbers_are_rejected(tmp_path, value):
    rows = [{"image_id": "a", "features": [1, 2, 3]}, {"image_id": "b", "features": value}]
    path = write_jsonl(tmp_path / "f.jsonl", rows)
    _, rejected = read(path)
    assert len(rejected) == 1


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image_id": "foto"}, ("images.columns.image_id", "'foto'", "photo, uri")),
        ({"imageid": "photo"}, ("images.columns.imageid", "unknown", "image_id")),
        ({}, ("image_id", "photo, uri")),
    ],
)
def test_wrong_columns_are_config_errors_that_name_the_right_ones(tmp_path, columns, words):
    path = write_jsonl(tmp_path / "c.jsonl", [{"photo": "a", "uri": "u"}])
    with pytest.raises(ConfigError) as error:
        catalog.inspect(ImagesConfig(path=str(path), columns=columns))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


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
    no_source = write_jsonl(tmp_path / "ids.jsonl", [{"image_id": "a", "label": "x"}])
    base64 = write_jsonl(tmp_path / "b64.jsonl", [{"image_id": "a", "image": "aGVsbG8="}])
    all_bad = write_jsonl(tmp_path / "bad.jsonl", [{"image_id": None, "uri": "u"}])
    for path, word in [
        (tmp_path / "missing", "no file"),
        (empty_folder, "no file"),
        (texts, "a.txt"),
        (header, "no row"),
        (no_bytes, "no row"),
        (no_source, "image, uri, features"),
        (base64, "uri"),
        (all_bad, "can be read"),
        (None, "not set"),
    ]:
        with pytest.raises(ImgembedError) as error:
            catalog.inspect(ImagesConfig(path=path and str(path)))
        assert word in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("format", ["jsonl.gz", "csv.gz"])
def test_gzip_file_that_is_cut_short_is_an_error(tmp_path, format):
    path = write_rows(tmp_path, format)
    data = path.read_bytes()
    path.write_bytes(data[:-6])  # all rows are there, the trailer is not
    with pytest.raises(ImgembedError, match="cut short"):
        read(path)


def test_parquet_that_is_none_is_an_error_with_its_name(tmp_path):
    path = tmp_path / "c.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ImgembedError, match=r"c\.parquet"):
        read(path)


# Settling ---------------------------------------------------------------------------------------


def prepared(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=prepare.PREPARED_SCHEMA)


def test_first_row_of_an_id_by_file_and_row_is_kept():
    table = prepared(
        [
            {"image_id": "b", "file": "2", "row": 1},
            {"image_id": "a", "file": "2", "row": 2},
            {"image_id": "b", "file": "1", "row": 10},
            {"image_id": "b", "file": "1", "row": 9},
        ]
    )
    kept, rejected = prepare.drop_duplicates(table)
    assert kept.select(["image_id", "file", "row"]).to_pylist() == [
        {"image_id": "a", "file": "2", "row": 2},
        {"image_id": "b", "file": "1", "row": 9},
    ]
    assert [(r["file"], r["row"]) for r in rejected.to_pylist()] == [("1", 10), ("2", 1)]
    assert set(rejected["reason"].to_pylist()) == {"duplicate image_id"}


def test_texts_are_captions_then_the_most_frequent_queries():
    images = prepared([{"image_id": "a", "text": ["caption"]}, {"image_id": "b"}])
    queries = pa.table(
        {
            "query": ["y", "rare", "x", "other"],
            "image_id": ["a", "a", "a", "nobody"],
            "sessions": [3, 1, 3, 9],
        }
    )
    assert prepare.join_texts(images, queries, texts=2, captions=True) == (
        [["caption", "x", "y"], []],
        [[1.0, 3.0, 3.0], []],
    )
    assert prepare.join_texts(images, queries, texts=0, captions=False) == ([[], []], [[], []])


def test_splits_have_about_their_shares_and_follow_the_seed():
    images = prepared([{"image_id": f"img{i}"} for i in range(4000)])
    split = SplitConfig(train=0.7, validation=0.2, test=0.1)
    first = prepare.choose_splits(images, split=split, seed=1).to_pylist()
    # Three standard deviations of a binomial of 4,000 and 0.7: 87.
    assert abs(first.count("train") - 2800) < 87
    assert abs(first.count("test") - 400) < 57
    assert first == prepare.choose_splits(images, split=split, seed=1).to_pylist()
    assert first != prepare.choose_splits(images, split=split, seed=2).to_pylist()


def test_split_of_the_catalog_wins_and_a_share_of_zero_gets_nothing():
    rows = [{"image_id": f"img{i}"} for i in range(2000)]
    rows[5]["split"] = "test"
    split = SplitConfig(train=0.9, validation=0.1, test=0.0)
    found = prepare.choose_splits(prepared(rows), split=split, seed=0).to_pylist()
    assert found[5] == "test"
    assert found.count("test") == 1
