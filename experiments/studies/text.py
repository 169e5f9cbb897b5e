"""Real text: how far free-running learners drift from the expert, and what learning on whole sequences changes.

First, restricted learners imitate an n-gram model of the text, the expert. Then a share of the expert's documents is
shuffled text, and the learners are bigram models: those on one dial from text to shuffled text, where every learner is
exact, and all of them, as tables and as networks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents import Agent, ConvergenceWarning, LogLossBC, make_agent
from experiments.cells import Cell, Label, Record
from experiments.charts import (
    COLOURS,
    DISTANCE,
    Curve,
    Figure,
    Panel,
    additive,
    additive_inverse,
    chart,
    end_labels,
    interval_dot,
    log2_axis,
    name_rows,
    new_figure,
    new_panels,
    no_data,
    plot_series,
    shades,
    top_labels,
)
from experiments.measure import (
    CHUNKED,
    build_learner,
    distance_record,
    evaluation_records,
    networks_left_out,
    passing,
    titled,
    trains_networks,
)
from experiments.study import Analysis, FigureSpec, Options, Study, option
from experiments.summary import Series, Summary, Table, pivot
from ntp_envs import (
    ARLinearClass,
    FiniteClass,
    MarkovPolicy,
    NGramClass,
    Policy,
    PolicyClass,
    collect,
    distance,
    ended_class,
)
from ntp_envs.checks import check_int
from ntp_envs.distances.curve import DistanceCurve
from ntp_envs.evaluation import evaluate
from ntp_envs.features import WindowOneHot
from ntp_envs.tasks import Text
from ntp_envs.text import UnknownTokensWarning
from ntp_envs.text.vocabulary import TOKENS


@dataclass(frozen=True)
class TextOptions(Options):
    """The text, and sizes of the sweep; the defaults are the full study."""

    corpus: str = "default"
    """Text to work on: the path of a text file, "hf:OWNER/NAME" for a Hugging Face data set, or the help topics that
    come with Python."""
    records: Literal["lines"] | None = None
    """One document a line, each with an end, instead of one stretch of text."""
    tokens: Literal["char", "byte", "word"] = option("char", choices=TOKENS)
    """What a token is; bytes read any file."""
    lower: bool = True
    """Lower-case the text first."""
    max_vocab: int | None = None
    """Largest vocabulary of the first part; by default 96 characters (more where the script has more), 256 bytes or
    1000 words."""
    max_chars: int | None = None
    """Read this much of the text at most."""
    expert_order: int = option(6)
    """Order of the n-gram model of the text that is the expert."""
    horizon: int = option(256, quick=64, least=2)
    """Tokens to write."""
    prompt_length: int = option(16, least=0)
    """Tokens of the text that they follow."""
    orders: tuple[int, ...] = option((1, 2, 3, 4, 5))
    """Orders of the n-gram learners."""
    windows: tuple[int, ...] = option((1, 2, 4, 16), quick=(1, 2, 4))
    """Tokens that each linear learner sees."""
    neural: Literal["auto", "yes", "no"] = option("auto", choices=("auto", "yes", "no"))
    """Train networks, which needs torch (the extra ``neural``); by default where it is installed."""
    mlp_window: int = option(8)
    """Tokens that the MLP sees."""
    width: int = option(256, quick=64)
    """Width of the MLP."""
    steps: int = option(4000, quick=300)
    """Updates of the MLP."""
    n: int = option(4000, quick=3000)
    """Sequences of the expert that every learner of the first part is shown."""
    draws: int = option(10_000, quick=2000, least=4)
    """Sequences that a distance is measured with."""
    seeds: int = option(5, quick=3)
    """Replicates of everything but the training of networks."""
    network_seeds: int = option(5, quick=2)
    """Replicates of that."""
    contamination: float = option(0.03, above=0.0, most=0.25)  # beyond, no bigram is near
    """Share of shuffled documents in the second part, where the expert is otherwise a bigram model."""
    small_vocab: int = option(30, least=2)
    """Vocabulary of the dial, in the second part."""
    dial_horizons: tuple[int, ...] = option((16, 32, 64, 128, 256, 512), quick=(16, 64, 128, 256), least=2)
    """Lengths of the documents there."""
    dial_n: int = option(4000, quick=1500)
    """Documents that are learned from there."""
    chunks: tuple[int, ...] = option((16, 32, 64, 128), quick=(32, 64))
    """Chunks K of the learners between next-token and whole-document; those below H are used."""
    network_vocab: int = option(12, least=2)
    """Vocabulary of the networks that are trained on whole contaminated documents."""
    network_horizon: int = option(256, least=2)
    """Length of the documents there."""
    network_n: int = option(4000, quick=2000)
    """Documents that are learned from there."""
    network_batch: int = option(128, quick=64)
    """Documents in an update there."""
    network_steps: int = option(500, quick=200)
    """Updates of each stage of training there: the clipped ratio has four, rho six, and log-loss as many as four."""

    def check(self) -> None:
        for order in self.orders:
            check_int("orders", order, minimum=1, maximum=self.expert_order)
        check_int("mlp_window", self.mlp_window, minimum=1, maximum=self.prompt_length + self.horizon - 1)


# -- the text of a run: checked before anything is run, and known by its content from then on --------------------------

#: the parts of the study
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
    bigram = {"expert_order": 2, "prompt_length": 1, "contamination": options.contamination}
    return {**text, "max_vocab": vocab, "horizon": H, **bigram}


def checked_texts(options: TextOptions) -> dict[str, dict[str, Any]]:
    """Parameters of each part's task with the ``sha256`` of the text, all of which `read` takes.

    The text is read and the sizes are checked against it here, so that nothing is run on a text that will not do. The
    hash makes a changed file another experiment.

    Raises:
        ValueError: the text cannot be read, is not text, or is too short; with the reason and the way round.
    """
    found = {}
    for part, length in ((MAIN, ""), (DIAL, "dial_horizons"), (NETWORKS, "network_horizon")):
        asked = parameters(options, part)
        try:
            with warnings.catch_warnings():
                if part != MAIN:  # whose vocabularies are small on purpose, and whose bits are not shown
                    warnings.simplefilter("ignore", UnknownTokensWarning)
                task = Text(**asked)
        except (OSError, ImportError) as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            if part == MAIN or "too short" not in str(error):
                raise
            raise ValueError(f"{error} That is {length}={asked['horizon']} here.") from error
        found[part] = {**task.parameters(), "sha256": task.data.sha256}
        if options.records is None:
            del found[part]["records"]
    return found


def read(text: Mapping[str, Any], **changes: Any) -> Text:
    """The task with these parameters, some of them changed.

    Raises:
        ValueError: the text is not the one that the run began with.
    """
    asked = {**text, **changes}
    begun = asked.pop("sha256")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownTokensWarning)  # `checked_texts` has let it through, once
        task = Text(**asked)
    if task.data.sha256 != begun:
        raise ValueError(f"corpus={task.corpus!r} has changed since this run began; start the run again.")
    return task


# -- cells of the first part: one restricted learner of the expert's text, and how far its own text is from it ---------

NGRAM, LINEAR, MLP = "n-gram", "linear window", "MLP"
EXPERT, REAL = "expert", "the text itself"
DISTANCE2, BITS, HALF = "hellinger2", "bits a character", "tokens until the distance is 1"
ACCURACY, NATS, RIGHT, PERPLEXITY = "forced_accuracy", "cross_entropy", "forced_token_accuracy", "perplexity"
SAMPLE, UNKNOWN = "sample", "share of unknown tokens"
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
        records.append(Record(HALF, half, labels, early, late, records[-1].method))
    return records + (scores(task, policy, labels, rng) if replicate == 0 else [])


def of_texts(task: Text, members: PolicyClass) -> PolicyClass:
    """The class as the task wants it: of texts that end, where those of the task do."""
    return members if task.end_token is None else ended_class(members, task.end_token)


def learned(
    task: Text, kind: str, size: int, n: int, network: Mapping[str, Any], rng: np.random.Generator, scratch: Path
) -> Policy:
    """A learner of ``n`` sequences that the expert has written: n-grams by Witten and Bell, the others by log-loss."""
    demonstrations = collect(task, n, rng)
    if kind == NGRAM:
        ngrams = of_texts(task, NGramClass(task.vocab_size, size))
        return make_agent("NGramBC").fit(demonstrations, ngrams, rng=rng).policy_
    if kind == LINEAR:
        window = of_texts(task, ARLinearClass(WindowOneHot(task.vocab_size, size), RADIUS))
        return make_agent("LogLossBC", tol=TOLERANCE * task.horizon).fit(demonstrations, window, rng=rng).policy_
    from agents.neural import NetworkClass, NeuralBC

    policy_class = of_texts(task, NetworkClass.for_task("mlp", task, window=size, width=network["width"]))
    agent = NeuralBC(steps=network["steps"], batch_size=64, learning_rate=3e-3, checkpoint=scratch / "run")
    return agent.fit(demonstrations, policy_class, rng=rng).policy_


def curve_records(curve: DistanceCurve, labels: Mapping[str, Label]) -> list[Record]:
    """The squared Hellinger distance at the lengths that are shown."""
    return [distance_record(curve, {**labels, "H": curve.horizon}, h) for h in shown_lengths(curve.horizon)]


def scores(task: Text, policy: Policy, labels: Mapping[str, Label], rng: np.random.Generator) -> list[Record]:
    """What a policy makes of the held-out text, and how it goes on from two prompts."""
    bits = task.bits_per_char(policy)
    records = [Record(BITS, bits.value, labels, *bits.interval, f"held-out text, {bits.n_chars} characters")]
    held_out = task.windows(1000, rng, held_out=True)
    evaluation = evaluate(policy, task, demonstrations=held_out, rng=rng, samples=0)
    lengths = set(shown_lengths(task.horizon))
    for record in evaluation_records(evaluation, labels):
        by_position = record.metric in (ACCURACY, NATS) and record.labels.get("h") in lengths
        if by_position or record.metric in (RIGHT, "mean_cross_entropy", PERPLEXITY):
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


# -- cells of the second part: a share of the expert's documents is shuffled text, and the learners are bigram models --

CLEAN, EXACT = "clean bigram", "log-loss, exact"
NETWORK, RHO, CLIPPED = "log-loss, network", "rho, network", "clipped ratio, network"
ANY_BIGRAM = (EXACT, NETWORK, RHO, CLIPPED, CLEAN)
SHARE = "share of shuffled text in the model"
#: positions of the dial beside zero, with the share of shuffled documents as unit; 1 is among them
POSITIONS = np.geomspace(1 / 256, 8, 23)
#: stages of log-loss; of the clipped ratio: log-loss, trimmed log-loss, and a descent from each
STAGES, TRIM = 4, 0.05


def dial_class(task: Text) -> tuple[FiniteClass, list[float]]:
    """Bigram models of text of which a share is shuffled, from none of it upwards, and these shares."""
    empty = np.empty((task.vocab_size, 0), dtype=np.int64)
    bigram = np.exp(task.clean.next_log_probs(np.arange(task.vocab_size)[:, None], empty))  # (A, A)
    shuffled = np.exp(task.shuffled.next_log_probs(np.zeros((1, 0), dtype=np.int64), empty[:1]))  # (1, A)
    shares = [0.0, *(float(share) for share in task.contamination * POSITIONS)]
    members = [MarkovPolicy(np.vstack([(1 - share) * bigram + share * shuffled, shuffled]), 1) for share in shares]
    for member in members:
        member.prompt_length = task.prompt_length  # so that a learner returns the member itself
    found = of_texts(task, FiniteClass(members))
    assert isinstance(found, FiniteClass)  # of texts that end, where they do
    return found, shares


def dial(
    *, text: Mapping[str, Any], H: int, n: int, draws: int, chunks: list[int], replicate: int, rng: np.random.Generator
) -> list[Record]:
    """Every learner on the same documents, each exact in its objective; distances at the full length."""
    task = read(text, horizon=H)
    members, shares = dial_class(task)
    demonstrations = collect(task, n, rng)
    seed = int(rng.integers(2**31))
    measured: dict[int, DistanceCurve] = {}
    records = []
    picks: list[tuple[str, int | None]] = [(CLEAN, None), ("log-loss", None)]
    picks += [(CHUNKED, K) for K in chunks if K < H] + [("rho", None)]
    for learner, K in picks:
        index = 0
        if learner != CLEAN:
            policy = build_learner(learner, task, K).fit(demonstrations, members, rng=rng).policy_
            index = next(i for i, member in enumerate(members.policies) if member is policy)
        if index not in measured:  # the same draws for all, so that equal choices are at equal distances
            draw = np.random.default_rng(seed)
            measured[index] = distance(task.expert, members.policies[index], task, method=BRIDGE, n=draws, rng=draw)
        curve = measured[index]
        labels: dict[str, Label] = {"task": task.name, "learner": learner, "H": H, "n": n}
        labels |= {} if K is None else {"K": K}
        records.append(distance_record(curve, labels))
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
    policy_class = of_texts(task, NetworkClass.for_task("linear", task, width=task.vocab_size, window=1))
    demonstrations = collect(task, n, rng, expert_log_probs=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        policy = network_agent(learner, steps, batch_size, scratch).fit(demonstrations, policy_class, rng=rng).policy_
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
    shown = {"text": texts[MAIN], "n": options.n, "draws": options.draws}
    of_dial = {"text": texts[DIAL], "n": options.dial_n, "draws": options.draws, "chunks": list(options.chunks)}
    of_networks = {"text": texts[NETWORKS], "n": options.network_n, "draws": options.draws}
    training = {"steps": options.network_steps, "batch_size": options.network_batch}
    mlp = {"kind": MLP, "size": options.mlp_window, "network": {"width": options.width, "steps": options.steps}}
    for replicate in range(options.network_seeds if networks else 0):
        for learner in (RHO, CLIPPED, NETWORK):
            cell = {**of_networks, "learner": learner, **training, "replicate": replicate}
            yield Cell(NETWORKS, trained, cell, scratch=True)
        yield Cell(MAIN, drift, {**shown, **mlp, "replicate": replicate}, scratch=True)
    for replicate in range(options.seeds):
        for kind, size in reversed(learners(options, networks=False)):
            cell = {**shown, "kind": kind, "size": size, "network": {}, "replicate": replicate}
            yield Cell(MAIN, drift, cell, scratch=True)
        for H in sorted(options.dial_horizons, reverse=True):
            yield Cell(DIAL, dial, {**of_dial, "H": H, "replicate": replicate})
        yield Cell(NETWORKS, untrained, {**of_networks, "replicate": replicate})
    yield Cell(MAIN, references, {"text": texts[MAIN]})


# -- tables ------------------------------------------------------------------------------------------------------------


def names(o: TextOptions) -> list[str]:
    """Learners of the first part in the order of tables."""
    return [name_of(kind, size) for kind, size in learners(o, networks=o.neural != "no")]


def some_lengths(horizon: int) -> list[int]:
    """1, 4, 16, ... and the horizon."""
    return sorted({*(4**k for k in range(10) if 4**k < horizon), horizon})


def at_end(o: TextOptions, learner: str) -> dict[str, Any]:
    """Where the distance of whole documents is, of a learner of any bigram model."""
    return {"part": NETWORKS, "learner": learner, "h": o.network_horizon}


def unknown_said(s: Summary) -> str:
    """A sentence on the tokens that nobody spells out, empty where there are none."""
    share = s.value(UNKNOWN, part=MAIN, learner=EXPERT)
    if not share > 0:
        return ""
    return f" Of its tokens {100 * share:.2g} % are unknown ones, which nobody spells out: the bits are too few."


def tables(o: TextOptions, s: Summary) -> list[Table]:
    """Distances, samples and scores of the first part, and the second part."""
    learned: list[tuple[str, dict[str, Any]]] = [
        (name, {"part": MAIN, "learner": name}) for name in [*names(o), EXPERT]
    ]
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
        for row in s.select(SAMPLE, part=MAIN, learner=learner)
        if row.mean == number
    ]
    scored: list[tuple[str, dict[str, Any]]] = [("right tokens", {"metric": RIGHT}), (PERPLEXITY, {})]
    scored += [(f"nats, token {h}", {"metric": NATS, "h": h}) for h in (1, o.horizon)]
    dialled = [("log-loss", None), *((CHUNKED, K) for K in o.chunks), ("rho", None), (CLEAN, None)]
    shuffled: list[tuple[str, dict[str, Any]]] = [
        (f"dial, H={H}: {titled(a, K)}", {"part": DIAL, "learner": a, "H": H, "K": K})
        for H in sorted(o.dial_horizons)
        for a, K in dialled
    ]
    shuffled += [(f"any bigram model, H={o.network_horizon}: {a}", at_end(o, a)) for a in ANY_BIGRAM]
    return [
        Table(
            "Distance over the horizon",
            ["learner", *(f"distance, h={h}" for h in lengths), "tokens until it is 1", "bits a character"],
            drifted,
            "Squared Hellinger distance (0 to 2) of the learner's law from the expert's after h tokens, the length at "
            "which it is 1, and bits a character of the held-out text, with 95 % intervals: over replicates, and for "
            f"the bits over blocks of the text.{unknown_said(s)}",
        ),
        Table(
            "Samples side by side",
            ["after", "by", "written"],
            written,
            "Each continues the same words of the text by sampling; \u21b5 is a line end.",
        ),
        pivot(
            s,
            "Teacher forcing on text that nobody has seen",
            PERPLEXITY,
            learned,
            scored,
            note="On windows of the held-out text, after the true prefix: share of tokens that the learner finds most "
            "probable, perplexity a token, and cross-entropy of the first and the last token. 95 % intervals."
            f"{unknown_said(s)}",
        ),
        pivot(
            s,
            "Contaminated text",
            DISTANCE2,
            shuffled,
            [("distance", {}), ("share learned", {"metric": SHARE})],
            corner="class, length and learner",
            note="Squared Hellinger distance to an expert of whose documents a share "
            f"{o.contamination:g} is shuffled text, with 95 % intervals over replicates. The dial is a class of 24 "
            "bigram models, between that of the text and that of shuffled text; every learner is exact there.",
        ),
    ]


# -- figures -----------------------------------------------------------------------------------------------------------

BLUES = ("#0B2A45", "#0B4F83", "#0072B2", "#3C98CF", "#6FB8E3")  # few tokens seen to many
ORANGES = ("#7A2E00", "#B04600", "#D55E00", "#E69F00")
#: distances at the ticks of the additive scale, the last of which is its top
TICKS = (0.0, 0.5, 1.0, 1.3, 1.5, 1.7, 1.8, 1.85, 1.9)
#: where the lower end of an interval is beyond this, too little is in common to measure
MEASURABLE = 1.97
WRITTEN = "tokens written after the prompt"


def looks(o: TextOptions, *kinds: str) -> dict[str, dict[str, Any]]:
    """Colour and dashes of the learners of the first part, of these kinds."""
    ramps = {
        NGRAM: shades(o.orders, BLUES),
        LINEAR: shades(o.windows, ORANGES),
        MLP: {o.mlp_window: COLOURS["green"]},
    }
    return {
        name_of(kind, size): {"color": ramps[kind][size], "linestyle": "--" if kind == LINEAR else "-", "marker": ""}
        for kind, size in learners(o, networks=True)
        if kind in kinds
    }


def drift_title(o: TextOptions, s: Summary) -> str:
    """The answer of the headline, where every learner that sees more passes 1 later."""
    for kind, sizes in ((NGRAM, o.orders), (LINEAR, o.windows)):
        half = s.series("size", HALF, part=MAIN, kind=kind)
        if not len(half.x) or list(half.x) != sorted(sizes)[: len(half.x)] or (np.diff(half.mean) <= 0).any():
            return "How fast does free-running text drift from the expert's?"
    return "Free-running text drifts from the expert's, faster for the more restricted learner"


def drift_figure(o: TextOptions, s: Summary) -> Figure:
    """All learners on the additive scale, each labelled where its line leaves the picture."""
    figure, axes = new_figure(drift_title(o, s), WRITTEN, DISTANCE, size=(9.6, 5.6))
    axes.set_yscale("function", functions=(additive, additive_inverse))
    look = looks(o, NGRAM, LINEAR, MLP)
    curves = {name: s.series("h", DISTANCE2, part=MAIN, learner=name) for name in look}
    curves = {name: series for name, series in curves.items() if len(series.x)}
    if not curves:
        return figure
    leaving = {name: exit_of(series) for name, series in curves.items()}
    gone = [x for x in leaving.values() if np.isfinite(x)]
    right = float(o.horizon) if len(gone) < 2 else min(1.1 * max(gone), float(o.horizon))
    top = TICKS[-1] if gone else max(float(series.mean.max()) for series in curves.values())
    labels = []
    for name, series in curves.items():
        kept = ~(series.lower > MEASURABLE)
        from_zero = Series(*(np.concatenate([[0.0], column[kept]]) for column in series))  # nothing written yet
        plot_series(axes, from_zero, name, **look[name])
        if leaving[name] > right:
            labels.append((right, float(np.interp(right, series.x, series.mean)), name, look[name]["color"]))
    axes.set_xlim(0.0, right)
    axes.set_ylim(0.0, top)
    axes.set_yticks([tick for tick in TICKS if tick <= top], labels=[f"{tick:g}" for tick in TICKS if tick <= top])
    axes.set_yticks([], minor=True)
    end_labels(axes, labels)
    top_labels(axes, [(x, name, look[name]["color"]) for name, x in leaving.items() if x <= right], top)
    return figure


def exit_of(series: Series) -> float:
    """Where a curve passes the top of the additive scale, between two lengths; ``inf`` if it does not."""
    above = np.flatnonzero(series.mean >= TICKS[-1])
    if not len(above):
        return math.inf
    i = int(above[0])
    ends = np.concatenate([[0.0], additive(series.mean[: i + 1])])
    places = np.concatenate([[0.0], series.x[: i + 1]])
    return float(np.interp(additive(np.array(TICKS[-1])), ends[-2:], places[-2:]))


def plain_figure(o: TextOptions, s: Summary) -> Figure:
    """Plain squared distances against the logarithm of the length; n-grams on the left, the others on the right."""
    title = "How far apart are the two laws? At 2 they have nothing in common"
    figure, panels = new_panels(title, [WRITTEN] * 2, DISTANCE, size=(11.0, 4.8))
    for axes, kinds in zip(panels, ((NGRAM,), (LINEAR, MLP)), strict=True):
        for name, look in looks(o, *kinds).items():
            series = s.series("h", DISTANCE2, part=MAIN, learner=name)
            plot_series(axes, series, name, **look, label=name)
        log2_axis(axes, [2.0**k for k in range(int(np.log2(o.horizon)) + 1)])
        axes.set_ylim(0.0, 2.05)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", fontsize=10)
    return figure


def bits_figure(o: TextOptions, s: Summary) -> Figure:
    """A point with its interval for every learner, best at the top, and the expert as a line."""
    look = looks(o, NGRAM, LINEAR, MLP)
    rows = sorted((row for name in look for row in s.select(BITS, part=MAIN, learner=name)), key=lambda row: -row.mean)
    experts = s.select(BITS, part=MAIN, learner=EXPERT)
    said = "New text under teacher forcing"
    if rows and experts:
        ends = f"{rows[-1].mean:.2f} to {rows[0].mean:.2f}"
        said = f"New text: expert {experts[0].mean:.2f} bits a character, learners {ends}"
    figure, axes = new_figure(said, BITS, "", size=(8.2, 1.8 + 0.38 * max(len(rows), 1)))
    if not rows and not experts:
        no_data(axes)
        return figure
    heights = name_rows(axes, {row["learner"]: "black" for row in reversed(rows)})
    for row in rows:
        at, colour = heights[row["learner"]], look[row["learner"]]["color"]
        interval_dot(axes, row, at, colour, f"{row.mean:.2f}", color="black")
    axes.set_xlim(0.0, 1.12 * float(axes.dataLim.x1))
    for row in experts:
        axes.axvspan(row.lower, row.upper, color="black", alpha=0.08, linewidth=0)
        axes.axvline(row.mean, color="black", linestyle="--", linewidth=1.5)
        words: dict[str, Any] = {"xytext": (-4, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        axes.annotate(f"expert {row.mean:.2f} ", (row.mean, 1), **words, fontweight="bold")
    return figure


def dial_figure(o: TextOptions, s: Summary) -> Figure:
    """Distance at the full length against the length, on logarithmic axes."""
    low, high = min(o.dial_horizons), max(o.dial_horizons)
    loss, rho = (s.value(DISTANCE2, part=DIAL, learner=learner, H=high) for learner in ("log-loss", "rho"))
    title = "Log-loss and rho on text with some shuffled documents"
    if rho < 0.5 * loss:
        title = "Log-loss pays for shuffled documents again and again, rho once"
    colours = shades(o.chunks)
    curves = [
        *(
            Curve({"part": DIAL, "learner": CHUNKED, "K": K}, f"rho, chunks of {K}", look={"color": colours[K]})
            for K in o.chunks
        ),
        Curve({"part": DIAL, "learner": "log-loss"}, "log-loss"),
        Curve({"part": DIAL, "learner": "rho"}, "rho, whole document"),
        Curve({"part": DIAL, "learner": CLEAN}, CLEAN, style="best in class"),
    ]
    room = 1.25 * (high / low) ** 0.28
    return chart(
        s, title, DISTANCE, Panel("H", "length of the documents H", DISTANCE2, curves, yscale="log", room=room)
    )


def network_figure(o: TextOptions, s: Summary) -> Figure:
    """Distance of the first h tokens, for log-loss and for what is trained on whole documents."""
    ends = {row["learner"]: row.mean for row in s.select(DISTANCE2, part=NETWORKS, h=o.network_horizon)}
    better = [name for name in (RHO, CLIPPED) if ends.get(name, np.inf) < ends.get(EXACT, 0.0)]
    said = {
        2: "Training on whole documents comes nearer to the expert than log-loss",
        1: f"Of the two, the {(better or [''])[0].removesuffix(', network')} comes nearer to the expert than log-loss",
        0: "Does training on whole documents come nearer to the expert than log-loss?",
    }[len(better)]
    first = max(o.network_horizon // 32, 1)
    ticks = [first << k for k in range(int(np.log2(o.network_horizon / first)) + 1)]
    colours = {NETWORK: "orange", EXACT: "vermilion", RHO: "blue", CLIPPED: "green", CLEAN: "black"}
    curves = []
    for learner, colour in colours.items():
        look = {"color": COLOURS[colour], "linestyle": "--" if learner in (NETWORK, CLEAN) else "-", "marker": ""}
        curves.append(Curve({"learner": learner}, learner, look=look))
    late = Summary(row for row in s.select(DISTANCE2, part=NETWORKS) if row["h"] >= first)
    panel = Panel("h", WRITTEN, DISTANCE2, curves, yscale="zero", room=3.2, ticks=ticks)
    return chart(late, said, DISTANCE, panel, size=(8.6, 4.8))


def figures(o: TextOptions, s: Summary) -> list[FigureSpec]:
    """Three of the first part, and one each of the dial and of networks."""
    over = f"of {o.seeds} replicates" if o.seeds > 1 else "of the sampling of one replicate"
    trained = f"of {o.network_seeds} replicates of networks" if o.network_seeds > 1 else "of one network"
    expert = f"the expert is an interpolated {o.expert_order}-gram model of the text"
    dirt = f"A share {o.contamination:g} of the expert's documents is shuffled text"
    specs = [
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
        FigureSpec(
            "dial",
            "Does log-loss forgive a few shuffled documents?",
            f"{dirt}; the class is a dial of bigram models between text and shuffled text, every learner is exact in "
            f"it. Squared Hellinger distance at the length H of the documents, 95 % intervals {over}.",
            lambda: dial_figure(o, s),
        ),
        FigureSpec(
            "networks",
            "Does training on whole documents lower the distance?",
            f"{dirt}; the class is all bigram models, as tables and as linear networks of the last token. Squared "
            f"Hellinger distance of the first h tokens, documents of {o.network_horizon}; 95 % intervals, {trained}.",
            lambda: network_figure(o, s),
        ),
    ]
    return specs if len(s.select(DISTANCE2, part=NETWORKS)) else specs[:-1]


# -- findings ----------------------------------------------------------------------------------------------------------


def drift_findings(o: TextOptions, s: Summary) -> Iterator[str]:
    """Where each learner's text has come half the way; that of the last one grows, and teacher forcing stays."""
    rows = sorted(s.select(HALF, part=MAIN), key=lambda row: row.mean)
    if not rows:
        return
    words = "; ".join(f"{row['learner']} {row.shown()}" for row in rows)
    passed = {row["learner"] for row in rows}
    never = [name for name in names(o) if name not in passed and len(s.select(BITS, part=MAIN, learner=name))]
    rest = f"; not within {o.horizon}: {', '.join(never)}." if never else "."
    yield f"The squared Hellinger distance to the expert passes 1 after so many tokens: {words}{rest}"
    learner, H = max(rows, key=lambda row: row.mean)["learner"], o.horizon
    place = {"part": MAIN, "learner": learner}
    grown = ", ".join(f"{s.shown(DISTANCE2, **place, h=h)} at h={h}" for h in some_lengths(H))
    yield (
        f"The {learner} model, the least restricted of those: {grown}. Under teacher forcing nothing of this shows: "
        f"its cross-entropy is {s.shown(NATS, **place, h=1)} nats at token 1 and {s.shown(NATS, **place, h=H)} at "
        f"token {H} of held-out text."
    )


