"""imgembed build-graph"""

from __future__ import annotations

from typing import Any

import click

from cli import options

_BUDGETS = (
    "sessions.max_rejected_fraction",
    "edges.max_rejected_fraction",
    "images.max_rejected_fraction",
)


@click.command("build-graph")
@click.option("--sessions", metavar="PATH", help="Session logs: a file, a folder or a glob.")
@click.option("--edges", metavar="PATH", help="A ready edge list (src, dst, weight), not logs.")
@click.option(
    "--images",
    metavar="PATH",
    help="The catalog: a folder of pictures or a table. Also writes the training examples.",
)
@click.option(
    "--since",
    metavar="RUN",
    help="Add the logs to the counts of this run directory (made with --keep-counts).",
)
@click.option("--keep-counts", is_flag=True, help="Write all counts, for a later --since.")
@click.option("--strict", is_flag=True, help="Fail at the first row that cannot be read.")
@options.max_memory
@options.job_options
@options.stage_options
def build_graph(
    sessions: str | None,
    edges: str | None,
    images: str | None,
    since: str | None,
    keep_counts: bool,
    strict: bool,
    force: bool,
    runner: str | None,
    workers: str | None,
    max_memory: str | None,
    beam_options: tuple[str, ...],
    **common: Any,
) -> None:
    """Turns session logs, or a ready edge list, into the graph.

    With a catalog (--images, or images.path in the config) also to the neighbour-augmented
    TFRecords that `imgembed train` reads. Beam's own options stand after `--`.
    """
    from cli.command import stages

    flags = {
        **options.graph_inputs(sessions, edges),
        "images.path": images,
        "sessions.previous": since,
        "graph.keep_counts": keep_counts or None,
        "runner.name": runner,
        "runner.workers": workers,
        "runner.max_memory": max_memory,
        **dict.fromkeys(_BUDGETS, 0.0 if strict else None),
    }
    with stages("build-graph", flags, beam_options, force=force, **common) as command:
        if command.config.images.path:
            command.stages.check_catalog()
        command.show(command.stages.graph())
        if command.config.images.path:
            command.show(command.stages.examples())
