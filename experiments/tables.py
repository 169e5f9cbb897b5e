"""Tables, for the terminal and for the report."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Table", "number", "with_interval"]


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        title: what it says.
        columns: headings; the first column is text, the others are numbers.
        rows: as many cells as headings; a ``float`` is shown by `number`.
        note: a line below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def text_rows(self) -> list[list[str]]:
        """Rows as text."""
        return [[number(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in self.rows]

    def to_rich(self) -> RichTable:
        """For a terminal."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table as RichTable

        table = RichTable(
            title=escape(self.title), caption=escape(self.note) or None, box=box.SIMPLE_HEAD, pad_edge=False
        )
        for i, column in enumerate(self.columns):
            table.add_column(escape(column), justify="right" if i else "left", no_wrap=True)
        for row in self.text_rows():
            table.add_row(*(escape(cell) for cell in row))
        return table

    def to_html(self) -> str:
        """For a report."""
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.text_rows()
        )
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        return (
            f"<table><caption>{html.escape(self.title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"
        )


def number(value: float, digits: int = 4) -> str:
    """A number with this many significant digits; an empty cell for ``nan``.

    >>> number(199.99234), number(0.00012345), number(1.0)
    ('200', '0.0001234', '1')
    """
    return "" if math.isnan(value) else f"{value:.{digits}g}"


def with_interval(mean: float, lower: float, upper: float, digits: int = 3) -> str:
    """``mean [lower, upper]``, or the mean alone where the interval has no width."""
    if not upper > lower:
        return number(mean, digits)
    return f"{number(mean, digits)} [{number(lower, digits)}, {number(upper, digits)}]"
