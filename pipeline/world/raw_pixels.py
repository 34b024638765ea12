"""How far raw pixels go: pictures and their truth in, nearest-neighbour accuracies out.

The honest baseline of a world: a learned embedding has to beat what comparing pixels gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from pipeline.world.catalog import PICTURES_FOLDER
from pipeline.world.generate import CATALOG_FILE, IMAGES_TRUTH
from pipeline.world.pictures import SIDE

CHUNK = 512  # pictures compared at once: 512 x 512 distances, 25 MB of float32 pixels a side
MAX_QUERIES = 2_000


class RawPixelAccuracy(NamedTuple):
    """Shares of pictures whose nearest other picture shows the same shape, or the same intent."""

    shape: float
    intent: float


def raw_pixel_accuracy(world_dir: str | Path, max_queries: int = MAX_QUERIES) -> RawPixelAccuracy:
    """The accuracies over a written world; of more than `max_queries` pictures the first ones ask.

    Every picture can be an answer. Numbers of images are random, so the first ones are fair.
    """
    truth = pq.read_table(Path(world_dir) / IMAGES_TRUTH, columns=["image_id", "shape", "intent"])
    pictures = (Path(world_dir) / CATALOG_FILE).parent / PICTURES_FOLDER
    pixels = read_pictures([pictures / f"{name}.png" for name in truth["image_id"].to_pylist()])
    nearest = nearest_neighbours(pixels, max_queries)
    return RawPixelAccuracy(
        shape=accuracy(nearest, truth["shape"].to_numpy()),
        intent=accuracy(nearest, truth["intent"].to_numpy()),
    )


def read_pictures(paths: list[Path]) -> np.ndarray:
    """The pictures' pixels: [num_pictures, SIDE, SIDE, 3] uint8, RGB."""
    pixels = np.empty((len(paths), SIDE, SIDE, 3), np.uint8)
    for row, path in enumerate(paths):
        with Image.open(path) as picture:
            pixels[row] = np.asarray(picture)
    return pixels


def nearest_neighbours(pixels: np.ndarray, max_queries: int = MAX_QUERIES) -> np.ndarray:
    """Of each of the first `max_queries` pictures the nearest other one: [num_queries] intp.

    `pixels` is [num_pictures, …] uint8, with two pictures or more; the distance is L2 over all
    pixels; of equally near pictures the first counts.
    """
    flat = pixels.reshape(len(pixels), -1)
    queries = [_nearest_to(flat, rows) for rows in _chunks(min(max_queries, len(flat)))]
    return np.concatenate(queries)


def accuracy(nearest: np.ndarray, labels: np.ndarray) -> float:
    """The share of queries whose nearest neighbour has their label; `labels` is [num_pictures]."""
    return float(np.mean(labels[: len(nearest)] == labels[nearest]))


def _nearest_to(flat: np.ndarray, rows: slice) -> np.ndarray:
    """The nearest other picture of each of `rows`, going through all pictures by chunks."""
    queries = flat[rows].astype(np.float32)
    distances = np.concatenate(
        [_comparable_distances(queries, flat[chunk]) for chunk in _chunks(len(flat))], axis=1
    )
    own = np.arange(len(queries))
    distances[own, rows.start + own] = np.inf
    return distances.argmin(axis=1)


def _comparable_distances(queries: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Squared distances less the queries' own squared norms, which no ranking depends on."""
    answers = answers.astype(np.float32)
    return np.square(answers).sum(axis=1) - 2 * queries @ answers.T


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))
