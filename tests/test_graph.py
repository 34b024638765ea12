"""The graph: counts by SQL and plain Python, every row accounted for, the same bytes always."""

import json
import math
import random
import sqlite3
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import chi2
from small_logs import build, clicks, files, images_of, table, write_log

from pipeline import parcels
from pipeline.config import GraphConfig, SessionsConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.graph.manifest import check_counts


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    write_log(path, clicks())
    return path


@pytest.fixture(scope="module")
def everything(tmp_path_factory, log):
    """All pairs of two sessions and more, by their number."""
    return build(tmp_path_factory.mktemp("everything"), log, measure="count", top_k=1000)


# Counts -------------------------------------------------------------------------------------------


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


def test_all_counts_are_those_of_a_database(everything):
    rows = clicks()
    edges = {(e["src"], e["dst"], e["sessions"], e["users"]) for e in table(everything, "edges")}
    assert edges == set(sql(rows, PAIRS_SQL))
    nodes = {(n["image_id"], n["sessions"]) for n in table(everything, "nodes")}
    assert nodes == set(sql(rows, IMAGES_SQL))
    queries = {tuple(q.values()) for q in table(everything, "queries")}
    assert queries == set(sql(rows, QUERIES_SQL))
    of_image = dict(sql(rows, IMAGES_SQL))
    for edge in table(everything, "edges"):
        assert edge["src_sessions"] == of_image[edge["src"]]
        assert edge["dst_sessions"] == of_image[edge["dst"]]
        assert edge["weight"] == edge["strength"] == edge["sessions"]


def test_an_image_keeps_its_heaviest_edges_in_order(tmp_path, log, everything):
    strongest = table(build(tmp_path, log, measure="count", top_k=3), "edges")
    by_source = {}
    for edge in table(everything, "edges"):
        by_source.setdefault(edge["src"], []).append(edge["weight"])
    found = {}
    for edge in strongest:
        found.setdefault(edge["src"], []).append(edge["weight"])
        assert edge["rank"] == len(found[edge["src"]])
    assert found == {src: sorted(w, reverse=True)[:3] for src, w in by_source.items()}


# The same bytes -----------------------------------------------------------------------------------

# Each step of pruning does something; ties are common, and the first images would win by their ids.
ALL_STEPS = {
    "min_users": 2,
    "min_significance": 0.3,
    "max_degree": 5,
    "top_k": 4,
    "symmetry": "union",
    "keep_counts": True,
    "edges_tsv": True,
    "holdout": 0.2,
}
FAULTY = {"max_rejected_fraction": 0.1}
OUTPUTS = [
    "counts/images-00000-of-00001.parquet",
    "counts/pairs-00000-of-00001.parquet",
    "counts/queries-00000-of-00001.parquet",
    "counts/query_users-00000-of-00001.parquet",
    "edges-00000-of-00001.parquet",
    "edges.tsv",
    "holdout-00000-of-00001.parquet",
    "nodes-00000-of-00001.parquet",
    "queries-00000-of-00001.parquet",
    "rejected/rejected-00000-of-00001.jsonl",
]


def spoiled(rows):
    """The rows as lines, every 40th of them without an image."""
    return [row | {"image_id": None} if number % 40 == 0 else row for number, row in rows]


@pytest.fixture(scope="module")
def faulty_log(tmp_path_factory):
    path = tmp_path_factory.mktemp("faulty") / "events.jsonl"
    write_log(path, spoiled(enumerate(clicks())))
    return path


@pytest.fixture(scope="module")
def one_shard(tmp_path_factory, faulty_log):
    folder = tmp_path_factory.mktemp("one")
    return build(folder, faulty_log, sessions=FAULTY, **ALL_STEPS)


@pytest.mark.parametrize(("shards", "threads"), [(7, 2), (64, 1)])
def test_the_bytes_do_not_depend_on_shards_and_threads(
    tmp_path, faulty_log, one_shard, shards, threads
):
    expected = files(one_shard)
    assert list(expected) == OUTPUTS
    parted = build(
        tmp_path, faulty_log, shards=shards, threads=threads, sessions=FAULTY, **ALL_STEPS
    )
    assert files(parted) == expected
    # What the manifest says depends on them as little.
    assert parted.manifest == one_shard.manifest


