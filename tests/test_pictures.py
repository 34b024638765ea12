"""Pictures of every kind become one kind; what is no picture is refused with a reason."""

from __future__ import annotations

import io
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.examples import pictures

SIZE = 16
WHITE = (255, 255, 255)


def encode(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, format, **options)
    return sink.getvalue()


def prepare(data: bytes, max_pixels: int = 1_000_000) -> bytes:
    return pictures.prepare(data, image_size=SIZE, max_pixels=max_pixels)


def pixels(data: bytes) -> np.ndarray:
    """[SIZE, SIZE, 3] uint8 of a prepared picture, after a look at its header."""
    picture = Image.open(io.BytesIO(prepare(data)))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (SIZE, SIZE))
    return np.asarray(picture)


def assert_near(found: np.ndarray, colour: tuple[int, int, int], within: int = 3) -> None:
    assert np.abs(found.astype(int) - np.array(colour)).max() <= within, found


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("RGB", (200, 30, 60), (200, 30, 60)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, WHITE),
        ("RGBA", (200, 30, 60, 255), (200, 30, 60)),
        ("RGBA", (200, 30, 60, 0), WHITE),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),  # a fifth of black over white
        ("LA", (100, 0), WHITE),
        ("LA", (100, 255), (100, 100, 100)),
        ("I;16", 65535, WHITE),
        ("I;16", 257 * 128, (128, 128, 128)),
    ],
)
def test_png_of_each_mode_becomes_rgb_on_white(mode, colour, shown):
    assert_near(pixels(encode(Image.new(mode, (30, 20), colour))), shown, within=1)


def test_palette_with_a_transparent_entry_is_white_there():
    picture = Image.new("P", (20, 20), 0)
    picture.putpalette([10, 20, 30, 200, 0, 0])
    picture.paste(1, (10, 0, 20, 20))
    found = pixels(encode(picture, transparency=0))
    assert_near(found[:, :4], WHITE)
    assert_near(found[:, -4:], (200, 0, 0))


def test_palette_with_an_alpha_for_each_entry_is_blended():
    picture = Image.new("P", (20, 20), 1)
    picture.putpalette([10, 20, 30, 0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_near(pixels(encode(picture, transparency=bytes([255, 51]))), (204, 204, 204))


def test_transparent_colour_of_a_png_without_alpha_is_white():
    assert_near(pixels(encode(Image.new("RGB", (9, 9), (1, 2, 3)), transparency=(1, 2, 3))), WHITE)


def test_cmyk_jpeg_becomes_rgb():
    data = encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95)
    assert_near(pixels(data), (255, 0, 0), within=6)


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_tiff_of_deep_gray_is_scaled(mode):
    value = 257 * 51 if mode == "I;16" else 0.2
    assert_near(pixels(encode(Image.new(mode, (20, 20), value), "TIFF")), (51, 51, 51), within=1)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO"])
def test_every_format_is_read(format):
    data = encode(Image.new("RGB", (32, 32), (250, 10, 10)), format)
    assert_near(pixels(data), (250, 10, 10), within=8)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_counts(format):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], duration=100)
    assert_near(pixels(data), (255, 0, 0), within=8)


def corners() -> Image.Image:
    """Red above left, green above right, blue below left, white below right."""
    picture = Image.new("RGB", (40, 40), WHITE)
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    picture.paste((0, 255, 0), (20, 0, 40, 20))
    picture.paste((0, 0, 255), (0, 20, 20, 40))
    return picture


# By EXIF 2.3, table 6: what the stored row 0 and column 0 are in the upright picture.
# Undoing it on the corners gives (above left, above right, below left).
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, "rgb"),
        (2, "grw"),
        (3, "wbg"),
        (4, "bwr"),
        (5, "rbg"),
        (6, "brw"),
        (7, "wgb"),
        (8, "gwr"),
    ],
)
def test_exif_orientation_is_applied(orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(encode(corners(), "JPEG", exif=exif, quality=95, subsampling=0))
    colours = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": WHITE}
    places = [(3, 3), (3, 12), (12, 3)]
    for place, name in zip(places, expected, strict=True):
        assert_near(found[place], colours[name], within=12)


def test_broken_exif_does_not_reject_a_picture():
    data = encode(Image.new("RGB", (20, 20), (9, 9, 9)), "JPEG", exif=b"Exif\0\0garbage")
    assert_near(pixels(data), (9, 9, 9))


def test_all_of_a_wide_picture_is_kept():
    picture = Image.new("RGB", (200, 20), (255, 0, 0))
    picture.paste((0, 0, 255), (100, 0, 200, 20))
    found = pixels(encode(picture))
    assert_near(found[:, :6], (255, 0, 0), within=10)
    assert_near(found[:, -6:], (0, 0, 255), within=10)


def test_output_is_the_same_each_time_and_has_no_metadata():
    notes = PngInfo()
    notes.add_text("Author", "somebody")
    data = encode(corners(), pnginfo=notes, icc_profile=b"profile", dpi=(72, 72))
    prepared = prepare(data)
    assert prepared == prepare(data)
    assert prepared == prepare(encode(corners()))
    assert b"somebody" not in prepared
    assert b"iCCP" not in prepared


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated_pictures_are_refused(format, share):
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)), format)
    with pytest.raises(pictures.PictureError):
        prepare(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", pictures.EMPTY),
        (b"hello, world", pictures.NOT_A_PICTURE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", pictures.NOT_A_PICTURE),
        (b"\x89PNG\r\n\x1a\n", pictures.BROKEN),
        (b"\xff\xd8\xff\xe0" + bytes(100), pictures.BROKEN),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(data, reason):
    with pytest.raises(pictures.PictureError, match=reason):
        prepare(data)


def test_pixel_limit_holds_before_decoding_and_without_a_warning():
    # 20,000 x 20,000 pixels in one bit each: 50 MB if it were decoded, over Pillow's own limit.
    header = encode(Image.new("1", (1, 1)))
    bomb = bytearray(header)
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(pictures.PictureError, match="more pixels than"):
            prepare(bytes(bomb), max_pixels=50_000_000)
        with pytest.raises(pictures.PictureError, match="broken"):
            prepare(bytes(bomb), max_pixels=500_000_000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pixel_limit_is_the_largest_picture_that_is_read():
    data = encode(Image.new("RGB", (10, 10)))
    assert prepare(data, max_pixels=100)
    with pytest.raises(pictures.PictureError):
        prepare(data, max_pixels=99)
