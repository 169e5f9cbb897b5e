"""Cells and what they measure: records, their random numbers, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

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
    """

    part: str
    function: Callable[..., Sequence[Record]]
    parameters: Mapping[str, Any]
    scratch: bool = False

    @property
    def key(self) -> str:
        """The identity of the cell as text: equal for equal part and parameters, whatever their order."""
        return f"{self.part} {json.dumps(dict(self.parameters), sort_keys=True)}"


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
    seconds REAL NOT NULL
)
"""


@dataclass(frozen=True)
class CellResult:
    """What a finished cell left: its records, or an error.

    Attributes:
        key: of the cell.
        records: empty where it failed.
        error: traceback as text, ``None`` where it succeeded.
        seconds: wall time in the worker.
    """

    key: str
    records: tuple[Record, ...]
    error: str | None
    seconds: float


class ResultStore:
    """The results of one run of one study; a context manager.

    Args:
        path: the SQLite file; made if it does not exist.

    Raises:
        ValueError: the file is not a results file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=30.0)
            with self._db:
                self._db.execute(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} is not a readable results file ({error}); move it away.") from error

    def put(self, cell: Cell, result: CellResult) -> None:
        """Keep a result for good: when this returns it is on disk. A result kept earlier for the cell is replaced."""
        records = json.dumps([record.to_json() for record in result.records])
        line = (cell.key, cell.part, json.dumps(dict(cell.parameters), sort_keys=True), records, result.error)
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?)", (*line, result.seconds))

    def results(self) -> Mapping[str, CellResult]:
        """Everything kept so far, by cell key; ``ValueError`` if the file is damaged."""
        try:
            lines = self._db.execute("SELECT key, records, error, seconds FROM cells")
            return {
                key: CellResult(key, tuple(Record(**record) for record in json.loads(records)), error, seconds)
                for key, records, error, seconds in lines
            }
        except Exception as error:  # a damaged file raises whatever sqlite3, json and what is read from it do
            raise ValueError(f"{self.path} is not a readable results file ({error}); move it away.") from error

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps([record.to_json() for record in records]), encoding="utf-8")
    os.replace(unfinished, path)
    return records
