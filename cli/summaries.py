"""What a stage's version holds, in a few lines for people."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pipeline import schema, storage
from pipeline.artifacts import Version

if TYPE_CHECKING:
    from trainer.evaluate import Table as EvaluationTable

_TABLE_WIDTH = 140


def summarize(version: Version) -> str:
    """A few lines about a version: what is in it, and where it lies."""
    describe = _DESCRIPTIONS.get(version.stage)
    body = describe(version) if describe else ""
    return f"{version.stage} {version.name}: {body}\n  {version.path}"


def _graph(version: Version) -> str:
    counts = version.manifest["counts"]
    rows, sessions = counts["rows"], counts["sessions"]
    lines = (
        f"{counts['edges']['kept']:,} edges from {sessions['in_graph']:,} sessions",
        f"{rows['read']:,} rows read = {rows['kept']:,} kept + {rows['rejected']:,} rejected + "
        f"{rows['without_images']:,} without images{_reasons(version.manifest['rejected'])}",
        f"{sessions['held_out']:,} sessions held out for evaluation, {sessions['bots']:,} of bots "
        "left out",
        f"{counts['pairs']['counted']:,} pairs of images counted, "
        f"{counts['pairs']['of_min_sessions']:,} in enough sessions",
    )
    return "\n  ".join(lines)


def _reasons(rejected: Mapping[str, int]) -> str:
    if not rejected:
        return ""
    return " (" + ", ".join(f"{reason}: {count:,}" for reason, count in rejected.items()) + ")"


def _model(version: Version) -> str:
    metrics = version.manifest.get("metrics", {})
    shown = ", ".join(
        f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)
    )
    return f"{version.manifest['dim']} dimensions; {shown}"


def _examples(version: Version) -> str:
    manifest = version.manifest
    splits = ", ".join(f"{of['records']:,} {name}" for name, of in manifest["splits"].items())
    return f"{splits}; {len(manifest['classes']):,} classes{_rejected(manifest)}"


def _rejected(manifest: Mapping[str, Any]) -> str:
    rejected = manifest.get("rejected") or {}
    total = sum(rejected.values())
    return f"; {total:,} rejected{_reasons(rejected)}" if total else ""


def _evaluation(version: Version) -> str:
    from trainer.evaluate import tables

    with storage.open_read(version.file(schema.METRICS_FILE)) as file:
        content = json.load(file)
    console = Console(width=_TABLE_WIDTH, file=io.StringIO())
    with console.capture() as capture:
        for table in tables(content):
            console.print(_rich_table(table))
    return "\n" + capture.get().rstrip()


def _rich_table(table: EvaluationTable) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left", title_style="bold", box=SIMPLE)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


_DESCRIPTIONS: Mapping[str, Callable[[Version], str]] = {
    schema.GRAPH: _graph,
    schema.EXAMPLES: _examples,
    schema.MODEL: _model,
    schema.EVALUATION: _evaluation,
}
