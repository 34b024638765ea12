"""How good a model is on the validation split: the figure that decides which epoch is the best.

`text_mrr`: mean reciprocal rank of the first right image for each seed's text, among all validation
seeds; an image is right when it has that text. `edge_mrr`: the same of the strongest neighbour for
each seed, among the validation seeds' strongest neighbours. `accuracy`: of the class head, on
held-out labels; its best class is right when it is among the image's labels. `figure`: the mean of
those there is data for and whose term is trained: ranks say what search will be like, whereas a
loss also moves with temperature and confidence.

Where an embedding is made of neighbours too, these are of images as they are served, without any;
`accuracy_connected` and `text_mrr_connected` are those of the same seeds with their neighbours, and
`neighbor_skew` is what an image loses by having none, in the mean of the two. (An edge_mrr with
neighbours would be no measure: what is asked for is in the question.)
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipeline import schema
from trainer import monitors
from trainer.model import EmbeddingModel
from trainer.progress import Figures

PREFIX = "validation_"
FIGURE = f"{PREFIX}figure"
MOST_SEEDS = 4_096  # of the validation split that are looked at, to the next full batch
_IDS = ("id", "text_id", "seed_text_id", "neighbor_id", "graph_id", "heldout_label")
# Of these a batch has as many columns as its longest row; what fills the others up.
_PADDING = {"seed_text_id": 0, "heldout_labels": schema.NO_LABEL}
_ISOLATED = "isolated"  # begins the names of outputs for images without neighbours
_COMPARED = ("accuracy", "text_mrr")  # with neighbours and without
Found = dict[str, np.ndarray]


class Validator:
    """Measures a model on batches of `trainer.dataset.evaluation_batches`."""

    def __init__(
        self, network: EmbeddingModel, batches: tf.data.Dataset, *, edges: bool = False
    ) -> None:
        """edges: whether edges are ranked even where no term learns from them."""
        self._network, self._batches = network, batches
        self._edges = edges or network.trains("edge_contrast", "graph_regularization")
        self._outputs = tf.function(
            lambda batch: network(batch, training=False), autograph=False, reduce_retracing=True
        )

    def figures(self) -> Figures:
        """All figures and the collapse monitors, by the names of the history."""
        found = self._found()
        served = _served(found)
        figures = _figures(self._network, served, edges=self._edges)
        if served is not found:
            figures |= _connected(_figures(self._network, found, edges=self._edges))
        named = {f"{PREFIX}{name}": value for name, value in figures.items()}
        if served is not found:
            named |= _skew(named)
        if len(served["seeds"]) > 1:
            named |= monitors.spread(served["seeds"])
        return named

    def _found(self) -> Found:
        """Ids and embeddings of all seeds, of their neighbours and texts."""
        parts: list[Found] = []
        for batch in self._batches:
            kept = batch.keys() & {*_IDS, *_PADDING}
            outputs = {name: value.numpy() for name, value in self._outputs(batch).items()}
            parts.append({**{name: batch[name].numpy() for name in kept}, **outputs})
        return {name: _concatenate([part[name] for part in parts], name) for name in parts[0]}


def _served(found: Found) -> Found:
    """What was found, with the outputs as they are for images without neighbours."""
    if _ISOLATED not in found:
        return found
    names = {"seeds": "", "neighbors": "_neighbors", "logits": "_logits"}
    return {**found, **{n: found[_ISOLATED + end] for n, end in names.items() if n in found}}


def _connected(figures: Figures) -> Figures:
    return {f"{name}_connected": figures[name] for name in _COMPARED if name in figures}


def _skew(named: Figures) -> Figures:
    lost = [
        named[f"{PREFIX}{name}_connected"] - named[f"{PREFIX}{name}"]
        for name in _COMPARED
        if f"{PREFIX}{name}" in named
    ]
    return {"neighbor_skew": float(np.mean(lost))} if lost else {}


def _figures(network: EmbeddingModel, found: Found, *, edges: bool) -> Figures:
    """`text_mrr`, `edge_mrr`, `accuracy`, `figure`, each in [0, 1], where there is data for it."""
    figures = {}
    if network.trains("text_contrast") and found["text_id"].any():
        figures["text_mrr"] = _text_mrr(found)
    if edges and found["neighbor_id"].any():
        figures["edge_mrr"] = _edge_mrr(found)
    if network.trains("supervised") and (found["heldout_label"] >= 0).any():
        figures["accuracy"] = _accuracy(found)
    if figures:
        figures["figure"] = float(np.mean(list(figures.values())))
    return figures


def _concatenate(parts: list[np.ndarray], name: str) -> np.ndarray:
    if name in _PADDING:
        width = max(part.shape[1] for part in parts)
        parts = [
            np.pad(part, [(0, 0), (0, width - part.shape[1])], constant_values=_PADDING[name])
            for part in parts
        ]
    return np.concatenate(parts)


def _accuracy(found: Found) -> float:
    """The share of the labelled seeds whose best class is one of their labels."""
    labels = found.get("heldout_labels", found["heldout_label"][:, None])
    right = (found["logits"].argmax(axis=1)[:, None] == labels).any(axis=1)
    return float(right[(labels >= 0).any(axis=1)].mean())


def _text_mrr(found: Found) -> float:
    """Of each seed's text, the best rank of an image that has the text, among all seeds."""
    asked = found["text_id"] != 0
    right = _shares(found["text_id"][asked], found["seed_text_id"])
    return _mrr(found["texts"][asked] @ found["seeds"].T, right)


def _edge_mrr(found: Found) -> float:
    """Of each seed, the best rank of its neighbour's picture, among the seeds' neighbours.

    Seeds whose neighbours hold the very picture of another seed rank it like any other.
    """
    asked = found["neighbor_id"][:, 0] != 0
    neighbors, ids = found["neighbors"][asked, 0], found["neighbor_id"][asked, 0]
    right = _shares(ids, found["graph_id"][asked]).T
    return _mrr(found["seeds"][asked] @ neighbors.T, right)


def _shares(ids: np.ndarray, of: np.ndarray) -> np.ndarray:
    """[n] and [m, k], 0 = none -> [n, m] bool: whether the row holds the id."""
    return np.stack([(of == one).any(axis=1) for one in ids])


def _mrr(scores: np.ndarray, right: np.ndarray) -> float:
    """Mean reciprocal rank of the best right candidate; ties count against it.

    scores [queries, candidates]; right, the same shape, bool, with at least one in every row.
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = 1 + (~right & (scores >= best)).sum(axis=1)
    return float((1.0 / ranks).mean())
