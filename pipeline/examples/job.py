"""The job of the examples stage: catalog and graph in, TFRecords and the transform out.

Two pipelines. The first reads the catalog, decodes pictures, settles which rows count and analyzes
them; the second joins the graph and writes. Between them the images lie in files, and the counts
of the first decide how many files the second writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
import tensorflow_transform.beam as tft_beam

from pipeline import runner, schema, storage
from pipeline.artifacts import NewVersion, Version
from pipeline.config import ExamplesConfig, ImagesConfig
from pipeline.examples import checks, coverage, sizes, tf_schema, transform
from pipeline.examples.catalog import find
from pipeline.examples.decoding import PictureSettings
from pipeline.examples.manifest import summarize
from pipeline.examples.neighbors import COVERAGE, JoinNeighbors, JoinOptions
from pipeline.examples.places import Places
from pipeline.examples.prepare import IMAGES, NAMESPACE, REJECTED, PrepareImages
from pipeline.examples.records import RecordOptions, WriteExamples
from pipeline.examples.settle import SettleImages, SettleOptions
from pipeline.examples.stage import Counts, ExamplesJob
from pipeline.memory import share_freed_memory
from pipeline.writing import WriteRejected


def build_examples(
    *,
    images: ImagesConfig,
    examples: ExamplesConfig,
    seed: int,
    graph: Version,
    out: NewVersion,
    shards: int | str,
    make_pipeline: Callable[[], beam.Pipeline],
    threads: int = 1,
    max_memory: int | None = None,
    agreement: Version | None = None,
) -> dict[str, Any]:
    """Writes the examples of a version; returns what its manifest says of them.

    agreement: of the graph's edges, where the configuration asks for it. shards: parts the catalog
    is cut into, or "auto"; no result depends on it. Nothing is committed here.
    """
    found = find.inspect(images)
    number, threads = sizes.cut(
        shards,
        sizes.estimate(found, images, examples),
        neighbors=examples.neighbors,
        threads=threads,
        max_memory=max_memory,
    )
    job = ExamplesJob(images, examples, graph, out, Places(seed, number), found, threads, agreement)
    transform.forget()
    try:
        counts = _run(make_pipeline(), prepare_images, job)
        rejected = checks.check_rejected(job, counts)
        checks.check_images(job, counts)
        spec = job.spec(counts)
        each = _record_bytes(job, counts, spec)
        files = sizes.file_counts(checks.by_split(counts, "images"), each, examples.readers)
        written = _run(make_pipeline(), write_examples, job, spec, files, each)
        counts = Counts(counts | written)
        checks.check_graph(job, counts)
        checks.check_records(counts)
        classes = transform.label_counts(job.nodes.transform)
        tf_schema.write(out.file(schema.EXAMPLE_SCHEMA_FILE), spec, len(classes))
        return summarize(job, counts, spec, files, rejected)
    finally:
        storage.remove_tree(job.work)


def _run(
    pipeline: beam.Pipeline, build: Callable[..., object], job: ExamplesJob, *args: Any
) -> Counts:
    """Builds and runs a pipeline; returns its counters."""
    build(runner.share_process(pipeline), job, *args)
    share_freed_memory()
    prefix = f"{NAMESPACE}/"
    counters = runner.run(pipeline, work=job.work)
    return Counts(
        {name.removeprefix(prefix): n for name, n in counters.items() if name.startswith(prefix)}
    )


def prepare_images(root: beam.Pipeline, job: ExamplesJob) -> None:
    """Catalog, queries and nodes of the graph -> settled images, rejected rows, the transform."""
    prepared = root | "PrepareImages" >> PrepareImages(
        job.found,
        PictureSettings(
            image_size=job.images.image_size,
            max_pixels=job.images.max_pixels,
            max_seconds=job.images.max_seconds,
            encoding=job.examples.image_encoding,
        ),
        job.threads,
    )
    _ = prepared[REJECTED] | "WriteRejected" >> WriteRejected(job.out.path)
    analyzed = prepared[IMAGES] | "SettleImages" >> SettleImages(
        SettleOptions(
            folder=job.work,
            places=job.places,
            split=job.examples.split,
            texts=job.examples.texts,
            captions=job.examples.captions,
        ),
        job.graph.shards(schema.QUERIES),
        job.graph.shards(schema.NODES),
        job.threads,
    )
    with tft_beam.Context(temp_dir=storage.join(job.work, "analysis")):
        _ = analyzed | "WriteTransform" >> transform.WriteTransform(
            job.nodes.transform, transform.Preprocess(_transform_settings(job))
        )


def _transform_settings(job: ExamplesJob) -> transform.TransformSettings:
    examples = job.examples
    return transform.TransformSettings(
        max_tokens=examples.max_tokens,
        min_token_count=examples.min_token_count,
        token_buckets=examples.token_buckets,
        min_label_count=examples.min_label_count,
        subword_length=examples.subword_length,
        feature_dim=job.found.feature_dim,
        image_pixels=job.images.image_size**2,
    )


def _record_bytes(job: ExamplesJob, counts: Counts, spec: schema.ExampleSpec) -> int:
    """About how many bytes a record has. counts: of the first pipeline."""
    images = sum(checks.by_split(counts, "images").values())
    pictures = spec.feature_dim is None
    content = counts["content bytes"] / images if pictures else 4.0 * (spec.feature_dim or 0)
    neighbors = min(spec.neighbors, sizes.linked(job.graph, spec.neighbors) / images)
    return int(sizes.record_bytes(spec, content=content, neighbors=neighbors))


def write_examples(
    root: beam.Pipeline,
    job: ExamplesJob,
    spec: schema.ExampleSpec,
    files: Mapping[str, int],
    record_bytes: int,
) -> None:
    """Settled images and edges -> TFRecords."""
    joined = root | "JoinNeighbors" >> JoinNeighbors(
        job.edges,
        JoinOptions(
            files=job.nodes,
            places=job.places,
            neighbors=spec.neighbors,
            relative=job.examples.neighbor_weights == "strongest",
            threads=job.threads,
            trust=job.trust,
        ),
    )
    _ = joined[COVERAGE] | "Coverage" >> coverage.WriteCoverage(job.work)
    _ = joined | "WriteExamples" >> WriteExamples(
        RecordOptions(
            nodes=job.nodes,
            spec=spec,
            files=files,
            target=job.out.path,
            compression=job.examples.compression,
            record_bytes=record_bytes,
            threads=job.threads,
        )
    )
