"""The native batch as a `VecEnv` of stable-baselines3, and the maximum-entropy reward, whose optimum is the expert.

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

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.env_util import make_vec_env as make_single_envs
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor

from agents.rl.policy import action_log_probs, check_spaces, has_masks, has_values, is_recurrent, network_of
from ntp_envs import Task, TokenEnv, TokenVectorEnv
from ntp_envs.checks import check_in, check_int, did_you_mean
from ntp_envs.env import REWARDS as ENVIRONMENT_REWARDS
from ntp_envs.env import check_options, check_prompt

#: the reward of `MaxEntropyReward`
MAX_ENT = "max_ent"
#: what ``reward`` of `TokenVecEnv` may be
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
                f"the environments have reward {', '.join(sorted(map(repr, rewards))) or 'of their own'}; the "
                "maximum-entropy reward is made from 'expert_log_prob'. Make them with "
                "make_vec_env(..., reward='max_ent')."
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


# -- `ntp_envs.TokenVectorEnv` as a stable-baselines3 ``VecEnv`` ------------------------------------------------------


#: attributes of the environment that may change between steps; the others are fixed when it is made
SETTABLE = ("log_prob_floor", "render_mode")
METHODS = ("action_masks", "get_wrapper_attr", "render", "reset")
#: infos that describe the state returned, which after an autoreset is the next sequence's first
OF_THE_STATE = ("expert_probs",)
FINAL = ("final_obs", "final_info")


class TokenVecEnv(VecEnv):
    """B sequences written side by side, as stable-baselines3 wants them: a batch of single environments in one array.

    For the same prompts and actions it gives what ``DummyVecEnv`` over `ntp_envs.TokenEnv` gives: observations,
    float32 rewards, ``dones``, and a list of dicts with ``TimeLimit.truncated``, ``terminal_observation`` where a
    sequence is over (the observation returned is then the start of the next one) and ``expert_probs`` where the
    environment has ``expert_info``. What differs, because the batch is one environment:

    * One generator draws the prompts. `seed` seeds it, at the next `reset`, with the seed given; the list it returns
      has one entry an environment, as the interface asks, but only the first is used.
    * `get_attr` gives the environment's attribute once for each index; ``prompt``, ``tokens``, ``observation_space``
      and ``action_space`` are those of the single sequence. `set_attr` keeps names the environment does not have
      apart for each index; of the environment's own it sets those that may change (``log_prob_floor``,
      ``render_mode``), for all at once.
    * `env_method` knows ``reset`` (with ``options={"prompt": ...}``), ``render``, ``action_masks`` and
      ``get_wrapper_attr``.

    Args:
        envs: a `ntp_envs.TokenVectorEnv` with ``autoreset_mode="SameStep"``, or Gymnasium vector wrappers around one.
            `make_vec_env` makes it for you.

    Raises:
        TypeError: something else.
        ValueError: another autoreset mode.

    >>> from ntp_envs import TokenVectorEnv
    >>> envs = TokenVecEnv(TokenVectorEnv(2, "Tightrope", horizon=2, autoreset_mode="SameStep"))
    >>> envs.reset().tolist(), envs.step(np.array([0, 1]))[0].tolist()
    ([[2, 2], [2, 2]], [[0, 2], [1, 2]])
    """

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(envs, gym.vector.VectorEnv) or not isinstance(envs.unwrapped, TokenVectorEnv):
            raise TypeError(
                f"envs={envs!r} must be an ntp_envs.TokenVectorEnv, wrapped or not; make_vec_env makes one. "
                "For other environments use stable-baselines3's DummyVecEnv."
            )
        mode = envs.unwrapped.autoreset_mode
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"envs has autoreset_mode={mode.value!r}; stable-baselines3 expects the next observation in the same "
                f"step. Make it with autoreset_mode={AutoresetMode.SAME_STEP.value!r}."
            )
        self.envs = envs
        self._base: TokenVectorEnv = envs.unwrapped
        self._own: dict[str, list[Any]] = {}  # by set_attr, for names that the environment does not have
        self._actions: NDArray[Any] | None = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    @property
    def spec(self) -> Any:
        """The ``EnvSpec``, if it was made through Gymnasium's registry."""
        return self._base.spec

    # -- stepping ------------------------------------------------------------------------------------------------------

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the generator at the next `reset`; without a number, from the operating system's entropy."""
        if seed is None:  # the base class would draw from numpy's global generator
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        return super().seed(seed)

    def reset(self) -> Any:
        """Start all sequences anew, with the seed of `seed` and the prompts of ``set_options({"prompt": ...})``.

        Raises:
            ValueError, TypeError: an unknown option, or a prompt of the wrong length or outside the vocabulary.
        """
        fixed = self._fixed_prompts()
        seed = self._seeds[0]
        rows = [i for i, prompt in enumerate(fixed) if prompt is not None]
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        observations, infos = self.envs.reset(seed=seed)
        spread(infos, self.reset_infos)
        if rows:
            observations, infos = self._restart(rows, [fixed[i] for i in rows])
            spread(infos, self.reset_infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """``(observations, rewards (B,) float32, dones (B,), infos)``; fresh arrays and dicts each time.

        Raises:
            gymnasium.error.ResetNeeded, gymnasium.error.InvalidAction: as `ntp_envs.TokenVectorEnv.step`.
        """
        observations, rewards, terminations, truncations, batched = self.envs.step(self._actions)
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        for i in np.flatnonzero(truncations & ~terminations).tolist():
            infos[i]["TimeLimit.truncated"] = True
        dones = terminations | truncations
        if batched:
            self._spread_step(batched, dones, infos)
        return observations, rewards.astype(np.float32), dones, infos

    def _spread_step(self, batched: dict[str, Any], dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> None:
        last: Any = batched.get("final_obs")
        last_infos = batched.get("final_info", {})
        batched = {key: value for key, value in batched.items() if key.removeprefix("_") not in FINAL}
        over = np.flatnonzero(dones).tolist()
        if over:
            started: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            spread({k: v for k, v in batched.items() if k.removeprefix("_") in OF_THE_STATE}, started)
            for i in over:
                self.reset_infos[i] = started[i]
        spread(batched, infos)
        for i in over:  # what describes a state is here that of the last one
            for key in OF_THE_STATE:
                infos[i].pop(key, None)
            infos[i]["terminal_observation"] = last[i]
        spread(last_infos, infos)

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[Any]:
        """One ``(160, 640, 3)`` uint8 picture a sequence, with ``render_mode="rgb_array"``; else ``None`` each."""
        return list(self.envs.render() or ()) if self.render_mode == "rgb_array" else [None] * self.num_envs

    # -- the single environments ---------------------------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """An attribute of each of these sequences' environments.

        Raises:
            AttributeError: there is none.
        """
        rows = self._rows(indices)
        if attr_name in self._own:
            values = [self._own[attr_name][i] for i in rows]
            if any(value is _UNSET for value in values):
                raise AttributeError(f"{attr_name!r} was not set for all of the environments {rows}.")
            return values
        if attr_name in ("prompt", "tokens"):
            return [self._sequence(i)[attr_name == "tokens"] for i in rows]
        if attr_name in ("observation_space", "action_space"):
            return [getattr(self, attr_name)] * len(rows)
        return [getattr(self.envs, attr_name)] * len(rows)

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute of each of these sequences' environments.

        Raises:
            AttributeError: one that is fixed when the environment is made.
            ValueError: one that all sequences share, for some of them only.
        """
        rows = self._rows(indices)
        if attr_name in ("prompt", "tokens") or (hasattr(self.envs, attr_name) and attr_name not in SETTABLE):
            raise AttributeError(
                f"{attr_name} is fixed when the environment is made; make another. Of the environment's own "
                f"attributes these can be set: {', '.join(SETTABLE)}."
            )
        if attr_name not in SETTABLE:
            values = self._own.setdefault(attr_name, [_UNSET] * self.num_envs)
            for i in rows:
                values[i] = value
        elif set(rows) != set(range(self.num_envs)):
            raise ValueError(f"{attr_name} is shared by all {self.num_envs} sequences; set it without indices.")
        else:
            setattr(self._base, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each of these sequences' environments.

        Raises:
            AttributeError: a method that this adapter does not know.
        """
        rows = self._rows(indices)
        if method_name == "reset":
            return self._reset_rows(rows, *method_args, **method_kwargs)
        if method_name == "action_masks":
            masks = self._base.action_masks(*method_args, **method_kwargs)
            return [masks[i] for i in rows]
        if method_name == "render":
            pictures = self.envs.render(*method_args, **method_kwargs)
            return [None if pictures is None else pictures[i] for i in rows]
        if method_name == "get_wrapper_attr":
            (attr_name,) = (*method_args, *method_kwargs.values())
            return self.get_attr(attr_name, rows)
        if method_name in self._own:
            return [method(*method_args, **method_kwargs) for method in self.get_attr(method_name, rows)]
        raise AttributeError(
            f"the sequences share one environment, which has no method {method_name!r} for each."
            f"{did_you_mean(method_name, METHODS)}"
        )

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: int | Iterable[int] | None = None
    ) -> list[bool]:
        """False for each: wrappers of single environments cannot be around this one."""
        return [False] * len(self._rows(indices))

    def _rows(self, indices: int | Iterable[int] | None) -> list[int]:
        return [range(self.num_envs)[int(i)] for i in self._get_indices(indices)]

    def _sequence(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``(P,)`` prompt and ``(t,)`` tokens written."""
        line, split = self._base._lines[row].astype(np.int64), self._base.task.prompt_length
        return line[:split], line[split:][line[split:] < self._base.task.vocab_size]

    # -- prompts -------------------------------------------------------------------------------------------------------

    def _fixed_prompts(self) -> list[Any]:
        """The ``(1, P)`` prompt asked for of each sequence, or ``None``."""
        if len(self._options) != self.num_envs:
            raise ValueError(
                f"set_options was given {len(self._options)} options; one for each of the {self.num_envs} sequences, "
                "or a single dict, is needed."
            )
        fixed: list[Any] = []
        for options in self._options:
            check_options(options, ("prompt",))
            prompt = options.get("prompt") if options else None
            fixed.append(None if prompt is None else check_prompt(prompt, self._base.task))
        return fixed

    def _restart(self, rows: list[int], prompts: Sequence[Any] | None, seed: int | None = None) -> tuple[Any, Any]:
        mask = np.zeros(self.num_envs, dtype=np.bool_)
        mask[rows] = True
        options: dict[str, Any] = {"reset_mask": mask}
        if prompts is not None:
            table = np.zeros((self.num_envs, self._base.task.prompt_length), dtype=np.int64)
            table[rows] = np.concatenate(prompts)
            options["prompts"] = table
        return self.envs.reset(seed=seed, options=options)

    def _reset_rows(
        self, rows: list[int], *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, dict[str, Any]]]:
        """What ``reset`` of each of these sequences would return."""
        check_options(options, ("prompt",))
        prompt = options.get("prompt") if options else None
        prompts = None if prompt is None else [check_prompt(prompt, self._base.task)] * len(rows)
        observations, batched = self._restart(rows, prompts, seed)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        spread(batched, infos)
        for i in rows:
            self.reset_infos[i] = infos[i]
        return [(pick(observations, i), infos[i]) for i in rows]


class _Monitor(VecMonitor):
    """stable-baselines3's, which looks at every sequence at every step, looking at those that are over."""

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.episode_returns += rewards
        self.episode_lengths += 1
        for i in np.flatnonzero(dones).tolist():
            episode = {
                "r": self.episode_returns[i],
                "l": self.episode_lengths[i],
                "t": round(time.time() - self.t_start, 6),
                **{key: infos[i][key] for key in self.info_keywords},
            }
            infos[i] = {**infos[i], "episode": episode}
            self.episode_count += 1
            self.episode_returns[i] = self.episode_lengths[i] = 0
            if self.results_writer:
                self.results_writer.write_row(episode)
        return observations, rewards, dones, infos


_UNSET = object()


def spread(batched: Mapping[str, Any], infos: list[dict[str, Any]]) -> None:
    """Put what Gymnasium batched, values (B, ...) and masks ``_key`` (B,), into one dict a sequence."""
    for key, rows, value in _entries(batched, len(infos)):
        for i in rows:
            infos[i][key] = pick(value, i)


def _entries(batched: Mapping[str, Any], size: int) -> Iterator[tuple[str, list[int], Any]]:
    for key, value in batched.items():
        mask = batched.get(f"_{key}")
        if not (key.startswith("_") and key[1:] in batched):
            yield key, list(range(size)) if mask is None else np.flatnonzero(mask).tolist(), value


def pick(batched: Any, row: int) -> Any:
    """One sequence's part of a batched observation or info."""
    if isinstance(batched, Mapping):
        return {key: pick(v, row) for key, v in batched.items() if not (key.startswith("_") and key[1:] in batched)}
    return batched[row]


def make_vec_env(
    task: Task | str,
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_class: Callable[..., gym.Env[Any, Any]] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    vec_env_cls: type[VecEnv] | None = None,
    vec_env_kwargs: Mapping[str, Any] | None = None,
    monitor_kwargs: Mapping[str, Any] | None = None,
    wrapper_kwargs: Mapping[str, Any] | None = None,
    *,
    reward: str | None = None,
    **arguments: Any,
) -> VecEnv:
    """A batch of environments for stable-baselines3, monitored as by its own function of this name.

    It has that function's arguments, and the batch is the native one, a `TokenVecEnv` inside a ``VecMonitor`` (its
    ``unwrapped``; make it yourself to do without the monitor). With ``wrapper_class`` or ``vec_env_cls`` the
    environments are single ones, made by stable-baselines3's function itself; such a batch is slower.

    Args:
        task: a task, the name of a family, or a Gymnasium id such as ``"ntp/Contamination-v0"``.
        n_envs: B.
        seed: of the prompts, used at the first reset. Single environments are seeded with seed, seed + 1, ...
        start_index: number of the first environment, in the names of the monitor's files.
        monitor_dir: folder for the monitor's file(s): ``<start_index>.monitor.csv`` for the whole native batch, one a
            single environment. ``stable_baselines3.common.monitor.load_results`` reads both.
        wrapper_class, wrapper_kwargs: wrapper of each single environment, and its arguments.
        env_kwargs: the same as ``**arguments``.
        vec_env_cls, vec_env_kwargs: such as ``SubprocVecEnv``, and its arguments.
        monitor_kwargs: of the monitor, such as ``info_keywords``, the only one that the native batch's knows.
        reward: as `ntp_envs.TokenEnv`, or ``"max_ent"`` (`MaxEntropyReward`; ``bind`` it to the model once made).
        **arguments: of `ntp_envs.TokenVectorEnv`, parameters of the family among them.

    Raises:
        ValueError, TypeError: an unknown name or argument (the nearest is suggested), a value out of range, or
            arguments that exclude each other.

    >>> envs = make_vec_env("Tightrope", 8, horizon=4)
    >>> envs.reset().shape
    (8, 4)
    """
    if reward is not None:
        check_in("reward", reward, REWARDS)
    arguments = _merged(arguments, env_kwargs)
    if "autoreset_mode" in arguments:
        raise ValueError("autoreset_mode cannot be chosen here: stable-baselines3 needs the same-step mode.")
    if "reward" in arguments:
        raise ValueError("env_kwargs has 'reward', which is an argument of make_vec_env itself; give it there.")
    single = wrapper_class is not None or vec_env_cls is not None
    if wrapper_class is None and wrapper_kwargs:
        raise ValueError(f"wrapper_kwargs={dict(wrapper_kwargs)} without wrapper_class would be ignored.")
    if vec_env_kwargs and not single:
        raise ValueError(
            f"vec_env_kwargs={dict(vec_env_kwargs)}: the native batch has no such arguments; choose vec_env_cls, "
            "for example stable_baselines3.common.vec_env.SubprocVecEnv."
        )
    arguments["reward"] = "expert_log_prob" if reward == MAX_ENT else reward
    n_envs, start_index = check_int("n_envs", n_envs, minimum=1), check_int("start_index", start_index, minimum=0)
    if seed is not None:
        seed = check_int("seed", seed, minimum=0, maximum=math.inf)
    if single:
        if reward == MAX_ENT:
            raise ValueError(
                "reward='max_ent' compares the policy's actions with the expert's, and wrappers of single environments "
                "may change them; it needs the native batch. Leave out wrapper_class and vec_env_cls."
            )
        return make_single_envs(
            partial(_single, task),
            n_envs,
            seed,
            start_index,
            monitor_dir,
            wrapper_class,
            {"expert_info": False, **arguments},
            cast(Any, vec_env_cls),
            dict(vec_env_kwargs or {}),
            dict(monitor_kwargs or {}),
            dict(wrapper_kwargs or {}),
        )
    for name in monitor_kwargs or {}:
        if name != "info_keywords":
            raise ValueError(
                f"monitor_kwargs has {name!r}; the native batch has one monitor, a VecMonitor, which knows only "
                "'info_keywords'. Give vec_env_cls=DummyVecEnv for single environments with a Monitor each."
            )
    arguments["autoreset_mode"] = AutoresetMode.SAME_STEP
    if _has_id(task):
        envs = gym.make_vec(task, num_envs=n_envs, **arguments)
    else:
        envs = TokenVectorEnv(n_envs, task, **arguments)
    batch: VecEnv = TokenVecEnv(envs)
    if seed is not None:
        batch.action_space.seed(seed + start_index)
        batch.seed(seed)
    filename = None if monitor_dir is None else str(Path(monitor_dir) / str(start_index))
    return _Monitor(
        MaxEntropyReward(batch) if reward == MAX_ENT else batch, filename, **cast(Any, monitor_kwargs or {})
    )


def _merged(arguments: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments given by name and as ``env_kwargs``."""
    both = sorted(arguments.keys() & (more or {}).keys())
    if both:
        raise ValueError(f"{', '.join(both)} given twice, by name and in env_kwargs; give each once.")
    return {**arguments, **(more or {})}


def _has_id(task: Task | str) -> TypeGuard[str]:
    return isinstance(task, str) and task in gym.registry


def _single(task: Task | str, *, max_episode_steps: int | None = None, **arguments: Any) -> gym.Env[Any, Any]:
    """One environment, as ``gym.make`` makes it."""
    if _has_id(task):
        return gym.make(task, max_episode_steps=max_episode_steps, **arguments)
    env = TokenEnv(task, **arguments)
    return env if max_episode_steps in (None, -1) else gym.wrappers.TimeLimit(env, max_episode_steps)
