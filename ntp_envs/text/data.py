"""A corpus as tokens: read, cut into a training and a held-out part, numbered, and kept."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs.text.corpus import HUB_PREFIX, load_bytes, load_text
from ntp_envs.text.vocabulary import FEW, Vocabulary, counted, least_vocab

__all__ = ["RECORDS", "TextData", "TextPart", "least_length", "load_data"]

#: how a corpus may be cut into documents
RECORDS = ("lines",)
#: corpora that are kept, the last ones used
KEPT = 8
_kept: OrderedDict[tuple[Any, ...], TextData] = OrderedDict()
#: hashes of data sets, which are not streamed again while they are kept
_streamed: dict[tuple[Any, ...], str] = {}


@dataclass(frozen=True, eq=False)
class TextPart:
    """One stretch of text.

    Attributes:
        tokens: ``(L,)`` int64, read-only.
        lengths: ``(L,)`` characters (bytes, where tokens are bytes) that each token stands for in the text.
        starts: ``(D,)`` int64: where each document begins; its last token is the end token. ``None`` where the text is
            one stretch.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def document_lengths(self) -> NDArray[np.int64]:
        """``(D,)`` tokens of each document, without the end token."""
        assert self.starts is not None
        return np.diff(np.append(self.starts, len(self))) - 1

    def lines(self, begins: NDArray[np.int64], length: int, end: int | None) -> NDArray[np.int64]:
        """``(n, length)`` tokens from each of the ``(n,)`` places; after the end of a document, end tokens."""
        at = begins[:, None] + np.arange(length)
        if self.starts is None:
            return self.tokens[at]
        assert end is not None
        stops = np.append(self.starts, len(self))[np.searchsorted(self.starts, begins, side="right")]
        inside: NDArray[np.int64] = self.tokens[np.minimum(at, len(self) - 1)]
        inside[at >= stops[:, None]] = end
        return inside


@dataclass(frozen=True, eq=False)
class TextData:
    """A corpus cut in two: the end is held out, and the vocabulary is that of the rest.

    Attributes:
        train, held_out: the two parts.
        vocabulary: built from ``train``.
        sha256: of the text read, before lower-casing, in hexadecimal: tells whether two runs read the same.
        roomy_vocab: the smallest vocabulary that leaves at most 1 % of ``train`` unknown.
    """

    train: TextPart
    held_out: TextPart
    vocabulary: Vocabulary
    sha256: str
    roomy_vocab: int

    @property
    def end(self) -> int | None:
        """The end token, a line end; ``None`` where the text is one stretch."""
        return None if self.train.starts is None else int(self.train.tokens[-1])

    @cached_property
    def unknown_share(self) -> float:
        """Share of the tokens of both parts that are the unknown token."""
        tokens = np.concatenate([self.train.tokens, self.held_out.tokens])
        return float((tokens == self.vocabulary.unknown).mean()) if len(tokens) else 0.0


def load_data(
    corpus: str,
    *,
    tokens: str,
    lower: bool,
    max_vocab: int | None,
    max_chars: int | None,
    held_out: float,
    records: str | None = None,
) -> TextData:
    """Read a corpus; what the same text was made into before in this process is not made again.

    A file is read every time, and known by its content: its name, size and date tell nothing for sure.

    Args:
        corpus, max_chars: as for `load_text`.
        tokens, max_vocab: as for `Vocabulary.build`.
        lower: lower-case it first; of bytes only the ASCII letters.
        held_out: share of the characters (or bytes; of the documents, with records), at the end, that is held out; in
            (0, 1).
        records: ``"lines"``: every line that is not blank is a document, white space around it cut off.

    Raises:
        OSError, ValueError, ImportError: the corpus cannot be read; see `load_text`.
    """
    how = (tokens, lower, max_vocab, held_out, records)
    source = (corpus, max_chars, tokens == "byte")
    if (streamed := _kept.get((_streamed.get(source), *how))) is not None:
        return streamed
    text = _read(corpus, max_chars, tokens == "byte", records is not None)
    raw = text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogatepass")
    digest = hashlib.sha256(raw).hexdigest()
    if corpus.startswith(HUB_PREFIX):
        _streamed[source] = digest
    key = (digest, *how)
    if key not in _kept:
        text = text.lower() if lower else text
        parts, always = (_lines_cut if records else _text_cut)(corpus, text, held_out)
        counts = counted(parts[0], tokens)
        vocabulary = Vocabulary.build(parts[0], tokens, max_vocab, always=always)
        train, rest = (_part(vocabulary, part, always) for part in parts)
        _kept[key] = TextData(train, rest, vocabulary, digest, least_vocab(counts, FEW))
    _kept.move_to_end(key)
    while len(_kept) > KEPT:
        _kept.popitem(last=False)
    return _kept[key]


def _read(corpus: str, max_chars: int | None, as_bytes: bool, records: bool) -> str | bytes:
    """The text; of records that ``max_chars`` would cut, only the whole ones."""
    load: Any = load_bytes if as_bytes else load_text
    if not records or max_chars is None:
        return load(corpus, max_chars=max_chars)
    text = load(corpus, max_chars=max_chars + 1)
    whole = text.rfind(b"\n" if as_bytes else "\n", 0, max_chars + 1)
    return text if len(text) <= max_chars or whole < 0 else text[:whole]


Cut = tuple[tuple[Any, Any], tuple[Any, ...]]  # the two parts, and symbols that the vocabulary must have


def _text_cut(corpus: str, text: Any, held_out: float) -> Cut:
    cut = len(text) - math.floor(held_out * len(text))
    return (text[:cut], text[cut:]), ()


def _lines_cut(corpus: str, text: Any, held_out: float) -> Cut:
    """Documents, each with the line end that is its end token."""
    end: Any = b"\n" if isinstance(text, bytes) else "\n"
    documents = [line for line in map(type(text).strip, text.split(end)) if line]
    cut = len(documents) - math.floor(held_out * len(documents))
    if not 0 < cut < len(documents):
        raise ValueError(
            f"corpus={corpus!r} is too short for records='lines': of its {len(documents)} documents (lines that are "
            f"not blank) held_out={held_out} must leave at least one to learn from and one to hold out."
        )
    first, rest = (end.join([*part, end[:0]]) for part in (documents[:cut], documents[cut:]))
    return (first, rest), (end[0],)


def _part(vocabulary: Vocabulary, text: str | bytes, always: tuple[Any, ...]) -> TextPart:
    tokens = vocabulary.encode(text)
    starts = None
    if always:
        end = vocabulary.symbols.index(always[0])
        starts = np.flatnonzero(np.append(end, tokens[:-1]) == end)
        starts.flags.writeable = False
    part = TextPart(tokens, vocabulary.lengths(text), starts)
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
