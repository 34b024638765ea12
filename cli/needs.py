"""What training and evaluation hold: bytes of memory, of checkpoints and of the model.

In: the settings, how many images there are and how large. Out: bytes, by the costs that were
measured and stand in `Training` and `Evaluation`. Neither stage can be cut without another result:
what does not fit is an error before the work.
"""

from __future__ import annotations

from dataclasses import dataclass

from cli.settings import Config
from pipeline import limits, schema
from pipeline.artifacts import Version

METRICS_BYTES = 30_000  # of metrics.json
_FLOAT = 4
_RAW = 16 * 16 * 3  # numbers of a picture as raw features
_ADAM = 3  # arrays of the size of the weights: these, and two of the optimizer


@dataclass(frozen=True)
class Training:
    """Bytes that a training takes, as measured.

    Python 3.11, TensorFlow 2.21: 32 of 1,595 seeds of 64 x 64 pixels with a neighbour each a step,
    the default towers, an epoch (1,215 MB), with a shuffle_buffer of 200 (1,156 MB).
    """

    process: int = 1_040_000_000
    example: float = 1.1  # for each byte of two buffers: one is drawn from, the next is filled
    pixel: float = 300.0  # for each pixel of the pictures of a step, in a tower of 32 channels
    weights: float = 10.0  # for each weight
    graph: int = 600_000  # of a SavedModel, beside its weights


@dataclass(frozen=True)
class Evaluation:
    """Bytes that an evaluation takes, as measured.

    Python 3.11, TensorFlow 2.21: 30 rows of features (817 MB), the demo's 2,000 pictures (954 MB).
    """

    process: int = 800_000_000
    scores: int = 120_000_000  # of some queries with all images
    image: int = 120
    edge: int = 60


TRAINING, EVALUATION = Training(), Evaluation()
# Weights of our own towers with a vocabulary of 165 words, from benchmarks/README.md, and channels
# of their first stage.
_WEIGHTS = {"tiny": 128_021, "small": 636_309, "base": 5_100_693}
_CHANNELS = {"tiny": 16, "small": 32, "base": 64}


def training_bytes(config: Config, *, example_bytes: float, seeds: int, side: int | None) -> int:
    """Memory of a training. example_bytes: of a record; side: of pictures, in pixels."""
    training = config.training
    shuffled = min(2 * training.shuffle_buffer, seeds) * example_bytes * TRAINING.example
    nodes = training.batch_size * (1 + min(training.neighbors, config.examples.neighbors))
    pixels = nodes * (side or 0) ** 2
    channels = _CHANNELS[config.model.size] / _CHANNELS["small"]
    return round(
        TRAINING.process
        + shuffled
        + pixels * TRAINING.pixel * channels
        + _WEIGHTS[config.model.size] * TRAINING.weights
    )


def model_bytes(config: Config) -> int:
    """Of a SavedModel of our own towers; a large vocabulary adds model.token_dim numbers a word."""
    return TRAINING.graph + _WEIGHTS[config.model.size] * _FLOAT


def checkpoint_bytes(config: Config) -> int:
    """Of the checkpoints that there are at a time: two, and one that is being written."""
    return 3 * (_ADAM + 1) * _WEIGHTS[config.model.size] * _FLOAT


def check_training(config: Config, examples: Version) -> None:
    """ConfigError where training on these examples does not fit into runner.max_memory."""
    if config.runner.max_memory is None:
        return
    train = examples.manifest["splits"][schema.SPLITS[0]]
    need = training_bytes(
        config,
        example_bytes=train["bytes"] / max(1, train["records"]),
        seeds=train["records"],
        side=None if examples.manifest["feature_dim"] else examples.manifest["image_size"],
    )
    limits.check(
        need,
        limit=config.runner.max_memory,
        remedy="take a lower training.batch_size or training.shuffle_buffer, which train otherwise",
    )


def evaluation_bytes(config: Config, *, images: int, edges: int, side: int | None) -> int:
    """Memory of an evaluation."""
    vector = _FLOAT * config.model.dim
    raw = _FLOAT * (_RAW if side else 0)
    each = EVALUATION.image + 3 * vector + 3 * raw
    return round(EVALUATION.process + EVALUATION.scores + images * each + edges * EVALUATION.edge)


def check_evaluation(
    config: Config, *, graph: Version, examples: Version, embeddings: Version, **_: Version
) -> None:
    """ConfigError where the evaluation does not fit into runner.max_memory."""
    if config.runner.max_memory is None:
        return
    need = evaluation_bytes(
        config,
        images=embeddings.manifest["counts"]["images"],
        edges=graph.manifest["counts"]["edges"]["kept"],
        side=None if examples.manifest["feature_dim"] else examples.manifest["image_size"],
    )
    limits.check(need, limit=config.runner.max_memory, remedy="all vectors are held at once")
