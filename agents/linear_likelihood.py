"""Exact maximum likelihood for autoregressive linear policies in a norm ball."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from agents.ball import FULL_HESSIAN_WORK, Curvature, newton_cg_in_ball, newton_in_ball
from agents.base import ConvergenceWarning, FitReport
from agents.linear_rows import IndicatorRows, SoftmaxRows, check_dimension, indicator_rows, is_large, rows_of
from ntp_envs import ARLinearClass, Demonstrations
from ntp_envs.arrays import FloatArray
from ntp_envs.checks import check_int, check_real
from ntp_envs.features import ContextFeatureMap, FeatureMap, IndicatorFeatureMap
from ntp_envs.policy_classes import linear_log_probs

SUBSET_ROWS = 1 << 14


def maximum_likelihood(
    features: FeatureMap,
    radius: float,
    demonstrations: Demonstrations,
    *,
    tol: float = 1e-8,
    weights: ArrayLike | None = None,
    max_iterations: int = 200,
) -> tuple[FloatArray, FitReport]:
    """The theta with ``||theta||_2 <= radius`` of largest weighted log-likelihood, token by token.

    The loss ``sum_i w_i sum_h -log pi_theta(a_h^i | x^i, a_<h^i)`` is convex; it is minimised by Newton's method in the
    ball (`agents.ball`), from a fit to a part of the data where that is large. Contexts are pooled first if the
    features have a finite memory, which makes the cost independent of the number of sequences. The ball makes the
    minimum finite on separable data too. Where several theta are equally good one of them is returned.

    Large windows: indicator features (`ntp_envs.features.WindowOneHot`) of more than two tokens and of more than 512
    weights are fitted by Newton's method with conjugate gradients on the places of the features
    (`agents.ball`), to the same tolerance. On one core a window of 4 over 60 characters and 300 000 tokens
    takes seconds, one of 16 about a minute.

    Args:
        features: the feature map; norms at most 1.
        radius: of the ball, > 0.
        demonstrations: data over the features' vocabulary.
        tol: how far from optimal the loss may end, in nats a sequence: for H tokens a sequence, ``1e-4 * H`` is
            1e-4 nats a token, far below what samples of 10^5 to 10^6 tokens determine, and takes about half the time
            of the default.
        weights: ``(n,)`` weights of the sequences, instead of the demonstrations' own; normalised to sum to one.
        max_iterations: of Newton's method on all the data.

    Returns:
        ``(d,)`` theta, and a report: ``objective`` is the mean log-loss of a sequence in nats, ``gap`` a proved
        bound on its excess over the minimum in the ball (up to rounding), ``details`` the norm, rows and passes.

    Raises:
        ValueError: vocabularies that differ, bad weights, features that are not finite.
        TypeError: arguments of the wrong type.
        NotTractableError: more than 8192 weights that need a Hessian written out.

    Warns:
        ConvergenceWarning: ``tol`` was not reached; the message names the gap.

    >>> import numpy as np
    >>> from ntp_envs.features import FlipSign
    >>> demos = Demonstrations(np.zeros((1, 1), int), np.array([[0, 0, 0, 1]]), vocab_size=2)
    >>> theta, report = maximum_likelihood(FlipSign(), 5.0, demos)
    >>> round(float(theta[0]), 4), report.converged  # one flip in four: log(1/3)
    (-1.0986, True)
    """
    if not isinstance(features, FeatureMap):
        raise TypeError(f"features must be a ntp_envs.features.FeatureMap, not {type(features).__name__}.")
    if check_real("radius", radius, minimum=0.0) == 0.0:
        raise ValueError("radius=0 leaves only the uniform policy; it must be positive.")
    tol = check_real("tol", tol, minimum=0.0)
    max_iterations = check_int("max_iterations", max_iterations, minimum=1)
    if features.vocab_size != demonstrations.vocab_size:
        raise ValueError(f"the features have {features.vocab_size} tokens, the data {demonstrations.vocab_size}.")
    law = _checked_weights(weights, demonstrations)
    solve = _by_conjugate_gradients if is_large(features) else _by_hessians
    theta, report = solve(features, radius, demonstrations, law, tol, max_iterations)
    report.details.update(norm=float(np.linalg.norm(theta)), tokens=int(demonstrations.tokens.size))
    if not report.converged:
        warnings.warn(
            f"maximum likelihood stopped after {report.iterations} iterations with a certified gap of {report.gap:.3g} "
            f"nats a sequence (tol={tol:g}); raise tol or max_iterations={max_iterations}, or lower "
            f"radius={radius:g}.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return theta, report


def _by_hessians(
    features: FeatureMap,
    radius: float,
    demonstrations: Demonstrations,
    law: FloatArray,
    tol: float,
    max_iterations: int,
) -> tuple[FloatArray, FitReport]:
    check_dimension(features, "maximum likelihood")
    rows = rows_of(features, demonstrations, law)
    start, curvature, subset_rows = _start(rows, features, demonstrations, law, radius, max_iterations)
    fit = newton_in_ball(rows, radius, start, tol, max_iterations, curvature=curvature)
    details = {
        "rows": rows.n_rows,
        "subset_rows": subset_rows,
        "gradient_passes": rows.gradient_passes,
        "hessian_passes": rows.hessian_passes,
    }
    return fit.theta, FitReport(fit.loss, fit.gap, fit.gap <= tol, fit.iterations, details)


def _by_conjugate_gradients(
    features: FeatureMap,
    radius: float,
    demonstrations: Demonstrations,
    law: FloatArray,
    tol: float,
    max_iterations: int,
) -> tuple[FloatArray, FitReport]:
    assert isinstance(features, IndicatorFeatureMap)  # `is_large` says so
    rows = indicator_rows(features, demonstrations, law)
    fit = newton_cg_in_ball(rows, radius, tol, max_iterations)
    details = {
        "rows": rows.n_rows,
        "multiplier": fit.multiplier,
        "gradient_passes": rows.gradient_passes,
        "hessian_passes": rows.hessian_passes,  # products with one direction, not whole Hessians
    }
    theta = np.ascontiguousarray(fit.weights.T).ravel()
    return theta, FitReport(fit.loss, fit.gap, fit.gap <= tol, fit.iterations, details)


def _checked_weights(weights: ArrayLike | None, demonstrations: Demonstrations) -> FloatArray:
    if weights is None:
        return demonstrations.normalised_weights()
    law = np.asarray(weights, dtype=np.float64)
    if law.shape != (len(demonstrations),):
        raise ValueError(f"weights has shape {law.shape}; ({len(demonstrations)},) is needed, one a sequence.")
    if not np.isfinite(law).all() or (law < 0).any() or law.sum() <= 0:
        raise ValueError("weights must be finite, non-negative and not all zero.")
    return law / law.sum()


def _start(
    rows: SoftmaxRows,
    features: FeatureMap,
    demonstrations: Demonstrations,
    law: FloatArray,
    radius: float,
    max_iterations: int,
) -> tuple[FloatArray, Curvature | None, int]:
    """A first theta: zero, or the fit to a part of the rows where there are many more of them."""
    zero = np.zeros(features.dimension)
    wanted = max(SUBSET_ROWS, 8 * features.dimension)
    if rows.n_rows <= 4 * wanted:
        return zero, None, 0
    part = rows_of(features, demonstrations, law, max_rows=wanted)
    enough = 0.1 * demonstrations.horizon * features.dimension / part.n_rows  # of the order of the sampling error
    fit = newton_in_ball(part, radius, zero, enough, max_iterations)
    if rows.hessian_work() <= FULL_HESSIAN_WORK:
        return fit.theta, None, part.n_rows
    ridge = demonstrations.horizon / part.n_rows  # a direction the part has not met may have this much curvature
    return (
        fit.theta,
        Curvature.of(fit.theta, part.hessian(fit.theta), exact=False, ridge=ridge),
        part.n_rows,
    )


# -- Smoothed log-loss in the autoregressive linear class, where it is not concave: a certified stationary point ------


MAX_ITERATIONS = 3000
MEMORY = 10  # of the non-monotone line search


class SmoothedLoss:
    """Mean loss of a sequence, ``-sum_h log((1 - lam) pi_theta(a_h) + lam / A)`` in nats, and its gradient.

    Prefixes are pooled where the features have a finite memory (`agents.linear_rows`).

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
