"""The cells of the study: formats, the trade of length against samples, and the growth of answers under a filter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from agents import LogLossBC
from experiments.fits import costed_fit
from experiments.studies.length.options import LengthOptions
from experiments.study import Cell, Label, Record
from ntp_envs import Demonstrations, GreedyPolicy, Policy, collect
from ntp_envs.evaluation import evaluate
from ntp_envs.tasks import ParityCoT, ParityMix
from ntp_envs.tasks.parity_mix import GREEDY_THRESHOLD, filtered_share, rounds_to_pass

__all__ = [
    "ANSWER",
    "CHAIN",
    "CLOSED",
    "FEATURES",
    "FORCED",
    "FORMATS",
    "GREEDY",
    "LENGTH",
    "MIX",
    "NEEDED",
    "PASSED",
    "ROUNDS",
    "SAMPLED",
    "SHARE",
    "THRESHOLD",
    "TRADE",
    "cells",
    "filtered",
    "parity_formats",
    "trade_formats",
]

FORMATS, TRADE, MIX, ROUNDS = "formats", "trade", "mix", "rounds"
#: measures on ParityCoT, all but one of greedy decoding
ANSWER, FORCED, CHAIN, SAMPLED = "answer right", "token right, true prefix", "chain right", "answer right, sampled"
NEEDED, FEATURES = "samples needed", "weights"
THRESHOLD = "best threshold function"
#: measures on ParityMix; SAMPLED as above
GREEDY, SHARE, LENGTH = "answer right, greedy", "share of chains", "length of an answer"
PASSED = "rounds until the share of chains is above 1/3"
#: what is put before the name of a measure that comes from a closed form and not from a fit
CLOSED = "closed form: "
BISECTIONS = 3
#: of a fit, in nats a sequence: far below what an accuracy shows; in ParityMix rare chains count
TOLERANCE = {"ParityCoT": 1e-2, "ParityMix": 1e-4}


def parity_formats() -> dict[str, dict[str, Any]]:
    """The formats compared with a linear step: the parameters of `ParityCoT` of each."""
    return {
        "none": {"cot": "none"},
        "prefix": {"cot": "prefix"},
        "xor_3": {"cot": "xor_q", "fan_in": 3},
        "count": {"cot": "count"},
        "andxor": {"cot": "andxor"},
        "token": {"cot": "token"},
    }


def trade_formats(k: int) -> dict[str, dict[str, Any]]:
    """Linear formats, and steps of fan-in q with a class of products of q signs, down to no chain at all."""
    linear = {name: {"cot": name} for name in ("andxor", "count", "token")}
    products = {f"xor_{q}": {"cot": "xor_q", "fan_in": q, "degree": q} for q in range(2, k)}
    return {**linear, **products, "none": {"cot": "none", "degree": k}}


def learned(task: ParityCoT | ParityMix, demonstrations: Demonstrations, rng: np.random.Generator) -> Policy:
    """The log-loss optimum in the task's class."""
    seed = int(rng.integers(1 << 31))
    return costed_fit(
        LogLossBC(tol=TOLERANCE[task.name]), demonstrations, task.policy_class, seed, memory=False
    ).agent.policy_


def place_of(task: ParityCoT, name: str, n: int) -> dict[str, Label]:
    """Labels of a record."""
    labels: dict[str, Label] = {"task": task.name, "learner": "log-loss", "format": name, "n": n}
    return {**labels, "H": task.horizon, "V": task.vocab_size, "degree": task.degree}


