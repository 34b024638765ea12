"""export: a catalog and a model in, a version of the embeddings out. Read | transform | write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.metrics.metric import Metrics

from pipeline import limits, precision, runner, schema, storage
from pipeline.artifacts import NewVersion, Version
from pipeline.columnar import GatherShards, Keyed, SplitByColumn, concatenate
from pipeline.config import ExportConfig, ImagesConfig
from pipeline.contents import HASH
from pipeline.embeddings import augmented, costs, losses
from pipeline.embeddings import model as models
from pipeline.embeddings.embed import (
    BATCHES_AT_ONCE,
    EMBEDDING,
    METRICS_NAMESPACE,
    EmbedTables,
)
from pipeline.embeddings.files import NAMESPACE, Layout, WriteEmbeddings
from pipeline.embeddings.takeover import (
    BEFORE,
    MADE_BY,
    NEW,
    TAKEN_OVER,
    TakeOver,
    Takeover,
    made_by,
)
from pipeline.errors import ImgembedError
from pipeline.examples import sizes
from pipeline.examples.catalog import find
from pipeline.examples.decoding import PictureSettings
from pipeline.examples.pictures import model_encoding
from pipeline.examples.prepare import IMAGES, REJECTED, UNCHANGED, PrepareImages
from pipeline.examples.prepare import NAMESPACE as CATALOG
from pipeline.reading import ReadTables, read_tables
from pipeline.writing import WriteRejected, check_rejected, check_written, file_count

WORK_FOLDER = "work"
QUERY = "query"
TEXT = "text"  # the copy of a query that the model takes
ROWS = f"{CATALOG}/rows"  # of the catalog, counted by its reader
QUERIES_TAKEN_OVER = "queries_taken_over"
_ID_BYTES = 16.0  # of an image's id, about


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
    max_memory: int | None = None,
    previous: Version | None = None,
    examples: Version | None = None,
) -> dict[str, Any]:
    """Embeds the catalog, and the graph's published queries, into `out`.

    shards: parts the work is cut into; threads: at most so many, as fit into `max_memory` bytes.
    Nothing that is written depends on either. Without a graph, or with a model that knows no texts,
    there are no queries. previous: an export whose vectors are
    taken over where they still hold. examples: the same images with their neighbours, which are
    embedded in place of the catalog. Returns what the manifest says.
    """
    found = find.inspect(images)
    check_fits(found, model)
    threads = _threads_within(max_memory, found, images, export, model, threads)
    exporter = Exporter.of(
        found,
        images=images,
        export=export,
        model=model,
        out=out,
        shards=shards,
        threads=threads,
        previous=previous,
        with_neighbors=examples is not None,
    )
    root = runner.share_process(make_pipeline())
    if examples is None:
        _write_images(root, found, images, exporter)
    else:
        _write_examples(root, examples, exporter)
    with_queries = graph is not None and models.has_signature(model, schema.TEXT_SIGNATURE)
    if graph is not None and with_queries:
        _write_queries(root, graph, exporter)
    counts = runner.run(root, work=storage.join(out.path, WORK_FOLDER))
    if examples is not None:
        augmented.copy_rejected(examples, out.path)
        counts = {**counts, ROWS: examples.manifest["counts"]["rows"]["read"]}
    rejected = check_rejected(
        out.path,
        rows=counts.get(ROWS, 0),
        allowed=images.max_rejected_fraction,
        key="images.max_rejected_fraction",
    )
    _check_counts(counts, rejected)
    written = {schema.IMAGE_EMBEDDINGS: _counted(counts, schema.IMAGE_ID.name)}
    if with_queries:
        written[schema.QUERY_EMBEDDINGS] = _counted(counts, QUERY)
    check_written(out.path, written)
    return {
        "dim": model.manifest["dim"],
        "dtype": export.dtype,
        "formats": sorted({"parquet", *export.formats}),
        "model_version": exporter.model_version,
        "content": found.content,
        "neighbors": _neighbors(examples),
        "files": {
            prefix: len(Version(out.stage, out.name, out.path, {}).shards(prefix))
            for prefix in (schema.IMAGE_EMBEDDINGS, schema.QUERY_EMBEDDINGS)
        },
        "counts": _counts(counts, rejected, found),
        "taken_over": _taken_over(counts, exporter.takeover),
        "precision": _precision(exporter, counts),
        "rejected": rejected,
        "counters": runner.counters_of(counts, CATALOG, NAMESPACE, METRICS_NAMESPACE),
        MADE_BY: exporter.made,
    }


def _threads_within(
    limit: int | None,
    found: find.Catalog,
    images: ImagesConfig,
    export: ExportConfig,
    model: Version,
    threads: int,
) -> int:
    """How many threads fit; ConfigError where not even one does."""
    held = costs.export_held(
        images=sizes.estimate_rows(found),
        id_bytes=_ID_BYTES,
        side=None if found.feature_dim else model.manifest["image_size"] or images.image_size,
        files=file_count(sum(info.size for info in found.inputs)),
        export=export,
    )
    remedy = costs.EXPORT_REMEDY
    return limits.fit(held, limit=limit, shards=1, threads=threads, remedy=remedy)[1]


def _counts(
    counts: Mapping[str, int], rejected: Mapping[str, int], found: find.Catalog
) -> dict[str, int]:
    return {
        "rows": counts.get(ROWS, 0),
        "images": _counted(counts, schema.IMAGE_ID.name),
        "rejected": sum(rejected.values()),
        "queries": _counted(counts, QUERY),
        "skipped_files": found.skipped_files,
    }


def _neighbors(examples: Version | None) -> dict[str, Any] | None:
    """Of images that were embedded with their neighbours."""
    if examples is None:
        return None
    images = examples.manifest["counts"]["images"]
    return {"examples": examples.name, "images_with_neighbors": images["with_neighbors"]}


def _taken_over(counts: Mapping[str, int], takeover: Takeover) -> dict[str, Any]:
    """What was embedded anew, what not, and why nothing could be taken over."""
    images, queries = (_counted(counts, name) for name in (TAKEN_OVER, QUERIES_TAKEN_OVER))
    return {
        "from": takeover.version.name if takeover.version else None,
        "why_nothing": takeover.why,
        "images": images,
        "queries": queries,
        "images_embedded": _counted(counts, schema.IMAGE_ID.name) - images,
        "queries_embedded": _counted(counts, QUERY) - queries,
    }


def _precision(exporter: Exporter, counts: Mapping[str, int]) -> dict[str, Any] | None:
    """What fewer bits cost; None for float32, which costs nothing."""
    if exporter.dtype == "float32":
        return None
    samples = []
    for layout, taken in (
        (exporter.images, TAKEN_OVER),
        (exporter.queries, QUERIES_TAKEN_OVER),
    ):
        sample = exporter.sample(layout)
        files = Version(schema.EMBEDDINGS, "", layout.folder, {}).shards(layout.prefix)
        # Where nothing was taken over, the sample is whole.
        before = exporter.takeover.version if _counted(counts, taken) else None
        losses.complete_sample(sample, before, files)
        samples.append(sample)
    images, queries = samples
    return losses.measure(images, queries, exporter.dtype)


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
    """What both halves of the job share: whose vectors are written, how, and where.

    made: all that a vector depends on but for its content. takeover: what is there already.
    """

    model: Version
    batch_size: int
    dtype: schema.Precision
    pictures: PictureSettings
    shards: int
    threads: int
    images: Layout
    queries: Layout
    made: Mapping[str, Any]
    takeover: Takeover

    @classmethod
    def of(
        cls,
        found: find.Catalog,
        *,
        images: ImagesConfig,
        export: ExportConfig,
        model: Version,
        out: NewVersion,
        shards: int,
        threads: int,
        previous: Version | None,
        with_neighbors: bool,
    ) -> Exporter:
        """For a catalog and a configuration."""
        pictures = _pictures(images, model)
        made = made_by(
            model,
            content=augmented.CONTENT if with_neighbors else found.content,
            batch_size=export.batch_size,
            pictures=pictures if found.content == "image" else None,
        )
        files, dim = file_count(sum(info.size for info in found.inputs)), model.manifest["dim"]
        of_images, of_queries = (
            Layout(out.path, prefix, files, key, _schema(key, dim, export.dtype), export.formats)
            for prefix, key in (
                (schema.IMAGE_EMBEDDINGS, schema.IMAGE_ID.name),
                (schema.QUERY_EMBEDDINGS, QUERY),
            )
        )
        return cls(
            model=model,
            batch_size=export.batch_size,
            dtype=export.dtype,
            pictures=pictures,
            shards=shards,
            threads=threads,
            images=of_images,
            queries=of_queries,
            made=made,
            takeover=Takeover.of(previous, made, export.dtype),
        )

    @property
    def model_version(self) -> str:
        """What each row says of the model."""
        return models.model_version(self.model)

    @property
    def rows_at_once(self) -> int:
        """As many rows as are embedded at a time."""
        return BATCHES_AT_ONCE * models.call_size(self.batch_size)

    def embed(self, signature: str, content: str) -> EmbedTables:
        """The step that puts vectors in the place of the column `content`."""
        return EmbedTables(
            model_path=self.model.file(schema.SAVED_MODEL_FOLDER),
            signature=signature,
            content=content,
            model_version=self.model_version,
            batch_size=self.batch_size,
        )

    def sample(self, layout: Layout) -> losses.SampleOf:
        """The vectors that are kept in float32 to measure the others by."""
        return losses.SampleOf(layout.folder, layout.prefix, layout.key)


def _schema(key: str, dim: int, dtype: schema.Precision) -> pa.Schema:
    """Of a Parquet file; it says of itself how its vectors are stored."""
    columns = schema.embedding_schema(key, dim, dtype)
    if key == schema.IMAGE_ID.name:
        columns = columns.append(HASH)
    return columns.with_metadata({precision.METADATA_KEY: precision.METADATA[dtype]})


def _pictures(images: ImagesConfig, model: Version) -> PictureSettings:
    """Pictures as the model was trained on, whatever the config says by now."""
    manifest = model.manifest
    return PictureSettings(
        image_size=manifest["image_size"] or images.image_size,
        max_pixels=images.max_pixels,
        max_seconds=images.max_seconds,
        encoding=model_encoding(manifest.get("image_encoding")),
    )


def _write_images(
    root: beam.Pipeline, found: find.Catalog, images: ImagesConfig, exporter: Exporter
) -> None:
    content = schema.content_feature(found.feature_dim).name
    signature = schema.IMAGE_SIGNATURE if found.content == "image" else schema.FEATURES_SIGNATURE
    prepared = root | "PrepareImages" >> PrepareImages(
        found, exporter.pictures, exporter.threads, exporter.takeover.known
    )
    embedded = (
        prepared[IMAGES]
        | "KeepContent" >> beam.Map(keep_content, content=content).with_output_types(pa.Table)
        | "EmbedImages" >> exporter.embed(signature, content)
    )
    vectors = {NEW: embedded}
    if exporter.takeover.version is not None:
        vectors[BEFORE] = prepared[UNCHANGED] | "TakeOver" >> TakeOver(
            exporter.takeover.image_files, exporter.shards, exporter.model_version
        )
    vectors | "StoreImages" >> StoreVectors(exporter, exporter.images)
    _ = prepared[REJECTED] | "WriteRejected" >> WriteRejected(exporter.images.folder)


def keep_content(table: pa.Table, *, content: str) -> pa.Table:
    """What the embedding needs of prepared rows: id, content, and where the row came from."""
    return table.select([schema.IMAGE_ID.name, content, "file", "row", HASH.name])


def _write_examples(root: beam.Pipeline, examples: Version, exporter: Exporter) -> None:
    # Nothing is shuffled before the model: the records are many times what comes out.
    embedded = (
        root
        | "ReadExamples" >> augmented.ReadExamples(examples, exporter.rows_at_once)
        | "EmbedExamples" >> exporter.embed(schema.EXAMPLE_SIGNATURE, augmented.CONTENT)
    )
    {NEW: embedded} | "StoreImages" >> StoreVectors(exporter, exporter.images)


@dataclass
class StoreVectors(beam.PTransform):
    """Writes vectors, rounded as they are stored, and a sample of them as they are.

    Input: {where they come from: pa.Table with a key, `embedding` and whatever else the files
    have}. Output: rows, int, of each file.
    """

    exporter: Exporter
    layout: Layout

    def expand(self, vectors: Mapping[str, beam.PCollection[pa.Table]]) -> beam.PCollection[int]:
        exporter, layout = self.exporter, self.layout
        if exporter.dtype != "float32":
            vectors | "DrawSample" >> losses.DrawSample(exporter.sample(layout))
        keyed = {}
        for source, tables in vectors.items():
            if exporter.dtype != "float32":
                tables = tables | f"Round_{source}" >> beam.Map(
                    round_vectors, exporter.dtype
                ).with_output_types(pa.Table)
            keyed[source] = tables | f"SplitByFile_{source}" >> SplitByColumn(
                layout.key, layout.files
            )
        return keyed | "Write" >> WriteEmbeddings(layout)


def round_vectors(table: pa.Table, dtype: schema.Precision) -> pa.Table:
    """The table with its vectors as they are stored; those that are so already stay."""
    place = table.schema.get_field_index(EMBEDDING)
    if table.schema.field(place).type.value_type == pa.type_for_alias(dtype):
        return table
    vectors = precision.stored(precision.from_column(table[EMBEDDING]), dtype)
    return table.set_column(place, EMBEDDING, precision.to_column(vectors))


def _write_queries(root: beam.Pipeline, graph: Version, exporter: Exporter) -> None:
    distinct = (
        root
        | "ReadQueries" >> ReadTables(graph.shards(schema.QUERIES), [QUERY])
        | "OneShard" >> SplitByColumn(QUERY, 1)
        | "GatherQueries" >> GatherShards()
        | "DistinctQueries"
        >> beam.FlatMap(
            distinct_queries, rows=exporter.rows_at_once, before=exporter.takeover.query_files
        )
        .with_output_types(pa.Table)
        .with_outputs(UNCHANGED, main=QUERY)
    )
    embedded = (
        distinct[QUERY]
        | "SpreadQueries" >> beam.Reshuffle()
        | "EmbedQueries" >> exporter.embed(schema.TEXT_SIGNATURE, TEXT)
    )
    vectors = {NEW: embedded, BEFORE: distinct[UNCHANGED]}
    vectors | "StoreQueries" >> StoreVectors(exporter, exporter.queries)


def distinct_queries(
    element: Keyed, *, rows: int, before: Sequence[str] = ()
) -> Iterator[pa.Table | beam.pvalue.TaggedOutput]:
    """All queries, each once, and a copy for the model; sorted, in tables of `rows` rows.

    The model fills texts up to the longest of a batch, which can show in the last bits. So the
    batches are the same whatever the shards: cut from one order, and as many rows as are embedded
    at once, which keeps Beam from joining tables. For the same reason the vectors of the version
    before (its files: before) are taken over, tagged UNCHANGED, where it had these very queries,
    and none of them where it had others.
    """
    _, table = element
    queries = pc.unique(table[QUERY])
    queries = queries.take(pc.sort_indices(queries))
    if before and _queries_of(before).equals(queries):
        count(QUERIES_TAKEN_OVER, len(queries))
        for path in before:
            for part in read_tables(path, schema.embedding_schema(QUERY, 1).names):
                yield beam.pvalue.TaggedOutput(UNCHANGED, part)
        return
    distinct = pa.table({QUERY: queries, TEXT: queries})
    for start in range(0, len(queries), rows):
        yield distinct.slice(start, rows)


def _queries_of(files: Sequence[str]) -> pa.Array:
    """The queries of some files, sorted."""
    columns = []
    for path in files:
        with storage.open_arrow(path) as source:
            columns.append(pq.read_table(source, columns=[QUERY]))
    queries = concatenate(columns)[QUERY].combine_chunks()
    return queries.take(pc.sort_indices(queries))


def count(name: str, amount: int) -> None:
    """Adds to a Beam counter of this stage."""
    Metrics.counter(NAMESPACE, name).inc(amount)


def _counted(counts: Mapping[str, int], key: str) -> int:
    return counts.get(f"{NAMESPACE}/{key}", 0)


def _check_counts(counts: Mapping[str, int], rejected: Mapping[str, int]) -> None:
    """Fails where a row went missing on its way, and where no row is left."""
    rows, images = counts.get(ROWS, 0), _counted(counts, schema.IMAGE_ID.name)
    if rows != images + sum(rejected.values()):
        raise ImgembedError(
            f"images: {rows:,} rows were read, {images:,} embedded and {sum(rejected.values()):,} "
            "rejected: the runner has lost some; run it again"
        )
    if images == 0:
        raise ImgembedError(f"images.path: none of {rows:,} rows could be embedded")
