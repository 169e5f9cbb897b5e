"""Policies of others, checked as they are read: a wrong number is never returned.

`checked_policy` is the front door of everything that reads a policy it did not make. The suite's own policies are
normalised by construction and pass unchanged; around any other goes a policy that looks at every law on its way in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.automata import AutomatonPolicy
from ntp_envs.checks import as_array, check_kind
from ntp_envs.policies import CallablePolicy, Cursor, Policy

#: how far a sum of probabilities may be from 1
ATOL = 1e-6
#: ``log_probs`` of a policy that writes it itself may differ so much from its own ``next_log_probs`` (float32 does)
AGREE = 1e-4
#: sequences on which the two are compared
COMPARED = 16
OURS = ("ntp_envs", "agents")


class Shape(Protocol):
    """What a policy must fit: a task, or demonstrations."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def horizon(self) -> int: ...
    @property
    def prompt_length(self) -> int: ...


def check_policy(name: str, policy: object, task: Shape) -> Policy:
    """A policy against a task, and the policy to read: itself, or checked at every step.

    Raises:
        TypeError: something else than a policy.
        ValueError: another vocabulary, a shorter horizon, another prompt length.
    """
    found: Policy = check_kind(name, policy, Policy, "; wrap a function in CallablePolicy")
    whole, whose = (
        ("the task", "the task's") if hasattr(task, "name") else ("the demonstrations", "the demonstrations'")
    )
    if found.vocab_size != task.vocab_size:
        raise ValueError(f"{name} has vocab_size={found.vocab_size} and {whole} {task.vocab_size}; they must be equal.")
    if found.horizon is not None and found.horizon < task.horizon:
        raise ValueError(
            f"{name} is defined for at most {found.horizon} tokens; {whose} horizon is {task.horizon}. "
            "Use a policy for that horizon, or a shorter one here."
        )
    if found.prompt_length not in (None, task.prompt_length):
        raise ValueError(
            f"{name} has prompt_length={found.prompt_length} and {whole} {task.prompt_length}; they must be equal."
        )
    return checked_policy(name, found)


def checked_policy(name: str, policy: Policy) -> Policy:
    """The policy to read instead of this one; raises ``ValueError`` where a law is not one.

    Where it does: a row of `Policy.next_log_probs` or of a cursor that is not of A log-probabilities which sum to one
    within 1e-6 (``nan`` included), after a prefix that the policy can produce; samples that are not tokens. A policy
    that writes ``log_probs`` itself is held to its ``next_log_probs`` on its first 16 sequences.

    >>> from ntp_envs import UniformPolicy
    >>> checked_policy("q", UniformPolicy(2))
    UniformPolicy(vocab_size=2)
    """
    if isinstance(policy, (_Checked, _CheckedAutomaton)):
        return policy
    if type(policy).__module__.partition(".")[0] not in OURS or isinstance(policy, CallablePolicy):
        return _CheckedAutomaton(name, policy) if isinstance(policy, AutomatonPolicy) else _Checked(name, policy)
    inside = {key: _checked_parts(f"{name}.{key}", value) for key, value in vars(policy).items()}
    changed = {key: value for key, value in inside.items() if value is not vars(policy)[key]}
    if changed:
        policy = copy.copy(policy)
        vars(policy).update(changed)
    return policy


def _checked_parts(name: str, value: Any) -> Any:
    """An attribute of a policy of ours with the policies in it checked; itself if nothing changes."""
    if isinstance(value, Policy):
        return checked_policy(name, value)
    if not isinstance(value, (list, tuple)) or not any(isinstance(item, Policy) for item in value):
        return value
    items = [_checked_parts(f"{name}[{index}]", item) for index, item in enumerate(value)]
    return type(value)(items) if any(new is not old for new, old in zip(items, value)) else value


def own_cursor(policy: Policy) -> bool:
    """Whether the policy reads on from where it is, or else every prefix anew."""
    inner = policy.of if isinstance(policy, _Checked) else policy
    return type(inner).cursor is not Policy.cursor


