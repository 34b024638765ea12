"""What the stages after the examples will take, before they run.

In: how many images there are, the settings, and the versions in force. Out: a `Forecast` each. A
stage that this run directory has made before is the measure, in proportion to its rows; else
figures of the benchmarks' machine are, and it says that it is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from math import ceil, sqrt
from typing import Any

from cli import needs
from cli.report import costs as report_costs
from cli.settings import Config
from cli.versions import rows_of
from pipeline import limits, schema
from pipeline.artifacts import RunDir, Version
from pipeline.embeddings import costs, index
from pipeline.graph.costs import COSTS as GRAPH
from pipeline.writing import file_count, shard_count

# On two cores, from benchmarks/README.md: a step of 32 pictures of 64 x 64; 2,000 of them embedded,
# with 3,838 queries; indexes of 100,000 and of 1,000,000 vectors of 128 numbers.
_STEP_SECONDS = {"tiny": 0.016, "small": 0.043, "base": 0.139}
_STEP_PICTURES, _PIXELS = 32, 64 * 64
_EMBED_SECONDS = 3.0 / 2_000
_INDEX_SECONDS, _CELLS_SECONDS, _INDEX_DIM = 60e-6, 146e-6, 128
# Bytes of an embedding in its file, of those of its numbers: 376 of 256 in the demo's.
_WRITTEN = 1.5
_ESTIMATE = "an estimate, from two cores of the benchmarks' machine"
_UNKNOWN = "time is known once it has run"


@dataclass(frozen=True)
class Forecast:
    """What a stage will take. None = not known before it has run once.

    counts: what it works through. source: how time and memory are known. input_bytes: what it
    reads, once. output_bytes: what it leaves. disk_bytes: what it takes beside while it runs.
    shuffled_bytes: what goes between workers, or through files where there is one process.
    """

    stage: str
    source: str
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    memory_bytes: int | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None
    disk_bytes: int | None = None
    shuffled_bytes: int | None = None
    shards: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Catalog:
    """What is known of the catalog and of its graph.

    image_bytes: of one, prepared. side: in pixels; None: ready features. input_bytes: of its files.
    id_bytes: of an id, on average. example_bytes: of a record in the files; 0 = unknown. edges: of
    the graph, at most.
    """

    images: int
    image_bytes: float
    side: int | None
    shards: int
    threads: int = 1
    input_bytes: int = 0
    id_bytes: float = 16.0
    example_bytes: float = 0.0
    edges: int = 0


def forecasts(config: Config, run: RunDir, catalog: Catalog) -> Iterator[Forecast]:
    """Of all stages after the examples, in their order."""
    yield _training(config, run, catalog)
    yield _export(config, run, catalog)
    yield _index(config, run, catalog)
    yield _evaluation(config, run, catalog)
    yield _report(config, run, catalog)


def _training(config: Config, run: RunDir, catalog: Catalog) -> Forecast:
    training, turns = config.training, 1
    if config.model.agreement != "none":
        turns += config.agreement.iterations
    seeds = max(1, round(catalog.images * config.examples.split.train))
    steps = ceil(seeds / training.batch_size) * training.epochs * turns
    last = run.current(schema.MODEL)
    each = _seconds_a_step(config, run, last)
    example = catalog.example_bytes or (1 + config.examples.neighbors) * catalog.image_bytes
    memory = needs.training_bytes(config, example_bytes=example, seeds=seeds, side=catalog.side)
    forecast = Forecast(
        schema.MODEL,
        _ESTIMATE,
        {"images": seeds, "steps": steps},
        memory_bytes=memory,
        input_bytes=round(example * catalog.images),
        output_bytes=needs.model_bytes(config),
        disk_bytes=needs.checkpoint_bytes(config),
    )
    if last and each is not None:
        return replace(
            forecast,
            source=f"as {last.path} took, its beginning and its end among it",
            seconds=steps * each,
            memory_bytes=last.manifest["made"]["peak_memory_bytes"] or memory,
        )
    seconds = _estimated_step(config, catalog)
    if seconds is None:
        return replace(forecast, source=_UNKNOWN)
    return replace(forecast, seconds=steps * seconds)


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


def _made_before(run: RunDir, stage: str) -> tuple[Version, dict[str, Any]] | None:
    """The version in force and what was measured when it was made."""
    last = run.current(stage)
    return (last, last.manifest["made"]) if last and "made" in last.manifest else None


def _export(config: Config, run: RunDir, catalog: Catalog) -> Forecast:
    vectors = catalog.images * costs.vector_bytes(config.model.dim, config.export.dtype)
    files = file_count(catalog.input_bytes)
    held = costs.export_held(
        images=catalog.images,
        id_bytes=catalog.id_bytes,
        side=catalog.side,
        files=files,
        export=config.export,
    )
    shards, threads = limits.fit(
        held,
        limit=config.runner.max_memory,
        shards=shard_count(config.runner.shards, catalog.input_bytes),
        threads=catalog.threads,
        remedy=costs.EXPORT_REMEDY,
    )
    forecast = Forecast(
        schema.EMBEDDINGS,
        _UNKNOWN,
        {"images": catalog.images},
        memory_bytes=round(held.peak(shards, threads)),
        input_bytes=catalog.input_bytes,
        output_bytes=round(_WRITTEN * vectors) * len({"parquet", *config.export.formats}),
        shuffled_bytes=round(catalog.images * (costs.EXPORT.row_between + catalog.id_bytes))
        + vectors,
        shards=shards,
    )
    before = _made_before(run, schema.EMBEDDINGS)
    rows = rows_of(before[0]) if before else None
    if before and rows:
        last, made = before
        return replace(
            forecast,
            source=f"in proportion to {last.path}",
            seconds=made["seconds"] * catalog.images / rows,
        )
    if catalog.side is not None:
        seconds = _EMBED_SECONDS * catalog.images * catalog.side**2 / _PIXELS
        return replace(forecast, source=_ESTIMATE, seconds=seconds)
    return forecast


def _index(config: Config, run: RunDir, catalog: Catalog) -> Forecast:
    images, dim = catalog.images, config.model.dim
    kind = index.kind_of(config.index, images)
    counts = {"images": images}
    seconds = _INDEX_SECONDS * images
    if kind == index.APPROXIMATE:
        counts["cells"] = index.cells_of(config.index, images)
        seconds += _CELLS_SECONDS * images * sqrt(images / 1e6)
    written = costs.index_bytes(images, dim, catalog.id_bytes, config.index)
    return Forecast(
        schema.INDEX,
        f"{kind}, {_ESTIMATE}",
        counts,
        seconds * dim / _INDEX_DIM,
        costs.index_memory(images, dim, catalog.id_bytes, config.index),
        input_bytes=round(_WRITTEN * images * costs.vector_bytes(dim, config.export.dtype)),
        output_bytes=written,
    )


def _evaluation(config: Config, run: RunDir, catalog: Catalog) -> Forecast:
    forecast = Forecast(
        schema.EVALUATION,
        _UNKNOWN,
        {"images": catalog.images, "sessions_at_most": config.evaluation.max_sessions},
        memory_bytes=needs.evaluation_bytes(
            config, images=catalog.images, edges=catalog.edges, side=catalog.side
        ),
        input_bytes=round(catalog.example_bytes * catalog.images)
        + round(_WRITTEN * catalog.images * costs.vector_bytes(config.model.dim)),
        output_bytes=needs.METRICS_BYTES,
    )
    return _as_before(forecast, run)


def _report(config: Config, run: RunDir, catalog: Catalog) -> Forecast:
    images, dim = catalog.images, config.model.dim
    forecast = Forecast(
        schema.REPORT,
        _UNKNOWN,
        {"images": images, "edges": catalog.edges},
        memory_bytes=report_costs.memory_bytes(
            images=images, edges=catalog.edges, dim=dim, config=config.report
        ),
        input_bytes=round(_WRITTEN * images * costs.vector_bytes(dim, config.export.dtype))
        + round(catalog.edges * (GRAPH.edge[0] + GRAPH.edge[1] * catalog.id_bytes)),
        output_bytes=report_costs.page_bytes(
            images=images, pictures=catalog.side is not None, config=config.report
        ),
    )
    return _as_before(forecast, run)


def _as_before(forecast: Forecast, run: RunDir) -> Forecast:
    """With the time that the stage took before, where it did."""
    before = _made_before(run, forecast.stage)
    if before is None:
        return forecast
    last, made = before
    return replace(forecast, source=f"as {last.path} took", seconds=made["seconds"])
