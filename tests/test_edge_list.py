"""A ready edge list in place of the logs: rows kept or counted, pruned as plain Python does."""

import json
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_logs import files, run_command, table
from test_tables import write

from pipeline import schema
from pipeline.artifacts import RunDir
from pipeline.config import EdgesConfig, GraphConfig, RunnerConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.graph.edge_list import build_from_edges
from pipeline.runner import make_pipeline


def build(run_dir, path, *, shards=1, threads=1, seed=0, edges=None, **graph):
    """The graph of an edge list, as a committed version of a run directory."""
    run = RunDir.open(str(run_dir))
    with run.begin("graph") as new:
        content = build_from_edges(
            config=EdgesConfig(path=str(path), **(edges or {})),
            graph=GraphConfig(**graph),
            seed=seed,
            shards=shards,
            threads=threads,
            out=new,
            make_pipeline=lambda: make_pipeline(RunnerConfig()),
        )
        return new.commit(content)


def random_edges(seed=0, images=40, edges=500):
    """{(src, dst): weight}, all weights different; a few images have many edges to them."""
    draw = random.Random(seed)
    found = {}
    while len(found) < edges:
        src, dst = draw.randrange(images), int(images * draw.random() ** 3)
        if src != dst:
            found[f"image {src}", f"é{dst}"] = round(draw.random(), 9)
            if draw.random() < 0.5:  # ids on both sides, some edges in both directions
                found[f"é{dst}", f"image {src}"] = round(draw.random(), 9)
    assert len(set(found.values())) == len(found)
    return found


EDGES = random_edges()


def as_rows(edges):
    return [{"src": src, "dst": dst, "weight": weight} for (src, dst), weight in edges.items()]


def strongest(edges, limit, end):
    """The `limit` heaviest at each end (0 = src, 1 = dst)."""
    groups = {}
    for edge, weight in edges.items():
        groups.setdefault(edge[end], []).append((weight, edge))
    return {edge: weight for group in groups.values() for weight, edge in sorted(group)[-limit:]}


def prune_by_hand(edges, *, top_k=10, max_degree=10**9, symmetry="directed"):
    """({(src, dst): weight}, what each step leaves)."""
    left = {"positive_weight": len(edges)}
    edges = strongest(edges, max_degree, 1)
    if max_degree < 10**9:
        left["max_degree"] = len(edges)
    edges = strongest(edges, top_k, 0)
    left["top_k"] = len(edges)
    if symmetry == "mutual":
        edges = {edge: weight for edge, weight in edges.items() if edge[::-1] in edges}
    if symmetry == "union":
        edges = {edge[::-1]: weight for edge, weight in edges.items()} | edges
    if symmetry != "directed":
        left[symmetry] = len(edges)
    return edges, left


def found_edges(version):
    return {(edge["src"], edge["dst"]): edge["weight"] for edge in table(version, "edges")}


def largest_hubs(edges):
    """The ten images that most edges lead to, with how many do."""
    into = {}
    for _, dst in edges:
        into[dst] = into.get(dst, 0) + 1
    return sorted(into.items(), key=lambda item: (-item[1], item[0]))[:10]


def listed_hubs(version, when):
    return [(hub["image_id"], hub["degree"]) for hub in version.manifest["hubs"][when]]


@pytest.mark.parametrize(
    "graph",
    [
        {"top_k": 3},
        {"top_k": 6, "max_degree": 4, "symmetry": "mutual"},
        {"top_k": 2, "max_degree": 7, "symmetry": "union"},
    ],
)
def test_a_list_is_pruned_as_plain_python_prunes_it(tmp_path, graph):
    write(tmp_path / "edges.parquet", as_rows(EDGES), row_group_size=100)
    one = build(tmp_path / "1", tmp_path / "edges.parquet", **graph)
    expected, left = prune_by_hand(EDGES, **graph)
    assert found_edges(one) == expected
    counts = one.manifest["counts"]
    assert list(counts["pruning"].items()) == list(left.items())
    assert counts["edges"] == {"kept": len(expected)}
    ranks = {}
    for edge in table(one, "edges"):
        ranks.setdefault(edge["src"], []).append((edge["rank"], -edge["weight"]))
    for of_source in ranks.values():
        assert of_source == sorted(of_source)
        assert [rank for rank, _ in of_source] == list(range(1, len(of_source) + 1))
    degree = {image: 0 for edge in EDGES for image in edge}
    for src, _ in expected:
        degree[src] += 1
    assert {node["image_id"]: node["degree"] for node in table(one, "nodes")} == degree
    assert listed_hubs(one, "after") == largest_hubs(expected)
    if "max_degree" in graph:
        assert listed_hubs(one, "before") == largest_hubs(EDGES)
    many = build(tmp_path / "7", tmp_path / "edges.parquet", shards=7, threads=2, **graph)
    assert files(many) == files(one)
    assert many.manifest["counts"] == counts


