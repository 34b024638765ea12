"""Where pictures are: paths, bucket addresses, and members of archives that either runs through.

In: a uri as a table or a listing has it. Out: the place it names, and the bytes that are there.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import stat
from collections.abc import Iterator

from pipeline import storage
from pipeline.errors import ImgembedError
from pipeline.examples.catalog.archives import (
    EXTENSION,
    MAX_BYTES,
    TOO_LARGE,
    UnreadableError,
    open_archive,
)

UNREADABLE_URI = "the file that uri names cannot be read"
_FILE_SCHEME = "file://"
_KNOWN_ARCHIVES = 1024
_NOT_FOUND = 404
_ZIP_NAME = re.compile(re.escape(EXTENSION) + "(?=/)", re.IGNORECASE)


def resolve(uri: str, root: str) -> str:
    """The place that a uri names: relative ones start from `root`, a folder or an archive."""
    if uri.startswith(_FILE_SCHEME):
        return uri[len(_FILE_SCHEME) :]
    if not storage.is_local(uri) or os.path.isabs(uri):
        return uri
    return storage.join(root, uri)


def read_bytes(uri: str) -> bytes:
    """The bytes of the picture at a place; UnreadableError with the reason where there are none.

    An archive that cannot be read at all is another ImgembedError: it is not one row's fault.
    """
    try:
        data = _read(uri)
    except (OSError, ValueError, ImportError) as error:  # also: an unknown kind of address
        raise UnreadableError(UNREADABLE_URI) from error
    if len(data) > MAX_BYTES:
        raise UnreadableError(TOO_LARGE)
    return data


def _read(uri: str) -> bytes:
    place = locate(uri)
    if place is None:
        return _read_local(uri) if storage.is_local(uri) else _read_object(uri)
    path, member = place
    try:
        archive = open_archive(path)
    except ImgembedError as error:
        if path.lower().endswith(EXTENSION):
            raise
        raise UnreadableError(UNREADABLE_URI) from error  # a path through a file of another kind
    return archive.read(member)


def _read_local(path: str) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would already wait for ever
        raise UnreadableError(UNREADABLE_URI)
    with storage.open_read(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise UnreadableError(TOO_LARGE)
        return file.read(MAX_BYTES + 1)  # one below /proc says 0 bytes, and may have no end


def _read_object(path: str) -> bytes:
    try:
        with storage.open_read(path) as file:
            return file.read(MAX_BYTES + 1)
    except Exception as error:
        # Each store has exceptions of its own; only "not found" is the row's fault.
        if getattr(error, "code", None) == _NOT_FOUND:
            raise FileNotFoundError(path) from error
        raise


def locate(path: str) -> tuple[str, str] | None:
    """(archive, member) of a path that runs through a file; None for any other.

    In a bucket, where folders are but a part of names, an archive is an object named *.zip.
    """
    if storage.is_local(path):
        archive = _file_above(path)
    else:
        archive = next(filter(_is_object, _zip_names(path)), None)
    if archive is None:
        return None
    return archive, posixpath.normpath(path[len(archive) :].lstrip("/"))


def _file_above(path: str) -> str | None:
    folder = os.path.dirname(path)
    while folder not in ("", "/"):
        if os.path.isdir(folder):
            return None
        if os.path.isfile(folder):
            return folder
        folder = os.path.dirname(folder)
    return None


def _zip_names(path: str) -> Iterator[str]:
    for found in _ZIP_NAME.finditer(path):
        yield path[: found.end()]


@functools.lru_cache(_KNOWN_ARCHIVES)
def _is_object(path: str) -> bool:
    try:
        return storage.exists(path)
    except (ValueError, ImportError):  # an unknown kind of address
        return False
