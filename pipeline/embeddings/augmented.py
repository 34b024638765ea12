"""Images with their neighbours, for a model that looks at both: the examples stage read back.

A graph network makes an image's embedding of its neighbours as well, and these are in the examples.
In: the examples, where they are of the catalog and form that the model and the export are of. Out:
tables of serialized examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics.metric import Metrics

from pipeline import schema, storage
from pipeline.artifacts import INPUTS, Version, file_marks
from pipeline.config import ExportConfig, ImagesConfig
from pipeline.contents import HASH
from pipeline.embeddings import model as models
from pipeline.embeddings.files import NAMESPACE
from pipeline.tables.framing import read_records
from pipeline.tables.streams import open_path, reading
from pipeline.writing import rejected_file

CONTENT = "example"  # the column of serialized examples
RECORDS = "records"
_GO_ON = "images are embedded alone"


def choose(
    model: Version,
    examples: Version | None,
    *,
    images: ImagesConfig,
    files: Sequence[storage.FileInfo],
    export: ExportConfig,
) -> tuple[Version | None, str | None]:
    """(the examples to embed, a line for people): None where images are embedded alone.

    files: of the catalog that is exported. There is no line where nothing else could be expected.
    """
    network = model.manifest.get("config", {}).get("model", {}).get("graph_network", "none")
    if network == "none":
        return None, None
    if export.neighbors == "none":
        return None, f"export.neighbors is none: {_GO_ON}, though the model has a graph network"
    why = _obstacle(model, examples, images, files)
    if why is None:
        return examples, None
    return None, f"{why}: {_GO_ON}, as the model does for an image without neighbours"


def _obstacle(
    model: Version,
    examples: Version | None,
    images: ImagesConfig,
    files: Sequence[storage.FileInfo],
) -> str | None:
    """Why the examples cannot be embedded in place of the catalog; None where they can."""
    if not models.has_signature(model, schema.EXAMPLE_SIGNATURE):
        return (
            "the model cannot be asked with neighbours: it learned to trust some edges more than "
            "others, or an earlier imgembed trained it"
        )
    if examples is None:
        return "there are no examples that would tell of neighbours"
    if examples.manifest.get(INPUTS) is None:
        return "an earlier imgembed wrote the examples and did not say of which files"
    if examples.manifest["config"]["images"] != images.model_dump():
        return "the examples are of another catalog, or read otherwise"
    if examples.manifest[INPUTS] != file_marks(files):
        return "the catalog changed since the examples were made of it"
    form = schema.ExampleSpec.from_manifest(examples.manifest).to_manifest()
    if form != model.manifest["example_form"] or _size(examples) != _size(model):
        return "the examples have another form than those that the model was trained on"
    if form["feature_dim"] is not None and not _is_of(model, examples):
        return "the examples' features are scaled otherwise than those that the model knows"
    return None


def _size(version: Version) -> int | None:
    return version.manifest["image_size"] if version.manifest["content"] == "image" else None


def _is_of(model: Version, examples: Version) -> bool:
    """Whether the model was trained on these very examples."""
    return model.manifest["upstream"][schema.EXAMPLES] == examples.name


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
