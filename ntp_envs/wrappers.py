"""Wrappers that watch any training or evaluation loop: how far are the rollouts from the expert, as the horizon grows?

`Rollouts` keeps the latest finished sequences and compares them; `RolloutDistance` and `VectorRolloutDistance` fill it.
They change nothing that the loop sees, unless a summary in ``info`` is asked for. `DistanceWatch` is what the callbacks
of loops that train a policy with log-probabilities share (stable-baselines3's, transformers').
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import IntArray, filled
from ntp_envs.checked import check_policy
from ntp_envs.checks import (
    NotTractableError,
    check_generator,
    check_in,
    check_int,
    check_keywords,
    check_tokens,
    keywords_of,
    small_int_dtype,
)
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances.curve import DistanceCurve
from ntp_envs.distances.front import distance
from ntp_envs.distances.metrics import METRICS, Metric, RatioFunction, check_metric, metric_names
from ntp_envs.distances.sampled import bridge_distances, one_sided_distances
from ntp_envs.distances.two_sample import TWO_SAMPLE_METHODS, TwoSampleResult, hellinger2_bound, two_sample_test
from ntp_envs.env import TokenEnv
from ntp_envs.intervals import CONFIDENCE
from ntp_envs.observations import (
    OBSERVATION_FORMS,
    as_numpy,
    empty_lines,
    observation_form,
    prompts_of,
    split_observation,
)
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task, collect, source_of
from ntp_envs.vector_env import TokenVectorEnv

CURVE_METHODS = ("auto", "bridge", "one-sided", *TWO_SAMPLE_METHODS)
#: which test estimates, or bounds from below, which metric
_TEST_OF_METRIC = {"tv": "classifier", "hellinger2": "classifier", "ngram_tv": "n-gram", "mmd2": "mmd"}
_FILLED_IN = {"demonstrations", "of_p", "of_q", "p", "q", "metrics"}  # of the estimators' arguments, by `Rollouts`


class Rollouts:
    """A ring buffer of finished sequences, in the smallest dtype, and their comparison with an expert.

    Args:
        expert: a task (its expert is compared with), or demonstrations where no density is known.
        window: sequences kept, the latest; ``window * (P + H)`` tokens of memory.
        policy: who writes the rollouts, if it has log-probabilities.

    Attributes:
        finished: complete sequences seen, also those that have left the window.
        dropped: sequences given up before their last token, or that went past it.
    """

    def __init__(self, expert: Task | Demonstrations, *, window: int, policy: Policy | None = None) -> None:
        self.expert = expert
        self.window = check_int("window", window, minimum=1)
        self.vocab_size, self.horizon, self.prompt_length = expert.vocab_size, expert.horizon, expert.prompt_length
        self.end_token = expert.end_token
        self.policy = None if policy is None else check_policy("policy", policy, self.expert)
        dtype = small_int_dtype(self.vocab_size - 1)
        self._lines = np.zeros((self.window, self.prompt_length + self.horizon), dtype=dtype)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.finished = self.dropped = self._stored = 0

    def __len__(self) -> int:
        return min(self._stored, self.window)

    @property
    def has_log_probs(self) -> bool:
        """Whether both sides are known to have log-probabilities."""
        return self.policy is not None and isinstance(self.expert, Task)

    def add(self, prompts: ArrayLike, tokens: ArrayLike) -> None:
        """``(k, P)`` prompts and ``(k, H)`` tokens of sequences that are complete, oldest first."""
        try:
            lines = np.concatenate(
                [
                    check_tokens("prompts", prompts, self.vocab_size, width=self.prompt_length),
                    check_tokens("tokens", tokens, self.vocab_size, width=self.horizon),
                ],
                axis=1,
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"this is not a rollout of the expert's shape: {error} See read_prompt=.") from error
        self.finished += len(lines)
        lines = lines[-self.window :]
        self._lines[(self._stored + np.arange(len(lines))) % self.window] = lines
        self._stored += len(lines)

    def finish(self, prompts: ArrayLike, tokens: NDArray[np.integer], lengths: IntArray) -> NDArray[np.bool_]:
        """Add those of ``(k, ...)`` sequences that are complete, H tokens or up to an end token, and drop the others.

        Args:
            prompts: ``(k, P)``.
            tokens: ``(k, ...)``, of which the first ``lengths`` were written.
            lengths: ``(k,)``.

        Returns:
            ``(k,)`` which were complete.
        """
        complete, texts = lengths == self.horizon, tokens[:, : self.horizon]
        if self.end_token is not None:
            short = (lengths > 0) & (lengths < self.horizon)
            last = np.take_along_axis(texts, np.where(short, lengths - 1, 0)[:, None], axis=1)[:, 0]
            complete = complete | (short & (last == self.end_token))
            texts = filled(texts, self.horizon, self.end_token)
            texts[np.arange(self.horizon) >= lengths[:, None]] = self.end_token
        self.dropped += int((~complete).sum())
        if complete.any():
            self.add(np.asarray(prompts)[complete], texts[complete])
        return complete

    def demonstrations(self) -> Demonstrations:
        """The rollouts in the window, oldest first.

        Raises:
            ValueError: there are none.
        """
        if not len(self):
            raise ValueError(
                f"no rollout of {self.horizon} tokens has finished yet ({self.dropped} were dropped unfinished); "
                "step the environment to the end of an episode first."
            )
        order = np.arange(self._stored - len(self), self._stored) % self.window
        lines = self._lines[order].astype(np.int64)
        source: dict[str, Any] = {"by": "rollouts", "finished": self.finished, "dropped": self.dropped}
        if isinstance(self.expert, Task):
            source |= source_of(self.expert)
        return Demonstrations(
            lines[:, : self.prompt_length],
            lines[:, self.prompt_length :],
            vocab_size=self.vocab_size,
            source=source,
            end_token=self.end_token,
        )

    def test(
        self,
        method: str = "classifier",
        *,
        n: int | None = None,
        rng: np.random.Generator | None = None,
        **options: Any,
    ) -> TwoSampleResult:
        """A two-sample test of the rollouts against the expert's sequences; see `RolloutDistance.test`."""
        rng = _own_generator() if rng is None else check_generator(rng)
        rollouts = self.demonstrations()
        if isinstance(self.expert, Demonstrations):
            expert = self.expert
            if n is not None:
                raise ValueError(f"n={n} sequences cannot be drawn from given demonstrations; leave n out.")
        else:
            expert = self._fresh(n, rng)
        result = two_sample_test(expert, rollouts, rng=rng, method=method, **options)
        return dataclasses.replace(result, curve=self._named(result.curve))

    def curve(
        self,
        metric: str | Metric | RatioFunction = "hellinger2",
        *,
        policy: Policy | None = None,
        method: str = "auto",
        n: int | None = None,
        rng: np.random.Generator | None = None,
        **options: Any,
    ) -> DistanceCurve:
        """A distance from the expert to the rollouts at every prefix length; see `RolloutDistance.curve`."""
        check_in("method", method, CURVE_METHODS)
        if isinstance(metric, str):
            check_in("metric", metric, dict.fromkeys((*metric_names(), *_TEST_OF_METRIC)))
        asked = None if metric in ("ngram_tv", "mmd2") else check_metric(metric)
        name = str(metric) if asked is None else asked.name
        writer = self.policy if policy is None else check_policy("policy", policy, self.expert)
        chosen = self._choose(name, asked, writer) if method == "auto" else method
        if chosen in TWO_SAMPLE_METHODS:
            if _TEST_OF_METRIC.get(name) != chosen:
                raise NotTractableError(self._no_samples(name, chosen))
            curve = self.test(chosen, n=n, rng=rng, **options).curve
            return _hellinger2_bound(curve) if name == "hellinger2" else curve
        if asked is None:
            raise NotTractableError(f"{name} is estimated by method={_TEST_OF_METRIC[name]!r}, not {chosen!r}.")
        if not isinstance(self.expert, Task) or writer is None:
            missing = "no known expert: only demonstrations" if writer is not None else "no policy: pass policy="
            raise NotTractableError(f"method={chosen!r} needs log-probabilities of both sides; there is {missing}.")
        rng = _own_generator() if rng is None else check_generator(rng)
        estimator = bridge_distances if chosen == "bridge" else one_sided_distances
        check_keywords(f"curve(method={chosen!r})", options, {*keywords_of(estimator)} - _FILLED_IN)
        if chosen == "bridge":
            samples = self._fresh(n, rng), self.demonstrations()
            return bridge_distances(*samples, p=self.expert.expert, q=writer, metrics=asked, **options)[name]
        if not asked.symmetric:
            raise NotTractableError(
                f"{name} of the expert relative to the policy needs sequences of the expert; use method='bridge'."
            )
        rollouts = self.demonstrations()
        if np.isneginf(writer.log_probs(rollouts.prompts, rollouts.tokens)).any():
            raise ValueError("policy gives probability 0 to one of the rollouts: it did not write them all.")
        return one_sided_distances(rollouts, self.expert.expert, p=writer, metrics=asked, **options)[name]

    def _choose(self, metric: str, asked: Metric | None, writer: Policy | None) -> str:
        if asked is not None and isinstance(self.expert, Task) and writer is not None:
            return "bridge"
        if metric not in _TEST_OF_METRIC:
            raise NotTractableError(self._no_samples(metric, "auto"))
        return _TEST_OF_METRIC[metric]

    def _no_samples(self, metric: str, method: str) -> str:
        known = ", ".join(f"{name} ({test})" for name, test in _TEST_OF_METRIC.items())
        way = "pass policy=, or choose" if isinstance(self.expert, Task) else "there is no known expert here; choose"
        return f"{metric} cannot be had from samples only by method={method!r}; {way} one of: {known}."

    def _fresh(self, n: int | None, rng: np.random.Generator) -> Demonstrations:
        assert isinstance(self.expert, Task)
        return collect(self.expert, max(len(self), 8) if n is None else n, rng)

    def _named(self, curve: DistanceCurve) -> DistanceCurve:
        if isinstance(self.expert, Task):
            return curve
        note = f"no known expert: against {len(self.expert)} demonstrations"
        return dataclasses.replace(curve, method=f"{curve.method}, {note}")


