"""Cells of the second part: a share of the expert's documents is shuffled text, and the learners are bigram models."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents import Agent, ConvergenceWarning, LogLossBC, make_agent
from experiments.learners import CHUNKED, build_learner
from experiments.studies.text.corpus import read
from experiments.studies.text.drift import BRIDGE, DISTANCE2, curve_records, method_of
from experiments.study import Label, Record
from ntp_envs import FiniteClass, MarkovPolicy, collect, distance
from ntp_envs.tasks import Text

__all__ = [
    "CLEAN",
    "CLIPPED",
    "EXACT",
    "NETWORK",
    "NETWORKS",
    "RHO",
    "SHARE",
    "dial",
    "dial_class",
    "trained",
    "untrained",
]

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
