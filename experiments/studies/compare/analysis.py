"""The table and the findings; the figure is in ``drawing``."""

from __future__ import annotations

import math

from experiments.specs import short_names, takes_horizon
from experiments.statistics import interval_words
from experiments.studies.compare.drawing import comparison_figure
from experiments.studies.compare.estimates import Estimates, Interval
from experiments.studies.compare.options import CompareOptions
from experiments.studies.compare.sweep import CONVERGED, QUERIES, STEPS
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary
from experiments.tables import Table, with_interval

__all__ = ["analyse", "verdict"]

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
