"""Tables, slopes and findings from the summary of the study; its figures are in ``catalogue``."""

from __future__ import annotations

from typing import Any

from experiments.learners import BEST, CHUNKED, IMPROPER, LEARNERS
from experiments.measure import SLOPE_IN_H, SLOPE_IN_K
from experiments.statistics import interval_words
from experiments.studies.amplification.catalogue import figures
from experiments.studies.amplification.options import AmplificationOptions
from experiments.studies.amplification.sweep import RARE_RATIOS
from experiments.study import Analysis
from experiments.summary import Summary, SummaryRow, slope_rows
from experiments.tables import Table, number, with_interval

__all__ = ["analyse"]

IN_H, IN_K = SLOPE_IN_H, SLOPE_IN_K


def learner_rows(options: AmplificationOptions) -> list[tuple[str, int | None]]:
    """``(learner, K)`` in the order of the tables."""
    chunked = [(learner, K) for learner in (CHUNKED, IMPROPER) for K in options.chunks]
    return [*((learner, None) for learner in (*LEARNERS, *options.add)), *chunked, (BEST, None)]


def title_of(learner: str, K: int | None) -> str:
    """A learner as the tables call it."""
    return learner if K is None else f"{learner}, K={K}"


def horizon_slopes(summary: Summary) -> list[SummaryRow]:
    """Slopes in H of every learner, over the horizons above its K where there are at least two."""
    rows = [row for row in summary.select("C_apx") if row.part in ("horizon, population", "horizon, samples")]
    return slope_rows(rows, "H", IN_H, above="K")


def chunk_slopes(summary: Summary) -> list[SummaryRow]:
    """Slope in K of the chunked estimator from K = 16 to H / 2, where it is neither a token's nor a document's."""
    places = (("chunk, population", CHUNKED), ("chunk, population", IMPROPER), ("chunk, samples", CHUNKED))
    rows = [row for part, learner in places for row in summary.select("C_apx", part=part, learner=learner)]
    inside = [row for row in rows if min(16, row["H"] / 8) <= row["K"] <= row["H"] / 2]
    return slope_rows(inside, "K", IN_K)


def horizon_table(options: AmplificationOptions, summary: Summary, slopes: Summary, part: str, title: str) -> Table:
    """C_apx, a line a learner, a column a horizon, and the slope."""
    lines: list[list[Any]] = []
    for learner, K in learner_rows(options):
        cells = []
        for H in options.horizons:
            found = summary.select("C_apx", part=part, learner=learner, H=H, K=K)
            cells.append(
                with_interval(found[0].mean, found[0].lower, found[0].upper, _digits(part)) if len(found) else ""
            )
        if any(cells):
            slope = [
                with_interval(row.mean, row.lower, row.upper)
                for row in slopes.select(IN_H, part=part, learner=learner, K=K)
            ]
            lines.append([title_of(learner, K), *cells, *(slope or [""])])
    note = "Slope: least squares of log C_apx on log H."
    if part.endswith("samples"):
        note = f"{interval_words(options.seeds)}. {note}"
    return Table(title, ["learner", *(f"H={H}" for H in options.horizons), "slope"], lines, note)


def _digits(part: str) -> int:
    return 6 if part.endswith("population") else 3


def chunk_table(options: AmplificationOptions, summary: Summary) -> Table:
    """C_apx against K: population, the improper limit, samples."""
    sources = [
        ("chunk, population", CHUNKED, options.chunk_horizon),
        ("chunk, population", IMPROPER, options.chunk_horizon),
        ("chunk, samples", CHUNKED, options.sampled_chunk_horizon),
    ]
    lines = []
    for K in summary.distinct("K", part="chunk, population"):
        cells = []
        for part, learner, H in sources:
            found = summary.select("C_apx", part=part, learner=learner, H=H, K=K)
            cells.append(with_interval(found[0].mean, found[0].lower, found[0].upper, 4) if len(found) else "")
        lines.append([str(K), *cells])
    heads = [f"chunked rho, H={sources[0][2]}", f"improper limit, H={sources[1][2]}"]
    heads.append(f"chunked rho, H={sources[2][2]}, n={options.n}")
    return Table("C_apx against the chunk length K (Contamination)", ["K", *heads], lines)


def consistency_table(summary: Summary) -> Table:
    """The measured factor next to its closed form."""
    part = "consistency"
    lines = [
        [title_of(row["learner"], row["K"]), row.mean, summary.value("C_apx in closed form", part=part, **row.labels)]
        for row in summary.select("C_apx", part=part)
    ]
    return Table("C_apx on ConsistencyGame, H=256, eta=.1", ["learner", "measured", "closed form"], lines)


def rare_table(summary: Summary) -> Table:
    """The first horizon at which log-loss leaves the better policy, next to the closed form."""
    from ntp_envs.tasks import RareMode

    lines: list[list[Any]] = []
    for ratio, value in RARE_RATIOS.items():
        series = summary.series(
            "H", "C_apx", part="rare mode, switch", learner="log-loss", task=f"RareMode eps=0.01 W={ratio}"
        )
        above = series.mean > 1 + 1e-9
        first = f"{series.x[above][0]:g}" if above.any() else "none"
        jump = number(float(series.mean[above][0]), 6) if above.any() else ""
        switch = RareMode(eps=0.01, density_ratio=value).switch_horizon()
        lines.append([f"W={ratio}", first, number(switch, 5), jump])
    heads = ["density ratio", "first H above the switch", "switch in closed form", "C_apx there"]
    return Table("RareMode, eps=.01: where log-loss takes the worse policy", heads, lines)


def analyse(options: AmplificationOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    slopes = Summary([*horizon_slopes(summary), *chunk_slopes(summary)])
    titles = {
        "horizon, population": "C_apx against the horizon: Contamination A, infinitely many demonstrations",
        "horizon, samples": f"C_apx against the horizon: Contamination eps=.01, n={options.n}",
    }
    tables = [horizon_table(options, summary, slopes, part, title) for part, title in titles.items()]
    tables += [chunk_table(options, summary), rare_table(summary), consistency_table(summary)]
    return Analysis(
        rows=slopes.rows,
        tables=tables,
        figures=figures(options, summary, slopes),
        findings=findings(options, summary, slopes),
    )


def findings(options: AmplificationOptions, summary: Summary, slopes: Summary) -> list[str]:
    """What the numbers say, with the numbers."""
    population = {"part": "horizon, population"}
    H = max(options.horizons)
    of = {name: summary.value("C_apx", learner=name, H=H, **population) for name in ("log-loss", "rho")}
    slope = {name: slopes.value(IN_H, learner=name, **population) for name in of}
    in_k = slopes.value(IN_K, part="chunk, population", learner=CHUNKED)
    found = [
        f"At H={H}, with infinitely many demonstrations, the squared Hellinger distance of the log-loss learner to the "
        f"expert is {of['log-loss']:.1f} times that of the best policy of the class; of the rho-estimator "
        f"{of['rho']:.2f} times.",
        f"Log-log slope in H: log-loss {slope['log-loss']:.3f}, rho {slope['rho']:.3f}.",
        f"Chunks of K tokens lie between: slope in K at H={options.chunk_horizon}: {in_k:.3f}.",
    ]
    return [line for line in found if "nan" not in line]
