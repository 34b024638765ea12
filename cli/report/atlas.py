"""The map: drawn images as points of a plane, close where their embeddings are close.

Positions are those of t-SNE (van der Maaten and Hinton 2008), begun at the principal components, in
one thread and with a fixed seed: the same vectors give the same map. Few images are laid out by
their principal components alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cli.report import thumbnails

TILE = 40  # pixels of a thumbnail
WIDTH, HEIGHT = 1000, 640  # of the map, in its own units
COLOURS = 8  # labels with a colour of their own
_FEWEST = 12  # points that t-SNE is worth it for
_PERPLEXITY = 30.0
_QUALITY = 72
_APART = 44  # units of the map between the middles of two thumbnails that are shown
_LEFT, _TOP, _BOTTOM = 24, 60, 16  # space around the points; a picture stands above its own
OTHER, NONE = "another label", "no label"


@dataclass(frozen=True)
class Shown:
    """A thumbnail that is always to be seen.

    x, y: of its point, per cent of the map. column, row: of its tile in the sprite.
    """

    x: float
    y: float
    column: int
    row: int


@dataclass(frozen=True)
class Group:
    """Points of one colour. number: of the colour; path: an SVG path of their places."""

    name: str
    number: int
    points: int
    path: str


@dataclass(frozen=True)
class Atlas:
    """The map. sprite: all thumbnails in one picture, `columns` a row; None without pictures."""

    points: int
    corpus: int
    method: str
    x: list[int]
    y: list[int]
    ids: list[str]
    labels: list[str | None]
    tiles: list[int]  # the number of each point's thumbnail, -1 where it has none
    groups: list[Group]
    shown: list[Shown]
    sprite: str | None
    columns: int
    rows: int


def positions(vectors: np.ndarray) -> tuple[np.ndarray, str]:
    """([n, 2] float64, the name of the method). vectors: [n, dim] float32, n > 0."""
    start = principal(vectors)
    if len(vectors) < _FEWEST or np.ptp(start) == 0:
        return start, "principal components"
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # As scikit-learn scales its own start; its randomized one depends on more than the vectors.
    start = start / np.std(start[:, 0]) * 1e-4
    with threadpool_limits(1):  # sums over threads are taken in the order in which they end
        found = TSNE(
            perplexity=min(_PERPLEXITY, (len(vectors) - 1) / 3),
            init=start.astype(np.float32),
            random_state=0,
            n_jobs=1,
        ).fit_transform(vectors)
    return found.astype(np.float64), "t-SNE"


def principal(vectors: np.ndarray) -> np.ndarray:
    """The first two principal components, [n, 2]; signs so that the largest loading is positive."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    found = centred @ axes.T
    return np.pad(found, [(0, 0), (0, 2 - found.shape[1])])


def scaled(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole coordinates that fill the map: x from left, y from the top."""
    low, span = found.min(axis=0), np.ptp(found, axis=0)
    share = np.divide(found - low, span, out=np.full_like(found, 0.5), where=span > 0)
    size = np.array([WIDTH - 2 * _LEFT, HEIGHT - _TOP - _BOTTOM])
    whole = np.rint([_LEFT, _TOP] + share * size).astype(int)
    return whole[:, 0], whole[:, 1]


def draw(
    vectors: np.ndarray,
    ids: Sequence[str],
    labels: Sequence[str | None],
    pictures: Mapping[str, Image.Image],
    *,
    corpus: int,
) -> Atlas:
    """The map of some images. pictures: {id: picture}, of those that have one."""
    found, method = positions(vectors)
    x, y = scaled(found)
    tiles, count = [], 0
    for image_id in ids:
        tiles.append(count if image_id in pictures else -1)
        count += image_id in pictures
    columns = max(1, int(np.ceil(np.sqrt(count))))
    with_picture = [image_id for image_id in ids if image_id in pictures]
    return Atlas(
        points=len(ids),
        corpus=corpus,
        method=method,
        x=x.tolist(),
        y=y.tolist(),
        ids=list(ids),
        labels=list(labels),
        tiles=tiles,
        groups=_groups(x, y, labels),
        shown=_shown(x, y, tiles, columns),
        sprite=_sprite([pictures[one] for one in with_picture], columns) if count else None,
        columns=columns,
        rows=-(-count // columns),
    )


def _groups(x: np.ndarray, y: np.ndarray, labels: Sequence[str | None]) -> list[Group]:
    """Points by label, the commonest labels first; the unlabelled ones are drawn first, below."""
    counted = Counter(label for label in labels if label is not None)
    common = sorted(counted, key=lambda label: (-counted[label], label))[:COLOURS]
    number = {label: place + 1 for place, label in enumerate(common)}
    rare = COLOURS + 1
    of_point = np.array([0 if one is None else number.get(one, rare) for one in labels])
    names = {0: NONE, rare: OTHER} | {place: label for label, place in number.items()}
    return [
        Group(names[place], place, int((of_point == place).sum()), _path(x, y, of_point == place))
        for place in (0, rare, *range(1, len(common) + 1))
        if (of_point == place).any()
    ]


def _path(x: np.ndarray, y: np.ndarray, chosen: np.ndarray) -> str:
    """Each point as a line of no length, which a round cap makes a dot of."""
    return "".join(f"M{a} {b}h0" for a, b in zip(x[chosen], y[chosen], strict=True))


def _shown(x: np.ndarray, y: np.ndarray, tiles: Sequence[int], columns: int) -> list[Shown]:
    """Pictures where they belong, in the order in which they were drawn, none on top of another."""
    chosen: list[int] = []
    for point, tile in enumerate(tiles):
        away = np.maximum(np.abs(x[chosen] - x[point]), np.abs(y[chosen] - y[point]))
        if tile >= 0 and (away >= _APART).all():
            chosen.append(point)
    return [
        Shown(
            round(100 * float(x[point]) / WIDTH, 2),
            round(100 * float(y[point]) / HEIGHT, 2),
            tiles[point] % columns,
            tiles[point] // columns,
        )
        for point in chosen
    ]


def _sprite(pictures: Sequence[Image.Image], columns: int) -> str:
    """All pictures in one, each in the middle of its tile on white."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * TILE, rows * TILE), "#ffffff")
    for number, picture in enumerate(pictures):
        small = thumbnails.shrink(picture, TILE)
        row, column = divmod(number, columns)
        left, top = ((TILE - side) // 2 for side in small.size)
        sheet.paste(small, (column * TILE + left, row * TILE + top))
    return thumbnails.data_uri(sheet, quality=_QUALITY)
