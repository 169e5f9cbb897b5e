"""Minimisation in a Euclidean ball: Newton's method for softmax losses with a certificate, and descent for any loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agents.base import ConvergenceWarning, FitReport
from agents.linear_rows import IndicatorRows, SoftmaxRows
from ntp_envs.arrays import FloatArray, onto_ball

FULL_HESSIAN_WORK = 3e9  # multiplications: below it a Hessian pass costs about as much as a few gradient passes
CHEAP_HESSIAN_WORK = 1e8  # below it a Hessian is computed at every iteration
Loss = Callable[[FloatArray], tuple[float, FloatArray]]


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
    return onto_ball(w, radius), mu


def armijo(
    loss: Loss,
    start: FloatArray,
    move: FloatArray,
    ceiling: float,
    slope: float,
    *,
    least: float,
    radius: float = np.inf,
) -> tuple[FloatArray, float, FloatArray, float]:
    """The first of the points ``start + 2^-k move`` where the loss is as far below ``ceiling`` as the slope promises.

    Args:
        loss: with its gradient.
        start, move: the segment.
        ceiling: the loss at the start, and what rounding, or a search that is not monotone, may add.
        slope: of the loss at the start, along ``move``.
        least: the last 2^-k, whatever the loss there.
        radius: of a ball that the segment leaves by rounding alone.

    Returns:
        The point, its loss and gradient, and 2^-k.
    """
    scale = 1.0
    while True:
        trial = start + scale * move
        if radius < np.inf:
            trial = onto_ball(trial, radius)
        value, gradient = loss(trial)
        if value <= ceiling + 1e-4 * scale * slope or scale < least:
            return trial, value, gradient, scale
        scale *= 0.5


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


@dataclass(frozen=True, eq=False)
class CertifiedFit:
    """Where a solver ended: ``(d,)`` theta, its loss, its certified gap."""

    theta: FloatArray
    loss: float
    gap: float
    iterations: int


@dataclass(frozen=True, eq=False)
class BallFit(CertifiedFit):
    """Where `newton_in_ball` ended."""

    curvature: Curvature


def flat_directions(at_zero: FloatArray) -> FloatArray:
    """``(d, k)`` orthonormal columns: the directions in which theta changes no law on the data.

    They are those in which the Hessian at theta = 0 vanishes: there every law is uniform, and curvature vanishes only
    where the features of all tokens move together.
    """
    eigenvalues, vectors = np.linalg.eigh(at_zero)
    return vectors[:, eigenvalues <= len(eigenvalues) * np.finfo(np.float64).eps * max(float(eigenvalues[-1]), 1e-300)]


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

    The fit is the smallest of equally good ones: it has no part in directions that the data say nothing about. There
    Newton's equation gives the ratio of two rounding errors, which differs from processor to processor, and with it
    what would be predicted for prefixes that the data do not have.
    """
    spread = rows.features.spread
    cheap = rows.hessian_work() <= max(CHEAP_HESSIAN_WORK, 2 * rows.gradient_work())
    loss, gradient = rows.loss_and_gradient(theta)
    flat = np.zeros((len(theta), 0))

    def curved(theta: FloatArray, hessian: FloatArray) -> Curvature:
        if flat.shape[1]:  # curved there as much as anywhere, so that no eigenvector mixes them with the others
            hessian = hessian + max(float(np.trace(hessian)), 1e-300) * (flat @ flat.T)
        return Curvature.of(theta, hessian, exact=True)

    hessian = rows.hessian(theta) if curvature is None else None
    if hessian is not None:
        curvature = curved(theta, hessian)
    assert curvature is not None
    if curvature.eigenvalues[0] <= 1e-8 * curvature.eigenvalues[-1]:
        flat = flat_directions(hessian if hessian is not None and not theta.any() else rows.hessian(0.0 * theta))
        theta = theta - flat @ (flat.T @ theta)  # which changes no law, and so neither loss, gradient nor Hessian
        if flat.shape[1] and hessian is not None:
            curvature = curved(theta, hessian)
    gap = certified_gap(theta, gradient, radius, spread, curvature)
    best = BallFit(theta, loss, gap, 0, curvature)
    born, age = gap, 0  # gap when the present Hessian was new, iterations since
    stuck, iteration = 0, 0
    while best.gap > tol and iteration < max_iterations and stuck < 8:
        iteration += 1
        model = curvature.vectors @ (curvature.eigenvalues * (curvature.vectors.T @ theta))
        target, _ = minimise_quadratic_in_ball(curvature, gradient - model, radius)
        move = target - theta
        move -= flat @ (flat.T @ move)
        noise = 1e-13 * max(abs(loss), 1e-300)
        slope = float(gradient @ move)
        theta, loss, gradient, _ = armijo(rows.loss_and_gradient, theta, move, loss + noise, slope, least=1e-10)
        new_gap = certified_gap(theta, gradient, radius, spread, curvature)
        age += 1
        passes = _passes_left(born, new_gap, tol, age)
        if new_gap > tol and (cheap or (age > 1 and passes * rows.gradient_work() > rows.hessian_work())):
            curvature = curved(theta, rows.hessian(theta))
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


