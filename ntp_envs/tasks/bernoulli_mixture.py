"""BernoulliMixture: iid tokens fitted to a mixture of two coins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ntp_envs._validation import check_int, check_probability
from ntp_envs.automata import BernoulliMixturePolicy
from ntp_envs.demonstrations import Demonstrations, Exactness
from ntp_envs.policy_classes import BernoulliClass
from ntp_envs.tasks._bernoulli_law import best_bernoulli, count_distance, count_representatives
from ntp_envs.tasks.base import BestInClass, FloatArray, IntArray, Task

__all__ = ["BernoulliMixture"]


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
        check_int("horizon", self.horizon, minimum=1)
        for name in ("weight", "q", "theta_min"):
            check_probability(name, getattr(self, name))
        if self.theta_min >= 0.5:
            raise ValueError(f"theta_min={self.theta_min} must be below 1/2: the class is [theta_min, 1 - theta_min].")

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
        return self._best_in_class

    @cached_property
    def _best_in_class(self) -> BestInClass:
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
        return Demonstrations(
            np.empty((len(tokens), 0), dtype=np.int64),
            tokens,
            vocab_size=2,
            weights=weights,
            source={"task": self.name, "parameters": self.parameters(), "by": "population"},
            exactness=Exactness(
                units=units, statistic=self.policy_class.statistic, expert_units=units & {self.horizon}
            ),
        )


@dataclass(frozen=True)
class BestTheta:
    """The theta nearest to the expert in a metric, and the distance."""

    theta: float
    value: float
    metric: str
