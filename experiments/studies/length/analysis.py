"""Tables, figures and findings from the summary of the study."""

from __future__ import annotations

import math
from typing import Any

from experiments.statistics import interval_words
from experiments.studies.length.drawings import (
    LINEAR,
    format_figure,
    mix_figure,
    sample_figure,
    shape_of,
    trade_figure,
)
from experiments.studies.length.options import LengthOptions
from experiments.studies.length.sweep import (
    ANSWER,
    CHAIN,
    CLOSED,
    FEATURES,
    FORCED,
    FORMATS,
    GREEDY,
    LENGTH,
    MIX,
    NEEDED,
    PASSED,
    ROUNDS,
    SAMPLED,
    SHARE,
    TRADE,
    parity_formats,
    trade_formats,
)
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, intervals_over
from experiments.tables import Table, number, with_interval

__all__ = ["analyse"]


def shown(summary: Summary, metric: str, digits: int = 3, **labels: Any) -> str:
    """``mean [lower, upper]`` of the one row that matches, empty where its cell failed."""
    rows = summary.select(metric, **labels)
    return with_interval(rows[0].mean, rows[0].lower, rows[0].upper, digits) if len(rows) else ""


def format_table(summary: Summary) -> Table:
    """Every format at the largest number of demonstrations."""
    n = max(summary.distinct("n", part=FORMATS), default=0)
    lines = []
    for name in parity_formats():
        place: dict[str, Any] = {"part": FORMATS, "format": name}
        cells = [shown(summary, metric, n=n, **place) for metric in (FORCED, ANSWER, CHAIN, SAMPLED)]
        closed = [number(summary.value(CLOSED + metric, **place), 3) for metric in (FORCED, ANSWER)]
        if any(cells):
            lines.append([name, shape_of(summary, FORMATS, name), cells[0], closed[0], cells[1], closed[1], *cells[2:]])
    heads = ["format", "shape", "token, true prefix", "limit", "answer", "limit", "whole chain", "answer, sampled"]
    note = (
        f"Share right on fresh prompts, greedy but in the last column. {intervals_over(summary.select(part=FORMATS))}. "
        "Limits are closed forms for the population optimum."
    )
    return Table(f"Formats of the chain, {n} demonstrations", heads, lines, note)


def trade_table(options: LengthOptions, summary: Summary) -> Table:
    """Length, vocabulary, richness of a step, samples."""
    lines = []
    for name, parameters in trade_formats(options.trade_subset_size).items():
        rows = summary.select(NEEDED, part=TRADE, format=name)
        if len(rows):
            weights = number(summary.value(FEATURES, part=TRADE, format=name), 5)
            said = with_interval(rows[0].mean, rows[0].lower, rows[0].upper)
            lines.append([name, rows[0]["H"], rows[0]["V"], parameters.get("degree", 1), weights, said])
    heads = ["format", "T", "V", "degree", "weights", "demonstrations"]
    note = (
        f"Demonstrations until {options.target:.0%} of all prompts are answered right (greedy), n={options.trade_bits} "
        f"bits, k={options.trade_subset_size}; inf: not from {options.most}. {interval_words(options.seeds)}. "
        "Degree: signs multiplied in a feature."
    )
    return Table("Length against samples", heads, lines, note)


def mix_table(summary: Summary) -> Table:
    """Accuracies by the share of chains."""
    lines = []
    for p in sorted(summary.distinct("p", part=MIX)):
        line = [f"{p:g}"]
        for metric in (SAMPLED, GREEDY, LENGTH):
            line += [
                shown(summary, metric, part=MIX, p=p),
                number(summary.value(CLOSED + metric, part=MIX, p=p), 3),
            ]
        lines.append(line)
    heads = ["p", "sampled", "(1+p)/2", "greedy", "limit", "length", "1+p(d-1)"]
    note = "Share of answers right and tokens before the end, beside closed forms. "
    note += f"{intervals_over(summary.select(part=MIX))}."
    return Table("ParityMix: accuracy against the share of chains", heads, lines, note)


def round_table(summary: Summary) -> Table:
    """Share of chains by round."""
    rounds = sorted(summary.distinct("round", part=ROUNDS))
    lines = []
    for p in sorted(summary.distinct("p", part=ROUNDS)):
        place = {"part": ROUNDS, "p": p}
        passed = [shown(summary, PASSED, **place), number(summary.value(CLOSED + PASSED, **place), 3)]
        lines.append([f"p={p:g}, sampled", *(shown(summary, SHARE, 2, **place, round=r) for r in rounds), passed[0]])
        closed = (number(summary.value(CLOSED + SHARE, **place, round=r), 2) for r in rounds)
        lines.append([f"p={p:g}, closed form", *closed, passed[1]])
    heads = ["start", *(f"round {r}" for r in rounds), "above 1/3 after"]
    note = "A round samples, keeps the right answers and fits again. Closed form: the odds double."
    return Table("ParityMix: share of chains under filtered rounds", heads, lines, note)


