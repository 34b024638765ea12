"""The graph against a second implementation: SQL that knows nothing of ours, on ten random logs.

Where weights are tied, our seeded hash decides what is kept; SQL does not know the hash. It marks
an edge as `sure` where it is kept however ties fall, and as `possible` where it may be kept. All
other things are compared exactly, or to 1e-9.
"""

import copy
import json
import random
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from scipy.stats import chi2
from test_graph import build, table, write_log

EMOJI = Path(__file__).parent.parent.parent / "shared" / "data" / "emoji" / "sessions.jsonl"
COPIES = 5

LOG = pa.schema(
    [
        ("session_id", pa.string()),
        ("user_id", pa.string()),
        ("timestamp", pa.int64()),
        ("query", pa.string()),
        ("image_id", pa.string()),
        ("action", pa.string()),
    ]
)
SESSION_DEFAULTS = {"gap_minutes": 30, "max_events": 500, "max_images": 50, "actions": {}}
GRAPH_DEFAULTS = {
    "measure": "llr",
    "discount": "none",
    "half_life_days": None,
    "min_sessions": 2,
    "min_users": 1,
    "min_significance": None,
    "max_degree": None,
    "top_k": 10,
    "symmetry": "directed",
}

# Sessions of those without an id: a pause of more than gap_minutes cuts.
CUT_SQL = """
create table cut as
  select *, sum(begins) over (partition by user_id order by timestamp) as part from (
    select *, case when timestamp - lag(timestamp) over (partition by user_id order by timestamp)
      > 60 * $gap_minutes then 1 else 0 end as begins
    from log where session_id is null)
"""
SESSIONS_SQL = """
create table events as
  select dense_rank() over (order by user_id, session_id, part) as session, * from (
    select user_id, session_id, null as part, timestamp, query, image_id, action
    from log where session_id is not null
    union all
    select user_id, null, part, timestamp, query, image_id, action from cut)
"""
VISITS_SQL = """
create table visits as
  with people as (select session from events group by session having count(*) <= $max_events),
  opened as (
    select session, any_value(user_id) as user_id, image_id, min(timestamp) as moment,
      max(coalesce(weight, 1.0)) as action_weight
    from events semi join people using (session)
    left join actions on events.action = actions.name
    group by session, image_id)
  from opened qualify row_number() over (partition by session order by moment) <= $max_images
"""
QUERIES_SQL = """
  with asked as (
    select distinct session, events.user_id, query, image_id
    from events semi join visits using (session, image_id) where query is not null),
  published as (
    select query from asked group by query
    having count(distinct user_id) >= $min_users or $min_users = 1)
  select query, image_id, count(distinct session), count(distinct user_id)
  from asked semi join published using (query) group by query, image_id
"""
IMAGES_SQL = "select image_id, count(*) as sessions from visits group by image_id"
DISCOUNTS = {"none": "1.0", "size": "1.0 / (images - 1)", "log": "1.0 / log2(images)"}
PAIRS_SQL = """
create table pairs as
  with sizes as (select session, count(*) as images from visits group by session),
  spans as (select session, min(timestamp) as start from events group by session),
  newest as (select max(timestamp) as newest from events),
  factors as (
    select session, {discount} * {decay} as factor
    from sizes join spans using (session), newest where images > 1)
  select a.image_id as src, b.image_id as dst, count(*) as sessions,
    count(distinct a.user_id) as users, sum(a.action_weight * b.action_weight * factor) as strength
  from visits a join visits b on a.session = b.session and a.image_id != b.image_id
  join factors on a.session = factors.session
  group by a.image_id, b.image_id
"""
DECAY = "pow(2, (start - newest) / 86400.0 / $half_life_days)"
LLR = """case when c * n < ni * nj then -2 else 2 end * (
  c * ln(c * n / (ni * nj))
  + case when ni > c then (ni - c) * ln((ni - c) * n / (ni * (n - nj))) else 0 end
  + case when nj > c then (nj - c) * ln((nj - c) * n / ((n - ni) * nj)) else 0 end
  + case when n > ni + nj - c
    then (n - ni - nj + c) * ln((n - ni - nj + c) * n / ((n - ni) * (n - nj))) else 0 end)"""
