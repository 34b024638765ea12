"""How many files and shards there are follows from what was counted, within the promised bounds."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.config import ExamplesConfig, ImagesConfig
from pipeline.examples import layouts, sizes, wire
from pipeline.examples.catalog.find import Catalog
from pipeline.examples.catalog.tasks import PictureTask, TableTask
from pipeline.examples.subgraphs import Edges
from pipeline.tables.files import Part, TableFile

LARGEST, SMALLEST = 200 << 20, 100 << 20
RECORDS = st.one_of(st.integers(0, 9), st.integers(0, 10**7))


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Version:
    """A graph of 100 images that have 0 to 9 out-edges, in two files."""
    folder = tmp_path_factory.mktemp("graph")
    for part in range(2):
        rows = [{"image_id": f"{part}-{i}", "degree": i % 10} for i in range(50)]
        table = pa.Table.from_pylist(rows, schema=schema.NODE_SCHEMA)
        pq.write_table(table, folder / schema.shard_name(schema.NODES, part, 2, "parquet"))
    return Version(schema.GRAPH, "v0001", str(folder), {})


@given(
    records=st.tuples(RECORDS, RECORDS, RECORDS),
    each=st.integers(1, 10**7),
    readers=st.integers(1, 300),
)
@settings(max_examples=200, deadline=None)
@example(records=(0, 0, 0), each=1, readers=1)
def test_files_are_of_100_to_200_mb_and_at_least_two_a_reader(records, each, readers):
    by_split = dict(zip(schema.SPLITS, records, strict=True))
    found = sizes.file_counts(by_split, each, readers)
    for split, number in by_split.items():
        files = found[split]
        least = 2 * readers if split == "train" else 1
        assert min(number, least) <= files <= number
        if not number:
            continue
        size = number * each / files
        assert size <= LARGEST or files == number
        assert files == min(number, least) or size >= SMALLEST * 0.99


def test_neighbors_are_counted_up_to_the_most_of_an_example(graph):
    degrees = [i % 10 for i in range(50)] * 2
    for neighbors in range(12):
        assert sizes.linked(graph, neighbors) == sum(min(d, neighbors) for d in degrees)


@pytest.mark.parametrize("layout", ["nsl", "compact"])
@pytest.mark.parametrize("dim", [None, 256])
@pytest.mark.parametrize("neighbors", [0, 1, 5])
def test_a_record_is_about_as_large_as_is_thought(layout, dim, neighbors):
    spec = schema.ExampleSpec(neighbors, dim, None if dim else "png", layout)
    content = 4 * dim if dim else 2_000
    node = {
        "image_id": "an image",
        "image": None if dim else b"x" * content,
        "features": [0.5] * dim if dim else None,
        "labels": [1],
        "heldout_labels": [],
        "text": [],
        "text_weight": [],
        "split": "train",
    }
    types = {
        "image": pa.large_binary(),
        "features": pa.large_list(pa.float32()),
        "labels": pa.large_list(pa.int64()),
        "heldout_labels": pa.large_list(pa.int64()),
        "text": pa.list_(pa.string()),
        "text_weight": pa.list_(pa.float32()),
    }
    seeds = pa.table({name: pa.array([value], types.get(name)) for name, value in node.items()})
    near = layouts.Neighborhoods(
        seeds, np.zeros((1, neighbors), np.int64), np.ones((1, neighbors), np.float32)
    )
    numbers = np.arange(neighbors)
    edges = Edges(np.array([neighbors]), numbers, numbers, np.ones(neighbors, np.float32))
    columns = layouts.example_columns(seeds, near, edges, spec)
    size = len(wire.encode_examples(columns, 1)[0].as_py())
    assert math.isclose(
        size, sizes.record_bytes(spec, content=content, neighbors=neighbors), rel_tol=0.1
    )


# Shards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepared_bytes", "shards"),
    [(0, 1), (32 << 20, 2), ((32 << 20) - 1, 1), (1 << 30, 33), (1 << 50, 1_024)],
)
def test_shards_follow_from_the_bytes_and_are_never_too_many(prepared_bytes, shards):
    assert sizes.shard_count("auto", prepared_bytes) == shards


def test_shards_that_are_set_are_taken():
    assert sizes.shard_count(3, 1e15) == 3


def catalog(rows: int | None, feature_dim: int | None = None) -> Catalog:
    """A table of so many rows, or of 2,000 bytes, and a folder of two pictures."""
    part = Part(TableFile("c", "csv", 2_000), rows=rows)
    content = "image" if feature_dim is None else "features"
    table = TableTask(part, (), "", content, feature_dim, 1)  # type: ignore[arg-type]
    tasks = (table, PictureTask("p/", ("a.png", "b.png"), "name", ()))
    return Catalog(content, feature_dim, tasks, ())  # type: ignore[arg-type]


def test_a_catalog_is_estimated_by_its_rows_its_bytes_and_its_pictures():
    raw, images = ExamplesConfig(image_encoding="raw"), ImagesConfig(image_size=10)
    assert sizes.estimate(catalog(40), images, raw) == 42 * 300
    assert sizes.estimate(catalog(None), images, raw) == (2_000 // 200 + 2) * 300
    assert sizes.estimate(catalog(40, feature_dim=7), images, raw) == 42 * 28


@pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
def test_pictures_are_never_thought_larger_than_their_pixels(encoding):
    images, examples = ImagesConfig(image_size=64), ExamplesConfig(image_encoding=encoding)
    found = sizes.content_bytes(catalog(1), images, examples)
    assert 0 < found <= 64 * 64 * 3
