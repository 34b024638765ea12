"""Seeds of many examples: ids, pictures and labels alone, without neighbours and texts.

In: a version of the examples and the ids that are wanted. Out: their seeds. Images stand in order
of their places, so that the files that can hold an image are known, and no other is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError
from pipeline.examples.places import Places, stretch
from pipeline.examples.reading import spec_of
from pipeline.tables.files import table_extension
from pipeline.tables.framing import read_records
from pipeline.tables.streams import open_path, reading

_BATCH = 64  # examples; each holds its neighbours' pictures as well


@dataclass(frozen=True)
class Seed:
    """A seed as its example holds it.

    content: the encoded picture, or [feature_dim] float32. labels: numbers of classes; held-out
    ones too.
    """

    image_id: str
    content: bytes | np.ndarray
    labels: tuple[int, ...]


def read_seeds(version: Version, image_ids: Collection[str]) -> Iterator[Seed]:
    """The seeds of these images, those that have an example, by split and by place."""
    spec = spec_of(version)
    wanted = set(image_ids)
    places = Places(version.manifest["config"]["seed"], 1).of(pa.array(sorted(wanted), pa.string()))
    decoder = _decoder(spec)
    for split in schema.SPLITS:
        files = version.shards(split)
        holding = np.unique(stretch(places, len(files))).tolist() if files else []
        for path in (files[number] for number in holding):
            for seed in _seeds_of(path, decoder, spec):
                if seed.image_id in wanted:
                    wanted.remove(seed.image_id)
                    yield seed
                if not wanted:
                    return


def _decoder(spec: schema.ExampleSpec) -> Any:
    """Decodes the few features of a seed, and skips all others."""
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    kinds = {"bytes": schema_pb2.BYTES, "int64": schema_pb2.INT, "float32": schema_pb2.FLOAT}
    features = [
        schema_pb2.Feature(name=feature.name, type=kinds[feature.dtype])
        for feature in (*spec.node_features(), *_heldout(spec))
    ]
    return ExamplesToRecordBatchDecoder(schema_pb2.Schema(feature=features).SerializeToString())


def _heldout(spec: schema.ExampleSpec) -> tuple[schema.Feature, ...]:
    return (
        (schema.HELDOUT_LABEL, schema.HELDOUT_LABELS)
        if spec.multi_label
        else (schema.HELDOUT_LABEL,)
    )


def _seeds_of(path: str, decoder: Any, spec: schema.ExampleSpec) -> Iterator[Seed]:
    compression = table_extension(path)[1]
    with reading(path, "tfrecord"), open_path(path, compression) as source:
        records = read_records(source, path)
        while batch := list(islice(records, _BATCH)):
            yield from _decoded(path, decoder, batch, spec)


def _decoded(
    path: str, decoder: Any, batch: list[bytes], spec: schema.ExampleSpec
) -> Iterator[Seed]:
    content = schema.content_feature(spec.feature_dim).name
    one, many = (
        (schema.LABELS, schema.HELDOUT_LABELS)
        if spec.multi_label
        else (schema.LABEL, schema.HELDOUT_LABEL)
    )
    try:
        for row in decoder.DecodeBatch(batch).to_pylist():
            labels = [*(row.get(one.name) or ()), *(row.get(many.name) or ())]
            found = row[content]
            yield Seed(
                row[schema.IMAGE_ID.name][0].decode(errors="replace"),
                found[0] if spec.feature_dim is None else np.array(found, np.float32),
                tuple(label for label in labels if label != schema.NO_LABEL),
            )
    except (RuntimeError, KeyError, IndexError, TypeError) as error:
        raise ImgembedError(
            f"{path}: its records are not as the manifest says ({error}); make the stage anew "
            f"with: {schema.STAGE_COMMANDS[schema.EXAMPLES]} --force"
        ) from None
