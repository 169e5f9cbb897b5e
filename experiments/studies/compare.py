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
from experiments import evaluation
from experiments.aggregate import (
    BETTER,
    BITS,
    CONVERGED,
    DISTANCE,
    DISTANCE_SLOPE,
    FACTOR,
    HALF,
    IQM,
    NATS,
    NO_FACTOR,
    NOT_APPLICABLE,
    QUERIES,
    RUNS,
    SCORE,
    SEED,
    STEPS,
    Runs,
    colour_of,
    means_of,
    minus,
    profile_figure,
    scored,
)
from experiments.cells import Cell, Label, Record, keyed_rng
from experiments.charts import COLOURS, SHOWN, Axes, Figure, new_figure, new_grid, no_data, round_ticks, say, span
from experiments.measure import SECONDS, SLOPE_IN_H, costed_fit, measured_fit, named
from experiments.study import Analysis, FigureSpec, Options, Study, option
from experiments.summary import Interval, Summary, SummaryRow, Table, interval_words
from ntp_envs import Demonstrations, Task, collect
from ntp_envs.checks import NotTractableError, check_fits

#: why there is no C_apx
UNKNOWN_BEST, WELL_SPECIFIED = "best in class not known", "expert in class"
#: mean distance from which on distances are told apart on the additive scale, in nats
SATURATED = 1.0


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
        built = [evaluation.build_task(task, horizon) for task, horizon in self.places()]
        longest = max(task.prompt_length + task.horizon for task in built)
        check_fits("n", self.n, 8.0 * longest, f"demonstrations of {longest} tokens")
        for agent in self.agents:
            evaluation.build_agent(agent, built[0])

    def places(self) -> list[tuple[str, int | None]]:
        """Tasks and the horizon each is to be built at; ``None`` where the task itself sets it."""
        horizons = sorted(self.horizons)
        return [(task, H) for task in self.tasks for H in (horizons if evaluation.takes_horizon(task) else (None,))]


def canonical(name: str, words: tuple[str, ...]) -> list[str]:
    """One text for each call in an option, however it was written."""
    calls = [str(evaluation.parse_call(text)) for text in evaluation.split_calls(words)]
    if not calls:
        raise ValueError(f"{name} is empty; at least one is needed.")
    for call in calls:
        if calls.count(call) > 1:
            raise ValueError(f"{name} has {call!r} twice.")
    return calls


# -- cells: one for each agent, task, horizon and data set -------------------------------------------------------------


def cells(options: CompareOptions) -> Iterator[Cell]:
    """All runs: agents innermost, so that a process has the task at hand."""
    code = {text: evaluation.named_code(text) for text in (*options.agents, *options.tasks)}
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
    learner = evaluation.build_agent(agent, place)
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
            return [*records, *beside(place, fit.agent, demonstrations, records, labels)]
    return [Record(NOT_APPLICABLE, 1.0, labels, method=reason)]


def shared_rng(rng: np.random.Generator, key: str) -> np.random.Generator:
    """A generator that depends on the run's seed and on ``key``, not on the cell that ``rng`` was made for.

    Cells that use the same key draw the same data, in whatever process and order they run.
    """
    sequence: Any = rng.bit_generator.seed_seq  # its entropy is the seed of the run, its spawn key the cell
    return keyed_rng(sequence.entropy, key)


def shared_task(task: str, horizon: int | None) -> Task:
    """The task; kept, because agents come one after another and it remembers its best in class."""
    made = evaluation.build_task(task, horizon)
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


def beside(
    task: Task, agent: Agent, demonstrations: Demonstrations, records: Sequence[Record], labels: dict[str, Label]
) -> Iterator[Record]:
    """Beside the distance: why there is no C_apx, bits a character of held-out text, and what the agent asked for.

    Every demonstrated token is one answer of the expert. ``details["expert_queries"]`` and
    ``details["environment_steps"]`` of its report are what an agent that interacts used beyond its demonstrations; the
    tokens the expert generated for these are not counted as steps.
    """
    if not any(record.metric == FACTOR for record in records):
        reason = WELL_SPECIFIED
        try:
            task.best_in_class()
        except NotTractableError:
            reason = UNKNOWN_BEST
        yield Record(NO_FACTOR, 1.0, labels, method=reason)
    if (score := getattr(task, "bits_per_char", None)) is not None:
        yield Record(BITS, float(score(agent.policy_)), labels)
    report = agent.fit_report_
    queries = demonstrations.tokens.size + report.details.get("expert_queries", 0)
    found = {QUERIES: queries, STEPS: report.details.get("environment_steps", 0), CONVERGED: report.converged}
    yield from (Record(metric, float(value), labels) for metric, value in found.items())


# -- the table: a line for each task and agent, at the task's largest horizon ------------------------------------------


def table(runs: Runs, means: Summary) -> Table:
    """Means, differences and costs; the slope says what came before the largest horizon."""
    options, names = runs.options, evaluation.short_names(runs.options.tasks)
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


def table_over_tasks(runs: Runs, means: Summary) -> Table:
    """A line for each agent: all tasks, then each."""
    options, names = runs.options, evaluation.short_names(runs.options.tasks)
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


