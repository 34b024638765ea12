"""The best weights so far, and when to give up waiting for better ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.model import EmbeddingModel
from trainer.validation import FIGURE


class Best:
    """The weights of the best epoch; an epoch that is as good as an earlier one is not better.

    Without validation data the figure is the training loss, the lower the better.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.figure = -math.inf
        self.epoch = 0
        self.weights: list[np.ndarray] = []

    def look(self, epoch: int, figures: Mapping[str, float], network: EmbeddingModel) -> None:
        """Takes note of an epoch, numbered from 1."""
        figure = figures[FIGURE] if FIGURE in figures else -figures["loss"]
        if figure > self.figure:
            self.figure, self.epoch = float(figure), epoch
            self.weights = network.get_weights()

    def is_over(self, epoch: int) -> bool:
        """Whether `patience` epochs have passed without a better figure."""
        return epoch - self.epoch >= self._patience

    def notes(self) -> dict[str, Any]:
        """What a checkpoint holds beside the weights."""
        return {"figure": self.figure if self.epoch else None, "epoch": self.epoch}

    def restore(self, notes: Mapping[str, Any], weights: list[np.ndarray]) -> None:
        """Goes on from `notes`."""
        self.epoch, self.weights = notes["epoch"], weights
        self.figure = notes["figure"] if self.epoch else -math.inf
