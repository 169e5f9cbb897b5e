"""Learning each layer of a product class by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, FitReport
from agents.log_loss import choose_layers
from ntp_envs import Demonstrations, Policy, PolicyClass, ProductClass
from ntp_envs._validation import check_in

__all__ = ["LayerwiseBC"]


class LayerwiseBC(Agent):
    """Behaviour cloning layer by layer: option h of a product class is chosen from layer-h data only.

    It sees, for layer h, the law of (prompt, a_1:h) and the options of that layer, and takes the one with the least
    log-loss; infinite losses are compared as in `LogLossBC`. In a product class no parameters are shared, so with
    ``tie_break="first"`` it *is* `LogLossBC`. It stands for every next-token learner in the halving game, where ties
    are all it can go by: there "first" keeps a set for as long as it is offered, which no learner of this kind beats.

    Args:
        tie_break: ``"first"`` takes the smallest index among equals, ``"random"`` draws one uniformly.

    >>> import numpy as np
    >>> from ntp_envs import BernoulliPolicy
    >>> demos = Demonstrations(np.zeros((1, 0), int), np.array([[0, 1]]), vocab_size=2)
    >>> options = [BernoulliPolicy(0.1), BernoulliPolicy(0.9)]
    >>> agent = LayerwiseBC().fit(demos, ProductClass([options, options]))
    >>> agent.policy_.log_probs(demos.prompts, demos.tokens).round(3).tolist()
    [[-0.105, -0.105]]
    """

    supports = (ProductClass,)

    def __init__(self, *, tie_break: str = "first") -> None:
        self.tie_break = tie_break

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return None

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        assert isinstance(policy_class, ProductClass)  # `supports` says so
        if check_in("tie_break", self.tie_break, ("first", "random")) == "first":
            return choose_layers(policy_class, demonstrations)

        def draw(best: NDArray[np.int64]) -> int:
            return int(rng.choice(best))

        return choose_layers(policy_class, demonstrations, pick=draw)
