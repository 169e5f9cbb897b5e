"""Linear, MLP and transformer at equal data and compute on real text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents import make_agent
from experiments.cells import Cell, Label, Record, keyed_rng
from experiments.charts import COLOURS, Figure, end_labels, errorbars, log2_axis, new_figure
from experiments.measure import TrainingClock, require_torch
from experiments.panels import Curve, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import (
    NAN,
    NOT_MEASURED,
    Interval,
    Places,
    Summary,
    SummaryRow,
    Table,
    derived,
    line_interval,
    pivot,
    rank_correlation,
)
from experiments.texts import ABOVE, BITS, COMMON_ORDER, KL, PASSING, TRAIN_BITS, UNKNOWN, judged
from ntp_envs import Demonstrations, NGramClass
from ntp_envs.checks import check_int
from ntp_envs.tasks import Text

if TYPE_CHECKING:  # needs torch
    from agents.neural import NetworkClass


@dataclass(frozen=True)
class ScalingOptions(Options):
    """Sizes of the sweep; the defaults are the full study, some hours of processor time, which can be interrupted."""

    corpus: str = "default"
    """The text, character by character: the default, a file, or a Hugging Face data set; see `ntp_envs.tasks.Text`."""
    max_chars: int = option(500_000)
    """Characters of it to read at most; the last tenth is held out."""
    horizon: int = option(32, least=2)
    """Length H of the training windows and of the text written; the prompt before it has 8 characters."""
    n: int = option(16384, quick=4096)
    """Training windows: the data of every learner."""
    budgets: tuple[int, ...] = option((4, 16, 64, 256, 1024, 4096), quick=(2, 15, 100))
    """Compute of a training, in 10^9 floating-point operations."""
    widths: tuple[int, ...] = option((32, 64, 128), quick=(64, 128))
    """Widths of the linear network and the MLP. One that makes less than 10 steps with a budget is left out."""
    transformer_widths: tuple[int, ...] = option((32, 64, 128), quick=(32, 64))
    """Widths of the transformer, multiples of 4."""
    window: int = option(8)
    """Characters that the linear network and the MLP see; the transformer sees all."""
    windows: tuple[int, ...] = option((1, 2, 4, 8, 16, 32), quick=(1, 2, 4, 8, 16))
    """Windows of the comparison of windows."""
    window_budget: int = option(256, quick=15, one_of="budgets")
    """Its budget, one of ``budgets``."""
    window_width: int = option(64, one_of="widths")
    """Its width, one of ``widths``."""
    batch_size: int = option(16)
    """Windows a step; less than ``n``."""
    orders: tuple[int, ...] = option((1, 2, 3, 4, 5))
    """Orders of the n-gram models to compare with."""
    samples: int = option(4000, quick=2000, least=4)
    """Sequences that estimate a distance."""
    seeds: int = option(3, quick=1)
    """Replicates: other training windows, other weights."""
    device: str = "cpu"
    """Where networks train, such as ``cuda``; only the CPU gives the same numbers again."""

    def check(self) -> None:
        for width in self.transformer_widths:
            if width % 4:
                raise ValueError(f"transformer_widths={width} must be a multiple of 4, the number of its heads.")
        if self.batch_size >= self.n:
            raise ValueError(f"batch_size={self.batch_size} must be below n={self.n}, the number of windows.")
        check_int("window", self.window, minimum=1, maximum=self.horizon)
        for window in self.windows:
            check_int("windows", window, minimum=1, maximum=self.horizon)


# -- cells: one training each, and one for every n-gram model to compare with ------------------------------------------

TRAINING, REFERENCE = "training", "reference"
#: architectures, and what they are called in sentences and figures
NAMES = {"linear": "linear", "mlp": "MLP", "transformer": "transformer"}
ARCHITECTURES = tuple(NAMES)
NGRAM, EXPERT = "Witten-Bell", "expert"

FLOPS, STEPS, TOKENS = "floating-point operations", "steps", "characters read"
EPOCHS, PARAMETERS, SECONDS = "passes over the windows", "parameters", "wall seconds of the training"

#: chosen among 0.003, 0.01, 0.02 and 0.03 for the budgets of the quick study
LEARNING_RATE = 1e-2
#: of the transformer, divided by its width: 0.01 is best at width 32 and too much at 64
TRANSFORMER_RATE = 0.2
#: share of the steps over which the learning rate rises; then it falls to zero along a cosine
WARMUP = 0.05
#: a training with fewer steps says nothing of its architecture and is left out
LEAST_STEPS = 10
PROMPT_LENGTH = 8
CHECKPOINTS = 20


def text_task(corpus: str, max_chars: int, H: int) -> Text:
    """The text and its expert."""
    return Text(corpus, horizon=H, prompt_length=PROMPT_LENGTH, max_chars=max_chars)


def shared_windows(task: Text, n: int, replicate: int) -> Demonstrations:
    """The training windows: the same for every cell of a replicate."""
    return task.windows(n, keyed_rng(replicate, "training windows of the study scaling"))


def network_for(architecture: str, task: Text, width: int, window: int | None) -> NetworkClass:
    """The network: two hidden layers or blocks, four heads."""
    from agents.neural import NetworkClass

    return NetworkClass.for_task(architecture, task, width=width, window=window)


def steps_within(budget: float, network: NetworkClass, batch_size: int) -> int:
    """The steps whose cost is nearest to a budget in 10^9 operations; 0 where one step is over twice of it."""
    return round(budget * 1e9 / network.training_flops(batch_size))


def trained(
    *, architecture: str, width: int, window: int | None, budget: int, batch_size: int, corpus: str, max_chars: int,
    H: int, n: int, samples: int, device: str, replicate: int, rng: np.random.Generator, scratch: Path,
) -> list[Record]:  # fmt: skip
    """One network trained within a budget of 10^9 operations: how well it predicts, and how soon its text drifts."""
    from agents.neural import NeuralBC

    task = text_task(corpus, max_chars, H)
    windows = shared_windows(task, n, replicate)
    network = network_for(architecture, task, width, window)
    size = min(batch_size, len(windows.pooled()))  # as many as there are different ones
    steps = steps_within(budget, network, size)
    every = max(steps // CHECKPOINTS, 1)
    clock = TrainingClock(scratch / "seconds", every)
    whole = architecture == "transformer"
    agent = NeuralBC(
        steps=steps, batch_size=batch_size, learning_rate=TRANSFORMER_RATE / width if whole else LEARNING_RATE,
        warmup=math.ceil(WARMUP * steps), device=device, checkpoint=scratch, checkpoint_every=every, progress=clock,
    )  # fmt: skip
    agent.fit(windows, network, rng=rng)
    seen = network.prompt_length + H - 1 if whole else network.window_length  # at most
    labels: dict[str, Label] = {"task": task.name, "learner": architecture, "H": H, "n": n}
    labels |= {"budget": budget, "width": width, "window": seen}
    counts: dict[str, float] = {FLOPS: steps * network.training_flops(size), STEPS: steps, TOKENS: steps * size * H}
    counts |= {EPOCHS: steps * size / n, PARAMETERS: network.n_parameters}
    records = [Record(metric, float(value), labels, method="count") for metric, value in counts.items()]
    records.append(Record(SECONDS, clock.seconds, labels, machine=True))
    return records + judged(task, agent.policy_, windows, agent.fit_report_.objective, labels, samples, rng)


def reference(
    *, order: int | None, corpus: str, max_chars: int, H: int, n: int, samples: int, replicate: int,
    rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """The Witten-Bell model of the same windows, or (``order=None``) the expert, which is that of the whole text."""
    task = text_task(corpus, max_chars, H)
    windows = shared_windows(task, n, replicate)
    if order is None:
        labels: dict[str, Label] = {"task": task.name, "learner": EXPERT, "H": H, "window": task.expert_order - 1}
        nats = -float(task.expert.log_probs(windows.prompts, windows.tokens).sum(axis=1).mean())
        unknown = task.bits_per_char(task.expert).unknown_share
        return [Record(UNKNOWN, unknown, labels), *judged(task, task.expert, windows, nats, labels, 0, rng)]
    agent = make_agent("NGramBC").fit(windows, NGramClass(task.vocab_size, order), rng=rng)
    labels = {"task": task.name, "learner": NGRAM, "H": H, "n": n, "window": order - 1}
    counted = Record(FLOPS, float(n * H * order), labels, method="additions to counts")
    return [counted, *judged(task, agent.policy_, windows, agent.fit_report_.objective, labels, samples, rng)]


def cells(options: ScalingOptions) -> Iterator[Cell]:
    """The largest budgets first, so that workers end together.

    Raises:
        ValueError: torch or the device is missing, the text cannot be used, or a budget is too small for any width of
            some architecture; before anything is run.
    """
    require_torch()
    from agents.neural.network import resolve_device

    resolve_device(options.device)
    task = text_task(options.corpus, options.max_chars, options.horizon)
    shared = {**options.given("corpus", "max_chars", "n", "samples"), "H": options.horizon}
    own = {**shared, **options.given("batch_size", "device")}
    places = list(_places(options, task))
    for replicate in range(options.seeds):
        for place in places:
            yield Cell(TRAINING, trained, {**place, **own, "replicate": replicate}, scratch=True)
    for replicate in range(options.seeds):
        for order in options.orders:
            yield Cell(REFERENCE, reference, {"order": order, **shared, "replicate": replicate})
    yield Cell(REFERENCE, reference, {"order": None, **shared, "replicate": 0})


def _places(o: ScalingOptions, task: Text) -> Iterator[dict[str, Any]]:
    """Architecture, width, window and budget of every training; where windows are compared, those as well."""
    for budget, architecture in product(sorted(o.budgets, reverse=True), ARCHITECTURES):
        shapes: list[tuple[int, int | None]] = [(width, None) for width in sorted(o.transformer_widths)]
        if architecture != "transformer":
            compared = o.windows if budget == o.window_budget else ()
            own = {(width, o.window) for width in o.widths}
            shapes = sorted(own | {(o.window_width, window) for window in compared})
        taken = [
            (width, window)
            for width, window in shapes
            if steps_within(budget, network_for(architecture, task, width, window), o.batch_size) >= LEAST_STEPS
        ]
        if not any(window in (None, o.window) for _, window in taken):
            raise ValueError(
                f"budgets={budget} (10^9 operations) gives no {architecture} as many as {LEAST_STEPS} steps; "
                f"raise it, or lower widths, transformer_widths or batch_size={o.batch_size}."
            )
        for width, window in taken:
            yield {"architecture": architecture, "width": width, "window": window, "budget": budget}


# -- what the summary says of an architecture --------------------------------------------------------------------------

SLOPE = "bits a character saved by ten times the compute"
CORRELATION = "rank correlation of held-out bits and the characters until the distance passes 1"
#: a frontier that the last step of compute improves by less is called flat (bits a character)
FLAT = 0.05
#: rank correlation from which on the loss is said to tell the drift
TELLS = -0.95


def paired(summary: Summary) -> Summary:
    """The same, with held-out bits that have the interval of their difference to the 3-gram on the same text."""

    def against(row: SummaryRow) -> SummaryRow:
        above = of(summary, row, ABOVE)
        lower, upper = (row.mean + end - above.mean for end in (above.lower, above.upper))
        return replace(row, lower=lower, upper=upper)

    return Summary([against(row) if row.metric == BITS else row for row in summary], summary.timings)


def place_of(row: SummaryRow) -> dict[str, Any]:
    """Where the other measures of the same training are."""
    return {"part": row.part, **row.labels}


def of(s: Summary, row: SummaryRow, metric: str) -> SummaryRow:
    """The row of another measure of the same training; ``LookupError`` where there is none."""
    found: SummaryRow = s.select(metric, **place_of(row))[0]
    return found


def trainings(s: Summary, o: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """Held-out bits of every width and budget, without those of the comparison of windows."""
    rows = s.select(BITS, part=TRAINING, learner=architecture)
    own = [row for row in rows if architecture == "transformer" or row["window"] == o.window]
    return sorted(own, key=lambda row: (row["budget"], row["width"]))


def frontier(s: Summary, o: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """Held-out bits of the best width at every budget."""
    best: dict[int, SummaryRow] = {}
    for row in trainings(s, o, architecture):
        if row["budget"] not in best or row.mean < best[row["budget"]].mean:
            best[row["budget"]] = row
    return [best[budget] for budget in sorted(best)]


def ngrams(s: Summary) -> list[SummaryRow]:
    """Held-out bits of the Witten-Bell models of the windows, by order, which is one more than their ``window``."""
    return sorted(s.select(BITS, part=REFERENCE, learner=NGRAM), key=lambda row: row["window"])


def compared_windows(s: Summary, o: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """Held-out bits by window, at one width and budget."""
    place = {"learner": architecture, "width": o.window_width, "budget": o.window_budget}
    return sorted(s.select(BITS, part=TRAINING, **place), key=lambda row: row["window"])


def ranking(s: Summary, o: ScalingOptions) -> list[tuple[str, SummaryRow]]:
    """Architectures at the largest budget, best first; empty where one is missing."""
    ends = {name: frontier(s, o, name) for name in ARCHITECTURES}
    if not all(rows and rows[-1]["budget"] == max(o.budgets) for rows in ends.values()):
        return []
    return sorted(((name, rows[-1]) for name, rows in ends.items()), key=lambda pair: pair[1].mean)


def gain(rows: Sequence[SummaryRow]) -> float:
    """Bits saved by the last step of a frontier; ``nan`` where there are not two budgets."""
    return rows[-2].mean - rows[-1].mean if len(rows) > 1 else NAN


def saving(rows: Sequence[SummaryRow]) -> Interval:
    """Bits that a frontier saves by ten times the compute; ``nan`` with fewer than four budgets."""
    return line_interval([math.log10(row["budget"]) for row in rows], [-row.mean for row in rows])


def drift_points(s: Summary, o: ScalingOptions, learner: str) -> list[tuple[SummaryRow, SummaryRow]]:
    """Held-out bits and characters until the distance passes 1, of all trainings of an architecture or all n-grams."""
    return [(row, of(s, row, PASSING)) for row in (ngrams(s) if learner == NGRAM else trainings(s, o, learner))]


def derived_rows(o: ScalingOptions, summary: Summary) -> Iterator[SummaryRow]:
    """Slopes of the frontiers where there are four budgets or more, and the rank correlation over all trainings."""
    s = paired(summary)
    for architecture in ARCHITECTURES:
        value, lower, upper = saving(frontier(s, o, architecture))
        if not math.isnan(value):
            method = "least squares over budgets, best widths"
            yield SummaryRow(TRAINING, {"learner": architecture}, SLOPE, value, lower, upper, 0, method)
    points = [point for learner in (*ARCHITECTURES, NGRAM) for point in drift_points(s, o, learner)]
    value = rank_correlation([bits.mean for bits, _ in points], [passed.mean for _, passed in points])
    if not math.isnan(value):
        yield derived(TRAINING, CORRELATION, value, "Spearman, over all trainings and n-gram models")


# -- tables ------------------------------------------------------------------------------------------------------------

#: of one training; of several they are intervals of that difference over the replicates
INTERVALS = f"95 % intervals are of the difference to the {COMMON_ORDER}-gram on the same text."


def flops(budget: int) -> str:
    """A budget, in words.

    >>> flops(128)
    '1.28e11'
    """
    exponent = math.floor(math.log10(budget)) + 9
    return f"{budget * 10.0 ** (9 - exponent):.3g}e{exponent}"


def gram(row: SummaryRow) -> str:
    """The name of an n-gram model."""
    return f"{row['window'] + 1}-gram" if row["window"] else "unigram"


def tables(o: ScalingOptions, summary: Summary) -> Iterator[Table]:
    """Held-out bits of the best width, by budget; every training with n-gram models of the same windows and the
    expert: what it cost, and what came out."""
    s, budgets, lines = paired(summary), sorted(o.budgets), []
    for architecture in ARCHITECTURES:
        best = {row["budget"]: f"{row.shown()} (e={row['width']})" for row in frontier(s, o, architecture)}
        lines.append([NAMES[architecture], *(best.get(budget, "") for budget in budgets)])
    share = s.value(UNKNOWN, part=REFERENCE)
    note = (
        f"Held-out bits a character, after them the best width e. {INTERVALS} Every learner has the same {o.n} windows "
        f"of {o.horizon} characters."
        f"{' One training each: what another seed would change is not in the intervals.' if o.seeds == 1 else ''}"
        f"{f' Of the characters {100 * share:.2g} % are unknown tokens, whose bits are too few.' if share > 0 else ''}"
    )
    yield Table("Equal data and compute", ["best width", *map(flops, budgets)], lines, note)
    made = [row for architecture in ARCHITECTURES for row in trainings(s, o, architecture)]
    rows = [(f"{NAMES[row['learner']]}, e={row['width']}, {flops(row['budget'])}", place_of(row)) for row in made]
    rows += [(f"{NGRAM}, n={row['window'] + 1}", place_of(row)) for row in ngrams(s)]
    for row in s.select(BITS, part=REFERENCE, learner=EXPERT):
        rows.append((f"expert: n={row['window'] + 1}, whole text", place_of(row)))
    counts = {"parameters": PARAMETERS, "steps": STEPS, "characters read": TOKENS}
    found = {"passes": EPOCHS, "bits, training": TRAIN_BITS, "bits, held out": BITS, "drifts after": PASSING}
    columns: Places = [
        ("operations", {"metric": FLOPS, "digits": 4}),
        *((head, {"metric": metric, "digits": 9}) for head, metric in counts.items()),
        *((head, {"metric": metric}) for head, metric in {**found, "KL a character": KL}.items()),
        ("seconds", {"metric": SECONDS, "timing": True}),
    ]
    note = (
        "Drifts after: characters until the squared Hellinger distance sum (sqrt P - sqrt Q)^2 to the expert's text, "
        "in [0, 2], passes 1. KL(expert || policy) in nats. Seconds of wall time depend on the machine. Intervals of "
        "the bits as above. The expert has seen all of the training text, and has nothing to drift from."
    )
    yield pivot(s, "Every training, and n-gram models of the same windows", BITS, rows, columns, note=note)


# -- figures -----------------------------------------------------------------------------------------------------------

GIGA = 1e9
LOOKS: dict[str, dict[str, Any]] = {
    "linear": {"color": COLOURS["vermilion"], "marker": "o", "linestyle": "-"},
    "mlp": {"color": COLOURS["green"], "marker": "s", "linestyle": "-"},
    "transformer": {"color": COLOURS["blue"], "marker": "D", "linestyle": "-"},
    NGRAM: {"color": COLOURS["grey"], "marker": "^"},
}


def compute_figure(s: Summary, o: ScalingOptions) -> Figure:
    """Held-out bits against compute: the best width of every architecture as a line, the others as faint points."""
    title = "Which architecture makes the most of equal data and compute?"
    for ahead, _ in ranking(s, o)[:1]:
        stopped = "; the linear model has stopped" if gain(frontier(s, o, "linear")) < FLAT else ""
        title = f"At equal compute the {NAMES[ahead]} predicts best{stopped}"
    figure, axes = new_figure(title, "floating-point operations of training", BITS, size=(9.0, 5.2))
    axes.set_xscale("log")
    for architecture in ARCHITECTURES:
        rows, best = trainings(s, o, architecture), frontier(s, o, architecture)
        if not rows:
            continue
        look, x = LOOKS[architecture], [row["budget"] * GIGA for row in best]
        faint = {**look, "linestyle": "", "markersize": 5, "alpha": 0.35}
        axes.plot([row["budget"] * GIGA for row in rows], [row.mean for row in rows], **faint)
        axes.plot(x, [row.mean for row in best], **look, markersize=7, zorder=3)
        errorbars(axes, x, best, look["color"])
        words = f"{NAMES[architecture]}, width {best[-1]['width']}"
        end_labels(axes, [(x[-1], best[-1].mean, words, look["color"])])
    if axes.lines:
        low, high = min(o.budgets) * GIGA, max(o.budgets) * GIGA
        axes.set_xlim(low / 1.3, high * max((high / low) ** 0.36, 4.0))
        colour = LOOKS[NGRAM]["color"]
        for row in ngrams(s):
            axes.plot([low, high], [row.mean] * 2, color=colour, linestyle=":", linewidth=1.2, zorder=1)
            end_labels(axes, [(high, row.mean, gram(row), colour)])
    return figure


def window_figure(s: Summary, o: ScalingOptions) -> Figure:
    """Held-out bits against the window, at one width and budget."""
    bits = {name: [row.mean for row in compared_windows(s, o, name)] for name in ("linear", "mlp")}
    linear, mlp = (min(values, default=NAN) for values in bits.values())
    title = "What does a longer window give?"
    if mlp < linear:
        title = f"No window gets the linear model below {linear:.2f} bits; the MLP reaches {mlp:.2f}"
    at = {"part": TRAINING, "width": o.window_width, "budget": o.window_budget}
    curves = [Curve({**at, "learner": name}, NAMES[name], look=LOOKS[name]) for name in ("linear", "mlp")]
    curves.append(Curve({"part": REFERENCE, "learner": NGRAM}, "n-gram", look={**LOOKS[NGRAM], "linestyle": ":"}))
    xlabel, windows = "characters that the predictor sees", sorted(o.windows)
    panel = Panel("window", xlabel, BITS, curves, yscale="linear", ticks=windows)
    return chart(s, title, BITS, panel)


def drift_figure(s: Summary, o: ScalingOptions) -> Figure:
    """When the text written drifts from the expert's, against the held-out bits; a point for every training."""
    title, correlation = "Does a better next-token loss drift later?", s.value(CORRELATION)
    if not math.isnan(correlation):
        tells = "The better the next-token loss, the later the text drifts, whatever the model"
        title = tells if correlation <= TELLS else "The next-token loss does not settle when the text drifts"
    ylabel = "characters written until the distance\nto the expert's text passes 1"
    figure, axes = new_figure(title, BITS, ylabel, size=(8.6, 5.0))
    budgets = sorted(o.budgets)
    sizes = dict(zip(budgets, np.linspace(5, 12, len(budgets)), strict=True))
    top = 0.0
    for learner in (NGRAM, *ARCHITECTURES):
        look = {**LOOKS[learner], "linestyle": ""}
        for bits, passed in drift_points(s, o, learner):
            size, top = sizes.get(bits["budget"], 8), max(top, passed.top)
            axes.plot([bits.mean], [passed.mean], **look, markersize=size, markeredgecolor="white", zorder=3)
            axes.plot([bits.mean] * 2, [passed.lower, passed.upper], color=look["color"], linewidth=1.2)
            if learner == NGRAM:
                words: dict[str, Any] = {"textcoords": "offset points", "color": look["color"], "fontsize": 9}
                axes.annotate(gram(bits), (bits.mean, passed.mean), xytext=(8, 6), **words)
        if learner != NGRAM and trainings(s, o, learner):
            axes.plot([], [], **look, markersize=8, label=NAMES[learner])
    if axes.get_legend_handles_labels()[0]:
        legend_title = f"larger: more compute ({budgets[0]} to {budgets[-1]} GFLOP)"
        axes.legend(loc="upper right", title=legend_title, fontsize=10, title_fontsize=9)
        log2_axis(axes, [2.0**k for k in range(-2, 10) if 2.0**k < 2 * top], which="y")
        axes.set_ylim(0.6, 1.4 * top)
    return figure


