"""Pictures small enough to stand in a page, and as the text that a page holds them in.

WebP by Pillow's encoder: without any time or name, the same bytes for the same picture.
"""

from __future__ import annotations

import base64
import io

from PIL import Image

from pipeline import schema

SIDE = 96  # pixels of a picture in a row
_QUALITY = 80


def decode(content: bytes, spec: schema.ExampleSpec, side: int) -> Image.Image:
    """The picture of an example; ValueError or OSError where it is none. side: pixels of "raw"."""
    if spec.image_encoding == "raw":
        return Image.frombytes("RGB", (side, side), content)
    with Image.open(io.BytesIO(content)) as picture:
        return picture.convert("RGB")


def shrink(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """The picture with no side longer than `side`; a smaller one as it is."""
    if max(picture.size) <= side:
        return picture
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def data_uri(picture: Image.Image, *, quality: int = _QUALITY) -> str:
    """The picture as a `data:` address."""
    sink = io.BytesIO()
    picture.save(sink, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}"
