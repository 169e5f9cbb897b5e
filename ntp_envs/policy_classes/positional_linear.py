"""Linear predictors over one-hot positions, with weights of their own for every output position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from ntp_envs._validation import as_array, check_int
from ntp_envs.policies import Cursor, SequentialPolicy
from ntp_envs.policy_classes.base import PolicyClass

__all__ = ["LinearStep", "PositionalLinearClass", "PositionalLinearPolicy"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LinearStep:
    """The linear predictor of one output position: ``logits = bias + sum_s weights[s, token at sources[s]]``.

    That is ``W one_hot(prefix) + b`` with the columns of W that are not zero.

    Attributes:
        sources: ``(m,)`` distinct positions in the prompt followed by the tokens (the first P are the prompt).
        weights: ``(m, A, A)``; entry ``[s, seen, next]``.
        bias: ``(A,)``.
    """

    sources: IntArray
    weights: FloatArray
    bias: FloatArray

    def logits(self, line: NDArray[np.integer]) -> FloatArray:
        """``(B, A)`` logits from ``(B, >= max(sources) + 1)`` tokens, the prompt first."""
        out = np.tile(self.bias, (len(line), 1))
        for source, table in zip(self.sources, self.weights):
            out += table[line[:, source]]
        return out

    def dense(self, n_positions: int) -> FloatArray:
        """``(n_positions, A, A)``: the weights of all positions, zero where not among the sources."""
        out = np.zeros((n_positions, *self.weights.shape[1:]))
        out[self.sources] = self.weights
        return out


class PositionalLinearPolicy(SequentialPolicy):
    """``softmax(b_h + sum over positions p < P + h of W_h[p, token at p])``: one linear predictor an output position.

    The "linear next-token predictor" of Malach (2023, arXiv:2309.06979, section 2): linear in the one-hot encoding of
    the prefix, with nothing non-linear but the choice of a token after every step. Decode it with `GreedyPolicy`.

    Args:
        vocab_size: A.
        steps: H predictors; that of step h may look at positions 0 to P + h - 1.
        prompt_length: P.

    Raises:
        ValueError: no steps, wrong shapes, weights that are not finite, or a source that is not yet written.

    >>> copy = LinearStep(np.array([0]), 9.0 * np.eye(2)[None], np.zeros(2))
    >>> PositionalLinearPolicy(2, [copy], prompt_length=1).forced_logits(np.array([[1]]), np.array([[1]])).tolist()
    [[[0.0, 9.0]]]
    """

    def __init__(self, vocab_size: int, steps: Sequence[LinearStep], *, prompt_length: int) -> None:
        if not steps:
            raise ValueError("steps is empty; one LinearStep an output position is needed.")
        prompt_length = check_int("prompt_length", prompt_length, minimum=0)
        super().__init__(vocab_size, horizon=len(steps), prompt_length=prompt_length)
        self.steps = tuple(_checked(step, h, self.vocab_size, prompt_length + h) for h, step in enumerate(steps))

    def __repr__(self) -> str:
        stored = sum(len(step.sources) for step in self.steps)
        return f"PositionalLinearPolicy(vocab_size={self.vocab_size}, {len(self.steps)} steps, {stored} sources)"

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        line = np.zeros((len(prompts), np.shape(prompts)[1] + len(self.steps)), dtype=np.int64)
        line[:, : np.shape(prompts)[1]] = prompts
        return _LinearCursor(self, line, 0)

    def next_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        self._check_length(np.shape(tokens)[1] + 1)
        logits = self.steps[np.shape(tokens)[1]].logits(np.concatenate([prompts, tokens], axis=1))
        return log_softmax(logits, axis=1)

    def forced_logits(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, H, A)`` logits of each next token after the true prefix: the linear functions themselves."""
        self._check_length(np.shape(tokens)[1])
        line = np.concatenate([prompts, tokens], axis=1)
        out = np.empty((*np.shape(tokens), self.vocab_size))
        for h in range(np.shape(tokens)[1]):
            out[:, h] = self.steps[h].logits(line)
        return out

    def forced_log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return log_softmax(self.forced_logits(prompts, tokens), axis=2)

    def log_probs(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        self._check_length(np.shape(tokens)[1])
        line = np.concatenate([prompts, tokens], axis=1).astype(np.int64)
        rows, first = np.arange(len(line)), np.shape(prompts)[1]
        out = np.empty(np.shape(tokens))
        for h in range(np.shape(tokens)[1]):
            out[:, h] = log_softmax(self.steps[h].logits(line), axis=1)[rows, line[:, first + h]]
        return out


def _checked(step: LinearStep, h: int, vocab_size: int, n_positions: int) -> LinearStep:
    sources = np.asarray(step.sources)
    weights, bias = as_array("weights", step.weights, np.float64), as_array("bias", step.bias, np.float64)
    if sources.ndim != 1 or (sources.size and not np.issubdtype(sources.dtype, np.integer)):
        raise ValueError(f"steps[{h}].sources must be a vector of integer positions, not {sources!r}.")
    sources = sources.astype(np.int64)
    if sources.size and (sources.min() < 0 or sources.max() >= n_positions):
        raise ValueError(
            f"steps[{h}] looks at position {int(sources.max())}; only [0, {n_positions - 1}] is written then."
        )
    if len(np.unique(sources)) < len(sources):
        raise ValueError(f"steps[{h}].sources names a position twice; add the weights.")
    if weights.shape != (len(sources), vocab_size, vocab_size) or bias.shape != (vocab_size,):
        raise ValueError(
            f"steps[{h}] has weights of shape {weights.shape} and a bias of shape {bias.shape}; "
            f"{(len(sources), vocab_size, vocab_size)} and {(vocab_size,)} are needed."
        )
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise ValueError(f"steps[{h}] has weights that are not finite.")
    return LinearStep(sources, weights, bias)


class _LinearCursor(Cursor):
    def __init__(self, policy: PositionalLinearPolicy, line: IntArray, step: int) -> None:
        self.policy, self.line, self.step = policy, line, step
        self.first = line.shape[1] - len(policy.steps)

    def log_probs(self) -> FloatArray:
        return log_softmax(self.policy.steps[self.step].logits(self.line), axis=1)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        return _LinearCursor(self.policy, self.line[rows], self.step).advance(tokens)

    def advance(self, tokens: IntArray) -> Cursor:
        self.line[:, self.first + self.step] = tokens
        self.step += 1
        return self


class PositionalLinearClass(PolicyClass):
    """All `PositionalLinearPolicy` for prompts of P tokens and H outputs: weights without a bound.

    Its closure holds every greedy chain of linear threshold decisions. As sequences get long the parameters,
    ``sum_h (A**2 (P + h) + A)``, are too many for Newton's method: fit it by stochastic gradient descent, or write
    sparse weights down. At a few positions the same predictors with a norm bound are
    ``ARLinearClass(ByPosition(WindowOneHot(A, P + H - 1), H), radius)``.

    Args:
        vocab_size: A.
        prompt_length: P.
        horizon: H.

    >>> PositionalLinearClass(2, 1, 2).dimension
    16
    """

    def __init__(self, vocab_size: int, prompt_length: int, horizon: int) -> None:
        super().__init__(vocab_size, horizon=check_int("horizon", horizon, minimum=1))
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=0)

    @property
    def dimension(self) -> int:
        """Number of parameters, biases included."""
        horizon = self.horizon or 0
        positions = horizon * self.prompt_length + horizon * (horizon - 1) // 2
        return self.vocab_size * (self.vocab_size * positions + horizon)

    def policy(self, steps: Sequence[LinearStep | tuple[ArrayLike, ArrayLike]]) -> PositionalLinearPolicy:
        """The member with these H steps: a `LinearStep` each, or dense ``((P + h, A, A) weights, (A,) bias)``."""
        if len(steps) != self.horizon:
            raise ValueError(f"there are {len(steps)} steps; the class has a horizon of {self.horizon}.")
        listed = [step if isinstance(step, LinearStep) else self._dense(h, *step) for h, step in enumerate(steps)]
        return PositionalLinearPolicy(self.vocab_size, listed, prompt_length=self.prompt_length)

    def _dense(self, h: int, weights: ArrayLike, bias: ArrayLike) -> LinearStep:
        return LinearStep(np.arange(self.prompt_length + h), np.asarray(weights), np.asarray(bias))
