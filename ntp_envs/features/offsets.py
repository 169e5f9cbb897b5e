"""A feature map that sees a few tokens at fixed distances before the next one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_int, plain
from ntp_envs.features.base import IntArray
from ntp_envs.features.indicators import IndexArray, IndicatorFeatureMap
from ntp_envs.features.window import _last_tokens

__all__ = ["OffsetsOneHot"]


class OffsetsOneHot(IndicatorFeatureMap):
    """The tokens at chosen offsets before the next one, each as a one-hot block; optionally a constant before them.

    Offset -1 is the last token, -2 the one before it, as in Python's indexing; the prompt counts, and places before
    its beginning are zero. All is divided by ``sqrt(len(offsets) + bias)``, so the norm is 1 once all places exist.
    What a linear predictor needs to run a Turing machine (`ntp_envs.tasks.TuringMachine`), where all but three of
    the tokens of a wide window are beside the point.

    Args:
        vocab_size: A.
        offsets: distinct negative integers, in the order of the blocks; at least one without a bias.
        bias: prepend a constant feature.

    Raises:
        ValueError: an offset that is not negative or occurs twice, or no feature at all.

    >>> import numpy as np
    >>> OffsetsOneHot(2, (-2,), bias=False).context(np.zeros((1, 0), int), np.array([[0, 1, 1]])).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, vocab_size: int, offsets: Sequence[int], bias: bool = True) -> None:
        vocab_size = check_int("vocab_size", vocab_size, minimum=2)
        if isinstance(offsets, (str, bytes)) or not hasattr(offsets, "__iter__"):
            raise TypeError(f"offsets={offsets!r} must be a sequence of negative integers such as (-3, -1).")
        lags = [check_int("-offset", -plain(offset), minimum=1) for offset in offsets]
        if len(set(lags)) < len(lags):
            raise ValueError(f"offsets={tuple(offsets)} must be distinct.")
        self.offsets, self.bias = tuple(-lag for lag in lags), bool(bias)
        if not lags and not self.bias:
            raise ValueError("offsets is empty and bias=False: there is no feature; give an offset or bias=True.")
        self._reach = self.window = max(lags, default=0)
        super().__init__(vocab_size, int(self.bias) + vocab_size * len(lags), int(self.bias) + len(lags))

    def _seen(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer], count: int) -> IntArray:
        """``(B, count, len(offsets))`` digits before the last ``count`` of the places up to the one after ``tokens``.

        The digit of a place before the beginning is A.
        """
        line = _last_tokens(prompts, tokens, self.vocab_size, self._reach)
        first = line.shape[1] + 1 - count
        columns = [line[:, first + offset : first + offset + count] for offset in self.offsets]
        return np.stack(columns, axis=2) if columns else np.empty((len(line), count, 0), dtype=np.int64)

    def _places(self, seen: IntArray) -> IndexArray:
        out = np.zeros((*seen.shape[:2], self.n_active), dtype=np.int32)  # the constant's place is 0
        starts = int(self.bias) + self.vocab_size * np.arange(len(self.offsets))
        out[:, :, int(self.bias) :] = np.where(seen == self.vocab_size, self.n_context, seen + starts)
        return out

    def active(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        return self._places(self._seen(prompts, tokens, 1))[:, 0]

    def active_path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        return self._places(self._seen(prompts, tokens, np.shape(tokens)[1] + 1)[:, :-1])

    def codes(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IntArray | None:
        """The digits seen, as one number; ``None`` where it would not fit 62 bits."""
        base = self.vocab_size + 1
        if len(self.offsets) * math.log2(base) >= 62:
            return None
        seen = self._seen(prompts, tokens, np.shape(tokens)[1] + 1)[:, :-1]
        return seen @ base ** np.arange(len(self.offsets), dtype=np.int64)
