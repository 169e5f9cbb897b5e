"""The cells of the study: pointer learners with every number of hops, and small transformers in every mode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents import make_agent
from experiments.evaluated import evaluation_records
from experiments.kept import kept_or_made
from experiments.measure import POPULATION
from experiments.networks import trains_networks
from experiments.studies.pathstar.options import PathStarOptions
from experiments.study import Cell, Label, Record
from ntp_envs import collect
from ntp_envs.evaluation import evaluate
from ntp_envs.tasks import PathStar
from ntp_envs.tasks.path_star import CleverHansPolicy

__all__ = [
    "CLOSED",
    "EXPECTED",
    "FORCED",
    "FORCING",
    "FREE",
    "GREEDY",
    "HANS",
    "MODES",
    "NATS",
    "NETWORK",
    "POINTER",
    "REFERENCE",
    "REVERSED",
    "SAMPLED",
    "SECOND",
    "TEACHERLESS",
    "cells",
    "hops_of",
    "star",
]

# parts, which are also the names of the learners
POINTER, NETWORK, REFERENCE = "pointer", "transformer", "reference"
HANS = "Clever Hans"
FORCING, REVERSED, TEACHERLESS, SECOND = "teacher forcing", "reversed", "teacherless", "second token only"
#: of the transformer: what it changes about the task, and about the training
MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    FORCING: ({}, {}),
    REVERSED: ({"reverse": True}, {}),
    TEACHERLESS: ({}, {"mode": "teacherless"}),
    SECOND: ({}, {"mode": "first_token_only", "positions": (1,)}),
}
#: of the pointer learner: what it changes about the task, the policy class included
POINTER_MODES: dict[str, dict[str, Any]] = {
    FORCING: {},
    REVERSED: {"reverse": True},
    TEACHERLESS: {"teacherless": True},
}

# measures of an evaluation
FORCED, FREE, GREEDY, SAMPLED = "forced_accuracy", "greedy_accuracy", "greedy_exact", "sampled_exact"
EXPECTED, NATS = "sequence_probability", "mean_cross_entropy"
BY_NODE = (FORCED, FREE)
WHOLE = (GREEDY, SAMPLED, EXPECTED, NATS)
CLOSED = "closed form"


def star(degree: int, length: int, nodes: int, **changes: Any) -> PathStar:
    """The task, with enough labels for its nodes."""
    return PathStar(degree, length, max(nodes, 1 + degree * (length - 1)), **changes)


def hops_of(length: int) -> list[int]:
    """Numbers of hops that the pointer learner is given: none, one, and as many as there are."""
    return sorted({0, 1, length - 2})


def pointer(*, mode: str, degree: int, length: int, nodes: int, n: int, rng: np.random.Generator) -> list[Record]:
    """Log-loss on the population in the task's class, evaluated on fresh prompts, with the closed forms."""
    records = []
    for hops in hops_of(length):
        task = star(degree, length, nodes, hops=hops, **POINTER_MODES[mode])
        policy = make_agent("LogLossBC").fit(task.population(), task.policy_class, rng=rng).policy_
        place = place_of(POINTER, mode, task)
        labels: dict[str, Label] = {**place, "hops": hops, "n": POPULATION}
        evaluation = evaluate(policy, task, n=n, rng=rng, samples=0)
        records += [r for r in evaluation_records(evaluation, labels) if r.metric in WHOLE]
        never = mode == TEACHERLESS and length - 3 - hops >= 2  # greedy decoding writes the same label twice
        forms = {SAMPLED: task.class_exact_match, GREEDY: 0.0 if never else task.class_exact_match}
        place = {**place, "learner": CLOSED, "hops": hops}
        records += [Record(metric, value, place, method=CLOSED) for metric, value in forms.items()]
    return records


def copying(*, mode: str, degree: int, length: int, nodes: int, rng: np.random.Generator) -> list[Record]:
    """What copying the next node from the previous one reaches, exactly."""
    task = star(degree, length, nodes, **MODES[mode][0])
    hans, place = CleverHansPolicy(task), place_of(HANS, mode, task)
    records = [
        Record(FORCED, float(share), {**place, "h": h}, method=CLOSED)
        for h, share in enumerate(hans.forced_accuracy, 1)
    ]
    records += [Record(metric, hans.exact_match, place, method=CLOSED) for metric in (GREEDY, SAMPLED)]
    return [*records, Record(NATS, hans.cross_entropy, place, method=CLOSED)]


