"""What is learned of edges and of images beside the model, as files that one can open.

agreement-NNNNN-of-NNNNN.parquet   `schema.AGREEMENT_SCHEMA`, sharded by rows
pseudo_labels.parquet              `schema.PSEUDO_LABEL_SCHEMA`
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from pipeline import schema
from pipeline.artifacts import NewVersion
from trainer.agreement.labels import Labels
from trainer.graph_edges import GraphEdges

_ROWS_A_FILE = 5_000_000


def write_agreement(
    out: NewVersion, image_ids: pa.Array, edges: GraphEdges, agreement: np.ndarray
) -> pa.Table:
    """The edges in their order. image_ids: [n] string, whose rows are the ends; agreement: [e]."""
    columns = [
        *(image_ids.take(pa.array(end)) for end in edges.ends.T),
        edges.ranks,
        edges.weights,
        agreement.astype(np.float32),
    ]
    table = pa.table(columns, schema=schema.AGREEMENT_SCHEMA)
    files = max(1, -(-len(edges) // _ROWS_A_FILE))
    for file in range(files):
        part = table.slice(file * _ROWS_A_FILE, _ROWS_A_FILE)
        _write(out.file(schema.shard_name(schema.AGREEMENTS, file, files, "parquet")), part)
    return table


def write_pseudo_labels(
    out: NewVersion, image_ids: pa.Array, classes: Sequence[str], labels: Labels
) -> None:
    """The images that were labelled after an iteration, in the order in which that was."""
    table = labels.table()
    columns = [
        image_ids.take(pa.array(table["node"])),
        pa.array(classes, pa.string()).take(pa.array(table["label"])),
        table["confidence"],
        table["iteration"],
    ]
    _write(
        out.file(schema.PSEUDO_LABELS_FILE),
        pa.table(columns, schema=schema.PSEUDO_LABEL_SCHEMA),
    )


def _write(path: str, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(sink.getvalue())