def _law(name: str, found: ArrayLike, shape: tuple[int, ...], step: int, possible: NDArray[np.bool_]) -> FloatArray:
    """``found`` if it is the law of the next token wherever the prefix is ``possible``."""
    law: FloatArray = as_array(f"what {name} returned", found, np.float64)
    if law.shape != shape:
        raise ValueError(
            f"{name} returned shape {law.shape} for the law of the next token after {step} tokens; {shape} is needed, "
            "a row a sequence and a column a token of the vocabulary."
        )
    with np.errstate(over="ignore"):
        sums = np.exp(law).sum(axis=-1)
    wrong = possible & ~(np.abs(sums - 1.0) <= ATOL)
    if wrong.any():
        row = int(np.argmax(wrong))
        where = f"after {step} tokens (row {row} of {len(law)})"
        if np.isnan(sums[row]):
            raise ValueError(f"{name} returned NaN for the law of the next token {where}.")
        raise ValueError(
            f"{name} is not normalised: {where} the probabilities of the next token sum to {sums[row]:.6g}, not 1. "
            "It must return log-probabilities: apply log_softmax to logits, scipy.special.log_softmax(logits, axis=-1)."
        )
    return law


class _Checked(Policy):
    """A policy of somebody else: what it returns is looked at before it is used."""

    def __init__(self, name: str, of: Policy) -> None:
        super().__init__(of.vocab_size, horizon=of.horizon, prompt_length=of.prompt_length)
        self.name, self.of, self.at_once = f"{name} ({type(of).__name__})", of, of.at_once
        self._compared = False

    def __repr__(self) -> str:
        return repr(self.of)

    def _writes(self, method: str) -> bool:
        return getattr(type(self.of), method) is not getattr(Policy, method)

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        rows, step = np.shape(tokens)
        found = self.of.next_log_probs(prompts, tokens)
        return _law(self.name, found, (rows, self.vocab_size), step, np.ones(rows, dtype=bool))

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        return _CheckedCursor(self.name, self.vocab_size, self.of.cursor(prompts), np.ones(len(prompts), dtype=bool), 0)

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        if not self._writes("log_probs"):
            return super().log_probs(prompts, tokens)
        found: FloatArray = as_array(f"log_probs of {self.name}", self.of.log_probs(prompts, tokens), np.float64)
        if found.shape != np.shape(tokens):
            raise ValueError(f"log_probs of {self.name} have shape {found.shape}; {np.shape(tokens)} is needed.")
        if not ((found <= ATOL) | ~_possible(found)).all():
            raise ValueError(f"log_probs of {self.name} must be log-probabilities: at most 0, and not NaN.")
        if not self._compared:
            rows = np.linspace(0, len(found) - 1, min(COMPARED, len(found))).astype(int)
            one, two = found[rows], super().log_probs(np.asarray(prompts)[rows], np.asarray(tokens)[rows])
            same = np.isclose(one, two, rtol=AGREE, atol=AGREE) | (one == two) | ~_possible(two)
            if not same.all():
                at = tuple(np.argwhere(~same)[0])
                raise ValueError(
                    f"log_probs of {self.name} disagree with its next_log_probs: {one[at]:.6g} and {two[at]:.6g} for "
                    f"token {at[1]} of sequence {rows[at[0]]}; entry h must be log pi(a_h | x, a_<h)."
                )
            self._compared = True
        return found

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        if not self._writes("forced_log_probs"):
            return super().forced_log_probs(prompts, tokens)
        found = np.asarray(self.of.forced_log_probs(prompts, tokens))
        shape = (*np.shape(tokens), self.vocab_size)
        if found.shape != shape:
            raise ValueError(f"forced_log_probs of {self.name} have shape {found.shape}; {shape} is needed.")
        picked = np.take_along_axis(found, np.asarray(tokens)[:, :, None], axis=2)[:, :, 0]
        for step, possible in enumerate(_possible(picked).T):
            _law(self.name, found[:, step], (shape[0], shape[2]), step, possible)
        return found

    def sample(self, prompts: NDArray[np.integer], horizon: int, rng: np.random.Generator) -> IntArray:
        if not self._writes("sample"):
            return super().sample(prompts, horizon, rng)
        drawn = np.asarray(self.of.sample(prompts, horizon, rng))
        shape = (len(prompts), horizon)
        if drawn.shape != shape or not np.issubdtype(drawn.dtype, np.integer):
            raise ValueError(f"{self.name} sampled shape {drawn.shape} of {drawn.dtype}; {shape} integers are needed.")
        if drawn.size and not 0 <= drawn.min() <= drawn.max() < self.vocab_size:
            raise ValueError(f"{self.name} sampled a token outside its vocabulary [0, {self.vocab_size - 1}].")
        return drawn.astype(np.int64, copy=False)


