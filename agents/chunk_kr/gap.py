"""Certificates for ChunkKR: proved upper bounds on ``gap(f) = max_f' F(f, f')``, and a search for replies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.chunk_kr.projection import project_onto_ball_and_simplices

__all__ = ["Certificate", "best_reply", "certify", "game_value"]

FloatArray = NDArray[np.float64]


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
    phi: FloatArray,
    c: FloatArray,
    radius: float,
    dual: FloatArray,
    *,
    fitted: FloatArray | None = None,
) -> Certificate:
    """Bound how far a law is from winning the rho game over {phi c: ||c|| <= radius, rows in simplices}.

    Three steps, each a proof for whatever ``dual`` it is given (our reading of fact 1: over a convex class the rho
    game is won by maximum likelihood). (1) ``F(f, f') <= L((f + f') / 2) - L(f)``, because (r - 1)/(r + 1) <=
    log((1 + r) / 2) for r = f'/f. (2) By weak duality, for any g, ``L(f') <= D(g) = radius ||phi^T g|| + sum_i max_z
    (w log z - g z)``, z in a simplex. (3) As F is concave in f' and 0 at f' = f, the linear bound holds as well; it
    is a support function, bounded with the same multipliers. Where ``law`` differs from ``phi c`` (its rows are exact
    probability vectors) the difference, priced by g, is added.

    Args:
        weights: ``(n, S)``, summing to one.
        law: ``(n, S)`` rows of probability vectors: what is certified.
        phi: ``(n * S, r)``.
        c: ``(r,)`` with ``||c|| <= radius`` and ``phi c`` near ``law``.
        radius: of the ball.
        dual: ``(n, S)`` any multipliers g of ``f = phi c``; the bound is tight at the optimal ones.
        fitted: ``phi @ c`` as ``(n, S)``, if it is known.
    """
    seen = weights > 0
    with np.errstate(divide="ignore"):
        likelihood = float((weights[seen] * np.log(law[seen])).sum())
    f = (phi @ c).reshape(weights.shape) if fitted is None else fitted
    price = float(np.linalg.norm(dual.ravel() @ phi))
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
