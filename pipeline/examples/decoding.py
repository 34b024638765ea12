"""Pictures decoded in processes of their own: one that hangs or crashes costs one picture.

A process may also be killed through no fault of its picture, where memory is short for one: the
picture is given to a second process, and only one that ends that as well is rejected. In: the bytes
of picture files. Out: pictures.Picture, or the reason why there is none. Each thread has a process
that it keeps, `decode_worker`, so that threads decode on all cores without Python's lock.
"""

from __future__ import annotations

import fcntl
import math
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO

import PIL

import pipeline
from pipeline.errors import ImgembedError
from pipeline.examples import decode_worker
from pipeline.examples.pictures import Encoding, Picture

TOO_SLOW = "the picture takes longer to decode than images.max_seconds"
CRASHED = "the decoder crashed on the picture"

_GROUP_BYTES = 8 * 2**20
_PIPE_BYTES = 2**20
_READ_BYTES = _WRITE_BYTES = 2**16
# Waking up for every answer costs a tenth of decoding; a nap lets some answers come together.
_NAP_SECONDS = 0.002
_LONGEST_POLL = 2**31 - 1  # milliseconds
_START_SECONDS = 60.0  # a tenth of one will do, but not on every machine
# What the process imports: this package and this Pillow, wherever it runs and whatever lies there.
_IMPORT_ROOTS = [
    str(Path(folder).absolute().parent) for folder in (pipeline.__path__[0], PIL.__path__[0])
]
_PROGRAM = (
    "import sys; sys.path += sys.argv[1:3]; "
    "from pipeline.examples import decode_worker; decode_worker.main(*sys.argv[3:])"
)
# Where a Python that is not the system's may find its libraries; all else stays out.
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True)
class PictureSettings:
    """What pictures become (a square of image_size pixels a side), and what they may cost."""

    image_size: int
    max_pixels: int
    max_seconds: float
    encoding: Encoding


def decode_pictures(
    contents: Iterable[bytes], settings: PictureSettings
) -> Iterator[Picture | str]:
    """For each picture file, in order, the picture or the reason why there is none.

    Reads ahead: some megabytes of files. The process is the calling thread's, started at the first
    call, and ends with the thread; one of a picture that is given up is ended, and replaced.
    """
    with _Lease(settings) as lease:
        for group in _groups(contents):
            yield from _decode_group(group, lease)


