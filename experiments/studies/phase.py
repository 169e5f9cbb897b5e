"""Where next-token prediction is safe: the approximation factor over horizon and contamination, and over n.

On Contamination log-loss is safe where contamination is so rare that the class's own flips hide it, or so frequent that
the best in class is as far from the expert as log-loss is; between them is a ridge. Smoothing by 1/H is exact up to a
contamination of about 1/(2H) and then fails as log-loss does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.cells import Cell, Record
from experiments.charts import COLOURS, Figure, log_ticks, new_panels, no_data, say_data, tick_words
from experiments.measure import CHUNKED, POPULATION, fit_population, measured, named, titled
from experiments.panels import Curve, Guide, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Summary, Table, pivot
from ntp_envs import make_task
from ntp_envs.tasks import Contamination
from ntp_envs.tasks.bernoulli import count_distance, count_log_law


@dataclass(frozen=True)
class PhaseOptions(Options):
    """Sizes of the sweep; the defaults are the full study."""

    horizons: tuple[int, ...] = option((16, 32, 64, 128, 256, 512, 1024), quick=(16, 32, 64, 128, 256), least=2)
    """Horizons H of the maps."""
    eps: tuple[float, ...] = option(
        (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 1e-1),
        quick=(1e-5, 1e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 1e-1),
        above=0,
        below=1,
    )
    """Shares of contaminated documents of the maps."""
    chunk: int = option(16)
    """Chunk length K of the chunked rho-estimator, at most each H."""
    n: tuple[int, ...] = option(
        (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000), quick=(10, 30, 100, 300, 1000, 3000, 10_000)
    )
    """Numbers of demonstrations of log-loss."""
    n_horizon: int = option(64)
    """Horizon H where n is varied."""
    n_eps: float = option(1e-3, above=0, below=1)
    """Contamination where n is varied."""

    def check(self) -> None:
        if self.chunk > min(self.horizons):
            raise ValueError(f"chunk={self.chunk} must be at most min(horizons)={min(self.horizons)}.")
        if max(self.n) * self.n_horizon > 1 << 24:
            raise ValueError(f"n={max(self.n)} times n_horizon={self.n_horizon} must be at most {1 << 24}; lower one.")


# -- cells: a learner at a place of the map, and log-loss on n demonstrations ------------------------------------------

MAP, SAMPLES = "map", "samples"
SMOOTHED = "smoothed 1/H"
MEAN, MEDIAN, UNSEEN = "mean C_apx", "median C_apx", "chance to see no contaminated document"


def place(*, H: int, eps: float, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """One learner with infinitely many demonstrations, exactly."""
    task = make_task("Contamination", horizon=H, eps=eps)
    labels = {**named(task.name, learner, H, POPULATION, K), "eps": eps}
    return measured(task, fit_population(learner, task, rng, K), labels, rng)


def flip_law(task: Contamination, n: int) -> NDArray[np.float64]:
    """``(n H + 1,)`` law of the number of flips in n documents, as the n-th power of a generating function.

    Rounding is about 1e-16 n in each entry; what is below that is 0.
    """
    size = n * task.horizon + 1
    one = np.exp(count_log_law(task.expert, task.horizon))
    law = np.fft.irfft(np.fft.rfft(one, size) ** n, size)
    return np.where(law > 1e-14 * n, law, 0.0)


def log_loss_of_samples(*, H: int, eps: float, n: int, rng: np.random.Generator) -> list[Record]:
    """Mean and median of log-loss's factor over all data sets of n documents: its theta is the share of flips."""
    task = Contamination(horizon=H, eps=eps)
    law, best = flip_law(task, n), task.best_in_class().hellinger2
    flips = np.flatnonzero(law)
    thetas = [task.policy_class.clip(k / (n * H)) for k in flips.tolist()]
    factors = np.array([count_distance(task.expert, theta, H) for theta in thetas]) / best
    masses, order = law[flips] / law.sum(), np.argsort(factors, kind="stable")
    middle = order[np.searchsorted(np.cumsum(masses[order]), 0.5)]
    labels = {**named(task.name, "log-loss", H, n), "eps": eps}
    numbers = {MEAN: masses @ factors, MEDIAN: factors[middle], UNSEEN: (1 - eps) ** n}
    return [
        Record(metric, value, labels, method="exact, over the number of flips") for metric, value in numbers.items()
    ]


def learners(o: PhaseOptions) -> list[tuple[str, int | None]]:
    return [("log-loss", None), (SMOOTHED, None), (CHUNKED, o.chunk), ("rho", None)]


