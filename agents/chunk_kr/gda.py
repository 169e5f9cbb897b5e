"""Projected gradient descent-ascent, as the algorithm is written down; for study."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from agents.chunk_kr.admm import FEASIBLE, Solution, solve_admm
from agents.chunk_kr.gap import certify
from agents.chunk_kr.gram import Embedding
from agents.chunk_kr.projection import project_onto_ball_and_simplices, project_onto_simplex

__all__ = ["solve_gda"]

FloatArray = NDArray[np.float64]

#: below this f + f' the gradient of tau is cut off: it has none at (0, 0)
FLOOR = 1e-9


def solve_gda(
    embedding: Embedding, weights: FloatArray, radius: float, *, tol: float, max_iterations: int, step: float = 1.0
) -> Solution:
    """Descent in f and ascent in f' on ``F(f, f') = sum w (f' - f) / (f' + f)``, each step projected.

    Unreliable: F is not smooth where f and f' both vanish, and constant steps cycle between faces of the simplices
    (Rohatgi et al. 2025 assume the projection oracle; our reading). It starts at the uniform law, takes steps of
    ``step`` over the curvature of F there, and returns the iterate of the smallest certificate. The certificate prices
    it with the multipliers of `solve_admm`, so it is as tight as for the recommended solver.

    Args:
        embedding, weights, radius, tol: as for `solve_admm`.
        max_iterations: two projections each.
        step: multiple of one over the curvature at the uniform law.
    """
    phi, size = embedding.phi, embedding.size
    shape = weights.shape
    reference = solve_admm(embedding, weights, radius, tol=tol, max_iterations=2000)
    length = step / (0.5 * float(weights.max()) * size**2 * float(embedding.eigenvalues.max()))
    clock = time.perf_counter()
    spent = 0.0

    def project(point: FloatArray) -> FloatArray:
        nonlocal spent
        before = time.perf_counter()
        found = project_onto_ball_and_simplices(point, phi, size, radius, tol=1e-9).point
        spent += time.perf_counter() - before
        return found

    def values(c: FloatArray) -> FloatArray:
        return np.maximum((phi @ c).reshape(shape), 0.0)

    c = project(np.linalg.lstsq(phi, np.full(len(phi), 1.0 / size))[0])
    reply = c.copy()
    best: Solution | None = None
    for iteration in range(1, max_iterations + 1):
        f, g = values(c), values(reply)
        scale = 2.0 * weights / np.maximum(f + g, FLOOR) ** 2
        c, reply = (
            project(c + length * ((scale * g).ravel() @ phi)),
            project(reply + length * ((scale * f).ravel() @ phi)),
        )
        f = (phi @ c).reshape(shape)
        law = project_onto_simplex(f)
        certificate = certify(weights, law, phi, c, radius, reference.dual, fitted=f)
        if best is None or certificate.gap < best.certificate.gap:
            best = Solution(c, law, certificate, float(np.abs(law - f).max()), {}, iteration, spent, reference.dual)
        if best.certificate.gap <= tol and best.infeasibility <= FEASIBLE:
            break
    assert best is not None
    total = time.perf_counter() - clock
    return Solution(
        best.c, best.law, best.certificate, best.infeasibility, {"seconds": total}, iteration, spent, best.dual
    )
