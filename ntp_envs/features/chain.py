"""Feature maps for chains of thought about the bits of a prompt: what has been written so far, and the bits."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import prefix_codes
from ntp_envs._validation import check_int
from ntp_envs.features.base import ContextFeatureMap, FloatArray, IntArray

__all__ = ["ChainProducts", "PrefixSigns"]

MAX_MONOMIALS = 1 << 14


def _checked_prompts(prompts: NDArray[np.integer], features: ContextFeatureMap, length: int) -> NDArray[np.integer]:
    prompts = np.asarray(prompts)
    if prompts.shape[1] != length:
        raise ValueError(f"the prompts have {prompts.shape[1]} tokens; {features!r} needs {length}.")
    if prompts.size and (prompts.max() > 1 or prompts.min() < 0):
        raise ValueError(f"the prompts hold {prompts.max() if prompts.max() > 1 else prompts.min()}; bits are 0 or 1.")
    return prompts


def n_monomials(places: int, degree: int) -> int:
    """Products of up to ``degree`` different signs out of ``places``, the empty one included."""
    return sum(math.comb(places, order) for order in range(degree + 1))


class PrefixSigns(ContextFeatureMap):
    """A constant, the prompt's bits as signs, and every token so far at its own place: the whole prefix, linearly.

    A sign is +1 for a one and -1 for a zero; the prompt holds zeros and ones only. Tokens so far are signs as well if
    the vocabulary is {0, 1} and one-hot blocks otherwise; those not yet written are zero. With ``degree`` q (binary
    tokens) also all products of 2 to q different signs. Divided by the square root of the largest number of non-zero
    entries, so that norms are at most 1 (exactly 1 before the last token).

    Args:
        vocab_size: A.
        prompt_length: P >= 1.
        length: positions; longer sequences are refused (``ValueError``).
        degree: of the products; more than 16384 features are refused.

    >>> import numpy as np
    >>> PrefixSigns(2, 1, 3).context(np.array([[1]]), np.array([[0]])).round(3).tolist()
    [[0.5, 0.5, -0.5, 0.0]]
    """

    def __init__(self, vocab_size: int, prompt_length: int, length: int, degree: int = 1) -> None:
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=1)
        self.length = self.horizon = check_int("length", length, minimum=1)
        self.degree = check_int("degree", degree, minimum=1)
        if self.degree > 1 and vocab_size != 2:
            raise ValueError(f"degree={degree} is for binary tokens, not a vocabulary of {vocab_size}; use degree=1.")
        self._token_width = 1 if vocab_size == 2 else vocab_size
        places = self.prompt_length + self.length - 1
        size = n_monomials(places, self.degree)
        if size > MAX_MONOMIALS:
            raise ValueError(
                f"degree={degree} gives {size} products of {places} signs; at most {MAX_MONOMIALS} are kept. "
                "Lower degree, prompt_length or length."
            )
        self._monomials = [
            np.array(list(combinations(range(places), order)), dtype=np.int64) for order in range(2, self.degree + 1)
        ]
        self._scale = 1.0 / math.sqrt(size)
        n_linear = 1 + self.prompt_length + (self.length - 1) * self._token_width
        super().__init__(vocab_size, n_linear + sum(len(indices) for indices in self._monomials))

    def index(self, *places: int) -> int:
        """Where the product of the signs at these ascending places is; the constant for no place.

        Places 0..P-1 are the prompt's, P + j is the token written at 0-based position j (binary tokens).
        """
        if len(places) < 2:
            return 1 + places[0] if places else 0
        start = 1 + self.prompt_length + self.length - 1
        for indices in self._monomials:
            if indices.shape[1] == len(places):
                return start + int(np.flatnonzero((indices == np.array(places)).all(axis=1))[0])
            start += len(indices)
        raise ValueError(f"a product of {len(places)} signs is not among those of degree {self.degree}.")

    @property
    def scale(self) -> float:
        """What every entry is multiplied by."""
        return self._scale

    def _linear(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> tuple[FloatArray, FloatArray]:
        """Prompt ``(B, P)`` and written tokens ``(B, t, width)`` as signs or one-hot rows."""
        prompts = _checked_prompts(prompts, self, self.prompt_length)
        written = np.asarray(tokens)
        if written.shape[1] >= self.length:
            raise ValueError(f"{self!r} has no features for position {written.shape[1]}; raise length={self.length}.")
        coded = 2.0 * written[:, :, None] - 1.0 if self.vocab_size == 2 else np.eye(self.vocab_size)[written]
        return 2.0 * prompts.astype(np.float64) - 1.0, coded

    def _features(self, linear: FloatArray) -> FloatArray:
        """``(..., c)`` features from ``(..., places)`` signs and one-hot entries: products appended, scaled."""
        ones = np.ones((*linear.shape[:-1], 1))
        products = [linear[..., indices].prod(axis=-1) for indices in self._monomials]
        return np.concatenate([ones, linear, *products], axis=-1) * self._scale

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        bits, written = self._linear(prompts, tokens)
        n, seen = written.shape[:2]
        later = np.zeros((n, (self.length - 1 - seen) * self._token_width))
        return self._features(np.concatenate([bits, written.reshape(n, -1), later], axis=1))

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        n, horizon = np.shape(tokens)
        bits, written = self._linear(prompts, np.asarray(tokens)[:, : max(horizon - 1, 0)])
        places = np.zeros((n, horizon, self.length - 1, self._token_width))
        for h in range(1, horizon):
            places[:, h, :h] = written[:, :h]
        repeated = np.repeat(bits[:, None, :], horizon, axis=1)
        return self._features(np.concatenate([repeated, places.reshape(n, horizon, -1)], axis=2))


class ChainProducts(ContextFeatureMap):
    """A constant, the signs x_i of the prompt's bits, their products z x_i with the last token, and "it has ended".

    Tokens are 0 (sign +1), 1 (sign -1) and 2, the end; products of signs are thus exclusive ors of bits. z is the
    sign of the last token: before the first one, and after the end, the products are zero. After the end only the
    constant, the x_i and the last entry are there. All is divided by ``sqrt(2 P + 1)``; norms are at most 1.

    With them one step of a running product, z x_i, is linear, and so is "the last token is x_1", z x_1; a product of
    more than two bits is not.

    Args:
        prompt_length: P >= 1.

    >>> import numpy as np
    >>> (ChainProducts(1).context(np.array([[1]]), np.array([[1]])) * 3**0.5).round(9).tolist()
    [[1.0, -1.0, 1.0, 0.0]]
    """

    def __init__(self, prompt_length: int) -> None:
        self.prompt_length = check_int("prompt_length", prompt_length, minimum=1)
        super().__init__(3, 2 * self.prompt_length + 2)

    def _features(self, prompts: NDArray[np.integer], last: NDArray[np.integer]) -> FloatArray:
        """``(B, h, c)`` from ``(B, P)`` prompts and ``(B, h)`` last tokens, 3 where there is none."""
        signs = 1.0 - 2.0 * _checked_prompts(prompts, self, self.prompt_length)[:, None, :]
        z = np.array([1.0, -1.0, 0.0, 0.0])[last][:, :, None]
        signs = np.broadcast_to(signs, (*last.shape, self.prompt_length))
        parts = [np.ones((*last.shape, 1)), signs, z * signs, (last == 2)[:, :, None]]
        return np.concatenate(parts, axis=2) / math.sqrt(2 * self.prompt_length + 1)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        tokens = np.asarray(tokens)
        last = tokens[:, -1:] if tokens.shape[1] else np.full((len(tokens), 1), 3)
        return self._features(prompts, last)[:, 0]

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._features(prompts, self._last(tokens))

    def codes(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray | None:
        if self.prompt_length > 40:
            return None
        return prefix_codes(prompts, 2)[:, None] * 4 + self._last(tokens)

    @staticmethod
    def _last(tokens: NDArray[np.integer]) -> IntArray:
        """``(B, H)`` token before each one, 3 before the first."""
        tokens = np.asarray(tokens, dtype=np.int64)
        return np.concatenate([np.full((len(tokens), 1), 3), tokens[:, :-1]], axis=1)
