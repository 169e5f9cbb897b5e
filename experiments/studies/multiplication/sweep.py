"""The cells of the study: weights written down, columns of an addition, and networks trained on new pairs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents import ConvergenceWarning, LogLossBC
from experiments.evaluated import evaluation_records
from experiments.kept import kept_or_made
from experiments.networks import trains_networks
from experiments.studies.multiplication.options import MultiplicationOptions
from experiments.study import Cell, Label, Record
from ntp_envs import ARLinearClass, Demonstrations, Policy, collect
from ntp_envs._numerics import first_best
from ntp_envs.distances import score_interval
from ntp_envs.evaluation import evaluate
from ntp_envs.features import WindowOneHot
from ntp_envs.tasks import ColumnAddition, Multiplication, explicit_multiplier

if TYPE_CHECKING:
    from agents.neural import TorchPolicy

__all__ = [
    "ALONE",
    "ALONE_NATS",
    "CARRY",
    "CHAIN",
    "COLUMNS",
    "DIGIT",
    "EXACT",
    "EXPLICIT",
    "FORCED",
    "FREE",
    "KIND",
    "LINEAR",
    "MLP",
    "NATS",
    "PRODUCT",
    "STEP",
    "SUCCESS",
    "TOKEN",
    "TRAINED",
    "cells",
    "columns",
    "explicit",
    "trained",
]

EXPLICIT, COLUMNS, TRAINED = "explicit", "columns", "trained"
#: learners of the part TRAINED
LINEAR, MLP = "linear", "MLP"

# measures of an evaluation
FORCED, FREE = "forced_accuracy", "greedy_accuracy"
EXACT, SUCCESS, TOKEN, NATS = "greedy_exact", "greedy_success", "forced_token_accuracy", "mean_cross_entropy"
WHOLE = (EXACT, SUCCESS, "sampled_exact", TOKEN, NATS)
# further measures of a chain of thought
CHAIN = "chain right"
PRODUCT = "product right after the true chain"
KIND = "tokens of a kind right, true prefix"
# measures of a column
CARRY, DIGIT, STEP = "carry right", "digit right after the true carry", "carry and digit right"
ALONE, ALONE_NATS = "digit right without a carry token", "nats of the digit without a carry token"
#: of a fit to columns, in nats a token: far below what an accuracy shows
TOLERANCE = 1e-2


# -- weights written down ----------------------------------------------------------------------------------------------


def explicit(*, digits: int, cot: str, n: int, rng: np.random.Generator) -> list[Record]:
    """The linear predictor whose weights are written down, on random pairs."""
    task = Multiplication(digits, cot)
    evaluation = evaluate(explicit_multiplier(task), task, n=n, rng=rng, samples=0)
    records = evaluation_records(evaluation, place_of(task, EXPLICIT))
    return [record for record in records if record.metric in (*WHOLE, FORCED)]


def place_of(task: Multiplication, learner: str) -> dict[str, Label]:
    """The labels that all records of a task share."""
    return {"task": task.name, "learner": learner, "H": task.horizon, "format": task.cot, "digits": task.digits}


# -- columns -----------------------------------------------------------------------------------------------------------


def columns(
    *, addends: int, radius: float, n: int, fresh: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """Log-loss on one column: its carry, the digit once the carry is written, and the digit alone.

    The class of `ColumnAddition` has weights of its own for each answer, so each is a fit by itself, here in a ball of
    its own.
    """
    task = ColumnAddition(addends)
    lines, tests = (whole(collect(task, size, rng)) for size in (n, fresh))

    def law(seen: int, wanted: int) -> NDArray[np.float64]:
        """``(fresh, A)`` log-probabilities of token ``wanted`` of a line from the first ``seen`` ones."""
        data = Demonstrations(lines[:, :seen], lines[:, [wanted]], vocab_size=task.vocab_size)
        policy = certified(data, WindowOneHot(task.vocab_size, seen), radius, rng)
        return policy.next_log_probs(tests[:, :seen], tests[:, :0])

    carry, digit = addends + 1, addends + 2  # where the answers are
    laws = {CARRY: (law(carry, carry), carry), DIGIT: (law(digit, digit), digit), ALONE: (law(carry, digit), digit)}
    right = {name: first_best(table) == tests[:, wanted] for name, (table, wanted) in laws.items()}
    right[STEP] = right[CARRY] & right[DIGIT]  # as in free running: the digit is written after the right carry
    nats = -float(laws[ALONE][0][np.arange(fresh), tests[:, digit]].mean())
    labels: dict[str, Label] = {"task": task.name, "learner": "log-loss", "addends": addends, "n": n}
    return [*(Record(name, float(r.mean()), labels) for name, r in right.items()), Record(ALONE_NATS, nats, labels)]


def certified(data: Demonstrations, features: WindowOneHot, radius: float, rng: np.random.Generator) -> Policy:
    """Maximum likelihood in a ball.

    Raises:
        ValueError: it is not certified.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return LogLossBC(tol=TOLERANCE).fit(data, ARLinearClass(features, radius), rng=rng).policy_
        except ConvergenceWarning as error:
            raise ValueError(f"a fit to the columns is not certified: {error}") from error


def whole(demonstrations: Demonstrations) -> NDArray[np.int64]:
    """``(B, P + H)`` prompts and answers side by side."""
    return np.concatenate([demonstrations.prompts, demonstrations.tokens], axis=1)