def setting(o: ScalingOptions) -> str:
    text = "the default text" if o.corpus == "default" else Path(o.corpus).name
    return f"{text}; n = {o.n:,} windows; H = {o.horizon}; {o.seeds} training{'s' * (o.seeds > 1)} of each"


def figures(o: ScalingOptions, summary: Summary) -> list[FigureSpec]:
    s = paired(summary)
    return [
        FigureSpec(
            "headline",
            "Which architecture makes the most of equal data and compute?",
            f"Lines: the best width at every budget; faint points: the other widths. {INTERVALS} Dotted: Witten-Bell "
            "n-gram models of the same training windows, which cost next to nothing.",
            lambda: compute_figure(s, o),
        ),
        FigureSpec(
            "drift",
            "Does a better next-token loss drift later?",
            "A point for every training (size: compute) and every n-gram model: how many characters it writes until "
            "the squared Hellinger distance to the expert's text, in [0, 2], passes 1. Bars: 95 % intervals.",
            lambda: drift_figure(s, o),
        ),
        FigureSpec(
            "window",
            "What does a longer window give?",
            f"Linear network and MLP, width {o.window_width}, {flops(o.window_budget)} operations: a wider window "
            f"means fewer steps. {INTERVALS} Dotted: Witten-Bell models, which see n - 1 characters.",
            lambda: window_figure(s, o),
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------


def findings(o: ScalingOptions, summary: Summary) -> Iterator[str]:
    """Who is best and still gains, how often the data were read, what a longer window gives, and who drifts when."""
    s = paired(summary)
    ranked, budgets, models = ranking(s, o), sorted(o.budgets), ngrams(s)
    if ranked:
        order = ", ".join(f"{NAMES[name]} {row.shown()} (width {row['width']})" for name, row in ranked)
        yield f"Held-out bits a character after {flops(budgets[-1])} operations, best widths: {order}. {INTERVALS}"
        if better := [f"n={row['window'] + 1}: {row.mean:.3f}" for row in models if row.mean < ranked[0][1].mean]:
            are = "Witten-Bell n-gram models of the same windows are better still, for next to nothing"
            yield f"{are}: {', '.join(better)}."
        if len(budgets) > 1:
            gains = ", ".join(f"{NAMES[name]} {gain(frontier(s, o, name)):.3f}" for name in ARCHITECTURES)
            yield f"Bits saved by the last step of compute ({flops(budgets[-2])} to {flops(budgets[-1])}): {gains}."
        if slopes := ", ".join(f"{NAMES[row['learner']]} {row.shown()}" for row in s.select(SLOPE)):
            yield f"Bits saved by ten times the compute, least squares over {len(budgets)} budgets: {slopes}."
        passes = ", ".join(
            f"{NAMES[name]} {of(s, row, EPOCHS).mean:.3g} times ({of(s, row, TRAIN_BITS).mean:.3f} bits there)"
            for name, row in ranked
        )
        yield f"All learn from the same {o.n} windows; with that budget they read them: {passes}."
    windows = []
    for architecture in ("linear", "mlp"):
        if compared := compared_windows(s, o, architecture):
            bits = ", ".join(f"{row.mean:.3f} ({row['window']})" for row in compared)
            windows.append(f"{NAMES[architecture]} {bits}")
    if windows:
        where = f"width {o.window_width}, {flops(o.window_budget)} operations"
        said = f"Bits a character by window (in brackets), {where}: {'; '.join(windows)}"
        yield f"{said}. A wider one means fewer steps."
    for row in s.select(CORRELATION) if ranked else ():
        ends = ", ".join(f"{NAMES[name]} {of(s, end, PASSING).shown()}" for name, end in ranked)
        drifts = ", ".join(f"n={bits['window'] + 1}: {at.mean:.2f}" for bits, at in drift_points(s, o, NGRAM))
        yield (
            "Rank correlation between held-out bits and the characters until the squared Hellinger distance to the "
            f"expert's text passes 1: {row.mean:.2f} over all trainings and n-gram models."
        )
        yield (
            f"Characters until then with the largest budget: {ends}; Witten-Bell models of the same windows "
            f"{drifts or NOT_MEASURED}."
        )


STUDY = Study(
    name="scaling",
    question="Linear, MLP or transformer: which predicts text best at equal data and compute, and which drifts last?",
    options=ScalingOptions,
    cells=cells,
    analyse=analysis(rows=derived_rows, tables=tables, figures=figures, findings=findings, setting=setting),
    labels=("budget", "width", "window"),
    reads=("corpus",),
)
