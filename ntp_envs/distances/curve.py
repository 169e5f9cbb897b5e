"""The question, checked once, and the answer: a distance at every prefix length, and how it was obtained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checked import check_policy
from ntp_envs.checks import check_kind
from ntp_envs.distances.metrics import COVERAGE, Metric, check_metrics, check_thresholds
from ntp_envs.intervals import CONFIDENCE
from ntp_envs.policies import Policy
from ntp_envs.saved import Savable
from ntp_envs.tasks.base import Task


@dataclass(frozen=True, eq=False)
class DistanceCurve(Savable):
    """A distance between two rollout laws at every prefix length h = 1..H.

    Attributes:
        metric: ``"hellinger2"`` (squared Hellinger, ``sum (sqrt P - sqrt Q)^2`` in [0, 2]), ``"tv"`` (in [0, 1]),
            ``"kl"`` (nats, first argument first), ``"chi2"``, or ``"coverage"`` (``P(P / Q >= N)``), or the name of a
            registered one or of a function. The two-sample tests add ``"ngram_tv"`` and ``"mmd2"``.
        values: ``(H,)`` values; entry h - 1 is at prefix length h. Coverage at several thresholds: ``(H, T)``.
        lower, upper: ends of the interval, same shape; equal to ``values`` where exact, but for what an automaton
            at a long horizon leaves out (``upper``, by about 1e-12). By default they hold at each h
            (and N) by itself, not at all h together: see ``simultaneous``, and `band`.
        method: ``"automaton"``, ``"enumeration"``, ``"monte carlo (bridge)"``, ``"monte carlo (one-sided)"`` or
            ``"samples only (...)"``.
        n: sequences drawn, 0 where exact.
        std_error: standard errors, same shape; zero where exact.
        thresholds: ``(T,)`` the N of a coverage profile, else ``None``.
        confidence: level of the intervals.
        simultaneous: whether all intervals of the curve hold together at this level (Bonferroni), not each by itself.
        unbounded: whether there is no largest value of the metric.
        unseen: an event of one of the laws may have this probability and still not be among the draws, at the level of
            one interval (about 3.84 over the draws from that law, at 95 %); 0 where exact.
    """

    metric: str
    values: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    method: str
    n: int
    std_error: NDArray[np.float64]
    thresholds: NDArray[np.float64] | None = None
    confidence: float = CONFIDENCE
    simultaneous: bool = False
    unseen: float = 0.0
    unbounded: bool = False

    @classmethod
    def exact(
        cls,
        metric: str,
        values: NDArray[np.float64],
        method: str,
        *,
        thresholds: NDArray[np.float64] | None = None,
    ) -> DistanceCurve:
        """A curve without sampling error."""
        return cls(metric, values, values, values, method, 0, np.zeros_like(values), thresholds)

    @property
    def is_exact(self) -> bool:
        """Whether nothing was sampled."""
        return self.n == 0

    @property
    def horizon(self) -> int:
        """H, the longest prefix."""
        return len(self.values)

    @property
    def final(self) -> float:
        """The value at the full length H (of the first threshold, for coverage)."""
        return float(np.ravel(self.values[-1])[0])

    @property
    def band(self) -> str:
        """What the band from ``lower`` to ``upper`` is, for a label: ``"95 % at each h"``; empty where exact."""
        if self.is_exact:
            return ""
        level = f"{100.0 * self.confidence:.12g} %"
        if not self.simultaneous:
            return f"{level} at each h"
        return f"{level} for all {np.isfinite(self.values).sum()} values together (Bonferroni)"

    @property
    def caveat(self) -> str:
        """What the intervals cannot show, in a sentence; empty where there is no such thing."""
        if self.is_exact or not self.unbounded:
            return ""
        return (
            f"Events of probability below {self.unseen:.2g} under one law may not have been drawn; what they add to "
            f"{'KL' if self.metric == 'kl' else self.metric} has no bound, and is not in its interval."
        )

    def __repr__(self) -> str:
        sampled = "exact" if self.is_exact else f"n={self.n}"
        return f"DistanceCurve({self.metric}, H={self.horizon}, final={self.final:.6g}, {self.method}, {sampled})"


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked, checked once at the front door (`ask`): two policies as they are to be read, a task, metrics."""

    p: Policy
    q: Policy
    task: Task
    metrics: tuple[Metric, ...]
    levels: FloatArray
    log_levels: FloatArray

    @cached_property
    def prompts(self) -> tuple[IntArray, FloatArray]:
        """The prompts of positive probability ``(M, P)`` and their masses ``(M,)``; may raise ``NotTractableError``."""
        prompts, masses = self.task.prompt_law()
        possible = masses > 0
        return np.asarray(prompts, dtype=np.int64)[possible], np.asarray(masses, dtype=np.float64)[possible]

    def exact(
        self, values: dict[Metric, FloatArray], method: str, dropped: FloatArray | None = None
    ) -> dict[str, DistanceCurve]:
        """The answer without sampling error; ``(H,)`` what both laws together give to prefixes that were left out."""
        curves = {}
        for metric, found in values.items():
            curve = DistanceCurve.exact(
                metric.name, found, method, thresholds=self.levels if metric is COVERAGE else None
            )
            if dropped is not None and dropped.any():
                most, share = (1.0, 1.0) if metric is COVERAGE else (metric.most, 0.5 * max(metric.ends))
                error = share * dropped.reshape(-1, *[1] * (found.ndim - 1))
                curve = replace(curve, upper=np.minimum(found + error, most), method=f"{method} (to {dropped[-1]:.0e})")
            curves[metric.name] = curve
        return curves


def ask(p: Policy, q: Policy, task: Task, metrics: Any, thresholds: ArrayLike) -> Question:
    """The question, or the error that says what is wrong with it.

    Raises:
        TypeError, ValueError: unknown metrics, policies that do not fit the task, thresholds out of range.
    """
    found, task = check_metrics(metrics), check_kind("task", task, Task)
    p, q = check_policy("p", p, task), check_policy("q", q, task)
    return Question(p, q, task, found, *check_thresholds(thresholds))
