"""Real text: how far free-running learners drift from the expert, and what learning on whole sequences changes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents import Agent, ConvergenceWarning, LogLossBC, make_agent
from experiments.cells import Cell, Label, Record
from experiments.charts import DISTANCE, Line, draw_lines, plain_log_axis, room_for_labels, shades
from experiments.measure import (
    CHUNKED,
    build_learner,
    check_distinct,
    evaluation_records,
    passing,
    trains_networks,
    without_torch,
)
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Series, Summary, SummaryRow, Table, with_interval
from ntp_envs import ARLinearClass, FiniteClass, MarkovPolicy, NGramClass, Policy, collect, distance
from ntp_envs.checks import check_in, check_int, check_probability
from ntp_envs.distances.curve import DistanceCurve
from ntp_envs.evaluation import evaluate
from ntp_envs.features import WindowOneHot
from ntp_envs.tasks import Text
from ntp_envs.text import UnknownTokensWarning
from ntp_envs.text.vocabulary import TOKENS

# -- What can be changed about the study ------------------------------------------------------------------------------


NEURAL = ("auto", "yes", "no")


@dataclass(frozen=True)
class TextOptions:
    """The text, and sizes of the sweep; the defaults are the full study."""

    corpus: str = "default"
    """Text to work on: the path of a text file, "hf:OWNER/NAME" for a Hugging Face data set, or the help topics that
    come with Python."""
    records: Literal["lines"] | None = None
    """One document a line, each with an end, instead of one stretch of text."""
    tokens: Literal["char", "byte", "word"] = "char"
    """What a token is; bytes read any file."""
    lower: bool = True
    """Lower-case the text first."""
    max_vocab: int | None = None
    """Largest vocabulary of the first part; by default 96 characters (more where the script has more), 256 bytes or
    1000 words."""
    max_chars: int | None = None
    """Read this much of the text at most."""
    expert_order: int = 6
    """Order of the n-gram model of the text that is the expert."""
    horizon: int = 256
    """Tokens to write."""
    prompt_length: int = 16
    """Tokens of the text that they follow."""
    orders: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Orders of the n-gram learners."""
    windows: tuple[int, ...] = (1, 2, 4, 16)
    """Tokens that each linear learner sees."""
    neural: Literal["auto", "yes", "no"] = "auto"
    """Train networks, which needs torch (the extra ``neural``); by default where it is installed."""
    mlp_window: int = 8
    """Tokens that the MLP sees."""
    width: int = 256
    """Width of the MLP."""
    steps: int = 4000
    """Updates of the MLP."""
    n: int = 4000
    """Sequences of the expert that every learner of the first part is shown."""
    draws: int = 10_000
    """Sequences that a distance is measured with."""
    seeds: int = 5
    """Replicates of everything but the training of networks."""
    network_seeds: int = 5
    """Replicates of that."""
    contamination: float = 0.03
    """Share of shuffled documents in the second part, where the expert is otherwise a bigram model."""
    small_vocab: int = 30
    """Vocabulary of the dial, in the second part."""
    dial_horizons: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    """Lengths of the documents there."""
    dial_n: int = 4000
    """Documents that are learned from there."""
    chunks: tuple[int, ...] = (16, 32, 64, 128)
    """Chunks K of the learners between next-token and whole-document; those below H are used."""
    network_vocab: int = 12
    """Vocabulary of the networks that are trained on whole contaminated documents."""
    network_horizon: int = 256
    """Length of the documents there."""
    network_n: int = 4000
    """Documents that are learned from there."""
    network_batch: int = 128
    """Documents in an update there."""
    network_steps: int = 500
    """Updates of each stage of training there: the clipped ratio has four, rho six, and log-loss as many as four."""

    def __post_init__(self) -> None:
        check_in("tokens", self.tokens, TOKENS)
        check_in("neural", self.neural, NEURAL)
        check_distinct("orders", self.orders, maximum=self.expert_order)
        check_distinct("windows", self.windows)
        check_distinct("dial_horizons", self.dial_horizons, minimum=2)
        check_distinct("chunks", self.chunks)
        for name in (
            "width",
            "steps",
            "n",
            "seeds",
            "network_seeds",
            "dial_n",
            "network_n",
            "network_batch",
            "network_steps",
        ):
            check_int(name, getattr(self, name), minimum=1)
        for name, minimum in (("draws", 4), ("horizon", 2), ("network_horizon", 2), ("prompt_length", 0)):
            check_int(name, getattr(self, name), minimum=minimum)
        for name in ("small_vocab", "network_vocab"):
            check_int(name, getattr(self, name), minimum=2)
        check_int("mlp_window", self.mlp_window, minimum=1, maximum=self.prompt_length + self.horizon - 1)
        if check_probability("contamination", self.contamination) > 0.25:
            raise ValueError(f"contamination={self.contamination} must be at most 0.25; beyond, no bigram is near.")

    @classmethod
    def quick(cls) -> TextOptions:
        """About a minute on two cores."""
        return cls(
            horizon=64,
            windows=(1, 2, 4),
            width=64,
            steps=300,
            n=3000,
            draws=2000,
            seeds=3,
            network_seeds=2,
            dial_horizons=(16, 64, 128, 256),
            dial_n=1500,
            chunks=(32, 64),
            network_n=2000,
            network_batch=64,
            network_steps=200,
        )


