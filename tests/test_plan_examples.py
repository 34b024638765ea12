"""The plan of the examples: bytes within 15 % of what the run writes, and one line if broken."""

import dataclasses
import functools
import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_structure import ROOT

from cli import main, planning
from pipeline import schema
from pipeline.artifacts import RunDir
from pipeline.config import (
    EdgesConfig,
    ExamplesConfig,
    GraphConfig,
    ImagesConfig,
    PrivacyConfig,
    RunnerConfig,
)
from pipeline.examples import job, plan, sample, trial
from pipeline.examples.catalog import find
from pipeline.graph.edge_list import build_from_edges
from pipeline.runner import make_pipeline

COUNT, SIDE, DIM = 600, 32, 24
IDS = [f"image-{index:04d}" for index in range(COUNT)]


def picture(draw: np.random.Generator) -> bytes:
    """A ramp with noise, more of it in some than in others: the sizes of the files differ."""
    ramp = np.add.outer(np.arange(48), np.arange(40))[:, :, None] * draw.random(3)
    noise = draw.normal(0, draw.uniform(0, 30), (48, 40, 3))
    sink = io.BytesIO()
    Image.fromarray(np.clip(ramp + noise + 40, 0, 255).astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def write_catalog(folder, kind="pictures", *, count=COUNT, broken=0):
    draw = np.random.default_rng(1)
    os.makedirs(folder)
    columns = {
        "image_id": IDS[:count],
        "label": [f"class {index % 7}" if index % 2 else None for index in range(count)],
        "text": [f"picture {index} of something" for index in range(count)],
    }
    if kind == "features":
        columns["features"] = list(draw.normal(5, 3, (count, DIM)).astype(np.float32))
    else:
        columns["image"] = [
            b"\x89PNG broken" if index < broken else picture(draw) for index in range(count)
        ]
    pq.write_table(pa.table(columns), folder / "catalog.parquet", row_group_size=200)
    return folder / "catalog.parquet"


def write_graph(folder):
    """Two thirds of the images have 1 to 6 neighbours that lie near to one another."""
    draw = np.random.default_rng(2)
    src = np.repeat(np.arange(COUNT * 2 // 3), draw.integers(1, 7, COUNT * 2 // 3))
    dst = (src + draw.integers(1, 12, len(src))) % COUNT
    path = folder / "edges.parquet"
    ids = pa.array(IDS)
    pq.write_table(pa.table({"src": ids.take(pa.array(src)), "dst": ids.take(pa.array(dst))}), path)
    with RunDir.open(str(folder / "run")).begin(schema.GRAPH) as new:
        content = build_from_edges(
            config=EdgesConfig(path=str(path)),
            graph=GraphConfig(),
            privacy=PrivacyConfig(),
            seed=0,
            shards=1,
            threads=1,
            out=new,
            make_pipeline=functools.partial(make_pipeline, RunnerConfig()),
        )
        return new.commit(content)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return write_catalog(tmp_path_factory.mktemp("catalog") / "of")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return write_graph(tmp_path_factory.mktemp("graph"))


def planned(path, *, graph=None, edges=None, images=None, **examples):
    return plan.plan_examples(
        images=ImagesConfig(path=str(path), image_size=SIDE, **(images or {})),
        examples=ExamplesConfig(**examples),
        seed=0,
        graph=graph,
        edges=edges,
        shards="auto",
        threads=2,
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("pictures", {}),
        ("pictures", {"image_encoding": "raw", "layout": "compact"}),
        ("features", {"readers": 3, "neighbors": 2}),
    ],
    ids=str,
)
def test_the_planned_bytes_are_those_of_the_run(tmp_path, graph, kind, options):
    path = write_catalog(tmp_path / "catalog", kind)
    found = planned(path, graph=graph, **options)
    with RunDir.open(str(tmp_path / "run")).begin(schema.EXAMPLES) as new:
        manifest = job.build_examples(
            images=ImagesConfig(path=str(path), image_size=SIDE),
            examples=ExamplesConfig(**options),
            seed=0,
            graph=graph,
            out=new,
            shards="auto",
            make_pipeline=functools.partial(make_pipeline, RunnerConfig()),
        )
        sizes = [
            os.path.getsize(entry) for entry in os.scandir(new.path) if "tfrecord" in entry.name
        ]
    assert found.written_bytes == pytest.approx(sum(sizes), rel=0.15)
    assert found.exact
    assert found.images == sum(of["records"] for of in manifest["splits"].values())
    assert found.files == {split: of["files"] for split, of in manifest["splits"].items()}


def test_every_layout_and_encoding_is_planned(catalog):
    sizes = planned(catalog).output_bytes
    assert [*sizes] == ["nsl", "compact"]
    assert [*sizes["nsl"]] == [*sizes["compact"]] == ["jpeg", "png", "raw"]
    assert all(sizes["compact"][name] < size for name, size in sizes["nsl"].items())
    configured = planned(catalog, layout="compact", image_encoding="jpeg")
    assert configured.written_bytes == sizes["compact"]["jpeg"]


def test_an_example_is_k_plus_1_images(catalog):
    alone = planned(catalog, neighbors=0)
    assert 1 < alone.example_bytes / alone.content_bytes < 1.5
    four = planned(catalog, neighbors=4)
    assert 5 < four.example_bytes / four.content_bytes < 6.5
    assert four.written_bytes == pytest.approx(COUNT * four.example_bytes, rel=1e-6)


def test_compression_shrinks_numbers_and_leaves_pictures(tmp_path, catalog):
    packed, plain = (planned(catalog, compression=name) for name in ("gzip", "none"))
    assert packed.written_bytes == pytest.approx(plain.written_bytes, rel=0.01)
    features = write_catalog(tmp_path / "features", "features")
    packed, plain = (planned(features, compression=name) for name in ("gzip", "none"))
    assert packed.written_bytes < 0.95 * plain.written_bytes
    assert packed.encoding == "features"


def test_the_graph_in_force_tells_the_neighbours_else_the_plan_of_one(catalog, graph):
    found = planned(catalog, graph=graph, edges=COUNT)
    degrees = pq.read_table(graph.shards(schema.NODES)[0])["degree"].to_numpy()
    assert found.neighbors.mean == pytest.approx(np.minimum(degrees, 5).sum() / COUNT)
    assert graph.name in found.neighbors.source
    assert planned(catalog, edges=2 * COUNT).neighbors.mean == 2
    assert planned(catalog, edges=90 * COUNT).neighbors.mean == 5
    assert planned(catalog).neighbors.mean == 5


@pytest.mark.parametrize("extension", ["csv", "jsonl", "folder"])
def test_rows_are_counted_where_that_is_cheap_and_else_told_by_bytes(
    tmp_path, monkeypatch, extension
):
    folder = tmp_path / "catalog"
    os.makedirs(folder)
    with open(folder / f"rows.{extension}", "w") as file:
        if extension == "csv":
            file.write("image_id,uri\n")
        for name in IDS:
            row = {"image_id": name, "uri": f"{name}.png"}
            file.write((json.dumps(row) if extension == "jsonl" else f"{name},{name}.png") + "\n")
    if extension == "folder":
        (folder / "rows.folder").unlink()
        for name in IDS:
            (folder / f"{name}.png").write_bytes(b"")
    tasks = find.inspect(ImagesConfig(path=str(folder))).tasks
    assert sample.count_rows(tasks) == (COUNT, True)
    monkeypatch.setattr(sample, "_COUNTED_BYTES", 0)
    rows, exact = sample.count_rows(tasks)
    assert rows == pytest.approx(COUNT, rel=0.1)
    assert exact == (extension == "folder")


def test_a_catalog_that_would_fail_is_told_before(tmp_path):
    path = write_catalog(tmp_path / "catalog", count=100, broken=30)
    found = planned(path)
    (note,) = found.notes
    assert "30%" in note
    assert "max_rejected_fraction" in note
    assert found.images == 70
    assert not planned(path, images={"max_rejected_fraction": 0.5}).notes


@given(seeds=st.integers(1, 60), mean=st.floats(0, 9), most=st.integers(9, 12))
def test_each_image_of_the_sample_is_a_neighbour_about_equally_often(seeds, mean, most):
    degrees = trial.draw_degrees(seeds, mean)
    assert abs(degrees.sum() - mean * seeds) <= 1
    assert degrees.max() - degrees.min() <= 1
    near = trial.draw_neighbors(pa.table({"x": range(seeds)}), degrees, most)
    assert ((near.rows >= 0).sum(axis=1) == degrees).all()
    assert ((near.weights > 0) == (near.rows >= 0)).all()
    times = np.bincount(near.rows[near.rows >= 0], minlength=seeds)
    assert times.max() - times.min() <= max(2, degrees.max())
    edges = trial.draw_edges(degrees)
    assert len(edges.senders) == edges.counts.sum()
    assert (edges.counts >= degrees).all()
    assert (edges.senders != edges.receivers).all()


def run(capsys, *arguments):
    code = main.run(["plan", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


SMALL = ("--set", f"images.image_size={SIDE}")


def test_the_command_plans_a_catalog_alone_and_writes_nothing(tmp_path, capsys, catalog):
    code, out, err = run(capsys, "--images", catalog, "--run-dir", tmp_path / "new", *SMALL)
    assert (code, err) == (0, "")
    assert "K + 1 = 6 images" in out
    assert out.count("[") == 1  # what is configured
    assert "build-graph" not in out
    assert not (tmp_path / "new").exists()


def test_logs_and_catalog_are_planned_together(tmp_path, capsys, catalog):
    with open(tmp_path / "log.jsonl", "w") as file:
        for session in range(300):
            for image in (session % 50, session % 50 + 1):
                row = {"session_id": f"s{session}", "image_id": IDS[image]}
                file.write(json.dumps(row) + "\n")
    arguments = ("--sessions", tmp_path / "log.jsonl", "--images", catalog, *SMALL)
    arguments += ("--run-dir", tmp_path / "new")
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.index("build-graph, ") < out.index("examples, ")
    code, out, _ = run(capsys, *arguments, "--json")
    content = json.loads(out)
    assert code == 0
    assert content["graph"]["counts"]["edges"] == 100
    assert content["examples"]["neighbors"]["mean"] == pytest.approx(100 / COUNT)
    assert content["examples"]["output_bytes"]["nsl"]["png"] > 0


def test_nothing_of_the_libraries_reaches_the_terminal(tmp_path, catalog):
    arguments = ["plan", "--images", str(catalog), "--run-dir", str(tmp_path / "new"), "--json"]
    found = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert found.stderr == ""
    assert json.loads(found.stdout)["examples"]["images"] == COUNT


def unusable(folder):
    return write_catalog(folder / "catalog", count=20, broken=20)


def twice(folder):
    folder.mkdir(exist_ok=True)
    table = pa.table({"image_id": ["a", "a"], "features": [[1.0], [2.0]]})
    pq.write_table(table, folder / "catalog.parquet")
    return folder / "catalog.parquet"


def missing(folder):
    return folder / "catalog.parquet"


@pytest.mark.parametrize("make", [unusable, twice, missing])
def test_what_cannot_be_planned_is_one_line(tmp_path, capsys, make):
    code, out, err = run(capsys, "--images", make(tmp_path), "--run-dir", tmp_path / "run")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "images" in err


def test_a_machine_too_small_for_the_examples_is_told_what_to_do(catalog):
    found = dataclasses.replace(
        planned(catalog), memory_bytes=9_000_000_000, disk_bytes=9_000_000_000
    )
    memory, disk = planning.advise_examples(found, planning.Room(4_000_000_000, 4_000_000_000))
    assert memory.startswith("needs about 9.0 GB of memory, 4.0 GB are free: ")
    assert disk.startswith("needs about 9.0 GB of disk while it runs, 4.0 GB are free: ")
    assert planning.advise_examples(found, planning.Room(None, None)) == []
