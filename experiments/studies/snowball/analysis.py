"""Tables, figures and findings from the summary of the study."""

from __future__ import annotations

import math

import numpy as np

from experiments.studies.snowball.drawings import budget_figure, cost_figure, length_figure, position_figure
from experiments.studies.snowball.options import SnowballOptions
from experiments.studies.snowball.sweep import (
    AGAIN,
    COST,
    CURVE,
    DEPTH_FIRST,
    EXACT,
    FORM,
    FREE,
    LEARNED,
    LENGTH,
    LOCAL,
    PATH,
    POSITIONS,
    SNOW,
    TOKENS,
)
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, SummaryRow, derived
from experiments.tables import Table, number, with_interval

__all__ = ["GAP", "analyse"]

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
