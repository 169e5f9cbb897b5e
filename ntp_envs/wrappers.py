"""Wrappers that watch any training or evaluation loop: how far are the rollouts from the expert, as the horizon grows?

They change nothing that the loop sees, unless a summary in ``info`` is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from ntp_envs._rollouts import Rollouts
from ntp_envs._validation import check_int
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances.result import DistanceCurve
from ntp_envs.distances.two_sample import TwoSampleResult
from ntp_envs.env import TokenEnv
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task
from ntp_envs.vector_env import TokenVectorEnv

__all__ = ["RolloutDistance", "VectorRolloutDistance"]

IntArray = NDArray[np.int64]

SUMMARY_KEY = "rollout_distance"
AWAITED, UNKNOWN = -1, -2  # instead of a number of tokens: over, not yet started anew; or no reset has been seen


class _Recording:
    """What both wrappers offer."""

    rollouts: Rollouts
    _summary_every: int | None
    _summarised: int

    def _record(
        self,
        tasks: list[Any],
        action_space: spaces.Space[Any],
        window: int,
        expert: Task | Demonstrations | None,
        policy: Policy | None,
        summary_every: int | None,
    ) -> None:
        if expert is None:
            expert = _common_task(tasks)
        if not isinstance(expert, (Task, Demonstrations)):
            raise TypeError(f"expert must be a Task or Demonstrations, not {type(expert).__name__}.")
        if not isinstance(action_space, spaces.Discrete) or int(action_space.start) != 0:
            raise ValueError(f"the action space is {action_space}; Discrete(A), one token a step, is needed.")
        if int(action_space.n) != expert.vocab_size:
            raise ValueError(
                f"the environment has {action_space.n} actions and the expert vocab_size={expert.vocab_size}; "
                "they must be equal."
            )
        self.rollouts = Rollouts(expert, window=window, policy=policy)
        self._summary_every = None
        if summary_every is not None:
            self._summary_every = check_int("summary_every", summary_every, minimum=8)
            check_int("window, with summary_every,", window, minimum=8)
        self._summarised = 0

    def curve(
        self,
        metric: str = "hellinger2",
        *,
        policy: Policy | None = None,
        method: str = "auto",
        n: int | None = None,
        rng: np.random.Generator | None = None,
        **options: Any,
    ) -> DistanceCurve:
        """The distance from the expert to the rollouts in the window, at every prefix length, with 95 % intervals.

        With a policy, the rollouts are taken as draws from it: call `clear` whenever it has changed. Without one, only
        two-sample tests are possible, against as many fresh sequences of the expert (prompts from the task's law), or
        against the demonstrations given where no expert is known; the curve's ``method`` says so.

        Args:
            metric: with a policy ``"hellinger2"`` (``sum (sqrt P - sqrt Q)^2`` in [0, 2]), ``"tv"``, ``"kl"`` (nats,
                expert first) or ``"coverage"``. From samples only ``"tv"``, a lower bound by a classifier;
                ``"hellinger2"``, what that implies: ``2 (1 - sqrt(1 - TV^2))``; ``"ngram_tv"``; ``"mmd2"``.
            policy: the writer of the rollouts; by default the one given to the wrapper.
            method: ``"bridge"`` (rollouts, and fresh sequences of the expert), ``"one-sided"`` (rollouts alone, for
                ``"hellinger2"`` and ``"tv"``), ``"classifier"``, ``"n-gram"``, ``"mmd"``, or ``"auto"``: the bridge
                where both sides have log-probabilities, else the test that goes with the metric.
            n: fresh sequences of the expert; as many as there are rollouts by default.
            rng: source of all randomness, by default the same at every call; the environment's is not touched. It must
                not be seeded as the environment was: prompts of both sides would coincide.
            **options: of the estimator, such as ``lengths`` of a test or ``thresholds`` of a coverage profile.

        Raises:
            NotTractableError: the metric cannot be had this way; the message names one that can.
            TypeError, ValueError: no or too few finished rollouts, a policy with another vocabulary or horizon, or one
                that gives a rollout probability zero.
        """
        return self.rollouts.curve(metric, policy=policy, method=method, n=n, rng=rng, **options)

    def test(
        self,
        method: str = "classifier",
        *,
        n: int | None = None,
        rng: np.random.Generator | None = None,
        **options: Any,
    ) -> TwoSampleResult:
        """A two-sample test of the rollouts against the expert's sequences, with p-values.

        Arguments and errors as for `curve` and `ntp_envs.distances.two_sample_test`; the expert is the first sample.
        """
        return self.rollouts.test(method, n=n, rng=rng, **options)

    def demonstrations(self) -> Demonstrations:
        """The rollouts in the window, oldest first, ``(k, P)`` prompts and ``(k, H)`` tokens.

        Raises:
            ValueError: no sequence has finished yet.
        """
        return self.rollouts.demonstrations()

    def clear(self) -> None:
        """Forget the rollouts, for example because the policy has changed. Sequences being written are kept."""
        self.rollouts.clear()
        self._summarised = 0

    def _summary(self) -> dict[str, float] | None:
        """Numbers for ``info``, whenever ``summary_every`` more rollouts have finished."""
        if self._summary_every is None or self.rollouts.finished < self._summarised + self._summary_every:
            return None
        self._summarised = self.rollouts.finished
        options: dict[str, Any] = {} if self.rollouts.has_log_probs else {"lengths": [self.rollouts.horizon]}
        curve = self.curve(**options)
        return {
            "hellinger2": curve.final,
            "lower": float(curve.lower[-1]),
            "upper": float(curve.upper[-1]),
            "finished": float(self.rollouts.finished),
            "dropped": float(self.rollouts.dropped),
        }


class RolloutDistance(_Recording, gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Accumulates the finished sequences of one environment and measures their distance to the expert.

    Works around any wrappers that keep actions as they are, such as those of ``gym.make``: tokens are the actions
    taken. A sequence that is truncated or reset before its H-th token is dropped and counted. For many environments at
    once use `VectorRolloutDistance`.

    Args:
        env: an ``ntp/...`` environment, or any with ``Discrete(A)`` actions and episodes of H steps, if ``expert`` is
            given.
        window: sequences kept, the latest; ``window * (P + H)`` bytes for up to 256 tokens.
        expert: the task to compare with, by default the environment's own; or `Demonstrations` of an expert that has
            no density, which then are all that the rollouts are compared with.
        policy: who acts, if it has log-probabilities: an `ntp_envs.Policy`.
        read_prompt: ``observation -> (P,) tokens`` at the start of an episode; by default ``observation["prompt"]``
            or the first P entries (an ``ntp`` environment is asked itself, whatever wrappers make of its observations).
        summary_every: put ``info["rollout_distance"]`` at the end of an episode whenever this many more have finished
            (at least 8): ``hellinger2`` at H with its ``lower`` and ``upper`` ends, ``finished`` and ``dropped``.

    Raises:
        TypeError, ValueError: no expert known or given, other actions than its tokens, a policy that does not fit.

    >>> from ntp_envs import make_task
    >>> env = RolloutDistance(gym.make("ntp/Contamination-v0", horizon=4), policy=make_task("Contamination").expert)
    >>> for _ in range(20):
    ...     over = not env.reset(seed=0)
    ...     while not over:
    ...         _, _, over, _, _ = env.step(0)
    >>> env.demonstrations().tokens.shape
    (20, 4)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        window: int = 10_000,
        expert: Task | Demonstrations | None = None,
        policy: Policy | None = None,
        read_prompt: Callable[[Any], ArrayLike] | None = None,
        summary_every: int | None = None,
    ) -> None:
        if isinstance(env, gym.vector.VectorEnv):
            raise TypeError("RolloutDistance wraps a single environment; use VectorRolloutDistance for this one.")
        gym.utils.RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            window=window,
            expert=expert,
            policy=policy,
            read_prompt=read_prompt,
            summary_every=summary_every,
        )
        gym.Wrapper.__init__(self, env)
        base = env.unwrapped
        self._record([getattr(base, "task", None)], env.action_space, window, expert, policy, summary_every)
        self._own = base if isinstance(base, TokenEnv) else None
        self._read_prompt = read_prompt
        self._prompt: ArrayLike = ()
        self._tokens = np.zeros(self.rollouts.horizon, dtype=np.int64)
        self._written = UNKNOWN  # tokens of the current sequence

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; a sequence that was being written is dropped."""
        out = self.env.reset(seed=seed, options=options)
        self.rollouts.dropped += self._written > 0
        self._begin(out[0])
        return out

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._written == AWAITED:  # an Autoreset wrapper underneath has started the next sequence
            self._begin(observation)
        elif self._written == UNKNOWN:
            self._written = AWAITED if terminated or truncated else UNKNOWN
        else:
            if self._written < self.rollouts.horizon:
                self._tokens[self._written] = action
            self._written += 1
            if terminated or truncated:
                info = self._finish(info)
        return observation, reward, terminated, truncated, info

    def _finish(self, info: dict[str, Any]) -> dict[str, Any]:
        complete = self._written == self.rollouts.horizon
        self._written = AWAITED
        if not complete:
            self.rollouts.dropped += 1
            return info
        self.rollouts.add(np.reshape(self._prompt, (1, -1)), self._tokens[None])
        summary = self._summary()
        return info if summary is None else {**info, SUMMARY_KEY: summary}

    def _begin(self, observation: Any) -> None:
        self._written = 0
        if self._read_prompt is None and self._own is not None:
            self._prompt = self._own.prompt
        else:
            self._prompt = _prompts_of(observation, self.rollouts.prompt_length, self._read_prompt)


class VectorRolloutDistance(_Recording, gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """`RolloutDistance` for vector environments, ours or Gymnasium's, in all three autoreset modes.

    Args:
        env: a vector environment of ``ntp/...``, or any with ``Discrete(A)`` single actions and episodes of H steps, if
            ``expert`` is given. An ``AsyncVectorEnv`` keeps its tasks in other processes: give ``expert=task``.
        window, expert, policy: as in `RolloutDistance`.
        read_prompt: ``observations -> (B, P) tokens``; by default ``observations["prompt"]`` or the first P columns.
        summary_every: as in `RolloutDistance`; ``infos["rollout_distance"]`` is batched as Gymnasium batches infos, at
            the sequence that was the last to finish.

    Raises:
        TypeError, ValueError: as in `RolloutDistance`.

    >>> envs = VectorRolloutDistance(gym.make_vec("ntp/Contamination-v0", num_envs=8, horizon=4))
    >>> _ = envs.reset(seed=0)
    >>> for _ in range(4):
    ...     _ = envs.step(envs.action_space.sample())
    >>> envs.curve("tv", lengths=[4]).method
    'samples only (classifier, lower bound)'
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        *,
        window: int = 10_000,
        expert: Task | Demonstrations | None = None,
        policy: Policy | None = None,
        read_prompt: Callable[[Any], ArrayLike] | None = None,
        summary_every: int | None = None,
    ) -> None:
        if not isinstance(env, gym.vector.VectorEnv):
            raise TypeError("VectorRolloutDistance wraps a vector environment; use RolloutDistance for this one.")
        super().__init__(env)
        base = env.unwrapped
        singles = [single.unwrapped for single in getattr(base, "envs", [])]
        tasks = [getattr(single, "task", None) for single in singles] or [getattr(base, "task", None)]
        self._record(tasks, env.single_action_space, window, expert, policy, summary_every)
        self._own = base if isinstance(base, TokenVectorEnv) else None
        self._own_singles = singles if singles and all(isinstance(single, TokenEnv) for single in singles) else None
        self._read_prompt = read_prompt
        mode = env.metadata.get("autoreset_mode")
        if mode is None:
            gym.logger.warn(f"{env} does not say its autoreset mode; AutoresetMode.NEXT_STEP is assumed.")
        self._mode = AutoresetMode.NEXT_STEP if mode is None else AutoresetMode(mode)
        self._rows = np.arange(env.num_envs)
        self._prompts = np.zeros((env.num_envs, self.rollouts.prompt_length), dtype=np.int64)
        self._tokens = np.zeros((self.rollouts.horizon + 1, env.num_envs), dtype=np.int64)  # last: past the horizon
        self._written = np.full(env.num_envs, UNKNOWN)  # tokens of each sequence
        self._common: int | None = None  # tokens of all of them, where they are equally long; then this holds

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; sequences that were being written are dropped, those of a mask if one is given."""
        mask = (options or {}).get("reset_mask")
        started = np.ones(self.num_envs, dtype=bool) if mask is None else np.array(mask, dtype=bool)
        out = self.env.reset(seed=seed, options=options)
        self._apart()
        self.rollouts.dropped += int((started & (self._written > 0)).sum())
        self._begin(started, out[0])
        self._together()
        return out

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        taken = np.asarray(actions)
        if self._common is not None and not (np.any(terminations) or np.any(truncations)):
            self._tokens[min(self._common, self.rollouts.horizon)] = taken
            self._common += 1
            return observations, rewards, terminations, truncations, infos
        self._apart()
        writing, awaited = self._written >= 0, self._written == AWAITED
        place = np.minimum(self._written, self.rollouts.horizon)
        self._tokens[place[writing], self._rows[writing]] = taken[writing]
        self._written += writing
        over = (np.asarray(terminations) | np.asarray(truncations)) & ~awaited
        if over.any():
            infos = self._finish(over, infos)
        if self._mode is AutoresetMode.SAME_STEP and over.any():
            self._begin(over, observations)
        elif self._mode is AutoresetMode.NEXT_STEP and awaited.any():
            self._begin(awaited, observations)
        self._together()
        return observations, rewards, terminations, truncations, infos

    def _apart(self) -> None:
        if self._common is not None:
            self._written[:] = self._common
            self._common = None

    def _together(self) -> None:
        first = int(self._written[0])
        self._common = first if first >= 0 and (self._written == first).all() else None

    def _finish(self, over: NDArray[np.bool_], infos: dict[str, Any]) -> dict[str, Any]:
        complete = over & (self._written == self.rollouts.horizon)
        self.rollouts.dropped += int((over & ~complete & (self._written >= 0)).sum())
        self._written[over] = AWAITED
        if complete.any():
            self.rollouts.add(self._prompts[complete], self._tokens[:-1, complete].T)
            summary = self._summary()
            if summary is not None:
                infos = self._add_info(infos, {SUMMARY_KEY: summary}, int(np.flatnonzero(complete)[-1]))
        return infos

    def _begin(self, started: NDArray[np.bool_], observations: Any) -> None:
        self._written[started] = 0
        if self._read_prompt is None and self._own is not None:
            self._prompts[started] = self._own.prompts[started]
        elif self._read_prompt is None and self._own_singles is not None:
            for row in np.flatnonzero(started):
                self._prompts[row] = self._own_singles[row].prompt
        else:
            prompts = _prompts_of(observations, self.rollouts.prompt_length, self._read_prompt)
            self._prompts[started] = np.reshape(prompts, self._prompts.shape)[started]


def _common_task(tasks: list[Any]) -> Task:
    """The one task of all environments."""
    first = tasks[0]
    if not isinstance(first, Task):
        raise ValueError(
            "this environment has no known expert: its unwrapped form has no ntp_envs.Task. Give "
            "expert=Demonstrations(...) of the expert for comparisons from samples only, or expert=task."
        )
    for other in tasks[1:]:
        if other is not first and repr(other) != repr(first):
            raise ValueError(f"the environments have different tasks, {first!r} and {other!r}; give expert=.")
    return first


def _prompts_of(observation: Any, prompt_length: int, read: Callable[[Any], ArrayLike] | None) -> ArrayLike:
    """``(..., P)`` prompts at the start of an episode."""
    if read is not None:
        return read(observation)
    if prompt_length == 0:
        return np.zeros(0, dtype=np.int64)
    array = np.asarray(observation.get("prompt", "no prompt") if isinstance(observation, Mapping) else observation)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"the observation does not begin with {prompt_length} prompt tokens (its dtype is {array.dtype}); give "
            "read_prompt=, a function from observation to tokens."
        )
    return array[..., :prompt_length]
