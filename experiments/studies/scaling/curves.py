"""What the summary says of an architecture, for the tables, the findings and the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from experiments.studies.scaling.measures import ABOVE, BITS, PASSING
from experiments.studies.scaling.options import ScalingOptions
from experiments.studies.scaling.sweep import NGRAM, REFERENCE, TRAINING
from experiments.summary import Summary, SummaryRow

__all__ = [
    "NAMES",
    "Slope",
    "compared_windows",
    "drift_points",
    "frontier",
    "gain",
    "ngrams",
    "of",
    "paired",
    "rank_correlation",
    "slope",
    "trainings",
]

#: of the architectures, in sentences and figures
NAMES = {"linear": "linear", "mlp": "MLP", "transformer": "transformer"}


def paired(summary: Summary, **labels: Any) -> list[SummaryRow]:
    """Held-out bits, each with the interval of its difference to the 3-gram on the same text."""
    rows = []
    for row in summary.select(BITS, **labels):
        above = of(summary, row, ABOVE)
        rows.append(replace(row, lower=row.mean + above.lower - above.mean, upper=row.mean + above.upper - above.mean))
    return rows


def trainings(summary: Summary, options: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """`paired` bits of every width and budget, without those of the comparison of windows."""
    rows = paired(summary, part=TRAINING, learner=architecture)
    kept = [row for row in rows if architecture == "transformer" or row["window"] == options.window]
    return sorted(kept, key=lambda row: (row["budget"], row["width"]))


def frontier(summary: Summary, options: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """`paired` bits of the best width at every budget."""
    best: dict[int, SummaryRow] = {}
    for row in trainings(summary, options, architecture):
        if row["budget"] not in best or row.mean < best[row["budget"]].mean:
            best[row["budget"]] = row
    return [best[budget] for budget in sorted(best)]


def of(summary: Summary, row: SummaryRow, metric: str) -> SummaryRow:
    """The row of another measure of the same training.

    Raises:
        LookupError: there is none.
    """
    found = summary.select(metric, part=row.part, **row.labels)
    if not len(found):
        raise LookupError(f"no {metric!r} of {dict(row.labels)}")
    return found[0]


def ngrams(summary: Summary) -> list[SummaryRow]:
    """`paired` bits of the Witten-Bell models of the windows, by order, which is one more than their ``window``."""
    return sorted(paired(summary, part=REFERENCE, learner=NGRAM), key=lambda row: row["window"])


def compared_windows(summary: Summary, options: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """`paired` bits by window, at one width and budget."""
    place = {"learner": architecture, "width": options.window_width, "budget": options.window_budget}
    return sorted(paired(summary, part=TRAINING, **place), key=lambda row: row["window"])


def gain(rows: Sequence[SummaryRow]) -> float:
    """Bits saved by the last step of a frontier; ``nan`` where there are not two budgets."""
    return rows[-2].mean - rows[-1].mean if len(rows) > 1 else math.nan


class Slope(NamedTuple):
    """Bits saved by ten times the compute, by least squares, and its 95 % interval."""

    value: float
    lower: float
    upper: float


def slope(rows: Sequence[SummaryRow]) -> Slope | None:
    """Of a frontier in log compute; ``None`` with fewer than four budgets.

    The interval is that of the residuals about the line (Student's t), rounding aside: where the frontier bends it is
    wide.
    """
    if len(rows) < 4:
        return None
    from scipy.stats import linregress, t

    fit = linregress([math.log10(row["budget"]) for row in rows], [row.mean for row in rows])
    half = float(t.ppf(0.975, len(rows) - 2)) * fit.stderr
    return Slope(*(round(float(value), 9) for value in (-fit.slope, -fit.slope - half, -fit.slope + half)))


def drift_points(summary: Summary, options: ScalingOptions, learner: str) -> list[tuple[SummaryRow, SummaryRow]]:
    """Held-out bits and characters until the distance passes 1, of all trainings of an architecture or all n-grams."""
    rows = ngrams(summary) if learner == NGRAM else trainings(summary, options, learner)
    return [(row, of(summary, row, PASSING)) for row in rows]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's; ``nan`` with fewer than three points or all equal.

    >>> rank_correlation([1.0, 2.0, 5.0], [9.0, 4.0, 1.0])
    -1.0
    """
    if len(x) < 3 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return math.nan
    from scipy.stats import rankdata

    return round(float(np.corrcoef(rankdata(x), rankdata(y))[0, 1]), 9)
