"""Symbols and their numbers: characters, bytes or words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import IntArray
from ntp_envs.checks import check_in, check_int

#: kinds of symbols, and how many a vocabulary holds at most if nothing else is said
MAX_VOCAB = {"char": 96, "byte": 256, "word": 1000}
TOKENS = tuple(MAX_VOCAB)
#: share of a text that may be unknown before a vocabulary counts as too small, and what is left of it in a larger one
TOO_MANY, FEW = 0.05, 0.01
#: characters up to which a default vocabulary grows where the script has more than 96 in use
GROWN = 4096
#: what the token for everything rare is decoded as
UNKNOWN = "\ufffd"

# a run of word characters or one other character, with the space before it; else white space, of which a run leaves
# its last character to the word that follows
WORD = re.compile(r" ?\w+| ?[^\w\s]|\s+(?!\S)|\s")


def split_words(text: str) -> list[str]:
    """A text cut into words; joined again they are the text, whatever it is.

    A word is a run of letters, digits and underscores, or one other visible character, each together with one space
    before it if there is one; what white space remains is cut before its last character.

    >>> split_words("It isn't, is it?")
    ['It', ' isn', "'", 't', ',', ' is', ' it', '?']
    """
    return WORD.findall(text)


class UnknownTokensWarning(UserWarning):
    """Much of a text is the unknown token, which hides what it stands for; the message has the share and the knob."""


@dataclass(frozen=True)
class Vocabulary:
    """Numbers for symbols, those of the text it was built from that are not too rare, in ascending order.

    The last token stands for every other symbol (it is decoded as U+FFFD), except where all 256 bytes have their own.

    Attributes:
        tokens: ``"char"``, ``"byte"`` or ``"word"`` (`split_words`).
        symbols: characters, words, or bytes as integers.

    >>> vocabulary = Vocabulary.build("a cat", "char")
    >>> vocabulary.encode("act!").tolist(), vocabulary.decode([1, 3]), vocabulary.size
    ([1, 2, 3, 4], 'at', 5)
    """

    tokens: str
    symbols: tuple[Any, ...]

    @classmethod
    def build(
        cls, text: str | bytes, tokens: str = "char", max_vocab: int | None = None, *, always: Sequence[Any] = ()
    ) -> Vocabulary:
        """The most frequent symbols of a text, ties to the smaller one.

        Args:
            text: bytes where ``tokens="byte"``, else a string.
            tokens: kind of symbol.
            max_vocab: largest vocabulary, the unknown token included, at least 2; by default 96 characters, 256 bytes
                or 1000 words. Where 96 characters leave more than 5 % of the text unknown, as in Chinese, the default
                is as many as leave at most 1 %, up to 4096.
            always: symbols that are kept however rare they are.

        Raises:
            ValueError, TypeError: an unknown kind of token, a max_vocab below 2, an empty text or one of a wrong type.
        """
        check_in("tokens", tokens, TOKENS)
        limit = MAX_VOCAB[tokens] if max_vocab is None else check_int("max_vocab", max_vocab, minimum=2)
        found = _counted(_checked(text, tokens), tokens)
        if not found:
            raise ValueError("text is empty; there is nothing to build a vocabulary from.")
        if max_vocab is None and tokens == "char" and least_vocab(found, TOO_MANY) > limit:
            limit = min(least_vocab(found, FEW), GROWN)
        full = tokens == "byte" and limit >= 256 and len(found) == 256
        found.sort(key=lambda item: (item[0] not in always, -item[1], item[0]))
        return cls(tokens, tuple(sorted(symbol for symbol, _ in found[: limit if full else limit - 1])))

    @property
    def size(self) -> int:
        """A: the number of tokens, the unknown one included."""
        return len(self.symbols) + (self.unknown is not None)

    @property
    def unknown(self) -> int | None:
        """The token for rare symbols, ``A - 1``; ``None`` where all 256 bytes have their own."""
        return None if self.tokens == "byte" and len(self.symbols) == 256 else len(self.symbols)

    def encode(self, text: str | bytes) -> IntArray:
        """``(t,)`` tokens of a text; a string is taken as UTF-8 where the symbols are bytes."""
        data = _checked(text, self.tokens)
        if isinstance(data, str) and self.tokens == "word":
            numbers, missing = self._numbers, len(self.symbols)
            return np.array([numbers.get(word, missing) for word in split_words(data)], dtype=np.int64)
        codes = _codes(data)
        known = self._codes
        at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        return np.where(known[at] == codes, at, len(known)).astype(np.int64)

    def lengths(self, text: str | bytes) -> IntArray:
        """``(t,)`` characters (or bytes) that each token of a text stands for there."""
        data = _checked(text, self.tokens)
        if isinstance(data, str) and self.tokens == "word":
            return np.array([len(word) for word in split_words(data)], dtype=np.int64)
        return np.ones(len(data), dtype=np.int64)

    def decode(self, tokens: Sequence[int] | NDArray[np.integer]) -> str:
        """The text of ``(t,)`` tokens: what was encoded, where nothing in it was rare.

        Bytes that are not UTF-8, and the unknown token, appear as U+FFFD.
        """
        numbers = [int(token) for token in tokens]
        for token in numbers:
            if not 0 <= token < self.size:
                raise ValueError(f"token {token} is outside the vocabulary [0, {self.size - 1}].")
        if self.tokens == "byte":
            unknown = UNKNOWN.encode()
            known = len(self.symbols)
            data = b"".join(bytes([self.symbols[i]]) if i < known else unknown for i in numbers)
            return data.decode("utf-8", errors="replace")
        return "".join(self.symbols[i] if i < len(self.symbols) else UNKNOWN for i in numbers)

    @cached_property
    def _numbers(self) -> dict[Any, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    @cached_property
    def _codes(self) -> IntArray:
        return np.array([s if isinstance(s, int) else ord(s) for s in self.symbols], dtype=np.int64)


def least_vocab(counts: Sequence[tuple[Any, int]], share: float) -> int:
    """The smallest vocabulary, the unknown token included, that leaves at most a share of a text unknown.

    >>> least_vocab([("a", 90), ("b", 8), ("c", 2)], 0.05)
    3
    """
    falling = np.sort([count for _, count in counts])[::-1]
    left = falling.sum() - np.cumsum(falling)
    return int(np.argmax(left <= share * falling.sum())) + 2


def counted(text: str | bytes, tokens: str) -> list[tuple[Any, int]]:
    """Symbols of a text and how often they occur."""
    return _counted(_checked(text, tokens), tokens)


def _checked(text: str | bytes, tokens: str) -> str | bytes:
    if tokens == "byte" and isinstance(text, str):
        return text.encode("utf-8", errors="surrogatepass")
    wanted = bytes if tokens == "byte" else str
    if not isinstance(text, wanted):
        raise TypeError(f"text must be {wanted.__name__} for tokens={tokens!r}, not {type(text).__name__}.")
    return text


def _codes(data: str | bytes) -> IntArray:
    """Code points of a string, or the bytes."""
    if isinstance(data, bytes):
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    return np.frombuffer(data.encode("utf-32-le", errors="surrogatepass"), dtype="<u4").astype(np.int64)


def _counted(data: str | bytes, tokens: str) -> list[tuple[Any, int]]:
    """Symbols and how often they occur."""
    if isinstance(data, str) and tokens == "word":
        return list(Counter(split_words(data)).items())
    counts = np.bincount(_codes(data))
    present = np.flatnonzero(counts)
    return [(int(code) if tokens == "byte" else chr(code), int(counts[code])) for code in present]
