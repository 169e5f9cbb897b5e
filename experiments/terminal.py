"""What commands print: tables as wide as they are, and numbers as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


def print_whole(table: Table) -> None:
    """Print a table as wide as it is: a number cut short is worse than a line that wraps."""
    console = Console(highlight=False)
    wanted = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    console.width = max(console.width, wanted)
    console.print(table)


def plain(value: Any, *, missing: str | None = None) -> Any:
    """A value as JSON has it: infinite numbers as text, nan as ``missing``, anything unknown as its ``repr``.

    >>> plain({"a": (1, float("inf")), "b": float("nan")})
    {'a': [1, 'inf'], 'b': None}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(one, missing=missing) for name, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one, missing=missing) for one in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return missing if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