# -- The text of a run: checked before anything is run, and known by its content from then on -------------------------


BIGRAM = 2
#: parameters of `Text` for each part of the study: the options that give them, by the part's name
MAIN, DIAL, NETWORKS = "drift", "dial", "networks"


def parameters(options: TextOptions, part: str) -> dict[str, Any]:
    """Parameters of the part's task, but for the length of the documents where there are several."""
    text = {name: getattr(options, name) for name in ("corpus", "tokens", "lower", "max_chars")}
    if options.records is not None:  # cells of one stretch of text keep their names, and with them their seeds
        text["records"] = options.records
    if part == MAIN:
        sizes = {name: getattr(options, name) for name in ("max_vocab", "expert_order", "horizon", "prompt_length")}
        return {**text, **sizes}
    vocab, H = {
        DIAL: (options.small_vocab, max(options.dial_horizons)),
        NETWORKS: (options.network_vocab, options.network_horizon),
    }[part]
    shuffled = {"expert_order": BIGRAM, "prompt_length": 1, "contamination": options.contamination}
    return {**text, "max_vocab": vocab, "horizon": H, **shuffled}


def checked_texts(options: TextOptions) -> dict[str, dict[str, Any]]:
    """Parameters of each part's task with the ``sha256`` of the text, all of which `read` takes.

    The text is read and the sizes are checked against it here, so that nothing is run on a text that will not do. The
    hash makes a changed file another experiment.

    Raises:
        ValueError: the text cannot be read, is not text, or is too short; with the reason and the way round.
    """
    found = {}
    for part in (MAIN, DIAL, NETWORKS):
        try:
            with warnings.catch_warnings():
                if part != MAIN:  # whose vocabularies are small on purpose, and whose bits are not shown
                    warnings.simplefilter("ignore", UnknownTokensWarning)
                task = Text(**parameters(options, part))
        except (OSError, ImportError) as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            asked = {DIAL: max(options.dial_horizons), NETWORKS: options.network_horizon}
            where = {DIAL: "dial_horizons", NETWORKS: "network_horizon"}
            if part == MAIN or "too short" not in str(error):
                raise
            raise ValueError(f"{error} That is {where[part]}={asked[part]} here.") from error
        found[part] = {**task.parameters(), "sha256": task.data.sha256}
        if options.records is None:
            del found[part]["records"]
    return found


def read(text: Mapping[str, Any], **changes: Any) -> Text:
    """The task with these parameters, some of them changed.

    Raises:
        ValueError: the text is not the one that the run began with.
    """
    parameters = {**text, **changes}
    begun = parameters.pop("sha256")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownTokensWarning)  # `checked_texts` has let it through, once
        task = Text(**parameters)
    if task.data.sha256 != begun:
        raise ValueError(f"corpus={task.corpus!r} has changed since this run began; start the run again.")
    return task


# -- Cells of the second part: a share of the expert's documents is shuffled text, and the learners are bigram models -


