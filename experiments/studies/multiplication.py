"""Multiplication by a linear next-token predictor: with weights written down, and with weights learned.

A linear predictor that multiplies exactly exists. What is learned of it is seen in networks trained on new pairs; why
the sum is hard, in one column of written addition: `experiments.studies.carry`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import measure
from experiments.cells import Cell, Label, Record, cached_records
from experiments.charts import COLOURS, Axes, Figure, errorbars, new_grid, say, say_data
from experiments.panels import Curve, Panel, chart
from experiments.study import FigureSpec, Study, analysis, option
from experiments.summary import Series, Summary, SummaryRow, Table, derived, number, pivot
from ntp_envs import Demonstrations, Policy
from ntp_envs.arrays import first_best
from ntp_envs.evaluation import evaluate
from ntp_envs.tasks import Multiplication, explicit_multiplier

if TYPE_CHECKING:
    from agents.neural import TorchPolicy

EXPLICIT, TRAINED = "explicit", "trained"
#: learners of the part TRAINED
NETWORKS = LINEAR, MLP = "linear", "MLP"

#: measures of an evaluation; the last three are of a chain of thought
FORCED, FREE = "forced_accuracy", "greedy_accuracy"
EXACT, SUCCESS, TOKEN, NATS = "greedy_exact", "greedy_success", "forced_token_accuracy", "mean_cross_entropy"
WHOLE = (EXACT, SUCCESS, "sampled_exact", TOKEN, NATS)
CHAIN, PRODUCT, KIND = "chain right", "product right after the true chain", "tokens of a kind right, true prefix"


@dataclass(frozen=True)
class MultiplicationOptions(measure.NetworkOptions):
    """Sizes of the sweep; the defaults are the full study, hours of training."""

    explicit_digits: tuple[int, ...] = option((2, 3, 4), most=6)
    """Digits of the factors for the weights that are written down."""
    digits: tuple[int, ...] = option((2, 3), quick=(2,), most=6)
    """Digits of the factors for the networks; the first, one of ``explicit_digits``, is shown."""
    steps: int = option(8000, quick=400)
    """Updates of a network."""
    every: int = option(200, quick=100, least=2)
    """Updates between two checkpoints, an even number; evaluations are half way between them, and at the end."""
    pairs: int = option(1000, quick=500, least=2)
    """Pairs of factors in an evaluation, the same ones throughout a training."""
    batch_size: int = option(64)
    """New pairs an update."""
    linear_rate: float = option(0.04, above=0.0)
    """Learning rate of the linear predictor at the start; it falls to zero along a cosine."""
    mlp_rate: float = option(0.006, above=0.0)
    """Learning rate of the MLP at the start."""
    width: int = option(48)
    """Of the MLP."""
    layers: int = option(2)
    """Hidden layers of the MLP."""
    seeds: int = option(3, quick=1)
    """Trainings of each kind."""
    device: str = "cpu"
    """Where networks are trained, as torch names it; elsewhere the numbers differ in the last digits."""

    def check(self) -> None:
        if self.every % 2:
            raise ValueError(f"every={self.every} must be even: evaluations are half way between two checkpoints.")
        if self.digits[0] not in self.explicit_digits:
            raise ValueError(f"digits={self.digits} begins with none of explicit_digits={self.explicit_digits}.")


# -- cells: weights written down, and networks trained on new pairs ----------------------------------------------------


def explicit(*, digits: int, cot: str, n: int, rng: np.random.Generator) -> list[Record]:
    """The linear predictor whose weights are written down, on random pairs."""
    task = Multiplication(digits, cot)
    evaluation = evaluate(explicit_multiplier(task), task, n=n, rng=rng, samples=0)
    records = measure.evaluation_records(evaluation, place_of(task, EXPLICIT))
    return [record for record in records if record.metric in (*WHOLE, FORCED)]


def place_of(task: Multiplication, learner: str) -> dict[str, Label]:
    """The labels that all records of a task share."""
    return {"task": task.name, "learner": learner, "H": task.horizon, "format": task.cot, "digits": task.digits}


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
    places = {kind: {**labels, "kind": kind} if kind else labels for _, kind in found}
    return [measure.mean_record(metric, values, places[k], "evaluation") for (metric, k), values in found.items()]


def trained(
    *, architecture: str, digits: int, cot: str, steps: int, every: int, pairs: int, batch_size: int,
    learning_rate: float, network: dict[str, Any], device: str, replicate: int, rng: np.random.Generator, scratch: Path,
) -> list[Record]:  # fmt: skip
    """A network on new pairs at every update, evaluated on the same pairs now and then.

    What evaluations said is kept in ``scratch`` beside the checkpoint. They are made half way between two checkpoints,
    so wherever a training is stopped the next call comes by every evaluation that was not kept.
    """
    from agents.neural import NetworkClass, NeuralBC

    task = Multiplication(digits, cot)
    watched = measure.Watched(task, pairs, rng)
    if architecture == LINEAR:
        network = {"width": task.vocab_size, "positional": True}  # every linear map of the one-hot prefix
    policy_class = NetworkClass.for_task(architecture.lower(), task, **network)
    labels = place_of(task, architecture)

    def evaluation_at(step: int, policy: Policy | None) -> list[Record]:
        def make() -> list[Record]:
            if policy is None:
                raise ValueError(f"an evaluation is missing in {scratch}; delete the folder to train from scratch.")
            found = watched.records(policy, step, labels, (*WHOLE, FORCED, FREE) if step == steps else WHOLE)
            return found + chain_records(policy, task, watched.demonstrations, {**labels, "step": step})

        return cached_records(scratch / f"evaluation-{step}.json", make)

    def after_step(step: int, policy: TorchPolicy) -> None:
        if step in between:
            evaluation_at(step, policy)

    between = range(every // 2, steps, every)
    agent = NeuralBC(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, task=task, device=device,
        checkpoint=scratch / "run", checkpoint_every=every, on_step=after_step, on_step_every=every // 2,
    ).fit(watched.shapes, policy_class, rng=watched.rng())  # fmt: skip
    records = [record for step in between for record in evaluation_at(step, None)]
    return records + evaluation_at(steps, agent.policy_)


def cells(options: MultiplicationOptions) -> Iterator[Cell]:
    """The slow cells first: the trainings, those of long chains before the others.

    Raises:
        ValueError: networks are asked for and torch is missing; before anything is run.
    """
    common = options.given("steps", "every", "pairs", "batch_size", "device")
    kinds: dict[str, dict[str, Any]] = {
        LINEAR: {"learning_rate": options.linear_rate, "network": {}},
        MLP: {"learning_rate": options.mlp_rate, "network": {"width": options.width, "layers": options.layers}},
    }
    if measure.trains_networks(options.neural):
        seeds, sizes = range(options.seeds), sorted(options.digits, reverse=True)
        for digits, cot, name, replicate in product(sizes, ("carry", "source", "none"), kinds, seeds):
            cell = {"architecture": name, "digits": digits, "cot": cot, "replicate": replicate}
            yield Cell(TRAINED, trained, {**cell, **common, **kinds[name]}, scratch=True)
    for digits in sorted(options.explicit_digits, reverse=True):
        for cot in ("source", "carry"):
            yield Cell(EXPLICIT, explicit, {"digits": digits, "cot": cot, "n": options.pairs})


# -- what is drawn and told: places along the chain, and trainings at their end ----------------------------------------


#: formats in the order of the story, and what they are called
FORMATS = {"none": "no chain", "source": "chain", "carry": "chain, then carries"}
NAMES = {EXPLICIT: "linear, weights written down", LINEAR: "linear, learned by SGD", MLP: "MLP, learned by SGD"}
SEGMENTS = ("factors by place", "one-digit products", "partial products", "product")
KINDS = {"digit": "copied digits", "tens": "tens", "units": "units", "carry": "carries", "product": "product"}

#: share of 4-digit products right, of an MLP of 775M parameters (100M examples, 17 h on one A100)
PUBLISHED, PUBLISHED_ROW, SOURCE = 0.969, "published", "Malach 2023, arXiv:2309.06979"


def ended(summary: Summary) -> Summary:
    """The rows without those of a training before its last evaluation."""
    last = max((row["step"] for row in summary.select(part=TRAINED)), default=None)
    return Summary(row for row in summary if row["step"] in (None, last))


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


# -- tables ------------------------------------------------------------------------------------------------------------


def tables(options: MultiplicationOptions, summary: Summary) -> Iterator[Table]:
    end = ended(summary)
    heads = {"all tokens": EXACT, "product": SUCCESS, "chain": CHAIN, "product, true chain": PRODUCT}
    heads |= {"token, true prefix": TOKEN, "nats a token": NATS}
    measures = [(head, {"metric": metric}) for head, metric in heads.items()]
    rows: list[Sequence[Any]] = []
    for learner, name in NAMES.items():
        for digits in sorted(end.select(learner=learner).distinct("digits")):
            lines = [(f"{name}; {digits} digits, {written}", {"format": cot}) for cot, written in FORMATS.items()]
            rows += pivot(end.select(learner=learner, digits=digits), "", EXACT, lines, measures).rows
    rows.append([f"published: MLP, 775M parameters; 4 digits ({SOURCE})", number(PUBLISHED), *[""] * 5])
    note = (
        "Share right on fresh pairs, with 95 % intervals. The first three columns are greedy and running free; a "
        "product can be right after a wrong chain. The published number is of 100M examples and 17 h on one A100."
    )
    yield Table("Multiplication: what is right at the end", ["learner", *heads], rows, note)
    for digits in sorted(end.distinct("digits", part=TRAINED)):
        found = end.select(part=TRAINED, digits=digits)
        places = [(learner, cot) for cot in FORMATS for learner in NETWORKS]
        lines = [(f"{NAMES[name]}; {FORMATS[cot]}", {"learner": name, "format": cot}) for name, cot in places]
        yield digit_table(found, digits, lines)
        kinds = [(name, {"kind": kind}) for kind, name in KINDS.items()]
        note = (
            "Share right after the true prefix, with 95 % intervals. All other symbols are the same in every sequence."
        )
        yield pivot(found, f"Tokens of the chain, {digits}-digit factors", KIND, lines, kinds, note=note)


def digit_table(found: Summary, digits: int, lines: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """Every digit of the product, running free; where it is written depends on the format."""
    rows = []
    for name, place in lines:
        task = Multiplication(digits, place["format"])
        positions = sorted(task.layout.product_digits(), key=lambda position: -task.layout.slots[position].place[0])
        shares = [found.shown(FREE, h=position - task.prompt_length + 1, **place) for position in positions]
        if any(shares):
            rows.append([name, *shares])
    heads = ["learner", *(f"10^{k}" if k > 1 else str(10**k) for k in range(2 * digits - 1, -1, -1))]
    note = "Share right, greedy and running free, with 95 % intervals; most significant first, however it is written."
    return Table(f"Digits of the product of {digits}-digit factors", heads, rows, note)


# -- figures -----------------------------------------------------------------------------------------------------------


MOST_TICKS = 40
INK = "#444444"
LOOKS: dict[str, dict[str, Any]] = {
    EXPLICIT: {"color": COLOURS["grey"], "marker": "", "linestyle": "--", "linewidth": 1.5},
    LINEAR: {"color": COLOURS["vermilion"], "marker": "o"},
    MLP: {"color": COLOURS["sky"], "marker": "s", "markersize": 4, "linewidth": 1.5},
}


def chain_figure(summary: Summary, digits: int) -> Figure:
    """Forced accuracy along the chain, and whole answers right; a row for each format."""
    end = ended(summary)
    figure, grid = new_grid(chain_title(end, digits), 3, 2, (11.0, 6.6), width_ratios=(3.2, 1.0))
    say_data(figure, end.select(FORCED, digits=digits), f"{digits} digits", what="trainings")
    say(figure, "upright bars: 95 % intervals")
    for (left, right), cot in zip(grid, FORMATS, strict=True):
        along_the_chain(left, end, digits, cot)
        answers(right, end, digits, cot)
    grid[1, 0].set_ylabel("share right after the true prefix")
    words = "a, b: digits of the factors    t, u: tens and units of a x b    c: carry    1, 10, ...: the product"
    legible = len(decided(Multiplication(digits, "carry"))) <= MOST_TICKS
    grid[2, 0].set_xlabel(words if legible else "digits and carries, as they are written", fontsize=10)
    grid[0, 1].set_title("whole answers right", fontsize=11)
    return figure


def chain_title(end: Summary, digits: int) -> str:
    """The answer, in its numbers."""
    places = ((EXPLICIT, "source"), (LINEAR, "source"), (LINEAR, "carry"))
    shares = [end.value(EXACT, learner=learner, digits=digits, format=cot) for learner, cot in places]
    written, learned, carried = (f"{share:.0%}" for share in shares)
    if np.isnan(shares).any():
        known = "" if np.isnan(shares[0]) else f": {written} of answers right"
        return f"A linear predictor with weights written down{known}"
    return (
        f"One linear predictor: {written} of answers right with weights written down, {learned} learned by SGD, "
        f"{carried} where carries are written"
    )


def along_the_chain(axes: Axes, end: Summary, digits: int, cot: str) -> None:
    """What each token is, and the share right of it; lines are broken between segments, every other one is shaded."""
    task = Multiplication(digits, cot)
    positions = np.array(decided(task))
    width = len(decided(Multiplication(digits, "carry")))
    start = 0 if cot != "none" else len(decided(Multiplication(digits, "source"))) - 2 * digits
    places, of = start + np.arange(len(positions)), np.array([segment_of(task, position) for position in positions])
    axes.set_title(FORMATS[cot], fontsize=11)
    axes.set(ylim=(-0.06, 1.45), yticks=[0, 0.5, 1], xlim=(-0.7, width - 0.3))
    axes.grid(visible=False, axis="x")
    if width <= MOST_TICKS:
        axes.set_xticks(places, labels=[mark(*task.layout.slots[position]) for position in positions], fontsize=8)
        axes.tick_params(axis="x", length=0)
    if start:
        axes.text(start / 2, 0.5, "the product follows the prompt", ha="center", va="center", color=INK)
    for segment, name in enumerate(SEGMENTS):
        inside = of == segment
        if not inside.any():
            continue
        low, high = places[inside][0] - 0.5, places[inside][-1] + 0.5
        if segment % 2:
            axes.axvspan(low, high, color="#F3F3F3", zorder=0, linewidth=0)
        words = name.replace(" by ", "\nby ")
        axes.text((low + high) / 2, 1.41, words, ha="center", va="top", fontsize=9.5, color=INK)
        for learner, look in LOOKS.items():
            series = end.series("h", FORCED, learner=learner, format=cot, digits=digits)  # h = 1, 2, ...
            if len(series.x):
                part = Series(*(column[positions[inside] - task.prompt_length] for column in series))
                axes.plot(places[inside], part.mean, **look)
                errorbars(axes, places[inside], part, look["color"])


def mark(kind: str, place: tuple[int, ...]) -> str:
    """What a digit or a carry is called below the axis."""
    if kind == "product":
        return f"$10^{place[0]}$" if place[0] > 1 else str(10 ** place[0])
    return {"digit": "a" if place[0] == 0 else "b", "tens": "t", "units": "u", "carry": "c"}[kind]


def answers(axes: Axes, end: Summary, digits: int, cot: str) -> None:
    """Bars of whole answers right."""
    axes.set(xlim=(0, 1.32), xticks=[0, 0.5, 1.0], ylim=(2.6, -0.6), yticks=[])
    axes.grid(visible=False, axis="y")
    short = {EXPLICIT: "written down", LINEAR: "linear, SGD", MLP: "MLP, SGD"}
    for height, (learner, look) in enumerate(LOOKS.items()):
        rows = end.select(EXACT, learner=learner, digits=digits, format=cot)
        if not len(rows):
            words = "no weights can" if learner == EXPLICIT and cot == "none" else "no data"
            axes.text(0.02, height, words, va="center", fontsize=10, color=look["color"])
        for row in rows:
            axes.barh(height, row.mean, color=look["color"], height=0.75)
            axes.plot([row.lower, row.upper], [height] * 2, color="black", linewidth=1.2, marker="|", markersize=4)
            inside = row.mean > 0.75
            at, colour = (0.03, "white") if inside else (row.top + 0.04, look["color"])
            words = f"{short[learner]} {row.mean:.2f}"
            axes.text(at, height, words, va="center", fontsize=10, fontweight="bold", color=colour)


def training_figure(options: MultiplicationOptions, summary: Summary) -> Figure:
    """What is right over training; a panel for each network."""
    lines = {
        "chain": (CHAIN, "source", {"color": COLOURS["grey"], "marker": "", "linestyle": "--"}),
        "answer, with carries": (EXACT, "carry", {"color": COLOURS["green"], "marker": "o", "linestyle": "-"}),
        "answer, no carries": (EXACT, "source", {"color": COLOURS["vermilion"], "marker": "s", "linestyle": "-"}),
        "answer, no chain": (EXACT, "none", {"color": COLOURS["black"], "marker": "^", "linestyle": ":"}),
    }
    shape: dict[str, Any] = {"xscale": "linear", "yscale": "share", "ylim": (-0.13, 1.06)}
    shape["ticks"] = range(0, options.steps + 1, max(options.steps // 4, 1))
    panels = []
    for learner in NETWORKS:
        at = {"part": TRAINED, "learner": learner, "digits": options.digits[0]}
        curves = [Curve({**at, "format": cot}, name, metric, look=look) for name, (metric, cot, look) in lines.items()]
        panels.append(Panel("step", "updates", EXACT, curves, title=NAMES[learner], **shape))
    title = "Which is learned first, the chain or the sum after it, and do written carries help?"
    return chart(summary, title, "share of fresh pairs right", *panels, size=(11.0, 4.8))


def figures(options: MultiplicationOptions, summary: Summary) -> list[FigureSpec]:
    digits = options.digits[0]
    return [
        FigureSpec(
            "headline",
            "What can a linear predictor do, and what does it learn?",
            f"Products of {digits}-digit factors. Left: share right of every digit and carry after the true prefix "
            "(symbols, which never change, are left out; a, b: digits of the factors, t, u: tens and units of their "
            "products, c: carries); right: whole answers right, running free. 95 % intervals.",
            lambda: chain_figure(summary, digits),
        ),
        FigureSpec(
            "training",
            "In which order are the steps learned?",
            f"Products of {digits}-digit factors: share of fresh pairs right, greedy and running free, against updates "
            f"of {options.batch_size} new pairs each; 95 % intervals.",
            lambda: training_figure(options, summary),
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------


def published(options: MultiplicationOptions, summary: Summary) -> Iterator[SummaryRow]:
    labels = {"task": "Multiplication", "learner": "MLP, 775M parameters", "format": "source", "digits": 4}
    yield derived(PUBLISHED_ROW, EXACT, PUBLISHED, f"published, not ours: {SOURCE}", **labels)


def findings(options: MultiplicationOptions, summary: Summary) -> Iterator[str]:
    """That weights exist; what each network learned, by number of digits; what is not measured here, and why."""
    rows = summary.select(EXACT, part=EXPLICIT)
    for worst in sorted(rows, key=lambda row: row.mean)[:1]:
        share = worst.shown()
        said, each = f"at least {share} of random pairs", ""
        if worst.mean == 1.0:
            said, each = "every random pair", f" ({share} each)"
        sizes = ", ".join(map(str, sorted(rows.distinct("digits"))))
        yield (
            f"With weights written down, a linear predictor of the next token gets {said} right at {sizes} digits, "
            f"with and without carries{each}: every token of the chain, greedy and running free."
        )
    end = ended(summary)
    for digits in sorted(end.distinct("digits", part=TRAINED)):
        for learner in NETWORKS:
            found = end.select(learner=learner, digits=digits)
            whole = {cot: found.shown(EXACT, format=cot) for cot in FORMATS}
            chain, product = (found.shown(metric, format="source") for metric in (CHAIN, PRODUCT))
            words = {
                "source": f"it writes the whole chain right for {chain} of the pairs and the product after the true "
                f"chain for {product}: {whole['source']} are right to the end",
                "carry": f"with a carry before each digit of the product {whole['carry']} are",
                "none": f"without a chain {whole['none']}",
            }
            if sentences := [sentence for cot, sentence in words.items() if whole[cot]]:
                yield f"{NAMES[learner]}, {digits} digits, {options.steps} updates: {'; '.join(sentences)}."
    if why := measure.networks_left_out(options.neural):
        yield f"Networks are {why}."
    yield (
        f"Published, not ours ({SOURCE}): an MLP of 775M parameters, trained on 100M examples for 17 h on one A100, "
        f"gets {PUBLISHED:.1%} of 4-digit products right with the chain of thought of the source."
    )


STUDY = Study(
    name="multiplication",
    question="Which steps of written multiplication can a linear predictor do, and which does it learn?",
    options=MultiplicationOptions,
    cells=cells,
    analyse=analysis(
        rows=published,
        tables=tables,
        figures=figures,
        findings=findings,
        setting=lambda o: f"hidden width {o.width}; {o.batch_size} pairs an update",
    ),
    labels=("format", "digits", "step", "kind"),
)
