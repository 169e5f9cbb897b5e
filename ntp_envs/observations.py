"""The format of an observation, written and read here only: spaces, the three forms, and what they say.

An observation shows one *line* of P + H numbers, the prompt and the tokens so far, the value A meaning "not yet".

* ``"multi_discrete"``: the line itself, in the smallest unsigned dtype that holds A + 1.
* ``"dict"``: its two parts, ``prompt`` (P,) and ``tokens`` (H,), coded alike; without ``prompt`` where P = 0.
* ``"one_hot"``: ``((P + H)(A + 1),)`` float32; entry ``i (A + 1) + v`` is 1 if place i of the line holds v, else 0.
  So it is what Gymnasium's ``FlattenObservation`` and stable-baselines3's preprocessing make of the line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import IntArray
from ntp_envs.checks import as_array, small_int_dtype

OBSERVATION_FORMS = ("multi_discrete", "dict", "one_hot")


class Sizes(NamedTuple):
    """All that the format depends on; a task and demonstrations have it too."""

    vocab_size: int
    horizon: int | None  # None where it is not known
    prompt_length: int | None


# Writing.


def token_space(task: Any, form: str) -> spaces.Space[Any]:
    """The observation space of one sequence."""
    size = task.vocab_size + 1  # "not yet" is one more
    length = task.prompt_length + task.horizon
    if form == "one_hot":
        return spaces.Box(0.0, 1.0, (length * size,), dtype=np.float32)
    if form == "multi_discrete":
        return _line_space(length, size)
    parts = {"prompt": _line_space(task.prompt_length, size)} if task.prompt_length else {}
    return spaces.Dict({**parts, "tokens": _line_space(task.horizon, size)})


def _line_space(length: int, size: int) -> spaces.MultiDiscrete[Any]:
    space = spaces.MultiDiscrete(np.full(length, size), dtype=small_int_dtype(size))
    space.nvec = space.nvec.astype(np.int64)  # made in dtype; others add the sizes up, which must not wrap
    return space


def empty_lines(task: Any, n: int) -> NDArray[Any]:
    """``(n, P + H)`` lines in the dtype of the observations, everything "not yet"."""
    dtype = small_int_dtype(task.vocab_size + 1)
    return np.full((n, task.prompt_length + task.horizon), task.vocab_size, dtype=dtype)


def observed(task: Any, lines: NDArray[Any], form: str) -> Any:
    """``(..., P + H)`` lines as fresh observations."""
    if form == "multi_discrete":
        return lines.copy()
    if form == "one_hot":
        out = np.zeros((*lines.shape, task.vocab_size + 1), dtype=np.float32)
        np.put_along_axis(out, lines[..., None].astype(np.int64), 1.0, axis=-1)
        return out.reshape(*lines.shape[:-1], -1)
    split = task.prompt_length
    parts = {"prompt": lines[..., :split].copy()} if split else {}
    return {**parts, "tokens": lines[..., split:].copy()}


def observe(task: Any, prompts: NDArray[np.integer], tokens: NDArray[np.integer], form: str = "multi_discrete") -> Any:
    """The observations after ``(B, P)`` prompts and ``(B, t)`` tokens, t <= H.

    >>> import numpy as np
    >>> from ntp_envs import make_task
    >>> observe(make_task("Contamination", horizon=3), np.array([[1]]), np.array([[0]])).tolist()
    [[1, 0, 2, 2]]
    """
    start, lines = task.prompt_length, empty_lines(task, len(tokens))
    lines[:, :start] = prompts
    lines[:, start : start + tokens.shape[1]] = tokens
    return observed(task, lines, form)


def episode_observations(
    prompts: NDArray[Any], tokens: NDArray[Any], vocab_size: int, form: str = "multi_discrete"
) -> Any:
    """``(n, H + 1, ...)`` observations, from the empty sequence to the complete one.

    >>> import numpy as np
    >>> episode_observations(np.array([[1]]), np.array([[0, 1]]), 2)[0].tolist()
    [[1, 2, 2], [1, 0, 2], [1, 0, 1]]
    """
    horizon, split = tokens.shape[1], prompts.shape[1]
    task = Sizes(vocab_size, horizon, split)
    lines = np.repeat(empty_lines(task, len(tokens))[:, None], horizon + 1, axis=1)  # (n, H + 1, P + H)
    lines[:, :, :split] = prompts[:, None, :]
    written = np.tri(horizon + 1, horizon, -1, dtype=bool)  # token h is there from step h + 1 on
    np.copyto(lines[:, :, split:], tokens[:, None, :], where=written, casting="unsafe")
    return lines if form == "multi_discrete" else observed(task, lines, form)


# Reading.


def observation_form(task: Any, space: spaces.Space[Any]) -> str | None:
    """The form whose observations this space holds, whatever their dtype; ``None`` if it is none of them."""
    for form in OBSERVATION_FORMS:
        if _outline(space) == _outline(token_space(task, form)):
            return form
    return None


def _outline(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _outline(part) for key, part in space.items()}
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec.tolist()
    if isinstance(space, spaces.Box):
        return space.shape, {float(end) for bounds in (space.low, space.high) for end in (bounds.min(), bounds.max())}
    return repr(space)


def split_observation(task: Any, observation: Any) -> tuple[IntArray, IntArray, IntArray]:
    """What an observation says, in whichever form, single or batched, of NumPy or tensors.

    Args:
        task: a task, demonstrations, or `Sizes`. Where its horizon is ``None``, whole numbers are read as a line and
            floating-point ones as one-hot; where its prompt length is, the form must be a mapping.
        observation: of `ntp_envs.TokenEnv`, with any number of leading axes.

    Returns:
        prompts ``(..., P)``, tokens ``(..., H)`` with A for "not yet", and how many are written ``(...)``; int64.

    Raises:
        ValueError: not an observation of this task.

    >>> from ntp_envs import TokenEnv
    >>> env = TokenEnv("Contamination", horizon=3, observation="one_hot")
    >>> [part.tolist() for part in split_observation(env.task, env.reset(options={"prompt": [1]})[0])]
    [[1], [2, 2, 2], 0]
    """
    horizon, split = task.horizon, task.prompt_length
    if isinstance(observation, Mapping):
        tokens = as_numpy(observation["tokens"])
        prompts = as_numpy(observation.get("prompt", tokens[..., :0]))  # no key where P = 0
        if prompts.shape[-1] != (prompts.shape[-1] if split is None else split):
            raise ValueError(f"the observation has a prompt of shape {prompts.shape}; (..., {split}) is needed.")
        split, lines = prompts.shape[-1], np.concatenate([prompts, tokens], axis=-1)
    else:
        lines = as_numpy(observation)
    if split is None:
        raise ValueError(
            "an observation cannot be split into prompt and tokens: prompt_length is None. "
            "Set it (policy.prompt_length = task.prompt_length), or use observation='dict'."
        )
    lines = _lines(lines, task.vocab_size, None if horizon is None else split + horizon)
    prompts, tokens = lines[..., :split], lines[..., split:]
    return prompts, tokens, (tokens < task.vocab_size).sum(axis=-1)


def prompts_of(observation: Any, prompt_length: int, read: Callable[[Any], ArrayLike] | None) -> ArrayLike:
    """``(..., P)`` prompts at the start of an episode, of an environment of others too, which ``read`` may know."""
    if read is not None:
        return read(observation)
    if prompt_length == 0:
        return np.zeros(0, dtype=np.int64)
    array = as_numpy(observation.get("prompt", "no prompt") if isinstance(observation, Mapping) else observation)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"the observation does not begin with {prompt_length} prompt tokens (its dtype is {array.dtype}); give "
            "read_prompt=, a function from observation to tokens."
        )
    return array[..., :prompt_length]


def _lines(array: NDArray[Any], vocab_size: int, length: int | None) -> IntArray:
    """``(..., P + H)`` int64 lines from themselves or from one-hot ones."""
    size, width = vocab_size + 1, array.shape[-1]
    if width == length if length is not None else array.dtype.kind in "iu":
        lines = array.astype(np.int64)
        if lines.size and (lines.min() < 0 or lines.max() > vocab_size or (lines != array).any()):
            raise ValueError(f"the observation has entries that are not whole numbers in [0, {vocab_size}].")
        return lines
    if width % size or width != (width if length is None else length * size):
        wanted = "whole numbers, or one-hot," if length is None else f"(..., {length}), or (..., {length * size}),"
        raise ValueError(f"the observation has shape {array.shape} and dtype {array.dtype}; {wanted} is needed.")
    places = array.reshape(*array.shape[:-1], -1, size)
    if not ((places == 0) | (places == 1)).all() or not (places.sum(axis=-1) == 1).all():
        raise ValueError(
            "the observation is not one-hot: each place of the line must have a single 1 and 0 elsewhere. If these "
            "are tokens themselves, use whole numbers (.astype(int))."
        )
    return places.argmax(axis=-1)


def as_numpy(array: Any) -> NDArray[Any]:
    """An array or tensor, wherever it is, as a NumPy array."""
    return as_array("array", array.detach().cpu() if hasattr(array, "detach") else array)