CLEAN = "clean bigram"
EXACT = "log-loss, exact"
NETWORK, RHO, CLIPPED = "log-loss, network", "rho, network", "clipped ratio, network"
#: learners of the networks' part that are trained
NETWORKS = (RHO, CLIPPED, NETWORK)
SHARE = "share of shuffled text in the model"
#: positions of the dial, with the share of shuffled documents as unit; zero comes first
DIAL = np.geomspace(1 / 256, 8, 23)  # 1 is among them
#: stages of log-loss; of the clipped ratio: log-loss, trimmed log-loss, and a descent from each
STAGES = 4
TRIM = 0.05


def dial_class(task: Text) -> tuple[FiniteClass, list[float]]:
    """Bigram models of text of which a share is shuffled, from none of it upwards, and these shares."""
    empty = np.empty((task.vocab_size, 0), dtype=np.int64)
    bigram = np.exp(task.clean.next_log_probs(np.arange(task.vocab_size)[:, None], empty))  # (A, A)
    shuffled = np.exp(task.shuffled.next_log_probs(np.zeros((1, 0), dtype=np.int64), empty[:1]))  # (1, A)
    shares = [0.0, *(float(share) for share in task.contamination * DIAL)]
    members = [MarkovPolicy(np.vstack([(1 - share) * bigram + share * shuffled, shuffled]), 1) for share in shares]
    for member in members:
        member.prompt_length = task.prompt_length  # so that a learner returns the member itself
    return FiniteClass(members), shares