def comparison_figure(runs: Runs, means: Summary) -> Figure:
    """Dots for C_apx, or for the distance where there is none."""
    title = "Who ends up closest to the expert? Left is better"
    tasks, agents = [task for task, horizons in runs.horizons.items() if horizons], runs.options.agents
    if not tasks:
        figure, axes = new_figure(title, "", "")
        no_data(axes)
        return figure
    lines = -(-len(tasks) // PANELS_A_ROW)
    columns = -(-len(tasks) // lines)
    width = 0.085 * max(map(len, agents)) + 0.6
    size = (max(width + 2.5 * columns, 6.4), lines * (0.34 * len(agents) + 1.3) + 0.7)
    figure, grid = new_grid(title, lines, columns, size, sharey=True)
    say(figure, f"n = {runs.options.n:,}; {runs.options.seeds} data sets for each task and horizon", SHOWN)
    say(figure, "dots grow with H; broad lines: 95 % intervals at the largest")
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
            continue
        failed = None in [runs.reason(task, H, agent) for H in horizons]
        place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "backgroundcolor": "white"}
        words = "failed" if failed else "not applicable"
        axes.text(0.5, height, words, transform=axes.get_yaxis_transform(), color=grey, **place)
    zeros = any(row.mean <= 0.0 for rows in found for row in rows)
    round_ticks(axes, [*positive, *([floor] if zeros else []), *([1.0] if factor or not positive else [])])
    axes.set_title(f"{evaluation.short_names(runs.options.tasks)[task]}\n{span('H', horizons)}", fontsize=11)
    why = runs.no_factor(task)
    axes.set_xlabel("approximation factor" if factor else f"D_H^2 ({why})" if why else "D_H^2", fontsize=9)
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


def verdict(difference: Interval, size: float) -> str:
    """What a paired difference of distances says, given the distance of the baseline.

    Iterative fits end within a tolerance, so that what is less than 1e-4 of the distance is not called a difference.
    """
    mean, lower, upper = difference
    if abs(mean) > 1e-4 * size and (upper < 0 or lower > 0):
        return "closer" if upper < 0 else "farther"
    return "no clear difference"


def findings(runs: Runs, means: Summary) -> Iterator[str]:
    """On each task, who is closer than the baseline, by the paired differences; who has the highest score over all
    tasks, of those that take them all; and what a reader of the table must know."""
    baseline, wanted = runs.options.baseline, len(runs.horizons)
    for task in (task for task, horizons in runs.horizons.items() if horizons):
        groups: dict[str, list[str]] = {}
        at: dict[str, Any] = {"task": task, "H": runs.horizons[task][-1]}
        for row in means.select(minus(DISTANCE, baseline), **at):
            if row.seeds > 1:
                size = means.value(DISTANCE, learner=baseline, **at)
                groups.setdefault(verdict((row.mean, row.lower, row.upper), size), []).append(row["learner"])
        if groups:
            parts = [f"{call}: {', '.join(groups[call])}" for call in sorted(groups)]
            yield f"{task}, H={at['H']}, against {baseline}: {'; '.join(parts)}."
    rows = [row for row in means.select(IQM) if row.method == f"{wanted} of {wanted} tasks"]
    if len(rows) > 1:
        best = max(rows, key=lambda row: row.mean)
        words = f"Over {wanted} tasks {best['learner']} has the highest interquartile mean score, {best.shown()}"
        better = means.shown(f"{BETTER} {baseline}", 2, learner=best["learner"])
        yield f"{words}; it scores higher than {baseline} with probability {better}." if better else f"{words}."
    yield from remarks(runs)


def remarks(runs: Runs) -> Iterator[str]:
    """Own horizons, what does not apply, seeds lost, fits that stopped early."""
    options = runs.options
    if options.seeds == 1:
        yield "One data set has no interval over data sets; use more --seeds."
    alone = {task: horizons[0] for task, horizons in runs.horizons.items() if len(horizons) == 1}
    if own := [f"{task} at H={H}" for task, H in alone.items() if not evaluation.takes_horizon(task)]:
        yield f"At the horizon their parameters give, without a slope: {', '.join(own)}."
    for agent in options.agents:
        yield from (f"{agent} is not for {places}: {reason}." for reason, places in refused(runs, agent).items())
        for task, horizons in runs.horizons.items():
            at = [H for H in horizons if runs.reason(task, H, agent) is None]
            reached = [value for H in at for value in runs.values(task, H, agent, CONVERGED).values()]
            wanted = options.seeds * (len(at) if horizons else 1)
            if failed := wanted - len(reached):
                yield f"{agent} on {task}: {failed} of {wanted} runs failed."
            if stopped := reached.count(0.0):
                yield f"{agent} on {task}: {stopped} fits stopped before their tolerance was reached."


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
    means, scores = means_of(runs), scored(runs)
    lines = {agent: np.array(list(own.values())) for agent, own in scores.items() if own}
    figures = [
        FigureSpec(
            "compare",
            "How far from the expert does each agent end up?",
            "Each dot is the mean over data sets, from the smallest horizon (small dot) to the largest (large dot, "
            "with the 95 % interval of the mean); the dashed line is the best policy of the class.",
            lambda: comparison_figure(runs, means),
        ),
        FigureSpec(
            "profile",
            "How often does each agent score how much?",
            "The share of runs, over all tasks that an agent takes, with at least the score on the x axis (1 is the "
            "best in class, or the expert); bands are 95 % at each score.",
            lambda: profile_figure(lines, "How often does each agent reach a score? Higher is better"),
        ),
    ]
    tables, figures = [table(runs, means)], figures if scores else figures[:1]
    tables += [table_over_tasks(runs, means)] if scores else []
    return Analysis(rows=means.rows, tables=tables, figures=figures, findings=list(findings(runs, means)))


STUDY = Study(
    name="compare",
    question="Which of these agents ends up closest to the expert, and at what cost?",
    options=CompareOptions,
    cells=cells,
    analyse=analyse,
    labels=(SEED,),
)
