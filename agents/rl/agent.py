"""Reinforcement learners of stable-baselines3 as agents, and a callback that logs their distance to the expert."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy

from agents.base import COUNT, NOT_NEGATIVE, Agent, Checks, FitReport, check_task, is_task
from agents.rl.policy import SB3Policy, global_generators_restored
from agents.rl.vec_env import MAX_ENT, REWARDS, make_vec_env
from ntp_envs import Demonstrations, DistanceCurve, Policy, PolicyClass, Task
from ntp_envs.checks import check_in, check_names, optional
from ntp_envs.env import resolve_reward
from ntp_envs.torch_state import own_torch_state
from ntp_envs.wrappers import DistanceWatch


class DistanceCallback(DistanceWatch, BaseCallback):
    """Log the distance between the policy's and the expert's rollout laws at some prefix lengths during training.

    Before the first rollout, then whenever ``every`` environment steps have passed, and at the end, it records
    ``distance/<metric>_h<h>`` to the model's logger (and so to TensorBoard, CSV or the console, whatever it is
    configured for), and where the distance is sampled also the standard error at H, ``distance/<metric>_se``. Each
    measurement is written at once, as those of stable-baselines3's ``EvalCallback`` are.

    It measures the policy as it is, without exploration (see `SB3Policy` for DQN). Neither the training environment nor
    a global generator is touched.

    Args:
        task, every, prefixes, metric, n, seed: see `ntp_envs.wrappers.DistanceWatch`.
        temperature: of DQN and QRDQN, as in `SB3Policy`.
        use_masking: of MaskablePPO, as in `SB3Policy` and its own ``learn``.

    Attributes:
        history: ``(environment steps, DistanceCurve)`` of each measurement. It begins anew with a training that begins
            at step 0; one that goes on (``learn(..., reset_num_timesteps=False)``) adds to it.

    Raises:
        ValueError, TypeError: an argument out of range; when training starts, a model with other spaces.

    >>> from stable_baselines3 import PPO
    >>> from agents.rl import make_vec_env
    >>> envs = make_vec_env("Contamination", 8, horizon=8)
    >>> watch = DistanceCallback(envs.get_attr("task")[0], every=64)
    >>> model = PPO("MlpPolicy", envs, n_steps=8, batch_size=64, n_epochs=1, device="cpu").learn(128, callback=watch)
    >>> [steps for steps, _ in watch.history]
    [0, 64, 128]
    """

    def __init__(
        self,
        task: Task,
        *,
        every: int = 10_000,
        prefixes: Sequence[int] | None = None,
        metric: str = "hellinger2",
        n: int = 2_000,
        seed: int = 0,
        temperature: float = 0.0,
        use_masking: bool = True,
        verbose: int = 0,
    ) -> None:
        BaseCallback.__init__(self, verbose)
        DistanceWatch.__init__(self, task, every=every, prefixes=prefixes, metric=metric, n=n, seed=seed)
        self.temperature = temperature
        self.use_masking = use_masking

    def _on_training_start(self) -> None:
        self._policy = SB3Policy(self.model, self.task, temperature=self.temperature, use_masking=self.use_masking)
        self._begin(self.model.num_timesteps)

    def _on_rollout_start(self) -> None:
        if self._due(self.num_timesteps):
            self._measure()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self._due(self.num_timesteps, every=1):
            self._measure()

    def _measure(self) -> None:
        for name, value in self._measured(self.num_timesteps, self._policy).items():
            self.logger.record(name, value)
        self.logger.dump(self.num_timesteps)  # the model itself may write more rarely than this measures


# -- Reinforcement learners of stable-baselines3 under the contract of `agents.Agent` ---------------------------------


#: by name the algorithms of stable-baselines3 that `SB3Agent` trains
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"A2C": A2C, "DQN": DQN, "PPO": PPO}
#: arguments of the algorithms that are this agent's to set
_OURS = ("env", "seed", "_init_setup_model")


def _a_mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}={value!r} must be a mapping from names to values, or None.")
    return value


@dataclass(eq=False, repr=False)
class SB3Agent(Agent):
    """PPO, A2C or DQN, trained on the task's environment for a reward.

    It is told the task, and learns by interaction: of the demonstrations only the shapes are read, and its policy is
    a network, not a member of the policy class. So it stands in the same tables as the imitation learners without
    being one. What it is rewarded for decides what it can learn:

    * ``"success"``: whatever the task counts as success; nothing makes it resemble the expert.
    * ``"expert_log_prob"``: the expert's most probable sequence; the distribution is lost.
    * ``"max_ent"``: the expert's distribution, in reverse KL (`agents.rl.vec_env`); PPO and A2C only.

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

    allowed: ClassVar[Checks] = {
        "algorithm": partial(check_in, options=ALGORITHMS),
        "task": is_task,
        "reward": optional(partial(check_in, options=REWARDS)),
        **dict.fromkeys(("total_timesteps", "n_envs"), COUNT),
        "temperature": NOT_NEGATIVE,
        "measure_every": optional(COUNT),
        "model_kwargs": optional(_a_mapping),
    }
    history_: list[tuple[int, DistanceCurve]] = field(init=False)

    algorithm: str
    task: Task
    _: KW_ONLY
    reward: str | None = None
    total_timesteps: int = 100_000
    n_envs: int = 64
    temperature: float = 0.0
    measure_every: int | None = None
    model_kwargs: Mapping[str, Any] | None = None

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return 0

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        check_task(self.task, demonstrations)
        reward = self._checked_reward()
        steps = self.total_timesteps
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
        if self.reward != MAX_ENT:
            return resolve_reward(self.reward, self.task)
        if self.algorithm == "DQN":
            raise ValueError(
                "reward='max_ent' needs the log-probability of what a stochastic policy drew, and fresh data; DQN is "
                "greedy and learns from old data. Use algorithm='PPO' or 'A2C'."
            )
        return MAX_ENT
