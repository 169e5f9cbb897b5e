"""Tightrope: one slip in a place that no demonstration shows, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import FloatArray, IntArray
from ntp_envs.automata import AutomatonPolicy, TableAutomaton
from ntp_envs.checks import NotTractableError, check_flag, check_int, check_probability
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.policies import Policy
from ntp_envs.policy_classes import BernoulliClass, FiniteClass, PolicyClass
from ntp_envs.tasks.base import LONGEST, BestInClass, Task, check_population_size


@dataclass(frozen=True)
class Tightrope(Task):
    """Walk a rope of H steps: token 0 is a good step, token 1 a slip; every step off the rope costs 1.

    There is no prompt and the expert always plays 0, on the rope and off it, so a demonstration never shows the
    ground. No member of the class slips with probability less than ``eps`` a step.

    * By default a fall is for good. The class is ``BernoulliClass(eps)`` on tokens.
    * With ``recoverable``, token 0 climbs back: the walker is off the rope at step h exactly if a_h = 1. The class has
      two members, which slip with probability ``eps`` on the rope and differ only off it: ``policies[0]`` stays down
      for good, ``policies[1]`` climbs back at once, as the expert would. Demonstrations cannot tell them apart (equal
      likelihoods and equal distances; a learner that prefers the first of equals takes the worse one), but a learner
      that asks the expert about the states it visits itself, as DAgger does, can.

    What it shows: the cost of behaviour cloning (`bc_cost`) grows as ``eps H^2 / 2``, that of DAgger (`dagger_cost`) as
    ``eps H``, at one and the same distance between rollout laws. After Ross & Bagnell (2010) and Ross, Gordon &
    Bagnell (2011, arXiv:1011.0686).

    Args:
        horizon: H, at least 1.
        eps: least slip probability of the class, in (0, 1/2).
        recoverable: whether token 0 climbs back after a fall.

    >>> task = Tightrope(horizon=256, eps=1e-3)
    >>> round(task.bc_cost(), 3), round(task.dagger_cost(), 5), round(task.best_in_class().hellinger2, 5)
    (30.269, 0.25575, 0.24041)
    """

    horizon: int = 64
    eps: float = 1e-3
    recoverable: bool = False

    vocab_size = 2
    prompt_length = 0
    has_success = True

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=1, maximum=LONGEST)
        if check_probability("eps", self.eps) >= 0.5:
            raise ValueError(f"eps={self.eps} must be below 1/2: the class is slip probabilities in [eps, 1 - eps].")
        check_flag("recoverable", self.recoverable)

    @cached_property
    def expert(self) -> TableAutomaton:
        return TableAutomaton([[1.0, 0.0]], [[0, 0]])

    @cached_property
    def policy_class(self) -> PolicyClass:
        if not self.recoverable:
            return BernoulliClass(self.eps)
        slips, last_token = [1.0 - self.eps, self.eps], [[0, 1], [0, 1]]
        return FiniteClass([TableAutomaton([slips, off], last_token) for off in ([0.0, 1.0], [1.0, 0.0])])

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        return np.empty((1, 0), dtype=np.int64), np.ones(1)

    # -- cost ----------------------------------------------------------------------------------------------------------

    def off_rope(self, tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
        """``(B, t)`` whether the walker is off the rope after each token of ``(B, t)`` prefixes."""
        slips = np.asarray(tokens) == 1
        return slips if self.recoverable else np.logical_or.accumulate(slips, axis=1)

    def cost(self, tokens: NDArray[np.integer]) -> FloatArray:
        """``(B,)`` number of steps off the rope, in [0, t]."""
        return self.off_rope(tokens).sum(axis=1).astype(np.float64)

    def expected_cost(self, policy: Policy) -> float:
        """The exact expected cost of an automaton over ``horizon`` steps, by a forward recursion.

        Raises:
            NotTractableError: ``policy`` is not an automaton; average `cost` over its samples.
        """
        if not isinstance(policy, AutomatonPolicy):
            raise NotTractableError(
                f"the exact cost of {type(policy).__name__} is not known, as it is not an automaton; "
                "use task.cost(policy.sample(prompts, task.horizon, rng)).mean()."
            )
        mass = np.zeros((policy.n_states, 2))  # of (state, off the rope)
        mass[policy.initial_states(np.empty((1, 0), dtype=np.int64))[0], 0] = 1.0
        total = 0.0
        for h in range(self.horizon):
            moved = mass[:, None, :] * np.exp(policy.emissions(h))[:, :, None]  # (S, A, 2)
            if self.recoverable:
                moved = moved.sum(axis=2)[:, :, None] * np.eye(2)
            else:
                moved[:, 1] = moved[:, 1].sum(axis=1)[:, None] * [0.0, 1.0]
            mass = np.zeros_like(mass)
            np.add.at(mass, policy.transitions(h), moved)
            total += float(mass[:, 1].sum())
        return total

    def bc_cost(self) -> float:
        """Expected cost of slipping with probability ``eps`` a step and staying down: ``sum_h (1 - (1-eps)^h)``.

        This is the best in class where a fall is for good, and the first member where it need not be. Quadratic in H
        while ``eps H`` is small.
        """
        steps = np.arange(1, self.horizon + 1)
        return float(-np.expm1(steps * math.log1p(-self.eps)).sum())

    def dagger_cost(self) -> float:
        """Expected cost of slipping with probability ``eps`` on the rope and climbing back at the next step.

        The probability q_h of being off after step h obeys ``q_h = eps (1 - q_{h-1})``, q_0 = 0: a step spent on
        climbing back cannot be a slip. So ``q_h = eps / (1+eps) (1 - (-eps)^h)``, and the sum is
        ``eps / (1+eps) (H + eps / (1+eps) (1 - (-eps)^H))``, linear in H. Attained by the second member of the
        recoverable variant; where a fall is for good no policy of the class attains it (for H = 1 it is `bc_cost`).
        """
        ratio = self.eps / (1.0 + self.eps)
        return ratio * (self.horizon + ratio * (1.0 - (-self.eps) ** self.horizon))

    # -- the rest ------------------------------------------------------------------------------------------------------

    def best_in_class(self) -> BestInClass:
        """The least slip probability: squared Hellinger distance ``2 (1 - (1-eps)^{H/2})``, in [0, 2].

        Both members of the recoverable variant are at this distance; the first is returned.
        """
        best = self.policy_class.policy(0 if self.recoverable else self.eps)
        hellinger2 = -2.0 * math.expm1(0.5 * self.horizon * math.log1p(-self.eps))
        return BestInClass(best, hellinger2, "closed form")

    def population(self, chunk: int | None = None) -> Demonstrations:
        """The one document of the expert: the complete law."""
        check_population_size(self, 1)
        return self._weighted(np.empty((1, 0), dtype=np.int64), np.zeros((1, self.horizon), dtype=np.int64), np.ones(1))

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """The share of the steps spent on the rope, ``1 - cost / H``, in [0, 1]. Shape ``(B,)``."""
        return 1.0 - self.off_rope(tokens).mean(axis=1)
