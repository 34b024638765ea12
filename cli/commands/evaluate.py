"""imgembed evaluate"""

from __future__ import annotations

from typing import Any

import click

from cli import options


@click.command("evaluate")
@click.option(
    "--compare",
    "runs",
    nargs=2,
    metavar="RUN_A RUN_B",
    help="Tell which of two run directories is better, on what both hold out.",
)
@click.option(
    "--judgments",
    metavar="PATH",
    help="A table of query, image_id and grade: graded NDCG of what a text finds.",
)
@options.force
@options.stage_options
def evaluate(
    runs: tuple[str, str] | None, judgments: str | None, force: bool, as_json: bool, **common: Any
) -> None:
    """Measures the embeddings on held-out sessions.

    Beside them stand popularity, co-occurrence only and raw features. Prints a table and writes
    metrics.json into the run directory. With --compare nothing is written: of two runs it says by
    how much one is better, with the interval of the difference.
    """
    from cli.command import read_config, stages

    flags = {"evaluation.judgments": judgments}
    if runs:
        from cli.evaluating import compare_runs

        if common["run_dir"]:
            raise click.UsageError("--compare names its runs itself; leave --run-dir away")
        if force:
            raise click.UsageError("--compare is always made anew; leave --force away")
        config = read_config(common["config_file"], None, common["sets"], flags)
        compare_runs(config, *runs, quiet=common["quiet"], as_json=as_json)
        return
    with stages("evaluate", flags, force=force, as_json=as_json, **common) as command:
        command.show(command.stages.evaluate())
