"""Tables, figures and findings from the summary of the study."""

from __future__ import annotations

import math
from typing import Any

from experiments.learners import CHUNKED
from experiments.networks import trains_networks, without_torch
from experiments.studies.text.corpus import DIAL, MAIN, NETWORKS
from experiments.studies.text.drawings import bits_figure, curve_figure, dial_figure, drift_figure, network_figure
from experiments.studies.text.drift import BITS, DISTANCE2, EXPERT, HALF, NATS, REAL, SAMPLE, UNKNOWN, name_of
from experiments.studies.text.options import TextOptions
from experiments.studies.text.shuffled import CLEAN, CLIPPED, EXACT, NETWORK, RHO, SHARE
from experiments.studies.text.sweep import learners
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, SummaryRow
from experiments.tables import Table, with_interval

__all__ = ["analyse"]


def shown(summary: Summary, metric: str, **labels: Any) -> str:
    """``mean [lower, upper]`` of the one row that matches, empty where there is none."""
    rows = summary.select(metric, **labels)
    return with_interval(rows[0].mean, rows[0].lower, rows[0].upper) if len(rows) else ""


def names(options: TextOptions) -> list[str]:
    """Learners of the first part in the order of tables."""
    return [name_of(kind, size) for kind, size in learners(options, networks=options.neural != "no")]


def some_lengths(horizon: int) -> list[int]:
    """1, 4, 16, ... and the horizon."""
    return sorted({*(4**k for k in range(10) if 4**k < horizon), horizon})


def learner_table(options: TextOptions, summary: Summary) -> Table:
    """One line a learner: distance at some lengths, where it passes 1, bits a character."""
    lengths = some_lengths(options.horizon)
    lines = []
    for learner in [*names(options), EXPERT]:
        place = {"part": MAIN, "learner": learner}
        if not len(summary.select(BITS, **place)):
            continue
        half = shown(summary, HALF, **place) or f"> {options.horizon}"
        distances = [shown(summary, DISTANCE2, **place, h=h) or "0" for h in lengths]
        lines.append([learner, *distances, half if learner != EXPERT else "", shown(summary, BITS, **place)])
    note = (
        "Squared Hellinger distance (0 to 2) of the learner's law from the expert's after h tokens, the length at "
        "which it is 1, and bits a character of the held-out text, with 95 % intervals: over replicates, and for the "
        f"bits over blocks of the text.{unknown_said(summary)}"
    )
    heads = ["learner", *(f"distance, h={h}" for h in lengths), "tokens until it is 1", "bits a character"]
    return Table("Distance over the horizon", heads, lines, note)


def unknown_said(summary: Summary) -> str:
    """A sentence on the tokens that nobody spells out, empty where there are none."""
    share = summary.value(UNKNOWN, part=MAIN, learner=EXPERT)
    if not share > 0:
        return ""
    return f" Of its tokens {100 * share:.2g} % are unknown ones, which nobody spells out: the bits are too few."


def score_table(options: TextOptions, summary: Summary) -> Table:
    """Teacher forcing on the held-out text."""
    first, last = 1, options.horizon
    lines = []
    for learner in [*names(options), EXPERT]:
        place = {"part": MAIN, "learner": learner}
        if not len(summary.select("perplexity", **place)):
            continue
        totals = [shown(summary, metric, **place) for metric in ("forced_token_accuracy", "perplexity")]
        lines.append([learner, *totals, *(shown(summary, NATS, **place, h=h) for h in (first, last))])
    heads = ["learner", "right tokens", "perplexity", f"nats, token {first}", f"nats, token {last}"]
    note = (
        "On windows of the held-out text, after the true prefix: share of tokens that the learner finds most probable, "
        "perplexity a token, and cross-entropy of the first and the last token. 95 % intervals."
        f"{unknown_said(summary)}"
    )
    return Table("Teacher forcing on text that nobody has seen", heads, lines, note)


def sample_table(options: TextOptions, summary: Summary) -> Table:
    """The same prompts, gone on with by everybody."""
    lines = []
    for number in sorted({row.mean for row in summary.select(SAMPLE)}):
        for learner in [REAL, EXPERT, *reversed(names(options))]:
            for row in summary.select(SAMPLE, part=MAIN, learner=learner):
                if row.mean == number:
                    lines.append([f"{row['prompt']} ...", learner, row["text"]])
    note = "Each continues the same words of the text by sampling; \u21b5 is a line end."
    return Table("Samples side by side", ["after", "by", "written"], lines, note)


