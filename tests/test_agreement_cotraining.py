"""Co-training: what leaks, what each iteration has, when it ends, how it goes on, its guards."""

import copy
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from agreement_cases import CLASSES, World, make_world

from trainer.agreement.classifiers import Guidance, InMemoryClassifier, Recipe
from trainer.agreement.cotraining import Plan, State, cotrain
from trainer.agreement.fitting import Fitter
from trainer.agreement.guides import (
    AlongEdges,
    Guide,
    Learned,
    LearnedWithoutGraph,
    Outset,
    given,
    no_pairs,
    weights_of,
)
from trainer.agreement.networks import Mlp, Neighbors, WholeGraph
from trainer.agreement.pair_sets import Graph
from trainer.config import AgreementConfig

SETTINGS = AgreementConfig(
    iterations=3,
    samples_to_label=12,
    min_positive_pairs=5,
    hidden=[8],
    learning_rate=0.01,
    steps=60,
)

PAIRS = 16  # of each kind, a step


def plan_of(world: World, settings: AgreementConfig = SETTINGS, **changes: Any) -> Plan:
    return replace(Plan.of(settings, world.candidates, CLASSES), **changes)


def classifier_of(world: World, *, gcn: bool = False, keep_best: bool = True) -> InMemoryClassifier:
    network: Any = Mlp(world.nodes, (16, 8), CLASSES)
    if gcn:
        neighbors = Neighbors(world.edges, len(world.nodes))
        network = WholeGraph(world.nodes, neighbors, hidden=8, classes=CLASSES, dropout=0.5)
    return InMemoryClassifier(
        network,
        Recipe(steps=60, learning_rate=0.01, batch=16, keep_best=keep_best),
        nodes=len(world.nodes),
        validation=world.validation_labels,
    )


def guide_of(world: World, kind: str, settings: AgreementConfig = SETTINGS) -> Guide:
    graph = Graph.of(world.edges)
    along = AlongEdges(world.edges, settings, weights_of(settings), contrast_pairs=8, pairs=PAIRS)
    fitter = Fitter(world.nodes, 0, settings)
    if kind == "gam_no_graph":
        pool, weights = world.candidates, weights_of(settings)
        return LearnedWithoutGraph(graph, world.nodes, fitter, settings, weights, pool, PAIRS)
    if kind == "validated":
        return Learned(along, graph, world.nodes, fitter, world.validation_labels)
    if kind == "trusting":
        return given(along, np.ones(len(world.edges), np.float32))
    return Learned(along, graph, world.nodes, fitter)


def run(world: World, kind: str, settings: AgreementConfig = SETTINGS, **options: Any) -> State:
    classifier = classifier_of(world, gcn=kind == "gcn")
    return cotrain(
        classifier,
        world.labels,
        guide_of(world, kind, settings),
        plan_of(world, settings),
        seed=4,
        **options,
    )


def same_weights(one: State, other: State) -> bool:
    pairs = zip(one.best_weights, other.best_weights, strict=True)
    return all((a == b).all() for a, b in pairs)


# Leaks --------------------------------------------------------------------------------------------


def with_other_truth(world: World) -> World:
    """The same but for the classes of nodes that are neither labelled nor of the validation."""
    hidden = np.flatnonzero(~(world.seeds | world.validation))
    truth = world.truth.copy()
    truth[hidden] = np.random.default_rng(9).permutation(truth[hidden])
    assert (truth != world.truth).sum() > 20
    return replace(world, truth=truth)


@pytest.mark.parametrize(
    "kind", ["gam", "validated", "published", "gam_no_graph", "gcn", "trusting"]
)
def test_the_classes_of_unlabelled_nodes_leak_into_nothing(kind: str) -> None:
    world = make_world(labelled=6)
    source = "edges" if kind == "published" else "labelled_pairs"
    settings = SETTINGS.model_copy(update={"pair_source": source, "weight_ll": 0.5})
    one, other = (run(each, kind, settings) for each in (world, with_other_truth(world)))
    assert len(one.history) == 4  # three iterations with pairs and labels that were given
    assert one.labels.pseudo.sum() > 20
    assert same_weights(one, other)
    np.testing.assert_array_equal(one.labels.current, other.labels.current)
    assert one.history == other.history


