"""Solvers of ChunkKR's program: ADMM with cached coordinates, recommended, and descent-ascent, for study."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from agents.chunk_kr.program import (
    Certificate,
    Likelihood,
    certify,
    likelihood_prox,
    minimise_augmented,
    project_onto_ball_and_simplices,
    project_onto_simplex,
)
from agents.chunk_kr.space import Embedding
from ntp_envs.arrays import FloatArray, onto_ball

RELAXATION = 1.6
CHECK_EVERY = 10
#: the two penalties stay within this factor of where they start
PENALTY_SPAN = 1e8
#: an entry of the law may differ from the function by this much at the end (a smaller tolerance is
#: aimed at too)
FEASIBLE = 1e-5
#: after this many iterations without success, Newton steps take over where one costs at most NEWTON_WORK = N r^2
PATIENCE = 400
NEWTON_WORK = 6e10
NEWTON_STEPS = 200
#: weight of the proximal term of the Newton phase, relative to the penalty
ANCHOR = 1e-6


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

    def excess(self, tol: float) -> float:
        """How many times too large the gap is for ``tol``, or the infeasibility for ``min(tol, FEASIBLE)`` an entry."""
        return max(self.certificate.gap / tol, self.infeasibility / min(tol, FEASIBLE))

    def acceptable(self, tol: float) -> bool:
        """No feasible law is better by more than ``tol``, and this one is feasible to that and to 1e-5 an entry."""
        return self.excess(tol) <= 1.0


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
    Over-relaxation 1.6 (Boyd et al. 2011, section 3.4). Stops when the solution is `Solution.acceptable`; one that
    is not, after ``max_iterations`` or where rounding allows no more, is the best seen. Where the coordinates are few
    and the constraints many (low rank), or the multipliers vanish at the optimum, first-order steps crawl: after 400
    iterations Newton steps on the augmented Lagrangian (`minimise_augmented`) finish the work.

    Args:
        embedding: coordinates.
        weights: ``(n, S)``, summing to one.
        radius: norm bound B, feasible.
        tol: on ``certificate.gap``, and on ``infeasibility``, which is at most 1e-5 for a larger one too.
        max_iterations: 2 products with phi each; no Newton steps are taken at 400 or fewer.
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
    spent, iteration = 0.0, 0

    def better(
        c: FloatArray, f: FloatArray, law: FloatArray, dual: FloatArray, residuals: dict[str, float], iterations: int
    ) -> Solution:
        """This solution, or the best so far."""
        inside = min(1.0, radius / max(float(np.linalg.norm(c)), 1e-300))
        certificate = certify(weights, law, phi, inside * c, radius, dual, fitted=inside * f)
        infeasibility = float(np.abs(law - inside * f).max())
        new = Solution(inside * c, law, certificate, infeasibility, residuals, iterations, spent, dual)
        return new if best is None or new.excess(tol) <= best.excess(tol) else best

    newton = phi.shape[0] * embedding.rank**2 <= NEWTON_WORK
    for iteration in range(1, (min(max_iterations, PATIENCE) if newton else max_iterations) + 1):
        c = (penalty_y * (y - u) + penalty_z * (phi.T @ (z - v).ravel())) / (penalty_y + penalty_z * eigenvalues)
        f = (phi @ c).reshape(n, size)
        y_before, z_before = y, z
        moved = RELAXATION * c + (1.0 - RELAXATION) * y + u
        shifted = RELAXATION * f + (1.0 - RELAXATION) * z + v
        clock = time.perf_counter()
        y = onto_ball(moved, radius)
        z, _ = likelihood_prox(shifted, weights / penalty_z)
        spent += time.perf_counter() - clock
        u, v = moved - y, shifted - z
        if iteration % CHECK_EVERY and iteration < max_iterations:
            continue
        primal_z, primal_y = _ratio(f - z, z), _ratio(c - y, y)
        dual_z, dual_y = _ratio(z - z_before, v), _ratio(y - y_before, u)
        residuals = {"primal": max(primal_z, primal_y), "dual": dual_z}
        best = better(c, f, z, -penalty_z * v, residuals, iteration)
        if best.acceptable(tol):
            return best
        scale = _balance(primal_z, dual_z, penalty_z, limits)
        penalty_z, v = penalty_z * scale, v / scale
        scale = _balance(primal_y, dual_y, penalty_y, limits)
        penalty_y, u = penalty_y * scale, u / scale
    if newton and max_iterations > PATIENCE and not (best and best.acceptable(tol)):
        end = minimise_augmented(
            Likelihood(weights),
            embedding.matrix(),
            size,
            radius,
            y,
            anchor=ANCHOR * penalty_z,
            moving=True,
            penalty=penalty_z,
            tol=0.1 * tol,
            max_steps=NEWTON_STEPS,
            row_dual=penalty_z * v.ravel(),
            ball_dual=penalty_y * u,
        )
        residuals = {"primal": end.residual, "dual": end.slope}
        dual = -end.row_dual.reshape(n, size)
        best = better(end.c, (phi @ end.c).reshape(n, size), end.rows, dual, residuals, iteration + end.steps)
    assert best is not None
    return replace(best, iterations=max(iteration, best.iterations), projection_seconds=spent)


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


# -- Projected gradient descent-ascent, as the algorithm is written down; for study -----------------------------------


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
    phi, size = embedding.matrix(), embedding.size
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
