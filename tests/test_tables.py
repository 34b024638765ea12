"""Tables of other programs: every row is read or rejected, whatever is in the file."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, ImgembedError
from pipeline.tables import column_names, find_tables, map_columns, read_blocks

WANTED = ("image_id", "query", "items")


def read(path, mapping=None, format="auto"):
    """(rows, rejected) of all files at a path."""
    rows, rejected = [], []
    for file in find_tables(str(path), format=format, key="sessions.path"):
        columns = map_columns(file, WANTED, mapping or {}, key="sessions.columns")
        for block in read_blocks(file, columns):
            assert block.table.num_rows == len(block.row_numbers)
            for number, row in zip(block.row_numbers, block.table.to_pylist(), strict=True):
                rows.append((int(number), row))
            rejected += [(r["row"], r["reason"]) for r in block.rejected.to_pylist()]
    return rows, rejected


def test_the_same_rows_come_out_of_every_format(tmp_path):
    content = [{"image_id": f"i{n}", "query": f"q {n}, ü"} for n in range(5)]
    lines = "".join(json.dumps(row) + "\n" for row in content)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name, mark in (("c.csv", ","), ("d.tsv", "\t")):
        text = f"image_id{mark}query\n"
        text += "".join(f'{row["image_id"]}{mark}"{row["query"]}"\n' for row in content)
        (tmp_path / name).write_text(text)
    pq.write_table(pa.Table.from_pylist(content), tmp_path / "e.parquet")
    expected = [(number, row) for number, row in enumerate(content, 1)]
    for name in ("a.jsonl", "b.jsonl.gz", "c.csv", "d.tsv", "e.parquet"):
        assert read(tmp_path / name) == (expected, []), name


def test_a_broken_jsonl_line_is_rejected_with_its_row_number(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"image_id": "x"}\n{"image_id": 7}\nbroken\n\n[1]\n{"image_id": true}\n'
    )
    rows, rejected = read(tmp_path)
    assert [(number, row["image_id"]) for number, row in rows] == [(1, "x"), (2, "7")]
    assert rejected == [
        (3, "not a JSON object"),
        (5, "not a JSON object"),
        (6, "image_id is neither text nor a number"),
    ]


def test_csv_rows_of_another_width_or_encoding_are_rejected_with_their_row_numbers(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b'image_id,query\na,1\nonly one\nb,\xff\nc,2,3\nd,4\n"e","five, 5"\n'
    )
    rows, rejected = read(tmp_path)
    assert [(number, row["image_id"]) for number, row in rows] == [(1, "a"), (5, "d"), (6, "e")]
    assert sorted(rejected) == [
        (2, "another number of columns than the header"),
        (3, "query is not UTF-8"),
        (4, "another number of columns than the header"),
    ]


def test_a_stray_quote_does_not_swallow_rows_in_silence(tmp_path):
    (tmp_path / "a.tsv").write_text('image_id\tquery\na\t15" screen\nb\t"stray\nc\tx\n')
    rows, rejected = read(tmp_path)
    assert [row["query"] for _, row in rows] == ['15" screen']
    assert rejected == [(2, "query runs over several lines: a stray quote?")]


def test_lists_may_hold_text_or_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"items": ["a", "b"]}\n{"items": [1, 2]}\n{"items": null}\n')
    rows, rejected = read(tmp_path)
    assert [row["items"] for _, row in rows] == [["a", "b"], ["1", "2"], None]
    assert rejected == []


def test_a_cut_gzip_file_is_an_error_and_no_short_read(tmp_path):
    whole = gzip.compress(b'{"image_id": "x"}\n' * 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(ImgembedError, match="a.jsonl.gz: the gzip file is cut short"):
        read(tmp_path)


def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ImgembedError, match=r"a\.parquet: not readable as parquet"):
        read(tmp_path)


def test_a_wrong_column_name_says_which_columns_there_are(tmp_path):
    (tmp_path / "a.csv").write_text("photo,words\na,b\n")
    (file,) = find_tables(str(tmp_path), format="auto", key="sessions.path")
    with pytest.raises(ImgembedError, match=r"no column 'foto'; it has photo, words"):
        map_columns(file, WANTED, {"image_id": "foto"}, key="sessions.columns")
    with pytest.raises(ConfigError, match=r"columns.imageid: no such column of ours"):
        map_columns(file, WANTED, {"imageid": "photo"}, key="sessions.columns")
    assert map_columns(file, WANTED, {"image_id": "photo"}, key="k") == {"image_id": "photo"}


def test_missing_and_unknown_files_are_one_line(tmp_path):
    with pytest.raises(ImgembedError, match="sessions.path: no file at"):
        find_tables(str(tmp_path / "nowhere"), format="auto", key="sessions.path")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(ImgembedError, match="a.xyz' has no known extension"):
        find_tables(str(tmp_path), format="auto", key="sessions.path")
    assert find_tables(str(tmp_path), format="csv", key="sessions.path")[0].format == "csv"


def test_an_empty_csv_has_no_columns_and_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("")
    (file,) = find_tables(str(tmp_path), format="auto", key="sessions.path")
    assert column_names(file) == []
    assert read(tmp_path) == ([], [])


def test_a_column_that_is_mapped_is_not_taken_for_another_of_ours_as_well(tmp_path):
    (tmp_path / "a.csv").write_text("image_id,query\na,b\n")
    (file,) = find_tables(str(tmp_path), format="auto", key="sessions.path")
    mapping = {"image_id": "query"}
    assert map_columns(file, WANTED, mapping, key="k") == {"image_id": "query"}
