"""Runs of agents on tasks: means, paired differences and slopes, and over several tasks scores and who is better.

Scores are treated as Agarwal, Schwarzer, Castro, Courville and Bellemare ask for ("Deep Reinforcement Learning at the
Edge of the Statistical Precipice", NeurIPS 2021, arXiv:2108.13264), with two changes for the few data sets that there
are here. The stratified bootstrap is widened as Student's t is, since with five data sets alone it misses too often.
And the probability of improvement is that on the *same* data set, which both learners saw; its interval is that of a
share, which is not empty where one of them always wins.

Tasks are fixed: the intervals say what other data sets of these tasks might have given, not what other tasks might.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.cells import Label, keyed_rng
from experiments.charts import COLOURS, Figure, learner_style, legend_below, new_figure, no_data, say_band
from experiments.evaluation import parse_call
from experiments.measure import CHUNK_KR, CHUNKED, LAYERWISE, LEARNERS, NOTHING, SECONDS, SLOPE_IN_H
from experiments.summary import NAN, Interval, Summary, SummaryRow, mean_interval, paired_difference, slope_interval
from ntp_envs import DistanceCurve
from ntp_envs.distances.curve import additive_distance
from ntp_envs.intervals import CONFIDENCE, check_confidence, normal_quantile, score_interval, student_margin

RUNS, MEANS = "runs", "means"
SEED = "seed"  # the label that tells data sets apart
NOT_APPLICABLE = "not applicable"
NO_FACTOR = "no C_apx"
NATS, BITS = "-log(1 - D_H^2/2), nats", "bits a character"
HALF = "tokens until D_H^2 is 1"
QUERIES, STEPS, CONVERGED = "expert queries", "environment steps", "converged"
FACTOR, DISTANCE = "C_apx", "hellinger2"
DISTANCE_SLOPE = "slope of log D_H^2 in log H"
SCORE, IQM, BETTER = "score", "interquartile mean of the score", "probability of improvement over"

#: share cut from either end by the interquartile mean
QUARTER = 0.25


def nats_apart(hellinger2: float) -> float:
    """A squared Hellinger distance D on the scale on which independent tokens add up: -log(1 - D/2), infinite at 2.

    >>> nats_apart(0.0), round(nats_apart(1.0), 3), nats_apart(2.0)
    (0.0, 0.693, inf)
    """
    return float(additive_distance(hellinger2)) / 2.0


def nats_per_token(curve: DistanceCurve, h: int) -> Interval:
    """`nats_apart` of h tokens over h, and the ends of its interval."""
    value, lower, upper = (nats_apart(float(column[h - 1])) / h for column in (curve.values, curve.lower, curve.upper))
    return value, lower, upper


def run_score(hellinger2: float, factor: float | None = None) -> float:
    """How well one run did, from 0 to 1, comparable across tasks.

    Where the best in class is known and is not the expert: 1 / C_apx, at most 1. It is 1 for the best that the class
    allows and 1/2 for twice its distance. Elsewhere there is nothing to divide by: 1 / (1 + x), x the whole texts'
    distance in additive nats (`nats_apart`). At a drift of r nats a token over H tokens that is T / (T + H), T = 1 / r
    being the tokens until one nat: 1 for the expert itself, 1/2 where the texts are as long as that, 0 where they have
    nothing in common. Distances that saturate at 2 are told apart, and an infinite one is no exception.

    A fit that stopped early counts as what it is, by the policy that it gave.

    Args:
        hellinger2: squared Hellinger distance D of whole texts, in [0, 2].
        factor: C_apx, where there is one.

    >>> run_score(0.02, factor=4.0), run_score(0.0), run_score(2.0), round(run_score(1.0), 3)
    (0.25, 1.0, 0.0, 0.591)
    """
    return 1.0 / (1.0 + nats_apart(hellinger2)) if factor is None else 1.0 / max(factor, 1.0)


def pooled_score(
    scores: ArrayLike,
    rng: np.random.Generator,
    *,
    trim: float = QUARTER,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
) -> Interval:
    """The (interquartile) mean of all runs, and the ends of its interval over data sets.

    Runs are resampled within each task (a stratified bootstrap). The farther of the two percentiles is taken to both
    sides, times ``sqrt(N / (N - 1)) t / z``, t of as many degrees of freedom as the tasks' variances have together
    (Satterthwaite). How often it covers is in ``docs/calibration.md``: too rarely for the interquartile mean where one
    task alone has all the spread and lies at the edge of the middle half.

    Args:
        scores: ``(M, N)`` in [0, 1], of N runs on each of M tasks.
        rng: source of the resampling.
        trim: share cut from either end: 0.25 for the interquartile mean, 0 for the mean, in which each task counts.
        confidence: of the interval.
        resamples: bootstrap resamples.

    Returns:
        ``(estimate, lower, upper)``, within [0, 1]; both ends ``nan`` where no task shows any spread.

    Raises:
        ValueError: no tasks, no runs, or a level outside (0, 1).

    >>> round(pooled_score([[0.0, 0.2], [0.4, 0.8]], np.random.default_rng(0))[0], 3)
    0.3
    """
    from scipy.stats import trim_mean

    sample, level = np.asarray(scores, dtype=np.float64), check_confidence(confidence)
    if sample.ndim != 2 or not sample.size:
        raise ValueError(f"scores has shape {sample.shape}; (tasks, runs) with at least one of each is needed.")
    M, N = sample.shape
    estimate = float(trim_mean(sample, trim, axis=None))
    spread = sample.var(axis=1, ddof=1) if N > 1 else np.zeros(M)
    if not spread.sum() > 1e-18:
        return estimate, NAN, NAN
    freedom = (N - 1) * float(spread.sum() ** 2 / (spread**2).sum())
    stretch = math.sqrt(N / (N - 1)) * student_margin(1.0, freedom + 1, confidence=level) / normal_quantile(level)
    drawn = sample[np.arange(M)[:, None], rng.integers(N, size=(resamples, M, N))]
    found = trim_mean(drawn.reshape(resamples, -1), trim, axis=1)
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    reach = stretch * max(estimate - low, high - estimate)
    lower, upper = estimate - reach, estimate + reach
    return estimate, max(float(lower), 0.0), min(float(upper), 1.0)


#: scores this close are equal: iterative fits end within a tolerance
TIED = 1e-5


def improvement(ours: ArrayLike, theirs: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """The probability that one learner scores higher than the other on the same data set of a task drawn uniformly.

    Ties count half. The interval is the score interval of a share of so many draws: runs spread less within tasks.

    Args:
        ours, theirs: ``(M, N)`` scores; entry by entry on the same data.
        confidence: of the interval.

    >>> improvement([[0.5, 0.9], [0.5, 0.1]], [[0.4, 0.2], [0.5, 0.3]])[0]  # two won, one lost, one tied
    0.625
    """
    gaps = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    better = np.where(np.abs(gaps) <= TIED, 0.5, gaps > 0)
    lower, upper = share_interval(float(better.mean()), better.size, confidence=confidence)
    return float(better.mean()), float(lower), float(upper)


def share_interval(share: ArrayLike, n: int, *, confidence: float = CONFIDENCE) -> tuple[Any, Any]:
    """The interval for shares of n draws, `ntp_envs.intervals.score_interval`."""
    at = np.asarray(share, dtype=np.float64)
    return score_interval(at, np.sqrt(at * (1.0 - at) / n), n, confidence=confidence)


def profile(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """The share of ``(M, N)`` runs that score at least each threshold: Dolan and Moré's performance profile, of scores.

    >>> profile([[0.1, 0.5], [0.5, 0.9]], [0.0, 0.5, 0.6]).tolist()
    [1.0, 0.75, 0.25]
    """
    return (np.ravel(scores)[:, None] >= np.asarray(thresholds, dtype=np.float64)).mean(axis=0)


#: our agents in the colours of the learners that they are in the other figures
STYLES = {agent: learner for learner, (agent, _) in reversed({**LEARNERS, **LAYERWISE}.items())}
STYLES |= {"ChunkedRhoBC": CHUNKED, "ChunkKR": CHUNK_KR}


def colour_of(agent: str) -> str:
    """The colour of an agent in figures of several; yours are black."""
    call = parse_call(agent)
    learner = STYLES.get(call.name)
    return COLOURS["black"] if learner is None else learner_style(learner, dict(call.parameters).get("chunk")).colour


def looks_of(agents: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each agent's line: its own colour, or another when four have it already; no two alike."""
    dashes = ("-", "--", ":", "-.")
    found: dict[str, dict[str, Any]] = {}
    used: Counter[str] = Counter()
    for agent in agents:
        colours = (colour_of(agent), *(COLOURS[name] for name in ("black", "vermilion", "blue", "purple", "grey")))
        colour = min(colours, key=lambda one: used[one] // len(dashes))
        found[agent] = {"color": colour, "linestyle": dashes[used[colour] % len(dashes)]}
        used[colour] += 1
    return found


def profile_figure(scores: Mapping[str, NDArray[np.float64]], title: str) -> Figure:
    """A line for each agent of `profile` over all thresholds, with its 95 % band."""
    figure, axes = new_figure(title, "score", "share of runs that score at least this", size=(8.6, 4.6))
    thresholds = np.linspace(0.0, 1.0, 401)
    looks = looks_of(scores)
    for agent, own in scores.items():
        share, look = profile(own, thresholds), looks[agent]
        axes.plot(thresholds, share, label=agent, **look)
        axes.fill_between(thresholds, *share_interval(share, own.size), color=look["color"], alpha=0.12, linewidth=0)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if scores:
        say_band(axes, "each score")
        legend_below(axes.figure, scores, size=9)  # type: ignore[arg-type]
    else:
        no_data(axes)
    return figure


# -- from the runs to means, paired differences and slopes -------------------------------------------------------------


class Runs:
    """The single runs by task, horizon and agent; of other options than these, ``tasks`` and ``seeds`` are read."""

    def __init__(self, options: Any, summary: Summary) -> None:
        self.options = options
        self._rows: dict[tuple[str, int, str, str], dict[int, SummaryRow]] = {}
        additive = [in_nats(row) for row in summary.select(DISTANCE, part=RUNS)]
        for row in (*summary.select(part=RUNS), *additive, *summary.timings.select(part=RUNS)):
            key = (row["task"], row["H"], row["learner"], row.metric)
            self._rows.setdefault(key, {})[row[SEED]] = row
        known = {(task, H) for task, H, *_ in self._rows}
        #: horizons of each task that anything is known at, in order
        self.horizons = {task: sorted(H for name, H in known if name == task) for task in options.tasks}

    def rows(self, task: str, H: int, agent: str, metric: str) -> dict[int, SummaryRow]:
        """By seed; those whose cell failed are missing."""
        return self._rows.get((task, H, agent, metric), {})

    def values(self, task: str, H: int, agent: str, metric: str) -> dict[int, float]:
        """The number that each seed gave."""
        return {seed: row.mean for seed, row in self.rows(task, H, agent, metric).items()}

    def scores(self, task: str, agent: str) -> list[float] | None:
        """`run_score` of each data set, the mean over horizons; 0 for a run that failed.

        ``None`` where the agent is not for the task at some horizon, or nothing is known of the task.
        """
        horizons = self.horizons[task]
        if not horizons or any(self.reason(task, H, agent) is not None for H in horizons):
            return None
        found = np.zeros((len(horizons), self.options.seeds))
        for place, H in enumerate(horizons):
            factors = self.values(task, H, agent, FACTOR)
            for seed, value in self.values(task, H, agent, DISTANCE).items():
                found[place, seed] = run_score(value, factors.get(seed))
        return [float(mean) for mean in found.mean(axis=0)]

    def no_factor(self, task: str) -> str:
        """Why a task has no C_apx; empty where it has one, or nothing was measured."""
        said = (
            row.method
            for key, rows in self._rows.items()
            if key[0] == task and key[3] == NO_FACTOR
            for row in rows.values()
        )
        return next(said, "")

    def reason(self, task: str, H: int, agent: str) -> str | None:
        """Why the agent is not for the task at this horizon; ``None`` where it is, or where every run failed."""
        return next((row.method for row in self.rows(task, H, agent, NOT_APPLICABLE).values()), None)


def in_nats(row: SummaryRow) -> SummaryRow:
    """A squared Hellinger distance on the additive scale."""
    ends = [nats_apart(end) for end in (row.mean, row.lower, row.upper)]
    return SummaryRow(row.part, row.labels, NATS, *ends, row.seeds, row.method)  # type: ignore[call-arg, arg-type]


def resampling() -> np.random.Generator:
    """The same resamples for all, so that equal data have equal intervals."""
    return keyed_rng(0, "compare: bootstrap")


def minus(metric: str, baseline: str) -> str:
    """The name of a paired difference."""
    return f"{metric} minus that of {baseline}"


def means_of(runs: Runs) -> Summary:
    """What follows from the runs, with intervals over the seeds, for ``summary.csv``; the seconds are its timings.

    A difference is taken seed by seed, on the same data, over the seeds that both have.
    """
    options, found, timings = runs.options, list[SummaryRow](), list[SummaryRow]()
    for task, horizons in runs.horizons.items():
        for agent in options.agents:
            labels: dict[str, Label] = {"task": task, "learner": agent, "n": options.n}
            for H in horizons:
                at = {**labels, "H": H}
                for metric in (FACTOR, DISTANCE, NATS, BITS, QUERIES, STEPS):
                    found += averaged(at, metric, runs.rows(task, H, agent, metric))
                    if agent != options.baseline and metric in (FACTOR, DISTANCE):
                        ours, theirs = (runs.values(task, H, name, metric) for name in (agent, options.baseline))
                        if common := sorted(ours.keys() & theirs.keys()):
                            first, second = ([values[seed] for seed in common] for values in (ours, theirs))
                            gap = paired_difference(first, second, resampling(), rounding=NOTHING)
                            found.append(SummaryRow(MEANS, at, minus(metric, options.baseline), *gap, len(common)))
                timings += averaged(at, SECONDS, runs.rows(task, H, agent, SECONDS))
            found += [*slope_of(runs, labels), *tokens_until_half(runs, labels)]
    return Summary([*found, *over_tasks(runs)], timings)


def averaged(labels: dict[str, Label], metric: str, rows: dict[int, SummaryRow]) -> list[SummaryRow]:
    """The mean and its interval; of a single run, the interval of its own."""
    if not rows:
        return []
    first, *others = rows.values()
    interval = (first.mean, first.lower, first.upper)
    if others:
        interval = mean_interval([row.mean for row in rows.values()], resampling())
    return [SummaryRow(MEANS, labels, metric, *interval, len(rows))]


def slope_of(runs: Runs, labels: dict[str, Label]) -> Iterator[SummaryRow]:
    """Slope in H of C_apx, or of the distance where there is no factor; none with fewer than two horizons."""
    task, agent = str(labels["task"]), str(labels["learner"])
    for metric, name in ((FACTOR, SLOPE_IN_H), (DISTANCE, DISTANCE_SLOPE)):
        found, seeds = at_all_horizons(runs, task, agent, metric)
        if len(found) >= 2 and seeds:
            interval = slope_interval(list(found), np.array([[found[H][seed] for seed in seeds] for H in found]))
            method = f"least squares, H={min(found)}..{max(found)}"
            if np.isfinite(interval[0]):
                yield SummaryRow(MEANS, labels, name, *interval, len(seeds), method)
            return


def at_all_horizons(runs: Runs, task: str, agent: str, metric: str) -> tuple[dict[int, dict[int, float]], list[int]]:
    """The values of a metric by horizon and seed, and the seeds that all horizons have."""
    found = {H: values for H in runs.horizons[task] if (values := runs.values(task, H, agent, metric))}
    return found, sorted(set.intersection(*map(set, found.values()))) if found else []


def tokens_until_half(runs: Runs, labels: dict[str, Label]) -> list[SummaryRow]:
    """The length at which the distance is 1, half of the largest, with a constant drift between the horizons.

    None where a run does not come to that.
    """
    found, seeds = at_all_horizons(runs, str(labels["task"]), str(labels["learner"]), DISTANCE)
    drifts = [np.maximum.accumulate([0.0, *(nats_apart(values[seed]) for values in found.values())]) for seed in seeds]
    if not drifts or min(drift[-1] for drift in drifts) < nats_apart(1.0):
        return []
    lengths = [float(np.interp(nats_apart(1.0), drift, [0, *found])) for drift in drifts]
    interval = mean_interval(lengths, resampling()) if len(lengths) > 1 else (lengths[0], np.nan, np.nan)
    return [SummaryRow(MEANS, labels, HALF, *interval, len(seeds), f"between H=0, {', '.join(map(str, found))}")]


def scored(runs: Runs) -> dict[str, dict[str, list[float]]]:
    """The scores of each agent by task, of those that it takes; none where fewer than two tasks are known."""
    if sum(map(bool, runs.horizons.values())) < 2:
        return {}
    each = {agent: {task: runs.scores(task, agent) for task in runs.horizons} for agent in runs.options.agents}
    return {agent: {task: own for task, own in found.items() if own is not None} for agent, found in each.items()}


def over_tasks(runs: Runs) -> Iterator[SummaryRow]:
    """A row for each task's mean score, and for each agent's interquartile mean and probability of improvement."""
    scores, options = scored(runs), runs.options
    for agent, own in scores.items():
        labels: dict[str, Label] = {"learner": agent, "n": options.n}
        for task, values in own.items():
            interval = pooled_score([values], resampling(), trim=0.0)
            yield SummaryRow(MEANS, {**labels, "task": task}, SCORE, *interval, len(values))
        if own:
            method = f"{len(own)} of {len(runs.horizons)} tasks"
            interval = pooled_score(list(own.values()), resampling(), trim=QUARTER)
            yield SummaryRow(MEANS, labels, IQM, *interval, options.seeds, method)
        both = [task for task in own if task in scores.get(options.baseline, {})]
        if both and agent != options.baseline:
            ours, theirs = ([scores[name][task] for task in both] for name in (agent, options.baseline))
            method = f"{len(both)} of {len(runs.horizons)} tasks, on the same data sets"
            better = improvement(ours, theirs)
            yield SummaryRow(MEANS, labels, f"{BETTER} {options.baseline}", *better, options.seeds, method)
