"""history.json as curves and, of co-training, as a table of iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cli.report import charts
from cli.report.figures import readable

_EPOCH, _VALIDATION = "epoch", "validation_"
# Figures that stand for the rest, in front.
_FIRST = ("validation_figure", "loss")
_ENTRY = ("iteration", "figure", "best_epoch", "self_labelled")


@dataclass(frozen=True)
class Training:
    """curves: a chart a figure. columns, iterations: the table of co-training; best: its row."""

    epochs: int
    best_epoch: int | None
    curves: list[Markup]
    columns: list[str]
    iterations: list[list[Any]]
    best_iteration: int | None


def of_history(history: Mapping[str, Any]) -> Training:
    """What a history file says."""
    epochs, iterations = history["epochs"], history.get("iterations") or []
    best = history.get("best_epoch")
    runs = [entry.get("epochs", []) for entry in iterations] or [epochs]
    ours = history.get("best_iteration", 0) if iterations else 0
    columns = _columns(iterations)
    return Training(
        epochs=len(epochs),
        best_epoch=best,
        curves=[_curve(name, runs, ours, best) for name in _names(epochs)],
        columns=[readable(column) for column in columns],
        iterations=[[entry.get(column) for column in columns] for entry in iterations],
        best_iteration=history.get("best_iteration"),
    )


def _names(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Figures of any epoch: those in front, those of validation, the others as they stand."""
    found = dict.fromkeys(
        name
        for figures in epochs
        for name, value in figures.items()
        if name != _EPOCH and isinstance(value, (int, float))
    )
    order = [*_FIRST, *(name for name in found if name.startswith(_VALIDATION)), *found]
    return [name for name in dict.fromkeys(order) if name in found]


def _curve(
    name: str, runs: Sequence[Sequence[Mapping[str, Any]]], ours: int, best: int | None
) -> Markup:
    lines = []
    for run in runs:
        known = [figures for figures in run if figures.get(name) is not None]
        lines.append(([int(f[_EPOCH]) for f in known], [float(f[name]) for f in known]))
    title = readable(name)
    epochs, values = lines[ours]
    first, last = (f"{value:.3g}" for value in (values[0], values[-1]))
    said = f"{title} by epoch: {first} in epoch {epochs[0]}, {last} in epoch {epochs[-1]}"
    return charts.curve(said, title, lines, ours=ours, best=best)


def _columns(iterations: Sequence[Mapping[str, Any]]) -> list[str]:
    found = dict.fromkeys(
        name
        for entry in iterations
        for name, value in entry.items()
        if isinstance(value, (int, float)) and name.startswith(("agreement_", _VALIDATION))
    )
    return [*_ENTRY, *found] if iterations else []
