"""BernoulliMixture and Contamination: a mixture of two coins, and the one coin that a learner may choose.

The number of events is sufficient (ones in the first, flips in the second), so every distance is a sum over counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, xlog1py, xlogy

from ntp_envs.arrays import ROUNDING, FloatArray, IntArray, binomial_log_coefficients, first_best, kl_terms
from ntp_envs.automata import BernoulliMixturePolicy
from ntp_envs.checks import check_int, check_probability
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.policy_classes import BernoulliClass
from ntp_envs.tasks.base import LONGEST, BestInClass, Task, check_population_size


def count_log_law(expert: BernoulliMixturePolicy, length: int) -> FloatArray:
    """Log-probability of k events in ``length`` tokens, k = 0..length."""
    return binomial_log_coefficients(length) + expert.log_path_probs(np.arange(length + 1), length)


def _log_ratios(expert: BernoulliMixturePolicy, theta: float, length: int) -> FloatArray:
    """``(length + 1,)`` log(expert / Bernoulli(theta)) of a sequence with k events, relatively accurate near 0 too.

    With l_j the log-ratio of component j it is ``log1p(sum w_j expm1(l_j))``: the coefficients, and the size of the
    log-probabilities, have dropped out before anything is rounded. Only for theta inside (0, 1).
    """
    k, weights = np.arange(length + 1), np.exp(expert.log_weights)
    with np.errstate(divide="ignore", over="ignore"):
        event = np.log1p((expert.thetas - theta) / theta)
        none = np.log1p((theta - expert.thetas) / (1.0 - theta))
        with np.errstate(invalid="ignore"):  # 0 * -inf
            parts = np.where(k[:, None] > 0, k[:, None] * event, 0.0)
            parts = parts + np.where(k[:, None] < length, (length - k)[:, None] * none, 0.0)  # (k, J)
        excess = np.expm1(np.minimum(parts, 1.0)) @ weights
        near = (parts < 1.0).all(axis=1) & (excess > -0.5)
        return np.where(near, np.log1p(excess), np.logaddexp.reduce(parts + expert.log_weights, axis=1))


def count_distance(expert: BernoulliMixturePolicy, theta: float, length: int, metric: str = "hellinger2") -> float:
    """Squared Hellinger distance, total variation or KL (nats) between expert and Bernoulli(theta), over counts.

    A sum of non-negative terms, each accurate relative to its size, times what the binomial coefficients are off by:
    about 1e-15 times the length.
    """
    k = np.arange(length + 1)  # P and Q: the laws of the number of events, under the expert and under theta
    log_q = binomial_log_coefficients(length) + xlogy(k, theta) + xlog1py(length - k, -theta)
    if 0.0 < theta < 1.0:
        gap = _log_ratios(expert, theta, length)
        log_p = log_q + gap
    else:
        log_p = count_log_law(expert, length)
        with np.errstate(invalid="ignore"):
            gap = np.where(np.isneginf(log_p), -np.inf, log_p - log_q)
    high = np.exp(np.maximum(log_p, log_q))  # so that |sqrt P - sqrt Q| = sqrt(high) (1 - e^(-|gap| / 2))
    if metric == "hellinger2":
        return min(float(high @ np.expm1(-0.5 * np.abs(gap)) ** 2), 2.0)
    if metric == "tv":
        return min(float(0.5 * high @ -np.expm1(-np.abs(gap))), 1.0)
    if metric == "kl":
        return float(kl_terms(np.zeros(length + 1), -gap, np.exp(log_p), np.exp(log_q)).sum())
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
    tolerance = 1e-12 + 1e-15 * horizon  # the second is the rounding of the binomial coefficients
    return BestInClass(policy_class.policy(theta), value, "one-dimensional minimisation", tolerance=tolerance)


def count_representatives(task: Task, chunk: int | None) -> tuple[NDArray[np.int64], FloatArray, frozenset[int]]:
    """Event patterns ``(R, H)``, weights ``(R,)`` and the units for which they are an exact population; R <= H + 1.

    Of whole sequences the expert's density is that of the count too; of their chunks it is not, as it depends on what
    precedes them.

    Without ``chunk``: k events first, for k = 0..H. With ``chunk`` = K: every chunk holds the same number k of events,
    weighted by the law of a chunk, which by exchangeability is the expert's law at horizon K. Where K does not divide H
    the shorter last chunk has a count of its own. A chunk learner sums over chunks, so that any joint law of the two
    counts will do; `_coupling` needs K + r + 1 pairs, r = H mod K.

    Raises:
        NotTractableError: more than 2**26 tokens for all prompts together.
    """
    expert, horizon = task.expert, task.horizon
    assert isinstance(expert, BernoulliMixturePolicy)
    size = horizon if chunk is None else check_int("chunk", chunk, minimum=1, maximum=horizon)
    full, rest = divmod(horizon, size)
    check_population_size(task, (size + rest + 1) * len(task.prompt_law()[0]))
    whole, tail, weights = np.arange(size + 1), np.zeros(size + 1, dtype=np.int64), np.exp(count_log_law(expert, size))
    if rest:
        whole, tail, weights = _coupling(weights, np.exp(count_log_law(expert, rest)))
    place = np.arange(horizon)
    counts = np.where(place < full * size, whole[:, None], tail[:, None])
    return (place % size < counts).astype(np.int64), weights / weights.sum(), frozenset({1, size})


def _coupling(p: FloatArray, q: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Pairs (i, j) and weights with marginals p and q, at most ``len(p) + len(q) - 1`` of them.

    Both laws are laid along [0, 1] and cut where either has an edge, smallest masses first, so that these keep their
    relative accuracy.
    """
    one, two = np.argsort(p, kind="stable"), np.argsort(q, kind="stable")
    edges = [np.cumsum(law[order] / law.sum()) for law, order in ((p, one), (q, two))]
    edges[0][-1] = edges[1][-1] = 1.0
    ends = np.union1d(*edges)
    masses = np.diff(ends, prepend=0.0)
    i, j = (order[np.searchsorted(edge, ends)] for order, edge in zip((one, two), edges))
    order = np.lexsort((j, i))
    order = order[masses[order] > 0.0]
    return i[order], j[order], masses[order]