def _possible(log_probs: FloatArray) -> NDArray[np.bool_]:
    """``(B, H)`` whether the prefix before each token is one that the policy can produce."""
    before = np.zeros(log_probs.shape, dtype=bool)
    before[:, 1:] = np.logical_or.accumulate(np.isneginf(log_probs), axis=1)[:, :-1]
    return ~before


class _CheckedCursor(Cursor):
    def __init__(self, name: str, vocab_size: int, reader: Cursor, possible: NDArray[np.bool_], step: int) -> None:
        self.name, self.vocab_size, self.reader, self.possible, self.step = name, vocab_size, reader, possible, step
        self._found: FloatArray | None = None

    def log_probs(self) -> FloatArray:
        if self._found is None:
            shape = (len(self.possible), self.vocab_size)
            self._found = _law(self.name, self.reader.log_probs(), shape, self.step, self.possible)
        return self._found

    def _next(self, rows: IntArray | slice, tokens: IntArray, reader: Callable[[], Cursor]) -> Cursor:
        law = self.log_probs()[rows]  # before the reader moves on: it may be spent then
        possible = self.possible[rows] & ~np.isneginf(law[np.arange(len(tokens)), tokens])
        return _CheckedCursor(self.name, self.vocab_size, reader(), possible, self.step + 1)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return self._next(rows, tokens, lambda: self.reader.branch(rows, tokens))

    def advance(self, tokens: IntArray) -> Cursor:
        return self._next(slice(None), tokens, lambda: self.reader.advance(tokens))


class _CheckedAutomaton(AutomatonPolicy):
    """An automaton of somebody else: its law is what its tables say, and they are looked at before they are used."""

    def __init__(self, name: str, of: AutomatonPolicy) -> None:
        super().__init__(of.vocab_size, horizon=of.horizon, prompt_length=of.prompt_length)
        self.name, self.of, self.n_states = f"{name} ({type(of).__name__})", of, of.n_states

    def __repr__(self) -> str:
        return repr(self.of)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        return self._states("initial_states", self.of.initial_states(prompts), (len(prompts),))

    def emissions(self, step: int) -> FloatArray:
        shape = (self.n_states, self.vocab_size)
        return _law(self.name, self.of.emissions(step), shape, step, np.ones(shape[0], dtype=bool))

    def transitions(self, step: int) -> IntArray:
        return self._states("transitions", self.of.transitions(step), (self.n_states, self.vocab_size))

    def _states(self, what: str, found: ArrayLike, shape: tuple[int, ...]) -> IntArray:
        states = np.asarray(found)
        if states.shape != shape or not np.issubdtype(states.dtype, np.integer):
            raise ValueError(f"{what} of {self.name} have shape {states.shape}; {shape} integers are needed.")
        if states.size and not 0 <= states.min() <= states.max() < self.n_states:
            raise ValueError(f"{what} of {self.name} name a state outside [0, {self.n_states - 1}].")
        return states
