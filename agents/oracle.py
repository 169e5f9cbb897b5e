"""The oracle: what a learner that could see the expert's law would return."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.base import Agent, FitReport
from ntp_envs import Demonstrations, Policy, PolicyClass, Task

__all__ = ["BestInClass"]


class BestInClass(Agent):
    """Returns the best in class of its task, whatever the demonstrations: the reference that has C_apx = 1.

    Not a learner: it is told the task, and with it the expert. Its report's ``objective`` is the squared Hellinger
    distance ``2 (1 - BC)`` to the expert at the full horizon, in [0, 2]. (`ntp_envs.BestInClass` is the record that
    ``task.best_in_class()`` returns; this is the agent.)

    Args:
        task: the `ntp_envs.Task` whose best in class is wanted.

    Raises:
        ValueError: on `fit`, a policy class or a horizon other than the task's.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=16)
    >>> BestInClass(task).fit(task.population(), task.policy_class).policy_.theta
    1e-05
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return 0

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        if not isinstance(self.task, Task):
            raise TypeError(f"task={self.task!r} must be an ntp_envs.Task; build one with ntp_envs.make_task.")
        if demonstrations.horizon != self.task.horizon:
            raise ValueError(
                f"the demonstrations have {demonstrations.horizon} tokens, the task {self.task.horizon}; the best in "
                "class depends on the horizon."
            )
        ours, theirs = _outline(self.task.policy_class), _outline(policy_class)
        if ours != theirs:
            raise ValueError(
                f"the oracle knows the best in the class of its task, {ours}, not in {theirs}; fit it with "
                "task.policy_class."
            )
        best = self.task.best_in_class()
        details = {"objective": "squared Hellinger distance to the expert", "method": best.method}
        return best.policy, FitReport(objective=best.hellinger2, gap=best.tolerance, details=details)


def _outline(policy_class: PolicyClass) -> dict[str, Any]:
    """The type of a class and its numbers and names, to tell classes apart without comparing all their members."""
    plain = {k: v for k, v in vars(policy_class).items() if v is None or isinstance(v, bool | int | float | str)}
    return {"class": type(policy_class).__name__, **plain}
