"""The Beam runner that a config names, and its options.

`direct` is Beam's embedded runner in one process, named explicitly: Beam's own default would first
try to download another engine, and its local worker processes can lose rows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult

from pipeline import storage
from pipeline.config import RUNNERS, RunnerConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.memory import keep_freed_memory
from pipeline.parcels import spilling

# Options that would take the embedded runner out of the one process in which it loses nothing.
_LOSSY = ("--direct_running_mode", "--direct_num_workers")


class _Options(PipelineOptions):
    """Options whose views are made once: Beam asks for one at every step, and parses each anew."""

    def view_as(self, cls: type[PipelineOptions]) -> PipelineOptions:
        views = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]


def make_pipeline(config: RunnerConfig) -> beam.Pipeline:
    """A pipeline for the runner that the config names, ready to be filled."""
    if config.name == "direct":
        for option in config.options:
            if option.startswith(_LOSSY):
                raise ConfigError(
                    f"Beam option {option!r}: Beam's local workers can lose rows; "
                    "the direct runner stays in one process"
                )
    options = _Options([f"--runner={RUNNERS[config.name]}", *config.options])
    options.view_as(SetupOptions).save_main_session = False
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:  # Beam checks its own options here
        detail = " ".join(str(error).split()).removeprefix("Pipeline has validations errors: ")
        raise ConfigError(
            f"runner {config.name}: {detail} Beam's own options stand after `--`"
        ) from None


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
    try:
        with _shuffle(pipeline, work):
            result = pipeline.run()
            result.wait_until_finish()
    except Exception as error:
        _raise_ours(error)
        raise
    return counters(result)


def _shuffle(pipeline: beam.Pipeline, work: str | None) -> AbstractContextManager[object]:
    options = pipeline.options.view_as(StandardOptions)
    if work is None or options.runner != RUNNERS["direct"]:
        return nullcontext()
    keep_freed_memory()
    if storage.is_local(work):
        return spilling(os.path.join(work, "shuffle"))
    return spilling(tempfile.mkdtemp(prefix="imgembed-"))


def _raise_ours(error: BaseException | None) -> None:
    """Re-raises the ImgembedError in a chain of causes without Beam's wrapping, if there is one."""
    while error is not None:
        if isinstance(error, ImgembedError):
            message = str(error).split(" [while running")[0]
            raise type(error)(message) from None
        error = error.__cause__ or error.__context__


def counters_of(found: Mapping[str, int], *namespaces: str) -> dict[str, int]:
    """The counters of some namespaces, by name: what a manifest keeps of a job's."""
    wanted = tuple(f"{namespace}/" for namespace in namespaces)
    return {name: found[name] for name in sorted(found) if name.startswith(wanted)}


def counters(result: PipelineResult) -> dict[str, int]:
    """Beam's committed counters of a finished run; attempted ones where a runner has no other."""
    found = result.metrics().query(MetricsFilter())["counters"]
    totals: dict[str, int] = {}
    for counter in found:
        name = f"{counter.key.metric.namespace}/{counter.key.metric.name}"
        value = counter.committed if counter.committed is not None else counter.attempted
        totals[name] = totals.get(name, 0) + value
    return totals
