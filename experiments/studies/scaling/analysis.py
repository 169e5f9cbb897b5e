"""Tables, figures and findings from the summary of the study."""

from __future__ import annotations

import math

from experiments.studies.scaling.curves import (
    NAMES,
    compared_windows,
    drift_points,
    frontier,
    gain,
    ngrams,
    of,
    paired,
    rank_correlation,
    slope,
    trainings,
)
from experiments.studies.scaling.drawings import compute_figure, drift_figure, window_figure
from experiments.studies.scaling.measures import COMMON_ORDER, KL, PASSING, TRAIN_BITS, UNKNOWN
from experiments.studies.scaling.options import ScalingOptions
from experiments.studies.scaling.sweep import (
    ARCHITECTURES,
    EPOCHS,
    EXPERT,
    FLOPS,
    NGRAM,
    PARAMETERS,
    REFERENCE,
    SECONDS,
    STEPS,
    TOKENS,
    TRAINING,
)
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, SummaryRow, derived
from experiments.tables import Table, number, with_interval

__all__ = ["CORRELATION", "SLOPE", "analyse"]

SLOPE = "bits a character saved by ten times the compute"
CORRELATION = "rank correlation of held-out bits and the characters until the distance passes 1"
#: a frontier that the last step of compute improves by less is called flat (bits a character)
FLAT = 0.05
#: of one training; of several they are intervals of that difference over the replicates
INTERVALS = f"95 % intervals are of the difference to the {COMMON_ORDER}-gram on the same text."
#: rank correlation from which on the loss is said to tell the drift
TELLS = -0.95


def shown(row: SummaryRow, digits: int = 3) -> str:
    return with_interval(row.mean, row.lower, row.upper, digits)


def flops(budget: int) -> str:
    """A budget, in words.

    >>> flops(128)
    '1.28e11'
    """
    exponent = math.floor(math.log10(budget)) + 9
    return f"{budget * 10.0 ** (9 - exponent):.3g}e{exponent}"


# -- tables ------------------------------------------------------------------------------------------------------------


def frontier_table(summary: Summary, options: ScalingOptions) -> Table:
    """Held-out bits of the best width, by budget."""
    lines = []
    for architecture in ARCHITECTURES:
        best = {row["budget"]: row for row in frontier(summary, options, architecture)}
        cells = [
            f"{shown(best[budget])} (e={best[budget]['width']})" if budget in best else ""
            for budget in sorted(options.budgets)
        ]
        lines.append([NAMES[architecture], *cells])
    note = (
        f"Held-out bits a character, after them the best width e. {INTERVALS} Every learner has the same {options.n} "
        f"windows of {options.horizon} characters."
        f"{' One training each: what another seed would change is not in the intervals.' if options.seeds == 1 else ''}"
        f"{unknown_said(summary)}"
    )
    return Table(
        "Equal data and compute", ["best width", *(flops(budget) for budget in sorted(options.budgets))], lines, note
    )


def unknown_said(summary: Summary) -> str:
    """A sentence on the characters that nobody spells out, empty where there are none."""
    share = summary.value(UNKNOWN, part=REFERENCE)
    return f" Of the characters {100 * share:.2g} % are unknown tokens, whose bits are too few." if share > 0 else ""


def training_table(summary: Summary, options: ScalingOptions) -> Table:
    """Every training: what it cost, and what came out."""
    lines = []
    for architecture in ARCHITECTURES:
        for row in trainings(summary, options, architecture):
            counted = [of(summary, row, metric).mean for metric in (FLOPS, PARAMETERS, STEPS, TOKENS, EPOCHS)]
            seconds = summary.timings.value(SECONDS, part=TRAINING, **row.labels)
            lines.append(
                [
                    f"{NAMES[architecture]}, e={row['width']}",
                    f"{counted[0]:.4g}",
                    *(f"{value:,.0f}" for value in counted[1:4]),
                    number(counted[4], 3),
                    number(of(summary, row, TRAIN_BITS).mean, 3),
                    shown(row),
                    shown(of(summary, row, PASSING)),
                    shown(of(summary, row, KL)),
                    number(seconds, 3),
                ]
            )
    heads = ["network", "operations", "parameters", "steps", "characters read", "passes", "bits, training"]
    heads += ["bits, held out", "drifts after", "KL a character", "seconds"]
    note = (
        "Drifts after: characters until the squared Hellinger distance sum (sqrt P - sqrt Q)^2 to the expert's text, "
        "in [0, 2], passes 1. KL(expert || network) in nats. Seconds of wall time depend on the machine. Intervals of "
        "the bits as above."
    )
    return Table("Every training", heads, lines, note)


