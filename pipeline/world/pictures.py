"""Draw one picture from its attributes: an intent, a count and a generator in, pixels out.

The subject (one to three copies of a textured shape) stands askew, at any size and place before a
cluttered ground, partly covered, under changing light and pixel noise: clear to the eye, but a
poor match for any other picture of the same intent, pixel by pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from pipeline.world.attributes import COLOURS, Intent
from pipeline.world.grounds import draw_ground, muted_colour
from pipeline.world.shapes import outline
from pipeline.world.textures import second_tone

SIDE = 64  # pixels
OVERSAMPLING = 3  # drawn that much larger, then averaged, for smooth edges
CANVAS = SIDE * OVERSAMPLING

# By number of copies: radius, and distance of the copies from the picture's middle, in pixels.
RADII = {1: (21.0, 29.0), 2: (15.5, 19.0), 3: (13.5, 16.5)}
SPREAD = {1: 0.0, 2: 17.0, 3: 18.0}
SHIFT = {1: 7.0, 2: 2.0, 3: 2.0}

# How far the second tone is from the first towards black or white. Fainter than the halo, so that
# the outline, not the texture, is the strongest edge.
TEXTURE_CONTRAST = 0.6
PERIOD_OF_RADIUS = (0.45, 0.55)
PERIOD = (6.5, 12.0)  # pixels
TURN = np.deg2rad(25)  # to either side, at most: a shape is also known by how it stands
RIM = 2.0  # pixels; in the first tone: keeps the outline clear where the second would fade
HALO = 3.0  # pixels around the rim, black or white: parts the shape from the clutter
WHITE, BLACK = (246, 246, 242), (16, 16, 20)
LIGHT_COLOUR = 128  # luminance from which on the second tone is black

COVERED_PICTURES = 0.5
COVERED_AREA = 0.25  # of one copy, at most
COVER_WIDTH = (0.25, 0.7)  # half the width of the covering patch, of the radius

GAIN = (0.75, 1.15)
OFFSET = (-18.0, 18.0)
NOISE = (5.0, 13.0)  # standard deviation, of 255


class Copy(NamedTuple):
    """One copy of the shape on the canvas, lengths in canvas pixels, angle in radians."""

    centre: np.ndarray
    radius: float
    angle: float


def draw_picture(intent: Intent, count: int, rng: np.random.Generator) -> np.ndarray:
    """A picture of `count` copies of the intent's shape: [SIDE, SIDE, 3] uint8, RGB."""
    canvas = draw_ground(CANVAS, rng)
    copies = _place_copies(count, rng)
    masks = [_paint(canvas, intent, copy, rng) for copy in copies]
    if rng.random() < COVERED_PICTURES:
        covered = rng.integers(count)
        _cover(canvas, copies[covered], masks[covered], rng)
    return _expose(np.asarray(canvas.reduce(OVERSAMPLING)), rng)


def _place_copies(count: int, rng: np.random.Generator) -> list[Copy]:
    """Copies in even directions about the middle, far enough apart to be told apart."""
    middle = SIDE / 2 + rng.uniform(-SHIFT[count], SHIFT[count], 2)
    directions = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count
    offsets = SPREAD[count] * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    return [
        Copy(
            centre=OVERSAMPLING * (middle + offset),
            radius=OVERSAMPLING * rng.uniform(*RADII[count]),
            angle=rng.uniform(-TURN, TURN),
        )
        for offset in offsets
    ]


def _paint(
    canvas: Image.Image, intent: Intent, copy: Copy, rng: np.random.Generator
) -> Image.Image:
    """Paints one copy onto the canvas; returns where it lies, as a mask (mode L)."""
    mask = Image.new("L", canvas.size)
    corners = outline(intent.shape, radius=copy.radius, angle=copy.angle, centre=copy.centre)
    colour, pen = COLOURS[intent.colour], ImageDraw.Draw(canvas)
    rim = np.concatenate([corners, corners[:2]]).ravel().tolist()
    pen.line(rim, fill=_contrast(colour), width=_pixels(RIM + 2 * HALO), joint="curve")
    ImageDraw.Draw(mask).polygon(corners.ravel().tolist(), fill=255)
    box = mask.getbbox()
    if box is None:  # nothing of it lies on the canvas
        return mask
    canvas.paste(_textured(intent, copy, box, rng), box, mask.crop(box))
    pen.line(rim, fill=colour, width=_pixels(RIM), joint="curve")
    return mask


def _pixels(length: float) -> int:
    """A length in pixels of the picture as whole pixels of the canvas."""
    return round(length * OVERSAMPLING)


def _textured(
    intent: Intent, copy: Copy, box: tuple[int, int, int, int], rng: np.random.Generator
) -> Image.Image:
    """The texture in its two tones, over the box (left, top, right, bottom) of the canvas."""
    left, top, right, bottom = box
    dx = np.arange(left, right)[None, :] - copy.centre[0]
    dy = np.arange(top, bottom)[:, None] - copy.centre[1]
    angle, period = rng.uniform(0, 2 * np.pi), _period(copy.radius, rng)
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / period
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / period
    first = np.array(COLOURS[intent.colour])
    second = first + TEXTURE_CONTRAST * (np.array(_contrast(COLOURS[intent.colour])) - first)
    tones = np.array([first, second], np.uint8)
    return Image.fromarray(tones[second_tone(intent.texture, u, v).astype(np.intp)])


def _period(radius: float, rng: np.random.Generator) -> float:
    low, high = np.multiply(PERIOD, OVERSAMPLING)
    return float(np.clip(radius * rng.uniform(*PERIOD_OF_RADIUS), low, high))


def _contrast(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Near-black on light colours, near-white on dark ones (luminance after ITU-R BT.601)."""
    luminance = float(np.dot(colour, (0.299, 0.587, 0.114)))
    return BLACK if luminance >= LIGHT_COLOUR else WHITE


def _cover(canvas: Image.Image, copy: Copy, mask: Image.Image, rng: np.random.Generator) -> None:
    """Lays a patch of clutter over the rim of a copy, over at most COVERED_AREA of it.

    The patch starts at a quantile of the shape's pixels in a random direction, so that what lies
    beyond its inner edge is never more than the share meant, whatever the shape.
    """
    angle = rng.uniform(0, 2 * np.pi)
    out = np.array([np.cos(angle), np.sin(angle)])
    rows, columns = np.nonzero(np.asarray(mask))
    along = columns * out[0] + rows * out[1]
    inner = np.quantile(along, 1 - rng.uniform(0, COVERED_AREA)) - copy.centre @ out
    half = copy.radius * rng.uniform(*COVER_WIDTH)
    side = np.array([-out[1], out[0]])
    start, end = copy.centre + inner * out, copy.centre + (inner + copy.radius) * out
    corners = [start - half * side, start + half * side, end + half * side, end - half * side]
    ImageDraw.Draw(canvas).polygon(np.ravel(corners).tolist(), fill=muted_colour(rng))


def _expose(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pixels under another light and with noise; uint8 in and out."""
    lit = pixels * rng.uniform(*GAIN) + rng.uniform(*OFFSET)
    lit += rng.normal(0, rng.uniform(*NOISE), pixels.shape)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)
