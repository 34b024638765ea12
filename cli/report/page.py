"""The report as one HTML file: text, style, script and pictures in it, and nothing from elsewhere.

Ids, query texts and labels are other people's input: the template escapes everything that is not
markup of ours, and the page's own policy lets no script run but ours, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import jinja2
from markupsafe import Markup

from cli.report import questions
from cli.report.content import Content
from cli.report.figures import readable
from pipeline import schema

_CUT = 28  # letters of an id below a picture
_LONG = 200  # letters of an id, or of a query, in the text


def render(content: Content) -> bytes:
    """The file."""
    loader = jinja2.PackageLoader("cli.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "figure": _figure,
        "percent": _percent,
        "cut": _cut,
        "short": _short,
        "readable": readable,
    }
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    page = environment.get_template("page.html").render(
        content=content,
        graph=content.graph,
        thumbnails=content.thumbnails,
        schema=schema,
        max_sessions=questions.MAX_SESSIONS,
        style=style,
        script=script,
        policy=_policy(script),
        points=_points(content),
    )
    return page.encode()


def _source(environment: jinja2.Environment, name: str) -> Markup:
    """A file of ours, as it stands."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])  # noqa: S704 - our own text


def _policy(script: str) -> str:
    """What a browser may do with the page: run this very script, and show what stands in it."""
    # The element's text, with the line breaks that the template puts around it.
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _points(content: Content) -> Markup:
    """What the script knows of the map's points, as JSON that may stand in a script element."""
    found = content.atlas
    points: dict[str, Any] = {}
    if found is not None:
        points = {
            "x": found.x,
            "y": found.y,
            "id": [_cut(one, _LONG) for one in found.ids],
            "label": [None if one is None else _cut(one, _LONG) for one in found.labels],
            "tile": found.tiles,
            "columns": found.columns,
        }
    text = json.dumps(points, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 - escaped above


# Words and numbers ------------------------------------------------------------------------------


def _number(value: float) -> str:
    """1234 -> "1,234"; of other numbers three digits that count."""
    return f"{value:,}" if isinstance(value, int) else _figure(value)


def _figure(value: float | None) -> str:
    """0.58571 -> "0.586", 1234.5 -> "1,234", 0.00012 -> "0.00012"."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1_000:
        return f"{value:,.0f}"
    for least, digits in ((100, 1), (10, 2), (0.01, 3)):
        if size >= least:
            return f"{value:.{digits}f}"
    return f"{value:.2g}"


def _percent(share: float) -> str:
    """0.9543 -> "95.4 %", with a space that does not break; 0.05 -> "5 %"."""
    return f"{100 * share:.1f}".removesuffix(".0") + "\u00a0%"


def _cut(text: str, longest: int = _CUT) -> str:
    """The text, or its beginning and its end, which tells ids apart."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}…{text[-(longest - longest // 2 - 1) :]}"


def _short(text: str) -> str:
    return _cut(text, _LONG)
