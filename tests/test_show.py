"""`imgembed examples show`: every layout and encoding reads back as it was written."""

import gzip
import io
import json
import os
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from test_structure import loaded_by

from cli import main
from pipeline import schema
from pipeline.artifacts import RunDir
from pipeline.examples import layouts, wire
from pipeline.examples.nodes import HELDOUT_LABELS, LABELS
from pipeline.examples.places import PLACE, Places, stretch
from pipeline.examples.subgraphs import Edges
from pipeline.tables.framing import frame_records

SIDE, DIM, COUNT, SEED = 16, 4, 12, 5
CLASSES = ["cat", "dog", "owl"]
IDS = [f"ï/{index:02d}" for index in range(COUNT)]
FILES = 2
# Row i has neighbours i + 1 and i + 2, but for the first, which has none.
NEAR = [[], *([(i + 1) % COUNT, (i + 2) % COUNT] for i in range(1, COUNT))]
WEIGHTS = (3.0, 1.0)
# From the seed to each neighbour, and from the second neighbour back.
EDGES = [(0, 1), (0, 2), (2, 0)]
PICTURES = [
    {"layout": layout, "image_encoding": encoding, "multi_label": several}
    for layout in ("nsl", "compact")
    for encoding in ("jpeg", "png", "raw")
    for several in (False, True)
]
FEATURES = [
    {"layout": layout, "feature_dim": DIM, "image_encoding": None} for layout in ("nsl", "compact")
]


class Made(NamedTuple):
    run: str
    spec: schema.ExampleSpec
    files: dict[str, str]  # of each id


def picture(index: int, encoding: str | None) -> bytes:
    square = Image.new("RGB", (SIDE, SIDE), (20 * index, 255 - 20 * index, 128))
    if encoding == "raw":
        return square.tobytes()
    sink = io.BytesIO()
    square.save(sink, encoding or "png")
    return sink.getvalue()


def labels_of(index: int, spec: schema.ExampleSpec) -> list[int]:
    return [[], [1], [2, 0]][index % 3][: None if spec.multi_label else 1]


def split_of(index: int) -> str:
    return "validation" if index % 4 == 3 else "train"


def seeds_of(spec: schema.ExampleSpec) -> pa.Table:
    rows = range(COUNT)
    labels = [(i, labels_of(i, spec)) for i in rows]
    numbers = pa.large_list(pa.int64())
    features = [[i + 0.5, -1.0, 0.0, 2.0] for i in rows] if spec.feature_dim else [None] * COUNT
    return pa.table(
        {
            PLACE: Places(SEED, 1).of(pa.array(IDS)),
            "image_id": IDS,
            "image": pa.array([picture(i, spec.image_encoding) for i in rows], pa.large_binary()),
            "features": pa.array(features, pa.large_list(pa.float32())),
            LABELS: pa.array([own if split_of(i) == "train" else [] for i, own in labels], numbers),
            HELDOUT_LABELS: pa.array(
                [[] if split_of(i) == "train" else own for i, own in labels], numbers
            ),
            "text": pa.array([["red bridge", f"no {i}"] for i in rows], pa.list_(pa.string())),
            "text_weight": pa.array([[7.0, 1.0]] * COUNT, pa.list_(pa.float32())),
            "split": [split_of(i) for i in rows],
        }
    )


def make(folder, *, neighbors=3, compression="gzip", **options) -> Made:
    spec = schema.ExampleSpec(neighbors=neighbors, **options)
    seeds = seeds_of(spec)
    near = np.full((COUNT, neighbors), -1)
    for index, found in enumerate(NEAR if neighbors else ()):
        near[index, : len(found)] = found
    degrees = (near >= 0).sum(axis=1)
    weights = np.where(near >= 0, np.array([*WEIGHTS, 0.0])[:neighbors], 0).astype(np.float32)
    edges = Edges(
        np.where(degrees, len(EDGES), 0),
        np.tile([sender for sender, _ in EDGES], COUNT - 1),
        np.tile([receiver for _, receiver in EDGES], COUNT - 1),
        np.tile(np.float32([3, 1, 0.5]), COUNT - 1),
    )
    columns = layouts.example_columns(
        seeds, layouts.Neighborhoods(seeds, near, weights), edges, spec
    )
    records = wire.encode_examples(columns, COUNT)
    return write(folder, spec, seeds, records, compression)


