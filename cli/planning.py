"""`imgembed plan`: the figures of stages that are not made yet, for people and for programs."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.budget import Budget, Need, beyond
from cli.figures import say_about, say_bytes, say_duration
from cli.forecast import Catalog, Forecast, forecasts
from cli.machine import available_disk, available_memory
from cli.printing import echo
from cli.settings import Config
from cli.versions import rows_of
from pipeline import schema
from pipeline.artifacts import RunDir
from pipeline.errors import ConfigError, ImgembedError

if TYPE_CHECKING:
    from pipeline.examples import plan as examples_plan
    from pipeline.graph.list_plan import ListPlan
    from pipeline.graph.plan import Plan

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


@dataclass(frozen=True)
class Room:
    """Bytes that this machine has free; None = nobody knows."""

    memory: int | None
    disk: int | None


@dataclass(frozen=True)
class Part:
    """The plan of one stage. content: for programs; lines: for people; notes: what is to do."""

    content: Mapping[str, Any]
    lines: Sequence[str]
    notes: Sequence[str] = ()
    need: Need | None = None


def show_plan(config: Config, *, budget: Budget | None = None, as_json: bool) -> None:
    """Prints the plan of what the configuration describes: the graph, or all stages, or these.

    ImgembedError at the end where it does not fit into the budget.
    """
    room = Room(available_memory(), available_disk(config.run_dir))
    parts = dict(_parts(config, room))
    if not parts:
        raise ConfigError(
            "sessions.path: no session logs named, and no catalog; give --sessions PATH, --images "
            "PATH or both"
        )
    needs = [part.need for part in parts.values() if part.need]
    missing = list(beyond(needs, budget)) if budget else []
    if as_json:
        content: dict[str, Any] = {
            **{stage: part.content for stage, part in parts.items()},
            "available_memory_bytes": room.memory,
            "available_disk_bytes": room.disk,
            "advice": [note for part in parts.values() for note in part.notes],
        }
        if budget:
            content["beyond_budget"] = missing
        echo(json.dumps(content, indent=2))
    else:
        for part in parts.values():
            for line in (*part.lines, *(f"  ! {note}" for note in part.notes)):
                echo(line)
    if missing:
        raise ImgembedError(f"beyond the budget: {'; '.join(missing)}")


def _parts(config: Config, room: Room) -> Iterator[tuple[str, Part]]:
    edges = None
    if config.edges.path:
        edges, part = _edge_list(config, room)
        yield schema.GRAPH, part
    elif config.sessions.path:
        found = _plan(config)
        edges = found.counts["edges"]
        advice = advise(found, memory=room.memory, disk=room.disk, runner=config.runner.name)
        written = sum(found.output_bytes.values())
        yield (
            schema.GRAPH,
            Part(
                dataclasses.asdict(found),
                _table(found, room, config.runner.name),
                (*found.notes, *advice),
                Need(schema.GRAPH, found.memory_bytes, found.disk_bytes, written),
            ),
        )
    if config.images.path:
        part, catalog = _examples(config, room, edges)
        yield schema.EXAMPLES, part
        for forecast in forecasts(config, RunDir.open(config.run_dir), catalog):
            yield forecast.stage, _later(forecast, config.runner.name)


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
        max_memory=config.runner.max_memory,
    )


def _edge_list(config: Config, room: Room) -> tuple[int, Part]:
    """(edges at most, the plan of the graph of a ready edge list)."""
    from pipeline.graph.list_plan import plan_edge_list
    from pipeline.runner import threads

    found = plan_edge_list(
        config.edges,
        config.graph,
        shards=config.runner.shards,
        threads=threads(config.runner),
        max_memory=config.runner.max_memory,
    )
    about = "" if found.exact else "about "
    shown = _three_columns()
    shown.add_row("output", say_bytes(found.output_bytes), "at most")
    _add_needs(shown, found, room, config.runner.name)
    title = f"a ready edge list of {about}{found.rows:,} rows, {say_bytes(found.input_bytes)}"
    need = Need(schema.GRAPH, found.memory_bytes, found.disk_bytes, found.output_bytes)
    return found.edges, Part(dataclasses.asdict(found), [title, *_lines(shown)], need=need)


def _table(plan: Plan, room: Room, runner: str) -> list[str]:
    shown = _three_columns()
    say = "{:,}".format if plan.exact else say_about
    for name, title in _COUNTS.items():
        shown.add_row(title, say(plan.counts[name]))
    shown.add_section()
    shown.add_row("input", say_bytes(plan.input_bytes))
    parts = (f"{name} {say_bytes(size)}" for name, size in plan.output_bytes.items())
    shown.add_row("output", say_bytes(sum(plan.output_bytes.values())), ", ".join(parts))
    _add_needs(shown, plan, room, runner)
    shown.add_row("files of each output", f"{plan.files:,}")
    source = (
        f"all {plan.sampled_rows:,} rows were read: the counts are exact"
        if plan.exact
        else f"estimated from a sample of {plan.sampled_rows:,} rows"
    )
    return [f"build-graph, {source}", *_lines(shown)]


def _three_columns() -> Table:
    """A title, a figure, and what there is to say of it."""
    shown = Table(box=SIMPLE, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(justify="right", no_wrap=True)
    shown.add_column(no_wrap=True)
    return shown


def _add_needs(
    shown: Table, plan: Plan | ListPlan | examples_plan.Plan, room: Room, runner: str
) -> None:
    """On a cluster the tables between steps go through its shuffle, not to this disk."""
    if runner == "direct":
        shown.add_row("memory", say_bytes(plan.memory_bytes), _free(room.memory))
        shown.add_row("disk while it runs", say_bytes(plan.disk_bytes), _free(room.disk))
    else:
        shown.add_row("memory of a worker", say_bytes(plan.memory_bytes), "a process a core")
        shown.add_row("shuffled", say_bytes(plan.disk_bytes), "between workers, uncompressed")
    shown.add_row("shards", f"{plan.shards:,}", f"{plan.threads:,} at a time")


def _lines(table: Table) -> Iterable[str]:
    console = Console(width=120, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def _free(size: int | None) -> str:
    return "" if size is None else f"{say_bytes(size)} are free"


def advise(plan: Plan, *, memory: int | None, disk: int | None, runner: str) -> list[str]:
    """What to do where this machine is too small for a graph; a cluster's is not asked for."""
    fewer = f"--workers 1 with --set runner.shards={4 * plan.shards}"
    remedy = (
        f"take {fewer}, build the graph in parts (--keep-counts, then --since), or run it on a "
        "cluster (--runner dataflow)"
    )
    written = sum(plan.output_bytes.values())
    return _advise(plan, written, remedy, Room(memory, disk)) if runner == "direct" else []


