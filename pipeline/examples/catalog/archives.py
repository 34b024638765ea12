"""Zip archives of pictures, read in place: a member's bytes without unpacking, from any thread.

In: the path of an archive, local or in a bucket. Out: its members, and the bytes of one. An archive
that cannot be read at all is an error that names it; of a damaged member only that one is lost.
"""

from __future__ import annotations

import functools
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, NamedTuple

from pipeline import storage
from pipeline.errors import ImgembedError

EXTENSION = ".zip"
MAX_BYTES = 512 << 20  # of a picture's file; none of images.max_pixels is as large
TOO_LARGE = f"the picture's file is larger than {MAX_BYTES >> 20} MiB"
NO_MEMBER = "the archive that uri names has no such file"
DAMAGED = "the picture is damaged in its archive"
_OPEN_ARCHIVES = 8
_OPENING = threading.Lock()
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and the extra field
_SIGNATURE = b"PK\x03\x04"
_STARTS = (_SIGNATURE, b"PK\x05\x06")  # the second: an archive of nothing
_ENCRYPTED, _UTF8 = 1, 0x800  # flags
_CANNOT_OPEN = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error)


class UnreadableError(ImgembedError):
    """A picture whose bytes cannot be had; the message is the reason a rejected row carries."""


class Member(NamedTuple):
    """A file in an archive. start: of its local header. packed, size: bytes, before and after."""

    start: int
    packed: int
    size: int
    checksum: int
    method: int
    encrypted: bool


class Archive:
    """An open archive; any number of threads may read at once."""

    def __init__(self, path: str, source: IO[bytes]) -> None:
        self.path = path
        self.members: Mapping[str, Member] = _read_directory(path, source)
        self._source = source
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        """The bytes of a member; UnreadableError where they cannot be had."""
        member = self.members.get(name)
        if member is None:
            raise UnreadableError(NO_MEMBER)
        self.check(name)
        if max(member.size, member.packed) > MAX_BYTES:
            raise UnreadableError(TOO_LARGE)
        data = _unpack(member, self._packed(member))
        if data is None or zlib.crc32(data) != member.checksum:
            raise UnreadableError(DAMAGED)
        return data

    def check(self, name: str) -> None:
        """ImgembedError where the member is packed in a way that nothing here reads."""
        member = self.members[name]
        if member.encrypted:
            raise ImgembedError(
                f"{self.path}: {name!r} is encrypted; make the archive anew without a password"
            )
        if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ImgembedError(
                f"{self.path}: {name!r} is compressed by method {member.method}; make the archive "
                "anew with deflate, or without compression"
            )

    def _packed(self, member: Member) -> bytes:
        header = self._read_at(member.start, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(_SIGNATURE):
            raise UnreadableError(DAMAGED)
        _, name, extra = _LOCAL_HEADER.unpack(header)
        return self._read_at(member.start + _LOCAL_HEADER.size + name + extra, member.packed)

    def _read_at(self, start: int, size: int) -> bytes:
        if storage.is_local(self.path):
            return os.pread(self._source.fileno(), size, start)  # has no position to share
        with self._lock:
            self._source.seek(start)
            return self._source.read(size)


def _unpack(member: Member, data: bytes) -> bytes | None:
    """The member's bytes, as many as it says that it has; None where it has another number."""
    if member.method == zipfile.ZIP_DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
        except zlib.error:
            return None
    return data if len(data) == member.size else None


def _read_directory(path: str, source: IO[bytes]) -> dict[str, Member]:
    """The files of an archive, in the order in which they lie in it."""
    try:
        infos = zipfile.ZipFile(source).infolist()
    except _CANNOT_OPEN as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImgembedError(
            f"{path}: not readable as a zip archive, cut short or damaged ({detail})"
        ) from error
    return {
        _name(info): Member(
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.CRC,
            info.compress_type,
            bool(info.flag_bits & _ENCRYPTED),
        )
        for info in sorted(infos, key=lambda info: info.header_offset)
        if not info.is_dir()
    }


def _name(info: zipfile.ZipInfo) -> str:
    """The member's path; some programs write UTF-8 and do not say so."""
    if not info.flag_bits & _UTF8 and not info.filename.isascii():
        try:
            return info.filename.encode("cp437").decode()
        except UnicodeError:
            pass
    return info.filename


def open_archive(path: str) -> Archive:
    """An archive, opened once a process as long as it is one of the last few that were asked for.

    A local one that has changed since is opened anew.
    """
    info = storage.describe(path)
    with _OPENING:
        return _opened(info)


@functools.lru_cache(_OPEN_ARCHIVES)
def _opened(info: storage.FileInfo) -> Archive:
    source = storage.open_read(info.path)  # closed when the last reader lets go of it
    return Archive(info.path, source)


def is_archive(path: str) -> bool:
    """Whether a file's name or its first bytes say that it is a zip archive."""
    if path.lower().endswith(EXTENSION):
        return True
    with storage.open_read(path) as source:
        return source.read(len(_SIGNATURE)) in _STARTS
