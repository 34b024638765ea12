"""Tables of rows to tables of unit vectors: the SavedModel inside Beam's RunInference.

Elements are tables of many rows, before and after; the model is called with batches of one size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference

from pipeline import progress, schema
from pipeline.embeddings import model as models

PROGRESS_STEP = "embeddings"
# Tables are gathered up to so many batches before the model is called: small tables, as a
# catalog of large pictures gives them, would else be padding for the most part.
BATCHES_AT_ONCE = 4
METRICS_NAMESPACE = "Embed"
ROWS = "rows"
_, EMBEDDING, MODEL_VERSION = schema.embedding_schema("key", 1).names


def row_count(table: pa.Table) -> int:
    """Rows of a table; Beam takes a function by its name."""
    return table.num_rows


def column_values(column: pa.ChunkedArray) -> np.ndarray:
    """What the model takes: [rows] object of bytes, or [rows, n] float32 of lists of numbers."""
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.astype(np.float32).reshape(len(column), -1)
    return np.array(column.cast(pa.binary()).to_pylist(), dtype=object)


def with_vectors(
    table: pa.Table, vectors: np.ndarray, *, content: str, model_version: str
) -> pa.Table:
    """The table with its content replaced by `embedding` and `model_version`."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    embedding = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    kept = [name for name in table.column_names if name != content]
    return (
        table.select(kept)
        .append_column(EMBEDDING, embedding)
        .append_column(MODEL_VERSION, pa.repeat(model_version, table.num_rows))
    )


class SavedModelHandler(ModelHandler[pa.Table, pa.Table, Any]):
    """A SavedModel's signature for RunInference.

    Elements are tables; their column `content` goes into the model, and the prediction is the
    table with `embedding` in its place. Beam's own handler does not load SavedModel folders.
    """

    def __init__(
        self, *, path: str, signature: str, content: str, model_version: str, batch_size: int
    ) -> None:
        self.call_size = models.call_size(batch_size)
        gathered = BATCHES_AT_ONCE * self.call_size
        super().__init__(
            min_batch_size=gathered, max_batch_size=gathered, element_size_fn=row_count
        )
        self.path = path
        self.signature = signature
        self.content = content
        self.model_version = model_version

    def load_model(self) -> Any:
        return models.load_saved_model(self.path)

    def run_inference(
        self,
        batch: Sequence[pa.Table],
        model: Any,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[pa.Table]:
        """One table of vectors for each table; Beam also sends batches without any."""
        filled = [table for table in batch if table.num_rows]
        if not filled:
            return
        rows = np.concatenate([column_values(table[self.content]) for table in filled])
        vectors = models.embed_rows(model, self.signature, rows, self.call_size)
        models.check_unit_norm(vectors, f"model {self.path}, signature {self.signature!r}")
        progress.add(PROGRESS_STEP, len(rows))
        Metrics.counter(METRICS_NAMESPACE, ROWS).inc(len(rows))  # Beam's own count tables
        bounds = np.cumsum([0, *(table.num_rows for table in filled)])
        for table, start, stop in zip(filled, bounds[:-1], bounds[1:], strict=True):
            yield with_vectors(
                table,
                vectors[start:stop],
                content=self.content,
                model_version=self.model_version,
            )

    def get_num_bytes(self, batch: Sequence[pa.Table]) -> int:
        return sum(table.nbytes for table in batch)

    def get_metrics_namespace(self) -> str:
        return METRICS_NAMESPACE


@dataclass
class EmbedTables(beam.PTransform):
    """Replaces a column by the model's vectors of it.

    Input: pa.Table with column `content`. Output: pa.Table with `embedding` and `model_version`
    in its place; none for a table without rows. Counters: RunInference's, and rows, in `Embed`.
    """

    model_path: str
    signature: str
    content: str
    model_version: str
    batch_size: int

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        handler = SavedModelHandler(
            path=self.model_path,
            signature=self.signature,
            content=self.content,
            model_version=self.model_version,
            batch_size=self.batch_size,
        )
        return tables | "RunInference" >> RunInference(handler).with_output_types(pa.Table)
