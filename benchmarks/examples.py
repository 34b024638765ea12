"""Claim: the examples are written faster than by the ways there were, in memory that is bounded.

Makes a catalog and a graph (seeded, kept in the work folder), runs imgembed and its competitors on
the same two cores, each in a process of its own, compares what they wrote record by record, and
prints what each took. Records that disagree are an error. The figures also go to WORK.json.

    python benchmarks/examples.py [--photos images.zip] [--images 50000] [--repeat 2]
    python benchmarks/examples.py --variants --encodings --input-wait

The catalog: JPEGs of 64 x 64 pixels in one Parquet file, cut at random out of the photos of a zip
archive, without one drawn as smooth colour fields with shapes; a caption, a label and a split each;
ten out-edges each, within groups of a hundred and by Zipf's law, so that some images are the
neighbours of many.

The competitors do the whole job: decode, resize and encode each picture, make the vocabularies of
labels and tokens and the channel statistics, join five neighbours and the edges among them, write.
    imgembed  the command that a user types; the graph is there before, as it is for the others
    nsl       neural-structured-learning's way, after its pack_nbrs: one process, Pillow, all
              examples parsed into one dict, every feature of a neighbour copied, one file
    tf.data   pictures through a parallel map of tf.data, all of them held in memory, and a loop in
              plain Python that makes and writes the records

All have the same JPEGs of quality 95 without loss of colour, none packs them a second time. Without
flags the competitors run, at a quarter of the images as well (what the difference takes is the
marginal cost, free of imports and the making of pipelines), and a profile of imgembed is taken.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import io
import itertools
import json
import operator
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import measuring
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from measuring import Run, Usage, take_turns
from PIL import Image, ImageDraw

# What the catalog holds.
SIDE, OUT_EDGES, GROUP = 64, 10, 100
CLASSES, WORDS, PHOTOS = 50, 2_000, 1_000
WORDS_OF_TEXT = (3, 9)  # of a caption: at least, and fewer than
UNLABELLED, WITHOUT_TEXT = 0.1, 0.1  # shares of the images
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SOURCE_QUALITY = 90
FIELD, FIELD_NOISE = 6, 8.0  # control points a side of a drawn colour field; grain of 0 to 255
CATALOG_VERSION = 1  # in the file's name: a catalog of an older generator is not taken for this one
BLOCK = 1_000  # rows

# What every competitor is asked for.
NEIGHBORS, ENCODING, QUALITY, SUBWORD = 5, "jpeg", 95, 3
NO_LABEL = -1

CORES = 2
SMALL = 0.25  # of the images, for the marginal cost
PACKAGES = ("apache-beam", "numpy", "pillow", "pyarrow", "tensorflow")
PIXEL_TOLERANCE = 2.0  # mean difference of two decoders' pictures, of 255
STATISTICS_TOLERANCE = 0.05  # of means and deviations, of 255
PROFILE_SECONDS = 0.01  # between two looks at the threads

# What is wanted.
LEAST_FACTOR = 1.0  # images/s of imgembed / of the faster competitor
MOST_GROWTH = 1.25  # of memory, from a quarter of the catalog to twice it
LEAST_SHARE = 0.95  # of the time after start-up: pictures, join and writing
MOST_WAIT = 0.1  # share of a training step that waits for input

# ---------------------------------------------------------------------------------------------
# The catalog and the graph
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Which catalog, and where its files are."""

    work: Path
    images: int
    seed: int
    photos: Path | None

    @property
    def name(self) -> str:
        kind = f"{self.photos.stem}{self.photos.stat().st_size}" if self.photos else "fields"
        return f"{kind}-{self.images}-seed{self.seed}-v{CATALOG_VERSION}"

    @property
    def catalog(self) -> Path:
        """Parquet: image_id, image, label, text, split."""
        return self._file("catalog", ".parquet", write_catalog)

    @property
    def edges(self) -> Path:
        """Parquet: src, dst, weight."""
        return self._file("edges", ".parquet", write_edges)

    @property
    def edges_tsv(self) -> Path:
        """The same as lines, without a header, which is what nsl reads."""
        return self._file("edges", ".tsv", write_edges_tsv)

    @property
    def graph(self) -> Path:
        """A run directory of imgembed with the graph of these edges."""
        folder = self.work / f"graph-{self.name}"
        imgembed("build-graph", "--edges", str(self.edges), "--run-dir", str(folder), "--quiet")
        return folder

    def _file(self, what: str, extension: str, write: Callable[[Path, Data], None]) -> Path:
        """A file in the work folder; made where it is not there yet."""
        path = self.work / f"{what}-{self.name}{extension}"
        if not path.exists():
            print(f"making {path.name}", file=sys.stderr)
            unfinished = path.with_suffix(".unfinished")
            write(unfinished, self)
            unfinished.rename(path)
        return path


def image_ids(images: int) -> np.ndarray:
    """[images] str."""
    return np.array([f"img-{number:07d}" for number in range(images)])


def write_catalog(path: Path, data: Data) -> None:
    """Writes the catalog, a block of rows a row group."""
    draw = np.random.default_rng([data.seed, 0])
    make = cut_out(photos_of(data.photos)) if data.photos else draw_field
    names = ("image_id", "image", "label", "text", "split")
    types = [pa.string(), pa.binary(), *[pa.string()] * 3]
    columns = pa.schema(list(zip(names, types, strict=True)))
    ids = image_ids(data.images)
    with pq.ParquetWriter(path, columns) as file:
        for start in range(0, data.images, BLOCK):
            block = ids[start : start + BLOCK]
            pictures = [to_jpeg(make(draw)) for _ in block]
            drawn = (draw_labels(draw, len(block)), draw_texts(draw, len(block)))
            split = draw.choice(list(SHARES), len(block), p=list(SHARES.values()))
            file.write_table(pa.table([block, pictures, *drawn, split], schema=columns))


