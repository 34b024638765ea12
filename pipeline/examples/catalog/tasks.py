"""What one call of `read_task` reads: pictures of a tree, or rows of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.examples.catalog.rows import Content
from pipeline.tables.files import Part

FolderName = Literal["label", "split", "group"]


@dataclass(frozen=True)
class PictureTask:
    """Pictures of a folder or an archive.

    root: what all their paths begin with, up to and with the last slash, such as `shop.zip/`.
    members: their paths below it. ids, folders: as in ImagesConfig.
    """

    root: str
    members: tuple[str, ...]
    ids: Literal["name", "path"]
    folders: tuple[FolderName | None, ...]


@dataclass(frozen=True)
class TableTask:
    """Rows of a table.

    columns: {our name: the file's} as pairs, only those that count. root: what relative uris start
    from. feature_dim: how many numbers the features of a row are. block_rows: the most of a block.
    """

    part: Part
    columns: tuple[tuple[str, str], ...]
    root: str
    content: Content
    feature_dim: int | None
    block_rows: int


Task = PictureTask | TableTask
