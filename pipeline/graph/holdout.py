"""Sessions kept out of the graph: which ones, and the rows that evaluation reads."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.config import HoldoutConfig
from pipeline.errors import ImgembedError


def cutoff(starts: np.ndarray, config: HoldoutConfig) -> float:
    """The bound from which on a session is held out.

    By hash: of the draw as a share, in [0, 1]. By time: of the start in microseconds, so that the
    latest `fraction` of the sessions lies at or after it. starts: [sessions] int64, of all.
    """
    if config.by == "hash":
        return 1.0 - config.fraction
    if np.isnan(starts.astype(np.float64)).any():
        raise ImgembedError("holdout.by: 'time' needs a timestamp in every row of the logs")
    held_out = round(config.fraction * len(starts))
    if held_out == 0:
        return float("inf")
    return float(np.sort(starts)[len(starts) - held_out])


def split_visits(visits: pa.Table, *, by: str, bound: float) -> tuple[pa.Table, pa.Table]:
    """(visits of the graph's sessions, visits of held-out sessions)."""
    if by == "hash":
        order = visits["draw"].to_numpy() / 2.0**64
    else:
        order = visits["start"].to_numpy().astype(np.float64)
    held_out = order >= bound
    return visits.filter(pa.array(~held_out)), visits.filter(pa.array(held_out))


def holdout_rows(file: int, visits: pa.Table, *, files: int) -> pa.Table:
    """Held-out visits of one output file as schema.HOLDOUT_SCHEMA.

    Sessions are numbered in the order of their draws, over all files without collision; nothing of
    a session's id is left.
    """
    _, number = np.unique(visits["draw"].to_numpy(), return_inverse=True)
    columns = [
        pa.chunked_array([number.astype(np.int64) * files + file]),
        visits["position"],
        visits["image_id"],
        visits["query"],
    ]
    return pa.table(columns, schema=schema.HOLDOUT_SCHEMA)
