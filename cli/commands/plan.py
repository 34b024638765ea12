"""imgembed plan"""

from __future__ import annotations

import click

from cli import options


@click.command("plan")
@click.option("--sessions", metavar="PATH", help="Session logs: a file, a folder or a glob.")
@click.option("--edges", metavar="PATH", help="A ready edge list (src, dst, weight), not logs.")
@click.option(
    "--images",
    metavar="PATH",
    help="The catalog: a folder of pictures or a table. Also plans the training examples.",
)
@options.config_file
@options.run_dir
@options.set_values
@click.option(
    "--budget",
    metavar="LIMITS",
    help="Exit code 1 where it does not fit, such as memory=8GB,disk=100GB.",
)
@options.runner
@options.max_memory
@options.workers
@options.as_json
def plan(
    sessions: str | None,
    edges: str | None,
    images: str | None,
    config_file: str | None,
    run_dir: str | None,
    sets: tuple[str, ...],
    budget: str | None,
    runner: str | None,
    workers: str | None,
    max_memory: str | None,
    as_json: bool,
) -> None:
    """Estimates what each stage would make and need.

    From a sample of the input, in seconds, and nothing is written: events, sessions, pairs, edges,
    bytes of output, memory, disk and shards. The figures are within a factor of two, and exact
    counts where the sample is the whole input.

    With a catalog (--images, or images.path in the config) also the training examples, or without
    logs these alone: bytes by layout and encoding, files, memory, disk. The graph in force in the
    run directory tells how many neighbours an image has. And training, export, index, evaluation
    and report: in proportion to what they took last in this run directory, else as an estimate that
    says so.

    For a cluster (--runner) memory is that of a worker, and what lies on disk between steps is what
    its shuffle moves.
    """
    from cli.budget import Budget
    from cli.command import read_config
    from cli.planning import show_plan

    flags = {
        **options.graph_inputs(sessions, edges),
        "images.path": images,
        "runner.name": runner,
        "runner.workers": workers,
        "runner.max_memory": max_memory,
    }
    limits = Budget.parse(budget) if budget is not None else None
    show_plan(read_config(config_file, run_dir, sets, flags), budget=limits, as_json=as_json)
