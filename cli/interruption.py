"""A training that a signal asks to end does so after the step it is at, with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import click

# The signals that ask a program to end, and what the line then begins with.
ENDINGS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}


class Ended(click.ClickException):
    """What the program ends with then: a line, and 128 + the number of the signal."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"{ENDINGS[signal.Signals(number)]} {message}")
        self.exit_code = 128 + number  # type: ignore[misc]


class Deferred:
    """Keeps the first signal for the training to ask for; a second one ends the program at once.

    So does the first one until the training is at its steps: there is nothing to keep yet.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_work = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Deferred:
        for number in ENDINGS:
            former = signal.getsignal(number)
            if callable(former):  # as cli.main sets it; others are left as they are
                self._former[number] = former
                signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.at_work or self.number is not None:
            self._former[number](number, frame)
        self.number = number

    def is_asked(self) -> bool:
        """Whether there was a signal. Asked for the first time, the training is at its steps."""
        if not self.at_work:
            self.at_work = True
            for number in self._former:  # TensorFlow takes SIGTERM for itself where workers meet
                signal.signal(number, self._receive)
        return self.number is not None
