"""Decode pictures of any kind into the one kind that models see.

In: the bytes of a PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF, PPM or ICO file. Out: the bytes of a PNG,
RGB, square, without metadata. Imports neither Beam nor TensorFlow: a search decodes its query
picture with the same function.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image

from pipeline.errors import ImgembedError

# No format that runs another program (EPS) or reads other files; the frequent ones first.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
WHITE = (255, 255, 255, 255)
_COMPRESS_LEVEL = 6  # fixed, so that bytes do not change with Pillow's default
_ORIENTATION_TAG = 0x0112
# EXIF orientation -> what brings the picture upright; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCING_GAP = 3.0  # shrink by whole factors first, down to 3 times the size; then filter

EMPTY = "the picture file is empty"
NOT_A_PICTURE = "not a picture of a known format"
TOO_MANY_PIXELS = "the picture has more pixels than images.max_pixels"
BROKEN = "the picture is broken or cut short"


class PictureError(ImgembedError):
    """A picture that cannot be decoded; the message is the reason a rejected row carries."""


def prepare(data: bytes, *, image_size: int, max_pixels: int) -> bytes:
    """A PNG of the picture: RGB on white, upright, image_size x image_size pixels.

    The sides are scaled on their own: all of the picture is kept, its aspect ratio is not. Of an
    animation the first frame counts. A picture of more than `max_pixels` is refused from its
    header, before any pixel is decoded.
    """
    picture = _open(data)
    if picture.width * picture.height > max_pixels:
        raise PictureError(TOO_MANY_PIXELS)
    try:
        return _encode(_square(picture, image_size))
    except Exception as error:  # decoders raise nearly every type there is on broken files
        raise PictureError(BROKEN) from error


@cache
def _decoders() -> tuple:
    Image.init()
    return tuple(Image.OPEN[name] for name in FORMATS if name in Image.OPEN)


def _open(data: bytes) -> Image.Image:
    """Reads the header.

    Image.open would do, but for its own pixel limit: that one is a global of the process, warns
    on the terminal, and would refuse what `max_pixels` allows.
    """
    if not data:
        raise PictureError(EMPTY)
    known = False
    for factory, accepts in _decoders():
        answer = accepts(data[:16])
        if not answer or isinstance(answer, str):  # a text says what this Pillow was built without
            continue
        known = True
        try:
            return factory(io.BytesIO(data), "")
        except Exception:  # noqa: S112 - another decoder may know it
            continue
    raise PictureError(BROKEN if known else NOT_A_PICTURE)


def _square(picture: Image.Image, size: int) -> Image.Image:
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, several times faster.
    picture.draft(None, (int(size * _REDUCING_GAP),) * 2)
    picture.load()
    plain = _eight_bits(picture).resize(
        (size, size), Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP
    )
    turn = _UPRIGHT.get(_orientation(picture))
    if turn is not None:
        plain = plain.transpose(turn)  # on the small square: the same, and cheaper
    return _on_white(plain)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """The picture in mode L, RGB or RGBA, which the filters know."""
    mode = picture.mode
    if mode.startswith(("I", "F")):
        return _from_numbers(picture)
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture if mode in ("L", "RGB") else picture.convert("L" if mode == "1" else "RGB")


def _from_numbers(picture: Image.Image) -> Image.Image:
    """Gray of 16 bits (or 32, of which 16 count), or floats from 0 to 1, in 8 bits."""
    values = np.asarray(picture).astype(np.float64)
    top = 1.0 if picture.mode == "F" else 65535.0
    return Image.fromarray(np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8))


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken metadata do not make a broken picture
        return 1


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, WHITE)
    return Image.alpha_composite(ground, picture).convert("RGB")


def _encode(picture: Image.Image) -> bytes:
    picture.info = {}  # colour profile, text, EXIF: Pillow would write them along
    sink = io.BytesIO()
    picture.save(sink, "PNG", compress_level=_COMPRESS_LEVEL)
    return sink.getvalue()
