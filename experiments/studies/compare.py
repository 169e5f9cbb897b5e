"""Your agents against ours, on any tasks: one table and one figure, on the same demonstrations for all.

A run is one agent on one data set. From the runs come means, differences to the baseline (data set by data set) and
slopes in the horizon, each with its 95 % interval over the data sets; the table, the figure and the findings say what
these are. Several tasks have a table and a profile of scores in addition (`experiments.aggregate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from agents import Agent
from experiments.aggregate import QUARTER, improvement, nats_apart, pooled_score, profile_figure, run_score
from experiments.cells import Cell, Label, Record, keyed_rng
from experiments.charts import COLOURS, Axes, Figure, learner_style, new_figure, no_data, round_ticks
from experiments.evaluation import (
    build_agent,
    build_task,
    named_code,
    parse_call,
    short_names,
    split_calls,
    takes_horizon,
)
from experiments.measure import (
    CHUNK_KR,
    CHUNKED,
    LAYERWISE,
    LEARNERS,
    NOTHING,
    SECONDS,
    SLOPE_IN_H,
    costed_fit,
    measured_fit,
    named,
)
from experiments.study import Analysis, FigureSpec, Options, Study, option
from experiments.summary import (
    Interval,
    Summary,
    SummaryRow,
    Table,
    interval_words,
    mean_interval,
    paired_difference,
    slope_interval,
)
from ntp_envs import Demonstrations, Task, collect
from ntp_envs.checks import NotTractableError, check_fits

RUNS, MEANS = "runs", "means"
SEED = "seed"  # the label that tells data sets apart
NOT_APPLICABLE = "not applicable"
#: why there is no C_apx
NO_FACTOR, UNKNOWN_BEST, WELL_SPECIFIED = "no C_apx", "best in class not known", "expert in class"
NATS, BITS = "-log(1 - D_H^2/2), nats", "bits a character"
HALF = "tokens until D_H^2 is 1"
#: mean distance from which on distances are told apart on the additive scale, in nats
SATURATED = 1.0
QUERIES, STEPS, CONVERGED = "expert queries", "environment steps", "converged"
FACTOR, DISTANCE = "C_apx", "hellinger2"
DISTANCE_SLOPE = "slope of log D_H^2 in log H"


@dataclass(frozen=True)
class CompareOptions(Options):
    """Agents, tasks and sizes; the defaults are the full study.

    Raises:
        ValueError, TypeError: a call that cannot be read, an agent or task that does not exist or does not take these
            parameters, a horizon that a task cannot have.
    """

    agents: tuple[str, ...] = ("LogLossBC", "SmoothedLogLossBC", "ChunkedRhoBC(chunk=8)", "RhoEstimatorBC")
    """Agents: names or package.module:Class, each perhaps with parameters, as in "ChunkedRhoBC(chunk=8)"; separated by
    commas or spaces. The baseline joins them."""
    tasks: tuple[str, ...] = (
        "Contamination(eps=0.01, p=0.0001, q=0.9999, theta_min=0.0001)",
        "RareMode(density_ratio=10)",
        "ConsistencyGame(eps=0.005)",
        "ARLinear(misspecification=0.0)",
    )
    """Tasks, in the same form. One whose horizon is set here ("RareMode(horizon=128)"), or is no parameter of it
    (NoisyParity has episodes), is run at that horizon only."""
    horizons: tuple[int, ...] = option((16, 32, 64), quick=(16, 64))
    """Horizons H of every other task."""
    n: int = option(1000)
    """Demonstrations in a data set."""
    seeds: int = option(20, quick=5)
    """Data sets for each task and horizon, the same ones for every agent."""
    baseline: str = "LogLossBC"
    """The agent that differences are taken to."""

    def check(self) -> None:
        (baseline, *more) = canonical("baseline", (self.baseline,))
        if more:
            raise ValueError(f"baseline={self.baseline!r} must be one agent.")
        agents = canonical("agents", self.agents)
        agents = agents if baseline in agents else [baseline, *agents]
        values = {"baseline": baseline, "agents": tuple(agents), "tasks": tuple(canonical("tasks", self.tasks))}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        built = [build_task(task, horizon) for task, horizon in self.places()]
        longest = max(task.prompt_length + task.horizon for task in built)
        check_fits("n", self.n, 8.0 * longest, f"demonstrations of {longest} tokens")
        for agent in self.agents:
            build_agent(agent, built[0])

    def places(self) -> list[tuple[str, int | None]]:
        """Tasks and the horizon each is to be built at; ``None`` where the task itself sets it."""
        horizons = sorted(self.horizons)
        return [(task, H) for task in self.tasks for H in (horizons if takes_horizon(task) else (None,))]


def canonical(name: str, words: tuple[str, ...]) -> list[str]:
    """One text for each call in an option, however it was written."""
    calls = [str(parse_call(text)) for text in split_calls(words)]
    if not calls:
        raise ValueError(f"{name} is empty; at least one is needed.")
    for call in calls:
        if calls.count(call) > 1:
            raise ValueError(f"{name} has {call!r} twice.")
    return calls


# -- cells: one for each agent, task, horizon and data set -------------------------------------------------------------


def cells(options: CompareOptions) -> Iterator[Cell]:
    """All runs: agents innermost, so that a process has the task at hand."""
    code = {text: named_code(text) for text in (*options.agents, *options.tasks)}
    for task, horizon in options.places():
        for replicate in range(options.seeds):
            for agent in options.agents:
                place = {"task": task, "horizon": horizon, "n": options.n, "replicate": replicate}
                yield Cell(RUNS, run, {"agent": agent, **place}, code=(*code[agent], *code[task]))


def run(
    *, agent: str, task: str, horizon: int | None, n: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """One agent on one data set, which every other agent gets too."""
    place = shared_task(task, horizon)
    key = f"compare {task} horizon={horizon} n={n} replicate={replicate}"
    learner = build_agent(agent, place)
    drawing = shared_rng(rng, f"{key}: demonstrations")  # the same data, with or without what the expert says of them
    demonstrations = collect(place, n, drawing, expert_log_probs=learner.needs_expert_log_probs)
    labels = {**named(task, agent, place.horizon, n), SEED: replicate}
    reason = why_not(learner, place, demonstrations)
    if reason is None:
        try:
            fit = costed_fit(learner, demonstrations, place.policy_class, int(rng.integers(1 << 63)), memory=False)
        except NotTractableError as error:
            reason = str(error)
        else:
            records = measured_fit(place, fit, labels, shared_rng(rng, f"{key}: distance"))
            records += without_factor(place, records, labels)
            return [*records, *on_text(place, fit.agent, labels), *asked(fit.agent, demonstrations, labels)]
    return [Record(NOT_APPLICABLE, 1.0, labels, method=reason)]


def shared_rng(rng: np.random.Generator, key: str) -> np.random.Generator:
    """A generator that depends on the run's seed and on ``key``, not on the cell that ``rng`` was made for.

    Cells that use the same key draw the same data, in whatever process and order they run.
    """
    sequence: Any = rng.bit_generator.seed_seq  # its entropy is the seed of the run, its spawn key the cell
    return keyed_rng(sequence.entropy, key)


def shared_task(task: str, horizon: int | None) -> Task:
    """The task; kept, because agents come one after another and it remembers its best in class."""
    made = build_task(task, horizon)
    try:
        return interned(made)
    except TypeError:  # one with parameters that cannot be hashed
        return made


@lru_cache(maxsize=4)
def interned(task: Task) -> Task:
    """The first of equal tasks: of the same parameters, and the same files."""
    return task


def why_not(agent: Agent, task: Task, demonstrations: Demonstrations) -> str | None:
    """Why this agent is not for this task, or ``None``: another kind of policy class, or chunks longer than H."""
    if not agent.takes(task.policy_class):
        return f"it takes only {', '.join(kind.__name__ for kind in agent.supports)}"
    try:
        chunk = agent.chunk_length(demonstrations)
    except ValueError as error:
        return str(error)
    if chunk is not None and chunk > task.horizon:
        return f"chunks of {chunk} tokens are longer than the horizon {task.horizon}"
    return None


def without_factor(task: Task, records: Sequence[Record], labels: dict[str, Label]) -> list[Record]:
    """Why there is no C_apx, where there is none: the class contains the expert, or its best member is not known."""
    if any(record.metric == FACTOR for record in records):
        return []
    try:
        task.best_in_class()
    except NotTractableError:
        return [Record(NO_FACTOR, 1.0, labels, method=UNKNOWN_BEST)]
    return [Record(NO_FACTOR, 1.0, labels, method=WELL_SPECIFIED)]


def on_text(task: Task, agent: Agent, labels: dict[str, Label]) -> list[Record]:
    """Bits a character of the held-out text, where there is one."""
    score = getattr(task, "bits_per_char", None)
    return [] if score is None else [Record(BITS, float(score(agent.policy_)), labels)]


def asked(agent: Agent, demonstrations: Demonstrations, labels: dict[str, Label]) -> list[Record]:
    """What the agent asked for: every demonstrated token is one answer of the expert, and it may have asked for more.

    ``details["expert_queries"]`` and ``details["environment_steps"]`` of its report are what an agent that interacts
    used beyond its demonstrations; the tokens the expert generated for these are not counted as steps.
    """
    report = agent.fit_report_
    queries = demonstrations.tokens.size + report.details.get("expert_queries", 0)
    found = {QUERIES: queries, STEPS: report.details.get("environment_steps", 0), CONVERGED: report.converged}
    return [Record(metric, float(value), labels) for metric, value in found.items()]


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
            found += slope_of(runs, labels) + tokens_until_half(runs, labels)
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


def slope_of(runs: Runs, labels: dict[str, Label]) -> list[SummaryRow]:
    """Slope in H of C_apx, or of the distance where there is no factor; none with fewer than two horizons."""
    task, agent = str(labels["task"]), str(labels["learner"])
    for metric, name in ((FACTOR, SLOPE_IN_H), (DISTANCE, DISTANCE_SLOPE)):
        found, seeds = at_all_horizons(runs, task, agent, metric)
        if len(found) >= 2 and seeds:
            interval = slope_interval(list(found), np.array([[found[H][seed] for seed in seeds] for H in found]))
            method = f"least squares, H={min(found)}..{max(found)}"
            row = SummaryRow(MEANS, labels, name, *interval, len(seeds), method)
            return [row] if np.isfinite(interval[0]) else []
    return []


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


# -- the table: a line for each task and agent, at the task's largest horizon ------------------------------------------


def table(runs: Runs, means: Summary) -> Table:
    """Means, differences and costs; the slope says what came before the largest horizon."""
    options, names = runs.options, short_names(runs.options.tasks)
    heads = ["task, agent", "C_apx", "D_H^2", f"D_H^2 minus {options.baseline}", "slope in H", "seconds a fit", QUERIES]
    heads += [STEPS] if any(row.mean > 0 for row in means.select(STEPS)) else []
    heads += [NATS, HALF] if any(row.mean > SATURATED for row in means.select(DISTANCE)) else []
    heads += [BITS] if len(means.select(BITS)) else []
    lines: list[list[str]] = []
    for task, horizons in runs.horizons.items():
        lines.append([f"{names[task]}, H={horizons[-1]}" if horizons else f"{names[task]}: failed"])
        for agent in options.agents if horizons else ():
            at: dict[str, Any] = {"task": task, "learner": agent, "H": horizons[-1]}
            line = [f"\u00a0\u00a0{agent}", means.shown(FACTOR, **at) or runs.no_factor(task)]
            if means.select(DISTANCE, **at):
                slopes = [means.shown(name, 2, task=task, learner=agent) for name in (SLOPE_IN_H, DISTANCE_SLOPE)]
                line += [means.shown(DISTANCE, **at), means.shown(minus(DISTANCE, options.baseline), **at)]
                line += [slopes[0] or slopes[1], means.timings.shown(SECONDS, 2, **at)]
                for metric in heads[6:]:
                    if metric == HALF:
                        line.append(means.shown(HALF, 3, task=task, learner=agent) or f"> {horizons[-1]}")
                    else:
                        line.append(means.shown(metric, 6 if metric in (QUERIES, STEPS) else 3, **at))
            else:
                line.append("failed" if runs.reason(task, horizons[-1], agent) is None else "not applicable")
            lines.append(line)
    note = (
        f"{interval_words(options.seeds)}. D_H^2: squared Hellinger distance to the expert, in [0, 2]; C_apx: over "
        "that of the best in class, where that is known and not the expert. Slope: of log C_apx (else log D_H^2) in "
        "log H. Expert queries: demonstrated tokens n H, and what the agent asked for beyond them."
    )
    title = f"{options.seeds} data sets of n={options.n} demonstrations, the same for all"
    return Table(title, heads, [line + [""] * (len(heads) - len(line)) for line in lines], note)


# -- several tasks at once ---------------------------------------------------------------------------------------------

SCORE, IQM, BETTER = "score", "interquartile mean of the score", "probability of improvement over"


def scored(runs: Runs) -> dict[str, dict[str, list[float]]]:
    """The scores of each agent by task, of those that it takes; none where fewer than two tasks are known."""
    if sum(map(bool, runs.horizons.values())) < 2:
        return {}
    each = {agent: {task: runs.scores(task, agent) for task in runs.horizons} for agent in runs.options.agents}
    return {agent: {task: own for task, own in found.items() if own is not None} for agent, found in each.items()}


def over_tasks(runs: Runs) -> list[SummaryRow]:
    """A row for each task's mean score, and for each agent's interquartile mean and probability of improvement."""
    scores, options, found = scored(runs), runs.options, list[SummaryRow]()
    for agent, own in scores.items():
        labels: dict[str, Label] = {"learner": agent, "n": options.n}
        for task, values in own.items():
            interval = pooled_score([values], resampling(), trim=0.0)
            found.append(SummaryRow(MEANS, {**labels, "task": task}, SCORE, *interval, len(values)))
        if own:
            method = f"{len(own)} of {len(runs.horizons)} tasks"
            interval = pooled_score(list(own.values()), resampling(), trim=QUARTER)
            found.append(SummaryRow(MEANS, labels, IQM, *interval, options.seeds, method))
        both = [task for task in own if task in scores.get(options.baseline, {})]
        if both and agent != options.baseline:
            ours, theirs = ([scores[name][task] for task in both] for name in (agent, options.baseline))
            method = f"{len(both)} of {len(runs.horizons)} tasks, on the same data sets"
            better = improvement(ours, theirs)
            found.append(SummaryRow(MEANS, labels, f"{BETTER} {options.baseline}", *better, options.seeds, method))
    return found


def table_over_tasks(runs: Runs, means: Summary) -> Table:
    """A line for each agent: all tasks, then each."""
    options, names = runs.options, short_names(runs.options.tasks)
    better, known = f"{BETTER} {options.baseline}", [task for task, horizons in runs.horizons.items() if horizons]
    lines = []
    for agent in options.agents:
        total = means.select(IQM, learner=agent)
        line = [total[0].shown() if len(total) else "", means.shown(better, 2, learner=agent)]
        each = [means.shown(SCORE, 2, learner=agent, task=task) or "not applicable" for task in known]
        lines.append([agent, *line, *each])
    note = (
        "Score of a run: 1/C_apx, or 1/(1 + x) where there is no C_apx, x = -log(1 - D_H^2/2); 1 is best, 0 for a run "
        "that failed; the mean over horizons. Over the tasks that an agent takes: the interquartile mean (stratified "
        "bootstrap, widened for few data sets), and how probably its score is higher than the baseline's on the same "
        "data set, ties half (Agarwal et al. 2021)."
    )
    heads = ["agent", "IQM of the score", f"P(better than {options.baseline})", *(names[task] for task in known)]
    return Table(f"Over {len(known)} tasks", heads, lines, note)


# -- the figure: a panel for each task, a row for each agent -----------------------------------------------------------


PANELS_A_ROW = 4
#: our agents in the colours of the learners that they are in the other figures
STYLES = {agent: learner for learner, (agent, _) in reversed({**LEARNERS, **LAYERWISE}.items())}
STYLES |= {"ChunkedRhoBC": CHUNKED, "ChunkKR": CHUNK_KR}


def colour_of(agent: str) -> str:
    """The colour of an agent's row; yours are black."""
    learner = STYLES.get(parse_call(agent).name)
    return COLOURS["black"] if learner is None else learner_style(learner).colour


