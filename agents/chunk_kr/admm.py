"""The recommended solver of ChunkKR: alternating direction method of multipliers with cached coordinates."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.chunk_kr.gap import Certificate, certify
from agents.chunk_kr.gram import Embedding
from agents.chunk_kr.projection import project_onto_ball

__all__ = ["Solution", "likelihood_prox", "solve_admm"]

FloatArray = NDArray[np.float64]

RELAXATION = 1.6
CHECK_EVERY = 10
#: the two penalties stay within this factor of where they start
PENALTY_SPAN = 1e8


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver ends with.

    Attributes:
        c: ``(r,)`` coordinates, ``||c|| <= radius``.
        law: ``(n, S)`` probability vectors, the learned law at the data prefixes.
        certificate: how far ``law`` can be from optimal.
        infeasibility: largest ``|law - phi c|``: what of the law lies outside the class, per entry.
        residuals: primal and dual residuals of ADMM, relative; empty for other solvers.
        iterations: of the main loop.
        projection_seconds: time in projections (the row step and the ball).
        dual: ``(n, S)`` multipliers behind the certificate.
    """

    c: FloatArray
    law: FloatArray
    certificate: Certificate
    infeasibility: float
    residuals: dict[str, float]
    iterations: int
    projection_seconds: float
    dual: FloatArray


def likelihood_prox(points: FloatArray, weights: FloatArray, *, steps: int = 60) -> tuple[FloatArray, FloatArray]:
    """``argmin over the simplex of -sum w log z + |z - p|^2 / 2``, row by row.

    z = (a + sqrt(a^2 + 4 w)) / 2 with a = p - nu, and nu the root of sum z = 1, a decreasing convex function of nu:
    Newton from the left of the root, where it is monotone. Entries with w > 0 are positive.

    Args:
        points: ``(n, S)``.
        weights: ``(n, S)``, divided by the penalty.

    Returns:
        ``(n, S)`` probability vectors and ``(n,)`` multipliers nu.
    """
    nu = points.max(axis=1) - 1.0
    four = 4.0 * weights
    positive = weights > 0
    for _ in range(steps):
        a = points - nu[:, None]
        root = np.sqrt(a * a + four)
        below = a < 0
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.where(below, 0.5 * four / (root - a), 0.5 * (a + root))
            slope = np.where(root > 0, z / root, 0.0).sum(axis=1)
        excess = z.sum(axis=1) - 1.0
        if float(np.abs(excess).max()) <= 1e-14 * points.shape[1]:
            break
        nu = nu + excess / np.maximum(slope, 1e-300)
    z = z / z.sum(axis=1, keepdims=True)
    return np.where(positive, np.maximum(z, 1e-300), z), nu


def solve_admm(
    embedding: Embedding,
    weights: FloatArray,
    radius: float,
    *,
    tol: float,
    max_iterations: int,
    start: Solution | None = None,
) -> Solution:
    """Maximise ``sum w log f`` over f = phi c, ``||c|| <= radius``, rows of f probability vectors.

    Copies y = c (ball) and z = phi c (simplices). As ``phi.T @ phi`` is diagonal the linear system of the c-step is
    solved by a division, and the two penalties can be balanced separately, each by its own residuals, at no cost.
    Over-relaxation 1.6 (Boyd et al. 2011, section 3.4). Stops when the certificate is at most ``tol``.

    Args:
        embedding: coordinates.
        weights: ``(n, S)``, summing to one.
        radius: norm bound B, feasible.
        tol: on ``certificate.gap``, and on ``infeasibility``.
        max_iterations: 2 products with phi each.
        start: a solution of a nearby problem.
    """
    phi, eigenvalues, size = embedding.phi, embedding.eigenvalues, embedding.size
    n = len(weights)
    z = np.full((n, size), 1.0 / size) if start is None else start.law
    penalty_z = size / n
    penalty_y = penalty_z
    limits = penalty_z / PENALTY_SPAN, penalty_z * PENALTY_SPAN
    y = np.zeros(embedding.rank) if start is None else start.c
    u = np.zeros(embedding.rank)
    v = np.zeros((n, size)) if start is None else -start.dual / penalty_z
    best: Solution | None = None
    spent = 0.0
    for iteration in range(1, max_iterations + 1):
        c = (penalty_y * (y - u) + penalty_z * ((z - v).ravel() @ phi)) / (penalty_y + penalty_z * eigenvalues)
        f = (phi @ c).reshape(n, size)
        y_before, z_before = y, z
        moved = RELAXATION * c + (1.0 - RELAXATION) * y + u
        shifted = RELAXATION * f + (1.0 - RELAXATION) * z + v
        clock = time.perf_counter()
        y = project_onto_ball(moved, radius)
        z, _ = likelihood_prox(shifted, weights / penalty_z)
        spent += time.perf_counter() - clock
        u, v = moved - y, shifted - z
        if iteration % CHECK_EVERY and iteration < max_iterations:
            continue
        inside = min(1.0, radius / max(float(np.linalg.norm(c)), 1e-300))
        certificate = certify(weights, z, phi, inside * c, radius, -penalty_z * v, fitted=inside * f)
        primal_z = _ratio(f - z, z)
        dual_z = _ratio(z - z_before, v)
        primal_y = _ratio(c - y, y)
        dual_y = _ratio(y - y_before, u)
        infeasibility = float(np.abs(z - inside * f).max())
        if best is None or max(certificate.gap, infeasibility) <= max(best.certificate.gap, best.infeasibility):
            residuals = {"primal": max(primal_z, primal_y), "dual": dual_z}
            best = Solution(inside * c, z, certificate, infeasibility, residuals, iteration, spent, -penalty_z * v)
            if max(certificate.gap, infeasibility) <= tol:
                break
        scale = _balance(primal_z, dual_z, penalty_z, limits)
        penalty_z, v = penalty_z * scale, v / scale
        scale = _balance(primal_y, dual_y, penalty_y, limits)
        penalty_y, u = penalty_y * scale, u / scale
    assert best is not None
    return Solution(best.c, best.law, best.certificate, best.infeasibility, best.residuals, iteration, spent, best.dual)


def _ratio(change: FloatArray, size: FloatArray) -> float:
    return float(np.linalg.norm(change)) / max(float(np.linalg.norm(size)), 1e-300)


def _balance(primal: float, dual: float, penalty: float, limits: tuple[float, float]) -> float:
    """What to multiply a penalty by so that its relative primal and dual residuals come together."""
    if primal == 0.0 or dual == 0.0:
        scale = 1.0 if primal == dual else (5.0 if dual == 0.0 else 0.2)
    else:
        scale = min(max((primal / dual) ** 0.5, 0.2), 5.0)
    if 0.5 <= scale <= 2.0:
        return 1.0
    return min(max(penalty * scale, limits[0]), limits[1]) / penalty
