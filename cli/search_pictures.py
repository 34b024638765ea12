"""Pictures and words of a few images, for people: from the catalog that was embedded.

Where the catalog is gone, its pictures are taken as the examples of the run hold them. What is
found in neither is left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from cli.showing import picture_of
from pipeline import schema
from pipeline.artifacts import RunDir
from pipeline.config import ImagesConfig
from pipeline.errors import ImgembedError
from pipeline.examples import reading
from pipeline.examples.catalog import find, sources
from pipeline.examples.catalog.read import read_task
from pipeline.examples.pictures import thumbnail

if TYPE_CHECKING:
    from cli.searching import Searcher

_MOST_WORDS = 3  # captions of an image
_LONGEST = 120  # letters of a caption


@dataclass(frozen=True)
class Found:
    """An image as people see it. thumbnail: a JPEG. words: its labels and captions."""

    thumbnail: bytes | None
    words: tuple[str, ...] = ()


def find_images(searcher: Searcher, ids: Sequence[str], side: int) -> dict[str, Found]:
    """The images that are found, pictures of at most `side` pixels."""
    images = ImagesConfig.model_validate(searcher.embeddings.manifest["config"]["images"])
    wanted, found = set(ids), {}
    try:
        for row in _catalog_rows(images, wanted):
            found[row["image_id"]] = Found(_thumbnail(row, images, side), _words(row))
    except ImgembedError:  # moved, or of another machine
        found |= _of_examples(searcher, wanted - found.keys(), side)
    return found


def _catalog_rows(images: ImagesConfig, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """The catalog's rows of these images, until all are found."""
    missing = set(wanted)
    for task in find.inspect(images).tasks:
        for block in read_task(task):
            is_wanted = pc.is_in(block.table["image_id"], pa.array(sorted(missing), pa.string()))
            for row in block.table.filter(is_wanted).to_pylist():
                missing.discard(row["image_id"])
                yield row
            if not missing:
                return


def _thumbnail(row: dict[str, Any], images: ImagesConfig, side: int) -> bytes | None:
    """None of ready features, and where the picture is gone or broken."""
    if row["image"] is None and row["uri"] is None:
        return None
    try:
        data = row["image"] if row["image"] is not None else sources.read_bytes(row["uri"])
        return thumbnail(data, side=side, max_pixels=images.max_pixels)
    except ImgembedError:
        return None


def _words(row: dict[str, Any]) -> tuple[str, ...]:
    labels, texts = (row[name] or [] for name in ("label", "text"))
    shown = [", ".join(labels), *texts[:_MOST_WORDS]]
    return tuple(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…" for text in shown if text)


def _of_examples(searcher: Searcher, wanted: set[str], side: int) -> dict[str, Found]:
    version = RunDir.open(searcher.config.run_dir).current(schema.EXAMPLES)
    if version is None or reading.spec_of(version).feature_dim is not None:
        return {}
    found = {}
    for image_id in wanted:
        try:
            example = reading.find_example(version, image_id, schema.SPLITS)
            sink = io.BytesIO()
            picture_of(example.seed, example, version).save(sink, "PNG")
        except ImgembedError:  # embedded, but no part of the examples
            continue
        found[image_id] = Found(thumbnail(sink.getvalue(), side=side, max_pixels=side**3))
    return found
