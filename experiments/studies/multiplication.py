"""Multiplication by a linear next-token predictor: with weights written down, and with weights learned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents import ConvergenceWarning, LogLossBC
from agents.neural import TorchPolicy
from experiments.cells import Cell, Label, Record, kept_or_made
from experiments.measure import check_distinct, evaluation_records, trains_networks, without_torch
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Series, Summary, SummaryRow, Table, derived, intervals_over, number, with_interval
from ntp_envs import ARLinearClass, Demonstrations, Policy, collect
from ntp_envs.arrays import first_best
from ntp_envs.checks import check_in, check_int, check_real
from ntp_envs.distances import score_interval
from ntp_envs.evaluation import evaluate
from ntp_envs.features import WindowOneHot
from ntp_envs.tasks import ColumnAddition, Multiplication, explicit_multiplier

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class MultiplicationOptions:
    """Sizes of the sweep; the defaults are the full study, hours of training."""

    neural: Literal["auto", "yes", "no"] = "auto"
    """Train networks, which needs torch (the extra ``neural``); ``auto`` does where it is installed."""
    explicit_digits: tuple[int, ...] = (2, 3, 4)
    """Digits of the factors for the weights that are written down."""
    addends: tuple[int, ...] = (3, 4, 5, 6, 7)
    """Digits in a column of `ColumnAddition`. With two there are 200 columns, and all of them are in the data."""
    columns: int = 5000
    """Columns to learn from."""
    fresh_columns: int = 5000
    """Columns to be judged on."""
    column_seeds: int = 10
    """Data sets of columns."""
    radius: float = 3000.0
    """Bound on the norm of the weights that are fitted to columns."""
    digits: tuple[int, ...] = (2, 3)
    """Digits of the factors for the networks; the first, one of ``explicit_digits``, is shown."""
    steps: int = 8000
    """Updates of a network."""
    every: int = 200
    """Updates between two checkpoints, an even number; evaluations are half way between them, and at the end."""
    pairs: int = 1000
    """Pairs of factors in an evaluation, the same ones throughout a training."""
    batch_size: int = 64
    """New pairs an update."""
    linear_rate: float = 0.04
    """Learning rate of the linear predictor at the start; it falls to zero along a cosine."""
    mlp_rate: float = 0.006
    """Learning rate of the MLP at the start."""
    width: int = 48
    """Of the MLP."""
    layers: int = 2
    """Hidden layers of the MLP."""
    seeds: int = 3
    """Trainings of each kind."""
    device: str = "cpu"
    """Where networks are trained, as torch names it; elsewhere the numbers differ in the last digits."""

    def __post_init__(self) -> None:
        check_in("neural", self.neural, ("auto", "yes", "no"))
        check_distinct("explicit_digits", self.explicit_digits, maximum=6)
        check_distinct("digits", self.digits, maximum=6)
        check_distinct("addends", self.addends, minimum=2)
        for name in ("columns", "fresh_columns", "pairs", "every"):
            check_int(name, getattr(self, name), minimum=2)
        for name in ("column_seeds", "steps", "batch_size", "width", "layers", "seeds"):
            check_int(name, getattr(self, name), minimum=1)
        for name in ("linear_rate", "mlp_rate", "radius"):
            if check_real(name, getattr(self, name), minimum=0.0) == 0.0:
                raise ValueError(f"{name}=0 learns nothing; use a positive number.")
        if self.every % 2:
            raise ValueError(f"every={self.every} must be even: evaluations are half way between two checkpoints.")
        if self.digits[0] not in self.explicit_digits:
            raise ValueError(f"digits={self.digits} begins with none of explicit_digits={self.explicit_digits}.")

    @classmethod
    def quick(cls) -> MultiplicationOptions:
        """About a minute on two cores: two digits, one training of each kind, cut short."""
        return cls(addends=(3, 5, 7), column_seeds=4, digits=(2,), steps=400, every=100, pairs=500, seeds=1)


# -- The cells of the study: weights written down, columns of an addition, and networks trained on new pairs ----------


EXPLICIT, COLUMNS, TRAINED = "explicit", "columns", "trained"
#: learners of the part TRAINED
LINEAR, MLP = "linear", "MLP"

# measures of an evaluation
FORCED, FREE = "forced_accuracy", "greedy_accuracy"
EXACT, SUCCESS, TOKEN, NATS = "greedy_exact", "greedy_success", "forced_token_accuracy", "mean_cross_entropy"
WHOLE = (EXACT, SUCCESS, "sampled_exact", TOKEN, NATS)
# further measures of a chain of thought
CHAIN = "chain right"
PRODUCT = "product right after the true chain"
KIND = "tokens of a kind right, true prefix"
# measures of a column
CARRY, DIGIT, STEP = "carry right", "digit right after the true carry", "carry and digit right"
ALONE, ALONE_NATS = "digit right without a carry token", "nats of the digit without a carry token"
#: of a fit to columns, in nats a token: far below what an accuracy shows
TOLERANCE = 1e-2


# -- weights written down ----------------------------------------------------------------------------------------------


def explicit(*, digits: int, cot: str, n: int, rng: np.random.Generator) -> list[Record]:
    """The linear predictor whose weights are written down, on random pairs."""
    task = Multiplication(digits, cot)
    evaluation = evaluate(explicit_multiplier(task), task, n=n, rng=rng, samples=0)
    records = evaluation_records(evaluation, place_of(task, EXPLICIT))
    return [record for record in records if record.metric in (*WHOLE, FORCED)]


def place_of(task: Multiplication, learner: str) -> dict[str, Label]:
    """The labels that all records of a task share."""
    return {"task": task.name, "learner": learner, "H": task.horizon, "format": task.cot, "digits": task.digits}


# -- columns -----------------------------------------------------------------------------------------------------------


def columns(
    *, addends: int, radius: float, n: int, fresh: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """Log-loss on one column: its carry, the digit once the carry is written, and the digit alone.

    The class of `ColumnAddition` has weights of its own for each answer, so each is a fit by itself, here in a ball of
    its own.
    """
    task = ColumnAddition(addends)
    lines, tests = (whole(collect(task, size, rng)) for size in (n, fresh))

    def law(seen: int, wanted: int) -> NDArray[np.float64]:
        """``(fresh, A)`` log-probabilities of token ``wanted`` of a line from the first ``seen`` ones."""
        data = Demonstrations(lines[:, :seen], lines[:, [wanted]], vocab_size=task.vocab_size)
        policy = certified(data, WindowOneHot(task.vocab_size, seen), radius, rng)
        return policy.next_log_probs(tests[:, :seen], tests[:, :0])

    carry, digit = addends + 1, addends + 2  # where the answers are
    laws = {CARRY: (law(carry, carry), carry), DIGIT: (law(digit, digit), digit), ALONE: (law(carry, digit), digit)}
    right = {name: first_best(table) == tests[:, wanted] for name, (table, wanted) in laws.items()}
    right[STEP] = right[CARRY] & right[DIGIT]  # as in free running: the digit is written after the right carry
    nats = -float(laws[ALONE][0][np.arange(fresh), tests[:, digit]].mean())
    labels: dict[str, Label] = {"task": task.name, "learner": "log-loss", "addends": addends, "n": n}
    return [*(Record(name, float(r.mean()), labels) for name, r in right.items()), Record(ALONE_NATS, nats, labels)]


def certified(data: Demonstrations, features: WindowOneHot, radius: float, rng: np.random.Generator) -> Policy:
    """Maximum likelihood in a ball.

    Raises:
        ValueError: it is not certified.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return LogLossBC(tol=TOLERANCE).fit(data, ARLinearClass(features, radius), rng=rng).policy_
        except ConvergenceWarning as error:
            raise ValueError(f"a fit to the columns is not certified: {error}") from error


