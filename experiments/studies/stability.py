"""How ChunkKR behaves numerically as chunks get longer, and where it stops working."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents import make_agent
from experiments.cells import Cell, Record
from experiments.charts import FACTOR, PURPLES, Line, draw_lines, log_range, plain_log_axis
from experiments.measure import CHUNK_KR, SECONDS, build_learner, check_distinct, costed_fit, measured_fit, named
from experiments.studies.amplification import SAMPLED
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Series, Summary, SummaryRow, Table, derived, number
from ntp_envs import NotTractableError, Task, collect, make_task
from ntp_envs.checks import check_int

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StabilityOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizon: int = 64
    """Horizon H of both tasks."""
    n: int = 10_000
    """Demonstrations on Contamination, where all prefixes look alike to the class."""
    chunks: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16)
    """Chunk lengths K on Contamination; from 12 on a fit takes minutes."""
    linear_n: int = 2000
    """Demonstrations on ARLinear, where prefixes differ in the last two tokens."""
    linear_chunks: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14)
    """Chunk lengths K on ARLinear; from 9 on a fit takes minutes."""
    rank_chunk: int = 8
    """Chunk length of the low-rank fits on Contamination; on ARLinear two less."""
    rank_shares: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75, 0.9, 1.0)
    """Ranks of these fits, as shares of the number of points."""

    def __post_init__(self) -> None:
        for name in ("n", "linear_n"):
            check_int(name, getattr(self, name), minimum=8)
        check_int("horizon", self.horizon, minimum=3)
        for name in ("chunks", "linear_chunks"):
            check_distinct(name, getattr(self, name), maximum=self.horizon)
        check_int("rank_chunk", self.rank_chunk, minimum=3, maximum=min(self.horizon, 10))
        for share in self.rank_shares:
            if not 0.0 < share <= 1.0:
                raise ValueError(f"rank_shares={self.rank_shares} must lie in (0, 1].")

    @classmethod
    def quick(cls) -> StabilityOptions:
        """About a minute on two cores."""
        return cls(chunks=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16), linear_chunks=(1, 2, 3, 4, 5, 6, 7, 8, 14))


# -- The cells of the study: fits of ChunkKR at growing chunk lengths, and at growing ranks ---------------------------


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
    """All cells, part by part."""
    sizes = dict(zip(TASKS, ((options.n, options.chunks), (options.linear_n, options.linear_chunks)), strict=True))
    for task, (n, chunks) in sizes.items():
        for K in chunks:
            yield Cell(GROWTH, growth, {"task": task, "H": options.horizon, "K": K, "n": n})
    lengths = (options.rank_chunk, options.rank_chunk - 2)
    for (task, (n, _)), K in zip(sizes.items(), lengths, strict=True):
        cell = {"task": task, "H": options.horizon, "K": K, "n": n, "shares": options.rank_shares}
        yield Cell(LOW_RANK, low_rank, cell)


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


_LOOKS: tuple[dict[str, Any], ...] = ({"color": PURPLES[2]}, {"color": PURPLES[0], "linestyle": "--", "marker": "s"})
LOOKS = dict(zip(TASKS, _LOOKS, strict=True))
TOLERANCE = 1e-6  # of the gap, in nats a sequence


def short(task: str) -> str:
    """The task's name without its parameters."""
    return task.split()[0]


def task_lines(summary: Summary, metric: str, *, label: str = "{task}", **changes: Any) -> list[Line]:
    """A line for each task against K."""
    return [
        Line(
            summary.series("K", metric, part=GROWTH, task=task),
            CHUNK_KR,
            label.format(task=short(task)),
            **LOOKS[task],
            **changes,
        )
        for task in TASKS
    ]


