"""The data of a large linear softmax likelihood as distinct contexts, each the places of its few features.

The loss is ``f(W) = sum_r n_r log sum_a exp z_ra - <C, W>``, ``z = Phi W`` with W ``(c, A)``: row r of Phi holds the
features of a context, n_r is the weight of its tokens, and ``C = Phi' counts``. Beyond C the next tokens are not
needed. Phi is never written out (`ntp_envs.features.indicators`): a pass over N contexts with K features costs N K A
additions and N A exponentials, and memory of 4 N K bytes; probabilities are kept in memory up to `MEMORY_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from agents.softmax_rows import MEMORY_BYTES
from ntp_envs import Demonstrations
from ntp_envs.features import FeatureMap
from ntp_envs.features.indicators import IndexArray, IndicatorFeatureMap, IndicatorMatrices

__all__ = ["IndicatorRows", "distinct_rows", "indicator_rows", "is_large", "soft_indicator_rows"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DENSE_DIMENSION = 512  # weights above which features are not written out and no Hessian is formed


def is_large(features: FeatureMap) -> TypeGuard[IndicatorFeatureMap]:
    """Whether a likelihood is better fitted on places: indicator features of three tokens or more, many weights."""
    return (
        isinstance(features, IndicatorFeatureMap) and features.vocab_size > 2 and features.dimension > DENSE_DIMENSION
    )


class IndicatorRows:
    """Contexts, their weights and the weighted features of the next tokens, with the passes of a Newton-CG method.

    Args:
        features: more than two tokens.
        active: ``(N, K)`` places of the features of each context.
        totals: ``(N,)`` weights n.
        targets: ``(c, A)`` C.
        counts: ``(N, A)`` sparse weights of the next tokens, for losses that C does not determine.
    """

    def __init__(
        self,
        features: IndicatorFeatureMap,
        active: NDArray[np.integer],
        totals: FloatArray,
        targets: FloatArray,
        counts: Any = None,
    ) -> None:
        self.features, self.totals, self.targets, self.counts = features, totals, targets, counts
        self.matrices = features.matrices(active)
        self.gradient_passes = self.hessian_passes = 0
        self._at: FloatArray = np.zeros((0, 0))
        fits = len(totals) * features.vocab_size * 8 <= MEMORY_BYTES
        self._kept = np.empty((len(totals), features.vocab_size)) if fits else None

    @property
    def n_rows(self) -> int:
        return len(self.totals)

    def loss_and_gradient(self, weights: FloatArray) -> tuple[float, FloatArray]:
        """``f(W)`` in nats and its ``(c, A)`` gradient. Second derivatives, below, are taken where this was last."""
        self.gradient_passes += 1
        self._at = IndicatorMatrices.padded(weights)
        loss, gradient = -float(np.vdot(self.targets, weights)), np.zeros_like(self._at)
        for rows, matrix in self.matrices:
            law, log_norms = _softmax(matrix @ self._at)
            if self._kept is not None:
                self._kept[rows] = law
            total = self.totals[rows]
            loss += float(total @ log_norms)
            law *= total[:, None]
            gradient += matrix.T @ law
        return loss, gradient[:-1] - self.targets

    def smoothed_loss_and_gradient(self, weights: FloatArray, smoothing: float) -> tuple[float, FloatArray]:
        """``-sum counts log((1 - smoothing) softmax(z) + smoothing / A)`` in nats and its ``(c, A)`` gradient."""
        padded, floor = IndicatorMatrices.padded(weights), smoothing / self.features.vocab_size
        loss, gradient = 0.0, np.zeros_like(padded)
        for rows, matrix in self.matrices:
            law = _softmax(matrix @ padded)[0]
            counts = self.counts[rows].tocoo()
            kept = (1.0 - smoothing) * law[counts.row, counts.col]
            loss -= float(counts.data @ np.log(kept + floor))
            kept = counts.data * kept / (kept + floor)  # weight of tokens that came from pi rather than the noise
            law *= np.bincount(counts.row, kept, minlength=len(law))[:, None]
            law[counts.row, counts.col] -= kept
            gradient += matrix.T @ law
        return loss, gradient[:-1]

    def hessian_times(self, direction: FloatArray) -> FloatArray:
        """The second derivatives of f applied to a ``(c, A)`` direction."""
        self.hessian_passes += 1
        padded = IndicatorMatrices.padded(direction)
        out = np.zeros_like(padded)
        for rows, matrix, law in self._laws():
            change = matrix @ padded
            change *= law
            change -= law * change.sum(axis=1, keepdims=True)
            change *= self.totals[rows, None]
            out += matrix.T @ change
        return out[:-1]

    def hessian_diagonal(self) -> FloatArray:
        """``(c, A)`` second derivatives in each weight alone."""
        out = np.zeros_like(self._at)
        for rows, matrix, law in self._laws():
            out += matrix.T @ (law * (1.0 - law) * self.totals[rows, None])
        return out[:-1] * self.features.scale

    def _laws(self) -> Iterator[tuple[slice, Any, FloatArray]]:
        for rows, matrix in self.matrices:
            yield rows, matrix, _softmax(matrix @ self._at)[0] if self._kept is None else self._kept[rows]


def _softmax(logits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``(N, A)`` probabilities, written over the logits, and ``(N,)`` ``log sum exp``."""
    top = logits.max(axis=1, keepdims=True)
    logits -= top
    np.exp(logits, out=logits)
    norms = logits.sum(axis=1, keepdims=True)
    logits /= norms
    return logits, (np.log(norms) + top)[:, 0]


