"""The sizes of a world and its seed: settings in, a checked `WorldConfig` out."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError

FEWEST_IMAGES = 24
SESSIONS_PER_USER = 5

_LEAST = {"images": FEWEST_IMAGES, "sessions": 1, "users": 1, "seed": 0, "bots": 0}
_SHARES = ("labelled", "captioned", "noise", "broad", "cold")


@dataclass(frozen=True)
class WorldConfig:
    """The sizes of a world and its seed; shares are in [0, 1]."""

    images: int = 2_000  # at least FEWEST_IMAGES
    sessions: int = 20_000  # of people; at least 1
    users: int | None = None  # people to draw from; None = one for every SESSIONS_PER_USER sessions
    seed: int = 0
    labelled: float = 0.2  # share of the images with a label in the catalog
    captioned: float = 0.3  # share of the images with a text in the catalog
    noise: float = 0.2  # share of the clicks that do not fit the search
    broad: float = 0.1  # share of the sessions that search for two attributes only
    cold: float = 0.05  # share of the images that no session holds
    bots: int = 10  # sessions of programs, on top

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"sample: {name} is {value!r}; wanted at least {least}")
        for name in _SHARES:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"sample: {name} is {value!r}; wanted a share from 0 to 1")

    @property
    def num_users(self) -> int:
        """The number of people that sessions are drawn from."""
        return self.users or max(1, self.sessions // SESSIONS_PER_USER)
