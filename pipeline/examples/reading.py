"""Read examples back, one at a time, as what a person wants to know of them.

In: a version of the stage. Out: an `Example`: the seed, its neighbours, its texts and the edges
among its nodes, in either layout. Without TensorFlow, which takes seconds to load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError
from pipeline.examples.places import Places, stretch
from pipeline.tables.files import table_extension
from pipeline.tables.framing import read_records
from pipeline.tables.streams import open_path, reading

_Values = Mapping[str, Sequence[Any]]
_ANEW = f"make the stage anew with: {schema.STAGE_COMMANDS[schema.EXAMPLES]} --force"


@dataclass(frozen=True)
class Node:
    """An image as an example holds it.

    content: the picture as it is encoded, or [feature_dim] float32. labels: numbers of classes.
    """

    image_id: str
    content: bytes | np.ndarray
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Neighbor:
    """A neighbour of the seed. slot: 0 = the strongest."""

    slot: int
    weight: float
    node: Node


@dataclass(frozen=True)
class Edge:
    """An edge among the nodes of an example: 0 = the seed, i + 1 = the neighbour of slot i."""

    sender: int
    receiver: int
    weight: float


@dataclass(frozen=True)
class Place:
    """Where an example is. record: its number, 1 = the first. size: bytes, before compression."""

    split: str
    file: str
    record: int
    size: int


@dataclass(frozen=True)
class Example:
    """An example. heldout_labels: of a seed outside the training split. texts: (text, weight)."""

    place: Place
    seed: Node
    heldout_labels: tuple[int, ...]
    texts: tuple[tuple[str, float], ...]
    neighbors: tuple[Neighbor, ...]
    edges: tuple[Edge, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The seed, then its neighbours: what the ends of edges count."""
        return (self.seed, *(neighbor.node for neighbor in self.neighbors))


def spec_of(version: Version) -> schema.ExampleSpec:
    """What the examples of a version look like; ImgembedError where an older program made them."""
    try:
        return schema.ExampleSpec.from_manifest(version.manifest)
    except KeyError as error:
        raise ImgembedError(
            f"{version.file(schema.MANIFEST_FILE)}: says nothing of {error}: another version of "
            f"imgembed wrote it; {_ANEW}"
        ) from None


def first_example(version: Version, split: str) -> Example:
    """The first example of a split that has neighbours; where none has any, the first."""
    first = None
    for path in _files(version, split):
        for example in read_examples(version, split, path):
            if example.neighbors:
                return example
            first = first or example
            if not spec_of(version).neighbors:
                return example
    if first is None:
        raise ImgembedError(f"{version.path}: the split {split!r} has no example")
    return first


def find_example(version: Version, image_id: str, splits: Sequence[str]) -> Example:
    """The example of an image; ImgembedError, with an id that there is, where it has none.

    Its place tells which file of each split can hold it: no other is read.
    """
    check_id(image_id)
    for split in splits:
        path = _file_of(version, image_id, split)
        for example in read_examples(version, split, path, holding=image_id) if path else ():
            if example.seed.image_id == image_id:
                return example
    total = sum(version.manifest["splits"][split]["records"] for split in splits)
    where = f"split {splits[0]!r}" if len(splits) == 1 else "examples"
    known = next((split for split in splits if _files(version, split)), None)
    hint = "" if known is None else f", such as {first_example(version, known).seed.image_id!r}"
    raise ImgembedError(
        f"--image-id {image_id}: {version.path} has no example of it; there are {total:,} in its "
        f"{where}{hint}"
    )


def check_id(image_id: str) -> None:
    """ImgembedError for an id of a command line that is not UTF-8, as every image's is."""
    try:
        image_id.encode()
    except UnicodeEncodeError:
        raise ImgembedError(f"image id {image_id!r}: is not UTF-8") from None


def _file_of(version: Version, image_id: str, split: str) -> str | None:
    files = _files(version, split)
    if not files:
        return None
    place = Places(version.manifest["config"]["seed"], 1).of(pa.array([image_id]))
    return files[int(stretch(place, len(files))[0])]


def _files(version: Version, split: str) -> list[str]:
    files, wanted = version.shards(split), version.manifest["splits"][split]["files"]
    if len(files) != wanted:
        raise ImgembedError(
            f"{version.path}: the manifest says that {split!r} has {wanted:,} files, found "
            f"{len(files):,}; {_ANEW}"
        )
    return files


def read_examples(
    version: Version, split: str, path: str, *, holding: str | None = None
) -> Iterator[Example]:
    """The examples of a file, in order; with `holding`, those whose record holds these letters."""
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    spec, decoder = spec_of(version), ExamplesToRecordBatchDecoder()
    wanted = (holding or "").encode()
    compression = table_extension(path)[1]
    with reading(path, "tfrecord"), open_path(path, compression) as source:
        for number, record in enumerate(read_records(source, path), 1):
            if wanted in record:
                place = Place(split, path, number, len(record))
                yield _example(place, decoder, record, spec)