def test_the_bytes_do_not_depend_on_the_order_of_rows_and_files(tmp_path, one_shard):
    shuffled = spoiled(enumerate(clicks()))
    random.Random(1).shuffle(shuffled)
    for number in range(9):
        write_log(tmp_path / "logs" / f"{number * 7 % 9}.jsonl", shuffled[number::9])
    many = build(
        tmp_path / "run", tmp_path / "logs", shards=5, threads=2, sessions=FAULTY, **ALL_STEPS
    )
    found, expected = files(many), files(one_shard)
    for content in (found, expected):  # tells file and row of each
        del content[OUTPUTS[-1]]
    assert found == expected
    assert many.manifest["counts"] == one_shard.manifest["counts"]
    assert many.manifest["rejected"] == one_shard.manifest["rejected"]


def test_another_seed_holds_out_other_sessions(tmp_path, faulty_log, one_shard):
    other = build(tmp_path, faulty_log, seed=1, sessions=FAULTY, **ALL_STEPS)
    (holdout,) = (name for name in OUTPUTS if name.startswith("holdout"))
    assert files(other)[holdout] != files(one_shard)[holdout]


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


# Pruning, step by step ----------------------------------------------------------------------------

# Sessions of unlike actions: hardly two edges have the same weight, so that ties decide nothing.
ACTIONS = {f"action-{number}": 1 + 0.0137 * number * number for number in range(40)}


@pytest.fixture(scope="module")
def weighed_rows():
    draw = random.Random(5)
    return [row | {"action": draw.choice(list(ACTIONS))} for row in clicks()]


@pytest.fixture(scope="module")
def weighed_log(tmp_path_factory, weighed_rows):
    path = tmp_path_factory.mktemp("weighed") / "log.jsonl"
    write_log(path, weighed_rows)
    return path


LIMITS = {"min_users": 4, "min_significance": 0.6, "max_degree": 6, "top_k": 4}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, weighed_log):
    """One version for each symmetry."""
    return {
        symmetry: build(
            tmp_path_factory.mktemp(symmetry),
            weighed_log,
            measure="count",
            symmetry=symmetry,
            sessions={"actions": ACTIONS},
            **LIMITS,
        )
        for symmetry in ("directed", "mutual", "union")
    }


def count_by_hand(rows):
    """({pair: (sessions, users, strength)}, {image: sessions}, N)."""
    weights, user_of = {}, {}
    for row in rows:
        of_session = weights.setdefault(row["session_id"], {})
        weight = ACTIONS[row["action"]]
        of_session[row["image_id"]] = max(weight, of_session.get(row["image_id"], 0))
        user_of[row["session_id"]] = row["user_id"]
    pairs = {}
    for session, images in weights.items():
        for pair in combinations(sorted(images), 2):
            sessions, users, strength = pairs.get(pair, (0, set(), 0.0))
            added = images[pair[0]] * images[pair[1]]
            pairs[pair] = (sessions + 1, users | {user_of[session]}, strength + added)
    counts = Counter(image for images in weights.values() for image in images)
    return pairs, counts, len(weights)


def p_value(c, ni, nj, n):
    """Of the log-likelihood ratio, one-sided; 1 for pairs that meet less often than by chance."""
    if c * n < ni * nj:
        return 1.0
    table_ = [[c, ni - c], [nj - c, n - ni - nj + c]]
    expected = [[ni * nj / n, ni * (n - nj) / n], [(n - ni) * nj / n, (n - ni) * (n - nj) / n]]
    cells = [(table_[i][j], expected[i][j]) for i, j in product((0, 1), (0, 1))]
    return chi2.sf(2 * sum(k * math.log(k / e) for k, e in cells if k), 1)


