"""Newton's method with conjugate gradients in a Euclidean ball, for softmax losses of 10^3 to 10^6 weights.

Minimised is ``f(W) + mu |W|^2 / 2`` while the multiplier mu is steered to where ``|W| = radius``, or to nothing if the
minimum lies inside. Each iteration solves two systems with ``H + mu I`` by conjugate gradients, preconditioned by the
diagonal: one for the Newton step, one for the change of the solution with mu, from which the next mu follows by
Hebden's rule (``1 / |W|`` is nearly linear in mu). The step to the new mu is searched for a decrease.

Certificate: the Frank-Wolfe gap ``<g, W> + radius |g|``, which by convexity bounds ``f(W) - min f`` over the ball. It
is the smallest over mu of ``|g + mu W|^2 / (2 mu) + mu (radius^2 - |W|^2) / 2``, the bound that strong convexity of the
penalised loss gives. So on the sphere, at the right multiplier, it is quadratic in the error of stationarity and not
loose, however large the radius: on text, where tokens that were never seen pull the solution outwards, that is the
rule. Inside the ball it is linear in the gradient, which Newton's method makes as small as rounding lets it be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.indicator_rows import IndicatorRows

__all__ = ["IndicatorFit", "newton_cg_in_ball"]

FloatArray = NDArray[np.float64]

ACCURACY = 0.2  # relative, of the two solutions of an iteration
CG_STEPS = 200
MOST = 10.0  # change of mu in one iteration, as a factor
PATIENCE = 40  # iterations without a smaller gap: on separable data in a large ball it can stand still for twenty


@dataclass(frozen=True, eq=False)
class IndicatorFit:
    """Where `newton_cg_in_ball` ended: ``(c, A)`` weights, their loss, its certified gap, and the multiplier."""

    weights: FloatArray
    loss: float
    gap: float
    iterations: int
    multiplier: float


def newton_cg_in_ball(rows: IndicatorRows, radius: float, tol: float, max_iterations: int) -> IndicatorFit:
    """Minimise the rows' loss over ``|W| <= radius`` until the certified gap is at most ``tol`` (nats a sequence).

    Stops early where the gap no longer falls.

    Args:
        rows: the data.
        radius: of the ball, > 0.
        tol: gap to reach.
        max_iterations: Newton iterations, of up to 400 passes over the data each (10 to 20, of 30, are usual).
    """
    weights = np.zeros_like(rows.targets)
    loss, gradient = rows.loss_and_gradient(weights)
    mu = float(np.linalg.norm(gradient)) / (3 * radius)  # |W| at the minimum is at most |g(0)| / mu
    best = IndicatorFit(weights, loss, _gap(weights, gradient, radius), 0, mu)
    since = iteration = 0
    while best.gap > tol and iteration < max_iterations and since < PATIENCE:
        iteration += 1
        diagonal = rows.hessian_diagonal()
        # less penalty would not lower the gap by what matters, and let rounding decide where the loss is flat
        least = max(0.1 * tol / radius**2, 1e-14 * float(diagonal.max()))
        scales = diagonal + mu
        step = _solve(rows, mu, -(gradient + mu * weights), scales)
        target = weights + step
        norm = float(np.linalg.norm(target))
        shift = _solve(rows, mu, target, scales)  # minus the derivative of the target in mu
        slope = float(np.vdot(target, shift))
        new = mu + (norm - radius) / radius * norm**2 / slope if slope > 0.0 else mu / MOST
        new = max(min(max(new, mu / MOST), mu * MOST), least)
        step -= (new - mu) * shift
        mu = new
        weights, loss, gradient = _search(rows, radius, mu, weights, step, loss, gradient)
        gap = _gap(weights, gradient, radius)
        since = 0 if gap < best.gap else since + 1
        if gap < best.gap:
            best = IndicatorFit(weights, loss, gap, iteration, mu)
    return IndicatorFit(best.weights, best.loss, best.gap, iteration, best.multiplier)


def _gap(weights: FloatArray, gradient: FloatArray, radius: float) -> float:
    return max(float(np.vdot(gradient, weights)) + radius * float(np.linalg.norm(gradient)), 0.0)


def _search(
    rows: IndicatorRows,
    radius: float,
    mu: float,
    weights: FloatArray,
    step: FloatArray,
    loss: float,
    gradient: FloatArray,
) -> tuple[FloatArray, float, FloatArray]:
    """The first of the points ``W + 2^-k step``, put back into the ball, where the penalised loss is lower."""

    def penalised(weights: FloatArray, loss: float) -> float:
        return loss + 0.5 * mu * float(np.vdot(weights, weights))

    before = penalised(weights, loss)
    slope = min(float(np.vdot(gradient + mu * weights, step)), 0.0)
    scale = 1.0
    while True:
        trial = weights + scale * step
        trial *= min(1.0, radius / max(float(np.linalg.norm(trial)), 1e-300))
        trial_loss, trial_gradient = rows.loss_and_gradient(trial)
        if penalised(trial, trial_loss) <= before + 1e-4 * scale * slope + 1e-13 * abs(before) or scale < 1e-6:
            return trial, trial_loss, trial_gradient
        scale *= 0.5


def _solve(rows: IndicatorRows, mu: float, right: FloatArray, scales: FloatArray) -> FloatArray:
    """``(H + mu I)^-1 right`` by conjugate gradients from zero, to a fifth of the norm of ``right`` in 1 / scales."""
    x, residual = np.zeros_like(right), right.copy()
    scaled = residual / scales
    direction = scaled.copy()
    size = start = float(np.vdot(residual, scaled))
    for _ in range(CG_STEPS):
        if size <= ACCURACY**2 * start:
            break
        product = rows.hessian_times(direction) + mu * direction
        along = size / float(np.vdot(direction, product))
        x += along * direction
        residual -= along * product
        scaled = residual / scales
        size, last = float(np.vdot(residual, scaled)), size
        direction = scaled + (size / last) * direction
    return x
