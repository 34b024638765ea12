"""The section `evaluation` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from trainer.config import Section


class EvaluationConfig(Section):
    """What is measured, and how closely."""

    k: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(
        [1, 10, 100], description="lengths of the result list at which recall and NDCG are taken"
    )
    bootstrap: Annotated[int, Field(ge=0)] = Field(
        1_000, description="resamples behind the 95 % intervals; 0 leaves the intervals out"
    )
    max_sessions: Annotated[int, Field(ge=1)] = Field(
        10_000, description="held-out sessions that are evaluated; of more, so many are drawn"
    )
    max_labels: Annotated[int, Field(ge=0)] = Field(
        20, description="labels of query images shown apart, the most frequent; the others as one"
    )
    judgments: str | None = Field(
        None, description="a table of query, image_id and grade: how well an image answers a query"
    )
    judgments_format: Literal["auto", "jsonl", "csv", "tsv", "parquet", "avro", "tfrecord"] = Field(
        "auto", description="of that table"
    )
    judgments_columns: dict[str, str] = Field(
        default_factory=dict, description="ours: theirs, such as {grade: rating}"
    )

    @field_validator("k")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        return sorted(set(value))
