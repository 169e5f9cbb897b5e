"""Real text: how far the text of restricted learners drifts from that of the expert, an n-gram model of the text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents import make_agent
from experiments import charts, measure
from experiments.cells import Cell, Label, Record
from experiments.study import FigureSpec, Study, analysis, option
from experiments.summary import Places, Series, Summary, Table, pivot
from experiments.texts import SAMPLE, CorpusOptions, ExpertOptions, checked_text, read, sample_records
from ntp_envs import ARLinearClass, NGramClass, Policy, collect, distance, ended_class
from ntp_envs.arrays import FloatArray
from ntp_envs.checks import check_int
from ntp_envs.distances.curve import additive_distance
from ntp_envs.evaluation import evaluate
from ntp_envs.features import WindowOneHot
from ntp_envs.tasks import Text


@dataclass(frozen=True)
class TextOptions(CorpusOptions, ExpertOptions, measure.NetworkOptions):
    """The text, and sizes of the sweep; the defaults are the full study."""

    max_vocab: int | None = None
    """Largest vocabulary; by default 96 characters (more where the script has more), 256 bytes or 1000 words."""
    horizon: int = option(256, quick=64, least=2)
    """Tokens to write."""
    orders: tuple[int, ...] = option((1, 2, 3, 4, 5))
    """Orders of the n-gram learners."""
    windows: tuple[int, ...] = option((1, 2, 4, 16), quick=(1, 2, 4))
    """Tokens that each linear learner sees."""
    mlp_window: int = option(8)
    """Tokens that the MLP sees."""
    width: int = option(256, quick=64)
    """Width of the MLP."""
    steps: int = option(4000, quick=300)
    """Updates of the MLP."""
    n: int = option(4000, quick=3000)
    """Sequences of the expert that every learner is shown."""
    draws: int = option(10_000, quick=2000, least=4)
    """Sequences that a distance is measured with."""
    seeds: int = option(5, quick=3)
    """Replicates of everything but the training of MLPs."""
    network_seeds: int = option(5, quick=2)
    """Replicates of that."""

    def check(self) -> None:
        for order in self.orders:
            check_int("orders", order, minimum=1, maximum=self.expert_order)
        check_int("mlp_window", self.mlp_window, minimum=1, maximum=self.prompt_length + self.horizon - 1)


# -- cells: one restricted learner of the expert's text, and how far its own text is from it ---------------------------

MAIN = "drift"
NGRAM, LINEAR, MLP = "n-gram", "linear window", "MLP"
EXPERT, REAL = "expert", "the text itself"
DISTANCE2, BITS, HALF = "hellinger2", "bits a character", "tokens until the distance is 1"
ACCURACY, NATS, RIGHT, PERPLEXITY = "forced_accuracy", "cross_entropy", "forced_token_accuracy", "perplexity"
UNKNOWN = "share of unknown tokens"
BRIDGE = "monte carlo (bridge)"
RADIUS = 100.0
TOLERANCE = 1e-4  # nats a token: far below what the data determine
SHOWN_SAMPLES, SAMPLE_LENGTH = 2, 64
SAMPLES_SEED = 20250222  # everybody continues the same two prompts


def name_of(kind: str, size: int) -> str:
    """``"3-gram"``, ``"linear, 4 tokens"``, ``"MLP, 8 tokens"``."""
    if kind == NGRAM:
        return f"{size}-gram"
    return f"{'linear' if kind == LINEAR else kind}, {size} token{'' if size == 1 else 's'}"


def drift(
    *, text: Mapping[str, Any], kind: str, size: int, n: int, draws: int, network: Mapping[str, Any], replicate: int,
    rng: np.random.Generator, scratch: Path,
) -> list[Record]:  # fmt: skip
    """Learn from the expert's sequences; the distance of the two laws at every length, and scores on the real text.

    Bits a character and samples are of the first replicate: their intervals are of the text, not of the training.
    """
    task = read(text)
    policy = learned(task, kind, size, n, network, rng, scratch)
    labels: dict[str, Label] = {"task": task.name, "learner": name_of(kind, size), "kind": kind, "size": size, "n": n}
    curve = distance(task.expert, policy, task, method=BRIDGE, n=draws, rng=rng)
    records = measure.curve_records(curve, labels)
    half = measure.passing(curve.values)
    if np.isfinite(half):
        early, late = (min(measure.passing(end), float(task.horizon)) for end in (curve.upper, curve.lower))
        records.append(Record(HALF, half, labels, early, late, records[-1].method))
    return records + (scores(task, policy, labels, rng) if replicate == 0 else [])


def learned(
    task: Text, kind: str, size: int, n: int, network: Mapping[str, Any], rng: np.random.Generator, scratch: Path
) -> Policy:
    """A learner of ``n`` sequences that the expert has written: n-grams by Witten and Bell, the others by log-loss."""
    demonstrations = collect(task, n, rng)
    if kind == NGRAM:
        ngrams = ended_class(NGramClass(task.vocab_size, size), task.end_token)
        return make_agent("NGramBC").fit(demonstrations, ngrams, rng=rng).policy_
    if kind == LINEAR:
        window = ended_class(ARLinearClass(WindowOneHot(task.vocab_size, size), RADIUS), task.end_token)
        return make_agent("LogLossBC", tol=TOLERANCE * task.horizon).fit(demonstrations, window, rng=rng).policy_
    from agents.neural import NetworkClass, NeuralBC

    mlp = NetworkClass.for_task("mlp", task, window=size, width=network["width"])
    policy_class = ended_class(mlp, task.end_token)
    agent = NeuralBC(steps=network["steps"], batch_size=64, learning_rate=3e-3, checkpoint=scratch / "run")
    return agent.fit(demonstrations, policy_class, rng=rng).policy_


def scores(task: Text, policy: Policy, labels: Mapping[str, Label], rng: np.random.Generator) -> list[Record]:
    """What a policy makes of the held-out text, and how it goes on from two prompts."""
    bits = task.bits_per_char(policy)
    records = [Record(BITS, bits.value, labels, *bits.interval, f"held-out text, {bits.n_chars} characters")]
    held_out = task.windows(1000, rng, held_out=True)
    evaluation = evaluate(policy, task, demonstrations=held_out, rng=rng, samples=0)
    lengths = set(measure.shown_lengths(task.horizon))
    for record in measure.evaluation_records(evaluation, labels):
        by_position = record.metric in (ACCURACY, NATS) and record.labels.get("h") in lengths
        if by_position or record.metric in (RIGHT, "mean_cross_entropy", PERPLEXITY):
            records.append(record)
    shown = task.windows(SHOWN_SAMPLES, np.random.default_rng(SAMPLES_SEED))
    written = policy.sample(shown.prompts, min(SAMPLE_LENGTH, task.horizon), rng)
    return records + sample_records(task, shown.prompts, written, labels)


def references(*, text: Mapping[str, Any], rng: np.random.Generator) -> list[Record]:
    """The expert's own scores, and the text itself."""
    task = read(text)
    labels: dict[str, Label] = {"task": task.name, "learner": EXPERT, "sha256": str(text["sha256"])[:16]}
    shown = task.windows(SHOWN_SAMPLES, np.random.default_rng(SAMPLES_SEED))
    real = sample_records(task, shown.prompts, shown.tokens[:, :SAMPLE_LENGTH], {**labels, "learner": REAL})
    unknown = task.bits_per_char(task.expert).unknown_share
    return [*scores(task, task.expert, labels, rng), *real, Record(UNKNOWN, unknown, labels)]