def test_the_canary_dies_where_the_truth_does_leak() -> None:
    world = make_world(labelled=6)
    one, other = (
        cotrain(
            classifier_of(each),
            each.labels,
            given(
                AlongEdges(each.edges, SETTINGS, weights_of(SETTINGS), pairs=PAIRS),
                each.agree.astype(np.float32),
            ),
            plan_of(each),
            seed=4,
        )
        for each in (world, with_other_truth(world))
    )
    assert one.history != other.history


# The loop -----------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """A classifier of given figures and probabilities, which notes what it was trained on."""

    figures: Sequence[float]
    surest: np.ndarray
    trained: list[tuple[np.ndarray, Guidance, int]] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=lambda: [np.zeros(1)])

    def train(self, labels: np.ndarray, guidance: Guidance, *, seed: int) -> Sequence[float]:
        self.trained.append((labels.copy(), guidance, seed))
        self.weights = [np.array([len(self.trained) - 1.0])]
        return (self.figures[len(self.trained) - 1],)

    def probabilities(self) -> np.ndarray:
        return self.surest

    def get_weights(self) -> list[np.ndarray]:
        return copy.deepcopy(self.weights)

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        self.weights = list(weights)


def scripted(*figures: float) -> Scripted:
    surest = np.linspace(0.55, 0.95, 10)
    return Scripted(figures, np.stack([surest, 1 - surest], axis=1).astype(np.float32))


LABELS = np.array([0, 1] + [-1] * 8)
PLAN = Plan(
    iterations=9,
    candidates=np.arange(10) < 8,
    classes=2,
    number=2,
    min_confidence=0.5,
    keep_proportions=False,
)


def test_the_first_iteration_is_plain_and_labels_nothing_and_the_rest_labels_the_surest() -> None:
    classifier, asked = scripted(*[0.5] * 9), []

    def guide(outset: Outset) -> Guidance:
        asked.append(outset.labels.copy())
        np.testing.assert_array_equal(outset.probabilities, classifier.surest)
        return Guidance(figures={"auc": 0.7}, note="a note")

    state = cotrain(classifier, LABELS, guide, PLAN, seed=0)
    # Iterations 0, 1: the known two. Six candidates, two an iteration: 4, 6, 8 labels. Then the
    # fourth has nothing new.
    numbers = [int((labels >= 0).sum()) for labels, _, _ in classifier.trained]
    assert numbers == [2, 2, 4, 6, 8]
    assert [entry["new"] for entry in state.history] == [0, 2, 2, 2, 0]
    assert [entry["note"] for entry in state.history] == [None] + ["a note"] * 4
    assert "auc" not in state.history[0]
    assert len(asked) == 4
    assert len({seed for _, _, seed in classifier.trained}) == 5
    assert state.labels.table()["node"].tolist() == [7, 6, 5, 4, 3, 2]
    assert state.labels.table()["iteration"].tolist() == [1, 1, 2, 2, 3, 3]
    assert (state.labels.current[8:] == -1).all()


def test_the_best_iteration_is_the_earliest_of_the_highest_figure() -> None:
    classifier = scripted(0.5, 0.7, 0.7, 0.6, 0.1)
    state = cotrain(classifier, LABELS, no_pairs, PLAN, seed=0)
    assert (state.best_iteration, state.best_figure) == (1, (0.7,))
    assert classifier.weights[0] == 1.0
    assert state.best["figure"] == (0.7,)


def test_no_more_iterations_than_were_asked_for() -> None:
    state = cotrain(scripted(*[0.5] * 9), LABELS, no_pairs, replace(PLAN, iterations=2), seed=0)
    assert len(state.history) == 3
    state = cotrain(scripted(*[0.5] * 9), LABELS, no_pairs, replace(PLAN, labelling=False), seed=0)
    assert len(state.history) == 2