def comparison_figure(runs: Runs, means: Summary) -> Figure:
    """Dots for C_apx, or for the distance where there is none."""
    from matplotlib.figure import Figure

    title = "How far from the expert? Left is better"
    tasks, agents = [task for task, horizons in runs.horizons.items() if horizons], runs.options.agents
    if not tasks:
        figure, axes = new_figure(title, "", "")
        no_data(axes)
        return figure
    lines = -(-len(tasks) // PANELS_A_ROW)
    columns = -(-len(tasks) // lines)
    width = 0.085 * max(map(len, agents)) + 0.6
    figure = Figure(figsize=(width + 2.5 * columns, lines * (0.34 * len(agents) + 1.3) + 0.7))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, task in zip(grid.ravel(), tasks):
        task_panel(axes, runs, means, task)
    for axes in grid.ravel()[len(tasks) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(agents)), labels=list(agents))
        axes.set_ylim(len(agents) - 0.5, -0.5)
        for label, agent in zip(axes.get_yticklabels(), agents):
            label.set(color=colour_of(agent), fontweight="bold")
    return figure


def task_panel(axes: Axes, runs: Runs, means: Summary, task: str) -> None:
    horizons, agents, grey = runs.horizons[task], runs.options.agents, COLOURS["grey"]
    factor = bool(means.select(FACTOR, task=task))
    found = [means.select(FACTOR if factor else DISTANCE, task=task, learner=agent).rows for agent in agents]
    every = [end for rows in found for row in rows for end in (row.mean, row.lower, row.upper)]
    positive = [value for value in every if value > 0]
    floor = min(positive, default=1.0) / 2.0  # zeros are drawn here, and say so
    axes.set_xscale("log")
    if factor:
        axes.axvline(1.0, color="black", linestyle="--", linewidth=1.2)
    for height, (agent, rows) in enumerate(zip(agents, found)):
        if rows:
            draw_row(axes, height, rows, horizons, floor, colour_of(agent))
        else:
            failed = None in [runs.reason(task, H, agent) for H in horizons]
            place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "backgroundcolor": "white"}
            words = "failed" if failed else "not applicable"
            axes.text(0.5, height, words, transform=axes.get_yaxis_transform(), color=grey, **place)
    zeros = any(row.mean <= 0.0 for rows in found for row in rows)
    round_ticks(axes, [*positive, *([floor] if zeros else []), *([1.0] if factor or not positive else [])])
    sizes = f"H={horizons[0]}" + (f" (small dot) to {horizons[-1]} (large)" if len(horizons) > 1 else "")
    axes.set_title(f"{short_names(runs.options.tasks)[task]}\n", fontsize=11)
    axes.text(0, 1.02, sizes, transform=axes.transAxes, fontsize=9, color=grey, va="bottom")
    why = runs.no_factor(task)
    axes.set_xlabel("C_apx (1 = best in class)" if factor else f"D_H^2 ({why})" if why else "D_H^2", fontsize=9)
    axes.tick_params(axis="y", length=0)


