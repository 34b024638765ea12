"""Find the catalog: which files it is, what it holds, and the tasks that read it.

In: `ImagesConfig`. Out: a `Catalog`. Whether it holds pictures or ready features, and of what
length, is found out from its first rows, before any job runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline import storage
from pipeline.config import ImagesConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.examples.catalog import archives, sources
from pipeline.examples.catalog.columns import map_columns
from pipeline.examples.catalog.read import BLOCK_BYTES, BLOCK_ROWS, read_table
from pipeline.examples.catalog.rows import Content
from pipeline.examples.catalog.tasks import TableTask, Task
from pipeline.examples.catalog.trees import (
    PICTURE_EXTENSIONS,
    Tree,
    archive_tree,
    folder_tree,
    is_picture,
    tree_tasks,
)
from pipeline.tables import recognition
from pipeline.tables.files import (
    EXTENSIONS,
    Part,
    TableFile,
    find_tables,
    table_extension,
    table_file,
)
from pipeline.tables.parts import estimate_rows, split_parts

Kind = Literal["folder", "zip", "table"]
PART_ROWS = 16_384  # of a Parquet file that are one task
_FIRST_ROWS = 64


@dataclass(frozen=True)
class Catalog:
    """What `inspect` found.

    inputs: the catalog's own files. skipped_files: files of a folder or an archive that have no
    picture's extension.
    """

    content: Content
    feature_dim: int | None  # None for pictures
    tasks: tuple[Task, ...]
    inputs: tuple[storage.FileInfo, ...]
    skipped_files: int = 0


def inspect(config: ImagesConfig) -> Catalog:
    """Finds the catalog's files and looks at its first rows; errors name what is missing."""
    if config.path is None:
        raise ConfigError(
            "images.path: not set; name a folder or zip archive of pictures, or a table of images"
        )
    found = storage.list_files(config.path)
    if not found:
        raise ImgembedError(f"images.path: no file at {config.path!r}")
    kind = _kind(config, found)
    _check_settings(config, kind)
    if kind == "table":
        return _inspect_tables(config, config.path, found)
    return _inspect_trees(config, config.path, found, kind)


def input_files(config: ImagesConfig) -> list[storage.FileInfo]:
    """Every file that the catalog's content comes from: its own, and those its uris name.

    Of pictures in buckets only the paths are known: a picture that is replaced there under its
    name goes unnoticed. Of pictures in an archive, the archive is the file.
    """
    found = inspect(config)
    files = {info.path: info for info in found.inputs}
    for task in found.tasks:
        if isinstance(task, TableTask):
            for path in _named_files(task):
                if path not in files:
                    files[path] = storage.describe(path)
    return list(files.values())


def _named_files(task: TableTask) -> Iterator[str]:
    """The files, pictures or archives, that a table's uris name."""
    columns = dict(task.columns)
    if "uri" not in columns:
        return
    only = replace(task, columns=(("uri", columns["uri"]),), block_rows=65_536)
    inside = sources.locate(task.root.rstrip("/") + "/.")
    for block in read_table(only):
        for uri in block.table["uri"].drop_null().to_pylist():
            path = sources.resolve(uri, task.root)
            if inside is not None and path.startswith(inside[0] + "/"):
                yield inside[0]
            elif archives.EXTENSION in path.lower() and (place := sources.locate(path)):
                yield place[0]
            else:
                yield path


# What kind of catalog it is -----------------------------------------------------------------------


def _kind(config: ImagesConfig, found: Sequence[storage.FileInfo]) -> Kind:
    if config.format == "folder" or config.format == "zip":
        return config.format
    if config.format != "auto" or any(_is_table(info.path) for info in found):
        return "table"
    if any(is_picture(info.path) for info in found):
        return "folder"
    if any(_is_archive(info) for info in found):
        return "zip"
    if any(info.size and recognition.recognize(info.path)[0] for info in found):
        return "table"
    raise ImgembedError(
        f"images.path: {config.path!r} holds neither a picture ({', '.join(PICTURE_EXTENSIONS)}), "
        f"nor a zip archive, nor a table ({', '.join(EXTENSIONS)}); found {found[0].path!r}"
    )


def _is_table(path: str) -> bool:
    return table_extension(path)[0] in EXTENSIONS


def _is_archive(info: storage.FileInfo) -> bool:
    return info.size > 0 and archives.is_archive(info.path)


def _check_settings(config: ImagesConfig, kind: Kind) -> None:
    """ConfigError for a setting that would be passed over."""
    tree = {"folder": "a folder of pictures", "zip": "a zip archive of pictures"}.get(kind)
    for key, wrong in (
        ("columns", tree and config.columns),
        ("root", tree and config.root),
        ("folders", not tree and config.folders),
        ("ids", not tree and config.ids != "name"),
    ):
        if wrong:
            found = tree or "a table"
            wanted = "a table" if tree else "folders and archives"
            raise ConfigError(
                f"images.{key}: {config.path!r} is {found}; the setting is for {wanted}"
            )
    for name in ("split", "group"):
        if config.folders.count(name) > 1:
            raise ConfigError(f"images.folders: {name!r} stands there twice; it must be one folder")