def test_the_files_are_those_of_logs_with_counts_that_nobody_knows(tmp_path):
    write(tmp_path / "edges.parquet", as_rows(EDGES))
    version = build(tmp_path / "run", tmp_path / "edges.parquet", edges_tsv=True)
    for prefix, columns in (
        ("edges", schema.EDGE_SCHEMA),
        ("nodes", schema.NODE_SCHEMA),
        ("queries", schema.QUERY_SCHEMA),
        ("holdout", schema.HOLDOUT_SCHEMA),
    ):
        found = pq.read_table(version.shards(prefix))
        assert found.schema.remove_metadata() == columns, prefix
        assert (found.num_rows > 0) == (prefix in ("edges", "nodes"))
    edges = pq.read_table(version.shards("edges"))
    counts = ("sessions", "users", "strength", "src_sessions", "dst_sessions")
    assert all(edges[name].null_count == edges.num_rows for name in counts)
    nodes = pq.read_table(version.shards("nodes"))
    assert nodes["sessions"].null_count == nodes.num_rows
    lines = Path(version.path, "edges.tsv").read_text().splitlines()
    read = {(src, dst): float(weight) for src, dst, weight in (s.split("\t") for s in lines)}
    assert read == found_edges(version)
    assert {path.name for path in Path(version.path).iterdir() if path.is_dir()} == set()


def test_a_list_of_any_formats_and_of_other_names_gives_the_same_bytes(tmp_path):
    few = dict(list(EDGES.items())[:60])
    write(tmp_path / "edges.parquet", as_rows(few))
    expected = files(build(tmp_path / "1", tmp_path / "edges.parquet"))
    names = {"src": "from", "dst": "to", "weight": "how much"}
    rows = [{theirs: row[ours] for ours, theirs in names.items()} for row in as_rows(few)]
    random.Random(3).shuffle(rows)
    (tmp_path / "list").mkdir()
    for number, extension in enumerate(("tsv", "csv.gz", "jsonl.zst", "parquet")):
        write(tmp_path / "list" / f"{number}.{extension}", rows[number::4])
    version = build(tmp_path / "2", tmp_path / "list", edges={"columns": names}, shards=2)
    assert files(version) == expected
    assert version.manifest["inputs"]["files"] == 4
    assert version.manifest["inputs"]["columns"] == names


