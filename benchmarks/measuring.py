"""Runs programs and measures them: wall and CPU seconds and memory of a process and all it starts.

In: command lines. Out: a Usage each, the median of several runs that take turns, so that what else
the machine does meets all of them alike.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 0.05
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Usage:
    """What a run took, with all processes that it started.

    wall, cpu: seconds; cpu is user and system. peak: bytes of resident memory; what processes share
    counts in each. own: the same without pages of files, which the system drops when it needs room.
    """

    wall: float
    cpu: float
    peak: float
    own: float


@dataclass(frozen=True)
class Run:
    """A program to be measured.

    out: a folder that is made anew for it; what it prints goes to `said.txt` there. inputs: files
    that are read once before, so that none pays for a cold disk. before: is given `out` and puts
    there what is not to be measured.
    """

    command: Sequence[str]
    out: Path
    inputs: Sequence[Path] = ()
    before: Callable[[Path], object] | None = None


def take_turns(runs: Mapping[str, Run], repeat: int) -> dict[str, Usage]:
    """The median Usage of each run."""
    found: dict[str, list[Usage]] = {name: [] for name in runs}
    for turn, name in itertools.product(range(repeat), runs):
        for path in runs[name].inputs:
            warm_up(path)
        print(f"running {name} ({turn + 1} of {repeat})", file=sys.stderr)
        found[name].append(measure(runs[name]))
    return {name: median(usages) for name, usages in found.items()}


def measure(run: Run) -> Usage:
    """Runs a program once; SystemExit with what it said where it fails."""
    shutil.rmtree(run.out, ignore_errors=True)
    run.out.mkdir(parents=True)
    if run.before is not None:
        run.before(run.out)
    with (run.out / "said.txt").open("wb") as said:
        began = time.monotonic()
        process = subprocess.Popen(run.command, stdout=said, stderr=subprocess.STDOUT)
        status, cpu, peak, own = watch(process.pid)
        wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words = (run.out / "said.txt").read_text(errors="replace")[-3000:]
        raise SystemExit(f"{words}\n{' '.join(run.command)}\nfailed with {process.returncode}")
    return Usage(wall, cpu, peak, own)


def watch(pid: int) -> tuple[int, float, float, float]:
    """(wait status, CPU seconds, peak, own) of a child and all it starts, once it has ended."""
    peak = own = 0.0
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, used.ru_utime + used.ru_stime, peak, own
        sizes = [memory_of(each) for each in process_tree(pid)]
        # A single process's own peak is exact; that of a tree is what the samples see.
        peak = max([peak, sum(size.now for size in sizes), *(size.most for size in sizes)])
        own = max(own, sum(size.own for size in sizes))
        time.sleep(SAMPLE_SECONDS)


def process_tree(pid: int) -> Iterator[int]:
    """The process and its descendants."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in read_proc(thread).split():
            yield from process_tree(int(child))


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a process: now, the most there have been, now without pages of files."""

    now: int
    most: int
    own: int


def memory_of(pid: int) -> Memory:
    """Of a process; zeros where it has ended."""
    lines = read_proc(Path(f"/proc/{pid}/status")).splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    now, most, anonymous, shared = (
        int(fields.get(name, "0 kB").split()[0]) * 1024
        for name in ("VmRSS", "VmHWM", "RssAnon", "RssShmem")
    )
    return Memory(now, most, anonymous + shared)


def read_proc(path: Path) -> str:
    """A file of /proc; empty where its process ended in between."""
    try:
        return path.read_text()
    except OSError:
        return ""


def warm_up(path: Path) -> None:
    """Reads a file once."""
    with path.open("rb") as file:
        while file.read(_BLOCK_BYTES):
            pass


def median(usages: Sequence[Usage]) -> Usage:
    """The median of each figure."""
    return Usage(*map(statistics.median, zip(*map(astuple, usages), strict=True)))


def use_cores(number: int) -> None:
    """This process, and all it starts, on so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def describe_machine(cores: int, packages: Sequence[str]) -> dict[str, Any]:
    """What figures were measured on."""
    return {
        "cores": cores,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


def made_once(path: Path, write: Callable[[Path], None]) -> Path:
    """A file of the work folder; made where it is not there yet, whole or not at all."""
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr)
        unfinished = path.with_suffix(".unfinished")
        write(unfinished)
        unfinished.rename(path)
    return path
