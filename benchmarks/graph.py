"""Claim: build-graph makes the co-occurrence graph as fast as a database, in memory that is linear.

Generates a log (seeded, kept in the work folder), runs imgembed and its competitors on the same two
cores, each in a process of its own, compares what they wrote edge by edge, and prints what each
took. Edges that disagree are an error. The figures also go to WORK.json.

    python benchmarks/graph.py --work /tmp/graph-benchmark [--scale 1] [--repeat 3] [--variants]

The log at scale 1: 2,000,000 sessions of 400,000 users, 12 million events sorted by time, 200,000
images in 2,000 topics. A session draws from one topic by Zipf's law; a tenth of its clicks land
anywhere. Topics, images and users grow with the scale, so that sessions per image and pairs per
event are alike at every size.

The competitors:
    imgembed        the command that a user types
    duckdb          the same job as one SQL statement
    duckdb, hashed  the same, tuned: ids are 64-bit hashes until the edges are written
    duckdb, lean    without what the job does beyond counting: bots, first 50 images, users
    scipy           X'X of the sparse matrix of sessions and images; bots, but no users
    beam            the textbook pipeline of single pairs, counts only, on a tenth of the log
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from measuring import Run, describe_machine, made_once, take_turns, use_cores

# What a log of scale 1 holds.
SESSIONS, TOPICS, IMAGES_OF_TOPIC, SESSIONS_OF_USER = 2_000_000, 2_000, 100, 5
NOISE = 0.1  # share of the clicks that land on any image
DAYS, PAUSE_MS = 30, 7_000
FIRST_MS = 1_700_000_000_000
ROW_GROUP = 1_000_000
LOG_VERSION = 1  # in the file's name: a log of an older generator is not taken for this one's

# What every competitor is asked for.
MAX_EVENTS, MAX_IMAGES, MIN_SESSIONS, TOP_K = 500, 50, 2, 10

CORES = 2
PACKAGES = ("apache-beam", "duckdb", "numpy", "pyarrow", "scipy")
TOLERANCE = 1e-9  # relative difference of weights
BEAM_SHARE = 0.1  # of the log; on the whole of it the textbook pipeline runs out of memory

# ---------------------------------------------------------------------------------------------
# The log
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """Which log: its size, and what is unusual about it.

    kind: "ordinary"; "hub", where one image stands in half of all sessions; "giant", where one
    session holds a twelfth of all events (a million at scale 1). All have as many events.
    """

    scale: float
    seed: int
    kind: str = "ordinary"

    @property
    def sessions(self) -> int:
        # 6 events a session on average; 6.5 with the hub; 11 of 12 events beside the giant.
        share = {"ordinary": 1.0, "hub": 6 / 6.5, "giant": 11 / 12}[self.kind]
        return round(SESSIONS * self.scale * share)

    @property
    def images(self) -> int:
        return round(TOPICS * self.scale) * IMAGES_OF_TOPIC

    def file(self, work: Path) -> Path:
        """Its file in the work folder; generated where it is not there yet."""
        name = f"log{LOG_VERSION}-{self.kind}-x{self.scale:g}-seed{self.seed}.parquet"
        return made_once(work / name, lambda unfinished: write_log(unfinished, self))


def write_log(path: Path, log: Log) -> None:
    """Writes the log as Parquet, one million rows a row group."""
    session, user, moment, image = draw_events(log)
    names = pa.array([f"img-{number:06d}" for number in range(log.images)])
    columns = {"session_id": pa.string(), "user_id": pa.string()}
    columns |= {"timestamp": pa.int64(), "image_id": pa.string()}
    with pq.ParquetWriter(path, pa.schema(columns.items())) as file:
        for begin in range(0, len(session), ROW_GROUP):
            rows = slice(begin, begin + ROW_GROUP)
            table = {
                "session_id": numbered("s", session[rows]),
                "user_id": numbered("u", user[rows]),
                "timestamp": moment[rows],
                "image_id": names.take(pa.array(image[rows])),
            }
            file.write_table(pa.table(table))


def numbered(prefix: str, numbers: np.ndarray) -> pa.Array:
    """[rows] string: the prefix and the number."""
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def draw_events(log: Log) -> tuple[np.ndarray, ...]:
    """(session, user, time in ms, image), each [events] int64, sorted by time as real logs are."""
    draw = np.random.default_rng(log.seed)
    sizes = draw.poisson(5, log.sessions) + 1
    with_hub = draw.random(log.sessions) < (0.5 if log.kind == "hub" else 0.0)
    sizes += with_hub
    first = np.cumsum(sizes) - sizes
    image = draw_images(draw, sizes, log.images)
    image[first[with_hub]] = 0
    users = log.sessions // SESSIONS_OF_USER
    start = FIRST_MS + draw.integers(0, DAYS * 86_400_000, log.sessions)
    session = np.repeat(np.arange(log.sessions), sizes)
    moment = start[session] + (np.arange(len(session)) - first[session]) * PAUSE_MS
    events = [session, draw.integers(0, users, log.sessions)[session], moment, image]
    if log.kind == "giant":
        giant = draw_giant(draw, log, users)
        events = [np.concatenate(pair) for pair in zip(events, giant, strict=True)]
    order = np.argsort(events[2], kind="stable")
    return tuple(column[order] for column in events)


def draw_images(draw: np.random.Generator, sizes: np.ndarray, images: int) -> np.ndarray:
    """[events] int64: clicks within the session's topic by Zipf's law, a tenth of them anywhere."""
    topic = draw.integers(0, images // IMAGES_OF_TOPIC, len(sizes))
    shares = np.cumsum(1 / np.arange(1, IMAGES_OF_TOPIC + 1))
    clicks = int(sizes.sum())
    place = np.searchsorted(shares / shares[-1], draw.random(clicks))
    image = np.repeat(topic, sizes) * IMAGES_OF_TOPIC + np.minimum(place, IMAGES_OF_TOPIC - 1)
    anywhere = draw.random(clicks) < NOISE
    return np.where(anywhere, draw.integers(0, images, clicks), image)


def draw_giant(draw: np.random.Generator, log: Log, user: int) -> tuple[np.ndarray, ...]:
    """The events of one session, of a user of its own, that clicks all month on anything."""
    events = round(SESSIONS * log.scale / 2)
    moment = FIRST_MS + np.arange(events) * (DAYS * 86_400_000 // events)
    image = draw.integers(0, log.images, events)
    return np.full(events, log.sessions), np.full(events, user), moment, image


# ---------------------------------------------------------------------------------------------
# The competitors. Each reads a log and writes into a folder; each runs in a process of its own.
# ---------------------------------------------------------------------------------------------

# Session ids are unique in this log, and the database may use that: imgembed may not, and takes
# (user_id, session_id). The window runs only over sessions that are too long: over all of them it
# takes a tenth more time and half as much memory again.
FULL_VISITS_SQL = """
  events as (
    select {key}(session_id) as session_id, {key}(user_id) as user_id,
      {key}(image_id) as image_id, min(timestamp) as moment, count(*) as clicks
    from read_parquet('{log}') group by 1, 2, 3),
  lengths as (
    select session_id, sum(clicks) as events, count(*) as images from events group by session_id),
  short as (
    select session_id from lengths where events <= {max_events} and images <= {max_images}),
  long as (
    select session_id from lengths where events <= {max_events} and images > {max_images}),
  visits as (
    select session_id, user_id, image_id from events semi join short using (session_id)
    union all
    select session_id, user_id, image_id from events semi join long using (session_id)
    qualify row_number() over (partition by session_id order by moment) <= {max_images}),"""
LEAN_VISITS_SQL = """
  visits as (select distinct session_id, image_id from read_parquet('{log}')),"""
GRAPH_SQL = """
copy (
  with {visits}
  images as (select image_id, count(*) as sessions from visits group by image_id),
  population as (select count(distinct session_id)::double as n from visits),
  pairs as (
    select a.image_id as src, b.image_id as dst, count(*) as sessions, {users} as users
    from visits a join visits b
      on a.session_id = b.session_id and a.image_id < b.image_id
    group by 1, 2 having count(*) >= {min_sessions}),
  both_ways as (
    select src, dst, sessions, users from pairs
    union all select dst, src, sessions, users from pairs),
  tables as (
    select src, dst, p.sessions, users, i.sessions as src_sessions, j.sessions as dst_sessions,
      p.sessions::double as c, i.sessions::double as ni, j.sessions::double as nj, n
    from both_ways p join images i on src = i.image_id join images j on dst = j.image_id,
      population),
  weighed as (
    select *, case when c < ni * nj / n then -2 else 2 end * (
        c * ln(c * n / (ni * nj))
        + case when ni > c then (ni - c) * ln((ni - c) * n / (ni * (n - nj))) else 0 end
        + case when nj > c then (nj - c) * ln((nj - c) * n / ((n - ni) * nj)) else 0 end
        + case when n > ni + nj - c
          then (n - ni - nj + c) * ln((n - ni - nj + c) * n / ((n - ni) * (n - nj))) else 0 end
      ) as weight
    from tables),
  strongest as (
    select src, dst, row_number() over (partition by src order by weight desc)::integer as rank,
      weight, sessions, users, src_sessions, dst_sessions
    from weighed where weight > 0 qualify rank <= {top_k})
  {edges} order by src, rank
) to '{out}/edges.parquet' (format parquet, compression zstd)"""


# Hashes back to ids, for the edges that are left.
NAMED_EDGES_SQL = """
  , names as (select hash(image_id) as image, any_value(image_id) as id
    from read_parquet('{log}') group by 1)
  select i.id as src, j.id as dst, e.* exclude (src, dst)
  from strongest e join names i on e.src = i.image join names j on e.dst = j.image"""


def run_duckdb(log: str, out: str) -> None:
    """The whole job in the database, as one would write it."""
    run_sql(FULL_VISITS_SQL, log, out)


def run_duckdb_hashed(log: str, out: str) -> None:
    """The same, tuned: ids are joined and grouped as 64-bit hashes, as imgembed does it."""
    run_sql(FULL_VISITS_SQL, log, out, key="hash", edges=NAMED_EDGES_SQL)


def run_duckdb_lean(log: str, out: str) -> None:
    """What the database takes when it is asked for less."""
    run_sql(LEAN_VISITS_SQL, log, out, users="null::bigint")


def run_sql(
    visits: str,
    log: str,
    out: str,
    *,
    users: str = "count(distinct a.user_id)",
    key: str = "",
    edges: str = "from strongest",
) -> None:
    """Runs the statement with the parts that differ."""
    limits = {"max_events": MAX_EVENTS, "max_images": MAX_IMAGES}
    statement = GRAPH_SQL.format(
        visits=visits.format(log=log, key=key, **limits),
        users=users,
        edges=edges.format(log=log),
        min_sessions=MIN_SESSIONS,
        top_k=TOP_K,
        out=out,
    )
    database = duckdb.connect()
    database.execute(f"set threads = {CORES}")
    database.execute("set preserve_insertion_order = false")  # the order asked for is kept
    database.execute(statement)


def run_scipy(log: str, out: str) -> None:
    """X'X in blocks of columns, so that pairs below the threshold never stand together."""
    matrix, names = session_matrix(log)
    counts = np.diff(matrix.tocsc().indptr)
    population = int((np.diff(matrix.indptr) > 0).sum())
    transposed = matrix.T.tocsr()
    step = max(1, len(names) // 20)
    blocks = [
        strongest_of_block(transposed, matrix, counts, population, slice(begin, begin + step))
        for begin in range(0, len(names), step)
    ]
    table = pa.concat_tables(blocks)
    for place, name in enumerate(("src", "dst")):
        table = table.set_column(place, name, names.take(table[name].combine_chunks()))
    table = table.sort_by([("src", "ascending"), ("rank", "ascending")])
    pq.write_table(table, f"{out}/edges.parquet", compression="zstd")


def session_matrix(log: str) -> tuple[Any, pa.Array]:
    """(X [sessions, images] of 0 and 1 int32 without bots, the images' ids)."""
    from scipy import sparse

    columns = ["session_id", "image_id"]
    # The reader keeps Parquet's own dictionaries: three times as fast as encoding strings.
    table = pq.read_table(log, columns=columns, read_dictionary=columns).unify_dictionaries()
    coded = [table[name].combine_chunks() for name in columns]
    session, image = (column.indices.to_numpy().astype(np.int32) for column in coded)
    human = (np.bincount(session) <= MAX_EVENTS)[session]
    session, image = session[human], image[human]
    shape = tuple(len(column.dictionary) for column in coded)
    ones = np.ones(len(session), np.int32)
    matrix = sparse.coo_array((ones, (session, image)), shape=shape).tocsr()
    matrix.data[:] = 1  # an image counts once a session
    if np.diff(matrix.indptr).max() > MAX_IMAGES:
        raise SystemExit("scipy: a session has more images than count; it does not cut them")
    return matrix, coded[1].dictionary


def strongest_of_block(
    transposed: Any, matrix: Any, counts: np.ndarray, population: int, rows: slice
) -> pa.Table:
    """The edges of the images in `rows`, with codes for ids."""
    pairs = (transposed[rows] @ matrix).tocoo()
    src, dst = pairs.coords
    src = src + rows.start
    kept = (pairs.data >= MIN_SESSIONS) & (src != dst)
    src, dst, sessions = src[kept], dst[kept], pairs.data[kept].astype(np.int64)
    weight = llr(sessions, counts[src], counts[dst], population)
    order = np.lexsort((-weight, src))
    order = order[weight[order] > 0]
    rank = rank_in_groups(src[order])
    order, rank = order[rank <= TOP_K], rank[rank <= TOP_K]
    columns = {"src": src[order], "dst": dst[order], "rank": rank, "weight": weight[order]}
    columns |= {"sessions": sessions[order], "users": pa.nulls(len(order), pa.int64())}
    columns |= {"src_sessions": counts[src[order]], "dst_sessions": counts[dst[order]]}
    return pa.table(columns)


def llr(c: np.ndarray, ni: np.ndarray, nj: np.ndarray, population: int) -> np.ndarray:
    """[pairs] float64: the signed log-likelihood ratio, by x ln x as scipy has it."""
    from scipy.special import xlogy

    n = float(population)
    ni, nj = ni.astype(np.float64), nj.astype(np.float64)
    ratio = xlogy(c, c * n / (ni * nj))
    ratio += xlogy(ni - c, (ni - c) * n / (ni * (n - nj)))
    ratio += xlogy(nj - c, (nj - c) * n / ((n - ni) * nj))
    ratio += xlogy(n - ni - nj + c, (n - ni - nj + c) * n / ((n - ni) * (n - nj)))
    return np.where(c < ni * nj / n, -2.0, 2.0) * ratio


def rank_in_groups(group: np.ndarray) -> np.ndarray:
    """[rows] int32: the place within its group of each row of sorted groups, from 1 on."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(starts, len(group)))
    return (np.arange(len(group)) - np.repeat(starts, sizes) + 1).astype(np.int32)


def run_beam(log: str, out: str) -> None:
    """What a tutorial would write: sessions grouped, every pair an element. Counts, no weights."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    columns = ["session_id", "image_id"]
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as root:
        _ = (
            root
            | "Read" >> beam.io.ReadFromParquet(log, columns=columns)
            | "Key" >> beam.Map(lambda row: (row["session_id"], row["image_id"]))
            | "GroupSessions" >> beam.GroupByKey()
            | "Pairs" >> beam.FlatMap(pairs_of_session)
            | "Count" >> beam.combiners.Count.PerElement()
            | "KeepFrequent" >> beam.Filter(lambda counted: counted[1] >= MIN_SESSIONS)
            | "Format" >> beam.Map(lambda counted: "\t".join([*counted[0], str(counted[1])]))
            | "Write" >> beam.io.WriteToText(f"{out}/pairs", file_name_suffix=".tsv")
        )


def pairs_of_session(session: tuple[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """Every pair of the session's images, the smaller id first."""
    return itertools.combinations(sorted(set(session[1])), 2)


RUNS: Mapping[str, Callable[[str, str], None]] = {
    "duckdb": run_duckdb,
    "duckdb, hashed": run_duckdb_hashed,
    "duckdb, lean": run_duckdb_lean,
    "scipy": run_scipy,
    "beam": run_beam,
}


EDGE_WRITERS = ("duckdb", "duckdb, hashed", "duckdb, lean", "scipy")  # beam writes pairs


def command_of(name: str, log: Path, out: Path, sets: Sequence[str] = ()) -> list[str]:
    """The command line that runs a competitor. sets: further settings of imgembed."""
    if name != "imgembed":
        return [sys.executable, __file__, "--run", name, str(log), str(out)]
    settings = ["holdout.fraction=0", "graph.measure=llr", f"graph.min_sessions={MIN_SESSIONS}"]
    settings += [f"graph.top_k={TOP_K}", *sets]
    program = Path(sys.executable).with_name("imgembed")
    paths = ["--sessions", str(log), "--run-dir", str(out / "run")]
    options = [word for setting in settings for word in ("--set", setting)]
    return [str(program), "build-graph", *paths, "--quiet", *options]


# ---------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """What a run took; `cpu` and `peak` are those of the whole process tree."""

    events: int
    wall: float  # seconds
    cpu: float  # seconds, user and system
    peak: float  # bytes of resident memory; what processes share counts in each

    @property
    def events_per_second(self) -> float:
        return self.events / self.wall

    def to_json(self) -> dict[str, float]:
        return asdict(self) | {"events_per_second": self.events_per_second}


def measure_all(runs: Mapping[str, tuple[list[str], Path, Path]], repeat: int) -> dict[str, Any]:
    """The median Measurement of each of {name: (command, log, out)}."""
    programs = {name: Run(command, out, [log]) for name, (command, log, out) in runs.items()}
    events = {name: pq.read_metadata(log).num_rows for name, (_, log, _) in runs.items()}
    return {
        name: Measurement(events[name], used.wall, used.cpu, used.peak)
        for name, used in take_turns(programs, repeat).items()
    }


# ---------------------------------------------------------------------------------------------
# Comparing what was written
# ---------------------------------------------------------------------------------------------

# {close} says that two weights are the same but for rounding; null where one of them is missing.
DIFFERENCES_SQL = {
    "edges with other counts or weights": """
      select * from ours join theirs t using (src, dst)
      where not ({close}) or ours.sessions != t.sessions or ours.users != t.users
        or ours.src_sessions != t.src_sessions or ours.dst_sessions != t.dst_sessions""",
    "ranks of other weight": """
      select * from ours full join theirs t using (src, rank) where ({close}) is not true""",
    # Both keep the same weights at all ranks by now, so only ties at the last rank may differ.
    "edges that the other lacks, without a tie": """
      select ours.* from ours anti join theirs using (src, dst)
      join last t using (src) where not ({close}) or t.rank < {top_k}""",
}


def compare(ours: Sequence[str], theirs: str) -> list[str]:
    """How two sets of edge files differ: one line a kind of difference, with an example."""
    database = duckdb.connect()
    database.execute(f"set threads = {CORES}")
    database.execute(f"create view ours as from read_parquet({list(ours)!r})")
    database.execute(f"create view theirs as from read_parquet('{theirs}')")
    database.execute("create view last as select src, min(weight) weight, max(rank) rank "
                     "from theirs group by src")  # fmt: skip
    close = f"abs(ours.weight - t.weight) <= {TOLERANCE} * t.weight"
    found = []
    for what, query in DIFFERENCES_SQL.items():
        query = query.format(close=close, top_k=TOP_K)
        number = database.execute(f"select count(*) from ({query})").fetchall()[0][0]
        if number:
            example = database.execute(f"{query} limit 1").fetchall()[0]
            found.append(f"{number:,} {what}, such as {example}")
    return found


def compare_pairs(log: Path, pairs: str) -> list[str]:
    """How the textbook pipeline's counts differ from the database's."""
    database = duckdb.connect()
    database.execute(f"set threads = {CORES}")
    number = database.execute(f"""
      with visits as (select distinct session_id, image_id from read_parquet('{log}')),
      ours as (
        select a.image_id as src, b.image_id as dst, count(*) as sessions
        from visits a join visits b on a.session_id = b.session_id and a.image_id < b.image_id
        group by 1, 2 having count(*) >= {MIN_SESSIONS}),
      theirs as (
        from read_csv('{pairs}', delim = '\t', header = false,
          columns = {{'src': 'text', 'dst': 'text', 'sessions': 'bigint'}}))
      select count(*) from ours full join theirs using (src, dst, sessions)
      where ours.src is null or theirs.src is null""").fetchall()[0][0]
    return [f"{number:,} pairs with other counts"] if number else []


def edge_files(out: Path) -> list[str]:
    """The edges that imgembed wrote."""
    version = (out / "run" / "graph" / "CURRENT").read_text().strip()
    return [str(path) for path in sorted((out / "run" / "graph" / version).glob("edges-*"))]


def check_agreement(outs: Mapping[str, Path], beam_log: Path) -> int:
    """How many edges all agree on; SystemExit with every disagreement."""
    ours = edge_files(outs["imgembed"])
    problems = {name: compare(ours, str(outs[name] / "edges.parquet")) for name in EDGE_WRITERS}
    problems["beam"] = compare_pairs(beam_log, str(outs["beam"] / "pairs*"))
    lines = [f"{name}: {problem}" for name, found in problems.items() for problem in found]
    if lines:
        raise SystemExit("the results disagree\n" + "\n".join(lines))
    return sum(pq.read_metadata(path).num_rows for path in ours)


# ---------------------------------------------------------------------------------------------
# The benchmark
# ---------------------------------------------------------------------------------------------


def run_competitors(work: Path, scale: float, seed: int, repeat: int) -> dict[str, Any]:
    """Runs, checks and prints all competitors on the ordinary log."""
    log, tenth = (Log(size, seed).file(work) for size in (scale, scale * BEAM_SHARE))
    logs = {name: tenth if name == "beam" else log for name in ("imgembed", *RUNS)}
    outs = {name: out_folder(work, name) for name in logs}
    runs = {
        name: (command_of(name, path, outs[name]), path, outs[name]) for name, path in logs.items()
    }
    measured = measure_all(runs, repeat)
    edges = check_agreement(outs, tenth)
    print(f"\nAll agree on {edges:,} edges: counts, weights and ranks.\n")
    print_table(measured)
    ours = measured["imgembed"]
    ratios = {
        f"wall of imgembed / {name}": ours.wall / measured[name].wall for name in EDGE_WRITERS
    }
    ratios["events/s of imgembed / beam"] = (
        ours.events_per_second / measured["beam"].events_per_second
    )
    print_ratios(ratios)
    return {"edges": edges, "runs": to_json(measured), "ratios": ratios}


def out_folder(work: Path, name: str) -> Path:
    """Where a run called `name` writes."""
    return work / f"out-{name.replace(', ', '-').replace(' ', '')}"


def run_variants(work: Path, scale: float, seed: int, repeat: int) -> dict[str, Any]:
    """imgembed on unusual logs and on larger ones, against the ordinary log."""
    logs = {"ordinary": Log(scale, seed)}
    logs |= {kind: Log(scale, seed, kind) for kind in ("hub", "giant")}
    logs |= {"giant, kept": logs["giant"]}
    logs |= {f"{factor} x": Log(scale * factor, seed) for factor in (2, 4)}
    # The giant is a bot by default; with this it is one, very long, session.
    sets = {"giant, kept": ["sessions.max_events=1000000000"]}
    runs = {}
    for name, log in logs.items():
        path, out = log.file(work), out_folder(work, name)
        runs[name] = (command_of("imgembed", path, out, sets.get(name, ())), path, out)
    measured = measure_all(runs, repeat)
    print("\nimgembed on other logs\n")
    print_table(measured)
    ordinary = measured["ordinary"]
    ratios = {}
    for name in ("hub", "giant", "giant, kept"):
        ratios[f"wall of {name} / ordinary"] = measured[name].wall / ordinary.wall
        ratios[f"CPU of {name} / ordinary"] = measured[name].cpu / ordinary.cpu
    for name in ("2 x", "4 x"):
        per_event = measured[name].cpu / measured[name].events
        ratios[f"CPU an event, {name} / ordinary"] = per_event / (ordinary.cpu / ordinary.events)
        ratios[f"peak memory, {name} / ordinary"] = measured[name].peak / ordinary.peak
    print_ratios(ratios)
    return {"runs": to_json(measured), "ratios": ratios}


def to_json(measured: Mapping[str, Measurement]) -> dict[str, dict[str, float]]:
    """The measurements as plain numbers."""
    return {name: measurement.to_json() for name, measurement in measured.items()}


def print_table(measured: Mapping[str, Measurement]) -> None:
    """A row a run."""
    print(f"{'':16}{'events':>12}{'wall s':>9}{'CPU s':>9}{'CPU us':>9}{'peak GiB':>10}"
          f"{'events/s':>12}")  # fmt: skip
    for name, run in measured.items():
        print(
            f"{name:16}{run.events:12,}{run.wall:9.1f}{run.cpu:9.1f}"
            f"{run.cpu / run.events * 1e6:9.2f}{run.peak / 2**30:10.2f}"
            f"{run.events_per_second:12,.0f}"
        )


def print_ratios(ratios: Mapping[str, float]) -> None:
    """A line a ratio."""
    print()
    for name, ratio in ratios.items():
        print(f"{name:40}{ratio:8.2f}")


def parse_arguments() -> argparse.Namespace:
    """The options, from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/graph-benchmark"))
    parser.add_argument("--scale", type=float, default=1.0, help="1 = 12 million events")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; medians are shown")
    parser.add_argument("--variants", action="store_true", help="also other logs and sizes")
    # How the script starts a competitor in a process of its own: NAME LOG OUT.
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark, or the one competitor that --run names."""
    arguments = parse_arguments()
    if arguments.run:
        name, log, out = arguments.run
        RUNS[name](log, out)
        return
    use_cores(CORES)
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    asked = (work, arguments.scale, arguments.seed, arguments.repeat)
    machine = {"date": datetime.date.today().isoformat(), **describe_machine(CORES, PACKAGES)}
    found = {"machine": machine, "scale": arguments.scale, "repeat": arguments.repeat}
    found["competitors"] = run_competitors(*asked)
    if arguments.variants:
        found["variants"] = run_variants(*asked)
    Path(f"{work}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
