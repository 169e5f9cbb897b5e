"""One token sequence as a Gymnasium environment, a thin shell over a task, and pictures of it."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray, filled
from ntp_envs.checks import as_array, check_in, check_keywords, check_names, check_real, check_tokens, keywords_of
from ntp_envs.observations import OBSERVATION_FORMS, empty_lines, observed, token_space
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task
from ntp_envs.tasks.registry import make_task, task_class

REWARDS = ("success", "expert_log_prob", "none")
RENDER_MODES = ("ansi", "rgb_array")


class TokenEnv(gym.Env[Any, Any]):
    """Write one sequence of H tokens, one token a step, where an expert would have written it its own way.

    ## Description
    The state is a prompt of P tokens and the tokens written so far; an action appends the next token; nothing else
    moves. The task (see `ntp_envs.task_names`) gives the prompt law, the expert, the policy class and, for some
    families, a notion of success. The environment itself knows nothing of any particular task.

    ## Action Space
    ``Discrete(A)``: the next token.

    ## Observation Space
    ``MultiDiscrete([A + 1] * (P + H))`` in the smallest unsigned dtype that holds A + 1: the prompt, then the tokens
    so far, the value A meaning "not yet". With ``observation="dict"``: ``Dict`` of ``prompt`` (P,) and ``tokens``
    (H,), coded alike; a task without a prompt (P = 0) has only ``tokens``. With ``observation="one_hot"``, for learners
    that take vectors only: ``Box(0, 1, ((P + H)(A + 1),), float32)``, entry ``i (A + 1) + v`` being 1 where place i of
    the first form holds v. `ntp_envs.observations.split_observation` reads all of them. Every returned array is a
    fresh copy.

    ## Starting State
    A prompt drawn from the task's prompt law with ``self.np_random``, or ``reset(options={"prompt": ...})``, (P,)
    tokens; no tokens written.

    ## Rewards
    * ``"success"`` (default where the task has one): the task's success in [0, 1] at the last token, 0 before.
    * ``"expert_log_prob"`` (default elsewhere): the expert's log-probability of the token, in nats, at each step, but
      at least ``log_prob_floor``, so that a token the expert never writes has a finite reward.
    * ``"none"``: 0 always.

    ## Episode End
    The H-th token terminates the episode. It is never truncated here; ``gym.make(..., max_episode_steps=n)`` adds
    Gymnasium's ``TimeLimit``.

    ## Information
    ``expert_probs``: (A,) float64, the expert's probabilities of the next token at the state that is returned. At the
    terminal state, after which no token follows, they are all zero, so that ``info`` has one structure through an
    episode. ``expert_info=False`` leaves it out altogether.

    ## Action Masks
    ``env.unwrapped.action_masks()``, (A,) booleans by the convention of sb3-contrib's ``MaskablePPO``: the tokens after
    which the task's verifier still finds no rule broken. See `action_masks` of the class.

    ## Arguments
    ``gym.make("ntp/Contamination-v0", horizon=64, reward="expert_log_prob")``: the arguments below and the
    parameters of the task.

    ## Expert
    ``env.unwrapped.task.expert``, an `ntp_envs.Policy`. It is read incrementally, so for an automaton a step costs
    the same at every length of the prefix.

    ## Policy Class
    ``env.unwrapped.task.policy_class``: what a learner may choose from. In general the expert is not in it.

    ## What It Shows
    How far a learner's own rollouts drift from the expert's as H grows, and that the drift depends on *how* the
    learner was fitted (token by token, in chunks, on whole sequences), not only on how much data it saw. The task's
    own documentation says what each family shows.

    ## References
    Rohatgi, Block, Huang, Krishnamurthy, Foster, "Computational-Statistical Tradeoffs at the Next-Token Prediction
    Barrier: Autoregressive and Imitation Learning under Misspecification", COLT 2025, arXiv:2502.12465: generation as
    an MDP whose state is prompt and prefix.

    ## Version History
    * v0: initial version.

    Args:
        task: a task, or the name of a family.
        reward: ``"success"``, ``"expert_log_prob"`` or ``"none"``; by default as said above.
        expert_info: put the expert's probabilities in ``info``.
        observation: ``"multi_discrete"``, ``"dict"`` or ``"one_hot"``.
        log_prob_floor: least reward of a step under ``"expert_log_prob"``, at most 0, in nats.
        render_mode: ``"ansi"``, ``"rgb_array"`` or ``None``.
        **task_parameters: parameters of the family, where ``task`` is a name.

    Raises:
        TypeError: an unknown keyword (the nearest is suggested), or a value of the wrong type.
        ValueError: an unknown name of a task, reward or form, or a value out of range.

    >>> env = TokenEnv("Contamination", horizon=4)
    >>> env.reset(seed=0, options={"prompt": [1]})[0].tolist()
    [1, 2, 2, 2, 2]
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012 (Gymnasium declares it an instance variable)

    def __init__(
        self,
        task: Task | str = "Contamination",
        *,
        reward: str | None = None,
        expert_info: bool = True,
        observation: str = "multi_discrete",
        log_prob_floor: float = -20.0,
        render_mode: str | None = None,
        **task_parameters: Any,
    ) -> None:
        self.task = resolve_task(task, task_parameters, TokenEnv)
        self.reward = resolve_reward(reward, self.task)
        self.expert_info = bool(expert_info)
        self.observation = check_in("observation", observation, OBSERVATION_FORMS)
        self.log_prob_floor = check_real("log_prob_floor", log_prob_floor, maximum=0.0)
        self.render_mode = None if render_mode is None else check_in("render_mode", render_mode, RENDER_MODES)
        self.observation_space = token_space(self.task, self.observation)
        self.action_space = spaces.Discrete(self.task.vocab_size)
        self._reads = self.expert_info or self.reward == "expert_log_prob"
        self._reader: ExpertReader | None = None
        self._line = empty_lines(self.task, 1)[0]  # (P + H,) prompt and tokens, as observed
        self._step = -1  # tokens written; -1 before the first reset
        self._number = 0  # of the current sequence, counted by resets
        self._over = False  # whether it has its last token
        self._previous = self._line[:0]  # prompt and tokens of the sequence before, as far as it was written

    @property
    def prompt(self) -> IntArray:
        """``(P,)`` prompt of the current episode."""
        return self._line[: self.task.prompt_length].astype(np.int64)

    @property
    def tokens(self) -> IntArray:
        """``(t,)`` tokens written so far."""
        start = self.task.prompt_length
        return self._line[start : start + max(self._step, 0)].astype(np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new sequence.

        Args:
            seed: of ``self.np_random``, the only source of randomness.
            options: ``prompt``, (P,) tokens, instead of a draw.

        Raises:
            ValueError, TypeError: an unknown option, or a prompt of the wrong length or outside the vocabulary.
        """
        check_options(options, ("prompt",))
        fixed = None if options is None else options.get("prompt")
        prompts = None if fixed is None else check_prompt(fixed, self.task)
        super().reset(seed=seed)
        if prompts is None:
            prompts = self.task.sample_prompts(1, self.np_random)
        self._previous = self._line_so_far()
        self._number += 1
        self._line = empty_lines(self.task, 1)[0]
        self._line[: self.task.prompt_length] = prompts[0]
        self._reader = ExpertReader(self.task.expert, prompts) if self._reads else None
        self._step, self._over = 0, False
        return observed(self.task, self._line, self.observation), self._info()

    def action_masks(self) -> NDArray[np.bool_]:
        """``(A,)`` which tokens may come next: those after which ``task.verify`` accepts the sequence.

        A task without a verifier has no rule to break, and all are True. Where the verifier accepts none, all are
        False: after a broken rule or in a dead end (a verifier knows rules, not plans, so masked tokens may lead
        there), and at the terminal state. `step` takes any token all the same. Costs one `Task.verify` of A prefixes.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._step < 0:
            raise ResetNeeded("action_masks was called before reset; call env.reset() first.")
        if self._over:
            return np.zeros(self.task.vocab_size, dtype=np.bool_)
        return accepted_tokens(self.task, self.prompt[None], self.tokens[None])[0]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Append one token. The sequence is over after H of them, or after the end token of a task that has one.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, or after the last token.
            gymnasium.error.InvalidAction: an action outside ``Discrete(A)``.
        """
        task = self.task
        if self._step < 0 or self._over:
            raise ResetNeeded(
                "step was called before reset; call env.reset() first."
                if self._step < 0
                else f"the sequence has all its {self._step} tokens; call env.reset() to start another."
            )
        token = as_token(action)
        if not 0 <= token < task.vocab_size:
            raise InvalidAction(
                f"action={action!r} is not a token; an integer in [0, {task.vocab_size - 1}] is needed."
            )
        reward = 0.0
        if self.reward == "expert_log_prob":
            assert self._reader is not None
            reward = max(float(self._reader.token_log_probs(np.array([token]))[0]), self.log_prob_floor)
        self._line[task.prompt_length + self._step] = token
        self._step += 1
        self._over = self._step == task.horizon or token == task.end_token
        if self._over:
            self._reader = None
            if self.reward == "success":
                reward = float(task.success(self.prompt[None], self._line_so_far()[None, task.prompt_length :])[0])
        elif self._reader is not None:
            self._reader.advance(np.array([token]))
        return observed(task, self._line, self.observation), reward, self._over, False, self._info()

    def render(self) -> Any:
        """The tokens so far against the expert's probabilities: a string, or a ``(160, 640, 3)`` uint8 array.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self.render_mode is None:
            warn_no_render_mode(self)
            return None
        if self._step < 0:
            raise ResetNeeded("render was called before reset; call env.reset() first.")
        return frames(self.task, self.render_mode, self.prompt[None], self.tokens[None])[0]

    def _line_so_far(self) -> IntArray:
        """``(P + t,)`` prompt and tokens; all ``P + H`` of a text that has ended."""
        line = self._line[: self.task.prompt_length + max(self._step, 0)].astype(np.int64)
        return filled(line, len(self._line), self.task.end_token) if self._over else line

    def _line_of(self, number: int) -> IntArray:
        """``(P + t,)`` prompt and tokens of the sequence of this ``_number``: the current one, or the last.

        Raises:
            LookupError: another one, which is forgotten.
        """
        if self._number - number not in (0, 1):
            raise LookupError(
                f"sequence {number} of the environment is forgotten, {self._number} has begun: something between was "
                "reset more than once in a step. Put the wrapper that records below it."
            )
        if number == self._number:
            return self._line_so_far()
        return self._previous

    def _info(self) -> dict[str, Any]:
        if not self.expert_info:
            return {}
        if self._reader is None:  # the terminal state
            return {"expert_probs": np.zeros(self.task.vocab_size)}
        return {"expert_probs": np.exp(self._reader.log_probs()[0])}


_OWN_ARGUMENTS = keywords_of(TokenEnv)


class ExpertReader:
    """The expert reading a batch of sequences as they are written; each law is computed once, when first asked for."""

    def __init__(self, expert: Policy, prompts: IntArray) -> None:
        self._cursor = expert.cursor(prompts)
        self._rows: IntArray | None = None  # which of the cursor's sequences are still read; None for all
        self._log_probs: FloatArray | None = None

    def log_probs(self) -> FloatArray:
        """``(B, A)`` log-probabilities of the next token."""
        if self._log_probs is None:
            log_probs = self._cursor.log_probs()
            self._log_probs = log_probs if self._rows is None else log_probs[self._rows]
        return self._log_probs

    def token_log_probs(self, tokens: IntArray) -> FloatArray:
        """``(B,)`` log-probabilities of these next tokens; the laws are not computed for it."""
        if self._log_probs is None and self._rows is None:
            return self._cursor.token_log_probs(tokens)
        return self.log_probs()[np.arange(len(tokens)), tokens]

    def keep(self, rows: IntArray) -> None:
        """Read on only these sequences."""
        self._rows = rows if self._rows is None else self._rows[rows]
        self._log_probs = None if self._log_probs is None else self._log_probs[rows]

    def advance(self, tokens: IntArray) -> None:
        """Each sequence followed by its ``(B,)`` next token."""
        rows = self._rows
        self._cursor = self._cursor.advance(tokens) if rows is None else self._cursor.branch(rows, tokens)
        self._rows = self._log_probs = None


# What the vector environment checks and asks in the same way.


def resolve_task(task: Task | str, parameters: Mapping[str, Any], constructor: type) -> Task:
    """The task itself, or the one built from a family's name and parameters, which ``constructor`` was given."""
    if not isinstance(task, Task | str):
        raise TypeError(f"task={task!r} must be an ntp_envs.Task or the name of a family, not {type(task).__name__}.")
    family = task_class(task) if isinstance(task, str) else type(task)
    fields = [field.name for field in dataclasses.fields(family) if field.init]  # type: ignore[arg-type]
    call = f"{constructor.__name__}({family.__name__!r}, ...)"
    check_keywords(call, parameters, {*fields, *keywords_of(constructor)})
    if isinstance(task, str):
        return make_task(task, **parameters)
    if parameters:
        raise ValueError(
            f"{', '.join(map(repr, parameters))} cannot be set on a task that is already built; give the family's "
            f"name instead (task={task.name!r}), or build the task with other parameters."
        )
    return task


def resolve_reward(reward: str | None, task: Task) -> str:
    """The reward rule, by default success where the task has it."""
    if reward is None:
        return "success" if task.has_success else "expert_log_prob"
    if check_in("reward", reward, REWARDS) == "success" and not task.has_success:
        raise ValueError(f"reward='success': {task.name} has no notion of success; use 'expert_log_prob' or 'none'.")
    return reward


def as_token(action: Any) -> int:
    """An action as an integer; -1 if it is none. Truth values are not numbers here, of Python, NumPy or a tensor."""
    if isinstance(action, np.integer) or type(action) is int:
        return int(action)
    try:
        return -1 if "bool" in str(getattr(action, "dtype", type(action))) else operator.index(action)
    except TypeError:
        return -1


def accepted_tokens(task: Task, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.bool_]:
    """``(B, A)`` which next tokens after ``(B, P)`` prompts and ``(B, t)`` tokens the task's verifier accepts."""
    shape = len(tokens), task.vocab_size
    if tokens.shape[1] == task.horizon or not task.has_verifier:
        return np.full(shape, tokens.shape[1] < task.horizon)
    following = np.tile(np.arange(task.vocab_size), len(tokens))
    longer = np.concatenate([np.repeat(tokens, task.vocab_size, axis=0), following[:, None]], axis=1)
    return np.asarray(task.verify(np.repeat(prompts, task.vocab_size, axis=0), longer), dtype=bool).reshape(shape)


def check_options(options: Mapping[str, Any] | None, known: Iterable[str]) -> None:
    """Refuse options that would be ignored: a misspelt one would mean another prompt than was asked for."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options={options!r} must be a mapping, such as {{'prompt': [0, 1]}}, or None.")
    check_names("reset has no option", options or (), known)


def check_prompt(prompt: ArrayLike, task: Task) -> IntArray:
    """The reset option ``prompt`` as ``(1, P)`` tokens."""
    array = as_array("options['prompt']", prompt)
    if array.shape != (task.prompt_length,):
        raise ValueError(f"options['prompt'] has shape {array.shape}; ({task.prompt_length},) is needed.")
    return check_tokens("options['prompt']", array[None], task.vocab_size)


def warn_no_render_mode(env: Any) -> None:
    """Gymnasium's own warning for `render` without a render mode."""
    name = "this environment" if env.spec is None else env.spec.id
    gym.logger.warn(
        f"render was called on {name} without a render mode; choose one when it is made, "
        "for example render_mode='rgb_array'."
    )


# Pictures of a sequence against the expert's probabilities, so that the place where it diverges is seen.

Image = NDArray[np.uint8]

WIDTH, HEIGHT = 640, 160  # pixels, whatever the horizon
TOKEN_ROWS = slice(8, 56)  # a strip of cells coloured by token
BAR_ROWS = slice(64, 152)  # under each token, the expert's probability of it
TOKENS_A_LINE = 16  # of text

WHITE, PAPER, INK = (255, 255, 255), (236, 236, 236), (40, 40, 40)
EXPECTED, SURPRISE = (0, 114, 178), (213, 94, 0)
PALETTE = [  # Okabe & Ito's, told apart by everybody; two colours for the two tokens of most tasks first
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (110, 110, 110),
]


def frames(task: Task, mode: str, prompts: IntArray, tokens: IntArray) -> list[Any]:
    """One frame a sequence.

    Args:
        task: gives vocabulary, horizon and expert.
        mode: ``"ansi"`` for a string, ``"rgb_array"`` for a ``(160, 640, 3)`` uint8 array.
        prompts: ``(B, P)`` tokens.
        tokens: ``(B, t)`` tokens, t <= H.
    """
    log_probs = task.expert.log_probs(prompts, tokens)  # (B, t)
    if mode == "rgb_array":
        return [_picture(task, *sequence) for sequence in zip(prompts, tokens, np.exp(log_probs))]
    following: list[FloatArray | None] = [None] * len(tokens)
    if tokens.shape[1] < task.horizon:
        following = list(np.exp(task.expert.next_log_probs(prompts, tokens)))
    return [_text(task, *sequence) for sequence in zip(prompts, tokens, log_probs, following)]


def _text(task: Task, prompt: IntArray, tokens: IntArray, log_probs: FloatArray, following: FloatArray | None) -> str:
    lines = [f"{task.name}: token {len(tokens)} of {task.horizon}, prompt {' '.join(map(str, prompt)) or '(none)'}"]
    for start in range(0, len(tokens), TOKENS_A_LINE):
        part = slice(start, start + TOKENS_A_LINE)
        lines.append("token " + "".join(f"{token:>7d}" for token in tokens[part]))
        lines.append("expert" + "".join(f"{prob:>7.2g}" for prob in np.exp(log_probs[part])))
    lines.append(f"log-probability under the expert: {log_probs.sum():.4g} nats")
    if following is not None:
        likely = np.argsort(-following.round(9), kind="stable")  # equal ones in order[:8]
        more = " ..." if len(following) > len(likely) else ""
        lines.append("next: " + ", ".join(f"{token} ({following[token]:.2g})" for token in likely) + more)
    return "\n".join(lines)


def _picture(task: Task, prompt: IntArray, tokens: IntArray, probs: FloatArray) -> Image:
    """Cells for prompt and tokens; below, blue up to the expert's probability of the token and vermilion above it."""
    image = np.full((HEIGHT, WIDTH, 3), WHITE, dtype=np.uint8)
    split, length = len(prompt), len(prompt) + task.horizon
    known = np.concatenate([prompt, tokens])
    surprise = np.zeros(length)  # which position a column shows, if it stands for several
    surprise[: len(known)] = 1.0
    surprise[split : len(known)] += 1.0 - probs
    shown = _shown(surprise, WIDTH)  # (WIDTH,) positions

    colours = np.full((length, 3), PAPER, dtype=np.uint8)
    colours[: len(known)] = _palette(task.vocab_size)[known]
    image[TOKEN_ROWS] = colours[shown]

    bars = np.zeros(length)
    bars[split : len(known)] = probs
    height = BAR_ROWS.stop - BAR_ROWS.start
    level = np.arange(height, 0, -1)[:, None]  # pixels above the foot of the bar
    written = (shown >= split) & (shown < len(known))
    body = np.where((level <= np.rint(bars[shown] * height))[:, :, None], EXPECTED, SURPRISE)
    image[BAR_ROWS] = np.where(written[None, :, None], body, PAPER)
    image[BAR_ROWS, shown < split] = WHITE

    if length * 4 <= WIDTH:  # room for gaps between the cells
        image[:, 1:][:, shown[1:] != shown[:-1]] = WHITE
    if split:
        image[:, np.searchsorted(shown, split) - 1] = INK  # where the prompt ends
    return image


def _shown(priority: FloatArray, width: int) -> IntArray:
    """For each of ``width`` columns, the position it shows: of those that fall in it, the one of highest priority."""
    length = len(priority)
    starts = np.arange(width + 1) * length // width
    if length <= width:
        return starts[:-1]
    return np.array([a + int(np.argmax(priority[a:b])) for a, b in pairwise(starts)])


def _palette(vocab_size: int) -> NDArray[np.uint8]:
    """``(A, 3)`` colours: the fixed ones, then hues a golden ratio apart."""
    extra = max(vocab_size - len(PALETTE), 0)
    hue = (np.arange(extra) * 0.6180339887) % 1.0
    wheel = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1  # hue to red, green, blue
    vivid = (np.clip(wheel, 0, 1) * 170 + 50).astype(np.uint8)
    return np.concatenate([np.array(PALETTE, dtype=np.uint8), vivid])[:vocab_size]
