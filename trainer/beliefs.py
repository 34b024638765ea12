"""What an iteration of co-training believes, put into the batches: labels and agreement.

A map from a batch of `trainer.dataset` to one that holds, where it is believed in,

    label, neighbor_label  [batch], [batch, n] int64    known or self-labelled; -1 = none
    neighbor_agreement     [batch, n] float32           that seed and neighbour are of one class;
                                                        1 where nothing is known of an edge
    graph_agreement        [batch, E] float32           the same of the edges among the nodes
    partner                [batch, p] int32             rows of other seeds; the row itself = none
    partner_agreement      [batch, p] float32           that the seed and that one are of one class

What is believed is of images and of pairs of images, not of a step: the map draws nothing, and a
training goes on from any step to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from pipeline import schema
from trainer.dataset import Batch
from trainer.lookup import Lookup, pair_keys

UNKNOWN = 1.0  # the agreement of an edge that nobody has looked at
PARTNERS = 4  # seeds of the batch that a seed is compared with, where no edges are


@dataclass(frozen=True)
class Beliefs:
    """What is believed; None: as the batch has it.

    labels: of training images, by id. agreement: of edges, by the key of their pair.
    pair_agreement: [pairs] int64 ids, twice -> [pairs] float32, of any two training images.
    """

    labels: Lookup | None = None
    agreement: Lookup | None = None
    pair_agreement: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether all is as the batch has it."""
        return self.labels is None and self.agreement is None and self.pair_agreement is None

    def into_training(self, batch: Batch) -> Batch:
        """A batch of the training split with all of it."""
        batch = self.into_evaluation(batch)
        if self.labels is not None:
            batch["label"] = self.labels.find(batch["id"])
            batch["neighbor_label"] = self.labels.find(batch["neighbor_id"])
        if self.pair_agreement is not None:
            batch |= _partners(batch["id"], self.pair_agreement)
        return batch

    def into_evaluation(self, batch: Batch) -> Batch:
        """A batch of any split with the agreement of its edges alone."""
        batch = dict(batch)
        if self.agreement is not None:
            ids, near = batch["id"], batch["neighbor_id"]
            keys = pair_keys(tf.broadcast_to(ids[:, None], tf.shape(near)), near)
            batch["neighbor_agreement"] = self.agreement.find(keys)
            if schema.GRAPH_SENDERS.name in batch:
                batch["graph_agreement"] = self.agreement.find(_inner_keys(batch))
        return batch


def _inner_keys(batch: Batch) -> tf.Tensor:
    """[batch, E] int64: the keys of the edges among an example's nodes; of padding anything."""
    nodes = tf.concat([batch["id"][:, None], batch["neighbor_id"]], axis=1)
    ends = (batch[feature.name] for feature in (schema.GRAPH_SENDERS, schema.GRAPH_RECEIVERS))
    return pair_keys(*(tf.gather(nodes, tf.maximum(end, 0), batch_dims=1) for end in ends))


def _partners(
    ids: tf.Tensor, agreement: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Each seed beside those that follow it in the batch, whose order is drawn each epoch."""
    own = tf.range(tf.size(ids))[:, None]
    partner = (own + tf.range(1, PARTNERS + 1)[None, :]) % tf.maximum(tf.size(ids), 1)
    beside = tf.gather(ids, partner)
    pairs = (
        tf.reshape(tf.broadcast_to(ids[:, None], tf.shape(beside)), [-1]),
        tf.reshape(beside, [-1]),
    )
    found = tf.reshape(agreement(*pairs), tf.shape(partner))
    return {"partner": partner, "partner_agreement": tf.where(partner == own, 0.0, found)}


NOTHING = Beliefs()
