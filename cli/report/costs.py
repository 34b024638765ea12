"""What a report takes: bytes of memory, and of the page.

In: how large the run is, the section `report`. Out: bytes, by the costs that were measured and
stand in `Costs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cli.report.config import ReportConfig
from cli.report.runs import Run
from pipeline import limits, schema

_ROWS_AT_ONCE = 1 << 20  # of a file, as cli.report.tables reads them


@dataclass(frozen=True)
class Costs:
    """Bytes that a report takes, as measured.

    Python 3.11, matplotlib 3.11, scikit-learn 1.9: memory of a run of 30 images (289 MB), of the
    demo's 2,000 (400 MB), of 300,000 images with 3 million edges (575 MB) and of a million with 5
    million (1,272 MB); the pages of the first three (0.32, 3.0 and 0.19 MB).
    """

    process: int = 280_000_000
    mapped: int = 50_000  # memory for each image of the map
    edge: int = 20  # two numbers and a weight
    image: int = 300  # ids, looked up
    vector: float = 2.3  # for each byte of the vectors of so many rows
    page: int = 250_000
    tile: int = 900  # of the page, for each picture of the map
    thumbnails: int = 110  # for each of `report.rows`
    thumbnail: int = 1_600


COSTS = Costs()


def memory_bytes(*, images: int, edges: int, dim: int, config: ReportConfig) -> int:
    """Of a run with so many embedded images, of `dim` numbers each."""
    at_once = min(images, _ROWS_AT_ONCE) * 4 * dim * COSTS.vector
    mapped = min(images, config.map_images) * COSTS.mapped
    return round(COSTS.process + mapped + edges * COSTS.edge + images * COSTS.image + at_once)


def page_bytes(*, images: int, pictures: bool, config: ReportConfig) -> int:
    """Of the page; a catalog of features has no pictures."""
    if not pictures:
        return COSTS.page
    shown = min(images, COSTS.thumbnails * config.rows)
    return COSTS.page + min(images, config.map_images) * COSTS.tile + shown * COSTS.thumbnail


def check(run: Run, config: ReportConfig, *, limit: int | None) -> None:
    """ConfigError where the report does not fit into `limit` bytes of memory."""
    if limit is None:
        return
    embeddings = run.get(schema.EMBEDDINGS)
    need = memory_bytes(
        images=embeddings.manifest["counts"]["images"] if embeddings else 0,
        edges=run.graph.manifest["counts"]["edges"]["kept"],
        dim=embeddings.manifest["dim"] if embeddings else 0,
        config=config,
    )
    limits.check(need, limit=limit, remedy="lower report.map_images or graph.top_k")
