"""What the summary says, in words and in places: shared by the tables, the findings and the figures."""

from __future__ import annotations

from typing import Any

from experiments.studies.multiplication.sweep import EXPLICIT, FORCED, LINEAR, MLP, TRAINED
from experiments.summary import Summary, SummaryRow
from experiments.tables import with_interval
from ntp_envs.tasks import Multiplication

__all__ = [
    "FORMATS",
    "LEARNERS",
    "NAMES",
    "PUBLISHED",
    "SEGMENTS",
    "SOURCE",
    "at_end",
    "decided",
    "forced_rows",
    "last_step",
    "segment_of",
    "shown",
    "trained_digits",
]

#: formats in the order of the story, and what they are called
FORMATS = {"none": "no chain", "source": "chain", "carry": "chain, then carries"}
#: learners by part and label
LEARNERS = ((EXPLICIT, EXPLICIT), (TRAINED, LINEAR), (TRAINED, MLP))
NAMES = {EXPLICIT: "linear, weights written down", LINEAR: "linear, learned by SGD", MLP: "MLP, learned by SGD"}
SEGMENTS = ("factors by place", "one-digit products", "partial products", "product")

SOURCE = "Malach 2023, arXiv:2309.06979"
#: share of 4-digit products right, of an MLP of 775M parameters (100M examples, 17 h on one A100)
PUBLISHED = 0.969


def trained_digits(summary: Summary) -> list[int]:
    """Digits of the factors that networks were trained on, in order of size."""
    return sorted(summary.distinct("digits", part=TRAINED))


def last_step(summary: Summary, **labels: Any) -> int:
    """The last update that was evaluated; 0 where there is no training."""
    return max((row["step"] for row in summary.select(part=TRAINED, **labels)), default=0)


def at_end(summary: Summary, metric: str, part: str, learner: str, **labels: Any) -> SummaryRow | None:
    """The one row of weights written down, or of a training at its end; ``None`` where its cells failed or are none."""
    if part == TRAINED:
        labels = {**labels, "step": last_step(summary, learner=learner)}
    rows = summary.select(metric, part=part, learner=learner, **labels)
    return rows[0] if len(rows) else None


def shown(row: SummaryRow | None) -> str:
    """``mean [lower, upper]``, empty for no row."""
    return "" if row is None else with_interval(row.mean, row.lower, row.upper)


def segment_of(task: Multiplication, position: int) -> int:
    """The place in `SEGMENTS` of a position, counted from the BOS."""
    layout = task.layout
    if position >= layout.result:
        return 3
    return 2 if position >= min(layout.partials.values()) else int(position >= min(layout.multiplied.values())[0])


def decided(task: Multiplication) -> list[int]:
    """Positions after the prompt that hold a digit or a carry, counted from the BOS; the other symbols are constant."""
    slots = enumerate(task.layout.slots)
    return [position for position, slot in slots if position >= task.prompt_length and slot.kind != "symbol"]


def forced_rows(summary: Summary, part: str, learner: str, task: Multiplication) -> list[tuple[int, SummaryRow]]:
    """``(position, forced accuracy)`` of the digits and carries, at the end."""
    place = {"format": task.cot, "digits": task.digits}
    found = []
    for position in decided(task):
        row = at_end(summary, FORCED, part, learner, **place, h=position - task.prompt_length + 1)
        if row is not None:
            found.append((position, row))
    return found
