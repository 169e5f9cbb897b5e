"""A language model as the expert: what does each change of it - rounding, decoding, another model - do to whole texts?

Teacher-forced divergence a token, which is what tools report, is set beside the distance of the laws of whole texts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.aggregate import nats_apart
from experiments.cells import Cell, Label, Record, keyed_rng
from experiments.charts import COLOURS, Figure, end_labels, log2_axis, new_figure, no_data
from experiments.language_models import (
    BLOCK,
    FORCED,
    RATE,
    block_by_block,
    check_memory,
    check_models,
    configuration,
    expert_of,
    expert_texts,
    forced_kl,
    found,
    learner_of,
    model_parameters,
    rate_record,
    shown_name,
    text_columns,
    text_curves,
)
from experiments.measure import distance_record, shown_lengths
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Places, Summary, SummaryRow, Table, interval_words, mean_interval, number, pivot
from experiments.texts import SAMPLE, one_line
from ntp_envs.arrays import FloatArray, IntArray, written


@dataclass(frozen=True)
class LMOptions(Options):
    """The models, and sizes; the defaults are the full study: hours without a GPU."""

    expert: str = "HuggingFaceTB/SmolLM2-135M"
    """The language model: a name on the Hugging Face hub, a directory that save_pretrained has written, or a .gguf
    file."""
    changes: tuple[str, ...] = option(
        ("bf16", "int8", "int4", "int3", "drop", "window=8", "temperature=0.9", "top_k=50"),
        quick=("int8", "int3", "drop", "window=8", "temperature=0.9", "top_k=50"),
        empty=True,
    )
    """Learners that are the expert with a change, see `ntp_envs.perturbed`, or several: "int4+temperature=0.8"."""
    learners: tuple[str, ...] = option((), empty=True)
    """More learners: other models over the same tokens, named as the expert is."""
    prompts: str = ""
    """A text file with a prompt a line, one of which begins each text; without it texts begin with the first token of
    documents."""
    begin: int | None = None
    """The id that every text begins with, before the prompt; by default that of the tokenizer."""
    horizon: int = option(256, quick=32, least=2)
    """Tokens of a text, at most: one that ends is a document."""
    n: int = option(1000, quick=64, least=2)
    """Texts of the expert, which all learners share, and of each learner."""
    threshold: float = option(10.0, least=1.0)
    """N of coverage: the share of the expert's texts to which the learner gives 1/N of their probability or less."""
    forced: int = option(100, quick=16, least=2, most="n")
    """Texts of the expert on which the teacher-forced divergence is computed."""
    draw: int = option(0, least=0)
    """Which texts the expert writes: another number gives others."""
    device: str = "cpu"
    """Where the models compute: "cuda", say."""
    batch: int = option(64)
    """Texts that are computed together: fewer take less memory, and make no difference beyond rounding."""

    def check(self) -> None:
        if len(set(names(self))) < len(names(self)):
            raise ValueError(f"learners={self.learners} must have different names without their folders.")


# -- cells: one learner -----------------------------------------------------------------------------------------------

EXPERT, SHOWN = "expert", 3
DISTANCE2, COVERAGE = "hellinger2", "coverage"
METRICS = (DISTANCE2, "tv", "kl", COVERAGE)


def compared(
    *, expert: Mapping[str, Any], learner: str, weights: str, n: int, horizon: int, forced: int, draw: int,
    threshold: float, places: Mapping[str, Any], rng: np.random.Generator, scratch: Path,
) -> list[Record]:  # fmt: skip
    """The learner's texts against the expert's at every length, its divergence under teacher forcing, and examples."""
    policy, tokenizer, ids = expert_of(**expert, **places["expert"])
    other = learner_of(learner, policy, tokenizer, places["expert"]["device"], places["learner"])
    texts = expert_texts(expert, places["expert"], n, horizon, draw, scratch)
    seed, end = int(rng.integers(2**63)), tokenizer.eos_token_id
    asked: dict[str, Any] = {"metrics": METRICS, "thresholds": threshold}
    curves = text_curves("learner", policy, other, ids, texts, end, seed, scratch, **asked)
    labels: dict[str, Label] = {"learner": learner, "n": n, "H": horizon}
    records = [distance_record(curves[metric], labels, h) for metric in METRICS for h in shown_lengths(horizon)]
    records.append(rate_record(curves[DISTANCE2], labels))
    prompts, tokens, _ = texts
    mask = written(tokens[:, :0], tokens, end)

    def told(rows: slice) -> tuple[FloatArray, ...]:
        return (forced_kl(policy, other, prompts[rows], tokens[rows], mask[rows]),)

    (kl,) = block_by_block("forced", forced, told, scratch)
    mean, lower, upper = mean_interval(kl, keyed_rng(0, "bootstrap"))
    records.append(Record(FORCED, mean, labels, max(lower, 0.0), upper, f"{forced} texts of the expert"))
    return records + examples(other, tokenizer, ids, horizon, draw, labels)


