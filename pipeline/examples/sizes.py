"""How large the examples are: what decides the shards of the work and the files of the output.

Shards are of no consequence for the result and follow from an estimate; files are part of it, and
follow from what was counted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline import limits, schema
from pipeline.artifacts import Version
from pipeline.config import ExamplesConfig, ImagesConfig
from pipeline.examples.catalog.find import Catalog
from pipeline.examples.catalog.tasks import TableTask, Task
from pipeline.examples.costs import COSTS
from pipeline.reading import read_tables

FILE_BYTES = 200 << 20  # a file's records are at most about that, before compression
FILES_A_READER = 2
# Images of a shard; their neighbours come to it as well, so it takes several times that.
_SHARD_BYTES = 32 << 20
# More shards would be more tables between them than images in them.
_MOST_SHARDS = 1_024
# Bytes a pixel of photos of 64 x 64 pixels; drawings take less, larger pictures as well.
_BYTES_A_PIXEL: Mapping[str, float] = {"jpeg": 1.0, "png": 2.2, "raw": 3.0}
_BYTES_A_ROW = 200  # of a table of texts
_BYTES_AROUND = 20  # of a feature, beside its name and its value


def content_bytes(found: Catalog, images: ImagesConfig, examples: ExamplesConfig) -> float:
    """About how many bytes an image has once it is prepared."""
    if found.feature_dim is not None:
        return 4.0 * found.feature_dim
    return _BYTES_A_PIXEL[examples.image_encoding] * images.image_size**2


def estimate(found: Catalog, images: ImagesConfig, examples: ExamplesConfig) -> float:
    """About how many bytes all images have once they are prepared."""
    return estimate_rows(found) * content_bytes(found, images, examples)


def estimate_rows(found: Catalog) -> int:
    """About how many images a catalog has."""
    return sum(map(_estimate_rows, found.tasks))


def _estimate_rows(task: Task) -> int:
    if not isinstance(task, TableTask):
        return len(task.members)
    rows = task.part.rows  # where the file says how many it has
    return task.part.file.size // _BYTES_A_ROW if rows is None else rows


def shard_count(setting: int | str, prepared_bytes: float) -> int:
    """The parts the work is cut into: `runner.shards`, or by size where that is "auto"."""
    if not isinstance(setting, str):
        return setting
    return int(min(_MOST_SHARDS, 1 + prepared_bytes // _SHARD_BYTES))


def cut(
    setting: int | str,
    prepared_bytes: float,
    *,
    neighbors: int,
    threads: int,
    max_memory: int | None,
) -> tuple[int, int]:
    """(shards, threads) for that many bytes, as they fit into `max_memory` bytes.

    A shard that is given as a number stays; then fewer threads are all that can be done.
    """
    shards = shard_count(setting, prepared_bytes)
    held = limits.Held(
        COSTS.process + min(COSTS.gathered, prepared_bytes),
        COSTS.block,
        COSTS.shard * (1 + neighbors) * prepared_bytes,
    )
    return limits.cut(setting, held, limit=max_memory, shards=shards, threads=threads)


def record_bytes(spec: schema.ExampleSpec, *, content: float, neighbors: float) -> float:
    """About how many bytes a record has. content: of a node; neighbors: of a seed, the mean."""
    around = sum(len(feature.name) + _BYTES_AROUND for feature in spec.features())
    return (1 + neighbors) * content + around


def file_counts(records: Mapping[str, int], record_bytes: float, readers: int) -> dict[str, int]:
    """{split: files}: of 100 to 200 MB, of the training split two at least for each reader.

    records: {split: how many}, of about `record_bytes` each. An empty split has no file.
    """
    least = dict.fromkeys(schema.SPLITS, 1) | {schema.SPLITS[0]: FILES_A_READER * readers}
    return {
        split: min(number, max(least[split], int(-(-number * record_bytes // FILE_BYTES))))
        for split, number in records.items()
    }


def linked(graph: Version, neighbors: int) -> int:
    """How many neighbours all images of the graph have, at most `neighbors` each."""
    tables = (
        table for path in graph.shards(schema.NODES) for table in read_tables(path, ["degree"])
    )
    return sum(int(np.minimum(table["degree"].to_numpy(), neighbors).sum()) for table in tables)
