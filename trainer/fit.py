"""Trains the embedding model: the examples stage in, a new version of the model stage out.

The same examples, configuration and seed give the same weights on the same machine, as far as
TensorFlow's kernels allow (on a CPU with the same number of threads they do), whether a training
ran through or was stopped and went on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from pipeline import schema
from pipeline.artifacts import NewVersion, Version, to_json
from pipeline.errors import ImgembedError
from trainer import projector, serving
from trainer.attempt import Data, Trained, attempt
from trainer.checkpoints import Checkpoints, mark
from trainer.checks import check
from trainer.config import AgreementConfig, ModelConfig, TrainingConfig
from trainer.cotraining import CoTraining, Outcome, read_world, write_findings
from trainer.example_files import ExampleFiles
from trainer.progress import Listener
from trainer.strategies import Replicas
from trainer.workers import Worker

_ALONE, _NOBODY, _DEFAULT = Worker(), Listener(), AgreementConfig()
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def train(
    *,
    examples: Version,
    model: ModelConfig,
    training: TrainingConfig,
    seed: int,
    out: NewVersion | None,
    agreement: AgreementConfig = _DEFAULT,
    graph: Version | None = None,
    checkpoints: str | None = None,
    restart: bool = False,
    image_size: int | None = None,
    worker: Worker = _ALONE,
    devices: Sequence[str] | None = None,
    listener: Listener = _NOBODY,
) -> dict[str, Any] | None:
    """Fits the model, writes SavedModel, history and event files into `out`, gives the manifest.

    Goes on from the last checkpoint in the folder `checkpoints`, unless `restart`; None: there are
    none. They stay: whoever commits `out` removes them. agreement, graph: of co-training, where
    `model` asks for it; graph: the version that the examples were made of, None: it is gone.
    image_size: of the configuration, where it names one. devices: None: all GPUs, else the CPU. Of
    several workers all but the chief have no `out`, and get None when the chief is done. Nothing is
    printed.

    ImgembedError where it cannot be trained, Interrupted where the listener asks to stop.
    """
    replicas = Replicas.open(worker, devices)  # before TensorFlow does anything else
    files = ExampleFiles.open(examples)
    check(files, model, training, image_size, agreement=agreement, graph=graph)
    data = Data(files, files.transform(), model, training, seed)
    kept = None
    if checkpoints is not None:
        made_of = mark(
            examples=examples,
            model=model,
            training=training,
            seed=seed,
            agreement=agreement if model.agreement != "none" else None,
            graph=graph,
        )
        kept = Checkpoints(checkpoints, made_of, replicas.count, listener.on_note)
    runs: dict[str, Any] = {
        "checkpoints": kept,
        "restart": restart,
        "events": out.file(schema.TENSORBOARD_FOLDER) if out is not None else None,
        "listener": listener,
    }
    with _workers_lost(worker):
        if model.agreement == "none":
            trained = attempt(data, replicas, **runs)
            manifest = _finish(data, trained, out) if out is not None else None
        else:
            if graph is None and worker.is_chief:
                listener.on_note(
                    "the graph that the examples were made of is gone: what the logs tell of an "
                    "edge is not looked at"
                )
            world = read_world(data, graph)
            outcome = CoTraining(data, replicas, agreement, world, **runs).run()
            manifest = None
            if outcome is not None and out is not None:
                manifest = _finish(data, outcome.trained, out, outcome)
                write_findings(outcome, world, agreement, files.classes, out)
        replicas.agree(0)  # the others stay until the chief is done
    return manifest


@contextmanager
def _workers_lost(worker: Worker) -> Iterator[None]:
    """Says in a line that another worker is gone; collective operations then fail in many ways."""
    try:
        yield
    except _LOST as error:
        if worker.is_alone:
            raise
        said = " ".join(error.message.split())[:200]
        raise ImgembedError(
            f"training: worker {worker.index} lost the others ({said}); start all workers again: "
            "they go on from the last checkpoint"
        ) from error


def _finish(
    data: Data, trained: Trained, out: NewVersion, outcome: Outcome | None = None
) -> dict[str, Any]:
    """Writes the best weights as a SavedModel, and what is to be seen of the training.

    outcome: of co-training, of which `trained` is the best iteration.
    """
    network, files, history = trained.network, data.files, trained.record.history
    signatures = serving.export(
        network,
        data.transform,
        files,
        out.file(schema.SAVED_MODEL_FOLDER),
        # What an iteration was told of the edges is not in the files of the examples.
        neighbors=0 if outcome and outcome.best["with_agreement"] else data.training.neighbors,
    )
    found = {"best_epoch": trained.best_epoch, "epochs": history}
    if outcome is not None:
        found |= outcome.history()
    with tf.io.gfile.GFile(out.file(schema.HISTORY_FILE), "wb") as file:
        file.write(to_json(found))
    projector.write(out.file(schema.TENSORBOARD_FOLDER), network, files, data.transform)
    return {
        "dim": data.model.dim,
        "signatures": signatures,
        "content": files.version.manifest["content"],
        "image_size": files.image_size,
        "image_encoding": files.spec.image_encoding,
        "feature_dim": files.spec.feature_dim,
        "classes": list(files.classes) if network.trains("supervised") else [],
        "multi_label": files.spec.multi_label,
        "example_form": files.spec.to_manifest(),
        "parameters": network.count_params(),
        "epochs": len(history),
        "best_epoch": trained.best_epoch,
        "metrics": trained.metrics,
        **({"agreement": outcome.summary()} if outcome is not None else {}),
    }
