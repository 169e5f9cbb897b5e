"""TaiLr: log-loss in which tokens that the model finds unlikely weigh less, towards a token-wise total variation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, FitReport
from agents.interactive.base import with_details
from agents.log_loss import RegisteredClasses, maximise_likelihood
from agents.objectives.reweighted import BoundedLoss, minimise_bounded
from ntp_envs import Demonstrations, Policy, PolicyClass
from ntp_envs._validation import check_real

__all__ = ["TaiLrBC", "equivalent_smoothing"]

FloatArray = NDArray[np.float64]


def equivalent_smoothing(gamma: float, vocab_size: int) -> float:
    """The lambda with which `agents.SmoothedLogLossBC` minimises the same objective as TaiLr with gamma in [0, 1).

    >>> round(equivalent_smoothing(0.2, 2), 6)
    0.333333
    """
    return gamma * vocab_size / (1.0 - gamma + gamma * vocab_size)


class _OneMinusProbability(BoundedLoss):
    """``1 - pi(token)``: the total variation between the policy and a law that puts all mass on the token."""

    by_token = True

    def losses(self, log_probs: FloatArray, rows: slice = slice(None)) -> FloatArray:
        return -np.expm1(log_probs)

    def slopes(self, log_probs: FloatArray) -> FloatArray:
        return np.exp(log_probs)


class TaiLrBC(Agent):
    """Token-wise total variation as estimated by TaiLr (Ji et al. 2023, arXiv:2302.13344).

    The paper minimises ``-sum_h w_h log pi(a_h)`` with weights ``w = pi(a) / (gamma + (1 - gamma) pi(a))`` through
    which no gradient passes. Its gradient, ``pi' / (gamma + (1 - gamma) pi)``, is that of an objective in closed form,

    ``sum_h -log(gamma + (1 - gamma) pi(a_h)) / (1 - gamma)``,

    which is what we minimise. Two limits follow. ``gamma=0`` is maximum likelihood. ``gamma=1`` is
    ``sum_h (1 - pi(a_h))`` (up to a constant), the total variation to the *one-hot* law of each demonstrated token: its
    minimiser puts all mass on the likeliest token of a context and so is not the expert even in an unrestricted class.
    (The total variation to the expert's own law, which needs its probabilities, is
    `ClippedRatioBC` with ``chunk=1, beta=1``.)

    In between, TaiLr *is* smoothed log-loss: ``gamma + (1 - gamma) pi`` is proportional to
    ``(1 - lambda) pi + lambda / A`` with ``lambda = gamma A / (1 - gamma + gamma A)`` (`equivalent_smoothing`), so the
    two have the same minimisers, and `agents.SmoothedLogLossBC`'s solvers, with what they certify, are used.

    ``objective`` of the report is the formula above, in nats a sequence; at ``gamma=1`` it is the expected number of
    tokens missed.

    Args:
        gamma: in [0, 1]; the paper uses 1e-7 to 0.1.
        tol: as in `agents.LogLossBC`.

    Raises:
        ValueError: on `fit`, gamma outside [0, 1].

    Warns:
        ConvergenceWarning: as the solver of the class does; at ``gamma=1`` autoregressive linear classes are fitted
            to a local minimum.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> [
    ...     round(TaiLrBC(gamma).fit(task.population(), task.policy_class).policy_.theta, 8) for gamma in (0.0, 0.01)
    ... ]
    [0.00100998, 1e-05]
    """

    supports = RegisteredClasses(maximise_likelihood)  # type: ignore[assignment]

    def __init__(self, gamma: float = 0.01, *, tol: float = 1e-8) -> None:
        self.gamma = gamma
        self.tol = tol

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        gamma = check_real("gamma", self.gamma, minimum=0.0, maximum=1.0)
        tol = check_real("tol", self.tol, minimum=0.0)
        if gamma == 1.0:
            policy, report = minimise_bounded(policy_class, demonstrations.pooled(), _OneMinusProbability(), tol=tol)
            return policy, with_details(report, "expected number of tokens missed")
        lam = equivalent_smoothing(gamma, demonstrations.vocab_size)
        policy, report = maximise_likelihood(policy_class, demonstrations, smoothing=lam, tol=tol)
        with np.errstate(divide="ignore"):  # gamma = 0, and a token of probability zero
            losses = np.log1p(
                (gamma - 1.0) * -np.expm1(policy.log_probs(demonstrations.prompts, demonstrations.tokens))
            )
        report = FitReport(
            float(demonstrations.normalised_weights() @ -losses.sum(axis=1)) / (1.0 - gamma),
            report.gap / (1.0 - gamma),
            report.converged,
            report.iterations,
            report.details,
        )
        return policy, with_details(report, "TaiLr", lam=lam)
