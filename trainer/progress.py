"""What a training tells while it runs, and what it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Figures = dict[str, float]


@dataclass(frozen=True)
class Pace:
    """How far a training is after a step.

    step: steps done, of `steps`. figures: means of the loss and its terms over the last steps; none
    at first. examples_per_second, seconds_left: None until there is something to go by.
    """

    step: int
    steps: int
    figures: Figures = field(default_factory=dict)
    examples_per_second: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Listener:
    """Is told of a training.

    on_epoch(epoch, epochs, figures): after each epoch, from 1. on_step(pace): after each step.
    on_note(line): of what is out of the ordinary. on_iteration(iteration, last): before each
    iteration of co-training, from 0; epochs and steps count anew in each. is_asked_to_stop(): asked
    after each step; a training that is asked ends with a checkpoint.
    """

    on_epoch: Callable[[int, int, Figures], None] = lambda *_: None
    on_step: Callable[[Pace], None] = lambda _: None
    on_note: Callable[[str], None] = lambda _: None
    on_iteration: Callable[[int, int], None] = lambda *_: None
    is_asked_to_stop: Callable[[], bool] = lambda: False


class Interrupted(Exception):  # noqa: N818 - it was asked for, nothing went wrong
    """A training was asked to stop, and has; `kept`: there is a checkpoint of this very step.

    iteration: of co-training, in which the step is; None: there are no iterations.
    """

    def __init__(self, step: int, steps: int, *, kept: bool, iteration: int | None = None) -> None:
        super().__init__(f"stopped after step {step:,} of {steps:,}")
        self.step, self.steps, self.kept, self.iteration = step, steps, kept, iteration


class Clock:
    """Speed and time left, by what has been done since it was started.

    Validation counts in, so that the time left is that of the whole training.
    """

    def __init__(self, step: int, steps: int, batch_size: int) -> None:
        """To be made after a first step, which takes longer than any other."""
        self._first, self._steps, self._batch_size = step, steps, batch_size
        self._began = time.monotonic()

    def pace(self, step: int, figures: Figures) -> Pace:
        done, passed = step - self._first, time.monotonic() - self._began
        if done == 0:
            return Pace(step, self._steps, figures)
        left = passed / done * (self._steps - step)
        speed = done * self._batch_size / max(passed, 1e-9)
        return Pace(step, self._steps, figures, speed, left)
