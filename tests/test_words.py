"""Texts are cut into words, in every script alike."""

from __future__ import annotations

import pytest
import tensorflow as tf

from pipeline.examples import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World's t-shirt_x 12.5", ["hello", "world", "s", "t", "shirt", "x", "12", "5"]),
        ("ÉCOLE Straße ΣΊΣΥΦΟΣ", ["école", "straße", "σίσυφος"]),
        ("東京タワー is たかい", ["東", "京", "タ", "ワー", "is", "た", "か", "い"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("한국어 книга 3️⃣", ["한국어", "книга", "3⃣"]),
        ("cats👍🏽❤️🇩🇪🇫🇷", ["cats", "👍🏽", "❤", "🇩🇪", "🇫🇷"]),
        ("👩‍👧 x", ["👩👧", "x"]),
        (" \t\n ", []),
        ("", []),
        ("!?-_", []),
    ],
)
def test_words_of_a_text(text: str, expected: list[str]) -> None:
    found = words.words(tf.constant([text]))[0].numpy()
    assert [word.decode() for word in found] == expected


def test_words_of_bytes_that_are_no_text_do_not_fail() -> None:
    assert words.words(tf.constant([b"\xff\xfeabc \xe4"])).to_list() == [[b"abc"]]


def test_no_piece_reads_like_a_word() -> None:
    text = "#<ca #cat <cat> at>"
    found = words.tokens(tf.constant([text]), subword_length=3)[0].numpy()
    whole = [token for token in found if not token.startswith(b"#")]
    assert whole == [b"ca", b"cat", b"cat", b"at"]
