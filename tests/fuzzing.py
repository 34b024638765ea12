"""What the fuzz tests share: how many cases there are, how long one may take, damage to files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pipeline.errors import ImgembedError

# How many cases all properties have together: `make fuzz` sets it. Without it there are few, and
# always the same ones.
TOTAL = int(os.environ.get("IMGEMBED_FUZZ", "0"))
SHARES = 1_000  # what the numbers of all `cases` add up to
_FEW = 2  # SHARES / _FEW cases without TOTAL
SECONDS = 20.0  # far more than any case takes, also beside other work


def cases(share: int) -> Callable[[Any], Any]:
    """The settings of a property that has `share` of SHARES cases."""
    return settings(
        max_examples=TOTAL * share // SHARES if TOTAL else max(2, share // _FEW),
        derandomize=not TOTAL,
        report_multiple_bugs=bool(TOTAL),
        database=None,
        deadline=None,  # `within` is the limit: it also ends what hangs
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


class HangsError(BaseException):
    """A case took too long; no `except Exception` takes it for its own."""


@contextmanager
def within(seconds: float = SECONDS) -> Iterator[None]:
    """HangsError where what is inside does not come to an end."""

    def give_up(*_: object) -> None:
        raise HangsError(f"not done after {seconds} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def answer(function: Callable[[], Any]) -> Any:
    """What a function gives in time, or None where it refuses in words; any other error is raised.

    What is raised and is no ImgembedError would be a traceback to the user.
    """
    with within():
        try:
            return function()
        except ImgembedError as error:
            said = str(error)
        assert said.strip()
        return None


@st.composite
def damage(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a file with something wrong: bits turned, parts lost, doubled or strange."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.sampled_from((1, 2, 4, 7, 64, 1024)))
        kind = draw(st.sampled_from(("bit", "byte", "cut", "lose", "double", "add", "number")))
        head, middle, tail = data[:place], data[place : place + size], data[place + size :]
        if kind == "bit" and middle:
            middle = bytes([middle[0] ^ (1 << draw(st.integers(0, 7)))]) + middle[1:]
        elif kind == "byte" and middle:
            middle = draw(st.binary(min_size=1, max_size=1)) + middle[1:]
        elif kind == "cut":
            middle = tail = b""
        elif kind == "lose":
            middle = b""
        elif kind == "double":
            middle = middle * 2
        elif kind == "add":
            middle += draw(st.binary(max_size=8))
        elif kind == "number":  # where a length may stand
            middle = draw(st.sampled_from(_NUMBERS)) + middle[4:]
        data = head + middle + tail
    return data


_NUMBERS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\x7f\xff\xff\xff",
)
