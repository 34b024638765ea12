"""Co-training: a classifier, labels that it gives and the agreement of pairs, in turns.

    iteration 0   a plain training: the supervised classifier
    iteration t   the guide learns from all labels which pairs agree ─► a training from fresh
                  weights with these pairs ─► nodes that it is sure of get labels

until there is nothing new, or the iterations are over. The best iteration on validation is the
result, iteration 0 among them; of equally good ones the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from trainer.agreement.classifiers import Guidance
from trainer.agreement.guides import Guide, Outset, no_pairs
from trainer.agreement.labels import Labels, label_more, proportions
from trainer.config import AgreementConfig

Figure = Sequence[float]  # compared one after the other; more is better


class Classifier(Protocol):
    """What co-training needs of a classifier, whatever it looks at."""

    def train(self, labels: np.ndarray, guidance: Guidance, *, seed: int) -> Figure:
        """Trains from fresh weights on labels [nodes] int64, -1 = none; the validation's figure."""
        ...

    def probabilities(self) -> np.ndarray:
        """[nodes, classes] float32 of all nodes."""
        ...

    def get_weights(self) -> list[np.ndarray]:
        """All that its answers come from."""
        ...

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """What `get_weights` gave."""
        ...


@dataclass(frozen=True)
class Plan:
    """How labels are given. iterations: trainings after the plain one, at most.

    candidates: [nodes] bool, nodes that may be given a label: neither validation nor test nodes.
    number, min_confidence, keep_proportions, sticky: see `labels.label_more`. labelling: False:
    nothing is ever labelled, and the iterations are one.
    """

    iterations: int
    candidates: np.ndarray
    classes: int
    number: int
    min_confidence: float
    keep_proportions: bool = True
    sticky: bool = True
    labelling: bool = True

    @classmethod
    def of(cls, settings: AgreementConfig, candidates: np.ndarray, classes: int) -> Plan:
        """That of the settings."""
        return cls(
            settings.iterations,
            candidates,
            classes,
            settings.samples_to_label,
            settings.min_confidence,
            settings.keep_proportions,
            settings.sticky_labels,
        )


@dataclass(frozen=True)
class State:
    """Where co-training stands: all that it goes on from.

    iteration: the next one. labels: those that it begins with. probabilities: [nodes, classes], of
    the last one's classifier. best: (figure, iteration, weights)
    of the best iteration so far. over: whether there is nothing left to do. history: an entry an
    iteration, numbers and words.
    """

    iteration: int
    labels: Labels
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    best_figure: Figure = ()
    best_iteration: int = -1
    best_weights: Sequence[np.ndarray] = ()
    over: bool = False
    history: tuple[dict[str, Any], ...] = field(default_factory=tuple)

    @property
    def best(self) -> dict[str, Any]:
        """The entry of the best iteration."""
        return self.history[self.best_iteration]


def cotrain(
    classifier: Classifier,
    labels: np.ndarray,
    guide: Guide,
    plan: Plan,
    *,
    seed: int,
    state: State | None = None,
    on_iteration: Callable[[State], None] | None = None,
) -> State:
    """All iterations; the classifier has the weights of the best one afterwards.

    labels [nodes] int64: what is known, -1 = none; of validation and test nodes nothing is.
    state: to go on from; None: from the beginning. on_iteration: is told the state after each.
    """
    shares = proportions(labels, plan.classes) if plan.keep_proportions else None
    state = state or State(0, Labels.of_known(labels))
    while not state.over:
        state = _iterate(classifier, guide, plan, shares, state, seed)
        if on_iteration is not None:
            on_iteration(state)
    classifier.set_weights(state.best_weights)
    return state


def _iterate(
    classifier: Classifier,
    guide: Guide,
    plan: Plan,
    shares: np.ndarray | None,
    state: State,
    seed: int,
) -> State:
    number, labels = state.iteration, state.labels
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
    outset = Outset(labels.current, state.probabilities, own)
    guidance = guide(outset) if number else no_pairs(outset)
    figure = tuple(classifier.train(labels.current, guidance, seed=own))
    probabilities = classifier.probabilities()
    after, fresh = labels, 0
    if number and plan.labelling:
        after, fresh = label_more(
            labels,
            probabilities,
            plan.candidates,
            iteration=number,
            number=plan.number,
            min_confidence=plan.min_confidence,
            shares=shares,
            sticky=plan.sticky,
        )
    entry = {
        "iteration": number,
        "figure": figure,
        "labelled": int((labels.current >= 0).sum()),
        "new": fresh,
        "note": guidance.note,
        **guidance.figures,
    }
    is_best = state.best_iteration < 0 or figure > tuple(state.best_figure)
    return State(
        iteration=number + 1,
        labels=after,
        probabilities=probabilities,
        best_figure=figure if is_best else state.best_figure,
        best_iteration=number if is_best else state.best_iteration,
        best_weights=classifier.get_weights() if is_best else state.best_weights,
        over=number >= plan.iterations or (number > 0 and not fresh),
        history=(*state.history, entry),
    )