def _example(place: Place, decoder: Any, record: bytes, spec: schema.ExampleSpec) -> Example:
    where = f"{place.file}: record {place.record}"
    try:
        (row,) = decoder.DecodeBatch([record]).to_pylist()
        values = {name: found for name, found in row.items() if found is not None}
        return parse_example(place, values, spec)
    except RuntimeError:
        raise ImgembedError(f"{where} is not a tf.train.Example; {_ANEW}") from None
    except (KeyError, IndexError, ValueError) as error:
        raise ImgembedError(
            f"{where} is not as the manifest says ({error}: missing or too short); {_ANEW}"
        ) from None


def parse_example(place: Place, values: _Values, spec: schema.ExampleSpec) -> Example:
    """The example that a record holds.

    values: {feature: its values}, without the features that the example does not have.
    """
    texts = (text.decode(errors="replace") for text in values.get(schema.TEXT.name, ()))
    ends = (schema.GRAPH_SENDERS, schema.GRAPH_RECEIVERS, schema.GRAPH_WEIGHTS)
    edges = zip(*(values.get(end.name, ()) for end in ends), strict=True)
    neighbors = _nsl(values, spec) if spec.layout == "nsl" else _compact(values, spec)
    return Example(
        place=place,
        seed=_node(values, spec, ""),
        heldout_labels=_labels(values, spec, "heldout_"),
        texts=tuple(zip(texts, values.get(schema.TEXT_WEIGHT.name, ()), strict=True)),
        neighbors=tuple(neighbors),
        edges=tuple(Edge(*edge) for edge in edges),
    )


def _node(values: _Values, spec: schema.ExampleSpec, prefix: str) -> Node:
    """The node whose features begin with `prefix`."""
    content = values[prefix + schema.content_feature(spec.feature_dim).name]
    return Node(
        values[prefix + schema.IMAGE_ID.name][0].decode(errors="replace"),
        content[0] if spec.feature_dim is None else np.array(content, np.float32),
        _labels(values, spec, prefix),
    )


def _labels(values: _Values, spec: schema.ExampleSpec, prefix: str) -> tuple[int, ...]:
    if spec.multi_label:
        return tuple(values.get(prefix + schema.LABELS.name, ()))
    labels = values.get(prefix + schema.LABEL.name, ())
    return tuple(label for label in labels if label != schema.NO_LABEL)


def _count(values: _Values, spec: schema.ExampleSpec) -> int:
    return int(values[schema.NUM_NEIGHBORS.name][0]) if spec.neighbors else 0


def _nsl(values: _Values, spec: schema.ExampleSpec) -> Iterator[Neighbor]:
    for slot in range(_count(values, spec)):
        weight = values[schema.neighbor_weight(slot).name][0]
        yield Neighbor(slot, weight, _node(values, spec, schema.neighbor_feature(slot, "")))


def _compact(values: _Values, spec: schema.ExampleSpec) -> Iterator[Neighbor]:
    count = _count(values, spec)
    if not count:
        return
    prefix = schema.COMPACT_PREFIX
    content = schema.content_feature(spec.feature_dim).name
    parted = {
        prefix + schema.IMAGE_ID.name: _runs(values[prefix + schema.IMAGE_ID.name], [1] * count),
        prefix + content: _contents(values[prefix + content], spec, count),
    }
    if spec.multi_label:
        lengths = values[schema.COMPACT_LABEL_COUNTS.name]
        name = prefix + schema.LABELS.name
        parted[name] = _runs(values.get(name, ()), lengths)
    else:
        name = prefix + schema.LABEL.name
        parted[name] = _runs(values[name], [1] * count)
    for slot, weight in enumerate(values[schema.COMPACT_WEIGHTS.name]):
        node = _node({name: runs[slot] for name, runs in parted.items()}, spec, prefix)
        yield Neighbor(slot, weight, node)


def _contents(values: Sequence[Any], spec: schema.ExampleSpec, count: int) -> list[Sequence[Any]]:
    """The content of each neighbour, of what one feature holds of all of them."""
    if spec.feature_dim is not None:
        return _runs(values, [spec.feature_dim] * count)
    if spec.image_encoding == "raw":
        size = len(values[0]) // count
        return [[picture] for picture in _runs(values[0], [size] * count)]
    return _runs(values, [1] * count)


def _runs(values: Sequence[Any], lengths: Sequence[int]) -> list[Sequence[Any]]:
    """Consecutive runs of so many values."""
    bounds = [0, *accumulate(lengths)]
    if bounds[-1] != len(values):
        raise ValueError(f"{len(values)} values for {bounds[-1]}")
    return [values[start:stop] for start, stop in pairwise(bounds)]
