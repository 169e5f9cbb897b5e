"""What every agent must do: `check_agent`, to be called from the tests of whoever writes one.

Each check is a function of an agent and a `Problem`; its name in `CHECKS` is what ``skip`` takes.
"""

from __future__ import annotations

import pickle
import random
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, FitReport, unfitted
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    BernoulliPolicy,
    Demonstrations,
    EndedPolicy,
    Exactness,
    FiniteClass,
    MarkovClass,
    MarkovPolicy,
    NGramClass,
    Policy,
    PolicyClass,
    ProductClass,
    TabularPolicy,
    ended_class,
)
from ntp_envs.checks import check_generator, check_in
from ntp_envs.features import WindowOneHot
from ntp_envs.testing import require

HORIZON, SEQUENCES = 6, 40


@dataclass(frozen=True, eq=False)
class Problem:
    """A small learning problem: what to choose from, and samples to choose by."""

    name: str
    policy_class: PolicyClass
    demonstrations: Demonstrations


@dataclass(frozen=True, eq=False)
class _Kept(Problem):
    """A problem within one `check_agent`: checks that only look at a fit share one."""

    fits: list[Agent] = field(default_factory=list, init=False)


def check_agent(
    agent: Agent,
    *,
    rng: np.random.Generator | None = None,
    problems: Sequence[Problem] | None = None,
    skip: Collection[str] | str = (),
    atol: float = 1e-4,
) -> None:
    """Check that an agent keeps the contract of `agents.Agent`.

    Args:
        agent: any instance; it is cloned, never fitted itself.
        rng: draws the problems; a generator seeded with 0 by default.
        problems: what to fit; by default one small problem for each kind of class in ``agent.supports``
            (`default_problems`), with A = 2 and 3 tokens, and prompts of 0, 1 and 2.
        skip: names in `CHECKS`, or one, that do not apply: ``"weights"`` for a learner that bootstraps or splits.
        atol: largest difference of a next-token probability where two fits need only nearly agree (weights against
            repetitions). The default is the square root of 1e-8, the loss to which iterative learners fit here.

    Raises:
        AssertionError: the first check that fails; the message names what to fix.

    >>> from agents import LogLossBC
    >>> check_agent(LogLossBC())
    """
    if not isinstance(agent, Agent):
        raise TypeError(f"{agent!r} must be an instance of a subclass of agents.Agent.")
    skip = (skip,) if isinstance(skip, str) else skip
    for name in skip:
        check_in("skip", name, CHECKS)
    problems = default_problems(agent, rng) if problems is None else list(problems)
    require(problems, f"{_name(agent)}.supports fits none of the default problems; pass problems=[...].")
    problems = [_Kept(problem.name, problem.policy_class, problem.demonstrations) for problem in problems]
    for name, check in CHECKS.items():
        if name not in skip:
            for problem in problems:
                try:
                    check(agent, problem, atol)
                except AssertionError:
                    raise
                except Exception as error:
                    raise AssertionError(f"{agent!r}, check {name!r} on {problem.name}: {error!r}") from error


def default_problems(agent: Agent, rng: np.random.Generator | None = None) -> list[Problem]:
    """One problem for each kind of policy class that the agent supports (all, if it does not say)."""
    rng = np.random.default_rng(0) if rng is None else check_generator(rng)
    return [
        Problem(name, policy_class, _draw(policy_class, prompt_length, rng))
        for name, policy_class, prompt_length in _default_classes(rng)
        if agent.takes(policy_class)
    ]


def _default_classes(rng: np.random.Generator) -> Iterator[tuple[str, PolicyClass, int]]:
    chains = [MarkovPolicy(rng.dirichlet(np.ones(3), size=4), order=1) for _ in range(5)]
    yield "finite class, A=3, P=0", FiniteClass(chains), 0
    yield "product class, A=2, P=1", ProductClass([[BernoulliPolicy(t) for t in (0.2, 0.5, 0.8)]] * HORIZON), 1
    yield "Bernoulli class on tokens, P=0", BernoulliClass(0.01), 0
    yield "Bernoulli class on flips, P=1", BernoulliClass(0.01, on="flips"), 1
    yield "Markov class, A=3, P=2", MarkovClass(3, order=1), 2
    yield "autoregressive linear class, A=2, P=1", ARLinearClass(WindowOneHot(2, 2), radius=3.0), 1
    yield "autoregressive linear class, A=3, P=0", ARLinearClass(WindowOneHot(3, 1), radius=3.0), 0
    yield "n-gram class, A=3, P=1", NGramClass(3, order=3), 1
    yield "Bernoulli class of texts that end, P=1", ended_class(BernoulliClass(0.01), 1), 1


