"""Policies that put all their mass on one token: greedy decoding of another policy, and one right answer a prompt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import first_best
from ntp_envs.policies import Cursor, Policy, SequentialPolicy

__all__ = ["GreedyPolicy", "TargetPolicy", "one_hot_log_probs"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def one_hot_log_probs(tokens: NDArray[np.integer], vocab_size: int) -> FloatArray:
    """``(..., A)`` log-probabilities of the laws that give each of the ``(...)`` tokens probability one.

    >>> one_hot_log_probs(np.array([1]), 2).tolist()
    [[-inf, 0.0]]
    """
    tokens = np.asarray(tokens)
    out = np.full((*tokens.shape, vocab_size), -np.inf)
    np.put_along_axis(out, tokens[..., None], 0.0, axis=-1)
    return out


class GreedyPolicy(SequentialPolicy):
    """Greedy decoding: always the most probable next token of ``policy``, ties to the smallest token.

    As a policy, so that everything that takes one (distances, evaluation, environments) can look at it. The arg max
    after every token is the non-linearity that lets a chain of linear predictors compute (Malach 2023,
    arXiv:2309.06979, section 2). Tokens within 1e-9 nats of the most probable one tie with it, so that equal ones are
    told apart by no processor.

    Args:
        policy: what is decoded.

    >>> from ntp_envs import BernoulliPolicy
    >>> GreedyPolicy(BernoulliPolicy(0.7)).sample(np.zeros((1, 0), int), 3, np.random.default_rng(0)).tolist()
    [[1, 1, 1]]
    """

    def __init__(self, policy: Policy) -> None:
        if not isinstance(policy, Policy):
            raise TypeError(f"policy must be an ntp_envs.Policy, not {type(policy).__name__}.")
        super().__init__(policy.vocab_size, horizon=policy.horizon, prompt_length=policy.prompt_length)
        self.policy = policy

    def __repr__(self) -> str:
        return f"GreedyPolicy({self.policy!r})"

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        return _GreedyCursor(self.policy.cursor(prompts))

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return _decoded(self.policy.next_log_probs(prompts, tokens))

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return _decoded(self.policy.forced_log_probs(prompts, tokens))


def _decoded(log_probs: FloatArray) -> FloatArray:
    if np.isnan(log_probs).any():
        raise ValueError("a policy returned NaN for the law of the next token, so that none is the most probable.")
    return one_hot_log_probs(first_best(log_probs), log_probs.shape[-1])


class _GreedyCursor(Cursor):
    def __init__(self, reader: Cursor) -> None:
        self.reader, self.step = reader, reader.step

    def log_probs(self) -> FloatArray:
        return _decoded(self.reader.log_probs())

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _GreedyCursor(self.reader.branch(rows, tokens))

    def advance(self, tokens: IntArray) -> Cursor:
        return _GreedyCursor(self.reader.advance(tokens))


class TargetPolicy(SequentialPolicy):
    """One right sequence a prompt: token h of it with probability one, whatever was written before.

    Args:
        targets: a function of ``(B, P)`` prompts that gives ``(B, H)`` tokens; module-level or a method, so that the
            policy can be pickled.
        vocab_size: A.
        horizon: H.
        prompt_length: P.

    >>> copy = TargetPolicy(lambda prompts: prompts, 2, horizon=3, prompt_length=3)
    >>> copy.sample(np.array([[0, 1, 1]]), 3, np.random.default_rng(0)).tolist()
    [[0, 1, 1]]
    """

    def __init__(
        self,
        targets: Callable[[NDArray[np.integer]], NDArray[np.integer]],
        vocab_size: int,
        *,
        horizon: int,
        prompt_length: int,
    ) -> None:
        super().__init__(vocab_size, horizon=horizon, prompt_length=prompt_length)
        if not callable(targets):
            raise TypeError(f"targets={targets!r} must be callable: (B, P) prompts -> (B, H) tokens.")
        self.targets = targets

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        return _TargetCursor(np.asarray(self.targets(np.asarray(prompts)), dtype=np.int64), 0, self.vocab_size)

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        step = np.shape(tokens)[1]
        self._check_length(step + 1)
        return one_hot_log_probs(np.asarray(self.targets(np.asarray(prompts)))[:, step], self.vocab_size)

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        tokens = np.asarray(tokens)
        self._check_length(tokens.shape[1])
        right = np.asarray(self.targets(np.asarray(prompts)))[:, : tokens.shape[1]] == tokens
        return np.where(right, 0.0, -np.inf)

    def sample(self, prompts: NDArray[np.integer], horizon: int, rng: np.random.Generator) -> IntArray:
        self._check_length(horizon)
        return np.array(self.targets(np.asarray(prompts)), dtype=np.int64)[:, :horizon]


class _TargetCursor(Cursor):
    def __init__(self, targets: IntArray, step: int, vocab_size: int) -> None:
        self.targets, self.step, self.vocab_size = targets, step, vocab_size

    def log_probs(self) -> FloatArray:
        return one_hot_log_probs(self.targets[:, self.step], self.vocab_size)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _TargetCursor(self.targets[rows], self.step + 1, self.vocab_size)
