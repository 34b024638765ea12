"""Who searched for what and clicked where: images in, `Session`s out.

A user has an intent, types a query and clicks images that fit it, and some that do not: hubs, or
just anything. Bots click hundreds of random images. No session holds a cold image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.world.attributes import Intent
from pipeline.world.catalog import Image
from pipeline.world.config import WorldConfig
from pipeline.world.randomness import generator
from pipeline.world.wording import query

SECOND, HOUR, DAY = 1_000, 3_600_000, 86_400_000  # milliseconds
LAST_MOMENT = 1_719_792_000_000  # 2024-07-01T00:00:00Z, a fixed date: the world has no clock
PERIOD = 28 * DAY
LONGEST_SESSION = HOUR  # no session starts later than this before LAST_MOMENT

POPULARITY_EXPONENT = 0.6  # of the mild Zipf law over intents
MAX_CLICKS = 8
CLICK_CHANCE = 0.52  # clicks are 1 + Binomial(MAX_CLICKS - 1, CLICK_CHANCE): 4.6 on average
HUB_NOISE = 0.5  # of the irrelevant clicks
REPEATED_CLICK = 0.03  # of the sessions
SAVES = 0.1  # of the events
RESULTS_SEEN = 40  # positions are 1 to this
PAUSE = (2 * SECOND, 40 * SECOND)

BOT_EVENTS = (600, 900)
BOT_PAUSE = (SECOND // 2, 3 * SECOND // 2)
BOT_QUERY = "pictures"
ID_BYTES = 8


class Event(NamedTuple):
    """One click or save."""

    timestamp: int  # milliseconds since 1970, UTC
    image: int  # number of the image
    action: str
    position: int  # rank in the list of results, from 1
    noise: bool  # the image does not fit what was searched for


class Session(NamedTuple):
    """One search session; `intent` is what was searched for, None for a bot."""

    session_id: str
    user_id: str
    query: str
    intent: Intent | None
    events: list[Event]

    @property
    def bot(self) -> bool:
        """Whether a program clicked."""
        return self.intent is None


class Shelves:
    """Which images can be clicked: by intent (broad ones too), all of them, and the hubs."""

    def __init__(self, images: Sequence[Image]) -> None:
        self.warm = [number for number, image in enumerate(images) if not image.cold]
        self.hubs = [number for number, image in enumerate(images) if image.hub]
        self.relevant: dict[Intent, list[int]] = defaultdict(list)
        for number in self.warm:
            intent = images[number].intent
            for searched in (intent, *(intent.broader(field) for field in Intent._fields)):
                self.relevant[searched].append(number)


def search_sessions(images: Sequence[Image], config: WorldConfig) -> Iterator[Session]:
    """The `config.sessions` sessions of people."""
    shelves = Shelves(images)
    rng = generator(config.seed, "sessions")
    intents = _popular_intents(images, config.sessions, rng)
    user_ids = _user_ids(config.num_users, config.sessions, rng)
    for number in range(config.sessions):
        own = generator(config.seed, "session", number)
        is_broad = own.random() < config.broad
        searched = _broadened(intents[number], own) if is_broad else intents[number]
        chosen = _choose_images(shelves, searched, config.noise, own)
        yield Session(
            session_id=_opaque_id(own),
            user_id=user_ids[number],
            query=query(searched, own),
            intent=searched,
            events=_human_events(chosen, own),
        )


def bot_sessions(images: Sequence[Image], config: WorldConfig) -> Iterator[Session]:
    """The `config.bots` sessions of BOT_EVENTS random images, every bot a user of its own."""
    warm = Shelves(images).warm
    for number in range(config.bots):
        rng = generator(config.seed, "bot", number)
        yield Session(
            session_id=_opaque_id(rng),
            user_id=_opaque_id(rng),
            query=BOT_QUERY,
            intent=None,
            events=_bot_events(warm, rng),
        )


def _popular_intents(
    images: Sequence[Image], sessions: int, rng: np.random.Generator
) -> list[Intent]:
    """One intent a session, by Zipf's law over the intents in a random order."""
    intents = rng.permutation(sorted({image.intent for image in images})).tolist()
    weights = np.arange(1, len(intents) + 1) ** -POPULARITY_EXPONENT
    drawn = rng.choice(len(intents), sessions, p=weights / weights.sum())
    return [Intent(*intents[i]) for i in drawn]