def test_without_weights_every_edge_weighs_1(tmp_path):
    write(tmp_path / "edges.csv", [{"src": src, "dst": dst} for src, dst in EDGES])
    version = build(tmp_path / "run", tmp_path / "edges.csv", top_k=1000)
    assert found_edges(version) == dict.fromkeys(EDGES, 1.0)


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_every_row_of_a_list_is_kept_or_counted(tmp_path, extension):
    faulty = [
        ("a", "b", "1.5", "kept"),
        ("b", "a", "2", "kept"),
        ("a", "b", "0.5", "repeated"),
        ("a", "b", "1.5", "repeated"),
        ("a", "c", "-1", "repeated"),  # of the two, the heavier is kept
        ("a", "c", "0.25", "kept"),
        ("a", "a", "3", "self_loops"),
        ("c", "c", "-3", "self_loops"),
        ("c", "d", "0", "not_positive"),
        ("d", "c", "-0.0", "not_positive"),
        ("e", "d", "-7e-3", "not_positive"),
        ("a", "d", "nan", "bad weight"),
        ("a", "d", "inf", "bad weight"),
        ("a", "d", "-Infinity", "bad weight"),
        ("a", "d", "1e999", "bad weight"),
        ("a", "d", "heavy", "bad weight"),
        ("a", "d", None, "bad weight"),
        (None, "d", "1", "no src"),
        ("a", None, "1", "no dst"),
        ("a", "x" * 1025, "1", "dst is longer than 1024 characters"),
        ("a\0", "d", "1", "src holds a NUL or a newline"),
        ("f", "a", "1e-300", "kept"),
    ]
    if extension == "parquet":  # numbers as numbers; text and NUL are for formats of text
        faulty = [row for row in faulty if row[2] != "heavy"]
        rows = [
            {"src": src, "dst": dst, "weight": None if weight is None else float(weight)}
            for src, dst, weight, _ in faulty
        ]
        write(tmp_path / f"edges.{extension}", pa.Table.from_pylist(rows))
    else:
        rows = [{"src": src, "dst": dst, "weight": weight} for src, dst, weight, _ in faulty]
        write(tmp_path / f"edges.{extension}", rows)
    version = build(
        tmp_path / "run",
        tmp_path / f"edges.{extension}",
        edges={"max_rejected_fraction": 0.9},
        shards=2,
    )
    assert found_edges(version) == {
        ("a", "b"): 1.5,
        ("b", "a"): 2.0,
        ("a", "c"): 0.25,
        ("f", "a"): 1e-300,
    }
    outcomes = [outcome for *_, outcome in faulty]
    counted = ("kept", "repeated", "self_loops", "not_positive")
    rejected = [outcome for outcome in outcomes if outcome not in counted]
    rows = version.manifest["counts"]["rows"]
    assert rows == {
        "read": len(faulty),
        "rejected": len(rejected),
        **{name: outcomes.count(name) for name in counted},
    }
    assert version.manifest["rejected"] == {name: rejected.count(name) for name in set(rejected)}
    (path,) = Path(version.path, "rejected").iterdir()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["row"], row["reason"]) for row in found] == [
        (number, outcome) for number, outcome in enumerate(outcomes, 1) if outcome not in counted
    ]


def test_hubs_are_the_images_that_most_edges_lead_to(tmp_path):
    write(tmp_path / "edges.parquet", as_rows(EDGES))
    version = build(tmp_path / "run", tmp_path / "edges.parquet", top_k=1000)
    assert listed_hubs(version, "before") == listed_hubs(version, "after") == largest_hubs(EDGES)


def test_weights_may_be_decimals(tmp_path):
    weights = pa.array([3, 2**60, 1]).cast(pa.decimal128(38, 2))
    edges = pa.table({"src": ["a", "b", "c"], "dst": ["b", "c", "a"], "weight": weights})
    write(tmp_path / "edges.parquet", edges)
    version = build(tmp_path / "run", tmp_path / "edges.parquet")
    assert found_edges(version) == {("a", "b"): 3, ("b", "c"): 2**60, ("c", "a"): 1}


def test_weights_may_be_large_whole_numbers(tmp_path):
    write(tmp_path / "edges.jsonl", as_rows({("a", "b"): 2**60 + 1, ("b", "a"): 3}))
    version = build(tmp_path / "run", tmp_path / "edges.jsonl")
    assert found_edges(version) == {("a", "b"): float(2**60 + 1), ("b", "a"): 3.0}


def test_weights_that_are_times_are_refused_in_one_line(tmp_path):
    times = pa.array([0, 1], pa.timestamp("us"))
    edges = pa.table({"src": ["a", "b"], "dst": ["b", "c"], "weight": times})
    write(tmp_path / "edges.parquet", edges)
    with pytest.raises(ImgembedError, match="weight"):
        build(tmp_path / "run", tmp_path / "edges.parquet")


def test_equal_weights_are_put_in_order_by_the_seed(tmp_path):
    write(tmp_path / "edges.csv", [{"src": "hub", "dst": f"p{n:02d}"} for n in range(20)])
    kept = [
        frozenset(
            dst
            for _, dst in found_edges(
                build(tmp_path / str(seed), tmp_path / "edges.csv", seed=seed, top_k=3)
            )
        )
        for seed in range(2)
    ]
    assert kept[0] != kept[1]
    assert {"p00", "p01", "p02"} not in kept


