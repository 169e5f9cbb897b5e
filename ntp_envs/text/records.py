"""Documents that end: what a policy writes after the end token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_int
from ntp_envs.policies import Cursor, Policy, SequentialPolicy

__all__ = ["EndedPolicy"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class EndedPolicy(SequentialPolicy):
    """A policy up to its first end token; after that, end tokens for ever, with probability one.

    So documents of different lengths have a law over sequences of one length: a document of fewer than H tokens is
    filled up. An end token in the prompt counts too.

    Args:
        policy: what writes until then.
        end: the end token.

    >>> from ntp_envs import UniformPolicy
    >>> policy = EndedPolicy(UniformPolicy(2), end=1)
    >>> np.exp(policy.log_probs(np.empty((1, 0), int), np.array([[0, 1, 1]]))).tolist()
    [[0.5, 0.5, 1.0]]
    """

    def __init__(self, policy: Policy, end: int) -> None:
        super().__init__(policy.vocab_size, horizon=policy.horizon, prompt_length=policy.prompt_length)
        self.policy = policy
        self.end = check_int("end", end, minimum=0, maximum=policy.vocab_size - 1)
        self._law = np.full(policy.vocab_size, -np.inf)
        self._law[self.end] = 0.0

    def __repr__(self) -> str:
        return f"EndedPolicy({self.policy!r}, end={self.end})"

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        ended = (np.asarray(prompts) == self.end).any(axis=1)
        return _EndedCursor(self, self.policy.cursor(prompts), ended, 0)

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        tokens = np.asarray(tokens)
        out = self.policy.log_probs(prompts, tokens)
        before = np.column_stack([(np.asarray(prompts) == self.end).any(axis=1), tokens[:, :-1] == self.end])
        return np.where(np.logical_or.accumulate(before, axis=1), self._law[tokens], out)


class _EndedCursor(Cursor):
    """What the policy has read, and ``(B,)`` whether each document has ended."""

    def __init__(self, owner: EndedPolicy, inner: Cursor, ended: NDArray[np.bool_], step: int) -> None:
        self.owner, self.inner, self.ended, self.step = owner, inner, ended, step

    def log_probs(self) -> FloatArray:
        return np.where(self.ended[:, None], self.owner._law, self.inner.log_probs())

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        ended = self.ended[rows] | (np.asarray(tokens) == self.owner.end)
        return _EndedCursor(self.owner, self.inner.branch(rows, tokens), ended, self.step + 1)

    def advance(self, tokens: IntArray) -> Cursor:
        ended = self.ended | (np.asarray(tokens) == self.owner.end)
        return _EndedCursor(self.owner, self.inner.advance(tokens), ended, self.step + 1)
