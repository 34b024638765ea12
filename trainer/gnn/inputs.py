"""Takes a batch's dict apart: features of seeds, of their neighbours, and the edges among them.

In: a dict with features `<name>` [batch, ...] of the seeds, for neighbour i `NL_nbr_<i>_<name>`
[batch, ...] and `NL_nbr_<i>_weight`, [batch] or [batch, 1]; in addition, where edges among the
nodes of an example are known, `graph_senders`, `graph_receivers` [batch, edges] integers
(0 = seed, i + 1 = neighbour i, -1 = padding) and `graph_weights` [batch, edges]. The dict itself
stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from pipeline import schema
from trainer.gnn.configs import GraphNeighborConfig

Features = Mapping[str, tf.Tensor]
Edges = dict[str, tf.Tensor]
# The part of a layer's `edges` that each input is.
EDGE_INPUTS = {
    schema.GRAPH_SENDERS.name: "senders",
    schema.GRAPH_RECEIVERS.name: "receivers",
    schema.GRAPH_WEIGHTS.name: "weights",
}


@dataclass(frozen=True)
class Neighborhoods:
    """A batch of seeds and what surrounds each.

    seeds: {name: [batch, ...]}. neighbors: {name: [batch, n, ...]}. weights: [batch, n] float32,
    0 = no such neighbour. edges: senders, receivers, weights, each [batch, edges]; None = none.
    """

    seeds: dict[str, tf.Tensor]
    neighbors: dict[str, tf.Tensor]
    weights: tf.Tensor
    edges: Edges | None


def split_inputs(inputs: Features, config: GraphNeighborConfig | None) -> Neighborhoods:
    """A batch taken apart. config None: as many neighbours as the inputs hold.

    A neighbour whose weight the inputs lack is not there, and so is none in serving.
    """
    config = config or _as_many_as_there_are(inputs)
    seeds = {
        name: x
        for name, x in inputs.items()
        if not name.startswith(config.prefix) and name not in EDGE_INPUTS
    }
    if not seeds:
        raise ValueError(f"no features of the seeds; the inputs are {sorted(inputs)}")
    slots = [i for i in range(config.max_neighbors) if _weight_name(config, i) in inputs]
    if slots != list(range(len(slots))):
        raise ValueError(f"weights of neighbours {slots}, but not of those between them")
    if not slots:
        batch = tf.shape(next(iter(seeds.values())))[0]
        none = {name: x[:, None][:, :0] for name, x in seeds.items()}
        return Neighborhoods(seeds, none, tf.zeros([batch, 0]), None)
    names = [f"{config.prefix}{i}" for i in slots]
    neighbors = {
        feature: tf.stack([_of_neighbor(inputs, name, feature) for name in names], axis=1)
        for feature in seeds
    }
    weights = [tf.reshape(inputs[_weight_name(config, i)], [-1]) for i in slots]
    return Neighborhoods(
        seeds, neighbors, tf.cast(tf.stack(weights, axis=1), tf.float32), _edges(inputs)
    )


def _weight_name(config: GraphNeighborConfig, index: int) -> str:
    return f"{config.prefix}{index}{config.weight_suffix}"


def _as_many_as_there_are(inputs: Features) -> GraphNeighborConfig:
    config = GraphNeighborConfig()
    number = sum(name.startswith(config.prefix) for name in inputs)
    present = sum(_weight_name(config, i) in inputs for i in range(number))
    return GraphNeighborConfig(max_neighbors=present)


def _of_neighbor(inputs: Features, neighbor: str, feature: str) -> Any:
    try:
        return inputs[f"{neighbor}_{feature}"]
    except KeyError:
        raise ValueError(
            f"no '{neighbor}_{feature}' in the inputs, which have {feature!r} of the seeds; "
            "neighbours need all features that seeds have"
        ) from None


def _edges(inputs: Features) -> Edges | None:
    """Edges among the nodes of each example; None where the inputs have none."""
    found = {part: inputs[name] for name, part in EDGE_INPUTS.items() if name in inputs}
    if not found:
        return None
    if len(found) < len(EDGE_INPUTS):
        missing = [name for name in EDGE_INPUTS if name not in inputs]
        raise ValueError(f"edges among neighbours lack {missing}; all three are needed, or none")
    return found
