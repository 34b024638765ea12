"""A small world for the tests of agreement models: nodes in clouds, and edges of which some err."""

from dataclasses import dataclass

import numpy as np

from trainer.agreement import labels as of_labels

CLASSES = 3


@dataclass(frozen=True)
class World:
    """truth is what a data source has; `labels` is all that is handed on of it."""

    nodes: np.ndarray
    truth: np.ndarray
    seeds: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    edges: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return of_labels.hide(self.truth, self.seeds)

    @property
    def validation_labels(self) -> np.ndarray:
        return of_labels.hide(self.truth, self.validation)

    @property
    def candidates(self) -> np.ndarray:
        return ~(self.validation | self.test)

    @property
    def agree(self) -> np.ndarray:
        return self.truth[self.edges[:, 0]] == self.truth[self.edges[:, 1]]


def make_world(
    *, each: int = 40, labelled: int = 4, wrong: float = 0.3, spread: float = 0.8, seed: int = 0
) -> World:
    """`each` nodes a class, around the corners of a triangle in five dimensions."""
    draw = np.random.default_rng(seed)
    truth = draw.permutation(np.repeat(np.arange(CLASSES), each))
    corners = np.eye(CLASSES, 5) * 3.0
    nodes = corners[truth] + spread * draw.standard_normal((len(truth), 5))
    order = np.argsort(truth, kind="stable").reshape(CLASSES, each)
    part = np.zeros(len(truth), np.int64)
    part[order[:, :labelled]] = 1
    part[order[:, labelled : labelled + 5]] = 2
    part[order[:, labelled + 5 : labelled + 10]] = 3
    left = draw.integers(0, len(truth), 6 * len(truth))
    same = order[truth[left], draw.integers(0, each, len(left))]
    any_one = draw.integers(0, len(truth), len(left))
    edges = np.stack([left, np.where(draw.random(len(left)) < wrong, any_one, same)], axis=1)
    edges = edges[edges[:, 0] != edges[:, 1]]
    edges = np.unique(np.sort(edges, axis=1), axis=0).astype(np.int32)
    return World(nodes.astype(np.float32), truth, part == 1, part == 2, part == 3, edges)
