"""Whether different programs wrote the same examples, record by record.

In: the folders that imgembed and the others wrote. Out: how many records all agree on, or
SystemExit with a line a kind of disagreement.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from catalogs import SHARES
from example_writers import EXAMPLES_FILE, NO_LABEL, SLOTS, split_file
from PIL import Image

PIXEL_TOLERANCE = 2.0  # mean difference of two decoders' pictures, of 255
STATISTICS_TOLERANCE = 0.05  # of means and deviations, of 255
VOCABULARIES = ("labels", "tokens")


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
    found = [f"other {name}" for name in VOCABULARIES if ours[name] != theirs[name]]
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


def their_records(out: Path) -> dict[bytes, Seen]:
    """The records of another program, in one file or in one a split."""
    whole = out / EXAMPLES_FILE
    if whole.exists():
        return read_records({str(whole): None}, "")
    return read_records({str(out / split_file(split)): split for split in SHARES}, "GZIP")


def our_analysis(out: Path) -> dict[str, Any]:
    """Vocabularies and statistics as imgembed's transform holds them."""
    from trainer.transform import GRAPH_FOLDER, Transform

    folder = current(out) / "transform"
    means, deviations = Transform(str(folder)).channels()
    assets = folder / GRAPH_FOLDER / "assets"
    vocabularies = {name: read_vocabulary(assets, name) for name in VOCABULARIES}
    return {**vocabularies, "means": means.tolist(), "deviations": deviations.tolist()}


def read_vocabulary(assets: Path, name: str) -> dict[str, int]:
    """{entry: how often it occurs}."""
    entries, counts = (
        (assets / file).read_text().splitlines() for file in (name, f"{name}_counts")
    )
    return dict(zip(entries, map(int, counts), strict=True))


def check_agreement(imgembed: Path, others: Mapping[str, Path]) -> int:
    """How many records all agree on; SystemExit with every disagreement. others: {name: folder}."""
    ours, analysis = read_records(our_files(imgembed), "GZIP"), our_analysis(imgembed)
    problems = {"imgembed": check_pictures(ours)}
    for name, out in others.items():
        theirs = their_records(out)
        written = json.loads((out / "analysis.json").read_text())
        problems[name] = compare(ours, theirs) + check_pictures(theirs)
        problems[name] += compare_analyses(analysis, written)
    lines = [f"{name}: {problem}" for name, found in problems.items() for problem in found]
    if lines:
        raise SystemExit("the results disagree\n" + "\n".join(lines))
    return len(ours)