def draw_row(
    axes: Axes, height: int, rows: Sequence[SummaryRow], horizons: Sequence[int], floor: float, colour: str
) -> None:
    """Dots that grow with the horizon, and the interval of the last."""
    x, last = [max(row.mean, floor) for row in rows], rows[-1]
    axes.plot(x, [height] * len(x), color=colour, linewidth=1.2, alpha=0.5)
    areas = np.linspace(14 if len(horizons) > 1 else 70, 70, len(horizons))
    sizes = np.interp([row["H"] for row in rows], horizons, areas)
    axes.scatter(x, [height] * len(x), s=sizes, color=colour, zorder=3)
    if last.upper > last.lower:
        look: dict[str, Any] = {"color": colour, "linewidth": 4.5, "alpha": 0.35, "solid_capstyle": "butt"}
        axes.plot([max(last.lower, floor), last.upper], [height] * 2, **look)
    if last.mean <= 0.0:
        axes.annotate("0", (floor, height), xytext=(0, 6), textcoords="offset points", fontsize=8, ha="center")


# -- findings and analysis ---------------------------------------------------------------------------------------------


NEGLIGIBLE = 1e-4


def verdict(difference: Interval, size: float) -> str:
    """What a paired difference of distances says, given the distance of the baseline.

    Iterative fits end within a tolerance, so that what is less than 1e-4 of the distance is not called a difference.
    """
    mean, lower, upper = difference
    if abs(mean) > NEGLIGIBLE * size and (upper < 0 or lower > 0):
        return "closer" if upper < 0 else "farther"
    return "no clear difference"


