"""Tables on their way from one Beam step to the next: in memory, or in files of a local folder.

The embedded runner holds all that it shuffles in memory, several times over. While `spilling`, it
holds for each table where in which file it lies. Many tables share a file: a shuffle among n shards
has n x n of them, the smaller the more shards there are, and neither their number nor their size
may decide how much memory a job needs. Other engines have a shuffle of their own, and their
workers, being other processes, never see the folder.
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

_LEAST_BYTES = 1 << 12  # of a table that is spilled
_FILE_BYTES = 1 << 26  # a file that has so many takes no further table
_ALIGNMENT = 64  # of a table in its file, as Arrow wants it in memory
_INLINE, _IN_FILE = b"\x00", b"\x01"


@dataclass(frozen=True)
class Spot:
    """Where a spilled table lies, an Arrow IPC stream of `length` bytes."""

    path: str
    start: int
    length: int

    def read(self) -> pa.Table:
        """The table, mapped into memory and read where it is used."""
        with pa.memory_map(self.path) as file:
            file.seek(self.start)
            return pa.ipc.open_stream(file.read_buffer(self.length)).read_all()


class _Spill:
    """The files of one job. Each thread writes to one of its own."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names = itertools.count()
        self._mine = threading.local()
        self._files: list[pa.NativeFile] = []

    def write(self, table: pa.Table) -> Spot:
        path, file = self._file()
        try:
            file.write(b"\x00" * (-file.tell() % _ALIGNMENT))
            start = file.tell()
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
            return Spot(path, start, file.tell() - start)
        except OSError as error:
            raise _of_file(error, path) from None

    def _file(self) -> tuple[str, pa.NativeFile]:
        """This thread's file, another one where the last is full."""
        mine: tuple[str, pa.NativeFile] | None = getattr(self._mine, "file", None)
        if mine is None or mine[1].tell() >= _FILE_BYTES:
            if mine is not None:
                mine[1].close()
            os.makedirs(self._folder, exist_ok=True)
            path = os.path.join(self._folder, f"{next(self._names):06d}.arrow")
            mine = self._mine.file = path, _opened(path)
            self._files.append(mine[1])
        return mine

    def remove(self) -> None:
        for file in self._files:
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _opened(path: str) -> pa.NativeFile:
    try:
        return pa.OSFile(path, "wb")
    except OSError as error:
        raise _of_file(error, path) from None


def _of_file(error: OSError, path: str) -> OSError:
    """Arrow's own error does not name the file."""
    return OSError(error.errno, error.strerror, path)


_spill: _Spill | None = None


@contextmanager
def spilling(folder: str) -> Iterator[None]:
    """Keeps tables between the steps of an embedded job in files of a local folder.

    The folder is made when it is needed and removed at the end.
    """
    global _spill
    _spill = _Spill(folder)
    try:
        yield
    finally:
        ended, _spill = _spill, None
        ended.remove()


class TableCoder(beam.coders.Coder):
    """pa.Table as an Arrow IPC stream: a third of the cost of pickle, and readable elsewhere."""

    def encode(self, value: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.Table:
        return pa.ipc.open_stream(encoded).read_all()

    def estimate_size(self, value: pa.Table) -> int:
        return int(value.nbytes)  # without this Beam encodes a table a second time to measure it

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type[pa.Table]:
        return pa.Table


class Parcel:
    """A table on its way from one step to another, read where it is needed."""

    def __init__(self, content: pa.Table | Spot) -> None:
        self._content = content

    def table(self) -> pa.Table:
        return self._content.read() if isinstance(self._content, Spot) else self._content

    def spilled(self) -> Spot | None:
        """Where the table lies, written if that is called for; None if it travels itself."""
        if isinstance(self._content, Spot):
            return self._content
        if _spill is None or self._content.nbytes < _LEAST_BYTES:
            return None
        self._content = _spill.write(self._content)
        return self._content


# A parcel and the shard that it belongs to: what JoinShards takes from the steps before it.
Shipped = tuple[int, Parcel]


def ship(table: pa.Table) -> Parcel:
    """A table as a parcel, in its file already where it needs one."""
    parcel = Parcel(table)
    parcel.spilled()
    return parcel


class ParcelCoder(beam.coders.Coder):
    """A parcel as the place of its table, or as the table itself."""

    def encode(self, value: Parcel) -> bytes:
        spot = value.spilled()
        if spot is not None:
            return _IN_FILE + f"{spot.start}:{spot.length}:{spot.path}".encode()
        return _INLINE + TableCoder().encode(value.table())

    def decode(self, encoded: bytes) -> Parcel:
        kind, content = encoded[:1], encoded[1:]
        if kind == _INLINE:
            return Parcel(TableCoder().decode(content))
        start, length, path = content.decode().split(":", 2)
        return Parcel(Spot(path, int(start), int(length)))

    def estimate_size(self, value: Parcel) -> int:
        return (
            100  # of a place; Beam asks for every so many elements, and a table is not to be read
        )

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type[Parcel]:
        return Parcel


beam.coders.registry.register_coder(pa.Table, TableCoder)
beam.coders.registry.register_coder(Parcel, ParcelCoder)
