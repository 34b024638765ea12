"""`imgembed explain`: every number about a pair of images, against arithmetic and plain loops."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_runs import (
    at_angle,
    commit,
    example,
    feature_examples,
    save_embeddings,
    save_examples,
    save_table,
    version,
)
from PIL import Image

from cli import main
from pipeline import schema
from pipeline.artifacts import RunDir, Version
from pipeline.embeddings.explain import explain
from pipeline.errors import ImgembedError
from pipeline.hashing import hash_values
from pipeline.ids import IMAGE_SALT

ANGLES = {"a": 0, "b": 10, "c": 50, "d": 180, "e": 10}
# src, dst, rank, weight, sessions, users, strength, src_sessions, dst_sessions
EDGES = [
    ("a", "b", 2, 5.0, 4, 3, 4.5, 10, 8),
    ("a", "c", 1, 9.0, 2, 2, 2.0, 10, 4),
    ("b", "c", 1, 1.5, 2, 2, 2.0, 8, 4),
    ("a", "d", 3, 1.0, 1, 1, 1.0, 10, 2),
    ("b", "d", 2, 1.2, 1, 1, 1.0, 8, 2),
    ("d", "a", 1, 1.0, 1, 1, 1.0, 2, 10),
]
QUERIES = [
    ("red", "a", 3, 2),
    ("red", "b", 2, 2),
    ("\x1b[31mbad", "a", 5, 2),
    ("\x1b[31mbad", "b", 1, 1),
    ("blue", "a", 9, 2),
    ("green", "b", 9, 2),
]


def save_graph(folder: Path, **manifest: Any) -> Version:
    graph = version(schema.GRAPH, folder, population=100, **manifest)
    save_table(graph, schema.EDGES, schema.EDGE_SCHEMA, EDGES)
    nodes = [("a", 10, 3), ("b", 8, 2), ("c", 4, 0), ("d", 2, 1), ("logs only", 1, 0)]
    save_table(graph, schema.NODES, schema.NODE_SCHEMA, nodes)
    save_table(graph, schema.QUERIES, schema.QUERY_SCHEMA, QUERIES)
    return graph


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("run")
    examples = feature_examples(folder / "examples" / "v0001")
    examples.manifest.update(config={"seed": 0}, classes=["round", "square"])
    agreement = version(
        schema.AGREEMENT, folder / "agreement" / "v0001", upstream={"graph": "v0001"}
    )
    rows = [(*row[:4], 0.25 * number) for number, row in enumerate(EDGES)]
    save_table(agreement, schema.AGREEMENTS, schema.AGREEMENT_SCHEMA, rows)
    for made in (
        save_graph(folder / "graph" / "v0001"),
        save_embeddings(folder / "embeddings" / "v0001", ANGLES, {}),
        examples,
        agreement,
    ):
        commit(made)
    return RunDir.open(str(folder))


def test_images_are_named_with_their_sessions_and_labels(run: RunDir) -> None:
    found = explain(run, "a", "d")
    assert found["a"] == {
        "image_id": "a",
        "embedded": True,
        "sessions": 10,
        "degree": 3,
        "split": "train",
        "labels": ["round"],
    }
    assert (found["b"]["split"], found["b"]["labels"]) == ("test", ["square"])


def test_ranks_are_those_of_sorting_all_others(run: RunDir) -> None:
    for first in ANGLES:
        for second in ANGLES.keys() - {first}:
            found = explain(run, first, second)["embedding"]
            # b and e are the same vector: the tie goes to the id that comes first.
            ranks = []
            for query, target in ((first, second), (second, first)):
                others = sorted(
                    ANGLES.keys() - {query},
                    key=lambda name, query=query: (
                        -round(float(at_angle(ANGLES[query]) @ at_angle(ANGLES[name])), 6),
                        name,
                    ),
                )
                ranks.append(others.index(target) + 1)
            assert [found["rank_of_b_for_a"], found["rank_of_a_for_b"]] == ranks
            cosine = np.cos(np.radians(ANGLES[first] - ANGLES[second]))
            assert found["cosine"] == pytest.approx(cosine, abs=1e-6)
            assert found["others"] == 4


def test_edges_and_counts_are_those_of_the_graph(run: RunDir) -> None:
    found = explain(run, "b", "a")
    assert found["edges"] == [
        {
            "src": "a",
            "dst": "b",
            "rank": 2,
            "weight": 5.0,
            "sessions": 4,
            "users": 3,
            "strength": 4.5,
            "agreement": 0.0,
        }
    ]
    together = found["together"]
    assert {name: together[name] for name in ("sessions", "sessions_a", "sessions_b")} == {
        "sessions": 4,
        "sessions_a": 8,
        "sessions_b": 10,
    }
    # Of 100 sessions 8 and 10 hold them: 0.8 by chance, and 4 do.
    assert together["expected"] == pytest.approx(0.8)
    assert together["lift"] == pytest.approx(5.0)
    assert together["jaccard"] == pytest.approx(4 / 14, abs=1e-6)
    assert together["npmi"] == pytest.approx(np.log(5) / np.log(25), abs=1e-6)
    cells = np.array([4.0, 4.0, 6.0, 86.0])
    expected = np.array([0.8, 7.2, 9.2, 82.8])
    assert together["llr"] == pytest.approx(2 * np.sum(cells * np.log(cells / expected)), abs=1e-5)


def test_both_directions_of_an_edge_are_shown(run: RunDir) -> None:
    found = explain(run, "d", "a")["edges"]
    assert [(edge["src"], edge["dst"], edge["agreement"]) for edge in found] == [
        ("d", "a", 1.25),
        ("a", "d", 0.75),
    ]


def test_shared_neighbours_and_queries_come_with_both_numbers(run: RunDir) -> None:
    found = explain(run, "a", "b")
    assert found["shared_neighbors"] == {
        "count": 2,
        "neighbors_a": 3,
        "neighbors_b": 2,
        "shown": [
            {"image_id": "c", "weight_a": 9.0, "weight_b": 1.5},
            {"image_id": "d", "weight_a": 1.0, "weight_b": 1.2},
        ],
    }
    assert found["common_queries"] == {
        "count": 2,
        "queries_a": 3,
        "queries_b": 3,
        "shown": [
            {"query": "red", "sessions_a": 3, "sessions_b": 2},
            {"query": "\x1b[31mbad", "sessions_a": 5, "sessions_b": 1},
        ],
    }


def test_raw_features_are_compared_as_they_are(run: RunDir) -> None:
    # a (2, 1) and b (-2, 1): -3 / 5.
    assert explain(run, "a", "b")["raw"] == {"of": "features", "cosine": -0.6}
    assert explain(run, "a", "e")["raw"] is None


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_pictures_are_compared_by_their_shrunk_pixels(tmp_path: Path, encoding: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    records = []
    for name, picture in zip("ab", pixels, strict=True):
        sink = io.BytesIO()
        Image.fromarray(picture).save(sink, "PNG")
        content = sink.getvalue() if encoding == "png" else picture.tobytes()
        records.append(example({"image_id": name.encode(), "image": content}))
    splits = {"train": records, "validation": [], "test": []}
    examples = save_examples(tmp_path / "examples" / "v0001", splits, encoding=encoding)
    examples.manifest["config"] = {"seed": 0}
    commit(examples)
    commit(save_embeddings(tmp_path / "embeddings" / "v0001", ANGLES, {}))
    small = np.rint(pixels.reshape(2, 16, 2, 16, 2, 3).mean(axis=(2, 4)))
    one, other = (small - small.mean(axis=(1, 2), keepdims=True)).reshape(2, -1)
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    found = explain(RunDir.open(str(tmp_path)), "a", "b")["raw"]
    assert found["of"] == "pixels"
    assert found["cosine"] == pytest.approx(cosine, abs=0.005)  # halves are rounded otherwise


def test_a_pair_without_an_edge_says_what_is_not_known(run: RunDir) -> None:
    found = explain(run, "c", "d")
    assert found["edges"] == []
    assert found["together"]["sessions"] is None
    assert found["together"]["llr"] is None
    assert found["together"]["expected"] == pytest.approx(0.08)


def test_kept_counts_tell_of_a_pair_without_an_edge(tmp_path: Path) -> None:
    graph = save_graph(tmp_path / "graph" / "v0001")
    low, high = sorted(hash_values(pa.array(["c", "d"]), salt=IMAGE_SALT).tolist())
    counts = Path(graph.path) / schema.COUNTS_FOLDER
    counts.mkdir()
    table = pa.table(
        [[low], [high], [1], [1], [1 << 28]],
        schema=schema.PAIR_COUNT_SCHEMA,
    )
    pq.write_table(table, counts / schema.shard_name(schema.COUNTED_PAIRS, 0, 1, "parquet"))
    commit(graph)
    run = RunDir.open(str(tmp_path))
    assert explain(run, "d", "c")["together"]["sessions"] == 1
    assert explain(run, "d", "c")["together"]["lift"] == pytest.approx(1 * 100 / (4 * 2))
    assert explain(run, "c", "logs only")["together"]["sessions"] == 0
    # Without embeddings the logs are told of, and nothing else.
    assert explain(run, "a", "b")["embedding"] is None
    assert explain(run, "a", "b")["raw"] is None


def test_an_image_of_the_logs_alone_is_explained_as_far_as_that_goes(run: RunDir) -> None:
    found = explain(run, "a", "logs only")
    assert found["embedding"] is None
    assert (found["b"]["embedded"], found["b"]["sessions"]) == (False, 1)
    in_catalog_only = explain(run, "e", "a")
    assert (in_catalog_only["a"]["sessions"], in_catalog_only["together"]) == (0, None)


def test_embeddings_alone_are_enough(tmp_path: Path) -> None:
    commit(save_embeddings(tmp_path / "embeddings" / "v0001", ANGLES, {}))
    found = explain(RunDir.open(str(tmp_path)), "a", "c")
    assert found["embedding"]["rank_of_b_for_a"] == 3
    assert found["edges"] is None
    assert found["shared_neighbors"] is None


def test_agreement_of_another_graph_is_left_out(tmp_path: Path) -> None:
    commit(save_graph(tmp_path / "graph" / "v0001"))
    agreement = version(
        schema.AGREEMENT, tmp_path / "agreement" / "v0001", upstream={"graph": "v0000"}
    )
    commit(agreement)
    (edge,) = explain(RunDir.open(str(tmp_path)), "a", "b")["edges"]
    assert edge["agreement"] is None


# The command -------------------------------------------------------------------------------------


def imgembed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    found = main.run([*arguments])
    out, err = capsys.readouterr()
    assert found == code, err
    return out if code == 0 else err


def test_the_lines_say_every_number(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    text = imgembed(capsys, "explain", "a", "b", "--run-dir", run.path)
    for part in (
        "cosine 0.985; B is number 1 for A and A number 2 for B, of 4",
        "cosine -0.600 of features",
        "a → b: rank 2, weight 5, sessions 4, users 3, strength 4.5, agreement 0.00",
        "in 4 of 100 sessions (0.8 by chance): llr ",
        "2 shared, of 3 and 2: c (9 and 1.5), d (1 and 1.2)",
        '"red" (3 and 2 sessions)',
    ):
        assert part in text
    assert "\x1b" not in text  # a query is other people's input
    found = json.loads(imgembed(capsys, "explain", "a", "b", "--json", "--run-dir", run.path))
    assert found == explain(run, "a", "b")


def test_ids_that_are_not_there_are_one_line(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for first, second, part in (
        ("a", "logs onlly", "did you mean 'logs only'?"),
        ("zzz", "a", "'zzz': neither among the embeddings nor in the graph\n"),
        ("a", "a", "is one image; name two"),
        ("a", "caf\udce9", "is not UTF-8"),
    ):
        line = imgembed(capsys, "explain", first, second, "--run-dir", run.path, code=1)
        assert part in line
        assert line.count("\n") == 1
    line = imgembed(capsys, "explain", "a", "b", "--run-dir", str(tmp_path / "new"), code=1)
    assert "no graph yet" in line
    with pytest.raises(ImgembedError):
        explain(RunDir.open(str(tmp_path / "new")), "a", "b")


@pytest.mark.parametrize("stage", ["graph", "examples", "embeddings", "agreement"])
def test_a_version_that_lost_a_file_is_one_line(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    manifest = copy / stage / "v0001" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"file_bytes": {"lost.parquet": 10}}))
    line = imgembed(capsys, "explain", "a", "b", "--run-dir", str(copy), code=1)
    assert f"{stage}/v0001/lost.parquet: is gone since it was committed" in line
    assert line.count("\n") == 1


def test_neither_beam_nor_tensorflow_is_loaded(run: RunDir) -> None:
    code = (
        "import sys; from cli import main; "
        f"main.run(['explain', 'a', 'b', '--run-dir', {run.path!r}]); "
        "print([name for name in ('apache_beam', 'tensorflow') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
