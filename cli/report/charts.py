"""Charts as SVG that stands in the page: its text is the page's text, its colours the page's own.

matplotlib draws them with a fixed salt and without a date, so that the same figures give the same
bytes. Colours are drawn as marks and become variables of the page, which a dark one sets otherwise.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# What is drawn, and the variable of the page that it stands for.
INK, FAINT, LINE, OURS, OTHERS, MARK = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--muted)",
    LINE: "var(--rule)",
    OURS: "var(--accent)",
    OTHERS: "var(--second)",
    MARK: "var(--mark)",
}
_STYLE: Any = {  # keys are checked when it is used
    "svg.fonttype": "none",
    "svg.hashsalt": "imgembed",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.constrained_layout.use": True,
}
_WIDE, _SMALL = (4.6, 2.3), (2.6, 1.55)  # inches; the page scales them
_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_MOST_LETTERS = 55  # below bars, were all names as long as the longest, before they are set aslant
_MOST_BARS = 18  # with their numbers


def bars(
    name: str, categories: Sequence[str], series: Mapping[str, Sequence[int]], *, unit: str
) -> Markup:
    """Bars of one or two series side by side, each with its number where there is room.

    name: what the chart is called for those who cannot see it. unit: what is counted.
    """
    with rc_context(_STYLE):
        figure, axes = _axes(_WIDE)
        width = 0.8 / len(series)
        for place, (label, values) in enumerate(series.items()):
            at = [i - 0.4 + width * (place + 0.5) for i in range(len(values))]
            drawn = axes.bar(at, values, width * 0.92, color=(OURS, OTHERS)[place], label=label)
            if len(series) == 1 and len(values) <= _MOST_BARS:
                axes.bar_label(drawn, [_short(v) for v in values], padding=1, fontsize=8)
        slanted = len(categories) * max(map(len, categories), default=0) > _MOST_LETTERS
        axes.set_xticks(range(len(categories)), list(categories))
        if slanted:
            axes.tick_params(axis="x", rotation=40)
            for text in axes.get_xticklabels():
                text.set_horizontalalignment("right")
                text.set_rotation_mode("anchor")
        axes.set_ylabel(unit)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: _short(value))
        axes.grid(axis="y")
        if len(series) > 1:
            figure.legend(frameon=False, loc="outside upper left", ncols=len(series))
        return _svg(figure, name)


def curve(
    name: str,
    title: str,
    lines: Sequence[tuple[Sequence[int], Sequence[float]]],
    *,
    ours: int,
    best: int | None,
) -> Markup:
    """A figure by epoch.

    lines: [(epochs, values)], of which number `ours` counts. best: the epoch that is marked.
    """
    with rc_context(_STYLE):
        figure, axes = _axes(_SMALL)
        for number, (epochs, values) in enumerate(lines):
            if number != ours:
                axes.plot(epochs, values, color=OTHERS, linewidth=0.8, alpha=0.6)
        epochs, values = lines[ours]
        if best is not None and best in epochs:
            axes.axvline(best, color=MARK, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.plot(epochs, values, color=OURS, linewidth=1.4)
        if best is not None and best in epochs:
            axes.plot([best], [values[list(epochs).index(best)]], "o", color=MARK, markersize=3.5)
        axes.set_title(title, loc="left", fontsize=9, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.grid(axis="y")
        return _svg(figure, name)


def intervals(
    name: str, rows: Sequence[tuple[str, float, float | None, float | None]], *, ours: str
) -> Markup:
    """A figure of each method as a dot, its 95 % interval as a line.

    rows: (method, figure, both ends of the interval or None). ours: the method that stands out.
    """
    with rc_context(_STYLE):
        figure, axes = _axes((_WIDE[0], 0.45 + 0.24 * len(rows)))
        for place, (method, value, low, high) in enumerate(rows):
            color = OURS if method == ours else FAINT
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=color, linewidth=1.6)
                axes.plot([low, high], [place, place], "|", color=color, markersize=6)
            axes.plot([value], [place], "o", color=color, markersize=4)
        axes.set_yticks(range(len(rows)), [_cut(method) for method, *_ in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlim(left=min([0.0, *(low for _, _, low, _ in rows if low is not None)]))
        axes.margins(x=0.03)
        axes.grid(axis="x")
        return _svg(figure, name)


def _cut(text: str, longest: int = 30) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size)
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _short(value: float) -> str:
    """1,234 -> "1.2k": a label of few letters."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / {'G': 1e9, 'M': 1e6, 'k': 1e3}[letter]:.3g}{letter}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def _svg(figure: Figure, name: str) -> Markup:
    """The chart as an element of a page, without what only a file of its own needs."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata=_METADATA)
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = text.replace("'sans-serif'", "inherit").replace("sans-serif", "inherit")
    for mark, variable in _VARIABLES.items():
        text = text.replace(mark, variable)
    # Several charts stand in one page, where each id may stand once.
    prefix = re.sub(r"\W+", "-", name)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = text.replace("<svg ", f'<svg class="chart" role="img" aria-label="{escape(name)}" ', 1)
    return Markup(text.strip())  # noqa: S704 - matplotlib escapes texts, and `name` is above
