"""What co-training goes on from: what an iteration begins with, and what those before it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.agreement.labels import Labels
from trainer.checkpoints import Snapshot
from trainer.loop import Record
from trainer.model import EmbeddingModel


@dataclass(frozen=True)
class Turn:
    """What an iteration begins with.

    labels: of all nodes. fresh: how many of them got theirs after the iteration before. agreement:
    [edges] float32; none: there is nothing to trust or to doubt edges by. vectors: [n, dim]
    float32, what the agreement model looks at, where pairs are compared that are no edges. judge:
    all that the agreement model is, as arrays.
    """

    iteration: int
    labels: Labels
    fresh: int = 0
    agreement: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    judge: tuple[np.ndarray, ...] = ()

    @property
    def trusts(self) -> bool:
        """Whether there is an agreement to learn with."""
        return self.learns or bool(len(self.agreement))

    @property
    def learns(self) -> bool:
        """Whether that was learned."""
        return bool(self.judge)

    @property
    def self_labelled(self) -> int:
        """How many images have a label that nobody gave them."""
        return int(self.labels.pseudo.sum())

    def without_agreement(self) -> Turn:
        """The same labels, but no agreement."""
        return Turn(self.iteration, self.labels, self.fresh)

    def arrays(self) -> list[np.ndarray]:
        """All of it, as a checkpoint holds it."""
        labels = self.labels
        return [
            np.array([self.iteration, self.fresh], np.int64),
            labels.current,
            labels.confidence,
            labels.since,
            self.agreement,
            self.vectors,
            *self.judge,
        ]

    @classmethod
    def of_arrays(cls, arrays: Sequence[np.ndarray]) -> Turn:
        """What `arrays` gave."""
        numbers, current, confidence, since, agreement, vectors, *judge = arrays
        iteration, fresh = numbers.tolist()
        labels = Labels(current, confidence, since)
        return cls(iteration, labels, fresh, agreement, vectors, tuple(judge))


@dataclass
class Story:
    """What the iterations so far have found.

    iterations: an entry each, as JSON. best: the iteration of the highest figure, the earliest of
    equals; -1 = none yet. weights: of its best epoch. learned: from looking at the images with it.
    """

    iterations: list[dict[str, Any]] = field(default_factory=list)
    best: int = -1
    weights: list[np.ndarray] = field(default_factory=list)
    learned: Turn | None = None

    def add(self, entry: dict[str, Any], learned: Turn, network: EmbeddingModel) -> None:
        """Takes note of an iteration; entry: with its `figure`."""
        if all(entry["figure"] > before["figure"] for before in self.iterations):
            self.best, self.learned = len(self.iterations), learned
            self.weights = network.get_weights()
        self.iterations.append(entry)

    @property
    def since_best(self) -> int:
        """How many iterations there were after the best one."""
        return len(self.iterations) - 1 - self.best

    def lost_with_agreement(self) -> str | None:
        """What to say where the last iteration with agreement was not better than all before it."""
        tried = [i for i, entry in enumerate(self.iterations) if entry["with_agreement"]]
        if not tried:
            return None
        *before, figure = (entry["figure"] for entry in self.iterations[: tried[-1] + 1])
        if figure > max(before):
            return None
        return (
            f"iteration {tried[-1]} is no better with it, {figure:.4f}, than the best before it, "
            f"{max(before):.4f}"
        )

    def record(self) -> Record:
        """That of the best iteration."""
        return record_of(self.iterations[self.best])


def record_of(entry: Mapping[str, Any]) -> Record:
    """What an iteration's training has told."""
    curves = [(step, figures) for step, figures in entry["curves"]]
    return Record(history=entry["epochs"], curves=curves)


def pack(turn: Turn, story: Story) -> Snapshot:
    """Both as a checkpoint holds them."""
    own, learned = turn.arrays(), story.learned.arrays() if story.learned else []
    notes = {"iterations": story.iterations, "best": story.best, "arrays": len(own)}
    return Snapshot(turn.iteration, [*own, *learned], story.weights, notes)


def unpack(found: Snapshot) -> tuple[Turn, Story]:
    """What `pack` gave."""
    notes, arrays = found.notes, found.state
    own, learned = arrays[: notes["arrays"]], arrays[notes["arrays"] :]
    story = Story(notes["iterations"], notes["best"], found.best, Turn.of_arrays(learned))
    return Turn.of_arrays(own), story
