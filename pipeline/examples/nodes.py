"""Settled images as the nodes of examples: labels as numbers, features scaled.

In: a shard's file of settled images and the transform. Out: a table of NODE_COLUMNS. Here alone it
is decided who may see a label: `labels` are none outside the training split, wherever the image
turns up; `heldout_labels` are none inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.examples import spill
from pipeline.examples.places import PLACE, column
from pipeline.sorting import run_bounds

LABELS, HELDOUT_LABELS = schema.LABELS.name, schema.HELDOUT_LABELS.name  # list<int64>
# Of a node wherever it turns up; and of it as a seed.
NODE_COLUMNS = (PLACE, schema.IMAGE_ID.name, schema.IMAGE.name, schema.TRANSFORM_FEATURES, LABELS)
SEED_COLUMNS = (*NODE_COLUMNS, HELDOUT_LABELS, schema.TEXT.name, schema.TEXT_WEIGHT.name, "split")


@dataclass(frozen=True)
class NodeFiles:
    """Where the settled images and the transform are.

    feature_dim: None for pictures.
    """

    folder: str
    transform: str
    shards: int
    feature_dim: int | None

    def read_places(self, shard: int) -> pa.Table:
        """settle.PLACE_COLUMNS of a shard's images, by ascending place."""
        return self._read(spill.PLACES, shard)

    def read_seeds(self, shard: int) -> pa.Table:
        """SEED_COLUMNS of a shard's images, by ascending place."""
        from pipeline.examples import transform  # loads TensorFlow, which a plan needs not

        images = self._read(spill.IMAGES, shard)
        labels = transform.label_lists(self.transform, images["label"])
        training = pc.equal(column(images, "split"), schema.SPLITS[0])
        columns = {name: column(images, name) for name in images.column_names}
        columns[LABELS] = keep_lists(labels, training)
        columns[HELDOUT_LABELS] = keep_lists(labels, pc.invert(training))
        if self.feature_dim is not None:
            columns[schema.TRANSFORM_FEATURES] = self._scaled(columns[schema.TRANSFORM_FEATURES])
        return pa.table({name: columns[name] for name in SEED_COLUMNS})

    def _read(self, prefix: str, shard: int) -> pa.Table:
        return spill.read_table(spill.shard_path(self.folder, prefix, shard, self.shards))

    def _scaled(self, features: pa.Array) -> pa.Array:
        from pipeline.examples import transform

        assert self.feature_dim is not None
        flat = features.flatten().to_numpy().reshape(-1, self.feature_dim)
        scaled = transform.scaled_features(self.transform, flat)
        offsets = pa.array(np.arange(len(features) + 1) * self.feature_dim, pa.int64())
        return pa.LargeListArray.from_arrays(offsets, pa.array(scaled.ravel()))


def keep_lists(lists: pa.Array, keep: pa.Array) -> pa.Array:
    """The lists of some rows, and empty ones in the others. keep: [rows] bool."""
    lengths = pc.if_else(keep, pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    parents = pc.list_parent_indices(lists)
    offsets = run_bounds(lengths)
    values = lists.flatten().filter(keep.take(parents))
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)
