"""Failure in execution against failure in learning: what a verifier repairs, and what it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import make_agent
from experiments.cells import Cell, Label, Record
from experiments.charts import COLOURS, Figure
from experiments.measure import POPULATION, evaluation_records, mean_record
from experiments.panels import Curve, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import NAN, NOT_MEASURED, Summary, SummaryRow, Table, derived, number, pivot
from ntp_envs import Policy
from ntp_envs.evaluation import SearchResult, backtracking_search, best_of, evaluate
from ntp_envs.intervals import SHARE_INTERVAL
from ntp_envs.tasks import CleverHansPolicy, PathStar, Snowball


@dataclass(frozen=True)
class SnowballOptions(Options):
    horizons: tuple[int, ...] = option((4, 8, 16, 32, 64), least=3)
    """Lengths H of the answer, in both tasks; at least 3."""
    detail_horizon: int = option(32, one_of="horizons")
    """The length, one of ``horizons``, at which positions and budgets are shown."""
    eps: float = option(0.05, above=0.0)
    """Error rate of the copier on Snowball."""
    vocab_size: int = option(10, least=2)
    """Tokens of Snowball."""
    degree: int = option(5, least=2)
    """Arms d of PathStar."""
    degrees: tuple[int, ...] = option((2, 4, 8, 16), least=2)
    """Arms of PathStar where the cost of search is measured against their number."""
    short: int = option(5, least=3)
    """Length of PathStar there, and where the learner is trained."""
    n: int = option(2000, quick=1000)
    """Prompts a measurement."""
    samples: int = option(600)
    """Whole answers that are drawn at most for a prompt."""
    patience: int = option(4, least=2)
    """Budget of backtracking by one token, in tokens drawn a token of the answer."""

    def check(self) -> None:
        if self.eps >= 1.0 - 1.0 / self.vocab_size:
            raise ValueError(f"eps={self.eps} must be below {1.0 - 1.0 / self.vocab_size:g}, that of uniform tokens.")


# -- cells: a copier with slips and a path writer without a plan, with and without a verifier --------------------------

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


def build(
    task: str, H: int, *, eps: float, vocab_size: int, degree: int
) -> tuple[Snowball | PathStar, Policy, dict[str, Label]]:
    """A task at this length of the answer, what teacher forcing makes of it, and labels that name both."""
    made: Snowball | PathStar
    if task == SNOW:
        made = Snowball(horizon=H, eps=eps, vocab_size=vocab_size)
        return made, made.sloppy_copier(), {"task": task, "learner": "sloppy copier", "H": H}
    made = PathStar(degree=degree, length=H, nodes=1 + degree * (H - 1))
    return made, CleverHansPolicy(made), {"task": task, "learner": "Clever Hans", "H": H}


def free_exact_match(task: Snowball | PathStar) -> float:
    """``(1 - eps)**H`` or ``1 / d``."""
    return task.exact_match() if isinstance(task, Snowball) else 1.0 / task.degree


def share_record(found: SearchResult, labels: dict[str, Label], budget: float = np.inf) -> Record:
    """Share answered within a budget of tokens, with its interval."""
    n = len(found.accepted)
    return Record(EXACT, found.share_within(budget), labels, *found.interval(budget), method=f"sampled, n={n}")


def token_record(found: SearchResult, labels: dict[str, Label]) -> Record:
    """Mean tokens drawn over the length of the answer, with a score interval."""
    return mean_record(TOKENS, found.drawn / found.tokens.shape[1], labels, "sampled", bound=np.inf)


def by_length(*, task: str, H: int, n: int, patience: int, rng: np.random.Generator, **shape: Any) -> list[Record]:
    """Exact match with and without a verifier, and what it costs."""
    made, policy, labels = build(task, H, **shape)
    free = evaluate(policy, made, n=n, rng=rng, samples=0)
    lower, upper = free.interval("sampled_exact")
    place, form = ({**labels, "decoding": name} for name in (FREE, FORM))
    records = [
        Record(EXACT, free.sampled_exact, place, lower, upper, f"sampled, n={n}"),
        Record(TOKENS, 1.0, place, method="one pass"),
        Record(EXACT, free_exact_match(made), form, method="closed form"),
    ]
    prompts = made.sample_prompts(n, rng)
    searches: dict[str, tuple[int | None, int]] = {LOCAL: (1, patience * H)}
    if isinstance(made, PathStar):  # on Snowball it has nothing to add: one token back repairs it
        searches[DEPTH_FIRST] = (None, 2 * made.degree * H)
    for decoding, (depth, budget) in searches.items():
        found = backtracking_search(policy, made, prompts, rng=rng, depth=depth, budget=budget)
        place = {**labels, "decoding": decoding}
        records += [share_record(found, place), token_record(found, place)]
    return records


def by_budget(*, task: str, H: int, n: int, patience: int, rng: np.random.Generator, **shape: Any) -> list[Record]:
    """Share answered against the tokens that may be drawn, for each kind of search, as far as it was taken.

    One token back is shown up to its budget, and beyond only where it has answered every prompt by then.
    """
    made, policy, labels = build(task, H, **shape)
    prompts = made.sample_prompts(n, rng)
    found = {
        AGAIN: best_of(policy, made, prompts, int(BUDGETS[-1]), rng=rng),
        LOCAL: backtracking_search(policy, made, prompts, rng=rng, budget=patience * H),
    }
    if isinstance(made, PathStar):
        found[DEPTH_FIRST] = backtracking_search(policy, made, prompts, rng=rng, depth=None, budget=2 * made.degree * H)
    records, p = [], free_exact_match(made)
    for budget in BUDGETS:
        place: dict[str, Label] = {**labels, "budget": budget}
        for decoding, result in found.items():
            if decoding == LOCAL and budget > patience and not result.accepted.all():
                continue
            if decoding != AGAIN or budget == int(budget):
                records.append(share_record(result, {**place, "decoding": decoding}, budget * H))
        if budget == int(budget):
            value = -np.expm1(budget * np.log1p(-p))
            records.append(Record(EXACT, float(value), {**place, "decoding": FORM}, method="closed form"))
    return records


def by_position(*, task: str, H: int, n: int, rng: np.random.Generator, **shape: Any) -> list[Record]:
    """Everything that an evaluation reports, position by position."""
    made, policy, labels = build(task, H, **shape)
    return evaluation_records(evaluate(policy, made, n=n, rng=rng, samples=0), labels)


def costs(*, task: str, H: int, n: int, samples: int, rng: np.random.Generator, **shape: Any) -> list[Record]:
    """Tokens until the answer is right, by whole answers drawn again and by backtracking."""
    made, policy, labels = build(task, H, **shape)
    prompts, degree = made.sample_prompts(n, rng), shape["degree"]
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
        place, exact = ({**labels, "decoding": name} for name in (decoding, f"{decoding}, {FORM}"))
        if result.accepted.all():  # a mean over censored rows would be too small
            records.append(token_record(result, place))
        records += [share_record(result, place), Record(TOKENS, forms[decoding], exact, method="closed form")]
    return records


def learned(*, task: str, H: int, n: int, rng: np.random.Generator, **shape: Any) -> list[Record]:
    """What maximum likelihood learns from the population in the class of each task: the learners above."""
    made, _, place = build(task, H, **shape)
    agent = make_agent("LogLossBC").fit(made.population(), made.policy_class, rng=rng)
    evaluation = evaluate(agent.policy_, made, n=n, rng=rng, samples=0)
    labels: dict[str, Label] = {**place, "learner": "log-loss", "n": POPULATION}
    form = Record(EXACT, free_exact_match(made), {**labels, "decoding": FORM}, method="closed form")
    return [*evaluation_records(evaluation, labels), form]


def cells(options: SnowballOptions) -> Iterator[Cell]:
    """The slow cells first: those of PathStar, long answers before short ones."""
    shape = options.given("eps", "vocab_size", "degree", "n")
    for task in (PATH, SNOW):
        for H in sorted(options.horizons, reverse=True):
            yield Cell(LENGTH, by_length, {"task": task, "H": H, **shape, "patience": options.patience})
        detail = {"task": task, "H": options.detail_horizon, **shape}
        yield Cell(CURVE, by_budget, {**detail, "patience": options.patience})
        yield Cell(POSITIONS, by_position, detail)
        yield Cell(LEARNED, learned, {"task": task, "H": options.short, **shape})
    places: list[dict[str, Any]] = [{"task": PATH, "H": options.short, "degree": d} for d in options.degrees]
    for place in (*places, *({"task": SNOW, "H": H} for H in options.horizons)):
        yield Cell(COST, costs, {**shape, **place, "samples": options.samples})


# -- tables ------------------------------------------------------------------------------------------------------------

GAP = "largest gap to the closed form, in half widths of the interval"
#: task, what the cost of search is measured against, and the search with a verdict on every token
SEARCHES = ((SNOW, "H", LOCAL), (PATH, "degree", DEPTH_FIRST))


def tables(o: SnowballOptions, summary: Summary) -> list[Table]:
    horizons = [(f"H={H}", {"part": LENGTH, "H": H}) for H in sorted(summary.distinct("H", part=LENGTH))]
    places = [(task, decoding) for task in (SNOW, PATH) for decoding in (FREE, FORM, LOCAL, DEPTH_FIRST)]
    rows = [(f"{task}, {decoding}", {"task": task, "decoding": decoding}) for task, decoding in places]
    searched = [row for row in rows if row[1]["decoding"] in (LOCAL, DEPTH_FIRST)]
    until_right = []
    for task, x, search in SEARCHES:
        for value in sorted(summary.select(part=COST, task=task).distinct(x)):
            line, place = [f"{task}, {'d' if x == 'degree' else 'H'}={value}"], {"part": COST, "task": task, x: value}
            for decoding in (AGAIN, search):
                line.append(summary.shown(TOKENS, decoding=decoding, **place))
                line.append(summary.shown(TOKENS, 4, decoding=f"{decoding}, {FORM}", **place))
            until_right.append(line)
    measures = ("forced_token_accuracy", "mean_cross_entropy", "sampled_exact", "sequence_probability")
    heads = ("forced accuracy", "nats a token", "exact, sampled", "exact, expected")
    learning = [(head, {"part": LEARNED, "metric": metric}) for head, metric in zip(heads, measures, strict=True)]
    learning.append(("closed form", {"part": LEARNED, "decoding": FORM}))
    notes = {
        EXACT: f"Share of whole answers that are right, with 95 % {SHARE_INTERVAL} intervals. Closed forms: "
        "(1 - eps)^H and 1/d.",
        TOKENS: "Mean tokens drawn over H, right or not, with 95 % intervals; one pass is 1. On PathStar going back "
        "one token uses up its budget on every answer that began with a wrong arm.",
        COST: "Mean tokens drawn over H until the answer is right, with 95 % intervals, empty where some were not "
        "found. Backtracking goes back one token on Snowball and searches depth-first on PathStar.",
        LEARNED: "Maximum likelihood from the population in each task's class, evaluated on fresh prompts.",
    }
    corner, whole = "task, decoding", ["where", "whole answers again", "closed form", "backtracking", "closed form"]
    by_task = [(task, {"task": task}) for task in (SNOW, PATH)]
    return [
        pivot(summary, "Exact match against length", EXACT, rows, horizons, corner=corner, note=notes[EXACT]),
        pivot(summary, "Cost of verification", TOKENS, searched, horizons, corner=corner, note=notes[TOKENS]),
        Table("Tokens until right", whole, until_right, notes[COST]),
        pivot(summary, "What teacher forcing learns", EXACT, by_task, learning, corner="task", note=notes[LEARNED]),
    ]


def gap_rows(o: SnowballOptions, summary: Summary) -> Iterator[SummaryRow]:
    """How far the sampled exact match without a verifier is from its closed form, at worst over the lengths."""
    for task in (SNOW, PATH):
        found, form = (summary.series("H", EXACT, part=LENGTH, task=task, decoding=name) for name in (FREE, FORM))
        if len(found.x) and list(found.x) == list(form.x):
            gap = np.abs(found.mean - form.mean) / ((found.upper - found.lower) / 2)
            yield derived(LENGTH, GAP, float(gap.max()), "over the lengths", task=task, decoding=FREE)


# -- figures -----------------------------------------------------------------------------------------------------------

HEADINGS = {SNOW: "Snowball: slips while writing", PATH: "PathStar: no plan was learned"}
LOOKS: dict[str, dict[str, Any]] = {
    FREE: {"color": COLOURS["vermilion"], "marker": "o", "linestyle": "", "markersize": 8},
    LOCAL: {"color": COLOURS["green"], "marker": "s", "linestyle": "-"},
    DEPTH_FIRST: {"color": COLOURS["blue"], "marker": "D", "linestyle": "-"},
    AGAIN: {"color": COLOURS["orange"], "marker": "^", "linestyle": "", "markersize": 7},
    FORM: {"color": COLOURS["grey"], "marker": "", "linestyle": ":", "linewidth": 1.5},
}
NAMES = {FREE: "no verifier", LOCAL: "one token back", DEPTH_FIRST: "depth-first", AGAIN: "whole answers again"}


def panel(part: str, task: str, x: str, xlabel: str, forms: dict[str, str], decodings: list[str], **more: Any) -> Panel:
    """Closed forms, dotted, with what they are, and ways of decoding."""
    curves = [
        Curve({"part": part, "task": task, "decoding": name}, label, look=LOOKS[FORM if name in forms else name])
        for name, label in {**forms, **{name: NAMES[name] for name in decodings}}.items()
    ]
    metric = TOKENS if part == COST else EXACT
    return Panel(x, xlabel, metric, curves, title=HEADINGS[task], **{"yscale": "share", **more})


def likelihood(summary: Summary, task: str) -> NDArray[np.float64]:
    """exp(-cross-entropy) of the right token after the true prefix, by position."""
    return np.exp(-summary.series("h", "cross_entropy", part=POSITIONS, task=task).mean)


def position_figure(summary: Summary) -> Figure:
    """Probability of the right token by position, forced and free; a panel for each task."""
    rows = summary.select(part=POSITIONS)
    expected = [replace(row, mean=math.exp(-row.mean), lower=NAN, upper=NAN) for row in rows.select("cross_entropy")]
    ticks = [h for h in rows.distinct("h") if h == 1 or h % 8 == 0]
    axis: dict[str, Any] = {"xscale": "linear", "yscale": "share", "ticks": ticks}
    forced, free = {"color": COLOURS["blue"], "marker": "s", "linestyle": "-"}, {**LOOKS[FREE], "markersize": 4}
    panels, means = [], []
    for task in (SNOW, PATH):
        curves = [
            Curve({"task": task}, "after the true prefix", "cross_entropy", look=forced),
            Curve({"task": task}, "after its own tokens", "sampled_accuracy", look=free),
        ]
        whole = number(rows.value("sampled_exact", task=task), 2)
        panels.append(Panel("h", "position h", "", curves, **axis, title=f"{task}: whole answers right {whole}"))
        means.append(f"{likelihood(summary, task).mean():.3f} on {task}" if len(likelihood(summary, task)) else "")
    said = f"The right token after the true prefix has probability {', '.join(means)}"
    title = said if all(means) else "Does teacher forcing tell the two failures apart?"
    drawn = Summary([*expected, *rows.select("sampled_accuracy")])
    return chart(drawn, title, "probability of the right token", *panels)


def figures(o: SnowballOptions, summary: Summary) -> list[FigureSpec]:
    rule, H = f"eps={o.eps:g} on Snowball, d={o.degree} arms on PathStar", max(o.horizons)
    lengths, words = [], []
    for task, form in ((SNOW, "(1 - eps)$^H$"), (PATH, "1 / d")):
        lengths.append(panel(LENGTH, task, "H", "length of the answer H", {FORM: form}, [FREE, LOCAL]))
        free, local = (summary.value(EXACT, part=LENGTH, task=task, decoding=name, H=H) for name in (FREE, LOCAL))
        words.append(f"{task} from {free:.0%} right to {local:.0%}")
    title = f"At H={H} going back one token takes {', '.join(words)}"
    title = "Which failures does going back one token repair?" if NOT_MEASURED in title else title
    searches, xlabel = [AGAIN, DEPTH_FIRST, LOCAL], "tokens drawn, in lengths of the answer"
    whole, ticks = {FORM: "1 - (1 - p)$^k$"}, [1, 2, 4, 8, 16, 32]
    budgets = [panel(CURVE, task, "budget", xlabel, whole, searches, ticks=ticks) for task in (SNOW, PATH)]
    searching, drawn = [], "tokens drawn until right,\nin lengths of the answer"
    for (task, x, search), xlabel in zip(SEARCHES, ("length of the answer H", "arms d: plans to choose from")):
        forms = {f"{decoding}, {FORM}": "" for decoding in (AGAIN, search)}
        searching.append(panel(COST, task, x, xlabel, forms, [AGAIN, search], yscale="log"))
    return [
        FigureSpec(
            "headline",
            "Which failures does a verifier with backtracking repair?",
            f"Exact match with 95 % intervals, {rule}; dotted: closed forms. The verifier sees rules, not plans: that "
            "a token copies the prompt, that a step follows an edge, and at the end whether the answer is right.",
            lambda: chart(summary, title, EXACT, *lengths),
        ),
        FigureSpec(
            "budget",
            "What does the right answer cost?",
            f"Share answered within a budget of tokens, 95 % intervals, H={o.detail_horizon}, {rule}. Whole "
            "answers again: a verdict at the end only; the curve of k of them (dotted) needs nothing but the exact "
            "match p.",
            lambda: chart(summary, "What does the right answer cost?", "share answered right", *budgets),
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
            f"Mean tokens drawn until the answer is right, 95 % intervals, eps={o.eps:g}, PathStar of length "
            f"{o.short}; dotted: closed forms.",
            lambda: chart(summary, "How does the cost of search grow?", drawn, *searching),
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------


def failure_findings(summary: Summary) -> Iterator[str]:
    """The headline in words, at the largest length, and what teacher forcing shows of both failures."""
    H = max(summary.distinct("H", part=LENGTH), default=0)

    def of(metric: str, task: str, decoding: str) -> str:
        return summary.shown(metric, part=LENGTH, task=task, decoding=decoding, H=H)

    if all(of(EXACT, task, LOCAL) for task in (SNOW, PATH)):
        yield (
            f"Answers of {H} tokens, failure in execution (Snowball): {of(EXACT, SNOW, FREE)} are right "
            f"((1 - eps)^H = {of(EXACT, SNOW, FORM)}); with a verifier and one token taken back at each slip "
            f"{of(EXACT, SNOW, LOCAL)}, at {of(TOKENS, SNOW, LOCAL)} tokens a token of the answer."
        )
        yield (
            f"Failure in learning (PathStar): {of(EXACT, PATH, FREE)} are right (1/d = {of(EXACT, PATH, FORM)}), and "
            f"with the same verifier {of(EXACT, PATH, LOCAL)}: every edge that it follows is there, the wrong choice "
            "is the first, and it shows at the end only."
        )
    words = []
    for task in (SNOW, PATH):
        place: dict[str, Any] = {"part": POSITIONS, "task": task}
        right, nats = likelihood(summary, task), summary.series("h", "cross_entropy", **place).mean
        if len(right):
            words.append(
                f"{task} {right.mean():.3f} (least {right.min():.3f}, {nats.mean():.4f} nats a token), whole answers "
                f"{summary.shown('sampled_exact', **place)}"
            )
    if words:
        H = max(summary.distinct("H", part=POSITIONS))
        said = f"Probability of the right token after the true prefix, mean over {H} positions: {'; '.join(words)}."
        yield f"{said} The average hides which of the two failures it is."


def search_findings(o: SnowballOptions, summary: Summary) -> Iterator[str]:
    """Two learners that are right equally often, told apart by what search needs; and that it does find the plan."""
    at: dict[str, Any] = {"part": CURVE}
    words = [
        f"{row['task']} {row.mean:.3f} with one answer and "
        f"{summary.shown(EXACT, task=row['task'], decoding=LOCAL, budget=1.5, **at)} with 1.5 lengths of backtracking "
        "by one token"
        for task in (SNOW, PATH)
        for row in summary.select(EXACT, task=task, decoding=FORM, budget=1.0, **at)
    ]
    if len(words) == 2:
        yield f"At H={o.detail_horizon}: {'; '.join(words)}."

    def of(task: str, decoding: str, digits: int = 3, **labels: Any) -> str:
        return summary.shown(TOKENS, digits, part=COST, task=task, decoding=decoding, **labels)

    if horizons := summary.select(TOKENS, part=COST, task=SNOW, decoding=AGAIN).distinct("H"):
        H = max(horizons)
        yield (
            f"A verdict on whole answers only is dear where slips add up: on Snowball at H={H} a right answer takes "
            f"{of(SNOW, AGAIN, H=H)} lengths of the answer ((1 - eps)^-H = {of(SNOW, f'{AGAIN}, {FORM}', 4, H=H)}); a "
            f"verdict on every token takes {of(SNOW, LOCAL, H=H)}."
        )
    if degrees := summary.select(TOKENS, part=COST, task=PATH, decoding=DEPTH_FIRST).distinct("degree"):
        low, high = min(degrees), max(degrees)
        yield (
            f"Exhaustive search does find the path: depth-first takes {of(PATH, DEPTH_FIRST, degree=low)} lengths of "
            f"the answer with {low} arms and {of(PATH, DEPTH_FIRST, degree=high)} with {high}, whole answers again "
            f"{of(PATH, AGAIN, degree=low)} and {of(PATH, AGAIN, degree=high)}. It pays for the number of plans, in "
            "which the model is no guide; with one choice there are d, with several their product."
        )


def findings(o: SnowballOptions, summary: Summary) -> Iterator[str]:
    """The two failures, the search, and that teacher forcing itself arrives at these two laws."""
    yield from failure_findings(summary)
    yield from search_findings(o, summary)
    words = [
        f"{row['task']} {number(row.mean, 5)} "
        f"(closed form {summary.shown(EXACT, 5, part=LEARNED, task=row['task'], decoding=FORM)})"
        for task in (SNOW, PATH)
        for row in summary.select("sequence_probability", part=LEARNED, task=task)
    ]
    if words:
        yield f"Log-loss on the population learns just these: exact match {', '.join(words)}."


STUDY = Study(
    name="snowball",
    question="Which failures of a next-token predictor does a verifier with backtracking repair?",
    options=SnowballOptions,
    cells=cells,
    analyse=analysis(
        rows=gap_rows,
        tables=tables,
        figures=figures,
        findings=findings,
        setting=lambda o: f"eps = {o.eps:g} (Snowball); d = {o.degree} (PathStar)",
    ),
    labels=("decoding", "degree", "budget"),
)
