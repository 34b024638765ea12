"""The stage `report`: whatever stages there are, to one HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.report import costs
from cli.report.runs import Run, named_settings
from pipeline import schema, storage
from pipeline.artifacts import NewVersion, Version

if TYPE_CHECKING:
    from cli.stages import Stages


def make_report(stages: Stages) -> Version:
    """The report of the run as it is; ImgembedError where there is no graph yet."""
    run = Run.open(stages.run)

    def build(new: NewVersion) -> dict[str, Any]:
        from cli.report.content import gather
        from cli.report.page import render

        costs.check(run, stages.config.report, limit=stages.config.runner.max_memory)
        defaults = dict(named_settings(type(stages.config)().model_dump(mode="json")))
        content = gather(run, stages.config.report, seed=stages.config.seed, defaults=defaults)
        page = render(content)
        storage.write_atomic(new.file(schema.REPORT_FILE), page)
        return {
            "report": schema.REPORT_FILE,
            "bytes": len(page),
            "verdict": content.verdict.kind,
            "sentences": content.verdict.sentences(),
        }

    return stages.make(
        schema.REPORT,
        "Writing the report",
        settings=stages.sections("report"),
        upstream=list(run.versions.values()),
        build=build,
    )
