"""Robustified next-token prediction: log-loss after mixing every candidate with the uniform distribution."""

from __future__ import annotations

import math

import numpy as np

from agents.base import Agent, FitReport
from agents.log_loss import RegisteredClasses, maximise_likelihood
from ntp_envs import Demonstrations, Policy, PolicyClass
from ntp_envs._validation import check_in, check_real

__all__ = ["SmoothedLogLossBC"]

RULES = ("1/H", "1/(nH)")


class SmoothedLogLossBC(Agent):
    """Fit ``(1 - lam) pi + lam / A`` at every token by log-loss, and return pi itself, unsmoothed.

    Our reading of the robustified next-token prediction of Rohatgi et al. (arXiv 2502.12465), whose full text we do
    not follow. A token that a candidate calls impossible costs it at most ``log(A / lam)`` instead of infinity.
    Returning the smoothed policy instead would cost up to about ``H lam (1 - 1/A)`` in squared Hellinger distance,
    which deterministic policies reach; next to nothing where pi is nearly uniform.

    Exact for finite, product, Bernoulli and Markov classes. For autoregressive linear classes the objective is not
    concave: see `agents.smoothed_ar_linear` for what is certified there.

    Args:
        lam: ``"1/H"``; ``"1/(nH)"``, n being the number of demonstrations (the sum of their weights, which count as
            repetitions; in a population n is infinite, so that lam is 0 and the learner is `LogLossBC`); or a number
            in [0, 1).
        tol: as in `LogLossBC`.

    Raises:
        ValueError: on `fit`, an unknown rule, or a lam outside [0, 1). At H = 1 the rule ``"1/H"`` gives 1, which
            would leave nothing to learn from.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> SmoothedLogLossBC().fit(task.population(), task.policy_class).policy_.theta
    1e-05
    """

    supports = RegisteredClasses(maximise_likelihood)  # type: ignore[assignment]

    def __init__(self, lam: float | str = "1/H", *, tol: float = 1e-8) -> None:
        self.lam = lam
        self.tol = tol

    def smoothing(self, demonstrations: Demonstrations) -> float:
        """The number that ``lam`` stands for with these demonstrations."""
        if isinstance(self.lam, str):
            rule = check_in("lam", self.lam, RULES)
            n = 1.0
            if rule == "1/(nH)" and demonstrations.exactness is not None:
                n = math.inf
            elif rule == "1/(nH)":
                n = float(len(demonstrations) if demonstrations.weights is None else demonstrations.weights.sum())
            lam = 1.0 / (n * demonstrations.horizon)
        else:
            lam = check_real("lam", self.lam, minimum=0.0)
        if not lam < 1.0:
            raise ValueError(
                f"lam={self.lam!r} is {lam:g} for these demonstrations (H={demonstrations.horizon}); it must be in "
                "[0, 1): at 1 all policies look alike. Give a number."
            )
        return lam

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        lam = self.smoothing(demonstrations)
        tol = check_real("tol", self.tol, minimum=0.0)
        policy, report = maximise_likelihood(policy_class, demonstrations, smoothing=lam, tol=tol)
        report.details.update(objective="log-loss of the smoothed policy", lam=lam)
        return policy, report