def trained(
    *,
    mode: str,
    degree: int,
    length: int,
    nodes: int,
    steps: int,
    every: int,
    prompts: int,
    batch_size: int,
    learning_rate: float,
    network: dict[str, Any],
    device: str,
    replicate: int,
    rng: np.random.Generator,
    scratch: Path,
) -> list[Record]:
    """A small transformer on new prompts at every update, evaluated on the same prompts every few of them.

    The graph is read edge by edge, without positions. A stretch of training ends with a checkpoint and then an
    evaluation, and both are kept in ``scratch``: wherever it is stopped, the next call finds the checkpoint that the
    next evaluation is of, or is made from.
    """
    from agents.neural import NetworkClass, NeuralBC

    changes, options = MODES[mode]
    task = star(degree, length, nodes, **changes)
    shown, training, drawn = (int(seed) for seed in rng.integers(2**63, size=3))
    fixed = collect(task, prompts, np.random.default_rng(shown))
    shapes = collect(task, 1, np.random.default_rng(shown))  # of the fresh data; nothing else is read of it
    spec = NetworkClass.for_task("transformer", task, prompt_group=3, prompt_positions=False, **network)
    place = place_of(NETWORK, mode, task)
    counted = (FORCED,) if mode == SECOND else (*BY_NODE, *WHOLE)  # what is written alone makes no answer

    def evaluated(step: int) -> list[Record]:
        agent = NeuralBC(
            **options,
            steps=step,
            schedule="constant",  # so that a longer training begins with the same updates
            batch_size=batch_size,
            learning_rate=learning_rate,
            task=task,
            device=device,
            checkpoint=scratch / "run",
            checkpoint_every=every,
        ).fit(shapes, spec, rng=np.random.default_rng(training))
        sampling = np.random.default_rng([drawn, step])
        evaluation = evaluate(agent.policy_, task, rng=sampling, demonstrations=fixed, samples=0)
        return [r for r in evaluation_records(evaluation, {**place, "step": step}) if r.metric in counted]

    records = []
    for step in sorted({*range(every, steps, every), steps}):
        records += kept_or_made(scratch / f"evaluation-{step}.json", partial(evaluated, step))
    return records


def place_of(learner: str, mode: str, task: PathStar) -> dict[str, Label]:
    """The labels that all records share."""
    return {"task": task.name, "learner": learner, "mode": mode, "H": task.horizon, "degree": task.degree}


def cells(options: PathStarOptions) -> Iterator[Cell]:
    """The slow cells first: the trainings, the longest before the others.

    Raises:
        ValueError: transformers are asked for and torch is missing; before anything is run.
    """
    shape = {"length": options.length, "nodes": options.nodes}
    steps = {
        TEACHERLESS: options.teacherless_steps,
        FORCING: options.forcing_steps,
        REVERSED: options.reversed_steps,
        SECOND: options.second_steps,
    }
    training = {name: getattr(options, name) for name in ("every", "prompts", "batch_size", "learning_rate", "device")}
    training["network"] = {name: getattr(options, name) for name in ("width", "layers", "heads")}
    if trains_networks(options.neural):
        for degree in sorted(options.network_degrees, reverse=True):
            for mode in sorted(steps, key=lambda mode: -steps[mode]):
                for replicate in range(options.seeds):
                    cell = {"mode": mode, "degree": degree, **shape, "steps": steps[mode], "replicate": replicate}
                    yield Cell(NETWORK, trained, {**cell, **training}, scratch=True)
    for mode in POINTER_MODES:
        for length in sorted(options.lengths, reverse=True):
            for degree in sorted(options.degrees, reverse=True):
                cell = {"mode": mode, "degree": degree, "length": length, "nodes": options.nodes, "n": options.n}
                yield Cell(POINTER, pointer, cell)
    for mode in (FORCING, REVERSED):
        for degree in sorted({*options.degrees, *options.network_degrees}):
            yield Cell(REFERENCE, copying, {"mode": mode, "degree": degree, **shape})
