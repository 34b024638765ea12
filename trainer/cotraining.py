"""Co-training: a model, labels of more images and the agreement of edges, learned in turns.

    iteration 0    a plain training
                      │ all images are looked at with the model of its best epoch:
                      ├─► images that it is sure of get labels
                      └─► agreement: how likely the ends of each edge are of one class
    iteration 1    trained anew on these labels, and edges count by their agreement
                      │ …

What it ends with is the iteration that is best on the validation split, iteration 0 among them, so
that an agreement that helps nobody costs nothing but time. After each iteration there is a
checkpoint, and within one those of any training: it goes on from either to the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from trainer.agreement.guides import weights_of
from trainer.agreement.labels import Labels, label_more, proportions
from trainer.agreement.loss import transformed
from trainer.agreement.pairs import labelled_pairs
from trainer.agreement_files import write_agreement, write_pseudo_labels
from trainer.attempt import Data, Trained, attempt, make_learner
from trainer.beliefs import UNKNOWN, Beliefs
from trainer.checkpoints import Checkpoints, mark_within
from trainer.config import AgreementConfig
from trainer.edge_judge import EdgeJudge, Head
from trainer.example_files import TRAIN, VALIDATION
from trainer.graph_edges import (
    Clicks,
    GraphEdges,
    clicks_of,
    edges_of_examples,
    edges_of_graph,
)
from trainer.lookup import Lookup, pair_keys
from trainer.losses import PairWeights
from trainer.model import EmbeddingModel
from trainer.nodes import Nodes, look_at, read_nodes
from trainer.progress import Figures, Interrupted, Listener
from trainer.strategies import Replicas
from trainer.tensorboard import Events
from trainer.turns import Story, Turn, pack, record_of, unpack
from trainer.validation import FIGURE

_KINDS = [np.dtype(kind) for kind in ("f4", "i8", "i4")]  # of what workers share
_FIGURES = "agreement_"  # begins the names of what is found of the agreement model
FEWEST_PAIRS, MOST_PAIRS = 50, 10_000  # of validation images that the agreement is measured by
GIVE_UP_AFTER = 2  # iterations in a row that are no better than the best before them


@dataclass(frozen=True)
class Outcome:
    """What co-training ended with: the model of the best iteration, and all that was found."""

    trained: Trained
    story: Story
    last: Turn  # what the next iteration would have begun with

    @property
    def best(self) -> dict[str, Any]:
        """The entry of the best iteration."""
        return self.story.iterations[self.story.best]

    def history(self) -> dict[str, Any]:
        """What the history file says beside the epochs of the best iteration."""
        shown = [
            {name: value for name, value in entry.items() if name != "curves"}
            for entry in self.story.iterations
        ]
        return {"best_iteration": self.story.best, "iterations": shown}

    def summary(self) -> dict[str, Any]:
        """What the manifest says: figures of the best iteration, but none of its epochs'."""
        entry, learned = self.best, self.story.learned
        return {
            "iterations": len(self.story.iterations),
            "best_iteration": self.story.best,
            "learned": learned is not None and learned.learns,
            "unusable": entry["unusable"],
            "self_labelled": self.last.self_labelled,
            **{name: value for name, value in entry.items() if name.startswith(_FIGURES)},
        }


@dataclass(frozen=True)
class World:
    """What is known of all images beside their pictures. clicks: None where labels are enough."""

    nodes: Nodes
    edges: GraphEdges
    clicks: Clicks | None


