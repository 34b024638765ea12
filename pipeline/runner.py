"""The Beam runner that a config names, and its options.

`direct` is Beam's embedded runner in one process, named explicitly: Beam's own default would first
try to download another engine, and its local worker processes can lose rows.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    TestOptions,
)
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipeline import engines, errors, storage
from pipeline.config import RUNNERS, RunnerConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.memory import keep_freed_memory
from pipeline.parcels import spilling
from pipeline.watching import counters, watched

_CANCEL_SECONDS = 10.0
_LOGGER = logging.getLogger(__name__)
# One of our errors in the text that an engine makes of what a worker raised.
_OURS = re.compile(r"pipeline\.errors\.(\w+): (.+?)(?: \[while running|\\n|\n|$)")


class _Options(PipelineOptions):
    """Options whose views are made once: Beam asks for one at every step, and parses each anew."""

    def view_as(self, cls: type[PipelineOptions]) -> PipelineOptions:
        views = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]


def make_pipeline(config: RunnerConfig) -> beam.Pipeline:
    """A pipeline for the runner that the config names, ready to be filled."""
    options = _Options([f"--runner={RUNNERS[config.name]}", *config.options])
    options.view_as(SetupOptions).save_main_session = False
    engines.check_options(config.name, config.options, options)
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:  # Beam checks its own options here
        detail = " ".join(str(error).split()).removeprefix("Pipeline has validations errors: ")
        raise ConfigError(
            f"runner {config.name}: {detail} Beam's own options stand after `--`"
        ) from None


def share_process(pipeline: beam.Pipeline) -> beam.Pipeline:
    """The pipeline, of which TensorFlow is a part: on Dataflow one process a machine runs it."""
    if _name(pipeline) == "dataflow":
        engines.share_process(pipeline.options)
    return pipeline


def threads(config: RunnerConfig) -> int:
    """How many elements a step works on at a time in one process: `runner.workers`."""
    if config.workers != "auto":
        return config.workers
    # The workers of a cluster have a process a core.
    return os.cpu_count() or 1 if config.name == "direct" else 1


def run(pipeline: beam.Pipeline, *, work: str | None = None) -> dict[str, int]:
    """Runs to the end; returns all counters as {"namespace/name": value}.

    work: a folder for large tables between steps, where the runner is the embedded one; it is
    removed at the end. In a bucket it stands for a folder of this machine's own.

    Raises ImgembedError where a step raised one: Beam wraps it in a RuntimeError.
    """
    name = _name(pipeline)
    try:
        with _shuffle(pipeline, work), engines.job_server(name, pipeline.options):
            return counters(_finished(pipeline, name))
    except Exception as error:
        _raise_ours(error)
        if name == "direct":
            raise
        _LOGGER.exception("runner %s: the job failed", name)
        raise ImgembedError(f"runner {name}: the job failed: {_gist(error)}") from error


def _finished(pipeline: beam.Pipeline, name: str) -> PipelineResult:
    """The result of a run that has ended; one that is broken off is cancelled on its engine."""
    result = pipeline.run()
    if pipeline.options.view_as(TestOptions).dry_run:
        steps = len(pipeline.runner.proto_pipeline.components.transforms)
        raise ImgembedError(f"dry run: a job of {steps} steps; nothing was submitted or written")
    try:
        with nullcontext() if name == "direct" else watched(result, name):
            result.wait_until_finish()
    except BaseException:
        with suppress(Exception):  # an engine that is gone, or a job that has ended
            result.cancel()
            _await_end(result)
        raise
    return result


def _await_end(result: PipelineResult) -> None:
    """Gives an engine the time to end the workers of a job that was cancelled."""
    end = time.monotonic() + _CANCEL_SECONDS
    while not PipelineState.is_terminal(result.state) and time.monotonic() < end:
        time.sleep(0.1)


def _name(pipeline: beam.Pipeline) -> str:
    """Our name of a pipeline's runner, or Beam's where we have none."""
    wanted = str(pipeline.options.view_as(StandardOptions).runner)
    return {beams: ours for ours, beams in RUNNERS.items()}.get(wanted, wanted)


def _gist(error: Exception) -> str:
    """The last line of what an engine says, where a traceback has its reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__


def _shuffle(pipeline: beam.Pipeline, work: str | None) -> AbstractContextManager[object]:
    options = pipeline.options.view_as(StandardOptions)
    if work is None or options.runner != RUNNERS["direct"]:
        return nullcontext()
    keep_freed_memory()
    if storage.is_local(work):
        return spilling(os.path.join(work, "shuffle"))
    return spilling(tempfile.mkdtemp(prefix="imgembed-"))


def _raise_ours(error: BaseException | None) -> None:
    """Re-raises the ImgembedError in a chain of causes without Beam's wrapping, if there is one.

    From a worker that is another process comes a text, with a traceback in it.
    """
    while error is not None:
        if isinstance(error, ImgembedError):
            message = str(error).split(" [while running")[0]
            raise type(error)(message) from None
        found = _OURS.search(str(error))
        kind = getattr(errors, found[1], None) if found else None
        if found and isinstance(kind, type) and issubclass(kind, ImgembedError):
            raise kind(found[2]) from None
        error = error.__cause__ or error.__context__


def counters_of(found: Mapping[str, int], *namespaces: str) -> dict[str, int]:
    """The counters of some namespaces, by name: what a manifest keeps of a job's."""
    wanted = tuple(f"{namespace}/" for namespace in namespaces)
    return {name: found[name] for name in sorted(found) if name.startswith(wanted)}