def strongest(edges, limit, end):
    """{(src, dst): weight} of the `limit` heaviest at each end (0 = src, 1 = dst); no ties."""
    groups = {}
    for edge, weight in edges.items():
        groups.setdefault(edge[end], []).append((weight, edge))
    kept = {}
    for group in groups.values():
        group.sort(reverse=True)
        assert len(group) <= limit or group[limit - 1][0] > group[limit][0] + 1e-6
        kept.update((edge, weight) for weight, edge in group[:limit])
    return kept


def prune_by_hand(rows):
    """(what each step leaves, the edges before hub control, the edges after top_k)."""
    pairs, counts, n = count_by_hand(rows)
    left = {}
    pairs = {pair: found for pair, found in pairs.items() if found[0] >= 2}
    left["min_sessions"] = len(pairs)
    pairs = {pair: found for pair, found in pairs.items() if len(found[1]) >= LIMITS["min_users"]}
    left["min_users"] = len(pairs)
    weights = {
        pair: strength
        for pair, (c, _, strength) in pairs.items()
        if p_value(c, counts[pair[0]], counts[pair[1]], n) <= LIMITS["min_significance"]
    }
    left["min_significance"] = left["positive_weight"] = len(weights)
    both_ways = weights | {(b, a): weight for (a, b), weight in weights.items()}
    edges = strongest(both_ways, LIMITS["max_degree"], 1)
    left["max_degree"] = len(edges)
    edges = strongest(edges, LIMITS["top_k"], 0)
    left["top_k"] = len(edges)
    return left, both_ways, edges


def test_the_manifest_counts_each_step_of_pruning_in_order(pruned, weighed_rows):
    left, _, edges = prune_by_hand(weighed_rows)
    assert len(set(left.values())) == len(left) - 1  # each but positive_weight takes something
    backward = {(b, a) for a, b in edges}
    expected = {
        "directed": set(edges),
        "mutual": edges.keys() & backward,
        "union": edges.keys() | backward,
    }
    for symmetry, version in pruned.items():
        steps = dict(left)
        if symmetry != "directed":
            steps[symmetry] = len(expected[symmetry])
        assert list(version.manifest["counts"]["pruning"].items()) == list(steps.items())
        assert version.manifest["counts"]["edges"] == {"kept": len(expected[symmetry])}
        found = {(e["src"], e["dst"]): e["weight"] for e in table(version, "edges")}
        assert found.keys() == expected[symmetry]
        for (src, dst), weight in found.items():
            wanted = edges.get((src, dst), edges.get((dst, src)))
            assert weight == pytest.approx(wanted, rel=1e-5)  # units of 2^-24, float32 actions


def degrees(edges):
    """The manifest's list of hubs: at most ten (image, edges to it), by degree, then by id."""
    counts = Counter(dst for _, dst in edges)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"image_id": image, "degree": degree} for image, degree in ordered[:10]]


def test_the_ten_largest_hubs_before_and_after_have_the_right_degrees(pruned, weighed_rows):
    _, before, after = prune_by_hand(weighed_rows)
    hubs = pruned["directed"].manifest["hubs"]
    assert hubs == {"before": degrees(before), "after": degrees(after)}
    assert len(hubs["before"]) == len(hubs["after"]) == 10
    assert hubs["before"][0]["degree"] > LIMITS["max_degree"] >= hubs["after"][0]["degree"]


# The manifest -------------------------------------------------------------------------------------


