"""The tf.Transform pass against counts in plain Python."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.runners.portability import fn_api_runner

from pipeline import schema
from pipeline.examples import transform, vocabularies, words
from trainer.transform import Transform

PIXELS = 16
LABELS = ["red", "a label of spaces", "Ünïcode 東京", "rare", " "]
TEXTS = [
    "Red bridges",
    "bridge, RED!",
    "東京タワー",
    "x",
    "",
    "the bridge at night 👍🏽",
    "über-Straße",
]

Rows = list[dict[str, Any]]


def settings(**changes: Any) -> transform.TransformSettings:
    return transform.TransformSettings(
        **{
            "max_tokens": 1_000,
            "min_token_count": 1,
            "token_buckets": 7,
            "min_label_count": 1,
            "subword_length": 3,
            "feature_dim": None,
            "image_pixels": PIXELS,
            **changes,
        }
    )


def picture_rows(number: int = 60) -> Rows:
    draw = random.Random(5)
    rows = []
    for _ in range(number):
        pixels = np.array([draw.choices(range(256), k=3) for _ in range(PIXELS)])
        rows.append(
            {
                "label": draw.sample(LABELS[:3], draw.randint(0, 2)) or None,
                "text": draw.choices(TEXTS, k=draw.randint(0, 3)),
                "split": draw.choice(schema.SPLITS),
                "channel_sums": pixels.sum(axis=0).tolist(),
                "channel_squares": (pixels**2).sum(axis=0).tolist(),
                "pixels": pixels,
            }
        )
    rows[3] |= {"label": ["rare", "broken\nline", ""], "split": "train"}
    rows[4] |= {"label": ["seen in test alone"], "split": "test"}
    return rows


def feature_rows(number: int = 40) -> Rows:
    draw = np.random.default_rng(2)
    values = draw.normal([0.0, 500.0, 3.0], [1.0, 20.0, 0.0], (number, 3)).astype(np.float32)
    return [
        {"label": None, "text": None, "split": "train", "features": row.tolist()} for row in values
    ]


def write(folder: Path, rows: Rows, *, tables: int = 1, **changes: Any) -> str:
    """Runs the pass over the rows in several tables; returns the folder of the transform."""
    table = pa.Table.from_pylist(rows, transform.INPUT_SCHEMA)
    size = -(-len(rows) // tables)
    parts = [table.slice(start, size) for start in range(0, len(rows), size)]
    target = str(folder / "transform")
    with (
        beam.Pipeline(runner=fn_api_runner.FnApiRunner()) as root,
        tft_beam.Context(temp_dir=str(folder / "work")),
    ):
        images = root | beam.Create(parts)
        preprocess = transform.Preprocess(settings(**changes))
        _ = images | transform.WriteTransform(target, preprocess)
    return target


def assets(folder: str) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in Path(folder, "transform_fn", "assets").iterdir()
    }


def plain_tokens(text: str, length: int) -> Iterator[str]:
    """Words and pieces, for texts whose words are known."""
    for word in words.words(tf.constant([text])).to_list()[0]:
        word = word.decode()
        yield word
        letters = word if length == 1 else f"<{word}>"
        if length and len(word) > 1 and not set(word) & set("東京タワ👍"):
            yield from (f"#{letters[i : i + length]}" for i in range(len(letters) - length + 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A transform of pictures, made in batches of 7 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transform, "_BATCH_ROWS", 7)
        yield write(tmp_path_factory.mktemp("pictures"), picture_rows())


def test_tokens_are_counted_as_by_hand_and_ordered_by_count_and_then_by_bytes(folder: str) -> None:
    counts = Counter(
        token for row in picture_rows() for text in row["text"] for token in plain_tokens(text, 3)
    )
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0].encode()))
    assert transform.vocabulary(folder, schema.TOKEN_VOCABULARY) == [token for token, _ in expected]
    found = vocabularies.read(str(Path(folder, "transform_fn", "assets")), schema.TOKEN_VOCABULARY)
    assert found == expected
    # tf.Transform's own reader finds the same file.
    entries = tft.TFTransformOutput(folder).vocabulary_by_name(schema.TOKEN_VOCABULARY)
    assert [entry.decode() for entry in entries] == [token for token, _ in expected]


def test_labels_are_counted_in_the_training_split_alone(folder: str) -> None:
    counts = Counter(
        label for row in picture_rows() if row["split"] == "train" for label in row["label"] or []
    )
    del counts["broken\nline"], counts[""]  # no line of a file
    found = transform.label_counts(folder)
    assert found == counts
    expected = sorted(counts, key=lambda label: (-counts[label], label.encode()))
    assert list(found) == transform.vocabulary(folder, schema.LABEL_VOCABULARY) == expected
    assert "seen in test alone" not in found


def test_no_order_of_the_images_and_no_cut_into_tables_shows(folder: str, tmp_path: Path) -> None:
    rows = picture_rows()
    random.Random(1).shuffle(rows)
    again = write(tmp_path, rows, tables=4)
    assert assets(again) == assets(folder)
    channels, channels_again = (Transform(of).channels() for of in (folder, again))
    np.testing.assert_array_equal(channels, channels_again)


def test_channel_statistics_are_those_of_all_pixels(folder: str) -> None:
    pixels = np.concatenate([row["pixels"] for row in picture_rows()])
    means, deviations = Transform(folder).channels()
    np.testing.assert_array_equal(means, pixels.mean(axis=0).astype(np.float32))
    np.testing.assert_allclose(deviations, pixels.std(axis=0), rtol=1e-6)


def test_known_labels_have_the_ids_that_the_transform_gives_them(folder: str) -> None:
    labels = [row["label"] for row in picture_rows()]
    labels += [["rare", "unheard", "red"], [], None, ["Red"]]
    column = pa.chunked_array(
        [pa.array(labels[:20], pa.list_(pa.string())), pa.array(labels[20:], pa.list_(pa.string()))]
    )
    found = transform.label_lists(folder, column)
    assert found.type == pa.large_list(pa.int64())
    layer = tft.TFTransformOutput(folder).transform_features_layer()
    rows = tf.ragged.constant([of or [] for of in labels], dtype=tf.string)
    own = layer({schema.TRANSFORM_LABEL: rows.with_row_splits_dtype(tf.int64)})
    known = [[i for i in of if i >= 0] for of in own[schema.TRANSFORMED_LABEL].to_list()]
    assert found.to_pylist() == known
    names = transform.vocabulary(folder, schema.LABEL_VOCABULARY)
    assert [names[i] for i in known[-4]] == ["rare", "red"]
    assert known[-3:] == [[], [], []]
    # A slice, and a column without rows.
    assert transform.label_lists(folder, column.slice(5, 30)).to_pylist() == known[5:35]
    assert transform.label_lists(folder, column.slice(0, 0)).to_pylist() == []


def test_rare_labels_and_rare_tokens_are_left_out(tmp_path: Path) -> None:
    rows: Rows = [
        {"label": [label], "text": [label], "split": "train"}
        | {"channel_sums": [0] * 3, "channel_squares": [0] * 3}
        for label in ["often"] * 3 + ["twice"] * 2 + ["also"] * 2 + ["once"]
    ]
    options = {"min_label_count": 2, "min_token_count": 2, "subword_length": 0, "max_tokens": 2}
    folder = write(tmp_path, rows, **options)
    assert transform.label_counts(folder) == {"often": 3, "also": 2, "twice": 2}
    # Of equal counts the first by its bytes; the third is beyond max_tokens.
    assert transform.vocabulary(folder, schema.TOKEN_VOCABULARY) == ["often", "also"]
    ids = Transform(folder).tokens(tf.constant(["also often twice once"])).to_list()[0]
    assert ids[:2] == [1, 0]
    assert all(2 <= token < 2 + 7 for token in ids[2:])
    # Black pictures: no deviation is below 1.
    means, deviations = Transform(folder).channels()
    assert (means.tolist(), deviations.tolist()) == ([0.0] * 3, [1.0] * 3)


def test_without_labels_and_texts_the_vocabularies_are_empty(tmp_path: Path) -> None:
    rows = feature_rows()
    folder = write(tmp_path, rows, feature_dim=3)
    assert transform.label_counts(folder) == {}
    assert transform.vocabulary(folder, schema.TOKEN_VOCABULARY) == []
    assert transform.label_lists(folder, pa.array([["x"], None])).to_pylist() == [[], []]
    (ids,) = Transform(folder).tokens(tf.constant(["any"])).to_list()
    assert all(1 <= token < 1 + 7 for token in ids)  # 0 is the stand-in's

    raw = np.array([row["features"] for row in rows], np.float32)
    scaled = transform.scaled_features(folder, raw)
    expected = (raw[:, :2] - raw[:, :2].mean(axis=0)) / raw[:, :2].std(axis=0)
    np.testing.assert_allclose(scaled[:, :2], expected, atol=1e-4)
    assert not scaled[:, 2].any()  # constant
    assert scaled.tobytes() == Transform(folder).features(tf.constant(raw)).numpy().tobytes()


def test_batches_begin_at_offset_0_and_mask_labels_outside_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transform, "_BATCH_ROWS", 7)
    rows = picture_rows(30)
    table = pa.Table.from_pylist(rows, transform.INPUT_SCHEMA)
    chunked = pa.concat_tables([table.slice(0, 11), table.slice(11, 19)])
    batches = list(transform.analysis_batches(chunked, None))
    assert [batch.num_rows for batch in batches] == [7, 7, 7, 7, 2]
    for batch in batches:
        assert batch.schema == transform.arrow_schema(None)
        for column in batch.columns:
            assert column.offset == 0
            assert column.offsets[0].as_py() == 0
            assert len(column.values) == column.offsets[-1].as_py()
    found = pa.Table.from_batches(batches).to_pylist()
    for row, batch in zip(rows, found, strict=True):
        labels = [label.decode() for label in batch["label"]]
        assert labels == ((row["label"] or []) if row["split"] == "train" else [])
        assert [text.decode() for text in batch["text"]] == row["text"]
        assert batch["channel_sums"] == row["channel_sums"]
        assert batch["channel_squares"] == row["channel_squares"]


def test_a_table_without_rows_gives_no_batch() -> None:
    assert list(transform.analysis_batches(transform.INPUT_SCHEMA.empty_table(), None)) == []


# Tokens -----------------------------------------------------------------------------------------


def cut(text: str, length: int) -> list[str]:
    (found,) = words.tokens(tf.constant([text]), subword_length=length).to_list()
    return [token.decode() for token in found]


def test_pieces_stand_behind_their_word() -> None:
    assert cut("Red cat", 3) == ["red", "#<re", "#red", "#ed>", "cat", "#<ca", "#cat", "#at>"]
    assert cut("red", 1) == ["red", "#r", "#e", "#d"]
    assert cut("red", 2) == ["red", "#<r", "#re", "#ed", "#d>"]
    assert cut("red", 6) == cut("red", 0) == ["red"]
    assert set(cut("bridge", 3)) & set(cut("bridges", 3)) == {
        "#<br",
        "#bri",
        "#rid",
        "#idg",
        "#dge",
    }


@pytest.mark.parametrize("text", ["x", "東京", "タワー", "ที่นี่", "👍🏽", "👩‍👧 🇩🇪", "", "..."])
def test_what_is_one_character_has_no_pieces(text: str) -> None:
    for length in (1, 2, 3):
        assert not [token for token in cut(text, length) if token.startswith("#")]


def test_pieces_are_cut_at_characters_not_at_bytes() -> None:
    assert cut("Öl", 2) == ["öl", "#<ö", "#öl", "#l>"]
    assert cut("книга", 4)[1:] == ["#<кни", "#книг", "#нига", "#ига>"]
    assert cut("한국어", 3)[1:] == ["#<한국", "#한국어", "#국어>"]


def test_tokens_of_many_texts_keep_to_their_rows() -> None:
    rows = tf.ragged.constant([["red x", "red"], [], ["", "東 cat"]], row_splits_dtype=tf.int64)
    found = words.tokens(rows, subword_length=3).to_list()
    expected = [[cut("red x", 3), cut("red", 3)], [], [[], cut("東 cat", 3)]]
    assert [[[t.decode() for t in text] for text in row] for row in found] == expected
    empty = tf.ragged.constant([[]], tf.string, ragged_rank=1, row_splits_dtype=tf.int64)
    assert words.tokens(empty, subword_length=3).to_list() == [[]]
