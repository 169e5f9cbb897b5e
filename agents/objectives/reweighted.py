"""Bounded losses of demonstrated tokens, minimised by maximum likelihood with weights that follow the loss.

The slopes of a loss that falls in the log-likelihoods, used as weights, make a weighted log-likelihood with the same
gradient. Each step fits that (`agents.interactive.project` does it for every class) and goes towards the fit as far as
the loss falls. A loss with kinks is approached through smooth ones.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from agents.base import ConvergenceWarning, FitReport
from agents.interactive.labels import Labels
from agents.interactive.projection import project
from agents.log_loss import maximise_likelihood
from agents.softmax_rows import check_dimension
from ntp_envs import (
    ARLinearClass,
    BernoulliClass,
    Demonstrations,
    FiniteClass,
    MarkovClass,
    NGramClass,
    NGramPolicy,
    Policy,
    PolicyClass,
    ProductClass,
)
from ntp_envs._numerics import ROUNDING, first_best
from ntp_envs.ngram import NGramLevel
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

    def stages(self) -> Sequence[BoundedLoss]:
        """Losses to descend one after the other, ever closer to this one, which comes last; smooth losses need none."""
        return (self,)

    @abstractmethod
    def slopes(self, log_probs: FloatArray) -> FloatArray:
        """``(n, H)`` minus the derivatives of a sequence's loss in the log-probabilities of its tokens, >= 0."""


@singledispatch
def minimise_bounded(
    policy_class: PolicyClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    """The member of a class with the least mean loss of a sequence.

    Finite classes, and product classes if the loss is by token: exact, ties to the smallest index (``gap`` 0). Other
    classes: a point from which a step towards the reweighted fit no longer lowers the loss by ``tol`` (``gap`` ``nan``;
    of a smooth loss a stationary point, of one with kinks near a local minimum), reached from the maximum likelihood
    or, in the Bernoulli class, from the best point of a grid. `ntp_envs.NotTractableError` in autoregressive linear
    classes of more than 8192 weights.
    """
    raise TypeError(
        f"{type(policy_class).__name__} is not known here; write a function for it and register it with "
        "agents.objectives.minimise_bounded.register."
    )


@minimise_bounded.register
def _finite(
    policy_class: FiniteClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    values = [_value(loss, policy, demonstrations) for policy in policy_class.readers()]
    best = _least(values)
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
        options[h] = _least(values)
        total += values[options[h]]
    return policy_class.policy(options), FitReport(total, gap=0.0)


def _least(values: Sequence[float]) -> int:
    """The first of the smallest, rounding apart."""
    losses = np.array(values)
    return int(first_best(-losses, slack=ROUNDING * np.abs(losses).max()))


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
    start = starts[_least([_value(loss, policy, demonstrations) for policy in starts])]

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
def _ngram(
    policy_class: NGramClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    def between(one: Policy, two: Policy, share: float) -> Policy:
        """A mixture after the contexts of full length; where ``two`` has no law of its own, what ``one`` backs off to.

        All fits to the same tokens number contexts alike.
        """
        assert isinstance(one, NGramPolicy) and isinstance(two, NGramPolicy)
        top, other = one.levels[-1], two.levels[-1]
        own, keep = ((1 - share) * a + share * b for a, b in ((top.own, other.own), (top.keep, other.keep)))
        return policy_class.policy([*one.levels[:-1], NGramLevel(top.keys, own, keep)])

    start, _ = maximise_likelihood(policy_class, demonstrations)
    return _descend(policy_class, demonstrations, loss, start, between, tol)


@minimise_bounded.register
def _ar_linear(
    policy_class: ARLinearClass, demonstrations: Demonstrations, loss: BoundedLoss, *, tol: float
) -> tuple[Policy, FitReport]:
    check_dimension(policy_class.features, "a bounded loss, which takes tens to hundreds of likelihood fits,")

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
    labels, iterations, gain = Labels.from_demonstrations(demonstrations), 0, 0.0
    best, least = policy, _value(loss, policy, demonstrations)
    for stage in loss.stages():
        value, gain = _value(stage, policy, demonstrations), np.inf
        for _ in range(MAX_ITERATIONS):
            slopes = stage.slopes(policy.log_probs(demonstrations.prompts, demonstrations.tokens))
            weights = labels.weights * slopes
            if gain <= tol or weights.sum() <= 0.0:  # flat: every unit has reached the end of its loss
                break
            iterations += 1
            candidate, _ = project(policy_class, replace(labels, weights=weights), tol=min(tol, 1e-8))
            target, share, new_value = candidate, 1.0, _value(stage, candidate, demonstrations)
            while new_value >= value and share > 1e-8:
                share *= 0.5
                candidate = between(policy, target, share)
                new_value = _value(stage, candidate, demonstrations)
            gain = max(value - new_value, 0.0)
            if gain > 0.0:
                policy, value = candidate, new_value
        if (exact := _value(loss, policy, demonstrations)) < least:
            best, least = policy, exact
        policy = best
    converged = gain <= tol or not np.isfinite(gain)
    if not converged:
        warnings.warn(
            f"the loss still falls by {gain:.3g} a step after {iterations} reweighted fits (tol={tol:g}); raise tol.",
            ConvergenceWarning,
            stacklevel=3,
        )
    details = {"certificate": "none: a step towards the reweighted fit no longer lowers the loss by tol"}
    return best, FitReport(least, float("nan"), converged, iterations, details)
