"""A process of tests/test_distribution.py: some steps of learning on the devices that it is told.

Writes the state of its learner and the loss of each step as an .npz file.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.artifacts import Version
from trainer.attempt import make_model
from trainer.config import ModelConfig, TrainingConfig
from trainer.dataset import evaluation_batches, training_batches
from trainer.example_files import ExampleFiles
from trainer.learner import Learner
from trainer.model import SEED_MONITOR
from trainer.optimizers import make_optimizer
from trainer.strategies import Replicas
from trainer.workers import this_worker


def main(examples: str, out: str, devices: int, steps: int, model: dict, training: dict) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, parts)
    replicas = Replicas.open(this_worker(), [f"CPU:{index}" for index in range(devices)])
    manifest = json.loads(Path(examples, "manifest.json").read_text())
    files = ExampleFiles.open(Version("examples", "v0001", examples, manifest))
    transform, settings = files.transform(), TrainingConfig(**training)
    tf.keras.utils.set_random_seed(0)
    with replicas.strategy.scope():
        network = make_model(files, transform, ModelConfig(**model), settings)
        for batch in evaluation_batches(files, transform, "train", batch_size=2, neighbors=1):
            network(batch, training=False)
            break
        learner = Learner(network, make_optimizer(settings, steps), replicas)
    batches = replicas.batches(
        lambda shard: training_batches(
            files,
            transform,
            batch_size=settings.batch_size,
            neighbors=settings.neighbors,
            epochs=settings.epochs,
            seed=0,
            shuffle_buffer=settings.shuffle_buffer,
            shard=shard,
        )
    )
    wish = float(not replicas.worker.is_chief)
    stepped = [learner.step(number, batches, [wish, 0.0]) for number in range(steps)]
    np.savez(
        out,
        replicas=replicas.count,
        losses=[one.loss for one in stepped],
        wishes=stepped[-1].wishes,
        from_chief=replicas.from_chief([np.full(3, 1.0 + wish), np.array(2**40 + int(wish))])[1],
        seeds=[v.numpy() for v in network.variables if v.path.endswith("seed_generator_state")],
        # The mean cosine of random seeds is that of a replica's own.
        sums=[sums for name, sums in learner.sums().items() if name != SEED_MONITOR],
        **{f"weight-{i}": value for i, value in enumerate(network.get_weights())},
        **{f"slot-{i}": v.numpy() for i, v in enumerate(learner.optimizer.variables)},
    )


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
