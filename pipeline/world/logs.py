"""Sessions in, the lines of the event logs out: JSON rows in files, a few of them broken.

Rows of different sessions lie interleaved by time, as in a real log; all rows of one session lie in
one file. The broken rows come on top of the good ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from pipeline.world.catalog import Image
from pipeline.world.randomness import generator
from pipeline.world.sessions import Event, Session

FILES = 4
BROKEN_SHARE = 0.003  # of the good rows
OVERLONG_ID = "img-" + "9" * 1_100  # ids end at 1,024 characters
BAD_TIMESTAMP = "the day before yesterday"


def file_name(number: int) -> str:
    """The name of event file `number`, from 0."""
    return f"events-{number:05d}-of-{FILES:05d}.jsonl"


def event_files(sessions: Sequence[Session], images: Sequence[Image]) -> list[list[str]]:
    """The good rows of FILES files, each in the order of time."""
    files: list[list[tuple[int, str]]] = [[] for _ in range(FILES)]
    for number, session in enumerate(sessions):
        rows = [(event.timestamp, _line(session, event, images)) for event in session.events]
        files[number % FILES].extend(rows)
    return [[line for _, line in sorted(rows)] for rows in files]


def add_broken_rows(files: list[list[str]], seed: int) -> int:
    """Slips broken copies of rows in between the good ones, in place; returns how many."""
    rng = generator(seed, "broken rows")
    sizes = [len(lines) for lines in files]
    broken = round(BROKEN_SHARE * sum(sizes))
    originals = np.sort(rng.integers(sum(sizes), size=broken))[::-1]  # later places come first
    file_ends = np.cumsum(sizes)
    for number, original in enumerate(originals):
        file = int(np.searchsorted(file_ends, original, side="right"))
        place = int(original - file_ends[file]) + sizes[file]
        lines = files[file]
        lines.insert(place + 1, _broken(lines[place], number))
    return broken


def _line(session: Session, event: Event, images: Sequence[Image]) -> str:
    return json.dumps(
        {
            "session_id": session.session_id,
            "user_id": session.user_id,
            "timestamp": event.timestamp,
            "query": session.query,
            "image_id": images[event.image].image_id,
            "action": event.action,
            "position": event.position,
        }
    )


def _broken(line: str, number: int) -> str:
    """A copy of a row with one fault; the four faults take turns by `number`."""
    row = json.loads(line)
    del row["image_id"]
    faulty = (
        line[: len(line) // 2],
        json.dumps(row),
        json.dumps(json.loads(line) | {"timestamp": BAD_TIMESTAMP}),
        json.dumps(json.loads(line) | {"image_id": OVERLONG_ID}),
    )
    return faulty[number % len(faulty)]
