"""The cells of the study: learners and rewards on tasks of a short horizon, and the cost of a slip on Tightrope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from agents import Agent, make_agent
from agents.interactive import DAgger
from experiments.fits import costed_fit
from experiments.learners import BEST, build_learner
from experiments.measure import named
from experiments.studies.rl.measures import judged
from experiments.studies.rl.options import RLOptions
from experiments.study import Cell, Label, Record
from ntp_envs import Task, collect, make_task

__all__ = [
    "CLOSED_FORMS",
    "COST",
    "COSTS",
    "DAGGER",
    "EXPERT",
    "IMITATION",
    "QUERIES",
    "REWARDED",
    "REWARDS",
    "TASKS",
    "cells",
]

REWARDED, COSTS = "rewards", "cost"
DAGGER, EXPERT = "DAgger", "expert"
IMITATION = ("log-loss", "rho", DAGGER)
#: name in the study: the reward of `agents.rl.SB3Agent`
REWARDS = {
    "PPO, task success": "success",
    "PPO, expert log-prob": "expert_log_prob",
    "PPO, maximum entropy": "max_ent",
}
#: parameters of each task; ``NoisyParity`` has a horizon of its own. Only it and Tightrope have a task success
TASKS: dict[str, dict[str, Any]] = {
    "Tightrope": {"eps": 0.05},
    "Contamination": {"eps": 0.3, "p": 0.1, "q": 0.9, "theta_min": 0.1},
    "ARLinear": {},
    "NoisyParity": {},
}
COST = "expected cost"
QUERIES = "expert queries"
#: where the cost of each learner should lie, and the method of the task that gives it
CLOSED_FORMS = {"closed form, never back": "bc_cost", "closed form, back at once": "dagger_cost"}


def learning_rate(left: float) -> float:
    """Of PPO, by the share of the training that is left: constant, then to zero over the second half.

    At a constant rate the policy keeps moving about the optimum: on ARLinear that costs ten times the distance.
    """
    return 3e-3 * min(1.0, 2.0 * left)


#: found on Contamination, where PPO learns last: with larger clips it stays with the majority's documents
PPO = {"learning_rate": learning_rate, "n_epochs": 4, "clip_range": 0.1}


def check_stable_baselines3() -> None:
    """Raises:
    ValueError: it is missing; names the extra that brings it, and how to go without.
    """
    try:
        import agents.rl  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error} Or leave PPO out with --no-rl.") from error


def build_task(task: str, horizon: int) -> Task:
    """A task of the comparison."""
    sizes = {} if task == "NoisyParity" else {"horizon": horizon}
    return make_task(task, **sizes, **TASKS[task])


def build(learner: str, task: Task, rounds: int, rollouts: int) -> Agent:
    """An imitation learner; DAgger is told the task."""
    return DAgger(task, rounds=rounds, rollouts=rollouts) if learner == DAGGER else build_learner(learner, task)


def queries(agent: Agent) -> float:
    """Next-token laws that the expert was asked for."""
    return float(agent.fit_report_.details.get("expert_queries", 0))


def imitated(
    *, task: str, H: int, n: int, rounds: int, rollouts: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """The imitation learners on one data set, with the best in class and, once, the expert itself."""
    made = build_task(task, H)
    demonstrations = collect(made, n, rng)
    seed = int(rng.integers(1 << 31))
    records = []
    for learner in IMITATION:
        fit = costed_fit(build(learner, made, rounds, rollouts), demonstrations, made.policy_class, seed, memory=False)
        labels: dict[str, Label] = named(task, learner, made.horizon, n)
        records += judged(made, fit.agent.policy_, labels)
        records += [Record(QUERIES, queries(fit.agent), labels), *fit.records(labels)]
    if replicate == 0:
        for name, policy in ((BEST, made.best_in_class().policy), (EXPERT, made.expert)):
            records += judged(made, policy, {"task": task, "learner": name, "H": made.horizon})
    return records


def rewarded(
    *, task: str, learner: str, H: int, steps: int, n_envs: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """PPO trained for one reward."""
    from agents.torch_state import own_torch_state

    made = build_task(task, H)
    agent = make_agent(
        "agents.rl:SB3Agent",
        algorithm="PPO",
        task=made,
        reward=REWARDS[learner],
        total_timesteps=steps,
        n_envs=n_envs,
        model_kwargs=PPO,
    )
    with own_torch_state(threads=1):
        shapes = collect(made, 1, rng)  # only its shapes are read
        fit = costed_fit(agent, shapes, made.policy_class, int(rng.integers(1 << 31)), memory=False)
        labels: dict[str, Label] = {"task": task, "learner": learner, "H": made.horizon}
        records = judged(made, agent.policy_, labels)
    return [*records, Record(QUERIES, queries(agent), labels), *fit.records(labels)]


def costs(
    *, H: int, eps: float, n: int, rounds: int, rollouts: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """The exact expected cost of each learner on Tightrope where one can climb back, with its closed forms."""
    made = make_task("Tightrope", horizon=H, eps=eps, recoverable=True)
    demonstrations = collect(made, n, rng)
    seed = int(rng.integers(1 << 31))
    records = []
    for learner in IMITATION:
        agent = build(learner, made, rounds, rollouts)
        agent.fit(demonstrations, made.policy_class, rng=np.random.default_rng(seed))
        labels = named("Tightrope", learner, H, n)
        cost = made.expected_cost(agent.policy_)  # type: ignore[attr-defined]
        records.append(Record(COST, cost, labels, method="automaton"))
        records.append(Record(QUERIES, queries(agent), labels))
    if replicate == 0:
        for name, method in CLOSED_FORMS.items():
            labels = {"task": "Tightrope", "learner": name, "H": H}
            records.append(Record(COST, getattr(made, method)(), labels, method="closed form"))
    return records


def cells(options: RLOptions) -> Iterator[Cell]:
    """The slow cells first, so that workers end together.

    Raises:
        ValueError: PPO is asked for and stable-baselines3 is missing; before anything is run.
    """
    if options.rl:
        check_stable_baselines3()
    asked = {"rounds": options.rounds, "rollouts": options.rollouts}
    for replicate in range(options.seeds):
        for task in TASKS:
            for learner in learners_of(task) if options.rl else ():
                cell = {"task": task, "learner": learner, "H": options.horizon, "steps": options.steps}
                yield Cell(REWARDED, rewarded, {**cell, "n_envs": options.n_envs, "replicate": replicate})
    for replicate in range(options.seeds):
        for task in TASKS:
            cell = {"task": task, "H": options.horizon, "n": options.n, **asked, "replicate": replicate}
            yield Cell(REWARDED, imitated, cell)
        for H in options.horizons:
            cell = {"H": H, "eps": options.eps, "n": options.n, **asked, "replicate": replicate}
            yield Cell(COSTS, costs, cell)


def learners_of(task: str) -> list[str]:
    """The rewards that the task can give."""
    has_success = build_task(task, 4).has_success
    return [name for name, reward in REWARDS.items() if reward != "success" or has_success]
