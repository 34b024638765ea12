"""The optimizer: AdamW with a warm-up, a schedule, clipping, and loss scaling for float16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from trainer.config import TrainingConfig

FINAL_RATE = 0.01  # of the highest, where a cosine ends


def learning_rate(training: TrainingConfig, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """The rate by the number of the step: a line up to the highest, then a cosine or a constant."""
    warmup = round(training.warmup * steps)
    if training.warmup:
        warmup = max(1, warmup)
    return keras.optimizers.schedules.CosineDecay(
        training.learning_rate / warmup if warmup else training.learning_rate,
        max(1, steps - warmup),
        alpha=FINAL_RATE if training.schedule == "cosine" else 1.0,
        warmup_target=training.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


class SummedAdamW(keras.optimizers.AdamW):
    """AdamW on gradients that are the sum over all replicas already.

    Keras adds them up only after it has clipped them, each replica's by itself.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


def make_optimizer(training: TrainingConfig, steps: int) -> keras.Optimizer:
    """A fresh optimizer for a training of so many steps."""
    optimizer = SummedAdamW(
        learning_rate(training, steps),
        weight_decay=training.weight_decay,
        global_clipnorm=training.clip_norm,
    )
    if training.precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers that are made inside compute with this Keras policy; the former one comes back."""
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)
