"""Records that are made once: what a training said of itself before it was stopped is not lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.study import Record

__all__ = ["kept_or_made"]


def kept_or_made(path: Path, make: Callable[[], Sequence[Record]]) -> list[Record]:
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
