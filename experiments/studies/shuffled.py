"""Text of which some documents are shuffled: log-loss pays for them at every token, rho once, whoever is the learner.

The expert is a bigram model of real text, but for a share of its documents, which are shuffled text. The learners are
bigram models: those on one dial from text to shuffled text, where every learner is exact, and all of them, as tables
and as networks that are trained on whole documents. A last part has documents of another corpus in their place.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from agents import Agent, LogLossBC, make_agent
from experiments import measure
from experiments.cells import Cell, Record
from experiments.charts import COLOURS, DISTANCE, Figure
from experiments.panels import Curve, Panel, chart
from experiments.studies.text import BRIDGE, DISTANCE2, WRITTEN
from experiments.study import FigureSpec, Study, analysis, option
from experiments.summary import Places, Summary, Table, beyond_chance, interval_words, paired_rows, pivot, with_interval
from experiments.texts import CorpusOptions, contaminated_text, read
from ntp_envs import (
    Demonstrations,
    FiniteClass,
    MarkovPolicy,
    MixturePolicy,
    NGramPolicy,
    Policy,
    collect,
    distance,
    ended_class,
)
from ntp_envs.distances.curve import DistanceCurve
from ntp_envs.tasks import Text
from ntp_envs.text import load_text


@dataclass(frozen=True)
class ShuffledOptions(CorpusOptions, measure.NetworkOptions):
    """The text, and sizes of the sweep; the defaults are the full study."""

    contamination: float = option(0.03, above=0.0, most=0.25)  # beyond, no bigram is near
    """Share of shuffled documents; the expert is otherwise a bigram model of the text."""
    small_vocab: int = option(30, least=2)
    """Vocabulary of the dial."""
    dial_horizons: tuple[int, ...] = option((16, 32, 64, 128, 256, 512), quick=(16, 64, 128, 256), least=2)
    """Lengths of the documents there."""
    dial_n: int = option(4000, quick=1500)
    """Documents that are learned from there."""
    chunks: tuple[int, ...] = option((16, 32, 64, 128), quick=(32, 64))
    """Chunks K of the learners between next-token and whole-document; those below H are used."""
    network_vocab: int = option(12, least=2)
    """Vocabulary where any bigram model may be learned, and networks are trained on whole documents."""
    network_horizon: int = option(256, least=2)
    """Length of the documents there."""
    network_n: int = option(4000, quick=2000)
    """Documents that are learned from there."""
    network_batch: int = option(128, quick=64)
    """Documents in an update there."""
    network_steps: int = option(500, quick=160)
    """Updates of each stage of training there: the clipped ratio has four, rho six, and log-loss as many as four."""
    foreign: str = ""
    """Another corpus, as ``corpus``; by default the source code of Python's decimal numbers, with which it comes."""
    foreign_share: float = option(0.01, above=0.0, most=0.25)
    """Share of its documents in the last part."""
    foreign_horizons: tuple[int, ...] = option((16, 64, 256), quick=(16, 64), least=2)
    """Lengths of the documents there."""
    foreign_steps: int = option(400, quick=50)
    """Updates of each of the six stages of rho there; log-loss has as many as all of them."""
    draws: int = option(10_000, quick=2000, least=4)
    """Sequences that a distance is measured with."""
    seeds: int = option(5, quick=3)
    """Replicates of everything but the training of networks."""
    network_seeds: int = option(5, quick=2)
    """Replicates of that."""


# -- cells: learners of a class on one dial, and of all bigram models --------------------------------------------------

#: the parts of the study
DIAL, NETWORKS, FOREIGN = "dial", "networks", "another corpus"
CLEAN, EXACT = "clean bigram", "log-loss, exact"
NETWORK, RHO, CLIPPED = "log-loss, network", "rho, network", "clipped ratio, network"
ANY_BIGRAM = (EXACT, NETWORK, RHO, CLIPPED, CLEAN)
SHARE = "share of shuffled text in the model"
#: positions of the dial beside zero, with the share of shuffled documents as unit; 1 is among them
POSITIONS = np.geomspace(1 / 256, 8, 23)
#: stages of log-loss; of the clipped ratio: log-loss, trimmed log-loss, and a descent from each
STAGES, TRIM = 4, 0.05
#: of rho: log-loss, trimmed log-loss, and two rounds of a reply and a learner
FOREIGN_STAGES = 6
#: the other corpus, by default
DECIMAL = "_pydecimal"