def reference_table(summary: Summary) -> Table:
    """The n-gram models of the same windows, and the expert."""
    lines = []
    for row in ngrams(summary):
        lines.append(
            [
                f"{NGRAM}, n={row['window'] + 1}",
                f"{of(summary, row, FLOPS).mean:.3g}",
                shown(of(summary, row, TRAIN_BITS)),
                shown(row),
                *(shown(of(summary, row, metric)) for metric in (PASSING, KL)),
            ]
        )
    for row in paired(summary, part=REFERENCE, learner=EXPERT):
        train = of(summary, row, TRAIN_BITS)
        lines.append([f"expert: n={row['window'] + 1}, whole text", "", shown(train), shown(row), "", "0"])
    heads = ["model", "operations", "bits, training", "bits, held out", "drifts after", "KL a character"]
    return Table("n-gram models of the same windows", heads, lines, "The expert has seen all of the training text.")


# -- derived numbers ---------------------------------------------------------------------------------------------------


def slope_rows(summary: Summary, options: ScalingOptions) -> list[SummaryRow]:
    """Slopes of the frontiers, where there are four budgets or more."""
    rows = []
    for architecture in ARCHITECTURES:
        found = slope(frontier(summary, options, architecture))
        if found is not None:
            method = "least squares over budgets, best widths"
            rows.append(SummaryRow(TRAINING, {"learner": architecture}, SLOPE, *found, 0, method))
    return rows


def correlation_rows(summary: Summary, options: ScalingOptions) -> list[SummaryRow]:
    """Spearman's rank correlation over all trainings."""
    points = [point for learner in (*ARCHITECTURES, NGRAM) for point in drift_points(summary, options, learner)]
    value = rank_correlation([bits.mean for bits, _ in points], [passed.mean for _, passed in points])
    return (
        []
        if math.isnan(value)
        else [derived(TRAINING, CORRELATION, value, "Spearman, over all trainings and n-gram models")]
    )


# -- findings ----------------------------------------------------------------------------------------------------------


def ranking(summary: Summary, options: ScalingOptions) -> list[tuple[str, SummaryRow]]:
    """Architectures at the largest budget, best first; empty where one is missing."""
    ends = {name: frontier(summary, options, name) for name in ARCHITECTURES}
    largest = max(options.budgets)
    if not all(rows and rows[-1]["budget"] == largest for rows in ends.values()):
        return []
    return sorted(((name, rows[-1]) for name, rows in ends.items()), key=lambda pair: pair[1].mean)


def compute_findings(summary: Summary, options: ScalingOptions, slopes: list[SummaryRow]) -> list[str]:
    """Who is best at the largest budget, and who still gains."""
    ranked = ranking(summary, options)
    if not ranked:
        return []
    order = ", ".join(f"{NAMES[name]} {shown(row)} (width {row['width']})" for name, row in ranked)
    found = [
        f"Held-out bits a character after {flops(max(options.budgets))} operations, best widths: {order}. {INTERVALS}"
    ]
    models = [row for row in ngrams(summary) if row.mean < ranked[0][1].mean]
    if models:
        better = ", ".join(f"n={row['window'] + 1}: {row.mean:.3f}" for row in models)
        found.append(f"Witten-Bell n-gram models of the same windows are better still, for next to nothing: {better}.")
    budgets = sorted(options.budgets)
    if len(budgets) > 1:
        gains = ", ".join(f"{NAMES[name]} {gain(frontier(summary, options, name)):.3f}" for name in ARCHITECTURES)
        found.append(f"Bits saved by the last step of compute ({flops(budgets[-2])} to {flops(budgets[-1])}): {gains}.")
    if slopes:
        words = ", ".join(f"{NAMES[row['learner']]} {shown(row)}" for row in slopes)
        found.append(f"Bits saved by ten times the compute, least squares over {len(budgets)} budgets: {words}.")
    return found


def data_findings(summary: Summary, options: ScalingOptions) -> list[str]:
    """How often each read the same data, and whether it learned it by heart."""
    ranked = ranking(summary, options)
    if not ranked:
        return []
    words = ", ".join(
        f"{NAMES[name]} {of(summary, row, EPOCHS).mean:.3g} times ({of(summary, row, TRAIN_BITS).mean:.3f} bits there)"
        for name, row in ranked
    )
    return [f"All learn from the same {options.n} windows; with that budget they read them: {words}."]


