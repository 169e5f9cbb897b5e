"""Newton's method in a Euclidean ball for sums of softmax losses, with a certificate of optimality."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.softmax_rows import SoftmaxRows

__all__ = ["BallFit", "Curvature", "certified_gap", "minimise_quadratic_in_ball", "newton_in_ball"]

FloatArray = NDArray[np.float64]

FULL_HESSIAN_WORK = 3e9  # multiplications: below it a Hessian pass costs about as much as a few gradient passes
CHEAP_HESSIAN_WORK = 1e8  # below it a Hessian is computed at every iteration


@dataclass(frozen=True)
class Curvature:
    """A Hessian (or an estimate of it) at ``theta``, diagonalised.

    ``exact`` says that it is the Hessian of the whole objective, so that it may be used in a certificate.
    """

    theta: FloatArray
    eigenvalues: FloatArray
    vectors: FloatArray
    exact: bool

    @classmethod
    def of(cls, theta: FloatArray, hessian: FloatArray, *, exact: bool, ridge: float = 0.0) -> Curvature:
        eigenvalues, vectors = np.linalg.eigh(hessian)
        floor = 1e-14 * max(float(eigenvalues[-1]), 1e-300)
        return cls(theta, np.maximum(eigenvalues, 0.0 if exact else floor) + ridge, vectors, exact)


def minimise_quadratic_in_ball(curvature: Curvature, linear: FloatArray, radius: float) -> tuple[FloatArray, float]:
    """``argmin_w  w' B w / 2 + <linear, w>`` over ``||w|| <= radius``, and the multiplier mu of the constraint.

    ``w = -(B + mu I)^-1 linear`` with mu = 0 inside the ball; on the sphere mu solves ``||w|| = radius``, a decreasing
    function found by Newton's iteration on ``1/||w||`` kept in a bracket.
    """
    b = curvature.vectors.T @ linear
    values = curvature.eigenvalues
    floor = 1e-15 * max(float(values[-1]), 1e-300)
    safe = np.maximum(values, floor)

    def norm(mu: float) -> float:
        return float(np.linalg.norm(b / (safe + mu)))

    mu = 0.0
    if norm(0.0) > radius:
        low, high = 0.0, float(np.linalg.norm(b)) / radius
        for _ in range(200):
            size = norm(mu)
            low, high = (mu, high) if size > radius else (low, mu)
            if abs(size - radius) <= 1e-14 * radius or high - low <= 1e-16 * high:
                break
            slope = float((b**2 / (safe + mu) ** 3).sum()) / size  # -d||w||/dmu
            step = mu + (size - radius) / radius * size / slope
            mu = step if low < step < high else 0.5 * (low + high)
    w = curvature.vectors @ (-b / (safe + mu))
    return w * min(1.0, radius / max(float(np.linalg.norm(w)), 1e-300)), mu


def certified_gap(
    theta: FloatArray, gradient: FloatArray, radius: float, spread: float, curvature: Curvature | None
) -> float:
    """An upper bound on ``f(theta) - min f`` over the ball, for a convex f; the smaller of two.

    * First order: ``<g, theta> + radius ||g||`` (the Frank-Wolfe gap).
    * Second order, with an exact Hessian H at theta_H. Along any v a softmax loss with features of spread s has
      ``|f'''| <= s ||v|| f''`` (generalised self-concordance, Bach 2010, "Self-concordant analysis for logistic
      regression", eq. 5), hence ``f(theta + v) >= f + <g, v> + kappa v' H v`` with
      ``kappa = exp(-s ||theta - theta_H||) (e^-x + x - 1)/x^2`` and ``x = s (radius + ||theta||)``. Lagrangian duality
      over ``||theta + v|| <= radius`` then bounds the gap, for every mu >= 0, by
      ``(g + mu theta)' (2 kappa H + mu I)^-1 (g + mu theta) / 2 + mu (radius^2 - ||theta||^2) / 2``.
    """
    norm = float(np.linalg.norm(theta))
    first = float(gradient @ theta) + radius * float(np.linalg.norm(gradient))
    if curvature is None or not curvature.exact:
        return max(first, 0.0)
    x = spread * (radius + norm)
    shrink = 0.5 - x / 6 if x < 1e-4 else (math.exp(-x) + x - 1) / x**2
    kappa = shrink * math.exp(-spread * float(np.linalg.norm(theta - curvature.theta)))
    g, t = curvature.vectors.T @ gradient, curvature.vectors.T @ theta
    top = max(float(curvature.eigenvalues[-1]), 1e-300)
    slack = max(radius**2 - norm**2, 0.0)

    sure = np.maximum(curvature.eigenvalues - 1e-14 * top, 0.0)  # less what rounding may have added

    def bounds(mus: FloatArray) -> FloatArray:
        lifted = (g + mus[:, None] * t) ** 2 / (2 * kappa * sure + mus[:, None])
        return 0.5 * lifted.sum(axis=1) + 0.5 * mus * slack

    mus = np.append(top * np.logspace(-22, 3, 126), -float(g @ t) / max(norm**2, 1e-300))
    mus = np.maximum(mus, top * 1e-22)
    values = bounds(mus)
    centre = mus[int(values.argmin())]
    values = np.append(values, bounds(centre * np.logspace(-0.2, 0.2, 41)))
    return max(min(first, float(values.min())), 0.0)


@dataclass(frozen=True)
class BallFit:
    """Where `newton_in_ball` ended."""

    theta: FloatArray
    loss: float
    gap: float
    iterations: int
    curvature: Curvature


def newton_in_ball(
    rows: SoftmaxRows,
    radius: float,
    theta: FloatArray,
    tol: float,
    max_iterations: int,
    *,
    curvature: Curvature | None = None,
) -> BallFit:
    """Minimise the rows' loss over ``||theta|| <= radius`` until the certified gap is at most ``tol``.

    Each iteration minimises a quadratic model in the ball and searches the segment to its minimiser, which stays in
    the ball. The Hessian is renewed at every iteration where that is cheap, otherwise when at the present rate the
    gradient passes still needed would cost more than a new one.
    """
    spread = rows.features.spread
    cheap = rows.hessian_work() <= CHEAP_HESSIAN_WORK
    loss, gradient = rows.loss_and_gradient(theta)
    if curvature is None:
        curvature = Curvature.of(theta, rows.hessian(theta), exact=True)
    gap = certified_gap(theta, gradient, radius, spread, curvature)
    best = BallFit(theta, loss, gap, 0, curvature)
    born, age = gap, 0  # gap when the present Hessian was new, iterations since
    stuck, iteration = 0, 0
    while best.gap > tol and iteration < max_iterations and stuck < 8:
        iteration += 1
        model = curvature.vectors @ (curvature.eigenvalues * (curvature.vectors.T @ theta))
        target, _ = minimise_quadratic_in_ball(curvature, gradient - model, radius)
        move = target - theta
        slope = float(gradient @ move)
        noise = 1e-13 * max(abs(loss), 1e-300)
        scale = 1.0
        while True:
            trial = theta + scale * move
            trial_loss, trial_gradient = rows.loss_and_gradient(trial)
            if trial_loss <= loss + 1e-4 * scale * slope + noise or scale < 1e-10:
                break
            scale *= 0.5 if scale > 0.2 else 0.2
        theta, loss, gradient = trial, trial_loss, trial_gradient
        new_gap = certified_gap(theta, gradient, radius, spread, curvature)
        age += 1
        passes = _passes_left(born, new_gap, tol, age)
        if new_gap > tol and (cheap or (age > 1 and passes * rows.gradient_work() > rows.hessian_work())):
            curvature = Curvature.of(theta, rows.hessian(theta), exact=True)
            new_gap = certified_gap(theta, gradient, radius, spread, curvature)
            born, age = new_gap, 0
        gap = new_gap
        stuck = 0 if gap < 0.999 * best.gap else stuck + 1
        if gap < best.gap or loss < best.loss - noise:
            best = BallFit(theta, loss, gap, iteration, curvature)
    return BallFit(best.theta, best.loss, best.gap, iteration, best.curvature)


def _passes_left(before: float, after: float, tol: float, iterations: int) -> float:
    """Iterations until the gap is ``tol`` if it goes on falling as from ``before`` to ``after``."""
    if after <= tol:
        return 0.0
    if after >= before or tol <= 0.0:
        return math.inf
    return iterations * math.log(after / tol) / math.log(before / after)