def _check_rates(task: Any, *names: str) -> None:
    check_int("horizon", task.horizon, minimum=1, maximum=LONGEST)
    for name in names:
        check_probability(name, getattr(task, name))
    if task.theta_min >= 0.5:
        raise ValueError(f"theta_min={task.theta_min} must be below 1/2: the class is [theta_min, 1 - theta_min].")


@dataclass(frozen=True)
class BernoulliMixture(Task):
    """Documents of fair coin flips, except for a fraction ``weight`` made with a coin of probability ``q``.

    There is no prompt. The expert is the document-level mixture ``(1 - w) Bern(1/2)^T + w Bern(q)^T``, the class
    ``Bern(theta)^T`` with theta in [theta_min, 1 - theta_min].

    What it shows: the smallest case of a mixture averaged by log-loss. Maximum likelihood takes the mean ``(1 - w)/2 +
    w q``; from it the total variation to the expert grows like ``w |q - 1/2| sqrt(2 T / pi)`` up to 1, while the best
    theta stays within ``w`` of it. The effect is milder than in `Contamination`, as the mean is only slightly off and
    the clean component has full entropy; a textbook example rather than a hard one.

    Args:
        horizon: T.
        weight: w, the fraction of documents of the second kind, in (0, 1).
        q: probability of a one in them, in (0, 1).
        theta_min: the class is [theta_min, 1 - theta_min], in (0, 1/2).

    >>> task = BernoulliMixture(horizon=100)
    >>> round(task.log_loss_theta(), 12)
    0.502
    >>> round(task.distance_to(task.log_loss_theta(), "tv") / task.best_theta("tv").value, 2)
    2.13
    """

    horizon: int = 64
    weight: float = 0.01
    q: float = 0.7
    theta_min: float = 1e-6

    vocab_size = 2
    prompt_length = 0

    def __post_init__(self) -> None:
        _check_rates(self, "weight", "q", "theta_min")

    @cached_property
    def expert(self) -> BernoulliMixturePolicy:
        return BernoulliMixturePolicy([0.5, self.q], [1 - self.weight, self.weight], horizon=self.horizon)

    @cached_property
    def policy_class(self) -> BernoulliClass:
        return BernoulliClass(self.theta_min)

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        return np.empty((1, 0), dtype=np.int64), np.ones(1)

    # -- closed forms --------------------------------------------------------------------------------------------------

    def log_loss_theta(self) -> float:
        """The theta of population log-loss: the mean number of ones a token, ``(1 - w)/2 + w q``, within the class."""
        return self.policy_class.clip((1 - self.weight) / 2 + self.weight * self.q)

    def distance_to(self, theta: float, metric: str = "hellinger2") -> float:
        """Distance from the expert to Bern(theta)^T, summed over the number of ones: exact, O(T).

        Args:
            theta: in [0, 1].
            metric: ``"hellinger2"`` (``sum (sqrt P - sqrt Q)^2``, in [0, 2]), ``"tv"`` (in [0, 1]) or ``"kl"`` (nats,
                expert first).
        """
        return count_distance(self.expert, check_probability("theta", theta, open_interval=False), self.horizon, metric)

    def best_in_class(self) -> BestInClass:
        return best_bernoulli(self.expert, self.policy_class, self.horizon)

    def best_theta(self, metric: str) -> BestTheta:
        """The member nearest to the expert in another metric (``"tv"``, ``"kl"``), by one-dimensional minimisation."""
        found = best_bernoulli(self.expert, self.policy_class, self.horizon, metric=metric)
        return BestTheta(found.policy.theta, found.hellinger2, metric)  # type: ignore[attr-defined]

    def population(self, chunk: int | None = None) -> Demonstrations:
        """One document for each number of ones (a chunk), weighted: H + 1 or fewer; K + r + 1 with r = H mod K.

        Raises:
            NotTractableError: more than 2**26 tokens in all; `log_loss_theta` and `distance_to` are closed forms.
        """
        tokens, weights, units = count_representatives(self, chunk)
        nothing = np.empty((len(tokens), 0), dtype=np.int64)
        return self._weighted(nothing, tokens, weights, units=units, expert_units=units & {self.horizon})