def learners(options: TextOptions, *, networks: bool) -> list[tuple[str, int]]:
    """Kind and size of each learner."""
    found = [(NGRAM, order) for order in options.orders] + [(LINEAR, window) for window in options.windows]
    return [*found, (MLP, options.mlp_window)] if networks else found


def cells(options: TextOptions) -> Iterator[Cell]:
    """The slow cells first.

    Raises:
        ValueError: the text will not do, or MLPs are asked for and torch is missing; before anything is run.
    """
    networks = measure.trains_networks(options.neural)
    sizes = {name: getattr(options, name) for name in ("max_vocab", "expert_order", "horizon", "prompt_length")}
    text = checked_text(options, **sizes)
    shown = {"text": text, "n": options.n, "draws": options.draws}
    mlp = {"kind": MLP, "size": options.mlp_window, "network": {"width": options.width, "steps": options.steps}}
    for replicate in range(options.network_seeds if networks else 0):
        yield Cell(MAIN, drift, {**shown, **mlp, "replicate": replicate}, scratch=True)
    for replicate in range(options.seeds):
        for kind, size in reversed(learners(options, networks=False)):
            cell = {**shown, "kind": kind, "size": size, "network": {}, "replicate": replicate}
            yield Cell(MAIN, drift, cell, scratch=True)
    yield Cell(MAIN, references, {"text": text})


