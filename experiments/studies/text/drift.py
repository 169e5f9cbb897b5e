"""Cells of the first part: one restricted learner of the expert's text, and how far its own text is from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import make_agent
from experiments.evaluated import evaluation_records
from experiments.measure import passing
from experiments.studies.text.corpus import read
from experiments.study import Label, Record
from ntp_envs import ARLinearClass, NGramClass, Policy, collect, distance
from ntp_envs.distances.result import DistanceCurve
from ntp_envs.evaluation import evaluate
from ntp_envs.features import WindowOneHot
from ntp_envs.tasks import Text

__all__ = [
    "ACCURACY",
    "BITS",
    "BRIDGE",
    "DISTANCE2",
    "EXPERT",
    "HALF",
    "LINEAR",
    "MLP",
    "NATS",
    "NGRAM",
    "REAL",
    "SAMPLE",
    "UNKNOWN",
    "drift",
    "name_of",
    "references",
    "shown_lengths",
]

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
