"""Tables, figures and findings from the summary of the study."""

from __future__ import annotations

from typing import Any

from experiments.fits import SECONDS
from experiments.learners import CHUNK_KR
from experiments.studies.stability.drawings import (
    condition_figure,
    cost_figure,
    kernel_figure,
    limit_figure,
    low_rank_figure,
    short,
    solver_figure,
)
from experiments.studies.stability.options import StabilityOptions
from experiments.studies.stability.sweep import EXCESS, GROWTH, LOW_RANK, REFUSED, SHARE, TASKS
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, SummaryRow, derived
from experiments.tables import Table, number

__all__ = ["analyse"]

#: leaving out more than this of the trace of the Gram matrix is low rank
WHOLE_TRACE = 1e-6
LONGEST = "longest chunk that works"


def broken_fits(summary: Summary) -> Summary:
    """The fits that left out part of the space or did not converge."""
    left_out = [row for row in summary.select("trace left out", part=GROWTH) if row.mean > WHOLE_TRACE]
    return Summary([*left_out, *(row for row in summary.select("converged", part=GROWTH) if row.mean < 1)])


def longest_chunks(summary: Summary) -> list[SummaryRow]:
    """For each task the longest chunk below the first that does not work."""
    rows = []
    for task in TASKS:
        bad = {row["K"] for row in (*broken_fits(summary), *summary.select(REFUSED)) if row["task"] == task}
        first = min(bad, default=float("inf"))
        good = [row["K"] for row in summary.select("converged", part=GROWTH, task=task) if row["K"] < first]
        if good:
            rows.append(derived(GROWTH, LONGEST, float(max(good)), "converged, nothing left out", task=task))
    return rows


def growth_table(summary: Summary, task: str) -> Table:
    """A line for each chunk length."""
    heads = ["K", "C_apx", "points", "rank", "trace left out", "condition", "log kernel", "iterations", "gap"]
    heads += ["projections", "seconds", "megabytes"]
    lines: list[list[Any]] = []
    for K in summary.distinct("K", part=GROWTH):
        place: dict[str, Any] = {"part": GROWTH, "task": task, "K": K}
        if len(summary.select(REFUSED, **place)):
            lines.append([str(K), REFUSED, *[""] * (len(heads) - 2)])
        if not len(summary.select("converged", **place)):
            continue
        value = {row.metric: row.mean for row in summary.select(**place)}
        share = summary.timings.value(SHARE, **place)
        span = f"{value['smallest log kernel product']:.2f} .. {value['largest log kernel product']:.2f}"
        counts = [f"{value['points']:.0f}", f"{value['rank kept']:.0f}", number(value["trace left out"], 2)]
        condition = f"{value['condition number']:.0f}"
        gap = number(value["gap"], 2) + ("" if value["converged"] else " (not converged)")
        cost = [number(summary.timings.value(SECONDS, **place), 3), number(value["estimated megabytes"], 3)]
        solver = [f"{value['iterations']:.0f}", gap, f"{100 * share:.0f} %"]
        lines.append([str(K), number(value["C_apx"]), *counts, condition, span, *solver, *cost])
    note = (
        "Gap: nats a sequence. Projections: share of the solver's time. Megabytes: estimated peak. Where the trace is "
        "not whole the condition is that of the part kept."
    )
    return Table(f"ChunkKR on {task} as K grows", heads, lines, note)


def rank_table(summary: Summary) -> Table:
    """The low-rank fits."""
    lines = [
        [
            f"{short(row['task'])}, K={row['K']}",
            f"{100 * row['rank']:g} %",
            summary.value("trace left out", part=LOW_RANK, task=row["task"], rank=row["rank"]),
            summary.value(EXCESS, part=LOW_RANK, task=row["task"], rank=row["rank"]),
            row.mean,
        ]
        for row in summary.select("C_apx", part=LOW_RANK, learner=CHUNK_KR)
    ]
    heads = ["task", "rank / points", "trace left out", "log-loss above full rank", "C_apx"]
    return Table("Low-rank fits against the full Gram matrix", heads, lines, "Log-loss in nats a sequence.")


