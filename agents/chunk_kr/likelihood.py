"""Maximum likelihood on a simplex: the row step of the solvers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.chunk_kr.augmented import RowTerm

__all__ = ["Likelihood", "likelihood_prox"]

FloatArray = NDArray[np.float64]


def likelihood_prox(points: FloatArray, weights: FloatArray, *, steps: int = 60) -> tuple[FloatArray, FloatArray]:
    """``argmin over the simplex of -sum w log z + |z - p|^2 / 2``, row by row.

    z = (a + sqrt(a^2 + 4 w)) / 2 with a = p - nu, and nu the root of sum z = 1, a decreasing convex function of nu:
    Newton from the left of the root, where it is monotone. Entries with w > 0 are positive.

    Args:
        points: ``(n, S)``.
        weights: ``(n, S)``, divided by the penalty.

    Returns:
        ``(n, S)`` probability vectors z, and the slopes dz/da in [0, 1].

    >>> likelihood_prox(np.array([[0.0, 0.0]]), np.array([[0.5, 0.5]]))[0].round(9).tolist()
    [[0.5, 0.5]]
    """
    nu = points.max(axis=1) - 1.0
    four = 4.0 * weights
    for _ in range(steps):
        a = points - nu[:, None]
        root = np.sqrt(a * a + four)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.where(a < 0, 0.5 * four / (root - a), 0.5 * (a + root))
            slopes = np.where(root > 0, z / root, 0.0)
        excess = z.sum(axis=1) - 1.0
        if float(np.abs(excess).max()) <= 1e-14 * points.shape[1]:
            break
        nu = nu + excess / np.maximum(slopes.sum(axis=1), 1e-300)
    z = z / z.sum(axis=1, keepdims=True)
    return np.where(weights > 0, np.maximum(z, 1e-300), z), slopes


class Likelihood(RowTerm):
    """``-sum w log z`` on the simplex, for `minimise_augmented`.

    Args:
        weights: ``(n, S)``.
    """

    def __init__(self, weights: FloatArray) -> None:
        self.weights = weights
        self._seen = weights > 0

    def prox(self, points: FloatArray, penalty: float) -> tuple[FloatArray, FloatArray]:
        return likelihood_prox(points, self.weights / penalty)

    def value(self, rows: FloatArray) -> float:
        return -float((self.weights[self._seen] * np.log(rows[self._seen])).sum())
