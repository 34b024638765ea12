"""The methods that learn from few labels and a graph that errs; what each is worth.

In: a World and a Regime. Out: figures a method. All methods share networks, steps and the choice of
what is to be chosen on the validation nodes; the truth of other nodes is read by `score` and by the
oracle alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from noise_worlds import Pictures, World, make_world

from trainer.agreement import labels as of_labels
from trainer.agreement.classifiers import Guidance, InMemoryClassifier, Recipe
from trainer.agreement.cotraining import Plan, State, cotrain
from trainer.agreement.evidence import Classes, all_evidence
from trainer.agreement.fitting import Fitter
from trainer.agreement.guides import (
    PAIRS,
    AlongEdges,
    Guide,
    Learned,
    LearnedWithoutGraph,
    Outset,
    given,
    no_pairs,
    weights_of,
)
from trainer.agreement.networks import (
    Mlp,
    Neighbors,
    NodeNetwork,
    SmallCnn,
    WholeGraph,
)
from trainer.agreement.pair_sets import Graph
from trainer.agreement.pairs import Cycle, PairBlock
from trainer.config import AgreementConfig
from trainer.metrics import auc, rank_me

STEPS = 300
WEIGHTS = (1.0, 10.0)  # of the pair loss
REGULARIZATION = (0.3, 3.0, 30.0)  # of graph regularization
QUANTILES = (0.3, 0.6, 0.8)  # of the cosines of edges, below which an edge is left out
CONTRAST_PAIRS = 128
SETTINGS = AgreementConfig(iterations=7, samples_to_label=100, min_confidence=0.5)


@dataclass(frozen=True)
class Answer:
    """What a method ended with.

    figure: of the validation, by which it was chosen. probabilities [n, classes]; embeddings
    [n, dim], of length 1, or None. weight: that was chosen. agreement [edges], or None.
    """

    figure: Sequence[float]
    probabilities: np.ndarray
    embeddings: np.ndarray | None
    weight: float | None = None
    agreement: np.ndarray | None = None
    state: State | None = None


class Case:
    """One world in one regime: the trainings that methods are made of.

    keep_best: regime B, the weights of the best validation step; else A, those of the last step.
    """

    def __init__(
        self, world: World, *, keep_best: bool, seed: int, settings: AgreementConfig
    ) -> None:
        self.world, self.settings, self.seed = world, settings, seed
        self.nodes = world.pictures.nodes
        self.labels = of_labels.hide(world.truth, world.seeds)
        self.validation = of_labels.hide(world.truth, world.validation)
        self.graph = Graph.of(world.edges, world.counts[:, None])
        self.recipe = Recipe(steps=STEPS, keep_best=keep_best)
        self.plan = Plan.of(settings, world.pool, world.pictures.classes)

    @functools.cached_property
    def neighbors(self) -> np.ndarray:
        return self.world.neighbors()

    def network(self) -> NodeNetwork:
        pictures = self.world.pictures
        if pictures.pixels is None:
            return Mlp(pictures.nodes, (128, 32), pictures.classes)
        return SmallCnn(pictures.pixels, (16, 32, 32), 32, pictures.classes)

    @functools.cached_property
    def plain(self) -> InMemoryClassifier:
        return self.make(self.recipe)

    @functools.cached_property
    def contrasting(self) -> InMemoryClassifier:
        return self.make(replace(self.recipe, contrast=1.0), neighbors=self.neighbors)

    @functools.cached_property
    def of_embeddings(self) -> InMemoryClassifier:
        return self.make(replace(self.recipe, regularized="embedding"))

    def make(
        self,
        recipe: Recipe,
        network: NodeNetwork | None = None,
        neighbors: np.ndarray | None = None,
    ) -> InMemoryClassifier:
        return InMemoryClassifier(
            network or self.network(),
            recipe,
            nodes=len(self.labels),
            validation=self.validation,
            neighbors=neighbors,
        )

    @functools.cached_property
    def fitter(self) -> Fitter:
        return Fitter(self.nodes, self.graph.features.shape[1], self.settings)

    def along(self, weight: float, contrast: bool = False) -> AlongEdges:
        return AlongEdges(
            self.world.edges,
            self.settings,
            weights_of(self.settings, weight),
            CONTRAST_PAIRS if contrast else 0,
        )

    def ones(self) -> np.ndarray:
        return np.ones(len(self.world.edges), np.float32)

    # Answers ---------------------------------------------------------------------------------

    def turns(
        self, guide: Guide, classifier: InMemoryClassifier | None = None, *, labelling: bool = True
    ) -> Answer:
        """Co-training; without labelling the plain training and one with the guide."""
        classifier = classifier or self.plain
        agreements: list[np.ndarray | None] = [None]

        def told(outset: Outset) -> Guidance:
            guidance = guide(outset)
            agreements.append(guidance.agreement)
            return guidance

        plan = self.plan if labelling else replace(self.plan, labelling=False)
        state = cotrain(classifier, self.labels, told, plan, seed=self.seed)
        return self.answer(classifier, state, agreements[state.best_iteration])

    def once(self, guidance: Guidance, classifier: InMemoryClassifier) -> Answer:
        """One training with it."""
        figure = classifier.train(self.labels, guidance, seed=self.seed)
        return Answer(figure, classifier.probabilities(), classifier.embeddings())

    def answer(
        self, classifier: InMemoryClassifier, state: State, agreement: np.ndarray | None
    ) -> Answer:
        return Answer(
            state.best_figure,
            classifier.probabilities(),
            classifier.embeddings(),
            agreement=agreement,
            state=state,
        )

    def best(self, answers: dict[float, Answer]) -> Answer:
        """The best on validation, of equals the one of the least weight."""
        weight = max(answers, key=lambda each: (tuple(answers[each].figure), -each))
        return replace(answers[weight], weight=weight)


def readout(world: World) -> np.ndarray:
    """[edges]: sessions over the weighted degree, the mean of both ends; of all edges, 1."""
    ends, counts = world.edges.T, world.counts
    degrees = np.bincount(ends.ravel(), np.tile(counts, 2), len(world.truth))
    shares = counts / degrees[ends[0]] + counts / degrees[ends[1]]
    return (shares / shares.mean()).astype(np.float32)


class AllEdges:
    """Pairs along all edges alike, whoever is labelled, of whom both ends are pulled."""

    def __init__(self, world: World, weight: float, *, pairs: int, seed: int) -> None:
        self._edges, self._shares = world.edges, np.float32(weight) * readout(world)
        self._cycle = Cycle(len(world.edges), 2 * pairs, np.random.default_rng(seed))

    def draw(self, steps: int) -> PairBlock:
        """Those of the next steps."""
        rows = self._cycle.take(steps)
        return replace(
            PairBlock.empty(steps),
            left=self._edges[rows, 0],
            right=self._edges[rows, 1],
            mutual=self._shares[rows],
            count=self._cycle.batch,
        )


# Methods ------------------------------------------------------------------------------------------


def supervised(case: Case) -> Answer:
    """Labels alone."""
    return case.once(Guidance(), case.plain)


def iteration_0(case: Case) -> Answer:
    """Labels alone, from the weights that co-training begins with."""
    plan = replace(case.plan, iterations=0)
    state = cotrain(case.plain, case.labels, no_pairs, plan, seed=case.seed)
    return case.answer(case.plain, state, None)


def self_training(case: Case) -> Answer:
    """Labels, and those that the classifier gives."""
    return case.turns(no_pairs)


def regularized(case: Case) -> Answer:
    """Graph regularization of probabilities, NGM: it labels no node, and all edges count."""
    return case.best(
        {
            weight: case.turns(given(case.along(weight), readout(case.world)), labelling=False)
            for weight in REGULARIZATION
        }
    )


def regularized_once(case: Case) -> Answer:
    """The same as a single training, which cannot fall back to the one without the graph."""
    answers = {}
    for weight in REGULARIZATION:
        along = case.along(weight)
        guidance = along.guidance(case.labels, readout(case.world), case.seed)
        answers[weight] = case.once(guidance, case.plain)
    return case.best(answers)


def regularized_embeddings(case: Case) -> Answer:
    """Graph regularization of embeddings of length 1, as NSL has it."""
    answers = {}
    for weight in REGULARIZATION:
        pairs = AllEdges(case.world, weight, pairs=PAIRS, seed=case.seed)
        answers[weight] = case.once(Guidance(pairs), case.of_embeddings)
    return case.best(answers)


def of_agreement(
    case: Case, agreement: np.ndarray, *, weights: Sequence[float] = WEIGHTS
) -> Answer:
    """Co-training with an agreement of edges that does not change."""
    return case.best(
        {weight: case.turns(given(case.along(weight), agreement)) for weight in weights}
    )


# What an agreement model is asked for alone, what is published of it, and the default: with what
# the classifier sees in both ends, and how many edges seem to agree.
MODEL_ALONE = {"class_evidence": False, "edge_prior": False}
POOLED = {"class_evidence": True, "edge_prior": True}
PUBLISHED = {**MODEL_ALONE, "pair_source": "edges", "edge_features": False, "calibrate": False}


def learned(
    case: Case,
    *,
    contrast: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
    weights: Sequence[float] = WEIGHTS,
) -> Answer:
    """Co-training with an agreement that is learned in each turn.

    changes: of the settings. weights: of the pair loss, to choose from.
    """
    settings = case.settings.model_copy(update=dict(changes))
    fitter = case.fitter if settings.edge_features else Fitter(case.nodes, 0, settings)
    without: Literal["nothing", "contrast", "all"] = "contrast" if contrast else "nothing"
    if settings.pair_source == "edges":
        without = "all"
    answers = {}
    for weight in weights:
        along = replace(case.along(weight, contrast), settings=settings)
        guide = Learned(along, case.graph, case.nodes, fitter, without=without)
        answers[weight] = case.turns(guide, case.contrasting if contrast else case.plain)
    return case.best(answers)


def by_classes(case: Case, *, contrast: bool = False) -> Answer:
    """The default without an agreement model: the classes that the classifier sees in both ends."""

    def guide(along: AlongEdges, outset: Outset) -> Guidance:
        classes = Classes.of_probabilities(outset.probabilities)
        agreement = all_evidence(None, classes, along.edges, case.settings)
        assert agreement is not None
        return along.guidance(outset.labels, agreement, outset.seed)

    classifier = case.contrasting if contrast else case.plain
    return case.best(
        {
            weight: case.turns(functools.partial(guide, case.along(weight, contrast)), classifier)
            for weight in WEIGHTS
        }
    )


def without_graph(case: Case) -> Answer:
    """GAM*: pairs of any two nodes of the pool."""
    settings = case.settings.model_copy(update={"penalize_negative": True})
    fitter = Fitter(case.nodes, 0, settings)
    nothing = Graph.of(case.world.edges[:0])
    return case.best(
        {
            weight: case.turns(
                LearnedWithoutGraph(
                    nothing,
                    case.nodes,
                    fitter,
                    settings,
                    weights_of(settings, weight),
                    case.world.pool,
                )
            )
            for weight in WEIGHTS
        }
    )


def gcn(case: Case) -> Answer:
    """Over all pictures at once: those of the test have no edges, as served."""
    network = WholeGraph(
        case.nodes,
        Neighbors(case.world.edges, len(case.labels)),
        hidden=128,
        classes=case.world.pictures.classes,
        dropout=0.5,
    )
    return case.once(Guidance(), case.make(case.recipe, network))


def label_propagation(case: Case) -> Answer:
    """Zhou et al. 2004: 50 rounds of F = .9 S F + .1 Y, S the edges, symmetrically normalized."""
    world, classes = case.world, case.world.pictures.classes
    both = np.concatenate([world.edges, world.edges[:, ::-1]])
    counts = np.concatenate([world.counts] * 2).astype(np.float64)
    degrees = np.maximum(np.bincount(both[:, 0], counts, len(case.labels)), 1e-12)
    spread = np.zeros((len(case.labels),) * 2)
    spread[tuple(both.T)] = counts / np.sqrt(degrees[both[:, 0]] * degrees[both[:, 1]])
    known = np.where(case.labels[:, None] == np.arange(classes), 1.0, 0.0)
    found = known
    for _ in range(50):
        found = 0.9 * spread @ found + 0.1 * known
    return Answer((0.0,), found / np.maximum(found.sum(axis=1, keepdims=True), 1e-12), None)


def contrasted(case: Case, agreement: np.ndarray, *, labelling: bool) -> Answer:
    """InfoNCE on edges that count by their agreement, without the pair loss."""
    guide = given(case.along(0.0, contrast=True), agreement)
    return case.turns(guide, case.contrasting, labelling=labelling)


def by_cosine(case: Case) -> Answer:
    """Edges of pictures that look alike, the others left out: what learning adds beside it."""
    z = case.nodes - case.nodes[case.world.pool].mean(axis=0)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    cosines = (z[case.world.edges[:, 0]] * z[case.world.edges[:, 1]]).sum(axis=1)
    found = []
    for quantile in QUANTILES:
        kept = (cosines >= np.quantile(cosines, quantile)).astype(np.float32)
        found.append(of_agreement(case, kept))
    return max(found, key=lambda each: tuple(each.figure))


METHODS: dict[str, Callable[[Case], Answer]] = {
    "supervised": supervised,
    "iteration 0": iteration_0,
    "self-training": self_training,
    "NGM": regularized,
    "NGM without iteration 0": regularized_once,
    "NSL on embeddings": regularized_embeddings,
    "NGM + self-training": lambda case: of_agreement(case, case.ones()),
    "GAM, labelled edges (published)": lambda case: learned(case, changes=PUBLISHED),
    "GAM, all labelled pairs": lambda case: learned(case, changes=MODEL_ALONE),
    "GAM, pairs and classes": lambda case: learned(case, changes=POOLED),
    "GAM, classes alone": by_classes,
    "GAM without graph": without_graph,
    "GAM, oracle": lambda case: of_agreement(case, case.world.agree.astype(np.float32)),
    "GCN": gcn,
    "label propagation": label_propagation,
    "InfoNCE": lambda case: contrasted(case, case.ones(), labelling=False),
    "InfoNCE + self-training": lambda case: contrasted(case, case.ones(), labelling=True),
    "weighted InfoNCE + self-training": lambda case: learned(
        case, contrast=True, changes=POOLED, weights=(0.0,)
    ),
    "oracle InfoNCE + self-training": lambda case: contrasted(
        case, case.world.agree.astype(np.float32), labelling=True
    ),
    "GAM + weighted InfoNCE": lambda case: learned(case, contrast=True, changes=MODEL_ALONE),
    "GAM + weighted InfoNCE, no edge features": lambda case: learned(
        case, contrast=True, changes={**MODEL_ALONE, "edge_features": False}
    ),
    "GAM, pairs and classes + InfoNCE": lambda case: learned(case, contrast=True, changes=POOLED),
    "GAM, classes alone + InfoNCE": lambda case: by_classes(case, contrast=True),
    "cosine filter": by_cosine,
}


def answer_all(case: Case, names: Sequence[str]) -> Iterator[tuple[str, Answer, float]]:
    """(method, its answer, seconds) of each."""
    for name in names:
        began = time.monotonic()
        found = METHODS[name](case)
        yield name, found, time.monotonic() - began


# Scores -------------------------------------------------------------------------------------------


def score(world: World, answer: Answer) -> dict[str, Any]:
    """What an answer is worth, by the truth of all pictures."""
    hits = answer.probabilities.argmax(axis=1) == world.truth
    found: dict[str, Any] = {
        "validation": [float(each) for each in answer.figure],
        "weight": answer.weight,
        "transductive": float(hits[world.pool & ~world.seeds].mean()),
        "inductive": float(hits[world.test].mean()),
    }
    if answer.embeddings is not None:
        found |= retrieval(world, answer.embeddings)
    tells = answer.agreement is not None and np.ptp(answer.agreement) > 0
    if tells and not world.agree.all():
        found |= of_edges(world, answer.agreement)
    if answer.state is not None:
        found |= of_turns(world, answer.state)
    return found


def retrieval(world: World, embeddings: np.ndarray) -> dict[str, float]:
    """Test pictures looked for among the graph's, and partners of sessions without noise."""
    pool = np.flatnonzero(world.pool)
    scores = embeddings[world.test] @ embeddings[pool].T
    ranked = np.argsort(-scores, axis=1, kind="stable")
    relevant = world.truth[pool][ranked] == world.truth[world.test][:, None]
    precision = np.cumsum(relevant, axis=1) / np.arange(1, len(pool) + 1)
    counts = relevant.sum(axis=1)
    first_r = np.arange(len(pool)) < counts[:, None]
    means = (precision * relevant * first_r).sum(axis=1) / counts
    one, other = world.partners.T
    own = embeddings[one] @ embeddings[pool].T
    own[np.arange(len(one)), np.searchsorted(pool, one)] = -np.inf
    target = own[np.arange(len(one)), np.searchsorted(pool, other)]
    ranks = (own > target[:, None]).sum(axis=1)
    cosines = embeddings[pool] @ embeddings[pool].T
    away = cosines[~np.eye(len(pool), dtype=bool)]
    return {
        "map_at_r": float(means.mean()),
        "precision_at_10": float(relevant[:, :10].mean()),
        **{f"recall_at_{k}": float((ranks < k).mean()) for k in (1, 10, 100)},
        "mean_cosine": float(away.mean()),
        "effective_rank": float(rank_me(embeddings[pool])),
    }


