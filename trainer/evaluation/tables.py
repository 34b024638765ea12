"""What metrics.json says, as tables that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.evaluation.labels import LABEL_NEIGHBORS
from trainer.evaluation.names import (
    ACCURACY,
    COLLAPSE,
    IMAGE_TO_IMAGE,
    JUDGMENTS,
    LABELS,
    TEXT_TO_IMAGE,
)


@dataclass(frozen=True)
class Table:
    """A table to print: a title, the names of the columns, and rows of text.

    detail: of a part of the queries that another table has in full.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    detail: bool = False


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of metrics.json that people read; parts without a query are left out."""
    images, texts, ks = result[IMAGE_TO_IMAGE], result[TEXT_TO_IMAGE], result["k"]
    found = [
        _method_table("image to image", images, ks),
        _slice_table("image to image, recall by slice", images, ks),
        _by_label_table(images, ks),
        _method_table("text to image", texts, ks),
        *_details("text to image", texts["slices"], ks),
        *_judgment_tables(result.get(JUDGMENTS), ks),
        _label_table(result[LABELS]),
        _collapse_table(result[COLLAPSE]),
    ]
    return [table for table in found if table.rows]


def _details(title: str, slices: Mapping[str, Any], ks: Sequence[int]) -> list[Table]:
    return [
        replace(_method_table(f"{title}, {name} queries", part, ks), detail=True)
        for name, part in slices.items()
    ]


def _judgment_tables(part: Mapping[str, Any] | None, ks: Sequence[int]) -> list[Table]:
    if part is None:
        return []
    missing = (
        f", {part['images_without_embedding']:,} of {part['images']:,} judged images not embedded"
        if part["images_without_embedding"]
        else ""
    )
    left_out = (
        f"; {part['queries_without_right_image']:,} queries without a right image left out"
        if part["queries_without_right_image"]
        else ""
    )
    shown = [name for name in _measures_shown(ks) if name.startswith("ndcg")]
    among = part["judged_only"]
    return [
        _method_table("judgments, NDCG by grade", part, ks, more=missing + left_out),
        *_details("judgments", part["slices"], ks),
        Table(
            f"judgments, of the judged images alone ({among['queries']:,} queries)",
            ["method", *shown],
            [
                [method, *(_cell(figures[name]) for name in shown)]
                for method, figures in among["methods"].items()
            ],
            detail=True,
        ),
    ]


def _measures_shown(ks: Sequence[int]) -> list[str]:
    """Recall at each k, MRR, MAP, and NDCG at 10 or, without that, at the largest k."""
    return [*(f"recall@{k}" for k in ks), "mrr", "map", f"ndcg@{main_k(ks)}"]


def main_k(ks: Sequence[int]) -> int:
    """The length of a result list that one figure is told of: 10 or, without that, the largest."""
    return 10 if 10 in ks else ks[-1]


def _method_table(
    title: str, part: Mapping[str, Any], ks: Sequence[int], *, more: str = ""
) -> Table:
    shown = _measures_shown(ks)
    rows = [
        [method, *(_cell(figures[name]) for name in shown)]
        for method, figures in part["methods"].items()
    ]
    size = f"{part['queries']:,} queries"
    if "sessions" in part:
        size += f" of {part['sessions']:,} sessions"
    return Table(f"{title} ({size}{more})", ["method", *shown], rows)


def _slice_table(title: str, part: Mapping[str, Any], ks: Sequence[int]) -> Table:
    measure = f"recall@{main_k(ks)}"
    slices = {name: of for name, of in part["slices"].items() if of["queries"]}
    rows = [
        [method, *(_cell(of["methods"][method][measure]) for of in slices.values())]
        for method in part["methods"]
        if slices
    ]
    columns = [f"{name} ({of['queries']:,})" for name, of in slices.items()]
    return Table(f"{title}: {measure}", ["method", *columns], rows, detail=True)


def _by_label_table(part: Mapping[str, Any], ks: Sequence[int]) -> Table:
    """A row a label; nothing where no image that was asked has one."""
    measure, labels = f"recall@{main_k(ks)}", part["by_label"]
    parts = [(of["label"], of) for of in labels["shown"]]
    if rest := labels["rest"]["labels"]:
        parts.append((f"({rest:,} other labels)", labels["rest"]))
    if parts:
        parts.append(("(without a label)", labels["unlabelled"]))
    methods = list(part["methods"])
    rows = [
        [f"{name} ({of['queries']:,})", *(_cell(of["methods"][one][measure]) for one in methods)]
        for name, of in parts
        if of["queries"]
    ]
    title = f"image to image, by label of the query: {measure}"
    return Table(title, ["label (queries)", *methods], rows, detail=True)


def _label_table(part: Mapping[str, Any]) -> Table:
    rows = [[method, _cell(of[ACCURACY])] for method, of in part["methods"].items()]
    size = f"{part['queries']:,} test images, {part['neighbors']:,} labelled"
    return Table(f"labels by {LABEL_NEIGHBORS} neighbours ({size})", ["method", ACCURACY], rows)


def _collapse_table(part: Mapping[str, float | None]) -> Table:
    meanings = {
        "rank_me": "rank_me: dimensions in use, more is better",
        "uniformity": "uniformity: 0 = all in one point, lower is more spread out",
        "alignment": "alignment: squared distance of the ends of an edge, lower is closer",
    }
    rows = [[meanings[name], f"{value:.2f}"] for name, value in part.items() if value is not None]
    return Table("collapse of the trained embedding", ["measure", "value"], rows, detail=True)


def _cell(figure: Mapping[str, float]) -> str:
    """`0.312 ±0.011`: the value, and the farther end of its 95 % interval."""
    value = f"{figure['value']:.3f}"
    if "low" not in figure:
        return value
    return f"{value} ±{max(figure['high'] - figure['value'], figure['value'] - figure['low']):.3f}"
