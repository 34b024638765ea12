"""Files, local and in buckets, behind one set of functions.

Local paths take Python's own functions, which need no import; anything with a scheme (`gs://…`)
goes through Beam's file systems.
"""

from __future__ import annotations

import glob
import os
import posixpath
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast


@dataclass(frozen=True)
class FileInfo:
    """A file as it was found: path, bytes, and the time of its last change in seconds."""

    path: str
    size: int
    modified: float


def describe(path: str) -> FileInfo:
    """What `list_files` would say of one file; for a file in a bucket only its path, unasked."""
    if not is_local(path):
        return FileInfo(path, 0, 0.0)
    try:
        found = os.stat(path)
    except OSError:  # it is missing; whoever reads it will say so
        return FileInfo(path, 0, 0.0)
    return FileInfo(path, found.st_size, found.st_mtime)


def is_local(path: str) -> bool:
    """Whether a path names no file system, such as `gs://`."""
    return "://" not in path


def join(folder: str, *parts: str) -> str:
    """The path of something in a folder."""
    return (os.path if is_local(folder) else posixpath).join(folder, *parts)


def _beam_files() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def _raise(error: OSError) -> None:
    raise error


def _local_files(path: str) -> Iterator[str]:
    if os.path.isfile(path):
        yield path
    elif os.path.isdir(path):
        for folder, subfolders, names in os.walk(path, onerror=_raise):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "_")))
            yield from (os.path.join(folder, name) for name in sorted(names))
    else:
        yield from filter(os.path.isfile, sorted(glob.glob(path, recursive=True)))


def list_files(path: str) -> list[FileInfo]:
    """The files that a file, folder or glob names, sorted by path; hidden ones are left out.

    Names that begin with a dot or an underscore are hidden, as they are for Spark and Hive.
    """
    if is_local(path):
        found = [describe(name) for name in _local_files(path)]
    else:
        found = _bucket_files(path)
    return sorted(
        (info for info in found if not os.path.basename(info.path).startswith((".", "_"))),
        key=lambda info: info.path,
    )


def _bucket_files(path: str) -> list[FileInfo]:
    files = _beam_files()
    patterns = [path] if any(mark in path for mark in "*?[") else [path, path.rstrip("/") + "/**"]
    return [
        FileInfo(entry.path, entry.size_in_bytes, entry.last_updated_in_seconds or 0.0)
        for match in files.match(patterns)
        for entry in match.metadata_list
    ]


def open_read(path: str) -> IO[bytes]:
    """Opens a file for reading its bytes as they are."""
    if is_local(path):
        return open(path, "rb")
    return cast("IO[bytes]", _beam_files().open(path, compression_type="uncompressed"))


def open_write(path: str) -> IO[bytes]:
    """Opens a file for writing; its folder is made where the file system has folders."""
    if is_local(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "wb")
    return cast("IO[bytes]", _beam_files().create(path, compression_type="uncompressed"))


def write_atomic(path: str, data: bytes) -> None:
    """Writes a small file so that a reader sees the old content or the new, never a part."""
    target = path + ".part" if is_local(path) else path  # a bucket's upload is atomic
    with open_write(target) as file:
        file.write(data)
    if target != path:
        os.replace(target, path)


def exists(path: str) -> bool:
    """Whether there is a file or folder of that name."""
    return os.path.exists(path) if is_local(path) else bool(_beam_files().exists(path))


def remove_tree(path: str) -> None:
    """Removes a folder and all below it; nothing happens where there is none."""
    if is_local(path):
        shutil.rmtree(path, ignore_errors=True)
    elif _bucket_files(path):
        _beam_files().delete([path.rstrip("/") + "/"])


def entries(folder: str) -> list[str]:
    """Names directly below a folder, sorted; none where the folder does not exist."""
    if is_local(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    start = len(folder.rstrip("/")) + 1
    return sorted({info.path[start:].split("/")[0] for info in _bucket_files(folder)})
