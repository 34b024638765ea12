"""What this machine has: memory, disk, and what the system tells of processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from pipeline import storage

_CGROUP = "/sys/fs/cgroup"


def available_memory() -> int | None:
    """Bytes that this process may still take, by the system and by its control group."""
    found = [*_of_system(), *_of_group()]
    return min(found, default=None)


def _of_system() -> Iterable[int]:
    for line in text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_group() -> Iterable[int]:
    limit, used = (text(f"{_CGROUP}/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        yield max(0, int(limit) - int(used))


def text(path: str) -> str:
    """What a file of the system says; nothing where there is none."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def available_disk(run_dir: str) -> int | None:
    """Bytes free where the run directory is or will be; None for a bucket."""
    if not storage.is_local(run_dir):
        return None
    return shutil.disk_usage(storage.existing_parent(run_dir)).free
