"""Real pictures and made sessions: a graph of which it is known how many edges err.

Sessions of four pictures of one class; with a probability, the noise, a picture is another one:
any at all, or one of a class that this class is confused with. Two pictures of a session are an
edge, as strong as the sessions that hold both are many.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SESSION_LENGTH = 4
DEGREE = 6.0  # about as many edges has a node
THUMBNAIL = 32
HELD_OUT_SESSIONS = 400
# Which class is taken for which: t-shirts and long sleeves, pants and shorts, shirts and outerwear,
# dresses and skirts, hats and shoes.
CONFUSED = {
    "t-shirt": "longsleeve",
    "longsleeve": "t-shirt",
    "pants": "shorts",
    "shorts": "pants",
    "shirt": "outwear",
    "outwear": "shirt",
    "dress": "skirt",
    "skirt": "dress",
    "hat": "shoes",
    "shoes": "hat",
}


@dataclass(frozen=True)
class Pictures:
    """nodes: [n, floats] float32 in [0, 1]; pixels: [n, height, width, channels] uint8, or None.

    truth: [n] int64. confused: [classes], which class is taken for each. parts: how many are nodes
    of the graph, and how many are for validation; the rest is for the test.
    """

    nodes: np.ndarray
    pixels: np.ndarray | None
    truth: np.ndarray
    confused: np.ndarray
    parts: tuple[int, int]

    @property
    def classes(self) -> int:
        return len(self.confused)


def read_digits() -> Pictures:
    """scikit-learn's 1,797 digits of 8 x 8; a digit is taken for the next one."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("scikit-learn is not installed: pip install scikit-learn") from None
    found = load_digits()
    nodes, truth = (found.data / 16.0).astype(np.float32), found.target.astype(np.int64)
    return Pictures(nodes, None, truth, (np.arange(10) + 1) % 10, (1_100, 100))


def read_clothing(folder: Path, *, described: bool = False) -> Pictures:
    """alexeygrigorev/clothing-dataset-small: labels.csv and images.zip, as thumbnails.

    Its nodes are the gradients, by which alone two pictures can be compared at all: the nearest
    one is of the same class in 56 % of the cases, by pixels in 47. described: without pixels.
    """
    with (folder / "labels.csv").open(newline="") as lines:
        rows = sorted((row["image"], row["label"]) for row in csv.DictReader(lines))
    names = sorted({label for _, label in rows})
    with zipfile.ZipFile(folder / "images.zip") as archive:
        pixels = np.stack([thumbnail(archive.read(path)) for path, _ in rows])
    truth = np.array([names.index(label) for _, label in rows])
    confused = np.array([names.index(CONFUSED[name]) for name in names])
    nodes = gradients(pixels)
    return Pictures(nodes, None if described else pixels, truth, confused, (2_000, 200))


def thumbnail(data: bytes) -> np.ndarray:
    """[32, 32, 3] uint8, whatever the picture's sides."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def gradients(pixels: np.ndarray, *, cell: int = 8, angles: int = 9) -> np.ndarray:
    """[n, floats] float32: histograms of oriented gradients, Dalal and Triggs 2005.

    pixels: [n, side, side, channels] uint8. A gradient counts by its length for both angles that
    it lies between; blocks of 2 x 2 cells are of length 1, no value of it above 0.2.
    """
    gray = pixels.mean(axis=-1, dtype=np.float32) / 255.0
    down, right = np.zeros_like(gray), np.zeros_like(gray)
    down[:, 1:-1] = gray[:, 2:] - gray[:, :-2]
    right[:, :, 1:-1] = gray[:, :, 2:] - gray[:, :, :-2]
    length, angle = np.hypot(right, down), np.arctan2(down, right) % np.pi / np.pi * angles
    lower = np.floor(angle)
    cells = gray.shape[1] // cell
    histograms = np.zeros((len(gray), cells, cells, angles), np.float32)
    for number in range(angles):
        share = np.where(lower % angles == number, 1.0 - (angle - lower), 0.0)
        share += np.where((lower + 1) % angles == number, angle - lower, 0.0)
        in_cells = (share * length).reshape(len(gray), cells, cell, cells, cell)
        histograms[..., number] = in_cells.sum(axis=(2, 4))
    corners = [histograms[:, :-1, :-1], histograms[:, 1:, :-1]]
    corners += [histograms[:, :-1, 1:], histograms[:, 1:, 1:]]
    blocks = np.minimum(of_length_1(np.concatenate(corners, axis=-1)), 0.2)
    return of_length_1(blocks).reshape(len(gray), -1)


def of_length_1(blocks: np.ndarray) -> np.ndarray:
    """[..., floats]: each block over its length; one without a gradient stays near zero."""
    return blocks / np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + 1e-4)


@dataclass(frozen=True)
class World:
    """Pictures, who may know which labels, and a graph.

    seeds, validation, test: [n] bool; pool: the nodes of the graph, seeds among them. edges: [e, 2]
    int32, each once; counts: [e] float32, sessions that hold both. partners: [p, 2], a picture and
    one of its class that a session without noise holds with it; none of them is an edge for that.
    """

    pictures: Pictures
    pool: np.ndarray
    seeds: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    edges: np.ndarray
    counts: np.ndarray
    partners: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        return self.pictures.truth

    @property
    def agree(self) -> np.ndarray:
        """[e] bool: whether an edge's ends are of one class; for scores alone."""
        return self.truth[self.edges[:, 0]] == self.truth[self.edges[:, 1]]

    def neighbors(self) -> np.ndarray:
        """[n, n] bool: who has an edge with whom."""
        found = np.zeros((len(self.truth),) * 2, bool)
        found[tuple(self.edges.T)] = found[tuple(self.edges.T[::-1])] = True
        return found


