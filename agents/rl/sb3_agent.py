"""Reinforcement learners of stable-baselines3 under the contract of `agents.Agent`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from agents.base import Agent, FitReport
from agents.rl.callbacks import DistanceCallback
from agents.rl.rewards import MAX_ENT, REWARDS
from agents.rl.sb3_policy import SB3Policy
from agents.rl.sb3_vec_env import make_vec_env
from agents.rl.seeding import global_generators_restored
from agents.torch_state import own_torch_state
from ntp_envs import Demonstrations, DistanceCurve, Policy, PolicyClass, Task
from ntp_envs._validation import check_in, check_int, check_names
from ntp_envs.env import resolve_reward

__all__ = ["ALGORITHMS", "SB3Agent"]

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"A2C": A2C, "DQN": DQN, "PPO": PPO}
#: arguments of the algorithms that are this agent's to set
_OURS = ("env", "seed", "_init_setup_model")


class SB3Agent(Agent):
    """PPO, A2C or DQN, trained on the task's environment for a reward.

    It is told the task, and learns by interaction: of the demonstrations only the shapes are read, and its policy is
    a network, not a member of the policy class. So it stands in the same tables as the imitation learners without
    being one. What it is rewarded for decides what it can learn:

    * ``"success"``: whatever the task counts as success; nothing makes it resemble the expert.
    * ``"expert_log_prob"``: the expert's most probable sequence; the distribution is lost.
    * ``"max_ent"``: the expert's distribution, in reverse KL (`agents.rl.rewards`); PPO and A2C only.

    Sequences are finite, and returns are what is reported, so gamma is 1. Other defaults that differ from those of
    stable-baselines3, each replaced by what ``model_kwargs`` says: rollouts of whole sequences (``n_steps=H``) in four
    minibatches; ``normalize_advantage=False`` for PPO (once all returns are alike, normalising brings the
    critic's errors up to unit size); DQN's replay buffer no larger than
    the training; the CPU, which is faster for networks as small as these.

    Randomness: one integer is drawn from ``rng`` and seeds the model and the prompts. stable-baselines3 draws from the
    global generators of Python, numpy and torch; they are set back afterwards. Training runs on one torch thread, so
    that the same seed gives the same weights whatever the number of cores; between machines torch does not promise it.

    Args:
        algorithm: ``"PPO"``, ``"A2C"`` or ``"DQN"``.
        task: the `ntp_envs.Task` to interact with.
        reward: ``"success"``, ``"expert_log_prob"``, ``"max_ent"`` or ``"none"``; ``None`` for the environment's own.
        total_timesteps: environment steps (tokens) to train for; rounded up to whole rollouts.
        n_envs: sequences written side by side.
        temperature: of DQN's policy, as in `SB3Policy`; 0 is greedy.
        measure_every: environment steps between measurements of the distance to the expert, kept in ``history_``;
            ``None`` for none.
        model_kwargs: arguments of the algorithm, such as ``{"learning_rate": 1e-3}``; ``"policy"`` is
            ``"MlpPolicy"`` unless given, and with ``"MultiInputPolicy"`` the observations are ``"dict"``. (A mapping,
            so that the agent's parameters can be listed and cloned.)

    Attributes after `fit`, besides the usual:
        fit_report_: ``objective`` is the mean return of the last 100 training episodes, at the policies that wrote
            them; no bound on its optimality is known (``gap`` is nan, ``converged`` False). ``details`` counts
            ``environment_steps`` and ``expert_queries`` (next-token laws of the expert that the reward asked for).
        history_: ``(environment steps, DistanceCurve)`` of each measurement, squared Hellinger
            ``sum (sqrt P - sqrt Q)^2`` in [0, 2].

    Raises:
        ValueError, TypeError: on `fit`, an unknown name (the nearest is suggested), a value out of range, or
            demonstrations of another vocabulary, horizon or prompt length than the task's.

    >>> from ntp_envs import make_task
    >>> task = make_task("Tightrope", horizon=4)
    >>> agent = SB3Agent("PPO", task, total_timesteps=256, n_envs=16)
    >>> agent.fit(task.population(), task.policy_class).fit_report_.details["environment_steps"]
    256
    """

    history_: list[tuple[int, DistanceCurve]]

    def __init__(
        self,
        algorithm: str,
        task: Task,
        *,
        reward: str | None = None,
        total_timesteps: int = 100_000,
        n_envs: int = 64,
        temperature: float = 0.0,
        measure_every: int | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.algorithm = algorithm
        self.task = task
        self.reward = reward
        self.total_timesteps = total_timesteps
        self.n_envs = n_envs
        self.temperature = temperature
        self.measure_every = measure_every
        self.model_kwargs = model_kwargs

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return 0

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        reward = self._checked_reward()
        self._check_demonstrations(demonstrations)
        steps = check_int("total_timesteps", self.total_timesteps, minimum=1)
        check_int("n_envs", self.n_envs, minimum=1)
        arguments = self._arguments()
        seed = int(rng.integers(2**31))
        with global_generators_restored(), own_torch_state(threads=1, grad=True):
            form = self._observation_form(arguments["policy"])
            envs = make_vec_env(self.task, self.n_envs, reward=reward, observation=form)
            model = ALGORITHMS[self.algorithm](env=envs, seed=seed, **arguments)
            if reward == MAX_ENT:
                cast(Any, envs).bind(model)
            policy = SB3Policy(model, self.task, temperature=self.temperature)
            watch = None
            if self.measure_every is not None:
                watch = DistanceCallback(self.task, every=self.measure_every, temperature=self.temperature)
            model.learn(steps, callback=watch)
        self.history_ = [] if watch is None else watch.history
        return policy, self._report(model, reward)

    def _report(self, model: BaseAlgorithm, reward: str) -> FitReport:
        returns = [float(episode["r"]) for episode in model.ep_info_buffer or ()]
        taken = int(model.num_timesteps)
        details = {
            "objective": f"mean return of the last {len(returns)} training episodes",
            "algorithm": self.algorithm,
            "reward": reward,
            "environment_steps": taken,
            "expert_queries": taken if reward in ("expert_log_prob", MAX_ENT) else 0,
        }
        mean = float(np.mean(returns)) if returns else math.nan
        return FitReport(mean, gap=math.nan, converged=False, iterations=int(model._n_updates), details=details)

    def _arguments(self) -> dict[str, Any]:
        """Arguments of the algorithm: our defaults, then what was given."""
        given = dict(self.model_kwargs or {})
        known = [name for name in inspect.signature(ALGORITHMS[self.algorithm]).parameters if name not in _OURS]
        for name in given:
            if name in _OURS:
                raise ValueError(f"model_kwargs has {name!r}, which the agent sets itself (seed comes from rng).")
        check_names(f"{self.algorithm} has no argument", given, known)
        ours: dict[str, Any] = {"policy": "MlpPolicy", "gamma": 1.0, "device": "cpu"}
        if self.algorithm == "DQN":
            ours["buffer_size"] = min(1_000_000, max(self.total_timesteps, self.n_envs))
        else:
            ours["n_steps"] = self.task.horizon
        if self.algorithm == "PPO":
            rollout = self.n_envs * given.get("n_steps", ours["n_steps"])
            ours["batch_size"] = rollout // 4 if rollout % 4 == 0 and rollout >= 8 else rollout
            ours["normalize_advantage"] = False
        return {**ours, **given}

    def _observation_form(self, policy: Any) -> str:
        """The observations that a policy, a name or a class, is made for."""
        known = ALGORITHMS[self.algorithm].policy_aliases
        if isinstance(policy, str):
            policy = known[check_in("model_kwargs['policy']", policy, [name for name in known if name != "CnnPolicy"])]
        if not (isinstance(policy, type) and issubclass(policy, BasePolicy)):
            raise TypeError(
                f"model_kwargs['policy']={policy!r} must be a name ('MlpPolicy', 'MultiInputPolicy') or a policy class "
                "of stable-baselines3."
            )
        if issubclass(policy, known["CnnPolicy"]):
            raise ValueError(f"model_kwargs['policy']={policy.__name__} reads images; the observations are tokens.")
        return "dict" if issubclass(policy, known["MultiInputPolicy"]) else "multi_discrete"

    def _checked_reward(self) -> str:
        check_in("algorithm", self.algorithm, ALGORITHMS)
        if not isinstance(self.task, Task):
            raise TypeError(f"task={self.task!r} must be an ntp_envs.Task; build one with ntp_envs.make_task.")
        if self.reward is None or check_in("reward", self.reward, REWARDS) != MAX_ENT:
            return resolve_reward(self.reward, self.task)
        if self.algorithm == "DQN":
            raise ValueError(
                "reward='max_ent' needs the log-probability of what a stochastic policy drew, and fresh data; DQN is "
                "greedy and learns from old data. Use algorithm='PPO' or 'A2C'."
            )
        return MAX_ENT

    def _check_demonstrations(self, demonstrations: Demonstrations) -> None:
        ours = self.task.vocab_size, self.task.horizon, self.task.prompt_length
        theirs = demonstrations.vocab_size, demonstrations.horizon, demonstrations.prompt_length
        if ours != theirs:
            raise ValueError(
                f"the demonstrations have (vocabulary, horizon, prompt length) {theirs}, the task that this agent "
                f"interacts with has {ours}; give it the task that the demonstrations come from."
            )
