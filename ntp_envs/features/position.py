"""Feature maps that see the position, the prompt, or the place within an episode."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import all_sequences
from ntp_envs._validation import check_int
from ntp_envs.features.base import MAX_STATES, ContextFeatureMap, FeatureStates, FloatArray

__all__ = ["EpisodeBits", "Position", "PromptFeatures"]


class Position(ContextFeatureMap):
    """The position of the next token as a one-hot vector of norm 1; ``wrap`` counts modulo ``length``.

    Args:
        vocab_size: A.
        length: number of positions; without ``wrap`` sequences are at most this long (``ValueError`` beyond).
        wrap: position modulo ``length``.

    >>> import numpy as np
    >>> Position(2, 3).context(np.zeros((1, 0), int), np.zeros((1, 1), int)).tolist()
    [[0.0, 1.0, 0.0]]
    """

    def __init__(self, vocab_size: int, length: int, wrap: bool = False) -> None:
        self.length, self.wrap = check_int("length", length, minimum=1), bool(wrap)
        self.horizon = None if self.wrap else self.length
        super().__init__(vocab_size, self.length)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        step = np.shape(tokens)[1]
        if step >= self.length and not self.wrap:
            raise ValueError(f"{self!r} has no feature for position {step}; raise length, or use wrap=True.")
        return np.tile(np.eye(self.length)[step % self.length], (len(tokens), 1))

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        n, horizon = np.shape(tokens)
        if horizon > self.length and not self.wrap:
            raise ValueError(f"{self!r} has no feature for position {self.length}; raise length, or use wrap=True.")
        return np.tile(np.eye(self.length)[np.arange(horizon) % self.length], (n, 1, 1))

    def states(self) -> FeatureStates | None:
        if self.length**2 > MAX_STATES:
            return None
        following = (np.arange(self.length) + 1) % self.length
        return FeatureStates(np.tile(following[:, None], (1, self.vocab_size)), np.eye(self.length))


class PromptFeatures(ContextFeatureMap):
    """The P prompt tokens as one-hot blocks (and a constant), whatever has been generated; norm exactly 1.

    Args:
        vocab_size: A.
        prompt_length: P >= 1.
        bias: prepend a constant feature.

    Raises:
        ValueError: on use, a prompt of another length.

    >>> import numpy as np
    >>> PromptFeatures(2, 1, bias=False).context(np.array([[1]]), np.zeros((1, 5), int)).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, vocab_size: int, prompt_length: int, bias: bool = True) -> None:
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=1)
        self.bias = bool(bias)
        super().__init__(vocab_size, int(self.bias) + vocab_size * self.prompt_length)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        prompts = np.asarray(prompts)
        if prompts.shape[1] != self.prompt_length:
            raise ValueError(f"the prompts have {prompts.shape[1]} tokens; {self!r} needs {self.prompt_length}.")
        one_hot = np.eye(self.vocab_size)[prompts].reshape(len(prompts), -1)
        return np.column_stack([np.ones((len(prompts), int(self.bias))), one_hot]) / math.sqrt(
            self.prompt_length + self.bias
        )

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return np.repeat(self.context(prompts, tokens)[:, None, :], np.shape(tokens)[1], axis=1)

    def states(self) -> FeatureStates | None:
        n = self.vocab_size**self.prompt_length
        if n > MAX_STATES:
            return None
        prompts = all_sequences(self.vocab_size, self.prompt_length)
        stay = np.tile(np.arange(n)[:, None], (1, self.vocab_size))
        return FeatureStates(stay, self.context(prompts, np.empty((n, 0), dtype=np.int64)), initial=np.arange(n))


class EpisodeBits(ContextFeatureMap):
    """Episodes of ``bits`` free bits and one answer: before the answer (1, +-1 bits) / sqrt(bits + 1), else zero.

    The bits enter as +1 for a one and -1 for a zero, so the norm is exactly 1 before an answer; it is 0 before a free
    bit, where every policy of a linear class is therefore uniform. Binary tokens; any prompt is ignored.

    Args:
        bits: free bits an episode, 1 to 14.

    >>> import numpy as np
    >>> (EpisodeBits(2).context(np.zeros((1, 0), int), np.array([[1, 0]])) * 3**0.5).round(9).tolist()
    [[1.0, 1.0, -1.0]]
    """

    def __init__(self, bits: int) -> None:
        self.bits = check_int("bits", bits, minimum=1, maximum=14)
        super().__init__(2, self.bits + 1)

    def _answer_features(self, seen: NDArray[np.integer]) -> FloatArray:
        """``(..., bits + 1)`` features from the ``(..., bits)`` bits of the episode."""
        ones = np.ones((*seen.shape[:-1], 1))
        return np.concatenate([ones, 2.0 * seen - 1.0], axis=-1) / math.sqrt(self.bits + 1)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        tokens = np.asarray(tokens)
        if tokens.shape[1] % (self.bits + 1) != self.bits:
            return np.zeros((len(tokens), self.n_context))
        return self._answer_features(tokens[:, -self.bits :])

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        tokens = np.asarray(tokens)
        out = np.zeros((*tokens.shape, self.n_context))
        for answer in range(self.bits, tokens.shape[1], self.bits + 1):
            out[:, answer] = self._answer_features(tokens[:, answer - self.bits : answer])
        return out

    def states(self) -> FeatureStates:
        """One state for each string of fewer than ``bits + 1`` bits, shorter strings first."""
        n_free = (1 << self.bits) - 1  # states before a free bit
        state = np.arange(2 * n_free + 1)
        transitions = np.where(state[:, None] < n_free, 2 * state[:, None] + 1 + np.arange(2), 0)
        features = np.zeros((len(state), self.n_context))
        features[n_free:] = self._answer_features(all_sequences(2, self.bits))
        return FeatureStates(transitions, features)
