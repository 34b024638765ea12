"""The index stage of a run: made once, made anew where something changed, and what it tells."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from small_indexes import clustered, names, save_run

from cli import indexing
from cli.indexing import IndexBar, make_index
from cli.searching import Query, Searcher
from cli.settings import Config, load
from cli.stages import Stages
from cli.summaries import summarize
from cli.terminal import Terminal
from pipeline import schema
from pipeline.errors import ImgembedError

DIM = 8


def shown(*, terminal: bool = False, quiet: bool = False) -> tuple[Terminal, io.StringIO]:
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=terminal, width=100)
    return Terminal(console, quiet=quiet, log_path=""), sink


def stages(run_dir: Path, *sets: str, force: bool = False) -> tuple[Stages, io.StringIO]:
    config = load(None, sets=sets, flags={"run_dir": str(run_dir)})
    terminal, sink = shown()
    return Stages(config, terminal, force), sink


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    save_run(tmp_path / "run", dict(zip(names(600), clustered(600, DIM), strict=True)), DIM)
    return tmp_path / "run"


def test_it_is_made_once_and_anew_where_its_settings_change(run_dir: Path) -> None:
    made, said = stages(run_dir)
    first = make_index(made)
    assert (first.name, first.manifest["kind"]) == ("v0001", "exact")
    assert first.manifest["upstream"] == {schema.EMBEDDINGS: "v0001"}
    assert said.getvalue().startswith("Building the index …\n✓ Building the index (")
    again, said = stages(run_dir)
    assert make_index(again).name == "v0001"
    assert said.getvalue() == "✓ index v0001 is up to date\n"
    other = make_index(stages(run_dir, "index.kind=approximate")[0])
    assert (other.name, other.manifest["kind"]) == ("v0002", "approximate")
    assert Searcher.open(Config(run_dir=str(run_dir))).index_of == other
    save_run(run_dir, dict(zip(names(600), clustered(600, DIM, seed=1), strict=True)), DIM)
    assert make_index(stages(run_dir, force=True)[0]).name == "v0003"


def test_the_summary_says_what_it_finds(run_dir: Path) -> None:
    approximate = make_index(stages(run_dir, "index.kind=approximate", "index.candidates=10")[0])
    lines = summarize(approximate).splitlines()
    assert lines[0] == (
        "index v0001: approximate, 600 images in 97 cells, of which a search looks into 8"
    )
    assert lines[1].startswith("  finds of the 10 best: ")
    assert lines[1].endswith("% for 300 images")
    exact = make_index(stages(run_dir, "index.kind=exact")[0])
    assert summarize(exact).splitlines()[0] == "index v0002: exact, 600 images"


def test_a_run_whose_index_fails_is_searched_exactly(run_dir: Path) -> None:
    sets = ("kind=approximate", "probes=1", "candidates=1", "min_recall=1")
    with pytest.raises(ImgembedError, match=r"raise index\.probes \(1 of 97 cells\)"):
        make_index(stages(run_dir, *(f"index.{part}" for part in sets))[0])
    searcher = Searcher.open(Config(run_dir=str(run_dir)))
    assert searcher.index_of.stage == schema.EMBEDDINGS
    assert len(searcher.search(Query(ids=["img-00007"]), 3)) == 3


def test_elsewhere_than_on_a_terminal_progress_is_a_line_now_and_then(monkeypatch) -> None:
    terminal, sink = shown()
    with IndexBar(terminal) as bar:
        bar.on_progress("images sorted in", 50_000, 1_000_000)
        monkeypatch.setattr(indexing, "_LINE_SECONDS", 0.0)
        bar.on_progress("images sorted in", 100_000, 1_000_000)
    assert sink.getvalue().splitlines()[:2] == [
        "Building the index …",
        "  100,000/1,000,000 images sorted in",
    ]


def test_on_a_terminal_it_is_a_bar_and_when_quiet_nothing() -> None:
    terminal, sink = shown(terminal=True)
    with IndexBar(terminal) as bar:
        bar.on_progress("queries answered exactly", 250, 1_000)
    assert "250/1,000" in sink.getvalue()
    assert "queries answered exactly" in sink.getvalue()
    terminal, sink = shown(terminal=True, quiet=True)
    with IndexBar(terminal) as bar:
        bar.on_progress("queries answered exactly", 250, 1_000)
    assert sink.getvalue() == ""
