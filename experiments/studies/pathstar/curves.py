"""What the summary says of a training, for the tables, the findings and the figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.studies.pathstar.sweep import FORCED, GREEDY, NETWORK, REVERSED
from experiments.summary import Series, Summary, SummaryRow
from experiments.tables import with_interval

__all__ = [
    "PUBLISHED",
    "SOLVED",
    "SOURCE",
    "Training",
    "agrees",
    "copies",
    "first_above",
    "nodes_of",
    "shown",
    "trainings",
]

#: share of whole answers from which on a task counts as solved, and of prompts from which on a node is learned
SOLVED = 0.9
#: three standard errors of 400 answers, in standard deviations of one
NEAR = 0.15

SOURCE = "Bachmann and Nagarajan 2024, arXiv:2403.06963"
#: (d, L): share of whole answers right of a GPT with teacher forcing: 12 layers, 384 wide, 200,000 graphs
PUBLISHED = {(2, 10): 0.494, (5, 5): 0.186, (7, 7): 0.126}


@dataclass(frozen=True)
class Training:
    """The trainings of one mode on stars of one degree.

    Attributes:
        summary: of the study.
        mode: of the training.
        degree: d.
        length: L.
    """

    summary: Summary
    mode: str
    degree: int
    length: int

    @property
    def place(self) -> dict[str, Any]:
        return {"part": NETWORK, "mode": self.mode, "degree": self.degree, "H": self.length}

    def node(self, node: int, metric: str = FORCED) -> Series:
        """Accuracy on a node of the path, 1 the start and L the goal, wherever it is written."""
        h = self.length + 1 - node if self.mode == REVERSED else node
        return self.summary.series("step", metric, **self.place, h=h)

    def whole(self, metric: str = GREEDY) -> Series:
        """A measure of whole answers."""
        return self.summary.series("step", metric, **self.place)

    @property
    def steps(self) -> int:
        """The last step that was evaluated."""
        return int(self.node(2).x[-1])

    def at_end(self, metric: str, **labels: Any) -> SummaryRow:
        """The row of the last step."""
        return max(self.summary.select(metric, **self.place, **labels), key=lambda row: row["step"])

    def node_at_end(self, node: int, metric: str = FORCED) -> SummaryRow:
        """The row of a node at the last step."""
        return self.at_end(metric, h=self.length + 1 - node if self.mode == REVERSED else node)


def first_above(series: Series, level: float) -> int | None:
    """The step from which on the mean stays at or above a level, if it does at the end."""
    below = np.flatnonzero(series.mean < level)
    start = below[-1] + 1 if len(below) else 0
    return int(series.x[start]) if start < len(series.x) else None


def trainings(summary: Summary, degree: int) -> dict[str, Training]:
    """The modes of which there are records, on stars of this degree."""
    rows = summary.select(FORCED, part=NETWORK, degree=degree)
    return {row["mode"]: Training(summary, row["mode"], degree, row["H"]) for row in rows}


def nodes_of(length: int) -> range:
    """The nodes of a path but the first, which is given."""
    return range(2, length + 1)


def shown(row: SummaryRow) -> str:
    """``mean [lower, upper]``."""
    return with_interval(row.mean, row.lower, row.upper, 2)


def agrees(row: SummaryRow, degree: int) -> bool:
    """Whether a share is about 1/d: within `NEAR` standard deviations of one answer, right or wrong."""
    chance = 1 / degree
    return abs(row.mean - chance) <= NEAR * math.sqrt(chance * (1 - chance))


def copies(training: Training) -> bool:
    """Whether the nodes after the second are learned given the true prefix, and whole answers are at 1/d."""
    later = [training.node_at_end(node).mean for node in nodes_of(training.length) if node > 2]
    return min(later) >= SOLVED and agrees(training.at_end(GREEDY), training.degree)