def write(folder, spec, seeds, records, compression) -> Made:
    order = np.argsort(seeds[PLACE].to_numpy())
    run, of_id = RunDir.open(str(folder / "run")), {}
    with run.begin(schema.EXAMPLES) as new:
        os.makedirs(new.path, exist_ok=True)
        extension = "tfrecord.gz" if compression == "gzip" else "tfrecord"
        splits = {}
        for split in schema.SPLITS:
            rows = [int(i) for i in order if split_of(i) == split]
            files = min(len(rows), FILES)
            for index in range(files):
                in_file = stretch(seeds[PLACE].to_numpy()[rows], files) == index
                mine = np.array(rows)[in_file]
                frames = frame_records(records.take(pa.array(mine)))
                path = new.file(schema.shard_name(split, index, files, extension))
                with open(path, "wb") as file:
                    file.write(gzip.compress(frames) if compression == "gzip" else frames)
                of_id |= {IDS[i]: path for i in mine}
            splits[split] = {"records": len(rows), "files": files}
        new.commit(
            {
                "config": {"seed": SEED},
                "neighbors": spec.neighbors,
                "feature_dim": spec.feature_dim,
                "image_size": None if spec.feature_dim else SIDE,
                "image_encoding": spec.image_encoding,
                "layout": spec.layout,
                "multi_label": spec.multi_label,
                "classes": CLASSES,
                "splits": splits,
            }
        )
    return Made(run.path, spec, of_id)