MEASURES = {
    "count": "strength",
    "jaccard": "c / (ni + nj - c)",
    "cosine": "c / sqrt(ni * nj)",
    "lift": "c * n / (ni * nj)",
    "pmi": "ln(c * n / (ni * nj))",
    "ppmi": "greatest(0, ln(c * n / (ni * nj)))",
    "npmi": "case when c = n then 1 else ln(c * n / (ni * nj)) / -ln(c / n) end",
    "llr": LLR,
}
# Weights nearer to one another than `slack` are ties; one nearer to 0 may be taken for 0.
WEIGHED_SQL = """
create table weighed as
  with counts as ({images}),
  tables as (
    select pairs.*, i.sessions as src_sessions, j.sessions as dst_sessions,
      pairs.sessions::double as c, i.sessions::double as ni, j.sessions::double as nj,
      (select count(distinct session) from visits)::double as n
    from pairs join counts i on src = i.image_id join counts j on dst = j.image_id)
  select * exclude (c, ni, nj, n), {measure} as weight, 1e-9 * abs(weight) + 1e-12 as slack,
    weight > 1e-9 as sure, weight > -1e-9 as possible
  from tables
  where c >= $min_sessions and (users >= $min_users or $min_users = 1) and {llr} >= $min_llr
"""
# Of the edges that meet in `side`, the `limit` strongest.
LIMIT_SQL = """
create table {name} as
  select e.* exclude (sure, possible),
    sure and (select count(*) from {edges} other where other.{side} = e.{side}
      and other.possible and other.weight >= e.weight - e.slack) <= {limit} as sure,
    possible and (select count(*) from {edges} other where other.{side} = e.{side}
      and other.sure and other.weight > e.weight + e.slack) < {limit} as possible
  from {edges} e
"""
SYMMETRIES = {"directed": "e.{0}", "mutual": "e.{0} and back.{0}", "union": "e.{0} or back.{0}"}
SYMMETRY_SQL = """
create table kept as
  select e.* exclude (sure, possible), {sure} as sure, {possible} as possible
  from strongest e join strongest back on e.src = back.dst and e.dst = back.src
"""
EDGES_SQL = """
  select src, dst, sessions, users, strength, src_sessions, dst_sessions, weight, sure,
    1 + (select count(*) from kept other where other.src = e.src
      and other.sure and other.weight > e.weight + e.slack) as lowest_rank,
    (select count(*) from kept other where other.src = e.src
      and other.possible and other.weight >= e.weight - e.slack) as highest_rank
  from kept e where possible
"""


