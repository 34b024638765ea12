"""Claim: on real pictures with few labels, the graph of sessions makes a better embedding.

Pictures of clothes and groceries; sessions synthesized from their labels: half as many as there are
training pictures, four pictures each of one class, a share of them (the noise) any pictures at all,
so that an image has six neighbours on average. imgembed makes the graph and the examples. Of the
training pictures 1, 5 or 10 % keep their label, at least one of each class. Every method has the
same picture tower, steps, and seeds; nothing is chosen on what is reported.

    python benchmarks/pictures.py --data FOLDER [--sets clothing grocery] [--seeds 5] [--epochs 15]
        [--methods "GCN" …] [--noises 0.6] [--shares 0.1]

FOLDER holds clothing/{images.zip,labels.csv} (alexeygrigorev/clothing-dataset-small) and
grocery/{natural.zip,labels.csv} (marcusklasson/GroceryStoreDataset). Finished trainings are kept in
the work folder, and not done again.

Reported, as the mean of the seeds with its 95 % interval (Student's t):
    accuracy   of the class head on pictures that no session holds, embedded alone, as served
    connected  of the class head on the unlabelled training pictures, with their neighbours where
               the method looks at them
    mAP@R      pictures that no session holds, looked for among the training pictures: the mean over
               queries of the mean precision at the ranks of the first R results that are of the
               same class, R their number (Musgrave et al. 2020, section 3.2)
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

NOISES = (0.0, 0.3, 0.6)
SHARES = (0.01, 0.05, 0.10)
SESSION_LENGTH = 4
IMAGE_SIZE = 32
BATCH_SIZE = 64
FILTERS = [8, 16, 64]  # narrower than any size of the configuration: there are many trainings
JOBS = 2  # trainings at once, each with one thread
# archive, column of the label, name of the split of unseen pictures
SETS = {
    "clothing": ("images.zip", "label", "validation"),
    "grocery": ("natural.zip", "coarse", "val"),
}
# What a method changes in the sections model and training. Everything else is as it comes.
ALONE = {"graph_regularization": 0.0, "edge_contrast": 0.0, "neighbors": 0}
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "supervised": ({}, ALONE),
    "+ graph regularization": (
        {},
        {**ALONE, "neighbors": 1, "graph_regularization": 1.0, "regularized": "probabilities"},
    ),
    "+ contrastive": ({}, {**ALONE, "neighbors": 1, "edge_contrast": 1.0}),
    "GCN": ({"graph_network": "gcn"}, {**ALONE, "neighbors": 2}),
    "message passing": ({"graph_network": "message_passing"}, {**ALONE, "neighbors": 2}),
}
METRICS = ("accuracy", "connected", "map_at_r")


@dataclass(frozen=True)
class Case:
    """One training."""

    noise: float
    share: float
    seed: int


# ---------------------------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photos:
    """The pictures of a set by id, and which of them the sessions may hold."""

    images: dict[str, bytes]
    labels: dict[str, str]
    training: list[str]

    @classmethod
    def read(cls, data: Path, name: str) -> Photos:
        archive, column, unseen = SETS[name]
        with (data / name / "labels.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] in ("train", unseen)]
        with zipfile.ZipFile(data / name / archive) as pictures:
            images = {row["image"]: pictures.read(row["image"]) for row in rows}
        return cls(
            images,
            {row["image"]: row[column] for row in rows},
            sorted(row["image"] for row in rows if row["split"] == "train"),
        )

    def write_catalog(self, path: Path) -> None:
        known = set(self.training)
        columns = {
            "image_id": list(self.images),
            "image": list(self.images.values()),
            "label": [self.labels[image] for image in self.images],
            "split": ["train" if image in known else "test" for image in self.images],
        }
        pq.write_table(pa.table(columns), path)

    def write_sessions(self, path: Path, noise: float, seed: int) -> None:
        """One class a session, drawn evenly; each picture is any picture with probability noise."""
        draw = np.random.default_rng([seed, round(100 * noise)])
        of_class: dict[str, list[str]] = {}
        for image in self.training:
            of_class.setdefault(self.labels[image], []).append(image)
        classes = sorted(of_class)
        with path.open("w") as file:
            for number in range(len(self.training) // 2):
                members = of_class[classes[draw.integers(len(classes))]]
                for place in range(SESSION_LENGTH):
                    drawn = self.training if draw.random() < noise else members
                    image = drawn[draw.integers(len(drawn))]
                    row = {"session_id": f"s{number}", "timestamp": place, "image_id": image}
                    file.write(json.dumps(row) + "\n")


def run_folder(work: Path, name: str, noise: float, seed: int) -> Path:
    """The run directory of a graph."""
    return work / f"{name}-noise{noise}-seed{seed}"


def make_examples(data: Path, work: Path, name: str, cases: list[Case]) -> None:
    """Catalog, sessions, and by imgembed the examples of every noise and seed."""
    photos, catalog = Photos.read(data, name), work / f"{name}.parquet"
    if not catalog.exists():
        photos.write_catalog(catalog)
    settings = {
        "sessions.gap_minutes": 600,
        "holdout.fraction": 0.0,
        "graph.min_sessions": 1,
        "images.image_size": IMAGE_SIZE,
    }
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]

    def make(case: tuple[float, int]) -> None:
        folder = run_folder(work, name, *case)
        if (folder / "examples" / "CURRENT").exists():
            return
        logs = work / f"{folder.name}.jsonl"
        photos.write_sessions(logs, *case)
        program = Path(sys.executable).with_name("imgembed")
        paths = ["--sessions", logs, "--images", catalog, "--run-dir", folder]
        subprocess.run(
            [program, "build-graph", "--quiet", *paths, *options],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(make, sorted({(case.noise, case.seed) for case in cases})))


# ---------------------------------------------------------------------------------------------
# Training, in a process for each set and method
# ---------------------------------------------------------------------------------------------


def train_cases(work: Path, name: str, method: str, cases: list[Case], epochs: int) -> None:
    """Trains all cases; adds a line of JSON to the results for each that was not there."""
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    results = results_file(work, name, method, epochs)
    done = {Case(**line["case"]) for line in read_results(results)}
    runs = Runs(work, name, method, epochs)
    for case in cases:
        if case not in done:
            measured = runs.train(case)
            with results.open("a") as file:
                file.write(json.dumps({"case": asdict(case), **measured}) + "\n")


def results_file(work: Path, name: str, method: str, epochs: int) -> Path:
    """Where the figures of a method are kept."""
    return work / f"results-{name}-{method.replace(' ', '-')}-{epochs}.jsonl"


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of figures; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Runs:
    """The trainings of one method on one set: one traced step, its weights drawn anew each time."""

    def __init__(self, work: Path, name: str, method: str, epochs: int) -> None:
        from trainer.config import ModelConfig, TrainingConfig

        self.work, self.name = work, name
        of_model, of_training = METHODS[method]
        self.model = ModelConfig(size="tiny", image_filters=FILTERS, **of_model)
        self.training = TrainingConfig(
            epochs=epochs,
            batch_size=BATCH_SIZE,
            text_contrast=0.0,
            **of_training,
        )
        self.learner: Any = None

    def train(self, case: Case) -> dict[str, float]:
        import tensorflow as tf

        from pipeline.artifacts import RunDir
        from trainer.dataset import training_batches
        from trainer.example_files import ExampleFiles

        version = RunDir.open(str(run_folder(self.work, self.name, case.noise, case.seed)))
        files = ExampleFiles.open(version.require("examples"))
        transform, training = files.transform(), self.training
        known = labelled(self.read(files, transform, "train"), case)
        batches = training_batches(
            files,
            transform,
            batch_size=training.batch_size,
            neighbors=training.neighbors,
            epochs=training.epochs,
            seed=case.seed,
            shuffle_buffer=training.shuffle_buffer,
            edges=self.edges,
        ).map(masking(tf.constant(known)))
        self.begin(files, transform, case.seed)
        iterator = iter(batches)
        for step in range(len(batches)):
            self.learner.step(step, iterator, [])
        return self.measure(files, transform, known)

    @property
    def edges(self) -> bool:
        return self.model.graph_network != "none"

    def begin(self, files: Any, transform: Any, seed: int) -> None:
        """Sets all weights and counters to what a fresh training with this seed begins with."""
        import keras

        keras.utils.set_random_seed(seed)
        fresh = self.make_learner(files, transform)
        if self.learner is None:
            self.learner = fresh
        else:
            self.learner.set_state(fresh.state())

    def make_learner(self, files: Any, transform: Any) -> Any:
        from trainer.attempt import make_model
        from trainer.learner import Learner
        from trainer.optimizers import make_optimizer
        from trainer.strategies import Replicas
        from trainer.workers import Worker

        network = make_model(files, transform, self.model, self.training)
        for batch in self.batches(files, transform, "train").take(1):
            network(batch, training=False)
        steps = self.training.epochs * -(-files.records("train") // BATCH_SIZE)
        return Learner(network, make_optimizer(self.training, steps), Replicas.open(Worker()))

    def batches(self, files: Any, transform: Any, split: str) -> Any:
        from trainer.dataset import evaluation_batches

        return evaluation_batches(
            files,
            transform,
            split,
            batch_size=256,
            neighbors=self.training.neighbors,
            edges=self.edges,
        )

    def read(self, files: Any, transform: Any, split: str) -> dict[str, np.ndarray]:
        """ids, [n] int64, and labels, [n] int64, of a split."""
        found = [
            (batch["id"].numpy(), np.maximum(batch["label"], batch["heldout_label"]))
            for batch in self.batches(files, transform, split)
        ]
        ids, labels = (np.concatenate(part) for part in zip(*found, strict=True))
        return {"id": ids, "label": labels}

    def measure(self, files: Any, transform: Any, known: np.ndarray) -> dict[str, float]:
        pool, unseen = (self.outputs(files, transform, split) for split in ("train", "test"))
        hidden = ~np.isin(pool["id"], known)
        right = pool["logits"].argmax(1) == pool["label"]
        return {
            "accuracy": float((unseen["alone_logits"].argmax(1) == unseen["label"]).mean()),
            "connected": float(right[hidden].mean()),
            "map_at_r": map_at_r(unseen["alone"], unseen["label"], pool["alone"], pool["label"]),
        }

    def outputs(self, files: Any, transform: Any, split: str) -> dict[str, np.ndarray]:
        parts = []
        for batch in self.batches(files, transform, split):
            found = self.learner.network.predict_on_batch(batch)
            parts.append(
                {
                    "id": batch["id"].numpy(),
                    "label": np.maximum(batch["label"], batch["heldout_label"]),
                    "logits": found["logits"],
                    "alone": found.get("isolated", found["seeds"]),
                    "alone_logits": found.get("isolated_logits", found["logits"]),
                }
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def labelled(pool: Mapping[str, np.ndarray], case: Case) -> np.ndarray:
    """The ids that keep their label: the share of each class, at least one."""
    draw = np.random.default_rng([case.seed, round(1000 * case.share)])
    kept = []
    for label in np.unique(pool["label"]):
        ids = np.sort(pool["id"][pool["label"] == label])
        kept.append(draw.permutation(ids)[: max(1, round(case.share * len(ids)))])
    return np.concatenate(kept)


def masking(known: Any) -> Any:
    """Hides the labels of all other images, be they seeds or neighbours."""
    import tensorflow as tf

    def mask(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        hidden = {}
        for ids, label in (("id", "label"), ("neighbor_id", "neighbor_label")):
            is_known = tf.reduce_any(batch[ids][..., None] == known, axis=-1)
            hidden[label] = tf.where(is_known, batch[label], -1)
        return {**batch, **hidden}

    return mask


def map_at_r(
    queries: np.ndarray, query_labels: np.ndarray, pool: np.ndarray, pool_labels: np.ndarray
) -> float:
    """Mean average precision at R of unit vectors; labels [queries], [pool]."""
    order = np.argsort(-(queries @ pool.T), axis=1, kind="stable")
    right = pool_labels[order] == query_labels[:, None]
    relevant = right.sum(axis=1)
    counted = right & (np.arange(right.shape[1])[None, :] < relevant[:, None])
    precision = np.cumsum(counted, axis=1) / np.arange(1, right.shape[1] + 1)
    return float(((precision * counted).sum(axis=1) / np.maximum(relevant, 1)).mean())


# ---------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------


def show(work: Path, name: str, epochs: int, cases: list[Case]) -> None:
    """Prints the table of a set."""
    print(f"\n{name}\n\n| noise | labels | method | accuracy | connected | mAP@R | seeds |")
    print("|---|---|---|---|---|---|---|")
    results = {
        method: {
            Case(**line["case"]): line
            for line in read_results(results_file(work, name, method, epochs))
        }
        for method in METHODS
    }
    for noise, share, method in itertools.product(NOISES, SHARES, METHODS):
        # Without a graph there is no noise.
        wanted = [
            Case(0.0 if method == "supervised" else noise, share, case.seed)
            for case in cases
            if case.noise == noise and case.share == share
        ]
        lines = [results[method][case] for case in wanted if case in results[method]]
        if lines:
            cells = [interval([line[metric] for line in lines]) for metric in METRICS]
            print(f"| {noise} | {share:.0%} | {method} | {' | '.join(cells)} | {len(lines)} |")


def interval(values: list[float]) -> str:
    """Mean and the half width of its 95 % interval, in points; of one value the value."""
    mean = f"{100 * np.mean(values):.1f}"
    if len(values) < 2:
        return mean
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{mean} ± {100 * half:.1f}"


def all_cases(
    seeds: int, noises: Sequence[float] = NOISES, shares: Sequence[float] = SHARES
) -> list[Case]:
    """Every noise and share, for each seed."""
    return [Case(*one) for one in itertools.product(noises, shares, range(seeds))]


def of_method(method: str, cases: list[Case]) -> list[Case]:
    """Those that differ for a method: without a graph there is no noise."""
    return [case for case in cases if method != "supervised" or case.noise == NOISES[0]]


def main() -> None:
    """Makes the examples, trains, and prints the tables; or trains what --run names."""
    arguments = parse_arguments()
    cases = all_cases(arguments.seeds, arguments.noises, arguments.shares)
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if arguments.run:
        name, method = arguments.run
        train_cases(work, name, method, of_method(method, cases), arguments.epochs)
        return
    for name in arguments.sets:
        make_examples(arguments.data, work, name, cases)
    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(lambda run: subprocess.run(run, check=True), commands(arguments, work)))
    for name in arguments.sets:
        show(work, name, arguments.epochs, cases)


def commands(arguments: argparse.Namespace, work: Path) -> Iterator[list[str]]:
    """The command line of each process."""
    options = ["--work", work, "--seeds", arguments.seeds, "--epochs", arguments.epochs]
    options += ["--noises", *arguments.noises, "--shares", *arguments.shares]
    for name, method in itertools.product(arguments.sets, arguments.methods):
        command = [sys.executable, __file__, *options, "--run", name, method]
        yield list(map(str, command))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/imgembed-pictures"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--noises", nargs="+", type=float, choices=NOISES, default=list(NOISES))
    parser.add_argument("--shares", nargs="+", type=float, choices=SHARES, default=list(SHARES))
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