def findings(runs: Runs, means: Summary) -> list[str]:
    """For each task, who is closer than the baseline and who is not, by the paired differences."""
    baseline, found = runs.options.baseline, []
    for task in (task for task, horizons in runs.horizons.items() if horizons):
        groups: dict[str, list[str]] = {}
        at: dict[str, Any] = {"task": task, "H": runs.horizons[task][-1]}
        for row in means.select(minus(DISTANCE, baseline), **at):
            if row.seeds > 1:
                size = means.value(DISTANCE, learner=baseline, **at)
                groups.setdefault(verdict((row.mean, row.lower, row.upper), size), []).append(row["learner"])
        if groups:
            parts = [f"{call}: {', '.join(groups[call])}" for call in sorted(groups)]
            found.append(f"{task}, H={at['H']}, against {baseline}: {'; '.join(parts)}.")
    return [*found, *said_over_tasks(runs, means), *remarks(runs)]


def said_over_tasks(runs: Runs, means: Summary) -> list[str]:
    """Who has the highest score over all tasks, of those that take them all."""
    rows = [row for row in means.select(IQM) if row.method == f"{len(runs.horizons)} of {len(runs.horizons)} tasks"]
    if len(rows) < 2:
        return []
    best = max(rows, key=lambda row: row.mean)
    words = (
        f"Over {len(runs.horizons)} tasks {best['learner']} has the highest interquartile mean score, {best.shown()}"
    )
    better = means.shown(f"{BETTER} {runs.options.baseline}", 2, learner=best["learner"])
    return [
        f"{words}; it scores higher than {runs.options.baseline} with probability {better}." if better else f"{words}."
    ]


