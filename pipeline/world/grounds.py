"""The cluttered grounds: a size and a generator in, a picture without any subject out.

The clutter is made of muted colours and of crooked patches and lines, so that it hides the subject
from a comparison of pixels but not from the eye.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

GRADIENT_CELLS = 3  # random colours along each side, smoothly joined
SATURATION = (0.05, 0.50)
BRIGHTNESS = (0.20, 0.95)
PATCHES = (5, 10)  # fewest and most
PATCH_CORNERS = 5
PATCH_RADIUS = (0.06, 0.22)  # of the picture's side
LINES = (4, 9)
LINE_WIDTH = (0.012, 0.045)  # of the picture's side

Colour = tuple[int, int, int]


def muted_colour(rng: np.random.Generator) -> Colour:
    """A random colour of low to middling saturation."""
    hue, saturation, value = rng.random(), rng.uniform(*SATURATION), rng.uniform(*BRIGHTNESS)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_ground(side: int, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of `side` x `side` pixels: a gradient under patches and lines."""
    ground = _gradient(side, rng)
    pen = ImageDraw.Draw(ground)
    for _ in range(rng.integers(*PATCHES, endpoint=True)):
        pen.polygon(_crooked_patch(side, rng), fill=muted_colour(rng))
    for _ in range(rng.integers(*LINES, endpoint=True)):
        width = max(1, round(side * rng.uniform(*LINE_WIDTH)))
        pen.line(rng.uniform(0, side, 4).tolist(), fill=muted_colour(rng), width=width)
    return ground


def _gradient(side: int, rng: np.random.Generator) -> Image.Image:
    colours = [muted_colour(rng) for _ in range(GRADIENT_CELLS**2)]
    cells = np.array(colours, np.uint8).reshape(GRADIENT_CELLS, GRADIENT_CELLS, 3)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BILINEAR)


def _crooked_patch(side: int, rng: np.random.Generator) -> list[float]:
    """The corners x0, y0, x1, y1, … of a polygon without any regularity."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, PATCH_CORNERS))
    radii = side * rng.uniform(*PATCH_RADIUS, PATCH_CORNERS)
    corners = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    return (corners + rng.uniform(0, side, 2)).ravel().tolist()
