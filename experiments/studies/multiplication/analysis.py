"""Tables, figures and findings from the summary of the study."""

from __future__ import annotations

from experiments.networks import trains_networks, without_torch
from experiments.studies.multiplication.drawings import chain_figure, column_figure, training_figure
from experiments.studies.multiplication.options import MultiplicationOptions
from experiments.studies.multiplication.reading import (
    FORMATS,
    LEARNERS,
    NAMES,
    PUBLISHED,
    SOURCE,
    at_end,
    last_step,
    shown,
    trained_digits,
)
from experiments.studies.multiplication.sweep import (
    ALONE,
    ALONE_NATS,
    CARRY,
    CHAIN,
    COLUMNS,
    DIGIT,
    EXACT,
    EXPLICIT,
    FREE,
    KIND,
    LINEAR,
    MLP,
    NATS,
    PRODUCT,
    STEP,
    SUCCESS,
    TOKEN,
    TRAINED,
)
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, SummaryRow, derived, intervals_over
from experiments.tables import Table, number
from ntp_envs.tasks import Multiplication

__all__ = ["PUBLISHED_ROW", "analyse"]

PUBLISHED_ROW = "published"
KINDS = {"digit": "copied digits", "tens": "tens", "units": "units", "carry": "carries", "product": "product"}


def exact_table(summary: Summary) -> Table:
    """Whole answers and their parts, of everything that multiplies."""
    measures = (EXACT, SUCCESS, CHAIN, PRODUCT, TOKEN, NATS)
    lines = []
    for part, learner in LEARNERS:
        for digits in sorted(summary.distinct("digits", part=part)):
            for cot, format_name in FORMATS.items():
                rows = [at_end(summary, metric, part, learner, digits=digits, format=cot) for metric in measures]
                if rows[0] is not None:
                    name = f"{NAMES[learner]}; {digits} digits, {format_name}"
                    lines.append([name, *(shown(row) for row in rows)])
    lines.append([f"published: MLP, 775M parameters; 4 digits ({SOURCE})", number(PUBLISHED), *[""] * 5])
    heads = ["learner", "all tokens", "product", "chain", "product, true chain", "token, true prefix", "nats a token"]
    note = (
        "Share right on fresh pairs, with 95 % intervals. The first three columns are greedy and running free; a "
        "product can be right after a wrong chain. The published number is of 100M examples and 17 h on one A100."
    )
    return Table("Multiplication: what is right at the end", heads, lines, note)


def digit_table(summary: Summary, digits: int) -> Table | None:
    """Every digit of the product, running free."""
    lines = []
    for cot, name in FORMATS.items():
        task = Multiplication(digits, cot)
        places = sorted(task.layout.product_digits(), key=lambda p: -task.layout.slots[p].place[0])
        for learner in (LINEAR, MLP):
            place = {"digits": digits, "format": cot}
            rows = [
                at_end(summary, FREE, TRAINED, learner, **place, h=position - task.prompt_length + 1)
                for position in places
            ]
            if any(row is not None for row in rows):
                lines.append([f"{NAMES[learner]}; {name}", *(shown(row) for row in rows)])
    if not lines:
        return None
    heads = ["learner", *(f"10^{k}" if k > 1 else str(10**k) for k in range(2 * digits - 1, -1, -1))]
    note = "Share right, greedy and running free, with 95 % intervals; most significant first, however it is written."
    return Table(f"Digits of the product of {digits}-digit factors", heads, lines, note)


def kind_table(summary: Summary, digits: int) -> Table | None:
    """Tokens by what they are, after the true prefix."""
    lines = []
    for cot, name in FORMATS.items():
        for learner in (LINEAR, MLP):
            place = {"digits": digits, "format": cot}
            rows = [at_end(summary, KIND, TRAINED, learner, **place, kind=kind) for kind in KINDS]
            if any(row is not None for row in rows):
                lines.append([f"{NAMES[learner]}; {name}", *(shown(row) for row in rows)])
    note = "Share right after the true prefix, with 95 % intervals. All other symbols are the same in every sequence."
    heads = ["learner", *KINDS.values()]
    return Table(f"Tokens of the chain, {digits}-digit factors", heads, lines, note) if lines else None


def column_table(summary: Summary) -> Table:
    """Columns with and without a token for the carry."""
    measures = (CARRY, DIGIT, STEP, ALONE, ALONE_NATS)
    lines = []
    for addends in sorted(summary.distinct("addends", part=COLUMNS)):
        rows = [summary.select(metric, part=COLUMNS, addends=addends) for metric in measures]
        lines.append([str(addends), *(shown(row[0]) if len(row) else "" for row in rows)])
    note = (
        "Log-loss in the class of ColumnAddition, judged on fresh columns. "
        f"{intervals_over(summary.select(part=COLUMNS))}, none where all data sets agree. "
        "Guessing a digit costs ln 10 = 2.303 nats."
    )
    heads = ["digits", "carry", "digit after it", "both", "digit alone", "nats, digit alone"]
    return Table("One column of written addition", heads, lines, note)