def test_every_row_and_event_is_accounted_for(tmp_path):
    # Of user a four sessions, of which one may count; a bot; a session of many images; a repeat.
    rows = [{"user_id": "a", "session_id": f"a{s}", "image_id": i} for s in range(4) for i in "xy"]
    rows += [{"user_id": "b", "session_id": "bot", "image_id": "x"}] * 12
    rows += [{"user_id": "c", "session_id": "long", "image_id": str(n)} for n in range(7)]
    rows += [{"user_id": "d", "session_id": "d", "image_id": i} for i in "xxy"]
    rows += [{"user_id": "e", "session_id": "single", "image_id": "x"}]
    rows += [{"user_id": "f", "session_id": "f"}, {"image_id": "x"}]
    write_log(tmp_path / "log.jsonl", [row | {"timestamp": 1_600_000_000} for row in rows])
    (tmp_path / "whole.jsonl").write_text('{"session_id": "w", "items": []}\n' * 2)
    version = build(
        tmp_path / "run",
        tmp_path / "*.jsonl",
        min_sessions=1,
        measure="count",
        sessions={
            "max_events": 10,
            "max_images": 4,
            "max_sessions_per_user": 1,
            "max_rejected_fraction": 0.1,
        },
    )
    counts = version.manifest["counts"]
    assert counts["rows"] == {"read": 35, "kept": 31, "rejected": 2, "without_images": 2}
    assert version.manifest["rejected"] == {"neither session_id nor user_id": 1, "no image_id": 1}
    # 2 of user a's, 4 of the long one, 2 of d's, the single one.
    assert counts["events"] == {
        "read": 31,
        "visits": 9,
        "repeated": 1,
        "of_bots": 12,
        "beyond_max_images": 3,
        "beyond_max_sessions_per_user": 6,
    }
    assert counts["sessions"] == {
        "all": 4,
        "in_graph": 4,
        "held_out": 0,
        "of_one_image": 1,
        "bots": 1,
        "beyond_max_sessions_per_user": 3,
    }
    assert version.manifest["population"] == 4
    assert counts["pairs"] == {"counted": 7}  # x-y, and 6 of four images


def test_the_manifest_names_formats_and_units_and_files_that_are_no_logs(tmp_path):
    mapped = {"image_id": "photo", "session_id": "visit", "timestamp": "when"}
    rows = [{theirs: row[ours] for ours, theirs in mapped.items()} for row in clicks(40)]
    write_log(tmp_path / "logs" / "a.jsonl", rows[:60])
    write_log(tmp_path / "logs" / "b.jsonl", rows[60:])
    (tmp_path / "logs" / "c.csv").write_text(
        "visit,who,when,photo\ns,u,2030-01-01T00:00:00Z,image-1\ns,u,,image-2\n"
    )
    (tmp_path / "logs" / "README").write_text("Logs of the shop.\n")
    (tmp_path / "logs" / "empty.jsonl").touch()
    version = build(tmp_path / "run", tmp_path / "logs", sessions={"columns": mapped})
    columns = "a row an event: image_id = photo, session_id = visit, timestamp = when"
    assert version.manifest["inputs"] == {
        "files": 3,
        "bytes": sum(path.stat().st_size for path in (tmp_path / "logs").glob("?.*")),
        "detected": {f"jsonl, {columns} (seconds)": 2, f"csv, {columns} (ISO 8601)": 1},
        "skipped": [str(tmp_path / "logs" / "README")],
    }
    assert version.manifest["newest"] == 1_893_456_000_000_000


def test_nothing_is_left_of_the_work(one_shard):
    folder = Path(one_shard.path)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"counts", "rejected"}
    assert not list(folder.rglob("*.arrow"))


def test_edges_tsv_has_the_edges_of_the_parquet_line_by_line(one_shard):
    edges = table(one_shard, "edges")
    lines = Path(one_shard.path, "edges.tsv").read_text().splitlines()
    read = [line.split("\t") for line in lines]
    assert [(src, dst, float(weight)) for src, dst, weight in read] == [
        (edge["src"], edge["dst"], edge["weight"]) for edge in edges
    ]


def test_an_id_with_a_tab_is_no_line_of_edges_tsv(tmp_path):
    write_log(tmp_path / "log.jsonl", [{"session_id": "s", "image_id": i} for i in ("a\tb", "c")])
    with pytest.raises(ImgembedError, match=r"graph.edges_tsv: the image id 'a\\tb' holds a tab"):
        build(
            tmp_path / "run",
            tmp_path / "log.jsonl",
            min_sessions=1,
            measure="count",
            edges_tsv=True,
        )


# Held-out sessions --------------------------------------------------------------------------------


