"""How long a stage took, and the most memory that it held.

The kernel's own high-water mark of a process (`ru_maxrss`, `VmHWM`) counts from its beginning, so
that a later stage would seem to need what an earlier one did. Linux can set it back; where it
cannot be set back, it tells only if it rises. Processes that a stage starts (decoders of pictures)
are looked at several times a second.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cli.machine import text

_PAUSE = 0.2  # s, between two looks at other processes
_NEAR = 32 << 20  # bytes that a process may free between two looks at it


@dataclass(frozen=True)
class Measured:
    """What was measured. peak_memory: bytes of this process and its children; None = unknown."""

    seconds: float
    peak_memory: int | None


class Watch:
    """Measures for as long as its block lasts."""

    def __enter__(self) -> Watch:
        self._began = time.monotonic()
        self._is_from_now = _set_peak_back()
        self._before = _peak()
        self._children = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_PAUSE):
            self._children = max(self._children, sum(map(resident, children(os.getpid()))))

    def so_far(self) -> Measured:
        """What was measured up to now."""
        peak = _peak()
        told = peak is not None and (
            self._is_from_now or self._before is None or peak > self._before
        )
        return Measured(
            time.monotonic() - self._began, peak + self._children if told and peak else None
        )


def _set_peak_back() -> bool:
    """Sets this process's high-water mark back to what it holds now; whether that was done."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    peak = _status(os.getpid(), "VmHWM:")
    return peak is not None and peak <= resident(os.getpid()) + _NEAR


def _peak() -> int | None:
    """The most bytes this process has held since it began, or since the mark was set back."""
    found = _status(os.getpid(), "VmHWM:")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident(pid: int) -> int:
    """Bytes that a process holds now; 0 where it has ended."""
    return _status(pid, "VmRSS:") or 0


def _status(pid: int, name: str) -> int | None:
    for line in text(f"/proc/{pid}/status").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return None


def children(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that these have."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        for child in map(int, text(f"/proc/{pid}/task/{task}/children").split()):
            yield child
            yield from children(child)
