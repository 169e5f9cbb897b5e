"""Smoothed log-loss in the autoregressive linear class, where it is not concave: a certified stationary point."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from agents.base import ConvergenceWarning, FitReport
from agents.indicator_rows import IndicatorRows, indicator_rows, is_large
from agents.softmax_rows import SoftmaxRows, rows_of
from ntp_envs import ARLinearClass, Demonstrations
from ntp_envs.features import ContextFeatureMap, FeatureMap
from ntp_envs.policy_classes.ar_linear import linear_log_probs

__all__ = ["SmoothedLoss", "minimise_in_ball", "minimise_smoothed", "pull_back"]

FloatArray = NDArray[np.float64]
MAX_ITERATIONS = 3000
MEMORY = 10  # of the non-monotone line search


class SmoothedLoss:
    """Mean loss of a sequence, ``-sum_h log((1 - lam) pi_theta(a_h) + lam / A)`` in nats, and its gradient.

    Prefixes are pooled where the features have a finite memory (`agents.softmax_rows`).

    Args:
        features: the feature map phi.
        demonstrations: weights are normalised.
        smoothing: lam in (0, 1).
    """

    def __init__(self, features: FeatureMap, demonstrations: Demonstrations, smoothing: float) -> None:
        self.features, self.smoothing = features, smoothing
        law = demonstrations.normalised_weights()
        self.rows: SoftmaxRows | IndicatorRows = (
            indicator_rows(features, demonstrations, law, keep_counts=True)
            if is_large(features)
            else rows_of(features, demonstrations, law)
        )

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """The loss at ``(d,)`` theta, and its gradient ``(d,)``."""
        if isinstance(self.rows, IndicatorRows):
            weights = theta.reshape(self.features.vocab_size, -1).T
            loss, by_weight = self.rows.smoothed_loss_and_gradient(weights, self.smoothing)
            return loss, np.ascontiguousarray(by_weight.T).ravel()
        loss, gradient = 0.0, np.zeros_like(theta)
        for values, counts in self.rows.blocks():  # (N, c) or (N, A, d), (N, A)
            log_kept = np.log1p(-self.smoothing) + linear_log_probs(self.features, theta, values)
            log_mixed = np.logaddexp(log_kept, np.log(self.smoothing / self.features.vocab_size))
            loss -= float((counts * log_mixed).sum())
            kept = counts * np.exp(log_kept - log_mixed)  # weight of tokens that came from pi rather than the noise
            law = np.exp(log_kept) / (1 - self.smoothing)
            gradient -= pull_back(self.features, values, kept - law * kept.sum(axis=-1, keepdims=True))
        return loss, gradient


def pull_back(features: FeatureMap, values: FloatArray, by_logit: FloatArray) -> FloatArray:
    """``(d,)`` gradient in theta from that in the ``(N, A)`` logits, at ``(N, c)`` or ``(N, A, d)`` features."""
    if not isinstance(features, ContextFeatureMap):
        return np.einsum("na,nad->d", by_logit, values)
    return by_logit[:, 1] @ values if features.vocab_size == 2 else (by_logit.T @ values).ravel()


def minimise_smoothed(
    policy_class: ARLinearClass, demonstrations: Demonstrations, smoothing: float, *, start: FloatArray, tol: float
) -> tuple[FloatArray, FitReport]:
    """A stationary point of `SmoothedLoss` in the ball, by spectral projected gradient descent from ``start``.

    The loss is not convex in theta (a token that the noise explains stops pulling), so the point may be a local
    minimum: ``gap`` is ``nan``, and what is certified, in ``details["stationarity"]``, is the largest decrease that
    the linearised loss allows within the ball, ``max_theta' <gradient, theta - theta'>``, in nats a sequence; it is
    zero exactly at stationary points. The loss is at most ``tol`` above that of ``start``. Method: Birgin, Martinez and
    Raydan (2000), non-monotone with a memory of 10.

    Warns:
        ConvergenceWarning: the stationarity is still above ``tol`` after 3000 iterations.
    """
    loss = SmoothedLoss(policy_class.features, demonstrations, smoothing)
    return minimise_in_ball(
        loss, policy_class.radius, start, tol, name="smoothed log-loss", advice="or lower lam or the class's radius"
    )


def minimise_in_ball(
    loss: Callable[[FloatArray], tuple[float, FloatArray]],
    radius: float,
    start: FloatArray,
    tol: float,
    *,
    name: str,
    advice: str,
) -> tuple[FloatArray, FitReport]:
    """A stationary point in the ball of a smooth loss that need not be convex, as `minimise_smoothed` describes.

    Args:
        loss: ``theta (d,) -> (value, gradient (d,))``, in nats a sequence.
        radius: of the ball.
        start: where to start; projected onto the ball.
        tol: stationarity to reach.
        name, advice: for the warning: what is minimised, and what else to change.
    """

    def project(theta: FloatArray) -> FloatArray:
        return theta * min(1.0, radius / max(float(np.linalg.norm(theta)), 1e-300))

    theta = project(start)
    value, gradient = loss(theta)
    best = value, theta, _stationarity(theta, gradient, radius)
    recent, step, iteration = [value], 1.0, 0
    while best[2] > tol and iteration < MAX_ITERATIONS:
        iteration += 1
        direction = project(theta - step * gradient) - theta
        slope, length = float(gradient @ direction), 1.0
        while True:
            candidate = theta + length * direction
            new_value, new_gradient = loss(candidate)
            if new_value <= max(recent) + 1e-4 * length * slope or length < 1e-12:
                break
            length /= 2
        moved, turned = candidate - theta, new_gradient - gradient
        curvature = float(moved @ turned)
        step = float(np.clip(moved @ moved / curvature, 1e-10, 1e10)) if curvature > 0 else 1e10
        theta, value, gradient = candidate, new_value, new_gradient
        recent = [*recent[1 - MEMORY :], value]
        stationarity = _stationarity(theta, gradient, radius)
        if (value, stationarity) < best[::2] or (stationarity <= tol and value <= best[0] + tol):
            best = value, theta, stationarity
    value, theta, stationarity = best
    converged = stationarity <= tol
    if not converged:
        warnings.warn(
            f"{name} is not stationary after {iteration} iterations: {stationarity:.3g} nats a sequence, "
            f"above tol={tol:g}. Raise tol, {advice} {radius:g}: the loss is flat far out.",
            ConvergenceWarning,
            stacklevel=3,
        )
    details = {"certificate": "stationary point", "stationarity": stationarity}
    return theta, FitReport(value, gap=float("nan"), converged=converged, iterations=iteration, details=details)


def _stationarity(theta: FloatArray, gradient: FloatArray, radius: float) -> float:
    return max(0.0, float(gradient @ theta) + radius * float(np.linalg.norm(gradient)))
