"""The devices that train together: one, the GPUs of this machine, or workers on several.

Every device is a replica: it holds all the weights, and of each batch it sees its own rows. What
the replicas add up is what one device would have found for the whole batch, but for two things that
look at a batch as a whole: in the contrastive terms the negatives of a row are those of its own
replica, and a mean over some of the rows (such as the labelled ones) is taken in each replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.errors import ImgembedError
from trainer.workers import Worker

Shard = tuple[int, int]  # (index, of how many)


class Replicas:
    """The replicas of this process, and what those of all processes do together."""

    def __init__(self, strategy: tf.distribute.Strategy, worker: Worker) -> None:
        self.strategy = strategy
        self.worker = worker
        self.count: int = strategy.num_replicas_in_sync
        # Traced once for arrays of the same shapes.
        self._sum = tf.function(lambda values: self.run(_of_first, values), autograph=False)

    @classmethod
    def open(cls, worker: Worker, devices: Sequence[str] | None = None) -> Replicas:
        """Those of this worker's devices, which are all its GPUs, else its CPU.

        To be called before TensorFlow does anything else where there are several workers.
        """
        if not worker.is_alone:
            return cls(_of_several_workers(worker), worker)
        if devices is None:
            devices = [device.name for device in tf.config.list_logical_devices("GPU")]
        if len(devices) > 1:
            return cls(tf.distribute.MirroredStrategy(devices), worker)
        return cls(tf.distribute.get_strategy(), worker)

    def batches(self, make: Callable[[Shard], tf.data.Dataset]) -> Iterator[Any]:
        """What `run` takes, batch by batch, of the datasets that `make` gives for each shard."""

        def of_this_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            here = self.count // context.num_input_pipelines
            first = context.input_pipeline_id * here
            shards = [make((first + index, self.count)) for index in range(here)]
            if here == 1:
                return shards[0]
            turns = tf.data.Dataset.range(here).repeat()  # an element for each replica in turn
            return tf.data.Dataset.choose_from_datasets(shards, turns)

        return iter(self.strategy.distribute_datasets_from_function(of_this_worker))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls it in every replica; gives what the first one of this process returns."""
        results = self.strategy.run(function, args=arguments)
        return tf.nest.map_structure(
            lambda result: self.strategy.experimental_local_results(result)[0], results
        )

    def from_chief(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The chief's arrays, in every worker; others hand in arrays of the same shapes."""
        if self.worker.is_alone:
            return list(arrays)
        return [value.numpy() for value in self._sum([tf.constant(array) for array in arrays])]

    def agree(self, *numbers: int) -> list[int]:
        """The chief's numbers, in every worker; waits until all are here."""
        return [int(one) for one in self.from_chief([np.array(one, np.int64) for one in numbers])]


def _of_first(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """The first replica's values, in every replica; inside a replica."""
    is_first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
    # One by one: together they would have to be of one type.
    return [total(tf.where(is_first, value, tf.zeros_like(value))) for value in values]


def total(values: Any) -> Any:
    """The sum over all replicas of a tensor or of a list of them; inside a replica.

    Each as the result of an operation: of what came in as an argument, tf.distribute does not know
    the device.
    """
    if not tf.nest.flatten(values):
        return values
    values = tf.nest.map_structure(tf.identity, values)
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def _of_several_workers(worker: Worker) -> tf.distribute.Strategy:
    communication = tf.distribute.experimental.CommunicationImplementation
    gpus = tf.config.list_physical_devices("GPU")
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=communication.AUTO if gpus else communication.RING
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        said = " ".join(str(error).split())[:200]
        raise ImgembedError(
            f"TF_CONFIG: worker {worker.index} of {len(worker.addresses)} could not join at "
            f"{worker.addresses[worker.index]}: {said}"
        ) from error
