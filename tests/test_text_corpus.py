"""Where text comes from: files of every kind, the standard library, a hub that is not there."""

import bz2
import gzip
import io
import lzma
import os
import sqlite3
import sys
import tarfile
import types
import zipfile

import pytest

import ntp_envs.text.corpus as corpus
from ntp_envs.text import load_bytes, load_text


def gzipped(data):
    return gzip.compress(data, mtime=0)  # the same bytes every time


def written(folder, data, name="text.txt"):
    path = folder / name
    path.write_bytes(data)
    return str(path)


# -- files -------------------------------------------------------------------------------------------------------------

TEXT = "Grüße aus Köln, naïve café, 数独 🙂.\nSecond line.\n"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (TEXT.encode(), TEXT),
        (b"\xef\xbb\xbf" + TEXT.encode(), TEXT),
        (TEXT.replace("\n", "\r\n").encode(), TEXT),
        (TEXT.replace("\n", "\r").encode(), TEXT),
        (b"\xef\xbb\xbfa\r\n\r\nb\r", "a\n\nb\n"),
        (b"no end of line", "no end of line"),
        ("\ufeffa\ufeffb".encode(), "a\ufeffb"),  # only the first is a mark
        (TEXT.encode("utf-16"), TEXT),
        (b"\xff\xfe" + TEXT.encode("utf-16-le"), TEXT),
        (b"\xfe\xff" + TEXT.replace("\n", "\r\n").encode("utf-16-be"), TEXT),
        (b"\xff\xfe\0\0" + TEXT.encode("utf-32-le"), TEXT),
        (b"\0\0\xfe\xff" + TEXT.encode("utf-32-be"), TEXT),
        (gzipped(TEXT.encode()), TEXT),
        (gzipped(TEXT[:9].encode()) + gzipped(TEXT[9:].encode()), TEXT),
        (gzipped(TEXT.encode("utf-16")), TEXT),
        (bz2.compress(TEXT.encode()), TEXT),
        (lzma.compress(TEXT.encode()), TEXT),
        (b"BZhang and ORC, PAR1", "BZhang and ORC, PAR1"),  # text that begins as binary files do
        (b"ORC is not a format here", "ORC is not a format here"),
        (b"GIF89a, GGUF", "GIF89a, GGUF"),
    ],
)
def test_utf8_marks_and_line_ends(tmp_path, data, text):
    path = written(tmp_path, data)
    assert load_text(path) == text
    assert load_bytes(path) == data


@pytest.mark.parametrize("count", [1, 4, 5, 12, 25, 26, 27, 28, 31, 32, 1000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("pack", [bytes, gzipped, bz2.compress, lzma.compress])
def test_max_chars_counts_characters_not_bytes(tmp_path, count, encoding, pack):
    data = pack(TEXT.encode(encoding))
    path = written(tmp_path, data)
    assert load_text(path, max_chars=count) == TEXT[:count]
    assert load_bytes(path, max_chars=count) == data[:count]


def test_max_chars_may_cut_a_character_or_a_line_end(tmp_path):
    for mark in (b"", b"\xef\xbb\xbf"):
        assert load_text(written(tmp_path, mark + "🙂".encode() * 50), max_chars=7) == "🙂" * 7
    assert load_text(written(tmp_path, b"a\r\n" * 50), max_chars=7) == "a\na\na\na"


def test_a_very_long_line(tmp_path):
    text = "word " * 400_000
    assert load_text(written(tmp_path, text.encode())) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is an empty file"),
        (b"\xef\xbb\xbf", "nothing but a byte order mark"),
        (b"abc\0def", "zero byte at byte offset 3; .*tokens='byte'"),
        (b"abc\xffdef", "byte offset 3: invalid start byte"),
        (b"\xef\xbb\xbfabc\xffdef", "byte offset 6"),
        ("Grüße".encode("latin-1") + b" und", "byte offset 2: .*tokens='byte'"),
        ("Grüß".encode()[:-1], "byte offset 4: unexpected end"),
        (b"\xff\xfe" + b"a\0\0", "is not UTF-16 .byte offset 4"),
        (b"\xff\xfe\0\0" + b"a\0\0\0\0\0\x11\0", "is not UTF-32 .byte offset 8"),
        (b"\xff\xfea\0\0\0", "zero character at 1"),
        (b"\xff\xfe", "nothing but a byte order mark"),
        ("Grüße".encode("utf-16-be"), "zero byte at byte offset 0"),
    ],
)
def test_what_is_not_text_is_refused_with_the_offset(tmp_path, data, message):
    path = written(tmp_path, data)
    with pytest.raises(ValueError, match=message) as error:
        load_text(path)
    assert path in str(error.value)
    if data:
        assert load_bytes(path) == data
    else:
        with pytest.raises(ValueError, match="is an empty file"):
            load_bytes(path)