def chunk_axis(axes: Axes, summary: Summary, metric: str = "converged", room: float = 1.35) -> None:
    """K on a linear axis with a tick for every length with this metric, fewer where crowded, and room for labels."""
    lengths = sorted({row["K"] for row in summary.select(metric, part=GROWTH)})
    axes.set_xticks(lengths[:: 1 + len(lengths) // 14 if room < 1.5 else 2])
    axes.set_xlim(min(lengths) - 0.4, max(lengths) * room)


def limit_figure(summary: Summary, broken: Summary) -> Figure:
    """C_apx against K until it breaks."""
    from experiments.charts import COLOURS, new_figure

    figure, axes = new_figure("More tokens a chunk help, until the points no longer fit", "chunk length K", FACTOR)
    plain = summary.select("C_apx", part=GROWTH)
    lines = []
    for task in TASKS:
        series = plain.series("K", "C_apx", task=task)
        bad = {row["K"] for row in broken.select(task=task)}
        good = ~np.isin(series.x, list(bad))
        lines.append(Line(Series(*(column[good] for column in series)), CHUNK_KR, short(task), **LOOKS[task]))
        axes.plot(series.x[~good], series.mean[~good], "X", color=LOOKS[task]["color"], markersize=10)
        for K, value in zip(series.x[~good], series.mean[~good], strict=True):
            note: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 10}
            axes.annotate("low rank", (K, value), xytext=(-10, 0), color=LOOKS[task]["color"], **note)
    chunk_axis(axes, summary)
    refused = [row["K"] for row in summary.select(REFUSED, part=GROWTH)]
    axes.set_xlim(None, max([axes.get_xlim()[1], *(K + 0.5 for K in refused)]))
    draw_lines(axes, lines, limits=plain_log_axis)
    for row in summary.select(REFUSED, part=GROWTH):
        note = {"textcoords": "offset points", "ha": "right", "fontsize": 9, "rotation": 90, "va": "top"}
        axes.axvline(row["K"], color=COLOURS["grey"], linestyle=":", linewidth=1.5)
        top = axes.get_ylim()[1]
        axes.annotate(f"{short(row['task'])}: refused", (row["K"], top), xytext=(-3, -4), color="#6E6E6E", **note)
    return figure


def kernel_figure(summary: Summary) -> Figure:
    """The range of the log kernel products."""
    from experiments.charts import COLOURS, new_figure

    title = "Kernel products stay far from overflow"
    figure, axes = new_figure(title, "chunk length K", "log of a kernel product")
    lengths = np.array([0.0, max(row["K"] for row in summary.select("converged", part=GROWTH))])
    for edge in (math.log(2.0), math.log(2.0 / 3.0)):
        axes.plot(lengths, lengths * edge, color=COLOURS["grey"], linestyle=":")
    lines = [
        *task_lines(summary, "largest log kernel product", label="largest, {task}"),
        *task_lines(summary, "smallest log kernel product", label="smallest, {task}"),
    ]
    chunk_axis(axes, summary)
    draw_lines(axes, lines)
    note = "bounds K log 2 and K log(2/3) (dotted);\ndouble precision ends at 709, K = 1023"
    axes.annotate(note, (0.03, 0.97), xycoords="axes fraction", va="top", color=COLOURS["grey"])
    return figure


def condition_figure(summary: Summary) -> Figure:
    """The condition number of the Gram matrix."""
    from experiments.charts import COLOURS, new_figure

    title = "The Gram matrix stays well conditioned"
    figure, axes = new_figure(title, "chunk length K", "condition number of the Gram matrix")
    axes.set_yscale("log")
    chunk_axis(axes, summary)
    whole = Summary(row for row in summary.select("condition number", part=GROWTH) if full_rank(summary, row))
    lines = task_lines(whole, "condition number")
    axes.set_ylim(1, 1e11)
    draw_lines(axes, lines)
    axes.axhline(1e9, color=COLOURS["grey"], linestyle=":")
    axes.annotate(
        "eigenvalues below 1e-9 of the largest would be dropped",
        (1, 1e9),
        xytext=(0, 7),
        textcoords="offset points",
        color=COLOURS["grey"],
    )
    return figure


def full_rank(summary: Summary, row: Any) -> bool:
    """Whether the fit of this row left nothing out."""
    return summary.value("trace left out", part=GROWTH, task=row["task"], K=row["K"]) < 1e-6


def solver_figure(summary: Summary) -> Figure:
    """Gap and iterations against K."""
    from experiments.charts import COLOURS, new_panels

    xlabels = ["chunk length K", "chunk length K"]
    figure, (left, right) = new_panels(
        "The solver needs no more iterations for longer chunks", xlabels, "certified gap (nats a sequence)", share=False
    )
    left.set_yscale("log")
    left.axhline(TOLERANCE, color=COLOURS["grey"], linestyle=":")
    left.annotate("tolerance", (1, TOLERANCE), xytext=(0, 5), textcoords="offset points", color=COLOURS["grey"])
    right.set_ylabel("iterations")
    for axes, metric in ((left, "gap"), (right, "iterations")):
        chunk_axis(axes, summary)
        draw_lines(axes, task_lines(summary, metric))
    right.set_ylim(0, None)
    return figure


def decades(axes: Axes) -> None:
    """A logarithmic y axis with powers of ten written out."""
    low, high = log_range(axes)
    axes.set_yscale("log")
    ticks = [10.0**k for k in range(-6, 7) if low / 10 < 10.0**k < 10 * high]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low / 2, high * 2)


