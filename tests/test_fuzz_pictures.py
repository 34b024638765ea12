"""Pictures of all formats with something wrong: a square of the right size, or a reason."""

from __future__ import annotations

import io

import numpy as np
from fuzzing import answer, cases, damage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.examples import decoding, pictures
from pipeline.examples.decoding import PictureSettings, decode_pictures

SIDE = 8
SETTINGS = PictureSettings(image_size=SIDE, max_pixels=4_000, max_seconds=10.0, encoding="png")
REASONS = {
    *(pictures.EMPTY, pictures.NOT_A_PICTURE, pictures.TOO_MANY_PIXELS, pictures.TOO_MUCH_MEMORY),
    *(pictures.BROKEN, decoding.TOO_SLOW, decoding.CRASHED),
}


def encoded(format: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(5).integers(0, 256, (13, 17, 4), np.uint8)
    picture = Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode)
    sink = io.BytesIO()
    picture.save(sink, format, **options)
    return sink.getvalue()


def animated(format: str) -> bytes:
    frames = [Image.new("RGB", (9, 7), (40 * number, 90, 10)) for number in range(3)]
    sink = io.BytesIO()
    frames[0].save(sink, format, save_all=True, append_images=frames[1:])
    return sink.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6
PICTURES = (
    *(encoded("PNG", mode) for mode in ("RGB", "L", "1", "P", "RGBA", "I;16")),
    encoded("PNG", icc_profile=bytes(200), exif=EXIF),
    *(encoded("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    encoded("JPEG", progressive=True, exif=EXIF),
    *(encoded("TIFF", compression=name) for name in ("raw", "tiff_lzw", "tiff_deflate", "jpeg")),
    *(encoded("TIFF", mode) for mode in ("I;16", "F")),
    *(encoded("WEBP", lossless=lossless) for lossless in (True, False)),
    *(encoded(name) for name in ("GIF", "BMP", "PPM", "JPEG2000", "AVIF")),
    *(encoded("ICO", sizes=[(16, 16), (8, 8)], bitmap_format=kind) for kind in ("png", "bmp")),
    *(animated(name) for name in ("GIF", "WEBP", "PNG")),
)
GOOD = PICTURES[0]


@cases(130)
@given(st.sampled_from(PICTURES).flatmap(damage) | st.binary(max_size=30))
def test_a_damaged_picture_is_a_square_or_a_reason_and_its_neighbours_are_safe(data):
    before, found, after = answer(lambda: list(decode_pictures([GOOD, data, GOOD], SETTINGS)))
    assert before == after
    assert isinstance(before, pictures.Picture)
    if isinstance(found, str):
        assert found in REASONS
        # No few bytes take so long, and none may bring the decoder down.
        assert found not in (decoding.TOO_SLOW, decoding.CRASHED)
        return
    with Image.open(io.BytesIO(found.content)) as square:
        assert (square.format, square.mode, square.size) == ("PNG", "RGB", (SIDE, SIDE))
    assert all(0 <= total <= 255 * SIDE**2 for total in found.channel_sums)
