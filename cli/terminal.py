"""What people see while a command works, and the log file that takes everything else.

Results go to stdout, progress and errors to stderr. TensorFlow, Beam and their native libraries
write to stderr as well, past Python: for as long as a command works, the process's stderr is a file
in the run directory, and only what is meant for the user goes to the terminal. Neither may stop the
work: what a full disk or a terminal that was closed does not take is lost.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from typing import IO, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.text import Text

from cli import old_logs
from cli.figures import say_duration
from cli.printing import lines
from pipeline import progress, schema, storage
from pipeline.errors import ImgembedError
from pipeline.locking import command_line
from trainer.progress import Figures, Pace

_VALIDATION = "validation_"
_LINE_SECONDS = 30.0  # between two lines on a job of an engine, where there is no terminal
_log = logging.getLogger("imgembed")


class Terminal:
    """Progress for people: a live line on a terminal, plain lines elsewhere, nothing if quiet."""

    def __init__(self, console: Console, *, quiet: bool, log_path: str) -> None:
        self.console = console
        self.quiet = quiet
        self.log_path = log_path

    def say(self, text: str) -> None:
        """One line about what happened; the log has it as well, whether it is shown or not."""
        text = lines(text)
        _log.info(Text.from_markup(text).plain)
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)

    def log(self, text: str) -> None:
        """Something that the log has and nobody is shown."""
        _log.info(lines(text))

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Shows that a step is at work, with the live tallies of its job, and how long it took."""
        progress.reset()
        began = time.monotonic()
        if not self.console.is_terminal:
            self.say(f"{title} …")
        with self._live(title, _Tallies()), self._told():
            yield
        self.say(f"[green]✓[/] {title} [dim]({time.monotonic() - began:.1f} s)[/]")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Without a live line says where a job on an engine stands, now and then."""
        ended = threading.Event()
        told = threading.Thread(target=self._tell, args=(ended,), daemon=True)
        if not self.console.is_terminal:
            told.start()
        try:
            yield
        finally:
            ended.set()

    def _tell(self, ended: threading.Event) -> None:
        while not ended.wait(_LINE_SECONDS):
            if progress.job() is not None:
                self.say(f"  [dim]{escape(_said())}[/]")

    def _live(self, title: str, *columns: ProgressColumn) -> Any:
        if self.quiet or not self.console.is_terminal:
            return nullcontext()
        live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *columns,
            console=self.console,
            transient=True,
        )
        live.add_task(title, total=None)
        return live

    @contextmanager
    def training(self, title: str) -> Iterator[EpochLines]:
        """Shows the epochs of a training run."""
        began = time.monotonic()
        lines = EpochLines(self, title)
        with lines:
            yield lines
        self.say(f"[green]✓[/] {title} [dim]({time.monotonic() - began:.1f} s)[/]")


class _Tallies(ProgressColumn):
    """The live tallies, such as `12,000 rows · 300 pictures`."""

    def render(self, task: Any) -> Text:
        return Text(_said(), style="dim")


def _said() -> str:
    """The live tallies, and before them the job that runs on an engine, where there is one."""
    job = progress.job()
    parts = [f"{job.name} {job.state}, {say_duration(job.seconds)}"] if job else []
    parts += [f"{amount:,} {step}" for step, amount in progress.snapshot().items()]
    return " · ".join(parts)


class EpochLines:
    """A bar that moves with the steps, and a line for each epoch."""

    def __init__(self, terminal: Terminal, title: str) -> None:
        self._terminal = terminal
        console = terminal.console
        self._bar = (
            Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.completed}/{task.total} steps"),
                TextColumn("[dim]{task.fields[shown]}[/]"),
                console=console,
                transient=True,
            )
            if console.is_terminal and not terminal.quiet
            else None
        )
        self._title = title
        self._task: Any = None
        self._pace: Pace | None = None
        self._turn = ""  # which iteration of co-training it is, where there are any

    def __enter__(self) -> EpochLines:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=None, shown="")
        else:
            self._terminal.say(f"{self._title} …")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def on_iteration(self, iteration: int, last: int) -> None:
        """An iteration of co-training begins, of 0 to `last`."""
        self._turn = f"iteration {iteration}/{last}  "
        if self._bar:
            self._bar.update(self._task, description=f"{self._title}, iteration {iteration}/{last}")

    def on_step(self, pace: Pace) -> None:
        """A step is done: shows the terms of the loss, the speed, and the time left."""
        self._pace = pace
        if self._bar:
            terms = {n: v for n, v in pace.figures.items() if n != "learning_rate"}
            shown = "  ".join([*(f"{n} {v:.3f}" for n, v in terms.items()), *_speed(pace)])
            self._bar.update(self._task, completed=pace.step, total=pace.steps, shown=shown)

    def on_epoch(self, epoch: int, epochs: int, figures: Figures) -> None:
        """An epoch is done: shows the loss, and what was measured on the validation split."""
        kept = {n: v for n, v in figures.items() if n == "loss" or n.startswith(_VALIDATION)}
        shown = [f"{n.removeprefix(_VALIDATION)} {v:.4f}" for n, v in kept.items()]
        speed = _speed(self._pace) if self._pace else []
        self._terminal.say(
            f"  {self._turn}epoch {epoch}/{epochs}  [dim]{'  '.join([*shown, *speed])}[/]"
        )

    def note(self, line: str) -> None:
        """Something out of the ordinary."""
        self._terminal.say(f"  [yellow]![/] {escape(line)}")


def _speed(pace: Pace) -> list[str]:
    if pace.examples_per_second is None or pace.seconds_left is None:
        return []
    return [
        f"{pace.examples_per_second:,.0f} examples/s",
        f"{say_duration(pace.seconds_left)} left",
    ]


@contextmanager
def opened(command: str, run_path: str, *, quiet: bool) -> Iterator[Terminal]:
    """A Terminal, with the process's stderr turned into the log file of this command.

    What the system refuses ends as one line here that names the file, and so does an error that
    nobody expected, its traceback in the log.
    """
    log_path, log = _open_log(command, run_path)
    with _stderr_to(log) as terminal_file:
        console = Console(file=terminal_file, stderr=True)
        _log_to(log)
        _log.info("%s (imgembed %s, process %d)", command_line(), version("imgembed"), os.getpid())
        try:
            yield Terminal(console, quiet=quiet, log_path=log_path)
        except (ImgembedError, click.ClickException) as error:
            _log.error("ended: %s", lines(str(error)))
            raise
        except KeyboardInterrupt:
            raise
        except Exception as error:
            traceback.print_exc()  # to the log
            raise ImgembedError(_explain(error, command, run_path, log_path)) from error


def _explain(error: Exception, command: str, run_path: str, log_path: str) -> str:
    refused = _system_error(error)
    line = storage.explain(refused, run_dir=run_path) if refused else None
    if line:
        return line
    detail = " ".join(str(error).split())[:300]
    return f"{command} failed: {type(error).__name__}: {detail} (details: {log_path})"


def _system_error(error: BaseException) -> OSError | None:
    """The error of the system that this is, or that Beam or TensorFlow made this of."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        of_beam = "[while running" in str(cause)
        cause = cause.__cause__ or (cause.__context__ if of_beam else None)
    full = os.strerror(errno.ENOSPC)
    if cause is None and full in str(error):  # TensorFlow has an error of its own for it
        return OSError(errno.ENOSPC, full)
    return cause


class _Forgiving(io.FileIO):
    """A file for lines that may be lost: what it cannot take is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _forgiving(file: str | int, mode: str) -> IO[str]:
    raw = io.BufferedWriter(_Forgiving(file, mode))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", line_buffering=True)


def _open_log(command: str, run_path: str) -> tuple[str, IO[str]]:
    """(path, file) of this command's log: in the run directory, or where there is a place."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{os.getpid()}.log"
    if storage.is_local(run_path):
        try:
            folder = os.path.join(run_path, schema.LOGS_FOLDER)
            os.makedirs(folder, exist_ok=True)
            path = os.path.join(folder, name)
            log = _forgiving(path, "a")
            old_logs.hold(log)
            old_logs.remove_old(folder, command)
            return path, log
        except OSError:  # read-only, for one; who only reads a run need not write there
            pass
    try:
        path = os.path.join(tempfile.gettempdir(), f"imgembed-{name}")
        return path, _forgiving(path, "a")
    except OSError:
        return os.devnull, _forgiving(os.devnull, "a")


@contextmanager
def _stderr_to(log: IO[str]) -> Iterator[IO[str]]:
    """Points file descriptor 2 at a file; gives a stream to where it pointed before."""
    sys.stderr.flush()
    python_stderr, terminal_fd = sys.stderr, os.dup(2)
    os.dup2(log.fileno(), 2)
    sys.stderr = log  # never closed: handlers of the libraries keep it to the end of the process
    terminal_file = _forgiving(terminal_fd, "w")
    try:
        yield terminal_file
    finally:
        terminal_file.flush()
        os.dup2(terminal_fd, 2)
        sys.stderr = python_stderr
        terminal_file.close()


def _log_to(log: IO[str]) -> None:
    """Sends Python's warnings and log records to the file."""
    logging.captureWarnings(True)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
