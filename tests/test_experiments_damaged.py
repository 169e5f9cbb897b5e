"""What is done to the files of a finished run, by name, and what the same command makes of it: never a wrong number."""

import contextlib
import gzip
import json
import os
import re
import shutil
import sqlite3
import sys

import experiments_toy as toy
import pytest

from experiments.run import plan, run_study

CELLS = 24
OPTIONS = toy.ToyOptions(sizes=(1, 2), seeds=CELLS // 2)
PAGE = 4096

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes and links in the place of files")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    for name, seed in (("run", 0), ("other seed", 1)):
        run_study(toy.UNDRAWN, OPTIONS, out=folder / name, seed=seed)
    return folder


# -- kinds of damage: each a function of the folder, and of what it does to a file in it -------------------------------


def holds(name, content):
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def becomes(name, change):
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def place(name, *make):
    """Something else in the place of a file: a folder, a pipe, a link."""

    def change(folder):
        (folder / name).unlink(missing_ok=True)
        for call, *words in make:
            call(folder / name, *words)

    return change


def settings(**changed):
    def change(data):
        found = json.loads(data)
        return json.dumps({k: v for k, v in {**found, **changed}.items() if v is not None}).encode()

    return becomes("config.json", change)


def sql(script):
    def change(folder):
        with contextlib.closing(sqlite3.connect(folder / "results.sqlite")) as db:
            db.executescript(script)

    return change


def page(words, filling=bytes(PAGE), last=False, kinds=(5, 13)):
    """The page of the store, of a table or of an index, that holds these words has another content."""

    def change(data):
        pages = range(PAGE, len(data), PAGE)
        starts = [at for at in pages if data[at] in kinds and words in data[at : at + PAGE]]
        at = starts[-1 if last else 0]
        return data[:at] + filling[: len(data) - at] + data[at + PAGE :]

    return becomes(STORE, change)


CONFIG, STORE, LOCK = "config.json", "results.sqlite", "results.lock"
JUNK = bytes(range(256)) * 16
ONE = "WHERE rowid = 2"
#: what is done, and what comes of it: so many cells at least are taken as they are, or a refusal that says this
ALL, REST = CELLS, CELLS - 1
DAMAGE = {
    "config missing": (place(CONFIG), ALL),
    "config empty": (holds(CONFIG, ""), ALL),
    "config cut": (becomes(CONFIG, lambda data: data[:40]), ALL),
    "config is a list": (holds(CONFIG, "[]"), ALL),
    "config is a number": (holds(CONFIG, "7"), ALL),
    "config without a study": (settings(study=None), ALL),
    "config with a seed in words": (settings(seed="zero"), ALL),
    "config of another seed": (settings(seed=1), ALL),
    "config of another study": (settings(study="text"), ALL),
    "config with kernels as a number": (settings(kernels=7), ALL),
    "config with other versions": (settings(versions={"numpy": "0.1"}), ALL),
    "config in UTF-16": (becomes(CONFIG, lambda data: data.decode().encode("utf-16")), ALL),
    "config with a byte that is no UTF-8": (becomes(CONFIG, lambda data: data + b"\xff"), ALL),
    "config of zeros": (becomes(CONFIG, lambda data: bytes(len(data))), ALL),
    "config of ten megabytes": (holds(CONFIG, "1" * 10_000_000), ALL),
    "config nested deeply": (holds(CONFIG, "[" * 100_000), ALL),
    "config is a folder": (place(CONFIG, [os.mkdir]), r"config\.json cannot be written"),
    "config is a pipe": (place(CONFIG, [os.mkfifo]), ALL),
    "config is a link to nothing": (place(CONFIG, [lambda path: path.symlink_to("nothing")]), ALL),
    "config is a link to itself": (place(CONFIG, [lambda path: path.symlink_to(path)]), ALL),
    "config may not be read": (lambda folder: (folder / CONFIG).chmod(0), ALL),
    "store missing": (place(STORE), 0),
    "store empty": (holds(STORE, ""), 0),
    "store is text": (holds(STORE, "not a data base, but long enough to be looked at " * 90), "is not a readable"),
    "store packed": (becomes(STORE, gzip.compress), "is not a readable"),
    "store of zeros": (becomes(STORE, lambda data: bytes(len(data))), "is not a readable"),
    "store without its first bytes": (becomes(STORE, lambda data: bytes(100) + data[100:]), "is not a readable"),
    "store cut to 50 bytes": (becomes(STORE, lambda data: data[:50]), "is not a readable"),
    "store cut to a page": (becomes(STORE, lambda data: data[:PAGE]), "is not a readable"),
    "store cut within a page": (becomes(STORE, lambda data: data[: -PAGE // 2]), 1),
    "store cut by a page": (becomes(STORE, lambda data: data[:-PAGE]), 1),
    "store with a page of cells of zeros": (page(b'seconds", "value'), 1),
    "store with the last page of cells of junk": (page(b'seconds", "value', JUNK, last=True), 1),
    "store with an index of zeros": (page(b"squares", kinds=(2, 10)), ALL),
    "store with the page of settings of zeros": (page(b"openblas"), ALL),
    "store with the page of code of zeros": (page(b"experiments_toy.py"), "is not a readable"),
    "store with a digit changed": (becomes(STORE, lambda data: data.replace(b'"K": 1', b'"K": 7', 1)), REST),
    "records changed": (sql(f"UPDATE cells SET records = replace(records, '1', '2') {ONE}"), REST),
    "records that are none": (sql("UPDATE cells SET records = '[7]'"), "is not a readable"),
    "records that are bytes": (sql(f"UPDATE cells SET records = x'ff00' {ONE}"), REST),
    "a key changed": (sql(f"UPDATE cells SET key = 'x' {ONE}"), REST),
    "a part changed": (sql(f"UPDATE cells SET part = 'x' {ONE}"), REST),
    "parameters changed": (sql(f"UPDATE cells SET parameters = '{{}}' {ONE}"), REST),
    "an error made up": (sql(f"UPDATE cells SET error = 'no' {ONE}"), REST),
    "seconds changed": (sql(f"UPDATE cells SET seconds = seconds + 1 {ONE}"), REST),
    "a checksum removed": (sql(f"UPDATE cells SET checksum = '' {ONE}"), REST),
    "code of a cell unknown": (sql(f"UPDATE cells SET code = 'x' {ONE}"), REST),
    "code changed": (sql("UPDATE code SET files = replace(files, 'a', 'b')"), "is not a readable"),
    "code gone": (sql("DELETE FROM code"), "is not a readable"),
    "code is a view": (sql("DROP TABLE code; CREATE VIEW code AS SELECT 1 AS x"), "is not a readable"),
    "settings that are no JSON": (sql("UPDATE settings SET value = '{'"), ALL),
    "settings of another seed": (sql("UPDATE settings SET value = '1' WHERE name = 'seed'"), ALL),
    "settings gone": (sql("DROP TABLE settings"), ALL),
    "settings of another form": (sql("DROP TABLE settings; CREATE TABLE settings (x)"), ALL),
    "memory in words": (sql("UPDATE memory SET megabytes = 'many'"), ALL),
    "cells deleted": (sql("DELETE FROM cells WHERE rowid < 5"), ALL - 4),
    "cells gone": (sql("DROP TABLE cells"), "is not a readable"),
    "cells of an older form": (sql("ALTER TABLE cells RENAME COLUMN checksum TO hash"), ALL),
    "cells of a newer form": (sql("ALTER TABLE cells ADD COLUMN colour TEXT"), "is not a readable"),
    "a trigger": (sql("CREATE TRIGGER t AFTER INSERT ON cells BEGIN DELETE FROM cells; END"), ALL),
    "a root page beyond the end": (sql("PRAGMA writable_schema=ON; UPDATE sqlite_master SET rootpage=999"), "readable"),
    "a schema that is none": (sql("PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql='CREATE'"), "readable"),
    "an application's mark": (sql("PRAGMA application_id = 7; PRAGMA user_version = 99"), ALL),
    "a log written ahead": (sql("PRAGMA journal_mode = WAL"), ALL),
    "a log of junk": (holds(f"{STORE}-wal", JUNK), ALL),
    "a journal of junk": (holds(f"{STORE}-journal", JUNK), ALL),
    "a journal that is a folder": (place(f"{STORE}-journal", [os.mkdir]), "is not a readable|cannot be written"),
    "store is a folder": (place(STORE, [os.mkdir]), "is not a readable"),
    "store is a pipe": (place(STORE, [os.mkfifo]), "is not a readable"),
    "store is a link to itself": (place(STORE, [lambda path: path.symlink_to(path)]), "is not a readable"),
    "store of another seed": (lambda run: shutil.copy(run.parent / "other seed" / STORE, run), "seed: 1 there"),
    "store of others": (place(STORE, [lambda to: sqlite3.connect(to).execute("CREATE TABLE t (x)")]), "the table t"),
    "lock of junk": (holds(LOCK, JUNK), r"results\.lock cannot be written to .*remove it"),
    "lock is a folder": (place(LOCK, [os.mkdir]), r"results\.lock cannot be written to .*remove it"),
    "summary of junk": (holds("summary.csv", JUNK), ALL),
    "summary is a folder": (place("summary.csv", [os.mkdir]), r"summary\.csv cannot be written"),
    "timings are a folder": (place("timings.csv", [os.mkdir]), r"timings\.csv cannot be written"),
    "report is a folder": (place("report.html", [os.mkdir]), r"report\.html cannot be written"),
    "half a file": (holds(f".unfinished-{STORE}", JUNK), ALL),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if i % 8 else []) for i, name in enumerate(DAMAGE)]
)
def test_damage_is_recovered_from_or_named(finished, tmp_path, name):
    change, expected = DAMAGE[name]
    for other in ("run", "other seed"):
        shutil.copytree(finished / other, tmp_path / other)
    folder, told = tmp_path / "run", []
    change(folder)
    with contextlib.suppress(ValueError, OSError):
        plan(toy.UNDRAWN, OPTIONS, out=folder)
    if isinstance(expected, str):
        with pytest.raises((ValueError, OSError), match=expected) as refusal:
            run_study(toy.UNDRAWN, OPTIONS, out=folder)
        assert str(folder) in str(refusal.value)
        return
    outcome = run_study(toy.UNDRAWN, OPTIONS, out=folder, tell=told.append)
    assert (folder / "summary.csv").read_bytes() == (finished / "run" / "summary.csv").read_bytes()
    assert expected <= outcome.reused <= (expected if expected in (0, REST, ALL - 4) else ALL)
    assert bool(told) == (folder / "results.damaged").exists()
    assert all(re.search(r"is damaged \(.*\)\. \d+ cell\(s\) in it are whole", sentence) for sentence in told)
    again = run_study(toy.UNDRAWN, OPTIONS, out=folder, tell=told.append)
    assert again.reused == CELLS and len(told) <= 1
    assert json.loads((folder / "config.json").read_text())["seed"] == 0
