"""A small examples stage to train on: pictures of one colour, whose neighbours have that colour."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from apache_beam.runners.portability import fn_api_runner

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.examples import transform

SIDE = 16  # pixels
FEATURE_DIM = 5
NEIGHBORS = 3
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 210)}
CLASSES = ["blue", "green", "red"]
RECORDS = {"train": 42, "validation": 14, "test": 7}
TOKEN_BUCKETS = 4

Values = dict[str, Any]


def pixels(index: int) -> np.ndarray:
    """Image `index`, [SIDE, SIDE, 3] uint8: its colour with noise."""
    colour = np.array(COLOURS[colour_of(index)])
    noise = np.random.default_rng(index).integers(-25, 26, (SIDE, SIDE, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


def picture(index: int, encoding: str = "png") -> bytes:
    """Image `index` as an example holds it."""
    if encoding == "raw":
        return pixels(index).tobytes()
    return {"png": tf.io.encode_png, "jpeg": tf.io.encode_jpeg}[encoding](pixels(index)).numpy()


def raw_features(index: int) -> np.ndarray:
    """What the catalog holds: the colour on another scale, with noise."""
    noise = np.random.default_rng(index).normal(size=FEATURE_DIM)
    return np.concatenate([np.array(COLOURS[colour_of(index)]), [100.0, 7.0]]) + noise


def colour_of(index: int) -> str:
    return list(COLOURS)[index % len(COLOURS)]


def split_of(index: int) -> str:
    return schema.SPLITS[np.searchsorted(np.cumsum(list(RECORDS.values())), index, side="right")]


def is_labelled(index: int) -> bool:
    return index % 2 == 0


def labels_of(index: int, *, multi_label: bool) -> list[str]:
    """The colour of every second image; where there may be several labels, some have the next."""
    colours = list(COLOURS)
    return [colours[(index + i) % 3] for i in range(1 + (multi_label and index % 4 == 0))] * (
        is_labelled(index)
    )


def neighbors_of(index: int) -> list[tuple[int, float]]:
    """Images of the same colour, 0 to NEIGHBORS of them, the strongest first."""
    total = sum(RECORDS.values())
    return [((index + 3 * (i + 1)) % total, 4.0 - i) for i in range(index % (NEIGHBORS + 1))]


def edges_of(index: int) -> list[tuple[int, int, float]]:
    """(sender, receiver, weight) among image `index`, node 0, and its neighbours, node i + 1."""
    nodes = [index, *(other for other, _ in neighbors_of(index))]
    return [
        (sender, nodes.index(other), weight)
        for sender, node in enumerate(nodes)
        for other, weight in sorted(neighbors_of(node), key=lambda near: near[0])
        if other in nodes
    ]


def texts_of(index: int) -> list[tuple[str, float]]:
    """One to two texts, or none for every seventh image."""
    if index % 7 == 0:
        return []
    colour = colour_of(index)
    return [(colour, 3.0), (f"Plain {colour}!", 1.0)][: 1 + index % 2]


@dataclass(frozen=True)
class Form:
    """What the examples look like: of pictures or of features, and how they are written."""

    features: bool = False
    layout: schema.Layout = "nsl"
    encoding: schema.ImageEncoding = "png"
    multi_label: bool = False
    neighbors: int = NEIGHBORS


def write_examples(
    folder: Path,
    form: Form = Form(),
    *,
    change: Callable[[int, Values], Values] = lambda _, values: values,
    files: int = 1,
    **manifest: Any,
) -> Version:
    """Writes all splits; `change` may alter the values of image `index` before they are written."""
    version = folder / "v0001"
    version.mkdir(parents=True)
    made = make_transform(form.features, form.multi_label)
    shutil.copytree(made, version / schema.TRANSFORM_FOLDER)
    for split in schema.SPLITS:
        indices = [index for index in range(sum(RECORDS.values())) if split_of(index) == split]
        for file, part in enumerate(np.array_split(indices, files)):
            path = version / schema.shard_name(split, file, files, "tfrecord.gz")
            with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
                for index in part.tolist():
                    writer.write(_serialize(change(index, _values(index, form))))
    return Version(schema.EXAMPLES, "v0001", str(version), _manifest(form, files) | manifest)


def _manifest(form: Form, files: int) -> dict[str, Any]:
    tokens = transform.vocabulary(
        make_transform(form.features, form.multi_label), schema.TOKEN_VOCABULARY
    )
    return {
        "content": schema.FEATURES_SIGNATURE if form.features else schema.IMAGE_SIGNATURE,
        "feature_dim": FEATURE_DIM if form.features else None,
        "image_size": None if form.features else SIDE,
        "image_encoding": None if form.features else form.encoding,
        "layout": form.layout,
        "multi_label": form.multi_label,
        "neighbors": form.neighbors,
        "splits": {split: {"records": n, "files": files} for split, n in RECORDS.items()},
        "classes": CLASSES,
        "images_of_class": images_of_class(form.multi_label),
        "compression": "gzip",
        "token_ids": len(tokens) + TOKEN_BUCKETS,
        "texts": dict.fromkeys(schema.SPLITS, 20),
        "labelled": {"train": 21, "validation": 0, "test": 0},
        "counts": {"images": {"with_neighbors": 48}},
    }


def _values(index: int, form: Form) -> Values:
    values = _node(index, form)
    if split_of(index) != "train":
        values |= _labels(index, form, "heldout_label", "heldout_labels")
    if texts_of(index):
        texts, weights = zip(*texts_of(index), strict=True)
        values |= {"text": texts, "text_weight": weights}
    if not form.neighbors:
        return values
    found = neighbors_of(index)
    values["NL_num_nbrs"] = len(found)
    senders, receivers, strengths = zip(*edges_of(index), strict=True) if found else ((), (), ())
    values |= {"graph_senders": senders, "graph_receivers": receivers, "graph_weights": strengths}
    return values | (_nsl(found, form) if form.layout == "nsl" else _compact(found, form))


def _nsl(found: list[tuple[int, float]], form: Form) -> Values:
    values = {f"NL_nbr_{slot}_weight": 0.0 for slot in range(form.neighbors)}
    for slot, (other, weight) in enumerate(found):
        values[f"NL_nbr_{slot}_weight"] = weight
        for name, value in _node(other, form).items():
            values[f"NL_nbr_{slot}_{name}"] = value
    return values


def _compact(found: list[tuple[int, float]], form: Form) -> Values:
    nodes = [_node(other, form) for other, _ in found]
    values: Values = {"nbr_weight": [weight for _, weight in found]}
    for name in nodes[0] if nodes else ():
        parts = [node[name] for node in nodes]
        if name == "features":
            values["nbr_features"] = np.concatenate(parts)
        elif name == "labels":
            values["nbr_labels"] = [label for part in parts for label in part]
            values["nbr_num_labels"] = [len(part) for part in parts]
        elif name == "image" and form.encoding == "raw":
            values["nbr_image"] = b"".join(parts)
        else:
            values[f"nbr_{name}"] = parts
    return values


def _node(index: int, form: Form) -> Values:
    node: Values = {"image_id": f"img-{index}".encode(), "label": schema.NO_LABEL}
    if form.multi_label:
        node["labels"] = []
    if split_of(index) == "train":
        node |= _labels(index, form, "label", "labels")
    if form.features:
        return {**node, "features": raw_features(index)}  # not scaled: the tests do not mind
    return {**node, "image": picture(index, form.encoding)}


def _labels(index: int, form: Form, first: str, several: str) -> Values:
    classes = classes_of(index, multi_label=form.multi_label)
    values: Values = {first: classes[0] if classes else schema.NO_LABEL}
    return {**values, several: classes} if form.multi_label else values


def classes_of(index: int, *, multi_label: bool) -> list[int]:
    return [CLASSES.index(label) for label in labels_of(index, multi_label=multi_label)]


def images_of_class(multi_label: bool) -> dict[str, int]:
    """Training images of each class."""
    rows = range(RECORDS["train"])
    found = [c for index in rows for c in classes_of(index, multi_label=multi_label)]
    return {name: found.count(place) for place, name in enumerate(CLASSES)}


def _serialize(values: Values) -> bytes:
    example = tf.train.Example()
    for name, value in values.items():
        items = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
        if not len(items):
            continue
        target = example.features.feature[name]
        if isinstance(items[0], (str, bytes)):
            encoded = [item.encode() if isinstance(item, str) else item for item in items]
            target.bytes_list.value.extend(encoded)
        elif isinstance(items[0], int):
            target.int64_list.value.extend(items)
        else:
            target.float_list.value.extend(items)
    return example.SerializeToString(deterministic=True)


def catalog_rows(features: bool, multi_label: bool) -> Iterator[dict[str, Any]]:
    """The training images as the transform analyzes them."""
    for index in range(RECORDS["train"]):
        shown = pixels(index).reshape(-1, 3).astype(np.int64)
        yield {
            "label": labels_of(index, multi_label=multi_label) or None,
            "text": [text for text, _ in texts_of(index)],
            "split": "train",
            "features": raw_features(index).tolist() if features else None,
            "channel_sums": None if features else shown.sum(axis=0).tolist(),
            "channel_squares": None if features else (shown**2).sum(axis=0).tolist(),
        }


@cache
def make_transform(features: bool, multi_label: bool = False) -> str:
    """The folder of the transform of all these examples, made once."""
    folder = str(Path(tempfile.mkdtemp()) / schema.TRANSFORM_FOLDER)
    atexit.register(shutil.rmtree, Path(folder).parent)
    settings = transform.TransformSettings(
        max_tokens=100,
        min_token_count=1,
        token_buckets=TOKEN_BUCKETS,
        min_label_count=1,
        subword_length=3,
        feature_dim=FEATURE_DIM if features else None,
        image_pixels=SIDE * SIDE,
    )
    rows = list(catalog_rows(features, multi_label))
    table = pa.Table.from_pylist(rows, transform.INPUT_SCHEMA)
    with (
        beam.Pipeline(runner=fn_api_runner.FnApiRunner()) as root,
        tft_beam.Context(temp_dir=f"{folder}-work"),
    ):
        images = root | "Images" >> beam.Create([table])
        preprocess = transform.Preprocess(settings)
        _ = images | "WriteTransform" >> transform.WriteTransform(folder, preprocess)
    return folder