def findings(options: StabilityOptions, summary: Summary) -> list[str]:
    """What the numbers say, with the numbers."""
    said = []
    for task in TASKS:
        place: dict[str, Any] = {"part": GROWTH, "task": task}
        longest = next((int(row.mean) for row in longest_chunks(summary) if row["task"] == task), None)
        if longest is None:
            continue
        at = {**place, "K": longest}
        sentence = (
            f"{task}: every fit up to K={longest} converges with nothing left out "
            f"({summary.value('points', **at):.0f} points, {summary.timings.value(SECONDS, **at):.2g} s of one "
            f"processor, {summary.value('estimated megabytes', **at):.3g} MB, C_apx {summary.value('C_apx', **at):.2f})"
        )
        tails = []
        for K in sorted({row["K"] for row in broken_fits(summary).select(task=task)}):
            low = {**place, "K": K}
            gap = summary.value("gap", **low)
            tails.append(
                f"K={K} ({summary.value('points', **low):.0f} points) is fitted with rank "
                f"{summary.value('rank kept', **low):.0f}, which leaves out "
                f"{100 * summary.value('trace left out', **low):.0f} % of the trace: C_apx "
                f"{summary.value('C_apx', **low):.0f}, gap {gap:.1g} nats"
            )
        tails += [f"K={row['K']} is refused (above 50000 points)" for row in summary.select(REFUSED, **place)]
        said.append("; ".join([sentence, *tails]) + ".")
    largest: list[SummaryRow] = summary.select("largest log kernel product", part=GROWTH).rows
    if largest:
        high = max(largest, key=lambda row: row.mean)
        smallest = min(row.mean for row in summary.select("smallest log kernel product", part=GROWTH))
        broken = [(row["task"], row["K"]) for row in broken_fits(summary)]
        conditions = summary.select("condition number", part=GROWTH)
        condition = max((row.mean for row in conditions if (row["task"], row["K"]) not in broken), default=1.0)
        said.append(
            f"Rounding is not what ends it: log kernel products lie in [{smallest:.1f}, {high.mean:.1f}] up to "
            f"K={high['K']} (double precision ends at 709), and the "
            f"condition number of a whole Gram matrix is at most {condition:.2g}."
        )
    said.append(
        "The practical limit of K is the number of points, pooled prefixes times 2**K: up to 4096 the Gram matrix is "
        "used whole; above that low rank loses the factor that longer chunks were to gain."
    )
    shares = summary.timings.select(SHARE, part=GROWTH)
    if len(shares):
        first, last = shares[0], max(shares.select(task=next(iter(TASKS))), key=lambda row: row["K"])
        said.append(
            f"Projections take {100 * first.mean:.0f} % of the solver's time at K={first['K']} and "
            f"{100 * last.mean:.0f} % at K={last['K']}, where the products with the coordinates dominate."
        )
    for task in TASKS:
        rows = summary.select("C_apx", part=LOW_RANK, task=task, learner=CHUNK_KR)
        half = [row for row in rows if row["rank"] == 0.5]
        whole = [row for row in rows if row["rank"] == 1.0]
        if half and whole:
            plain = summary.value("C_apx", part=LOW_RANK, task=task, learner="log-loss")
            said.append(
                f"{task}, K={half[0]['K']}: at half the rank C_apx is {half[0].mean:.1f}, at full rank "
                f"{whole[0].mean:.1f}; log-loss has {plain:.1f}."
            )
    return said


def analyse(options: StabilityOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    broken = broken_fits(summary)
    figures = [
        FigureSpec(
            "headline",
            "Where does ChunkKR break?",
            "The factor falls with K as long as the Gram matrix of all points (prefixes times 2**K strings) is used "
            "whole, up to 4096 points; crosses: fits of rank 1024, dotted: refused above 50000 points.",
            lambda: limit_figure(summary, broken),
        ),
        FigureSpec(
            "kernel",
            "Do the kernel products overflow or vanish?",
            "Smallest and largest log-product of a chunk's K kernel factors: linear in K, as each factor lies in "
            "[2/3, 2].",
            lambda: kernel_figure(summary),
        ),
        FigureSpec(
            "condition",
            "Does the Gram matrix become singular?",
            "Its condition number where it is used whole: exactly 2**K in one dimension.",
            lambda: condition_figure(summary),
        ),
        FigureSpec(
            "solver",
            "Does the solver still converge?",
            "Certified gap of a whole sequence, and iterations of ADMM on the chunks of full length.",
            lambda: solver_figure(summary),
        ),
        FigureSpec(
            "cost",
            "What does a fit cost, and how much of it is projections?",
            "Processor seconds, estimated peak memory, and the share of the solver's time spent in projections onto "
            "ball and simplices.",
            lambda: cost_figure(summary),
        ),
        FigureSpec(
            "low-rank",
            "What does low rank cost?",
            "The factor when only a share of the coordinates is kept (pivoted Cholesky), against the full Gram matrix "
            "(100 %): the class needs nearly all of them, because probability vectors over 2**K strings do.",
            lambda: low_rank_figure(summary),
        ),
    ]
    tables = [*(growth_table(summary, task) for task in TASKS), rank_table(summary)]
    return Analysis(rows=longest_chunks(summary), tables=tables, figures=figures, findings=findings(options, summary))
