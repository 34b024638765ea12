"""Memory of this process: freed blocks are kept for the next column, up to a limit."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

import pyarrow as pa

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 1 << 30  # bytes
_MOST_FREED = 128 << 20  # bytes that are kept where a step asks for less


def keep_freed_memory() -> None:
    """Lets the allocator keep what is freed, up to a gigabyte a block; nothing where it cannot.

    glibc asks the system for every block of 32 MB and more, and gives it back at once; the system
    then clears page after page for the next column of numbers. That took a fifth of the time that
    counting took, and more with several threads.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, _LARGE)


def share_freed_memory() -> None:
    """Lets Arrow take its memory from that same allocator, where it is kept.

    Arrow's own gives it back, and the pages that the records of examples are joined in are cleared
    again and again.
    """
    if sys.platform.startswith("linux"):
        pa.set_memory_pool(pa.system_memory_pool())


def release_freed_memory(most: int = _MOST_FREED) -> None:
    """Gives freed memory back to the system where more than `most` bytes of it are kept.

    What is freed between blocks in use is kept too, in pieces that the next large column does not
    fit into: in a long run there are ever more of them, several times what is in use.
    """
    libc = _glibc()
    if libc is not None and libc.mallinfo2().fordblks > most:
        libc.malloc_trim(0)


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


@functools.cache
def _glibc() -> Any:
    """The C library, if it is a glibc of 2.33 or later; else None."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2") or not hasattr(libc, "malloc_trim"):
        return None
    libc.mallinfo2.restype = _Mallinfo
    return libc
