"""The numbers of a study: one interval, one slope, one paired difference; tidy rows, `summary.csv`, and tables."""

from __future__ import annotations

import csv
import html
import io
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.table import Table as RichTable

from experiments.cells import LABELS, Cell, CellResult, Record, keyed_rng, write_whole
from ntp_envs.arrays import ROUNDING
from ntp_envs.intervals import CONFIDENCE, check_confidence, student_margin

# -- numbers that are missing ------------------------------------------------------------------------------------------

NOT_MEASURED = "not measured"


class _Missing(float):
    """``nan`` that says what it is in a sentence, whatever format is asked for."""

    def __format__(self, form: str) -> str:
        return NOT_MEASURED


class _Blank(str):
    """The text of a number that is missing: words in a sentence, an empty cell in a `Table`, and false."""

    def __bool__(self) -> bool:
        return False


NAN, BLANK = _Missing("nan"), _Blank(NOT_MEASURED)


# -- intervals over replicates, paired differences and slopes ----------------------------------------------------------

#: from so many replicates on, a bootstrap knows their spread and skewness
MANY = 20

Interval = tuple[float, float, float]


def mean_interval(
    values: ArrayLike, rng: np.random.Generator, *, confidence: float = CONFIDENCE, resamples: int = 4999
) -> Interval:
    """The mean of replicates and the ends of its interval.

    Student's t; from 20 replicates on it is widened by the bootstrap (BCa) where that reaches farther, for skewed
    replicates. Under 20 a bootstrap alone misses too often: 15 % of the time with five normal ones.

    One replicate has no interval, nor have equal ones: they show no spread, and say nothing of what another one would
    be. Few replicates show neither skewness nor jumps: five exponential ones are covered 87 % of the time, and those of
    a learner that fails on one data set of five 68 % (``docs/calibration.md``).

    Args:
        values: ``(n,)`` replicates.
        rng: source of the resampling.
        confidence: of the interval.
        resamples: bootstrap resamples.

    Returns:
        ``(mean, lower, upper)``; ``nan`` for both ends where there is no interval; all three ``nan`` or infinite where
        a value is.

    Raises:
        ValueError: no values, or a level outside (0, 1).

    >>> import numpy as np
    >>> mean, lower, upper = mean_interval([1.0, 2.0, 3.0], np.random.default_rng(0))
    >>> mean, round(lower, 3), round(upper, 3)
    (2.0, -0.484, 4.484)
    """
    confidence = check_confidence(confidence)
    sample = np.asarray(values, dtype=np.float64).ravel()
    n = sample.size
    if n == 0:
        raise ValueError("values is empty; at least one replicate is needed.")
    mean = float(sample.mean())
    if not np.isfinite(sample).all():
        return mean, mean, mean
    if np.ptp(sample) <= ROUNDING * np.abs(sample).max():  # equal, whichever way each was rounded
        return float(sample[0]), NAN, NAN
    margin = student_margin(float(sample.std(ddof=1)) / math.sqrt(n), n, confidence=confidence)
    lower, upper = mean - margin, mean + margin
    if n >= MANY:
        from scipy.stats import bootstrap

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a degenerate BCa warns and returns nan
            found = bootstrap(
                (sample,), np.mean, confidence_level=confidence, n_resamples=resamples, method="BCa", rng=rng
            ).confidence_interval
        lower, upper = float(np.fmin(lower, found.low)), float(np.fmax(upper, found.high))
    return mean, lower, upper


def interval_words(replicates: int, what: str = "data sets") -> str:
    """What `mean_interval` of so many replicates is, for the note of a table or the caption of a figure.

    >>> interval_words(5)
    "Mean and 95 % interval (Student's t) over 5 data sets"
    """
    if replicates < 2:
        return f"One of the {what} only, so without an interval over {what}"
    kind = "Student's t" if replicates < MANY else "Student's t and bootstrap"
    return f"Mean and {100 * CONFIDENCE:g} % interval ({kind}) over {replicates} {what}"