def _draw(policy_class: PolicyClass, prompt_length: int, rng: np.random.Generator) -> Demonstrations:
    """Samples of an expert that is in none of the classes."""
    size, end = policy_class.vocab_size, policy_class.end_token
    expert: Policy = TabularPolicy.random(size, HORIZON, rng, prompt_length=prompt_length)
    expert = expert if end is None else EndedPolicy(expert, end)
    prompts = rng.integers(size, size=(SEQUENCES, prompt_length))
    return Demonstrations(prompts, expert.sample(prompts, HORIZON, rng), vocab_size=size, end_token=end)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _name(agent: Agent) -> str:
    return type(agent).__name__


def _fitted(agent: Agent, problem: Problem, *, seed: int = 0) -> Agent:
    """A clone of the agent, fitted."""
    clone = agent.clone()
    try:
        result = clone.fit(problem.demonstrations, problem.policy_class, rng=np.random.default_rng(seed))
    except Exception as error:
        raise AssertionError(f"{agent!r} could not be fitted on {problem.name}: {error!r}") from error
    require(result is clone, f"{_name(agent)}.fit must return self, not {result!r}.")
    return clone


def _seen(agent: Agent, problem: Problem) -> Agent:
    """A fitted clone to look at, not to fit again."""
    fits = problem.fits if isinstance(problem, _Kept) else []
    if not fits:
        fits.append(_fitted(agent, problem))
    return fits[0]


def _law(agent: Agent, problem: Problem) -> NDArray[np.float64]:
    """Next-token log-probabilities of the learned policy on some sequences, to compare two fits by: ``(B, H, A)``."""
    demos = problem.demonstrations
    other = np.random.default_rng(1).integers(demos.vocab_size, size=demos.tokens.shape)
    prompts, tokens = np.tile(demos.prompts, (2, 1)), np.concatenate([demos.tokens, other])
    return np.stack([agent.policy_.next_log_probs(prompts, tokens[:, :h]) for h in range(demos.horizon)], axis=1)


def _same_law(one: Agent, two: Agent, problem: Problem) -> bool:
    return np.array_equal(_law(one, problem), _law(two, problem))


def _refuses(call: Callable[[], Any], errors: type[Exception] | tuple[type[Exception], ...], what: str) -> None:
    kinds = errors if isinstance(errors, tuple) else (errors,)
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        call()
    except kinds as error:
        require(str(error), f"{what} raises {type(error).__name__} without a message; say what is wrong and the fix.")
    except Exception as error:
        raise AssertionError(f"{what} must raise {names}, not {error!r}.") from error
    else:
        raise AssertionError(f"{what} must raise {names}, but is accepted.")


@contextmanager
def _global_random_state_watched() -> Iterator[Callable[[], bool]]:
    """Sets the global generators to a state nobody else would, gives a test that they still have it, and restores."""
    saved = np.random.get_state(), random.getstate()  # noqa: NPY002

    def state() -> bytes:
        return pickle.dumps((np.random.get_state(), random.getstate()))  # noqa: NPY002

    try:
        np.random.seed(987654321)  # noqa: NPY002
        random.seed(987654321)
        before = state()
        yield lambda: state() == before
    finally:
        np.random.set_state(saved[0])  # noqa: NPY002
        random.setstate(saved[1])


# -- checks ------------------------------------------------------------------------------------------------------------


