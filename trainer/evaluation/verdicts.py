"""What a comparison of two runs says: a sentence a task, and tables of every measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.evaluation.names import (
    ACCURACY,
    COLLAPSE,
    IMAGE_TO_IMAGE,
    JUDGMENTS,
    LABELS,
    TEXT_TO_IMAGE,
)
from trainer.evaluation.tables import Table, main_k

_TASKS = {
    IMAGE_TO_IMAGE: "image to image",
    TEXT_TO_IMAGE: "text to image",
    JUDGMENTS: "judgments",
    LABELS: "labels by neighbours",
}


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """A sentence a task, of the measure that it is told by."""
    return [
        f"{title}: {verdict(measure, part['measures'][measure])}"
        for task, title, part in _tasks(result)
        for measure in [_main_measure(task, result)]
    ]


def _tasks(result: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for task, title in _TASKS.items():
        if task in result and result[task]["measures"]:
            yield task, title, result[task]


def _main_measure(task: str, result: Mapping[str, Any]) -> str:
    if task == LABELS:
        return ACCURACY
    return f"{'ndcg' if task == JUDGMENTS else 'recall'}@{main_k(result['k'])}"


def verdict(measure: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    """`B is better by 0.015 ± 0.006 in recall@10 (0.587 → 0.602)`."""
    difference = figures["difference"]
    values = f"{figures['a']['value']:.3f} → {figures['b']['value']:.3f}"
    better = _better(difference)
    if better is None:
        shown = _difference(difference)
        return f"neither run is shown to be better in {measure} ({values}): B - A = {shown}"
    size = {**difference, "value": abs(difference["value"])}
    if better == "A" and "low" in difference:
        size |= {"low": -difference["high"], "high": -difference["low"]}
    return f"{better} is better by {_difference(size).lstrip('+')} in {measure} ({values})"


def _better(difference: Mapping[str, float]) -> str | None:
    """The run that is better, where the whole interval says so; None without an interval."""
    if "low" not in difference:
        return None
    if difference["low"] > 0:
        return "B"
    return "A" if difference["high"] < 0 else None


def _difference(figure: Mapping[str, float]) -> str:
    """`+0.015 ± 0.006`, with the farther end of the 95 % interval."""
    value = f"{figure['value']:+.3f}"
    if "low" not in figure:
        return value
    reach = max(figure["high"] - figure["value"], figure["value"] - figure["low"])
    return f"{value} ± {reach:.3f}"


def comparison_tables(result: Mapping[str, Any]) -> list[Table]:
    """Every measure of every task; tasks without a query are left out."""
    found = [
        Table(
            f"{title} ({_size(part)})",
            ["measure", "A", "B", "B - A", "better"],
            [_row(measure, figures) for measure, figures in part["measures"].items()],
        )
        for _, title, part in _tasks(result)
    ]
    spread = [
        [name, *(_number(result[COLLAPSE][side][name]) for side in ("a", "b"))]
        for name in result[COLLAPSE]["a"]
    ]
    return [*found, Table("collapse, on the common images", ["measure", "A", "B"], spread)]


def _size(part: Mapping[str, Any]) -> str:
    size = f"{part['queries']:,} queries"
    return f"{size} of {part['sessions']:,} sessions" if "sessions" in part else size


def _row(measure: str, figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    values = [f"{figures[side]['value']:.3f}" for side in ("a", "b")]
    difference = figures["difference"]
    return [measure, *values, _difference(difference), _better(difference) or ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