def photos_of(archive: Path) -> list[Image.Image]:
    """Evenly spaced photos of a zip archive."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(n for n in file.namelist() if n.lower().endswith((".jpg", ".jpeg", ".png")))
        names = names[:: max(1, len(names) // PHOTOS)][:PHOTOS]
        return [Image.open(io.BytesIO(file.read(name))).convert("RGB") for name in names]


def cut_out(photos: Sequence[Image.Image]) -> Callable[[np.random.Generator], Image.Image]:
    """What cuts a random square out of a random photo."""

    def cut(draw: np.random.Generator) -> Image.Image:
        photo = photos[draw.integers(len(photos))]
        shortest = min(photo.size)
        side = draw.uniform(min(SIDE, shortest), shortest)
        left, top = (draw.uniform(0, length - side) for length in photo.size)
        box = (left, top, left + side, top + side)
        return photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)

    return cut


def draw_field(draw: np.random.Generator) -> Image.Image:
    """Colours that change smoothly, a few shapes, and some grain as of a camera."""
    points = draw.integers(0, 256, (FIELD, FIELD, 3), dtype=np.uint8)
    picture = Image.fromarray(points).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for shape in (pen.ellipse, pen.rectangle):
        left, top, width, height = draw.integers(4, SIDE // 2, 4).tolist()
        colour = tuple(draw.integers(0, 256, 3).tolist())
        shape((left, top, left + width, top + height), fill=colour)
    grain = draw.normal(0, FIELD_NOISE, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def to_jpeg(picture: Image.Image) -> bytes:
    """As it comes into the catalog."""
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=SOURCE_QUALITY)
    return sink.getvalue()


def draw_labels(draw: np.random.Generator, rows: int) -> list[str | None]:
    """One of CLASSES each, some have none."""
    known = draw.random(rows) >= UNLABELLED
    numbers = draw.integers(0, CLASSES, rows)
    return [
        f"class {n:02d}" if is_known else None for n, is_known in zip(numbers, known, strict=True)
    ]


def draw_texts(draw: np.random.Generator, rows: int) -> list[str | None]:
    """Captions of made-up words, drawn by Zipf's law; some images have none."""
    words = np.array(vocabulary())
    shares = np.cumsum(1 / np.arange(1, WORDS + 1))
    lengths = draw.integers(*WORDS_OF_TEXT, rows)
    drawn = words[np.searchsorted(shares / shares[-1], draw.random(int(lengths.sum())))]
    parts = np.split(drawn, np.cumsum(lengths)[:-1])
    known = draw.random(rows) >= WITHOUT_TEXT
    return [
        " ".join(part) if is_known else None for part, is_known in zip(parts, known, strict=True)
    ]


def vocabulary() -> list[str]:
    """WORDS different words of three syllables."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    return ["".join(three) for three in itertools.product(syllables, repeat=3)][:: 7 * 11][:WORDS]


def write_edges(path: Path, data: Data) -> None:
    """Ten out-edges an image to others of its group, the first of which are drawn most often."""
    draw = np.random.default_rng([data.seed, 1])
    ids = image_ids(data.images)
    # The greatest of (Gumbel noise + logarithm of the share) are a draw without replacement.
    score = draw.gumbel(size=(data.images, GROUP)) - np.log(np.arange(1, GROUP + 1))
    numbers = np.arange(data.images)
    score[numbers, numbers % GROUP] = -np.inf
    chosen = np.argpartition(-score, OUT_EDGES, axis=1)[:, :OUT_EDGES]
    dst = (numbers // GROUP * GROUP)[:, None] + chosen
    weight = draw.exponential(size=dst.size) + 0.1
    columns = {"src": np.repeat(ids, OUT_EDGES), "dst": ids[dst.ravel()], "weight": weight}
    pq.write_table(pa.table(columns), path)


def write_edges_tsv(path: Path, data: Data) -> None:
    """The edges as lines of src, dst and weight."""
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    pa.csv.write_csv(pq.read_table(data.edges), path, options)


# ---------------------------------------------------------------------------------------------
# The competitors. Each reads a catalog and edges, writes into a folder, in a process of its own.
# ---------------------------------------------------------------------------------------------


def read_rows(catalog: str) -> Iterator[dict[str, Any]]:
    """The rows of the catalog."""
    for batch in pq.ParquetFile(catalog).iter_batches(BLOCK):
        yield from batch.to_pylist()


@dataclass
class Analysis:
    """What is found in a full pass: vocabularies with counts, and sums over all pixels."""

    labels: collections.Counter[str]  # of the training split
    tokens: collections.Counter[str]
    pictures: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))

    @classmethod
    def of(cls, catalog: str) -> Analysis:
        """The vocabularies of a catalog; pictures are added later."""
        columns = ["label", "text", "split"]
        table = pq.read_table(catalog, columns=columns)
        labels, texts, splits = (table[name].to_pylist() for name in columns)
        words = collections.Counter(word for text in texts if text for word in text.lower().split())
        pieces: collections.Counter[str] = collections.Counter()
        for word, number in words.items():
            framed = f"<{word}>"
            for start in range(len(framed) - SUBWORD + 1):
                pieces["#" + framed[start : start + SUBWORD]] += number
        of_training = (
            label for label, split in zip(labels, splits, strict=True) if label and split == "train"
        )
        return cls(collections.Counter(of_training), words + pieces)

    def label_ids(self) -> collections.defaultdict[str | None, int]:
        """Places in the vocabulary: the most frequent first, equal ones by name; else NO_LABEL."""
        order = sorted(self.labels, key=lambda label: (-self.labels[label], label))
        places = {label: place for place, label in enumerate(order)}
        return collections.defaultdict(lambda: NO_LABEL, places)

    def add(self, pictures: int, sums: np.ndarray, squares: np.ndarray) -> None:
        """Adds the sums over the pixels of some pictures."""
        self.pictures += pictures
        self.sums += sums
        self.squares += squares

    def to_json(self) -> dict[str, Any]:
        pixels = self.pictures * SIDE * SIDE
        means = self.sums / pixels
        deviations = np.sqrt(self.squares / pixels - means**2)
        vocabularies = {"labels": dict(self.labels), "tokens": dict(self.tokens)}
        return {**vocabularies, "means": means.tolist(), "deviations": deviations.tolist()}

    def write(self, out: str) -> None:
        Path(out, "analysis.json").write_text(json.dumps(self.to_json()))


def edges_among(nodes: Sequence[Any], graph: Mapping[Any, Mapping[Any, float]]) -> list[tuple]:
    """(sender, receiver, weight) of all edges among the nodes of an example, by their places."""
    found = []
    for sender, node in enumerate(nodes):
        out_edges = graph.get(node, {})
        for receiver, other in enumerate(nodes):
            if other in out_edges:
                found.append((sender, receiver, out_edges[other]))
    return found


def add_edges(features: Any, edges: Sequence[tuple]) -> None:
    """Puts edges into the features of an example."""
    features["graph_senders"].int64_list.value.extend([edge[0] for edge in edges])
    features["graph_receivers"].int64_list.value.extend([edge[1] for edge in edges])
    features["graph_weights"].float_list.value.extend([edge[2] for edge in edges])


def run_nsl(catalog: str, edges: str, out: str) -> None:
    """Examples of single images, then what pack_nbrs makes of them. edges: lines."""
    import tensorflow as tf

    analysis = Analysis.of(catalog)
    label_ids = analysis.label_ids()
    singles = f"{out}/images.tfrecord"
    with tf.io.TFRecordWriter(singles) as writer:
        for row in read_rows(catalog):
            picture = Image.open(io.BytesIO(row["image"])).convert("RGB")
            picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            analysis.add(1, *channel_sums(picture))
            writer.write(single_example(row, picture, label_ids[row["label"]]).SerializeToString())
    analysis.write(out)
    pack_neighbors(singles, edges, f"{out}/examples.tfrecord")


CHANNEL_VALUES = np.arange(256)


def channel_sums(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the values and of their squares, [3] int64 each."""
    counts = np.array(picture.histogram()).reshape(3, 256)
    return counts @ CHANNEL_VALUES, counts @ CHANNEL_VALUES**2