# What cannot be done ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_users", 2),
        ("min_significance", 0.01),
        ("half_life_days", 3.0),
        ("keep_counts", True),
    ],
)
def test_a_setting_that_needs_counts_is_refused(tmp_path, key, value):
    write(tmp_path / "edges.csv", as_rows(EDGES))
    with pytest.raises(ConfigError, match=f"graph.{key}: needs counts, and a ready edge list has"):
        build(tmp_path / "run", tmp_path / "edges.csv", **{key: value})


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([("a", "a", 1.0)], {}, r"no edge of a weight above 0 between two images in .*\(1 rows"),
        ([("a", "b", -1.0)], {}, r"no edge of a weight above 0"),
        ([("a", "b", 1.0)], {"symmetry": "mutual"}, "symmetry mutual leaves no edge of the list"),
        ([("a", "b", math.nan)], {}, r"1 of 1 rows cannot be read, more than edges.max_rejected"),
    ],
)
def test_a_list_that_gives_no_edge_says_why(tmp_path, rows, settings, message):
    names = ("src", "dst", "weight")
    write(tmp_path / "edges.csv", [dict(zip(names, row, strict=True)) for row in rows])
    with pytest.raises(ImgembedError, match=message):
        build(tmp_path / "run", tmp_path / "edges.csv", **settings)
    assert not list((tmp_path / "run").rglob("v*"))


def test_a_list_without_its_columns_says_what_it_has(tmp_path):
    write(tmp_path / "edges.csv", [{"from": "a", "dst": "b"}])
    with pytest.raises(ImgembedError, match="no column src; it has from, dst; map it with edges"):
        build(tmp_path / "run", tmp_path / "edges.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ImgembedError, match="edges.path: every file at .* is empty"):
        build(tmp_path / "run", tmp_path / "empty.csv")


# The command --------------------------------------------------------------------------------------


def one_line(capfd, *arguments):
    """(exit code, the one line) of a command that fails."""
    code = run_command("build-graph", *arguments)
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith("imgembed: ")
    return code, lines[-1]


def test_edges_and_sessions_exclude_one_another(tmp_path, capfd):
    code, line = one_line(
        capfd, "--edges", "e.csv", "--sessions", "logs", "--run-dir", tmp_path / "run"
    )
    assert code == 2
    assert "--sessions and --edges: give one of the two" in line
    assert not (tmp_path / "run").exists()


def test_strict_fails_at_the_first_bad_row_of_a_list(tmp_path, capfd):
    write(tmp_path / "edges.csv", [*as_rows(EDGES), {"src": "a", "dst": "b", "weight": "x"}])
    common = ("--edges", tmp_path / "edges.csv", "--run-dir", tmp_path / "run", "--quiet")
    code, line = one_line(capfd, *common, "--strict")
    assert code == 1
    assert "more than edges.max_rejected_fraction = 0 allows" in line
    assert "bad weight, first at" in line
    assert run_command("build-graph", *common) == 0
    printed = capfd.readouterr()
    assert f"rows read = {len(EDGES):,} kept + 1 rejected (bad weight: 1)" in printed.out
    assert printed.err == ""


def test_the_examples_are_made_of_a_ready_list(tmp_path, capfd):
    import tensorflow as tf

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(pictures / f"p{number}.png")
    edges = {(f"p{n}", f"p{(n + step) % 12}"): 1.0 / step for n in range(12) for step in (1, 2)}
    write(tmp_path / "edges.tsv", as_rows(edges))
    settings = ("--set", "images.image_size=8", "--set", "examples.neighbors=2")
    arguments = ("--edges", tmp_path / "edges.tsv", "--images", pictures, *settings)
    assert run_command("build-graph", *arguments, "--run-dir", tmp_path / "run", "--json") == 0
    manifests = json.loads(capfd.readouterr().out)
    assert list(manifests) == ["graph", "examples"]
    examples = RunDir.open(str(tmp_path / "run")).require("examples")
    found = {}
    for split in schema.SPLITS:
        for record in tf.data.TFRecordDataset(examples.shards(split), "GZIP"):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            seed = features["image_id"].bytes_list.value[0].decode()
            for index in range(features["NL_num_nbrs"].int64_list.value[0]):
                neighbor = features[f"NL_nbr_{index}_image_id"].bytes_list.value[0].decode()
                found[seed, neighbor] = features[f"NL_nbr_{index}_weight"].float_list.value[0]
    assert found.keys() == edges.keys()
    # A neighbour's weight is a share of its seed's or the edge's own: the order stays.
    for number in range(12):
        assert (
            found[f"p{number}", f"p{(number + 1) % 12}"]
            > found[f"p{number}", f"p{(number + 2) % 12}"]
        )