def explicit_finding(summary: Summary) -> list[str]:
    """That weights exist."""
    rows = summary.select(EXACT, part=EXPLICIT)
    if not len(rows):
        return []
    worst = min(rows, key=lambda row: row.mean)
    sizes = ", ".join(str(digits) for digits in sorted({row["digits"] for row in rows}))
    said = "every random pair" if worst.mean == 1.0 else f"at least {shown(worst)} of random pairs"
    interval = f" ({shown(worst)} each)" if worst.mean == 1.0 else ""
    return [
        f"With weights written down, a linear predictor of the next token gets {said} right at {sizes} digits, with "
        f"and without carries{interval}: every token of the chain, greedy and running free."
    ]


def training_findings(summary: Summary) -> list[str]:
    """What is learned, for each network and number of digits."""
    said = []
    for digits in trained_digits(summary):
        for learner in (LINEAR, MLP):

            def of(metric: str, cot: str, learner: str = learner, digits: int = digits) -> str:
                return shown(at_end(summary, metric, TRAINED, learner, digits=digits, format=cot))

            formats = [cot for cot in FORMATS if of(EXACT, cot)]
            if not formats:
                continue
            words = []
            if "source" in formats:
                words.append(
                    f"it writes the whole chain right for {of(CHAIN, 'source')} of the pairs and the product after the "
                    f"true chain for {of(PRODUCT, 'source')}: {of(EXACT, 'source')} are right to the end"
                )
            if "carry" in formats:
                words.append(f"with a carry before each digit of the product {of(EXACT, 'carry')} are")
            if "none" in formats:
                words.append(f"without a chain {of(EXACT, 'none')}")
            steps = last_step(summary, learner=learner)
            said.append(f"{NAMES[learner]}, {digits} digits, {steps} updates: {'; '.join(words)}.")
    return said


def column_finding(summary: Summary) -> list[str]:
    """Why: one column."""
    words = []
    for addends in sorted(summary.distinct("addends", part=COLUMNS)):
        step, alone = (summary.select(metric, part=COLUMNS, addends=addends) for metric in (STEP, ALONE))
        if len(step) and len(alone):
            words.append(f"{addends} digits: {shown(step[0])} and {shown(alone[0])}")
    if not words:
        return []
    return [
        "One column of the sum, carry and digit right with a token for the carry, and the digit without one (chance "
        f".10): {'; '.join(words)}."
    ]


def published_finding() -> str:
    return (
        f"Published, not ours ({SOURCE}): an MLP of 775M parameters, trained on 100M examples for 17 h on one A100, "
        f"gets {PUBLISHED:.1%} of 4-digit products right with the chain of thought of the source."
    )


def published_row() -> SummaryRow:
    """The published number, labelled as such."""
    labels = {"task": "Multiplication", "learner": "MLP, 775M parameters", "format": "source", "digits": 4}
    return derived(PUBLISHED_ROW, EXACT, PUBLISHED, f"published, not ours: {SOURCE}", **labels)


def analyse(options: MultiplicationOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    digits = options.digits[0]
    findings = [*explicit_finding(summary), *training_findings(summary), *column_finding(summary)]
    if len(summary):
        if not trains_networks(options.neural):
            why = "left out with --neural no" if options.neural == "no" else f"left out: {without_torch()}"
            findings.append(f"Networks are {why}.")
        findings.append(published_finding())
    tables = [exact_table(summary)]
    for size in trained_digits(summary):
        tables += [table for table in (digit_table(summary, size), kind_table(summary, size)) if table is not None]
    tables.append(column_table(summary))
    figures = [
        FigureSpec(
            "headline",
            "What can a linear predictor do, and what does it learn?",
            f"Products of {digits}-digit factors. Left: share right of every digit and carry after the true prefix "
            "(symbols, which never change, are left out; a, b: digits of the factors, t, u: tens and units of their "
            "products, c: carries); right: whole answers right, running free. 95 % intervals.",
            lambda: chain_figure(summary, digits),
        ),
        FigureSpec(
            "columns",
            "Why does a token for the carry help?",
            f"One column of written addition, {options.columns} of them to learn from by log-loss, norm of the weights "
            f"at most {options.radius:g}; judged on fresh columns: mean over data sets with 95 % intervals. Dotted: "
            "guessing a digit.",
            lambda: column_figure(summary),
        ),
        FigureSpec(
            "training",
            "In which order are the steps learned?",
            f"Products of {digits}-digit factors: share of fresh pairs right, greedy and running free, against updates "
            f"of {options.batch_size} new pairs each; 95 % intervals.",
            lambda: training_figure(summary, digits),
        ),
    ]
    rows = [published_row()] if len(summary) else []
    return Analysis(rows=rows, tables=tables, figures=figures, findings=findings)
