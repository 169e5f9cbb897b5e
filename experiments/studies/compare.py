"""Your agents against ours, on any tasks: one table and one figure, on the same demonstrations for all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents import Agent
from experiments.cells import Cell, Label, Record, keyed_rng
from experiments.evaluation import build_agent, build_task, parse_spec, short_names, split_specs, takes_horizon
from experiments.measure import NOTHING, SECONDS, SLOPE_IN_H, check_distinct, costed_fit, measured_fit, named
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import (
    Summary,
    SummaryRow,
    Table,
    interval_words,
    mean_interval,
    paired_difference,
    slope_interval,
    with_interval,
)
from ntp_envs import Demonstrations, Task, collect
from ntp_envs.checks import NotTractableError, check_int

# -- What is compared, and on what ------------------------------------------------------------------------------------


AGENTS = ("LogLossBC", "SmoothedLogLossBC", "ChunkedRhoBC(chunk=8)", "RhoEstimatorBC")
TASKS = (
    "Contamination(eps=0.01, p=0.0001, q=0.9999, theta_min=0.0001)",
    "RareMode(density_ratio=10)",
    "ConsistencyGame(eps=0.005)",
    "ARLinear(misspecification=0.0)",
)


@dataclass(frozen=True)
class CompareOptions:
    """Agents, tasks and sizes; the defaults are the full study.

    Raises:
        ValueError, TypeError: a spec that cannot be read, an agent or task that does not exist or does not take these
            parameters, a horizon that a task cannot have.
    """

    agents: tuple[str, ...] = AGENTS
    """Agents: names or package.module:Class, each perhaps with parameters, as in "ChunkedRhoBC(chunk=8)"; separated by
    commas or spaces. The baseline joins them."""
    tasks: tuple[str, ...] = TASKS
    """Tasks, in the same form. One whose horizon is set here ("RareMode(horizon=128)"), or is no parameter of it
    (NoisyParity has episodes), is run at that horizon only."""
    horizons: tuple[int, ...] = (16, 32, 64)
    """Horizons H of every other task."""
    n: int = 1000
    """Demonstrations in a data set."""
    seeds: int = 20
    """Data sets for each task and horizon, the same ones for every agent."""
    baseline: str = "LogLossBC"
    """The agent that differences are taken to."""

    def __post_init__(self) -> None:
        check_distinct("horizons", self.horizons)
        check_int("n", self.n, minimum=1)
        check_int("seeds", self.seeds, minimum=1)
        (baseline, *more) = _canonical("baseline", (self.baseline,))
        if more:
            raise ValueError(f"baseline={self.baseline!r} must be one agent.")
        agents = _canonical("agents", self.agents)
        tasks = _canonical("tasks", self.tasks)
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("baseline", baseline)
        put("agents", tuple(agents) if baseline in agents else (baseline, *agents))
        put("tasks", tuple(tasks))
        built = [build_task(task, horizon) for task, horizon in self.places()]
        for agent in self.agents:
            build_agent(agent, built[0])

    def places(self) -> list[tuple[str, int | None]]:
        """Tasks and the horizon each is to be built at; ``None`` where the task itself sets it."""
        return [
            (task, horizon)
            for task in self.tasks
            for horizon in (sorted(self.horizons) if takes_horizon(task) else (None,))
        ]

    @classmethod
    def quick(cls) -> CompareOptions:
        """Well under a minute on two cores."""
        return cls(horizons=(16, 64), seeds=5)


def _canonical(name: str, words: tuple[str, ...]) -> list[str]:
    """One text for each spec, however it was written."""
    specs = [str(parse_spec(text)) for text in split_specs(words)]
    if not specs:
        raise ValueError(f"{name} is empty; at least one is needed.")
    for spec in specs:
        if specs.count(spec) > 1:
            raise ValueError(f"{name} has {spec!r} twice.")
    return specs


# -- From single runs to means, paired differences and slopes, each with its 95 % interval over the seeds -------------


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


# -- One cell for each agent, task, horizon and seed: what is fitted, and what is measured ----------------------------


RUNS = "runs"  # the part of the study that holds single runs
SEED = "seed"  # the label that tells data sets apart
NOT_APPLICABLE = "not applicable"
QUERIES, STEPS, CONVERGED = "expert queries", "environment steps", "converged"


def shared_rng(rng: np.random.Generator, key: str) -> np.random.Generator:
    """A generator that depends on the run's seed and on ``key``, not on the cell that ``rng`` was made for.

    Cells that use the same key draw the same data, in whatever process and order they run.
    """
    sequence: Any = rng.bit_generator.seed_seq  # its entropy is the seed of the run, its spawn key the cell
    return keyed_rng(sequence.entropy, key)


def built(task: str, horizon: int | None) -> Task:
    """The task; kept, because agents come one after another and it remembers its best in class."""
    made = build_task(task, horizon)
    try:
        return kept(made)
    except TypeError:  # one with parameters that cannot be hashed
        return made


@lru_cache(maxsize=4)
def kept(task: Task) -> Task:
    """The first of equal tasks: of the same parameters, and the same files."""
    return task


def run(
    *, agent: str, task: str, horizon: int | None, n: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """One agent on one data set, which every other agent gets too."""
    place = built(task, horizon)
    key = f"compare {task} horizon={horizon} n={n} replicate={replicate}"
    learner = build_agent(agent, place)
    demonstrations = collect(
        place,
        n,
        shared_rng(rng, f"{key}: demonstrations"),  # the same data, with or without what the expert says of them
        expert_log_probs=learner.needs_expert_log_probs,
    )
    labels = {**named(task, agent, place.horizon, n), SEED: replicate}
    reason = why_not(learner, place, demonstrations)
    if reason is None:
        try:
            fit = costed_fit(learner, demonstrations, place.policy_class, int(rng.integers(1 << 63)), memory=False)
        except NotTractableError as error:
            reason = str(error)
        else:
            records = measured_fit(place, fit, labels, shared_rng(rng, f"{key}: distance"))
            return [*records, *_asked(fit.agent, demonstrations, labels)]
    return [Record(NOT_APPLICABLE, 1.0, labels, method=reason)]


def why_not(agent: Agent, task: Task, demonstrations: Demonstrations) -> str | None:
    """Why this agent is not for this task, or ``None``: another kind of policy class, or chunks longer than H."""
    if agent.supports and not isinstance(task.policy_class, agent.supports):
        takes = ", ".join(kind.__name__ for kind in agent.supports)
        return f"it takes only {takes}"
    try:
        unit = agent.unit(demonstrations)
    except ValueError as error:
        return str(error)
    if unit is not None and unit > task.horizon:
        return f"chunks of {unit} tokens are longer than the horizon {task.horizon}"
    return None


def _asked(agent: Agent, demonstrations: Demonstrations, labels: dict[str, Label]) -> list[Record]:
    """What the agent asked for: every demonstrated token is one answer of the expert, and it may have asked for more.

    ``details["expert_queries"]`` and ``details["environment_steps"]`` of its report are what an agent that interacts
    used beyond its demonstrations; the tokens the expert generated for these are not counted as steps.
    """
    details = agent.fit_report_.details
    queries = demonstrations.tokens.size + details.get("expert_queries", 0)
    return [
        Record(QUERIES, queries, labels),
        Record(STEPS, details.get("environment_steps", 0), labels),
        Record(CONVERGED, agent.fit_report_.converged, labels),
    ]


def cells(options: CompareOptions) -> Iterator[Cell]:
    """All runs: agents innermost, so that a process has the task at hand."""
    for task, horizon in options.places():
        for replicate in range(options.seeds):
            for agent in options.agents:
                place = {"task": task, "horizon": horizon, "n": options.n, "replicate": replicate}
                yield Cell(RUNS, run, {"agent": agent, **place})


# -- The figure: a panel for each task, a row for each agent; left is better ------------------------------------------


PANELS_A_ROW = 4
#: our agents in the colours they have in the other figures; yours are black
STYLES = {
    "LogLossBC": "log-loss",
    "SmoothedLogLossBC": "smoothed 1/H",
    "LayerwiseBC": "layerwise",
    "ChunkedRhoBC": "chunked rho",
    "RhoEstimatorBC": "rho",
    "ChunkKR": "ChunkKR",
}


def colour_of(agent: str) -> str:
    """The colour of an agent's row."""
    from experiments.charts import COLOURS, learner_style

    style = STYLES.get(parse_spec(agent).name)
    return COLOURS["black"] if style is None else learner_style(style).colour