def single_example(row: Mapping[str, Any], picture: Image.Image, label: int) -> Any:
    """A tf.train.Example of one image."""
    import tensorflow as tf

    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=QUALITY, subsampling=0)
    example = tf.train.Example()
    features = example.features.feature
    features["image_id"].bytes_list.value.append(row["image_id"].encode())
    features["image"].bytes_list.value.append(sink.getvalue())
    add_labels_and_texts(features, row, label)
    return example


def add_labels_and_texts(features: Any, row: Mapping[str, Any], label: int) -> None:
    """Puts into a seed's features what they hold beside the picture: no label outside training."""
    training = row["split"] == "train"
    features["label"].int64_list.value.append(label if training else NO_LABEL)
    if not training:
        features["heldout_label"].int64_list.value.append(label)
    if row["text"]:
        features["text"].bytes_list.value.append(row["text"].encode())
        features["text_weight"].float_list.value.append(1.0)


def pack_neighbors(examples: str, edges: str, target: str) -> None:
    """The steps of pack_nbrs, and the edges among the nodes, which it does not know."""
    import tensorflow as tf

    by_id = {}
    for record in tf.data.TFRecordDataset([examples]):
        example = tf.train.Example()
        example.ParseFromString(record.numpy())
        by_id[example.features.feature["image_id"].bytes_list.value[0].decode()] = example
    graph = read_lines(edges)
    with tf.io.TFRecordWriter(target) as writer:
        for image_id, example in by_id.items():
            writer.write(merge_neighbors(image_id, example, by_id, graph).SerializeToString())


def read_lines(edges: str) -> dict[str, dict[str, float]]:
    """{src: {dst: weight}}; of edges that are there twice the stronger one."""
    graph: dict[str, dict[str, float]] = {}
    with open(edges) as file:
        for line in file:
            src, dst, text = line.rstrip("\n").split("\t")
            out_edges, weight = graph.setdefault(src, {}), float(text)
            if dst not in out_edges or weight > out_edges[dst]:
                out_edges[dst] = weight
    return graph


def merge_neighbors(
    image_id: str,
    example: Any,
    by_id: Mapping[str, Any],
    graph: Mapping[str, Mapping[str, float]],
) -> Any:
    """A copy of the seed's example with every feature of its strongest neighbours."""
    import tensorflow as tf

    known = [(weight, dst) for dst, weight in graph.get(image_id, {}).items() if dst in by_id]
    strongest = sorted(known, reverse=True)[:NEIGHBORS]
    merged = tf.train.Example()
    merged.CopyFrom(example)
    features = merged.features.feature
    features["NL_num_nbrs"].int64_list.value.append(len(strongest))
    for index, (weight, neighbor) in enumerate(strongest):
        prefix = f"NL_nbr_{index}_"
        features[f"{prefix}weight"].float_list.value.append(weight)
        for name, value in by_id[neighbor].features.feature.items():
            features[prefix + name].CopyFrom(value)
    add_edges(features, edges_among([image_id, *(dst for _, dst in strongest)], graph))
    return merged


def run_tf_data(catalog: str, edges: str, out: str) -> None:
    """Pictures in parallel by TensorFlow, the rest in dicts. edges: Parquet."""
    import tensorflow as tf

    analysis = Analysis.of(catalog)
    label_ids = analysis.label_ids()
    rows = pq.read_table(catalog).to_pylist()
    pictures = decode_in_parallel([row["image"] for row in rows], analysis)
    analysis.write(out)
    nodes = {
        row["image_id"]: (
            row["image_id"].encode(),
            picture,
            label_ids[row["label"]] if row["split"] == "train" else NO_LABEL,
        )
        for row, picture in zip(rows, pictures, strict=True)
    }
    table = pq.read_table(edges)
    graph: dict[str, dict[str, float]] = {}
    for src, dst, weight in zip(
        *(table[name].to_pylist() for name in table.column_names), strict=True
    ):
        graph.setdefault(src, {})[dst] = weight
    # The JPEGs are compressed already: level 0, as imgembed has it, makes this one faster as well.
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=0)
    writers = {
        split: tf.io.TFRecordWriter(f"{out}/{split}.tfrecord.gz", options) for split in SHARES
    }
    for row in rows:
        example = plain_example(row, label_ids[row["label"]], nodes, graph)
        writers[row["split"]].write(example)
    for writer in writers.values():
        writer.close()