# -- Newton's method with conjugate gradients in a Euclidean ball, for softmax losses of 10^3 to 10^6 weights ---------
#
# Each iteration minimises the quadratic model of the loss at theta over the ball, and searches the segment to its
# minimiser for a decrease; the segment stays in the ball. The minimum of the model over a few directions is exact (they
# are made orthonormal, and the small problem is diagonalised): theta itself, the Newton step ``-(H + mu I)^-1 (g + mu
# theta)`` at the last multiplier mu, and how its end changes with mu, which together reach the sphere or the inside,
# whichever is right. Both systems are solved by conjugate gradients, preconditioned by the diagonal or by a Kronecker
# product (`IndicatorRows.inverse`). More such pairs are added, from where the minimum over those before lies, until the
# model is minimised as accurately as it predicts the loss.
#
# Certificate: the Frank-Wolfe gap ``<g, theta> + radius |g|``, which by convexity bounds ``f(theta) - min f`` over the
# ball. It is the smallest over mu of ``|g + mu theta|^2 / (2 mu) + mu (radius^2 - |theta|^2) / 2``, the bound that
# strong convexity of the penalised loss gives. So on the sphere, at the right multiplier, it is quadratic in the error
# of stationarity and not loose, however large the radius: on text, where tokens that were never seen pull the solution
# outwards, that is the rule. Inside the ball it is linear in the gradient, which Newton's method makes as small as
# rounding lets it be. In random problems of 3 to 50 sequences that is 1e-8 nats at radius 300 and 1e-7 at 1000.


ACCURACY = 0.2  # relative, of a model's minimum, at most; and of the solutions that serve as directions
ROUNDS = 4  # pairs of directions an iteration
CG_STEPS = 200
FEW_WEIGHTS, CG_STEPS_OF_FEW = 1024, 400  # where a step costs nothing; many more add rounding in flat directions
SINGLE = 1e-3  # products serve a solution of this accuracy in single precision, as the model is minimised in double
PATIENCE = 20  # iterations without a smaller gap, or a loss that is smaller by what matters


@dataclass(frozen=True, eq=False)
class IndicatorFit(CertifiedFit):
    """Where `newton_cg_in_ball` ended, and the multiplier of the ball there."""

    multiplier: float


