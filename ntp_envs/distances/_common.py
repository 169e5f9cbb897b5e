"""What the exact and the sampled distances share: checks at the boundary, and KL terms that keep their accuracy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ntp_envs._validation import check_in
from ntp_envs.checked import check_policy
from ntp_envs.distances.result import METRICS
from ntp_envs.policies import Policy
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


def check_pair(p: Policy, q: Policy, task: Task) -> tuple[Policy, Policy]:
    """Both policies against the task, as they are to be read (`check_policy`)."""
    return check_policy("p", p, task), check_policy("q", q, task)


def prompt_masses(task: Task) -> tuple[IntArray, FloatArray]:
    """The prompts of positive probability ``(M, P)`` and their masses ``(M,)``; may raise ``NotTractableError``."""
    prompts, masses = task.prompt_law()
    possible = masses > 0
    return np.asarray(prompts, dtype=np.int64)[possible], np.asarray(masses, dtype=np.float64)[possible]
