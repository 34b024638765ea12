"""export: a catalog and a model in, a version of the embeddings out. Read | transform | write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics.metric import Metrics

from pipeline import runner, schema, storage
from pipeline.artifacts import NewVersion, Version
from pipeline.columnar import GatherShards, Keyed, SplitByColumn
from pipeline.config import ExportConfig, ImagesConfig
from pipeline.embeddings import model as models
from pipeline.embeddings.embed import BATCHES_AT_ONCE, METRICS_NAMESPACE, EmbedTables
from pipeline.errors import ImgembedError
from pipeline.examples.catalog import find
from pipeline.examples.decoding import PictureSettings
from pipeline.examples.pictures import model_encoding
from pipeline.examples.prepare import (
    IMAGES,
    REJECTED,
    PrepareImages,
    check_unique,
)
from pipeline.examples.prepare import NAMESPACE as CATALOG
from pipeline.reading import ReadTables
from pipeline.writing import (
    WriteParquet,
    WriteRejected,
    check_rejected,
    check_written,
    file_count,
)

NAMESPACE = "embeddings"
WORK_FOLDER = "work"
QUERY = "query"
TEXT = "text"  # the copy of a query that the model takes
ROWS = f"{CATALOG}/rows"  # of the catalog, counted by its reader


def export_embeddings(
    *,
    images: ImagesConfig,
    export: ExportConfig,
    model: Version,
    graph: Version | None,
    out: NewVersion,
    shards: int,
    make_pipeline: Callable[[], beam.Pipeline],
    threads: int = 1,
) -> dict[str, Any]:
    """Embeds the catalog, and the graph's published queries, into `out`.

    shards: parts the work is cut into; nothing that is written depends on it. Without a graph, or
    with a model that knows no texts, there are no queries. Returns what the manifest says.
    """
    found = find.inspect(images)
    check_fits(found, model)
    exporter = Exporter(
        model=model,
        batch_size=export.batch_size,
        folder=out.path,
        files=file_count(sum(info.size for info in found.inputs)),
        shards=shards,
        threads=threads,
    )
    root = make_pipeline()
    _write_images(root, found, images, exporter)
    with_queries = graph is not None and models.has_signature(model, schema.TEXT_SIGNATURE)
    if graph is not None and with_queries:
        _write_queries(root, graph, exporter)
    counts = runner.run(root, work=storage.join(out.path, WORK_FOLDER))
    rejected = check_rejected(
        out.path,
        rows=counts.get(ROWS, 0),
        allowed=images.max_rejected_fraction,
        key="images.max_rejected_fraction",
    )
    _check_counts(counts, rejected)
    written = {schema.IMAGE_EMBEDDINGS: _written(counts, schema.IMAGE_ID.name)}
    if with_queries:
        written[schema.QUERY_EMBEDDINGS] = _written(counts, QUERY)
    check_written(out.path, written)
    return {
        "dim": model.manifest["dim"],
        "model_version": models.model_version(model),
        "content": found.content,
        "counts": {
            "rows": counts.get(ROWS, 0),
            "images": _written(counts, schema.IMAGE_ID.name),
            "rejected": sum(rejected.values()),
            "queries": _written(counts, QUERY),
            "skipped_files": found.skipped_files,
        },
        "rejected": rejected,
        "counters": runner.counters_of(counts, CATALOG, NAMESPACE, METRICS_NAMESPACE),
    }


def check_fits(found: find.Catalog, model: Version) -> None:
    """ImgembedError where the model takes another kind of content than the catalog holds."""
    wanted, length = model.manifest["content"], model.manifest.get("feature_dim")
    if found.content != wanted:
        kinds = {"image": "pictures", "features": "ready features"}
        raise ImgembedError(
            f"images.path: the catalog holds {kinds[found.content]}, but model {model.path} was "
            f"trained on {kinds[wanted]}; name a catalog of {kinds[wanted]}, or train anew"
        )
    if found.feature_dim != length:
        raise ImgembedError(
            f"images.path: the catalog has {found.feature_dim} features an image, but model "
            f"{model.path} was trained on {length}; name the catalog it knows, or train anew"
        )
    signature = schema.IMAGE_SIGNATURE if wanted == "image" else schema.FEATURES_SIGNATURE
    models.require_signature(model, signature, "an export of the catalog")


@dataclass(frozen=True)
class Exporter:
    """What both halves of the job share: whose vectors are written, and where.

    files: of each kind. shards: parts the work is cut into. threads: that decode pictures.
    """

    model: Version
    batch_size: int
    folder: str
    files: int
    shards: int
    threads: int

    def embed(self, signature: str, content: str) -> EmbedTables:
        """The step that replaces column `content` by the signature's vectors."""
        return EmbedTables(
            model_path=self.model.file(schema.SAVED_MODEL_FOLDER),
            signature=signature,
            content=content,
            model_version=models.model_version(self.model),
            batch_size=self.batch_size,
        )

    def write(self, prefix: str, key: str) -> WriteParquet:
        """The step that writes (file number, table of the embedding schema)."""
        table_schema = schema.embedding_schema(key, self.model.manifest["dim"])
        return WriteParquet(self.folder, prefix, self.files, table_schema, (key,))


