"""How ChunkKR behaves numerically as chunks get longer, and where it stops working."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from agents import make_agent
from agents.chunk_kr.space import MAX_STATIONARY
from experiments.cells import Cell, Record
from experiments.charts import COLOURS, FACTOR, PURPLES
from experiments.measure import CHUNK_KR, SECONDS, build_learner, costed_fit, measured_fit, named
from experiments.panels import Curve, Guide, Panel, chart
from experiments.studies.amplification import SAMPLED
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import NAN, Summary, SummaryRow, Table, derived, number, pivot
from ntp_envs import NotTractableError, Task, collect, make_task


@dataclass(frozen=True)
class StabilityOptions(Options):
    horizon: int = option(64, least=3)
    """Horizon H of both tasks."""
    n: int = option(10_000, least=8)
    """Demonstrations on Contamination, where all prefixes look alike to the class."""
    chunks: tuple[int, ...] = option(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18),
        quick=(1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18),
        most="horizon",
    )
    """Chunk lengths K on Contamination."""
    linear_n: int = option(2000, least=8)
    """Demonstrations on ARLinear, where prefixes differ in the last two tokens."""
    linear_chunks: tuple[int, ...] = option(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14), quick=(1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14), most="horizon"
    )
    """Chunk lengths K on ARLinear."""
    rank_chunk: int = option(8, least=3, most=10)
    """Chunk length of the low-rank fits on Contamination; on ARLinear two less."""
    rank_shares: tuple[float, ...] = option((0.125, 0.25, 0.5, 0.75, 0.9, 1.0), above=0.0, most=1.0)
    """Ranks of these fits, as shares of the number of points."""

    def check(self) -> None:
        if self.rank_chunk > self.horizon:
            raise ValueError(f"rank_chunk={self.rank_chunk} must be at most horizon={self.horizon}.")


# -- cells: fits of ChunkKR at growing chunk lengths, and at growing ranks ---------------------------------------------


GROWTH, LOW_RANK = "chunk length", "low rank"
#: name in the study: task, its parameters, and the norm bound B of ChunkKR
#: (ARLinear: an instance picked for its large factor; with radius 4 log-loss has about 1.6 and longer chunks only lose)
TASKS: dict[str, tuple[str, dict[str, Any], float]] = {
    "Contamination eps=.01": ("Contamination", SAMPLED, 1.0),
    "ARLinear eps=.02": (
        "ARLinear",
        {"kind": "contamination", "misspecification": 1.0, "radius": 24.0, "eps": 0.02, "width": 2},
        4.0,
    ),
}
#: a gap below this is rounding error
SMALLEST_GAP = 1e-12
#: memory is traced, by a second fit, up to this many strings; the estimate of the fit is reported for all
TRACED = 2**10
REFUSED, EXCESS, SHARE = "refused", "log-loss above that of the full rank", "projection share of the solver's time"


def task_of(name: str, horizon: int) -> tuple[Task, float]:
    """The task and the norm bound."""
    kind, parameters, bound = TASKS[name]
    return make_task(kind, horizon=horizon, **parameters), bound


def growth(*, task: str, H: int, K: int, n: int, rng: np.random.Generator) -> list[Record]:
    """One fit, with everything that tells how well it was conditioned; or that it was refused."""
    made, bound = task_of(task, H)
    labels = named(task, CHUNK_KR, H, n, K)
    demonstrations = collect(made, n, np.random.default_rng(n))  # the same ones for every K
    agent = build_learner(CHUNK_KR, made, K, bound)
    seed = int(rng.integers(1 << 31))
    try:
        fit = costed_fit(agent, demonstrations, made.policy_class, seed, memory=2**K <= TRACED)
    except NotTractableError:
        return [Record(REFUSED, 1.0, labels)]
    report = agent.fit_report_
    program = max(report.details["programs"], key=lambda entry: entry["length"])
    low, high = program["kernel_log_range"]
    facts = {
        "smallest log kernel product": low,
        "largest log kernel product": high,
        "condition number": program["condition"],
        "points": program["points"],
        "rank kept": program["rank"],
        "trace left out": round(program["trace_error"], 12),
        "iterations": program["iterations"],
        "gap": max(report.gap, SMALLEST_GAP),
        "infeasibility": max(entry["infeasibility"] for entry in report.details["programs"]),
        "converged": float(fit.converged),
        "estimated megabytes": program["memory_bytes"] / 1e6,
    }
    records = [Record(metric, float(value), labels) for metric, value in facts.items()]
    records.append(Record(SHARE, program["projection_share"], labels, machine=True))
    return [*records, *measured_fit(made, fit, labels, rng)]


def low_rank(*, task: str, H: int, K: int, n: int, shares: Sequence[float], rng: np.random.Generator) -> list[Record]:
    """ChunkKR with fewer coordinates than points, and log-loss, on one data set."""
    made, bound = task_of(task, H)
    demonstrations = collect(made, n, np.random.default_rng(n))
    place = named(task, CHUNK_KR, H, n, K)
    seed = int(rng.integers(1 << 31))
    full = build_learner(CHUNK_KR, made, K, bound)
    costed_fit(full, demonstrations, made.policy_class, seed, memory=False)
    points = max(entry["points"] for entry in full.fit_report_.details["programs"])
    plain = costed_fit(build_learner("log-loss", made), demonstrations, made.policy_class, seed, memory=False)
    records = measured_fit(made, plain, named(task, "log-loss", H, n, 1), rng)
    for share in shares:
        agent = make_agent("agents.chunk_kr:ChunkKR", chunk=K, norm_bound=bound, low_rank=round(share * points) + 1)
        fit = costed_fit(agent, demonstrations, made.policy_class, seed, memory=False)
        labels = {**place, "rank": share}
        program = max(agent.fit_report_.details["programs"], key=lambda entry: entry["length"])
        excess = agent.fit_report_.objective - full.fit_report_.objective
        records.append(Record("trace left out", round(program["trace_error"], 12), labels))
        records.append(Record(EXCESS, max(round(excess, 6), 0.0), labels))  # both are certified to 1e-6 nats
        records += measured_fit(made, fit, labels, rng)
    return records


def cells(options: StabilityOptions) -> Iterator[Cell]:
    sizes = dict(zip(TASKS, ((options.n, options.chunks), (options.linear_n, options.linear_chunks)), strict=True))
    for task, (n, chunks) in sizes.items():
        for K in chunks:
            yield Cell(GROWTH, growth, {"task": task, "H": options.horizon, "K": K, "n": n})
    lengths = (options.rank_chunk, options.rank_chunk - 2)
    for (task, (n, _)), K in zip(sizes.items(), lengths, strict=True):
        cell = {"task": task, "H": options.horizon, "K": K, "n": n, "shares": options.rank_shares}
        yield Cell(LOW_RANK, low_rank, cell)


# -- which fits work, and the tables -----------------------------------------------------------------------------------

#: leaving out more than this of the trace of the Gram matrix is low rank
WHOLE_TRACE = 1e-6
LONGEST = "longest chunk that works"
BROKEN = "broken"  # the part of fits that left something out or did not converge, when they are told apart


def short(task: str) -> str:
    """The task's name without its parameters."""
    return task.split()[0]


