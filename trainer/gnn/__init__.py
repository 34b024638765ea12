"""Models over neighbour-augmented inputs, as graphs of DeepMind's graph_nets; the public names.

Users of neural-structured-learning find its configs, with its defaults and results, and its models
on Keras 3:

    model = gnn.GraphRegularizationModel(config=graph_reg_config, node_model_fn=NodeClassifier)
    model.compile(optimizer="adam", loss=...)
    model.fit(train_dataset, epochs=30, validation_data=eval_dataset)

In a process that has imported tensorflow_transform, `tf.keras` is Keras 2, whose optimizers these
models do not take: say `keras` there.

What inputs look like stands in `inputs`, how they become graphs in `packing`.
"""

from trainer.gnn.configs import (
    DistanceConfig,
    DistanceType,
    GraphNeighborConfig,
    GraphRegConfig,
    Reduction,
    TransformType,
    make_graph_reg_config,
)
from trainer.gnn.distances import pairwise_distance
from trainer.gnn.layers import CommNetBlock, GraphConvolution, MessagePassing, MessageRound
from trainer.gnn.models import (
    ConcatFeatures,
    GraphConvolutionalNodeClassifier,
    GraphRegularizationModel,
    MessagePassingModel,
)
from trainer.gnn.networks import to_graph
from trainer.gnn.node_graph_model import NodeGraphModel
from trainer.gnn.regularization import graph_loss, loss_of_graph

__all__ = [
    "CommNetBlock",
    "ConcatFeatures",
    "DistanceConfig",
    "DistanceType",
    "GraphConvolution",
    "GraphConvolutionalNodeClassifier",
    "GraphNeighborConfig",
    "GraphRegConfig",
    "GraphRegularizationModel",
    "MessagePassing",
    "MessagePassingModel",
    "MessageRound",
    "NodeGraphModel",
    "Reduction",
    "TransformType",
    "graph_loss",
    "loss_of_graph",
    "make_graph_reg_config",
    "pairwise_distance",
    "to_graph",
]
