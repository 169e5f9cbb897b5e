"""Candidates for a rho game over a ball of autoregressive linear policies: maximum likelihood on parts of the data.

Contaminated data have several modes. Refitting without the chunks that the last fit found least likely walks to the
mode of the rest; so does maximum likelihood on a few chunks that happen to be all of one kind (the concentration steps
of least trimmed squares: Rousseeuw and Van Driessen, 2006, "Computing LTS regression for large data sets").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.ball_newton import newton_in_ball
from agents.rho_ar_linear_units import ChunkLikelihood
from agents.softmax_rows import SoftmaxRows

__all__ = ["initial_candidates", "likeliest"]

FloatArray = NDArray[np.float64]

TRIMMED = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)  # share of the weight that is dropped
TRIM_ROUNDS = 6
ROUGH = 1e-6  # relative accuracy of candidates


def likeliest(data: ChunkLikelihood, weights: FloatArray, radius: float, start: FloatArray, tol: float) -> FloatArray:
    """``(d,)`` maximum likelihood in the ball on chunks weighted by ``(U,)`` weights, from ``(d,)`` start."""
    counts = data.counts(weights)
    met = np.flatnonzero(counts.sum(axis=1) > 0)
    rows = SoftmaxRows(data.features, data.values[met], counts[met])
    return newton_in_ball(rows, radius, start, tol, 50).theta


def initial_candidates(
    data: ChunkLikelihood, radius: float, number: int, tol: float, rng: np.random.Generator
) -> FloatArray:
    """``(M, d)``, M at most ``number``: the fit to all the data first, then to trimmed data, to what was trimmed away,
    and to random parts of the data, trimmed in turn."""
    everything = likeliest(data, data.weights, radius, np.zeros(data.features.dimension), tol)
    found = [everything]
    for share in TRIMMED:
        kept = _trimmed(data, radius, everything, share, found, number)
        if len(found) < number and kept is not None:
            found.append(_rough(data, data.weights - kept, radius, everything))
    total, part = data.weights.sum(), 0
    while len(found) < number:
        size = min(max(2, data.features.dimension) * 4 ** (part % 4), len(data))
        chosen = rng.choice(len(data), size=size, p=data.weights / total)
        some = np.bincount(chosen, minlength=len(data)).astype(np.float64) * (total / size)
        found.append(_rough(data, some, radius, np.zeros_like(everything)))
        if part % 2:
            _trimmed(data, radius, found[-1], TRIMMED[part // 2 % len(TRIMMED)], found, number)
        part += 1
    return np.stack(found)


def _rough(data: ChunkLikelihood, weights: FloatArray, radius: float, start: FloatArray) -> FloatArray:
    return likeliest(data, weights, radius, start, ROUGH * float(weights.sum()))


def _trimmed(
    data: ChunkLikelihood, radius: float, theta: FloatArray, share: float, found: list[FloatArray], number: int
) -> FloatArray | None:
    """Appends the fit after dropping the least likely ``share`` again and again; returns the weights it kept."""
    kept = last = None
    for _ in range(TRIM_ROUNDS):
        order = np.argsort(data.log_densities(theta[None])[:, 0], kind="stable")
        dropped = np.minimum(np.cumsum(data.weights[order]), share * data.weights.sum())
        kept = data.weights.copy()
        kept[order] -= np.diff(dropped, prepend=0.0)
        if last is not None and np.array_equal(kept, last):
            break
        theta, last = _rough(data, kept, radius, theta), kept
    if len(found) < number:
        found.append(theta)
    return kept