def dial(
    *,
    text: Mapping[str, Any],
    H: int,
    n: int,
    draws: int,
    chunks: list[int],
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """Every learner on the same documents, each exact in its objective; distances at the full length."""
    task = read(text, horizon=H)
    members, shares = dial_class(task)
    demonstrations = collect(task, n, rng)
    seed = int(rng.integers(2**31))
    measured: dict[int, Any] = {}
    records = []
    picks: list[tuple[str, int | None]] = [(CLEAN, None), ("log-loss", None)]
    picks += [(CHUNKED, K) for K in chunks if K < H] + [("rho", None)]
    for learner, K in picks:
        if learner == CLEAN:
            index = 0
        else:
            policy = build_learner(learner, task, K).fit(demonstrations, members, rng=rng).policy_
            index = next(i for i, member in enumerate(members.policies) if member is policy)
        if index not in measured:  # the same draws for all, so that equal choices are at equal distances
            draw = np.random.default_rng(seed)
            measured[index] = distance(task.expert, members.policies[index], task, method=BRIDGE, n=draws, rng=draw)
        curve = measured[index]
        labels: dict[str, Label] = {"task": task.name, "learner": learner, "H": H, "n": n}
        labels |= {} if K is None else {"K": K}
        ends = float(curve.lower[-1]), float(curve.upper[-1])
        records.append(Record(DISTANCE2, curve.final, labels, *ends, method_of(curve)))
        if learner != CLEAN:
            records.append(Record(SHARE, shares[index], labels))
    return records


def untrained(*, text: Mapping[str, Any], n: int, draws: int, replicate: int, rng: np.random.Generator) -> list[Record]:
    """What needs no training: the clean bigram model, and the bigram table of largest likelihood."""
    task = read(text)
    found = LogLossBC().fit(collect(task, n, rng), task.policy_class, rng=rng).policy_
    records = []
    for learner, policy in ((CLEAN, task.clean), (EXACT, found)):
        curve = distance(task.expert, policy, task, method=BRIDGE, n=draws, rng=rng)
        records += curve_records(curve, {"task": task.name, "learner": learner, "n": n})
    return records


def trained(
    *,
    text: Mapping[str, Any],
    learner: str,
    n: int,
    draws: int,
    steps: int,
    batch_size: int,
    replicate: int,
    rng: np.random.Generator,
    scratch: Path,
) -> list[Record]:
    """A linear network of the last token, wide enough to be any bigram model, trained for one of the objectives."""
    from agents.neural import NetworkClass

    task = read(text)
    spec = NetworkClass.for_task("linear", task, width=task.vocab_size, window=1)
    demonstrations = collect(task, n, rng, expert_log_probs=True)
    agent = network_agent(learner, steps, batch_size, scratch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        policy = agent.fit(demonstrations, spec, rng=rng).policy_
    curve = distance(task.expert, policy, task, method=BRIDGE, n=draws, rng=rng)
    return curve_records(curve, {"task": task.name, "learner": learner, "n": n})


def network_agent(learner: str, steps: int, batch_size: int, scratch: Path) -> Agent:
    """The agent; log-loss gets as many updates as the clipped ratio in all."""
    shared = {"batch_size": batch_size, "learning_rate": 0.05, "checkpoint": scratch / "run"}
    if learner == NETWORK:
        return make_agent("agents.neural:NeuralBC", steps=STAGES * steps, **shared)
    first = {**shared, "steps": steps, "trims": (TRIM,)}
    if learner == CLIPPED:
        return make_agent("agents.neural:NeuralClippedRatioBC", ratio_steps=steps, ratio_learning_rate=0.02, **first)
    rounds = {"rounds": 2, "game_steps": steps, "game_learning_rate": 0.02}
    return make_agent("agents.neural:NeuralRhoBC", **rounds, **first)


# -- Cells of the first part: one restricted learner of the expert's text, and how far its own text is from it --------


NGRAM, LINEAR, MLP = "n-gram", "linear window", "MLP"
EXPERT, REAL = "expert", "the text itself"
DISTANCE2, BITS, HALF = "hellinger2", "bits a character", "tokens until the distance is 1"
ACCURACY, NATS = "forced_accuracy", "cross_entropy"
SAMPLE = "sample"
UNKNOWN = "share of unknown tokens"
BRIDGE = "monte carlo (bridge)"
#: totals of an evaluation that are kept
TOTALS = ("forced_token_accuracy", "mean_cross_entropy", "perplexity")
RADIUS = 100.0
TOLERANCE = 1e-4  # nats a token: far below what the data determine
SHOWN_SAMPLES, SAMPLE_LENGTH = 2, 64
SAMPLES_SEED = 20250222  # everybody continues the same two prompts


def name_of(kind: str, size: int) -> str:
    """``"3-gram"``, ``"linear, 4 tokens"``, ``"MLP, 8 tokens"``."""
    if kind == NGRAM:
        return f"{size}-gram"
    return f"{'linear' if kind == LINEAR else kind}, {size} token{'' if size == 1 else 's'}"


def shown_lengths(horizon: int) -> list[int]:
    """Every length up to 32, then about ten a doubling, and the last."""
    later = np.geomspace(32, max(horizon, 32), 1 + int(10 * np.log2(max(horizon, 32) / 32))).round()
    return sorted({*range(1, min(horizon, 32) + 1), *(int(h) for h in later if h < horizon), horizon})


def drift(
    *,
    text: Mapping[str, Any],
    kind: str,
    size: int,
    n: int,
    draws: int,
    network: Mapping[str, Any],
    replicate: int,
    rng: np.random.Generator,
    scratch: Path,
) -> list[Record]:
    """Learn from the expert's sequences; the distance of the two laws at every length, and scores on the real text.

    Bits a character and samples are of the first replicate: their intervals are of the text, not of the training.
    """
    task = read(text)
    policy = learned(task, kind, size, n, network, rng, scratch)
    labels: dict[str, Label] = {"task": task.name, "learner": name_of(kind, size), "kind": kind, "size": size, "n": n}
    curve = distance(task.expert, policy, task, method=BRIDGE, n=draws, rng=rng)
    records = curve_records(curve, labels)
    half = passing(curve.values)
    if np.isfinite(half):
        early, late = (min(passing(end), float(task.horizon)) for end in (curve.upper, curve.lower))
        records.append(Record(HALF, half, labels, early, late, method_of(curve)))
    return records + (scores(task, policy, labels, rng) if replicate == 0 else [])


def learned(
    task: Text, kind: str, size: int, n: int, network: Mapping[str, Any], rng: np.random.Generator, scratch: Path
) -> Policy:
    """A learner of ``n`` sequences that the expert has written: n-grams by Witten and Bell, the others by log-loss."""
    demonstrations = collect(task, n, rng)
    if kind == NGRAM:
        return make_agent("NGramBC").fit(demonstrations, NGramClass(task.vocab_size, size), rng=rng).policy_
    if kind == LINEAR:
        window = ARLinearClass(WindowOneHot(task.vocab_size, size), RADIUS)
        return make_agent("LogLossBC", tol=TOLERANCE * task.horizon).fit(demonstrations, window, rng=rng).policy_
    from agents.neural import NetworkClass, NeuralBC

    spec = NetworkClass.for_task("mlp", task, window=size, width=network["width"])
    agent = NeuralBC(steps=network["steps"], batch_size=64, learning_rate=3e-3, checkpoint=scratch / "run")
    return agent.fit(demonstrations, spec, rng=rng).policy_


def method_of(curve: DistanceCurve) -> str:
    return curve.method if curve.is_exact else f"{curve.method}, n={curve.n}"


def curve_records(curve: DistanceCurve, labels: Mapping[str, Label]) -> list[Record]:
    """The squared Hellinger distance at the lengths that are shown."""
    return [
        Record(
            DISTANCE2,
            float(curve.values[h - 1]),
            {**labels, "H": curve.horizon, "h": h},
            float(curve.lower[h - 1]),
            float(curve.upper[h - 1]),
            method_of(curve),
        )
        for h in shown_lengths(curve.horizon)
    ]


def scores(task: Text, policy: Policy, labels: Mapping[str, Label], rng: np.random.Generator) -> list[Record]:
    """What a policy makes of the held-out text, and how it goes on from two prompts."""
    bits = task.bits_per_char(policy)
    method = f"held-out text, {bits.n_chars} characters"
    records = [Record(BITS, bits.value, labels, *bits.interval, method=method)]
    held_out = task.windows(1000, rng, held_out=True)
    evaluation = evaluate(policy, task, demonstrations=held_out, rng=rng, samples=0)
    lengths = set(shown_lengths(task.horizon))
    for record in evaluation_records(evaluation, labels):
        by_position = record.metric in (ACCURACY, NATS) and record.labels.get("h") in lengths
        if by_position or record.metric in TOTALS:
            records.append(record)
    shown = task.windows(SHOWN_SAMPLES, np.random.default_rng(SAMPLES_SEED))
    written = policy.sample(shown.prompts, min(SAMPLE_LENGTH, task.horizon), rng)
    return records + sample_records(task, shown.prompts, written, labels)


def sample_records(
    task: Text, prompts: NDArray[np.int64], written: NDArray[np.int64], labels: Mapping[str, Label]
) -> list[Record]:
    """Texts as records: prompt and what is written are labels, and the value is the number of the prompt."""
    return [
        Record(SAMPLE, float(number), {**labels, "prompt": one_line(task.decode(x)), "text": one_line(task.decode(a))})
        for number, (x, a) in enumerate(zip(prompts, written, strict=True), 1)
    ]


def one_line(text: str) -> str:
    """A text with its line ends shown, and what cannot be printed replaced."""
    visible = text.replace("\n", "\u21b5").replace("\t", "\u2192")
    return "".join(c if c.isprintable() else "\ufffd" for c in visible)


def references(*, text: Mapping[str, Any], rng: np.random.Generator) -> list[Record]:
    """The expert's own scores, and the text itself."""
    task = read(text)
    labels: dict[str, Label] = {"task": task.name, "learner": EXPERT, "sha256": str(text["sha256"])[:16]}
    shown = task.windows(SHOWN_SAMPLES, np.random.default_rng(SAMPLES_SEED))
    real = sample_records(task, shown.prompts, shown.tokens[:, :SAMPLE_LENGTH], {**labels, "learner": REAL})
    unknown = task.bits_per_char(task.expert).unknown_share
    return [*scores(task, task.expert, labels, rng), *real, Record(UNKNOWN, unknown, labels)]


# -- The cells of the study: learners of the expert's text, and learners of text that is shuffled in part -------------


def learners(options: TextOptions, *, networks: bool) -> list[tuple[str, int]]:
    """Kind and size of each learner of the first part."""
    found = [(NGRAM, order) for order in options.orders] + [(LINEAR, window) for window in options.windows]
    return [*found, (MLP, options.mlp_window)] if networks else found


def cells(options: TextOptions) -> Iterator[Cell]:
    """The slow cells first.

    Raises:
        ValueError: the text will not do, or networks are asked for and torch is missing; before anything is run.
    """
    networks = trains_networks(options.neural)
    texts = checked_texts(options)
    network = {"width": options.width, "steps": options.steps}
    of_networks = {"text": texts[NETWORKS], "n": options.network_n, "draws": options.draws}
    training = {"steps": options.network_steps, "batch_size": options.network_batch}
    shown = {"text": texts[MAIN], "n": options.n, "draws": options.draws}
    of_dial = {"text": texts[DIAL], "n": options.dial_n, "draws": options.draws, "chunks": list(options.chunks)}
    for replicate in range(options.network_seeds if networks else 0):
        for learner in NETWORKS:
            cell = {**of_networks, "learner": learner, **training, "replicate": replicate}
            yield Cell(NETWORKS, trained, cell, scratch=True)
        mlp = {"kind": MLP, "size": options.mlp_window, "network": network}
        yield Cell(MAIN, drift, {**shown, **mlp, "replicate": replicate}, scratch=True)
    for replicate in range(options.seeds):
        for kind, size in reversed(learners(options, networks=False)):
            cell = {**shown, "kind": kind, "size": size, "network": {}, "replicate": replicate}
            yield Cell(MAIN, drift, cell, scratch=True)
        for H in sorted(options.dial_horizons, reverse=True):
            yield Cell(DIAL, dial, {**of_dial, "H": H, "replicate": replicate})
        yield Cell(NETWORKS, untrained, {**of_networks, "replicate": replicate})
    yield Cell(MAIN, references, {"text": texts[MAIN]})


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


BLUES = ("#0B2A45", "#0B4F83", "#0072B2", "#3C98CF", "#6FB8E3")  # few tokens seen to many
ORANGES = ("#7A2E00", "#B04600", "#D55E00", "#E69F00")
#: distances at the ticks of the additive scale, the last of which is its top
TICKS = (0.0, 0.5, 1.0, 1.3, 1.5, 1.7, 1.8, 1.85, 1.9)
#: where the lower end of an interval is beyond this, too little is in common to measure
MEASURABLE = 1.97


def additive(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """``-2 log(1 - D^2 / 2)``: adds up over independent errors."""
    return -2.0 * np.log1p(-np.clip(distance, 0.0, 2.0 - 1e-12) / 2.0)


def additive_inverse(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return -2.0 * np.expm1(-np.asarray(value) / 2.0)


def looks(options: TextOptions) -> dict[tuple[str, int], dict[str, Any]]:
    """Colour and dashes of every learner of the first part."""
    from experiments.charts import COLOURS

    ramps = {NGRAM: shades(sorted(options.orders), BLUES), LINEAR: shades(sorted(options.windows), ORANGES)}
    dashes = {NGRAM: "-", LINEAR: "--", MLP: "-"}
    return {
        (kind, size): {
            "color": COLOURS["green"] if kind == MLP else ramps[kind][size],
            "linestyle": dashes[kind],
            "marker": "",
        }
        for kind, size in learners(options, networks=True)
    }


def curve_of(summary: Summary, kind: str, size: int) -> Series:
    return summary.series("h", DISTANCE2, part=MAIN, learner=name_of(kind, size))


def drawn(axes: Axes, series: Series, look: dict[str, Any]) -> None:
    """A line and its band."""
    from experiments.charts import say_band

    axes.plot(series.x, series.mean, **look)
    axes.fill_between(series.x, series.lower, series.upper, color=look["color"], alpha=0.22, linewidth=0)
    say_band(axes, "each h")


def drift_figure(options: TextOptions, summary: Summary) -> Figure:
    """All learners on the additive scale, each labelled where its line leaves the picture."""
    from experiments.charts import end_labels, new_figure

    figure, axes = new_figure(
        "Free-running text drifts from the expert's, faster for the more restricted learner",
        "tokens written after the prompt",
        DISTANCE,
        size=(9.6, 5.6),
    )
    axes.set_yscale("function", functions=(additive, additive_inverse))
    curves = {place: series for place in looks(options) if len((series := curve_of(summary, *place)).x)}
    if not curves:
        return figure
    leaving = {place: exit_of(series) for place, series in curves.items()}
    gone = [x for x, _ in leaving.values() if np.isfinite(x)]
    right = float(options.horizon) if len(gone) < 2 else min(1.1 * max(gone), float(options.horizon))
    top = TICKS[-1] if gone else max(float(series.mean.max()) for series in curves.values())
    labels = []
    for place, series in curves.items():
        look = looks(options)[place]
        kept = ~(series.lower > MEASURABLE)
        start = Series(*(np.concatenate([[0.0], column[kept]]) for column in series))  # nothing written, no distance
        drawn(axes, start, look)
        if not np.isfinite(leaving[place][0]) or leaving[place][0] > right:
            at = float(np.interp(right, series.x, series.mean))
            labels.append((right, at, name_of(*place), look["color"]))
    axes.set_xlim(0.0, right)
    axes.set_ylim(0.0, top)
    axes.set_yticks([tick for tick in TICKS if tick <= top], labels=[f"{tick:g}" for tick in TICKS if tick <= top])
    axes.set_yticks([], minor=True)
    end_labels(axes, labels)
    outs = [(x, name_of(*place), looks(options)[place]["color"]) for place, (x, _) in leaving.items() if x <= right]
    top_labels(axes, outs, top)
    return figure


def exit_of(series: Series) -> tuple[float, float]:
    """Where a curve passes the top of the additive scale, between two lengths; ``inf`` if it does not."""
    above = np.flatnonzero(series.mean >= TICKS[-1])
    if not len(above):
        return np.inf, np.inf
    i = int(above[0])
    ends = np.concatenate([[0.0], additive(series.mean[: i + 1])])
    places = np.concatenate([[0.0], series.x[: i + 1]])
    x = np.interp(additive(np.array(TICKS[-1])), ends[-2:], places[-2:])
    return float(x), TICKS[-1]


def top_labels(axes: Axes, outs: list[tuple[float, str, str]], top: float) -> None:
    """Slanted words above the places where lines leave through the top, moved apart where they would overlap."""
    from experiments.charts import spread

    if not outs:
        return
    width = axes.get_xlim()[1]
    places = spread(np.array([x for x, *_ in outs]), 0.036 * width)
    for (x, words, colour), at in zip(outs, places, strict=True):
        axes.annotate(
            words,
            (x, top),
            xytext=(at, 1.025),
            textcoords=("data", "axes fraction"),
            rotation=40,
            rotation_mode="anchor",
            ha="left",
            va="bottom",
            color=colour,
            fontweight="bold",
            fontsize=10,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
            annotation_clip=False,
        )
    axes.set_title(axes.get_title(loc="left"), pad=84)


def curve_figure(options: TextOptions, summary: Summary) -> Figure:
    """Plain squared distances against the logarithm of the length; n-grams on the left, the others on the right."""
    from experiments.charts import log2_axis, new_panels

    figure, panels = new_panels(
        "The distance grows with every token, until the two laws have nothing in common",
        ["tokens written after the prompt"] * 2,
        DISTANCE,
        size=(11.0, 4.8),
    )
    for axes, kinds in zip(panels, ((NGRAM,), (LINEAR, MLP)), strict=True):
        for place, look in looks(options).items():
            series = curve_of(summary, *place)
            if place[0] in kinds and len(series.x):
                drawn(axes, series, {**look, "label": name_of(*place)})
        log2_axis(axes, [2.0**k for k in range(int(np.log2(options.horizon)) + 1)])
        axes.set_ylim(0.0, 2.05)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", fontsize=10)
    return figure


def bits_figure(options: TextOptions, summary: Summary) -> Figure:
    """A point with its interval for every learner, best at the top, and the expert as a line."""
    from experiments.charts import new_figure

    rows = [
        (row, look)
        for place, look in looks(options).items()
        for row in summary.select(BITS, part=MAIN, learner=name_of(*place))
    ]
    rows.sort(key=lambda item: -item[0].mean)
    size = (8.2, 1.8 + 0.38 * len(rows))
    experts = list(summary.select(BITS, part=MAIN, learner=EXPERT))
    said = "New text under teacher forcing"
    if rows and experts:
        ends = f"{rows[-1][0].mean:.2f} to {rows[0][0].mean:.2f}"
        said = f"New text: expert {experts[0].mean:.2f} bits a character, learners {ends}"
    figure, axes = new_figure(said, BITS, "", size=size)
    for y, (row, look) in enumerate(rows):
        axes.plot([row.lower, row.upper], [y, y], color=look["color"], linewidth=3, alpha=0.4)
        axes.plot([row.mean], [y], "o", color=look["color"], markersize=8)
        axes.annotate(f"{row.mean:.2f}", (row.top, y), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), labels=[str(row["learner"]) for row, _ in rows])
    axes.set_xlim(0.0, 1.12 * float(axes.dataLim.x1))
    for row in experts:
        axes.axvspan(row.lower, row.upper, color="black", alpha=0.08, linewidth=0)
        axes.axvline(row.mean, color="black", linestyle="--", linewidth=1.5)
        axes.annotate(
            f"expert {row.mean:.2f} ",
            (row.mean, 0),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontweight="bold",
        )
    return figure


def dial_figure(options: TextOptions, summary: Summary) -> Figure:
    """Distance at the full length against the length, on logarithmic axes."""
    from experiments.charts import log2_axis, new_figure

    ends = {
        learner: summary.value(DISTANCE2, part=DIAL, learner=learner, H=max(options.dial_horizons))
        for learner in ("log-loss", "rho")
    }
    figure, axes = new_figure(
        "Log-loss pays for shuffled documents again and again, rho once"
        if ends["rho"] < 0.5 * ends["log-loss"]
        else "Log-loss and rho on text with some shuffled documents",
        "length of the documents H",
        DISTANCE,
        size=(8.2, 4.8),
    )
    horizons = sorted(float(H) for H in options.dial_horizons)
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], 1.25 * (horizons[-1] / horizons[0]) ** 0.28)

    def of(learner: str, **more: int) -> Series:
        return summary.series("H", DISTANCE2, part=DIAL, learner=learner, **more)

    colours = shades(options.chunks)
    lines = [
        *(Line(of(CHUNKED, K=K), CHUNKED, f"rho, chunks of {K}", color=colours[K]) for K in options.chunks),
        Line(of("log-loss"), "log-loss", "log-loss"),
        Line(of("rho"), "rho", "rho, whole document"),
        Line(of(CLEAN), "best in class", CLEAN),
    ]
    draw_lines(axes, lines, limits=plain_log_axis)
    return figure


def network_figure(options: TextOptions, summary: Summary) -> Figure:
    """Distance of the first h tokens, for log-loss and for what is trained on whole documents."""
    from experiments.charts import COLOURS, log2_axis, new_figure

    ends = summary.select(DISTANCE2, part=NETWORKS, h=options.network_horizon)
    values = {row["learner"]: row.mean for row in ends}
    better = [name for name in (RHO, CLIPPED) if values.get(name, np.inf) < values.get(EXACT, 0.0)]
    said = {
        2: "Training on whole documents comes nearer to the expert than log-loss",
        1: f"Of the two, the {(better or [''])[0].removesuffix(', network')} comes nearer to the expert than log-loss",
        0: "Log-loss on contaminated text: the distance keeps growing with the length",
    }[len(better)]
    figure, axes = new_figure(said, "tokens written after the prompt", DISTANCE, size=(8.6, 4.8))
    H = options.network_horizon
    first = max(H // 32, 1)
    log2_axis(axes, [float(first << k) for k in range(int(np.log2(H / first)) + 1)])
    room_for_labels(axes, first, H, 3.2)
    styles: dict[str, dict[str, Any]] = {
        NETWORK: {"color": COLOURS["orange"], "linestyle": "--"},
        EXACT: {"color": COLOURS["vermilion"]},
        RHO: {"color": COLOURS["blue"]},
        CLIPPED: {"color": COLOURS["green"]},
        CLEAN: {"color": COLOURS["black"], "linestyle": "--"},
    }
    lines = []
    for learner, style in styles.items():
        series = summary.series("h", DISTANCE2, part=NETWORKS, learner=learner)
        kept = series.x >= first
        style = {"linestyle": "-", "marker": "", **style}
        lines.append(Line(Series(*(column[kept] for column in series)), learner, learner, **style))
    draw_lines(axes, lines)
    axes.set_ylim(0.0, None)
    return figure


# -- Tables, figures and findings from the summary of the study -------------------------------------------------------


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


STUDY = Study(
    name="text",
    question="How fast does a next-token learner's own text drift from the expert's, on real text?",
    options=TextOptions,
    cells=cells,
    analyse=analyse,
    labels=("kind", "size", "prompt", "text", "sha256"),
    reads=("corpus",),
)
