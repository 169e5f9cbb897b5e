"""Bounded losses of demonstrated tokens, minimised by maximum likelihood with weights that follow the loss.

A loss that is concave and decreasing in the log-likelihoods of its units lies below its tangents, so that the weighted
log-likelihood with the tangents' slopes as weights points downhill: each step fits that (`agents.interactive.project`
does it for every class) and goes as far towards the fit as the loss keeps falling.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from agents.base import ConvergenceWarning, FitReport
from agents.interactive.labels import Labels
from agents.interactive.projection import project
from agents.log_loss import maximise_likelihood
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    Policy,
    PolicyClass,
    ProductClass,
)
from ntp_envs.policy_classes.markov import MarkovPolicy

__all__ = ["BoundedLoss", "minimise_bounded"]

FloatArray = NDArray[np.float64]

MAX_ITERATIONS = 500
GRID = 65


class BoundedLoss(ABC):
    """A loss of teacher-forced log-probabilities, token by token or chunk by chunk.

    Attributes:
        by_token: entry h of the loss depends on token h alone.
    """

    by_token: bool

    @abstractmethod
    def losses(self, log_probs: FloatArray, rows: slice = slice(None)) -> FloatArray:
        """``(n, H)`` losses from ``(n, H)`` log-probabilities (``(n, 1)`` if ``rows`` picks one position); they sum to
        the loss of a sequence."""

    @abstractmethod
    def slopes(self, log_probs: FloatArray) -> FloatArray:
        """``(n, H)`` minus the derivatives of a sequence's loss in the log-probabilities of its tokens, >= 0."""


@singledispatch
def minimise_bounded(
    policy_class: PolicyClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    """The member of a class with the least mean loss of a sequence.

    Finite classes, and product classes if the loss is by token: exact, ties to the smallest index (``gap`` 0). Other
    classes: a local minimum (``gap`` ``nan``), reached from the maximum likelihood or, in the Bernoulli class, from the
    best point of a grid.
    """
    raise TypeError(
        f"{type(policy_class).__name__} is not known here; write a function for it and register it with "
        "agents.objectives.minimise_bounded.register."
    )


@minimise_bounded.register
def _finite(
    policy_class: FiniteClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    values = [_value(loss, policy, demonstrations) for policy in policy_class]
    best = int(np.argmin(values))
    return policy_class.policy(best), FitReport(values[best], gap=0.0)


@minimise_bounded.register
def _product(
    policy_class: ProductClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    if not loss.by_token:
        raise ValueError("in a product class the loss of longer chunks does not separate by layers; use chunk=1.")
    weights, total = demonstrations.normalised_weights(), 0.0
    options = np.zeros(len(policy_class.n_options), dtype=np.int64)
    for h in range(demonstrations.horizon):
        log_probs = policy_class.option_log_probs(h, demonstrations.prompts, demonstrations.tokens)  # (n, options)
        position = slice(h, h + 1)
        values = [float(weights @ loss.losses(column[:, None], position)[:, 0]) for column in log_probs.T]
        options[h] = int(np.argmin(values))
        total += values[options[h]]
    return policy_class.policy(options), FitReport(total, gap=0.0)


def _value(loss: BoundedLoss, policy: Policy, demonstrations: Demonstrations) -> float:
    log_probs = policy.log_probs(demonstrations.prompts, demonstrations.tokens)
    return float(demonstrations.normalised_weights() @ loss.losses(log_probs).sum(axis=1))


# -- classes with continuous parameters --------------------------------------------------------------------------------


@minimise_bounded.register
def _bernoulli(
    policy_class: BernoulliClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    inside = BernoulliClass(
        max(policy_class.theta_min, 1e-9), min(policy_class.theta_max, 1 - 1e-9), on=policy_class.on
    )
    grid = [policy_class.policy(member.theta) for member in inside.grid(GRID)]  # type: ignore[attr-defined]
    starts = [*grid, maximise_likelihood(policy_class, demonstrations)[0]]
    start = min(starts, key=lambda policy: _value(loss, policy, demonstrations))

    def between(one: Policy, two: Policy, share: float) -> Policy:
        mixed = (1 - share) * one.theta + share * two.theta  # type: ignore[attr-defined]
        return policy_class.policy(policy_class.clip(mixed))

    return _descend(policy_class, demonstrations, loss, start, between, tol)


@minimise_bounded.register
def _markov(
    policy_class: MarkovClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    def between(one: Policy, two: Policy, share: float) -> Policy:
        assert isinstance(one, MarkovPolicy) and isinstance(two, MarkovPolicy)
        return policy_class.policy((1 - share) * np.exp(one.emissions(0)) + share * np.exp(two.emissions(0)))

    start, _ = maximise_likelihood(policy_class, demonstrations)
    return _descend(policy_class, demonstrations, loss, start, between, tol)


@minimise_bounded.register
def _ar_linear(
    policy_class: ARLinearClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    def between(one: Policy, two: Policy, share: float) -> Policy:
        return policy_class.policy((1 - share) * one.theta + share * two.theta)  # type: ignore[attr-defined]

    start, _ = maximise_likelihood(policy_class, demonstrations)
    return _descend(policy_class, demonstrations, loss, start, between, tol)


def _descend(
    policy_class: PolicyClass,
    demonstrations: Demonstrations,
    loss: BoundedLoss,
    policy: Policy,
    between: Callable[[Policy, Policy, float], Policy],
    tol: float,
) -> tuple[Policy, FitReport]:
    """Reweighted maximum likelihood from ``policy``, each step shortened until the loss falls.

    Classes are convex in the parameters that ``between`` mixes, and log-likelihoods concave in them; so the fit lies in
    a direction of descent unless the point is stationary.
    """
    labels = Labels.from_demonstrations(demonstrations)
    value, iteration, gain = _value(loss, policy, demonstrations), 0, np.inf
    while gain > tol and iteration < MAX_ITERATIONS:
        iteration += 1
        slopes = loss.slopes(policy.log_probs(demonstrations.prompts, demonstrations.tokens))
        weights = labels.weights * slopes
        if weights.sum() <= 0.0:  # flat: every unit has reached the end of its loss
            gain = 0.0
            break
        target, _ = project(policy_class, replace(labels, weights=weights), tol=min(tol, 1e-8))
        share, candidate, new_value = 1.0, target, _value(loss, target, demonstrations)
        while new_value >= value and share > 1e-8:
            share *= 0.5
            candidate = between(policy, target, share)
            new_value = _value(loss, candidate, demonstrations)
        gain = value - new_value
        if gain > 0.0:
            policy, value = candidate, new_value
    converged = gain <= tol
    if not converged:
        warnings.warn(
            f"the loss still falls by {gain:.3g} a step after {iteration} reweighted fits (tol={tol:g}); raise tol.",
            ConvergenceWarning,
            stacklevel=3,
        )
    details = {"certificate": "local minimum: no step towards the reweighted fit lowers the loss by tol"}
    return policy, FitReport(value, float("nan"), converged, iteration, details)
