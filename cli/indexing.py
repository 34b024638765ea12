"""The index stage, and what people see while it is built."""

from __future__ import annotations

import time
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from cli.stages import Stages
from cli.terminal import Terminal
from pipeline import schema
from pipeline.artifacts import NewVersion, Version

_TITLE = "Building the index"
_LINE_SECONDS = 10.0  # between two lines where there is no terminal


def make_index(stages: Stages) -> Version:
    """Embeddings to the files that a search opens."""
    embeddings = stages.run.require(schema.EMBEDDINGS)

    def build(new: NewVersion) -> dict[str, Any]:
        from pipeline.embeddings import costs
        from pipeline.embeddings.index import build_index
        from pipeline.runner import threads

        costs.check_index(embeddings, stages.config.index, limit=stages.config.runner.max_memory)
        with IndexBar(stages.terminal) as shown:
            return build_index(
                embeddings,
                stages.config.index,
                seed=stages.config.seed,
                out=new,
                threads=threads(stages.config.runner),
                on_progress=shown.on_progress,
            )

    return stages.make(
        schema.INDEX,
        None,
        settings=stages.sections("index"),
        upstream=[embeddings],
        build=build,
    )


class IndexBar:
    """A bar that says what is done and how far; elsewhere a line now and then."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._began = self._last_line = time.monotonic()
        self._bar = (
            Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.completed:,}/{task.total:,} [dim]{task.fields[shown]}[/]"),
                console=terminal.console,
                transient=True,
            )
            if terminal.console.is_terminal and not terminal.quiet
            else None
        )
        self._task: Any = None

    def __enter__(self) -> IndexBar:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(_TITLE, total=1, shown="")
        else:
            self._terminal.say(f"{_TITLE} …")
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        if not failed:
            seconds = time.monotonic() - self._began
            self._terminal.say(f"[green]✓[/] {_TITLE} [dim]({seconds:.1f} s)[/]")

    def on_progress(self, what: str, done: int, total: int) -> None:
        """So much is done of a part of the work, such as "images sorted in"."""
        if self._bar:
            self._bar.update(self._task, completed=done, total=total, shown=what)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._terminal.say(f"  {done:,}/{total:,} {what}")