def told_apart(summary: Summary) -> Summary:
    """The fits at growing chunk lengths; those that left out part of the space or did not converge as `BROKEN`."""
    rows = summary.select(part=GROWTH)
    left_out = [row for row in rows.select("trace left out") if row.mean > WHOLE_TRACE]
    bad = {(row["task"], row["K"]) for row in (*left_out, *(row for row in rows.select("converged") if row.mean < 1))}
    return Summary(replace(row, part=BROKEN) if (row["task"], row["K"]) in bad else row for row in rows)


def longest_chunks(o: StabilityOptions, summary: Summary) -> Iterator[SummaryRow]:
    """For each task the longest chunk below the first that does not work."""
    apart = told_apart(summary)
    for task in TASKS:
        bad = [*apart.select(part=BROKEN, task=task), *apart.select(REFUSED, task=task)]
        first = min((row["K"] for row in bad), default=math.inf)
        good = [row["K"] for row in apart.select("converged", part=GROWTH, task=task) if row["K"] < first]
        if good:
            yield derived(GROWTH, LONGEST, float(max(good)), "converged, nothing left out", task=task)


def growth_table(summary: Summary, task: str) -> Table:
    """A line for each chunk length."""
    heads = ["K", "C_apx", "points", "rank", "trace left out", "condition", "log kernel", "iterations", "gap"]
    heads += ["projections", "seconds", "megabytes"]
    lines = []
    for K in summary.distinct("K", part=GROWTH):
        rows = [*summary.select(part=GROWTH, task=task, K=K), *summary.timings.select(part=GROWTH, task=task, K=K)]
        of = {row.metric: row.mean for row in rows}
        if REFUSED in of:
            lines.append([str(K), REFUSED, *[""] * (len(heads) - 2)])
        elif of:
            counts = [f"{of['points']:.0f}", f"{of['rank kept']:.0f}", number(of["trace left out"], 2)]
            span = f"{of['smallest log kernel product']:.2f} .. {of['largest log kernel product']:.2f}"
            gap = number(of["gap"], 2) + ("" if of["converged"] else " (not converged)")
            cost = [f"{100 * of[SHARE]:.0f} %", number(of[SECONDS], 3), number(of["estimated megabytes"], 3)]
            line = [number(of["C_apx"]), *counts, f"{of['condition number']:.0f}", span, f"{of['iterations']:.0f}", gap]
            lines.append([str(K), *line, *cost])
    note = (
        "Gap: nats a sequence. Projections: share of the solver's time. Megabytes: estimated peak. Where the trace is "
        "not whole the condition is that of the part kept."
    )
    return Table(f"ChunkKR on {task} as K grows", heads, lines, note)