class CoTraining:
    """Iterations from the first one, or from a checkpoint, to the last."""

    def __init__(
        self,
        data: Data,
        replicas: Replicas,
        settings: AgreementConfig,
        world: World,
        *,
        checkpoints: Checkpoints | None,
        restart: bool,
        events: str | None,
        listener: Listener,
    ) -> None:
        """data: of the plain training that iteration 0 is. checkpoints: of the mark of the whole.

        events: the folder of event files, one within it for each iteration.
        """
        self._data, self._replicas, self._settings, self._world = data, replicas, settings, world
        self._with_graph = data.model.agreement == "gam"
        self._always = settings.always_agree
        self._checkpoints, self._restart = _of_whole(checkpoints, settings), restart
        self._events, self._listener = events, listener
        # Whether images may agree in their classes, and whether a model is to say which.
        self._labels = data.files.labelled > 0
        self._classes = self._labels and data.training.supervised > 0

    def run(self) -> Outcome | None:
        """All iterations; None in a worker that follows the chief.

        Interrupted where the listener asks to stop.
        """
        turn, story = self._begin()
        network = None
        while not self._is_over(turn, story):
            self._listener.on_iteration(turn.iteration, self._settings.iterations)
            trained = self._train(turn)
            network = trained.network
            turn = self._learn(turn, trained, story)
            self._keep(turn, story)
        if not self._replicas.worker.is_chief:
            return None
        if network is None:  # all was done when it was killed
            network = make_learner(self._data, self._replicas).network
        network.set_weights(story.weights)
        best = story.iterations[story.best]
        trained = Trained(network, story.record(), best["best_epoch"], best["figure"])
        return Outcome(trained, story, turn)

    def _is_over(self, turn: Turn, story: Story) -> bool:
        """Whether nothing is left to try; the same in all workers."""
        over = turn.iteration > 0 and (
            turn.iteration > self._settings.iterations
            or not (turn.trusts or turn.self_labelled)
            or (turn.iteration > 1 and not turn.fresh and (self._classes or self._always))
            or story.since_best >= GIVE_UP_AFTER
        )
        return bool(self._replicas.agree(int(over))[0])

    # An iteration ------------------------------------------------------------------------------

    def _train(self, turn: Turn) -> Trained:
        """The iteration's training, to its best epoch."""
        events = None if self._events is None else _events_of(self._events, turn.iteration)
        try:
            return attempt(
                self._data_of(turn),
                self._replicas,
                checkpoints=self._checkpoints_within(turn.iteration),
                restart=False,
                events=events,
                listener=self._listener,
            )
        except Interrupted as stopped:
            raise Interrupted(
                stopped.step, stopped.steps, kept=stopped.kept, iteration=turn.iteration
            ) from None

    def _data_of(self, turn: Turn) -> Data:
        """What an iteration learns from: in iteration 0 what any training does."""
        if turn.iteration == 0:
            return self._data
        beliefs = Beliefs(labels=self._labels_of(turn))
        if not turn.trusts:
            # Edges that nobody has judged, together with labels that nobody gave, carry errors on.
            former = self._data.training
            return replace(
                self._data,
                training=former.model_copy(update={"graph_regularization": 0.0}),
                beliefs=beliefs,
                ranks_edges=former.graph_regularization > 0,  # else figures were of other things
            )
        if self._with_graph:
            beliefs = replace(beliefs, agreement=self._agreement_of(turn))
        else:
            beliefs = replace(beliefs, pair_agreement=self._pairs_of(turn))
        return replace(self._data, beliefs=beliefs, pair_weights=pair_weights(self._settings))

    def _labels_of(self, turn: Turn) -> Lookup | None:
        """Labels of training images; no others are ever looked up."""
        if not self._classes:
            return None
        training = self._world.nodes.of(TRAIN)
        labels = turn.labels.current[training]
        return Lookup(self._world.nodes.ids[training], labels, schema.NO_LABEL)

    def _agreement_of(self, turn: Turn) -> Lookup:
        sources, targets = (self._world.nodes.ids[end] for end in self._world.edges.ends.T)
        keys = pair_keys(tf.constant(sources), tf.constant(targets)).numpy()
        less = self._settings.penalize_negative
        return Lookup(keys, transformed(turn.agreement, penalize_negative=less), UNKNOWN)

    def _pairs_of(self, turn: Turn) -> Any:
        """The function of two tensors of ids that gives the agreement of these images."""
        judge = EdgeJudge.of_arrays(turn.judge, self._settings).judge.of_tensors()
        looks = Lookup(self._world.nodes.ids, turn.vectors, np.zeros(turn.vectors.shape[1], "f4"))

        def agreement(ids: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
            found = judge(looks.find(ids), looks.find(others))
            return tf.nn.relu(found - 0.5) if self._settings.penalize_negative else found

        return agreement

    # Between two iterations --------------------------------------------------------------------

    def _learn(self, turn: Turn, trained: Trained, story: Story) -> Turn:
        """What the next iteration begins with; the chief looks, all learn of it."""
        learned = Turn(turn.iteration + 1, turn.labels)
        if self._replicas.worker.is_chief:
            learned, figures, unusable = self._look(turn, trained)
            entry = {
                "iteration": turn.iteration,
                "figure": trained.metrics.get(FIGURE, float(turn.iteration)),
                "with_agreement": turn.trusts,
                "self_labelled": turn.self_labelled,
                "best_epoch": trained.best_epoch,
                "unusable": unusable,
                **{name: value for name, value in trained.metrics.items() if name != "epoch"},
                **figures,
                "epochs": trained.record.history,
                "curves": trained.record.curves,
            }
            story.add(entry, learned, trained.network)
            learned = self._guarded(learned, story, unusable)
        return Turn.of_arrays(self._shared(learned.arrays()))

    def _look(self, turn: Turn, trained: Trained) -> tuple[Turn, Figures, str | None]:
        """What all images look like now: (labels and agreement, figures, why not to ask the model).

        Where the model may not be asked, there may still be the classes to judge edges by.
        """
        world = self._world
        vectors, probabilities = look_at(trained.network, self._data.files)
        learned = Turn(turn.iteration + 1, turn.labels)
        if turn.iteration > 0:  # as published, labels are given by a model that knew what to trust
            learned = self._label(learned, probabilities)
        if self._always:
            return replace(learned, agreement=np.ones(len(world.edges), np.float32)), {}, None
        judge = EdgeJudge.fit(
            vectors,
            world.edges,
            self._settings,
            labels=learned.labels.current if self._labels else None,
            clicks=world.clicks,
            head=_head_of(trained.network) if self._classes else None,
            with_graph=self._with_graph,
            seed=self._data.seed,
        )
        judge = self._checked(judge, vectors)
        found = judge.judge
        figures = {f"{_FIGURES}{name}": value for name, value in found.figures.items()}
        agreement = None
        if self._with_graph or found.unusable is None:  # pairs are judged by the model alone
            agreement = judge.of_edges(vectors, world.edges)
        if agreement is None:
            if turn.iteration == 0:
                learned = self._label(learned, probabilities)
            return learned, figures, found.unusable
        learned = replace(
            learned,
            agreement=agreement,
            vectors=learned.vectors if self._with_graph else vectors,
            judge=tuple(judge.arrays()),
        )
        return learned, figures, found.unusable

    def _checked(self, judge: EdgeJudge, vectors: np.ndarray) -> EdgeJudge:
        """The same, measured by the validation split, and set right where its images are enough.

        The model has not seen their labels, whereas it has seen all those that the agreement model
        learns from: by these it would be too sure.
        """
        nodes = self._world.nodes
        labels = np.where(nodes.of(VALIDATION), nodes.heldout, schema.NO_LABEL)
        pairs = labelled_pairs(labels, limit=MOST_PAIRS, seed=0)
        agree = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        fewest = min(agree.sum(), (~agree).sum())
        if judge.judge.unusable is not None:
            if fewest < FEWEST_PAIRS:
                return judge
            return judge.of_classes_checked_by(vectors, pairs, agree)
        if not fewest:
            return judge
        found = judge.judge.checked_by(vectors, pairs, agree)
        if fewest < FEWEST_PAIRS:  # for people to read, but nothing is decided by so few
            name = "validation_auc"
            found = replace(judge.judge, figures={**judge.judge.figures, name: found.figures[name]})
        return replace(judge, judge=found)

    def _label(self, learned: Turn, probabilities: np.ndarray | None) -> Turn:
        """The same with labels of the images that the model is sure of."""
        if not self._classes or probabilities is None:
            return learned
        settings, known = self._settings, self._world.nodes.labels
        shares = proportions(known, probabilities.shape[1]) if settings.keep_proportions else None
        labels, fresh = label_more(
            learned.labels,
            probabilities,
            self._world.nodes.of(TRAIN),
            iteration=max(1, learned.iteration - 1),
            number=settings.samples_to_label,
            min_confidence=settings.min_confidence,
            shares=shares,
            sticky=settings.sticky_labels,
        )
        return replace(learned, labels=labels, fresh=fresh)

    def _guarded(self, learned: Turn, story: Story, unusable: str | None) -> Turn:
        """The same without agreement where that is not to be had, or has not helped."""
        why = (None if learned.trusts else unusable) or story.lost_with_agreement()
        if why is not None:
            self._listener.on_note(f"agreement: {why}; it is left out from here on")
            return learned.without_agreement()
        if unusable is not None:
            self._listener.on_note(f"agreement: {unusable}; edges are judged by classes alone")
        return learned

    def _shared(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The chief's arrays, in every worker, whatever the others have."""
        if self._replicas.worker.is_alone:
            return arrays
        (number,) = self._replicas.agree(len(arrays))
        found: list[np.ndarray] = []
        for index in range(number):
            own = arrays[index] if index < len(arrays) else np.zeros(0, np.float32)
            rank, kind = self._replicas.agree(own.ndim, _KINDS.index(own.dtype))
            shape = self._replicas.agree(
                *(own.shape[axis] if axis < own.ndim else 0 for axis in range(rank))
            )
            if not self._replicas.worker.is_chief:
                own = np.zeros(shape, _KINDS[kind])
            found += self._replicas.from_chief([own]) if own.size else [own]
        return found

    # Checkpoints -------------------------------------------------------------------------------

    def _begin(self) -> tuple[Turn, Story]:
        """The first turn, or the one after the last iteration that was done."""
        turn, story = Turn(0, Labels.of_known(self._world.nodes.labels)), Story()
        if self._checkpoints is not None and self._replicas.worker.is_chief:
            found = self._checkpoints.begin(anew=self._restart)
            if found is not None:
                turn, story = unpack(found)
                self._show_again(story)
                self._clear_within(turn.iteration - 1)
        return Turn.of_arrays(self._shared(turn.arrays())), story

    def _show_again(self, story: Story) -> None:
        """Event files of iterations that are done: they lie in the folder of a version gone."""
        if self._events is not None:
            for entry in story.iterations:
                record = record_of(entry)
                Events(_events_of(self._events, entry["iteration"])).of_record(
                    record.curves, record.history
                )

    def _keep(self, turn: Turn, story: Story) -> None:
        """Writes the checkpoint of an iteration's end, and removes those within it."""
        if self._checkpoints is None or not self._replicas.worker.is_chief:
            return
        if self._checkpoints.write(pack(turn, story)):
            self._clear_within(turn.iteration - 1)

    def _clear_within(self, iteration: int) -> None:
        """Removes the checkpoints of an iteration that has ended."""
        within = self._checkpoints_within(iteration)
        if within is not None:
            within.clear()

    def _checkpoints_within(self, iteration: int) -> Checkpoints | None:
        """Those of the steps of an iteration, beside those of the whole."""
        whole = self._checkpoints
        if whole is None:
            return None
        own = mark_within(whole.mark, iteration)
        return replace(whole, mark=own, beside=frozenset({whole.mark}), unit="step")


def _of_whole(checkpoints: Checkpoints | None, settings: AgreementConfig) -> Checkpoints | None:
    """The checkpoints of the iterations' ends, which leave those within iterations alone."""
    if checkpoints is None:
        return None
    within = (mark_within(checkpoints.mark, i) for i in range(settings.iterations + 1))
    return replace(checkpoints, beside=frozenset(within), unit="iteration")


def pair_weights(settings: AgreementConfig) -> PairWeights:
    """How much pairs count in the loss."""
    return PairWeights(
        weights_of(settings),
        certain=0.5 if settings.penalize_negative else 1.0,
        first_stays=settings.uu_target == "stopgrad",
    )


def _head_of(network: EmbeddingModel) -> Head:
    """The layer from embeddings to classes."""
    kernel, bias = network.class_head.get_weights()
    return kernel, bias


def _events_of(folder: str, iteration: int) -> str:
    return f"{folder}/iteration-{iteration}"


# What it reads and what it leaves -----------------------------------------------------------------


def read_world(data: Data, graph: Version | None) -> World:
    """All images, the edges among them, and, where there is no label to agree in, the clicks.

    graph: the version that the examples were made of; None: it is gone, the edges are then those
    that the examples carry.
    """
    nodes = read_nodes(data.files)
    if graph is None:
        return World(nodes, edges_of_examples(nodes), None)
    clicks = clicks_of(graph, nodes.image_ids) if data.files.labelled == 0 else None
    return World(nodes, edges_of_graph(graph, nodes.image_ids), clicks)


def write_findings(
    outcome: Outcome,
    world: World,
    settings: AgreementConfig,
    classes: Sequence[str],
    out: NewVersion,
) -> None:
    """The agreement of all edges with the model that gives it, and the labels that nobody gave."""
    learned = outcome.story.learned
    if learned is not None and learned.learns:
        write_agreement(out, world.nodes.image_ids, world.edges, learned.agreement)
        EdgeJudge.of_arrays(learned.judge, settings).write(out)
    write_pseudo_labels(out, world.nodes.image_ids, classes, outcome.last.labels)