def comparison_figure(estimates: Estimates) -> Figure:
    """Dots for C_apx, or for the distance where the class contains the expert."""
    from matplotlib.figure import Figure

    options = estimates.options
    tasks, agents = [task for task in options.tasks if estimates.horizons[task]], options.agents
    if not tasks:
        raise ValueError("every run failed; there is nothing to draw.")
    lines = -(-len(tasks) // PANELS_A_ROW)
    columns = -(-len(tasks) // lines)
    width = 0.085 * max(map(len, agents)) + 0.6
    figure = Figure(figsize=(width + 2.5 * columns, lines * (0.34 * len(agents) + 1.3) + 0.7), layout="constrained")
    figure.suptitle("How far from the expert? Left is better", x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    names = short_names(options.tasks)
    for axes, task in zip(grid.ravel(), tasks):
        _panel(axes, estimates, task, names[task])
    for axes in grid.ravel()[len(tasks) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(agents)), labels=list(agents))
        axes.set_ylim(len(agents) - 0.5, -0.5)
        for label, agent in zip(axes.get_yticklabels(), agents):
            label.set_color(colour_of(agent))
            label.set_fontweight("bold")
    return figure


def _panel(axes: Axes, estimates: Estimates, task: str, title: str) -> None:
    horizons = estimates.horizons[task]
    factor = any(estimates.runs(task, H, agent, "C_apx") for H in horizons for agent in estimates.options.agents)
    metric = "C_apx" if factor else "hellinger2"
    found: dict[str, dict[int, tuple[float, float, float]]] = {}
    for agent in estimates.options.agents:
        at = {H: estimates.estimate(task, H, agent, metric) for H in horizons}
        found[agent] = {H: interval for H, interval in at.items() if interval is not None}
    positive = [value for at in found.values() for interval in at.values() for value in interval if value > 0]
    floor = min(positive, default=1.0) / 2.0  # zeros are drawn here, and say so
    axes.set_xscale("log")
    if factor:
        axes.axvline(1.0, color="black", linestyle="--", linewidth=1.2)
    for row, agent in enumerate(estimates.options.agents):
        if found[agent]:
            _dot(axes, row, found[agent], horizons, floor, colour_of(agent))
        else:
            refused = [estimates.reason(task, H, agent) for H in horizons]
            text = "failed" if None in refused else "not applicable"
            place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "backgroundcolor": "white"}
            axes.text(0.5, row, text, transform=axes.get_yaxis_transform(), color="#6E6E6E", **place)
    zeros = any(interval[0] <= 0.0 for at in found.values() for interval in at.values())
    _limits(axes, [*positive, *([floor] if zeros else []), *([1.0] if factor or not positive else [])])
    sizes = f"H={horizons[0]}" + (f" (small dot) to {horizons[-1]} (large)" if len(horizons) > 1 else "")
    axes.set_title(f"{title}\n", fontsize=11)
    axes.text(0, 1.02, sizes, transform=axes.transAxes, fontsize=9, color="#6E6E6E", va="bottom")
    axes.set_xlabel("C_apx (1 = best in class)" if factor else "distance (expert in class)", fontsize=9)
    axes.tick_params(axis="y", length=0)


def _dot(
    axes: Axes,
    row: int,
    found: dict[int, tuple[float, float, float]],
    horizons: list[int],
    floor: float,
    colour: str,
) -> None:
    x = [max(found[H][0], floor) for H in found]
    sizes = np.interp(list(found), horizons, np.linspace(14, 70, len(horizons))) if len(horizons) > 1 else [70]
    axes.plot(x, [row] * len(x), color=colour, linewidth=1.2, alpha=0.5)
    axes.scatter(x, [row] * len(x), s=sizes, color=colour, zorder=3)
    mean, lower, upper = found[max(found)]
    if upper > lower:
        axes.plot(
            [max(lower, floor), upper], [row, row], color=colour, linewidth=4.5, alpha=0.35, solid_capstyle="butt"
        )
    if mean <= 0.0:
        axes.annotate("0", (floor, row), xytext=(0, 6), textcoords="offset points", fontsize=8, ha="center")


def _limits(axes: Axes, values: list[float]) -> None:
    """Room on both sides, and ticks at a few round numbers."""
    low, high = min(values) / 1.6, max(values) * 1.6
    axes.set_xlim(low, high)
    decades = np.log10(high / low)
    steps = (1, 2, 5) if decades < 1.2 else (1, 3) if decades < 2.2 else (1,)
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**e for e in exponents for step in steps if low <= step * 10.0**e <= high]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


