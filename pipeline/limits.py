"""How finely the work is cut, and into how many threads, so that it fits into a limit of memory.

In: what a stage holds (`Held`), as measured, and `runner.max_memory`. Out: shards and threads. What
is written depends on neither.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError

# A smaller shard is more tables between shards than rows in them.
_LEAST_SHARD = 16 << 20  # bytes
_MOST_SHARDS = 4_096


@dataclass(frozen=True)
class Held:
    """Bytes that a stage holds at its peak.

    process: however it is cut. thread: each thread, beside its shard. shards: all shards together,
    were they held at once; each thread holds one of them at a time.
    """

    process: float
    thread: float
    shards: float

    def peak(self, shards: int, threads: int) -> float:
        """About how many bytes it takes, so cut."""
        return self.process + threads * self.thread + min(threads, shards) * self.shards / shards


def fit(held: Held, *, limit: int | None, shards: int, threads: int) -> tuple[int, int]:
    """(shards, threads) that stay within the limit: more of these, and else fewer of those.

    As they are where there is no limit, or room enough. ConfigError where the work fits in no way.
    """
    if limit is None:
        return shards, threads
    for number in range(threads, 0, -1):
        room = (limit - held.process) / number - held.thread
        wanted = max(shards, int(-(-held.shards // room))) if room >= _LEAST_SHARD else 0
        if 0 < wanted <= max(shards, _MOST_SHARDS):
            return wanted, number
    least = held.process + held.thread + max(_LEAST_SHARD, held.shards / _MOST_SHARDS)
    raise ConfigError(
        f"runner.max_memory: {limit / 1e6:,.0f} MB are too little for this stage, which takes "
        f"{least / 1e6:,.0f} MB at least, its libraries among them"
    )
