"""Claim: a step with neighbours costs what its images cost, and no image is encoded twice.

Steps of the picture tower of a size, 64 x 64 pixels, the same batch again and again, each variant
in a process of its own on two cores, medians over rounds that take turns:

    keras, B(1+K)   the same tower and a dense layer in Keras' own fit, on as many pictures at once
                    as the variant beside it has seeds and neighbours
    plain           imgembed without neighbours
    K = 1, 3, 5     with graph regularization, every neighbour there; half: every second one missing
    GCN, messages   a graph network over 3 neighbours

Then, on the demo's examples: how many images a step would encode and how many it does, and the time
of a step with and without that; the share of a step that waits for its batch; memory by epoch.

    python benchmarks/training.py [--sizes small] [--rounds 5] [--parts steps demo memory]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np

CORES = 2
BATCH_SIZE, SIDE, CLASSES = 32, 64, 10
WARM_UP, STEPS = 3, 10
NEIGHBORS = (1, 3, 5)
SIZES = ("tiny", "small", "base")
DEMO_IMAGES, WAIT_EPOCHS = 2_000, 4
DEMO_NEIGHBORS, DEMO_BATCHES = (1, 3, 5), (32, 128)
MEMORY_EPOCHS = 12
TERMS = {"edge_contrast": 0.0, "text_contrast": 0.0}
PARTS = ("steps", "demo", "memory")
Step = Callable[[], object]


# ---------------------------------------------------------------------------------------------
# Steps, in a process for each variant
# ---------------------------------------------------------------------------------------------


def batch_of(neighbors: int, *, every: int = 1, images: int | None = None) -> dict[str, Any]:
    """A batch as `trainer.dataset` makes it, of noise; only one neighbour in `every` is there.

    images: number of different ones; None: all differ.
    """
    draw = np.random.default_rng(0)
    shape = (BATCH_SIZE, neighbors)
    there = np.arange(BATCH_SIZE * neighbors).reshape(shape) % every == 0
    ids = 1 + np.arange(BATCH_SIZE * (1 + neighbors))
    if images is not None:
        ids = 1 + ids % images
    seeds, near = ids[:BATCH_SIZE], np.where(there, ids[BATCH_SIZE:].reshape(shape), 0)
    pixels = draw.integers(0, 256, (BATCH_SIZE, 1 + neighbors, SIDE, SIDE, 3)).astype(np.uint8)
    return {
        "content": pixels[:, 0],
        "neighbor_content": pixels[:, 1:],
        "neighbor_weight": there.astype(np.float32),
        "id": seeds.astype(np.int64),
        "neighbor_id": near.astype(np.int64),
        "graph_id": near.astype(np.int64),
        "label": draw.integers(0, CLASSES, BATCH_SIZE).astype(np.int64),
        "neighbor_label": np.full(shape, -1, np.int64),
    }


def channels() -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations of noise."""
    return np.full(3, 127.5, np.float32), np.full(3, 73.9, np.float32)


