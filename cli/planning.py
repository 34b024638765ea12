"""`imgembed plan`: the figures of a graph that is not built yet, for people and for programs."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cli.settings import Config
from pipeline import storage
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.graph.plan import Plan

_CGROUP = "/sys/fs/cgroup"
_COUNTS = {
    "rows": "rows",
    "events": "events",
    "sessions": "sessions",
    "images": "images in the graph",
    "co_occurrences": "co-occurrences",
    "pairs": "distinct pairs",
    "pairs_of_min_sessions": "pairs of min_sessions",
    "edges": "edges kept",
}


def show_plan(config: Config, *, as_json: bool) -> None:
    """Prints the plan of the graph that the configuration describes."""
    if config.edges.path:
        _show_edges(config, as_json=as_json)
        return
    if not config.sessions.path:
        raise ConfigError("sessions.path: no session logs named; give --sessions PATH")
    found = _plan(config)
    memory = available_memory()
    disk = available_disk(config.run_dir)
    advice = advise(found, memory=memory, disk=disk, runner=config.runner.name)
    if as_json:
        content = {
            **dataclasses.asdict(found),
            "available_memory_bytes": memory,
            "available_disk_bytes": disk,
            "advice": advice,
        }
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(_table(found, memory=memory, disk=disk))
    for line in (*found.notes, *advice):
        click.echo(f"  ! {line}")


def _plan(config: Config) -> Plan:
    from pipeline.graph.counting import Counting
    from pipeline.graph.plan import plan_graph
    from pipeline.runner import threads
    from pipeline.sessions.read import find_logs

    settings = Counting(config.sessions, config.holdout, config.graph, config.privacy, config.seed)
    return plan_graph(
        logs=find_logs(config.sessions),
        settings=settings,
        shards=config.runner.shards,
        threads=threads(config.runner),
    )


def _show_edges(config: Config, *, as_json: bool) -> None:
    from pipeline.graph.plan import plan_edges

    rows, size, exact = plan_edges(config.edges)
    if as_json:
        click.echo(json.dumps({"exact": exact, "rows": rows, "input_bytes": size}, indent=2))
        return
    about = "" if exact else "about "
    click.echo(f"a ready edge list of {about}{rows:,} rows, {say_bytes(size)}")


def _table(plan: Plan, *, memory: int | None, disk: int | None) -> str:
    shown = Table(box=SIMPLE, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(justify="right", no_wrap=True)
    shown.add_column(no_wrap=True)
    say = "{:,}".format if plan.exact else say_about
    for name, title in _COUNTS.items():
        shown.add_row(title, say(plan.counts[name]))
    shown.add_section()
    parts = (f"{name} {say_bytes(size)}" for name, size in plan.output_bytes.items())
    shown.add_row("output", say_bytes(sum(plan.output_bytes.values())), ", ".join(parts))
    shown.add_row("memory", say_bytes(plan.memory_bytes), _free(memory))
    shown.add_row("disk while it runs", say_bytes(plan.disk_bytes), _free(disk))
    shown.add_row("shards", f"{plan.shards:,}", f"{plan.threads:,} at a time")
    shown.add_row("files of each output", f"{plan.files:,}")
    source = (
        f"all {plan.sampled_rows:,} rows were read: the counts are exact"
        if plan.exact
        else f"estimated from a sample of {plan.sampled_rows:,} rows"
    )
    return "\n".join([f"build-graph, {source}", *_lines(shown)])


def _lines(table: Table) -> Iterable[str]:
    console = Console(width=120, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def _free(size: int | None) -> str:
    return "" if size is None else f"{say_bytes(size)} are free"


def advise(plan: Plan, *, memory: int | None, disk: int | None, runner: str) -> list[str]:
    """What to do where this machine is too small; a cluster's is not asked for."""
    if runner != "direct":
        return []
    lines = []
    if memory is not None and plan.memory_bytes > memory:
        fewer = f"--workers 1 with --set runner.shards={4 * plan.shards}"
        lines.append(
            f"needs about {say_bytes(plan.memory_bytes)} of memory, {say_bytes(memory)} are free: "
            f"take {fewer}, build the graph in parts (--keep-counts, then --since), or run it on a "
            "cluster (--runner dataflow)"
        )
    if disk is not None and plan.disk_bytes + sum(plan.output_bytes.values()) > disk:
        lines.append(
            f"needs about {say_bytes(plan.disk_bytes)} of disk while it runs, {say_bytes(disk)} "
            "are free: free some, or name a folder on another disk with --run-dir"
        )
    return lines


def available_memory() -> int | None:
    """Bytes that this process may still take, by the system and by its control group."""
    found = [*_of_system(), *_of_group()]
    return min(found, default=None)


def _of_system() -> Iterable[int]:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_group() -> Iterable[int]:
    limit, used = (_text(f"{_CGROUP}/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        yield max(0, int(limit) - int(used))


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def available_disk(run_dir: str) -> int | None:
    """Bytes free where the run directory is or will be; None for a bucket."""
    if not storage.is_local(run_dir):
        return None
    folder = os.path.abspath(run_dir)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def say_about(number: float) -> str:
    """Two figures of a number: `about 2.0 million`."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if number >= 0.995 * size:
            return f"about {_two_figures(number / size)}{word}"
    return f"about {_two_figures(number)}" if number >= 100 else f"about {number:.0f}"


def _two_figures(number: float) -> str:
    if number < 9.95:
        return f"{number:.1f}"
    rounded = float(f"{number:.1e}")
    return f"{rounded:,.0f}"


def say_bytes(size: float) -> str:
    """Bytes in the unit that suits them: `1.7 GB`."""
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.995 * unit:
            return f"{_two_figures(size / unit)} {word}"
    return f"{size:.0f} B"
