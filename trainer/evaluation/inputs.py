"""What an evaluation reads from a run, as numpy arrays over one corpus.

In: the committed versions of a run. Out: the corpus (every image that has an embedding), and all
else with image ids replaced by their row in the corpus, -1 for an image that has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError
from pipeline.shards import read_shards, single
from pipeline.vectors import read_vectors

RAW_SIDE = 16  # pixels; pictures are shrunk to a square of this side
NO_ROW = -1
_READ_BATCH, _READ_VALUES = 256, 1 << 24  # examples, and pixels times channels, at once
_TEXT_BATCH = 256


@dataclass(frozen=True)
class Corpus:
    """Images with an embedding, in an order drawn by the seed: ties are broken by this order.

    ids: [n] string. vectors: [n, dim] float32, unit norm. sessions, degree: [n] int64, of the
    training sessions and of the graph; 0 for an image that is not in the graph.
    """

    ids: pa.Array
    vectors: np.ndarray
    sessions: np.ndarray
    degree: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, image_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The row of each image in the corpus, NO_ROW where it has none. [m] -> [m] int64."""
        return rows_in(image_ids, self.ids)


def rows_in(values: pa.Array | pa.ChunkedArray, among: pa.Array) -> np.ndarray:
    """Where each value stands in `among`, -1 where it does not. [m] -> [m] int64."""
    found = pc.fill_null(pc.index_in(values, value_set=among), NO_ROW)
    return np.asarray(found).astype(np.int64)


def check_model(embeddings: Version, model: Version) -> None:
    """ImgembedError where the embeddings are another model's than the run's."""
    made_by, _, fingerprint = str(embeddings.manifest["model_version"]).partition("-")
    if made_by != model.name or not model.manifest.get("fingerprint", "").startswith(fingerprint):
        raise ImgembedError(
            f"embeddings {embeddings.path}: were made by model {made_by}-{fingerprint}, not by "
            f"{model.path}; make them anew with: {schema.STAGE_COMMANDS[schema.EMBEDDINGS]}"
        )


def read_corpus(*, embeddings: Version, graph: Version, seed: int) -> Corpus:
    """The corpus; ImgembedError where nothing is embedded."""
    ids, vectors = read_vectors(embeddings, schema.IMAGE_EMBEDDINGS, schema.IMAGE_ID.name)
    if len(ids) == 0:
        raise ImgembedError(
            f"embeddings {embeddings.path}: hold no image, so there is nothing to rank; "
            f"make them anew with: {schema.STAGE_COMMANDS[schema.EMBEDDINGS]}"
        )
    order = np.random.default_rng(seed).permutation(len(ids))
    ids = ids.take(pa.array(order))
    nodes = read_shards(graph, schema.NODES, schema.NODE_SCHEMA)
    at = rows_in(ids, single(nodes["image_id"]))
    counts = [
        np.where(at >= 0, np.append(nodes[name].to_numpy(), 0)[at], 0)
        for name in ("sessions", "degree")
    ]
    return Corpus(ids, vectors[order], *counts)


