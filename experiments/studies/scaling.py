"""Linear, MLP and transformer at equal data and compute on real text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents import make_agent
from experiments import charts
from experiments.cells import Cell, Label, Record, keyed_rng
from experiments.measure import TrainingClock, require_torch
from experiments.panels import Curve, Guide, Panel, chart
from experiments.study import FigureSpec, Study, analysis, option
from experiments.summary import NAN, Places, Summary, SummaryRow, Table, derived, line_interval, pivot, rank_correlation
from experiments.texts import ABOVE, BITS, COMMON_ORDER, KL, PASSING, TRAIN_BITS, UNKNOWN, CorpusOption, judged
from ntp_envs import Demonstrations, NGramClass
from ntp_envs.tasks import Text

if TYPE_CHECKING:  # needs torch
    from agents.neural import NetworkClass


@dataclass(frozen=True)
class ScalingOptions(CorpusOption):
    """Sizes of the sweep; the defaults are the full study, some hours of processor time, which can be interrupted."""

    max_chars: int = option(500_000)
    """Characters of the text to read at most; the last tenth is held out."""
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
    window: int = option(8, most="horizon")
    """Characters that the linear network and the MLP see; the transformer sees all."""
    windows: tuple[int, ...] = option((1, 2, 4, 8, 16, 32), quick=(1, 2, 4, 8, 16), most="horizon")
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
PROMPT_LENGTH, CHECKPOINTS, GIGA = 8, 20, 1e9


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
    return round(budget * GIGA / network.training_flops(batch_size))


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
        own: set[tuple[int, int | None]] = set(product(o.widths, [o.window]))
        shapes = own | {(o.window_width, window) for window in o.windows if budget == o.window_budget}
        if architecture == "transformer":
            own = shapes = {(width, None) for width in o.transformer_widths}
        networks = {shape: network_for(architecture, task, *shape) for shape in sorted(shapes)}
        taken = [at for at, network in networks.items() if steps_within(budget, network, o.batch_size) >= LEAST_STEPS]
        if not own.intersection(taken):
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


def of(s: Summary, row: SummaryRow, metric: str) -> SummaryRow:
    """The row of another measure of the same training; ``LookupError`` where there is none."""
    found: SummaryRow = s.select(metric, part=row.part, **row.labels)[0]
    return found


def trainings(s: Summary, o: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """Held-out bits of every width and budget, without those of the comparison of windows."""
    own = {} if architecture == "transformer" else {"window": o.window}
    return sorted(
        s.select(BITS, part=TRAINING, learner=architecture, **own), key=lambda row: (row["budget"], row["width"])
    )


def frontier(s: Summary, o: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """Held-out bits of the best width at every budget."""
    rows = groupby(trainings(s, o, architecture), key=lambda row: row["budget"])
    return [min(some, key=lambda row: row.mean) for _, some in rows]


def by_window(s: Summary, learner: str, **where: Any) -> list[SummaryRow]:
    """Held-out bits by window: of the Witten-Bell models, whose order is one more, or at one width and budget."""
    return sorted(s.select(BITS, learner=learner, **where), key=lambda row: row["window"])


def ranking(s: Summary, o: ScalingOptions) -> list[tuple[str, SummaryRow]]:
    """Architectures at the largest budget, best first; empty where one is missing."""
    ends = [(name, row) for name in ARCHITECTURES for row in frontier(s, o, name) if row["budget"] == max(o.budgets)]
    return sorted(ends, key=lambda pair: pair[1].mean) if len(ends) == len(ARCHITECTURES) else []


def gain(rows: Sequence[SummaryRow]) -> float:
    """Bits saved by the last step of a frontier; ``nan`` where there are not two budgets."""
    return rows[-2].mean - rows[-1].mean if len(rows) > 1 else NAN


def drift_points(s: Summary, o: ScalingOptions, learner: str) -> list[tuple[SummaryRow, SummaryRow]]:
    """Held-out bits and characters until the distance passes 1, of all trainings of an architecture or all n-grams."""
    rows = by_window(s, NGRAM) if learner == NGRAM else trainings(s, o, learner)
    return [(row, of(s, row, PASSING)) for row in rows]


def derived_rows(o: ScalingOptions, summary: Summary) -> Iterator[SummaryRow]:
    """Slopes of the frontiers where there are four budgets or more, and the rank correlation over all trainings."""
    s = paired(summary)
    for architecture in ARCHITECTURES:
        best = frontier(s, o, architecture)
        found = line_interval([math.log10(row["budget"]) for row in best], [-row.mean for row in best])
        if not math.isnan(found[0]):
            method = "least squares over budgets, best widths"
            yield SummaryRow(TRAINING, {"learner": architecture}, SLOPE, *found, 0, method)
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
    return f"{budget * GIGA:.3g}".replace("e+0", "e").replace("e+", "e")


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
    made = [(NAMES[name], row) for name in ARCHITECTURES for row in trainings(s, o, name)]
    names = [(f"{name}, e={row['width']}, {flops(row['budget'])}", row) for name, row in made]
    names += [(f"{NGRAM}, n={row['window'] + 1}", row) for row in by_window(s, NGRAM)]
    names += [(f"expert: n={row['window'] + 1}, whole text", row) for row in by_window(s, EXPERT)]
    rows = [(name, {"part": row.part, **row.labels}) for name, row in names]
    counts = {"parameters": PARAMETERS, "steps": STEPS, "characters read": TOKENS}
    found = {"passes": EPOCHS, "bits, training": TRAIN_BITS, "bits, held out": BITS, "drifts after": PASSING}
    columns: Places = [("operations", {"metric": FLOPS, "digits": 4})]
    columns += [(head, {"metric": metric, "digits": 9}) for head, metric in counts.items()]
    columns += [(head, {"metric": metric}) for head, metric in {**found, "KL a character": KL}.items()]
    columns += [("seconds", {"metric": SECONDS, "timing": True})]
    note = (
        "Drifts after: characters until the squared Hellinger distance sum (sqrt P - sqrt Q)^2 to the expert's text, "
        "in [0, 2], passes 1. KL(expert || policy) in nats. Seconds of wall time depend on the machine. Intervals of "
        "the bits as above. The expert has seen all of the training text, and has nothing to drift from."
    )
    yield pivot(s, "Every training, and n-gram models of the same windows", BITS, rows, columns, note=note)


# -- figures -----------------------------------------------------------------------------------------------------------

LOOKS: dict[str, dict[str, Any]] = {
    "linear": {"color": charts.COLOURS["vermilion"], "marker": "o", "linestyle": "-"},
    "mlp": {"color": charts.COLOURS["green"], "marker": "s", "linestyle": "-"},
    "transformer": {"color": charts.COLOURS["blue"], "marker": "D", "linestyle": "-"},
    NGRAM: {"color": charts.COLOURS["grey"], "marker": "^", "linestyle": ":"},
}


def compute_figure(s: Summary, o: ScalingOptions, title: str) -> charts.Figure:
    """Held-out bits against compute: the best width of every architecture as a line, the others as faint points."""
    for ahead, _ in ranking(s, o)[:1]:
        stopped = "; the linear model has stopped" if gain(frontier(s, o, "linear")) < FLAT else ""
        title = f"At equal compute the {NAMES[ahead]} predicts best{stopped}"
    rows, curves = [], []
    for name in ARCHITECTURES:
        best, look = frontier(s, o, name), LOOKS[name]
        faint = {**look, "linestyle": "", "markersize": 5, "alpha": 0.35}
        for row in trainings(s, o, name):
            labels = {**row.labels, "operations": row["budget"] * GIGA, "best": row in best}
            ends = (row.lower, row.upper) if row in best else (NAN, NAN)
            rows.append(replace(row, labels=labels, lower=ends[0], upper=ends[1]))
        curves.append(Curve({"learner": name, "best": False}, look=faint))
        for row in best[-1:]:
            curves.append(Curve({"learner": name, "best": True}, f"{NAMES[name]}, width {row['width']}", look=look))
    end = max(o.budgets) * GIGA
    guides = [Guide(level=row.mean, note=gram(row), at=(end, row.mean)) for row in by_window(s, NGRAM)]
    xlabel, scales = "floating-point operations of training", dict[str, Any](xscale="log", yscale="linear")
    return chart(
        Summary(rows), title, BITS, Panel("operations", xlabel, BITS, curves, guides, **scales), size=(9.0, 5.2)
    )


def window_figure(s: Summary, o: ScalingOptions, title: str) -> charts.Figure:
    """Held-out bits against the window, at one width and budget."""
    at = {"width": o.window_width, "budget": o.window_budget}
    linear, mlp = (min((row.mean for row in by_window(s, name, **at)), default=NAN) for name in ("linear", "mlp"))
    if mlp < linear:
        title = f"No window gets the linear model below {linear:.2f} bits; the MLP reaches {mlp:.2f}"
    curves = [Curve({**at, "learner": name}, NAMES[name], look=LOOKS[name]) for name in ("linear", "mlp")]
    curves.append(Curve({"learner": NGRAM}, "n-gram", look=LOOKS[NGRAM]))
    xlabel, windows = "characters that the predictor sees", sorted(o.windows)
    return chart(s, title, BITS, Panel("window", xlabel, BITS, curves, yscale="linear", ticks=windows))


def drift_figure(s: Summary, o: ScalingOptions, title: str) -> charts.Figure:
    """When the text written drifts from the expert's, against the held-out bits; a point for every training."""
    correlation = s.value(CORRELATION)
    if not math.isnan(correlation):
        tells = "The better the next-token loss, the later the text drifts, whatever the model"
        title = tells if correlation <= TELLS else "The next-token loss does not settle when the text drifts"
    ylabel = "characters written until the distance\nto the expert's text passes 1"
    figure, axes = charts.new_figure(title, BITS, ylabel, size=(8.6, 5.0))
    budgets, points = sorted(o.budgets), {name: drift_points(s, o, name) for name in (NGRAM, *ARCHITECTURES)}
    charts.say_data(figure, [bits for some in points.values() for bits, _ in some])
    sizes = dict(zip([None, *budgets], [8.0, *np.linspace(5, 12, len(budgets))], strict=True))
    for learner, bits, passed in ((learner, *both) for learner, some in points.items() for both in some):
        look = {"marker": LOOKS[learner]["marker"], "markersize": sizes[bits["budget"]], "label": NAMES.get(learner)}
        charts.errorbars(
            axes, [bits.mean], [passed], LOOKS[learner]["color"], **look, markeredgecolor="white", capsize=0
        )
        if learner == NGRAM:
            axes.annotate(gram(bits), (bits.mean, passed.mean), xytext=(8, 6), **charts.text(NGRAM))
    if axes.has_data():
        top = max(passed.top for some in points.values() for _, passed in some)
        charts.log2_axis(axes, [2.0**k for k in range(-2, 10) if 2.0**k < 2 * top], which="y")
        axes.set_ylim(0.6, 1.4 * top)
    charts.say(figure, f"larger: more compute ({budgets[0]} to {budgets[-1]} GFLOP)")
    charts.legend_below(figure, NAMES.values())
    return figure


