"""The projection oracle of ChunkKR: onto a norm ball intersected with a product of simplices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

from ntp_envs._validation import check_int, check_real

__all__ = [
    "Projection",
    "project_onto_ball",
    "project_onto_ball_and_simplices",
    "project_onto_simplex",
    "smallest_feasible_norm",
]

FloatArray = NDArray[np.float64]

ARMIJO = 1e-4
#: the penalty grows by this factor when an outer step has not cut the residual to a quarter
GROWTH = 5.0


def project_onto_simplex(rows: FloatArray) -> FloatArray:
    """Each row of an ``(n, S)`` array moved to the nearest probability vector (sort and threshold).

    >>> project_onto_simplex(np.array([[0.5, 1.5], [0.2, 0.2]])).tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """
    descending = -np.sort(-rows, axis=1)
    excess = (np.cumsum(descending, axis=1) - 1.0) / np.arange(1, rows.shape[1] + 1)
    support = (descending > excess).sum(axis=1)
    threshold = excess[np.arange(len(rows)), np.maximum(support, 1) - 1]
    return np.maximum(rows - threshold[:, None], 0.0)


def project_onto_ball(c: FloatArray, radius: float) -> FloatArray:
    """``c`` scaled down to norm ``radius`` if it is longer."""
    norm = float(np.linalg.norm(c))
    return c if norm <= radius else c * (radius / norm)


@dataclass(frozen=True, eq=False)
class Projection:
    """What `project_onto_ball_and_simplices` found.

    Attributes:
        point: ``(r,)`` the projection.
        residual: largest violation of a constraint: distance of a row from its simplex (per entry), or of the norm
            from the radius.
        iterations: Newton steps.
        converged: the residual and the optimality error are within the tolerance.
    """

    point: FloatArray
    residual: float
    iterations: int
    converged: bool


def project_onto_ball_and_simplices(
    point: ArrayLike,
    phi: ArrayLike,
    size: int,
    radius: float = math.inf,
    *,
    tol: float = 1e-10,
    max_iterations: int = 500,
) -> Projection:
    """The nearest c to a point with ``||c|| <= radius`` and every row of ``phi c`` a probability vector.

    The projection oracle that ChunkKR assumes (Rohatgi et al. 2025, arXiv 2502.12465; our reading): "f >= 0 and
    sum f = 1 at every data prefix" in a ball of the kernel space. Method: augmented Lagrangian, whose piecewise
    quadratic subproblems are solved by a semismooth Newton method with line search; it ends after finitely many
    active sets and is accurate to rounding where the problem is not degenerate.

    Args:
        point: ``(r,)``.
        phi: ``(n * size, r)``; the n rows of ``phi c`` are its consecutive blocks of ``size``.
        size: S, entries a row.
        radius: of the ball; ``inf`` for none.
        tol: on the constraint residual and on the gradient.
        max_iterations: Newton steps.

    Returns:
        A `Projection`. Look at ``converged``.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or no point satisfies the constraints; the
            message names the radius and the smallest feasible one found.

    >>> project_onto_ball_and_simplices([2.0, 0.0], np.eye(2), 2).point.round(6).tolist()
    [1.0, 0.0]
    """
    x, matrix = np.asarray(point, dtype=np.float64), np.asarray(phi, dtype=np.float64)
    size = check_int("size", size, minimum=1)
    if not math.isinf(radius):
        radius = check_real("radius", radius, minimum=0.0)
    if matrix.ndim != 2 or x.shape != (matrix.shape[1],) or matrix.shape[0] % size or not matrix.shape[0]:
        raise ValueError(
            f"point has shape {x.shape} and phi {matrix.shape}; (r,) and (n * {size}, r) with n >= 1 are needed."
        )
    if not (np.isfinite(x).all() and np.isfinite(matrix).all()):
        raise ValueError("point and phi must hold finite numbers.")
    found = _solve(x, matrix, size, radius, tol, max_iterations)
    if found.residual > max(1e-6, tol):
        smallest = smallest_feasible_norm(matrix, size, max_iterations=max_iterations)
        if smallest > radius * (1 + 1e-7):
            raise ValueError(
                f"no point satisfies the constraints: radius={radius:g} is too small, the smallest feasible radius "
                f"found is {smallest:.6g}."
            )
    return found


def smallest_feasible_norm(phi: FloatArray, size: int, *, tol: float = 1e-9, max_iterations: int = 500) -> float:
    """Norm of the shortest c for which every row of ``phi c`` is a probability vector.

    Raises:
        ValueError: no c at all does (the rows' sums are not all 1 for any c).
    """
    found = _solve(np.zeros(phi.shape[1]), phi, size, math.inf, tol, max_iterations)
    if found.residual > 1e-6:
        raise ValueError(
            "no point satisfies the constraints, whatever the radius: the nearest found misses them by "
            f"{found.residual:.3g}. phi cannot represent a probability vector in every row."
        )
    return float(np.linalg.norm(found.point))


def _solve(x: FloatArray, phi: FloatArray, size: int, radius: float, tol: float, max_iterations: int) -> Projection:
    c = project_onto_ball(x, radius)
    row_dual, ball_dual = np.zeros(len(phi)), np.zeros(len(x))
    penalty = 10.0 / max(float(np.square(phi).sum(axis=1).mean()), 1e-12)
    problem = _Augmented(x, phi, size, radius)
    residual = previous = math.inf
    steps, slope = 0, math.inf
    while steps < max_iterations:
        problem.set(row_dual, ball_dual, penalty)
        target = max(0.1 * tol, min(1e-3, 0.01 * residual))
        c, used, slope = problem.minimise(c, target, max_iterations - steps)
        steps += used
        row_dual, ball_dual = problem.multipliers(c)
        residual = problem.violation(c)
        if residual <= tol and slope <= max(tol, 1e-13 * (1.0 + float(np.abs(row_dual).max()))):
            break
        if residual > 0.25 * previous or used == 0:
            if penalty > 1e14:
                break
            penalty *= GROWTH
        previous = residual
    return Projection(project_onto_ball(c, radius), residual, steps, residual <= tol)


class _Augmented:
    """The augmented Lagrangian of the projection.

    |c - x|^2 / 2 + penalty / 2 [dist^2(phi c + row_dual / penalty, simplices) + dist^2(c + ball_dual / penalty, ball)]
    """

    def __init__(self, x: FloatArray, phi: FloatArray, size: int, radius: float) -> None:
        self.x, self.phi, self.size, self.radius = x, phi, size, radius
        self.penalty = 1.0
        self.row_dual, self.ball_dual = np.zeros(len(phi)), np.zeros(len(x))

    def set(self, row_dual: FloatArray, ball_dual: FloatArray, penalty: float) -> None:
        self.row_dual, self.ball_dual, self.penalty = row_dual, ball_dual, penalty

    def _parts(self, c: FloatArray, f: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Shifted rows' projection and offset from it, shifted point and its offset from the ball."""
        shifted = (f + self.row_dual / self.penalty).reshape(-1, self.size)
        nearest = project_onto_simplex(shifted)
        moved = c + self.ball_dual / self.penalty
        return nearest, (shifted - nearest).ravel(), moved, moved - project_onto_ball(moved, self.radius)

    def _value(self, c: FloatArray, f: FloatArray) -> float:
        _, rows, _, ball = self._parts(c, f)
        return 0.5 * float(np.square(c - self.x).sum()) + 0.5 * self.penalty * float(rows @ rows + ball @ ball)

    def violation(self, c: FloatArray) -> float:
        f = (self.phi @ c).reshape(-1, self.size)
        over = float(np.linalg.norm(c)) - self.radius
        return max(float(np.abs(f - project_onto_simplex(f)).max()), over)

    def multipliers(self, c: FloatArray) -> tuple[FloatArray, FloatArray]:
        _, rows, _, ball = self._parts(c, self.phi @ c)
        return self.penalty * rows, self.penalty * ball

    def minimise(self, c: FloatArray, target: float, budget: int) -> tuple[FloatArray, int, float]:
        """Semismooth Newton steps until the gradient norm is at most ``target``: point, steps, gradient norm."""
        f = self.phi @ c
        value = self._value(c, f)
        slope = math.inf
        for step in range(budget + 1):
            nearest, rows, moved, ball = self._parts(c, f)
            gradient = c - self.x + self.penalty * (rows @ self.phi + ball)
            slope = float(np.linalg.norm(gradient))
            if slope <= target or step == budget:
                return c, step, slope
            direction = -self._newton(gradient, nearest > 0, moved)
            along, down, length = self.phi @ direction, float(gradient @ direction), 1.0
            while length > 1e-10:
                trial, trial_f = c + length * direction, f + length * along
                trial_value = self._value(trial, trial_f)
                if trial_value <= value + ARMIJO * length * down + 1e-15 * abs(value):
                    break
                length *= 0.5
            else:  # rounding: no descent to be had
                return c, step, slope
            if bool((trial == c).all()):
                return c, step, slope
            c, f, value = trial, trial_f, trial_value
        return c, budget, slope

    def _newton(self, gradient: FloatArray, support: NDArray[np.bool_], moved: FloatArray) -> FloatArray:
        """(a I + W^T W)^-1 gradient, W from the generalised Jacobians of the two projections."""
        blocks = self.phi.reshape(*support.shape, -1)
        mean = np.einsum("ns,nsr->nr", support.astype(np.float64), blocks)
        mean /= np.sqrt(np.maximum(support.sum(axis=1), 1))[:, None]
        root = math.sqrt(self.penalty)
        parts = [root * self.phi[~support.ravel()], root * mean]
        scale, norm = 1.0, float(np.linalg.norm(moved))
        if norm > self.radius:
            shrink = self.radius / norm
            scale += self.penalty * (1.0 - shrink)
            parts.append((root * math.sqrt(shrink) / norm) * moved[None, :])
        w = np.concatenate(parts)
        gram = w.T @ w
        gram[np.diag_indices_from(gram)] += scale
        return cho_solve(cho_factor(gram, overwrite_a=True, check_finite=False), gradient, check_finite=False)
