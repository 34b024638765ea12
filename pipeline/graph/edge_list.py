"""A ready edge list in place of the logs: read, checked, and pruned as counted edges are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipeline import ids, limits, progress, runner, schema, storage
from pipeline.artifacts import NewVersion
from pipeline.columnar import Joined, JoinShards, Keyed, concatenate
from pipeline.config import EdgesConfig, GraphConfig, PrivacyConfig
from pipeline.errors import ConfigError, ImgembedError
from pipeline.graph import edges, list_costs, manifest, output, prune
from pipeline.graph.counting import NAMESPACE, Layout
from pipeline.graph.finish import write_graph
from pipeline.graph.images import IMAGE_SCHEMA
from pipeline.graph.names import distinct, split_by, split_sorted
from pipeline.parallel import InThreads, Outcome
from pipeline.parcels import Shipped
from pipeline.sorting import changes, order_by
from pipeline.tables.blocks import Block
from pipeline.tables.files import TableFile, find_tables
from pipeline.tables.names import column_names, map_columns
from pipeline.tables.parts import Part, estimate_rows, read_blocks, split_parts
from pipeline.writing import WriteRejected, check_rejected, check_written, file_count

SRC, DST, WEIGHT = "src", "dst", "weight"
EDGES, NAMES, REJECTED = "edges", "names", "rejected"
ROWS, ROWS_REJECTED, EDGES_READ = "rows", "rows_rejected", "edges_read"
SELF_LOOPS, REPEATED, NOT_POSITIVE = "self_loops", "repeated", "not_positive"
EDGES_LISTED = "edges_listed"
_LIST_SCHEMA = pa.schema([(SRC, pa.uint64()), (DST, pa.uint64()), (WEIGHT, pa.float64())])
_BYTES_A_SHARD = 64 << 20
# Of text, at least; and how many times as much a packed file may hold.
_BYTES_A_ROW, _MOST_PACKED = 24, 5


@dataclass(frozen=True)
class EdgeFile:
    """One file of the list, and what its columns are called: {ours: theirs}."""

    file: TableFile
    columns: dict[str, str]


def find_edge_list(config: EdgesConfig) -> list[EdgeFile]:
    """The files of the list; ImgembedError where they cannot do."""
    assert config.path is not None
    files = [f for f in find_tables(config.path, format=config.format, key="edges.path") if f.size]
    if not files:
        raise ImgembedError(f"edges.path: every file at {config.path!r} is empty")
    return [EdgeFile(file, _columns(file, config)) for file in files]


def _columns(file: TableFile, config: EdgesConfig) -> dict[str, str]:
    columns = map_columns(file, (SRC, DST, WEIGHT), config.columns, key="edges.columns")
    for name in (SRC, DST):
        if name not in columns:
            has = ", ".join(column_names(file)) or "(none)"
            raise ImgembedError(
                f"{file.path}: no column {name}; it has {has}; map it with edges.columns"
            )
    return columns


def build_from_edges(
    *,
    config: EdgesConfig,
    graph: GraphConfig,
    privacy: PrivacyConfig | None = None,
    seed: int,
    shards: int | str,
    threads: int = 1,
    max_memory: int | None = None,
    out: NewVersion,
    make_pipeline: Callable[[], beam.Pipeline],
) -> dict[str, Any]:
    """Runs the job, writes its files into `out`, and returns what its manifest says."""
    _check_settings(graph, privacy or PrivacyConfig())
    files = find_edge_list(config)
    size = sum(file.file.size for file in files)
    layout = layout_of(files, shards, threads, max_memory)
    root = make_pipeline()
    _assemble(root, files, graph, layout, seed, out.path)
    counts = runner.run(root, work=out.file(output.WORK_FOLDER))
    rows = counts.get(f"{NAMESPACE}/{ROWS}", 0)
    rejected = check_rejected(
        out.path,
        rows=rows,
        allowed=config.max_rejected_fraction,
        key="edges.max_rejected_fraction",
    )
    listed = {name: counts.get(f"{NAMESPACE}/{name}", 0) for name in _COUNTED}
    _check(listed, rejected, counts, config, graph)
    check_written(out.path, {schema.EDGES: counts[f"{NAMESPACE}/{edges.EDGES_KEPT}"]})
    content = {
        "inputs": {"files": len(files), "bytes": size, "columns": files[0].columns},
        "counts": {
            "rows": {
                "read": rows,
                "kept": listed[EDGES_LISTED],
                "rejected": listed[ROWS_REJECTED],
                SELF_LOOPS: listed[SELF_LOOPS],
                REPEATED: listed[REPEATED],
                NOT_POSITIVE: listed[NOT_POSITIVE],
            },
            **manifest.graph_counts(counts, graph, listed=listed[EDGES_LISTED]),
        },
        **manifest.hubs(out.path),
        "rejected": rejected,
        "counters": runner.counters_of(counts, NAMESPACE),
    }
    if graph.edges_tsv:
        output.write_edges_tsv(out.path)
    storage.remove_tree(out.file(output.WORK_FOLDER))
    return content


_COUNTED = (ROWS, ROWS_REJECTED, EDGES_READ, SELF_LOOPS, REPEATED, NOT_POSITIVE, EDGES_LISTED)


def _check_settings(graph: GraphConfig, privacy: PrivacyConfig) -> None:
    """ConfigError for a setting that would be passed over."""
    for key, wrong in (
        ("graph.discount", graph.discount != "none"),
        ("graph.min_users", graph.min_users > 1),
        ("graph.min_significance", graph.min_significance is not None),
        ("graph.half_life_days", graph.half_life_days is not None),
        ("graph.keep_counts", graph.keep_counts),
        ("privacy.epsilon", privacy.epsilon is not None),
    ):
        if wrong:
            raise ConfigError(f"{key}: needs counts, and a ready edge list has none")


def _check(
    listed: dict[str, int],
    rejected: dict[str, int],
    counts: dict[str, int],
    config: EdgesConfig,
    graph: GraphConfig,
) -> None:
    """ImgembedError where rows went missing, or where nothing is left."""
    parts = sum(listed[name] for name in (SELF_LOOPS, REPEATED, NOT_POSITIVE, EDGES_LISTED))
    balances = {
        "rejected rows": (listed[ROWS_REJECTED], sum(rejected.values())),
        "rows": (listed[ROWS], listed[ROWS_REJECTED] + listed[EDGES_READ]),
        "edges": (listed[EDGES_READ], parts),
    }
    for what, (before, after) in balances.items():
        if before != after:
            raise ImgembedError(f"{what}: {before:,} were read and {after:,} arrived; run it again")
    if not listed[EDGES_LISTED]:
        raise ImgembedError(
            f"edges.path: no edge of a weight above 0 between two images in {config.path!r} "
            f"({listed[ROWS]:,} rows read)"
        )
    if not counts.get(f"{NAMESPACE}/{edges.EDGES_KEPT}"):
        raise ImgembedError(f"graph: symmetry {graph.symmetry} leaves no edge of the list")


def layout_of(
    files: Sequence[EdgeFile], shards: int | str, threads: int, max_memory: int | None = None
) -> Layout:
    """Into how many parts the work is cut: by size, or as `runner.shards` says.

    max_memory: bytes that it is cut to fit into, by more shards unless their number is given, and
    by fewer threads.
    """
    size = sum(file.file.size for file in files)
    outputs = file_count(size)
    number = shards if isinstance(shards, int) else max(1, size // _BYTES_A_SHARD)
    rows = sum(map(_estimate_rows, files))
    held = list_costs.held(rows, files=outputs)
    number, threads = limits.cut(shards, held, limit=max_memory, shards=number, threads=threads)
    return Layout(shards=-(-number // outputs) * outputs, files=outputs, threads=threads)


def _estimate_rows(file: EdgeFile) -> int:
    """How many rows a file has; where it does not say so, by its bytes, more rather than fewer."""
    rows = estimate_rows(file.file)
    if rows is not None:
        return rows
    packed = 1 if file.file.compression == "none" else _MOST_PACKED
    return packed * file.file.size // _BYTES_A_ROW


def _assemble(
    root: beam.Pipeline,
    files: Sequence[EdgeFile],
    graph: GraphConfig,
    layout: Layout,
    seed: int,
    folder: str,
) -> None:
    rows = root | "ReadEdges" >> ReadEdgeList(files, layout)
    images = {NAMES: rows[NAMES]} | "Images" >> _NameImages(layout)
    listed = {EDGES: rows[EDGES]} | "CheckEdges" >> _CheckEdges(layout)
    findings = write_graph(listed, images, graph, layout, seed, folder, users=False, counted=False)
    _ = findings | "Findings" >> output.WriteFindings(folder)
    output.write_empty(folder, schema.QUERIES, layout.files, schema.QUERY_SCHEMA)
    output.write_empty(folder, schema.HOLDOUT, layout.files, schema.HOLDOUT_SCHEMA)
    _ = rows[REJECTED] | "WriteRejected" >> WriteRejected(folder)


@dataclass
class ReadEdgeList(beam.PTransform):
    """Reads the list.

    Input: the root. Output: {EDGES: (shard of src, hashes of src and dst, weight), NAMES: (shard,
    ids.NAME_SCHEMA), REJECTED: schema.REJECTED_SCHEMA}. Counters: ROWS, ROWS_REJECTED, EDGES_READ.
    """

    files: Sequence[EdgeFile]
    layout: Layout

    def expand(self, root: beam.Pipeline) -> dict[str, beam.PCollection]:
        parts = [(file, part) for file in self.files for part in split_parts(file.file)]
        outputs = {EDGES: Shipped, NAMES: Shipped, REJECTED: pa.Table}
        step = InThreads(self._read, outputs, self.layout.threads, NAMESPACE, unfold=_blocks_of)
        return (
            root
            | "Parts" >> beam.Create(parts)
            | "SpreadParts" >> beam.Reshuffle()
            | "ReadBlocks" >> step
        )

    def _read(self, element: tuple[EdgeFile, Block]) -> Outcome:
        file, block = element
        found, names, rejected = read_edges(file.file.path, block)
        bounds = self.layout.hash_bounds
        outputs: list[tuple[str, Any]] = [(EDGES, k) for k in split_by(found, SRC, bounds)]
        outputs += [(NAMES, keyed) for keyed in split_by(names, "hash", bounds)]
        if rejected.num_rows:
            outputs.append((REJECTED, rejected))
        rows = block.table.num_rows + block.rejected.num_rows
        progress.add("rows", rows)
        counts = {ROWS: rows, ROWS_REJECTED: rejected.num_rows, EDGES_READ: found.num_rows}
        return Outcome(outputs, counts)


def _blocks_of(element: tuple[EdgeFile, Part]) -> Iterator[tuple[EdgeFile, Block]]:
    file, part = element
    for block in read_blocks(part, file.columns):
        yield file, block


def read_edges(path: str, block: Block) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(hashes of src and dst with their weight, ids.NAME_SCHEMA, rejected rows) of a block."""
    rows = block.table
    faults = ids.Faults(rows.num_rows)
    ends = [ids.encoded(rows, name) for name in (SRC, DST)]
    for name, end in zip((SRC, DST), ends, strict=True):
        faults.note(~ids.filled(end, rows.num_rows), f"no {name}")
        ids.check_ids(end, faults.note, name=name)
    weight = _weights(rows, faults)
    good = pa.array(faults.good)
    kept = [end.filter(good) for end in ends]
    hashes = [ids.hash_codes(end, ids.IMAGE_SALT) for end in kept]
    table = pa.table([*hashes, pa.array(weight[faults.good])], schema=_LIST_SCHEMA)
    names = distinct([ids.names_of(end, ids.IMAGE_SALT) for end in kept])
    return table, names, pa.concat_tables([block.rejected, faults.rejected(path, block)])