def keras_step(size: str, pictures: int) -> Step:
    """Keras' own train step on the same tower."""
    import keras

    from trainer.config import ModelConfig
    from trainer.towers import build

    model = ModelConfig(size=size)
    tower = build.image_tower(model, channels=channels(), image_size=SIDE, augmentation="mirror")
    network = keras.Sequential([tower, keras.layers.Dense(CLASSES)])
    network.compile(
        optimizer=keras.optimizers.AdamW(0.001, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    batch = batch_of(pictures // BATCH_SIZE - 1)
    x = np.concatenate([batch["content"], *np.moveaxis(batch["neighbor_content"], 1, 0)])
    y = np.resize(batch["label"], len(x))
    return endless(lambda: network.train_on_batch(x, y))


def our_step(size: str, batch: dict[str, Any], network: str, neighbors: int) -> Step:
    """imgembed's step on one batch."""
    import tensorflow as tf

    from trainer.config import ModelConfig, TrainingConfig
    from trainer.learner import Learner
    from trainer.model import EmbeddingModel
    from trainer.optimizers import make_optimizer
    from trainer.strategies import Replicas
    from trainer.workers import Worker

    training = TrainingConfig(
        neighbors=neighbors,
        graph_regularization=float(neighbors > 0 and network == "none"),
        neighbor_dropout=0.0,
        **TERMS,
    )
    model = EmbeddingModel(
        ModelConfig(size=size, graph_network=network),
        training,
        channels=channels(),
        image_size=SIDE,
        num_classes=CLASSES,
        num_tokens=0,
    )
    batches = tf.data.Dataset.from_tensors(batch).cache().repeat()
    for example in batches.take(1):
        model(example, training=False)
    learner = Learner(model, make_optimizer(training, 10_000), Replicas.open(Worker()))
    iterator = iter(batches)
    return endless(lambda: learner.step(0, iterator, []))


def endless(step: Step) -> Step:
    """The step, once it has been made ready."""
    for _ in range(WARM_UP):
        step()
    return step


def variants(size: str) -> dict[str, Callable[[], Step]]:
    """Each variant's step."""
    made: dict[str, Callable[[], Step]] = {
        "plain": lambda: our_step(size, batch_of(0), "none", 0),
        "keras, B": lambda: keras_step(size, BATCH_SIZE),
    }
    for k in NEIGHBORS:
        made[f"keras, B(1+{k})"] = lambda k=k: keras_step(size, BATCH_SIZE * (1 + k))
        made[f"K = {k}"] = lambda k=k: our_step(size, batch_of(k), "none", k)
    made["K = 5, half"] = lambda: our_step(size, batch_of(5, every=2), "none", 5)
    made["GCN, K = 3"] = lambda: our_step(size, batch_of(3), "gcn", 3)
    made["messages, K = 3"] = lambda: our_step(size, batch_of(3), "message_passing", 3)
    return made


def serve_rounds(make: Callable[[], Step]) -> None:
    """Makes the step, then answers each line of input with its milliseconds: CPU, wall."""
    step = make()
    print("ready", flush=True)
    for _ in sys.stdin:
        began, worked = time.monotonic(), time.process_time()
        for _ in range(STEPS):
            step()
        wall, cpu = time.monotonic() - began, time.process_time() - worked
        print(json.dumps([1e3 * cpu / STEPS, 1e3 * wall / STEPS]), flush=True)


class Served:
    """A process that makes one variant's steps when it is asked."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, __file__, "--run", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        self.rounds: list[list[float]] = []
        self._answer()

    def round(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.rounds.append(json.loads(self._answer()))

    def _answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} failed")
        return line

    def end(self) -> tuple[float, float]:
        """Median milliseconds of a step: CPU, wall."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        cpu, wall = zip(*self.rounds, strict=True)
        return statistics.median(cpu), statistics.median(wall)


def measure_steps(size: str, rounds: int) -> None:
    """Prints the table of steps."""
    served = {name: Served("step", size, name) for name in variants(size)}
    for _ in range(rounds):
        for each in served.values():
            each.round()
    found = {name: each.end() for name, each in served.items()}
    print(f"\nSteps of {BATCH_SIZE} seeds, tower {size}\n")
    print("| | CPU ms | wall ms | / keras of as many pictures (CPU, wall) | / plain (CPU) |")
    print("|---|---|---|---|---|")
    same = {f"K = {k}": f"keras, B(1+{k})" for k in NEIGHBORS}
    same |= {"plain": "keras, B", "GCN, K = 3": "keras, B(1+3)",
             "messages, K = 3": "keras, B(1+3)"}  # fmt: skip
    for name, (cpu, wall) in found.items():
        ratio = ""
        if name in same:
            other = found[same[name]]
            ratio = f"{cpu / other[0]:.2f}, {wall / other[1]:.2f}"
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {ratio} | {cpu / found['plain'][0]:.2f} |")
    full, half = found["K = 5"][0], found["K = 5, half"][0]
    plain = found["plain"][0]
    print(f"\nhalf of the neighbours: {(half - plain) / (full - plain):.2f} of what all cost")


# ---------------------------------------------------------------------------------------------
# On the demo's examples
# ---------------------------------------------------------------------------------------------


def make_demo(work: Path) -> Path:
    """The run directory of the demo, up to its examples."""
    program = Path(sys.executable).with_name("imgembed")
    sample = work / f"sample-{DEMO_IMAGES}"
    if not (sample / "cfg.yaml").exists():
        arguments = ["sample", "--out", sample, "--images", DEMO_IMAGES, "--quiet"]
        subprocess.run([program, *map(str, arguments)], check=True)
    run = work / "run-demo"
    arguments = ["build-graph", "--config", sample / "cfg.yaml", "--run-dir", run, "--quiet"]
    subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    return run


def demo_batches(run: Path, batch_size: int, neighbors: int, epochs: int = 2) -> Any:
    """(example files, transform, batches) of the demo's training split."""
    from pipeline.artifacts import RunDir
    from trainer.dataset import training_batches
    from trainer.example_files import ExampleFiles

    files = ExampleFiles.open(RunDir.open(str(run)).require("examples"))
    transform = files.transform()
    batches = training_batches(
        files, transform, batch_size=batch_size, neighbors=neighbors, epochs=epochs, seed=0,
        shuffle_buffer=2_048,
    )  # fmt: skip
    return files, transform, batches


def measure_demo(work: Path, rounds: int) -> None:
    """Prints how many images are encoded once, what that saves, and how long a step waits."""
    from trainer.distinct import count_images

    run = make_demo(work)
    print("\nThe demo's examples\n\n| seeds a step | K | encoded / standing in the batch |")
    print("|---|---|---|")
    for batch_size in DEMO_BATCHES:
        for neighbors in DEMO_NEIGHBORS:
            _, _, batches = demo_batches(run, batch_size, neighbors)
            counts = np.array([count_images(batch) for batch in batches])
            distinct, standing = counts.sum(axis=0)
            print(f"| {batch_size} | {neighbors} | {distinct / standing:.3f} |")
    served = {name: Served("demo", run, name) for name in ("once", "each")}
    for _ in range(rounds):
        for each in served.values():
            each.round()
    found = {name: each.end() for name, each in served.items()}
    once, each = (found[name][0] for name in ("once", "each"))
    print(f"\na step of 128 seeds, K = 5: {once:.0f} ms of CPU; {each:.0f} with each image encoded")
    print(f"where it stands; ratio {once / each:.2f}")
    waiting = subprocess.run(
        [sys.executable, __file__, "--run", "wait", str(run)], check=True, capture_output=True
    )
    step, waits = json.loads(waiting.stdout.splitlines()[-1])
    print(f"a default step: {step:.1f} ms, of which waiting for its batch {waits / step:.1%}")


def demo_step(run: Path, once: bool) -> Step:
    """Our step on one batch of the demo; not `once`: as if all images in it differed."""
    import tensorflow as tf

    files, transform, batches = demo_batches(run, 128, 5)
    batch = {name: value.numpy() for name, value in next(iter(batches)).items()}
    if not once:
        size, shape = batch["id"].size, batch["neighbor_id"].shape
        batch["id"] = 1 + np.arange(size, dtype=np.int64)
        numbers = 1 + size + np.arange(batch["neighbor_id"].size, dtype=np.int64).reshape(shape)
        batch["neighbor_id"] = np.where(batch["neighbor_weight"] > 0, numbers, 0)
    learner = demo_learner(files, transform, 5)
    iterator = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
    return endless(lambda: learner.step(0, iterator, []))


def demo_learner(files: Any, transform: Any, neighbors: int) -> Any:
    """The model and optimizer that a training of the demo begins with."""
    from trainer.attempt import make_model
    from trainer.config import ModelConfig, TrainingConfig
    from trainer.dataset import evaluation_batches
    from trainer.learner import Learner
    from trainer.optimizers import make_optimizer
    from trainer.strategies import Replicas
    from trainer.workers import Worker

    training = TrainingConfig(neighbors=neighbors)
    network = make_model(files, transform, ModelConfig(), training)
    for batch in evaluation_batches(files, transform, "train", batch_size=2, neighbors=1).take(1):
        network(batch, training=False)
    return Learner(network, make_optimizer(training, 10_000), Replicas.open(Worker()))


def print_wait(run: Path) -> None:
    """Prints the milliseconds of a default step on the demo's examples, and of its waiting."""
    import tensorflow as tf

    files, transform, batches = demo_batches(run, BATCH_SIZE, 1, epochs=WAIT_EPOCHS)
    learner, iterator = demo_learner(files, transform, 1), iter(batches)
    steps = len(batches) // WAIT_EPOCHS
    began = waited = 0.0
    for number in range(WAIT_EPOCHS * steps):
        if number == steps:  # the first epoch warms up, its smaller last batch included
            began, waited = time.monotonic(), 0.0
        asked = time.monotonic()
        batch = next(iterator)
        waited += time.monotonic() - asked
        learner.step(number, iter(tf.data.Dataset.from_tensors(batch)), [])
    seconds, measured = time.monotonic() - began, (WAIT_EPOCHS - 1) * steps
    print(json.dumps([1e3 * seconds / measured, 1e3 * waited / measured]))


# ---------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------


def measure_memory(work: Path) -> None:
    """Prints the resident memory after each epoch of a training."""
    run = make_demo(work)
    done = subprocess.run(
        [sys.executable, __file__, "--run", "memory", str(run)], check=True, capture_output=True
    )
    sizes = json.loads(done.stdout.splitlines()[-1])
    shown = ", ".join(f"{size / 2**20:.0f}" for size in sizes)
    print(f"\nMiB after each epoch of the demo's training: {shown}")
    print(f"last / second: {sizes[-1] / sizes[1]:.3f}")


def print_memory(run: Path) -> None:
    """Trains and prints the resident memory after each epoch."""
    from pipeline.artifacts import NewVersion, RunDir
    from trainer.config import ModelConfig, TrainingConfig
    from trainer.fit import train
    from trainer.progress import Listener

    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            examples=RunDir.open(str(run)).require("examples"),
            model=ModelConfig(size="tiny"),
            training=TrainingConfig(epochs=MEMORY_EPOCHS),
            seed=0,
            out=NewVersion("model", "v0001", folder),
            listener=Listener(
                on_epoch=lambda *_: sizes.append(measuring.memory_of(os.getpid()).own)
            ),
        )
    print(json.dumps(sizes))


def run_part(name: str, *arguments: str) -> None:
    """What a process of its own does."""
    if name == "step":
        size, variant = arguments
        serve_rounds(variants(size)[variant])
    elif name == "demo":
        run, kind = arguments
        serve_rounds(lambda: demo_step(Path(run), kind == "once"))
    elif name == "wait":
        print_wait(Path(arguments[0]))
    else:
        print_memory(Path(arguments[0]))


def main() -> None:
    """Runs the benchmark, or what --run names."""
    arguments = parse_arguments()
    if arguments.run:
        run_part(*arguments.run)
        return
    measuring.use_cores(CORES)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if "steps" in arguments.parts:
        for size in arguments.sizes:
            measure_steps(size, arguments.rounds)
    if "demo" in arguments.parts:
        measure_demo(arguments.work, arguments.rounds)
    if "memory" in arguments.parts:
        measure_memory(arguments.work)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "imgembed-train"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
