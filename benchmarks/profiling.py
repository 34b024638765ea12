"""Looks at the threads of this process every few milliseconds, and tells what each has worked at.

In: what to call a stack. Out: CPU and wall seconds by that name. Python's own profilers know one
thread, and no work of native code or child processes; this one asks the kernel what each thread and
each child has worked since the last look, and books it on the stack that the thread has now.
"""

from __future__ import annotations

import collections
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from measuring import process_tree, read_proc

LOOK_SECONDS = 0.02
WAITING, NATIVE, UNSEEN = "waiting", "threads without Python", "not seen"
_PARTS_OF_PATH = 6

# (stack as `file:function` from the innermost frame on, is it the main thread) -> its name.
Namer = Callable[[Sequence[str], bool], str]


class Sampler(threading.Thread):
    """Looks until it is stopped.

    cpu, wall: seconds by name. The wall time between two looks is divided like the work that was
    done in it; where that was less than one core's, the rest is WAITING. UNSEEN is what the process
    worked before and what looking costs. children: the name of all that child processes work.
    """

    def __init__(self, name_of: Namer, children: str) -> None:
        super().__init__(daemon=True)
        self.cpu: dict[str, float] = collections.defaultdict(float)
        self.wall: dict[str, float] = collections.defaultdict(float)
        self._name_of, self._children = name_of, children
        self._done = threading.Event()
        self._main = threading.main_thread().ident
        self._worked: dict[int, float] = {}
        self._looked = time.monotonic()

    def run(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            self._look()

    def stop(self) -> None:
        """Ends it; `cpu` then adds up to what this process and its children have worked."""
        self._done.set()
        self.join()
        self.cpu[UNSEEN] = max(0.0, _worked_in_all() - sum(self.cpu.values()))

    def _look(self) -> None:
        names, now = self._names(), time.monotonic()
        passed, self._looked = now - self._looked, now
        worked: dict[str, float] = collections.defaultdict(float)
        for task, name in names.items():
            seconds = _worked_by(task)
            worked[name] += max(0.0, seconds - self._worked.get(task, 0.0))
            self._worked[task] = seconds
        total = sum(worked.values())
        for name, seconds in worked.items():
            self.cpu[name] += seconds
            self.wall[name] += seconds * passed / max(total, passed)
        self.wall[WAITING] += passed - min(total, passed)

    def _names(self) -> dict[int, str]:
        """{id of a thread or of a child process: what it is at}."""
        frames = sys._current_frames()
        idents = {thread.native_id: thread.ident for thread in threading.enumerate()}
        _, *children = process_tree(os.getpid())
        names = dict.fromkeys(children, self._children)
        for task in map(int, os.listdir("/proc/self/task")):
            ident = idents.get(task)
            frame = None if ident is None else frames.get(ident)
            if task == self.native_id:
                continue
            names[task] = (
                NATIVE if frame is None else self._name_of(_stack(frame), ident == self._main)
            )
        return names


def _stack(frame: FrameType | None) -> list[str]:
    """`file:function`, the file with its last folders, from the innermost frame on."""
    found = []
    while frame is not None:
        code = frame.f_code
        path = "/".join(code.co_filename.rsplit("/", _PARTS_OF_PATH)[1:])
        found.append(f"{path}:{code.co_name}")
        frame = frame.f_back
    return found


def _worked_by(task: int) -> float:
    """CPU seconds of a thread, or of a process of one thread; 0 where it has ended."""
    fields = read_proc(Path(f"/proc/{task}/schedstat")).split()
    return int(fields[0]) / 1e9 if fields else 0.0


def _worked_in_all() -> float:
    """CPU seconds of this process and its children, those at work included."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, *children = process_tree(os.getpid())
    at_work = sum(map(_worked_by, children))
    return time.process_time() + ended.ru_utime + ended.ru_stime + at_work