def show(capsys, *arguments):
    code = main.run(["examples", "show", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("options", [*PICTURES, *FEATURES], ids=str)
def test_an_example_reads_back_as_it_was_written(tmp_path, capsys, options):
    made = make(tmp_path, **options)
    png = tmp_path / "strip.png"
    for index in (0, 1, 3, 6):
        code, out, err = show(capsys, made.run, "--image-id", IDS[index], "--png", png, "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        names = [CLASSES[label] for label in labels_of(index, made.spec)]
        training = split_of(index) == "train"
        assert (found["image_id"], found["split"]) == (IDS[index], split_of(index))
        assert [label["name"] for label in found["labels"]] == (names if training else [])
        assert [label["name"] for label in found["heldout_labels"]] == ([] if training else names)
        assert found["file"] == made.files[IDS[index]]
        assert found["texts"][0] == {"text": "red bridge", "weight": 7.0}
        near = [(neighbor["image_id"], neighbor["weight"]) for neighbor in found["neighbors"]]
        assert near == [(IDS[i], w) for i, w in zip(NEAR[index], WEIGHTS, strict=False)]
        for neighbor, row in zip(found["neighbors"], NEAR[index], strict=True):
            seen = labels_of(row, made.spec) if split_of(row) == "train" else []
            assert [label["id"] for label in neighbor["labels"]] == seen
        ids = [IDS[index], *(neighbor[0] for neighbor in near)]
        ends = [(edge["sender"], edge["receiver"]) for edge in found["edges"]]
        assert ends == (EDGES if near else [])
        named = [(edge["sender_id"], edge["receiver_id"]) for edge in found["edges"]]
        assert named == [(ids[sender], ids[receiver]) for sender, receiver in ends]
        assert ("png" in found) == (made.spec.feature_dim is None)
    assert png.exists() == (made.spec.feature_dim is None)


@pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
@pytest.mark.parametrize("layout", ["nsl", "compact"])
def test_the_pictures_stand_side_by_side_the_seed_first(tmp_path, capsys, layout, encoding):
    made = make(tmp_path, layout=layout, image_encoding=encoding)
    png = tmp_path / "strip.png"
    assert show(capsys, made.run, "--image-id", IDS[4], "--png", png)[0] == 0
    with Image.open(png) as strip:
        pixels = np.asarray(strip.convert("RGB"), np.int64)
    places = []
    for index in (4, 5, 6):
        distance = np.abs(pixels - [20 * index, 255 - 20 * index, 128]).max(axis=2)
        places.append(np.flatnonzero((distance <= 4).sum(axis=0) > 50).mean())
    assert places == sorted(places)


def test_without_an_id_the_first_of_the_split_with_neighbours_is_shown(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    made = make(tmp_path)
    code, out, err = show(capsys, made.run)
    assert (code, err) == (0, "")
    assert "split           train" in out
    assert "neighbours: 2 of at most 3" in out
    assert "0 → 1" in out
    (written,) = tmp_path.glob("example-*.png")
    assert written.name in out
    assert "/" not in written.name.removeprefix("example-ï_")
    assert "split           validation" in show(capsys, made.run, "--split", "validation")[1]


def test_json_writes_no_picture_that_nobody_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = show(capsys, make(tmp_path).run, "--json")
    assert code == 0
    assert "png" not in json.loads(out)
    assert not list(tmp_path.glob("*.png"))


def test_features_are_told_in_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make(tmp_path, **FEATURES[0])
    _, out, _ = show(capsys, made.run, "--image-id", IDS[6])
    assert "4 numbers: min -1, mean 1.875, max 6.5" in out
    assert "there are no pictures to write" in out
    assert not list(tmp_path.glob("*.png"))


def test_examples_without_neighbours_are_shown_too(tmp_path, capsys):
    made = make(tmp_path, neighbors=0, compression="none")
    code, out, _ = show(capsys, made.run, "--png", tmp_path / "one.png")
    assert code == 0
    assert "neighbours" not in out
    assert (tmp_path / "one.png").exists()


def cut(made: Made) -> None:
    with open(made.files[IDS[4]], "r+b") as file:
        file.truncate(os.path.getsize(file.name) // 2)


def damage(made: Made) -> None:
    path = made.files[IDS[4]]
    with open(path, "rb") as file:
        content = bytearray(file.read())
    content[len(content) // 2] ^= 1
    with open(path, "wb") as file:
        file.write(content)


def replace_by_text(made: Made) -> None:
    frames = frame_records(pa.array([b"no example " + IDS[4].encode()], pa.large_binary()))
    with open(made.files[IDS[4]], "wb") as file:
        file.write(frames)


def remove(made: Made) -> None:
    os.unlink(made.files[IDS[4]])


def test_an_id_that_is_not_utf_8_is_one_line(tmp_path, capsys):
    made = make(tmp_path)
    code, out, err = show(capsys, made.run, "--image-id", "caf\udce9")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "is not UTF-8" in err


@pytest.mark.parametrize("harm", [cut, damage, replace_by_text, remove])
def test_a_broken_file_is_one_line(tmp_path, capsys, harm):
    made = make(tmp_path, compression="none")
    harm(made)
    code, out, err = show(capsys, made.run, "--image-id", IDS[4])
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "run/examples/v0001" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--image-id", "nobody"), 1, ("'ï/", "12 in its examples", "nobody")),
        (("--image-id", "no\udcffbody"), 1, ("'no\\udcffbody': is not UTF-8",)),
        (("--image-id", IDS[3], "--split", "train"), 1, ("9 in its split 'train'",)),
        (("--split", "test"), 1, ("'test' has no example",)),
        (("--split", "tset"), 2, ("train, validation, test",)),
        (("--png", "no/such/folder.png"), 1, ("no/such/folder.png",)),
        (("--png", "strip.xyz"), 1, ("strip.xyz",)),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, capsys, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    found, out, err = show(capsys, make(tmp_path).run, *arguments)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert all(word in err for word in words), err


def test_a_run_without_examples_says_what_makes_them(tmp_path, capsys):
    code, _, err = show(capsys, tmp_path / "nothing")
    assert (code, err.count("\n")) == (1, 1)
    assert schema.STAGE_COMMANDS[schema.EXAMPLES] in err


def test_its_help_loads_nothing_heavy():
    assert loaded_by("import cli.main; cli.main.run(['examples', 'show', '--help'])") == set()
    light = loaded_by("import cli.showing")
    assert not light & {"apache_beam", "tensorflow"}
