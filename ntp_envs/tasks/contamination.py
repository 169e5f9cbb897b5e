"""Contamination: a few documents of another kind, which a one-parameter class can only average in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ntp_envs._validation import check_int, check_probability
from ntp_envs.automata import BernoulliMixturePolicy
from ntp_envs.demonstrations import Demonstrations, Exactness
from ntp_envs.policy_classes import BernoulliClass
from ntp_envs.tasks._bernoulli_law import best_bernoulli, count_representatives
from ntp_envs.tasks.base import BestInClass, FloatArray, IntArray, Task

__all__ = ["Contamination"]


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
        check_int("horizon", self.horizon, minimum=1)
        for name in ("eps", "p", "q", "theta_min"):
            check_probability(name, getattr(self, name))
        if self.theta_min >= 0.5:
            raise ValueError(f"theta_min={self.theta_min} must be below 1/2: the class is [theta_min, 1 - theta_min].")

    @cached_property
    def expert(self) -> BernoulliMixturePolicy:
        return BernoulliMixturePolicy([self.p, self.q], [1 - self.eps, self.eps], horizon=self.horizon, on="flips")

    @cached_property
    def policy_class(self) -> BernoulliClass:
        return BernoulliClass(self.theta_min, on="flips")

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        return np.array([[0], [1]]), np.array([0.5, 0.5])

    @cached_property
    def _best_in_class(self) -> BestInClass:
        return best_bernoulli(self.expert, self.policy_class, self.horizon)

    def best_in_class(self) -> BestInClass:
        return self._best_in_class

    def population(self, chunk: int | None = None) -> Demonstrations:
        """One document for each prompt and number of flips (a chunk), weighted: 2 (H + 1) or fewer; with ``chunk`` = K
        2 (K + r + 1) or fewer, r = H mod K.

        Raises:
            NotTractableError: more than 2**26 tokens in all.
        """
        flips, weights, units = count_representatives(self, chunk)
        prompts = np.repeat([[0], [1]], len(flips), axis=0)
        tokens = (np.cumsum(np.tile(flips, (2, 1)), axis=1) + prompts) % 2
        return Demonstrations(
            prompts,
            tokens,
            vocab_size=2,
            weights=np.tile(weights, 2) / 2,
            source={"task": self.name, "parameters": self.parameters(), "by": "population"},
            exactness=Exactness(
                units=units, statistic=self.policy_class.statistic, expert_units=units & {self.horizon}
            ),
        )
