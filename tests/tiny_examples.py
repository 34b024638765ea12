"""A small examples stage to train on: pictures of one colour, whose neighbours have that colour."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
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


def picture(index: int) -> bytes:
    """The PNG of image `index`: its colour with noise."""
    colour = np.array(COLOURS[colour_of(index)])
    noise = np.random.default_rng(index).integers(-25, 26, (SIDE, SIDE, 3))
    return tf.io.encode_png(np.clip(colour + noise, 0, 255).astype(np.uint8)).numpy()


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


def neighbors_of(index: int) -> list[tuple[int, float]]:
    """Images of the same colour, 0 to NEIGHBORS of them, the strongest first."""
    total = sum(RECORDS.values())
    return [((index + 3 * (i + 1)) % total, 4.0 - i) for i in range(index % (NEIGHBORS + 1))]


def texts_of(index: int) -> list[tuple[str, float]]:
    """One to two texts, or none for every seventh image."""
    if index % 7 == 0:
        return []
    colour = colour_of(index)
    return [(colour, 3.0), (f"Plain {colour}!", 1.0)][: 1 + index % 2]


def write_examples(
    folder: Path,
    *,
    features: bool = False,
    change: Callable[[int, Values], Values] = lambda _, values: values,
    **manifest: Any,
) -> Version:
    """Writes all splits; `change` may alter the values of image `index` before they are written."""
    version = folder / "v0001"
    version.mkdir(parents=True)
    shutil.copytree(_transform(features), version / schema.TRANSFORM_FOLDER)
    for split in schema.SPLITS:
        path = version / schema.shard_name(split, 0, 1, "tfrecord.gz")
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for index in range(sum(RECORDS.values())):
                if split_of(index) == split:
                    writer.write(_serialize(change(index, _values(index, features))))
    return Version(schema.EXAMPLES, "v0001", str(version), _manifest(features) | manifest)


def _manifest(features: bool) -> dict[str, Any]:
    return {
        "content": schema.FEATURES_SIGNATURE if features else schema.IMAGE_SIGNATURE,
        "feature_dim": FEATURE_DIM if features else None,
        "image_size": None if features else SIDE,
        "neighbors": NEIGHBORS,
        "splits": {split: {"records": n, "shards": 1} for split, n in RECORDS.items()},
        "classes": CLASSES,
        "compression": "gzip",
        "token_ids": 4 + TOKEN_BUCKETS,  # red, green, blue, plain
        "texts": dict.fromkeys(schema.SPLITS, 20),
        "labelled": {"train": 21, "validation": 0, "test": 0},
        "counts": {"images": {"with_neighbors": 48}},
    }


def _values(index: int, features: bool) -> Values:
    split = split_of(index)
    values = _node(index, features)
    if split != "train":
        values[schema.HELDOUT_LABEL.name] = _class(index)
    if texts_of(index):
        texts, weights = zip(*texts_of(index), strict=True)
        values |= {schema.TEXT.name: texts, schema.TEXT_WEIGHT.name: weights}
    found = neighbors_of(index)
    values[schema.NUM_NEIGHBORS.name] = len(found)
    for slot, (other, weight) in enumerate(found):
        values[schema.neighbor_weight(slot).name] = weight
        for name, value in _node(other, features).items():
            values[schema.neighbor_feature(slot, name)] = value
    return values


def _node(index: int, features: bool) -> Values:
    label = _class(index) if split_of(index) == "train" else schema.NO_LABEL
    node = {schema.IMAGE_ID.name: f"img-{index}".encode(), schema.LABEL.name: label}
    if features:
        return {**node, "features": raw_features(index)}  # not scaled: the tests do not mind
    return {**node, schema.IMAGE.name: picture(index)}


def _class(index: int) -> int:
    return CLASSES.index(colour_of(index)) if is_labelled(index) else schema.NO_LABEL


def _serialize(values: Values) -> bytes:
    example = tf.train.Example()
    for name, value in values.items():
        items = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
        target = example.features.feature[name]
        if isinstance(items[0], (str, bytes)):
            encoded = [item.encode() if isinstance(item, str) else item for item in items]
            target.bytes_list.value.extend(encoded)
        elif isinstance(items[0], int):
            target.int64_list.value.extend(items)
        else:
            target.float_list.value.extend(items)
    return example.SerializeToString(deterministic=True)


def _rows(features: bool) -> Iterator[dict[str, Any]]:
    for index in range(RECORDS["train"]):
        row = {
            "label": colour_of(index) if is_labelled(index) else None,
            "text": [text for text, _ in texts_of(index)],
            "split": "train",
        }
        yield {**row, "features": raw_features(index).tolist()} if features else row


@cache
def _transform(features: bool) -> str:
    """The folder of the transform of all these examples, made once."""
    folder = str(Path(tempfile.mkdtemp()) / schema.TRANSFORM_FOLDER)
    atexit.register(shutil.rmtree, Path(folder).parent)
    columns = [
        ("label", pa.string()),
        ("text", pa.list_(pa.string())),
        ("split", pa.string()),
        ("features", pa.list_(pa.float32())),
    ]
    table = pa.Table.from_pylist(list(_rows(features)), pa.schema(columns[: 3 + features]))
    with (
        beam.Pipeline(runner=fn_api_runner.FnApiRunner()) as root,
        tft_beam.Context(temp_dir=f"{folder}-work"),
    ):
        images = root | "Images" >> beam.Create([table])
        _ = images | "WriteTransform" >> transform.WriteTransform(
            folder,
            transform.Preprocess(max_tokens=100, token_buckets=TOKEN_BUCKETS),
            FEATURE_DIM if features else None,
        )
    return folder
