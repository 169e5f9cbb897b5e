"""Log-densities of chunks under autoregressive linear policies: many parameters at once, with first and second order.

A chunk i has log-density ``l_i(theta) = sum_(context c, token a) N[i, c, a] log pi_theta(a | c)``, with N its counts of
next tokens in the contexts it passes through. Where the features number their contexts (`FeatureMap.codes`), contexts
are shared by all chunks, and chunks with equal counts are merged: they are alike to every member of the class.
Otherwise every token of a chunk is a context of its own, handled in blocks of chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rho_units import distinct_units
from ntp_envs import Demonstrations
from ntp_envs.features import ContextFeatureMap, FeatureMap

__all__ = ["ChunkLikelihood"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BLOCK_ENTRIES = 1 << 20  # of a temporary array: 8 MB
DENSE_FROM = 0.1  # share of counts that are not zero from which they are kept in a dense matrix
DENSE_ENTRIES = 1 << 24


@dataclass(frozen=True, eq=False)
class _Block:
    """Some chunks, and the contexts they pass through.

    ``counts`` is ``(U, C A)``, dense or sparse; ``values`` ``(C, c)`` or ``(C, A, d)`` features.
    """

    chunks: slice
    contexts: slice
    counts: Any


class ChunkLikelihood:
    """The distinct chunks of weighted demonstrations as seen by the policies of an autoregressive linear class.

    Args:
        features: the feature map phi.
        demonstrations: their weights are normalised.
        chunk: K; the last chunk is shorter where it does not divide H.

    Attributes:
        weights: ``(U,)`` positive weights of the distinct chunks; they sum to the number of chunks of a sequence.
        values: ``(C, c)`` or ``(C, A, d)`` features of the contexts.
    """

    def __init__(self, features: FeatureMap, demonstrations: Demonstrations, chunk: int) -> None:
        self.features, self.vocab_size = features, features.vocab_size
        self.by_context = isinstance(features, ContextFeatureMap)
        self.binary = self.by_context and self.vocab_size == 2
        codes = features.codes(demonstrations.prompts, demonstrations.tokens)
        build = (
            _one_each(features, demonstrations, chunk)
            if codes is None
            else _shared(features, demonstrations, chunk, codes)
        )
        self.values, self.weights, self.blocks = build
        if not np.isfinite(self.values).all():
            raise ValueError("the features hold a value that is not finite (NaN or inf); mend the feature map.")

    def __len__(self) -> int:
        return len(self.weights)

    def line(self) -> tuple[FloatArray, Any, FloatArray]:
        """In dimension 1: features, counts and weights, as `agents.rho_one_parameter` takes them.

        Contexts whose laws are the same, up to the names of the tokens, are pooled; and so are chunks that this makes
        alike, where that leaves few numbers.
        """
        from scipy.sparse import csr_array, vstack

        contexts, vocab_size = len(self.values), self.vocab_size
        values = self.values * [0.0, 1.0] if self.binary else self.values[:, :, 0]  # (C, A)
        order = np.argsort(values, axis=1, kind="stable")
        values = np.take_along_axis(values, order, axis=1)
        features, group = np.unique(values - values[:, :1], axis=0, return_inverse=True)
        entries = vocab_size * group.reshape(-1, 1) + np.argsort(order, axis=1)  # for those of all contexts
        every = np.arange(contexts * vocab_size)
        pool = csr_array((np.ones(len(every)), (every, entries.ravel())), shape=(len(every), features.size))
        parts = [slice(vocab_size * block.contexts.start, vocab_size * block.contexts.stop) for block in self.blocks]
        counts = _dense_if_full(
            vstack([csr_array(block.counts) @ pool[part] for block, part in zip(self.blocks, parts)])
        )
        if not isinstance(counts, np.ndarray):
            return features, counts, self.weights
        counts, group = np.unique(counts, axis=0, return_inverse=True)
        return features, counts, np.bincount(group.ravel(), weights=self.weights).astype(np.float64)

    # -- passes --------------------------------------------------------------------------------------------------------

    def log_densities(self, thetas: FloatArray) -> FloatArray:
        """``(U, M)`` log-densities, in nats, under ``(M, d)`` parameters."""
        out = np.empty((len(self), len(thetas)))
        for block in self.blocks:
            for some in self._some(block, len(thetas)):
                log_law = self._log_law(block, thetas[some])
                out[block.chunks, some] = block.counts @ log_law.reshape(-1, log_law.shape[2])
        return out

    def gradients(self, theta: FloatArray, slopes: FloatArray) -> FloatArray:
        """``(R, d)`` gradients at ``(d,)`` theta of the R functions ``sum_i slopes[i, r] l_i``."""
        out = np.zeros((slopes.shape[1], self.features.dimension))
        for block in self.blocks:
            law = np.exp(self._log_law(block, theta[None]))  # (C, A, 1)
            counts = block.counts.T @ slopes[block.chunks]  # (C A, R)
            counts = counts.reshape(*law.shape[:2], -1)
            out += self._pull_back(block, counts - law * counts.sum(axis=1, keepdims=True))
        return out

    def counts(self, weights: FloatArray) -> FloatArray:
        """``(C, A)`` next-token counts of all contexts, chunks weighted by ``(U,)`` weights."""
        out = np.zeros((len(self.values), self.vocab_size))
        for block in self.blocks:
            out[block.contexts] += (block.counts.T @ weights[block.chunks]).reshape(-1, self.vocab_size)
        return out

    def scores(self, theta: FloatArray) -> FloatArray:
        """``(U, d)`` gradients of every l_i at ``(d,)`` theta."""
        out = np.empty((len(self), self.features.dimension))
        for block in self.blocks:
            values = self.values[block.contexts]
            law = np.exp(self._log_law(block, theta[None]))[:, :, 0]  # (C, A)
            out[block.chunks] = block.counts @ self._token_scores(values, law)
        return out

    def _token_scores(self, values: FloatArray, law: FloatArray) -> FloatArray:
        """``(C A, d)`` gradients of log pi(a | c)."""
        c, a = law.shape
        if self.binary:
            residual = np.array([0.0, 1.0]) - law[:, 1:]  # (C, A)
            return (residual[:, :, None] * values[:, None]).reshape(c * a, -1)
        if self.by_context:
            residual = np.eye(a) - law[:, None, :]  # (C, token, A)
            return (residual[:, :, :, None] * values[:, None, None]).reshape(c * a, -1)
        return (values - np.einsum("ca,cad->cd", law, values)[:, None]).reshape(c * a, -1)

    def _log_law(self, block: _Block, thetas: FloatArray) -> FloatArray:
        """``(C, A, M)`` log-probabilities of next tokens."""
        values = self.values[block.contexts]
        if self.binary:
            log_odds = values @ thetas.T  # (C, M)
            soft = np.maximum(log_odds, 0.0) + np.log1p(np.exp(-np.abs(log_odds)))
            return np.stack([-soft, log_odds - soft], axis=1)
        if self.by_context:
            weights = thetas.reshape(len(thetas), self.vocab_size, -1)
            logits = np.einsum("cf,maf->cam", values, weights, optimize=True)
        else:
            logits = values @ thetas.T
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def _pull_back(self, block: _Block, by_logit: FloatArray) -> FloatArray:
        """``(R, d)`` gradients in theta from ``(C, A, R)`` gradients in the logits."""
        values = self.values[block.contexts]
        if self.binary:
            return by_logit[:, 1].T @ values
        if self.by_context:
            return np.einsum("car,cf->raf", by_logit, values, optimize=True).reshape(by_logit.shape[2], -1)
        return by_logit.reshape(-1, by_logit.shape[2]).T @ values.reshape(-1, self.features.dimension)

    def _some(self, block: _Block, number: int) -> Iterator[slice]:
        contexts = block.contexts.stop - block.contexts.start
        size = max(BLOCK_ENTRIES // (contexts * self.vocab_size), 1)
        for start in range(0, number, size):
            yield slice(start, min(start + size, number))


def _shared(
    features: FeatureMap, demonstrations: Demonstrations, chunk: int, codes: IntArray
) -> tuple[FloatArray, FloatArray, list[_Block]]:
    """Contexts numbered by the features; chunks with equal counts merged, found by two 64-bit hashes of the counts."""
    tokens, vocab_size = demonstrations.tokens, features.vocab_size
    distinct, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    cells = inverse.reshape(codes.shape) * vocab_size + tokens  # (n, H)
    marks = np.random.default_rng(0).integers(0, 1 << 63, size=(2, len(distinct) * vocab_size), dtype=np.uint64)
    units = list(distinct_units(demonstrations, chunk))
    keys = [np.stack([mark[cells[unit.rows, unit.positions]].sum(axis=1) for mark in marks], axis=1) for unit in units]
    weights = np.concatenate([unit.weights for unit in units])
    _, leader, group = np.unique(np.concatenate(keys), axis=0, return_index=True, return_inverse=True)
    ends = np.cumsum([0, *(len(unit.rows) for unit in units)])
    rows, columns = [], []
    for unit, start, stop in zip(units, ends[:-1], ends[1:]):
        chosen = np.flatnonzero((leader >= start) & (leader < stop))
        seen = cells[unit.rows[leader[chosen] - start], unit.positions]
        rows.append(np.repeat(chosen, seen.shape[1]))
        columns.append(seen.ravel())
    shape = len(leader), len(distinct) * vocab_size
    counts = _matrix(np.concatenate(rows), np.concatenate(columns), shape)
    values = np.empty((len(distinct), *features.feature_shape))
    row, position = np.divmod(first, tokens.shape[1])
    for h in np.unique(position):  # one evaluation for all contexts first met at this position
        here = np.flatnonzero(position == h)
        values[here] = features.prefix_features(demonstrations.prompts[row[here]], tokens[row[here], :h])
    merged = np.bincount(group.ravel(), weights=weights).astype(np.float64)
    return values, merged, [_Block(slice(0, shape[0]), slice(0, len(distinct)), counts)]


def _one_each(
    features: FeatureMap, demonstrations: Demonstrations, chunk: int
) -> tuple[FloatArray, FloatArray, list[_Block]]:
    """A context for each token of each distinct chunk."""
    prompts, tokens, vocab_size = demonstrations.prompts, demonstrations.tokens, features.vocab_size
    units = list(distinct_units(demonstrations, chunk))
    lengths = [unit.positions.stop - unit.positions.start for unit in units]
    values = np.empty((sum(len(unit.rows) * k for unit, k in zip(units, lengths)), *features.feature_shape))
    blocks, chunks, contexts = [], 0, 0
    for unit, length in zip(units, lengths):
        size = max(BLOCK_ENTRIES // (32 * vocab_size * length), 1)
        for start in range(0, len(unit.rows), size):
            rows = unit.rows[start : start + size]
            here = slice(contexts, contexts + len(rows) * length)
            for offset in range(length):
                h = unit.positions.start + offset
                values[here][offset::length] = features.prefix_features(prompts[rows], tokens[rows, :h])
            columns = np.arange(len(rows) * length) * vocab_size + tokens[rows, unit.positions].ravel()
            shape = len(rows), len(rows) * length * vocab_size
            counts = _matrix(np.repeat(np.arange(len(rows)), length), columns, shape)
            blocks.append(_Block(slice(chunks, chunks + len(rows)), here, counts))
            chunks, contexts = chunks + len(rows), here.stop
    return values, np.concatenate([unit.weights for unit in units]), blocks


def _matrix(rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> Any:
    """Counts of (row, column) pairs, dense where many are not zero."""
    from scipy.sparse import csr_array

    counts = csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    counts.sum_duplicates()
    return _dense_if_full(counts)


def _dense_if_full(counts: Any) -> Any:
    entries = math.prod(counts.shape)
    return counts.toarray() if entries <= DENSE_ENTRIES and counts.nnz >= DENSE_FROM * entries else counts
