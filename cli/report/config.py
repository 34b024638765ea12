"""The section `report` of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.config import Section


class ReportConfig(Section):
    """How much the report looks at; a larger run is sampled, and the page says so."""

    max_images: Annotated[int, Field(ge=1)] = Field(
        20_000, description="images that rows of pictures are searched in; of more, so many by hash"
    )
    map_images: Annotated[int, Field(ge=1, le=10_000)] = Field(
        2_000, description="images on the map; of more, so many by hash"
    )
    rows: Annotated[int, Field(ge=1, le=100)] = Field(
        5, description="queries of each kind that are shown with pictures, and edges by threes"
    )
