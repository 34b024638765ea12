"""Decode pictures of any kind into the one kind that models see.

In: the bytes of a PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF, PPM or ICO file. Out: a square RGB picture
without metadata, encoded, and the sums of its channels. Imports neither Beam nor TensorFlow, and
of this project nothing but the errors: a search decodes its query picture with the same function,
and so do the processes of `decode_worker`, which have to start fast.
"""

from __future__ import annotations

import importlib
import io
import struct
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from pipeline.errors import ImgembedError

if TYPE_CHECKING:
    from pipeline import schema

# How a prepared picture is written: schema.ImageEncoding, and "bmp": "raw" with a header, for
# TensorFlow's decode_image.
Encoding = Literal["jpeg", "png", "raw", "bmp"]

# Pillow's plugins of the formats that are read, the frequent ones first. No format that runs
# another program (EPS) or reads other files.
_PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "PPM": "PpmImagePlugin",
    "ICO": "IcoImagePlugin",
}
_ICO, _PNG = b"\0\0\1\0", b"\x89PNG\r\n\x1a\n"  # first bytes
_WHITE = (255, 255, 255, 255)
# A photo of 64 x 64 pixels has 4.0 kB and 44 dB PSNR; colour at half the resolution (4:2:0) gives
# 3.4 kB and 39 dB, quality 90 3.1 kB and 43 dB. `optimize` would be a second pass.
_JPEG_OPTIONS = {"quality": 95, "subsampling": 0, "optimize": False}
# Of a photo of 64 x 64 pixels level 1 makes 9.55 kB in 0.45 ms, 3 9.54 kB in 0.46 ms, 6 9.36 kB in
# 0.53 ms; of a drawing 1.40 kB in 0.21 ms, 1.31 kB in 0.16 ms and 1.22 kB in 0.26 ms.
_PNG_OPTIONS = {"compress_level": 3}
_THUMBNAIL_QUALITY = 85
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
# [256, 2] float64, which holds the sums exactly: the values of a channel, and their squares.
_VALUES_AND_SQUARES = np.arange(256, dtype=np.float64)[:, None] ** [1, 2]

EMPTY = "the picture file is empty"
NOT_A_PICTURE = "not a picture of a known format"
TOO_MANY_PIXELS = "the picture has more pixels than images.max_pixels"
TOO_MUCH_MEMORY = "the picture needs too much memory to decode"
BROKEN = "the picture is broken or cut short"


class PictureError(ImgembedError):
    """A picture that cannot be decoded; the message is the reason a rejected row carries."""


class Picture(NamedTuple):
    """A prepared picture, and what the statistics of a catalog's pictures add up.

    channel_sums, channel_squares: of red, green and blue the sum over the pixels, from 0 to 255
    each, and that of their squares; of the picture before it was encoded.
    """

    content: bytes
    channel_sums: tuple[int, int, int]
    channel_squares: tuple[int, int, int]


def model_encoding(image_encoding: schema.ImageEncoding | None) -> Encoding:
    """How a model is shown pictures that its examples hold as `image_encoding`.

    With the same losses as in training. None, of a manifest that does not say: "png".
    """
    if image_encoding is None:
        return "png"
    return "bmp" if image_encoding == "raw" else image_encoding


def prepare(data: bytes, *, image_size: int, max_pixels: int, encoding: Encoding) -> Picture:
    """The picture in RGB on white, upright, image_size x image_size pixels.

    The sides are scaled on their own: all of the picture is kept, its aspect ratio is not. Of an
    animation the first frame counts. A picture of more than `max_pixels` is refused from its
    header, before any pixel is decoded. encoding "raw": image_size * image_size * 3 bytes, row by
    row. PictureError where there is no such picture.
    """
    picture = _open(data, max_pixels)
    try:
        square = _square(picture, image_size)
    except MemoryError as error:
        raise PictureError(TOO_MUCH_MEMORY) from error
    except Exception as error:  # decoders raise nearly every type there is on broken files
        raise PictureError(BROKEN) from error
    return _finish(square, encoding)


def thumbnail(data: bytes, *, side: int, max_pixels: int) -> bytes:
    """The picture for people as a JPEG: upright, on white, its longer side `side` pixels at most.

    PictureError where there is no such picture.
    """
    picture = _open(data, max_pixels)
    scale = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    try:
        small = _scaled(picture, size)
    except MemoryError as error:
        raise PictureError(TOO_MUCH_MEMORY) from error
    except Exception as error:  # as in `prepare`
        raise PictureError(BROKEN) from error
    small.info = {}
    sink = io.BytesIO()
    small.save(sink, "jpeg", quality=_THUMBNAIL_QUALITY)
    return sink.getvalue()


