"""From single runs to means, paired differences and slopes, each with its 95 % interval over the seeds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from experiments.fits import NOTHING, SECONDS
from experiments.measure import SLOPE_IN_H
from experiments.statistics import mean_interval, paired_difference, slope_interval
from experiments.studies.compare.options import CompareOptions
from experiments.studies.compare.sweep import NOT_APPLICABLE, QUERIES, RUNS, SEED, STEPS
from experiments.study import Label, keyed_rng
from experiments.summary import Summary, SummaryRow

__all__ = ["DISTANCE_SLOPE", "MEANS", "Estimates", "Slope", "minus"]

MEANS = "means"  # the part of the study that holds what is estimated from the runs
DISTANCE_SLOPE = "slope of log D_H^2 in log H"

Interval = tuple[float, float, float]


def minus(metric: str, baseline: str) -> str:
    """The name of a paired difference."""
    return f"{metric} minus that of {baseline}"


class Slope(NamedTuple):
    """A slope in H.

    Attributes:
        metric: what it is the slope of.
        interval: slope, lower and upper end.
        horizons: those it was fitted on.
        seeds: those that gave a value at every one of them.
    """

    metric: str
    interval: Interval
    horizons: list[int]
    seeds: int


class Estimates:
    """The runs by task, horizon and agent, and what follows from them.

    Args:
        options: of the study.
        summary: of the single runs.
    """

    def __init__(self, options: CompareOptions, summary: Summary) -> None:
        self.options = options
        self._runs: dict[tuple[str, int, str, str], dict[int, SummaryRow]] = {}
        for row in (*summary.select(part=RUNS), *summary.timings.select(part=RUNS)):
            key = (row["task"], row["H"], row["learner"], row.metric)
            self._runs.setdefault(key, {})[row[SEED]] = row

    @cached_property
    def horizons(self) -> Mapping[str, list[int]]:
        """Horizons of each task that anything is known at, in order."""
        found: dict[str, set[int]] = {task: set() for task in self.options.tasks}
        for task, H, *_ in self._runs:
            found[task].add(H)
        return {task: sorted(values) for task, values in found.items()}

    def runs(self, task: str, H: int, agent: str, metric: str) -> dict[int, float]:
        """The number that each seed gave; seeds whose cell failed are missing."""
        return {seed: row.mean for seed, row in self._runs.get((task, H, agent, metric), {}).items()}

    def reason(self, task: str, H: int, agent: str) -> str | None:
        """Why the agent is not for the task at this horizon; ``None`` where it is, or where every run failed."""
        for row in self._runs.get((task, H, agent, NOT_APPLICABLE), {}).values():
            return row.method
        return None

    def estimate(self, task: str, H: int, agent: str, metric: str) -> Interval | None:
        """Mean and interval; of a single run, the interval of its own; ``None`` without runs."""
        rows = list(self._runs.get((task, H, agent, metric), {}).values())
        if len(rows) == 1:
            return rows[0].mean, rows[0].lower, rows[0].upper
        return mean_interval([row.mean for row in rows], _rng()) if rows else None

    def common(self, task: str, H: int, agent: str, metric: str) -> list[int]:
        """The seeds that both the agent and the baseline gave the number for."""
        ours, theirs = (self.runs(task, H, name, metric) for name in (agent, self.options.baseline))
        return sorted(ours.keys() & theirs.keys())

    def difference(self, task: str, H: int, agent: str, metric: str) -> Interval | None:
        """Agent minus baseline, seed by seed on the same data; ``None`` where they have no seed in common.

        A difference at the level of rounding (1e-9 of a distance, or of the factor) is none.
        """
        common = self.common(task, H, agent, metric)
        if not common:
            return None
        ours, theirs = (self.runs(task, H, name, metric) for name in (agent, self.options.baseline))
        first, second = ([runs[seed] for seed in common] for runs in (ours, theirs))
        return paired_difference(first, second, _rng(), rounding=NOTHING)

    def slope(self, task: str, agent: str) -> Slope | None:
        """Slope in H of C_apx, or of the distance where there is no factor; ``None`` with fewer than two horizons."""
        for metric, name in (("C_apx", SLOPE_IN_H), ("hellinger2", DISTANCE_SLOPE)):
            runs = {H: found for H in self.horizons[task] if (found := self.runs(task, H, agent, metric))}
            seeds = sorted(set.intersection(*(set(values) for values in runs.values()))) if runs else []
            if len(runs) >= 2 and seeds:
                values = np.array([[runs[H][seed] for seed in seeds] for H in runs])
                interval = slope_interval(list(runs), values)
                return Slope(name, interval, list(runs), len(seeds)) if np.isfinite(interval[0]) else None
        return None

    def rows(self) -> list[SummaryRow]:
        """Everything above that any machine reproduces, for ``summary.csv``."""
        found: list[SummaryRow] = []
        baseline = self.options.baseline
        for task, horizons in self.horizons.items():
            for agent in self.options.agents:
                labels: dict[str, Label] = {"task": task, "learner": agent, "n": self.options.n}
                for H in horizons:
                    at = {**labels, "H": H}
                    for metric in ("C_apx", "hellinger2", QUERIES, STEPS):
                        seeds = len(self.runs(task, H, agent, metric))
                        found += _row(at, metric, self.estimate(task, H, agent, metric), seeds)
                        if agent != baseline and metric in ("C_apx", "hellinger2"):
                            difference = self.difference(task, H, agent, metric)
                            common = len(self.common(task, H, agent, metric))
                            found += _row(at, minus(metric, baseline), difference, common)
                if (slope := self.slope(task, agent)) is not None:
                    method = f"least squares, H={slope.horizons[0]}..{slope.horizons[-1]}"
                    found += _row(labels, slope.metric, slope.interval, slope.seeds, method)
        return found

    def seconds(self, task: str, H: int, agent: str) -> Interval | None:
        """Processor seconds of a fit."""
        return self.estimate(task, H, agent, SECONDS)


def _row(
    labels: dict[str, Label], metric: str, interval: Interval | None, seeds: int, method: str = ""
) -> list[SummaryRow]:
    return [] if interval is None else [SummaryRow(MEANS, labels, metric, *interval, seeds, method)]


def _rng() -> np.random.Generator:
    """The same resamples for all, so that equal data have equal intervals."""
    return keyed_rng(0, "compare: bootstrap")
