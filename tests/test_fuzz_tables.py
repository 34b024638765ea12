"""Logs, catalogs, edge lists and judgments as strangers write them: refused in words, or every row
of them is kept or rejected."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fuzzing import answer, cases
from hypothesis import given
from hypothesis import strategies as st
from malformed_tables import Written, files

from pipeline import schema
from pipeline.config import EdgesConfig, ImagesConfig, SessionsConfig
from pipeline.examples.catalog.find import input_files, inspect
from pipeline.examples.catalog.read import read_task
from pipeline.examples.catalog.tasks import TableTask
from pipeline.examples.decoding import PictureSettings
from pipeline.examples.prepare import prepare_block
from pipeline.graph.edge_list import check_edges, find_edge_list, read_edges
from pipeline.judgments import read_judgments
from pipeline.sessions import events, read
from pipeline.tables.parts import read_blocks, split_parts

LOG = ("image_id", "session_id", "user_id", "timestamp", "query", "action", "position", "items")
CATALOG = ("image_id", "uri", "label", "text", "split", "group", "features")
EMBEDDED = ("image_id", "image", "label")
EDGES = ("src", "dst", "weight")
JUDGMENTS = ("query", "image_id", "grade")
NO_BOUNDS = np.zeros(0, np.uint64)
PICTURES = PictureSettings(image_size=8, max_pixels=10_000, max_seconds=5.0, encoding="png")


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def put(folder: Path, written: Written) -> Path:
    """The file in a folder of its own, in which no other case's lies."""
    own = Path(tempfile.mkdtemp(dir=folder))
    path = own / written.name
    path.write_bytes(written.data)
    return path


def check_rows(written: Written, kept: list[int], rejected: pa.Table) -> None:
    """Each row is kept or rejected, once, and rejected ones say why."""
    numbers = kept + rejected["row"].to_pylist()
    assert len(numbers) == len(set(numbers))
    if written.rows is not None:
        assert set(numbers) == written.rows
    assert all(reason.strip() for reason in rejected["reason"].to_pylist())
    assert rejected.schema == schema.REJECTED_SCHEMA
    rejected.validate(full=True)


@cases(280)
@given(files(LOG), st.sampled_from((None, "|", ",")))
def test_a_log_is_refused_in_words_or_each_row_is_kept_or_rejected(folder, written, separator):
    path = put(folder, written)
    found = answer(lambda: read_log(path, separator))
    if found is not None:
        kept, rejected, ids, columns = found
        check_rows(written, kept, rejected)
        if set(columns) >= {"image_id", "session_id"} and columns["image_id"] == "image_id":
            assert written.good <= ids


def read_log(path, separator):
    config = SessionsConfig(path=str(path), items_separator=separator, actions={"click": 2.0})
    logs = read.find_logs(config)
    (log,) = logs.files
    assert read.describe(log)
    assert read.estimate_events(log) >= 0
    reading = read.Reading(b"k" * 16, 0, separator, config.actions, 3, NO_BOUNDS)
    kept, tables, ids = [], [schema.REJECTED_SCHEMA.empty_table()], set()
    for part in read.log_parts(logs.files):
        for element in read.blocks_of(part):
            block = element[1]
            outcome = read.read_block(element, reading)
            rejected = [table for tag, table in outcome.outputs if tag == read.REJECTED]
            tables += rejected
            bad = {row for table in rejected for row in table["row"].to_pylist()}
            good = [row for row in block.row_numbers.tolist() if row not in bad]
            kept += good
            counts = outcome.counts
            assert counts[read.ROWS] == len(good) + counts[read.ROWS_REJECTED]
            assert 0 <= counts[read.ROWS_EMPTY] <= len(good)
            if not log.whole_sessions:
                assert counts[read.EVENTS_READ] == len(good)
            for tag, (_, table) in outcome.outputs if not rejected else outcome.outputs[:-1]:
                table.validate(full=True)
                if tag == read.IMAGES:
                    ids |= set(table["text"].to_pylist())
                if tag == read.EVENTS:
                    assert set(table.schema.names) <= set(events.EVENT_SCHEMA.names)
    return kept, pa.concat_tables(tables), ids, log.columns


@cases(200)
@given(files(CATALOG) | files(CATALOG) | files(EMBEDDED))
def test_a_catalog_is_refused_in_words_or_each_row_is_kept_or_rejected(folder, written):
    path = put(folder, written)
    config = ImagesConfig(path=str(path), root=str(path.parent))
    found = answer(lambda: read_catalog(config))
    if found is not None:
        kept, rejected = found
        check_rows(written, kept, rejected)
    answer(lambda: input_files(config))


def read_catalog(config):
    tasks = inspect(config).tasks
    assert all(isinstance(task, TableTask) for task in tasks)
    kept, tables = [], [schema.REJECTED_SCHEMA.empty_table()]
    for task in tasks:
        for block in read_task(task):
            block.table.validate(full=True)
            outcome = prepare_block(block, settings=PICTURES)
            images = [table for tag, table in outcome.outputs if tag == "images"]
            kept += [row for table in images for row in table["row"].to_pylist()]
            tables += [table for tag, table in outcome.outputs if tag == "rejected"]
            assert outcome.counts["rows"] == block.table.num_rows + block.rejected.num_rows
    return kept, pa.concat_tables(tables)


@cases(120)
@given(files(EDGES))
def test_an_edge_list_is_refused_in_words_or_each_row_is_kept_or_rejected(folder, written):
    path = put(folder, written)
    found = answer(lambda: read_edge_list(path))
    if found is not None:
        check_rows(written, *found)


def read_edge_list(path):
    kept, tables = [], [schema.REJECTED_SCHEMA.empty_table()]
    for file in find_edge_list(EdgesConfig(path=str(path))):
        for part in split_parts(file.file):
            for block in read_blocks(part, file.columns):
                edges, names, rejected = read_edges(str(path), block)
                bad = set(rejected["row"].to_pylist())
                good = [row for row in block.row_numbers.tolist() if row not in bad]
                assert edges.num_rows == len(good)
                assert np.isfinite(edges["weight"].to_numpy()).all()
                names.validate(full=True)
                listed, counts = check_edges(edges)
                assert sum(counts.values()) == len(good)
                assert (listed["weight"].to_numpy() > 0).all()
                kept += good
                tables.append(rejected)
    return kept, pa.concat_tables(tables)


@cases(60)
@given(files(JUDGMENTS, needed=3))
def test_judgments_are_refused_in_words_or_read_row_for_row(folder, written):
    path = put(folder, written)
    found = answer(lambda: read_judgments(str(path), format="auto", columns={}))
    if found is not None and written.rows is not None:
        assert found.num_rows == len(written.rows)
        assert np.isfinite(found["grade"].to_numpy()).all()
        assert all(text.strip() for text in found["query"].to_pylist())