def window_findings(summary: Summary, options: ScalingOptions) -> list[str]:
    """What a longer window gives."""
    found = []
    for architecture in ("linear", "mlp"):
        rows = compared_windows(summary, options, architecture)
        if rows:
            words = ", ".join(f"{row.mean:.3f} ({row['window']})" for row in rows)
            found.append(f"{NAMES[architecture]} {words}")
    if not found:
        return []
    place = f"width {options.window_width}, {flops(options.window_budget)} operations"
    return [f"Bits a character by window (in brackets), {place}: {'; '.join(found)}. A wider one means fewer steps."]


def drift_findings(summary: Summary, options: ScalingOptions, correlation: list[SummaryRow]) -> list[str]:
    """Whether a better next-token loss drifts later, and how n-gram models compare."""
    ranked = ranking(summary, options)
    if not ranked or not correlation:
        return []
    ends = ", ".join(f"{NAMES[name]} {shown(of(summary, row, PASSING))}" for name, row in ranked)
    models = ", ".join(
        f"n={bits['window'] + 1}: {passed.mean:.2f}" for bits, passed in drift_points(summary, options, NGRAM)
    )
    return [
        f"Rank correlation between held-out bits and the characters until the squared Hellinger distance to the "
        f"expert's text passes 1: {correlation[0].mean:.2f} over all trainings and n-gram models.",
        f"Characters until then with the largest budget: {ends}; Witten-Bell models of the same windows {models}.",
    ]


# -- figures -----------------------------------------------------------------------------------------------------------


def compute_title(summary: Summary, options: ScalingOptions) -> str:
    """Who is ahead, and who has stopped."""
    ranked = ranking(summary, options)
    if not ranked:
        return "Which architecture makes the most of equal data and compute?"
    title = f"At equal compute the {NAMES[ranked[0][0]]} predicts best"
    line = frontier(summary, options, "linear")
    if len(line) > 1 and gain(line) < FLAT:
        title += "; the linear model has stopped"
    return title


def window_title(summary: Summary, options: ScalingOptions) -> str:
    """How far a longer window helps."""
    best = {
        name: min((row.mean for row in compared_windows(summary, options, name)), default=math.nan)
        for name in ("linear", "mlp")
    }
    if not best["mlp"] < best["linear"]:
        return "What does a longer window give?"
    return f"No window gets the linear model below {best['linear']:.2f} bits; the MLP reaches {best['mlp']:.2f}"


def drift_title(correlation: list[SummaryRow]) -> str:
    """Whether the loss tells the drift."""
    if not correlation:
        return "Does a better next-token loss drift later?"
    tells = "The better the next-token loss, the later the text drifts, whatever the model"
    return tells if correlation[0].mean <= TELLS else "The next-token loss does not settle when the text drifts"


def analyse(options: ScalingOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    slopes, correlation = slope_rows(summary, options), correlation_rows(summary, options)
    windows = f"width {options.window_width}, {flops(options.window_budget)} operations"
    figures = [
        FigureSpec(
            "headline",
            "Which architecture makes the most of equal data and compute?",
            f"Lines: the best width at every budget; faint points: the other widths. {INTERVALS} Dotted: Witten-Bell "
            "n-gram models of the same training windows, which cost next to nothing.",
            lambda: compute_figure(summary, options, compute_title(summary, options)),
        ),
        FigureSpec(
            "drift",
            "Does a better next-token loss drift later?",
            "A point for every training (size: compute) and every n-gram model: how many characters it writes until "
            "the squared Hellinger distance to the expert's text, in [0, 2], passes 1. Bars: 95 % intervals.",
            lambda: drift_figure(summary, options, drift_title(correlation)),
        ),
        FigureSpec(
            "window",
            "What does a longer window give?",
            f"Linear network and MLP, {windows}: a wider window means fewer steps. {INTERVALS} Dotted: Witten-Bell "
            "models, which see n - 1 characters.",
            lambda: window_figure(summary, options, window_title(summary, options)),
        ),
    ]
    findings = [
        *compute_findings(summary, options, slopes),
        *data_findings(summary, options),
        *window_findings(summary, options),
        *drift_findings(summary, options, correlation),
    ]
    tables = [frontier_table(summary, options), training_table(summary, options), reference_table(summary)]
    return Analysis(rows=[*slopes, *correlation], tables=tables, figures=figures, findings=findings)
