"""Texts to tokens, in TensorFlow operations: words, and the pieces of letters they are made of.

The same operations cut the texts of the training data and, inside of the served model, those of a
search. A token is a word, or a piece of one; the two never read alike.
"""

from __future__ import annotations

import tensorflow as tf

# Scripts that are written without spaces: each character is a word, with the marks that follow.
_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNSPACED = rf"[{_SCRIPTS}][\p{{M}}\x{{30FC}}]*"
_SKIN = r"\x{1F3FB}-\x{1F3FF}"
_JOINER = r"\x{200D}"
_ONE_EMOJI = rf"\p{{So}}[{_SKIN}]*"
_EMOJI = rf"[\x{{1F1E6}}-\x{{1F1FF}}]{{2}}|{_ONE_EMOJI}(?:{_JOINER}{_ONE_EMOJI})*"
# How a symbol is to be drawn, and what stands for bytes that are no text.
_IGNORED = r"[\x{FE0E}\x{FE0F}\x{FFFD}]"
_NO_WORD = rf"[^\p{{L}}\p{{N}}\p{{M}}\p{{So}}{_SKIN}{_JOINER}]+"

# None of these is ever part of a word.
PIECE_MARK, WORD_START, WORD_END = "#", "<", ">"
_NOT_CUT = rf"^(?:[{_SCRIPTS}\p{{So}}].*|.)$"


def words(texts: tf.Tensor | tf.RaggedTensor) -> tf.RaggedTensor:
    """The words of texts, lower-cased.

    texts: [...] string, UTF-8. Returns [..., None] string. A word is a run of letters, numbers and
    marks; one character of a script without spaces (Chinese, Japanese, Thai and their like); or one
    emoji, with its skin tones and all that is joined to it. All else parts words. There is no
    Unicode normalization: TensorFlow has none of its own.
    """
    texts = tf.strings.lower(texts, encoding="utf-8")
    texts = tf.strings.regex_replace(texts, _IGNORED, "")
    texts = tf.strings.regex_replace(texts, _NO_WORD, " ")
    texts = tf.strings.regex_replace(texts, rf"{_UNSPACED}|{_EMOJI}", r" \0 ")
    texts = tf.strings.regex_replace(texts, _JOINER, "")
    return tf.strings.split(texts)


def tokens(texts: tf.Tensor | tf.RaggedTensor, *, subword_length: int) -> tf.RaggedTensor:
    """The words of texts, each with its pieces behind it: [...] string -> [..., None] string.

    subword_length: see `pieces`; 0 = words alone.
    """
    found = words(texts)
    if not subword_length:
        return found
    # A word is cut once, however often it stands in the batch: half the time.
    distinct, place = tf.unique(found.flat_values)
    whole = tf.RaggedTensor.from_tensor(distinct[:, None])
    each = tf.concat([whole, pieces(distinct, subword_length)], axis=1)
    return found.with_flat_values(tf.gather(each, place)).merge_dims(-2, -1)


def pieces(of: tf.Tensor, length: int) -> tf.RaggedTensor:
    """All runs of `length` characters of each word, so that "bridges" shares some with "bridge".

    of: [words] string. Returns [words, None] string, each with a mark in front; the two ends of the
    word count as characters, if length > 1: 3, "cat" -> "#<ca", "#cat", "#at>". Words of one
    character, those of scripts without spaces and emoji have none.
    """
    cut = tf.strings.regex_replace(of, _NOT_CUT, "")
    if length > 1:
        cut = tf.strings.regex_replace(cut, "^.+$", rf"{WORD_START}\0{WORD_END}")
    runs = tf.strings.ngrams(tf.strings.unicode_split(cut, "UTF-8"), length, separator="")
    return runs.with_values(tf.strings.join([PIECE_MARK, runs.values]))