def figures(o: ScalingOptions, summary: Summary) -> Iterator[FigureSpec]:
    """Each with a question, which is its title where there is no answer."""
    drawn = {
        "headline": (
            compute_figure,
            "Which architecture makes the most of equal data and compute?",
            f"Lines: the best width at every budget; faint points: the other widths. {INTERVALS} Dotted: Witten-Bell "
            "n-gram models of the same training windows, which cost next to nothing.",
        ),
        "drift": (
            drift_figure,
            "Does a better next-token loss drift later?",
            "A point for every training (size: compute) and every n-gram model: how many characters it writes until "
            "the squared Hellinger distance to the expert's text, in [0, 2], passes 1. Bars: 95 % intervals.",
        ),
        "window": (
            window_figure,
            "What does a longer window give?",
            f"Linear network and MLP, width {o.window_width}, {flops(o.window_budget)} operations: a wider window "
            f"means fewer steps. {INTERVALS} Dotted: Witten-Bell models, which see n - 1 characters.",
        ),
    }
    for name, (draw, title, caption) in drawn.items():
        yield FigureSpec(name, title, caption, partial(draw, paired(summary), o, title))


# -- findings ----------------------------------------------------------------------------------------------------------


def findings(o: ScalingOptions, summary: Summary) -> Iterator[str]:
    """Who is best and still gains, how often the data were read, what a longer window gives, and who drifts when."""
    s = paired(summary)
    ranked, budgets = ranking(s, o), sorted(o.budgets)
    if ranked:
        order = ", ".join(f"{NAMES[name]} {row.shown()} (width {row['width']})" for name, row in ranked)
        yield f"Held-out bits a character after {flops(budgets[-1])} operations, best widths: {order}. {INTERVALS}"
        models = [row for row in by_window(s, NGRAM) if row.mean < ranked[0][1].mean]
        if better := ", ".join(f"n={row['window'] + 1}: {row.mean:.3f}" for row in models):
            yield f"Witten-Bell n-gram models of the same windows are better still, for next to nothing: {better}."
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
    at, windows = {"width": o.window_width, "budget": o.window_budget}, []
    for name in ("linear", "mlp"):
        if bits := ", ".join(f"{row.mean:.3f} ({row['window']})" for row in by_window(s, name, **at)):
            windows.append(f"{NAMES[name]} {bits}")
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
            f"{drifts or 'not measured'}."
        )


STUDY = Study(
    name="scaling",
    question="Linear, MLP or transformer: which predicts text best at equal data and compute, and which drifts last?",
    options=ScalingOptions,
    cells=cells,
    analyse=analysis(
        rows=derived_rows,
        tables=tables,
        figures=figures,
        findings=findings,
        setting=lambda o: "the default text" if o.corpus == "default" else Path(o.corpus).name,
    ),
    labels=("budget", "width", "window"),
    reads=("corpus",),
)
