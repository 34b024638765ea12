"""Small catalogs and graphs, the examples stage made from them, and what its files hold."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from PIL import Image

from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.config import ExamplesConfig, ImagesConfig, RunnerConfig
from pipeline.examples.job import build_examples
from pipeline.runner import make_pipeline

SIDE = 8  # pixels
SEED = 11
CANARY = "canaryspecies"  # a label that held-out images alone have
HELDOUT_BIRD = "ï 003"  # has it
LABELS = ("cat", "dog", "owl")

Row = dict[str, Any]


class Edge(NamedTuple):
    src: str
    dst: str
    rank: int
    weight: float


@dataclass(frozen=True)
class World:
    """A catalog and a graph.

    queries: (text, image, sessions). sessions: of the images that are seen.
    """

    rows: Sequence[Row]
    edges: Sequence[Edge]
    queries: Sequence[tuple[str, str, int]] = ()
    sessions: Mapping[str, int] | None = None

    @property
    def by_id(self) -> dict[str, Row]:
        return {row["image_id"]: row for row in self.rows}

    def shuffled(self, seed: int = 1) -> World:
        """The same in another order."""
        draw = np.random.default_rng(seed)
        rows, edges = ([of[i] for i in draw.permutation(len(of))] for of in (self.rows, self.edges))
        return replace(self, rows=rows, edges=edges)


def colour_of(index: int) -> tuple[int, int, int]:
    return (index * 5 % 256, index * 11 % 256, 90)


def picture(index: int) -> bytes:
    """The PNG of image `index`, all of one colour."""
    sink = io.BytesIO()
    Image.new("RGB", (20, 12), colour_of(index)).save(sink, "PNG")
    return sink.getvalue()


def pictures_world(count: int = 40, *, several_labels: bool = False) -> World:
    """Pictures with splits, captions and, for half of them, labels; a graph of up to 6 neighbours.

    The canary is in the validation split and the strongest neighbour of most training images.
    """
    rows = []
    for index in range(count):
        own = [LABELS[index % 3]] if index % 2 else []
        if several_labels and index % 4 == 1:
            own += [LABELS[(index + 1) % 3], "pet"]
        if index == 3:
            own = [*own, CANARY] if several_labels else [CANARY]
        rows.append(
            {
                "image_id": f"ï {index:03d}",
                "image": picture(index),
                "label": own if several_labels else (own or [None])[0],
                "text": f"Picture {index} of it" if index % 5 != 4 else None,
                "split": schema.SPLITS[(0, 0, 0, 1, 2)[index % 5]],
            }
        )
    ids = [row["image_id"] for row in rows]
    queries = [("red bridge", ids[0], 4), ("blue", ids[0], 7), ("blue", "gone 1", 2)]
    sessions = {image_id: 1 + index % 4 for index, image_id in enumerate(ids[:-4])}
    return World(rows, random_edges(ids, degree=6), queries, sessions)


def features_world(count: int = 30) -> World:
    """Four numbers an image, the last one constant; groups of near-duplicates; no splits."""
    draw = np.random.default_rng(7)
    rows = [
        {
            "image_id": f"f{index:02d}",
            "features": [*draw.normal(5, 3, 3).astype(np.float32).tolist(), 0.1],
            "group": f"group {index // 6}" if index % 2 else None,
        }
        for index in range(count)
    ]
    return World(rows, random_edges([row["image_id"] for row in rows], degree=4))


def random_edges(ids: Sequence[str], *, degree: int) -> list[Edge]:
    """A graph in which two images have no neighbours, and some edges lead out of the catalog."""
    draw = np.random.default_rng(3)
    everyone = [*ids, *(f"gone {i}" for i in range(5))]
    edges = []
    for src in everyone[2:]:
        first = [HELDOUT_BIRD] if HELDOUT_BIRD in ids and src != HELDOUT_BIRD else []
        others = [other for other in everyone if other not in (src, *first)]
        size = int(draw.integers(1, degree + 1))
        weights = np.sort(draw.uniform(0.1, 9, size + len(first)))[::-1]
        targets = [*first, *map(str, draw.choice(others, size, replace=False))]
        edges += [
            Edge(src, dst, rank, float(weight))
            for rank, (dst, weight) in enumerate(zip(targets, weights, strict=True), 1)
        ]
    return edges


# To files -----------------------------------------------------------------------------------------


def write_catalog(
    folder: Path, rows: Sequence[Row], *, files: int = 1, form: str = "parquet"
) -> None:
    """Tables that deal out the rows in turn; "jsonl" has the pictures in files of their own."""
    folder.mkdir(parents=True)
    for index in range(files):
        part = rows[index::files]
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(part), folder / f"{index}.parquet")
            continue
        lines = []
        for number, row in enumerate(part):
            row = dict(row)
            name = f"pictures/{index}-{number}.png"
            (folder / "pictures").mkdir(exist_ok=True)
            (folder / name).write_bytes(row.pop("image"))
            lines.append(json.dumps({**row, "uri": name}) + "\n")
        (folder / f"{index}.jsonl").write_text("".join(lines))


def write_graph(run: RunDir, world: World, *, files: int = 1) -> Version:
    """A version of the graph stage with these very edges, dealt out to files."""
    names = ("src", "dst", "rank", "weight")
    edges = [dict(zip(names, edge, strict=True)) for edge in world.edges]
    queries = [
        {"query": query, "image_id": image_id, "sessions": count, "users": count}
        for query, image_id, count in world.queries
    ]
    degrees: dict[str, int] = {}
    for edge in world.edges:
        degrees[edge.src] = degrees.get(edge.src, 0) + 1
    seen = degrees | dict(world.sessions or {})
    nodes = [
        {
            "image_id": image_id,
            "sessions": (world.sessions or {}).get(image_id),
            "degree": degrees.get(image_id, 0),
        }
        for image_id in seen
    ]
    with run.begin(schema.GRAPH) as new:
        Path(new.path).mkdir(parents=True, exist_ok=True)
        for prefix, table_schema, rows, parts in (
            (schema.EDGES, schema.EDGE_SCHEMA, edges, files),
            (schema.QUERIES, schema.QUERY_SCHEMA, queries, 1),
            (schema.NODES, schema.NODE_SCHEMA, nodes, 1),
        ):
            for index in range(parts):
                table = pa.Table.from_pylist(rows[index::parts], table_schema)
                name = schema.shard_name(prefix, index, parts, "parquet")
                pq.write_table(table, new.file(name))
        return new.commit({})


def embedded() -> beam.Pipeline:
    """A pipeline for the runner of one process."""
    return make_pipeline(RunnerConfig())


def build(
    folder: Path,
    world: World,
    *,
    shards: int = 1,
    threads: int = 1,
    files: int = 1,
    form: str = "parquet",
    images: Mapping[str, Any] | None = None,
    pipelines: Callable[[], beam.Pipeline] = embedded,
    **examples: Any,
) -> Version:
    """The examples of a world, as a committed version of a run directory below `folder`.

    Without pieces of words, unless asked for: to trace those is a quarter of the time.
    """
    write_catalog(folder / "catalog", world.rows, files=files, form=form)
    run = RunDir.open(str(folder / "run"))
    graph = write_graph(run, world, files=files)
    settings = {"path": str(folder / "catalog"), "image_size": SIDE, **(images or {})}
    with run.begin(schema.EXAMPLES) as new:
        manifest = build_examples(
            images=ImagesConfig(**settings),
            examples=ExamplesConfig(**{"subword_length": 0, **examples}),
            seed=SEED,
            graph=graph,
            out=new,
            shards=shards,
            make_pipeline=pipelines,
            threads=threads,
        )
        return new.commit(manifest)


# From files ---------------------------------------------------------------------------------------


def serialized(version: Version, split: str) -> list[bytes]:
    """The records of a split, in the order of its files, as TensorFlow reads them."""
    compression = "GZIP" if version.manifest["compression"] == "gzip" else ""
    dataset = tf.data.TFRecordDataset(version.shards(split), compression_type=compression)
    return list(dataset.as_numpy_iterator())


def plain(example: tf.train.Example) -> dict[str, list]:
    """{feature: its values} of an example; a feature it has without a value is an empty list."""
    kinds = ("bytes_list", "float_list", "int64_list")
    return {
        name: [value for kind in kinds for value in getattr(feature, kind).value]
        for name, feature in example.features.feature.items()
    }


def examples_of(version: Version, split: str) -> dict[str, dict[str, list]]:
    """{image_id: {feature: its values}} of a split, in order."""
    found = [plain(tf.train.Example.FromString(record)) for record in serialized(version, split)]
    return {example["image_id"][0].decode(): example for example in found}


def everything(version: Version) -> dict[str, dict[str, list]]:
    """`examples_of` of all splits."""
    return {
        k: example for split in schema.SPLITS for k, example in examples_of(version, split).items()
    }


def neighbor_ids(example: Mapping[str, list]) -> list[str]:
    """The neighbours of an example, from the strongest on, in either layout."""
    slots = (example.get(schema.neighbor_feature(i, "image_id"), ()) for i in range(len(example)))
    found = example.get(schema.COMPACT_PREFIX + "image_id") or [i for slot in slots for i in slot]
    return [image_id.decode() for image_id in found]


def node_labels(example: Mapping[str, list]) -> Iterator[tuple[str, int, list[int]]]:
    """(id, `label`, `labels`) of the seed and of every neighbour, in either layout."""
    yield example["image_id"][0].decode(), example["label"][0], list(example.get("labels", ()))
    counts = iter(example.get(schema.COMPACT_LABEL_COUNTS.name, ()))
    rest = iter(example.get(schema.COMPACT_PREFIX + "labels", ()))
    for slot, image_id in enumerate(neighbor_ids(example)):
        name = schema.neighbor_feature(slot, "label")
        if name in example:
            labels = example.get(schema.neighbor_feature(slot, "labels"), ())
            yield image_id, example[name][0], list(labels)
        else:
            label = example[schema.COMPACT_PREFIX + "label"][slot]
            yield image_id, label, [next(rest) for _ in range(next(counts, 0))]
