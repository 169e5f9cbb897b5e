"""Separate weights for every output position: a context feature map, one block a position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_int
from ntp_envs.features.base import ContextFeatureMap, FloatArray, IntArray

__all__ = ["ByPosition"]


class ByPosition(ContextFeatureMap):
    """The features of another map in the block of the next token's position, zeros elsewhere; the norm is kept.

    A linear model on it has weights of its own for each of ``length`` output positions.

    Args:
        of: a context feature map.
        length: number of positions; longer sequences are refused (``ValueError``).

    >>> import numpy as np
    >>> from ntp_envs.features import FlipSign
    >>> ByPosition(FlipSign(), 3).context(np.zeros((1, 0), int), np.array([[0, 1]])).tolist()
    [[0.0, 0.0, -1.0]]
    """

    def __init__(self, of: ContextFeatureMap, length: int) -> None:
        if not isinstance(of, ContextFeatureMap):
            raise TypeError(f"of must be a ContextFeatureMap, not {type(of).__name__}.")
        self.of = of
        self.length = self.horizon = check_int("length", length, minimum=1, maximum=of.horizon)
        prompt_length = getattr(of, "prompt_length", None)
        if prompt_length is not None:
            self.prompt_length = prompt_length
        super().__init__(of.vocab_size, of.n_context * self.length)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        step = self._checked(np.shape(tokens)[1] + 1) - 1
        out = np.zeros((len(tokens), self.length, self.of.n_context))
        out[:, step] = self.of.context(prompts, tokens)
        return out.reshape(len(tokens), self.n_context)

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        n, horizon = np.shape(tokens)
        steps = np.arange(self._checked(horizon))
        out = np.zeros((n, horizon, self.length, self.of.n_context))
        out[:, steps, steps] = self.of.path(prompts, tokens)
        return out.reshape(n, horizon, self.n_context)

    def codes(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray | None:
        inner = self.of.codes(prompts, tokens)
        return None if inner is None else inner * self.length + np.arange(self._checked(np.shape(tokens)[1]))

    def _checked(self, positions: int) -> int:
        if positions > self.length:
            raise ValueError(f"{self!r} has no block for position {positions - 1}; raise length={self.length}.")
        return positions
