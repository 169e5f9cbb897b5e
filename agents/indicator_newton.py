"""Newton's method with conjugate gradients in a Euclidean ball, for softmax losses of 10^3 to 10^6 weights.

Each iteration minimises the quadratic model of the loss at W over the ball, and searches the segment to its minimiser
for a decrease; the segment stays in the ball. The minimum of the model over a few directions is exact (they are made
orthonormal, and the small problem is diagonalised): W itself, the Newton step ``-(H + mu I)^-1 (g + mu W)`` at the last
multiplier mu, and how its end changes with mu, which together reach the sphere or the inside, whichever is right. Both
systems are solved by conjugate gradients, preconditioned by the diagonal. More such pairs are added, from where the
minimum over those before lies, until the model is minimised as accurately as it predicts the loss.

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

from agents.ball_newton import Curvature, minimise_quadratic_in_ball
from agents.indicator_rows import IndicatorRows

__all__ = ["IndicatorFit", "newton_cg_in_ball"]

FloatArray = NDArray[np.float64]

ACCURACY = 0.2  # relative, of a model's minimum, at most; and of the solutions that serve as directions
ROUNDS = 4  # pairs of directions an iteration
CG_STEPS = 200
PATIENCE = 20  # iterations without a smaller gap


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
        max_iterations: Newton iterations (5 to 30 are usual, of 5 to 100 passes over the data each).
    """
    weights = np.zeros_like(rows.targets)
    loss, gradient = rows.loss_and_gradient(weights)
    mu = float(np.linalg.norm(gradient)) / (3 * radius)  # |W| at the minimum is at most |g(0)| / mu
    best = IndicatorFit(weights, loss, _gap(weights, gradient, radius), 0, mu)
    noise = 2e-15 * float(rows.totals.sum())  # rounding of a gradient
    since = iteration = 0
    accuracy, rounds = ACCURACY, 1
    while best.gap > tol and iteration < max_iterations and since < PATIENCE:
        iteration += 1
        before = float(np.linalg.norm(gradient + mu * weights))
        # less penalty would not lower the gap by what matters, and let rounding decide where the loss is flat
        target, mu, left = _minimise_model(rows, radius, weights, gradient, mu, 0.1 * tol / radius**2, accuracy, rounds)
        weights, loss, gradient, scale = _search(rows, radius, weights, target, loss, gradient)
        if scale == 1.0:  # what the model did not foresee bounds what its minimum is worth (Eisenstat and Walker 1996)
            unforeseen = abs(float(np.linalg.norm(gradient + mu * weights)) - left)
            accuracy, rounds = min(max(unforeseen, noise) / before, ACCURACY), ROUNDS
        else:
            accuracy, rounds = ACCURACY, 1
        gap = _gap(weights, gradient, radius)
        since = 0 if gap < best.gap else since + 1
        if gap < best.gap:
            best = IndicatorFit(weights, loss, gap, iteration, mu)
    return IndicatorFit(best.weights, best.loss, best.gap, iteration, best.multiplier)


def _gap(weights: FloatArray, gradient: FloatArray, radius: float) -> float:
    return max(float(np.vdot(gradient, weights)) + radius * float(np.linalg.norm(gradient)), 0.0)


def _minimise_model(
    rows: IndicatorRows,
    radius: float,
    weights: FloatArray,
    gradient: FloatArray,
    mu: float,
    least: float,
    accuracy: float,
    rounds: int,
) -> tuple[FloatArray, float, float]:
    """About the w that minimises ``<g, w - W> + (w - W)' H (w - W) / 2`` in the ball, the multiplier mu of the ball
    there, and the norm of what is left of ``g + H (w - W) + mu w``, which is zero at the minimum."""
    diagonal = rows.hessian_diagonal()
    rounding = 1e-14 * float(diagonal.max())
    mu = max(mu, least)
    basis = _Basis(rows)
    basis.add(weights)
    norm = float(np.linalg.norm(weights))
    linear = gradient - norm * basis.images[0] if basis.images else gradient
    target, residual = weights, gradient + mu * weights
    start = float(np.linalg.norm(residual))
    for _ in range(rounds):
        penalty = max(mu, rounding)
        step = _solve(rows, penalty, -residual, diagonal + penalty, accuracy)
        basis.add(step)
        if mu > least or float(np.linalg.norm(target + step)) > radius:
            basis.add(_solve(rows, penalty, target + step, diagonal + penalty, ACCURACY))
        target, product, mu = basis.minimum(linear, radius, least)
        residual = linear + product + mu * target
        if float(np.linalg.norm(residual)) <= accuracy * start:
            break
    return target, mu, float(np.linalg.norm(residual))