def remarks(runs: Runs) -> list[str]:
    """What a reader of the table must know: own horizons, what does not apply, seeds lost, fits that stopped early."""
    options, found = runs.options, []
    if options.seeds == 1:
        found.append("One data set has no interval over data sets; use more --seeds.")
    alone = {task: horizons[0] for task, horizons in runs.horizons.items() if len(horizons) == 1}
    if own := [f"{task} at H={H}" for task, H in alone.items() if not takes_horizon(task)]:
        found.append(f"At the horizon their parameters give, without a slope: {', '.join(own)}.")
    for agent in options.agents:
        found += [f"{agent} is not for {places}: {reason}." for reason, places in refused(runs, agent).items()]
        for task, horizons in runs.horizons.items():
            at = [H for H in horizons if runs.reason(task, H, agent) is None]
            reached = [value for H in at for value in runs.values(task, H, agent, CONVERGED).values()]
            wanted = options.seeds * (len(at) if horizons else 1)
            if failed := wanted - len(reached):
                found.append(f"{agent} on {task}: {failed} of {wanted} runs failed.")
            if stopped := reached.count(0.0):
                found.append(f"{agent} on {task}: {stopped} fits stopped before their tolerance was reached.")
    return found


def refused(runs: Runs, agent: str) -> dict[str, str]:
    """Where an agent does not apply, by the reason; horizons are named where it applies at others."""
    places: dict[str, list[str]] = {}
    for task, horizons in runs.horizons.items():
        reasons = {H: reason for H in horizons if (reason := runs.reason(task, H, agent)) is not None}
        for reason in dict.fromkeys(reasons.values()):
            at = [str(H) for H in horizons if reasons.get(H) == reason]
            place = task if len(at) == len(horizons) else f"{task} at H={', '.join(at)}"
            places.setdefault(reason.rstrip("."), []).append(place)
    return {reason: "; ".join(found) for reason, found in places.items()}


