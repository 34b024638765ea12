"""Pictures of every kind become one kind; what is no picture is refused with a reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from pipeline.examples import pictures

SIZE = 16
WHITE = (255, 255, 255)
ENCODINGS = ("jpeg", "png", "raw", "bmp")
LOSSLESS = ("png", "raw", "bmp")


def encode(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, format, **options)
    return sink.getvalue()


def prepare(data: bytes, max_pixels: int = 1_000_000, encoding: str = "png") -> pictures.Picture:
    return pictures.prepare(data, image_size=SIZE, max_pixels=max_pixels, encoding=encoding)


def pixels(data: bytes) -> np.ndarray:
    """[SIZE, SIZE, 3] uint8 of a prepared picture."""
    return np.frombuffer(prepare(data, encoding="raw").content, np.uint8).reshape(SIZE, SIZE, 3)


def photo(width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Something with edges, slopes and noise in every channel."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width] / max(width, height)
    channels = [200 * rows, 250 * columns, 120 + 100 * (rows > columns)]
    noisy = np.stack(channels, axis=-1) + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


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
        ("P", 0, (0, 0, 0)),
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


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("1", 1, WHITE),
        ("L", 77, (77, 77, 77)),
        ("LA", (100, 51), (224, 224, 224)),
        ("RGB", (200, 30, 60), (200, 30, 60)),
        ("RGBX", (200, 30, 60, 0), (200, 30, 60)),
        ("RGBA", (200, 30, 60, 51), (244, 210, 216)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("LAB", (136, 208, 195), (250, 3, 11)),
        ("I", 257 * 51, (51, 51, 51)),
        ("I;16", 257 * 51, (51, 51, 51)),
        ("I;16B", 257 * 51, (51, 51, 51)),
        ("F", 0.2, (51, 51, 51)),
    ],
)
def test_tiff_of_each_mode_and_compression_becomes_rgb_on_white(mode, colour, shown, compression):
    data = encode(Image.new(mode, (30, 20), colour), "TIFF", compression=compression)
    assert_near(pixels(data), shown, within=1)


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("La", (20, 51), (224, 224, 224)),
        ("PA", (100, 51), (224, 224, 224)),
        ("RGBa", (40, 6, 12, 51), (244, 210, 216)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("I;16L", 257 * 51, (51, 51, 51)),
    ],
)
def test_modes_that_few_files_have_become_rgb_on_white(mode, colour, shown):
    picture = Image.new(mode, (30, 20), colour)
    if mode == "PA":
        picture.putpalette([100] * 768)
    square = pictures._square(picture, SIZE)
    assert square.mode == "RGB"
    assert_near(np.asarray(square), shown, within=1)


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("colour_type", "values", "shown"),
    [
        (0, (257 * 51,), (51, 51, 51)),
        (2, (257 * 200, 257 * 30, 257 * 60), (200, 30, 60)),
        (4, (0, 257 * 51), (204, 204, 204)),
        (6, (0, 0, 0, 257 * 51), (204, 204, 204)),
    ],
)
def test_png_of_16_bits_in_each_colour_type_is_scaled(colour_type, values, shown):
    row = b"\0" + struct.pack(f">{len(values)}H", *values) * 8
    assert_near(pixels(png(8, 8, 16, colour_type, row * 8)), shown, within=1)


@pytest.mark.parametrize(
    "data",
    [png(0, 0, 8, 2, b""), png(0, 5, 8, 2, b""), b"P6 0 0 255\n", b"P6 3 0 255\n"],
)
def test_picture_without_pixels_is_refused(data):
    with pytest.raises(pictures.PictureError, match=pictures.BROKEN):
        prepare(data)


@pytest.mark.parametrize(
    "data",
    [
        b"P5 2 2 65535\n" + struct.pack(">4H", *[257 * 51] * 4),
        b"P5 2 2 1023\n" + struct.pack(">4H", *[205] * 4),
        b"Pf\n2 2\n-1.0\n" + struct.pack("<4f", *[0.2] * 4),
    ],
)
def test_deep_gray_of_the_ppm_family_is_scaled(data):
    assert_near(pixels(data), (51, 51, 51), within=1)


def test_floats_beyond_the_scale_are_clipped():
    for value, shown in [(-3.0, (0, 0, 0)), (1e30, WHITE)]:
        picture = Image.fromarray(np.full((9, 9), value, np.float32))
        assert_near(pixels(encode(picture, "TIFF")), shown, within=0)


def test_every_16_bit_value_is_rounded_to_the_nearest_of_8():
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    found = np.asarray(pictures._from_numbers(Image.fromarray(values)))
    np.testing.assert_array_equal(found, np.rint(values / 65535 * 255))


def test_cmyk_jpeg_becomes_rgb():
    data = encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95)
    assert_near(pixels(data), (255, 0, 0), within=6)


def readable(*formats: str) -> list[str]:
    """Of formats those that this Pillow has been built with."""
    built = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
    return [f for f in formats if f not in built or features.check(built[f])]


@pytest.mark.parametrize(
    "format",
    readable("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000"),
)
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
    for encoding in ENCODINGS:
        prepared = prepare(data, encoding=encoding)
        assert prepared == prepare(data, encoding=encoding)
        assert prepared == prepare(encode(corners()), encoding=encoding)
        assert not any(note in prepared.content for note in (b"somebody", b"iCCP", b"profile"))


def test_metadata_of_a_picture_that_needs_no_scaling_are_left_out_too():
    exif = Image.Exif()
    exif[0x010E] = "somebody"
    data = encode(photo(), "JPEG", exif=exif, comment=b"somebody", icc_profile=b"profile")
    for encoding in ENCODINGS:
        content = prepare(data, encoding=encoding).content
        assert not any(note in content for note in (b"somebody", b"profile"))


@pytest.mark.parametrize("encoding", LOSSLESS)
def test_lossless_encodings_hold_the_pixels(encoding):
    expected = np.asarray(photo())
    content = prepare(encode(photo()), encoding=encoding).content
    if encoding == "raw":
        assert content == expected.tobytes()
        return
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.mode) == (encoding.upper(), "RGB")
    np.testing.assert_array_equal(np.asarray(picture), expected)


def test_jpeg_keeps_nearly_all_of_the_pixels_and_their_colours():
    picture = Image.open(io.BytesIO(prepare(encode(photo()), encoding="jpeg").content))
    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (SIZE, SIZE))
    assert {component[1:3] for component in picture.layer} == {(1, 1)}  # 4:4:4
    error = np.square(np.asarray(picture, float) - np.asarray(photo(), float)).mean()
    assert 10 * np.log10(255**2 / error) > 36  # dB, of noise: the worst there is


def test_tensorflow_decodes_every_encoding_to_the_same_pixels_as_pillow():
    import tensorflow as tf

    data = encode(photo(40, 30))
    expected = pixels(data)
    for encoding in ENCODINGS:
        content = prepare(data, encoding=encoding).content
        if encoding == "raw":
            found = tf.reshape(tf.io.decode_raw(content, tf.uint8), [SIZE, SIZE, 3])
        else:
            found = tf.io.decode_image(content, channels=3, expand_animations=False)
        difference = np.abs(found.numpy().astype(int) - expected)
        assert difference.max() <= (0 if encoding in LOSSLESS else 16)


def test_channel_sums_are_those_of_the_pixels_before_they_are_encoded():
    data = encode(photo(40, 30))
    values = pixels(data).reshape(-1, 3).astype(np.int64)
    for encoding in ENCODINGS:
        found = prepare(data, encoding=encoding)
        assert found.channel_sums == tuple(values.sum(axis=0).tolist())
        assert found.channel_squares == tuple(np.square(values).sum(axis=0).tolist())


@pytest.mark.parametrize(
    ("examples_hold", "model_sees"),
    [("jpeg", "jpeg"), ("png", "png"), ("raw", "bmp"), (None, "png")],
)
def test_a_model_is_shown_pictures_as_in_training(examples_hold, model_sees):
    assert pictures.model_encoding(examples_hold) == model_sees


def test_nothing_heavy_is_loaded_to_decode_pictures():
    code = "import sys, pipeline.examples.decode_worker as w; w.pictures.load_decoders(); " + (
        "print(*{'pyarrow', 'tensorflow', 'apache_beam', 'pydantic'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(
    "format", readable("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
)
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
    bomb = png(20_000, 20_000, 1, 0, bytes(2))
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(pictures.PictureError, match="more pixels than"):
            prepare(bomb, max_pixels=50_000_000)
        with pytest.raises(pictures.PictureError, match="broken"):
            prepare(bomb, max_pixels=500_000_000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_bomb_is_refused_in_no_time():
    bomb = png(100_000, 100_000, 8, 6, bytes(1_000))
    prepare(encode(photo()))  # loads the decoders
    start = time.perf_counter()
    with pytest.raises(pictures.PictureError, match=pictures.TOO_MANY_PIXELS):
        prepare(bomb, max_pixels=50_000_000)
    assert time.perf_counter() - start < 0.1


def test_pixel_limit_is_the_largest_picture_that_is_read():
    data = encode(Image.new("RGB", (10, 10)))
    assert prepare(data, max_pixels=100)
    with pytest.raises(pictures.PictureError):
        prepare(data, max_pixels=99)