def newton_cg_in_ball(
    rows: IndicatorRows, radius: float, tol: float, max_iterations: int, start: IndicatorFit | None = None
) -> IndicatorFit:
    """Minimise the rows' loss over ``|theta| <= radius`` until the certified gap is at most ``tol`` (nats a sequence).

    Stops early where the gap no longer falls, nor the loss by more than ``tol``.

    Args:
        rows: the data.
        radius: of the ball, > 0.
        tol: gap to reach.
        max_iterations: Newton iterations (5 to 30 are usual, of 5 to 40 passes over the data each).
        start: where a fit to other data ended; zero by default.
    """
    theta = np.zeros(rows.features.dimension) if start is None else start.theta
    loss, gradient = rows.loss_and_gradient(theta)
    # |theta| at the minimum is at most |g(0)| / mu
    mu = float(np.linalg.norm(gradient)) / (3 * radius) if start is None else start.multiplier
    best = IndicatorFit(theta, loss, _gap(theta, gradient, radius), 0, mu)
    noise = 2e-15 * float(rows.totals.sum())  # rounding of a gradient
    since, iteration, reached = 0, 0, loss
    accuracy, rounds = ACCURACY, 1
    while best.gap > tol and iteration < max_iterations and since < PATIENCE:
        iteration += 1
        before = float(np.linalg.norm(gradient + mu * theta))
        # less penalty would not lower the gap by what matters, and let rounding decide where the loss is flat
        target, mu, left = _minimise_model(rows, radius, theta, gradient, mu, 0.1 * tol / radius**2, accuracy, rounds)
        move = target - theta
        slope, ceiling = min(float(np.vdot(gradient, move)), 0.0), loss + 1e-13 * abs(loss)
        theta, loss, gradient, scale = armijo(
            rows.loss_and_gradient, theta, move, ceiling, slope, least=1e-6, radius=radius
        )
        if scale == 1.0:  # what the model did not foresee bounds what its minimum is worth (Eisenstat and Walker 1996)
            unforeseen = abs(float(np.linalg.norm(gradient + mu * theta)) - left)
            accuracy, rounds = min(max(unforeseen, noise) / before, ACCURACY), ROUNDS
        else:
            accuracy, rounds = ACCURACY, 1
        gap = _gap(theta, gradient, radius)
        since = 0 if gap < best.gap or loss < reached - tol else since + 1
        reached = loss if since == 0 else reached
        if gap < best.gap:
            best = IndicatorFit(theta, loss, gap, iteration, mu)
    return IndicatorFit(best.theta, best.loss, best.gap, iteration, best.multiplier)


def _gap(theta: FloatArray, gradient: FloatArray, radius: float) -> float:
    return max(float(np.vdot(gradient, theta)) + radius * float(np.linalg.norm(gradient)), 0.0)


def _minimise_model(
    rows: IndicatorRows,
    radius: float,
    theta: FloatArray,
    gradient: FloatArray,
    mu: float,
    least: float,
    accuracy: float,
    rounds: int,
) -> tuple[FloatArray, float, float]:
    """About the w that minimises ``<g, w - theta> + (w - theta)' H (w - theta) / 2`` in the ball, the multiplier mu of
    the ball there, and the norm of what is left of ``g + H (w - theta) + mu w``, which is zero at the minimum."""
    diagonal = rows.hessian_diagonal()
    rounding, inverse = 1e-14 * float(diagonal.max()), rows.inverse(diagonal)
    mu = max(mu, least)
    basis = _Basis(rows)
    basis.add(theta)
    norm = float(np.linalg.norm(theta))
    linear = gradient - norm * basis.images[0] if basis.images else gradient
    target, residual = theta, gradient + mu * theta
    start = float(np.linalg.norm(residual))
    for _ in range(rounds):
        penalty = max(mu, rounding)
        step = _solve(rows, penalty, -residual, inverse, accuracy)
        basis.add(step)
        if mu > least or float(np.linalg.norm(target + step)) > radius:
            basis.add(_solve(rows, penalty, target + step, inverse, ACCURACY))
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


def _solve(
    rows: IndicatorRows,
    mu: float,
    right: FloatArray,
    inverse: Callable[[FloatArray, float], FloatArray],
    accuracy: float,
) -> FloatArray:
    """``(H + mu I)^-1 right`` by conjugate gradients from zero, to ``accuracy`` times the norm of ``right`` in
    the estimate of the inverse."""
    x, residual = np.zeros_like(right), right.copy()
    scaled = inverse(residual, mu)
    direction = scaled.copy()
    size = start = float(np.vdot(residual, scaled))
    few = right.size <= FEW_WEIGHTS
    for _ in range(CG_STEPS_OF_FEW if few else CG_STEPS):
        if size <= accuracy**2 * start:
            break
        product = rows.hessian_times(direction, single=not few and accuracy >= SINGLE) + mu * direction
        along = size / float(np.vdot(direction, product))
        x += along * direction
        residual -= along * product
        scaled = inverse(residual, mu)
        size, last = float(np.vdot(residual, scaled)), size
        direction = scaled + (size / last) * direction
    return x


