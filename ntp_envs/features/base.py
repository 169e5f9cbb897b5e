"""What a feature map is: features of a prefix for every next token, one batch or whole sequences at a time."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import all_sequences, prefix_codes
from ntp_envs._validation import check_int
from ntp_envs.automata import markov_contexts

__all__ = ["ContextFeatureMap", "FeatureMap", "FeatureStates"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_STATES = 1 << 16
MAX_STATE_ENTRIES = 1 << 24
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class FeatureStates:
    """Features that depend on the prefix through the state of a finite automaton.

    Attributes:
        transitions: ``(S, A)`` next states.
        features: ``(S, c)`` context features of each state, or ``(S, A, d)`` joint ones.
        order: the states are the contexts of a Markov chain of this order (`ntp_envs.MarkovPolicy`'s numbering), or
            ``None``.
        initial: where ``order`` is ``None``: ``(A**P,)`` first states, one a prompt, or ``(1,)`` for all prompts.
    """

    transitions: IntArray
    features: FloatArray
    order: int | None = None
    initial: IntArray | None = None

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        """``(B,)`` states after ``(B, P)`` prompts."""
        vocab_size = self.transitions.shape[1]
        if self.order is not None:
            nothing = np.empty((len(prompts), 0), dtype=np.int64)
            return markov_contexts(prompts, nothing, vocab_size, self.order)[:, 0]
        starts = np.zeros(1, dtype=np.int64) if self.initial is None else self.initial
        return starts[prefix_codes(prompts, vocab_size) if len(starts) > 1 else np.zeros(len(prompts), dtype=np.int64)]

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` states before each token."""
        if self.order is not None:
            return markov_contexts(prompts, tokens, self.transitions.shape[1], self.order)[:, :-1]
        out = np.empty(np.shape(tokens), dtype=np.int64)
        state = self.initial_states(prompts)
        for h, column in enumerate(np.asarray(tokens).T):
            out[:, h] = state
            state = self.transitions[state, column]
        return out


class FeatureMap(ABC):
    """phi(x, a_1:h) in R^d for every possible next token: the model is softmax over a_h of <theta, phi>.

    Constructor parameters are stored under their own names; two maps are equal when they are of one type with equal
    parameters. Norms are at most 1.

    Attributes:
        vocab_size: A.
        dimension: d, the length of theta.
        window: the features see only this many of the last tokens (the prompt's tail included) and nothing else, so
            that equal contexts can be pooled; ``None`` if they may see the whole prefix or the position.
        horizon: the longest sequence they are defined for, or ``None``.
        spread: a bound on ``||phi(., a) - phi(., b)||``.
    """

    window: int | None = None
    horizon: int | None = None
    spread: float = 2.0

    def __init__(self, vocab_size: int, dimension: int) -> None:
        self.vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        self.dimension = check_int("dimension", dimension, minimum=1)

    @abstractmethod
    def joint(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, A, d)`` features of each next token after ``(B, P)`` prompts and ``(B, t)`` tokens; norms <= 1."""

    def signed(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """Binary tokens: u = phi(., 1) - phi(., 0), shape ``(B, d)``, so that P(1 | prefix) = sigmoid(<theta, u>)."""
        phi = self.joint(prompts, tokens)
        return phi[:, 1] - phi[:, 0]

    # -- whole sequences ---------------------------------------------------------------------------------------------

    def prefix_features(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """Features of one prefix a row, as `path` and `FeatureStates.features` hold them: ``(B, A, d)``."""
        return self.joint(prompts, tokens)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of the features of one prefix: ``(A, d)``, or ``(c,)`` for a `ContextFeatureMap`."""
        return (self.vocab_size, self.dimension)

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """Teacher-forced features before each token: ``(B, H, A, d)``; ``(B, H, c)`` for a `ContextFeatureMap`."""
        tokens = np.asarray(tokens)
        out = np.empty((*tokens.shape, *self.feature_shape))
        for h in range(tokens.shape[1]):
            out[:, h] = self.prefix_features(prompts, tokens[:, :h])
        return out

    def blocks(
        self, prompts: NDArray[np.integer], tokens: NDArray[np.integer], *, max_bytes: int = BLOCK_BYTES
    ) -> Iterator[tuple[slice, FloatArray]]:
        """`path` in blocks of sequences that take about ``max_bytes`` of memory each (at least one sequence).

        Yields:
            ``(rows, features)``: a slice of the sequences, and their features as `path` gives them.
        """
        sequence = max(tokens.shape[1] * math.prod(self.feature_shape) * 8, 1)
        size = max(max_bytes // sequence, 1)
        for start in range(0, len(tokens), size):
            rows = slice(start, min(start + size, len(tokens)))
            yield rows, self.path(prompts[rows], tokens[rows])

    # -- finite memory -----------------------------------------------------------------------------------------------

    def states(self) -> FeatureStates | None:
        """The features as a table over the states of an automaton; ``None`` if there are none, or too many (65536)."""
        return self._window_states

    @cached_property
    def _window_states(self) -> FeatureStates | None:
        if self.window is None:
            return None
        base, entries = self.vocab_size + 1, math.prod(self.feature_shape)
        n_states = base**self.window
        if n_states > MAX_STATES or n_states * entries > MAX_STATE_ENTRIES:
            return None
        table = np.zeros((n_states, *self.feature_shape))  # contexts with a gap are never reached: zero
        for length in range(self.window + 1):
            tails = all_sequences(self.vocab_size, length)
            nothing = np.empty((len(tails), 0), dtype=np.int64)
            codes = markov_contexts(nothing, tails, self.vocab_size, self.window)[:, -1]
            table[codes] = self.prefix_features(nothing, tails)
        transitions = (np.arange(n_states)[:, None] * base + np.arange(self.vocab_size)) % n_states
        return FeatureStates(transitions.astype(np.int64), table, order=self.window)

    def codes(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray | None:
        """``(B, H)`` integers such that equal ones mean equal features; ``None`` if no such numbering is known."""
        states = self.states()
        if states is not None:
            return states.path(prompts, tokens)
        if self.window is not None and self.window * math.log2(self.vocab_size + 1) < 62:
            return markov_contexts(prompts, tokens, self.vocab_size, self.window)[:, :-1]
        return None

    # -- identity ----------------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.parameters() == other.parameters()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={_show(value)}" for name, value in self.parameters().items())
        return f"{type(self).__name__}({inside})"


def _show(value: Any) -> str:
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


class ContextFeatureMap(FeatureMap):
    """Features of the prefix alone, u(prefix) in R^c with norm <= 1.

    For binary tokens d = c and phi(a) = (a - 1/2) u, so the log-odds of a one are <theta, u>. For A > 2 there is one
    weight vector a token: d = A c, phi(a) = e_a (x) u.
    """

    def __init__(self, vocab_size: int, n_context: int) -> None:
        self.n_context = check_int("n_context", n_context, minimum=1)
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        super().__init__(vocab_size, self.n_context if vocab_size == 2 else self.n_context * vocab_size)
        self.spread = 1.0 if self.vocab_size == 2 else math.sqrt(2.0)

    @abstractmethod
    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, c)`` features u of the prefix, norms <= 1."""

    def signed(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self.context(prompts, tokens) if self.vocab_size == 2 else super().signed(prompts, tokens)

    def joint(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        u = self.context(prompts, tokens)  # (B, c)
        if self.vocab_size == 2:
            return np.array([-0.5, 0.5])[None, :, None] * u[:, None, :]
        blocks = np.einsum("ab,nc->nabc", np.eye(self.vocab_size), u)  # (B, A, A, c)
        return blocks.reshape(len(u), self.vocab_size, self.dimension)

    def prefix_features(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """`context`: ``(B, c)``."""
        return self.context(prompts, tokens)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return (self.n_context,)
