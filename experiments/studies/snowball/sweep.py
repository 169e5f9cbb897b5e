"""The cells of the study: a copier with slips and a path writer without a plan, with and without a verifier."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agents import make_agent
from experiments.evaluated import evaluation_records
from experiments.measure import POPULATION
from experiments.studies.snowball.options import SnowballOptions
from experiments.study import Cell, Label, Record
from ntp_envs import Policy
from ntp_envs.distances import score_interval
from ntp_envs.evaluation import SearchResult, backtracking_search, best_of, evaluate
from ntp_envs.tasks import CleverHansPolicy, PathStar, Snowball

__all__ = [
    "AGAIN",
    "BUDGETS",
    "COST",
    "CURVE",
    "DEPTH_FIRST",
    "EXACT",
    "FORM",
    "FREE",
    "LEARNED",
    "LENGTH",
    "LOCAL",
    "PATH",
    "POSITIONS",
    "SNOW",
    "TOKENS",
    "cells",
]

LENGTH, CURVE, POSITIONS, COST, LEARNED = "length", "budget", "positions", "cost", "learned"
SNOW, PATH = "Snowball", "PathStar"
#: how an answer is decoded
FREE = "no verifier"
LOCAL = "verifier, one token back"
DEPTH_FIRST = "verifier, depth-first"
AGAIN = "verifier, whole answers again"
FORM = "closed form"
EXACT = "exact match"
TOKENS = "tokens drawn a token of the answer"
#: tokens drawn a token of the answer, at which the share answered is read off
BUDGETS = (1.0, 1.03, 1.06, 1.1, 1.15, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)


def build(task: str, H: int, *, eps: float, vocab_size: int, degree: int) -> tuple[Snowball | PathStar, Policy, str]:
    """A task at this length of the answer, what teacher forcing makes of it, and the name of that."""
    if task == SNOW:
        snowball = Snowball(horizon=H, eps=eps, vocab_size=vocab_size)
        return snowball, snowball.sloppy_copier(), "sloppy copier"
    star = PathStar(degree=degree, length=H, nodes=1 + degree * (H - 1))
    return star, CleverHansPolicy(star), "Clever Hans"


def free_exact_match(task: Snowball | PathStar) -> float:
    """``(1 - eps)**H`` or ``1 / d``."""
    return task.exact_match() if isinstance(task, Snowball) else 1.0 / task.degree


def share_record(found: SearchResult, labels: dict[str, Label], budget: float = np.inf) -> Record:
    """Share answered within a budget of tokens, with Wilson's interval."""
    n = len(found.accepted)
    return Record(EXACT, found.share_within(budget), labels, *found.interval(budget), method=f"sampled, n={n}")


def token_record(found: SearchResult, labels: dict[str, Label]) -> Record:
    """Mean tokens drawn over the length of the answer, with a score interval."""
    drawn: NDArray[np.float64] = found.drawn / found.tokens.shape[1]
    lower, upper = score_interval(drawn.mean(), drawn.std() / np.sqrt(len(drawn)), len(drawn), bound=np.inf)
    return Record(TOKENS, float(drawn.mean()), labels, float(lower), float(upper), f"sampled, n={len(drawn)}")


def by_length(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, patience: int, rng: np.random.Generator
) -> list[Record]:
    """Exact match with and without a verifier, and what it costs."""
    made, policy, learner = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    labels: dict[str, Label] = {"task": task, "learner": learner, "H": H}
    free = evaluate(policy, made, n=n, rng=rng, samples=0)
    lower, upper = free.interval("sampled_exact")
    place: dict[str, Label] = {**labels, "decoding": FREE}
    records = [
        Record(EXACT, free.sampled_exact, place, lower, upper, f"sampled, n={n}"),
        Record(TOKENS, 1.0, place, method="one pass"),
        Record(EXACT, free_exact_match(made), {**labels, "decoding": FORM}, method="closed form"),
    ]
    prompts = made.sample_prompts(n, rng)
    for decoding, depth, budget in ((LOCAL, 1, patience * H), (DEPTH_FIRST, None, None)):
        if decoding == DEPTH_FIRST and task == SNOW:
            continue  # nothing to add: one token back repairs it
        budget = 2 * degree * H if budget is None else budget
        found = backtracking_search(policy, made, prompts, rng=rng, depth=depth, budget=budget)
        place = {**labels, "decoding": decoding}
        records += [share_record(found, place), token_record(found, place)]
    return records


