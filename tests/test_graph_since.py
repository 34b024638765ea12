"""Counts of earlier logs with those of newer ones added: what one run over all of them gives."""

import io
import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from small_logs import clicks, run_command, table, write_log

from cli.settings import load
from cli.stages import Stages
from cli.terminal import Terminal
from pipeline.errors import ConfigError, ImgembedError

DAY = 86_400
SETTINGS = {
    "graph.keep_counts": True,
    "graph.min_sessions": 1,
    "graph.measure": "cosine",
    "graph.discount": "size",
    "graph.top_k": 1000,
    "holdout.fraction": 0.2,
    "runner.shards": 3,
    "runner.workers": 1,
}


def day(number, sessions=120):
    """Rows of one day: other sessions than any other day's, but the same users and images."""
    rows = clicks(sessions, seed=number)
    for row in rows:
        row["session_id"] += f"-of-day-{number}"
        row["timestamp"] += number * DAY
        if number == 2:  # an image and a query that the first day had not
            row["image_id"] = row["image_id"].replace("image-29", "image-of-day-2")
            row["query"] = row["query"].replace("Query 5", "new")
    return rows


def graph(run, logs, *, since=None, force=False, **settings):
    """(version, what was said) of the stage as a command makes it."""
    changed = {key.replace("__", "."): value for key, value in settings.items()}
    flags = {"run_dir": str(run), "sessions.path": str(logs), **SETTINGS, **changed}
    flags["sessions.previous"] = None if since is None else str(since)
    said = io.StringIO()
    terminal = Terminal(Console(file=said, width=300), quiet=False, log_path="")
    return Stages(load(None, flags=flags), terminal, force).graph(), said.getvalue()


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A file a day."""
    folder = tmp_path_factory.mktemp("logs")
    for number in (1, 2, 3):
        write_log(folder / f"{number}.jsonl", day(number))
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory, logs):
    """Versions of one day, of two and of three, each from the one before, in runs of their own."""
    folder = tmp_path_factory.mktemp("chain")
    versions = [graph(folder / "1", logs / "1.jsonl")[0]]
    for number in (2, 3):
        since, log = folder / str(number - 1), logs / f"{number}.jsonl"
        versions.append(graph(folder / str(number), log, since=since)[0])
    return versions


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory, logs):
    """Versions of two days and of three, each in one go."""
    folder = tmp_path_factory.mktemp("rebuilt")
    return [graph(folder / f"{days}", logs / f"[1-{days}].jsonl")[0] for days in (2, 3)]


EXACT = ("src", "dst", "rank", "weight", "sessions", "strength", "src_sessions", "dst_sessions")


def held_out(version):
    """(how many sessions are held out, their rows without the number)."""
    sessions = {}
    for row in table(version, "holdout"):
        sessions.setdefault(row["session"], []).append((row["image_id"], row["query"]))
    return len(sessions), sorted(sessions.values())


@pytest.mark.parametrize("days", [2, 3])
def test_days_added_one_after_another_are_all_days_in_one_run(chain, rebuilt, days):
    added, whole = chain[days - 1], rebuilt[days - 2]
    found, expected = (pq.read_table(version.shards("edges")) for version in (added, whole))
    assert found.num_rows > 300
    for column in EXACT:
        assert found[column].equals(expected[column]), column
    assert table(added, "nodes") == table(whole, "nodes")
    columns = ("query", "image_id", "sessions")
    queries, of_whole = (
        [[row[column] for column in columns] for row in table(version, "queries")]
        for version in (added, whole)
    )
    assert queries == of_whole
    assert held_out(added) == held_out(whole)
    for key in ("population", "newest"):
        assert added.manifest[key] == whole.manifest[key]
    assert added.manifest["counts"]["pairs"] == whole.manifest["counts"]["pairs"]
    assert added.manifest["counts"]["pruning"] == whole.manifest["counts"]["pruning"]


def test_users_are_the_largest_number_over_the_parts_and_the_manifest_says_so(
    tmp_path, logs, chain, rebuilt
):
    alone = graph(tmp_path, logs / "2.jsonl")[0]
    first, second, added, whole = (
        {(e["src"], e["dst"]): e["users"] for e in table(version, "edges")}
        for version in (chain[0], alone, chain[1], rebuilt[0])
    )
    assert added == {
        edge: max(first.get(edge, 0), second.get(edge, 0)) for edge in first.keys() | second.keys()
    }
    assert all(added[edge] <= users for edge, users in whole.items())
    assert sum(added.values()) < sum(whole.values())
    counted, of_whole = (
        {(q["query"], q["image_id"]): q["users"] for q in table(version, "queries")}
        for version in (chain[1], rebuilt[0])
    )
    assert all(counted[key] <= users for key, users in of_whole.items())
    previous = chain[1].manifest["previous"]
    assert previous == {
        "name": "v0001",
        "path": chain[0].path,
        "population": chain[0].manifest["population"],
        "differs_from_one_run": {
            "sessions_across_the_cut": 0,
            "users": "a lower bound: the largest number over the parts",
        },
    }


def test_a_session_over_the_cut_is_two_and_is_counted(tmp_path):
    # Cut at 1,000 s: user a pauses 20 minutes over the cut, b a whole day; s is named, c is new.
    events = [("a", None, 900), ("b", None, 950), ("c", "s", 1_000)]
    later = [("a", None, 2_100), ("b", None, 1_000 + DAY), ("c", "s", 1_010), ("d", "t", 5_000)]
    for name, rows in (("1", events), ("2", later)):
        rows = [
            {"user_id": user, "session_id": session, "timestamp": 1_600_000_000 + time}
            for user, session, time in rows
        ]
        images = [row | {"image_id": image} for row in rows for image in (name, "common")]
        write_log(tmp_path / f"{name}.jsonl", images)
    settings = {"holdout__fraction": 0.0, "graph__measure": "count"}
    graph(tmp_path / "1", tmp_path / "1.jsonl", **settings)
    added, _ = graph(tmp_path / "2", tmp_path / "2.jsonl", since=tmp_path / "1", **settings)
    differs = added.manifest["previous"]["differs_from_one_run"]
    assert differs["sessions_across_the_cut"] == 2
    assert added.manifest["population"] == 7  # one run over both logs would find 5


def test_with_a_half_life_the_strength_is_the_closed_form(tmp_path, logs):
    settings = {
        "graph__half_life_days": 1.5,
        "graph__measure": "count",
        "graph__discount": "log",
        "holdout__fraction": 0.0,
    }
    graph(tmp_path / "1", logs / "1.jsonl", **settings)
    graph(tmp_path / "2", logs / "2.jsonl", **settings)
    later, _ = graph(tmp_path / "3", logs / "2.jsonl", since=tmp_path / "1", **settings)
    # Logs that are older than what is counted stay as old as they are.
    older, _ = graph(tmp_path / "4", logs / "1.jsonl", since=tmp_path / "2", **settings)
    expected = decayed_by_hand(day(1) + day(2))
    counts = []
    for version in (later, older):
        edges = table(version, "edges")
        strengths = {(edge["src"], edge["dst"]): edge["strength"] for edge in edges}
        assert strengths.keys() == expected.keys()
        for edge, strength in expected.items():
            assert strengths[edge] == pytest.approx(strength, rel=1e-6), edge
        columns = ("src", "dst", "sessions", "src_sessions", "dst_sessions")
        counts.append(sorted([edge[name] for name in columns] for edge in edges))
        newest = max(row["timestamp"] for row in day(2))
        assert version.manifest["newest"] == newest * 1_000_000
    assert counts[0] == counts[1]


def decayed_by_hand(rows):
    """{(src, dst): strength}: the sum over sessions of 2^(-age / 1.5 days) / log2(images)."""
    sessions = {}
    for row in rows:
        _, images = sessions.setdefault(row["session_id"], (row["timestamp"], {}))
        images[row["image_id"]] = None
    newest = max(row["timestamp"] for row in rows)
    strength = {}
    for start, images in sessions.values():
        for src in images:
            for dst in images.keys() - {src}:
                worth = 2 ** ((start - newest) / DAY / 1.5) / math.log2(len(images))
                strength[src, dst] = strength.get((src, dst), 0.0) + worth
    return strength


# What cannot be added -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "was"),
    [
        ("graph.discount", "none", "size"),
        ("graph.half_life_days", 3.0, None),
        ("sessions.max_images", 7, 50),
        ("sessions.max_events", 99, 500),
        ("sessions.gap_minutes", 10.0, 30.0),
        ("sessions.max_sessions_per_user", 2, None),
        ("sessions.actions", {"save": 2.0}, {}),
        ("holdout.fraction", 0.1, 0.2),
        ("holdout.by", "time", "hash"),
        ("seed", 1, 0),
    ],
)
def test_a_setting_that_changes_what_is_counted_must_not_change(
    tmp_path, logs, chain, key, value, was
):
    message = re.escape(f"{key}: is {value!r} now and was {was!r} in {chain[0].path}")
    since = Path(chain[0].path).parent.parent
    with pytest.raises(ConfigError, match=message):
        graph(tmp_path, logs / "2.jsonl", since=since, **{key: value})
    assert not list(tmp_path.iterdir())


def test_a_setting_that_only_prunes_may_change(tmp_path, logs, chain, rebuilt):
    since = Path(chain[0].path).parent.parent
    pruning = {"graph__measure": "count", "graph__top_k": 2, "graph__keep_counts": False}
    added, _ = graph(tmp_path / "1", logs / "2.jsonl", since=since, **pruning)
    weights, rank = {}, {}
    for edge in table(rebuilt[0], "edges"):
        weights.setdefault(edge["src"], []).append(edge["strength"])
    for edge in table(added, "edges"):
        rank.setdefault(edge["src"], []).append(edge["weight"])
    assert rank == {src: sorted(values)[:-3:-1] for src, values in weights.items()}
    message = "holds no counts to add to; make it with --keep-counts"
    with pytest.raises(ImgembedError, match=message):
        graph(tmp_path / "2", logs / "3.jsonl", since=tmp_path / "1")


def test_a_log_that_is_counted_already_is_named(tmp_path, logs, chain):
    since = Path(chain[1].path).parent.parent
    for counted in (1, 2):  # by the version itself, and by the one before it
        path = logs / f"{counted}.jsonl"
        message = f"{path}: is counted in {chain[1].path} already; name only newer logs"
        with pytest.raises(ImgembedError, match=re.escape(message)):
            graph(tmp_path, logs / f"[{counted}3].jsonl", since=since)


def test_a_log_that_is_counted_already_is_known_by_any_path(tmp_path, logs, chain, monkeypatch):
    monkeypatch.chdir(logs)
    with pytest.raises(ImgembedError, match="is counted in .* already"):
        graph(tmp_path, "1.jsonl", since=Path(chain[0].path).parent.parent)


def test_a_run_that_has_no_graph_says_so(tmp_path, logs):
    with pytest.raises(ImgembedError, match="no graph yet; make it with: imgembed build-graph"):
        graph(tmp_path / "1", logs / "1.jsonl", since=tmp_path / "nowhere")


# In one run directory -----------------------------------------------------------------------------


def versions(run):
    return sorted(path.name for path in (run / "graph").iterdir() if path.is_dir())


def test_a_run_is_added_to_where_it_is_and_twice_is_once(tmp_path, logs, capfd):
    run = tmp_path / "run"

    def since(*arguments):
        """(manifest of the version in force, what was said)."""
        common = ["--run-dir", run, "--keep-counts", "--json", *arguments]
        assert run_command("build-graph", *common) == 0
        printed = capfd.readouterr()
        return json.loads(printed.out)["graph"], printed.err

    first, _ = since("--sessions", logs / "1.jsonl")
    second, said = since("--sessions", logs / "2.jsonl", "--since", run)
    assert "Building the graph" in said
    again, said = since("--sessions", logs / "2.jsonl", "--since", run)
    assert (again, said) == (second, "✓ graph v0002 is up to date\n")
    # Another pruning goes out from the first day again, whose counts are kept for that.
    top = ("--set", "graph.top_k=1")
    pruned, _ = since("--sessions", logs / "2.jsonl", "--since", run, *top)
    assert versions(run) == ["v0001", "v0002", "v0003"]
    assert pruned["previous"]["name"] == "v0001"
    assert pruned["population"] == second["population"]
    # The next day goes out from the second, and the first is needed no more.
    third, _ = since("--sessions", logs / "3.jsonl", "--since", run)
    assert third["previous"]["name"] == "v0003"
    assert versions(run) == ["v0003", "v0004"]
    again, said = since("--sessions", logs / "3.jsonl", "--since", run)
    assert (again, said) == (third, "✓ graph v0004 is up to date\n")
    assert first["population"] < second["population"] < third["population"]