def zipped(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, TEXT)
    return stream.getvalue()


def tarred():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("text.txt"))
    return stream.getvalue()


def database(path):
    with sqlite3.connect(path) as made:
        made.execute("create table t (x)")
    return path.read_bytes()


def from_pyarrow(path, kind):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"text": ["one", "two"]})
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    elif kind == "arrow file":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    return path.read_bytes()


PLAIN_PDF = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda path: zipped("text.txt"), "is a zip archive .docx, xlsx"),
        (lambda path: zipped("word/document.xml"), "zip archive"),
        (lambda path: zipfile.ZipFile(path, "w").close() or path.read_bytes(), "empty zip archive"),
        (lambda path: tarred(), "tar archive"),
        (lambda path: gzipped(tarred()), "tar archive"),
        (lambda path: gzipped(zipped("a")), "zip archive"),
        (lambda path: b"\x28\xb5\x2f\xfd\x24\x05" + bytes(9), "zstandard-compressed file.*zstd -d"),
        (lambda path: b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(9), "7z archive"),
        (lambda path: PLAIN_PDF, "is a PDF, not a text file; export the text from it first: pdftotext"),
        (lambda path: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF"),
        (database, "is an SQLite database"),
        (lambda path: from_pyarrow(path, "parquet"), "is a parquet file"),
        (lambda path: from_pyarrow(path, "arrow file"), "is an Arrow file"),
        (lambda path: from_pyarrow(path, "arrow stream"), "is an Arrow stream"),
        (lambda path: b"\x89PNG\r\n\x1a\n" + bytes(20), "is a picture"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, make, named):
    path = written(tmp_path, make(tmp_path / "made"))
    for limit in (None, 300):
        with pytest.raises(ValueError, match=rf"{named}.*tokens='byte'"):
            load_text(path, max_chars=limit)
    assert load_bytes(path)


@pytest.mark.parametrize("pack", [gzipped, bz2.compress, lzma.compress])
def test_damaged_and_boundless_compressed_files(tmp_path, pack, monkeypatch):
    data = pack((TEXT * 50).encode())
    for damaged in (data[:-9], data[:20], data[:30] + b"\0\1\2\3" + data[34:]):
        with pytest.raises(ValueError, match=r"begins as a .* file and cannot be unpacked"):
            load_text(written(tmp_path, damaged))
    with pytest.raises(ValueError, match="with nothing in it"):
        load_text(written(tmp_path, pack(b"")))
    monkeypatch.setattr(corpus, "UNPACKED_LIMIT", 1000)
    path = written(tmp_path, pack(b"a" * 1001))
    with pytest.raises(ValueError, match="unpacks to more than 1000 bytes; read a part of it with max_chars"):
        load_text(path)
    assert load_text(path, max_chars=7) == "a" * 7
    assert len(load_text(written(tmp_path, pack(b"a" * 1000)))) == 1000


def test_a_bad_byte_behind_max_chars_is_not_read(tmp_path):
    path = written(tmp_path, b"a" * 100 + b"\xff")
    assert load_text(path, max_chars=10) == "a" * 10


@pytest.mark.parametrize("load", [load_text, load_bytes])
def test_what_cannot_be_opened(load, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no such file .the working directory is") as error:
        load(str(tmp_path / "nothing.txt"))
    assert "Hugging Face" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="write corpus='hf:roneneldan/TinyStories'"):
        load("roneneldan/TinyStories")
    with pytest.raises(IsADirectoryError, match="is a directory; give the path of one text file"):
        load(str(tmp_path))
    with pytest.raises(OSError, match="cannot be read"):
        load(written(tmp_path, b"x") + "/inside.txt")
    with pytest.raises(OSError, match="cannot be read"):
        load("zero\0byte")
    with pytest.raises(OSError, match="cannot be read"):
        load("long" * 5000)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="not a regular file"):
            load(str(tmp_path / "pipe"))
    path = written(tmp_path, b"secret")

    def forbidden(*arguments):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(PermissionError, match=r"cannot be read .Permission denied.*that can be"):
        load(path)


