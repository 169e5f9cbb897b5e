"""Cells and what they measure: records, their random numbers, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from experiments.fingerprints import digest, fingerprint
from ntp_envs.saved import UNFINISHED

# -- records, cells, and where their random numbers come from ----------------------------------------------------------

#: label columns every study has; `Study.labels` may add to them. ``n`` is ``inf`` for a population fit.
LABELS = ("task", "learner", "H", "h", "K", "n")

Label = str | int | float


@dataclass(frozen=True)
class Record:
    """One measured number.

    Records of different cells with equal part, labels and metric are replicates: the summary gives their mean and a
    95 % interval (Student's t), at least as wide as their own intervals make that of a mean.

    Attributes:
        metric: what was measured (``"C_apx"``, ``"hellinger2"``, ``"seconds"``).
        value: the number.
        labels: its place in the sweep; keys among `LABELS` and the study's own.
        lower, upper: a 95 % interval of this one number, where it was estimated; the value itself where exact.
        method: how it was obtained (``"automaton"``, ``"monte carlo (bridge), n=1000"``).
        machine: depends on the machine (seconds, megabytes): goes to ``timings.csv``, never to ``summary.csv``; an
            analysis finds it in `Summary.timings`.
    """

    metric: str
    value: float
    labels: Mapping[str, Label] = field(default_factory=dict)
    lower: float | None = None
    upper: float | None = None
    method: str = ""
    machine: bool = False

    def __post_init__(self) -> None:
        """Python's own floats and labels, as they come back from a file: a run that goes on is no other run."""
        for name in ("value", "lower", "upper"):
            number = getattr(self, name)
            object.__setattr__(self, name, None if number is None else float(number))
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in self.labels.items()}
        object.__setattr__(self, "labels", plain)

    def to_json(self) -> dict[str, Any]:
        """Plain values, floats exact."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Cell:
    """One independent piece of a study: a pure function of its parameters and its own generator.

    Attributes:
        part: which part of the study it belongs to.
        function: ``function(**parameters, rng=generator) -> list[Record]``; defined at module level, so that it can
            be sent to another process.
        parameters: JSON-like; with the part they are the cell's identity, from which its seed is derived.
        scratch: the function also takes ``scratch``, a `pathlib.Path` of a folder of its own. What it leaves there is
            still there if the run is stopped and started again (checkpoints of a training), and is removed when the
            cell succeeds. The records must not depend on it.
        code: ``"package.module:name"`` of what the function finds by names in its parameters (agents, tasks): with what
            it imports, that is the code behind its records. ``None``: all that it may reach by name.
        apart: names of parameters that are no part of the identity: where a file lies whose content another one names,
            what the records do not depend on.
    """

    part: str
    function: Callable[..., Sequence[Record]]
    parameters: Mapping[str, Any]
    scratch: bool = False
    code: tuple[str, ...] | None = None
    apart: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The identity of the cell as text: equal for equal part and parameters, whatever their order."""
        own = {name: value for name, value in self.parameters.items() if name not in self.apart}
        return f"{self.part} {json.dumps(own, sort_keys=True)}"


def keyed_rng(seed: int, key: str) -> np.random.Generator:
    """A generator that depends on ``seed`` and on ``key`` only; different keys give independent streams."""
    digest = hashlib.sha256(key.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(words)))


def cell_rng(seed: int, study: str, cell: Cell) -> np.random.Generator:
    """The generator of a cell: it does not depend on the other cells, their order, or the number of workers."""
    return keyed_rng(seed, f"{study} {cell.key}")


# -- results on disk: written as cells finish, so that a crash loses nothing finished ----------------------------------

SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (
    key TEXT PRIMARY KEY,        -- part and parameters: the identity of the cell
    part TEXT NOT NULL,
    parameters TEXT NOT NULL,    -- JSON
    records TEXT NOT NULL,       -- JSON list of records; empty if it failed
    error TEXT,                  -- traceback; NULL if it succeeded
    seconds REAL NOT NULL,
    code TEXT NOT NULL,          -- fingerprint of the code that made it
    checksum TEXT NOT NULL       -- of all that
);
CREATE TABLE IF NOT EXISTS code (
    fingerprint TEXT PRIMARY KEY,
    files TEXT NOT NULL          -- JSON: a hash for every file, a version for every distribution
);
CREATE TABLE IF NOT EXISTS settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL          -- JSON
);
CREATE TABLE IF NOT EXISTS memory (
    key TEXT PRIMARY KEY,        -- of the cell
    megabytes REAL NOT NULL      -- the most that its process had used by its end; nothing depends on it
);
"""
COLUMNS = {
    "cells": ["key", "part", "parameters", "records", "error", "seconds", "code", "checksum"],
    "code": ["fingerprint", "files"],
    "settings": ["name", "value"],
    "memory": ["key", "megabytes"],
}


#: the name of the checksum among the settings
MARK = "checksum"


def peak_memory() -> float:
    """The most memory that this process has used so far, in megabytes; ``nan`` where the system does not say."""
    try:
        import resource
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


@dataclass(frozen=True)
class CellResult:
    """What a finished cell left: its records, or an error.

    Attributes:
        key: of the cell.
        records: empty where it failed.
        error: traceback as text, ``None`` where it succeeded.
        seconds: wall time in the worker.
        kernels: what computed it on another machine, see `experiments.threads.kernels`; a setting of the run.
        megabytes: the most that the process which made this has used, so far.
    """

    key: str
    records: tuple[Record, ...]
    error: str | None
    seconds: float
    kernels: tuple[str, ...] = ()
    megabytes: float = field(default_factory=peak_memory, compare=False)


class Damaged(ValueError):
    """A results file that cannot be read, or not all of it."""


class ResultStore:
    """The results of a run of one study; a context manager, inside of which nobody else writes to the file.

    Args:
        path: the SQLite file; made if it does not exist.
        recover: where the file is damaged, move it aside and go on with the cells in it that are whole; `recovered`
            then says so in a sentence.

    Raises:
        Damaged: the file is not a results file, is damaged (and nothing in it whole), or is of another version.
        ValueError: it is being written to.
        OSError: its folder cannot be written to.
    """

    recovered = ""

    def __init__(self, path: Path, *, recover: bool = False) -> None:
        self.path = path
        self._lock = path.with_suffix(".lock")  # an empty data base: only for its lock, which ends with the process
        try:
            self._locked = sqlite3.connect(self._lock, timeout=1.0, isolation_level=None)
            self._locked.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if "locked" not in str(error):
                raise OSError(f"{self._lock} cannot be written to ({error}); remove it.") from error
            raise ValueError(f"{path} is being written to by another run; wait for it, or stop it.") from error
        try:
            try:
                self._open()
                if recover:
                    self.results(), self.code()
            except Damaged as error:
                if not recover or not self._recover():
                    raise
                self.recovered = f"{path} is damaged ({error.__cause__}). {self.recovered}"
        except BaseException:
            self._release()
            raise

    def _open(self) -> None:
        fresh = not (self.path.stat().st_size if self.path.is_file() else os.path.lexists(self.path))
        try:
            self._db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
            there = dict(self._db.execute("SELECT name, type FROM sqlite_master"))
            if (there and "cells" not in there) or {*there.values()} - {"table", "index"}:
                raise ValueError(f"it has {', '.join(f'the {kind} {name}' for name, kind in there.items())}")
            self._db.executescript(f"BEGIN; {SCHEMA} COMMIT")
            for table, columns in COLUMNS.items():
                if [line[1] for line in self._db.execute(f"PRAGMA table_info({table})")] != columns:
                    raise ValueError(f"its table {table} is not one of this version of ntp-envs")
            ((state,),) = self._db.execute("PRAGMA quick_check(1)").fetchall()
            if state != "ok":
                raise ValueError(" ".join(state.split()))
        except Exception as error:
            if fresh and isinstance(error, sqlite3.OperationalError):  # a full disk: nothing was there to be damaged
                raise OSError(f"{self.path} cannot be written to ({error})") from error
            raise self._unreadable(error) from error

    def _recover(self) -> bool:
        """Put a file with the cells that are whole in the place of a damaged one, which is kept; false without any."""
        _lengthen(self.path)
        code, cells = self._whole("code", _files), self._whole("cells", _result)
        cells = [line for line in cells if line[-2] in {mark for mark, _ in code}]
        if not cells:
            return False
        self._db.close()
        fresh, aside = self.path.with_name(f"{UNFINISHED}{self.path.name}"), self.path.with_suffix(".damaged")
        fresh.unlink(missing_ok=True)
        damaged, self.path = self.path, fresh
        try:
            self._open()
            with self._written():
                self._db.executemany("INSERT INTO code VALUES (?, ?)", code)
                self._db.executemany("INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?)", cells)
            self._db.close()
        finally:
            self.path = damaged
        for ending in ("-journal", "-wal", "-shm", ""):  # what is left of a change would be made to the new file
            with suppress(FileNotFoundError):
                os.replace(f"{damaged}{ending}", f"{aside}{ending}")
        os.replace(fresh, damaged)
        self._open()
        self.recovered = f"{len(cells)} cell(s) in it are whole, and the run goes on with them. It is kept as {aside}."
        return True

    def _whole(self, table: str, check: Callable[..., Any]) -> list[tuple[Any, ...]]:
        """The lines of a table that pass a check, from its beginning and from its end to what cannot be read."""
        found: dict[tuple[Any, ...], None] = {}
        for order in ("ASC", "DESC"):
            with suppress(sqlite3.Error, UnicodeError, AttributeError):  # of no file there is no data base
                for line in self._db.execute(f"SELECT * FROM {table} ORDER BY rowid {order}"):
                    with suppress(Exception):
                        check(*line)
                        found[line] = None
        return list(found)

    def _unreadable(self, reason: object) -> Damaged:
        return Damaged(
            f"{self.path} is not a readable results file ({reason}); move it away, or start anew with --overwrite."
        )

    def put(self, cell: Cell, result: CellResult, code: Mapping[str, str] | None = None) -> None:
        """Keep a result for good: when this returns it is on disk. A result kept earlier for the cell is replaced.

        Args:
            code: what made it, see `experiments.fingerprints.code_behind`.
        """
        records = json.dumps([record.to_json() for record in result.records])
        mark = fingerprint(code or {})
        parameters = json.dumps(dict(cell.parameters), sort_keys=True)
        line = (cell.key, cell.part, parameters, records, result.error, result.seconds, mark)
        with self._written():
            self._db.execute("INSERT OR IGNORE INTO code VALUES (?, ?)", (mark, json.dumps(code or {}, sort_keys=True)))
            self._db.execute("INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*line, _checksum(line)))
            if result.megabytes == result.megabytes:
                self._db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?)", (cell.key, result.megabytes))

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Inside, what is written is written whole or not at all; ``OSError`` if it cannot be."""
        try:
            self._db.execute("BEGIN")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise OSError(f"{self.path} cannot be written to ({error})") from error
            raise

    def results(self) -> Mapping[str, CellResult]:
        """Everything kept so far, by cell key; `Damaged` if the file is."""
        try:
            return {line[0]: _result(*line) for line in self._db.execute("SELECT * FROM cells")}
        except Exception as error:  # a damaged file raises whatever sqlite3, json and what is read from it do
            raise self._unreadable(error) from error

    def code(self) -> Mapping[str, Mapping[str, str]]:
        """What made each cell kept so far, by cell key; `Damaged` if the file is."""
        try:
            files = {mark: _files(mark, text) for mark, text in self._db.execute("SELECT * FROM code")}
            return {key: files[mark] for key, mark in self._db.execute("SELECT key, code FROM cells")}
        except Exception as error:
            raise self._unreadable(error) from error

    def parts(self) -> Mapping[str, str]:
        """The part of each cell kept so far, by cell key."""
        return dict(self._read("SELECT key, part FROM cells"))

    def memory(self) -> Mapping[str, float]:
        """The most memory that the process of each cell had used by its end, in megabytes, by cell key."""
        return dict(self._read("SELECT key, megabytes FROM memory WHERE typeof(megabytes) = 'real'"))

    def _read(self, query: str) -> list[Any]:
        try:
            return self._db.execute(query).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def settings(self) -> dict[str, Any]:
        """The settings of the run that were kept last; empty where none were."""
        lines = dict(self._read("SELECT * FROM settings"))
        try:
            if (mark := lines.pop(MARK, None)) is not None and mark != digest(json.dumps(sorted(lines.items()))):
                raise ValueError("the settings were changed")
            return {name: json.loads(value) for name, value in lines.items()}
        except (TypeError, ValueError) as error:
            raise self._unreadable(error) from error

    def keep_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings of the run beside its results: ``config.json`` may be lost."""
        lines = sorted((name, json.dumps(value)) for name, value in settings.items())
        lines.append((MARK, digest(json.dumps(lines))))
        with self._written():
            self._db.execute("DELETE FROM settings")
            self._db.executemany("INSERT INTO settings VALUES (?, ?)", lines)

    def close(self) -> None:
        self._release()

    def _release(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
        self._lock.unlink(missing_ok=True)
        self._locked.close()

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checksum(line: tuple[Any, ...]) -> str:
    return digest(json.dumps(line))


def _lengthen(path: Path) -> None:
    """Add zeros to an SQLite file that was cut, of which nothing could be read otherwise."""
    with suppress(OSError), open(path, "r+b") as file:
        head, size = file.read(32), file.seek(0, os.SEEK_END)
        needed = int.from_bytes(head[16:18], "big") * int.from_bytes(head[28:32], "big")  # a page's size, pages
        if head.startswith(b"SQLite format 3") and size < needed < 100 * size:
            file.truncate(needed)


def _result(*line: Any) -> CellResult:
    """What a line of the table of cells holds; ``ValueError`` and others if it is not as it was written."""
    *kept, checksum = line
    if _checksum(tuple(kept)) != checksum:
        raise ValueError(f"the cell {line[0]} was changed")
    key, _, _, records, error, seconds, _ = kept
    return CellResult(key, tuple(Record(**record) for record in json.loads(records)), error, seconds)


def _files(mark: str, text: str) -> dict[str, str]:
    """What a line of the table of code holds."""
    files = dict(json.loads(text))
    if fingerprint(files) != mark:
        raise ValueError(f"the code {mark} was changed")
    return files


# -- records that are made once, though the cell is stopped ------------------------------------------------------------


def cached_records(path: Path, make: Callable[[], Sequence[Record]]) -> list[Record]:
    """The records in a file; where there is none, those that ``make`` gives, after writing them to it.

    The file is written whole or not at all, and floats come back as they were.

    Args:
        path: a JSON file in a folder that exists.
        make: called where it is missing.

    Raises:
        ValueError: the file is there and holds something else.
    """
    if path.exists():
        try:
            return [Record(**plain) for plain in json.loads(path.read_text(encoding="utf-8"))]
        except Exception as error:  # a damaged file raises whatever json and what is read from it do
            raise ValueError(f"{path} does not hold records ({error}); delete it to make them again.") from error
    records = list(make())
    write_whole(path, json.dumps([record.to_json() for record in records]))
    return records


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: what was there stays until the new one is on disk.

    Raises:
        OSError: it cannot be written; the message names it.
    """
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    try:
        with open(unfinished, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"{path} cannot be written ({error.strerror or error})") from error
        raise