def _own_generator() -> np.random.Generator:
    """Reproducible, and not the stream of ``reset(seed=0)``: the expert's prompts would be those of the rollouts."""
    return np.random.default_rng(np.random.SeedSequence(0, spawn_key=(1,)))


def _hellinger2_bound(curve: DistanceCurve) -> DistanceCurve:
    """A lower bound on TV as one on the squared Hellinger distance."""
    slope = 2.0 * curve.values / np.sqrt(np.maximum(1.0 - curve.values**2, 1e-12))
    return dataclasses.replace(
        curve,
        metric="hellinger2",
        values=hellinger2_bound(curve.values),
        lower=hellinger2_bound(curve.lower),
        upper=2.0 * curve.upper,
        std_error=slope * curve.std_error,
    )


SUMMARY_KEY = "rollout_distance"
UNMEASURED = {"hellinger2": np.nan, "lower": np.nan, "upper": np.nan, "finished": 0.0, "dropped": 0.0}
CHANGES_ACTIONS = (
    gym.ActionWrapper,
    gym.vector.VectorActionWrapper,
    getattr(gym.wrappers, "RepeatAction", gym.ActionWrapper),  # of gymnasium 1.3 and later
)
AWAITED, UNKNOWN = -1, -2  # instead of a number of tokens: over, not yet started anew; or no reset has been seen