@dataclass(frozen=True)
class BestTheta:
    """The theta nearest to the expert in a metric, and the distance."""

    theta: float
    value: float
    metric: str


@dataclass(frozen=True)
class Contamination(Task):
    """Binary documents whose tokens flip rarely, except in a fraction ``eps`` where they flip almost always.

    The prompt is one uniform bit a_0; a flip at step h is a_h != a_{h-1}. With probability 1 - eps the whole document
    has flips iid Bernoulli(p), otherwise iid Bernoulli(q). The class is iid flips of one probability theta: the
    autoregressive linear class of dimension one.

    What it shows: log-loss matches the *average* flip rate, about p + eps (q - p), and every one of the H tokens of
    every clean document pays for it, so its approximation factor grows linearly in H, up to what a distance of 2 allows
    (686, 1626, 1997 at H = 1024, 4096, 16384 and the default parameters), while the best in class simply gives up on
    the contaminated documents.

    Args:
        horizon: H.
        eps: fraction of contaminated documents, in (0, 1).
        p: flip probability in clean documents, in (0, 1).
        q: flip probability in contaminated ones, in (0, 1).
        theta_min: the class is theta in [theta_min, 1 - theta_min], in (0, 1/2).

    >>> Contamination(horizon=16).best_in_class().policy.theta
    1e-05
    """

    horizon: int = 64
    eps: float = 1e-3
    p: float = 1e-5
    q: float = 1 - 1e-5
    theta_min: float = 1e-5

    vocab_size = 2
    prompt_length = 1

    def __post_init__(self) -> None:
        _check_rates(self, "eps", "p", "q", "theta_min")

    @cached_property
    def expert(self) -> BernoulliMixturePolicy:
        return BernoulliMixturePolicy([self.p, self.q], [1 - self.eps, self.eps], horizon=self.horizon, on="flips")

    @cached_property
    def policy_class(self) -> BernoulliClass:
        return BernoulliClass(self.theta_min, on="flips")

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        return np.array([[0], [1]]), np.array([0.5, 0.5])

    def best_in_class(self) -> BestInClass:
        return best_bernoulli(self.expert, self.policy_class, self.horizon)

    def population(self, chunk: int | None = None) -> Demonstrations:
        """One document for each prompt and number of flips (a chunk), weighted: 2 (H + 1) or fewer; with ``chunk`` = K
        2 (K + r + 1) or fewer, r = H mod K.

        Raises:
            NotTractableError: more than 2**26 tokens in all.
        """
        flips, weights, units = count_representatives(self, chunk)
        prompts = np.repeat([[0], [1]], len(flips), axis=0)
        tokens = (np.cumsum(np.tile(flips, (2, 1)), axis=1) + prompts) % 2
        weights = np.tile(weights, 2) / 2
        return self._weighted(prompts, tokens, weights, units=units, expert_units=units & {self.horizon})
