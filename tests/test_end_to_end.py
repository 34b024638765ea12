"""The whole program as a user meets it: its own process, its files, every line of its output."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

PROGRAM = Path(sys.executable).with_name("imgembed")


def imgembed(*arguments, cwd, code=0):
    """(stdout, stderr) of a command; both as the user sees them."""
    result = subprocess.run(
        [str(PROGRAM), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert result.returncode == code, result.stderr[-2000:]
    return result.stdout, result.stderr


def one_line(*arguments, cwd, code=1):
    """The one line that a command fails with."""
    stdout, stderr = imgembed(*arguments, cwd=cwd, code=code)
    lines = [line for line in stderr.splitlines() if not re.match("✓ |.* …$|  [0-9,]+ × ", line)]
    assert stdout == ""
    assert len(lines) == 1, stderr
    assert lines[0].startswith("imgembed: ")
    return lines[0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small demo's folder, with what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    stdout, stderr = imgembed(
        "demo", "--images", 240, "--sessions", 2000, "--set", "training.epochs=2", cwd=folder
    )
    return folder, stdout, stderr


def test_the_demo_ends_with_the_table_and_the_paths(demo):
    folder, stdout, _ = demo
    for words in ("image to image", "text to image", "popularity", "co-occurrence only"):
        assert words in stdout
    for path in re.findall(r"^  (\S+): ", stdout, re.MULTILINE):
        if path.startswith("imgembed-demo"):
            assert (folder / path).exists(), path
    with Image.open(folder / "imgembed-demo" / "results.png") as sheet:
        assert sheet.width > 600
        assert sheet.height > 400


def test_every_line_of_the_demo_is_for_the_user(demo):
    _, _, stderr = demo
    expected = re.compile(r"(✓ .*|\S.* …|  epoch \d+/\d+ .*|  [\d,]+ × .*)")
    for line in stderr.splitlines():
        assert expected.fullmatch(line), line


def test_the_noise_of_the_libraries_is_in_the_log_file(demo):
    folder, _, _ = demo
    (log,) = (folder / "imgembed-demo" / "run" / "logs").iterdir()
    assert "tensorflow" in log.read_text().lower()


def test_a_second_demo_makes_nothing_anew(demo):
    folder, _, _ = demo
    models = folder / "imgembed-demo" / "run" / "model"
    before = sorted(os.listdir(models))
    _, stderr = imgembed(
        "demo", "--images", 240, "--sessions", 2000, "--set", "training.epochs=2", cwd=folder
    )
    assert stderr.count("is up to date") == 7
    assert sorted(os.listdir(models)) == before


def test_run_finds_what_the_demo_has_made(demo):
    folder, _, _ = demo
    data = Path("imgembed-demo") / "data"
    command = ["run", "--run-dir", "imgembed-demo/run", "--set", "training.epochs=2"]
    command += ["--sessions", data / "sessions", "--images", data / "catalog" / "catalog.jsonl"]
    stdout, stderr = imgembed(*command, "--json", cwd=folder)
    summary = json.loads(stdout)
    stages = ["graph", "examples", "model", "embeddings", "index", "evaluation", "report"]
    assert [(row["stage"], row["done"]) for row in summary["stages"]] == [
        (stage, "reused") for stage in stages
    ]
    assert stderr.splitlines() == [f"✓ {stage} v0001 is up to date" for stage in stages]
    log = (folder / summary["log"]).read_text()
    assert "imgembed run --run-dir imgembed-demo/run" in log
    assert "evaluation   v0001     reused" in log


def test_search_answers_by_text_by_picture_and_by_id(demo):
    folder, _, _ = demo
    run = ("--run-dir", "imgembed-demo/run")
    catalog = folder / "imgembed-demo" / "data" / "catalog"
    rows = [json.loads(line) for line in (catalog / "catalog.jsonl").read_text().splitlines()]
    picture = catalog / rows[0]["uri"]
    by_picture = json.loads(
        imgembed("search", *run, "--image", picture, "-k", 3, "--json", cwd=folder)[0]
    )
    # The picture itself is in the catalog: same tower, same preprocessing, so the cosine is 1.
    assert by_picture[0]["image_id"] == rows[0]["image_id"]
    assert by_picture[0]["score"] == pytest.approx(1.0, abs=1e-5)
    stdout, stderr = imgembed("search", *run, "--text", "striped red triangle", cwd=folder)
    assert len(stdout.splitlines()) == 10
    assert stderr == ""
    stdout, _ = imgembed("search", *run, "--image-id", rows[0]["image_id"], "-k", 5, cwd=folder)
    assert rows[0]["image_id"] not in stdout


def test_an_example_is_shown_as_it_was_written(demo):
    folder, _, _ = demo
    stdout, stderr = imgembed("examples", "show", "imgembed-demo/run", "--json", cwd=folder)
    assert stderr == ""
    shown = json.loads(stdout)
    catalog = folder / "imgembed-demo" / "data" / "catalog" / "catalog.jsonl"
    rows = {row["image_id"]: row for row in map(json.loads, catalog.read_text().splitlines())}
    assert shown["image_id"] in rows
    assert shown["split"] == "train"
    assert {neighbor["image_id"] for neighbor in shown["neighbors"]} <= rows.keys()
    assert [edge["receiver"] for edge in shown["edges"] if edge["sender"] == 0] == [
        neighbor["slot"] + 1 for neighbor in shown["neighbors"]
    ]


def test_the_same_settings_give_the_same_embeddings(demo, tmp_path):
    folder, _, _ = demo
    data = folder / "imgembed-demo" / "data"
    catalog = data / "catalog" / "catalog.jsonl"
    common = ("--run-dir", tmp_path / "run", "--quiet")
    imgembed(
        "build-graph", "--sessions", data / "sessions", "--images", catalog, *common, cwd=tmp_path
    )
    imgembed("train", "--set", "training.epochs=2", *common, cwd=tmp_path)

    def files(run):
        return {
            path.relative_to(run): path.read_bytes()
            for stage in ("graph", "examples", "embeddings")
            for pattern in ("*.parquet", "*.tfrecord*", "*.pbtxt")
            for path in sorted((run / stage).rglob(pattern))
        }

    expected = files(folder / "imgembed-demo" / "run")
    assert len(expected) >= 9
    found = files(tmp_path / "run")
    assert found.keys() == expected.keys()
    for name, content in found.items():
        if "embeddings" in name.parts:  # all but the model version, which knows the inputs' paths
            assert vectors(content).equals(vectors(expected[name])), name
        else:
            assert content == expected[name], name


def vectors(parquet):
    return pq.read_table(io.BytesIO(parquet)).drop_columns(["model_version"])


def test_what_is_wrong_is_one_line(demo, tmp_path):
    folder, _, _ = demo
    data = folder / "imgembed-demo" / "data"
    sessions = str(data / "sessions")
    assert "no file at 'nowhere/'" in one_line(
        "build-graph", "--sessions", "nowhere/", cwd=tmp_path
    )
    assert "no column 'foto'; it has" in one_line(
        "build-graph",
        "--sessions",
        sessions,
        "--set",
        "sessions.columns={image_id: foto}",
        cwd=tmp_path,
    )
    (tmp_path / "bad.yaml").write_text("graph: {top_k: many}")
    assert "bad.yaml: graph.top_k: wanted a valid integer" in one_line(
        "build-graph", "--config", "bad.yaml", cwd=tmp_path, code=2
    )
    assert "give --sessions PATH" in one_line("build-graph", cwd=tmp_path, code=2)
    assert "no examples yet; make it with: imgembed build-graph" in one_line("train", cwd=tmp_path)
    assert "no embeddings yet; make it with: imgembed export" in one_line(
        "search", "--text", "x", cwd=tmp_path
    )
    assert "holds something else" in one_line(
        "build-graph", "--sessions", sessions, "--run-dir", data, cwd=tmp_path
    )
    assert "nothing to search for" in one_line("search", cwd=tmp_path, code=2)
    assert "No such command 'tarin'" in one_line("tarin", cwd=tmp_path, code=2)
    assert "wanted one in a bucket" in one_line(
        "build-graph", "--sessions", sessions, "--runner", "dataflow", cwd=tmp_path, code=2
    )
    assert "'dask' drops outputs" in one_line(
        "build-graph", "--sessions", sessions, "--runner", "dask", cwd=tmp_path, code=2
    )


def test_an_interrupted_training_is_one_line_and_goes_on_when_it_is_asked_to(demo):
    folder, _, _ = demo
    command = ["train", "--no-export", "--run-dir", "imgembed-demo/run"]
    command += ["--set", "training.epochs=4"]
    process = subprocess.Popen(
        [str(PROGRAM), *command],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        # A process started in the background ignores SIGINT, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    lines = iter(process.stderr.readline, "")
    for line in lines:
        if "epoch 1/" in line:
            process.send_signal(signal.SIGINT)
            break
    rest = list(lines)
    assert process.wait() == 130
    stopped = re.fullmatch(
        r"imgembed: interrupted at step ([\d,]+) of [\d,]+; imgembed train goes on from there "
        r"\(same configuration, without --force\)\n",
        rest[-1],
    )
    model = folder / "imgembed-demo" / "run" / "model"
    assert sorted(os.listdir(model)) == [".checkpoints", "CURRENT", "v0001"]
    _, stderr = imgembed(*command, cwd=folder)
    assert f"goes on from step {stopped[1]}" in stderr
    assert sorted(os.listdir(model)) == ["CURRENT", "v0001", "v0002"]


def test_a_catalog_without_any_image_of_the_graph_says_so(demo, tmp_path):
    data = demo[0] / "imgembed-demo" / "data"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "stranger.png")
    line = one_line(
        "build-graph", "--sessions", data / "sessions", "--images", pictures, cwd=tmp_path
    )
    assert "stranger" in line


def test_init_writes_a_file_that_runs(demo, tmp_path):
    data = demo[0] / "imgembed-demo" / "data"
    imgembed("init", "--sessions", data / "sessions", cwd=tmp_path)
    stdout, _ = imgembed("build-graph", "--config", "cfg.yaml", "--json", cwd=tmp_path)
    assert json.loads(stdout)["graph"]["counts"]["edges"]["kept"] > 0
    assert "is there already" in one_line("init", cwd=tmp_path, code=2)