def by_budget(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, patience: int, rng: np.random.Generator
) -> list[Record]:
    """Share answered against the tokens that may be drawn, for each kind of search, as far as it was taken.

    One token back is shown up to its budget, and beyond only where it has answered every prompt by then.
    """
    made, policy, learner = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    prompts = made.sample_prompts(n, rng)
    found = {
        AGAIN: best_of(policy, made, prompts, int(BUDGETS[-1]), rng=rng),
        LOCAL: backtracking_search(policy, made, prompts, rng=rng, budget=patience * H),
    }
    if task == PATH:
        found[DEPTH_FIRST] = backtracking_search(policy, made, prompts, rng=rng, depth=None, budget=2 * degree * H)
    records = []
    p = free_exact_match(made)
    for budget in BUDGETS:
        labels: dict[str, Label] = {"task": task, "learner": learner, "H": H, "budget": budget}
        for decoding, result in found.items():
            if decoding == LOCAL and budget > patience and not result.accepted.all():
                continue
            if decoding != AGAIN or budget == int(budget):
                records.append(share_record(result, {**labels, "decoding": decoding}, budget * H))
        if budget == int(budget):
            value = -np.expm1(budget * np.log1p(-p))
            records.append(Record(EXACT, float(value), {**labels, "decoding": FORM}, method="closed form"))
    return records


def by_position(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, rng: np.random.Generator
) -> list[Record]:
    """Everything that an evaluation reports, position by position."""
    made, policy, learner = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    evaluation = evaluate(policy, made, n=n, rng=rng, samples=0)
    return evaluation_records(evaluation, {"task": task, "learner": learner, "H": H})


def costs(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, samples: int, rng: np.random.Generator
) -> list[Record]:
    """Tokens until the answer is right, by whole answers drawn again and by backtracking."""
    made, policy, learner = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    prompts = made.sample_prompts(n, rng)
    labels: dict[str, Label] = {"task": task, "learner": learner, "H": H}
    if isinstance(made, Snowball):
        search, depth = LOCAL, 1
        forms = {AGAIN: made.restart_cost() / H, LOCAL: made.backtracking_cost() / H}
    else:
        search, depth = DEPTH_FIRST, None
        labels["degree"] = degree
        forms = {AGAIN: float(degree), DEPTH_FIRST: (1 + (degree + 1) / 2 * (H - 1)) / H}
    found = {
        AGAIN: best_of(policy, made, prompts, samples, rng=rng),
        search: backtracking_search(policy, made, prompts, rng=rng, depth=depth, budget=max(2 * degree, 20) * H),
    }
    records = []
    for decoding, result in found.items():
        place = {**labels, "decoding": decoding}
        if result.accepted.all():  # a mean over censored rows would be too small
            records.append(token_record(result, place))
        records.append(share_record(result, place))
        exact: dict[str, Label] = {**labels, "decoding": f"{decoding}, {FORM}"}
        records.append(Record(TOKENS, forms[decoding], exact, method="closed form"))
    return records


def learned(
    *, task: str, H: int, eps: float, vocab_size: int, degree: int, n: int, rng: np.random.Generator
) -> list[Record]:
    """What maximum likelihood learns from the population in the class of each task: the learners above."""
    made, *_ = build(task, H, eps=eps, vocab_size=vocab_size, degree=degree)
    agent = make_agent("LogLossBC").fit(made.population(), made.policy_class, rng=rng)
    evaluation = evaluate(agent.policy_, made, n=n, rng=rng, samples=0)
    labels: dict[str, Label] = {"task": task, "learner": "log-loss", "H": H, "n": POPULATION}
    form = Record(EXACT, free_exact_match(made), {**labels, "decoding": FORM}, method="closed form")
    return [*evaluation_records(evaluation, labels), form]


def cells(options: SnowballOptions) -> Iterator[Cell]:
    """The slow cells first: those of PathStar, long answers before short ones."""
    shape = {"eps": options.eps, "vocab_size": options.vocab_size, "degree": options.degree, "n": options.n}
    for task in (PATH, SNOW):
        for H in sorted(options.horizons, reverse=True):
            yield Cell(LENGTH, by_length, {"task": task, "H": H, **shape, "patience": options.patience})
        detail = {"task": task, "H": options.detail_horizon, **shape}
        yield Cell(CURVE, by_budget, {**detail, "patience": options.patience})
        yield Cell(POSITIONS, by_position, detail)
        yield Cell(LEARNED, learned, {"task": task, "H": options.short, **shape})
    for degree in options.degrees:
        star = {"task": PATH, "H": options.short, **shape, "degree": degree}
        yield Cell(COST, costs, {**star, "samples": options.samples})
    for H in options.horizons:
        yield Cell(COST, costs, {"task": SNOW, "H": H, **shape, "samples": options.samples})