def _advise(plan: Plan | examples_plan.Plan, written: int, remedy: str, room: Room) -> list[str]:
    lines = []
    if room.memory is not None and plan.memory_bytes > room.memory:
        lines.append(
            f"needs about {say_bytes(plan.memory_bytes)} of memory, {say_bytes(room.memory)} are "
            f"free: {remedy}"
        )
    if room.disk is not None and plan.disk_bytes + written > room.disk:
        lines.append(
            f"needs about {say_bytes(plan.disk_bytes)} of disk while it runs, "
            f"{say_bytes(room.disk)} are free: free some, or name a folder on another disk with "
            "--run-dir"
        )
    return lines


# Examples -----------------------------------------------------------------------------------------


def _examples(config: Config, room: Room, edges: int | None) -> tuple[Part, Catalog]:
    """edges: of the graph that is planned with them."""
    from pipeline.examples.plan import plan_examples
    from pipeline.runner import threads

    found = plan_examples(
        images=config.images,
        examples=config.examples,
        seed=config.seed,
        graph=RunDir.open(config.run_dir).current(schema.GRAPH),
        edges=edges,
        shards=config.runner.shards,
        threads=threads(config.runner),
        max_memory=config.runner.max_memory,
    )
    advice = advise_examples(found, room) if config.runner.name == "direct" else []
    notes = (*found.notes, *advice)
    table = _examples_table(found, room, config.runner.name)
    need = Need(schema.EXAMPLES, found.memory_bytes, found.disk_bytes, found.written_bytes)
    catalog = Catalog(
        images=found.images,
        image_bytes=found.content_bytes,
        side=found.image_size,
        shards=found.shards,
        threads=threads(config.runner),
        input_bytes=found.input_bytes,
        id_bytes=found.id_bytes,
        example_bytes=found.example_bytes,
        edges=_edges(config, edges),
    )
    return Part(dataclasses.asdict(found), table, notes, need), catalog


