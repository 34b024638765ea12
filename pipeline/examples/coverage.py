"""How many images have neighbours, by how often they are seen: head, torso and tail.

Of the images with sessions the graph knows how many. The head is the most seen tenth of them, the
torso the next four tenths, the tail the rest; images seen equally often are never parted, they all
belong where the first of them does. The rest of the catalog no session holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import columnar, storage
from pipeline.columnar import Joined, JoinShards, Keyed
from pipeline.examples import spill
from pipeline.examples.settle import SESSIONS
from pipeline.sorting import run_bounds

NEIGHBORS, IMAGES = "neighbors", "images"
# images: how many have so many sessions (null = the graph does not know them) and neighbours.
COVERAGE_SCHEMA = pa.schema([(SESSIONS, pa.int64()), (NEIGHBORS, pa.int64()), (IMAGES, pa.int64())])
SLICES: Mapping[str, float] = {"head": 0.1, "torso": 0.5, "tail": 1.0}  # upper ends
UNSEEN = "in no session"


def tally(sessions: pa.Array, neighbors: np.ndarray) -> pa.Table:
    """COVERAGE_SCHEMA of images, a row each."""
    one = pa.array(np.ones(len(neighbors), np.int64))
    return add_up(pa.table([sessions, pa.array(neighbors, pa.int64()), one], COVERAGE_SCHEMA.names))


def add_up(tables: pa.Table) -> pa.Table:
    """COVERAGE_SCHEMA with one row for images that are alike, in a fixed order."""
    grouped = tables.group_by([SESSIONS, NEIGHBORS]).aggregate([(IMAGES, "sum")])
    grouped = grouped.rename_columns({f"{IMAGES}_sum": IMAGES}).select(COVERAGE_SCHEMA.names)
    order = [(SESSIONS, "descending"), (NEIGHBORS, "ascending")]
    return grouped.cast(COVERAGE_SCHEMA).sort_by(order)


def by_popularity(coverage: pa.Table) -> dict[str, Any]:
    """{slice: {images, with_neighbors, share}} of COVERAGE_SCHEMA; slices without images left out.

    Nothing where no image has sessions, as with a ready edge list.
    """
    known = add_up(coverage.filter(pc.is_valid(coverage[SESSIONS])))
    if not known.num_rows:
        return {}
    sessions, images = (known[name].to_numpy() for name in (SESSIONS, IMAGES))
    linked = known[NEIGHBORS].to_numpy() > 0
    before = run_bounds(images)[:-1]  # images in the rows before
    first = np.searchsorted(-sessions, -sessions)  # row of the first that is seen as often
    share = before[first] / images.sum()
    slice_of = np.searchsorted(list(SLICES.values()), share, side="right")
    found = {
        name: _slice(images[slice_of == index], linked[slice_of == index])
        for index, name in enumerate(SLICES)
    }
    unknown = coverage.filter(pc.is_null(coverage[SESSIONS]))
    found[UNSEEN] = _slice(unknown[IMAGES].to_numpy(), unknown[NEIGHBORS].to_numpy() > 0)
    return {name: figures for name, figures in found.items() if figures["images"]}


def _slice(images: np.ndarray, linked: np.ndarray) -> dict[str, Any]:
    total, with_neighbors = int(images.sum()), int(images[linked].sum())
    share = round(with_neighbors / total, 6) if total else 0.0
    return {"images": total, "with_neighbors": with_neighbors, "share": share}


@dataclass
class WriteCoverage(beam.PTransform):
    """Adds up what the shards tell, and writes it for the manifest.

    Input: (0, pa.Table of COVERAGE_SCHEMA). Output: none but the file of the work folder.
    """

    folder: str

    def expand(self, tallies: beam.PCollection[Keyed]) -> beam.PCollection[None]:
        joined = {IMAGES: tallies} | "GatherCoverage" >> JoinShards()
        return joined | "WriteCoverage" >> beam.Map(self._write)

    def _write(self, element: Joined) -> None:
        _, joined = element
        table = add_up(columnar.concatenate(joined[IMAGES], COVERAGE_SCHEMA))
        spill.write_table(_path(self.folder), table)


def _path(folder: str) -> str:
    return storage.join(folder, "coverage.arrow")


def read_coverage(folder: str) -> pa.Table:
    """COVERAGE_SCHEMA of all images."""
    return spill.read_table(_path(folder))
