"""Closed forms for a mixture of Bernoullis against one Bernoulli: the number of events is sufficient.

Shared by `Contamination` (events are flips) and `BernoulliMixture` (events are ones).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, xlog1py, xlogy

from ntp_envs._numerics import ROUNDING, binomial_log_coefficients, first_best, squared_sqrt_gap
from ntp_envs._validation import check_int
from ntp_envs.automata import BernoulliMixturePolicy
from ntp_envs.policy_classes import BernoulliClass
from ntp_envs.tasks.base import BestInClass

__all__ = ["best_bernoulli", "count_distance", "count_log_law", "count_representatives"]

FloatArray = NDArray[np.float64]


def count_log_law(expert: BernoulliMixturePolicy, length: int) -> FloatArray:
    """Log-probability of k events in ``length`` tokens, k = 0..length."""
    return binomial_log_coefficients(length) + expert.log_path_probs(np.arange(length + 1), length)


def count_distance(expert: BernoulliMixturePolicy, theta: float, length: int, metric: str = "hellinger2") -> float:
    """Squared Hellinger distance, total variation or KL (nats) between expert and Bernoulli(theta), over counts."""
    k = np.arange(length + 1)
    log_p = count_log_law(expert, length)
    log_q = binomial_log_coefficients(length) + xlogy(k, theta) + xlog1py(length - k, -theta)
    if metric == "hellinger2":
        return float(squared_sqrt_gap(log_p, log_q).sum())
    if metric == "tv":
        return float(0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum())
    if metric == "kl":
        p = np.exp(log_p)
        with np.errstate(invalid="ignore"):
            return float(np.where(p > 0, p * (log_p - log_q), 0.0).sum())
    raise ValueError(f"metric={metric!r} must be 'hellinger2', 'tv' or 'kl'.")


def best_bernoulli(
    expert: BernoulliMixturePolicy, policy_class: BernoulliClass, horizon: int, *, metric: str = "hellinger2"
) -> BestInClass:
    """The theta of the class nearest to the expert: a scan in log-odds, then a bounded search in the best cells.

    The distance is smooth in the log-odds with a scale of order 1 / sqrt(H) or more around each mixture component,
    so the scan is refined around the components; its few best cells are searched to 1e-10 in log-odds.
    """
    from scipy.optimize import minimize_scalar  # imported here: it is most of the time of importing the package

    low, high = max(policy_class.theta_min, 1e-300), min(policy_class.theta_max, 1 - 1e-16)
    ends = logit(low), logit(high)
    near = logit(np.clip(expert.thetas, low, high))
    scan = np.unique(
        np.clip(np.concatenate([np.linspace(*ends, 401), *(n + np.linspace(-1, 1, 81) for n in near)]), *ends)
    )

    def theta_at(eta: float) -> float:
        return policy_class.clip(float(expit(eta)))

    values = np.array([count_distance(expert, theta_at(eta), horizon, metric) for eta in scan])
    cells = np.argsort(values, kind="stable")[:3]
    candidates = [(float(values[i]), theta_at(scan[i])) for i in cells]
    for i in cells:
        cell = scan[max(i - 1, 0)], scan[min(i + 1, len(scan) - 1)]
        found = minimize_scalar(
            lambda eta: count_distance(expert, theta_at(eta), horizon, metric),
            bounds=cell,
            method="bounded",
            options={"xatol": 1e-10},
        )
        candidates.append((float(found.fun), theta_at(found.x)))
    candidates.sort(key=lambda found: found[1])  # of equal values, as of two mirror images, that of the smaller theta
    value, theta = candidates[int(first_best(-np.array([value for value, _ in candidates]), slack=ROUNDING))]
    return BestInClass(policy_class.policy(theta), value, "one-dimensional minimisation", tolerance=1e-12)


def count_representatives(
    expert: BernoulliMixturePolicy, horizon: int, chunk: int | None
) -> tuple[NDArray[np.int64], FloatArray, frozenset[int]]:
    """Event patterns ``(R, H)``, weights ``(R,)`` and the units for which they are an exact population.

    Of whole sequences the expert's density is that of the count too; of their chunks it is not, as it depends on what
    precedes them.

    Without ``chunk``: k events first, for k = 0..H. With ``chunk`` = K: every chunk holds the same number k of events,
    weighted by the law of a chunk, which by exchangeability is the expert's law at horizon K; where K does not divide
    H the shorter last chunk has its own count, independent of the others (a chunk learner sums over chunks).
    """
    size = horizon if chunk is None else check_int("chunk", chunk, minimum=1, maximum=horizon)
    full, rest = divmod(horizon, size)
    patterns = np.tril(np.ones((size + 1, size), dtype=np.int64), -1)  # row k starts with k ones
    events, weights = np.tile(patterns, (1, full)), np.exp(count_log_law(expert, size))
    if rest:
        tails = np.tril(np.ones((rest + 1, rest), dtype=np.int64), -1)
        events = np.column_stack([np.repeat(events, rest + 1, axis=0), np.tile(tails, (size + 1, 1))])
        weights = np.outer(weights, np.exp(count_log_law(expert, rest))).ravel()
    return events, weights / weights.sum(), frozenset({1, size})