def tables(o: StabilityOptions, summary: Summary) -> Iterator[Table]:
    """The chunk lengths on each task, and the low-rank fits."""
    yield from (growth_table(summary, task) for task in TASKS)
    place = {"part": LOW_RANK, "learner": CHUNK_KR, "bare": True}
    rows = [
        (f"{short(row['task'])}, K={row['K']}, {100 * row['rank']:g} %", {"task": row["task"], "rank": row["rank"]})
        for row in summary.select("C_apx", part=LOW_RANK, learner=CHUNK_KR)
    ]
    heads = {"trace left out": "trace left out", "log-loss above full rank": EXCESS, "C_apx": "C_apx"}
    columns = [(head, {**place, "metric": metric}) for head, metric in heads.items()]
    words = {"corner": "task, rank / points", "note": "Log-loss in nats a sequence."}
    yield pivot(summary, "Low-rank fits against the full Gram matrix", "C_apx", rows, columns, digits=4, **words)


# -- figures -----------------------------------------------------------------------------------------------------------

TOLERANCE = 1e-6  # of the gap, in nats a sequence
_LOOKS: tuple[dict[str, Any], ...] = ({"color": PURPLES[2]}, {"color": PURPLES[0], "linestyle": "--", "marker": "s"})
LOOKS = dict(zip(TASKS, _LOOKS, strict=True))


def growing(*metrics: str, label: str = "{task}", part: str = GROWTH, **look: Any) -> list[Curve]:
    """A curve of every metric against K for each task."""
    return [
        Curve({"part": part, "task": task}, label.format(task=short(task)), metric, CHUNK_KR, {**LOOKS[task], **look})
        for metric in metrics
        for task in TASKS
    ]


def over_k(curves: Sequence[Curve], guides: Sequence[Guide] = (), yscale: str = "linear", **more: Any) -> Panel:
    return Panel("K", "chunk length K", "", curves, guides, xscale="linear", yscale=yscale, **more)


def extremes(summary: Summary, metric: str) -> tuple[float, float]:
    """The least and the largest of the numbers drawn."""
    values = [row.mean for row in summary.select(metric)]
    return min(values, default=NAN), max(values, default=NAN)


