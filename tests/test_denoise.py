"""`imgembed denoise`: on a synthetic world, whose truth is known, doubted edges are the wrong ones.

The catalog is of ready features, made of what the world says of its images: a model of them learns
in seconds what one of pictures takes minutes for.
"""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_examples
from PIL import Image

from cli import main
from cli.doubts import draw_doubts
from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.errors import ImgembedError
from pipeline.examples import reading
from pipeline.world.config import WorldConfig
from pipeline.world.generate import IMAGES_TRUTH, SESSIONS_FOLDER, write_world
from trainer.denoise import denoise, most_doubted, shares
from trainer.metrics import auc

MIN_AGREEMENT = 0.6
NOISE = 0.6  # share of the clicks that do not fit the search
TRAINING = {
    "model.dim": 16,
    "model.size": "tiny",
    "model.agreement": "gam",
    "training.epochs": 8,
    "training.learning_rate": 0.01,
    "agreement.iterations": 1,
}


def write_catalog(folder: Path) -> Path:
    """Every image as numbers that tell its attributes, with noise; half of them have a label."""
    rows = pq.read_table(folder / IMAGES_TRUTH).to_pylist()
    draw = np.random.default_rng(0)
    parts = []
    for name in ("shape", "colour", "texture"):
        values = sorted({row[name] for row in rows})
        parts.append(np.eye(len(values))[[values.index(row[name]) for row in rows]])
    features = np.concatenate(parts, axis=1)
    features += draw.normal(size=features.shape) * 0.3
    table = pa.table(
        {
            "image_id": [row["image_id"] for row in rows],
            "features": features.astype("f4").tolist(),
            "label": [row["label"] if draw.random() < 0.5 else None for row in rows],
        }
    )
    pq.write_table(table, folder / "catalog.parquet")
    return folder / "catalog.parquet"


def imgembed(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0) -> str:
    """What a command prints."""
    capsys.readouterr()
    found = main.run([str(one) for one in arguments])
    out, err = capsys.readouterr()
    assert found == code, err
    return out if code == 0 else err


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of the world, run directory that is ready for denoise)."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder / "data", WorldConfig(images=200, sessions=1_500, noise=NOISE, bots=0))
    catalog, run = write_catalog(folder / "data"), folder / "run"
    common = ["--quiet", "--run-dir", run, "--set", "graph.min_sessions=1"]
    sessions = folder / "data" / SESSIONS_FOLDER
    sets = [part for key, value in TRAINING.items() for part in ("--set", f"{key}={value}")]
    for command in (
        ["build-graph", "--sessions", sessions, "--images", catalog, *common],
        ["train", *common, "--set", f"images.path={catalog}", *sets],
        ["denoise", *common, *sets],
    ):
        assert main.run([str(one) for one in command]) == 0
    return folder / "data", run


def agreement(run: Path) -> tuple[Version, pa.Table]:
    version = RunDir.open(str(run)).require(schema.AGREEMENT)
    return version, pa.concat_tables(map(pq.read_table, version.shards(schema.AGREEMENTS)))


def same_class(table: pa.Table, data: Path) -> np.ndarray:
    rows = pq.read_table(data / IMAGES_TRUTH).to_pylist()
    labels = {row["image_id"]: row["label"] for row in rows}
    ends = (table[end].to_pylist() for end in ("src", "dst"))
    return np.array([labels[one] == labels[other] for one, other in zip(*ends, strict=True)])


def test_edges_of_noise_are_trusted_less_than_true_ones(world: tuple[Path, Path]) -> None:
    data, run = world
    _, table = agreement(run)
    right = same_class(table, data)
    assert 0.1 < right.mean() < 0.9
    assert auc(table["agreement"].to_numpy(), right) > 0.9
    # The logs themselves tell them apart less well.
    assert auc(table["weight"].to_numpy(), right) < auc(table["agreement"].to_numpy(), right)


def judged_as_trained(run: Path) -> Version:
    """The model, whose training believed the same of each edge."""
    model = RunDir.open(str(run)).require(schema.MODEL)
    trained = pa.concat_tables(map(pq.read_table, model.shards(schema.AGREEMENTS)))
    found = {
        (row["src"], row["dst"]): (row["agreement"], row["weight"])
        for row in agreement(run)[1].to_pylist()
    }
    assert trained.num_rows
    for row in trained.to_pylist():
        wanted = row["agreement"], row["weight"]
        assert found[row["src"], row["dst"]] == pytest.approx(wanted, abs=1e-4)
    return model