def examples(
    policy: Any, tokenizer: Any, ids: IntArray, horizon: int, draw: int, labels: Mapping[str, Label]
) -> list[Record]:
    """A few texts as records; everybody draws them with the same random numbers."""
    prompts = ids[np.arange(SHOWN) % len(ids)]
    tokens = policy.sample(prompts, min(horizon, 64), keyed_rng(draw, "examples"))
    masks = written(tokens[:, :0], tokens, tokenizer.eos_token_id)
    records = []
    for place, (prompt, x, mask) in enumerate(zip(prompts, tokens, masks, strict=True), 1):
        text = tokenizer.decode(np.concatenate([prompt[prompt != policy.pad], x[mask]]))
        records.append(Record(SAMPLE, float(place), {**labels, "text": one_line(text)}))
    return records


def of_expert(
    *, expert: Mapping[str, Any], n: int, horizon: int, draw: int, places: Mapping[str, Any], rng: np.random.Generator
) -> list[Record]:
    """Examples of the expert's texts."""
    policy, tokenizer, ids = expert_of(**expert, **places["expert"])
    return examples(policy, tokenizer, ids, horizon, draw, {"learner": EXPERT, "n": n, "H": horizon})


def cells(o: LMOptions) -> Iterator[Cell]:
    """A cell a learner, and the expert's examples; ``ValueError`` where a model, or what reads it, is missing."""
    expert, place = model_parameters(o.expert, o.prompts, o.begin, o.device, o.batch)
    check_models(
        o.expert, horizon=o.horizon, prompts=o.prompts, begin=o.begin, batch=o.batch, learners=o.learners,
        changes=o.changes,
    )  # fmt: skip
    sizes = o.given("n", "horizon", "draw")
    for path, learner in (*((name, shown_name(name)) for name in o.learners), *(("", name) for name in o.changes)):
        cell = {"expert": expert, "learner": learner, "weights": found(path) if path else "", **sizes}
        cell |= {"forced": o.forced, "threshold": o.threshold, "places": {"expert": place, "learner": path}}
        yield Cell("learners", compared, cell, scratch=True, apart=("places",))
    yield Cell("expert", of_expert, {"expert": expert, **sizes, "places": {"expert": place}}, apart=("places",))


def check_machine(o: LMOptions, processes: int) -> None:
    """``ValueError`` where the processes take more memory than is free."""
    check_memory(o.expert, processes, horizon=o.horizon, batch=o.batch, learners=o.learners, device=o.device)


def seconds(o: LMOptions, cell: Cell) -> float:
    """By the products of a model's size, timed here: twice as many operations a token as it has weights."""
    from ntp_envs.language import count_weights, torch

    one, rows = torch.ones(1024, 1024), torch.ones(min(o.batch, BLOCK), 1024)
    start = time.process_time()
    for _ in range(8):
        rows @ one
    each = (time.process_time() - start) / (8 * one.numel() * len(rows))  # seconds of a weight and token
    read = 4 * o.n * o.horizon + 2 * o.forced * o.horizon if cell.part == "learners" else SHOWN * min(o.horizon, 64)
    size = count_weights(configuration(o.expert))
    return 1.5 * each * size * read + 1e-7 * size  # and until the weights are loaded


# -- tables, figures and findings --------------------------------------------------------------------------------------

DRIFT = "How fast does a changed model's text drift from the expert's?"
TELLS = "Does the teacher-forced divergence tell how far whole texts are?"
PALETTE = [COLOURS[c] for c in ("vermilion", "blue", "green", "purple", "orange", "black", "sky", "grey")]


def names(o: LMOptions) -> list[str]:
    """Learners as tables call them."""
    return [shown_name(learner) for learner in (*o.learners, *o.changes)]


def ranked(o: LMOptions, s: Summary) -> list[str]:
    """Learners that were measured, the nearest to the expert first."""
    measured = {name: s.value(DISTANCE2, learner=name, h=o.horizon) for name in names(o)}
    return sorted((name for name, value in measured.items() if not math.isnan(value)), key=lambda name: measured[name])


