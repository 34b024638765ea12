"""Event files of a training, as TensorBoard reads them; it need not be installed to write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import tensorflow as tf


class Events:
    """Scalars by step. Names begin with "step/", or with "epoch/" and are by epoch then."""

    def __init__(self, folder: str) -> None:
        self._writer = tf.summary.create_file_writer(folder)
        # What tf.summary.scalar would write; that needs TensorBoard itself, these files do not.
        self._metadata = tf.compat.v1.SummaryMetadata(data_class="DATA_CLASS_SCALAR")
        self._metadata.plugin_data.plugin_name = "scalars"

    def of_record(
        self,
        curves: Iterable[tuple[int, Mapping[str, float]]],
        history: Iterable[Mapping[str, float]],
    ) -> None:
        """curves: (step, figures). history: figures of an epoch, its number among them."""
        with self._writer.as_default():
            for step, figures in curves:
                self._write("step", step, figures)
            for figures in history:
                named = {name: value for name, value in figures.items() if name != "epoch"}
                self._write("epoch", int(figures["epoch"]), named)
        self._writer.flush()

    def _write(self, kind: str, number: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            value = tf.constant(value, tf.float32)
            tf.summary.write(f"{kind}/{name}", value, number, self._metadata)
