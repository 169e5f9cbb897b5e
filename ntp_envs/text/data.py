"""A corpus as tokens: read once, cut into a training and a held-out part, numbered, and kept."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs.text.corpus import corpus_key, load_bytes, load_text
from ntp_envs.text.vocabulary import Vocabulary

__all__ = ["TextData", "TextPart", "least_length", "load_data"]


@dataclass(frozen=True, eq=False)
class TextPart:
    """One stretch of text.

    Attributes:
        tokens: ``(L,)`` int64, read-only.
        lengths: ``(L,)`` characters (bytes, where tokens are bytes) that each token stands for in the text.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class TextData:
    """A corpus cut in two: the end is held out, and the vocabulary is that of the rest.

    Attributes:
        train, held_out: the two parts.
        vocabulary: built from ``train``.
        sha256: of the text read, before lower-casing, in hexadecimal: tells whether two runs read the same.
    """

    train: TextPart
    held_out: TextPart
    vocabulary: Vocabulary
    sha256: str


def load_data(
    corpus: str, *, tokens: str, lower: bool, max_vocab: int | None, max_chars: int | None, held_out: float
) -> TextData:
    """Read a corpus, or give back what was read before in this process if it has not changed since.

    Args:
        corpus, max_chars: as for `load_text`.
        tokens, max_vocab: as for `Vocabulary.build`.
        lower: lower-case it first; of bytes only the ASCII letters.
        held_out: share of the characters (or bytes), at the end, that is held out; in (0, 1).

    Raises:
        OSError, ValueError, ImportError: the corpus cannot be read; see `load_text`.
    """
    return _load(corpus_key(corpus), corpus, tokens, lower, max_vocab, max_chars, held_out)


@lru_cache(maxsize=8)
def _load(
    key: tuple[Any, ...],
    corpus: str,
    tokens: str,
    lower: bool,
    max_vocab: int | None,
    max_chars: int | None,
    held_out: float,
) -> TextData:
    text: str | bytes
    if tokens == "byte":
        text = load_bytes(corpus, max_chars=max_chars)
        raw = text
    else:
        text = load_text(corpus, max_chars=max_chars)
        raw = text.encode("utf-8", errors="surrogatepass")
    text = text.lower() if lower else text
    cut = len(text) - math.floor(held_out * len(text))
    vocabulary = Vocabulary.build(text[:cut], tokens, max_vocab)
    parts = [_part(vocabulary, piece) for piece in (text[:cut], text[cut:])]
    return TextData(parts[0], parts[1], vocabulary, hashlib.sha256(raw).hexdigest())


def _part(vocabulary: Vocabulary, text: str | bytes) -> TextPart:
    part = TextPart(vocabulary.encode(text), vocabulary.lengths(text))
    part.tokens.flags.writeable = part.lengths.flags.writeable = False
    return part


def least_length(train: int, held_out: int, share: float) -> int:
    """Symbols that a text must have for its parts to have these lengths, with this share of it held out.

    >>> least_length(10, 5, 0.25)
    20
    """
    length = max(train + held_out, math.ceil(held_out / share))
    while length - math.floor(share * length) < train or math.floor(share * length) < held_out:
        length += 1
    return length
