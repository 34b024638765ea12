"""The trained model as the export and the search see it: a SavedModel with named signatures.

Loads TensorFlow only where a model is called.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError

# |norm - 1| of an embedding that the model calls a unit vector.
NORM_TOLERANCE = 1e-3
# Kernels treat the last rows of a batch that is no multiple of their block in another way, and the
# last bits of a result with them. In whole blocks a row's result does not depend on its place.
BLOCK_ROWS = 16


def model_version(model: Version) -> str:
    """What the embeddings carry to say which model made them: `v0003-1f0c9a2b`."""
    fingerprint = model.manifest.get("fingerprint")
    return f"{model.name}-{fingerprint[:8]}" if fingerprint else model.name


def has_signature(model: Version, signature: str) -> bool:
    """Whether the SavedModel can be called so."""
    return signature in model.manifest.get("signatures", ())


def require_signature(model: Version, signature: str, wanted_for: str) -> None:
    """ImgembedError where the model has no such signature; `wanted_for` names the use."""
    if not has_signature(model, signature):
        has = ", ".join(repr(name) for name in model.manifest.get("signatures", ())) or "none"
        raise ImgembedError(
            f"model {model.path}: has no signature {signature!r}, which {wanted_for} needs; "
            f"it has {has}"
        )


_loading = threading.Lock()


def load_saved_model(path: str) -> Any:
    """The SavedModel in a folder; its signatures are called by name.

    One model a process, however many steps and threads of it ask.
    """
    with _loading:
        return _loaded(path)


@lru_cache(maxsize=1)
def _loaded(path: str) -> Any:
    import tensorflow as tf

    try:
        return tf.saved_model.load(path)
    except (OSError, ValueError, IndexError, tf.errors.OpError) as error:
        # IndexError is what TensorFlow says of weights that are cut.
        reason = str(error).splitlines()[0]
        raise ImgembedError(f"model {path}: cannot be loaded as a SavedModel ({reason})") from error


def call_size(batch_size: int) -> int:
    """Rows of a call of the model: whole blocks, at most `batch_size`, but at least one block."""
    return max(BLOCK_ROWS, batch_size // BLOCK_ROWS * BLOCK_ROWS)


def padded(batch: np.ndarray, size: int) -> np.ndarray:
    """The batch filled up to `size` rows by its last one. [n, …], 0 < n <= size -> [size, …]."""
    missing = size - len(batch)
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch


def embed_rows(saved_model: Any, signature: str, rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Unit vectors of rows: [n] object (bytes) or [n, features] float32, n > 0 -> [n, dim] float32.

    The model is always called with exactly `batch_size` rows, the last call's filled up, so that
    a vector does not depend on the rows that it is embedded with.
    """
    import tensorflow as tf

    call = saved_model.signatures[signature]
    outputs = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        answer = call(**{signature: tf.constant(padded(part, batch_size))})
        outputs.append(answer[schema.EMBEDDING_OUTPUT].numpy()[: len(part)])
    return np.concatenate(outputs)


def check_unit_norm(vectors: np.ndarray, what: str) -> None:
    """ImgembedError where a vector is not of unit norm: [n, dim]. `what` says of what they are."""
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1.0) < NORM_TOLERANCE))  # NaN is wrong as well
    if len(wrong):
        raise ImgembedError(
            f"{what}: {len(wrong)} of {len(vectors)} embeddings have no unit norm "
            f"(the first has {norms[wrong[0]]:.4g}, wanted 1 within {NORM_TOLERANCE}); "
            "the model's training may have diverged"
        )
