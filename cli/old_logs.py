"""Old log files of a run directory go: of each command the newest ones stay.

A process holds its log by the kernel's lock, which ends with the process, however that ends. A log
that is held is never removed; where there are no such locks, none is.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import IO

KEPT = 50  # logs of a command
_NAME = re.compile(r"\d{8}-\d{6}-([a-z-]+)-\d+\.log")  # when it began, which process


def hold(log: IO[str]) -> None:
    """Keeps others from removing a log for as long as this process lives."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)


def remove_old(folder: str, command: str) -> None:
    """Removes the logs of a command in a folder, but for the newest and those that are held."""
    for name in _logs(folder, command)[:-KEPT]:
        with suppress(ImportError, OSError):
            _remove(os.path.join(folder, name))


def _logs(folder: str, command: str) -> list[str]:
    """Names of the logs of a command, the oldest first."""
    with suppress(OSError):
        found = [(name, _NAME.fullmatch(name)) for name in sorted(os.listdir(folder))]
        return [name for name, parts in found if parts and parts[1] == command]
    return []


def _remove(path: str) -> None:
    """Removes a log; OSError where it is held, or nobody can tell."""
    import fcntl

    log = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(log)
