"""A picture of search results: one row a query, its answers side by side, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_TILE, _GAP, _LABEL = 96, 12, 240  # pixels: a picture's side, space around it, the query's column
_CAPTION = 16  # pixels below a picture
_FRAME = 4
_INK, _PAPER, _RIGHT, _WRONG = "#222222", "#ffffff", "#2e9e4f", "#d0d0d0"


@dataclass(frozen=True)
class Answer:
    """A picture file, the words below it, and whether it is right (None = nobody knows)."""

    path: str
    caption: str
    right: bool | None = None


@dataclass(frozen=True)
class Row:
    """A query: its words, or its picture with words below, and the answers."""

    query: str
    answers: Sequence[Answer]
    picture: str | None = None


def write_contact_sheet(path: str, rows: Sequence[Row]) -> None:
    """Writes the rows as one PNG."""
    columns = max(len(row.answers) for row in rows)
    width = _LABEL + columns * (_TILE + _GAP) + _GAP
    height = len(rows) * (_TILE + _CAPTION + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, _GAP + number * (_TILE + _CAPTION + _GAP))
    sheet.save(path, optimize=True)


def _draw_row(sheet: Image.Image, row: Row, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    if row.picture is None:
        _center(draw, row.query, _LABEL, top + _TILE // 2, size=17)
    else:
        left = (_LABEL - _TILE) // 2
        sheet.paste(_tile(row.picture), (left, top))
        _center(draw, row.query, _LABEL, top + _TILE + _CAPTION // 2, size=12)
    for number, answer in enumerate(row.answers):
        _draw_answer(sheet, draw, answer, _LABEL + number * (_TILE + _GAP), top)


def _draw_answer(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, answer: Answer, left: int, top: int
) -> None:
    if answer.right is not None:
        box = (left - _FRAME, top - _FRAME, left + _TILE + _FRAME - 1, top + _TILE + _FRAME - 1)
        draw.rectangle(box, fill=_RIGHT if answer.right else _WRONG)
    sheet.paste(_tile(answer.path), (left, top))
    draw.text(
        (left + _TILE / 2, top + _TILE + _CAPTION / 2 + 2),
        answer.caption,
        fill=_INK,
        font=ImageFont.load_default(12),
        anchor="mm",
    )


def _tile(path: str) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB").resize((_TILE, _TILE), Image.Resampling.LANCZOS)


def _center(draw: ImageDraw.ImageDraw, text: str, width: int, middle: int, *, size: int) -> None:
    """Words in the middle of the query column, on as many lines as they need."""
    font = ImageFont.load_default(size)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font=font) <= width - 2 * _GAP:
            lines[-1] = longer
        else:
            lines.append(word)
    draw.multiline_text(
        (width / 2, middle), "\n".join(lines), fill=_INK, font=font, anchor="mm", align="center"
    )
