"""The approximation factor: how many times farther from the expert than the best in class."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np

from ntp_envs.distances.dispatch import distance
from ntp_envs.distances.intervals import CONFIDENCE
from ntp_envs.errors import WellSpecifiedError
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task

__all__ = ["approximation_factor"]

#: below this squared Hellinger distance the class is taken to contain the expert
WELL_SPECIFIED = 1e-14


@overload
def approximation_factor(
    task: Task,
    policy: Policy,
    *,
    method: str = ...,
    n: int = ...,
    rng: np.random.Generator | None = ...,
    confidence: float = ...,
    with_interval: Literal[False] = ...,
) -> float: ...


@overload
def approximation_factor(
    task: Task,
    policy: Policy,
    *,
    method: str = ...,
    n: int = ...,
    rng: np.random.Generator | None = ...,
    confidence: float = ...,
    with_interval: Literal[True],
) -> tuple[float, float, float]: ...


def approximation_factor(
    task: Task,
    policy: Policy,
    *,
    method: str = "auto",
    n: int = 20_000,
    rng: np.random.Generator | None = None,
    confidence: float = CONFIDENCE,
    with_interval: bool = False,
) -> float | tuple[float, float, float]:
    """``C_apx = D_H^2(P^policy, P*) / min_{pi in Pi} D_H^2(P^pi, P*)`` at the full horizon.

    Squared Hellinger distances ``sum (sqrt P - sqrt Q)^2``; the ratio is the same for authors who halve them. The
    factor is at least 1 for a member of the class (up to the ``tolerance`` of the best in class; a member may be below
    1 where that is ``nan``, from a local search), and may be less for a policy outside it. Source: Rohatgi, Block,
    Huang, Krishnamurthy and Foster, COLT 2025, arXiv 2502.12465.

    Args:
        task: gives the expert, the prompt law and ``best_in_class()``.
        policy: the learner's policy.
        method, n, rng: how the numerator is computed, as in `distance`.
        confidence: level of the interval.
        with_interval: also return the ends of the interval of the numerator's error (both equal to the value where it
            is exact; the denominator's error is ``task.best_in_class().tolerance``).

    Returns:
        The factor, or ``(value, lower, upper)``.

    Raises:
        WellSpecifiedError: the best in class is at distance 0 (1e-14 or less), so that there is no factor.
        NotTractableError: the task does not know its best in class, or the method cannot do this.
        TypeError, ValueError: as in `distance`.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=16)
    >>> round(approximation_factor(task, task.policy_class.policy(1e-5 + 1e-3 * (1 - 2e-5))), 3)
    14.058
    """
    best = task.best_in_class().hellinger2
    if best <= WELL_SPECIFIED:
        raise WellSpecifiedError(
            f"the policy class of {task.name} contains the expert (best in class at squared Hellinger distance "
            f"{best:.3g}), so the approximation factor is not defined; look at distance(...) itself."
        )
    curve = distance(task.expert, policy, task, method=method, n=n, rng=rng, confidence=confidence)
    if not with_interval:
        return curve.final / best
    return curve.final / best, float(curve.lower[-1]) / best, float(curve.upper[-1]) / best
