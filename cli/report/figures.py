"""metrics.json as tables to show: every method, measure and slice that stands in it, unasked.

A part of the file that has "methods" is a table, wherever it stands; within it, parts that have
"methods" again are its slices. What a later version measures besides shows up by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cli.report import charts
from trainer.evaluation.names import TRAINED

METHODS = "methods"
_VALUE, _LOW, _HIGH = "value", "low", "high"
_SLICES_SHOWN = 40
_PREFERRED = ("recall@10", "ndcg@10", "accuracy", "map")


@dataclass(frozen=True)
class Cell:
    """A figure and its 95 % interval. left, width, dot: per cent of the column's scale."""

    value: float
    low: float | None
    high: float | None
    left: float
    width: float
    dot: float
    best: bool


@dataclass(frozen=True)
class Table:
    """rows: [(name, cells by column; None where there is no figure)]. facts: [(name, number)]."""

    title: str
    facts: list[tuple[str, Any]]
    first: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    note: str = ""


@dataclass(frozen=True)
class Part:
    """A task that was measured: its table, tables of its slices, and a chart of its headline."""

    table: Table
    slices: list[Table]
    headline: str
    chart: Markup


def parts(metrics: Mapping[str, Any]) -> list[Part]:
    """The tasks of metrics.json, in its order; those without a query are left out."""
    return [
        Part(
            table,
            [_slice_table(name, of) for name, of in _containers(node)],
            wanted,
            _chart(table, wanted),
        )
        for key, node in metrics.items()
        if _is_measured(node)
        and (table := _method_table(readable(key), node)).rows
        and (wanted := headline(node[METHODS])) is not None
    ]


def _chart(table: Table, measure: str) -> Markup:
    at = table.columns.index(measure)
    rows = [
        (name, cell.value, cell.low, cell.high)
        for name, cells in table.rows
        if (cell := cells[at]) is not None
    ]
    said = ", ".join(f"{name} {value:.3f}" for name, value, _, _ in rows)
    return charts.intervals(f"{table.title}, {measure}: {said}", rows, ours=TRAINED)


def facts(metrics: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """[(part, [(name, number)])] of what has no methods, such as the measures of collapse."""
    return [
        (readable(key), found)
        for key, node in metrics.items()
        if isinstance(node, Mapping) and METHODS not in node and (found := _scalars(node))
    ]


def readable(key: str) -> str:
    """ "image_to_image" -> "image to image"."""
    return key.replace("_", " ")


def headline(methods: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The measure that stands for all: recall at 10, or what comes nearest to it."""
    names = measures(methods)
    for wanted in _PREFERRED:
        if wanted in names:
            return wanted
    recalls = [name for name in names if name.startswith("recall@")]
    return recalls[-1] if recalls else next(iter(names), None)


def measures(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the measures that any method has, in the order of the file."""
    return list(
        dict.fromkeys(
            name
            for figures in methods.values()
            for name, figure in figures.items()
            if _is_figure(figure)
        )
    )


def _is_measured(node: Any) -> bool:
    return isinstance(node, Mapping) and isinstance(node.get(METHODS), Mapping)


def _is_figure(figure: Any) -> bool:
    return isinstance(figure, Mapping) and isinstance(figure.get(_VALUE), (int, float))


def _scalars(node: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (readable(name), value)
        for name, value in node.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    ]


def _containers(node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, {slice: part}) of everything in a part that holds parts."""
    for name, inner in node.items():
        if name != METHODS and isinstance(inner, Mapping):
            found = {key: of for key, of in inner.items() if _is_measured(of) and of[METHODS]}
            if found:
                yield readable(name), found


def _method_table(title: str, node: Mapping[str, Any]) -> Table:
    methods = {name: of for name, of in node[METHODS].items() if isinstance(of, Mapping)}
    columns = measures(methods)
    figures = [[of.get(column) for column in columns] for of in methods.values()]
    cells = list(zip(*(_scaled(column) for column in zip(*figures, strict=True)), strict=True))
    rows = [(name, list(row)) for name, row in zip(methods, cells, strict=False)]
    return Table(title, _scalars(node), "method", columns, rows)


def _slice_table(title: str, slices: Mapping[str, Mapping[str, Any]]) -> Table:
    """Slices as rows, those of most queries where there are many; one measure of every method."""
    shown = sorted(slices, key=lambda name: -_size(slices[name]))[:_SLICES_SHOWN]
    kept = [name for name in slices if name in set(shown)]
    measure = headline(slices[kept[0]][METHODS])
    columns = list(dict.fromkeys(method for name in kept for method in slices[name][METHODS]))
    rows: list[tuple[str, list[Cell | None]]] = []
    for name in kept:
        of = slices[name]
        figures = [of[METHODS].get(method, {}).get(measure) for method in columns]
        rows.append((f"{readable(name)} ({_size(of):,})", _scaled(figures)))
    left_out = len(slices) - len(kept)
    note = f"{left_out:,} slices of fewer queries are left out." if left_out else ""
    return Table(f"{title}: {measure}", [], "slice (queries)", columns, rows, note)


def _size(node: Mapping[str, Any]) -> int:
    found = node.get("queries", 0)
    return found if isinstance(found, int) else 0


def _scaled(column: Any) -> list[Cell | None]:
    """Figures on one scale, from 0 (or the lowest, if below) to the highest end of an interval."""
    found = [figure for figure in column if _is_figure(figure)]
    ends = [figure.get(end) for figure in found for end in (_VALUE, _LOW, _HIGH)]
    known = [float(end) for end in ends if end is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    span = (high - low) or 1.0
    best = max((figure[_VALUE] for figure in found), default=None)

    def at(value: float) -> float:
        return round(100 * (value - low) / span, 1)

    def cell(figure: Any) -> Cell | None:
        if not _is_figure(figure):
            return None
        value, start, end = figure[_VALUE], figure.get(_LOW), figure.get(_HIGH)
        bounds = (value, value) if start is None or end is None else (start, end)
        return Cell(
            value,
            start,
            end,
            at(bounds[0]),
            round(at(bounds[1]) - at(bounds[0]), 1),
            at(value),
            len(found) > 1 and value == best,
        )

    return [cell(figure) for figure in column]