def _groups(contents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Of at most _GROUP_BYTES each, or of one picture."""
    group: list[bytes] = []
    size = 0
    for content in contents:
        if group and size + len(content) > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(content)
        size += len(content)
    if group:
        yield group


class _Lease:
    """The calling thread's process, for the time in which nothing else may use it."""

    _kept = threading.local()

    def __init__(self, settings: PictureSettings) -> None:
        self._settings = settings
        self._worker: _Worker | None = None

    def __enter__(self) -> _Lease:
        self._worker = self._kept.__dict__.pop("worker", None)
        return self

    def worker(self) -> _Worker:
        """One that can take a group: the same as before, if it can."""
        if self._worker is None or not self._worker.is_ready_for(self._settings):
            self._end_worker()
            self._worker = self._started()
        return self._worker

    def _started(self) -> _Worker:
        try:
            return _Worker(self._settings)
        except _EndedAtStartError:
            return _Worker(self._settings)

    def __exit__(self, *_: object) -> None:
        worker = self._worker
        if worker and worker.is_ready_for(self._settings) and not hasattr(self._kept, "worker"):
            self._kept.worker = worker
        else:  # it is at pictures that nobody waits for any more, or the thread has another
            self._end_worker()

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()


def _decode_group(group: list[bytes], lease: _Lease) -> Iterator[Picture | str]:
    done, crashed_at = 0, -1
    while done < len(group):
        try:
            for answer in lease.worker().decode(group[done:]):
                done += 1
                yield answer
        except _GivenUpError as error:
            if str(error) == CRASHED and crashed_at != done:
                crashed_at = done
                continue
            done += 1
            yield str(error)


class _GivenUpError(Exception):
    """A picture without an answer; the message is the reason. Its process has ended."""


class _EndedAtStartError(ImgembedError):
    """A signal ended a process before it could take a picture, as where memory is short."""


class _Worker:
    """A process that decodes, from its start to its end: that of this object, at the latest."""

    def __init__(self, settings: PictureSettings) -> None:
        self._settings = settings
        self._owner = os.getpid()
        self._process = _start(settings)
        self.end = weakref.finalize(self, _end, self._process, self._owner)
        self._requests, self._answers = _stream(self._process.stdin), _stream(self._process.stdout)
        _widen(self._answers)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._received = bytearray()
        self._heard_at = time.monotonic()  # when the latest answer came
        self._unanswered = 0  # pictures
        self._await_start()

    def is_ready_for(self, settings: PictureSettings) -> bool:
        """Whether it waits for pictures that are to become this, and is this process's own."""
        return (
            self._settings == settings
            and self._owner == os.getpid()  # a fork has its parent's objects
            and self._unanswered == 0
            and self._process.poll() is None
        )

    def decode(self, group: Sequence[bytes]) -> Iterator[Picture | str]:
        """An answer for each picture, up to a _GivenUpError for the first that gets none."""
        self._unanswered = len(group)
        self._send(group)
        for _ in group:
            answer = self._read_answer()
            self._unanswered -= 1
            yield answer

    def _await_start(self) -> None:
        try:
            self._receive(len(decode_worker.READY), seconds=_START_SECONDS)
        except _GivenUpError as error:
            lines = _stream(self._process.stderr).read().decode(errors="replace").splitlines()
            ended_by = -(self._process.returncode or 0)
            killed = str(error) == CRASHED and ended_by > 0
            silent = f"signal {ended_by} ended it" if killed else "it says nothing"
            raise (_EndedAtStartError if killed else ImgembedError)(
                f"the process that decodes pictures does not start with {sys.executable!r}: "
                f"{lines[-1] if lines else silent}"
            ) from error
        _stream(self._process.stderr).close()

    def _send(self, group: Sequence[bytes]) -> None:
        header = decode_worker.COUNT.pack(len(group))
        sizes = b"".join([decode_worker.SIZE.pack(len(data)) for data in group])
        try:
            self._requests.writelines([header, sizes, *group])
            self._requests.flush()
        except OSError as error:  # a broken pipe: it could not even hold the first picture
            raise self._give_up(CRASHED) from error
        self._heard_at = time.monotonic()

    def _read_answer(self) -> Picture | str:
        if not self._received:
            time.sleep(_NAP_SECONDS)
        header = self._receive(decode_worker.ANSWER.size)
        is_picture, *sums, size = decode_worker.ANSWER.unpack(header)
        content = self._receive(size)
        if not is_picture:
            return content.decode()
        return Picture(content, (sums[0], sums[1], sums[2]), (sums[3], sums[4], sums[5]))

    def _receive(self, size: int, *, seconds: float | None = None) -> bytes:
        """The next `size` bytes; _GivenUpError where nothing comes for max_seconds, or the end."""
        limit = self._settings.max_seconds if seconds is None else seconds
        while len(self._received) < size:
            left = max(0.0, self._heard_at + limit - time.monotonic())
            if not self._poll.poll(min(math.ceil(left * 1000), _LONGEST_POLL)):
                raise self._give_up(TOO_SLOW)
            data = os.read(self._answers.fileno(), _READ_BYTES)
            if not data:
                raise self._give_up(CRASHED)
            self._received += data
            self._heard_at = time.monotonic()
        found = bytes(self._received[:size])
        del self._received[:size]
        return found

    def _give_up(self, reason: str) -> _GivenUpError:
        self._process.kill()
        self._process.wait()
        return _GivenUpError(reason)


def _start(settings: PictureSettings) -> subprocess.Popen[bytes]:
    """Isolated (-I) and without site packages (-S): only what _IMPORT_ROOTS holds is found."""
    options = map(str, astuple(settings))
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-S", "-c", _PROGRAM, *_IMPORT_ROOTS, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=_WRITE_BYTES,
            cwd=os.sep,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
    except OSError as error:
        raise ImgembedError(
            f"the process that decodes pictures does not start with {sys.executable!r}: {error}"
        ) from error


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # all three are pipes
    return stream


def _widen(pipe: IO[bytes]) -> None:
    """Room for more answers, so that the process goes on while nobody takes them."""
    with suppress(AttributeError, OSError):  # Linux has it, up to a limit for each user
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """Kills it and closes its pipes; a fork of its parent only closes them."""
    if os.getpid() == owner:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError):  # what could not be sent
            _stream(stream).close()