def cells(o: PhaseOptions) -> Iterator[Cell]:
    for learner, K in learners(o):
        for H in o.horizons:
            for eps in o.eps:
                cell = {"H": H, "eps": eps, "learner": learner}
                yield Cell(MAP, place, cell if K is None else {**cell, "K": K})
    for n in o.n:
        yield Cell(SAMPLES, log_loss_of_samples, {"H": o.n_horizon, "eps": o.n_eps, "n": n})


# -- tables, figures and findings --------------------------------------------------------------------------------------


def smoothing_holds(H: int, eps: float) -> bool:
    """Whether log-loss smoothed by lam = 1/H takes the least theta, which is the best in class, at these parameters.

    It takes the theta whose smoothed rate ``(1 - lam) theta + lam / 2`` is the mean flip rate, about eps.
    """
    task, lam = Contamination(horizon=H, eps=eps), 1 / H
    return (1 - eps) * task.p + eps * task.q <= (1 - lam) * task.theta_min + lam / 2


def factors(o: PhaseOptions, s: Summary, learner: str) -> NDArray[np.float64]:
    """``(H, eps)`` factors, increasing in both; ``nan`` where there is none."""
    return np.array(
        [[s.value("C_apx", part=MAP, learner=learner, H=H, eps=e) for e in sorted(o.eps)] for H in sorted(o.horizons)]
    )


def ridge(o: PhaseOptions, s: Summary) -> list[tuple[int, float, float]]:
    """For each horizon: the contamination at which log-loss's factor is largest, and that factor."""
    found, eps = factors(o, s, "log-loss"), sorted(o.eps)
    rows = zip(sorted(o.horizons), found, strict=True)
    return [(H, eps[int(row.argmax())], float(row.max())) for H, row in rows if np.isfinite(row).all()]


def tables(o: PhaseOptions, s: Summary) -> list[Table]:
    rows = [
        (f"{titled(learner, K)}, H={H}", {"part": MAP, "learner": learner, "H": H})
        for learner, K in learners(o)
        for H in o.horizons
    ]
    columns = [(f"eps={e:g}", {"eps": e}) for e in sorted(o.eps)]
    title = "C_apx over H and eps: Contamination, infinitely many demonstrations"
    over_n = [(str(n), {"part": SAMPLES, "n": n}) for n in o.n]
    numbers = [(name, {"metric": name}) for name in (MEAN, MEDIAN, UNSEEN)]
    title_n = f"C_apx of log-loss on n demonstrations, H={o.n_horizon}, eps={o.n_eps:g}: exact"
    return [pivot(s, title, "C_apx", rows, columns), pivot(s, title_n, MEAN, over_n, numbers, digits=4, corner="n")]


