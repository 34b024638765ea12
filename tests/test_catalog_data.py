"""Real catalogs: clothes, groceries, drawings and emoji, each read without a rejected row."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from test_catalog import read, values

from pipeline.config import ImagesConfig
from pipeline.examples.catalog.find import input_files
from pipeline.examples.catalog.sources import read_bytes

DATA = Path(__file__).parents[2] / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")


def check(rows, rejected, count):
    assert rejected == []
    assert len(rows) == len(set(values(rows, "image_id"))) == count
    for row in rows[:: count // 50]:
        Image.open(io.BytesIO(read_bytes(row["uri"]))).load()


def test_clothes_are_an_archive_with_folders_of_splits_and_labels():
    rows, rejected = read(DATA / "clothing" / "images.zip", folders=["split", "label"])
    check(rows, rejected, 3409)
    assert set(values(rows, "split")) == {"train", "validation"}
    assert len({label for (label,) in values(rows, "label")}) == 10


def test_clothes_are_a_table_with_an_archive_as_its_root():
    folder = DATA / "clothing"
    options = {
        "columns": {"image_id": "image", "uri": "image"},
        "root": str(folder / "images.zip"),
    }
    rows, rejected = read(folder / "labels.csv", **options)
    check(rows, rejected, 3409)
    tree, _ = read(folder / "images.zip", folders=["split", "label"])
    said = {row["uri"]: (row["split"], row["label"]) for row in tree}
    assert {row["uri"]: (row["split"], row["label"]) for row in rows} == said
    files = input_files(ImagesConfig(path=str(folder / "labels.csv"), **options))
    assert [Path(info.path).name for info in files] == ["labels.csv", "images.zip"]


def test_groceries_are_an_archive_with_folders_of_splits():
    rows, rejected = read(DATA / "grocery" / "natural.zip", folders=["split"], ids="path")
    check(rows, rejected, 2936)
    assert set(values(rows, "split")) <= {"train", "validation", "test"}


def test_drawings_have_an_alphabet_and_a_character():
    path = DATA / "omniglot" / "images.zip"
    rows, rejected = read(path, folders=["group", "label"])
    check(rows, rejected, 2720)
    assert len(set(values(rows, "group"))) == 5


def test_emoji_are_a_table_with_many_texts():
    path = DATA / "emoji"
    columns = {"image_id": "emoji_id", "uri": "image", "label": "group", "text": "keywords"}
    rows, rejected = read(path / "emoji.jsonl", columns=columns, root=str(path / "noto72.zip"))
    check(rows, rejected, 1644)
    assert len({label for (label,) in values(rows, "label")}) == 9
    assert all(values(rows, "text"))
