"""The agreement model on the nodes and edges of a run, and as a file beside the model.

A thin cover of `trainer.agreement`: which numbers about an edge it looks at and on which scale,
what it learns from where there are no labels, which classes the model sees in both ends, and how it
is written and read.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from pipeline import schema
from pipeline.artifacts import NewVersion, Version
from pipeline.errors import ImgembedError
from trainer.agreement.evidence import Classes, all_evidence
from trainer.agreement.fitting import Fitter
from trainer.agreement.judge import Judge
from trainer.agreement.pair_sets import Graph, Lesson, of_targets
from trainer.agreement.targets import query_targets
from trainer.config import AgreementConfig
from trainer.graph_edges import FEATURES, Clicks, GraphEdges
from trainer.metrics import auc

Head = tuple[np.ndarray, np.ndarray]  # of classes: kernel [dim, classes], bias [classes], float32
NO_HEAD: Head = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)


@dataclass(frozen=True)
class EdgeJudge:
    """A fitted agreement model.

    names: of the numbers about an edge that it looks at, of graph_edges.FEATURES. center, spread:
    [f] float32, their mean and deviation over the edges that it was fitted on. head: of the model
    whose vectors these are; NO_HEAD: no class is trained, or none tells enough.
    """

    judge: Judge
    names: tuple[str, ...]
    center: np.ndarray
    spread: np.ndarray
    head: Head = NO_HEAD

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        edges: GraphEdges,
        settings: AgreementConfig,
        *,
        labels: np.ndarray | None,
        clicks: Clicks | None,
        head: Head | None,
        with_graph: bool,
        seed: int,
    ) -> EdgeJudge:
        """Learns from labels [n], -1 = none, or where these are None, from clicks.

        vectors: [n, dim] float32, what it looks at of the nodes; with_graph: and of edges, what the
        logs tell; without, pairs are judged that are no edges. head: None: no class is trained.
        """
        # Pairs of clicks tell nothing of what the logs tell of edges: both come from the same logs.
        looks_at_edges = with_graph and settings.edge_features and labels is not None
        names = edges.names if looks_at_edges else ()
        features = edges.features[:, : len(names)]
        center, spread = np.zeros(len(names), np.float32), np.ones(len(names), np.float32)
        if len(features):
            center, spread = features.mean(axis=0), features.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        made = cls(Judge(settings, [], 0), names, center, spread, head or NO_HEAD)
        graph, fitter = made._graph(edges), Fitter(vectors, len(names), settings)
        if labels is None:
            assert clicks is not None  # else the training was refused
            found = fitter.on_lesson(_lesson_of(clicks, edges, seed=seed), seed=seed)
        elif with_graph or settings.pair_source == "labelled_pairs":
            found = fitter.on_labels(graph, labels, seed=seed)
        else:
            found = fitter.on_random_pairs(graph, labels, seed=seed)
        return replace(made, judge=found)

    def of_edges(self, vectors: np.ndarray, edges: GraphEdges) -> np.ndarray | None:
        """[edges] float32, the probability that the ends of each are of one class.

        Where the model may not be asked, by the classes alone; None: there are none, or they are
        not to be asked either.
        """
        alone = None
        if self.judge.unusable is None:
            alone = self.judge.of_edges(vectors, self._graph(edges))
        return all_evidence(alone, self._classes(vectors), edges.ends, self.judge.settings)

    def of_classes_checked_by(
        self, vectors: np.ndarray, pairs: np.ndarray, agree: np.ndarray
    ) -> EdgeJudge:
        """The same, without classes where these tell pairs apart worse than a model would have to.

        Of a model that may not be asked: classes that are alone. pairs [p, 2] of nodes whose labels
        nothing has seen; agree [p] bool, of both kinds.
        """
        classes = self._classes(vectors)
        if classes is None or auc(classes.agreement(pairs), agree) >= self.judge.settings.min_auc:
            return self
        return replace(self, head=NO_HEAD)

    def _classes(self, vectors: np.ndarray) -> Classes | None:
        kernel, bias = self.head
        return Classes.of_head(vectors, kernel, bias) if len(bias) else None

    def _graph(self, edges: GraphEdges) -> Graph:
        """The edges with their numbers on the scale of the fit."""
        rows = [edges.names.index(name) for name in self.names]
        features = (edges.features[:, rows] - self.center) / self.spread
        return Graph(edges.ends.astype(np.int32), features.astype(np.float32))

    # Kept ----------------------------------------------------------------------------------------

    def arrays(self) -> list[np.ndarray]:
        """All that its answers come from."""
        names = np.array([FEATURES.index(name) for name in self.names], np.int32)
        scale = [self.center.astype(np.float32), self.spread.astype(np.float32)]
        return [names, *scale, *self.head, *self.judge.arrays()]

    @classmethod
    def of_arrays(cls, arrays: Sequence[np.ndarray], settings: AgreementConfig) -> EdgeJudge:
        """What `arrays` gave, without figures."""
        names, center, spread, kernel, bias, *rest = arrays
        found = Judge.of_arrays(rest, settings)
        names_of = tuple(FEATURES[place] for place in names)
        return cls(found, names_of, center, spread, (kernel, bias))

    def write(self, out: NewVersion) -> None:
        """Writes it beside a model."""
        sink = io.BytesIO()
        np.savez(sink, *self.arrays())
        with tf.io.gfile.GFile(out.file(schema.AGREEMENT_MODEL_FILE), "wb") as file:
            file.write(sink.getvalue())

    @classmethod
    def read(cls, model: Version) -> EdgeJudge:
        """That of a model; ImgembedError where it has none."""
        found: Mapping[str, object] | None = model.manifest.get("agreement")
        if found is None:
            raise ImgembedError(
                f"{model.path}: was trained without agreement; set model.agreement to gam and "
                f"train anew with: {schema.STAGE_COMMANDS[schema.MODEL]}"
            )
        if not found["learned"]:
            why, mend = found["unusable"], "give more images of the catalog a label"
            if why is None:
                why, mend = "all edges count alike", "leave agreement.always_agree out"
            raise ImgembedError(f"{model.path}: no agreement was learned ({why}); {mend}")
        settings = AgreementConfig.model_validate(model.manifest["config"]["agreement"])
        with tf.io.gfile.GFile(model.file(schema.AGREEMENT_MODEL_FILE), "rb") as file:
            content = np.load(io.BytesIO(file.read()), allow_pickle=False)
        return cls.of_arrays([content[name] for name in content.files], settings)


def _lesson_of(clicks: Clicks, edges: GraphEdges, *, seed: int) -> Lesson:
    """Pairs that different users clicked for one query, which agree, and pairs that never meet.

    How many users there were is known of each image of a query, not who they were: where both
    images had one user, it may have been the same one, and they are no pair.
    """
    users = np.where(clicks.users > 0, clicks.users, clicks.sessions)  # logs without users
    of_several = users >= 2
    # Somebody else for each image of several users; for the others one and the same.
    user = np.where(of_several, np.arange(1, len(users) + 1), 0)
    pairs, targets = query_targets(
        clicks.query, clicks.node, user, users, met=edges.ends, seed=seed
    )
    return of_targets(pairs, targets, np.zeros((len(pairs), 0), np.float32), seed=seed)