def test_neither_validation_nor_test_nodes_are_labelled_and_labels_stay() -> None:
    world = make_world(labelled=4)
    seen: list[State] = []
    settings = SETTINGS.model_copy(update={"iterations": 6, "samples_to_label": 30})
    run(world, "gam", settings, on_iteration=seen.append)
    before = world.labels
    for state in seen:
        now = state.labels.current
        assert (now[world.validation | world.test] == -1).all()
        assert (now[before >= 0] == before[before >= 0]).all()
        before = now
    assert seen[-1].labels.pseudo.sum() > 30


def test_it_goes_on_from_any_iteration_to_the_same_end() -> None:
    world = make_world(labelled=6)
    states: list[bytes] = []
    whole = run(world, "gam", on_iteration=lambda state: states.append(pickle.dumps(state)))
    assert len(states) == 4
    for kept in states:
        again = run(world, "gam", state=pickle.loads(kept))
        assert same_weights(whole, again)
        assert again.history == whole.history
        np.testing.assert_array_equal(again.labels.current, whole.labels.current)


# Guards -------------------------------------------------------------------------------------------


def test_where_the_judge_is_of_no_use_there_are_no_pairs_and_it_is_said() -> None:
    world = make_world(labelled=2)
    settings = SETTINGS.model_copy(update={"min_positive_pairs": 20, "class_evidence": False})
    learned = guide_of(world, "gam", settings)
    outset = Outset(world.labels, np.zeros((0, 0), np.float32), 0)
    found = learned(outset)
    assert found.note == "3 pairs are known to agree, fewer than 20"
    assert found.pairs is None
    assert found.edges is None
    assert isinstance(learned, Learned)
    contrast = replace(learned, without="contrast")(outset)
    assert (contrast.pairs, contrast.note) == (None, found.note)
    assert contrast.edges is not None
    assert (contrast.edges.draw(3)[1] == 1.0).all()
    trusting = replace(learned, without="all")(outset)
    assert trusting.pairs is not None
    np.testing.assert_array_equal(trusting.agreement, np.ones(len(world.edges)))
    # Iterations with such a guide are self-training.
    one = cotrain(classifier_of(world), world.labels, learned, plan_of(world, iterations=1), seed=1)
    other = cotrain(
        classifier_of(world), world.labels, no_pairs, plan_of(world, iterations=1), seed=1
    )
    assert same_weights(one, other)


def test_where_the_judge_is_of_no_use_the_classes_may_tell_alone() -> None:
    world = make_world(labelled=2)
    settings = SETTINGS.model_copy(update={"min_positive_pairs": 20, "edge_prior": False})
    learned = guide_of(world, "gam", settings)
    classes = len(np.unique(world.truth))
    seen = np.full((len(world.truth), classes), 0.1 / (classes - 1), np.float32)
    seen[np.arange(len(seen)), world.truth] = 0.9
    found = learned(Outset(world.labels, seen, 0))
    assert found.note == "3 pairs are known to agree, fewer than 20"
    assert found.pairs is not None
    np.testing.assert_array_equal(found.agreement > 0.5, world.agree)


def test_judged_edges_do_not_mislead_where_trusted_ones_do() -> None:
    world = make_world(labelled=4, wrong=1.0, spread=1.5)
    assert world.agree.mean() < 0.35  # as of any two nodes
    changes = {"weight_lu": 10.0, "weight_uu": 5.0, "class_evidence": False, "edge_prior": False}
    settings = SETTINGS.model_copy(update=changes)
    right = {}
    for kind in ("gam", "trusting"):
        classifier = classifier_of(world, keep_best=False)
        plan = plan_of(world, settings)
        state = cotrain(classifier, world.labels, guide_of(world, kind, settings), plan, seed=4)
        labels = state.labels
        right[kind] = float((labels.current == world.truth)[labels.pseudo].mean())
    assert right["gam"] > right["trusting"] + 0.1
