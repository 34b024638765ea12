"""Real catalogs through graph and examples: clothes, groceries, emoji and drawings.

Photos upright and lying, pictures with transparency and of one bit; ids as they come.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image
from small_catalogs import examples_of, neighbor_ids
from small_logs import run_command

from pipeline import schema
from pipeline.artifacts import RunDir, Version

DATA = Path(__file__).parents[2] / "shared" / "data"
SIDE = 24
WHITE = (255, 255, 255)

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")


class Made(NamedTuple):
    """A version of the examples, and what its files hold: {split: {image_id: example}}."""

    version: Version
    splits: dict[str, dict[str, dict[str, list]]]

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.version.manifest

    @property
    def examples(self) -> dict[str, dict[str, list]]:
        return {i: example for of in self.splits.values() for i, example in of.items()}


def run(folder: Path, config: Mapping[str, Any], *, edges: Mapping[str, list[str]]) -> Made:
    """The examples of a configuration, with a graph of rings of images where `edges` has any."""
    settings = {
        "run_dir": str(folder / "run"),
        **config,
        "images": {"image_size": SIDE, "max_rejected_fraction": 0.0, **config["images"]},
    }
    if edges:
        path = folder / "edges.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("src", "dst", "weight"), *rings(edges.values())])
        settings["edges"] = {"path": str(path)}
    (folder / "cfg.yaml").write_text(yaml.safe_dump(settings))
    assert run_command("build-graph", "--config", folder / "cfg.yaml", "--quiet") == 0
    version = RunDir.open(str(folder / "run")).require(schema.EXAMPLES)
    made = Made(version, {split: examples_of(version, split) for split in schema.SPLITS})
    check(made)
    return made


def rings(groups: Iterable[list[str]]) -> Iterable[tuple[str, str, float]]:
    """Edges from each image of a group to the next two."""
    for ids in groups:
        for place, src in enumerate(ids):
            for step in (1, 2):
                dst = ids[(place + step) % len(ids)]
                if src != dst:
                    yield src, dst, 1 / step


def grouped(labels: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for image_id, label in labels.items():
        found.setdefault(label, []).append(image_id)
    return found


def check(made: Made) -> None:
    """What is true of every catalog without a rejected row."""
    records = {split: len(examples) for split, examples in made.splits.items()}
    assert {split: of["records"] for split, of in made.manifest["splits"].items()} == records
    total = sum(records.values())
    assert made.manifest["counts"]["rows"] == {"read": total, "kept": total, "rejected": 0}
    assert made.manifest["rejected"] == {}


def names_of_labels(made: Made) -> dict[str, str | None]:
    """{image_id: the true label} of all splits; None where no training image has it."""
    classes = made.manifest["classes"]
    numbers = {
        image_id: max(example["label"][0], example.get("heldout_label", [-1])[0])
        for image_id, example in made.examples.items()
    }
    return {image_id: None if n < 0 else classes[n] for image_id, n in numbers.items()}


def pixels(example: Mapping[str, list]) -> np.ndarray:
    """[side, side, 3] int of the seed's picture."""
    (content,) = example["image"]
    if len(content) == SIDE * SIDE * 3:
        return np.frombuffer(content, np.uint8).reshape(SIDE, SIDE, 3).astype(int)
    return np.asarray(Image.open(io.BytesIO(content)), int)


def check_picture(example: Mapping[str, list], original: bytes) -> None:
    """The picture is the whole original on white, scaled to a square: near any good filter's."""
    picture = Image.open(io.BytesIO(original)).convert("RGBA")
    ground = Image.new("RGBA", picture.size, (*WHITE, 255))
    whole = Image.alpha_composite(ground, picture).convert("RGB")
    expected = np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BOX), int)
    found = pixels(example)
    assert found.shape == (SIDE, SIDE, 3)
    assert np.abs(found - expected).mean() < 12


# Clothes ------------------------------------------------------------------------------------------


def test_clothes_in_folders_of_splits_and_labels(tmp_path: Path) -> None:
    archive = DATA / "clothing" / "images.zip"
    with (DATA / "clothing" / "labels.csv").open(encoding="utf-8") as file:
        rows = {Path(row["image"]).stem: row for row in csv.DictReader(file)}
    labels = {image_id: row["label"] for image_id, row in rows.items()}
    images = {"path": str(archive), "folders": ["split", "label"]}
    made = run(tmp_path, {"images": images, "examples": {"neighbors": 2}}, edges=grouped(labels))
    found = made.examples
    assert len(found) == 3409
    splits = Counter(row["split"] for row in rows.values())
    assert {s: of["records"] for s, of in made.manifest["splits"].items()} == {
        split: splits[split] for split in schema.SPLITS
    }
    assert names_of_labels(made) == labels
    assert made.manifest["counts"]["images"]["by_neighbors"] == {"0": 0, "1": 0, "2": 3409}
    for example in list(found.values())[::100]:
        assert {labels[i] for i in neighbor_ids(example)} == {
            labels[example["image_id"][0].decode()]
        }
    with zipfile.ZipFile(archive) as pictures:
        sides = Counter()
        for image_id in list(rows)[::60]:
            content = pictures.read(rows[image_id]["image"])
            with Image.open(io.BytesIO(content)) as picture:
                sides[np.sign(picture.width - picture.height)] += 1
            check_picture(found[image_id], content)
    assert min(sides[1], sides[-1]) > 5  # lying and upright


