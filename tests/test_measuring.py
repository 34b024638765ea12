"""The time and memory of a stage: its own, whatever came before it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli import measuring
from cli.measuring import Watch

ROOT = Path(__file__).parent.parent
LARGE, SMALL = 300 << 20, 40 << 20  # bytes
TWO_STAGES = f"""
import numpy as np
from cli.measuring import Watch
for size in ({LARGE}, {SMALL}):
    with Watch() as watch:
        assert np.ones(size, np.uint8).sum() == size
        print(watch.so_far().peak_memory)
"""
CHILD = "import time; held = b'x' * (200 << 20); time.sleep(1.5)"


def test_the_peak_of_a_stage_is_its_own_and_not_that_of_an_earlier_one():
    # In a process of its own: in this one, earlier tests have left memory that can be used again.
    ended = subprocess.run(
        [sys.executable, "-c", TWO_STAGES], capture_output=True, text=True, check=True, cwd=ROOT
    )
    large, small = map(int, ended.stdout.split())
    assert large > LARGE
    assert LARGE - 2 * SMALL < large - small < LARGE


def test_processes_that_a_stage_starts_count():
    with Watch() as alone:
        time.sleep(0.5)
    with Watch() as watch:
        subprocess.run([sys.executable, "-c", CHILD], check=True)
        measured = watch.so_far()
    assert measured.peak_memory - alone.so_far().peak_memory > 150 << 20
    assert 1.5 < measured.seconds < 60
    assert not watch._thread.is_alive()


@pytest.mark.parametrize("grows", [True, False])
def test_a_peak_that_cannot_be_set_back_is_told_only_where_it_rises(monkeypatch, grows):
    monkeypatch.setattr(measuring, "_set_peak_back", lambda: False)
    peaks = iter([1_000, 2_000 if grows else 1_000])
    monkeypatch.setattr(measuring, "_peak", lambda: next(peaks))
    with Watch() as watch:
        assert watch.so_far().peak_memory == (2_000 if grows else None)
