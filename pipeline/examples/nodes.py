"""Settled images as the nodes of examples: labels as numbers, features scaled.

In: a shard's file of settled images and the transform. Out: a table of NODE_COLUMNS. Here alone it
is decided who may see a label: `label` is -1 outside the training split, wherever the image turns
up; `heldout_label` is -1 inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.examples import spill, transform

# Beside these: `text`, `text_weight`, `split`, as they were settled.
NODE_COLUMNS = (
    schema.IMAGE_ID.name,
    schema.IMAGE.name,
    schema.TRANSFORM_FEATURES,
    schema.LABEL.name,
    schema.HELDOUT_LABEL.name,
)


@dataclass(frozen=True)
class NodeFiles:
    """Where the settled images and the transform are.

    feature_dim: None for pictures.
    """

    folder: str
    transform: str
    shards: int
    feature_dim: int | None

    def read_ids(self, shard: int) -> pa.Array:
        """The ids of a shard's images, in ascending order."""
        ids = self._read(shard, [schema.IMAGE_ID.name])[schema.IMAGE_ID.name]
        return ids.combine_chunks()

    def read_nodes(self, shard: int) -> pa.Table:
        """The images of a shard by ascending id, as nodes."""
        images = self._read(shard)
        ids = transform.label_ids(self.transform, images["label"])
        training = np.asarray(pc.equal(images["split"], schema.SPLITS[0]))
        nodes = _replace(images, schema.LABEL.name, np.where(training, ids, schema.NO_LABEL))
        heldout = pa.array(np.where(training, schema.NO_LABEL, ids), pa.int64())
        nodes = nodes.append_column(schema.HELDOUT_LABEL.name, heldout)
        return nodes if self.feature_dim is None else self._scale(nodes, self.feature_dim)

    def _read(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        path = spill.shard_path(self.folder, spill.IMAGES, shard, self.shards)
        return spill.read_table(path, columns).combine_chunks()

    def _scale(self, nodes: pa.Table, dim: int) -> pa.Table:
        flat = pc.list_flatten(nodes[schema.TRANSFORM_FEATURES]).to_numpy()
        scaled = transform.scaled_features(self.transform, flat.reshape(-1, dim))
        offsets = pa.array(np.arange(nodes.num_rows + 1) * dim, pa.int64())
        lists = pa.LargeListArray.from_arrays(offsets, pa.array(scaled.ravel()))
        return _replace(nodes, schema.TRANSFORM_FEATURES, lists)


def _replace(table: pa.Table, name: str, values: np.ndarray | pa.Array) -> pa.Table:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    return table.set_column(table.column_names.index(name), name, column)