def tables(o: LMOptions, s: Summary) -> list[Table]:
    rows: Places = [(name, {"learner": name}) for name in ranked(o, s)]
    whole: Places = [
        (name, {"metric": metric, "h": o.horizon})
        for name, metric in (("total variation", "tv"), ("KL", "kl"), (f"not covered, N={o.threshold:g}", COVERAGE))
    ]
    texts = [
        [str(place), name, row["text"]]
        for place in range(1, SHOWN + 1)
        for name in [EXPERT, *ranked(o, s)]
        for row in s.select(SAMPLE, learner=name)
        if row.mean == place
    ]
    return [
        pivot(
            s,
            f"Whole texts of {shown_name(o.expert)} against those of each learner",
            DISTANCE2,
            rows,
            text_columns(o.horizon, 8, 16, 64),
            note="D^2: squared Hellinger distance (0 to 2) of the laws of the first h tokens; nats a token: "
            "Bhattacharyya distance -log(1 - D^2/2) of whole texts over their length; forced KL: of the laws of the "
            f"next token. 95 % intervals; {o.n} texts of each, those of the expert the same for all. "
            f"{interval_words(o.forced, 'texts of the expert')} for forced KL.",
        ),
        pivot(
            s,
            f"The same texts of {o.horizon} tokens by other measures",
            "tv",
            rows,
            whole,
            note="KL in nats, the expert first; not covered: share of the expert's texts to which the learner gives "
            "1/N of their probability or less.",
        ),
        Table(
            "Texts side by side",
            ["number", "by", "written"],
            texts,
            "Texts of one number are drawn with the same random numbers: where they part, the law has changed.",
        ),
    ]


def most(o: LMOptions) -> float:
    """The largest distance that so many texts measure: beyond it a text or two of theirs decide what is in common."""
    return 2.0 - 4.0 / o.n


def drift_figure(o: LMOptions, s: Summary) -> Figure:
    """Nats of Bhattacharyya distance against the length, both logarithmic: a slope of 1 is so many nats a token."""
    figure, axes = new_figure(
        drift_title(o, s), "tokens written\n(bars at the ends: 95 %)", "Bhattacharyya distance, nats", size=(9.6, 5.6)
    )
    for name, colour in zip(ranked(o, s), PALETTE * len(names(o))):
        series = s.series("h", DISTANCE2, learner=name)
        kept = (series.mean > 1e-9) & (series.mean <= most(o))
        x, *columns = (column[kept] for column in series)
        if len(x):
            mean, lower, upper = ([nats_apart(min(end, 2.0 - 1e-9)) for end in column] for column in columns)
            axes.plot(x, mean, color=colour, marker="." if len(x) == 1 else "")
            axes.plot([x[-1]] * 2, [max(lower[-1], 1e-9), upper[-1]], color=colour, linewidth=6, alpha=0.35)
            end_labels(axes, [(float(x[-1]), float(mean[-1]), name, colour)])
    if not axes.lines:
        no_data(axes)
        return figure
    drawn = np.concatenate([line.get_ydata() for line in axes.lines[::2]])
    low, high = max(float(drawn.min()) / 2, 1e-5), 2 * float(drawn.max())
    axes.set_yscale("log")
    log2_axis(axes, [2.0**k for k in range(int(math.log2(o.horizon)) + 1)])
    axes.set_xlim(0.95, 1.9 * o.horizon)
    axes.set_ylim(low, high)
    for rate in 10.0 ** np.arange(-6, 1):  # what a constant drift looks like
        axes.plot([1, o.horizon], [rate, rate * o.horizon], ":", color=COLOURS["grey"], linewidth=0.8, zorder=1)
        if low < rate < high:
            axes.annotate(f"{rate:g} a token", (1.03, 0.95 * rate), color=COLOURS["grey"], fontsize=8, va="top")
    return figure


def drift_title(o: LMOptions, s: Summary) -> str:
    order = [name for name in ranked(o, s) if s.value(DISTANCE2, learner=name, h=o.horizon) <= most(o)]
    if not order:
        return DRIFT
    ends = [number(s.value(RATE, learner=name), 2) for name in (order[0], order[-1])]
    return f"Each change has its price a token: {order[0]} {ends[0]} nats, {order[-1]} {ends[1]}"


