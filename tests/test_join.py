"""The join of graph and catalog gives the examples of a dictionary, in shards or not.

The functions of the job are called in its order, on real files; a few lines stand for Beam's
shuffle between them.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schema
from pipeline.config import SplitConfig
from pipeline.examples import coverage, neighbors, records, settle, vocabularies
from pipeline.examples.nodes import NodeFiles
from pipeline.examples.places import Places
from pipeline.examples.prepare import PREPARED_SCHEMA
from pipeline.parallel import Outcome
from pipeline.tables.framing import read_records

CLASSES = ["cat", "dog", "owl"]  # "rare" is a label that the vocabulary lacks
FILES = {"train": 3, "validation": 2, "test": 1}
SEED = 5
# Any character but NUL and newline.
IDS = st.text(st.characters(exclude_characters="\x00\n", codec="utf-8"), min_size=1, max_size=4)
LABELS = st.none() | st.lists(
    st.sampled_from([*CLASSES, "rare"]), min_size=1, max_size=2, unique=True
)

Edge = tuple[str, str, int, float]  # src, dst, rank, weight


class World(NamedTuple):
    """A catalog and a graph."""

    images: dict[str, dict]  # {id: what the catalog says of it}
    edges: list[Edge]  # in any order
    sessions: dict[str, int]  # of the graph's images


class Made(NamedTuple):
    """What the join makes of them."""

    files: list[bytes]  # the content of each
    counts: Counter[str]
    coverage: list[dict]


class Setting(NamedTuple):
    """How it is made."""

    shards: int = 1
    neighbors: int = 2
    relative: bool = False
    layout: schema.Layout = "nsl"
    record_bytes: int = 1


@st.composite
def worlds(draw: st.DrawFn) -> World:
    ids = draw(st.lists(IDS, min_size=1, max_size=9, unique=True))
    known = draw(st.integers(0, len(ids)))
    images = {
        image_id: {
            "image": draw(st.binary(max_size=5)),
            "label": draw(LABELS),
            "split": draw(st.sampled_from(schema.SPLITS)),
        }
        for image_id in ids[:known]
    }
    edges = []
    for src in ids:
        ends = draw(st.lists(st.sampled_from(ids), max_size=6, unique=True))
        weights = draw(st.lists(st.floats(0.01, 1e6), min_size=len(ends), max_size=len(ends)))
        ranked = zip(ends, sorted(weights, reverse=True), strict=True)
        edges += [(src, end, rank, weight) for rank, (end, weight) in enumerate(ranked, 1)]
    sessions = {i: draw(st.integers(1, 3)) for i in ids if draw(st.booleans())}
    return World(images, draw(st.permutations(edges)), sessions)


SETTINGS = st.builds(
    Setting,
    shards=st.integers(1, 5),
    neighbors=st.integers(0, 8),
    relative=st.booleans(),
    layout=st.sampled_from(["nsl", "compact"]),
    # From one seed a block to all in one.
    record_bytes=st.sampled_from([1, 8 << 20, 16 << 20, 32 << 20]),
)


# The job, without Beam --------------------------------------------------------------------------


def shuffle(
    inputs: Mapping[str, Iterable[tuple[int, pa.Table]]], every: int = 0
) -> list[tuple[int, Any]]:
    """(shard, {kind: its tables}), the last shard and the last table first."""
    shards: dict[int, dict[str, list[pa.Table]]] = defaultdict(lambda: {k: [] for k in inputs})
    for shard in range(every):
        shards[shard]["every"] = [pa.table({})]
    for kind, keyed in inputs.items():
        for shard, table in keyed:
            shards[shard][kind].insert(0, table)
    return sorted(shards.items(), reverse=True)


class Outputs:
    """What the functions of a step gave, by tag; their counters go to `counts`."""

    def __init__(self, outcomes: Iterable[Outcome], counts: Counter[str]) -> None:
        self._by_tag: dict[str, list[Any]] = defaultdict(list)
        for outcome in outcomes:
            counts.update(outcome.counts)
            for tag, value in outcome.outputs:
                self._by_tag[tag].append(value)

    def __getitem__(self, tag: str) -> list[Any]:
        return self._by_tag[tag]


def make(world: World, setting: Setting, transform: str) -> Made:
    with tempfile.TemporaryDirectory() as folder:
        return _make(world, setting, transform, folder)


def _make(world: World, setting: Setting, transform: str, folder: str) -> Made:
    places = Places(SEED, setting.shards)
    settle_images(world, places, folder)
    files = NodeFiles(folder, transform, setting.shards, None)
    options = neighbors.JoinOptions(files, places, setting.neighbors, setting.relative, 1)
    counts: Counter[str] = Counter()
    placed = [part for table in edge_tables(world) for part in neighbors.with_places(table, places)]
    marked = Outputs((neighbors.mark_known(e, options) for e in shuffle({"edges": placed})), counts)
    chosen = Outputs(
        (
            neighbors.choose_neighbors(element, options)
            for element in shuffle({"edges": marked["edges"]}, setting.shards)
        ),
        counts,
    )
    asked = shuffle({kind: chosen[kind] for kind in ("adjacency", "requests")})
    replies = Outputs((neighbors.serve_neighbors(e, options) for e in asked), counts)["replies"]
    record_options = records.RecordOptions(
        nodes=files,
        spec=schema.ExampleSpec(setting.neighbors, layout=setting.layout, multi_label=True),
        files=FILES,
        target=folder,
        compression="none",
        record_bytes=setting.record_bytes,
        threads=1,
    )
    seeds = shuffle({"adjacency": chosen["adjacency"], "replies": replies}, setting.shards)
    return Made(
        write(seeds, record_options, counts),
        counts,
        coverage.add_up(pa.concat_tables(table for _, table in chosen["coverage"])).to_pylist(),
    )


def write(seeds: list[Any], options: records.RecordOptions, counts: Counter[str]) -> list[bytes]:
    """The content of each file."""
    blocks = (block for element in seeds for block in records.read_blocks(element, options))
    parts = Outputs((records.encode_block(block, options=options) for block in blocks), counts)
    joined = shuffle({"records": parts["records"]}, len(options.files_in_order))
    written = Outputs((records.write_file(e, options=options) for e in joined), counts)["written"]
    return [Path(path).read_bytes() for path in sorted(written, key=file_order)]


def file_order(path: str) -> tuple[int, str]:
    name = Path(path).name
    return schema.SPLITS.index(name.split("-")[0]), name


def settle_images(world: World, places: Places, folder: str) -> None:
    rows = [{"image_id": image_id, **image} for image_id, image in world.images.items()]
    images = pa.Table.from_pylist(rows, schema=PREPARED_SCHEMA)
    nodes = pa.table(
        {
            "image_id": pa.array(world.sessions, pa.string()),
            "sessions": pa.array(world.sessions.values(), pa.int64()),
        }
    )
    options = settle.SettleOptions(folder, places, SplitConfig(), texts=0, captions=False)
    parts = {
        kind: list(places.split(table, places.of(table["image_id"])))
        for kind, table in (("images", images), ("nodes", nodes))
    }
    for element in shuffle({**parts, "queries": []}, places.shards):
        settle.settle_shard(element, options)


def edge_tables(world: World) -> Iterable[pa.Table]:
    """The edges as two files have them."""
    names = ("src", "dst", "rank", "weight")
    types = [schema.EDGE_SCHEMA.field(name) for name in names]
    for part in (world.edges[::2], world.edges[1::2]):
        rows = [dict(zip(names, edge, strict=True)) for edge in part]
        yield pa.Table.from_pylist(rows, schema=pa.schema(types))


@pytest.fixture(scope="module")
def transform(tmp_path_factory) -> str:
    """The folder of a transform that knows CLASSES."""
    folder = tmp_path_factory.mktemp("transform")
    assets = folder / "transform_fn" / "assets"
    assets.mkdir(parents=True)
    counts = pa.table(
        [pa.array([0] * 3, pa.int8()), pa.array(CLASSES).cast(pa.large_binary()), [3, 2, 1]],
        names=["vocabulary", "entry", "count"],
    )
    vocabularies.write(counts, [vocabularies.Vocabulary("labels")], str(assets))
    return str(folder)


# The reference, in plain Python -----------------------------------------------------------------


class Reference:
    """The same from dictionaries, an image after the other."""

    def __init__(self, world: World, setting: Setting) -> None:
        self.world, self.setting = world, setting
        self.out: dict[str, list[tuple[str, float]]] = {image_id: [] for image_id in world.images}
        for src, dst, _, weight in sorted(world.edges, key=lambda edge: edge[2]):
            if src in world.images and dst in world.images and src != dst:
                self.out[src].append((dst, weight))
        for src, ends in self.out.items():
            largest = ends[0][1] if ends and setting.relative else 1.0
            self.out[src] = [(dst, float(np.float32(weight / largest))) for dst, weight in ends]

    def near(self, image_id: str) -> list[tuple[str, float]]:
        return self.out[image_id][: self.setting.neighbors]

    def edges(self, image_id: str) -> list[tuple[int, int, float]]:
        """(sender, receiver, weight) among an image and its neighbours."""
        nodes = [image_id, *(dst for dst, _ in self.near(image_id))]
        return sorted(
            (sender, nodes.index(dst), weight)
            for sender, src in enumerate(nodes)
            for dst, weight in self.out[src]
            if dst in nodes
        )

    def labels(self, image_id: str) -> list[int]:
        """Places of the labels that are in the vocabulary."""
        labels = self.world.images[image_id]["label"] or []
        return [CLASSES.index(label) for label in labels if label in CLASSES]

    def node(self, image_id: str) -> dict[str, list]:
        image = self.world.images[image_id]
        labels = self.labels(image_id) if image["split"] == "train" else []
        found = {"image_id": [image_id.encode()], "image": [image["image"]], "labels": labels}
        return found | {"label": labels[:1] or [-1]}

    def example(self, image_id: str) -> dict[str, list]:
        """The features of an example in the layout `nsl`."""
        found = self.node(image_id)
        if self.world.images[image_id]["split"] != "train":
            labels = self.labels(image_id)
            found |= {"heldout_label": labels[:1] or [-1], "heldout_labels": labels}
        if self.setting.neighbors:
            near, edges = self.near(image_id), self.edges(image_id)
            found["NL_num_nbrs"] = [len(near)]
            for part, name in enumerate(("senders", "receivers", "weights")):
                found[f"graph_{name}"] = [edge[part] for edge in edges]
            found |= self.neighbors(near)
        return {name: values for name, values in found.items() if values}

    def neighbors(self, near: list[tuple[str, float]]) -> dict[str, list]:
        nodes = [self.node(dst) for dst, _ in near]
        if self.setting.layout == "nsl":
            slots = range(self.setting.neighbors)
            weights = [weight for _, weight in near] + [0.0] * (len(slots) - len(near))
            found = {f"NL_nbr_{i}_weight": [weights[i]] for i in slots}
            for i, node in enumerate(nodes):
                found |= {f"NL_nbr_{i}_{name}": values for name, values in node.items()}
            return found
        return {
            "nbr_weight": [weight for _, weight in near],
            "nbr_num_labels": [len(node["labels"]) for node in nodes],
            **{
                f"nbr_{name}": [value for node in nodes for value in node[name]]
                for name in ("image_id", "image", "label", "labels")
            },
        }

    def split(self, split: str) -> list[dict[str, list]]:
        """The examples of a split, in order."""
        ids = [i for i, image in self.world.images.items() if image["split"] == split]
        return [self.example(i) for i in sorted(ids, key=lambda i: place(i))]

    def counts(self) -> dict[str, int]:
        world, edges = self.world, self.world.edges
        kept = sum(len(ends) for ends in self.out.values())
        touching = sum(src in world.images or dst in world.images for src, dst, _, _ in edges)
        return {
            "edges": len(edges),
            "edges touching": touching,
            "edges skipped": len(edges) - kept,
            "edges among": sum(len(self.edges(i)) for i in world.images),
            "known labels": sum(len(self.labels(i)) for i in world.images),
            **Counter(f"neighbors/{len(self.near(i))}" for i in world.images),
            **Counter(f"records/{image['split']}" for image in world.images.values()),
        }

    def coverage(self) -> Counter:
        """{(sessions, neighbours): images}; of plain examples whether there is one."""
        most = max(1, self.setting.neighbors)
        return Counter(
            (self.world.sessions.get(i), len(self.out[i][:most])) for i in self.world.images
        )


def place(image_id: str) -> int:
    return int(Places(SEED, 1).of(pa.array([image_id]))[0])


def examples_of(made: Made) -> dict[str, list[dict[str, list]]]:
    """{split: the features of its examples, in the order of its files}."""
    content, found = iter(made.files), {}
    for split in schema.SPLITS:
        data = b"".join(next(content) for _ in range(FILES[split]))
        found[split] = [parse(record) for record in read_records(io.BytesIO(data), split)]
    return found


def parse(record: bytes) -> dict[str, list]:
    features = tf.train.Example.FromString(record).features.feature
    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in features.items()
    }


# Tests ------------------------------------------------------------------------------------------


@given(world=worlds(), setting=SETTINGS)
@settings(max_examples=70, deadline=None)
def test_examples_counters_and_coverage_are_those_of_a_dictionary(world, setting, transform):
    made, expected = make(world, setting, transform), Reference(world, setting)
    assert examples_of(made) == {split: expected.split(split) for split in schema.SPLITS}
    found = {name: n for name, n in made.counts.items() if n and not name.startswith("bytes/")}
    assert found == {name: n for name, n in expected.counts().items() if n}
    rows = {(row["sessions"], row["neighbors"]): row["images"] for row in made.coverage}
    assert rows == expected.coverage()
    for split in schema.SPLITS:
        files = [f for f, name in zip(made.files, file_splits(), strict=True) if name == split]
        assert made.counts[f"bytes/{split}"] == sum(len(content) for content in files)


def file_splits() -> list[str]:
    return [split for split in schema.SPLITS for _ in range(FILES[split])]


@given(world=worlds(), setting=SETTINGS, data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_files_do_not_depend_on_shards_blocks_or_order(world, setting, data, transform):
    other = setting._replace(
        shards=data.draw(st.integers(1, 5).filter(lambda n: n != setting.shards)),
        record_bytes=data.draw(st.sampled_from([1, 8 << 20, 32 << 20])),
    )
    shuffled = World(
        dict(data.draw(st.permutations(list(world.images.items())))),
        data.draw(st.permutations(world.edges)),
        world.sessions,
    )
    assert make(world, setting, transform) == make(shuffled, other, transform)


def catalog(*ids: str) -> dict[str, dict]:
    return {i: {"image": b"", "label": None, "split": "train"} for i in ids}


def test_weights_are_divided_by_the_strongest_edge_that_stays(transform):
    # The strongest edge of a leads to no image of the catalog.
    edges = [("a", "gone", 1, 8.0), ("a", "b", 2, 4.0), ("a", "c", 3, 1.0)]
    world = World(catalog("a", "b", "c"), edges, {})
    made = make(world, Setting(relative=True), transform)
    found = {row["image_id"][0]: row for row in examples_of(made)["train"]}
    weights = [found[b"a"][f"NL_nbr_{i}_weight"][0] for i in range(2)]
    assert weights == [1.0, 0.25]


def test_places_are_kept_for_edges_that_stay_when_others_are_left_out(transform):
    edges = [("a", "a", 1, 9.0), ("a", "gone", 2, 8.0), ("a", "b", 3, 4.0), ("gone", "a", 1, 1.0)]
    made = make(World(catalog("a", "b"), edges, {}), Setting(neighbors=1), transform)
    found = {row["image_id"][0]: row for row in examples_of(made)["train"]}
    assert found[b"a"]["NL_nbr_0_image_id"] == [b"b"]
    assert (made.counts["edges skipped"], made.counts["edges touching"]) == (3, 4)


@pytest.mark.parametrize("weight", [1e-60, 1e60])
def test_weights_beyond_32_bits_are_still_neighbors_of_a_finite_weight(weight, transform):
    edges = [("a", "b", 1, weight)]
    made = make(World(catalog("a", "b"), edges, {}), Setting(neighbors=1), transform)
    found = {row["image_id"][0]: row for row in examples_of(made)["train"]}
    assert found[b"a"]["NL_num_nbrs"] == [1]
    assert 0 < found[b"a"]["NL_nbr_0_weight"][0] < float("inf")
