"""What leaves the graph builder tells nobody who was there: ids, rare queries, single users."""

import gzip
import itertools
import json
import random
import re
import uuid
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_logs import build, clicks, files, run_command, table, write_log
from test_tables import encode

from pipeline.errors import ConfigError

# No id in any file -------------------------------------------------------------------------------


class Ids:
    """Draws ids that occur nowhere else, and remembers them."""

    def __init__(self):
        self.draw = random.Random(7)
        self.all = set()

    def new(self, form):
        """One id: "hex" | "mail" | "number" | "words"; how ids look in the wild."""
        number = uuid.UUID(int=self.draw.getrandbits(128))
        text = {
            "hex": str(number),
            "mail": f"{number.hex[:12]}@mail.example",
            "number": str(number.int)[:17],
            "words": f"Zoë {number.hex[:10]} Ødegård",
        }[form]
        self.all.add(text)
        return text


def planted_rows(ids, form, amount=60):
    """Event rows of sessions whose user and session ids are planted."""
    people = [ids.new(form) for _ in range(amount // 4)]
    rows = []
    for number in range(amount):
        user, session = people[number % len(people)], ids.new(form)
        for step in range(3):
            rows.append(
                {
                    "session_id": session if number % 5 else None,
                    "user_id": user if number % 7 else None,
                    "timestamp": 1_600_000_000 + 9_000 * number + step,
                    "query": f"Query {number % 3}",
                    "image_id": f"image-{(number + step) % 9}",
                }
            )
    return [row for row in rows if row["session_id"] or row["user_id"]]


def broken_rows(ids, form):
    """Rows that can be parsed and are no events, with ids in them."""
    good = {"session_id": None, "user_id": None, "timestamp": 1_600_000_000, "query": "q"}
    faults = [
        {"image_id": None},
        {"image_id": "x" * 2_000},
        {"image_id": "two\nlines"},
        {"image_id": "a", "timestamp": "the day before yesterday"},
        {"image_id": "a", "timestamp": None, "session_id": None},
    ]
    rows = []
    for fault in faults:
        row = {**good, "session_id": ids.new(form), "user_id": ids.new(form), **fault}
        rows.append({name: row[name] for name in (*good, "image_id")})
    return rows


def torn_lines(ids, extension, form):
    """Lines that cannot be parsed, with ids in them."""
    session, user = ids.new(form), ids.new(form)
    if extension == "jsonl":
        row = json.dumps({"session_id": session, "user_id": user, "image_id": "a"})
        yield row[:-1]
        yield row[: row.index('", "image_id')]
        yield f'["{user}"]'
        yield f'{{"user_id": {{"id": "{user}"}}, "session_id": ["{session}"], "image_id": "a"}}'
        yield f'{{"session_id": "{session}", "image_id": {{"of": "{user}"}}}}'
        yield f"{user}"
    else:
        mark = "\t" if extension == "tsv" else ","
        yield mark.join([session, user, "1600000000", "q", "a", "one column more"])
        yield mark.join([session, user])
        yield user


def planted_file(path, ids, form):
    """A log of one format: good rows, broken rows, and lines that are no rows."""
    extension = path.name.split(".")[1]
    rows = planted_rows(ids, form) + broken_rows(ids, form)
    if extension in ("parquet", "avro"):
        rows = [row | {"timestamp": row["timestamp"] and str(row["timestamp"])} for row in rows]
    if extension == "tfrecord":  # a feature has one kind
        rows = [row for row in rows if not isinstance(row["timestamp"], str)]
    content = encode(f".{extension}", rows)
    if extension in ("jsonl", "csv", "tsv"):
        torn = list(torn_lines(ids, extension, form))
        content += "".join(line + "\n" for line in torn).encode()
        # A quote that is never closed swallows what comes after it.
        if extension == "csv":
            content += f'{ids.new(form)},"{ids.new(form)},1,q,a\n{ids.new(form)},,1,q,b\n'.encode()
        content += b"\xff" + ids.new(form).encode() + b"\n"
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def session_file(path, ids):
    """Whole-session rows, some of them broken."""
    items = [[f"image-{number}", "image-1"] for number in range(20)]
    items += [["a", ""], {"of": ids.new("mail")}, [["a"], {"of": ids.new("hex")}]]
    rows = [
        {"session_id": ids.new("hex"), "user_id": ids.new("mail"), "timestamp": 1.6e9, "items": of}
        for of in items
    ]
    rows[0]["session_id"] = None
    write_log(path, rows)


def texts_of(path):
    """All that a file holds: its bytes, unpacked, and every text in a table."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".gz":
        yield gzip.decompress(content)
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        yield repr((file.metadata.to_dict(), file.schema_arrow.metadata)).encode()
        yield json.dumps(file.read().to_pylist(), ensure_ascii=False).encode()


def leaks(folder, ids):
    """(id, file) of each id of the input that any file holds, as it is or escaped."""
    forms = {}
    for text in ids.all:
        for form in (text, json.dumps(text)[1:-1], repr(text)[1:-1], text.split("@")[0]):
            forms[form.encode()] = text
    # Of names of several words, each is an id.
    forms |= {word.encode(): text for text in ids.all for word in text.split() if len(word) > 7}
    pattern = re.compile(b"|".join(map(re.escape, forms)))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            for content in texts_of(path):
                for found in set(pattern.findall(content)):
                    yield forms[found], str(path.relative_to(folder))


def test_no_file_of_a_run_holds_a_user_id_or_a_session_id(tmp_path, capfd):
    ids = Ids()
    logs = tmp_path / "logs"
    logs.mkdir()
    names = ("a.jsonl", "b.jsonl.gz", "c.csv", "d.tsv", "e.parquet", "f.avro", "g.tfrecord")
    for name, form in zip(names, itertools.cycle(("hex", "mail", "words", "number"))):
        planted_file(logs / name, ids, form)
    session_file(logs / "h.jsonl", ids)
    arguments = ["build-graph", "--sessions", logs, "--run-dir", tmp_path / "run", "--keep-counts"]
    for setting in ("graph.edges_tsv=true", "sessions.max_rejected_fraction=1"):
        arguments += ["--set", setting]
    assert run_command(*arguments, "--json") == 0
    printed = capfd.readouterr()
    manifest = json.loads(printed.out)["graph"]
    assert sum(manifest["rejected"].values()) > 40
    assert len(manifest["rejected"]) > 7
    (tmp_path / "run" / "stdout").write_text(printed.out)
    (tmp_path / "run" / "stderr").write_text(printed.err)
    kinds = {path.name.split("-")[0] for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {"edges", "pairs", "holdout", "rejected", "manifest.json", "edges.tsv"} <= kinds
    assert any(path.suffix == ".log" for path in (tmp_path / "run").rglob("*"))
    # The search finds what is there: nearly all ids that were drawn went into the logs.
    found = {text for text, _ in leaks(logs, ids)}
    assert len(found) > 0.8 * len(ids.all) > 400
    assert list(leaks(tmp_path / "run", ids)) == []


def test_a_run_that_fails_tells_no_id_either(tmp_path, capfd):
    ids = Ids()
    planted_file(tmp_path / "a.jsonl", ids, "hex")
    run = tmp_path / "run"
    assert run_command("build-graph", "--sessions", tmp_path / "a.jsonl", "--run-dir", run) == 1
    printed = capfd.readouterr()
    assert "rows cannot be read" in printed.err
    (run / "printed").write_text(printed.out + printed.err)
    assert list(leaks(run, ids)) == []


# Queries of few users -----------------------------------------------------------------------------


def test_a_query_of_too_few_users_is_in_no_file(tmp_path):
    rows = clicks(150)
    for row in rows:
        row["query"] = None
    # Asked by 2 users in many sessions; by 3 in three; by 3, of whom none opens the same image.
    for number, row in enumerate(rows):
        if row["user_id"] in ("user-1", "user-2"):
            row["query"] = "wanted by two"
        elif row["user_id"] in ("user-3", "user-4", "user-5"):
            row["query"] = "wanted by three"
            row["image_id"] += f"-{row['user_id']}" if number % 2 else ""
    write_log(tmp_path / "log.jsonl", rows)
    version = build(
        tmp_path / "run",
        tmp_path / "log.jsonl",
        min_users=3,
        holdout=0.5,
        edges_tsv=True,
        shards=3,
    )
    asked = {row["query"] for row in table(version, "queries")}
    assert asked == {"wanted by three"}
    held_out = {row["query"] for row in table(version, "holdout")}
    assert held_out == {None, "wanted by three"}
    assert all(edge["users"] >= 3 for edge in table(version, "edges"))
    for path in Path(version.path).rglob("*.*"):
        for content in texts_of(path):
            assert b"wanted by two" not in content, path
    assert version.manifest["counts"]["queries"] == {"counted": 2, "published": 1}


# Users of many sessions ---------------------------------------------------------------------------


def test_a_user_adds_no_more_than_the_limit_to_any_count(tmp_path):
    rows = [
        {"user_id": "busy", "session_id": str(n), "image_id": image, "query": "q"}
        for n in range(50)
        for image in ("a", "b")
    ]
    rows += [
        {"user_id": f"u{n}", "session_id": "s", "image_id": image, "query": "q"}
        for n in range(5)
        for image in ("a", "b", "c")
    ]
    write_log(tmp_path / "log.jsonl", rows)
    for limit, expected in ((4, 9), (1, 6)):
        version = build(
            tmp_path / str(limit),
            tmp_path / "log.jsonl",
            measure="count",
            sessions={"max_sessions_per_user": limit},
        )
        edges = {(e["src"], e["dst"]): (e["sessions"], e["users"]) for e in table(version, "edges")}
        assert edges["a", "b"] == (expected, 6)
        assert edges["a", "c"] == (5, 5)
        assert version.manifest["population"] == expected
        (node,) = (node for node in table(version, "nodes") if node["image_id"] == "a")
        assert node["sessions"] == expected
        (query,) = (row for row in table(version, "queries") if row["image_id"] == "a")
        assert (query["sessions"], query["users"]) == (expected, 6)


# Differential privacy -----------------------------------------------------------------------------

PEOPLE = 900


def crowd_rows():
    """Pairs of very many users and, one a user, 900 pairs of images that nobody else opens.

    Of PEOPLE, all open x0 and x1; two of three x2; one in twenty x3.
    """
    for person in range(PEOPLE):
        images = ["x0", "x1"] + ["x2"] * (person % 3 > 0) + ["x3"] * (person % 20 == 0)
        for image in [*images, f"own-{person}-a", f"own-{person}-b"]:
            query = f"query of {person}" if image.startswith("own") else "everybody asks"
            yield {
                "user_id": f"user-{person}",
                "session_id": f"s-{person}",
                "image_id": image,
                "query": query,
            }


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    path = tmp_path_factory.mktemp("crowd") / "log.jsonl"
    write_log(path, crowd_rows())
    return path


def private(run_dir, log, *, epsilon=4.0, **options):
    privacy = {"epsilon": epsilon, "delta": 1e-6, "max_pairs_per_user": 20}
    return build(run_dir, log, privacy=privacy, measure="count", **options)


@pytest.fixture(scope="module")
def private_runs(tmp_path_factory, crowd):
    return [private(tmp_path_factory.mktemp("private"), crowd, shards=n) for n in (1, 3)]


def true_counts():
    """({pair: users}, {image: users}) of the images that many open."""
    opened = {}
    for row in crowd_rows():
        if row["image_id"].startswith("x"):
            opened.setdefault(row["user_id"], []).append(row["image_id"])
    pairs = Counter(
        pair for images in opened.values() for pair in itertools.permutations(images, 2)
    )
    return pairs, Counter(image for images in opened.values() for image in images)


def test_private_counts_are_noisy_and_near_the_truth(private_runs):
    pairs, images = true_counts()
    differences = []
    for version in private_runs:
        scale = version.manifest["privacy"]["pairs"]["scale"]
        edges = {(e["src"], e["dst"]): e for e in table(version, "edges")}
        assert {("x0", "x1"), ("x1", "x0"), ("x0", "x2"), ("x1", "x2")} <= edges.keys()
        for (src, dst), edge in edges.items():
            assert edge["users"] == edge["sessions"] == edges[dst, src]["users"]
            assert edge["users"] >= version.manifest["privacy"]["pairs"]["threshold"]
            assert abs(edge["users"] - pairs[src, dst]) < 8 * scale
            differences.append(edge["users"] - pairs[src, dst])
            for end in ("src", "dst"):
                assert abs(edge[f"{end}_sessions"] - images[edge[end]]) < 8 * scale
        assert abs(version.manifest["population"] - PEOPLE) < 100
        queries = table(version, "queries")
        assert {row["query"] for row in queries} == {"everybody asks"}
        assert any(row["users"] != images[row["image_id"]] for row in queries)
    assert len(set(differences)) > 3


def test_two_private_runs_differ_and_no_setting_can_repeat_one(private_runs):
    counts = [
        {(e["src"], e["dst"]): e["users"] for e in table(version, "edges")}
        for version in private_runs
    ]
    assert counts[0] != counts[1]


def test_what_one_user_has_alone_is_never_published(private_runs):
    # 900 users with a pair, two images and a query of their own, in two runs.
    for version in private_runs:
        for path, content in files(version).items():
            assert b"own-" not in content, path
            assert b"query of" not in content, path
        assert {node["image_id"] for node in table(version, "nodes")} <= {"x0", "x1", "x2", "x3"}
    text = json.dumps([version.manifest for version in private_runs])
    assert "own-" not in text


def test_the_manifest_has_the_promise_and_not_the_key(private_runs):
    promise = private_runs[0].manifest["privacy"]
    assert list(promise) == ["pairs", "images", "queries", "population", "not_covered"]
    parts = [promise[name] for name in ("pairs", "images", "queries", "population")]
    assert sum(part["epsilon"] for part in parts) == pytest.approx(4.0)
    assert sum(part["delta"] for part in parts) <= 1e-6 * (1 + 1e-9)
    assert "key" not in json.dumps(parts)


def test_the_manifest_says_what_the_noise_does_not_cover(private_runs):
    assert "not for publication" in private_runs[0].manifest["privacy"]["not_covered"]


def test_a_large_epsilon_gives_the_counts_of_users(tmp_path, crowd):
    version = private(tmp_path, crowd, epsilon=1e5)
    pairs, images = true_counts()
    edges = {(e["src"], e["dst"]): e["users"] for e in table(version, "edges")}
    assert edges == pairs
    counted = {n["image_id"]: n["sessions"] for n in table(version, "nodes")}
    assert {image: counted[image] for image in images} == images
    assert version.manifest["population"] == PEOPLE


def test_a_user_adds_one_to_a_pair_and_to_no_more_pairs_than_allowed(tmp_path):
    # One user opens 30 images in 9 sessions: 435 pairs; 40 others open two of them each.
    rows = [
        {"user_id": "busy", "session_id": f"b{n}", "image_id": f"i{image}"}
        for n in range(9)
        for image in range(30)
    ]
    rows += [
        {"user_id": f"u{n}", "session_id": f"{n}", "image_id": f"i{image}"}
        for n in range(40)
        for image in (0, 1)
    ]
    write_log(tmp_path / "log.jsonl", rows)
    privacy = {"epsilon": 1e6, "delta": 0.5, "max_pairs_per_user": 5}
    version = build(
        tmp_path / "run", tmp_path / "log.jsonl", privacy=privacy, measure="count", min_sessions=1
    )
    edges = {(e["src"], e["dst"]): e["users"] for e in table(version, "edges")}
    assert edges.keys() == {("i0", "i1"), ("i1", "i0")}
    assert edges["i0", "i1"] in (40, 41)
    assert version.manifest["counts"]["pairs"]["counted"] in (5, 6)


def test_min_users_holds_for_private_queries_as_well(tmp_path, crowd):
    version = private(tmp_path, crowd, epsilon=1e5, min_users=100)
    assert all(row["users"] >= 100 for row in table(version, "queries"))


def test_a_rejected_row_of_one_user_does_not_go_around_the_noise(tmp_path, crowd):
    lines = crowd.read_text()
    fault = {"user_id": "u", "session_id": "s", "query": "a secret", "image_id": "two\nlines"}
    (tmp_path / "log.jsonl").write_text(lines + json.dumps(fault) + "\n")
    version = private(tmp_path / "run", tmp_path / "log.jsonl")
    assert not any(b"a secret" in content for content in files(version).values())


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("holdout.fraction", {"holdout": 0.1}),
        ("graph.keep_counts", {"keep_counts": True}),
        ("sessions.previous", {"sessions": {"previous": "run"}}),
        ("graph.discount", {"discount": "size"}),
        ("sessions.actions", {"sessions": {"actions": {"save": 2.0}}}),
    ],
)
def test_what_the_noise_does_not_cover_is_refused(tmp_path, crowd, key, change):
    with pytest.raises(ConfigError, match=f"{key}: with privacy.epsilon it must be") as caught:
        private(tmp_path, crowd, **change)
    assert "\n" not in str(caught.value)


def test_half_life_and_logs_without_users_are_refused(tmp_path):
    rows = clicks(20)
    write_log(tmp_path / "log.jsonl", rows)
    with pytest.raises(ConfigError, match="graph.half_life_days: with privacy.epsilon"):
        private(tmp_path / "run", tmp_path / "log.jsonl", half_life_days=1.0)
    for row in rows:
        del row["user_id"]
    write_log(tmp_path / "log.jsonl", rows)
    with pytest.raises(ConfigError, match="privacy.epsilon: the logs have no user_id"):
        private(tmp_path / "run", tmp_path / "log.jsonl")
