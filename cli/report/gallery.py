"""Images of the run drawn by hash: what the rows of pictures and the map are made of.

Drawn are the images of the lowest places, which stand first in the files of the examples: of a run
with a million images no more than the first files are read, and never all pictures are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from cli.report import thumbnails
from cli.report.tables import stream
from pipeline import schema
from pipeline.artifacts import Version
from pipeline.examples.places import Places
from pipeline.examples.reading import spec_of
from pipeline.examples.seeds import Seed, read_seeds

RAW_SIDE = 16  # pixels of a picture as raw features, as in the evaluation


@dataclass(frozen=True)
class Gallery:
    """The drawn images, by place.

    ids: [n] string. vectors: [n, dim] float32, unit norm. raw: [n, features] float32, centred and
    of unit norm, 0 for an image without an example; [n, 0] where no image has one. labels: the name
    of the first label, None where there is none. corpus: embedded images in all.
    """

    ids: pa.Array
    vectors: np.ndarray
    raw: np.ndarray
    labels: list[str | None]
    corpus: int

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, image_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The row of each image, -1 where it was not drawn. [m] -> [m] int64."""
        found = pc.fill_null(pc.index_in(image_ids, value_set=self.ids), -1)
        return np.asarray(found).astype(np.int64)

    def first(self, number: int) -> Gallery:
        """Those of the lowest places."""
        part = slice(number)
        return Gallery(
            self.ids[part], self.vectors[part], self.raw[part], self.labels[part], self.corpus
        )

    def names(self, rows: Iterable[int]) -> list[str]:
        return self.ids.take(pa.array(list(rows), pa.int64())).to_pylist()


def draw(embeddings: Version, examples: Version | None, *, limit: int, seed: int) -> Gallery:
    """At most `limit` of the embedded images, with what the examples say of them.

    seed: of the places, where there are no examples that tell theirs.
    """
    if examples is not None:
        seed = examples.manifest["config"]["seed"]
    ids, vectors, corpus = _lowest(embeddings, Places(seed, 1), limit)
    if examples is None or len(ids) == 0:
        nothing = np.zeros((len(ids), 0), np.float32)
        return Gallery(ids, vectors, nothing, [None] * len(ids), corpus)
    return Gallery(ids, vectors, *_contents(examples, ids), corpus)


def _lowest(embeddings: Version, places: Places, limit: int) -> tuple[pa.Array, np.ndarray, int]:
    """(ids, vectors) of the `limit` lowest places, ascending, and how many images there are."""
    dim, corpus = embeddings.manifest["dim"], 0
    wanted = schema.embedding_schema("image_id", dim)
    kept, order = wanted.empty_table(), np.zeros(0, np.uint64)
    for table in stream(embeddings, schema.IMAGE_EMBEDDINGS, ["image_id", "embedding"]):
        corpus += table.num_rows
        both = pa.concat_tables([kept.select(["image_id", "embedding"]), _cast(table, dim)])
        order = np.concatenate([order, places.of(table["image_id"])])
        chosen = np.argsort(order, kind="stable")[:limit]
        kept, order = both.take(pa.array(chosen)).combine_chunks(), order[chosen]
    ids = pa.array(kept["image_id"].to_pylist(), pa.string())
    flat = pc.list_flatten(kept["embedding"]).to_numpy().astype(np.float32)
    return ids, flat.reshape(len(ids), dim), corpus


def _cast(table: pa.Table, dim: int) -> pa.Table:
    wanted = schema.embedding_schema("image_id", dim)
    return table.cast(pa.schema([wanted.field("image_id"), wanted.field("embedding")]))


def _contents(examples: Version, ids: pa.Array) -> tuple[np.ndarray, list[str | None]]:
    """(raw features, labels) of images, [n, features] and n."""
    names = ids.to_pylist()
    row_of = {name: row for row, name in enumerate(names)}
    classes = examples.manifest["classes"]
    labels: list[str | None] = [None] * len(names)
    raw: np.ndarray | None = None
    found = np.zeros(len(names), bool)
    for seed in read_seeds(examples, names):
        row = row_of[seed.image_id]
        if seed.labels:
            labels[row] = classes[seed.labels[0]]
        values = _raw(seed, examples)
        if values is not None:
            raw = np.zeros((len(names), len(values)), np.float32) if raw is None else raw
            raw[row], found[row] = values, True
    if raw is None:
        return np.zeros((len(names), 0), np.float32), labels
    raw[found] -= raw[found].mean(axis=0, dtype=np.float64).astype(np.float32)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    return np.divide(raw, norms, out=np.zeros_like(raw), where=norms > 1e-6), labels


def _raw(seed: Seed, examples: Version) -> np.ndarray | None:
    """A small square of a picture, or the ready features; None where it cannot be decoded."""
    if not isinstance(seed.content, bytes):
        return seed.content
    picture = _picture(seed, examples)
    if picture is None:
        return None
    small = picture.resize((RAW_SIDE, RAW_SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32).reshape(-1)


def _picture(seed: Seed, examples: Version) -> Image.Image | None:
    assert isinstance(seed.content, bytes)
    try:
        return thumbnails.decode(seed.content, spec_of(examples), examples.manifest["image_size"])
    except (OSError, ValueError):
        return None


def has_pictures(examples: Version | None) -> bool:
    """Whether there are pictures to show, not ready features alone."""
    return examples is not None and spec_of(examples).feature_dim is None


def pictures(
    examples: Version | None, image_ids: Sequence[str], *, side: int
) -> Iterator[tuple[str, Image.Image]]:
    """(id, small picture) of those images that have one, in the order of the files."""
    if examples is None or not has_pictures(examples):
        return
    for seed in read_seeds(examples, image_ids):
        picture = _picture(seed, examples)
        if picture is not None:
            yield seed.image_id, thumbnails.shrink(picture, side)
