"""One process at a time writes into a run directory.

The lock is the kernel's, on a hidden file in the directory: it ends with its holder, however that
ends, and no stale one can be left. What stands in the file is for people only. Buckets, and file
systems that know no locks, have none.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline import storage
from pipeline.errors import ImgembedError

LOCK_FILE = ".lock"

_held: set[str] = set()  # by this process


@contextmanager
def alone_in(folder: str) -> Iterator[bool]:
    """Keeps other processes out of a folder, which is made; gives whether it can be sure of it.

    ImgembedError where another process is in it. A process may enter again where it already is.
    """
    path = os.path.realpath(folder) if storage.is_local(folder) else folder
    if path in _held:
        yield True
        return
    lock = _take(folder) if storage.is_local(folder) else None
    if lock is None:
        yield False
        return
    _held.add(path)
    try:
        yield True
    finally:
        _held.discard(path)
        with suppress(OSError):
            os.ftruncate(lock, 0)
        os.close(lock)  # the file stays: if it went, another process could hold a lock on nothing


def _take(folder: str) -> int | None:
    """The open file that holds the lock, or None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    os.makedirs(folder, exist_ok=True)
    lock = os.open(os.path.join(folder, LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 1_000).decode(errors="replace").strip() or "another process"
        os.close(lock)
        raise ImgembedError(
            f"run directory {folder!r}: is in use by {holder}; "
            "wait for it to end, or name another folder with --run-dir"
        ) from None
    except OSError:  # a network file system without locks
        os.close(lock)
        return None
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):  # a full disk
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
    return lock