def _edges(config: Config, planned: int | None) -> int:
    """Of the graph that is planned, else of the one in force; 0 where there is neither."""
    if planned is not None:
        return planned
    graph = RunDir.open(config.run_dir).current(schema.GRAPH)
    return (rows_of(graph) or 0) if graph else 0


def _examples_table(plan: examples_plan.Plan, room: Room, runner: str) -> list[str]:
    say = "{:,}".format if plan.exact else say_about
    shown = _three_columns()
    shown.add_row("images", say(plan.images), _say_catalog(plan))
    beside = "and the pictures that it names" if plan.names_pictures else ""
    shown.add_row("input", say_bytes(plan.input_bytes), beside)
    shown.add_row(
        "neighbours of an image",
        f"{plan.neighbors.mean:.1f}",
        f"on average, {plan.most_neighbors} at most ({plan.neighbors.source})",
    )
    shown.add_row("an example", say_bytes(plan.example_bytes), _say_example(plan.most_neighbors))
    shown.add_row(
        "output",
        say_bytes(plan.written_bytes),
        f"{plan.written_bytes / (plan.images * plan.content_bytes):.1f} times the prepared catalog",
    )
    files = ", ".join(f"{number:,} {split}" for split, number in plan.files.items())
    shown.add_row("files", f"{sum(plan.files.values()):,}", files)
    shown.add_section()
    _add_needs(shown, plan, room, runner)
    title = f"examples, estimated from {plan.sampled_images:,} images of the catalog"
    return [title, *_lines(shown), *_lines(_layouts_table(plan))]


def _say_catalog(plan: examples_plan.Plan) -> str:
    each = say_bytes(plan.content_bytes)
    if plan.feature_dim is not None:
        return f"of {plan.feature_dim:,} features, {each} each"
    return f"of {plan.image_size} × {plan.image_size} pixels, {each} each as {plan.encoding}"


def _say_example(neighbors: int) -> str:
    if not neighbors:
        return "in the files; of one image"
    return f"in the files; of K + 1 = {neighbors + 1} images at most, its own and K neighbours"


def _layouts_table(plan: examples_plan.Plan) -> Table:
    """Bytes of output by layout and encoding; what is configured in brackets."""
    shown = Table(box=SIMPLE, show_header=plan.feature_dim is None)
    shown.add_column("output by layout", no_wrap=True)
    for encoding in plan.output_bytes[plan.layout]:
        shown.add_column(encoding, justify="right", no_wrap=True)
    for layout, sizes in plan.output_bytes.items():
        cells = [
            f"[{say_bytes(size)}]"
            if (layout, encoding) == (plan.layout, plan.encoding)
            else f"{say_bytes(size)} "
            for encoding, size in sizes.items()
        ]
        shown.add_row(layout, *map(Text, cells))
    return shown


def _later(forecast: Forecast, runner: str) -> Part:
    """The plan of a stage after the examples; of these only the export runs on a cluster."""
    on_cluster = forecast.shuffled_bytes is not None and runner != "direct"
    shown = _three_columns()
    for name, number in forecast.counts.items():
        shown.add_row(name.replace("_", " "), say_about(number))
    of_memory = "memory of a worker" if on_cluster else "memory"
    between = "shuffled" if on_cluster else "disk while it runs"
    for title, size in (
        ("input", forecast.input_bytes),
        ("output", forecast.output_bytes),
        (between, forecast.shuffled_bytes),
        ("disk while it runs", forecast.disk_bytes),
        (of_memory, forecast.memory_bytes),
    ):
        if size is not None:
            shown.add_row(title, say_bytes(size))
    if forecast.seconds is not None:
        shown.add_row("time", say_duration(forecast.seconds))
    if forecast.shards is not None:
        shown.add_row("shards", f"{forecast.shards:,}")
    need = Need(
        forecast.stage,
        forecast.memory_bytes or 0,
        (forecast.shuffled_bytes or 0) + (forecast.disk_bytes or 0),
        forecast.output_bytes or 0,
    )
    title = f"{forecast.stage}: {forecast.source}"
    return Part(forecast.to_json(), [title, *_lines(shown)], need=need)


def advise_examples(plan: examples_plan.Plan, room: Room) -> list[str]:
    """What to do where this machine is too small for the examples."""
    remedy = (
        f"take --workers 1 with --set runner.shards={4 * plan.shards}, or run it on a cluster "
        "(--runner dataflow)"
    )
    return _advise(plan, plan.written_bytes, remedy, room)