def accuracy(
    *,
    name: str,
    parameters: dict[str, Any],
    bits: int,
    subset_size: int,
    n: list[int],
    fresh: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """Accuracies of one format after each number of demonstrations, the first ones of the same."""
    task = ParityCoT(bits=bits, subset_size=subset_size, seed=replicate, **parameters)
    demonstrations = collect(task, max(n), rng)
    test = collect(task, fresh, rng)
    records = []
    for size in sorted(n):
        policy = learned(task, demonstrations.subset(np.arange(size)), rng)
        result = evaluate(policy, task, rng=rng, demonstrations=test, samples=0)
        values = {
            ANSWER: result.greedy_success,
            FORCED: result.forced_token_accuracy,
            CHAIN: result.greedy_exact,
            SAMPLED: result.sampled_success,
        }
        labels = place_of(task, name, size)
        records += [Record(metric, float(value), labels) for metric, value in values.items() if value is not None]
    if replicate == 0:
        forced, answer = task.population_accuracy()
        closed = {FORCED: forced, ANSWER: answer, THRESHOLD: task.threshold_accuracy()}
        labels = {"task": task.name, "format": name, "H": task.horizon, "V": task.vocab_size}
        records += [Record(CLOSED + metric, value, labels, method="closed form") for metric, value in closed.items()]
    return records


def samples_needed(
    *,
    name: str,
    parameters: dict[str, Any],
    bits: int,
    subset_size: int,
    target: float,
    most: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """How many demonstrations one format needs to reach the target, to a factor of about 2^(1/8).

    The answers of greedy decoding to all prompts are judged, after doublings and then by bisection of the last one (as
    if accuracy grew with every demonstration); ``inf`` where ``most`` are not enough.
    """
    task = ParityCoT(bits=bits, subset_size=subset_size, seed=replicate, **parameters)
    demonstrations, everything = collect(task, most, rng), task.population()

    def reached(size: int) -> bool:
        policy = GreedyPolicy(learned(task, demonstrations.subset(np.arange(size)), rng))
        tokens = policy.sample(everything.prompts, task.horizon, rng)
        return float(task.success(everything.prompts, tokens).mean()) >= target

    high = 2
    while not reached(high) and high < most:
        high = min(2 * high, most)
    needed = float("inf")
    if high < most or reached(high):
        low = high / 2
        for _ in range(BISECTIONS):
            middle = math.sqrt(low * high)
            if reached(round(middle)):
                high = round(middle)
            else:
                low = middle
        needed = float(high)
    labels = place_of(task, name, 0)
    del labels["n"]
    records = [Record(NEEDED, needed, labels)]
    if replicate == 0:
        records.append(Record(FEATURES, float(task.policy_class.features.dimension), labels, method="exact"))
    return records


# -- ParityMix ---------------------------------------------------------------------------------------------------------


def mix_accuracy(*, p: float, d: int, n: int, fresh: int, replicate: int, rng: np.random.Generator) -> list[Record]:
    """Sampled and greedy accuracy, and length, after demonstrations with a share p of chains."""
    task = ParityMix(d=d, p=p)
    policy = learned(task, collect(task, n, rng), rng)
    records = judged(task, policy, fresh, {"task": task.name, "learner": "log-loss", "n": n, "p": p}, rng)
    if replicate == 0:
        closed = {SAMPLED: task.sampled_accuracy(), GREEDY: task.greedy_accuracy(), LENGTH: task.mean_length()}
        closed_labels: dict[str, Label] = {"task": task.name, "p": p}
        records += [
            Record(CLOSED + metric, value, closed_labels, method="closed form") for metric, value in closed.items()
        ]
    return records


def judged(
    task: ParityMix, policy: Policy, fresh: int, labels: dict[str, Label], rng: np.random.Generator
) -> list[Record]:
    """What a policy writes after fresh prompts."""
    prompts = task.sample_prompts(fresh, rng)
    greedy = GreedyPolicy(policy).sample(prompts, task.horizon, rng)
    tokens = policy.sample(prompts, task.horizon, rng)
    lengths = task.lengths(tokens)
    values = {
        GREEDY: task.success(prompts, greedy).mean(),
        SAMPLED: task.success(prompts, tokens).mean(),
        SHARE: (lengths == task.d).mean(),
        LENGTH: lengths.mean(),
    }
    return [Record(metric, float(value), labels) for metric, value in values.items()]


def filtered(task: ParityMix, policy: Policy, n: int, rng: np.random.Generator) -> Demonstrations:
    """The right ones of n sequences that the policy writes: the data of the next round."""
    prompts = task.sample_prompts(n, rng)
    tokens = policy.sample(prompts, task.horizon, rng)
    right = task.success(prompts, tokens) == 1.0
    return Demonstrations(prompts[right], tokens[right], vocab_size=task.vocab_size)


def filtered_rounds(
    *, p: float, d: int, n: int, rounds: int, fresh: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """Sample, keep what is right, fit again; what the policy writes after each round."""
    task = ParityMix(d=d, p=p)
    policy = learned(task, collect(task, n, rng), rng)
    records, passed = [], math.inf
    for number in range(rounds + 1):
        if number:
            policy = learned(task, filtered(task, policy, n, rng), rng)
        labels: dict[str, Label] = {"task": task.name, "learner": "log-loss", "n": n, "p": p, "round": number}
        found = judged(task, policy, fresh, labels, rng)
        if any(record.metric == SHARE and record.value > GREEDY_THRESHOLD for record in found):
            passed = min(passed, number)
        records += found
        if replicate == 0:
            place: dict[str, Label] = {"task": task.name, "p": p, "round": number}
            records.append(Record(CLOSED + SHARE, filtered_share(p, number), place, method="closed form"))
    records.append(Record(PASSED, float(passed), {"task": task.name, "learner": "log-loss", "n": n, "p": p}))
    if replicate == 0:
        expected = float(rounds_to_pass(p))
        records.append(Record(CLOSED + PASSED, expected, {"task": task.name, "p": p}, method="closed form"))
    return records


def cells(options: LengthOptions) -> Iterator[Cell]:
    """The slow cells first, so that workers end together."""
    for replicate in range(options.seeds):
        sizes = {"bits": options.trade_bits, "subset_size": options.trade_subset_size}
        for name, parameters in reversed(trade_formats(options.trade_subset_size).items()):
            cell = {"name": name, "parameters": parameters, **sizes, "target": options.target, "most": options.most}
            yield Cell(TRADE, samples_needed, {**cell, "replicate": replicate})
        sizes = {"bits": options.bits, "subset_size": options.subset_size}
        for name, parameters in parity_formats().items():
            cell = {"name": name, "parameters": parameters, **sizes, "n": list(options.n), "fresh": options.fresh}
            yield Cell(FORMATS, accuracy, {**cell, "replicate": replicate})
    common = {"d": options.mix_bits, "n": options.mix_n, "fresh": options.fresh}
    for replicate in range(options.mix_seeds):
        for p in options.starts:
            cell = {"p": p, **common, "rounds": options.rounds, "replicate": replicate}
            yield Cell(ROUNDS, filtered_rounds, cell)
        for p in options.shares:
            yield Cell(MIX, mix_accuracy, {"p": p, **common, "replicate": replicate})