class Oracle:
    """The graph of a log, by SQL. rows: dicts with the columns of LOG; settings: as configured.

    Without user ids, users are 0 here and null in our tables.
    """

    def __init__(self, rows, sessions, graph):
        self.sessions, self.graph = SESSION_DEFAULTS | sessions, GRAPH_DEFAULTS | graph
        self.database = duckdb.connect()
        self.database.register("log", pa.Table.from_pylist(rows, LOG))
        weights = [{"name": name, "weight": w} for name, w in self.sessions["actions"].items()]
        action_schema = pa.schema([("name", pa.string()), ("weight", pa.float64())])
        self.database.register("actions", pa.Table.from_pylist(weights, action_schema))
        self.run(CUT_SQL, gap_minutes=self.sessions["gap_minutes"])
        self.run(SESSIONS_SQL)
        limits = {name: self.sessions[name] for name in ("max_events", "max_images")}
        self.run(VISITS_SQL, **limits)

    def run(self, statement, **parameters):
        return self.database.execute(statement, parameters)

    def images(self):
        """{(image, sessions)}."""
        return set(self.run(IMAGES_SQL).fetchall())

    def queries(self):
        """{(query, image, sessions, users)}."""
        return set(self.run(QUERIES_SQL, min_users=self.graph["min_users"]).fetchall())

    def edges(self):
        """{(src, dst): edge as a dict} of all that may be kept."""
        self.weigh()
        source = "weighed"
        if self.graph["max_degree"]:
            limit = {"side": "dst", "limit": self.graph["max_degree"]}
            self.run(LIMIT_SQL.format(name="limited", edges=source, **limit))
            source = "limited"
        top = {"side": "src", "limit": self.graph["top_k"]}
        self.run(LIMIT_SQL.format(name="strongest", edges=source, **top))
        rule = SYMMETRIES[self.graph["symmetry"]]
        self.run(SYMMETRY_SQL.format(sure=rule.format("sure"), possible=rule.format("possible")))
        found = self.run(EDGES_SQL)
        columns = [column[0] for column in found.description]
        edges = [dict(zip(columns, row, strict=True)) for row in found.fetchall()]
        return {(edge["src"], edge["dst"]): edge for edge in edges}

    def weigh(self):
        half_life = {"half_life_days": self.graph["half_life_days"]}
        decays = half_life["half_life_days"] is not None
        discount = DISCOUNTS[self.graph["discount"]]
        pairs = PAIRS_SQL.format(discount=discount, decay=DECAY if decays else "1.0")
        self.run(pairs, **(half_life if decays else {}))
        p_value = self.graph["min_significance"]
        measure = MEASURES[self.graph["measure"]]
        self.run(
            WEIGHED_SQL.format(images=IMAGES_SQL, measure=measure, llr=LLR),
            min_sessions=self.graph["min_sessions"],
            min_users=self.graph["min_users"],
            min_llr=-1e300 if p_value is None else float(chi2.isf(p_value, 1)),
        )


def random_log(seed, *, users=True, sessions=300):
    """Rows of sessions that wander about 8 groups of 5 images; some of them bots, some long.

    Of the sessions, most name user and session, the rest only one of the two. Without an id, the
    same user comes back after pauses of just 30 minutes, and of more.
    """
    draw = random.Random(seed)
    clock = {}
    rows = []
    for number in range(sessions):
        kind = draw.choice(["both", "both", "session", "user"]) if users else "session"
        user = None if kind == "session" else f"user-{draw.randrange(40)}"
        session = None if kind == "user" else f"session-{draw.randrange(sessions)}"
        # A session may come back later, under the same user or another.
        owner = (user, session)
        start = clock.get(owner, 1_600_000_000 + draw.randrange(86_400 * 20))
        clock[owner] = add_session(rows, draw, owner, start, number)
    draw.shuffle(rows)
    return rows


def add_session(rows, draw, owner, moment, number):
    """Adds the events of one session to `rows`; returns when its owner is next seen."""
    user, session = owner
    group = draw.randrange(8)
    length = draw.choice([1, 2, 3, 3, 4, 5, 6, 25]) if number % 40 else 60
    for _ in range(length):
        moment += draw.choice([1, 20, 300])
        # Images from 40 on are rare.
        wanders = draw.random() < 0.3
        image = draw.randrange(draw.choice([40, 160])) if wanders else group * 5 + draw.randrange(5)
        rows.append(
            {
                "session_id": session,
                "user_id": user,
                "timestamp": moment,
                "query": draw.choice([None, f"Query {group}", f"rare {draw.randrange(60)}"]),
                "image_id": f"image-{image}",
                "action": draw.choice([None, "click", "save", "share", "unheard of"]),
            }
        )
    return moment + draw.choice([600, 1800, 1801, 90_000])


