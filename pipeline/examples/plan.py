"""What the examples stage would make of a catalog, estimated from a sample before anything runs.

In: the settings, and what is known of the graph. Out: a `Plan`: images, bytes of output in every
layout and encoding, files, memory and disk. A bounded number of images, spread over the catalog, is
prepared and written, in memory, by the functions that write the whole; neighbours are drawn among
them, as many as the graph has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.config import ExamplesConfig, ImagesConfig
from pipeline.examples import sizes
from pipeline.examples.catalog import find
from pipeline.examples.catalog.tasks import TableTask
from pipeline.examples.costs import Needs, bytes_around
from pipeline.examples.decoding import PictureSettings
from pipeline.examples.places import Places, column
from pipeline.examples.prepare import check_unique
from pipeline.examples.sample import Sample, take_sample
from pipeline.examples.settle import SettleOptions, settle
from pipeline.examples.trial import Measured
from pipeline.reading import read_tables


@dataclass(frozen=True)
class Neighbors:
    """How many neighbours an image has on average, and how that is known."""

    mean: float
    source: str


@dataclass(frozen=True)
class Plan:
    """What a run would read, write and need. Bytes are bytes.

    exact: the rows of the catalog were counted. input_bytes: of the catalog's files; not of
    pictures that a table only names (`names_pictures`), of which nobody knows before they are read.
    id_bytes: of an image's id, on average. content_bytes: of an image, prepared as configured.
    example_bytes: of a record in the files. output_bytes: {layout: {encoding, or "features":
    bytes}}. notes: what a person should know.
    """

    exact: bool
    images: int
    sampled_images: int
    input_bytes: int
    names_pictures: bool
    id_bytes: float
    feature_dim: int | None
    image_size: int | None
    neighbors: Neighbors
    most_neighbors: int
    layout: str
    encoding: str
    compression: str
    content_bytes: float
    example_bytes: float
    output_bytes: Mapping[str, Mapping[str, int]]
    files: Mapping[str, int]
    shards: int
    threads: int
    memory_bytes: int
    disk_bytes: int
    notes: Sequence[str] = ()

    @property
    def written_bytes(self) -> int:
        """Of the output as it is configured."""
        return self.output_bytes[self.layout][self.encoding]


def plan_examples(
    *,
    images: ImagesConfig,
    examples: ExamplesConfig,
    seed: int,
    graph: Version | None,
    edges: int | None,
    shards: int | str,
    threads: int,
    max_memory: int | None = None,
) -> Plan:
    """What `job.build_examples` would make of the catalog.

    graph: the one in force. edges: of a graph that is still to be made, where that is planned.
    """
    found = find.inspect(images)
    sample = take_sample(found, _lossless(images), threads)
    check_unique(sample.images)
    settled, counts = settle(
        sample.images,
        _of_images(graph, schema.QUERIES, sample.images, schema.QUERY_SCHEMA),
        _of_images(graph, schema.NODES, sample.images, schema.NODE_SCHEMA),
        SettleOptions("", Places(seed, 1), examples.split, examples.texts, examples.captions),
    )
    total = max(1, round(sample.rows * (1.0 - sample.rejected)))
    neighbors = find_neighbors(examples.neighbors, total, graph=graph, edges=edges)
    spec = schema.ExampleSpec(
        neighbors=examples.neighbors,
        feature_dim=found.feature_dim,
        image_encoding=None if found.feature_dim else examples.image_encoding,
        layout=examples.layout,
        multi_label=counts["several labels"] > 0,
    )
    measured = Measured.of(settled, spec, neighbors.mean, images, examples.compression)
    own = measured.records[spec.layout, spec.image_encoding]
    content = measured.content[spec.image_encoding]
    parts, threads = sizes.cut(
        shards,
        sizes.estimate(found, images, examples),
        neighbors=examples.neighbors,
        threads=threads,
        max_memory=max_memory,
    )
    needs = Needs(total, content + bytes_around(settled), own, neighbors.mean, parts)
    return Plan(
        exact=sample.exact,
        images=total,
        sampled_images=settled.num_rows,
        input_bytes=sum(info.size for info in found.inputs),
        names_pictures=any(
            isinstance(task, TableTask) and "uri" in dict(task.columns) for task in found.tasks
        ),
        id_bytes=pc.mean(pc.binary_length(column(settled, "image_id"))).as_py(),
        feature_dim=spec.feature_dim,
        image_size=None if spec.feature_dim else images.image_size,
        neighbors=neighbors,
        most_neighbors=spec.neighbors,
        layout=spec.layout,
        encoding=spec.image_encoding or "features",
        compression=examples.compression,
        content_bytes=content,
        example_bytes=own.written,
        output_bytes=measured.output_bytes(total),
        files=sizes.file_counts(
            split_counts(sample, examples, total),
            sizes.record_bytes(spec, content=content, neighbors=neighbors.mean),
            examples.readers,
        ),
        shards=parts,
        threads=threads,
        memory_bytes=needs.memory_bytes(threads),
        disk_bytes=needs.disk_bytes(),
        notes=_notes(sample, images),
    )


def _lossless(images: ImagesConfig) -> PictureSettings:
    """Pictures as PNGs, whatever the examples hold: any encoding can be made of them."""
    return PictureSettings(images.image_size, images.max_pixels, images.max_seconds, "png")


def _of_images(graph: Version | None, prefix: str, images: pa.Table, of: pa.Schema) -> pa.Table:
    """The rows of a table of the graph that are about these images."""
    known = column(images, "image_id")

    def rows() -> Iterator[pa.Table]:
        for path in graph.shards(prefix) if graph else ():
            for table in read_tables(path, of.names):
                yield table.filter(pc.is_in(table["image_id"], known)).cast(of)

    return pa.concat_tables([of.empty_table(), *rows()])


def find_neighbors(
    most: int, images: int, *, graph: Version | None, edges: int | None
) -> Neighbors:
    """The mean number of neighbours: of the graph in force, else of the planned one, else all."""
    if graph is not None:
        mean = sizes.linked(graph, most) / images
        return Neighbors(min(float(most), mean), f"graph {graph.name}")
    if edges is not None:
        return Neighbors(min(float(most), edges / images), "the graph as planned")
    return Neighbors(float(most), "no graph yet: as many as examples.neighbors")


def split_counts(sample: Sample, examples: ExamplesConfig, images: int) -> dict[str, int]:
    """{split: images}: where the catalog names no split, by their shares."""
    given = column(sample.images, "split")
    drawn = given.null_count / len(given)
    shares = {name: pc.sum(pc.equal(given, name)).as_py() or 0 for name in schema.SPLITS}
    return {
        name: round(images * (shares[name] / len(given) + drawn * getattr(examples.split, name)))
        for name in schema.SPLITS
    }


def _notes(sample: Sample, images: ImagesConfig) -> list[str]:
    if sample.rejected <= images.max_rejected_fraction:
        return []
    return [
        f"{sample.rejected:.0%} of the rows that were looked at cannot be used, more than "
        f"images.max_rejected_fraction = {images.max_rejected_fraction:g} allows: the run would "
        "fail"
    ]
