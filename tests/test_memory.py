"""Freed memory goes back to the system, and what is in use stays as it is."""

from __future__ import annotations

import ctypes
import sys

import pytest

from pipeline.memory import release_freed_memory

BLOCK, BLOCKS, KEPT_EVERY = 100_000, 2_000, 100  # bytes; less than glibc asks the system for apart


def resident() -> int:
    """Bytes of this process in memory that are no pages of files."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) * 1024


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc 2.33 or later")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_freed_between_blocks_in_use_goes_back() -> None:
    blocks = [b"%d" % number + b"x" * BLOCK for number in range(BLOCKS)]
    kept = blocks[::KEPT_EVERY]
    del blocks
    release_freed_memory(most=1 << 40)
    before = resident()
    release_freed_memory(most=0)
    assert before - resident() > BLOCK * BLOCKS // 2
    assert [len(block) for block in kept] == [
        len(b"%d" % number) + BLOCK for number in range(0, BLOCKS, KEPT_EVERY)
    ]
