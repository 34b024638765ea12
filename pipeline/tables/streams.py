"""The bytes of a file, decompressed, where a file that is cut short or damaged is an error.

In: a path and its compression. Out: a stream of bytes that ends only where the file does.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Literal, cast

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ImgembedError

Compression = Literal["none", "gzip", "zstd"]
_BUFFER_BYTES = 1 << 20


@contextmanager
def open_path(path: str, compression: Compression) -> Iterator[IO[bytes]]:
    """A file's decompressed bytes; EOFError or OSError where a compressed file is cut short."""
    with storage.open_read(path) as source:
        if compression == "none":
            yield source
        elif compression == "gzip":
            # Python's gzip checks length and checksum; the buffer makes its lines fast.
            raw: Any = gzip.GzipFile(fileobj=cast(Any, _NotEmpty(source)), mode="rb")
            yield io.BufferedReader(raw, _BUFFER_BYTES)
        else:
            # Arrow's reader tells a frame that is cut short, and reads on after the first frame;
            # that of `zstandard` does neither.
            raw = pa.CompressedInputStream(pa.PythonFile(_NotEmpty(source), mode="r"), "zstd")
            yield io.BufferedReader(raw, _BUFFER_BYTES)


class _NotEmpty:
    """A file of which nothing is an error: no compressed file has no bytes."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source = source
        self.closed = False
        self.empty = True

    def read(self, size: int = -1) -> bytes:
        data = self.source.read(size)
        if self.empty and not data and size != 0:
            raise EOFError("an empty file")
        self.empty = False
        return data

    def close(self) -> None:
        self.closed = True


@contextmanager
def reading(path: str, kind: str) -> Iterator[None]:
    """Turns what a broken file raises into one line that names the file. kind: what it should be.

    For a `with` inside a generator: what its caller raises does not come through here.
    """
    try:
        yield
    except ImgembedError:
        raise
    except FileNotFoundError as error:
        raise ImgembedError(f"{path}: gone since the files were listed; run again") from error
    except EOFError as error:
        raise ImgembedError(f"{path}: the compressed file is cut short; copy it anew") from error
    except (OSError, pa.ArrowException, zlib.error, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ImgembedError(f"{path}: not readable as {kind} ({detail})") from error