def _weights(rows: pa.Table, faults: ids.Faults) -> np.ndarray:
    """[rows] float64, 1 where the list has none; text that is no finite number is noted."""
    if WEIGHT not in rows.column_names:
        return np.ones(rows.num_rows)
    column = rows[WEIGHT].combine_chunks()
    kind = column.type
    if _is_text(column):
        weight = pa.array([_number(value) for value in column.to_pylist()], pa.float64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        weight = column.cast(pa.float64(), safe=False)
    else:
        weight = pa.nulls(len(column), pa.float64())
    numbers = weight.to_numpy(zero_copy_only=False).astype(np.float64)
    faults.note(~np.isfinite(numbers), f"bad {WEIGHT}")
    return np.where(np.isfinite(numbers), numbers, 0.0)


def _is_text(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_null(column.type))


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


@dataclass
class _NameImages(beam.PTransform):
    """Ids of both ends as images without counts.

    Input: {NAMES: (shard, ids.NAME_SCHEMA)}. Output: {edges.IMAGES: (shard, IMAGE_SCHEMA),
    edges.OF_FILES: (file, IMAGE_SCHEMA)}.
    """

    layout: Layout

    def expand(self, inputs: dict[str, beam.PCollection[Keyed]]) -> dict[str, beam.PCollection]:
        outputs = {edges.IMAGES: Shipped, edges.OF_FILES: Shipped}
        step = InThreads(self._name, outputs, self.layout.threads, NAMESPACE)
        return inputs | "GatherNames" >> JoinShards() | "NameImages" >> step

    def _name(self, element: Joined) -> Outcome:
        shard, group = element
        names = distinct(group[NAMES])
        columns = [names["hash"], names["text"], np.zeros(names.num_rows, np.int64)]
        images = pa.table(columns, schema=IMAGE_SCHEMA)
        outputs: list[tuple[str, Any]] = [(edges.IMAGES, (shard, images))]
        keyed = split_sorted(images, "image", self.layout.file_bounds)
        return Outcome(outputs + [(edges.OF_FILES, part) for part in keyed])


@dataclass
class _CheckEdges(beam.PTransform):
    """Each edge once, of a weight above 0, between two images.

    Input: {EDGES: (shard of src, hashes of src and dst, weight)}. Output: (shard,
    prune.EDGE_SCHEMA), of dst. Counters: SELF_LOOPS, REPEATED, NOT_POSITIVE, EDGES_LISTED.
    """

    layout: Layout

    def expand(self, inputs: dict[str, beam.PCollection[Keyed]]) -> beam.PCollection[Keyed]:
        step = InThreads(self._check, {EDGES: Shipped}, self.layout.threads, NAMESPACE)
        return (inputs | "GatherEdges" >> JoinShards() | "Check" >> step)[EDGES]

    def _check(self, element: Joined) -> Outcome:
        _, group = element
        table, counts = check_edges(concatenate(group[EDGES]))
        keyed = split_by(table, DST, self.layout.hash_bounds)
        return Outcome([(EDGES, part) for part in keyed], counts)


def check_edges(listed: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """(prune.EDGE_SCHEMA, how many of the list each step took); of repeated edges the heaviest."""
    src, dst, weight = (listed[name].to_numpy() for name in _LIST_SCHEMA.names)
    real = src != dst
    src, dst, weight = src[real], dst[real], weight[real]
    order = order_by(src, dst, prune.falling(weight))
    first = changes(src[order]) | changes(dst[order])
    order = order[first]
    positive = order[weight[order] > 0]
    counts = {
        SELF_LOOPS: int((~real).sum()),
        REPEATED: int((~first).sum()),
        NOT_POSITIVE: len(order) - len(positive),
        EDGES_LISTED: len(positive),
    }
    given = {SRC: src[positive], DST: dst[positive], WEIGHT: weight[positive]}
    columns = [
        given.get(field.name, pa.nulls(len(positive), field.type)) for field in prune.EDGE_SCHEMA
    ]
    return pa.table(columns, schema=prune.EDGE_SCHEMA), counts
