"""Pictures side by side: a contact sheet of search results, one row a query, best first; and the
strip of a training example, the seed before its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_TILE, _GAP, _LABEL = 96, 12, 240  # pixels: a picture's side, space around it, the query's column
_CAPTION = 16  # pixels below a picture
_FRAME = 4
_INK, _PAPER, _RIGHT, _WRONG = "#222222", "#ffffff", "#2e9e4f", "#d0d0d0"
# Of a strip: a picture's side, space around it, and below it lines of words and a bar.
_SIDE, _SPACE, _LINE, _BAR = 144, 16, 18, 4
_NEIGHBORS_A_ROW = 8
_SEED, _FAINT = "#2563c9", "#767676"
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Answer:
    """A picture or its file, the words below it, and whether it is right (None = nobody knows)."""

    picture: str | Image.Image
    caption: str
    right: bool | None = None


@dataclass(frozen=True)
class Row:
    """A query: its words, or its picture with words below, and the answers."""

    query: str
    answers: Sequence[Answer]
    picture: str | Image.Image | None = None


def write_contact_sheet(path: str, rows: Sequence[Row]) -> None:
    """Writes the rows as one PNG."""
    draw_contact_sheet(rows).save(path, optimize=True)


def draw_contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """The rows as one picture."""
    columns = max(len(row.answers) for row in rows)
    width = _LABEL + columns * (_TILE + _GAP) + _GAP
    height = len(rows) * (_TILE + _CAPTION + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, _GAP + number * (_TILE + _CAPTION + _GAP))
    return sheet


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
    sheet.paste(_tile(answer.picture), (left, top))
    draw.text(
        (left + _TILE / 2, top + _TILE + _CAPTION / 2 + 2),
        answer.caption,
        fill=_INK,
        font=ImageFont.load_default(12),
        anchor="mm",
    )


def _tile(shown: str | Image.Image) -> Image.Image:
    with Image.open(shown) if isinstance(shown, str) else shown.copy() as picture:
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


@dataclass(frozen=True)
class Tile:
    """A picture of a strip and the lines below it. strength: length of its bar, from 0 to 1."""

    picture: Image.Image
    title: str
    words: str
    label: str
    strength: float


def write_strip(path: str, seed: Tile, neighbors: Sequence[Tile]) -> None:
    """Writes the seed, framed, and right of it the neighbours in order as one PNG."""
    columns = min(len(neighbors), _NEIGHBORS_A_ROW)
    rows = max(1, -(-len(neighbors) // _NEIGHBORS_A_ROW))
    step, height = _SIDE + _SPACE, _SPACE + _SIDE + _BAR + 3 * _LINE + _SPACE
    start = 2 * _SPACE + step  # a line between seed and neighbours has a space on either side
    width = start + columns * step if neighbors else _SPACE + step
    strip = Image.new("RGB", (width, rows * height), _PAPER)
    draw = ImageDraw.Draw(strip)
    _draw_frame(draw, _SPACE, _SPACE)
    _draw_tile(strip, draw, seed, _SPACE, _SPACE)
    if neighbors:
        middle = start - _SPACE
        draw.line((middle, _SPACE, middle, rows * height - _SPACE), fill=_WRONG)
    for number, tile in enumerate(neighbors):
        row, column = divmod(number, _NEIGHBORS_A_ROW)
        _draw_tile(strip, draw, tile, start + column * step, row * height + _SPACE)
    strip.save(path, optimize=True)


def _draw_frame(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    box = (left - _FRAME, top - _FRAME, left + _SIDE + _FRAME - 1, top + _SIDE + _FRAME - 1)
    draw.rectangle(box, fill=_SEED)


def _draw_tile(
    strip: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int
) -> None:
    strip.paste(tile.picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top))
    if tile.strength > 0:
        bar = (left, top + _SIDE + 2, left + max(1, round(tile.strength * _SIDE)) - 1)
        draw.rectangle((bar[0], bar[1], bar[2], bar[1] + _BAR - 1), fill=_SEED)
    below = top + _SIDE + _BAR + _LINE // 2 + 5
    for number, (words, ink) in enumerate(
        ((tile.title, _INK), (tile.words, _INK), (tile.label, _FAINT))
    ):
        font = ImageFont.load_default(13)
        place = (left, below + number * _LINE)
        draw.text(place, _cut(draw, words, font), fill=ink, font=font, anchor="lm")


def _cut(draw: ImageDraw.ImageDraw, text: str, font: _Font) -> str:
    """The text, or as much of its beginning and its end, which tells ids apart, as fits."""
    kept = len(text)
    shown = text
    while kept > 1 and draw.textlength(shown, font=font) > _SIDE:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown
