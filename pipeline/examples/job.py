"""The job of the examples stage: catalog and graph in, TFRecords and the transform out.

Two pipelines. The first reads the catalog, decodes pictures, settles which rows count and analyzes
them; the second joins the graph and writes. Between them the images lie in files, and the counts
of the first decide how many files the second writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import tensorflow_transform.beam as tft_beam

from pipeline import runner, schema, storage, writing
from pipeline.artifacts import NewVersion, Version
from pipeline.config import ExamplesConfig, ImagesConfig
from pipeline.errors import ImgembedError
from pipeline.examples import (
    catalog,
    neighbors,
    nodes,
    prepare,
    sharding,
    spill,
    tf_examples,
    transform,
)


@dataclass(frozen=True)
class ExamplesJob:
    """Everything that the two pipelines of the stage read.

    shards: parts the catalog is cut into; no result depends on it.
    """

    images: ImagesConfig
    examples: ExamplesConfig
    seed: int
    graph: Version
    out: NewVersion
    shards: int
    found: catalog.Catalog

    @property
    def work(self) -> str:
        return self.out.file(spill.FOLDER)

    @property
    def node_files(self) -> nodes.NodeFiles:
        return nodes.NodeFiles(
            folder=self.work,
            transform=self.out.file(schema.TRANSFORM_FOLDER),
            shards=self.shards,
            feature_dim=self.found.feature_dim,
        )


_PREFIX = f"{prepare.NAMESPACE}/"


def build_examples(
    *,
    images: ImagesConfig,
    examples: ExamplesConfig,
    seed: int,
    graph: Version,
    out: NewVersion,
    shards: int,
    make_pipeline: Callable[[], beam.Pipeline],
    found: catalog.Catalog | None = None,
) -> dict[str, Any]:
    """Writes the examples of a version; returns what its manifest says of them.

    found: what catalog.inspect(images) told, if it was asked before. Nothing is committed here.
    """
    found = found or catalog.inspect(images)
    job = ExamplesJob(images, examples, seed, graph, out, shards, found)
    transform.forget()
    try:
        counts = _run(make_pipeline(), prepare_images, job)
        rejected = _check_rejected(job, counts)
        _check_images(job, counts)
        counts = _Counts(counts | _run(make_pipeline(), write_examples, job, _files(job, counts)))
        _check_graph(job, counts)
        return _manifest(job, counts, rejected)
    finally:
        storage.remove_tree(job.work)


class _Counts(dict[str, int]):
    """Counters by name; 0 where nothing was counted."""

    def __missing__(self, name: str) -> int:
        return 0


def _run(
    pipeline: beam.Pipeline, build: Callable[..., object], job: ExamplesJob, *args: Any
) -> _Counts:
    """Builds and runs a pipeline; returns its counters."""
    build(pipeline, job, *args)
    counters = runner.run(pipeline)
    return _Counts(
        {
            name.removeprefix(_PREFIX): value
            for name, value in counters.items()
            if name.startswith(_PREFIX)
        }
    )


# The two pipelines ------------------------------------------------------------------------------


def prepare_images(root: beam.Pipeline, job: ExamplesJob) -> None:
    """Catalog and queries -> settled images, rejected rows, the transform."""
    settled = (
        root
        | "CatalogTasks" >> beam.Create(list(job.found.tasks), reshuffle=False)
        | "PrepareCatalog"
        >> prepare.PrepareCatalog(
            prepare.PictureSize(job.images.image_size, job.images.max_pixels),
            _settle_options(job),
            tuple(job.graph.shards(schema.QUERIES)),
            job.out.path,
        )
    )
    with tft_beam.Context(temp_dir=storage.join(job.work, "analysis")):
        _ = settled | "WriteTransform" >> transform.WriteTransform(
            job.node_files.transform,
            transform.Preprocess(job.examples.max_tokens, job.examples.token_buckets),
            job.found.feature_dim,
        )


def _settle_options(job: ExamplesJob) -> prepare.SettleOptions:
    return prepare.SettleOptions(
        folder=job.work,
        shards=job.shards,
        seed=job.seed,
        split=job.examples.split,
        texts=job.examples.texts,
        captions=job.examples.captions,
    )


def write_examples(root: beam.Pipeline, job: ExamplesJob, files: Mapping[str, int]) -> None:
    """Settled images and edges -> TFRecords."""
    joined = root | "JoinNeighbors" >> neighbors.JoinNeighbors(
        job.node_files, tuple(job.graph.shards(schema.EDGES)), job.examples.neighbors
    )
    options = tf_examples.RecordOptions(
        nodes=job.node_files,
        neighbors=job.examples.neighbors,
        seed=job.seed,
        files=files,
        target=job.out.path,
        compression=job.examples.compression,
    )
    _ = joined | "WriteExamples" >> tf_examples.WriteExamples(options)


# Checks and counts ------------------------------------------------------------------------------


def _by_split(counts: _Counts, kind: str) -> dict[str, int]:
    return {split: counts[f"{kind}/{split}"] for split in schema.SPLITS}


def _check_rejected(job: ExamplesJob, counts: _Counts) -> dict[str, int]:
    return writing.check_rejected(
        job.out.path,
        rows=counts["rows"],
        allowed=job.images.max_rejected_fraction,
        key="images.max_rejected_fraction",
    )


def _check_images(job: ExamplesJob, counts: _Counts) -> None:
    images = _by_split(counts, "images")
    total = sum(images.values())
    if not total:
        raise ImgembedError(f"images.path: {job.images.path!r} has no image that can be used")
    if not images[schema.SPLITS[0]]:
        raise ImgembedError(
            f"images.path: none of the {total:,} images of {job.images.path!r} is in the training "
            "split; there is nothing to learn from"
        )


def _check_graph(job: ExamplesJob, counts: _Counts) -> None:
    """Ids that never meet are most often ids written in two ways: show both."""
    if counts["edges touching"] or not counts["edges"]:
        return
    parts = (job.node_files.read_ids(shard) for shard in range(job.shards))
    ours = next(ids[0].as_py() for ids in parts if len(ids))
    edges = (
        table
        for path in job.graph.shards(schema.EDGES)
        for table in sharding.read_row_groups(path, ["src"])
    )
    theirs = next(table["src"][0].as_py() for table in edges if table.num_rows)
    raise ImgembedError(
        f"images.path: no image of {job.images.path!r} is in the graph: the catalog has ids like "
        f"{ours!r}, the graph {theirs!r}"
    )


def _files(job: ExamplesJob, counts: _Counts) -> dict[str, int]:
    images, dim = _by_split(counts, "images"), job.found.feature_dim
    content = counts["content bytes"] if dim is None else 4 * dim * sum(images.values())
    return tf_examples.file_counts(
        records=images, content_bytes=content, neighbors=job.examples.neighbors
    )


def _manifest(job: ExamplesJob, counts: _Counts, rejected: Mapping[str, int]) -> dict[str, Any]:
    """What a reader of the version must know, then what a person may want to."""
    folder = job.node_files.transform
    tokens = transform.vocabulary(folder, schema.TOKEN_VOCABULARY)
    files = _files(job, counts)
    records = _by_split(counts, "records")
    return {
        "content": job.found.content,
        "feature_dim": job.found.feature_dim,
        "image_size": job.images.image_size if job.found.content == "image" else None,
        "neighbors": job.examples.neighbors,
        "splits": {
            split: {"records": records[split], "shards": files[split]} for split in schema.SPLITS
        },
        "classes": transform.vocabulary(folder, schema.LABEL_VOCABULARY),
        "compression": job.examples.compression,
        "tokens": len(tokens),
        # An empty vocabulary holds a stand-in, which takes an id.
        "token_ids": max(1, len(tokens)) + job.examples.token_buckets,
        "texts": _by_split(counts, "texts"),
        "labelled": _by_split(counts, "labelled"),
        "rejected": dict(rejected),
        "counts": _counts(job, counts, sum(rejected.values())),
    }


def _counts(job: ExamplesJob, counts: _Counts, rejected: int) -> dict[str, Any]:
    images = sum(_by_split(counts, "images").values())
    joined = images - counts["neighbors/0"]
    sizes = range(job.examples.neighbors + 1)
    known = counts[f"known {schema.LABEL.name}"] + counts[f"known {schema.HELDOUT_LABEL.name}"]
    return {
        "rows": {"read": counts["rows"], "kept": images, "rejected": rejected},
        "skipped_files": job.found.skipped_files,
        "images": {
            "with_neighbors": joined,
            "without_neighbors": images - joined,
            "share_with_neighbors": round(joined / images, 6),
            "by_neighbors": {str(size): counts[f"neighbors/{size}"] for size in sizes},
        },
        "edges": {"read": counts["edges"], "skipped": counts["edges skipped"]},
        "queries": {"read": counts["query rows"], "skipped": counts["query rows without an image"]},
        # Labels that no training image has: those of other splits that no model could learn.
        "unknown_labels": sum(_by_split(counts, "labelled").values()) - known,
    }
