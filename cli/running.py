"""`imgembed run`: every stage of one configuration, and a table of what became of each."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cli import places, terminal
from cli.figures import say_bytes, say_duration
from cli.indexing import make_index
from cli.printing import echo
from cli.report.stage import make_report
from cli.settings import Config
from cli.stages import MADE, Outcome, Stages
from cli.training import make_model
from cli.versions import rows_of
from pipeline import locking, schema, storage
from pipeline.artifacts import RunDir, Version
from pipeline.errors import ConfigError, ImgembedError

# All stages of a run, in their order, and what makes each. One that gives None is another worker's.
STAGES: tuple[tuple[str, Callable[[Stages], Version | None]], ...] = (
    (schema.GRAPH, Stages.graph),
    (schema.EXAMPLES, Stages.examples),
    (schema.MODEL, make_model),
    (schema.EMBEDDINGS, Stages.export),
    (schema.INDEX, make_index),
    (schema.EVALUATION, Stages.evaluate),
    (schema.REPORT, make_report),
)


def between(first: str | None, last: str | None) -> list[str]:
    """The stages from one to another, both among them; None = from the first, to the last one.

    A stage goes by its name, or by that of the command that makes it.
    """
    names = [name for name, _ in STAGES]
    start = 0 if first is None else names.index(stage_named(first, "--from"))
    end = len(names) if last is None else names.index(stage_named(last, "--to")) + 1
    if start >= end:
        raise ConfigError(f"--from {first} --to {last}: {last} comes before {first}")
    return names[start:end]


def stage_named(name: str, option: str) -> str:
    """The stage that a name means: its own, or its command's. ConfigError where there is none."""
    names = [stage for stage, _ in STAGES]
    by_command: dict[str, str] = {}
    for stage in names:
        by_command.setdefault(schema.STAGE_COMMANDS[stage].split()[1], stage)
    found = name if name in names else by_command.get(name)
    if found is None:
        raise ConfigError(f"{option}: {name!r} is no stage; there are {', '.join(names)}")
    return found


def run_stages(
    config: Config,
    *,
    first: str | None = None,
    last: str | None = None,
    force: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Makes the stages that are not up to date, and prints what became of them.

    The run directory is this command's from its first stage to its last. What fails is in the table
    too, and raised.
    """
    wanted = between(first, last)
    _check_worker()
    config = places.settled(config)
    RunDir.open(config.run_dir)
    with locking.alone_in(config.run_dir), terminal.opened("run", config.run_dir, quiet=quiet) as t:
        began = time.monotonic()
        stages = Stages(config, t, force)
        summary: dict[str, Any] = {"run_dir": config.run_dir, "stages": [], "log": t.log_path}
        if schema.EXAMPLES in wanted:
            _check_catalog(stages)
        try:
            _make(stages, wanted, summary)
        finally:
            summary["seconds"] = round(time.monotonic() - began, 3)
            table = table_of(summary)
            t.log(f"the end:\n{table}")
            echo(json.dumps(summary, indent=2, ensure_ascii=False) if as_json else table)
            _keep_log(t.log_path, config.run_dir)


def _make(stages: Stages, wanted: Sequence[str], summary: dict[str, Any]) -> None:
    """Makes the stages wanted, and notes in the summary what became of each."""
    for name, make in STAGES:
        if name not in wanted:
            continue
        began = time.monotonic()
        try:
            make(stages)
        except BaseException as error:
            why = " ".join(str(error).split()) or type(error).__name__
            summary["failed"] = {"stage": name, "error": why, "seconds": time.monotonic() - began}
            raise
        summary["stages"].append(_row(stages.outcomes[name], time.monotonic() - began))


def _check_worker() -> None:
    from trainer.workers import this_worker

    worker = this_worker()
    if not worker.is_chief:
        raise ConfigError(
            f"TF_CONFIG: this is worker {worker.index}, and the chief alone makes every stage; "
            "give the chief imgembed run, and the other workers imgembed train"
        )


def _check_catalog(stages: Stages) -> None:
    """Says what is wrong with the catalog before the graph is made."""
    if not stages.config.images.path:
        raise ConfigError(
            "images.path: no catalog named; give --images PATH, or --to graph for the graph alone"
        )
    stages.check_catalog()


def _row(outcome: Outcome, seconds: float) -> dict[str, Any]:
    version = outcome.version
    return {
        "stage": version.stage,
        "version": version.name,
        "done": outcome.done,
        "rows": rows_of(version),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": outcome.measured.peak_memory if outcome.done == MADE else None,
        "path": version.path,
    }


def table_of(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    table = Table(box=SIMPLE)
    for name in ("stage", "version", "done"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "time", "peak memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary["stages"]:
        rows, memory = row["rows"], row["peak_memory_bytes"]
        table.add_row(
            row["stage"],
            row["version"],
            row["done"],
            "" if rows is None else f"{rows:,}",
            say_duration(row["seconds"]),
            "" if memory is None else say_bytes(memory),
        )
    failed = summary.get("failed")
    if failed:
        table.add_row(failed["stage"], "", "failed", "", say_duration(failed["seconds"]), "")
    table.add_section()
    table.add_row("all", "", "", "", say_duration(summary["seconds"]), "")
    console = Console(width=120, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines() if line.strip()]
    return "\n".join([*lines, f"  log: {summary['log']}"])


def _keep_log(path: str, run_dir: str) -> None:
    """Copies the log of a run in a bucket there."""
    if storage.is_local(run_dir) or path == os.devnull:
        return
    name = os.path.basename(path).removeprefix("imgembed-")
    with suppress(OSError, ImgembedError), open(path, "rb") as file:
        storage.write_atomic(storage.join(run_dir, schema.LOGS_FOLDER, name), file.read())
