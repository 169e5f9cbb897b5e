"""Feature maps that see a few of the last tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import all_sequences
from ntp_envs._validation import check_int
from ntp_envs.features.base import ContextFeatureMap, FloatArray
from ntp_envs.features.indicators import IndexArray, IndicatorFeatureMap

__all__ = ["FlipSign", "WindowOneHot"]


def _last_tokens(prompts: NDArray[np.integer], tokens: NDArray[np.integer], vocab_size: int, width: int) -> NDArray:
    """``(B, width + P + t)`` tokens after ``width`` places of padding, which is the digit A."""
    padding = np.full((len(tokens), width), vocab_size, dtype=np.int64)
    return np.concatenate([padding, prompts, tokens], axis=1)


class WindowOneHot(IndicatorFeatureMap):
    """The last ``width`` tokens, each as a one-hot block, the most recent first; optionally a constant before them.

    The prompt's tail counts; places before the beginning are zero. All is divided by ``sqrt(width + bias)``, so the
    norm is exactly 1 once ``width`` tokens have been seen and smaller before.

    Large windows over tens of tokens are made for: policies and maximum likelihood work on `active`, the places of the
    ``width + bias`` entries that are not zero.

    Args:
        vocab_size: A.
        width: number of tokens seen, >= 0 (at least 1 without a bias).
        bias: prepend a constant feature.

    >>> import numpy as np
    >>> WindowOneHot(2, 1).context(np.zeros((1, 0), int), np.array([[0, 1]])).round(3).tolist()
    [[0.707, 0.0, 0.707]]
    """

    def __init__(self, vocab_size: int, width: int, bias: bool = True) -> None:
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        self.width = self.window = check_int("width", width, minimum=0 if bias else 1)
        self.bias = bool(bias)
        super().__init__(vocab_size, int(self.bias) + vocab_size * self.width, self.width + self.bias)
        # several lags are looked up at once: one table row for each string of ``group`` digits, the most recent first
        self._group = max(g for g in range(1, 9) if g == 1 or (self.vocab_size + 1) ** g <= 256)
        digit = np.vstack([np.eye(self.vocab_size), np.zeros(self.vocab_size)]) * self.scale  # (A + 1, A)
        self._table = digit[all_sequences(self.vocab_size + 1, self._group)].reshape(-1, self._group * self.vocab_size)

    def _features(self, line: NDArray, first: int, count: int) -> FloatArray:
        out = np.empty((len(line), count, self.n_context))
        if self.bias:
            out[:, :, 0] = self.scale
        for lag in range(0, self.width, self._group):
            size = min(self._group, self.width - lag)
            code = np.zeros((len(line), count), dtype=np.int64)
            for k in range(lag, lag + size):
                code = code * (self.vocab_size + 1) + line[:, first - 1 - k : first - 1 - k + count]
            code *= (self.vocab_size + 1) ** (self._group - size)
            start = int(self.bias) + lag * self.vocab_size
            out[:, :, start : start + size * self.vocab_size] = self._table[code, : size * self.vocab_size]
        return out

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        line = _last_tokens(prompts, tokens, self.vocab_size, self.width)
        return self._features(line, line.shape[1], 1)[:, 0]

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        line = _last_tokens(prompts, tokens, self.vocab_size, self.width)
        return self._features(line, self.width + np.shape(prompts)[1], np.shape(tokens)[1])

    def _active(self, line: NDArray, first: int, count: int) -> IndexArray:
        out = np.zeros((len(line), count, self.n_active), dtype=np.int32)
        for lag in range(self.width):
            tokens = line[:, first - 1 - lag : first - 1 - lag + count]
            place = tokens + (int(self.bias) + lag * self.vocab_size)
            out[:, :, int(self.bias) + lag] = np.where(tokens == self.vocab_size, self.n_context, place)
        return out

    def active(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        line = _last_tokens(prompts, tokens, self.vocab_size, self.width)
        return self._active(line, line.shape[1], 1)[:, 0]

    def active_path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        line = _last_tokens(prompts, tokens, self.vocab_size, self.width)
        return self._active(line, self.width + np.shape(prompts)[1], np.shape(tokens)[1])


class FlipSign(ContextFeatureMap):
    """+1 after the token 0, -1 after the token 1, 0 if there is no token before (binary tokens, d = 1).

    With it ``theta`` is the log-odds of a flip: the class of `ntp_envs.tasks.Contamination` as an autoregressive
    linear class of dimension one, ``||theta|| <= logit(1 - theta_min)``. Norms are 0 or 1.

    >>> import numpy as np
    >>> FlipSign().context(np.array([[0], [1]]), np.zeros((2, 0), int)).tolist()
    [[1.0], [-1.0]]
    """

    window = 1

    def __init__(self) -> None:
        super().__init__(2, 1)

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        before = _last_tokens(prompts, tokens, 2, 1)[:, np.shape(prompts)[1] : -1]
        return np.array([1.0, -1.0, 0.0])[before][:, :, None]

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return np.array([1.0, -1.0, 0.0])[_last_tokens(prompts, tokens, 2, 1)[:, -1:]]