def shuffled_table(options: TextOptions, summary: Summary) -> Table:
    """The two comparisons on contaminated text."""
    lines = []
    for H in sorted(options.dial_horizons):
        for learner, K in dial_learners(options):
            place: dict[str, Any] = {"part": DIAL, "learner": learner, "H": H, **({} if K is None else {"K": K})}
            if len(summary.select(DISTANCE2, **place)):
                name = learner if K is None else f"{learner}, K={K}"
                what = [shown(summary, DISTANCE2, **place), shown(summary, SHARE, **place)]
                lines.append([f"dial, H={H}", name, *what])
    H = options.network_horizon
    for learner in (EXACT, NETWORK, RHO, CLIPPED, CLEAN):
        place = {"part": NETWORKS, "learner": learner, "h": H}
        if len(summary.select(DISTANCE2, **place)):
            lines.append([f"any bigram model, H={H}", learner, shown(summary, DISTANCE2, **place), ""])
    note = (
        f"Squared Hellinger distance to an expert of whose documents a share {options.contamination:g} is shuffled "
        "text, with 95 % intervals over replicates. The dial is a class of 24 bigram models, between that of the text "
        "and that of shuffled text; every learner is exact there."
    )
    return Table("Contaminated text", ["class and length", "learner", "distance", "share learned"], lines, note)


def dial_learners(options: TextOptions) -> list[tuple[str, int | None]]:
    """Learners of the dial, with K."""
    return [("log-loss", None), *((CHUNKED, K) for K in options.chunks), ("rho", None), (CLEAN, None)]


# -- findings ----------------------------------------------------------------------------------------------------------


def drift_finding(options: TextOptions, summary: Summary) -> list[str]:
    """Where each learner's text has come half the way."""
    rows: list[SummaryRow] = sorted(summary.select(HALF, part=MAIN), key=lambda row: row.mean)
    if not rows:
        return []
    words = [f"{row['learner']} {with_interval(row.mean, row.lower, row.upper)}" for row in rows]
    never = [name for name in names(options) if len(summary.select(BITS, part=MAIN, learner=name))]
    never = [name for name in never if name not in {row["learner"] for row in rows}]
    said = f"The squared Hellinger distance to the expert passes 1 after so many tokens: {'; '.join(words)}"
    return [said + (f"; not within {options.horizon}: {', '.join(never)}." if never else ".")]


def growth_finding(options: TextOptions, summary: Summary) -> list[str]:
    """The distance grows, teacher forcing stays."""
    rows = summary.select(HALF, part=MAIN)
    if not len(rows):
        return []
    learner = max(rows, key=lambda row: row.mean)["learner"]
    place = {"part": MAIN, "learner": learner}
    H = options.horizon
    words = [f"{shown(summary, DISTANCE2, **place, h=h)} at h={h}" for h in some_lengths(H)]
    return [
        f"The {learner} model, the least restricted of those: {', '.join(words)}. Under teacher forcing nothing of "
        f"this shows: its cross-entropy is {shown(summary, NATS, **place, h=1)} nats at token 1 and "
        f"{shown(summary, NATS, **place, h=H)} at token {H} of held-out text."
    ]


def bits_finding(options: TextOptions, summary: Summary) -> list[str]:
    """Bits a character, learners against the expert."""
    words = [f"{name} {text}" for name in names(options) if (text := shown(summary, BITS, part=MAIN, learner=name))]
    expert = shown(summary, BITS, part=MAIN, learner=EXPERT)
    if not words or not expert:
        return []
    read = next(str(row["sha256"]) for row in summary.select(BITS, part=MAIN, learner=EXPERT))
    where = f"corpus {options.corpus!r}, sha256 {read}..."
    return [
        f"Bits a character of held-out text ({where}): {'; '.join(words)}; the expert {expert}.{unknown_said(summary)}"
    ]


def dial_finding(options: TextOptions, summary: Summary) -> list[str]:
    """Log-loss pays for contamination at every token, rho once."""
    low, high = min(options.dial_horizons), max(options.dial_horizons)
    words = []
    for learner in ("log-loss", "rho", CLEAN):
        ends = [shown(summary, DISTANCE2, part=DIAL, learner=learner, H=H) for H in (low, high)]
        if all(ends):
            words.append(f"{learner} {ends[0]} at H={low} and {ends[1]} at H={high}")
    said = f"With {options.contamination:g} of the documents shuffled, in a class of bigram models on one dial"
    return [f"{said}: {'; '.join(words)}."] if words else []


