"""Head, torso and tail are those of images looked at one by one."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.examples import coverage

# (sessions or None where the graph does not know the image, neighbours)
Images = list[tuple[int | None, int]]
IMAGES = st.lists(st.tuples(st.none() | st.integers(0, 9), st.integers(0, 3)), max_size=40)


def tally(images: Images) -> pa.Table:
    sessions = pa.array([sessions for sessions, _ in images], pa.int64())
    return coverage.tally(sessions, np.array([n for _, n in images], np.int64))


def slices(images: Images) -> dict[str, list[int]]:
    """{slice: neighbours of its images}, one image after the other."""
    seen = sorted((s for s, _ in images if s is not None), reverse=True)
    found: dict[str, list[int]] = {}
    for sessions, neighbors in images:
        if sessions is None:
            name = "in no session"
        else:
            more = seen.index(sessions)  # images that are seen more often
            name = "head" if 10 * more < len(seen) else "torso" if 2 * more < len(seen) else "tail"
        found.setdefault(name, []).append(neighbors)
    return found if seen else {}


@given(images=IMAGES)
@settings(max_examples=200, deadline=None)
def test_slices_are_those_of_images_one_by_one(images):
    expected = {
        name: {
            "images": len(neighbors),
            "with_neighbors": sum(n > 0 for n in neighbors),
            "share": round(sum(n > 0 for n in neighbors) / len(neighbors), 6),
        }
        for name, neighbors in slices(images).items()
    }
    assert coverage.by_popularity(tally(images)) == expected


@given(images=IMAGES, cuts=st.lists(st.integers(0, 40), max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_tally_of_parts_is_the_tally_of_all(images, cuts):
    bounds = [0, *sorted(cuts), len(images)]
    parts = [tally(images[a:b]) for a, b in itertools.pairwise(bounds)]
    whole = tally(images)
    assert coverage.add_up(pa.concat_tables(parts[::-1])) == whole
    found = Counter(
        {(row["sessions"], row["neighbors"]): row["images"] for row in whole.to_pylist()}
    )
    assert found == Counter(images)


def test_images_that_are_seen_equally_often_stay_together():
    images: Images = [(9, 1), *([(5, 1)] * 8), *([(1, 0)] * 11)]
    # One of 20 is seen more often than those with 5 sessions: they begin in the head.
    found = coverage.by_popularity(tally(images))
    assert {name: figures["images"] for name, figures in found.items()} == {"head": 9, "torso": 11}
    assert found["torso"]["share"] == 0.0


def test_ten_images_are_one_four_and_five():
    images: Images = [(10 - index, index % 2) for index in range(10)]
    found = coverage.by_popularity(tally(images))
    assert {name: figures["images"] for name, figures in found.items()} == {
        "head": 1,
        "torso": 4,
        "tail": 5,
    }


def test_images_of_no_session_are_apart():
    found = coverage.by_popularity(tally([(3, 2), (None, 0), (None, 1)]))
    assert found["in no session"] == {"images": 2, "with_neighbors": 1, "share": 0.5}


def test_a_graph_without_sessions_has_no_slices():
    assert coverage.by_popularity(tally([(None, 1), (None, 0)])) == {}
    assert coverage.by_popularity(tally([])) == {}


def test_coverage_is_read_as_it_was_written(tmp_path):
    parts = [tally([(3, 1), (None, 0)]), tally([]), tally([(3, 1)])]
    coverage.WriteCoverage(str(tmp_path))._write((0, {coverage.IMAGES: parts}))
    assert coverage.read_coverage(str(tmp_path)).to_pylist() == [
        {"sessions": 3, "neighbors": 1, "images": 2},
        {"sessions": None, "neighbors": 0, "images": 1},
    ]