class _Recording:
    """What both wrappers offer."""

    rollouts: Rollouts
    _summary_every: int | None
    _summary: dict[str, float]

    def _record(
        self,
        tasks: list[Any],
        action_space: Any,
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
        self._summary = UNMEASURED

    def curve(
        self,
        metric: str | Metric | RatioFunction = "hellinger2",
        *,
        policy: Policy | None = None,
        method: str = "auto",
        n: int | None = None,
        rng: np.random.Generator | None = None,
        confidence: float = CONFIDENCE,
        simultaneous: bool = False,
        **options: Any,
    ) -> DistanceCurve:
        """The distance from the expert to the rollouts in the window, at every prefix length, with intervals.

        With a policy, the rollouts are taken as draws from it: call `clear` whenever it has changed. Without one, only
        two-sample tests are possible, against as many fresh sequences of the expert (prompts from the task's law), or
        against the demonstrations given where no expert is known; the curve's ``method`` says so.

        Args:
            metric: with a policy ``"hellinger2"`` (``sum (sqrt P - sqrt Q)^2`` in [0, 2]), ``"tv"``, ``"kl"`` (nats,
                expert first), ``"coverage"`` or one of your own (`ntp_envs.register_metric`). From samples only
                ``"tv"``, a lower bound by a classifier; ``"hellinger2"``, what it implies: ``2 (1 - sqrt(1 - TV^2))``;
                ``"ngram_tv"``; ``"mmd2"``.
            policy: the writer of the rollouts; by default the one given to the wrapper.
            method: ``"bridge"`` (rollouts, and fresh sequences of the expert), ``"one-sided"`` (rollouts alone, for
                metrics that are symmetric), ``"classifier"``, ``"n-gram"``, ``"mmd"``, or ``"auto"``: the bridge
                where both sides have log-probabilities, else the test that goes with the metric.
            n: fresh sequences of the expert; as many as there are rollouts by default.
            rng: source of all randomness, by default the same at every call; the environment's is not touched. It must
                not be seeded as the environment was: prompts of both sides would coincide.
            confidence: level of the intervals.
            simultaneous: make the intervals of all lengths hold together (Bonferroni), not each by itself.
            **options: of the estimator, such as ``lengths`` of a test or ``thresholds`` of a coverage profile.

        Raises:
            NotTractableError: the metric cannot be had this way; the message names one that can.
            TypeError, ValueError: no or too few finished rollouts, a policy with another vocabulary or horizon, or one
                that gives a rollout probability zero.
        """
        options |= {"confidence": confidence, "simultaneous": simultaneous}
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
        self._summary = UNMEASURED

    def _summarise(self) -> None:
        """Measure the numbers for ``info`` where ``summary_every`` more rollouts have finished."""
        if self._summary_every is None or self.rollouts.finished < self._summary["finished"] + self._summary_every:
            return
        options: dict[str, Any] = {} if self.rollouts.has_log_probs else {"lengths": [self.rollouts.horizon]}
        curve = self.curve(**options)
        self._summary = {
            "hellinger2": curve.final,
            "lower": float(curve.lower[-1]),
            "upper": float(curve.upper[-1]),
            "finished": float(self.rollouts.finished),
            "dropped": float(self.rollouts.dropped),
        }


class RolloutDistance(_Recording, gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Accumulates the finished sequences of one environment and measures their distance to the expert.

    Of an ``ntp`` environment it records the tokens that were *written*: its own state is read, whatever wrappers in
    between make of actions (``StickyAction``), observations or episode ends. Of another environment the tokens are the
    actions taken here; wrappers that change them have to be outside. A sequence that is truncated or reset before its
    H-th token is dropped and counted. For many environments at once use `VectorRolloutDistance`.

    Args:
        env: an ``ntp/...`` environment, or any with ``Discrete(A)`` actions and episodes of H steps, if ``expert`` is
            given.
        window: sequences kept, the latest; ``window * (P + H)`` bytes for up to 256 tokens.
        expert: the task to compare with, by default the environment's own; or `Demonstrations` of an expert that has
            no density, which then are all that the rollouts are compared with.
        policy: the law of the tokens written, if it has log-probabilities: an `ntp_envs.Policy`. Where a wrapper
            changes actions, that is not who acts.
        read_prompt: ``observation -> (P,) tokens`` at the start of an episode; by default ``observation["prompt"]``
            or the first P entries (an ``ntp`` environment is asked itself, whatever wrappers make of its observations).
        summary_every: measure whenever this many more sequences have finished (at least 8); the latest numbers are in
            ``info["rollout_distance"]`` of every step and reset: ``hellinger2`` at H with its ``lower`` and ``upper``
            ends, and how many were ``finished`` and ``dropped`` by then; ``nan`` and 0 until the first time.

    Raises:
        TypeError, ValueError: no expert known or given, other actions than its tokens, a policy that does not fit, or
            a wrapper that changes the actions of an environment whose state cannot be read.

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
        self._own = base if isinstance(base, TokenEnv) else None
        if self._own is None:
            _refuse_changed_actions(env)
        actions = env.action_space if self._own is None else self._own.action_space
        self._record([getattr(base, "task", None)], actions, window, expert, policy, summary_every)
        self._read_prompt = read_prompt
        self._prompt: ArrayLike = ()
        self._tokens = np.zeros(self.rollouts.horizon, dtype=np.int64)  # where the state cannot be read
        self._number = 0  # of the sequence that is being written, where it can
        self._written = UNKNOWN  # steps of the current sequence

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; a sequence that was being written is dropped."""
        out = self.env.reset(seed=seed, options=options)
        self.rollouts.dropped += self._written > 0
        self._begin(out[0])
        return out[0], self._told(out[1])

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._written == AWAITED:  # an Autoreset wrapper underneath has started the next sequence
            self._begin(observation)
        elif self._written == UNKNOWN:
            self._written = AWAITED if terminated or truncated else UNKNOWN
        else:
            if self._own is None and self._written < self.rollouts.horizon:
                self._tokens[self._written] = int(as_numpy(action))
            self._written += 1
            if terminated or truncated:
                self._finish()
                if self._own is not None and self._own._number != self._number:  # the next one has begun already
                    self._begin(observation)
        return observation, reward, terminated, truncated, self._told(info)

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        return info if self._summary_every is None else {**info, SUMMARY_KEY: dict(self._summary)}

    def _finish(self) -> None:
        prompt, tokens = self._prompt, self._tokens[: self._written]
        length = self._written
        if self._own is not None:
            line, split = self._own._line_of(self._number), self._own.task.prompt_length
            prompt, tokens = (line[:split] if self._read_prompt is None else prompt), line[split:]
            length = len(tokens)
        self._written = AWAITED
        if self.rollouts.finish(np.reshape(prompt, (1, -1)), tokens[None], np.array([length])).any():
            self._summarise()

    def _begin(self, observation: Any) -> None:
        self._written = 0
        if self._own is not None:
            self._number = self._own._number
        if self._own is None or self._read_prompt is not None:
            self._prompt = prompts_of(observation, self.rollouts.prompt_length, self._read_prompt)


class VectorRolloutDistance(_Recording, gym.vector.VectorWrapper):
    """`RolloutDistance` for vector environments, ours or Gymnasium's, in all three autoreset modes.

    Args:
        env: a vector environment of ``ntp/...``, or any with ``Discrete(A)`` single actions and episodes of H steps, if
            ``expert`` is given. Array converters such as ``NumpyToTorch`` may be in between. An ``AsyncVectorEnv``
            keeps its tasks in other processes: give ``expert=task``; what was written is read from its observations,
            which have to be in one of the forms of `TokenEnv`.
        window, expert, policy: as in `RolloutDistance`.
        read_prompt: ``observations -> (B, P) tokens``; by default ``observations["prompt"]`` or the first P columns.
        summary_every: as in `RolloutDistance`; ``infos["rollout_distance"]`` is batched as Gymnasium batches infos, the
            same numbers for every environment.

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
        self._own = base if isinstance(base, TokenVectorEnv) else None
        self._own_singles = singles if singles and all(isinstance(single, TokenEnv) for single in singles) else None
        elsewhere = isinstance(base, gym.vector.AsyncVectorEnv)
        actions = env.single_action_space
        if self._own is not None:
            actions = self._own.single_action_space
        elif self._own_singles is not None:
            actions = self._own_singles[0].action_space
        elif not elsewhere:
            for chain in (env, *getattr(base, "envs", [])):
                _refuse_changed_actions(chain)
        self._record(tasks, actions, window, expert, policy, summary_every)
        if elsewhere and observation_form(self.rollouts.expert, env.single_observation_space) is None:
            raise ValueError(
                "the environments are in other processes, where wrappers may change actions, and the observations, "
                f"{env.single_observation_space}, do not show what was written. Keep one of the forms "
                f"{', '.join(OBSERVATION_FORMS)}, or use SyncVectorEnv."
            )
        self._from_observations = elsewhere
        self._from_actions = not elsewhere and self._own is None and self._own_singles is None
        self._read_prompt = read_prompt
        mode = env.metadata.get("autoreset_mode")
        if mode is None:
            gym.logger.warn(f"{env} does not say its autoreset mode; AutoresetMode.NEXT_STEP is assumed.")
        self._mode = AutoresetMode.NEXT_STEP if mode is None else AutoresetMode(mode)
        self._rows = np.arange(env.num_envs)
        self._prompts = np.zeros((env.num_envs, self.rollouts.prompt_length), dtype=np.int64)
        horizon = self.rollouts.horizon if self._from_actions else 0
        self._tokens = np.zeros((horizon + 1, env.num_envs), dtype=np.int64)  # last: past the horizon
        self._numbers = np.zeros(env.num_envs, dtype=np.int64)  # of the sequences, as the environments count
        self._written = np.full(env.num_envs, UNKNOWN)  # steps of each sequence
        self._common: int | None = None  # steps of all of them, where they are equally long; then this holds

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; sequences that were being written are dropped, those of a mask if one is given."""
        mask = (options or {}).get("reset_mask")
        started = np.ones(self.num_envs, dtype=bool) if mask is None else as_numpy(mask).astype(bool)
        out = self.env.reset(seed=seed, options=options)
        self._apart()
        self.rollouts.dropped += int((started & (self._written > 0)).sum())
        self._begin(started, out[0])
        self._together()
        return out[0], self._told(out[1])

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        ended = as_numpy(terminations) | as_numpy(truncations)
        if self._common is not None and not ended.any():
            if self._from_actions:
                self._tokens[min(self._common, self.rollouts.horizon)] = as_numpy(actions)
            self._common += 1
            return observations, rewards, terminations, truncations, self._told(infos)
        self._apart()
        writing, awaited = self._written >= 0, self._written == AWAITED
        if self._from_actions:
            place = np.minimum(self._written, self.rollouts.horizon)
            self._tokens[place[writing], self._rows[writing]] = as_numpy(actions)[writing]
        self._written += writing
        over = ended & ~awaited
        if over.any():
            self._finish(over, observations, infos)
        if self._mode is AutoresetMode.SAME_STEP and over.any():
            self._begin(over, observations)
        elif self._mode is AutoresetMode.NEXT_STEP and awaited.any():
            self._begin(awaited, observations)
        self._together()
        return observations, rewards, terminations, truncations, self._told(infos)

    def _told(self, infos: dict[str, Any]) -> dict[str, Any]:
        if self._summary_every is None:
            return infos
        batched = {name: np.full(self.num_envs, value) for name, value in self._summary.items()}
        return {**infos, SUMMARY_KEY: batched, f"_{SUMMARY_KEY}": np.ones(self.num_envs, dtype=bool)}

    def _apart(self) -> None:
        if self._common is not None:
            self._written[:] = self._common
            self._common = None

    def _together(self) -> None:
        first = int(self._written[0])
        self._common = first if first >= 0 and (self._written == first).all() else None

    def _finish(self, over: NDArray[np.bool_], observations: Any, infos: dict[str, Any]) -> None:
        rows = np.flatnonzero(over & (self._written >= 0))
        if not len(rows):
            self._written[over] = AWAITED
            return
        prompts, tokens, lengths = self._sequences(rows, observations, infos)
        self._written[over] = AWAITED
        if self._read_prompt is not None:
            prompts = self._prompts[rows]
        if self.rollouts.finish(prompts, tokens, lengths).any():
            self._summarise()

    def _sequences(
        self, rows: IntArray, observations: Any, infos: dict[str, Any]
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Prompts (k, P), tokens (k, ...) and how many there are (k,) of the sequences at these rows, now over."""
        if self._from_actions:
            return self._prompts[rows], self._tokens[:, rows].T, self._written[rows]
        if self._own is not None:
            prompts, tokens, lengths = split_observation(self._own.task, self._own._ended[rows])
            return prompts, tokens, np.where(self._own._endings[rows] > self._numbers[rows], lengths, 0)
        if self._own_singles is not None:
            task = self._own_singles[0].task
            lines = empty_lines(task, len(rows))
            for line, row in zip(lines, rows):
                written = self._own_singles[row]._line_of(int(self._numbers[row]))
                line[: len(written)] = written
            return split_observation(task, lines)
        if self._mode is AutoresetMode.SAME_STEP:
            parts = [split_observation(self.rollouts.expert, infos["final_obs"][row]) for row in rows]
            prompts, tokens, lengths = (np.stack(part) for part in zip(*parts))
            return prompts, tokens, lengths
        prompts, tokens, lengths = split_observation(self.rollouts.expert, observations)
        return prompts[rows], tokens[rows], lengths[rows]

    def _begin(self, started: NDArray[np.bool_], observations: Any) -> None:
        self._written[started] = 0
        if self._own is not None:
            self._numbers[started] = self._own._endings[started]
        elif self._own_singles is not None:
            for row in np.flatnonzero(started):
                self._numbers[row] = self._own_singles[row]._number
        if self._from_actions or self._read_prompt is not None:
            prompts = prompts_of(observations, self.rollouts.prompt_length, self._read_prompt)
            self._prompts[started] = np.reshape(prompts, self._prompts.shape)[started]


def _refuse_changed_actions(env: Any) -> None:
    """Refuse an environment of others, where tokens are the actions taken, below a wrapper that changes actions."""
    while isinstance(env, gym.Wrapper | gym.vector.VectorWrapper):
        if isinstance(env, CHANGES_ACTIONS):
            kind = type(env).__name__
            raise ValueError(
                f"{kind} changes actions, and what is then written in {env.unwrapped} cannot be read. Put this wrapper "
                f"below {kind}: {kind}(RolloutDistance(env))."
            )
        env = env.env


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


class DistanceWatch:
    """The distance of a policy to a task's expert during its training: when it is due, the curves, and what to log.

    It is measured by `ntp_envs.distance`: exactly where H is small, else from ``n`` sequences of its own, the same
    random numbers each time, so that the curve moves because the policy does.

    Args:
        task: whose expert to compare with.
        every: steps between measurements, at least 1.
        prefixes: lengths h in 1..H that are logged; by default 1, H/4, H/2 and H.
        metric: ``"hellinger2"`` (squared Hellinger ``sum (sqrt P - sqrt Q)^2``, in [0, 2]), ``"tv"`` or ``"kl"``
            (nats, expert first).
        n: sequences drawn, where it is sampled.
        seed: of the draws.

    Attributes:
        history: ``(steps, DistanceCurve)`` of each measurement.

    Raises:
        ValueError, TypeError: an argument out of range.
    """

    def __init__(
        self, task: Task, *, every: int, prefixes: Sequence[int] | None, metric: str, n: int, seed: int
    ) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"task={task!r} must be an ntp_envs.Task, not {type(task).__name__}.")
        self.task = task
        self.every = check_int("every", every, minimum=1)
        horizon = task.horizon
        if prefixes is None:
            prefixes = [h for h in (1, horizon // 4, horizon // 2, horizon) if h >= 1]
        self.prefixes = sorted({check_int("prefixes", h, minimum=1, maximum=horizon) for h in prefixes})
        self.metric = check_in("metric", metric, [name for name in METRICS if name != "coverage"])
        self.n = check_int("n", n, minimum=4)
        self.seed = check_int("seed", seed, minimum=0, maximum=math.inf)
        self.history: list[tuple[int, DistanceCurve]] = []

    def _begin(self, steps: int) -> None:
        """A training begins at so many steps: at 0 with a history of its own, else with what led to that state."""
        if steps == 0:
            self.history = []  # a new list: whoever kept the last training's has it still
        else:
            self.history[:] = [entry for entry in self.history if entry[0] <= steps]

    def _due(self, steps: int, *, every: int | None = None) -> bool:
        """Whether so many steps (``every`` by default) have passed since the last measurement."""
        return not self.history or steps >= self.history[-1][0] + (self.every if every is None else every)

    def _measured(self, steps: int, policy: Policy) -> dict[str, float]:
        """Keep the curve; ``distance/<metric>_h<h>``, and where it is sampled ``distance/<metric>_se`` at H."""
        rng = np.random.default_rng(self.seed)
        curve = distance(self.task.expert, policy, self.task, metric=self.metric, n=self.n, rng=rng)
        self.history.append((steps, curve))
        logs = {f"distance/{self.metric}_h{h}": float(curve.values[h - 1]) for h in self.prefixes}
        if not curve.is_exact:
            logs[f"distance/{self.metric}_se"] = float(curve.std_error[-1])
        return logs