def apart(one: SummaryRow, other: SummaryRow) -> bool:
    """Whether two intervals do not overlap."""
    return one.upper < other.lower or other.upper < one.lower


def network_finding(options: TextOptions, summary: Summary) -> list[str]:
    """Whether sequence-level training of networks lowers the distance, or why there is none."""
    H = options.network_horizon
    place: dict[str, Any] = {"part": NETWORKS, "h": H}
    words = [
        f"{learner} {text}"
        for learner in (EXACT, NETWORK, RHO, CLIPPED, CLEAN)
        if (text := shown(summary, DISTANCE2, **place, learner=learner))
    ]
    said = [f"Any bigram model, documents of {H} tokens: {'; '.join(words)}."] if words else []
    exact = list(summary.select(DISTANCE2, **place, learner=EXACT))
    for row in (row for learner in (RHO, CLIPPED) for row in summary.select(DISTANCE2, **place, learner=learner)):
        if not exact:
            continue
        name, change = str(row["learner"]).removesuffix(", network"), row.mean / exact[0].mean - 1.0
        told = "without intervals"
        if not (math.isnan(row.upper) or math.isnan(exact[0].upper)):
            verdict = "are apart" if apart(row, exact[0]) else "overlap"
            told = f"the intervals ({options.network_seeds} replicates) {verdict}"
        said.append(
            f"Training on whole documents ({name}) {'lowers' if change < 0 else 'does not lower'} the distance against "
            f"the maximum likelihood of the same class: {100 * change:+.0f} %, {told}."
        )
    if not trains_networks(options.neural):
        why = "left out with --neural no" if options.neural == "no" else f"left out: {without_torch()}"
        said.append(f"Networks were {why}.")
    return said


def analyse(options: TextOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    over = f"of {options.seeds} replicates" if options.seeds > 1 else "of the sampling of one replicate"
    trained = f"of {options.network_seeds} replicates of networks" if options.network_seeds > 1 else "of one network"
    expert = f"the expert is an interpolated {options.expert_order}-gram model of the text"
    dirt = f"A share {options.contamination:g} of the expert's documents is shuffled text"
    figures = [
        FigureSpec(
            "headline",
            "How fast does a learner's own text drift from the expert's?",
            "Squared Hellinger distance to the expert on a scale in which equal errors at every token make a straight "
            f"line (-2 log(1 - D^2/2)); {expert}, and every learner has seen {options.n} sequences of it. Bands: 95 % "
            f"intervals {over}. "
            "Lines end where they leave the picture, or where too little in common is left to measure.",
            lambda: drift_figure(options, summary),
        ),
        FigureSpec(
            "distance",
            "The same on the plain scale",
            f"Squared Hellinger distance, from 0 to 2, against the length; {expert}. Bands: 95 % intervals {over}.",
            lambda: curve_figure(options, summary),
        ),
        FigureSpec(
            "bits",
            "How well does each learner predict text that nobody has seen?",
            "Bits a character of the held-out end of the text under teacher forcing; bars: 95 % intervals from the "
            f"scatter of blocks of the text, which all learners share.{unknown_said(summary)}",
            lambda: bits_figure(options, summary),
        ),
        FigureSpec(
            "dial",
            "Does log-loss forgive a few shuffled documents?",
            f"{dirt}; the class is a dial of bigram models between text and shuffled text, every learner is exact in "
            f"it. Squared Hellinger distance at the length H of the documents, 95 % intervals {over}.",
            lambda: dial_figure(options, summary),
        ),
    ]
    if len(summary.select(DISTANCE2, part=NETWORKS)):
        figures.append(
            FigureSpec(
                "networks",
                "Does training on whole documents lower the distance?",
                f"{dirt}; the class is all bigram models, as tables and as linear networks of the last token. Squared "
                f"Hellinger distance of the first h tokens, documents of {options.network_horizon}; 95 % intervals, "
                f"{trained}.",
                lambda: network_figure(options, summary),
            )
        )
    findings = [
        *drift_finding(options, summary),
        *growth_finding(options, summary),
        *bits_finding(options, summary),
        *dial_finding(options, summary),
        *network_finding(options, summary),
    ]
    tables = [
        learner_table(options, summary),
        sample_table(options, summary),
        score_table(options, summary),
        shuffled_table(options, summary),
    ]
    return Analysis(tables=tables, figures=figures, findings=findings)
