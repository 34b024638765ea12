"""What neural-structured-learning's users configure: the same names, defaults and meaning.

All are frozen and made of plain values, so that they pickle, compare, and travel in a saved model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from pipeline import schema


class DistanceType(str, Enum):
    """Distances of two rows of numbers; l2 is squared. The divergences are of distributions."""

    L1 = "l1"
    L2 = "l2"
    COSINE = "cosine"
    JENSEN_SHANNON_DIVERGENCE = "jensen_shannon_divergence"
    KL_DIVERGENCE = "kl_divergence"


class TransformType(str, Enum):
    """What is done to both sides before their distance is taken."""

    SOFTMAX = "softmax"
    NONE = "none"


class Reduction(str, Enum):
    """How many weighted distances become one; the values are those of tf.compat.v1.losses.

    NONE leaves them; SUM; MEAN is the sum over the sum of the weights; SUM_OVER_BATCH_SIZE over the
    number of distances; SUM_BY_NONZERO_WEIGHTS over the number of those whose weight is not 0.
    The names may be given in lower case too: "mean" is "weighted_mean".
    """

    NONE = "none"
    SUM = "weighted_sum"
    MEAN = "weighted_mean"
    SUM_OVER_BATCH_SIZE = "weighted_sum_over_batch_size"
    SUM_BY_NONZERO_WEIGHTS = "weighted_sum_by_nonzero_weights"

    @classmethod
    def _missing_(cls, value: object) -> Reduction | None:
        return cls.__members__.get(str(value).upper())


@dataclass(frozen=True)
class DistanceConfig:
    """The distance of two sides, and what becomes of many of them; see `pairwise_distance`.

    distance_type, reduction and transform_fn may be given as strings.
    sum_over_axis: where averages are taken, numbers along this axis count as one distance, their
    sum; None: each number is a distance of its own. cosine and the divergences need it.
    """

    distance_type: DistanceType | str = DistanceType.L2
    reduction: Reduction | str = Reduction.SUM_BY_NONZERO_WEIGHTS
    sum_over_axis: int | None = None
    transform_fn: TransformType | str = TransformType.NONE

    def __post_init__(self) -> None:
        kinds = {
            "distance_type": DistanceType,
            "reduction": Reduction,
            "transform_fn": TransformType,
        }
        for name, kind in kinds.items():
            object.__setattr__(self, name, _member(kind, name, getattr(self, name)))


def _member(kind: Any, name: str, value: object) -> Enum:
    """The member that a value names; ValueError that says which there are."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(each.name.lower()) for each in kind)
        raise ValueError(f"{name} is {value!r}; known are {known}") from None


@dataclass(frozen=True)
class GraphNeighborConfig:
    """What neighbours' features are called, `<prefix><i>_<name>`, and how many of them are used.

    The weight of neighbour i is `<prefix><i><weight_suffix>`. max_neighbors 0: none are used.
    """

    prefix: str = schema.NEIGHBOR_PREFIX
    weight_suffix: str = schema.WEIGHT_SUFFIX
    max_neighbors: int = 0


@dataclass(frozen=True)
class GraphRegConfig:
    """Graph regularization: the graph loss counts `multiplier` times beside the model's own."""

    neighbor_config: GraphNeighborConfig = field(default_factory=GraphNeighborConfig)
    multiplier: float = 0.01
    distance_config: DistanceConfig = field(default_factory=DistanceConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a saved model."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GraphRegConfig:
        """What `to_dict` gave."""
        return cls(
            neighbor_config=GraphNeighborConfig(**values["neighbor_config"]),
            multiplier=values["multiplier"],
            distance_config=DistanceConfig(**values["distance_config"]),
        )


def make_graph_reg_config(
    neighbor_prefix: str = schema.NEIGHBOR_PREFIX,
    neighbor_weight_suffix: str = schema.WEIGHT_SUFFIX,
    max_neighbors: int = 0,
    multiplier: float = 0.01,
    distance_type: DistanceType | str = DistanceType.L2,
    reduction: Reduction | str = Reduction.SUM_BY_NONZERO_WEIGHTS,
    sum_over_axis: int | None = None,
    transform_fn: TransformType | str = TransformType.NONE,
) -> GraphRegConfig:
    """A GraphRegConfig from flat arguments, in the order of neural-structured-learning's."""
    return GraphRegConfig(
        GraphNeighborConfig(neighbor_prefix, neighbor_weight_suffix, max_neighbors),
        multiplier,
        DistanceConfig(distance_type, reduction, sum_over_axis, transform_fn),
    )
