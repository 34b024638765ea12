"""The Beam runner that a config names, and its options.

`direct` is Beam's embedded runner in one process, named explicitly: Beam's own default would first
try to download another engine, and its local worker processes can lose rows.
"""

from __future__ import annotations

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
from apache_beam.runners.runner import PipelineResult

from pipeline.config import RUNNERS, RunnerConfig
from pipeline.errors import ConfigError, ImgembedError

# Options that would take the embedded runner out of the one process in which it loses nothing.
_LOSSY = ("--direct_running_mode", "--direct_num_workers")


def make_pipeline(config: RunnerConfig) -> beam.Pipeline:
    """A pipeline for the runner that the config names, ready to be filled."""
    if config.name == "direct":
        for option in config.options:
            if option.startswith(_LOSSY):
                raise ConfigError(
                    f"Beam option {option!r}: Beam's local workers can lose rows; "
                    "the direct runner stays in one process"
                )
    options = PipelineOptions([f"--runner={RUNNERS[config.name]}", *config.options])
    options.view_as(SetupOptions).save_main_session = False
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:  # Beam checks its own options here
        detail = " ".join(str(error).split()).removeprefix("Pipeline has validations errors: ")
        raise ConfigError(
            f"runner {config.name}: {detail} Beam's own options stand after `--`"
        ) from None


def run(pipeline: beam.Pipeline) -> dict[str, int]:
    """Runs to the end; returns all counters as {"namespace/name": value}.

    Raises ImgembedError where a step raised one: Beam wraps it in a RuntimeError.
    """
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        _raise_ours(error)
        raise
    return counters(result)


def _raise_ours(error: BaseException | None) -> None:
    """Re-raises the ImgembedError in a chain of causes without Beam's wrapping, if there is one."""
    while error is not None:
        if isinstance(error, ImgembedError):
            message = str(error).split(" [while running")[0]
            raise type(error)(message) from None
        error = error.__cause__ or error.__context__


def counters(result: PipelineResult) -> dict[str, int]:
    """Beam's committed counters of a finished run; attempted ones where a runner has no other."""
    found = result.metrics().query(MetricsFilter())["counters"]
    totals: dict[str, int] = {}
    for counter in found:
        name = f"{counter.key.metric.namespace}/{counter.key.metric.name}"
        value = counter.committed if counter.committed is not None else counter.attempted
        totals[name] = totals.get(name, 0) + value
    return totals