# -- tables ------------------------------------------------------------------------------------------------------------


def names(o: TextOptions) -> list[str]:
    """Learners in the order of tables."""
    return [name_of(kind, size) for kind, size in learners(o, networks=o.neural != "no")]


def some_lengths(horizon: int) -> list[int]:
    """1, 4, 16, ... and the horizon."""
    return sorted({*(4**k for k in range(10) if 4**k < horizon), horizon})


def unknown_said(s: Summary) -> str:
    """A sentence on the tokens that nobody spells out, empty where there are none."""
    share = s.value(UNKNOWN, learner=EXPERT)
    if not share > 0:
        return ""
    return f" Of its tokens {100 * share:.2g} % are unknown ones, which nobody spells out: the bits are too few."


def tables(o: TextOptions, s: Summary) -> list[Table]:
    """Distances, samples and scores."""
    learned: Places = [(name, {"learner": name}) for name in [*names(o), EXPERT]]
    lengths = some_lengths(o.horizon)
    drifted = []
    for learner, place in learned:
        if bits := s.shown(BITS, **place):
            half = "" if learner == EXPERT else s.shown(HALF, **place) or f"> {o.horizon}"
            drifted.append([learner, *(s.shown(DISTANCE2, **place, h=h) or "0" for h in lengths), half, bits])
    written = [
        [f"{row['prompt']} ...", learner, row["text"]]
        for number in range(1, SHOWN_SAMPLES + 1)
        for learner in [REAL, EXPERT, *reversed(names(o))]
        for row in s.select(SAMPLE, learner=learner)
        if row.mean == number
    ]
    scored: Places = [("right tokens", {"metric": RIGHT}), (PERPLEXITY, {})]
    scored += [(f"nats, token {h}", {"metric": NATS, "h": h}) for h in (1, o.horizon)]
    heads = ["learner", *(f"distance, h={h}" for h in lengths), "tokens until it is 1", "bits a character"]
    notes = (
        "Squared Hellinger distance (0 to 2) of the learner's law from the expert's after h tokens, the length at "
        "which it is 1, and bits a character of the held-out text, with 95 % intervals: over replicates, and for "
        f"the bits over blocks of the text.{unknown_said(s)}",
        "Each continues the same words of the text by sampling; \u21b5 is a line end.",
        "On windows of the held-out text, after the true prefix: share of tokens that the learner finds most "
        "probable, perplexity a token, and cross-entropy of the first and the last token. 95 % intervals."
        f"{unknown_said(s)}",
    )
    return [
        Table("Distance over the horizon", heads, drifted, notes[0]),
        Table("Samples side by side", ["after", "by", "written"], written, notes[1]),
        pivot(s, "Teacher forcing on text that nobody has seen", PERPLEXITY, learned, scored, note=notes[2]),
    ]


# -- figures -----------------------------------------------------------------------------------------------------------

#: distances at the ticks of the additive scale, the last of which is its top
TICKS = (0.0, 0.5, 1.0, 1.3, 1.5, 1.7, 1.8, 1.85, 1.9)
#: where the lower end of an interval is beyond this, too little is in common to measure
MEASURABLE = 1.97
WRITTEN = "tokens written after the prompt"


def looks(o: TextOptions, *kinds: str) -> dict[str, dict[str, Any]]:
    """Colour and dashes of the learners of these kinds."""
    ramps = {
        NGRAM: charts.shades(o.orders, charts.BLUES),
        LINEAR: charts.shades(o.windows, charts.ORANGES),
        MLP: {o.mlp_window: charts.COLOURS["green"]},
    }
    return {
        name_of(kind, size): {"color": ramps[kind][size], "linestyle": "--" if kind == LINEAR else "-", "marker": ""}
        for kind, size in learners(o, networks=True)
        if kind in kinds
    }


