"""ChunkKR's convex program: laws of the next K tokens at each prefix of the data, in a ball of a kernel space.

A member is a vector c of r coordinates with ``||c|| <= radius``; row i of ``phi c``, phi being (n S, r), holds what it
gives to the S = A^K strings that may follow prefix i, and must be a probability vector. Maximum likelihood over these
wins the rho game (`certify`).

Both it and the projection onto the set minimise ``q/2 |c - x|^2 + sum_i h_i(row i of phi c)`` over the ball, h_i convex
on the simplex: zero for the projection, ``-sum w log`` for the likelihood. The method is an augmented Lagrangian with
semismooth Newton steps; each subproblem is piecewise smooth with an explicit generalised Hessian (Li, Sun and Toh 2018,
SIAM J. Optim. 28, for this kind of method).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator

from ntp_envs.arrays import FloatArray, onto_ball
from ntp_envs.checks import check_int, check_real

ARMIJO = 1e-4
#: the penalty grows by this factor when an outer step has not cut the residual to a quarter
GROWTH = 5.0
LARGEST_PENALTY = 1e14
#: floats of phi copied at once
BLOCK = 2**22


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
    c = onto_ball(start, radius)
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
        onto_ball(c, radius), rows, problem.row_dual, problem.ball_dual, residual, steps, slope, converged
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
        return rows, slopes, (shifted - rows).ravel(), moved, moved - onto_ball(moved, self.radius)

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


# -- Maximum likelihood on a simplex: the row step of the solvers -----------------------------------------------------


def likelihood_prox(points: FloatArray, weights: FloatArray, *, steps: int = 60) -> tuple[FloatArray, FloatArray]:
    """``argmin over the simplex of -sum w log z + |z - p|^2 / 2``, row by row.

    z = (a + sqrt(a^2 + 4 w)) / 2 with a = p - nu, and nu the root of sum z = 1, a decreasing convex function of nu:
    Newton from the left of the root, where it is monotone. Entries with w > 0 are positive.

    Args:
        points: ``(n, S)``.
        weights: ``(n, S)``, divided by the penalty.

    Returns:
        ``(n, S)`` probability vectors z, and the slopes dz/da in [0, 1].

    >>> likelihood_prox(np.array([[0.0, 0.0]]), np.array([[0.5, 0.5]]))[0].round(9).tolist()
    [[0.5, 0.5]]
    """
    nu = points.max(axis=1) - 1.0
    four = 4.0 * weights
    for _ in range(steps):
        a = points - nu[:, None]
        root = np.sqrt(a * a + four)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.where(a < 0, 0.5 * four / (root - a), 0.5 * (a + root))
            slopes = np.where(root > 0, z / root, 0.0)
        excess = z.sum(axis=1) - 1.0
        if float(np.abs(excess).max()) <= 1e-14 * points.shape[1]:
            break
        nu = nu + excess / np.maximum(slopes.sum(axis=1), 1e-300)
    z = z / z.sum(axis=1, keepdims=True)
    return np.where(weights > 0, np.maximum(z, 1e-300), z), slopes


class Likelihood(RowTerm):
    """``-sum w log z`` on the simplex, for `minimise_augmented`.

    Args:
        weights: ``(n, S)``.
    """

    def __init__(self, weights: FloatArray) -> None:
        self.weights = weights
        self._seen = weights > 0

    def prox(self, points: FloatArray, penalty: float) -> tuple[FloatArray, FloatArray]:
        return likelihood_prox(points, self.weights / penalty)

    def value(self, rows: FloatArray) -> float:
        return -float((self.weights[self._seen] * np.log(rows[self._seen])).sum())


# -- The projection oracle of ChunkKR: onto a norm ball intersected with a product of simplices -----------------------


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


# -- Certificates for ChunkKR: proved upper bounds on ``gap(f) = max_f' F(f, f')``, and a search for replies ----------


@dataclass(frozen=True)
class Certificate:
    """A proof of how good a law f is; everything per chunk, in nats where a logarithm is involved.

    Attributes:
        log_likelihood: ``L(f) = sum w log f``.
        upper_bound: no feasible f' has a larger L, by weak duality.
        gap: an upper bound on ``max_f' F(f, f')`` *and* on ``max_f' L(f') - L(f)``.
        linear: an upper bound on ``max_f' sum w (f' - f) / (2 f)``, the optimality condition of maximum likelihood,
            which bounds ``max_f' F(f, f')`` too. ``gap`` is at most twice it.
    """

    log_likelihood: float
    upper_bound: float
    gap: float
    linear: float


def game_value(weights: FloatArray, law: FloatArray, reply: FloatArray) -> float:
    """``F(f, f') = sum w (f' - f) / (f' + f)``, the rho game with the ratio tau; 0/0 counts as 0.

    Args:
        weights, law, reply: ``(n, S)`` each.
    """
    total = law + reply
    seen = (weights > 0) & (total > 0)
    return float((weights[seen] * (reply - law)[seen] / total[seen]).sum())


def certify(
    weights: FloatArray,
    law: FloatArray,
    phi: FloatArray | LinearOperator,
    c: FloatArray,
    radius: float,
    dual: FloatArray,
    *,
    fitted: FloatArray | None = None,
) -> Certificate:
    """Bound how far a law is from winning the rho game over {phi c: ||c|| <= radius, rows in simplices}.

    Three steps, each a proof for whatever ``dual`` it is given (fact 1 of docs/theory.md: over a convex class the rho
    game is won by maximum likelihood). (1) ``F(f, f') <= L((f + f') / 2) - L(f)``, because (r - 1)/(r + 1) <=
    log((1 + r) / 2) for r = f'/f. (2) By weak duality, for any g, ``L(f') <= D(g) = radius ||phi^T g|| + sum_i max_z
    (w log z - g z)``, z in a simplex. (3) As F is concave in f' and 0 at f' = f, the linear bound holds as well; it
    is a support function, bounded with the same multipliers. Where ``law`` differs from ``phi c`` (its rows are exact
    probability vectors) the difference, priced by g, is added.

    Args:
        weights: ``(n, S)``, summing to one.
        law: ``(n, S)`` rows of probability vectors: what is certified.
        phi: ``(n * S, r)``, an array or a linear operator.
        c: ``(r,)`` with ``||c|| <= radius`` and ``phi c`` near ``law``.
        radius: of the ball.
        dual: ``(n, S)`` any multipliers g of ``f = phi c``; the bound is tight at the optimal ones.
        fitted: ``phi @ c`` as ``(n, S)``, if it is known.
    """
    seen = weights > 0
    with np.errstate(divide="ignore"):
        likelihood = float((weights[seen] * np.log(law[seen])).sum())
    f = (phi @ c).reshape(weights.shape) if fitted is None else fitted
    price = float(np.linalg.norm(phi.T @ dual.ravel()))
    bound = radius * price + _row_conjugates(weights, dual)
    if not math.isfinite(likelihood):
        return Certificate(likelihood, bound, math.inf, math.inf)
    mismatch = 0.5 * abs(float((dual * (law - f)).sum()))
    score = np.where(seen, weights / np.where(seen, law, 1.0), 0.0)
    linear = 0.5 * (radius * price + float((score - dual).max(axis=1).sum()) - float(weights.sum()))
    gap = min(bound - likelihood + mismatch, 2.0 * max(linear, 0.0))
    return Certificate(likelihood, bound, max(gap, 0.0), max(linear, 0.0))


def _row_conjugates(weights: FloatArray, dual: FloatArray, *, steps: int = 100) -> float:
    """An upper bound, tight after a few steps, on ``sum_i max over a simplex of sum_s (w log z - g z)``.

    The inner problem's own dual, one multiplier nu a row: ``nu + sum_s max_{z >= 0} (w log z - (g + nu) z)``, which is
    a bound for every nu that keeps g + nu >= 0 (> 0 where w > 0). Newton from the left on a decreasing convex function.
    """
    seen = weights > 0
    nu = np.where(seen, weights - dual, -np.inf).max(axis=1)  # there sum w / (g + nu) >= 1
    for _ in range(steps):
        slack = np.where(seen, np.maximum(dual + nu[:, None], weights), 1.0)
        terms = weights / slack
        excess = terms.sum(axis=1) - 1.0
        if float(excess.max()) <= 1e-13:
            break
        nu = nu + np.maximum(excess, 0.0) / np.maximum((terms / slack).sum(axis=1), 1e-300)
    nu = np.maximum(nu, np.where(seen, -np.inf, -dual).max(axis=1))
    slack = np.where(seen, np.maximum(dual + nu[:, None], weights), 1.0)  # >= weights but for rounding
    values = np.where(seen, weights * np.log(np.where(seen, weights, 1.0) / slack) - weights, 0.0)
    return float(nu.sum() + values.sum())


def best_reply(
    weights: FloatArray,
    law: FloatArray,
    phi: FloatArray,
    radius: float,
    *,
    rng: np.random.Generator,
    starts: int = 3,
    steps: int = 30,
) -> tuple[float, FloatArray]:
    """The largest ``F(f, f')`` found over feasible replies f': a *lower* bound on the gap, independent of `certify`.

    Projected gradient ascent with backtracking from random starts, by the projection oracle. F is concave in f'.

    Args:
        weights, law, phi, radius: as for `certify`.
        rng: source of the starting points.
        starts, steps: starting points, and ascent steps from each.

    Returns:
        The value and the ``(r,)`` coordinates of the reply.
    """
    size = weights.shape[1]

    def project(point: FloatArray) -> FloatArray:
        return project_onto_ball_and_simplices(point, phi, size, radius).point

    def value(c: FloatArray) -> float:
        return game_value(weights, law, np.maximum((phi @ c).reshape(weights.shape), 0.0))

    best, reply = -math.inf, np.zeros(phi.shape[1])
    length = size**2 * float(np.square(phi).sum(axis=1).mean())
    for start in range(starts):
        scale = min(radius, 10.0) / math.sqrt(phi.shape[1])
        c = project(
            np.asarray(rng.normal(size=phi.shape[1]) * scale if start else np.linalg.lstsq(phi, law.ravel())[0])
        )
        current, step = value(c), 4.0 / length
        for _ in range(steps):
            total = np.maximum(np.maximum((phi @ c).reshape(weights.shape), 0.0) + law, 1e-9)
            gradient = (2.0 * weights * law / total**2).ravel() @ phi
            trial = project(c + step * gradient)
            trial_value = value(trial)
            if trial_value > current:
                c, current, step = trial, trial_value, 2.0 * step
            else:
                step *= 0.25
        if current > best:
            best, reply = current, c
    return best, reply
