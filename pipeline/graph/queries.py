"""Queries with the images that were opened for them: counted, published from enough users on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.columnar import concatenate
from pipeline.config import PrivacyConfig
from pipeline.graph.count import Users, name_pairs
from pipeline.graph.privacy import bound_contributions
from pipeline.sessions.sessionize import Sessions
from pipeline.sorting import changes, order_by, run_lengths

QUERY_COUNTS = pa.schema(
    [
        ("query", pa.uint64()),
        ("image", pa.uint64()),
        ("sessions", pa.int64()),
        ("users", pa.int64()),
    ]
)
QUERY_USER_COUNTS = pa.schema([("query", pa.uint64()), ("users", pa.int64())])


def count_queries(sessions: Sessions, users: Users, privacy: PrivacyConfig, seed: int) -> pa.Table:
    """QUERY_COUNTS: sessions and distinct users that opened an image under a query.

    With privacy, sessions are users too, and a user adds to a limited number of rows.
    """
    if sessions.query is None or sessions.asked is None:
        return QUERY_COUNTS.empty_table()
    asked = sessions.asked
    query, session = sessions.query[asked], sessions.session[asked]
    image = sessions.images[sessions.image[asked]]
    user = users.code[session]
    query, image, user, session = _distinct(query, image, user, session)
    new_user = _new(query, image, user) & (user > 0)
    if privacy.epsilon is not None:
        query, image, user = query[new_user], image[new_user], user[new_user]
        limit = privacy.max_pairs_per_user
        kept = bound_contributions(
            users.hashes[user], name_pairs(query, image), limit=limit, seed=seed
        )
        query, image = query[kept], image[kept]
        new_user = np.ones(len(query), bool)
    starts = np.flatnonzero(_new(query, image))
    if not len(starts):
        return QUERY_COUNTS.empty_table()
    columns = [
        query[starts],
        image[starts],
        run_lengths(starts, len(query)),
        np.add.reduceat(new_user.astype(np.int64), starts),
    ]
    return pa.table(columns, schema=QUERY_COUNTS)


def count_query_users(sessions: Sessions, users: Users) -> pa.Table:
    """QUERY_USER_COUNTS: distinct users of each query, whatever they opened."""
    if sessions.query is None or sessions.asked is None:
        return QUERY_USER_COUNTS.empty_table()
    query = sessions.query[sessions.asked]
    user = users.code[sessions.session[sessions.asked]]
    query, user = _distinct(query, user)
    starts = np.flatnonzero(_new(query))
    known = np.add.reduceat((user > 0).astype(np.int64), starts) if len(starts) else starts
    return pa.table([query[starts], known], schema=QUERY_USER_COUNTS)


def merge_queries(tables: Iterable[pa.Table], *, users: np.ufunc = np.add) -> pa.Table:
    """QUERY_COUNTS with one row a (query, image), ascending."""
    table = concatenate(tables, QUERY_COUNTS)
    query, image, sessions, of_users = (table[name].to_numpy() for name in QUERY_COUNTS.names)
    order = order_by(query, image)
    query, image = query[order], image[order]
    starts = np.flatnonzero(_new(query, image))
    if not len(starts):
        return QUERY_COUNTS.empty_table()
    sums = [np.add.reduceat(sessions[order], starts), users.reduceat(of_users[order], starts)]
    return pa.table([query[starts], image[starts], *sums], schema=QUERY_COUNTS)


def merge_query_users(tables: Iterable[pa.Table], *, users: np.ufunc = np.add) -> pa.Table:
    """QUERY_USER_COUNTS with one row a query, ascending."""
    table = concatenate(tables, QUERY_USER_COUNTS)
    query, of_users = table["query"].to_numpy(), table["users"].to_numpy()
    order = np.argsort(query)
    starts = np.flatnonzero(_new(query[order]))
    sums = users.reduceat(of_users[order], starts) if len(starts) else starts
    return pa.table([query[order][starts], sums], schema=QUERY_USER_COUNTS)


def _distinct(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows that differ, in ascending order."""
    order = order_by(*columns)
    ordered = [column[order] for column in columns]
    rows = _new(*ordered)
    return tuple(column[rows] for column in ordered)


def _new(*columns: np.ndarray) -> np.ndarray:
    """[rows] bool: where any of the columns differs from the row before, and at the first."""
    mask = changes(columns[0])
    for column in columns[1:]:
        mask |= changes(column)
    return mask
