"""The one-parameter Bernoulli class, on tokens or on flips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_in, check_int, check_probability
from ntp_envs.automata import BernoulliPolicy
from ntp_envs.policy_classes.base import PolicyClass
from ntp_envs.policy_classes.finite import FiniteClass

__all__ = ["BernoulliClass"]


class BernoulliClass(PolicyClass):
    """``BernoulliPolicy(theta, on=on)`` for theta in [theta_min, theta_max]; binary tokens.

    With ``on="flips"`` this is the autoregressive linear class of dimension one: the log-odds of a token are
    ``+-log(theta / (1 - theta))``, the sign being that of the previous token.

    Args:
        theta_min, theta_max: the range of theta, within [0, 1]; ``theta_max`` defaults to ``1 - theta_min``.
        on: ``"tokens"`` or ``"flips"``.

    >>> BernoulliClass(0.1).policy(0.5).theta
    0.5
    """

    def __init__(self, theta_min: float = 0.0, theta_max: float | None = None, *, on: str = "tokens") -> None:
        super().__init__(2)
        self.theta_min = check_probability("theta_min", theta_min, open_interval=False)
        self.theta_max = check_probability(
            "theta_max", 1.0 - self.theta_min if theta_max is None else theta_max, open_interval=False
        )
        self.on = check_in("on", on, ("tokens", "flips"))
        self.statistic = f"number of events on {self.on}"
        if self.theta_min > self.theta_max:
            raise ValueError(f"theta_min={self.theta_min} is above theta_max={self.theta_max}; the class is empty.")

    def policy(self, theta: float) -> BernoulliPolicy:
        """The member with this theta; ``ValueError`` outside [theta_min, theta_max]."""
        if not self.theta_min <= theta <= self.theta_max:
            raise ValueError(f"theta={theta} is outside the class [{self.theta_min}, {self.theta_max}].")
        return BernoulliPolicy(theta, on=self.on)

    def clip(self, theta: float) -> float:
        """The nearest theta in the class, as a probability."""
        return float(np.clip(theta, self.theta_min, self.theta_max))

    def events(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        """``(B, H)`` events: the tokens themselves, or where a token differs from the one before it."""
        tokens = np.asarray(tokens)
        if self.on == "tokens":
            return tokens.astype(bool)
        if np.shape(prompts)[1] == 0:
            raise ValueError('on="flips" needs a prompt of at least one token: the first flip is counted from it.')
        before = np.concatenate([np.asarray(prompts)[:, -1:], tokens[:, :-1]], axis=1)
        return tokens != before

    def grid(self, size: int) -> FiniteClass:
        """``size`` members, evenly spaced in log-odds between the ends (which must not be 0 or 1)."""
        size = check_int("size", size, minimum=2)
        if self.theta_min <= 0.0 or self.theta_max >= 1.0:
            raise ValueError(
                f"a grid in log-odds needs 0 < theta_min and theta_max < 1, not [{self.theta_min}, {self.theta_max}]."
            )
        from scipy.special import expit, logit

        thetas = expit(np.linspace(logit(self.theta_min), logit(self.theta_max), size))
        members = FiniteClass([self.policy(self.clip(float(theta))) for theta in thetas])
        members.statistic = self.statistic
        return members