@cache
def load_decoders() -> tuple[Any, ...]:
    """(factory, test of the first bytes) of each format that this Pillow has."""
    for plugin in _PLUGINS.values():
        try:
            importlib.import_module(f"PIL.{plugin}")
        except ImportError:  # AVIF came with Pillow 11.3
            continue
    return tuple(Image.OPEN[name] for name in _PLUGINS if name in Image.OPEN)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header; PictureError where it tells of more pixels than `max_pixels`.

    Image.open would do, but for its own pixel limit: that one is a global of the process, warns
    on the terminal, and would refuse what `max_pixels` allows.
    """
    if not data:
        raise PictureError(EMPTY)
    known = False
    for factory, accepts in load_decoders():
        answer = accepts(data[:16])
        if not answer or isinstance(answer, str):  # a text says what this Pillow was built without
            continue
        known = True
        if data.startswith(_ICO) and _icon_pixels(data) > max_pixels:
            raise PictureError(TOO_MANY_PIXELS)
        try:
            picture = factory(io.BytesIO(data), "")
        except Exception:  # noqa: S112 - another decoder may know it
            continue
        if picture.width * picture.height > max_pixels:
            raise PictureError(TOO_MANY_PIXELS)
        return picture
    raise PictureError(BROKEN if known else NOT_A_PICTURE)


def _icon_pixels(data: bytes) -> int:
    """How many pixels the largest picture within an icon has, by the headers of the pictures.

    Pillow decodes one of them as it opens the file, whatever its size: the icon's own header has
    no number above 256.
    """
    largest = 0
    for index in range(int.from_bytes(data[4:6], "little")):
        entry = data[6 + 16 * index :][:16]
        start = int.from_bytes(entry[12:16], "little")
        if data[start : start + 8] == _PNG:
            width, height = struct.unpack_from(">II", data[start + 16 : start + 24].ljust(8, b"\0"))
        else:
            width, height = struct.unpack_from("<ii", data[start + 4 : start + 12].ljust(8, b"\0"))
            height //= 2  # picture and mask, one above the other
        largest = max(largest, abs(width * height))
    return largest


def _square(picture: Image.Image, size: int) -> Image.Image:
    return _scaled(picture, (size, size))


def _scaled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole picture, upright, in RGB; not `picture` itself. size: before it is turned."""
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, several times faster.
    picture.draft(None, (int(size[0] * _REDUCING_GAP), int(size[1] * _REDUCING_GAP)))
    picture.load()
    plain = _eight_bits(picture).resize(size, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)
    turn = _UPRIGHT.get(_orientation(picture))
    if turn is not None:
        plain = plain.transpose(turn)  # on the small square: the same, and cheaper
    return _on_white(plain)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """The picture in mode L, RGB or RGBA, which the filters know."""
    if picture.mode.startswith(("I", "F")):
        return _from_numbers(picture)
    if picture.mode == "La":  # has no way to RGBA but this
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    if picture.mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _from_numbers(picture: Image.Image) -> Image.Image:
    """Gray of 16 bits (or 32, of which 16 count), or floats from 0 to 1, in 8 bits, rounded."""
    if picture.mode == "F":
        return picture.point(lambda value: value * 255 + 0.5).convert("L")
    return picture.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken metadata do not make a broken picture
        return 1


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture)
    return picture.convert("RGB")


def _finish(picture: Image.Image, encoding: Encoding) -> Picture:
    counts = np.array(picture.histogram(), np.float64).reshape(3, 256)
    sums = (counts @ _VALUES_AND_SQUARES).astype(np.int64).T.tolist()
    return Picture(_encode(picture, encoding), *map(tuple, sums))


def _encode(picture: Image.Image, encoding: Encoding) -> bytes:
    if encoding == "raw":
        return picture.tobytes()
    options = {"jpeg": _JPEG_OPTIONS, "png": _PNG_OPTIONS, "bmp": {}}[encoding]
    picture.info = {}  # colour profile, text, EXIF: Pillow would write them along
    sink = io.BytesIO()
    picture.save(sink, encoding, **options)
    return sink.getvalue()