def forced_figure(o: LMOptions, s: Summary) -> Figure:
    """Drift of whole texts against the teacher-forced divergence, with the line of small independent errors."""
    figure, axes = new_figure(TELLS, "teacher-forced KL, nats a token", "whole texts, nats a token", size=(9.0, 5.2))
    points = [
        (name, colour, kl, rate)
        for name, colour in zip(ranked(o, s), PALETTE * len(names(o)))
        for kl, rate in zip(s.select(FORCED, learner=name), s.select(RATE, learner=name))
        if rate.mean > 0 and kl.mean > 0
    ]
    finite = [kl.mean for _, _, kl, _ in points if math.isfinite(kl.mean)]
    if not finite:
        no_data(axes)
        return figure
    edge = 4 * max(finite)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for name, colour, kl, rate in points:
        x = kl.mean if math.isfinite(kl.mean) else edge
        bar: dict[str, Any] = {"color": colour, "linewidth": 5, "alpha": 0.3}
        axes.plot([x, x], [rate.lower, rate.upper], **bar)
        axes.plot([kl.lower, kl.upper], [rate.mean] * 2, **bar)
        axes.plot([x], [rate.mean], "o", color=colour)
        end_labels(axes, [(x, rate.mean, name if math.isfinite(kl.mean) else f"{name}: infinite", colour)])
    ends = np.array([min(finite) / 2, max(finite) * 2])
    axes.plot(ends, ends / 4, ":", color=COLOURS["grey"], linewidth=1.2, zorder=1)
    axes.annotate("a quarter of it", (ends[-1], ends[-1] / 4), color=COLOURS["grey"], ha="left", va="center")
    axes.set_xlim(min(finite) / 3, edge * 12)
    return figure


def figures(o: LMOptions, s: Summary) -> list[FigureSpec]:
    drift = (
        f"-log(1 - D^2/2) of the first h tokens, D^2 the squared Hellinger distance to {shown_name(o.expert)}; {o.n} "
        "texts of each. Dotted: a constant drift a token. Lines end where too little in common is left to measure."
    )
    forced = (
        f"Across: KL of the laws of the next token on {o.forced} texts of the expert. Up: Bhattacharyya distance of "
        f"texts of {o.horizon} tokens over their length. Dotted: a quarter of KL, which is what small errors give."
    )
    return [
        FigureSpec("headline", DRIFT, drift, lambda: drift_figure(o, s)),
        FigureSpec("forced", TELLS, forced, lambda: forced_figure(o, s)),
    ]


def findings(o: LMOptions, s: Summary) -> Iterator[str]:
    """How far each learner's texts are, and where the teacher-forced divergence ranks two learners the other way."""
    order = ranked(o, s)
    if not order:
        return
    words = "; ".join(f"{name} {s.shown(DISTANCE2, learner=name, h=o.horizon)}" for name in order)
    yield f"Squared Hellinger distance to {shown_name(o.expert)} after {o.horizon} tokens (at most 2): {words}."
    near = [name for name in order if s.value(DISTANCE2, learner=name, h=o.horizon) <= most(o)]
    ratios = {name: s.value(RATE, learner=name) / s.value(FORCED, learner=name) for name in near}
    if words := "; ".join(f"{name} {ratio:.2g}" for name, ratio in ratios.items() if ratio > 0):
        yield f"Nats a token of whole texts over teacher-forced KL, a quarter for small independent errors: {words}."
    found = sorted(disagreements(o, s), key=lambda pair: -pair[0])
    for _, said in found[:3]:
        yield said
    if not found:
        yield (
            "Teacher-forced KL a token and the distance of whole texts rank the learners alike, wherever both "
            "intervals tell them apart."
        )
    elif len(found) > 3:
        yield f"So with {len(found) - 3} more pairs of learners."


def disagreements(o: LMOptions, s: Summary) -> Iterator[tuple[float, str]]:
    """Pairs that the two rank in opposite ways, with both intervals apart; and how far apart the texts are."""
    rows = {}
    for name in ranked(o, s):
        forced, whole = s.select(FORCED, learner=name), s.select(DISTANCE2, learner=name, h=o.horizon)
        if len(forced):
            rows[name] = forced[0], whole[0]

    def low(row: SummaryRow) -> float:
        return row.mean if math.isnan(row.lower) else row.lower

    for near, (kl, texts) in rows.items():
        for far, (its_kl, its_texts) in rows.items():
            if kl.top < low(its_kl) and its_texts.top < low(texts):
                said = (
                    f"Teacher-forced KL calls {near} nearer to the expert than {far} ({kl.shown(2)} against "
                    f"{its_kl.shown(2)} nats a token); its texts of {o.horizon} tokens are farther "
                    f"({texts.shown()} against {its_texts.shown()})."
                )
                yield low(texts) - its_texts.top, said


STUDY = Study(
    name="lm",
    question="How far do the texts of a changed language model drift, and does teacher-forced divergence tell?",
    options=LMOptions,
    cells=cells,
    analyse=analysis(
        tables=tables,
        figures=figures,
        findings=findings,
        setting=lambda o: f"{shown_name(o.expert)} and changes of it; H = {o.horizon}; {o.n} texts of each",
    ),
    labels=("text",),
    reads=("expert", "prompts"),
    check_machine=check_machine,
    seconds=seconds,
)