def test_held_out_sessions_are_whole_and_out_of_the_graph(tmp_path, log):
    version = build(tmp_path, log, holdout=0.25, measure="count", top_k=1000)
    counts = version.manifest["counts"]["sessions"]
    assert counts["in_graph"] + counts["held_out"] == 400
    assert 0.15 < counts["held_out"] / 400 < 0.35
    assert version.manifest["population"] == counts["in_graph"]
    held_out = {}
    for row in table(version, "holdout"):
        images = held_out.setdefault(row["session"], [])
        assert row["position"] == len(images)
        images.append(row["image_id"])
    assert len(held_out) == counts["held_out"]
    remaining = sorted(images_of(clicks()).values())
    for images in held_out.values():
        remaining.remove(images)  # fails where a session is not one of the log's, in its order
    n = Counter(image for images in remaining for image in images)
    assert {node["image_id"]: node["sessions"] for node in table(version, "nodes")} == n
    pairs = Counter(pair for images in remaining for pair in combinations(sorted(images), 2))
    found = {(e["src"], e["dst"]): e["sessions"] for e in table(version, "edges")}
    assert found == {edge: c for (a, b), c in pairs.items() if c >= 2 for edge in ((a, b), (b, a))}


def test_sessions_held_out_by_time_are_the_latest(tmp_path, log):
    version = build(tmp_path, log, holdout=0.1, by="time", shards=3)
    assert version.manifest["counts"]["sessions"]["held_out"] == 40
    latest = [row for row in clicks() if int(row["session_id"][8:]) >= 360]
    expected = sorted(images_of(latest).values())
    found = {}
    for row in table(version, "holdout"):
        found.setdefault(row["session"], []).append(row["image_id"])
    assert sorted(found.values()) == expected
    asked = {(row["query"], row["image_id"]) for row in latest}
    assert {(row["query"], row["image_id"]) for row in table(version, "holdout")} == asked


# Hubs and bots ------------------------------------------------------------------------------------


def test_an_image_in_half_of_all_sessions_and_a_session_of_very_many_events(tmp_path):
    rows = clicks()
    for number in range(0, 400, 2):
        session = {"session_id": f"session-{number}", "user_id": f"user-{number % 37}"}
        rows.append(session | {"image_id": "hub"})
    draw = random.Random(2)
    bot = {"session_id": "bot", "user_id": "robot", "timestamp": 1_600_000_000}
    rows += [bot | {"image_id": f"image-{draw.randrange(30)}"} for _ in range(30_000)]
    write_log(tmp_path / "log.jsonl", rows)
    with_hub = {"measure": "cosine", "min_sessions": 1, "top_k": 1000}
    free = build(tmp_path / "free", tmp_path / "log.jsonl", **with_hub)
    limited = build(tmp_path / "limited", tmp_path / "log.jsonl", max_degree=3, **with_hub)
    for version in (free, limited):
        sessions = version.manifest["counts"]["sessions"]
        assert (sessions["bots"], sessions["in_graph"]) == (1, 400)
        assert version.manifest["counts"]["events"]["of_bots"] == 30_000
        nodes = {node["image_id"]: node["sessions"] for node in table(version, "nodes")}
        assert nodes["hub"] == 200
        assert version.manifest["hubs"]["before"][0] == {"image_id": "hub", "degree": 30}
    to_hub = [edge for edge in table(free, "edges") if edge["dst"] == "hub"]
    assert len(to_hub) == 30
    kept = sorted((e["weight"] for e in table(limited, "edges") if e["dst"] == "hub"), reverse=True)
    assert kept == sorted((edge["weight"] for edge in to_hub), reverse=True)[:3]
    # A bot that is let in makes all pairs of its images, and no more.
    let_in = build(
        tmp_path / "in", tmp_path / "log.jsonl", sessions={"max_events": 50_000}, **with_hub
    )
    assert let_in.manifest["counts"]["pairs"]["counted"] == 31 * 30 // 2
    assert let_in.manifest["population"] == 401


# Rejected rows ------------------------------------------------------------------------------------


