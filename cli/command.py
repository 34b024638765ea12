"""What commands that work on a run have in common: configuration, terminal, stages, results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cli import places, summaries, terminal
from cli.printing import echo
from cli.settings import Config, load
from cli.stages import Stages
from pipeline.artifacts import RunDir, Version


@dataclass
class Command:
    """A command at work. Results are printed when it is done, as JSON where that is wanted."""

    stages: Stages
    as_json: bool
    results: list[Version]

    @property
    def config(self) -> Config:
        return self.stages.config

    def show(self, version: Version) -> None:
        """Notes a stage's version as a result of the command."""
        self.results.append(version)


def read_config(
    config_file: str | None,
    run_dir: str | None,
    sets: Sequence[str],
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration that a command's common options and its own flags name."""
    return load(config_file, sets=sets, flags={"run_dir": run_dir, **(flags or {})})


def with_beam_options(config: Config, beam_options: Sequence[str]) -> Config:
    """The configuration with Beam's own options from the command line after those of the file."""
    if not beam_options:
        return config
    options = [*config.runner.options, *beam_options]
    runner = config.runner.model_copy(update={"options": options})
    return config.model_copy(update={"runner": runner})


@contextmanager
def stages(
    name: str,
    flags: Mapping[str, Any],
    beam_options: Sequence[str] = (),
    *,
    config_file: str | None,
    run_dir: str | None,
    sets: Sequence[str],
    quiet: bool,
    as_json: bool,
    force: bool = False,
) -> Iterator[Command]:
    """A command named `name`; its results go to stdout at the end.

    flags: settings that its own options changed; None = not given.
    """
    config = with_beam_options(read_config(config_file, run_dir, sets, flags), beam_options)
    config = places.settled(config)
    RunDir.open(config.run_dir)  # before a log is written into a folder that is not ours
    with terminal.opened(name, config.run_dir, quiet=quiet) as shown:
        command = Command(Stages(config, shown, force), as_json, [])
        yield command
    _print(command)


def _print(command: Command) -> None:
    if command.as_json:
        content = {version.stage: version.manifest for version in command.results}
        echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    for version in command.results:
        echo(summaries.summarize(version))