# -- The table and the findings; the figure is in ``drawing`` ---------------------------------------------------------


NEGLIGIBLE = 1e-4
INDENT = "\u00a0\u00a0"


def shown(interval: Interval | None, digits: int = 3) -> str:
    """A number with its interval; empty where there is none."""
    return "" if interval is None or math.isnan(interval[0]) else with_interval(*interval, digits)


def table(estimates: Estimates) -> Table:
    """A line for each task and agent, at the task's largest horizon; the slope says what came before."""
    options = estimates.options
    acting = any(
        (steps := estimates.estimate(task, H, agent, STEPS)) is not None and steps[0] > 0
        for task, horizons in estimates.horizons.items()
        for H in horizons
        for agent in options.agents
    )
    heads = ["task, agent", "C_apx", "D_H^2", f"D_H^2 minus {options.baseline}", "slope in H"]
    heads += ["seconds a fit", QUERIES, *([STEPS] if acting else [])]
    lines: list[list[str]] = []
    names = short_names(options.tasks)
    for task, horizons in estimates.horizons.items():
        if not horizons:  # every cell failed
            lines.append([f"{names[task]}: failed", *[""] * (len(heads) - 1)])
            continue
        H = horizons[-1]
        lines.append([f"{names[task]}, H={H}", *[""] * (len(heads) - 1)])
        for agent in options.agents:
            lines.append([f"{INDENT}{agent}", *_line(estimates, task, H, agent)][: len(heads)])
    return Table(
        f"{options.seeds} data sets of n={options.n} demonstrations, the same for all",
        heads,
        lines,
        _note(options.seeds),
    )


