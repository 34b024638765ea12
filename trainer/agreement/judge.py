"""A fitted agreement model: the probability that two nodes are of one class.

In: nodes [n, d] and pairs of their rows, or two tensors of nodes. Out: [p] float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from trainer.agreement.calibration import best_temperature, measure
from trainer.agreement.network import AgreementModel
from trainer.agreement.pair_sets import Graph
from trainer.agreement.pairs import Agreement
from trainer.config import AgreementConfig

PAIRS_AT_ONCE = 65_536
_NODES_AT_ONCE = 16_384


@dataclass(frozen=True)
class Judge:
    """An agreement model as it was fitted.

    weights: of its network, in its order. feature_dim: numbers that it looks at of an edge. scale:
    nodes are multiplied by it. temperature: logits are divided by it. figures: of held-out pairs,
    and of the fit. unusable: the line that says why no edge should be judged by it; None: it may.
    """

    settings: AgreementConfig
    weights: Sequence[np.ndarray]
    feature_dim: int
    scale: float = 1.0
    temperature: float = 1.0
    figures: Mapping[str, float] = field(default_factory=dict)
    unusable: str | None = None

    def arrays(self) -> list[np.ndarray]:
        """All that its answers come from."""
        usable = self.unusable is None
        numbers = [self.feature_dim, self.scale, self.temperature, usable]
        return [np.array(numbers, np.float32), *self.weights]

    @classmethod
    def of_arrays(cls, arrays: Sequence[np.ndarray], settings: AgreementConfig) -> Judge:
        """What `arrays` gave, without figures. settings: those that it was fitted with."""
        (feature_dim, scale, temperature, usable), *weights = arrays
        found = cls(settings, weights, int(feature_dim), float(scale), float(temperature))
        return found if usable else replace(found, unusable="it was of no use")

    def of_tensors(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """A function of nodes left and right [p, d] to probabilities [p], for use within a step."""
        network = self._network()

        def judge(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
            encoded = (network.encode(side * self.scale) for side in (left, right))
            return tf.sigmoid(network.compare(*encoded) / self.temperature)

        return judge

    def of_pairs(self, nodes: np.ndarray) -> Agreement:
        """A function of pairs of rows of nodes [p, 2], none of them an edge, to [p] float32."""
        network = self._network()
        encoded = _encode(network, nodes, self.scale)
        return lambda pairs: self._compare(network, encoded, pairs, None)

    def checked_by(self, nodes: np.ndarray, pairs: np.ndarray, agree: np.ndarray) -> Judge:
        """The same, set right and measured by pairs of nodes whose labels nothing has seen.

        Neither this model nor the one that made the nodes. agree [p] bool: of both kinds. Its
        figures are added as validation_<name>.
        """
        network = self._network()
        logits = self._logits(network, _encode(network, nodes, self.scale), pairs, None)
        temperature = self.temperature
        if self.settings.calibrate:
            temperature = best_temperature(logits, agree)
        found = measure(logits / temperature, agree)
        figures = {f"validation_{name}": value for name, value in found.items()}
        return replace(
            self,
            temperature=temperature,
            figures={**self.figures, **figures},
            unusable=self.unusable or too_weak(found["auc"], self.settings.min_auc),
        )

    def of_edges(self, nodes: np.ndarray, graph: Graph) -> np.ndarray:
        """[edges] float32, of each edge's two ends."""
        network = self._network()
        features = graph.features if self.feature_dim else None
        return self._compare(network, _encode(network, nodes, self.scale), graph.edges, features)

    def _compare(
        self,
        network: AgreementModel,
        encoded: np.ndarray,
        pairs: np.ndarray,
        features: np.ndarray | None,
    ) -> np.ndarray:
        logits = self._logits(network, encoded, pairs, features)
        return tf.sigmoid(logits / np.float32(self.temperature)).numpy()

    def _logits(
        self,
        network: AgreementModel,
        encoded: np.ndarray,
        pairs: np.ndarray,
        features: np.ndarray | None,
    ) -> np.ndarray:
        found = np.empty(len(pairs), np.float32)
        for part in _parts(len(pairs), PAIRS_AT_ONCE):
            left, right = (encoded[end] for end in pairs[part].T)
            logits = network.compare(left, right, None if features is None else features[part])
            found[part] = logits.numpy()
        return found

    def _network(self) -> AgreementModel:
        network = AgreementModel(self.settings.hidden, self.settings.aggregation)
        network.make_weights(self.weights[0].shape[0], self.feature_dim)
        network.set_weights(self.weights)
        return network


def too_weak(auc: float, least: float) -> str | None:
    """What to say where pairs are told apart worse than is wanted (guard A)."""
    return None if auc >= least else f"AUC of held-out pairs {auc:.2f}, below {least:g}"


def _encode(network: AgreementModel, nodes: np.ndarray, scale: float) -> np.ndarray:
    parts = _parts(len(nodes), _NODES_AT_ONCE)
    blocks = [network.encode(tf.constant(nodes[part] * np.float32(scale))) for part in parts]
    return np.concatenate(blocks)


def _parts(length: int, at_once: int) -> Iterator[slice]:
    """Slices that cover all rows; one, an empty one, where there is none."""
    return (slice(start, start + at_once) for start in range(0, max(length, 1), at_once))