def indicator_rows(
    features: IndicatorFeatureMap, demonstrations: Demonstrations, weights: FloatArray, *, keep_counts: bool = False
) -> IndicatorRows:
    """The rows of demonstrations with ``(n,)`` weights; contexts that occur more than once are pooled.

    Args:
        features: the feature map.
        demonstrations: prompts and tokens.
        weights: of the sequences.
        keep_counts: for losses that need `IndicatorRows.counts`.
    """
    used = np.flatnonzero(weights > 0)
    prompts, tokens = demonstrations.prompts[used], demonstrations.tokens[used]
    active = _places(features, prompts, tokens)
    per_token, answers = np.repeat(weights[used], tokens.shape[1]), tokens.ravel()
    vocab_size = features.vocab_size
    targets = np.zeros((features.n_context + 1) * vocab_size)
    for column in active.T:
        targets += np.bincount(column.astype(np.int64) * vocab_size + answers, per_token, minlength=targets.size)
    first, which = distinct_rows(active, features.n_context + 1)
    totals = np.bincount(which, per_token, minlength=len(first)).astype(np.float64)
    counts = None
    if keep_counts:
        from scipy.sparse import csr_array

        counts = csr_array((per_token, (which, answers)), shape=(len(first), vocab_size))
    targets = targets.reshape(-1, vocab_size)[:-1] * features.scale
    return IndicatorRows(features, active[first], totals, targets, counts)


def soft_indicator_rows(
    features: IndicatorFeatureMap, prompts: NDArray[np.integer], tokens: NDArray[np.integer], counts: FloatArray
) -> IndicatorRows:
    """The rows of ``(n, H, A)`` weighted counts, which need not be whole, of what should follow each prefix."""
    active = _places(features, prompts, tokens)
    flat = counts.reshape(-1, features.vocab_size)
    targets = np.zeros((features.n_context + 1, features.vocab_size))
    for rows, matrix in features.matrices(active):
        targets += matrix.T @ flat[rows]
    first, which = distinct_rows(active, features.n_context + 1)
    totals = np.bincount(which, flat.sum(axis=1), minlength=len(first)).astype(np.float64)
    return IndicatorRows(features, active[first], totals, targets[:-1])


def _places(features: IndicatorFeatureMap, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> IndexArray:
    """``(n H, K)`` places before every token."""
    horizon = tokens.shape[1]
    active = np.empty((tokens.size, features.n_active), dtype=np.int32)
    size = max((1 << 20) // horizon, 1)
    for start in range(0, len(tokens), size):
        path = features.active_path(prompts[start : start + size], tokens[start : start + size])
        active[start * horizon : start * horizon + path.shape[0] * horizon] = path.reshape(-1, features.n_active)
    return active


def distinct_rows(rows: NDArray[np.integer], base: int) -> tuple[IntArray, IntArray]:
    """Where each of the U distinct rows of ``(N, K)`` integers in [0, base) comes first, ``(U,)``, and the number in
    [0, U) of every row, ``(N,)``.

    Rows are read as base-``base`` numbers, renumbered whenever the next digit would not fit in 62 bits.

    >>> distinct_rows(np.array([[2, 0], [0, 1], [2, 0]]), 3)
    (array([1, 0]), array([1, 0, 1]))
    """
    codes, many = np.zeros(len(rows), dtype=np.int64), 1
    for column in rows.T:
        if many > (1 << 62) // base:
            codes = np.unique(codes, return_inverse=True)[1].ravel()
            many = int(codes.max(initial=0)) + 1
        codes = codes * base + column
        many *= base
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    return first, which.ravel()