def drift_figure(o: TextOptions, s: Summary) -> charts.Figure:
    """All learners on the additive scale, each labelled where its line leaves the picture."""
    title = "Free-running text drifts from the expert's, faster for the more restricted learner"
    for kind, sizes in ((NGRAM, o.orders), (LINEAR, o.windows)):
        half = s.series("size", HALF, kind=kind)  # every learner that sees more passes 1 later, or it is a question
        if not len(half.x) or list(half.x) != sorted(sizes)[: len(half.x)] or (np.diff(half.mean) <= 0).any():
            title = "How fast does free-running text drift from the expert's?"
    figure, axes = charts.new_figure(title, WRITTEN, charts.DISTANCE, size=(9.6, 5.6))
    charts.say_data(figure, s.select(DISTANCE2), f"expert: {o.expert_order}-gram", what="replicates")
    axes.set_yscale("function", functions=(additive, additive_inverse))
    look = looks(o, NGRAM, LINEAR, MLP)
    curves = {name: s.series("h", DISTANCE2, learner=name) for name in look}
    curves = {name: series for name, series in curves.items() if len(series.x)}
    if not curves:
        return figure
    leaving = {name: exit_of(series) for name, series in curves.items()}
    gone = [x for x in leaving.values() if np.isfinite(x)]
    right = float(o.horizon) if len(gone) < 2 else min(1.1 * max(gone), float(o.horizon))
    top = TICKS[-1] if gone else max(float(series.mean.max()) for series in curves.values())
    for name, series in curves.items():
        kept = ~(series.lower > MEASURABLE)
        from_zero = Series(*(np.concatenate([[0.0], column[kept]]) for column in series))  # nothing written yet
        charts.plot_series(axes, from_zero, name, **look[name])
        if leaving[name] > right:
            charts.end_labels(
                axes, [(right, float(np.interp(right, series.x, series.mean)), name, look[name]["color"])]
            )
    axes.set_xlim(0.0, right)
    axes.set_ylim(0.0, top)
    axes.set_yticks([tick for tick in TICKS if tick <= top], labels=[f"{tick:g}" for tick in TICKS if tick <= top])
    axes.set_yticks([], minor=True)
    charts.top_labels(axes, [(x, name, look[name]["color"]) for name, x in leaving.items() if x <= right], top)
    return figure


def additive(distance: FloatArray) -> FloatArray:
    """`additive_distance`, finite for an axis."""
    return additive_distance(np.minimum(distance, 2.0 - 1e-12))


def additive_inverse(value: FloatArray) -> FloatArray:
    return -2.0 * np.expm1(-np.asarray(value) / 2.0)


def exit_of(series: Series) -> float:
    """Where a curve passes the top of the additive scale, between two lengths; ``inf`` if it does not."""
    above = np.flatnonzero(series.mean >= TICKS[-1])
    if not len(above):
        return math.inf
    i = int(above[0])
    ends = np.concatenate([[0.0], additive(series.mean[: i + 1])])
    places = np.concatenate([[0.0], series.x[: i + 1]])
    return float(np.interp(additive(np.array(TICKS[-1])), ends[-2:], places[-2:]))


def plain_figure(o: TextOptions, s: Summary) -> charts.Figure:
    """Plain squared distances against the logarithm of the length; n-grams on the left, the others on the right."""
    title = "How far apart are the two laws? At 2 they have nothing in common"
    figure, panels = charts.new_panels(title, [WRITTEN] * 2, charts.DISTANCE, size=(11.0, 4.8))
    charts.say_data(figure, s.select(DISTANCE2), f"expert: {o.expert_order}-gram", what="replicates")
    for axes, kinds in zip(panels, ((NGRAM,), (LINEAR, MLP)), strict=True):
        for name, look in looks(o, *kinds).items():
            charts.plot_series(axes, s.series("h", DISTANCE2, learner=name), name, **look, label=name)
        charts.log2_axis(axes, measure.powers_of_two(o.horizon))
        axes.set_ylim(0.0, 2.05)
        if names := axes.get_legend_handles_labels()[1]:  # all lines end at 2, where names would be in each other's way
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=min(len(names), 4), fontsize=9)
    return figure


