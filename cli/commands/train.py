"""imgembed train"""

from __future__ import annotations

from typing import Any

import click

from cli import options


@click.command("train")
@click.option("--no-export", is_flag=True, help="Leave out the export of the catalog.")
@options.job_options
@options.stage_options
def train(
    no_export: bool,
    force: bool,
    runner: str | None,
    workers: str | None,
    beam_options: tuple[str, ...],
    **common: Any,
) -> None:
    """Fits the embedding, then exports.

    Reads the examples that `imgembed build-graph --images` wrote. Progress can be watched with
    TensorBoard in the run directory's model folder.
    """
    from cli.command import stages

    with stages(
        "train",
        {"runner.name": runner, "runner.workers": workers},
        beam_options,
        force=force,
        **common,
    ) as command:
        command.show(command.stages.train())
        if not no_export:
            command.show(command.stages.export())
