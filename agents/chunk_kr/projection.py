"""The projection oracle of ChunkKR: onto a norm ball intersected with a product of simplices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.chunk_kr.augmented import RowTerm, minimise_augmented, project_onto_ball
from ntp_envs._validation import check_int, check_real

__all__ = [
    "Projection",
    "project_onto_ball",
    "project_onto_ball_and_simplices",
    "project_onto_simplex",
    "smallest_feasible_norm",
]

FloatArray = NDArray[np.float64]


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


@dataclass(frozen=True, eq=False)
class Projection:
    """What `project_onto_ball_and_simplices` found.

    Attributes:
        point: ``(r,)`` the projection.
        residual: largest violation of a constraint: distance of a row from its simplex (per entry), or of the norm
            from the radius.
        iterations: Newton steps.
        slope: optimality error: the norm of the gradient of the last subproblem, in the units of ``point``.
        converged: the residual and the slope are within the tolerance, or the slope is as small as rounding allows.
    """

    point: FloatArray
    residual: float
    slope: float
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
    found = minimise_augmented(
        _Simplices(),
        phi,
        size,
        radius,
        x,
        anchor=1.0,
        moving=False,
        penalty=10.0 / max(float(np.square(phi).sum(axis=1).mean()), 1e-12),
        tol=tol,
        max_steps=max_iterations,
    )
    return Projection(found.c, found.residual, found.slope, found.steps, found.converged)


class _Simplices(RowTerm):
    """The indicator of the simplex."""

    def prox(self, points: FloatArray, penalty: float) -> tuple[FloatArray, FloatArray]:
        nearest = project_onto_simplex(points)
        return nearest, (nearest > 0).astype(np.float64)

    def value(self, rows: FloatArray) -> float:
        return 0.0