def analyse(options: CompareOptions, summary: Summary) -> Analysis:
    runs = Runs(options, summary)
    means = means_of(runs)
    figure = FigureSpec(
        "compare",
        "How far from the expert does each agent end up?",
        "Each dot is the mean over data sets, from the smallest horizon (small dot) to the largest (large dot, with "
        "the 95 % interval of the mean); the dashed line is the best policy of the class.",
        lambda: comparison_figure(runs, means),
    )
    tables, figures = [table(runs, means)], [figure]
    if scores := scored(runs):
        tables.append(table_over_tasks(runs, means))
        lines = {agent: np.array(list(own.values())) for agent, own in scores.items() if own}
        profiles = FigureSpec(
            "profile",
            "How often does each agent score how much?",
            "The share of runs, over all tasks that an agent takes, with at least the score on the x axis (1 is the "
            "best in class, or the expert); bands are 95 % at each score.",
            lambda: profile_figure(lines, {agent: colour_of(agent) for agent in lines}, "Higher is better"),
        )
        figures.append(profiles)
    return Analysis(rows=means.rows, tables=tables, figures=figures, findings=findings(runs, means))


STUDY = Study(
    name="compare",
    question="Which of these agents ends up closest to the expert, and at what cost?",
    options=CompareOptions,
    cells=cells,
    analyse=analyse,
    labels=(SEED,),
)