def test_rejected_rows_are_written_counted_and_the_equation_holds(tmp_path):
    rows = clicks()
    log = tmp_path / "log.jsonl"
    write_log(log, rows)
    with log.open("a") as file:
        file.write('broken "user_id": 77\n' + json.dumps({"session_id": "s", "query": "q"}) + "\n")
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
    hidden = '"session_id":"(hidden)","user_id":null,"timestamp":null,"query":"q"'
    # Of what cannot be parsed nobody knows where an id is: only the names of columns stay.
    assert [(row["file"], row["row"], row["reason"], row["content"].strip()) for row in found] == [
        (str(log), len(rows) + 1, "not a JSON object", 'xxxxxx "user_id": 99'),
        (str(log), len(rows) + 2, "no image_id", f'{{"image_id":null,{hidden}}}'),
    ]


@pytest.mark.parametrize(("bad", "budget"), [(5, 0.01), (1, 0.0)])
def test_too_many_rejected_rows_fail_with_the_commonest_reason(tmp_path, bad, budget):
    log = tmp_path / "log.jsonl"
    write_log(log, clicks(20) + [{"session_id": "s"}] * bad)
    message = rf"{bad} of \d+ rows cannot be read, more than sessions.max_rejected_fraction = "
    message += rf"{budget:g} allows; most often \({bad}\): no image_id, first at {log} row \d+"
    with pytest.raises(ImgembedError, match=message):
        build(tmp_path / "run", log, sessions={"max_rejected_fraction": budget})
    assert not list((tmp_path / "run").rglob("v*"))


# Faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"session_id": str(n), "image_id": "a"} for n in range(9)], "none of 9 sessions holds"),
        (
            [{"session_id": "s", "image_id": image} for image in "abc"],
            "no edge is left of 3 pairs: 0 after min_sessions, 0 after positive_weight, 0 after",
        ),
    ],
)
def test_logs_that_give_no_edge_say_why(tmp_path, rows, message):
    write_log(tmp_path / "log.jsonl", rows)
    with pytest.raises(ImgembedError, match=message):
        build(tmp_path / "run", tmp_path / "log.jsonl")
    assert not list((tmp_path / "run").rglob("v*"))


def test_an_empty_log_is_one_line(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ImgembedError, match="every file at .* is empty"):
        build(tmp_path / "run", tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("\n\n")
    with pytest.raises(ImgembedError, match=r"log.jsonl"):
        build(tmp_path / "run", tmp_path / "log.jsonl")


BARE = {"session_id": "s", "image_id": "a"}


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        (BARE, {"min_users": 2}, "graph.min_users: is 2, and the logs have no user_id"),
        (BARE, {"sessions": {"max_sessions_per_user": 3}}, "max_sessions_per_user: the logs have"),
        (BARE, {"half_life_days": 1.0}, "graph.half_life_days: needs a timestamp"),
        (BARE, {"holdout": 0.1, "by": "time"}, "holdout.by: time: needs a timestamp"),
    ],
)
def test_a_setting_that_needs_a_column_says_which(tmp_path, row, settings, message):
    write_log(tmp_path / "log.jsonl", [row])
    with pytest.raises(ConfigError, match=message):
        build(tmp_path / "run", tmp_path / "log.jsonl", **settings)


def test_a_row_without_a_time_is_named_where_every_row_needs_one(tmp_path):
    write_log(tmp_path / "log.jsonl", [*clicks(20), BARE])
    with pytest.raises(ImgembedError, match="need a timestamp in every row"):
        build(tmp_path / "run", tmp_path / "log.jsonl", half_life_days=1.0)


def test_a_row_of_no_session_is_rejected_where_the_log_has_no_times(tmp_path):
    rows = [{"session_id": "s", "image_id": "a"}, {"session_id": "s", "image_id": "b"}]
    write_log(tmp_path / "log.jsonl", [*rows, {"image_id": "x"}])
    budget = {"max_rejected_fraction": 0.5}
    loose = {"min_sessions": 1, "measure": "count"}
    version = build(tmp_path / "run", tmp_path / "log.jsonl", sessions=budget, **loose)
    assert version.manifest["rejected"] == {"neither session_id nor user_id": 1}