def text_of(o: ShuffledOptions, vocabulary: int, length: str) -> dict[str, Any]:
    """Parameters of the task, whose longest documents are as the option ``length`` says, with the hash of its text.

    Raises:
        ValueError: the text will not do; where it is too short for such documents, the option is named.
    """
    H = max(np.ravel(getattr(o, length)).tolist())
    try:
        return contaminated_text(o, vocabulary, H)
    except ValueError as error:
        if "too short" not in str(error):
            raise
        raise ValueError(f"{error} That is {length}={H} here.") from error


def dial_class(task: Text) -> tuple[FiniteClass, list[float]]:
    """Bigram models of text of which a share is shuffled, from none of it upwards, and these shares."""
    empty = np.empty((task.vocab_size, 0), dtype=np.int64)
    bigram = np.exp(task.clean.next_log_probs(np.arange(task.vocab_size)[:, None], empty))  # (A, A)
    shuffled = np.exp(task.shuffled.next_log_probs(np.zeros((1, 0), dtype=np.int64), empty[:1]))  # (1, A)
    shares = [0.0, *(float(share) for share in task.contamination * POSITIONS)]
    members = [MarkovPolicy(np.vstack([(1 - share) * bigram + share * shuffled, shuffled]), 1) for share in shares]
    for member in members:
        member.prompt_length = task.prompt_length  # so that a learner returns the member itself
    found = ended_class(FiniteClass(members), task.end_token)
    assert isinstance(found, FiniteClass)  # of texts that end, where they do
    return found, shares


def dial(
    *, text: Mapping[str, Any], H: int, n: int, draws: int, chunks: list[int], replicate: int, rng: np.random.Generator
) -> list[Record]:
    """Every learner on the same documents, each exact in its objective; distances at the full length."""
    task = read(text, horizon=H)
    members, shares = dial_class(task)
    demonstrations, expert = collect(task, n, rng), measure.drawn_once(task.expert)
    seed = int(rng.integers(2**31))
    measured: dict[int, DistanceCurve] = {}
    records = []
    shorter = [(measure.CHUNKED, K) for K in chunks if K < H]
    picks: list[tuple[str, int | None]] = [(CLEAN, None), ("log-loss", None), *shorter, ("rho", None)]
    for learner, K in picks:
        index = 0
        if learner != CLEAN:
            policy = measure.build_learner(learner, task, K).fit(demonstrations, members, rng=rng).policy_
            index = next(i for i, member in enumerate(members.policies) if member is policy)
        if index not in measured:  # the same draws for all, so that equal choices are at equal distances
            draw = np.random.default_rng(seed)
            measured[index] = distance(expert, members.policies[index], task, method=BRIDGE, n=draws, rng=draw)
        curve = measured[index]
        labels = measure.named(task.name, learner, H, n, K)
        records.append(measure.distance_record(curve, labels))
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
        records += measure.curve_records(curve, {"task": task.name, "learner": learner, "n": n})
    return records


def trained(
    *, text: Mapping[str, Any], learner: str, n: int, draws: int, steps: int, batch_size: int, replicate: int,
    rng: np.random.Generator, scratch: Path,
) -> list[Record]:  # fmt: skip
    """A linear network of the last token, wide enough to be any bigram model, trained for one of the objectives."""
    from agents.neural import NetworkClass

    task = read(text)
    network = NetworkClass.for_task("linear", task, width=task.vocab_size, window=1)
    policy_class = ended_class(network, task.end_token)
    demonstrations = collect(task, n, rng, expert_log_probs=True)
    policy = measure.quiet_fit(network_agent(learner, steps, batch_size, scratch), demonstrations, policy_class, rng)
    curve = distance(task.expert, policy, task, method=BRIDGE, n=draws, rng=rng)
    return measure.curve_records(curve, {"task": task.name, "learner": learner, "n": n})


def other_text(task: Text, foreign: str) -> Policy:
    """The bigram model of another corpus, in the vocabulary of the task."""
    tokens = task.encode(load_text(source_of(foreign)))
    model = NGramPolicy.fit_text(tokens, task.vocab_size, 2)
    model.prompt_length = task.prompt_length
    return model


