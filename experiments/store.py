"""Results on disk: one SQLite file, written by the parent process as cells finish; a crash loses nothing finished."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from experiments.study import Cell, Record

__all__ = ["CellResult", "ResultStore"]

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