def _user_ids(users: int, sessions: int, rng: np.random.Generator) -> list[str]:
    """One user a session; how active the users are is spread exponentially."""
    ids = [_opaque_id(rng) for _ in range(users)]
    activity = rng.exponential(size=users)
    return [ids[i] for i in rng.choice(users, sessions, p=activity / activity.sum())]


def _opaque_id(rng: np.random.Generator) -> str:
    return rng.bytes(ID_BYTES).hex()


def _broadened(intent: Intent, rng: np.random.Generator) -> Intent:
    return intent.broader(Intent._fields[rng.integers(len(Intent._fields))])


def _choose_images(
    shelves: Shelves, searched: Intent, noise: float, rng: np.random.Generator
) -> list[tuple[int, bool]]:
    """Distinct images to click, each with whether it is noise, in random order.

    There are no more clicks than either kind of image could serve alone: so the share of noise is
    `noise` on average, also where few images are relevant.
    """
    relevant = shelves.relevant[searched]
    wanted = 1 + rng.binomial(MAX_CLICKS - 1, CLICK_CHANCE)
    clicks = min(wanted, len(relevant), len(shelves.warm) - len(relevant))
    is_noise = (rng.random(clicks) < noise).tolist()
    fitting = iter(rng.permutation(relevant)[:clicks].tolist())
    taken = set(relevant)
    chosen = []
    for stray in is_noise:
        image = _irrelevant(shelves, taken, rng) if stray else next(fitting)
        taken.add(image)
        chosen.append((image, stray))
    return chosen


def _irrelevant(shelves: Shelves, taken: set[int], rng: np.random.Generator) -> int:
    """A hub or any image, outside `taken`; the caller makes sure that there is one."""
    hubs = [hub for hub in shelves.hubs if hub not in taken]
    pool = hubs if hubs and rng.random() < HUB_NOISE else shelves.warm
    while True:
        image = pool[rng.integers(len(pool))]
        if image not in taken:
            return image


def _human_events(chosen: list[tuple[int, bool]], rng: np.random.Generator) -> list[Event]:
    """Clicks from the top of the list downwards, seconds apart; sometimes one is repeated."""
    positions = np.sort(rng.permutation(RESULTS_SEEN)[: len(chosen)] + 1).tolist()
    clicks = [(*click, position) for click, position in zip(chosen, positions, strict=True)]
    if rng.random() < REPEATED_CLICK:
        clicks.append(clicks[rng.integers(len(clicks))])
    times = _times(len(clicks), PAUSE, rng)
    saves = (rng.random(len(clicks)) < SAVES).tolist()
    return [
        Event(time, image, "save" if save else "click", position, noise)
        for time, save, (image, noise, position) in zip(times, saves, clicks, strict=True)
    ]


def _bot_events(warm: list[int], rng: np.random.Generator) -> list[Event]:
    size = int(rng.integers(*BOT_EVENTS, endpoint=True))
    times = _times(size, BOT_PAUSE, rng)
    picks = rng.integers(len(warm), size=size)
    return [
        Event(time, warm[pick], "click", position, noise=False)
        for position, (time, pick) in enumerate(zip(times, picks, strict=True), start=1)
    ]


def _times(size: int, pause: tuple[int, int], rng: np.random.Generator) -> list[int]:
    """Rising timestamps (milliseconds) from a random moment of the period on."""
    start = LAST_MOMENT - rng.integers(LONGEST_SESSION, PERIOD, endpoint=True)
    pauses = rng.integers(*pause, size=size, endpoint=True)
    return (start + np.cumsum(pauses)).tolist()