def of_edges(world: World, agreement: np.ndarray) -> dict[str, float]:
    """How well the agreement tells the edges that err: auc, and calibration over ten ranges."""
    bins = np.minimum((agreement * 10).astype(np.int64), 9)
    gaps = np.bincount(bins, agreement - world.agree, 10)
    return {
        "edge_auc": auc(agreement, world.agree),
        "edge_ece": float(np.abs(gaps).sum() / len(agreement)),
    }


def of_turns(world: World, state: State) -> dict[str, Any]:
    """What co-training did: its best iteration, the labels that it gave, by iteration."""
    table = state.labels.table()
    right = world.truth[table["node"]] == table["label"]
    return {
        "best_iteration": state.best_iteration,
        "pseudo_labels": len(right),
        "pseudo_accuracy": float(right.mean()) if len(right) else None,
        "pseudo_accuracy_by_iteration": {
            int(number): float(right[table["iteration"] == number].mean())
            for number in np.unique(table["iteration"])
        },
        "held_out_auc": [entry.get("auc") for entry in state.history],
        "notes": [entry["note"] for entry in state.history],
    }


def results(
    pictures: Pictures, setting: Any, names: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(method, figures) of each method in a setting of the script."""
    world = make_world(
        pictures,
        kind=setting.kind,
        noise=setting.noise,
        labels=setting.labels,
        seed=setting.seed,
    )
    case = Case(
        world, keep_best=setting.regime == "B", seed=1_000 + setting.seed, settings=SETTINGS
    )
    correct = float(world.agree.mean())
    for name, answer, seconds in answer_all(case, names):
        found = score(world, answer)
        yield name, {"edges": len(world.edges), "correct": correct, "seconds": seconds, **found}