def whole(demonstrations: Demonstrations) -> NDArray[np.int64]:
    """``(B, P + H)`` prompts and answers side by side."""
    return np.concatenate([demonstrations.prompts, demonstrations.tokens], axis=1)


# -- networks ----------------------------------------------------------------------------------------------------------


def chain_records(
    policy: Policy, task: Multiplication, demonstrations: Demonstrations, labels: dict[str, Label]
) -> list[Record]:
    """How far the chain is right, and the product after it; and tokens by what they are.

    A greedy chain is right exactly where every token is the first choice after the true prefix.
    """
    law = policy.forced_log_probs(demonstrations.prompts, demonstrations.tokens)
    right = first_best(law) == demonstrations.tokens  # (n, H)
    slots = task.layout.slots[task.prompt_length :]
    result = task.layout.result - task.prompt_length
    found = {(PRODUCT, ""): right[:, result:].all(axis=1)}
    if result > 0:
        found[CHAIN, ""] = right[:, :result].all(axis=1)
    for kind in dict.fromkeys(slot.kind for slot in slots):
        found[KIND, kind] = right[:, [slot.kind == kind for slot in slots]].mean(axis=1)
    records = []
    for (metric, kind), values in found.items():
        place = {**labels, "kind": kind} if kind else labels
        mean, n = float(values.mean()), len(values)
        lower, upper = score_interval(mean, values.std() / np.sqrt(n), n)
        records.append(Record(metric, mean, place, float(lower), float(upper), f"evaluation, n={n}"))
    return records


