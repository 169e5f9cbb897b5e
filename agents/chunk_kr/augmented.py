"""Augmented Lagrangian with semismooth Newton steps, shared by the projection oracle and the likelihood solver.

Both minimise ``q/2 |c - x|^2 + sum_i h_i(row i of phi c)`` over a ball, h_i convex on the simplex: zero for the
projection, ``-sum w log`` for the likelihood. Each subproblem is piecewise smooth with an explicit generalised
Hessian (Li, Sun and Toh 2018, SIAM J. Optim. 28, for this kind of method).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

__all__ = ["AugmentedResult", "RowTerm", "minimise_augmented", "project_onto_ball"]

FloatArray = NDArray[np.float64]

ARMIJO = 1e-4
#: the penalty grows by this factor when an outer step has not cut the residual to a quarter
GROWTH = 5.0
LARGEST_PENALTY = 1e14
#: floats of phi copied at once
BLOCK = 2**22


def project_onto_ball(c: FloatArray, radius: float) -> FloatArray:
    """``c`` scaled down to norm ``radius`` if it is longer."""
    norm = float(np.linalg.norm(c))
    return c if norm <= radius else c * (radius / norm)


class RowTerm(ABC):
    """A convex function of each row of an ``(n, S)`` array, through its proximal map."""

    @abstractmethod
    def prox(self, points: FloatArray, penalty: float) -> tuple[FloatArray, FloatArray]:
        """``argmin_z h(z) + penalty/2 |z - p|^2`` and slopes d in [0, 1], ``(n, S)`` each.

        The Jacobian of a row's map is ``diag(d) - d d^T / sum(d)``.
        """

    @abstractmethod
    def value(self, rows: FloatArray) -> float:
        """``sum_i h_i`` at rows that `prox` returned."""


@dataclass(frozen=True, eq=False)
class AugmentedResult:
    """Where the method ended.

    Attributes:
        c: ``(r,)`` in the ball.
        rows: ``(n, S)`` the copy of ``phi c`` in the simplices.
        row_dual: ``(n * S,)`` multipliers of ``phi c = rows``.
        ball_dual: ``(r,)`` multipliers of the ball.
        residual: largest ``|phi c - rows|``, or excess of the norm.
        steps: Newton steps.
        slope: gradient norm of the last subproblem.
        converged: residual, slope and the pull of a moving anchor are within the tolerance (the last two at least as
            small as rounding allows).
    """

    c: FloatArray
    rows: FloatArray
    row_dual: FloatArray
    ball_dual: FloatArray
    residual: float
    steps: int
    slope: float
    converged: bool


def minimise_augmented(
    term: RowTerm,
    phi: FloatArray,
    size: int,
    radius: float,
    start: FloatArray,
    *,
    anchor: float,
    moving: bool,
    penalty: float,
    tol: float,
    max_steps: int,
    row_dual: FloatArray | None = None,
    ball_dual: FloatArray | None = None,
) -> AugmentedResult:
    """Minimise ``anchor/2 |c - start|^2 + sum_i h_i(row i of phi c)`` subject to ``||c|| <= radius``.

    Args:
        term: the h_i.
        phi: ``(n * size, r)``.
        size: S.
        radius: may be ``inf``.
        start: ``(r,)``.
        anchor: weight of the quadratic, > 0.
        moving: the anchor follows c from one outer step to the next, and so drops out of the problem (proximal
            method of multipliers).
        penalty: first weight of the constraints.
        tol: on the residual, and on the gradient.
        max_steps: Newton steps.
        row_dual, ball_dual: multipliers to start from.
    """
    problem = _Augmented(term, start, phi, size, radius, anchor, penalty)
    if row_dual is not None and ball_dual is not None:
        problem.row_dual, problem.ball_dual = row_dual, ball_dual
    c = project_onto_ball(start, radius)
    residual = previous = math.inf
    steps, slope, converged = 0, math.inf, False
    rows = np.zeros((len(phi) // size, size))
    while steps < max_steps:
        target = max(0.1 * tol, min(1e-3, 0.01 * residual))
        c, used, slope = problem.minimise(c, target, max_steps - steps)
        steps += used
        rows, residual, drift = problem.update(c, moving)
        rounding = 1e-13 * (1.0 + float(np.abs(problem.row_dual).max()))
        converged = residual <= tol and max(slope, drift) <= max(tol, rounding)
        if converged:
            break
        if residual > 0.25 * previous or used == 0:
            if problem.penalty >= LARGEST_PENALTY:
                break
            problem.penalty *= GROWTH
        previous = residual
    return AugmentedResult(
        project_onto_ball(c, radius), rows, problem.row_dual, problem.ball_dual, residual, steps, slope, converged
    )


class _Augmented:
    """anchor/2 |c - x|^2 + min_z [h(z) + penalty/2 |z - phi c - row_dual/penalty|^2] + the same for the ball."""

    def __init__(
        self,
        term: RowTerm,
        x: FloatArray,
        phi: FloatArray,
        size: int,
        radius: float,
        anchor: float,
        penalty: float,
    ) -> None:
        self.term, self.x, self.phi, self.size, self.radius = term, x, phi, size, radius
        self.anchor, self.penalty = anchor, penalty
        self.row_dual, self.ball_dual = np.zeros(len(phi)), np.zeros(len(x))

    def _parts(self, c: FloatArray, f: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Rows' proximal point, its slopes, the offset from it; shifted point and its offset from the ball."""
        shifted = (f + self.row_dual / self.penalty).reshape(-1, self.size)
        rows, slopes = self.term.prox(shifted, self.penalty)
        moved = c + self.ball_dual / self.penalty
        return rows, slopes, (shifted - rows).ravel(), moved, moved - project_onto_ball(moved, self.radius)

    def _value(self, c: FloatArray, rows: FloatArray, offset: FloatArray, ball: FloatArray) -> float:
        quadratic = 0.5 * self.anchor * float(np.square(c - self.x).sum())
        return quadratic + self.term.value(rows) + 0.5 * self.penalty * float(offset @ offset + ball @ ball)

    def update(self, c: FloatArray, moving: bool) -> tuple[FloatArray, float, float]:
        """New multipliers (and anchor): the rows, the residual, and the pull of the anchor that was left behind."""
        f = self.phi @ c
        rows, _, offset, _, ball = self._parts(c, f)
        self.row_dual, self.ball_dual = self.penalty * offset, self.penalty * ball
        residual = max(float(np.abs(f.reshape(rows.shape) - rows).max()), float(np.linalg.norm(c)) - self.radius)
        drift = self.anchor * float(np.linalg.norm(c - self.x)) if moving else 0.0
        if moving:
            self.x = c
        return rows, residual, drift

    def minimise(self, c: FloatArray, target: float, budget: int) -> tuple[FloatArray, int, float]:
        """Semismooth Newton steps until the gradient norm is at most ``target``: point, steps, gradient norm."""
        f = self.phi @ c
        rows, slopes, offset, moved, ball = self._parts(c, f)
        value = self._value(c, rows, offset, ball)
        slope = math.inf
        for step in range(budget + 1):
            gradient = self.anchor * (c - self.x) + self.penalty * (offset @ self.phi + ball)
            slope = float(np.linalg.norm(gradient))
            if slope <= target or step == budget:
                return c, step, slope
            direction = -self._newton(gradient, slopes, moved)
            along, down, length = self.phi @ direction, float(gradient @ direction), 1.0
            while length > 1e-10:
                trial, trial_f = c + length * direction, f + length * along
                rows, slopes, offset, moved, ball = self._parts(trial, trial_f)
                trial_value = self._value(trial, rows, offset, ball)
                if trial_value <= value + ARMIJO * length * down + 1e-15 * abs(value):
                    break
                length *= 0.5
            else:  # rounding: no descent to be had
                return c, step, slope
            if bool((trial == c).all()):
                return c, step, slope
            c, f, value = trial, trial_f, trial_value
        return c, budget, slope

    def _newton(self, gradient: FloatArray, slopes: FloatArray, moved: FloatArray) -> FloatArray:
        """(anchor I + W^T W)^-1 gradient, W from the generalised Jacobians of the two proximal maps."""
        total = np.maximum(slopes.sum(axis=1), 1e-300)
        blocks = self.phi.reshape(*slopes.shape, -1)
        mean = (slopes[:, None, :] @ blocks)[:, 0] * np.sqrt(self.penalty / total)[:, None]
        hessian = mean.T @ mean
        stiff = np.sqrt(np.maximum(self.penalty * (1.0 - slopes.ravel()), 0.0))
        bent = np.flatnonzero(stiff)
        step = max(1, BLOCK // self.phi.shape[1])
        for start in range(0, len(bent), step):
            rows = bent[start : start + step]
            part = stiff[rows, None] * self.phi[rows]
            hessian += part.T @ part
        scale, norm = self.anchor, float(np.linalg.norm(moved))
        if norm > self.radius:
            shrink = self.radius / norm
            scale += self.penalty * (1.0 - shrink)
            hessian += (self.penalty * shrink / norm**2) * np.outer(moved, moved)
        hessian[np.diag_indices_from(hessian)] += scale + 1e-15 * float(hessian.diagonal().max())
        return cho_solve(cho_factor(hessian, overwrite_a=True, check_finite=False), gradient, check_finite=False)
