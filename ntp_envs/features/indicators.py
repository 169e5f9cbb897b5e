"""Feature maps whose context features are a few equal entries among many zeros, kept as the places of those entries."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_int
from ntp_envs.features.base import ContextFeatureMap, FloatArray

__all__ = ["IndicatorFeatureMap", "IndicatorMatrices"]

IndexArray = NDArray[np.int32]

BLOCK_ENTRIES = 1 << 16  # logits handled at once: half a megabyte stays in cache


class IndicatorMatrices:
    """Prefixes, given by the places of their features, as sparse matrices of a few rows each.

    A matrix is ``(b, c + 1)``; its last column stands for "nothing", so that a product with weights needs a last row
    of zeros (`padded`). Only the places take memory, 4 bytes each.

    Args:
        active: ``(N, K)`` places in [0, c], c for "nothing".
        n_context: c.
        scale: the value of the entries.
        vocab_size: A; decides how many rows fit in cache with their logits.
    """

    def __init__(self, active: NDArray[np.integer], n_context: int, scale: float, vocab_size: int) -> None:
        self.active = np.ascontiguousarray(active, dtype=np.int32)
        self.n_context = n_context
        self.size = max(BLOCK_ENTRIES // vocab_size, 16)
        n_active = self.active.shape[1]
        most = min(self.size, len(self.active))
        self._values = np.full(most * n_active, scale)
        self._ends = np.arange(0, most * n_active + 1, max(n_active, 1), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.active)

    def __iter__(self) -> Iterator[tuple[slice, Any]]:
        from scipy.sparse import csr_array

        for start in range(0, len(self), self.size):
            places = self.active[start : start + self.size]
            parts = (self._values[: places.size], places.ravel(), self._ends[: len(places) + 1])
            yield (
                slice(start, start + len(places)),
                csr_array(parts, shape=(len(places), self.n_context + 1), copy=False),
            )

    @staticmethod
    def padded(weights: FloatArray) -> FloatArray:
        """``(c + 1, A)``: ``(c, A)`` weights and a row of zeros."""
        return np.vstack([weights, np.zeros((1, weights.shape[1]))])


class IndicatorFeatureMap(ContextFeatureMap):
    """Context features that are ``scale = 1 / sqrt(K)`` at K places at most, different ones, and zero elsewhere.

    With thousands of features and tens of tokens such a map is never written out: policies gather the K rows of
    weights that count, and maximum likelihood keeps places instead of features (`agents.indicator_rows`). A subclass
    gives `active` (and `active_path`, if whole sequences can be had faster than prefix by prefix).

    Args:
        vocab_size: A.
        n_context: c, the number of features.
        n_active: K.

    >>> import numpy as np
    >>> from ntp_envs.features import WindowOneHot
    >>> WindowOneHot(3, 2).active_path(np.zeros((1, 0), int), np.array([[2, 0, 1]])).tolist()  # 7: not seen yet
    [[[0, 7, 7], [0, 3, 7], [0, 1, 6]]]
    """

    def __init__(self, vocab_size: int, n_context: int, n_active: int) -> None:
        super().__init__(vocab_size, n_context)
        self.n_active = check_int("n_active", n_active, minimum=1)
        self.scale = 1.0 / math.sqrt(self.n_active)

    @abstractmethod
    def active(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        """``(B, K)`` int32 places of one prefix a row, after ``(B, P)`` prompts and ``(B, t)`` tokens; c: nothing."""

    def active_path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
        """Teacher-forced: ``(B, H, K)`` int32 places before each token."""
        tokens = np.asarray(tokens)
        out = np.empty((*tokens.shape, self.n_active), dtype=np.int32)
        for h in range(tokens.shape[1]):
            out[:, h] = self.active(prompts, tokens[:, :h])
        return out

    def matrices(self, active: NDArray[np.integer]) -> IndicatorMatrices:
        """The ``(N, K)`` places of N prefixes as sparse matrices, block by block."""
        return IndicatorMatrices(active, self.n_context, self.scale, self.vocab_size)

    def context(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._written_out(self.active(prompts, tokens))

    def path(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        return self._written_out(self.active_path(prompts, tokens))

    def _written_out(self, active: IndexArray) -> FloatArray:
        out = np.zeros((*active.shape[:-1], self.n_context + 1))
        np.put_along_axis(out, active.astype(np.int64), self.scale, axis=-1)
        return out[..., :-1]
