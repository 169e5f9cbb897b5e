"""What the exact and the sampled distances share: checks at the boundary, and KL terms that keep their accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_in
from ntp_envs.distances.result import METRICS
from ntp_envs.policies import Policy

if TYPE_CHECKING:
    from ntp_envs.demonstrations import Demonstrations
    from ntp_envs.tasks.base import Task

__all__ = ["check_metrics", "check_pair", "prompt_masses"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def check_metrics(metrics: Iterable[str]) -> tuple[str, ...]:
    """Known metrics without repetition, in the order given.

    Raises:
        ValueError: an unknown name (the nearest is suggested), or none at all.
    """
    names = (metrics,) if isinstance(metrics, str) else tuple(dict.fromkeys(metrics))
    if not names:
        raise ValueError(f"metrics is empty; choose from {', '.join(METRICS)}.")
    return tuple(check_in("metric", name, METRICS) for name in names)


def check_policy(name: str, policy: object, task: Task | Demonstrations) -> None:
    """One policy against a task: its type, vocabulary and horizon."""
    if not isinstance(policy, Policy):
        raise TypeError(
            f"{name} must be an ntp_envs.Policy, not {type(policy).__name__}; wrap a function in CallablePolicy."
        )
    if policy.vocab_size != task.vocab_size:
        raise ValueError(
            f"{name} has vocab_size={policy.vocab_size} and the task {task.vocab_size}; they must be equal."
        )
    if policy.horizon is not None and policy.horizon < task.horizon:
        raise ValueError(
            f"{name} is defined for at most {policy.horizon} tokens; the task's horizon is {task.horizon}. "
            "Use a policy for that horizon, or a task with a shorter one."
        )


def check_pair(p: Policy, q: Policy, task: Task) -> None:
    """Both policies against the task; raises ``TypeError`` or ``ValueError`` naming the one that does not fit."""
    check_policy("p", p, task)
    check_policy("q", q, task)


def prompt_masses(task: Task) -> tuple[IntArray, FloatArray]:
    """The prompts of positive probability ``(M, P)`` and their masses ``(M,)``; may raise ``NotTractableError``."""
    prompts, masses = task.prompt_law()
    possible = masses > 0
    return np.asarray(prompts, dtype=np.int64)[possible], np.asarray(masses, dtype=np.float64)[possible]