def _line(estimates: Estimates, task: str, H: int, agent: str) -> list[str]:
    distance = estimates.estimate(task, H, agent, "hellinger2")
    if distance is None:
        state = "failed" if estimates.reason(task, H, agent) is None else "not applicable"
        return ["", state, *[""] * 5]
    slope = estimates.slope(task, agent)
    difference = (
        "" if agent == estimates.options.baseline else shown(estimates.difference(task, H, agent, "hellinger2"))
    )
    return [
        shown(estimates.estimate(task, H, agent, "C_apx")),
        shown(distance),
        difference,
        "" if slope is None else shown(slope.interval, 2),
        shown(estimates.seconds(task, H, agent), 2),
        shown(estimates.estimate(task, H, agent, QUERIES), 6),
        shown(estimates.estimate(task, H, agent, STEPS), 6),
    ]


def _note(seeds: int) -> str:
    return (
        f"{interval_words(seeds)}. D_H^2: squared Hellinger distance to the expert, in [0, 2]; C_apx: over that "
        "of the best in class, empty where the class contains the expert. Slope: of log C_apx (else log D_H^2) in "
        "log H. Expert queries: demonstrated tokens n H, and what the agent asked for beyond them."
    )


def verdict(difference: Interval, size: float) -> str:
    """What a paired difference of distances says, given the distance of the baseline.

    Iterative fits end within a tolerance, so that what is less than 1e-4 of the distance is not called a difference.
    """
    mean, lower, upper = difference
    if abs(mean) > NEGLIGIBLE * size and (upper < 0 or lower > 0):
        return "closer" if upper < 0 else "farther"
    return "no clear difference"


