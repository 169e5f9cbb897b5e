"""Vocabularies: nothing is lost that was not rare, and what is rare is one token."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from ntp_envs.text import Vocabulary, split_words
from ntp_envs.text.vocabulary import GROWN, MAX_VOCAB, UNKNOWN

anything = st.text(min_size=1, max_size=200)
hypothetically = examples(200)


@hypothetically
@given(anything)
def test_characters_round_trip(text):
    vocabulary = Vocabulary.build(text, "char", max_vocab=1000)
    tokens = vocabulary.encode(text)
    assert tokens.dtype == np.int64 and vocabulary.decode(tokens) == text
    assert vocabulary.size == len(set(text)) + 1 and tokens.max() < vocabulary.unknown
    assert [vocabulary.symbols[t] for t in tokens] == list(text)
    np.testing.assert_array_equal(vocabulary.lengths(text), np.ones(len(text)))


@hypothetically
@given(anything)
def test_words_round_trip_and_lengths_add_up(text):
    assert "".join(split_words(text)) == text
    vocabulary = Vocabulary.build(text, "word")
    tokens = vocabulary.encode(text)
    assert vocabulary.decode(tokens) == text
    np.testing.assert_array_equal(vocabulary.lengths(text), [len(word) for word in split_words(text)])
    assert vocabulary.lengths(text).sum() == len(text)


@hypothetically
@given(st.binary(min_size=1, max_size=300))
def test_bytes_are_themselves(data):
    vocabulary = Vocabulary.build(data, "byte")
    tokens = vocabulary.encode(data)
    assert bytes(vocabulary.symbols[t] for t in tokens) == data
    assert vocabulary.decode(tokens) == data.decode("utf-8", errors="replace")


@hypothetically
@given(anything, st.sampled_from(["char", "word"]), st.integers(2, 8))
def test_the_rarest_become_one_token(text, kind, limit):
    vocabulary = Vocabulary.build(text, kind, max_vocab=limit)
    counts = Counter(split_words(text) if kind == "word" else text)
    assert vocabulary.size == min(limit, len(counts) + 1) and vocabulary.unknown == vocabulary.size - 1
    assert list(vocabulary.symbols) == sorted(vocabulary.symbols)
    left_out = set(counts) - set(vocabulary.symbols)
    assert max([counts[s] for s in left_out], default=0) <= min(counts[s] for s in vocabulary.symbols)
    unknown = int((vocabulary.encode(text) == vocabulary.unknown).sum())
    assert unknown == sum(counts[s] for s in left_out)
    assert vocabulary == Vocabulary.build(text, kind, max_vocab=limit)


def test_words_are_cut_as_documented():
    assert split_words("a  b\n\n   c.d\te_1 don't") == [
        *("a", " ", " b", "\n\n  ", " c", ".", "d", "\t", "e_1", " don", "'", "t"),
    ]
    assert split_words("   ") == ["   "] and split_words("") == []
    assert split_words("été 数独") == ["été", " 数独"]


def test_a_line_without_spaces_is_one_word():
    text = "x" * 1_000_000 + " " * 300_000 + "y"
    assert [len(word) for word in split_words(text)] == [1_000_000, 299_999, 2]


def test_symbols_never_seen_are_unknown():
    vocabulary = Vocabulary.build("abc", "char")
    assert vocabulary.encode("a!c\U0001f642").tolist() == [0, 3, 2, 3]
    assert vocabulary.decode([0, 3]) == "a" + UNKNOWN
    words = Vocabulary.build("one two", "word")
    assert words.decode(words.encode("one three two")) == f"one{UNKNOWN} two"
    assert Vocabulary.build(b"\xff\x00", "byte").decode([0, 1, 2]) == "\0" + 2 * UNKNOWN
    assert vocabulary.encode("").tolist() == vocabulary.lengths("").tolist() == []


def test_all_bytes_need_no_unknown():
    everything = bytes(range(256))
    vocabulary = Vocabulary.build(everything * 2, "byte")
    assert vocabulary.size == 256 and vocabulary.unknown is None
    np.testing.assert_array_equal(vocabulary.encode(everything), np.arange(256))
    assert Vocabulary.build(everything, "byte", max_vocab=100).size == 100
    assert Vocabulary.build(everything[1:], "byte").unknown == 255
    assert Vocabulary.build("é", "byte").symbols == (0xA9, 0xC3)


def test_sizes_stay_moderate():
    many = "".join(chr(c) for c in range(0x4E00, 0x5200))
    assert Vocabulary.build("a" * 20_000 + many, "char").size == MAX_VOCAB["char"] == 96
    assert Vocabulary.build("".join(map(chr, range(0x4E00, 0x9000))), "char").size == GROWN == 4096
    assert Vocabulary.build(" ".join(many), "word").size == MAX_VOCAB["word"] == 1000
