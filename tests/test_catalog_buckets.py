"""Catalogs in a bucket: Cloud Storage's protocol, served by an emulator here."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_buckets import BUCKET, emulator, put  # noqa: F401 - a fixture of the module
from test_catalog import read, values, write_lines
from test_catalog_archives import pack

from pipeline.config import ImagesConfig
from pipeline.errors import ImgembedError
from pipeline.examples.catalog.find import input_files, inspect
from pipeline.examples.catalog.sources import UnreadableError, read_bytes

NAMES = ("train/red dress/ü.jpg", "val/coat/2.png")


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> str:
    path: Path = pack(tmp_path_factory.mktemp("zip") / "shop.zip", *NAMES)
    put(f"{BUCKET}/shop.zip", path.read_bytes())
    put(f"{BUCKET}/unnamed", path.read_bytes())
    return f"{BUCKET}/shop.zip"


def test_an_archive_in_a_bucket_is_a_tree_of_pictures(archive):
    rows, rejected = read(archive, folders=["split", "label"])
    assert rejected == []
    assert values(rows, "label") == [["red dress"], ["coat"]]
    assert [read_bytes(row["uri"]) for row in rows] == [name.encode() * 50 for name in NAMES]


def test_an_archive_in_a_bucket_is_the_root_of_a_table(archive, tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [{"image_id": 1, "uri": NAMES[0]}])
    rows, _ = read(path, root=archive)
    assert read_bytes(rows[0]["uri"]) == NAMES[0].encode() * 50
    files = input_files(ImagesConfig(path=str(path), root=archive))
    assert [info.path for info in files] == [str(path), archive]


def test_pictures_in_a_bucket_are_a_tree(archive):
    put(f"{BUCKET}/shop/cat/1.png", b"one")
    put(f"{BUCKET}/shop/notes.txt", b"-")
    rows, _ = read(f"{BUCKET}/shop", folders=["label"], ids="path")
    assert [(row["image_id"], row["label"]) for row in rows] == [("cat/1", ["cat"])]
    assert read_bytes(rows[0]["uri"]) == b"one"


def test_what_is_not_in_the_bucket_is_one_rows_fault(archive):
    for uri in (f"{BUCKET}/none.png", f"{archive}/none.png", f"{BUCKET}/none.zip/1.png"):
        with pytest.raises(UnreadableError):
            read_bytes(uri)


def test_an_archive_in_a_bucket_must_be_named_like_one(archive):
    with pytest.raises(ImgembedError, match=r"unnamed.*must end in \.zip"):
        inspect(ImagesConfig(path=f"{BUCKET}/unnamed"))