def figures(o: StabilityOptions, summary: Summary) -> list[FigureSpec]:
    apart = told_apart(summary)
    whole = apart.select(part=GROWTH)
    costs = Summary([*summary.select(part=GROWTH), *summary.timings.select(part=GROWTH)])
    lengths = sorted({row["K"] for row in apart.select("converged")})
    last = max(lengths, default=1)
    beside: dict[str, Any] = {"ticks": lengths[::2]}  # of a narrow panel

    # where it breaks
    works = ", ".join(f"K={row.mean:.0f} on {short(row['task'])}" for row in summary.select(LONGEST))
    top = extremes(whole, "C_apx")[1]
    refused = sorted(apart.select(REFUSED), key=lambda row: row["K"])
    limits: list[Guide] = []
    for row in refused:
        look: dict[str, Any] = {"offset": (6, 0)} if limits else {"offset": (-6, 0), "align": "right"}
        limits.append(Guide(place=row["K"], note=f"{short(row['task'])}:\nrefused", at=(row["K"], top), **look))
    limits += [
        Guide(points=[(row["K"], row.mean)], note="low rank", offset=(-10, 0), align="right")
        for row in apart.select("C_apx", part=BROKEN)
    ]
    for task, first in zip(TASKS, (True, False)):  # named where there is room: at its beginning, or below its least
        rows = sorted(whole.select("C_apx", task=task, learner=CHUNK_KR), key=lambda row: row["K"])
        for row in rows[:1] if first else rows and [min(rows, key=lambda row: row.mean)]:
            place: dict[str, Any] = {"offset": (10, 2)} if first else {"offset": (0, -14), "align": "right"}
            limits.append(Guide(points=[(row["K"], row.mean)], note=short(task), style=CHUNK_KR, **place))
    broken_fits = growing("C_apx", label="", part=BROKEN, linestyle="", marker="X", markersize=10)
    fits = [*growing("C_apx", label=""), *broken_fits]
    broken = over_k(fits, limits, "log", ticks=sorted({*lengths, *(row["K"] for row in refused)}))

    # the largest product is that of a string with itself: the same on both tasks
    smallest, largest = "smallest log kernel product", "largest log kernel product"
    products = [*growing(largest, label="largest, both"), *growing(smallest, label="smallest, {task}")]
    products[1] = replace(products[1], label="")
    bounds = [Guide(points=[(0, 0), (last, last * math.log(factor))]) for factor in (2.0, 2.0 / 3.0)]
    span = (extremes(whole, smallest)[0], extremes(whole, largest)[1])
    lie = f"Log kernel products lie in [{span[0]:.1f}, {span[1]:.1f}]; double precision ends at 709"

    dropped = Guide(1e9, note="eigenvalues below 1e-9 of the largest would be dropped")
    singular = over_k(growing("condition number"), [dropped], "log", ylim=(1, 1e11))
    most = f"The condition number of a whole Gram matrix is at most {extremes(whole, 'condition number')[1]:.2g}"
    solver = (
        over_k(
            growing("gap"),
            [Guide(TOLERANCE, note="tolerance")],
            "log",
            ylabel="certified gap (nats a sequence)",
            **beside,
        ),
        over_k(growing("iterations"), yscale="zero", ylabel="iterations", **beside),
    )
    gap, iterations = extremes(apart, "gap")[1], extremes(apart, "iterations")[1]
    ends = f"Every fit ends within {iterations:.0f} iterations, with a gap of at most {gap:.1g} nats"
    labels = {SECONDS: "processor seconds of a fit", "estimated megabytes": "megabytes (estimated peak)"}
    cost = [over_k(growing(metric), yscale="log", ylabel=label, **beside) for metric, label in labels.items()]
    cost.append(over_k(growing(SHARE, label=""), yscale="share", ylabel="projections, share of the time", **beside))
    seconds, megabytes = (extremes(costs, metric)[1] for metric in labels)
    takes = f"A fit takes up to {seconds:.2g} s of one processor and {megabytes:.2g} MB"

    ranks, plain = [], []
    for task in TASKS:
        place = {"part": LOW_RANK, "task": task}
        for row in summary.select("C_apx", learner=CHUNK_KR, **place)[:1]:
            ranks.append(Curve({**place, "learner": CHUNK_KR}, f"{short(task)}, K={row['K']}", look=LOOKS[task]))
        for row in summary.select("C_apx", learner="log-loss", **place):
            dashes = LOOKS[task].get("linestyle", "-")
            note: dict[str, Any] = {"note": f"log-loss, {short(task)}", "at": (1.0, row.mean), "offset": (9, 0)}
            plain.append(Guide(row.mean, **note, colour=COLOURS["vermilion"], dashes=dashes, style="log-loss"))
    rank_label = "rank, as a share of the number of points"
    low_rank_panel = Panel("rank", rank_label, "C_apx", ranks, plain, xscale="linear", yscale="log")

    return [
        FigureSpec(
            "headline",
            "Where does ChunkKR break?",
            "Both kernels depend on where two strings differ, so that transforms over strings diagonalise the Gram "
            f"matrix of up to {MAX_STATIONARY} points (prefixes times 2^K). Dotted: refused; crosses: something was "
            "left out, or the fit did not converge.",
            partial(
                chart, apart, f"ChunkKR works up to {works}" if works else "Where does ChunkKR break?", FACTOR, broken
            ),
        ),
        FigureSpec(
            "kernel",
            "Do the kernel products overflow or vanish?",
            "Smallest and largest log-product of a chunk's K kernel factors: linear in K, as each factor lies in "
            "[2/3, 2]. Dotted: the bounds K log 2 and K log(2/3); double precision ends at 709, K = 1023.",
            partial(chart, apart, lie, "log of a kernel product", over_k(products, bounds)),
        ),
        FigureSpec(
            "condition",
            "Does the Gram matrix become singular?",
            "Its condition number where it is used whole: in theory 2^K in one dimension.",
            partial(chart, whole, most, "condition number of the Gram matrix", singular),
        ),
        FigureSpec(
            "solver",
            "Does the solver still converge?",
            "Certified gap of a whole sequence, and iterations of ADMM on the chunks of full length.",
            partial(chart, apart, ends, "", *solver),
        ),
        FigureSpec(
            "cost",
            "What does a fit cost, and how much of it is projections?",
            "Processor seconds, estimated peak memory, and the share of the solver's time spent in projections onto "
            "ball and simplices.",
            partial(chart, costs, takes, "", *cost),
        ),
        FigureSpec(
            "low-rank",
            "What does low rank cost?",
            "The factor when only a share of the coordinates is kept (pivoted Cholesky), against the full Gram matrix "
            "(100 %). Probability vectors over 2^K strings have 2^K - 1 dimensions at every prefix.",
            partial(chart, summary, "Does low rank keep what longer chunks gain?", FACTOR, low_rank_panel),
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------


def task_finding(summary: Summary, task: str, longest: int) -> str:
    """How far it goes on a task, and what comes then."""

    def of(metric: str, K: int) -> float:
        return summary.value(metric, part=GROWTH, task=task, K=K)

    seconds = summary.timings.value(SECONDS, part=GROWTH, task=task, K=longest)
    words = [
        f"{task}: every fit up to K={longest} converges with nothing left out ({of('points', longest):.0f} points, "
        f"{seconds:.2g} s of one processor, {of('estimated megabytes', longest):.3g} MB, "
        f"C_apx {of('C_apx', longest):.2f})"
    ]
    words += [
        f"K={K} ({of('points', K):.0f} points) is fitted with rank {of('rank kept', K):.0f}, which leaves out "
        f"{100 * of('trace left out', K):.0f} % of the trace: C_apx {of('C_apx', K):.0f}, gap {of('gap', K):.1g} nats"
        for K in sorted({row["K"] for row in told_apart(summary).select(part=BROKEN, task=task)})
    ]
    refused = summary.select(REFUSED, part=GROWTH, task=task)
    return "; ".join([*words, *(f"K={row['K']} is refused (too many points)" for row in refused)]) + "."


def findings(o: StabilityOptions, summary: Summary) -> Iterator[str]:
    yield from (task_finding(summary, row["task"], int(row.mean)) for row in summary.select(LONGEST))
    largest = summary.select("largest log kernel product", part=GROWTH)
    if len(largest):
        high = max(largest, key=lambda row: row.mean)
        smallest = min(row.mean for row in summary.select("smallest log kernel product", part=GROWTH))
        whole = told_apart(summary).select("condition number", part=GROWTH)
        yield (
            f"Rounding is not what ends it: log kernel products lie in [{smallest:.1f}, {high.mean:.1f}] up to "
            f"K={high['K']} (double precision ends at 709), and the condition number of a whole Gram matrix is at most "
            f"{max((row.mean for row in whole), default=1.0):.2g}."
        )
    yield (
        f"The practical limit of K is the number of points, pooled prefixes times 2**K: {MAX_STATIONARY} where "
        "the kernel depends on where two strings differ, as it does here. Where it does not, the Gram matrix is used "
        "whole up to 4096, and low rank, above that, leaves out what it says."
    )
    shares = summary.timings.select(SHARE, part=GROWTH)
    if len(shares):
        first, last = shares[0], max(shares.select(task=next(iter(TASKS))), key=lambda row: row["K"])
        yield (
            f"Projections take {100 * first.mean:.0f} % of the solver's time at K={first['K']} and "
            f"{100 * last.mean:.0f} % at K={last['K']}, where the products with the coordinates dominate."
        )
    for task in TASKS:
        place = {"part": LOW_RANK, "task": task}
        half, full = (summary.select("C_apx", learner=CHUNK_KR, rank=share, **place) for share in (0.5, 1.0))
        if half and full:
            yield (
                f"{task}, K={half[0]['K']}: at half the rank C_apx is {half[0].mean:.1f}, at full rank "
                f"{full[0].mean:.1f}; log-loss has {summary.value('C_apx', learner='log-loss', **place):.1f}."
            )


STUDY = Study(
    name="stability",
    question="Up to which chunk length K can ChunkKR be trusted, and what breaks first?",
    options=StabilityOptions,
    cells=cells,
    analyse=analysis(rows=longest_chunks, tables=tables, figures=figures, findings=findings),
    labels=("rank",),
)