# Folders and archives -----------------------------------------------------------------------------


def _inspect_trees(
    config: ImagesConfig, path: str, found: Sequence[storage.FileInfo], kind: Kind
) -> Catalog:
    if kind == "folder":
        trees = [folder_tree(path, found)]
        inputs = [info for info in found if is_picture(info.path)]
        skipped = trees[0].skipped
    else:
        inputs = _archives(config, found)
        trees = [archive_tree(info.path) for info in inputs]
        skipped = sum(tree.skipped for tree in trees) + len(found) - len(inputs)
    if not any(tree.members for tree in trees):
        raise ImgembedError(
            f"images.path: {path!r} holds no picture ({', '.join(PICTURE_EXTENSIONS)})"
        )
    return Catalog("image", None, _picture_tasks(config, trees), tuple(inputs), skipped)


def _picture_tasks(config: ImagesConfig, trees: Iterable[Tree]) -> tuple[Task, ...]:
    return tuple(task for tree in trees for task in tree_tasks(tree, config))


def _archives(config: ImagesConfig, found: Sequence[storage.FileInfo]) -> list[storage.FileInfo]:
    """The archives among the files; all where one file is named to be one."""
    if config.format == "zip" and len(found) == 1:
        archives_found = list(found)
    else:
        archives_found = [info for info in found if _is_archive(info)]
    for info in archives_found:
        if not storage.is_local(info.path) and not info.path.lower().endswith(archives.EXTENSION):
            raise ImgembedError(
                f"images.path: {info.path!r} is a zip archive in a bucket; there, its name must "
                f"end in {archives.EXTENSION}"
            )
    return archives_found


# Tables -------------------------------------------------------------------------------------------


def _inspect_tables(config: ImagesConfig, path: str, found: Sequence[storage.FileInfo]) -> Catalog:
    if config.root is not None:
        _check_root(config.root)
    files = _table_files(config, path, found)
    for name in (config.root or "", *(file.path for file in files)):
        _check_text(name)
    tasks = [_task(file, map_columns(file, config.columns), config.root) for file in files]
    content, dim = _first_content(tasks, path)
    return Catalog(
        content,
        dim,
        tuple(part for task in tasks for part in _cut(task, content, dim)),
        tuple(storage.FileInfo(file.path, file.size, file.modified) for file in files),
    )


def _check_text(name: str) -> None:
    """Every row says which file it is of, and where its picture is: in text."""
    if storage.as_text(name) != name:
        raise ImgembedError(f"catalog {name!r}: the path is not UTF-8; rename it")


def _check_root(root: str) -> None:
    if not storage.is_local(root) or os.path.isdir(root):
        return
    inside = sources.locate(root.rstrip("/") + "/.")
    if inside is None:
        raise ConfigError(f"images.root: no folder and no zip archive at {root!r}")
    archives.open_archive(inside[0])


def _table_files(
    config: ImagesConfig, path: str, found: Sequence[storage.FileInfo]
) -> list[TableFile]:
    """The tables; by their first bytes only where no extension tells one: pictures lie beside."""
    if config.format == "auto":
        tables = [table_file(info, "auto") for info in found]
        if any(tables):
            return [file for file in tables if file is not None]
    files = find_tables(path, format=config.format, key="images.path")
    return [file for file in files if not is_picture(file.path)]


def _task(file: TableFile, columns: Mapping[str, str], root: str | None) -> TableTask:
    """All of a file, of which nothing is known yet but its columns."""
    start = os.path.dirname(file.path) if root is None else root
    return TableTask(Part(file), tuple(columns.items()), start, "image", None, _FIRST_ROWS)


def _first_content(tasks: Sequence[TableTask], path: str) -> tuple[Content, int | None]:
    """Ready features where the catalog's first row that can be read has any, else pictures."""
    reason = None
    for task in tasks:
        for block in read_table(task):
            if block.table.num_rows:
                first = block.table.slice(0, 1).to_pylist()[0]
                features = first.get("features")
                return ("image", None) if features is None else ("features", len(features))
            if reason is None and block.rejected.num_rows:
                reason = block.rejected["reason"][0].as_py()
    if reason is not None:
        raise ImgembedError(f"images.path: no row of {path!r} can be read; the first: {reason}")
    raise ImgembedError(f"images.path: {path!r} holds no row")


def _cut(task: TableTask, content: Content, dim: int | None) -> Iterator[TableTask]:
    """The file's parts. What the models will not look at is not read."""
    unused = ("features",) if content == "image" else ("image", "uri")
    columns = tuple((ours, theirs) for ours, theirs in task.columns if ours not in unused)
    rows = _block_rows(task.part.file) if "image" in dict(columns) else BLOCK_ROWS
    for part in split_parts(task.part.file, PART_ROWS):
        yield replace(
            task, part=part, columns=columns, content=content, feature_dim=dim, block_rows=rows
        )


def _block_rows(file: TableFile) -> int:
    """Rows of a block: fewer where the file says that they are large."""
    rows = estimate_rows(file)
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES * rows // max(file.size, 1))) if rows else BLOCK_ROWS