def check_parameters(agent: Agent, problem: Problem, atol: float) -> None:
    """``__init__`` stores its parameters as given and nothing else; get_params, set_params, clone and repr work."""
    name, params = _name(agent), agent.get_params(deep=False)
    fresh = type(agent)(**params)
    for key, value in params.items():
        require(
            getattr(fresh, key) is value,
            f"{name}.__init__ must store {key} as given, under that name; convert and check it in fit.",
        )
    extra = set(vars(fresh)) - set(params)
    require(not extra, f"{name}.__init__ sets {sorted(extra)}, which are not parameters; compute them in fit.")
    clone = agent.clone()
    nested = agent._nested()
    plain = {key: value for key, value in agent.get_params().items() if unfitted(value) is value}
    cloned = clone.get_params()
    require(
        type(clone) is type(agent)
        and cloned.keys() == agent.get_params().keys()
        and all(cloned[key] is value for key, value in plain.items()),
        f"{name}.clone must return a {name} with the same parameters.",
    )
    require(
        all(clone._nested()[key] is not value for key, value in nested.items()),
        f"{name}.clone must clone the agents among its parameters, {sorted(nested)}, not share them.",
    )
    require(not hasattr(clone, "policy_"), f"{name}.clone must return an unfitted agent.")
    require(clone.set_params(**params) is clone, f"{name}.set_params must return self.")
    _refuses(lambda: clone.set_params(no_such_parameter=1), ValueError, f"{name}.set_params with an unknown parameter")
    require(repr(agent).startswith(f"{name}("), f"repr must read like a call, {name}(...), not {agent!r}.")


def check_unfitted(agent: Agent, problem: Problem, atol: float) -> None:
    """Learned state asked for before `fit` is an AttributeError with a message."""
    clone = agent.clone()
    for attribute in ("policy_", "fit_report_"):
        _refuses(lambda a=attribute: getattr(clone, a), AttributeError, f"{_name(agent)}.{attribute} before fit")  # type: ignore[misc]


def check_fit(agent: Agent, problem: Problem, atol: float) -> None:
    """`fit` returns self and leaves ``policy_``, ``fit_report_`` and other names that end in an underscore."""
    name, clone = _name(agent), _seen(agent, problem)
    require(isinstance(clone.policy_, Policy), f"{name}.policy_ must be an ntp_envs.Policy, not {clone.policy_!r}.")
    require(isinstance(clone.fit_report_, FitReport), f"{name}.fit_report_ must be an agents.FitReport.")
    learned = set(vars(clone)) - set(agent.get_params())
    wrong = sorted(attribute for attribute in learned if not attribute.endswith("_"))
    require(not wrong, f"{name}.fit sets {wrong}; names of learned state must end in an underscore.")


def check_policy(agent: Agent, problem: Problem, atol: float) -> None:
    """The policy is a law of sequences over the right vocabulary: normalised, consistent, can be sampled."""
    demos, policy = problem.demonstrations, _seen(agent, problem).policy_
    where, shape = f"the policy {_name(agent)} learns on {problem.name}", demos.tokens.shape
    require(
        policy.vocab_size == demos.vocab_size,
        f"{where} has {policy.vocab_size} tokens, not {demos.vocab_size}; pass the data's vocab_size on.",
    )
    require(policy.horizon is None or policy.horizon >= demos.horizon, f"{where} ends before the data's horizon.")
    conditionals = np.stack([policy.next_log_probs(demos.prompts, demos.tokens[:, :h]) for h in range(shape[1])], 1)
    require(
        conditionals.shape == (*shape, demos.vocab_size),
        f"next_log_probs of {where} must have shape (B, A); over all prefixes it is {conditionals.shape}.",
    )
    error = np.abs(np.exp(conditionals).sum(axis=2) - 1.0).max()
    require(error < 1e-6, f"{where} is not normalised: next-token probabilities are off by up to {error:.3g}.")
    forced = policy.log_probs(demos.prompts, demos.tokens)
    picked = np.take_along_axis(conditionals, demos.tokens[:, :, None], axis=2)[:, :, 0]
    require(
        forced.shape == shape and np.allclose(np.exp(forced), np.exp(picked), rtol=0, atol=1e-6),
        f"log_probs of {where} disagrees with its next_log_probs; entry h must be log pi(a_h | x, a_<h).",
    )
    drawn = policy.sample(demos.prompts, demos.horizon, np.random.default_rng(0))
    require(
        drawn.shape == shape and drawn.dtype == np.int64 and 0 <= drawn.min() <= drawn.max() < demos.vocab_size,
        f"sample of {where} must return (B, H) int64 tokens of the vocabulary.",
    )
    again = policy.sample(demos.prompts, demos.horizon, np.random.default_rng(0))
    require(np.array_equal(drawn, again), f"sample of {where} must draw from the rng it is given, and only from it.")
    observations = np.concatenate([demos.prompts, demos.tokens], axis=1)
    observations[:, -1] = demos.vocab_size  # one token to go
    actions, _ = policy.predict(observations, deterministic=True)
    require(
        np.shape(actions) == shape[:1] and 0 <= np.min(actions) <= np.max(actions) < demos.vocab_size,
        f"predict of {where} must return (B,) actions of the vocabulary.",
    )