def paired_difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    rng: np.random.Generator,
    *,
    rounding: float = 0.0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of ``ours - theirs``, replicate by replicate on the same data, and the ends of its interval.

    Differences below ``rounding`` times the larger of 1 and the largest of ``theirs`` are none.

    >>> paired_difference([1.0, 2.0], [1.0, 2.0], np.random.default_rng(0))
    (0.0, nan, nan)
    """
    first, second = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    gaps = first - second
    size = max(1.0, float(np.abs(second).max()))
    return mean_interval(np.where(np.abs(gaps) < rounding * size, 0.0, gaps), rng, confidence=confidence)


def paired_rows(ours: Sequence[SummaryRow], theirs: Sequence[SummaryRow]) -> Interval | None:
    """`paired_difference` of two numbers of a summary, the first row of each; ``None`` where one was not measured, or
    in other replicates."""
    if not (len(ours) and len(theirs)) or ours[0].seeds != theirs[0].seeds:
        return None
    return paired_difference(ours[0].replicates, theirs[0].replicates, keyed_rng(0, "bootstrap"))


def beyond_chance(difference: Interval) -> str:
    """Whether the interval of a difference leaves 0 out, in words.

    >>> beyond_chance((1.0, 0.5, 1.5)), beyond_chance((1.0, NAN, NAN))
    ('beyond chance', 'not beyond chance')
    """
    return "beyond chance" if difference[1] > 0 or difference[2] < 0 else "not beyond chance"


def loglog_slope(x: Sequence[float] | ArrayLike, y: Sequence[float] | ArrayLike) -> float:
    """Least-squares slope of log y against log x, to nine decimals (the rest is rounding error of the fit).

    ``nan`` with fewer than two points or a value that is not positive.

    >>> round(loglog_slope([1, 2, 4], [3, 6, 12]), 12)
    1.0
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.size < 2 or not (np.isfinite(ys).all() and (ys > 0).all() and (xs > 0).all()):
        return NAN
    return round(float(np.polyfit(np.log(xs), np.log(ys), 1)[0]), 9) + 0.0


