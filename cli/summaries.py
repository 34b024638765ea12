"""What a stage's version holds, in a few lines for people."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pipeline import schema, storage
from pipeline.artifacts import Version

if TYPE_CHECKING:
    from trainer.evaluation.tables import Table as EvaluationTable

_TABLE_WIDTH = 120
_TRUSTED = 0.5  # the agreement from which on an edge is rather trusted


def summarize(version: Version) -> str:
    """A few lines about a version: what is in it, and where it lies."""
    describe = _DESCRIPTIONS.get(version.stage)
    body = describe(version) if describe else ""
    return f"{version.stage} {version.name}: {body}\n  {version.path}"


def _graph(version: Version) -> str:
    counts = version.manifest["counts"]
    rows = counts["rows"]
    parts = " + ".join(
        f"{number:,} {name.replace('_', ' ')}"
        for name, number in rows.items()
        if name != "read" and (number or name == "kept")
    )
    sessions = counts.get("sessions")
    source = f"{sessions['in_graph']:,} sessions" if sessions else f"{rows['kept']:,} listed edges"
    lines = [
        f"{counts['edges']['kept']:,} edges from {source}",
        f"{rows['read']:,} rows read = {parts}{_reasons(version.manifest['rejected'])}",
    ]
    if sessions:
        lines.append(_sessions(sessions))
    steps = " → ".join(_step(name, left) for name, left in counts["pruning"].items())
    pairs = counts.get("pairs")
    lines.append(f"{pairs['counted']:,} pairs of images → {steps}" if pairs else steps)
    lines += [
        f"largest hubs {when}: " + ", ".join(f"{h['image_id']} ({h['degree']:,})" for h in hubs)
        for when, hubs in version.manifest["hubs"].items()
        if hubs
    ]
    previous = version.manifest.get("previous")
    if previous:
        across = previous["differs_from_one_run"]["sessions_across_the_cut"]
        lines.append(
            f"added to {previous['name']} ({previous['population']:,} sessions); {across:,} begin "
            "so soon after it that they may be the rest of its last ones"
        )
    return "\n  ".join(lines)


def _step(name: str, left: int) -> str:
    """What a step of pruning left: pairs up to their weight, edges from there on."""
    of_edges = name in ("max_degree", "top_k", "mutual", "union")
    return f"{left:,} {'edges by ' if of_edges else ''}{name}"


def _sessions(sessions: Mapping[str, int]) -> str:
    text = (
        f"{sessions['held_out']:,} sessions held out for evaluation, {sessions['bots']:,} of bots"
    )
    beyond = sessions["beyond_max_sessions_per_user"]
    return (
        f"{text} and {beyond:,} beyond their user's limit left out"
        if beyond
        else (f"{text} left out")
    )


def _reasons(rejected: Mapping[str, int]) -> str:
    if not rejected:
        return ""
    return " (" + ", ".join(f"{reason}: {count:,}" for reason, count in rejected.items()) + ")"


def _model(version: Version) -> str:
    manifest = version.manifest
    measured = ", ".join(
        f"{name.removeprefix('validation_')} {value:.4f}"
        for name, value in manifest["metrics"].items()
        if name.startswith("validation_")
    )
    return (
        f"{manifest['parameters']:,} parameters, {manifest['dim']} dimensions; best of "
        f"{manifest['epochs']} epochs was {manifest['best_epoch']}\n"
        f"  on the validation split: {measured or 'nothing to measure'}{_cotraining(manifest)}"
    )


def _cotraining(manifest: Mapping[str, Any]) -> str:
    """What iterations have found, where there were any."""
    found = manifest.get("agreement")
    if found is None:
        return ""
    line = (
        f"\n  of iterations 0 to {found['iterations'] - 1} the best was {found['best_iteration']}; "
        f"{found['self_labelled']:,} images were given a label"
    )
    if not found["learned"]:
        return f"{line}; no edge is judged: {found['unusable'] or 'all count alike'}"
    auc, by = found.get("agreement_validation_auc"), ""
    if found["unusable"]:
        by = f" by classes alone, as the agreement model is of no use: {found['unusable']}"
    elif auc is not None:
        by = f" (AUC {auc:.2f} of pairs of validation images)"
    return f"{line}; edges are judged{by}; next, imgembed denoise"


def _embeddings(version: Version) -> str:
    manifest = version.manifest
    counts, neighbors = manifest["counts"], manifest.get("neighbors")
    lines = [
        f"{counts['images']:,} images and {counts['queries']:,} queries, "
        f"{manifest['dim']} dimensions{_rejected(manifest)}"
    ]
    if neighbors:
        lines.append(
            f"with their neighbours, which {neighbors['images_with_neighbors']:,} of the images "
            f"have in examples {neighbors['examples']}"
        )
    lines += _taken_over(manifest.get("taken_over") or {})
    if manifest.get("precision"):
        lines.append(f"in {manifest['dtype']}, {_recall(manifest['precision'])}")
    return "\n  ".join(lines)


def _taken_over(found: Mapping[str, Any]) -> list[str]:
    """How much was embedded anew, where something was not, or why all was."""
    if found.get("why_nothing"):
        return [f"all were embedded anew: {found['why_nothing']}"]
    if not found.get("from"):
        return []
    return [
        f"{found['images']:,} images and {found['queries']:,} queries were taken over from "
        f"{found['from']}, {found['images_embedded']:,} and {found['queries_embedded']:,} embedded"
    ]


def _recall(precision: Mapping[str, Any]) -> str:
    measured = [
        f"{found['recall_at_10']:.4f} of {found['queries']:,} {name} among "
        f"{found['searched']:,} images"
        for name, found in precision.items()
        if found
    ]
    if not measured:
        return "of too few images for a recall@10"
    return f"with recall@10 against float32 {', '.join(measured)}"


def _index(version: Version) -> str:
    manifest = version.manifest
    line = f"{manifest['kind']}, {manifest['images']:,} images"
    if "cells" not in manifest:
        return line
    found = ", ".join(
        f"{of['recall']:.1%} for {of['queries']:,} {name}"
        for name, of in manifest["recall@10"].items()
    )
    return (
        f"{line} in {manifest['cells']:,} cells, of which a search looks into "
        f"{manifest['probes']:,}\n  finds of the 10 best: {found}"
    )


def _examples(version: Version) -> str:
    manifest = version.manifest
    splits = ", ".join(f"{of['records']:,} {name}" for name, of in manifest["splits"].items())
    classes = len(manifest["classes"])
    lines = [f"{splits}; {classes:,} classes{_rejected(manifest)}"]
    if manifest["neighbors"]:
        images = manifest["counts"]["images"]
        shares = "".join(
            f"; {name} {figures['share']:.0%}" for name, figures in images["by_popularity"].items()
        )
        lines.append(f"{images['share_with_neighbors']:.0%} of the images have neighbours{shares}")
    return "\n  ".join(lines)


def _agreement(version: Version) -> str:
    manifest = version.manifest
    counts, shares = manifest["edges"], manifest["shares"]
    table = RichTable(box=SIMPLE)
    for column in ("probability", "edges", "share", "of the strong ones"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in shares:
        span = f"{row['from']:.1f} to {row['to']:.1f}"
        table.add_row(span, f"{row['edges']:,}", f"{row['share']:.1%}", f"{row['strong']:.1%}")
    doubted = sum(row["share"] for row in shares if row["to"] <= _TRUSTED)
    lines = [
        f"{counts['judged']:,} of {counts['in_graph']:,} edges join embedded images; {doubted:.0%} "
        "of them more likely join images of two classes than of one",
        *_shown(table).splitlines(),
    ]
    if manifest["drawn"]:
        lines.append(f"the most doubted of the strong ones: {version.file(manifest['drawn'])}")
    lines.append(
        "next: set examples.agreement to weight or filter, then "
        f"{schema.STAGE_COMMANDS[schema.EXAMPLES]}, and imgembed train"
    )
    return "\n  ".join(lines)


def _shown(table: RichTable) -> str:
    """A table as text. Rich fills lines up with spaces."""
    console = Console(width=_TABLE_WIDTH, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().strip("\n").splitlines())


def _rejected(manifest: Mapping[str, Any]) -> str:
    rejected = manifest.get("rejected") or {}
    total = sum(rejected.values())
    return f"; {total:,} rejected{_reasons(rejected)}" if total else ""


def _report(version: Version) -> str:
    manifest = version.manifest
    page = version.file(manifest["report"])
    return "\n  ".join([*manifest["sentences"], f"open in a browser: {page}"])


def _evaluation(version: Version) -> str:
    return "\n" + evaluation_tables(version)


def evaluation_tables(version: Version, *, details: bool = True) -> str:
    """The tables of metrics.json; without details, only those of all queries."""
    from trainer.evaluation.tables import tables

    with storage.open_read(version.file(schema.METRICS_FILE)) as file:
        found = tables(json.load(file))
    return shown_tables([table for table in found if details or not table.detail])


def shown_tables(found: Sequence[EvaluationTable]) -> str:
    """Tables as text, each under its title."""
    console = Console(width=_TABLE_WIDTH, file=io.StringIO())
    with console.capture() as capture:
        for table in found:
            console.print(Text(table.title, style="bold"))
            console.print(_rich_table(table))
    # Rich fills lines up with spaces.
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def _rich_table(table: EvaluationTable) -> RichTable:
    shown = RichTable(box=SIMPLE)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


_DESCRIPTIONS: Mapping[str, Callable[[Version], str]] = {
    schema.GRAPH: _graph,
    schema.EXAMPLES: _examples,
    schema.MODEL: _model,
    schema.EMBEDDINGS: _embeddings,
    schema.INDEX: _index,
    schema.EVALUATION: _evaluation,
    schema.AGREEMENT: _agreement,
    schema.REPORT: _report,
}