# -- networks ----------------------------------------------------------------------------------------------------------


def chain_records(
    policy: Policy, task: Multiplication, demonstrations: Demonstrations, labels: dict[str, Label]
) -> list[Record]:
    """How far the chain is right, and the product after it; and tokens by what they are.

    A greedy chain is right exactly where every token is the first choice after the true prefix.
    """
    law = policy.forced_log_probs(demonstrations.prompts, demonstrations.tokens)
    right = first_best(law) == demonstrations.tokens  # (n, H)
    slots = task.layout.slots[task.prompt_length :]
    result = task.layout.result - task.prompt_length
    found = {(PRODUCT, ""): right[:, result:].all(axis=1)}
    if result > 0:
        found[CHAIN, ""] = right[:, :result].all(axis=1)
    for kind in dict.fromkeys(slot.kind for slot in slots):
        found[KIND, kind] = right[:, [slot.kind == kind for slot in slots]].mean(axis=1)
    records = []
    for (metric, kind), values in found.items():
        place = {**labels, "kind": kind} if kind else labels
        mean, n = float(values.mean()), len(values)
        lower, upper = score_interval(mean, values.std() / np.sqrt(n), n)
        records.append(Record(metric, mean, place, float(lower), float(upper), f"evaluation, n={n}"))
    return records


def trained(
    *,
    architecture: str,
    digits: int,
    cot: str,
    steps: int,
    every: int,
    pairs: int,
    batch_size: int,
    learning_rate: float,
    network: dict[str, Any],
    device: str,
    replicate: int,
    rng: np.random.Generator,
    scratch: Path,
) -> list[Record]:
    """A network on new pairs at every update, evaluated on the same pairs now and then.

    What evaluations said is kept in ``scratch`` beside the checkpoint. They are made half way between two checkpoints,
    so wherever a training is stopped the next call comes by every evaluation that was not kept.
    """
    from agents.neural import NetworkClass, NeuralBC

    task = Multiplication(digits, cot)
    shown, training, drawn = (int(seed) for seed in rng.integers(2**63, size=3))
    fixed = collect(task, pairs, np.random.default_rng(shown))
    if architecture == LINEAR:
        network = {"width": task.vocab_size, "positional": True}  # every linear map of the one-hot prefix
    spec = NetworkClass.for_task(architecture.lower(), task, **network)
    labels = place_of(task, architecture)

    def measured(step: int, policy: Policy) -> list[Record]:
        place: dict[str, Label] = {**labels, "step": step}
        sampling = np.random.default_rng([drawn, step])
        evaluation = evaluate(policy, task, rng=sampling, demonstrations=fixed, samples=0)
        wanted = (*WHOLE, FORCED, FREE) if step == steps else WHOLE
        found = [record for record in evaluation_records(evaluation, place) if record.metric in wanted]
        return found + chain_records(policy, task, fixed, place)

    def kept(step: int, make: Callable[[], list[Record]]) -> list[Record]:
        return kept_or_made(scratch / f"evaluation-{step}.json", make)

    def looked(step: int, policy: TorchPolicy) -> None:
        if step in between:
            kept(step, partial(measured, step, policy))

    def lost() -> list[Record]:
        raise ValueError(f"an evaluation is missing in {scratch}; delete the folder to train from the beginning.")

    between = range(every // 2, steps, every)
    agent = NeuralBC(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        task=task,
        device=device,
        checkpoint=scratch / "run",
        checkpoint_every=every,
        on_step=looked,
        on_step_every=every // 2,
    ).fit(collect(task, 1, np.random.default_rng(shown)), spec, rng=np.random.default_rng(training))
    records = [record for step in between for record in kept(step, lost)]
    return records + kept(steps, partial(measured, steps, agent.policy_))


def cells(options: MultiplicationOptions) -> Iterator[Cell]:
    """The slow cells first: the trainings, those of long chains before the others.

    Raises:
        ValueError: networks are asked for and torch is missing; before anything is run.
    """
    common = {name: getattr(options, name) for name in ("steps", "every", "pairs", "batch_size", "device")}
    kinds: dict[str, dict[str, Any]] = {
        LINEAR: {"learning_rate": options.linear_rate, "network": {}},
        MLP: {"learning_rate": options.mlp_rate, "network": {"width": options.width, "layers": options.layers}},
    }
    if trains_networks(options.neural):
        for digits in sorted(options.digits, reverse=True):
            for cot in ("carry", "source", "none"):
                for architecture, kind in kinds.items():
                    for replicate in range(options.seeds):
                        cell = {"architecture": architecture, "digits": digits, "cot": cot, "replicate": replicate}
                        yield Cell(TRAINED, trained, {**cell, **common, **kind}, scratch=True)
    for addends in sorted(options.addends, reverse=True):
        for replicate in range(options.column_seeds):
            cell = {
                "addends": addends,
                "n": options.columns,
                "radius": options.radius,
                "fresh": options.fresh_columns,
                "replicate": replicate,
            }
            yield Cell(COLUMNS, columns, cell)
    for digits in sorted(options.explicit_digits, reverse=True):
        for cot in ("source", "carry"):
            yield Cell(EXPLICIT, explicit, {"digits": digits, "cot": cot, "n": options.pairs})