def slope_interval(x: Sequence[float] | ArrayLike, values: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """The slope of a log-log plot of means: `loglog_slope` of the means of replicates, and the ends of its interval.

    To first order the slope is the mean over replicates of ``sum_j a_j v_ij / mean_j``, a_j the weights of least
    squares; the interval is Student's t for those. Replicates of one column may share their data or not. As in
    `mean_interval`, one replicate has no interval, nor have equal ones.

    Args:
        x: ``(m,)`` positive numbers.
        values: ``(m, s)`` replicates at each of them.
        confidence: of the interval.

    Returns:
        ``(slope, lower, upper)``; all ``nan`` where a mean is not positive or m < 2, both ends where there is no
        interval.

    >>> slope_interval([1, 2, 4], [[3, 3], [6, 6], [12, 12]])
    (1.0, nan, nan)
    """
    sample = np.asarray(values, dtype=np.float64)
    means = sample.mean(axis=1)
    slope = loglog_slope(x, means)
    s = sample.shape[1]
    if not np.isfinite(slope) or not np.isfinite(sample).all():
        return NAN, NAN, NAN
    at = np.log(np.asarray(x, dtype=np.float64))
    at -= at.mean()
    parts = (at / (at @ at)) @ (sample / means[:, None])  # (s,)
    spread = float(parts.std(ddof=1)) if s > 1 else 0.0
    if spread <= 1e-12:
        return slope, NAN, NAN
    margin = student_margin(spread / math.sqrt(s), s, confidence=confidence)
    return slope, round(slope - margin, 9), round(slope + margin, 9)


def growth_factor(x: Sequence[float] | ArrayLike, y: Sequence[float] | ArrayLike) -> float:
    """The factor by which y grows for each unit of x, by least squares of log y on x; ``nan`` as for `loglog_slope`.

    >>> round(growth_factor([1, 2, 3], [5, 10, 20]), 6)
    2.0
    """
    xs = np.asarray(x, dtype=np.float64)
    return float(np.exp(loglog_slope(np.exp(xs), y)))


def line_interval(x: ArrayLike, y: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """The slope of the least-squares line, and the ends of the interval that its residuals give (Student's t).

    Where the points bend away from a line it is wide. Rounding aside: to nine decimals. ``nan`` with fewer than four.

    >>> line_interval([0, 1, 2, 3], [5, 3, 1, -1])
    (-2.0, -2.0, -2.0)
    """
    n = np.size(x)
    if n < 4:
        return NAN, NAN, NAN
    from scipy.stats import linregress

    fit = linregress(x, y)
    margin = student_margin(float(fit.stderr), n - 1, confidence=confidence)
    return round(float(fit.slope), 9), round(float(fit.slope) - margin, 9), round(float(fit.slope) + margin, 9)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's; ``nan`` with fewer than three points or all equal.

    >>> rank_correlation([1.0, 2.0, 5.0], [9.0, 4.0, 1.0])
    -1.0
    """
    if len(x) < 3 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return NAN
    from scipy.stats import rankdata

    return round(float(np.corrcoef(rankdata(x), rankdata(y))[0, 1]), 9)


# -- tables, for the terminal and for the report -----------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        title: what it says.
        columns: headings; the first column is text, the others are numbers.
        rows: as many cells as headings; a ``float`` is shown by `number`, and `BLANK` as an empty cell.
        note: a line below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def text_rows(self) -> list[list[str]]:
        """Rows as text."""
        shown = [[number(cell) if isinstance(cell, float) else cell for cell in row] for row in self.rows]
        return [["" if isinstance(cell, _Blank) else str(cell) for cell in row] for row in shown]

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
            f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(self.title)}">'
            f"<table><caption>{html.escape(self.title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
        )

    def to_markdown(self) -> str:
        """For a README."""

        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|").replace("\u00a0", " ").strip() for cell in cells) + " |"

        rule = "|-|" + "-:|" * (len(self.columns) - 1)
        return "\n".join([line(self.columns), rule, *map(line, self.text_rows())]) + "\n"

    def to_latex(self) -> str:
        """For a paper: a booktabs tabular."""
        special = {**{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
        special |= {"\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}", "\u00a0": "~"}

        def line(cells: Iterable[str]) -> str:
            return " & ".join("".join(special.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

        body = [line(self.columns), r"\midrule", *map(line, self.text_rows())]
        ends = rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}", r"\end{tabular}"
        return "\n".join([ends[0], r"\toprule", *body, r"\bottomrule", ends[1]]) + "\n"

    def to_csv(self) -> str:
        """For a spreadsheet."""
        return csv_text(self.columns, [[cell.replace("\u00a0", " ") for cell in row] for row in self.text_rows()])


def number(value: float, digits: int = 4) -> str:
    """A number with this many significant digits; `BLANK` for ``nan``.

    >>> number(199.99234), number(0.00012345), number(1.0)
    ('200', '0.0001234', '1')
    >>> f"the gap is {number(NAN)}", bool(number(NAN))
    ('the gap is not measured', False)
    """
    return BLANK if math.isnan(value) else f"{value:.{digits}g}"


def with_interval(mean: float, lower: float, upper: float, digits: int = 3) -> str:
    """``mean [lower, upper]``, or the mean alone where the interval has no width."""
    if not upper > lower:
        return number(mean, digits)
    return f"{number(mean, digits)} [{number(lower, digits)}, {number(upper, digits)}]"


# -- rows, from the records of all cells to ``summary.csv`` ------------------------------------------------------------


class Named(Protocol):
    """What the summary reads of a study: its label columns beside `LABELS`."""

    @property
    def labels(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class SummaryRow:
    """A line of ``summary.csv``.

    Attributes:
        part: of the study.
        labels: its place in the sweep.
        metric: what was measured.
        mean: over replicates.
        lower, upper: 95 % interval: over replicates (`experiments.summary.mean_interval`), the record's own for a
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

    def shown(self, digits: int = 3) -> str:
        """The number with its interval, as text."""
        return with_interval(self.mean, self.lower, self.upper, digits)

    def __getitem__(self, label: str) -> Any:
        return self.labels.get(label)


def derived(part: str, metric: str, value: float, method: str, **labels: Any) -> SummaryRow:
    """A number computed from other rows, for `Analysis.rows`."""
    return SummaryRow(part, labels, metric, value, value, value, 0, method)


def slope_rows(
    rows: Iterable[SummaryRow], x: str, metric: str, *, above: str | None = None, offset: float = 0.0
) -> list[SummaryRow]:
    """The log-log slope in the label ``x`` of every group of rows that agree in part and all other labels.

    The one definition of a slope in the studies: `experiments.summary.slope_interval` of the replicates. Groups
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
        """The mean of the one row that matches; ``nan`` where its cell failed, which a sentence shows in words.

        >>> f"C_apx is {Summary([]).value('C_apx'):.3f}"
        'C_apx is not measured'

        Raises:
            ValueError: more than one row matches.
        """
        rows = self.select(metric, part=part, **labels)
        if len(rows) > 1:
            raise ValueError(f"{len(rows)} rows match {metric!r}, part={part!r}, {labels}; one is needed.")
        return rows[0].mean if rows else NAN

    def shown(self, metric: str, digits: int = 3, **where: Any) -> str:
        """The one number in this place with its interval, as text; `BLANK` where there is none."""
        rows = self.select(metric, **where)
        return rows[0].shown(digits) if len(rows) else BLANK

    def distinct(self, label: str, *, part: str | None = None) -> list[Any]:
        """Values of a label in order of appearance."""
        return list(dict.fromkeys(row[label] for row in self.select(part=part) if row[label] is not None))


#: headings, and where the numbers of each are: lines or columns of a `pivot`
Places = list[tuple[str, dict[str, Any]]]


def pivot(
    summary: Summary,
    title: str,
    metric: str,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    columns: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    digits: int = 3,
    corner: str = "learner",
    note: str = "",
) -> Table:
    """A table of numbers in their places: a line for each of ``rows``, a column for each of ``columns``.

    Args:
        summary: of the study.
        title: of the table.
        metric: what is shown where neither the line nor the column names another.
        rows, columns: a heading, and the labels that pick its numbers: those of the line go before those of the column.
            Beside labels and ``part``: ``metric``; ``digits``; ``timing=True``, a number that depends on the machine;
            ``bare=True``, without its interval.
        digits: significant digits, where neither names another number of them.
        corner: heading of the first column.
        note: below the table.

    Returns:
        The table, without lines that have no numbers.
    """
    columns = list(columns)
    lines = []
    for heading, row in rows:
        entries = []
        for _, column in columns:
            place = {**column, **row}
            source = summary.timings if place.pop("timing", False) else summary
            bare = place.pop("bare", False)
            entry = source.shown(place.pop("metric", metric), place.pop("digits", digits), **place)
            entries.append(entry.partition(" [")[0] if bare and entry else entry)
        if any(entries):
            lines.append([heading, *entries])
    return Table(title, [corner, *(heading for heading, _ in columns)], lines, note)


def summarise(study: Named, cells: Sequence[Cell], results: Mapping[str, CellResult], seed: int) -> Summary:
    """Replicates gathered into rows, in the order of the cells, whatever order they were finished in.

    Raises:
        ValueError: a record has a label that the study does not declare.
    """
    return Summary(*(_gathered(study, cells, results, seed, machine=machine) for machine in (False, True)))


def _gathered(
    study: Named, cells: Sequence[Cell], results: Mapping[str, CellResult], seed: int, *, machine: bool
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


def csv_text(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values: floats with 12 significant digits, ``\\n`` line ends on every system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell_text(value) for value in line] for line in lines)
    return text.getvalue()


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """`csv_text` in a file."""
    write_whole(path, csv_text(header, lines))


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{float(value):.12g}" if isinstance(value, float) else str(value)


def summary_lines(study: Named, summary: Summary) -> tuple[list[str], list[list[Any]]]:
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
