"""The run of a training: epochs of steps, validation, the best weights, checkpoints in between.

It may end after any step and go on from there as if it had not: what it does depends on the number
of the step and on what a checkpoint holds, never on the time or on how often it was started.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import ImgembedError
from pipeline.memory import release_freed_memory
from trainer import monitors
from trainer.checkpoints import Checkpoints, Snapshot
from trainer.learner import Learner, Stepped, Sums
from trainer.progress import Clock, Figures, Interrupted, Listener, Pace
from trainer.stopping import Best
from trainer.strategies import Replicas
from trainer.tensorboard import Events

STOP, SAVE = 0, 1  # what a worker may wish for, by place
# A checkpoint at the end of an epoch is cheap if the last one took less than this share of the
# time since then.
_CHEAP = 0.01
_MOST_POINTS = 1_000  # of the curves by step
_FEWEST_STEPS = 10  # between two of them


@dataclass(frozen=True)
class Plan:
    """How long a training is and what it is told. steps: of an epoch. batch_size: rows a step."""

    epochs: int
    steps: int
    batch_size: int
    checkpoint_seconds: float

    @property
    def total(self) -> int:
        return self.epochs * self.steps

    @property
    def look_every(self) -> int:
        """Steps between two looks at the metrics."""
        return max(_FEWEST_STEPS, -(-self.total // _MOST_POINTS))


@dataclass
class Record:
    """What a training has found so far.

    history: an entry an epoch. curves: [step, figures] of the looks in between. looked: sums of the
    metrics at the last look.
    """

    history: list[Figures] = field(default_factory=list)
    curves: list[tuple[int, Figures]] = field(default_factory=list)
    looked: Sums = field(default_factory=dict)


class Loop:
    """A training, from its first step or from a checkpoint, to its end."""

    def __init__(
        self,
        *,
        learner: Learner,
        replicas: Replicas,
        plan: Plan,
        best: Best,
        measure: Callable[[], Figures],
        explain_step: Callable[[int], str],
        checkpoints: Checkpoints | None,
        events: Events | None,
        listener: Listener,
    ) -> None:
        """measure: gives the figures of validation. explain_step: what a step learned from."""
        self._learner, self._replicas, self._plan, self._best = learner, replicas, plan, best
        self._measure, self._explain_step = measure, explain_step
        self._checkpoints = checkpoints if replicas.worker.is_chief else None
        self._events, self._listener = events, listener
        self._clock: Clock | None = None
        self._saved_at, self._save_took = time.monotonic(), 0.0
        self.step = 0
        self.record = Record()

    # Going on from a checkpoint ----------------------------------------------------------------

    def restore(self, found: Snapshot | None) -> None:
        """Begins where the chief's checkpoint ends; found: that one, None in other workers."""
        done = len(found.notes["history"]) if found else 0
        step, epochs = self._replicas.agree(found.step if found else 0, done)
        if not step:
            return
        state = found.state if found else self._learner.blank_state()
        self._learner.set_state(self._replicas.from_chief(state))
        self.step = step
        self.record.history = [{} for _ in range(epochs)]
        if found is not None:
            self._restore_record(found)

    def _restore_record(self, found: Snapshot) -> None:
        notes = found.notes
        self._best.restore(notes["best"], found.best)
        self.record = Record(
            history=notes["history"],
            curves=[(step, figures) for step, figures in notes["curves"]],
            looked={name: (value, rows) for name, (value, rows) in notes["looked"].items()},
        )
        if self._events is not None:  # they lie in the folder of a version that is gone
            self._events.of_record(self.record.curves, self.record.history)

    def _snapshot(self, state: list[np.ndarray]) -> Snapshot:
        notes = {
            "best": self._best.notes(),
            "history": self.record.history,
            "curves": self.record.curves,
            "looked": self.record.looked,
        }
        return Snapshot(self.step, state, self._best.weights, notes)

    def _save(self) -> bool:
        """Writes a checkpoint; all workers together, since the metrics are spread over them."""
        began = time.monotonic()
        state = self._learner.state()
        kept = self._checkpoints is not None and self._checkpoints.write(self._snapshot(state))
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - began
        return bool(self._replicas.agree(kept)[0])

    # The steps ---------------------------------------------------------------------------------

    def run(self, batches: Iterator[Any]) -> None:
        """Learns from batches, those from `step` on, to the end; Interrupted where asked to."""
        while not self._is_over():
            if self.step == self._epochs_done() * self._plan.steps:
                self._learner.reset_metrics()
                self.record.looked = {}
            while self.step < (self._epochs_done() + 1) * self._plan.steps:
                self._one_step(batches)
            self._end_epoch()
        if self._listener.is_asked_to_stop() and self._replicas.worker.is_alone:
            self._stop()

    def _epochs_done(self) -> int:
        return len(self.record.history)

    def _is_over(self) -> bool:
        (agreed,) = self._replicas.agree(self._is_last(self._epochs_done()))
        return bool(agreed)

    def _is_last(self, epoch: int) -> bool:
        return epoch == self._plan.epochs or (epoch > 0 and self._best.is_over(epoch))

    def _one_step(self, batches: Iterator[Any]) -> None:
        wishes = [float(self._listener.is_asked_to_stop()), float(self._is_time_to_save())]
        stepped = self._learner.step(self.step, batches, wishes)
        self.step += 1
        if not stepped.is_finite:
            raise ImgembedError(
                f"training: {_what_is_wrong(stepped)} after {self.step} steps; "
                f"{self._explain_step(self.step - 1)}; try a lower "
                "training.learning_rate, a higher training.temperature, or training.precision "
                "float32, and look for features that are no numbers"
            )
        if self.step % self._plan.look_every == 0:
            self._look()
        self._listener.on_step(self._pace())
        if stepped.wishes[STOP]:
            self._stop()
        if stepped.wishes[SAVE]:
            self._save()

    def _is_time_to_save(self) -> bool:
        passed = time.monotonic() - self._saved_at
        return self._checkpoints is not None and passed >= self._plan.checkpoint_seconds

    def _stop(self) -> None:
        raise Interrupted(self.step, self._plan.total, kept=self._save())

    def _look(self) -> None:
        """Adds to the curves what the steps since the last look have found."""
        sums = self._learner.sums()
        means = _means(sums, self.record.looked)
        self.record.curves.append((self.step, {**means, "learning_rate": self._learner.rate}))
        self.record.looked = sums
        if self._events is not None:
            self._events.of_record(self.record.curves[-1:], [])

    def _pace(self) -> Pace:
        figures = self.record.curves[-1][1] if self.record.curves else {}
        if self._clock is None:
            self._clock = Clock(self.step, self._plan.total, self._plan.batch_size)
        return self._clock.pace(self.step, figures)

    # The end of an epoch -----------------------------------------------------------------------

    def _end_epoch(self) -> None:
        sums = self._learner.sums()
        epoch = self._epochs_done() + 1
        figures = _means(sums, {})
        if self._replicas.worker.is_chief:
            figures |= self._measure()
            self._best.look(epoch, figures, self._learner.network)
        self.record.history.append({"epoch": epoch, **figures})
        if self._events is not None:
            self._events.of_record([], self.record.history[-1:])
        self._listener.on_epoch(epoch, self._plan.epochs, figures)
        line = monitors.warning(self.record.history)
        if line is not None:
            self._listener.on_note(line)
        # TensorFlow's threads free tensors of ever other sizes, and the pieces are kept.
        release_freed_memory()
        wanted = self._is_cheap() or self._is_last(epoch)
        (agreed,) = self._replicas.agree(wanted)
        if agreed:
            self._save()

    def _is_cheap(self) -> bool:
        return self._save_took <= _CHEAP * (time.monotonic() - self._saved_at)


def _what_is_wrong(stepped: Stepped) -> str:
    """On processors with AVX-512, oneDNN's fused ReLU makes 0 of what is no number: then the loss
    is still one, and only the gradients show it.
    """
    if math.isfinite(stepped.loss):
        return "a weight is no number any more"
    return f"the loss is {stepped.loss}"


def _means(sums: Sums, before: Sums) -> Figures:
    """Means of what was added to the sums since they were `before`."""
    found = {}
    for name, (value, rows) in sums.items():
        former_value, former_rows = before.get(name, (0.0, 0.0))
        seen = rows - former_rows
        found[name] = (value - former_value) / seen if seen else 0.0
    return found
