"""`imgembed report` on runs at every stage, of people who are out to break the page."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import report_runs
from report_runs import BREAKS_OUT, MARKUP, QUERIES, SCRIPT, image_id

from cli import main
from cli.report import questions
from pipeline import schema
from pipeline.artifacts import RunDir, to_json

STAGES = (schema.GRAPH, schema.EXAMPLES, schema.MODEL, schema.EMBEDDINGS, schema.EVALUATION)
VOID = {"meta", "link", "img", "br", "input"}
LARGEST = 3_000_000  # bytes


class Parsed(HTMLParser):
    """What a browser sees: elements with their attributes, the text, and what is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in self.inside:
            self.inside[tag].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]][-1] += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every stage but agreement and report."""
    folder = report_runs.build(tmp_path_factory.mktemp("report"))
    report_runs.add_model(folder)
    report_runs.add_embeddings(folder)
    report_runs.add_evaluation(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return report_runs.report(report_runs.copy(run, tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.parametrize("last", range(len(STAGES)), ids=STAGES)
def test_a_run_is_reported_on_from_its_graph_on(run: Path, tmp_path: Path, last: int):
    part = report_runs.copy(run, tmp_path / "run", without=STAGES[last + 1 :])
    parsed = Parsed(report_runs.report(part))
    assert parsed.open == []
    for stage in STAGES[last + 1 :]:
        assert f"not there yet: {schema.STAGE_COMMANDS[stage]}" in parsed.text
    if last + 1 < len(STAGES):
        assert f"next: {schema.STAGE_COMMANDS[STAGES[last + 1]]}" in parsed.text
    else:
        assert "better than every baseline" in parsed.text
    svg = sum("chart" in attributes.get("class", "") for attributes in parsed.all("svg"))
    assert svg >= 2
    assert ("recall@10" in parsed.text) == (schema.EVALUATION in STAGES[: last + 1])
    # Pictures of edges from the examples on, rows of them and the map from the embeddings on.
    assert bool(parsed.all("img")) == (last >= 1)
    assert ("drawn by the seed" in parsed.text) == (last >= 3)


def test_without_a_graph_the_line_says_what_makes_one(tmp_path: Path, capsys):
    assert main.run(["report", "--run-dir", str(tmp_path / "run")]) == 1
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1
    assert schema.STAGE_COMMANDS[schema.GRAPH] in line


def test_the_command_says_the_path_and_the_verdict_and_makes_it_once(run, tmp_path, capsys):
    part = report_runs.copy(run, tmp_path / "run")
    capsys.readouterr()
    assert main.run(["report", "--run-dir", str(part)]) == 0
    out, _ = capsys.readouterr()
    assert str(part / "report" / "v0001" / "index.html") in out
    assert "60.0\u00a0% (58.0 to 62.0)" in out
    assert main.run(["report", "--run-dir", str(part)]) == 0
    assert [path.name for path in (part / "report").iterdir() if path.is_dir()] == ["v0001"]


def test_other_peoples_input_is_text_and_nothing_else(page: str):
    parsed = Parsed(page)
    assert parsed.open == []
    kinds = [attributes.get("type") for attributes in parsed.all("script")]
    assert kinds == ["application/json", None]
    assert len(parsed.all("style")) == 1
    assert not [
        name
        for _, attributes in parsed.elements
        for name in attributes
        if name.startswith("on") or name == "x="
    ]
    assert parsed.all("b") == [
        attributes for attributes in parsed.all("b") if set(attributes) == {"style"}
    ]
    assert SCRIPT in parsed.text  # as a query and as an id, whole
    assert MARKUP in parsed.text
    assert "{{ 7 * 7 }}" in BREAKS_OUT
    assert "49" not in re.findall(r"& (\S+)", parsed.text)
    alts = " ".join(attributes["alt"] for attributes in parsed.all("img"))
    assert BREAKS_OUT in alts
    points = json.loads(parsed.inside["script"][0])
    assert SCRIPT in points["id"]
    assert max(map(len, points["id"])) <= 200


def test_nothing_is_fetched_and_no_script_but_ours_may_run(page: str):
    parsed = Parsed(page)
    addresses = [
        value
        for _, attributes in parsed.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    styles = [*parsed.inside["style"], *(a.get("style", "") for _, a in parsed.elements)]
    for style in styles:
        assert "@import" not in style
        assert all(url.startswith("data:") for url in re.findall(r"url\((.{8})", style))
    policy = next(a["content"] for a in parsed.all("meta") if "http-equiv" in a)
    digest = hashlib.sha256(parsed.inside["script"][1].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_page_can_be_read_by_ear_and_found_by_its_contents(page: str):
    parsed = Parsed(page)
    ids = Counter(attributes["id"] for _, attributes in parsed.elements if "id" in attributes)
    assert max(ids.values()) == 1
    targets = [a["href"][1:] for a in parsed.all("a")]
    assert len(targets) > 8
    assert set(targets) <= set(ids)
    assert all("alt" in attributes for attributes in parsed.all("img"))
    charts = [a for a in parsed.all("svg") if "chart" in a.get("class", "")]
    assert all(a["role"] == "img" and a["aria-label"] for a in charts)
    assert "width=device-width" in page
    assert len(page.encode()) < LARGEST


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(run: Path, page: str, tmp_path: Path):
    again = report_runs.copy(run, tmp_path / "elsewhere")
    assert report_runs.report(again) == page
    assert report_runs.report(again, "--force") == page


def test_the_files_of_the_embeddings_do_not_show(run: Path, page: str, tmp_path: Path):
    other = report_runs.copy(run, tmp_path / "run", without=(schema.EMBEDDINGS,))
    report_runs.add_embeddings(other, files=3)
    assert report_runs.report(other) == page


def test_what_later_evaluations_measure_shows_up_by_itself(page: str):
    text = Parsed(page).text
    for wanted in ("map", "Judgments", "ndcg@5", "By label: recall@10", f"{MARKUP} (7)"):
        assert wanted in text, wanted


def test_a_larger_run_is_sampled_and_the_page_says_so(run: Path, tmp_path: Path):
    part = report_runs.copy(run, tmp_path / "run")
    text = Parsed(
        report_runs.report(part, "--set", "report.max_images=20", "--set", "report.map_images=10")
    ).text
    assert "Searched are 20 of 48 embedded images, drawn by hash" in text
    assert "10 of 48 images, drawn by hash" in text


def test_many_held_out_sessions_are_drawn_from_and_the_page_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "MAX_SESSIONS", 12)
    text = Parsed(report_runs.report(report_runs.copy(run, tmp_path / "run"))).text
    assert "Of 43 held-out sessions 12 are looked at, drawn by the seed." in text


def test_texts_without_a_vector_are_counted(page: str):
    assert "1 query texts" not in page
    text = Parsed(page).text
    assert "1 held-out query text has no exported vector" in text
    assert f"“{QUERIES[1]}”" in text


def test_edges_are_doubted_by_agreement_where_it_is_known(run: Path, tmp_path: Path):
    part = report_runs.copy(run, tmp_path / "run")
    graph = RunDir.open(str(part)).require(schema.GRAPH)
    edges = pa.concat_tables(pq.read_table(path) for path in graph.shards(schema.EDGES))
    agreement = np.linspace(0.9, 0.1, edges.num_rows).astype(np.float32)
    table = edges.select(["src", "dst", "rank", "weight"]).append_column(
        "agreement", pa.array(agreement)
    )
    with RunDir.open(str(part)).begin(schema.AGREEMENT) as new:
        name = schema.shard_name(schema.AGREEMENTS, 0, 1, "parquet")
        pq.write_table(table.cast(schema.AGREEMENT_SCHEMA), new.file(name))
        new.commit({"fingerprint": "a", "config": {}, "upstream": {schema.GRAPH: "v0001"}})
    text = Parsed(report_runs.report(part)).text
    shown = [float(found) for found in re.findall(r"agreement ([\d.]+)\s%", text)]
    weights = table["weight"].to_numpy()
    strong = weights >= np.quantile(weights, 0.75, method="inverted_cdf")
    pairs = {}
    rows = zip(table["src"].to_pylist(), table["dst"].to_pylist(), agreement, strict=True)
    for keep, (src, dst, found) in zip(strong, rows, strict=True):
        if keep:
            pair = tuple(sorted((src, dst)))
            pairs[pair] = min(pairs.get(pair, 1.0), found)
    expected = sorted(100 * float(found) for found in pairs.values())[: len(shown)]
    assert len(shown) == 15
    assert shown == pytest.approx(expected, abs=0.051)


def test_iterations_of_co_training_are_shown(run: Path, tmp_path: Path):
    part = report_runs.copy(run, tmp_path / "run", without=(schema.MODEL,))
    epochs = [{"epoch": n, "loss": 1.0 / n} for n in (1, 2, 3)]
    entry = {"best_epoch": 2, "figure": 0.5, "self_labelled": 0, "epochs": epochs}
    iterations = [
        {"iteration": 0, **entry},
        {"iteration": 1, **entry, "self_labelled": 17, "agreement_validation_auc": 0.875},
    ]
    best = {"best_iteration": 1, "epochs": epochs, "best_epoch": 2}
    report_runs.add_model(part, iterations=iterations, **best)
    text = Parsed(report_runs.report(part)).text
    assert "The curves are of iteration 1, which was chosen" in text
    assert "agreement validation auc" in text
    assert "0.875" in text


def test_stages_that_are_not_of_one_piece_are_named(run: Path, tmp_path: Path):
    part = report_runs.copy(run, tmp_path / "run")
    report_runs.add_embeddings(part)
    text = Parsed(report_runs.report(part)).text
    assert "out of date (made of embeddings v0001; in force is v0002): imgembed evaluate" in text
    assert "The figures are of an earlier version of the run" in text


def test_an_evaluation_without_held_out_sessions_says_so(run: Path, tmp_path: Path):
    part = report_runs.copy(run, tmp_path / "run", without=(schema.EVALUATION,))
    nothing = {"queries": 0, "sessions": 0, "methods": {}, "slices": {}}
    content = {"held_out": {"sessions": 0}, "image_to_image": nothing, "text_to_image": nothing}
    report_runs.add_evaluation(part, content)
    text = Parsed(report_runs.report(part)).text
    assert "no session was held out" in text
    assert "No query could be asked" in text


def test_a_catalog_of_features_is_reported_on_without_pictures(tmp_path: Path):
    run = report_runs.build(tmp_path, features=True)
    report_runs.add_model(run)
    report_runs.add_embeddings(run)
    parsed = Parsed(report_runs.report(run))
    assert parsed.open == []
    assert parsed.all("img") == []
    assert "there are no pictures to show" in parsed.text
    assert "raw features" in parsed.text


def test_a_graph_of_a_ready_edge_list_is_reported_on(tmp_path: Path):
    edges = tmp_path / "edges.tsv"
    edges.write_text("src\tdst\tweight\na\tb\t3.0\nb\tc\t1.5\nx\ty\t0.5\n")
    run = tmp_path / "run"
    arguments = ["build-graph", "--quiet", "--edges", str(edges), "--run-dir", str(run)]
    assert main.run(arguments) == 0
    text = Parsed(report_runs.report(run)).text
    assert "ready edge list" in text
    assert "2 components of two images or more; the largest has 3 images" in text


def test_json_is_the_manifest(run: Path, tmp_path: Path, capsys):
    part = report_runs.copy(run, tmp_path / "run")
    capsys.readouterr()
    assert main.run(["report", "--json", "--quiet", "--run-dir", str(part)]) == 0
    manifest = json.loads(capsys.readouterr().out)[schema.REPORT]
    assert manifest["verdict"] == "better"
    assert manifest["report"] == "index.html"
    assert to_json(manifest) == (part / "report" / "v0001" / "manifest.json").read_bytes()


def test_an_installed_package_has_the_templates(tmp_path: Path):
    root = Path(__file__).parent.parent
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    there = {path.name for path in (root / "cli" / "report" / "templates").iterdir()}
    assert there == {"page.html", "page.css", "page.js"}
    assert {path.name for path in (tmp_path / "cli" / "report" / "templates").iterdir()} == there


def test_long_ids_are_cut_in_the_page_and_told_apart(page: str):
    assert image_id(3) not in page
    assert "x" * 60 in page
