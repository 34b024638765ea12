"""What the manifest of the examples says: what a reader must know, then what people want to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import schema
from pipeline.examples import coverage, transform
from pipeline.examples.checks import by_split
from pipeline.examples.prepare import NAMESPACE
from pipeline.examples.stage import ExamplesJob


def summarize(
    job: ExamplesJob,
    counts: Mapping[str, int],
    spec: schema.ExampleSpec,
    files: Mapping[str, int],
    rejected: Mapping[str, int],
) -> dict[str, Any]:
    """The manifest's part that this stage knows. counts: of both pipelines."""
    folder = job.nodes.transform
    labels = transform.label_counts(folder)
    tokens = transform.vocabulary(folder, schema.TOKEN_VOCABULARY)
    records = by_split(counts, "records")
    return {
        "content": job.found.content,
        "image_size": job.images.image_size if spec.image_encoding else None,
        **spec.to_manifest(),
        "splits": {
            split: {
                "records": records[split],
                "files": files[split],
                "bytes": counts[f"bytes/{split}"],
            }
            for split in schema.SPLITS
        },
        "classes": list(labels),
        "images_of_class": labels,
        "compression": job.examples.compression,
        "tokens": len(tokens),
        # An empty vocabulary holds a stand-in, which takes an id.
        "token_ids": max(1, len(tokens)) + job.examples.token_buckets,
        "texts": by_split(counts, "texts"),
        "labelled": by_split(counts, "labelled"),
        "rejected": dict(rejected),
        "counts": _counts(job, counts, spec, sum(rejected.values())),
        "counters": {f"{NAMESPACE}/{name}": counts[name] for name in sorted(counts)},
    }


def _counts(
    job: ExamplesJob, counts: Mapping[str, int], spec: schema.ExampleSpec, rejected: int
) -> dict[str, Any]:
    images = sum(by_split(counts, "images").values())
    linked = images - counts["neighbors/0"]
    return {
        "rows": {"read": counts["rows"], "kept": images, "rejected": rejected},
        "skipped_files": job.found.skipped_files,
        "images": {
            "with_neighbors": linked,
            "without_neighbors": images - linked,
            "share_with_neighbors": round(linked / images, 6),
            "by_neighbors": {str(n): counts[f"neighbors/{n}"] for n in range(spec.neighbors + 1)},
            "by_popularity": coverage.by_popularity(coverage.read_coverage(job.work)),
        },
        "edges": {
            "read": counts["edges"],
            "skipped": counts["edges skipped"],
            "among_nodes_of_examples": counts["edges among"],
            **_doubted(job, counts),
        },
        "queries": {"read": counts["query rows"], "skipped": counts["query rows without an image"]},
        # Labels that too few training images have for a model to learn, or none.
        "unknown_labels": counts["labels"] - counts["known labels"],
    }


def _doubted(job: ExamplesJob, counts: Mapping[str, int]) -> dict[str, int]:
    """How many edges were left out since their agreement is low."""
    if job.agreement is None:
        return {}
    return {"doubted": int(job.agreement.manifest["edges"]["judged"]) - counts["edges"]}
