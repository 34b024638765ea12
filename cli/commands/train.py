"""imgembed train"""

from __future__ import annotations

from typing import Any

import click

from cli import options


@click.command("train")
@click.option("--no-export", is_flag=True, help="Leave out the export of the catalog.")
@options.max_memory
@options.job_options
@options.stage_options
def train(
    no_export: bool,
    force: bool,
    runner: str | None,
    workers: str | None,
    max_memory: str | None,
    beam_options: tuple[str, ...],
    **common: Any,
) -> None:
    """Fits the embedding, then exports.

    Reads the examples that `imgembed build-graph --images` wrote. A training that was stopped or
    killed goes on from its last checkpoint when the command is given again, to the very weights of
    one that ran through; with --force it begins anew. All GPUs of the machine train together, and
    so do several machines, where each is given the command with its TF_CONFIG. Progress can be
    watched with TensorBoard in the run directory's model folder.
    """
    from cli.command import stages
    from cli.indexing import make_index
    from cli.training import make_model

    with stages(
        "train",
        {
            "runner.name": runner,
            "runner.workers": workers,
            "runner.max_memory": max_memory,
        },
        beam_options,
        force=force,
        **common,
    ) as command:
        version = make_model(command.stages)
        if version is None:  # one of several workers, of which the chief does the rest
            return
        command.show(version)
        if not no_export:
            command.show(command.stages.export())
            command.show(make_index(command.stages))
