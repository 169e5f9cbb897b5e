"""Where a text comes from: the help topics that come with CPython, a file, or a Hugging Face data set."""

from __future__ import annotations

import codecs
import importlib
import os
import stat
from typing import Any, NoReturn

from ntp_envs._extras import import_extra

__all__ = ["DEFAULT", "HUB_LIMIT", "HUB_PREFIX", "corpus_key", "load_bytes", "load_text"]

DEFAULT = "default"
HUB_PREFIX = "hf:"
#: characters of a Hugging Face data set that are read where no limit is given
HUB_LIMIT = 5_000_000

BOMS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def load_text(corpus: str = DEFAULT, *, max_chars: int | None = None) -> str:
    r"""A corpus as text. Line ends ``\r\n`` and ``\r`` become ``\n``; a byte order mark at the start is dropped.

    Args:
        corpus: ``"default"``, the help topics in CPython's ``pydoc_data.topics`` (about 0.5 MB of English with some
            Python in it, in alphabetical order of topics; it differs a little between versions of Python);
            ``"hf:OWNER/NAME"``, the column ``text`` of the training split of a Hugging Face data set, read as a stream
            (needs the extra ``hf`` and a network), one blank line between records; anything else is the path of a
            UTF-8 file (write ``./default`` for a file of that name).
        max_chars: read this many characters from the beginning at most. Unlimited for files, `HUB_LIMIT` for data
            sets, if ``None``.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, OSError: there is no such file to read.
        ValueError: a file that is empty or not UTF-8 text, with the offset of the first bad byte; a Python without
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
        # at most 4 bytes a character, and 3 of the mark
        text = _decoded(corpus, _read(corpus, None if max_chars is None else 4 * max_chars + 3), max_chars is not None)
    text = _with_newlines(text)
    return text if max_chars is None else text[:max_chars]


def load_bytes(corpus: str = DEFAULT, *, max_chars: int | None = None) -> bytes:
    """A corpus as bytes: a file as it is, whatever it holds; the others as UTF-8. ``max_chars`` counts bytes here.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, OSError, ValueError, ImportError: as `load_text`.
    """
    if corpus == DEFAULT or corpus.startswith(HUB_PREFIX):
        data = load_text(corpus, max_chars=max_chars).encode("utf-8", errors="surrogatepass")
    else:
        data = _read(corpus, max_chars)
    return data if max_chars is None else data[:max_chars]


def corpus_key(corpus: str) -> tuple[Any, ...]:
    """What identifies the content of a corpus without reading it: for a file, its real path, size and time."""
    if corpus == DEFAULT or corpus.startswith(HUB_PREFIX):
        return (corpus,)
    path = _checked_path(corpus)
    state = os.stat(path)
    return (os.path.realpath(path), state.st_size, state.st_mtime_ns, state.st_ino)


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


# -- files -------------------------------------------------------------------------------------------------------------


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


def _decoded(corpus: str, data: bytes, cut: bool) -> str:
    """Strict UTF-8; of a file that was ``cut`` the last character may be incomplete."""
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    fix = "save it as UTF-8, or read it as bytes with tokens='byte'"
    for mark, name in BOMS.items():
        if data.startswith(mark):
            raise ValueError(f"corpus={corpus!r} begins with the mark of {name} (byte offset 0); {fix}.")
    zero = data.find(b"\0")
    if zero >= 0:
        raise ValueError(f"corpus={corpus!r} is not a text file: it has a zero byte at byte offset {zero}; {fix}.")
    try:
        text, _ = codecs.utf_8_decode(data[start:], "strict", not cut)
    except UnicodeDecodeError as error:
        offset = start + error.start
        raise ValueError(f"corpus={corpus!r} is not UTF-8 (byte offset {offset}: {error.reason}); {fix}.") from None
    if not text:
        raise ValueError(f"corpus={corpus!r} holds nothing but a byte order mark; a text is needed.")
    return text