def findings(estimates: Estimates) -> list[str]:
    """For each task, who is closer than the baseline and who is not, by the paired differences."""
    options, found = estimates.options, []
    for task, horizons in estimates.horizons.items():
        if not horizons:
            continue
        H, groups = horizons[-1], dict[str, list[str]]()
        for agent in options.agents:
            difference = estimates.difference(task, H, agent, "hellinger2")
            size = estimates.estimate(task, H, options.baseline, "hellinger2")
            several = len(estimates.common(task, H, agent, "hellinger2")) > 1
            if agent != options.baseline and several and difference is not None and size is not None:
                groups.setdefault(verdict(difference, size[0]), []).append(agent)
        if groups:
            parts = [f"{call}: {', '.join(groups[call])}" for call in sorted(groups)]
            found.append(f"{task}, H={H}, against {options.baseline}: {'; '.join(parts)}.")
    return [*found, *_remarks(estimates)]


def _remarks(estimates: Estimates) -> list[str]:
    """What a reader of the table must know: own horizons, what does not apply, seeds lost, fits that stopped early."""
    options, found = estimates.options, []
    alone = [f"{task} at H={horizons[0]}" for task, horizons in estimates.horizons.items() if len(horizons) == 1]
    if options.seeds == 1:
        found.append("One data set has no interval over data sets; use more --seeds.")
    own = [text for text in alone if not takes_horizon(text.rpartition(" at ")[0])]
    if own:
        found.append(f"At the horizon their parameters give, without a slope: {', '.join(own)}.")
    for agent in options.agents:
        found += [f"{agent} is not for {place}: {reason}." for reason, place in _refused(estimates, agent).items()]
        for task, horizons in estimates.horizons.items():
            at = [H for H in horizons if estimates.reason(task, H, agent) is None]
            runs = [estimates.runs(task, H, agent, CONVERGED) for H in at]
            wanted = options.seeds * (len(at) if horizons else 1)
            if failed := wanted - sum(map(len, runs)):
                found.append(f"{agent} on {task}: {failed} of {wanted} runs failed.")
            if stopped := sum(not value for values in runs for value in values.values()):
                found.append(f"{agent} on {task}: {stopped} fits stopped before their tolerance was reached.")
    return found


def _refused(estimates: Estimates, agent: str) -> dict[str, str]:
    """Where an agent does not apply, by the reason; horizons are named where it applies at others."""
    places: dict[str, list[str]] = {}
    for task, horizons in estimates.horizons.items():
        reasons = {H: reason for H in horizons if (reason := estimates.reason(task, H, agent)) is not None}
        for reason in dict.fromkeys(reasons.values()):
            at = [str(H) for H in horizons if reasons.get(H) == reason]
            place = task if len(at) == len(horizons) else f"{task} at H={', '.join(at)}"
            places.setdefault(reason.rstrip("."), []).append(place)
    return {reason: "; ".join(found) for reason, found in places.items()}


def analyse(options: CompareOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    estimates = Estimates(options, summary)
    figure = FigureSpec(
        "compare",
        "How far from the expert does each agent end up?",
        "Each dot is the mean over data sets, from the smallest horizon (small dot) to the largest (large dot, with "
        "the 95 % interval of the mean); the dashed line is the best policy of the class.",
        lambda: comparison_figure(estimates),
    )
    return Analysis(rows=estimates.rows(), tables=[table(estimates)], figures=[figure], findings=findings(estimates))


STUDY = Study(
    name="compare",
    question="Which of these agents ends up closest to the expert, and at what cost?",
    options=CompareOptions,
    cells=cells,
    analyse=analyse,
    labels=(SEED,),
)
