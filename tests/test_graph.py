"""The graph: counts against SQL, and the same bytes always."""

import json
import random
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.artifacts import RunDir
from pipeline.config import GraphConfig, HoldoutConfig, RunnerConfig, SessionsConfig
from pipeline.errors import ImgembedError
from pipeline.graph.job import build_graph
from pipeline.runner import make_pipeline


def clicks(sessions=400, seed=0):
    """Rows of a log: 30 images in 6 groups, sessions within a group with some noise."""
    draw = random.Random(seed)
    rows = []
    for session in range(sessions):
        group = draw.randrange(6)
        for step in range(draw.randrange(1, 7)):
            wanders = draw.random() < 0.2
            image = draw.randrange(30) if wanders else group * 5 + draw.randrange(5)
            rows.append(
                {
                    "session_id": f"session-{session}",
                    "user_id": f"user-{session % 37}",
                    "timestamp": 1_600_000_000 + session * 100 + step,
                    "query": f"Query {group}",
                    "image_id": f"image-{image}",
                }
            )
    return rows


def write_log(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build(run_dir, log, *, shards=1, seed=0, holdout=0.0, by="hash", sessions=None, **graph):
    run = RunDir.open(str(run_dir))
    with run.begin("graph") as new:
        content = build_graph(
            sessions=SessionsConfig(path=str(log), **(sessions or {})),
            holdout=HoldoutConfig(by=by, fraction=holdout),
            graph=GraphConfig(**graph),
            seed=seed,
            shards=shards,
            out=new,
            make_pipeline=lambda: make_pipeline(RunnerConfig()),
        )
        return new.commit(content)


def table(version, prefix):
    return pq.read_table(version.shards(prefix)).to_pylist()


def sql(rows, query):
    database = sqlite3.connect(":memory:")
    database.execute("create table clicks(session, user, query, image)")
    database.executemany(
        "insert into clicks values(?, ?, ?, ?)",
        [(r["session_id"], r["user_id"], r["query"], r["image_id"]) for r in rows],
    )
    return database.execute(query).fetchall()


PAIRS_SQL = """
  select a.image, b.image, count(distinct a.session), count(distinct a.user)
  from clicks a join clicks b on a.session = b.session and a.image != b.image
  group by a.image, b.image having count(distinct a.session) >= 2"""
IMAGES_SQL = "select image, count(distinct session) from clicks group by image"
QUERIES_SQL = """
  select query, image, count(distinct session), count(distinct user)
  from clicks group by query, image"""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    write_log(path, clicks())
    return path


def test_all_counts_are_those_of_a_database(tmp_path, log):
    rows = clicks()
    version = build(tmp_path, log, measure="count", top_k=1000)
    edges = {(e["src"], e["dst"], e["sessions"], e["users"]) for e in table(version, "edges")}
    assert edges == set(sql(rows, PAIRS_SQL))
    nodes = {(n["image_id"], n["sessions"]) for n in table(version, "nodes")}
    assert nodes == set(sql(rows, IMAGES_SQL))
    queries = {tuple(q.values()) for q in table(version, "queries")}
    assert queries == set(sql(rows, QUERIES_SQL))
    of_image = dict(sql(rows, IMAGES_SQL))
    for edge in table(version, "edges"):
        assert edge["src_sessions"] == of_image[edge["src"]]
        assert edge["dst_sessions"] == of_image[edge["dst"]]


def test_an_image_keeps_its_heaviest_edges_in_order(tmp_path, log):
    everything = table(build(tmp_path / "all", log, top_k=1000), "edges")
    strongest = table(build(tmp_path / "top", log, top_k=3), "edges")
    by_source = {}
    for edge in everything:
        assert edge["weight"] > 0
        by_source.setdefault(edge["src"], []).append(edge["weight"])
    found = {}
    for edge in strongest:
        found.setdefault(edge["src"], []).append(edge["weight"])
        assert edge["rank"] == len(found[edge["src"]])
    assert found == {src: sorted(w, reverse=True)[:3] for src, w in by_source.items()}


def files(version):
    return {
        path.relative_to(version.path): path.read_bytes()
        for path in sorted(Path(version.path).rglob("*.parquet"))
    }


def test_the_bytes_depend_neither_on_shards_nor_on_the_order_of_rows_or_files(tmp_path, log):
    expected = files(build(tmp_path / "one", log, holdout=0.2))
    assert len(expected) == 4
    shuffled = clicks()
    random.Random(1).shuffle(shuffled)
    write_log(tmp_path / "logs" / "b.jsonl", shuffled[:500])
    write_log(tmp_path / "logs" / "a.jsonl", shuffled[500:])
    assert files(build(tmp_path / "many", tmp_path / "logs", shards=5, holdout=0.2)) == expected
    assert files(build(tmp_path / "seed", log, seed=1, holdout=0.2)) != expected


def test_ties_are_broken_by_the_seed_and_not_by_the_id(tmp_path):
    # One hub with twenty partners of equal weight: which three it keeps must not follow their ids.
    rows = [
        {"session_id": f"s{partner}-{repeat}", "image_id": image}
        for partner in range(20)
        for repeat in range(2)
        for image in ("hub", f"p{partner:02d}")
    ]
    write_log(tmp_path / "log.jsonl", rows)
    kept = []
    for seed in range(3):
        version = build(
            tmp_path / str(seed), tmp_path / "log.jsonl", seed=seed, top_k=3, measure="count"
        )
        kept.append({e["dst"] for e in table(version, "edges") if e["src"] == "hub"})
    assert len({frozenset(of_seed) for of_seed in kept}) == 3
    assert {"p00", "p01", "p02"} not in kept


def test_held_out_sessions_are_whole_and_out_of_the_graph(tmp_path, log):
    version = build(tmp_path, log, holdout=0.25, measure="count", top_k=1000)
    counts = version.manifest["counts"]["sessions"]
    assert counts["in_graph"] + counts["held_out"] == 400
    assert 0.15 < counts["held_out"] / 400 < 0.35
    held_out = {}
    for row in table(version, "holdout"):
        held_out.setdefault(row["session"], []).append(row["image_id"])
    assert len(held_out) == counts["held_out"]
    whole = {}
    for row in clicks():
        images = whole.setdefault(row["session_id"], [])
        if row["image_id"] not in images:
            images.append(row["image_id"])
    remaining = sorted(whole.values())
    for images in held_out.values():
        remaining.remove(images)  # fails where a session is not one of the log's, in its order
    n = {}
    for images in remaining:
        for image in images:
            n[image] = n.get(image, 0) + 1
    assert {node["image_id"]: node["sessions"] for node in table(version, "nodes")} == n


def test_sessions_held_out_by_time_are_the_latest(tmp_path, log):
    version = build(tmp_path, log, holdout=0.1, by="time")
    assert version.manifest["counts"]["sessions"]["held_out"] == 40
    latest = {row["image_id"] for row in clicks() if int(row["session_id"][8:]) >= 360}
    assert {row["image_id"] for row in table(version, "holdout")} == latest


def test_no_output_holds_a_user_id_or_a_session_id(tmp_path, log):
    version = build(tmp_path, log, holdout=0.2)
    content = json.dumps(
        [table(version, prefix) for prefix in ("edges", "nodes", "queries", "holdout")]
    )
    content += json.dumps(version.manifest)
    assert "user-" not in content
    assert "session-" not in content


def test_rejected_rows_are_written_counted_and_the_equation_holds(tmp_path):
    rows = clicks()
    log = tmp_path / "log.jsonl"
    write_log(log, rows)
    with log.open("a") as file:
        file.write("broken\n" + json.dumps({"session_id": "s"}) + "\n")
    version = build(tmp_path / "run", log)
    counts = version.manifest["counts"]["rows"]
    assert counts == {
        "read": len(rows) + 2,
        "kept": len(rows),
        "rejected": 2,
        "without_images": 0,
    }
    assert version.manifest["rejected"] == {"no image_id": 1, "not a JSON object": 1}
    (path,) = Path(version.path, "rejected").iterdir()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["row"], row["content"].strip()) for row in found] == [
        (len(rows) + 1, "broken"),
        (
            len(rows) + 2,
            '{"image_id":null,"session_id":"s","user_id":null,"timestamp":null,"query":null}',
        ),
    ]


def test_too_many_rejected_rows_fail_with_the_commonest_reason(tmp_path):
    log = tmp_path / "log.jsonl"
    write_log(log, clicks(20) + [{"session_id": "s"}] * 5)
    with pytest.raises(ImgembedError, match=r"5 of \d+ rows cannot be read.* no image_id, first"):
        build(tmp_path / "run", log)
    assert not list((tmp_path / "run").rglob("v*"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"session_id": str(n), "image_id": "a"} for n in range(9)], "none of 9 sessions holds"),
        (
            [{"session_id": "s", "image_id": image} for image in "abc"],
            "no edge is left of 3 pairs; 0 lie in graph.min_sessions = 2 sessions",
        ),
    ],
)
def test_logs_that_give_no_edge_say_why(tmp_path, rows, message):
    write_log(tmp_path / "log.jsonl", rows)
    with pytest.raises(ImgembedError, match=message):
        build(tmp_path / "run", tmp_path / "log.jsonl")


def test_an_empty_log_is_one_line(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ImgembedError, match="every file at .* is empty"):
        build(tmp_path / "run", tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("\n\n")
    with pytest.raises(ImgembedError, match=r"log.jsonl"):
        build(tmp_path / "run", tmp_path / "log.jsonl")