@dataclass(frozen=True)
class Links:
    """Weighted links from owners (images or texts) to images of the corpus, sorted by owner.

    owner, column: [links] int64. weight: [links] float64, a larger one is stronger.
    """

    owner: np.ndarray
    column: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, owner: np.ndarray, column: np.ndarray, weight: np.ndarray) -> Links:
        """The links whose two ends are known."""
        known = np.flatnonzero((owner >= 0) & (column >= 0))
        order = known[np.argsort(owner[known], kind="stable")]
        return cls(owner[order], column[order], weight[order].astype(np.float64))

    def of_owners(self, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The links of some owners: (place in `owners`, place among the links), [found] each."""
        starts = np.searchsorted(self.owner, owners)
        counts = np.searchsorted(self.owner, owners, side="right") - starts
        place = np.repeat(np.arange(len(owners)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, starts[place] + within


def read_edges(graph: Version, corpus: Corpus) -> Links:
    """The graph's edges among images of the corpus, owned by their source."""
    edges = read_shards(graph, schema.EDGES, schema.EDGE_SCHEMA)
    ends = (corpus.rows_of(edges["src"]), corpus.rows_of(edges["dst"]))
    return Links.of(*ends, edges["weight"].to_numpy())


def read_clicks(graph: Version, corpus: Corpus, texts: pa.Array) -> tuple[Links, np.ndarray]:
    """Clicks of the training sessions, owned by text, and which texts were seen in them.

    texts: [t] string. Weights are sessions. Returns links and [t] bool.
    """
    clicks = read_shards(graph, schema.QUERIES, schema.QUERY_SCHEMA)
    owner = rows_in(clicks["query"], texts)
    seen = np.zeros(len(texts), bool)
    seen[owner[owner >= 0]] = True
    rows = corpus.rows_of(clicks["image_id"])
    return Links.of(owner, rows, clicks["sessions"].to_numpy()), seen


@dataclass(frozen=True)
class Holdout:
    """Held-out sessions that are evaluated.

    session: [clicks] int64. image_id: [clicks] string. query: [clicks] string, null where the log
    has none. sessions: how many there are before the draw.
    """

    session: np.ndarray
    image_id: pa.Array
    query: pa.Array
    sessions: int


def read_holdout(
    graph: Version, *, max_sessions: int | None, seed: int, among: np.ndarray | None = None
) -> Holdout:
    """At most `max_sessions` held-out sessions, drawn by the seed; each image of one once.

    among: [sessions] int, the numbers of those that may be drawn; None = all.
    """
    table = read_shards(graph, schema.HOLDOUT, schema.HOLDOUT_SCHEMA)
    if among is not None:
        table = table.filter(pc.is_in(table["session"], value_set=pa.array(among, pa.int64())))
    table = table.sort_by([("session", "ascending"), ("position", "ascending")])
    session = table["session"].to_numpy()
    distinct = np.unique(session)
    if max_sessions is not None and len(distinct) > max_sessions:
        drawn = np.random.default_rng(seed).choice(distinct, max_sessions, replace=False)
        kept = np.isin(session, drawn)
        table, session = table.filter(pa.array(kept)), session[kept]
    return Holdout(session, single(table["image_id"]), single(table["query"]), len(distinct))


@dataclass(frozen=True)
class Content:
    """What the examples say of the images of the corpus.

    raw: [n, features] float32, centred and of unit norm; 0 for an image without an example.
    train_labels, test_labels: [n, labels] int64, of images of that split, filled up with NO_LABEL.
    labels: the same of all splits.
    found: images of the corpus that have an example.
    """

    raw: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    labels: np.ndarray
    found: int


def read_content(examples: Version, corpus: Corpus, *, with_raw: bool = True) -> Content:
    """Raw features and labels of the corpus, from the examples of all splits.

    with_raw: without, `raw` has no columns, and no picture is decoded.
    """
    raw: np.ndarray | None = None
    labels: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {s: [] for s in schema.SPLITS}
    present = np.zeros(len(corpus), bool)
    for split, batch in _batches(examples, with_raw=with_raw):
        rows = corpus.rows_of(pa.array(batch["image_id"], pa.binary()).cast(pa.string()))
        known = rows >= 0
        if raw is None:
            raw = np.zeros((len(corpus), batch["raw"].shape[1]), np.float32)
        raw[rows[known]] = batch["raw"][known]
        labels[split].append((rows[known], batch["labels"][known]))
        present[rows[known]] = True
    if raw is None:
        raise ImgembedError(
            f"examples {examples.path}: hold no example; make them anew with: "
            f"{schema.STAGE_COMMANDS[schema.EXAMPLES]}"
        )
    train, _, test = (_label_rows(labels[split], len(corpus)) for split in schema.SPLITS)
    of_all = _label_rows([part for parts in labels.values() for part in parts], len(corpus))
    return Content(_centred(raw, present), train, test, of_all, int(present.sum()))


def _label_rows(parts: Sequence[tuple[np.ndarray, np.ndarray]], images: int) -> np.ndarray:
    """[images, labels] of (rows, their labels) of some images."""
    width = max((labels.shape[1] for _, labels in parts), default=0)
    found = np.full((images, width), schema.NO_LABEL)
    for rows, labels in parts:
        found[rows, : labels.shape[1]] = labels
    return found


def _centred(raw: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Rows minus their mean, of unit norm; 0 where not present or where nothing is left."""
    if present.any():
        raw[present] -= raw[present].mean(axis=0, dtype=np.float64).astype(np.float32)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    return np.divide(raw, norms, out=np.zeros_like(raw), where=norms > 1e-6)


def _batches(examples: Version, *, with_raw: bool) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(split, {image_id, raw, labels}) of many examples each; labels are those of the split."""
    import tensorflow as tf

    from trainer import parsing
    from trainer.example_files import ExampleFiles

    files = ExampleFiles.open(examples)
    multi = files.spec.multi_label
    content = [schema.content_feature(files.spec.feature_dim)] if with_raw else []
    of_training, held_out = (
        (schema.LABELS, schema.HELDOUT_LABELS) if multi else (schema.LABEL, schema.HELDOUT_LABEL)
    )

    def raw(parsed: dict[str, Any], examples: Any) -> Any:
        for feature in content:
            values = parsing.decode(parsed[feature.name], files)
            return _shrunk(values) if files.spec.feature_dim is None else values
        return tf.zeros([examples, 0], tf.float32)

    def parse(serialized: Any, labels: schema.Feature) -> dict[str, Any]:
        parsed = parsing.parse(serialized, (schema.IMAGE_ID, *content, labels))
        found = parsed[labels.name]
        return {
            "image_id": parsed[schema.IMAGE_ID.name],
            "raw": raw(parsed, tf.size(parsed[schema.IMAGE_ID.name])),
            "labels": found.to_tensor(schema.NO_LABEL) if multi else found[:, None],
        }

    rows = min(_READ_BATCH, max(1, _READ_VALUES // math.prod(files.content_shape)))
    for split in schema.SPLITS:
        if paths := files.files(split):
            labels = of_training if split == schema.SPLITS[0] else held_out
            records = tf.data.TFRecordDataset(paths, compression_type=files.compression)
            batches = records.batch(rows).map(partial(parse, labels=labels))
            for batch in batches.as_numpy_iterator():
                yield split, batch


def _shrunk(pictures: Any) -> Any:
    """[batch, side, side, 3] uint8 -> [batch, RAW_SIDE * RAW_SIDE * 3] float32."""
    import tensorflow as tf

    small = tf.image.resize(pictures, (RAW_SIDE, RAW_SIDE), method="area")
    return tf.reshape(small, [-1, RAW_SIDE * RAW_SIDE * 3])


def read_text_vectors(embeddings: Version, model: Version, texts: pa.Array) -> np.ndarray:
    """Vectors of texts [t, dim]: the published ones as exported, the others from the model."""
    keys, published = read_vectors(embeddings, schema.QUERY_EMBEDDINGS, "query")
    at = rows_in(texts, keys)
    vectors = np.empty((len(texts), published.shape[1]), np.float32)
    vectors[at >= 0] = published[at[at >= 0]]
    new = np.flatnonzero(at < 0)
    if len(new):
        vectors[new] = _encode_texts(model, texts.take(pa.array(new)).to_pylist())
    return vectors


def _encode_texts(model: Version, texts: list[str]) -> np.ndarray:
    import tensorflow as tf

    saved_model = tf.saved_model.load(model.file(schema.SAVED_MODEL_FOLDER))
    encode = saved_model.signatures[schema.TEXT_SIGNATURE]
    parts = []
    for start in range(0, len(texts), _TEXT_BATCH):
        batch = tf.constant(texts[start : start + _TEXT_BATCH])
        parts.append(encode(**{schema.TEXT_SIGNATURE: batch})[schema.EMBEDDING_OUTPUT].numpy())
    return np.concatenate(parts)
