"""RareMode: log-loss gives up the common mode to save bits in a rare one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ntp_envs.arrays import ROUNDING, FloatArray, IntArray, first_best, log_bernoulli, squared_sqrt_gap
from ntp_envs.automata import TableAutomaton
from ntp_envs.checks import check_int, check_probability, check_real
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.policy_classes import FiniteClass
from ntp_envs.tasks.base import LONGEST, BestInClass, Task, check_population_size


@dataclass(frozen=True)
class RareMode(Task):
    """Documents of zeros, except that a first token 1, of probability ``eps``, opens a rare mode of ones.

    There is no prompt. The class has two members, both with the bounded density ratio that log-loss theory asks for:

    * ``policies[0]`` (pi_0) has the right law of the first token and the common mode, but in the rare mode says 1 only
      with probability ``1 / density_ratio`` at each later token;
    * ``policies[1]`` (pi_1) opens the rare mode with probability 1/2, and is perfect after that.

    What it shows: pi_0 is wrong on at most ``eps`` of the documents at any horizon, and for a rare mode (``eps`` up to
    .103 at every horizon and density ratio) it is the better policy, but its log-loss in them grows with H. Once
    ``eps (H - 1) log W > log 2 - h(eps)`` (h the entropy in nats, W the density ratio) log-loss prefers pi_1, whose
    total variation to the expert is ``1/2 - eps``: the approximation factor jumps. Sequence level rho-estimation keeps
    pi_0. For larger ``eps`` and long horizons pi_1 is the best in class (at 1/2 it is the expert), and log-loss is
    right. Our reading of the role of the density bound in Rohatgi et al. (2025,
    arXiv:2502.12465).

    Args:
        horizon: H, at least 1 (at 1, pi_0 is the expert).
        eps: probability of the rare mode, in (0, 1).
        density_ratio: W > 1, the largest ratio of the expert's next-token probability to pi_0's.

    >>> round(RareMode(eps=0.01).switch_horizon(), 3), RareMode(horizon=64).log_loss_factor()
    (64.715, 1.0)
    """

    horizon: int = 64
    eps: float = 0.01
    density_ratio: float = math.e

    vocab_size = 2
    prompt_length = 0
    has_success = True

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=1, maximum=LONGEST)
        check_probability("eps", self.eps)
        if check_real("density_ratio", self.density_ratio) <= 1.0:
            raise ValueError(
                f"density_ratio={self.density_ratio} must be above 1: it is W, and pi_0 says 1 with probability 1 / W."
            )

    @cached_property
    def expert(self) -> TableAutomaton:
        return _two_modes(self.eps, 1.0)

    @cached_property
    def policy_class(self) -> FiniteClass:
        return FiniteClass([_two_modes(self.eps, 1.0 / self.density_ratio), _two_modes(0.5, 1.0)])

    def prompt_law(self) -> tuple[IntArray, FloatArray]:
        return np.empty((1, 0), dtype=np.int64), np.ones(1)

    # -- closed forms --------------------------------------------------------------------------------------------------

    def member_hellinger2(self) -> tuple[float, float]:
        """Squared Hellinger distances ``2 (1 - BC)``, in [0, 2], of the expert to pi_0 and to pi_1.

        ``2 eps (1 - W^{-(H-1)/2})`` and ``2 (1 - sqrt(eps/2) - sqrt((1-eps)/2))``.
        """
        rare = -2.0 * self.eps * math.expm1(-0.5 * (self.horizon - 1) * math.log(self.density_ratio))
        first = squared_sqrt_gap(np.array(log_bernoulli(self.eps)), np.full(2, -math.log(2.0)))
        return rare, float(first.sum())

    def member_kl(self) -> tuple[float, float]:
        """KL divergences in nats, expert first, to pi_0 and to pi_1: their log-loss above the expert's.

        ``eps (H - 1) log W`` and ``log 2 - h(eps)``.
        """
        log_common, log_rare = log_bernoulli(self.eps)
        entropy = -self.eps * log_rare - (1.0 - self.eps) * log_common
        return self.eps * (self.horizon - 1) * math.log(self.density_ratio), math.log(2.0) - entropy

    def switch_horizon(self) -> float:
        """The (real) horizon above which log-loss takes pi_1: ``1 + (log 2 - h(eps)) / (eps log W)``."""
        return 1.0 + self.member_kl()[1] / (self.eps * math.log(self.density_ratio))

    def log_loss_choice(self) -> int:
        """Index of the member that minimises the population log-loss: 1 above `switch_horizon`, else 0."""
        kl = self.member_kl()
        return int(kl[0] > kl[1] * (1 + ROUNDING))

    def log_loss_factor(self) -> float:
        """Approximation factor of population log-loss: its member's squared Hellinger distance over the best one's.

        1.0 where log-loss takes the best member, also if that one is the expert itself.
        """
        distances = self.member_hellinger2()
        chosen, best = distances[self.log_loss_choice()], min(distances)
        return 1.0 if chosen <= best * (1 + ROUNDING) else chosen / best if best > 0.0 else math.inf

    def best_in_class(self) -> BestInClass:
        distances = self.member_hellinger2()
        best = int(first_best(-np.array(distances), slack=ROUNDING * max(distances)))
        return BestInClass(self.policy_class.policy(best), distances[best], "closed form")

    def population(self, chunk: int | None = None) -> Demonstrations:
        """The two documents and their probabilities: the complete law."""
        check_population_size(self, 2)
        return self._weighted(
            np.empty((2, 0), dtype=np.int64),
            np.repeat([[0], [1]], self.horizon, axis=1),
            np.array([1.0 - self.eps, self.eps]),
        )

    def success(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """1 where the document is consistent, all tokens equal to the first; 0 otherwise. Shape ``(B,)``."""
        tokens = np.asarray(tokens)
        return (tokens == tokens[:, :1]).all(axis=1).astype(np.float64)


def _two_modes(open_rare: float, stay_rare: float) -> TableAutomaton:
    """States: start, common mode, rare mode. The first token decides the mode for good."""
    return TableAutomaton(
        [[1.0 - open_rare, open_rare], [1.0, 0.0], [1.0 - stay_rare, stay_rare]],
        [[1, 2], [1, 1], [2, 2]],
    )
