"""Coordinates for the functions of ChunkKR's kernel space: f = Phi c on the data points, ||f|| = ||c||."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve_triangular

from agents.chunk_kr.features import Tree
from agents.chunk_kr.kernel import KernelRange, log_chunk_kernel, sequence_features
from agents.chunk_kr.points import ChunkPoints
from ntp_envs._numerics import first_best

__all__ = ["Embedding", "Expansion", "cholesky_embedding", "eigen_embedding", "gram_matrix"]

FloatArray = NDArray[np.float64]

#: eigenvalues (or pivots) below this fraction of the largest are dropped
EIGEN_CUT = 1e-9
#: kernel entries evaluated at once
BLOCK = 2**23


@dataclass(frozen=True, eq=False)
class Expansion:
    """A function of (prefix, string): ``constant + sum_j coefficients[j] k(., landmark_j)``.

    Attributes:
        landmarks: ``(m, K, d)`` rows v_t of the landmark points.
        coefficients: ``(m,)``.
        constant: the constants belong to the kernel space, with norm their absolute value.
    """

    landmarks: FloatArray
    coefficients: FloatArray
    constant: float

    def __call__(self, tree: Tree, seen: KernelRange | None = None) -> FloatArray:
        """``(B, 2**K)`` values at every string after B prefixes."""
        n, size = len(tree[0]), 2 ** len(tree)
        out = np.empty((n, size))
        step = max(1, BLOCK // (size * max(1, len(self.landmarks))))
        for start in range(0, n, step):
            block = slice(start, start + step)
            kernel = np.exp(log_chunk_kernel([level[block] for level in tree], self.landmarks, seen))
            out[block] = (kernel @ self.coefficients + self.constant).reshape(-1, size)
        return out


@dataclass(frozen=True, eq=False)
class Embedding:
    """``phi (N, r)`` with ``phi.T @ phi`` diagonal: f = phi c on the data and ``||c||`` is the norm of f.

    Attributes:
        phi: ``(N, r)``, points in the order prefix * 2**K + string.
        eigenvalues: ``(r,)`` the diagonal of ``phi.T @ phi``.
        size: 2**K.
        condition: largest over smallest eigenvalue of the full Gram matrix (of the kept ones for ``method`` Cholesky).
        trace_error: what the coordinates leave out of the trace of the Gram matrix, as a fraction.
        kernel: smallest and largest log-product of the kernel seen.
        method: ``"eigen"`` or ``"cholesky"``.
    """

    phi: FloatArray
    eigenvalues: FloatArray
    size: int
    condition: float
    trace_error: float
    kernel: KernelRange
    method: str
    _landmarks: FloatArray
    _basis: FloatArray  # (m, r): kernel coefficients of each coordinate function
    _constants: FloatArray  # (r,): its constant part

    @property
    def rank(self) -> int:
        return self.phi.shape[1]

    def expansion(self, c: FloatArray) -> Expansion:
        """The function with coordinates ``c``, for points that are not in the data."""
        return Expansion(self._landmarks, self._basis @ c, float(self._constants @ c))


def gram_matrix(points: ChunkPoints, seen: KernelRange | None = None) -> FloatArray:
    """``(N, N)`` kernel between all data points."""
    n = points.n_points
    out = np.empty((n, n))
    step = max(1, BLOCK // n)
    for start in range(0, n, step):
        block = slice(start, min(start + step, n))
        columns = sequence_features(points.tree, np.arange(n)[block])
        np.exp(log_chunk_kernel(points.tree, columns, seen), out=out[:, block])
    return out


def eigen_embedding(points: ChunkPoints) -> Embedding:
    """Exact up to the eigenvalues of the Gram matrix below 1e-9 of the largest, which are dropped.

    If any are, the constant function, which is always feasible, is kept as a coordinate of its own: its part outside
    the span of the others, divided by an upper bound on its norm (the norm of a constant is its absolute value). The
    set of functions is then still a subset of the true one.
    """
    seen = KernelRange()
    gram = gram_matrix(points, seen)
    trace = float(np.trace(gram))
    values, vectors = eigh(gram, overwrite_a=True, check_finite=False)
    keep = values > EIGEN_CUT * values[-1]
    kept = values[keep]
    basis = vectors[:, keep] / np.sqrt(kept)  # coordinate functions as kernel sums
    phi = vectors[:, keep] * np.sqrt(kept)
    constants = np.zeros(len(kept))
    if not keep.all():
        inside = basis.sum(axis=0)  # <1, e_k>, since <1, k(., x)> = 1
        outside = 1.0 - phi @ inside
        norm = math.sqrt(max(1.0 - float(inside @ inside), 0.0))
        if norm > 1e-8 and float(np.abs(outside).max()) > 1e-14:
            phi = np.column_stack([phi, outside / norm])
            basis = np.column_stack([basis, -(basis @ inside) / norm])
            constants = np.append(constants, 1.0 / norm)
            kept = np.append(kept, float(outside @ outside) / norm**2)
    return Embedding(
        phi=np.ascontiguousarray(phi),
        eigenvalues=kept,
        size=2**points.length,
        condition=float(values[-1] / max(values[0], np.finfo(np.float64).eps * values[-1])),
        trace_error=max(0.0, 1.0 - float(kept.sum()) / trace),
        kernel=seen,
        method="eigen",
        _landmarks=sequence_features(points.tree, np.arange(points.n_points)),
        _basis=basis,
        _constants=constants,
    )


def cholesky_embedding(points: ChunkPoints, rank: int) -> Embedding:
    """The constant function and pivoted Cholesky on at most ``rank - 1`` landmark points; memory O(N rank).

    The functions are those spanned by the constant and the landmarks, with their true norms: a subset of the space,
    so that every certificate holds *within the subset*; ``trace_error`` says how much of the space it misses.
    """
    seen = KernelRange()
    n = points.n_points
    everywhere = sequence_features(points.tree, np.arange(n))
    diagonal = np.exp(-np.log1p(-0.5 * np.square(everywhere).sum(axis=2)).sum(axis=1)) - 1.0
    trace, start = float(diagonal.sum()) + n, float(diagonal.max()) + 1.0
    factor = np.zeros((n, min(rank - 1, n)), order="F")
    pivots: list[int] = []
    for j in range(factor.shape[1]):
        pivot = int(first_best(diagonal, slack=1e-6 * diagonal.max()))  # any of the largest will do: always the same
        if diagonal[pivot] <= EIGEN_CUT * start:
            break
        column = np.expm1(log_chunk_kernel(points.tree, everywhere[[pivot]], seen)[:, 0])
        column -= factor[:, :j] @ factor[pivot, :j]
        factor[:, j] = column / math.sqrt(diagonal[pivot])
        diagonal = np.maximum(diagonal - factor[:, j] ** 2, 0.0)
        diagonal[pivot] = 0.0
        pivots.append(pivot)
    whole = np.column_stack([np.ones(n), factor[:, : len(pivots)]])
    del factor
    values, rotation = eigh(whole.T @ whole)
    phi = np.ascontiguousarray(whole @ rotation)
    coordinates = np.zeros((0, phi.shape[1]))
    if pivots:
        triangle = np.tril(whole[pivots, 1:])
        coordinates = solve_triangular(triangle, rotation[1:], lower=True, trans="T")
    return Embedding(
        phi=phi,
        eigenvalues=np.maximum(values, 0.0),
        size=2**points.length,
        condition=float(values[-1] / max(values[0], np.finfo(np.float64).eps * values[-1])),
        trace_error=float(diagonal.sum()) / trace,
        kernel=seen,
        method="cholesky",
        _landmarks=everywhere[pivots],
        _basis=coordinates,
        _constants=rotation[0] - coordinates.sum(axis=0),
    )
