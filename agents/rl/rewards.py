"""The maximum-entropy reward, whose optimum is the expert itself, and what an entropy bonus does instead.

With r(s, a) = log expert(a|s) - log pi(a|s), pi being the policy that acts, the undiscounted return of a sequence has
expectation ``sum_h E_pi r = -KL(P^pi || P^expert)`` (chain rule, prompts of the same law). It is at most 0, and 0 only
for pi = expert: reverse KL between *sequence* laws, not between tokens. Its gradient is that of a policy gradient with
this r held fixed at its value when the token was drawn, because the derivative of ``-log pi`` itself has mean zero;
so collecting r on-policy is exact for one update from fresh data (A2C), and for the first step of each of PPO's
updates, which then leaves the point of collection as with any reward. It needs gamma = 1 and actions drawn from pi.

The reward ``"expert_log_prob"`` alone is maximised by the expert's most probable sequence: it collapses to the mode.

An entropy bonus (``ent_coef`` of PPO and A2C) adds the mean over visited states of ``H(pi(.|s))`` to the objective of
one update, *with the visited states held fixed*: it does not enter the returns, so a token gets no credit for leading
to states where more entropy is to be had. With reward log expert, ``ent_coef=1`` and gamma = 1 (and advantages that
are not normalised), its stationary points are

    pi(a|s) proportional to expert(a|s) exp(G(s, a)),    G(s, a) = E[log expert of the later tokens | s, a, then pi],

not the expert. At pi = expert, G is minus the entropy of the expert's continuation after (s, a). So the expert is
stationary if and only if at every state it reaches all the tokens it may write leave the same continuation entropy, as
in NoisyParity, or at H = 1; otherwise the bonus steers towards continuations that are predictable. Propagated through
the returns, the entropy cancels G exactly; that is what the reward of this module does. This is KL-regularised
control (Todorov 2007; Levine, arXiv 1805.00909, section 2), with the reward chosen as the expert's log-probability.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from agents.rl.sb3_policy import action_log_probs, check_spaces, has_masks, has_values, is_recurrent, network_of
from ntp_envs import Task
from ntp_envs.env import REWARDS as ENVIRONMENT_REWARDS

__all__ = ["MAX_ENT", "REWARDS", "MaxEntropyReward"]

MAX_ENT = "max_ent"
REWARDS = (*ENVIRONMENT_REWARDS, MAX_ENT)


class MaxEntropyReward(VecEnvWrapper):
    """Reward log expert(a|s) - log pi(a|s), in nats, pi being the policy of the model it is bound to.

    The policy is read when the step is taken, so this is the policy that collects; one more forward pass a step. The
    expert's part is at least the environment's ``log_prob_floor``, so the optimum is the expert with tokens that it
    never writes at probability ``exp(log_prob_floor)``, e^-20 by default (less where the expert has no law after them).
    The monitor that `make_vec_env` puts around this wrapper (its ``bind`` is found through it) reports episode returns
    whose mean estimates ``-KL(P^pi || P^expert)``.

    Use gamma = 1, no ``ent_coef``, and for PPO ``normalize_advantage=False``: at the optimum every advantage is zero,
    and normalising would blow the critic's errors up to unit size.

    Args:
        venv: from `make_vec_env`, with ``reward="expert_log_prob"``.

    Attributes:
        network: the policy network it is bound to, ``None`` before `bind`.

    Raises:
        ValueError: another reward.

    >>> from stable_baselines3 import A2C
    >>> from agents.rl import make_vec_env
    >>> envs = make_vec_env("Contamination", 4, reward="max_ent", horizon=8)
    >>> envs.bind(A2C("MlpPolicy", envs, gamma=1.0, device="cpu")).network is None
    False
    """

    def __init__(self, venv: VecEnv) -> None:
        try:
            rewards = set(venv.get_attr("reward"))
        except AttributeError:
            rewards = set()
        if rewards != {"expert_log_prob"}:
            raise ValueError(
                f"the environments have reward {', '.join(map(repr, rewards)) or 'of their own'}; the maximum-entropy "
                "reward is made from 'expert_log_prob'. Make them with make_vec_env(..., reward='max_ent')."
            )
        super().__init__(venv)
        self.task: Task = venv.get_attr("task")[0]
        self.network: BasePolicy | None = None
        self._observations: Any = None
        self._actions: NDArray[Any] = np.empty(0, dtype=np.int64)

    def bind(self, model: Any) -> MaxEntropyReward:
        """Take the policy of this model, now and as it trains, and return self.

        Args:
            model: an actor-critic model (PPO, A2C), or its policy. Bind again after replacing it, as by ``load``.

        Raises:
            TypeError: a model without a stochastic policy of its own, such as DQN, or whose law is not a function of
                the observation alone (RecurrentPPO, MaskablePPO).
            ValueError: a model with other spaces.
        """
        network = network_of(model)
        if has_values(network):
            raise TypeError(
                "the maximum-entropy reward needs the log-probability of what a stochastic policy drew; DQN is greedy "
                "and learns from old data. Use PPO or A2C."
            )
        if is_recurrent(network) or has_masks(network):
            raise TypeError(
                f"the maximum-entropy reward needs a policy that is a function of the observation; the law of "
                f"{type(network).__name__} also depends on {'its state' if is_recurrent(network) else 'masks'}. "
                "Use PPO or A2C."
            )
        check_spaces(network, self.task)
        self.network = network
        return self

    def reset(self) -> Any:
        self._observations = self.venv.reset()
        return self._observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = np.asarray(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """As of the environments, with the reward exchanged.

        Raises:
            RuntimeError: not bound to a model.
        """
        if self.network is None:
            raise RuntimeError("the maximum-entropy reward does not know the policy; call bind(model) first.")
        before = self._observations
        self._observations, rewards, dones, infos = self.venv.step_wait()
        log_probs = action_log_probs(self.network, before)
        rewards = rewards - log_probs[np.arange(len(rewards)), self._actions].astype(np.float32)
        return self._observations, rewards, dones, infos