def test_sessions_with_ids_and_without_may_lie_in_different_files(tmp_path):
    rows = clicks(40)
    for row in rows[60:]:
        row["session_id"] = None
    write_log(tmp_path / "together.jsonl", rows)
    write_log(tmp_path / "logs" / "a.jsonl", rows[:60])
    write_log(tmp_path / "logs" / "b.jsonl", rows[60:])
    together = build(tmp_path / "1", tmp_path / "together.jsonl")
    assert files(build(tmp_path / "2", tmp_path / "logs")) == files(together)


# Nothing is lost ----------------------------------------------------------------------------------


def test_a_log_whose_tables_go_through_files_loses_nothing(tmp_path, monkeypatch):
    spots = []
    write = parcels._Spill.write
    monkeypatch.setattr(
        parcels._Spill, "write", lambda spill, table: spots.append(write(spill, table)) or spots[-1]
    )
    sessions, size, images = 60_000, 5, 1_000
    draw = np.random.default_rng(0)
    image = (draw.zipf(1.3, (sessions, size)) % images).astype(np.int64)
    ids = pa.array([f"image-{n}" for n in range(images)])
    log = pa.table(
        {
            "session_id": pa.array(np.repeat(np.arange(sessions), size)),
            "user_id": pa.array(np.repeat(np.arange(sessions) % 9_000, size)),
            "image_id": ids.take(pa.array(image.ravel())),
        }
    )
    order = draw.permutation(log.num_rows)
    pq.write_table(log.take(pa.array(order)), tmp_path / "log.parquet", row_group_size=40_000)
    version = build(
        tmp_path / "run",
        tmp_path / "log.parquet",
        shards=24,
        threads=2,
        min_sessions=1,
        top_k=10**6,
        measure="count",
    )
    assert len(spots) > 24 > len({spot.path for spot in spots})
    # A second way to the same counts: X'X of the 0/1 matrix of sessions and images.
    seen = np.zeros((sessions, images), np.float32)
    seen[np.repeat(np.arange(sessions), size), image.ravel()] = 1
    together = (seen.T @ seen).astype(np.int64)
    once = np.diag(together).copy()
    np.fill_diagonal(together, 0)
    counts = version.manifest["counts"]
    assert counts["rows"]["read"] == counts["events"]["read"] == 300_000
    assert counts["events"]["visits"] == once.sum()
    assert counts["events"]["visits"] + counts["events"]["repeated"] == 300_000
    assert counts["pairs"] == {"counted": np.count_nonzero(together) // 2}
    edges = pq.read_table(version.shards("edges"))
    src, dst = (pc_index(edges[name]) for name in ("src", "dst"))
    found = np.zeros_like(together)
    found[src, dst] = edges["sessions"].to_numpy()
    assert edges.num_rows == np.count_nonzero(together)
    assert (found == together).all()
    nodes = pq.read_table(version.shards("nodes"))
    assert (once[pc_index(nodes["image_id"])] == nodes["sessions"].to_numpy()).all()
    assert nodes.num_rows == np.count_nonzero(once)


def pc_index(ids):
    """image-7 -> 7."""
    return np.array([int(text[6:]) for text in ids.to_pylist()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph/events": 9}, "events read: 10 were read and 9 arrived"),
        ({"graph/visits": 4}, "events: 10 were read and 9 arrived"),
        ({"graph/sessions": 4}, "sessions: 4 were read and 3 arrived"),
        ({"sessions/rows_rejected": 2}, "rejected rows: 2 were read and 1 arrived"),
    ],
)
def test_an_engine_that_loses_something_does_not_go_unseen(change, message):
    counts = {
        "sessions/rows": 11,
        "sessions/rows_rejected": 1,
        "sessions/events_read": 10,
        "graph/events": 10,
        "graph/visits": 5,
        "graph/repeated": 1,
        "graph/of_bots": 4,
        "graph/sessions": 3,
        "graph/sessions_in_graph": 2,
        "graph/sessions_held_out": 1,
        "graph/pairs": 3,
        "graph/edges": 6,
    }
    check_counts(counts, {"no image_id": 1}, SessionsConfig(), GraphConfig())
    with pytest.raises(ImgembedError, match=message):
        check_counts(counts | change, {"no image_id": 1}, SessionsConfig(), GraphConfig())
