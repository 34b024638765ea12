"""The configuration of the Beam stages, one class a YAML section.

Every key has a default, a unit in its name or its line, and a range. A stage's function takes its
own section, never the whole file.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeGuard

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def read_bytes(value: object) -> object:
    """The bytes that a text such as `4GB` or `512 MiB` means; what is no such text as it is."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value) if _is_text(value) else None
    if found is None or found[2].lower() not in _UNITS:
        if _is_text(value):
            raise ValueError(f"wanted bytes such as 4GB or 512MiB, found {value!r}")
        return value
    return round(float(found[1]) * _UNITS[found[2].lower()])


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


Bytes = Annotated[int, BeforeValidator(read_bytes), Field(ge=1)]


class Section(BaseModel):
    """A section of the YAML: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SessionsConfig(Section):
    """The session logs: where they are, what their columns are called, what a session is."""

    path: str | None = Field(None, description="file, folder or glob of the session logs")
    format: Literal["auto", "jsonl", "csv", "tsv", "parquet", "avro", "tfrecord"] = Field(
        "auto", description="auto takes it from the file's extension, else from its first bytes"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="our column name: the log's column name"
    )
    items_separator: str | None = Field(
        None, min_length=1, description="what parts the ids of an 'items' column of text"
    )
    gap_minutes: float = Field(
        30.0, gt=0, description="without session ids, a longer pause ends a session"
    )
    max_events: Count = Field(500, description="sessions with more events are bots: left out")
    max_images: Count = Field(50, description="distinct images of a session that count, the first")
    max_sessions_per_user: Count | None = Field(
        None, description="sessions of one user that count, drawn by hash; null = all"
    )
    actions: dict[str, Annotated[float, Field(ge=0.01, le=100)]] = Field(
        default_factory=dict, description="weight of an event by its action; 1 for any other"
    )
    previous: str | None = Field(
        None, description="run directory whose counts these logs are added to (--since)"
    )
    max_rejected_fraction: Share = Field(
        0.01, description="the stage fails when a larger share of the rows cannot be read"
    )


class HoldoutConfig(Section):
    """Whole sessions kept out of the graph, for evaluation."""

    by: Literal["hash", "time"] = Field("hash", description="by hash of the session, or the latest")
    fraction: Share = Field(0.1, description="share of the sessions that is held out")


class GraphConfig(Section):
    """How co-occurrences become weighted edges; the settings prune in the order they stand in."""

    measure: Literal["count", "jaccard", "cosine", "lift", "pmi", "ppmi", "npmi", "llr"] = Field(
        "llr", description="the weight of an edge"
    )
    discount: Literal["none", "size", "log"] = Field(
        "none", description="what a pair of a session of n images adds: 1, 1/(n-1) or 1/log2(n)"
    )
    half_life_days: float | None = Field(
        None, gt=0, description="a session so many days before the newest that counts adds half"
    )
    min_sessions: Count = Field(2, description="an edge of fewer sessions is left out")
    min_users: Count = Field(
        1, description="an edge or a query of fewer distinct users is left out"
    )
    min_significance: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="largest p-value of an edge's log-likelihood ratio, such as 0.001"
    )
    max_degree: Count | None = Field(
        None, description="edges to one image that are kept, the strongest: against hubs"
    )
    top_k: Count = Field(10, description="edges from one image that are kept, the strongest")
    symmetry: Literal["directed", "mutual", "union"] = Field(
        "directed", description="mutual: only edges kept in both directions; union: both of either"
    )
    keep_counts: bool = Field(
        False, description="also write all counts, for a later run to be added to"
    )
    edges_tsv: bool = Field(False, description="also write edges.tsv: src, dst, weight")


class EdgesConfig(Section):
    """A ready edge list in place of the logs."""

    path: str | None = Field(None, description="file, folder or glob of the edge list")
    format: Literal["auto", "jsonl", "csv", "tsv", "parquet", "avro", "tfrecord"] = Field(
        "auto", description="auto takes it from the file's extension"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="our column name (src, dst, weight): the list's"
    )
    max_rejected_fraction: Share = Field(
        0.01, description="the stage fails when a larger share of the rows cannot be read"
    )


class PrivacyConfig(Section):
    """Differential privacy of the published counts; off unless epsilon is set."""

    epsilon: float | None = Field(
        None, gt=0, description="the largest privacy loss of one user, such as 1"
    )
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(
        1e-6, description="chance that epsilon does not hold; far below 1 / users"
    )
    max_pairs_per_user: Count = Field(
        50, description="pairs, images and (query, image)s that one user adds, drawn by hash"
    )


class ImagesConfig(Section):
    """The catalog: where the images are and what its columns are called."""

    path: str | None = Field(
        None, description="folder or zip archive of pictures, or a table of images"
    )
    format: Literal[
        "auto", "folder", "zip", "jsonl", "csv", "tsv", "parquet", "avro", "tfrecord"
    ] = Field("auto", description="auto takes it from the path")
    columns: dict[str, str] = Field(
        default_factory=dict, description="our column name: the catalog's column name"
    )
    root: str | None = Field(
        None, description="folder or zip archive that uris start from; null = the table's folder"
    )
    ids: Literal["name", "path"] = Field(
        "name", description="of a picture: its file's name, or its path; without the extension"
    )
    folders: list[Literal["label", "split", "group"] | None] = Field(
        default_factory=list,
        description="what the folders around a picture say, the nearest last, such as [label]",
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] = Field(
        64, description="pixels; pictures are resized to a square of this side"
    )
    max_pixels: Count = Field(
        50_000_000, description="pixels; a picture with more is rejected unread"
    )
    max_seconds: float = Field(
        20.0, gt=0, description="seconds; a picture that takes longer to decode is rejected"
    )
    max_rejected_fraction: Share = Field(
        0.1, description="the stage fails when a larger share of the catalog cannot be read"
    )


class SplitConfig(Section):
    """Shares of the catalog's images, drawn by hash of the image id, or of its group."""

    train: Share = 0.8
    validation: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitConfig:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train, validation and test sum to {total:g}, not to 1")
        if self.train == 0:
            raise ValueError("train is 0: there is nothing to learn from")
        return self