def decode_in_parallel(images: Sequence[bytes], analysis: Analysis) -> list[bytes]:
    """The pictures decoded, resized and encoded; their sums are added to the analysis."""
    import tensorflow as tf

    def prepare(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pixels = tf.io.decode_jpeg(image, 3, dct_method="INTEGER_ACCURATE")
        pixels = tf.cond(
            tf.reduce_all(tf.shape(pixels)[:2] == SIDE), lambda: pixels, lambda: resize(pixels)
        )
        encoded = tf.io.encode_jpeg(pixels, quality=QUALITY, chroma_downsampling=False)
        values = tf.reshape(tf.cast(pixels, tf.int32), [-1, 3])
        return encoded, tf.reduce_sum(values, 0), tf.reduce_sum(values**2, 0)

    def resize(pixels: tf.Tensor) -> tf.Tensor:
        resized = tf.image.resize(pixels, (SIDE, SIDE), "bicubic", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(images)
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(BLOCK).prefetch(1)
    pictures = []
    for encoded, sums, squares in dataset.as_numpy_iterator():
        pictures += encoded.tolist()
        totals = (part.sum(axis=0, dtype=np.int64) for part in (sums, squares))
        analysis.add(len(encoded), *totals)
    return pictures


# The names of a neighbour's features, made once.
SLOTS = [
    tuple(f"NL_nbr_{index}_{name}" for name in ("weight", "image_id", "image", "label"))
    for index in range(NEIGHBORS)
]


def plain_example(
    row: Mapping[str, Any],
    label: int,
    nodes: Mapping[str, tuple[bytes, bytes, int]],
    graph: Mapping[str, Mapping[str, float]],
) -> bytes:
    """A seed with its strongest neighbours, serialized. nodes: {id: (id, picture, label)}."""
    import tensorflow as tf

    out_edges = graph.get(row["image_id"], {})
    known = [item for item in out_edges.items() if item[0] in nodes]
    strongest = sorted(known, key=operator.itemgetter(1), reverse=True)[:NEIGHBORS]
    example = tf.train.Example()
    features = example.features.feature
    image_id, picture, _ = nodes[row["image_id"]]
    features["image_id"].bytes_list.value.append(image_id)
    features["image"].bytes_list.value.append(picture)
    add_labels_and_texts(features, row, label)
    features["NL_num_nbrs"].int64_list.value.append(len(strongest))
    for names, (dst, weight) in zip(SLOTS, strongest, strict=False):
        neighbor_id, picture, neighbor_label = nodes[dst]
        features[names[0]].float_list.value.append(weight)
        features[names[1]].bytes_list.value.append(neighbor_id)
        features[names[2]].bytes_list.value.append(picture)
        features[names[3]].int64_list.value.append(neighbor_label)
    add_edges(features, edges_among([row["image_id"], *(dst for dst, _ in strongest)], graph))
    return example.SerializeToString()


COMPETITORS = ("nsl", "tf.data")


def program() -> str:
    """The installed command."""
    return str(Path(sys.executable).with_name("imgembed"))


def imgembed(*arguments: str) -> None:
    """Runs a command that is not measured; SystemExit with what it said where it fails."""
    done = subprocess.run([program(), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"imgembed {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def self_run(name: str, *arguments: object) -> list[str]:
    """The command line that runs one of RUNS in a process of its own."""
    return [sys.executable, __file__, "--run", name, *map(str, arguments)]


def run_of(name: str, data: Data, out: Path, sets: Sequence[str] = ()) -> Run:
    """A competitor, or imgembed. sets: further settings of imgembed."""
    inputs = [data.catalog, data.edges]
    if name == "imgembed":
        command = [program(), *build_arguments(data.catalog, data.edges, out, sets)]
        return Run(command, out, inputs, copy_of(data.graph))
    edges = data.edges_tsv if name == "nsl" else data.edges
    return Run(self_run(name, data.catalog, edges, out), out, [data.catalog, edges])


def build_arguments(
    catalog: object, edges: object, out: object, sets: Sequence[str] = ()
) -> list[str]:
    """What imgembed is called with."""
    settings = [f"examples.image_encoding={ENCODING}", f"examples.neighbors={NEIGHBORS}", *sets]
    options = [word for setting in settings for word in ("--set", setting)]
    paths = [
        "--edges",
        str(edges),
        "--images",
        str(catalog),
        "--run-dir",
        str(Path(str(out), "run")),
    ]
    return ["build-graph", *paths, *options]


def copy_of(graph: Path) -> Callable[[Path], object]:
    """What puts a run directory with the graph into a run's folder."""
    return lambda out: shutil.copytree(graph, out / "run")


def check_up_to_date(out: Path) -> None:
    """SystemExit where imgembed made the graph as well: that is not what is measured."""
    said = (out / "said.txt").read_text(errors="replace")
    if "is up to date" not in said:
        raise SystemExit(f"imgembed made the graph anew; it said:\n{said}")


# ---------------------------------------------------------------------------------------------
# Comparing what was written
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What a record says. split: None where its file does not tell."""

    split: str | None
    labels: tuple[int, ...]  # of the seed, held out, of the neighbours
    texts: tuple[bytes, ...]
    neighbors: tuple[bytes, ...]
    weights: tuple[float, ...]
    edges: tuple[tuple[int, int, float], ...]
    picture: bytes
    neighbor_pictures: tuple[int, ...]  # hashes


def read_records(files: Mapping[str, str | None], compression: str) -> dict[bytes, Seen]:
    """{image id: record}. files: {path: split}."""
    import tensorflow as tf

    found = {}
    for path, split in files.items():
        for record in tf.data.TFRecordDataset(path, compression).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            image_id = features["image_id"].bytes_list.value[0]
            if image_id in found:
                raise SystemExit(f"{path}: {image_id!r} is there twice")
            found[image_id] = to_seen(features, split)
    return found


def to_seen(features: Any, split: str | None) -> Seen:
    """A record's features; those that imgembed does not write are passed over."""
    slots = SLOTS[: features["NL_num_nbrs"].int64_list.value[0]]
    numbers = [features[name].int64_list.value for name in ("graph_senders", "graph_receivers")]
    label_names = ("label", "heldout_label", *(slot[3] for slot in slots))
    return Seen(
        split=split,
        labels=tuple((*features[name].int64_list.value, NO_LABEL)[0] for name in label_names),
        texts=tuple(features["text"].bytes_list.value),
        neighbors=tuple(features[slot[1]].bytes_list.value[0] for slot in slots),
        weights=tuple(features[slot[0]].float_list.value[0] for slot in slots),
        edges=tuple(zip(*numbers, features["graph_weights"].float_list.value, strict=True)),
        picture=features["image"].bytes_list.value[0],
        neighbor_pictures=tuple(hash(features[slot[2]].bytes_list.value[0]) for slot in slots),
    )


COMPARED = ("split", "labels", "texts", "neighbors", "weights", "edges")


def compare(ours: Mapping[bytes, Seen], theirs: Mapping[bytes, Seen]) -> list[str]:
    """How two sets of records differ: a line a kind of difference, with an example."""
    if ours.keys() != theirs.keys():
        example = min(ours.keys() ^ theirs.keys())
        return [f"{len(ours):,} and {len(theirs):,} images; only one has {example!r}"]
    kinds: dict[str, list[bytes]] = {}
    for image_id, mine in ours.items():
        for kind in differences(mine, theirs[image_id]):
            kinds.setdefault(kind, []).append(image_id)
    return [
        f"{len(ids):,} records with other {kind}, such as {ids[0]!r}: "
        f"{getattr(ours[ids[0]], kind)!r:.200}, not {getattr(theirs[ids[0]], kind)!r:.200}"
        for kind, ids in kinds.items()
    ]


def differences(mine: Seen, other: Seen) -> Iterator[str]:
    """The fields in which two records do not say the same."""
    for name in COMPARED:
        value = getattr(other, name)
        if value is not None and value != getattr(mine, name):
            yield name
    if (
        mine.picture != other.picture
        and pixel_distance(mine.picture, other.picture) > PIXEL_TOLERANCE
    ):
        yield "picture"


def pixel_distance(one: bytes, other: bytes) -> float:
    """The mean difference of two JPEGs, of 255."""
    pixels = (np.asarray(Image.open(io.BytesIO(data)), np.int16) for data in (one, other))
    return float(np.abs(np.subtract(*pixels)).mean())


def check_pictures(records: Mapping[bytes, Seen]) -> list[str]:
    """Whether the neighbours' pictures are those that the neighbours have as seeds."""
    hashes = {image_id: hash(seen.picture) for image_id, seen in records.items()}
    wrong = [
        image_id
        for image_id, seen in records.items()
        if seen.neighbor_pictures != tuple(map(hashes.get, seen.neighbors))
    ]
    return [f"{len(wrong):,} records with a wrong picture of a neighbour"] if wrong else []


def compare_analyses(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """How vocabularies and statistics differ."""
    found = [f"other {name}" for name in ("labels", "tokens") if ours[name] != theirs[name]]
    return found + [
        f"{name} {ours[name]}, not {theirs[name]}"
        for name in ("means", "deviations")
        if np.abs(np.subtract(ours[name], theirs[name])).max() > STATISTICS_TOLERANCE
    ]


def current(out: Path) -> Path:
    """The examples that imgembed wrote."""
    stage = out / "run" / "examples"
    return stage / (stage / "CURRENT").read_text().strip()


def our_files(out: Path) -> dict[str, str | None]:
    """{path: split} of the files that imgembed wrote."""
    paths = sorted(current(out).glob("*.tfrecord*"))
    return {str(path): path.name.split("-")[0] for path in paths}


def their_records(name: str, out: Path) -> dict[bytes, Seen]:
    """The records of a competitor."""
    if name == "nsl":
        return read_records({str(out / "examples.tfrecord"): None}, "")
    return read_records({str(out / f"{split}.tfrecord.gz"): split for split in SHARES}, "GZIP")


def our_analysis(out: Path) -> dict[str, Any]:
    """Vocabularies and statistics as imgembed's transform holds them."""
    import tensorflow as tf
    import tensorflow_transform as tft

    folder = str(current(out) / "transform")
    output = tft.TFTransformOutput(folder)
    vocabularies = {name: read_vocabulary(output, name) for name in ("labels", "tokens")}
    nothing = tf.RaggedTensor.from_row_splits(
        tf.constant([], tf.string), tf.constant([0, 0], tf.int64)
    )
    zeros = tf.zeros([1, 3], tf.int64)
    inputs = {"label": nothing, "text": nothing, "channel_sums": zeros, "channel_squares": zeros}
    values = output.transform_features_layer()(inputs)
    names = ("means", "deviations")
    statistics = {name: values[f"channel_{name}"].numpy()[0].tolist() for name in names}
    return {**vocabularies, **statistics}


def read_vocabulary(output: Any, name: str) -> dict[str, int]:
    """{entry: how often it occurs}."""
    paths = [Path(output.vocabulary_file_by_name(file)) for file in (name, f"{name}_counts")]
    entries, counts = (path.read_text().splitlines() for path in paths)
    return dict(zip(entries, map(int, counts), strict=True))


def check_agreement(outs: Mapping[str, Path]) -> int:
    """How many records all agree on; SystemExit with every disagreement."""
    print("comparing", file=sys.stderr)
    ours, analysis = (
        read_records(our_files(outs["imgembed"]), "GZIP"),
        our_analysis(outs["imgembed"]),
    )
    problems = {"imgembed": check_pictures(ours)}
    for name in COMPETITORS:
        theirs = their_records(name, outs[name])
        written = json.loads((outs[name] / "analysis.json").read_text())
        problems[name] = compare(ours, theirs) + check_pictures(theirs)
        problems[name] += compare_analyses(analysis, written)
    lines = [f"{name}: {problem}" for name, found in problems.items() for problem in found]
    if lines:
        raise SystemExit("the results disagree\n" + "\n".join(lines))
    return len(ours)


# ---------------------------------------------------------------------------------------------
# Where imgembed's time goes
# ---------------------------------------------------------------------------------------------

# A step by the files its code is in; the innermost one of a stack counts.
PICTURES, JOIN, WRITE, TRANSFORM = "read, decode, resize, encode", "join", "write", "transform"
STEPS = {
    PICTURES: ("examples/prepare.py", "examples/decoding.py", "examples/catalog/"),
    JOIN: (
        *(f"examples/{name}.py" for name in ("settle", "neighbors", "coverage", "subgraphs")),
        *(f"examples/{name}.py" for name in ("nodes", "places", "spill")),
        "pipeline/reading.py",
    ),
    WRITE: (
        *(f"examples/{name}.py" for name in ("records", "layouts", "wire")),
        "tables/framing.py",
    ),
    TRANSFORM: (
        *(f"examples/{name}.py" for name in ("transform", "vocabularies", "words")),
        "tensorflow_transform/",
        "tfx_bsl/",
    ),
}
BETWEEN = "pipeline/columnar.py"  # tables on their way from one step to another: a part of the join
START, BEAM, NATIVE, WAITING = "start-up, manifest", "Beam", "threads without Python", "waiting"
AFTER_START = (PICTURES, JOIN, WRITE, TRANSFORM, BEAM, NATIVE)


class Sampler(threading.Thread):
    """Looks at all threads every few milliseconds; what each has worked since goes to its step.

    cpu, wall: seconds by step. The wall time between two looks is divided like the work that was
    done in it; where that was less than one core's, the rest is WAITING.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.cpu: collections.Counter[str] = collections.Counter()
        self.wall: collections.Counter[str] = collections.Counter()
        self._done = threading.Event()
        self._main = threading.main_thread().ident
        self._worked: dict[int, float] = {}
        self._looked = time.monotonic()

    def run(self) -> None:
        while not self._done.wait(PROFILE_SECONDS):
            self._look()

    def stop(self) -> None:
        """Ends it."""
        self._done.set()
        self.join()

    def _look(self) -> None:
        steps, now = self._steps_of_threads(), time.monotonic()
        passed, self._looked = now - self._looked, now
        worked: collections.Counter[str] = collections.Counter()
        for task, step in steps.items():
            seconds = worked_by(task)
            worked[step] += max(0.0, seconds - self._worked.get(task, 0.0))
            self._worked[task] = seconds
        total = sum(worked.values())
        self.cpu.update(worked)
        for step, seconds in worked.items():
            self.wall[step] += seconds * passed / max(total, passed)
        self.wall[WAITING] += passed - min(total, passed)

    def _steps_of_threads(self) -> dict[int, str]:
        """{id of a thread or child process: what it is at}."""
        frames = sys._current_frames()
        known = {thread.native_id: thread.ident for thread in threading.enumerate()}
        steps = {}
        for folder in Path("/proc/self/task").iterdir():
            task = int(folder.name)
            frame = frames.get(known.get(task, 0) or 0)
            if task != self.native_id:
                steps[task] = step_of(frame, known[task] == self._main) if frame else NATIVE
            for child in measuring.read_proc(folder / "children").split():
                steps[int(child)] = PICTURES  # the processes that decode
        return steps


def worked_by(task: int) -> float:
    """CPU seconds of a thread, or of a process of one thread; 0 where it has ended."""
    fields = measuring.read_proc(Path(f"/proc/{task}/schedstat")).split()
    return int(fields[0]) / 1e9 if fields else 0.0


def step_of(frame: FrameType, is_main: bool) -> str:
    """What a stack is at."""
    files = [file_of(frame)]
    while frame.f_back is not None:
        frame = frame.f_back
        files.append(file_of(frame))
    if is_main and "pipeline/runner.py:run" not in files:
        return START
    for file in files:
        step = step_of_file(file)
        if step is not None:
            return step
    return JOIN if any(BETWEEN in file for file in files) else BEAM


def file_of(frame: FrameType) -> str:
    """Folder and file of its code and, of the runner's, the function."""
    path = "/".join(frame.f_code.co_filename.rsplit("/", 6)[1:])
    if path.endswith("pipeline/runner.py"):
        return f"pipeline/runner.py:{frame.f_code.co_name}"
    return path


@functools.cache
def step_of_file(file: str) -> str | None:
    """The step that the file is a part of."""
    return next(
        (step for step, parts in STEPS.items() if any(part in file for part in parts)), None
    )


def run_profile(catalog: str, edges: str, out: str) -> None:
    """The command, with a thread that looks at what it does."""
    sampler = Sampler()
    sampler.start()
    from cli.main import run

    code = run(build_arguments(catalog, edges, out))
    sampler.stop()
    if code:
        sys.exit(code)
    content = {"cpu": dict(sampler.cpu), "wall": dict(sampler.wall)}
    Path(out, "profile.json").write_text(json.dumps(content))


def run_and_print_profile(data: Data) -> dict[str, Any]:
    """Prints where imgembed's time goes."""
    out = data.work / "out-profile"
    command = self_run("profile", data.catalog, data.edges, out)
    used = take_turns({"profile": Run(command, out, [data.catalog], copy_of(data.graph))}, 1)[
        "profile"
    ]
    check_up_to_date(out)
    profile = json.loads((out / "profile.json").read_text())
    print(f"\nWhere imgembed's time goes, {data.images:,} images: {used.wall:.1f} s, "
          f"{used.cpu:.1f} s of CPU\n")  # fmt: skip
    print(f"{'':32}{'wall s':>9}{'CPU s':>9}{'of CPU after start':>20}")
    after = sum(profile["cpu"].get(step, 0.0) for step in AFTER_START)
    for step in (START, *AFTER_START, WAITING):
        wall, cpu = (profile[kind].get(step, 0.0) for kind in ("wall", "cpu"))
        share = f"{cpu / after:20.1%}" if step in AFTER_START else ""
        print(f"{step:32}{wall:9.1f}{cpu:9.1f}{share}")
    shares = {
        kind: sum(profile[kind].get(step, 0.0) for step in (PICTURES, JOIN, WRITE))
        / max(1e-9, sum(profile[kind].get(step, 0.0) for step in (*AFTER_START, *more)))
        for kind, more in (("cpu", ()), ("wall", (WAITING,)))
    }
    judged = [
        at_least(
            "pictures, join and write: share of CPU after start-up", shares["cpu"], LEAST_SHARE
        ),
        Verdict("the same of the wall time", shares["wall"]),
    ]
    print_verdicts(judged)
    return {"images": data.images, **profile, "verdicts": to_json(judged)}


# ---------------------------------------------------------------------------------------------
# What the trainer reads
# ---------------------------------------------------------------------------------------------

READ_EPOCHS = 2  # the first one warms up
WAIT_EPOCHS, WARM_STEPS, SAME_STEPS = 3, 40, 40
DEMO_IMAGES = 2_000
ENCODINGS, LAYOUTS = ("jpeg", "png", "raw"), ("nsl", "compact")


def open_batches(run: str, epochs: int) -> tuple[Any, Any, int]:
    """(examples, batches as the trainer has them by default, batches of an epoch) of a run."""
    from pipeline.artifacts import RunDir
    from trainer.config import TrainingConfig
    from trainer.dataset import TRAIN, ExampleFiles, steps_per_epoch, training_batches

    training = TrainingConfig()
    files = ExampleFiles.open(RunDir.open(run).require("examples"))
    batches = training_batches(
        files,
        files.transform(),
        batch_size=training.batch_size,
        neighbors=training.neighbors,
        epochs=epochs,
        seed=0,
        shuffle_buffer=training.shuffle_buffer,
    )
    return files, batches, steps_per_epoch(files, TRAIN, training.batch_size)


def run_parse(run: str, out: str) -> None:
    """Reads the training examples as training does, and does nothing with them."""
    files, batches, steps = open_batches(run, READ_EPOCHS)
    iterator = iter(batches)
    for _ in range((READ_EPOCHS - 1) * steps):
        next(iterator)
    began, worked = time.monotonic(), time.process_time()
    for _ in range(steps):
        next(iterator)
    seconds, cpu = time.monotonic() - began, time.process_time() - worked
    split = files.version.manifest["splits"]["train"]
    content = {"seconds": seconds, "cpu": cpu, "records": split["records"], "bytes": split["bytes"]}
    Path(out, "parse.json").write_text(json.dumps(content))


def run_wait(run: str, out: str) -> None:
    """Trains the default model for some steps; measures what of a step is waiting for its batch."""
    import keras

    from trainer.config import ModelConfig, TrainingConfig
    from trainer.fit import make_model

    keras.utils.set_random_seed(0)
    training = TrainingConfig()
    files, batches, steps = open_batches(run, WAIT_EPOCHS)
    network = make_model(files, ModelConfig(), training)
    optimizer = keras.optimizers.AdamW(training.learning_rate, global_clipnorm=1.0)
    network.compile(optimizer=optimizer, jit_compile=False)
    iterator = iter(batches)
    for _ in range(WARM_STEPS):
        network.train_on_batch(next(iterator))
    number = WAIT_EPOCHS * steps - WARM_STEPS
    if number < 1:
        raise SystemExit(f"{WARM_STEPS} steps to warm up are more than there are")
    waited = 0.0
    began = time.monotonic()
    for _ in range(number):
        asked = time.monotonic()
        batch = next(iterator)
        waited += time.monotonic() - asked
        network.train_on_batch(batch)
    step = (time.monotonic() - began) / number
    began = time.monotonic()
    for _ in range(SAME_STEPS):
        network.train_on_batch(batch)
    same = (time.monotonic() - began) / SAME_STEPS
    content = {"step": step, "wait": waited / number, "same": same}
    Path(out, "wait.json").write_text(json.dumps(content))


def run_and_print_encodings(small: Data, large: Data, repeat: int) -> dict[str, Any]:
    """Prints, for each encoding and layout, its size and what it takes to write and to read."""
    rows = {}
    for encoding, layout in itertools.product(ENCODINGS, LAYOUTS):
        name, sets = f"{encoding}, {layout}", [f"examples.image_encoding={encoding}",
                                               f"examples.layout={layout}"]  # fmt: skip
        rows[name] = measure_encoding(name, sets, small, large, repeat)
    print(f"\nEncodings and layouts, {large.images:,} images\n")
    print(f"{'':16}{'bytes':>9}{'write/s':>10}{'marginal/s':>12}{'CPU us':>9}"
          f"{'read/s':>10}{'MB/s':>8}{'CPU us':>9}")  # fmt: skip
    for name, row in rows.items():
        print(
            f"{name:16}{row['bytes']:9,.0f}{row['write_per_second']:10,.0f}"
            f"{row['marginal_per_second']:12,.0f}{row['write_cpu_us']:9.0f}"
            f"{row['read_per_second']:10,.0f}{row['read_mb_per_second']:8.0f}"
            f"{row['read_cpu_us']:9.0f}"
        )
    return {"images": large.images, "rows": rows}


def measure_encoding(
    name: str, sets: Sequence[str], small: Data, large: Data, repeat: int
) -> dict[str, float]:
    """The figures of one encoding and layout; CPU of writing is the marginal one."""
    outs = {data.images: data.work / f"out-encoding-{data.images}" for data in (small, large)}
    runs = {
        f"{name}, {data.images:,} images": run_of("imgembed", data, outs[data.images], sets)
        for data in (small, large)
    }
    few, many = take_turns(runs, repeat).values()
    out = outs[large.images]
    check_up_to_date(out)
    read_out = large.work / "out-parse"
    measuring.measure(Run(self_run("parse", out / "run", read_out), read_out))
    read = json.loads((read_out / "parse.json").read_text())
    more = large.images - small.images
    return {
        "bytes": read["bytes"] / read["records"],
        "write_per_second": large.images / many.wall,
        "marginal_per_second": more / (many.wall - few.wall),
        "write_cpu_us": (many.cpu - few.cpu) / more * 1e6,
        "read_per_second": read["records"] / read["seconds"],
        "read_mb_per_second": read["bytes"] / read["seconds"] / 1e6,
        "read_cpu_us": read["cpu"] / read["records"] * 1e6,
    }


def run_and_print_wait(work: Path, images: int) -> dict[str, Any]:
    """Prints how much of a training step is waiting for input, with the data of the demo."""
    sample = work / f"sample-{images}"
    if not (sample / "cfg.yaml").exists():
        imgembed("sample", "--out", str(sample), "--images", str(images), "--quiet")
    rows = {encoding: measure_wait(work, sample, encoding) for encoding in ENCODINGS}
    print(f"\nTraining steps on the demo's {images:,} pictures\n")
    print(f"{'':16}{'step ms':>9}{'waits ms':>10}{'same batch ms':>15}")
    for name, row in rows.items():
        print(
            f"{name:16}{row['step'] * 1e3:9.1f}{row['wait'] * 1e3:10.2f}{row['same'] * 1e3:15.1f}"
        )
    judged = [
        at_most(
            f"{name}: share of a step that waits for input", row["wait"] / row["step"], MOST_WAIT
        )
        for name, row in rows.items()
    ]
    print_verdicts(judged)
    return {"images": images, "rows": rows, "verdicts": to_json(judged)}


def measure_wait(work: Path, sample: Path, encoding: str) -> dict[str, float]:
    """Seconds of a step, of its waiting, and of a step without new input."""
    run, out = work / f"run-wait-{encoding}", work / f"out-wait-{encoding}"
    config = ["--config", str(sample / "cfg.yaml"), "--run-dir", str(run)]
    imgembed("build-graph", *config, "--set", f"examples.image_encoding={encoding}", "--quiet")
    print(f"running training steps, {encoding}", file=sys.stderr)
    measuring.measure(Run(self_run("wait", run, out), out))
    return json.loads((out / "wait.json").read_text())


RUNS: Mapping[str, Callable[..., None]] = {
    "nsl": run_nsl,
    "tf.data": run_tf_data,
    "profile": run_profile,
    "parse": run_parse,
    "wait": run_wait,
}

# ---------------------------------------------------------------------------------------------
# The benchmark
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A figure, and what is wanted of it: at most or at least so much, or nothing."""

    what: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def wanted(self) -> str:
        if self.most is not None:
            return f"<= {self.most:g}"
        return "" if self.least is None else f">= {self.least:g}"

    @property
    def answer(self) -> str:
        if not self.wanted:
            return ""
        too_much = self.most is not None and self.value > self.most
        too_little = self.least is not None and self.value < self.least
        return "no" if too_much or too_little else "yes"


def at_most(what: str, value: float, most: float) -> Verdict:
    """A figure that is to be at most so much."""
    return Verdict(what, value, most=most)


def at_least(what: str, value: float, least: float) -> Verdict:
    """A figure that is to be at least so much."""
    return Verdict(what, value, least=least)


def print_verdicts(verdicts: Iterable[Verdict]) -> None:
    """A line a figure."""
    print(f"\n{'':60}{'wanted':>10}{'measured':>10}")
    for verdict in verdicts:
        print(f"{verdict.what:60}{verdict.wanted:>10}{verdict.value:10.3f}  {verdict.answer}")


def to_json(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """The verdicts as plain values."""
    return [asdict(verdict) for verdict in verdicts]


def run_competitors(small: Data, large: Data, repeat: int) -> dict[str, Any]:
    """Runs, checks and prints all competitors on both catalogs."""
    outs = {
        (name, data.images): data.work / f"out-{name}-{data.images}"
        for data in (small, large)
        for name in ("imgembed", *COMPETITORS)
    }
    sizes = {data.images: data for data in (small, large)}
    runs = {
        f"{name}, {images:,}": run_of(name, sizes[images], out)
        for (name, images), out in outs.items()
    }
    usages = dict(zip(outs, take_turns(runs, repeat).values(), strict=True))
    check_up_to_date(outs["imgembed", large.images])
    records = check_agreement(
        {name: outs[name, large.images] for name in ("imgembed", *COMPETITORS)}
    )
    print(f"\nAll agree on {records:,} records: splits, labels, texts, neighbours, weights, edges, "
          "pictures; and on vocabularies and statistics.\n")  # fmt: skip
    print_usages(usages)
    judged = judge_competitors(usages, small.images, large.images)
    print_verdicts(judged)
    return {
        "records": records,
        "runs": {f"{name}, {images}": asdict(used) for (name, images), used in usages.items()},
        "verdicts": to_json(judged),
    }


Usages = Mapping[tuple[str, int], Usage]


def judge_competitors(usages: Usages, small: int, large: int) -> list[Verdict]:
    """imgembed against the faster competitor of each kind, and against each."""
    names = ("imgembed", *COMPETITORS)
    speeds = {
        "images/s": {name: large / usages[name, large].wall for name in names},
        "marginal images/s": {
            name: (large - small) / (usages[name, large].wall - usages[name, small].wall)
            for name in names
        },
    }
    judged = []
    for what, of in speeds.items():
        faster = max(COMPETITORS, key=of.__getitem__)
        judged.append(
            at_least(f"{what}, imgembed / {faster}", of["imgembed"] / of[faster], LEAST_FACTOR)
        )
        judged += [
            Verdict(f"{what}, imgembed / {name}", of["imgembed"] / of[name])
            for name in COMPETITORS
            if name != faster
        ]
    for name in COMPETITORS:
        ratio = usages["imgembed", large].peak / usages[name, large].peak
        judged.append(Verdict(f"peak memory, imgembed / {name}", ratio))
    return judged


def run_variants(datas: Sequence[Data], repeat: int) -> dict[str, Any]:
    """imgembed on catalogs of several sizes: does its memory grow?"""
    outs = {("imgembed", data.images): data.work / f"out-variant-{data.images}" for data in datas}
    runs = {
        f"imgembed, {data.images:,}": run_of("imgembed", data, out)
        for data, out in zip(datas, outs.values(), strict=True)
    }
    usages = dict(zip(outs, take_turns(runs, repeat).values(), strict=True))
    print("\nimgembed on catalogs of other sizes\n")
    print_usages(usages)
    first, last = usages["imgembed", datas[0].images], usages["imgembed", datas[-1].images]
    sizes = f"{datas[-1].images:,} / {datas[0].images:,} images"
    judged = [
        at_most(f"peak memory, {sizes}", last.peak / first.peak, MOST_GROWTH),
        at_most(f"without pages of files, {sizes}", last.own / first.own, MOST_GROWTH),
    ]
    print_verdicts(judged)
    return {
        "runs": {str(images): asdict(used) for (_, images), used in usages.items()},
        "verdicts": to_json(judged),
    }


def print_usages(usages: Usages) -> None:
    """A row a run; the marginal figures are those of the images more than in the run before it."""
    print(f"{'':12}{'images':>9}{'wall s':>9}{'CPU s':>9}{'peak GiB':>10}{'own GiB':>9}"
          f"{'images/s':>10}{'marginal/s':>12}{'CPU us':>8}")  # fmt: skip
    for name in dict.fromkeys(name for name, _ in usages):
        before: tuple[int, Usage] | None = None
        for images in sorted(images for of, images in usages if of == name):
            used = usages[name, images]
            marginal = "" if before is None else marginal_of(images, used, *before)
            print(
                f"{name:12}{images:9,}{used.wall:9.1f}{used.cpu:9.1f}{used.peak / 2**30:10.2f}"
                f"{used.own / 2**30:9.2f}{images / used.wall:10,.0f}{marginal}"
            )
            before = (images, used)


def marginal_of(images: int, used: Usage, fewer: int, before: Usage) -> str:
    """Images a second, and CPU microseconds an image, of what a run has more than another."""
    more = images - fewer
    return f"{more / (used.wall - before.wall):12,.0f}{(used.cpu - before.cpu) / more * 1e6:8.0f}"


PARTS = ("competitors", "profile", "variants", "encodings", "input-wait")
DEFAULT_PARTS = ("competitors", "profile")


def parse_arguments() -> argparse.Namespace:
    """The options, from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/examples-benchmark"))
    parser.add_argument("--photos", type=Path, help="zip archive of photos to cut pictures out of")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; medians are shown")
    helps = ("imgembed against the others", "where imgembed's time goes", "memory by size",
             "size and speed by encoding and layout", "how long training waits")  # fmt: skip
    for part, text in zip(PARTS, helps, strict=True):
        default = "; by default" if part in DEFAULT_PARTS else ""
        parser.add_argument(f"--{part}", action="store_true", help=text + default)
    # How the script starts one of RUNS in a process of its own: NAME, then its arguments.
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark, or the one that --run names."""
    arguments = parse_arguments()
    if arguments.run:
        name, *rest = arguments.run
        RUNS[name](*rest)
        return
    measuring.use_cores(CORES)
    asked = vars(arguments)
    parts = [part for part in PARTS if asked[part.replace("-", "_")]] or list(DEFAULT_PARTS)
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    small, large, double = (
        Data(work, whole_groups(arguments.images * share), arguments.seed, arguments.photos)
        for share in (SMALL, 1, 2)
    )
    made: Mapping[str, Callable[[], dict[str, Any]]] = {
        "competitors": lambda: run_competitors(small, large, arguments.repeat),
        "profile": lambda: run_and_print_profile(large),
        "variants": lambda: run_variants([small, large, double], arguments.repeat),
        "encodings": lambda: run_and_print_encodings(small, large, arguments.repeat),
        "input-wait": lambda: run_and_print_wait(work, min(DEMO_IMAGES, arguments.images)),
    }
    machine = measuring.describe_machine(CORES, PACKAGES)
    machine |= {"date": datetime.date.today().isoformat(), "repeat": arguments.repeat}
    write_figures(
        Path(f"{work}.json"), {part: {"machine": machine, **made[part]()} for part in parts}
    )


def whole_groups(images: float) -> int:
    """The images, rounded down to whole groups, at least one."""
    return max(1, int(images) // GROUP) * GROUP


def write_figures(path: Path, parts: Mapping[str, Any]) -> None:
    """Writes the parts that ran; what the file has of others stays."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **parts}, indent=2) + "\n")


if __name__ == "__main__":
    main()