def cost_figure(summary: Summary) -> Figure:
    """Time, memory and the share of projections against K."""
    from experiments.charts import new_panels

    labels = ["processor seconds of a fit", "megabytes (estimated peak)", "share of the solver's time"]
    figure, panels = new_panels(
        "Time and memory grow exponentially; projections weigh only on short chunks",
        ["chunk length K"] * 3,
        labels[0],
        share=False,
    )
    titles = ["time", "memory", "projections in the solver"]
    sources = [(summary.timings, SECONDS), (summary, "estimated megabytes"), (summary.timings, SHARE)]
    for axes, ylabel, title, (source, metric) in zip(panels, labels, titles, sources, strict=True):
        axes.set_title(title, fontsize=11)
        axes.set_ylabel(ylabel)
        chunk_axis(axes, summary, room=1.7)
        if metric == SHARE:
            axes.set_ylim(0, 1)
        first, second = task_lines(source, metric)
        label, second.label = second.label, ""  # on its left, where no line is
        draw_lines(axes, [first, second], limits=None if metric == SHARE else decades)
        if len(second.series.x):
            at = len(second.series.x) - 2
            side: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 10, "fontweight": "bold"}
            place = (second.series.x[at], second.series.mean[at])
            axes.annotate(label, place, xytext=(-8, -6), color=second.changes["color"], **side)
    return figure


def low_rank_figure(summary: Summary) -> Figure:
    """C_apx against the rank."""
    from experiments.charts import learner_style, new_figure

    title = "Low rank loses what longer chunks gain"
    figure, axes = new_figure(title, "rank, as a share of the number of points", FACTOR)
    lines = []
    for task in TASKS:
        place: dict[str, Any] = {"part": LOW_RANK, "task": task}
        series = summary.series("rank", "C_apx", learner=CHUNK_KR, **place)
        K = max(summary.select("C_apx", learner=CHUNK_KR, **place), key=lambda row: row["K"])["K"]
        lines.append(Line(series, CHUNK_KR, f"{short(task)}, K={K}", **LOOKS[task]))
        value = summary.value("C_apx", learner="log-loss", **place)
        axes.axhline(value, color=learner_style("log-loss").colour, linestyle=LOOKS[task].get("linestyle", "-"))
        axes.annotate(
            f"log-loss, {short(task)}",
            (1.35, value),
            xytext=(0, 9),
            textcoords="offset points",
            ha="right",
            color=learner_style("log-loss").colour,
            fontsize=9,
            fontweight="bold",
            va="center",
        )
    axes.set_xlim(0, 1.36)
    axes.set_xticks(np.linspace(0, 1, 5), labels=["0", "25 %", "50 %", "75 %", "100 %"])
    draw_lines(axes, lines, limits=plain_log_axis)
    return figure


# -- Tables, figures and findings from the summary of the study -------------------------------------------------------


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


STUDY = Study(
    name="stability",
    question="Up to which chunk length K can ChunkKR be trusted, and what breaks first?",
    options=StabilityOptions,
    cells=cells,
    analyse=analyse,
    labels=("rank",),
)
