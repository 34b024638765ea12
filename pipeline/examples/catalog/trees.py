"""Pictures in folders and in zip archives: which there are, and what their paths say of them.

In: files as they were found. Out: tasks; and the rows of a task, without a look at a picture.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline import schema, storage
from pipeline.config import ImagesConfig
from pipeline.errors import ImgembedError
from pipeline.examples.catalog import rows
from pipeline.examples.catalog.archives import Archive, open_archive
from pipeline.examples.catalog.convert import CONVERTERS
from pipeline.examples.catalog.tasks import PictureTask
from pipeline.tables.blocks import MAX_CONTENT, Faults

PICTURE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".ico"),
)
TASK_PICTURES = 512
_MARKS = "*?["


@dataclass(frozen=True)
class Tree:
    """Pictures that have one root, which ends with a slash or is empty, and their paths below it.

    skipped: files that have no picture's extension.
    """

    root: str
    members: tuple[str, ...]
    skipped: int


def is_picture(path: str) -> bool:
    """Whether the extension is that of a picture."""
    return os.path.splitext(path)[1].lower() in PICTURE_EXTENSIONS


def folder_tree(path: str, found: Sequence[storage.FileInfo]) -> Tree:
    """The pictures among the files that a folder, file or glob names."""
    pictures = [info.path for info in found if is_picture(info.path)]
    root = _root(path, single=[info.path for info in found] == [path])
    members = tuple(picture[len(root) :].lstrip("/") for picture in pictures)
    return Tree(root, members, len(found) - len(pictures))


def _root(path: str, *, single: bool) -> str:
    """The folder that a path names, with a slash at its end; of a glob what stands before it."""
    marks = [place for mark in _MARKS if (place := path.find(mark)) >= 0]
    if single or (marks and not os.path.isdir(path)):
        return path[: path.rfind("/", 0, min(marks, default=len(path))) + 1]
    return path.rstrip("/") + "/"


def archive_tree(path: str) -> Tree:
    """The pictures of an archive; ImgembedError where it is broken or encrypted."""
    try:
        archive = open_archive(path)
    except OSError as error:
        raise ImgembedError(f"{path}: cannot be read ({error.strerror or error})") from error
    shown = [name for name in archive.members if not _is_hidden(name)]
    pictures = tuple(name for name in shown if is_picture(name))
    _check_readable(archive, pictures)
    return Tree(path + "/", pictures, len(shown) - len(pictures))


def _check_readable(archive: Archive, names: Iterable[str]) -> None:
    for name in names:
        archive.check(name)


def _is_hidden(name: str) -> bool:
    """Whether a file, or a folder around it, is one that `storage.list_files` leaves out."""
    return any(part.startswith((".", "_")) for part in name.split("/"))


def tree_tasks(tree: Tree, config: ImagesConfig) -> Iterator[PictureTask]:
    """The tree's pictures in groups."""
    for start in range(0, len(tree.members), TASK_PICTURES):
        members = tree.members[start : start + TASK_PICTURES]
        yield PictureTask(tree.root, members, config.ids, tuple(config.folders))


def picture_rows(task: PictureTask) -> tuple[pa.Table, pa.Table]:
    """(CATALOG_SCHEMA, schema.REJECTED_SCHEMA) of the task's pictures."""
    faults: Faults = {}
    columns = _columns(task, faults)
    count = len(task.members)
    good = np.setdiff1d(np.arange(count), list(faults))
    paths = [task.root + member for member in task.members]
    columns["uri"] = columns["file"] = pa.array(
        [None if index in faults else path for index, path in enumerate(paths)], pa.string()
    )
    columns["row"] = pa.array(np.ones(count, np.int64))
    table = rows.complete(columns, count).take(pa.array(good, pa.int64()))
    return table, _rejected(paths, faults)


def _columns(task: PictureTask, faults: Faults) -> dict[str, pa.Array]:
    """What the paths say, of every picture."""
    stems = [posixpath.splitext(member)[0] for member in task.members]
    ids = stems if task.ids == "path" else [posixpath.basename(stem) for stem in stems]
    for index, member in enumerate(task.members):
        if storage.as_text(task.root + member) != task.root + member:
            faults[index] = rows.BAD_PATH
    columns = {"image_id": CONVERTERS["image_id"](list(ids), faults)}
    named = [_folders(task, member) for member in task.members]
    faults.update((i, rows.TOO_FEW_FOLDERS) for i, found in enumerate(named) if found is None)
    for key in sorted({key for key in task.folders if key is not None}):
        values = [
            [name for of, name in zip(task.folders, found or (), strict=False) if of == key]
            for found in named
        ]
        single = key != "label"
        columns[key] = CONVERTERS[key](
            [(found[0] if found else None) if single else found for found in values], faults
        )
    return columns


def _folders(task: PictureTask, member: str) -> list[str] | None:
    """The names of the nearest folders, as many as there are in `folders`; None for too few."""
    above = member.split("/")[:-1]
    wanted = len(task.folders)
    return above[len(above) - wanted :] if len(above) >= wanted else None


def _rejected(paths: Sequence[str], faults: Faults) -> pa.Table:
    bad = sorted(faults)
    shown = [storage.as_text(paths[index]) for index in bad]
    return pa.table(
        [
            pa.array(shown, pa.string()),
            pa.array(np.ones(len(bad), np.int64)),
            pa.array([faults[index] for index in bad], pa.string()),
            pa.array([path[:MAX_CONTENT] for path in shown], pa.string()),
        ],
        schema=schema.REJECTED_SCHEMA,
    )
