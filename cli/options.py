"""The options that commands share, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

config_file = click.option("--config", "config_file", metavar="FILE", help="The YAML file.")
run_dir = click.option(
    "--run-dir", metavar="DIR", help="Where everything is written.  [default: imgembed-run]"
)
set_values = click.option(
    "--set",
    "sets",
    metavar="SECTION.KEY=VALUE",
    multiple=True,
    help="Change one setting; may be given several times.",
)
runner = click.option(
    "--runner",
    metavar="NAME",
    help="Where Beam runs: direct, dataflow, flink, prism.  [default: direct]",
)
workers = click.option(
    "--workers",
    metavar="N",
    help="Threads of the direct runner, or of each process of a cluster.  [default: one a core]",
)
max_memory = click.option(
    "--max-memory",
    metavar="BYTES",
    help="Memory that the work is cut to fit into, such as 4GB; what cannot be cut is refused.",
)
quiet = click.option("--quiet", is_flag=True, help="No progress, only results and errors.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
force = click.option("--force", is_flag=True, help="Run although nothing has changed.")
beam_options = click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)


def stage_options(command: Command) -> Command:
    """What every command that reads the configuration takes."""
    for option in (as_json, quiet, set_values, run_dir, config_file):
        command = option(command)
    return command


def job_options(command: Command) -> Command:
    """What a command that runs a Beam job takes besides; Beam's own options stand after `--`."""
    for option in (force, workers, runner, beam_options):
        command = option(command)
    return command


def graph_inputs(sessions: str | None, edges: str | None) -> dict[str, str | None]:
    """The settings of --sessions and --edges, of which a command takes one.

    Logs on the command line take the place of an edge list in the file.
    """
    if sessions and edges:
        raise click.UsageError("--sessions and --edges: give one of the two")
    return {"sessions.path": sessions, "edges.path": edges if edges or not sessions else ""}