class _Basis:
    """A few orthonormal directions, and the second derivatives applied to each."""

    def __init__(self, rows: IndicatorRows) -> None:
        self.rows = rows
        self.directions: list[FloatArray] = []
        self.images: list[FloatArray] = []

    def add(self, direction: FloatArray) -> None:
        """One more, unless it is zero or, but for rounding, in the span of the others."""
        norm = float(np.linalg.norm(direction))
        if norm == 0.0:
            return
        new = direction / norm
        for _ in range(2):
            for other in self.directions:
                new = new - float(np.vdot(other, new)) * other
        norm = float(np.linalg.norm(new))
        if norm > 1e-10:
            self.directions.append(new / norm)
            self.images.append(self.rows.hessian_times(self.directions[-1]))

    def minimum(self, linear: FloatArray, radius: float, least: float) -> tuple[FloatArray, FloatArray, float]:
        """The w in the span that minimises ``<linear, w> + w' (H + least I) w / 2`` in the ball, ``H w``, and least
        plus the multiplier."""
        hessian = np.array([[float(np.vdot(one, image)) for image in self.images] for one in self.directions])
        slopes = np.array([float(np.vdot(one, linear)) for one in self.directions])
        curvature = Curvature.of(slopes, 0.5 * (hessian + hessian.T), exact=False, ridge=least)
        at, mu = minimise_quadratic_in_ball(curvature, slopes, radius)
        w, product = np.zeros_like(linear), np.zeros_like(linear)
        for coordinate, direction, image in zip(at, self.directions, self.images):
            w += coordinate * direction
            product += coordinate * image
        return w, product, least + mu


def _search(
    rows: IndicatorRows, radius: float, weights: FloatArray, target: FloatArray, loss: float, gradient: FloatArray
) -> tuple[FloatArray, float, FloatArray, float]:
    """The first of the points ``W + 2^-k (target - W)`` where the loss is lower: with loss, gradient and 2^-k."""
    move = target - weights
    slope = min(float(np.vdot(gradient, move)), 0.0)
    scale = 1.0
    while True:
        trial = weights + scale * move
        trial *= min(1.0, radius / max(float(np.linalg.norm(trial)), 1e-300))  # rounding
        trial_loss, trial_gradient = rows.loss_and_gradient(trial)
        if trial_loss <= loss + 1e-4 * scale * slope + 1e-13 * abs(loss) or scale < 1e-6:
            return trial, trial_loss, trial_gradient, scale
        scale *= 0.5


def _solve(rows: IndicatorRows, mu: float, right: FloatArray, scales: FloatArray, accuracy: float) -> FloatArray:
    """``(H + mu I)^-1 right`` by conjugate gradients from zero, to ``accuracy`` times the norm of ``right`` in
    1 / scales."""
    x, residual = np.zeros_like(right), right.copy()
    scaled = residual / scales
    direction = scaled.copy()
    size = start = float(np.vdot(residual, scaled))
    for _ in range(CG_STEPS):
        if size <= accuracy**2 * start:
            break
        product = rows.hessian_times(direction) + mu * direction
        along = size / float(np.vdot(direction, product))
        x += along * direction
        residual -= along * product
        scaled = residual / scales
        size, last = float(np.vdot(residual, scaled)), size
        direction = scaled + (size / last) * direction
    return x
