"""imgembed build-graph"""

from __future__ import annotations

from typing import Any

import click

from cli import options


@click.command("build-graph")
@click.option("--sessions", metavar="PATH", help="Session logs: a file, a folder or a glob.")
@click.option(
    "--images",
    metavar="PATH",
    help="The catalog: a folder of pictures or a table. Also writes the training examples.",
)
@options.job_options
@options.stage_options
def build_graph(
    sessions: str | None,
    images: str | None,
    force: bool,
    runner: str | None,
    beam_options: tuple[str, ...],
    **common: Any,
) -> None:
    """Turns session logs into the graph.

    With a catalog (--images, or images.path in the config) also to the neighbour-augmented
    TFRecords that `imgembed train` reads. Beam's own options stand after `--`.
    """
    from cli.command import stages

    flags = {"sessions.path": sessions, "images.path": images, "runner.name": runner}
    with stages("build-graph", flags, beam_options, force=force, **common) as command:
        if command.config.images.path:
            command.stages.check_catalog()
        command.show(command.stages.graph())
        if command.config.images.path:
            command.show(command.stages.examples())
