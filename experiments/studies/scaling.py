"""Linear, MLP and transformer at equal data and compute on real text."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents import make_agent
from agents.neural import NetworkClass
from experiments import measure
from experiments.cells import Cell, Label, Record, keyed_rng
from experiments.measure import check_distinct, powers_of_two, require_torch
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Summary, SummaryRow, Table, derived, number, with_interval
from ntp_envs import Demonstrations, NGramClass, Policy, distance_curves
from ntp_envs.checks import check_int
from ntp_envs.tasks import Text
from ntp_envs.text import BitsPerChar, text_log_probs

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScalingOptions:
    """Sizes of the sweep; the defaults are the full study, some hours of processor time, which can be interrupted."""

    corpus: str = "default"
    """The text, character by character: the default, a file, or a Hugging Face data set; see `ntp_envs.tasks.Text`."""
    max_chars: int = 500_000
    """Characters of it to read at most; the last tenth is held out."""
    horizon: int = 32
    """Length H of the training windows and of the text written; the prompt before it has 8 characters."""
    n: int = 16384
    """Training windows: the data of every learner."""
    budgets: tuple[int, ...] = (4, 16, 64, 256, 1024, 4096)
    """Compute of a training, in 10^9 floating-point operations."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Widths of the linear network and the MLP. One that makes less than 10 steps with a budget is left out."""
    transformer_widths: tuple[int, ...] = (32, 64, 128)
    """Widths of the transformer, multiples of 4."""
    window: int = 8
    """Characters that the linear network and the MLP see; the transformer sees all."""
    windows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Windows of the comparison of windows."""
    window_budget: int = 256
    """Its budget, one of ``budgets``."""
    window_width: int = 64
    """Its width, one of ``widths``."""
    batch_size: int = 16
    """Windows a step; less than ``n``."""
    orders: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Orders of the n-gram models to compare with."""
    samples: int = 4000
    """Sequences that estimate a distance."""
    seeds: int = 3
    """Replicates: other training windows, other weights."""
    device: str = "cpu"
    """Where networks train, such as ``cuda``; only the CPU gives the same numbers again."""

    def __post_init__(self) -> None:
        for name in ("max_chars", "n", "batch_size", "seeds"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("horizon", self.horizon, minimum=2)
        check_int("samples", self.samples, minimum=4)
        for name in ("budgets", "widths", "transformer_widths"):
            check_distinct(name, getattr(self, name), minimum=1)
        for width in self.transformer_widths:
            if width % 4:
                raise ValueError(f"transformer_widths={width} must be a multiple of 4, the number of its heads.")
        if self.batch_size >= self.n:
            raise ValueError(f"batch_size={self.batch_size} must be below n={self.n}, the number of windows.")
        check_distinct("orders", self.orders, minimum=1)
        check_int("window", self.window, minimum=1, maximum=self.horizon)
        check_distinct("windows", self.windows, minimum=1, maximum=self.horizon)
        for name, of in (("window_budget", "budgets"), ("window_width", "widths")):
            if getattr(self, name) not in getattr(self, of):
                raise ValueError(f"{name}={getattr(self, name)} must be one of {of}={getattr(self, of)}.")

    @classmethod
    def quick(cls) -> ScalingOptions:
        """About a minute on two cores."""
        return cls(
            n=4096,
            budgets=(2, 15, 100),
            widths=(64, 128),
            transformer_widths=(32, 64),
            windows=(1, 2, 4, 8, 16),
            window_budget=15,
            samples=2000,
            seeds=1,
        )


# -- What a training step costs: floating-point operations, counted from the architecture -----------------------------


#: a multiply-add is two operations, and the backward pass costs two forward passes (for weights and for inputs)
OPERATIONS = 2 * 3


def training_flops(network: NetworkClass, batch_size: int) -> int:
    """Floating-point operations of one step of teacher forcing on ``batch_size`` sequences of H tokens.

    Forward and backward, matrix products only: the convention of Kaplan et al. (2020, arXiv:2001.08361, section 2.1),
    without its approximations. Embedding look-ups are free, and so are sums, activations, norms, softmax and the
    optimiser. What the networks of `agents.neural` really do is counted:

    * a window network (``"linear"``, ``"mlp"``) of width e over W places maps each of the A + 2 tokens once for each
      place, W (A + 2) e^2 multiply-adds a step whatever the batch, and then looks sums up; the hidden layers cost e^2
      and the output e A a token;
    * a transformer reads S = G + H - 1 vectors (G of the prompt) with 12 e^2 multiply-adds each in a block and 2 S^2 e
      in its attention, masked places included; the last block asks only for the H vectors that predict.

    Args:
        network: its architecture and sizes.
        batch_size: sequences a step.

    >>> from agents.neural import NetworkClass
    >>> spec = NetworkClass("linear", 10, prompt_length=2, horizon=5, width=8, window=3)
    >>> training_flops(spec, 4) == 6 * (3 * 12 * 64 + 4 * 5 * 8 * 10)
    True
    """
    e, tokens = network.width, batch_size * network.horizon
    output = tokens * e * network.vocab_size
    if network.architecture == "transformer":
        return OPERATIONS * (batch_size * _blocks(network) + output)
    places = network.horizon if network.positional else 1
    table = places * network.window_length * (network.vocab_size + 2) * e * e
    hidden = (network.layers - 1 if network.architecture == "mlp" else 0) * tokens * e * e
    return OPERATIONS * (table + hidden + output)


def _blocks(network: NetworkClass) -> int:
    """Multiply-adds of all blocks for one sequence."""
    e, rows = network.width, network.horizon
    size = max(network.prompt_length // network.prompt_group, 1) + network.horizon - 1
    total = 0
    for block in range(network.layers):
        asked = rows if block == network.layers - 1 else size
        total += 2 * size * e * e + 10 * asked * e * e + 2 * asked * size * e  # keys and values; the rest; attention
    return total


def steps_within(budget: float, network: NetworkClass, batch_size: int) -> int:
    """The number of steps whose cost is nearest to a budget in operations; 0 where one step is over twice of it."""
    return round(budget / training_flops(network, batch_size))


# -- How well a policy predicts the text, and how soon the text that it writes drifts from the expert's ---------------


BITS, TRAIN_BITS = "bits a character, held out", "bits a character, training windows"
#: of the Witten-Bell model that all are compared with on the same text, which takes out most of the text's own scatter
COMMON_ORDER = 3
ABOVE = f"bits a character above the {COMMON_ORDER}-gram, held out"
UNKNOWN = "share of unknown tokens, held out"
KL = "KL(expert || policy) (nats a character)"
#: of the squared Hellinger distance, which is in [0, 2]
LEVEL = 1.0
PASSING = "characters until the distance passes 1"


def judged(
    task: Text,
    policy: Policy,
    windows: Demonstrations,
    nats: float,
    labels: dict[str, Label],
    samples: int,
    rng: np.random.Generator,
) -> list[Record]:
    """Records of a policy.

    * ``BITS``: teacher-forced on the held-out text, with the interval of its blocks, most of which all policies share.
    * ``ABOVE``: the same less that of the Witten-Bell 3-gram of the windows, with the interval of the difference.
    * ``TRAIN_BITS``: on the training windows.
    * ``hellinger2``: ``sum (sqrt P - sqrt Q)^2`` between the expert's and the policy's own text, in [0, 2], after
      h = 1, 2, 4, ... and H characters.
    * ``PASSING``: how many characters it takes until that passes 1; H where it does not.
    * ``KL``: of all H characters, expert first, divided by H.

    Args:
        task: with tokens that are characters.
        policy: of any kind.
        windows: of training.
        nats: its log-loss on them, in nats a window.
        labels: of all records.
        samples: sequences that estimate the distances; 0 leaves them out.
        rng: draws them.
    """
    common = make_agent("NGramBC").fit(windows, NGramClass(task.vocab_size, COMMON_ORDER), rng=rng).policy_
    own, other = (_held_out(task, each) for each in (policy, common))
    lengths = task.data.held_out.lengths[task.prompt_length :]
    method, records = "held-out text", []
    for metric, log_probs in ((BITS, own), (ABOVE, own - other)):
        scored = BitsPerChar.of(log_probs, lengths)
        records.append(Record(metric, scored.value, labels, *scored.interval, method))
    records.append(Record(TRAIN_BITS, nats / task.horizon / math.log(2.0), labels, method="training windows"))
    if not samples:
        return records
    curves = distance_curves(
        task.expert, policy, task, metrics=("hellinger2", "kl"), method="monte carlo", n=samples, rng=rng
    )
    near, far = curves["hellinger2"], curves["kl"]
    method = f"{near.method}, n={near.n}"
    for h in sorted({*powers_of_two(task.horizon), task.horizon}):
        ends = float(near.lower[h - 1]), float(near.upper[h - 1])
        records.append(Record("hellinger2", float(near.values[h - 1]), {**labels, "h": h}, *ends, method))
    soonest, middle, latest = (passing(curve) for curve in (near.upper, near.values, near.lower))
    records.append(Record(PASSING, middle, labels, soonest, latest, method))
    kl, least, most = (float(curve[-1]) / task.horizon for curve in (far.values, far.lower, far.upper))
    records.append(Record(KL, kl, labels, least, most, method))
    return records


def _held_out(task: Text, policy: Policy) -> NDArray[np.float64]:
    """Log-probabilities (nats) of the held-out text, as `Text.bits_per_char` reads it."""
    return text_log_probs(policy, task.data.held_out.tokens, prompt_length=task.prompt_length, window=task.horizon)


def passing(curve: NDArray[np.float64]) -> float:
    """Where a ``(H,)`` curve first reaches `LEVEL`; H where it stays below."""
    return min(measure.passing(curve, LEVEL), float(len(curve)))


# -- The cells of the study: one training each, and one for every n-gram model to compare with ------------------------


TRAINING, REFERENCE = "training", "reference"
ARCHITECTURES = ("linear", "mlp", "transformer")
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


class Clock:
    """Wall seconds of a training that may be stopped and resumed, in a file beside its checkpoint."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.before = float(path.read_text()) if path.exists() else 0.0
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def __call__(self, step: int, loss: float, speed: float) -> None:
        """After every step."""
        if step % self.every == 0:
            self.path.write_text(f"{self.seconds!r}")


def trained(
    *,
    architecture: str,
    width: int,
    window: int | None,
    budget: int,
    batch_size: int,
    corpus: str,
    max_chars: int,
    H: int,
    n: int,
    samples: int,
    device: str,
    replicate: int,
    rng: np.random.Generator,
    scratch: Path,
) -> list[Record]:
    """One network trained within a budget of 10^9 operations: how well it predicts, and how soon its text drifts."""
    from agents.neural import NeuralBC

    task = text_task(corpus, max_chars, H)
    windows = shared_windows(task, n, replicate)
    spec = network_for(architecture, task, width, window)
    size = min(batch_size, len(windows.pooled()))  # as many as there are different ones
    steps = steps_within(budget * 1e9, spec, size)
    every = max(steps // CHECKPOINTS, 1)
    clock = Clock(scratch / "seconds", every)
    agent = NeuralBC(
        steps=steps,
        batch_size=batch_size,
        learning_rate=TRANSFORMER_RATE / width if architecture == "transformer" else LEARNING_RATE,
        warmup=math.ceil(WARMUP * steps),
        device=device,
        checkpoint=scratch,
        checkpoint_every=every,
        progress=clock,
    )
    agent.fit(windows, spec, rng=rng)
    labels: dict[str, Label] = {
        "task": task.name,
        "learner": architecture,
        "H": H,
        "n": n,
        "budget": budget,
        "width": width,
        "window": context(spec),
    }
    sizes = {
        FLOPS: steps * training_flops(spec, size),
        STEPS: steps,
        TOKENS: steps * size * H,
        EPOCHS: steps * size / n,
        PARAMETERS: spec.n_parameters,
    }
    records = [Record(metric, float(value), labels, method="count") for metric, value in sizes.items()]
    records.append(Record(SECONDS, clock.seconds, labels, machine=True))
    return records + judged(task, agent.policy_, windows, agent.fit_report_.objective, labels, samples, rng)


def context(spec: NetworkClass) -> int:
    """The most characters that the network sees."""
    if spec.architecture == "transformer":
        return spec.prompt_length + spec.horizon - 1
    return spec.window_length


def reference(
    *,
    order: int | None,
    corpus: str,
    max_chars: int,
    H: int,
    n: int,
    samples: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
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
    shared = {"corpus": options.corpus, "max_chars": options.max_chars, "H": options.horizon, "n": options.n}
    shared |= {"samples": options.samples}
    own = {"batch_size": options.batch_size, "device": options.device}
    places = list(_places(options, task))
    for replicate in range(options.seeds):
        for place in places:
            yield Cell(TRAINING, trained, {**place, **own, **shared, "replicate": replicate}, scratch=True)
    for replicate in range(options.seeds):
        for order in options.orders:
            yield Cell(REFERENCE, reference, {"order": order, **shared, "replicate": replicate})
    yield Cell(REFERENCE, reference, {"order": None, **shared, "replicate": 0})


def _places(options: ScalingOptions, task: Text) -> Iterator[dict[str, Any]]:
    """Architecture, width, window and budget of every training."""
    for budget in sorted(options.budgets, reverse=True):
        for architecture in ARCHITECTURES:
            found = 0
            for width, window in _shapes(options, architecture, compared=budget == options.window_budget):
                spec = network_for(architecture, task, width, window)
                if steps_within(budget * 1e9, spec, options.batch_size) >= LEAST_STEPS:
                    found += window in (None, options.window)
                    yield {"architecture": architecture, "width": width, "window": window, "budget": budget}
            if not found:
                raise ValueError(
                    f"budgets={budget} (10^9 operations) gives no {architecture} as many as {LEAST_STEPS} steps; "
                    f"raise it, or lower widths, transformer_widths or batch_size={options.batch_size}."
                )


def _shapes(options: ScalingOptions, architecture: str, *, compared: bool) -> list[tuple[int, int | None]]:
    """Widths and windows of an architecture; where windows are compared, those of the comparison as well."""
    if architecture == "transformer":
        return [(width, None) for width in sorted(options.transformer_widths)]
    shapes = {(width, options.window) for width in options.widths}
    if compared:
        shapes |= {(options.window_width, window) for window in options.windows}
    return sorted(shapes)


# -- What the summary says of an architecture, for the tables, the findings and the figures ---------------------------


#: of the architectures, in sentences and figures
NAMES = {"linear": "linear", "mlp": "MLP", "transformer": "transformer"}


def paired(summary: Summary, **labels: Any) -> list[SummaryRow]:
    """Held-out bits, each with the interval of its difference to the 3-gram on the same text."""
    rows = []
    for row in summary.select(BITS, **labels):
        above = of(summary, row, ABOVE)
        rows.append(replace(row, lower=row.mean + above.lower - above.mean, upper=row.mean + above.upper - above.mean))
    return rows


def trainings(summary: Summary, options: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """`paired` bits of every width and budget, without those of the comparison of windows."""
    rows = paired(summary, part=TRAINING, learner=architecture)
    kept = [row for row in rows if architecture == "transformer" or row["window"] == options.window]
    return sorted(kept, key=lambda row: (row["budget"], row["width"]))


def frontier(summary: Summary, options: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """`paired` bits of the best width at every budget."""
    best: dict[int, SummaryRow] = {}
    for row in trainings(summary, options, architecture):
        if row["budget"] not in best or row.mean < best[row["budget"]].mean:
            best[row["budget"]] = row
    return [best[budget] for budget in sorted(best)]


def of(summary: Summary, row: SummaryRow, metric: str) -> SummaryRow:
    """The row of another measure of the same training.

    Raises:
        LookupError: there is none.
    """
    found = summary.select(metric, part=row.part, **row.labels)
    if not len(found):
        raise LookupError(f"no {metric!r} of {dict(row.labels)}")
    return found[0]


def ngrams(summary: Summary) -> list[SummaryRow]:
    """`paired` bits of the Witten-Bell models of the windows, by order, which is one more than their ``window``."""
    return sorted(paired(summary, part=REFERENCE, learner=NGRAM), key=lambda row: row["window"])


def compared_windows(summary: Summary, options: ScalingOptions, architecture: str) -> list[SummaryRow]:
    """`paired` bits by window, at one width and budget."""
    place = {"learner": architecture, "width": options.window_width, "budget": options.window_budget}
    return sorted(paired(summary, part=TRAINING, **place), key=lambda row: row["window"])


def gain(rows: Sequence[SummaryRow]) -> float:
    """Bits saved by the last step of a frontier; ``nan`` where there are not two budgets."""
    return rows[-2].mean - rows[-1].mean if len(rows) > 1 else math.nan


class Slope(NamedTuple):
    """Bits saved by ten times the compute, by least squares, and its 95 % interval."""

    value: float
    lower: float
    upper: float


def slope(rows: Sequence[SummaryRow]) -> Slope | None:
    """Of a frontier in log compute; ``None`` with fewer than four budgets.

    The interval is that of the residuals about the line (Student's t), rounding aside: where the frontier bends it is
    wide.
    """
    if len(rows) < 4:
        return None
    from scipy.stats import linregress, t

    fit = linregress([math.log10(row["budget"]) for row in rows], [row.mean for row in rows])
    half = float(t.ppf(0.975, len(rows) - 2)) * fit.stderr
    return Slope(*(round(float(value), 9) for value in (-fit.slope, -fit.slope - half, -fit.slope + half)))


def drift_points(summary: Summary, options: ScalingOptions, learner: str) -> list[tuple[SummaryRow, SummaryRow]]:
    """Held-out bits and characters until the distance passes 1, of all trainings of an architecture or all n-grams."""
    rows = ngrams(summary) if learner == NGRAM else trainings(summary, options, learner)
    return [(row, of(summary, row, PASSING)) for row in rows]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's; ``nan`` with fewer than three points or all equal.

    >>> rank_correlation([1.0, 2.0, 5.0], [9.0, 4.0, 1.0])
    -1.0
    """
    if len(x) < 3 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return math.nan
    from scipy.stats import rankdata

    return round(float(np.corrcoef(rankdata(x), rankdata(y))[0, 1]), 9)


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


GIGA = 1e9
COMPUTE = "floating-point operations of training"


def looks() -> dict[str, dict[str, Any]]:
    """Colour and marker by learner."""
    from experiments.charts import COLOURS

    return {
        "linear": {"color": COLOURS["vermilion"], "marker": "o"},
        "mlp": {"color": COLOURS["green"], "marker": "s"},
        "transformer": {"color": COLOURS["blue"], "marker": "D"},
        NGRAM: {"color": COLOURS["grey"], "marker": "^"},
    }


def bars(axes: Axes, x: Sequence[float], rows: Sequence[SummaryRow], colour: str) -> None:
    """95 % intervals."""
    mean, lower, upper = (np.array([getattr(row, name) for row in rows]) for name in ("mean", "lower", "upper"))
    ends = np.maximum(np.stack([mean - lower, upper - mean]), 0.0)
    axes.errorbar(x, mean, ends, fmt="none", ecolor=colour, elinewidth=1.2, capsize=2)


def ngram_lines(axes: Axes, summary: Summary, right: float) -> list[tuple[float, float, str, str]]:
    """Horizontal lines of the n-gram models, and the labels for their ends at ``right``."""
    colour = looks()[NGRAM]["color"]
    labels = []
    for row in ngrams(summary):
        axes.axhline(row.mean, color=colour, linestyle=":", linewidth=1.2, zorder=1)
        order = row["window"] + 1
        labels.append((right, row.mean, "unigram" if order == 1 else f"{order}-gram", colour))
    return labels


def compute_figure(summary: Summary, options: ScalingOptions, title: str) -> Figure:
    """Held-out bits against compute: the best width of every architecture as a line, the others as faint points."""
    from experiments.charts import end_labels, new_figure

    figure, axes = new_figure(title, COMPUTE, BITS, size=(9.0, 5.2))
    labels = []
    for architecture in ARCHITECTURES:
        rows = trainings(summary, options, architecture)
        if not rows:
            continue
        look, best = looks()[architecture], frontier(summary, options, architecture)
        x, faint = [row["budget"] * GIGA for row in best], {**look, "linestyle": "", "markersize": 5}
        axes.plot([row["budget"] * GIGA for row in rows], [row.mean for row in rows], **faint, alpha=0.35)
        axes.plot(x, [row.mean for row in best], **look, markersize=7, zorder=3)
        bars(axes, x, best, look["color"])
        labels.append((x[-1], best[-1].mean, f"{NAMES[architecture]}, width {best[-1]['width']}", look["color"]))
    axes.set_xscale("log")
    if labels:
        low, high = min(options.budgets) * GIGA, max(options.budgets) * GIGA
        room = max((high / low) ** 0.36, 4.0)
        axes.set_xlim(low / 1.3, high * room)
        end_labels(axes, [*labels, *ngram_lines(axes, summary, high * room)])
    return figure


def window_figure(summary: Summary, options: ScalingOptions, title: str) -> Figure:
    """Held-out bits against the window, at one width and budget."""
    from experiments.charts import end_labels, log2_axis, new_figure

    figure, axes = new_figure(title, "characters that the predictor sees", BITS, size=(8.2, 4.8))
    windows = sorted(options.windows)
    log2_axis(axes, windows)
    labels = []
    for architecture in ("linear", "mlp"):
        rows = compared_windows(summary, options, architecture)
        if not rows:
            continue
        look, x = looks()[architecture], [row["window"] for row in rows]
        axes.plot(x, [row.mean for row in rows], **look, markersize=7)
        bars(axes, x, rows, look["color"])
        labels.append((x[-1], rows[-1].mean, NAMES[architecture], look["color"]))
    models = [row for row in ngrams(summary) if row["window"] > 0]
    if models:
        look = looks()[NGRAM]
        x = [row["window"] for row in models]
        axes.plot(x, [row.mean for row in models], **look, linestyle=":", markersize=6)
        labels.append((x[-1], models[-1].mean, "n-gram", look["color"]))
    seen = [*windows, *(row["window"] for row in models)]
    axes.set_xlim(min(seen) / 1.1, max(seen) * 1.35)
    end_labels(axes, labels)
    return figure


def drift_figure(summary: Summary, options: ScalingOptions, title: str) -> Figure:
    """When the text written drifts from the expert's, against the held-out bits; a point for every training."""
    from experiments.charts import log2_axis, new_figure

    figure, axes = new_figure(
        title, BITS, "characters written until the distance\nto the expert's text passes 1", size=(8.6, 5.0)
    )
    budgets = sorted(options.budgets)
    sizes = dict(zip(budgets, np.linspace(5, 12, len(budgets)), strict=True))
    found = {learner: drift_points(summary, options, learner) for learner in (NGRAM, *ARCHITECTURES)}
    for learner, points in found.items():
        look = {**looks()[learner], "linestyle": ""}
        for bits, passed in points:
            size = sizes.get(bits["budget"], 8)
            axes.plot([bits.mean], [passed.mean], **look, markersize=size, markeredgecolor="white", zorder=3)
            axes.plot([bits.mean] * 2, [passed.lower, passed.upper], color=look["color"], linewidth=1.2)
            if learner == NGRAM:
                words = "unigram" if bits["window"] == 0 else f"{bits['window'] + 1}-gram"
                axes.annotate(
                    words,
                    (bits.mean, passed.mean),
                    xytext=(8, 6),
                    textcoords="offset points",
                    color=look["color"],
                    fontsize=9,
                )
        if points and learner != NGRAM:
            axes.plot([], [], **look, markersize=8, label=NAMES[learner])
    if axes.get_legend_handles_labels()[0]:
        legend_title = f"larger: more compute ({budgets[0]} to {budgets[-1]} GFLOP)"
        axes.legend(loc="upper right", title=legend_title, fontsize=10, title_fontsize=9)
        top = max(passed.top for points in found.values() for _, passed in points)
        log2_axis(axes, [2.0**k for k in range(-2, 10) if 2.0**k < 2 * top], which="y")
        axes.set_ylim(0.6, 1.4 * top)
    return figure


# -- Tables, figures and findings from the summary of the study -------------------------------------------------------


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


STUDY = Study(
    name="scaling",
    question="Linear, MLP or transformer: which predicts text best at equal data and compute, and which drifts last?",
    options=ScalingOptions,
    cells=cells,
    analyse=analyse,
    labels=("budget", "width", "window"),
    reads=("corpus",),
)