class ExamplesConfig(Section):
    """The neighbour-augmented TFRecords."""

    neighbors: Annotated[int, Field(ge=0, le=100)] = Field(
        5, description="neighbours an example carries; each costs one picture more"
    )
    texts: Annotated[int, Field(ge=0)] = Field(
        8, description="published queries an example carries, the most frequent"
    )
    captions: bool = Field(True, description="learn from the catalog's texts as from queries")
    split: SplitConfig = Field(default_factory=SplitConfig)
    neighbor_weights: Literal["graph", "strongest"] = Field(
        "graph", description="as in the graph, or divided by the strongest of the image"
    )
    agreement: Literal["none", "weight", "filter"] = Field(
        "none",
        description="what imgembed denoise found of the edges: their weights are multiplied by it, "
        "or those below min_agreement are left out",
    )
    min_agreement: Share = Field(0.5, description="of the edges that a filter leaves")
    min_label_count: Count = Field(1, description="labels of fewer training images are left out")
    max_tokens: Count = Field(50_000, description="words in the vocabulary, the most frequent")
    min_token_count: Count = Field(1, description="words that are rarer are left out of it")
    token_buckets: Count = Field(1_000, description="hash buckets for all other words")
    subword_length: Annotated[int, Field(ge=0, le=6)] = Field(
        3, description="letters of the pieces that words are also cut into; 0 = none"
    )
    layout: Literal["nsl", "compact"] = Field(
        "nsl", description="one feature a neighbour, or one for all neighbours"
    )
    image_encoding: Literal["jpeg", "png", "raw"] = Field(
        "jpeg",
        description="of the pictures; jpeg is smallest and read fastest, png and raw lose nothing",
    )
    readers: Count = Field(
        1, description="machines that read the training files at a time; each has two at least"
    )
    compression: Literal["gzip", "none"] = Field("gzip", description="of the TFRecord files")


class ExportConfig(Section):
    """Embeddings of a catalog."""

    batch_size: Count = Field(256, description="images that the model embeds at once")
    dtype: Literal["float32", "float16", "int8"] = Field(
        "float32",
        description="of the stored numbers; what fewer bits cost is measured and written down",
    )
    formats: list[Literal["parquet", "tfrecord", "npy"]] = Field(
        ["parquet"],
        description="of the vectors; parquet is always written, since every other stage reads it",
    )
    neighbors: Literal["auto", "none"] = Field(
        "auto",
        description="of a model with a graph_network: auto embeds the images of the examples with "
        "their neighbours, none all images alone",
    )


class IndexConfig(Section):
    """What a search looks into: all vectors, or cells of similar ones."""

    kind: Literal["auto", "exact", "approximate"] = Field(
        "auto", description="auto = exact below exact_below images, approximate from there on"
    )
    exact_below: Count = Field(100_000, description="images from which on auto is approximate")
    min_recall: Share = Field(
        0.95,
        description="the stage fails when an approximate index finds a smaller share of the 10 "
        "best, measured on 1,000 images and 1,000 published queries",
    )
    cells: Literal["auto"] | Count = Field(
        "auto", description="groups that the images are sorted into; auto = 4 times their root"
    )
    probes: Literal["auto"] | Count = Field(
        "auto",
        description="cells a search looks into; auto = the fewest that find halfway from "
        "min_recall to all",
    )
    candidates: Count = Field(
        100, description="images of these cells that are scored exactly; at least 4 a result"
    )


# Our names for runners, and Beam's.
RUNNERS = {
    "direct": "FnApiRunner",
    "dataflow": "DataflowRunner",
    "flink": "FlinkRunner",
    "prism": "PrismRunner",
}
_RUNNER_ALIASES = {"directrunner": "direct"} | {
    beams.lower(): ours for ours, beams in RUNNERS.items()
}


class RunnerConfig(Section):
    """Where the Beam jobs run."""

    name: str = Field("direct", description="direct | dataflow | flink | prism")
    workers: Literal["auto"] | Count = Field(
        "auto", description="threads of the direct runner; auto = one a core"
    )
    shards: Literal["auto"] | Count = Field(
        "auto", description="parts the data is cut into; the result does not depend on it"
    )
    max_memory: Bytes | None = Field(
        None,
        description="bytes, such as 4GB, of the process or of each worker's: graph, examples and "
        "export are cut to fit, by more shards and fewer threads; what cannot be cut is refused "
        "before it begins; null: as fast as they go",
    )
    options: list[str] = Field(default_factory=list, description="Beam's own options")

    @field_validator("name")
    @classmethod
    def _canonical(cls, name: str) -> str:
        """One of RUNNERS, for our names and Beam's, in any case."""
        lowered = name.lower()
        if "dask" in lowered:
            raise ValueError(
                f"{name!r} drops outputs in silence: of several only the last is made, and what a "
                f"step gives at its end is lost (Beam 2.77); take one of {', '.join(RUNNERS)}"
            )
        canonical = _RUNNER_ALIASES.get(lowered, lowered)
        if canonical not in RUNNERS:
            raise ValueError(f"{name!r} is none of {', '.join(RUNNERS)}")
        return canonical
