"""imgembed runs"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cli import options

if TYPE_CHECKING:
    from cli.settings import Config


@click.group("runs")
def runs() -> None:
    """The versions of a run directory.

    A stage that is made anew is a version beside the former ones, of which keep_versions stay. One
    of them is in force, and the only one that other commands read.
    """


@runs.command("list")
@options.as_json
@options.run_dir
@options.config_file
def list_(as_json: bool, run_dir: str | None, config_file: str | None) -> None:
    """Lists all versions: when each was made, of what, and whether it is in force."""
    from cli.versions import print_list

    print_list(_config(config_file, run_dir), as_json=as_json)


@runs.command("show")
@click.argument("stage", metavar="STAGE")
@click.argument("version", metavar="[VERSION]", required=False)
@options.as_json
@options.run_dir
@options.config_file
def show(
    stage: str, version: str | None, as_json: bool, run_dir: str | None, config_file: str | None
) -> None:
    """Shows what one version holds, and how it was made.

    VERSION is one such as v0003; without it the one in force. With --json its whole manifest.
    """
    from cli.versions import print_version, stage_name

    config = _config(config_file, run_dir)
    print_version(config, stage_name(stage), version, as_json=as_json)


@runs.command("rollback")
@click.argument("stage", metavar="STAGE")
@click.argument("version", metavar="[VERSION]", required=False)
@options.as_json
@options.run_dir
@options.config_file
def rollback(
    stage: str, version: str | None, as_json: bool, run_dir: str | None, config_file: str | None
) -> None:
    """Puts an older version of a stage in force again.

    VERSION is one such as v0003; without it the last one before the one in force. Nothing is made
    and nothing removed: the later stages stay as they are, and it says which were made of another
    version. A version after the one in force can be put in force again in the same way.
    """
    from cli.versions import roll_back, stage_name

    roll_back(_config(config_file, run_dir), stage_name(stage), version, as_json=as_json)


@runs.command("prune")
@click.argument("stages", metavar="[STAGE]...", nargs=-1)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    required=True,
    help="Versions of a stage that stay: the one in force and the last ones.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@options.as_json
@options.run_dir
@options.config_file
def prune(
    stages: tuple[str, ...],
    keep: int,
    dry_run: bool,
    as_json: bool,
    run_dir: str | None,
    config_file: str | None,
) -> None:
    """Removes old versions, of all stages or of those named.

    Besides these N stay the versions that those in force were made of, and counts that logs are
    added to.
    """
    from cli import versions

    config = _config(config_file, run_dir)
    names = [versions.stage_name(stage) for stage in stages]
    versions.prune(config, names, keep, dry_run=dry_run, as_json=as_json)


def _config(config_file: str | None, run_dir: str | None) -> Config:
    from cli.command import read_config

    return read_config(config_file, run_dir, ())