def bits_findings(o: TextOptions, s: Summary) -> Iterator[str]:
    """Bits a character, learners against the expert."""
    words = [f"{name} {bits}" for name in names(o) if (bits := s.shown(BITS, part=MAIN, learner=name))]
    for row in s.select(BITS, part=MAIN, learner=EXPERT) if words else ():
        expert = row.shown()
        where = f"corpus {o.corpus!r}, sha256 {row['sha256']}..."
        yield (
            f"Bits a character of held-out text ({where}): {'; '.join(words)}; the expert {expert}.{unknown_said(s)}"
        )


def dial_findings(o: TextOptions, s: Summary) -> Iterator[str]:
    """Log-loss pays for contamination at every token, rho once."""
    words = []
    for learner in ("log-loss", "rho", CLEAN):
        ends = {H: s.shown(DISTANCE2, part=DIAL, learner=learner, H=H) for H in sorted(o.dial_horizons)}
        ends = {H: ends[H] for H in (min(ends), max(ends))}
        if all(ends.values()):
            words.append(f"{learner} {' and '.join(f'{found} at H={H}' for H, found in ends.items())}")
    if words:
        said = f"With {o.contamination:g} of the documents shuffled, in a class of bigram models on one dial"
        yield f"{said}: {'; '.join(words)}."


