"""Likelihood of autoregressive linear policies in a norm ball: its maximum, certified, and the smoothed one's vicinity.

The loss is convex; `agents.linear_rows` holds its data, `agents.ball` the methods. Smoothed it is not convex any more.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike

from agents.ball import (
    FULL_HESSIAN_WORK,
    BallFit,
    Curvature,
    IndicatorFit,
    minimise_in_ball,
    newton_cg_in_ball,
    newton_in_ball,
)
from agents.base import ConvergenceWarning, FitReport
from agents.linear_rows import SoftmaxRows, check_dimension, indicator_rows, is_large, rows_of
from agents.targets import Targets
from ntp_envs import ARLinearClass, Demonstrations
from ntp_envs.arrays import FloatArray
from ntp_envs.checks import check_int, check_positive, check_real
from ntp_envs.features import FeatureMap, IndicatorFeatureMap

SUBSET_ROWS = 1 << 14
THINNED_ROWS, THINNED = 1 << 16, 8  # so many contexts or more: first a fit to one in eight


def maximum_likelihood(
    features: FeatureMap,
    radius: float,
    targets: Targets | Demonstrations,
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
    takes seconds, one of 16 less than a minute.

    Args:
        features: the feature map; norms at most 1.
        radius: of the ball, > 0.
        targets: demonstrations over the features' vocabulary, or any targets whose weights are normalised; of soft ones
            the loss is the cross-entropy.
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
    check_positive("radius", radius, "leaves only the uniform policy")
    tol = check_real("tol", tol, minimum=0.0)
    max_iterations = check_int("max_iterations", max_iterations, minimum=1)
    if features.vocab_size != targets.vocab_size:
        raise ValueError(f"the features have {features.vocab_size} tokens, the data {targets.vocab_size}.")
    data = Targets.of(targets, weights)
    solve = _by_conjugate_gradients if is_large(features) else _by_hessians
    theta, report = solve(features, radius, data, tol, max_iterations)
    report.details.update(norm=float(np.linalg.norm(theta)), tokens=math.prod(data.shape))
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
    features: FeatureMap, radius: float, targets: Targets, tol: float, max_iterations: int
) -> tuple[FloatArray, FitReport]:
    check_dimension(features, "maximum likelihood")
    rows = rows_of(features, targets)
    start, curvature, subset_rows = _start(rows, features, targets, radius, max_iterations)
    fit = newton_in_ball(rows, radius, start, tol, max_iterations, curvature=curvature)
    return fit.theta, _report(fit, rows, tol, subset_rows=subset_rows)


def _by_conjugate_gradients(
    features: FeatureMap, radius: float, targets: Targets, tol: float, max_iterations: int
) -> tuple[FloatArray, FitReport]:
    assert isinstance(features, IndicatorFeatureMap)  # `is_large` says so
    rows, start, subset_rows = indicator_rows(features, targets), None, 0
    if rows.n_rows >= THINNED_ROWS:
        part = rows.thinned(THINNED)
        enough = 0.1 * targets.shape[1] * features.dimension / part.n_rows  # of the order of the sampling error
        start, subset_rows = newton_cg_in_ball(part, radius, max(enough, tol), max_iterations), part.n_rows
    fit = newton_cg_in_ball(rows, radius, tol, max_iterations, start)
    return fit.theta, _report(fit, rows, tol, multiplier=fit.multiplier, subset_rows=subset_rows)


def _report(fit: BallFit | IndicatorFit, rows: SoftmaxRows, tol: float, **details: float) -> FitReport:
    """``hessian_passes`` are whole Hessians or, by conjugate gradients, products with one direction."""
    passes = {"gradient_passes": rows.gradient_passes, "hessian_passes": rows.hessian_passes}
    return FitReport(fit.loss, fit.gap, fit.gap <= tol, fit.iterations, {"rows": rows.n_rows, **details, **passes})


def _start(
    rows: SoftmaxRows, features: FeatureMap, targets: Targets, radius: float, max_iterations: int
) -> tuple[FloatArray, Curvature | None, int]:
    """A first theta: zero, or the fit to a part of the rows where there are many more of them."""
    zero = np.zeros(features.dimension)
    wanted = max(SUBSET_ROWS, 8 * features.dimension)
    if rows.n_rows <= 4 * wanted:
        return zero, None, 0
    part = rows_of(features, targets, max_rows=wanted)
    horizon = targets.shape[1]
    enough = 0.1 * horizon * features.dimension / part.n_rows  # of the order of the sampling error
    fit = newton_in_ball(part, radius, zero, enough, max_iterations)
    if rows.hessian_work() <= FULL_HESSIAN_WORK:
        return fit.theta, None, part.n_rows
    ridge = horizon / part.n_rows  # a direction the part has not met may have this much curvature
    return (
        fit.theta,
        Curvature.of(fit.theta, part.hessian(fit.theta), exact=False, ridge=ridge),
        part.n_rows,
    )


# -- Smoothed log-loss in the autoregressive linear class, where it is not concave: a certified stationary point ------


class SmoothedLoss:
    """Mean loss of a sequence, ``-sum_h log((1 - lam) pi_theta(a_h) + lam / A)`` in nats, and its gradient.

    Prefixes are pooled where the features have a finite memory (`agents.linear_rows`).

    Args:
        features: the feature map phi.
        targets: demonstrations, or any targets whose weights are normalised; soft ones give a cross-entropy.
        smoothing: lam in (0, 1).
    """

    def __init__(self, features: FeatureMap, targets: Targets | Demonstrations, smoothing: float) -> None:
        self.features, self.smoothing, data = features, smoothing, Targets.of(targets)
        self.rows = indicator_rows(features, data) if is_large(features) else rows_of(features, data)

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """The loss at ``(d,)`` theta, and its gradient ``(d,)``."""
        loss, gradient = 0.0, np.zeros_like(theta)
        for values, counts in self.rows.blocks():  # (N, c) or (N, A, d), (N, A)
            log_kept = np.log1p(-self.smoothing) + self.features.log_probs(theta, values)
            log_mixed = np.logaddexp(log_kept, np.log(self.smoothing / self.features.vocab_size))
            loss -= float((counts * log_mixed).sum())
            kept = counts * np.exp(log_kept - log_mixed)  # weight of tokens that came from pi rather than the noise
            law = np.exp(log_kept) / (1 - self.smoothing)
            gradient -= self.features.pull_back(values, kept - law * kept.sum(axis=-1, keepdims=True))
        return loss, gradient


def minimise_smoothed(
    policy_class: ARLinearClass,
    targets: Targets | Demonstrations,
    smoothing: float,
    *,
    start: FloatArray,
    tol: float,
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
    loss = SmoothedLoss(policy_class.features, targets, smoothing)
    return minimise_in_ball(
        loss, policy_class.radius, start, tol, name="smoothed log-loss", advice="or lower lam or the class's radius"
    )