def test_edges_are_judged_as_they_were_in_training(world: tuple[Path, Path]) -> None:
    """By the embeddings, by the logs and by the classes, of which the model's file has the head."""
    model = judged_as_trained(world[1])
    with np.load(model.file(schema.AGREEMENT_MODEL_FILE)) as file:
        kernel, bias = (file[name] for name in file.files[3:5])
    assert kernel.shape == (TRAINING["model.dim"], len(model.manifest["classes"]))
    assert bias.any()


def test_edges_are_judged_by_classes_where_the_model_tells_too_little(
    world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = world[0], tmp_path / "run"
    shutil.copytree(world[1], run)
    settings = {**TRAINING, "agreement.min_positive_pairs": 1_000_000}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    common = ["--quiet", "--run-dir", run, "--set", "graph.min_sessions=1", *sets]
    out = imgembed(capsys, "train", "--set", f"images.path={data / 'catalog.parquet'}", *common)
    assert "edges are judged by classes alone" in out
    imgembed(capsys, "denoise", *common)
    assert judged_as_trained(run).manifest["agreement"]["unusable"]
    _, table = agreement(run)
    assert auc(table["agreement"].to_numpy(), same_class(table, data)) > 0.9


def test_every_edge_of_the_graph_is_judged_whatever_the_split_of_its_images(
    world: tuple[Path, Path],
) -> None:
    version, table = agreement(world[1])
    assert table.schema.equals(schema.AGREEMENT_SCHEMA)
    graph = RunDir.open(str(world[1])).require(schema.GRAPH)
    edges = pa.concat_tables(map(pq.read_table, graph.shards(schema.EDGES)))
    names = ["src", "dst", "rank", "weight"]
    assert table.select(names).equals(edges.select(names))
    judged = version.manifest["edges"]
    assert judged == {"judged": len(edges), "in_graph": len(edges)}
    assert sum(row["edges"] for row in version.manifest["shares"]) == len(edges)
    assert version.manifest["upstream"].keys() == {"graph", "examples", "model", "embeddings"}


def test_it_says_how_many_edges_there_are_by_probability_and_what_to_do_next(
    world: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run-dir", world[1], "--quiet"]
    out = imgembed(capsys, "denoise", *run)
    version, table = agreement(world[1])
    assert f"{len(table):,} of {len(table):,} edges join embedded images" in out
    assert out.count(" to ") >= 10
    assert "next: set examples.agreement to weight or filter" in out
    shown = json.loads(imgembed(capsys, "denoise", *run, "--json"))
    assert shown[schema.AGREEMENT]["shares"] == version.manifest["shares"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "was trained without agreement; set model.agreement to gam"),
        ("3 pairs", "no agreement was learned (3 pairs); give more images of the catalog a label"),
        ("", "(all edges count alike); leave agreement.always_agree out"),
    ],
)
def test_a_model_that_learned_no_agreement_is_one_line(
    world: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    found: str | None,
    said: str,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(world[1], run)
    (manifest,) = (run / schema.MODEL).glob("v*/manifest.json")
    content = json.loads(manifest.read_text())
    del content["agreement"]
    if found is not None:
        content["agreement"] = {"learned": False, "unusable": found or None}
    manifest.write_text(json.dumps(content))
    err = imgembed(capsys, "denoise", "--quiet", "--force", "--run-dir", run, code=1)
    assert err.startswith("imgembed: ")
    assert said in err


def test_embeddings_that_hold_their_neighbours_are_not_judged_by(world: tuple[Path, Path]) -> None:
    run = RunDir.open(str(world[1]))
    graph, model, alone = (
        run.require(stage) for stage in (schema.GRAPH, schema.MODEL, schema.EMBEDDINGS)
    )
    held = {"examples": "v0001", "images_with_neighbors": 7}
    joined = replace(alone, manifest={**alone.manifest, "neighbors": held})
    with (
        run.begin(schema.AGREEMENT) as out,
        pytest.raises(ImgembedError, match=r"imgembed export --set export\.neighbors=none$"),
    ):
        denoise(graph=graph, model=model, embeddings=joined, out=out)


def test_the_next_examples_leave_doubted_edges_out(
    world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = world[0], tmp_path / "run"
    shutil.copytree(world[1], run)
    _, table = agreement(run)
    trusted = {
        (row["src"], row["dst"]) for row in table.to_pylist() if row["agreement"] >= MIN_AGREEMENT
    }
    sets = ["examples.agreement=filter", f"examples.min_agreement={MIN_AGREEMENT}"]
    imgembed(
        capsys,
        "build-graph",
        *("--sessions", data / SESSIONS_FOLDER, "--images", data / "catalog.parquet"),
        *("--quiet", "--run-dir", run, "--set", "graph.min_sessions=1"),
        *(part for one in sets for part in ("--set", one)),
    )
    version = RunDir.open(str(run)).require(schema.EXAMPLES)
    counts = version.manifest["counts"]["edges"]
    assert (counts["read"], counts["doubted"]) == (len(trusted), len(table) - len(trusted))
    assert counts["doubted"] > 100
    assert version.manifest["upstream"].keys() == {"graph", "agreement"}
    found = {
        (example.seed.image_id, near.node.image_id)
        for split in schema.SPLITS
        for path in version.shards(split)
        for example in reading.read_examples(version, split, path)
        for near in example.neighbors
    }
    assert len(found) > 100
    assert found <= trusted


# The parts ----------------------------------------------------------------------------------------


def test_shares_are_of_all_edges_and_of_the_strongest_quarter() -> None:
    found = shares(np.array([0.05, 0.1, 0.95, 1.0], "f4"), np.array([9.0, 1.0, 2.0, 3.0]))
    assert [row["edges"] for row in found] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert [row["strong"] for row in found] == [1.0, *[0.0] * 9]  # one of four edges is strong
    assert (found[9]["from"], found[9]["to"], found[9]["share"]) == (0.9, 1.0, 0.5)


def table_of(rows: list[tuple[int, int, float, float]]) -> pa.Table:
    names = [(f"img-{one}", f"img-{two}", 1, weight, trust) for one, two, weight, trust in rows]
    return pa.table(list(map(pa.array, zip(*names, strict=True))), schema=schema.AGREEMENT_SCHEMA)


def test_the_most_doubted_are_strong_edges() -> None:
    rows = [(i, i + 1, float(i), 0.5) for i in range(8)]
    rows += [(20, 1, 90.0, 0.3), (21, 1, 80.0, 0.1), (20, 2, 70.0, 0.2), (22, 1, 0.5, 0.0)]
    table = table_of(rows)
    assert most_doubted(table, 9) == ["img-21", "img-20"]
    assert most_doubted(table, 1) == ["img-21"]


def test_doubted_neighbours_are_drawn_beside_their_image(tmp_path: Path) -> None:
    examples = tiny_examples.write_examples(tmp_path, config={"seed": 0})
    seeds = [3, 7, 5]  # of three neighbours, of three, and of one, which is trusted
    rows = [
        (seed, other, weight, 0.1 if seed == 7 or slot else 0.9)
        for seed in seeds
        for slot, (other, weight) in enumerate(tiny_examples.neighbors_of(seed))
    ]
    png = draw_doubts(table_of(rows), [f"img-{i}" for i in (*seeds, 999)], examples)
    assert png is not None
    with Image.open(io.BytesIO(png)) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    alone = draw_doubts(table_of(rows), ["img-3"], examples)
    assert alone is not None
    with Image.open(io.BytesIO(alone)) as sheet:
        assert pixels.shape[0] == 2 * sheet.height - 12  # two rows and the space around them
    # The pictures are of one colour: that of image 3 is in the first row, of image 7 in the next.
    for index, row in ((3, 60), (7, 184)):
        shown = pixels[row, 240 + 48]  # the middle of the first neighbour
        expected = tiny_examples.COLOURS[tiny_examples.colour_of(index)]
        assert np.abs(shown - expected).max() < 30
    features = tiny_examples.write_examples(tmp_path / "f", tiny_examples.Form(features=True))
    assert draw_doubts(table_of(rows), ["img-3"], features) is None
