"""Which pictures the world holds and what is known of them: a config in, a list of `Image` out.

The pictures are spread evenly over the intents, their numbers shuffled, so that an id says nothing
about what is shown. Labels, captions, hubs and cold images are drawn as exact shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.world.attributes import ALL_INTENTS, MAX_COUNT, Intent, choose_intents
from pipeline.world.config import WorldConfig
from pipeline.world.randomness import generator
from pipeline.world.wording import caption

IMAGES_PER_INTENT = 8
FEWEST_INTENTS = 12
COPIES = (0.6, 0.25, 0.15)  # shares of the pictures with one, two and three copies of the shape
HUB_SHARE = 0.01  # of all images; at least one image is a hub
PICTURES_FOLDER = "pictures"


@dataclass(frozen=True)
class Image:
    """One image; `label` and `text` are what the catalog tells, the rest is the truth."""

    image_id: str
    intent: Intent
    count: int  # copies of the shape, 1 to MAX_COUNT
    label: str | None
    text: str | None
    hub: bool  # an image that everybody clicks, whatever they search for
    cold: bool  # an image that no session holds

    @property
    def uri(self) -> str:
        """The picture's path, relative to the catalog file."""
        return f"{PICTURES_FOLDER}/{self.image_id}.png"


def num_intents(images: int) -> int:
    """How many intents that many images are spread over."""
    return min(max(images // IMAGES_PER_INTENT, FEWEST_INTENTS), len(ALL_INTENTS))


def plan_images(config: WorldConfig) -> list[Image]:
    """The world's images, by number.

    Every intent keeps at least one image that is not cold, so that each search can find something.
    """
    rng = generator(config.seed, "catalog")
    images = config.images
    intents = _deal_intents(images, rng)
    has_label = _exact_share(config.labelled, images, rng)
    has_caption = _exact_share(config.captioned, images, rng)
    is_cold = _choose_cold(intents, config.cold, rng)
    is_hub = _choose_hubs(is_cold, rng)
    counts = rng.choice(np.arange(1, MAX_COUNT + 1), images, p=COPIES).tolist()
    return [
        Image(
            image_id=f"img-{number:05d}",
            intent=intent,
            count=counts[number],
            label=intent.shape if has_label[number] else None,
            text=caption(intent, counts[number], rng) if has_caption[number] else None,
            hub=bool(is_hub[number]),
            cold=bool(is_cold[number]),
        )
        for number, intent in enumerate(intents)
    ]


def _deal_intents(images: int, rng: np.random.Generator) -> list[Intent]:
    intents = choose_intents(num_intents(images), rng)
    return [intents[i] for i in rng.permutation(images) % len(intents)]


def _exact_share(share: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """A bool mask of `size` with round(share * size) ones."""
    return rng.permutation(size) < round(share * size)


def _choose_cold(intents: list[Intent], share: float, rng: np.random.Generator) -> np.ndarray:
    """A mask of the cold images, which spares the first image of each intent."""
    spared = {intents.index(intent) for intent in set(intents)}
    candidates = np.array([i for i in range(len(intents)) if i not in spared])
    number = min(round(share * len(intents)), len(candidates))
    mask = np.zeros(len(intents), bool)
    mask[rng.permutation(candidates)[:number]] = True
    return mask


def _choose_hubs(cold: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask of the hubs, none of them cold."""
    number = max(1, round(HUB_SHARE * len(cold)))
    mask = np.zeros(len(cold), bool)
    mask[rng.permutation(np.flatnonzero(~cold))[:number]] = True
    return mask
