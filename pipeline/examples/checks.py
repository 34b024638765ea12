"""What must be true of a finished job, else one line says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline import schema, writing
from pipeline.errors import ImgembedError
from pipeline.examples.stage import ExamplesJob
from pipeline.reading import read_tables


def by_split(counts: Mapping[str, int], kind: str) -> dict[str, int]:
    """{split: counter} of a kind of counters."""
    return {split: counts[f"{kind}/{split}"] for split in schema.SPLITS}


def check_rejected(job: ExamplesJob, counts: Mapping[str, int]) -> dict[str, int]:
    """Rejected rows by reason; ImgembedError where they are too many, or rows are missing."""
    rejected = writing.check_rejected(
        job.out.path,
        rows=counts["rows"],
        allowed=job.images.max_rejected_fraction,
        key="images.max_rejected_fraction",
    )
    kept, lost = sum(by_split(counts, "images").values()), sum(rejected.values())
    if counts["rows"] != kept + lost:
        raise ImgembedError(
            f"images: {counts['rows']:,} rows were read, {kept:,} kept and {lost:,} rejected: the "
            "runner has lost some; run it again"
        )
    return rejected


def check_images(job: ExamplesJob, counts: Mapping[str, int]) -> None:
    """ImgembedError where there is nothing to learn from."""
    images = by_split(counts, "images")
    total = sum(images.values())
    if not total:
        raise ImgembedError(f"images.path: {job.images.path!r} has no image that can be used")
    if not images[schema.SPLITS[0]]:
        raise ImgembedError(
            f"images.path: none of the {total:,} images of {job.images.path!r} is in the training "
            "split; there is nothing to learn from"
        )


def check_graph(job: ExamplesJob, counts: Mapping[str, int]) -> None:
    """Ids that never meet are most often ids written in two ways: show both."""
    if counts["edges touching"] or not counts["edges"]:
        return
    images = (job.nodes.read_places(shard) for shard in range(job.places.shards))
    ours = next(table["image_id"][0].as_py() for table in images if table.num_rows)
    files = job.graph.shards(schema.EDGES)
    edges = (table for path in files for table in read_tables(path, ["src"]))
    theirs = next(table["src"][0].as_py() for table in edges if table.num_rows)
    raise ImgembedError(
        f"images.path: no image of {job.images.path!r} is in the graph: the catalog has ids like "
        f"{ours!r}, the graph {theirs!r}"
    )


def check_records(counts: Mapping[str, int]) -> None:
    """ImgembedError where an image has no record: a runner that loses data must not go unseen."""
    for split in schema.SPLITS:
        images, records = counts[f"images/{split}"], counts[f"records/{split}"]
        if images != records:
            raise ImgembedError(
                f"examples: {images:,} images of split {split!r} gave {records:,} records: the "
                "runner has lost some; run it again"
            )
