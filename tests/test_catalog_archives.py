"""Zip archives: as catalogs, as roots of uris, and within uris; read in place, from any thread."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_catalog import read, values, write_lines
from test_catalog_folders import NAMES, fill

from pipeline import storage
from pipeline.config import ImagesConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.examples.catalog import archives
from pipeline.examples.catalog.find import input_files, inspect
from pipeline.examples.catalog.sources import UNREADABLE_URI, UnreadableError, read_bytes, resolve


def pack(path, *names, method=zipfile.ZIP_DEFLATED, content=None):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, name.encode() * 50 if content is None else content)
    return path


def table_of(path, uris):
    return write_lines(path, [{"image_id": i, "uri": uri} for i, uri in enumerate(uris)])


def local_header(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo(name).header_offset


def patch(path, position, data):
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def patch_directory(path, offset, data):
    """Changes a field of the first entry in the central directory."""
    patch(path, path.read_bytes().index(b"PK\x01\x02") + offset, data)


@pytest.mark.parametrize("name", ["p.zip", "P.ZIP", "pictures"])
@pytest.mark.parametrize("format", ["auto", "zip"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_is_a_tree_of_pictures(tmp_path, name, format, method):
    hidden = ("__MACOSX/train/._a.jpg", "train/.DS_Store", ".git/x.png", "train/x/_y.png")
    path = pack(tmp_path / name, "train/", *NAMES, *hidden, "README.txt", method=method)
    options = {"format": format, "ids": "path", "folders": ["split", "label"]}
    found = inspect(ImagesConfig(path=str(path), **options))
    assert (found.content, found.skipped_files) == ("image", 1)
    assert [info.path for info in found.inputs] == [str(path)]
    rows, rejected = read(path, **options)
    assert rejected == []
    assert values(rows, "image_id") == [os.path.splitext(name)[0] for name in NAMES]
    assert values(rows, "file") == values(rows, "uri") == [f"{path}/{name}" for name in NAMES]
    assert values(rows, "row") == [1, 1, 1]
    assert values(rows, "split") == ["train", "train", "validation"]
    for row, name in zip(rows, NAMES, strict=True):
        assert read_bytes(row["uri"]) == name.encode() * 50


def test_several_archives_are_one_catalog(tmp_path):
    pack(tmp_path / "a.zip", "x/1.png")
    pack(tmp_path / "b.zip", "y/2.png")
    rows, _ = read(tmp_path, folders=["label"])
    assert values(rows, "label") == [["x"], ["y"]]


def test_names_in_utf8_that_do_not_say_so_are_read_as_such(tmp_path):
    path = pack(tmp_path / "a.zip", "ü.png")
    start = local_header(path, "ü.png")
    patch(path, start + 6, b"\0\0")
    patch_directory(path, 8, b"\0\0")
    rows, _ = read(path)
    assert values(rows, "image_id") == ["ü"]
    assert read_bytes(rows[0]["uri"]).decode() == "ü.png" * 50


# Roots and uris -----------------------------------------------------------------------------------


@pytest.mark.parametrize("root", [None, "pics", "pics.zip", "deep.zip/in here", "file"])
def test_uris_start_from_the_root(tmp_path, root):
    fill(tmp_path, "p/a.png")
    fill(tmp_path / "pics", "p/a.png")
    pack(tmp_path / "pics.zip", "p/a.png", content=b"p/a.png")
    pack(tmp_path / "deep.zip", "in here/p/a.png", content=b"p/a.png")
    pack(tmp_path / "file", "p/a.png", content=b"p/a.png")
    uris = ["p/a.png", "./p/a.png", str(tmp_path / "p/a.png"), f"file://{tmp_path}/pics/p/a.png"]
    path = table_of(tmp_path / "c.jsonl", uris)
    options = {} if root is None else {"root": str(tmp_path / root)}
    rows, _ = read(path, **options)
    assert [read_bytes(row["uri"]) for row in rows] == [b"p/a.png"] * 4
    base = tmp_path if root is None else tmp_path / root
    assert rows[0]["uri"] == f"{base}/p/a.png"


def test_an_archive_is_one_of_the_input_files(tmp_path):
    inside = pack(tmp_path / "a.zip", "1.png", "2.png")
    root = pack(tmp_path / "root", "3.png", "4.png")
    uris = ["3.png", f"{inside}/1.png", f"{inside}/2.png", "4.png", "none.zip/x.png"]
    path = table_of(tmp_path / "c.jsonl", uris)
    config = ImagesConfig(path=str(path), root=str(root))
    assert [info.path for info in input_files(config)] == [str(path), str(root), str(inside)]
    assert input_files(config)[1] == storage.describe(str(root))


def test_a_root_that_is_not_there_is_a_config_error(tmp_path):
    path = write_lines(tmp_path / "c.jsonl", [{"image_id": 1, "uri": "u"}])
    for root in ("none", "none.zip", "c.jsonl/x"):
        with pytest.raises(ImgembedError, match=root.split("/")[0]):
            inspect(ImagesConfig(path=str(path), root=str(tmp_path / root)))
    with pytest.raises(ConfigError, match=r"images\.root: "):
        inspect(ImagesConfig(path=str(path), root=str(tmp_path / "none")))


def test_a_folder_may_be_called_like_an_archive(tmp_path):
    fill(tmp_path, "a.zip/1.png")
    assert read_bytes(f"{tmp_path}/a.zip/1.png") == b"a.zip/1.png"


def test_addresses_and_absolute_paths_stay_as_they_are():
    for uri in ("gs://b/a.png", "/a/b.png"):
        assert resolve(uri, "/root") == uri
    assert resolve("file:///a/b c.png", "/root") == "/a/b c.png"
    assert resolve("a.png", "gs://b/p.zip") == "gs://b/p.zip/a.png"


@pytest.mark.parametrize(
    "uri",
    ["none.png", "none.zip/a.png", "a.txt/b.png", ".", "nothing://a/b.png", "none/none/c.png"],
)
def test_what_cannot_be_read_is_one_rows_fault(tmp_path, uri):
    fill(tmp_path, "a.txt")
    with pytest.raises(UnreadableError, match=UNREADABLE_URI):
        read_bytes(resolve(uri, str(tmp_path)))


def test_a_member_that_is_not_there_is_one_rows_fault(tmp_path):
    path = pack(tmp_path / "a.zip", "1.png", "d/")
    for member in ("2.png", "d", "../a.zip"):
        with pytest.raises(UnreadableError, match=archives.NO_MEMBER):
            read_bytes(f"{path}/{member}")


# Archives that are damaged ------------------------------------------------------------------------


def test_a_damaged_picture_is_one_rows_fault(tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = pack(tmp_path / f"{method}.zip", "1.png", "2.png", method=method)
        patch(path, local_header(path, "1.png") + 30 + len("1.png") + 3, b"\xff\xff")
        with pytest.raises(UnreadableError, match=archives.DAMAGED):
            read_bytes(f"{path}/1.png")
        assert read_bytes(f"{path}/2.png") == b"2.png" * 50
        patch(path, local_header(path, "2.png"), b"XX")
        with pytest.raises(UnreadableError, match=archives.DAMAGED):
            read_bytes(f"{path}/2.png")


@pytest.mark.parametrize("damage", ["cut", "no zip", "empty", "garbage"])
def test_a_broken_archive_is_an_error_that_names_it(tmp_path, damage):
    path = pack(tmp_path / "a.zip", "1.png", "2.png")
    data = path.read_bytes()
    changed = {"cut": data[:-30], "no zip": b"hello" * 20, "empty": b"", "garbage": data[:9] * 20}
    path.write_bytes(changed[damage])
    table = write_lines(tmp_path / "c.jsonl", [{"image_id": 1, "uri": "1.png"}])
    for config in (
        ImagesConfig(path=str(path), format="zip"),
        ImagesConfig(path=str(table), root=str(path)),
    ):
        with pytest.raises(ImgembedError, match=r"a\.zip: not readable as a zip archive") as error:
            inspect(config)
        assert "\n" not in str(error.value)
    with pytest.raises(ImgembedError, match=r"a\.zip") as error:
        read_bytes(f"{path}/1.png")
    assert not isinstance(error.value, UnreadableError)


def test_random_damage_never_gives_other_bytes(tmp_path):
    whole = pack(tmp_path / "whole.zip", "1.png", "2.png").read_bytes()
    draw, said = random.Random(1), []
    for number in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(whole))] = draw.randrange(256)
        path = tmp_path / f"{number}.zip"
        path.write_bytes(damaged)
        try:
            assert read_bytes(f"{path}/1.png") == b"1.png" * 50
        except ImgembedError as error:
            said.append(str(error))
    assert said
    assert not any("\n" in line for line in said)


def test_an_encrypted_archive_is_an_error_that_names_it(tmp_path):
    path = pack(tmp_path / "a.zip", "1.png")
    patch_directory(path, 8, struct.pack("<H", 1))
    for ask in (lambda: inspect(ImagesConfig(path=str(path))), lambda: read_bytes(f"{path}/1.png")):
        with pytest.raises(ImgembedError, match=r"a\.zip: '1\.png' is encrypted"):
            ask()


def test_another_method_of_compression_is_an_error_that_names_the_archive(tmp_path):
    path = pack(tmp_path / "a.zip", "1.png", method=zipfile.ZIP_LZMA)
    with pytest.raises(ImgembedError, match=r"a\.zip: '1\.png' is compressed by method 14"):
        inspect(ImagesConfig(path=str(path)))


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = pack(tmp_path / "a.zip", "1.png", content=bytes(1 << 20))
    patch_directory(path, 24, struct.pack("<I", 100))  # it says that it has 100 bytes
    with pytest.raises(UnreadableError, match=archives.DAMAGED):
        read_bytes(f"{path}/1.png")
    patch_directory(path, 24, struct.pack("<I", archives.MAX_BYTES + 1))
    with pytest.raises(UnreadableError, match=archives.TOO_LARGE.replace("'", ".")):
        read_bytes(f"{path}/1.png")


def test_a_picture_file_of_any_size_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(archives.MAX_BYTES + 10)
    with pytest.raises(UnreadableError, match="larger than 512 MiB"):
        read_bytes(str(tmp_path / "a.png"))


# Many at once -------------------------------------------------------------------------------------


def test_threads_read_many_archives_at_once(tmp_path):
    names = [f"{i}.png" for i in range(60)]
    for number in range(12):  # more than are kept open
        pack(tmp_path / f"{number}.zip", *names)
    wanted = [(f"{tmp_path}/{a}.zip/{name}", name) for name in names for a in range(12)]
    random.Random(0).shuffle(wanted)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_bytes, [uri for uri, _ in wanted]))
    assert found == [name.encode() * 50 for _, name in wanted]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 8


def test_an_archive_that_was_replaced_is_read_anew(tmp_path):
    path = pack(tmp_path / "a.zip", "1.png", content=b"old")
    assert read_bytes(f"{path}/1.png") == b"old"
    pack(path, "1.png", content=b"newer")
    assert read_bytes(f"{path}/1.png") == b"newer"


def test_archives_with_something_before_them_are_read(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"#!/bin/sh\n" + pack(tmp_path / "b.zip", "1.png").read_bytes())
    assert read_bytes(f"{path}/1.png") == b"1.png" * 50


def test_large_archives_have_64_bit_headers(tmp_path):
    sink = io.BytesIO()
    with (
        zipfile.ZipFile(sink, "w") as archive,
        archive.open("1.png", "w", force_zip64=True) as file,
    ):
        file.write(b"data")
    (tmp_path / "a.zip").write_bytes(sink.getvalue())
    shutil.copy(tmp_path / "a.zip", tmp_path / "b.zip")
    assert read_bytes(f"{tmp_path}/b.zip/1.png") == b"data"
