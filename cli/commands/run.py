"""imgembed run"""

from __future__ import annotations

import click

from cli import options


@click.command("run")
@click.option("--sessions", metavar="PATH", help="Session logs: a file, a folder or a glob.")
@click.option("--edges", metavar="PATH", help="A ready edge list (src, dst, weight), not logs.")
@click.option("--images", metavar="PATH", help="The catalog: a folder of pictures or a table.")
@click.option(
    "--from",
    "first",
    metavar="STAGE",
    help="Begin with this stage; those before it stay as they are.",
)
@click.option("--to", "last", metavar="STAGE", help="End with this stage.")
@options.max_memory
@options.job_options
@options.stage_options
def run(
    sessions: str | None,
    edges: str | None,
    images: str | None,
    first: str | None,
    last: str | None,
    force: bool,
    runner: str | None,
    workers: str | None,
    max_memory: str | None,
    beam_options: tuple[str, ...],
    config_file: str | None,
    run_dir: str | None,
    sets: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Makes every stage that is not up to date.

    From the logs and the catalog to the evaluated embeddings; a stage stays as it is where its
    inputs, its settings, the stages before it and the program that makes it are unchanged. Prints a
    table of what became of each stage, as JSON with --json. Asks nothing, and holds the run
    directory from the first stage to the last, so that a scheduler may call it: a second run ends
    at once with exit code 1. --force makes every stage anew that it comes to.
    """
    from cli.command import read_config, with_beam_options
    from cli.running import run_stages

    flags = {
        **options.graph_inputs(sessions, edges),
        "images.path": images,
        "runner.name": runner,
        "runner.workers": workers,
        "runner.max_memory": max_memory,
    }
    config = with_beam_options(read_config(config_file, run_dir, sets, flags), beam_options)
    run_stages(config, first=first, last=last, force=force, quiet=quiet, as_json=as_json)
