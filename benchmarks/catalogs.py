"""Catalogs of pictures and graphs of them to measure with: seeded, made once, kept in a folder.

The catalog: JPEGs of 64 x 64 pixels in one Parquet file, cut at random out of the photos of a zip
archive, without one drawn as smooth colour fields with shapes; a caption, a label and a split each.
The graph: ten out-edges each, within groups of a hundred and by Zipf's law, so that some images are
the neighbours of many.
"""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from measuring import made_once
from PIL import Image, ImageDraw

SIDE, OUT_EDGES, GROUP = 64, 10, 100
CLASSES, WORDS, PHOTOS = 50, 2_000, 1_000
WORDS_OF_TEXT = (3, 9)  # of a caption: at least, and fewer than
UNLABELLED, WITHOUT_TEXT = 0.1, 0.1  # shares of the images
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SOURCE_QUALITY = 90
FIELD, FIELD_NOISE = 6, 5.0  # control points a side of a drawn colour field; grain of 0 to 255
CATALOG_VERSION = 1  # in the file's name: a catalog of an older generator is not taken for this one
BLOCK = 1_000  # rows


@dataclass(frozen=True)
class Data:
    """Which catalog, and where its files are."""

    work: Path
    images: int
    seed: int
    photos: Path | None

    @property
    def name(self) -> str:
        kind = f"{self.photos.stem}{self.photos.stat().st_size}" if self.photos else "fields"
        return f"{kind}-{self.images}-seed{self.seed}-v{CATALOG_VERSION}"

    @property
    def catalog(self) -> Path:
        """Parquet: image_id, image, label, text, split."""
        return self._file("catalog", ".parquet", write_catalog)

    @property
    def edges(self) -> Path:
        """Parquet: src, dst, weight."""
        return self._file("edges", ".parquet", write_edges)

    @property
    def edges_tsv(self) -> Path:
        """The same as lines, without a header, which is what nsl reads."""
        return self._file("edges", ".tsv", write_edges_tsv)

    def _file(self, what: str, extension: str, write: Callable[[Path, Data], None]) -> Path:
        """A file in the work folder; made where it is not there yet."""
        path = self.work / f"{what}-{self.name}{extension}"
        return made_once(path, lambda unfinished: write(unfinished, self))


def image_ids(images: int) -> np.ndarray:
    """[images] str."""
    return np.array([f"img-{number:07d}" for number in range(images)])


def write_catalog(path: Path, data: Data) -> None:
    """Writes the catalog, a block of rows a row group."""
    draw = np.random.default_rng([data.seed, 0])
    make = cut_out(photos_of(data.photos)) if data.photos else draw_field
    names = ("image_id", "image", "label", "text", "split")
    types = [pa.string(), pa.binary(), *[pa.string()] * 3]
    columns = pa.schema(list(zip(names, types, strict=True)))
    ids = image_ids(data.images)
    with pq.ParquetWriter(path, columns) as file:
        for start in range(0, data.images, BLOCK):
            block = ids[start : start + BLOCK]
            pictures = [to_jpeg(make(draw)) for _ in block]
            drawn = (draw_labels(draw, len(block)), draw_texts(draw, len(block)))
            split = draw.choice(list(SHARES), len(block), p=list(SHARES.values()))
            file.write_table(pa.table([block, pictures, *drawn, split], schema=columns))


def photos_of(archive: Path) -> list[Image.Image]:
    """Evenly spaced photos of a zip archive."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(n for n in file.namelist() if n.lower().endswith((".jpg", ".jpeg", ".png")))
        names = names[:: max(1, len(names) // PHOTOS)][:PHOTOS]
        return [Image.open(io.BytesIO(file.read(name))).convert("RGB") for name in names]


def cut_out(photos: Sequence[Image.Image]) -> Callable[[np.random.Generator], Image.Image]:
    """What cuts a random square out of a random photo."""

    def cut(draw: np.random.Generator) -> Image.Image:
        photo = photos[int(draw.integers(len(photos)))]
        shortest = min(photo.size)
        side = draw.uniform(min(SIDE, shortest), shortest)
        left, top = (draw.uniform(0, length - side) for length in photo.size)
        box = (left, top, left + side, top + side)
        return photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)

    return cut


def draw_field(draw: np.random.Generator) -> Image.Image:
    """Colours that change smoothly, a few shapes, and some grain as of a camera."""
    points = draw.integers(0, 256, (FIELD, FIELD, 3), dtype=np.uint8)
    picture = Image.fromarray(points).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for shape in (pen.ellipse, pen.rectangle):
        left, top, width, height = draw.integers(4, SIDE // 2, 4).tolist()
        colour = tuple(draw.integers(0, 256, 3).tolist())
        shape((left, top, left + width, top + height), fill=colour)
    grain = draw.normal(0, FIELD_NOISE, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def to_jpeg(picture: Image.Image) -> bytes:
    """As it comes into the catalog."""
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=SOURCE_QUALITY)
    return sink.getvalue()


def draw_labels(draw: np.random.Generator, rows: int) -> list[str | None]:
    """One of CLASSES each, some have none."""
    known = draw.random(rows) >= UNLABELLED
    numbers = draw.integers(0, CLASSES, rows)
    return [
        f"class {n:02d}" if is_known else None for n, is_known in zip(numbers, known, strict=True)
    ]


def draw_texts(draw: np.random.Generator, rows: int) -> list[str | None]:
    """Captions of made-up words, drawn by Zipf's law; some images have none."""
    words = np.array(vocabulary())
    shares = np.cumsum(1 / np.arange(1, WORDS + 1))
    lengths = draw.integers(*WORDS_OF_TEXT, rows)
    drawn = words[np.searchsorted(shares / shares[-1], draw.random(int(lengths.sum())))]
    parts = np.split(drawn, np.cumsum(lengths)[:-1])
    known = draw.random(rows) >= WITHOUT_TEXT
    return [
        " ".join(part) if is_known else None for part, is_known in zip(parts, known, strict=True)
    ]


def vocabulary() -> list[str]:
    """WORDS different words of three syllables."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    return ["".join(three) for three in itertools.product(syllables, repeat=3)][:: 7 * 11][:WORDS]


def write_edges(path: Path, data: Data) -> None:
    """Ten out-edges an image to others of its group, the first of which are drawn most often."""
    draw = np.random.default_rng([data.seed, 1])
    ids = image_ids(data.images)
    # The greatest of (Gumbel noise + logarithm of the share) are a draw without replacement.
    score = draw.gumbel(size=(data.images, GROUP)) - np.log(np.arange(1, GROUP + 1))
    numbers = np.arange(data.images)
    score[numbers, numbers % GROUP] = -np.inf
    chosen = np.argpartition(-score, OUT_EDGES, axis=1)[:, :OUT_EDGES]
    dst = (numbers // GROUP * GROUP)[:, None] + chosen
    weight = draw.exponential(size=dst.size) + 0.1
    columns = {"src": np.repeat(ids, OUT_EDGES), "dst": ids[dst.ravel()], "weight": weight}
    pq.write_table(pa.table(columns), path)


def write_edges_tsv(path: Path, data: Data) -> None:
    """The edges as lines of src, dst and weight."""
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    pa.csv.write_csv(pq.read_table(data.edges), path, options)
