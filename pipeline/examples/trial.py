"""The sample of the catalog, written in memory as examples of every layout and encoding.

In: settled images. Out: how many bytes a record takes, measured. It is written by the functions
that write the whole; neighbours are drawn among the sample, as many as the graph has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.config import ImagesConfig
from pipeline.examples import layouts, pictures, wire
from pipeline.examples.nodes import HELDOUT_LABELS, LABELS, SEED_COLUMNS, keep_lists
from pipeline.examples.packing import pack
from pipeline.examples.places import column
from pipeline.examples.subgraphs import Edges
from pipeline.tables.framing import frame_records

_WRITTEN_BYTES = 16 << 20  # of records of each layout and encoding that are measured
_LEAST_WRITTEN = 8  # records


@dataclass(frozen=True)
class RecordBytes:
    """Bytes of a record on average: as it is framed, and as it is in the file."""

    framed: float
    written: float


@dataclass(frozen=True)
class Measured:
    """The sample, written in every layout and encoding.

    content: {encoding: mean bytes of an image}; None = ready features. records: {(layout,
    encoding): of a record}.
    """

    content: Mapping[schema.ImageEncoding | None, float]
    records: Mapping[tuple[schema.Layout, schema.ImageEncoding | None], RecordBytes]

    @classmethod
    def of(
        cls,
        settled: pa.Table,
        spec: schema.ExampleSpec,
        neighbors: float,
        images: ImagesConfig,
        compression: str,
    ) -> Measured:
        """settled: settle.SETTLED_SCHEMA, pictures as PNGs."""
        encodings = get_args(schema.ImageEncoding) if spec.feature_dim is None else (None,)
        content, records = {}, {}
        for encoding in encodings:
            seeds = as_seeds(settled, encoding, images)
            content[encoding] = _mean_content(seeds, spec.feature_dim)
            for layout in get_args(schema.Layout):
                variant = replace(spec, layout=layout, image_encoding=encoding)
                records[layout, encoding] = measure(
                    seeds, variant, neighbors, content[encoding], compression
                )
        return cls(content, records)

    def output_bytes(self, images: int) -> dict[str, dict[str, int]]:
        """{layout: {encoding: bytes}} of so many images."""
        found: dict[str, dict[str, int]] = {}
        for (layout, encoding), record in self.records.items():
            found.setdefault(layout, {})[encoding or "features"] = round(images * record.written)
        return found


def as_seeds(
    settled: pa.Table, encoding: schema.ImageEncoding | None, images: ImagesConfig
) -> pa.Table:
    """nodes.SEED_COLUMNS of settled images: any numbers as classes, features scaled by the sample.

    encoding: of the pictures; None = ready features.
    """
    columns = {name: column(settled, name) for name in settled.column_names}
    lists = pc.fill_null(columns["label"], pa.scalar([], columns["label"].type))
    words = lists.flatten()
    numbers = pc.index_in(words, words.unique()).cast(pa.int64())
    labels = pa.LargeListArray.from_arrays(lists.offsets.cast(pa.int64()), numbers)
    training = pc.equal(columns["split"], schema.SPLITS[0])
    columns[LABELS] = keep_lists(labels, training)
    columns[HELDOUT_LABELS] = keep_lists(labels, pc.invert(training))
    if encoding is None:
        columns[schema.TRANSFORM_FEATURES] = _scaled(columns[schema.TRANSFORM_FEATURES])
    elif encoding != "png":
        encoded = (
            pictures.prepare(
                picture.as_py(),
                image_size=images.image_size,
                max_pixels=images.image_size**2,
                encoding=encoding,
            ).content
            for picture in columns["image"]
        )
        columns["image"] = pa.array(encoded, pa.large_binary())
    return pa.table({name: columns[name] for name in SEED_COLUMNS})


def _scaled(features: pa.Array) -> pa.Array:
    """The numbers with mean 0 and deviation 1, as the transform makes them."""
    flat = features.flatten().to_numpy().reshape(len(features), -1)
    deviation = flat.std(axis=0)
    scaled = (flat - flat.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    offsets = pa.array(np.arange(len(features) + 1) * flat.shape[1], pa.int64())
    return pa.LargeListArray.from_arrays(offsets, pa.array(scaled.astype(np.float32).ravel()))


def _mean_content(seeds: pa.Table, feature_dim: int | None) -> float:
    if feature_dim is not None:
        return 4.0 * feature_dim
    return float(pc.mean(pc.binary_length(seeds["image"])).as_py())


def measure(
    seeds: pa.Table,
    spec: schema.ExampleSpec,
    neighbors: float,
    content: float,
    compression: str,
) -> RecordBytes:
    """What a record of the seeds takes, with `neighbors` of them as its neighbours.

    content: mean bytes of an image, of more seeds than are written.
    """
    limit = max(_LEAST_WRITTEN, int(_WRITTEN_BYTES / ((1 + neighbors) * content)))
    seeds = seeds.slice(0, limit)
    degrees = draw_degrees(seeds.num_rows, neighbors)
    columns = layouts.example_columns(
        seeds, draw_neighbors(seeds, degrees, spec.neighbors), draw_edges(degrees), spec
    )
    frames = frame_records(wire.encode_examples(columns, seeds.num_rows))
    missing = (1 + neighbors) * (content - _mean_content(seeds, spec.feature_dim))
    framed = len(frames) / seeds.num_rows + missing
    packed = sum(len(part) for part in pack([frames], spec, compression))
    return RecordBytes(framed, framed * packed / len(frames))


def draw_degrees(seeds: int, mean: float) -> np.ndarray:
    """[seeds] int64: neighbours of each, as equal as their mean allows."""
    ends = np.floor(np.arange(seeds + 1) * mean + 0.5).astype(np.int64)
    return np.diff(ends)


def draw_neighbors(seeds: pa.Table, degrees: np.ndarray, most: int) -> layouts.Neighborhoods:
    """Neighbours of each seed among the others, such that each is one about equally often."""
    number = seeds.num_rows
    draw = np.random.default_rng(0)
    steps = draw.permutation(max(number - 1, 1))
    rows = np.arange(number)[:, None] + 1 + np.resize(steps, most)
    present = np.arange(most) < degrees[:, None]
    weights = draw.random((number, most), np.float32) + np.float32(0.5)
    return layouts.Neighborhoods(
        seeds, np.where(present, rows % number, -1), np.where(present, weights, np.float32(0))
    )


def draw_edges(degrees: np.ndarray) -> Edges:
    """The edges from each seed to its neighbours, and half of all others among the nodes.

    That is between a neighbourhood of strangers and one in which all know each other.
    """
    of_seed = [_pairs(degree) for degree in degrees.tolist()]
    counts = np.array([len(pairs) for pairs in of_seed], np.int64)
    ends = np.array([pair for pairs in of_seed for pair in pairs], np.int64).reshape(-1, 2)
    weights = np.random.default_rng(0).random(len(ends), np.float32)
    return Edges(counts, ends[:, 0], ends[:, 1], weights)


def _pairs(degree: int) -> list[tuple[int, int]]:
    """(sender, receiver) of the edges in an example of so many neighbours, ascending."""
    nodes = range(degree + 1)
    return [(s, r) for s in nodes for r in nodes if s != r and (s == 0 or (s + r) % 2)]
