"""Where pairs of an iteration get their agreement from: learned, given, or not at all.

A guide is asked with what an iteration begins with, and answers with its Guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from trainer.agreement.classifiers import EdgeDraws, Guidance
from trainer.agreement.evidence import Classes, all_evidence
from trainer.agreement.fitting import Fitter
from trainer.agreement.judge import Judge
from trainer.agreement.loss import transformed
from trainer.agreement.pair_sets import Graph
from trainer.agreement.pairs import GraphPairs, KindWeights, RandomPairs
from trainer.config import AgreementConfig

PAIRS = 128  # of each kind, a step, as published


@dataclass(frozen=True)
class Outset:
    """What an iteration begins with.

    labels: [nodes] int64, known and given, -1 = none. probabilities: [nodes, classes] float32, of
    the last iteration's classifier. seed: of all that is drawn in it.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    seed: int


Guide = Callable[[Outset], Guidance]


def no_pairs(outset: Outset) -> Guidance:
    """Labels alone: with self-labelling, self-training."""
    return Guidance()


def weights_of(settings: AgreementConfig, factor: float = 1.0) -> KindWeights:
    """Those of the settings, times a factor."""
    return KindWeights(settings.weight_ll, settings.weight_lu, settings.weight_uu).times(factor)


@dataclass(frozen=True)
class AlongEdges:
    """Pairs along edges, and the contrastive term's, of an agreement that is at hand.

    weights: of the pair loss; all 0: it has no pairs. contrast_pairs: edges a step of the
    contrastive term; 0: it has none. pairs: of each kind, a step.
    """

    edges: np.ndarray
    settings: AgreementConfig
    weights: KindWeights
    contrast_pairs: int = 0
    pairs: int = PAIRS

    def guidance(self, labels: np.ndarray, agreement: np.ndarray, seed: int) -> Guidance:
        """agreement [edges] float32: probabilities, before the transform of the settings."""
        trust = transformed(agreement, penalize_negative=self.settings.penalize_negative)
        weights, pairs, edges = self.weights, None, None
        if weights.ll or weights.lu or weights.uu:
            pairs = GraphPairs(
                self.edges, labels, trust, weights=weights, pairs=self.pairs, seed=seed
            )
        if self.contrast_pairs:
            edges = EdgeDraws(self.edges, trust, pairs=self.contrast_pairs, seed=seed + 1)
        return Guidance(pairs, edges, agreement=agreement)


def given(along: AlongEdges, agreement: np.ndarray) -> Guide:
    """An agreement that does not change: 1 for all edges is graph regularization (NGM), the truth
    is an oracle.
    """
    return lambda outset: along.guidance(outset.labels, agreement, outset.seed)


@dataclass(frozen=True)
class Learned:
    """An agreement model fitted on the labels of each iteration, and what else tells of agreement.

    validation [nodes] int64: labels to measure it by, or None. without: what there is where the
    model is of no use (guard A) and nothing else tells: nothing; the contrastive term, which bears
    edges that err, of all edges alike; or both terms of all edges alike.
    """

    along: AlongEdges
    graph: Graph
    nodes: np.ndarray
    fitter: Fitter
    validation: np.ndarray | None = None
    without: Literal["nothing", "contrast", "all"] = "nothing"

    def __call__(self, outset: Outset) -> Guidance:
        """Fits the model and asks it about all edges."""
        labels, seed = outset.labels, outset.seed
        judge = self.fitter.on_labels(self.graph, labels, seed=seed, validation=self.validation)
        agreement = self._agreement(judge, outset)
        found = Guidance()
        if agreement is not None:
            found = self.along.guidance(labels, agreement, seed)
        elif self.without != "nothing":
            ones = np.ones(len(self.graph.edges), np.float32)
            found = self.along.guidance(labels, ones, seed)
            if self.without == "contrast":
                found = Guidance(edges=found.edges)
        return replace(found, figures=dict(judge.figures), note=judge.unusable)

    def _agreement(self, judge: Judge, outset: Outset) -> np.ndarray | None:
        """[edges] float32; None: there is nothing to judge edges by."""
        usable = judge.unusable is None
        found = judge.of_edges(self.nodes, self.graph) if usable else None
        classes = Classes.of_probabilities(outset.probabilities)
        return all_evidence(found, classes, self.graph.edges, self.along.settings)


@dataclass(frozen=True)
class LearnedWithoutGraph:
    """GAM*: the same of random pairs. pool [nodes] bool: the unlabelled nodes that take part.

    pairs: of each kind, a step.
    """

    graph: Graph
    nodes: np.ndarray
    fitter: Fitter
    settings: AgreementConfig
    weights: KindWeights
    pool: np.ndarray
    pairs: int = PAIRS

    def __call__(self, outset: Outset) -> Guidance:
        """Fits the model, which is asked about pairs as they are drawn."""
        judge = self.fitter.on_random_pairs(self.graph, outset.labels, seed=outset.seed)
        if judge.unusable is not None:
            return Guidance(figures=dict(judge.figures), note=judge.unusable)
        pairs = RandomPairs(
            outset.labels,
            self.pool,
            _transformed(judge, self.nodes, self.settings),
            weights=self.weights,
            pairs=self.pairs,
            seed=outset.seed,
        )
        return Guidance(pairs, figures=dict(judge.figures))


def _transformed(
    judge: Judge, nodes: np.ndarray, settings: AgreementConfig
) -> Callable[[np.ndarray], np.ndarray]:
    ask = judge.of_pairs(nodes)
    return lambda pairs: transformed(ask(pairs), penalize_negative=settings.penalize_negative)