def _write_images(
    root: beam.Pipeline, found: find.Catalog, images: ImagesConfig, exporter: Exporter
) -> None:
    content = schema.content_feature(found.feature_dim).name
    signature = schema.IMAGE_SIGNATURE if found.content == "image" else schema.FEATURES_SIGNATURE
    prepared = root | "PrepareImages" >> PrepareImages(
        found, _pictures(images, exporter.model), exporter.threads
    )
    embedded = (
        prepared[IMAGES]
        | "KeepContent" >> beam.Map(keep_content, content=content).with_output_types(pa.Table)
        | "EmbedImages" >> exporter.embed(signature, content)
        | "SplitImages" >> SplitByColumn(schema.IMAGE_ID.name, exporter.shards)
        | "GatherImages" >> GatherShards()
        | "CheckIds" >> beam.Map(check_ids).with_output_types(pa.Table)
    )
    _ = (
        embedded
        | "SplitByFile" >> SplitByColumn(schema.IMAGE_ID.name, exporter.files)
        | "WriteImages" >> exporter.write(schema.IMAGE_EMBEDDINGS, schema.IMAGE_ID.name)
    )
    _ = prepared[REJECTED] | "WriteRejected" >> WriteRejected(exporter.folder)


def _pictures(images: ImagesConfig, model: Version) -> PictureSettings:
    """Pictures as the model was trained on, whatever the config says by now."""
    manifest = model.manifest
    return PictureSettings(
        image_size=manifest["image_size"] or images.image_size,
        max_pixels=images.max_pixels,
        max_seconds=images.max_seconds,
        encoding=model_encoding(manifest.get("image_encoding")),
    )


def keep_content(table: pa.Table, *, content: str) -> pa.Table:
    """What the embedding needs of prepared rows: id, content, and where the row came from."""
    return table.select([schema.IMAGE_ID.name, content, "file", "row"])


def check_ids(element: Keyed) -> pa.Table:
    """The embedded rows of a shard; ImgembedError where two have one id."""
    _, embedded = element
    check_unique(embedded)
    count(schema.IMAGE_ID.name, embedded.num_rows)
    return embedded.drop_columns(["file", "row"])


def _write_queries(root: beam.Pipeline, graph: Version, exporter: Exporter) -> None:
    rows = BATCHES_AT_ONCE * models.call_size(exporter.batch_size)
    _ = (
        root
        | "ReadQueries" >> ReadTables(graph.shards(schema.QUERIES), [QUERY])
        | "OneShard" >> SplitByColumn(QUERY, 1)
        | "GatherQueries" >> GatherShards()
        | "DistinctQueries" >> beam.FlatMap(distinct_queries, rows=rows).with_output_types(pa.Table)
        | "SpreadQueries" >> beam.Reshuffle()
        | "EmbedQueries" >> exporter.embed(schema.TEXT_SIGNATURE, TEXT)
        | "SplitQueryVectors" >> SplitByColumn(QUERY, exporter.files)
        | "WriteQueries" >> exporter.write(schema.QUERY_EMBEDDINGS, QUERY)
    )


def distinct_queries(element: Keyed, *, rows: int) -> Iterator[pa.Table]:
    """All queries, each once, and a copy for the model; sorted, in tables of `rows` rows.

    The model fills texts up to the longest of a batch, which can show in the last bits. So the
    batches are the same whatever the shards: cut from one order, and as many rows as are embedded
    at once, which keeps Beam from joining tables.
    """
    _, table = element
    queries = pc.unique(table[QUERY])
    queries = queries.take(pc.sort_indices(queries))
    count(QUERY, len(queries))
    distinct = pa.table({QUERY: queries, TEXT: queries})
    for start in range(0, len(queries), rows):
        yield distinct.slice(start, rows)


def count(name: str, amount: int) -> None:
    """Adds to a Beam counter of this stage."""
    Metrics.counter(NAMESPACE, name).inc(amount)


def _written(counts: Mapping[str, int], key: str) -> int:
    return counts.get(f"{NAMESPACE}/{key}", 0)


def _check_counts(counts: Mapping[str, int], rejected: Mapping[str, int]) -> None:
    """Fails where a row went missing on its way, and where no row is left."""
    rows, images = counts.get(ROWS, 0), _written(counts, schema.IMAGE_ID.name)
    if rows != images + sum(rejected.values()):
        raise ImgembedError(
            f"images: {rows:,} rows were read, {images:,} embedded and {sum(rejected.values()):,} "
            "rejected: the runner has lost some; run it again"
        )
    if images == 0:
        raise ImgembedError(f"images.path: none of {rows:,} rows could be embedded")
