"""From the records of all cells to tidy rows, and to ``summary.csv`` with the same bytes every time."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.statistics import interval_words, mean_interval, slope_interval
from experiments.store import CellResult
from experiments.study import LABELS, Cell, Record, Study, keyed_rng

__all__ = [
    "Series",
    "Summary",
    "SummaryRow",
    "derived",
    "intervals_over",
    "slope_rows",
    "summarise",
    "summary_lines",
    "write_csv",
]


@dataclass(frozen=True)
class SummaryRow:
    """A line of ``summary.csv``.

    Attributes:
        part: of the study.
        labels: its place in the sweep.
        metric: what was measured.
        mean: over replicates.
        lower, upper: 95 % interval: over replicates (`experiments.statistics.mean_interval`), the record's own for a
            single one; both ``nan`` where there is none. Equal to the mean where that is exact.
        seeds: number of replicates; 0 for a derived number.
        method: how it was obtained.
        replicates: ``(seeds,)`` the numbers the mean is of, in the order of the cells; not in the file.
    """

    part: str
    labels: Mapping[str, Any]
    metric: str
    mean: float
    lower: float
    upper: float
    seeds: int
    method: str = ""
    replicates: tuple[float, ...] = ()

    @property
    def top(self) -> float:
        """The upper end, or the mean where there is no interval: where a label goes."""
        return self.mean if math.isnan(self.upper) else self.upper

    def __getitem__(self, label: str) -> Any:
        return self.labels.get(label)


def derived(part: str, metric: str, value: float, method: str, **labels: Any) -> SummaryRow:
    """A number computed from other rows, for `Analysis.rows`."""
    return SummaryRow(part, labels, metric, value, value, value, 0, method)


def slope_rows(
    rows: Iterable[SummaryRow], x: str, metric: str, *, above: str | None = None, offset: float = 0.0
) -> list[SummaryRow]:
    """The log-log slope in the label ``x`` of every group of rows that agree in part and all other labels.

    The one definition of a slope in the studies: `experiments.statistics.slope_interval` of the replicates. Groups
    without two values of ``x`` have none, nor have those with a mean that is not positive.

    Args:
        rows: of one metric.
        x: ``"H"`` or ``"K"``.
        metric: what the slope is called.
        above: only rows whose ``x`` is above this label of theirs.
        offset: taken from every number first.
    """
    groups: dict[tuple[Any, ...], dict[float, SummaryRow]] = {}
    for row in rows:
        if row[x] is not None and (above is None or row[x] > (row[above] or 0)):
            others = tuple(sorted((name, value) for name, value in row.labels.items() if name != x))
            groups.setdefault((row.part, others), {})[row[x]] = row
    found = []
    for (part, others), at in groups.items():
        xs = sorted(at)
        seeds = {len(at[value].replicates) for value in xs}
        if len(seeds) == 1:  # else a cell failed, and the means are all there is
            values = np.array([at[value].replicates for value in xs], dtype=np.float64)
        else:
            values = np.array([[at[value].mean] for value in xs])
        slope, lower, upper = slope_interval(xs, values - offset)
        if math.isfinite(slope):
            method = f"least squares, {x}={xs[0]:g}..{xs[-1]:g}"
            found.append(SummaryRow(part, dict(others), metric, slope, lower, upper, min(seeds), method))
    return found


def intervals_over(rows: Iterable[SummaryRow], what: str = "data sets") -> str:
    """`interval_words` of rows that may differ in their replicates: of the fewest among those that have several."""
    several = [row.seeds for row in rows if row.seeds > 1]
    return interval_words(min(several, default=1), what)


class Series(NamedTuple):
    """One line of a figure: ``(m,)`` arrays, sorted by ``x``."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    @property
    def sampled(self) -> bool:
        """Whether any point has an interval of positive width."""
        return bool((self.upper > self.lower).any())