def bits_figure(o: TextOptions, s: Summary) -> charts.Figure:
    """A point with its interval for every learner, best at the top, and the expert as a line."""
    look = looks(o, NGRAM, LINEAR, MLP)
    rows = sorted((row for name in look for row in s.select(BITS, learner=name)), key=lambda row: -row.mean)
    experts = s.select(BITS, learner=EXPERT)
    said = "New text under teacher forcing"
    if rows and experts:
        ends = f"{rows[-1].mean:.2f} to {rows[0].mean:.2f}"
        said = f"New text: expert {experts[0].mean:.2f} bits a character, learners {ends}"
    figure, axes = charts.new_figure(said, BITS, "", size=(8.2, 1.8 + 0.38 * max(len(rows), 1)))
    if not rows and not experts:
        charts.no_data(axes)
        return figure
    heights = charts.name_rows(axes, {row["learner"]: "black" for row in reversed(rows)})
    for row in rows:
        at, colour = heights[row["learner"]], look[row["learner"]]["color"]
        charts.interval_dot(axes, row, at, colour, f"{row.mean:.2f}", color="black")
    axes.set_xlim(0.0, 1.12 * float(axes.dataLim.x1))
    for row in experts:
        axes.axvspan(row.lower, row.upper, color="black", alpha=0.08, linewidth=0)
        axes.axvline(row.mean, color="black", linestyle="--", linewidth=1.5)
        words: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        axes.annotate(f"expert {row.mean:.2f}", (row.mean, 1.0), xycoords=("data", "axes fraction"), **words)
    charts.say_data(figure, rows, "held-out text", what="replicates")
    charts.say(figure, "broad lines and shade: 95 % intervals")
    return figure


def figures(o: TextOptions, s: Summary) -> list[FigureSpec]:
    """The distances on two scales, and bits a character."""
    over = f"of {o.seeds} replicates" if o.seeds > 1 else "of the sampling of one replicate"
    expert = f"the expert is an interpolated {o.expert_order}-gram model of the text"
    return [
        FigureSpec(
            "headline",
            "How fast does a learner's own text drift from the expert's?",
            "Squared Hellinger distance to the expert on a scale in which equal errors at every token make a straight "
            f"line (-2 log(1 - D^2/2)); {expert}, and every learner has seen {o.n} sequences of it. Bands: 95 % "
            f"intervals {over}. "
            "Lines end where they leave the picture, or where too little in common is left to measure.",
            lambda: drift_figure(o, s),
        ),
        FigureSpec(
            "distance",
            "The same on the plain scale",
            f"Squared Hellinger distance, from 0 to 2, against the length; {expert}. Bands: 95 % intervals {over}.",
            lambda: plain_figure(o, s),
        ),
        FigureSpec(
            "bits",
            "How well does each learner predict text that nobody has seen?",
            "Bits a character of the held-out end of the text under teacher forcing; bars: 95 % intervals from the "
            f"scatter of blocks of the text, which all learners share.{unknown_said(s)}",
            lambda: bits_figure(o, s),
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------


def drift_findings(o: TextOptions, s: Summary) -> Iterator[str]:
    """Where each learner's text has come half the way; that of the last one grows, and teacher forcing stays."""
    rows = sorted(s.select(HALF), key=lambda row: row.mean)
    if not rows:
        return
    words = "; ".join(f"{row['learner']} {row.shown()}" for row in rows)
    passed = {row["learner"] for row in rows}
    never = [name for name in names(o) if name not in passed and len(s.select(BITS, learner=name))]
    rest = f"; not within {o.horizon}: {', '.join(never)}." if never else "."
    yield f"The squared Hellinger distance to the expert passes 1 after so many tokens: {words}{rest}"
    learner, H = max(rows, key=lambda row: row.mean)["learner"], o.horizon
    place = {"learner": learner}
    grown = ", ".join(f"{s.shown(DISTANCE2, **place, h=h)} at h={h}" for h in some_lengths(H))
    yield (
        f"The {learner} model, the least restricted of those: {grown}. Under teacher forcing nothing of this shows: "
        f"its cross-entropy is {s.shown(NATS, **place, h=1)} nats at token 1 and {s.shown(NATS, **place, h=H)} at "
        f"token {H} of held-out text."
    )


def findings(o: TextOptions, s: Summary) -> Iterator[str]:
    """The drift, bits a character against the expert, and why there is no MLP."""
    yield from drift_findings(o, s)
    words = [f"{name} {bits}" for name in names(o) if (bits := s.shown(BITS, learner=name))]
    for row in s.select(BITS, learner=EXPERT) if words else ():
        where = f"corpus {o.corpus!r}, sha256 {row['sha256']}..."
        said = f"Bits a character of held-out text ({where}): {'; '.join(words)}; the expert {row.shown()}."
        yield f"{said}{unknown_said(s)}"
    if why := measure.networks_left_out(o.neural):
        yield f"The MLP was {why}."


STUDY = Study(
    name="text",
    question="How fast does a next-token learner's own text drift from the expert's, on real text?",
    options=TextOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings),
    labels=("kind", "size", "prompt", "text", "sha256"),
    reads=("corpus",),
)
