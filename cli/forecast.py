"""What training, export and evaluation will take, before they run.

In: how many images there are, the settings, and the versions in force. Out: a `Forecast` each. A
stage that this run directory has made before is the measure, in proportion to its rows; else
figures of the benchmarks' machine are, and it says that it is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

from cli.settings import Config
from cli.versions import rows_of
from pipeline import schema
from pipeline.artifacts import RunDir, Version

# On two cores, from benchmarks/README.md: a step of 32 pictures of 64 x 64; 2,000 of them embedded,
# with 3,838 queries; what an export and a training of the demo held, in bytes.
_STEP_SECONDS = {"tiny": 0.016, "small": 0.043, "base": 0.139}
_STEP_PICTURES, _PIXELS = 32, 64 * 64
_EMBED_SECONDS = 3.0 / 2_000
_MEMORY = {schema.MODEL: 1_500_000_000, schema.EMBEDDINGS: 1_300_000_000}
# Bytes of an embedding in its file, of those of its numbers: 376 of 256 in the demo's.
_WRITTEN = 1.5
_ESTIMATE = "an estimate, from two cores of the benchmarks' machine"


@dataclass(frozen=True)
class Forecast:
    """What a stage will take. None = not known before it has run once.

    counts: what it works through. source: how time and memory are known. shuffled_bytes: what goes
    between workers.
    """

    stage: str
    source: str
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    memory_bytes: int | None = None
    output_bytes: int | None = None
    shuffled_bytes: int | None = None
    shards: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Catalog:
    """What is known of the catalog. image_bytes: of one, prepared; side: in pixels; None = none."""

    images: int
    image_bytes: float
    side: int | None
    shards: int


def forecasts(config: Config, run: RunDir, catalog: Catalog) -> Iterator[Forecast]:
    """Of all stages after the examples, in their order."""
    yield _training(config, run, catalog)
    yield _export(config, run, catalog)
    yield _evaluation(config, run, catalog)


def _training(config: Config, run: RunDir, catalog: Catalog) -> Forecast:
    training, turns = config.training, 1
    if config.model.agreement != "none":
        turns += config.agreement.iterations
    seeds = max(1, round(catalog.images * config.examples.split.train))
    steps = ceil(seeds / training.batch_size) * training.epochs * turns
    counts = {"images": seeds, "steps": steps}
    last = run.current(schema.MODEL)
    each = _seconds_a_step(config, run, last)
    if last and each is not None:
        memory = last.manifest["made"]["peak_memory_bytes"]
        source = f"as {last.path} took, its beginning and its end among it"
        return Forecast(schema.MODEL, source, counts, steps * each, memory)
    buffered = min(training.shuffle_buffer, seeds)
    held = buffered * (1 + config.examples.neighbors) * catalog.image_bytes
    memory = round(_MEMORY[schema.MODEL] + held)
    seconds = _estimated_step(config, catalog)
    source = _ESTIMATE if seconds else "time is known once it has run"
    return Forecast(schema.MODEL, source, counts, steps * seconds if seconds else None, memory)


def _seconds_a_step(config: Config, run: RunDir, last: Version | None) -> float | None:
    """What a step of the model in force took, where it was trained as this one will be."""
    if last is None or "made" not in last.manifest:
        return None
    examples = run.version(schema.EXAMPLES, last.manifest.get("upstream", {}).get("examples", ""))
    settings = last.manifest["config"]
    names = ("batch_size", "neighbors", "precision", "augmentation")
    same = settings.get("model") == config.model.model_dump() and all(
        settings["training"].get(name) == getattr(config.training, name) for name in names
    )
    if examples is None or not same or config.model.agreement != "none":
        return None
    if examples.manifest.get("image_size") not in (None, config.images.image_size):
        return None
    seeds = examples.manifest["splits"]["train"]["records"]
    steps = ceil(seeds / config.training.batch_size) * last.manifest["epochs"]
    return last.manifest["made"]["seconds"] / steps


def _estimated_step(config: Config, catalog: Catalog) -> float | None:
    """Seconds of a step of our own picture towers; None for others, which nobody measured."""
    model, training = config.model, config.training
    if catalog.side is None or model.image_tower != "residual" or model.graph_network != "none":
        return None
    pictures = training.batch_size * (1 + min(training.neighbors, config.examples.neighbors))
    step = _STEP_SECONDS[model.size] * pictures / _STEP_PICTURES
    return step * catalog.side**2 / _PIXELS


def _export(config: Config, run: RunDir, catalog: Catalog) -> Forecast:
    vectors = catalog.images * 4 * config.model.dim
    last = run.current(schema.EMBEDDINGS)
    rows = rows_of(last) if last else None
    seconds, memory, source = None, _MEMORY[schema.EMBEDDINGS], "time is known once it has run"
    if last and rows and "made" in last.manifest:
        made = last.manifest["made"]
        seconds, memory = made["seconds"] * catalog.images / rows, made["peak_memory_bytes"]
        source = f"in proportion to {last.path}"
    elif catalog.side is not None:
        seconds = _EMBED_SECONDS * catalog.images * catalog.side**2 / _PIXELS
        source = _ESTIMATE
    return Forecast(
        schema.EMBEDDINGS,
        source,
        {"images": catalog.images},
        seconds,
        memory,
        output_bytes=round(_WRITTEN * vectors),
        shuffled_bytes=2 * vectors,  # by shard, where ids are checked, and by file
        shards=catalog.shards,
    )


def _evaluation(config: Config, run: RunDir, catalog: Catalog) -> Forecast:
    last = run.current(schema.EVALUATION)
    counts = {"images": catalog.images, "sessions_at_most": config.evaluation.max_sessions}
    if last is None or "made" not in last.manifest:
        return Forecast(schema.EVALUATION, "time and memory are known once it has run", counts)
    made = last.manifest["made"]
    seconds, memory = made["seconds"], made["peak_memory_bytes"]
    return Forecast(schema.EVALUATION, f"as {last.path} took", counts, seconds, memory)