def check_purity(agent: Agent, problem: Problem, atol: float) -> None:
    """`fit` changes neither the demonstrations, nor the class, nor the hyper-parameters, nor global random state."""
    name, demos = _name(agent), problem.demonstrations
    clone = _fitted(
        agent, replace(problem, demonstrations=demos.subset(np.arange(len(demos) // 2)))
    )  # fills caches, which may change
    given, before = clone.get_params(deep=False), pickle.dumps(clone.get_params(deep=False))
    members = pickle.dumps(problem.policy_class)
    arrays = {key: value.copy() for key, value in vars(demos).items() if isinstance(value, np.ndarray)}
    with _global_random_state_watched() as untouched:
        clone.fit(demos, problem.policy_class, rng=np.random.default_rng(0))
        require(untouched(), f"{name}.fit uses global random state; draw from the rng it is given.")
    for key, value in arrays.items():
        require(np.array_equal(getattr(demos, key), value), f"{name}.fit changes demonstrations.{key}; copy it first.")
    require(
        all(getattr(clone, key) is value for key, value in given.items()) and pickle.dumps(given) == before,
        f"{name}.fit changes a hyper-parameter; keep what is computed in a name that ends in an underscore.",
    )
    require(pickle.dumps(problem.policy_class) == members, f"{name}.fit changes the policy class; copy its members.")


def check_refit(agent: Agent, problem: Problem, atol: float) -> None:
    """Fitting again, after other data and with the same seed, is the same as a fresh fit."""
    name, fresh = _name(agent), _seen(agent, problem)
    require(_same_law(fresh, _fitted(agent, problem), problem), f"{name}: two fits with the same seed must agree.")
    demos = problem.demonstrations
    used = _fitted(agent, replace(problem, demonstrations=demos.subset(np.zeros(len(demos), dtype=np.int64))))
    used.fit(demos, problem.policy_class, rng=np.random.default_rng(0))
    require(_same_law(fresh, used, problem), f"{name}: refitting must equal a fresh fit; start from nothing in _fit.")


def check_weights(agent: Agent, problem: Problem, atol: float) -> None:
    """A demonstration of weight k counts as k copies; one of weight 0 as none."""
    demos = problem.demonstrations
    copies = np.arange(len(demos)) % 3
    weighted = replace(demos, weights=copies.astype(np.float64))
    repeated = demos.subset(np.repeat(np.arange(len(demos)), copies))
    one, two = (
        np.exp(_law(_fitted(agent, replace(problem, demonstrations=data)), problem)) for data in (weighted, repeated)
    )
    gap = np.abs(one - two).max()
    require(
        gap <= atol,
        f"{_name(agent)} on {problem.name}: a weight of k must count as k copies of the demonstration (probabilities "
        f"differ by {gap:.3g}); use demonstrations.normalised_weights().",
    )


def check_files(agent: Agent, problem: Problem, atol: float) -> None:
    """`save`, `load` and pickle keep the agent, fitted or not; what is not such a file is refused.

    With a pickle in the file only where `save` says that it needs one. Classes of the agent's own, such as its policy,
    are listed in its ``trusts``.
    """
    name, fitted = _name(agent), _seen(agent, problem)
    own = (type(problem.policy_class), type(fitted.policy_))  # of the problem: whoever loads it knows them
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent"
        for kept, kind in ((agent.clone(), "an unfitted"), (fitted, "a fitted")):
            try:
                kept.save(path)
            except ValueError:
                allowed = True
                kept.save(path, allow_pickle=True)
            else:
                allowed = False
            loaded = type(agent).load(path, trusted=own, allow_pickle=allowed)
            for back, way in ((loaded, "save and load"), (pickle.loads(pickle.dumps(kept)), "pickle")):
                require(type(back) is type(agent), f"{way} must give back a {name}, not {type(back).__name__}.")
                require(
                    pickle.dumps(back.get_params()) == pickle.dumps(kept.get_params())
                    or repr(back.get_params()) == repr(kept.get_params()),
                    f"{way} must keep the hyper-parameters of {kind} {name}.",
                )
                if kept is fitted:
                    require(_same_law(back, fitted, problem), f"{way} must keep the policy of {kind} {name}.")
                else:
                    require(not hasattr(back, "policy_"), f"{way} must leave {kind} {name} unfitted.")
        others = (type(agent), *agent.trusts)
        _refuses(
            lambda: _Stranger.load(path, trusted=(*own, *others), allow_pickle=allowed),
            TypeError,
            f"loading a {name} as another class",
        )
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        _refuses(lambda: type(agent).load(path, trusted=own), ValueError, f"{name}.load of a damaged file")
        _refuses(lambda: type(agent).load(Path(folder) / "no"), FileNotFoundError, f"{name}.load of a missing file")


class _Stranger(Agent):
    """An agent that no file holds."""

    def _fit(self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator) -> Any:
        raise NotImplementedError


def check_refusals(agent: Agent, problem: Problem, atol: float) -> None:
    """Input that does not fit is refused with an error that says why."""
    name, demos, policy_class = _name(agent), problem.demonstrations, problem.policy_class

    def refuses(errors: Any, what: str, data: Any = demos, kind: Any = policy_class, rng: Any = None) -> None:
        _refuses(lambda: agent.clone().fit(data, kind, rng=rng), errors, f"{name}.fit with {what}")

    refuses(TypeError, "an integer for rng", rng=3)
    refuses(TypeError, "an array for demonstrations", data=demos.tokens)
    refuses(ValueError, "a larger vocabulary than the class has", data=replace(demos, vocab_size=demos.vocab_size + 1))
    if agent.supports:
        refuses(TypeError, "a class that is not in its supports", kind=_Unsupported(demos.vocab_size))
    if policy_class.horizon is not None:
        longer = np.concatenate([demos.tokens] * (policy_class.horizon // demos.horizon + 1), axis=1)
        refuses(
            ValueError,
            "data longer than the class's horizon",
            data=replace(demos, tokens=longer, expert_log_probs=None),
        )
    if agent.chunk_length(demos) != 0:
        inexact = replace(demos, exactness=Exactness(units=frozenset(), statistic="nothing"))
        refuses(ValueError, "a population that is not exact for it", data=inexact)


class _Unsupported(PolicyClass):
    """A policy class that no agent can know."""

    def policy(self, parameters: Any, /) -> Policy:
        raise NotImplementedError


def check_small_data(agent: Agent, problem: Problem, atol: float) -> None:
    """One demonstration, and demonstrations that are all the same, can be learned from."""
    demos = problem.demonstrations
    for rows in (np.array([0]), np.zeros(10, dtype=np.int64)):
        small = replace(problem, demonstrations=demos.subset(rows))
        probabilities = np.exp(_law(_fitted(agent, small), problem))
        require(
            np.isfinite(probabilities).all() and np.allclose(probabilities.sum(axis=2), 1.0, atol=1e-6),
            f"{_name(agent)} on {problem.name} with {len(rows)} equal demonstration(s) learns something that is not a "
            "probability; mind contexts without data.",
        )


CHECKS: dict[str, Callable[[Agent, Problem, float], None]] = {
    "parameters": check_parameters,
    "unfitted": check_unfitted,
    "fit": check_fit,
    "policy": check_policy,
    "purity": check_purity,
    "refit": check_refit,
    "weights": check_weights,
    "files": check_files,
    "refusals": check_refusals,
    "small data": check_small_data,
}