def make_world(
    pictures: Pictures, *, kind: str, noise: float, labels: int, seed: int, degree: float = DEGREE
) -> World:
    """kind: "uniform" or "confuser" noise. labels: of each class. seed: of all that is drawn."""
    split, sessions, held_out = (
        np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(3)
    )
    truth, (nodes, validation) = pictures.truth, pictures.parts
    order = split.permutation(len(truth))
    pool = np.sort(order[:nodes])
    by_class = [pool[truth[pool] == label] for label in range(pictures.classes)]
    seeds = np.concatenate([split.choice(own, labels, replace=False) for own in by_class])
    pairs_a_session = SESSION_LENGTH * (SESSION_LENGTH - 1)
    number = round(degree * nodes / (pairs_a_session - 1))
    drawn = draw_sessions(pictures, by_class, number, kind=kind, noise=noise, draw=sessions)
    edges, counts = edges_of(drawn)
    clean = draw_sessions(
        pictures, by_class, HELD_OUT_SESSIONS, kind=kind, noise=0.0, draw=held_out
    )
    partners = clean[:, :2][clean[:, 0] != clean[:, 1]]
    return World(
        pictures,
        *(mask(len(truth), rows) for rows in (pool, seeds)),
        *(mask(len(truth), rows) for rows in np.split(order[nodes:], [validation])),
        edges,
        counts,
        partners,
    )


def mask(length: int, rows: np.ndarray) -> np.ndarray:
    """[length] bool."""
    found = np.zeros(length, bool)
    found[rows] = True
    return found


def draw_sessions(
    pictures: Pictures,
    by_class: Sequence[np.ndarray],
    number: int,
    *,
    kind: str,
    noise: float,
    draw: np.random.Generator,
) -> np.ndarray:
    """[number, 4] int: pictures of each session."""
    shape = number, SESSION_LENGTH
    classes = np.repeat(draw.integers(0, pictures.classes, (number, 1)), SESSION_LENGTH, axis=1)
    errs = draw.random(shape) < noise
    if kind == "confuser":
        classes = np.where(errs, pictures.confused[classes], classes)
    sizes = np.array([len(own) for own in by_class])
    starts, members = np.cumsum(sizes) - sizes, np.concatenate(list(by_class))
    found = members[starts[classes] + draw.integers(0, sizes[classes])]
    any_one = members[draw.integers(0, len(members), shape)]
    return np.where(errs, any_one, found) if kind == "uniform" else found


def edges_of(sessions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(edges [e, 2] int32, sessions that hold both [e] float32)."""
    one, other = np.triu_indices(SESSION_LENGTH, 1)
    pairs = np.sort(np.stack([sessions[:, one], sessions[:, other]], axis=-1), axis=-1)
    rows = np.repeat(np.arange(len(sessions)), len(one))[:, None]
    # A session counts once for a pair, however often it holds either.
    once = np.unique(np.concatenate([rows, pairs.reshape(-1, 2)], axis=1), axis=0)[:, 1:]
    once = once[once[:, 0] != once[:, 1]]
    edges, counts = np.unique(once, axis=0, return_counts=True)
    return edges.astype(np.int32), counts.astype(np.float32)


def expected_agreement(kind: str, noise: float, classes: int) -> float:
    """The share of edges, by their sessions, whose ends are of one class, with even classes."""
    clean = (1.0 - noise) ** 2
    return clean + (1.0 - clean) / classes if kind == "uniform" else clean + noise**2