def test_home_and_names_like_the_keyword(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    written(tmp_path, b"at home", "default")
    assert load_text("~/default") == load_text("./default") == "at home"
    assert load_text("default", max_chars=8) != "at home"


# -- the standard library ----------------------------------------------------------------------------------------------


def test_the_default_is_the_help_topics_in_order():
    from pydoc_data.topics import topics

    text = load_text()
    assert len(text) > 100_000 and "\r" not in text
    at = 0
    for name in sorted(topics):
        assert text.startswith(topics[name], at)
        at += len(topics[name]) + 1
    assert at == len(text) + 1
    assert load_bytes("default", max_chars=1000) == text.encode()[:1000]


def test_a_python_without_topics_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match=r"pydoc_data.topics.*corpus='book.txt'"):
        load_text()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", types.SimpleNamespace(topics={}))
    with pytest.raises(ValueError, match=r"pydoc_data.topics.*corpus='book.txt'"):
        load_text()


# -- Hugging Face ------------------------------------------------------------------------------------------------------


class FakeHub:
    """What the library `datasets` does for us, and how much of it was asked for."""

    def __init__(self, records):
        self.records, self.read, self.calls = records, 0, []

    def load_dataset(self, name, **options):
        self.calls.append((name, options))

        def stream():
            for record in self.records:
                self.read += 1
                yield record

        return stream()


def fake_hub(monkeypatch, records):
    hub = FakeHub(records)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    return hub


def test_a_data_set_is_streamed_up_to_the_limit(monkeypatch):
    hub = fake_hub(monkeypatch, [{"text": f"Story number {i}.\r\nThe end."} for i in range(1000)])
    text = load_text("hf:roneneldan/TinyStories", max_chars=60)
    assert text == "Story number 0.\nThe end.\n\nStory number 1.\nThe end.\n\nStory nu"[:60]
    assert hub.calls == [("roneneldan/TinyStories", {"split": "train", "streaming": True})]
    assert hub.read <= 3
    assert load_bytes("hf:roneneldan/TinyStories", max_chars=5) == b"Story"


def test_a_data_set_is_not_read_without_end(monkeypatch):
    monkeypatch.setattr(corpus, "HUB_LIMIT", 500)
    hub = fake_hub(monkeypatch, ({"text": "x" * 99} for _ in iter(int, 1)))
    assert len(load_text("hf:a/b")) == 500 and hub.read == 5


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "has no text in its training split"),
        ([{"text": ""}, {"text": None}], "has no text in its training split"),
        ([{"story": "x", "id": 3}], "no column 'text', only id, story"),
    ],
)
def test_a_data_set_without_text(monkeypatch, records, message):
    fake_hub(monkeypatch, records)
    with pytest.raises(ValueError, match=message):
        load_text("hf:a/b")


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"reading corpus='hf:a/b' needs datasets.*pip install 'ntp-envs\[hf\]'"):
        load_text("hf:a/b")
