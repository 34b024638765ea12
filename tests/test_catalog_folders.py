"""Catalogs of pictures in folders: what their paths say of them."""

from __future__ import annotations

import os
import pickle

import pytest
from test_catalog import blocks_of, read, values

from pipeline.config import ImagesConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.examples.catalog import rows as reasons
from pipeline.examples.catalog.find import input_files, inspect
from pipeline.examples.catalog.sources import read_bytes

NAMES = ("train/red dress/a b.jpg", 'train/it\'s "x"/ü 👗.PNG', "val/ملابس/c.x.jpeg")


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_ids_are_names_without_the_extension(tmp_path):
    fill(tmp_path, "b.PNG", "sub/a.x.jpg", "notes.txt", ".hidden.png", "_cache/c.png")
    found = inspect(ImagesConfig(path=str(tmp_path)))
    assert (found.content, found.feature_dim, found.skipped_files) == ("image", None, 1)
    rows, rejected = read(tmp_path)
    assert rejected == []
    assert values(rows, "image_id") == ["b", "a.x"]
    assert values(rows, "uri") == [str(tmp_path / "b.PNG"), str(tmp_path / "sub/a.x.jpg")]
    assert values(rows, "file") == values(rows, "uri")
    assert values(rows, "row") == [1, 1]
    assert values(rows, "label") == values(rows, "split") == [None, None]
    assert read_bytes(rows[1]["uri"]) == b"sub/a.x.jpg"


def test_names_may_be_anything(tmp_path):
    fill(tmp_path, *NAMES)
    rows, rejected = read(tmp_path, ids="path", folders=["split", "label"])
    assert rejected == []
    assert {row["image_id"]: (row["split"], row["label"]) for row in rows} == {
        "train/red dress/a b": ("train", ["red dress"]),
        'train/it\'s "x"/ü 👗': ("train", ['it\'s "x"']),
        "val/ملابس/c.x": ("validation", ["ملابس"]),
    }
    assert sorted(read_bytes(row["uri"]).decode() for row in rows) == sorted(NAMES)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["label"], {"label": ["c"]}),
        (["label", None], {"label": ["b"]}),
        (["split", "group", "label"], {"split": "test", "group": "b", "label": ["c"]}),
        (["label", "label"], {"label": ["b", "c"]}),
    ],
)
def test_the_last_of_the_folders_is_the_pictures_own(tmp_path, folders, expected):
    fill(tmp_path, "x/test/b/c/1.png")
    rows, _ = read(tmp_path, folders=folders)
    assert {name: rows[0][name] for name in expected} == expected


def test_a_picture_with_too_few_folders_is_rejected(tmp_path):
    fill(tmp_path, "train/cat/1.png", "cat/2.png", "3.png", "holiday/cat/4.png")
    rows, rejected = read(tmp_path, folders=["split", "label"])
    assert values(rows, "image_id") == ["1"]
    assert {row["file"]: row["reason"] for row in rejected} == {
        str(tmp_path / "cat/2.png"): reasons.TOO_FEW_FOLDERS,
        str(tmp_path / "3.png"): reasons.TOO_FEW_FOLDERS,
        str(tmp_path / "holiday/cat/4.png"): reasons.BAD_SPLIT,
    }
    assert values(rejected, "row") == [1, 1, 1]
    assert rejected[0]["content"] == rejected[0]["file"]


def test_names_that_are_no_text_or_have_lines_are_rejected(tmp_path):
    fill(tmp_path, "a.png", "b\nc.png")
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):
        pass
    rows, rejected = read(tmp_path)
    assert values(rows, "image_id") == ["a"]
    assert values(rejected, "reason") == [reasons.BAD_ID, reasons.BAD_PATH]
    assert rejected[1]["file"] == f"{tmp_path}/\ufffd.png"


@pytest.mark.parametrize("path", ["shop", "shop/", "./shop", "shop/*/*.png", "shop/**/1.png"])
def test_ids_of_paths_begin_below_the_root(tmp_path, monkeypatch, path):
    fill(tmp_path / "shop", "cat/1.png")
    monkeypatch.chdir(tmp_path)
    rows, _ = read(path, ids="path", folders=["label"])
    assert (rows[0]["image_id"], rows[0]["label"]) == ("cat/1", ["cat"])
    assert read_bytes(rows[0]["uri"]) == b"cat/1.png"


def test_one_picture_is_a_catalog(tmp_path, monkeypatch):
    fill(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    for path in ("a.png", str(tmp_path / "a.png")):
        rows, _ = read(path, ids="path")
        assert (rows[0]["image_id"], rows[0]["uri"]) == ("a", path)


def test_pictures_are_read_in_groups(tmp_path):
    fill(tmp_path, *(f"{i:04}.png" for i in range(1100)))
    found = inspect(ImagesConfig(path=str(tmp_path)))
    assert pickle.loads(pickle.dumps(found.tasks)) == found.tasks
    assert [block.table.num_rows for block in blocks_of(tmp_path)] == [512, 512, 76]
    files = input_files(ImagesConfig(path=str(tmp_path)))
    assert len(files) == 1100


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"columns": {"image_id": "x"}}, "images.columns: "),
        ({"root": "x"}, "images.root: "),
        ({"folders": ["split", "label", "split"]}, "images.folders: 'split'"),
    ],
)
def test_settings_that_a_folder_passes_over_are_config_errors(tmp_path, options, word):
    fill(tmp_path, "a.png")
    with pytest.raises(ConfigError, match=word):
        inspect(ImagesConfig(path=str(tmp_path), **options))


def test_a_folder_without_pictures_is_an_error(tmp_path):
    fill(tmp_path, "a.txt")
    with pytest.raises(ImgembedError, match="no picture"):
        inspect(ImagesConfig(path=str(tmp_path), format="folder"))