ACTIONS = {"click": 0.5, "save": 3.0, "share": 2.0}
# One log each: settings of the sessions, and of the graph.
CASES = {
    "all defaults": ({}, {}),
    "count of weighed actions": (
        {"actions": ACTIONS, "max_events": 50},
        {"measure": "count", "discount": "size", "top_k": 5},
    ),
    "jaccard, mutual": (
        {"max_images": 4},
        {"measure": "jaccard", "min_sessions": 1, "symmetry": "mutual", "top_k": 6},
    ),
    "cosine, few in-edges": (
        {"max_events": 20, "max_images": 3},
        {"measure": "cosine", "max_degree": 2, "top_k": 1000, "min_users": 2},
    ),
    "lift, union": (
        {"gap_minutes": 5.0, "actions": ACTIONS},
        {"measure": "lift", "symmetry": "union", "top_k": 4, "min_sessions": 3},
    ),
    "pmi of significant edges": (
        {"gap_minutes": 4.5},
        {"measure": "pmi", "min_significance": 0.01, "top_k": 3},
    ),
    "ppmi of several users": (
        {"max_events": 24},
        {"measure": "ppmi", "min_users": 4, "discount": "log", "top_k": 1000},
    ),
    "npmi, all steps": (
        {"max_images": 6, "max_events": 40, "actions": ACTIONS},
        {
            "measure": "npmi",
            "discount": "log",
            "min_users": 2,
            "min_significance": 0.02,
            "max_degree": 4,
            "top_k": 3,
            "symmetry": "mutual",
        },
    ),
    "llr, all steps": (
        {"gap_minutes": 1000.0},
        {
            "min_users": 2,
            "min_significance": 0.002,
            "max_degree": 6,
            "top_k": 3,
            "symmetry": "union",
            "discount": "size",
        },
    ),
    "count of old sessions, no users": (
        {"actions": {"click": 0.1, "save": 1.7}},
        {"measure": "count", "half_life_days": 3.0, "discount": "log", "min_sessions": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_random_log_gives_the_edges_weights_and_ranks_of_sql(tmp_path, name):
    seed = list(CASES).index(name)
    sessions, graph = CASES[name]
    rows = random_log(seed, users="no users" not in name)
    oracle = Oracle(rows, sessions, graph)
    write_log(tmp_path / "log.jsonl", rows)
    version = build(tmp_path / "run", tmp_path / "log.jsonl", shards=3, sessions=sessions, **graph)
    edges = table(version, "edges")
    compare_edges(edges, oracle.edges(), oracle.graph)
    nodes = table(version, "nodes")
    assert {(node["image_id"], node["sessions"]) for node in nodes} == oracle.images()
    sources = [edge["src"] for edge in edges]
    assert all(node["degree"] == sources.count(node["image_id"]) for node in nodes)
    columns = ("query", "image_id", "sessions", "users")
    queries = [tuple(row[column] or 0 for column in columns) for row in table(version, "queries")]
    assert sorted(queries) == sorted(oracle.queries())


def compare_edges(edges, expected, graph):
    """Asserts that `edges` are what the oracle's `expected` allow, and in the right order."""
    found = {(edge["src"], edge["dst"]): edge for edge in edges}
    assert len(found) == len(edges)
    sure = {pair for pair, edge in expected.items() if edge["sure"]}
    assert len(sure) > 0.6 * len(expected) > 20  # else ties would excuse too much
    assert sure <= found.keys() <= expected.keys()
    for pair, edge in found.items():
        compare_edge(edge, expected[pair])
    ranked = {}
    for edge in edges:
        ranked.setdefault(edge["src"], []).append(edge)
    for of_source in ranked.values():
        assert [edge["rank"] for edge in of_source] == list(range(1, len(of_source) + 1))
        weights = [edge["weight"] for edge in of_source]
        assert weights == sorted(weights, reverse=True)
    compare_degrees(found, expected, graph)


def compare_edge(edge, wanted):
    """Asserts that one edge is as the oracle has it."""
    for column in ("sessions", "src_sessions", "dst_sessions"):
        assert edge[column] == wanted[column], (column, edge, wanted)
    assert (edge["users"] or 0) == wanted["users"], (edge, wanted)
    assert wanted["lowest_rank"] <= edge["rank"] <= wanted["highest_rank"], (edge, wanted)
    # A session's share of the strength is rounded to 2^-24, so that sums are exact in any order.
    rounding = edge["sessions"] * 2.0**-25
    strength = pytest.approx(wanted["strength"], rel=1e-9, abs=rounding)
    assert edge["strength"] == strength, (edge, wanted)
    if wanted["weight"] == wanted["strength"]:
        assert edge["weight"] == strength, (edge, wanted)
    else:
        assert edge["weight"] == pytest.approx(wanted["weight"], rel=1e-9, abs=1e-9), (edge, wanted)


def compare_degrees(found, expected, graph):
    """Ties decide which edges are kept at a limit, never how many."""
    if graph["symmetry"] != "directed":
        return
    cuts = {"src": (graph["top_k"], graph["max_degree"] is None)}
    cuts["dst"] = (graph["max_degree"], graph["max_degree"] and graph["top_k"] >= 1000)
    for place, side in enumerate(("src", "dst")):
        limit, alone = cuts[side]
        if not alone:
            continue
        ends = [pair[place] for pair in expected]
        for end in set(ends):
            kept = [pair for pair in found if pair[place] == end]
            assert len(kept) == min(limit, ends.count(end)), (side, end)


def test_a_user_counts_with_no_more_sessions_than_allowed(tmp_path):
    rows = [row for row in random_log(20, sessions=200) if row["user_id"]]
    oracle = Oracle(rows, {}, {})
    owned = oracle.run("select count(distinct session) from visits group by user_id").fetchall()
    write_log(tmp_path / "log.jsonl", rows)
    for limit in (1, 3, 1000):
        sessions = {"max_sessions_per_user": limit}
        version = build(
            tmp_path / str(limit), tmp_path / "log.jsonl", sessions=sessions, min_sessions=1
        )
        counted = version.manifest["counts"]["sessions"]["in_graph"]
        assert counted == sum(min(limit, number) for (number,) in owned)
    expected = Oracle(rows, {}, {"min_sessions": 1}).edges()
    compare_edges(table(version, "edges"), expected, GRAPH_DEFAULTS)


# A real log repeated: 901 sessions in which people wrote down words as emoji.

needs_emoji = pytest.mark.skipif(not EMOJI.is_file(), reason=f"no emoji data at {EMOJI}")
EVERYTHING = {"min_sessions": 1, "top_k": 10_000}


def emoji_log():
    """Rows of whole sessions, with users, whom the data does not name."""
    lines = EMOJI.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row | {"user_id": f"writer-{number % 29}"} for number, row in enumerate(rows)]


def copies(rows, *, of_images):
    """The rows COPIES times, each time other sessions and users, and other images if asked."""
    for number in range(COPIES):
        for row in copy.deepcopy(rows):
            row["session_id"] += f"-{number}"
            row["user_id"] += f"-{number}"
            if of_images:
                row["items"] = [f"{item}-{number}" for item in row["items"]]
            yield row


def edges_of(folder, rows, **graph):
    """{(src, dst): edge} of all pairs."""
    write_log(folder / "log.jsonl", rows)
    version = build(folder / "run", folder / "log.jsonl", shards=4, **EVERYTHING, **graph)
    return {(edge["src"], edge["dst"]): edge for edge in table(version, "edges")}


@needs_emoji
def test_copies_of_a_log_with_images_of_their_own_have_the_same_edges_each(tmp_path):
    rows = emoji_log()
    once = edges_of(tmp_path / "once", rows, measure="count")
    repeated = edges_of(tmp_path / "many", list(copies(rows, of_images=True)), measure="count")
    assert len(once) > 1000
    assert len(repeated) == COPIES * len(once)
    for (src, dst), edge in once.items():
        for number in range(COPIES):
            own = repeated[f"{src}-{number}", f"{dst}-{number}"]
            for column in edge.keys() - {"src", "dst", "rank"}:  # ties fall as their hash says
                assert own[column] == edge[column], column


@needs_emoji
def test_copies_of_a_log_with_the_same_images_multiply_the_counts(tmp_path):
    rows = emoji_log()
    once = edges_of(tmp_path / "once", rows, measure="cosine")
    repeated = edges_of(tmp_path / "many", list(copies(rows, of_images=False)), measure="cosine")
    assert repeated.keys() == once.keys()
    for pair, edge in once.items():
        for column in ("sessions", "users", "strength", "src_sessions", "dst_sessions"):
            assert repeated[pair][column] == COPIES * edge[column], column
        assert repeated[pair]["weight"] == pytest.approx(edge["weight"], rel=1e-12)