def foreign_text(o: ShuffledOptions) -> dict[str, str]:
    """Where the other corpus is, and the hash of its text.

    Raises:
        ValueError: it cannot be read.
    """
    name = o.foreign or DECIMAL
    try:
        text = load_text(source_of(name))
    except (OSError, ImportError) as error:
        raise ValueError(f"foreign={name!r}: {error}") from error
    return {"corpus": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def source_of(corpus: str) -> str:
    """A corpus, but for the source code that every Python has: the file that it is here."""
    found = find_spec(corpus) if corpus == DECIMAL else None
    return corpus if found is None else str(found.origin)


def foreign_documents(
    *, text: Mapping[str, Any], foreign: Mapping[str, str], share: float, H: int, n: int, draws: int, steps: int,
    batch_size: int, replicate: int, rng: np.random.Generator, scratch: Path,
) -> list[Record]:  # fmt: skip
    """Linear networks of the last token, by log-loss and by rho on the same documents, and the model of the text."""
    from agents.neural import NetworkClass

    task = read(text, horizon=H)
    expert = MixturePolicy([task.clean, other_text(task, foreign["corpus"])], [1.0 - share, share])
    prompts = task.sample_prompts(n, rng)
    demonstrations = Demonstrations(prompts, expert.sample(prompts, H, rng), vocab_size=task.vocab_size)
    policy_class = NetworkClass.for_task("linear", task, width=task.vocab_size, window=1)
    seed, policies = int(rng.integers(2**31)), {CLEAN: task.clean}
    for learner in (NETWORK, RHO):
        agent = network_agent(learner, steps, batch_size, scratch / learner[:3], stages=FOREIGN_STAGES)
        policies[learner] = measure.quiet_fit(agent, demonstrations, policy_class, np.random.default_rng(seed))
    records, once = [], measure.drawn_once(expert)
    for learner, policy in policies.items():
        curve = distance(once, policy, task, method=BRIDGE, n=draws, rng=np.random.default_rng(seed))
        records.append(measure.distance_record(curve, {"task": task.name, "learner": learner, "H": H, "n": n}))
    return records


def network_agent(learner: str, steps: int, batch_size: int, scratch: Path, stages: int = STAGES) -> Agent:
    """The agent; log-loss gets as many updates as so many stages, by default those of the clipped ratio."""
    shared = {"batch_size": batch_size, "learning_rate": 0.05, "checkpoint": scratch / "run"}
    if learner == NETWORK:
        return make_agent("agents.neural:NeuralBC", steps=stages * steps, **shared)
    first = {**shared, "steps": steps, "trims": (TRIM,)}
    if learner == CLIPPED:
        return make_agent("agents.neural:NeuralClippedRatioBC", ratio_steps=steps, ratio_learning_rate=0.02, **first)
    rounds = {"rounds": 2, "game_steps": steps, "game_learning_rate": 0.02}
    return make_agent("agents.neural:NeuralRhoBC", **rounds, **first)


def cells(o: ShuffledOptions) -> Iterator[Cell]:
    """The slow cells first.

    Raises:
        ValueError: the text will not do, or networks are asked for and torch is missing; before anything is run.
    """
    networks = measure.trains_networks(o.neural)
    of_dial = {"text": text_of(o, o.small_vocab, "dial_horizons"), "n": o.dial_n, "draws": o.draws}
    of_dial |= {"chunks": list(o.chunks)}
    of_networks = {"text": text_of(o, o.network_vocab, "network_horizon"), "n": o.network_n, "draws": o.draws}
    training = {"steps": o.network_steps, "batch_size": o.network_batch}
    if networks and o.records is None:
        foreign = {"text": text_of(o, o.network_vocab, "foreign_horizons"), "share": o.foreign_share, "n": o.network_n}
        foreign |= {"foreign": foreign_text(o), "draws": o.draws, **training, "steps": o.foreign_steps}
        for replicate in range(o.network_seeds):
            for H in sorted(o.foreign_horizons, reverse=True):
                cell = {**foreign, "H": H, "replicate": replicate}
                yield Cell(FOREIGN, foreign_documents, cell, scratch=True)
    for replicate in range(o.network_seeds if networks else 0):
        for learner in (RHO, CLIPPED, NETWORK):
            cell = {**of_networks, "learner": learner, **training, "replicate": replicate}
            yield Cell(NETWORKS, trained, cell, scratch=True)
    for replicate in range(o.seeds):
        for H in sorted(o.dial_horizons, reverse=True):
            yield Cell(DIAL, dial, {**of_dial, "H": H, "replicate": replicate})
        yield Cell(NETWORKS, untrained, {**of_networks, "replicate": replicate})


# -- tables and figures ------------------------------------------------------------------------------------------------


def at_end(o: ShuffledOptions, learner: str) -> dict[str, Any]:
    """Where the distance of whole documents is, of a learner of any bigram model."""
    return {"part": NETWORKS, "learner": learner, "h": o.network_horizon}


def tables(o: ShuffledOptions, s: Summary) -> Iterator[Table]:
    """Distances of whole documents, and where each learner has put the dial."""
    dialled = [("log-loss", None), *((measure.CHUNKED, K) for K in o.chunks), ("rho", None), (CLEAN, None)]
    rows: Places = [
        (f"dial, H={H}: {measure.titled(a, K)}", {"part": DIAL, "learner": a, "H": H, "K": K})
        for H in sorted(o.dial_horizons)
        for a, K in dialled
    ]
    rows += [(f"any bigram model, H={o.network_horizon}: {a}", at_end(o, a)) for a in ANY_BIGRAM]
    rows += [
        (f"another corpus, H={H}: {a}", {"part": FOREIGN, "learner": a, "H": H})
        for H in sorted(o.foreign_horizons)
        for a in (NETWORK, RHO, CLEAN)
    ]
    yield pivot(
        s,
        "Contaminated text",
        DISTANCE2,
        rows,
        [("distance", {}), ("share learned", {"metric": SHARE})],
        corner="class, length and learner",
        note="Squared Hellinger distance to an expert of whose documents a share "
        f"{o.contamination:g} is shuffled text, with 95 % intervals over replicates. The dial is a class of 24 "
        "bigram models, between that of the text and that of shuffled text; every learner is exact there.",
    )


def dial_figure(o: ShuffledOptions, s: Summary) -> Figure:
    """Distance at the full length against the length, on logarithmic axes."""
    high = max(o.dial_horizons)
    loss, rho = (s.value(DISTANCE2, part=DIAL, learner=learner, H=high) for learner in ("log-loss", "rho"))
    title = "Log-loss and rho on text with some shuffled documents"
    if rho < 0.5 * loss:
        title = "Log-loss pays for shuffled documents again and again, rho once"
    curves = [
        *(Curve({"part": DIAL, "learner": measure.CHUNKED, "K": K}, f"rho, chunks of {K}") for K in o.chunks),
        Curve({"part": DIAL, "learner": "log-loss"}, "log-loss"),
        Curve({"part": DIAL, "learner": "rho"}, "rho, whole document"),
        Curve({"part": DIAL, "learner": CLEAN}, CLEAN, style="best in class"),
    ]
    return chart(s, title, DISTANCE, Panel("H", "length of the documents H", DISTANCE2, curves, yscale="log"))


def network_figure(o: ShuffledOptions, s: Summary) -> Figure:
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
    panel = Panel("h", WRITTEN, DISTANCE2, curves, yscale="zero", ticks=ticks)
    return chart(late, said, DISTANCE, panel, size=(8.6, 4.8))


def foreign_gap(s: Summary, H: int) -> tuple[float, float, float] | None:
    """By how much rho is farther than log-loss, on the same documents; ``None`` where one was not measured."""
    return paired_rows(*(s.select(DISTANCE2, part=FOREIGN, learner=learner, H=H) for learner in (RHO, NETWORK)))


def foreign_figure(o: ShuffledOptions, s: Summary) -> Figure:
    """Distance against the length, of documents of which a few are another corpus's."""
    H = max(o.foreign_horizons)
    gap = foreign_gap(s, H)
    title = "Log-loss and rho on text with some documents of another corpus"
    if gap and (gap[2] < 0 or gap[1] > 0):
        title = f"H={H}: rho is {abs(gap[0]):.2g} {'nearer' if gap[0] < 0 else 'farther'} than log-loss"
    colours = {NETWORK: "orange", RHO: "blue", CLEAN: "black"}
    curves = [
        Curve({"part": FOREIGN, "learner": learner}, learner, look={"color": COLOURS[colour]})
        for learner, colour in colours.items()
    ]
    panel = Panel("H", "length of the documents H", DISTANCE2, curves, yscale="zero")
    return chart(s, title, DISTANCE, panel)


def figures(o: ShuffledOptions, s: Summary) -> Iterator[FigureSpec]:
    """One of the dial, and one of all bigram models and one of another corpus where there are some."""
    over = f"of {o.seeds} replicates" if o.seeds > 1 else "of the sampling of one replicate"
    trained = f"of {o.network_seeds} replicates of networks" if o.network_seeds > 1 else "of one network"
    dirt = f"A share {o.contamination:g} of the expert's documents is shuffled text"
    yield FigureSpec(
        "headline",
        "Does log-loss forgive a few shuffled documents?",
        f"{dirt}; the class is a dial of bigram models between text and shuffled text, every learner is exact in "
        f"it. Squared Hellinger distance at the length H of the documents, 95 % intervals {over}.",
        lambda: dial_figure(o, s),
    )
    if len(s.select(DISTANCE2, part=NETWORKS)):
        yield FigureSpec(
            "networks",
            "Does training on whole documents lower the distance?",
            f"{dirt}; the class is all bigram models, as tables and as linear networks of the last token. Squared "
            f"Hellinger distance of the first h tokens, documents of {o.network_horizon}; 95 % intervals, {trained}.",
            lambda: network_figure(o, s),
        )
    if len(s.select(DISTANCE2, part=FOREIGN)):
        caption = (
            f"A share {o.foreign_share:g} of the documents is of another corpus; linear networks of the last token, "
            f"trained by log-loss or by rho on the same {o.network_n} documents. Squared Hellinger distance of whole "
            f"documents. {interval_words(o.network_seeds, 'trainings')}."
        )
        said = "Does training on whole documents forgive those of another corpus?"
        share = f"{o.foreign_share:.0%} of the documents of another corpus"
        yield FigureSpec("foreign", said, caption, lambda: foreign_figure(o, s), share)


# -- findings ----------------------------------------------------------------------------------------------------------


def findings(o: ShuffledOptions, s: Summary) -> Iterator[str]:
    """Who pays how often; whether sequence-level training of networks lowers the distance, or why there is none."""
    words = []
    for learner in ("log-loss", "rho", CLEAN):
        lengths = sorted({min(o.dial_horizons), max(o.dial_horizons)})
        at = {H: s.shown(DISTANCE2, part=DIAL, learner=learner, H=H) for H in lengths}
        if all(at.values()):
            words.append(f"{learner} {' and '.join(f'{found} at H={H}' for H, found in at.items())}")
    if words:
        said = f"With {o.contamination:g} of the documents shuffled, in a class of bigram models on one dial"
        yield f"{said}: {'; '.join(words)}."
    ends = {name: rows for name in ANY_BIGRAM if len(rows := s.select(DISTANCE2, **at_end(o, name)))}
    if ends:
        each = "; ".join(f"{name} {s.shown(DISTANCE2, **at_end(o, name))}" for name in ends)
        yield f"Any bigram model, documents of {o.network_horizon} tokens: {each}."
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
    for H in sorted(o.foreign_horizons):
        if gap := foreign_gap(s, H):
            shown = {name: s.shown(DISTANCE2, part=FOREIGN, learner=name, H=H) for name in (NETWORK, RHO, CLEAN)}
            yield (
                f"A share {o.foreign_share:g} of the documents of another corpus, H={H}: "
                f"{'; '.join(f'{name} {number}' for name, number in shown.items())}. Rho less log-loss, paired: "
                f"{with_interval(*gap, digits=2)}, {beyond_chance(gap)}."
            )
    if why := measure.networks_left_out(o.neural):
        yield f"Networks were {why}."


STUDY = Study(
    name="shuffled",
    question="Some documents of a text are shuffled: who pays for them at every token, and who once?",
    options=ShuffledOptions,
    cells=cells,
    analyse=analysis(
        tables=tables,
        figures=figures,
        findings=findings,
        setting=lambda o: f"{o.contamination:.0%} of the documents shuffled",
    ),
    reads=("corpus", "foreign"),
    seeds_of="text",
)
