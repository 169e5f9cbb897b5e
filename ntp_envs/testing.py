"""Conformance suites for task families and policy classes, ours and yours: `check_task` and `check_policy_class`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray
from ntp_envs.automata import AutomatonPolicy
from ntp_envs.checks import NotTractableError
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances.exact import automaton_distances
from ntp_envs.policies import Policy
from ntp_envs.policy_classes import BernoulliClass, FiniteClass, MarkovClass, ParametricClass, PolicyClass, ProductClass
from ntp_envs.tasks.base import BestInClass, Task, collect

ENUMERATE_UP_TO = 2**14  # sequences, over all prompts
BATCH = 16
POSITIONS = 12


def check_task(task: Task, rng: np.random.Generator | None = None) -> None:
    """Check that a task keeps the contract of `ntp_envs.Task`; a few seconds at most.

    Everything is checked through the public methods, so that what passes works with every agent, distance and
    environment. Exact comparisons (best in class, population) are made by enumeration where there are at most 16384
    pairs of prompt and sequence, and by automaton recursion where expert and best in class are automata: also check
    a small instance of your family.

    Args:
        task: an instance of the family, of any size.
        rng: source of the samples; ``None`` is a generator seeded with 0.

    Raises:
        AssertionError: the first thing found wrong; the message names what to fix.

    >>> from ntp_envs import make_task
    >>> check_task(make_task("RareMode", horizon=6))
    """
    rng = np.random.default_rng(0) if rng is None else rng
    _check_attributes(task)
    _check_parameters(task)
    _check_prompts(task, rng)
    prompts = task.sample_prompts(BATCH, rng)
    _check_policy(task.expert, "expert", task, prompts, rng)
    _check_class(task)
    _check_best_in_class(task, prompts, rng)
    for chunk in sorted({None, 1, min(2, task.horizon), task.horizon}, key=lambda c: c or 0):
        _check_population(task, chunk, rng)
    _check_success(task, collect(task, BATCH, rng))


def check_policy_class(
    members: PolicyClass, rng: np.random.Generator | None = None, *, prompt_length: int = 0, horizon: int = 5
) -> None:
    """Check that a policy class keeps the contract that learners rely on; a second at most.

    Members are policies over one vocabulary that draw what they call possible, and the rest depends on the kind:

    * `FiniteClass`: ``policy(index)`` gives the members in order.
    * `ntp_envs.ParametricClass`: ``project`` gives the nearest point of a convex set that it leaves
      alone, ``starts`` are in it, ``laws`` are those of the member, and ``pull_back`` is their gradient by differences.

    Args:
        members: an instance of the class.
        rng: of parameters and sequences; ``None`` is a generator seeded with 0.
        prompt_length: of the sequences to try it on.
        horizon: of the sequences; the class's own where that is shorter.

    Raises:
        AssertionError: the first thing found wrong; the message names what to fix.

    >>> check_policy_class(FiniteClass([BernoulliClass().policy(0.5)]))
    """
    rng = np.random.default_rng(0) if rng is None else rng
    name = type(members).__name__
    require(isinstance(members, PolicyClass), f"{name} must subclass ntp_envs.PolicyClass.")
    length = horizon if members.horizon is None else min(horizon, members.horizon)
    shape = _Shape(members.vocab_size, length, prompt_length, members.end_token)
    prompts = rng.integers(members.vocab_size, size=(BATCH, prompt_length))
    if isinstance(members, ParametricClass):
        _check_parametric(members, shape, prompts, rng)
        return
    if isinstance(members, FiniteClass):
        same = [members.policy(index) is policy for index, policy in enumerate(members)]
        require(all(same) and len(same) == len(members), f"{name}.policy(index) must give the members in order.")
    for number, policy in enumerate(_some_members(members, rng)):
        _check_policy(policy, f"member {number} of {name}", shape, prompts, rng)


@dataclasses.dataclass(frozen=True)
class _Shape:
    vocab_size: int
    horizon: int
    prompt_length: int
    end_token: int | None = None


def _check_parametric(
    members: ParametricClass, shape: _Shape, prompts: NDArray[np.integer], rng: np.random.Generator
) -> None:
    name, size = type(members).__name__, members.dimension
    starts = np.asarray(members.starts())
    require(
        starts.ndim == 2 and starts.shape[1] == size and len(starts) and np.isfinite(starts).all(),
        f"{name}.starts() has shape {starts.shape}; finite (S, {size}) parameters are needed.",
    )
    width = members.upper - members.lower
    scale = np.where(np.isfinite(width), width, 2.0)
    tried = starts[0] + scale * rng.normal(size=(8, size))
    inside = [np.asarray(members.project(point)) for point in tried]
    for point in [*starts, *inside]:
        again = np.asarray(members.project(point))
        require(
            again.shape == (size,) and np.allclose(again, point, rtol=1e-9, atol=1e-9),
            f"{name}.project moves {point}, which is a start or what it gave itself, to {again}; what is in the class "
            "must stay.",
        )
        require(
            (point >= members.lower - 1e-9).all() and (point <= members.upper + 1e-9).all(),
            f"{name}.project gave {point}, outside the bounds lower={members.lower} and upper={members.upper}.",
        )
    for point, nearest in zip(tried, inside):
        for other in [*starts, *inside]:
            over = float((point - nearest) @ (other - nearest)) / (1.0 + np.linalg.norm(point - nearest))
            require(
                over <= 1e-7 * (1.0 + np.linalg.norm(other - nearest)),
                f"{name}.project maps {point} to {nearest}, and {other} is in the class too: not the nearest point of "
                "a convex set.",
            )
    tokens = rng.integers(members.vocab_size, size=(len(prompts), shape.horizon))
    for parameters in [*starts[:3], *inside[:3]]:
        policy = members.policy(parameters)
        _check_policy(policy, f"{name}.policy({parameters})", shape, prompts, rng)
        laws, own = np.asarray(members.laws(parameters, prompts, tokens)), policy.forced_log_probs(prompts, tokens)
        with np.errstate(invalid="ignore"):
            same = laws.shape == own.shape and ((laws == own) | (np.abs(laws - own) < 1e-8)).all()
        require(same, f"{name}.laws at {parameters} are not the forced_log_probs of {name}.policy there.")
        by_log_prob = np.where(np.isneginf(own), 0.0, rng.normal(size=own.shape))
        given = np.asarray(members.pull_back(parameters, prompts, tokens, by_log_prob))
        require(given.shape == (size,), f"{name}.pull_back has shape {given.shape}; ({size},) is needed.")
        for direction in [*inside[3:6], starts[0]]:
            along = direction - parameters  # within the class, if it is convex
            step = 1e-5 / max(float(np.linalg.norm(along)), 1e-5)
            ahead = np.asarray(members.laws(parameters + step * along, prompts, tokens))
            used = by_log_prob != 0.0
            rise = float(by_log_prob[used] @ (ahead - laws)[used]) / step
            require(
                abs(rise - given @ along) <= 1e-3 * (1.0 + abs(rise) + np.linalg.norm(given) * np.linalg.norm(along)),
                f"{name}.pull_back at {parameters} rises by {given @ along:.6g} towards {direction}, differences of "
                f"{name}.laws by {rise:.6g}; it must be the gradient of (by_log_prob * laws).sum().",
            )


def require(condition: object, message: str) -> None:
    """Raise ``AssertionError`` with these words where something does not hold."""
    if not condition:
        raise AssertionError(message)


def _tractable(function: Callable[..., Any], *args: Any) -> Any:
    """What ``function`` returns, or ``None`` where it says that there is no such thing."""
    try:
        return function(*args)
    except NotTractableError:
        return None


# -- the parameters ----------------------------------------------------------------------------------------------------


def _check_attributes(task: Task) -> None:
    require(isinstance(task, Task), f"{type(task).__name__} must subclass ntp_envs.Task.")
    for name, minimum in (("vocab_size", 1), ("horizon", 1), ("prompt_length", 0)):
        value = getattr(task, name, None)
        require(
            isinstance(value, int) and not isinstance(value, bool) and value >= minimum,
            f"task.{name} is {value!r}; it must be an int >= {minimum} (a field, class attribute or property).",
        )


def _check_parameters(task: Task) -> None:
    family = type(task)
    require(
        dataclasses.is_dataclass(family) and family.__dataclass_params__.frozen,  # type: ignore[attr-defined]
        f"{family.__name__} must be a frozen dataclass: decorate it with @dataclass(frozen=True).",
    )
    parameters = task.parameters()
    require(
        family(**parameters) == task,
        f"{family.__name__}(**task.parameters()) must equal the task; make every parameter an __init__ field.",
    )
    try:
        json.dumps(parameters)
    except TypeError as error:
        raise AssertionError(
            f"task.parameters() cannot be written as JSON ({error}), so demonstrations cannot be saved; "
            "use plain numbers, strings, booleans and lists for the fields."
        ) from error


# -- prompts and policies ----------------------------------------------------------------------------------------------


def _check_tokens(what: str, array: Any, shape: tuple[int, int], vocab_size: int) -> None:
    tokens = np.asarray(array)
    require(tokens.shape == shape, f"{what} has shape {tokens.shape}; {shape} is needed.")
    require(np.issubdtype(tokens.dtype, np.integer), f"{what} has dtype {tokens.dtype}; integers are needed.")
    require(
        not tokens.size or (tokens.min() >= 0 and tokens.max() < vocab_size),
        f"{what} must lie in the vocabulary [0, {vocab_size - 1}].",
    )


def _listed_prompts(task: Task, prompts: Any, probabilities: Any) -> dict[tuple[int, ...], float]:
    prompts, probabilities = np.asarray(prompts), np.asarray(probabilities, dtype=np.float64)
    _check_tokens("prompt_law()[0]", prompts, (len(probabilities), task.prompt_length), task.vocab_size)
    require(
        (probabilities >= 0).all() and abs(probabilities.sum() - 1.0) < 1e-9,
        f"prompt_law()[1] must be probabilities; they sum to {probabilities.sum():.12g}.",
    )
    rows = {tuple(row): float(p) for row, p in zip(prompts.tolist(), probabilities)}
    require(len(rows) == len(prompts), "prompt_law()[0] lists a prompt twice; add their probabilities.")
    return rows


def _check_prompts(task: Task, rng: np.random.Generator) -> None:
    law = _tractable(task.prompt_law)
    rows = None if law is None else _listed_prompts(task, *law)
    n = 2000
    seed = int(rng.integers(2**32))
    sampled = task.sample_prompts(n, np.random.default_rng(seed))
    _check_tokens("sample_prompts", sampled, (n, task.prompt_length), task.vocab_size)
    again = task.sample_prompts(n, np.random.default_rng(seed))
    require(np.array_equal(sampled, again), "sample_prompts must draw from its rng only: same seed, same prompts.")
    if rows is None:
        return
    counts = dict.fromkeys(rows, 0)
    for row in map(tuple, sampled.tolist()):
        require(rows.get(row, 0.0) > 0.0, f"sample_prompts drew {list(row)}, to which prompt_law gives no mass.")
        counts[row] += 1
    for row, p in rows.items():
        slack = 6.0 * math.sqrt(n * p * (1.0 - p)) + 12.0  # Bernstein: a false alarm below 1e-7 a prompt
        require(
            abs(counts[row] - n * p) <= slack,
            f"sample_prompts drew {list(row)} {counts[row]} times in {n}, but prompt_law gives it {p:.4g}.",
        )


def _check_policy(
    policy: Policy, what: str, task: Task | _Shape, prompts: NDArray[np.integer], rng: np.random.Generator
) -> None:
    require(isinstance(policy, Policy), f"{what} must be an ntp_envs.Policy, not {type(policy).__name__}.")
    require(
        policy.vocab_size == task.vocab_size,
        f"{what}.vocab_size is {policy.vocab_size}, the task's {task.vocab_size}.",
    )
    require(
        policy.horizon is None or policy.horizon >= task.horizon,
        f"{what}.horizon is {policy.horizon}, shorter than the task's {task.horizon}.",
    )
    require(
        policy.prompt_length in (None, task.prompt_length),
        f"{what}.prompt_length is {policy.prompt_length}, the task's {task.prompt_length}.",
    )
    _check_next_log_probs(policy, what, prompts, np.empty((len(prompts), 0), dtype=np.int64))

    shape = (len(prompts), task.horizon)
    draws, again = (policy.sample(prompts, task.horizon, np.random.default_rng(7)) for _ in range(2))
    _check_tokens(f"{what}.sample", draws, shape, task.vocab_size)
    require(np.array_equal(draws, again), f"{what}.sample must draw from its rng only: same seed, same tokens.")
    require(
        np.isfinite(policy.log_probs(prompts, draws)).all(),
        f"{what}.sample drew a sequence to which {what}.log_probs gives probability zero.",
    )

    if task.end_token is not None and task.horizon > 1:
        ended = np.full((len(prompts), 1), task.end_token)
        after = policy.log_probs(prompts, np.repeat(ended, task.horizon, axis=1))[:, 1:]
        require(
            (np.abs(after) < 1e-12).all(),
            f"{what} writes something else after the end token {task.end_token}; the end is for good: see "
            "ntp_envs.EndedPolicy.",
        )

    tokens = draws.copy()  # every other row arbitrary: learners get to places where the expert never goes
    tokens[::2] = rng.integers(task.vocab_size, size=tokens[::2].shape)
    forced = policy.log_probs(prompts, tokens)
    require(forced.shape == shape, f"{what}.log_probs has shape {forced.shape}; {shape} is needed.")
    for h in np.unique(np.linspace(0, task.horizon - 1, min(task.horizon, POSITIONS)).astype(int)):
        log_probs = _check_next_log_probs(policy, what, prompts, tokens[:, :h])
        chosen = log_probs[np.arange(len(tokens)), tokens[:, h]]
        with np.errstate(invalid="ignore"):
            same = (forced[:, h] == chosen) | (np.abs(forced[:, h] - chosen) < 1e-8)
        require(same.all(), f"{what}.log_probs disagrees with {what}.next_log_probs at step {h}.")


def _check_next_log_probs(policy: Policy, what: str, prompts: NDArray[Any], tokens: NDArray[Any]) -> FloatArray:
    log_probs, h = policy.next_log_probs(prompts, tokens), tokens.shape[1]
    shape = (len(tokens), policy.vocab_size)
    require(log_probs.shape == shape, f"{what}.next_log_probs has shape {log_probs.shape} at step {h}, not {shape}.")
    off = np.abs(np.exp(log_probs).sum(axis=1) - 1.0)
    require(
        off.max() < 1e-6,  # a NaN is refused too
        f"{what}.next_log_probs at step {h} gives probabilities that sum to 1 only up to {off.max():.3g}.",
    )
    return log_probs


def _check_class(task: Task) -> None:
    members = task.policy_class
    require(isinstance(members, PolicyClass), f"policy_class must be an ntp_envs.PolicyClass, not {members!r}.")
    require(
        members.vocab_size == task.vocab_size,
        f"policy_class.vocab_size is {members.vocab_size}, the task's {task.vocab_size}.",
    )
    require(
        members.end_token == task.end_token,
        f"policy_class.end_token is {members.end_token}, the task's {task.end_token}; see ntp_envs.ended_class.",
    )
    require(
        members.horizon is None or members.horizon >= task.horizon,
        f"policy_class.horizon is {members.horizon}, shorter than the task's {task.horizon}.",
    )


# -- what is known exactly ---------------------------------------------------------------------------------------------


def _enumerated(task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray] | None:
    """Prompts, tokens and prompt probabilities of every (prompt, sequence) pair, if there are not too many."""
    law = _tractable(task.prompt_law)
    if law is None or len(law[0]) * float(task.vocab_size) ** task.horizon > ENUMERATE_UP_TO:
        return None
    sequences = np.array(list(itertools.product(range(task.vocab_size), repeat=task.horizon)))
    prompts, probabilities = law
    return (
        np.repeat(prompts, len(sequences), axis=0),
        np.tile(sequences, (len(prompts), 1)),
        np.repeat(probabilities, len(sequences)),
    )


def _exact_hellinger2(task: Task, policy: Policy) -> float | None:
    """Squared Hellinger distance of the expert to ``policy``, or ``None`` where it cannot be computed exactly."""
    everything = _enumerated(task)
    if everything is not None:
        prompts, tokens, mass = everything
        roots = [np.exp(0.5 * pi.log_probs(prompts, tokens).sum(axis=1)) for pi in (task.expert, policy)]
        return float(mass @ (roots[0] - roots[1]) ** 2)
    if isinstance(task.expert, AutomatonPolicy) and isinstance(policy, AutomatonPolicy):
        curves = _tractable(partial(automaton_distances, metrics=("hellinger2",)), task.expert, policy, task)
        return None if curves is None else curves["hellinger2"].final
    return None


def _some_members(members: PolicyClass, rng: np.random.Generator) -> list[Policy]:
    if isinstance(members, FiniteClass):
        return list(members)[:64]
    if isinstance(members, BernoulliClass):
        return [members.policy(theta) for theta in np.linspace(members.theta_min, members.theta_max, 17)]
    if isinstance(members, MarkovClass):
        laws = rng.dirichlet(np.ones(members.vocab_size), size=(8, members.n_contexts))
        return [members.policy(law) for law in laws]
    if isinstance(members, ProductClass):
        return [members.policy([rng.integers(size) for size in members.n_options]) for _ in range(8)]
    return []


def _check_best_in_class(task: Task, prompts: NDArray[np.integer], rng: np.random.Generator) -> None:
    best = _tractable(task.best_in_class)
    if best is None:
        return
    require(isinstance(best, BestInClass), f"best_in_class() must return an ntp_envs.BestInClass, not {best!r}.")
    _check_policy(best.policy, "best_in_class().policy", task, prompts, rng)
    require(0.0 <= best.hellinger2 <= 2.0, f"best_in_class().hellinger2 is {best.hellinger2}; it lies in [0, 2].")
    require(not best.tolerance < 0.0, f"best_in_class().tolerance is {best.tolerance}; it must be >= 0 or nan.")
    require(task.best_in_class().hellinger2 == best.hellinger2, "best_in_class() must give the same answer twice.")
    members = task.policy_class
    if isinstance(members, FiniteClass):
        require(
            any(best.policy is member for member in members),
            "best_in_class().policy is not one of the members of policy_class.",
        )
    exact = _exact_hellinger2(task, best.policy)
    if exact is None:
        return
    slack = 1e-9 + 1e-9 * exact + (0.0 if math.isnan(best.tolerance) else best.tolerance)
    require(
        abs(exact - best.hellinger2) <= slack,
        f"best_in_class().hellinger2 is {best.hellinger2:.12g}, but its policy is at {exact:.12g}; the convention is "
        "sum (sqrt P - sqrt Q)^2, not half of it, at the full horizon.",
    )
    if math.isnan(best.tolerance):
        return
    for member in _some_members(members, rng):
        other = _exact_hellinger2(task, member)
        require(
            other is None or other >= best.hellinger2 - slack,
            f"best_in_class() is at {best.hellinger2:.12g}, but another member of policy_class is at {other:.12g}: "
            f"{member!r}.",
        )


def _check_population(task: Task, chunk: int | None, rng: np.random.Generator) -> None:
    what = "population()" if chunk is None else f"population(chunk={chunk})"
    population = _tractable(task.population, chunk)
    if population is None:
        return
    require(isinstance(population, Demonstrations), f"{what} must return ntp_envs.Demonstrations, not {population!r}.")
    n = len(population)
    _check_tokens(f"{what}.tokens", population.tokens, (n, task.horizon), task.vocab_size)
    _check_tokens(f"{what}.prompts", population.prompts, (n, task.prompt_length), task.vocab_size)
    require(population.weights is not None, f"{what} needs weights: the probabilities of its rows.")
    exactness = population.exactness
    if exactness is None:
        raise AssertionError(f"{what} needs an Exactness: say for which learners it is exact.")
    if exactness.everything:
        _check_complete_law(task, what, population)
        return
    require(
        chunk is None or chunk in exactness.units,
        f"{what} is not exact for chunks of {chunk} tokens; its units are {sorted(exactness.units)}.",
    )
    require(
        exactness.statistic == task.policy_class.statistic,
        f"{what} is exact for classes with statistic {exactness.statistic!r}, but policy_class has "
        f"{task.policy_class.statistic!r}.",
    )
    everything = _enumerated(task)
    if everything is None:
        return
    prompts, tokens, mass = everything
    mass = mass * np.exp(task.expert.log_probs(prompts, tokens).sum(axis=1))
    for unit, member in itertools.product(exactness.units, _some_members(task.policy_class, rng)[::4]):
        seen = _root_likelihood(member, population.prompts, population.tokens, unit)
        true = _root_likelihood(member, prompts, tokens, unit)
        gap = population.normalised_weights() @ seen - mass @ true
        require(
            abs(gap) < 1e-9,
            f"{what} claims to be exact for chunks of {unit} tokens, but the mean over it of the root likelihood of a "
            f"chunk under {member!r} is off by {gap:.3g}.",
        )
        if unit not in exactness.expert_units:
            continue
        seen = _clipped_ratio(member, task.expert, population.prompts, population.tokens, unit)
        true = _clipped_ratio(member, task.expert, prompts, tokens, unit)
        gap = population.normalised_weights() @ seen - mass @ true
        require(
            abs(gap) < 1e-9,
            f"{what} claims to be exact for the expert's density of chunks of {unit} tokens, but the mean over it of "
            f"min(1, member / expert) of a chunk, for {member!r}, is off by {gap:.3g}.",
        )


def _root_likelihood(policy: Policy, prompts: Any, tokens: Any, unit: int) -> FloatArray:
    """``(n,)`` the sum over chunks of sqrt pi(chunk | prefix): a chunk statistic that is not linear in log pi."""
    log_probs = policy.log_probs(prompts, tokens)
    return np.exp(0.5 * np.add.reduceat(log_probs, np.arange(0, tokens.shape[1], unit), axis=1)).sum(axis=1)


def _clipped_ratio(policy: Policy, expert: Policy, prompts: Any, tokens: Any, unit: int) -> FloatArray:
    """``(n,)`` the sum over chunks of min(1, member / expert), given the prefix; 0 what the expert excludes."""
    own, law = (
        np.add.reduceat(who.log_probs(prompts, tokens), np.arange(0, tokens.shape[1], unit), axis=1)
        for who in (policy, expert)
    )
    possible = ~np.isneginf(law)
    return np.exp(np.minimum(np.where(possible, own, -np.inf) - np.where(possible, law, 0.0), 0.0)).sum(axis=1)


def _check_complete_law(task: Task, what: str, population: Demonstrations) -> None:
    prompts, probabilities = task.prompt_law()
    prompt_mass = {tuple(row): float(p) for row, p in zip(prompts.tolist(), probabilities)}
    rows = np.column_stack([population.prompts, population.tokens])
    rows, place = np.unique(rows, axis=0, return_inverse=True)
    weights = np.bincount(place.ravel(), weights=population.normalised_weights())
    xs, ys = rows[:, : task.prompt_length], rows[:, task.prompt_length :]
    law = np.exp(task.expert.log_probs(xs, ys).sum(axis=1))
    law *= [prompt_mass.get(tuple(row), 0.0) for row in xs.tolist()]
    worst = int(np.abs(weights - law).argmax())
    require(
        np.abs(weights - law).max() < 1e-9,
        f"{what} claims to be the complete law, but gives {rows[worst].tolist()} weight {weights[worst]:.9g} where the "
        f"law has {law[worst]:.9g}; add what is missing, or claim less in its exactness.",
    )


# -- reward ------------------------------------------------------------------------------------------------------------


def _check_success(task: Task, demonstrations: Demonstrations) -> None:
    prompts, tokens = demonstrations.prompts, demonstrations.tokens
    if not task.has_success:
        try:
            task.success(prompts, tokens)
        except NotTractableError:
            return
        raise AssertionError("success() is defined but has_success is False; set has_success = True.")
    success = np.asarray(task.success(prompts, tokens))
    require(success.shape == (len(tokens),), f"success() has shape {success.shape}; ({len(tokens)},) is needed.")
    require(
        np.issubdtype(success.dtype, np.floating) and ((success >= 0.0) & (success <= 1.0)).all(),
        "success() must be floats in [0, 1].",
    )
