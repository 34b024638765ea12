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


def cut(
    setting: int | str, held: Held, *, limit: int | None, shards: int, threads: int
) -> tuple[int, int]:
    """(shards, threads) within the limit, as `fit` has them where `runner.shards` is "auto".

    A number of shards that is given stays: then fewer threads are all that can be done.
    """
    if isinstance(setting, str) or limit is None:
        return fit(held, limit=limit, shards=shards, threads=threads)
    for number in range(threads, 0, -1):
        if held.peak(shards, number) <= limit:
            return shards, number
    raise _refusal(held.peak(shards, 1), limit, "leave runner.shards at auto, which cuts finer")


def fit(
    held: Held, *, limit: int | None, shards: int, threads: int, remedy: str | None = None
) -> tuple[int, int]:
    """(shards, threads) that stay within the limit: more of these, and else fewer of those.

    As they are where there is no limit, or room enough. ConfigError where the work fits in no way;
    `remedy` says what to change then.
    """
    if limit is None:
        return shards, threads
    for number in range(threads, 0, -1):
        room = (limit - held.process) / number - held.thread
        least = _LEAST_SHARD if held.shards else 0
        wanted = max(shards, int(-(-held.shards // room))) if room >= max(least, 1) else 0
        if 0 < wanted <= max(shards, _MOST_SHARDS):
            return wanted, number
    shard = max(_LEAST_SHARD, held.shards / _MOST_SHARDS) if held.shards else 0.0
    raise _refusal(held.process + held.thread + shard, limit, remedy)


def check(need: float, *, limit: int | None, remedy: str | None = None) -> None:
    """ConfigError where work that cannot be cut needs more bytes than the limit."""
    if limit is not None and need > limit:
        raise _refusal(need, limit, remedy)


def _refusal(need: float, limit: int, remedy: str | None) -> ConfigError:
    """What is too little. remedy: what to change."""
    return ConfigError(
        f"runner.max_memory: {limit / 1e6:,.0f} MB are too little for this stage, which takes "
        f"{need / 1e6:,.0f} MB at least, its libraries among them"
        + (f"; {remedy}" if remedy else "")
    )
