"""Demonstrations as episodes of `ntp_envs.TokenEnv`: what was observed, what it was worth, in which environment."""

from __future__ import annotations

import copy
import inspect
import warnings

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from ntp_envs._validation import check_generator, check_int
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.env import TokenEnv, resolve_reward
from ntp_envs.registration import environment_id
from ntp_envs.tasks.base import Task
from ntp_envs.tasks.registry import make_task, task_class, task_names

__all__ = ["drawn", "environment_spec", "episode_rewards", "known_task"]


def episode_rewards(
    task: Task, prompts: NDArray[np.int64], tokens: NDArray[np.int64], reward: str | None = None
) -> NDArray[np.float64]:
    """``(n, H)`` rewards that `TokenEnv` would have paid by this rule (by default its default for the task)."""
    rule = resolve_reward(reward, task)
    rewards = np.zeros(tokens.shape)
    if rule == "success":
        rewards[:, -1] = task.success(prompts, tokens)
    elif rule == "expert_log_prob":
        floor = inspect.signature(TokenEnv).parameters["log_prob_floor"].default
        rewards = np.maximum(task.expert.log_probs(prompts, tokens), floor)
    return rewards


def known_task(demonstrations: Demonstrations, task: Task | None) -> Task | None:
    """The task the demonstrations belong to: the one given, else the one their ``source`` names, else ``None``.

    Warns (``UserWarning``) if ``source`` names a task that cannot be rebuilt here or does not fit the data.

    Raises:
        TypeError, ValueError: ``task`` is no task, or its vocabulary, horizon or prompt length is not the data's.
    """
    if task is not None:
        if not isinstance(task, Task):
            raise TypeError(f"task={task!r} must be an ntp_envs.Task, not {type(task).__name__}.")
        if misfit := _misfit(demonstrations, task):
            raise ValueError(f"task={task} does not fit the demonstrations: {misfit}.")
        return task
    name = demonstrations.source.get("task")
    if name is None:
        return None
    try:
        if name not in task_names():  # a file must not make us import modules of its choice
            raise ValueError(f"no task of the name {name!r} is registered")
        task = make_task(name, **demonstrations.source.get("parameters", {}))
        if misfit := _misfit(demonstrations, task):
            raise ValueError(misfit)
    except (TypeError, ValueError) as error:
        warnings.warn(
            f"the environment is left out, and rewards are 0: source['task']={name!r} cannot be used ({error}). "
            "Pass task= to say which task the demonstrations belong to.",
            UserWarning,
            stacklevel=3,
        )
        return None
    return task


def environment_spec(task: Task | None) -> EnvSpec | None:
    """The Gymnasium specification that makes this very task's environment; ``None`` if its family has no id."""
    known = None if task is None else gym.registry.get(environment_id(task.name))
    if task is None or known is None or task_class(known.kwargs.get("task", "")) is not type(task):
        return None
    spec = copy.deepcopy(known)
    spec.kwargs.update(task.parameters())
    return spec


def drawn(
    demonstrations: Demonstrations, n: int | None, rng: np.random.Generator | None, library: str
) -> Demonstrations:
    """Equally weighted demonstrations: all of them, or ``n`` draws in proportion to their weights.

    Raises:
        ValueError: a draw is needed or asked for, and there is no ``rng``.
    """
    weights = demonstrations.weights
    unequal = weights is not None and bool((weights != weights[0]).any())
    if n is None and not unequal:
        return demonstrations
    if rng is None:
        why = f"the demonstrations have unequal weights, which {library} cannot use" if unequal else f"n={n} is a draw"
        raise ValueError(f"{why}; pass rng=np.random.default_rng(seed) to draw n sequences in proportion to them.")
    n = len(demonstrations) if n is None else check_int("n", n, minimum=1)
    rows = check_generator(rng).choice(len(demonstrations), size=n, p=demonstrations.normalised_weights())
    return demonstrations.subset(rows)


def _misfit(demonstrations: Demonstrations, task: Task) -> str:
    """What of the task contradicts the data; empty if nothing does."""
    return ", ".join(
        f"{name} is {getattr(task, name)} in the task and {getattr(demonstrations, name)} in the data"
        for name in ("vocab_size", "horizon", "prompt_length")
        if getattr(task, name) != getattr(demonstrations, name)
    )
