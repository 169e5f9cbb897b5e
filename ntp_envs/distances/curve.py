"""The question, checked once, and the answer: a distance at every prefix length, and how it was obtained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.checked import check_policy
from ntp_envs.checks import check_flag, check_kind
from ntp_envs.distances.metrics import COVERAGE, Metric, check_metrics, check_thresholds
from ntp_envs.intervals import CONFIDENCE
from ntp_envs.plots import Axes, axes_or_new, draw_line, name_axes
from ntp_envs.policies import Policy
from ntp_envs.saved import Savable
from ntp_envs.tasks.base import Task

#: squared Hellinger distance at which the additive scale ends in a picture: beyond it sampled values are noise
TOP = 1.999
#: what is on the y axis of a plot, in words
IN_WORDS = {
    "hellinger2": "squared Hellinger distance, 0 to 2",
    "tv": "total variation distance, 0 to 1",
    "kl": "KL divergence, nats",
    "chi2": "chi-squared divergence",
    "coverage": "coverage: P(P / Q at least N)",
    "additive hellinger2": "−2 ln(1 − D²/2) of the squared Hellinger distance D²",
}


def additive_distance(hellinger2: ArrayLike) -> FloatArray:
    """``-2 log(1 - D_H^2 / 2)``, any shape: D_H^2 where that is small, infinite at 2, and a sum for independent errors.

    >>> additive_distance([0.0, 1.0, 2.0]).round(3).tolist()
    [0.0, 1.386, inf]
    """
    with np.errstate(divide="ignore"):
        return -2.0 * np.log1p(-np.clip(hellinger2, 0.0, 2.0) / 2.0) + 0.0


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

    def plot(self, ax: Axes | None = None, *, label: str = "", **look: Any) -> Axes:
        """The curve over the tokens written, with its band where it is sampled; a line for each N of a coverage.

        Args:
            ax: matplotlib's Axes to draw on (else a ``TypeError``); those of a new figure by default.
            label: the line's name in the legend.
            **look: of the line, as ``ax.plot`` takes it: ``color``, ``linestyle``, ...

        Returns:
            The Axes, to go on with: ``curve.plot().set_xscale("log", base=2)``.

        >>> from matplotlib.figure import Figure
        >>> from ntp_envs import UniformPolicy, distance, make_task
        >>> task = make_task("Contamination", horizon=8)
        >>> distance(task.expert, UniformPolicy(2), task).plot(Figure().subplots(), label="coin").get_ylabel()
        'squared Hellinger distance, 0 to 2'
        """
        return _drawn(self, axes_or_new(ax), label, look)

    def __repr__(self) -> str:
        sampled = "exact" if self.is_exact else f"n={self.n}"
        return f"DistanceCurve({self.metric}, H={self.horizon}, final={self.final:.6g}, {self.method}, {sampled})"


def compare_curves(curves: Mapping[str, DistanceCurve], ax: Axes | None = None, *, additive: bool = False) -> Axes:
    """Several curves of one metric in one picture, with a legend.

    Args:
        curves: by the name that each has in the legend; at least one. Their lengths may differ.
        ax: matplotlib's Axes to draw on; those of a new figure by default.
        additive: squared Hellinger distances as ``-2 log(1 - D_H^2 / 2)``, which independent errors add up in: a
            straight line is a constant drift a token. The picture ends where D_H^2 is 1.999.

    Returns:
        The Axes.

    Raises:
        TypeError: something else than named curves.
        ValueError: no curves, different metrics or thresholds, or ``additive`` of another metric.

    >>> from matplotlib.figure import Figure
    >>> from ntp_envs import UniformPolicy, distance, make_task
    >>> task = make_task("Contamination", horizon=8)
    >>> curve = distance(task.expert, UniformPolicy(2), task)
    >>> compare_curves({"coin": curve}, Figure().subplots(), additive=True).get_ylabel()
    '−2 ln(1 − D²/2) of the squared Hellinger distance D²'
    """
    if not isinstance(curves, Mapping):
        raise TypeError(f"curves must be a mapping from names to curves, not {type(curves).__name__}.")
    for name, curve in curves.items():
        check_kind(f"curves[{name!r}]", curve, DistanceCurve)
    kinds = {
        (curve.metric, *(() if curve.thresholds is None else curve.thresholds.ravel())) for curve in curves.values()
    }
    if len(kinds) != 1:
        what = "is empty" if not kinds else f"has {' and '.join(sorted(str(kind[0]) for kind in kinds))}"
        raise ValueError(f"curves {what}; curves of one metric (and the same thresholds) are needed.")
    if check_flag("additive", additive):
        metric = next(iter(curves.values())).metric
        if metric != "hellinger2":
            raise ValueError(f"additive=True is for curves of 'hellinger2', and these are of {metric!r}.")
        curves = {name: _added_up(curve) for name, curve in curves.items()}
    bands = {curve.band for curve in curves.values()} - {""}
    ax = axes_or_new(ax)
    for name, curve in curves.items():
        curve.plot(ax, label=str(name) + (f" (band: {curve.band})" if len(bands) > 1 and curve.band else ""))
    name_axes(ax, ax.get_ylabel(), *(bands if len(bands) == 1 else ()))
    if additive and ax.get_ylim()[1] > (top := float(additive_distance(TOP))):
        ax.set_ylim(top=top)
    return ax


def _drawn(curve: DistanceCurve, ax: Axes, label: str, look: Mapping[str, Any]) -> Axes:
    columns = [np.reshape(array, (curve.horizon, -1)).T for array in (curve.values, curve.lower, curve.upper)]
    for number, line in enumerate(zip(*columns)):
        at = "" if curve.thresholds is None else f"N = {curve.thresholds[number]:g}"
        name = ", ".join(filter(None, (label, at)))
        draw_line(ax, *line, band=not curve.is_exact, label=name, **look)
    name_axes(ax, IN_WORDS.get(curve.metric, curve.metric), curve.band)
    return ax


def _added_up(curve: DistanceCurve) -> DistanceCurve:
    """The curve on the additive scale, under a name that says so."""
    values, lower, upper = (additive_distance(ends) for ends in (curve.values, curve.lower, curve.upper))
    return replace(curve, metric="additive hellinger2", values=values, lower=lower, upper=upper)


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
