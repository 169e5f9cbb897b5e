"""A corpus: where a text comes from (CPython's help topics, a file, a Hugging Face data set), and its tokens."""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import importlib
import lzma
import math
import os
import stat
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ntp_envs.checks import import_extra
from ntp_envs.text.vocabulary import FEW, Vocabulary, counted, least_vocab

DEFAULT = "default"
HUB_PREFIX = "hf:"
#: characters of a Hugging Face data set that are read where no limit is given
HUB_LIMIT = 5_000_000

#: bytes that a compressed file may unpack to where no limit is given
UNPACKED_LIMIT = 1 << 30

#: byte order marks and their encodings; that of UTF-32 begins with one of UTF-16
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
#: compressed files that are read, by their first bytes: a name and what opens them
PACKED: dict[bytes, tuple[str, Any]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\0": ("xz", lzma.open),
}
#: what else a file may be by its first bytes, and how to get at the text in it
UNPACK, EXPORT = "unpack it first", "export the text from it first"
CONTAINERS = {
    b"PK\x03\x04": ("a zip archive (docx, xlsx, odt and epub files are some too)", UNPACK),
    b"PK\x05\x06": ("an empty zip archive", UNPACK),
    b"(\xb5/\xfd": ("a zstandard-compressed file", f"{UNPACK}: zstd -d"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    b"Rar!\x1a\x07": ("a rar archive", UNPACK),
    b"\x04\x22\x4d\x18": ("an lz4-compressed file", UNPACK),
    b"\x1f\x9d": ("a compress-ed file (.Z)", UNPACK),
    b"%PDF-": ("a PDF", f"{EXPORT}: pdftotext"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("a document of old Microsoft Office", EXPORT),
    b"PAR1": ("a parquet file", EXPORT),
    b"ARROW1": ("an Arrow file", EXPORT),
    b"\xff\xff\xff\xff": ("an Arrow stream", EXPORT),
    b"FEA1": ("a feather file", EXPORT),
    b"ORC": ("an ORC file", EXPORT),
    b"Obj\x01": ("an Avro file", EXPORT),
    b"SQLite format 3\0": ("an SQLite database", EXPORT),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", EXPORT),
    b"\x93NUMPY": ("a numpy array", EXPORT),
    b"\x80\x04": ("a pickle", EXPORT),
    b"\x80\x05": ("a pickle", EXPORT),
    b"GGUF": ("the weights of a language model", EXPORT),
    b"\x89PNG": ("a picture", EXPORT),
    b"\xff\xd8\xff": ("a picture", EXPORT),
    b"GIF8": ("a picture", EXPORT),
    b"\x7fELF": ("a program", EXPORT),
}


def load_text(corpus: str = DEFAULT, *, max_chars: int | None = None) -> str:
    r"""A corpus as text. Line ends ``\r\n`` and ``\r`` become ``\n``; a byte order mark at the start is dropped.

    Args:
        corpus: ``"default"``, the help topics in CPython's ``pydoc_data.topics`` (about 0.5 MB of English with some
            Python in it, in alphabetical order of topics; it differs a little between versions of Python);
            ``"hf:OWNER/NAME"``, the column ``text`` of the training split of a Hugging Face data set, read as a stream
            (needs the extra ``hf`` and a network), one blank line between records; anything else is the path of a
            file (write ``./default`` for one of that name): text in UTF-8, or in UTF-16 or UTF-32 with a byte order
            mark, perhaps compressed by gzip, bzip2 or xz.
        max_chars: read this many characters from the beginning at most. Unlimited for files, `HUB_LIMIT` for data
            sets, if ``None``.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, OSError: there is no such file to read.
        ValueError: a file that is empty or not text, with the offset of the first bad byte, or the name of what it is
            (an archive, a PDF, ...); a compressed file that is damaged, or larger than 1 GiB inside; a Python without
            help topics; a data set without texts.
        ImportError: a data set is asked for and the library ``datasets`` is missing.

    >>> len(load_text(max_chars=100))
    100
    """
    if corpus == DEFAULT:
        text = _topics()
    elif corpus.startswith(HUB_PREFIX):
        text = _from_hub(corpus[len(HUB_PREFIX) :], HUB_LIMIT if max_chars is None else max_chars)
    else:
        # at most 4 bytes a character, and 4 of the mark
        data = _unpacked(corpus, None if max_chars is None else 4 * max_chars + 4)
        text = _decoded(corpus, data, max_chars is not None)
    text = _with_newlines(text)
    return text if max_chars is None else text[:max_chars]


def load_bytes(corpus: str = DEFAULT, *, max_chars: int | None = None) -> bytes:
    """A corpus as bytes: a file as it is, whatever it holds (what is compressed stays so); the others as UTF-8.

    ``max_chars`` counts bytes here.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, OSError, ValueError, ImportError: as `load_text`.
    """
    if corpus == DEFAULT or corpus.startswith(HUB_PREFIX):
        data = load_text(corpus, max_chars=max_chars).encode("utf-8", errors="surrogatepass")
    else:
        data = _read(corpus, max_chars)
    return data if max_chars is None else data[:max_chars]


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _topics() -> str:
    missing: ImportError | None = None
    found: dict[str, str] = {}
    try:
        found = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        missing = error
    if not found:
        raise ValueError(
            "corpus='default' is the help text in pydoc_data.topics of the standard library, which this Python comes "
            "without (some distributions leave it out). Give the path of a text file instead: corpus='book.txt'."
        ) from missing
    return "\n".join(found[name] for name in sorted(found))


def _from_hub(name: str, limit: int) -> str:
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(
            f"corpus='{HUB_PREFIX}{name}' must be '{HUB_PREFIX}OWNER/NAME', such as 'hf:roneneldan/TinyStories'."
        )
    datasets = import_extra(
        "datasets",
        what=f"reading corpus='{HUB_PREFIX}{name}'",
        install="pip install 'ntp-envs[hf]'. Or give the path of a text file.",
    )
    records = datasets.load_dataset(name, split="train", streaming=True)
    parts: list[str] = []
    length = 0
    for record in records:
        if "text" not in record:
            raise ValueError(
                f"the records of {name} have no column 'text', only {', '.join(sorted(record))}; write the text you "
                "want to a file and give its path."
            )
        if record["text"]:
            parts.append(_with_newlines(record["text"]))
            length += len(parts[-1]) + 2
        if length >= limit:
            break
    text = "\n\n".join(parts)
    if not text.strip():
        raise ValueError(f"the data set {name} has no text in its training split.")
    return text[:limit]


# Files and data sets.


def _checked_path(corpus: str) -> str:
    """The path of a regular file, ``~`` expanded."""
    path = os.path.expanduser(corpus)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        hint = ""
        if corpus.count("/") == 1 and not corpus.startswith((".", "/", "~")) and "." not in corpus:
            hint = f" For a Hugging Face data set write corpus='{HUB_PREFIX}{corpus}'."
        raise FileNotFoundError(
            f"corpus={corpus!r}: there is no such file (the working directory is {os.getcwd()}).{hint}"
        ) from None
    except (OSError, ValueError) as error:  # a part of the path that is no folder, a name too long, a null character
        _refuse(corpus, error)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"corpus={corpus!r} is a directory; give the path of one text file in it.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"corpus={corpus!r} is not a regular file; write its text to one.")
    return path


def _refuse(corpus: str, error: Exception) -> NoReturn:
    kind = PermissionError if isinstance(error, PermissionError) else OSError
    reason = getattr(error, "strerror", None) or error
    raise kind(f"corpus={corpus!r} cannot be read ({reason}); give the path of a text file that can be.") from error


def _read(corpus: str, limit: int | None) -> bytes:
    path = _checked_path(corpus)
    try:
        with open(path, "rb") as file:
            data = file.read() if limit is None else file.read(limit)
    except OSError as error:
        _refuse(corpus, error)
    if not data:
        raise ValueError(f"corpus={corpus!r} is an empty file; a text is needed.")
    return data


def _unpacked(corpus: str, limit: int | None) -> bytes:
    """The bytes of a file, or of what is compressed in it, at most so many."""
    head = _read(corpus, 8)
    name, unpack = next((how for magic, how in PACKED.items() if head.startswith(magic)), ("", None))
    if unpack is None or (name == "bzip2" and not head[3:4].isdigit()):
        return _read(corpus, limit)
    most = UNPACKED_LIMIT if limit is None else limit
    try:
        with unpack(_checked_path(corpus), "rb") as file:
            data = file.read(most + (limit is None))
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(
            f"corpus={corpus!r} begins as a {name} file and cannot be unpacked ({error}); write it again, or give a "
            "text file."
        ) from error
    if len(data) > most:
        raise ValueError(f"corpus={corpus!r} unpacks to more than {most} bytes; read a part of it with max_chars.")
    if not data:
        raise ValueError(f"corpus={corpus!r} is a {name} file with nothing in it; a text is needed.")
    return data


def _decoded(corpus: str, data: bytes, cut: bool) -> str:
    """Strict UTF-8, or what a mark says; of a file that was ``cut`` the last character may be incomplete."""
    mark, encoding = next(((m, e) for m, e in MARKS.items() if data.startswith(m)), (b"", "utf-8"))
    fix = "save it as UTF-8, or read it as bytes with tokens='byte'"
    name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
    zero = data.find(b"\0") if encoding == "utf-8" else -1
    try:
        if data.startswith(b"%PDF-"):  # which may be plain ASCII
            raise ValueError
        if zero >= 0:
            raise ValueError(f"is not a text file: it has a zero byte at byte offset {zero}; {fix}")
        text = codecs.getincrementaldecoder(encoding)("strict").decode(data[len(mark) :], final=not cut)
        if "\0" in text:
            raise ValueError(f"is not a text file: it has a zero character at {text.index(chr(0))}; {fix}")
    except ValueError as error:
        kind, what = next((kind for magic, kind in CONTAINERS.items() if data.startswith(magic)), ("", ""))
        if data[257:262] == b"ustar":
            kind, what = "a tar archive", UNPACK
        reason = str(error)
        if kind:
            reason = f"is {kind}, not a text file; {what}, or read it as bytes with tokens='byte'"
        elif isinstance(error, UnicodeDecodeError):
            reason = f"is not {name} (byte offset {len(mark) + error.start}: {error.reason}); {fix}"
        raise ValueError(f"corpus={corpus!r} {reason}.") from None
    if not text:
        raise ValueError(f"corpus={corpus!r} holds nothing but a byte order mark; a text is needed.")
    return text


# A corpus as tokens: read, cut into a training and a held-out part, numbered, and kept.


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
    text = _read_text(corpus, max_chars, tokens == "byte", records is not None)
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


def _read_text(corpus: str, max_chars: int | None, as_bytes: bool, records: bool) -> str | bytes:
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
