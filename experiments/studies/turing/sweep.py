"""The cells of the study: fits on short runs and their long ones, fits without the chain, one step, and parity."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Agent, ConvergenceWarning, LogLossBC, PerceptronBC
from experiments.studies.turing.options import TuringOptions
from experiments.study import Cell, Label, Record
from ntp_envs import Demonstrations, GreedyPolicy, Policy, Task, make_task
from ntp_envs._numerics import first_best
from ntp_envs.tasks import TuringMachine

__all__ = [
    "BEAVER",
    "CELLS",
    "CHAIN",
    "COUNT",
    "DIRECT",
    "EXACT",
    "INCREMENT",
    "LEARNERS",
    "PARITY",
    "RUNS",
    "STEP",
    "TRAINED",
    "cells",
]

RUNS, STEP, COUNT = "runs", "one step", "count parity"
CHAIN, DIRECT = "chain", "no chain"
EXACT = "exact match, free-running"
CELLS = "accuracy of fresh cells"
PARITY, BEAVER, INCREMENT = "parity machine", "busy beaver", "increment machine"
MACHINES = {PARITY: "parity", BEAVER: "busy_beaver_4", INCREMENT: "increment"}
#: steps or bits of the demonstrations with the chain
TRAINED = {PARITY: 4, BEAVER: 2, INCREMENT: 4}
STEP_WIDTH = 12
RADIUS = 200.0

LEARNERS = ("perceptron", "log-loss")


def learner_of(name: str, horizon: int) -> Agent:
    """A learner of the study; maximum likelihood to 1e-4 nats a token."""
    return LogLossBC(tol=1e-4 * horizon) if name == "log-loss" else PerceptronBC(max_epochs=20)


def machine_task(machine: str, length: int, width: int, *, chain: bool = True) -> TuringMachine:
    """Runs of ``length`` steps of the busy beaver on random tapes, or on words of ``length`` bits of the others."""
    if machine == BEAVER:
        shape: dict[str, Any] = {"width": width, "steps": length, "inputs": "random"}
    else:
        steps = length + 1 if machine == PARITY else 2 * length + 2
        shape = {"width": length + 2, "steps": steps}
    return make_task("TuringMachine", machine=MACHINES[machine], cot=chain, radius=RADIUS, **shape)  # type: ignore[return-value]


def running(task: TuringMachine, prompts: NDArray[np.integer]) -> NDArray[np.bool_]:
    """``(B,)`` whether the machine still moves at its last step, with the head on the tape."""
    _, head, state = task.table.run(*task.configurations(prompts), task.steps_taken)
    return np.asarray((head[:, -1] >= 0) & (state[:, -2] < task.table.n_working))


def hard_runs(task: TuringMachine, n: int, rng: np.random.Generator) -> Demonstrations:
    """Demonstrations of runs that take all their steps; of words, which always do, as they come."""
    kept: list[NDArray[np.int64]] = []
    while sum(map(len, kept)) < n:
        prompts = task.sample_prompts(4 * n, rng)
        kept.append(prompts[running(task, prompts)] if task.kind_of_input == "random" else prompts)
    prompts = np.concatenate(kept)[:n]
    return Demonstrations(prompts, task.targets(prompts), vocab_size=task.vocab_size)


def drawn(task: Any, n: int, rng: np.random.Generator) -> Demonstrations:
    """Demonstrations of a task with one right answer."""
    prompts = task.sample_prompts(n, rng)
    return Demonstrations(prompts, task.targets(prompts), vocab_size=task.vocab_size)


def fit(learner: str, demonstrations: Demonstrations, task: Task, rng: np.random.Generator) -> Any:
    """The policy learned. That the perceptron does not separate the answers without a chain is what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        agent = learner_of(learner, demonstrations.horizon)
        return agent.fit(demonstrations, task.policy_class, rng=rng).policy_


