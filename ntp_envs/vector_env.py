"""Many token sequences as one native Gymnasium vector environment, in one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray, filled
from ntp_envs.checks import as_array, check_in, check_int, check_real, check_tokens, did_you_mean
from ntp_envs.env import (
    RENDER_MODES,
    ExpertReader,
    accepted_tokens,
    check_options,
    check_prompt,
    frames,
    resolve_reward,
    resolve_task,
    warn_no_render_mode,
)
from ntp_envs.observations import OBSERVATION_FORMS, empty_lines, observed, token_space
from ntp_envs.tasks.base import Task

Rows = IntArray | slice

EVERY = slice(None)
INT64, UINT64 = np.dtype(np.int64), np.dtype(np.uint64)


@dataclass(eq=False)
class _Cohort:
    """Sequences of equal length, which step together. Usually there is one cohort: everything is in lock-step.

    Two cohorts that are being written never have the same length: those that start together are merged, and all of them
    grow by one token a step. So there are at most H, whatever is reset when, and as many that are over. Texts that end
    early leave their cohort.
    """

    rows: Rows  # ascending; EVERY for all
    step: int = 0  # tokens written
    reader: ExpertReader | None = None
    over: bool = False  # terminated or truncated, not yet reset
    ended: bool = False  # terminated: H tokens, or the end token, written


class TokenVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """B sequences written side by side: `ntp_envs.TokenEnv`, as a native vector environment.

    Spaces, rewards, episode ends and information are those of `TokenEnv`, batched as ``SyncVectorEnv`` batches them;
    for the same prompts and actions both give the same trajectories in every autoreset mode. What differs:

    * ``expert_info`` is off by default, so that a step is little more than a copy of the token array. Where it is on,
      ``infos["expert_probs"]`` is (B, A) float64 with its mask ``infos["_expert_probs"]`` (B,), after every step.
    * One generator serves the batch, as in Gymnasium's own vector CartPole: ``reset(seed=s)`` seeds it once, and the
      prompts of the sequences that start in one call are one draw of the task's prompt law, in ascending order. So
      sequence i does not depend on ``s + i`` alone, as it would in ``SyncVectorEnv``.
    * With ``reset(seed=[s0, s1, ...])`` each sequence has a generator of its own from then on: it and all that follow
      it are those of ``TokenEnv.reset(seed=si)``, whatever B and the others are, as in ``SyncVectorEnv``. A later
      ``reset(seed=s)`` goes back to the one generator.
    * ``max_episode_steps`` truncates as the ``TimeLimit`` of ``gym.make`` does, for which there is no vector wrapper.

    Autoreset (``metadata["autoreset_mode"]``, the enum): after ``NEXT_STEP``, the default, the call that follows the
    end of a sequence ignores its action and returns its new start with reward 0. ``SAME_STEP`` returns the new start
    at once, with ``final_obs`` and ``final_info`` in ``infos``. ``DISABLED`` waits for
    ``reset(options={"reset_mask": mask})``. The mask works in every mode.

    Args:
        num_envs: B.
        task, reward, expert_info, observation, log_prob_floor, render_mode, **task_parameters: as in `TokenEnv`.
        autoreset_mode: an ``AutoresetMode``, or its value or name as a string (``"NextStep"``, ``"next_step"``).
        max_episode_steps: truncate after this many tokens; ``None`` or -1 for never.

    Raises:
        ValueError, TypeError: as in `TokenEnv`.

    >>> envs = TokenVectorEnv(2, "Contamination", horizon=3)
    >>> envs.reset(options={"prompts": [[0], [1]]})[0].tolist()
    [[0, 2, 2, 2], [1, 2, 2, 2]]
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium declares it an instance variable)
        "render_modes": list(RENDER_MODES),
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        task: Task | str = "Contamination",
        *,
        reward: str | None = None,
        expert_info: bool = False,
        observation: str = "multi_discrete",
        log_prob_floor: float = -20.0,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **task_parameters: Any,
    ) -> None:
        self.num_envs = check_int("num_envs", num_envs, minimum=1)
        self.task = resolve_task(task, task_parameters, TokenVectorEnv)
        self.reward = resolve_reward(reward, self.task)
        self.expert_info = bool(expert_info)
        self.observation = check_in("observation", observation, OBSERVATION_FORMS)
        self.log_prob_floor = check_real("log_prob_floor", log_prob_floor, maximum=0.0)
        self.render_mode = None if render_mode is None else check_in("render_mode", render_mode, RENDER_MODES)
        self.autoreset_mode = _checked_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self.max_episode_steps: int | None = None
        if max_episode_steps is not None and max_episode_steps != -1:
            self.max_episode_steps = check_int("max_episode_steps", max_episode_steps, minimum=1)
        self.single_observation_space = token_space(self.task, self.observation)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space = spaces.Discrete(self.task.vocab_size)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators: dict[int, np.random.Generator] = {}  # of the sequences that were seeded each for itself
        self._reads = self.expert_info or self.reward == "expert_log_prob"
        self._lines = empty_lines(self.task, self.num_envs)  # (B, P + H) prompts and tokens, as observed
        self._ended = self._lines.copy()  # of each row, the line that was the last to end, and how many have
        self._endings = np.zeros(self.num_envs, dtype=np.int64)
        # Oldest first, so that one that is over comes first; none before the first reset.
        self._cohorts: list[_Cohort] = []
        self._split = self.task.prompt_length
        self._longest = min(self.task.horizon, self.max_episode_steps or self.task.horizon)
        self._flat = self.observation == "multi_discrete"
        plain = not self._reads and self.task.end_token is None
        self._plain_until = self._longest - 1 if plain else 0  # a step before this one only writes its tokens
        size = self.task.vocab_size
        self._bound = np.array(size, dtype=UINT64)
        self._other_bits = np.array(~(size - 1), dtype=INT64) if size & (size - 1) == 0 else None
        self._shape = (self.num_envs,)
        self._nowhere = np.zeros(self.num_envs, dtype=np.bool_)

    @property
    def prompts(self) -> IntArray:
        """``(B, P)`` prompts of the current sequences."""
        return self._prompts(EVERY)

    # -- the Gymnasium interface ---------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start all sequences, or those of a mask.

        Args:
            seed: one integer, for the one generator of the batch; or one for each sequence, which then has its own
                (``None`` among them leaves a sequence's generator as it is; with a mask, only its rows are read).
            options: ``prompts`` (B, P) or ``prompt`` (P,) tokens instead of a draw; ``reset_mask`` (B,) booleans,
                the sequences to start anew (only their rows of ``prompts`` are read). Left as it is.

        Returns:
            Observations of all sequences, and infos of those that were started.

        Raises:
            ValueError, TypeError: an unknown option, or one of the wrong shape, dtype or range.
            gymnasium.error.ResetNeeded: a mask before the first reset of all sequences.
        """
        check_options(options, ("prompt", "prompts", "reset_mask"))
        options = options or {}
        prompts = self._given_prompts(options)
        mask = self._checked_mask(options["reset_mask"]) if options.get("reset_mask") is not None else None
        if mask is not None and mask.all():
            mask = None
        if mask is not None and not self._cohorts:
            raise ResetNeeded("options['reset_mask'] was given before the first reset; reset all sequences first.")
        rows: Rows = EVERY if mask is None else np.flatnonzero(mask)
        self._seed(seed, rows)
        if mask is None:
            self._cohorts = []
        else:
            self._withdraw(mask)
        started = self._start(rows, None if prompts is None else prompts[rows])
        infos: dict[str, Any] = {}
        self._add_expert(infos, started, rows)
        return self._observed(), infos

    def step(self, actions: ArrayLike) -> tuple[Any, FloatArray, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Append one token to each sequence.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, or, in mode ``DISABLED``, if a sequence is over.
            gymnasium.error.InvalidAction: actions of the wrong shape or outside the vocabulary. Nothing has changed.
        """
        try:
            tokens = np.asarray(actions)
        except ValueError as error:  # rows of different lengths
            raise InvalidAction(f"actions cannot be read as an array: {error}") from error
        if tokens.dtype is not INT64 or tokens.shape != self._shape:
            tokens = self._as_tokens(tokens)
        if self._other_bits is None:  # a negative number is a huge one without its sign: one comparison, both ends
            wrong = np.greater_equal(tokens.view(UINT64), self._bound)
        else:  # A is a power of two: a bit that no token has, the sign among them
            wrong = np.bitwise_and(tokens, self._other_bits)
        if not self._cohorts:
            raise ResetNeeded("step was called before reset; call envs.reset() first.")
        first = self._cohorts[0]
        if first.over or np.count_nonzero(wrong):
            self._examine(tokens, wrong != 0)
        rewards = np.zeros(self.num_envs)
        terminations, truncations = self._nowhere.copy(), self._nowhere.copy()
        infos: dict[str, Any] = {}
        if first.step < self._plain_until and first.rows is EVERY:
            self._lines.T[self._split + first.step] = tokens  # in lock-step, and a column is all that changes
            first.step += 1
            lines = self._lines.copy() if self._flat else self._observed()
            return lines, rewards, terminations, truncations, infos
        waiting = [cohort for cohort in self._cohorts if cohort.over]  # for a new start: NEXT_STEP, whatever the action
        for cohort in [cohort for cohort in self._cohorts if not cohort.over]:
            for over in self._write(cohort, tokens if cohort.rows is EVERY else tokens[cohort.rows], rewards):
                terminations[over.rows] = over.ended
                truncations[over.rows] = over.step == self.max_episode_steps
                if self.autoreset_mode is AutoresetMode.SAME_STEP:
                    self._add_final(infos, over)
                    waiting.append(over)
        for cohort in waiting:  # after the writing: an empty sequence that has yet to be written must not be joined
            self._cohorts.remove(cohort)
            self._start(cohort.rows, None)
        if self.expert_info:
            for cohort in self._cohorts:
                self._add_expert(infos, cohort, cohort.rows)
        return self._observed(), rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """One frame a sequence, as `TokenEnv.render` gives it.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self.render_mode is None:
            warn_no_render_mode(self)
            return None
        if not self._cohorts:
            raise ResetNeeded("render was called before reset; call envs.reset() first.")
        pictures = np.empty(self.num_envs, dtype=object)
        for cohort in self._cohorts:
            rows = self._numbers(cohort.rows)
            drawn = frames(self.task, self.render_mode, self._prompts(rows), self._tokens(rows, cohort.step))
            for row, picture in zip(rows, drawn):
                pictures[row] = picture
        return tuple(pictures)

    def _observed(self) -> Any:
        return observed(self.task, self._lines, self.observation)

    def action_masks(self) -> NDArray[np.bool_]:
        """``(B, A)`` which tokens may come next, as `TokenEnv.action_masks` says.

        A sequence that is over and will start anew whatever the next action is (``NEXT_STEP``) has True everywhere.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if not self._cohorts:
            raise ResetNeeded("action_masks was called before reset; call envs.reset() first.")
        masks = np.ones((self.num_envs, self.task.vocab_size), dtype=np.bool_)
        for cohort in self._cohorts:
            rows = cohort.rows
            if cohort.over and self.autoreset_mode is not AutoresetMode.DISABLED:
                continue
            masks[rows] = not cohort.ended and accepted_tokens(
                self.task, self._prompts(rows), self._tokens(rows, cohort.step)
            )
        return masks

    # -- cohorts -------------------------------------------------------------------------------------------------------

    def _start(self, rows: Rows, prompts: IntArray | None) -> _Cohort:
        """Empty sequences at these rows, in one cohort with any others that are empty."""
        task = self.task
        if prompts is None:
            prompts = self._drawn_prompts(rows)
        self._lines[rows, : self._split] = prompts
        self._lines[rows, self._split :] = task.vocab_size
        for other in self._cohorts:
            if other.step == 0:
                self._cohorts.remove(other)
                rows = np.union1d(self._numbers(other.rows), self._numbers(rows))
                prompts = self._prompts(rows)
                break
        if isinstance(rows, slice) or len(rows) == self.num_envs:
            rows = EVERY
        started = _Cohort(rows, reader=ExpertReader(task.expert, prompts) if self._reads else None)
        self._cohorts.append(started)
        return started

    def _seed(self, seed: Any, rows: Rows) -> None:
        """Seed the generator of the batch, or those of these sequences."""
        if seed is None or as_array("seed", seed).ndim == 0:
            super().reset(seed=seed)
            if seed is not None:
                for row in self._numbers(rows):
                    self._generators.pop(int(row), None)
            return
        seeds = [None if s is None else check_int(f"seed[{i}]", s, minimum=0) for i, s in enumerate(seed)]
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"seed has {len(seeds)} entries; one for each of the {self.num_envs} sequences, or a single integer, "
                "is needed."
            )
        for row in self._numbers(rows):
            if seeds[row] is not None:
                self._generators[int(row)] = seeding.np_random(seeds[row])[0]

    def _drawn_prompts(self, rows: Rows) -> IntArray:
        """``(k, P)`` prompts: one draw for the rows that share the generator, one for each that has its own."""
        if not self._generators:
            return self.task.sample_prompts(len(self._numbers(rows)), self.np_random)
        numbers = self._numbers(rows)
        own = [self._generators.get(int(row)) for row in numbers]
        prompts = np.empty((len(numbers), self._split), dtype=np.int64)
        shared = [i for i, generator in enumerate(own) if generator is None]
        if shared:
            prompts[shared] = self.task.sample_prompts(len(shared), self.np_random)
        for i, generator in enumerate(own):
            if generator is not None:
                prompts[i] = self.task.sample_prompts(1, generator)[0]
        return prompts

    def _numbers(self, rows: Rows) -> IntArray:
        return np.arange(self.num_envs)[rows]

    def _withdraw(self, mask: NDArray[np.bool_]) -> None:
        """Take the masked sequences out of their cohorts."""
        remaining = []
        for cohort in self._cohorts:
            rows = self._numbers(cohort.rows)
            stay = ~mask[rows]
            if stay.all():
                remaining.append(cohort)
            elif stay.any():
                cohort.rows = rows[stay]
                if cohort.reader is not None:
                    cohort.reader.keep(np.flatnonzero(stay))
                remaining.append(cohort)
        self._cohorts = remaining

    def _write(self, cohort: _Cohort, tokens: IntArray, rewards: FloatArray) -> list[_Cohort]:
        """One more token in each sequence of the cohort; those that are over now."""
        rows, reader, end = cohort.rows, cohort.reader, self.task.end_token
        if self.reward == "expert_log_prob":
            assert reader is not None
            rewards[rows] = np.maximum(reader.token_log_probs(tokens), self.log_prob_floor)
        self._lines[rows, self._split + cohort.step] = tokens
        cohort.step += 1
        cohort.ended = cohort.step == self.task.horizon
        over = []
        if end is not None and not cohort.ended and (tokens == end).any():
            numbers, last = self._numbers(rows), tokens == end
            over.append(_Cohort(numbers[last], cohort.step, ended=True))
            self._cohorts.insert(0, over[0])
            cohort.rows, tokens = numbers[~last], tokens[~last]
            if not len(tokens):
                self._cohorts.remove(cohort)
            elif reader is not None:
                reader.keep(np.flatnonzero(~last))
        if len(tokens) and cohort.step == self._longest:
            over.append(cohort)
        for done in over:
            rows, done.over = done.rows, True
            self._endings[rows] += 1
            self._ended[rows] = self._lines[rows]
            if done.ended:
                done.reader = None
                texts = filled(self._tokens(rows, done.step), self.task.horizon, end)
                self._ended[rows, self._split :] = texts
                if self.reward == "success":
                    rewards[rows] = self.task.success(self._prompts(rows), texts)
        if cohort.reader is not None and len(tokens):
            cohort.reader.advance(tokens)
        return over

    def _prompts(self, rows: Rows) -> IntArray:
        return self._lines[rows, : self._split].astype(np.int64)

    def _tokens(self, rows: Rows, step: int) -> IntArray:
        return self._lines[rows, self._split : self._split + step].astype(np.int64)

    # -- infos, batched as VectorEnv._add_info batches them ------------------------------------------------------------

    def _mark(self, infos: dict[str, Any], key: str, rows: Rows) -> None:
        infos.setdefault(f"_{key}", np.zeros(self.num_envs, dtype=np.bool_))[rows] = True

    def _add_expert(self, infos: dict[str, Any], cohort: _Cohort, rows: Rows) -> None:
        """The expert's law of the next token at these rows, some of the cohort's or all; zero where none follows."""
        if not self.expert_info:
            return
        probs = infos.setdefault("expert_probs", np.zeros((self.num_envs, self.task.vocab_size)))
        if cohort.reader is not None:
            law = np.exp(cohort.reader.log_probs())
            if rows is not cohort.rows:
                law = law[np.isin(self._numbers(cohort.rows), self._numbers(rows))]
            probs[rows] = law
        self._mark(infos, "expert_probs", rows)

    def _add_final(self, infos: dict[str, Any], cohort: _Cohort) -> None:
        """The last observations of a cohort that is over, and what `TokenEnv` would say of them."""
        final_obs = infos.setdefault("final_obs", np.full(self.num_envs, None, dtype=object))
        last = observed(self.task, self._lines[cohort.rows], self.observation)
        for i, row in enumerate(self._numbers(cohort.rows)):
            final_obs[row] = {k: v[i] for k, v in last.items()} if isinstance(last, dict) else last[i]
        self._add_expert(infos.setdefault("final_info", {}), cohort, cohort.rows)
        self._mark(infos, "final_obs", cohort.rows)
        self._mark(infos, "final_info", cohort.rows)

    # -- checks --------------------------------------------------------------------------------------------------------

    def _as_tokens(self, actions: NDArray[Any]) -> IntArray:
        if actions.shape != self._shape or actions.dtype.kind not in "iu":
            raise InvalidAction(
                f"actions have shape {actions.shape} and dtype {actions.dtype}; {self._shape} integers are needed."
            )
        return actions.astype(INT64)

    def _examine(self, tokens: IntArray, wrong: NDArray[np.bool_]) -> None:
        """Refuse wrong actions, except where a new start is due and the action is not read."""
        for cohort in self._cohorts:
            if cohort.over and self.autoreset_mode is AutoresetMode.DISABLED:
                rows = self._numbers(cohort.rows)
                raise ResetNeeded(
                    f"{len(rows)} sequence(s) are over (the first is number {rows[0]}) and autoreset is disabled; "
                    "call envs.reset(options={'reset_mask': terminations | truncations}) first."
                )
            if not cohort.over and wrong[cohort.rows].any():
                bad = self._numbers(cohort.rows)[wrong[cohort.rows]][0]
                raise InvalidAction(
                    f"actions[{bad}]={tokens[bad]} is not a token; integers in [0, {self.task.vocab_size - 1}] "
                    "are needed."
                )

    def _given_prompts(self, options: dict[str, Any]) -> IntArray | None:
        single, many = options.get("prompt"), options.get("prompts")
        if single is not None and many is not None:
            raise ValueError("options has both 'prompt' (one for all) and 'prompts' (one each); give one of them.")
        if single is not None:
            return np.repeat(check_prompt(single, self.task), self.num_envs, axis=0)
        if many is None:
            return None
        prompts = check_tokens("options['prompts']", many, self.task.vocab_size, width=self.task.prompt_length)
        if len(prompts) != self.num_envs:
            raise ValueError(
                f"options['prompts'] has {len(prompts)} rows; one for each of the {self.num_envs} sequences is needed."
            )
        return prompts

    def _checked_mask(self, value: ArrayLike) -> NDArray[np.bool_]:
        mask = as_array("options['reset_mask']", value)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] has shape {mask.shape}, dtype {mask.dtype} and {int(np.sum(mask != 0))} "
                f"sequences to reset; ({self.num_envs},) booleans, at least one of them True, are needed."
            )
        return mask


def _checked_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode itself, or the one of this value or name, however it is spelt."""
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if isinstance(mode, str) and mode.lower().replace("_", "") == known.value.lower():
            return known
    raise ValueError(
        f"autoreset_mode={mode!r} is not an option.{did_you_mean(str(mode), [m.value for m in AutoresetMode])}"
    )