#: contours of the factor
LEVELS = (1.0, 1.5, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


def map_figure(o: PhaseOptions, s: Summary) -> Figure:
    """A map a learner: the factor in bands, the ridge of log-loss, and where smoothing stops to hold."""
    from matplotlib.colors import BoundaryNorm

    top = ridge(o, s)
    worst = max(top, key=lambda row: row[2], default=None)
    said = "Where is next-token prediction safe?"
    rho = factors(o, s, "rho")
    if worst and np.isfinite(rho).all():
        H, share, factor = worst
        said = f"Log-loss is up to {factor:.3g} times the best (H={H}, eps={share:g}), rho at most {rho.max():.2g}"
    eps = r"$\varepsilon$"
    names = [(learner, titled(learner, K)) for learner, K in learners(o)]
    xlabels = [f"contaminated share {eps}"] * len(names)
    size, titles = (13.0, 4.2), [name for _, name in names]
    figure, panels = new_panels(said, xlabels, "horizon H", size=size, titles=titles)
    levels, drawn = np.log(LEVELS), None
    norm = BoundaryNorm(levels, 256)
    for axes, (learner, _) in zip(panels, names, strict=True):
        values = factors(o, s, learner)
        if not np.isfinite(values).all() or min(values.shape) < 2:
            no_data(axes)
            continue
        axes.set_xscale("log")
        axes.set_yscale("log", base=2)
        grid = sorted(o.eps), sorted(o.horizons), np.clip(np.log(values), levels[0], levels[-1])
        drawn = axes.contourf(*grid, levels=levels, norm=norm, cmap="YlOrRd")
        axes.contour(*grid, levels=levels[1:], colors="black", linewidths=0.6)
        axes.grid(visible=False)
        axes.set_yticks(sorted(o.horizons), labels=[str(H) for H in sorted(o.horizons)])
        axes.set_yticks([], minor=True)
        ticks = log_ticks(min(o.eps), max(o.eps))[-4:]
        axes.set_xticks(ticks, labels=[tick_words(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        if learner == "log-loss":
            axes.plot([e for _, e, _ in top], [H for H, _, _ in top], "o", color=COLOURS["blue"], markersize=6)
            axes.set_xlabel(f"contaminated share {eps}\n(dots: the worst {eps} at each H)")
        if learner == SMOOTHED:
            heights = np.geomspace(min(o.horizons), max(o.horizons), 50)
            axes.plot(1 / (2 * heights), heights, "--", color=COLOURS["blue"], linewidth=2)
            axes.set_xlabel(f"contaminated share {eps}\n(dashed: {eps} = 1/(2H))")
        axes.set_xlim(min(o.eps), max(o.eps))
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=panels, ticks=levels, label="approximation factor")
        bar.ax.set_yticklabels([f"{level:g}" for level in LEVELS])
    say_data(figure, s.select("C_apx", part=MAP))
    return figure


def sample_figure(o: PhaseOptions, s: Summary) -> Figure:
    """Mean and median of log-loss's factor against n."""
    look = {MEAN: ("mean", {"linestyle": "-"}), MEDIAN: ("median", {"linestyle": "--", "marker": "s"})}
    curves = [
        Curve({"learner": "log-loss", "part": SAMPLES}, name, metric, look=drawn)
        for metric, (name, drawn) in look.items()
    ]
    guide = Guide(place=1 / o.n_eps, note="n = 1/eps")
    heading = "When has log-loss seen the misspecification?"
    rows = [(n, *(s.value(metric, n=n) for metric in (MEAN, MEDIAN))) for n in sorted(o.n)]
    fooled = [row for row in rows if row[1] > 2 * row[2]]
    if fooled:
        n, mean, middle = max(fooled, key=lambda row: row[1] / row[2])
        heading = f"n={n:,}: log-loss's factor is {middle:.2g} in the median, {mean:.2g} in the mean"
    xlabel = f"demonstrations n (Contamination, H={o.n_horizon}, eps={o.n_eps:g}, exact)"
    panel = Panel("n", xlabel, MEAN, curves, [guide], xscale="log", ticks=[n for n in o.n if str(n)[0] == "1"])
    return chart(s, heading, "approximation factor of log-loss", panel)


def findings(o: PhaseOptions, s: Summary) -> Iterator[str]:
    for H, eps, factor in ridge(o, s):
        yield f"H={H}: of the contaminations looked at, log-loss's factor is largest at eps={eps:g}, {factor:.4g}."
    smoothed = factors(o, s, SMOOTHED)
    if np.isfinite(smoothed).all():
        holds = np.array([[smoothing_holds(H, e) for e in sorted(o.eps)] for H in sorted(o.horizons)])
        wrong = int(((smoothed < 1 + 1e-6) != holds).sum())
        yield (
            f"Smoothing by 1/H has factor 1 at {holds.sum()} of {holds.size} places, those where the mean flip rate is "
            f"at most about 1/(2H), and more elsewhere: {'without exception' if not wrong else f'{wrong} exceptions'}."
        )
    for n in o.n:
        mean, middle, unseen = (s.value(metric, n=n) for metric in (MEAN, MEDIAN, UNSEEN))
        if not math.isnan(mean):
            yield (
                f"n={n:,} (n eps = {n * o.n_eps:g}): the factor of log-loss is {middle:.3g} in the median, {mean:.3g} "
                f"in the mean; no contaminated document is seen with probability {unseen:.2g}."
            )


def figures(o: PhaseOptions, s: Summary) -> list[FigureSpec]:
    return [
        FigureSpec(
            "headline",
            "Where is next-token prediction safe?",
            "Contamination (p = theta_min = 1e-5, q = 1 - 1e-5), infinitely many demonstrations, exact: approximation "
            "factor over the horizon and the share of contaminated documents, interpolated between the sizes measured.",
            lambda: map_figure(o, s),
        ),
        FigureSpec(
            "samples",
            "How many demonstrations until log-loss has seen the misspecification?",
            "Exact mean and median, over data sets of n documents, of the approximation factor of log-loss.",
            lambda: sample_figure(o, s),
        ),
    ]


STUDY = Study(
    name="phase",
    question="Where is next-token prediction safe: at which horizons, contaminations and numbers of demonstrations?",
    options=PhaseOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings),
    labels=("eps",),
)
