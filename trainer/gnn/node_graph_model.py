"""The model of one's own: a batch of seeds as graphs in, what their nodes became out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras
import tensorflow as tf

from trainer.gnn import networks
from trainer.gnn.configs import GraphNeighborConfig
from trainer.gnn.inputs import Features, split_inputs
from trainer.gnn.layers import PACKAGE
from trainer.gnn.packing import pack


@keras.saving.register_keras_serializable(PACKAGE)
class NodeGraphModel(keras.Model):
    """Packs a batch into graphs, asks `graph_call`, and returns what the seeds' nodes became.

    The inputs are those of `trainer.gnn.inputs`; without neighbours, as in serving, each graph is
    one node. Any number of rows is a batch. neighbor_config None: all neighbours that the inputs
    hold. neighbor_edges: whether edges among neighbours are used where the inputs have some.

    A subclass makes its layers in `__init__`, and adds its arguments to `get_config` where the
    model is to be saved. Layers that are made in `graph_call` would never learn.
    """

    def __init__(
        self,
        neighbor_config: GraphNeighborConfig | None = None,
        *,
        neighbor_edges: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "autocast": False})  # weights of edges stay float32
        # The number of nodes differs from batch to batch: XLA would compile each step anew.
        self.supports_jit = False
        self._neighbor_config = neighbor_config
        self._neighbor_edges = neighbor_edges
        self._seen_inputs: dict[str, Any] | None = None

    def graph_call(self, graph: Any) -> Any:
        """The GraphsTuple with new nodes. Nodes come as a dict {feature: [nodes, ...]}."""
        raise NotImplementedError(f"{type(self).__name__} has no graph_call")

    def build(self, input_shape: Any) -> None:
        """Nothing: layers are built by the first call, which knows what nodes are."""

    def call(self, inputs: Features, training: bool | None = None) -> Any:
        # Keras tells models whether they train only where `call` asks for it; from here on layers,
        # dropout among them, know it from Keras' call context.
        if self._seen_inputs is None:
            self._seen_inputs = _describe(inputs)
        return networks.seed_nodes(self.graph_call(self._pack(inputs)))

    def _pack(self, inputs: Features) -> Any:
        found = split_inputs(inputs, self._neighbor_config)
        edges = found.edges if self._neighbor_edges else None
        packed = pack(
            found.seeds,
            found.neighbors,
            found.weights,
            edges,
            keep_negative=self._keeps_negative_weights(),
        )
        return networks.from_packed(packed)

    def _keeps_negative_weights(self) -> bool:
        return False

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As Keras' fit; ValueError for a dataset of unknown length."""
        given = inspect.signature(super().fit).bind(x, *args, **kwargs).arguments
        _require_length(x, given.get("steps_per_epoch"), "steps_per_epoch")
        _require_length(
            given.get("validation_data"), given.get("validation_steps"), "validation_steps"
        )
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As Keras' evaluate; ValueError for a dataset of unknown length."""
        given = inspect.signature(super().evaluate).bind(x, *args, **kwargs).arguments
        _require_length(x, given.get("steps"), "steps")
        return super().evaluate(x, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        neighbors = self._neighbor_config
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "neighbor_config": None if neighbors is None else asdict(neighbors),
            "neighbor_edges": self._neighbor_edges,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        neighbors = config.get("neighbor_config")
        if isinstance(neighbors, Mapping):
            config = {**config, "neighbor_config": GraphNeighborConfig(**neighbors)}
        return cls(**config)

    def get_build_config(self) -> dict[str, Any] | None:
        """Shapes and dtypes of the inputs that the model has seen; None before its first call."""
        return None if self._seen_inputs is None else {"inputs": dict(self._seen_inputs)}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Makes all weights by one call, so that a saved model's find their places."""
        self(
            {
                name: tf.zeros([1, *shape], dtype)
                for name, (shape, dtype) in config["inputs"].items()
            }
        )
        for metric in self.metrics:
            metric.reset_state()


def _describe(inputs: Features) -> dict[str, Any]:
    """{name: (shape without the batch, dtype)}; 1 for a size that differs from batch to batch."""
    return {
        name: ([size or 1 for size in x.shape[1:]], tf.as_dtype(x.dtype).name)
        for name, x in inputs.items()
    }


def _require_length(data: Any, steps: int | None, argument: str) -> None:
    """Keras would run a step on no data at the end of each epoch, and report wrong metrics."""
    unknown = tf.data.experimental.UNKNOWN_CARDINALITY
    if isinstance(data, tf.data.Dataset) and steps is None and data.cardinality() == unknown:
        raise ValueError(
            "the dataset does not know its number of batches, and Keras' metrics would be wrong; "
            f"apply tf.data.experimental.assert_cardinality(batches) to it, or give {argument}"
        )