def test_clothes_of_a_table_are_those_of_the_folders(tmp_path: Path) -> None:
    folder = DATA / "clothing"
    images = {
        "path": str(folder / "labels.csv"),
        "root": str(folder / "images.zip"),
        "columns": {"image_id": "image", "uri": "image"},
    }
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        labels = {row["image"]: row["label"] for row in csv.DictReader(file)}
    config = {"images": images, "examples": {"neighbors": 0, "image_encoding": "jpeg"}}
    made = run(tmp_path, config, edges=grouped(labels))
    assert names_of_labels(made) == labels
    assert len(made.examples) == 3409


# Groceries ----------------------------------------------------------------------------------------


def test_groceries_of_a_table_with_fine_labels(tmp_path: Path) -> None:
    folder = DATA / "grocery"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    images = {
        "path": str(folder / "labels.csv"),
        "root": str(folder / "natural.zip"),
        "columns": {"image_id": "image", "uri": "image", "label": "fine"},
    }
    labels = {image_id: row["fine"] for image_id, row in rows.items()}
    config = {
        "images": images,
        "examples": {"neighbors": 2, "layout": "compact", "image_encoding": "jpeg"},
    }
    made = run(tmp_path, config, edges=grouped(labels))
    found = made.examples
    assert len(found) == len(rows) == 2936
    assert names_of_labels(made) == labels
    assert len(made.manifest["classes"]) == 81
    for split, name in zip(schema.SPLITS, ("train", "val", "test"), strict=True):
        assert made.splits[split].keys() == {i for i, row in rows.items() if row["split"] == name}
    with zipfile.ZipFile(folder / "natural.zip") as pictures:
        for image_id in list(rows)[::100]:
            check_picture(found[image_id], pictures.read(image_id))


# Emoji --------------------------------------------------------------------------------------------


def test_emoji_with_real_sessions_stand_on_white(tmp_path: Path) -> None:
    folder = DATA / "emoji"
    rows = [json.loads(line) for line in (folder / "emoji.jsonl").open(encoding="utf-8")]
    config = {
        "sessions": {"path": str(folder / "sessions.jsonl")},
        "graph": {"min_sessions": 1},
        "images": {
            "path": str(folder / "emoji.jsonl"),
            "root": str(folder / "noto72.zip"),
            "columns": {
                "image_id": "emoji_id",
                "uri": "image",
                "label": "group",
                "text": "keywords",
            },
        },
        "examples": {"image_encoding": "raw", "texts": 3},
    }
    made = run(tmp_path, config, edges={})
    found = made.examples
    assert len(found) == len(rows) == 1644
    assert names_of_labels(made) == {row["emoji_id"]: row["group"] for row in rows}
    assert len(made.manifest["classes"]) == 9
    assert made.manifest["counts"]["images"]["with_neighbors"] > 300
    assert set(made.manifest["counts"]["images"]["by_popularity"]) >= {"head", "in no session"}
    for row in rows:
        texts = [text.decode() for text in found[row["emoji_id"]]["text"]]
        captions = [text.strip() for text in row["keywords"] if text.strip()]
        assert texts[: len(captions)] == captions
        assert len(texts) <= len(captions) + 3
    with zipfile.ZipFile(folder / "noto72.zip") as pictures:
        for row in rows[::40]:
            example, content = found[row["emoji_id"]], pictures.read(row["image"])
            check_picture(example, content)
            alpha = Image.open(io.BytesIO(content)).getchannel("A")
            clear = np.asarray(alpha.resize((SIDE, SIDE), Image.Resampling.BOX)) == 0
            assert np.median(pixels(example)[clear]) > 250
            assert (pixels(example)[clear] > 200).mean() > 0.9  # the filter rings at edges


# Drawings -----------------------------------------------------------------------------------------


def test_drawings_of_one_bit_are_black_on_white(tmp_path: Path) -> None:
    path = DATA / "omniglot" / "images.zip"
    with zipfile.ZipFile(path) as archive:
        members = {Path(name).stem: name for name in archive.namelist() if name.endswith(".png")}
        drawings = {i: archive.read(name) for i, name in list(members.items())[::50]}
    # All that one drawer drew is a set, whose members have different labels.
    drawers = grouped({image_id: image_id.split("_")[1] for image_id in members})
    config = {
        "images": {"path": str(path), "folders": ["group", "label"]},
        "examples": {"neighbors": 2},
    }
    made = run(tmp_path, config, edges=drawers)
    found = made.examples
    assert found.keys() == members.keys()
    assert len(found) == 2720
    labels = {i: name.split("/")[-2] for i, name in members.items()}
    learnt = {labels[i] for i in made.splits["train"]}
    assert names_of_labels(made) == {i: of if of in learnt else None for i, of in labels.items()}
    # An alphabet is in one split as a whole; the labels of one that is held out may be its own.
    alphabets = {i: name.split("/")[-3] for i, name in members.items()}
    splits: dict[str, set[str]] = {}
    for split, examples in made.splits.items():
        for image_id in examples:
            splits.setdefault(alphabets[image_id], set()).add(split)
    assert len(splits) == 5
    assert {len(of) for of in splits.values()} == {1}
    for image_id, example in list(found.items())[::50]:
        drawer = image_id.split("_")[1]
        assert {i.split("_")[1] for i in neighbor_ids(example)} == {drawer}
    for image_id, content in drawings.items():
        assert Image.open(io.BytesIO(content)).mode == "1"
        shown = pixels(found[image_id])
        assert (shown == shown[:, :, :1]).all()  # gray
        assert np.median(shown) > 240
        assert shown.min() < 160
        check_picture(found[image_id], content)