class Summary(Sequence[SummaryRow]):
    """The rows of a study, with the two questions an analysis asks of them.

    Attributes:
        rows: what ``summary.csv`` holds.
        timings: the records that depend on the machine (seconds, megabytes), gathered in the same way. Figures, tables
            and findings may show them; what is made of them must not join `Analysis.rows`, which any machine
            reproduces.

    >>> rows = Summary([SummaryRow("a", {"H": 4}, "C_apx", 2.0, 2.0, 2.0, 1)])
    >>> rows.value("C_apx", part="a", H=4)
    2.0
    """

    def __init__(self, rows: Iterable[SummaryRow], timings: Iterable[SummaryRow] = ()) -> None:
        self.rows = list(rows)
        self._timings = list(timings)

    @property
    def timings(self) -> Summary:
        return Summary(self._timings)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[SummaryRow]:
        return iter(self.rows)

    def select(self, metric: str | None = None, *, part: str | None = None, **labels: Any) -> Summary:
        """Rows with this metric, part and labels; what is not named may be anything."""
        return Summary(
            row
            for row in self.rows
            if (metric is None or row.metric == metric)
            and (part is None or row.part == part)
            and all(row[name] == value for name, value in labels.items())
        )

    def series(self, x: str, metric: str, *, part: str | None = None, **labels: Any) -> Series:
        """Mean and interval against the label ``x``; empty where there are no such rows."""
        rows = sorted(self.select(metric, part=part, **labels), key=lambda row: row[x])
        columns = [[float(row[x]) for row in rows], *([getattr(row, n) for row in rows] for n in Series._fields[1:])]
        return Series(*(np.array(column, dtype=np.float64) for column in columns))

    def value(self, metric: str, *, part: str | None = None, **labels: Any) -> float:
        """The mean of the one row that matches; ``nan`` where its cell failed.

        Raises:
            ValueError: more than one row matches.
        """
        rows = self.select(metric, part=part, **labels)
        if len(rows) > 1:
            raise ValueError(f"{len(rows)} rows match {metric!r}, part={part!r}, {labels}; one is needed.")
        return rows[0].mean if rows else math.nan

    def distinct(self, label: str, *, part: str | None = None) -> list[Any]:
        """Values of a label in order of appearance."""
        return list(dict.fromkeys(row[label] for row in self.select(part=part) if row[label] is not None))


def summarise(study: Study, cells: Sequence[Cell], results: Mapping[str, CellResult], seed: int) -> Summary:
    """Replicates gathered into rows, in the order of the cells, whatever order they were finished in.

    Raises:
        ValueError: a record has a label that the study does not declare.
    """
    return Summary(*(_gathered(study, cells, results, seed, machine=machine) for machine in (False, True)))


def _gathered(
    study: Study, cells: Sequence[Cell], results: Mapping[str, CellResult], seed: int, *, machine: bool
) -> list[SummaryRow]:
    known = {*LABELS, *study.labels}
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for cell in cells:
        result = results.get(cell.key)
        for record in result.records if result is not None else ():
            if record.machine is not machine:
                continue
            if unknown := set(record.labels) - known:
                raise ValueError(f"labels {sorted(unknown)} in part {cell.part!r}; add them to Study.labels.")
            place = (cell.part, tuple(sorted(record.labels.items())), record.metric, record.method)
            groups.setdefault(place, []).append(record)
    rows = []
    for (part, labels, metric, method), records in groups.items():
        values = tuple(record.value for record in records)
        if len(records) == 1:
            mean, (lower, upper) = values[0], _own_interval(records[0])
        else:
            rng = keyed_rng(seed, "bootstrap")  # the same resamples for all, so that equal data have equal intervals
            mean, lower, upper = mean_interval(values, rng)
            below, above = (_pooled(records, end) for end in ("lower", "upper"))
            if below > 0.0 or above > 0.0:
                lower, upper = float(np.fmin(lower, mean - below)), float(np.fmax(upper, mean + above))
        rows.append(SummaryRow(part, dict(labels), metric, mean, lower, upper, len(records), method, values))
    return rows


def _own_interval(record: Record) -> tuple[float, float]:
    """Of a number that was measured once.

    Exact for one data set (a finite ``n``), it says nothing of the next: no interval.
    """
    if record.lower is None or record.upper is None:
        return math.nan, math.nan
    if not record.upper > record.lower and math.isfinite(float(record.labels.get("n", math.inf))):
        return math.nan, math.nan
    return record.lower, record.upper


def _pooled(records: Sequence[Any], end: str) -> float:
    """How far the mean of replicates may be off on one side by their own errors, taken to be independent.

    Two or three replicates know their spread badly; the interval is at least this wide.
    """
    gaps = [record.value - own for record in records if (own := getattr(record, end)) is not None]
    return math.sqrt(math.fsum(gap**2 for gap in gaps)) / len(records) if np.isfinite(gaps).all() else 0.0


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Comma-separated values: floats with 12 significant digits, ``\\n`` line ends on every system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell_text(value) for value in line] for line in lines)
    path.write_bytes(text.getvalue().encode())


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def summary_lines(study: Study, summary: Summary) -> tuple[list[str], list[list[Any]]]:
    """Header and lines of ``summary.csv``."""
    labels = [*LABELS, *study.labels]
    header = ["part", *labels, "metric", "mean", "lower", "upper", "seeds", "method"]
    lines = [
        [
            row.part,
            *(row[label] for label in labels),
            row.metric,
            row.mean,
            *(None if math.isnan(end) else end for end in (row.lower, row.upper)),
            row.seeds,
            row.method,
        ]
        for row in summary
    ]
    return header, lines