def format_findings(options: LengthOptions, summary: Summary) -> list[str]:
    """Linear steps against the others."""
    n = max(options.n)

    def said(name: str) -> str:
        return f"{name} ({shape_of(summary, FORMATS, name)}) {answer(name)}"

    def answer(name: str) -> str:
        return shown(summary, ANSWER, part=FORMATS, format=name, n=n)

    guesses = [name for name in parity_formats() if name not in LINEAR]
    if not all(answer(name) for name in parity_formats()):
        return []
    forced = shown(summary, FORCED, part=FORMATS, format="prefix", n=n)
    limit = number(summary.value(CLOSED + FORCED, part=FORMATS, format="prefix"), 3)
    return [
        f"The parity of {options.subset_size} of {options.bits} bits from {n} demonstrations, share of answers right: "
        f"{'; '.join(map(said, LINEAR))}; {'; '.join(map(said, guesses))}. What matters is that each step is linear "
        "in what came before, not how many there are.",
        f"Teacher forcing flatters: after the true prefix prefix has {forced} of its tokens right (limit {limit}), its "
        f"own answer is right {answer('prefix')} of the time.",
    ]


def trade_findings(options: LengthOptions, summary: Summary) -> list[str]:
    """Samples for length."""
    words = []
    for name, parameters in reversed(trade_formats(options.trade_subset_size).items()):
        rows = summary.select(NEEDED, part=TRADE, format=name)
        if len(rows) and math.isfinite(rows[0].mean):
            step = f"products of {parameters['degree']}" if "degree" in parameters else "linear"
            needed = with_interval(rows[0].mean, rows[0].lower, rows[0].upper)
            words.append(f"{needed} for {name} (T={rows[0]['H']}, V={rows[0]['V']}, {step})")
    if not words:
        return []
    return [
        f"Length is traded for samples: {options.target:.0%} on the parity of {options.trade_subset_size} of "
        f"{options.trade_bits} bits takes {'; '.join(words)} demonstrations."
    ]


def mix_findings(summary: Summary) -> list[str]:
    """The threshold and the rounds."""
    shares = sorted(summary.distinct("p", part=MIX))
    found = []
    sides = [[p for p in shares if p < 1 / 3][-1:], [p for p in shares if p > 1 / 3][:1]]
    if all(sides):
        words = [
            f"p={p:g}: greedy {shown(summary, GREEDY, part=MIX, p=p)}, sampled "
            f"{shown(summary, SAMPLED, part=MIX, p=p)} ((1+p)/2 = {(1 + p) / 2:.3g})"
            for (p,) in sides
        ]
        found.append(f"ParityMix: greedy decoding switches to the chain at p = 1/3; {'; '.join(words)}.")
    words = [
        f"{shown(summary, PASSED, part=ROUNDS, p=p)} from p={p:g} "
        f"(closed form {summary.value(CLOSED + PASSED, part=ROUNDS, p=p):g})"
        for p in sorted(summary.distinct("p", part=ROUNDS))
    ]
    if words:
        found.append(
            "Each filtered round doubles the odds of a chain; rounds until more than 1/3 are chains: "
            f"{'; '.join(words)}."
        )
    return found


def analyse(options: LengthOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    n, k = options.bits, options.subset_size
    spread = interval_words(options.seeds)
    figures = [
        FigureSpec(
            "headline",
            "Which chains of thought make a parity learnable?",
            f"ParityCoT, n={n}, k={k}, log-loss in a class linear in the whole prefix; greedy answers. {spread}. T: "
            "tokens written, V: vocabulary. count: the number of ones in binary; token: that number as one token; "
            "andxor: and, then exclusive or, with each bit; prefix: running parities; xor_3: those after bits 3, 5, 7, "
            "... An exclusive or of fair bits is not a linear step, so the last two and none guess; the log-loss "
            "optimum does not even find the best threshold function.",
            lambda: sample_figure(options, summary),
        ),
        FigureSpec(
            "trade",
            "What does a short chain cost?",
            f"ParityCoT, n={options.trade_bits}, k={options.trade_subset_size}: demonstrations until "
            f"{options.target:.0%} of all prompts are answered right. {spread}. Dashed: xor_q in a class with products "
            "of q signs, down to no chain at all.",
            lambda: trade_figure(options, summary),
        ),
        FigureSpec(
            "formats",
            "Does teacher-forced accuracy show it?",
            f"ParityCoT, n={n}, k={k}, {max(options.n)} demonstrations. {spread}; black ticks: closed forms.",
            lambda: format_figure(summary),
        ),
        FigureSpec(
            "mix",
            "Why do rewarded answers grow?",
            f"ParityMix, d={options.mix_bits}, {options.mix_n} demonstrations or samples a round; lines: closed forms, "
            f"points: samples. {interval_words(options.mix_seeds)}. With fewer samples they "
            "lag behind: shares then differ between prompts, and 2 p/(1 + p) is concave.",
            lambda: mix_figure(summary),
        ),
    ]
    return Analysis(
        tables=[format_table(summary), trade_table(options, summary), mix_table(summary), round_table(summary)],
        figures=figures,
        findings=[*format_findings(options, summary), *trade_findings(options, summary), *mix_findings(summary)],
    )
