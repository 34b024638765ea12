"""Files, local and in buckets, behind one set of functions.

Local paths take Python's own functions, which need no import; anything with a scheme (`gs://…`)
goes through Beam's file systems.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import posixpath
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, cast

from pipeline.errors import ImgembedError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class FileInfo:
    """A file as it was found: path, bytes, and the time of its last change in seconds."""

    path: str
    size: int
    modified: float


def explain(error: OSError, *, run_dir: str = "") -> str | None:
    """What the system says of a file or a full disk, in one line; None where it names no file.

    run_dir: the run directory of the command; another one can be named, as the line then says.
    """
    path = "" if error.filename is None else os.fsdecode(error.filename)
    if error.errno not in _FULL:
        said = error.strerror or type(error).__name__
        return f"{path}: {said[:1].lower()}{said[1:]}" if path else None
    temporary = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - to know it, not to write there
    other = "--run-dir"
    if path and not _within(path, run_dir) and _within(path, temporary):
        other = "the environment variable TMPDIR"
    where = path or run_dir
    if not where:  # outside of a run, it is what stdout goes to
        return "no space left where the output goes: free some"
    return f"no space left on the disk of {where}: free some, or name another folder with {other}"


def _within(path: str, folder: str) -> bool:
    if not folder:
        return False
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([path, folder]) == folder


def describe(path: str) -> FileInfo:
    """What `list_files` would say of one file; for a file in a bucket only its path, unasked."""
    if not is_local(path):
        return FileInfo(path, 0, 0.0)
    try:
        found = os.stat(path)
    except OSError:  # it is missing; whoever reads it will say so
        return FileInfo(path, 0, 0.0)
    return FileInfo(path, found.st_size, found.st_mtime)


def changed(before: Iterable[FileInfo]) -> list[str]:
    """Paths of the local files that are not as they were; ImgembedError where one has vanished."""
    found = []
    for info in before:
        if not is_local(info.path):
            continue
        now = describe(info.path)
        if now != info and not os.path.exists(info.path):
            raise ImgembedError(f"{info.path}: has vanished while it was wanted; run it again")
        if now != info:
            found.append(info.path)
    return found


def is_local(path: str) -> bool:
    """Whether a path names no file system, such as `gs://`."""
    return "://" not in path


def canonical(path: str) -> str:
    """The one name of a file that several paths may lead to."""
    return os.path.realpath(path) if is_local(path) else path


def as_text(path: str) -> str:
    """The path without bytes that are no text: a name on a disk need not be UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


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
    ImgembedError where a name in a folder leads to no file, so that nothing is left out unsaid.
    """
    if is_local(path):
        found = [_found(name) for name in _local_files(path) if not _is_hidden(name)]
    else:
        found = [info for info in _bucket_files(path) if not _is_hidden(info.path)]
    return sorted(found, key=lambda info: info.path)


def _is_hidden(path: str) -> bool:
    return os.path.basename(path).startswith((".", "_"))


def _found(path: str) -> FileInfo:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        what = "is a link to a file that is missing" if os.path.islink(path) else "has vanished"
        raise ImgembedError(f"{path}: {what}; put it back, or take it out of the folder") from None
    if not stat.S_ISREG(found.st_mode):
        raise ImgembedError(f"{path}: is neither a file nor a folder; take it out of the folder")
    return FileInfo(path, found.st_size, found.st_mtime)


def _bucket_files(path: str) -> list[FileInfo]:
    files = _beam_files()
    patterns = [path] if any(mark in path for mark in "*?[") else [path, path.rstrip("/") + "/**"]
    found = {  # by path: a folder's own name may match all that is in it a second time
        entry.path: FileInfo(entry.path, entry.size_in_bytes, entry.last_updated_in_seconds or 0.0)
        for match in files.match(patterns)
        for entry in match.metadata_list
        if not entry.path.endswith("/")  # what a console makes to show an empty folder
    }
    return list(found.values())


def open_read(path: str) -> IO[bytes]:
    """Opens a file for reading its bytes as they are."""
    if is_local(path):
        return open(path, "rb")
    return cast("IO[bytes]", _beam_files().open(path, compression_type="uncompressed"))


def open_arrow(path: str) -> Any:
    """Opens a file for Arrow to read.

    Threads of Arrow may let go of a file when the interpreter is already ending; a file of
    Python's, given to `read_table`, now and then ends the whole process with SIGABRT then
    (apache/arrow#50482: once in some hundred runs on a busy machine).
    """
    import pyarrow as pa

    return pa.OSFile(path) if is_local(path) else pa.PythonFile(open_read(path), "r")


class _LocalFile(io.FileIO):
    """A file whose failed writes tell its name, which the system leaves out."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None


def open_write(path: str) -> IO[bytes]:
    """Opens a file for writing; its folder is made where the file system has folders."""
    if is_local(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return io.BufferedWriter(_LocalFile(path, "wb"))
    return cast("IO[bytes]", _beam_files().create(path, compression_type="uncompressed"))


def write_atomic(path: str, data: bytes) -> None:
    """Writes a small file so that a reader sees the old content or the new, never a part."""
    if not is_local(path):  # a bucket's upload is atomic
        with open_write(path) as file:
            file.write(data)
        return
    part = path + ".part"
    try:
        with open_write(part) as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def create(path: str, data: bytes) -> bool:
    """Writes an object where there is none; whether that condition could be made.

    Cloud Storage knows it, and then leaves another one's object as it is. Others are written over.
    """
    if not path.startswith("gs://"):
        with open_write(path) as file:
            file.write(data)
        return False
    from apache_beam.io.gcp.gcsio import GcsIO, parse_gcs_path
    from google.api_core.exceptions import PreconditionFailed

    bucket, name = parse_gcs_path(path)
    with suppress(PreconditionFailed):
        GcsIO().client.bucket(bucket).blob(name).upload_from_string(data, if_generation_match=0)
    return True


def existing_parent(path: str) -> str:
    """The nearest folder of a local path, itself among them, that is there."""
    folder = os.path.abspath(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def make_folder(path: str) -> None:
    """Makes a folder, and those above it, where the file system has folders."""
    if is_local(path):
        os.makedirs(path, exist_ok=True)


def exists(path: str) -> bool:
    """Whether there is a file or folder of that name."""
    return os.path.exists(path) if is_local(path) else bool(_beam_files().exists(path))


def remove_file(path: str) -> None:
    """Removes a file; nothing happens where there is none."""
    if is_local(path):
        with suppress(FileNotFoundError):
            os.unlink(path)
    elif exists(path):
        _beam_files().delete([path])


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