def trained(
    *,
    architecture: str,
    digits: int,
    cot: str,
    steps: int,
    every: int,
    pairs: int,
    batch_size: int,
    learning_rate: float,
    network: dict[str, Any],
    device: str,
    replicate: int,
    rng: np.random.Generator,
    scratch: Path,
) -> list[Record]:
    """A network on new pairs at every update, evaluated on the same pairs now and then.

    What evaluations said is kept in ``scratch`` beside the checkpoint. They are made half way between two checkpoints,
    so wherever a training is stopped the next call comes by every evaluation that was not kept.
    """
    from agents.neural import NetworkClass, NeuralBC

    task = Multiplication(digits, cot)
    shown, training, drawn = (int(seed) for seed in rng.integers(2**63, size=3))
    fixed = collect(task, pairs, np.random.default_rng(shown))
    if architecture == LINEAR:
        network = {"width": task.vocab_size, "positional": True}  # every linear map of the one-hot prefix
    spec = NetworkClass.for_task(architecture.lower(), task, **network)
    labels = place_of(task, architecture)

    def measured(step: int, policy: Policy) -> list[Record]:
        place: dict[str, Label] = {**labels, "step": step}
        sampling = np.random.default_rng([drawn, step])
        evaluation = evaluate(policy, task, rng=sampling, demonstrations=fixed, samples=0)
        wanted = (*WHOLE, FORCED, FREE) if step == steps else WHOLE
        found = [record for record in evaluation_records(evaluation, place) if record.metric in wanted]
        return found + chain_records(policy, task, fixed, place)

    def kept(step: int, make: Callable[[], list[Record]]) -> list[Record]:
        return kept_or_made(scratch / f"evaluation-{step}.json", make)

    def looked(step: int, policy: TorchPolicy) -> None:
        if step in between:
            kept(step, partial(measured, step, policy))

    def lost() -> list[Record]:
        raise ValueError(f"an evaluation is missing in {scratch}; delete the folder to train from the beginning.")

    between = range(every // 2, steps, every)
    agent = NeuralBC(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        task=task,
        device=device,
        checkpoint=scratch / "run",
        checkpoint_every=every,
        on_step=looked,
        on_step_every=every // 2,
    ).fit(collect(task, 1, np.random.default_rng(shown)), spec, rng=np.random.default_rng(training))
    records = [record for step in between for record in kept(step, lost)]
    return records + kept(steps, partial(measured, steps, agent.policy_))


def cells(options: MultiplicationOptions) -> Iterator[Cell]:
    """The slow cells first: the trainings, those of long chains before the others.

    Raises:
        ValueError: networks are asked for and torch is missing; before anything is run.
    """
    common = {name: getattr(options, name) for name in ("steps", "every", "pairs", "batch_size", "device")}
    kinds: dict[str, dict[str, Any]] = {
        LINEAR: {"learning_rate": options.linear_rate, "network": {}},
        MLP: {"learning_rate": options.mlp_rate, "network": {"width": options.width, "layers": options.layers}},
    }
    if trains_networks(options.neural):
        for digits in sorted(options.digits, reverse=True):
            for cot in ("carry", "source", "none"):
                for architecture, kind in kinds.items():
                    for replicate in range(options.seeds):
                        cell = {"architecture": architecture, "digits": digits, "cot": cot, "replicate": replicate}
                        yield Cell(TRAINED, trained, {**cell, **common, **kind}, scratch=True)
    for addends in sorted(options.addends, reverse=True):
        for replicate in range(options.column_seeds):
            cell = {
                "addends": addends,
                "n": options.columns,
                "radius": options.radius,
                "fresh": options.fresh_columns,
                "replicate": replicate,
            }
            yield Cell(COLUMNS, columns, cell)
    for digits in sorted(options.explicit_digits, reverse=True):
        for cot in ("source", "carry"):
            yield Cell(EXPLICIT, explicit, {"digits": digits, "cot": cot, "n": options.pairs})


# -- What the summary says, in words and in places: shared by the tables, the findings and the figures ----------------


#: formats in the order of the story, and what they are called
FORMATS = {"none": "no chain", "source": "chain", "carry": "chain, then carries"}
#: learners by part and label
LEARNERS = ((EXPLICIT, EXPLICIT), (TRAINED, LINEAR), (TRAINED, MLP))
NAMES = {EXPLICIT: "linear, weights written down", LINEAR: "linear, learned by SGD", MLP: "MLP, learned by SGD"}
SEGMENTS = ("factors by place", "one-digit products", "partial products", "product")

SOURCE = "Malach 2023, arXiv:2309.06979"
#: share of 4-digit products right, of an MLP of 775M parameters (100M examples, 17 h on one A100)
PUBLISHED = 0.969


def trained_digits(summary: Summary) -> list[int]:
    """Digits of the factors that networks were trained on, in order of size."""
    return sorted(summary.distinct("digits", part=TRAINED))


def last_step(summary: Summary, **labels: Any) -> int:
    """The last update that was evaluated; 0 where there is no training."""
    return max((row["step"] for row in summary.select(part=TRAINED, **labels)), default=0)


def at_end(summary: Summary, metric: str, part: str, learner: str, **labels: Any) -> SummaryRow | None:
    """The one row of weights written down, or of a training at its end; ``None`` where its cells failed or are none."""
    if part == TRAINED:
        labels = {**labels, "step": last_step(summary, learner=learner)}
    rows = summary.select(metric, part=part, learner=learner, **labels)
    return rows[0] if len(rows) else None


def shown(row: SummaryRow | None) -> str:
    """``mean [lower, upper]``, empty for no row."""
    return "" if row is None else with_interval(row.mean, row.lower, row.upper)


def segment_of(task: Multiplication, position: int) -> int:
    """The place in `SEGMENTS` of a position, counted from the BOS."""
    layout = task.layout
    if position >= layout.result:
        return 3
    return 2 if position >= min(layout.partials.values()) else int(position >= min(layout.multiplied.values())[0])


def decided(task: Multiplication) -> list[int]:
    """Positions after the prompt that hold a digit or a carry, counted from the BOS; the other symbols are constant."""
    slots = enumerate(task.layout.slots)
    return [position for position, slot in slots if position >= task.prompt_length and slot.kind != "symbol"]


def forced_rows(summary: Summary, part: str, learner: str, task: Multiplication) -> list[tuple[int, SummaryRow]]:
    """``(position, forced accuracy)`` of the digits and carries, at the end."""
    place = {"format": task.cot, "digits": task.digits}
    found = []
    for position in decided(task):
        row = at_end(summary, FORCED, part, learner, **place, h=position - task.prompt_length + 1)
        if row is not None:
            found.append((position, row))
    return found


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


MOST_TICKS = 40
GUESS: dict[str, Any] = {"color": "#444444", "linestyle": ":", "linewidth": 1.5, "marker": ""}


def looks() -> dict[str, dict[str, Any]]:
    """Colour and marker of a learner."""
    from experiments.charts import COLOURS

    return {
        EXPLICIT: {"color": COLOURS["grey"], "marker": "", "linestyle": "--", "linewidth": 1.5},
        LINEAR: {"color": COLOURS["vermilion"], "marker": "o"},
        MLP: {"color": COLOURS["sky"], "marker": "s", "markersize": 4, "linewidth": 1.5},
    }


def bars(series: Series) -> np.ndarray:
    """``(2, m)`` lengths of error bars."""
    return np.abs(np.stack([series.mean - series.lower, series.upper - series.mean]))


def draw(axes: Axes, series: Series, look: dict[str, Any]) -> None:
    """A line with its 95 % intervals as bars."""
    if len(series.x):
        axes.plot(series.x, series.mean, **look)
        axes.errorbar(series.x, series.mean, bars(series), fmt="none", ecolor=look["color"], elinewidth=1.2, capsize=2)


# -- along the chain ---------------------------------------------------------------------------------------------------


def chain_figure(summary: Summary, digits: int) -> Figure:
    """Forced accuracy along the chain, and whole answers right; a row for each format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.6), layout="constrained")
    figure.suptitle(chain_title(summary, digits), x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.subplots(3, 2, width_ratios=(3.2, 1.0))
    width = len(decided(Multiplication(digits, "carry")))
    for (left, right), (cot, name) in zip(grid, FORMATS.items(), strict=True):
        task = Multiplication(digits, cot)
        start = 0 if cot != "none" else len(decided(Multiplication(digits, "source"))) - 2 * digits
        left.set_title(name, fontsize=11)
        left.set_ylim(-0.06, 1.45)
        left.set_yticks([0, 0.5, 1])
        left.set_xlim(-0.7, width - 0.3)
        left.grid(visible=False, axis="x")
        if width <= MOST_TICKS:
            ticks(left, task, start)
        if start:
            left.text(start / 2, 0.5, "the product follows the prompt", ha="center", va="center", color="#444444")
        segments(left, task, start)
        for part, learner in LEARNERS:
            along(left, summary, task, start, part, learner)
        answers(right, summary, digits, cot)
    grid[1, 0].set_ylabel("share right after the true prefix")
    if width <= MOST_TICKS:
        words = ("a, b: digits of the factors", "t, u: tens and units of a x b", "c: carry", "1, 10, ...: the product")
        grid[2, 0].set_xlabel("    ".join(words), fontsize=10)
    else:
        grid[2, 0].set_xlabel("digits and carries, as they are written", fontsize=10)
    grid[0, 1].set_title("whole answers right", fontsize=11)
    return figure


def chain_title(summary: Summary, digits: int) -> str:
    """The answer, from its numbers."""

    def share(part: str, learner: str, cot: str) -> str:
        row = at_end(summary, EXACT, part, learner, digits=digits, format=cot)
        return "" if row is None else f"{row.mean:.0%}"

    written, learned, carried = (
        share(EXPLICIT, EXPLICIT, "source"),
        share(TRAINED, LINEAR, "source"),
        share(TRAINED, LINEAR, "carry"),
    )
    if learned and carried:
        return (
            f"One linear predictor: weights written down multiply exactly ({written}); SGD learns the chain but\n"
            f"not the sum ({learned} of answers right), unless carries are written ({carried})"
            if float(learned.rstrip("%")) < 50 <= float(carried.rstrip("%"))
            else f"Linear predictors: {written} of answers right with weights written down, {learned} learned by SGD,\n"
            f"{carried} where carries are written"
        )
    return f"A linear predictor with weights written down: {written} of answers right" if written else "No data"


def along(axes: Axes, summary: Summary, task: Multiplication, start: int, part: str, learner: str) -> None:
    """The line of a learner, broken between segments."""
    found = forced_rows(summary, part, learner, task)
    places = {position: start + number for number, position in enumerate(decided(task))}
    for segment in range(len(SEGMENTS)):
        rows = [(places[position], row) for position, row in found if segment_of(task, position) == segment]
        if rows:
            columns = [[x for x, _ in rows], *([getattr(row, end) for _, row in rows] for end in Series._fields[1:])]
            draw(axes, Series(*(np.array(column, dtype=np.float64) for column in columns)), looks()[learner])


def segments(axes: Axes, task: Multiplication, start: int) -> None:
    """A name for each segment, and a shade for every other one."""
    of = np.array([segment_of(task, position) for position in decided(task)])
    for segment, name in enumerate(SEGMENTS):
        inside = start + np.flatnonzero(of == segment)
        if len(inside):
            low, high = inside[0] - 0.5, inside[-1] + 0.5
            if segment % 2:
                axes.axvspan(low, high, color="#F3F3F3", zorder=0, linewidth=0)
            words = name.replace(" by ", "\nby ")
            axes.text((low + high) / 2, 1.41, words, ha="center", va="top", fontsize=9.5, color="#444444")


def ticks(axes: Axes, task: Multiplication, start: int) -> None:
    """What each token is."""
    marks = []
    for position in decided(task):
        kind, place = task.layout.slots[position]
        if kind == "product":
            marks.append(f"$10^{place[0]}$" if place[0] > 1 else str(10 ** place[0]))
        else:
            marks.append({"digit": "a" if place[0] == 0 else "b", "tens": "t", "units": "u", "carry": "c"}[kind])
    axes.set_xticks(range(start, start + len(marks)), labels=marks, fontsize=8)
    axes.tick_params(axis="x", length=0)


def answers(axes: Axes, summary: Summary, digits: int, cot: str) -> None:
    """Bars of whole answers right."""
    axes.set_xlim(0, 1.32)
    axes.set_xticks([0, 0.5, 1.0])
    axes.set_ylim(2.6, -0.6)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    short = {EXPLICIT: "written down", LINEAR: "linear, SGD", MLP: "MLP, SGD"}
    for height, (part, learner) in enumerate(LEARNERS):
        row = at_end(summary, EXACT, part, learner, digits=digits, format=cot)
        colour = looks()[learner]["color"]
        if row is None:
            words = "no weights can" if learner == EXPLICIT and cot == "none" else "no data"
            axes.text(0.02, height, words, va="center", fontsize=10, color=colour)
            continue
        axes.barh(height, row.mean, color=colour, height=0.75)
        error = [[row.mean - row.lower], [row.upper - row.mean]]
        axes.errorbar([row.mean], [height], xerr=error, fmt="none", ecolor="black", elinewidth=1.2, capsize=2)
        inside = row.mean > 0.75
        axes.text(
            0.03 if inside else row.top + 0.04,
            height,
            f"{short[learner]} {row.mean:.2f}",
            va="center",
            fontsize=10,
            fontweight="bold",
            color="white" if inside else colour,
        )


# -- columns and training ----------------------------------------------------------------------------------------------


def column_figure(summary: Summary) -> Figure:
    """Accuracy on one column against the digits in it."""
    from experiments.charts import COLOURS, end_labels, new_figure

    figure, axes = new_figure(
        "One column of a sum: a token for the carry makes it linear",
        "digits in the column",
        "share right",
        size=(8, 4.6),
    )
    lines = {
        CARRY: ("the carry", {"color": COLOURS["blue"], "marker": "o"}),
        DIGIT: ("the digit after its carry", {"color": COLOURS["green"], "marker": "s", "linestyle": "--"}),
        ALONE: ("the digit, no carry token", {"color": COLOURS["vermilion"], "marker": "^"}),
    }
    axes.set_ylim(-0.03, 1.06)
    ends = []
    for metric, (name, look) in lines.items():
        series = summary.series("addends", metric, part=COLUMNS)
        draw(axes, series, look)
        if len(series.x):
            ends.append((float(series.x[-1]), float(series.mean[-1]), name, look["color"]))
            axes.set_xticks([int(x) for x in series.x])
            axes.set_xlim(series.x[0] - 0.3, series.x[-1] + 0.45 * max(series.x[-1] - series.x[0], 1))
    axes.plot([axes.get_xlim()[0], max((x for x, *_ in ends), default=1.0)], [0.1, 0.1], **GUESS)
    axes.text(axes.get_xlim()[0] + 0.05, 0.12, "guessing: 0.10", color="#444444", va="bottom", fontsize=10)
    end_labels(axes, ends)
    return figure


def training_figure(summary: Summary, digits: int) -> Figure:
    """What is right over training; a panel for each network."""
    from experiments.charts import COLOURS, end_labels, new_panels

    figure, panels = new_panels(
        "The chain is learned first; the sum after it, sooner where its carries are written",
        ["updates"] * 2,
        "share of fresh pairs right",
        size=(11.0, 4.8),
    )
    lines = (
        (CHAIN, "source", "chain", {"color": COLOURS["grey"], "marker": "", "linestyle": "--"}),
        (EXACT, "carry", "answer, with carries", {"color": COLOURS["green"], "marker": "o"}),
        (EXACT, "source", "answer, no carries", {"color": COLOURS["vermilion"], "marker": "s"}),
        (EXACT, "none", "answer, no chain", {"color": COLOURS["black"], "marker": "^", "linestyle": ":"}),
    )
    for axes, learner in zip(panels, (LINEAR, MLP), strict=True):
        axes.set_title(NAMES[learner], fontsize=11)
        axes.set_ylim(-0.04, 1.08)
        ends = []
        for metric, cot, name, look in lines:
            series = summary.series("step", metric, part=TRAINED, learner=learner, digits=digits, format=cot)
            draw(axes, series, look)
            if len(series.x):
                ends.append((float(series.x[-1]), float(series.mean[-1]), name, look["color"]))
                axes.set_xlim(0, 1.62 * float(series.x[-1]))
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= max((x for x, *_ in ends), default=1.0)])
        if not ends:
            axes.text(0.5, 0.5, "not trained", transform=axes.transAxes, ha="center")
        end_labels(axes, ends)
    return figure


# -- Tables, figures and findings from the summary of the study -------------------------------------------------------


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


STUDY = Study(
    name="multiplication",
    question="Which steps of written multiplication can a linear predictor do, and which does it learn?",
    options=MultiplicationOptions,
    cells=cells,
    analyse=analyse,
    labels=("format", "digits", "step", "kind", "addends"),
)
