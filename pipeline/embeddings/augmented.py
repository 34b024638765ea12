"""Images with their neighbours, for a model that looks at both: the examples stage read back.

A graph network makes an image's embedding of its neighbours as well, and these are in the examples.
In: examples that `with_neighbors` has found fit. Out: tables of serialized examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics.metric import Metrics

from pipeline import schema, storage
from pipeline.artifacts import Version
from pipeline.contents import HASH
from pipeline.embeddings.files import NAMESPACE
from pipeline.tables.framing import read_records
from pipeline.tables.streams import open_path, reading
from pipeline.writing import rejected_file

CONTENT = "example"  # the column of serialized examples
RECORDS = "records"


@dataclass
class ReadExamples(beam.PTransform):
    """Reads all examples of a version.

    Input: the root. Output: pa.Table of `image_id`, `example`, `file`, `row`, `content_hash`
    (null), `rows` rows each but for the last of a file. Counters: records.
    """

    examples: Version
    rows: int

    def expand(self, root: beam.Pipeline) -> beam.PCollection[pa.Table]:
        files = [path for split in schema.SPLITS for path in self.examples.shards(split)]
        return (
            root
            | "ExampleFiles" >> beam.Create(files).with_output_types(str)
            | "ReadExamples"
            >> beam.FlatMap(
                read_example_tables, self.examples.manifest["compression"], self.rows
            ).with_output_types(pa.Table)
        )


def read_example_tables(path: str, compression: Any, rows: int) -> Iterator[pa.Table]:
    """The examples of a file in tables of `rows` rows."""
    number = 1
    with reading(path, "tfrecord"), open_path(path, compression) as source:
        records = read_records(source, path)
        while part := list(itertools.islice(records, rows)):
            Metrics.counter(NAMESPACE, RECORDS).inc(len(part))
            yield _table(path, number, part)
            number += len(part)


def _table(path: str, first: int, records: list[bytes]) -> pa.Table:
    ids = _decoder().DecodeBatch(records)[schema.IMAGE_ID.name].flatten().cast(pa.string())
    return pa.table(
        {
            schema.IMAGE_ID.name: ids,
            CONTENT: pa.array(records, pa.large_binary()),
            "file": pa.repeat(path, len(records)),
            "row": pa.array(range(first, first + len(records)), pa.int64()),
            HASH.name: pa.nulls(len(records), HASH.type),
        }
    )


@cache
def _decoder() -> Any:
    """Of image ids alone."""
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    described = schema_pb2.Schema()
    described.feature.add(name=schema.IMAGE_ID.name, type=schema_pb2.BYTES)
    return ExamplesToRecordBatchDecoder(described.SerializeToString())


def copy_rejected(examples: Version, folder: str) -> None:
    """What the examples' own reading of the catalog rejected is what the export lacks."""
    path = rejected_file(examples.path)
    if storage.exists(path):
        with storage.open_read(path) as source, storage.open_write(rejected_file(folder)) as file:
            file.write(source.read())