def exact_match(policy: Policy, truth: Demonstrations, rng: np.random.Generator) -> float:
    """Share of prompts whose whole answer greedy decoding writes as the expert does."""
    written = GreedyPolicy(policy).sample(truth.prompts, truth.horizon, rng)
    return float((written == truth.tokens).all(axis=1).mean())


def record(task: str, learner: str, chain: str, length: int, n: int, horizon: int, value: float, test: int) -> Record:
    """One measured exact match."""
    labels: dict[str, Label] = {
        "task": task,
        "learner": learner,
        "chain": chain,
        "length": length,
        "n": n,
        "H": horizon,
    }
    return Record(EXACT, value, labels, method=f"greedy decoding of {test} prompts")


def chained(
    *,
    machine: str,
    learner: str,
    n: int,
    lengths: Sequence[int],
    width: int,
    test: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """One fit to short runs, decoded on runs of every length; the same theta serves every width of the tape."""
    short = machine_task(machine, TRAINED[machine], width)
    theta = fit(learner, drawn(short, n, rng), short, rng).theta
    records = []
    for length in lengths:
        long = machine_task(machine, length, width)
        value = exact_match(long.policy_class.policy(theta), hard_runs(long, test, rng), rng)
        records.append(record(machine, learner, CHAIN, length, n, long.horizon, value, test))
    return records


def direct(
    *,
    machine: str,
    learner: str,
    n: int,
    length: int,
    width: int,
    test: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """A fit to the last configurations of runs of one length, tested on others of that length."""
    task = machine_task(machine, length, width, chain=False)
    policy = fit(learner, hard_runs(task, n, rng), task, rng)
    value = exact_match(policy, hard_runs(task, test, rng), rng)
    return [record(machine, learner, DIRECT, length, n, task.horizon, value, test)]


def counted(
    *, learner: str, k: int, bits: int, n: int, test: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """Parity of k bits after their count in binary, and at once, from as many demonstrations."""
    records = []
    for chain, cot in ((CHAIN, "count"), (DIRECT, "none")):
        task = make_task("ParityCoT", bits=bits, subset_size=k, cot=cot, radius=RADIUS, seed=replicate)
        policy = fit(learner, drawn(task, n, rng), task, rng)
        value = exact_match(policy, drawn(task, test, rng), rng)
        records.append(record("ParityCoT", learner, chain, k, n, task.horizon, value, test))
    return records


def one_step(
    *, machine: str, learner: str, sizes: Sequence[int], test: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """The share of cells of fresh random configurations whose next content is predicted, given true ones."""
    task = make_task(
        "TuringMachine", machine=MACHINES[machine], width=STEP_WIDTH, steps=1, inputs="random", radius=RADIUS
    )
    fresh = drawn(task, test, rng)
    records = []
    for n in sizes:
        policy = fit(learner, drawn(task, n, rng), task, rng)
        best = first_best(policy.forced_log_probs(fresh.prompts, fresh.tokens))
        labels: dict[str, Label] = {"task": machine, "learner": learner, "n": n}
        records.append(Record(CELLS, float((best == fresh.tokens)[:, :-1].mean()), labels, method=f"{test} prompts"))
    return records


def cells(options: TuringOptions) -> Iterator[Cell]:
    """Replicate by replicate, the slow ones first."""
    for replicate in range(options.seeds):
        for learner in LEARNERS:
            common = {"learner": learner, "test": options.test, "replicate": replicate}
            for machine in MACHINES:
                tape = {**common, "machine": machine, "width": options.width}
                lengths = options.steps if machine == BEAVER else options.bits
                for length in lengths:
                    if machine == BEAVER or length <= options.direct_bits:
                        yield Cell(RUNS, direct, {**tape, "n": options.n_direct, "length": length})
                yield Cell(RUNS, chained, {**tape, "n": options.n, "lengths": list(lengths)})
                yield Cell(STEP, one_step, {**common, "machine": machine, "sizes": list(options.sizes)})
            for k in options.subset_sizes:
                yield Cell(COUNT, counted, {**common, "k": k, "bits": options.prompt_bits, "n": options.n_direct})