def network_findings(o: TextOptions, s: Summary) -> Iterator[str]:
    """Whether sequence-level training of networks lowers the distance, or why there is none."""
    ends = {name: list(s.select(DISTANCE2, **at_end(o, name))) for name in ANY_BIGRAM}
    ends = {name: rows for name, rows in ends.items() if rows}
    if ends:
        words = "; ".join(f"{name} {s.shown(DISTANCE2, **at_end(o, name))}" for name in ends)
        yield f"Any bigram model, documents of {o.network_horizon} tokens: {words}."
    for name in (name for name in (RHO, CLIPPED) if name in ends and EXACT in ends):
        (row,), (exact,) = ends[name], ends[EXACT]
        change, told = row.mean / exact.mean - 1.0, "without intervals"
        if not (math.isnan(row.upper) or math.isnan(exact.upper)):
            apart = row.upper < exact.lower or exact.upper < row.lower
            told = f"the intervals ({o.network_seeds} replicates) {'are apart' if apart else 'overlap'}"
        yield (
            f"Training on whole documents ({name.removesuffix(', network')}) "
            f"{'lowers' if change < 0 else 'does not lower'} the distance against the maximum likelihood of the same "
            f"class: {100 * change:+.0f} %, {told}."
        )
    if why := networks_left_out(o.neural):
        yield f"Networks were {why}."


def analyse(options: TextOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    sentences = (drift_findings, bits_findings, dial_findings, network_findings)
    return Analysis(
        tables=tables(options, summary),
        figures=figures(options, summary),
        findings=[said for finding in sentences for said in finding(options, summary)],
    )


STUDY = Study(
    name="text",
    question="How fast does a next-token learner's own text drift from the expert's, on real text?",
    options=TextOptions,
    cells=cells,
    analyse=analyse,
    labels=("kind", "size", "prompt", "text", "sha256"),
    reads=("corpus",),
)
