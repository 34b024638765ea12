"""The rows of a catalog: their columns, and the reasons for which a row is rejected."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from pipeline import schema

Content = Literal["image", "features"]
COLUMNS = ("image_id", "image", "uri", "features", "label", "text", "split", "group")
CATALOG_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.large_binary()),  # a picture's file, else `uri` says where it is
        ("uri", pa.string()),  # a path from here or a bucket's address, through archives as well
        ("features", pa.list_(pa.float32())),  # null in a catalog of pictures
        ("label", pa.list_(pa.string())),  # null = none; each once
        ("text", pa.list_(pa.string())),  # null = none
        ("split", pa.string()),  # of schema.SPLITS; null = by hash
        ("group", pa.string()),  # null = none
        ("file", pa.string()),
        ("row", pa.int64()),  # 1 = the first row of data; 1 of a picture's own file
    ]
)

BAD_ID = "image_id is neither text nor a whole number, or holds a line break or NUL, or is too long"
NO_ID = "image_id is missing"
NO_CONTENT = {"image": "neither image nor uri is given", "features": "features are missing"}
BAD_FEATURES = "features are not a list of finite numbers"
BAD_DIM = "features have another length than the first row's"
BAD_LABEL = (
    "label is neither text nor a whole number nor a list of these, or has a line break, or is too "
    "long"
)
BAD_TEXT = "text is neither a text nor a list of texts"
BAD_SPLIT = f"split is none of {', '.join(schema.SPLITS)}"
BAD_GROUP = "group is neither text nor a whole number, or has a line break, or is too long"
BAD_IMAGE = "image is not bytes"
BAD_URI = "uri is not text"
TOO_FEW_FOLDERS = "there are fewer folders above the picture than images.folders names"
BAD_PATH = "the path is not UTF-8"


def complete(columns: dict[str, pa.Array], rows: int) -> pa.Table:
    """A table of CATALOG_SCHEMA; columns that are not given are null."""
    return pa.table(
        [
            columns[field.name] if field.name in columns else pa.nulls(rows, field.type)
            for field in CATALOG_SCHEMA
        ],
        schema=CATALOG_SCHEMA,
    )
