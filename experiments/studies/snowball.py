"""Failure in execution against failure in learning: what a verifier repairs, and what it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents import make_agent
from experiments.cells import Cell, Label, Record
from experiments.measure import POPULATION, check_distinct, evaluation_records
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Series, Summary, SummaryRow, Table, derived, number, with_interval
from ntp_envs import Policy
from ntp_envs.checks import check_int, check_probability
from ntp_envs.distances import score_interval
from ntp_envs.evaluation import SearchResult, backtracking_search, best_of, evaluate
from ntp_envs.tasks import CleverHansPolicy, PathStar, Snowball

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SnowballOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizons: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Lengths H of the answer, in both tasks; at least 3."""
    detail_horizon: int = 32
    """The length, one of ``horizons``, at which positions and budgets are shown."""
    eps: float = 0.05
    """Error rate of the copier on Snowball."""
    vocab_size: int = 10
    """Tokens of Snowball."""
    degree: int = 5
    """Arms d of PathStar."""
    degrees: tuple[int, ...] = (2, 4, 8, 16)
    """Arms of PathStar where the cost of search is measured against their number."""
    short: int = 5
    """Length of PathStar there, and where the learner is trained."""
    n: int = 2000
    """Prompts a measurement."""
    samples: int = 600
    """Whole answers that are drawn at most for a prompt."""
    patience: int = 4
    """Budget of backtracking by one token, in tokens drawn a token of the answer."""

    def __post_init__(self) -> None:
        check_distinct("horizons", self.horizons, minimum=3)
        check_distinct("degrees", self.degrees, minimum=2)
        check_int("degree", self.degree, minimum=2)
        check_int("short", self.short, minimum=3)
        check_int("vocab_size", self.vocab_size, minimum=2)
        for name in ("n", "samples"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("patience", self.patience, minimum=2)
        if self.detail_horizon not in self.horizons:
            raise ValueError(f"detail_horizon={self.detail_horizon} must be one of horizons={self.horizons}.")
        if check_probability("eps", self.eps) >= 1.0 - 1.0 / self.vocab_size:
            raise ValueError(f"eps={self.eps} must be below {1.0 - 1.0 / self.vocab_size:g}, that of uniform tokens.")

    @classmethod
    def quick(cls) -> SnowballOptions:
        """About a minute on two cores."""
        return cls(n=1000)


# -- The cells of the study: a copier with slips and a path writer without a plan, with and without a verifier --------


LENGTH, CURVE, POSITIONS, COST, LEARNED = "length", "budget", "positions", "cost", "learned"
SNOW, PATH = "Snowball", "PathStar"
#: how an answer is decoded
FREE = "no verifier"
LOCAL = "verifier, one token back"
DEPTH_FIRST = "verifier, depth-first"
AGAIN = "verifier, whole answers again"
FORM = "closed form"
EXACT = "exact match"
TOKENS = "tokens drawn a token of the answer"
#: tokens drawn a token of the answer, at which the share answered is read off
BUDGETS = (1.0, 1.03, 1.06, 1.1, 1.15, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)


def build(task: str, H: int, *, eps: float, vocab_size: int, degree: int) -> tuple[Snowball | PathStar, Policy, str]:
    """A task at this length of the answer, what teacher forcing makes of it, and the name of that."""
    if task == SNOW:
        snowball = Snowball(horizon=H, eps=eps, vocab_size=vocab_size)
        return snowball, snowball.sloppy_copier(), "sloppy copier"
    star = PathStar(degree=degree, length=H, nodes=1 + degree * (H - 1))
    return star, CleverHansPolicy(star), "Clever Hans"


def free_exact_match(task: Snowball | PathStar) -> float:
    """``(1 - eps)**H`` or ``1 / d``."""
    return task.exact_match() if isinstance(task, Snowball) else 1.0 / task.degree


def share_record(found: SearchResult, labels: dict[str, Label], budget: float = np.inf) -> Record:
    """Share answered within a budget of tokens, with Wilson's interval."""
    n = len(found.accepted)
    return Record(EXACT, found.share_within(budget), labels, *found.interval(budget), method=f"sampled, n={n}")


def token_record(found: SearchResult, labels: dict[str, Label]) -> Record:
    """Mean tokens drawn over the length of the answer, with a score interval."""
    drawn: NDArray[np.float64] = found.drawn / found.tokens.shape[1]
    lower, upper = score_interval(drawn.mean(), drawn.std() / np.sqrt(len(drawn)), len(drawn), bound=np.inf)
    return Record(TOKENS, float(drawn.mean()), labels, float(lower), float(upper), f"sampled, n={len(drawn)}")


def by_length(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, patience: int, rng: np.random.Generator
) -> list[Record]:
    """Exact match with and without a verifier, and what it costs."""
    made, policy, learner = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    labels: dict[str, Label] = {"task": task, "learner": learner, "H": H}
    free = evaluate(policy, made, n=n, rng=rng, samples=0)
    lower, upper = free.interval("sampled_exact")
    place: dict[str, Label] = {**labels, "decoding": FREE}
    records = [
        Record(EXACT, free.sampled_exact, place, lower, upper, f"sampled, n={n}"),
        Record(TOKENS, 1.0, place, method="one pass"),
        Record(EXACT, free_exact_match(made), {**labels, "decoding": FORM}, method="closed form"),
    ]
    prompts = made.sample_prompts(n, rng)
    for decoding, depth, budget in ((LOCAL, 1, patience * H), (DEPTH_FIRST, None, None)):
        if decoding == DEPTH_FIRST and task == SNOW:
            continue  # nothing to add: one token back repairs it
        budget = 2 * degree * H if budget is None else budget
        found = backtracking_search(policy, made, prompts, rng=rng, depth=depth, budget=budget)
        place = {**labels, "decoding": decoding}
        records += [share_record(found, place), token_record(found, place)]
    return records


def by_budget(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, patience: int, rng: np.random.Generator
) -> list[Record]:
    """Share answered against the tokens that may be drawn, for each kind of search, as far as it was taken.

    One token back is shown up to its budget, and beyond only where it has answered every prompt by then.
    """
    made, policy, learner = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    prompts = made.sample_prompts(n, rng)
    found = {
        AGAIN: best_of(policy, made, prompts, int(BUDGETS[-1]), rng=rng),
        LOCAL: backtracking_search(policy, made, prompts, rng=rng, budget=patience * H),
    }
    if task == PATH:
        found[DEPTH_FIRST] = backtracking_search(policy, made, prompts, rng=rng, depth=None, budget=2 * degree * H)
    records = []
    p = free_exact_match(made)
    for budget in BUDGETS:
        labels: dict[str, Label] = {"task": task, "learner": learner, "H": H, "budget": budget}
        for decoding, result in found.items():
            if decoding == LOCAL and budget > patience and not result.accepted.all():
                continue
            if decoding != AGAIN or budget == int(budget):
                records.append(share_record(result, {**labels, "decoding": decoding}, budget * H))
        if budget == int(budget):
            value = -np.expm1(budget * np.log1p(-p))
            records.append(Record(EXACT, float(value), {**labels, "decoding": FORM}, method="closed form"))
    return records


def by_position(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, rng: np.random.Generator
) -> list[Record]:
    """Everything that an evaluation reports, position by position."""
    made, policy, learner = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    evaluation = evaluate(policy, made, n=n, rng=rng, samples=0)
    return evaluation_records(evaluation, {"task": task, "learner": learner, "H": H})


def costs(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, samples: int, rng: np.random.Generator
) -> list[Record]:
    """Tokens until the answer is right, by whole answers drawn again and by backtracking."""
    made, policy, learner = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    prompts = made.sample_prompts(n, rng)
    labels: dict[str, Label] = {"task": task, "learner": learner, "H": H}
    if isinstance(made, Snowball):
        search, depth = LOCAL, 1
        forms = {AGAIN: made.restart_cost() / H, LOCAL: made.backtracking_cost() / H}
    else:
        search, depth = DEPTH_FIRST, None
        labels["degree"] = degree
        forms = {AGAIN: float(degree), DEPTH_FIRST: (1 + (degree + 1) / 2 * (H - 1)) / H}
    found = {
        AGAIN: best_of(policy, made, prompts, samples, rng=rng),
        search: backtracking_search(policy, made, prompts, rng=rng, depth=depth, budget=max(2 * degree, 20) * H),
    }
    records = []
    for decoding, result in found.items():
        place = {**labels, "decoding": decoding}
        if result.accepted.all():  # a mean over censored rows would be too small
            records.append(token_record(result, place))
        records.append(share_record(result, place))
        exact: dict[str, Label] = {**labels, "decoding": f"{decoding}, {FORM}"}
        records.append(Record(TOKENS, forms[decoding], exact, method="closed form"))
    return records


def learned(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, rng: np.random.Generator
) -> list[Record]:
    """What maximum likelihood learns from the population in the class of each task: the learners above."""
    made, *_ = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    agent = make_agent("LogLossBC").fit(made.population(), made.policy_class, rng=rng)
    evaluation = evaluate(agent.policy_, made, n=n, rng=rng, samples=0)
    labels: dict[str, Label] = {"task": task, "learner": "log-loss", "H": H, "n": POPULATION}
    form = Record(EXACT, free_exact_match(made), {**labels, "decoding": FORM}, method="closed form")
    return [*evaluation_records(evaluation, labels), form]


def cells(options: SnowballOptions) -> Iterator[Cell]:
    """The slow cells first: those of PathStar, long answers before short ones."""
    shape = {"eps": options.eps, "vocab_size": options.vocab_size, "degree": options.degree, "n": options.n}
    for task in (PATH, SNOW):
        for H in sorted(options.horizons, reverse=True):
            yield Cell(LENGTH, by_length, {"task": task, "H": H, **shape, "patience": options.patience})
        detail = {"task": task, "H": options.detail_horizon, **shape}
        yield Cell(CURVE, by_budget, {**detail, "patience": options.patience})
        yield Cell(POSITIONS, by_position, detail)
        yield Cell(LEARNED, learned, {"task": task, "H": options.short, **shape})
    for degree in options.degrees:
        star = {"task": PATH, "H": options.short, **shape, "degree": degree}
        yield Cell(COST, costs, {**star, "samples": options.samples})
    for H in options.horizons:
        yield Cell(COST, costs, {"task": SNOW, "H": H, **shape, "samples": options.samples})


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


HEADINGS = {SNOW: "Snowball: slips while writing", PATH: "PathStar: no plan was learned"}


def looks() -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes by decoding."""
    from experiments.charts import COLOURS

    return {
        FREE: {"color": COLOURS["vermilion"], "marker": "o"},
        LOCAL: {"color": COLOURS["green"], "marker": "s"},
        DEPTH_FIRST: {"color": COLOURS["blue"], "marker": "D"},
        AGAIN: {"color": COLOURS["orange"], "marker": "^"},
        FORM: {"color": COLOURS["grey"], "marker": "", "linestyle": ":", "linewidth": 1.5},
    }


def draw(axes: Axes, series: Series, decoding: str, **changes: Any) -> None:
    """A line with its 95 % intervals as bars."""
    if not len(series.x):
        return
    look = {**looks()[decoding], **changes}
    axes.plot(series.x, series.mean, **look)
    if series.sampled:
        bars = np.abs(np.stack([series.mean - series.lower, series.upper - series.mean]))
        axes.errorbar(series.x, series.mean, bars, fmt="none", ecolor=look["color"], elinewidth=1.2, capsize=2)


def note(axes: Axes, at: tuple[float, float], words: str, decoding: str, **changes: Any) -> None:
    """Words beside a line, in its colour."""
    style = {"fontweight": "bold", "fontsize": 10, "va": "center", "color": looks()[decoding]["color"], **changes}
    axes.text(*at, words, **style)


def share_axis(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.09)


def length_figure(summary: Summary) -> Figure:
    """Exact match against the length of the answer, with and without a verifier; a panel for each task."""
    from experiments.charts import log2_axis, new_panels

    figure, panels = new_panels(
        "A verifier that sees one token repairs slips; it does not repair a plan that was never learned",
        ["length of the answer H"] * 2,
        EXACT,
        size=(11.0, 4.6),
    )
    for axes, task in zip(panels, (SNOW, PATH), strict=True):
        axes.set_title(HEADINGS[task], fontsize=11)

        def of(decoding: str, task: str = task) -> Series:
            return summary.series("H", EXACT, part=LENGTH, task=task, decoding=decoding)

        horizons = list(of(FREE).x)
        if not horizons:
            continue
        log2_axis(axes, horizons)
        axes.set_xlim(horizons[0] / 1.15, horizons[-1] * 1.2)
        share_axis(axes)
        if len(of(FORM).x):
            fine = np.geomspace(horizons[0], horizons[-1], 100)  # both forms are exponential in H, one with rate 0
            last = float(of(FORM).mean[-1])
            axes.plot(fine, last ** (fine / horizons[-1]) if task == SNOW else np.full(100, last), **looks()[FORM])
        draw(axes, of(FREE), FREE, linestyle="", markersize=8)
        draw(axes, of(LOCAL), LOCAL, markersize=5, linestyle="--" if task == PATH else "-")
        middle = float(np.sqrt(horizons[0] * horizons[-1]))
        low = float(of(FREE).mean[-1])
        if task == SNOW:
            price = summary.series("H", TOKENS, part=LENGTH, task=task, decoding=LOCAL).mean
            words = f" ({price[-1]:.2f} tokens drawn a token)" if len(price) else ""
            note(axes, (middle, 1.05), f"verifier, going back one token{words}", LOCAL, ha="center")
            note(axes, (horizons[0], 0.15), "no verifier: (1 - eps)$^H$", FREE)
        else:
            note(axes, (middle, low + 0.13), "verifier, going back one token", LOCAL, ha="center")
            note(axes, (middle, low - 0.13), "no verifier: 1 / d", FREE, ha="center")
    return figure


def budget_figure(summary: Summary) -> Figure:
    """Share answered against the tokens drawn; a panel for each task."""
    from experiments.charts import log2_axis, new_panels

    figure, panels = new_panels(
        "Going back one token repairs slips at once; a missing plan takes a search over plans",
        ["tokens drawn, in lengths of the answer"] * 2,
        "share answered right",
        size=(11.0, 4.8),
    )
    names: dict[str, Any] = {}
    for axes, task in zip(panels, (SNOW, PATH), strict=True):
        horizon = summary.distinct("H", part=CURVE)
        axes.set_title(f"{HEADINGS[task]}, H={horizon[0]}" if horizon else task, fontsize=11)
        log2_axis(axes, [1, 2, 4, 8, 16, 32])
        axes.set_xlim(0.93, BUDGETS[-1] * 1.1)
        share_axis(axes)
        for decoding in (FORM, AGAIN, DEPTH_FIRST, LOCAL):
            series = summary.series("budget", EXACT, part=CURVE, task=task, decoding=decoding)
            draw(axes, series, decoding, **({"linestyle": "", "markersize": 7} if decoding == AGAIN else {}))
            if len(series.x) and decoding == LOCAL and task == PATH:
                words = "the choice is never taken back"
                note(axes, (float(series.x[-1]) * 1.1, float(series.mean[-1])), words, LOCAL, fontsize=9)
            if len(series.x):
                names[decoding] = axes.plot([], [], **looks()[decoding])[0]
    labels = {FORM: "1 - (1 - p)$^k$, k whole answers"}
    order = [name for name in (LOCAL, DEPTH_FIRST, AGAIN, FORM) if name in names]
    figure.legend(
        [names[name] for name in order],
        [labels.get(name, name) for name in order],
        loc="outside lower center",
        ncols=len(order),
        fontsize=9,
    )
    return figure


def position_figure(summary: Summary) -> Figure:
    """Probability of the right token by position, forced and free; a panel for each task."""
    from experiments.charts import COLOURS, new_panels

    figure, panels = new_panels(
        "Under teacher forcing both look fine",
        ["position h"] * 2,
        "probability of the right token",
        size=(11.0, 4.6),
    )
    for axes, task in zip(panels, (SNOW, PATH), strict=True):
        axes.set_title(HEADINGS[task], fontsize=11)
        share_axis(axes)
        forced = summary.series("h", "cross_entropy", part=POSITIONS, task=task)
        free = summary.series("h", "sampled_accuracy", part=POSITIONS, task=task)
        if not len(forced.x):
            continue
        right = np.exp(-forced.mean)
        axes.plot(forced.x, right, color=COLOURS["blue"], marker="s", markersize=5, label="after the true prefix")
        axes.errorbar(
            free.x,
            free.mean,
            np.abs(np.stack([free.mean - free.lower, free.upper - free.mean])),
            color=COLOURS["vermilion"],
            fmt="o",
            markersize=4,
            elinewidth=1.2,
            label="after its own tokens",
        )
        whole = summary.value("sampled_exact", part=POSITIONS, task=task)
        words = f"mean after the true prefix {right.mean():.3f}\nwhole answers right {whole:.2f}"
        axes.text(0.97, 0.55, words, transform=axes.transAxes, ha="right", va="center", fontsize=10)
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(loc="lower left", fontsize=9)
    return figure


def cost_figure(summary: Summary) -> Figure:
    """Mean tokens until the answer is right: against H on Snowball, against the number of plans on PathStar."""
    from experiments.charts import log2_axis, new_panels, plain_log_axis

    figure, panels = new_panels(
        "Slips cost little with a verifier; without a plan one pays for every plan",
        ["length of the answer H", "arms d: plans to choose from"],
        "tokens drawn until right,\nin lengths of the answer",
        size=(11.0, 4.6),
    )
    for axes, task, x, search in ((panels[0], SNOW, "H", LOCAL), (panels[1], PATH, "degree", DEPTH_FIRST)):
        axes.set_title(HEADINGS[task], fontsize=11)
        for decoding in (AGAIN, search):
            form = summary.series(x, TOKENS, part=COST, task=task, decoding=f"{decoding}, {FORM}")
            measured = summary.series(x, TOKENS, part=COST, task=task, decoding=decoding)
            draw(axes, form, FORM)
            draw(axes, measured, decoding, linestyle="")
            if len(form.x):
                log2_axis(axes, list(form.x))
                axes.set_xlim(form.x[0] / 1.2, form.x[-1] * 1.25)
                short = {AGAIN: "whole answers again", LOCAL: "one token back", DEPTH_FIRST: "depth-first"}[decoding]
                above = decoding == AGAIN
                at = (
                    float(form.x[-1]) * (0.8 if above else 1.1),
                    float(form.mean[-1]) * (1.0 if above else 0.85 if task == SNOW else 0.7),
                )
                note(axes, at, short, decoding, ha="right", va="bottom" if above else "top")
    panels[0].axhline(1.0, linewidth=0)
    plain_log_axis(panels[0])
    panels[0].set_ylim(0.6, None)
    return figure


# -- Tables, figures and findings from the summary of the study -------------------------------------------------------


GAP = "largest gap to the closed form, in half widths of the interval"


def shown(summary: Summary, metric: str, **labels: object) -> str:
    """``mean [lower, upper]`` of the one row that matches, empty where its cell failed."""
    rows = summary.select(metric, **labels)  # type: ignore[arg-type]
    return with_interval(rows[0].mean, rows[0].lower, rows[0].upper) if len(rows) else ""


def length_table(summary: Summary) -> Table:
    """Exact match by length and decoding."""
    horizons = sorted(summary.distinct("H", part=LENGTH))
    lines = [
        [
            f"{task}, {decoding}",
            *(shown(summary, EXACT, part=LENGTH, task=task, decoding=decoding, H=H) for H in horizons),
        ]
        for task, decodings in ((SNOW, (FREE, FORM, LOCAL)), (PATH, (FREE, FORM, LOCAL, DEPTH_FIRST)))
        for decoding in decodings
    ]
    note = "Share of whole answers that are right, with 95 % Wilson intervals. Closed forms: (1 - eps)^H and 1/d."
    return Table("Exact match against length", ["task, decoding", *(f"H={H}" for H in horizons)], lines, note)


def token_table(summary: Summary) -> Table:
    """Tokens drawn by length and decoding."""
    horizons = sorted(summary.distinct("H", part=LENGTH))
    lines = [
        [
            f"{task}, {decoding}",
            *(shown(summary, TOKENS, part=LENGTH, task=task, decoding=decoding, H=H) for H in horizons),
        ]
        for task, decoding in ((SNOW, LOCAL), (PATH, LOCAL), (PATH, DEPTH_FIRST))
    ]
    note = (
        "Mean tokens drawn over H, right or not, with 95 % intervals; one pass is 1. On PathStar going back one token "
        "uses up its budget on every answer that began with a wrong arm."
    )
    return Table("Cost of verification", ["task, decoding", *(f"H={H}" for H in horizons)], lines, note)


def cost_table(summary: Summary) -> Table:
    """Tokens until the answer is right, with the closed forms."""
    lines = []
    for task, x, search in ((SNOW, "H", LOCAL), (PATH, "degree", DEPTH_FIRST)):
        for value in sorted(summary.distinct(x, part=COST)):
            if not len(summary.select(part=COST, task=task, **{x: value})):
                continue
            place = {"part": COST, "task": task, x: value}
            cells = []
            for decoding in (AGAIN, search):
                cells.append(shown(summary, TOKENS, **place, decoding=decoding))
                cells.append(number(summary.value(TOKENS, **place, decoding=f"{decoding}, {FORM}")))
            lines.append([f"{task}, {'d' if x == 'degree' else 'H'}={value}", *cells])
    note = (
        "Mean tokens drawn over H until the answer is right, with 95 % intervals, empty where some were not found. "
        "Backtracking goes back one token on Snowball and searches depth-first on PathStar."
    )
    heads = ["where", "whole answers again", "closed form", "backtracking", "closed form"]
    return Table("Tokens until right", heads, lines, note)


def learned_table(summary: Summary) -> Table:
    """What log-loss learns, beside the closed form."""
    measures = ("forced_token_accuracy", "mean_cross_entropy", "sampled_exact", "sequence_probability")
    lines = []
    for task in (SNOW, PATH):
        place = {"part": LEARNED, "task": task}
        form = summary.value(EXACT, **place, decoding=FORM)
        lines.append([task, *(shown(summary, measure, **place) for measure in measures), number(form)])
    heads = ["task", "forced accuracy", "nats a token", "exact, sampled", "exact, expected", "closed form"]
    note = "Maximum likelihood from the population in each task's class, evaluated on fresh prompts."
    return Table("What teacher forcing learns", heads, lines, note)


def gap_rows(summary: Summary) -> list[SummaryRow]:
    """How far the sampled exact match without a verifier is from its closed form, at worst over the lengths."""
    rows = []
    for task in (SNOW, PATH):
        found, form = (
            summary.series("H", EXACT, part=LENGTH, task=task, decoding=decoding) for decoding in (FREE, FORM)
        )
        if len(found.x) and list(found.x) == list(form.x):
            gap = np.abs(found.mean - form.mean) / ((found.upper - found.lower) / 2)
            rows.append(derived(LENGTH, GAP, float(gap.max()), "over the lengths", task=task, decoding=FREE))
    return rows


def length_finding(summary: Summary) -> list[str]:
    """The headline in words, at the largest length."""
    H = max(summary.distinct("H", part=LENGTH), default=0)

    def of(metric: str, task: str, decoding: str) -> str:
        return shown(summary, metric, part=LENGTH, task=task, decoding=decoding, H=H)

    if not all(of(EXACT, task, LOCAL) for task in (SNOW, PATH)):
        return []
    return [
        f"Answers of {H} tokens, failure in execution (Snowball): {of(EXACT, SNOW, FREE)} are right "
        f"((1 - eps)^H = {of(EXACT, SNOW, FORM)}); with a verifier and one token taken back at each slip "
        f"{of(EXACT, SNOW, LOCAL)}, at {of(TOKENS, SNOW, LOCAL)} tokens a token of the answer.",
        f"Failure in learning (PathStar): {of(EXACT, PATH, FREE)} are right (1/d = {of(EXACT, PATH, FORM)}), and with "
        f"the same verifier {of(EXACT, PATH, LOCAL)}: every edge that it follows is there, the wrong choice is the "
        "first, and it shows at the end only.",
    ]


def forced_finding(summary: Summary) -> list[str]:
    """What teacher forcing shows of both."""
    words = []
    for task in (SNOW, PATH):
        nats = summary.series("h", "cross_entropy", part=POSITIONS, task=task).mean
        if len(nats):
            whole = shown(summary, "sampled_exact", part=POSITIONS, task=task)
            words.append(
                f"{task} {np.exp(-nats).mean():.3f} (least {np.exp(-nats).min():.3f}, {nats.mean():.4f} nats a token), "
                f"whole answers {whole}"
            )
    H = max(summary.distinct("H", part=POSITIONS), default=0)
    said = f"Probability of the right token after the true prefix, mean over {H} positions: {'; '.join(words)}."
    return [said + " The average hides which of the two failures it is."] if words else []


def search_finding(summary: Summary) -> list[str]:
    """The cost of search, and that exhaustive search does find the plan."""

    def of(task: str, decoding: str, **labels: object) -> str:
        return shown(summary, TOKENS, part=COST, task=task, decoding=decoding, **labels)

    said = []
    horizons = [row["H"] for row in summary.select(TOKENS, part=COST, task=SNOW, decoding=AGAIN)]
    if horizons:
        H = max(horizons)
        form = summary.value(TOKENS, part=COST, task=SNOW, decoding=f"{AGAIN}, {FORM}", H=H)
        said.append(
            f"A verdict on whole answers only is dear where slips add up: on Snowball at H={H} a right answer takes "
            f"{of(SNOW, AGAIN, H=H)} lengths of the answer ((1 - eps)^-H = {number(form)}); a verdict on every token "
            f"takes {of(SNOW, LOCAL, H=H)}."
        )
    degrees = [row["degree"] for row in summary.select(TOKENS, part=COST, task=PATH, decoding=DEPTH_FIRST)]
    if degrees:
        low, high = min(degrees), max(degrees)
        said.append(
            f"Exhaustive search does find the path: depth-first takes {of(PATH, DEPTH_FIRST, degree=low)} lengths of "
            f"the answer with {low} arms and {of(PATH, DEPTH_FIRST, degree=high)} with {high}, whole answers again "
            f"{of(PATH, AGAIN, degree=low)} and {of(PATH, AGAIN, degree=high)}. It pays for the number of plans, in "
            "which the model is no guide; with one choice there are d, with several their product."
        )
    return said


def curve_finding(summary: Summary) -> list[str]:
    """Two learners that are right equally often, told apart by what search needs."""
    p = {task: summary.select(EXACT, part=CURVE, task=task, decoding=FORM, budget=1.0) for task in (SNOW, PATH)}
    if not all(len(rows) for rows in p.values()):
        return []
    H = p[SNOW][0]["H"]
    words = [
        f"{task} {p[task][0].mean:.3f} with one answer and "
        f"{shown(summary, EXACT, part=CURVE, task=task, decoding=LOCAL, budget=1.5)} with 1.5 lengths of backtracking "
        "by one token"
        for task in (SNOW, PATH)
    ]
    return [f"At H={H}: {'; '.join(words)}."]


def learned_finding(summary: Summary) -> list[str]:
    """That teacher forcing itself arrives at these two laws."""
    words = []
    for task in (SNOW, PATH):
        got = summary.value("sequence_probability", part=LEARNED, task=task)
        form = summary.value(EXACT, part=LEARNED, task=task, decoding=FORM)
        if math.isfinite(got):
            words.append(f"{task} {number(got, 5)} (closed form {number(form, 5)})")
    return [f"Log-loss on the population learns just these: exact match {', '.join(words)}."] if words else []


def analyse(options: SnowballOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    rule = f"eps={options.eps:g} on Snowball, d={options.degree} arms on PathStar"
    figures = [
        FigureSpec(
            "headline",
            "Which failures does a verifier with backtracking repair?",
            f"Exact match with 95 % intervals, {rule}; dotted: closed forms. The verifier sees rules, not plans: that "
            "a token copies the prompt, that a step follows an edge, and at the end whether the answer is right.",
            lambda: length_figure(summary),
        ),
        FigureSpec(
            "budget",
            "What does the right answer cost?",
            f"Share answered within a budget of tokens, 95 % intervals, H={options.detail_horizon}, {rule}. Whole "
            "answers again: a verdict at the end only; its curve needs nothing but the exact match p.",
            lambda: budget_figure(summary),
        ),
        FigureSpec(
            "positions",
            "Does teacher forcing tell the two failures apart?",
            f"Probability of the right token, {rule}: exp(-cross-entropy) after the true prefix, share of right tokens "
            "after the learner's own, with 95 % intervals.",
            lambda: position_figure(summary),
        ),
        FigureSpec(
            "cost",
            "How does the cost of search grow?",
            f"Mean tokens drawn until the answer is right, 95 % intervals, eps={options.eps:g}, PathStar of length "
            f"{options.short}; dotted: closed forms.",
            lambda: cost_figure(summary),
        ),
    ]
    findings = [
        *length_finding(summary),
        *forced_finding(summary),
        *curve_finding(summary),
        *search_finding(summary),
        *learned_finding(summary),
    ]
    tables = [length_table(summary), token_table(summary), cost_table(summary), learned_table(summary)]
    return Analysis(rows=gap_rows(summary), tables=tables, figures=figures, findings=findings)


STUDY = Study(
    name="snowball",
    question="Which failures of a next-token predictor does a verifier with backtracking repair?",
    options=SnowballOptions,
    cells=cells,
    analyse=analyse,
    labels=("decoding", "degree", "budget"),
)
