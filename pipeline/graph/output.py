"""The files of a graph version: edges and nodes, held-out sessions, what the manifest tells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.artifacts import Version
from pipeline.columnar import Joined, JoinShards, Keyed, concatenate
from pipeline.errors import ImgembedError
from pipeline.graph.clicks import NAMED_COLUMNS
from pipeline.graph.edges import finish_file, top_hubs
from pipeline.graph.holdout import holdout_rows
from pipeline.graph.images import IMAGE_SCHEMA, concatenate_images
from pipeline.reading import read_row_groups
from pipeline.writing import write_parquet

EDGES, IMAGES, EVERY, ROWS, PREVIOUS = "edges", "images", "every", "rows", "previous"
# Small findings of a job that its manifest tells; gone when it is written.
WORK_FOLDER = "work"
HUBS_BEFORE, HUBS_AFTER, NEWEST, POPULATION = "hubs_before", "hubs_after", "newest", "population"


@dataclass
class WriteEdges(beam.PTransform):
    """Writes edges and nodes, a file of each for a range of hashes of src.

    Input: {EDGES: (file, edges with `dst_id`), IMAGES: (file, images.IMAGE_SCHEMA)}.
    """

    folder: str
    files: int
    users: bool  # whether the logs tell users; without, nobody counted them
    counted: bool  # whether there are counts; a ready edge list has none
    only_linked: bool  # whether an image without edges is left out, as privacy asks for

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> beam.PCollection[None]:
        empty = [(file, IMAGE_SCHEMA.empty_table()) for file in range(self.files)]
        # A file without rows is written too: a missing one would look like a loss.
        every = inputs[EDGES].pipeline | "EveryFile" >> beam.Create(empty).with_output_types(Keyed)
        return (
            {**inputs, EVERY: every}
            | "EdgesToFiles" >> JoinShards()
            | "WriteEdges" >> beam.MapTuple(self._write)
        )

    def _write(self, file: int, group: Mapping[str, Iterable[pa.Table]]) -> None:
        edges, nodes = finish_file(
            group[EDGES], concatenate_images(group[IMAGES]), only_linked=self.only_linked
        )
        if not self.users:
            edges = _without(edges, "users")
        if not self.counted:
            for name in ("sessions", "strength", "src_sessions", "dst_sessions"):
                edges = _without(edges, name)
            nodes = _without(nodes, "sessions")
        for prefix, table in ((schema.EDGES, edges), (schema.NODES, nodes)):
            name = schema.shard_name(prefix, file, self.files, "parquet")
            write_parquet(storage.join(self.folder, name), table)


def _without(table: pa.Table, name: str) -> pa.Table:
    column = table.column_names.index(name)
    return table.set_column(column, table.field(name), pa.nulls(len(table), table.field(name).type))


@dataclass
class NumberHoldout(beam.PTransform):
    """Held-out rows as the rows of each output file, after those of an earlier run.

    Input: {ROWS: (file, clicks.NAMED_COLUMNS)}. Output: (file, schema.HOLDOUT_SCHEMA).
    """

    files: int
    previous: Sequence[str] = ()

    def expand(self, rows: beam.PCollection[Keyed]) -> beam.PCollection[Keyed]:
        first = 1 + max((_last_session(path) for path in self.previous), default=-1)
        numbered = (
            rows
            | "GatherHeldOut" >> beam.GroupByKey()
            | "Number" >> beam.Map(self._number, first=first).with_output_types(Keyed)
        )
        if not self.previous:
            return numbered
        before = (
            rows.pipeline
            | "PreviousHoldout" >> beam.Create(list(self.previous)).with_output_types(str)
            | "ReadHoldout" >> beam.FlatMap(self._read).with_output_types(Keyed)
        )
        return (numbered, before) | "WithPrevious" >> beam.Flatten()

    def _number(self, element: tuple[int, Iterable[pa.Table]], first: int) -> Keyed:
        file, parts = element
        rows = concatenate(parts).rename_columns(NAMED_COLUMNS)
        return file, holdout_rows(file, rows, files=self.files, first=first)

    def _read(self, path: str) -> Iterator[Keyed]:
        for table in read_row_groups(path):
            for file in range(self.files):
                of_file = pc.equal(
                    pc.subtract(
                        table["session"],
                        pc.multiply(pc.divide(table["session"], self.files), self.files),
                    ),
                    file,
                )
                part = table.filter(of_file)
                if part.num_rows:
                    yield file, part


def _last_session(path: str) -> int:
    with storage.open_arrow(path) as source:
        sessions = pq.read_table(source, columns=["session"])["session"]
    return pc.max(sessions).as_py() if len(sessions) else -1


@dataclass
class WriteFindings(beam.PTransform):
    """Writes what the manifest is to tell of the job's results, as one small JSON file.

    Input: {HUBS_BEFORE, HUBS_AFTER: (0, edges.HUB_SCHEMA), and as far as there are any NEWEST,
    POPULATION: (0, a table of one number)}.
    """

    folder: str

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> beam.PCollection[None]:
        return inputs | "GatherFindings" >> JoinShards() | "WriteFindings" >> beam.Map(self._write)

    def _write(self, element: Joined) -> None:
        _, group = element
        hubs = {kind: top_hubs(group[kind]).to_pylist() for kind in (HUBS_BEFORE, HUBS_AFTER)}
        newest = [value for table in group.get(NEWEST, ()) for value in table[0].to_pylist()]
        people = [value for table in group.get(POPULATION, ()) for value in table[0].to_pylist()]
        content = {**hubs, NEWEST: max(newest, default=None), POPULATION: sum(people)}
        with storage.open_write(_findings_file(self.folder)) as file:
            file.write(json.dumps(content).encode())


def one_number(value: int) -> pa.Table:
    """A table of one number."""
    return pa.table([pa.array([value], pa.int64())], ["value"])


def _findings_file(folder: str) -> str:
    return storage.join(folder, WORK_FOLDER, "findings.json")


def read_findings(folder: str) -> dict[str, Any]:
    """What the job found, by HUBS_BEFORE and so on."""
    with storage.open_read(_findings_file(folder)) as file:
        return json.load(file)


def write_empty(folder: str, prefix: str, files: int, table_schema: pa.Schema) -> None:
    """Files without rows, for what the logs do not have: a missing one would look like a loss."""
    for file in range(files):
        name = schema.shard_name(prefix, file, files, "parquet")
        write_parquet(storage.join(folder, name), table_schema.empty_table())


def write_inputs(folder: str, inputs: Sequence[storage.FileInfo], previous: Iterable[str]) -> None:
    """Notes which logs are counted, with those that an earlier run counted."""
    rows = [
        (storage.as_text(storage.canonical(info.path)), info.size, info.modified) for info in inputs
    ]
    columns = [pa.array(list(column)) for column in zip(*rows, strict=True)]
    tables = [pa.table(columns, schema=schema.INPUT_SCHEMA)]
    for path in previous:
        tables += read_row_groups(path)
    name = schema.shard_name(schema.COUNTED_INPUTS, 0, 1, "parquet")
    write_parquet(storage.join(folder, schema.COUNTS_FOLDER, name), pa.concat_tables(tables))


def write_edges_tsv(folder: str) -> None:
    """All edges as lines of src, dst and weight: what neural-structured-learning reads.

    Ids stand there as they are, so that one that a spreadsheet would run is an ImgembedError.
    """
    edge_files = Version(schema.GRAPH, "", folder, {}).shards(schema.EDGES)
    with storage.open_write(storage.join(folder, schema.EDGES_TSV_FILE)) as file:
        for edge_file in edge_files:
            for edges in read_row_groups(edge_file):
                file.write(_tsv_lines(edges))


def _tsv_lines(edges: pa.Table) -> bytes:
    for name in ("src", "dst"):
        torn = edges.filter(pc.match_substring(edges[name], "\t"))
        if torn.num_rows:
            raise ImgembedError(
                f"graph.edges_tsv: the image id {torn[name][0].as_py()!r} holds a tab"
            )
        runs = edges.filter(pc.match_substring_regex(edges[name], schema.FORMULA))
        if runs.num_rows:
            raise ImgembedError(
                f"graph.edges_tsv: the image id {runs[name][0].as_py()!r} is a formula to a "
                "spreadsheet, which would run it; take it out of the logs, or leave edges_tsv out"
            )
    columns = (edges[name].to_pylist() for name in ("src", "dst", "weight"))
    return "".join(f"{s}\t{d}\t{w!r}\n" for s, d, w in zip(*columns, strict=True)).encode()
