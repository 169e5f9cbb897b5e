"""Local moves of the two players of a rho game over a ball of autoregressive linear policies.

``F(theta, theta') = sum_i w_i tanh(s (l_i(theta') - l_i(theta)))`` over chunks i: the first player minimises, the
second replies. F is neither convex in theta nor concave in theta', so both moves are local.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.ball_newton import Curvature, minimise_quadratic_in_ball
from agents.rho_ar_linear_units import ChunkLikelihood
from agents.rho_game import TAU_SCALE
from agents.softmax_rows import SoftmaxRows

__all__ = ["RhoPayoffs", "best_reply_from", "descend", "nearby"]

FloatArray = NDArray[np.float64]

CLIMB_STEPS = 60
FLAT = 1e-12  # of the total weight: rounding in F


class RhoPayoffs:
    """F with its derivatives.

    Args:
        data: the chunks.
        radius: of the ball.
        tau: ``"ratio"`` or ``"psi"``.
    """

    def __init__(self, data: ChunkLikelihood, radius: float, tau: str) -> None:
        self.data, self.radius, self.tau, self.scale = data, radius, tau, TAU_SCALE[tau]
        self.noise = FLAT * float(data.weights.sum())

    def into_ball(self, thetas: FloatArray) -> FloatArray:
        """``(M, d)`` parameters, those outside the ball scaled to its surface."""
        norms = np.linalg.norm(thetas, axis=1, keepdims=True)
        return thetas * np.minimum(1.0, self.radius / np.maximum(norms, 1e-300))

    def against(self, own: FloatArray, replies: FloatArray) -> FloatArray:
        """``(M,)`` F from ``(U,)`` log-densities of theta and ``(U, M)`` of replies."""
        step = max((1 << 20) // len(own), 1)
        parts = [replies[:, start : start + step] - own[:, None] for start in range(0, replies.shape[1], step)]
        return np.concatenate([self.data.weights @ np.tanh(self.scale * part) for part in parts])

    def at_reply(self, own: FloatArray, reply: FloatArray) -> tuple[float, FloatArray, FloatArray, FloatArray]:
        """F at ``(d,)`` reply; its slopes and curvatures in each l_i(reply), ``(U,)``; and its ``(d,)`` gradient."""
        tanh = np.tanh(self.scale * (self.data.log_densities(reply[None])[:, 0] - own))
        slopes = self.data.weights * self.scale * (1 - tanh**2)
        gradient = self.data.gradients(reply, slopes[:, None])[0]
        return float(self.data.weights @ tanh), slopes, -2 * self.scale * tanh * slopes, gradient

    def reply_hessian(self, reply: FloatArray, slopes: FloatArray, curvatures: FloatArray) -> FloatArray:
        """``(d, d)`` second derivatives of F in the reply."""
        data = self.data
        scores = data.scores(reply)
        rows = SoftmaxRows(data.features, data.values, data.counts(slopes))
        return (scores * curvatures[:, None]).T @ scores - rows.hessian(reply)


def best_reply_from(game: RhoPayoffs, own: FloatArray, start: FloatArray, tol: float) -> tuple[FloatArray, float]:
    """A local maximum of F(theta, .) in the ball, by Newton's method with line search from ``(d,)`` start.

    Directions in which F is not concave are treated as if they were (absolute eigenvalues). Ends when the linearised F
    promises less than ``tol`` within the ball, or nothing more is gained.

    Args:
        own: ``(U,)`` log-densities of theta.

    Returns:
        The reply and its F, no less than that of the start.
    """
    theta = start
    value, slopes, curvatures, gradient = game.at_reply(own, theta)
    for _ in range(CLIMB_STEPS):
        if game.radius * float(np.linalg.norm(gradient)) - float(gradient @ theta) <= tol:
            break
        eigenvalues, vectors = np.linalg.eigh(-game.reply_hessian(theta, slopes, curvatures))
        floor = 1e-9 * max(float(np.abs(eigenvalues).max()), 1e-300)
        model = Curvature(theta, np.maximum(np.abs(eigenvalues), floor), vectors, exact=False)
        linear = -gradient - vectors @ (model.eigenvalues * (vectors.T @ theta))
        move = minimise_quadratic_in_ball(model, linear, game.radius)[0] - theta
        slope, scale = float(gradient @ move), 1.0
        while scale > 1e-8:
            trial = game.at_reply(own, theta + scale * move)
            if trial[0] >= value + 1e-4 * scale * slope:
                break
            scale *= 0.3
        else:
            break
        theta, gain = theta + scale * move, trial[0] - value
        value, slopes, curvatures, gradient = trial
        if gain <= game.noise:
            break
    return theta, value


def descend(game: RhoPayoffs, theta: FloatArray, replies: FloatArray, value: float) -> FloatArray:
    """A local minimum of ``max_r F(theta, reply_r)`` from ``(d,)`` theta, for ``(U, R)`` log-densities of the replies.

    SLSQP on the epigraph form with exact gradients; ``value``, that of the start, sets the scale.
    """
    from scipy.optimize import minimize

    data, unit, square = game.data, max(value, game.noise), game.radius**2
    seen: dict[bytes, tuple[FloatArray, FloatArray]] = {}

    def payoffs(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``(R,)`` F / unit, and its ``(R, d)`` Jacobian in theta."""
        key = x[:-1].tobytes()
        if key not in seen:
            seen.clear()
            tanh = np.tanh(game.scale * (replies - data.log_densities(x[None, :-1])))  # (U, R)
            slopes = -game.scale * data.weights[:, None] * (1 - tanh**2)
            seen[key] = data.weights @ tanh / unit, data.gradients(x[:-1], slopes) / unit
        return seen[key]

    below = {
        "type": "ineq",
        "fun": lambda x: x[-1] - payoffs(x)[0],
        "jac": lambda x: np.column_stack([-payoffs(x)[1], np.ones(replies.shape[1])]),
    }
    ball = {
        "type": "ineq",
        "fun": lambda x: 1 - x[:-1] @ x[:-1] / square,
        "jac": lambda x: np.append(-2 * x[:-1] / square, 0.0),
    }
    top = np.append(np.zeros(len(theta)), 1.0)
    start = np.append(theta, payoffs(np.append(theta, 0.0))[0].max())
    result = minimize(
        lambda x: (x[-1], top),
        start,
        jac=True,
        constraints=[below, ball],
        method="SLSQP",
        options={"maxiter": 60, "ftol": 1e-9},
    )
    found = result.x[:-1] if np.isfinite(result.x).all() else theta
    return game.into_ball(found[None])[0]


def nearby(game: RhoPayoffs, theta: FloatArray, number: int, rng: np.random.Generator) -> FloatArray:
    """``(number, d)`` parameters around theta, within the ball, in random directions.

    The distances are such that log-densities of chunks change by between 0.01 and 30 (root mean square, to first
    order): of order 1 / sqrt(K) to 1 / K in theta, where best replies sit.
    """
    scores = game.data.scores(theta)  # (U, d)
    law = game.data.weights / game.data.weights.sum()
    directions = rng.normal(size=(number, len(theta)))
    change = np.sqrt(law @ (scores @ directions.T) ** 2)
    sizes = np.geomspace(0.01, 30.0, 8)[np.arange(number) % 8]
    return game.into_ball(theta + directions * (sizes / np.maximum(change, 1e-12))[:, None])
