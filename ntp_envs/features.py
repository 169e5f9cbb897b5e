"""Feature maps of prefixes, for autoregressive linear models."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_int

__all__ = ["ContextFeatureMap", "FeatureMap"]

FloatArray = NDArray[np.float64]


class FeatureMap(ABC):
    """phi(x, a_1:h) in R^d for every possible next token: the model is softmax over a_h of <theta, phi>.

    Attributes:
        vocab_size: A.
        dimension: d, the length of theta.
        window: the features see only this many of the last tokens (the prompt's tail included) and nothing else, so
            that equal contexts can be pooled; ``None`` if they may see the whole prefix or the position.
    """

    window: int | None = None

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


class ContextFeatureMap(FeatureMap):
    """Features of the prefix alone, u(prefix) in R^c with norm <= 1.

    For binary tokens d = c and phi(a) = (a - 1/2) u, so the log-odds of a one are <theta, u>. For A > 2 there is one
    weight vector a token: d = A c, phi(a) = e_a (x) u.
    """

    def __init__(self, vocab_size: int, n_context: int) -> None:
        self.n_context = check_int("n_context", n_context, minimum=1)
        super().__init__(vocab_size, self.n_context if vocab_size == 2 else self.n_context * vocab_size)

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
