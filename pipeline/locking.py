"""One process at a time writes into a run directory.

On a disk the lock is the kernel's, on a hidden file in the directory: it ends with its holder,
however that ends, and no stale one can be left. Where the kernel has none (buckets, some network
file systems, Windows) the file itself is the lock: it is there for as long as its holder works. One
whose holder has gone from this machine is taken over; of another machine nobody here can know, and
the message says which file to remove.

What stands in the file says who holds it: `process 4711 on host since 2026-01-31 02:00:00: imgembed
run …`, and for programs the machine and the moment the process began.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from pipeline import storage
from pipeline.errors import ImgembedError

LOCK_FILE = ".lock"  # held by the kernel, or an object in a bucket
HELD_FILE = ".lock.held"  # where the kernel holds none
_SETTLED = 2.0  # s; whoever writes a lock at the same moment has done so by then

# Beam's options of some file systems hold keys: `--name=value`, or `--name` and a value after it.
_SECRET = re.compile(
    r"((?:^-|--)\w*(?:key|secret|token|password|connection_string)\w*)(=.*|$)",
    re.IGNORECASE | re.DOTALL,
)
_MOST_BYTES = 16_384  # of what a holder tells of itself

_held: dict[str, bool] = {}  # by this process: {folder: whether it is sure to be alone}


@contextmanager
def alone_in(folder: str) -> Iterator[bool]:
    """Keeps other processes out of a folder, which is made; gives whether it can be sure of it.

    ImgembedError where another process is in it. A process may enter again where it already is.
    """
    path = os.path.realpath(folder) if storage.is_local(folder) else folder.rstrip("/")
    if path in _held:
        yield _held[path]
        return
    sure, release = _take(folder)
    _held[path] = sure
    try:
        yield sure
    finally:
        del _held[path]
        release()


def _take(folder: str) -> tuple[bool, Callable[[], None]]:
    """(whether it is sure to be alone, what gives the lock back) in a folder."""
    if not storage.is_local(folder):
        return _take_object(storage.join(folder, LOCK_FILE), folder)
    os.makedirs(folder, exist_ok=True)
    return _take_of_kernel(folder) or _take_file(os.path.join(folder, HELD_FILE), folder)


# Who holds it -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock. machine, began: tell it from another one of its number."""

    pid: int
    host: str
    since: str
    command: str
    machine: str
    began: str

    @classmethod
    def me(cls) -> Holder:
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            command=command_line()[:300],
            machine=_machine(),
            began=_began(os.getpid()),
        )

    @classmethod
    def read(cls, data: bytes) -> Holder | None:
        """The holder that a lock file names, or None where it names none."""
        with suppress(ValueError, TypeError, IndexError):
            return cls(**json.loads(data.decode().splitlines()[1]))
        return None

    def to_bytes(self) -> bytes:
        return f"{self}\n{json.dumps(asdict(self))}\n".encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}: {self.command}"

    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine, as it was started last."""
        return bool(self.machine) and self.machine == _machine()

    def is_gone(self) -> bool:
        """Whether it is known to have ended."""
        return self.is_here() and _began(self.pid) != self.began


def command_line() -> str:
    """The command that this process is, without values that may be secrets."""
    words = [os.path.basename(sys.argv[0]) or "python"]
    for argument in sys.argv[1:]:
        named = _SECRET.search(words[-1])
        if named and not named[2] and not argument.startswith("-"):
            argument = "…"
        found = _SECRET.search(argument)
        words.append(f"{argument[: found.end(1)]}=…" if found and found[2] else argument)
    # A name that is not UTF-8 is spelled out.
    return shlex.join(words).encode(errors="backslashreplace").decode()


def _machine() -> str:
    """What tells this machine, and a container on it, from all others; empty where unknown."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _began(pid: int) -> str:
    """When a process began, in the kernel's own ticks; empty where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _refuse(folder: str, data: bytes, remedy: str = "") -> ImgembedError:
    holder = Holder.read(data)
    said = str(holder) if holder else data.decode(errors="replace").strip() or "another process"
    return ImgembedError(
        f"run directory {folder!r}: is in use by {said}; wait for it to end, {remedy}"
        "or name another folder with --run-dir"
    )


# The kernel's lock --------------------------------------------------------------------------------


def _take_of_kernel(folder: str) -> tuple[bool, Callable[[], None]] | None:
    """The same by the kernel's lock, or None where there are none."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    lock = os.open(os.path.join(folder, LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, _MOST_BYTES)
        os.close(lock)
        raise _refuse(folder, holder) from None
    except OSError:  # a network file system without locks
        os.close(lock)
        return None

    def release() -> None:
        with suppress(OSError):
            os.ftruncate(lock, 0)
        os.close(lock)  # the file stays: if it went, another process could hold a lock on nothing

    with suppress(OSError):  # a full disk
        os.ftruncate(lock, 0)
        os.write(lock, Holder.me().to_bytes())
    return True, release


# The file as the lock -----------------------------------------------------------------------------


def _take_file(path: str, folder: str) -> tuple[bool, Callable[[], None]]:
    """The same by a file that nobody else can make while it is there."""
    mine = Holder.me().to_bytes()
    taken_over = os.path.exists(path) and _remove_stale(path, folder)
    try:
        lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        raise _refuse(folder, _content(path), _by_hand(path)) from None
    try:
        os.write(lock, mine)
    except OSError:  # a full disk
        os.unlink(path)
        raise
    finally:
        os.close(lock)
    return _hold(path, folder, mine, settled=not taken_over)


def _take_object(path: str, folder: str) -> tuple[bool, Callable[[], None]]:
    """The same in a bucket; not sure where that cannot make a file on condition."""
    mine = Holder.me().to_bytes()
    taken_over = storage.exists(path) and _remove_stale(path, folder)
    conditional = storage.create(path, mine)
    held, release = _hold(path, folder, mine, settled=conditional and not taken_over)
    return held and conditional, release


def _hold(path: str, folder: str, mine: bytes, *, settled: bool) -> tuple[bool, Callable[[], None]]:
    """Reads back who holds it: of several that took it over, or wrote it, at once, the last one."""
    if not settled:
        time.sleep(_SETTLED)
    if _content(path) != mine:
        raise _refuse(folder, _content(path), _by_hand(path))
    return True, lambda: _remove_mine(path, mine)


def _remove_stale(path: str, folder: str) -> bool:
    """Removes a lock whose holder has ended; ImgembedError where it has not, or may not have."""
    data = _content(path)
    holder = Holder.read(data)
    if holder is None or not holder.is_gone():
        here = holder is not None and holder.is_here()
        raise _refuse(folder, data, "" if here else _by_hand(path))
    storage.remove_file(path)
    return True


def _by_hand(path: str) -> str:
    return f"or, if it is known to have ended, remove {path}, "


def _content(path: str) -> bytes:
    """What a lock file holds; nothing where it has gone by now."""
    try:
        with storage.open_read(path) as file:
            return file.read()
    except OSError:
        return b""


def _remove_mine(path: str, mine: bytes) -> None:
    with suppress(OSError):
        if _content(path) == mine:
            storage.remove_file(path)