# -- Losses that need not be convex: a stationary point in any set that can be projected onto -------------------------
#
# Spectral projected gradient descent (Birgin, Martinez and Raydan 2000), non-monotone with a memory of 10.


MAX_ITERATIONS = 3000
MEMORY = 10  # of the non-monotone line search


@dataclass(frozen=True, eq=False)
class Descent:
    """Where `descend` ended."""

    theta: FloatArray
    loss: float
    stationarity: float
    iterations: int


def descend(
    loss: Loss,
    project: Callable[[FloatArray], FloatArray],
    start: FloatArray,
    tol: float,
    stationarity: Callable[[FloatArray, FloatArray], float],
) -> Descent:
    """A stationary point of a smooth loss; the loss there is at most ``tol`` above that at ``start``.

    Args:
        loss: ``theta (d,) -> (value, gradient (d,))``; the value may be ``inf`` away from the start.
        project: onto the set, which is convex.
        start: where to start; projected.
        tol: stationarity to reach.
        stationarity: of a point and the gradient there; zero exactly at stationary points.
    """
    theta = project(start)
    value, gradient = loss(theta)
    best = Descent(theta, value, stationarity(theta, gradient), 0)
    recent, step, iteration = [value], 1.0, 0
    while best.stationarity > tol and iteration < MAX_ITERATIONS:
        iteration += 1
        direction = project(theta - step * gradient) - theta
        slope = float(gradient @ direction)
        candidate, new_value, new_gradient, _ = armijo(loss, theta, direction, max(recent), slope, least=1e-12)
        moved, turned = candidate - theta, new_gradient - gradient
        curvature = float(moved @ turned)
        step = float(np.clip(moved @ moved / curvature, 1e-10, 1e10)) if curvature > 0 else 1e10
        theta, value, gradient = candidate, new_value, new_gradient
        recent = [*recent[1 - MEMORY :], value]
        found = Descent(theta, value, stationarity(theta, gradient), iteration)
        if (found.loss, found.stationarity) < (best.loss, best.stationarity) or (
            found.stationarity <= tol and found.loss <= best.loss + tol
        ):
            best = found
    return Descent(best.theta, best.loss, best.stationarity, iteration)


def minimise_in_ball(
    loss: Loss, radius: float, start: FloatArray, tol: float, *, name: str, advice: str
) -> tuple[FloatArray, FitReport]:
    """`descend` in the ball. ``gap`` of the report is ``nan``; what is certified, in ``details["stationarity"]``, is
    the largest decrease that the linearised loss allows, ``max_theta' <gradient, theta - theta'>``, in nats a sequence.

    Args:
        loss, start, tol: as for `descend`.
        radius: of the ball.
        name, advice: for the warning: what is minimised, and what else to change.

    Warns:
        ConvergenceWarning: the stationarity is still above ``tol`` after 3000 iterations.
    """
    end = descend(
        loss, lambda theta: onto_ball(theta, radius), start, tol, lambda theta, slope: _gap(theta, slope, radius)
    )
    converged = end.stationarity <= tol
    if not converged:
        warnings.warn(
            f"{name} is not stationary after {end.iterations} iterations: {end.stationarity:.3g} nats a sequence, "
            f"above tol={tol:g}. Raise tol, {advice} {radius:g}: the loss is flat far out.",
            ConvergenceWarning,
            stacklevel=3,
        )
    details = {"certificate": "stationary point", "stationarity": end.stationarity}
    return end.theta, FitReport(end.loss, float("nan"), converged, end.iterations, details)
